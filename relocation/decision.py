"""Who runs in another zone than its database, and who of them may be moved: a decision, no I/O.

A round gives `decide` what there is (Pods, nodes, volumes, and the lookup service's
answers) and what is remembered of the rounds before. All times are seconds of the
Unix clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from common.names import ZONE_ID_LABEL, ZONE_LABEL

__all__ = [
    "ANNOTATION",
    "ZONE",
    "Answer",
    "Decision",
    "Memory",
    "Move",
    "Node",
    "Pod",
    "Rules",
    "Verdict",
    "Volume",
    "Workload",
    "World",
    "decide",
    "is_whole",
]

# On a Pod: annotations that its owner sets ...
ANNOTATION = "automatic-zone-placement"
MODE = f"{ANNOTATION}/mode"
RELOCATE = f"{ANNOTATION}/relocate"
# ... and labels with the zone for which it was placed.
ZONE = f"{ANNOTATION}/zone"
ZONE_ID = f"{ANNOTATION}/zone-id"

# A node's label, and the Pod's label that has the same value if it was placed there.
PLACED = {ZONE_LABEL: ZONE, ZONE_ID_LABEL: ZONE_ID}

# Whose Pods are created anew wherever there is room. A DaemonSet's belong to their node, a Job's
# would begin their work again.
MOVABLE = frozenset({"Deployment", "ReplicaSet", "StatefulSet"})

# However often it has failed, a workload gets another chance after a day.
MAX_BACKOFF = 86_400.0

Json = Mapping[str, Any]
Labels = Mapping[str, str]
Landed = Literal["in_zone", "elsewhere", "unknown"]


class Workload(NamedTuple):
    """What creates a Pod anew; of a bare Pod, itself."""

    namespace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Constraints(NamedTuple):
    """What a Pod asks of its node."""

    node_selector: Labels
    required: Sequence[Json] | None  # nodeSelectorTerms, of which one must hold
    tolerations: Sequence[Json]
    claims: tuple[str, ...]  # PersistentVolumeClaims, which its successor will have again


UNCONSTRAINED = Constraints({}, None, (), ())


class Pod(NamedTuple):
    """A Pod that has not ended, as far as it concerns us."""

    namespace: str
    name: str
    uid: str
    workload: Workload
    asks: str  # its annotation: one name, or several with commas in between
    placed: Labels  # what a node in the zone that it was placed for is labelled with
    relocates: bool
    is_required: bool
    is_ready: bool
    is_terminating: bool
    node: str
    created: float
    constraints: Constraints

    @classmethod
    def from_json(cls, pod: Json, asks: str = "") -> Pod | None:
        """The Pod, as if it had the annotation `asks`; None without any annotation."""
        metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
        annotations = metadata.get("annotations") or {}
        labels = metadata.get("labels") or {}
        asks = asks or annotations.get(ANNOTATION, "")
        relocates = annotations.get(RELOCATE) == "true"
        if not asks or status.get("phase") in ("Succeeded", "Failed"):
            return None
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            workload=_workload(metadata, labels),
            asks=asks,
            placed={key: labels[ours] for key, ours in PLACED.items() if ours in labels},
            relocates=relocates,
            is_required=annotations.get(MODE) == "required",
            is_ready=_has_condition(status, "Ready"),
            is_terminating="deletionTimestamp" in metadata,
            node=spec.get("nodeName") or "",
            created=datetime.fromisoformat(metadata["creationTimestamp"]).timestamp(),
            constraints=_constraints(spec) if relocates else UNCONSTRAINED,
        )


def _workload(metadata: Json, labels: Labels) -> Workload:
    """The Pod's controller, or the Deployment whose ReplicaSet that is."""
    controllers = [each for each in metadata.get("ownerReferences") or () if each.get("controller")]
    if not controllers:
        return Workload(metadata["namespace"], "Pod", metadata["name"])
    kind, name = controllers[0]["kind"], controllers[0]["name"]
    group, _, version = controllers[0]["apiVersion"].rpartition("/")
    suffix = f"-{labels.get('pod-template-hash')}"
    if group != "apps":  # others have a StatefulSet too
        kind = f"{kind}.{group or version}"
    elif kind == "ReplicaSet" and name.endswith(suffix):
        kind, name = "Deployment", name.removesuffix(suffix)
    return Workload(metadata["namespace"], kind, name)


def _has_condition(status: Json, kind: str) -> bool:
    conditions = status.get("conditions") or ()
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def _constraints(spec: Json) -> Constraints:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    volumes = spec.get("volumes") or ()
    claims = [
        each["persistentVolumeClaim"] for each in volumes if each.get("persistentVolumeClaim")
    ]
    return Constraints(
        node_selector=spec.get("nodeSelector") or {},
        required=None if required is None else required.get("nodeSelectorTerms") or (),
        tolerations=spec.get("tolerations") or (),
        claims=tuple(claim["claimName"] for claim in claims),
    )


class Node(NamedTuple):
    """A node; `is_open` if it is Ready and takes new Pods."""

    name: str
    labels: Labels
    is_open: bool
    taints: Sequence[Json]

    @classmethod
    def from_json(cls, node: Json) -> Node:
        metadata, spec = node["metadata"], node.get("spec") or {}
        is_ready = _has_condition(node.get("status") or {}, "Ready")
        return cls(
            name=metadata["name"],
            labels=metadata.get("labels") or {},
            is_open=is_ready
            and not spec.get("unschedulable")
            and "deletionTimestamp" not in metadata,
            taints=spec.get("taints") or (),
        )


class Claim(NamedTuple):
    """A PersistentVolumeClaim."""

    namespace: str
    name: str


class Volume(NamedTuple):
    """A PersistentVolume, and the claim to which it is bound."""

    claim: Claim
    required: Sequence[Json] | None  # nodeSelectorTerms, of which one must hold

    @classmethod
    def from_json(cls, volume: Json) -> Volume | None:
        """The volume; None if it is not bound."""
        spec = volume["spec"]
        claim = spec.get("claimRef")
        if not claim:
            return None
        required = (spec.get("nodeAffinity") or {}).get("required")
        terms = None if required is None else required.get("nodeSelectorTerms") or ()
        # The form of volumes from before 1.10: zones in a label, with two underscores in between.
        zones = (volume["metadata"].get("labels") or {}).get(ZONE_LABEL)
        if terms is None and zones:
            within = {"key": ZONE_LABEL, "operator": "In", "values": zones.split("__")}
            terms = ({"matchExpressions": [within]},)
        return cls(Claim(claim["namespace"], claim["name"]), terms)


class Answer(NamedTuple):
    """What the lookup service says of the names of a Pod."""

    zone: str  # or several, with commas in between
    terms: tuple[tuple[str, frozenset[str]], ...]  # node labels: a key, and the values that do
    selector: tuple[tuple[str, str], ...]  # the node label that may be insisted on; maybe none
    is_fresh: bool  # from DNS as it is now, for all of the names

    @classmethod
    def from_json(cls, body: Any) -> Answer:
        """The answer to a lookup. Raises `ValueError`."""
        try:
            terms = tuple((each["key"], frozenset(each["values"])) for each in body["nodeLabels"])
            selector = tuple(sorted(body["nodeSelector"].items()))
            values = sorted({value for _, values in terms for value in values})
            zone = ",".join(value for _, value in selector) or body["zone"] or ",".join(values)
            return cls(str(zone), terms, selector, not body.get("stale") and not body.get("errors"))
        except (AttributeError, KeyError, TypeError):
            raise ValueError("not an answer to a lookup") from None

    def welcomes(self, labels: Labels) -> bool:
        """Whether a node with these labels is where the names are.

        One label is enough: a Pod in the right zone but in another rack stays.
        """
        return any(labels.get(key) in values for key, values in self.terms)


NO_ANSWER = Answer("", (), (), is_fresh=False)


class Rules(NamedTuple):
    """How careful to be; times are in seconds."""

    node_label: str  # with a node's zone
    after: float  # for which an answer must have been the same
    backoff: float  # for which a workload is left alone if a Pod has not landed where it should
    longest_gap: float  # between two rounds, for an answer to have been the same in between


class Seen(NamedTuple):
    """A fresh answer, how many seconds it has been the same, and when it was last given."""

    answer: Answer
    seconds: float
    at: float


class Move(NamedTuple):
    """What becomes of a workload of which a Pod was evicted.

    It is on the move until a successor has landed; if that fails, it is left alone
    `until` then.
    """

    at: float
    before: frozenset[str]  # the Pods' uids: all others are successors
    failures: int
    until: float | None = None


class Memory(NamedTuple):
    """What one round remembers for the next."""

    seen: Mapping[str, Seen] = {}
    moves: Mapping[Workload, Move] = {}

    def moving(self) -> int:
        """How many workloads are on the move."""
        return sum(move.until is None for move in self.moves.values())

    def backed_off(self, now: float) -> int:
        """How many workloads are left alone for now, because a Pod landed elsewhere."""
        return sum(move.until is not None and now < move.until for move in self.moves.values())


class World(NamedTuple):
    """What there is."""

    pods: Sequence[Pod]
    nodes: Mapping[str, Node]
    answers: Mapping[str, Answer | str]  # by annotation; one word if there is none
    volumes: Mapping[Claim, Volume] = {}


class Verdict(NamedTuple):
    """Where a Pod is, where its database is, and what keeps it from being moved there."""

    pod: Pod
    landed: Landed
    here: str
    answer: Answer
    obstacle: str = ""

    def is_placed_for_it(self) -> bool:
        """Whether the scheduler knew of this zone when it chose the node."""
        return all(self.pod.placed.get(key) == value for key, value in self.answer.selector)


class Decision(NamedTuple):
    """What to report, whom to evict, and what to remember."""

    verdicts: Sequence[Verdict]
    memory: Memory

    def evictions(self) -> list[Verdict]:
        """Those of whom to evict as many as may be: one of a workload at most."""
        return [each for each in self.verdicts if each.landed == "elsewhere" and not each.obstacle]

    def after_eviction(self, workload: Workload, now: float) -> Decision:
        """The same with the eviction of one of the workload's Pods remembered."""
        before = frozenset(each.pod.uid for each in self.verdicts if each.pod.workload == workload)
        last = self.memory.moves.get(workload)
        move = Move(now, before, last.failures if last else 0)
        moves = {**self.memory.moves, workload: move}
        return self._replace(memory=self.memory._replace(moves=moves))


def decide(world: World, memory: Memory, rules: Rules, now: float) -> Decision:
    """What to do about the Pods that are not where their database is."""
    seen = _seen(memory.seen, world.answers, rules, now)
    workloads: dict[Workload, list[Verdict]] = defaultdict(list)
    for verdict in landings(world, rules):
        workloads[verdict.pod.workload].append(verdict)
    moves = _moves(memory.moves, workloads, rules, now)
    verdicts: list[Verdict] = []
    for workload, peers in workloads.items():
        trouble = _trouble(peers, moves.get(workload), rules, now)
        verdicts += _judged(peers, trouble, world, seen, rules)
    return Decision(verdicts, Memory(seen, moves))


def _judged(
    peers: Sequence[Verdict], trouble: str, world: World, seen: Mapping[str, Seen], rules: Rules
) -> Iterator[Verdict]:
    """The verdicts on the Pods of a workload, with what keeps each where it is."""
    for verdict in sorted(peers, key=_turn):
        if verdict.landed == "elsewhere":
            last = seen.get(verdict.pod.asks)
            wait = rules.after - (last.seconds if last else 0)
            obstacle = _obstacle(verdict, wait) or trouble or _no_room(verdict, world)
            verdict = verdict._replace(obstacle=obstacle)
            trouble = trouble if obstacle else "another Pod of its workload goes first"
        yield verdict


def landings(world: World, rules: Rules) -> Iterator[Verdict]:
    """Where each Pod is and where it should be, whatever may follow from that."""
    for pod in world.pods:
        node = world.nodes.get(pod.node)
        answer = world.answers[pod.asks]
        here = node.labels.get(rules.node_label, "") if node else ""
        if isinstance(answer, str):
            yield Verdict(pod, "unknown", here, NO_ANSWER, answer)
        elif not node or not answer.terms:
            yield Verdict(pod, "unknown", here, answer, "no node" if answer.terms else "no zone")
        else:
            landed: Landed = "in_zone" if answer.welcomes(node.labels) else "elsewhere"
            yield Verdict(pod, landed, here, answer)


def _seen(
    seen: Mapping[str, Seen], answers: Mapping[str, Answer | str], rules: Rules, now: float
) -> dict[str, Seen]:
    """How long each name's answer has been the same, now that there are these answers.

    An answer that is missing or stale changes nothing, but the time in which there
    was none does not count either.
    """
    known = {}
    for asks, answer in answers.items():
        last = seen.get(asks)
        if isinstance(answer, str) or not answer.is_fresh:
            if last:
                known[asks] = last
        elif last and answer == last.answer:
            gap = min(max(0.0, now - last.at), rules.longest_gap)
            known[asks] = Seen(answer, last.seconds + gap, now)
        else:
            known[asks] = Seen(answer, 0.0, now)
    return known


def _moves(
    moves: Mapping[Workload, Move],
    workloads: Mapping[Workload, Sequence[Verdict]],
    rules: Rules,
    now: float,
) -> dict[Workload, Move]:
    settled = {
        workload: _settled(move, workloads.get(workload, ()), rules, now)
        for workload, move in moves.items()
    }
    return {workload: move for workload, move in settled.items() if move}


def _settled(move: Move, peers: Sequence[Verdict], rules: Rules, now: float) -> Move | None:
    """What has become of a move; None if there is nothing left to remember."""
    if move.until is not None:
        is_wanted = now < move.until or any(each.landed == "elsewhere" for each in peers)
        return move if is_wanted else None
    successors = [each for each in peers if each.pod.uid not in move.before]
    ready = [each for each in successors if each.pod.is_ready]
    if ready and len(ready) == len(successors) and all(each.landed == "in_zone" for each in ready):
        return None
    if any(each.landed == "elsewhere" for each in ready) or now - move.at >= rules.backoff:
        pause = min(rules.backoff * 2 ** min(move.failures, 30), MAX_BACKOFF)
        return move._replace(failures=move.failures + 1, until=now + pause)
    return move


def _turn(verdict: Verdict) -> tuple[bool, float]:
    """Sorts the Pods of a workload: first those placed for another zone, the oldest first."""
    return verdict.is_placed_for_it(), verdict.pod.created


def _trouble(peers: Sequence[Verdict], move: Move | None, rules: Rules, now: float) -> str:
    """What keeps all Pods of a workload where they are; empty if nothing does."""
    if move and move.until is None:
        return "another Pod of its workload is on the move"
    if move and move.until is not None and now < move.until:
        return f"left alone for {_duration(move.until - now)}: the last one landed elsewhere"
    if any(not each.pod.is_ready or each.pod.is_terminating for each in peers):
        return "another Pod of its workload is not Ready"
    for each in peers:  # the same pause, though a restart of ours may have forgotten the move
        is_new = now - each.pod.created < rules.backoff
        if is_new and each.landed == "elsewhere" and each.is_placed_for_it():
            return f"{each.pod.name} was placed for this zone and landed elsewhere a moment ago"
    return ""


def _obstacle(verdict: Verdict, wait: float) -> str:
    """What keeps this Pod where it is, whatever its workload does; empty if nothing does.

    `wait` is how many seconds its answer must still be the same.
    """
    pod, answer = verdict.pod, verdict.answer
    obstacles = {
        "it was not placed when it was created": not pod.placed,
        "it has not asked for it": not pod.relocates,
        f"a {pod.workload.kind} is not moved": pod.workload.kind not in MOVABLE,
        "it is terminating": pod.is_terminating,
        "it is not Ready": not pod.is_ready,
        "the answer is stale or not complete": not answer.is_fresh,
        "its database is not in one zone": not answer.selector,
        f"its database must stay there for {_duration(wait)} more": wait > 0,
    }
    return next((obstacle for obstacle, holds in obstacles.items() if holds), "")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _no_room(verdict: Verdict, world: World) -> str:
    """Why no node there could take the Pod; empty if one could.

    Whether there is memory and processor left on it is for the scheduler to say.
    """
    pod, answer, needs = verdict.pod, verdict.answer, verdict.pod.constraints
    # The zone in a placed Pod is not in its template: its successor will have the new one.
    selector = {k: v for k, v in needs.node_selector.items() if pod.placed.get(k) != v}
    if pod.is_required:
        selector |= dict(answer.selector)
    there = [
        node
        for node in world.nodes.values()
        if node.is_open
        and answer.welcomes(node.labels)
        and selector.items() <= node.labels.items()
        and _admits(needs.required, node)
        and all(_is_tolerated(taint, needs.tolerations) for taint in node.taints)
    ]
    if not there:
        return "no node there could take it"
    volumes = [world.volumes.get(Claim(pod.namespace, name)) for name in needs.claims]
    for node in there:
        if all(volume and _admits(volume.required, node) for volume in volumes):
            return ""
    return "its volumes cannot be reached from there"


# https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and
# https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/


def _admits(terms: Sequence[Json] | None, node: Node) -> bool:
    """Whether one of the nodeSelectorTerms holds, if there are any. An empty one never does."""
    return terms is None or any(_holds(term, node) for term in terms)


def _holds(term: Json, node: Node) -> bool:
    expressions = term.get("matchExpressions") or ()
    fields = term.get("matchFields") or ()
    return bool(expressions or fields) and (
        all(_is_met(each, node.labels) for each in expressions)
        and all(_is_met(each, {"metadata.name": node.name}) for each in fields)
    )


def _is_met(requirement: Json, labels: Labels) -> bool:
    value = labels.get(requirement["key"])
    values = requirement.get("values") or ()
    match requirement["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            return _compares(value, operator, values)
    return False


def _compares(value: str | None, operator: str, values: Sequence[str]) -> bool:
    try:
        number, bound = int(value or ""), int(*values)
    except (TypeError, ValueError):
        return False
    return number > bound if operator == "Gt" else number < bound


def _is_tolerated(taint: Json, tolerations: Iterable[Json]) -> bool:
    """Whether a Pod with these tolerations may be scheduled on a node with this taint."""
    if taint["effect"] not in ("NoSchedule", "NoExecute"):
        return True
    return any(_tolerates(each, taint) for each in tolerations)


def _tolerates(toleration: Json, taint: Json) -> bool:
    operator = toleration.get("operator") or "Equal"
    is_equal = operator == "Equal" and toleration.get("value", "") == taint.get("value", "")
    return (
        (not toleration.get("effect") or toleration["effect"] == taint["effect"])
        and (not toleration.get("key") or toleration["key"] == taint["key"])
        and (operator == "Exists" or is_equal)
    )


def is_whole(owner: Json) -> bool:
    """Whether a Deployment, ReplicaSet or StatefulSet has all its Pods, available and up to date."""
    metadata, status = owner["metadata"], owner.get("status") or {}
    counts = ["replicas", "availableReplicas"]
    if owner["kind"] != "ReplicaSet":  # which has no revisions
        counts.append("updatedReplicas")
    return (
        "deletionTimestamp" not in metadata
        and status.get("observedGeneration") == metadata["generation"]
        and all(status.get(count, 0) == owner["spec"].get("replicas", 1) for count in counts)
    )
