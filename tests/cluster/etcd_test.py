#!/usr/bin/env python3
"""The metadata store is away, slow, or has another leader: volumes that are served go on."""
import shutil
import signal
import time
import unittest

from cluster_harness import LONG, PATIENCE, Cluster, ClusterTest, rounds, say, wait_for

# With nothing else wrong no request may wait for etcd. A second is not a stall of this machine's.
STALL = 1.0


class Away(ClusterTest):
    SETTINGS = {"nodes": 3}

    def quiet(self, writer, begin, what):
        """Nothing stalled from `begin` until now."""
        longest = writer.report.longest_gap(begin)
        say(what, longest_gap=f"{longest:.2f} s", answered=writer.report.operations, errors=0)
        self.assertLess(longest, STALL, f"requests waited while {what}")

    def settle(self, writer):
        self.cluster.wait_settled(self.name)
        if self.cluster.primary(self.name) != 2:
            self.cluster.move(self.name, 2)
        writer.wait_progress(100)

    def kill_all(self):
        for process in self.cluster.etcds.values():
            process.kill()

    def start_all(self):
        for member in self.cluster.members:
            self.cluster.start_etcd(member)
        self.cluster.wait_etcd()

    def test_all_members_killed(self):
        self.cluster.create_volume(self.name)
        seconds = 600 if LONG else 20
        with self.cluster.writer(self.name, 1) as writer:
            self.settle(writer)
            begin = time.monotonic()
            self.kill_all()
            while time.monotonic() < begin + seconds:
                writer.wait_progress(500)
            self.assertEqual(self.cluster.primary(self.name), 2)
            refused = self.cluster.cvol(1, "volume", "create", "late", "--size", "16MiB", check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertRegex(refused.stdout, r"(?i)metadata store|etcd")
            self.start_all()
            time.sleep(3)
            writer.wait_progress(500)
        self.assertEqual(writer.report.connections, 1)
        self.quiet(writer, begin, f"etcd was away for {seconds} s, and came back")
        with self.cluster.writer(self.name, 1, history=writer.history) as writer:
            self.settle(writer)
            self.cluster.kill(2)  # the store serves again
            writer.wait_progress(200)
            self.cluster.start(2)
            self.cluster.wait_in_sync(self.name)
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_leader_killed_and_paused(self):
        self.cluster.create_volume(self.name)
        with self.cluster.writer(self.name, 1) as writer:
            self.settle(writer)
            begin = time.monotonic()
            for number in range(rounds(2, 10)):
                leader = wait_for("a leader of etcd", self.cluster.etcd_leader)
                process = self.cluster.etcds[leader]
                if number % 2 == 0:
                    process.kill()
                else:
                    process.signal(signal.SIGSTOP)
                wait_for("another leader", lambda old=leader: self.cluster.etcd_leader()
                         not in (None, old), PATIENCE)
                writer.wait_progress(1000)
                process.signal(signal.SIGCONT)
                self.cluster.start_etcd(leader)
                self.cluster.wait_etcd()
                writer.wait_progress(500)
        self.quiet(writer, begin, "etcd's leader was killed and paused")
        self.cluster.verify(self.name, writer.history, 1)

    def test_a_failover_while_the_leader_is_paused(self):
        """The compare-and-swap finds another member, or the next leader."""
        self.cluster.create_volume(self.name)
        with self.cluster.writer(self.name, 1) as writer:
            for number in range(rounds(1, 10)):
                self.settle(writer)
                leader = wait_for("a leader of etcd", self.cluster.etcd_leader)
                process = self.cluster.etcds[leader]
                process.signal(signal.SIGSTOP if number % 2 == 0 else signal.SIGKILL)
                begin = time.monotonic()
                self.cluster.kill(2)
                writer.wait_progress(200, within=PATIENCE)
                say("failover with etcd's leader away", stall=f"{time.monotonic() - begin:.2f} s")
                process.signal(signal.SIGCONT)
                self.cluster.start_etcd(leader)
                self.cluster.wait_etcd()
                self.cluster.start(2)
        self.cluster.wait_in_sync(self.name)
        self.cluster.check_copies(self.name, writer.history, 1)

    def status_says_it(self):
        begin = time.monotonic()
        text = self.cluster.cvol(1, "status").stdout
        self.assertLess(time.monotonic() - begin, 5, "status waits for the store")
        return ("has not answered" in text and f"of volume '{self.name}' wait" in text
                and "No problems" not in text)

    def test_a_call_ends_while_the_store_is_away_and_names_it(self):
        self.cluster.create_volume(self.name)
        self.kill_all()
        try:
            time.sleep(6)
            begin = time.monotonic()
            refused = self.cluster.cvol(1, "volume", "create", "late", "--size", "16MiB", check=False)
            self.assertLess(time.monotonic() - begin, 20)
            self.assertNotEqual(refused.returncode, 0)
            self.assertRegex(refused.stdout, r"(?i)metadata store|etcd")
            self.assertNotIn("systemctl start", refused.stdout)
        finally:
            self.start_all()

    def test_a_secondary_fails_while_the_store_is_away(self):
        """Writes wait: leaving it out cannot be recorded. No error; and either's return ends it."""
        self.cluster.create_volume(self.name)
        with self.cluster.writer(self.name, 1) as writer:
            for comes_back in ("member", "store"):
                self.settle(writer)
                self.kill_all()
                self.cluster.pause(3)
                self.assertEqual(self.cluster.in_sync(self.name), {1, 2, 3})
                time.sleep(3)
                before = writer.counter.value
                time.sleep(3)
                self.assertLessEqual(writer.counter.value - before, 8, "writes were answered")
                wait_for("status to say what waits, and for whom", self.status_says_it, 40)
                if comes_back == "member":
                    self.cluster.resume(3)
                else:
                    self.start_all()
                begin = time.monotonic()
                writer.wait_progress(100, within=PATIENCE)
                say(f"the {comes_back} came back first", went_on_after=f"{time.monotonic() - begin:.1f} s")
                self.cluster.mend()
        self.assertEqual(writer.report.connections, 1)
        self.cluster.wait_in_sync(self.name)
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_a_node_starts_while_the_store_is_away(self):
        """It waits, and serves when the store is back."""
        self.cluster.create_volume(self.name)
        with self.cluster.writer(self.name, 1) as writer:
            self.settle(writer)
            self.cluster.kill(3)
            self.cluster.wait_out_of_sync(self.name, 3)
            self.kill_all()
            self.cluster.start_node(3, wait=False)
            log = self.cluster.nodes[3].log
            wait_for("node 3 to say what it waits for", lambda: "trying again until it answers"
                     in log.read_text(encoding="utf-8", errors="replace"))
            writer.wait_progress(200)
            self.assertEqual(self.cluster.nodes[3].state(), "running")
            self.start_all()
            self.cluster.wait_node(3)
            self.cluster.wait_in_sync(self.name)
        self.assertEqual(writer.report.connections, 1)
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_the_primary_fails_while_the_store_is_away(self):
        """Nobody is promoted; it goes on when the primary or the store is back."""
        self.cluster.create_volume(self.name)
        with self.cluster.writer(self.name, 1) as writer:
            self.settle(writer)
            self.kill_all()
            self.cluster.kill(2)
            time.sleep(5)
            before = writer.counter.value
            time.sleep(2)
            self.assertEqual(writer.counter.value, before, "requests were answered")
            self.start_all()
            writer.wait_progress(100, within=PATIENCE)
            self.cluster.start(2)
            self.cluster.wait_in_sync(self.name)
        self.cluster.check_copies(self.name, writer.history, 1)


class Restored(unittest.TestCase):
    def test_an_old_backup_is_refused_with_the_way_out(self):
        with Cluster(etcd=1) as cluster:
            cluster.create_volume("vol")
            with cluster.writer("vol", 1) as writer:
                writer.wait_progress(200)
            data = cluster.etcds[1].folder / "data"
            cluster.etcds[1].end()
            shutil.copytree(data, data.with_name("backup"))
            cluster.start_etcd(1)
            cluster.wait_etcd()
            with cluster.writer("vol", 1, history=writer.history) as writer:
                cluster.wait_in_sync("vol")
                cluster.move("vol", 2)
                cluster.kill(2)
                writer.wait_progress(200)
                cluster.start(2)
                cluster.wait_in_sync("vol")
            for process in cluster.nodes.values():
                process.end()
            cluster.etcds[1].end()
            shutil.rmtree(data)
            shutil.move(data.with_name("backup"), data)
            cluster.start_etcd(1)
            cluster.wait_etcd()
            cluster.start(*cluster.numbers)

            def told():
                return cluster.cvol(1, "status", check=False).stdout + cluster.explain("vol", 1)
            text = wait_for("volumed to say it", lambda: told() if "backup" in told() else None, 30)
            self.assertRegex(text, r"cvol volume rebuild-record vol", "the way out is not said")
            say("old backup", said=[line for line in text.splitlines() if "backup" in line][:2])
            # Nothing is served by guess.
            refused = cluster.cvol(1, "volume", "verify", "vol", check=False, timeout=120)
            self.assertNotEqual(refused.returncode, 0)

            def rebuilt():
                done = cluster.cvol(1, "volume", "rebuild-record", "vol", check=False)
                return done.returncode == 0
            wait_for("the record to be made anew", rebuilt, 30, every=0.2)
            cluster.wait_in_sync("vol", within=60)
            with cluster.writer("vol", 1, history=writer.history) as writer:
                writer.wait_progress(200)
            cluster.check_copies("vol", writer.history, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
