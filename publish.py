"""Puts a table of subnets in the place of the one in a ConfigMap, unless it would be a worse one.

    python3 publish.py FILE...

The files are as `aws ec2 describe-subnets` prints them, or as `subnets.py` does.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from time import time
from typing import Any, NamedTuple

from common.errors import complain
from common.kubernetes import Client, KubernetesError
from common.names import ZONE_ID_LABEL
from common.settings import ApiServerSettings, ZoneSettings, setting, text
from lookup.table import InvalidSubnets, Subnet, SubnetTable
from lookup.table_reader import parse, read_files
from lookup.table_writer import MAX_CONFIGMAP_SIZE, lines

AGENT = "automatic-zone-placement/publish"

# The file that the ConfigMap is to the service.
KEY = "subnets.json"

# Bytes up to which a table is text in the ConfigMap, for people to read. All the rest of it
# has to fit besides.
MAX_TEXT_SIZE = MAX_CONFIGMAP_SIZE // 2

# If more than one entry in so many would vanish or move, it is more likely that something was
# not asked, or asked in the wrong place, than that so much has changed.
SHARE = 3

# Hours for which a table counts: a run every 15 minutes would otherwise get rid of all of it, a
# third at a time, in an evening.
MEMORY = 24

# Seconds after which a table is written again though it is the same: for what it says of when it
# was gathered, of which an alert is made.
REFRESH = 24 * 3600

# Annotations of the ConfigMap: what was published in the last hours; and, for people to set,
# that so much may vanish or move all the same, once, or that zones may be ambiguous, for good.
PUBLISHED = "automatic-zone-placement/published"
MAY_VANISH = "automatic-zone-placement/may-vanish"
MAY_BE_AMBIGUOUS = "automatic-zone-placement/may-be-ambiguous"

# Changes that are listed.
MAX_LISTED = 100


class Unfit(Exception):
    """The table is not put in the place of the present one; the message is a sentence that says why."""


@dataclass(frozen=True)
class PublishSettings(ApiServerSettings, ZoneSettings):
    """The settings of this program."""

    namespace: str = setting("automatic-zone-placement", text, "the ConfigMap's namespace")
    config_map: str = setting(
        "automatic-zone-placement-gathered", text, "the name of the ConfigMap, which must exist"
    )


# What changes.


class Changes(NamedTuple):
    """How a table differs from the present one; an entry has moved if its block is elsewhere now."""

    added: list[Subnet]
    removed: list[Subnet]
    moved: list[tuple[Subnet, Subnet]]

    @property
    def subnets_moved(self) -> int:
        """How many have that ought not to: a host may move to another zone, by a failover."""
        return sum(not _is_host(subnet) for _, subnet in self.moved)

    def __str__(self) -> str:
        return f"{len(self.added)} added, {len(self.removed)} removed, {len(self.moved)} moved"

    def lines(self) -> list[str]:
        """A line for each, of the first hundred."""
        found = [f"- {subnet.cidr} {_place(subnet)}" for subnet in self.removed]
        found += [f"~ {new.cidr} {_place(old)} -> {_place(new)}" for old, new in self.moved]
        found += [f"+ {subnet.cidr} {_place(subnet)}" for subnet in self.added]
        more = len(found) - MAX_LISTED
        return found if more <= 0 else [*found[:MAX_LISTED], f"and {more} more"]


def _place(subnet: Subnet) -> str:
    labels = "".join(f" {key}={value}" for key, value in subnet.labels)
    return f"{subnet.zone} ({subnet.zone_id}){labels}" if subnet.zone_id else subnet.zone + labels


def _is_host(subnet: Subnet) -> bool:
    return subnet.cidr.endswith("/128" if ":" in subnet.cidr else "/32")


def compare(present: Iterable[Subnet], new: Iterable[Subnet]) -> Changes:
    """How `new` differs from what is there."""
    before = {subnet.cidr: subnet for subnet in present}
    after = {subnet.cidr: subnet for subnet in new}
    return Changes(
        added=[subnet for cidr, subnet in after.items() if cidr not in before],
        removed=[subnet for cidr, subnet in before.items() if cidr not in after],
        moved=[
            (before[cidr], subnet)
            for cidr, subnet in after.items()
            if before.get(cidr, subnet) != subnet
        ],
    )


# What was published before.

Json = dict[str, Any]


class Hour(NamedTuple):
    """An hour in which tables were published: the subnets of the largest, and how many moved."""

    largest: int
    moved: int


@dataclass(frozen=True)
class Past:
    """What was published in the last hours; `subnets` is the number in the last table, if known.

    As an annotation it has 900 bytes at most.
    """

    subnets: int | None
    hours: Mapping[int, Hour]  # by their number since 1970

    @classmethod
    def read(cls, annotations: Mapping[str, str], now: int) -> Past:
        """What the annotation says; nothing if somebody has broken it."""
        try:
            found = json.loads(annotations.get(PUBLISHED, ""))
            hours = {int(hour): Hour(*map(int, each)) for hour, each in found["hours"].items()}
            return cls(int(found["subnets"]), _recent(hours, now))
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            return cls(None, {})

    def __str__(self) -> str:
        return json.dumps({"subnets": self.subnets, "hours": self.hours})

    @property
    def largest(self) -> int:
        return max((hour.largest for hour in self.hours.values()), default=0)

    @property
    def moved(self) -> int:
        return sum(hour.moved for hour in self.hours.values())

    def then(self, now: int, table: Sized, moved: int, before: int = 0) -> Past:
        """What it is after this table, in place of one of `before` subnets of which some moved."""
        this = self.hours.get(now, Hour(0, 0))
        this = Hour(max(this.largest, before, len(table)), this.moved + moved)
        return Past(len(table), {**_recent(self.hours, now), now: this})


def _recent(hours: Mapping[int, Hour], now: int) -> dict[int, Hour]:
    return {hour: each for hour, each in hours.items() if 0 <= now - hour < MEMORY}


def why_worse(changes: Changes, before: int, after: int, past: Past) -> str | None:
    """Why a table is worse than that of `before` subnets, and than those of the past; None if not.

    That some have moved, or are not there any more, is added up: one third, another third and
    the last one are all of them.
    """
    number = max(before, past.largest)
    gone = max(len(changes.removed), number - after)
    moved = past.moved + changes.subnets_moved
    if (gone + moved) * SHARE <= number:
        return None
    return f"of {number} subnets, {gone} would vanish and {moved} move within a day ({changes})"


# The ConfigMap.


def present_table(config_map: Json, node_label: str) -> SubnetTable | None:
    """The table that is there; None where there is none yet. Raises `ValueError`."""
    packed = (config_map.get("binaryData") or {}).get(KEY)
    if packed is not None:
        try:
            content = gzip.decompress(base64.b64decode(packed)).decode()
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"cannot be unpacked: {error}") from None
    else:
        content = (config_map.get("data") or {}).get(KEY, "")
    return parse(content, node_label=node_label) if content else None


def with_table(config_map: Json, table: SubnetTable, past: Past) -> Json:
    """The ConfigMap with this table, and this past. Raises `Unfit` if there is no room for it."""
    metadata = _without(config_map, "metadata", "annotations")
    annotations = _without(config_map["metadata"], "annotations", MAY_VANISH)
    metadata["annotations"] = annotations | {PUBLISHED: str(past)}
    changed = config_map | {"metadata": metadata}
    data = changed["data"] = _without(config_map, "data", KEY)
    binary_data = changed["binaryData"] = _without(config_map, "binaryData", KEY)
    content = "".join(lines(table))  # all of it is ASCII
    if len(content) <= MAX_TEXT_SIZE:
        data[KEY] = content
        return changed
    packed = gzip.compress(content.encode(), mtime=0)
    if len(packed) > MAX_CONFIGMAP_SIZE:
        raise Unfit(f"{len(table)} subnets do not fit into a ConfigMap, even if compressed")
    binary_data[KEY] = base64.b64encode(packed).decode()
    return changed


def _without(body: Json, name: str, key: str) -> Json:
    """A copy of an object in `body`, which may be missing or null, without one of its keys."""
    return {each: value for each, value in (body.get(name) or {}).items() if each != key}


def has_content(config_map: Json) -> bool:
    return any((config_map.get(part) or {}).get(KEY) for part in ("data", "binaryData"))


def _is_due(present: SubnetTable, table: SubnetTable) -> bool:
    """Whether what the present table says of its age has become too old."""
    return (table.gathered_at or 0) - (present.gathered_at or 0) >= REFRESH


class Publication:
    """Puts a table into the ConfigMap that the settings name."""

    def __init__(self, api: Client, settings: PublishSettings) -> None:
        self.api = api
        self.settings = settings
        self.path = f"/api/v1/namespaces/{settings.namespace}/configmaps/{settings.config_map}"

    def publish(self, table: SubnetTable) -> Changes:
        """What has changed by it. Raises `Unfit` or `KubernetesError`; then nothing has."""
        changes = Changes([], [], [])

        def change(config_map: Json) -> Json | None:
            nonlocal changes
            present = self.present(config_map)
            changes = compare(present or (), table)
            if present and not any(changes) and not _is_due(present, table):
                return None
            past = self.checked(config_map, present, changes, table)
            return with_table(config_map, table, past)

        self.api.update(self.path, change)
        return changes

    def present(self, config_map: Json) -> SubnetTable | None:
        """The table that is there; None if there is none, or if what is there is no table."""
        try:
            return present_table(config_map, self.settings.node_label)
        except ValueError as error:
            complain("what is in the ConfigMap is no table:", *str(error).splitlines())
            return None

    def checked(
        self, config_map: Json, present: SubnetTable | None, changes: Changes, table: SubnetTable
    ) -> Past:
        """What is to be remembered of this table. Raises `Unfit` if it is worse than before."""
        annotations = config_map["metadata"].get("annotations") or {}
        now = int(time()) // 3600
        past = Past.read(annotations, now)
        if present and not any(changes):
            return past.then(now, table, moved=0)
        if annotations.get(MAY_BE_AMBIGUOUS) != "true":
            self.check_zones(table)
        if annotations.get(MAY_VANISH) == "true":
            return Past(None, {}).then(now, table, moved=0)
        before = self.number_before(config_map, present, past)
        if worse := why_worse(changes, before, len(table), past):
            raise Unfit(f"{worse}. If they are to: {self.annotate(MAY_VANISH)}")
        return past.then(now, table, changes.subnets_moved, before)

    def number_before(self, config_map: Json, present: SubnetTable | None, past: Past) -> int:
        """The subnets of the present table; if it is damaged, those that were published last.

        Raises `Unfit` if nobody knows.
        """
        if present is not None:
            return len(present)
        if past.subnets is None and has_content(config_map):
            raise Unfit(
                "what is in the ConfigMap is no table, and it does not say how many subnets it "
                f"had. If it is to give way: {self.annotate(MAY_VANISH)}"
            )
        return past.subnets or 0

    def check_zones(self, table: SubnetTable) -> None:
        """Raises `Unfit` if the node label may stand for several zones."""
        zones = sorted({subnet.zone for subnet in table if table.is_ambiguous(subnet)})
        if zones:
            raise Unfit(
                f"name and id do not match one to one for {', '.join(zones[:MAX_LISTED])}, so no "
                f"Pod would be placed there; NODE_LABEL={ZONE_ID_LABEL} helps. If they are to "
                f"stay so: {self.annotate(MAY_BE_AMBIGUOUS)}"
            )

    def annotate(self, key: str) -> str:
        """The command that says so."""
        settings = self.settings
        return (
            f"kubectl -n {settings.namespace} annotate configmap {settings.config_map} {key}=true"
        )

    def record(self, kind: str, reason: str, note: str) -> None:
        """Writes an Event about the ConfigMap, if possible."""
        try:
            found = self.api.get(self.path)["metadata"]
            about = {key: found[key] for key in ("namespace", "name", "uid")}
            about |= {"apiVersion": "v1", "kind": "ConfigMap"}
            self.api.record_event(about, kind, reason, "Publish", note)
        except KubernetesError as error:
            complain(f"no Event could be written: {error}")


# The command.


def main(arguments: Sequence[str] | None = None) -> int:
    """Publishes a table; the exit status is 1 if it is not, and 2 if that cannot even be tried."""
    files = parse_arguments(arguments)
    try:
        settings = PublishSettings.from_environment(os.environ)
        publication = Publication(Client.from_environment(os.environ, AGENT), settings)
    except ValueError as error:
        return complain(str(error), status=2)
    try:
        table = read_files(files, settings.node_label)
        if table.gathered_at is None:
            table.gathered_at = time()
        complain(*(f"warning: {warning}" for warning in table.warnings))
        changes = publication.publish(table)
    except (InvalidSubnets, Unfit) as error:
        publication.record("Warning", "TableRefused", str(error))
        return complain(str(error), "The table of before stays.")
    except KubernetesError as error:
        return complain(str(error))
    if not any(changes):
        print(f"{len(table)} subnets, as before")
        return 0
    print(*changes.lines(), f"{len(table)} subnets: {changes}", sep="\n")
    publication.record("Normal", "TableChanged", "; ".join([str(changes), *changes.lines()]))
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> list[str]:
    parser = PublishSettings.parser(
        "Puts a table of subnets in the place of the one in a ConfigMap, unless it "
        "would be a worse one: then it says why, and the exit status is 1.",
        os.environ,
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="with subnets, as subnets.py takes them; those of all files are one table",
    )
    found: list[str] = parser.parse_args(arguments).files
    return found


if __name__ == "__main__":
    sys.exit(main())
