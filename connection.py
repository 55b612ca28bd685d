"""HTTP/1.1 for `http.server` handlers on an event loop: a connection costs no thread.

`http.server` gives a thread to each connection, or all of them the same one. Here
an event loop watches them, and a handler gets to work when a whole request head
has arrived. Otherwise it is a `BaseHTTPRequestHandler` like any other, with a
`do_GET` that writes the answer or, where that has to wait for something, puts it off.
"""

from __future__ import annotations

import errno
import io
import logging
import re
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from itertools import chain, takewhile
from selectors import EVENT_READ, EVENT_WRITE
from time import monotonic, time

from errors import InternalError, InvalidRequest, MethodNotAllowed, ServiceError, shown
from eventloop import EventLoop

__all__ = ["BACKLOG", "ConnectionHandler", "ConnectionServer"]

# A lookup of eight names of 253 octets fits several times. Also what is read at a time.
MAX_HEAD = 16 * 1024

# A connection that was given no answer for so many seconds is closed, whether it
# is silent, sends a byte now and then, or does not read what it is sent.
IDLE_TIMEOUT = 15.0

# When it stops, the server waits so many seconds for requests in flight.
DRAIN_TIMEOUT = 5.0

# Connections that may wait to be accepted (the kernel caps it at net.core.somaxconn),
# and how many are accepted before those that are open have their turn.
BACKLOG = 4096
ACCEPTED_AT_ONCE = 64

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/1\.([0-9])\r\n" % _TOKEN)
# No folded lines, no space before the colon, no bare CR or LF, no other control
# characters (RFC 9112, section 5).
_FIELDS = re.compile(rb"(?:%b:[\t\x20-\x7e\x80-\xff]*\r\n){0,99}\r\n" % _TOKEN)
_FIELD = re.compile(
    rb"^(connection|content-length|host|transfer-encoding):(.*)\r$", re.IGNORECASE | re.MULTILINE
)
_BARE_LF = re.compile(rb"(?<!\r)\n")

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class ConnectionHandler(BaseHTTPRequestHandler):
    """One connection. A subclass defines `do_GET` and `do_HEAD`; no other method is served.

    Requests on a connection are answered one after another, in their order. After
    each the other connections have their turn, so nobody gains by pipelining.
    """

    protocol_version = "HTTP/1.1"
    server: ConnectionServer  # type: ignore[assignment]
    raw_requestline: bytes
    rfile: io.BytesIO
    wfile: io.BytesIO

    def __init__(
        self, connection: socket.socket, client_address: tuple[str, int], server: ConnectionServer
    ) -> None:
        # Not the inherited one, which serves the whole connection before it returns.
        self.connection = connection
        self.client_address = client_address
        self.server = server
        self.answered_at = 0.0
        self.lingering = False  # our side is closed, what still comes is discarded
        self.waits_for_us = False  # the answer to its request is put off
        self._closed = False
        self._received = b""
        self._unsent = b""
        self._answering = False  # a request; the next one has to wait
        self._half_closed = False  # by the client, which sends no more
        self._events = 0
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._watch()

    # Bytes in and out.

    def _ready(self, events: int) -> None:
        if events & EVENT_WRITE:
            self._flush()
        else:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self.connection.recv(MAX_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
            self._answering = False  # the client is gone for good
        if not data:
            self._half_closed = True
            if self.lingering or not self._answering:
                self.close()
        elif not self.lingering:
            self._received += data
            if not self._answering:
                self._next_request()
        self._watch()

    def _flush(self) -> None:
        try:
            sent = self.connection.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._sent()
        self._watch()

    def _watch(self) -> None:
        """Watches for what is of use now; who does not read is not read from."""
        if self._closed:
            return
        full = self._answering and not self.lingering and len(self._received) > MAX_HEAD
        reads = not (full or self._half_closed or self._unsent)
        events = EVENT_WRITE if self._unsent else EVENT_READ if reads else 0
        if events != self._events:
            self._events = events
            self.server.loop.watch(self.connection, events, self._ready)

    def close(self) -> None:
        """Closes the connection, whatever its state."""
        if not self._closed:
            self._closed = True
            self.server.loop.watch(self.connection, 0, self._ready)
            self.server.closed(self)
            self.connection.close()

    def close_if_silent(self) -> None:
        """Closes the connection unless a request is being answered, or has begun to arrive."""
        if not (self._closed or self._answering):
            self._receive()  # what may have come just now
        if not (self._answering or self._received):
            self.close()

    # From a request to its answer.

    def _next_request(self) -> None:
        if self._closed:
            return
        head = self._take_head()
        self._answering = head is not None
        if head is not None:
            self.rfile = io.BytesIO(head)
            self.wfile = io.BytesIO()
            self._answer(self.handle_one_request)
        elif self._half_closed:
            self.close()
        self._watch()

    def _take_head(self) -> bytes | None:
        """The next request's head: when it is complete, or when it is sure to be refused."""
        if self._received.startswith(b"\r\n"):  # RFC 9112, section 2.2
            self._received = self._received[2:]
        length = self._received.find(b"\r\n\r\n") + 4
        if length < 4:
            if len(self._received) <= MAX_HEAD and not self._is_hopeless():
                return None
            length = len(self._received)
        head, self._received = self._received[:length], self._received[length:]
        return head

    def _is_hopeless(self) -> bool:
        line, newline, _ = self._received.partition(b"\n")
        return bool(newline) and (
            not _REQUEST_LINE.fullmatch(line + newline) or bool(_BARE_LF.search(self._received))
        )

    def parse_request(self) -> bool:
        """Parses the request's head, stricter and far faster than `email` would.

        Sets `command`, `path`, `request_version` and `close_connection`, but not
        `headers`: no answer here depends on them. False if the request is refused.
        """
        self.command, self.path, self.request_version = "", "", "HTTP/1.1"
        self.requestline = self.raw_requestline.decode("latin-1").rstrip("\r\n")
        self.close_connection = True
        try:
            self._parse(self.rfile.read())
        except ServiceError as error:
            self.send_service_error(error)
            return False
        return True

    def _parse(self, fields: bytes) -> None:
        line = _REQUEST_LINE.fullmatch(self.raw_requestline)
        if line is None:
            raise InvalidRequest(f"malformed request line {shown(self.requestline)}")
        command, path, minor = line.groups()
        self.command, self.path = command.decode(), path.decode()
        self.request_version = f"HTTP/1.{minor.decode()}"
        if len(self.raw_requestline) + len(fields) > MAX_HEAD:
            raise InvalidRequest(f"the request's head is larger than {MAX_HEAD} bytes")
        self.close_connection = not _keeps_alive(self.request_version, fields)
        if self.command not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"method {shown(self.command)} is not allowed")

    def _answer(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            # A defect of ours; it must cost this request and no other.
            logging.error("answering %s", shown(self.requestline), exc_info=error)
            self.waits_for_us = False
            self.close_connection = True
            self.wfile = io.BytesIO()
            self.send_service_error(InternalError("the service failed; its log has more"))
        if not (self.waits_for_us or self._closed):
            self._unsent = self.wfile.getvalue()
            self.server.answered(self)
            self._flush()

    def put_off(self) -> None:
        """Leaves the answer to a later `resume`; to be called by `do_GET`."""
        self.waits_for_us = True

    def resume(self, write: Callable[[], None]) -> None:
        """Sends the answer that was put off and that `write` writes."""
        if not self.waits_for_us:  # a defect has been answered for already
            return
        self.waits_for_us = False
        self._answer(write)

    def _sent(self) -> None:
        if self.close_connection:
            self._close_our_side()
        elif self._received or self._half_closed:
            self.server.loop.call_soon(self._next_request)
        else:
            self._answering = False

    def _close_our_side(self) -> None:
        # Were both sides closed with something of the client's unread, the kernel would send
        # a reset, which may overtake the answer (RFC 9112, section 9.6).
        self.lingering = True
        self._received = b""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        if self._half_closed:
            self.close()

    def respond(self, status: int, body: bytes, content_type: str, fields: str = "") -> None:
        """Writes a whole answer; to HEAD, all of it but the body.

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
        )
        self.log_request(status)
        self.wfile.write(head.encode() if self.command == "HEAD" else head.encode() + body)

    def send_service_error(self, error: ServiceError) -> None:
        """Answers with the error; a subclass says in which form."""
        raise NotImplementedError

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` refuses by itself, in the form of our own errors."""
        self.send_service_error(InvalidRequest(message or _PHRASES[code]))


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


# A client sends the same fields with all its requests. Bounded, as a head is.
@lru_cache(maxsize=128)
def _keeps_alive(version: str, fields: bytes) -> bool:
    """Whether another request may follow on the connection (RFC 9112, section 9.3).

    Never after a body: it is not read, and must not be read as a request. Raises
    `InvalidRequest`, among others for whatever might be understood in two ways. A
    missing Host is let pass, as `http.server` does: nothing here depends on it.
    """
    if not _FIELDS.fullmatch(fields):
        raise InvalidRequest("malformed or too many header fields")
    found: dict[bytes, list[bytes]] = {}
    for name, value in _FIELD.findall(fields):
        found.setdefault(name.lower(), []).append(value.strip(b"\t ").lower())
    for name in (b"content-length", b"host", b"transfer-encoding"):
        if len(found.get(name, ())) > 1:
            raise InvalidRequest(f"header field {name.decode()} is repeated")
    for length in found.get(b"content-length", ()):
        if not re.fullmatch(rb"[0-9]{1,18}", length):
            raise InvalidRequest(f"Content-Length {shown(length.decode('latin-1'))} is no length")
    if b"content-length" in found and b"transfer-encoding" in found:
        raise InvalidRequest("both Content-Length and Transfer-Encoding are given")
    options = {
        option.strip() for value in found.get(b"connection", ()) for option in value.split(b",")
    }
    has_body = b"content-length" in found or b"transfer-encoding" in found
    persists = b"close" not in options and (version != "HTTP/1.0" or b"keep-alive" in options)
    return persists and not has_body


class ConnectionServer:
    """Accepts connections and keeps account of them, the longest silent one first."""

    def __init__(
        self,
        loop: EventLoop,
        listener: socket.socket,
        handler: Callable[[socket.socket, tuple[str, int], ConnectionServer], ConnectionHandler],
        max_connections: int,
    ) -> None:
        self.loop = loop
        self.draining = False  # from the moment it is told to stop
        self.connections: OrderedDict[ConnectionHandler, None] = OrderedDict()
        self._listener = listener
        self._handler = handler
        self._max_connections = max_connections
        listener.setblocking(False)
        loop.watch(listener, EVENT_READ, self._accept)
        loop.call_later(1, self._close_overdue)

    def _accept(self, _events: int) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        try:
            connection, address = self._listener.accept()
        except OSError as error:  # BlockingIOError if there is none
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            return False
        if len(self.connections) >= self._max_connections:
            self._make_room()
        self.answered(self._handler(connection, address, self))
        return True

    def _make_room(self) -> None:
        """Closes the longest silent connection, or if all are kept waiting the first of these."""
        silent = (each for each in self.connections if not each.waits_for_us)
        first = next(chain(silent, self.connections), None)
        if first is not None:
            first.close()

    def answered(self, connection: ConnectionHandler) -> None:
        """Notes that the connection is of use just now."""
        connection.answered_at = monotonic()
        self.connections[connection] = None
        self.connections.move_to_end(connection)

    def closed(self, connection: ConnectionHandler) -> None:
        """Notes that the connection is no more."""
        self.connections.pop(connection, None)

    def _close_overdue(self) -> None:
        overdue = takewhile(
            lambda connection: connection.answered_at + IDLE_TIMEOUT < monotonic(),
            list(self.connections),
        )
        for connection in overdue:
            if not connection.waits_for_us:
                connection.close()
        self.loop.call_later(1, self._close_overdue)

    def drain(self) -> None:
        """Closes the listener, lets requests in flight finish, then ends the loop."""
        self.draining = True
        while self._accept_one():  # who has come by now
            pass
        self.loop.watch(self._listener, 0, self._accept)
        self._listener.close()
        self._drain_until(monotonic() + DRAIN_TIMEOUT)

    def _drain_until(self, deadline: float) -> None:
        for connection in list(self.connections):
            connection.close_if_silent()
        if all(each.lingering for each in self.connections) or monotonic() > deadline:
            self.loop.stop()
        else:
            self.loop.call_later(0.01, lambda: self._drain_until(deadline))
