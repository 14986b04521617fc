#!/usr/bin/env python3
"""volumed as its operators see it: crashes, stops, wrong starts, many volumes, huge volumes."""
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(__file__))
from harness import BIN, Daemon, run

import nbd  # python3-libnbd

ROUNDS = 30 if os.environ.get("CVOL_LONG") else 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(daemon, volume):
    handle = nbd.NBD()
    handle.connect_uri(daemon.uri(volume))
    return handle


class Crashes(unittest.TestCase):
    def writer(self, daemon, acknowledged, stop):
        """Writes numbered blocks until the daemon goes away; remembers what was answered."""
        number = acknowledged["next"]
        try:
            h = connect(daemon, "v")
            while not stop.is_set():
                block = number % 4096
                h.pwrite(number.to_bytes(8, "big") * 512, block * 4096)
                acknowledged[block] = number
                number += 1
        except nbd.Error:
            pass
        acknowledged["unanswered"] = number
        acknowledged["next"] = number + 1

    def test_acknowledged_writes_survive_kill_9(self):
        with Daemon() as d:
            d.cvol("volume", "create", "v", "--size", "16MiB")
            acknowledged = {"next": 1}
            for _ in range(ROUNDS):
                stop = threading.Event()
                thread = threading.Thread(target=self.writer, args=(d, acknowledged, stop))
                thread.start()
                time.sleep(0.7)
                d.kill()
                stop.set()
                thread.join()
                d.start()
                h = connect(d, "v")
                for block, number in list(acknowledged.items()):
                    if not isinstance(block, int):
                        continue
                    data = h.pread(4096, block * 4096)
                    found = int.from_bytes(data[:8], "big")
                    self.assertEqual(data, found.to_bytes(8, "big") * 512, "a torn block")
                    self.assertIn(found, (number, acknowledged["unanswered"]))
                    acknowledged[block] = found  # what was seen once stays
                h.shutdown()
            self.assertGreater(acknowledged["next"], 100 * ROUNDS)

    def test_sigterm_under_load_ends_within_five_seconds(self):
        with Daemon() as d:
            d.cvol("volume", "create", "v", "--size", "256MiB")
            load = subprocess.Popen(
                ["fio", "--name=l", "--ioengine=nbd", f"--uri={d.uri('v')}", "--rw=randwrite",
                 "--bs=4k", "--iodepth=32", "--size=256M", "--time_based", "--runtime=30"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1.5)
            took = d.stop(within=5)
            load.kill()
            load.wait()
            print(f"stopped in {took:.2f} s")
            d.start()
            run("qemu-img", "info", d.uri("v"))


class Starts(unittest.TestCase):
    def test_a_second_volumed_on_the_same_data_is_refused(self):
        with Daemon() as d:
            other = run(BIN / "volumed", "--data-dir", d.data, "--run-dir", d.root / "run2",
                        "--http", "off", "--docker-plugin-dir", "off", check=False, timeout=30)
            self.assertNotEqual(other.returncode, 0)
            self.assertIn(str(d.process.pid), other.stdout)
            d.cvol("status")

    def test_a_newer_format_is_refused_and_left_alone(self):
        with Daemon() as d:
            d.cvol("volume", "create", "v", "--size", "16MiB")
            d.stop()
            label = d.data / "disks/default/label"
            good = label.read_bytes()
            label.write_bytes(good[:8] + b"\x63" + good[9:])
            self.refused(d, "version")
            label.write_bytes(good)
            d.start()
            self.assertIn("v", d.cvol("volume", "ls").stdout)

    def test_a_damaged_label_is_refused_and_left_alone(self):
        with Daemon() as d:
            d.cvol("volume", "create", "v", "--size", "16MiB")
            run("qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", d.uri("v"))
            d.stop()
            label = d.data / "disks/default/label"
            good = label.read_bytes()
            label.write_bytes(good[:60] + b"\xff" + good[61:])
            self.refused(d, "checksum")
            label.write_bytes(good)
            d.start()
            out = run("qemu-io", "-f", "raw", "-c", "read -P 9 0 1M", d.uri("v")).stdout
            self.assertNotIn("failed", out)

    def test_a_damaged_table_is_refused_and_left_alone(self):
        with Daemon() as d:
            d.cvol("volume", "create", "v", "--size", "16MiB")
            d.stop()
            current = d.data / "disks/default/table/CURRENT"
            good = current.read_bytes()
            current.write_bytes(b"nonsense\n")
            self.refused(d, "table")
            current.write_bytes(good)
            d.start()
            self.assertIn("v", d.cvol("volume", "ls").stdout)

    def refused(self, d, word):
        """Either volumed does not start, or the disk is shown as not usable; both say why."""
        d.start(wait=False)
        time.sleep(2)
        ended = d.process.poll() is not None
        said = d.log.read_text()[-3000:] if ended else d.cvol("disk", "ls").stdout + \
            d.log.read_text()[-3000:]
        if not ended:
            d.stop()
        self.assertIn(word, said)

    def test_bad_flags_and_configuration_are_named(self):
        with Daemon() as d:
            config = d.root / "volumed.toml"
            config.write_text("no-such-key = 1\n")
            for flags, word in ((("--journal-size", "much"), "much"), (("--nonsense",), "nonsense"),
                                (("--nbd-listen", "0.0.0.0:10809"), "insecure"),
                                (("--config", config), "no-such-key"),
                                (("--log-level", "loud"), "loud")):
                out = run(BIN / "volumed", "--data-dir", d.root / "other", "--run-dir",
                          d.root / "r", "--http", "off", "--docker-plugin-dir", "off", *flags,
                          check=False, timeout=30)
                self.assertNotEqual(out.returncode, 0, flags)
                self.assertIn(word, out.stdout)


class Watching(unittest.TestCase):
    def test_metrics_and_health(self):
        port = free_port()
        with Daemon("--http", f"127.0.0.1:{port}") as d:
            d.cvol("volume", "create", "m", "--size", "64MiB")
            run("qemu-io", "-f", "raw", "-c", "write 0 1M", "-c", "read 0 64k", d.uri("m"))
            base = f"http://127.0.0.1:{port}"
            for path in ("/healthz", "/readyz"):
                with urllib.request.urlopen(base + path, timeout=5) as answer:
                    self.assertEqual(answer.status, 200)
            with urllib.request.urlopen(base + "/metrics", timeout=5) as answer:
                text = answer.read().decode()
            values = {}
            for line in text.splitlines():
                if line.startswith("#"):
                    self.assertRegex(line, r"^# (HELP|TYPE) cvol_[a-z_]+ ")
                    continue
                found = re.fullmatch(r'(cvol_[a-z_]+(?:\{[^}]*\})?) ([0-9.eE+-]+|\+Inf|NaN)', line)
                self.assertIsNotNone(found, line)
                values[found.group(1)] = float(found.group(2))
            self.assertEqual(values['cvol_volume_written_bytes_total{volume="m"}'], 1 << 20)
            self.assertEqual(values['cvol_volume_read_bytes_total{volume="m"}'], 1 << 16)
            self.assertEqual(values['cvol_volume_size_bytes{volume="m"}'], 64 << 20)
            with self.assertRaises(urllib.error.HTTPError):
                urllib.request.urlopen(base + "/nothing", timeout=5)

    def test_systemd_is_told_when_it_serves_and_when_it_stops(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "notify")
            told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            told.bind(path)
            told.settimeout(30)
            os.environ["NOTIFY_SOCKET"] = path
            try:
                with Daemon() as d:
                    self.assertIn("READY=1", told.recv(4096).decode())
                    d.stop()
                    self.assertIn("STOPPING=1", told.recv(4096).decode())
            finally:
                del os.environ["NOTIFY_SOCKET"]
                told.close()

    def test_events_are_told_as_they_happen(self):
        with Daemon() as d:
            follow = subprocess.Popen(
                [str(BIN / "cvol"), "--api", f"unix:{d.run_dir}/api.sock", "events", "-f"],
                stdout=subprocess.PIPE, text=True)
            time.sleep(0.5)
            d.cvol("volume", "create", "seen", "--size", "64MiB")
            line = ""
            while "seen" not in line:
                line = follow.stdout.readline()
                self.assertTrue(line, "the stream has ended")
            follow.kill()
            follow.wait()
            follow.stdout.close()

    def test_completion_scripts_are_sound(self):
        for shell in ("bash", "zsh", "fish"):
            script = run(BIN / "cvol", "completion", shell).stdout
            self.assertIn("cvol", script)
        run("bash", "-n", "-c", run(BIN / "cvol", "completion", "bash").stdout)


class Volumes(unittest.TestCase):
    def test_bad_names_sizes_and_options_are_refused(self):
        with Daemon() as d:
            for arguments, word in (
                    (("../x", "--size", "1GiB"), "name"), (("a" * 129, "--size", "1GiB"), "name"),
                    (("v", "--size", "much"), "size"), (("v", "--size", "1"), "1"),
                    (("v", "--size", "100PiB"), "PiB"), (("v", "--fs", "ntfs"), "ntfs"),
                    (("v", "--replicas", "3"), "replica")):
                out = d.cvol("volume", "create", *arguments, check=False)
                self.assertNotEqual(out.returncode, 0, arguments)
                self.assertIn(word, out.stdout)
            self.assertEqual(d.json("volume", "ls"), d.json("volume", "ls"))
            out = d.cvol("volume", "inspect", "nobody", check=False)
            self.assertEqual(out.returncode, 3)

    def test_a_full_disk_refuses_and_heals(self):
        with Daemon(capacity="128MiB") as d:
            d.cvol("volume", "create", "a", "--size", "96MiB")
            d.cvol("volume", "create", "b", "--size", "96MiB")
            run("qemu-io", "-f", "raw", "-c", "write -P 1 0 96M", d.uri("a"))
            out = run("qemu-io", "-f", "raw", "-c", "write -P 2 0 96M", d.uri("b"), check=False)
            self.assertIn("No space", out.stdout)
            out = run("qemu-io", "-f", "raw", "-c", "read -P 1 0 96M", "-c", "write -P 3 0 96M",
                      "-c", "read -P 3 0 96M", d.uri("a")).stdout
            self.assertNotIn("failed", out)
            d.cvol("volume", "rm", "a")
            out = run("qemu-io", "-f", "raw", "-c", "write -P 2 0 96M", "-c", "read -P 2 0 96M",
                      d.uri("b")).stdout
            self.assertNotIn("failed", out)

    def test_a_volume_of_one_pebibyte(self):
        with Daemon() as d:
            d.cvol("volume", "create", "huge", "--size", "1PiB")
            run("qemu-io", "-f", "raw", "-c", "write -P 5 1000T 4k", "-c", "read -P 5 1000T 4k",
                d.uri("huge"))
            self.assertLess(d.rss_kib(), 300 * 1024)
            d.kill()
            d.start()
            out = run("qemu-io", "-f", "raw", "-c", "read -P 5 1000T 4k", d.uri("huge")).stdout
            self.assertNotIn("failed", out)

    def test_a_thousand_idle_volumes_cost_little_and_no_cpu(self):
        with Daemon() as d:
            d.cvol("volume", "create", "first", "--size", "1GiB")
            before = d.rss_kib()
            names = [f"v{i}" for i in range(1000)]
            for name in names:
                d.cvol("volume", "create", name, "--size", "10GiB")
            each = (d.rss_kib() - before) / 1000
            print(f"{each:.1f} KiB for each idle volume")
            self.assertLess(each, 64)
            time.sleep(2)
            begin = d.cpu_seconds()
            time.sleep(5)
            used = d.cpu_seconds() - begin
            print(f"{used:.2f} s of CPU in 5 idle seconds")
            self.assertLess(used, 0.05)
            d.kill()
            d.start()
            self.assertEqual(len(d.json("volume", "ls")), 1001)


if __name__ == "__main__":
    unittest.main(verbosity=2)
