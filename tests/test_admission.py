"""Reviews and their answers, without a server: the shared table of Pods, and every odd Pod besides."""

from __future__ import annotations

import json
import random
import unittest
from base64 import b64decode
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from ipaddress import IPv4Address, ip_address
from itertools import product
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from common.errors import InvalidRequest, NameNotFound, ServiceError
from common.names import ANNOTATION as NAME
from common.names import NAMES_PATTERN
from lookup.handler import value_in
from lookup.host import Address
from lookup.lookups import MAX_LENGTH, names_in
from lookup.placement import Answer
from lookup.resolver import Resolution, Result
from lookup.service import Service
from lookup.settings import LookupSettings
from lookup.table_reader import load
from tests.chart import AVAILABLE, WHY_NOT, from_yaml
from tests.pods import FOLDER, ROOT, SETTINGS
from tests.support import SUBNETS
from webhook.admission import (
    MAX_AUDITED,
    MAX_VALUES,
    MAX_WARNING,
    PREFERRED,
    REQUIRED,
    AdmissionResponse,
    decide,
    defect,
    patience_in,
    review_in,
)

ZONE, ZONE_ID = "topology.kubernetes.io/zone", "topology.k8s.aws/zone-id"
DATABASE = "192.168.1.7"  # in eu-central-1b
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"

Pod = dict[str, Any]


def pod(spec: object = None, **metadata: object) -> Pod:
    """A Pod that wants to be near the database."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "annotations": {NAME: DATABASE}, **metadata},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]} if spec is None else spec,
    }


def annotated(names: object, **more: object) -> Pod:
    return pod(annotations={NAME: names, **more})


def owned_by(kind: str) -> Pod:
    return pod(ownerReferences=[{"kind": "ReplicaSet"}, {"kind": kind, "name": "x"}])


def affine(**node_affinity: object) -> Pod:
    return pod({"affinity": {"nodeAffinity": node_affinity}})


def term(key: object) -> dict[str, object]:
    return {"matchExpressions": [{"key": "a"}, {"key": key, "operator": "In", "values": ["x"]}]}


def request_for(reviewed: object, **more: object) -> dict[str, object]:
    return {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "default",
        "operation": "CREATE",
        "object": reviewed,
        "oldObject": None,
        "dryRun": False,
        **more,
    }


def review_of(reviewed: object, **more: object) -> bytes:
    """The review of a Pod as an API server sends it; `more` is of its request."""
    request = request_for(reviewed, **more)
    review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return json.dumps(review).encode()


class Lookup:
    """The lookup service, in whose DNS there is only what is given."""

    def __init__(self, table: object, hosts: Mapping[str, Resolution], **settings: str) -> None:
        own = LookupSettings.from_environment(settings)
        self.lookups = Service(own, load(table, node_label=own.node_label)).lookups
        self.hosts = hosts

    def __call__(self, names: str) -> Answer | ServiceError:
        try:
            return self.lookups.answer(dict(map(self.find, names_in(names))))
        except ServiceError as error:
            return error

    def find(self, text: str) -> tuple[str, Result]:
        name, result = self.lookups.resolver.at_once(text)
        return name, result or self.hosts.get(name) or NameNotFound(name)

    def review(self, body: bytes) -> AdmissionResponse:
        review = review_in(body)
        return decide(review, None if review.why_not else self(review.names))


def simple_lookup(**settings: str) -> Lookup:
    return Lookup(SUBNETS, {}, **settings)


class DoesNotApply(Exception):
    """The API server would refuse the Pod."""


def add(there: Any, pointer: str, value: object) -> None:
    """The operation `add` of RFC 6902, section 4.1, but for an index in a list."""
    *parents, last = [each.replace("~1", "/").replace("~0", "~") for each in pointer.split("/")[1:]]
    for parent in parents:
        if not isinstance(there, dict) or parent not in there:
            raise DoesNotApply(pointer)
        there = there[parent]
    if isinstance(there, list) and last == "-":
        there.append(value)
    elif isinstance(there, dict):
        there[last] = value
    else:
        raise DoesNotApply(pointer)


def response_in(body: bytes) -> dict[str, Any]:
    """The response of an answer, which has all that every API server asks for."""
    answer = json.loads(body)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: dict[str, Any] = answer["response"]
    assert response["allowed"] is True
    assert ("patch" in response) == (response.get("patchType") == "JSONPatch")
    return response


def patch_in(body: bytes) -> list[dict[str, Any]]:
    patch = response_in(body).get("patch")
    return json.loads(b64decode(patch, validate=True)) if patch else []


def patched(given: Pod, body: bytes) -> Pod:
    """The Pod with the answer's patch."""
    result = deepcopy(given)
    for operation in patch_in(body):
        assert operation.keys() == {"op", "path", "value"} and operation["op"] == "add", operation
        add(result, operation["path"], operation["value"])
    return result


# --- the shared table ---------------------------------------------------------------------------


@cache
def pods_in(file: str) -> dict[str, Pod]:
    """The Pods of a file of the table, by name."""
    pods = from_yaml((FOLDER / file).read_text())
    return {each["metadata"]["name"]: each for each in pods}


def hosts() -> dict[str, Resolution]:
    addresses: dict[str, tuple[Address, ...]] = {}
    for line in (FOLDER / "hosts").read_text().splitlines():
        if not line.startswith("#"):
            address, name = line.split()
            addresses[name] = (*addresses.get(name, ()), ip_address(address))
    stale = Resolution((IPv4Address(DATABASE),), stale=True)
    found = {name: Resolution(each) for name, each in addresses.items()}
    return found | {"stale.example.internal": stale}


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class TableTest(unittest.TestCase):
    """The same Pods as the policies', and the same results."""

    def cases(self) -> Iterator[tuple[str, Pod, Pod, Lookup]]:
        for file, settings in (SETTINGS | {"stale": {}}).items():
            table = Path(settings.get("SUBNETS_FILE", FOLDER / "subnets.json"))
            lookup = Lookup(json.loads(table.read_text()), hosts(), **settings)
            placed = pods_in(f"{file}.patched.yaml")
            for name, given in pods_in(f"{file}.yaml").items():
                yield name, given, placed.get(name, given), lookup

    def test_every_pod(self) -> None:
        for name, given, expected, lookup in self.cases():
            with self.subTest(name):
                decision = lookup.review(review_of(given))
                self.assertEqual(patched(given, decision.body), expected)
                outcome = "Placed" if name.endswith("-patched") else None
                self.assertEqual(decision.outcome == "Placed", outcome == "Placed")

    def test_a_second_time_changes_nothing_more(self) -> None:
        for name, given, expected, lookup in self.cases():
            with self.subTest(name):
                again = lookup.review(review_of(expected))
                self.assertEqual(patch_in(again.body), [])
                if expected != given:
                    self.assertEqual(again.reason, "ChoosesZone")


# --- what a patch builds upon -------------------------------------------------------------------

OTHER = {"weight": 7, "preference": {"matchExpressions": [{"key": "kubernetes.io/os"}]}}
ARM = {"kubernetes.io/arch": "arm64"}
MISSING = "missing"

NODE_AFFINITIES: list[Any] = [
    MISSING,
    None,
    {},
    {PREFERRED: None},
    {PREFERRED: []},
    {PREFERRED: [OTHER]},
    {REQUIRED: None},
    {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": None}]}, PREFERRED: [OTHER, OTHER]},
]
AFFINITIES: list[Any] = [MISSING, None, {}, {"podAffinity": {}}]
SELECTORS = [MISSING, None, {}, ARM]
LABELS = [MISSING, None, {}, {"app": "app", f"{NAME}/zone": "elsewhere"}]

PREFERENCE = {
    "weight": 100,
    "preference": {
        "matchExpressions": [{"key": ZONE, "operator": "In", "values": ["eu-central-1b"]}]
    },
}


def set_unless_missing(parent: dict[str, Any], key: str, value: object) -> None:
    if value != MISSING:
        parent[key] = deepcopy(value)


def variants() -> Iterator[Pod]:
    """Pods with every combination of what may be there, be null, be empty or be missing."""
    affinities: list[tuple[Any, Any]] = [(each, MISSING) for each in AFFINITIES]
    affinities += [({}, each) for each in NODE_AFFINITIES[1:]]
    for mode, (affinity, node_affinity), selector, labels in product(
        (MISSING, "required"), affinities, SELECTORS, LABELS
    ):
        each = pod()
        set_unless_missing(each["metadata"], "labels", labels)
        set_unless_missing(each["metadata"]["annotations"], f"{NAME}/mode", mode)
        set_unless_missing(each["spec"], "affinity", affinity)
        if node_affinity != MISSING:
            each["spec"]["affinity"]["nodeAffinity"] = deepcopy(node_affinity)
        set_unless_missing(each["spec"], "nodeSelector", selector)
        yield each


def placed(given: Pod) -> Pod:
    """The Pod as it has to become."""
    result = deepcopy(given)
    metadata, spec = result["metadata"], result["spec"]
    decided = {f"{NAME}/zone": "eu-central-1b", f"{NAME}/zone-id": "euc1-az3"}
    metadata["labels"] = (metadata.get("labels") or {}) | decided
    if metadata["annotations"].get(f"{NAME}/mode") == "required":
        spec["nodeSelector"] = (spec.get("nodeSelector") or {}) | {ZONE: "eu-central-1b"}
        return result
    affinity = spec["affinity"] = spec.get("affinity") or {}
    node_affinity = affinity["nodeAffinity"] = affinity.get("nodeAffinity") or {}
    node_affinity[PREFERRED] = [*(node_affinity.get(PREFERRED) or []), PREFERENCE]
    return result


class PatchTest(unittest.TestCase):
    def test_what_is_missing_is_created_and_what_is_there_is_kept(self) -> None:
        lookup = simple_lookup()
        for given in variants():
            with self.subTest(given=given):
                body = lookup.review(review_of(given)).body
                self.assertEqual(patched(given, body), placed(given))

    def test_a_preference_that_the_selector_satisfies_is_left_out(self) -> None:
        lookup = simple_lookup()
        given = annotated(f"{DATABASE},192.168.33.7", **{f"{NAME}/mode": "required"})
        result = patched(given, lookup.review(review_of(given)).body)
        (preference,) = result["spec"]["affinity"]["nodeAffinity"][PREFERRED]
        self.assertEqual(preference["weight"], 50)
        self.assertEqual(result["spec"]["nodeSelector"], {ZONE: "eu-central-1b"})

    def test_an_answer_without_a_selector_insists_on_nothing(self) -> None:
        stale = Resolution((IPv4Address(DATABASE),), stale=True)
        lookup = Lookup(SUBNETS, {"db.test": stale})
        given = annotated("db.test", **{f"{NAME}/mode": "required"})
        self.assertNotIn(
            "nodeSelector", patched(given, lookup.review(review_of(given)).body)["spec"]
        )

    def test_labels_only_for_what_is_known(self) -> None:
        several = Resolution((IPv4Address(DATABASE), IPv4Address("192.168.33.7")))
        subnets = [{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "dc-1"}]
        lookup = Lookup(SUBNETS + subnets, {"lb.test": several})
        for names, labels in (("lb.test", None), ("10.1.1.1", {f"{NAME}/zone": "dc-1"})):
            with self.subTest(names):
                given = annotated(names)
                result = patched(given, lookup.review(review_of(given)).body)
                self.assertEqual(result["metadata"].get("labels"), labels)
                self.assertIn("affinity", result["spec"])

    def test_the_applier_of_these_tests_refuses_what_does_not_apply(self) -> None:
        for there, pointer in (({}, "/a/b"), ({"a": None}, "/a/b"), ({"a": {}}, "/a/b/-")):
            with self.subTest(there=there, pointer=pointer), self.assertRaises(DoesNotApply):
                add(there, pointer, 1)


# --- who is left alone, and why -----------------------------------------------------------------

HOSTNAME, BETA_ZONE = "kubernetes.io/hostname", "failure-domain.beta.kubernetes.io/zone"
NODE = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}

LEFT_ALONE: list[tuple[str, Pod]] = [
    ("NotAnnotated", {}),
    ("NotAnnotated", {"metadata": None, "spec": None}),
    ("NotAnnotated", pod(annotations=None)),
    ("NotAnnotated", pod(annotations={})),
    ("NotAnnotated", pod(annotations={f"{NAME}/mode": "required", f"{NAME}x": "db.test"})),
    ("NotAnnotated", annotated("")),
    ("NotAnnotated", annotated(None)),
    ("DaemonSet", owned_by("DaemonSet")),
    ("ChoosesNode", pod({"nodeName": "node-a"})),
    ("ChoosesZone", pod({"nodeSelector": {"a": "b", ZONE: "x"}})),
    ("ChoosesZone", pod({"nodeSelector": {ZONE_ID: "x"}})),
    ("ChoosesZone", affine(**{REQUIRED: {"nodeSelectorTerms": [{}, term("a"), term(ZONE)]}})),
    ("ChoosesZone", affine(**{REQUIRED: {"nodeSelectorTerms": [term(ZONE_ID)]}})),
    ("ChoosesZone", affine(**{PREFERRED: [OTHER, {"weight": 1, "preference": term(ZONE)}]})),
    ("ChoosesZone", affine(**{PREFERRED: [{"weight": 1, "preference": term(ZONE_ID)}]})),
    ("ChoosesZone", pod({"nodeSelector": {HOSTNAME: "x"}})),
    ("ChoosesZone", pod({"nodeSelector": {BETA_ZONE: "x"}})),
    ("ChoosesZone", affine(**{REQUIRED: {"nodeSelectorTerms": [term(HOSTNAME)]}})),
    ("ChoosesZone", affine(**{PREFERRED: [{"weight": 1, "preference": term(BETA_ZONE)}]})),
    ("ChoosesZone", affine(**{REQUIRED: {"nodeSelectorTerms": [{}, NODE]}})),
    ("ChoosesZone", affine(**{PREFERRED: [OTHER, {"weight": 1, "preference": NODE}]})),
]

NOT_LEFT_ALONE = [
    pod(),
    owned_by("StatefulSet"),
    pod({"nodeName": ""}),
    pod({"nodeSelector": {"topology.kubernetes.io/region": "x"}}),
    affine(
        **{REQUIRED: {"nodeSelectorTerms": [term("a")]}, PREFERRED: [{"preference": term("b")}]}
    ),
    pod(
        {"affinity": {"podAntiAffinity": {PREFERRED: [{"podAffinityTerm": {"topologyKey": ZONE}}]}}}
    ),
    pod({"topologySpreadConstraints": [{"topologyKey": ZONE}]}),
]

# One name for two zones, as where the tables of two AWS accounts were merged.
AMBIGUOUS = [
    {
        "CIDRBlock": f"10.{number}.0.0/16",
        "AvailabilityZone": "us-east-1a",
        "AvailabilityZoneId": f"use1-az{number}",
    }
    for number in (1, 2)
]

# An annotation, the word for why its Pod is not placed, and what the warning says of it.
NOT_PLACED = [
    ("10.9.9.9", "ZoneNotFound", "10.9.9.9"),
    ("no-such-name.test", "NameNotFound", "no-such-name.test"),
    ("..", "InvalidName", ".."),
    ("db", "InvalidName", "db"),
    ("a.test," * 8 + "a.test", "InvalidRequest", "a.test,a.test,a.test,a.test,a.test,a.te"),
    ("x" * MAX_LENGTH, "InvalidName", "xxx"),
    ("x" * (MAX_LENGTH + 1), "InvalidAnnotation", "xxx"),
    ("x" * 8_000_000, "InvalidAnnotation", "xxx"),
    ("10.1.1.1", "ZoneAmbiguous", "10.1.1.1"),
    ("10.1.1.1,192.168.65.7", "ZoneAmbiguous", "10.1.1.1,192.168.65.7"),
    ("fe80::1%eth0", "InvalidAnnotation", "'fe80::1%eth0'"),
    ("[fd00::1]", "InvalidAnnotation", "'[fd00::1]'"),
    ("fd00::1", "ZoneNotFound", "fd00::1"),
    ("192.168.65.7", "ZoneAvoided", "192.168.65.7"),
    ("db.forbidden.example", "NameNotAllowed", "db.forbidden.example"),
    ("db.test\n", "InvalidAnnotation", r"'db.test\n'"),
    (" db.test", "InvalidAnnotation", "' db.test'"),
    ("db.test&fqdn=x", "InvalidAnnotation", "'db.test&fqdn=x'"),
    ("datenb\u00e4nke.test", "InvalidAnnotation", r"'datenb\xe4nke.test'"),
    ("\ud800", "InvalidAnnotation", r"'\ud800'"),
    ("\x1b[31m\0", "InvalidAnnotation", r"'\x1b[31m\x00'"),
]


class DecisionTest(unittest.TestCase):
    def test_who_is_left_alone(self) -> None:
        lookup = simple_lookup()
        for reason, given in LEFT_ALONE:
            with self.subTest(reason, given=given):
                decision = lookup.review(review_of(given))
                self.assertEqual((decision.outcome, decision.reason), ("LeftAlone", reason))
                self.assertEqual(response_in(decision.body), {"uid": UID, "allowed": True})

    def test_who_is_not(self) -> None:
        lookup = simple_lookup()
        for given in NOT_LEFT_ALONE:
            with self.subTest(given=given):
                self.assertEqual(lookup.review(review_of(given)).outcome, "Placed")

    def test_only_the_creation_of_a_pod_is_of_interest(self) -> None:
        lookup = simple_lookup()
        for more in (
            {"operation": "UPDATE"},
            {"operation": None},
            {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
            {"kind": None},
        ):
            with self.subTest(more):
                self.assertEqual(lookup.review(review_of(pod(), **more)).reason, "NotCreated")

    def test_who_is_not_placed_is_told_why(self) -> None:
        settings = {"AVOID_ZONES": "eu-central-1c", "ALLOWED_DOMAINS": "test"}
        lookup = Lookup(SUBNETS + AMBIGUOUS, {}, **settings)
        for names, reason, told in NOT_PLACED:
            with self.subTest(names=names):
                given = annotated(names)
                decision = lookup.review(review_of(given))
                self.assertEqual((decision.outcome, decision.reason), ("NotPlaced", reason))
                response = response_in(decision.body)
                self.assertEqual(patched(given, decision.body), given)
                (warning,) = response["warnings"]
                self.assertTrue(
                    warning.startswith(f"{NAME}: not placed, {reason}: {told}"), warning
                )
                self.assertEqual(response["auditAnnotations"]["reason"], reason)
                self.assertTrue(response["auditAnnotations"]["names"].startswith(told))

    def test_a_warning_is_never_so_long_that_it_is_cut(self) -> None:
        lookup = simple_lookup()
        longest = ".".join(["a" * 63] * 3 + ["a" * 61])
        for names in (longest, ",".join([longest] * 8), "," * 100_000, "\U0001f600" * 100_000):
            with self.subTest(names[:10], length=len(names)):
                response = response_in(lookup.review(review_of(annotated(names))).body)
                (warning,) = response["warnings"]
                self.assertLessEqual(len(warning), MAX_WARNING)
                self.assertTrue(warning.isascii() and warning.isprintable())
                self.assertLessEqual(len(response["auditAnnotations"]["names"]), MAX_AUDITED)

    def test_what_just_fits_is_not_cut(self) -> None:
        lookup = simple_lookup()
        for name, room in (("", 0), ("x", 1)):
            names = name + "x" * (MAX_WARNING - len(f"{NAME}: not placed, InvalidName: "))
            response = response_in(lookup.review(review_of(annotated(names))).body)
            (warning,) = response["warnings"]
            with self.subTest("the warning", more=room):
                self.assertEqual(len(warning), MAX_WARNING)
                self.assertEqual(warning.endswith("..."), bool(room))
            names = name + "x" * MAX_AUDITED
            audited = response_in(lookup.review(review_of(annotated(names))).body)
            with self.subTest("the audit log", more=room):
                audited_names = audited["auditAnnotations"]["names"]
                self.assertEqual(len(audited_names), MAX_AUDITED)
                self.assertEqual(audited_names.endswith("..."), bool(room))

    def test_the_audit_log_has_what_was_decided(self) -> None:
        several = Resolution((IPv4Address("192.168.33.7"), IPv4Address(DATABASE)))
        lookup = Lookup(SUBNETS, {"lb.test": several})
        for names, zone in (
            (DATABASE, "eu-central-1b"),
            ("lb.test", "eu-central-1b,eu-central-1a"),
        ):
            with self.subTest(names):
                decision = lookup.review(review_of(annotated(names)))
                self.assertEqual(decision.zone, zone)
                response = response_in(decision.body)
                self.assertEqual(response["auditAnnotations"], {"zone": zone, "names": names})
                self.assertNotIn("warnings", response)

    def test_what_an_api_server_sends(self) -> None:
        """As Kubernetes 1.36 does, when a ReplicaSet creates a Pod."""
        body = (FOLDER.parent.parent / "tests" / "review.json").read_bytes()
        lookup = Lookup(SUBNETS, {"db.example.internal": Resolution((IPv4Address(DATABASE),))})
        decision = lookup.review(body)
        given = json.loads(body)["request"]["object"]
        self.assertEqual(patched(given, decision.body), placed(given))

    def test_a_dry_run_is_a_review_like_any_other(self) -> None:
        lookup = simple_lookup()
        self.assertEqual(
            lookup.review(review_of(pod(), dryRun=True)), lookup.review(review_of(pod()))
        )

    def test_what_the_log_calls_the_pod(self) -> None:
        for expected, given, more in (
            ("default/app", pod(), {}),
            ("default/app-", pod(name=None, generateName="app-"), {"name": ""}),
            ("default/", pod(name=""), {}),
            ("/app", pod(), {"namespace": None}),
            ("a/app", pod(namespace="b"), {"namespace": "a"}),
        ):
            with self.subTest(expected):
                self.assertEqual(review_in(review_of(given, **more)).pod, expected)

    def test_a_defect_is_an_answer_too(self) -> None:
        decision = defect(review_in(review_of(pod())))
        self.assertEqual(response_in(decision.body), {"uid": UID, "allowed": True})
        self.assertEqual((decision.outcome, decision.reason), ("Defect", "InternalError"))


# --- what no API server sends -------------------------------------------------------------------

UIDS: list[Any] = [None, "", 5, ["x"], {}, "x" * 257]

NO_REVIEWS: list[bytes] = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"1e999",
    b'"AdmissionReview"',
    b"\xff\xfe\xfd",
    b"{'kind': 1}",
    review_of(pod())[:-1],
    review_of(pod()) + b"x",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b"9" * 10_000,
    b'{"request": NaN}',
    review_of(pod()).replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
    review_of(pod()).replace(b'"AdmissionReview"', b'"PodReview"'),
    review_of(pod()).replace(b'"AdmissionReview"', b'["AdmissionReview"]'),
    *(review_of(pod(), uid=uid) for uid in UIDS),
    json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}).encode(),
    *(
        json.dumps(
            {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
        ).encode()
        for request in (None, [], "x", 1, [{"uid": UID}])
    ),
    review_of(pod(), many=[1] * 500_000),
]

JUNK: list[Any] = [
    None,
    True,
    0,
    -1.5,
    10**400,
    inf,
    -inf,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"": {}},
]
JUNK += [[None], [0, "x"], {"key": None}, {"key": [ZONE]}, "x" * 1000]

# A Pod that has something at each place that is read.
FULL = pod(
    {
        "nodeName": "",
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "affinity": {
            "nodeAffinity": {
                REQUIRED: {"nodeSelectorTerms": [term("a")]},
                PREFERRED: [{"weight": 1, "preference": term("b")}],
            }
        },
    },
    generateName="app-",
    labels={"app": "app"},
    annotations={NAME: DATABASE, f"{NAME}/mode": "required"},
    ownerReferences=[{"kind": "ReplicaSet"}],
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where everything in a JSON value is, the value itself excepted."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    result = deepcopy(value)
    *parents, last = path
    parent = result
    for key in parents:
        parent = parent[key]
    parent[last] = junk
    return result


class MalformedTest(unittest.TestCase):
    def check(self, lookup: Lookup, body: bytes) -> str:
        """Whatever the review is, it is refused as a request, or its Pod is allowed and intact."""
        try:
            review = review_in(body)
        except InvalidRequest as error:
            self.assertLess(len(str(error)), 1000)
            return "refused"
        decision = decide(review, None if review.why_not else lookup(review.names))
        given = json.loads(body)["request"].get("object")
        patched(given, decision.body)
        self.assertEqual(response_in(decision.body)["uid"], review.uid)
        return decision.outcome

    def test_what_is_no_review_is_refused(self) -> None:
        for body in NO_REVIEWS:
            with self.subTest(body[:100]), self.assertRaises(InvalidRequest):
                review_in(body)

    def test_the_longest_uid_and_the_most_values(self) -> None:
        longest = review_in(review_of(pod(), uid="x" * 256))
        self.assertEqual(longest.uid, "x" * 256)
        values = MAX_VALUES - sum(map(review_of(pod(), many=[]).count, (b",", b"[", b"{")))
        review_in(review_of(pod(), many=[0] * (values + 1)))
        with self.assertRaises(InvalidRequest):
            review_in(review_of(pod(), many=[0] * (values + 2)))

    def test_only_the_beginning_of_a_long_annotation_is_kept(self) -> None:
        review = review_in(review_of(annotated("x" * 8_000_000)))
        self.assertEqual(len(review.names), MAX_LENGTH)

    def test_a_large_pod_is_none_of_these(self) -> None:
        """The largest that an API server takes, and one with as many values as fit into that."""
        lookup = simple_lookup()
        environment = [{"name": f"VARIABLE_{number}", "value": ""} for number in range(45_000)]
        for given in (
            pod(annotations={NAME: DATABASE, "x": "{," * 70_000}),
            pod({"env": environment}),
        ):
            body = review_of(given)
            with self.subTest(size=len(body)):
                self.assertEqual(lookup.review(body).outcome, "Placed")

    def test_junk_at_each_place(self) -> None:
        lookup = simple_lookup()
        request = request_for(FULL)
        outcomes = set()
        for path in places(request):
            for junk in JUNK:
                with self.subTest(path=path, junk=junk):
                    review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}
                    changed = replaced(request, path, junk)
                    body = json.dumps(review | {"request": changed}).encode()
                    outcomes.add(self.check(lookup, body))
        self.assertEqual(outcomes, {"refused", "LeftAlone", "NotPlaced", "Placed"})

    def test_a_pod_that_is_not_what_it_should_be_is_left_alone(self) -> None:
        lookup = simple_lookup()
        malformed: list[Any] = [
            "pod",
            [],
            pod(labels=["a"]),
            pod(annotations="x"),
            annotated(["db.test"]),
            pod(ownerReferences=["DaemonSet"]),
            pod({"nodeSelector": [ZONE]}),
            pod({"affinity": "x"}),
            affine(**{PREFERRED: {}}),
            affine(**{REQUIRED: []}),
            affine(**{PREFERRED: [{"preference": {"matchExpressions": [{"key": [ZONE]}]}}]}),
        ]
        for given in malformed:
            with self.subTest(given=given):
                decision = lookup.review(review_of(given))
                self.assertEqual((decision.outcome, decision.reason), ("LeftAlone", "Malformed"))
                self.assertEqual(response_in(decision.body), {"uid": UID, "allowed": True})

    def test_unknown_fields_and_repeated_keys_do_not_matter(self) -> None:
        lookup = simple_lookup()
        given = pod({"new": [{"deep": [1e300]}]}, managedFields=[{"f:x": {}}])
        body = review_of(given, new={"x": None})
        body = body.replace(b'"dryRun"', b'"operation": "CREATE", "dryRun"')
        self.assertEqual(lookup.review(body).outcome, "Placed")

    def test_fuzz(self) -> None:
        chance = random.Random(20240229)
        lookup = simple_lookup(AVOID_ZONES="eu-central-1c")
        whole = review_of(FULL)
        pieces = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"\\ud800", b"1e9999", b"\xff"]
        pieces += [b"-0", b"{}", b"[]", b"9" * 5000, b'"' + NAME.encode() + b'"', b"\0", b" " * 99]
        outcomes = set()
        for _ in range(5000):
            body = whole
            for _ in range(chance.randrange(1, 4)):
                start = chance.randrange(len(body))
                end = start + chance.choice((0, 1, 2, 30, len(body)))
                body = body[:start] + chance.choice([*pieces, chance.randbytes(3)]) + body[end:]
            with self.subTest(body):
                outcomes.add(self.check(lookup, body))
        self.assertLessEqual({"refused", "LeftAlone", "Placed"}, outcomes)


# --- what may stand in an annotation ----------------------------------------------------------

ENGINES = [
    ROOT / "kyverno" / "clusterpolicy" / f"{NAME}.yaml",
    ROOT / "kyverno" / "mutatingpolicy" / f"{NAME}.yaml",
    ROOT / "deploy" / "files" / "opa" / f"{NAME}.rego",
]
PIECES = [
    ":",
    "::",
    "[",
    "]",
    "%",
    ".",
    ",",
    "-",
    "_",
    "&",
    "=",
    "#",
    "/",
    "?",
    "+",
    " ",
    "\n",
    "{{",
]
PIECES += ["db.test", "192.168.1.7", "fd00::1", "x", "Z", "0", "\u00e4"]


class AnnotationTest(unittest.TestCase):
    def test_it_is_the_same_for_all_engines(self) -> None:
        for path in ENGINES:
            with self.subTest(path.name):
                self.assertIn(f"^{NAMES_PATTERN}$", path.read_text())

    def test_whatever_it_is_it_reaches_the_service_as_it_is_or_not_at_all(self) -> None:
        chance = random.Random(20240229)
        lookup = simple_lookup()
        asked = 0
        for _ in range(5000):
            names = "".join(chance.choices(PIECES, k=chance.randrange(1, 7)))
            with self.subTest(names):
                decision = lookup.review(review_of(annotated(names)))
                self.assertIn(decision.outcome, {"Placed", "NotPlaced"})
                if decision.reason != "InvalidAnnotation":  # for this, engines make a URL
                    asked += 1
                    url = urlsplit(f"http://{NAME}.{NAME}.svc:8080/lookup?fqdn={names}")
                    self.assertEqual((url.path, url.fragment), ("/lookup", ""))
                    self.assertEqual(value_in(url.query), names)
                    self.assertEqual(parse_qsl(url.query), [("fqdn", names)])
        self.assertGreater(asked, 500)


# --- for how long ------------------------------------------------------------------------------

PATIENCE = [
    ("timeout=3s", 2.5),
    ("timeout=10s", 9.5),
    ("timeout=1m0s", 59.5),
    ("timeout=1h1m1.5s", 3661),
    ("timeout=2.5s", 2),
    ("timeout=2.s", 1.5),
    ("timeout=1s", 0.5),
    ("timeout=800ms", 0.4),
    ("timeout=.8s", 0.4),
    ("timeout=500000us", 0.25),
    ("timeout=500000%C2%B5s", 0.25),
    ("timeout=500000000ns", 0.25),
    ("timeout=0s", 0),
    ("a=b&timeout=3s&c=d", 2.5),
    ("", inf),
    ("timeout=", inf),
    ("timeout=3", inf),
    ("timeout=-3s", inf),
    ("timeout=3s4", inf),
    ("timeout=3x", inf),
    ("timeout=3s ", inf),
    ("timeouts=3s", inf),
    ("xtimeout=3s", inf),
    ("timeout=" + "9" * 10_000 + "s", inf),
    ("timeout=" + "1" * 100_000, inf),
]


class PatienceTest(unittest.TestCase):
    def test_it_is_a_little_less_than_the_api_server_has(self) -> None:
        for query, seconds in PATIENCE:
            with self.subTest(query[:40]):
                self.assertAlmostEqual(patience_in(query), seconds)


if __name__ == "__main__":
    unittest.main()
