"""What there is: Pods, nodes and volumes of the cluster, and where the lookup service says names are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from common.names import (
    ANNOTATION,
    DECIDED_ZONE_ID_LABEL,
    DECIDED_ZONE_LABEL,
    MODE_ANNOTATION,
    RELOCATE_ANNOTATION,
    ZONE_ID_LABEL,
    ZONE_LABEL,
)

# A node's label, and the Pod's label that has the same value if it was placed there.
DECIDED = {ZONE_LABEL: DECIDED_ZONE_LABEL, ZONE_ID_LABEL: DECIDED_ZONE_ID_LABEL}

Json = Mapping[str, Any]
Labels = Mapping[str, str]


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
        relocates = annotations.get(RELOCATE_ANNOTATION) == "true"
        if not asks or status.get("phase") in ("Succeeded", "Failed"):
            return None
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            workload=_workload(metadata, labels),
            asks=asks,
            placed={key: labels[ours] for key, ours in DECIDED.items() if ours in labels},
            relocates=relocates,
            is_required=annotations.get(MODE_ANNOTATION) == "required",
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


# In an answer, what says that it is not the whole truth of this moment.
DOUBTS = ("stale", "errors", "ambiguous", "incomplete")


class Destination(NamedTuple):
    """Where a Pod should be, as the lookup service answers for its names."""

    zone: str  # or several, with commas in between
    terms: tuple[tuple[str, frozenset[str]], ...]  # node labels: a key, and the values that do
    selector: tuple[tuple[str, str], ...]  # the node label that may be insisted on; maybe none
    is_certain: bool  # from DNS as it is now, for all of the names, in zones that are known

    @classmethod
    def from_json(cls, body: Any) -> Destination:
        """The answer to a lookup. Raises `ValueError`."""
        try:
            terms = tuple((each["key"], frozenset(each["values"])) for each in body["nodeLabels"])
            selector = tuple(sorted(body["nodeSelector"].items()))
            values = sorted({value for _, values in terms for value in values})
            zone = ",".join(value for _, value in selector) or body["zone"] or ",".join(values)
            return cls(str(zone), terms, selector, not any(body.get(each) for each in DOUBTS))
        except (AttributeError, KeyError, TypeError):
            raise ValueError("not an answer to a lookup") from None

    @property
    def fingerprint(self) -> str:
        """Another one for another place, and the same after a restart."""
        place = [[key, sorted(values)] for key, values in self.terms], self.selector
        return sha256(json.dumps(place).encode()).hexdigest()[:16]

    def is_known_of(self, labels: Labels) -> bool:
        """Whether a node with these labels says in which zone it is, as the answer understands it."""
        return all(key in labels for key, _ in self.selector)

    def has(self, labels: Labels) -> bool:
        """Whether a node with these labels is where the names are.

        One label is enough: a Pod in the right zone but in another rack stays.
        """
        return any(labels.get(key) in values for key, values in self.terms)


NOWHERE = Destination("", (), (), is_certain=False)


class World(NamedTuple):
    """What there is."""

    pods: Sequence[Pod]
    nodes: Mapping[str, Node]
    answers: Mapping[str, Destination | str]  # by annotation; one word if there is none
    volumes: Mapping[Claim, Volume] = {}


def is_rolled_out(owner: Json) -> bool:
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
