"""The subnets and their zones: the data, its validation, and the match.

Nothing here knows of sockets, HTTP or the environment. As a program it checks
and merges tables before they are put to use:

    aws ec2 describe-subnets --output json | python3 subnets.py
"""

from __future__ import annotations

import json
import operator
import re
import signal
import sys
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from itertools import chain, islice
from typing import Any, NamedTuple, final

from documents import Reader, Unreadable, chunks, pieces
from errors import shown

__all__ = [
    "SUBNETS_DATA",
    "ZONE_ID_LABEL",
    "ZONE_LABEL",
    "InvalidSubnets",
    "Place",
    "Subnet",
    "SubnetTable",
    "lines",
    "load",
    "parse",
    "pasted_table",
    "read_files",
]

# In place of these subnets, put yours. "Example" is no key of AWS's: it has the service warn of
# a table that is not yours.
#
# JSON's words, so that the output of this command can be pasted below as it is:
#   aws ec2 describe-subnets --output json --query 'Subnets[*].{CIDRBlock:CidrBlock,
#       AvailabilityZone:AvailabilityZone, AvailabilityZoneId:AvailabilityZoneId}'
null, true, false = None, True, False

# fmt: off
SUBNETS_DATA: Any = [
    {"CIDRBlock": "192.168.0.0/19", "AvailabilityZone": "eu-central-1b", "AvailabilityZoneId": "euc1-az3", "Example": true},
    {"CIDRBlock": "192.168.32.0/19", "AvailabilityZone": "eu-central-1a", "AvailabilityZoneId": "euc1-az2", "Example": true},
    {"CIDRBlock": "192.168.64.0/19", "AvailabilityZone": "eu-central-1c", "AvailabilityZoneId": "euc1-az1", "Example": true},
    {"CIDRBlock": "192.168.96.0/19", "AvailabilityZone": "eu-central-1b", "AvailabilityZoneId": "euc1-az3", "Example": true},
    {"CIDRBlock": "192.168.128.0/19", "AvailabilityZone": "eu-central-1a", "AvailabilityZoneId": "euc1-az2", "Example": true},
    {"CIDRBlock": "192.168.160.0/19", "AvailabilityZone": "eu-central-1c", "AvailabilityZoneId": "euc1-az1", "Example": true},
]
# fmt: on

ZONE_LABEL = "topology.kubernetes.io/zone"
ZONE_ID_LABEL = "topology.k8s.aws/zone-id"

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

# RFC 4632 notation only: IPv4Network would also take a bare address or a netmask.
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CIDR = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}/(3[0-2]|[12]?[0-9])")

# Problems, and warnings, that are listed: who has more has made one mistake many times.
MAX_SENTENCES = 200

# Zones or ids that one sentence lists.
MAX_LISTED = 16

# What the API server takes: core.MaxSecretSize, for all values of a ConfigMap together. Those
# in `binaryData` count as the bytes that they are, not as base64.
MAX_CONFIGMAP_SIZE = 1024 * 1024

_EXAMPLE = (
    'the table has entries with the key "Example": it is the one that is shipped to try the '
    "service with, and no Pod is placed right by it; put yours in its place"
)
_USE_IDS = f"NODE_LABEL={ZONE_ID_LABEL} (for python3 subnets.py: --node-label)"
_HINT_SHUFFLED = (
    "AWS accounts can have different names for one zone, only its id is the same for all: "
    f"set {_USE_IDS}"
)
_HINT_SHARED = (
    "AWS accounts can have different names for one zone, and by its id it is one: with "
    f"{_USE_IDS} names do not matter; otherwise keep what the cluster's own account says"
)


class InvalidSubnets(ValueError):
    """The table cannot be used; `problems` holds a sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# The network's address as a number, and the length of its prefix.
Block = tuple[int, int]


@final
class Place(NamedTuple):
    """All of a subnet but its address block; `labels` are the entry's own `NodeLabels`."""

    zone: str
    zone_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()


class Subnet(NamedTuple):
    """An address block and where it is; `labels` are the entry's own `NodeLabels`."""

    cidr: str
    zone: str
    zone_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def zone_text(self) -> str:
        """The zone as a message names it."""
        return _zone_text(self.zone, self.zone_id)

    def node_labels(self, zone_label: str = ZONE_LABEL) -> tuple[tuple[str, str], ...]:
        """The (key, value) pairs that a node here carries, most specific first.

        The last is the zone. Where `zone_label` asks for the zone's id and the
        subnet has none (on-premises, say), it is the zone's name all the same.
        """
        if zone_label == ZONE_ID_LABEL and self.zone_id is not None:
            return (*self.labels, (ZONE_ID_LABEL, self.zone_id))
        return (*self.labels, (ZONE_LABEL, self.zone))


def _zone_text(zone: str, zone_id: str | None) -> str:
    return f"zone {zone}" + (f" ({zone_id})" if zone_id else "")


# The subnets of one prefix length, by the network's address as a number.
Level = dict[int, "Place | Subnet"]


class SubnetTable:
    """Finds the subnet of an address: the longest prefix wins.

    `levels` has for each prefix length in use a dictionary, so a match costs at
    most 33 probes, whatever the number of subnets. It takes some 75 bytes a subnet:
    a `Subnet` is made when it is found for the first time. `zones` are the names and
    ids of all zones; `warnings` holds sentences about what is usable but looks wrong;
    `is_example` tells the table that is shipped, or one that has some of it left.
    """

    def __init__(
        self, levels: Mapping[int, Level], warnings: Iterable[str] = (), is_example: bool = False
    ) -> None:
        self._levels = [
            (_netmask(length), levels[length]) for length in sorted(levels, reverse=True)
        ]
        self.warnings = tuple(warnings)
        self.is_example = is_example
        found = {(s.zone, s.zone_id) for level in levels.values() for s in level.values()}
        self.zones = frozenset(text for pair in found for text in pair if text is not None)

    def __len__(self) -> int:
        return sum(len(level) for _, level in self._levels)

    def __iter__(self) -> Iterator[Subnet]:
        """The subnets by address, an enclosing one before those inside it."""
        levels = {mask.bit_count(): level for mask, level in self._levels}
        for block in sorted(key << 6 | length for length in levels for key in levels[length]):
            address, length = block >> 6, block & 63
            found = levels[length][address]
            yield Subnet(_cidr(address, length), found.zone, found.zone_id, found.labels)

    def match(self, address: IPv4Address) -> Subnet | None:
        """The most specific subnet that holds `address`, or None."""
        value = int(address)
        for mask, level in self._levels:
            found = level.get(value & mask)
            if found is not None:
                if type(found) is Place:
                    cidr = _cidr(value & mask, mask.bit_count())
                    level[value & mask] = found = Subnet(cidr, *found)
                return found
        return None


def _netmask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


def _cidr(address: int, length: int) -> str:
    return f"{IPv4Address(address)}/{length}"


def load(*documents: object, node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table that `documents` (decoded JSON) make up together.

    Each is a list in the form of `SUBNETS_DATA` or the whole output of
    `aws ec2 describe-subnets`. `node_label` is the label that will stand for the
    zone: with `ZONE_ID_LABEL`, zones' names do not matter where there are ids.

    Raises `InvalidSubnets`, which names every problem by its document, counted
    from 1, the entry's index in it, counted from 0, and the value.
    """
    loader = _Loader(node_label)
    for document in documents:
        loader.add_document(document)
    return loader.table()


def parse(*texts: str, node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table in `texts`: each is one or several JSON documents, one after another.

    See `load`. Raises `InvalidSubnets`.
    """
    loader = _Loader(node_label)
    for text in texts:
        loader.add_text(pieces(text))
    return loader.table()


def read_files(paths: Sequence[str], node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table in these files together; "-" is standard input. Any may be compressed with gzip.

    They are read piece by piece, and other threads run meanwhile. See `load`. Raises
    `InvalidSubnets`, also for a file that cannot be read; a problem begins with its name.
    """
    loader = _Loader(node_label)
    for path in paths:
        loader.begin(f"{_name_of(path)}: ")
        loader.add_text(chunks(path))
    return loader.table(f"{', '.join(map(_name_of, paths))}: ")


def _name_of(path: str) -> str:
    return "standard input" if path == "-" else path


def pasted_table(node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table that `SUBNETS_DATA` is. See `load`. Raises `InvalidSubnets`."""
    loader = _Loader(node_label)
    name = "SUBNETS_DATA: "
    loader.begin(name)
    loader.add_document(SUBNETS_DATA)
    if _has_stray_list(_own_source()):
        loader.add_problem(f"{name}a second list stands below the first; make one list of both")
    return loader.table(name)


def _own_source() -> str:
    try:
        with open(__file__, encoding="utf-8") as source:
            return source.read()
    except (OSError, ValueError):  # there is only the compiled module
        return ""


def _has_stray_list(source: str) -> bool:
    """Whether a list or object stands by itself in a module: Python passes over it in silence."""
    if not re.search(r"^[\[{]", source, re.MULTILINE):
        return False
    import ast  # only now, because it takes much time and memory for a large table

    statements = (each.value for each in ast.parse(source).body if isinstance(each, ast.Expr))
    return any(isinstance(value, (ast.List, ast.Dict)) for value in statements)


class _Origin(NamedTuple):
    """What an entry says besides its address block; one object for all entries that say it."""

    place: Place
    document: str
    vpc: str | None
    owner: str | None


class _Loader:
    """Gathers the entries of all documents, and what is to be said of them.

    An entry is an item of the dictionary of its prefix length, which has the entries'
    order, and its index an item of the array beside it: that is all there is of it.
    """

    def __init__(self, node_label: str) -> None:
        self.by_id = node_label == ZONE_ID_LABEL
        self.levels: defaultdict[int, dict[int, _Origin]] = defaultdict(dict)
        self.indices: defaultdict[int, array[int]] = defaultdict(lambda: array("I"))
        self.origins: dict[object, _Origin] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.is_example = False
        self.begin("")

    def begin(self, source: str) -> None:
        """What follows is from another source; what is said of it begins with this."""
        self.source = self.document = source
        self.documents = 0

    # From texts to documents, entries, and address blocks.

    def add_text(self, chunks: Iterator[str]) -> None:
        reader = Reader(chunks)
        try:
            while first := reader.peek():
                self.next_document()
                if first == "[":
                    self.add_entries(reader.elements())
                elif first == "{":
                    self.add_object(reader.members(streamed="Subnets"))
                else:
                    self.refuse(reader.value())
        except Unreadable as error:
            self.add_problem(f"{self.source}{error}")

    def add_document(self, document: object) -> None:
        self.next_document()
        if isinstance(document, list):
            self.add_entries(document)
        elif isinstance(document, dict):
            self.add_object(document.items())
        else:
            self.refuse(document)

    def next_document(self) -> None:
        """The first is not numbered: there seldom is another."""
        self.documents += 1
        number = f"document {self.documents}, " if self.documents > 1 else ""
        self.document = self.source + number

    def refuse(self, document: object) -> None:
        self.add_problem(
            f"{self.document}expected a list of subnets or an object with the list 'Subnets', "
            f"not {shown(document)}"
        )

    def add_object(self, members: Iterable[tuple[object, object]]) -> None:
        others: list[object] = []
        found = False
        for key, value in members:
            if key == "Subnets" and isinstance(value, (list, Iterator)):
                found = True
                self.add_entries(value)
            elif key == "NextToken" and value:
                self.add_problem(
                    f"{self.document}NextToken: the pages that follow are missing; the aws "
                    "command gathers all without --max-items and --no-paginate"
                )
            else:
                others.append(key)
        if not found:
            self.refuse(dict.fromkeys(others, ...))

    def add_entries(self, entries: Iterable[object]) -> None:
        for index, entry in enumerate(entries):
            self.add_entry(entry, index)

    def add_entry(self, raw: object, index: int) -> None:
        where = f"{self.document}entry {index}"
        if not isinstance(raw, dict):
            self.add_problem(f"{where}: {_no_object(raw)}")
            return
        if _is_ipv6_only(raw):
            subnet = shown(raw["SubnetId"]) if "SubnetId" in raw else "the subnet"
            self.add_warning(f"{where}: {subnet} is IPv6-only and is left out")
            return
        self.is_example = self.is_example or "Example" in raw
        block, origin = _block(raw), self.origin(raw)
        is_fine = block and origin and not any(map(_meant, raw))
        problems = [] if is_fine else list(_problems(raw))
        for problem in problems:
            self.add_problem(f"{where}: {problem}")
        if block and origin and not problems:
            self.add_subnet(block, origin, index)

    def origin(self, raw: dict[str, object]) -> _Origin | None:
        """What the entry says besides its address block; None if something is wrong with it."""
        labels = raw.get("NodeLabels")
        key = (
            self.document,
            raw.get("AvailabilityZone"),
            raw.get("AvailabilityZoneId"),
            tuple(labels.items()) if isinstance(labels, dict) else labels,
            _text(raw, "VpcId"),
            _text(raw, "OwnerId"),
        )
        try:
            known = self.origins.get(key)
        except TypeError:  # a list or an object among them
            known = None
        if known is None and not any(_place_problems(raw)):
            known = self.origins[key] = _Origin(_place(raw), self.document, *key[-2:])
        return known

    def add_subnet(self, block: Block, origin: _Origin, index: int) -> None:
        address, length = block
        level = self.levels[length]
        known = level.get(address)
        if known is None:
            level[address] = origin
            self.indices[length].append(index)
        elif known.place != origin.place:
            self.merge(block, origin, index)

    def merge(self, block: Block, origin: _Origin, index: int) -> None:
        """Adds what another entry says of a block: it may know the id of the zone."""
        address, length = block
        known = self.levels[length][address]
        one, other = known.place, origin.place
        if not self.is_one_zone(one, other) or one.labels != other.labels:
            self.add_problem(self.contradiction(block, origin, f"{origin.document}entry {index}"))
        elif one.zone_id is None:
            completed = known._replace(place=one._replace(zone_id=other.zone_id))
            self.levels[length][address] = self.origins.setdefault(completed, completed)

    def is_one_zone(self, one: Place, other: Place) -> bool:
        """By the name, unless ids are what counts: it may be another zone's in each account."""
        if one.zone == other.zone:
            return one.zone_id == other.zone_id or None in (one.zone_id, other.zone_id)
        return self.by_id and _have_one_id(one, other)

    def contradiction(self, block: Block, origin: _Origin, where: str) -> str:
        cidr, before = _cidr(*block), self.where(block)
        known = self.levels[block[1]][block[0]]
        if self.is_one_zone(known.place, origin.place):
            return f"{where}: {cidr} has other NodeLabels in {before}"
        hint = f". {_HINT_SHARED}" if _have_one_id(known.place, origin.place) else ""
        return f"{where}: {cidr} is in {_told(origin)}; in {before} it is in {_told(known)}{hint}"

    def where(self, block: Block) -> str:
        """The entry that the block was in first."""
        address, length = block
        level = self.levels[length]
        row = operator.indexOf(level, address)
        return f"{level[address].document}entry {self.indices[length][row]}"

    def add_problem(self, problem: str) -> None:
        if len(self.problems) == MAX_SENTENCES:
            raise InvalidSubnets([*self.problems, "and further problems"])
        self.problems.append(problem)

    def add_warning(self, warning: str) -> None:
        if len(self.warnings) <= MAX_SENTENCES:
            self.warnings.append(warning)

    # When all are there.

    def table(self, source: str = "") -> SubnetTable:
        if not self.problems and not self.levels:
            self.problems = [f"{source}the list of subnets is empty", *self.warnings]
        if self.problems:
            raise InvalidSubnets(self.problems)
        places = self.places()
        about_zones = (_without_id if self.by_id else _shuffled)(places.values())
        example = [_EXAMPLE] if self.is_example else []
        warnings = chain(example, about_zones, self.warnings, self.overlaps())
        listed = list(islice(warnings, MAX_SENTENCES + 1))
        if len(listed) > MAX_SENTENCES:
            listed[-1] = "and further warnings"
        return SubnetTable(dict(self.finished_levels(places)), listed, self.is_example)

    def places(self) -> dict[Place, Place]:
        """What becomes of each place: with the zone-id label, those without an id are given one."""
        places = {origin.place for level in self.levels.values() for origin in level.values()}
        if not self.by_id:
            return {place: place for place in places}
        names, ids = _names_and_ids(places)
        return {place: _completed(place, names, ids) for place in places}

    def overlaps(self) -> Iterator[str]:
        """Warnings: a subnet inside one of another VPC; no route can lead to both."""
        if len({origin.vpc for origin in self.origins.values() if origin.vpc}) < 2:
            return
        for length in sorted(self.levels):
            shorter = sorted((each for each in self.levels if each < length), reverse=True)
            for address, origin in self.levels[length].items():
                outer = self.enclosing(address, shorter) if origin.vpc else None
                if outer and self.levels[outer[1]][outer[0]].vpc != origin.vpc:
                    yield (
                        f"{self.told((address, length))} lies inside {self.told(outer)}; "
                        "only one of the two VPCs can be reachable"
                    )

    def enclosing(self, address: int, lengths: Iterable[int]) -> Block | None:
        """The block of a VPC around the address that has the first possible of these lengths."""
        for length in lengths:
            network = address & _netmask(length)
            origin = self.levels[length].get(network)
            if origin is not None and origin.vpc:
                return network, length
        return None

    def told(self, block: Block) -> str:
        """A block that is there, where it is and where it came from."""
        origin = self.levels[block[1]][block[0]]
        return f"{_cidr(*block)} in {_told(origin)} ({self.where(block)})"

    def finished_levels(self, places: Mapping[Place, Place]) -> Iterator[tuple[int, Level]]:
        """The table's levels; for each, one of our own goes, because both would be large."""
        while self.levels:
            length, level = self.levels.popitem()
            yield length, {address: places[origin.place] for address, origin in level.items()}


def _no_object(raw: object) -> str:
    hint = "; if it was pasted below the first list, make one list of both"
    return f"expected an object, not {shown(raw)}{hint if isinstance(raw, list) else ''}"


def _told(origin: _Origin) -> str:
    """The zone, and the VPC and its owner as far as they are known."""
    zone = _zone_text(origin.place.zone, origin.place.zone_id)
    source = " of ".join(shown(name) for name in (origin.vpc, origin.owner) if name)
    return ", ".join(filter(None, (zone, source)))


def _text(raw: dict[str, object], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def _cidr_of(raw: dict[str, object]) -> object:
    return raw.get("CIDRBlock", raw.get("CidrBlock"))


def _is_ipv6_only(raw: dict[str, object]) -> bool:
    """Such a subnet has no CidrBlock in AWS's output, and a null where a --query picks that."""
    if _cidr_of(raw) is not None or raw.get("CidrBlock") is not None:
        return False
    return "CIDRBlock" in raw or "CidrBlock" in raw or raw.get("Ipv6Native") is True


def _block(raw: dict[str, object]) -> Block | None:
    """The entry's address block; None if something is wrong with it."""
    cidr = _cidr_of(raw)
    found = _CIDR.fullmatch(cidr) if isinstance(cidr, str) else None
    if found is None or raw.get("CidrBlock", cidr) != cidr:
        return None
    a, b, c, d, length = map(int, found.groups())
    address = a << 24 | b << 16 | c << 8 | d
    return None if address & ~_netmask(length) else (address, length)


def _place(raw: dict[str, object]) -> Place:
    """The place of an entry that has no problems."""
    labels = raw.get("NodeLabels")
    return Place(
        zone=str(raw["AvailabilityZone"]),
        zone_id=_text(raw, "AvailabilityZoneId"),
        labels=tuple(labels.items()) if isinstance(labels, dict) else (),
    )


def _have_one_id(one: Place, other: Place) -> bool:
    return one.zone_id is not None and one.zone_id == other.zone_id


# What is wrong with an entry.


def _problems(raw: dict[str, object]) -> Iterator[str]:
    """What is wrong with one entry, a sentence each."""
    for key in filter(_meant, raw):
        yield f"there is no key {shown(key)}; {_meant(key)} is close to it"
    one, other = raw.get("CIDRBlock"), raw.get("CidrBlock")
    if one != other and "CIDRBlock" in raw and "CidrBlock" in raw:
        yield f"CIDRBlock {shown(one)} is not the same as CidrBlock {shown(other)}"
    elif _block(raw) is None:
        yield _cidr_problem(_cidr_of(raw))
    yield from _place_problems(raw)


@lru_cache(maxsize=1024)
def _meant(key: object) -> str | None:
    """The key that this one was probably meant to be: another case, or one or two slips."""
    if not isinstance(key, str) or key == "CidrBlock" or key in KEYS.values():
        return None
    from difflib import get_close_matches  # only now, because most have no use for it

    as_long = [known for known in KEYS if abs(len(known) - len(key)) <= 2]
    return next((KEYS[known] for known in get_close_matches(key.lower(), as_long, 1, 0.85)), None)


def _cidr_problem(cidr: object) -> str:
    """What is wrong with it; something is."""
    if cidr is None:
        return "CIDRBlock is missing"
    if not isinstance(cidr, str):
        return f"CIDRBlock {shown(cidr)} is not a string"
    if ":" in cidr:
        return f"CIDRBlock {shown(cidr)} is IPv6; only IPv4 subnets are matched"
    if not _CIDR.fullmatch(cidr):
        return f"CIDRBlock {shown(cidr)} is not a CIDR such as 10.0.0.0/24"
    network = IPv4Network(cidr, strict=False)
    return f"CIDRBlock {shown(cidr)} has host bits set; the subnet is {network}"


def _place_problems(raw: dict[str, object]) -> Iterator[str]:
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


# What looks wrong about the zones.


def _names_and_ids(places: Iterable[Place]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The names of each zone id, and the ids of each zone name."""
    names: dict[str, set[str]] = {}
    ids: dict[str, set[str]] = {}
    for zone, zone_id, _ in places:
        if zone_id is not None:
            names.setdefault(zone_id, set()).add(zone)
            ids.setdefault(zone, set()).add(zone_id)
    return names, ids


def _completed(place: Place, names: dict[str, set[str]], ids: dict[str, set[str]]) -> Place:
    """The place with the id of its zone, if others say it and nothing says another one."""
    if place.zone_id is None and len(ids.get(place.zone, ())) == 1:
        (zone_id,) = ids[place.zone]
        if len(names[zone_id]) == 1:
            return place._replace(zone_id=zone_id)
    return place


def _shuffled(places: Iterable[Place]) -> Iterator[str]:
    """Warnings: a zone id with several names, or a zone name with several ids."""
    names, ids = _names_and_ids(places)
    for kind, other, seen in (("zone id", "names", names), ("zone name", "ids", ids)):
        for value in sorted(value for value in seen if len(seen[value]) > 1):
            yield f"{kind} {value} has several {other}: {_listed(seen[value])}. {_HINT_SHUFFLED}"


def _without_id(places: Iterable[Place]) -> Iterator[str]:
    """A warning, if there are zones without an id beside others that have one."""
    zones = {place.zone for place in places if place.zone_id is None}
    if zones and any(place.zone_id is not None for place in places):
        yield (
            f"no AvailabilityZoneId for {_listed(zones)}, beside others that have one: these "
            f"keep the label {ZONE_LABEL}, as is right for nodes without a zone id"
        )


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    more = len(first) - MAX_LISTED
    return ", ".join(first[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


# The command.


def main(arguments: list[str] | None = None) -> int:
    """Checks tables and prints them merged and sorted; the exit status is 2 if they are wrong."""
    options = _parse_arguments(arguments)
    try:
        if "-" in options.files and sys.stdin and sys.stdin.isatty():
            print("reading standard input; Ctrl-D ends it, --help says more", file=sys.stderr)
        table = read_files(options.files, options.node_label)
        for warning in filter(None, (*table.warnings, _size_warning(table))):
            print(f"warning: {warning}", file=sys.stderr)
        sys.stdout.writelines(lines(table))
    except InvalidSubnets as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell says of what SIGINT has ended
    return 0


def _parse_arguments(arguments: list[str] | None) -> Any:
    import argparse  # the service has no use for it, nor memory to spare

    parser = argparse.ArgumentParser(
        prog="python3 subnets.py",
        description="Checks tables of subnets, and prints them merged and sorted: ready to be "
        "pasted into SUBNETS_DATA, or to be the file that SUBNETS_FILE names. The exit status is "
        "2 if something is wrong with them; what it is goes to standard error.",
        epilog="For example: aws ec2 describe-subnets --output json | python3 subnets.py",
    )
    parser.add_argument(
        "files",
        nargs="*",
        default=["-"],
        metavar="FILE",
        help="what 'aws ec2 describe-subnets --output json' prints, or this program; several in "
        "one file, or compressed with gzip, are fine too; - (the default) is standard input",
    )
    parser.add_argument(
        "--node-label",
        choices=[ZONE_LABEL, ZONE_ID_LABEL],
        default=ZONE_LABEL,
        help="the service's NODE_LABEL, with which it will use the table; the default is the first",
    )
    return parser.parse_args(arguments)


def lines(table: SubnetTable) -> Iterator[str]:
    """The table as JSON, an entry a line."""
    separator = "[\n"
    for subnet in table:
        yield f"{separator}    {json.dumps(_entry(subnet))}"
        separator = ",\n"
    yield "\n]\n"


def _entry(subnet: Subnet) -> dict[str, object]:
    entry: dict[str, object] = {"CIDRBlock": subnet.cidr, "AvailabilityZone": subnet.zone}
    if subnet.zone_id is not None:
        entry["AvailabilityZoneId"] = subnet.zone_id
    if subnet.labels:
        entry["NodeLabels"] = dict(subnet.labels)
    return entry


def _size_warning(table: SubnetTable) -> str | None:
    """What kubectl would say of the table in a ConfigMap, and what helps."""
    size = sum(map(len, lines(table)))  # all of it is ASCII
    if size <= MAX_CONFIGMAP_SIZE:
        return None
    compressor = zlib.compressobj(9, wbits=31)  # as gzip -9 does it
    packed = sum(len(compressor.compress(line.encode())) for line in lines(table))
    packed += len(compressor.flush())
    said = f"{size:,} bytes are too large for a ConfigMap, which holds {MAX_CONFIGMAP_SIZE:,}"
    if packed <= MAX_CONFIGMAP_SIZE:
        return f"{said}; put through gzip -9 they are {packed:,}: name the file subnets.json.gz"
    return f"{said}, and {packed:,} after gzip -9 are, too: leave out what the cluster cannot reach"


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # ends quietly, as other filters do, if its reader has enough
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
