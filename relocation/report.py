"""The report: who is in another zone than its database, and what would be done about it."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from time import gmtime, strftime, time

from common.errors import shown
from common.kubernetes import Client
from relocation.decision import make_plan
from relocation.history import History
from relocation.landings import Verdict
from relocation.look import has_all_pods, look
from relocation.settings import RelocationSettings

COLUMNS = (
    "NAMESPACE",
    "WORKLOAD",
    "POD",
    "NAME",
    "DATABASE IN",
    "POD IN",
    "CREATED",
    "WHAT WOULD BE DONE",
)

# Names without an answer that a report lists; the others are counted.
MAX_LISTED = 20


def report(
    api: Client, settings: RelocationSettings, asks: str, query: Mapping[str, str]
) -> list[str]:
    """The lines of a report: who is elsewhere, what would be done about it, and a summary.

    Raises `KubernetesError` or `LookupFailure`.
    """
    world = look(api, settings, asks, **query)
    # An answer's age is not known to somebody who asks once: taken to be enough.
    rules = settings.rules()._replace(after=0)
    plan = make_plan(world, History(), rules, time())
    elsewhere = [each for each in plan.verdicts if each.landed == "elsewhere"]
    fates = [_fate(api, each) for each in elsewhere]
    rows = [_row(each, fate) for each, fate in zip(elsewhere, fates, strict=True)]
    table = [*_table([COLUMNS, *sorted(rows)]), ""] if rows else []
    return [*table, *_summary(plan.verdicts, fates.count(EVICT), settings)]


EVICT = "evict"


def _fate(api: Client, verdict: Verdict) -> str:
    if verdict.obstacle:
        return f"nothing: {verdict.obstacle.text}"
    if not has_all_pods(api, verdict.pod.workload):
        return "nothing: not all Pods of its workload are there and available"
    return EVICT


def _row(verdict: Verdict, fate: str) -> tuple[str, ...]:
    pod = verdict.pod
    return (
        pod.namespace,
        str(pod.workload),
        pod.name,
        pod.asks,
        verdict.destination.zone,
        verdict.here or "-",
        strftime("%Y-%m-%dT%H:%MZ", gmtime(pod.created)),
        fate,
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _summary(
    verdicts: Sequence[Verdict], evictions: int, settings: RelocationSettings
) -> list[str]:
    counts = Tally(verdict.landed for verdict in verdicts)
    lines = [
        f"{len(verdicts)} Pods: {counts['in_zone']} in their database's zone, "
        f"{counts['elsewhere']} elsewhere, {counts['unknown']} unknown."
    ]
    if evictions:
        lines.append(
            f"{evictions} would be evicted, at most {settings.relocate_max_concurrent} at once, "
            f"if the answers stay the same for {settings.relocate_after:g} s."
        )
    unknown = Tally(
        f"{shown(each.pod.asks)}: {each.obstacle.text}"
        for each in verdicts
        if each.landed == "unknown" and each.obstacle
    )
    lines += [f"unknown: {what}, {number} Pods" for what, number in unknown.most_common(MAX_LISTED)]
    if len(unknown) > MAX_LISTED:
        lines.append(f"unknown: {len(unknown) - MAX_LISTED} more names")
    return lines
