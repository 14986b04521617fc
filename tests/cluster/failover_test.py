#!/usr/bin/env python3
"""Three nodes, three copies, writers at work: whatever is killed or paused, no client sees an error,
and nothing that was acknowledged is lost or taken back. Stalls are measured and printed."""
import subprocess
import time
import unittest

from cluster_harness import PATIENCE, ClusterTest, rounds, say, stalls


class Failover(ClusterTest):
    """The volume is used on node 1; the primary is elsewhere, unless said."""
    SETTINGS = {"nodes": 3}
    GATEWAY = 1

    def settle(self, writer, at):
        """All copies are in sync, and the primary is on node `at`."""
        writer.wait_progress(50)
        self.cluster.wait_in_sync(self.name)
        if self.cluster.primary(self.name) != at:
            self.cluster.move(self.name, at)
        writer.wait_progress(100)

    def strike(self, writer, blow):
        """Waits until the writer has gone on after it; answers from when to when that was."""
        begin = time.monotonic()
        blow()
        writer.wait_progress(300, within=PATIENCE)
        return begin, time.monotonic()

    def report(self, what, writer, times):
        report = writer.report
        longest = [report.longest_gap(begin, end) for begin, end in times]
        say(what, stalls=stalls(longest), answered=report.operations,
            blocks_written=writer.history.acknowledged, reads_checked=writer.history.checked,
            slowest=f"{report.slowest:.2f} s", lost=0, errors=0)

    def check_all(self, writer):
        """Every copy holds what was written."""
        self.cluster.wait_in_sync(self.name)
        self.cluster.check_copies(self.name, writer.history, self.GATEWAY)

    def test_kill_9_of_the_primary(self):
        self.cluster.create_volume(self.name)
        times = []
        with self.cluster.writer(self.name, self.GATEWAY) as writer:
            for number in range(rounds(4, 50)):
                victim = 2 + number % 2
                self.settle(writer, victim)
                times.append(self.strike(writer, lambda v=victim: self.cluster.kill(v)))
                self.assertNotEqual(self.cluster.primary(self.name), victim)
                self.cluster.start(victim)
            self.cluster.wait_in_sync(self.name)
        self.assertEqual(writer.report.connections, 1)
        self.report("kill -9 of the primary", writer, times)
        self.check_all(writer)

    def test_pause_of_the_primary(self):
        self.cluster.create_volume(self.name)
        times = []
        with self.cluster.writer(self.name, self.GATEWAY) as writer:
            for number in range(rounds(2, 20)):
                victim = 2 + number % 2
                self.settle(writer, victim)
                times.append(self.strike(writer, lambda v=victim: self.cluster.pause(v)))
                time.sleep(rounds(1, 1 + number * 3))
                self.cluster.resume(victim)  # what it believes is over: it must not answer from it
                writer.wait_progress(300)
        self.assertEqual(writer.report.connections, 1)
        self.report("SIGSTOP of the primary", writer, times)
        self.check_all(writer)

    def test_secondaries_killed_and_paused(self):
        self.cluster.create_volume(self.name)
        times = {"kill -9": [], "SIGSTOP": []}
        with self.cluster.writer(self.name, self.GATEWAY) as writer:
            for number in range(rounds(1, 10)):
                for blow, begins in times.items():
                    self.settle(writer, self.GATEWAY)
                    victim = 2 + number % 2
                    if blow == "SIGSTOP":
                        begins.append(self.strike(writer, lambda v=victim: self.cluster.pause(v)))
                        self.cluster.wait_out_of_sync(self.name, victim)
                        self.cluster.resume(victim)
                    else:
                        begins.append(self.strike(writer, lambda v=victim: self.cluster.kill(v)))
                        self.cluster.wait_out_of_sync(self.name, victim)
                        self.cluster.start(victim)
                    writer.wait_progress(100)
                    self.assertEqual(self.cluster.primary(self.name), self.GATEWAY)
            self.cluster.wait_in_sync(self.name)
        for blow, begins in times.items():
            self.report(f"{blow} of a secondary", writer, begins)
        self.check_all(writer)

    def test_two_kills_one_after_another(self):
        self.cluster.create_volume(self.name)
        times = []
        with self.cluster.writer(self.name, self.GATEWAY) as writer:
            for number in range(rounds(1, 10)):
                first, second = (2, 3) if number % 2 == 0 else (3, 2)
                self.settle(writer, first)
                times.append(self.strike(writer, lambda v=first: self.cluster.kill(v)))
                if self.cluster.primary(self.name) != second:
                    self.cluster.move(self.name, second)
                times.append(self.strike(writer, lambda v=second: self.cluster.kill(v)))
                self.assertEqual(self.cluster.in_sync(self.name), {self.GATEWAY})
                self.cluster.start(first, second)
            self.cluster.wait_in_sync(self.name)
        self.assertEqual(writer.report.connections, 1)
        self.report("two kills one after another", writer, times)
        self.check_all(writer)

    def test_all_killed_at_once(self):
        self.cluster.create_volume(self.name)
        back = []
        with self.cluster.writer(self.name, self.GATEWAY) as writer:
            for number in range(rounds(2, 20)):
                self.settle(writer, 1 + number % 3)
                self.cluster.kill(1, 2, 3)
                begin = time.monotonic()
                for node in self.cluster.numbers:
                    self.cluster.start_node(node, wait=False)
                writer.wait_progress(1, within=PATIENCE)
                back.append(time.monotonic() - begin)
                writer.wait_progress(100)
        say("all killed at once", back_after=stalls(back), blocks_written=writer.history.acknowledged,
            connections=writer.report.connections, lost=0)
        self.check_all(writer)

    def test_the_writers_own_node_is_lost(self):
        """The writer goes on through another node: nobody waits for the dead, and what the dead node
        left unfinished lands no more."""
        self.cluster.create_volume(self.name)
        times = []
        with self.cluster.writer(self.name, 1, 2, 3) as writer:
            for _ in range(rounds(2, 20)):
                self.cluster.wait_in_sync(self.name)
                writer.wait_progress(100)
                victim = int(self.cluster.volume(self.name)["node"].removeprefix("node"))
                times.append(self.strike(writer, lambda v=victim: self.cluster.kill(v)))
                self.cluster.start(victim)
        self.report("kill -9 of the writer's own node", writer, times)
        self.check_all(writer)

    def test_fio_verifies_through_failovers(self):
        self.cluster.create_volume(self.name, "256MiB")
        seconds = rounds(12, 120)
        fio = subprocess.Popen(
            ["fio", "--name=v", "--ioengine=nbd", f"--uri={self.cluster.uri(1, self.name)}",
             "--rw=randrw", "--rwmixread=30", "--bs=4k", "--iodepth=16", "--size=256M",
             "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=2048", "--time_based",
             f"--runtime={seconds}", "--rate_iops=3000"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            kills = 0
            end = time.monotonic() + seconds - 5
            while time.monotonic() < end:
                time.sleep(1)
                self.cluster.wait_in_sync(self.name, within=PATIENCE)
                victim = 2 + kills % 2
                self.cluster.move(self.name, victim)
                self.cluster.kill(victim)
                kills += 1
                time.sleep(1.5)
                self.cluster.start(victim)
            output, _ = fio.communicate(timeout=seconds + PATIENCE)
        finally:
            if fio.poll() is None:
                fio.kill()
                fio.wait()
        self.assertEqual(fio.returncode, 0, output)
        self.assertNotIn("error=", output.lower())
        self.assertGreater(kills, 0)
        say("fio with verify", kills=kills, errors=0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
