"""A cluster with CSI on every node, and the calls of an orchestrator.

Every volumed serves CSI itself; tests that want cvol-csi start it beside. The messages are compiled
from proto/csi/csi.proto when the test begins.
"""
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "tests" / "cluster"))
NOT_HERE = 77  # exit code: skipped

try:
    import grpc
    from grpc_tools import protoc
except ImportError:
    print("python3-grpcio and python3-grpc-tools are not installed: skipped")
    sys.exit(NOT_HERE)


def _compile():
    folder = tempfile.mkdtemp(prefix="cvol-csi-proto-")
    # The folder "csi" would hide a package of this name: the file goes to the top.
    source = (ROOT / "proto/csi/csi.proto").read_text(encoding="utf-8")
    pathlib.Path(folder, "csi_wire.proto").write_text(source, encoding="utf-8")
    shared = "/usr/include" if pathlib.Path("/usr/include/google/protobuf").exists() else folder
    done = protoc.main(["protoc", f"-I{folder}", f"-I{shared}", f"--python_out={folder}",
                        f"--grpc_python_out={folder}", f"{folder}/csi_wire.proto"])
    assert done == 0, "protoc failed"
    sys.path.insert(0, folder)


_compile()
import csi_wire_pb2 as pb  # noqa: E402
import csi_wire_pb2_grpc as stubs  # noqa: E402
from cluster_harness import Cluster, ClusterError, run, wait_for  # noqa: E402,F401

GIB = 1 << 30
MIB = 1 << 20
Mode = pb.VolumeCapability.AccessMode
Code = grpc.StatusCode
CALL_TIME = 60


def require_root():
    if os.geteuid() != 0:
        print("not root: skipped")
        sys.exit(NOT_HERE)


def may_grow_ext4():
    """The kernel asks for CAP_SYS_RESOURCE, which containers of a test machine may lack."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"CapEff:\s*(\w+)", text).group(1), 16) >> 24 & 1 == 1


def block(mode=Mode.SINGLE_NODE_SINGLE_WRITER):
    return pb.VolumeCapability(block={}, access_mode={"mode": mode})


def mount(mode=Mode.SINGLE_NODE_SINGLE_WRITER, **how):
    return pb.VolumeCapability(mount=how, access_mode={"mode": mode})


class Plugin:
    """The calls of one plugin; each raises grpc.RpcError."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.channel = grpc.insecure_channel(f"unix:{path}")
        self.identity = stubs.IdentityStub(self.channel)
        self.controller = stubs.ControllerStub(self.channel)
        self.node = stubs.NodeStub(self.channel)

    def call(self, name, /, timeout=CALL_TIME, **fields):
        for service in (self.identity, self.controller, self.node):
            method = getattr(service, name, None)
            if method is not None:
                request = getattr(pb, f"{name}Request")(**fields)
                return method(request, timeout=timeout, wait_for_ready=True)
        raise AssertionError(f"no call {name}")

    def code(self, name, /, **fields):
        """OK, or the code of the error."""
        try:
            self.call(name, **fields)
            return Code.OK
        except grpc.RpcError as error:
            return error.code()

    def close(self):
        self.channel.close()


class CsiProcess:
    """cvol-csi beside a volumed."""

    def __init__(self, cluster, node, mode="all", crash_at=None):
        self.socket = cluster.run_dir(node) / f"plugin-{mode}.sock"
        self.log = open(cluster.folder / f"cvol-csi-{mode}-{node}.log", "a", encoding="utf-8")
        environment = dict(os.environ)
        if crash_at:
            environment["CVOL_CRASH_AT"] = crash_at
        self.process = subprocess.Popen(
            [cluster.binaries / "cvol-csi", "--endpoint", f"unix://{self.socket}", "--mode", mode,
             "--api", f"unix:{cluster.run_dir(node)}/api.sock"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment)
        wait_for("cvol-csi", self.socket.exists)
        self.plugin = Plugin(self.socket)

    def wait_dead(self, within=30):
        self.process.wait(timeout=within)

    def stop(self):
        self.plugin.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)
        self.log.close()
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class CsiCluster(Cluster):
    """Three nodes, a zone each, CSI on all of them, and folders for an orchestrator's paths."""

    def __init__(self, **settings):
        super().__init__(nodes=3, attach=True, etcd=1, zones=3, **settings)
        flags = {str(node): ["--csi-endpoint", f"unix://{self.run_dir(node)}/csi.sock"]
                 for node in self.numbers}
        self.settings["node_flags"] = flags
        self.plugins = {}

    def up(self):
        super().up()
        for node in self.numbers:
            self.plugins[node] = Plugin(self.run_dir(node) / "csi.sock")
            (self.folder / f"pods{node}").mkdir(exist_ok=True)

    def restart(self, node, crash_at=None):
        """With a crash point for the new process, if one is given."""
        if crash_at:
            os.environ["CVOL_CRASH_AT"] = crash_at
        try:
            self.start_node(node)
        finally:
            os.environ.pop("CVOL_CRASH_AT", None)
        self.plugins[node].close()
        self.plugins[node] = Plugin(self.run_dir(node) / "csi.sock")

    def delete(self):
        for plugin in self.plugins.values():
            plugin.close()
        for path in reversed(self.mounts()):
            subprocess.run(["umount", "-l", path], check=False, stderr=subprocess.DEVNULL)
        super().delete()

    # --- paths ---

    def staging(self, node, volume):
        path = self.folder / f"pods{node}" / "staging" / volume
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def target(self, node, pod):
        path = self.folder / f"pods{node}" / "pod" / pod
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    # --- what the kernel and the records say ---

    def mounts(self, below=None):
        below = str(below or self.folder / "pods")
        lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        return [line.split()[4] for line in lines if line.split()[4].startswith(below)]

    def devices(self, node):
        """Loop devices of the node's volumes."""
        text = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout
        return [line for line in text.splitlines() if f"{self.run_dir(node)}/" in line]

    def record(self, volume):
        return self.volume(volume)

    def leftovers(self):
        """What is there of volumes that are not: mounts, devices, folders, attachments."""
        found = [f"mount {path}" for path in self.mounts()]
        for node in self.numbers:
            found += [f"device {line}" for line in self.devices(node)]
            targets = self.folder / f"pods{node}" / "pod"
            found += [f"target {path}" for path in targets.glob("*")]
            held = self.run_dir(node) / "attach"
            found += [f"attachment {path}" for path in held.glob("attach/*")]
        for volume in self.json(self.any_running(), "volume", "ls"):
            if volume.get("node") or volume.get("device") or volume.get("stage"):
                found.append(f"record {volume['name']} on {volume.get('node')}")
        return found


def crash_points(part):
    """Names of the crash points in the sources below the folder."""
    names = []
    for path in sorted((ROOT / part).rglob("*.cpp")):
        names += re.findall(r'crash_point\("([\w-]+)"\)', path.read_text(encoding="utf-8"))
    return names


def patiently(what, within=60, codes=(Code.ABORTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)):
    """As orchestrators do: called again while the fault is a passing one."""
    deadline = time.monotonic() + within
    while True:
        try:
            return what()
        except grpc.RpcError as error:
            if error.code() not in codes or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
