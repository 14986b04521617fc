#!/usr/bin/env python3
"""A host that boots while the metadata store is away: dockerd starts containers that are to run
always, and gives a plugin that is not there 30 s. volumed's plugin answers before the store does,
and the container's Mount waits.
"""
import threading
import time
import unittest

from engine import require_root, wait_for
from node_engine import NodeEngine, engine_cluster

from cluster_harness import require_namespaces

# Longer than dockerd waits for a plugin, shorter than it waits for a mount (two minutes).
STORE_AWAY = 40
VOLUME = "booted"


class Boot(unittest.TestCase):
    def test_a_container_that_is_to_run_always_waits_for_the_store(self):
        with engine_cluster(1, etcd=1) as cluster, NodeEngine(cluster, 1) as engine:
            image = engine.make_image("busybox")
            engine.docker("volume", "create", "-d", "cvol", "-o", "size=256MiB", VOLUME)
            engine.docker("run", "-d", "--name", "always", "--restart", "always", "--network",
                          "none", "-v", f"{VOLUME}:/vol", image, "sh", "-c",
                          "echo up >>/vol/starts && sync -d /vol/starts && exec sleep 1000")
            wait_for("a first start", lambda: self.starts(engine) == 1)
            self.power_off(cluster, engine)

            began = time.monotonic()
            cluster.start_node(1, wait=False)
            booting = threading.Thread(target=engine.start)
            booting.start()
            time.sleep(STORE_AWAY)
            self.assertIsNotNone(cluster.nodes[1].pid(), "volumed ended without its store")
            cluster.start_etcd(1)
            cluster.wait_etcd()
            cluster.wait_node(1)
            booting.join()
            wait_for("a second start", lambda: self.starts(engine) == 2)
            state = engine.inspect("always")["State"]
            self.assertTrue(state["Running"], state)
            print(f"the container runs {time.monotonic() - began:.0f} s after the boot, the store "
                  f"was away for {STORE_AWAY} s of them", flush=True)
            engine.docker("rm", "-f", "always")
            engine.docker("volume", "rm", VOLUME)

    @staticmethod
    def starts(engine):
        seen = engine.docker("exec", "always", "cat", "/vol/starts", check=False)
        return seen.stdout.count("up\n") if seen.returncode == 0 else 0

    @staticmethod
    def power_off(cluster, engine):
        """In the order of a shutdown: dockerd ends its containers, then volumed, then the store."""
        engine.stop()
        cluster.nodes[1].end()
        cluster.etcds[1].end()


if __name__ == "__main__":
    require_root()
    require_namespaces()
    unittest.main(verbosity=2)
