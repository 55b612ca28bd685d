"""The lookup service: says in which zone the host behind a domain name is.

    python3 server.py
    curl 'localhost:8080/lookup?fqdn=192.168.1.7'

A request's way: `connection.py` reads it, `LookupHandler.do_GET` dispatches it,
`lookups.py` has `resolver.py` find the names' addresses, and `placement.py` make the
answer of their subnets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import parse_qsl

sys.path.insert(0, str(Path(__file__).parent))  # also when Python is isolated (-I)

from common import log
from common.connection import ConnectionHandler, ConnectionServer
from common.errors import (
    InvalidRequest,
    NotFound,
    ServiceError,
    ShuttingDown,
    complain,
    error_body,
    shown,
)
from common.kubernetes import Client, optional_url
from common.listening import open_port, raise_connection_limit
from common.metrics import CONTENT_TYPE, Counter, Family, Gauge, process, render
from common.names import NAMES_PATTERN, VERSION, ZONE_ID_LABEL, ZONE_LABEL
from common.settings import (
    LOG_LEVELS,
    InvalidSetting,
    Settings,
    comma_separated,
    one_of,
    seconds,
    setting,
    text,
    whole_number,
)
from kept.configmap import names_to_keep, path_of
from kept.keeper import Keeper
from kept.memory import Memory
from lookup.c_library import configure_c_library
from lookup.host import parse_name
from lookup.lookups import Lookups, Outcome, names_in
from lookup.placement import Placement, to_json
from lookup.resolver import MAX_QUERIES, Resolver
from lookup.table import InvalidSubnets, SubnetTable
from lookup.table_file import TableFile
from subnets import pasted_table
from webhook.certificate import Certificate, InvalidCertificate
from webhook.handler import MAX_CONNECTIONS as MAX_WEBHOOK_CONNECTIONS
from webhook.handler import WebhookServer

# Far more than Kyverno, the probes and Prometheus open. Each takes a few kilobytes.
MAX_CONNECTIONS = 4096

# Descriptors for other things: a socket or two for each query, the log, the event loop.
OTHER_DESCRIPTORS = 2 * MAX_QUERIES + 32

# Seconds for a call to the API server that keeps decisions: a quarter of a megabyte at most.
KEEPING_TIMEOUT = 5.0

# By path, what is answered there.
ENDPOINTS = {
    "/": "this list",
    "/lookup": "in which zone the names are: /lookup?fqdn=NAME[,NAME...]",
    "/healthz": "whether the process works",
    "/readyz": "whether it is ready for requests",
    "/metrics": "metrics for Prometheus",
}


def _domain(value: str) -> str:
    """A domain under which names are allowed; a dot before it or behind it is let pass."""
    domain = value.strip(".").lower()
    with suppress(ServiceError):
        parse_name(f"x.{domain}")
        return domain
    raise ValueError(f"a list of domains: {shown(value)} is none")


def _zone(value: str) -> str:
    if value:
        return value
    raise ValueError("a list of zones: one of them is empty")


@dataclass(frozen=True)
class ServerSettings(Settings):
    """The settings of the service."""

    host: str = setting("", text, "the address to listen on; by default all, IPv4 and IPv6")
    port: int = setting("8080", whole_number(65535), "the port; 0 takes a free one and logs it")
    tls_cert_file: str = setting(
        "", text, "a certificate in PEM form, with which the webhook serves API servers"
    )
    tls_key_file: str = setting("", text, "the certificate's key; without the two, no webhook")
    tls_port: int = setting("8443", whole_number(65535), "the webhook's port, as PORT")
    log_level: str = setting(
        "INFO", one_of(*LOG_LEVELS), f"{', '.join(LOG_LEVELS)}; lookups are logged at INFO"
    )
    node_label: str = setting(
        ZONE_LABEL,
        one_of(ZONE_LABEL, ZONE_ID_LABEL),
        f"the label that stands for a node's zone: {ZONE_LABEL} or {ZONE_ID_LABEL}",
    )
    subnets_file: str = setting("", text, "a JSON file that replaces SUBNETS_DATA")
    avoid_zones: tuple[str, ...] = setting(
        "",
        comma_separated(_zone),
        "zones or zone ids, with commas between them, in which no Pod is to be placed",
    )
    allowed_domains: tuple[str, ...] = setting(
        "",
        comma_separated(_domain),
        "domains, with commas between them; other names are refused, and not asked for",
    )
    dns_timeout: float = setting(
        "1", seconds(0.01, 10), "seconds that a lookup waits for DNS; less than the policy's 3 s"
    )
    dns_cache_ttl: float = setting("5", seconds(), "seconds that an address is kept; 0 keeps none")
    dns_cache_maxsize: int = setting("4096", whole_number(1_000_000), "names that are kept")
    dns_stale_ttl: float = setting(
        "300", seconds(), "seconds for which an old address may serve while DNS fails"
    )
    kept_decisions: str = setting(
        "", path_of, "a ConfigMap, as NAMESPACE/NAME, in which the API server finds decisions"
    )
    kept_names: tuple[str, ...] = setting(
        "", names_to_keep, "what is kept from the start: annotations, with spaces between them"
    )
    kubernetes_url: str = setting(
        "",
        optional_url,
        "an API server that needs no token: `kubectl proxy`; by default the cluster's",
    )
    shutdown_delay: float = setting(
        "0", seconds(), "seconds between SIGTERM and closing, for load balancers to notice"
    )


class LookupServer(ConnectionServer):
    """What the connections' handlers share: the lookups, the settings, the metrics."""

    def __init__(
        self,
        settings: ServerSettings,
        table: SubnetTable,
        max_connections: int = MAX_CONNECTIONS,
        lines_dropped: Counter | None = None,
    ) -> None:
        super().__init__(LookupHandler, max_connections)
        self.settings = settings
        resolver = Resolver(
            timeout=settings.dns_timeout,
            cache_ttl=settings.dns_cache_ttl,
            cache_maxsize=settings.dns_cache_maxsize,
            stale_ttl=settings.dns_stale_ttl,
            allowed_domains=settings.allowed_domains,
        )
        self.lookups = Lookups(resolver, self._placement(table))
        self.requests = Counter("requests_total", "Requests answered.", "endpoint", "status")
        self.reloads = Counter(
            "subnets_reloads_total", "Times that SUBNETS_FILE was read again.", "outcome"
        )
        self.reloads.begin(("success",), ("failure",))
        self._problems: list[str] = []
        self.webhook: WebhookServer | None = None
        self.keeper: Keeper | None = None
        self._lines_dropped = [lines_dropped] if lines_dropped else []
        self._stopping = asyncio.Event()

    def _placement(self, table: SubnetTable) -> Placement:
        return Placement(table, self.settings.node_label, self.settings.avoid_zones)

    def reload(self, read: SubnetTable | InvalidSubnets) -> None:
        """Goes on with this table, or else with the one of before, saying once what is wrong."""
        if isinstance(read, SubnetTable):
            self.reloads.increment("success")
            self.lookups.use(self._placement(read))
            self._problems = []
            logging.info("read %s again: %d subnets", self.settings.subnets_file, len(read))
            log.warn(table_warnings(self.settings, read))
            return
        self.reloads.increment("failure")
        if read.problems != self._problems:
            self._problems = read.problems
            for problem in read.problems:
                logging.error("%s", problem)
            logging.error("the %d subnets of before stay in use", len(self.lookups.placement.table))

    def metrics(self) -> list[Family]:
        """All families, in the order they are shown."""
        return [
            self.requests,
            *self.lookups.metrics(),
            self.reloads,
            *(self.webhook.metrics() if self.webhook else ()),
            *(self.keeper.metrics() if self.keeper else ()),
            *self._lines_dropped,
            Gauge("open_connections", "Open connections.", lambda: len(self.connections)),
            Gauge(
                "build_info",
                "The version that runs; always 1.",
                lambda: 1,
                version=VERSION,
                python=".".join(map(str, sys.version_info[:3])),
            ),
            *process(),
        ]

    def open_webhook(self, certificate: Certificate) -> None:
        """Also answers reviews, once it serves."""
        # Where few files may be open, few of them are for these.
        most = self.max_connections // 2
        self.webhook = WebhookServer(self.lookups, self.requests, certificate, most)

    def keep_decisions(self, client: Client) -> None:
        """Also keeps decisions in the ConfigMap, once it serves."""
        settings = self.settings
        memory = Memory(settings.kept_names, settings.dns_cache_ttl, settings.dns_stale_ttl)
        self.keeper = Keeper(settings.kept_decisions, client, self.lookups, memory)
        self.lookups.tell = self.keeper.heard

    def why_unready(self) -> ServiceError | None:
        """Why it is not ready for requests; None if it is."""
        if self.draining:
            return ShuttingDown("the service is shutting down")
        return self.webhook.why_unready() if self.webhook else None

    def stop(self) -> None:
        """Is no longer ready, and stops after `SHUTDOWN_DELAY`."""
        self.draining = True
        if self.webhook:
            self.webhook.draining = True
        self._stopping.set()

    async def serve(
        self, listener: socket.socket, tls_listener: socket.socket | None = None
    ) -> None:
        """Serves those who connect to the sockets, until `stop` is called and for as long after."""
        await self.listen(listener)
        if self.webhook and tls_listener:
            await self.webhook.listen(tls_listener)
        if self.keeper:
            self.keeper.start()
        await self._stopping.wait()
        await asyncio.sleep(self.settings.shutdown_delay)
        await self.drain()

    async def drain(self) -> None:
        also = [self.webhook.drain()] if self.webhook else []
        also += [self.keeper.stop()] if self.keeper else []
        await asyncio.gather(super().drain(), *also)


# What nearly every query is: nothing in it is encoded.
_PLAIN_QUERY = re.compile(rf"fqdn=({NAMES_PATTERN})")


def value_in(query: str) -> str:
    """The value of a query string that is just `fqdn=VALUE`. Raises `InvalidRequest`."""
    plain = _PLAIN_QUERY.fullmatch(query)
    if plain:
        return plain[1]
    try:
        fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        fields = []
    match fields:
        case [("fqdn", value)] if value:
            return value
    raise InvalidRequest(f"the query {shown(query)} is not fqdn=NAME and nothing else")


class LookupHandler(ConnectionHandler):
    """Answers lookups, probes and scrapes."""

    server: LookupServer
    server_version = f"automatic-zone-placement/{VERSION}"

    def do_GET(self) -> Coroutine[Any, Any, None] | None:
        path, _, query = self.path.partition("?")
        if path == "/lookup":
            return self.lookup(query)
        if path == "/healthz":
            self.send_health()
        elif path == "/readyz":
            self.send_health(self.server.why_unready())
        elif path == "/metrics":
            self.respond(200, render(self.server.metrics()), CONTENT_TYPE)
        elif path == "/":
            self.send_json(200, to_json({"version": VERSION, "endpoints": ENDPOINTS}))
        else:
            raise NotFound(f"there is nothing at {shown(path)}, but at {', '.join(ENDPOINTS)}")
        return None

    async def lookup(self, query: str) -> None:
        """Answers a lookup, also by its line in the log."""
        started = perf_counter()
        lookups = self.server.lookups
        asked = query
        try:
            asked = value_in(query)
            outcome = await lookups.find(names_in(asked), "engine")
        except InvalidRequest as error:
            outcome = error
            lookups.count(outcome, "engine")
        if isinstance(outcome, ServiceError):
            self.send_error_body(outcome)
            found = f"reason={outcome.reason}"
        else:
            self.send_json(200, outcome.body)
            found = outcome.summary
        duration = perf_counter() - started
        logging.info("lookup %s %s ms=%.2f", shown(asked), found, duration * 1000)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Counts the answer; what is logged has a line of its own."""
        path = self.path.partition("?")[0]
        endpoint = path if path in ENDPOINTS else "other"
        self.server.requests.increment(endpoint, str(int(code)))


# From the command line to a listening server, and to its end.


def names_to_explain(arguments: Sequence[str]) -> str | None:
    """The names that `--lookup` gives, if any; ends the process for `--help`, `--version` or a mistake."""
    parser = ServerSettings.parser(
        "Says over HTTP in which zone the host behind a domain name is.", os.environ
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument(
        "--lookup",
        metavar="NAME[,NAME...]",
        help="serve nothing, but print the answer that the service would give, and why; "
        "the exit status is 1 if any of the names has none",
    )
    names: str | None = parser.parse_args(arguments).lookup
    return names


def main(arguments: Sequence[str]) -> int:
    """Runs the service as the environment says; the exit status is 2 if that is not possible."""
    # As process 1 of a container it would not be ended by the signals, before there is a handler.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os._exit(128 + number))
    asked = names_to_explain(arguments) if arguments else None
    try:
        settings = ServerSettings.from_environment(os.environ)
        certificate = certificate_of(settings)
        client = client_of(settings)
        path, label = settings.subnets_file, settings.node_label
        file = TableFile(path, label) if path else None
        if file:  # which is read now, as the signal would have it
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        table = file.read() if file else pasted_table(label)
    except (InvalidSetting, InvalidCertificate) as error:
        return complain(str(error), status=2)
    except InvalidSubnets as error:
        return complain(*error.problems, status=2)
    configure_c_library(os.environ, settings.dns_timeout)
    warnings = [*ServerSettings.misspelt(os.environ), *table_warnings(settings, table)]
    if asked is not None:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return asyncio.run(explain(settings, table, asked))
    ports = {"PORT": settings.port} | ({"TLS_PORT": settings.tls_port} if certificate else {})
    try:
        listeners = [open_port(settings.host, name, port) for name, port in ports.items()]
    except InvalidSetting as error:
        return complain(str(error), status=2)
    handler = log.start(settings.log_level)
    log.warn(warnings)
    others = OTHER_DESCRIPTORS + (MAX_WEBHOOK_CONNECTIONS if certificate else 0)
    connections = raise_connection_limit(MAX_CONNECTIONS, others)
    server = LookupServer(settings, table, connections, handler.dropped if handler else None)
    if certificate:
        server.open_webhook(certificate)
    if client:
        server.keep_decisions(client)
    asyncio.run(run(server, file, *listeners))
    return 0


def certificate_of(settings: ServerSettings) -> Certificate | None:
    """What the webhook proves itself with; None without a webhook.

    Raises `InvalidSetting` or `InvalidCertificate`.
    """
    files = (settings.tls_cert_file, settings.tls_key_file)
    if not any(files):
        return None
    if not all(files):
        raise InvalidSetting("of TLS_CERT_FILE and TLS_KEY_FILE, only one is set")
    return Certificate(*files)


def client_of(settings: ServerSettings) -> Client | None:
    """Speaks to the API server that keeps decisions; None if none does. Raises `InvalidSetting`."""
    if not settings.kept_decisions:
        return None
    try:
        environment = {**os.environ, "KUBERNETES_URL": settings.kubernetes_url}
        return Client.from_environment(environment).with_timeout(KEEPING_TIMEOUT)
    except ValueError as error:
        raise InvalidSetting(f"KEPT_DECISIONS: {error}") from None


def table_warnings(settings: ServerSettings, table: SubnetTable) -> Iterator[str]:
    """What is usable but looks wrong about a table, and about the settings if this is the table."""
    for zone in settings.avoid_zones:
        if zone not in table.zones:
            yield f"AVOID_ZONES has {shown(zone)}, which is no zone in the table"
    yield from table.warnings


async def explain(settings: ServerSettings, table: SubnetTable, asked: str) -> int:
    """Prints the answer that the service would give, and to standard error how it is found.

    The exit status is 0, or 1 if any of the names has no answer.
    """
    server = LookupServer(settings, table)
    try:
        names = names_in(asked)
    except InvalidRequest as error:
        outcome: Outcome = error
    else:
        results = await server.lookups.resolve(names)
        for line in server.lookups.placement.explain(results):
            print(line, file=sys.stderr)
        outcome = server.lookups.answer(results)
    if isinstance(outcome, ServiceError):
        print(json.dumps(error_body(outcome), indent=2))
        return 1
    body = json.loads(outcome.body)
    print(json.dumps(body, indent=2))
    return 1 if "errors" in body else 0


async def run(
    server: LookupServer,
    file: TableFile | None,
    listener: socket.socket,
    tls_listener: socket.socket | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if server.draining:
            os._exit(128 + number)
        logging.info("%s: no longer ready", number.name)
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    if file:
        file.watch(loop, server.reload)
        loop.add_signal_handler(signal.SIGHUP, file.read_again)
    address, port, *_ = listener.getsockname()
    logging.info("listening on %s port %d, %s", address, port, _summary(server, port))
    if tls_listener:
        address, port, *_ = tls_listener.getsockname()
        logging.info("listening on %s port %d for reviews", address, port)
    await server.serve(listener, tls_listener)
    logging.info("stopped")


def _summary(server: LookupServer, port: int) -> str:
    """What the first line of the log says of the table and the settings, and what to try."""
    settings, table = server.settings, server.lookups.placement.table
    host = settings.host if settings.host not in ("", "::", "0.0.0.0") else "localhost"
    host = f"[{host}]" if ":" in host else host
    address = next(iter(table)).cidr.partition("/")[0]
    source = settings.subnets_file or "SUBNETS_DATA"
    changed = " ".join(settings.changed(os.environ)) or "all by default"
    return (
        f"{len(table)} subnets in {source}, settings: {changed}; "
        f"try http://{host}:{port}/lookup?fqdn={address}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
