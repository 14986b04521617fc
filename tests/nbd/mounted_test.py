#!/usr/bin/env python3
"""Volumes that are mounted on this host: who else may have them, and what a user may make of them."""
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from harness import BIN, Daemon, go, request, run


def can_attach():
    return os.geteuid() == 0 and os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control")


@unittest.skipUnless(can_attach(), "needs root, /dev/fuse and /dev/loop-control")
class Mounted(unittest.TestCase):
    def setUp(self):
        self.d = Daemon("--attach-method", "fuse", journal="16MiB", capacity="512MiB")
        self.d.__enter__()
        self.addCleanup(self.end)

    def end(self):
        self.d.cvol("volume", "rm", "--force", "vol", check=False)
        self.d.__exit__(None, None, None)

    def inspect(self):
        return self.d.json("volume", "inspect", "vol")

    def info(self, name):
        found = run("nbdinfo", "--no-content", "--json", self.d.uri(name))
        return json.loads(found.stdout)["exports"][0]

    def test_a_client_reads_beside_a_mount_and_does_not_write(self):
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        target = str(self.d.root / "target")
        self.d.cvol("volume", "mount", "vol", target)
        self.assertTrue(self.info("vol")["is_read_only"])
        self.assertFalse(self.info("vol@override/1")["is_read_only"])
        connection = self.d.raw()
        connection.sendall(struct.pack(">I", 3) + go("vol") + request(0, 0, 4096)
                           + request(1, 0, 4096, cookie=2) + b"x" * 4096
                           + request(4, 0, 4096, cookie=3) + request(6, 0, 4096, cookie=4))
        answers = b""
        while answers.count(struct.pack(">I", 0x67446698)) < 4:
            answers += connection.recv(65536)
        connection.close()
        for cookie, error in ((1, 0), (2, 1), (3, 1), (4, 1)):
            self.assertIn(struct.pack(">IIQ", 0x67446698, error, cookie), answers)
        self.d.cvol("volume", "unmount", "vol", target)
        self.assertFalse(self.info("vol")["is_read_only"])

    def test_all_mounts_of_the_command_are_undone_before_a_shutdown(self):
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        target = str(self.d.root / "target")
        self.d.cvol("volume", "mount", "vol", target)
        self.d.cvol("volume", "mount", "vol")
        user = subprocess.Popen(["sleep", "2"], cwd=target)
        try:
            self.d.cvol("volume", "unmount-all")
        finally:
            user.kill()
            user.wait()
        self.assertFalse(os.path.ismount(target))
        self.assertEqual(self.inspect()["state"], "available")
        self.assertEqual(self.d.json("volume", "unmount-all"), [])

    def test_files_in_a_volume_have_no_rights_on_the_host(self):
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        target = str(self.d.root / "target")
        self.d.cvol("volume", "mount", "vol", target)
        line = [l for l in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
                if f" {target} " in l][0]
        self.assertIn("nosuid", line.split()[5])
        self.assertIn("nodev", line.split()[5])
        self.d.cvol("volume", "unmount", "vol", target)

    def test_a_link_in_the_place_of_the_users_folder_is_refused(self):
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        device = self.d.cvol("volume", "attach", "vol").stdout.strip()
        with tempfile.TemporaryDirectory() as inside:
            run("mkfs.ext4", "-q", device)
            run("mount", device, inside)
            os.symlink("/etc", f"{inside}/data")
            run("umount", inside)
        self.d.cvol("volume", "detach", "vol")
        target = str(self.d.root / "target")
        refused = self.d.cvol("volume", "mount", "vol", target, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("link", refused.stdout)
        self.assertFalse(os.path.ismount(target))
        self.assertEqual(self.inspect()["state"], "available")

    def test_a_mount_that_a_namespace_holds_is_refused_and_then_goes(self):
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        target = str(self.d.root / "target")
        self.d.cvol("volume", "mount", "vol", target)
        holder = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "1000"])
        time.sleep(1)
        try:
            refused = self.d.cvol("volume", "unmount", "vol", target, check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(f"({holder.pid})", refused.stdout)
            self.assertTrue(os.path.ismount(target))
        finally:
            holder.kill()
            holder.wait()
        self.d.cvol("volume", "unmount", "vol", target)
        self.assertEqual(self.inspect()["state"], "available")

    # Every call that waits took a thread of the API: with 64 of them nothing answered any more.
    def test_calls_on_volumes_that_hang_keep_nobody_else_waiting(self):
        names = [f"hung{number}" for number in range(4)]
        holders = []
        calls = []
        for name in names:
            self.d.cvol("volume", "create", name, "--size", "32MiB")
            self.d.cvol("volume", "attach", name)
            record = json.loads((self.d.data / "attach" / f"{name}.json").read_text())
            holders.append(int(record["holder_pid"]))
        self.d.cvol("volume", "create", "vol", "--size", "32MiB")
        try:
            for holder in holders:
                os.kill(holder, signal.SIGSTOP)
            for number in range(72):
                calls.append(subprocess.Popen(
                    [BIN / "cvol", "--api", f"unix:{self.d.run_dir}/api.sock", "volume", "mount",
                     names[number % len(names)]],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(2)
            for call in calls:  # those who asked have given up
                call.kill()
                call.wait()
            begin = time.monotonic()
            self.assertEqual(self.inspect()["name"], "vol")
            self.d.cvol("status")
            self.d.cvol("volume", "mount", "vol", self.d.root / "target")
            self.assertLess(time.monotonic() - begin, 10)
        finally:
            for holder in holders:
                os.kill(holder, signal.SIGCONT)
            self.d.cvol("volume", "unmount", "vol", self.d.root / "target", check=False)
            for name in names:
                for _ in range(60):
                    if self.d.cvol("volume", "rm", "--force", name, check=False).returncode == 0:
                        break
                    time.sleep(0.5)

    # The kernel keeps this mark when a loop device is given back, for other programs' images too.
    def test_a_device_that_was_made_read_only_is_given_back_writable(self):
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        device = self.d.cvol("volume", "attach", "vol").stdout.strip()
        mark = pathlib.Path("/sys/block", os.path.basename(device), "ro")
        self.addCleanup(run, "blockdev", "--setrw", device, check=False)
        run("blockdev", "--setro", device)
        self.assertEqual(mark.read_text().strip(), "1")
        self.d.cvol("volume", "detach", "vol")
        self.assertEqual(mark.read_text().strip(), "0")

    def test_a_device_that_others_left_read_only_is_made_writable(self):
        free = run("losetup", "--find").stdout.strip()
        self.addCleanup(run, "blockdev", "--setrw", free, check=False)
        run("blockdev", "--setro", free)
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        target = str(self.d.root / "target")
        self.d.cvol("volume", "mount", "vol", target)
        (pathlib.Path(target) / "file").write_text("written")
        self.d.cvol("volume", "unmount", "vol", target)

    def test_another_data_directory_does_not_take_the_run_directory(self):
        self.d.cvol("volume", "create", "vol", "--size", "64MiB")
        target = self.d.root / "target"
        self.d.cvol("volume", "mount", "vol", str(target))
        (target / "file").write_text("kept")
        self.d.stop()
        other = self.d.command()
        other[other.index("--data-dir") + 1] = str(self.d.root / "other")
        refused = run(*other, check=False, timeout=60)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn(str(self.d.data), refused.stdout)
        self.assertFalse((self.d.root / "other" / "node-id").exists())
        self.d.start()
        self.assertEqual((target / "file").read_text(), "kept")
        self.d.cvol("volume", "unmount", "vol", str(target))


@unittest.skipUnless(os.geteuid() == 0, "the plugin is served by root only")
class Plugin(unittest.TestCase):
    def call(self, path, method, body=b""):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(path))
            connection.sendall(f"POST /{method} HTTP/1.1\r\nHost: \r\nConnection: close\r\n"
                               f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])

    # dockerd gives a plugin 30 s when it starts its containers; etcd may take longer.
    def test_the_plugin_answers_before_the_metadata_store_does(self):
        d = Daemon("--metadata", "etcd:127.0.0.1:1", "--docker-activate", "false")
        plugin = d.root / "plugins" / "cvol.sock"
        d.flags += ["--docker-plugin-dir", str(plugin.parent)]
        try:
            d.start(wait=False)
            for _ in range(200):
                if plugin.exists():
                    break
                time.sleep(0.05)
            time.sleep(2)  # several tries to reach the store
            self.assertEqual(self.call(plugin, "Plugin.Activate"), {"Implements": ["VolumeDriver"]})
            self.assertEqual(self.call(plugin, "VolumeDriver.Capabilities", b"{}"),
                             {"Capabilities": {"Scope": "global"}})
        finally:
            d.__exit__(None, None, None)


if __name__ == "__main__":
    unittest.main(verbosity=2)
