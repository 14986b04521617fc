#!/usr/bin/env python3
"""PostgreSQL in a container on a volume with three copies: nodes are killed, and the database sees
pauses only; then its own node is lost, and it goes on at another.

  1. `kill -9` of the node that holds the primary, again and again, under load. In every fourth round
     that is the container's own volumed: its device waits for the next one.
  2. The container's node stops with everything on it, under load. A container on another node, with
     an engine and a volumed of its own, takes the volume at once.
  3. The old node wakes up: nothing that it still wants to write arrives.

Each node has a network namespace; an engine runs in that of its node, and finds its node's plugin
where every dockerd looks for it, in a mount namespace of its own.

usage: postgres_cluster.py [--rounds N]     default 4, with CVOL_LONG=1 20
"""
import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from cluster_harness import Cluster, require_namespaces, stalls
from engine import LONG, PLUGIN_DIR, Engine, KernelLog, require_root, run, unmount_below, wait_for
from postgres import VOLUME, Database, check_file_system, report

LOAD_SECONDS = 8 if not LONG else 15


class NodeEngine(Engine):
    """The engine of one node: in its network, and with its plugin."""

    def __init__(self, cluster, node):
        super().__init__()
        self.cluster = cluster
        self.node = node
        self.plugins = plugins_of(cluster, node)

    def in_node(self, words):
        inside = self.cluster.network.inside(self.cluster.network.namespace(self.node))
        if self.containerd is None:
            # Mounts of the host appear inside, those of the engine do not appear outside.
            return [*inside, "unshare", "--mount", "--propagation", "slave", "sh", "-ec",
                    f'mount --bind "$0" {PLUGIN_DIR}; exec "$@"', self.plugins, *words]
        return ["nsenter", f"--target={self.containerd.pid}", "--mount", "--net", "--", *words]

    def processes(self):
        """Everything that this node runs: volumed, devices, the engine and what is in containers."""
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


def plugins_of(cluster, node):
    return cluster.folder / f"node{node}" / "plugins"


class Devices:
    """What KernelLog asks of a node."""

    def __init__(self, cluster, node):
        self.log = cluster.nodes[node].log

    def devices(self):
        return set(re.findall(r"device=/dev/(\w+)", self.log.read_text()))


def prepare(cluster, nodes):
    """Mounts below the cluster's directory reach the engines' mount namespaces."""
    PLUGIN_DIR.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", cluster.folder, cluster.folder)
    run("mount", "--make-rshared", cluster.folder)
    for node in nodes:
        plugins_of(cluster, node).mkdir(parents=True)
        cluster.settings["node_flags"][str(node)] = ["--docker-plugin-dir",
                                                     str(plugins_of(cluster, node))]


def primary_killed(cluster, database, number):
    """One round: under load, the node of the primary is killed; every commit is there."""
    own = number % 4 == 3
    victim = 1 if own else 2 + number % 2
    cluster.wait_in_sync(VOLUME)
    if cluster.primary(VOLUME) != victim:
        cluster.move(VOLUME, victim)
    load = database.load(LOAD_SECONDS)
    time.sleep(2)
    cluster.kill(victim)
    if own:
        cluster.start(victim)
    else:
        wait_for("another primary", lambda: cluster.primary(VOLUME) != victim, 60)
    load.end(expect_success=True)
    cluster.start(victim)
    committed, found = database.check(load)
    for word in ("PANIC", "Input/output error", "could not"):
        assert word not in database.logs(), f"{word} in the database's log:\n{database.logs()}"
    report(f"kill -9 of the primary{', on the container node' if own else ''}, round {number + 1}",
           committed=committed, found=found, of_this_round=len(load.committed()),
           longest_pause=f"{load.longest_pause():.2f} s")
    return load.longest_pause()


def node_lost(cluster, first, database, second, image):
    """The container's node stops; a container on node 2 takes over; the old one wakes up."""
    load = database.load(600)
    time.sleep(LOAD_SECONDS / 2)
    stopped = first.processes()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        after = Database(second, image)
        after.committed, after.runs = database.committed, database.runs
        after.start()
        took = time.monotonic() - begin
        # The log of what was seen committed lies on this host; pgbench of the old node is stopped.
        committed, found = after.check(load, words_stuck=True)
        report("the container's node is lost", committed=committed, found=found,
               of_this_round=len(load.committed()), database_back_after=f"{took:.1f} s")
    finally:
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
    # Both nodes run, and the old one still has a database that wants to write.
    writing = subprocess.Popen(
        first.command("exec", "database", "sh", "-c",
                      "echo x >/var/lib/postgresql/data/ghost && sync && echo WRITTEN"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    next_load = after.load(LOAD_SECONDS)
    next_load.end(expect_success=True)
    try:
        output, _ = writing.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        writing.kill()
        output, _ = writing.communicate()
    assert "WRITTEN" not in output, "the old node wrote to a volume that another one has"
    committed, found = after.check(next_load)
    listed = second.docker("exec", "database", "ls", "/var/lib/postgresql/data").stdout
    assert "ghost" not in listed, "a file of the old node is in the file system"
    report("the old node is back", committed=committed, found=found, wrote="nothing")
    load.ledger.kill()
    load.standard.kill()
    load.end(expect_success=False)
    first.docker("rm", "-f", "database", "clients", check=False)
    return after


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20 if LONG else 4)
    rounds = parser.parse_args().rounds
    require_root()
    require_namespaces()
    begin = time.monotonic()
    cluster = Cluster(namespaces=True, attach=True, journal="256MiB", capacity="8GiB")
    try:
        prepare(cluster, (1, 2))
        with cluster, NodeEngine(cluster, 1) as first:
            image = first.make_image("postgres")
            first.docker("volume", "create", "-d", "cvol", "-o", "size=2GiB", "-o", "replicas=3",
                         VOLUME)
            database = Database(first, image)
            report("initdb", ready_after=f"{database.start():.1f} s")
            database.create()
            log = KernelLog(Devices(cluster, 1))
            pauses = [primary_killed(cluster, database, number) for number in range(rounds)]
            trouble = log.trouble()
            assert not trouble, "the kernel log: " + "\n".join(trouble)
            report("all rounds", pauses=stalls(pauses), kernel_errors=0)
            with NodeEngine(cluster, 2) as second:
                second.make_image("postgres")
                after = node_lost(cluster, first, database, second, image)
                after.remove()
                device = cluster.cvol(2, "volume", "attach", VOLUME).stdout.split()[-1]
                report("file system", fsck=check_file_system(device))
                cluster.cvol(2, "volume", "detach", VOLUME)
                second.docker("volume", "rm", VOLUME)
    finally:
        cluster.down()
        run("umount", "-l", cluster.folder, check=False)
        unmount_below(cluster.folder)
        cluster.delete()
    print(f"postgres_cluster: passed in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
