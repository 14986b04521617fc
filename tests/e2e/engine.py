"""A Docker engine and a volumed of the test's own, for tests that use cvol as its users do.

The engine has its own data, containers and socket, so it lives beside another one. The plugin's
socket must lie where every dockerd looks for plugins, so there can be only one volumed with the
plugin: if another one listens there, the tests refuse to run.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "nbd"))
from harness import Daemon, run

HERE = pathlib.Path(__file__).resolve().parent
PLUGIN_DIR = pathlib.Path("/run/docker/plugins")
PLUGIN_SOCKET = PLUGIN_DIR / "cvol.sock"
LONG = bool(os.environ.get("CVOL_LONG"))
NOT_ROOT = 77  # exit code: skipped
KERNEL_TROUBLE = re.compile(r"I/O error|EXT4-fs (error|warning)|XFS .*(error|shutdown|corrupt)|JBD2.*error"
                            r"|remount.*read-only", re.IGNORECASE)


def require_root():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and cleans up
    if os.geteuid() != 0:
        print("not root: skipped")
        sys.exit(NOT_ROOT)


def is_listening(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            return True
        except OSError:
            return False


def wait_for(what, condition, within=30.0):
    """Polls until `condition` answers something true, which is returned."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within:.0f} s in vain for: {what}")
        time.sleep(0.05)


def end(process):
    """SIGTERM, and SIGKILL if that is not enough."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class KernelLog:
    """What the kernel says from now on, about the devices of a node and about nothing in
    particular; other tests of this host make their own devices fail on purpose."""

    def __init__(self, node):
        self.node = node
        self.begin = len(self.lines())

    @staticmethod
    def lines():
        return run("dmesg", timeout=30).stdout.splitlines()

    def trouble(self):
        """Lines about I/O errors and file systems in trouble since the beginning."""
        ours = self.node.devices()
        found = []
        for line in self.lines()[self.begin:]:
            named = set(re.findall(r"\b(?:loop|nbd)\d+", line))
            if KERNEL_TROUBLE.search(line) and (not named or named & ours):
                found.append(line)
        return found


class Engine:
    """A dockerd of our own, with no network. containerd is a process beside it, as it is on a host
    with systemd, so that kill -9 of dockerd means dockerd alone."""

    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="cvol-dockerd-", dir="/var/tmp"))
        self.log = self.root / "log"
        self.host = f"unix://{self.root}/docker.sock"
        self.containerd_socket = f"{self.root}/containerd.sock"
        self.process = None
        self.containerd = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, value, trace):
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(Exception):
                ids = self.docker("ps", "-aq").stdout.split()
                if ids:
                    self.docker("rm", "-f", *ids, check=False)
            self.stop()
        self.end_containers()
        if self.containerd is not None:
            end(self.containerd)
        if kind is not None and self.log.exists():
            print("dockerd's log:\n" + self.log.read_text()[-3000:])
        unmount_below(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    def in_node(self, words):
        """The command line that runs `words` where the engine's processes belong."""
        return words

    def start_containerd(self):
        config = self.root / "containerd.toml"
        config.write_text(f'version = 2\nroot = "{self.root}/containerd"\n'
                          f'state = "{self.root}/exec/containerd"\n'
                          'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                          f'[grpc]\naddress = "{self.containerd_socket}"\n', encoding="utf-8")
        with open(self.root / "containerd.log", "a", encoding="utf-8") as log:
            command = self.in_node(["containerd", "--config", str(config)])
            self.containerd = subprocess.Popen([str(part) for part in command], stdout=log,
                                               stderr=subprocess.STDOUT, start_new_session=True)
        wait_for("containerd", lambda: is_listening(self.containerd_socket))

    def start(self):
        if self.containerd is None:
            self.start_containerd()
        command = ["dockerd", "--containerd", self.containerd_socket,
                   "--data-root", self.root / "data", "--exec-root", self.root / "exec",
                   "--host", self.host, "--pidfile", self.root / "pid", "--bridge=none",
                   "--iptables=false"]
        (self.root / "pid").unlink(missing_ok=True)
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen([str(part) for part in self.in_node(command)],
                                            stdout=log, stderr=subprocess.STDOUT,
                                            start_new_session=True)
        wait_for("dockerd", self._is_ready, 60)

    def _is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError("dockerd ended: " + self.log.read_text()[-2000:])
        return self.docker("version", check=False).returncode == 0

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        end(self.process)

    def end_containers(self):
        """Containers that a dead dockerd left: their processes are children of containerd's shims,
        which have the socket of this containerd in their command lines."""
        parents = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                parents[int(folder.name)] = (parent, words)
        shims = [pid for pid, (_, words) in parents.items()
                 if b"containerd-shim" in words[0] and self.containerd_socket.encode() in words]
        children = [pid for pid, (parent, _) in parents.items() if parent in shims]
        for pid in children + shims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def docker(self, *arguments, check=True, timeout=120):
        return run("docker", "--host", self.host, *arguments, check=check, timeout=timeout)

    def command(self, *arguments):
        """The command line of `docker ...`, for processes that go on in the background."""
        return ["docker", "--host", self.host, *map(str, arguments)]

    def make_image(self, name):
        run(HERE / "images.sh", name, timeout=600, env={**os.environ, "DOCKER_HOST": self.host})
        return "cvol-test-" + name

    def inspect(self, what):
        return json.loads(self.docker("inspect", what).stdout)[0]


class Node(Daemon):
    """volumed with attach and the Docker plugin."""

    def __init__(self, *flags, journal="256MiB"):
        if is_listening(PLUGIN_SOCKET):
            print(f"another volumed listens at {PLUGIN_SOCKET}; stop it first", file=sys.stderr)
            sys.exit(1)
        super().__init__(journal=journal)
        self.flags = ["--http", "off", "--journal-size", journal, "--disk-capacity", "8GiB",
                      "--docker-plugin-dir", str(PLUGIN_DIR), *flags]

    def __exit__(self, kind, value, trace):
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(Exception):
                self.release_volumes()
            with contextlib.suppress(Exception):
                self.stop()
        self.kill_holders()
        self.drop_leftovers()
        super().__exit__(kind, value, trace)
        if not is_listening(PLUGIN_SOCKET):
            PLUGIN_SOCKET.unlink(missing_ok=True)

    def release_volumes(self):
        for name in self.volume_names():
            self.cvol("volume", "rm", "--force", name, check=False)

    def volume_names(self):
        return [volume["name"] for volume in self.json("volume", "ls")]

    def inspect(self, name):
        return self.json("volume", "inspect", name)

    def devices(self):
        """Names of all block devices that its volumes ever had."""
        return set(re.findall(r"device=/dev/(\w+)", self.log.read_text()))

    def holders(self):
        """Process ids of the cvol-holder processes of this node."""
        found = []
        for record in (self.data / "attach").glob("*"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(json.loads(record.read_text()).get("holder_pid", 0))
                if b"cvol-holder" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def kill_holders(self):
        killed = self.holders()
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return killed

    def drop_leftovers(self):
        """Whatever a failed test left: mounts, loop devices, FUSE mounts."""
        unmount_below(self.data)
        for line in run("losetup", "-l", "-n", "-O", "NAME,BACK-FILE", check=False).stdout.splitlines():
            name, _, file = line.strip().partition(" ")
            if str(self.run_dir) in file:
                run("losetup", "-d", name, check=False)
        unmount_below(self.root)

    def restart_at_once(self):
        """kill -9 and a new volumed; answers the seconds until it answered."""
        begin = time.monotonic()
        self.kill()
        self.start()
        return time.monotonic() - begin


def unmount_below(folder):
    mounts = [line.split()[4] for line in
              pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    for target in sorted(mounts, reverse=True):
        if target.startswith(f"{folder}/"):
            run("umount", "-l", target, check=False)
