"""What the cases of conformance.py share: the cluster, the calls, the table of outcomes."""
import collections
import re
import unittest
import uuid

from csi_harness import MIB, Code, block, cluster_of, patiently

cluster = cluster_of()  # the one that runs
results = collections.OrderedDict()


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


def print_table():
    for rpc, cases in results.items():
        for outcome, name, section in cases:
            print(f"{rpc:28} {name:32} {outcome:7} {section}")
    everything = [case for cases in results.values() for case in cases]
    good = sum(case[0] == "ok" for case in everything)
    print(f"{good} of {len(everything)} cases")
