"""The webhook over TLS: reviews, what is refused, the certificate, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import random
import re
import signal
import socket
import ssl
import struct
import tempfile
import unittest
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from unittest import mock

from common import connection as http
from common import pipe, port
from common.metrics import render
from common.names import ANNOTATION as NAME
from common.port import Port
from common.tls import Channel
from lookup.table_reader import load
from server import Server, ServerSettings
from tests.certificates import AVAILABLE, WHY_NOT, Authority, Pair, Secret
from tests.support import (
    DEADLINE,
    SUBNETS,
    Client,
    Response,
    fake_dns,
    read_all,
    responses,
    running,
    wait_until,
)
from tests.test_admission import UID, annotated, patched, pod, response_in, review_of
from tests.test_process import refusals, serving
from webhook import certificate as tls
from webhook.admission import MAX_REVIEW
from webhook.certificate import Certificate, InvalidCertificate, expiry
from webhook.handler import WebhookHandler

JSON = "Content-Type: application/json"


def post(body: bytes, *fields: str, target: str = "/mutate?timeout=3s") -> bytes:
    """A request with a body, as it is sent."""
    fields = (f"Content-Length: {len(body)}", JSON, *fields)
    return head(*fields, target=target) + body


def head(*fields: str, target: str = "/mutate?timeout=3s") -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", *fields, "", ""]
    return "\r\n".join(lines).encode()


def review(names: str = "192.168.1.7", **more: object) -> bytes:
    return review_of(annotated(names), **more)


class Webhook:
    """An API server, as far as the webhook can tell."""

    def __init__(self, client: Client, context: ssl.SSLContext) -> None:
        self.client = client
        self.context = context

    @property
    def port(self) -> Port:
        return self.client.server.ports[1]

    def plain(self) -> socket.socket:
        """A connection before the handshake."""
        return socket.create_connection(("127.0.0.1", self.client.tls_port), timeout=DEADLINE)

    def connect(self) -> ssl.SSLSocket:
        return self.context.wrap_socket(self.plain(), server_hostname="localhost")

    def request(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> Response:
        """One request on a connection of its own, as an HTTP client makes it."""
        port = self.client.tls_port
        with closing(
            HTTPSConnection("127.0.0.1", port, timeout=DEADLINE, context=self.context)
        ) as connection:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return Response(
                response.status, dict(response.headers), json.loads(response.read() or "null")
            )

    def review(
        self, names: str = "192.168.1.7", timeout: str = "3s", **more: object
    ) -> dict[str, Any]:
        """The response to the review of a Pod with this annotation."""
        body = review(names, **more)
        answer = self.request(
            "POST", f"/mutate?timeout={timeout}", body, **{"Content-Type": "application/json"}
        )
        assert answer.status == 200, answer
        return response_in(json.dumps(answer.body).encode())

    def answers(self, data: bytes) -> list[Response]:
        """The answers to `data` from a server that closes the connection without being asked to."""
        with self.connect() as connection:
            connection.sendall(data)
            return responses(read_all(connection))

    def metric(self, sample: str) -> float:
        return self.client.metric(sample)


def heard(connection: ssl.SSLSocket) -> bytes:
    """All that still comes to a client that can send no more, not even its own end of TLS.

    From Python 3.14 on, it tries to when it reads the server's.
    """
    parts: list[bytes] = []
    with suppress(BrokenPipeError):
        parts.extend(iter(lambda: connection.recv(65536), b""))
    return b"".join(parts)


class WebhookTest(unittest.TestCase):
    authority: Authority
    pair: Pair

    @classmethod
    def setUpClass(cls) -> None:
        if not AVAILABLE:
            raise unittest.SkipTest(WHY_NOT)
        folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.authority = Authority(folder)
        cls.pair = cls.authority.issue("first")

    def assert_nothing_is_kept(self, webhook: Webhook) -> None:
        """Of the one request that there is."""
        (connection,) = webhook.port.connections
        self.assertEqual((connection.received, webhook.port._held), (b"", {}))

        def has_no_body(each: object) -> bool:
            return not isinstance(each, WebhookHandler) or not each.body

        wait_until(lambda: all(map(has_no_body, gc.get_objects())))

    @contextmanager
    def serving(self, **settings: str) -> Iterator[Webhook]:
        """A server with a webhook, and a client that verifies its certificate."""
        with running(SUBNETS, 1000, **(self.pair.settings() | settings)) as client:
            yield Webhook(client, self.authority.client())


class ReviewTest(WebhookTest):
    def test_a_pod_is_placed(self) -> None:
        given = pod()
        with self.serving() as webhook:
            answer = webhook.request(
                "POST",
                "/mutate?timeout=3s",
                review_of(given),
                **{"Content-Type": "application/json; charset=utf-8"},
            )
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"))
        result = patched(given, json.dumps(answer.body).encode())
        self.assertEqual(result["metadata"]["labels"][f"{NAME}/zone"], "eu-central-1b")
        self.assertEqual(answer.body["response"]["uid"], UID)

    def test_names_are_looked_up_in_dns(self) -> None:
        with fake_dns(db=["192.168.33.1"]), self.serving() as webhook:
            for _ in range(2):  # first from DNS, then from the cache
                audited = webhook.review("db.test")["auditAnnotations"]
                self.assertEqual(audited, {"zone": "eu-central-1a", "names": "db.test"})
            (warning,) = webhook.review("no.test")["warnings"]
        self.assertIn("NameNotFound: no.test", warning)

    def test_the_answer_comes_before_the_api_server_gives_up(self) -> None:
        impatient = mock.patch("tests.test_webhook.DEADLINE", 9)
        with fake_dns() as dns, self.serving(DNS_TIMEOUT="10") as webhook, impatient:
            dns.silent = {"db.test"}
            (warning,) = webhook.review("db.test", timeout="20ms")["warnings"]
            self.assertEqual(dns.silent, {"db.test"})
        self.assertIn("ResolverTimeout: db.test", warning)

    def test_dns_has_no_longer_than_its_own_time(self) -> None:
        with fake_dns() as dns, self.serving(DNS_TIMEOUT="0.02") as webhook:
            dns.silent = {"db.test"}
            for timeout in ("30s", "forever", ""):
                with self.subTest(timeout):
                    (warning,) = webhook.review("db.test", timeout)["warnings"]
                    self.assertIn("ResolverTimeout", warning)

    def test_an_old_answer_serves_while_dns_is_silent(self) -> None:
        settings = {"DNS_TIMEOUT": "10", "DNS_CACHE_TTL": "0"}
        with fake_dns(db=["192.168.1.1"]) as dns, self.serving(**settings) as webhook:
            webhook.review("db.test")
            dns.silent = {"db.test"}
            given = annotated("db.test", **{f"{NAME}/mode": "required"})
            (answer,) = webhook.answers(
                post(review_of(given), "Connection: close", target="/mutate?timeout=20ms")
            )
            result = patched(given, json.dumps(answer.body).encode())
        self.assertIn("affinity", result["spec"])
        self.assertNotIn("nodeSelector", result["spec"])

    def test_a_review_that_waits_for_dns_takes_little_memory(self) -> None:
        with fake_dns() as dns, self.serving(DNS_TIMEOUT="10") as webhook:
            dns.silent = {"db.test"}
            with webhook.connect() as connection:
                connection.sendall(post(review("db.test"), target="/mutate?timeout=30s"))
                wait_until(lambda: dns.asked == ["db.test"])
                self.assert_nothing_is_kept(webhook)
                dns.speak()

    def test_a_defect_costs_no_pod(self) -> None:
        defect = ZeroDivisionError("a secret")
        with fake_dns(db=["192.168.1.1"]), self.serving() as webhook:
            for place in ("webhook.handler.decide", "lookup.lookups.Lookups.answer"):
                for names in ("192.168.1.7", "db.test", "new.test"):
                    with (
                        self.subTest(place, names=names),
                        mock.patch(place, side_effect=defect),
                        self.assertLogs(level="ERROR") as log,
                    ):
                        self.assertEqual(webhook.review(names), {"uid": UID, "allowed": True})
                    self.assertEqual(len(log.records), 1)
                    self.assertIn("'default/app'", log.records[0].getMessage())
                    self.assertEqual(log.records[0].exc_info and log.records[0].exc_info[1], defect)
            self.assertEqual(
                webhook.metric('reviews_total{outcome="Defect",reason="InternalError"}'), 6
            )
            self.assertEqual(
                webhook.metric('lookups_total{outcome="InternalError",asker="webhook"}'), 3
            )
            self.assertIn("patch", webhook.review())

    def test_a_line_in_the_log_for_each(self) -> None:
        with self.serving() as webhook, self.assertLogs(level="INFO") as log:
            webhook.review()
            webhook.review("10.9.9.9", namespace="a\nb")
            webhook.review("")
        expected = [
            "review 'default/app' '192.168.1.7' zone=eu-central-1b ms=",
            r"review 'a\nb/app' '10.9.9.9' reason=ZoneNotFound ms=",
            "review 'default/app' '' reason=NotAnnotated ms=",
        ]
        own = [each for each in log.records if each.name == "root"]
        for record, text in zip(own, expected, strict=True):
            self.assertRegex(record.getMessage(), rf"^{re.escape(text)}\d+\.\d\d$")

    def test_metrics(self) -> None:
        samples = {
            'reviews_total{outcome="Placed",reason=""}': "192.168.1.7",
            'reviews_total{outcome="NotPlaced",reason="ZoneNotFound"}': "10.9.9.9",
            'reviews_total{outcome="LeftAlone",reason="NotAnnotated"}': "",
        }
        with self.serving() as webhook:
            for number, (sample, names) in enumerate(samples.items(), 1):
                self.assertEqual(webhook.metric(sample), 0)
                webhook.review(names)
                self.assertEqual(webhook.metric(sample), 1)
                self.assertEqual(webhook.metric("review_duration_seconds_count"), number)
                answered = webhook.metric('requests_total{endpoint="/mutate",status="200"}')
                self.assertEqual(answered, number)
            self.assertEqual(webhook.metric("lookup_duration_seconds_count"), 2)
            self.assertEqual(webhook.metric('lookups_total{outcome="Success",asker="webhook"}'), 1)
            self.assertEqual(
                webhook.metric('lookups_total{outcome="ZoneNotFound",asker="webhook"}'), 1
            )
            self.assertEqual(webhook.metric('zone_answers_total{zone="eu-central-1b"}'), 1)
            self.assertEqual(webhook.metric("tls_reload_failures_total"), 0)
            self.assertEqual(
                webhook.metric("tls_certificate_expiry_timestamp_seconds"),
                expiry(self.pair.certificate.read_bytes()),
            )
            with webhook.connect():
                self.assertEqual(webhook.metric("webhook_open_connections"), 1)

    def test_every_metric_is_documented(self) -> None:
        families = re.compile(r"^# TYPE automatic_zone_placement_(\w+)", re.MULTILINE)
        with self.serving() as webhook, running() as without:
            own = set(families.findall(webhook.client.request("/metrics").body))
            own -= set(families.findall(without.request("/metrics").body))
        page = (Path(__file__).parent.parent / "docs" / "webhook.md").read_text()
        self.assertEqual(set(re.findall(r"^\| `(\w+)` \| \w+ \|", page, re.MULTILINE)), own)


# --- HTTP ---------------------------------------------------------------------------------------

# method and target, status, reason or None, and what is allowed
OTHERS = [
    ("GET", "/mutate", 405, "MethodNotAllowed", "POST"),
    ("HEAD", "/mutate", 405, None, "POST"),
    ("GET", "/healthz", 200, None, None),
    ("HEAD", "/readyz", 200, None, None),
    ("GET", "/readyz?x", 200, None, None),
    ("GET", "/lookup?fqdn=192.168.1.7", 404, "NotFound", None),
    ("GET", "/metrics", 404, "NotFound", None),
    ("GET", "/", 404, "NotFound", None),
    ("PUT", "/mutate", 405, "MethodNotAllowed", "GET, HEAD"),
    ("POST", "/readyz", 405, "MethodNotAllowed", "GET, HEAD"),
    ("POST", "/mutate/", 405, "MethodNotAllowed", "GET, HEAD"),
]

# What is refused before its body is read; the connection ends with it.
REFUSED = [
    (head(JSON), 411, "LengthRequired"),
    (head(JSON, "Transfer-Encoding: chunked"), 411, "LengthRequired"),
    (head(JSON, "Transfer-Encoding: chunked", "Content-Length: 5"), 400, "InvalidRequest"),
    (head(JSON, "Content-Length: 5", "Content-Length: 5"), 400, "InvalidRequest"),
    (head(JSON, "Content-Length: -5"), 400, "InvalidRequest"),
    (head(JSON, f"Content-Length: {MAX_REVIEW + 1}"), 413, "ContentTooLarge"),
    (
        head(JSON, f"Content-Length: {MAX_REVIEW + 1}", "Expect: 100-continue"),
        413,
        "ContentTooLarge",
    ),
    (head(JSON, "Content-Length: " + "9" * 18), 413, "ContentTooLarge"),
    (b"POST /mutate\r\n\r\n", 400, "InvalidRequest"),
]

# What is refused when the body is there; another request may follow.
UNFIT = [
    (head("Content-Length: 2") + b"{}", 415, "UnsupportedMediaType"),
    (head("Content-Length: 2", "Content-Type: text/json") + b"{}", 415, "UnsupportedMediaType"),
    (head("Content-Length: 2", JSON, JSON) + b"{}", 415, "UnsupportedMediaType"),
    (post(b""), 400, "InvalidRequest"),
    (post(b"{}"), 400, "InvalidRequest"),
    (post(b"[" * 100_000), 400, "InvalidRequest"),
]

GET_READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class HTTPTest(WebhookTest):
    def test_the_plain_port_takes_no_reviews(self) -> None:
        with self.serving() as webhook:
            (answer,) = webhook.client.answers(post(review()))
            self.assertEqual((answer.status, answer.body["reason"]), (405, "MethodNotAllowed"))
            self.assertEqual(webhook.client.request("/mutate").status, 404)

    def test_without_a_certificate_there_is_no_webhook(self) -> None:
        with running() as client:
            self.assertEqual(client.tls_port, 0)
            self.assertNotIn("tls_", client.request("/metrics").body)

    def test_other_paths_and_methods(self) -> None:
        with self.serving() as webhook:
            for method, target, status, reason, allowed in OTHERS:
                with self.subTest(method=method, target=target):
                    body = b"{}" if method == "POST" else None
                    answer = webhook.request(method, target, body)
                    self.assertEqual(answer.status, status)
                    self.assertEqual(answer.headers.get("Allow"), allowed)
                    if reason:
                        self.assertEqual(answer.body["reason"], reason)

    def test_what_is_refused_before_the_body_is_read(self) -> None:
        with self.serving() as webhook:
            for request, status, reason in REFUSED:
                with self.subTest(request[:200]):
                    (answer,) = webhook.answers(request)
                    self.assertEqual((answer.status, answer.body["reason"]), (status, reason))
                    self.assertEqual(answer.headers["Connection"], "close")

    def test_what_is_refused_with_its_body_leaves_the_connection_open(self) -> None:
        with self.serving() as webhook:
            for request, status, reason in UNFIT:
                with self.subTest(request[:200]):
                    first, second = webhook.answers(request + GET_READY)
                    self.assertEqual((first.status, first.body["reason"]), (status, reason))
                    self.assertEqual(second.status, 200)

    def test_nothing_is_kept_of_a_body_that_was_refused(self) -> None:
        with self.serving() as webhook, webhook.connect() as connection:
            for request, _, _ in UNFIT:
                connection.sendall(request)
                connection.recv(65536)
                self.assert_nothing_is_kept(webhook)

    def test_a_body_that_was_refused_is_not_read_as_a_request(self) -> None:
        with self.serving() as webhook:
            for request in (
                head(JSON),
                head("Transfer-Encoding: chunked"),
                head(JSON, "Content-Length: 99999999"),
            ):
                with self.subTest(request):
                    (answer,) = webhook.answers(request + GET_READY * 1000)
                    self.assertGreater(answer.status, 400)

    def test_a_client_that_waits_to_be_told_to_go_on_is_told(self) -> None:
        body = review()
        with self.serving() as webhook, webhook.connect() as connection:
            for _ in range(2):
                connection.sendall(
                    head(JSON, f"Content-Length: {len(body)}", "Expect: 100-continue")
                )
                self.assertEqual(connection.recv(65536), b"HTTP/1.1 100 Continue\r\n\r\n")
                connection.sendall(body)
                (answer,) = responses(connection.recv(65536))
                self.assertEqual(answer.status, 200)
            with self.subTest("a body that comes along needs no word"):
                connection.sendall(post(body, "Expect: 100-continue"))
                (answer,) = responses(connection.recv(65536))
                self.assertEqual(answer.status, 200)

    def test_a_review_may_come_in_any_pieces(self) -> None:
        with self.serving() as webhook, webhook.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in post(review()) + post(review("10.9.9.9"), "Connection: close"):
                connection.send(bytes([byte]))
            answers = responses(read_all(connection))
        self.assertEqual([answer.status for answer in answers], [200, 200])

    def test_the_largest_review(self) -> None:
        body = review_of(pod(annotations={NAME: "192.168.1.7", "x": "x" * (MAX_REVIEW - 1000)}))
        body += b" " * (MAX_REVIEW - len(body))
        with self.serving() as webhook:
            first, second = webhook.answers(post(body) + post(review(), "Connection: close"))
        self.assertIn("patch", first.body["response"])
        self.assertIn("patch", second.body["response"])

    def test_reviews_are_answered_in_their_order(self) -> None:
        uids = [f"uid-{number}" for number in range(100)]
        with fake_dns(db=["192.168.1.1"]) as dns, self.serving(DNS_TIMEOUT="10") as webhook:
            dns.silent = {"db.test"}
            with webhook.connect() as connection:
                connection.sendall(
                    post(review("db.test", uid="slow"), target="/mutate?timeout=30s")
                )
                wait_until(lambda: dns.asked == ["db.test"])
                connection.sendall(b"".join(post(review(uid=uid)) for uid in uids) + GET_READY)
                dns.speak()
                *answers, last = responses(read_all(connection))
        self.assertEqual([each.body["response"]["uid"] for each in answers], ["slow", *uids])
        self.assertEqual(last.body, {"status": "ok"})

    def test_an_answer_says_what_every_answer_says(self) -> None:
        with self.serving() as webhook:
            (answer,) = webhook.answers(post(review(), "Connection: close"))
        self.assertEqual(answer.headers["Server"], "automatic-zone-placement")
        self.assertEqual(answer.headers["Connection"], "close")


# --- connections --------------------------------------------------------------------------------


@contextmanager
def limits(**values: float) -> Iterator[None]:
    """The limits of connections, smaller than they are."""
    with ExitStack() as stack:
        for name, value in {"SWEEP_INTERVAL": 0.01, **values}.items():
            (module,) = (each for each in (http, pipe, port) if hasattr(each, name))
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, rather than to say something more."""
    try:
        return connection.recv(65536) == b""
    except ConnectionError:
        return True


class ConnectionTest(WebhookTest):
    def test_versions_of_tls(self) -> None:
        with self.serving() as webhook:
            for version, accepted in (("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)):
                context = self.authority.client()
                with self.subTest(version), warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
                    connecting = Webhook(webhook.client, context).connect
                    if accepted:
                        connecting().close()
                    else:
                        self.assertRaises((ssl.SSLError, ConnectionError), connecting)

    def test_http_1_1_is_agreed_upon(self) -> None:
        context = self.authority.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with self.serving() as webhook, Webhook(webhook.client, context).connect() as connection:
            self.assertEqual(connection.selected_alpn_protocol(), "http/1.1")

    def test_what_is_no_tls_costs_one_line_at_debug_level(self) -> None:
        for data in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x00\x05hello",
            bytes(100),
        ):
            with self.subTest(data), self.serving() as webhook:
                with self.assertLogs(level="DEBUG") as log, webhook.plain() as connection:
                    connection.sendall(data)
                    with suppress(ConnectionError):
                        read_all(connection)
                    self.assertIn("patch", webhook.review())
                own = [each for each in log.records if each.name == "root"]
                lines = [each for each in own if each.levelno == logging.DEBUG]
                self.assertEqual(len(lines), 1, log.output)
                self.assertIn("127.0.0.1", lines[0].getMessage())
                self.assertEqual(max(each.levelno for each in own), logging.INFO)

    def test_junk_within_tls_is_answered_and_ends_the_connection(self) -> None:
        with self.serving() as webhook:
            (answer,) = webhook.answers(b"junk\r\n\r\n" + post(review()))
        self.assertEqual((answer.status, answer.headers["Connection"]), (400, "close"))

    def test_who_is_silent_is_closed(self) -> None:
        """Before the handshake, in it, and in the middle of a head or a body."""
        beginnings = [b"POST", head(JSON, "Content-Length: 99"), post(review())[:-1]]
        with (
            limits(HEAD_TIMEOUT=0.1, BODY_TIMEOUT=0.1),
            self.serving() as webhook,
            ExitStack() as stack,
        ):
            opened = [stack.enter_context(webhook.plain()) for _ in range(2)]
            opened[1].sendall(b"\x16\x03\x01\x02\x00")
            for beginning in beginnings:
                with suppress(OSError):  # it may be over before the client is so far
                    opened.append(stack.enter_context(webhook.connect()))
                    opened[-1].sendall(beginning)
            self.assertEqual([is_closed(each) for each in opened], [True] * len(opened))
            wait_until(lambda: not webhook.port.connections)

    def test_a_byte_of_a_body_now_and_then_does_not_keep_a_connection_open(self) -> None:
        with limits(BODY_TIMEOUT=0.1), self.serving() as webhook, webhook.connect() as connection:
            connection.sendall(head(JSON, f"Content-Length: {MAX_REVIEW}"))

            def sends_in_vain() -> bool:
                with suppress(OSError):
                    connection.send(b" ")
                return not webhook.port.connections

            wait_until(sends_in_vain)

    def test_a_connection_may_be_idle_from_the_handshake_on(self) -> None:
        """Go's client opens connections that it needs only later: they must not end just then."""
        with limits(HEAD_TIMEOUT=0.05), self.serving() as webhook, webhook.connect() as idle:
            with webhook.plain() as silent:
                self.assertTrue(is_closed(silent))  # so the deadline has passed
            idle.sendall(post(review(), "Connection: close"))
            self.assertEqual(responses(read_all(idle))[0].status, 200)

    def test_all_bodies_together_are_bounded(self) -> None:
        """Who sends the most slowly makes room."""
        beginning = head(JSON, f"Content-Length: {MAX_REVIEW}") + bytes(90_000)
        with limits(MAX_HELD=200_000), self.serving() as webhook, ExitStack() as stack:
            slow = [stack.enter_context(webhook.connect()) for _ in range(3)]
            for number in (1, 2):
                slow[number - 1].sendall(beginning)
                expected = [90_000] * number
                wait_until(partial(self.bodies_are, webhook, expected))
            slow[2].sendall(beginning)
            self.assertTrue(is_closed(slow[0]))
            self.assertIn("patch", webhook.review())
            slow[2].sendall(bytes(90_000))
            self.assertTrue(is_closed(slow[1]))
            wait_until(partial(self.bodies_are, webhook, [180_000]))

    def bodies_are(self, webhook: Webhook, sizes: list[int]) -> bool:
        return [size // 10_000 * 10_000 for size in webhook.port._held.values()] == sizes

    def test_bodies_that_are_complete_or_gone_take_no_room(self) -> None:
        large = review_of(pod(annotations={NAME: "192.168.1.7", "x": "x" * 90_000}))
        with limits(MAX_HELD=100_000), self.serving() as webhook, webhook.connect() as kept:
            for _ in range(3):
                kept.sendall(post(large))
                self.assertEqual(responses(kept.recv(65536))[0].status, 200)
                with webhook.connect() as leaving:
                    leaving.sendall(head(JSON, f"Content-Length: {MAX_REVIEW}") + bytes(90_000))
                    wait_until(lambda: len(webhook.port._held) == 1)
                wait_until(lambda: not webhook.port._held)

    def test_the_number_of_connections_is_bounded(self) -> None:
        with (
            mock.patch("server.MAX_WEBHOOK_CONNECTIONS", 5),
            self.serving() as webhook,
            ExitStack() as stack,
        ):
            silent = [stack.enter_context(webhook.plain()) for _ in range(20)]
            self.assertIn("patch", webhook.review())
            self.assertLessEqual(len(webhook.port.connections), 5)
            self.assertTrue(is_closed(silent[0]))
            self.assertEqual(webhook.client.request("/healthz").status, 200)

    def test_the_end_is_said(self) -> None:
        """So that nobody can cut an answer short."""
        with self.serving() as webhook, webhook.plain() as plain:
            connection = webhook.context.wrap_socket(
                plain, server_hostname="localhost", suppress_ragged_eofs=False
            )
            with connection:
                connection.sendall(post(review(), "Connection: close"))
                self.assertEqual(responses(read_all(connection))[0].status, 200)

    def test_a_client_that_does_not_read_in_the_handshake_is_waited_for(self) -> None:
        no_logs = self.assertNoLogs(level="WARNING")
        with no_logs, self.serving() as webhook, webhook.connect() as connection:
            wait_until(lambda: len(webhook.port.connections) == 1)
            (handler,) = webhook.port.connections
            for each in (handler.pause_writing, handler.resume_writing):
                webhook.client.loop.call_soon_threadsafe(each)
            connection.sendall(post(review(), "Connection: close"))
            self.assertEqual(responses(read_all(connection))[0].status, 200)

    def test_where_there_is_room_for_few_connections_it_takes_its_share(self) -> None:
        for room, share in ((32, 16), (100_000, 512)):
            server = Server(ServerSettings.from_environment({}), load(SUBNETS), room)
            server.open_webhook(Certificate(*map(str, (self.pair.certificate, self.pair.key))))
            self.assertEqual(server.ports[1].max_connections, share)

    def test_who_says_goodbye_is_answered_before(self) -> None:
        with fake_dns(db=["192.168.1.1"]) as dns, self.serving(DNS_TIMEOUT="10") as webhook:
            dns.silent = {"db.test"}
            with webhook.connect() as connection:
                connection.sendall(post(review("db.test"), target="/mutate?timeout=30s"))
                wait_until(lambda: dns.asked == ["db.test"])
                with suppress(ssl.SSLError):  # it does not wait for the other side's goodbye
                    connection.settimeout(0)
                    connection.unwrap()
                connection.settimeout(DEADLINE)
                dns.speak()
                (answer,) = responses(connection.recv(65536))
                self.assertIn("patch", answer.body["response"])
                wait_until(lambda: not webhook.port.connections)

    def test_what_is_no_tls_ends_a_connection_that_waits_for_an_answer(self) -> None:
        with (
            self.assertNoLogs(level="WARNING"),
            fake_dns(db=["192.168.1.1"]) as dns,
            self.serving(DNS_TIMEOUT="10") as webhook,
        ):
            dns.silent = {"db.test"}
            with webhook.connect() as connection:
                connection.sendall(post(review("db.test"), target="/mutate?timeout=30s"))
                wait_until(lambda: dns.asked == ["db.test"])
                socket.socket.send(connection, b"\x17\x03\x03\x00\x20" + bytes(32))
                wait_until(lambda: not webhook.port.connections)
            dns.speak()
            self.assertIn("patch", webhook.review("db.test"))

    def test_who_says_goodbye_with_the_last_request_is_let_go(self) -> None:
        with (
            self.assertNoLogs(level="WARNING"),
            self.serving() as webhook,
            webhook.plain() as plain,
        ):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = webhook.context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            while not client.version():
                with suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                plain.sendall(outgoing.read())
                if not client.version():
                    incoming.write(plain.recv(65536))
            client.write(post(review(), "Connection: close"))
            with suppress(ssl.SSLWantReadError):
                client.unwrap()
            plain.sendall(outgoing.read())
            self.assertNotEqual(read_all(plain), b"")
            wait_until(lambda: not webhook.port.connections)

    def test_a_connection_may_be_closed_again_while_its_client_has_yet_to_close_it(self) -> None:
        with limits(NEWCOMER_TIME=0), self.serving() as webhook, webhook.connect() as idle:
            wait_until(lambda: len(webhook.port.connections) == 1)

            async def close_twice() -> None:
                (connection,) = webhook.port.connections
                while not connection.is_closing:  # the handshake may have to be noted yet
                    connection.dismiss()
                    await asyncio.sleep(0)
                connection.dismiss()
                self.assertTrue(connection.is_closing)

            loop = webhook.client.loop
            asyncio.run_coroutine_threadsafe(close_twice(), loop).result(DEADLINE)
            self.assertTrue(is_closed(idle))

    def test_who_leaves_early_takes_nothing_along(self) -> None:
        chance = random.Random(20240229)
        whole = post(review())
        with self.assertNoLogs(level="WARNING"), self.serving() as webhook:
            for _ in range(100):
                with webhook.plain() as plain, suppress(OSError):
                    if chance.random() < 0.3:
                        plain.sendall(chance.randbytes(chance.randrange(50)))
                        continue
                    with webhook.context.wrap_socket(plain, server_hostname="localhost") as secure:
                        secure.sendall(whole * 2 + whole[: chance.randrange(len(whole))])
                        if chance.random() < 0.5:
                            abort = struct.pack("ii", 1, 0)  # close() then sends a reset
                            secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            wait_until(lambda: not webhook.port.connections)
            self.assertIn("patch", webhook.review())

    def test_whatever_is_sent_each_answer_is_of_the_table(self) -> None:
        chance = random.Random(20240229)
        whole = post(review())
        pieces = [
            b"\r\n",
            b"\r\n\r\n",
            b"\0",
            b"Content-Length: 3\r\n",
            b"{",
            b'"',
            b"POST / HTTP/1.1",
        ]
        seen = set()
        with self.assertNoLogs(level="WARNING"), self.serving() as webhook:
            for _ in range(300):
                start = chance.randrange(len(whole))
                junk = chance.choice([*pieces, chance.randbytes(5)])
                data = whole[:start] + junk + whole[start + chance.randrange(9) :]
                with self.subTest(data), webhook.connect() as connection:
                    connection.sendall(data)
                    socket.socket.shutdown(connection, socket.SHUT_WR)
                    seen |= {answer.status for answer in responses(heard(connection))}
            self.assertIn("patch", webhook.review())
        self.assertLessEqual({200, 400}, seen)
        self.assertLessEqual(seen, {200, 400, 404, 405, 411, 413, 415})

    def test_a_request_in_flight_is_finished_when_it_stops(self) -> None:
        with fake_dns(db=["192.168.1.1"]) as dns, self.serving(DNS_TIMEOUT="10") as webhook:
            dns.silent = {"db.test"}
            with webhook.connect() as waiting, webhook.connect() as idle, webhook.plain() as silent:
                waiting.sendall(post(review("db.test"), target="/mutate?timeout=30s"))
                wait_until(lambda: dns.asked == ["db.test"])
                webhook.client.stop()
                self.assertTrue(is_closed(idle))
                self.assertTrue(is_closed(silent))
                dns.speak()
                (answer,) = responses(read_all(waiting))
            self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))
            self.assertRaises(ConnectionError, webhook.plain)

    def test_who_has_just_connected_when_it_stops_is_answered(self) -> None:
        with limits(NEWCOMER_TIME=DEADLINE), self.serving() as webhook, webhook.plain() as plain:
            wait_until(lambda: len(webhook.port.connections) == 1)
            webhook.client.stop()
            wait_until(lambda: not webhook.port._listeners)
            with webhook.context.wrap_socket(plain, server_hostname="localhost") as secure:
                secure.sendall(post(review()))
                (answer,) = responses(read_all(secure))
        self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))

    def test_until_it_stops_it_answers_but_is_not_ready(self) -> None:
        with self.serving(SHUTDOWN_DELAY="60") as webhook:
            webhook.client.stop()
            self.assertEqual(webhook.request("GET", "/readyz").body["reason"], "ShuttingDown")
            self.assertEqual(webhook.request("GET", "/healthz").status, 200)
            (answer,) = webhook.answers(post(review()) * 2)
            self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))


# --- the certificate ----------------------------------------------------------------------------


class CertificateTest(WebhookTest):
    def certificate_seen(self, webhook: Webhook) -> bytes | None:
        with webhook.connect() as connection:
            return connection.getpeercert(binary_form=True)

    def secret(self) -> Secret:
        return Secret(Path(self.enterContext(tempfile.TemporaryDirectory())), self.pair)

    def test_its_expiry(self) -> None:
        for name, algorithm, days in (
            ("a", "ec", 1),
            ("b", "rsa", 90),
            ("c", "ec", 36500),
            ("d", "rsa", 36500),
        ):
            with self.subTest(algorithm=algorithm, days=days):
                pair = self.authority.issue(name, algorithm, days)
                context = self.authority.client()
                with (
                    running(SUBNETS, 1000, **pair.settings()) as client,
                    Webhook(client, context).connect() as connection,
                ):
                    certificate = connection.getpeercert()
                assert certificate
                expected = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
                pem = pair.certificate.read_bytes()
                self.assertEqual(expiry(pem), expected)
                self.assertEqual(
                    expiry(b"A certificate:\r\n" + pem.replace(b"\n", b"\r\n")), expected
                )

    def test_what_has_no_expiry(self) -> None:
        pem = self.pair.certificate.read_text()
        begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
        for text in (
            "",
            pem[:100],
            begin + end,
            f"{begin}\n!!!!\n{end}",
            f"{begin}\nMA==\n{end}",
            f"{begin}\nMAAwAA==\n{end}",
            f"{begin}\nMAIwAA==\n{end}",
            f"{begin}\nMIIF\n{end}",
        ):
            with self.subTest(text), self.assertRaises(InvalidCertificate):
                expiry(text.encode())

    def test_a_new_one_is_used_without_a_restart(self) -> None:
        secret, second = self.secret(), self.authority.issue("second", "rsa")
        with (
            mock.patch("common.file_watch.INTERVAL", 0.01),
            self.serving(**secret.pair.settings()) as webhook,
        ):
            with webhook.connect() as kept:
                self.assertEqual(self.certificate_seen(webhook), self.pair.der)
                secret.write(second.certificate, second.key)
                wait_until(lambda: self.certificate_seen(webhook) == second.der)
                with self.subTest("connections that are open stay"):
                    kept.sendall(post(review(), "Connection: close"))
                    self.assertEqual(responses(read_all(kept))[0].status, 200)
            self.assertEqual(
                webhook.metric("tls_certificate_expiry_timestamp_seconds"),
                expiry(second.certificate.read_bytes()),
            )
            self.assertEqual(webhook.metric("tls_reload_failures_total"), 0)

    def test_one_that_cannot_be_used_is_left_aside_with_one_warning(self) -> None:
        secret, second = self.secret(), self.authority.issue("second")
        garbage = self.authority.folder / "garbage"
        garbage.write_text("garbage")
        certificate = Certificate(*map(str, (secret.pair.certificate, secret.pair.key)))
        context = certificate.context
        for number, files in enumerate(
            [
                (second.certificate, self.pair.key),
                (second.certificate, garbage),
                (garbage, second.key),
            ],
            1,
        ):
            secret.write(*files)
            with self.subTest(files), self.assertLogs(level="WARNING") as log:
                for _ in range(3):
                    certificate.look()
                self.assertEqual(len(log.records), 1, log.output)
                self.assertIn(str(secret.pair.key), log.records[0].getMessage())
                self.assertIs(certificate.context, context)
                self.assertEqual(certificate.expiry, expiry(self.pair.certificate.read_bytes()))
                self.assertIn(f"tls_reload_failures_total {3 * number}\n", scraped(certificate))
        for pair in (second, self.pair):
            secret.write(pair.certificate, pair.key)
            with self.assertLogs(level="INFO") as log:
                for _ in range(3):
                    certificate.look()
                self.assertEqual(len(log.records), 1, log.output)
            self.assertIsNot(certificate.context, context)
            self.assertEqual(certificate.expiry, expiry(pair.certificate.read_bytes()))

    def test_files_that_are_gone_are_left_aside_with_one_warning(self) -> None:
        secret = self.secret()
        certificate = Certificate(*map(str, (secret.pair.certificate, secret.pair.key)))
        secret.pair.key.unlink()
        with self.assertLogs(level="WARNING") as log:
            for _ in range(3):
                certificate.look()
        self.assertEqual(len(log.records), 1)
        self.assertIn(f"{secret.pair.key}: No such file", log.records[0].getMessage())

    def test_what_could_not_be_used_is_tried_again(self) -> None:
        secret, second = self.secret(), self.authority.issue("second")
        certificate = Certificate(*map(str, (secret.pair.certificate, secret.pair.key)))
        secret.write(second.certificate, second.key)
        fault = OSError(errno.EMFILE, "Too many open files")
        with mock.patch.object(tls, "_context", side_effect=fault), self.assertLogs():
            certificate.look()
        certificate.look()
        self.assertEqual(certificate.expiry, expiry(second.certificate.read_bytes()))

    def test_what_it_was_before_is_not_read_again(self) -> None:
        secret = self.secret()
        certificate = Certificate(*map(str, (secret.pair.certificate, secret.pair.key)))
        context = certificate.context
        secret.write(self.pair.certificate, self.pair.key)
        with self.assertNoLogs(level="INFO"):
            certificate.look()
        self.assertIs(certificate.context, context)

    def test_when_it_has_expired_only_the_port_for_reviews_is_not_ready(self) -> None:
        with self.serving() as webhook, ExitStack() as stack:
            self.assertEqual(webhook.client.request("/readyz").status, 200)
            end = expiry(self.pair.certificate.read_bytes())
            stack.enter_context(mock.patch.object(tls, "time", lambda: end))
            answer = webhook.request("GET", "/readyz")
            self.assertEqual((answer.status, answer.body["reason"]), (503, "CertificateExpired"))
            self.assertEqual(webhook.client.request("/readyz").status, 200)
            self.assertEqual(webhook.client.request("/healthz").status, 200)
            self.assertEqual(webhook.client.lookup("192.168.1.7").status, 200)
            self.assertIn("patch", webhook.review())

    def test_what_it_cannot_start_with(self) -> None:
        certificate, key = self.pair.settings().values()
        other = str(self.authority.issue("other").key)
        encrypted = str(self.authority.folder / "encrypted.key")
        self.authority.openssl("ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", encrypted)
        none = str(self.authority.folder / "none")
        cases = [
            ({"TLS_CERT_FILE": certificate}, "of TLS_CERT_FILE and TLS_KEY_FILE, only one is set"),
            ({"TLS_KEY_FILE": key}, "of TLS_CERT_FILE and TLS_KEY_FILE, only one is set"),
            ({"TLS_CERT_FILE": none, "TLS_KEY_FILE": key}, f"{none}: No such file"),
            ({"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": none}, f"{none}: No such file"),
            ({"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": other}, "key values mismatch"),
            ({"TLS_CERT_FILE": key, "TLS_KEY_FILE": key}, f"{key} and {key}: "),
            (
                {"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": encrypted},
                f"{certificate} and {encrypted}: ",
            ),
        ]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            settings = {"HOST": "127.0.0.1", "TLS_PORT": port} | self.pair.settings()
            cases.append((settings, f"cannot listen on HOST '127.0.0.1', TLS_PORT {port}: "))
            found = refusals([environment for environment, _ in cases])
        for (environment, expected), lines in zip(cases, found, strict=True):
            with self.subTest(environment):
                self.assertEqual(len(lines), 1, lines)
                self.assertIn(expected, lines[0])

    def test_a_port_that_is_open_to_all_names_is_a_warning(self) -> None:
        for domains, number in (("", 1), ("example.com", 0)):
            settings = self.pair.settings() | {"TLS_PORT": "0", "ALLOWED_DOMAINS": domains}
            with self.subTest(domains), serving(HOST="127.0.0.1", **settings) as server:
                warnings = [each for each in server.log() if "ALLOWED_DOMAINS is empty" in each]
                self.assertEqual(len(warnings), number)

    def test_the_process_serves_both_ports(self) -> None:
        with serving(HOST="127.0.0.1", TLS_PORT="0", **self.pair.settings()) as server:
            self.assertEqual(server.lookup("192.168.1.7").status, 200)
            (port,) = re.findall(r"port (\d+) for reviews$", "\n".join(server.log()), re.MULTILINE)
            answer = HTTPSConnection(
                "127.0.0.1", int(port), timeout=DEADLINE, context=self.authority.client()
            )
            with closing(answer):
                answer.request("POST", "/mutate", review(), {"Content-Type": "application/json"})
                self.assertIn("patch", response_in(answer.getresponse().read()))
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)


def scraped(certificate: Certificate) -> str:
    return render(certificate.metrics()).decode()


# --- TLS without a socket -----------------------------------------------------------------------


class ChannelTest(WebhookTest):
    def channels(self) -> tuple[Channel, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
        certificate = Certificate(*self.pair.settings().values())
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        return Channel(certificate.context), client, incoming, outgoing

    def shake_hands(
        self, step: int = 65536
    ) -> tuple[Channel, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
        channel, client, incoming, outgoing = self.channels()
        while not channel.is_open:
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            while outgoing.pending:
                self.assertEqual(channel.decrypt(outgoing.read(step)), b"")
            incoming.write(channel.pending())
        return channel, client, incoming, outgoing

    def test_bytes_may_come_in_any_pieces(self) -> None:
        for step in (1, 7, 65536):
            with self.subTest(step):
                channel, client, _, outgoing = self.shake_hands(step)
                for message in (b"a", b"b" * 50_000):
                    client.write(message)
                    said = b""
                    while outgoing.pending:
                        said += channel.decrypt(outgoing.read(step))
                    self.assertEqual(said, message)

    def test_what_is_encrypted_is_all_of_it(self) -> None:
        channel, client, incoming, _ = self.shake_hands()
        message = random.Random(1).randbytes(300_000)
        incoming.write(channel.encrypt(message))
        said = b""
        while len(said) < len(message):
            said += client.read(65536)
        self.assertEqual(said, message)

    def test_both_ends(self) -> None:
        channel, client, incoming, outgoing = self.shake_hands()
        with suppress(ssl.SSLWantReadError):
            client.unwrap()
        self.assertEqual((channel.decrypt(outgoing.read()), channel.has_ended), (b"", True))
        incoming.write(channel.encrypt(b"last") + channel.end())
        self.assertEqual(client.read(), b"last")
        self.assertRaises(ssl.SSLZeroReturnError, client.read)

    def test_the_end_before_the_beginning(self) -> None:
        channel, *_ = self.channels()
        self.assertEqual(channel.end(), b"")

    def test_what_is_no_tls(self) -> None:
        channel, *_ = self.channels()
        with self.assertRaises(ssl.SSLError):
            channel.decrypt(b"GET / HTTP/1.1\r\n\r\n")

    def test_a_client_cannot_have_us_begin_anew(self) -> None:
        """With TLS 1.2, each time would cost us far more than it."""
        self.assertTrue(self.channels()[0]._tls.context.options & ssl.OP_NO_RENEGOTIATION)


if __name__ == "__main__":
    unittest.main()
