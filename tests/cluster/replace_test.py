#!/usr/bin/env python3
"""A node that is gone for good, whose places another node takes by command."""
import unittest

from cluster_harness import ClusterTest, wait_for


class Replace(ClusterTest):
    SETTINGS = {"nodes": 4}

    def test_a_node_takes_the_places_of_a_lost_one(self):
        self.cluster.create_volume(self.name, "64MiB", gateways=[4])
        copies = self.cluster.in_sync(self.name)
        self.assertEqual(copies, {1, 2, 3})
        lives = self.cluster.cvol(4, "node", "replace", "node3", check=False)
        self.assertNotEqual(lives.returncode, 0)
        self.assertIn("lives", lives.stdout)
        own = self.cluster.cvol(4, "node", "replace", "node4", check=False)
        self.assertNotEqual(own.returncode, 0)
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(200)
            self.cluster.kill(3)
            wait_for("the lost copy to leave the set",
                     lambda: self.cluster.in_sync(self.name) == {1, 2}, 30)
            wait_for("the lost node to be away",
                     lambda: not self.alive("node3"), 30)
            # The wait is far longer than this test: nothing is made anew by itself.
            done = self.cluster.cvol(4, "node", "replace", "node3", "--wait", check=False,
                                     timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertEqual(self.cluster.in_sync(self.name), {1, 2, 4})
            writer.wait_progress(200)
        self.cluster.check_copies(self.name, writer.history, 1)
        names = {node["name"] for node in self.cluster.json(1, "node", "ls")}
        self.assertEqual(names, {"node1", "node2", "node4"})
        again = self.cluster.cvol(4, "node", "replace", "node3", check=False)
        self.assertNotEqual(again.returncode, 0)
        self.assertIn("no node", again.stdout)

    def alive(self, name):
        nodes = {node["name"]: node for node in self.cluster.json(1, "node", "ls")}
        return name in nodes and nodes[name]["alive"]


if __name__ == "__main__":
    unittest.main(verbosity=2)
