"""The addresses of one zone, for a DNS server that puts them first. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
    summarize_address_range,
)

from lookup.table import Subnet, SubnetTable
from lookup.zones import Location, ZoneNames, zone_text_of

# Prefixes in a line, for people to read.
PER_LINE = 4

Network = IPv4Network | IPv6Network


class NotOneZone(ValueError):
    """There is no such zone, or it is not one; the message is a sentence that says what there is."""


def near_first(table: SubnetTable, zone: str) -> Iterator[str]:
    """The lines with which CoreDNS puts the addresses of a zone, by its name or id, first.

    https://coredns.io/plugins/loadbalance/, since 1.12.4. Raises `NotOneZone`.
    """
    networks = networks_of(table, zone)
    yield "loadbalance round_robin {"
    for start in range(0, len(networks), PER_LINE):
        yield f"    prefer {' '.join(map(str, networks[start : start + PER_LINE]))}"
    yield "}"


def networks_of(table: SubnetTable, zone: str) -> list[Network]:
    """The networks that hold the addresses of a zone and no others, as few as possible.

    Raises `NotOneZone`.
    """
    _check(table, zone)
    networks: list[Network] = []
    for first, end in _spans(table, zone, IPv4Address):
        networks += summarize_address_range(IPv4Address(first), IPv4Address(end - 1))
    for first, end in _spans(table, zone, IPv6Address):
        networks += summarize_address_range(IPv6Address(first), IPv6Address(end - 1))
    if not networks:
        raise NotOneZone(f"all of zone {zone} is taken up by subnets of other zones inside its own")
    return networks


def _check(table: SubnetTable, zone: str) -> None:
    locations = {Location(subnet.zone, subnet.zone_id) for subnet in table}
    if zone not in table.zones:
        known = ", ".join(sorted(zone_text_of(*each[:2]) for each in locations))
        raise NotOneZone(f"zone {zone} is not in the table, which has {known}")
    if zone in ZoneNames(locations).ambiguous:
        ids = sorted({str(each.zone_id) for each in locations if each.zone == zone})
        raise NotOneZone(
            f"zone {zone} has several ids, or its id several names: give the id ({', '.join(ids)})"
        )


def _spans(
    table: SubnetTable, zone: str, family: type[IPv4Address] | type[IPv6Address]
) -> Iterator[tuple[int, int]]:
    """Where the addresses of the zone begin, and where they end: that one is not its any more."""
    found = (ip_network(subnet.cidr) for subnet in table)
    networks = [network for network in found if isinstance(network.network_address, family)]
    borders = {int(network.network_address) for network in networks}
    ends = {int(network.broadcast_address) + 1 for network in networks}
    first = None
    for border in sorted(borders | ends):  # between two of them, all are in one subnet
        is_last = border >> family(0).max_prefixlen
        is_near = not is_last and _is_in(table.match(family(border)), zone)
        if is_near and first is None:
            first = border
        elif not is_near and first is not None:
            yield first, border
            first = None


def _is_in(subnet: Subnet | None, zone: str) -> bool:
    return subnet is not None and zone in (subnet.zone, subnet.zone_id)
