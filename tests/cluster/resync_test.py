#!/usr/bin/env python3
"""A copy comes back, or is made anew: what is sent, what survives interruption, who has to wait."""
import random
import re
import time
import unittest

from cluster_harness import LONG, ClusterTest, run, say, wait_for
import stamps

SIZE_MIB = 2048 if LONG else 512


class Returns(ClusterTest):
    SETTINGS = {"nodes": 3, "journal": "256MiB", "capacity": "8GiB"}

    def fill(self, node=1, mib=SIZE_MIB):
        """The whole volume, with bytes that nothing else writes."""
        run("fio", "--name=f", "--ioengine=nbd", f"--uri={self.cluster.uri(node, self.name)}",
            "--rw=write", "--bs=1M", "--iodepth=8", f"--size={mib}M", "--refill_buffers", timeout=600)

    def change(self, history, share):
        """Writes that share of the volume, each block once, at random; answers the bytes."""
        count = int(history.blocks * share)
        chosen = list(range(history.blocks))
        random.Random(7).shuffle(chosen)
        handle = stamps.connect(self.cluster.nbd_socket(1), self.name)
        for index in chosen[:count]:
            number = history.next(index, zero=False)
            handle.pwrite(history.data(index, number), index * stamps.BLOCK)
            history.written(index, number)
        handle.shutdown()
        return count * stamps.BLOCK

    def check_changed(self, history):
        """What was changed is there on every copy."""
        changed = [index for index in range(history.blocks) if history.low[index] > 0]
        handle = stamps.connect(self.cluster.nbd_socket(1), self.name)
        for node in sorted(self.cluster.in_sync(self.name)):
            self.cluster.move(self.name, node)
            for index in changed:
                data = handle.pread(stamps.BLOCK, index * stamps.BLOCK)
                wrong = history.seen(index, history.low[index], data)
                self.assertIsNone(wrong, f"copy of node {node}")
        handle.shutdown()

    def progress(self, node):
        """Bytes sent so far by the resync that runs from there; None: none runs."""
        resyncs = self.cluster.json(node, "volume", "inspect", self.name)["resyncs"]
        return int(resyncs[0]["sent_bytes"]) if resyncs else None

    def interrupt(self, source, blow, share=0.3):
        """A third copy is made from `source`, and `blow` comes once that share of the volume has been
        sent; answers what had been sent before."""
        least = share * SIZE_MIB * (1 << 20)
        begin = self.cluster.sent(self.name, source)
        self.cluster.cvol(source, "volume", "modify", self.name, "--replicas", "3")
        wait_for("the resync half-way",
                 lambda: self.cluster.sent(self.name, source) - begin >= least, 120, every=0.01)
        blow()
        return begin

    def test_only_the_difference_is_sent(self):
        self.cluster.create_volume(self.name, f"{SIZE_MIB}MiB")
        self.fill()
        self.cluster.kill(3)
        history = stamps.History(self.name, SIZE_MIB * 256)
        difference = self.change(history, 0.01)
        self.cluster.wait_out_of_sync(self.name, 3)
        source = self.cluster.primary(self.name)
        before = self.cluster.sent(self.name, source)
        begin = time.monotonic()
        self.cluster.start(3)
        self.cluster.wait_in_sync(self.name)
        took = time.monotonic() - begin
        sent = self.cluster.sent(self.name, source) - before
        say(f"away during 1 % of {SIZE_MIB} MiB", difference=difference, sent=sent,
            in_sync_after=f"{took:.1f} s from the start of its volumed")
        self.assertGreaterEqual(sent, difference)
        self.assertLessEqual(sent, difference * 1.1 + (1 << 20))
        self.check_changed(history)

    def test_a_rebuild_killed_half_way_resumes(self):
        self.cluster.create_volume(self.name, f"{SIZE_MIB}MiB", 2)
        self.fill()
        holders = self.cluster.in_sync(self.name)
        target = ({1, 2, 3} - holders).pop()
        source = self.cluster.primary(self.name)
        begin = self.interrupt(source, lambda: self.cluster.kill(target))
        first = self.cluster.sent(self.name, source) - begin
        time.sleep(1)
        self.assertNotIn(target, self.cluster.in_sync(self.name))
        self.cluster.start(target)
        self.cluster.wait_in_sync(self.name, 3, within=300)
        total = self.cluster.sent(self.name, source) - begin
        whole = SIZE_MIB << 20
        say("target killed half-way", before_the_kill=first, in_all=total, volume=whole)
        self.assertGreaterEqual(total, whole)
        # What was durable is not sent again; what had been sent shortly before may be.
        self.assertLess(total, whole + 0.6 * first + (8 << 20))
        done = run("qemu-img", "compare", "-f", "raw", "-F", "raw",
                   self.cluster.uri(source, self.name), self.cluster.uri(source, self.name))
        self.assertIn("identical", done.stdout)

    def test_the_source_is_killed_half_way(self):
        self.cluster.create_volume(self.name, f"{SIZE_MIB}MiB", 2)
        self.fill()
        history = stamps.History(self.name, SIZE_MIB * 256)
        self.change(history, 0.002)
        holders = self.cluster.in_sync(self.name)
        target = ({1, 2, 3} - holders).pop()
        source = self.cluster.primary(self.name)
        self.interrupt(source, lambda: self.cluster.kill(source))
        other = (holders - {source}).pop()
        wait_for("another primary", lambda: self.cluster.primary(self.name) == other, 60)
        wait_for("the rebuild to end from the other source",
                 lambda: target in self.cluster.in_sync(self.name), 300, every=0.2)
        self.cluster.start(source)
        self.cluster.wait_in_sync(self.name, 3, within=300)
        self.check_changed(history)

    def test_writes_go_on_during_resync(self):
        self.cluster.create_volume(self.name, f"{SIZE_MIB}MiB")
        self.fill(mib=SIZE_MIB - 64)
        history = stamps.History(self.name, 4096, first=(SIZE_MIB - 64) * 256)
        with self.cluster.writer(self.name, 1, history=history, zero_share=0.1) as writer:
            for node in (2, 3):
                self.cluster.kill(node)
                writer.wait_progress(1000)
                self.cluster.start(node)
                writer.wait_progress(1000)
                self.cluster.wait_in_sync(self.name)
        self.assertEqual(writer.report.connections, 1)
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_attachments_come_and_go_during_a_rebuild(self):
        """Each begins a new epoch. The rebuild goes on: it does not begin anew each time."""
        self.cluster.create_volume(self.name, f"{SIZE_MIB}MiB", 2)
        self.fill()
        source = self.cluster.primary(self.name)
        target = ({1, 2, 3} - self.cluster.in_sync(self.name)).pop()
        log = self.cluster.nodes[source].log
        before = len(re.findall(r"replication: resync of replica \S+ begins",
                                log.read_text(encoding="utf-8", errors="replace")))
        self.cluster.cvol(source, "volume", "modify", self.name, "--replicas", "3")
        sessions = 0
        end = time.monotonic() + 120
        while target not in self.cluster.in_sync(self.name):
            self.assertLess(time.monotonic(), end, "the rebuild does not end")
            handle = stamps.connect(self.cluster.nbd_socket(source), self.name)
            for index in range(200):
                handle.pwrite(b"x" * stamps.BLOCK, random.randrange(SIZE_MIB * 256) * stamps.BLOCK)
            handle.shutdown()
            sessions += 1
        begun = len(re.findall(r"replication: resync of replica \S+ begins",
                               log.read_text(encoding="utf-8", errors="replace"))) - before
        say("attachments during a rebuild", sessions=sessions, resyncs_begun=begun)
        self.assertGreater(sessions, 3)
        self.assertLessEqual(begun, 3)
        self.cluster.cvol(source, "volume", "verify", self.name, timeout=120)

    def test_a_target_that_survives_alone_waits(self):
        """It must never be promoted: it lacks acknowledged writes."""
        self.cluster.create_volume(self.name, f"{SIZE_MIB}MiB", 2)
        self.fill()
        history = stamps.History(self.name, SIZE_MIB * 256)
        self.change(history, 0.001)
        holders = self.cluster.in_sync(self.name)
        target = ({1, 2, 3} - holders).pop()
        source = self.cluster.primary(self.name)
        self.interrupt(source, lambda: self.cluster.kill(*holders), share=0.2)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            seen = self.cluster.json(target, "volume", "inspect", self.name)
            for copy in seen["copies"]:
                if self.cluster.number_of(copy) == target:
                    self.assertFalse(copy["primary"], "a half-made copy was promoted")
                    self.assertFalse(copy["in_sync"], "a half-made copy is said to be in sync")
            time.sleep(0.2)
        text = self.cluster.explain(self.name, target)
        self.assertRegex(text, r"wait", text)
        for holder in holders:
            self.assertIn(f"node{holder}", text)
        self.cluster.start(*holders)
        self.cluster.wait_in_sync(self.name, 3, within=300)
        self.check_changed(history)


class Replaced(ClusterTest):
    SETTINGS = {"nodes": 4, "flags": ["--rebuild-after", "5s"]}

    def test_a_lost_node_is_replaced(self):
        self.cluster.create_volume(self.name, "128MiB", gateways=[4])
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(2000)
            self.cluster.kill(3)
            begin = time.monotonic()
            wait_for("a new copy on node 4", lambda: self.cluster.in_sync(self.name) == {1, 2, 4},
                     120, every=0.2)
            say("lost node replaced", after=f"{time.monotonic() - begin:.1f} s")
            self.cluster.start(3)  # its copy is one too many, or has been given up already
            wait_for("the fourth copy to go", lambda: len(self.cluster.copies(self.name)) == 3
                     and len(self.cluster.in_sync(self.name)) == 3, 60)
            writer.wait_progress(500)
        self.assertEqual(writer.report.connections, 1)
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_a_drained_node_empties(self):
        self.cluster.create_volume(self.name, "128MiB", gateways=[4])
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(500)
            self.cluster.cvol(1, "node", "drain", "node2")
            wait_for("node 2 to be empty", lambda: {self.cluster.number_of(copy) for copy in
                                                    self.cluster.copies(self.name)} == {1, 3, 4}, 120)
            writer.wait_progress(500)
        self.cluster.cvol(1, "node", "uncordon", "node2")
        self.cluster.check_copies(self.name, writer.history, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
