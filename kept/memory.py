"""Which names are kept, what was decided for each, and who is to be asked for next. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from itertools import islice
from math import inf

from common.errors import InternalError, Overloaded, ResolverFailure, ResolverTimeout, ServiceError
from kept.configmap import MAX_DECISIONS
from kept.decision import MAX_LINE, Decision, content_of, is_annotation
from lookup.lookups import Outcome

# Seconds between two writes if nothing changes, or less. Often enough that a minute is not
# over when one of them has failed.
EXTEND_INTERVAL = 30.0

# Writes that may fail before what a decision requires is no longer fresh.
SPARE_WRITES = 3

# Seconds between two lookups of a name, even if DNS_CACHE_TTL is less.
MIN_INTERVAL = 1.0

# What says nothing of the names: all may be as before.
_NO_NEWS = (ResolverFailure, ResolverTimeout, Overloaded, InternalError)


class _Entry:
    """What is known of names; `due` is when they are to be asked for, by `monotonic`."""

    __slots__ = ("decision", "due")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.due = -inf


class Memory:
    """The names that are kept, at most `MAX_DECISIONS`, with what was decided for each.

    Those that were not asked for for the longest go first, but none of the `pinned`. An
    address is asked for every `cache_ttl` seconds, and serves for `stale_ttl` while DNS fails.
    """

    def __init__(self, pinned: Collection[str], cache_ttl: float, stale_ttl: float) -> None:
        self._pinned = dict.fromkeys(pinned)
        # Those that were asked for last are last.
        self._entries = OrderedDict((names, _Entry()) for names in pinned)
        self.interval = max(cache_ttl, MIN_INTERVAL)
        self._fresh_for = self.interval + SPARE_WRITES * EXTEND_INTERVAL
        self.hold_for = max(stale_ttl, self._fresh_for)

    def __len__(self) -> int:
        return len(self._entries)

    def decisions(self) -> dict[str, Decision]:
        """What was decided, by names, the most important first."""
        names = [*self._pinned, *reversed(self._entries)]
        found = ((each, self._entries[each].decision) for each in names)
        return {each: decision for each, decision in found if decision}

    def ask(self, names: str, outcome: Outcome) -> bool:
        """Keeps names that an engine has asked for, if what came of it places a Pod.

        Returns whether there was a decision for them already.
        """
        entry = self._entries.get(names)
        if entry:
            self._entries.move_to_end(names)
            return bool(_content(entry.decision))
        if not isinstance(outcome, ServiceError) and content_of(outcome) and is_annotation(names):
            self._make_room()
            if len(self._entries) < MAX_DECISIONS:  # all may be pinned
                self._entries[names] = _Entry()
        return False

    def adopt(self, names: Iterable[str]) -> None:
        """Keeps these names too, as far as there is room, as the least important ones."""
        unknown = [each for each in names if each not in self._entries]
        for each in unknown[: MAX_DECISIONS - len(self._entries)]:
            self._entries[each] = _Entry()
            self._entries.move_to_end(each, last=False)

    def _make_room(self) -> None:
        if len(self._entries) >= MAX_DECISIONS:
            oldest = next((each for each in self._entries if each not in self._pinned), "")
            self._entries.pop(oldest, None)

    def due(self, now: float, most: int) -> list[str]:
        """Names to be asked for now; they are not due again until they are heard of."""
        due = (names for names, entry in self._entries.items() if entry.due <= now)
        found = list(islice(due, most))
        for names in found:
            self._entries[names].due = inf
        return found

    def hear(self, names: str, outcome: Outcome, confirmed: float, due: float) -> bool:
        """Notes what came of names, and whether that changes what was decided for them.

        `confirmed` is when DNS said so, in Unix time; they are to be asked for again when
        they are `due`, by `monotonic`.
        """
        entry = self._entries.get(names)
        if entry is None:  # there was no room for it any more
            return False
        before, entry.due = entry.decision, due
        entry.decision = self._decision(names, before, outcome, confirmed)
        if entry.decision and not entry.decision.content and entry.decision.until <= confirmed:
            self._forget(names)
        return _content(before) != _content(entry.decision)

    def _forget(self, names: str) -> None:
        if names not in self._pinned:
            del self._entries[names]

    def _decision(
        self, names: str, before: Decision | None, outcome: Outcome, confirmed: float
    ) -> Decision | None:
        if isinstance(outcome, _NO_NEWS):
            return before
        made = self._made(names, before, outcome, confirmed)
        if made.content and len(made.line()) <= MAX_LINE:
            return made
        # That there is none is said until nobody can hold on to the last one any more.
        return before if before and not before.content else made._replace(content="")

    def _made(
        self, names: str, before: Decision | None, outcome: Outcome, confirmed: float
    ) -> Decision:
        fresh_until, until = int(confirmed + self._fresh_for), int(confirmed + self.hold_for)
        if isinstance(outcome, ServiceError):
            return Decision(names, "", until, fresh_until)
        if outcome.stale:  # it holds no longer for that
            until = before.until if before else int(confirmed)
        return Decision(names, content_of(outcome), until, fresh_until)


def _content(decision: Decision | None) -> str | None:
    return decision and decision.content
