"""From names' addresses to the answer: which node labels it prefers, and on which it insists. No I/O."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from common.errors import ServiceError, ZoneNotFound, error_body
from common.names import ZONE_LABEL
from lookup.host import Address
from lookup.resolver import Resolution, Result
from lookup.table import Subnet, SubnetTable

# The weight of the first node label: the most that Kubernetes takes.
MAX_WEIGHT = 100

# Addresses that a message lists.
MAX_LISTED = 16

Label = tuple[str, str]

# Addresses, each with its subnet, or None outside the table.
Found = tuple[tuple[Address, Subnet | None], ...]


class NodeLabel(NamedTuple):
    """A preference of a node affinity: a label that a node is to have, with one of the values."""

    key: str
    values: tuple[str, ...]
    weight: int


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to a lookup.

    `fqdn` is the name whose addresses are `found`. `subnet` is None if they are in several
    zones. Of `node_selector` there is one label at the most.
    """

    fqdn: str
    found: Found
    subnet: Subnet | None
    node_labels: tuple[NodeLabel, ...]  # the heaviest first
    node_selector: tuple[Label, ...]
    stale: bool = False  # an old answer of DNS, because it gave none
    incomplete: bool = False  # DNS said nothing of one address family
    ambiguous: bool = False  # a zone's name and id do not match one to one in the table
    errors: tuple[tuple[str, ServiceError], ...] = ()  # by name

    @cached_property
    def reason(self) -> str:
        """The CamelCase word for why no node is preferred; empty if some are."""
        if self.node_labels:
            return ""
        return "ZoneAmbiguous" if self.ambiguous else "ZoneAvoided"

    @cached_property
    def zone(self) -> str | None:
        """The zone's name; None of several."""
        return self.subnet and self.subnet.zone

    @property
    def zone_id(self) -> str | None:
        """The zone's id, if it is known; None of several."""
        return self.subnet and self.subnet.zone_id

    @cached_property
    def zones(self) -> str:
        """The zone's name; of several, all with commas between them."""
        return self.zone or ",".join(dict.fromkeys(each.zone for _, each in self.found if each))

    @cached_property
    def summary(self) -> str:
        """What a line in the log says of it."""
        addresses = [address for address, _ in self.found]
        told = addresses[:1] if self.subnet else addresses
        return f"address={_listed(told, ',')} zone={self.zones}"

    @cached_property
    def body(self) -> bytes:
        """It as JSON, for whoever asks over HTTP."""
        return to_json(dict(self._fields()))

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "fqdn", self.fqdn
        yield "address", str(self.found[0][0]) if self.subnet else None
        yield from _whereabouts(self.subnet).items()
        if not self.subnet:
            yield "addresses", [{"address": str(ip), **_whereabouts(at)} for ip, at in self.found]
        yield "nodeLabels", [label._asdict() for label in self.node_labels]
        yield "nodeSelector", dict(self.node_selector)
        for doubt in ("stale", "incomplete", "ambiguous"):
            if getattr(self, doubt):
                yield doubt, True
        if self.errors:
            yield "errors", [{"fqdn": name, **error_body(error)} for name, error in self.errors]


class Place(NamedTuple):
    """Where a name is.

    `zone` is the node label of the one zone that all addresses are in, or None; `steps` are
    what it has to be preferred, one after another: labels, each with its addresses' number.
    """

    name: str
    resolution: Resolution
    found: Found
    zone: Label | None
    steps: Sequence[Mapping[Label, int]]


class Placement:
    """Makes the answers: which node labels may be preferred, and which may be insisted on.

    `zone_label` is the key of the label that stands for a node's zone. What is in one of
    the `avoided` zones (their names or their ids), or in one that is ambiguous, is neither
    preferred nor insisted on.
    """

    def __init__(
        self, table: SubnetTable, zone_label: str = ZONE_LABEL, avoided: Collection[str] = ()
    ) -> None:
        self.table = table
        self._zone_label = zone_label
        self._avoided = frozenset(avoided)

    def answer(self, results: Mapping[str, Result]) -> Answer | ServiceError:
        """The answer to a lookup of names of which so much is known.

        It tells of the first name that gives it something to prefer, or else of the first
        that is in the table. If there is neither, it is the first name's error.
        """
        located = {name: self._locate(name, result) for name, result in results.items()}
        places = [each for each in located.values() if isinstance(each, Place)]
        errors = [(name, each) for name, each in located.items() if isinstance(each, ServiceError)]
        if not places:
            return errors[0][1]
        told = next((place for place in places if place.steps), places[0])
        return Answer(
            fqdn=told.name,
            found=told.found,
            subnet=told.found[0][1] if told.zone else None,
            node_labels=tuple(_node_labels(places)),
            node_selector=() if errors else self._node_selector(places),
            stale=any(place.resolution.stale for place in places),
            incomplete=any(place.resolution.incomplete for place in places),
            ambiguous=any(self._is_ambiguous(place) for place in places),
            errors=tuple(errors),
        )

    def explain(self, results: Mapping[str, Result]) -> Iterator[str]:
        """How each name's part of the answer comes about, a line for each address."""
        for name, result in results.items():
            if isinstance(result, ServiceError):
                yield f"{name}: {result.reason}: {result}"
                continue
            for address in result.addresses:
                subnet = self.table.match(address)
                where = (
                    f"in subnet {subnet.cidr}, {subnet.zone_text()}" if subnet else "in no subnet"
                )
                yield f"{name}: {address} is {where}{self._doubts(subnet)}"

    def _locate(self, name: str, result: Result) -> Place | ServiceError:
        if isinstance(result, ServiceError):
            return result
        found = tuple((address, self.table.match(address)) for address in result.addresses)
        zones = {subnet and self._labels(subnet)[-1] for _, subnet in found}
        if zones == {None}:
            return ZoneNotFound(f"{name}: {_listed(result.addresses)} is in no subnet")
        zone = zones.pop() if len(zones) == 1 else None
        return Place(name, result, found, zone, self._steps(found, zone))

    def _steps(self, found: Found, zone: Label | None) -> Sequence[Mapping[Label, int]]:
        """In one zone, one label after another, as far as all addresses share it.

        Otherwise all zones side by side.
        """
        labels = [self._labels(subnet) for _, subnet in found if subnet and self._is_good(subnet)]
        if not labels:
            return []
        if zone is None:
            return [Counter(each[-1] for each in labels)]
        return [{label: 1} for label in labels[0] if all(label in each for each in labels)]

    def _node_selector(self, places: Sequence[Place]) -> tuple[Label, ...]:
        """The zone of the first name, if that is in one and nothing is in doubt."""
        zone = places[0].zone
        return (zone,) if zone and all(map(self._is_certain, places)) else ()

    def _is_certain(self, place: Place) -> bool:
        if place.resolution.stale or place.resolution.incomplete:
            return False
        return all(subnet is not None and self._is_good(subnet) for _, subnet in place.found)

    def _labels(self, subnet: Subnet) -> tuple[Label, ...]:
        return subnet.node_labels(self._zone_label)

    def _is_good(self, subnet: Subnet) -> bool:
        """Whether its zone may be preferred."""
        return not (self._is_avoided(subnet) or self.table.is_ambiguous(subnet))

    def _is_avoided(self, subnet: Subnet) -> bool:
        return not self._avoided.isdisjoint((subnet.zone, subnet.zone_id))

    def _is_ambiguous(self, place: Place) -> bool:
        return any(subnet and self.table.is_ambiguous(subnet) for _, subnet in place.found)

    def _doubts(self, subnet: Subnet | None) -> str:
        """What speaks against its zone, as the end of a sentence."""
        if subnet is None:
            return ""
        avoided = ", which is avoided" if self._is_avoided(subnet) else ""
        ambiguous = ", which is ambiguous" if self.table.is_ambiguous(subnet) else ""
        return avoided + ambiguous


def _node_labels(places: Iterable[Place]) -> Iterator[NodeLabel]:
    """Terms of a node affinity, the heaviest first.

    What counts the same is one term: an autoscaler that takes the heaviest preference
    for a requirement must not have to choose between two of them.
    """
    terms: dict[tuple[str, int], list[str]] = {}
    for (key, value), weight in _weights(step for place in places for step in place.steps).items():
        terms.setdefault((key, weight), []).append(value)
    for (key, weight), values in sorted(terms.items(), key=lambda term: -term[0][1]):
        yield NodeLabel(key, tuple(sorted(values)), weight)


def _weights(steps: Iterable[Mapping[Label, int]]) -> dict[Label, int]:
    """A weight for each label, the highest that it earns.

    They fall by half from step to step, so that what comes first outweighs all that
    follows; within a step they are in proportion to the shares.
    """
    weights: dict[Label, int] = {}
    weight = MAX_WEIGHT
    for shares in steps:
        most = max(shares.values())
        earned = {label: max(1, round(weight * share / most)) for label, share in shares.items()}
        for label, own in earned.items():
            weights.setdefault(label, own)  # what comes first is the highest
        weight = min(earned.values()) // 2
    return weights


def _whereabouts(subnet: Subnet | None) -> dict[str, object]:
    if subnet is None:
        return {"subnet": None, "zone": None, "zoneId": None}
    return {"subnet": subnet.cidr, "zone": subnet.zone, "zoneId": subnet.zone_id}


def _listed(addresses: Sequence[Address], separator: str = ", ") -> str:
    listed = [str(address) for address in addresses[:MAX_LISTED]]
    return separator.join(listed + ["..."] * (len(addresses) > MAX_LISTED))


def to_json(body: Mapping[str, object]) -> bytes:
    """The body of an answer."""
    return json.dumps(body).encode()
