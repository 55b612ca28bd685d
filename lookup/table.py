"""The table of subnets: which subnet holds an address, and where that is. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from common.names import ZONE_ID_LABEL, ZONE_LABEL
from lookup.zones import Location, ZoneNames, zone_text_of


class InvalidSubnets(ValueError):
    """The table cannot be used; `problems` holds a sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# The bits of an address, 32 or 128, and the length of the prefix.
Size = tuple[int, int]

# A size, and the network's address as a number.
Block = tuple[Size, int]

# The addresses of so many bits.
FAMILIES = {32: IPv4Address, 128: IPv6Address}


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


# The subnets of one size, by the network's address as a number.
Level = dict[int, "Location | Subnet"]


class SubnetTable:
    """Finds the subnet of an address: the longest prefix wins.

    `levels` has for each prefix length in use a dictionary, so a match costs at most 33
    probes, or 129 for IPv6, whatever the number of subnets. It takes some 75 bytes a subnet:
    a `Subnet` is made when it is found for the first time.

    `warnings` holds sentences about what is usable but looks wrong; `is_example` tells the
    table that is shipped, or one that has some of it left. `modified_at` is when its files
    were changed last, and `gathered_at` since when its data holds, as it says itself: both in
    Unix time, or None. `zones` are the names and ids of all zones.
    `fingerprint` is a number below 2^48, so that a metric holds it to the last bit; tables
    with the same subnets have the same, in whatever order these were given.
    """

    def __init__(
        self,
        levels: Mapping[Size, Level],
        warnings: Iterable[str] = (),
        node_label: str = ZONE_LABEL,
        is_example: bool = False,
        modified_at: float | None = None,
        gathered_at: float | None = None,
    ) -> None:
        self._ipv4, self._ipv6 = (
            [
                (netmask(size), levels[size])
                for size in sorted(levels, reverse=True)
                if size[0] == bits
            ]
            for bits in FAMILIES
        )
        self.warnings = tuple(warnings)
        self.is_example = is_example
        self.modified_at = modified_at
        self.gathered_at = gathered_at
        self.has_ipv6 = bool(self._ipv6)
        found = {Location(*s[-3:]) for level in levels.values() for s in level.values()}
        self.zones = frozenset(text for s in found for text in s[:2] if text is not None)
        self._by_id = node_label == ZONE_ID_LABEL
        self._ambiguous = ZoneNames(found).ambiguous
        self.fingerprint = _fingerprint(levels)

    def __len__(self) -> int:
        return sum(len(level) for _, level in [*self._ipv4, *self._ipv6])

    def __iter__(self) -> Iterator[Subnet]:
        """The subnets by address, IPv4 first, an enclosing one before those inside it."""
        for family, masked in zip(FAMILIES.values(), (self._ipv4, self._ipv6), strict=True):
            levels = {mask.bit_count(): level for mask, level in masked}
            for block in sorted(key << 8 | length for length in levels for key in levels[length]):
                address, length = block >> 8, block & 255
                found = levels[length][address]
                yield Subnet(f"{family(address)}/{length}", *found[-3:])

    def match(self, address: IPv4Address | IPv6Address) -> Subnet | None:
        """The most specific subnet that holds `address`, or None."""
        value = int(address)
        for mask, level in self._ipv4 if type(address) is IPv4Address else self._ipv6:
            found = level.get(value & mask)
            if found is not None:
                if type(found) is Location:
                    cidr = f"{type(address)(value & mask)}/{mask.bit_count()}"
                    level[value & mask] = found = Subnet(cidr, *found)
                return found
        return None

    def is_ambiguous(self, subnet: Subnet) -> bool:
        """Whether the node label of the subnet's zone may stand for another zone as well.

        That is so where the label has the zone's name, and the name has several ids in the
        table, or its id has several names: as where tables of AWS accounts were merged. An id
        is the same for all accounts. So with `ZONE_ID_LABEL` it is so only where a subnet
        has no id of its own, and the ids that others have for its zone's name contradict.
        """
        has_id = self._by_id and subnet.zone_id is not None
        return not has_id and subnet.zone in self._ambiguous


def _fingerprint(levels: Mapping[Size, Level]) -> int:
    groups: dict[tuple[Size, tuple[object, ...]], list[int]] = {}
    for size, level in levels.items():
        for address, found in level.items():
            groups.setdefault((size, tuple(found)[-3:]), []).append(address)
    digest = sha256()
    for group in sorted(groups, key=repr):
        digest.update(f"{group} {sorted(groups[group])}\n".encode())
    return int.from_bytes(digest.digest()[:6])


def netmask(size: Size) -> int:
    bits, length = size
    return (1 << bits) - (1 << bits - length)


def cidr_of(size: Size, address: int) -> str:
    bits, length = size
    return f"{FAMILIES[bits](address)}/{length}"
