"""The answer to one request, by a handler as `http.server` has them, whose methods are coroutines."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Coroutine
from email.utils import formatdate
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from time import time
from typing import Any, NamedTuple, NoReturn

from common.errors import (
    MAX_SHOWN,
    ContentTooLarge,
    InternalError,
    InvalidRequest,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    error_body,
    shown,
)
from common.metrics import Counter
from common.names import VERSION
from common.request import Body, parse_head


class Response(NamedTuple):
    """What is answered."""

    status: int
    body: bytes
    content_type: str = "application/json"
    fields: str = ""  # further header lines, each with its CRLF


Method = Callable[[], Coroutine[Any, Any, Response]]


class Handler(BaseHTTPRequestHandler):
    """Answers one request. A subclass has `do_GET`; and with a `max_body` also `do_POST`.

    It knows no socket: a connection gives it a head, and a body if it wants one, and sends
    what it answers. What `http.server` reads and writes with is therefore not used; what
    says which request it is, and what every answer has, is.
    """

    protocol_version = "HTTP/1.1"
    server_version = f"automatic-zone-placement/{VERSION}"
    endpoints: Collection[str] = ()  # the paths that are counted by their name
    max_body = 0  # bytes

    # What holds as long as nothing else is known of the request.
    path, request_version = "", "HTTP/1.1"
    close_connection = True
    agent = media_type = ""
    length = 0  # of the body that is to be read
    is_held_back = False  # the body, until the client is told to go on
    body: bytes | bytearray = b""
    _refused: ServiceError | None = None

    def __init__(self, requests: Counter, head: bytes) -> None:
        # Not the inherited one, which serves the whole connection before it returns.
        self.requests = requests
        self.raw_requestline = head
        # What a message shows of it: of all that comes, a request must not keep much while it waits.
        self.requestline = head[: MAX_SHOWN + 1].partition(b"\r\n")[0].decode("latin-1")
        # Also when it is refused: its answer has no body.
        self.command = "HEAD" if self.requestline.startswith("HEAD ") else ""

    def parse_request(self) -> bool:
        """Parses the head, more strictly than inherited; whether there is a request to answer.

        If not, it is for `answer` to say why.
        """
        try:
            head = parse_head(self.raw_requestline)
            self.raw_requestline = b""
            self.command, self.path, self.request_version, (persists, body, self.agent) = head
            if self.command == "POST" and self.max_body:
                self._expect(body)
                body = None
            self.close_connection = not persists or body is not None  # one that is not read
        except ServiceError as error:
            self._refused = error.with_traceback(None)  # which has the handler in it
        return self._refused is None

    def _expect(self, body: Body | None) -> None:
        if body is None or body.length is None:
            raise LengthRequired("a body is taken only with a Content-Length")
        if body.length > self.max_body:
            raise ContentTooLarge(f"{body.length} bytes are too many, the most is {self.max_body}")
        self.length, self.media_type, self.is_held_back = (
            body.length,
            body.media_type,
            body.is_held_back,
        )

    def take_query(self) -> str:
        """The query, which is then no longer part of the path."""
        self.path, _, query = self.path.partition("?")
        return query

    async def answer(self) -> Response:
        """What is answered, whatever comes of the request.

        A defect of ours must cost this request and no other.
        """
        try:
            return await self._method()()
        except ServiceError as error:
            return self.refusal(error)
        except Exception as error:
            logging.error("answering %s", shown(self.requestline), exc_info=error)
            self.close_connection = True
            return self.refusal(InternalError("the service failed; its log has more"))

    def _method(self) -> Method:
        if self._refused:
            raise self._refused
        found: Method | None = getattr(self, f"do_{self.command}", None)
        if found is None:
            raise MethodNotAllowed(f"method {shown(self.command)} is not allowed")
        return found

    async def do_GET(self) -> Response:
        self.take_query()
        raise NotFound(
            f"there is nothing at {shown(self.path)}, but at {', '.join(self.endpoints)}"
        )

    async def do_HEAD(self) -> Response:
        return await self.do_GET()

    def refusal(self, error: ServiceError) -> Response:
        """The answer to what is refused, with a line in the log: no line means that nobody called."""
        logging.info("refused %s reason=%s", shown(self.requestline), error.reason)
        return error_response(error)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> NoReturn:
        """What `http.server` refuses by itself is refused in our own form, not in HTML."""
        raise InvalidRequest(message or self.responses[code][0])

    def encoded(self, response: Response) -> bytes:
        """What is sent: all of the response, but to HEAD not its body. Counts it."""
        self.log_request(response.status)
        status, body, content_type, fields = response
        if self.close_connection:
            fields += "Connection: close\r\n"
        elif self.request_version == "HTTP/1.0":
            fields += "Connection: keep-alive\r\n"
        head = (
            f"{self.protocol_version} {status} {self.responses[status][0]}\r\n"
            f"Server: {self.version_string()}\r\n"
            f"Date: {self.date_time_string()}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n{fields}\r\n"
        ).encode()
        return head if self.command == "HEAD" else head + body

    def version_string(self) -> str:
        """Who answers; not with which Python, as inherited, which is nobody's business."""
        return self.server_version

    def date_time_string(self, timestamp: float | None = None) -> str:
        """As inherited, but made once a second."""
        return _http_date(int(time() if timestamp is None else timestamp))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Counts the answer; what is logged has a line of its own."""
        path = self.path.partition("?")[0]
        self.requests.increment(path if path in self.endpoints else "other", str(int(code)))


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def error_response(error: ServiceError) -> Response:
    """The answer that is an error."""
    return Response(error.status, json.dumps(error_body(error)).encode(), fields=error.fields)
