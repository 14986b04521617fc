#!/usr/bin/env python3
"""Disks that are lost, taken out and exchanged, with as many copies as there are nodes."""
import shutil
import unittest

from cluster_harness import ClusterTest, wait_for

FORMAT = ("--capacity", "4GiB", "--journal-size", "64MiB")


class Disks(ClusterTest):
    SETTINGS = {"nodes": 2, "flags": ["--rebuild-after", "5s"]}
    added = 0

    def add_disk(self, node):
        Disks.added += 1
        path = self.cluster.folder / f"node{node}-disk{Disks.added}"
        path.mkdir()
        self.cluster.cvol(node, "disk", "add", path, "--force", *FORMAT)
        return str(path)

    def disks(self, node):
        return {disk["path"]: disk for disk in self.cluster.json(node, "disk", "ls")}

    def disk_of_copy(self, node):
        """Path of the disk of the volume's copy on the node."""
        ids = {disk["id"]: path for path, disk in self.disks(node).items()}
        for copy in self.cluster.copies(self.name):
            if self.cluster.number_of(copy) == node and copy["state"] != "leaving":
                return ids.get(copy["disk"])
        return None

    def remove(self, node, *arguments):
        return self.cluster.cvol(node, "disk", "rm", *arguments, check=False, timeout=120)

    def test_a_lost_disk_gets_its_successor_on_the_same_node(self):
        self.cluster.create_volume(self.name, replicas=2)
        lost = self.disk_of_copy(2)
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(200)
            self.cluster.kill(2)
            shutil.rmtree(lost)
            self.cluster.start(2)
            self.assertEqual(self.disks(2)[lost]["state"], "missing")
            fresh = self.add_disk(2)
            wait_for("the copy on the new disk", lambda: self.disk_of_copy(2) == fresh, 60)
            self.cluster.wait_in_sync(self.name, 2)
            writer.wait_progress(200)
        self.cluster.check_copies(self.name, writer.history, 1)
        wait_for("the lost copy to be forgotten",
                 lambda: len(self.cluster.copies(self.name)) == 2, 30)
        done = self.remove(2, lost)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertNotIn(lost, self.disks(2))
        self.cluster.kill(2)
        self.cluster.start(2)
        self.assertNotIn(lost, self.disks(2), "a disk that was taken out came back")
        self.cluster.wait_in_sync(self.name, 2)

    def test_a_disk_is_exchanged_in_place(self):
        self.cluster.create_volume(self.name, replicas=2)
        old = self.disk_of_copy(1)
        fresh = self.add_disk(1)
        with self.cluster.writer(self.name, 2) as writer:
            writer.wait_progress(200)
            refused = self.remove(1, old)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("--in-place", refused.stdout)
            self.assertEqual(self.disks(1)[old]["state"], "ok", "what was refused changed something")
            done = self.remove(1, old, "--in-place", "--wait")
            self.assertEqual(done.returncode, 0, done.stdout)
            self.cluster.wait_in_sync(self.name, 2)
            writer.wait_progress(200)
        self.assertEqual(self.disk_of_copy(1), fresh)
        self.assertNotIn(old, self.disks(1))
        self.cluster.check_copies(self.name, writer.history, 2)

    def test_a_disk_with_the_only_copy_stays(self):
        self.cluster.create_volume(self.name, replicas=1)
        fresh = self.add_disk(1)
        old = self.disk_of_copy(1)
        self.cluster.cvol(2, "node", "cordon", "node2")
        refused = self.remove(1, old, "--in-place")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn(self.name, refused.stdout)
        self.assertEqual(self.disks(1)[old]["state"], "ok")
        # Another node takes it: one copy there first, then none here.
        self.cluster.cvol(2, "node", "uncordon", "node2")
        done = self.remove(1, old, "--wait")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.cluster.in_sync(self.name), {2})
        self.assertIn(fresh, self.disks(1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
