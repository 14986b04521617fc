#!/usr/bin/env python3
"""The manifests of deploy/, read strictly: no key twice, nothing unknown at the places that matter,
and everything that names something else finds it. Checked against the API's rules as far as these
files use them; there is no cluster here.

usage: manifests.py
"""
import pathlib
import re
import sys
import unittest

try:
    import yaml
except ImportError:
    print("python3-yaml is not installed: skipped")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[3]
BASE = ROOT / "deploy/kubernetes/base"
DRIVER = "csi.cvol.io"
# Kinds that the files use, with the keys that may stand at the top and in `spec`.
KINDS = {
    ("v1", "Namespace"): None,
    ("v1", "ServiceAccount"): None,
    ("v1", "Secret"): None,
    ("v1", "Service"): {"clusterIP", "publishNotReadyAddresses", "selector", "ports"},
    ("policy/v1", "PodDisruptionBudget"): {"minAvailable", "selector"},
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): None,
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): None,
    ("rbac.authorization.k8s.io/v1", "Role"): None,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): None,
    ("storage.k8s.io/v1", "StorageClass"): None,
    ("storage.k8s.io/v1", "CSIDriver"): {
        "attachRequired", "podInfoOnMount", "fsGroupPolicy", "storageCapacity",
        "requiresRepublish", "seLinuxMount", "volumeLifecycleModes"},
    ("apps/v1", "Deployment"): {"replicas", "selector", "template", "strategy"},
    ("apps/v1", "DaemonSet"): {"selector", "template", "updateStrategy",
                                  "minReadySeconds"},
    ("apps/v1", "StatefulSet"): {"serviceName", "replicas", "podManagementPolicy", "selector",
                                 "template", "volumeClaimTemplates"},
}
POD = {"serviceAccountName", "automountServiceAccountToken", "priorityClassName", "hostNetwork", "hostPID", "dnsPolicy",
       "terminationGracePeriodSeconds", "tolerations", "affinity", "securityContext", "containers",
       "volumes"}
CONTAINER = {"name", "image", "command", "args", "env", "ports", "readinessProbe", "livenessProbe",
             "startupProbe",              "resources", "volumeMounts", "securityContext"}
MOUNT = {"name", "mountPath", "mountPropagation", "readOnly"}
# Permissions that the sidecars need: (group, resource) -> verbs.
NEEDED = {
    ("", "persistentvolumes"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "persistentvolumeclaims"): {"get", "list", "watch", "update"},
    ("", "persistentvolumeclaims/status"): {"update", "patch"},
    ("", "nodes"): {"get", "list", "watch"},
    ("storage.k8s.io", "csinodes"): {"get", "list", "watch"},
    ("storage.k8s.io", "storageclasses"): {"get", "list", "watch"},
    ("storage.k8s.io", "volumeattachments"): {"get", "list", "watch", "patch"},
    ("storage.k8s.io", "volumeattachments/status"): {"patch"},
    ("storage.k8s.io", "csistoragecapacities"): {"get", "list", "watch", "create", "update",
                                                 "patch", "delete"},
    ("coordination.k8s.io", "leases"): {"get", "watch", "list", "update", "create"},
}


class StrictLoader(yaml.SafeLoader):
    """A key that stands twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} twice, {node.start_mark}")
        return super().construct_mapping(node, deep)


def read(path):
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.load_all(file, StrictLoader) if document]


def documents():
    for path in sorted((ROOT / "deploy/kubernetes").rglob("*.yaml")):
        if path.name == "kustomization.yaml":
            continue
        for document in read(path):
            yield path, document


def pods():
    for path, document in documents():
        template = document.get("spec", {}).get("template") if document.get("spec") else None
        if template:
            yield path, document, template


class Kubernetes(unittest.TestCase):
    def test_kinds_and_keys(self):
        seen = set()
        for path, document in documents():
            kind = (document["apiVersion"], document["kind"])
            self.assertIn(kind, KINDS, path)
            name = document["metadata"]["name"]
            self.assertRegex(name, r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
            if KINDS[kind] is not None:
                self.assertLessEqual(set(document["spec"]), KINDS[kind], f"{path}: {name}")
            self.assertNotIn((kind, name), seen, f"{name} twice")
            seen.add((kind, name))

    def test_kustomizations_list_every_file(self):
        for folder in (BASE, ROOT / "deploy/kubernetes/example"):
            listed = {name for name in read(folder / "kustomization.yaml")[0]["resources"]
                      if name.endswith(".yaml")}
            there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
            self.assertEqual(listed, there)

    def test_pods(self):
        for path, document, template in pods():
            where = f"{path}: {document['metadata']['name']}"
            labels = template["metadata"]["labels"]
            self.assertEqual(document["spec"]["selector"]["matchLabels"], labels, where)
            self.assertLessEqual(set(template["spec"]), POD, where)
            names = {volume["name"] for volume in template["spec"].get("volumes", [])}
            names |= {claim["metadata"]["name"]
                      for claim in document["spec"].get("volumeClaimTemplates", [])}
            used = set()
            for container in template["spec"]["containers"]:
                self.assertLessEqual(set(container), CONTAINER, where)
                self.assertTrue(container["image"], where)
                ports = {port["name"] for port in container.get("ports", [])}
                for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
                    if probe in container:
                        self.assertIn(container[probe]["httpGet"]["port"], ports, where)
                for entry in container.get("volumeMounts", []):
                    self.assertLessEqual(set(entry), MOUNT, where)
                    used.add(entry["name"])
                known = {entry["name"] for entry in container.get("env", [])}
                for argument in container.get("args", []):
                    self.assertIsInstance(argument, str, where)
                    for name in re.findall(r"\$\((\w+)\)", argument):
                        self.assertIn(name, known, f"{where}: {argument}")
            self.assertEqual(used, names, where)

    def test_accounts_and_roles(self):
        by_kind = {}
        for _, document in documents():
            by_kind.setdefault(document["kind"], {})[document["metadata"]["name"]] = document
        for _, document, template in pods():
            account = template["spec"].get("serviceAccountName")
            if account:
                self.assertIn(account, by_kind["ServiceAccount"])
        granted = {}
        for kind in ("ClusterRoleBinding", "RoleBinding"):
            for binding in by_kind[kind].values():
                role = binding["roleRef"]
                rules = by_kind[role["kind"]][role["name"]]["rules"]
                for subject in binding["subjects"]:
                    self.assertIn(subject["name"], by_kind["ServiceAccount"])
                for rule in rules:
                    for group in rule["apiGroups"]:
                        for resource in rule["resources"]:
                            granted.setdefault((group, resource), set()).update(rule["verbs"])
        for what, verbs in NEEDED.items():
            self.assertLessEqual(verbs, granted.get(what, set()), what)
        self.assertNotIn("*", {verb for verbs in granted.values() for verb in verbs})

    def test_storage(self):
        classes = [d for _, d in documents() if d["kind"] == "StorageClass"]
        for storage in classes:
            self.assertEqual(storage["provisioner"], DRIVER)
            self.assertIs(storage["allowVolumeExpansion"], True)
            self.assertEqual(storage["volumeBindingMode"], "WaitForFirstConsumer")
            own = {key for key in storage["parameters"] if not key.startswith("csi.storage.k8s.io/")}
            self.assertLessEqual(own, {"replicas", "minInSync", "fsType", "mkfsOptions",
                                       "zoneSpread"})
            for value in storage["parameters"].values():
                self.assertIsInstance(value, str)
        names = {storage["metadata"]["name"] for storage in classes}
        for _, document in documents():
            for claim in (document.get("spec") or {}).get("volumeClaimTemplates", []):
                self.assertIn(claim["spec"]["storageClassName"], names)
        driver = [d for _, d in documents() if d["kind"] == "CSIDriver"]
        self.assertEqual([d["metadata"]["name"] for d in driver], [DRIVER])

    def test_node_plugin(self):
        pod = next(t["spec"] for _, d, t in pods() if d["kind"] == "DaemonSet")
        by_name = {container["name"]: container for container in pod["containers"]}
        volumed, registrar = by_name["volumed"], by_name["registrar"]
        self.assertIs(volumed["securityContext"]["privileged"], True)
        kubelet = next(m for m in volumed["volumeMounts"] if m["mountPath"] == "/var/lib/kubelet")
        self.assertEqual(kubelet["mountPropagation"], "Bidirectional")
        endpoint = next(a for a in volumed["args"] if a.startswith("--csi-endpoint="))
        path = next(a for a in registrar["args"] if a.startswith("--kubelet-registration-path="))
        self.assertEqual(endpoint.split("unix://")[1], path.split("=")[1])


    def test_node_pods_wait_and_hold_no_token(self):
        document, pod = next((d, t["spec"]) for _, d, t in pods() if d["kind"] == "DaemonSet")
        self.assertIs(pod["automountServiceAccountToken"], False)
        self.assertGreaterEqual(document["spec"]["minReadySeconds"], 10)
        volumed = next(c for c in pod["containers"] if c["name"] == "volumed")
        for argument in volumed["args"]:
            self.assertNotRegex(argument, r"(?<!\[)\$\(HOST_IP\)", "IPv6 needs brackets")
        startup = volumed["startupProbe"]
        self.assertGreaterEqual(startup["periodSeconds"] * startup["failureThreshold"], 600)

    def test_sidecars(self):
        for path, _, template in pods():
            for container in template["spec"]["containers"]:
                if "sig-storage" not in container["image"]:
                    continue
                where = f"{path}: {container['name']}"
                self.assertRegex(container["image"], r":v\d+\.\d+\.\d+$", where)
                self.assertIn("requests", container["resources"], where)
                self.assertIn("memory", container["resources"]["limits"], where)

    def test_controller_is_probed_and_modifies(self):
        pod = next(t["spec"] for _, d, t in pods() if d["metadata"]["name"] == "cvol-controller")
        by_name = {container["name"]: container for container in pod["containers"]}
        for name in ("provisioner", "resizer"):
            gates = [a for a in by_name[name]["args"] if a.startswith("--feature-gates=")]
            self.assertIn("VolumeAttributesClass=true", gates[0].split("=", 1)[1].split(","))
        port = by_name["cvol-csi"]["ports"][0]["containerPort"]
        self.assertIn(f"--http-endpoint=:{port}", by_name["liveness"]["args"])
        self.assertIn("livenessProbe", by_name["cvol-csi"])

    def test_group_is_kubelets(self):
        driver = next(d for _, d in documents() if d["kind"] == "CSIDriver")
        self.assertEqual(driver["spec"]["fsGroupPolicy"], "File")


class Others(unittest.TestCase):
    def test_compose(self):
        for name in ("compose.yaml", "stack.yaml"):
            document = read(ROOT / "deploy/swarm" / name)[0]
            volumes = document["volumes"]
            for volume in volumes.values():
                self.assertEqual(volume["driver"], "cvol")
                self.assertLessEqual(set(volume["driver_opts"]), {"size", "replicas", "fs"})
                for value in volume["driver_opts"].values():
                    self.assertIsInstance(value, str)
            for service in document["services"].values():
                for entry in service["volumes"]:
                    self.assertIn(entry.split(":")[0], volumes)

    def test_nomad(self):
        for path in (ROOT / "deploy/nomad").glob("*.hcl"):
            text = re.sub(r'"[^"]*"|#.*', "", path.read_text(encoding="utf-8"))
            for pair in ("{}", "[]"):
                self.assertEqual(text.count(pair[0]), text.count(pair[1]), path)
        ids = set()
        for path in (ROOT / "deploy/nomad").glob("*.hcl"):
            ids |= set(re.findall(r'(?:plugin_id|csi_plugin \{\s+id)\s+= "([^"]+)"',
                                  path.read_text(encoding="utf-8")))
        self.assertEqual(ids, {DRIVER})

    def test_image(self):
        build = (ROOT / "deploy/image/build").read_text(encoding="utf-8")
        dockerfile = (ROOT / "deploy/image/Dockerfile").read_text(encoding="utf-8")
        programs = re.search(r'programs="([^"]+)"', build).group(1).split()
        self.assertEqual(sorted(programs), sorted(re.findall(r"build/bin/([\w-]+)", dockerfile)))


if __name__ == "__main__":
    unittest.main()
