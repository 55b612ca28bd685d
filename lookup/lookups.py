"""Lookups of names: what comes of them, and what is counted of it, whoever asks."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from time import time

from common.errors import ServiceError
from common.metrics import Counter, Family, Gauge, Histogram
from lookup.placement import Answer, Placement
from lookup.resolver import Resolver, Result

__all__ = ["OUTCOMES", "Lookups", "Outcome"]

# What may come of a lookup.
OUTCOMES = (
    "Success",
    "InvalidRequest",
    "InvalidName",
    "NameNotAllowed",
    "NameNotFound",
    "ZoneNotFound",
    "ResolverFailure",
    "ResolverTimeout",
    "Overloaded",
    "InternalError",
)

Outcome = Answer | ServiceError


class Lookups:
    """Finds names' addresses with the resolver, and makes the answer of them with the placement."""

    def __init__(self, resolver: Resolver, placement: Placement) -> None:
        self.resolver = resolver
        self.use(placement)
        self.outcomes = Counter("lookups_total", "Lookups, by what came of them.", "outcome")
        self.outcomes.begin(*((outcome,) for outcome in OUTCOMES))
        self.durations = Histogram("lookup_duration_seconds", "From a lookup to its answer.")
        self.zones = Counter(
            "zone_answers_total", "Lookups answered, by zone; several for more than one.", "zone"
        )

    def use(self, placement: Placement) -> None:
        """Answers with this placement, and its table, from now on, in one step."""
        self.placement = placement
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
                "subnets_fingerprint",
                "A hash of the table: replicas with the same table have the same.",
                lambda: self.placement.table.fingerprint,
            ),
            Gauge(
                "subnets_modified_timestamp_seconds",
                "When the file with the table was changed last, in Unix time.",
                lambda: self.placement.table.modified_at or math.nan,
            ),
            Gauge(
                "subnets_loaded_timestamp_seconds",
                "When the table was read, in Unix time.",
                lambda: self.loaded_at,
            ),
        ]

    def find_at_once(self, names: Sequence[str]) -> dict[str, Result | None]:
        """What can be said of each name without waiting; None if nothing."""
        return dict(map(self.resolver.at_once, names))

    async def find_rest(
        self, found: Mapping[str, Result | None], patience: float = math.inf
    ) -> dict[str, Result]:
        """What comes of all names, when those of which nothing was found have had their time.

        That is `DNS_TIMEOUT`, or `patience` if it is less, in seconds.
        """
        missing = [name for name, result in found.items() if result is None]
        # Side by side: they share one deadline.
        results = await asyncio.gather(*(self.resolver.resolve(name, patience) for name in missing))
        rest = dict(zip(missing, results, strict=True))
        return {name: result or rest[name] for name, result in found.items()}

    def answer(self, results: Mapping[str, Result]) -> Outcome:
        """The answer to a lookup of these names."""
        first = next(iter(results.values()))
        if len(results) > 1 or isinstance(first, ServiceError):
            return self._new_answer(results)
        epoch, outcome = first.memo
        if epoch is not self._epoch:
            outcome = self._new_answer(results)
            first.memo = self._epoch, outcome
        assert isinstance(outcome, Answer | ServiceError)
        return outcome

    def _new_answer(self, results: Mapping[str, Result]) -> Outcome:
        try:
            return self.placement.answer(results)
        except ServiceError as error:
            return error.with_traceback(None)  # which has the table in it

    def account(self, outcome: Outcome, duration: float) -> None:
        """Counts a lookup that took so many seconds, whoever asked for it."""
        self.durations.observe(duration)
        if isinstance(outcome, ServiceError):
            self.outcomes.increment(outcome.reason)
        else:
            self.outcomes.increment("Success")
            self.zones.increment(outcome.zone if outcome.is_in_one_zone else "several")
