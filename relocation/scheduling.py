"""Whether a node would take a Pod, as the scheduler has it, but for memory and processor.

https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and
https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relocation.landings import Obstacle, Verdict
from relocation.world import Claim, Json, Labels, Node, World


def why_no_node(verdict: Verdict, world: World) -> Obstacle | None:
    """Why no node there could take the Pod; None if one could.

    Whether there is memory and processor left on it is for the scheduler to say.
    """
    pod, destination, needs = verdict.pod, verdict.destination, verdict.pod.constraints
    # The zone in a placed Pod is not in its template: its successor will have the new one.
    selector = {k: v for k, v in needs.node_selector.items() if pod.placed.get(k) != v}
    if pod.is_required:
        selector |= dict(destination.selector)
    there = [
        node
        for node in world.nodes.values()
        if node.is_open
        and destination.has(node.labels)
        and selector.items() <= node.labels.items()
        and _admits(needs.required, node)
        and all(_is_tolerated(taint, needs.tolerations) for taint in node.taints)
    ]
    if not there:
        return Obstacle("no node there could take it", "no_node")
    volumes = [world.volumes.get(Claim(pod.namespace, name)) for name in needs.claims]
    for node in there:
        if all(volume and _admits(volume.required, node) for volume in volumes):
            return None
    return Obstacle("its volumes cannot be reached from there", "no_node")


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
