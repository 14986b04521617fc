#!/usr/bin/env python3
"""scripts/cluster as a user has it: what each command does, says, and leaves alone."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from cluster_harness import may_use_namespaces, wait_for
from local_cluster import ROOT, LocalCluster, Process, process_state

SCRIPT = ROOT / "scripts" / "cluster"


class Script(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="cvol-test-", dir="/var/tmp"))
        self.folder = self.dir / "c"
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.addCleanup(self.run_script, "down", "--delete", check=False)

    def run_script(self, *arguments, check=True):
        done = subprocess.run([str(SCRIPT), *map(str, arguments), "--dir", str(self.folder)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=180, check=False)
        if check:
            self.assertEqual(done.returncode, 0, done.stdout)
        return done

    def status(self):
        return json.loads(self.run_script("status", "-o", "json").stdout)

    def cvol(self, node, *arguments):
        program = pathlib.Path(os.environ.get("CVOL_BIN", ROOT / "build/bin")) / "cvol"
        done = subprocess.run([str(program), "--api",
                               f"unix:{self.folder}/node{node}/run/api.sock", *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def states(self, kind="nodes"):
        return [entry["state"] for entry in self.status()[kind]]

    def test_a_users_day(self):
        self.assertIn("no cluster", self.run_script("status", check=False).stdout)
        self.run_script("down")  # nothing there: fine
        self.run_script("up", "--nodes", 3)
        self.assertEqual(self.states(), ["running"] * 3)
        self.assertEqual(self.states("etcd"), ["running"] * 3)
        self.assertEqual([member["leader"] for member in self.status()["etcd"]].count(True), 1)
        self.cvol(2, "volume", "create", "data", "--size", "64MiB", "--replicas", "3")
        pids = [node["pid"] for node in self.status()["nodes"]]
        self.run_script("up")  # again: nothing happens
        self.assertEqual([node["pid"] for node in self.status()["nodes"]], pids)
        first = wait_for("a primary", lambda: [node["node"] for node in self.status()["nodes"]
                                               if node["primary_of"] == ["data"]])[0]

        self.run_script("kill", first)
        self.assertEqual(self.states()[first - 1], "down")
        self.assertIn("did not run", self.run_script("kill", first).stdout)
        wait_for("another primary", lambda: [node for node in self.status()["nodes"]
                                             if node["primary_of"] and node["node"] != first])
        self.run_script("restart", first)
        self.assertEqual(self.states(), ["running"] * 3)
        self.run_script("stop", 2)
        self.assertEqual(self.states()[1], "stopped")
        self.run_script("cont", 2)
        self.assertEqual(self.states()[1], "running")
        self.run_script("stop", 2)
        self.run_script("restart", 2)  # a paused one too
        self.assertEqual(self.states()[1], "running")

        self.run_script("etcd-kill", 1)
        self.run_script("etcd-stop", 2)
        self.assertEqual(self.states("etcd"), ["down", "stopped", "running"])
        self.run_script("etcd-cont", 2)
        self.run_script("etcd-restart", 1)
        self.assertEqual(self.states("etcd"), ["running"] * 3)

        self.run_script("down")
        self.assertEqual(self.states(), ["down"] * 3)
        self.run_script("up")
        self.assertIn("data", self.cvol(1, "volume", "ls"))
        self.run_script("down", "--delete")
        self.assertFalse(self.folder.exists())

    def test_partition_and_heal(self):
        if not may_use_namespaces():
            self.skipTest("not root")
        self.run_script("up")
        self.run_script("partition", 1, 2)
        self.run_script("partition", "node3", "etcd")
        self.run_script("partition", 1, 2)  # again: no matter
        cuts = {tuple(cut) for cut in self.status()["cuts"]}
        self.assertEqual(cuts, {(1, 2), (2, 1), (3, "etcd"), ("etcd", 3)})
        self.run_script("heal")
        self.run_script("heal")
        self.assertEqual(self.status()["cuts"], [])
        wrong = self.run_script("partition", 1, 1, check=False)
        self.assertEqual(wrong.returncode, 1)
        switch = LocalCluster(self.folder).network.switch
        self.assertTrue(pathlib.Path("/run/netns", switch).exists())
        self.run_script("down", "--delete")
        self.assertEqual([name for name in pathlib.Path("/run/netns").iterdir()
                          if name.name.startswith(switch)], [])

    def test_mistakes_are_named(self):
        self.run_script("up", "--nodes", 1, "--no-netns", "--etcd", 1)
        for arguments, text in ((("kill", 7), "no node 7"), (("etcd-kill", 2), "no etcd member 2"),
                                (("up", "--nodes", 3), "has nodes 1"),
                                (("partition", 1, "x"), "'x' is no node"),
                                (("partition", 1, "etcd"), "share the host's network")):
            done = self.run_script(*arguments, check=False)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(text, done.stdout)
        two = subprocess.run([str(SCRIPT), "up", "--etcd", "2", "--dir", str(self.dir / "other")],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(two.returncode, 1)
        self.assertIn("two are worse", two.stdout)

    def test_a_process_of_somebody_else_is_left_alone(self):
        """A pid file whose process has ended, and its number is another's now."""
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            process = Process("node1", self.dir / "node1")
            process.folder.mkdir()
            started = process_state(stranger.pid)[1]
            process.pid_file.write_text(f"{stranger.pid} {started - 1}\n")
            self.assertIsNone(process.pid())
            self.assertFalse(process.kill())
            self.assertIsNone(stranger.poll())
            process.pid_file.write_text(f"{stranger.pid} {started}\n")
            self.assertEqual(process.pid(), stranger.pid)
        finally:
            stranger.kill()
            stranger.wait()


if __name__ == "__main__":
    unittest.main(verbosity=2)
