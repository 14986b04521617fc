#!/usr/bin/env python3
"""Cut networks, in namespaces: no copy that was left behind answers, and nothing is lost."""
import threading
import time
import unittest

from cluster_harness import (ETCD, PATIENCE, ClusterTest, require_namespaces, rounds, say, stalls, wait_for)
import nbd  # python3-libnbd
import stamps


class Partition(ClusterTest):
    """The volume is used on node 4, which holds no copy and is never cut off itself, unless said."""
    SETTINGS = {"nodes": 4, "namespaces": True}
    GATEWAY = 4

    def create(self):
        self.cluster.create_volume(self.name, gateways=[self.GATEWAY])

    def settle(self, writer, at):
        self.cluster.wait_in_sync(self.name)
        if self.cluster.primary(self.name) != at:
            self.cluster.move(self.name, at)
        writer.wait_progress(100)

    def cut_and_heal(self, what, cuts, primary=1, goes_on=True, hold=1.0):
        """`cuts` for a while, as often as rounds say; answers the writer and the stalls' begins."""
        self.create()
        begins = []
        with self.cluster.writer(self.name, self.GATEWAY) as writer:
            for _ in range(rounds(1, 20)):
                self.settle(writer, primary)
                begin = time.monotonic()
                for a, b, *one_way in cuts:
                    self.cluster.partition(a, b, bool(one_way))
                if goes_on:
                    writer.wait_progress(300, within=PATIENCE)
                time.sleep(hold)
                begins.append((begin, time.monotonic()))
                self.cluster.heal()
                writer.wait_progress(300, within=PATIENCE)
        self.assertEqual(writer.report.connections, 1)
        say(what, stalls=stalls([writer.report.longest_gap(b, e + 10) for b, e in begins]),
            reads_checked=writer.history.checked, stale=0, errors=0)
        self.cluster.wait_in_sync(self.name)
        self.cluster.check_copies(self.name, writer.history, self.GATEWAY)

    def test_primary_cut_from_both_peers(self):
        """All see etcd: the primary goes on alone, or one of the others takes over."""
        self.cut_and_heal("primary cut from both copies", [(1, 2), (1, 3)])

    def test_primary_cut_from_one_peer(self):
        self.cut_and_heal("primary cut from one copy", [(1, 2)])

    def test_primary_isolated(self):
        self.cut_and_heal("primary cut from everything", [(1, 2), (1, 3), (1, 4), (1, ETCD)])

    def test_primary_cut_from_its_peers_and_etcd(self):
        """It still hears the client, and must not answer."""
        self.cut_and_heal("primary cut from copies and etcd", [(1, 2), (1, 3), (1, ETCD)])

    def test_primary_sends_but_does_not_hear(self):
        self.cut_and_heal("primary does not hear the copies", [(2, 1, True), (3, 1, True)])

    def test_primary_hears_but_does_not_reach(self):
        self.cut_and_heal("primary does not reach the copies", [(1, 2, True), (1, 3, True)])

    def test_client_cut_from_primary(self):
        """The copies are well connected: nobody is promoted, the client waits."""
        self.cut_and_heal("client cut from the primary", [(4, 1)], goes_on=False, hold=4.0)

    def test_all_cut_from_etcd(self):
        self.cut_and_heal("all nodes cut from etcd", [(n, ETCD) for n in (1, 2, 3, 4)], hold=8.0)

    def test_secondary_isolated(self):
        self.cut_and_heal("secondary cut from everything", [(3, 1), (3, 2), (3, 4), (3, ETCD)])

    def test_flapping_link(self):
        self.create()
        with self.cluster.writer(self.name, self.GATEWAY) as writer:
            self.settle(writer, 1)
            for _ in range(rounds(4, 40)):
                self.cluster.partition(1, 2)
                time.sleep(0.7)
                self.cluster.heal()
                time.sleep(0.5)
                writer.wait_progress(50, within=PATIENCE)
        self.cluster.wait_in_sync(self.name)
        self.cluster.check_copies(self.name, writer.history, self.GATEWAY)

    def test_no_stale_read_from_the_old_primary(self):
        """A client at a primary that is cut off asks again and again; another client, on the other
        side, takes the volume and writes. From the first acknowledgement there, the old side may
        answer nothing any more."""
        self.create()
        for _ in range(rounds(1, 10)):
            self.cluster.wait_in_sync(self.name)
            old = stamps.connect(self.cluster.nbd_socket(1), self.name)
            wait_for("the primary on node 1", lambda: self.cluster.primary(self.name) == 1)
            old.pwrite(b"\1" * 4096, 0)
            answers = []  # (asked at, answered at, value)
            stop = threading.Event()
            reader = threading.Thread(target=self.read_on, args=(old, answers, stop))
            reader.start()
            time.sleep(0.3)
            self.assertTrue(answers)
            begin = time.monotonic()
            for other in (2, 3, 4, ETCD):
                self.cluster.partition(1, other)
            wait_for("node 2 to take the volume", lambda: self.cluster.cvol(
                2, "volume", "force-attach", self.name, check=False).returncode == 0, PATIENCE)
            new = stamps.connect(self.cluster.nbd_socket(2), self.name, PATIENCE)
            new.pwrite(b"\2" * 4096, 0)
            written = time.monotonic()
            time.sleep(3)
            self.cluster.heal()
            time.sleep(3)
            self.assertEqual(bytes(new.pread(4096, 0)), b"\2" * 4096)
            stop.set()
            new.shutdown()
            old_is_gone = not reader.is_alive()
            # A read that hangs ends with its connection.
            self.cluster.kill(1)
            reader.join(30)
            self.assertFalse(reader.is_alive())
            self.cluster.start(1)
            stale = [(asked - written, value) for asked, _, value in answers
                     if asked > written and value != 2]
            self.assertEqual(stale, [], "answers after another value was acknowledged")
            last = max(answered for _, answered, _ in answers)
            say("old primary", answered_for=f"{last - begin:.2f} s after the cut",
                taken_after=f"{written - begin:.2f} s", its_client_was_ended=old_is_gone, stale=0)

    @staticmethod
    def read_on(handle, answers, stop):
        try:
            while not stop.is_set():
                asked = time.monotonic()
                data = handle.pread(4096, 0)
                answers.append((asked, time.monotonic(), data[0]))
                time.sleep(0.002)
        except nbd.Error:
            pass


if __name__ == "__main__":
    require_namespaces()
    unittest.main(verbosity=2)
