"""HTTP/1.1 for `http.server` handlers on `asyncio`: a connection costs no thread.

`http.server` gives a thread to each connection, or all of them the same one. Here
the event loop hands over what arrives, and a handler gets to work when a whole
request is there. Otherwise it is a `BaseHTTPRequestHandler` like any other: its
`do_GET` answers at once, or returns a coroutine that answers later.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from itertools import islice
from time import monotonic, time
from typing import Any, NamedTuple

from common.errors import (
    ContentTooLarge,
    InternalError,
    InvalidRequest,
    LengthRequired,
    MethodNotAllowed,
    ServiceError,
    error_body,
    shown,
)
from common.tls import Channel

__all__ = ["Body", "ConnectionHandler", "ConnectionServer", "Head", "parse_head", "take_head"]

# A lookup of eight names of 253 octets fits several times. Also what is read at a time.
MAX_HEAD = 16 * 1024

# Between requests: longer than the clients of Go's net/http keep an idle connection
# (90 s), so that it is never ours to close just when they send the next request.
IDLE_TIMEOUT = 120.0

# For a head to arrive, whether nothing of it comes or a byte now and then, with the
# handshake if there is one; for a body; and for a client to read its answer, or to
# close its side after the last one.
HEAD_TIMEOUT = 15.0
BODY_TIMEOUT = 15.0
SEND_TIMEOUT = 15.0
LINGER_TIMEOUT = 15.0

# Of all bodies together, what has come of those that are not complete.
MAX_BODIES = 16 * 1024 * 1024

# Deadlines are looked at so often.
SWEEP_INTERVAL = 1.0

# When descriptors run out, it is said, and connections make room, so often.
SHORTAGE_INTERVAL = 0.5

# When it stops, the server waits so many seconds for requests in flight.
DRAIN_TIMEOUT = 5.0

# Who has connected with TLS has so many seconds for the handshake before a request, even if
# the server stops meanwhile.
NEWCOMER_TIME = 0.5

# Connections that may wait to be accepted (the kernel caps it at net.core.somaxconn),
# and how many are accepted before those that are open have their turn. Fewer where few
# may be open: it is some turns before one is counted, and another makes room for it.
BACKLOG = 4096
ACCEPTED_AT_ONCE = 64

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/1\.([0-9])" % _TOKEN)
# No folded lines, no space before the colon, no bare CR or LF, no other control
# characters (RFC 9112, section 5).
_FIELDS = re.compile(rb"(?:%b:[\t\x20-\x7e\x80-\xff]*\r\n){0,99}\r\n" % _TOKEN)
_FIELD = re.compile(
    rb"^(connection|content-length|content-type|expect|host|transfer-encoding):(.*)\r$",
    re.IGNORECASE | re.MULTILINE,
)
# An absolute-form target (RFC 9112, section 3.2.2); what follows the authority is the path.
_ABSOLUTE = re.compile(r"https?://[^/?#]+", re.IGNORECASE)

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Body(NamedTuple):
    """What a head says of the body that follows."""

    length: int | None  # in bytes; None if it comes in chunks
    media_type: str  # in lower case, without parameters
    is_held_back: bool  # until the client is told to go on


class Head(NamedTuple):
    """The head of a request, as far as an answer depends on it."""

    command: str
    path: str  # with its query, without an authority
    version: str
    persists: bool  # another request may follow on the connection, if the body is read
    body: Body | None


def take_head(received: bytes) -> tuple[bytes | None, bytes]:
    """The first head in `received`, and the rest.

    None if it is not complete, unless it is sure to be refused already: then it
    is all there is.
    """
    if received.startswith(b"\r\n"):  # RFC 9112, section 2.2
        received = received[2:]
    end = received.find(b"\r\n\r\n")
    if end >= 0:
        return received[: end + 4], received[end + 4 :]
    if len(received) > MAX_HEAD or _is_hopeless(received):
        return received, b""
    return None, received


def _is_hopeless(received: bytes) -> bool:
    line, newline, _ = received.partition(b"\n")
    if not newline:
        return False
    # Counted, which is cheap: this is done anew for each byte of a head that comes bytewise.
    has_bare_lf = received.count(b"\n") > received.count(b"\r\n")
    return has_bare_lf or not _REQUEST_LINE.fullmatch(line[:-1])


def parse_head(head: bytes) -> Head:
    """The request that `head` makes; stricter and far faster than `email` would parse it.

    Raises `InvalidRequest`.
    """
    line, _, fields = head.partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise InvalidRequest(f"malformed request line {shown(line.decode('latin-1'))}")
    if len(head) > MAX_HEAD:
        raise InvalidRequest(f"the request's head is larger than {MAX_HEAD} bytes")
    command, target, minor = match.groups()
    version = f"HTTP/1.{minor.decode()}"
    return Head(command.decode(), _path(target.decode()), version, *_framing(version, fields))


def _path(target: str) -> str:
    origin = _ABSOLUTE.match(target)
    if origin is None:
        return target
    path = target[origin.end() :]
    return path if path.startswith("/") else f"/{path}"


# A client sends the same fields with all its requests. Bounded, as a head is.
@lru_cache(maxsize=128)
def _framing(version: str, fields: bytes) -> tuple[bool, Body | None]:
    """Whether another request may follow on the connection (RFC 9112, section 9.3), and the body.

    Raises `InvalidRequest`, among others for whatever might be understood in two ways.
    """
    if not _FIELDS.fullmatch(fields):
        raise InvalidRequest("malformed or too many header fields")
    found: dict[bytes, list[bytes]] = {}
    for name, value in _FIELD.findall(fields):
        found.setdefault(name.lower(), []).append(value.strip(b"\t ").lower())
    for name in (b"content-length", b"host", b"transfer-encoding"):
        if len(found.get(name, ())) > 1:
            raise InvalidRequest(f"header field {name.decode()} is repeated")
    if b"host" not in found and version != "HTTP/1.0":  # RFC 9112, section 3.2
        raise InvalidRequest("header field host is missing")
    for length in found.get(b"content-length", ()):
        if not re.fullmatch(rb"[0-9]{1,18}", length):
            raise InvalidRequest(f"Content-Length {shown(length.decode('latin-1'))} is no length")
    if b"content-length" in found and b"transfer-encoding" in found:
        raise InvalidRequest("both Content-Length and Transfer-Encoding are given")
    options = {
        option.strip() for value in found.get(b"connection", ()) for option in value.split(b",")
    }
    persists = b"close" not in options and (version != "HTTP/1.0" or b"keep-alive" in options)
    return persists, _body(version, found)


def _body(version: str, found: Mapping[bytes, Sequence[bytes]]) -> Body | None:
    if b"content-length" not in found and b"transfer-encoding" not in found:
        return None
    length = int(found[b"content-length"][0]) if b"content-length" in found else None
    media_type = b",".join(found.get(b"content-type", ())).partition(b";")[0].strip()
    is_held_back = version != "HTTP/1.0" and b"100-continue" in found.get(b"expect", ())
    return Body(length, media_type.decode("latin-1"), is_held_back)


class ConnectionHandler(BaseHTTPRequestHandler, asyncio.BufferedProtocol):
    """One connection. A subclass defines `do_GET` and `do_HEAD`; no other method is served.

    With a `max_body`, it defines `do_POST` too, for which `body` is there. No other body
    is read: the connection ends after the answer.

    Requests on a connection are answered one after another, in their order. After
    each the other connections have their turn, so nobody gains by pipelining.
    """

    max_body = 0  # bytes

    protocol_version = "HTTP/1.1"
    server: ConnectionServer  # type: ignore[assignment]
    transport: asyncio.Transport

    def __init__(self, server: ConnectionServer) -> None:
        # Not the inherited one, which serves the whole connection before it returns.
        self.server = server
        self.deadline = monotonic() + HEAD_TIMEOUT  # when the connection is closed
        self.lingering = False  # our side is closed, what still comes is discarded
        self.task: asyncio.Task[None] | None = None  # it answers the request
        self.body = bytearray()
        self.media_type = ""  # of the body
        self._channel: Channel | None = None  # through which all goes
        self._newcomer_until = 0.0  # until then its first request may be on its way
        self._received = b""
        self._missing = 0  # bytes of the body
        self._answer = b""
        self._answering = False  # a request; the next one has to wait
        self._begun = False  # a head, and its deadline
        self._sending = False  # an answer
        self._unsent = False  # something of it
        self._half_closed = False  # by the client, which sends no more
        self._closed = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        context = self.server.tls_context()
        if context:
            self._channel = Channel(context)
            self._newcomer_until = monotonic() + NEWCOMER_TIME
        transport.set_write_buffer_limits(high=1, low=0)  # `_unsent` is then what it says
        self.server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self.server.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        # One for all connections: it is read before another is asked. (What a `Protocol` is
        # given may be 256 KiB at a time, from each of thousands of connections.)
        return self.server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.lingering:
            return
        if self._channel is None:
            self._take(self.server.buffer[:nbytes])
        else:
            self._decrypt(self._channel, self.server.buffer[:nbytes])

    def _take(self, received: bytes | memoryview) -> None:
        self._received += received
        if self._missing:
            self._read_body()
        elif not self._answering:
            self._next_request()
        elif len(self._received) > MAX_HEAD:
            self.transport.pause_reading()

    def _decrypt(self, channel: Channel, received: memoryview) -> None:
        was_open = channel.is_open
        try:
            said = channel.decrypt(received)
        except ssl.SSLError as error:
            logging.debug("no TLS with %s: %s", self.transport.get_extra_info("peername"), error)
            self.transport.write(channel.pending())  # says why
            self.transport.close()
            return
        self.transport.write(channel.pending())
        if channel.is_open and not was_open:  # clients open some that they need only later
            self.deadline = monotonic() + IDLE_TIMEOUT
        if said:
            self._take(said)
        if channel.has_ended and not self.eof_received():
            self._close_our_side()

    def eof_received(self) -> bool:
        self._half_closed = True
        return self._answering and not self._missing and not self.lingering

    def pause_writing(self) -> None:
        self._unsent = True
        self.deadline = monotonic() + SEND_TIMEOUT
        self.transport.pause_reading()  # who does not read is not read from

    def resume_writing(self) -> None:
        self._unsent = False
        # Not at once: asyncio would close a transport twice that is closed from in here.
        asyncio.get_running_loop().call_soon(self._sent if self._sending else self._await_rest)

    # From a request to its answer.

    def _next_request(self) -> None:
        if self._closed:
            return
        head, self._received = take_head(self._received)
        self._answering = head is not None
        if head is not None:
            self._begun = False
            self._serve(head)
        elif self._half_closed:
            self._close_our_side()
        else:
            self._await_rest()

    def _await_rest(self) -> None:
        if self._received and not self._begun:
            self._begun = True
            self.deadline = monotonic() + HEAD_TIMEOUT
        if not (self._unsent or self.transport.is_reading()):
            self.transport.resume_reading()

    def _serve(self, head: bytes) -> None:
        self.command, self.path, self.request_version = "", "", "HTTP/1.1"
        self.requestline = ""
        self.close_connection = True
        try:
            self._read_head(head)
        except Exception as error:
            self._failed(error)
            self._answered()
        else:
            self._read_body()

    def _read_head(self, head: bytes) -> None:
        line = head.partition(b"\r\n")[0]
        self.requestline = line.decode("latin-1")
        if line.startswith(b"HEAD "):  # also when it is refused: its answer has no body
            self.command = "HEAD"
        self.command, self.path, self.request_version, persists, body = parse_head(head)
        if self.command == "POST" and self.max_body:
            self._expect(body)
            body = None
        self.close_connection = not persists or body is not None

    def _expect(self, body: Body | None) -> None:
        if body is None or body.length is None:
            raise LengthRequired("a body is taken only with a Content-Length")
        if body.length > self.max_body:
            raise ContentTooLarge(f"{body.length} bytes are too many, the most is {self.max_body}")
        self.deadline = monotonic() + BODY_TIMEOUT
        self.media_type = body.media_type
        self._missing = body.length
        if body.is_held_back and not self._received:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self) -> None:
        if self._missing:
            part = self._received[: self._missing]
            self._received = self._received[len(part) :]
            self._missing -= len(part)
            self.body += part
            if self._missing:
                self.server.body_grows(self, len(part))
                self._await_rest()
                return
            self.server.body_ends(self)
        self._begin()

    def _begin(self) -> None:
        """Answers the request, or begins to."""
        answer = None
        try:
            answer = self._method()
        except Exception as error:
            self._failed(error)
        if answer is None:
            self._answered()
        else:
            self.task = asyncio.get_running_loop().create_task(self._complete(answer))

    def _method(self) -> Coroutine[Any, Any, None] | None:
        if self.command == "GET":
            return self.do_GET()
        if self.command == "HEAD":
            return self.do_HEAD()
        if self.command == "POST" and self.max_body:
            return self.do_POST()
        raise MethodNotAllowed(f"method {shown(self.command)} is not allowed")

    async def _complete(self, answer: Coroutine[Any, Any, None]) -> None:
        try:
            await answer
        except Exception as error:
            self._failed(error)
        self._answered()

    def _failed(self, error: Exception) -> None:
        """Answers with the error; any but a `ServiceError` is a defect of ours.

        It must cost this request and no other.
        """
        if not isinstance(error, ServiceError):
            logging.error("answering %s", shown(self.requestline), exc_info=error)
            self.close_connection = True
            error = InternalError("the service failed; its log has more")
        self.send_service_error(error)

    def _answered(self) -> None:
        self.task = None
        if self._closed:
            return
        self.server.answered(self)
        self.deadline = monotonic() + IDLE_TIMEOUT
        self.body = bytearray()
        self._sending = True
        self._write(self._answer)
        self._answer = b""
        if not self._unsent:
            self._sent()

    def _write(self, data: bytes) -> None:
        self.transport.write(self._channel.encrypt(data) if self._channel else data)

    def _sent(self) -> None:
        self._sending = False
        if self.close_connection:
            self._close_our_side()
        elif self._received or self._half_closed:
            asyncio.get_running_loop().call_soon(self._next_request)
        else:
            self._answering = False
            self._await_rest()

    def _close_our_side(self) -> None:
        # Were both sides closed with something of the client's unread, the kernel would send
        # a reset, which may overtake the answer (RFC 9112, section 9.6).
        if not self.lingering:
            self.lingering = True
            self.deadline = monotonic() + LINGER_TIMEOUT
            self._received = b""
            if self._channel:
                self.transport.write(self._channel.end())
        if self._half_closed:
            self.transport.close()
            return
        with suppress(OSError):  # the client is gone already
            self.transport.write_eof()
        if not self.transport.is_reading():
            self.transport.resume_reading()

    def do_GET(self) -> Coroutine[Any, Any, None] | None:
        """Answers with `respond`, or returns a coroutine that will."""
        raise NotImplementedError

    def do_HEAD(self) -> Coroutine[Any, Any, None] | None:
        """`do_GET`; `respond` leaves out the body."""
        return self.do_GET()

    def do_POST(self) -> Coroutine[Any, Any, None] | None:
        """As `do_GET`, with the request's `body`."""
        raise NotImplementedError

    def respond(self, status: int, body: bytes, content_type: str, fields: str = "") -> None:
        """The whole answer; to HEAD, all of it but the body.

        `fields` are further header lines, each with its CRLF.
        """
        self.close_connection = self.close_connection or self.server.draining
        if self.close_connection:
            fields += "Connection: close\r\n"
        elif self.request_version == "HTTP/1.0":
            fields += "Connection: keep-alive\r\n"
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\n"
            f"Server: {self.server_version}\r\n"
            f"Date: {_http_date(int(time()))}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n{fields}\r\n"
        ).encode()
        self.log_request(status)
        self._answer = head if self.command == "HEAD" else head + body

    def send_json(self, status: int, body: bytes, fields: str = "") -> None:
        """Answers with this, which is JSON already."""
        self.respond(status, body, "application/json", fields)

    def send_error_body(self, error: ServiceError) -> None:
        """Answers with the error."""
        self.send_json(error.status, json.dumps(error_body(error)).encode(), error.fields)

    def send_health(self, error: ServiceError | None = None) -> None:
        """Answers a probe: all is well, or it is not."""
        if error is None:
            self.send_json(200, b'{"status": "ok"}')
        else:
            self.send_error_body(error)

    def send_service_error(self, error: ServiceError) -> None:
        """Refuses the request, with a line in the log: no line means that nobody called."""
        self.send_error_body(error)
        logging.info("refused %s reason=%s", shown(self.requestline), error.reason)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` refuses by itself, in the form of our own errors."""
        self.send_service_error(InvalidRequest(message or _PHRASES[code]))

    # What the server does with the connection.

    @property
    def waits_for_us(self) -> bool:
        """Whether a request's answer is being worked on."""
        return self.task is not None

    def close(self) -> None:
        """Closes the connection, whatever its state."""
        self._closed = True
        self.transport.abort()

    def close_if_silent(self) -> None:
        """Closes the connection unless a request is being answered, has begun to arrive or may do."""
        if not (self._answering or self._received or monotonic() < self._newcomer_until):
            self._close_our_side()


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


class ConnectionServer:
    """Keeps account of the connections, the longest idle one first, and closes those overdue."""

    def __init__(
        self, handler: Callable[[ConnectionServer], ConnectionHandler], max_connections: int
    ) -> None:
        self.draining = False  # from the moment it is told to stop
        self.connections: OrderedDict[ConnectionHandler, None] = OrderedDict()
        self.buffer = memoryview(bytearray(MAX_HEAD))
        self._bodies: dict[ConnectionHandler, int] = {}  # what has come of those incomplete
        self._handler = handler
        self.max_connections = max_connections
        self._listeners: list[socket.socket] = []
        self._accepted_at_once = min(ACCEPTED_AT_ONCE, max(4, max_connections // 8))
        self._refusing_until = 0.0  # for want of descriptors, as has been said
        self._sweeper: asyncio.Task[None] | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Begins to serve those who connect to the socket."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        self._sweeper = self._sweeper or loop.create_task(self._close_overdue())
        # To asyncio, a backlog is also the number of connections that it accepts at once.
        await loop.create_server(
            lambda: self._handler(self), sock=listener, backlog=self._accepted_at_once
        )
        listener.listen(BACKLOG)
        self._listeners.append(listener)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif self._refusing_until < monotonic():
            # asyncio says it for each that it would have accepted, and tries again after a second.
            self._refusing_until = monotonic() + SHORTAGE_INTERVAL
            logging.warning("no connection can be accepted: %s", error.strerror)
            self._make_room(min(self._accepted_at_once, max(1, len(self.connections) // 2)))

    def _make_room(self, places: int = 1) -> None:
        """Closes the longest idle connections, or if all are kept waiting the first of these."""
        idle = (each for each in self.connections if not each.waits_for_us)
        for each in list(islice(idle, places)) or list(islice(self.connections, 1)):
            each.close()
            self.closed(each)

    def opened(self, connection: ConnectionHandler) -> None:
        """Takes account of a connection."""
        if len(self.connections) >= self.max_connections:
            self._make_room()
        self.connections[connection] = None

    def answered(self, connection: ConnectionHandler) -> None:
        """Notes that the connection is of use just now."""
        self.connections.move_to_end(connection)

    def closed(self, connection: ConnectionHandler) -> None:
        """Notes that the connection is no more."""
        self.connections.pop(connection, None)
        self.body_ends(connection)

    def body_grows(self, connection: ConnectionHandler, size: int) -> None:
        """Takes account of so many more bytes of a body that is not complete.

        If that is too much, it is the one that has been on its way for the longest that makes
        room: an API server takes milliseconds.
        """
        self._bodies[connection] = self._bodies.get(connection, 0) + size
        if sum(self._bodies.values()) > MAX_BODIES:
            first = next(iter(self._bodies))
            first.close()
            self.closed(first)

    def body_ends(self, connection: ConnectionHandler) -> None:
        """Notes that the body is complete, or that no more of it will come."""
        self._bodies.pop(connection, None)

    def tls_context(self) -> ssl.SSLContext | None:
        """That of who connects now; None for plain HTTP."""
        return None

    async def _close_overdue(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = monotonic()
            for each in list(self.connections):
                if each.deadline < now and not each.waits_for_us:
                    each.close()

    async def drain(self) -> None:
        """Closes the listeners, lets requests in flight finish, and closes all connections."""
        self.draining = True
        await self._turns()  # who has come by now is accepted
        while self._listeners:
            self._stop_listening(self._listeners.pop())
        await self._turns()  # and what they have sent by now is read
        await self._finish()
        for connection in list(self.connections):
            connection.close()
        if self._sweeper:
            self._sweeper.cancel()
        await self._turns()

    def _stop_listening(self, listener: socket.socket) -> None:
        # Not `asyncio.Server.close`: that lets down who has been accepted just now.
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()

    async def _turns(self) -> None:
        for _ in range(BACKLOG // self._accepted_at_once):
            await asyncio.sleep(0)

    async def _finish(self) -> None:
        deadline = monotonic() + DRAIN_TIMEOUT
        while monotonic() < deadline:
            for each in list(self.connections):
                each.close_if_silent()
            if all(each.lingering for each in self.connections):
                return
            await asyncio.sleep(0.01)
