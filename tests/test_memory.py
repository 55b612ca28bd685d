"""What clients can make a real process take: little, whatever they send, all of them together."""

from __future__ import annotations

import re
import socket
import ssl
import tempfile
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from common.names import ANNOTATION
from tests.certificates import AVAILABLE, WHY_NOT, Authority
from tests.support import DEADLINE
from tests.test_admission import pod, review_of
from tests.test_process import STUCK, Server, serving
from tests.test_webhook import head, post
from webhook.admission import MAX_REVIEW, MAX_VALUES

# Clients at once, all of which do the same. What is done with one after another takes time.
CLIENTS = 32

# Megabytes: half of what a container of the service may take.
MOST = 128

# What is sent without end, and how often: by all of them together half a gigabyte.
JUNK = bytes(256 * 1024)
TIMES = 64

LOOKUP = b"GET /lookup?fqdn=silent.test HTTP/1.1\r\nHost: x\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
JSON = "Content-Type: application/json"


class Ports(NamedTuple):
    """How a client connects to a server."""

    plain: Callable[[], socket.socket]
    secure: Callable[[], ssl.SSLSocket]


def go_on(connection: socket.socket, data: bytes = JUNK) -> None:
    """Sends it again and again, below TLS if there is any, until the server has had enough."""
    connection.settimeout(1)
    with suppress(OSError):
        for _ in range(TIMES):
            socket.socket.sendall(connection, data)


def talk_after_the_end(ports: Ports) -> None:
    """Has DNS waited for, says that nothing more will come, and goes on."""
    with ports.secure() as connection:
        connection.sendall(post(review("silent.test"), target="/mutate?timeout=30s"))
        connection.settimeout(0)
        with suppress(OSError):
            connection.unwrap()
        go_on(connection)


def name_at_length(ports: Ports) -> None:
    """Reviews whose names are as long as a review may be."""
    names = "silent.test," + "a" * (MAX_REVIEW - 1000)
    exchange(ports, post(review(names), target="/mutate?timeout=30s"))


def annotate_at_length(ports: Ports) -> None:
    """Reviews that wait for DNS, of Pods as large as a review may be."""
    large = pod(annotations={ANNOTATION: "silent.test", "x": "x" * (MAX_REVIEW - 1000)})
    exchange(ports, post(review_of(large), target="/mutate?timeout=30s"))


def cost_the_most(ports: Ports) -> None:
    """Reviews with as many values as there may be, and a text that takes four bytes a character."""
    deep = b'{"a":' * 800 + b"0" + b"}" * 800
    start = b"[" + b",".join([deep] * (MAX_VALUES // 801)) + b',"\xf0\x9f\x98\x80'
    exchange(ports, post(start + b"a" * (MAX_REVIEW - len(start) - 2) + b'"]'))


def exchange(ports: Ports, request: bytes) -> None:
    """Sends it, and waits for the answer, but not for as long as DNS may take."""
    with ports.secure() as connection, suppress(OSError):
        connection.sendall(request)
        connection.settimeout(1)
        connection.recv(65536)


def leave_open(ports: Ports) -> None:
    """Bodies that are never complete."""
    with ports.secure() as connection, suppress(OSError):
        connection.sendall(head(JSON, f"Content-Length: {MAX_REVIEW}") + bytes(MAX_REVIEW - 1))
        connection.settimeout(1)
        connection.recv(65536)


def talk_meanwhile(ports: Ports) -> None:
    """Has DNS waited for, and goes on."""
    with ports.plain() as connection:
        connection.sendall(LOOKUP)
        go_on(connection)


def send_bodies(ports: Ports) -> None:
    """Sends bodies where none are taken."""
    with ports.plain() as connection:
        connection.sendall(LOOKUP[:-2] + b"Content-Length: 999999999\r\n\r\n")
        go_on(connection)


def never_read(ports: Ports) -> None:
    """Asks for ever more answers without reading any."""
    with ports.plain() as connection:
        go_on(connection, METRICS * 5000)


def review(names: str) -> bytes:
    return review_of(pod(annotations={ANNOTATION: names}))


# What is done, and by how many at once.
DOINGS = {
    talk_meanwhile: CLIENTS,
    send_bodies: CLIENTS,
    never_read: CLIENTS,
    talk_after_the_end: CLIENTS,
    leave_open: CLIENTS,
    name_at_length: CLIENTS,
    annotate_at_length: CLIENTS,
    cost_the_most: 4,
}


@unittest.skipUnless(Path("/proc/self/status").exists(), "the system does not tell of memory")
@unittest.skipUnless(AVAILABLE, WHY_NOT)
class MemoryTest(unittest.TestCase):
    authority: Authority

    @classmethod
    def setUpClass(cls) -> None:
        cls.authority = Authority(Path(cls.enterClassContext(tempfile.TemporaryDirectory())))

    @contextmanager
    def serving(self) -> Iterator[tuple[Server, Ports]]:
        """A server whose DNS is silent, and waited for as long as may be set; all else by default."""
        context = self.authority.client()
        files = self.authority.issue("webhook").settings()
        settings = {"HOST": "127.0.0.1", "TLS_PORT": "0", "DNS_TIMEOUT": "10", **files}
        with serving(STUCK, **settings) as server:
            (port,) = re.findall(r"port (\d+) for reviews$", "\n".join(server.log()), re.MULTILINE)

            def secure() -> ssl.SSLSocket:
                plain = socket.create_connection(("127.0.0.1", int(port)), timeout=DEADLINE)
                return context.wrap_socket(plain, server_hostname="localhost")

            yield server, Ports(server.connect, secure)

    def test_whatever_they_do(self) -> None:
        with self.serving() as (server, ports), ThreadPoolExecutor(CLIENTS) as clients:
            for do, number in DOINGS.items():
                with self.subTest(do.__name__):
                    list(clients.map(do, [ports] * number))
                    self.assertEqual(server.request("/healthz").status, 200)
                    self.assertLess(peak(server), MOST)


def peak(server: Server) -> float:
    """The most memory that the process has had so far, in megabytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    unittest.main()
