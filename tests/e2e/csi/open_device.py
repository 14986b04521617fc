"""A block device that a process of its own has open, as a pod has it.

I/O of such a device may have to wait, and a process that waits for it cannot be ended. So it is never
the test itself that waits: whatever takes too long is an error of the test, which goes on to clean up.
"""
import contextlib
import pathlib
import select
import subprocess
import sys

PROGRAM = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CLOEXEC)
print("open", flush=True)
for line in sys.stdin:
    call, *words = line.split()
    answer = ""
    try:
        if call == "write":
            assert os.pwrite(file, bytes.fromhex(words[1]), int(words[0])) == len(words[1]) // 2
        elif call == "sync":
            os.fsync(file)
        elif call == "stream":  # until it fails
            while True:
                os.pwrite(file, bytes.fromhex(words[1]), int(words[0]))
                os.fsync(file)
        elif call == "read":
            answer = os.pread(file, int(words[1]), int(words[0])).hex()
        print("0", answer, flush=True)
    except OSError as error:
        print(error.errno, flush=True)
os.close(file)
"""
PATIENCE = 30.0


class Hangs(Exception):
    """It took longer than it may."""


class OpenDevice:
    def __init__(self, path):
        self.path = path
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        answer = self._line(PATIENCE)
        if answer != "open":
            raise OSError(f"{path} cannot be opened")

    def _line(self, within):
        if not select.select([self.process.stdout], [], [], within)[0]:
            raise Hangs(f"{self.path}: nothing after {within:.0f} s; the process is in "
                        + self.where())
        return self.process.stdout.readline().strip()

    def where(self):
        """What the process waits for, as the kernel says."""
        about = pathlib.Path(f"/proc/{self.process.pid}")
        try:
            stack = (about / "stack").read_text(encoding="utf-8")
        except OSError:
            stack = (about / "wchan").read_text(encoding="utf-8")
        return " ".join(stack.split())

    def begin(self, call, *words):
        """Asks for a call; its end is told by end()."""
        self.process.stdin.write(" ".join([call, *map(str, words)]) + "\n")
        self.process.stdin.flush()

    def end(self, within=PATIENCE):
        """(errno or 0, bytes that were read) of the call that was begun."""
        number, *data = self._line(within).split()
        return int(number), bytes.fromhex("".join(data))

    def has_ended(self):
        """Whether the call that was begun has ended; end() then says how."""
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def write(self, offset, data, within=PATIENCE):
        self.begin("write", offset, data.hex())
        return self.end(within)[0]

    def sync(self, within=PATIENCE):
        self.begin("sync")
        return self.end(within)[0]

    def read(self, offset, length, within=PATIENCE):
        self.begin("read", offset, length)
        return self.end(within)

    def close(self, within=PATIENCE):
        """In order: what is unwritten goes out first."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise Hangs(f"the close of {self.path}: the process is in " + self.where()) from None
        self.process.stdout.close()

    def abandon(self):
        """For a test that has failed; when what the device waits for has been ended."""
        self.process.kill()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=PATIENCE)
