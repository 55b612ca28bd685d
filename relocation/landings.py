"""Where each Pod is, and where the lookup service says that it should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from relocation.world import NOWHERE, Destination, Node, Pod, World

Landed = Literal["in_zone", "elsewhere", "unknown"]

# What keeps a Pod that has asked for it from being moved, as a metric's label.
Wait = Literal["answer", "pod", "workload", "backoff", "no_node", "limit", "budget", "refused"]


class Rules(NamedTuple):
    """How careful to be; times are in seconds."""

    node_label: str  # with a node's zone
    after: float  # for which an answer must have been the same
    backoff: float  # for which a workload is left alone if a Pod has not landed where it should
    longest_gap: float  # between two rounds, for an answer to have been the same in between


class Obstacle(NamedTuple):
    """Why a Pod is not moved; there is no `wait` if it never will be, unless it is changed."""

    text: str
    wait: Wait | None = None


class Verdict(NamedTuple):
    """Where a Pod is, where its database is, and what keeps it from being moved there."""

    pod: Pod
    landed: Landed
    here: str
    destination: Destination
    obstacle: Obstacle | None = None
    since: float = 0.0  # if it is elsewhere

    def is_placed_for_it(self) -> bool:
        """Whether the scheduler knew of this zone when it chose the node."""
        return all(self.pod.placed.get(key) == value for key, value in self.destination.selector)


def landings(world: World, rules: Rules) -> Iterator[Verdict]:
    """Where each Pod is and where it should be, whatever may follow from that."""
    for pod in world.pods:
        node = world.nodes.get(pod.node)
        answer = world.answers[pod.asks]
        here = node.labels.get(rules.node_label, "") if node else ""
        destination = NOWHERE if isinstance(answer, str) else answer
        if unknown := _what_is_unknown(answer, node, here):
            yield Verdict(pod, "unknown", here, destination, Obstacle(unknown))
        else:
            landed: Landed = "in_zone" if node and destination.has(node.labels) else "elsewhere"
            yield Verdict(pod, landed, here, destination)


def _what_is_unknown(answer: Destination | str, node: Node | None, here: str) -> str:
    """Why nobody can say whether the node is the place; empty if that can be said."""
    if isinstance(answer, str):
        return answer
    if not answer.terms:
        return "no zone"
    if not node:
        return "no node"
    # Not to be in a zone and not to say in which are two things.
    return "" if here and answer.is_known_of(node.labels) else "its node has no zone"
