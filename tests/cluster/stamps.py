"""Stamped blocks: a writer whose every block says what it is, and a history that says what it may be.

Each 4 KiB block that is written carries (volume, block, writer, number) in each of its eight 512-byte
lanes, so that torn, stale, misdirected and foreign data are told apart. Numbers rise by one with each
write of a block, and at most one write of a block is under way, so the history of a block is two
numbers: `low`, the newest one that is known to have taken effect (acknowledged, or seen by a read),
and `high`, the newest one that was issued. A read may answer anything from the `low` of when it was
issued to the `high` of when it was answered, and what it answers is the new `low`: linearizability per
block, online. A write without an answer stays between the two until a newer one is acknowledged:
after that it must never be seen again.
"""
import array
import errno
import hashlib
import multiprocessing
import random
import struct
import time

import nbd  # python3-libnbd

BLOCK = 4096
LANE = 512
HEAD = struct.Struct(">8s8sQQQ")  # magic, volume, block, writer, number
MAGIC = b"cvolstmp"
# What libnbd says of requests whose connection is gone; no NBD server sends these.
CONNECTION_GONE = {errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE}


def volume_tag(name):
    return hashlib.sha256(name.encode()).digest()[:8]


def stamp(tag, block, writer, number):
    head = HEAD.pack(MAGIC, tag, block, writer, number)
    return (head * (LANE // len(head) + 1))[:LANE] * (BLOCK // LANE)


ZERO = bytes(BLOCK)


class History:
    """What each block of a volume may hold."""

    def __init__(self, volume, blocks, first=0, writer=1):
        self.volume = volume
        self.tag = volume_tag(volume)
        self.first = first  # block of the volume
        self.blocks = blocks
        self.writer = writer
        self.low = array.array("Q", bytes(8 * blocks))
        self.high = array.array("Q", bytes(8 * blocks))
        self.zeroes = set()  # (index, number) of writes of zeroes
        self.acknowledged = 0
        self.checked = 0

    def next(self, index, zero):
        self.high[index] += 1
        if zero:
            self.zeroes.add((index, self.high[index]))
        return self.high[index]

    def data(self, index, number):
        if number == 0 or (index, number) in self.zeroes:
            return ZERO
        return stamp(self.tag, self.first + index, self.writer, number)

    def written(self, index, number):
        self.acknowledged += 1
        self.low[index] = max(self.low[index], number)

    def seen(self, index, low, data):
        """Checks what a read of one block answered that was issued when `low` held. Answers what is
        wrong, or None."""
        self.checked += 1
        high = self.high[index]
        where = f"volume {self.volume}, block {self.first + index}"
        if data == ZERO:
            for number in range(low, high + 1):
                if number == 0 or (index, number) in self.zeroes:
                    self.low[index] = max(self.low[index], number)
                    return None
            return f"{where}: zeroes, expected number {low} to {high}: lost"
        if data[:LANE] * (BLOCK // LANE) != data:
            return f"{where}: torn: lanes {[self.name(data[at:at + LANE]) for at in range(0, BLOCK, LANE)]}"
        magic, tag, block, writer, number = HEAD.unpack_from(data)
        if (magic, tag, block, writer) != (MAGIC, self.tag, self.first + index, self.writer):
            return f"{where}: foreign data: {self.name(data)}"
        if number < low:
            return f"{where}: number {number}, expected {low} to {high}: " + (
                "lost, or stale")
        if number > high or (index, number) in self.zeroes:
            return f"{where}: number {number}, which was never written ({low} to {high})"
        self.low[index] = max(self.low[index], number)
        return None

    @staticmethod
    def name(lane):
        magic, tag, block, writer, number = HEAD.unpack_from(lane)
        if magic != MAGIC:
            return "zeroes" if not any(lane[:LANE]) else f"bytes {bytes(lane[:8]).hex()}"
        return f"(volume {tag.hex()}, block {block}, writer {writer}, number {number})"


def connect(socket_path, volume, patience=30.0):
    """A handle; tries again until `patience` is over."""
    deadline = time.monotonic() + patience
    while True:
        handle = nbd.NBD()
        try:
            handle.connect_uri(f"nbd+unix:///{volume}?socket={socket_path}")
            return handle
        except nbd.Error as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"cannot connect to {volume} at {socket_path}: "
                                     f"{error.string}") from None
            time.sleep(0.05)


class Report:
    """What a writer saw."""

    def __init__(self):
        self.operations = 0
        self.errors = []      # replies with an error; none is ever expected
        self.violations = []  # of the history
        self.gaps = []        # (begin, seconds) in which nothing was answered, CLOCK_MONOTONIC
        self.connections = 0
        self.slowest = 0.0    # seconds from asking to the answer
        self.seconds = 0.0
        self.broken = ""      # why the writer gave up

    def longest_gap(self, since=0.0, until=float("inf")):
        return max((length for begin, length in self.gaps
                    if begin + length >= since and begin <= until), default=0.0)

    def check(self):
        assert not self.violations, "\n".join(self.violations[:10])
        assert not self.errors, "errors seen by the client: " + ", ".join(self.errors[:10])
        assert not self.broken, self.broken


class _Loop:
    """The writer's process: keeps `depth` requests under way until told to stop."""

    SMALLEST_GAP = 0.005

    def __init__(self, sockets, history, depth, rate, read_share, zero_share, patience, shared):
        self.sockets = sockets
        self.history = history
        self.depth = depth
        self.rate = rate
        self.read_share = read_share
        self.zero_share = zero_share
        self.patience = patience
        self.stop, self.counter = shared
        self.random = random.Random()
        self.report = Report()
        self.handle = None
        self.under_way = 0
        self.writing = set()  # indexes
        self.last = time.monotonic()

    def run(self):
        begin = self.last = time.monotonic()
        try:
            turn = 0
            while not self.stop.is_set() or self.under_way:
                self.handle = self.reach(turn)
                turn += 1
                self.report.connections += 1
                if self.serve():
                    break
                self.under_way = 0
                self.writing.clear()
        except (AssertionError, nbd.Error) as error:
            self.report.broken = f"the writer gave up: {error}"
        self.gap(time.monotonic())
        self.report.seconds = time.monotonic() - begin
        return self.report

    def reach(self, turn):
        """Connects to the first socket that answers, beginning with the one whose turn it is."""
        deadline = time.monotonic() + self.patience
        while True:
            for i in range(len(self.sockets)):
                try:
                    return connect(self.sockets[(turn + i) % len(self.sockets)],
                                   self.history.volume, patience=0)
                except AssertionError as error:
                    if time.monotonic() > deadline:
                        raise AssertionError(f"{error}; tried for {self.patience:.0f} s") from None
            time.sleep(0.02)

    def serve(self):
        """True: told to stop, and all is answered. False: the connection is gone."""
        begin, issued, last_answer = time.monotonic(), 0, time.monotonic()
        try:
            while True:
                now = time.monotonic()
                stopping = self.stop.is_set()
                if stopping and self.under_way == 0:
                    self.handle.shutdown()
                    return True
                before = self.report.operations
                while (not stopping and self.under_way < self.depth
                       and issued < (now - begin) * self.rate + self.depth):
                    self.issue()
                    issued += 1
                self.handle.poll(20 if self.under_way == self.depth or stopping else 1)
                if self.report.operations != before:
                    last_answer = now
                    self.counter.value = self.report.operations
                    # After a stall it does not hurry to catch up.
                    issued = max(issued, int((now - begin) * self.rate) - self.depth)
                if now - last_answer > self.patience and self.under_way:
                    raise AssertionError(f"no answer for {self.patience:.0f} s: it hangs")
                if self.handle.aio_is_dead() or self.handle.aio_is_closed():
                    return False
        except nbd.Error:
            if self.handle.aio_is_dead() or self.handle.aio_is_closed():
                return False
            raise

    def issue(self):
        history = self.history
        index = self.random.randrange(history.blocks)
        draw = self.random.random()
        if draw < self.read_share or index in self.writing:
            return self.read(index)
        if draw < self.read_share + self.zero_share:
            number = history.next(index, zero=True)
            done = self.writer_done([(index, number)])
            self.handle.aio_zero(BLOCK, (history.first + index) * BLOCK, completion=done)
        else:
            # One to four blocks.
            last = index + 1
            while last < history.blocks and last < index + 4 and last not in self.writing \
                    and self.random.random() < 0.25:
                last += 1
            numbers = [(i, history.next(i, zero=False)) for i in range(index, last)]
            data = bytearray(b"".join(history.data(i, number) for i, number in numbers))
            buffer = nbd.Buffer.from_buffer(data)
            done = self.writer_done(numbers, buffer)
            self.handle.aio_pwrite(buffer, (history.first + index) * BLOCK, completion=done)
        self.under_way += 1

    def writer_done(self, numbers, buffer=None):
        begin = time.monotonic()
        for index, _ in numbers:
            self.writing.add(index)

        def done(error, _keep=buffer):
            if self.answered(error, begin, "write"):
                for index, number in numbers:
                    self.history.written(index, number)
            for index, _ in numbers:
                self.writing.discard(index)
            return 1
        return done

    def read(self, index):
        history = self.history
        low = history.low[index]
        buffer = nbd.Buffer(BLOCK)
        begin = time.monotonic()

        def done(error):
            if self.answered(error, begin, "read"):
                wrong = history.seen(index, low, bytes(buffer.to_bytearray()))
                if wrong:
                    self.report.violations.append(wrong)
            return 1
        self.handle.aio_pread(buffer, (history.first + index) * BLOCK, completion=done)
        self.under_way += 1

    def answered(self, error, begin, what):
        self.under_way -= 1
        now = time.monotonic()
        if error.value != 0:
            if error.value not in CONNECTION_GONE:
                self.report.errors.append(f"{what}: {errno.errorcode.get(error.value, error.value)}")
            return False
        self.report.operations += 1
        self.report.slowest = max(self.report.slowest, now - begin)
        self.gap(now)
        return True

    def gap(self, now):
        if now - self.last > self.SMALLEST_GAP:
            self.report.gaps.append((self.last, now - self.last))
        self.last = now


def _work(pipe, *arguments):
    loop = _Loop(*arguments)
    report = loop.run()
    pipe.send((report, loop.history))
    pipe.close()


class Writer:
    """A process that writes and reads stamped blocks of a volume, through the sockets in turn: the
    next one when the connection of one is gone. `with` stops it and checks what it saw."""

    def __init__(self, sockets, history, depth=8, rate=4000, read_share=0.3, zero_share=0.03,
                 patience=60.0):
        self.history = history
        context = multiprocessing.get_context("fork")
        self.stop_event = context.Event()
        self.counter = context.Value("Q", 0, lock=False)
        self.pipe, child = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, daemon=True,
            args=(child, [str(s) for s in sockets], history, depth, rate, read_share, zero_share,
                  patience, (self.stop_event, self.counter)))
        self.process.start()
        child.close()
        self.report = None

    def wait_progress(self, operations=200, within=60.0):
        """Until that many more are answered."""
        target = self.counter.value + operations
        deadline = time.monotonic() + within
        while self.counter.value < target:
            if time.monotonic() > deadline or (not self.process.is_alive() and not self.pipe.poll()):
                self.finish()
                raise AssertionError(f"the writer stands still: {self.counter.value} of {target}; "
                                     f"{self.report.broken or self.report.errors[:3]}")
            if self.pipe.poll():
                self.finish()
                self.report.check()
                raise AssertionError("the writer has ended")
            time.sleep(0.01)

    def finish(self):
        """Stops; the history is what it knew in the end."""
        if self.report is None:
            self.stop_event.set()
            if not self.pipe.poll(150):
                self.process.kill()
                raise AssertionError("the writer does not stop: its requests hang")
            self.report, self.history = self.pipe.recv()
            self.process.join()
        return self.report

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.process.kill()
            self.process.join()
            return
        self.finish().check()


def verify(socket_path, history, handle=None):
    """Reads every block of the history; answers how many."""
    own = handle or connect(socket_path, history.volume)
    wrong = []
    step = 64
    for index in range(0, history.blocks, step):
        count = min(step, history.blocks - index)
        data = own.pread(count * BLOCK, (history.first + index) * BLOCK)
        for i in range(count):
            found = history.seen(index + i, history.low[index + i],
                                 bytes(data[i * BLOCK:(i + 1) * BLOCK]))
            if found:
                wrong.append(found)
    if handle is None:
        own.shutdown()
    assert not wrong, f"{len(wrong)} blocks are wrong:\n" + "\n".join(wrong[:10])
    return history.blocks
