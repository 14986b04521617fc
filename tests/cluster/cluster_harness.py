"""A cluster of a test's own, on scripts/local_cluster.py, and what its tests ask and do."""
import contextlib
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))
from local_cluster import (ETCD, ClusterError, LocalCluster,  # noqa: E402,F401
                           may_use_namespaces, run, wait_for)

import stamps  # noqa: E402

LONG = bool(os.environ.get("CVOL_LONG"))
NOT_ROOT = 77  # exit code: skipped
# Nothing may take longer: it would hang. Stalls are measured, not judged.
PATIENCE = 60.0


def rounds(short, long):
    return long if LONG else short


def say(what, **figures):
    print(f"{what}: " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)


def stalls(values):
    """"p50 0.41, p99 0.80, max 0.81 s of 50"."""
    values = sorted(values)
    p99 = values[min(len(values) - 1, int(len(values) * 0.99))]
    return (f"p50 {statistics.median(values):.2f}, p99 {p99:.2f}, max {values[-1]:.2f} s "
            f"of {len(values)}")


def discards(folder):
    """Whether the file system tells its disk of every extent that is freed."""
    mounted = run("findmnt", "--noheadings", "--output", "OPTIONS", "--target", folder).stdout
    return "discard" in mounted.strip().split(",")


def write_through(file):
    """Random writes leave thousands of extents, half of them unwritten, each of which such a file
    system discards on its own when the file is deleted: minutes. Written through, they are few."""
    with open(file, "r+b") as data:
        while block := data.read(4 << 20):
            data.seek(-len(block), os.SEEK_CUR)
            data.write(block)
        os.fsync(data.fileno())


def require_namespaces():
    if not may_use_namespaces():
        print("network namespaces need root, ip, nsenter and iptables: skipped")
        sys.exit(NOT_ROOT)


class Cluster(LocalCluster):
    """Up between `with` and its end; on failure the ends of the logs are printed. With CVOL_KEEP=1
    the directory of a failed test stays."""

    def __init__(self, nodes=3, namespaces=False, journal="64MiB", capacity="4GiB", flags=(),
                 attach=False, **settings):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="cvol-test-", dir="/var/tmp"))
        if not attach:
            flags = ["--attach-method", "none", *flags]
        LocalCluster.describe(folder, namespaces, nodes=nodes, journal=journal, capacity=capacity,
                              flags=list(flags), **settings)
        super().__init__(folder)

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and cleans up
        try:
            self.up()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.show_logs()
            if os.environ.get("CVOL_KEEP"):
                self.down()
                print(f"kept: {self.folder}")
                return
        self.down()
        if discards(self.folder):
            for file in self.folder.rglob("chunks"):
                write_through(file)
        self.delete()

    def show_logs(self, length=3000):
        for node, process in self.nodes.items():
            print(f"--- the log of node {node} ({process.state()}):\n"
                  + process.log.read_text(encoding="utf-8", errors="replace")[-length:])

    # --- nodes ---

    def kill(self, *nodes):
        """SIGKILL, to all before one is waited for."""
        for node in nodes:
            self.nodes[node].signal(signal.SIGKILL)
        for node in nodes:
            self.nodes[node].kill()

    def pause(self, node):
        self.nodes[node].signal(signal.SIGSTOP)

    def resume(self, node):
        self.nodes[node].signal(signal.SIGCONT)

    def start(self, *nodes):
        for node in nodes:
            self.start_node(node, wait=False)
        for node in nodes:
            self.wait_node(node)

    def mend(self):
        """Everything runs and is connected again."""
        self.heal()
        for process in (*self.nodes.values(), *self.etcds.values()):
            process.signal(signal.SIGCONT)
        self.up()

    def metrics(self, node):
        """name{labels} -> value"""
        with urllib.request.urlopen(f"http://{self.http(node)}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {name: float(value) for name, value in
                re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}

    def metric_sum(self, node, name, **labels):
        total = 0.0
        for key, value in self.metrics(node).items():
            if key.split("{")[0] == name and all(f'{k}="{v}"' in key for k, v in labels.items()):
                total += value
        return total

    # --- volumes ---

    def create_volume(self, name, size="64MiB", replicas=3, *flags, node=1, gateways=()):
        """With no copy on the nodes `gateways`."""
        for gateway in gateways:
            self.cvol(node, "node", "cordon", f"node{gateway}")
        self.cvol(node, "volume", "create", name, "--size", size, "--replicas", replicas, *flags)
        for gateway in gateways:
            self.cvol(node, "node", "uncordon", f"node{gateway}")
        self.wait_in_sync(name, replicas)

    def volume(self, name):
        """As the first node that answers sees it, or None."""
        for node in self.numbers:
            if self.nodes[node].state() != "running":
                continue
            with contextlib.suppress(ClusterError, ValueError, subprocess.TimeoutExpired):
                return self.json(node, "volume", "inspect", name, timeout=10)
        return None

    def copies(self, name):
        seen = self.volume(name)
        return [] if seen is None else seen["copies"]

    @staticmethod
    def number_of(copy):
        return int(copy["node"].removeprefix("node"))

    def primary(self, name):
        """Number of its node."""
        def find():
            return [self.number_of(copy) for copy in self.copies(name) if copy["primary"]]
        return wait_for(f"a primary of {name}", find)[0]

    def secondaries(self, name):
        return [self.number_of(copy) for copy in self.copies(name) if not copy["primary"]]

    def in_sync(self, name):
        return {self.number_of(copy) for copy in self.copies(name) if copy["in_sync"]}

    def wait_in_sync(self, name, count=3, within=120.0, every=0.1):
        wait_for(f"{count} copies of {name} in sync (now {self.copies(name)})",
                 lambda: len(self.in_sync(name)) >= count, within, every)

    def wait_settled(self, name, count=3, seconds=2.0):
        """In sync, and stays so: what was asked of the store while it was away has come true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if len(self.in_sync(name)) < count:
                self.wait_in_sync(name, count)
                until = time.monotonic() + seconds
            time.sleep(0.05)

    def wait_out_of_sync(self, name, node, within=30.0):
        wait_for(f"{name} without node {node}", lambda: node not in self.in_sync(name), within)

    def move(self, name, node):
        """The primary goes to the node, which has a copy in sync."""
        def moved():
            done = self.cvol(self.any_running(), "volume", "move", name, f"node{node}", check=False)
            return done.returncode == 0 and self.primary(name) == node
        wait_for(f"the primary of {name} on node {node}", moved, every=0.2)

    def explain(self, name, node):
        return self.cvol(node, "volume", "explain", name).stdout

    def writer(self, name, *nodes, history=None, blocks=8192, **more):
        """Through the NBD sockets of `nodes`, the next when one is gone."""
        history = history or stamps.History(name, blocks)
        return stamps.Writer([self.nbd_socket(node) for node in nodes], history, **more)

    def verify(self, name, history, node):
        """Reads everything through `node`."""
        return stamps.verify(self.nbd_socket(node), history)

    def check_copies(self, name, history, node):
        """Each copy in turn serves what was written; and cvol finds them equal."""
        handle = stamps.connect(self.nbd_socket(node), name)
        for holder in sorted(self.in_sync(name)):
            self.move(name, holder)
            stamps.verify(None, history, handle)
        handle.shutdown()
        if "verify" not in self.cvol(node, "volume", "--help").stdout:
            return  # this cvol has no such command
        done = self.cvol(self.any_running(), "volume", "verify", name, check=False, timeout=300)
        assert done.returncode == 0, f"volume verify {name}:\n{done.stdout}"

    def sent(self, name, node):
        """Bytes that the node's replica has sent in resyncs."""
        return int(self.json(node, "volume", "inspect", name)["resync_sent_bytes"])


class ClusterTest(unittest.TestCase):
    """Tests that share one cluster; each begins with all of it running, and has a volume name of its
    own."""
    SETTINGS = {}
    cluster = None
    number = 0

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(**cls.SETTINGS)
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(None, None, None)

    def setUp(self):
        self.cluster.mend()
        ClusterTest.number += 1
        self.name = f"v{ClusterTest.number}"

    def run(self, result=None):
        result = super().run(result)
        if result.failures or result.errors:
            self.cluster.show_logs()
            result.stop()  # what came after would fail for the same reason
        return result

    def tearDown(self):
        with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
            self.cluster.mend()
            self.cluster.cvol(1, "volume", "rm", "--force", self.name, check=False)
