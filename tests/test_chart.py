"""What the chart installs: the service, its code, its table, and what asks it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from typing import Any

from common.names import VERSION
from lookup.table_reader import parse
from tests.chart import (
    AVAILABLE,
    CHART,
    NAME,
    ROOT,
    TABLE,
    WHY_NOT,
    Objects,
    environment,
    from_yaml,
    named,
    refusal,
    render,
    render_chart,
    rendering,
    run,
    table_of,
)

CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingWebhookConfiguration",
    "ClusterPolicy",
    "MutatingPolicy",
}

# Values with which everything is there that there can be at the same time.
EVERYTHING = (
    "awsSubnets.enabled=true",
    "engine=opa",
    "relocation.enabled=true",
    "serviceMonitor.enabled=true",
    "alerts.enabled=true",
    "dashboard.enabled=true",
)

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

# The host that a policy calls: in JMESPath and in CEL.
CALLED = (
    re.compile(r"join\('\.', \['([\w-]+)', '([\w-]+)', 'svc'\]\) }}:8080/lookup"),
    re.compile(r"\"http://\" \+ '([\w-]+)' \+ \".\" \+ '([\w-]+)' \+ \".svc:8080/lookup"),
)

POLICIES = ("ClusterPolicy", "MutatingPolicy")

# By values: the names of the Service and of its namespace.
NAMES: tuple[tuple[tuple[str, ...], dict[str, str], str], ...] = (
    ((), {}, f"{NAME}.{NAME}"),
    ((), {"namespace": "zones"}, f"{NAME}.zones"),
    (("nameOverride=zones",), {}, f"{NAME}-zones.{NAME}"),
    (("fullnameOverride=my",), {}, f"my.{NAME}"),
)


def called(policy: Any) -> str:
    """The Service and the namespace, with a dot between, that the policy calls."""
    text = str(policy).replace("\\'", "'")
    (names,) = (found.groups() for pattern in CALLED if (found := pattern.search(text)))
    return ".".join(names)


def engines(objects: Objects) -> set[tuple[str, str]]:
    """What calls the service."""
    return {key for key in objects if key[0] in (*POLICIES, "MutatingWebhookConfiguration")}


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class CodeTest(unittest.TestCase):
    """The code is that of the repository, and each container has what it needs."""

    PROGRAMS = (
        ("lookup", ["python", "/app/server.py"], {"common", "lookup", "webhook", "kept"}),
        ("relocation", ["python", "-m", "relocation"], {"common", "relocation"}),
        ("subnets", ["python", "/app/publish.py"], {"common", "lookup"}),
        ("test", ["python", "/app/verify.py"], {"common", "lookup"}),
    )

    def setUp(self) -> None:
        self.objects = render(*EVERYTHING, skip_tests="false")
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def test_each_program_has_its_folders_and_starts(self) -> None:
        for component, command, folders in self.PROGRAMS:
            with self.subTest(component):
                file = ["table.json"] if component == "subnets" else []
                app = self.folder / component
                self.objects.lay_out("app", component, app)
                self.assertEqual({each.name for each in app.iterdir() if each.is_dir()}, folders)
                container = self.objects.container(component)
                self.assertEqual(container["command"][: len(command)], command)
                self.assertEqual(named(container["volumeMounts"], "app")["mountPath"], "/app")
                self.assertIn("bad", self.start(app, *command[1:], *file))

    def start(self, app: Path, *arguments: str) -> str:
        """What the program says of a setting that is wrong: whatever it imports is there by then."""
        command = [sys.executable, *(each.replace("/app", str(app)) for each in arguments)]
        variables = {"NODE_LABEL": "bad"}
        done = subprocess.run(
            command, cwd=app, env=variables, capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    def test_every_file_is_that_of_the_repository(self) -> None:
        for component, _, _ in self.PROGRAMS:
            app = self.folder / component
            self.objects.lay_out("app", component, app)
            for path in app.rglob("*"):
                if path.is_file():
                    with self.subTest(path):
                        file = CHART / "files" / "app" / path.relative_to(app)
                        self.assertEqual(path.read_bytes(), file.read_bytes())
            for folder in (each for each in app.iterdir() if each.is_dir()):
                expected = {each.name for each in (ROOT / folder.name).glob("*.py")}
                self.assertEqual({each.name for each in folder.iterdir()}, expected)

    def test_a_change_rolls_only_those_who_have_it(self) -> None:
        for number, (path, rolled) in enumerate(
            (
                ("app/common/names.py", {"lookup", "relocation"}),
                ("app/lookup/placement.py", {"lookup"}),
                ("app/relocation/world.py", {"relocation"}),
                ("app/publish.py", set()),
                ("opa/authorization.rego", {"opa"}),
                ("example-subnets.json", set()),
                ("alerts.yaml", set()),
            )
        ):
            with self.subTest(path):
                chart = self.folder / str(number)
                shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("__pycache__"))
                with (chart / "files" / path).open("a") as file:
                    file.write("# changed\n")
                self.assertEqual(self.rolled(render_chart(chart, *EVERYTHING)), rolled)

    def rolled(self, changed: Objects) -> set[str]:
        """The components whose Deployments differ from what they were."""
        before = self.objects.of("Deployment")
        return {
            each["metadata"]["labels"]["app.kubernetes.io/component"]
            for name, each in changed.of("Deployment").items()
            if each["spec"]["template"] != before[name]["spec"]["template"]
        }

    def test_a_setting_rolls_only_those_who_have_it(self) -> None:
        for value, rolled in (
            ("relocation.settings.relocateAfter=60", {"relocation"}),
            ("settings.dnsCacheTtl=6", {"lookup"}),
            ("settings.nodeLabel=topology.k8s.aws/zone-id", {"lookup", "relocation"}),
            ("awsSubnets.settings.awsRegions={us-east-1}", set()),
            ("alerts.labels.release=prometheus", set()),
        ):
            with self.subTest(value):
                self.assertEqual(self.rolled(render(*EVERYTHING, value)), rolled)

    def test_an_image_that_contains_it_needs_no_config_map(self) -> None:
        objects = render(
            *EVERYTHING,
            "image.containsCode=true",
            "image.repository=my/placement",
            skip_tests="false",
        )
        self.assertFalse([name for name in objects.of("ConfigMap") if "-code-" in name])
        for component, command, _ in self.PROGRAMS:
            with self.subTest(component):
                container = objects.container(component)
                self.assertEqual(container["command"][: len(command)], command)
                self.assertTrue(container["image"].startswith("my/placement:"))
                mounts = [each["name"] for each in container.get("volumeMounts", [])]
                self.assertNotIn("app", mounts)
                volumes = [each["name"] for each in objects.pod(component).get("volumes", [])]
                self.assertNotIn("app", volumes)

    def test_the_image_of_the_dockerfile_has_the_same_code(self) -> None:
        dockerfile = (ROOT / "Dockerfile").read_text()
        copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
        links = {each.name for each in (CHART / "files" / "app").iterdir()}
        self.assertEqual({Path(each).name for line in copied for each in line.split()}, links)
        image = self.objects.container()["image"].removeprefix("docker.io/library/")
        self.assertIn(f"FROM {image}\n", dockerfile)

    def test_a_package_is_whole_and_has_nothing_else(self) -> None:
        """Links are followed, and what Python has left in the folders stays there."""
        run("helm", "package", str(CHART), "--destination", str(self.folder))
        archive = self.folder / f"{NAME}-{VERSION}.tgz"
        with tarfile.open(archive) as tar:
            names = [each.removeprefix(f"{NAME}/") for each in tar.getnames()]
        self.assertFalse([each for each in names if "pycache" in each or "test" in each.split("/")])
        self.assertIn("files/app/lookup/placement.py", names)
        options = ("--set", "exampleTable=true")
        packaged = run(*rendering(*options, chart=archive))
        # Each has a certificate of its own.
        same = (*options, "--set", "engine=clusterPolicy")
        self.assertIn("kind: MutatingWebhookConfiguration", packaged)
        self.assertEqual(run(*rendering(*same, chart=archive)), run(*rendering(*same)))


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class TableTest(unittest.TestCase):
    def test_the_example(self) -> None:
        objects = render()
        table = objects.one("ConfigMap", "-subnets")["data"]["subnets.json"]
        self.assertEqual(table, TABLE.read_text())
        self.assertTrue(parse(table).is_example)
        self.check_mount(objects, f"{NAME}-subnets")

    def check_mount(self, objects: Objects, config_map: str) -> None:
        """The service reads this ConfigMap, waits for it, and sees when it changes."""
        volume = named(objects.pod()["volumes"], "subnets")["configMap"]
        items = [{"key": "subnets.json", "path": "subnets.json"}]
        self.assertEqual(volume, {"name": config_map, "items": items})
        mount = named(objects.container()["volumeMounts"], "subnets")
        self.assertNotIn("subPath", mount)
        file = environment(objects.container())["SUBNETS_FILE"]
        self.assertEqual(file, f"{mount['mountPath']}/subnets.json")

    def test_one_s_own(self) -> None:
        file = Path(self.enterContext(tempfile.TemporaryDirectory())) / "subnets.json"
        file.write_text(table_of(9000))
        objects = render(f"@subnets={file}")
        table = objects.one("ConfigMap", "-subnets")["data"]["subnets.json"]
        self.assertEqual(table, file.read_text())
        self.check_mount(objects, f"{NAME}-subnets")
        self.assertNotEqual(self.checksum(objects), self.checksum(render()))

    def checksum(self, objects: Objects) -> str:
        annotations = objects.one("Deployment")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/table"])

    def test_a_config_map_of_one_s_own(self) -> None:
        objects = render("subnetsConfigMap=mine")
        self.assertNotIn(("ConfigMap", f"{NAME}-subnets"), objects)
        self.check_mount(objects, "mine")

    def test_too_large_a_one(self) -> None:
        file = Path(self.enterContext(tempfile.TemporaryDirectory())) / "subnets.json"
        file.write_text(table_of(12000))
        said = refusal("--set-file", f"subnets={file}")
        self.assertIn("a ConfigMap holds 1 MiB", said)
        self.assertIn("subnetsConfigMap", said)

    def test_none_and_two(self) -> None:
        said = refusal()
        for way in ("--set-file subnets=", "subnetsConfigMap", "awsSubnets", "exampleTable=true"):
            self.assertIn(way, said)
        said = refusal("--set", "exampleTable=true,subnetsConfigMap=mine")
        self.assertIn("exampleTable, subnetsConfigMap", said)


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class EngineTest(unittest.TestCase):
    def test_each(self) -> None:
        expected = {
            "clusterPolicy": {("ClusterPolicy", NAME)},
            "mutatingPolicy": {("MutatingPolicy", NAME)},
            "webhook": {("MutatingWebhookConfiguration", NAME)},
            "opa": {("MutatingWebhookConfiguration", f"{NAME}-opa")},
            "none": set(),
        }
        for engine, keys in expected.items():
            with self.subTest(engine):
                self.assertEqual(engines(render(f"engine={engine}")), keys)

    def test_auto_without_a_cluster(self) -> None:
        """What cannot be known is not there, and not newer."""
        kyverno = "kyverno.io/v1/ClusterPolicy,policies.kyverno.io/v1/MutatingPolicy"
        self.assertEqual(engines(render()), {("MutatingWebhookConfiguration", NAME)})
        self.assertEqual(engines(render(api_versions=kyverno)), {("ClusterPolicy", NAME)})

    def test_the_webhook_needs_a_version_of_kubernetes(self) -> None:
        for engine in ("webhook", "opa", "auto"):
            said = refusal(
                "--set", f"exampleTable=true,engine={engine}", "--kube-version", "1.29.9"
            )
            self.assertIn("needs Kubernetes 1.30", said)
        render("engine=clusterPolicy", kube_version="1.27.0")
        self.assertIn("kubeVersion", refusal("--kube-version", "1.26.9"))

    def test_the_policies_call_the_service(self) -> None:
        for values, options, service in NAMES:
            for kind in POLICIES:
                with self.subTest(service, kind=kind):
                    objects = render(*values, f"engine={kind[0].lower()}{kind[1:]}", **options)
                    self.assertEqual(called(objects[kind, NAME]), service)
                    metadata = objects.one("Service")["metadata"]
                    self.assertEqual(f"{metadata['name']}.{metadata['namespace']}", service)

    def test_nothing_else_of_a_policy_changes(self) -> None:
        for kind in POLICIES:
            with self.subTest(kind):
                (file,) = from_yaml((ROOT / "kyverno" / kind.lower() / f"{NAME}.yaml").read_text())
                rendered = render(f"engine={kind[0].lower()}{kind[1:]}")[kind, NAME]
                rendered["metadata"].pop("labels")
                self.assertEqual(rendered, file)


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class ObjectsTest(unittest.TestCase):
    """What all objects have in common."""

    def setUp(self) -> None:
        self.objects = render(*EVERYTHING, skip_tests="false")

    def test_their_namespace_and_labels(self) -> None:
        for (kind, name), each in self.objects.items():
            with self.subTest(kind, name=name):
                expected = None if kind in CLUSTER_SCOPED else NAME
                self.assertEqual(each["metadata"].get("namespace"), expected)
                labels = each["metadata"]["labels"]
                self.assertEqual(labels["app.kubernetes.io/name"], NAME)
                self.assertEqual(labels["app.kubernetes.io/instance"], NAME)
                if kind != "Pod":
                    self.assertEqual(labels["app.kubernetes.io/version"], VERSION)

    def test_every_selector_selects_the_pods_of_its_component_alone(self) -> None:
        pods = {
            labels["app.kubernetes.io/component"]: labels
            for labels in (each["metadata"]["labels"] for each in self.objects.templates())
        }
        for (kind, name), each in self.objects.items():
            for selector in selectors(kind, each):
                with self.subTest(kind, name=name):
                    component = selector["app.kubernetes.io/component"]
                    selected = [key for key in pods if selector.items() <= pods[key].items()]
                    self.assertEqual(selected, [component])

    def test_each_rollout_is_spread_by_itself(self) -> None:
        for component in ("lookup", "opa"):
            for constraint in self.objects.pod(component)["topologySpreadConstraints"]:
                self.assertEqual(constraint["matchLabelKeys"], ["pod-template-hash"])

    def test_the_pods_are_restricted(self) -> None:
        for template in self.objects.templates():
            spec = template["spec"]
            with self.subTest(spec["containers"][0]["name"]):
                context = spec["securityContext"]
                self.assertTrue(context["runAsNonRoot"])
                self.assertGreater(context["runAsUser"], 0)
                self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertFalse(spec["enableServiceLinks"])
                for each in spec["containers"] + spec.get("initContainers", []):
                    self.assertEqual(each["securityContext"], RESTRICTED)
                    self.assertIn("memory", each["resources"]["limits"])

    def test_only_those_have_a_token_that_need_one(self) -> None:
        for component, has in (
            ("lookup", False),
            ("opa", False),
            ("relocation", True),
            ("subnets", True),
            ("test", True),
        ):
            spec = self.objects.pod(component)
            self.assertEqual(spec["automountServiceAccountToken"], has, component)
            self.assertEqual("serviceAccountName" in spec, has, component)
        for account in self.objects.of("ServiceAccount").values():
            self.assertFalse(account["automountServiceAccountToken"])

    def test_the_image_has_a_version_and_the_c_library_of_these_tests(self) -> None:
        image = self.objects.container()["image"]
        self.assertRegex(image, r"^docker.io/library/python:\d+\.\d+\.\d+-slim$")

    def test_an_image_by_its_digest(self) -> None:
        digest = f"sha256:{'a' * 64}"
        image = render(f"image.digest={digest}").container()["image"]
        self.assertTrue(image.endswith(f"-slim@{digest}"))

    def test_ports_meet(self) -> None:
        objects = render("engine=clusterPolicy")
        (container_port,) = objects.container()["ports"]
        (service_port,) = objects.one("Service")["spec"]["ports"]
        (ingress,) = objects.one("NetworkPolicy")["spec"]["ingress"]
        self.assertEqual((container_port["name"], container_port["containerPort"]), ("http", 8080))
        self.assertEqual((service_port["port"], service_port["targetPort"]), (8080, "http"))
        self.assertEqual(ingress["ports"], [{"port": "http", "protocol": "TCP"}])
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            self.assertEqual(objects.container()[probe]["httpGet"]["path"], path)
            self.assertEqual(objects.container()[probe]["httpGet"]["port"], "http")

    def test_the_grace_period_covers_the_shutdown(self) -> None:
        for delay in ("5", "7.5", "60"):
            objects = render(f"settings.shutdownDelay={delay}")
            grace = objects.pod()["terminationGracePeriodSeconds"]
            self.assertEqual(environment(objects.container())["SHUTDOWN_DELAY"], delay)
            self.assertGreater(grace, float(delay) + 10)


def selectors(kind: str, each: Any) -> list[dict[str, str]]:
    """The labels by which an object selects Pods of a component."""
    spec = each.get("spec", {})
    if kind == "Service":
        return [spec["selector"]]
    if kind == "PodDisruptionBudget":
        return [spec["selector"]["matchLabels"]]
    if kind == "Deployment":
        spread = spec["template"]["spec"].get("topologySpreadConstraints", [])
        return [one["matchLabels"] for one in [spec["selector"]]] + [
            one["labelSelector"]["matchLabels"] for one in spread
        ]
    if kind == "NetworkPolicy":
        peers = [peer for rule in spec.get("ingress", []) for peer in rule.get("from", [])]
        peers += [peer for rule in spec.get("egress", []) for peer in rule.get("to", [])]
        found = [one["podSelector"]["matchLabels"] for one in peers if "podSelector" in one]
        return [spec["podSelector"]["matchLabels"], *found]
    return []


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class NetworkPolicyTest(unittest.TestCase):
    def peers(self, objects: Objects) -> tuple[list[str], list[str], list[Any]]:
        """Which namespaces, which components and who else may ask the service."""
        peers = objects["NetworkPolicy", NAME]["spec"]["ingress"][0]["from"]
        namespaces = [
            value
            for each in peers
            if "namespaceSelector" in each
            for value in each["namespaceSelector"]["matchExpressions"][0]["values"]
        ]
        components = [
            each["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for each in peers
            if "podSelector" in each
        ]
        return namespaces, components, [each for each in peers if "ipBlock" in each]

    def test_who_may_ask(self) -> None:
        for values, namespaces, components in (
            (("engine=webhook",), ["monitoring"], ["test"]),
            (("engine=clusterPolicy",), ["kyverno", "monitoring"], ["test"]),
            (
                ("engine=opa", "relocation.enabled=true"),
                ["monitoring"],
                ["test", "opa", "relocation"],
            ),
            (("engine=mutatingPolicy", "kyvernoNamespace=k"), ["k", "monitoring"], ["test"]),
            (("engine=none", "networkPolicy.fromNamespaces=null"), [], ["test"]),
        ):
            with self.subTest(values):
                self.assertEqual(self.peers(render(*values)), (namespaces, components, []))

    def test_others(self) -> None:
        objects = render("networkPolicy.from[0].ipBlock.cidr=10.0.0.0/16")
        self.assertEqual(self.peers(objects)[2], [{"ipBlock": {"cidr": "10.0.0.0/16"}}])

    def test_the_api_server_is_everybody_unless_its_address_is_given(self) -> None:
        for engine, port in (("webhook", "webhook"), ("opa", "https")):
            for values, rule in (
                ((), {}),
                (
                    ("networkPolicy.apiServer[0].ipBlock.cidr=10.0.0.0/28",),
                    {"from": [{"ipBlock": {"cidr": "10.0.0.0/28"}}]},
                ),
            ):
                objects = render(f"engine={engine}", *values)
                name = NAME if engine == "webhook" else f"{NAME}-opa"
                *_, last = objects["NetworkPolicy", name]["spec"]["ingress"]
                self.assertEqual(last, {"ports": [{"port": port, "protocol": "TCP"}], **rule})

    def test_the_ports_of_dns(self) -> None:
        for platform, ports in (("", [53]), ("openshift", [53, 5353]), ("gardener", [53, 8053])):
            objects = render(*EVERYTHING, f"platform={platform}")
            policies = objects.of("NetworkPolicy")
            self.assertEqual(len(policies), 4)
            expected = [
                {"port": port, "protocol": protocol}
                for port in ports
                for protocol in ("UDP", "TCP")
            ]
            for name, policy in policies.items():
                with self.subTest(platform, name=name):
                    self.assertIn({"ports": expected}, policy["spec"]["egress"])

    def test_none(self) -> None:
        self.assertFalse(render(*EVERYTHING, "networkPolicy.enabled=false").of("NetworkPolicy"))


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class OptionsTest(unittest.TestCase):
    """What is asked for is there, and goes when it is not asked for any more."""

    def test_openshift_chooses_the_users(self) -> None:
        for template in render(*EVERYTHING, "platform=openshift").templates():
            expected = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
            self.assertEqual(template["spec"]["securityContext"], expected)

    def test_values_for_all_pods(self) -> None:
        objects = render(
            *EVERYTHING,
            "imagePullSecrets[0].name=registry",
            "nodeSelector.disk=ssd",
            "tolerations[0].operator=Exists",
            "priorityClassName=high",
            "podLabels.team=a",
            "podAnnotations.note=b",
            "commonLabels.owner=c",
        )
        for template in objects.templates():
            spec = template["spec"]
            self.assertEqual(spec["imagePullSecrets"], [{"name": "registry"}])
            self.assertEqual(spec["nodeSelector"], {"disk": "ssd"})
            self.assertEqual(spec["tolerations"], [{"operator": "Exists"}])
            self.assertEqual(spec["priorityClassName"], "high")
            self.assertLessEqual(
                {"team": "a", "owner": "c"}.items(), template["metadata"]["labels"].items()
            )
            self.assertEqual(template["metadata"]["annotations"]["note"], "b")
        for each in objects.values():
            self.assertEqual(each["metadata"]["labels"]["owner"], "c")

    def test_disruption_budgets(self) -> None:
        self.assertEqual(set(render(*EVERYTHING).of("PodDisruptionBudget")), {NAME, f"{NAME}-opa"})
        without = render(*EVERYTHING, "podDisruptionBudget.enabled=false")
        self.assertFalse(without.of("PodDisruptionBudget"))

    def test_the_service_monitor_selects_all_services_with_metrics(self) -> None:
        objects = render("relocation.enabled=true", "serviceMonitor.enabled=true")
        monitor = objects.one("ServiceMonitor")["spec"]
        for name, service in objects.of("Service").items():
            with self.subTest(name):
                labels = service["metadata"]["labels"]
                self.assertLessEqual(monitor["selector"]["matchLabels"].items(), labels.items())
                port = named(service["spec"]["ports"], monitor["endpoints"][0]["port"])
                self.assertEqual(port["targetPort"], "http")

    def test_the_alerts_are_those_of_the_file(self) -> None:
        (file,) = from_yaml((CHART / "files" / "alerts.yaml").read_text())
        values = ("alerts.enabled=true", "alerts.labels.release=prometheus")
        objects = render(*values)
        self.assertEqual(objects.one("PrometheusRule")["spec"], file)
        self.assertEqual(
            objects.one("PrometheusRule")["metadata"]["labels"]["release"], "prometheus"
        )
        rules = render(*values, "alerts.runbookUrl=https://wiki/page").one("PrometheusRule")
        for rule in (each for group in rules["spec"]["groups"] for each in group["rules"]):
            if "alert" in rule:
                expected = f"https://wiki/page#{rule['alert'].lower()}"
                self.assertEqual(rule["annotations"]["runbook_url"], expected)

    def test_grafana_s_sidecar_finds_the_dashboard(self) -> None:
        found = render("dashboard.enabled=true").one("ConfigMap", "-dashboard")
        self.assertEqual(found["metadata"]["labels"]["grafana_dashboard"], "1")
        text = (CHART / "files" / "dashboard.json").read_text()
        self.assertEqual(found["data"], {f"{NAME}.json": text})

    def test_nothing_is_there_unasked(self) -> None:
        kinds = {kind for kind, _ in render("engine=none")}
        expected = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}
        self.assertEqual(kinds, expected)


class VersionTest(unittest.TestCase):
    """Whatever names a version of this project names this one."""

    def test_references_and_images(self) -> None:
        pattern = re.compile(rf"OWNER/{NAME}/(?:blob|tree)/v([\w.-]+?)/|\b{NAME}:(\d+\.[\w.-]*)")
        found = {
            (str(path.relative_to(ROOT)), reference or tag)
            for glob in ("*.md", "docs/**/*.md", "deploy/*.*", "deploy/files/*.*")
            for path in ROOT.glob(glob)
            for reference, tag in pattern.findall(path.read_text())
        }
        self.assertEqual({version for _, version in found}, {VERSION}, found)
        expected = {"deploy/values.yaml", "deploy/files/alerts.yaml", "docs/air-gapped.md"}
        self.assertLessEqual(expected, {file for file, _ in found})

    def test_the_chart_is_of_it(self) -> None:
        chart = (CHART / "Chart.yaml").read_text()
        versions = re.findall(r"^(?:version|appVersion): (.+)$", chart, re.MULTILINE)
        self.assertEqual(versions, [VERSION, VERSION])

    def test_the_changelog_begins_with_it(self) -> None:
        changelog = (ROOT / "CHANGELOG.md").read_text()
        self.assertEqual(re.findall(r"^## \[(\d.*?)\]", changelog, re.MULTILINE)[0], VERSION)


if __name__ == "__main__":
    unittest.main()
