"""The MutatingAdmissionPolicy on a real API server, which CLUSTER_FOR_TESTS names by its kubeconfig.

Of 1.36 or later, with nothing in it, and nobody's: the test's objects go when it ends. The Pods are
those that every engine is tested by; they are created for the answer only (--dry-run=server).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import unittest
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from time import time
from typing import Any, ClassVar
from unittest import mock

from common.names import ZONE_LABEL
from kept.configmap import key_of
from kept.decision import MAX_LINE, Decision
from kept.memory import Memory
from lookup.lookups import Lookups
from lookup.placement import Placement
from lookup.resolver import Resolution, Resolver
from lookup.table_reader import load
from tests.pods import FOLDER, ROOT, SETTINGS, names_asked_for
from tests.support import wait_until

KUBECONFIG = os.environ.get("CLUSTER_FOR_TESTS", "")
POLICY = ROOT / "deploy" / "files" / "mutatingadmissionpolicy.yaml"
KYVERNO = ROOT / "kyverno" / "mutatingpolicy" / "automatic-zone-placement.yaml"

ANNOTATION = "automatic-zone-placement"
STALE = "stale.example.internal"

# An API server stops to follow ConfigMaps when no binding is left that has one as its parameter, and
# does not begin again (https://github.com/kubernetes/kubernetes/issues/130887). So this one stays.
ANCHOR = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: automatic-zone-placement-tests}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules: [{apiGroups: [none.example], apiVersions: [v1], operations: [CREATE], resources: [none]}]
  mutations: [{patchType: JSONPatch, jsonPatch: {expression: 'false ? [JSONPatch{op: "add", path: "/x", value: 1}] : []'}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: automatic-zone-placement-tests}
spec:
  policyName: automatic-zone-placement-tests
  paramRef: {namespace: default, name: none, parameterNotFoundAction: Allow}
"""

Pod = dict[str, Any]
Lines = dict[str, str]  # by names

# Parts of a line that somebody has edited; no Pod may become invalid by any of them.
ZONE = "preferred=100=topology.kubernetes.io/zone=a"
DAMAGED = [
    "",
    "until=",
    "until=tomorrow " + ZONE,
    "until={later}",
    "until={later} preferred=",
    "until={later} preferred=0=topology.kubernetes.io/zone=a",
    "until={later} preferred=101=topology.kubernetes.io/zone=a",
    "until={later} preferred=99999999999999999999=topology.kubernetes.io/zone=a",
    "until={later} preferred=x=topology.kubernetes.io/zone=a",
    "until={later} preferred=100=a/b/c=a",
    "until={later} preferred=100=topology.kubernetes.io/zone",
    "until={later} preferred=100=topology.kubernetes.io/zone=a=b",
    "until={later} preferred=100=topology.kubernetes.io/zone=-a",
    "until={later} preferred=100=topology.kubernetes.io/zone=" + 64 * "a",
    "until={later} zone=ä " + ZONE,
    "until={later} zone=a=b " + ZONE,
    "until={later} required-until={later} required=a " + ZONE,
    "until={later} required-until={later} required=ä=a " + ZONE,
    "until={later} required-until={later} required=a=ä " + ZONE,
    "until={later} required-until=soon required=a=b " + ZONE,
]


def kubectl(*arguments: str, text: str = "") -> str:
    """What it prints; fails the test with what it complains of."""
    command = ["kubectl", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def objects(text: str) -> Iterator[Any]:
    """The objects in what `kubectl -ojson` prints."""
    while text := text.strip():
        each, end = json.JSONDecoder().raw_decode(text)
        text = text[end:]
        yield from each["items"] if each["kind"] == "List" else [each]


def pods_in(file: Path) -> dict[str, Pod]:
    """The Pods of a file, by name; no API server is asked."""
    text = kubectl("create", "--dry-run=client", "--validate=false", "-ojson", "-f", str(file))
    return {each["metadata"]["name"]: each for each in objects(text)}


def placed(pod: Pod) -> tuple[Any, ...]:
    """What an engine may have changed."""
    spec, labels = pod["spec"], pod["metadata"].get("labels") or {}
    # The API server labels a Pod that has a node with that node's zone.
    own = {key: value for key, value in labels.items() if not key.startswith("topology.")}
    return spec.get("affinity") or {}, spec.get("nodeSelector") or {}, own


def asking(names: str, *, required: bool = False, **metadata: Any) -> Pod:
    """A Pod with the annotation."""
    annotations = {ANNOTATION: names} | ({f"{ANNOTATION}/mode": "required"} if required else {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "pod-", "annotations": annotations, **metadata},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    }


def decision(names: str) -> Decision:
    """One that holds for a while."""
    later = int(time() + 600)
    return Decision(names, f" {ZONE}", later, later)


def lines_of(decisions: Iterable[Decision]) -> Lines:
    return {each.names: each.line() for each in decisions}


def data_with(lines: Lines) -> dict[str, str]:
    """A ConfigMap's data with these lines where they belong, whatever they say."""
    data: dict[str, str] = {}
    for names, line in lines.items():
        data[key_of(names)] = f"{data.get(key_of(names), '')}{line}\n"
    return data


def expressions(text: str) -> list[str]:
    """Without the comments."""
    return [line for line in text.splitlines() if not line.strip().startswith("#")]


def decided(pods: str) -> list[Decision]:
    """What the service decides for the Pods of a file, without a server and without DNS."""
    settings = SETTINGS.get(pods, {})
    label = settings.get("NODE_LABEL", ZONE_LABEL)
    avoided = settings.get("AVOID_ZONES", "").split(",")
    subnets = Path(settings.get("SUBNETS_FILE", FOLDER / "subnets.json"))
    table = load(json.loads(subnets.read_text()), node_label=label)
    placement = Placement(table, label, avoided)
    resolver = Resolver(timeout=1, cache_ttl=5, cache_maxsize=64, stale_ttl=300)
    memory = Memory((), 5, 300)
    asyncio.run(decide(Lookups(resolver, placement), memory, FOLDER / f"{pods}.yaml"))
    return list(memory.decisions().values())


async def decide(lookups: Lookups, memory: Memory, pods: Path) -> None:
    for names in names_asked_for(pods):
        memory.adopt([names])
        with mock.patch("socket.getaddrinfo", from_hosts):
            results = await lookups.resolve(names.split(","))
        if names == STALE:
            fresh = {STALE: Resolution((IPv4Address("192.168.1.7"),))}
            memory.hear(names, lookups.answer(fresh), time(), 0.0)
            results = {STALE: Resolution((IPv4Address("192.168.1.7"),), stale=True)}
        memory.hear(names, lookups.answer(results), time(), 0.0)


HOSTS = [line.split() for line in (FOLDER / "hosts").read_text().splitlines() if line[:1].isalnum()]


def from_hosts(host: str, _port: object, family: socket.AddressFamily, *_: object) -> Any:
    """The addresses that the table of Pods gives a name, as `socket.getaddrinfo` has them."""
    addresses = [ip_address(address) for address, name in HOSTS if name == host]
    version = 6 if family == socket.AF_INET6 else 4
    found = [(family, 0, 0, "", (str(each), 0)) for each in addresses if each.version == version]
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return found


@unittest.skipUnless(shutil.which("kubectl"), "the kubectl command is not on PATH")
@unittest.skipUnless(KUBECONFIG, "CLUSTER_FOR_TESTS names no kubeconfig")
class PolicyTest(unittest.TestCase):
    """The policy is for the test's own namespace only, and has its own ConfigMap."""

    namespace: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(mock.patch.dict(os.environ, KUBECONFIG=KUBECONFIG))
        if "mutatingadmissionpolicies" not in kubectl("api-resources", "-oname"):
            raise unittest.SkipTest("the cluster has no MutatingAdmissionPolicy")
        cls.namespace = f"test-{secrets.token_hex(4)}"
        kubectl("create", "namespace", cls.namespace)
        cls.addClassCleanup(kubectl, "delete", "--wait=false", "namespace", cls.namespace)
        cls.apply_policy()
        wait_until(cls.has_service_account)

    @classmethod
    def apply_policy(cls) -> None:
        kubectl("apply", "--server-side", "-f-", text=ANCHOR)
        selector = f"kubernetes.io/metadata.name: {cls.namespace}"
        text = POLICY.read_text()
        text = re.sub(
            r"(name|policyName|namespace): automatic-zone-placement\n",
            rf"\1: {cls.namespace}\n",
            text,
        )
        text = text.replace(
            "matchConstraints:\n",
            f"matchConstraints:\n    namespaceSelector: {{matchLabels: {{{selector}}}}}\n",
        )
        kubectl("create", "-f-", text=text)
        cls.addClassCleanup(kubectl, "delete", "-f-", text=text)

    @classmethod
    def has_service_account(cls) -> bool:
        return "default" in kubectl("-n", cls.namespace, "get", "serviceaccounts")

    def keep(self, lines: Lines) -> None:
        """Puts this into the ConfigMap, and waits until the API server goes by it."""
        marker = f"marker-{secrets.token_hex(4)}.test"
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "automatic-zone-placement-kept", "namespace": self.namespace},
            "data": data_with(lines | lines_of([decision(marker)])),
        }
        kubectl("apply", "--server-side", "--force-conflicts", "-f-", text=json.dumps(config_map))
        wait_until(lambda: self.is_placed(asking(marker)))

    def is_placed(self, pod: Pod) -> bool:
        (created,) = self.created(pod)
        return bool(placed(created)[0])

    def created(self, *pods: Pod) -> list[Pod]:
        """These Pods as the API server would create them."""
        for pod in pods:
            pod["metadata"]["namespace"] = self.namespace
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
        found = kubectl(
            "create", "--dry-run=server", "--validate=false", "-ojson", "-f-", text=text
        )
        return list(objects(found))

    def test_the_table_of_pods(self) -> None:
        for pods in (*SETTINGS, "stale"):
            self.keep(lines_of(decided(pods)))
            given = pods_in(FOLDER / f"{pods}.yaml")
            expected = given | pods_in(FOLDER / f"{pods}.patched.yaml")
            for pod in self.created(*given.values()):
                name = pod["metadata"]["name"]
                with self.subTest(pods=pods, pod=name):
                    self.assertEqual(placed(pod), placed(expected[name]))

    def test_what_holds_no_longer(self) -> None:
        now = int(time())
        content = f" required=topology.kubernetes.io/zone=a {ZONE}"
        soon, past = now + 600, now - 2
        decisions = [
            Decision("holds.test", content, soon, soon),
            Decision("is-stale.test", content, soon, past),
            Decision("is-over.test", content, past, past),
        ]
        self.keep(lines_of(decisions))
        pods = [asking(each.names, required=True) for each in decisions]
        found = [placed(pod)[:2] for pod in self.created(*pods)]
        selected = {"topology.kubernetes.io/zone": "a"}
        self.assertEqual([each[1] for each in found], [selected, {}, {}])
        # What the selector demands is not preferred, too.
        self.assertEqual([bool(each[0]) for each in found], [False, True, False])

    def test_nobody_can_set_the_clock(self) -> None:
        """What a client says of managed fields, when it creates a Pod, does not count."""
        entry = {
            "apiVersion": "v1",
            "operation": "Update",
            "fieldsType": "FieldsV1",
            "fieldsV1": {},
        }
        past, future = (
            entry | {"manager": "somebody", "time": f"{year}-01-01T00:00:00Z"}
            for year in (2001, 2099)
        )
        now = int(time())
        over = Decision("over.test", f" {ZONE}", now - 2, now - 2)
        self.keep(lines_of([decision("db.test"), over]))
        managed: dict[str, Any]
        for managed in ({}, past, future):
            with self.subTest(managed=managed):
                self.assertTrue(self.is_placed(asking("db.test", managedFields=[managed])))
                self.assertFalse(self.is_placed(asking("over.test", managedFields=[managed])))

    def test_names_of_all_kinds(self) -> None:
        long = ",".join(f"{letter * 60}.{letter * 60}.test" for letter in "abc")
        cases = ["a.test,b.test", "2001:db8::1", "2001:db8::1,a_b.test", f"{long},x.test", long]
        self.keep(lines_of(map(decision, cases)))
        found = self.created(*map(asking, cases), asking("a.test_b.test"), asking(f"{long},y.test"))
        self.assertEqual([bool(placed(pod)[0]) for pod in found], [True] * len(cases) + [False] * 2)

    def test_what_somebody_has_edited(self) -> None:
        """No Pod is refused for that; what it says is left to the engine behind."""
        later = "2099-01-01T00:00:00Z"
        damaged = [f"name-{n}.test {text}".format(later=later) for n, text in enumerate(DAMAGED)]
        lines = {line.split()[0]: line for line in damaged}
        lines["long.test"] = f"long.test until={later}" + f" {ZONE}" * (MAX_LINE // len(ZONE))
        lines["other.test"] = decision("db.test").line()
        self.keep(lines)
        for names, pod in zip(
            lines, self.created(*(asking(names, required=True) for names in lines)), strict=True
        ):
            with self.subTest(line=lines[names]):
                self.assertEqual(placed(pod), ({}, {}, {}))

    def test_a_config_map_that_is_missing_or_empty(self) -> None:
        self.keep(lines_of([decision("db.test")]))
        name = "automatic-zone-placement-kept"
        kubectl(
            "-n",
            self.namespace,
            "patch",
            "configmap",
            name,
            "--type=json",
            "-p",
            '[{"op": "remove", "path": "/data"}]',
        )
        wait_until(lambda: not self.is_placed(asking("db.test")))
        self.keep(lines_of([decision("db.test")]))
        kubectl("-n", self.namespace, "delete", "configmap", name)
        wait_until(lambda: not self.is_placed(asking("db.test")))

    def test_what_costs_most(self) -> None:
        """The longest line, among a thousand, within what the API server lets an expression cost."""
        names = ",".join(
            f"{letter * 63}.{letter * 63}.{letter * 63}.{letter * 40}.test" for letter in "abcdefgh"
        )
        terms = [
            f" preferred={weight}=example.com/rack-{weight}=r1,r2" for weight in range(100, 0, -1)
        ]
        content, long = " required=topology.kubernetes.io/zone=a zone=a", decision(names)
        while len(long._replace(content=content + terms[0]).line()) <= MAX_LINE:
            content += terms.pop(0)
        long = long._replace(content=content)
        others = [decision(f"db-{n}.example.internal") for n in range(998)]
        self.keep(lines_of([long, *others]))
        (pod,) = self.created(asking(names, required=True))
        preferred = placed(pod)[0]["nodeAffinity"][
            "preferredDuringSchedulingIgnoredDuringExecution"
        ]
        self.assertEqual(len(preferred), 100 - len(terms))


class ConditionTest(unittest.TestCase):
    def test_the_same_pods_as_the_other_engines(self) -> None:
        """Which Pods are left alone is said in the same words."""
        conditions = r"(?s)  matchConditions:\n(.*?)\n  variables:"
        ours, theirs = (re.search(conditions, file.read_text()) for file in (POLICY, KYVERNO))
        assert ours and theirs
        self.assertEqual(expressions(ours[1]), expressions(theirs[1]))


if __name__ == "__main__":
    unittest.main()
