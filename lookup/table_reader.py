"""Tables out of JSON documents: the entries, merged, checked, and what is to be said of them."""

from __future__ import annotations

import operator
import os
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain, islice
from typing import NamedTuple

from common.errors import shown
from common.names import ZONE_ID_LABEL, ZONE_LABEL
from lookup.entry import (
    block_of,
    is_beside_what_is_meant,
    is_ipv6_only,
    location_of,
    location_problems,
    meant,
    problems_of,
    text_of,
)
from lookup.json_stream import Reader, Unreadable, chunks, pieces
from lookup.table import Block, InvalidSubnets, Level, SubnetTable, cidr_of, netmask
from lookup.zones import (
    HINT_SHARED,
    Location,
    ZoneNames,
    have_one_id,
    without_id,
    zone_text_of,
)

# Problems, and warnings, that are listed: who has more has made one mistake many times.
MAX_SENTENCES = 200

_EXAMPLE = (
    'the table has entries with the key "Example": it is the one that is shipped to try the '
    "service with, and no Pod is placed right by it; put yours in its place"
)
# Of a file that the service reads.
_SEVERAL = (
    "there are several documents, and the first could be taken for the whole while the others "
    "are still being written; python3 subnets.py makes one table of them"
)


def load(*documents: object, node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table that `documents` (decoded JSON) make up together.

    Each is a list in the form of `SUBNETS_DATA` or the whole output of
    `aws ec2 describe-subnets`. `node_label` is the label that will stand for the
    zone: with `ZONE_ID_LABEL`, zones' names do not matter where there are ids.

    Raises `InvalidSubnets`, which names every problem by its document, counted
    from 1, the entry's index in it, counted from 0, and the value.
    """
    loader = TableReader(node_label)
    for document in documents:
        loader.add_document(document)
    return loader.table()


def parse(*texts: str, node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table in `texts`: each is one or several JSON documents, one after another.

    See `load`. Raises `InvalidSubnets`.
    """
    loader = TableReader(node_label)
    for text in texts:
        loader.add_text(pieces(text))
    return loader.table()


def read_files(paths: Sequence[str], node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table in these files together; "-" is standard input. Any may be compressed with gzip.

    They are read piece by piece, and other threads run meanwhile. See `load`. Raises
    `InvalidSubnets`, also for a file that cannot be read; a problem begins with its name.
    """
    loader = TableReader(node_label)
    for path in paths:
        loader.begin(f"{_name_of(path)}: ")
        loader.note_time_of(path)
        loader.add_text(chunks(path))
    return loader.table(f"{', '.join(map(_name_of, paths))}: ")


def read_file(path: str, node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table in a file that may be written meanwhile: it is one JSON document.

    No beginning of one is a document, so what is there is the whole. The first of several
    would be taken for it. See `read_files`. Raises `InvalidSubnets`.
    """
    loader = TableReader(node_label)
    loader.begin(f"{path}: ")
    loader.note_time_of(path)
    loader.add_text(chunks(path), is_one=True)
    return loader.table(f"{path}: ")


def _name_of(path: str) -> str:
    return "standard input" if path == "-" else path


class Origin(NamedTuple):
    """What an entry says besides its address block; one object for all entries that say it."""

    location: Location
    document: str
    vpc: str | None
    owner: str | None


class TableReader:
    """Gathers the entries of all documents, and what is to be said of them.

    An entry is an item of the dictionary of its prefix length, which has the entries'
    order, and its index an item of the array beside it: that is all there is of it.
    """

    def __init__(self, node_label: str) -> None:
        self.node_label = node_label
        self.by_id = node_label == ZONE_ID_LABEL
        self.levels: defaultdict[int, dict[int, Origin]] = defaultdict(dict)
        self.indices: defaultdict[int, array[int]] = defaultdict(lambda: array("I"))
        self.origins: dict[object, Origin] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.keys: set[str] = set()  # that are warned of
        self.is_example = False
        self.modified_at: float | None = None
        self.gathered_at: float | None = None
        self.begin("")

    def begin(self, source: str) -> None:
        """What follows is from another source; what is said of it begins with this."""
        self.source = self.document = source
        self.documents = 0

    def note_time_of(self, path: str) -> None:
        """The table is as old as the file that was changed last, through all symbolic links."""
        with suppress(OSError):  # a standard input has none that says anything
            self.modified_at = max(self.modified_at or 0.0, os.stat(path).st_mtime)

    def note_gathering(self, value: object) -> None:
        """The table is as old as the oldest of what it is made of."""
        try:
            time = datetime.fromisoformat(value).timestamp()  # type: ignore[arg-type]
        except (OverflowError, TypeError, ValueError):
            self.add_problem(
                f"{self.document}GatheredAt {shown(value)} is not a time such as "
                "2026-01-31T12:00:00Z"
            )
        else:
            self.gathered_at = time if self.gathered_at is None else min(self.gathered_at, time)

    # From texts to documents, entries, and address blocks.

    def add_text(self, chunks: Iterator[str], is_one: bool = False) -> None:
        reader = Reader(chunks)
        try:
            while first := reader.peek():
                if is_one and self.documents:
                    raise Unreadable(_SEVERAL)
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
            elif key == "GatheredAt":
                self.note_gathering(value)
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
        if is_ipv6_only(raw):
            subnet = shown(raw["SubnetId"]) if "SubnetId" in raw else "the subnet"
            self.add_warning(f"{where}: {subnet} is IPv6-only and is left out")
            return
        self.is_example = self.is_example or "Example" in raw
        block, origin = block_of(raw), self.origin(raw)
        is_plain = not any(map(meant, raw))
        problems = [] if block and origin and is_plain else list(problems_of(raw))
        if not is_plain:
            self.warn_of_keys(raw, where)
        for problem in problems:
            self.add_problem(f"{where}: {problem}")
        if block and origin and not problems:
            self.add_subnet(block, origin, index)

    def warn_of_keys(self, raw: dict[str, object], where: str) -> None:
        """Once for each key: it may be in every entry."""
        for key in filter(meant, raw):
            if key not in self.keys and is_beside_what_is_meant(key, raw):
                self.keys.add(key)
                self.add_warning(f"{where}: the key {shown(key)} beside {meant(key)} is not read")

    def origin(self, raw: dict[str, object]) -> Origin | None:
        """What the entry says besides its address block; None if something is wrong with it."""
        labels = raw.get("NodeLabels")
        key = (
            self.document,
            raw.get("AvailabilityZone"),
            raw.get("AvailabilityZoneId"),
            tuple(labels.items()) if isinstance(labels, dict) else labels,
            text_of(raw, "VpcId"),
            text_of(raw, "OwnerId"),
        )
        try:
            known = self.origins.get(key)
        except TypeError:  # a list or an object among them
            known = None
        if known is None and not any(location_problems(raw)):
            known = self.origins[key] = Origin(location_of(raw), self.document, *key[-2:])
        return known

    def add_subnet(self, block: Block, origin: Origin, index: int) -> None:
        address, length = block
        level = self.levels[length]
        known = level.get(address)
        if known is None:
            level[address] = origin
            self.indices[length].append(index)
        elif known.location != origin.location:
            self.merge(block, origin, index)

    def merge(self, block: Block, origin: Origin, index: int) -> None:
        """Adds what another entry says of a block: it may know the id of the zone."""
        address, length = block
        known = self.levels[length][address]
        one, other = known.location, origin.location
        if not self.is_one_zone(one, other) or one.labels != other.labels:
            self.add_problem(self.contradiction(block, origin, f"{origin.document}entry {index}"))
        elif one.zone_id is None:
            completed = known._replace(location=one._replace(zone_id=other.zone_id))
            self.levels[length][address] = self.origins.setdefault(completed, completed)

    def is_one_zone(self, one: Location, other: Location) -> bool:
        """By the name, unless ids are what counts: it may be another zone's in each account."""
        if one.zone == other.zone:
            return one.zone_id == other.zone_id or None in (one.zone_id, other.zone_id)
        return self.by_id and have_one_id(one, other)

    def contradiction(self, block: Block, origin: Origin, where: str) -> str:
        cidr, before = cidr_of(*block), self.where(block)
        known = self.levels[block[1]][block[0]]
        if self.is_one_zone(known.location, origin.location):
            return f"{where}: {cidr} has other NodeLabels in {before}"
        hint = f". {HINT_SHARED}" if have_one_id(known.location, origin.location) else ""
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
        locations = {each.location for level in self.levels.values() for each in level.values()}
        names = ZoneNames(locations)
        finished = {each: names.completed(each) if self.by_id else each for each in locations}
        about_zones = without_id(finished.values()) if self.by_id else names.warnings()
        example = [_EXAMPLE] if self.is_example else []
        warnings = chain(example, about_zones, self.warnings, self.overlaps())
        listed = list(islice(warnings, MAX_SENTENCES + 1))
        if len(listed) > MAX_SENTENCES:
            listed[-1] = "and further warnings"
        return SubnetTable(
            dict(self.finished_levels(finished)),
            listed,
            node_label=self.node_label,
            is_example=self.is_example,
            modified_at=self.modified_at,
            gathered_at=self.gathered_at,
        )

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
            network = address & netmask(length)
            origin = self.levels[length].get(network)
            if origin is not None and origin.vpc:
                return network, length
        return None

    def told(self, block: Block) -> str:
        """A block that is there, where it is and where it came from."""
        origin = self.levels[block[1]][block[0]]
        return f"{cidr_of(*block)} in {_told(origin)} ({self.where(block)})"

    def finished_levels(
        self, locations: Mapping[Location, Location]
    ) -> Iterator[tuple[int, Level]]:
        """The table's levels; for each, one of our own goes, because both would be large."""
        while self.levels:
            length, level = self.levels.popitem()
            yield length, {address: locations[origin.location] for address, origin in level.items()}


def _no_object(raw: object) -> str:
    hint = "; if it was pasted below the first list, make one list of both"
    return f"expected an object, not {shown(raw)}{hint if isinstance(raw, list) else ''}"


def _told(origin: Origin) -> str:
    """The zone, and the VPC and its owner as far as they are known."""
    zone = zone_text_of(origin.location.zone, origin.location.zone_id)
    source = " of ".join(shown(name) for name in (origin.vpc, origin.owner) if name)
    return ", ".join(filter(None, (zone, source)))
