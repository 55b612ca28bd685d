"""What must not hurt: DNS that is silent, clients that are, names and requests without end."""

from __future__ import annotations

import resource
import socket
import threading
import unittest
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPConnection

from common import connection
from lookup import resolver
from tests.support import (
    DEADLINE,
    Client,
    FakeDNS,
    Response,
    fake_dns,
    read_all,
    responses,
    running,
    wait_until,
)

HERE = ["192.168.0.1"]


def lookup(name: str) -> bytes:
    """A lookup as it is sent."""
    return f"GET /lookup?fqdn={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@contextmanager
def waiting(client: Client, dns: FakeDNS, *names: str) -> Iterator[list[socket.socket]]:
    """Lookups of names that DNS is asked for and says nothing of, each on its connection."""
    dns.silent |= set(names)
    asked = Counter(dns.asked)
    with ExitStack() as stack:
        opened = [stack.enter_context(client.connect()) for _ in names]
        for connection, name in zip(opened, names, strict=True):
            connection.sendall(lookup(name))
        wait_until(lambda: all(dns.asked.count(name) > asked[name] for name in names))
        yield opened


def answer_on(connection: socket.socket) -> Response:
    """The only answer on this connection."""
    connection.shutdown(socket.SHUT_WR)
    (answer,) = responses(read_all(connection))
    return answer


def is_fresh(answer: Response) -> bool:
    """Whether the lookup was answered, and not with an old answer."""
    return answer.status == 200 and "stale" not in answer.body


class SilentDNSTest(unittest.TestCase):
    def assert_answer(self, response: Response, *, stale: bool = False) -> None:
        self.assertEqual((response.status, response.body.get("stale", False)), (200, stale))
        self.assertEqual(response.body["zone"], "eu-central-1b")

    def assert_refused(self, response: Response, status: int, reason: str) -> None:
        self.assertEqual((response.status, response.body["reason"]), (status, reason))

    def test_names_without_an_answer_hold_up_nothing_else(self) -> None:
        names = [f"silent{number}.test" for number in range(100)]
        with (
            fake_dns(db=HERE) as dns,
            running(DNS_TIMEOUT="10", DNS_CACHE_TTL="0") as client,
            waiting(client, dns, *names) as opened,
        ):
            for target in ("/healthz", "/readyz", "/metrics", "/lookup?fqdn=192.168.1.7"):
                self.assertEqual(client.request(target).status, 200)
            self.assert_answer(client.lookup("db.test"))
            self.assertEqual(client.metric("dns_queries"), len(names))
            dns.speak()
            statuses = [answer_on(connection).status for connection in opened]
        self.assertEqual(statuses, [404] * len(names))

    def test_known_names_are_answered_until_dns_is_back(self) -> None:
        with (
            fake_dns(db=HERE, new=HERE) as dns,
            running(DNS_TIMEOUT="0.1", DNS_CACHE_TTL="0") as client,
        ):
            wait_until(lambda: is_fresh(client.lookup("db.test")))
            asked = len(dns.asked)
            dns.silent = {"db.test", "new.test"}
            for _ in range(3):  # the first one waits, for a query that the others share
                self.assert_answer(client.lookup("db.test"), stale=True)
            self.assertEqual(dns.asked[asked:], ["db.test"])
            self.assert_refused(client.lookup("new.test"), 504, "ResolverTimeout")
            dns.speak()
            for name in ("db.test", "new.test"):
                wait_until(partial(lambda name: is_fresh(client.lookup(name)), name))

    def test_new_names_that_hang_leave_known_ones_as_they_are(self) -> None:
        names = [f"db{number}.svc.test" for number in range(600)]
        known = [f"known{number}.svc.test" for number in range(20)]
        with fake_dns() as dns, running(DNS_TIMEOUT="10", DNS_CACHE_TTL="0") as client:
            dns.answers = dict.fromkeys([*names, *known], HERE)
            for name in known:
                self.assert_answer(client.lookup(name))
            taken = resolver.MAX_QUERIES // 2
            with waiting(client, dns, *names[:taken]):
                self.assert_refused(client.lookup(names[501]), 503, "Overloaded")
                for name in known:
                    self.assert_answer(client.lookup(name))
                self.assertEqual(client.metric("dns_queries"), taken)
                dns.speak()
            wait_until(lambda: client.metric("dns_queries") == 0)
            self.assert_answer(client.lookup(names[501]))


class SilentClientsTest(unittest.TestCase):
    def setUp(self) -> None:
        """Room for both ends of each connection."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if resource.RLIM_INFINITY not in (soft, hard) and hard < 3000:
            self.skipTest(f"2,000 sockets do not fit into the limit of {hard} open files")
        if soft != resource.RLIM_INFINITY and soft < 3000:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3000, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def test_a_thousand_silent_connections_cost_no_lookup_and_are_closed(self) -> None:
        threads = threading.active_count()
        with (
            fake_dns(db=HERE),
            running(max_connections=2000, DNS_CACHE_TTL="0") as client,
            ExitStack() as stack,
        ):
            for number in range(1000):
                silent = stack.enter_context(client.connect())
                silent.sendall(b"G" * (number % 2))
            wait_until(lambda: len(client.connections) == 1000)
            for _ in range(50):
                self.assertEqual(client.lookup("db.test").status, 200)
            self.assertGreaterEqual(client.metric("open_connections"), 1000)
            wait_until(lambda: threading.active_count() <= threads + 1)  # the server's
            for each in client.connections:
                each.deadline -= connection.HEAD_TIMEOUT
            wait_until(lambda: not client.connections)


class GrowthTest(unittest.TestCase):
    def test_neither_names_nor_bad_requests_leave_anything_behind(self) -> None:
        number, size = 2000, 64
        lookups = b"".join(lookup(f"name{each}.test") for each in range(number))
        bad = b"".join(
            b"GET /x%d HTTP/1.1\r\nHost: x\r\nX-%d: x\r\n\r\n" % (each, each)
            for each in range(number)
        )
        with fake_dns() as dns, running(DNS_CACHE_MAXSIZE=str(size)) as client:
            dns.answers = {f"name{each}.test": HERE for each in range(number)}
            self.assertEqual(client.lookup("name0.test").status, 200)
            self.assertEqual(client.request("/x").status, 404)
            self.assertEqual(client.raw(b"bad0\r\n")[9:12], b"400")
            self.assertEqual(client.lookup("bad.test").status, 404)
            threads, samples = threading.active_count(), self.samples(client)
            self.assertEqual({each.status for each in client.answers(lookups)}, {200})
            self.assertEqual({each.status for each in client.answers(bad)}, {404})
            for each in range(200):
                client.raw(b"bad%d\r\n" % each)
            self.assertEqual(client.metric("dns_cache_names"), size)
            self.assertEqual(client.metric("dns_queries"), 0)
            self.assertEqual(self.samples(client), samples)
            wait_until(lambda: threading.active_count() <= threads)

    def test_of_a_long_name_only_the_beginning_is_kept(self) -> None:
        resolver._literal.cache_clear()
        with running() as client:
            for number in range(20):
                self.assertEqual(client.lookup("x" * 2000 + str(number)).status, 400)
        self.assertEqual(resolver._literal.cache_info().currsize, 1)

    def samples(self, client: Client) -> list[str]:
        """The metrics without their values, of which there must not be ever more."""
        client.request("/metrics")  # whose own sample is there from the second time on
        return [line.rpartition(" ")[0] for line in client.request("/metrics").body.splitlines()]


class Balanced:
    """A client of several instances: leaves one that says so, and one where nobody listens."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self.connection: HTTPConnection | None = None

    @property
    def port(self) -> int:
        """Of the instance it talks to."""
        return self.ports[0]

    def lookup(self, name: str) -> int:
        """The status of a lookup. Nothing is ever sent twice."""
        self.connection = self.connection or self._connect()
        self.connection.request("GET", f"/lookup?fqdn={name}")
        response = self.connection.getresponse()
        response.read()
        if response.headers["Connection"] == "close":
            self.ports.pop(0)
            self.close()
        return response.status

    def _connect(self) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.connect()
        except ConnectionRefusedError:
            self.ports.pop(0)
            return self._connect()
        return connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class RolloutTest(unittest.TestCase):
    def test_no_lookup_is_lost_while_one_of_two_instances_stops(self) -> None:
        over = threading.Event()

        def ask(client: Balanced) -> set[int]:
            with closing(client):
                statuses = set()
                while not over.is_set():
                    statuses.add(client.lookup("db.test"))
                return statuses

        with fake_dns(db=HERE, slow=HERE) as dns, running() as stays, ExitStack() as stack:
            leaves = stack.enter_context(running(SHUTDOWN_DELAY="60", DNS_TIMEOUT="10"))
            pool = stack.enter_context(ThreadPoolExecutor())
            stack.callback(over.set)
            clients = [Balanced(leaves.port, stays.port) for _ in range(4)]
            answers = [pool.submit(ask, each) for each in clients]
            wait_until(lambda: len(leaves.connections) == len(clients))
            with waiting(leaves, dns, "slow.test") as (slow,):
                leaves.stop()
                wait_until(lambda: {each.port for each in clients} == {stays.port})
                drained = pool.submit(leaves.drain)
                wait_until(leaves.is_refused)
                with closing(Balanced(leaves.port, stays.port)) as newcomer:
                    self.assertEqual(newcomer.lookup("db.test"), 200)
                dns.speak()
                self.assertEqual(answer_on(slow).status, 200)
                drained.result(DEADLINE)
            over.set()
            self.assertEqual([each.result() for each in answers], [{200}] * len(clients))


if __name__ == "__main__":
    unittest.main()
