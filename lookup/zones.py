"""Where a subnet is: its zone, which has a name and may have an id, and what looks wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, final

from common.names import ZONE_ID_LABEL, ZONE_LABEL

# Zones or ids that one sentence lists.
MAX_LISTED = 16

_USE_IDS = f"NODE_LABEL={ZONE_ID_LABEL} (for python3 subnets.py: --node-label)"
_HINT_SHUFFLED = (
    "AWS accounts can have different names for one zone, only its id is the same for all: "
    f"set {_USE_IDS}"
)
HINT_SHARED = (
    "AWS accounts can have different names for one zone, and by its id it is one: with "
    f"{_USE_IDS} names do not matter; otherwise keep what the cluster's own account says"
)


@final
class Location(NamedTuple):
    """All of a subnet but its address block; `labels` are the entry's own `NodeLabels`."""

    zone: str
    zone_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()


def zone_text_of(zone: str, zone_id: str | None) -> str:
    """The zone as a message names it."""
    return f"zone {zone}" + (f" ({zone_id})" if zone_id else "")


def have_one_id(one: Location, other: Location) -> bool:
    return one.zone_id is not None and one.zone_id == other.zone_id


class ZoneNames:
    """Which names the zones' ids have, and which ids their names."""

    def __init__(self, locations: Iterable[Location]) -> None:
        self.names: dict[str, set[str]] = {}
        self.ids: dict[str, set[str]] = {}
        for zone, zone_id, _ in locations:
            if zone_id is not None:
                self.names.setdefault(zone_id, set()).add(zone)
                self.ids.setdefault(zone, set()).add(zone_id)
        # The names that have several ids, or share an id with another name.
        self.ambiguous = frozenset(
            name
            for name, ids in self.ids.items()
            if len(ids) > 1 or any(len(self.names[zone_id]) > 1 for zone_id in ids)
        )

    def completed(self, location: Location) -> Location:
        """The location with the id of its zone, if others say it and nothing says another one."""
        known = self.ids.get(location.zone)
        if location.zone_id is not None or known is None or location.zone in self.ambiguous:
            return location
        return location._replace(zone_id=min(known))

    def warnings(self) -> Iterator[str]:
        """A sentence for each id with several names, and for each name with several ids."""
        for kind, other, seen in (
            ("zone id", "names", self.names),
            ("zone name", "ids", self.ids),
        ):
            for value in sorted(value for value in seen if len(seen[value]) > 1):
                yield f"{kind} {value} has several {other}: {_listed(seen[value])}. {_HINT_SHUFFLED}"


def without_id(locations: Iterable[Location]) -> Iterator[str]:
    """A warning, if there are zones without an id beside others that have one."""
    found = set(locations)
    zones = {location.zone for location in found if location.zone_id is None}
    if zones and any(location.zone_id is not None for location in found):
        yield (
            f"no AvailabilityZoneId for {_listed(zones)}, beside others that have one: these "
            f"keep the label {ZONE_LABEL}, as is right for nodes without a zone id"
        )


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    more = len(first) - MAX_LISTED
    return ", ".join(first[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
