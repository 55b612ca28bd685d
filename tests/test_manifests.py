"""What `kubectl apply -k .` deploys, and the options that the root kustomization names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import unittest
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAME = "automatic-zone-placement"
MODULES = {path.name: path.read_text() for path in ROOT.glob("*.py")}
COMPONENTS = re.findall(r"#   - (deploy/components/\S+)", (ROOT / "kustomization.yaml").read_text())
CLUSTER_SCOPED = {"Namespace", "ClusterPolicy", "MutatingPolicy"}

Objects = dict[str, Any]


def _kubectl(*arguments: str, text: str = "") -> str:
    return subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, check=True
    ).stdout


@cache
def rendered(folder: Path) -> Objects:
    """The objects of a kustomization, by kind; of ConfigMaps, by kind and first file."""
    # kustomize writes YAML only; `annotate --local` asks no cluster and writes JSON.
    rest = _kubectl(
        "annotate", "--local", "-f-", "-ojson", "a=b", text=_kubectl("kustomize", str(folder))
    ).strip()
    objects: Objects = {}
    while rest:
        each, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].strip()
        key = each["kind"] + (f" {min(each['data'])}" if each["kind"] == "ConfigMap" else "")
        assert key not in objects, f"two of {key}"
        objects[key] = each
    return objects


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class ManifestTest(unittest.TestCase):
    def setUp(self) -> None:
        self.objects = rendered(ROOT)
        self.pod = self.objects["Deployment"]["spec"]["template"]
        self.spec = self.pod["spec"]
        (self.container,) = self.spec["containers"]

    def test_the_code_is_that_of_the_repository(self) -> None:
        code = self.objects["ConfigMap connection.py"]
        self.assertEqual(code["data"], MODULES)
        (volume,) = self.spec["volumes"]
        self.assertEqual(volume["configMap"]["name"], code["metadata"]["name"])
        self.assertRegex(code["metadata"]["name"], rf"^{NAME}-[a-z0-9]{{10}}$")
        (mount,) = self.container["volumeMounts"]
        self.assertEqual(self.container["command"], ["python", f"{mount['mountPath']}/server.py"])

    def test_the_image_of_the_dockerfile_has_the_same_code(self) -> None:
        dockerfile = (ROOT / "Dockerfile").read_text()
        (copied,) = re.findall(r"^COPY (.+) \./$", dockerfile, re.MULTILINE)
        self.assertEqual(set(copied.split()), set(MODULES))
        self.assertIn(f"FROM {self.container['image']}\n", dockerfile)

    def test_every_object_has_its_namespace_and_labels(self) -> None:
        for kind, each in self.objects.items():
            with self.subTest(kind):
                expected = None if kind in CLUSTER_SCOPED else NAME
                self.assertEqual(each["metadata"].get("namespace"), expected)
                if not kind.endswith("Policy") or kind == "NetworkPolicy":
                    self.assertEqual(each["metadata"]["labels"]["app.kubernetes.io/name"], NAME)

    def test_every_selector_selects_the_pods(self) -> None:
        selectors = [
            self.objects["Service"]["spec"]["selector"],
            *(
                each["matchLabels"]
                for each in (
                    self.objects["Deployment"]["spec"]["selector"],
                    self.objects["PodDisruptionBudget"]["spec"]["selector"],
                    self.objects["NetworkPolicy"]["spec"]["podSelector"],
                    *(each["labelSelector"] for each in self.spec["topologySpreadConstraints"]),
                )
            ),
        ]
        for selector in selectors:
            self.assertLessEqual(selector.items(), self.pod["metadata"]["labels"].items())

    def test_the_pods_are_restricted(self) -> None:
        enforced = self.objects["Namespace"]["metadata"]["labels"]
        self.assertEqual(enforced["pod-security.kubernetes.io/enforce"], "restricted")
        self.assertFalse(self.spec["automountServiceAccountToken"])
        self.assertTrue(self.spec["securityContext"]["runAsNonRoot"])
        self.assertGreater(self.spec["securityContext"]["runAsUser"], 0)
        self.assertEqual(self.spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertEqual(
            self.container["securityContext"],
            {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        )
        self.assertIn("memory", self.container["resources"]["limits"])

    def test_images_have_a_version(self) -> None:
        self.assertRegex(self.container["image"], r"^python:\d+\.\d+\.\d+-alpine\d")

    def test_ports_meet(self) -> None:
        (container_port,) = self.container["ports"]
        (service_port,) = self.objects["Service"]["spec"]["ports"]
        (ingress,) = self.objects["NetworkPolicy"]["spec"]["ingress"]
        self.assertEqual(container_port, {"name": "http", "containerPort": 8080})
        self.assertEqual((service_port["port"], service_port["targetPort"]), (8080, "http"))
        self.assertEqual(ingress["ports"], [{"port": "http"}])
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            self.assertEqual(
                self.container[probe]["httpGet"] | {"scheme": None},
                {"path": path, "port": "http", "scheme": None},
            )

    def test_the_grace_period_covers_the_shutdown(self) -> None:
        environment = {each["name"]: each["value"] for each in self.container["env"]}
        grace = self.spec["terminationGracePeriodSeconds"]
        self.assertGreater(grace, float(environment["SHUTDOWN_DELAY"]) + 10)

    def test_the_policies_call_the_service(self) -> None:
        url = f"http://{NAME}.{NAME}.svc:8080/lookup?fqdn="
        for policy in (ROOT / "kyverno").glob(f"{NAME}.*policy.yaml"):
            with self.subTest(policy.name):
                self.assertEqual(re.findall(r"http://[^\s\"{]+", policy.read_text()), [url])

    def test_the_root_installs_one_policy(self) -> None:
        self.assertEqual(self.objects["ClusterPolicy"]["metadata"]["name"], NAME)
        self.assertNotIn("MutatingPolicy", self.objects)


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class ComponentTest(unittest.TestCase):
    """Each component that the root kustomization names, as if its line were uncommented."""

    def rendered_with(self, *components: str) -> Objects:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "copy")
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "tests"))
            kustomization = copy / "kustomization.yaml"
            lines = [f"  - {component}\n" for component in components]
            text = kustomization.read_text() + "components:\n" + "".join(lines)
            kustomization.write_text(text)
            return rendered(copy)

    def test_the_root_names_them_all(self) -> None:
        folders = {str(path.relative_to(ROOT)) for path in ROOT.glob("deploy/components/*")}
        self.assertEqual(set(COMPONENTS), folders)

    def test_they_go_together(self) -> None:
        objects = self.rendered_with(*COMPONENTS)
        self.assertLessEqual({"HorizontalPodAutoscaler", "ServiceMonitor"}, objects.keys())

    def test_the_table_in_a_config_map_of_its_own(self) -> None:
        objects = self.rendered_with("deploy/components/subnets-file")
        table = objects["ConfigMap subnets.json"]
        spec = objects["Deployment"]["spec"]["template"]["spec"]
        volumes = {each["name"]: each["configMap"]["name"] for each in spec["volumes"]}
        mounts = {each["name"]: each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
        environment = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
        self.assertEqual(volumes["subnets"], table["metadata"]["name"])
        self.assertEqual(environment["SUBNETS_FILE"], f"{mounts['subnets']}/subnets.json")
        self.assertIn("SHUTDOWN_DELAY", environment)
        self.assertIn("app", volumes)

    def test_an_image_of_one_s_own(self) -> None:
        objects = self.rendered_with("deploy/components/image")
        spec = objects["Deployment"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        self.assertTrue(container["image"].startswith("registry.example.com/"))
        self.assertFalse(container.get("command") or container.get("volumeMounts"))
        self.assertFalse(spec.get("volumes"))

    def test_the_autoscaler_owns_the_number_of_replicas(self) -> None:
        objects = self.rendered_with("deploy/components/autoscaler")
        self.assertNotIn("replicas", objects["Deployment"]["spec"])


if __name__ == "__main__":
    unittest.main()
