"""HTTP/1.1 over raw sockets: what is a request, what is refused, and when a connection ends."""

from __future__ import annotations

import asyncio
import errno
import io
import random
import select
import socket
import struct
import threading
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler
from unittest import mock

from common import connection as http
from common import port
from common.errors import InvalidRequest
from common.listening import listen
from common.request import MAX_HEAD, head_size, parse_head
from lookup.handler import LookupHandler
from tests.support import (
    DEADLINE,
    Client,
    Response,
    fake_dns,
    read_all,
    responses,
    running,
    wait_until,
)


def request(target: str, *fields: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request's head as it is sent, with a Host."""
    lines = [f"{method} {target} {version}", "Host: localhost", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


HEALTHZ = request("/healthz")
LOOKUP = request("/lookup?fqdn=db.test")

# protocol version, header fields, whether another request may follow
PERSISTENCE = [
    ("HTTP/1.1", [], True),
    ("HTTP/1.1", ["Connection: keep-alive"], True),
    ("HTTP/1.1", ["Connection: close"], False),
    ("HTTP/1.1", ["connection:CLOSE"], False),
    ("HTTP/1.1", ["Connection: te, close"], False),
    ("HTTP/1.1", ["Connection: keep-alive, close"], False),
    ("HTTP/1.1", ["Connection: keep-alive", "Connection: close"], False),
    ("HTTP/1.1", ["X-Connection: close"], True),
    ("HTTP/1.0", [], False),
    ("HTTP/1.0", ["Connection: keep-alive"], True),
    ("HTTP/1.0", ["Connection: Keep-Alive, te"], True),
    ("HTTP/1.0", ["Connection: keep-alive, close"], False),
    ("HTTP/1.9", [], True),
]

MALFORMED_LINES = [
    b"hello",
    b"hello hello",
    b"hello hello hello hello",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
    b"GET",
    b"GET /healthz",  # HTTP/0.9
    b"GET /healthz HTTP/0.9",
    b"GET /healthz HTTP/2.0",
    b"PRI * HTTP/2.0",
    b"GET /healthz HTTP/1",
    b"GET /healthz HTTP/1.",
    b"GET /healthz HTTP/1.x",
    b"GET /healthz HTTP/1.10",
    b"GET /healthz HTTP/11",
    b"GET /healthz HTTP/1.1.1",
    b"GET /healthz HTTP/-1.1",
    b"GET /healthz HTTP/1.\xb2",
    b"GET /healthz HTTPS/1.1",
    b"GET /healthz http/1.1",
    b"GET /healthz HTTP/1.1 ",
    b" GET /healthz HTTP/1.1",
    b"GET  /healthz HTTP/1.1",
    b"GET\t/healthz\tHTTP/1.1",
    b"GET /health z HTTP/1.1",
    b"GET /healthz\xa0HTTP/1.1",
    b"GET /healthz\0 HTTP/1.1",
    b"GET /healthz\x7f HTTP/1.1",
    b"GET /health\xe9 HTTP/1.1",
    b"GET /healthz HTTP/1.1\rHost: x",
    b"G(T /healthz HTTP/1.1",
    b"\0GET /healthz HTTP/1.1",
]

MALFORMED_FIELDS = [
    b"Host : x",
    b"Host\t: x",
    b" Host: x",
    b"X: a\r\n b",  # folded
    b"X: a\r\n\tb",
    b"Host",
    b": x",
    b"H st: x",
    b"H\xf6st: x",
    b"H(st: x",
    b"X: a\rb",
    b"X: a\nY: b",
    b"X: a\r\r\nY: b",
    b"X: a\0b",
    b"X: a\x0bb",
    b"X: a\x1bb",
    b"X: a\x7fb",
    b"\r\rX: a",
    b"Host: b",
    b"host: localhost",
    b"Content-Length: 0\r\nContent-Length: 0",
    b"Content-Length: 5\r\ncontent-length: 6",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Content-Length:",
    b"Content-Length: five",
    b"Content-Length: -5",
    b"Content-Length: +5",
    b"Content-Length: 5,5",
    b"Content-Length: 5 5",
    b"Content-Length: 0x5",
    b"Content-Length: 5.0",
    b"Content-Length: 1_0",
    b"Content-Length: \xb2",
    b"Content-Length: " + b"9" * 100,
    b"\r\n".join(b"X: %d" % number for number in range(100)),
    b"X: " + b"a" * MAX_HEAD,
]

MALFORMED = [
    *(line + b"\r\n\r\n" for line in MALFORMED_LINES),
    *(HEALTHZ[:-2] + fields + b"\r\n\r\n" for fields in MALFORMED_FIELDS),
    b"GET /healthz HTTP/1.1\r\n\r\n",  # without Host (RFC 9112, section 3.2)
    b"GET http://localhost/healthz HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nX: Host\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"GET /healthz HTTP/1.1\n\n",
    b"GET /healthz HTTP/1.1\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\n\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\n\r\n",
    b"GET /healthz?" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nContent-Length: x\r\n\r\n",
]

# What need not be complete to be refused: waiting for its end would be of no use.
HOPELESS = [
    b"hello\r\n",
    b"hello\n",
    b"GET /healthz HTTP/1.1\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\n",
    b"GET /healthz HTTP/1.1\r\nX: " + b"a" * MAX_HEAD,
    b"a" * (MAX_HEAD + 1),
    b"\n" * (MAX_HEAD + 1),
]

REFUSED = [(400, "InvalidRequest")]  # the only answer to any of these

# Bodies that are requests themselves, to whoever fails to see that they are bodies.
SMUGGLED = request("/smuggled")
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
LENGTH = f"Content-Length: {len(SMUGGLED)}"
BODIES = [
    (request("/healthz", LENGTH), SMUGGLED),
    (request("/healthz", LENGTH, method="HEAD"), SMUGGLED),
    (request("/healthz", LENGTH, method="POST"), SMUGGLED),
    (request("/healthz", LENGTH, "Connection: keep-alive", version="HTTP/1.0"), SMUGGLED),
    (request("/healthz", LENGTH, "Expect: 100-continue"), SMUGGLED),
    (request("/lookup?fqdn=db.test", LENGTH), SMUGGLED),
    (request("/healthz", "Content-Length: 0"), SMUGGLED),
    (request("/healthz", "Transfer-Encoding: chunked"), CHUNKED),
    (request("/healthz", "Transfer-Encoding: chunked", method="POST"), CHUNKED),
    (request("/healthz", "Transfer-Encoding: gzip, chunked"), CHUNKED),
    (request("/healthz", "transfer-encoding:identity"), SMUGGLED),
]

# What is asked for, and what fails: before there is an answer, after DNS, after the answer.
DEFECTS = [
    ("/metrics", "common.probes.render"),
    ("/lookup?fqdn=db.test", "lookup.lookups.Lookups.answer"),
    ("/lookup?fqdn=192.168.1.7", "common.metrics.Histogram.observe"),
]

# What makes a mutated head interesting to a parser.
SPICE = [
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"\x0b",
    b"\x1c",
    b"\x85",
    b"\xa0",
    b"HTTP/",
]
SPICE += [b"0", b"2", b".", b"/", b"X: 1\r\n" * 99]


class StockHandler(BaseHTTPRequestHandler):
    """Reads one request as `http.server` does, and notes whether it is refused."""

    protocol_version = "HTTP/1.1"

    def __init__(self, head: bytes) -> None:
        self.rfile, self.wfile = io.BytesIO(head), io.BytesIO()
        self.refused = False
        self.handle_one_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.refused = True

    def do_GET(self) -> None:
        """Is content with whatever gets here."""

    do_HEAD = do_GET


def mutated(head: bytes, number: int) -> Iterator[bytes]:
    """So many variants of a head with a piece of it replaced; the same ones every time."""
    chance = random.Random(head)
    for _ in range(number):
        start = chance.randrange(len(head))
        yield (
            head[:start] + chance.choice(SPICE) + head[start + chance.randrange(3) :] + b"\r\n\r\n"
        )


def exchange(client: Client, data: bytes) -> list[Response]:
    """The answers to `data` from a server that closes the connection without being asked to."""
    with client.connect() as connection:
        connection.sendall(data)
        return responses(read_all(connection))


def listen_with_small_buffers(host: str, port: int) -> socket.socket:
    """A listener whose connections take little that is not read, whatever the system's settings."""
    listener = listen(host, port)
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        listener.setsockopt(socket.SOL_SOCKET, buffer, 65536)
    return listener


def send_what_is_taken(connection: socket.socket, data: bytes) -> int:
    """Sends of `data` as much as the other side takes; returns how much that was."""
    sent = 0
    while sent < len(data) and select.select([], [connection], [], 0.3)[1]:
        sent += connection.send(data[sent : sent + 4096])
    return sent


def ask(connection: socket.socket) -> int:
    """The status that a request on this connection is answered with; 0 if it is closed."""
    with suppress(ConnectionError):
        connection.sendall(HEALTHZ)
        answer = connection.recv(65536)
        return responses(answer)[0].status if answer else 0
    return 0


@contextmanager
def connections(client: Client, number: int) -> Iterator[list[socket.socket]]:
    """Open connections, accepted in this order."""
    with ExitStack() as stack:
        yield [stack.enter_context(client.connect()) for _ in range(number)]


def timeouts(seconds: float) -> ExitStack:
    """Connections are overdue after this time, whatever they are waited for."""
    stack = ExitStack()
    for name in ("IDLE_TIMEOUT", "HEAD_TIMEOUT", "SEND_TIMEOUT", "LINGER_TIMEOUT"):
        stack.enter_context(mock.patch.object(http, name, seconds))
    stack.enter_context(mock.patch.object(port, "SWEEP_INTERVAL", seconds / 5))
    return stack


class Clock:
    """Stands in for `monotonic`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls = 0

    def __call__(self) -> float:
        self._calls += 1
        return self.now

    def pass_by(self, seconds: float) -> None:
        """So much time has passed, and the clock was looked at since."""
        self.now += seconds
        calls = self._calls
        wait_until(lambda: self._calls > calls + 2)


# what a client sends, piece by piece, before it falls silent, and for how many seconds its
# connection stays
USELESS = [
    ([], 15),
    ([b"GET /hea"], 15),
    ([HEALTHZ], 120),
    ([LOOKUP], 120),
    ([HEALTHZ + b"GET"], 15),
    ([HEALTHZ[:9], HEALTHZ[9:], b"GET"], 15),
    ([b"hello\r\n"], 15),
    ([request("/healthz", "Connection: close")], 15),
    ([request("/metrics")], 15),  # whose answer it does not read
]

# target, and the path that is asked for
TARGETS = [
    ("/lookup?fqdn=db.test", "/lookup?fqdn=db.test"),
    ("http://localhost/lookup?fqdn=db.test", "/lookup?fqdn=db.test"),
    ("HTTP://localhost:8080/healthz", "/healthz"),
    ("https://[::1]:8080/healthz", "/healthz"),
    ("http://localhost", "/"),
    ("http://localhost?x=/y", "/?x=/y"),
    ("http://localhost/http://localhost/", "/http://localhost/"),
    ("http:///healthz", "http:///healthz"),
    ("xhttp://localhost/healthz", "xhttp://localhost/healthz"),
    ("//localhost/healthz", "//localhost/healthz"),
    ("/http://localhost/", "/http://localhost/"),
    ("localhost:8080", "localhost:8080"),
    ("*", "*"),
]

# what has arrived, and the size of the head in it
ARRIVED = [
    (b"", 0),
    (b"GET /", 0),
    (b"GET / HTTP/1.1\r\nHost: x\r\n", 0),
    (HEALTHZ, len(HEALTHZ)),
    (HEALTHZ + b"GET", len(HEALTHZ)),
    (HEALTHZ + HEALTHZ, len(HEALTHZ)),
    (b"hello\r\nX", 8),
    (b"GET / HTTP/1.1\nHost", 19),
    (b"a" * MAX_HEAD, 0),
    (b"a" * (MAX_HEAD + 1), MAX_HEAD + 1),
]

# what a client calls itself, and what is known of it then
AGENTS = [
    ([], ""),
    (["User-Agent: curl/8.5.0"], "curl/8.5.0"),
    (["user-agent:  Kyverno/v1 (x) "], "kyverno/v1 (x)"),
    (["User-Agent: a", "User-Agent: b"], "a b"),
]


class HeadTest(unittest.TestCase):
    """The parser by itself, on bytes."""

    def test_a_head_is_taken_when_it_is_complete_or_hopeless(self) -> None:
        for received, size in ARRIVED:
            with self.subTest(received[:50]):
                self.assertEqual(head_size(bytearray(received)), size)

    def test_what_is_in_a_head(self) -> None:
        for version, fields, persists in PERSISTENCE:
            with self.subTest(version=version, fields=fields):
                head = parse_head(request("/x?y", *fields, method="PUT", version=version))
                self.assertEqual(head, ("PUT", "/x?y", version, (persists, None, "")))

    def test_what_the_client_calls_itself(self) -> None:
        for fields, agent in AGENTS:
            with self.subTest(fields):
                self.assertEqual(parse_head(request("/", *fields)).fields.agent, agent)

    def test_an_absolute_target_is_the_path_in_it(self) -> None:
        for target, path in TARGETS:
            with self.subTest(target):
                self.assertEqual(parse_head(request(target)).path, path)

    def test_http_1_0_needs_no_host(self) -> None:
        head = parse_head(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(head, ("GET", "/", "HTTP/1.0", (False, None, "")))

    def test_how_large_a_head_may_be(self) -> None:
        room = MAX_HEAD - len(request("/healthz", "X: "))
        self.assertTrue(parse_head(request("/healthz", "X: " + "a" * room)).fields.persists)
        with self.assertRaisesRegex(InvalidRequest, "larger than 16384 bytes"):
            parse_head(request("/healthz", "X: " + "a" * (room + 1)))

    def test_malformed_heads(self) -> None:
        for received in MALFORMED:
            with self.subTest(received[:100]), self.assertRaises(InvalidRequest):
                parse_head(received[: head_size(received)])


class PersistenceTest(unittest.TestCase):
    def test_a_connection_is_kept_or_closed_as_the_client_wishes(self) -> None:
        with running() as client:
            for version, fields, persists in PERSISTENCE:
                with self.subTest(version=version, fields=fields):
                    first = request("/healthz", *fields, version=version)
                    answers = client.answers(first + HEALTHZ)
                    self.assertEqual([each.status for each in answers], [200] * (1 + persists))
                    announced = answers[0].headers.get("Connection") == "close"
                    self.assertEqual(announced, not persists)

    def test_a_client_of_http_1_0_is_told_that_its_connection_is_kept(self) -> None:
        with running() as client:
            (answer,) = client.answers(
                request("/healthz", "Connection: keep-alive", version="HTTP/1.0")
            )
        self.assertEqual(answer.headers["Connection"], "keep-alive")

    def test_the_server_closes_the_connection_when_it_says_so(self) -> None:
        with running() as client:
            answers = exchange(client, request("/healthz", "Connection: close"))
        self.assertEqual(len(answers), 1)

    def test_errors_keep_the_connection(self) -> None:
        with running() as client:
            statuses = [
                answer.status
                for answer in client.answers(
                    request("/x") + request("/lookup") + request("/", method="POST") + HEALTHZ
                )
            ]
        self.assertEqual(statuses, [404, 400, 405, 200])

    def test_empty_lines_before_a_request_are_ignored(self) -> None:
        with running() as client:
            answers = client.answers(b"\r\n" + HEALTHZ + b"\r\n" + HEALTHZ + b"\r\n")
        self.assertEqual([answer.status for answer in answers], [200, 200])


class PipeliningTest(unittest.TestCase):
    def test_requests_are_answered_in_their_order(self) -> None:
        addresses = [f"192.168.{number}.1" for number in range(200)]
        with running() as client:
            answers = client.answers(
                b"".join(request(f"/lookup?fqdn={address}") for address in addresses)
            )
        found = [answer.body.get("address") for answer in answers]
        self.assertEqual(found, [*addresses[:192], *[None] * 8])

    def test_a_quick_answer_waits_for_a_slow_one_before_it(self) -> None:
        with fake_dns(db=["192.168.1.1"]) as dns, running() as client:
            dns.silent = {"db.test"}
            with client.connect() as connection:
                connection.sendall(HEALTHZ + LOOKUP + HEALTHZ)
                wait_until(lambda: dns.asked == ["db.test"])
                connection.sendall(HEALTHZ)
                client.request("/healthz")  # by then the server has seen the last one, too
                dns.speak()
                connection.shutdown(socket.SHUT_WR)
                answers = responses(read_all(connection))
        found = [(answer.status, answer.body.get("fqdn")) for answer in answers]
        self.assertEqual(found, [(200, None), (200, "db.test"), (200, None), (200, None)])

    def test_a_request_may_come_in_any_pieces(self) -> None:
        with running() as client, client.connect() as connection:
            for byte in request("/lookup?fqdn=192.168.1.7") + HEALTHZ:
                connection.send(bytes([byte]))
            connection.shutdown(socket.SHUT_WR)
            answers = responses(read_all(connection))
        self.assertEqual([answer.status for answer in answers], [200, 200])

    def test_who_sends_no_more_is_still_answered(self) -> None:
        for last in (HEALTHZ, request("/healthz", "Connection: close")):
            with self.subTest(last):
                self.assert_answered_at_its_end(LOOKUP + last)

    def assert_answered_at_its_end(self, requests: bytes) -> None:
        """Two requests, of which the first waits for DNS."""
        with (
            fake_dns(db=["192.168.1.1"]) as dns,
            running() as client,
            client.connect() as connection,
        ):
            dns.silent = {"db.test"}
            connection.sendall(requests)
            connection.shutdown(socket.SHUT_WR)
            wait_until(lambda: dns.asked == ["db.test"])
            client.request("/healthz")  # by then the server has seen the end, too
            dns.speak()
            answers = responses(read_all(connection))
            self.assertEqual([answer.status for answer in answers], [200, 200])
            wait_until(lambda: not client.connections)

    def test_who_does_not_read_is_not_read_from(self) -> None:
        """A few kilobytes for each such connection, however much it sends."""
        number = 500
        requests = request("/metrics", "X: " + "a" * 8000) * number
        small = mock.patch("common.listening.listen", listen_with_small_buffers)
        with small, running() as client, client.connect() as connection:
            sent = send_what_is_taken(connection, requests)
            self.assertLess(sent, len(requests))
            with self.subTest("when it reads, it has all its answers"):
                sender = threading.Thread(target=connection.sendall, args=[requests[sent:]])
                sender.start()
                answers = b""
                while answers.count(b"HTTP/1.1 200 OK\r\n") < number:
                    answers += connection.recv(65536) or self.fail("it was closed")
                sender.join()

    def test_who_waits_for_dns_is_not_read_from_for_ever(self) -> None:
        requests = LOOKUP + bytes(8_000_000)
        small = mock.patch("common.listening.listen", listen_with_small_buffers)
        with fake_dns() as dns, small, running(DNS_TIMEOUT="10") as client:
            dns.silent = {"db.test"}
            with client.connect() as connection:
                self.assertLess(send_what_is_taken(connection, requests), len(requests))
                dns.speak()


class MalformedTest(unittest.TestCase):
    def assert_refused(self, answers: list[Response]) -> None:
        self.assertEqual([(answer.status, answer.body["reason"]) for answer in answers], REFUSED)
        self.assertEqual(answers[0].headers["Connection"], "close")
        self.assertEqual(answers[0].headers["Content-Type"], "application/json")

    def test_a_malformed_head_is_refused_and_what_follows_is_not_read(self) -> None:
        with running() as client:
            for head in MALFORMED:
                with self.subTest(head[:100]):
                    self.assert_refused(exchange(client, head + SMUGGLED))

    def test_a_head_that_cannot_become_well_formed_is_refused_before_its_end(self) -> None:
        with running() as client:
            for head in HOPELESS:
                with self.subTest(head[:100]):
                    self.assert_refused(exchange(client, head))

    def test_what_the_stock_parser_refuses_is_refused(self) -> None:
        heads = [*MALFORMED, *HOPELESS]
        heads += [request("/healthz", *["X: 1"] * number) for number in range(97, 102)]
        heads += mutated(request("/healthz", "Content-Length: 1"), 1500)
        refused = [head for head in heads if StockHandler(head).refused]
        self.assertGreater(len(refused), 200)
        with running() as client:
            for head in refused:
                with self.subTest(head[:100]):
                    self.assertIn(client.answers(head)[0].status, {400, 405})

    def test_what_is_unusual_but_well_formed_is_not_refused(self) -> None:
        with running() as client:
            for field in ("X:", "X: ", "X:\ta\t", "X: caf\xe9", "!#$%&'*+.^_`|~0: x", "X: a:b: c"):
                with self.subTest(field):
                    (answer,) = client.answers(request("/healthz", field))
                    self.assertEqual(answer.status, 200)


class BodyTest(unittest.TestCase):
    def test_a_body_is_never_read_as_the_next_request(self) -> None:
        with fake_dns(db=["192.168.1.1"]), running() as client:
            for head, body in BODIES:
                with self.subTest(head):
                    (answer,) = exchange(client, head + body)
                    self.assertEqual(answer.status, 405 if head.startswith(b"POST") else 200)
                    self.assertEqual(answer.headers["Connection"], "close")
            self.assertEqual(client.metric('requests_total{endpoint="other",status="404"}'), 0)

    def test_an_unread_body_does_not_cost_the_answer(self) -> None:
        size = 8_000_000
        with running() as client:
            for method, status in (("GET", 200), ("POST", 405)):
                head = request("/healthz", f"Content-Length: {size}", method=method)
                with self.subTest(method):
                    (answer,) = exchange(client, head + bytes(size))
                    self.assertEqual(answer.status, status)

    def test_what_came_while_it_waited_does_not_cost_the_answer(self) -> None:
        data = request("/lookup?fqdn=db.test", "Connection: close") + bytes(8_000_000)
        with fake_dns(db=["192.168.1.1"]) as dns, running() as client:
            dns.silent = {"db.test"}
            with client.connect() as connection, ThreadPoolExecutor() as pool:
                sent = pool.submit(connection.sendall, data)
                wait_until(
                    lambda: [each.transport.is_reading() for each in client.connections] == [False]
                )
                dns.speak()
                self.assertEqual([each.status for each in responses(read_all(connection))], [200])
                self.assertIsNone(sent.result())

    def test_what_follows_a_refused_head_does_not_cost_the_answer(self) -> None:
        with running() as client:
            (answer,) = exchange(client, b"hello\r\n" + bytes(8_000_000))
        self.assertEqual(answer.status, 400)


class AnswerTest(unittest.TestCase):
    def test_every_answer_says_what_it_is(self) -> None:
        requests = {
            b"hello\r\n": 400,
            request("/lookup"): 400,
            request("/x"): 404,
            request("/healthz", method="DELETE"): 405,
            HEALTHZ: 200,
            request("/metrics"): 200,
        }
        with running() as client:
            for data, status in requests.items():
                with self.subTest(data):
                    (answer,) = client.answers(data)
                    self.assertEqual(answer.status, status)
                    self.assertIsNotNone(parsedate_to_datetime(answer.headers["Date"]).tzinfo)
                    self.assertNotIn("Python", answer.headers["Server"])
                    self.assertNotIn("<", str(answer.body))
                    self.assertNotIn("html", answer.headers["Content-Type"])

    def test_head_is_answered_like_get_without_the_body(self) -> None:
        targets = ["/healthz", "/readyz", "/lookup", "/lookup?fqdn=1.2.3", "/lookup?fqdn=9.9.9.9"]
        with running() as client:
            for target in [*targets, "/x"]:
                with self.subTest(target):
                    (get,) = client.answers(request(target))
                    head = client.answers(request(target, method="HEAD") + HEALTHZ)
                    self.assertEqual([head[0].status, head[1].status], [get.status, 200])
                    self.assertEqual(head[0].body, "")
                    for name in ("Content-Type", "Content-Length"):
                        self.assertEqual(head[0].headers[name], get.headers[name])

    def test_a_malformed_head_request_has_no_body_either(self) -> None:
        with running() as client:
            (answer,) = client.answers(request("/healthz", "malformed", method="HEAD"))
        self.assertEqual((answer.status, answer.body), (400, ""))

    def test_what_http_server_refuses_by_itself_is_json_too(self) -> None:
        async def refuse(handler: LookupHandler) -> None:
            handler.send_error(414, "too long")

        with mock.patch.object(LookupHandler, "do_GET", refuse), running() as client:
            (answer,) = client.answers(HEALTHZ)
        self.assertEqual(answer.body, {"error": "too long", "reason": "InvalidRequest"})

    def test_other_methods_are_told_which_are_allowed(self) -> None:
        with running() as client:
            for method in ("POST", "PUT", "CONNECT", "OPTIONS", "get", "X!"):
                with self.subTest(method):
                    (answer,) = client.answers(request("/healthz", method=method))
                    self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"))
                    self.assertEqual(answer.body["reason"], "MethodNotAllowed")


class LimitTest(unittest.TestCase):
    def test_the_longest_silent_connection_makes_room(self) -> None:
        with running(max_connections=3) as client, connections(client, 3) as (first, second, third):
            self.assertEqual([ask(second), ask(third), ask(first)], [200, 200, 200])
            with client.connect() as fourth:
                self.assertEqual(ask(fourth), 200)
                self.assertEqual(second.recv(1), b"")
                self.assertEqual([ask(third), ask(first)], [200, 200])

    def test_a_connection_that_waits_for_us_does_not_make_room(self) -> None:
        with fake_dns(db=["192.168.1.1"]) as dns, running(max_connections=3) as client:
            dns.silent = {"db.test"}
            with client.connect() as waiting:
                waiting.sendall(LOOKUP)
                wait_until(lambda: dns.asked == ["db.test"])
                with connections(client, 5) as silent:
                    self.assertEqual(ask(silent[-1]), 200)
                dns.speak()
                waiting.shutdown(socket.SHUT_WR)
                self.assertEqual([answer.status for answer in responses(read_all(waiting))], [200])

    def test_the_limit_holds_though_all_connections_wait_for_us(self) -> None:
        with fake_dns() as dns, running(max_connections=3, DNS_TIMEOUT="10") as client:
            dns.silent = {"db.test"}
            with ExitStack() as stack:
                for _ in range(6):
                    stack.enter_context(client.connect()).sendall(LOOKUP)
                    self.assertEqual(client.request("/healthz").status, 200)
                self.assertLessEqual(len(client.connections), 3)
                dns.speak()

    def test_a_useless_connection_is_closed_when_its_time_is_over(self) -> None:
        clock = Clock()
        with (
            mock.patch.object(http, "monotonic", clock),
            mock.patch.object(port, "monotonic", clock),
            mock.patch.object(port, "SWEEP_INTERVAL", 0.001),
            mock.patch("common.probes.render", return_value=bytes(10_000_000)),
            fake_dns(db=["192.168.1.1"]),
            running(DNS_CACHE_TTL="0") as client,
        ):
            for pieces, seconds in USELESS:
                with self.subTest(pieces), client.connect() as connection:
                    for piece in [*pieces, b""]:
                        connection.send(piece)
                        client.lookup("db.test")  # by then the server has seen it, and answered
                    wait_until(lambda: len(client.connections) == 1)
                    clock.pass_by(seconds - 0.01)
                    self.assertEqual(len(client.connections), 1)
                    clock.pass_by(0.02)
                    wait_until(lambda: not client.connections)

    def test_a_byte_now_and_then_does_not_keep_a_connection_open(self) -> None:
        with (
            mock.patch.object(http, "HEAD_TIMEOUT", 0.05),
            mock.patch.object(port, "SWEEP_INTERVAL", 0.01),
            running() as client,
            client.connect() as connection,
        ):
            self.assertEqual(ask(connection), 200)

            def sends_in_vain() -> bool:
                with suppress(ConnectionError):
                    connection.send(b"a")
                return not client.connections

            wait_until(sends_in_vain)

    def test_between_requests_a_connection_may_be_idle_for_longer(self) -> None:
        """Than a head may take to arrive: two minutes, and Go's clients keep theirs for 90 s."""
        self.assertGreater(http.IDLE_TIMEOUT, 90)
        with (
            mock.patch.object(http, "HEAD_TIMEOUT", 0.05),
            mock.patch.object(port, "SWEEP_INTERVAL", 0.01),
            running() as client,
            connections(client, 4) as (idle, *useless),
        ):
            self.assertEqual([ask(idle), ask(useless[0]), ask(useless[1])], [200, 200, 200])
            useless[0].send(b"G")
            useless[1].send(HEALTHZ + HEALTHZ[:-1])
            wait_until(lambda: len(client.connections) == 1)
            self.assertEqual(ask(idle), 200)

    def test_of_idle_connections_the_longest_idle_one_makes_room(self) -> None:
        with running(max_connections=100) as client, connections(client, 100) as opened:
            self.assertEqual({ask(connection) for connection in opened}, {200})
            with connections(client, 50) as newer:
                self.assertEqual({ask(connection) for connection in newer}, {200})
                self.assertEqual([ask(connection) for connection in opened], [0] * 50 + [200] * 50)

    def test_a_connection_that_waits_for_us_is_not_closed(self) -> None:
        with fake_dns(db=["192.168.1.1"]) as dns, timeouts(0.05):
            dns.silent = {"db.test"}
            with running(DNS_TIMEOUT="10") as client, connections(client, 2) as (waiting, _idle):
                waiting.sendall(LOOKUP)
                wait_until(lambda: len(client.connections) == 1 and dns.asked != [])
                dns.speak()
                self.assertIn(b"200 OK", waiting.recv(65536))


class DrainTest(unittest.TestCase):
    def test_until_it_stops_it_answers_but_is_not_ready(self) -> None:
        with running(SHUTDOWN_DELAY="60") as client, client.connect() as connection:
            self.assertEqual(ask(connection), 200)
            client.stop()
            with self.subTest("also on a connection that was open before"):
                self.assertEqual(ask(connection), 200)
                self.assertEqual(connection.recv(1), b"")
            for target, status in (("/healthz", 200), ("/lookup?fqdn=192.168.1.7", 200)):
                (answer,) = exchange(client, request(target))
                self.assertEqual((answer.status, answer.headers["Connection"]), (status, "close"))
            (answer,) = exchange(client, request("/readyz"))
            self.assertEqual((answer.status, answer.body["reason"]), (503, "ShuttingDown"))

    def test_what_was_sent_before_it_stops_is_answered(self) -> None:
        held, sent = threading.Event(), threading.Event()
        with running() as client:
            self.assertEqual(client.request("/healthz").status, 200)

            def hold() -> None:
                held.set()
                sent.wait(DEADLINE)
                client.server.stop()

            client.loop.call_soon_threadsafe(hold)
            held.wait(DEADLINE)
            with connections(client, 100) as opened:
                for connection in opened:
                    connection.sendall(HEALTHZ)
                sent.set()
                answers = [read_all(connection)[:15] for connection in opened]
        self.assertEqual(answers, [b"HTTP/1.1 200 OK"] * len(opened))

    def drain_when_one_comes(self, client: Client, turns: int) -> socket.socket:
        """Has the server stop when so many turns of its loop have passed since a client came."""
        opened: list[socket.socket] = []

        async def pass_by(_: object) -> None:
            left = turns if not opened else 20
            if not opened:
                opened.append(client.connect())
                opened[0].sendall(HEALTHZ)
            for _ in range(left):
                await asyncio.sleep(0)

        with mock.patch.object(port.Port, "_turns", pass_by):
            client.drain()
        return opened[0]

    def test_who_is_accepted_just_before_it_stops_is_answered(self) -> None:
        for turns in range(2, 6):
            with (
                self.subTest(turns),
                running() as client,
                self.drain_when_one_comes(client, turns) as late,
            ):
                (answer,) = responses(read_all(late))
                self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))

    def test_who_has_begun_to_ask_is_answered(self) -> None:
        with running() as client, client.connect() as connection:
            connection.sendall(HEALTHZ[:-1])
            client.request("/healthz")  # by then the server has seen it
            client.stop()
            wait_until(client.is_refused)
            connection.sendall(HEALTHZ[-1:])
            (answer,) = responses(read_all(connection))
        self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))

    def test_requests_in_flight_are_finished_and_new_connections_refused(self) -> None:
        with fake_dns(db=["192.168.1.1"]) as dns, running(DNS_TIMEOUT="10") as client:
            dns.silent = {"db.test"}
            with connections(client, 2) as (waiting, idle):
                self.assertEqual(ask(idle), 200)
                waiting.sendall(LOOKUP)
                wait_until(lambda: dns.asked == ["db.test"])
                client.stop()
                wait_until(client.is_refused)
                self.assertEqual(idle.recv(1), b"")
                dns.speak()
                (answer,) = responses(read_all(waiting))
        self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))
        self.assertEqual(answer.body["fqdn"], "db.test")


class DrainDeadlineTest(unittest.TestCase):
    def test_what_takes_too_long_is_given_up(self) -> None:
        with (
            fake_dns(db=["192.168.1.1"]) as dns,
            mock.patch.object(port, "DRAIN_TIMEOUT", 0.05),
            running(DNS_TIMEOUT="10") as client,
            connections(client, 2) as (waiting, begun),
        ):
            dns.silent = {"db.test"}
            waiting.sendall(LOOKUP)
            begun.sendall(HEALTHZ[:-1])
            wait_until(lambda: dns.asked == ["db.test"])
            client.stop()
            for connection in (waiting, begun):
                with suppress(ConnectionError):
                    self.assertEqual(read_all(connection), b"")


class LossTest(unittest.TestCase):
    """Clients that go away, and descriptors that run out."""

    def test_who_resets_the_connection_while_we_answer_costs_nobody_anything(self) -> None:
        with (
            fake_dns(db=["192.168.1.1"]) as dns,
            running() as client,
            self.assertNoLogs(level="WARNING"),
        ):
            dns.silent = {"db.test"}
            with client.connect() as connection:
                connection.sendall(LOOKUP + HEALTHZ)
                wait_until(lambda: dns.asked == ["db.test"])
                abort = struct.pack("ii", 1, 0)  # close() then sends a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            wait_until(lambda: not client.connections)
            dns.speak()
            lookups = 'requests_total{endpoint="/lookup",status="200"}'
            wait_until(lambda: client.metric(lookups) == 1)
            self.assertEqual(client.lookup("db.test").status, 200)

    def test_who_sends_no_more_and_reads_late_has_the_whole_answer(self) -> None:
        body = bytes(10_000_000)  # more than the kernel takes at once
        with (
            fake_dns(db=["192.168.1.1"]) as dns,
            mock.patch("common.probes.render", return_value=body),
            running(DNS_TIMEOUT="10") as client,
            client.connect() as connection,
            self.assertNoLogs(level="WARNING"),
        ):
            dns.silent = {"db.test"}
            connection.sendall(LOOKUP + request("/metrics", "Connection: close"))
            connection.shutdown(socket.SHUT_WR)
            wait_until(lambda: dns.asked == ["db.test"])
            client.request("/healthz")  # by then the server has seen the end, too
            dns.speak()
            self.assertTrue(read_all(connection).endswith(body))
            wait_until(lambda: not client.connections)

    def test_what_is_sent_after_the_last_answer_is_discarded(self) -> None:
        with running() as client, client.connect() as connection:
            connection.sendall(request("/healthz", "Connection: close") + HEALTHZ)
            self.assertEqual(len(responses(read_all(connection))), 1)
            connection.sendall(HEALTHZ * 100)
            wait_until(lambda: client.metric("open_connections") == 2)
            (lingering, *_) = client.connections
            self.assertTrue(lingering.is_closing)
            self.assertEqual(lingering.received, b"")
            connection.close()
            wait_until(lambda: lingering not in client.connections)
            self.assertEqual(client.metric('requests_total{endpoint="/healthz",status="200"}'), 1)

    def test_who_resets_the_connection_while_it_is_closed_costs_nobody_anything(self) -> None:
        with running() as client, client.connect() as connection:
            wait_until(lambda: len(client.connections) == 1)
            abort = struct.pack("ii", 1, 0)  # close() then sends a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)

            async def close_both() -> None:
                connection.close()
                for each in client.connections:
                    each.dismiss()

            asyncio.run_coroutine_threadsafe(close_both(), client.loop).result(DEADLINE)
            wait_until(lambda: not client.connections)

    def test_what_fails_in_the_loop_is_logged(self) -> None:
        with running() as client, self.assertLogs(level="ERROR") as log:
            client.loop.call_soon_threadsafe(lambda: 1 / 0)
            self.assertEqual(client.request("/healthz").status, 200)
        self.assertIn("ZeroDivisionError", log.output[0])

    def test_when_descriptors_run_out_an_idle_connection_makes_room(self) -> None:
        """One that is refused is tried again, by then with a descriptor for it."""
        with running() as client, connections(client, 2) as (idle, kept):
            self.assertEqual([ask(idle), ask(kept)], [200, 200])
            context = {"exception": OSError(errno.EMFILE, "Too many open files")}
            with self.assertLogs(level="WARNING") as log:
                client.loop.call_soon_threadsafe(client.loop.call_exception_handler, context)
                self.assertEqual(idle.recv(1), b"")
            self.assertIn("Too many open files", log.output[0])
            self.assertEqual(ask(kept), 200)

    def test_however_often_asyncio_says_so_room_is_made_once_and_not_by_most(self) -> None:
        """It does so for each connection that it would have accepted."""
        context = {"exception": OSError(errno.EMFILE, "Too many open files")}
        with running() as client, connections(client, 5) as opened:
            self.assertEqual(list(map(ask, opened)), [200] * 5)

            async def run_out() -> None:
                for _ in range(10):
                    client.loop.call_exception_handler(context)

            with self.assertLogs(level="WARNING") as log:
                asyncio.run_coroutine_threadsafe(run_out(), client.loop).result(DEADLINE)
            self.assertEqual(len(log.output), 1)
            self.assertEqual([each.recv(1) for each in opened[:2]], [b""] * 2)
            self.assertEqual(list(map(ask, opened[2:])), [200] * 3)


class DefectTest(unittest.TestCase):
    def test_a_defect_costs_one_request_and_leaves_its_trace_in_the_log(self) -> None:
        defect = ZeroDivisionError("a secret")
        with fake_dns(db=["192.168.1.1"]), running() as client:
            for target, place in DEFECTS:
                with (
                    self.subTest(target),
                    mock.patch(place, side_effect=defect),
                    self.assertLogs(level="ERROR") as log,
                ):
                    (answer,) = exchange(client, request(target) + HEALTHZ)
                    self.assertEqual((answer.status, answer.body["reason"]), (500, "InternalError"))
                    self.assertNotIn("secret", answer.body["error"])
                self.assertEqual(len(log.records), 1)
                self.assertIn(target, log.records[0].getMessage())
                self.assertEqual(log.records[0].exc_info and log.records[0].exc_info[1], defect)
                self.assertEqual(client.request(target).status, 200)


if __name__ == "__main__":
    unittest.main()
