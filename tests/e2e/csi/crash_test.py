#!/usr/bin/env python3
"""The plugin and volumed die at every step of every call (CVOL_CRASH_AT); the call is made again and
the life goes on: nothing is leaked, no device, mount, folder, record or attachment.

A life is: create, publish, stage, show, expand, modify, hide, unstage, unpublish, delete. For each
crash point of csi/ the plugin (cvol-csi) dies there; for each of volumed/volume the volumed of the
node. Then the same process is started without the point, and every call of the life is made again
as an orchestrator would: the one that failed, and what follows.

And attachments that end while their node is dead, or writes: I/O that is under way there ends with an
error, and lands nowhere.

A life that is broken off is cleaned up by the other half of the calls; that is tried at every
second point.

usage: crash_test.py      with CVOL_LONG=1 each point for mount and for block
"""
import os
import sys
import time
import unittest

import grpc

from csi_harness import (GIB, MIB, CsiCluster, CsiProcess, Code, block, crash_points,
                         may_grow_ext4, mount, patiently, require_root, wait_for)
from open_device import OpenDevice

LONG = bool(os.environ.get("CVOL_LONG"))
NODE = 2
BLOCK = 4096
PLACE = 8 * MIB
OLD, LATE, NEW = (word * (BLOCK // 4) for word in (b"old-", b"late", b"new!"))
FILES = mount(fs_type="ext4" if may_grow_ext4() else "xfs")
BUILT = ["CreateVolume", "ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume"]
CHANGED = ["ControllerExpandVolume", "NodeExpandVolume", "ControllerModifyVolume"]
UNDONE = ["NodeUnpublishVolume", "NodeUnstageVolume", "ControllerUnpublishVolume", "DeleteVolume"]


class Life:
    """The calls about one volume, made by one plugin after the other."""

    def __init__(self, cluster, name, capability, replicas=1):
        self.cluster = cluster
        self.name = name
        self.replicas = str(replicas)
        self.capability = capability
        self.id = ""

    def fields(self, call):
        staging = self.cluster.staging(NODE, self.name)
        volume = {"volume_id": self.id}
        size = {"capacity_range": {"required_bytes": 400 * MIB}}
        return {
            "CreateVolume": {"name": self.name, "volume_capabilities": [self.capability],
                             "parameters": {"replicas": self.replicas},
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
        self.devices = []
        self.addCleanup(self.abandon_devices)  # the last: when no holder is left to wait for
        self.cluster = CsiCluster()
        self.addCleanup(lambda: self.cluster.__exit__(*sys.exc_info()))
        self.cluster.__enter__()

    def abandon_devices(self):
        for device in self.devices:
            device.abandon()

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
        """The call again and all that follow; or, at every second point, only what undoes it: of files
        and of blocks, which take turns."""
        calls = BUILT + CHANGED + UNDONE
        begin = calls.index(died)
        undo_at_once = number // 10 % 4 in (1, 2) and died in BUILT + CHANGED and life.id
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

    # --- a node that is fenced ---

    def open_device(self, path):
        self.devices.append(OpenDevice(path))
        return self.devices[-1]

    def built(self, name):
        """A block volume with a copy on each node, at a pod's path of node 2."""
        life = Life(self.cluster, name, block(), replicas=3)
        for call in BUILT:
            life.make(self.cluster.plugins[NODE], call)
        return life

    def undo(self, life):
        for call in UNDONE:
            life.again(self.cluster.plugins[NODE], call)
        self.check("the fencing of node 2")

    def write_at(self, path, data):
        device = self.open_device(path)
        self.assertEqual((device.write(PLACE, data), device.sync()), (0, 0))
        device.close()

    def read_at(self, path):
        device = self.open_device(path)
        answer = device.read(PLACE, BLOCK)
        device.close()
        return answer

    def old_node_comes_back(self, life, old):
        """Node 2 is dead; node 3 has the volume, writes, and gives it back. Node 2 comes again."""
        other = Other(self.cluster, life)
        other.take(3)
        self.write_at(other.target, NEW)
        other.give_back()
        self.assertFalse(old.has_ended())
        self.cluster.restart(NODE)
        wait_for("the old device to go", lambda: not self.cluster.devices(NODE), within=30)

    def never_landed(self, life):
        other = Other(self.cluster, life)
        other.take(1)
        self.assertEqual(self.read_at(other.target), (0, NEW))
        other.give_back()

    def test_what_an_old_node_still_has_never_lands(self):
        """Node 2 dies with a write in its kernel. When it comes again, so does its write: nowhere."""
        life = self.built("fenced")
        old = self.open_device(life.target())
        self.assertEqual((old.write(PLACE, OLD), old.sync(), old.write(PLACE, LATE)), (0, 0, 0))
        self.cluster.kill(NODE)
        self.old_node_comes_back(life, old)
        self.assertNotEqual((old.write(PLACE, LATE), old.sync()), (0, 0))
        old.close()
        self.never_landed(life)
        self.undo(life)

    def test_what_waited_on_an_old_node_ends_with_an_error(self):
        """The same with a sync under way, which waits while node 2 is dead."""
        life = self.built("waited")
        old = self.open_device(life.target())
        self.cluster.kill(NODE)
        self.assertEqual(old.write(PLACE, LATE), 0)
        old.begin("sync")
        self.old_node_comes_back(life, old)
        self.assertNotEqual(old.end()[0], 0)
        old.close()
        self.never_landed(life)
        self.undo(life)

    def test_what_waited_for_a_removed_volume_ends_with_an_error(self):
        """The same, and the volume is deleted before node 2 comes again."""
        life = self.built("removed")
        old = self.open_device(life.target())
        self.cluster.kill(NODE)
        self.assertEqual(old.write(PLACE, LATE), 0)
        old.begin("sync")
        other = Other(self.cluster, life)
        other.take(3)
        other.give_back()
        patiently(lambda: self.cluster.plugins[3].call("DeleteVolume", volume_id=life.id))
        self.assertFalse(old.has_ended())
        self.cluster.restart(NODE)
        self.assertNotEqual(old.end()[0], 0)
        old.close()
        self.check_removed()

    def test_writes_to_a_volume_that_is_removed_by_force_end(self):
        """Node 2 lives and writes; on node 3 somebody insists."""
        life = self.built("insisted")
        old = self.open_device(life.target())
        old.begin("stream", PLACE, LATE.hex())
        self.cluster.cvol(3, "volume", "rm", "--force", "insisted")
        self.assertNotEqual(old.end()[0], 0)
        old.close()
        self.check_removed()

    def check_removed(self):
        wait_for("the old device to go", lambda: not self.cluster.devices(NODE), within=30)
        wait_for("its holder to end", lambda: not self.cluster.holders(NODE))
        self.assertEqual(self.cluster.json(1, "volume", "ls"), [])

    def test_a_node_that_lives_is_fenced_under_its_writes(self):
        """Node 3 takes the volume by force, while node 2 writes to it."""
        life = self.built("taken")
        old = self.open_device(life.target())
        self.assertEqual((old.write(PLACE, OLD), old.sync()), (0, 0))
        old.begin("stream", PLACE, LATE.hex())
        time.sleep(1)
        self.assertFalse(old.has_ended())
        self.cluster.cvol(3, "volume", "force-attach", "taken")
        self.assertNotEqual(old.end()[0], 0)
        wait_for("the old device to go", lambda: not self.cluster.devices(NODE), within=30)
        self.write_at(self.cluster.json(3, "volume", "inspect", "taken")["device"], NEW)
        self.assertNotEqual((old.write(PLACE, LATE), old.sync()), (0, 0))
        old.close()
        self.cluster.cvol(3, "volume", "detach", "taken")
        self.never_landed(life)
        self.undo(life)


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
