"""The ConfigMap of decisions: its keys, and what several replicas make of it together. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain, islice

from common.errors import shown
from kept.decision import Decision, decision_in, is_annotation

# Names, or lists of them, that have a decision. A cluster has hundreds of databases, not more.
MAX_DECISIONS = 1000

# Bytes of all lines and their keys. A ConfigMap has 1 MiB at most.
MAX_SIZE = 900_000

# Keys among which the lines are spread. For each Pod of the cluster an API server copies all keys,
# and takes the lines of one apart, so there are to be few of both.
KEYS = 32

# What tells the keys of two annotations apart: the sum of their first letters' places in here.
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._,:-"
MAX_LETTERS = 100

# Seconds by which what is there may be behind, or else it is written anew: another replica has
# written it less than that ago.
BEHIND = 15

Decisions = Mapping[str, Decision]


def key_of(names: str) -> str:
    """The key under which the decision for an annotation stands, beside others: as the policy finds it."""
    return f"decisions-{sum(map(LETTERS.find, names[:MAX_LETTERS])) % KEYS}"


def decisions_in(data: object) -> dict[str, Decision]:
    """The decisions in a ConfigMap's data, by names, also those that hold no longer."""
    if not isinstance(data, dict):
        return {}
    texts = (text for text in data.values() if isinstance(text, str))
    lines = chain.from_iterable(map(str.splitlines, texts))
    return {each.names: each for line in lines if (each := decision_in(line))}


def merged(there: Decisions, ours: Decisions, now: float, latest: float) -> dict[str, Decision]:
    """What is to be there: of two decisions for the same names, the one that was made later.

    The most important come first: ours in their order, then others' by how long they hold. Who
    says that a decision holds after `latest` has not made it.
    """
    credible = {names: each for names, each in there.items() if each.until <= latest}
    newest = {
        names: max(each, credible.get(names, each), key=_until) for names, each in ours.items()
    }
    others = sorted(credible.values(), key=_until, reverse=True)
    both = newest | {each.names: each for each in others if each.names not in ours}
    return _bounded(each for each in both.values() if each.content and each.until > now)


def _until(decision: Decision) -> int:
    return decision.until


def _bounded(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """The first of these, by names, as far as there is room."""
    found: dict[str, Decision] = {}
    size = 0
    for each in islice(decisions, MAX_DECISIONS):
        size += len(key_of(each.names)) + len(each.line()) + 1
        if size > MAX_SIZE:
            break
        found[each.names] = each
    return found


def is_worth_writing(there: Decisions, wanted: Decisions) -> bool:
    """Whether anything but times would change, or these by much."""
    if there.keys() != wanted.keys():
        return True
    return any(
        there[names].content != each.content or there[names].until < each.until - BEHIND
        for names, each in wanted.items()
    )


def data_of(decisions: Iterable[Decision]) -> dict[str, str]:
    """The data of a ConfigMap that has these decisions."""
    data: dict[str, list[str]] = {}
    for each in decisions:
        data.setdefault(key_of(each.names), []).append(each.line())
    return {key: "\n".join(sorted(lines)) for key, lines in data.items()}


def path_of(setting: str) -> str:
    """Where the API server has the ConfigMap NAMESPACE/NAME. Raises `ValueError`."""
    if not setting:
        return ""
    if not re.fullmatch(r"[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}", setting):
        raise ValueError("a ConfigMap as NAMESPACE/NAME")
    namespace, name = setting.split("/")
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


def names_to_keep(setting: str) -> tuple[str, ...]:
    """Names, or lists of them as an annotation has them, with white space in between.

    Raises `ValueError`.
    """
    for names in (found := setting.split()):
        if not is_annotation(names):
            raise ValueError(f"names with spaces in between: {shown(names)} cannot be kept")
    if len(found) > MAX_DECISIONS:
        raise ValueError(f"at most {MAX_DECISIONS} names")
    return tuple(dict.fromkeys(found))
