"""What an API server asks before it creates a Pod, and the answer: all that is decided, no I/O.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/

Whatever comes of it, the Pod is allowed. An answer whose patch does not fit would refuse it,
so the patch is made for the very Pod, and for one that is not what it should be there is none.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple
from urllib.parse import unquote

from common.errors import InvalidRequest, ServiceError, shown
from common.names import (
    ANNOTATION,
    DECIDED_ZONE_ID_LABEL,
    DECIDED_ZONE_LABEL,
    MODE_ANNOTATION,
    NAMES_PATTERN,
    ZONE_ID_LABEL,
    ZONE_LABEL,
)
from lookup.lookups import MAX_LENGTH
from lookup.placement import Answer, Label, NodeLabel, to_json

# An API server takes Pods of 3 MiB, and etcd none of more than 1.5. A review has little more
# than the Pod. As text it may take four times as much, for a moment: so one is looked at after
# another.
MAX_REVIEW = 4 * 1024 * 1024

# Commas and brackets in a review: as many values may take 200 bytes each.
MAX_VALUES = 150_000

# What an API server does not cut of a warning.
MAX_WARNING = 120

# What an audit annotation has of the names.
MAX_AUDITED = 512

# What is left of the API server's time for the way to us and back, in seconds; but not more
# than half of it.
MARGIN = 0.5

ASKED = ("admission.k8s.io/v1", "AdmissionReview")

_NAMES = re.compile(NAMES_PATTERN)

# By any of these a Pod chooses its zone itself: a node is in one. The last is a field's.
ZONE_CHOICES = {
    ZONE_LABEL,
    ZONE_ID_LABEL,
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/hostname",
    "metadata.name",
}

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

# What a patch builds upon, if the Pod has it.
_BASES: dict[str, Any] = {
    "metadata": {"labels": {}},
    "spec": {"affinity": {"nodeAffinity": {PREFERRED: []}}, "nodeSelector": {}},
}

# https://pkg.go.dev/time#ParseDuration
_DURATION = r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class Review(NamedTuple):
    """What an API server asks, as far as the answer depends on it."""

    uid: str
    pod: str  # its namespace and name
    names: str  # those that are to be looked up, with commas between them
    is_required: bool
    why_not: str  # a word for why the Pod is left alone; empty if it is not
    bases: frozenset[str]  # what is there for a patch to build upon, as JSON pointers


class AdmissionResponse(NamedTuple):
    """What comes of a review: the body of the answer, and what the metrics and the log say of it."""

    body: bytes
    outcome: str  # Placed, NotPlaced, LeftAlone or Defect
    reason: str = ""  # a word for why it is not placed
    zone: str = ""  # several have commas between them


class _Malformed(Exception):
    """The Pod has something that no Pod has."""


def review_in(body: bytes | bytearray) -> Review:
    """The review that the body of a request asks for. Raises `InvalidRequest`."""
    request = _request(body)
    uid = request.get("uid")
    if not isinstance(uid, str) or not 0 < len(uid) <= 256:
        raise InvalidRequest(f"the request's uid is {shown(uid)}")
    try:
        return _review(uid, request)
    except _Malformed:
        return Review(uid, "", "", False, "Malformed", frozenset())


def _request(body: bytes | bytearray) -> dict[str, Any]:
    # Most reviews have not even so many bytes.
    if len(body) > MAX_VALUES < sum(map(body.count, (b",", b"[", b"{"))):
        raise InvalidRequest(f"there may be more than {MAX_VALUES} values in the review")
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the review is not JSON: {shown(str(error))}") from None
    if isinstance(review, dict) and (review.get("apiVersion"), review.get("kind")) == ASKED:
        request = review.get("request")
        if isinstance(request, dict):
            return request
    raise InvalidRequest(f"the body is no {' '.join(ASKED)} with a request")


def _review(uid: str, request: Mapping[str, Any]) -> Review:
    pod = _object(request, "object")
    metadata = _object(pod, "metadata")
    name = _text(metadata, "name") or _text(metadata, "generateName")
    annotations = _object(metadata, "annotations")
    return Review(
        uid,
        f"{_text(request, 'namespace')[:63]}/{name[:253]}",
        _text(annotations, ANNOTATION)[:MAX_LENGTH],  # of a longer one, only this is kept
        _text(annotations, MODE_ANNOTATION) == "required",
        _why_not(request, pod),
        frozenset(_bases(pod, _BASES)),
    )


def _why_not(request: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    metadata, spec = _object(pod, "metadata"), _object(pod, "spec")
    names = _text(_object(metadata, "annotations"), ANNOTATION)
    if (_object(request, "kind").get("kind"), request.get("operation")) != ("Pod", "CREATE"):
        return "NotCreated"
    if not names:
        return "NotAnnotated"
    if len(names) > MAX_LENGTH or not _NAMES.fullmatch(names):
        return "InvalidAnnotation"
    if any(owner.get("kind") == "DaemonSet" for owner in _objects(metadata, "ownerReferences")):
        return "DaemonSet"
    if _text(spec, "nodeName"):
        return "ChoosesNode"
    if not ZONE_CHOICES.isdisjoint(_chosen_by(spec)):
        return "ChoosesZone"
    return ""


def _chosen_by(spec: Mapping[str, Any]) -> Iterator[str]:
    """The keys of all node labels and fields by which the Pod itself chooses its nodes."""
    yield from _object(spec, "nodeSelector")
    affinity = _object(_object(spec, "affinity"), "nodeAffinity")
    terms = _objects(_object(affinity, REQUIRED), "nodeSelectorTerms")
    terms += [_object(each, "preference") for each in _objects(affinity, PREFERRED)]
    for term in terms:
        for expression in _objects(term, "matchExpressions") + _objects(term, "matchFields"):
            yield _text(expression, "key")


# What is missing and what is null is the same to an API server. Raise `_Malformed`.


def _text(parent: Mapping[str, Any], key: str) -> str:
    found = parent.get(key)
    if found is None:
        return ""
    if isinstance(found, str):
        return found
    raise _Malformed


def _object(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = parent.get(key)
    if found is None:
        return {}
    if isinstance(found, dict):
        return found
    raise _Malformed


def _objects(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = parent.get(key)
    if found is None:
        return []
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        return list(found)
    raise _Malformed


def _bases(there: Mapping[str, Any], bases: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, base in bases.items():
        if there.get(key) is not None:
            yield f"{path}/{key}"
            if isinstance(base, dict):
                yield from _bases(_object(there, key), base, f"{path}/{key}")


def decide(review: Review, outcome: Answer | ServiceError | None) -> AdmissionResponse:
    """What comes of the review, given what came of the lookup; there is none for `why_not`."""
    if outcome is None:
        return _left_alone(review)
    if isinstance(outcome, ServiceError) or outcome.reason:
        return _not_placed(review, outcome.reason)
    selector = outcome.node_selector if review.is_required else ()
    decided = ((DECIDED_ZONE_LABEL, outcome.zone), (DECIDED_ZONE_ID_LABEL, outcome.zone_id))
    patch = _patch(outcome.node_labels, selector, decided, review.bases)
    audited = {"zone": outcome.zones, "names": _cut(review.names, MAX_AUDITED)}
    body = _answer(review, patchType="JSONPatch", patch=patch, auditAnnotations=audited)
    return AdmissionResponse(body, "Placed", zone=outcome.zones)


def _left_alone(review: Review) -> AdmissionResponse:
    if review.why_not == "InvalidAnnotation":  # surely a mistake
        return _not_placed(review, review.why_not)
    return AdmissionResponse(_answer(review), "LeftAlone", review.why_not)


def defect(review: Review) -> AdmissionResponse:
    """The answer when the service itself has failed."""
    return AdmissionResponse(_answer(review), "Defect", "InternalError")


def _not_placed(review: Review, reason: str) -> AdmissionResponse:
    names = review.names if _NAMES.fullmatch(review.names) else _ascii(review.names)
    warning = _cut(f"{ANNOTATION}: not placed, {reason}: {names}", MAX_WARNING)
    audited = {"reason": reason, "names": _cut(names, MAX_AUDITED)}
    body = _answer(review, warnings=[warning], auditAnnotations=audited)
    return AdmissionResponse(body, "NotPlaced", reason)


def _ascii(text: str) -> str:
    return shown(text).encode("ascii", "backslashreplace").decode()


def _answer(review: Review, **more: object) -> bytes:
    version, kind = ASKED
    response = {"uid": review.uid, "allowed": True, **more}
    return to_json({"apiVersion": version, "kind": kind, "response": response})


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


# The Pods of a Deployment all get the same.
@lru_cache(maxsize=256)
def _patch(
    node_labels: tuple[NodeLabel, ...],
    selector: tuple[Label, ...],
    decided: tuple[tuple[str, str | None], ...],
    bases: frozenset[str],
) -> str:
    """What a Pod that has these bases gets."""
    additions: dict[str, Any] = {"spec": {}, "metadata": {}}
    # What the selector sees to anyway need not be preferred.
    insisted = dict(selector)
    preferences = [_term(each) for each in node_labels if insisted.get(each.key) not in each.values]
    if preferences:
        additions["spec"]["affinity"] = {"nodeAffinity": {PREFERRED: preferences}}
    if selector:
        additions["spec"]["nodeSelector"] = insisted
    labels = {key: value for key, value in decided if value is not None}
    if labels:
        additions["metadata"]["labels"] = labels
    return b64encode(json.dumps([*_operations(additions, bases)]).encode()).decode()


def _term(label: NodeLabel) -> dict[str, Any]:
    expression = {"key": label.key, "operator": "In", "values": label.values}
    return {"weight": label.weight, "preference": {"matchExpressions": [expression]}}


def _operations(
    additions: Mapping[str, Any], bases: Collection[str], path: str = ""
) -> Iterator[dict[str, Any]]:
    """Those of a JSON patch (RFC 6902) that add to what is there, and create what is not."""
    for key, value in additions.items():
        here = f"{path}/{_escaped(key)}"
        if here not in bases:
            yield {"op": "add", "path": here, "value": value}
        elif isinstance(value, list):
            yield from ({"op": "add", "path": f"{here}/-", "value": each} for each in value)
        else:
            yield from _operations(value, bases, here)


def _escaped(key: str) -> str:
    """The key as a JSON pointer has it (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


# An API server gives the same time to all.
@lru_cache(maxsize=16)
def patience_in(query: str) -> float:
    """How long, in seconds, the answer may take, as the query's `timeout` has it; perhaps infinite."""
    given = re.search(r"(?:^|&)timeout=([^&]*)", query)
    duration = unquote(given[1]) if given else ""
    if not re.fullmatch(f"(?:{_DURATION})+", duration):
        return inf
    timeout = sum(float(each) * _SECONDS[unit] for each, unit in re.findall(_DURATION, duration))
    return max(timeout - MARGIN, timeout / 2)
