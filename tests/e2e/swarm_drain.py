#!/usr/bin/env python3
"""Two engines in one swarm: a task whose node is drained goes on with its data on the
other node, where nobody has used the plugin before.
"""
import time
import unittest

from engine import require_root, wait_for
from node_engine import engine_cluster
from swarm_engine import VOLUME, SwarmEngine, remove_service, wait_running, wait_told

from cluster_harness import require_namespaces


class Drained(unittest.TestCase):
    def test_a_task_moves_with_its_data_to_a_node_that_never_used_the_plugin(self):
        with engine_cluster(2, etcd=1) as cluster, SwarmEngine(cluster, 1) as manager, \
                SwarmEngine(cluster, 2) as worker:
            engines = [manager, worker]
            manager.init()
            worker.join(manager)
            for engine in engines:
                engine.import_image()
                wait_told(manager, engine.id())
            manager.create_service("mover", replicas=2)
            first = wait_running(manager, engines, "mover", 1)
            second = worker if first is manager else manager
            self.assertEqual(cluster.volume(VOLUME)["node"], f"node{first.node}")
            cluster.wait_in_sync(VOLUME, 2)
            began = time.monotonic()
            manager.docker("node", "update", "--availability", "drain", first.id())
            self.assertIs(wait_running(manager, engines, "mover", 2), second)
            print(f"the task runs on node {second.node} {time.monotonic() - began:.1f} s after the "
                  f"drain of node {first.node}", flush=True)
            self.assertEqual(first.containers("mover"), [])
            self.assertEqual(cluster.volume(VOLUME)["node"], f"node{second.node}")
            remove_service(manager, engines, "mover")
            wait_for("the volume is given back",
                     lambda: cluster.volume(VOLUME)["state"] == "available")
            manager.docker("volume", "rm", VOLUME)


if __name__ == "__main__":
    require_root()
    require_namespaces()
    unittest.main(verbosity=2)
