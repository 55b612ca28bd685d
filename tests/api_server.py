"""A stand-in for a Kubernetes API server, and for a lookup service: as much as the client needs."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from tests.support import DEADLINE, in_background

Json = dict[str, Any]


class Request(NamedTuple):
    """What the stand-in was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Reply(NamedTuple):
    """An answer; bytes are sent as they are."""

    status: int = 200
    body: Any = None


def refusal(status: int, reason: str = "", message: str = "no") -> Reply:
    """An error as the API server words it."""
    return Reply(status, {"kind": "Status", "message": message, "reason": reason, "code": status})


# What a fault does instead of an answer, to the connection.
Fault = Callable[[socket.socket], None]


def break_off(connection: socket.socket) -> None:
    """Closes without a word."""
    connection.shutdown(socket.SHUT_RDWR)


def break_off_halfway(connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"kind": ')
    connection.shutdown(socket.SHUT_RDWR)


class ApiServer(ThreadingHTTPServer):
    """Answers with `lists` and `objects`, unless `faults` has something for that path.

    `lists` has the items of collections, `objects` single ones, by path; `faults`, by
    method and path, has what happens first, one for each request. What is created goes
    into `created`.
    """

    daemon_threads = True
    scheme = "http"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lists: dict[str, list[Json]] = {}
        self.objects: dict[str, Json] = {}
        self.faults: dict[str, list[Reply | Fault]] = {}
        self.requests: list[Request] = []
        self.created: list[tuple[str, Json]] = []
        self.tokens: set[str] | None = None  # that are good; None: all are
        self.answers: dict[str, Reply | Fault] = {}  # of the lookup service, by name
        self.lock = Lock()

    def server_bind(self) -> None:
        """Without asking DNS for the machine's name, as http.server would."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def asked(self, method: str = "GET", path: str = "") -> list[Request]:
        """The requests with this method to paths that begin so."""
        return [
            each
            for each in self.requests
            if (each.method, each.path.startswith(path)) == (method, True)
        ]

    def reply(self, request: Request) -> Reply | Fault:
        if faults := self.faults.get(f"{request.method} {request.path}"):
            return faults.pop(0)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token not in self.tokens:
            return refusal(401, "Unauthorized")
        if request.path == "/lookup":
            return self.answers.get(request.query["fqdn"], refusal(404, "NameNotFound"))
        if "/leases" in request.path and request.method != "GET":
            return self.lease(request)
        if request.method == "POST":
            self.created.append((request.path, request.body))
            return Reply(201, request.body)
        if request.path in self.lists:
            return self.page(self.lists[request.path], request.query)
        if request.path not in self.objects:
            return refusal(404, "NotFound")
        if request.method == "PUT":
            self.objects[request.path] = request.body
        return Reply(200, self.objects[request.path])

    def lease(self, request: Request) -> Reply:
        """Creates or replaces a Lease, if that is of the version that is there."""
        metadata = request.body["metadata"]
        path = request.path if request.method == "PUT" else f"{request.path}/{metadata['name']}"
        with self.lock:
            present = self.objects.get(path, {}).get("metadata", {}).get("resourceVersion")
            if metadata.get("resourceVersion") != present:
                return refusal(409, "Conflict" if request.method == "PUT" else "AlreadyExists")
            version = {"resourceVersion": str(int(present or 0) + 1)}
            self.objects[path] = request.body | {"metadata": metadata | version}
            return Reply(200, self.objects[path])

    def page(self, items: list[Json], query: dict[str, str]) -> Reply:
        """A part of a list, as `limit` and `continue` have it; the token is an offset here."""
        start = int(query.get("continue", 0))
        end = start + int(query["limit"])
        metadata = {"continue": str(end)} if end < len(items) else {}
        return Reply(200, {"kind": "List", "metadata": metadata, "items": items[start:end]})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that go away."""


Server = TypeVar("Server", bound=ApiServer)


class Handler(BaseHTTPRequestHandler):
    server: ApiServer
    timeout = DEADLINE

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        request = Request(
            self.command, url.path, dict(parse_qsl(url.query)), dict(self.headers), body
        )
        self.server.requests.append(request)
        reply = self.server.reply(request)
        if callable(reply):
            reply(self.connection)
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = handle_request

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing."""


@contextmanager
def api_server(context: ssl.SSLContext | None = None) -> Iterator[ApiServer]:
    """A stand-in that listens; with a context, for HTTPS."""
    with listening(ApiServer(), context) as server:
        yield server


@contextmanager
def listening(server: Server, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """This server, which serves until the end."""
    with server:
        if context:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            server.scheme = "https"
        with in_background(server):
            yield server
