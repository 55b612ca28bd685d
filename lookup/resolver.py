"""Names to addresses: queries with a deadline, shared, and a short memory.

Everything but the queries themselves happens on the event loop's thread, so
nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from math import inf
from time import monotonic

from common.errors import (
    InvalidName,
    NameNotAllowed,
    NameNotFound,
    Overloaded,
    ResolverTimeout,
    ServiceError,
)
from common.metrics import Counter, Family, Gauge
from lookup import c_library
from lookup.host import MAX_ADDRESS, Address, address_in, parse_name

# Queries under way. Each holds its thread for as long as the C library waits, several
# seconds when DNS is dead. A waiting thread costs little but its stack.
#
# Half of them are for names of which an answer is remembered, half for those of which none
# is: whoever asks for ever new names that hang keeps no known name from its next answer.
MAX_QUERIES = 512

# When a query has failed, whoever asks for its name in the next seconds gets the old
# answer at once, while the name is asked for anew (RFC 8767, section 5, which calls
# this the failure recheck timer). Long enough that few lookups wait for a DNS that is
# down, short enough that few are given an old answer once it is back.
FAILURE_RECHECK = 10.0

Families = tuple[socket.AddressFamily, ...]
IPV4: Families = (socket.AF_INET,)
IPV4_AND_IPV6: Families = (socket.AF_INET, socket.AF_INET6)


class Resolution:
    """The addresses of a name, in order.

    `stale` if they are old ones because DNS gave none; `incomplete` if it said nothing of the
    other family. `memo` is for what its user makes of it, to be kept for as long as it is;
    together with what it was made with.
    """

    __slots__ = ("addresses", "incomplete", "memo", "stale")

    def __init__(
        self, addresses: Iterable[Address], *, stale: bool = False, incomplete: bool = False
    ) -> None:
        self.addresses = tuple(sorted(addresses, key=lambda each: (each.version, int(each))))
        self.stale = stale
        self.incomplete = incomplete
        self.memo: tuple[object, object] = (None, None)


Result = Resolution | ServiceError


# What is asked for again and again has its answer ready.
@lru_cache(maxsize=1024)
def _literal(text: str) -> Resolution | None:
    """What stands for itself, being an address; None for anything else."""
    address = address_in(text)
    return None if address is None else Resolution([address])


class _Known:
    """The last good answer for a name, and since when there is no newer one, by `monotonic`."""

    __slots__ = ("answered_at", "failed_at", "resolution")

    def __init__(self, resolution: Resolution, answered_at: float) -> None:
        self.resolution = resolution
        self.answered_at = answered_at
        self.failed_at = -inf


# What DNS says of one family.
Said = frozenset[Address] | ServiceError


class _Query:
    """What DNS is being asked about a name, and what it has said so far, by address family."""

    def __init__(
        self, name: str, families: Families, is_known: bool, result: asyncio.Future[Result]
    ) -> None:
        self.name = name
        self.families = families
        self.is_known = is_known  # an answer of before is
        self.result = result
        self.said: dict[socket.AddressFamily, Said] = {}

    @property
    def is_answered(self) -> bool:
        """Whether there is nothing more to wait for."""
        return len(self.said) == len(self.families)

    def outcome(self) -> Result:
        """What comes of it if no more is said. Something has been."""
        said = [self.said[family] for family in self.families if family in self.said]
        found = [each for each in said if not isinstance(each, ServiceError)]
        errors = [each for each in said if isinstance(each, ServiceError)]
        failures = [each for each in errors if not isinstance(each, NameNotFound)]
        if found:
            is_incomplete = bool(failures) or not self.is_answered
            return Resolution({each for some in found for each in some}, incomplete=is_incomplete)
        if failures:
            return failures[0]
        records = " or ".join(c_library.RECORD_TYPES[family] for family in self.families)
        return NameNotFound(f"{self.name!r} does not exist or has no {records} record")


class Resolver:
    """Resolves names, each in at most `timeout` seconds.

    Answers are kept `cache_ttl` seconds. When DNS gives none in time, they serve for up to
    `stale_ttl` seconds (RFC 8767). Of more than `cache_maxsize` names, the one that was not
    asked for the longest is forgotten. With `allowed_domains`, other names than theirs are
    not asked for.
    """

    def __init__(
        self,
        *,
        timeout: float,
        cache_ttl: float,
        cache_maxsize: int,
        stale_ttl: float,
        allowed_domains: tuple[str, ...] = (),
    ) -> None:
        self._timeout = timeout
        self._cache_ttl = cache_ttl
        self._cache_maxsize = cache_maxsize
        self._stale_ttl = stale_ttl
        self._allowed_domains = allowed_domains
        self._families = IPV4
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._queries: dict[str, _Query] = {}
        self._threads = {True: 0, False: 0}  # by whether their names were known
        self._hits = Counter("dns_cache_hits_total", "Names answered from the cache.")
        self._outcomes = Counter(
            "dns_resolutions_total", "Queries to DNS, by what came of them.", "outcome"
        )
        self._stale_answers = Counter(
            "dns_stale_answers_total", "Names answered from an old answer because DNS gave none."
        )

    def metrics(self) -> list[Family]:
        """The families that describe this resolver."""
        return [
            self._hits,
            self._outcomes,
            self._stale_answers,
            Gauge("dns_cache_names", "Names in the cache.", lambda: len(self._known)),
            Gauge("dns_queries", "Queries under way.", lambda: sum(self._threads.values())),
        ]

    def ask_for(self, families: Families) -> None:
        """Asks for these address families' records from now on."""
        if families != self._families:
            self._families = families
            self._known.clear()  # which knows nothing of the other one

    def at_once(self, text: str) -> tuple[str, Result | None]:
        """The name that `text` is, and what can be said of it without waiting.

        That is None if nothing can. An address stands for itself. Of the errors, only
        `InvalidName` and `NameNotAllowed` are known at once.
        """
        fresh = self._recall(text)
        if fresh is not None:
            return text, fresh
        literal = _literal(text[: MAX_ADDRESS + 1])
        if literal is not None:
            return str(literal.addresses[0]) if ":" in text else text, literal
        try:
            name = parse_name(text)
        except InvalidName as error:
            return text, error
        if not self._is_allowed(name):
            return name, NameNotAllowed(f"{name!r} is in none of the domains that are allowed")
        return name, None if name == text else self._recall(name)

    def _is_allowed(self, name: str) -> bool:
        return not self._allowed_domains or any(
            name == domain or name.endswith(f".{domain}") for domain in self._allowed_domains
        )

    def _recall(self, name: str) -> Resolution | None:
        """The answer that is fresh, if any, which counts as a hit."""
        known = self._known.get(name)
        if known is None:
            return None
        self._known.move_to_end(name)
        if known.answered_at + self._cache_ttl <= monotonic():
            return None
        self._hits.increment()
        return known.resolution

    def fresh_until(self, name: str) -> float:
        """Until when, by `monotonic`, the name is answered from memory; -inf if it is not at all."""
        known = self._known.get(name)
        return known.answered_at + self._cache_ttl if known else -inf

    async def resolve(self, name: str, patience: float = inf) -> Result:
        """What comes of a name of which `at_once` says nothing else; in so many seconds at most.

        The error is a `NameNotFound`, or where there is no old answer to fall back on a
        `ResolverFailure`, `ResolverTimeout` or `Overloaded`.
        """
        fresh = self._recall(name)  # another lookup's query may have ended meanwhile
        if fresh is not None:
            return fresh
        result = await self._ask(name, min(patience, self._timeout))
        if isinstance(result, Resolution | NameNotFound):
            return result
        return self._old_answer(name) or result

    def _old_answer(self, name: str) -> Resolution | None:
        known = self._known.get(name)
        if known is None or known.answered_at + self._stale_ttl <= monotonic():
            return None
        self._stale_answers.increment()
        old = known.resolution
        return Resolution(old.addresses, stale=True, incomplete=old.incomplete)

    async def _ask(self, name: str, timeout: float) -> Result:
        """What comes of the query for `name`, of which there is one at a time."""
        query = self._queries.get(name) or self._start(name)
        if isinstance(query, Overloaded):
            return self._failed(name, query)
        known = self._known.get(name)
        if known is not None and monotonic() < known.failed_at + FAILURE_RECHECK:
            old = self._old_answer(name)
            if old is not None:
                return old
        # Not `wait_for`, which would cancel what others wait for, too.
        await asyncio.wait([query.result], timeout=timeout)
        if query.result.done():
            return query.result.result()
        return self._given_up(query, timeout)

    def _given_up(self, query: _Query, timeout: float) -> Result:
        """What comes of a query that takes too long; it goes on."""
        if query.said:
            result = query.outcome()
            if isinstance(result, Resolution):
                return self._keep(query, result)
        late = ResolverTimeout(f"no answer for {query.name!r} within {timeout:g} s")
        return self._failed(query.name, late)

    def _failed(self, name: str, error: ServiceError) -> ServiceError:
        self._outcomes.increment(error.reason)
        known = self._known.get(name)
        if known is not None:
            known.failed_at = monotonic()
        return error

    def _keep(self, query: _Query, resolution: Resolution) -> Resolution:
        if query.families == self._families:
            self._known[query.name] = _Known(resolution, monotonic())
            self._known.move_to_end(query.name)
            if len(self._known) > self._cache_maxsize:
                self._known.popitem(last=False)
        return resolution

    # Queries.

    def _start(self, name: str) -> _Query | Overloaded:
        is_known = name in self._known
        if self._threads[is_known] + len(self._families) > MAX_QUERIES // 2:
            return Overloaded(f"{name!r} was not asked for: too many queries are under way")
        loop = asyncio.get_running_loop()
        query = _Query(name, self._families, is_known, loop.create_future())
        for family in self._families:
            # A daemon, so that one stuck in the C library does not delay the exit.
            arguments = (loop, query, family)
            try:
                threading.Thread(target=self._run, args=arguments, daemon=True).start()
            except RuntimeError as error:
                query.said[family] = Overloaded(f"{name!r} was not asked for: {error}")
            else:
                self._threads[is_known] += 1
        if query.is_answered:  # for want of threads
            return Overloaded(str(query.outcome()))
        self._queries[name] = query
        return query

    def _run(
        self, loop: asyncio.AbstractEventLoop, query: _Query, family: socket.AddressFamily
    ) -> None:
        said: Said
        try:
            said = c_library.query(query.name, family)
        except ServiceError as error:
            said = error.with_traceback(None)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._hear, query, family, said)

    def _hear(self, query: _Query, family: socket.AddressFamily, said: Said) -> None:
        """What DNS has said of a family; when it has of all, the query has ended."""
        self._threads[query.is_known] -= 1
        query.said[family] = said
        if query.is_answered:
            del self._queries[query.name]
            query.result.set_result(self._learn(query, query.outcome()))

    def _learn(self, query: _Query, result: Result) -> Result:
        if isinstance(result, Resolution):
            self._outcomes.increment("Success")
            return self._keep(query, result)
        if isinstance(result, NameNotFound):
            self._outcomes.increment(result.reason)
            self._known.pop(query.name, None)
            return result
        return self._failed(query.name, result)
