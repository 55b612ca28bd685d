"""What the tests share: a server in a thread, a DNS that does as it is told, a client."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from socketserver import BaseServer
from typing import Any, NamedTuple
from unittest import mock

from common.pipe import Pipe
from lookup.table_reader import load
from server import Server, ServerSettings, open_ports

ROOT = Path(__file__).resolve().parent.parent

# The table of most tests: three zones, each with a subnet twice. It is not `SUBNETS_DATA`,
# in whose place a user pastes their own.
ZONES = [
    ("eu-central-1b", "euc1-az3"),
    ("eu-central-1a", "euc1-az2"),
    ("eu-central-1c", "euc1-az1"),
]
SUBNETS: list[dict[str, Any]] = [
    {
        "CIDRBlock": f"192.168.{32 * number}.0/19",
        "AvailabilityZone": ZONES[number % 3][0],
        "AvailabilityZoneId": ZONES[number % 3][1],
    }
    for number in range(6)
]

# For what must happen; a test that passes never waits so long.
DEADLINE = 30.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for the condition; the test fails if it does not come true in time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.002)


class Response(NamedTuple):
    """An answer; `body` is the decoded JSON, or the text if it is none."""

    status: int
    headers: dict[str, str]
    body: Any


def _decoded(headers: dict[str, str], body: bytes) -> Any:
    is_json = headers["Content-Type"] == "application/json" and body
    return json.loads(body) if is_json else body.decode()


def read_all(connection: socket.socket) -> bytes:
    """All that still comes until the other side closes its half of the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def responses(data: bytes) -> list[Response]:
    """The answers in `data`, complete and with nothing in between; only HEAD's have no body."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("ascii").split("\r\n")
        protocol, status, _ = line.split(" ", 2)
        headers = dict(field.split(": ", 1) for field in fields)
        has_body = rest and not rest.startswith(b"HTTP/1.1 ")
        length = int(headers["Content-Length"]) if has_body else 0
        assert (protocol, len(headers)) == ("HTTP/1.1", len(fields)) and len(rest) >= length, head
        found.append(Response(int(status), headers, _decoded(headers, rest[:length])))
        data = rest[length:]
    return found


class Remote:
    """Talks to a server under test, wherever that runs."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.host = host

    def connect(self) -> socket.socket:
        """A raw connection, for what no HTTP client would send."""
        return socket.create_connection((self.host, self.port), timeout=DEADLINE)

    def request(self, target: str, method: str = "GET", **headers: str) -> Response:
        """One request on a connection of its own."""
        with closing(HTTPConnection(self.host, self.port, timeout=DEADLINE)) as connection:
            connection.request(method, target, headers=headers)
            response = connection.getresponse()
            headers = dict(response.headers)
            return Response(response.status, headers, _decoded(headers, response.read()))

    def lookup(self, *names: str) -> Response:
        """A lookup of the names as they are, which must not need quoting."""
        return self.request(f"/lookup?fqdn={','.join(names)}")

    def raw(self, data: bytes) -> bytes:
        """All that the server answers to `data` until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def answers(self, data: bytes) -> list[Response]:
        """The answers to `data`, which may hold any number of requests."""
        return responses(self.raw(data))

    def is_refused(self) -> bool:
        """Whether nobody listens any more."""
        try:
            self.connect().close()
        except ConnectionError:
            return True
        return False

    def metric(self, sample: str) -> float:
        """The value of a sample, which is named with its labels but without our prefix."""
        for line in self.request("/metrics").body.splitlines():
            name, _, value = line.rpartition(" ")
            if name == f"automatic_zone_placement_{sample}":
                return float(value)
        return 0.0


class Client(Remote):
    """Talks to a server in a thread of the test's own process."""

    def __init__(
        self, server: Server, loop: asyncio.AbstractEventLoop, port: int, tls_port: int
    ) -> None:
        super().__init__(port)
        self.server = server
        self.loop = loop
        self.tls_port = tls_port  # of the webhook; 0 without one

    @property
    def connections(self) -> list[Pipe]:
        """Those that are open to the plain port, the longest idle one first."""
        return list(self.server.ports[0].connections)

    def stop(self) -> None:
        """Tells the server to stop, which it does after `SHUTDOWN_DELAY`."""
        self.loop.call_soon_threadsafe(self.server.stop)
        wait_until(lambda: self.server.status.is_stopping)

    def drain(self) -> None:
        """Has the server stop without delay, and waits for its end."""
        asyncio.run_coroutine_threadsafe(self.server.drain(), self.loop).result(DEADLINE)


@contextmanager
def running(
    table: object = SUBNETS, max_connections: int = 1000, **environment: str
) -> Iterator[Client]:
    """A server on a free port, with the table and the environment's settings."""
    default = {"HOST": "127.0.0.1", "PORT": "0", "TLS_PORT": "0"}
    settings = ServerSettings.from_environment(default | environment)
    certificate = settings.certificate()
    listeners = list(open_ports(settings, certificate))
    ports = [each.getsockname()[1] for each in listeners] + [0] * (certificate is None)
    server = Server(settings, load(table, node_label=settings.node_label), max_connections)
    if certificate:
        server.open_webhook(certificate)
    if client := settings.client():
        server.keep_decisions(client)
    loop = asyncio.new_event_loop()
    loop.slow_callback_duration = DEADLINE  # in debug mode, it is no warning that a test is slow
    serving = loop.create_task(server.serve(listeners))

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)
        loop.run_until_complete(server.drain())
        for each in listeners:
            each.close()  # it may never have been listened on
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Client(server, loop, *ports)
    finally:
        with suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(serving.cancel)
        thread.join(DEADLINE)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def in_background(server: BaseServer) -> Iterator[None]:
    """The server serves in a thread; who opened it closes it."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(DEADLINE)


class FakeDNS:
    """Stands in for `getaddrinfo`: what a name resolves to is up to the test.

    `answers` has for each name its addresses, or the exception to raise; a name
    that is in `silent` is not answered until `speak` is called.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Exception] = {}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self._speak = threading.Event()
        self._real: Any = socket.getaddrinfo

    def speak(self) -> None:
        """Ends the silence, also for those who wait already."""
        self.silent.clear()
        self._speak.set()

    def __call__(
        self,
        host: str,
        port: object,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        if host == "127.0.0.1":  # the test's own client
            return self._real(host, port, family, type, proto, flags)
        assert (family, type) == (socket.AF_INET, socket.SOCK_STREAM)  # without IPv6 in the table
        self.asked.append(host)
        if host in self.silent:
            self._speak.wait(DEADLINE)
        answer = self.answers.get(host, socket.gaierror(socket.EAI_NONAME, "no such name"))
        if isinstance(answer, Exception):
            raise answer
        return [(family, type, 6, "", (address, 0)) for address in answer]


@contextmanager
def fake_dns(**names: list[str] | Exception) -> Iterator[FakeDNS]:
    """Replaces the system resolver; `db=[...]` is the name `db.test`."""
    dns = FakeDNS()
    dns.answers = {f"{name}.test": answer for name, answer in names.items()}
    with mock.patch("socket.getaddrinfo", dns):
        try:
            yield dns
        finally:
            dns.speak()


class Run(NamedTuple):
    """How a program ended, and what it wrote."""

    status: int
    output: str
    errors: list[str]


def run_subnets(*arguments: str, stdin: bytes = b"") -> Run:
    """Runs `python subnets.py` to its end."""
    command = [sys.executable, str(ROOT / "subnets.py"), *arguments]
    run = subprocess.run(command, input=stdin, capture_output=True, timeout=DEADLINE)
    return Run(run.returncode, run.stdout.decode(), run.stderr.decode().splitlines())
