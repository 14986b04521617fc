#!/usr/bin/env python3
"""What an operator does to volumes and nodes in use: other numbers of copies, a damaged disk, a node
that is gone for good, a slow one, and a single node that becomes a cluster."""
import pathlib
import re
import shutil
import tempfile
import threading
import time
import unittest

from cluster_harness import (LONG, Cluster, ClusterTest, discards, run, say, wait_for,
                             write_through)
from local_cluster import ClusterError, Process
import stamps

BLOCK = 4096


class Manage(ClusterTest):
    SETTINGS = {"nodes": 4}

    def test_other_numbers_of_copies(self):
        self.cluster.create_volume(self.name, "128MiB", 2)
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(500)
            self.cluster.cvol(1, "volume", "modify", self.name, "--replicas", "4")
            self.cluster.wait_in_sync(self.name, 4)
            self.cluster.cvol(1, "volume", "modify", self.name, "--min-in-sync", "3")
            writer.wait_progress(500)
            self.assertEqual(self.cluster.json(1, "volume", "inspect", self.name)["min_in_sync"], 3)
            refused = self.cluster.cvol(1, "volume", "modify", self.name, "--replicas", "2",
                                        check=False)
            self.assertNotEqual(refused.returncode, 0, "fewer copies than must have a write")
            self.cluster.cvol(1, "volume", "modify", self.name, "--replicas", "2",
                              "--min-in-sync", "1")
            wait_for("two copies", lambda: len(self.cluster.copies(self.name)) == 2
                     and len(self.cluster.in_sync(self.name)) == 2, 60)
            writer.wait_progress(500)
        self.assertEqual(writer.report.connections, 1)
        self.cluster.check_copies(self.name, writer.history, 1)

    def test_the_primary_comes_to_where_the_volume_is_used(self):
        """Though each attachment begins an epoch, in which a primary forgets what it was asked."""
        self.cluster.create_volume(self.name, gateways=[4])
        for turn in range(12):
            node = turn % 3 + 1
            handle = stamps.connect(self.cluster.nbd_socket(node), self.name)
            wait_for(f"the primary on node {node}",
                     lambda node=node: self.cluster.primary(self.name) == node, 5)
            handle.pwrite(bytes([turn + 1]) * BLOCK, 0)
            handle.shutdown()
        self.cluster.wait_in_sync(self.name)

    def test_a_volume_whose_primary_is_silent_is_removed_by_force(self):
        """Requests of its clients wait for the primary; the removal ends them."""
        self.cluster.create_volume(self.name, replicas=1, gateways=[1, 3, 4])
        handle = stamps.connect(self.cluster.nbd_socket(1), self.name)
        handle.pwrite(bytes([1]) * BLOCK, 0)
        self.cluster.pause(2)
        asked = handle.aio_pread(stamps.nbd.Buffer(BLOCK), 0)
        handle.poll(0)
        self.assertFalse(handle.aio_command_completed(asked))
        begin = time.monotonic()
        self.cluster.cvol(1, "volume", "rm", "--force", self.name, timeout=40)
        say("a removal by force", seconds=f"{time.monotonic() - begin:.1f}")
        self.assertNotIn(self.name, self.cluster.cvol(1, "volume", "ls").stdout)

    def test_damage_is_found_and_mended(self):
        """Bits change on the disk of one copy: readers do not notice, `volume verify` tells which
        blocks, and a scrub has them written again from another copy."""
        self.cluster.create_volume(self.name, "128MiB", 3, gateways=[4])
        run("fio", "--name=f", "--ioengine=nbd", f"--uri={self.cluster.uri(1, self.name)}",
            "--rw=write", "--bs=1M", "--iodepth=8", "--size=128M", "--buffer_pattern=0xc0ffee",
            timeout=120)
        if self.cluster.primary(self.name) == 3:
            self.cluster.move(self.name, 2)
        self.restart_damaged(5, first=5)
        verify = self.cluster.cvol(1, "volume", "verify", self.name, check=False, timeout=120)
        told = set(re.findall(r"block (\d+) cannot be read at replica", verify.stdout))
        self.assertEqual((verify.returncode != 0, len(told)), (True, 5), verify.stdout)
        wait_for("the blocks that were found to be mended", self.all_equal, 60, every=0.5)

        self.restart_damaged(4, first=50)
        disk = str(self.cluster.data_dir(3) / "disks/default")
        scrub = self.cluster.cvol(3, "disk", "scrub", disk, "--rate", "1GiB/s", "--wait",
                                  check=False, timeout=120)
        self.assertNotEqual(scrub.returncode, 0, "a scrub of a damaged disk found nothing")
        wait_for("the primary to have had nine blocks mended", lambda: self.mended() == 9, 60)
        self.assertTrue(self.all_equal())
        self.cluster.cvol(3, "disk", "scrub", disk, "--rate", "1GiB/s", "--wait", timeout=120)
        self.cluster.move(self.name, 3)
        run("fio", "--name=f", "--ioengine=nbd", f"--uri={self.cluster.uri(1, self.name)}",
            "--rw=read", "--bs=1M", "--size=128M", "--verify=pattern",
            "--verify_pattern=0xc0ffee", "--verify_state_save=0", timeout=120)
        say("damaged blocks", made=9, found=9, mended=9)

    def all_equal(self):
        return self.cluster.cvol(1, "volume", "verify", self.name, check=False,
                                 timeout=120).returncode == 0

    def mended(self):
        events = self.cluster.cvol(self.cluster.primary(self.name), "events").stdout
        return len(re.findall(r"was damaged at a replica and is repaired", events))

    def restart_damaged(self, count, first):
        self.cluster.nodes[3].end()
        self.damage(self.cluster.data_dir(3), count, first)
        self.cluster.start(3)
        self.cluster.wait_in_sync(self.name)

    @staticmethod
    def damage(data_dir, count, first):
        """Flips a bit in `count` blocks that hold fio's pattern; answers how many."""
        done = 0
        with open(data_dir / "disks/default/chunks", "r+b") as chunks:
            offset = 0
            while done < count and (block := chunks.read(BLOCK)):
                if block[:3] in (b"\xc0\xff\xee", b"\xee\xff\xc0") and offset // BLOCK % 97 == first:
                    chunks.seek(offset + 1234)
                    chunks.write(bytes([block[1234] ^ 4]))
                    chunks.seek(offset + BLOCK)
                    done += 1
                offset += BLOCK
        assert done == count, f"{done} blocks with the pattern"
        return done

    def test_a_node_is_gone_for_good(self):
        self.cluster.create_volume(self.name, "128MiB", 3, gateways=[1])
        with self.cluster.writer(self.name, 1) as writer:
            writer.wait_progress(500)
            refused = self.cluster.cvol(1, "node", "rm", "node4", check=False)
            self.assertNotEqual(refused.returncode, 0, "a node that lives was forgotten")
            self.cluster.kill(4)
            wait_for("node 4 to be forgotten", lambda: self.cluster.cvol(
                1, "node", "rm", "node4", check=False).returncode == 0, 30, every=0.2)
            # Its copy is made anew at once: nobody waits for a node that does not come back.
            wait_for("a copy on node 1", lambda: self.cluster.in_sync(self.name) == {1, 2, 3}, 120,
                     every=0.2)
            self.assertNotIn("node4", self.cluster.cvol(1, "node", "ls").stdout)
            # What happened on the other nodes is told by any of them, with names.
            events = self.cluster.cvol(1, "events", "--subject", self.name).stdout
            tellers = set(re.findall(r"\(node (node\d)\)", events))
            self.assertTrue(tellers > {"node1"}, events)
            self.assertRegex(events, r"in sync \[(node\d ?)+\]")
            self.assertNotRegex(events, r"[0-9a-f]{8}-[0-9a-f]{4}-")
            here = self.cluster.cvol(1, "events", "--subject", self.name, "--here").stdout
            self.assertEqual(set(re.findall(r"\(node (node\d)\)", here)), {"node1"})
            writer.wait_progress(500)
        self.assertEqual(writer.report.connections, 1)
        self.cluster.check_copies(self.name, writer.history, 1)
        # It does not come back as it was: only with an empty data directory, as a new node.
        with self.assertRaises(ClusterError):
            self.cluster.start_node(4)
        self.assertIn("was removed from the cluster", self.cluster.nodes[4].last_words())
        shutil.rmtree(self.cluster.folder / "node4" / "data")
        self.cluster.start_node(4)


class Grows(unittest.TestCase):
    """A node with records of its own moves them into etcd, and another one joins."""

    def test_a_single_node_becomes_a_cluster(self):
        with Cluster(nodes=2, etcd=1) as cluster:
            # The cluster's etcd alone.
            for node in cluster.numbers:
                cluster.nodes[node].end()
            prefix = "grown"
            solo = pathlib.Path(tempfile.mkdtemp(prefix="solo-", dir=cluster.folder))
            process = Process("solo", solo)
            data, socket = solo / "data", solo / "run"
            base = [cluster.binaries / "volumed", "--node-name", "solo", "--data-dir", data,
                    "--run-dir", socket, "--docker-plugin-dir", "off", "--attach-method", "none",
                    "--journal-size", "64MiB", "--disk-capacity", "2GiB", "--cluster", prefix,
                    "--http", cluster.http(1)]
            etcd = "etcd:" + cluster.etcd_urls(1)[0].removeprefix("http://")

            def cvol(*words, check=True):
                return run(cluster.binaries / "cvol", "--api", f"unix:{socket}/api.sock", *words,
                           check=check)

            def answers():
                assert process.pid() is not None, process.last_words()
                return cvol("status", check=False).returncode == 0
            try:
                process.start(base)
                wait_for("volumed", answers)
                cvol("volume", "create", "vol", "--size", "64MiB")
                history = stamps.History("vol", 4096)
                with stamps.Writer([socket / "nbd.sock"], history) as writer:
                    writer.wait_progress(2000)
                history = writer.history
                moved = cvol("cluster", "migrate", "--to", etcd)
                self.assertIn("etcd", moved.stdout)
                refused = cvol("volume", "create", "late", "--size", "16MiB", check=False)
                self.assertNotEqual(refused.returncode, 0, "records of a moved store were changed")
                process.end()
                # The old records say where to.
                process.start(base)
                wait_for("the old store to be refused", lambda: process.pid() is None)
                self.assertIn("--metadata", process.last_words())
                process.start([*base, "--metadata", etcd, "--replication-listen",
                               f"127.0.0.1:{cluster.node_ports(1)[1]}"])
                wait_for("volumed with etcd", answers)
                stamps.verify(socket / "nbd.sock", history)
                # Node 2 joins, and takes a copy; with the data directory of another cluster it is
                # refused (before anything is touched), so it begins with an empty one.
                cluster.settings["flags"] += ["--cluster", prefix]
                with self.assertRaises(ClusterError):
                    cluster.start_node(2)
                self.assertIn("Nothing was changed", cluster.nodes[2].last_words())
                shutil.rmtree(cluster.folder / "node2" / "data")
                cluster.start_node(2)
                cvol("volume", "modify", "vol", "--replicas", "2")

                def two():
                    return sum("node2" in line or "solo" in line for line in
                               cvol("volume", "explain", "vol").stdout.splitlines()) and len(
                        [c for c in cluster.json(2, "volume", "inspect", "vol")["copies"]
                         if c["in_sync"]]) == 2
                wait_for("a second copy", two, 60, every=0.2)
                process.kill()
                stamps.verify(cluster.nbd_socket(2), history)
                say("a single node became a cluster", blocks=len(history.low), lost=0)
            except BaseException:
                print("--- the log of the single node:\n" + process.last_words())
                raise
            finally:
                process.kill()
                if discards(cluster.folder):
                    for file in solo.rglob("chunks"):
                        write_through(file)


@unittest.skipUnless(LONG, "takes a minute and a half: in the long run")
class Slow(ClusterTest):
    SETTINGS = {"nodes": 3}

    def test_a_slow_member_is_left_out_for_a_while(self):
        """R16. Node 3 stands still most of the time, but never long enough to be called silent."""
        self.cluster.create_volume(self.name)
        over = threading.Event()

        def stumble():
            while not over.is_set():
                self.cluster.pause(3)
                time.sleep(0.4)
                self.cluster.resume(3)
                time.sleep(0.1)
        stumbler = threading.Thread(target=stumble)
        with self.cluster.writer(self.name, 1) as writer:
            self.cluster.move(self.name, 1)
            writer.wait_progress(500)
            begin = time.monotonic()
            stumbler.start()
            try:
                self.cluster.wait_out_of_sync(self.name, 3, within=90)
                out = time.monotonic() - begin
                writer.wait_progress(2000, within=20)  # it holds nobody up any more
            finally:
                over.set()
                stumbler.join()
            self.assertIn("slower", self.cluster.cvol(1, "events").stdout)
            self.cluster.wait_in_sync(self.name, within=60)
            back = time.monotonic() - begin - out
        self.assertEqual(writer.report.connections, 1)
        say("a slow member", out_after=f"{out:.0f} s", back_after=f"{back:.0f} s")
        self.cluster.check_copies(self.name, writer.history, 1)


class Shards(unittest.TestCase):
    def test_a_volume_that_is_used_on_another_shard_than_its_copy(self):
        """A node's second disk has a shard of its own. The volume is opened before the node has a
        copy, which comes to that disk and becomes the primary: the open device reaches it."""
        with Cluster() as cluster:
            second = cluster.folder / "node1-second"
            second.mkdir()
            cluster.cvol(1, "disk", "add", second, "--capacity", "8GiB", "--journal-size", "64MiB",
                         "--force")
            cluster.create_volume("vol", "64MiB", 2, gateways=[1])
            handle = stamps.connect(cluster.nbd_socket(1), "vol")
            handle.pwrite(b"\1" * BLOCK, 0)
            cluster.cvol(2, "volume", "modify", "vol", "--replicas", "3")
            cluster.wait_in_sync("vol", 3)
            used = {copy["node"]: copy["disk"] for copy in cluster.copies("vol")}
            disks = {disk["path"]: disk["id"] for disk in cluster.json(1, "disk", "ls")}
            self.assertEqual(used["node1"], disks[str(second)])
            cluster.move("vol", 1)
            answers = []
            asking = threading.Thread(
                target=lambda: answers.append(bytes(handle.pread(BLOCK, 0))[:4]), daemon=True)
            asking.start()
            asking.join(20)
            self.assertEqual(answers, [b"\1" * 4], "the device does not reach its primary")
            handle.shutdown()


if __name__ == "__main__":
    unittest.main(verbosity=2)
