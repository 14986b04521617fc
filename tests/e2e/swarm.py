#!/usr/bin/env python3
"""Swarm with real engines. It places a task on a node only if that node's dockerd has said that it
knows the volume plugin, and dockerd knows only plugins that somebody has used: volumed makes it
look. No test here uses the plugin by hand before the service does.
"""
import contextlib
import json
import time
import unittest

from engine import require_root, wait_for
from node_engine import NodeEngine, engine_cluster

from cluster_harness import require_namespaces

# volumed tries dockerd every 5 s.
KNOWN_WITHIN = 15
# The agent of Swarm describes its node anew every 20 s.
TOLD_WITHIN = 40
# A name of a registry that refuses connections at once: the tasks use what was imported.
IMAGE = "127.0.0.1:1/cvol-test-busybox"
VOLUME = "swarmed"
WRITE = "echo $HOSTNAME >>/vol/starts && sync -d /vol/starts && exec sleep 1000"


class SwarmEngine(NodeEngine):
    def import_image(self):
        self.docker("tag", self.make_image("busybox"), IMAGE)

    def address(self):
        return self.cluster.network.address(self.node)

    def init(self):
        self.docker("swarm", "init", "--advertise-addr", self.address())

    def join(self, manager):
        token = manager.docker("swarm", "join-token", "-q", "worker").stdout.strip()
        self.docker("swarm", "join", "--advertise-addr", self.address(), "--token", token,
                    f"{manager.address()}:2377")

    def id(self):
        return self.docker("info", "--format", "{{.Swarm.NodeID}}").stdout.strip()

    def known_plugins(self):
        """What this dockerd says it knows; asking for it makes it know nothing more."""
        return json.loads(self.docker("info", "--format", "{{json .Plugins.Volume}}").stdout)

    def plugins_in_swarm(self, node_id):
        """What the manager knows of a node, asked at a manager."""
        found = json.loads(self.docker("node", "inspect", node_id).stdout)[0]
        return [plugin["Name"] for plugin in found["Description"]["Engine"].get("Plugins", [])
                if plugin["Type"] == "Volume"]

    def create_service(self, name, replicas):
        self.docker("service", "create", "--detach", "--no-resolve-image", "--name", name,
                    "--network", "host", "--stop-grace-period", "1s", "--restart-delay", "1s",
                    "--mount", f"type=volume,source={VOLUME},target=/vol,volume-driver=cvol,"
                    f"volume-opt=size=256MiB,volume-opt=replicas={replicas}",
                    IMAGE, "sh", "-c", WRITE)

    def tasks(self, name):
        return self.docker("service", "ps", "--no-trunc", "--format",
                           "{{.CurrentState}} | {{.DesiredState}} | {{.Error}}", name).stdout

    def containers(self, name):
        """Those that run here."""
        return self.docker("ps", "-q", "--filter",
                           f"label=com.docker.swarm.service.name={name}").stdout.split()


def wait_known(engine, began):
    wait_for(f"cvol among {engine.known_plugins()}", lambda: "cvol" in engine.known_plugins(), KNOWN_WITHIN)
    print(f"dockerd knows the plugin after {time.monotonic() - began:.1f} s", flush=True)


def wait_told(manager, node_id):
    began = time.monotonic()
    wait_for("the manager knows the plugin of the node",
             lambda: "cvol" in manager.plugins_in_swarm(node_id), TOLD_WITHIN)
    print(f"the manager knows it {time.monotonic() - began:.1f} s later", flush=True)


def wait_running(manager, engines, name, starts):
    """The engine that runs the service's task, once that has written; `starts`: how often by now."""
    def found():
        for engine in engines:
            for container in engine.containers(name):
                seen = engine.docker("exec", container, "cat", "/vol/starts", check=False)
                if seen.returncode == 0 and seen.stdout.count("\n") == starts:
                    return engine
        return None
    try:
        return wait_for(f"a task of {name} that is start number {starts}", found, 40)
    except AssertionError as error:
        raise AssertionError(f"{error}; its tasks:\n{manager.tasks(name)}") from None


def remove_service(manager, engines, name):
    manager.docker("service", "rm", name)
    for engine in engines:
        wait_for("no container of the service", lambda e=engine: not e.docker(
            "ps", "-aq", "--filter", f"label=com.docker.swarm.service.name={name}").stdout.strip())


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
