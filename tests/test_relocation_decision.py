"""The decision: tables of Pods, nodes, answers and what is remembered, and who is evicted for it."""

from __future__ import annotations

import random
import unittest
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from relocation.decision import Plan, make_plan
from relocation.history import GRACE, MAX_BACKOFF, MAX_HISTORY, MAX_MOVES, History, Move, Seen
from relocation.landings import Rules, Verdict
from relocation.world import (
    NOWHERE,
    Claim,
    Destination,
    Node,
    Pod,
    Volume,
    Workload,
    World,
    is_rolled_out,
)

ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"
A = "automatic-zone-placement"
NAME = "db.example.internal"

Json = dict[str, Any]

RULES = Rules(node_label=ZONE, after=300, backoff=600, longest_gap=120)
NOW = 1_800_000_000.0
LONG_AGO = "2026-01-01T00:00:00Z"
WEB = Workload("shop", "Deployment", "web")


def merged(base: Any, changes: Any) -> Any:
    """`base` with `changes`, as a merge patch would do it (RFC 7396)."""
    if not isinstance(changes, Mapping):
        return changes
    result = dict(base) if isinstance(base, Mapping) else {}
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def owner(kind: str, name: str, api: str = "apps/v1") -> list[Json]:
    return [{"apiVersion": api, "kind": kind, "name": name, "uid": "u", "controller": True}]


def pod(name: str = "web-1", node: str = "a1", zone: str = "zone-a", **changes: Any) -> Json:
    """A Pod of the Deployment `web`: placed for the zone, on the node, Ready; it may be moved."""
    base = {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": LONG_AGO,
            "annotations": {A: NAME, f"{A}/relocate": "true"},
            "labels": {f"{A}/zone": zone, "pod-template-hash": "5d4f"},
            "ownerReferences": owner("ReplicaSet", "web-5d4f"),
        },
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    result: Json = merged(base, changes)
    return result


def node(name: str, **changes: Any) -> Json:
    """A Ready node: `b1` is in zone-b."""
    base = {
        "metadata": {
            "name": name,
            "labels": {ZONE: f"zone-{name[0]}", "kubernetes.io/os": "linux"},
        },
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    result: Json = merged(base, changes)
    return result


def answer(where: str = "zone-b", **changes: Any) -> Destination:
    """The answer for a database there."""
    base = {
        "zone": where,
        "nodeLabels": [{"key": ZONE, "values": [where], "weight": 100}],
        "nodeSelector": {ZONE: where},
    }
    return Destination.from_json({"zone": None} | merged(base, changes))


def seen(seconds: float = 300, what: Destination | None = None) -> History:
    """An answer that has been the same for so long."""
    return History({NAME: Seen((what or answer()).fingerprint, NOW - seconds, seconds, NOW)})


def world(
    *pods: Json,
    nodes: Sequence[Json] = (node("a1"), node("b1"), node("c1")),
    said: Destination | str | None = None,
    volumes: Sequence[Json] = (),
) -> World:
    parsed = [each for each in map(Pod.from_json, pods) if each]
    bound = [each for each in map(Volume.from_json, volumes) if each]
    return World(
        parsed,
        {each.name: each for each in map(Node.from_json, nodes)},
        {each.asks: answer() if said is None else said for each in parsed},
        {each.claim: each for each in bound},
    )


def why(verdict: Verdict) -> str:
    """What keeps the Pod where it is; empty if nothing does."""
    return verdict.obstacle.text if verdict.obstacle else ""


def evicted(plan: Plan) -> list[str]:
    return [each.pod.name for each in plan.evictions()]


NOT_READY = {
    "conditions": [{"type": "Ready", "status": "False"}, {"type": "Initialized", "status": "True"}]
}

# what is otherwise with a Pod that could be moved, and what keeps it then where it is
OBSTACLES: list[tuple[Json, str]] = [
    ({}, ""),
    ({"metadata": {"annotations": {f"{A}/relocate": None}}}, "it has not asked for it"),
    ({"metadata": {"annotations": {f"{A}/relocate": "True"}}}, "it has not asked for it"),
    ({"metadata": {"labels": {f"{A}/zone": None}}}, "it was not placed when it was created"),
    ({"metadata": {"ownerReferences": None}}, "a Pod is not moved"),
    ({"metadata": {"ownerReferences": owner("DaemonSet", "x")}}, "a DaemonSet is not moved"),
    ({"metadata": {"ownerReferences": owner("Job", "x", "batch/v1")}}, "a Job.batch is not moved"),
    (
        {"metadata": {"ownerReferences": owner("StatefulSet", "x", "apps.kruise.io/v1beta1")}},
        "a StatefulSet.apps.kruise.io is not moved",
    ),
    (
        {"metadata": {"ownerReferences": owner("ReplicationController", "x", "v1")}},
        "a ReplicationController.v1 is not moved",
    ),
    ({"metadata": {"ownerReferences": owner("StatefulSet", "x")}}, ""),
    ({"metadata": {"ownerReferences": owner("ReplicaSet", "x")}}, ""),
    ({"metadata": {"deletionTimestamp": LONG_AGO}}, "it is terminating"),
    ({"status": NOT_READY}, "it is not Ready"),
    ({"status": {"conditions": None}}, "it is not Ready"),
    ({"spec": {"nodeSelector": {"disk": "fast"}}}, "no node there could take it"),
    ({"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}, ""),
    # Its own choice, not the placement's: the label names another zone.
    ({"spec": {"nodeSelector": {ZONE: "zone-c"}}}, "no node there could take it"),
    # The placement's: the label names the same zone.
    ({"spec": {"nodeSelector": {ZONE: "zone-a"}}}, ""),
    (
        {
            "metadata": {"annotations": {f"{A}/mode": "required"}},
            "spec": {"nodeSelector": {ZONE: "zone-a", "kubernetes.io/os": "linux"}},
        },
        "",
    ),
    (
        {
            "metadata": {"labels": {f"{A}/zone-id": "id-a"}},
            "spec": {"nodeSelector": {ZONE_ID: "id-a"}},
        },
        "",
    ),
]

# An answer, why a Pod in zone-a stays after it was seen for long; None: it is not elsewhere.
ANSWERS: list[tuple[Destination | str, str | None]] = [
    (answer(), ""),
    (answer("zone-a"), None),
    ("ResolverTimeout", None),
    (answer(nodeLabels=[], nodeSelector={}), None),
    (answer(stale=True, nodeSelector={}), "the answer is not certain"),
    (answer(stale=True), "the answer is not certain"),
    (
        answer(errors=[{"fqdn": "x.test", "reason": "NameNotFound"}]),
        "the answer is not certain",
    ),
    (answer(ambiguous=True), "the answer is not certain"),
    (answer(incomplete=True), "the answer is not certain"),
    (answer(nodeLabels=[], nodeSelector={ZONE: None}, ambiguous=True), None),
    (
        answer(
            zone=None,
            nodeLabels=[{"key": ZONE, "values": ["zone-b", "zone-c"], "weight": 100}],
            nodeSelector={ZONE: None},
        ),
        "its database is not in one zone",
    ),
    (answer(nodeLabels=[{"key": ZONE, "values": ["zone-a", "zone-b"], "weight": 100}]), None),
    # In the zone, but neither in the row nor in the rack.
    (
        answer(
            "zone-a",
            nodeLabels=[
                {"key": "example.com/rack", "values": ["r1"], "weight": 100},
                {"key": "example.com/row", "values": ["row-1"], "weight": 50},
                {"key": ZONE, "values": ["zone-a"], "weight": 25},
            ],
        ),
        None,
    ),
    # The second name's zone.
    (
        answer(
            nodeLabels=[
                {"key": ZONE, "values": ["zone-b"], "weight": 100},
                {"key": ZONE, "values": ["zone-a"], "weight": 50},
            ]
        ),
        None,
    ),
]

NO_SCHEDULE = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}

# what is otherwise with the only node in zone-b, and whether it could take a Pod
NODES: list[tuple[Json, bool]] = [
    ({}, True),
    ({"spec": {"unschedulable": True}}, False),
    ({"status": NOT_READY}, False),
    ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, False),
    ({"status": {"conditions": None}}, False),
    ({"metadata": {"deletionTimestamp": LONG_AGO}}, False),
    ({"metadata": {"labels": {ZONE: "zone-c"}}}, False),
    ({"spec": {"taints": [NO_SCHEDULE]}}, False),
    ({"spec": {"taints": [NO_SCHEDULE | {"effect": "NoExecute"}]}}, False),
    ({"spec": {"taints": [NO_SCHEDULE | {"effect": "PreferNoSchedule"}]}}, True),
]

# a toleration, and whether a Pod with it may be scheduled on a node with NO_SCHEDULE
TOLERATIONS: list[tuple[Json, bool]] = [
    ({"key": "dedicated", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}, True),
    ({"key": "dedicated", "value": "gpu"}, True),
    ({"key": "dedicated", "value": "cpu"}, False),
    ({"key": "dedicated"}, False),
    ({"key": "dedicated", "operator": "Exists"}, True),
    ({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}, False),
    ({"key": "other", "operator": "Exists"}, False),
    ({"operator": "Exists"}, True),
    ({"key": "dedicated", "operator": "Gt", "value": "gpu"}, False),
    ({"operator": "Exists", "effect": "NoSchedule"}, True),
]


def expression(operator: str, *values: str, key: str = "size") -> Json:
    return {"key": key, "operator": operator, "values": list(values)}


# a node's label "size", a requirement, and whether it is met
REQUIREMENTS: list[tuple[str | None, Json, bool]] = [
    ("8", expression("In", "4", "8"), True),
    ("8", expression("In", "4"), False),
    (None, expression("In", "4"), False),
    ("8", expression("NotIn", "4"), True),
    ("8", expression("NotIn", "8"), False),
    (None, expression("NotIn", "8"), True),
    ("8", expression("Exists"), True),
    (None, expression("Exists"), False),
    ("8", expression("DoesNotExist"), False),
    (None, expression("DoesNotExist"), True),
    ("8", expression("Gt", "4"), True),
    ("8", expression("Gt", "8"), False),
    ("8", expression("Lt", "10"), True),
    ("8", expression("Lt", "8"), False),
    (None, expression("Lt", "8"), False),
    ("big", expression("Gt", "4"), False),
    ("8", expression("Gt", "four"), False),
    ("8", expression("Near", "8"), False),
]

BY_NAME = {"key": "metadata.name", "operator": "In", "values": ["b1"]}
NEVER = expression("Exists", key="no-such-label")

# required node affinity, and whether the node `b1` of size 8 is admitted
TERMS: list[tuple[list[Json] | None, bool]] = [
    (None, False),
    ([{"matchExpressions": [expression("Exists")]}], True),
    ([{"matchExpressions": [expression("Exists"), NEVER]}], False),
    ([{"matchExpressions": [NEVER]}, {"matchExpressions": [expression("Exists")]}], True),
    ([{"matchFields": [BY_NAME]}], True),
    ([{"matchFields": [BY_NAME], "matchExpressions": [NEVER]}], False),
    ([{"matchFields": [BY_NAME | {"values": ["b2"]}]}], False),
    ([{}], False),
    ([], False),
]


def volume(claim: str | None = "data-web-1", zones: Sequence[str] = (), **changes: Any) -> Json:
    base: Json = {"metadata": {"name": "pv"}, "spec": {}}
    if claim:
        base["spec"]["claimRef"] = {"namespace": "shop", "name": claim}
    if zones:
        terms = [{"matchExpressions": [expression("In", *zones, key=ZONE)]}]
        base["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
    result: Json = merged(base, changes)
    return result


# the volumes of a cluster, and whether the Pod with the claim data-web-1 may go to zone-b
VOLUMES: list[tuple[list[Json], bool]] = [
    ([volume()], True),
    ([volume(zones=["zone-b"])], True),
    ([volume(zones=["zone-a", "zone-b"])], True),
    ([volume(zones=["zone-a"])], False),
    ([volume(metadata={"labels": {ZONE: "zone-a"}})], False),
    ([volume(metadata={"labels": {ZONE: "zone-a__zone-b"}})], True),
    ([volume(metadata={"labels": {ZONE: "zone-a"}}, zones=["zone-b"])], True),
    ([volume(spec={"nodeAffinity": {}})], True),
    ([volume(spec={"nodeAffinity": {"required": {}}})], False),
    # One that is not known is not taken to be reachable.
    ([], False),
    ([volume(None)], False),
    ([volume("data-web-2")], False),
    ([volume(spec={"claimRef": {"namespace": "other", "name": "data-web-1"}})], False),
]

B, C = answer("zone-b"), answer("zone-c")
STALE = answer(stale=True, nodeSelector={ZONE: None})
SPREAD = answer(nodeSelector={ZONE: None})
SAID: dict[str, Destination | str] = {
    "b": B,
    "c": C,
    "s": STALE,
    "m": SPREAD,  # many zones
    "p": answer(errors=["x"]),  # part of the names
    "a": answer(ambiguous=True),
    "-": "ResolverTimeout",
}

# A zone by its id, of which a node that has only the zone's name knows nothing.
BY_ID = answer(
    nodeLabels=[{"key": ZONE_ID, "values": ["id-b"], "weight": 100}],
    nodeSelector={ZONE: None, ZONE_ID: "id-b"},
)

# what keeps a Pod of those above, and the reason for which it waits
WAITS = {
    "it is terminating": "pod",
    "it is not Ready": "pod",
    "no node there could take it": "no_node",
}

# what is not what relocation leaves
NONSENSE = [
    "{",
    "[]",
    "null",
    "{}",
    '{"moves": {}, "seen": []}',
    '{"moves": [[1, 2]], "seen": {}}',
    '{"moves": [], "seen": {"a": ["f", "soon", 0]}}',
    '{"moves": [], "seen": {"a": 7}}',
    '{"moves": null, "seen": {}}',
    "[" * 100_000,
]

# what was said, minute for minute, and whether the last makes the Pod move; a blank: no round
HISTORIES = [
    ("bbbbb", False),
    ("bbbbbb", True),
    ("bcbcbcbcbcbcbcb", False),
    ("bbbbbcb", False),
    ("bbbbbbcbbbbb", False),
    ("bbbbbbcbbbbbb", True),
    ("bbbbmbbbbb", False),
    # What is missing resets nothing, and the time until the next answer does not count.
    ("b-b-b-b-b-b-b-b", False),
    ("bb-bb-bb-bb-bb", True),
    ("bb-bb-bb-bb-b", False),
    ("b---b---b", False),
    ("bbbbbsb", False),
    ("bbbbbsbb", True),
    ("bbbbbs", False),
    ("bbbbbbbbbs", False),
    ("bbbbbbbbb-", False),
    ("bsbsbsbsbsbsb", False),
    ("b" + 100 * " " + "b", False),
    ("bbbb" + 100 * " " + "b", True),
    ("ssssssssssb", False),
    ("pppppppppp", False),
    ("aaaaaaaaaa", False),
]

# annotations, labels and owners of a Pod, and its workload
WORKLOADS: list[tuple[Json, str]] = [
    ({}, "Deployment/web"),
    ({"labels": {"pod-template-hash": None}}, "ReplicaSet/web-5d4f"),
    ({"labels": {"pod-template-hash": "other"}}, "ReplicaSet/web-5d4f"),
    ({"ownerReferences": owner("StatefulSet", "db")}, "StatefulSet/db"),
    ({"ownerReferences": owner("StatefulSet", "db-5d4f")}, "StatefulSet/db-5d4f"),
    ({"ownerReferences": owner("Job", "x", "batch/v1")}, "Job.batch/x"),
    ({"ownerReferences": owner("Thing", "x", "example.com/v1")}, "Thing.example.com/x"),
    ({"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x"}]}, "Pod/web-1"),
    ({"ownerReferences": []}, "Pod/web-1"),
]

# what is otherwise with a Pod, so that it does not concern us
NO_PODS: list[Json] = [
    {"metadata": {"annotations": None}},
    {"metadata": {"annotations": {A: None}}},
    {"metadata": {"annotations": {A: ""}}},
    {"status": {"phase": "Succeeded"}},
    {"status": {"phase": "Failed"}},
]

BAD_ANSWERS: list[Any] = [
    None,
    [],
    "",
    {},
    {"zone": "z", "nodeLabels": None, "nodeSelector": {}},
    {"zone": "z", "nodeLabels": [{"key": ZONE, "value": "z", "weight": 100}], "nodeSelector": {}},
    {"zone": "z", "nodeLabels": [{"key": ZONE, "values": None}], "nodeSelector": {}},
    {"zone": "z", "nodeLabels": [], "nodeSelector": None},
    {"nodeLabels": [], "nodeSelector": {}},
]

WHOLE = {
    "kind": "Deployment",
    "metadata": {"generation": 3},
    "spec": {"replicas": 2},
    "status": {
        "observedGeneration": 3,
        "replicas": 2,
        "availableReplicas": 2,
        "updatedReplicas": 2,
    },
}

# what is otherwise with a Deployment, and whether it has all its Pods
OWNERS: list[tuple[Json, bool]] = [
    ({}, True),
    ({"kind": "StatefulSet"}, True),
    ({"status": {"availableReplicas": 1}}, False),
    ({"status": {"availableReplicas": None}}, False),
    ({"status": {"updatedReplicas": 1}}, False),
    ({"status": {"replicas": 3}}, False),
    ({"spec": {"replicas": 3}}, False),
    ({"status": {"observedGeneration": 2}}, False),
    ({"status": None}, False),
    ({"metadata": {"deletionTimestamp": LONG_AGO}}, False),
    ({"kind": "StatefulSet", "status": {"updatedReplicas": 1}}, False),
    ({"kind": "ReplicaSet", "status": {"updatedReplicas": None}}, True),
    ({"kind": "ReplicaSet", "status": {"availableReplicas": 1}}, False),
    (
        {
            "spec": {"replicas": None},
            "status": {"replicas": 1, "availableReplicas": 1, "updatedReplicas": 1},
        },
        True,
    ),
]


class ObstacleTest(unittest.TestCase):
    def test_a_pod(self) -> None:
        for changes, obstacle in OBSTACLES:
            with self.subTest(changes):
                plan = make_plan(world(pod(**changes)), seen(), RULES, NOW)
                (verdict,) = plan.verdicts
                self.assertEqual((verdict.landed, why(verdict)), ("elsewhere", obstacle))
                self.assertEqual(evicted(plan), [] if obstacle else ["web-1"])

    def test_an_answer(self) -> None:
        for said, obstacle in ANSWERS:
            with self.subTest(said):
                history = seen(what=said if isinstance(said, Destination) else None)
                plan = make_plan(world(pod(), said=said), history, RULES, NOW)
                (verdict,) = plan.verdicts
                is_elsewhere = verdict.landed == "elsewhere"
                self.assertEqual(why(verdict) if is_elsewhere else None, obstacle)
                self.assertEqual(evicted(plan), ["web-1"] if obstacle == "" else [])

    def test_a_node(self) -> None:
        for changes, could in NODES:
            with self.subTest(changes):
                nodes = [node("a1"), node("b1", **changes)]
                plan = make_plan(world(pod(), nodes=nodes), seen(), RULES, NOW)
                self.assertEqual(evicted(plan), ["web-1"] if could else [])

    def test_a_toleration(self) -> None:
        nodes = [node("a1"), node("b1", spec={"taints": [NO_SCHEDULE]})]
        for toleration, could in TOLERATIONS:
            with self.subTest(toleration):
                tolerant = pod(spec={"tolerations": [toleration]})
                plan = make_plan(world(tolerant, nodes=nodes), seen(), RULES, NOW)
                self.assertEqual(evicted(plan), ["web-1"] if could else [])

    def test_every_taint_must_be_tolerated(self) -> None:
        taints = [NO_SCHEDULE, NO_SCHEDULE | {"key": "other"}]
        nodes = [node("a1"), node("b1", spec={"taints": taints})]
        tolerant = pod(spec={"tolerations": [TOLERATIONS[0][0]]})
        self.assertEqual(evicted(make_plan(world(tolerant, nodes=nodes), seen(), RULES, NOW)), [])

    def test_a_requirement(self) -> None:
        for size, requirement, is_met in REQUIREMENTS:
            with self.subTest(size=size, requirement=requirement):
                self.assert_admitted([{"matchExpressions": [requirement]}], size, is_met)

    def test_required_affinity(self) -> None:
        for terms, could in TERMS:
            with self.subTest(terms):
                self.assert_admitted(terms, "8", could)

    def assert_admitted(self, terms: list[Json] | None, size: str | None, could: bool) -> None:
        affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        asking = pod(spec={"affinity": {"nodeAffinity": affinity}})
        nodes = [node("a1"), node("b1", metadata={"labels": {"size": size}})]
        plan = make_plan(world(asking, nodes=nodes), seen(), RULES, NOW)
        self.assertEqual(evicted(plan), ["web-1"] if could else [])

    def test_one_of_many_nodes_is_enough(self) -> None:
        cordoned = [node(f"b{n}", spec={"unschedulable": True}) for n in range(1, 9)]
        nodes = [node("a1"), *cordoned, node("b9")]
        self.assertEqual(
            evicted(make_plan(world(pod(), nodes=nodes), seen(), RULES, NOW)), ["web-1"]
        )

    def test_a_required_pod_needs_the_very_zone(self) -> None:
        nodes = [node("a1"), node("b1", spec={"unschedulable": True}), node("c1")]
        both = [
            {"key": ZONE, "values": ["zone-b"], "weight": 100},
            {"key": ZONE, "values": ["zone-c"], "weight": 50},
        ]
        said = answer(nodeLabels=both)
        required = {f"{A}/mode": "required"}
        for mode, expected in (({}, ["web-1"]), (required, [])):
            with self.subTest(mode):
                there = world(pod(metadata={"annotations": mode}), nodes=nodes, said=said)
                plan = make_plan(there, seen(what=said), RULES, NOW)
                self.assertEqual(evicted(plan), expected)

    def test_a_volume(self) -> None:
        claims = [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "cache", "emptyDir": {}},
        ]
        for volumes, could in VOLUMES:
            with self.subTest(volumes):
                there = world(pod(spec={"volumes": claims}), volumes=volumes)
                plan = make_plan(there, seen(), RULES, NOW)
                self.assertEqual(evicted(plan), ["web-1"] if could else [])
                if not could:
                    self.assertIn("volumes", why(plan.verdicts[0]))

    def test_two_volumes_must_be_reached_from_one_node(self) -> None:
        claims = [
            {"name": name, "persistentVolumeClaim": {"claimName": name}} for name in ("one", "two")
        ]
        hosts = [
            volume(name, spec={"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}})
            for name, term in (
                ("one", {"matchFields": [BY_NAME]}),
                ("two", {"matchFields": [BY_NAME | {"values": ["b2"]}]}),
            )
        ]
        nodes = [node("a1"), node("b1"), node("b2")]
        there = world(pod(spec={"volumes": claims}), nodes=nodes, volumes=hosts)
        self.assertEqual(evicted(make_plan(there, seen(), RULES, NOW)), [])


class HistoryTest(unittest.TestCase):
    def test_how_long_an_answer_has_been_the_same(self) -> None:
        for answers, moves in HISTORIES:
            with self.subTest(answers):
                history = History()
                for minute, said in enumerate(answers):
                    if said in SAID:
                        there = world(pod(), said=SAID[said])
                        plan = make_plan(there, history, RULES, NOW + 60 * minute)
                        history = plan.history
                self.assertEqual(evicted(plan), ["web-1"] if moves else [])

    def test_how_long_it_must_still_stay(self) -> None:
        for seconds, wait in ((299, "1 s"), (0, "300 s"), (-300, "10 min"), (-299, "599 s")):
            (verdict,) = make_plan(world(pod()), seen(seconds), RULES, NOW).verdicts
            self.assertEqual(why(verdict), f"its database must stay there for {wait} more")

    def test_a_clock_that_was_set_back_or_forth(self) -> None:
        history = make_plan(world(pod()), History(), RULES, NOW).history
        for now, seconds in ((NOW - 9e9, 0), (NOW + 9e9, 120), (NOW, 120)):
            history = make_plan(world(pod()), history, RULES, now).history
            self.assertEqual(history.seen[NAME].seconds, seconds)

    def test_names_that_nobody_has_any_more_are_forgotten(self) -> None:
        self.assertEqual(make_plan(world(), seen(), RULES, NOW).history, History())

    def test_without_a_wait(self) -> None:
        plan = make_plan(world(pod()), History(), RULES._replace(after=0), NOW)
        self.assertEqual(evicted(plan), ["web-1"])


class WorkloadTest(unittest.TestCase):
    """One Pod of a workload at a time; the next when its successor has landed."""

    def setUp(self) -> None:
        self.pods = {f"web-{n}": pod(f"web-{n}") for n in range(3)}
        self.nodes = [node("a1"), node("b1"), node("c1")]
        self.history = seen()
        self.now = NOW

    def round(self, seconds: float = 60) -> list[str]:
        """The Pods that one round evicts; they are gone then, and their successors not yet there."""
        self.now += seconds
        there = world(*self.pods.values(), nodes=self.nodes)
        self.plan = make_plan(there, self.history, RULES, self.now)
        names = evicted(self.plan)
        self.history = self.plan.history
        for each in self.plan.evictions():
            peers = self.plan.workloads[each.pod.workload]
            self.history = self.history.with_move(each, peers, self.now)
            del self.pods[each.pod.name]
        return names

    def arrive(self, name: str, where: str = "b1", **changes: Any) -> None:
        """A successor comes, created now."""
        base = {"metadata": {"creationTimestamp": self.created()}}
        self.pods[name] = pod(name, where, "zone-b", **merged(base, changes))

    def test_the_next_goes_when_the_successor_has_landed(self) -> None:
        self.assertEqual(self.round(), ["web-0"])
        self.assertEqual(self.round(), [])
        self.arrive("new-0", status=NOT_READY)
        self.assertEqual(self.round(), [])
        self.arrive("new-0")
        self.assertEqual(self.round(), ["web-1"])
        self.arrive("new-1")
        self.assertEqual(self.round(), ["web-2"])
        self.arrive("new-2")
        self.assertEqual(self.round(), [])
        self.assertEqual(self.history.moves, {})

    def test_a_successor_of_the_same_name(self) -> None:
        self.assertEqual(self.round(), ["web-0"])
        self.arrive("web-0", metadata={"uid": "another"})
        self.assertEqual(self.round(), ["web-1"])

    def test_no_other_goes_while_one_is_terminating(self) -> None:
        self.assertEqual(self.round(), ["web-0"])
        self.arrive("new-0")
        self.pods["web-0"] = pod("web-0", metadata={"deletionTimestamp": LONG_AGO})
        self.assertEqual(self.round(), [])
        del self.pods["web-0"]
        self.assertEqual(self.round(), ["web-1"])

    def test_one_that_is_not_ready_keeps_the_others(self) -> None:
        self.pods["web-2"] = pod("web-2", status=NOT_READY)
        self.assertEqual(self.round(), [])

    def test_back_off_is_doubled_each_time(self) -> None:
        pauses = []
        for attempt in range(5):
            names = self.round()
            self.assertEqual(len(names), 1, attempt)
            self.arrive(f"new-{attempt}", "a1")
            self.assertEqual(self.round(), [])
            self.assertEqual(self.history.backed_off(self.now), 1)
            (move,) = self.history.moves.values()
            assert move.until
            pauses.append(move.until - self.now)
            self.assertEqual(self.round(pauses[-1] - 1), [])
            obstacle = "left alone for 1 s: the last one landed elsewhere"
            self.assertEqual({why(each) for each in self.plan.verdicts}, {obstacle})
        self.round(1)
        self.assertEqual(self.history.backed_off(self.now), 0)
        self.assertEqual(pauses, [600, 1200, 2400, 4800, 9600])

    def created(self) -> str:
        return datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def test_back_off_has_an_end(self) -> None:
        for attempt in range(40):
            self.assertEqual(len(self.round(MAX_BACKOFF + 1)), 1, attempt)
            self.arrive(f"new-{attempt}", "a1")
            self.round()
        (move,) = self.history.moves.values()
        self.assertEqual(move.failures, 40)
        self.assertEqual(move.until, self.now + MAX_BACKOFF)

    def test_who_has_landed_makes_good_for_former_failures(self) -> None:
        self.round()
        self.arrive("new-0", "a1")
        self.round()
        self.round(600)
        self.arrive("new-1")
        self.round()
        self.arrive("new-2", "a1")
        self.round()
        (move,) = self.history.moves.values()
        self.assertEqual(move.failures, 1)

    def test_no_successor(self) -> None:
        self.assertEqual(self.round(), ["web-0"])
        self.assertEqual(self.round(599), [])
        self.assertEqual((self.history.moving(), self.history.backed_off(self.now)), (1, 0))
        self.assertEqual(self.round(1), [])
        self.assertEqual((self.history.moving(), self.history.backed_off(self.now)), (0, 1))

    def test_a_successor_that_nobody_knows_where_to_look_for(self) -> None:
        self.round()
        self.arrive("new-0")
        self.now += 60
        there = world(*self.pods.values(), nodes=self.nodes, said="ResolverTimeout")
        self.history = make_plan(there, self.history, RULES, self.now).history
        self.assertEqual(self.history.moving(), 1)

    def test_the_past_of_who_is_in_its_zone_is_forgotten(self) -> None:
        self.round()
        self.arrive("new-0", "a1")
        self.round()
        self.pods = {"other": pod("other", "b1", "zone-b")}
        self.round(300)
        self.assertEqual(len(self.history.moves), 1)
        self.round(300)
        self.assertEqual(self.history.moves, {})

    def test_a_restart_forgets_nothing(self) -> None:
        """Not who is on the move, nor who is left alone, nor how often that was."""
        for where, until in (("b1", None), ("a1", 600), ("a1", 1200)):
            self.assertEqual(len(self.round()), 1)
            self.restart()
            self.assertEqual(self.round(), [])
            self.assertEqual(self.history.moving(), 1)
            self.arrive(f"new-{self.now}", where)
            self.round()
            self.restart()
            moves = list(self.history.moves.values())
            if until:
                self.assertEqual(moves[0].until, self.now + until)
                self.assertEqual(self.round(until - 1), [])
            else:
                self.pods.update({f"web-{n}": pod(f"web-{n}") for n in range(3)})
                self.assertEqual(self.history.moving(), 1)
                self.arrive("another")

    def restart(self) -> None:
        self.history = History.from_text(self.history.to_text([NAME]), self.now).interrupted()

    def test_one_landed_and_one_elsewhere(self) -> None:
        """Two successors, since the workload has grown meanwhile: one elsewhere is too many."""
        self.round()
        self.arrive("new-0")
        self.arrive("new-1", "c1")
        self.assertEqual(self.round(), [])
        self.assertEqual((self.history.moving(), self.history.backed_off(self.now)), (0, 1))

    def test_a_pod_that_was_not_evicted_after_all(self) -> None:
        """The answer to its eviction was lost: it is there for good, or terminating."""
        self.round(0)
        for terminating, moving in ((None, 0), (LONG_AGO, 1)):
            there = pod("web-0", metadata={"deletionTimestamp": terminating})
            for seconds, expected in ((GRACE - 1, 1), (GRACE, moving)):
                with self.subTest(terminating=terminating, seconds=seconds):
                    found = make_plan(
                        world(there, pod("web-1")), self.history, RULES, NOW + seconds
                    )
                    self.assertEqual(found.history.moving(), expected)
                    self.assertEqual(found.history.backed_off(NOW + seconds), 0)

    def test_all_successors_must_have_landed(self) -> None:
        """There may be several, if the workload has grown meanwhile."""
        self.round()
        self.arrive("new-0")
        self.arrive("new-1", status=NOT_READY)
        self.round()
        self.assertEqual(self.history.moving(), 1)
        self.arrive("new-1")
        self.round(0)
        self.assertEqual(self.history.moving(), 1)  # the next one
        self.assertNotIn("web-1", self.pods)

    def test_those_that_were_placed_for_another_zone_go_first_then_the_oldest(self) -> None:
        self.pods = {
            "there": pod("there", "a1", "zone-b"),
            "new": pod("new", metadata={"creationTimestamp": "2026-02-02T00:00:00Z"}),
            "old": pod("old"),
        }
        self.assertEqual(self.round(), ["old"])

    def test_workloads_do_not_wait_for_each_other_here(self) -> None:
        self.pods["db-0"] = pod("db-0", metadata={"ownerReferences": owner("StatefulSet", "db")})
        self.assertEqual(self.round(), ["web-0", "db-0"])
        self.assertEqual(self.history.moving(), 2)

    def test_two_namespaces_have_two_workloads(self) -> None:
        self.pods["other"] = pod("other", metadata={"namespace": "billing"})
        self.assertEqual(self.round(), ["web-0", "other"])

    def test_who_has_not_asked_is_not_counted_for_its_workload(self) -> None:
        self.pods["web-0"] = pod("web-0", metadata={"annotations": {f"{A}/relocate": "false"}})
        self.assertEqual(self.round(), ["web-1"])


class LeftTest(unittest.TestCase):
    """What a leader leaves to the next one."""

    MOVES: Mapping[Workload, Move] = {
        WEB: Move(NOW - 9, "uid-web-0", NOW - 99, 2),
        Workload("shop", "StatefulSet", "db"): Move(NOW - 99, "u", NOW - 999, 3, NOW + 60),
    }

    def test_it_comes_back(self) -> None:
        history = History({NAME: Seen("f", NOW - 500, 400.0)}, self.MOVES)
        self.assertEqual(History.from_text(history.to_text([NAME]), NOW), history)

    def test_only_the_names_that_matter_are_left(self) -> None:
        left = History.from_text(seen().to_text(["another"]), NOW)
        self.assertEqual(left, History())

    def test_nothing_was_left(self) -> None:
        self.assertEqual(History.from_text("", NOW), History())

    def test_nonsense(self) -> None:
        for text in NONSENSE:
            with self.subTest(text), self.assertRaises(ValueError):
                History.from_text(text, NOW)

    def test_a_clock_that_was_set_back(self) -> None:
        """No move is in the future, and nobody is left alone for more than a day."""
        left = History({NAME: Seen("f", NOW, 0.0)}, self.MOVES).to_text([NAME])
        found = History.from_text(left, NOW - 1e6)
        (web, db), (name,) = found.moves.values(), found.seen.values()
        self.assertEqual((web.at, db.until), (NOW - 1e6, NOW - 1e6 + MAX_BACKOFF))
        self.assertEqual(name.since, NOW - 1e6)

    def test_it_fits_into_an_annotation(self) -> None:
        """All moves do, with the longest names that there are; answers as far as they fit."""
        names = [f"{n:0>5}{'x' * 2030}" for n in range(100)]
        workloads = [Workload("n" * 63, "StatefulSet", f"{n:0>253}") for n in range(MAX_MOVES)]
        move = Move(NOW + 0.123456, "u" * 36, NOW, 99, NOW + 0.123456)
        history = History(
            dict.fromkeys(names, Seen("f" * 16, NOW + 0.123456, 1234.123456)),
            dict.fromkeys(workloads, move),
        )
        text = history.to_text(names)
        self.assertLess(len(text), 200_000)  # of the 262,144 that all annotations may have
        self.assertLessEqual(len(text), MAX_HISTORY)
        left = History.from_text(text, NOW + 1)
        self.assertEqual(left.moves, history.moves)
        self.assertLess(0, len(left.seen))
        self.assertLess(len(left.seen), 100)

    def test_a_fingerprint_does_not_depend_on_the_process(self) -> None:
        both = [{"key": ZONE, "values": ["zone-c", "zone-b", "zone-a"], "weight": 1}]
        self.assertEqual(answer(nodeLabels=both).fingerprint, "05821c8b9f80cd93")
        self.assertNotEqual(answer("zone-b").fingerprint, answer("zone-c").fingerprint)
        preferred = answer(nodeSelector={ZONE: None})
        self.assertNotEqual(answer().fingerprint, preferred.fingerprint)

    def test_time_in_which_nobody_looked_does_not_count(self) -> None:
        history = make_plan(world(pod()), History(), RULES, NOW).history.interrupted()
        history = make_plan(world(pod()), history, RULES, NOW + 60).history
        self.assertEqual(history.seen[NAME].seconds, 0)
        history = make_plan(world(pod()), history, RULES, NOW + 120).history
        self.assertEqual(history.seen[NAME].seconds, 60)

    def test_backed_off_at_the_edge(self) -> None:
        history = History({}, self.MOVES)
        counts = [history.backed_off(NOW + seconds) for seconds in (59.9, 60, 60.1)]
        self.assertEqual(counts, [1, 0, 0])


class WaitTest(unittest.TestCase):
    def test_since_when_a_pod_is_elsewhere(self) -> None:
        """Since it was created, or since its database moved."""
        created = datetime.fromisoformat(LONG_AGO).timestamp()
        for moved, since in ((NOW - 400, NOW - 400), (created - 5, created)):
            history = History({NAME: Seen(B.fingerprint, moved, 300)})
            (verdict,) = make_plan(world(pod()), history, RULES, NOW).verdicts
            self.assertEqual(verdict.since, since)

    def test_who_waits_and_who_does_not(self) -> None:
        """Whoever has not asked, or never will be moved, waits for nothing."""
        for changes, obstacle in OBSTACLES:
            (verdict,) = make_plan(world(pod(**changes)), seen(), RULES, NOW).verdicts
            with self.subTest(obstacle):
                wait = verdict.obstacle.wait if verdict.obstacle else None
                self.assertEqual(wait, WAITS.get(obstacle))


class ReportTest(unittest.TestCase):
    def test_where_a_pod_is_and_where_its_database_is(self) -> None:
        blank = {"metadata": {"labels": {ZONE: ""}}}
        missing = {"metadata": {"labels": {ZONE: None}}}
        nodes = [node("a1"), node("b1"), node("nowhere", **missing), node("blank", **blank)]
        for where, said, expected in (
            ("a1", B, ("elsewhere", "zone-a", "zone-b", "")),
            ("b1", B, ("in_zone", "zone-b", "zone-b", "")),
            ("a1", "NameNotFound", ("unknown", "zone-a", "", "NameNotFound")),
            ("", B, ("unknown", "", "zone-b", "no node")),
            ("gone", B, ("unknown", "", "zone-b", "no node")),
            ("a1", answer(nodeLabels=[]), ("unknown", "zone-a", "zone-b", "no zone")),
            ("nowhere", B, ("unknown", "", "zone-b", "its node has no zone")),
            ("blank", B, ("unknown", "", "zone-b", "its node has no zone")),
            # The service goes by the zone's id, the node has only its name.
            ("a1", BY_ID, ("unknown", "zone-a", "id-b", "its node has no zone")),
        ):
            with self.subTest(where=where, said=said):
                there = world(pod(node=where), nodes=nodes, said=said)
                plan = make_plan(there, seen(what=said if said == BY_ID else None), RULES, NOW)
                self.assertEqual(evicted(plan), ["web-1"] if expected[0] == "elsewhere" else [])
                (verdict,) = plan.verdicts
                zone = verdict.destination.zone
                self.assertEqual((verdict.landed, verdict.here, zone, why(verdict)), expected)

    def test_the_label_that_stands_for_the_zone(self) -> None:
        rules = RULES._replace(node_label=ZONE_ID)
        nodes = [node("a1", metadata={"labels": {ZONE_ID: "id-a"}}), node("b1")]
        said = answer(
            nodeLabels=[{"key": ZONE_ID, "values": ["id-b"], "weight": 100}],
            nodeSelector={ZONE: None, ZONE_ID: "id-b"},
        )
        (verdict,) = make_plan(world(pod(), nodes=nodes, said=said), History(), rules, NOW).verdicts
        self.assertEqual((verdict.here, verdict.destination.zone), ("id-a", "id-b"))

    def test_several_zones_are_all_named(self) -> None:
        spread = [{"key": ZONE, "values": ["zone-c", "zone-b"], "weight": 100}]
        said = answer(zone=None, nodeLabels=spread, nodeSelector={ZONE: None})
        self.assertEqual(said.zone, "zone-b,zone-c")


class ParseTest(unittest.TestCase):
    def test_workloads(self) -> None:
        for metadata, expected in WORKLOADS:
            with self.subTest(metadata):
                parsed = Pod.from_json(pod(metadata=metadata))
                assert parsed
                self.assertEqual(str(parsed.workload), expected)

    def test_pods_that_do_not_concern_us(self) -> None:
        for changes in NO_PODS:
            with self.subTest(changes):
                self.assertIsNone(Pod.from_json(pod(**changes)))

    def test_a_pod_as_if_it_had_the_annotation(self) -> None:
        for before in (None, {A: "other.example"}):
            parsed = Pod.from_json(pod(metadata={"annotations": before}), NAME)
            assert parsed
            self.assertEqual(parsed.asks, NAME)

    def test_the_least_that_a_pod_has(self) -> None:
        least = {"namespace": "n", "name": "x", "uid": "u", "creationTimestamp": LONG_AGO}
        parsed = Pod.from_json({"metadata": least, "spec": {}}, NAME)
        assert parsed
        self.assertEqual((parsed.node, parsed.is_ready, parsed.placed), ("", False, {}))

    def test_the_least_that_a_node_has(self) -> None:
        parsed = Node.from_json({"metadata": {"name": "x"}})
        self.assertEqual((parsed.labels, parsed.is_open, parsed.taints), ({}, False, ()))

    def test_bad_answers(self) -> None:
        for body in BAD_ANSWERS:
            with self.subTest(body), self.assertRaises(ValueError):
                Destination.from_json(body)

    def test_no_answer_welcomes_nobody(self) -> None:
        self.assertFalse(NOWHERE.has({ZONE: "zone-a"}))

    def test_a_claim_is_its_namespace_s(self) -> None:
        bound = Volume.from_json(volume())
        assert bound
        self.assertEqual(bound.claim, Claim("shop", "data-web-1"))

    def test_owners(self) -> None:
        for changes, expected in OWNERS:
            with self.subTest(changes):
                self.assertEqual(is_rolled_out(merged(deepcopy(WHOLE), changes)), expected)


class RandomTest(unittest.TestCase):
    """Whatever there is, nobody is evicted who must not be."""

    def test_invariants(self) -> None:
        dice = random.Random(7)
        count = 0
        for _ in range(300):
            pods = [self.some_pod(dice, n) for n in range(dice.randrange(1, 8))]
            nodes = [node(name) for name in ("a1", "b1", "c1") if dice.random() < 0.9]
            said = SAID[dice.choice("bcsmp-")]
            history = seen(dice.choice([0, 400]), said if isinstance(said, Destination) else None)
            plan = make_plan(world(*pods, nodes=nodes, said=said), history, RULES, NOW)
            workloads = [each.pod.workload for each in plan.evictions()]
            count += len(workloads)
            self.assertEqual(len(workloads), len(set(workloads)))
            self.assertEqual(len(plan.verdicts), len(pods))
            for each in plan.evictions():
                self.assertTrue(each.pod.relocates and each.pod.is_ready and each.pod.placed)
                self.assertFalse(each.pod.is_terminating)
                self.assertIn(said, (B, C))
                self.assertNotEqual(each.here, each.destination.zone)
                self.assertIn(
                    f"{each.destination.zone[-1]}1", {item["metadata"]["name"] for item in nodes}
                )
        self.assertGreater(count, 20)  # of the dice, not of the clock

    def some_pod(self, dice: random.Random, number: int) -> Json:
        relocate = dice.choice(["true", "true", "true", "false"])
        metadata: Json = {
            "annotations": {f"{A}/relocate": relocate},
            "ownerReferences": dice.choice(
                [owner("ReplicaSet", f"{dice.choice('xy')}-5d4f"), owner("StatefulSet", "z"), None]
            ),
        }
        if dice.random() < 0.1:
            metadata["deletionTimestamp"] = LONG_AGO
        changes: Json = {"metadata": metadata}
        if dice.random() < 0.1:
            changes["status"] = NOT_READY
        return pod(f"pod-{number}", dice.choice(["a1", "a1", "b1", "c1", ""]), **changes)


if __name__ == "__main__":
    unittest.main()
