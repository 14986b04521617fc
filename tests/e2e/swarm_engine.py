"""Engines of nodes in a swarm, and a service with one task that has a cvol volume."""
import json
import time

from engine import wait_for
from node_engine import NodeEngine

# volumed tries dockerd every 5 s.
KNOWN_WITHIN = 15
# The agent of Swarm describes its node anew every 20 s.
TOLD_WITHIN = 40
# A name of a registry that refuses connections at once: the tasks use what was imported.
IMAGE = "127.0.0.1:1/cvol-test-busybox"
VOLUME = "swarmed"
WRITE = "echo $HOSTNAME >>/vol/starts && sync -d /vol/starts && exec sleep 1000"


class SwarmEngine(NodeEngine):
    def import_image(self):
        self.docker("tag", self.make_image("busybox"), IMAGE)

    def address(self):
        return self.cluster.network.address(self.node)

    def init(self):
        self.docker("swarm", "init", "--advertise-addr", self.address())

    def join(self, manager):
        token = manager.docker("swarm", "join-token", "-q", "worker").stdout.strip()
        self.docker("swarm", "join", "--advertise-addr", self.address(), "--token", token,
                    f"{manager.address()}:2377")

    def id(self):
        return self.docker("info", "--format", "{{.Swarm.NodeID}}").stdout.strip()

    def known_plugins(self):
        """What this dockerd says it knows; asking for it makes it know nothing more."""
        return json.loads(self.docker("info", "--format", "{{json .Plugins.Volume}}").stdout)

    def plugins_in_swarm(self, node_id):
        """What the manager knows of a node, asked at a manager."""
        found = json.loads(self.docker("node", "inspect", node_id).stdout)[0]
        return [plugin["Name"] for plugin in found["Description"]["Engine"].get("Plugins", [])
                if plugin["Type"] == "Volume"]

    def create_service(self, name, replicas):
        self.docker("service", "create", "--detach", "--no-resolve-image", "--name", name,
                    "--network", "host", "--stop-grace-period", "1s", "--restart-delay", "1s",
                    "--mount", f"type=volume,source={VOLUME},target=/vol,volume-driver=cvol,"
                    f"volume-opt=size=256MiB,volume-opt=replicas={replicas}",
                    IMAGE, "sh", "-c", WRITE)

    def tasks(self, name):
        return self.docker("service", "ps", "--no-trunc", "--format",
                           "{{.CurrentState}} | {{.DesiredState}} | {{.Error}}", name).stdout

    def containers(self, name):
        """Those that run here."""
        return self.docker("ps", "-q", "--filter",
                           f"label=com.docker.swarm.service.name={name}").stdout.split()


def wait_known(engine, began):
    wait_for(f"cvol among {engine.known_plugins()}", lambda: "cvol" in engine.known_plugins(), KNOWN_WITHIN)
    print(f"dockerd knows the plugin after {time.monotonic() - began:.1f} s", flush=True)


def wait_told(manager, node_id):
    began = time.monotonic()
    wait_for("the manager knows the plugin of the node",
             lambda: "cvol" in manager.plugins_in_swarm(node_id), TOLD_WITHIN)
    print(f"the manager knows it {time.monotonic() - began:.1f} s later", flush=True)


def wait_running(manager, engines, name, starts):
    """The engine that runs the service's task, once that has written; `starts`: how often by now."""
    def found():
        for engine in engines:
            for container in engine.containers(name):
                seen = engine.docker("exec", container, "cat", "/vol/starts", check=False)
                if seen.returncode == 0 and seen.stdout.count("\n") == starts:
                    return engine
        return None
    try:
        return wait_for(f"a task of {name} that is start number {starts}", found, 40)
    except AssertionError as error:
        raise AssertionError(f"{error}; its tasks:\n{manager.tasks(name)}") from None


def remove_service(manager, engines, name):
    manager.docker("service", "rm", name)
    for engine in engines:
        wait_for("no container of the service", lambda e=engine: not e.docker(
            "ps", "-aq", "--filter", f"label=com.docker.swarm.service.name={name}").stdout.strip())
