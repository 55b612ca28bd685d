"""Tables out of JSON documents: the entries, merged, checked, and what is to be said of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain, islice

from common.errors import shown
from common.names import ZONE_ID_LABEL, ZONE_LABEL
from lookup.entry import (
    blocks_of,
    is_beside_what_is_meant,
    is_without_block,
    location_of,
    location_problems,
    meant,
    problems_of,
    text_of,
)
from lookup.gathered import Gathered, Origin
from lookup.json_stream import Reader, Unreadable, chunks, pieces
from lookup.table import Block, InvalidSubnets, SubnetTable
from lookup.zones import ZoneNames, without_id

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


class TableReader:
    """Reads documents one after another, and notes what is to be said of their entries."""

    def __init__(self, node_label: str) -> None:
        self.node_label = node_label
        self.by_id = node_label == ZONE_ID_LABEL
        self.gathered = Gathered(self.by_id)
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
        if is_without_block(raw):
            subnet = shown(raw["SubnetId"]) if "SubnetId" in raw else "the subnet"
            self.add_warning(
                f"{where}: {subnet} is IPv6-only, names no block that is associated, and is left out"
            )
            return
        self.is_example = self.is_example or "Example" in raw
        blocks, origin = blocks_of(raw), self.origin(raw)
        is_plain = not any(map(meant, raw))
        problems = [] if blocks and origin and is_plain else list(problems_of(raw))
        for problem in problems:
            self.add_problem(f"{where}: {problem}")
        if not is_plain:
            self.warn_of_keys(raw, where)
        if origin and not problems:
            self.add_blocks(blocks, origin, index)

    def add_blocks(self, blocks: Iterable[Block], origin: Origin, index: int) -> None:
        for block in blocks:
            if problem := self.gathered.add(block, origin, index):
                self.add_problem(problem)

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

    def add_problem(self, problem: str) -> None:
        if len(self.problems) == MAX_SENTENCES:
            raise InvalidSubnets([*self.problems, "and further problems"])
        self.problems.append(problem)

    def add_warning(self, warning: str) -> None:
        if len(self.warnings) <= MAX_SENTENCES:
            self.warnings.append(warning)

    # When all are there.

    def table(self, source: str = "") -> SubnetTable:
        if not self.problems and not self.gathered.levels:
            self.problems = [f"{source}the list of subnets is empty", *self.warnings]
        if self.problems:
            raise InvalidSubnets(self.problems)
        locations = self.gathered.locations()
        names = ZoneNames(locations)
        finished = {each: names.completed(each) if self.by_id else each for each in locations}
        about_zones = without_id(finished.values()) if self.by_id else names.warnings()
        example = [_EXAMPLE] if self.is_example else []
        warnings = chain(example, about_zones, self.warnings, self.overlaps())
        listed = list(islice(warnings, MAX_SENTENCES + 1))
        if len(listed) > MAX_SENTENCES:
            listed[-1] = "and further warnings"
        return SubnetTable(
            dict(self.gathered.finished_levels(finished)),
            listed,
            node_label=self.node_label,
            is_example=self.is_example,
            modified_at=self.modified_at,
            gathered_at=self.gathered_at,
        )

    def overlaps(self) -> Iterator[str]:
        several_vpcs = len({origin.vpc for origin in self.origins.values() if origin.vpc}) > 1
        return self.gathered.overlaps() if several_vpcs else iter(())


def _no_object(raw: object) -> str:
    hint = "; if it was pasted below the first list, make one list of both"
    return f"expected an object, not {shown(raw)}{hint if isinstance(raw, list) else ''}"
