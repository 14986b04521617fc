#!/usr/bin/env python3
"""cvol as Docker's users see it: volumes of driver cvol under a real dockerd."""
import os
import re
import sys
import time
import unittest

from engine import KernelLog, Engine, Node, require_root, wait_for

engine = None
node = None
image = None
kernel_log = None


def setUpModule():
    global engine, node, image, kernel_log
    node = Node(journal="64MiB")
    kernel_log = KernelLog(node)
    unittest.addModuleCleanup(node.__exit__, None, None, None)
    engine = Engine()
    unittest.addModuleCleanup(engine.__exit__, None, None, None)
    os.environ["DOCKER_HOST"] = engine.host  # volumed asks it which containers have a volume
    node.start()
    engine.start()
    image = engine.make_image("busybox")


def create(name, *options):
    flags = [word for option in options for word in ("-o", option)]
    return engine.docker("volume", "create", "-d", "cvol", *flags, name)


def start(name, volume, *command, target="/vol", flags=()):
    """A container in the background."""
    engine.docker("run", "-d", "--name", name, "--network", "none", "-v", f"{volume}:{target}",
                  *flags, image, *command)


def shell(volume, command, target="/vol", flags=()):
    """What a shell in a container of its own prints."""
    return engine.docker("run", "--rm", "--network", "none", "-v", f"{volume}:{target}", *flags,
                         image, "sh", "-c", command).stdout


def inside(container, command):
    return engine.docker("exec", container, "sh", "-c", command).stdout


def remove(*containers):
    engine.docker("rm", "-f", *containers)


def remove_volume(name):
    engine.docker("volume", "rm", name)


def docker_ids(name):
    return [id for id in node.inspect(name)["mount_ids"] if id.startswith("docker:")]


# Numbers, one a line, each durable before the next; stops at the first error.
COUNT = "i=0; while echo $i >>/vol/count && sync -d /vol/count; do i=$((i+1)); done; echo BROKEN"


class Volumes(unittest.TestCase):
    def test_create_inspect_list_remove(self):
        create("plain")
        create("chosen", "size=2GiB", "fs=ext4", "replicas=1")
        self.assertEqual(node.inspect("plain")["size_bytes"], 10 << 30)
        seen = engine.inspect("chosen")
        self.assertEqual(seen["Driver"], "cvol")
        self.assertEqual(seen["Scope"], "global")
        self.assertEqual(seen["Options"], {"size": "2GiB", "fs": "ext4", "replicas": "1"})
        self.assertEqual(seen["Status"]["size"], "2GiB")
        self.assertRegex(seen["CreatedAt"], r"^20\d\d-")
        listed = engine.docker("volume", "ls", "--format", "{{.Driver}} {{.Name}}").stdout.split("\n")
        self.assertIn("cvol plain", listed)
        self.assertIn("cvol chosen", listed)
        create("plain")  # again: no error, the same volume
        remove_volume("plain")
        remove_volume("chosen")
        self.assertNotIn("plain", node.volume_names())
        self.assertNotEqual(engine.docker("volume", "inspect", "plain", check=False).returncode, 0)

    def test_bad_options_are_refused_by_name(self):
        refused = {"colour=red": "unknown option colour", "size=much": "option size",
                   "size=0": "option size", "size=-5GiB": "option size", "fs=ntfs": "fs=ntfs",
                   "replicas=3": "replica", "replicas=none": "replicas=none"}
        for option, text in refused.items():
            with self.subTest(option):
                answer = engine.docker("volume", "create", "-d", "cvol", "-o", option, "bad",
                                       check=False)
                self.assertNotEqual(answer.returncode, 0)
                self.assertIn(text, answer.stdout)
                self.assertNotIn("bad", node.volume_names())
        for name in ("Über", "-x", "a/b", "a" * 300):
            with self.subTest(name):
                answer = engine.docker("volume", "create", "-d", "cvol", "--", name, check=False)
                self.assertNotEqual(answer.returncode, 0, answer.stdout)

    def test_copying_into_a_running_container_leaves_nothing_behind(self):
        create("copied", "size=1GiB")
        start("busy", "copied", "sleep", "1000")
        for _ in range(2):
            engine.docker("cp", "/etc/hostname", "busy:/vol/name")
        self.assertEqual(inside("busy", "cat /vol/name"), open("/etc/hostname").read())
        self.assertEqual(len(docker_ids("copied")), 1)
        remove("busy")
        wait_for("the volume is given back", lambda: node.inspect("copied")["state"] == "available")
        remove_volume("copied")

    def test_a_name_of_one_letter_is_refused(self):
        answer = engine.docker("volume", "create", "-d", "cvol", "m", check=False)
        self.assertNotEqual(answer.returncode, 0)
        self.assertIn("two or more", answer.stdout)

    def test_bytes_outlive_their_container(self):
        create("keep", "size=1GiB")
        start("writer", "keep", "sleep", "1000")
        sums = inside("writer", "dd if=/dev/urandom of=/vol/f bs=1M count=20 conv=fsync 2>/dev/null && "
                                "sha256sum /vol/f")
        remove("writer")
        self.assertEqual(node.inspect("keep")["mount_ids"], [])
        self.assertEqual(shell("keep", "sha256sum /vol/f"), sums)
        remove_volume("keep")

    def test_a_fresh_volume_is_an_empty_directory(self):
        for fs in ("ext4", "xfs"):
            with self.subTest(fs):
                create("fresh", "size=1GiB", "fs=" + fs)
                self.assertEqual(shell("fresh", "ls -A /vol"), "")
                self.assertIn(f" /vol {fs} ", shell("fresh", "grep ' /vol ' /proc/mounts"))
                shell("fresh", "echo text >/vol/f && sync -d /vol/f")
                self.assertEqual(shell("fresh", "cat /vol/f"), "text\n")
                remove_volume("fresh")

    def test_content_and_owner_of_the_image_are_copied_up(self):
        create("copied", "size=1GiB")
        list_it = "cat /content/inner/file; stat -c '%u:%g %a' /content /content/inner/file"
        seen = shell("copied", list_it, target="/content")
        self.assertEqual(seen, "from the image\n1234:1234 750\n1234:1234 644\n")
        shell("copied", "echo changed >/content/inner/file", target="/content")
        self.assertEqual(shell("copied", "cat /content/inner/file", target="/content"), "changed\n")
        remove_volume("copied")

    def test_a_run_creates_the_volume(self):
        self.assertEqual(shell("implicit", "echo a >/vol/a && cat /vol/a",
                               flags=("--volume-driver", "cvol")), "a\n")
        self.assertIn("implicit", node.volume_names())
        remove_volume("implicit")

    def test_two_containers_share_a_volume(self):
        create("shared", "size=1GiB")
        start("one", "shared", "sleep", "1000")
        start("two", "shared", "sleep", "1000")
        inside("one", "echo hello >/vol/f")
        self.assertEqual(inside("two", "cat /vol/f"), "hello\n")
        self.assertEqual(len(docker_ids("shared")), 2)
        used = engine.docker("volume", "rm", "shared", check=False)
        self.assertNotEqual(used.returncode, 0)
        self.assertIn("in use", used.stdout)
        remove("one")
        self.assertEqual(inside("two", "cat /vol/f; echo more >>/vol/f"), "hello\n")
        remove("two")
        self.assertEqual(docker_ids("shared"), [])
        self.assertEqual(shell("shared", "cat /vol/f", flags=("--read-only",)), "hello\nmore\n")
        remove_volume("shared")

    def test_a_read_only_volume(self):
        create("fixed", "size=1GiB")
        shell("fixed", "echo a >/vol/a")
        seen = engine.docker("run", "--rm", "--network", "none", "-v", "fixed:/vol:ro", image, "sh",
                             "-c", "cat /vol/a; touch /vol/b 2>/dev/null || echo refused").stdout
        self.assertEqual(seen, "a\nrefused\n")
        remove_volume("fixed")

    def test_restart_of_a_container(self):
        create("again", "size=1GiB")
        start("restarted", "again", "sh", "-c", "date +%s%N >>/vol/starts; exec sleep 1000")
        for expected in (1, 2, 3):
            wait_for("a line", lambda n=expected: inside("restarted", "wc -l </vol/starts").strip()
                     == str(n))
            self.assertEqual(len(docker_ids("again")), 1)
            if expected < 3:
                engine.docker("restart", "-t", "0", "restarted")
        remove("restarted")
        self.assertEqual(docker_ids("again"), [])
        remove_volume("again")

    def test_a_full_volume_is_an_error_of_that_volume_only(self):
        create("small", "size=64MiB")
        seen = shell("small", "dd if=/dev/zero of=/vol/f bs=1M count=200 2>&1; rm /vol/f && "
                              "echo b >/vol/b && cat /vol/b")
        self.assertIn("No space left", seen)
        self.assertTrue(seen.endswith("b\n"), seen)
        remove_volume("small")


class Failures(unittest.TestCase):
    def count(self, container):
        numbers = [int(line) for line in inside(container, "cat /vol/count").split()]
        self.assertEqual(numbers, list(range(len(numbers))))
        self.assertNotIn("BROKEN", engine.docker("logs", container).stdout)
        return len(numbers)

    def test_kill_9_of_volumed_is_a_pause(self):
        create("paused", "size=1GiB")
        start("counter", "paused", "sh", "-c", COUNT)
        wait_for("numbers", lambda: self.count("counter") > 10)
        for _ in range(3):
            before = self.count("counter")
            took = node.restart_at_once()
            print(f"volumed killed and back after {took:.2f} s", flush=True)
            wait_for("more numbers", lambda n=before: self.count("counter") > n + 10)
        self.assertEqual(len(docker_ids("paused")), 1)
        remove("counter")
        self.assertEqual(docker_ids("paused"), [])
        self.assertEqual(node.inspect("paused")["state"], "available")
        remove_volume("paused")

    def test_an_unmount_that_was_lost(self):
        create("lost", "size=1GiB")
        start("unlucky", "lost", "sh", "-c", "echo here >>/vol/f; exec sleep 1000")
        wait_for("the file", lambda: inside("unlucky", "cat /vol/f") == "here\n")
        node.kill()
        engine.docker("stop", "-t", "0", "unlucky")  # nobody answers the Unmount
        node.start()
        self.assertEqual(len(docker_ids("lost")), 1)
        engine.docker("start", "unlucky")
        wait_for("two lines", lambda: inside("unlucky", "cat /vol/f") == "here\nhere\n")
        remove("unlucky")
        self.assertEqual(docker_ids("lost"), [])
        remove_volume("lost")

    def test_kill_9_of_dockerd(self):
        create("orphan", "size=1GiB")
        start("lasting", "orphan", "sh", "-c", "echo a >>/vol/f; exec sleep 1000",
              flags=("--restart", "always"))
        start("passing", "orphan", "sleep", "1000")
        wait_for("the file", lambda: inside("passing", "cat /vol/f") == "a\n")
        engine.kill()
        engine.start()
        wait_for("the container is up again",
                 lambda: engine.inspect("lasting")["State"]["Running"])
        wait_for("a second line", lambda: inside("lasting", "cat /vol/f") == "a\na\n")
        self.assertFalse(engine.inspect("passing")["State"]["Running"])
        self.assertEqual(len(docker_ids("orphan")), 2)  # one that dockerd has forgotten
        remove("passing", "lasting")
        self.assertEqual(len(docker_ids("orphan")), 1)
        self.assertEqual(shell("orphan", "cat /vol/f"), "a\na\n")
        remove_volume("orphan")
        self.assertNotIn("orphan", node.volume_names())

    def test_dockerd_stops_in_order(self):
        create("orderly", "size=1GiB")
        start("stopped", "orderly", "sh", "-c", "echo a >>/vol/f; exec sleep 1000")
        wait_for("the file", lambda: inside("stopped", "cat /vol/f") == "a\n")
        engine.stop()
        self.assertEqual(docker_ids("orderly"), [])
        engine.start()
        engine.docker("start", "stopped")
        wait_for("a second line", lambda: inside("stopped", "cat /vol/f") == "a\na\n")
        remove("stopped")
        remove_volume("orderly")

    def test_volumed_stops_in_order_under_a_running_container(self):
        create("upgraded", "size=1GiB")
        start("counter2", "upgraded", "sh", "-c", COUNT)
        wait_for("numbers", lambda: self.count("counter2") > 10)
        node.stop()
        time.sleep(1)
        node.start()
        before = self.count("counter2")
        wait_for("more numbers", lambda: self.count("counter2") > before + 10)
        remove("counter2")
        remove_volume("upgraded")


class Zzz(unittest.TestCase):
    """Last: what all of the above left behind."""

    def test_nothing_is_left(self):
        self.assertEqual(node.volume_names(), [])
        self.assertEqual(node.holders(), [])
        self.assertEqual(kernel_log.trouble(), [])
        mounts = open("/proc/self/mounts", encoding="utf-8").read()
        self.assertNotIn(str(node.root), mounts)
        log = node.log.read_text()
        self.assertEqual(re.findall(r"^\S+ error .*", log, re.M), [])


if __name__ == "__main__":
    require_root()
    unittest.main(verbosity=2)
