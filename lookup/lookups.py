"""Lookups of names: what comes of them, and what is counted of it, whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import inf
from time import perf_counter, time
from typing import cast

from common.errors import InvalidRequest, ServiceError, shown
from common.metrics import Counter, Family, Gauge, Histogram
from lookup.placement import Answer, Placement
from lookup.resolver import IPV4, IPV4_AND_IPV6, Resolver, Result

# Names in one lookup: a Pod's database, cache and queue, not a list to search.
MAX_NAMES = 8

# So many names of 253 characters, each with a dot at its end, and the commas between them.
MAX_LENGTH = MAX_NAMES * 254 + MAX_NAMES - 1

# What may come of a lookup.
OUTCOMES = (
    "Success",
    "InvalidRequest",
    "InvalidName",
    "NameNotAllowed",
    "NameNotFound",
    "ZoneNotFound",
    "ZoneAvoided",
    "ZoneAmbiguous",
    "ResolverFailure",
    "ResolverTimeout",
    "Overloaded",
    "InternalError",
)

# Who asks: reviews, other engines' requests, the relocation, and somebody at a keyboard.
ASKERS = ("webhook", "engine", "relocation", "person")

Outcome = Answer | ServiceError

# Is told the names, who asked for them, and what came of it.
Listener = Callable[[Sequence[str], str, Outcome], None]


def _nobody(_names: Sequence[str], _asker: str, _outcome: Outcome) -> None:
    pass


def names_in(value: str) -> list[str]:
    """The names in an annotation or a query's value, which has commas between them.

    Whether each is a name is not looked at. Raises `InvalidRequest`.
    """
    if len(value) > MAX_LENGTH:
        raise InvalidRequest(
            f"{shown(value)} has {len(value)} characters, the most is {MAX_LENGTH}"
        )
    names = value.split(",")
    if len(names) > MAX_NAMES:
        raise InvalidRequest(f"{shown(value)} has {len(names)} names, the most is {MAX_NAMES}")
    return names


class Lookups:
    """Finds names' addresses with the resolver, and makes the answer of them with the placement."""

    def __init__(self, resolver: Resolver, placement: Placement) -> None:
        self.resolver = resolver
        self.use(placement)
        self.tell: Listener = _nobody  # who is to know of what was found
        self.outcomes = Counter(
            "lookups_total", "Lookups, by what came of them and by who asked.", "outcome", "asker"
        )
        self.outcomes.begin(*product(OUTCOMES, ASKERS))
        self.durations = Histogram("lookup_duration_seconds", "From a lookup to its answer.")
        self.zones = Counter(
            "zone_answers_total", "Lookups answered, by zone; several for more than one.", "zone"
        )

    def use(self, placement: Placement) -> None:
        """Answers with this placement, and its table, from now on, in one step."""
        self.placement = placement
        self.resolver.ask_for(IPV4_AND_IPV6 if placement.table.has_ipv6 else IPV4)
        self.loaded_at = time()
        # What is remembered of a former placement, but must not keep its table in memory.
        self._epoch = object()

    def metrics(self) -> list[Family]:
        """The families that describe the lookups and the table."""
        return [
            self.outcomes,
            self.durations,
            self.zones,
            *self.resolver.metrics(),
            Gauge("subnets", "Subnets in the table.", lambda: len(self.placement.table)),
            Gauge(
                "example_table",
                "Whether the table is the example that is shipped.",
                lambda: int(self.placement.table.is_example),
            ),
            Gauge(
                "subnets_warnings",
                "What is usable but looks wrong about the table; the log has the sentences.",
                lambda: len(self.placement.table.warnings),
            ),
            Gauge(
                "subnets_hash",
                "A hash of the table: replicas with the same table have the same.",
                lambda: self.placement.table.fingerprint,
            ),
            *self._times(),
            Gauge(
                "subnets_loaded_timestamp_seconds",
                "When the table was read, in Unix time.",
                lambda: self.loaded_at,
            ),
        ]

    def _times(self) -> Iterator[Family]:
        """The times that the table has; where it has one not, no number would be true."""
        modified_at, gathered_at = (
            self.placement.table.modified_at,
            self.placement.table.gathered_at,
        )
        if modified_at is not None:
            about = "When the file with the table was changed last, in Unix time."
            yield Gauge("subnets_modified_timestamp_seconds", about, lambda: modified_at)
        if gathered_at is not None:
            about = "Since when the table's data holds, as it says itself, in Unix time."
            yield Gauge("subnets_gathered_timestamp_seconds", about, lambda: gathered_at)

    async def find(self, names: Sequence[str], asker: str, patience: float = inf) -> Outcome:
        """What comes of a lookup of these names, in at most `DNS_TIMEOUT` or `patience` seconds.

        It waits for nothing if all is known already. `asker` is one of `ASKERS`.
        """
        started = perf_counter()
        try:
            outcome = self.answer(await self.resolve(names, patience))
        except Exception:
            self.outcomes.increment("InternalError", asker)
            raise
        self.count(outcome, asker, perf_counter() - started)
        self.tell(names, asker, outcome)
        return outcome

    def count(self, outcome: Outcome, asker: str, duration: float = 0.0) -> None:
        """Counts a lookup that took so many seconds; `find` has done so already."""
        self.durations.observe(duration)
        self.outcomes.increment(outcome.reason or "Success", asker)
        if isinstance(outcome, Answer):
            self.zones.increment(outcome.zone or "several")

    async def resolve(self, names: Sequence[str], patience: float = inf) -> dict[str, Result]:
        """What comes of each name, side by side: they share one deadline."""
        found = dict(map(self.resolver.at_once, names))
        if None not in found.values():
            return found  # type: ignore[return-value]  # none is None
        missing = [name for name, result in found.items() if result is None]
        results = await asyncio.gather(*(self.resolver.resolve(name, patience) for name in missing))
        rest = dict(zip(missing, results, strict=True))
        return {name: result or rest[name] for name, result in found.items()}

    def answer(self, results: Mapping[str, Result]) -> Outcome:
        """The answer to a lookup of these names."""
        first = next(iter(results.values()))
        if len(results) > 1 or isinstance(first, ServiceError):
            return self.placement.answer(results)
        epoch, outcome = first.memo
        if epoch is not self._epoch:
            outcome = self.placement.answer(results)
            first.memo = self._epoch, outcome
        return cast("Outcome", outcome)
