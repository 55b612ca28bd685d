"""The resolver's promises: deadlines, shared queries, a short memory, old answers in need."""

from __future__ import annotations

import asyncio
import socket
import threading
import unittest
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address
from unittest import mock

from common.errors import NameNotFound, ResolverFailure, ServiceError
from lookup.c_library import configure_c_library
from lookup.resolver import (
    FAILURE_RECHECK,
    IPV4,
    IPV4_AND_IPV6,
    MAX_QUERIES,
    Resolution,
    Resolver,
    _Known,
    _Query,
)
from tests.support import Client, FakeDNS, Response, fake_dns, running, wait_until

AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

HERE, THERE, HERE_6 = "192.168.0.1", "192.168.32.1", "fd00::1"

Said = list[str] | ServiceError | None

# DNS_TIMEOUT, and what the C library is told of it: the wait for each of the attempts.
RES_OPTIONS = {
    0.01: "timeout:1 attempts:2 ndots:15",
    1: "timeout:1 attempts:2 ndots:15",
    2.5: "timeout:1 attempts:3 ndots:15",
    5: "timeout:1 attempts:5 ndots:15",
    5.5: "timeout:2 attempts:3 ndots:15",
    10: "timeout:2 attempts:5 ndots:15",
}


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
        for name in ("db.test", "DB.test", "db.test."):
            self.assert_answer(client.lookup(name), HERE)
        self.assertEqual(self.dns.asked, ["db.test"])
        self.assertEqual(client.metric("dns_cache_hits_total"), 2)

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

    def test_addresses_are_in_order_and_each_is_there_once(self) -> None:
        client = self.start()
        self.dns.answers["db.test"] = ["192.168.0.10", "192.168.0.9", "192.168.0.10"]
        self.assert_answer(client.lookup("db.test"), "192.168.0.9")


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

    def test_the_first_good_answer_ends_it(self) -> None:
        client = self.start_with_an_old_answer()
        self.dns.answers["db.test"] = AGAIN
        self.assert_answer(client.lookup("db.test"), HERE, stale=True)
        self.dns.answers["db.test"] = [THERE]
        wait_until(lambda: client.lookup("db.test").body["address"] == THERE)
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


class QueryTest(unittest.IsolatedAsyncioTestCase):
    """Has a resolver whose clock and whose queries are in the test's hands."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.resolver = self.new_resolver()
        self.started: list[str] = []
        test = self

        class Thread:
            def __init__(self, *, args: tuple[object, _Query, object], **_: object) -> None:
                self.name = args[1].name

            def start(self) -> None:
                test.started.append(self.name)

        for target, replacement in (
            ("lookup.resolver.monotonic", lambda: self.now),
            ("threading.Thread", Thread),
        ):
            patch = mock.patch(target, replacement)
            patch.start()
            self.addCleanup(patch.stop)
        self.answer("db.test")

    async def asyncSetUp(self) -> None:
        # Else each of thousands of tasks keeps where it was made, and the slow ones are logged.
        asyncio.get_running_loop().set_debug(False)

    @staticmethod
    def new_resolver() -> Resolver:
        return Resolver(timeout=0.02, cache_ttl=0.0, cache_maxsize=999, stale_ttl=300.0)

    def answer(self, name: str) -> None:
        """DNS has answered for the name, some time ago."""
        self.resolver._known[name] = _Known(Resolution([IPv4Address(HERE)]), self.now)

    async def lookup(self, name: str = "db.test") -> str:
        """What comes of a lookup of the name: fresh, stale, or an error's reason."""
        result = await self.resolver.resolve(name)
        if isinstance(result, ServiceError):
            return result.reason
        return "stale" if result.stale else "fresh"

    async def patience(self, name: str = "db.test") -> str:
        """Whether a lookup waits for the query, or has its answer at once."""
        lookup = asyncio.create_task(self.lookup(name))
        for _ in range(3):
            await asyncio.sleep(0)
        waits = "at once" if lookup.done() else "waits"
        await lookup
        return waits

    def finish(self, name: str, result: ServiceError | str) -> None:
        """The query under way ends with this."""
        said = result if isinstance(result, ServiceError) else frozenset({IPv4Address(result)})
        self.resolver._hear(self.resolver._queries[name], socket.AF_INET, said)


class PatienceTest(QueryTest):
    """For how long a lookup is made to wait."""

    async def test_after_a_deadline_nobody_waits_for_some_time(self) -> None:
        self.assertEqual(await self.patience(), "waits")
        self.assertEqual(await self.patience(), "at once")
        self.assertEqual(self.started, ["db.test"])
        self.now += FAILURE_RECHECK
        self.assertEqual(await self.patience(), "waits")

    async def test_a_failure_is_renewed_by_the_query_in_the_background(self) -> None:
        await self.lookup()
        for _ in range(3):
            self.now += FAILURE_RECHECK - 1
            self.finish("db.test", ResolverFailure("at last"))
            self.now += 2
            self.assertEqual(await self.patience(), "at once")
        self.assertEqual(self.started, ["db.test"] * 4)

    async def test_the_first_good_answer_ends_it(self) -> None:
        await self.lookup()
        self.finish("db.test", THERE)
        self.assertEqual(await self.patience(), "waits")

    async def test_that_a_name_is_gone_ends_it_too(self) -> None:
        await self.lookup()
        self.finish("db.test", NameNotFound("it is gone"))
        self.assertEqual(await self.lookup(), "ResolverTimeout")

    async def test_an_old_answer_that_is_too_old_is_waited_for(self) -> None:
        await self.lookup()
        self.now += 300
        self.assertEqual(await self.patience(), "waits")
        self.assertEqual(await self.lookup(), "ResolverTimeout")

    async def test_a_name_without_an_old_answer_is_always_waited_for(self) -> None:
        for _ in range(2):
            self.assertEqual(await self.patience("new.test"), "waits")
        self.assertEqual(self.started, ["new.test"])

    async def test_who_has_waited_leaves_the_query_s_list(self) -> None:
        for _ in range(5):
            await self.lookup("new.test")
        self.assertEqual(self.resolver._queries["new.test"].result._callbacks, None)

    async def test_without_a_free_thread_a_lookup_is_refused(self) -> None:
        with mock.patch("threading.Thread", side_effect=RuntimeError("no thread")):
            result = await self.resolver.resolve("new.test")
            assert isinstance(result, ServiceError)
            self.assertEqual(result.reason, "Overloaded")
            self.assertIn("no thread", str(result))
            self.assertEqual(await self.lookup(), "stale")
            self.assertEqual(await self.patience(), "at once")


class BoundTest(QueryTest):
    """Half of the queries are for names of which an answer is remembered, half for the others."""

    async def hang(self, *names: str) -> list[str]:
        return await asyncio.gather(*map(self.lookup, names))

    async def answered(self, name: str) -> str:
        """What comes of a lookup of the name, whose query ends well."""
        lookup = asyncio.create_task(self.lookup(name))
        await asyncio.sleep(0)
        if name in self.resolver._queries:
            self.finish(name, THERE)
        return await lookup

    async def test_new_names_that_hang_take_nothing_from_known_ones(self) -> None:
        outcomes = await self.hang(*(f"{number}.svc.test" for number in range(300)))
        self.assertEqual(len(self.started), MAX_QUERIES // 2)
        self.assertEqual(outcomes.count("Overloaded"), 300 - MAX_QUERIES // 2)
        self.assertEqual(await self.answered("new.test"), "Overloaded")
        self.assertEqual(await self.answered("db.test"), "fresh")

    async def test_known_names_that_hang_take_nothing_from_new_ones(self) -> None:
        names = [f"{number}.svc.test" for number in range(300)]
        for name in names:
            self.answer(name)
        self.assertEqual(set(await self.hang(*names)), {"stale"})
        self.assertEqual(len(self.started), MAX_QUERIES // 2)
        self.assertEqual(await self.answered("new.test"), "fresh")
        self.assertEqual(await self.answered("db.test"), "stale")

    async def test_the_last_that_may_be_under_way(self) -> None:
        names = [f"{number}.svc.test" for number in range(MAX_QUERIES // 2 - 1)]
        await self.hang(*names)
        self.assertEqual(await self.answered("new.test"), "fresh")

    async def test_what_has_ended_counts_no_more(self) -> None:
        for result in (HERE, ResolverFailure("failed"), NameNotFound("gone")):
            names = [f"{number}.svc.test" for number in range(300)]
            await self.hang(*names)
            for name in list(self.resolver._queries):
                self.finish(name, result)
            self.assertEqual(self.resolver._queries, {})
            self.assertEqual(self.resolver._threads, {True: 0, False: 0})


# What DNS says of A and of AAAA, None for nothing in time, and what comes of it.
FAILED, NONE = ResolverFailure("failed"), NameNotFound("none")
BOTH_FAMILIES: list[tuple[Said, Said, str]] = [
    ([HERE], [HERE_6], "complete"),
    ([HERE], NONE, "complete"),
    (NONE, [HERE_6], "complete"),
    ([HERE], FAILED, "incomplete"),
    (FAILED, [HERE_6], "incomplete"),
    ([HERE], None, "incomplete"),
    (None, [HERE_6], "incomplete"),
    (NONE, NONE, "NameNotFound"),
    (NONE, FAILED, "ResolverFailure"),
    (FAILED, NONE, "ResolverFailure"),
    (FAILED, FAILED, "ResolverFailure"),
    (NONE, None, "ResolverTimeout"),
    (FAILED, None, "ResolverTimeout"),
    (None, None, "ResolverTimeout"),
]


class BothFamiliesTest(QueryTest):
    def setUp(self) -> None:
        super().setUp()
        self.resolver.ask_for(IPV4_AND_IPV6)

    def say(self, query: _Query, *answers: Said) -> None:
        for family, said in zip(IPV4_AND_IPV6, answers, strict=True):
            if isinstance(said, list):
                self.resolver._hear(query, family, frozenset(map(ip_address, said)))
            elif said is not None:
                self.resolver._hear(query, family, said)

    async def outcome(self, name: str, a: Said, aaaa: Said) -> str:
        lookup = asyncio.create_task(self.resolver.resolve(name))
        await asyncio.sleep(0)
        self.say(self.resolver._queries[name], a, aaaa)
        result = await lookup
        if isinstance(result, ServiceError):
            return result.reason
        return "incomplete" if result.incomplete else "complete"

    async def test_what_comes_of_the_two(self) -> None:
        for number, (a, aaaa, expected) in enumerate(BOTH_FAMILIES):
            with self.subTest(a=a, aaaa=aaaa):
                self.assertEqual(await self.outcome(f"{number}.test", a, aaaa), expected)

    async def test_both_are_asked_for_and_count(self) -> None:
        names = [f"{number}.test" for number in range(MAX_QUERIES // 4 + 1)]
        reasons = [await self.lookup(name) for name in names]
        self.assertEqual(len(self.started), MAX_QUERIES // 2)
        self.assertEqual(reasons.count("Overloaded"), 1)

    async def test_what_was_known_of_one_family_is_not_known_of_both(self) -> None:
        self.answer("db.test")
        self.resolver.ask_for(IPV4_AND_IPV6)
        self.assertIn("db.test", self.resolver._known)
        self.resolver.ask_for(IPV4)
        self.assertEqual(dict(self.resolver._known), {})


class CLibraryTest(unittest.TestCase):
    def test_its_patience_follows_ours(self) -> None:
        for timeout, expected in RES_OPTIONS.items():
            with self.subTest(timeout):
                environment: dict[str, str] = {}
                configure_c_library(environment, timeout)
                self.assertEqual(environment["RES_OPTIONS"], expected)

    def test_names_are_absolute_whatever_else_is_set(self) -> None:
        environment = {"LOCALDOMAIN": "example.com", "RES_OPTIONS": "timeout:3"}
        configure_c_library(environment, 1)
        self.assertEqual(environment, {"LOCALDOMAIN": ".", "RES_OPTIONS": "timeout:3 ndots:15"})


if __name__ == "__main__":
    unittest.main()
