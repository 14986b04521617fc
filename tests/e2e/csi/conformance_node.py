"""Node, call by call (conformance.py)."""
import concurrent.futures
import os
import pathlib
import subprocess
import uuid

from conformance_case import Case, cluster
from csi_harness import GIB, MIB, Code, Mode, block, may_grow_ext4, mount, pb, run

NodeRpc = pb.NodeServiceCapability.RPC


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

    def test_foreign_mount(self):
        """NodeStageVolume: what others mounted at the path is not the volume, and stays."""
        volume = self.create(capability=mount())
        context = self.publish(volume, 2, mount())
        path = pathlib.Path(cluster.staging(2, volume.volume_id))
        path.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "foreign", str(path))
        self.addCleanup(subprocess.run, ["umount", str(path)], check=False,
                        stderr=subprocess.DEVNULL)
        (path / "theirs").write_text("x", encoding="utf-8")
        self.refused(Code.FAILED_PRECONDITION, "NodeStageVolume", 2,
                     **self.stage_fields(volume, 2, mount(), context))
        self.call("NodeUnstageVolume", 2, volume_id=volume.volume_id,
                  staging_target_path=str(path))
        self.assertEqual((path / "theirs").read_text(encoding="utf-8"), "x")
        self.assertEqual(cluster.devices(2), [])
        run("umount", str(path))
        self.stage(volume, 2, mount(), context)

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
        writers = self.ready(block(Mode.SINGLE_NODE_MULTI_WRITER))
        fields = self.show_fields(writers, capability=block(Mode.SINGLE_NODE_MULTI_WRITER))
        self.call("NodePublishVolume", 2, **fields)
        self.refused(Code.FAILED_PRECONDITION, "NodePublishVolume", 2,
                     **dict(fields, target_path=self.target(2, "b"), readonly=True))
        with open(fields["target_path"], "r+b", buffering=0) as file:
            file.write(b"w" * 4096)
        device = self.create(capability=block())
        context = self.publish(device, 2, readonly=True)
        self.stage(device, 2, context=context)
        fields = self.show_fields(device, readonly=True, pod="b")
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
        self.call("NodeUnpublishVolume", 2, volume_id=volume.volume_id, target_path=str(target))
        self.assertEqual((target / "mine").read_text(encoding="utf-8"), "x")
        empty = pathlib.Path(self.target(pod="b"))
        empty.touch()
        self.call("NodeUnpublishVolume", 2, volume_id=volume.volume_id, target_path=str(empty))
        self.assertTrue(empty.exists())
        empty.unlink()
        (target / "mine").unlink()
        target.rmdir()


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
            NodeRpc.VOLUME_CONDITION, NodeRpc.SINGLE_NODE_MULTI_WRITER})
