"""Names in, an outcome out, and what is counted of it: without sockets, on a DNS of its own."""

from __future__ import annotations

import asyncio
import socket
import unittest
from unittest import mock

from common.errors import InvalidRequest, ServiceError
from common.metrics import Counter
from lookup.lookups import MAX_LENGTH, MAX_NAMES, Lookups, Outcome, names_in
from lookup.placement import Answer, Placement
from lookup.resolver import Resolver
from lookup.table_reader import load
from tests.support import DEADLINE, SUBNETS, FakeDNS, fake_dns

LONGEST = ".".join(["a" * 63] * 3 + ["a" * 61]) + "."  # 254 characters, with the dot at its end

VALUES = [
    ("db.test", ["db.test"]),
    ("a,b", ["a", "b"]),
    ("", [""]),
    (",", ["", ""]),
    (" a , b ", [" a ", " b "]),
    ("fd00::1,[fd00::2]", ["fd00::1", "[fd00::2]"]),
    (",".join([LONGEST] * MAX_NAMES), [LONGEST] * MAX_NAMES),
]

INVALID_VALUES = [
    ",".join(["a"] * (MAX_NAMES + 1)),
    "," * MAX_NAMES,
    "x" * (MAX_LENGTH + 1),
    ",".join([LONGEST] * MAX_NAMES) + "x",
    "x" * 8_000_000,
]

# names, and what comes of them: the zone, or the reason
OUTCOMES = [
    (["192.168.1.7"], "eu-central-1b"),
    (["db.test"], "eu-central-1b"),
    (["DB.test."], "eu-central-1b"),
    (["lb.test"], "eu-central-1b,eu-central-1a"),
    (["gone.test", "cache.test"], "eu-central-1a"),
    (["db.test", "cache.test"], "eu-central-1b"),
    (["192.168.65.7"], "ZoneAvoided"),
    (["far.test"], "ZoneNotFound"),
    (["gone.test", "far.test"], "NameNotFound"),
    (["db"], "InvalidName"),
    (["failing.test"], "ResolverFailure"),
    (["silent.test"], "ResolverTimeout"),
]


class NamesTest(unittest.TestCase):
    def test_bounds(self) -> None:
        self.assertEqual((MAX_NAMES, MAX_LENGTH), (8, 2039))

    def test_names(self) -> None:
        for value, names in VALUES:
            with self.subTest(value):
                self.assertEqual(names_in(value), names)

    def test_what_is_too_much_is_refused(self) -> None:
        for value in INVALID_VALUES:
            with self.subTest(value[:40], length=len(value)):
                with self.assertRaises(InvalidRequest) as caught:
                    names_in(value)
                self.assertLess(len(str(caught.exception)), 500)


class LookupsTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        failure = socket.gaierror(socket.EAI_AGAIN, "try again")
        self.dns: FakeDNS = self.enterContext(
            fake_dns(
                db=["192.168.0.1"],
                cache=["192.168.32.1"],
                lb=["192.168.0.1", "192.168.32.1"],
                far=["10.9.9.9"],
                failing=failure,
            )
        )
        self.dns.silent = {"silent.test"}
        resolver = Resolver(timeout=0.05, cache_ttl=60, cache_maxsize=99, stale_ttl=60)
        self.lookups = Lookups(resolver, Placement(load(SUBNETS), avoided=["eu-central-1c"]))

    def find(self, names: list[str]) -> Outcome:
        """What comes of a lookup that need not wait."""
        try:
            self.lookups.find(names, "engine").send(None)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        raise AssertionError("it waits")

    def increased(self, counter: Counter, before: dict[tuple[str, ...], float]) -> dict[str, float]:
        return {
            " ".join(labels): value - before.get(labels, 0)
            for labels, value in counter.values.items()
            if value != before.get(labels, 0)
        }

    async def test_outcomes_are_counted_by_who_asks(self) -> None:
        for names, expected in OUTCOMES:
            for asker in ("webhook", "engine", "relocation", "person"):
                before = dict(self.lookups.outcomes.values)
                observed = sum(self.lookups.durations.counts)
                with self.subTest(names, asker=asker):
                    outcome = await self.lookups.find(names, asker)
                    found = outcome.reason or str(isinstance(outcome, Answer) and outcome.zones)
                    self.assertEqual(found, expected)
                    counted = f"{outcome.reason or 'Success'} {asker}"
                    self.assertEqual(self.increased(self.lookups.outcomes, before), {counted: 1})
                    self.assertEqual(sum(self.lookups.durations.counts), observed + 1)

    async def test_zones_are_counted(self) -> None:
        for names in (["db.test"], ["lb.test"], ["lb.test", "db.test"], ["far.test"], ["db"]):
            await self.lookups.find(names, "engine")
        self.assertEqual(self.increased(self.lookups.zones, {}), {"eu-central-1b": 1, "several": 2})

    async def test_a_defect_is_counted_and_raised(self) -> None:
        defect = mock.patch.object(self.lookups.placement, "answer", side_effect=ZeroDivisionError)
        with defect, self.assertRaises(ZeroDivisionError):
            await self.lookups.find(["192.168.1.7"], "webhook")
        self.assertEqual(self.lookups.outcomes.values["InternalError", "webhook"], 1)

    async def test_what_is_known_waits_for_nothing(self) -> None:
        await self.lookups.find(["db.test", "lb.test"], "engine")
        for names in (["db.test"], ["192.168.1.7"], ["fd00::1"], ["lb.test", "db.test"], ["db"]):
            with self.subTest(names):
                self.find(names)

    async def test_names_wait_side_by_side(self) -> None:
        self.dns.silent = {"a.test", "b.test"}
        lookup = asyncio.create_task(self.lookups.find(["a.test", "b.test", "db.test"], "engine"))
        outcome = await lookup
        assert isinstance(outcome, Answer)
        self.assertEqual([error.reason for _, error in outcome.errors], ["ResolverTimeout"] * 2)
        self.assertEqual(sorted(self.dns.asked), ["a.test", "b.test", "db.test"])

    async def test_names_that_are_the_same_are_one(self) -> None:
        outcome = await self.lookups.find(["db.test", "DB.test.", "db.test"], "engine")
        assert isinstance(outcome, Answer)
        self.assertEqual(self.dns.asked, ["db.test"])
        self.assertEqual([label.weight for label in outcome.node_labels], [100])

    async def test_an_answer_is_made_once_for_as_long_as_it_is_fresh(self) -> None:
        for names in (["db.test"], ["192.168.1.7"]):
            first = await self.lookups.find(names, "engine")
            with self.subTest(names):
                self.assertIs(self.find(names), first)

    async def test_the_answer_for_one_name_is_not_that_for_several(self) -> None:
        await self.lookups.find(["db.test"], "engine")
        outcome = await self.lookups.find(["db.test", "cache.test"], "engine")
        assert isinstance(outcome, Answer)
        self.assertEqual([label.weight for label in outcome.node_labels], [100, 50])

    async def test_an_address_is_called_what_it_is(self) -> None:
        for text, name in (
            ("192.168.1.7", "192.168.1.7"),
            ("[FD00:0::1]", "fd00::1"),
            ("::ffff:192.168.1.7", "192.168.1.7"),
        ):
            with self.subTest(text):
                self.assertEqual(self.lookups.resolver.at_once(text)[0], name)

    async def test_durations_are_those_of_the_lookups(self) -> None:
        await self.lookups.find(["silent.test"], "engine")
        self.assertGreater(self.lookups.durations.sum, 0.04)
        self.assertLess(self.lookups.durations.sum, DEADLINE)

    async def test_another_table_makes_another_answer(self) -> None:
        await self.lookups.find(["db.test"], "engine")
        elsewhere = [{"CIDRBlock": "192.168.0.0/16", "AvailabilityZone": "dc-1"}]
        self.lookups.use(Placement(load(elsewhere)))
        outcome = self.find(["db.test"])
        assert isinstance(outcome, Answer)
        self.assertEqual(outcome.zone, "dc-1")

    async def test_patience(self) -> None:
        resolver = Resolver(timeout=60, cache_ttl=60, cache_maxsize=99, stale_ttl=60)
        self.lookups = Lookups(resolver, self.lookups.placement)
        outcome = await self.lookups.find(["silent.test"], "webhook", patience=0.01)
        assert isinstance(outcome, ServiceError)
        self.assertIn("0.01 s", str(outcome))


if __name__ == "__main__":
    unittest.main()
