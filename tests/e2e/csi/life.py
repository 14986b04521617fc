#!/usr/bin/env python3
"""The life of a stateful set's volume, played with an orchestrator's calls on three nodes.

  1. Provisioned with topology: a replica in each zone, the first where the pod is to run.
  2. PostgreSQL runs on it at node 2; meanwhile no other node gets it.
  3. The pod moves to node 3; what was committed is there.
  4. The volume grows while pgbench runs.
  5. Node 3 dies without a word. Node 1 gets the volume at once, PostgreSQL recovers there, and all
     that was committed is there. When node 3 is back, nothing of it can write any more.
  6. Deleted; nothing stays.

usage: life.py
"""
import contextlib
import glob
import os
import pathlib
import pwd
import signal
import subprocess
import sys
import threading
import time

import grpc

from csi_harness import (GIB, MIB, NOT_HERE, Code, CsiCluster, CsiProcess, may_grow_ext4, mount,
                         patiently, require_root, wait_for)

# The nodes share a kernel here, and an XFS that is left on one would keep it from the next.
CAPABILITY = (mount(fs_type="ext4", mount_flags=["nodev"]) if may_grow_ext4() else
              mount(fs_type="xfs", mount_flags=["nodev", "nouuid"]))
PG = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), None)


class Database:
    """PostgreSQL on a pod's path, run as the user of that name."""
    servers = []

    def __init__(self, path, port):
        self.data = pathlib.Path(path) / "pgdata"
        self.port = port
        self.user = pwd.getpwnam("postgres")
        self.server = None

    def run(self, *command, **more):
        return subprocess.run(command, user=self.user.pw_uid, group=self.user.pw_gid, cwd="/",
                              check=True, capture_output=True, text=True, timeout=300, **more)

    def make(self):
        self.run(f"{PG}/initdb", "-D", str(self.data), "-A", "trust", "-N")

    def start(self):
        self.server = subprocess.Popen(
            [f"{PG}/postgres", "-D", str(self.data), "-p", str(self.port), "-k", "/tmp",
             "-c", "listen_addresses="], user=self.user.pw_uid, group=self.user.pw_gid, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        Database.servers.append(self.server)

        def answers():
            assert self.server.poll() is None, "postgres ended"
            try:
                return self.query("SELECT 1") == "1"
            except subprocess.CalledProcessError:
                return False
        wait_for("PostgreSQL", answers, within=120, every=0.2)

    def query(self, text):
        return self.run(f"{PG}/psql", "-h", "/tmp", "-p", str(self.port), "-Atqc", text,
                        "postgres").stdout.strip()

    def stop(self):
        self.server.send_signal(signal.SIGINT)
        self.server.wait(timeout=60)

    def kill(self):
        """All of it, as when its node dies; those that wait for the device end with it."""
        os.killpg(self.server.pid, signal.SIGKILL)

    def load(self, seconds):
        return subprocess.Popen(
            [f"{PG}/pgbench", "-h", "/tmp", "-p", str(self.port), "-T", str(seconds), "-c", "2",
             "postgres"], user=self.user.pw_uid, group=self.user.pw_gid, cwd="/",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Ledger:
    """Inserts numbers, one after the other; knows which ones were committed."""

    def __init__(self, database):
        self.database = database
        self.committed = 0
        self.session = subprocess.Popen(
            [f"{PG}/psql", "-h", "/tmp", "-p", str(database.port), "-At", "postgres"],
            user=database.user.pw_uid, group=database.user.pw_gid, cwd="/", text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.thread = threading.Thread(target=self.insert, daemon=True)
        self.thread.start()

    def insert(self):
        try:
            while True:
                self.session.stdin.write(f"INSERT INTO ledger VALUES ({self.committed + 1});\n")
                self.session.stdin.flush()
                if self.session.stdout.readline().strip() != "INSERT 0 1":
                    return
                self.committed += 1
        except (OSError, ValueError):
            return


class Pod:
    """The volume on one node, from published to the pod's path."""

    def __init__(self, cluster, controller, volume, node, name):
        self.cluster = cluster
        self.controller = controller
        self.volume = volume
        self.number = node
        self.staging = cluster.staging(node, volume.volume_id)
        self.path = cluster.target(node, name)

    @property
    def node(self):
        return self.cluster.plugins[self.number]

    def publish(self):
        return patiently(lambda: self.controller.call(
            "ControllerPublishVolume", volume_id=self.volume.volume_id,
            node_id=f"node{self.number}", volume_capability=CAPABILITY), within=30,
            # Until the node that had it is known to be dead.
            codes=(Code.ABORTED, Code.UNAVAILABLE, Code.FAILED_PRECONDITION))

    def start(self):
        context = self.publish().publish_context
        patiently(lambda: self.node.call(
            "NodeStageVolume", volume_id=self.volume.volume_id, publish_context=context,
            staging_target_path=self.staging, volume_capability=CAPABILITY))
        patiently(lambda: self.node.call(
            "NodePublishVolume", volume_id=self.volume.volume_id, publish_context=context,
            staging_target_path=self.staging, target_path=self.path,
            volume_capability=CAPABILITY))
        for folder in (self.cluster.folder, pathlib.Path(self.path).parents[1],
                       pathlib.Path(self.path).parent):
            folder.chmod(0o755)

    def leave(self):
        patiently(lambda: self.node.call("NodeUnpublishVolume", volume_id=self.volume.volume_id,
                                         target_path=self.path))
        patiently(lambda: self.node.call("NodeUnstageVolume", volume_id=self.volume.volume_id,
                                         staging_target_path=self.staging))

    def stop(self):
        self.leave()
        patiently(lambda: self.controller.call("ControllerUnpublishVolume",
                                               volume_id=self.volume.volume_id,
                                               node_id=f"node{self.number}"))


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def provision(cluster, controller):
    segments = [{"segments": {"topology.cvol.io/node": f"node{n}",
                              "topology.cvol.io/zone": f"zone{n}"}} for n in (2, 1, 3)]
    volume = controller.call(
        "CreateVolume", name="pvc-data-db-0", volume_capabilities=[CAPABILITY],
        capacity_range={"required_bytes": 512 * MIB},
        parameters={"replicas": "3", "minInSync": "2", "zoneSpread": "true"},
        accessibility_requirements={"requisite": segments, "preferred": segments}).volume
    seen = cluster.json(1, "volume", "inspect", volume.volume_id)
    assert {copy["node"] for copy in seen["copies"]} == {"node1", "node2", "node3"}, seen
    assert [c["node"] for c in seen["copies"] if c["primary"]] == ["node2"], seen
    say("provisioned: three replicas in three zones, the primary where the pod will be")
    return volume


def run_at_node_2(cluster, controller, volume):
    pod = Pod(cluster, controller, volume, 2, "db-0")
    pod.start()
    os.chown(pod.path, *[pwd.getpwnam("postgres").pw_uid] * 2)
    database = Database(pod.path, 25432)
    database.make()
    database.start()
    database.query("CREATE TABLE ledger (n int primary key)")
    database.run(f"{PG}/pgbench", "-h", "/tmp", "-p", "25432", "-i", "-s", "1", "-q", "postgres")
    refused = controller.code("ControllerPublishVolume", volume_id=volume.volume_id,
                              node_id="node3", volume_capability=CAPABILITY)
    assert refused == Code.FAILED_PRECONDITION, refused
    ledger = Ledger(database)
    time.sleep(2)
    ledger.session.kill()
    database.stop()
    pod.stop()
    say(f"ran at node 2, refused to node 3 meanwhile; {ledger.committed} rows committed")
    return ledger.committed


def grow_at_node_3(pod, controller, volume, database):
    load = database.load(6)
    time.sleep(1)
    controller.call("ControllerExpandVolume", volume_id=volume.volume_id,
                    capacity_range={"required_bytes": GIB})
    pod.node.call("NodeExpandVolume", volume_id=volume.volume_id, volume_path=pod.path,
                  staging_target_path=pod.staging, capacity_range={"required_bytes": GIB})
    found = os.statvfs(pod.path)
    assert found.f_blocks * found.f_frsize > 900 * MIB, found
    output, _ = load.communicate(timeout=120)
    assert load.returncode == 0 and "aborted" not in output, output
    say("grew to 1GiB under pgbench: " + next(
        line for line in output.splitlines() if line.startswith("tps")))


def die_at_node_3(cluster, controller, volume, old, database, written):
    database.query("DELETE FROM ledger")
    ledger = Ledger(database)
    time.sleep(2)
    cluster.kill(3)
    begin = time.monotonic()
    pod = Pod(cluster, controller, volume, 1, "db-0")
    pod.publish()
    published = time.monotonic() - begin
    committed = ledger.committed
    pod.start()
    recovered = Database(pod.path, 25433)
    pid = recovered.data / "postmaster.pid"
    pid.unlink(missing_ok=True)
    recovered.start()
    rows = int(recovered.query("SELECT count(*) FROM ledger"))
    assert rows >= committed > 0, (rows, committed)
    say(f"node 3 died: published to node 1 after {published:.1f} s, PostgreSQL answered after "
        f"{time.monotonic() - begin:.1f} s with {rows} rows, {committed} of them seen committed "
        f"(and {written} before)")
    # Back again: what it still had of the volume is gone, and lands nowhere.
    database.kill()
    ledger.session.kill()
    cluster.restart(3)
    wait_for("node 3 to let go", lambda: not cluster.devices(3), within=30)
    assert cluster.mounts(cluster.folder / "pods3") == [], cluster.mounts()
    old.leave()
    after = int(recovered.query("SELECT count(*) FROM ledger"))
    assert after == rows, (after, rows)
    check = recovered.run(f"{PG}/psql", "-h", "/tmp", "-p", "25433", "-Atqc",
                          "SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history) "
                          "FROM pgbench_accounts", "postgres").stdout.strip()
    assert check == "t", check
    recovered.stop()
    pod.stop()
    say("node 3 is back: nothing of it was left, and nothing of it landed")


def main():
    require_root()
    if PG is None or not os.path.exists(f"{PG}/postgres"):
        print("PostgreSQL is not installed: skipped")
        return NOT_HERE
    with CsiCluster() as cluster, CsiProcess(cluster, 1, "controller") as plugin:
        controller = plugin.plugin
        try:
            volume = provision(cluster, controller)
            written = run_at_node_2(cluster, controller, volume)
            pod = Pod(cluster, controller, volume, 3, "db-0")
            pod.start()
            database = Database(pod.path, 25434)
            database.start()
            rows = int(database.query("SELECT count(*) FROM ledger"))
            assert rows >= written, (rows, written)
            say(f"moved to node 3: {rows} rows are there")
            grow_at_node_3(pod, controller, volume, database)
            die_at_node_3(cluster, controller, volume, pod, database, written)
            controller.call("DeleteVolume", volume_id=volume.volume_id)
            try:
                controller.call("ControllerGetVolume", volume_id=volume.volume_id)
                raise AssertionError("it is still there")
            except grpc.RpcError as error:
                assert error.code() == Code.NOT_FOUND, error
            wait_for("nothing left", lambda: not cluster.leftovers(), within=15)
            say("deleted; nothing is left")
        finally:
            for started in Database.servers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
