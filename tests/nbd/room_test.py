#!/usr/bin/env python3
"""What happens when room runs out: in the pool under a mounted file system, on the file system under
a data directory, and under copies of disks that hold less space than they seem to.
"""
import contextlib
import json
import os
import shutil
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from harness import Daemon, run

import nbd  # python3-libnbd

CHUNK = 64 << 10


def connect(daemon, volume):
    handle = nbd.NBD()
    handle.connect_uri(daemon.uri(volume))
    return handle


@contextlib.contextmanager
def file_system(folder, kind, size):
    """One of the test's own, mounted below `folder`."""
    image, mounted = folder / f"{kind}.image", folder / f"{kind}.mounted"
    mounted.mkdir()
    run("truncate", "-s", size, image)
    run(f"mkfs.{kind}", "-q", image)
    run("mount", "-o", "loop", image, mounted)
    try:
        yield mounted
    finally:
        run("umount", mounted)


def fill(folder):
    """Others take all of the file system; answers how to undo it."""
    names = [folder / "others", folder / "more"]
    run("fallocate", "-l", "4G", names[0], check=False)
    run("dd", "if=/dev/zero", f"of={names[1]}", "bs=1M", check=False)
    run("dd", "if=/dev/zero", f"of={names[1]}", "bs=4k", "oflag=append", "conv=notrunc", check=False)
    run("sync", "-f", folder)

    def undo():
        for name in names:
            name.unlink(missing_ok=True)
    return undo


@unittest.skipUnless(os.geteuid() == 0 and os.path.exists("/dev/fuse")
                     and os.path.exists("/dev/loop-control"), "needs root, FUSE and loop devices")
class FullPool(unittest.TestCase):
    def test_a_mounted_file_system_waits_and_goes_on_when_there_is_room(self):
        for kind in ("ext4", "xfs"):
            with self.subTest(kind), Daemon("--attach-method", "fuse", journal="16MiB",
                                            capacity="192MiB") as d:
                self.check(d, kind)

    def check(self, d, kind):
        target = d.root / "target"
        d.cvol("volume", "create", "vol", "--size", "1GiB", "--fs", kind)
        d.cvol("volume", "mount", "vol", target)
        self.write(target / "before")
        d.cvol("volume", "create", "hog", "--size", "1GiB")
        self.take_all(d, "hog")
        errors = []
        written = threading.Event()

        def application():
            try:
                for number in range(8):
                    self.write(target / f"file{number}")
            except OSError as error:
                errors.append(error)
            written.set()
        thread = threading.Thread(target=application, daemon=True)
        thread.start()
        try:
            self.assertFalse(written.wait(5), f"did not wait: {errors}")
            status = d.cvol("status").stdout
            self.assertIn("100 % full", status)
            self.assertRegex(status, r"writes? of volume 'vol' waits? for space in the pool")
        finally:
            d.cvol("volume", "rm", "hog")
        self.assertTrue(written.wait(30), "waits though there is room")
        self.assertEqual(errors, [])
        self.write(target / "after")
        # (The file system of the host may have a warning of its own.)
        kinds = {told["kind"] for told in json.loads(d.cvol("status", "-o", "json").stdout)
                 .get("conditions", [])}
        self.assertLessEqual(kinds, {"host_nearly_full"})
        d.cvol("volume", "unmount", "vol", target)
        d.cvol("volume", "rm", "vol")

    @staticmethod
    def write(path):
        with open(path, "wb") as file:
            file.write(os.urandom(2 << 20))
            file.flush()
            os.fsync(file.fileno())

    def take_all(self, d, volume):
        handle = connect(d, volume)
        with self.assertRaisesRegex(nbd.Error, "No space"):
            for number in range((1 << 30) // CHUNK):
                handle.pwrite(os.urandom(CHUNK), number * CHUNK)
        handle.shutdown()


@unittest.skipUnless(os.geteuid() == 0, "a file system of its own needs root")
class FullFileSystem(unittest.TestCase):
    def test_a_data_directory_without_room_is_served_when_there_is_some(self):
        with Daemon(journal="16MiB", capacity="64MiB") as d:
            d.stop()
            with file_system(d.root, "ext4", "700M") as folder:
                d.data = folder / "data"
                d.start()
                d.cvol("volume", "create", "vol", "--size", "16MiB")
                self.put(d, b"a")
                undo = fill(folder)
                d.kill()
                d.start(wait=False)  # it may end, with the reason, and is started again
                with contextlib.suppress(Exception):
                    d.process.wait(timeout=5)
                if d.process.poll() is not None:
                    self.assertGreater(d.process.returncode, 0)  # by itself, and no signal's
                    self.assertIn("No space left", d.log.read_text()[-1000:])
                else:
                    d.kill()
                undo()
                d.start()
                self.assertEqual(self.get(d), b"a" * 4096)
                d.stop()

    def test_copies_get_their_space_when_they_are_opened(self):
        copies = {"ext4": ["--sparse=always"], "xfs": ["--reflink=always"]}
        for kind, flags in copies.items():
            with self.subTest(kind), Daemon(journal="16MiB", capacity="64MiB") as d, \
                    file_system(d.root, kind, "1200M") as folder:
                disk = folder / "disk"
                d.cvol("disk", "add", disk, "--journal-size", "16MiB", "--capacity", "128MiB")
                d.cvol("volume", "create", "vol", "--size", "60MiB")
                self.assertEqual(len([e for e in d.json("disk", "ls")
                                      if e["path"] == str(disk) and e["replicas"] == 1]), 1)
                handle = connect(d, "vol")
                for number in range(600):
                    handle.pwrite(b"a" * 4096, number * CHUNK)
                handle.shutdown()
                d.stop()
                run("cp", "-a", *flags, disk, folder / "copy")
                if kind == "ext4":  # the copy in the place of the original
                    shutil.rmtree(disk)
                    (folder / "copy").rename(disk)
                d.start()
                fill(folder)
                handle = connect(d, "vol")
                for number in range(600):
                    handle.pwrite(b"b" * 4096, number * CHUNK)
                handle.flush()
                self.assertEqual(bytes(handle.pread(4096, 599 * CHUNK)), b"b" * 4096)
                handle.shutdown()
                self.assertEqual({e["state"] for e in d.json("disk", "ls")}, {"ok"})
                d.stop()

    @staticmethod
    def put(d, byte):
        handle = connect(d, "vol")
        handle.pwrite(byte * 4096, 0)
        handle.shutdown()

    @staticmethod
    def get(d):
        handle = connect(d, "vol")
        got = bytes(handle.pread(4096, 0))
        handle.shutdown()
        return got


if __name__ == "__main__":
    unittest.main(verbosity=2)
