"""The table of subnets: which subnet holds an address, and where that is. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple, final

from common.names import ZONE_ID_LABEL, ZONE_LABEL


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
        return zone_text_of(self.zone, self.zone_id)

    def node_labels(self, zone_label: str = ZONE_LABEL) -> tuple[tuple[str, str], ...]:
        """The (key, value) pairs that a node here carries, most specific first.

        The last is the zone. Where `zone_label` asks for the zone's id and the
        subnet has none (on-premises, say), it is the zone's name all the same.
        """
        if zone_label == ZONE_ID_LABEL and self.zone_id is not None:
            return (*self.labels, (ZONE_ID_LABEL, self.zone_id))
        return (*self.labels, (ZONE_LABEL, self.zone))


def zone_text_of(zone: str, zone_id: str | None) -> str:
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
            (netmask(length), levels[length]) for length in sorted(levels, reverse=True)
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
            yield Subnet(cidr_of(address, length), found.zone, found.zone_id, found.labels)

    def match(self, address: IPv4Address) -> Subnet | None:
        """The most specific subnet that holds `address`, or None."""
        value = int(address)
        for mask, level in self._levels:
            found = level.get(value & mask)
            if found is not None:
                if type(found) is Place:
                    cidr = cidr_of(value & mask, mask.bit_count())
                    level[value & mask] = found = Subnet(cidr, *found)
                return found
        return None


def netmask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


def cidr_of(address: int, length: int) -> str:
    return f"{IPv4Address(address)}/{length}"
