"""From a query to names, and from their addresses to the answer: all that is decided, no I/O."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple
from urllib.parse import parse_qsl

from common.errors import InvalidRequest, ServiceError, ZoneNotFound, error_body, shown
from common.names import ZONE_LABEL
from lookup.resolver import Result
from lookup.table import Subnet, SubnetTable

__all__ = ["Answer", "Place", "Placement", "names_in", "to_json"]

# Names in one lookup: a Pod's database, cache and queue, not a list to search.
MAX_NAMES = 8

# The weight of the first node label: the most that Kubernetes takes.
MAX_WEIGHT = 100

# Addresses that a message lists.
MAX_LISTED = 16

# What nearly every query is: nothing in it is encoded.
_PLAIN_QUERY = re.compile(r"fqdn=([A-Za-z0-9._,-]+)")

Label = tuple[str, str]


def names_in(query: str) -> list[str]:
    """The names in a query string that is just `fqdn=NAME[,NAME...]`.

    Whether each is a name is not looked at. Raises `InvalidRequest`.
    """
    plain = _PLAIN_QUERY.fullmatch(query)
    value = plain[1] if plain else _decoded(query)
    names = value.split(",")
    if len(names) > MAX_NAMES:
        raise InvalidRequest(f"{shown(value)} has {len(names)} names, the most is {MAX_NAMES}")
    return names


def _decoded(query: str) -> str:
    try:
        fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        fields = []
    match fields:
        case [("fqdn", value)] if value:
            return value
    raise InvalidRequest(f"the query {shown(query)} is not fqdn=NAME and nothing else")


class Place(NamedTuple):
    """Where a name is: its addresses, each with its subnet, or None outside the table.

    `zone` is the node label of the one zone in which all addresses are, or None.
    """

    name: str
    found: Sequence[tuple[IPv4Address, Subnet | None]]
    zone: Label | None
    stale: bool

    @property
    def subnets(self) -> list[Subnet]:
        """Those of the addresses that are in the table; never none."""
        return [subnet for _, subnet in self.found if subnet is not None]


class Answer(NamedTuple):
    """The answer to a lookup, ready to be sent, and what the log and the metrics say of it.

    Of a name in several zones, `address` and `zone` have all, with commas between them.
    """

    body: bytes
    address: str
    zone: str
    is_in_one_zone: bool


class Placement:
    """Makes the answers: which node labels may be preferred, and which may be insisted on.

    `zone_label` is the key of the label that stands for a node's zone. What is in one of
    the `avoided` zones (their names or their ids) is neither preferred nor insisted on.
    """

    def __init__(
        self, table: SubnetTable, zone_label: str = ZONE_LABEL, avoided: Collection[str] = ()
    ) -> None:
        self.table = table
        self._zone_label = zone_label
        self._avoided = frozenset(avoided)

    def answer(self, results: Mapping[str, Result]) -> Answer:
        """The answer to a lookup of names of which so much is known.

        It tells the address and zone of the first name that is in one zone, or else
        those of the first that is in several. Raises the first name's error if there
        is neither.
        """
        places: list[Place] = []
        errors: dict[str, ServiceError] = {}
        for name, result in results.items():
            try:
                places.append(self._place(name, result))
            except ServiceError as error:
                errors[name] = error
        if not places:
            raise next(iter(errors.values()))
        told = next((place for place in places if place.zone), places[0])
        body = _description(told)
        body["nodeLabels"] = self._node_labels(places)
        body["nodeSelector"] = {} if errors else self._node_selector(places)
        if any(place.stale for place in places):
            body["stale"] = True
        if errors:
            body["errors"] = [{"fqdn": name, **error_body(error)} for name, error in errors.items()]
        return _answer(body, told)

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
                avoided = ", which is avoided" if subnet and self._is_avoided(subnet) else ""
                yield f"{name}: {address} is {where}{avoided}"

    def _place(self, name: str, result: Result) -> Place:
        if isinstance(result, ServiceError):
            raise result
        found = [(address, self.table.match(address)) for address in result.addresses]
        zones = {subnet and self._labels(subnet)[-1] for _, subnet in found}
        if zones == {None}:
            raise ZoneNotFound(f"{name}: {_listed(result.addresses)} is in no subnet")
        return Place(name, found, zones.pop() if len(zones) == 1 else None, result.stale)

    def _labels(self, subnet: Subnet) -> tuple[Label, ...]:
        return subnet.node_labels(self._zone_label)

    def _is_avoided(self, subnet: Subnet) -> bool:
        return not self._avoided.isdisjoint((subnet.zone, subnet.zone_id))

    def _node_labels(self, places: Iterable[Place]) -> list[dict[str, object]]:
        """Terms of a node affinity, the heaviest first.

        What counts the same is one term: an autoscaler that takes the heaviest preference
        for a requirement must not have to choose between two of them.
        """
        steps = [shares for place in places for shares in self._steps(place)]
        terms: dict[tuple[str, int], list[str]] = {}
        for (key, value), weight in _weights(steps).items():
            terms.setdefault((key, weight), []).append(value)
        return [
            {"key": key, "values": sorted(values), "weight": weight}
            for (key, weight), values in sorted(terms.items(), key=lambda term: -term[0][1])
        ]

    def _steps(self, place: Place) -> list[Mapping[Label, int]]:
        """The place's labels, each with the number of addresses that have it.

        In one zone, one label after another, as far as all addresses share it; otherwise
        all zones side by side.
        """
        labels = [self._labels(each) for each in place.subnets if not self._is_avoided(each)]
        if not labels:
            return []
        if place.zone is None:
            return [Counter(each[-1] for each in labels)]
        return [{label: 1} for label in labels[0] if all(label in each for each in labels)]

    def _node_selector(self, places: Iterable[Place]) -> dict[str, str]:
        """The zone of the first name that is in one zone, unless anything is not sure."""
        selector: dict[str, str] = {}
        for place in places:
            is_known = len(place.subnets) == len(place.found)
            if place.stale or not is_known or any(map(self._is_avoided, place.subnets)):
                return {}
            if place.zone and not selector:
                selector = dict([place.zone])
        return selector


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


def _description(place: Place) -> dict[str, object]:
    if place.zone is None:
        addresses = [{"address": str(ip), **_whereabouts(subnet)} for ip, subnet in place.found]
        nowhere = {"address": None, **_whereabouts(None)}
        return {"fqdn": place.name, **nowhere, "addresses": addresses}
    address, subnet = place.found[0]
    return {"fqdn": place.name, "address": str(address), **_whereabouts(subnet)}


def _whereabouts(subnet: Subnet | None) -> dict[str, object]:
    if subnet is None:
        return {"subnet": None, "zone": None, "zoneId": None}
    return {"subnet": subnet.cidr, "zone": subnet.zone, "zoneId": subnet.zone_id}


def _answer(body: Mapping[str, object], told: Place) -> Answer:
    if told.zone is not None:
        return Answer(to_json(body), str(body["address"]), str(body["zone"]), True)
    zones = dict.fromkeys(subnet.zone for subnet in told.subnets)
    addresses = [address for address, _ in told.found]
    return Answer(to_json(body), _listed(addresses, ","), ",".join(zones), False)


def _listed(addresses: Sequence[IPv4Address], separator: str = ", ") -> str:
    listed = [str(address) for address in addresses[:MAX_LISTED]]
    return separator.join(listed + ["..."] * (len(addresses) > MAX_LISTED))


def to_json(body: Mapping[str, object]) -> bytes:
    """The body of an answer."""
    return json.dumps(body).encode()
