#!/usr/bin/env python3
"""Every RPC as the CSI specification (1.12) has it: required fields, codes, idempotency, concurrency,
paging, both access types; on three nodes. The first line of each case names the section. Prints the
table of RPCs and cases at the end.

usage: conformance.py [unittest arguments]
"""
import collections
import concurrent.futures
import os
import pathlib
import re
import sys
import unittest
import uuid

from csi_harness import (GIB, MIB, Code, CsiCluster, Mode, block, may_grow_ext4, mount,
                         patiently, pb, require_root, run, wait_for)

Rpc = pb.ControllerServiceCapability.RPC
NodeRpc = pb.NodeServiceCapability.RPC
cluster = None
results = collections.OrderedDict()


def setUpModule():
    global cluster
    cluster = CsiCluster()
    cluster.__enter__()


def tearDownModule():
    cluster.__exit__(None, None, None)


class Case(unittest.TestCase):
    """Controller calls go to node 1, node calls to the node that is named."""

    def setUp(self):
        self.undo = []

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        good = len(result.failures) + len(result.errors) == before
        rpc = type(self).__name__
        results.setdefault(rpc, []).append(
            ("ok" if good else "FAILED", re.sub("^test_", "", self._testMethodName),
             (self._testMethodDoc or "").splitlines()[0]))
        return result

    def tearDown(self):
        for volume in self.undo:
            for node in cluster.numbers:
                for target in (self.target(node), self.target(node, "b")):
                    self.code("NodeUnpublishVolume", node, volume_id=volume, target_path=target)
                self.code("NodeUnstageVolume", node, volume_id=volume,
                          staging_target_path=cluster.staging(node, volume))
            self.code("ControllerUnpublishVolume", volume_id=volume)
            self.assertEqual(self.code("DeleteVolume", volume_id=volume), Code.OK)

    # --- calls ---

    def plugin(self, node):
        return cluster.plugins[node]

    def call(self, name, /, node=1, **fields):
        return patiently(lambda: self.plugin(node).call(name, **fields))

    def code(self, name, /, node=1, **fields):
        return self.plugin(node).code(name, **fields)

    def refused(self, code, name, /, node=1, **fields):
        self.assertEqual(self.code(name, node, **fields), code, f"{name} {fields}")

    def create(self, name=None, capability=None, size=64 * MIB, **more):
        made = self.call("CreateVolume", name=name or f"v-{uuid.uuid4().hex[:12]}",
                         volume_capabilities=[capability or block()],
                         capacity_range={"required_bytes": size}, **more).volume
        if made.volume_id not in self.undo:
            self.undo.append(made.volume_id)
        return made

    def publish(self, volume, node=2, capability=None, readonly=False):
        return self.call("ControllerPublishVolume", volume_id=volume.volume_id,
                         node_id=f"node{node}", volume_capability=capability or block(),
                         readonly=readonly).publish_context

    def stage_fields(self, volume, node=2, capability=None, context=None):
        return {"volume_id": volume.volume_id, "volume_capability": capability or block(),
                "staging_target_path": cluster.staging(node, volume.volume_id),
                "publish_context": context or {}, "volume_context": dict(volume.volume_context)}

    def stage(self, volume, node=2, capability=None, context=None):
        self.call("NodeStageVolume", node, **self.stage_fields(volume, node, capability, context))

    def target(self, node=2, pod="a"):
        return cluster.target(node, f"{self._testMethodName}-{pod}"[-90:])

    def show_fields(self, volume, node=2, capability=None, pod="a", readonly=False):
        return {"volume_id": volume.volume_id, "volume_capability": capability or block(),
                "staging_target_path": cluster.staging(node, volume.volume_id),
                "target_path": self.target(node, pod), "readonly": readonly}

    def ready(self, capability, node=2, size=64 * MIB, **more):
        """Created, published and staged."""
        volume = self.create(capability=capability, size=size, **more)
        context = self.publish(volume, node, capability)
        self.stage(volume, node, capability, context)
        return volume


class Identity(Case):
    def test_plugin_info(self):
        """Identity, GetPluginInfo: the name is a domain name, the version is not empty."""
        info = self.call("GetPluginInfo")
        self.assertRegex(info.name, r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])$")
        self.assertTrue(info.vendor_version)

    def test_capabilities(self):
        """Identity, GetPluginCapabilities: controller, topology, online expansion."""
        found = self.call("GetPluginCapabilities").capabilities
        services = {c.service.type for c in found if c.HasField("service")}
        self.assertEqual(services, {pb.PluginCapability.Service.CONTROLLER_SERVICE,
                                    pb.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS})
        grown = [c.volume_expansion.type for c in found if c.HasField("volume_expansion")]
        self.assertEqual(grown, [pb.PluginCapability.VolumeExpansion.ONLINE])

    def test_probe(self):
        """Identity, Probe: ready while the daemon answers."""
        self.assertTrue(self.call("Probe").ready.value)


class CreateVolume(Case):
    def test_required_fields(self):
        """CreateVolume: name and volume_capabilities are REQUIRED."""
        self.refused(Code.INVALID_ARGUMENT, "CreateVolume", volume_capabilities=[block()])
        self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="x")
        self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="x",
                     volume_capabilities=[pb.VolumeCapability()])

    def test_idempotent(self):
        """CreateVolume: the same name and compatible arguments answer the same volume."""
        first = self.create("same", size=64 * MIB)
        self.assertEqual(self.create("same", size=64 * MIB), first)
        again = self.call("CreateVolume", name="same", volume_capabilities=[block()],
                          capacity_range={"required_bytes": 32 * MIB, "limit_bytes": GIB}).volume
        self.assertEqual(again.volume_id, first.volume_id)

    def test_incompatible(self):
        """CreateVolume Errors: ALREADY_EXISTS if it exists with other capacity or parameters."""
        self.create("other", size=64 * MIB)
        self.refused(Code.ALREADY_EXISTS, "CreateVolume", name="other",
                     volume_capabilities=[block()], capacity_range={"required_bytes": GIB})
        self.refused(Code.ALREADY_EXISTS, "CreateVolume", name="other",
                     volume_capabilities=[block()], capacity_range={"required_bytes": 64 * MIB},
                     parameters={"replicas": "3"})

    def test_capacity(self):
        """CreateVolume, CapacityRange: at least required, at most limit; OUT_OF_RANGE else."""
        made = self.create(size=64 * MIB + 1)
        self.assertGreaterEqual(made.capacity_bytes, 64 * MIB + 1)
        for bad in ({"required_bytes": 1 << 60},
                    {"required_bytes": 4097 * 1024 + 1, "limit_bytes": 4097 * 1024 + 2},
                    {"limit_bytes": 1000}):
            self.refused(Code.OUT_OF_RANGE, "CreateVolume", name="range",
                         volume_capabilities=[block()], capacity_range=bad)
        for bad in ({"required_bytes": -1}, {"required_bytes": 2 * MIB, "limit_bytes": MIB}):
            self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="range",
                         volume_capabilities=[block()], capacity_range=bad)

    def test_default_capacity(self):
        """CreateVolume, capacity_range is OPTIONAL."""
        made = self.call("CreateVolume", name="default", volume_capabilities=[block()]).volume
        self.undo.append(made.volume_id)
        self.assertEqual(made.capacity_bytes, 10 * GIB)

    def test_parameters(self):
        """CreateVolume, parameters: what is unknown or out of range is INVALID_ARGUMENT."""
        for bad in ({"size": "1"}, {"replicas": "0"}, {"replicas": "many"}, {"fsType": "ntfs"},
                    {"zoneSpread": "yes"}, {"minInSync": "2"}, {"replicas": "9"}):
            self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="bad",
                         volume_capabilities=[mount()], parameters=bad)
        made = self.create(parameters={"replicas": "3", "minInSync": "2", "zoneSpread": "true"})
        seen = self.record(made)
        self.assertEqual((seen["replicas"], seen["min_in_sync"]), (3, 2))
        self.assertEqual({copy["node"] for copy in seen["copies"]}, {"node1", "node2", "node3"})

    def record(self, volume):
        return next(v for v in cluster.json(1, "volume", "ls")
                    if v["id"] == volume.volume_id)

    def test_mutable_parameters(self):
        """CreateVolume, mutable_parameters: they win over parameters."""
        made = self.create(parameters={"replicas": "1"}, mutable_parameters={"replicas": "2"})
        self.assertEqual(self.record(made)["replicas"], 2)
        self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="bad",
                     volume_capabilities=[block()], mutable_parameters={"fsType": "xfs"})

    def test_access_modes(self):
        """CreateVolume, AccessMode: single node modes; others exceed the capabilities."""
        for mode in (Mode.SINGLE_NODE_WRITER, Mode.SINGLE_NODE_READER_ONLY,
                     Mode.SINGLE_NODE_SINGLE_WRITER, Mode.SINGLE_NODE_MULTI_WRITER):
            self.create(capability=mount(mode))
        for mode in (Mode.UNKNOWN, Mode.MULTI_NODE_READER_ONLY, Mode.MULTI_NODE_SINGLE_WRITER,
                     Mode.MULTI_NODE_MULTI_WRITER):
            self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="multi",
                         volume_capabilities=[mount(mode)])

    def test_file_systems(self):
        """CreateVolume, VolumeCapability: a file system that is not served is refused."""
        self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="fs",
                     volume_capabilities=[mount(fs_type="btrfs")])
        self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="fs",
                     volume_capabilities=[mount(fs_type="xfs")], parameters={"fsType": "ext4"})

    def test_content_source(self):
        """CreateVolume, volume_content_source: neither snapshots nor clones are served."""
        for source in ({"snapshot": {"snapshot_id": "s"}}, {"volume": {"volume_id": "v"}}):
            self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name="clone",
                         volume_capabilities=[block()], volume_content_source=source)

    def test_names(self):
        """CreateVolume, name: any Unicode up to 128 bytes; control characters are banned."""
        for name in ("Volume of Zoë / nr. 1", "n" * 128, "-x", str(uuid.uuid4())):
            first = self.create(name)
            self.assertEqual(self.create(name).volume_id, first.volume_id)
        for name in ("n" * 129, "bell\x07"):
            self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name=name,
                         volume_capabilities=[block()])

    def test_topology(self):
        """CreateVolume, TopologyRequirement: preferred first; RESOURCE_EXHAUSTED if none is here."""
        for node in cluster.numbers:
            made = self.create(accessibility_requirements={"preferred": [
                {"segments": {"topology.cvol.io/node": f"node{node}"}}]})
            self.assertEqual([c["node"] for c in self.record(made)["copies"]], [f"node{node}"])
        zone = {"segments": {"topology.cvol.io/zone": "zone3"}}
        made = self.create(accessibility_requirements={"requisite": [zone], "preferred": [zone]})
        self.assertEqual([c["node"] for c in self.record(made)["copies"]], ["node3"])
        self.refused(Code.RESOURCE_EXHAUSTED, "CreateVolume", name="nowhere",
                     volume_capabilities=[block()], accessibility_requirements={
                         "requisite": [{"segments": {"topology.cvol.io/zone": "moon"}}]})

    def test_too_many_replicas(self):
        """CreateVolume Errors: RESOURCE_EXHAUSTED if it cannot be placed."""
        self.refused(Code.RESOURCE_EXHAUSTED, "CreateVolume", name="many",
                     volume_capabilities=[block()], parameters={"replicas": "4"})

    def test_in_parallel(self):
        """Error Scheme, ABORTED: one operation per volume; one volume comes of many calls."""
        fields = {"name": "parallel", "volume_capabilities": [block()],
                  "capacity_range": {"required_bytes": 64 * MIB}, "parameters": {"replicas": "3"}}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda _: self.code("CreateVolume", **fields), range(8)))
        self.assertIn(Code.OK, codes)
        self.assertLessEqual(set(codes), {Code.OK, Code.ABORTED})
        volume = self.call("CreateVolume", **fields).volume
        self.undo.append(volume.volume_id)
        names = [v["name"] for v in cluster.json(1, "volume", "ls")]
        self.assertEqual(names.count("parallel"), 1)


class DeleteVolume(Case):
    def test_required_fields(self):
        """DeleteVolume: volume_id is REQUIRED."""
        self.refused(Code.INVALID_ARGUMENT, "DeleteVolume")

    def test_idempotent(self):
        """DeleteVolume: a volume that does not exist is deleted: OK."""
        volume = self.create()
        for _ in range(3):
            self.call("DeleteVolume", volume_id=volume.volume_id)
        self.call("DeleteVolume", volume_id=str(uuid.uuid4()))
        self.call("DeleteVolume", volume_id="never-was")

    def test_in_use(self):
        """DeleteVolume Errors: FAILED_PRECONDITION while it is published."""
        volume = self.create()
        self.publish(volume)
        self.refused(Code.FAILED_PRECONDITION, "DeleteVolume", volume_id=volume.volume_id)

    def test_ids_are_not_names(self):
        """DeleteVolume: only the id means the volume, its name does not."""
        self.create("by-name")
        self.call("DeleteVolume", volume_id="by-name")
        self.assertIn("by-name", [v["name"] for v in cluster.json(1, "volume", "ls")])


class ControllerPublishVolume(Case):
    def test_required_fields(self):
        """ControllerPublishVolume: volume_id, node_id and volume_capability are REQUIRED."""
        volume = self.create()
        full = {"volume_id": volume.volume_id, "node_id": "node2", "volume_capability": block()}
        for field in full:
            self.refused(Code.INVALID_ARGUMENT, "ControllerPublishVolume",
                         **{k: v for k, v in full.items() if k != field})

    def test_not_found(self):
        """ControllerPublishVolume Errors: NOT_FOUND for the volume and for the node."""
        volume = self.create()
        self.refused(Code.NOT_FOUND, "ControllerPublishVolume", volume_id=str(uuid.uuid4()),
                     node_id="node1", volume_capability=block())
        self.refused(Code.NOT_FOUND, "ControllerPublishVolume", volume_id=volume.volume_id,
                     node_id="node9", volume_capability=block())

    def test_idempotent(self):
        """ControllerPublishVolume: again to the same node, with the same arguments: OK."""
        volume = self.create()
        self.assertEqual(self.publish(volume), self.publish(volume))

    def test_incompatible(self):
        """ControllerPublishVolume Errors: ALREADY_EXISTS with another readonly flag."""
        volume = self.create()
        self.publish(volume)
        self.refused(Code.ALREADY_EXISTS, "ControllerPublishVolume", volume_id=volume.volume_id,
                     node_id="node2", volume_capability=block(), readonly=True)

    def test_another_node(self):
        """ControllerPublishVolume Errors: FAILED_PRECONDITION while a living node has it."""
        volume = self.create()
        self.publish(volume, 2)
        self.refused(Code.FAILED_PRECONDITION, "ControllerPublishVolume", node=3,
                     volume_id=volume.volume_id, node_id="node3", volume_capability=block())
        self.call("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="node2")
        self.publish(volume, 3)

    def test_capability(self):
        """ControllerPublishVolume Errors: capabilities that are not served are refused."""
        volume = self.create()
        self.refused(Code.INVALID_ARGUMENT, "ControllerPublishVolume", volume_id=volume.volume_id,
                     node_id="node2", volume_capability=block(Mode.MULTI_NODE_MULTI_WRITER))


class ControllerUnpublishVolume(Case):
    def test_required_fields(self):
        """ControllerUnpublishVolume: volume_id is REQUIRED."""
        self.refused(Code.INVALID_ARGUMENT, "ControllerUnpublishVolume", node_id="node1")

    def test_idempotent(self):
        """ControllerUnpublishVolume: not published there, or no volume: OK."""
        volume = self.create()
        self.publish(volume, 2)
        for node in ("node1", "node9", "node2", "node2"):
            self.call("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id=node)
        self.call("ControllerUnpublishVolume", volume_id=str(uuid.uuid4()), node_id="node2")

    def test_other_node_keeps_it(self):
        """ControllerUnpublishVolume: only from the node that is named."""
        volume = self.create()
        self.publish(volume, 2)
        self.call("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="node1")
        seen = self.call("ControllerGetVolume", volume_id=volume.volume_id)
        self.assertEqual(list(seen.status.published_node_ids), ["node2"])

    def test_any_node(self):
        """ControllerUnpublishVolume: without node_id, from all nodes."""
        volume = self.create()
        self.publish(volume, 3)
        self.call("ControllerUnpublishVolume", volume_id=volume.volume_id)
        seen = self.call("ControllerGetVolume", volume_id=volume.volume_id)
        self.assertEqual(list(seen.status.published_node_ids), [])

    def test_staged(self):
        """RPC Interactions: a volume that is staged on a living node is not given away."""
        volume = self.ready(block())
        self.refused(Code.FAILED_PRECONDITION, "ControllerUnpublishVolume",
                     volume_id=volume.volume_id, node_id="node2")


class ValidateVolumeCapabilities(Case):
    def test_required_fields(self):
        """ValidateVolumeCapabilities: volume_id and volume_capabilities are REQUIRED."""
        volume = self.create()
        self.refused(Code.INVALID_ARGUMENT, "ValidateVolumeCapabilities",
                     volume_capabilities=[block()])
        self.refused(Code.INVALID_ARGUMENT, "ValidateVolumeCapabilities",
                     volume_id=volume.volume_id)

    def test_not_found(self):
        """ValidateVolumeCapabilities Errors: NOT_FOUND."""
        self.refused(Code.NOT_FOUND, "ValidateVolumeCapabilities", volume_id=str(uuid.uuid4()),
                     volume_capabilities=[block()])

    def test_confirmed(self):
        """ValidateVolumeCapabilities: what is served is confirmed, word for word."""
        volume = self.create(parameters={"mkfsOptions": "-i 8192"})
        answer = self.call("ValidateVolumeCapabilities", volume_id=volume.volume_id,
                           volume_capabilities=[block(), mount(fs_type="ext4")],
                           volume_context=dict(volume.volume_context))
        self.assertTrue(answer.HasField("confirmed"))
        self.assertEqual(len(answer.confirmed.volume_capabilities), 2)
        self.assertEqual(answer.confirmed.volume_context, volume.volume_context)

    def test_not_confirmed(self):
        """ValidateVolumeCapabilities: what is not served is not confirmed, and why is said."""
        volume = self.create()
        for more in ({"volume_capabilities": [block(Mode.MULTI_NODE_MULTI_WRITER)]},
                     {"volume_capabilities": [block()], "volume_context": {"x": "y"}},
                     {"volume_capabilities": [block()], "parameters": {"x": "y"}}):
            answer = self.call("ValidateVolumeCapabilities", volume_id=volume.volume_id, **more)
            self.assertFalse(answer.HasField("confirmed"))
            self.assertTrue(answer.message)


class ListVolumes(Case):
    def pages(self, size):
        token, seen = "", []
        while True:
            answer = self.call("ListVolumes", max_entries=size, starting_token=token)
            self.assertLessEqual(len(answer.entries), size)
            seen += [entry.volume.volume_id for entry in answer.entries]
            token = answer.next_token
            if not token:
                return seen

    def test_pages(self):
        """ListVolumes: max_entries and tokens; every volume once."""
        made = {self.create().volume_id for _ in range(5)}
        for size in (1, 2, 5, 100):
            seen = self.pages(size)
            self.assertEqual(len(seen), len(set(seen)))
            self.assertLessEqual(made, set(seen))
        everything = self.call("ListVolumes")
        self.assertEqual(everything.next_token, "")

    def test_tokens_are_stable(self):
        """ListVolumes: a token is good though volumes come and go; so is it on another node."""
        made = sorted(self.create().volume_id for _ in range(4))
        first = self.call("ListVolumes", max_entries=1)
        while first.next_token < made[1]:
            first = self.call("ListVolumes", max_entries=1, starting_token=first.next_token)
        self.call("DeleteVolume", volume_id=made[1])
        wait_for("node 3 to hear of it", lambda: made[1] not in {
            e.volume.volume_id for e in self.call("ListVolumes", 3).entries})
        rest = self.call("ListVolumes", 3, starting_token=first.next_token)
        seen = [entry.volume.volume_id for entry in rest.entries]
        self.assertLessEqual({made[2], made[3]}, set(seen))
        self.assertNotIn(made[0], seen)

    def test_bad_arguments(self):
        """ListVolumes Errors: ABORTED for a token that is none; a negative max_entries is invalid."""
        self.refused(Code.ABORTED, "ListVolumes", starting_token="nonsense")
        self.refused(Code.INVALID_ARGUMENT, "ListVolumes", max_entries=-1)

    def test_published_nodes(self):
        """LIST_VOLUMES_PUBLISHED_NODES: the nodes that each volume is published to."""
        volume = self.create()

        def nodes():
            entries = self.call("ListVolumes").entries
            return [list(e.status.published_node_ids) for e in entries
                    if e.volume.volume_id == volume.volume_id]
        self.assertEqual(nodes(), [[]])
        self.publish(volume, 3)
        self.assertEqual(nodes(), [["node3"]])


class ControllerGetVolume(Case):
    def test_codes(self):
        """ControllerGetVolume: volume_id is REQUIRED; NOT_FOUND."""
        self.refused(Code.INVALID_ARGUMENT, "ControllerGetVolume")
        self.refused(Code.NOT_FOUND, "ControllerGetVolume", volume_id=str(uuid.uuid4()))

    def test_condition(self):
        """VOLUME_CONDITION: said in words, normal while all replicas are in sync."""
        volume = self.create(parameters={"replicas": "3"})
        seen = self.call("ControllerGetVolume", volume_id=volume.volume_id)
        self.assertEqual(seen.volume, volume)
        self.assertFalse(seen.status.volume_condition.abnormal)
        self.assertIn("all 3 replicas", seen.status.volume_condition.message)


class GetCapacity(Case):
    def capacity(self, **fields):
        return self.call("GetCapacity", **fields).available_capacity

    def test_all(self):
        """GetCapacity: more replicas, less room; unknown parameters are refused."""
        one = self.capacity()
        three = self.capacity(parameters={"replicas": "3"})
        self.assertGreater(three, GIB)
        self.assertAlmostEqual(one / three, 3, delta=0.5)
        self.assertEqual(self.capacity(parameters={"replicas": "4"}), 0)
        self.refused(Code.INVALID_ARGUMENT, "GetCapacity", parameters={"x": "y"})

    def test_topology(self):
        """GetCapacity, accessible_topology: none outside of the cluster."""
        here = {"segments": {"topology.cvol.io/node": "node2"}}
        self.assertEqual(self.capacity(accessible_topology=here), self.capacity())
        nowhere = {"segments": {"topology.cvol.io/node": "node9"}}
        self.assertEqual(self.capacity(accessible_topology=nowhere), 0)

    def test_capabilities(self):
        """GetCapacity, volume_capabilities: none for what is not served."""
        self.assertEqual(self.capacity(volume_capabilities=[block(Mode.MULTI_NODE_MULTI_WRITER)]), 0)
        self.assertGreater(self.capacity(volume_capabilities=[block()]), 0)


class ControllerExpandVolume(Case):
    def test_required_fields(self):
        """ControllerExpandVolume: volume_id and capacity_range are REQUIRED."""
        volume = self.create()
        self.refused(Code.INVALID_ARGUMENT, "ControllerExpandVolume",
                     capacity_range={"required_bytes": GIB})
        self.refused(Code.INVALID_ARGUMENT, "ControllerExpandVolume", volume_id=volume.volume_id)

    def test_codes(self):
        """ControllerExpandVolume Errors: NOT_FOUND, OUT_OF_RANGE."""
        volume = self.create()
        self.refused(Code.NOT_FOUND, "ControllerExpandVolume", volume_id=str(uuid.uuid4()),
                     capacity_range={"required_bytes": GIB})
        for bad in ({"required_bytes": 1 << 60}, {"limit_bytes": 32 * MIB}):
            self.refused(Code.OUT_OF_RANGE, "ControllerExpandVolume", volume_id=volume.volume_id,
                         capacity_range=bad)

    def test_grows(self):
        """ControllerExpandVolume: idempotent; a volume that is large enough stays."""
        volume = self.create(parameters={"replicas": "3"})
        for size in (128, 128, 64):
            answer = self.call("ControllerExpandVolume", volume_id=volume.volume_id,
                               capacity_range={"required_bytes": size * MIB})
            self.assertEqual(answer.capacity_bytes, 128 * MIB)
            self.assertTrue(answer.node_expansion_required)


class ControllerModifyVolume(Case):
    def test_codes(self):
        """ControllerModifyVolume Errors: INVALID_ARGUMENT, NOT_FOUND."""
        volume = self.create()
        self.refused(Code.INVALID_ARGUMENT, "ControllerModifyVolume",
                     mutable_parameters={"replicas": "2"})
        self.refused(Code.NOT_FOUND, "ControllerModifyVolume", volume_id=str(uuid.uuid4()),
                     mutable_parameters={"replicas": "2"})
        for bad in ({"fsType": "xfs"}, {"replicas": "0"}, {"minInSync": "2"}):
            self.refused(Code.INVALID_ARGUMENT, "ControllerModifyVolume",
                         volume_id=volume.volume_id, mutable_parameters=bad)

    def test_replicas(self):
        """MODIFY_VOLUME: replicas and minInSync of a volume; idempotent."""
        volume = self.create()
        for _ in range(2):
            self.call("ControllerModifyVolume", volume_id=volume.volume_id,
                      mutable_parameters={"replicas": "3", "minInSync": "2"})

        def normal():
            seen = self.call("ControllerGetVolume", volume_id=volume.volume_id)
            return not seen.status.volume_condition.abnormal
        wait_for("three replicas", normal, within=60)


class Snapshots(Case):
    def test_unimplemented(self):
        """CreateSnapshot, DeleteSnapshot, ListSnapshots, GetSnapshot: UNIMPLEMENTED, not advertised."""
        for name in ("CreateSnapshot", "DeleteSnapshot", "ListSnapshots", "GetSnapshot"):
            self.refused(Code.UNIMPLEMENTED, name)


class ControllerGetCapabilities(Case):
    def test_all(self):
        """ControllerGetCapabilities: those of the other cases."""
        found = {c.rpc.type for c in self.call("ControllerGetCapabilities").capabilities}
        self.assertEqual(found, {
            Rpc.CREATE_DELETE_VOLUME, Rpc.PUBLISH_UNPUBLISH_VOLUME, Rpc.LIST_VOLUMES,
            Rpc.LIST_VOLUMES_PUBLISHED_NODES, Rpc.GET_CAPACITY, Rpc.PUBLISH_READONLY,
            Rpc.EXPAND_VOLUME, Rpc.GET_VOLUME, Rpc.VOLUME_CONDITION,
            Rpc.SINGLE_NODE_MULTI_WRITER, Rpc.MODIFY_VOLUME})


class NodeStageVolume(Case):
    def test_required_fields(self):
        """NodeStageVolume: volume_id, staging_target_path and volume_capability are REQUIRED."""
        volume = self.create()
        full = self.stage_fields(volume)
        for field in ("volume_id", "staging_target_path", "volume_capability"):
            self.refused(Code.INVALID_ARGUMENT, "NodeStageVolume", 2,
                         **{k: v for k, v in full.items() if k != field})

    def test_codes(self):
        """NodeStageVolume Errors: NOT_FOUND; FAILED_PRECONDITION if it is not published here."""
        volume = self.create()
        self.refused(Code.FAILED_PRECONDITION, "NodeStageVolume", 2, **self.stage_fields(volume))
        self.publish(volume, 3)
        self.refused(Code.FAILED_PRECONDITION, "NodeStageVolume", 2, **self.stage_fields(volume))
        fields = self.stage_fields(volume)
        fields["volume_id"] = str(uuid.uuid4())
        self.refused(Code.NOT_FOUND, "NodeStageVolume", 2, **fields)

    def test_idempotent(self):
        """NodeStageVolume: again with the same arguments: OK; with others: ALREADY_EXISTS."""
        capability = mount(fs_type="ext4")
        volume = self.ready(capability)
        self.stage(volume, capability=capability)
        self.refused(Code.ALREADY_EXISTS, "NodeStageVolume", 2, **self.stage_fields(volume))
        self.refused(Code.ALREADY_EXISTS, "NodeStageVolume", 2, **self.stage_fields(
            volume, capability=mount(fs_type="ext4", mount_flags=["sync"])))

    def test_mounts(self):
        """NodeStageVolume, MountVolume: ext4 and xfs, with flags, at the staging path."""
        for fs, size in (("ext4", 64 * MIB), ("xfs", 300 * MIB)):
            volume = self.ready(mount(fs_type=fs, mount_flags=["nodev", "sync"]), size=size)
            path = cluster.staging(2, volume.volume_id)
            lines = [line.split() for line in pathlib.Path("/proc/mounts").read_text(
                encoding="utf-8").splitlines() if line.split()[1] == path]
            self.assertEqual([line[2] for line in lines], [fs])
            self.assertLessEqual({"nodev", "sync"}, set(lines[0][3].split(",")))

    def test_bad_flags(self):
        """NodeStageVolume: flags that would make it another call are refused."""
        for flag in ("bind", "remount", "x y", "loop=/dev/loop0", "a,b"):
            capability = mount(mount_flags=[flag])
            volume = self.create(capability=capability)
            self.publish(volume, 2, capability)
            self.refused(Code.INVALID_ARGUMENT, "NodeStageVolume", 2,
                         **self.stage_fields(volume, capability=capability))

    def test_mkfs_options(self):
        """CreateVolume, parameters: mkfsOptions come to the node by volume_context."""
        volume = self.ready(mount(), parameters={"mkfsOptions": "-i 65536 -L data"})
        device = cluster.json(2, "volume", "inspect", volume.volume_id)["device"]
        self.assertEqual(run("blkid", "-p", "-s", "LABEL", "-o", "value", device).stdout.strip(),
                         "data")

    def test_never_formats_data(self):
        """NodeStageVolume: what is not blank is never formatted."""
        volume = self.ready(block())
        device = cluster.json(2, "volume", "inspect", volume.volume_id)["device"]
        with open(device, "r+b", buffering=0) as file:
            file.seek(10 * MIB)
            file.write(b"mine" * 1024)
            os.fsync(file.fileno())
        self.call("NodeUnstageVolume", 2, volume_id=volume.volume_id,
                  staging_target_path=cluster.staging(2, volume.volume_id))
        self.refused(Code.FAILED_PRECONDITION, "NodeStageVolume", 2,
                     **self.stage_fields(volume, capability=mount()))
        self.assertEqual(cluster.devices(2), [])
        self.stage(volume)
        device = cluster.json(2, "volume", "inspect", volume.volume_id)["device"]
        with open(device, "rb", buffering=0) as file:
            file.seek(10 * MIB)
            self.assertEqual(file.read(4096), b"mine" * 1024)

    def test_group(self):
        """VOLUME_MOUNT_GROUP: files belong to the group."""
        volume = self.ready(mount(volume_mount_group="4321"))
        found = os.stat(cluster.staging(2, volume.volume_id))
        self.assertEqual(found.st_gid, 4321)
        self.assertEqual(found.st_mode & 0o2070, 0o2070)

    def test_another_path(self):
        """RPC Interactions: once per volume and node."""
        volume = self.ready(block())
        fields = self.stage_fields(volume)
        fields["staging_target_path"] += "-other"
        self.refused(Code.FAILED_PRECONDITION, "NodeStageVolume", 2, **fields)

    def test_in_parallel(self):
        """Error Scheme: the second of two at once is ABORTED; called again it is OK."""
        capability = mount(fs_type="ext4")
        volume = self.create(capability=capability)
        self.publish(volume, 2, capability)
        fields = self.stage_fields(volume, capability=capability)
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            codes = list(pool.map(lambda _: self.code("NodeStageVolume", 2, **fields), range(6)))
        self.assertIn(Code.OK, codes)
        self.assertLessEqual(set(codes), {Code.OK, Code.ABORTED})
        self.stage(volume, capability=capability)
        self.assertEqual(len(cluster.devices(2)), 1)

    def test_deadline(self):
        """Timeouts: a call whose deadline passes goes on; called again it is there."""
        capability = mount(fs_type="ext4")
        volume = self.create(capability=capability)
        self.publish(volume, 2, capability)
        fields = self.stage_fields(volume, capability=capability)
        self.assertEqual(self.code("NodeStageVolume", 2, timeout=0.15, **fields),
                         Code.DEADLINE_EXCEEDED)
        self.stage(volume, capability=capability)


class NodeUnstageVolume(Case):
    def test_required_fields(self):
        """NodeUnstageVolume: volume_id and staging_target_path are REQUIRED."""
        volume = self.create()
        self.refused(Code.INVALID_ARGUMENT, "NodeUnstageVolume", 2,
                     staging_target_path=cluster.staging(2, volume.volume_id))
        self.refused(Code.INVALID_ARGUMENT, "NodeUnstageVolume", 2, volume_id=volume.volume_id)

    def test_not_found(self):
        """NodeUnstageVolume Errors: NOT_FOUND."""
        self.refused(Code.NOT_FOUND, "NodeUnstageVolume", 2, volume_id=str(uuid.uuid4()),
                     staging_target_path=cluster.staging(2, "none"))

    def test_idempotent(self):
        """NodeUnstageVolume: not staged there: OK. Nothing stays."""
        volume = self.ready(mount())
        path = cluster.staging(2, volume.volume_id)
        for where in (path + "-other", path, path):
            self.call("NodeUnstageVolume", 2, volume_id=volume.volume_id,
                      staging_target_path=where)
        self.assertEqual(cluster.mounts(), [])
        self.assertEqual(cluster.devices(2), [])

    def test_published(self):
        """RPC Interactions: not while it is published at a target path."""
        volume = self.ready(mount())
        self.call("NodePublishVolume", 2, **self.show_fields(volume, capability=mount()))
        self.refused(Code.FAILED_PRECONDITION, "NodeUnstageVolume", 2, volume_id=volume.volume_id,
                     staging_target_path=cluster.staging(2, volume.volume_id))


class NodePublishVolume(Case):
    def test_required_fields(self):
        """NodePublishVolume: volume_id, target_path and volume_capability are REQUIRED."""
        volume = self.ready(block())
        full = self.show_fields(volume)
        for field in ("volume_id", "target_path", "volume_capability"):
            self.refused(Code.INVALID_ARGUMENT, "NodePublishVolume", 2,
                         **{k: v for k, v in full.items() if k != field})
        del full["staging_target_path"]
        self.refused(Code.FAILED_PRECONDITION, "NodePublishVolume", 2, **full)

    def test_codes(self):
        """NodePublishVolume Errors: NOT_FOUND; FAILED_PRECONDITION if it is not staged."""
        volume = self.create()
        self.refused(Code.FAILED_PRECONDITION, "NodePublishVolume", 2, **self.show_fields(volume))
        fields = self.show_fields(volume)
        fields["volume_id"] = str(uuid.uuid4())
        self.refused(Code.NOT_FOUND, "NodePublishVolume", 2, **fields)

    def test_mount(self):
        """NodePublishVolume, mount: the files at target_path, which the plugin makes."""
        volume = self.ready(mount())
        fields = self.show_fields(volume, capability=mount())
        self.call("NodePublishVolume", 2, **fields)
        self.assertEqual(os.listdir(fields["target_path"]), [])
        pathlib.Path(fields["target_path"], "file").write_text("x", encoding="utf-8")
        staged = pathlib.Path(cluster.staging(2, volume.volume_id), "file")
        self.assertEqual(staged.read_text(encoding="utf-8"), "x")

    def test_block(self):
        """NodePublishVolume, block: the device at target_path."""
        volume = self.ready(block())
        fields = self.show_fields(volume)
        self.call("NodePublishVolume", 2, **fields)
        with open(fields["target_path"], "r+b", buffering=0) as file:
            self.assertEqual(file.seek(0, os.SEEK_END), 64 * MIB)
            file.seek(4096)
            file.write(b"z" * 4096)

    def test_readonly(self):
        """NodePublishVolume, readonly: writes are refused, for files and for a device."""
        volume = self.ready(mount())
        fields = self.show_fields(volume, capability=mount(), readonly=True)
        self.call("NodePublishVolume", 2, **fields)
        with self.assertRaises(OSError):
            pathlib.Path(fields["target_path"], "file").write_text("x", encoding="utf-8")
        self.call("NodeUnpublishVolume", 2, volume_id=volume.volume_id,
                  target_path=fields["target_path"])
        device = self.ready(block())
        fields = self.show_fields(device, readonly=True)
        self.call("NodePublishVolume", 2, **fields)
        with self.assertRaises(OSError):
            with open(fields["target_path"], "r+b", buffering=0) as file:
                file.write(b"z" * 4096)

    def test_controller_readonly(self):
        """PUBLISH_READONLY: a volume that is published readonly is staged so."""
        capability = mount()
        volume = self.ready(capability)
        path = cluster.staging(2, volume.volume_id)
        self.call("NodeUnstageVolume", 2, volume_id=volume.volume_id, staging_target_path=path)
        self.call("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="node2")
        context = self.publish(volume, 2, capability, readonly=True)
        self.stage(volume, 2, capability, context)
        with self.assertRaises(OSError):
            pathlib.Path(path, "file").write_text("x", encoding="utf-8")

    def test_second_call_single_writer(self):
        """NodePublishVolume, second table: SINGLE_NODE_SINGLE_WRITER and other single node modes."""
        for mode in (Mode.SINGLE_NODE_SINGLE_WRITER, Mode.SINGLE_NODE_WRITER):
            capability = mount(mode)
            volume = self.ready(capability)
            fields = self.show_fields(volume, capability=capability)
            self.call("NodePublishVolume", 2, **fields)
            self.call("NodePublishVolume", 2, **fields)
            self.refused(Code.ALREADY_EXISTS, "NodePublishVolume", 2, **{**fields, "readonly": True})
            self.refused(Code.FAILED_PRECONDITION, "NodePublishVolume", 2,
                         **{**fields, "target_path": self.target(2, "b")})
            self.call("NodeUnpublishVolume", 2, volume_id=volume.volume_id,
                      target_path=fields["target_path"])

    def test_second_call_multi_writer(self):
        """NodePublishVolume, second table: SINGLE_NODE_MULTI_WRITER."""
        capability = mount(Mode.SINGLE_NODE_MULTI_WRITER)
        volume = self.ready(capability)
        fields = self.show_fields(volume, capability=capability)
        self.call("NodePublishVolume", 2, **fields)
        self.call("NodePublishVolume", 2, **fields)
        self.refused(Code.ALREADY_EXISTS, "NodePublishVolume", 2, **{**fields, "readonly": True})
        self.call("NodePublishVolume", 2, **{**fields, "target_path": self.target(2, "b"),
                                             "readonly": True})


class NodeUnpublishVolume(Case):
    def test_required_fields(self):
        """NodeUnpublishVolume: volume_id and target_path are REQUIRED."""
        volume = self.create()
        self.refused(Code.INVALID_ARGUMENT, "NodeUnpublishVolume", 2, target_path="/x")
        self.refused(Code.INVALID_ARGUMENT, "NodeUnpublishVolume", 2, volume_id=volume.volume_id)

    def test_not_found(self):
        """NodeUnpublishVolume Errors: NOT_FOUND."""
        self.refused(Code.NOT_FOUND, "NodeUnpublishVolume", 2, volume_id=str(uuid.uuid4()),
                     target_path=self.target())

    def test_idempotent(self):
        """NodeUnpublishVolume: again: OK; target_path is removed, file or folder."""
        for capability in (mount(), block()):
            volume = self.ready(capability)
            fields = self.show_fields(volume, capability=capability)
            self.call("NodePublishVolume", 2, **fields)
            self.assertTrue(os.path.lexists(fields["target_path"]))
            for _ in range(2):
                self.call("NodeUnpublishVolume", 2, volume_id=volume.volume_id,
                          target_path=fields["target_path"])
                self.assertFalse(os.path.lexists(fields["target_path"]))

    def test_foreign_files_stay(self):
        """NodeUnpublishVolume: what is not of the volume is left alone."""
        volume = self.create()
        target = pathlib.Path(self.target())
        target.mkdir()
        (target / "mine").write_text("x", encoding="utf-8")
        self.refused(Code.FAILED_PRECONDITION, "NodeUnpublishVolume", 2,
                     volume_id=volume.volume_id, target_path=str(target))
        (target / "mine").unlink()
        self.call("NodeUnpublishVolume", 2, volume_id=volume.volume_id, target_path=str(target))


class NodeGetVolumeStats(Case):
    def test_codes(self):
        """NodeGetVolumeStats Errors: required fields; NOT_FOUND for the volume and the path."""
        volume = self.ready(mount())
        path = cluster.staging(2, volume.volume_id)
        self.refused(Code.INVALID_ARGUMENT, "NodeGetVolumeStats", 2, volume_path=path)
        self.refused(Code.INVALID_ARGUMENT, "NodeGetVolumeStats", 2, volume_id=volume.volume_id)
        self.refused(Code.NOT_FOUND, "NodeGetVolumeStats", 2, volume_id=str(uuid.uuid4()),
                     volume_path=path)
        self.refused(Code.NOT_FOUND, "NodeGetVolumeStats", 2, volume_id=volume.volume_id,
                     volume_path="/nowhere")

    def test_mount(self):
        """NodeGetVolumeStats, mount: bytes and inodes, and the volume's condition."""
        volume = self.ready(mount())
        answer = self.call("NodeGetVolumeStats", 2, volume_id=volume.volume_id,
                           volume_path=cluster.staging(2, volume.volume_id))
        units = {usage.unit: usage for usage in answer.usage}
        self.assertGreater(units[pb.VolumeUsage.BYTES].total, 40 * MIB)
        self.assertGreater(units[pb.VolumeUsage.BYTES].available, 30 * MIB)
        self.assertGreater(units[pb.VolumeUsage.INODES].total, 100)
        self.assertFalse(answer.volume_condition.abnormal)
        self.assertTrue(answer.volume_condition.message)

    def test_block(self):
        """NodeGetVolumeStats, block: the total."""
        volume = self.ready(block())
        fields = self.show_fields(volume)
        self.call("NodePublishVolume", 2, **fields)
        answer = self.call("NodeGetVolumeStats", 2, volume_id=volume.volume_id,
                           volume_path=fields["target_path"])
        self.assertEqual([usage.total for usage in answer.usage], [64 * MIB])


class NodeExpandVolume(Case):
    def test_codes(self):
        """NodeExpandVolume Errors: required fields, NOT_FOUND, OUT_OF_RANGE."""
        volume = self.ready(mount())
        path = cluster.staging(2, volume.volume_id)
        self.refused(Code.INVALID_ARGUMENT, "NodeExpandVolume", 2, volume_path=path)
        self.refused(Code.INVALID_ARGUMENT, "NodeExpandVolume", 2, volume_id=volume.volume_id)
        self.refused(Code.NOT_FOUND, "NodeExpandVolume", 2, volume_id=str(uuid.uuid4()),
                     volume_path=path)
        self.refused(Code.NOT_FOUND, "NodeExpandVolume", 2, volume_id=volume.volume_id,
                     volume_path="/nowhere")
        self.refused(Code.OUT_OF_RANGE, "NodeExpandVolume", 2, volume_id=volume.volume_id,
                     volume_path=path, capacity_range={"required_bytes": GIB})

    def grow(self, volume, path):
        self.call("ControllerExpandVolume", volume_id=volume.volume_id,
                  capacity_range={"required_bytes": GIB})
        for _ in range(2):
            answer = self.call("NodeExpandVolume", 2, volume_id=volume.volume_id, volume_path=path,
                               capacity_range={"required_bytes": GIB})
            self.assertEqual(answer.capacity_bytes, GIB)

    def test_mount(self):
        """NodeExpandVolume, mount: the file system grows while it is used; idempotent."""
        for fs in ("ext4", "xfs") if may_grow_ext4() else ("xfs",):
            volume = self.ready(mount(fs_type=fs), size=400 * MIB)
            path = cluster.staging(2, volume.volume_id)
            with open(pathlib.Path(path, "open"), "wb") as held:
                held.write(b"x")
                self.grow(volume, path)
            total = os.statvfs(path)
            self.assertGreater(total.f_blocks * total.f_frsize, 800 * MIB, fs)

    def test_block(self):
        """NodeExpandVolume, block: the device grows while it is open."""
        volume = self.ready(block())
        fields = self.show_fields(volume)
        self.call("NodePublishVolume", 2, **fields)
        with open(fields["target_path"], "rb", buffering=0) as file:
            self.grow(volume, fields["target_path"])
            self.assertEqual(file.seek(0, os.SEEK_END), GIB)


class NodeGetInfo(Case):
    def test_nodes(self):
        """NodeGetInfo: the node's id, and its topology with the keys of the driver."""
        for node in cluster.numbers:
            info = self.call("NodeGetInfo", node)
            self.assertEqual(info.node_id, f"node{node}")
            self.assertEqual(dict(info.accessible_topology.segments),
                             {"topology.cvol.io/node": f"node{node}",
                              "topology.cvol.io/zone": f"zone{node}"})


class NodeGetCapabilities(Case):
    def test_all(self):
        """NodeGetCapabilities: those of the other cases."""
        found = {c.rpc.type for c in self.call("NodeGetCapabilities").capabilities}
        self.assertEqual(found, {
            NodeRpc.STAGE_UNSTAGE_VOLUME, NodeRpc.GET_VOLUME_STATS, NodeRpc.EXPAND_VOLUME,
            NodeRpc.VOLUME_CONDITION, NodeRpc.SINGLE_NODE_MULTI_WRITER,
            NodeRpc.VOLUME_MOUNT_GROUP})


class Zz_NothingStays(Case):
    def test_nothing_stays(self):
        """All: no mount, device, folder, record or attachment is left."""
        self.assertEqual(cluster.leftovers(), [])
        self.assertEqual(cluster.json(1, "volume", "ls"), [])


def print_table():
    for rpc, cases in results.items():
        for outcome, name, section in cases:
            print(f"{rpc:28} {name:32} {outcome:7} {section}")
    everything = [case for cases in results.values() for case in cases]
    good = sum(case[0] == "ok" for case in everything)
    print(f"{good} of {len(everything)} cases")


if __name__ == "__main__":
    require_root()
    program = unittest.main(exit=False)
    print_table()
    sys.exit(0 if program.result.wasSuccessful() else 1)
