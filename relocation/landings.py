"""Where each Pod is, and where the lookup service says that it should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from relocation.world import NOWHERE, Location, Pod, World

Landed = Literal["in_zone", "elsewhere", "unknown"]


class Rules(NamedTuple):
    """How careful to be; times are in seconds."""

    node_label: str  # with a node's zone
    after: float  # for which an answer must have been the same
    backoff: float  # for which a workload is left alone if a Pod has not landed where it should
    longest_gap: float  # between two rounds, for an answer to have been the same in between


class Verdict(NamedTuple):
    """Where a Pod is, where its database is, and what keeps it from being moved there."""

    pod: Pod
    landed: Landed
    here: str
    location: Location
    obstacle: str = ""

    def is_placed_for_it(self) -> bool:
        """Whether the scheduler knew of this zone when it chose the node."""
        return all(self.pod.placed.get(key) == value for key, value in self.location.selector)


def landings(world: World, rules: Rules) -> Iterator[Verdict]:
    """Where each Pod is and where it should be, whatever may follow from that."""
    for pod in world.pods:
        node = world.nodes.get(pod.node)
        location = world.answers[pod.asks]
        here = node.labels.get(rules.node_label, "") if node else ""
        if isinstance(location, str):
            yield Verdict(pod, "unknown", here, NOWHERE, location)
        elif not node or not location.terms:
            yield Verdict(
                pod, "unknown", here, location, "no node" if location.terms else "no zone"
            )
        else:
            landed: Landed = "in_zone" if location.has(node.labels) else "elsewhere"
            yield Verdict(pod, landed, here, location)
