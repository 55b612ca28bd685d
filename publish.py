"""Puts a table of subnets in the place of the one in a ConfigMap, unless it would be a worse one.

    python3 publish.py FILE...

The files are as `aws ec2 describe-subnets` prints them, or as `subnets.py` does.
"""

from __future__ import annotations

import base64
import gzip
import os
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.errors import complain
from common.kubernetes import Client, KubernetesError, optional_url
from common.names import ZONE_ID_LABEL, ZONE_LABEL
from common.settings import Settings, one_of, setting, text
from lookup.table import InvalidSubnets, Subnet, SubnetTable
from lookup.table_reader import parse, read_files
from lookup.table_writer import MAX_CONFIGMAP_SIZE, lines

AGENT = "automatic-zone-placement/publish"

# The file that the ConfigMap is to the service.
KEY = "subnets.json"

# Bytes up to which a table is text in the ConfigMap, for people to read. All the rest of it
# has to fit besides.
MAX_TEXT_SIZE = MAX_CONFIGMAP_SIZE // 2

# If more of the present entries would vanish than one in so many, it is more likely that
# something was not asked than that so much has gone.
VANISHING_SHARE = 3

# An annotation of the ConfigMap that lets them vanish all the same, once.
MAY_VANISH = "automatic-zone-placement/may-vanish"

# Changes that are listed.
MAX_LISTED = 100


class Unfit(Exception):
    """The table is not put in the place of the present one; the message is a sentence that says why."""


@dataclass(frozen=True)
class PublishSettings(Settings):
    """The settings of this program."""

    kubernetes_url: str = setting(
        "",
        optional_url,
        "an API server that needs no token: `kubectl proxy`; by default the cluster's",
    )
    namespace: str = setting("automatic-zone-placement", text, "the ConfigMap's namespace")
    config_map: str = setting(
        "automatic-zone-placement-gathered", text, "the name of the ConfigMap, which must exist"
    )
    node_label: str = setting(
        ZONE_LABEL, one_of(ZONE_LABEL, ZONE_ID_LABEL), "the service's NODE_LABEL"
    )


# What changes.


class Changes(NamedTuple):
    """How a table differs from the present one; an entry has moved if its block is elsewhere now."""

    added: list[Subnet]
    removed: list[Subnet]
    moved: list[tuple[Subnet, Subnet]]

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


# The ConfigMap.

Json = dict[str, Any]


def present_subnets(config_map: Json, node_label: str) -> list[Subnet]:
    """The subnets that are there; none where there is no table yet. Raises `ValueError`."""
    packed = (config_map.get("binaryData") or {}).get(KEY)
    if packed is not None:
        try:
            content = gzip.decompress(base64.b64decode(packed)).decode()
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"cannot be unpacked: {error}") from None
    else:
        content = (config_map.get("data") or {}).get(KEY, "")
    return list(parse(content, node_label=node_label)) if content else []


def with_table(config_map: Json, table: SubnetTable) -> Json:
    """The ConfigMap with this table. Raises `Unfit` if there is no room for it."""
    metadata = _without(config_map, "metadata", "annotations")
    metadata["annotations"] = _without(config_map["metadata"], "annotations", MAY_VANISH)
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
            changes = compare(present, table)
            if not any(changes):
                return None
            self.check(changes, len(present), config_map)
            return with_table(config_map, table)

        self.api.update(self.path, change)
        return changes

    def present(self, config_map: Json) -> list[Subnet]:
        """The subnets that are there; none if what is there is no table."""
        try:
            return present_subnets(config_map, self.settings.node_label)
        except ValueError as error:
            complain(
                "what is in the ConfigMap is no table, and gives way:", *str(error).splitlines()
            )
            return []

    def check(self, changes: Changes, number: int, config_map: Json) -> None:
        """Raises `Unfit` if too many of the present subnets would vanish."""
        annotations = config_map["metadata"].get("annotations") or {}
        removed = len(changes.removed)
        if removed * VANISHING_SHARE > number and annotations.get(MAY_VANISH) != "true":
            raise Unfit(
                f"{removed} of {number} subnets would vanish ({changes}). If they are to: "
                f"kubectl -n {self.settings.namespace} annotate configmap "
                f"{self.settings.config_map} {MAY_VANISH}=true"
            )

    def tell(self, kind: str, reason: str, note: str) -> None:
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
        complain(*(f"warning: {warning}" for warning in table.warnings))
        changes = publication.publish(table)
    except (InvalidSubnets, Unfit) as error:
        publication.tell("Warning", "TableRefused", str(error))
        return complain(str(error), "The table of before stays.")
    except KubernetesError as error:
        return complain(str(error))
    if not any(changes):
        print(f"{len(table)} subnets, as before")
        return 0
    print(*changes.lines(), f"{len(table)} subnets: {changes}", sep="\n")
    publication.tell("Normal", "TableChanged", "; ".join([str(changes), *changes.lines()]))
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
