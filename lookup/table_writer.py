"""A table as JSON again, for people to read and for `SUBNETS_FILE`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from lookup.table import Subnet, SubnetTable

# What the API server takes: core.MaxSecretSize, for all values of a ConfigMap together. Those
# in `binaryData` count as the bytes that they are, not as base64.
MAX_CONFIGMAP_SIZE = 1024 * 1024


def lines(table: SubnetTable) -> Iterator[str]:
    """The table as JSON, an entry a line: a list, or an object if it says when it was gathered."""
    before, after = "[\n", "\n]\n"
    if table.gathered_at is not None:
        before = f'{{"GatheredAt": "{_time_text(table.gathered_at)}", "Subnets": {before}'
        after = "\n]}\n"
    separator = before
    for subnet in table:
        yield f"{separator}    {json.dumps(_entry(subnet))}"
        separator = ",\n"
    yield after


def _time_text(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _entry(subnet: Subnet) -> dict[str, object]:
    entry: dict[str, object] = {"CIDRBlock": subnet.cidr, "AvailabilityZone": subnet.zone}
    if subnet.zone_id is not None:
        entry["AvailabilityZoneId"] = subnet.zone_id
    if subnet.labels:
        entry["NodeLabels"] = dict(subnet.labels)
    return entry
