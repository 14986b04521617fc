"""Starts volumed in a directory of its own, for tests that speak to it as its users do."""
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

BIN = pathlib.Path(os.environ.get("CVOL_BIN", "build/bin")).resolve()


def run(*command, timeout=120, check=True, **more):
    """Runs a program; its output is in .stdout (text)."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} -> {done.returncode}:\n{done.stdout}")
    return done


class Daemon:
    """One volumed with its data and run directories under a temporary directory."""

    def __init__(self, *flags, journal="64MiB", capacity="8GiB", where="/var/tmp"):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="cvol-test-", dir=where))
        self.data = self.root / "data"
        self.run_dir = self.root / "run"
        self.log = self.root / "log"
        self.flags = ["--http", "off", "--docker-plugin-dir", "off", "--attach-method", "none",
                      "--journal-size", journal, "--disk-capacity", capacity, *flags]
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, value, trace):
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if kind is not None:
            print(self.log.read_text()[-2000:])
        shutil.rmtree(self.root, ignore_errors=True)

    def command(self):
        return [str(BIN / "volumed"), "--data-dir", str(self.data), "--run-dir",
                str(self.run_dir), *self.flags]

    def start(self, wait=True):
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while wait:
            if self.cvol("status", check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                raise AssertionError("volumed ended: " + self.log.read_text()[-2000:])
            if time.monotonic() > deadline:
                raise AssertionError("volumed does not answer")
            time.sleep(0.05)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, within=5.0):
        """SIGTERM; returns the seconds that it took."""
        begin = time.monotonic()
        self.process.terminate()
        code = self.process.wait(timeout=within)
        assert code == 0, f"volumed ended with {code}: " + self.log.read_text()[-2000:]
        return time.monotonic() - begin

    def cvol(self, *arguments, check=True, timeout=60):
        return run(BIN / "cvol", "--api", f"unix:{self.run_dir}/api.sock", *arguments, check=check,
                   timeout=timeout)

    def json(self, *arguments):
        return json.loads(self.cvol(*arguments, "-o", "json").stdout)

    @property
    def socket_path(self):
        return str(self.run_dir / "nbd.sock")

    def uri(self, volume):
        return f"nbd+unix:///{volume}?socket={self.socket_path}"

    def raw(self):
        """A raw connection to the NBD socket, for bytes that no client would send."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(self.socket_path)
        return connection

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def option(code, data=b""):
    return struct.pack(">QII", 0x49484156454F5054, code, len(data)) + data


def go(name):
    return option(7, struct.pack(">I", len(name)) + name.encode() + b"\0\0")


def request(command, offset, length, flags=0, cookie=1):
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)
