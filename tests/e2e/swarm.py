#!/usr/bin/env python3
"""Swarm with a real engine. It places a task on a node only if that node's dockerd has said that it
knows the volume plugin, and dockerd knows only plugins that somebody has used: volumed makes it
look. No test here uses the plugin by hand before the service does.
"""
import contextlib
import time
import unittest

from engine import require_root, wait_for
from node_engine import engine_cluster
from swarm_engine import (KNOWN_WITHIN, VOLUME, SwarmEngine, remove_service, wait_known,
                          wait_running, wait_told)

from cluster_harness import require_namespaces


class Fresh(unittest.TestCase):
    """One node, whose dockerd nobody has ever asked for a volume."""

    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.cluster = stack.enter_context(engine_cluster(1, etcd=1))
        self.stack = stack

    def run_service(self, engine):
        engine.import_image()
        engine.create_service("writer", replicas=1)
        wait_running(engine, [engine], "writer", 1)
        self.assertEqual(self.cluster.volume(VOLUME)["state"], "mounted")
        remove_service(engine, [engine], "writer")
        wait_for("the volume is given back",
                 lambda: self.cluster.volume(VOLUME)["state"] == "available")
        engine.docker("volume", "rm", VOLUME)

    def test_volumed_is_started_after_dockerd(self):
        self.cluster.nodes[1].end()
        engine = self.stack.enter_context(SwarmEngine(self.cluster, 1))
        engine.init()
        self.assertEqual(engine.known_plugins(), ["local"])
        began = time.monotonic()
        self.cluster.start(1)
        wait_known(engine, began)
        wait_told(engine, "self")
        self.run_service(engine)

    def test_volumed_is_started_before_dockerd(self):
        began = time.monotonic()
        engine = self.stack.enter_context(SwarmEngine(self.cluster, 1))
        wait_known(engine, began)
        engine.init()
        wait_told(engine, "self")
        self.run_service(engine)

    def test_nobody_makes_dockerd_look_when_that_is_turned_off(self):
        self.cluster.nodes[1].end()
        self.cluster.settings["node_flags"]["1"] += ["--docker-activate", "false"]
        self.cluster.start(1)
        engine = self.stack.enter_context(SwarmEngine(self.cluster, 1))
        time.sleep(KNOWN_WITHIN)
        self.assertEqual(engine.known_plugins(), ["local"])


if __name__ == "__main__":
    require_root()
    require_namespaces()
    unittest.main(verbosity=2)
