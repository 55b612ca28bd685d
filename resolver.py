"""Names to addresses: `getaddrinfo` with a deadline, shared queries and a short memory.

Everything but the queries themselves happens on the event loop's thread, so
nothing here needs a lock.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from time import monotonic

from errors import (
    InvalidName,
    NameNotFound,
    Overloaded,
    ResolverFailure,
    ResolverTimeout,
    ServiceError,
    shown,
)
from eventloop import EventLoop
from metrics import Counter, Family, Gauge

__all__ = ["Addresses", "Resolution", "Resolver", "parse_name"]

# A query holds its thread for as long as the C library waits, 10 s and more when
# DNS is dead. A waiting thread costs little but its stack.
MAX_QUERIES = 512

# Of these, so many are kept for names that have been answered before: names that
# never answer cannot keep the good ones from being asked anew.
RESERVED_QUERIES = 128

# A name whose query has failed after its deadline is most likely still without DNS.
# For so many seconds (the failure recheck timer of RFC 8767, section 5) it is asked
# for again by every lookup, but given so little time that nobody notices. A DNS that
# is back answers in that time.
MUTE_PERIOD = 30.0
MUTE_TIMEOUT = 0.025

# RFC 1123, section 2.1, with the underscore of RFC 2782. A last label that is a
# number, decimal or hexadecimal, would be an address to the C library: `1.2.3`,
# `0x7f000001` and the like are 1.2.0.3 and 127.0.0.1 to inet_aton(3).
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NUMBER = r"(?:[0-9]+|0x[0-9a-f]*)"
_NAME = re.compile(
    rf"(?=.{{1,253}}\.?\Z)(?:{_LABEL}\.)*(?!{_NUMBER}\.?\Z){_LABEL}\.?", re.ASCII | re.IGNORECASE
)
_DOTTED_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")

# What getaddrinfo(3) says of a name that does not exist or has no A record.
_NOT_FOUND = {
    getattr(socket, code)
    for code in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, code)
}

Addresses = tuple[IPv4Address, ...]


def parse_name(text: str) -> str | IPv4Address:
    """The domain name in lower case, or the address if `text` is a dotted quad.

    Raises `InvalidName`.
    """
    if _NAME.fullmatch(text):
        return text.lower()
    if _DOTTED_QUAD.fullmatch(text):
        with suppress(ValueError):
            return IPv4Address(text)
    raise InvalidName(f"{shown(text)} is neither a domain name nor an IPv4 address")


class Resolution:
    """The A records of a name; `stale` if they are old ones because DNS gave none.

    `memo` is for what its user makes of it, to be kept for as long as it is.
    """

    __slots__ = ("addresses", "memo", "stale")

    def __init__(self, addresses: Addresses, *, stale: bool = False) -> None:
        self.addresses = addresses
        self.stale = stale
        self.memo: object = None


class _Answer:
    """The last good answer for a name; the times are those of `monotonic`."""

    __slots__ = ("fresh_until", "mute_until", "resolution", "stale_until")

    def __init__(self, resolution: Resolution, fresh_until: float, stale_until: float) -> None:
        self.resolution = resolution
        self.fresh_until = fresh_until
        self.stale_until = stale_until
        self.mute_until = 0.0


class _Lookup:
    """Somebody who waits for a query; `done` is called once."""

    __slots__ = ("done", "settled")

    def __init__(self, done: Callable[[Resolution | ServiceError], None]) -> None:
        self.done = done
        self.settled = False


class _Query:
    """A `getaddrinfo` under way in a thread of its own, and who waits for it."""

    __slots__ = ("deadline", "lookups")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.lookups: list[_Lookup] = []


class Resolver:
    """Resolves names, each in at most `timeout` seconds.

    Answers are kept `cache_ttl` seconds for at most `cache_maxsize` names. When
    DNS gives none in time, they serve for up to `stale_ttl` seconds (RFC 8767).
    """

    def __init__(
        self,
        loop: EventLoop,
        *,
        timeout: float,
        cache_ttl: float,
        cache_maxsize: int,
        stale_ttl: float,
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._cache_ttl = cache_ttl
        self._cache_maxsize = cache_maxsize
        self._stale_ttl = stale_ttl
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._queries: dict[str, _Query] = {}
        self._hits = Counter("dns_cache_hits_total", "Names answered from the cache.")
        self._outcomes = Counter(
            "dns_resolutions_total", "Names not in the cache, by what came of them.", "outcome"
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
            Gauge("dns_cache_names", "Names in the cache.", lambda: len(self._answers)),
            Gauge("dns_queries", "Queries under way.", lambda: len(self._queries)),
        ]

    def cached(self, name: str) -> Resolution | None:
        """The answer kept for `name` while it is fresh."""
        answer = self._answers.get(name)
        if answer is None or answer.fresh_until <= monotonic():
            return None
        self._answers.move_to_end(name)
        self._hits.increment()
        return answer.resolution

    def resolve(self, name: str, done: Callable[[Resolution | ServiceError], None]) -> None:
        """Asks for `name` and calls `done`, never before this returns, with what came of it.

        That is a `NameNotFound`, or where there is no old answer to fall back on
        a `ResolverFailure`, `ResolverTimeout` or `Overloaded`.
        """
        lookup = _Lookup(done)
        query = self._queries.get(name)
        if query is None:
            try:
                query = self._start(name)
            except Overloaded as error:
                refusal = error
                self._loop.call_soon(lambda: self._settle(name, lookup, refusal))
                return
        query.lookups.append(lookup)
        # With an old answer at hand, a query that has had its time is not waited for again.
        wait = query.deadline - monotonic() if self._stale(name) else self._timeout
        late = ResolverTimeout(f"no answer for {name!r} within {self._timeout:g} s")
        self._loop.call_later(wait, lambda: self._settle(name, lookup, late))

    def _stale(self, name: str) -> Resolution | None:
        answer = self._answers.get(name)
        if answer is None or answer.stale_until <= monotonic():
            return None
        return answer.resolution

    def _settle(self, name: str, lookup: _Lookup, result: Resolution | ServiceError) -> None:
        if lookup.settled:
            return
        lookup.settled = True
        if isinstance(result, Resolution):
            self._outcomes.increment("Success")
            lookup.done(result)
            return
        self._outcomes.increment(result.reason)
        stale = None if isinstance(result, NameNotFound) else self._stale(name)
        if stale is None:
            lookup.done(result)
        else:
            self._stale_answers.increment()
            lookup.done(Resolution(stale.addresses, stale=True))

    def _start(self, name: str) -> _Query:
        known = self._answers.get(name)
        if len(self._queries) >= (MAX_QUERIES if known else MAX_QUERIES - RESERVED_QUERIES):
            raise Overloaded(f"{name!r} was not asked for: too many queries are under way")
        now = monotonic()
        mute = known is not None and known.mute_until > now
        query = _Query(now + (min(MUTE_TIMEOUT, self._timeout) if mute else self._timeout))
        try:
            # A daemon, so that one stuck in the C library does not delay the exit.
            threading.Thread(target=self._query, args=(name,), daemon=True).start()
        except RuntimeError as error:
            raise Overloaded(f"{name!r} was not asked for: {error}") from None
        self._queries[name] = query
        return query

    def _query(self, name: str) -> None:
        result: Addresses | ServiceError
        try:
            result = _addresses(name)
        except ServiceError as error:
            result = error
        except Exception as error:
            # Whatever else goes wrong must end the query, or its name would be stuck for good.
            result = ResolverFailure(f"DNS failed for {name!r}: {error}")
        self._loop.call_soon_threadsafe(lambda: self._finish(name, result))

    def _finish(self, name: str, result: Addresses | ServiceError) -> None:
        query = self._queries.pop(name)
        outcome = result if isinstance(result, ServiceError) else self._keep(name, result)
        if isinstance(outcome, NameNotFound):
            self._answers.pop(name, None)
        elif isinstance(outcome, ServiceError) and name in self._answers:
            now = monotonic()
            self._answers[name].mute_until = now + MUTE_PERIOD if now > query.deadline else 0.0
        for lookup in query.lookups:
            self._settle(name, lookup, outcome)

    def _keep(self, name: str, addresses: Addresses) -> Resolution:
        now = monotonic()
        resolution = Resolution(addresses)
        self._answers[name] = _Answer(resolution, now + self._cache_ttl, now + self._stale_ttl)
        self._answers.move_to_end(name)
        if len(self._answers) > self._cache_maxsize:
            self._answers.popitem(last=False)
        return resolution


def _addresses(name: str) -> Addresses:
    """The A records of `name`; blocks for as long as the C library does."""
    try:
        records = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NOT_FOUND:
            raise NameNotFound(f"{name!r} does not exist or has no A record") from None
        raise ResolverFailure(f"DNS failed for {name!r}: {error.strerror}") from None
    addresses = {IPv4Address(sockaddr[0]) for *_, sockaddr in records}
    if not addresses:
        raise NameNotFound(f"{name!r} has no A record")
    return tuple(sorted(addresses))
