"""The resolver's promises: deadlines, shared queries, a short memory, old answers in need."""

from __future__ import annotations

import socket
import threading
import unittest
from contextlib import ExitStack
from ipaddress import IPv4Address
from unittest import mock

from errors import Overloaded, ResolverFailure
from resolver import MUTE_PERIOD, MUTE_TIMEOUT, Resolver
from tests.support import Client, FakeDNS, Response, fake_dns, running, wait_until

AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

HERE, THERE = "192.168.0.1", "192.168.32.1"


class ResolverTest(unittest.TestCase):
    """Each test has a DNS that knows `db.test`, and starts a server with its own settings."""

    def setUp(self) -> None:
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.dns: FakeDNS = self.stack.enter_context(fake_dns(db=[HERE]))

    def start(self, **environment: str) -> Client:
        return self.stack.enter_context(running(**environment))  # type: ignore[arg-type]

    def assert_answer(self, response: Response, address: str, *, stale: bool = False) -> None:
        self.assertEqual(response.status, 200)
        self.assertEqual(response.body["address"], address)
        self.assertEqual(response.body.get("stale", False), stale)

    def assert_refused(self, response: Response, status: int, reason: str) -> None:
        self.assertEqual((response.status, response.body["reason"]), (status, reason))


class CacheTest(ResolverTest):
    def test_an_answer_is_kept(self) -> None:
        client = self.start()
        for name in ("db.test", "DB.test"):
            self.assert_answer(client.lookup(name), HERE)
        self.assertEqual(self.dns.asked, ["db.test"])
        self.assertEqual(client.metric("dns_cache_hits_total"), 1)

    def test_an_answer_is_kept_for_its_time_only(self) -> None:
        client = self.start(DNS_CACHE_TTL="0.05")
        self.assert_answer(client.lookup("db.test"), HERE)
        self.dns.answers["db.test"] = [THERE]
        wait_until(lambda: client.lookup("db.test").body["address"] == THERE)

    def test_a_time_of_0_keeps_nothing(self) -> None:
        client = self.start(DNS_CACHE_TTL="0")
        self.assert_answer(client.lookup("db.test"), HERE)
        self.dns.answers["db.test"] = [THERE]
        self.assert_answer(client.lookup("db.test"), THERE)

    def test_the_name_that_was_not_asked_for_the_longest_is_dropped(self) -> None:
        client = self.start(DNS_CACHE_MAXSIZE="2")
        self.dns.answers |= {"a.test": [HERE], "b.test": [HERE], "c.test": [HERE]}
        for name in ("a.test", "b.test", "a.test", "c.test", "a.test", "b.test"):
            self.assert_answer(client.lookup(name), HERE)
        self.assertEqual(self.dns.asked, ["a.test", "b.test", "c.test", "b.test"])
        self.assertEqual(client.metric("dns_cache_names"), 2)

    def test_a_size_of_0_keeps_nothing(self) -> None:
        client = self.start(DNS_CACHE_MAXSIZE="0")
        self.assert_answer(client.lookup("db.test"), HERE)
        self.dns.answers["db.test"] = AGAIN
        self.assert_refused(client.lookup("db.test"), 502, "ResolverFailure")

    def test_failures_are_not_kept(self) -> None:
        client = self.start()
        for failure in (AGAIN, GONE):
            with self.subTest(failure):
                self.dns.answers["new.test"] = failure
                self.assertNotEqual(client.lookup("new.test").status, 200)
        self.dns.answers["new.test"] = [HERE]
        self.assert_answer(client.lookup("new.test"), HERE)


class SharingTest(ResolverTest):
    def test_lookups_of_one_name_share_one_query(self) -> None:
        client = self.start()
        self.dns.silent.add("db.test")
        responses: list[Response] = []
        threads = [
            threading.Thread(target=lambda: responses.append(client.lookup("db.test")))
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.metric("open_connections") == 11)
        self.dns.speak()
        for thread in threads:
            thread.join()
        self.assertEqual(self.dns.asked, ["db.test"])
        for response in responses:
            self.assert_answer(response, HERE)


class DeadlineTest(ResolverTest):
    def test_a_name_that_is_not_answered_is_given_up(self) -> None:
        client = self.start(DNS_TIMEOUT="0.05")
        self.dns.silent.add("db.test")
        for _ in range(2):
            self.assert_refused(client.lookup("db.test"), 504, "ResolverTimeout")
        self.assertEqual(self.dns.asked, ["db.test"])

    def test_an_answer_that_comes_too_late_serves_the_next_lookup(self) -> None:
        client = self.start(DNS_TIMEOUT="0.05")
        self.dns.silent.add("db.test")
        self.assert_refused(client.lookup("db.test"), 504, "ResolverTimeout")
        self.dns.speak()
        wait_until(lambda: client.metric("dns_cache_names") == 1)
        self.assert_answer(client.lookup("db.test"), HERE)
        self.assertEqual(self.dns.asked, ["db.test"])


class StaleTest(ResolverTest):
    def start_with_an_old_answer(self, **environment: str) -> Client:
        client = self.start(DNS_CACHE_TTL="0", **environment)
        self.assert_answer(client.lookup("db.test"), HERE)
        return client

    def test_when_dns_fails_the_old_answer_is_used(self) -> None:
        client = self.start_with_an_old_answer()
        self.dns.answers["db.test"] = AGAIN
        for _ in range(2):
            self.assert_answer(client.lookup("db.test"), HERE, stale=True)
        self.assertEqual(client.metric("dns_stale_answers_total"), 2)
        with self.subTest("it is never used when a fresh one can be had"):
            self.dns.answers["db.test"] = [THERE]
            self.assert_answer(client.lookup("db.test"), THERE)

    def test_when_dns_is_silent_the_old_answer_is_used(self) -> None:
        client = self.start_with_an_old_answer(DNS_TIMEOUT="0.05")
        self.dns.silent.add("db.test")
        for _ in range(3):
            self.assert_answer(client.lookup("db.test"), HERE, stale=True)
        self.assertEqual(self.dns.asked, ["db.test"] * 2)

    def test_a_name_that_does_not_exist_any_more_is_not_found(self) -> None:
        client = self.start_with_an_old_answer()
        for answer in (GONE, AGAIN):
            self.dns.answers["db.test"] = answer
            with self.subTest(answer):
                self.assertNotEqual(client.lookup("db.test").status, 200)

    def test_the_old_answer_has_its_time(self) -> None:
        client = self.start_with_an_old_answer(DNS_STALE_TTL="0")
        self.dns.answers["db.test"] = AGAIN
        self.assert_refused(client.lookup("db.test"), 502, "ResolverFailure")


class PatienceTest(unittest.TestCase):
    """How long a lookup is made to wait, with a clock and a loop that the test holds."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.loop = mock.Mock()
        self.resolver = Resolver(
            self.loop, timeout=1.0, cache_ttl=0.0, cache_maxsize=9, stale_ttl=300.0
        )
        for target, replacement in (
            ("resolver.monotonic", lambda: self.now),
            ("threading.Thread.start", lambda _thread: None),
        ):
            patch = mock.patch(target, replacement)
            patch.start()
            self.addCleanup(patch.stop)
        self.resolver._keep("db.test", (IPv4Address(HERE),))

    def patience(self, name: str = "db.test") -> float:
        """For how long a lookup that comes now is made to wait at the most."""
        self.loop.reset_mock()
        self.resolver.resolve(name, mock.Mock())
        seconds, _ = self.loop.call_later.call_args.args
        return float(seconds)

    def test_only_the_first_lookup_waits_while_dns_is_silent(self) -> None:
        self.assertEqual(self.patience(), 1.0)
        self.now += 0.4
        self.assertAlmostEqual(self.patience(), 0.6)
        self.now += 5
        self.assertLessEqual(self.patience(), 0)

    def test_nor_does_the_next_one_when_the_query_has_failed_too_late(self) -> None:
        self.patience()
        self.now += 5
        for _ in range(3):
            self.resolver._finish("db.test", ResolverFailure("at last"))
            self.assertAlmostEqual(self.patience(), MUTE_TIMEOUT)
            self.now += 5
        with self.subTest("unless that was a while ago"):
            self.resolver._finish("db.test", ResolverFailure("at last"))
            self.now += MUTE_PERIOD
            self.assertEqual(self.patience(), 1.0)

    def test_an_answer_ends_the_impatience(self) -> None:
        self.patience()
        self.now += 5
        self.resolver._finish("db.test", ResolverFailure("at last"))
        self.patience()
        self.resolver._finish("db.test", (IPv4Address(THERE),))
        self.assertEqual(self.patience(), 1.0)

    def test_a_lookup_waits_when_the_last_query_failed_in_time(self) -> None:
        self.patience()
        self.resolver._finish("db.test", ResolverFailure("at once"))
        self.assertEqual(self.patience(), 1.0)

    def test_a_name_without_an_old_answer_is_always_waited_for(self) -> None:
        self.assertEqual(self.patience("new.test"), 1.0)
        self.now += 5
        self.assertEqual(self.patience("new.test"), 1.0)

    def test_without_a_free_thread_a_lookup_is_refused(self) -> None:
        done = mock.Mock()
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("no thread")):
            self.resolver.resolve("new.test", done)
        (refuse,) = self.loop.call_soon.call_args.args
        refuse()
        (error,) = done.call_args.args
        self.assertIsInstance(error, Overloaded)
        self.assertIn("no thread", str(error))


if __name__ == "__main__":
    unittest.main()
