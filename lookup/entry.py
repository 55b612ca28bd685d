"""One entry of a table: its address block and its location, and what is wrong with it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_network
from socket import AF_INET6, inet_pton

from common.errors import shown
from common.names import ZONE_ID_LABEL, ZONE_LABEL
from lookup.table import Block, Size, netmask
from lookup.zones import Location

# The keys that are read, by what is left of them if case does not count.
KEYS = {
    "cidrblock": "CIDRBlock",
    "availabilityzone": "AvailabilityZone",
    "availabilityzoneid": "AvailabilityZoneId",
    "nodelabels": "NodeLabels",
}

# Kubernetes API conventions, "Labels and Selectors": a value is at most 63
# characters; a key is such a name, optionally behind a DNS subdomain and a slash.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_LABEL_VALUE = re.compile(_NAME)
_LABEL_KEY = re.compile(rf"(?:(?=.{{1,253}}/){_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?{_NAME}")

# RFC 4632 and RFC 4291 notation only: ipaddress would also take a bare address or a netmask.
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CIDR = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}/(3[0-2]|[12]?[0-9])")
_IPV6_CIDR = re.compile(r"([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)/(12[0-8]|1[01][0-9]|[1-9]?[0-9])")


def text_of(raw: dict[str, object], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def cidr_in(raw: dict[str, object]) -> object:
    return raw.get("CIDRBlock", raw.get("CidrBlock"))


def is_without_block(raw: dict[str, object]) -> bool:
    """Whether it is a subnet of IPv6 alone that does not say which, or has none associated yet.

    Such a subnet has no CidrBlock in AWS's output, and a null where a --query picks that.
    """
    if cidr_in(raw) is not None or raw.get("CidrBlock") is not None or [*ipv6_cidrs_in(raw)]:
        return False
    return "CIDRBlock" in raw or "CidrBlock" in raw or raw.get("Ipv6Native") is True


def ipv6_cidrs_in(raw: dict[str, object]) -> Iterator[object]:
    """Those that are associated; None for what cannot be understood."""
    associations = raw.get("Ipv6CidrBlockAssociationSet")
    if associations is None:
        return
    for each in associations if isinstance(associations, list) else [None]:
        match each:
            case {"Ipv6CidrBlockState": {"State": "associated"}, "Ipv6CidrBlock": cidr}:
                yield cidr
            case {"Ipv6CidrBlockState": {"State": str(state)}} if state != "associated":
                pass
            case _:
                yield None


def blocks_of(raw: dict[str, object]) -> list[Block]:
    """The entry's address blocks; none if something is wrong with one of them."""
    cidr = cidr_in(raw)
    if raw.get("CidrBlock", cidr) != cidr:
        return []
    cidrs = [] if cidr is None else [cidr]
    if raw.get("Ipv6CidrBlockAssociationSet") not in (None, []):
        cidrs += ipv6_cidrs_in(raw)
    found = [block for block in map(block_of, cidrs) if block is not None]
    return found if len(found) == len(cidrs) else []


def block_of(cidr: object) -> Block | None:
    """The address block; None if it is none."""
    if not isinstance(cidr, str):
        return None
    found = _CIDR.fullmatch(cidr)
    if found is None:
        return _ipv6_block_of(cidr)
    a, b, c, d, length = map(int, found.groups())
    address = a << 24 | b << 16 | c << 8 | d
    return None if address & 0xFFFFFFFF >> length else ((32, length), address)


def _ipv6_block_of(cidr: str) -> Block | None:
    found = _IPV6_CIDR.fullmatch(cidr)
    if found is None:
        return None
    try:
        address = int.from_bytes(
            inet_pton(AF_INET6, found[1])
        )  # IPv6Address takes six times as long
    except OSError:
        return None
    size = 128, int(found[2])
    has_host_bits = address & ~netmask(size)
    return None if has_host_bits or _is_mapped(size, address) else (size, address)


def _is_mapped(size: Size, address: int) -> bool:
    """Whether it is IPv4 written as IPv6 (RFC 4291, 2.5.5.2), which is never an answer's address."""
    return size[1] >= 96 and address >> 32 == 0xFFFF


def location_of(raw: dict[str, object]) -> Location:
    """The location of an entry that has no problems."""
    labels = raw.get("NodeLabels")
    return Location(
        zone=str(raw["AvailabilityZone"]),
        zone_id=text_of(raw, "AvailabilityZoneId"),
        labels=tuple(labels.items()) if isinstance(labels, dict) else (),
    )


# What is wrong with an entry.


def problems_of(raw: dict[str, object]) -> Iterator[str]:
    """What is wrong with one entry, a sentence each."""
    for key in filter(meant, raw):
        if not is_beside_what_is_meant(key, raw):
            yield f"there is no key {shown(key)}; {meant(key)} is close to it"
    one, other = raw.get("CIDRBlock"), raw.get("CidrBlock")
    ipv6_cidrs = list(ipv6_cidrs_in(raw))
    if one != other and "CIDRBlock" in raw and "CidrBlock" in raw:
        yield f"CIDRBlock {shown(one)} is not the same as CidrBlock {shown(other)}"
    elif cidr_in(raw) is not None or not ipv6_cidrs:
        yield from _cidr_problems("CIDRBlock", cidr_in(raw))
    for cidr in ipv6_cidrs:
        yield from _cidr_problems("Ipv6CidrBlockAssociationSet: Ipv6CidrBlock", cidr)
    yield from location_problems(raw)


@lru_cache(maxsize=1024)
def meant(key: object) -> str | None:
    """The key that this one was probably meant to be: another case, or one or two slips."""
    if not isinstance(key, str) or key == "CidrBlock" or key in KEYS.values():
        return None
    from difflib import get_close_matches  # only now, because most have no use for it

    as_long = [known for known in KEYS if abs(len(known) - len(key)) <= 2]
    return next((KEYS[known] for known in get_close_matches(key.lower(), as_long, 1, 0.85)), None)


def is_beside_what_is_meant(key: str, raw: dict[str, object]) -> bool:
    """Whether a key that is close to one that is read is another: AWS may bring new ones."""
    return meant(key) in raw or (meant(key) == "CIDRBlock" and "CidrBlock" in raw)


def _cidr_problems(key: str, cidr: object) -> Iterator[str]:
    if block_of(cidr) is not None:
        return
    if cidr is None:
        yield f"{key} is missing"
        return
    if not isinstance(cidr, str):
        yield f"{key} {shown(cidr)} is not a string"
        return
    try:
        network = ip_network(cidr, strict=False)
    except ValueError:
        network = None
    is_cidr = _CIDR.fullmatch(cidr) or _IPV6_CIDR.fullmatch(cidr)
    if network is None or not is_cidr:
        yield f"{key} {shown(cidr)} is not a CIDR such as 10.0.0.0/24 or 2001:db8::/64"
    elif _is_mapped((network.max_prefixlen, network.prefixlen), int(network.network_address)):
        yield f"{key} {shown(cidr)} is IPv4 written as IPv6; write it as IPv4"
    else:
        yield f"{key} {shown(cidr)} has host bits set; the subnet is {network}"


def location_problems(raw: dict[str, object]) -> Iterator[str]:
    yield from _value_problems("AvailabilityZone", raw.get("AvailabilityZone"))
    if raw.get("AvailabilityZoneId") is not None:
        yield from _value_problems("AvailabilityZoneId", raw["AvailabilityZoneId"])
    yield from _label_problems(raw.get("NodeLabels"))


def _value_problems(what: str, value: object) -> Iterator[str]:
    if value is None or value == "":
        yield f"{what} is missing or empty"
    elif not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
        yield (
            f"{what} {shown(value)} is not a valid Kubernetes label value (at most 63 letters, "
            "digits, '-', '_' and '.', beginning and ending with a letter or digit)"
        )


def _label_problems(labels: object) -> Iterator[str]:
    if labels is None:
        return
    if not isinstance(labels, dict):
        yield f"NodeLabels {shown(labels)} is not an object"
        return
    for key, value in labels.items():
        if key in (ZONE_LABEL, ZONE_ID_LABEL):
            yield f"NodeLabels key {key!r} is set from the zone already"
        elif not isinstance(key, str) or not _LABEL_KEY.fullmatch(key):
            yield f"NodeLabels key {shown(key)} is not a valid Kubernetes label key"
        yield from _value_problems(f"NodeLabels value of {shown(key)},", value)
