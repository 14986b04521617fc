"""A cluster of volumed nodes and etcd members on this machine, for scripts/cluster and for tests.

Everything lies in one directory: cluster.json says what the cluster is, nodeI/{data,run,log,pid} and
etcdM/{data,log,pid} belong to its processes. A pid file holds the process id and the time at which
the process started, so that no other process is ever taken for one of ours.

With namespaces (root only) every node has a network of its own: a namespace with one interface,
and a bridge in a namespace of the cluster's joins them; etcd is at the bridge, and this host has an
interface there too, so that metrics can be read. Without, all are on loopback ports.
"""
import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
ETCD = "etcd"  # as a side of a partition
MOST_NODES = 100


class ClusterError(Exception):
    """Text for the user."""


def run(*command, check=True, timeout=60):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise ClusterError(f"{' '.join(map(str, command))}: {done.stdout.strip()}")
    return done


def wait_for(what, condition, within=30.0, every=0.05):
    """Polls until `condition` answers something true, which is returned."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {within:.0f} s in vain for: {what}")
        time.sleep(every)


def process_state(pid):
    """(state letter, start time in ticks), or None."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()
    return fields[0], int(fields[19])


def may_use_namespaces():
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "nsenter", "iptables"))


class Process:
    """One process of the cluster, known by its pid file."""

    def __init__(self, name, folder):
        self.name = name
        self.folder = folder
        self.pid_file = folder / "pid"
        self.log = folder / "log"
        self.child = None  # if this program started it: to be reaped

    def pid(self):
        """None if it does not run."""
        if self.child is not None and self.child.poll() is not None:
            self.child = None
        try:
            pid, started = map(int, self.pid_file.read_text(encoding="utf-8").split())
        except (OSError, ValueError):
            return None
        seen = process_state(pid)
        return pid if seen and seen[0] not in "ZX" and seen[1] == started else None

    def state(self):
        pid = self.pid()
        if pid is None:
            return "down"
        seen = process_state(pid)
        return "stopped" if seen and seen[0] in "tT" else "running"

    def start(self, command, environment=None):
        if self.pid() is not None:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as log:
            self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=subprocess.STDOUT,
                                          start_new_session=True, env=environment)
        seen = process_state(self.child.pid)
        new = self.pid_file.with_suffix(".new")
        new.write_text(f"{self.child.pid} {seen[1] if seen else 0}\n", encoding="utf-8")
        new.rename(self.pid_file)
        return True

    def signal(self, number):
        """False if it does not run."""
        pid = self.pid()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True

    def wait_gone(self, within):
        deadline = time.monotonic() + within
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def kill(self):
        if not self.signal(signal.SIGKILL):
            return False
        if not self.wait_gone(30):
            raise ClusterError(f"{self.name} does not end on SIGKILL")
        return True

    def end(self, within=15.0):
        """SIGTERM, and SIGKILL if that is not enough."""
        if not self.signal(signal.SIGTERM):
            return False
        self.signal(signal.SIGCONT)
        if not self.wait_gone(within):
            self.kill()
        return True

    def last_words(self):
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        except OSError:
            return ""

    def cpu_seconds(self):
        """User and system time, of all threads."""
        pid = self.pid()
        if pid is None:
            return 0.0
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Network:
    """The namespaces of one cluster; names and addresses follow from its tag."""

    def __init__(self, tag, subnet):
        self.tag = tag
        self.subnet = subnet  # third byte of 198.18.x.0/24
        self.switch = f"cvol-{tag}"

    @staticmethod
    def choose_subnet():
        taken = set(re.findall(r"198\.18\.(\d+)\.", run("ip", "-4", "route", "show").stdout))
        return secrets.choice([i for i in range(256) if str(i) not in taken])

    def namespace(self, node):
        return f"{self.switch}-{node}"

    def address(self, node):
        """Of node 1, 2 ..., of ETCD, or of this host (0)."""
        last = {ETCD: 250, 0: 254}.get(node, node)
        return f"198.18.{self.subnet}.{last}"

    @staticmethod
    def inside(namespace):
        """The network alone: mounts stay those of the host."""
        return ["nsenter", f"--net=/run/netns/{namespace}", "--"]

    def exists(self, namespace):
        return pathlib.Path("/run/netns", namespace).exists()

    def add(self, nodes):
        if not self.exists(self.switch):
            run("ip", "netns", "add", self.switch)
            in_switch = self.inside(self.switch)
            run(*in_switch, "ip", "link", "set", "lo", "up")
            run(*in_switch, "ip", "link", "add", "switch", "type", "bridge")
            run(*in_switch, "ip", "address", "add", f"{self.address(ETCD)}/24", "dev", "switch")
            run(*in_switch, "ip", "link", "set", "switch", "up")
            run("ip", "link", "add", self.switch, "type", "veth", "peer", "name", "host", "netns",
                self.switch)
            run(*in_switch, "ip", "link", "set", "host", "master", "switch", "up")
            run("ip", "address", "add", f"{self.address(0)}/24", "dev", self.switch)
            run("ip", "link", "set", self.switch, "up")
        for node in nodes:
            name = self.namespace(node)
            if self.exists(name):
                continue
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name",
                f"node{node}", "netns", self.switch)
            run("ip", "-n", self.switch, "link", "set", f"node{node}", "master", "switch", "up")
            run("ip", "-n", name, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")

    def remove(self, nodes):
        for name in [self.namespace(node) for node in nodes] + [self.switch]:
            if self.exists(name):
                run("ip", "netns", "delete", name)

    def drop(self, at, chain, flag, other):
        rule = [chain, flag, self.address(other), "-j", "DROP"]
        tables = [*self.inside(self.namespace(at)), "iptables", "-w"]
        if run(*tables, "-C", *rule, check=False).returncode != 0:
            run(*tables, "-A", *rule)

    def cut(self, a, b, one_way=False):
        """Silently: packets are dropped. One way: those from a to b."""
        if b != ETCD:
            self.drop(b, "INPUT", "-s", a)
        else:
            self.drop(a, "OUTPUT", "-d", b)
        if not one_way:
            self.drop(a, "INPUT", "-s", b)

    def heal(self, nodes):
        for node in nodes:
            if self.exists(self.namespace(node)):
                run(*self.inside(self.namespace(node)), "iptables", "-w", "-F")

    def cuts(self, nodes):
        """[(a, b)]: packets from a to b are dropped."""
        names = {self.address(node): node for node in [*nodes, ETCD]}
        found = []
        for node in nodes:
            if not self.exists(self.namespace(node)):
                continue
            rules = run(*self.inside(self.namespace(node)), "iptables", "-w", "-S").stdout
            for way, address in re.findall(r"-A \w+ -([sd]) ([\d.]+)/32 -j DROP", rules):
                other = names.get(address)
                if other is not None:
                    found.append((other, node) if way == "s" else (node, other))
        return found


def free_ports(count):
    """The first of `count` ports in a row, below those that the kernel gives out."""
    for _ in range(100):
        base = 20000 + secrets.randbelow(10000)
        try:
            with contextlib.ExitStack() as stack:
                for port in range(base, base + count):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise ClusterError("no free ports on loopback")


def own_folder(folder):
    """The path without links in its parents, if it is the caller's own or not there yet: others may
    make links and folders in /var/tmp, and what runs here is root."""
    given = pathlib.Path(os.path.abspath(folder))
    folder = given.parent.resolve() / given.name
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return folder
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        raise ClusterError(f"{folder} is a link or no folder: name the real one with --dir")
    if found.st_uid != os.geteuid():
        raise ClusterError(f"{folder} belongs to user {found.st_uid}, not to you: choose another "
                           "--dir")
    if found.st_mode & 0o022:
        raise ClusterError(f"others may write in {folder}: 'chmod 700 {folder}' if it is yours alone, "
                           "or choose another --dir")
    return folder


class LocalCluster:
    """What cluster.json in `folder` describes; describe() writes it."""

    # In cluster.json, with what an old file lacks.
    DEFAULTS = {"nodes": 3, "etcd": 3, "tag": "", "subnet": None, "port": 2379,
                "journal": "256MiB", "capacity": "8GiB", "zones": 0, "flags": [], "node_flags": {}}

    def __init__(self, folder, binaries=None):
        self.folder = own_folder(folder)
        self.binaries = pathlib.Path(binaries or os.environ.get("CVOL_BIN", ROOT / "build/bin"))
        self.binaries = self.binaries.resolve()
        try:
            stored = json.loads((self.folder / "cluster.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ClusterError(f"there is no cluster in {self.folder}; "
                               "'scripts/cluster up' makes one") from None
        self.settings = {**self.DEFAULTS, **stored}
        self.numbers = list(range(1, self.settings["nodes"] + 1))
        self.members = list(range(1, self.settings["etcd"] + 1))
        self.nodes = {i: Process(f"node{i}", self.folder / f"node{i}") for i in self.numbers}
        self.etcds = {m: Process(f"etcd{m}", self.folder / f"etcd{m}") for m in self.members}
        self.network = None
        if self.settings["subnet"] is not None:
            self.network = Network(self.settings["tag"], self.settings["subnet"])

    @classmethod
    def describe(cls, folder, namespaces=False, **settings):
        """Chooses what is left to choose, and writes cluster.json."""
        folder = own_folder(folder)
        if (folder / "cluster.json").exists():
            raise ClusterError(f"there is a cluster in {folder} already")
        unknown = set(settings) - set(cls.DEFAULTS)
        if unknown:
            raise ClusterError(f"no such setting: {', '.join(unknown)}")
        settings = {**cls.DEFAULTS, **settings}
        if not 1 <= settings["nodes"] <= MOST_NODES:
            raise ClusterError(f"1 to {MOST_NODES} nodes, not {settings['nodes']}")
        if settings["etcd"] not in (1, 3, 5):
            raise ClusterError(f"1, 3 or 5 members of etcd, not {settings['etcd']}: two are worse "
                               "than one, since either's loss stops both")
        longest = folder / f"node{settings['nodes']}" / "run" / "nbd.sock"
        if len(str(longest)) > 100:
            raise ClusterError(f"{folder} is too long a path for unix sockets")
        settings["tag"] = secrets.token_hex(2)
        if namespaces:
            settings["subnet"] = Network.choose_subnet()
        else:
            # Of etcd two each; of a node HTTP's, and one for each shard.
            settings["port"] = free_ports(2 * settings["etcd"] + 16 * settings["nodes"])
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        own_folder(folder)  # nobody was faster
        folder.chmod(0o700)
        (folder / "cluster.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    # --- addresses ---

    def host_of(self, what):
        return self.network.address(what) if self.network else "127.0.0.1"

    def etcd_urls(self, member):
        """(for clients, for peers)"""
        port = self.settings["port"] + 2 * (member - 1)
        return tuple(f"http://{self.host_of(ETCD)}:{p}" for p in (port, port + 1))

    def node_ports(self, node):
        """(for HTTP, the first for replication: shard i has the i-th after it)"""
        if self.network:
            return 9480, 9482
        base = self.settings["port"] + 2 * self.settings["etcd"] + 16 * (node - 1)
        return base, base + 1

    def http(self, node):
        return f"{self.host_of(node)}:{self.node_ports(node)[0]}"

    def run_dir(self, node):
        return self.folder / f"node{node}" / "run"

    def data_dir(self, node):
        return self.folder / f"node{node}" / "data"

    def nbd_socket(self, node):
        return self.run_dir(node) / "nbd.sock"

    def uri(self, node, volume):
        return f"nbd+unix:///{volume}?socket={self.nbd_socket(node)}"

    # --- etcd ---

    def start_etcd(self, member):
        client, peer = self.etcd_urls(member)
        everyone = ",".join(f"etcd{m}={self.etcd_urls(m)[1]}" for m in self.members)
        command = ["etcd", "--name", f"etcd{member}", "--data-dir", self.etcds[member].folder / "data",
                   "--listen-client-urls", client, "--advertise-client-urls", client,
                   "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                   "--initial-cluster", everyone, "--initial-cluster-state", "new",
                   "--initial-cluster-token", f"cvol-{self.settings['tag']}", "--logger", "zap",
                   "--log-level", "warn"]
        if self.network:
            command = [*self.network.inside(self.network.switch), *command]
        return self.etcds[member].start(command)

    def etcd_call(self, member, path, body=None, timeout=2.0):
        """The answer as JSON, or None."""
        request = urllib.request.Request(self.etcd_urls(member)[0] + path,
                                         None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError):
            return None

    def etcd_is_healthy(self, member):
        answer = self.etcd_call(member, "/health")
        return answer is not None and answer.get("health") == "true"

    def wait_etcd(self, within=60.0):
        for member, process in self.etcds.items():
            def healthy(member=member, process=process):
                if process.pid() is None:
                    raise ClusterError(f"{process.name} ended: {process.last_words()}")
                return self.etcd_is_healthy(member)
            if process.state() == "running":
                wait_for(f"etcd member {member}", healthy, within)

    def etcd_leader(self):
        """Number of the member that leads, or None."""
        for member in self.members:
            status = self.etcd_call(member, "/v3/maintenance/status", {})
            if status is None or not status.get("leader"):
                continue
            for other in self.members:
                seen = self.etcd_call(other, "/v3/maintenance/status", {})
                if seen and seen["header"]["member_id"] == status["leader"]:
                    return other
        return None

    # --- nodes ---

    def volumed_command(self, node):
        settings = self.settings
        endpoints = ",".join(self.etcd_urls(m)[0].removeprefix("http://") for m in self.members)
        command = [self.binaries / "volumed", "--node-name", f"node{node}",
                   "--data-dir", self.data_dir(node), "--run-dir", self.run_dir(node),
                   "--metadata", f"etcd:{endpoints}", "--http", self.http(node),
                   "--replication-listen", f"{self.host_of(node)}:{self.node_ports(node)[1]}",
                   "--docker-plugin-dir", "off", "--journal-size", settings["journal"],
                   "--disk-capacity", settings["capacity"]]
        if self.network:
            command = [*self.network.inside(self.network.namespace(node)), *command, "--insecure"]
        if settings["zones"]:
            command += ["--zone", f"zone{(node - 1) % settings['zones'] + 1}"]
        return [*command, *settings["flags"], *settings["node_flags"].get(str(node), [])]

    def start_node(self, node, wait=True):
        started = self.nodes[node].start(self.volumed_command(node))
        if wait:
            self.wait_node(node)
        return started

    def wait_node(self, node, within=60.0):
        def answers():
            if self.nodes[node].pid() is None:
                raise ClusterError(f"node {node} ended: {self.nodes[node].last_words()}")
            return self.cvol(node, "status", check=False, timeout=30).returncode == 0
        wait_for(f"an answer of node {node}", answers, within)

    def cvol(self, node, *arguments, check=True, timeout=60):
        return run(self.binaries / "cvol", "--api", f"unix:{self.run_dir(node)}/api.sock", *arguments,
                   check=check, timeout=timeout)

    def json(self, node, *arguments, timeout=60):
        return json.loads(self.cvol(node, *arguments, "-o", "json", timeout=timeout).stdout)

    def any_running(self):
        """A node that answers, or None."""
        for node in self.numbers:
            if self.nodes[node].state() != "running":
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.cvol(node, "status", check=False, timeout=5).returncode == 0:
                    return node
        return None

    # --- all together ---

    def check_tools(self):
        for name in ("volumed", "cvol"):
            if not (self.binaries / name).exists():
                raise ClusterError(f"{self.binaries}/{name} is not there: run scripts/build first, or "
                                   "set CVOL_BIN to where it is")
        if shutil.which("etcd") is None:
            raise ClusterError("etcd is not installed: run scripts/packages test")

    def up(self):
        """Starts what does not run."""
        self.check_tools()
        if self.network:
            if not may_use_namespaces():
                raise ClusterError("this cluster has network namespaces: root, ip, nsenter and "
                                   "iptables are needed")
            self.network.add(self.numbers)
        for member in self.members:
            self.start_etcd(member)
        self.wait_etcd()
        for node in self.numbers:
            self.start_node(node, wait=False)
        for node in self.numbers:
            if self.nodes[node].state() != "stopped":
                self.wait_node(node)
        if not self.cuts() and all(self.nodes[n].state() == "running" for n in self.numbers):
            self.wait_members()

    def wait_members(self, within=30.0):
        """Until all nodes know of each other: one whose lease ran out, behind a cut or while it was
        paused, takes a moment to announce itself again."""
        def all_alive():
            with contextlib.suppress(ClusterError):
                return all(sum(bool(other.get("alive")) for other in self.json(node, "node", "ls"))
                           >= len(self.numbers) for node in self.numbers)
            return False
        wait_for("all nodes to know of each other", all_alive, within)

    def down(self):
        for process in self.nodes.values():
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGCONT)
        for process in self.nodes.values():
            process.end()
        for node in self.numbers:
            self.release_devices(node)
        for process in self.etcds.values():
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGCONT)
        for process in self.etcds.values():
            process.end(within=1)  # a leader looks for somebody to hand over to; it may be killed
        if self.network:
            self.network.remove(self.numbers)

    def delete(self):
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def partition(self, a, b, one_way=False):
        if self.network is None:
            raise ClusterError("the nodes of this cluster share the host's network: begin anew with "
                               "'down --delete' and 'up --netns', as root")
        if a == ETCD and not one_way:
            a, b = b, a
        if a == b:
            raise ClusterError("a partition has two different sides")
        self.network.cut(a, b, one_way)

    def heal(self):
        if self.network:
            self.network.heal(self.numbers)

    def cuts(self):
        return self.network.cuts(self.numbers) if self.network else []

    # --- devices of nodes, for those that attach ---

    def holders(self, node):
        """Process ids of the node's cvol-holders, also of those that no record knows any more."""
        found = []
        below = f"{self.folder}/node{node}/".encode()
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"cvol-holder" in words[0] and any(word.startswith(below) for word in words):
                    found.append(int(entry.name))
        return found

    def release_devices(self, node):
        """Mounts, holders and loop devices that outlive a node's volumed."""
        unmount_below(self.data_dir(node))
        for pid in self.holders(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if os.geteuid() == 0 and self.data_dir(node).exists():
            listed = run("losetup", "-l", "-n", "-O", "NAME,BACK-FILE", check=False).stdout
            for line in listed.splitlines():
                device, _, file = line.strip().partition(" ")
                if f"{self.folder}/node{node}/" in file:
                    run("losetup", "-d", device, check=False)
        unmount_below(self.folder / f"node{node}")


def unmount_below(folder):
    mounts = [line.split()[4] for line in
              pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    for target in sorted(mounts, reverse=True):
        if target.startswith(f"{folder}/"):
            run("umount", "-l", target, check=False)
