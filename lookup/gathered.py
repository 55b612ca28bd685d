"""The address blocks of all entries, where each of them is, and which entry says so."""

from __future__ import annotations

import operator
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from common.errors import shown
from lookup.table import Block, Level, Size, cidr_of, netmask
from lookup.zones import HINT_SHARED, Location, have_one_id, zone_text_of


class Origin(NamedTuple):
    """What an entry says besides its address blocks; one object for all entries that say it."""

    location: Location
    document: str
    vpc: str | None
    owner: str | None


class Gathered:
    """Merges what several entries say of a block, and finds blocks that contradict each other.

    `by_id` tells that zones are told apart by their ids. A block is an item of the dictionary
    of its size, which has the blocks' order, and the index of its entry an item of the array
    beside it: that is all there is of it.
    """

    def __init__(self, by_id: bool) -> None:
        self.by_id = by_id
        self.levels: defaultdict[Size, dict[int, Origin]] = defaultdict(dict)
        self.indices: defaultdict[Size, array[int]] = defaultdict(lambda: array("I"))
        self.completed: dict[Origin, Origin] = {}

    def add(self, block: Block, origin: Origin, index: int) -> str | None:
        """Adds a block of an entry; what is wrong with it beside the others, if anything."""
        size, address = block
        level = self.levels[size]
        known = level.get(address)
        if known is None:
            level[address] = origin
            self.indices[size].append(index)
            return None
        if known.location == origin.location:
            return None
        return self._merge(block, origin, index)

    def _merge(self, block: Block, origin: Origin, index: int) -> str | None:
        """Adds what another entry says of a block: it may know the id of the zone."""
        size, address = block
        known = self.levels[size][address]
        one, other = known.location, origin.location
        if not self._is_one_zone(one, other) or one.labels != other.labels:
            return self._contradiction(block, origin, f"{origin.document}entry {index}")
        if one.zone_id is None:
            completed = known._replace(location=one._replace(zone_id=other.zone_id))
            self.levels[size][address] = self.completed.setdefault(completed, completed)
        return None

    def _is_one_zone(self, one: Location, other: Location) -> bool:
        """By the name, unless ids are what counts: it may be another zone's in each account."""
        if one.zone == other.zone:
            return one.zone_id == other.zone_id or None in (one.zone_id, other.zone_id)
        return self.by_id and have_one_id(one, other)

    def _contradiction(self, block: Block, origin: Origin, where: str) -> str:
        cidr, before = cidr_of(*block), self._where(block)
        size, address = block
        known = self.levels[size][address]
        if self._is_one_zone(known.location, origin.location):
            return f"{where}: {cidr} has other NodeLabels in {before}"
        hint = f". {HINT_SHARED}" if have_one_id(known.location, origin.location) else ""
        return f"{where}: {cidr} is in {_told(origin)}; in {before} it is in {_told(known)}{hint}"

    def _where(self, block: Block) -> str:
        """The entry that the block was in first."""
        size, address = block
        level = self.levels[size]
        row = operator.indexOf(level, address)
        return f"{level[address].document}entry {self.indices[size][row]}"

    # When all are there.

    def locations(self) -> set[Location]:
        """Where they are."""
        return {origin.location for level in self.levels.values() for origin in level.values()}

    def overlaps(self) -> Iterator[str]:
        """Warnings: a subnet inside one of another VPC; no route can lead to both."""
        for size in sorted(self.levels):
            shorter = [(size[0], length) for length in reversed(range(size[1]))]
            shorter = [each for each in shorter if each in self.levels]
            for address, origin in self.levels[size].items():
                outer = self._enclosing(address, shorter) if origin.vpc else None
                if outer and self.levels[outer[0]][outer[1]].vpc != origin.vpc:
                    yield (
                        f"{self._told((size, address))} lies inside {self._told(outer)}; "
                        "only one of the two VPCs can be reachable"
                    )

    def _enclosing(self, address: int, sizes: Iterable[Size]) -> Block | None:
        """The block of a VPC around the address that has the first possible of these sizes."""
        for size in sizes:
            network = address & netmask(size)
            origin = self.levels[size].get(network)
            if origin is not None and origin.vpc:
                return size, network
        return None

    def _told(self, block: Block) -> str:
        """A block that is there, where it is and where it came from."""
        size, address = block
        return f"{cidr_of(*block)} in {_told(self.levels[size][address])} ({self._where(block)})"

    def finished_levels(
        self, finished: Mapping[Location, Location]
    ) -> Iterator[tuple[Size, Level]]:
        """The table's levels; for each, one of our own goes, because both would be large."""
        while self.levels:
            size, level = self.levels.popitem()
            yield size, {address: finished[origin.location] for address, origin in level.items()}


def _told(origin: Origin) -> str:
    """The zone, and the VPC and its owner as far as they are known."""
    zone = zone_text_of(origin.location.zone, origin.location.zone_id)
    source = " of ".join(shown(name) for name in (origin.vpc, origin.owner) if name)
    return ", ".join(filter(None, (zone, source)))
