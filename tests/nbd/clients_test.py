#!/usr/bin/env python3
"""NBD with the clients that people use, crashes of volumed under them, and bytes no client sends."""
import hashlib
import os
import random
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from harness import BIN, Daemon, go, option, request, run

import nbd  # python3-libnbd


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--nbd-listen", "127.0.0.1:0")
        cls.daemon.start()
        cls.daemon.cvol("volume", "create", "vol", "--size", "256MiB")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.__exit__(None, None, None)

    def setUp(self):
        self.d = self.daemon

    def connect(self, **options):
        handle = nbd.NBD()
        handle.add_meta_context("base:allocation")
        for name, value in options.items():
            getattr(handle, name)(value)
        handle.connect_uri(self.d.uri("vol"))
        return handle

    def test_nbdinfo_shows_size_and_features(self):
        out = run("nbdinfo", self.d.uri("vol")).stdout
        for text in ("export-size: 268435456", "can_flush: true", "can_fua: true",
                     "can_multi_conn: true", "can_trim: true", "can_zero: true",
                     "can_fast_zero: true", "can_cache: true", "block_size_preferred: 4096",
                     "block_size_maximum: 33554432", "base:allocation"):
            self.assertIn(text, out)

    def test_list_names_the_volumes(self):
        self.assertIn('export="vol"', run("nbdinfo", "--list", self.d.uri("")).stdout)

    def test_nbdcopy_round_trip(self):
        self.d.cvol("volume", "create", "copy", "--size", "64MiB")
        source = self.d.root / "source"
        back = self.d.root / "back"
        source.write_bytes(random.Random(1).randbytes(40 << 20) + bytes(24 << 20))
        run("nbdcopy", source, self.d.uri("copy"))
        run("nbdcopy", self.d.uri("copy"), back)
        self.assertEqual(hashlib.sha256(source.read_bytes()).digest(),
                         hashlib.sha256(back.read_bytes()).digest())

    def test_nbdinfo_map_tells_holes(self):
        self.d.cvol("volume", "create", "map", "--size", "2MiB")
        run("qemu-io", "-f", "raw", "-c", "write 128k 64k", self.d.uri("map"))
        out = run("nbdinfo", "--map", self.d.uri("map")).stdout.split("\n")
        self.assertEqual([line.split()[:3] for line in out if line],
                         [["0", "131072", "3"], ["131072", "65536", "0"],
                          ["196608", "1900544", "3"]])

    def test_qemu_img_and_qemu_io(self):
        self.assertIn("virtual size: 256 MiB", run("qemu-img", "info", self.d.uri("vol")).stdout)
        out = run("qemu-io", "-f", "raw", "-c", "write -P 7 1000 5001", "-c", "read -P 7 1000 5001",
                  "-c", "write -z 4096 4096", "-c", "read -P 0 4096 1905", "-c", "discard 0 65536",
                  "-c", "read -P 0 0 65536", "-c", "flush", self.d.uri("vol")).stdout
        self.assertNotIn("failed", out)

    def test_qemu_img_bench_of_many_requests(self):
        run("qemu-img", "bench", "-f", "raw", "-c", "5000", "-d", "64", "-w", "-s", "4096",
            "--flush-interval=100", self.d.uri("vol"))

    def test_fio_verifies_what_it_wrote(self):
        self.d.cvol("volume", "create", "fio", "--size", "128MiB")
        run("fio", "--name=v", "--ioengine=nbd", f"--uri={self.d.uri('fio')}", "--size=128M",
            "--rw=randrw", "--bsrange=512-128k", "--bs_unaligned=0", "--iodepth=32",
            "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=256", "--io_size=256M",
            "--runtime=20")

    def test_libnbd_commands(self):
        h = self.connect()
        data = os.urandom(10000)
        h.pwrite(data, 333)
        self.assertEqual(h.pread(10000, 333), data)
        h.pwrite(b"x" * 4096, 8192, nbd.CMD_FLAG_FUA)
        h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
        self.assertEqual(h.pread(4096, 8192), bytes(4096))
        h.trim(65536, 65536)
        h.cache(4096, 0)
        h.flush()
        states = []
        h.block_status(1 << 20, 0, lambda context, offset, entries, error: states.extend(entries))
        self.assertEqual(sum(states[::2]), 1 << 20)
        self.assertEqual(h.pread_structured(4096, 0, lambda *_: 0, nbd.CMD_FLAG_DF)[:0], b"")
        h.shutdown()

    def test_without_structured_replies(self):
        h = self.connect(set_request_structured_replies=False)
        h.pwrite(b"plain", 77)
        self.assertEqual(h.pread(5, 77), b"plain")
        h.shutdown()

    def test_requests_beyond_the_end_are_refused_and_the_connection_goes_on(self):
        h = self.connect(set_strict_mode=0)
        size = h.get_size()
        for call in (lambda: h.pread(4096, size), lambda: h.pwrite(b"x" * 4096, size - 1),
                     lambda: h.zero(4096, size), lambda: h.trim(4096, size),
                     lambda: h.pread(4096, 1 << 62)):
            self.assertRaises(nbd.Error, call)
        h.pwrite(b"fine", 0)
        h.shutdown()

    def test_many_connections_see_each_others_writes(self):
        handles = [self.connect() for _ in range(16)]
        for number, h in enumerate(handles):
            h.pwrite(bytes([number]) * 4096, number * 4096)
        for number in range(16):
            self.assertEqual(handles[15 - number].pread(4096, number * 4096),
                             bytes([number]) * 4096)
        for h in handles:
            h.shutdown()

    def test_overlapping_unaligned_writes_of_many_clients_do_not_mix(self):
        base = 32 << 20
        def client(number):
            h = self.connect()
            for _ in range(100):
                h.pwrite(bytes([number]) * 100, base + number * 100)
            h.shutdown()
        threads = [threading.Thread(target=client, args=(n,)) for n in range(1, 9)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        h = self.connect()
        for number in range(1, 9):
            self.assertEqual(h.pread(100, base + number * 100), bytes([number]) * 100)
        h.shutdown()

    def test_an_unknown_volume_is_named(self):
        out = run("nbdinfo", self.d.uri("nobody"), check=False)
        self.assertNotEqual(out.returncode, 0)
        self.assertIn("nobody", out.stdout)

    def exchange(self, *parts, linger=0.3):
        """Sends bytes and returns what came back; the server may close."""
        connection = self.d.raw()
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
            connection.settimeout(linger)
            while True:
                got = connection.recv(65536)
                if not got:
                    return received, True
                received += got
        except TimeoutError:
            return received, False
        except (BrokenPipeError, ConnectionResetError):
            return received, True
        finally:
            connection.close()

    def test_malformed_input_ends_that_connection_only(self):
        flags = struct.pack(">I", 3)
        begin = flags + go("vol")
        cases = {
            "wrong client flags": (struct.pack(">I", 0xFFFF),),
            "not NBD at all": (b"GET / HTTP/1.1\r\n\r\n" * 4,),
            "option with wrong magic": (flags, b"\xff" * 16),
            "option beyond the limit": (flags, struct.pack(">QII", 0x49484156454F5054, 7, 1 << 30)),
            "export name that escapes": (flags, option(1, b"../../etc/passwd")),
            "empty export name": (flags, option(1, b"")),
            "request with wrong magic": (begin, b"\x00" * 28),
            "write of 4 GiB": (begin, request(1, 0, 0xFFFFFFFF)),
        }
        for name, parts in cases.items():
            with self.subTest(name):
                _, closed = self.exchange(*parts, linger=3)
                self.assertTrue(closed, name)
        truncated = {
            "handshake cut short": (flags[:2],),
            "option cut short": (flags, go("vol")[:9]),
            "request cut short": (begin, request(0, 0, 4096)[:11]),
            "payload cut short": (begin, request(1, 0, 65536), b"x" * 1000),
        }
        for name, parts in truncated.items():
            with self.subTest(name):
                self.exchange(*parts, linger=0.1)
        run("nbdinfo", "--size", self.d.uri("vol"))
        self.assertIsNone(self.d.process.poll())
        self.assertIn("closing a connection", self.d.log.read_text())

    def test_unknown_commands_get_an_error_each(self):
        replies, closed = self.exchange(struct.pack(">I", 3) + go("vol"), request(42, 0, 4096),
                                        request(0, 0, 512, flags=0x8000), request(3, 0, 0))
        self.assertFalse(closed)
        at = replies.index(struct.pack(">I", 0x67446698))
        errors = [struct.unpack(">I", replies[at + i * 16 + 4:at + i * 16 + 8])[0]
                  for i in range(3)]
        self.assertEqual(sorted(errors), [0, 22, 22])

    def test_unknown_options_are_refused_one_by_one(self):
        replies, closed = self.exchange(struct.pack(">I", 3), option(4711, b"abc"),
                                        option(5), option(6, b"\xff\xff\xff\xff"))
        self.assertFalse(closed)
        self.assertIn(struct.pack(">II", 4711, 0x80000001), replies)
        self.assertIn(struct.pack(">II", 5, 0x80000001), replies)
        self.assertIn(struct.pack(">II", 6, 0x80000003), replies)

    def extended(self, connection):
        """Negotiates structured replies, extended headers and base:allocation; enters vol."""
        context = struct.pack(">I", 3) + b"vol" + struct.pack(">II", 1, 15) + b"base:allocation"
        connection.sendall(struct.pack(">I", 3) + option(11) + option(10, context) + go("vol"))
        received = b""
        while struct.pack(">II", 7, 1) not in received:  # the acknowledgement of GO
            received += connection.recv(65536)
        self.assertIn(struct.pack(">II", 11, 1), received)
        self.assertIn(b"base:allocation", received)

    def chunk(self, connection):
        """One extended reply: (flags, type, cookie, offset, payload)."""
        def exactly(count):
            data = b""
            while len(data) < count:
                part = connection.recv(count - len(data))
                self.assertTrue(part, "the server has closed")
                data += part
            return data
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQQ", exactly(32))
        self.assertEqual(magic, 0x6E8A278C)
        return flags, kind, cookie, offset, exactly(length)

    def test_extended_headers(self):
        def ask(command, offset, length, flags=0, cookie=9):
            return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, offset, length)
        payload_flag = 1 << 5
        connection = self.d.raw()
        self.extended(connection)
        at = 100 << 20
        connection.sendall(ask(1, at, 4096, payload_flag) + b"e" * 4096)
        self.assertEqual(self.chunk(connection), (1, 0, 9, at, b""))
        connection.sendall(ask(0, at, 4096, cookie=10))
        self.assertEqual(self.chunk(connection),
                         (1, 1, 10, at, struct.pack(">Q", at) + b"e" * 4096))
        connection.sendall(ask(7, at, 8192))
        flags, kind, _, _, payload = self.chunk(connection)
        self.assertEqual((flags, kind), (1, 6))
        context, count, length, state = struct.unpack_from(">IIQQ", payload)
        self.assertEqual((context, length, state), (1, 4096, 0))
        self.assertEqual(len(payload), 8 + 16 * count)
        connection.sendall(ask(6, 0, 200 << 20))  # more than 32 bits' worth is allowed as well
        self.assertEqual(self.chunk(connection)[1], 0)
        connection.sendall(ask(0, 1 << 62, 4096))
        flags, kind, _, _, payload = self.chunk(connection)
        self.assertEqual((flags, kind, payload), (1, 0x8001, struct.pack(">IH", 22, 0)))
        connection.sendall(ask(1, at, 4096) + b"x" * 4096)  # a WRITE that denies its payload
        connection.settimeout(5)
        try:
            self.assertEqual(connection.recv(10), b"")
        except ConnectionResetError:
            pass  # closed with our payload unread
        connection.close()

    def test_a_newer_connection_of_a_session_ends_the_older(self):
        def enter(name):
            connection = self.d.raw()
            connection.sendall(struct.pack(">I", 3) + go(name))
            received = b""
            while struct.pack(">II", 7, 1) not in received:
                received += connection.recv(65536)
            return connection
        def alive(connection):
            connection.sendall(request(3, 0, 0))
            connection.settimeout(5)
            try:
                return len(connection.recv(16)) == 16
            except ConnectionResetError:
                return False
        first = enter("vol@abc/1")
        self.assertTrue(alive(first))
        second = enter("vol@abc/2")
        self.assertTrue(alive(second))
        self.assertEqual(first.recv(1), b"")
        stale = enter("vol@abc/1")
        self.assertEqual(stale.recv(1), b"")
        other = enter("vol@other/1")
        self.assertTrue(alive(second) and alive(other))
        for connection in (first, second, stale, other):
            connection.close()

    def test_a_client_that_does_not_read_its_replies_stops_nobody_else(self):
        lazy = []
        for _ in range(2):
            connection = self.d.raw()
            connection.sendall(struct.pack(">I", 3) + go("vol"))
            for _ in range(100):
                connection.sendall(request(0, 0, 16 << 20))
            lazy.append(connection)
        time.sleep(1)
        begin = time.monotonic()
        run("qemu-io", "-f", "raw", "-c", "read 0 4M", "-c", "write 0 4M", self.d.uri("vol"))
        self.assertLess(time.monotonic() - begin, 60)
        for connection in lazy:
            connection.close()

    def test_connections_that_say_nothing_do_no_harm(self):
        silent = [self.d.raw() for _ in range(50)]
        run("nbdinfo", "--size", self.d.uri("vol"))
        for connection in silent:
            connection.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
