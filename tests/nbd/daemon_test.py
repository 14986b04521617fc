#!/usr/bin/env python3
"""volumed as its operators see it: crashes, stops, wrong starts, many volumes, huge volumes."""
import ctypes
import json
import os
import re
import resource
import shutil
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

import grpc  # python3-grpcio
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
            h = connect(daemon, "vol")
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
            d.cvol("volume", "create", "vol", "--size", "16MiB")
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
                h = connect(d, "vol")
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
            d.cvol("volume", "create", "vol", "--size", "256MiB")
            load = subprocess.Popen(
                ["fio", "--name=l", "--ioengine=nbd", f"--uri={d.uri('vol')}", "--rw=randwrite",
                 "--bs=4k", "--iodepth=32", "--size=256M", "--time_based", "--runtime=30"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1.5)
            took = d.stop(within=5)
            load.kill()
            load.wait()
            print(f"stopped in {took:.2f} s")
            d.start()
            run("qemu-img", "info", d.uri("vol"))


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
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            d.stop()
            label = d.data / "disks/default/label"
            good = label.read_bytes()
            # Both copies, with checksums that hold: a bad checksum would be damage.
            xxhash = ctypes.CDLL("libxxhash.so.0")
            xxhash.XXH3_64bits.restype = ctypes.c_uint64
            newer = good[:8] + b"\x63" + good[9:4088]
            newer += xxhash.XXH3_64bits(newer, len(newer)).to_bytes(8, "little")
            label.write_bytes(newer * 2)
            self.refused(d, "version")
            label.write_bytes(good)
            d.start()
            self.assertIn("vol", d.cvol("volume", "ls").stdout)

    def test_a_damaged_label_is_refused_and_left_alone(self):
        with Daemon() as d:
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            run("qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", d.uri("vol"))
            d.stop()
            label = d.data / "disks/default/label"
            good = label.read_bytes()
            one = good[:60] + b"\xff" + good[61:]
            both = one[:4096] + one[:4096]
            label.write_bytes(both)
            self.refused(d, "checksum")
            self.assertEqual(label.read_bytes(), both)
            label.write_bytes(one)  # the other copy will do
            d.start()
            self.assertEqual(label.read_bytes(), good)
            out = run("qemu-io", "-f", "raw", "-c", "read -P 9 0 1M", d.uri("vol")).stdout
            self.assertNotIn("failed", out)

    def test_a_damaged_table_is_refused_and_left_alone(self):
        with Daemon() as d:
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            d.stop()
            copies = [d.data / "disks/default" / name / "CURRENT" for name in ("table", "table2")]
            good = [current.read_bytes() for current in copies]
            for current in copies:
                current.write_bytes(b"nonsense\n")
            self.refused(d, "table")
            copies[1].write_bytes(good[1])  # the other copy will do, and the first is made anew
            d.start()
            self.assertIn("vol", d.cvol("volume", "ls").stdout)
            d.stop()
            copies[1].write_bytes(b"nonsense\n")
            d.start()
            self.assertIn("vol", d.cvol("volume", "ls").stdout)

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


class DisksThatMove(unittest.TestCase):
    """Copies of disks and data directories, and file systems that are full at the start."""

    def write(self, d, byte):
        handle = connect(d, "vol")
        handle.pwrite(byte * 4096, 0)
        handle.shutdown()

    def read(self, d):
        handle = connect(d, "vol")
        got = bytes(handle.pread(4096, 0))
        handle.shutdown()
        return got

    def test_a_copy_of_a_disk_is_not_taken_for_it(self):
        with Daemon() as d:
            disk, copy = d.root / "disk", d.root / "copy"
            d.cvol("disk", "add", disk, "--capacity", "9GiB", "--journal-size", "64MiB", "--force")
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            self.write(d, b"o")
            d.stop()
            shutil.copytree(disk, copy)
            d.start()
            self.write(d, b"n")
            out = d.cvol("disk", "add", copy, "--force", check=False)
            self.assertNotEqual(out.returncode, 0)
            self.assertIn("copy of disk", out.stdout)
            d.stop()
            disk.rename(d.root / "aside")
            copy.rename(disk)
            d.start()
            self.assertIn("older copy", d.cvol("disk", "ls").stdout + d.cvol("status").stdout)
            ident = next(e["id"] for e in d.json("disk", "ls") if e["path"] == str(disk))
            d.cvol("disk", "move", ident, d.root / "aside")
            self.assertEqual(self.read(d), b"n" * 4096)

    def test_a_copied_data_directory_has_disks_of_its_own(self):
        with Daemon() as d:
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            self.write(d, b"p")
            d.stop()
            original = d.data
            d.data = d.root / "restored"
            shutil.copytree(original, d.data)
            d.start()
            self.write(d, b"T")
            d.stop()
            d.data = original
            d.start()
            self.assertEqual(self.read(d), b"p" * 4096)
            d.stop()
            d.data = d.root / "moved"
            original.rename(d.data)
            d.start()
            self.assertEqual(self.read(d), b"p" * 4096)

    def test_the_records_outlive_a_damaged_store(self):
        with Daemon() as d:
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            self.write(d, b"r")
            d.stop()
            self.assertIn(b'"vol"', (d.data / "metadata.copy").read_bytes())
            (d.data / "meta/CURRENT").write_bytes(b"nonsense")
            d.start(wait=False)
            self.assertNotEqual(d.process.wait(timeout=30), 0)
            self.assertIn("metadata.copy", d.log.read_text()[-2000:])
            (d.data / "meta").rename(d.root / "broken")
            d.start()
            self.assertEqual(self.read(d), b"r" * 4096)
            self.assertEqual(len(d.json("disk", "ls")), 1)

    @unittest.skipUnless(os.geteuid() == 0, "a file system of its own needs root")
    def test_a_disk_on_a_full_file_system_comes_when_there_is_room(self):
        with Daemon() as d:
            image, folder = d.root / "image", d.root / "mounted"
            folder.mkdir()
            run("truncate", "-s", "700M", image)
            run("mkfs.ext4", "-q", image)
            run("mount", "-o", "loop", image, folder)
            try:
                d.cvol("disk", "add", folder / "d", "--capacity", "300MiB", "--journal-size", "16MiB")
                ident = next(e["id"] for e in d.json("disk", "ls") if "mounted" in e["path"])
                d.cvol("volume", "create", "first", "--size", "16MiB")
                d.kill()
                run("fallocate", "-l", "1G", folder / "others", check=False)
                run("dd", "if=/dev/zero", f"of={folder}/more", "bs=4k", check=False)
                d.start()
                for name in ("others", "more"):
                    (folder / name).unlink(missing_ok=True)
                deadline = time.monotonic() + 90
                while True:
                    state = next(e["state"] for e in d.json("disk", "ls") if e["id"] == ident)
                    if state == "ok":
                        break
                    self.assertLess(time.monotonic(), deadline, state)
                    time.sleep(0.5)
                self.assertNotIn("damaged", d.cvol("volume", "ls").stdout)
                d.stop()
            finally:
                if d.process.poll() is None:
                    d.kill()
                run("umount", folder)


class Watching(unittest.TestCase):
    def test_metrics_and_health(self):
        port = free_port()
        with Daemon("--http", f"127.0.0.1:{port}") as d:
            d.cvol("volume", "create", "vm", "--size", "64MiB")
            run("qemu-io", "-f", "raw", "-c", "write 0 1M", "-c", "read 0 64k", d.uri("vm"))
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
            self.assertEqual(values['cvol_volume_written_bytes_total{volume="vm"}'], 1 << 20)
            self.assertEqual(values['cvol_volume_read_bytes_total{volume="vm"}'], 1 << 16)
            self.assertEqual(values['cvol_volume_size_bytes{volume="vm"}'], 64 << 20)
            with self.assertRaises(urllib.error.HTTPError):
                urllib.request.urlopen(base + "/nothing", timeout=5)

    def test_grpc_health_and_reflection(self):
        with Daemon() as d, grpc.insecure_channel(f"unix:{d.run_dir}/api.sock") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            serving = bytes([1 << 3, 1])  # field 1: SERVING
            self.assertEqual(check(b"", timeout=10), serving)
            name = b"cvol.v1.Cvol"
            self.assertEqual(check(bytes([1 << 3 | 2, len(name)]) + name, timeout=10), serving)
            with self.assertRaises(grpc.RpcError) as refused:
                check(bytes([1 << 3 | 2, 1]) + b"x", timeout=10)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.NOT_FOUND)
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
            with self.assertRaises(grpc.RpcError) as refused:
                list(watch(b"", timeout=10))
            self.assertEqual(refused.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
            reflect = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            listing = bytes([7 << 3 | 2, 0])  # list_services
            answer = next(iter(reflect(iter([listing]), timeout=10)))
            for service in (b"cvol.v1.Cvol", b"grpc.health.v1.Health"):
                self.assertIn(service, answer)

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

    def test_events_outlive_a_kill_and_are_filtered(self):
        with Daemon() as d:
            d.cvol("volume", "create", "kept", "--size", "64MiB")
            d.cvol("volume", "create", "other", "--size", "64MiB")
            time.sleep(0.5)
            d.kill()
            d.start()
            told = d.cvol("events", "--kind", "volume_created", "--subject", "kept").stdout
            self.assertEqual(len(told.splitlines()), 1, told)
            self.assertIn("kept", told)
            self.assertIn("kept", d.cvol("events", "--since", "1h").stdout)
            self.assertNotEqual(d.cvol("events", "--since", "soon", check=False).returncode, 0)

    def test_followers_of_events_leave_the_api_to_others(self):
        with Daemon() as d:
            followers = [subprocess.Popen(
                [str(BIN / "cvol"), "--api", f"unix:{d.run_dir}/api.sock", "events", "-f"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(70)]
            try:
                deadline = time.monotonic() + 30
                while sum(f.poll() is not None for f in followers) < 38:
                    self.assertLess(time.monotonic(), deadline, "nobody is refused")
                    time.sleep(0.1)
                d.cvol("status", timeout=10)
                d.cvol("volume", "create", "vol", "--size", "64MiB", timeout=20)
                refused = next(f for f in followers if f.poll() is not None)
                text = refused.stdout.read()
                self.assertIn("follow", text)
                self.assertNotIn("systemctl start", text)
            finally:
                for follower in followers:
                    follower.kill()
                    follower.wait()
                    follower.stdout.close()

    def test_a_low_soft_limit_of_descriptors_is_raised(self):
        with Daemon() as d:
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            if before[1] <= 1024:
                self.skipTest("the hard limit is no higher")
            d.kill()
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
            try:
                d.start()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            soft, hard = resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE)
            self.assertEqual(soft, min(hard, 1048576))

    def test_idle_connections_keep_neither_probes_nor_local_clients_out(self):
        http, tcp = free_port(), free_port()
        with Daemon("--http", f"127.0.0.1:{http}", "--nbd-listen", f"127.0.0.1:{tcp}") as d:
            d.cvol("volume", "create", "vol", "--size", "64MiB")
            idle = []
            try:
                for port in (http, tcp):
                    for _ in range(300):
                        idle.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                for path in ("/healthz", "/readyz"):
                    with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}",
                                                timeout=5) as answer:
                        self.assertEqual(answer.status, 200)
                h = connect(d, "vol")
                h.pwrite(b"x" * 4096, 0)
                h.shutdown()
            finally:
                for connection in idle:
                    connection.close()

    def test_a_disk_that_gets_full_stands_in_status(self):
        with Daemon(capacity="128MiB") as d:
            d.cvol("volume", "create", "va", "--size", "112MiB")
            run("qemu-io", "-f", "raw", "-c", "write -P 1 0 112M", d.uri("va"))
            conditions = d.json("status")["conditions"]
            found = [c for c in conditions if c["kind"] in ("disk_nearly_full", "disk_full")]
            self.assertEqual(len(found), 1, conditions)
            self.assertTrue(found[0]["since"] and found[0]["advice"])
            text = d.cvol("status").stdout
            self.assertIn("% full", text)
            self.assertNotIn("No problems", text)

    def test_completion_scripts_are_sound(self):
        for shell in ("bash", "zsh", "fish"):
            script = run(BIN / "cvol", "completion", shell).stdout
            self.assertIn("cvol", script)
        run("bash", "-n", "-c", run(BIN / "cvol", "completion", "bash").stdout)


class Disks(unittest.TestCase):
    """Damage, scrubs and failed disks."""

    def fill(self, d, volume, mebibytes):
        h = connect(d, volume)
        for i in range(mebibytes):
            h.pwrite(bytes([1 + i % 250]) * (1 << 20), i << 20)
        h.shutdown()

    def place_of(self, d, pattern):
        """The offset of a block in file `chunks` that is full of one byte."""
        chunks = d.data / "disks/default/chunks"
        with open(chunks, "rb") as file:
            at = 0
            while True:
                data = file.read(1 << 20)
                if not data:
                    raise AssertionError("the pattern is not in file chunks")
                found = data.find(bytes([pattern]) * 4096)
                if found >= 0:
                    return at + (found + 4095) // 4096 * 4096
                at += len(data)

    def flip(self, d, offset):
        with open(d.data / "disks/default/chunks", "r+b") as file:
            file.seek(offset + 1000)
            byte = file.read(1)[0]
            file.seek(offset + 1000)
            file.write(bytes([byte ^ 16]))
            file.flush()
            os.fsync(file.fileno())

    def events(self, d):
        return d.cvol("events").stdout

    def scrub_of(self, d):
        return d.json("disk", "ls")[0]["scrub"]

    def test_a_scrub_finds_a_flipped_bit_and_writing_mends_it(self):
        with Daemon() as d:
            self.assertIn("never", d.cvol("disk", "ls").stdout)
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            self.fill(d, "vol", 8)
            disk = d.json("disk", "ls")[0]
            out = d.cvol("disk", "scrub", disk["id"][:8], "--wait", "--rate", "1GiB/s").stdout
            self.assertIn("no damage", out)
            self.assertIn("just now, clean", d.cvol("disk", "ls").stdout)
            self.flip(d, self.place_of(d, 4))  # the block at 3 MiB
            out = d.cvol("disk", "scrub", disk["path"], "--wait", "--rate", "1GiB/s", check=False)
            self.assertEqual(out.returncode, 1, out.stdout)
            self.assertIn(f"volume vol, offset {3 << 20}", out.stdout)
            self.assertIn("1 damaged", d.cvol("disk", "ls").stdout)
            scrub = self.scrub_of(d)
            self.assertEqual(scrub["completed_damaged_blocks"], 1)
            self.assertEqual(scrub["damage"][0]["volume"], "vol")
            events = self.events(d)
            self.assertRegex(events, rf"block_damaged  vol  offset {3 << 20} .*'chunks'")
            h = connect(d, "vol")
            with self.assertRaises(nbd.Error):
                h.pread(4096, 3 << 20)
            self.assertEqual(h.pread(8192, (3 << 20) + 4096), b"\4" * 8192)
            self.assertEqual(h.pread(4096, (3 << 20) - 4096), b"\3" * 4096)
            h.pwrite(b"\7" * 4096, 3 << 20)
            self.assertEqual(h.pread(4096, 3 << 20), b"\7" * 4096)
            h.shutdown()
            d.cvol("disk", "scrub", disk["path"], "--wait", "--rate", "1GiB/s")
            self.assertEqual(self.events(d).count("block_damaged"), 1)

    def test_a_scrub_goes_on_after_kill_9_and_stops_when_told(self):
        with Daemon() as d:
            d.cvol("volume", "create", "vol", "--size", "128MiB")
            self.fill(d, "vol", 128)
            path = d.json("disk", "ls")[0]["path"]
            d.cvol("disk", "scrub", path, "--rate", "2MiB/s")
            self.assertRegex(d.cvol("disk", "ls").stdout, r"running \d+ %")
            time.sleep(33)  # its position is kept every 30 s
            before = self.scrub_of(d)
            self.assertEqual(before["state"], "running")
            self.assertGreater(before["bytes"], 40 << 20)
            d.kill()
            d.start()
            after = self.scrub_of(d)
            print(f"killed at {before['bytes'] >> 20} MiB, goes on at {after['bytes'] >> 20} MiB")
            self.assertEqual(after["state"], "running")
            self.assertEqual(after["rate"], 2 << 20)
            self.assertEqual(after["started"], before["started"])
            self.assertGreater(after["bytes"], 40 << 20)
            self.assertLessEqual(after["bytes"], before["bytes"] + (4 << 20))
            d.cvol("disk", "scrub", path, "--stop")
            self.assertRegex(d.cvol("disk", "ls").stdout, r"stopped at \d+ %")
            stopped = self.scrub_of(d)["bytes"]
            d.stop()
            d.start()
            self.assertEqual(self.scrub_of(d)["bytes"], stopped)
            d.cvol("disk", "scrub", path, "--rate", "10GiB/s", "--wait")
            scrub = self.scrub_of(d)
            self.assertEqual(scrub["completed_damaged_blocks"], 0)
            self.assertGreaterEqual(scrub["completed_bytes"], 128 << 20)
            self.assertLess(scrub["bytes_total"], 90 << 20)

    def fail(self, d):
        """Marks the disk as a failed write would have done."""
        path = d.data / "disks/default/label"
        with open(path, "r+b") as label:
            label.seek(8192)
            label.write(b"no state block at all".ljust(4096, b"!"))

    def test_a_failed_disk_serves_nothing_until_it_is_verified(self):
        with Daemon() as d:
            d.cvol("volume", "create", "vol", "--size", "16MiB")
            self.fill(d, "vol", 4)
            d.stop()
            self.fail(d)
            d.start()
            disk = d.json("disk", "ls")[0]
            self.assertEqual(disk["state"], "failed")
            self.assertIn("cvol disk verify", disk["problem"])
            volume = d.json("volume", "inspect", "vol")
            self.assertEqual(volume["state"], "damaged")
            self.assertIn("has failed", volume["problem"])
            with self.assertRaises(nbd.Error):
                connect(d, "vol")
            out = d.cvol("volume", "create", "other", "--size", "16MiB", check=False)
            self.assertIn("no disk of this node works", out.stdout)
            self.assertEqual(d.cvol("disk", "scrub", disk["path"], check=False).returncode, 5)
            self.flip(d, self.place_of(d, 2))
            out = d.cvol("disk", "verify", disk["path"], check=False)
            self.assertEqual(out.returncode, 5, out.stdout)
            self.assertIn("--accept-damage", out.stdout)
            self.assertIn(f"volume vol, offset {1 << 20}", out.stdout)
            self.assertEqual(d.json("disk", "ls")[0]["state"], "failed")
            out = d.cvol("disk", "verify", disk["path"], "--accept-damage", check=False).stdout
            self.assertEqual(d.json("disk", "ls")[0]["state"], "ok", out)
            self.assertEqual(d.json("volume", "inspect", "vol")["state"], "available")
            h = connect(d, "vol")
            self.assertEqual(h.pread(4096, 0), b"\1" * 4096)
            with self.assertRaises(nbd.Error):
                h.pread(4096, 1 << 20)
            h.pwrite(b"\7" * 4096, 1 << 20)
            h.shutdown()
            self.assertIn("disk_mended", self.events(d))
            d.kill()
            d.start()
            self.assertEqual(d.json("disk", "ls")[0]["state"], "ok")
            self.assertIn("no damage", d.cvol("disk", "verify", disk["path"]).stdout)

    def test_bad_disks_rates_and_intervals_are_refused(self):
        with Daemon() as d:
            path = d.json("disk", "ls")[0]["path"]
            for arguments, code, word in (
                    (("scrub", "/no/such/disk"), 3, "cvol disk ls"),
                    (("scrub", path, "--rate", "much"), 2, "rate"),
                    (("scrub", path, "--rate", "1KiB/s"), 2, "64KiB/s"),
                    (("scrub", path, "--stop", "--wait"), 2, "--stop"),
                    (("verify", "ffff0000"), 3, "no disk")):
                out = d.cvol("disk", *arguments, check=False)
                self.assertEqual(out.returncode, code, out.stdout)
                self.assertIn(word, out.stdout)
            d.cvol("disk", "scrub", path, "--stop")
            completed = run(BIN / "cvol", "__complete", "--", "disk", "scrub", "",
                            env={**os.environ, "CVOL_API": f"unix:{d.run_dir}/api.sock"}).stdout
            self.assertEqual(completed.strip(), path)


class Volumes(unittest.TestCase):
    def test_bad_names_sizes_and_options_are_refused(self):
        with Daemon() as d:
            for arguments, word in (
                    (("../x", "--size", "1GiB"), "name"), (("a" * 129, "--size", "1GiB"), "name"),
                    (("vol", "--size", "much"), "size"), (("vol", "--size", "1"), "1"),
                    (("vol", "--size", "100PiB"), "PiB"), (("vol", "--fs", "ntfs"), "ntfs"),
                    (("vol", "--replicas", "3"), "replica")):
                out = d.cvol("volume", "create", *arguments, check=False)
                self.assertNotEqual(out.returncode, 0, arguments)
                self.assertIn(word, out.stdout)
            self.assertEqual(d.json("volume", "ls"), d.json("volume", "ls"))
            out = d.cvol("volume", "inspect", "nobody", check=False)
            self.assertEqual(out.returncode, 3)

    def test_sizes_names_and_commands_are_taken_as_people_mean_them(self):
        with Daemon() as d:
            out = d.cvol("volume", "create", "dec", "--size", "10GB").stdout
            self.assertIn("10000003072 bytes", out)
            self.assertIn("Warning:", out)
            self.assertEqual(d.json("volume", "inspect", "dec")["size_bytes"], 10000003072)
            d.cvol("volume", "create", "frac", "--size", "1.3GiB")
            out = d.cvol("volume", "create", "m", check=False)
            self.assertEqual(out.returncode, 2)
            self.assertIn("two", out.stdout)
            out = d.cvol("volume", "resize", "dec", "0", check=False)
            self.assertEqual(out.returncode, 2)
            out = d.cvol("volume", "creat", "x1", check=False)
            self.assertEqual(out.returncode, 2)
            self.assertIn("did you mean 'cvol volume create'", out.stdout)
            out = d.cvol("volume", "create", "small", "--fs", "xfs", "--size", "64MiB", check=False)
            self.assertIn("300MiB", out.stdout)
            d.cvol("volume", "modify", "dec", "--on-full", "wait")
            self.assertEqual(d.json("volume", "inspect", "dec")["on_full"], "wait")

    def test_block_status_of_a_huge_volume_passes_over_holes(self):
        with Daemon() as d:
            d.cvol("volume", "create", "huge", "--size", "1PiB")
            run("qemu-io", "-f", "raw", "-c", "write -P 5 1000T 4k", d.uri("huge"))
            out = run("nbdinfo", "--map", "--totals", d.uri("huge"), timeout=600).stdout
            self.assertIn("4096", out)

    def test_a_full_disk_refuses_and_heals(self):
        with Daemon(capacity="128MiB") as d:
            d.cvol("volume", "create", "va", "--size", "96MiB")
            d.cvol("volume", "create", "vb", "--size", "96MiB")
            run("qemu-io", "-f", "raw", "-c", "write -P 1 0 96M", d.uri("va"))
            out = run("qemu-io", "-f", "raw", "-c", "write -P 2 0 96M", d.uri("vb"), check=False)
            self.assertIn("No space", out.stdout)
            out = run("qemu-io", "-f", "raw", "-c", "read -P 1 0 96M", "-c", "write -P 3 0 96M",
                      "-c", "read -P 3 0 96M", d.uri("va")).stdout
            self.assertNotIn("failed", out)
            out = run("qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 0 64M", "-c",
                      "read -P 0 0 64M", d.uri("va")).stdout
            self.assertNotIn("failed", out)
            out = run("qemu-io", "-f", "raw", "-c", "write -P 2 0 64M", "-c", "read -P 2 0 64M",
                      d.uri("vb")).stdout
            self.assertNotIn("failed", out)
            d.cvol("volume", "rm", "va")
            out = run("qemu-io", "-f", "raw", "-c", "write -P 2 0 96M", "-c", "read -P 2 0 96M",
                      d.uri("vb")).stdout
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
