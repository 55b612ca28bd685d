"""Names to addresses: `getaddrinfo` with a deadline, shared queries and a short memory.

Everything but the queries themselves happens on the event loop's thread, so
nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import threading
from collections import Counter as Multiset
from collections import OrderedDict
from collections.abc import MutableMapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address
from time import monotonic

from common.errors import (
    InvalidName,
    NameNotAllowed,
    NameNotFound,
    Overloaded,
    ResolverFailure,
    ResolverTimeout,
    ServiceError,
    shown,
)
from common.metrics import Counter, Family, Gauge

__all__ = ["Addresses", "Resolution", "Resolver", "configure_c_library", "parse_name"]

# A query holds its thread for as long as the C library waits, several seconds when
# DNS is dead. A waiting thread costs little but its stack.
MAX_QUERIES = 512

# When a query has failed, whoever asks for its name in the next seconds gets the old
# answer at once, while the name is asked for anew (RFC 8767, section 5, which calls
# this the failure recheck timer). Long enough that few lookups wait for a DNS that is
# down, short enough that few are given an old answer once it is back.
FAILURE_RECHECK = 10.0

# Of the names in memory, the share of those that were asked for more than once.
FREQUENT_SHARE = 0.8

# More A records than any database has, and than fit into the answers of most servers.
MAX_ADDRESSES = 128

# RFC 1123, section 2.1, with the underscore of RFC 2782. A last label that is a
# number, decimal or hexadecimal, would be an address to the C library: `1.2.3`,
# `0x7f000001` and the like are 1.2.0.3 and 127.0.0.1 to inet_aton(3).
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NUMBER = r"(?:[0-9]+|0x[0-9a-f]*)"
_NAME = re.compile(
    rf"(?=.{{1,253}}\.?\Z)(?:{_LABEL}\.)*(?!{_NUMBER}\.?\Z){_LABEL}\.?", re.ASCII | re.IGNORECASE
)
_DOTTED_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")

# Enough of a text to see that it is no dotted quad: what is kept of texts is bounded, too.
MAX_PREFIX = len("255.255.255.255") + 1

# What getaddrinfo(3) says of a name that does not exist or has no A record.
_NOT_FOUND = {
    getattr(socket, code)
    for code in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, code)
}

Addresses = tuple[IPv4Address, ...]


def parse_name(text: str) -> str:
    """The domain name in lower case, and without a dot at its end: all names are absolute.

    So a name must have a dot inside (RFC 1034, section 3.1), but for `localhost`
    (RFC 6761, section 6.3). Raises `InvalidName`.
    """
    if not _NAME.fullmatch(text):
        raise InvalidName(f"{shown(text)} is neither a domain name nor an IPv4 address")
    name = text.lower().removesuffix(".")
    if "." not in name and name != "localhost":
        raise InvalidName(f"{shown(text)} is not fully qualified: it has only one label")
    return name


# What is asked for again and again has its answer ready.
@lru_cache(maxsize=1024)
def _address(text: str) -> Resolution | None:
    """What stands for itself, being a dotted quad; None for anything else."""
    if _DOTTED_QUAD.fullmatch(text):
        with suppress(ValueError):
            return Resolution((IPv4Address(text),))
    return None


def configure_c_library(environment: MutableMapping[str, str], timeout: float) -> None:
    """Sets what the GNU C library's resolver reads from the environment; see resolv.conf(5).

    It must not try the search list, or the NXDOMAIN of a search domain would stand
    for the failure of the name itself. By itself it asks again after 5 s: a lost
    query would block its name for as long. So it asks again after a second, and for
    no longer than twice a lookup's `timeout` in seconds.
    """
    environment["LOCALDOMAIN"] = "."
    wait = math.ceil(timeout / 5)  # it makes five attempts at the most
    attempts = max(2, math.ceil(timeout / wait))
    environment.setdefault("RES_OPTIONS", f"timeout:{wait} attempts:{attempts}")


class Resolution:
    """The A records of a name; `stale` if they are old ones because DNS gave none.

    `memo` is for what its user makes of it, to be kept for as long as it is; together
    with what it was made with.
    """

    __slots__ = ("addresses", "memo", "stale")

    def __init__(self, addresses: Addresses, *, stale: bool = False) -> None:
        self.addresses = addresses
        self.stale = stale
        self.memo: tuple[object, object] = (None, None)


class _Answer:
    """The last good answer for a name; the times are those of `monotonic`."""

    __slots__ = ("failing_until", "failure", "fresh_until", "resolution", "stale_until")

    def __init__(self, resolution: Resolution, fresh_until: float, stale_until: float) -> None:
        self.resolution = resolution
        self.fresh_until = fresh_until
        self.stale_until = stale_until
        self.failure: ServiceError | None = None  # why there is no newer one
        self.failing_until = 0.0  # until then nobody waits for a newer one


class _Memory:
    """The last good answers of at most `maxsize` names.

    Names that were asked for once are kept apart from those that were asked for
    again, and are dropped first: whoever asks for ever new names pushes out nobody
    else's. (Known as segmented LRU.)
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._once: OrderedDict[str, _Answer] = OrderedDict()
        self._frequent: OrderedDict[str, _Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._once) + len(self._frequent)

    def get(self, name: str) -> _Answer | None:
        """What is known of the name, which is not asked for by this."""
        return self._frequent.get(name) or self._once.get(name)

    def asked(self, name: str) -> _Answer | None:
        """What is known of the name, which somebody asks for."""
        answer = self._frequent.get(name)
        if answer is not None:
            self._frequent.move_to_end(name)
            return answer
        answer = self._once.pop(name, None)
        if answer is not None:
            self._frequent[name] = answer
            if len(self._frequent) > self._maxsize * FREQUENT_SHARE:
                demoted, its_answer = self._frequent.popitem(last=False)
                self._once[demoted] = its_answer
        return answer

    def keep(self, name: str, answer: _Answer) -> None:
        names = self._frequent if name in self._frequent else self._once
        names[name] = answer
        names.move_to_end(name)
        if len(self) > self._maxsize:
            (self._once or self._frequent).popitem(last=False)

    def forget(self, name: str) -> None:
        self._once.pop(name, None)
        self._frequent.pop(name, None)


Result = Resolution | ServiceError


class Resolver:
    """Resolves names, each in at most `timeout` seconds.

    Answers are kept `cache_ttl` seconds for at most `cache_maxsize` names. When
    DNS gives none in time, they serve for up to `stale_ttl` seconds (RFC 8767).
    With `allowed_domains`, other names than theirs are not asked for.
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
        self._stale_ttl = stale_ttl
        self._allowed_domains = allowed_domains
        self._answers = _Memory(cache_maxsize)
        self._queries: dict[str, asyncio.Future[Result]] = {}
        self._under_way: Multiset[str] = Multiset()  # queries, by domain
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

    def at_once(self, text: str) -> tuple[str, Result | None]:
        """The name that `text` is, and what can be said of it without waiting.

        That is None if nothing can. An address stands for itself. Of the errors, only
        `InvalidName` and `NameNotAllowed` are known at once.
        """
        at_hand = self._fresh(text) or _address(text[:MAX_PREFIX])
        if at_hand is not None:
            return text, at_hand
        try:
            name = parse_name(text)
        except InvalidName as error:
            return text, error
        if not self._is_allowed(name):
            return name, NameNotAllowed(f"{name!r} is in none of the domains that are allowed")
        return name, None if name == text else self._fresh(name)

    def _is_allowed(self, name: str) -> bool:
        return not self._allowed_domains or any(
            name == domain or name.endswith(f".{domain}") for domain in self._allowed_domains
        )

    def _fresh(self, name: str) -> Resolution | None:
        answer = self._answers.asked(name)
        if answer is None or answer.fresh_until <= monotonic():
            return None
        self._hits.increment()
        return answer.resolution

    def fresh_until(self, name: str) -> float:
        """Until when, by `monotonic`, the name is answered from memory; -inf if it is not at all."""
        answer = self._answers.get(name)
        return answer.fresh_until if answer else -math.inf

    async def resolve(self, name: str, patience: float = math.inf) -> Result:
        """What comes of a name of which `at_once` says nothing else; in so many seconds at most.

        The error is a `NameNotFound`, or where there is no old answer to fall back on a
        `ResolverFailure`, `ResolverTimeout` or `Overloaded`.
        """
        fresh = self._fresh(name)  # another lookup's query may have ended meanwhile
        if fresh is not None:
            return fresh
        result = await self._ask(name, min(patience, self._timeout))
        self._outcomes.increment("Success" if isinstance(result, Resolution) else result.reason)
        if isinstance(result, Resolution | NameNotFound):
            return result
        return self._old_answer(name) or result

    def _old_answer(self, name: str) -> Resolution | None:
        answer = self._answers.get(name)
        if answer is None or answer.stale_until <= monotonic():
            return None
        self._stale_answers.increment()
        return Resolution(answer.resolution.addresses, stale=True)

    async def _ask(self, name: str, timeout: float) -> Result:
        """What comes of the query for `name`, of which there is one at a time."""
        try:
            query = self._queries.get(name) or self._start(name)
        except Overloaded as error:
            return self._failed(name, error)
        failure = self._recent_failure(name)
        if failure is not None:
            return failure
        # Not `wait_for`, which would cancel what others wait for, too.
        await asyncio.wait([query], timeout=timeout)
        if query.done():
            return query.result()
        late = ResolverTimeout(f"no answer for {name!r} within {timeout:g} s")
        return self._failed(name, late)

    def _recent_failure(self, name: str) -> ServiceError | None:
        """Why there is an old answer to be given at once."""
        known = self._answers.get(name)
        now = monotonic()
        if known is None or known.failing_until <= now or known.stale_until <= now:
            return None
        return known.failure

    def _failed(self, name: str, error: ServiceError) -> ServiceError:
        known = self._answers.get(name)
        if known is not None:
            known.failure = error
            known.failing_until = monotonic() + FAILURE_RECHECK
        return error

    def _start(self, name: str) -> asyncio.Future[Result]:
        domain = _domain(name)
        # A domain may have as many under way as are free: one that hangs gets half of all, and
        # the next half of what is left. So none takes all that others could have had.
        if self._under_way[domain] >= MAX_QUERIES - len(self._queries):
            raise Overloaded(f"{name!r} was not asked for: too many queries are under way")
        loop = asyncio.get_running_loop()
        query: asyncio.Future[Result] = loop.create_future()
        try:
            # A daemon, so that one stuck in the C library does not delay the exit.
            threading.Thread(target=self._query, args=(loop, name), daemon=True).start()
        except RuntimeError as error:
            raise Overloaded(f"{name!r} was not asked for: {error}") from None
        self._queries[name] = query
        self._under_way[domain] += 1
        return query

    def _query(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        result: Addresses | ServiceError
        try:
            result = _addresses(name)
        except ServiceError as error:
            result = error
        except Exception as error:
            # Whatever else goes wrong must end the query, or its name would be stuck for good.
            result = ResolverFailure(f"DNS failed for {name!r}: {error}")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._finish, name, result)

    def _finish(self, name: str, result: Addresses | ServiceError) -> None:
        query = self._queries.pop(name)
        domain = _domain(name)
        self._under_way[domain] -= 1
        if not self._under_way[domain]:
            del self._under_way[domain]
        if not isinstance(result, ServiceError):
            query.set_result(self._keep(name, result))
        elif isinstance(result, NameNotFound):
            self._answers.forget(name)
            query.set_result(result)
        else:
            query.set_result(self._failed(name, result))

    def _keep(self, name: str, addresses: Addresses) -> Resolution:
        now = monotonic()
        resolution = Resolution(addresses)
        self._answers.keep(name, _Answer(resolution, now + self._cache_ttl, now + self._stale_ttl))
        return resolution


def _domain(name: str) -> str:
    """The last two labels of the name: whose it is, as far as can be told."""
    return ".".join(name.split(".")[-2:])


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
    if len(addresses) > MAX_ADDRESSES:
        raise ResolverFailure(
            f"{name!r} has {len(addresses)} A records, the most is {MAX_ADDRESSES}"
        )
    return tuple(sorted(addresses))
