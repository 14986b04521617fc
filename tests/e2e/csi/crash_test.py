#!/usr/bin/env python3
"""The plugin and volumed die at every step of every call (CVOL_CRASH_AT); the call is made again and
the life goes on: nothing is leaked, no device, mount, folder, record or attachment.

A life is: create, publish, stage, show, expand, modify, hide, unstage, unpublish, delete. For each
crash point of csi/ the plugin (cvol-csi) dies there; for each of volumed/volume the volumed of the
node. Then the same process is started without the point, and every call of the life is made again
as an orchestrator would: the one that failed, and what follows.

A life that is broken off is cleaned up by the other half of the calls; that is tried at every
second point.

usage: crash_test.py      with CVOL_LONG=1 each point for mount and for block
"""
import os
import sys
import unittest

import grpc

from csi_harness import (GIB, MIB, CsiCluster, CsiProcess, Code, block, crash_points,
                         may_grow_ext4, mount, patiently, require_root, wait_for)

LONG = bool(os.environ.get("CVOL_LONG"))
NODE = 2
FILES = mount(fs_type="ext4" if may_grow_ext4() else "xfs")
BUILT = ["CreateVolume", "ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume"]
CHANGED = ["ControllerExpandVolume", "NodeExpandVolume", "ControllerModifyVolume"]
UNDONE = ["NodeUnpublishVolume", "NodeUnstageVolume", "ControllerUnpublishVolume", "DeleteVolume"]


class Life:
    """The calls about one volume, made by one plugin after the other."""

    def __init__(self, cluster, name, capability):
        self.cluster = cluster
        self.name = name
        self.capability = capability
        self.id = ""

    def fields(self, call):
        staging = self.cluster.staging(NODE, self.name)
        volume = {"volume_id": self.id}
        size = {"capacity_range": {"required_bytes": 400 * MIB}}
        return {
            "CreateVolume": {"name": self.name, "volume_capabilities": [self.capability],
                             "capacity_range": {"required_bytes": 320 * MIB, "limit_bytes": GIB}},
            "ControllerPublishVolume": {**volume, "node_id": f"node{NODE}",
                                        "volume_capability": self.capability},
            "NodeStageVolume": {**volume, "staging_target_path": staging,
                                "volume_capability": self.capability},
            "NodePublishVolume": {**volume, "staging_target_path": staging,
                                  "target_path": self.target(),
                                  "volume_capability": self.capability},
            "ControllerExpandVolume": {**volume, **size},
            "NodeExpandVolume": {**volume, **size, "volume_path": self.target()},
            "ControllerModifyVolume": {**volume, "mutable_parameters": {"replicas": "2"}},
            "NodeUnpublishVolume": {**volume, "target_path": self.target()},
            "NodeUnstageVolume": {**volume, "staging_target_path": staging},
            "ControllerUnpublishVolume": {**volume, "node_id": f"node{NODE}"},
            "DeleteVolume": volume}[call]

    def target(self):
        return self.cluster.target(NODE, self.name)

    def make(self, plugin, call):
        answer = plugin.call(call, **self.fields(call))
        if call == "CreateVolume":
            self.id = answer.volume.volume_id

    def again(self, plugin, call):
        gone = (Code.ABORTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        if call not in UNDONE[:2] or self.id:
            patiently(lambda: self.make(plugin, call), codes=gone)


class Crash(unittest.TestCase):
    def setUp(self):
        self.cluster = CsiCluster()
        self.addCleanup(lambda: self.cluster.__exit__(*sys.exc_info()))
        self.cluster.__enter__()

    def until_dead(self, life, plugin, calls, is_dead):
        """Answers the call that died, or None if the point was never passed."""
        for call in calls:
            try:
                life.make(plugin, call)
            except grpc.RpcError as error:
                wait_for(f"the end after {call}: {error.details()}", is_dead)
                return call
            if is_dead():
                return call
        return None

    def finish(self, life, plugin, died, number):
        """The call again and all that follow; or, at every second point, only what undoes it."""
        calls = BUILT + CHANGED + UNDONE
        begin = calls.index(died)
        undo_at_once = number % 2 == 1 and died in BUILT + CHANGED and life.id
        for call in UNDONE if undo_at_once else calls[begin:]:
            life.again(plugin, call)

    def check(self, point):
        def clean():
            return not self.cluster.leftovers()
        try:
            wait_for("nothing left", clean, within=15)
        except Exception:
            self.fail(f"after {point}: {self.cluster.leftovers()}")
        self.assertEqual(self.cluster.json(1, "volume", "ls"), [], point)

    def crash_plugin(self, point, number, capability):
        life = Life(self.cluster, f"p{number}", capability)
        with CsiProcess(self.cluster, NODE, crash_at=point) as doomed:
            died = self.until_dead(life, doomed.plugin, BUILT + CHANGED + UNDONE,
                                   lambda: doomed.process.poll() is not None)
        self.assertIsNotNone(died, f"{point} was never passed")
        with CsiProcess(self.cluster, NODE) as next_one:
            self.finish(life, next_one.plugin, died, number)
        self.check(point)
        print(f"cvol-csi killed at {point} in {died}: nothing left", flush=True)

    def crash_volumed(self, point, number, capability):
        life = Life(self.cluster, f"d{number}", capability)
        process = self.cluster.nodes[NODE]
        process.end()
        self.cluster.restart(NODE, crash_at=point)
        died = self.until_dead(life, self.cluster.plugins[NODE], BUILT + CHANGED + UNDONE,
                               lambda: process.pid() is None)
        self.assertIsNotNone(died, f"{point} was never passed")
        self.cluster.restart(NODE)
        self.finish(life, self.cluster.plugins[NODE], died, number)
        self.check(point)
        print(f"volumed killed at {point} in {died}: nothing left", flush=True)

    def capabilities(self, number):
        both = [FILES, block()]
        return both if LONG else [both[number % 2]]

    def test_plugin(self):
        points = crash_points("csi")
        for call in ("NodeStageVolume", "NodeUnstageVolume", "NodePublishVolume",
                     "NodeUnpublishVolume"):
            points += [f"{call}-before", f"{call}-after"]
        self.assertGreater(len(points), 20)
        for number, point in enumerate(points):
            for which, capability in enumerate(self.capabilities(number)):
                self.crash_plugin(point, 10 * number + which, capability)

    def test_volumed(self):
        points = crash_points("volumed/volume")
        self.assertGreater(len(points), 8)
        files_only = {"stage-formatted", "stage-mounted"}
        for number, point in enumerate(points):
            for which, capability in enumerate(self.capabilities(number)):
                if point in files_only:
                    capability = FILES
                self.crash_volumed(point, 10 * number + which, capability)

    def test_what_an_old_node_still_has_never_lands(self):
        """Node 2 dies with a write in its kernel; node 3 has the volume, writes, and gives it back.
        Node 2 comes again, and so does its write: nowhere."""
        life = Life(self.cluster, "fenced", block())
        for call in BUILT:
            life.make(self.cluster.plugins[NODE], call)
        self.write(life.target(), b"old" * 1000, sync=True)
        dirty = os.open(life.target(), os.O_RDWR)
        self.addCleanup(os.close, dirty)
        os.pwrite(dirty, b"late" * 1024, 8 * MIB)
        self.cluster.kill(NODE)
        other = Other(self.cluster, life)
        other.take(3)
        self.write(other.target, b"new!" * 1024, sync=True)
        other.give_back()
        self.cluster.restart(NODE)
        wait_for("the old device to go", lambda: not self.cluster.devices(NODE), within=30)
        with self.assertRaises(OSError):
            os.pwrite(dirty, b"late" * 1024, 8 * MIB)
            os.fsync(dirty)
        other.take(1)
        with open(other.target, "rb", buffering=0) as file:
            file.seek(8 * MIB)
            self.assertEqual(file.read(4096), b"new!" * 1024)
        other.give_back()
        for call in UNDONE:
            life.again(self.cluster.plugins[NODE], call)
        self.check("the end of node 2")

    def write(self, path, data, sync):
        with open(path, "r+b", buffering=0) as file:
            file.seek(8 * MIB)
            file.write(data.ljust(4096, b"x")[:4096])
            if sync:
                os.fsync(file.fileno())


class Other:
    """The same volume on one node after the other."""

    def __init__(self, cluster, life):
        self.cluster = cluster
        self.volume = {"volume_id": life.id}
        self.name = life.name
        self.node = 0

    def take(self, node):
        self.node = node
        staging = self.cluster.staging(node, self.name)
        self.target = self.cluster.target(node, self.name)
        plugin = self.cluster.plugins[node]
        patiently(lambda: plugin.call("ControllerPublishVolume", **self.volume,
                                      node_id=f"node{node}", volume_capability=block()),
                  codes=(Code.ABORTED, Code.UNAVAILABLE, Code.FAILED_PRECONDITION))
        patiently(lambda: plugin.call("NodeStageVolume", **self.volume, volume_capability=block(),
                                      staging_target_path=staging))
        patiently(lambda: plugin.call("NodePublishVolume", **self.volume, target_path=self.target,
                                      volume_capability=block(), staging_target_path=staging))

    def give_back(self):
        plugin = self.cluster.plugins[self.node]
        staging = self.cluster.staging(self.node, self.name)
        patiently(lambda: plugin.call("NodeUnpublishVolume", **self.volume,
                                      target_path=self.target))
        patiently(lambda: plugin.call("NodeUnstageVolume", **self.volume,
                                      staging_target_path=staging))
        patiently(lambda: plugin.call("ControllerUnpublishVolume", **self.volume,
                                      node_id=f"node{self.node}"))


if __name__ == "__main__":
    require_root()
    unittest.main()
