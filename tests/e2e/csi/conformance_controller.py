"""Identity and Controller, call by call (conformance.py)."""
import concurrent.futures
import pathlib
import unittest
import uuid

from conformance_case import Case, cluster
from csi_harness import GIB, MIB, Code, Mode, block, mount, pb, wait_for

Rpc = pb.ControllerServiceCapability.RPC
MANIFESTS = pathlib.Path(__file__).resolve().parents[3] / "deploy/kubernetes/base"


def shipped_classes():
    """Name and parameters of each StorageClass that is shipped, as a provisioner reads them."""
    try:
        import yaml
    except ImportError as missing:
        raise unittest.SkipTest("python3-yaml is not installed") from missing
    documents = yaml.safe_load_all((MANIFESTS / "storageclass.yaml").read_text())
    return {one["metadata"]["name"]: one["parameters"] for one in documents
            if one and one["kind"] == "StorageClass"}


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

    def test_too_small_for_its_file_system(self):
        """CreateVolume: what no file system fits into is refused before it is bound."""
        self.refused(Code.INVALID_ARGUMENT, "CreateVolume", name=f"x-{uuid.uuid4().hex[:8]}",
                     volume_capabilities=[mount(fs_type="xfs")],
                     capacity_range={"required_bytes": 64 * MIB})

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


class ShippedClasses(Case):
    def test_all_calls(self):
        """StorageClass parameters: every call that is given them takes them, and means the same."""
        for name, parameters in shipped_classes().items():
            with self.subTest(name):
                made = self.create(capability=mount(), parameters=parameters)
                again = self.create(name=f"again-{made.volume_id}", capability=mount(),
                                    parameters=dict(parameters, **{
                                        "csi.storage.k8s.io/pvc/name": "claim",
                                        "csi.storage.k8s.io/pvc/namespace": "default"}))
                for volume in (made, again):
                    answer = self.call("ValidateVolumeCapabilities", volume_id=volume.volume_id,
                                       volume_capabilities=[mount()], parameters=parameters)
                    self.assertTrue(answer.HasField("confirmed"), answer.message)
                self.call("ControllerModifyVolume", volume_id=made.volume_id, mutable_parameters={
                    "csi.storage.k8s.io/pv/name": "pv", "replicas": parameters["replicas"]})


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

    def test_shipped_classes(self):
        """GetCapacity: the parameters of a StorageClass come unfiltered, reserved keys too."""
        self.assertTrue(shipped_classes())
        for name, parameters in shipped_classes().items():
            with self.subTest(name):
                self.assertGreater(self.capacity(parameters=parameters), 0)

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
