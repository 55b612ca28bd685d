"""From a query to names, and from their addresses to the answer: all that is decided, no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple
from urllib.parse import parse_qsl

from errors import AmbiguousZone, InvalidRequest, ServiceError, ZoneNotFound, shown
from resolver import Resolution
from subnets import Subnet, SubnetTable

__all__ = ["Answer", "Result", "answer", "error_body", "names_in", "to_json"]

# Names in one lookup: a Pod's database, cache and queue, not a list to search.
MAX_NAMES = 8

# The weight of the most specific node label: the most that Kubernetes takes.
MAX_WEIGHT = 100

# Addresses that a message lists; a name with more is no host in one zone anyway.
MAX_LISTED = 16

# What is known of a name: its addresses, or why it has none.
Result = Resolution | ServiceError


def names_in(query: str) -> list[str]:
    """The names in a query string that is just `fqdn=NAME[,NAME...]`, in lower case.

    Whether each is a name is not looked at. Raises `InvalidRequest`.
    """
    try:
        fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        fields = []
    match fields:
        case [("fqdn", value)] if value:
            names = (value.lower() if value.isascii() else value).split(",")
        case _:
            raise InvalidRequest(f"the query {shown(query)} is not fqdn=NAME and nothing else")
    if len(names) > MAX_NAMES:
        raise InvalidRequest(f"{shown(value)} has {len(names)} names, the most is {MAX_NAMES}")
    return names


class Place(NamedTuple):
    """Where a name is; `labels` are those that a node there carries, most specific first."""

    name: str
    address: IPv4Address
    subnet: Subnet
    labels: tuple[tuple[str, str], ...]
    stale: bool


def place(name: str, result: Result, table: SubnetTable, zone_label: str) -> Place:
    """The place of `name`, whose addresses must all be in one zone.

    Raises `ZoneNotFound`, `AmbiguousZone`, or the error that `result` is.
    """
    if isinstance(result, ServiceError):
        raise result
    found = [(address, table.match(address)) for address in result.addresses]
    labels = [subnet.node_labels(zone_label) for _, subnet in found if subnet is not None]
    if not labels:
        raise ZoneNotFound(f"{name}: {_listed(found)}")
    if len(labels) < len(found) or len({each[-1] for each in labels}) > 1:
        raise AmbiguousZone(f"{name} has addresses in several zones: {_listed(found)}")
    address, subnet = found[0]
    assert subnet is not None
    shared = tuple(label for label in labels[0] if all(label in each for each in labels))
    return Place(name, address, subnet, shared, result.stale)


def _listed(found: Sequence[tuple[IPv4Address, Subnet | None]]) -> str:
    texts = [
        f"{address} is in {subnet.zone_text() if subnet else 'no subnet'}"
        for address, subnet in found[:MAX_LISTED]
    ]
    more = len(found) - MAX_LISTED
    return ", ".join(texts) + (f", and {more} more" if more > 0 else "")


class Answer(NamedTuple):
    """The answer to a lookup, ready to be sent, and what the log and the metrics say of it."""

    body: bytes
    address: str
    zone: str


def answer(results: Mapping[str, Result], table: SubnetTable, zone_label: str) -> Answer:
    """The answer to a lookup of names of which so much is known.

    Address and zone are those of the first name that can be placed. Raises the
    first name's error if none can.
    """
    places: list[Place] = []
    errors: dict[str, ServiceError] = {}
    for name, result in results.items():
        try:
            places.append(place(name, result, table, zone_label))
        except ServiceError as error:
            errors[name] = error
    if not places:
        raise next(iter(errors.values()))
    first = places[0]
    body = _body(first, node_labels(places))
    if any(each.stale for each in places):
        body["stale"] = True
    if errors:
        body["errors"] = [{"fqdn": name, **error_body(error)} for name, error in errors.items()]
    return Answer(to_json(body), str(first.address), first.subnet.zone)


def _body(found: Place, labels: list[dict[str, object]]) -> dict[str, object]:
    return {
        "fqdn": found.name,
        "address": str(found.address),
        "subnet": found.subnet.cidr,
        "zone": found.subnet.zone,
        "zoneId": found.subnet.zone_id,
        "nodeLabels": labels,
    }


def node_labels(places: Sequence[Place]) -> list[dict[str, object]]:
    """The labels of all `places` with their weights, the zone of the first place last.

    Weights halve from label to label, so that the more specific one outweighs all
    broader ones together, and from place to place. A policy that must choose one
    label to insist on takes the last.
    """
    weights: dict[tuple[str, str], int] = {}
    for rank, each in enumerate(places):
        for depth, label in enumerate(each.labels):
            weight = max(1, MAX_WEIGHT >> rank + depth)
            weights[label] = max(weight, weights.get(label, 0))
    zone = places[0].labels[-1]
    weights[zone] = weights.pop(zone)
    return [{"key": k, "value": v, "weight": weight} for (k, v), weight in weights.items()]


def error_body(error: ServiceError) -> dict[str, str]:
    """An error as JSON knows it."""
    return {"error": str(error), "reason": error.reason}


def to_json(body: Mapping[str, object]) -> bytes:
    """The body of an answer."""
    return json.dumps(body).encode()
