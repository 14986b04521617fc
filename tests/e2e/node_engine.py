"""An engine for each node of a cluster. Each node has a network namespace; its engine runs in that,
and finds its node's plugin where every dockerd looks for it, in a mount namespace of its own.
"""
import contextlib
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from cluster_harness import Cluster
from engine import PLUGIN_DIR, Engine, run, unmount_below


class NodeEngine(Engine):
    """The engine of one node: in its network, with its plugin, and with its socket where that
    node's volumed looks for dockerd."""

    def __init__(self, cluster, node):
        super().__init__()
        self.cluster = cluster
        self.node = node
        self.plugins = plugins_of(cluster, node)
        self.host = f"unix://{docker_socket_of(cluster, node)}"

    def in_node(self, words):
        inside = self.cluster.network.inside(self.cluster.network.namespace(self.node))
        if self.containerd is None:
            # Mounts of the host appear inside, those of the engine do not appear outside.
            return [*inside, "unshare", "--mount", "--propagation", "slave", "sh", "-ec",
                    f'mount --bind "$0" {PLUGIN_DIR}; exec "$@"', self.plugins, *words]
        return ["nsenter", f"--target={self.containerd.pid}", "--mount", "--net", "--", *words]

    def processes(self):
        """What this node runs: volumed, devices, the engine and what is in containers."""
        roots = {self.cluster.nodes[self.node].pid(), self.process.pid, self.containerd.pid,
                 *self.cluster.holders(self.node)}
        parents = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int(
                    (folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError):
                continue
            if b"containerd-shim" in words[0] and self.containerd_socket.encode() in words:
                roots.add(int(folder.name))
        found = set()
        while roots - found:
            found |= roots
            roots = {pid for pid, parent in parents.items() if parent in found}
        return found - {None}


class EngineCluster(Cluster):
    """Nodes with devices and the plugin, each of which knows where its engine listens."""

    def volumed_command(self, node):
        command = super().volumed_command(node)
        place = command.index(self.binaries / "volumed")
        return [*command[:place], "env", f"DOCKER_HOST=unix://{docker_socket_of(self, node)}",
                *command[place:]]


def plugins_of(cluster, node):
    return cluster.folder / f"node{node}" / "plugins"


def docker_socket_of(cluster, node):
    return cluster.folder / f"node{node}" / "docker.sock"


def prepare(cluster, nodes):
    """Before the cluster is up. Mounts below the cluster's directory reach the engines' mount
    namespaces."""
    PLUGIN_DIR.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", cluster.folder, cluster.folder)
    run("mount", "--make-rshared", cluster.folder)
    for node in nodes:
        plugins_of(cluster, node).mkdir(parents=True)
        cluster.settings["node_flags"][str(node)] = ["--docker-plugin-dir",
                                                     str(plugins_of(cluster, node))]


def clean_up(cluster):
    cluster.down()
    run("umount", "-l", cluster.folder, check=False)
    unmount_below(cluster.folder)
    cluster.delete()


@contextlib.contextmanager
def engine_cluster(nodes, **settings):
    """A cluster that is up, without engines yet."""
    cluster = EngineCluster(nodes=nodes, namespaces=True, attach=True, **settings)
    try:
        prepare(cluster, cluster.numbers)
        with cluster:
            yield cluster
    finally:
        clean_up(cluster)
