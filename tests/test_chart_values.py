"""The chart's values: that they are those of the programs and the documents, and what is refused."""

from __future__ import annotations

import json
import re
import unittest
from collections.abc import Iterator
from typing import Any

from common.settings import Settings
from publish import PublishSettings
from relocation.settings import RelocationSettings
from server import ServerSettings
from tests.chart import AVAILABLE, CHART, FILES, ROOT, WHY_NOT, from_yaml, refusal

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DOCS = ROOT / "docs"

# What the chart sets by itself: ports, files, names, and whom to ask.
OWN = {
    "HOST",
    "PORT",
    "TLS_CERT_FILE",
    "TLS_KEY_FILE",
    "TLS_PORT",
    "SUBNETS_FILE",
    "KUBERNETES_URL",
    "KEPT_DECISIONS",
    "LOOKUP_URL",
    "NAMESPACE",
    "CONFIG_MAP",
}

# The service's setting, which others have as well.
SHARED = {"NODE_LABEL"}

# Different in the chart: on a cluster there are load balancers that have to notice.
DIFFERENT = {"SHUTDOWN_DELAY": ("0", "5")}

# A line of `--help`, and a row of a table in the documents.
HELP = re.compile(r"^  ([A-Z_]+) \(default '(.*?)'", re.MULTILINE)
ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) ?\|", re.MULTILINE)

# A word in a row that stands for no default.
BY_DEFAULT = {"all interfaces": "", "the Pod's": "", "": ""}


def camel_case(name: str) -> str:
    first, *others = name.lower().split("_")
    return first + "".join(each.title() for each in others)


def as_text(value: Any) -> str:
    """A value as the environment has it."""
    return ",".join(value) if isinstance(value, list) else str(value)


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class SettingsTest(unittest.TestCase):
    """A setting is one thing under one name, with one default, wherever it stands."""

    def setUp(self) -> None:
        (self.values,) = from_yaml((CHART / "values.yaml").read_text())
        kept = {key: self.values["keptDecisions"][key] for key in ("keptNames",)}
        self.service = self.values["settings"] | kept
        self.relocation = self.values["relocation"]["settings"]

    def test_the_chart_and_help_name_the_same(self) -> None:
        programs: tuple[tuple[type[Settings], dict[str, Any], set[str]], ...] = (
            (ServerSettings, self.service, set()),
            (RelocationSettings, self.relocation, SHARED),
            (PublishSettings, {}, SHARED),
        )
        for program, values, shared in programs:
            with self.subTest(program.__name__):
                defaults = dict(HELP.findall(program.help({})))
                names = defaults.keys() - OWN - shared
                self.assertEqual({camel_case(each) for each in names}, values.keys())
                for name in names:
                    expected = DIFFERENT.get(name, (defaults[name], defaults[name]))
                    found = defaults[name], as_text(values[camel_case(name)])
                    self.assertEqual(found, expected, name)

    def test_the_documents_and_help_name_the_same(self) -> None:
        for program, page in (
            (ServerSettings, "settings.md"),
            (RelocationSettings, "relocation.md"),
        ):
            with self.subTest(page):
                rows = dict(ROW.findall((DOCS / page).read_text()))
                defaults = dict(HELP.findall(program.help({})))
                self.assertEqual(rows.keys(), defaults.keys())
                for name, text in rows.items():
                    written = text.strip("`")
                    self.assertEqual(BY_DEFAULT.get(written, written), defaults[name], name)

    def test_the_script_knows_the_settings_of_the_job(self) -> None:
        script = (FILES / "gather-subnets.sh").read_text()
        for key in self.values["awsSubnets"]["settings"]:
            name = re.sub(r"([A-Z])", r"_\1", key).upper()
            self.assertIn(f"${{{name}:-", script)


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class SchemaTest(unittest.TestCase):
    def test_it_names_the_values_that_there_are(self) -> None:
        (values,) = from_yaml((CHART / "values.yaml").read_text())
        self.assertEqual(set(paths_in(values, SCHEMA)), set())

    def test_nothing_else_is_let_pass(self) -> None:
        """Every object says which keys it has; but for Kubernetes' own, which the API server checks."""
        loose = [path for path, each in objects_in(SCHEMA) if "additionalProperties" not in each]
        own = ("global", "initContainers", "Affinity", "Selector")
        self.assertEqual([path for path in loose if not path.endswith(own)], [])


def resolved(schema: Any) -> Any:
    """The schema, or that which it refers to."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return SCHEMA["$defs"][name] if name else schema


def paths_in(values: Any, schema: Any, path: str = "") -> Iterator[str]:
    """Where the values and the schema do not name the same keys."""
    properties = resolved(schema).get("properties")
    if not isinstance(values, dict) or properties is None:
        return
    optional = {"global"} if not path else set(properties) if path in OPTIONAL else set()
    for key in (values.keys() ^ properties.keys()) - optional:
        yield f"{path}/{key}"
    for key in values.keys() & properties.keys():
        yield from paths_in(values[key], properties[key], f"{path}/{key}")


# Kubernetes' own objects, of which values.yaml has what is set by default.
OPTIONAL = {
    "/affinity",
    "/dnsConfig",
    "/podSecurityContext",
    "/podSecurityContext/seccompProfile",
    "/resources",
    "/opa/resources",
    "/relocation/resources",
    "/awsSubnets/resources",
}


def objects_in(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The schemas of all objects, by where they are."""
    if schema.get("type") == "object":
        yield path, schema
    for key, each in [*schema.get("properties", {}).items(), *schema.get("$defs", {}).items()]:
        yield from objects_in(each, f"{path}/{key}")
    if isinstance(schema.get("items"), dict):
        yield from objects_in(schema["items"], path)


# Each with the name by which it is refused.
WRONG = (
    ("engne=webhook", "additional properties 'engne' not allowed"),
    ("engine=kyverno", "at '/engine': value must be one of"),
    ("settings.dnsTimout=2", "at '/settings': additional properties 'dnsTimout' not allowed"),
    ("settings.dnsTimeout=50", "at '/settings/dnsTimeout': maximum"),
    ("settings.dnsTimeout=1s", "at '/settings/dnsTimeout'"),
    ("settings.avoidZones=eu-central-1a", "at '/settings/avoidZones': got string, want array"),
    ("settings.nodeLabel=zone", "at '/settings/nodeLabel': value must be one of"),
    ("replicas=two", "at '/replicas': got string, want integer"),
    ("replicas=0", "at '/replicas': minimum"),
    ("image.digest=latest", "at '/image/digest'"),
    ("webhook.certificate=cert-manager", "at '/webhook/certificate': value must be one of"),
    ("relocation.settings.relocateAfter=-1", "at '/relocation/settings/relocateAfter': minimum"),
    ("platform=aks", "at '/platform': value must be one of"),
    ("networkPolicy.from[0].ipBlock.cidr=10.0.0.1", "at '/networkPolicy/from/0/ipBlock/cidr'"),
    ("podSecurityContext.runAsNonRoot=false", "at '/podSecurityContext/runAsNonRoot'"),
    ("awsSubnets.settings.awsRegion=eu-central-1", "additional properties 'awsRegion'"),
    ("fullnameOverride=Not_A_Name", "at '/fullnameOverride'"),
)


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class RefusalTest(unittest.TestCase):
    def test_what_is_wrong_is_refused_by_its_name(self) -> None:
        for value, said in WRONG:
            with self.subTest(value):
                self.assertIn(said, refusal("--set", f"exampleTable=true,{value}"))

    def test_kept_decisions_need_an_api_server_that_has_them(self) -> None:
        values = "exampleTable=true,keptDecisions.enabled=true"
        for options in (
            ("--kube-version", "1.35.9"),
            ("--kube-version", "1.36.0", "--api-versions", "apps/v1/Deployment"),
        ):
            with self.subTest(options):
                self.assertIn("Kubernetes has from 1.36 on", refusal("--set", values, *options))

    def test_kept_decisions_alone_need_names(self) -> None:
        values = "exampleTable=true,keptDecisions.enabled=true,engine=none"
        self.assertIn("keptDecisions.keptNames", refusal("--set", values))


if __name__ == "__main__":
    unittest.main()
