"""Whatever a client sends and however it leaves, the service answers by its rules and goes on."""

from __future__ import annotations

import io
import logging
import random
import re
import socket
import struct
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress

from common.metrics import CONTENT_TYPE
from common.request import MAX_HEAD
from tests.support import Client, fake_dns, running, wait_until

SEED = 20240229
ROUNDS = 1000

TYPES = {"application/json", CONTENT_TYPE}
STATUSES = {200, 400, 404, 405, 502, 503, 504}

ANSWERS: dict[str, list[str] | Exception] = {
    "db": ["192.168.0.1"],
    "two": ["192.168.0.1", "192.168.32.1"],
    "far": ["10.9.9.9"],
    "broken": socket.gaierror(socket.EAI_FAIL, "failed"),
    "silent": ["192.168.0.1"],
}

# Other requests are made of these.
REQUESTS = [
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /readyz HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    b"HEAD /lookup?fqdn=192.168.1.7 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /lookup?fqdn=db.test,far.test HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n",
    b"GET /lookup?fqdn=two.test HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /lookup?fqdn=broken.test HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /lookup?fqdn=silent.test HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /lookup?fqdn=%64b.test&fqdn=x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /lookup?fqdn=2001:db8::1,[2001:db8::2] HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nfqdn=db",
    b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]

# Pieces that matter to a parser of requests, of queries or of names.
PIECES = [b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b":", b"%", b"%00", b"%0d%0a", b"%ff"]
PIECES += [
    b"&",
    b"=",
    b",",
    b".",
    b"?",
    b"[",
    b"]",
    b"::",
    b"%25eth0",
    b"fqdn=",
    b"HTTP/1.1",
    b"\xff",
    b"Content-Length: 3\r\n",
]

LINE = r"^\S+ INFO lookup ['\"].* (address=\S+ zone=\S+|reason=[A-Za-z]+) ms=[0-9.]+$"


class Fuzz:
    """A client without manners, which behaves the same way each time."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def data(self) -> bytes:
        """Something to send."""
        kinds: list[Callable[[], bytes]] = [
            self.noise,
            self.truncated,
            self.oversized,
            self.query,
            self.mutated,
            self.pipelined,
        ]
        return self.chance.choice(kinds)()

    def noise(self) -> bytes:
        return self.chance.randbytes(self.chance.randrange(200))

    def truncated(self) -> bytes:
        request = self.chance.choice(REQUESTS)
        return request[: self.chance.randrange(len(request))]

    def oversized(self) -> bytes:
        request = self.chance.choice(REQUESTS)
        place = self.chance.randrange(len(request))
        return request[:place] + self.chance.randbytes(1) * 2 * MAX_HEAD + request[place:]

    def query(self) -> bytes:
        pieces = [self.chance.choice([*PIECES, self.escaped()]) for _ in range(6)]
        junk = re.sub(rb"[^!-~]", b"", b"".join(pieces))
        return b"GET /lookup?fqdn=" + junk + b" HTTP/1.1\r\nHost: x\r\n\r\n"

    def escaped(self) -> bytes:
        return b"".join(b"%%%02x" % byte for byte in self.chance.randbytes(4))

    def mutated(self) -> bytes:
        request = self.chance.choice(REQUESTS)
        for _ in range(self.chance.randrange(1, 4)):
            place = self.chance.randrange(len(request))
            rest = request[place + self.chance.randrange(3) :]
            request = request[:place] + self.chance.choice(PIECES) + rest
        return request

    def pipelined(self) -> bytes:
        return b"".join(self.chance.choices(REQUESTS[:-2], k=10)) + self.mutated()

    def send(self, connection: socket.socket) -> None:
        """Sends something in one piece or in several."""
        data = self.data()
        place = self.chance.randrange(len(data) + 1)
        for piece in (data[:place], data[place:]):
            connection.sendall(piece)

    def leave(self, connection: socket.socket) -> None:
        """Closes the connection in the one way or in the other."""
        if self.chance.random() < 0.5:
            abort = struct.pack("ii", 1, 0)  # close() then sends a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
        connection.close()


@contextmanager
def log_at(level: int) -> Iterator[io.StringIO]:
    """All that is written to standard error, with what is logged from this level on."""
    before = logging.root.level
    logging.root.setLevel(level)
    try:
        with redirect_stderr(io.StringIO()) as stderr:
            yield stderr
    finally:
        logging.root.setLevel(before)


class FuzzTest(unittest.TestCase):
    def setUp(self) -> None:
        self.fuzz = Fuzz(random.Random(SEED))

    @contextmanager
    def unharmed(self) -> Iterator[Client]:
        """A server that is to be as good as new in the end, and whose log has only lookups."""
        with (
            self.assertNoLogs(level="WARNING"),
            log_at(logging.INFO) as stderr,
            fake_dns(**ANSWERS) as dns,
            running(DNS_TIMEOUT="0.01") as client,
        ):
            dns.silent = {"silent.test"}
            yield client
            wait_until(lambda: not client.connections)
            self.assertEqual(client.request("/healthz").status, 200)
            wait_until(lambda: client.lookup("db.test").status == 200)
        for line in stderr.getvalue().splitlines():
            self.assertRegex(line, LINE)

    def test_every_answer_is_of_the_table(self) -> None:
        seen = set()
        with self.unharmed() as client:
            for _ in range(ROUNDS):
                data = self.fuzz.data()
                with self.subTest(data):
                    for answer in client.answers(data):
                        seen.add(answer.status)
                        self.assertIn(answer.status, STATUSES)
                        self.assertIn(answer.headers["Content-Type"], TYPES)
        self.assertGreaterEqual(seen, {200, 400, 404, 405, 502, 504})

    def test_who_leaves_early_takes_nothing_along(self) -> None:
        with self.unharmed() as client:
            for _ in range(ROUNDS):
                with suppress(ConnectionError), client.connect() as connection:
                    self.fuzz.send(connection)
                    self.fuzz.leave(connection)


if __name__ == "__main__":
    unittest.main()
