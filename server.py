"""The lookup service: says in which zone the host behind a domain name is.

    python server.py
    curl 'localhost:8080/lookup?fqdn=192.168.1.7'

A request's way: `connection.py` reads it, `LookupHandler.do_GET` dispatches it,
`resolver.py` finds the names' addresses, `subnets.py` the addresses' subnets, and
`placement.py` makes the answer of it.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from ipaddress import IPv4Address
from time import localtime, perf_counter, strftime, time
from typing import NamedTuple, TypeVar

from connection import BACKLOG, ConnectionHandler, ConnectionServer
from errors import NotFound, ServiceError, ShuttingDown, shown
from eventloop import EventLoop
from metrics import CONTENT_TYPE, Counter, Family, Gauge, Histogram, render
from placement import Answer, Result, answer, error_body, names_in, to_json
from resolver import MAX_QUERIES, Resolution, Resolver, parse_name
from subnets import (
    ZONE_ID_LABEL,
    ZONE_LABEL,
    InvalidSubnets,
    SubnetTable,
    pasted_table,
    read_files,
)

__version__ = "1.0.0"

# Far more than Kyverno, the probes and Prometheus open. Each takes a few kilobytes.
MAX_CONNECTIONS = 4096

# Descriptors for other things: a socket or two for each query, the log, the event loop.
OTHER_DESCRIPTORS = 2 * MAX_QUERIES + 32

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"  # ISO 8601

ENDPOINTS = frozenset({"/lookup", "/healthz", "/readyz", "/metrics"})

T = TypeVar("T")


class InvalidSetting(ValueError):
    """An environment variable has a value that cannot be used."""


class Settings(NamedTuple):
    """What the environment says; times are in seconds."""

    host: str
    port: int
    log_level: str
    node_label: str
    subnets_file: str
    dns_timeout: float
    dns_cache_ttl: float
    dns_cache_maxsize: int
    dns_stale_ttl: float
    shutdown_delay: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The settings, by default for a variable that is unset or empty.

        Raises `InvalidSetting`.
        """

        def read(name: str, default: str, convert: Callable[[str], T]) -> T:
            value = environment.get(name) or default
            try:
                return convert(value)
            except ValueError as error:
                raise InvalidSetting(f"{name}: {shown(value)} is not {error}") from None

        return cls(
            host=read("HOST", "", str),
            port=read("PORT", "8080", _whole_number(65535)),
            log_level=read("LOG_LEVEL", "INFO", _one_of(*_LOG_LEVELS)),
            node_label=read("NODE_LABEL", ZONE_LABEL, _one_of(ZONE_LABEL, ZONE_ID_LABEL)),
            subnets_file=read("SUBNETS_FILE", "", str),
            dns_timeout=read("DNS_TIMEOUT", "1", _seconds(at_least=0.01)),
            dns_cache_ttl=read("DNS_CACHE_TTL", "5", _seconds()),
            dns_cache_maxsize=read("DNS_CACHE_MAXSIZE", "1024", _whole_number(1_000_000)),
            dns_stale_ttl=read("DNS_STALE_TTL", "300", _seconds()),
            shutdown_delay=read("SHUTDOWN_DELAY", "0", _seconds()),
        )


_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _whole_number(maximum: int) -> Callable[[str], int]:
    def convert(value: str) -> int:
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(maximum))
        if not is_number or int(value) > maximum:
            raise ValueError(f"a whole number from 0 to {maximum}")
        return int(value)

    return convert


def _seconds(at_least: float = 0, at_most: float = 86400) -> Callable[[str], float]:
    def convert(value: str) -> float:
        with suppress(ValueError):
            if at_least <= float(value) <= at_most:
                return float(value)
        raise ValueError(f"a number of seconds from {at_least:g} to {at_most:g}")

    return convert


def _one_of(*choices: str) -> Callable[[str], str]:
    def convert(value: str) -> str:
        for choice in choices:
            if value.upper() == choice.upper():
                return choice
        raise ValueError(f"one of {', '.join(choices)}")

    return convert


class LookupServer(ConnectionServer):
    """What the connections' handlers share: the table, the resolver, the metrics."""

    def __init__(
        self,
        loop: EventLoop,
        listener: socket.socket,
        settings: Settings,
        table: SubnetTable,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        super().__init__(loop, listener, LookupHandler, max_connections)
        self.table = table
        self.settings = settings
        self.resolver = Resolver(
            loop,
            timeout=settings.dns_timeout,
            cache_ttl=settings.dns_cache_ttl,
            cache_maxsize=settings.dns_cache_maxsize,
            stale_ttl=settings.dns_stale_ttl,
        )
        self.requests = Counter("requests_total", "Requests answered.", "endpoint", "status")
        self.zones = Counter("zone_answers_total", "Lookups answered with a zone.", "zone")
        self.durations = Histogram("lookup_duration_seconds", "From a lookup to its answer.")

    def metrics(self) -> list[Family]:
        """All families, in the order they are shown."""
        return [
            self.requests,
            self.durations,
            self.zones,
            *self.resolver.metrics(),
            Gauge("open_connections", "Open connections.", lambda: len(self.connections)),
            Gauge("subnets", "Subnets in the table.", lambda: len(self.table)),
            Gauge(
                "build_info",
                "The version that runs; always 1.",
                lambda: 1,
                version=__version__,
                python=".".join(map(str, sys.version_info[:3])),
            ),
        ]

    def resolve_at_once(self, name: str) -> Result | None:
        """What can be said of the name without asking DNS; None if nothing."""
        try:
            parsed = parse_name(name)
        except ServiceError as error:
            return error
        if isinstance(parsed, IPv4Address):
            return Resolution((parsed,))
        return self.resolver.cached(parsed)

    def answer(self, results: Mapping[str, Result]) -> Answer:
        """The answer to a lookup of these names, or an exception: the first name's error."""
        first, *others = results.values()
        if others or isinstance(first, ServiceError):
            return answer(results, self.table, self.settings.node_label)
        if not isinstance(first.memo, Answer):
            first.memo = answer(results, self.table, self.settings.node_label)
        return first.memo

    def stop(self) -> None:
        """Is no longer ready, and stops after `SHUTDOWN_DELAY`."""
        self.draining = True
        self.loop.call_later(self.settings.shutdown_delay, self.drain)


def log_lookup(line: str) -> None:
    """Writes a lookup's line as `logging` would, which takes longer than all the rest of it."""
    if sys.stderr and logging.root.isEnabledFor(logging.INFO):
        with suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write(f"{_timestamp(int(time()))} INFO lookup {line}\n")


@lru_cache(maxsize=1)
def _timestamp(second: int) -> str:
    return strftime(TIME_FORMAT, localtime(second))


class LookupHandler(ConnectionHandler):
    """Answers lookups, probes and scrapes."""

    server: LookupServer
    server_version = f"automatic-zone-placement/{__version__}"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        try:
            if path == "/lookup":
                self.lookup(query)
            elif path == "/healthz":
                self.send_json(200, b'{"status": "ok"}')
            elif path == "/readyz":
                self.send_readiness()
            elif path == "/metrics":
                self.respond(200, render(self.server.metrics()), CONTENT_TYPE)
            else:
                raise NotFound(f"there is nothing at {shown(path)}")
        except ServiceError as error:
            self.send_service_error(error)

    do_HEAD = do_GET

    def send_readiness(self) -> None:
        if self.server.draining:
            raise ShuttingDown("the service is shutting down")
        self.send_json(200, b'{"status": "ok"}')

    def lookup(self, query: str) -> None:
        """Answers now, or else when DNS has answered or had its time."""
        started = perf_counter()
        try:
            names = names_in(query)
        except ServiceError as error:
            self.send_outcome(started, query, error)
            return
        at_once = {name: self.server.resolve_at_once(name) for name in names}
        results = {name: result for name, result in at_once.items() if result is not None}
        if len(results) == len(at_once):
            self.send_results(started, results)
            return
        self.put_off()
        done = partial(self.resolved, started, list(at_once), results)
        for name in at_once.keys() - results.keys():  # side by side: they share one deadline
            self.server.resolver.resolve(name, partial(done, name))

    def resolved(
        self,
        started: float,
        names: list[str],
        results: dict[str, Result],
        name: str,
        result: Result,
    ) -> None:
        """Called by the resolver for each name; the last one completes the answer."""
        results[name] = result
        if len(results) == len(names):
            in_order = {name: results[name] for name in names}
            self.resume(lambda: self.send_results(started, in_order))

    def send_results(self, started: float, results: Mapping[str, Result]) -> None:
        outcome: Answer | ServiceError
        try:
            outcome = self.server.answer(results)
        except ServiceError as error:
            outcome = error
        self.send_outcome(started, ",".join(results), outcome)

    def send_outcome(self, started: float, asked: str, outcome: Answer | ServiceError) -> None:
        """Answers the lookup and accounts for it: its line in the log, its duration, its zone."""
        if isinstance(outcome, ServiceError):
            self.send_service_error(outcome)
            found = f"reason={outcome.reason}"
        else:
            self.send_json(200, outcome.body)
            found = f"address={outcome.address} zone={outcome.zone}"
            self.server.zones.increment(outcome.zone)
        seconds = perf_counter() - started
        self.server.durations.observe(seconds)
        log_lookup(f"{shown(asked)} {found} ms={seconds * 1000:.2f}")

    def send_json(self, status: int, body: bytes, fields: str = "") -> None:
        self.respond(status, body, "application/json", fields)

    def send_service_error(self, error: ServiceError) -> None:
        self.send_json(error.status, to_json(error_body(error)), error.fields)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Counts the answer. Only lookups are logged, each with a line of its own."""
        path = self.path.partition("?")[0]
        endpoint = path if path in ENDPOINTS else "other"
        self.server.requests.increment(endpoint, str(int(code)))


# From the command line to a listening server, and to its end.


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; without a host, for all addresses of both families if there are both.

    Raises `OSError`, whose `strerror` says why.
    """
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            host.encode("idna")  # as a socket does it
        except UnicodeError:
            raise OSError(errno.EINVAL, "this is not a host name") from None
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
        except OSError as error:
            # The kernel knows IPv6, but it is switched off here.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


def raise_connection_limit() -> int:
    """The number of connections that the limit of open files, raised if possible, leaves room for."""
    wanted = MAX_CONNECTIONS + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(soft - OTHER_DESCRIPTORS, soft // 2))


def main() -> int:
    """Runs the service as the environment says; the exit status is 2 if that is not possible."""
    try:
        settings = Settings.from_environment(os.environ)
        file, label = settings.subnets_file, settings.node_label
        table = read_files([file], label) if file else pasted_table(label)
        listener = listen(settings.host, settings.port)
    except InvalidSetting as error:
        return _complain(str(error))
    except InvalidSubnets as error:
        return _complain(*error.problems)
    except OSError as error:
        where = f"HOST {shown(settings.host)}, PORT {settings.port}"
        why = str(error.strerror).partition(" (while")[0]  # there it repeats the address
        return _complain(f"cannot listen on {where}: {why}")
    # See resolv.conf(5). By itself the GNU C library waits 5 s before it asks again: a lost query
    # would block its name for as long after DNS is back.
    patience = math.ceil(settings.dns_timeout)
    os.environ.setdefault("RES_OPTIONS", f"timeout:{patience} attempts:2")
    logging.basicConfig(
        level=settings.log_level,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt=TIME_FORMAT,
    )
    logging.raiseExceptions = False  # a log that cannot be written must not cost an answer
    for warning in table.warnings:
        logging.warning("%s", warning)
    serve(settings, table, listener)
    try:
        if sys.stderr:
            sys.stderr.flush()
    except OSError:  # nobody reads the log any more: no failure of ours, but Python would say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return 0


def serve(settings: Settings, table: SubnetTable, listener: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process at once."""
    loop = EventLoop()
    server = LookupServer(loop, listener, settings, table, raise_connection_limit())

    def stop(number: int, _frame: object) -> None:
        if server.draining:
            os._exit(128 + number)
        server.draining = True
        name = signal.Signals(number).name
        loop.call_soon_threadsafe(lambda: logging.info("%s: no longer ready", name))
        loop.call_soon_threadsafe(server.stop)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    address, port, *_ = listener.getsockname()
    logging.info("listening on %s port %d, %d subnets", address, port, len(table))
    loop.run()
    logging.info("stopped")


def _complain(*lines: str) -> int:
    print(*lines, sep="\n", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
