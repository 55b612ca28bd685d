"""An overlay of one's own: the example, with each of its options chosen."""

from __future__ import annotations

import base64
import gzip
import shutil
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lookup.table_reader import parse
from tests.manifests import (
    EXAMPLE,
    NAME,
    POLICIES,
    REMOTE,
    ROOT,
    Objects,
    Overlay,
    called,
    choose,
    config_map_of,
    container,
    job_spec,
    options,
    overlay,
    pod_spec,
    rendered_root,
    run,
    settings,
    table_of,
)

TEXT = (EXAMPLE / "kustomization.yaml").read_text()

# What a ConfigMap holds, and so a table: the API server's limit on its data.
CONFIG_MAP_LIMIT = 1024 * 1024

COMPONENTS = sorted(
    str(path.parent.relative_to(ROOT))
    for pattern in ("deploy/components/*", "deploy/opa", "kyverno/*")
    for path in ROOT.glob(f"{pattern}/kustomization.yaml")
)


def ingress(objects: Objects) -> Any:
    """Where the NetworkPolicy lets requests come from."""
    return objects["NetworkPolicy"]["spec"]["ingress"][0]["from"]


def egress(objects: Objects) -> list[int]:
    """The ports that the NetworkPolicy lets the service speak to."""
    return [each["port"] for each in objects["NetworkPolicy"]["spec"]["egress"][0]["ports"]]


def engines(objects: Objects) -> set[str]:
    """What calls the service."""
    webhooks = {each for each in objects if each.startswith("MutatingWebhookConfiguration")}
    return POLICIES & objects.keys() | webhooks


def repository(objects: Objects) -> str:
    """The image without its tag."""
    return str(container(objects)["image"].partition(":")[0])


# A word of each option, where it shows in the objects, and what stands there then.
OPTIONS: dict[str, tuple[Callable[[Objects], Any], Any]] = {
    "kyverno/mutatingpolicy": (engines, {"MutatingPolicy"}),
    "components/webhook?": (engines, {f"MutatingWebhookConfiguration {NAME}"}),
    "components/webhook-own-certificate": (engines, {f"MutatingWebhookConfiguration {NAME}"}),
    "deploy/opa": (engines, {f"MutatingWebhookConfiguration {NAME}-opa"}),
    "kyverno/none": (engines, set()),
    "components/relocation": (lambda each: "Deployment relocation" in each, True),
    "components/aws-subnets": (lambda each: "CronJob subnets" in each, True),
    "components/image": (repository, NAME),
    "components/servicemonitor": (lambda each: "ServiceMonitor" in each, True),
    "components/alerts": (lambda each: "PrometheusRule" in each, True),
    "components/dashboard": (lambda each: f"ConfigMap {NAME}.json" in each, True),
    "disableNameSuffixHash": (lambda each: config_map_of("subnets", each), f"{NAME}-subnets"),
    "SUBNETS_FILE": (lambda each: settings(each)["SUBNETS_FILE"], "/subnets/subnets.json.gz"),
    "NODE_LABEL": (lambda each: settings(each)["NODE_LABEL"], "topology.k8s.aws/zone-id"),
    "ALLOWED_DOMAINS": (
        lambda each: settings(each)["ALLOWED_DOMAINS"],
        "rds.amazonaws.com,cache.amazonaws.com",
    ),
    "AVOID_ZONES": (lambda each: settings(each)["AVOID_ZONES"], "eu-central-1a"),
    "AWS_REGIONS": (lambda each: settings(each)["AWS_REGIONS"], "eu-central-1 us-east-1"),
    "AWS_ACCOUNTS": (
        lambda each: settings(each)["AWS_ACCOUNTS"],
        "self arn:aws:iam::222222222222:role/subnets",
    ),
    "registry.example.com": (repository, f"registry.example.com/{NAME}"),
    "ipBlock": (lambda each: ingress(each)[1:], [{"ipBlock": {"cidr": "10.0.0.0/16"}}]),
    "port: 5353": (egress, [53, 53, 5353, 5353]),
    "runAsUser": (
        lambda each: pod_spec(each)["securityContext"],
        {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    ),
    "kind: CronJob": (
        lambda each: job_spec(each)["securityContext"],
        {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    ),
    "role-arn": (
        lambda each: each["ServiceAccount subnets"]["metadata"]["annotations"][
            "eks.amazonaws.com/role-arn"
        ],
        "arn:aws:iam::111111111111:role/subnets",
    ),
    "kind: Namespace": (lambda each: "Namespace" in each, False),
    "kube-prometheus-stack": (
        lambda each: [
            each[kind]["metadata"]["labels"]["release"]
            for kind in ("ServiceMonitor", "PrometheusRule")
        ],
        ["kube-prometheus-stack", "kube-prometheus-stack"],
    ),
}

# Engines instead of the one that all other options are tested with.
OTHER_ENGINES = {
    "components/webhook?",
    "components/webhook-own-certificate",
    "deploy/opa",
    "kyverno/none",
}

# An option for the overlay's own table, which does not count with aws-subnets.
OTHER_TABLES = {"disableNameSuffixHash"}

# Options that are for a component.
NEEDED: dict[str, tuple[str, ...]] = {
    "kind: CronJob": ("deploy/components/aws-subnets",),
    "role-arn": ("deploy/components/aws-subnets",),
    "registry.example.com": ("deploy/components/image",),
    "kube-prometheus-stack": ("deploy/components/servicemonitor", "deploy/components/alerts"),
}


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class OverlayTest(unittest.TestCase):
    def setUp(self) -> None:
        self.overlay = overlay(self)

    def test_as_it_is(self) -> None:
        objects, root = self.overlay.render(), rendered_root()
        self.assertEqual(settings(objects), settings(root) | {"LOG_LEVEL": "INFO"})
        image = container(root)["image"]
        self.assertEqual(container(objects)["image"], f"docker.io/library/{image}")
        for kind in root.keys() & objects.keys() - {"Deployment", *POLICIES}:
            with self.subTest(kind):
                self.assertEqual(objects[kind], root[kind])

    def test_every_option_is_tested(self) -> None:
        lines = TEXT.splitlines()
        for option in options(TEXT):
            text = "\n".join(lines[number] for number in option)
            with self.subTest(text):
                self.assertEqual(len([word for word in OPTIONS if word in text]), 1)

    def test_each_option(self) -> None:
        without = {each: self.overlay.render(components=each) for each in {(), *NEEDED.values()}}
        for word, (found, expected) in OPTIONS.items():
            with self.subTest(word):
                components = NEEDED.get(word, ())
                after = self.overlay.render(text=choose(TEXT, word), components=components)
                self.assertEqual(found(after), expected)
                self.assertNotEqual(after, without[components])

    def test_they_go_together(self) -> None:
        words = OPTIONS.keys() - OTHER_ENGINES - OTHER_TABLES
        objects = self.overlay.render(text=choose(TEXT, *words))
        for word in words - {"components/image"}:  # which the registry's option renames
            with self.subTest(word):
                found, expected = OPTIONS[word]
                self.assertEqual(found(objects), expected)

    def test_it_names_every_component(self) -> None:
        named = {folder for folder, _ in REMOTE.findall(TEXT) if folder}
        self.assertEqual(named, {*COMPONENTS} - {"kyverno/clusterpolicy"})

    def test_an_image_needs_no_code_in_a_config_map(self) -> None:
        objects = self.overlay.render(components=("deploy/components/image",))
        self.assertFalse(container(objects).get("command"))
        self.assertEqual([v["name"] for v in pod_spec(objects)["volumes"]], ["subnets"])
        self.assertEqual(len([kind for kind in objects if "ConfigMap" in kind]), 2)

    def test_a_table_of_one_s_own(self) -> None:
        table = '[{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "dc-1"}]'
        (self.overlay.folder / "subnets.json").write_text(table)
        objects = self.overlay.render()
        config_map = objects["ConfigMap subnets.json"]
        self.assertEqual(config_map["data"], {"subnets.json": table})
        self.assertEqual(config_map_of("subnets", objects), config_map["metadata"]["name"])

    def test_a_table_of_100_000_subnets(self) -> None:
        table = table_of(100_000).encode()
        self.assertGreater(len(table), CONFIG_MAP_LIMIT)
        (self.overlay.folder / "subnets.json.gz").write_bytes(gzip.compress(table))
        text = choose(TEXT, "SUBNETS_FILE").replace("- subnets.json\n", "- subnets.json.gz\n")
        objects = self.overlay.render(text=text)
        config_map = objects["ConfigMap subnets.json.gz"]
        self.assertNotIn("data", config_map)
        data = base64.b64decode(config_map["binaryData"]["subnets.json.gz"])
        self.assertLess(len(data), CONFIG_MAP_LIMIT)
        self.assertEqual(gzip.decompress(data), table)
        self.assertEqual(len(parse(table.decode())), 100_000)
        self.assertEqual(config_map_of("subnets", objects), config_map["metadata"]["name"])


# By the names of the overlay: the Service's name and its namespace.
NAMES = {
    f"namespace: {NAME}\n": (NAME, NAME),
    "namespace: zones\n": (NAME, "zones"),
    f"namespace: {NAME}\nnamePrefix: my-\n": (f"my-{NAME}", NAME),
    "namespace: zones\nnamePrefix: my-\nnameSuffix: -too\n": (f"my-{NAME}-too", "zones"),
}


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
class NamesTest(unittest.TestCase):
    """With a namespace, a prefix or a suffix of the overlay, everything still refers to each other."""

    def test_the_policies_call_the_service(self) -> None:
        for text, objects, name, namespace in self.overlays():
            with self.subTest(text):
                service = objects["Service"]["metadata"]
                self.assertEqual((service["name"], service["namespace"]), (name, namespace))
                (policy,) = POLICIES & objects.keys()
                self.assertEqual(called(objects[policy]), f"{name}.{namespace}")

    def test_the_rest_follows(self) -> None:
        for text, objects, _, namespace in self.overlays():
            with self.subTest(text):
                labels = objects["Namespace"]["metadata"]["labels"]
                self.assertEqual(objects["Namespace"]["metadata"]["name"], namespace)
                self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")
                self.assertIn("SHUTDOWN_DELAY", settings(objects))
                names = {each["metadata"]["name"] for each in objects.values()}
                self.assertIn(config_map_of("subnets", objects), names)
                self.assertIn(config_map_of("app", objects), names)
                for each in objects.keys() - POLICIES - {"Namespace"}:
                    self.assertEqual(objects[each]["metadata"]["namespace"], namespace)

    def overlays(self) -> Any:
        for component in ("", "kyverno/mutatingpolicy"):
            for names, (name, namespace) in NAMES.items():
                text = TEXT.replace(f"namespace: {NAME}\n", names, 1)
                components = (component,) if component else ()
                yield names, overlay(self).render(text=text, components=components), name, namespace


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
@unittest.skipUnless(shutil.which("git"), "the git command is not on PATH")
class RemoteTest(unittest.TestCase):
    """The base and the components by a URL, as kustomize fetches them."""

    def test_it_renders_the_same(self) -> None:
        parent = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        clone = parent / "clone"
        shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all"), ("tag", "v0")):
            run("git", "-C", str(clone), *identity, *command)
        text = choose(TEXT, "kyverno/mutatingpolicy", "components/servicemonitor")
        self.assertEqual(
            Remote(parent, f"file://{clone}").render(text=text), overlay(self).render(text=text)
        )


class Remote(Overlay):
    def base_of(self, folder: str | None) -> str:
        return f"{self.base}{f'//{folder}' if folder else ''}?ref=v0"


if __name__ == "__main__":
    unittest.main()
