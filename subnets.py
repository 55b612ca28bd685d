"""The subnets and their zones: the data, its validation, and the match.

Nothing here knows of sockets, HTTP or the environment. As a program it checks
and merges tables before they are put to use:

    aws ec2 describe-subnets --output json | python subnets.py -
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from errors import shown

__all__ = ["SUBNETS_DATA", "InvalidSubnets", "Subnet", "SubnetTable", "load", "parse"]

# JSON's words, so that the output of this command can be pasted below as it is:
#   aws ec2 describe-subnets --output json --query 'Subnets[*].{CIDRBlock:CidrBlock,
#       AvailabilityZone:AvailabilityZone, AvailabilityZoneId:AvailabilityZoneId}'
null, true, false = None, True, False

# fmt: off
SUBNETS_DATA: Any = [
    {"CIDRBlock": "192.168.0.0/19", "AvailabilityZone": "eu-central-1b", "AvailabilityZoneId": "euc1-az3"},
    {"CIDRBlock": "192.168.32.0/19", "AvailabilityZone": "eu-central-1a", "AvailabilityZoneId": "euc1-az2"},
    {"CIDRBlock": "192.168.64.0/19", "AvailabilityZone": "eu-central-1c", "AvailabilityZoneId": "euc1-az1"},
    {"CIDRBlock": "192.168.96.0/19", "AvailabilityZone": "eu-central-1b", "AvailabilityZoneId": "euc1-az3"},
    {"CIDRBlock": "192.168.128.0/19", "AvailabilityZone": "eu-central-1a", "AvailabilityZoneId": "euc1-az2"},
    {"CIDRBlock": "192.168.160.0/19", "AvailabilityZone": "eu-central-1c", "AvailabilityZoneId": "euc1-az1"},
]
# fmt: on

ZONE_LABEL = "topology.kubernetes.io/zone"
ZONE_ID_LABEL = "topology.k8s.aws/zone-id"

# Kubernetes API conventions, "Labels and Selectors": a value is at most 63
# characters; a key is such a name, optionally behind a DNS subdomain and a slash.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_LABEL_VALUE = re.compile(_NAME)
_LABEL_KEY = re.compile(rf"(?:(?=.{{1,253}}/){_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?{_NAME}")

# RFC 4632 notation only: IPv4Network would also take a bare address or a netmask.
_CIDR = re.compile(r"[0-9.]+/(?:3[0-2]|[12]?[0-9])", re.ASCII)

_HINT_SHUFFLED = (
    "AWS accounts can have different names for one zone, only its id is the same for all: "
    f"set NODE_LABEL={ZONE_ID_LABEL}"
)


class InvalidSubnets(ValueError):
    """The table cannot be used; `problems` holds a sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Subnet(NamedTuple):
    """An address block and where it is; `labels` are the entry's own `NodeLabels`."""

    cidr: str
    zone: str
    zone_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def zone_text(self) -> str:
        """The zone as a message names it."""
        return f"zone {self.zone}" + (f" ({self.zone_id})" if self.zone_id else "")

    def node_labels(self, zone_label: str = ZONE_LABEL) -> tuple[tuple[str, str], ...]:
        """The (key, value) pairs that a node here carries, most specific first.

        The last is the zone. Where `zone_label` asks for the zone's id and the
        subnet has none (on-premises, say), it is the zone's name all the same.
        """
        if zone_label == ZONE_ID_LABEL and self.zone_id is not None:
            return (*self.labels, (ZONE_ID_LABEL, self.zone_id))
        return (*self.labels, (ZONE_LABEL, self.zone))


# The network's address as a number, and the length of its prefix.
Block = tuple[int, int]


class SubnetTable:
    """Finds the subnet of an address: the longest prefix wins.

    One dictionary for each prefix length in use, so a match costs at most 33
    probes, whatever the number of subnets. `warnings` holds sentences about what
    is usable but looks wrong.
    """

    def __init__(self, subnets: Mapping[Block, Subnet], warnings: Iterable[str] = ()) -> None:
        by_length: dict[int, dict[int, Subnet]] = {}
        for (address, length), subnet in subnets.items():
            by_length.setdefault(length, {})[address] = subnet
        self._levels = [
            (_netmask(length), by_length[length]) for length in sorted(by_length, reverse=True)
        ]
        self.warnings = tuple(warnings)

    def __len__(self) -> int:
        return sum(len(level) for _, level in self._levels)

    def __iter__(self) -> Iterator[Subnet]:
        """The subnets by address, an enclosing one before those inside it."""
        blocks = {(key, mask): s for mask, level in self._levels for key, s in level.items()}
        return (blocks[block] for block in sorted(blocks))

    def match(self, address: IPv4Address) -> Subnet | None:
        """The most specific subnet that holds `address`, or None."""
        value = int(address)
        for mask, level in self._levels:
            subnet = level.get(value & mask)
            if subnet is not None:
                return subnet
        return None


def _netmask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


def _block(cidr: str) -> Block:
    address, _, length = cidr.partition("/")
    return int(IPv4Address(address)), int(length)


def parse(text: str) -> SubnetTable:
    """The table in `text`: one or several JSON documents, one after another.

    Each is a list in the form of `SUBNETS_DATA` or the whole output of
    `aws ec2 describe-subnets`. Raises `InvalidSubnets`.
    """
    return load(*_documents(text))


def _documents(text: str) -> Iterator[object]:
    decoder = json.JSONDecoder()
    position = 0
    while rest := text[position:].lstrip():
        position = len(text) - len(rest)
        try:
            document, position = decoder.raw_decode(text, position)
        except ValueError as error:  # also for a number with thousands of digits
            raise InvalidSubnets([f"not JSON: {error}"]) from None
        except RecursionError:
            raise InvalidSubnets(["not a table of subnets: nested too deeply"]) from None
        yield document


def load(*documents: object) -> SubnetTable:
    """The table that `documents` (decoded JSON) make up together.

    Raises `InvalidSubnets`, which names every problem by the entry's index,
    counted from 0, and its value.
    """
    loader = _Loader()
    for number, document in enumerate(documents, 1):
        loader.add_document(document, f"document {number}, " if len(documents) > 1 else "")
    if not loader.problems and not loader.entries:
        loader.problems += ["the list of subnets is empty", *loader.warnings]
    if loader.problems:
        raise InvalidSubnets(loader.problems)
    subnets = {block: entry.subnet for block, entry in loader.entries.items()}
    warnings = [*loader.warnings, *_shuffled(subnets.values()), *_overlaps(loader.entries)]
    return SubnetTable(subnets, warnings)


class _Entry(NamedTuple):
    """A subnet with what tells the reader of a message where it came from."""

    subnet: Subnet
    where: str
    vpc: str | None
    owner: str | None

    def __str__(self) -> str:
        source = " of ".join(shown(name) for name in (self.vpc, self.owner) if name)
        return f"{self.subnet.zone_text()}, {', '.join(filter(None, (self.where, source)))}"


class _Loader:
    def __init__(self) -> None:
        self.entries: dict[Block, _Entry] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def add_document(self, document: object, prefix: str) -> None:
        entries = document.get("Subnets") if isinstance(document, dict) else document
        if not isinstance(entries, list):
            self.problems.append(
                f"{prefix}expected a list of subnets or an object with the list 'Subnets', "
                f"not {shown(document)}"
            )
            return
        for index, entry in enumerate(entries):
            self.add_entry(entry, f"{prefix}entry {index}")

    def add_entry(self, raw: object, where: str) -> None:
        if not isinstance(raw, dict):
            self.problems.append(f"{where}: expected an object, not {shown(raw)}")
        elif _is_ipv6_only(raw):
            subnet = shown(raw.get("SubnetId", "a subnet without CIDRBlock"))
            self.warnings.append(f"{where}: {subnet} is IPv6-only and is left out")
        elif problems := [f"{where}: {problem}" for problem in _problems(raw)]:
            self.problems += problems
        else:
            self.add_subnet(_subnet(raw), raw, where)

    def add_subnet(self, subnet: Subnet, raw: dict[str, object], where: str) -> None:
        entry = _Entry(subnet, where, _text(raw, "VpcId"), _text(raw, "OwnerId"))
        known = self.entries.setdefault(_block(subnet.cidr), entry)
        if not _same_zone(known.subnet, subnet):
            self.problems.append(f"{where}: {subnet.cidr} is in {known}, and in {entry}")
        elif known.subnet.labels != subnet.labels:
            self.problems.append(f"{where}: {subnet.cidr} has other NodeLabels in {known.where}")


def _is_ipv6_only(raw: dict[str, object]) -> bool:
    """Such a subnet has no CidrBlock in AWS's output, and a null where a --query picks that."""
    is_picked = "CIDRBlock" in raw or "CidrBlock" in raw
    return _cidr_of(raw) is None and (is_picked or raw.get("Ipv6Native") is True)


def _subnet(raw: dict[str, object]) -> Subnet:
    """The subnet that `raw`, which has no problems, describes."""
    labels = raw.get("NodeLabels")
    return Subnet(
        cidr=str(_cidr_of(raw)),
        zone=str(raw["AvailabilityZone"]),
        zone_id=_text(raw, "AvailabilityZoneId"),
        labels=tuple(labels.items()) if isinstance(labels, dict) else (),
    )


def _same_zone(one: Subnet, other: Subnet) -> bool:
    """Not so if only the names differ: one of them is another zone's in the cluster's account."""
    ids = {one.zone_id, other.zone_id} - {None}
    return one.zone == other.zone and len(ids) < 2


def _cidr_of(raw: dict[str, object]) -> object:
    return raw.get("CIDRBlock", raw.get("CidrBlock"))


def _text(raw: dict[str, object], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def _problems(raw: dict[str, object]) -> Iterator[str]:
    """What is wrong with one entry, a sentence each."""
    yield from _cidr_problems(_cidr_of(raw))
    yield from _value_problems("AvailabilityZone", raw.get("AvailabilityZone"))
    if raw.get("AvailabilityZoneId") is not None:
        yield from _value_problems("AvailabilityZoneId", raw["AvailabilityZoneId"])
    yield from _label_problems(raw.get("NodeLabels"))


def _cidr_problems(cidr: object) -> Iterator[str]:
    if cidr is None:
        yield "CIDRBlock is missing"
    elif not isinstance(cidr, str):
        yield f"CIDRBlock {shown(cidr)} is not a string"
    elif ":" in cidr:
        yield f"CIDRBlock {shown(cidr)} is IPv6; only IPv4 subnets are matched"
    elif not _CIDR.fullmatch(cidr):
        yield f"CIDRBlock {shown(cidr)} is not a CIDR such as 10.0.0.0/24"
    else:
        try:
            address, length = _block(cidr)
        except ValueError:
            yield f"CIDRBlock {shown(cidr)} is not a CIDR such as 10.0.0.0/24"
        else:
            if address & ~_netmask(length):
                network = IPv4Network(cidr, strict=False)
                yield f"CIDRBlock {shown(cidr)} has host bits set; the subnet is {network}"


# A table has few zones and many subnets.
@lru_cache(maxsize=1024)
def _is_label_value(value: str) -> bool:
    return _LABEL_VALUE.fullmatch(value) is not None


def _value_problems(what: str, value: object) -> Iterator[str]:
    if value is None or value == "":
        yield f"{what} is missing or empty"
    elif not isinstance(value, str) or not _is_label_value(value):
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


def _shuffled(subnets: Iterable[Subnet]) -> Iterator[str]:
    """Warnings: a zone id with several names, or a zone name with several ids."""
    names: dict[str, set[str]] = {}
    ids: dict[str, set[str]] = {}
    for subnet in subnets:
        if subnet.zone_id is not None:
            names.setdefault(subnet.zone_id, set()).add(subnet.zone)
            ids.setdefault(subnet.zone, set()).add(subnet.zone_id)
    for kind, other, seen in (("zone id", "names", names), ("zone name", "ids", ids)):
        for value in sorted(value for value in seen if len(seen[value]) > 1):
            listed = ", ".join(sorted(seen[value]))
            yield f"{kind} {value} has several {other}: {listed}. {_HINT_SHUFFLED}"


def _overlaps(entries: Mapping[Block, _Entry]) -> Iterator[str]:
    """Warnings: a subnet inside one of another VPC; no route can lead to both."""
    enclosing: list[tuple[Block, _Entry]] = []
    for address, length in sorted(block for block, entry in entries.items() if entry.vpc):
        entry = entries[address, length]
        while enclosing and not _holds(enclosing[-1][0], address):
            enclosing.pop()
        if enclosing and enclosing[-1][1].vpc != entry.vpc:
            outer = enclosing[-1][1]
            yield (
                f"{entry.subnet.cidr} in {entry} lies inside {outer.subnet.cidr} in {outer}; "
                "only one of the two VPCs can be reachable"
            )
        enclosing.append(((address, length), entry))


def _holds(block: Block, address: int) -> bool:
    network, length = block
    return address & _netmask(length) == network


def _entry_line(subnet: Subnet) -> str:
    entry: dict[str, object] = {"CIDRBlock": subnet.cidr, "AvailabilityZone": subnet.zone}
    if subnet.zone_id is not None:
        entry["AvailabilityZoneId"] = subnet.zone_id
    if subnet.labels:
        entry["NodeLabels"] = dict(subnet.labels)
    return "    " + json.dumps(entry)


def main(arguments: list[str] | None = None) -> int:
    """Checks a table and prints it merged and sorted; the exit status is 2 if it is wrong."""
    import argparse  # the service has no use for it, nor memory to spare

    parser = argparse.ArgumentParser(description="Check and merge tables of subnets.")
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="JSON, one document or several; - (the default) is standard input",
    )
    file = parser.parse_args(arguments).file
    try:
        with open(0 if file == "-" else file, "rb") as source:
            table = parse(source.read().decode("utf-8-sig"))
    except OSError as error:
        print(f"{file}: {error.strerror}", file=sys.stderr)
        return 2
    except InvalidSubnets as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    except UnicodeDecodeError as error:
        print(f"{file}: not UTF-8: {error}", file=sys.stderr)
        return 2
    for warning in table.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("[", ",\n".join(map(_entry_line, table)), "]", sep="\n")
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # ends quietly, as other filters do, if its reader has enough
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
