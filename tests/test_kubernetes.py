"""The client for the Kubernetes API, against a stand-in with pages, faults and certificates."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from unittest import mock

from common import kubernetes
from common.kubernetes import Client, KubernetesError, Refused, Unreachable, exchange, parse_url
from tests.api_server import (
    ApiServer,
    Fault,
    Reply,
    api_server,
    break_off,
    break_off_halfway,
    refusal,
)
from tests.support import DEADLINE

PODS = "/api/v1/pods"
MAP = "/api/v1/namespaces/n/configmaps/table"

GOOD_URLS = [
    "http://127.0.0.1:8001",
    "http://localhost:8001/",
    "https://[fd00::1]:443",
    "https://example.com/clusters/c1",
]

BAD_URLS = [
    "",
    "localhost:8001",
    "//localhost:8001",
    "ftp://localhost",
    "http://",
    "http://:8001",
    "http://localhost:0",
    "http://localhost:70000",
    "http://localhost:port",
    "http://user@localhost",
    "http://localhost?x=1",
    "http://localhost#x",
    "http://" + "a" * 64 + ".example",
]

# environment, and what the complaint must name
BAD_ENVIRONMENTS: list[tuple[dict[str, str], str]] = [
    ({}, "KUBERNETES_URL"),
    ({"KUBERNETES_URL": "localhost"}, "URL"),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "https"}, ""),
]

# answers that nobody can understand
NONSENSE: list[Reply | Fault] = [
    break_off,
    break_off_halfway,
    Reply(200, b""),
    Reply(200, b"<html>"),
    Reply(200, b"[]"),
    Reply(200, b"\xff"),
    Reply(200, b"[" * 100_000),
    lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n"),
    lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n"),
]

# an error, its status, its reason, and a part of the message
REFUSALS: list[tuple[Reply, int, str, str]] = [
    (refusal(403, "Forbidden", "pods is forbidden"), 403, "Forbidden", "pods is forbidden"),
    (refusal(429, "TooManyRequests", "budget"), 429, "TooManyRequests", "budget"),
    (refusal(500), 500, "", "no"),
    (Reply(503, b"no healthy upstream"), 503, "", "HTTP status 503"),
    (Reply(502, []), 502, "", "HTTP status 502"),
    (Reply(302, {}), 302, "", "HTTP status 302"),
    (Reply(404, {"message": None, "reason": None}), 404, "", "HTTP status 404"),
]


def client(server: ApiServer, account: Path | None = None) -> Client:
    return Client(parse_url(server.url), account)


def name(item: dict[str, Any]) -> str:
    result: str = item["name"]
    return result


def send(data: bytes, connection: socket.socket) -> None:
    connection.sendall(data)


def dawdle(head: bytes, done: threading.Event, connection: socket.socket) -> None:
    connection.sendall(head)
    while not done.wait(0.02):
        connection.sendall(b"x")


class UrlTest(unittest.TestCase):
    def test_good_ones(self) -> None:
        for url in GOOD_URLS:
            self.assertEqual(parse_url(url).geturl(), url)

    def test_bad_ones(self) -> None:
        for url in BAD_URLS:
            with self.subTest(url), self.assertRaises(ValueError):
                parse_url(url)

    def test_the_environment_of_a_pod(self) -> None:
        for host, expected in (("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")):
            found = Client.from_environment(
                {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}
            )
            self.assertEqual(found.url.geturl(), f"https://{expected}:6443")
            self.assertEqual(found.account, kubernetes.SERVICE_ACCOUNT)

    def test_a_proxy_gets_no_token(self) -> None:
        environment = {"KUBERNETES_URL": "http://localhost:1", "KUBERNETES_SERVICE_HOST": "x"}
        self.assertIsNone(Client.from_environment(environment).account)

    def test_bad_environments(self) -> None:
        for environment, named in BAD_ENVIRONMENTS:
            with self.subTest(environment), self.assertRaisesRegex(ValueError, named):
                Client.from_environment(environment)


class CallTest(unittest.TestCase):
    def test_a_call(self) -> None:
        with api_server() as server:
            api = Client(parse_url(f"{server.url}/prefix/"), agent="test")
            server.objects["/prefix/x"] = {"kind": "X"}
            self.assertEqual(api.get("/x", limit=5, labelSelector="a in (b, c),d"), {"kind": "X"})
            self.assertEqual(api.create("/y", {"kind": "Y"}), {"kind": "Y"})
        get, post = server.requests
        self.assertEqual(get.query, {"limit": "5", "labelSelector": "a in (b, c),d"})
        self.assertEqual((get.headers["User-Agent"], get.body), ("test", None))
        self.assertEqual(post.headers["Content-Type"], "application/json")
        self.assertEqual((post.path, post.body), ("/prefix/y", {"kind": "Y"}))
        self.assertNotIn("Authorization", get.headers)

    def test_refusals(self) -> None:
        with api_server() as server:
            for reply, status, reason, message in REFUSALS:
                server.faults["GET /x"] = [reply]
                with self.subTest(reply), self.assertRaisesRegex(Refused, message) as caught:
                    client(server).get("/x")
                self.assertEqual(
                    (caught.exception.status, caught.exception.reason), (status, reason)
                )
                self.assertIn("GET /x", str(caught.exception))

    def test_nonsense(self) -> None:
        with api_server() as server:
            for number, reply in enumerate(NONSENSE):
                server.faults["GET /x"] = [reply]
                with self.subTest(number), self.assertRaisesRegex(Unreachable, "GET /x: ."):
                    client(server).get("/x")

    def test_a_connection_lost_in_the_middle_of_an_answer(self) -> None:
        for head in (b"Content-Length: 9", b"Transfer-Encoding: chunked"):
            with self.subTest(head), api_server() as server:
                reply = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n2\r\n{}"
                server.faults["GET /x"] = [partial(send, reply)]
                with self.assertRaises(HTTPException):
                    exchange(parse_url(server.url), "/x")

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with self.assertRaisesRegex(Unreachable, "refused"):
            Client(parse_url(f"http://127.0.0.1:{port}")).get("/x")

    def test_an_answer_without_end(self) -> None:
        self.enterContext(mock.patch.object(kubernetes, "MAX_RESPONSE", 5000))
        chunks = 100 * (b"64\r\n" + 100 * b"x" + b"\r\n")
        for field in (b"Content-Length: 10000", b"Transfer-Encoding: chunked", b"X: close"):
            reply = partial(send, b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n" + chunks)
            with self.subTest(field), api_server() as server:
                server.faults["GET /x"] = [reply]
                with self.assertRaisesRegex(Unreachable, "5000 bytes"):
                    client(server).get("/x")

    def test_a_server_that_dawdles(self) -> None:
        """It always sends another byte before a socket's own timeout would be over."""
        status = b"HTTP/1.1 200 OK\r\n"
        for head in (b"", status + b"X: ", status + b"Content-Length: 999999\r\n\r\n"):
            with self.subTest(head), api_server() as server:
                done = threading.Event()
                server.faults["GET /x"] = [partial(dawdle, head, done)]
                try:
                    with self.assertRaisesRegex(TimeoutError, "timed out"):
                        exchange(parse_url(server.url), "/x", timeout=0.3)
                finally:
                    done.set()


class CollectTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = self.enterContext(api_server())
        self.enterContext(mock.patch.object(kubernetes, "PAGE", 10))
        self.server.lists[PODS] = [{"name": str(n)} for n in range(35)]
        self.names = [str(n) for n in range(35)]

    def test_all_pages(self) -> None:
        self.assertEqual(client(self.server).collect(PODS, name, labelSelector="a"), self.names)
        queries = [each.query for each in self.server.requests]
        self.assertEqual([each.get("continue") for each in queries], [None, "10", "20", "30"])
        self.assertEqual({each["labelSelector"] for each in queries}, {"a"})

    def test_what_is_not_kept(self) -> None:
        kept = client(self.server).collect(PODS, lambda item: item["name"] == "7" or None)
        self.assertEqual(kept, [True])

    def test_an_empty_list(self) -> None:
        bodies: list[dict[str, Any]] = [{"items": []}, {"items": None}, {}]
        for body in bodies:
            self.server.faults[f"GET {PODS}"] = [Reply(200, body)]
            self.assertEqual(client(self.server).collect(PODS, name), [])

    def test_a_list_that_expires_is_begun_anew(self) -> None:
        self.expire(times=2)
        self.assertEqual(client(self.server).collect(PODS, name), self.names)
        self.assertEqual(len(self.server.requests), 2 + 2 + 4)

    def expire(self, times: int) -> None:
        """Each second request for a page is answered with 410, for so many times."""
        first = Reply(200, {"items": [{"name": "old"}], "metadata": {"continue": "10"}})
        self.server.faults[f"GET {PODS}"] = [first, refusal(410, "Expired")] * times

    def test_a_list_that_always_expires(self) -> None:
        self.expire(times=kubernetes.ATTEMPTS)
        with self.assertRaises(Refused):
            client(self.server).collect(PODS, name)
        self.assertEqual(self.server.faults[f"GET {PODS}"], [])

    def test_a_fault_between_two_pages(self) -> None:
        for fault in (refusal(500), refusal(403), break_off):
            self.server.faults[f"GET {PODS}"] = [
                Reply(200, {"metadata": {"continue": "10"}}),
                fault,
            ]
            with self.subTest(fault), self.assertRaises(KubernetesError):
                client(self.server).collect(PODS, name)

    def test_a_list_without_end(self) -> None:
        endless = Reply(200, {"items": [], "metadata": {"continue": "1"}})
        self.server.faults[f"GET {PODS}"] = [endless] * 5
        self.enterContext(mock.patch.object(kubernetes, "MAX_PAGES", 5))
        with self.assertRaisesRegex(Unreachable, "more than 5 pages"):
            client(self.server).collect(PODS, name)


class UpdateTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = self.enterContext(api_server())
        self.server.objects[MAP] = {"data": {"a": "1"}, "metadata": {"resourceVersion": "7"}}

    def update(self, key: str = "b") -> bool:
        return client(self.server).update(
            MAP, lambda old: {**old, "data": {**old["data"], key: ""}}
        )

    def test_a_change(self) -> None:
        self.assertTrue(self.update())
        self.assertEqual(self.server.objects[MAP]["data"], {"a": "1", "b": ""})
        (put,) = self.server.asked("PUT")
        self.assertEqual(put.body["metadata"]["resourceVersion"], "7")

    def test_no_change(self) -> None:
        self.assertFalse(client(self.server).update(MAP, lambda _old: None))
        self.assertEqual(self.server.asked("PUT"), [])

    def test_a_conflict_is_tried_again_with_what_is_there_now(self) -> None:
        """Somebody else writes between reading and writing."""

        def change(old: dict[str, Any]) -> dict[str, Any]:
            read.append(old["data"])
            self.server.objects[MAP] = {"data": {"theirs": ""}}
            return {"data": {**old["data"], "ours": ""}}

        read: list[dict[str, str]] = []
        self.server.faults[f"PUT {MAP}"] = [refusal(409, "Conflict")]
        self.assertTrue(client(self.server).update(MAP, change))
        self.assertEqual(read, [{"a": "1"}, {"theirs": ""}])
        self.assertEqual(self.server.objects[MAP]["data"], {"theirs": "", "ours": ""})

    def test_conflicts_without_end(self) -> None:
        self.server.faults[f"PUT {MAP}"] = [refusal(409, "Conflict")] * kubernetes.ATTEMPTS
        with self.assertRaisesRegex(Refused, "no"):
            self.update()
        self.assertEqual(len(self.server.asked("PUT")), kubernetes.ATTEMPTS)

    def test_faults(self) -> None:
        for method in ("GET", "PUT"):
            for fault in (refusal(403, "Forbidden"), refusal(404), break_off, break_off_halfway):
                self.server.faults[f"{method} {MAP}"] = [fault]
                with self.subTest(method, fault=fault), self.assertRaises(KubernetesError):
                    self.update()
        self.assertEqual(self.server.objects[MAP]["data"], {"a": "1"})


class TokenTest(unittest.TestCase):
    """With a token, but without certificates: those have a test of their own."""

    def setUp(self) -> None:
        self.server = self.enterContext(api_server())
        self.server.objects["/x"] = {"kind": "X"}
        self.account = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(Client, "_context", return_value=None))
        self.api = client(self.server, self.account)

    def renew(self, token: str) -> None:
        (self.account / "token").write_text(f"{token}\n")

    def test_it_is_read_anew_for_every_call(self) -> None:
        for token in ("one", "two"):
            self.renew(token)
            self.server.tokens = {token}
            self.assertEqual(self.api.get("/x"), {"kind": "X"})
        self.assertEqual(len(self.server.requests), 2)

    def test_one_that_was_renewed_just_now(self) -> None:
        """The API server does not take the old one any more: the new one is sent."""
        self.renew("old")
        self.server.tokens = {"new"}
        reply = self.server.reply

        def renewing(request: Any) -> Any:
            result = reply(request)
            self.renew("new")
            return result

        with mock.patch.object(self.server, "reply", renewing):
            self.assertEqual(self.api.get("/x"), {"kind": "X"})
        sent = [each.headers["Authorization"] for each in self.server.requests]
        self.assertEqual(sent, ["Bearer old", "Bearer new"])

    def test_one_that_is_not_good(self) -> None:
        self.renew("bad")
        self.server.tokens = {"good"}
        with self.assertRaises(Refused) as caught:
            self.api.get("/x")
        self.assertEqual(caught.exception.status, 401)
        self.assertEqual(len(self.server.requests), 2)

    def test_no_token(self) -> None:
        with self.assertRaisesRegex(Unreachable, "token"):
            self.api.get("/x")

    def test_without_an_account_401_is_final(self) -> None:
        self.server.tokens = {"good"}
        with self.assertRaises(Refused):
            client(self.server).get("/x")
        self.assertEqual(len(self.server.requests), 1)


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=DEADLINE
    )


def certificates(folder: Path, subject: str = "IP:127.0.0.1") -> None:
    """A CA and a server's certificate as many clusters have them: without key identifiers."""
    plain = "[plain]\nbasicConstraints=critical,CA:{ca}\n{more}"
    (folder / "ca.cnf").write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=plain\n[dn]\n"
        + plain.format(ca="TRUE", more="")
    )
    (folder / "leaf.cnf").write_text(plain.format(ca="FALSE", more=f"subjectAltName={subject}\n"))
    key = ("-newkey", "rsa:2048", "-nodes", "-sha256")
    _openssl(folder, "req", *key, "-x509", "-config", "ca.cnf", "-subj", "/CN=ca", "-days", "2",
             "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
    _openssl(folder, "req", *key, "-config", "ca.cnf", "-subj", "/CN=api", "-keyout", "api.key",
             "-out", "api.csr")  # fmt: skip
    _openssl(folder, "x509", "-req", "-in", "api.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days",
             "2", "-set_serial", "2", "-extfile", "leaf.cnf", "-extensions", "plain",
             "-out", "api.crt")  # fmt: skip


@unittest.skipUnless(shutil.which("openssl"), "the openssl command is not on PATH")
class CertificateTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "token").write_text("good")

    @contextmanager
    def serving(self, subject: str = "IP:127.0.0.1") -> Iterator[ApiServer]:
        certificates(self.folder, subject)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "api.crt", self.folder / "api.key")
        with api_server(context) as server:
            server.objects["/x"] = {"kind": "X"}
            server.tokens = {"good"}
            yield server

    def test_a_cluster_s_own_ca(self) -> None:
        with self.serving() as server:
            self.assertEqual(client(server, self.folder).get("/x"), {"kind": "X"})

    def test_another_s_ca(self) -> None:
        with self.serving() as server:
            certificates(self.folder)
            self.assert_distrusted(server)

    def test_a_certificate_for_another_host(self) -> None:
        with self.serving("IP:127.0.0.2") as server:
            self.assert_distrusted(server)

    def assert_distrusted(self, server: ApiServer) -> None:
        with self.assertRaisesRegex(Unreachable, "(?i)certificate"):
            client(server, self.folder).get("/x")
        self.assertEqual(server.requests, [])  # and so no token was shown

    def test_no_ca(self) -> None:
        with self.serving() as server:
            (self.folder / "ca.crt").unlink()
            with self.assertRaises(Unreachable):
                client(server, self.folder).get("/x")


if __name__ == "__main__":
    unittest.main()
