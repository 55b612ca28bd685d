"""What the root kustomization deploys."""

from __future__ import annotations

import re
import shutil
import unittest

from common.names import VERSION
from lookup.table_reader import parse
from tests.manifests import (
    EXAMPLE,
    NAME,
    POLICIES,
    ROOT,
    called,
    config_map_of,
    container,
    pod_spec,
    rendered_root,
    settings,
)

MODULES = {path.name: path.read_text() for path in ROOT.glob("*.py")}
CLUSTER_SCOPED = {"Namespace", *POLICIES}


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class ManifestTest(unittest.TestCase):
    def setUp(self) -> None:
        self.objects = rendered_root()
        self.pod = self.objects["Deployment"]["spec"]["template"]
        self.spec = pod_spec(self.objects)
        self.container = container(self.objects)
        self.mounts = {each["name"]: each["mountPath"] for each in self.container["volumeMounts"]}

    def test_the_code_is_that_of_the_repository(self) -> None:
        code = self.objects[f"ConfigMap {min(MODULES)}"]
        self.assertEqual(code["data"], MODULES)
        self.assertEqual(config_map_of("app", self.objects), code["metadata"]["name"])
        self.assertRegex(code["metadata"]["name"], rf"^{NAME}-[a-z0-9]{{10}}$")
        self.assertEqual(self.container["command"], ["python", f"{self.mounts['app']}/server.py"])

    def test_the_table_is_the_example(self) -> None:
        table = self.objects["ConfigMap subnets.json"]
        self.assertEqual(config_map_of("subnets", self.objects), table["metadata"]["name"])
        file = f"{self.mounts['subnets']}/subnets.json"
        self.assertEqual(settings(self.objects)["SUBNETS_FILE"], file)
        self.assertTrue(parse(table["data"]["subnets.json"]).is_example)
        self.assertEqual(table["data"]["subnets.json"], (EXAMPLE / "subnets.json").read_text())

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
                if kind not in POLICIES:
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

    def test_each_rollout_is_spread_by_itself(self) -> None:
        for constraint in self.spec["topologySpreadConstraints"]:
            self.assertEqual(constraint["matchLabelKeys"], ["pod-template-hash"])

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

    def test_the_image_has_a_version_and_the_c_library_of_these_tests(self) -> None:
        self.assertRegex(self.container["image"], r"^python:\d+\.\d+\.\d+-slim$")

    def test_ports_meet(self) -> None:
        (container_port,) = self.container["ports"]
        (service_port,) = self.objects["Service"]["spec"]["ports"]
        (ingress,) = self.objects["NetworkPolicy"]["spec"]["ingress"]
        self.assertEqual((container_port["name"], container_port["containerPort"]), ("http", 8080))
        self.assertEqual((service_port["port"], service_port["targetPort"]), (8080, "http"))
        self.assertEqual(ingress["ports"], [{"port": "http", "protocol": "TCP"}])
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            self.assertEqual(self.container[probe]["httpGet"]["path"], path)
            self.assertEqual(self.container[probe]["httpGet"]["port"], "http")

    def test_the_grace_period_covers_the_shutdown(self) -> None:
        grace = self.spec["terminationGracePeriodSeconds"]
        self.assertGreater(grace, float(settings(self.objects)["SHUTDOWN_DELAY"]) + 10)

    def test_one_policy_is_installed_and_calls_the_service(self) -> None:
        self.assertEqual(POLICIES & self.objects.keys(), {"ClusterPolicy"})
        self.assertEqual(called(self.objects["ClusterPolicy"]), f"{NAME}.{NAME}")


class VersionTest(unittest.TestCase):
    """Whatever names a version of this project names this one."""

    def test_references_and_images(self) -> None:
        pattern = re.compile(rf"\?ref=v([\w.-]+)|\b{NAME}:(\d+\.[\w.-]*)")
        found = {
            (str(path.relative_to(ROOT)), reference or tag)
            for glob in ("*.md", "docs/**/*.md", "deploy/**/*.yaml")
            for path in ROOT.glob(glob)
            for reference, tag in pattern.findall(path.read_text())
        }
        self.assertEqual({version for _, version in found}, {VERSION}, found)
        expected = {"README.md", "deploy/components/image/deployment.yaml"}
        self.assertLessEqual(expected, {file for file, _ in found})

    def test_the_changelog_begins_with_it(self) -> None:
        changelog = (ROOT / "CHANGELOG.md").read_text()
        self.assertEqual(re.findall(r"^## \[(\d.*?)\]", changelog, re.MULTILINE)[0], VERSION)


if __name__ == "__main__":
    unittest.main()
