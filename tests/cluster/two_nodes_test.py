#!/usr/bin/env python3
"""Two nodes with data, and etcd: either may be lost, and they never part ways."""
import time
import unittest

from cluster_harness import PATIENCE, ClusterTest, rounds, say, stalls


class TwoNodes(ClusterTest):
    SETTINGS = {"nodes": 2}

    def test_either_node_may_be_lost(self):
        self.cluster.create_volume(self.name, replicas=2)
        times = {"kill -9": [], "SIGSTOP": []}
        with self.cluster.writer(self.name, 1) as writer:
            for _ in range(rounds(1, 10)):
                for primary in (2, 1):
                    for blow, found in times.items():
                        self.cluster.wait_in_sync(self.name, 2)
                        self.cluster.move(self.name, primary)
                        writer.wait_progress(100)
                        begin = time.monotonic()
                        if blow == "kill -9":
                            self.cluster.kill(2)
                        else:
                            self.cluster.pause(2)
                        writer.wait_progress(300, within=PATIENCE)
                        found.append((begin, time.monotonic()))
                        self.cluster.wait_out_of_sync(self.name, 2)
                        self.assertEqual(self.cluster.in_sync(self.name), {1})
                        self.cluster.resume(2)
                        self.cluster.start(2)
                        writer.wait_progress(100)
            self.cluster.wait_in_sync(self.name, 2)
        self.assertEqual(writer.report.connections, 1)
        for blow, found in times.items():
            longest = [writer.report.longest_gap(begin, end) for begin, end in found]
            say(f"two nodes, {blow} of the other", stalls=stalls(longest))
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_the_writers_node_is_lost(self):
        self.cluster.create_volume(self.name, replicas=2)
        took = []
        with self.cluster.writer(self.name, 1, 2) as writer:
            for _ in range(rounds(2, 10)):
                self.cluster.wait_in_sync(self.name, 2)
                writer.wait_progress(100)
                victim = int(self.cluster.volume(self.name)["node"].removeprefix("node"))
                begin = time.monotonic()
                self.cluster.kill(victim)
                writer.wait_progress(100, within=PATIENCE)
                took.append(time.monotonic() - begin)
                self.cluster.start(victim)
            self.cluster.wait_in_sync(self.name, 2)
        say("two nodes, the writer's own is lost", back_after=stalls(took))
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_the_one_that_missed_writes_does_not_serve_alone(self):
        """Node 2 is away, node 1 takes writes and goes away too: node 2 alone must wait for it."""
        self.cluster.create_volume(self.name, replicas=2)
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(200)
            self.cluster.kill(2)
            writer.wait_progress(500)
        self.cluster.wait_out_of_sync(self.name, 2)
        self.cluster.kill(1)
        self.cluster.start(2)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            for copy in self.cluster.copies(self.name):
                if self.cluster.number_of(copy) == 2:
                    self.assertFalse(copy["primary"] or copy["in_sync"], "a stale copy was taken")
            time.sleep(0.2)
        text = self.cluster.explain(self.name, 2)
        self.assertIn("node1", text)
        self.cluster.start(1)
        self.cluster.wait_in_sync(self.name, 2)
        self.cluster.check_copies(self.name, writer.history, 2)

    def test_one_survivor_restarts_alone(self):
        """The only copy in sync comes back without the other, and serves."""
        self.cluster.create_volume(self.name, replicas=2)
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(200)
            self.cluster.kill(2)
            writer.wait_progress(300)
            self.cluster.wait_out_of_sync(self.name, 2)
            self.cluster.kill(1)
            begin = time.monotonic()
            self.cluster.start_node(1, wait=False)
            writer.wait_progress(100, within=PATIENCE)
            say("two nodes, the last copy restarts", back_after=f"{time.monotonic() - begin:.2f} s")
            self.cluster.start(2)
        self.cluster.wait_in_sync(self.name, 2)
        self.cluster.check_copies(self.name, writer.history, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
