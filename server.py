"""The lookup service: says in which zone the host behind a domain name is.

    python3 server.py
    curl 'localhost:8080/lookup?fqdn=192.168.1.7'

A request's way: `connection.py` reads it, `LookupHandler.do_GET` dispatches it,
`lookups.py` has `resolver.py` find the names' addresses, and `placement.py` make the
answer of their subnets. With a certificate, there is a second port, for `webhook/`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # also when Python is isolated (-I)

from common import log
from common.errors import InvalidRequest, ServiceError, complain, error_body
from common.kubernetes import Client
from common.lateness import Lateness
from common.listening import open_port, raise_connection_limit
from common.metrics import Family, Gauge, process
from common.names import VERSION
from common.port import Port
from common.probes import Status
from common.settings import InvalidSetting, ServingSettings, seconds, setting
from common.signals import end_at_once, heed
from kept.keeper import Keeper
from kept.memory import Memory
from kept.settings import KeptSettings
from lookup.c_library import configure_c_library
from lookup.handler import LookupHandler
from lookup.lookups import Outcome, names_in
from lookup.resolver import MAX_QUERIES
from lookup.service import Service
from lookup.settings import LookupSettings
from lookup.table import InvalidSubnets, SubnetTable
from lookup.table_file import TableFile
from subnets import pasted_table
from webhook.certificate import Certificate, InvalidCertificate
from webhook.handler import Webhook, WebhookHandler
from webhook.settings import WebhookSettings

# Far more than Kyverno, the probes and Prometheus open. Each takes a few kilobytes.
MAX_CONNECTIONS = 4096

# Whoever can reach the webhook's port can open them, and each may take 80 kB. An API server
# needs one for each Pod that is being created. Where few files may be open, few are for these.
MAX_WEBHOOK_CONNECTIONS = 512

# Descriptors for other things: a socket or two for each query, the log, the event loop.
OTHER_DESCRIPTORS = 2 * MAX_QUERIES + 32


@dataclass(frozen=True)
class ServerSettings(KeptSettings, LookupSettings, WebhookSettings, ServingSettings):
    """The settings of the service."""

    shutdown_delay: float = setting(
        "0", seconds(), "seconds between SIGTERM and closing, for load balancers to notice"
    )


class Server:
    """The lookups, and the ports side by side on which they are asked for."""

    def __init__(
        self,
        settings: ServerSettings,
        table: SubnetTable,
        max_connections: int = MAX_CONNECTIONS,
        *also: Family,
    ) -> None:
        self.settings = settings
        self.service = Service(settings, table)
        self.status = Status(self.metrics)
        self.lateness = Lateness()
        lookups = Port(partial(LookupHandler, self.service.lookups, self.status), max_connections)
        self.ports = [lookups]
        self.keepers: list[Keeper] = []
        self.background = [self.lateness.watch]
        self._own = [
            self.status.requests,
            *also,
            self.lateness.counter,
            Gauge("open_connections", "Open connections.", lookups.number_open),
        ]
        # Those of a table that is read anew may be others.
        self._sources: list[Callable[[], Iterable[Family]]] = [self.service.metrics]
        self._stopping = asyncio.Event()

    def open_webhook(self, certificate: Certificate) -> None:
        """Also answers reviews, once it serves."""
        most = min(MAX_WEBHOOK_CONNECTIONS, self.ports[0].max_connections // 2)
        webhook = Webhook(self.service.lookups, certificate, self.status)
        port = Port(partial(WebhookHandler, webhook), most, certificate.current)
        self.ports.append(port)
        self.background.append(certificate.watch)
        self._sources.append(webhook.metrics)
        about = "Open connections to the webhook."
        self._own.append(Gauge("webhook_open_connections", about, port.number_open))

    def keep_decisions(self, client: Client) -> None:
        """Also keeps decisions in the ConfigMap, once it serves."""
        settings, lookups = self.settings, self.service.lookups
        memory = Memory(settings.kept_names, settings.dns_cache_ttl, settings.dns_stale_ttl)
        keeper = Keeper(settings.kept_decisions, client, lookups, memory)
        lookups.tell = keeper.heard
        self.keepers.append(keeper)
        self._sources.append(keeper.metrics)

    def metrics(self) -> list[Family]:
        """All families, in the order they are shown."""
        others = chain.from_iterable(source() for source in self._sources)
        return [*self._own, *others, build_info(), *process()]

    def stop(self) -> None:
        """Is no longer ready, and stops after `SHUTDOWN_DELAY`."""
        self.status.is_stopping = True
        for port in self.ports:
            port.draining = True
        self._stopping.set()

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Serves those who connect to the sockets, until `stop` is called and for as long after."""
        for port, listener in zip(self.ports, listeners, strict=True):
            await port.listen(listener)
        for keeper in self.keepers:
            keeper.start()
        background = [asyncio.create_task(work()) for work in self.background]
        await self._stopping.wait()
        await asyncio.sleep(self.settings.shutdown_delay)
        await self.drain()
        for task in background:
            task.cancel()

    async def drain(self) -> None:
        """Lets requests in flight finish, and closes all connections."""
        endings = [port.drain() for port in self.ports]
        endings += [keeper.stop() for keeper in self.keepers]
        await asyncio.gather(*endings)


def build_info() -> Family:
    """Which version runs, on which Python."""
    python = ".".join(map(str, sys.version_info[:3]))
    about = "The version that runs; always 1."
    return Gauge("build_info", about, lambda: 1, version=VERSION, python=python)


# From the command line to a listening server, and to its end.


def main(arguments: Sequence[str]) -> int:
    """Runs the service as the environment says; the exit status is 2 if that is not possible."""
    end_at_once()
    asked = names_to_explain(arguments) if arguments else None
    try:
        settings = ServerSettings.from_environment(os.environ)
        certificate, client = settings.certificate(), settings.client()
        file = table_file_of(settings)
        table = file.read() if file else pasted_table(settings.node_label)
        configure_c_library(os.environ, settings.dns_timeout)
        if asked is not None:
            return asyncio.run(explain(settings, table, asked))
        listeners = list(open_ports(settings, certificate))
    except (InvalidSetting, InvalidCertificate) as error:
        return complain(str(error), status=2)
    except InvalidSubnets as error:
        return complain(*error.problems, status=2)
    handler = log.start(settings.log_level)
    others = OTHER_DESCRIPTORS + (MAX_WEBHOOK_CONNECTIONS if certificate else 0)
    most = raise_connection_limit(MAX_CONNECTIONS, others)
    server = Server(settings, table, most, *([handler.dropped] if handler else []))
    if certificate:
        server.open_webhook(certificate)
    if client:
        server.keep_decisions(client)
    asyncio.run(run(server, file, listeners))
    return 0


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


def table_file_of(settings: ServerSettings) -> TableFile | None:
    """The file with the table; None if it is `SUBNETS_DATA`."""
    if not settings.subnets_file:
        return None
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the file is read now, as it would have it
    return TableFile(settings.subnets_file, settings.node_label)


def open_ports(
    settings: ServerSettings, certificate: Certificate | None
) -> Iterator[socket.socket]:
    """The sockets that listen, the webhook's last. Raises `InvalidSetting`."""
    yield open_port(settings.host, "PORT", settings.port)
    if certificate:
        yield open_port(settings.host, "TLS_PORT", settings.tls_port)


def warnings(settings: ServerSettings, service: Service) -> Iterator[str]:
    """What is usable but looks wrong about the settings and the table."""
    yield from ServerSettings.misspelt(os.environ)
    yield from service.warnings()
    if settings.tls_cert_file and not settings.allowed_domains:
        yield (
            "ALLOWED_DOMAINS is empty: whoever reaches TLS_PORT, which may be any Pod, "
            "can have any name looked up"
        )


async def explain(settings: ServerSettings, table: SubnetTable, asked: str) -> int:
    """Prints the answer that the service would give, and to standard error how it is found.

    The exit status is 0, or 1 if any of the names has no answer.
    """
    service = Service(settings, table)
    for warning in warnings(settings, service):
        print(f"warning: {warning}", file=sys.stderr)
    try:
        results = await service.lookups.resolve(names_in(asked))
    except InvalidRequest as error:
        outcome: Outcome = error
    else:
        for line in service.lookups.placement.explain(results):
            print(line, file=sys.stderr)
        outcome = service.lookups.answer(results)
    if isinstance(outcome, ServiceError):
        print(json.dumps(error_body(outcome), indent=2))
        return 1
    print(json.dumps(json.loads(outcome.body), indent=2))
    return 1 if outcome.errors else 0


async def run(server: Server, file: TableFile | None, listeners: Sequence[socket.socket]) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process at once."""
    heed(server.stop)
    loop = asyncio.get_running_loop()
    if file:
        file.watch(loop, server.service.reload)
        loop.add_signal_handler(signal.SIGHUP, file.read_again)
    log.warn(warnings(server.settings, server.service))
    address, port, *_ = listeners[0].getsockname()
    logging.info(
        "listening on %s port %d, %s",
        address,
        port,
        _summary(server.settings, server.service.table, port),
    )
    for listener in listeners[1:]:
        address, port, *_ = listener.getsockname()
        logging.info("listening on %s port %d for reviews", address, port)
    await server.serve(listeners)
    logging.info("stopped")


def _summary(settings: ServerSettings, table: SubnetTable, port: int) -> str:
    """What the first line of the log says of the table and the settings, and what to try."""
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
