#!/usr/bin/env python3
"""PostgreSQL in a container on a volume with three copies: nodes are killed, and the database sees
pauses only; then its own node is lost, and it goes on at another.

  1. `kill -9` of the node that holds the primary, again and again, under load. In every fourth round
     that is the container's own volumed: its device waits for the next one.
  2. The container's node stops with everything on it, under load. A container on another node, with
     an engine and a volumed of its own, takes the volume at once.
  3. The old node wakes up: nothing that it still wants to write arrives.

usage: postgres_cluster.py [--rounds N]     default 4, with CVOL_LONG=1 20
"""
import argparse
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from cluster_harness import require_namespaces, stalls
from engine import LONG, KernelLog, require_root, wait_for
from node_engine import NodeEngine, engine_cluster
from postgres import VOLUME, Database, check_file_system, report

LOAD_SECONDS = 8 if not LONG else 15


class Devices:
    """What KernelLog asks of a node."""

    def __init__(self, cluster, node):
        self.log = cluster.nodes[node].log

    def devices(self):
        return set(re.findall(r"device=/dev/(\w+)", self.log.read_text()))


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
    with engine_cluster(3, journal="256MiB", capacity="8GiB") as cluster, \
            NodeEngine(cluster, 1) as first:
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
    print(f"postgres_cluster: passed in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
