"""What is kept, how it is written, and when: tables of cases; and the keeper with a stand-in's API server."""

from __future__ import annotations

import unittest
from collections import Counter
from ipaddress import IPv4Address
from math import inf
from time import time
from unittest import mock

from common.errors import (
    NameNotFound,
    Overloaded,
    ResolverFailure,
    ResolverTimeout,
    ServiceError,
    ZoneNotFound,
)
from kept import keeper
from kept.configmap import (
    MAX_DECISIONS,
    MAX_SIZE,
    data_of,
    decisions_in,
    is_worth_writing,
    key_of,
    merged,
    names_to_keep,
    path_of,
)
from kept.decision import Decision, content_of, decision_in
from kept.memory import Memory
from lookup.placement import Answer, Placement
from lookup.resolver import Resolution
from lookup.table_reader import load
from tests.api_server import ApiServer, Fault, Reply, api_server, break_off, refusal
from tests.support import SUBNETS, Client, fake_dns, running, wait_until

# Minutes and seconds of one hour.
NOW = 1_795_906_800
ZONE = " zone=a preferred=100=topology.kubernetes.io/zone=a"

LINE = (
    "db.test until=2026-11-28T23:05:00Z required-until=2026-11-28T23:01:35Z zone=a zone-id=z1"
    " required=topology.kubernetes.io/zone=a preferred=100=topology.kubernetes.io/zone=a"
    " preferred=50=example.com/rack=r1,r2"
)

# What is no line that was written here.
DAMAGED = [
    "",
    "db.test",
    "db.test until=2026-11-28T23:05:00Z",
    "until=2026-11-28T23:05:00Z zone=a preferred=100=k=a",
    "db.test until=tomorrow zone=a preferred=100=k=a",
    "db.test until=2026-11-28T23:05:00Z zone=a  preferred=100=k=a",
    "db.test until=2026-11-28T23:05:00Z preferred=100=k=a zone=a",
    "db.test/ until=2026-11-28T23:05:00Z preferred=100=k=a",
]

KEYS = {
    "a": "decisions-0",
    "b,c": "decisions-3",  # 1 + 64 + 2
    "2001:db8::1": "decisions-11",
    "b" * 100 + "ccc": "decisions-4",
}

PATHS = {"": "", "ns/name": "/api/v1/namespaces/ns/configmaps/name"}
NO_PATHS = ["name", "ns/", "/name", "ns/name/x", "NS/name", "ns/../x", "ns/name?x"]

KEPT_NAMES = {
    "": (),
    " a.test  b.test,c.test\n": ("a.test", "b.test,c.test"),
    "a.test a.test": ("a.test",),
}
NO_KEPT_NAMES = [
    "a.test;b.test",
    "[2001:db8::1]",
    "a.test " + " ".join(f"n{n}.test" for n in range(1000)),
]


def decision(names: str, until: int = NOW + 300, content: str = ZONE) -> Decision:
    return Decision(names, content, until, until)


def by_names(*decisions: Decision) -> dict[str, Decision]:
    return {each.names: each for each in decisions}


def answer(address: str = "192.168.0.7", *, stale: bool = False) -> Answer:
    placement = Placement(load(SUBNETS), avoided=["eu-central-1c"])
    found = placement.answer({"db.test": Resolution((IPv4Address(address),), stale=stale)})
    assert isinstance(found, Answer)
    return found


class LineTest(unittest.TestCase):
    def test_to_and_fro(self) -> None:
        found = decision_in(LINE)
        assert found
        self.assertEqual(
            (found.names, found.until, found.fresh_until), ("db.test", NOW + 300, NOW + 95)
        )
        self.assertEqual(found.line(), LINE)

    def test_an_answer(self) -> None:
        zone = "topology.kubernetes.io/zone=eu-central-1b"
        expected = f" zone=eu-central-1b zone-id=euc1-az3 required={zone} preferred=100={zone}"
        self.assertEqual(content_of(answer()), expected)
        self.assertNotIn("required", content_of(answer(stale=True)))
        self.assertEqual(content_of(answer("192.168.64.7")), "")  # which is avoided

    def test_what_is_damaged(self) -> None:
        for line in DAMAGED:
            with self.subTest(line=line):
                self.assertIsNone(decision_in(line))


class ConfigMapTest(unittest.TestCase):
    def test_keys(self) -> None:
        for names, key in KEYS.items():
            with self.subTest(names=names):
                self.assertEqual(key_of(names), key)

    def test_a_thousand_names_are_spread(self) -> None:
        for form in ("db-{}.example.internal", "{}.c9akciq32.eu-central-1.rds.amazonaws.com"):
            lines = Counter(key_of(form.format(n)) for n in range(1000))
            self.assertLess(max(lines.values()), 100)

    def test_to_and_fro(self) -> None:
        long = "x" * 260
        decisions = by_names(*map(decision, ("a_b", "a,b", f"{long}1", f"{long}2", "2001:db8::1")))
        data = data_of(decisions.values())
        self.assertEqual(set(data), set(map(key_of, decisions)))
        self.assertEqual(decisions_in(data), decisions)

    def test_what_is_damaged(self) -> None:
        good = decision("db.test").line()
        data: object
        for data in (None, [], "x", {"a": None}, {"a": [good]}, {"a": "\n".join(DAMAGED)}):
            with self.subTest(data=data):
                self.assertEqual(decisions_in(data), {})
        self.assertEqual(list(decisions_in({"x": f"\n{good}\nnonsense"})), ["db.test"])

    def test_paths(self) -> None:
        for setting, path in PATHS.items():
            self.assertEqual(path_of(setting), path)
        for setting in NO_PATHS:
            with self.subTest(setting=setting), self.assertRaises(ValueError):
                path_of(setting)

    def test_names_to_keep(self) -> None:
        for setting, names in KEPT_NAMES.items():
            self.assertEqual(names_to_keep(setting), names)
        for setting in NO_KEPT_NAMES:
            with self.subTest(setting=setting[:20]), self.assertRaises(ValueError):
                names_to_keep(setting)


class MergeTest(unittest.TestCase):
    """Ours and what is there: (there, ours, what is to be there)."""

    OLD, NEW = (
        decision("db.test", NOW + 200),
        decision("db.test", NOW + 300, " zone=b preferred=1=k=b"),
    )
    GONE = decision("db.test", NOW + 300, "")
    OTHER = decision("other.test")

    CASES = (
        ("nothing", (), (), ()),
        ("ours is newer", (OLD,), (NEW,), (NEW,)),
        ("theirs is newer", (NEW,), (OLD,), (NEW,)),
        ("both are as old", (NEW._replace(content=ZONE),), (NEW,), (NEW,)),
        ("theirs stays", (OTHER,), (NEW,), (NEW, OTHER)),
        ("there is none any more", (OLD, OTHER), (GONE,), (OTHER,)),
        (
            "there is one again",
            (NEW._replace(until=NOW + 310),),
            (GONE,),
            (NEW._replace(until=NOW + 310),),
        ),
        ("theirs is over", (decision("other.test", NOW),), (), ()),
        ("ours is over", (), (decision("db.test", NOW),), ()),
        ("theirs cannot be", (decision("db.test", NOW + 316),), (OLD,), (OLD,)),
    )

    def test_merging(self) -> None:
        for name, there, ours, wanted in self.CASES:
            with self.subTest(name):
                found = merged(by_names(*there), by_names(*ours), NOW, NOW + 315)
                self.assertEqual(list(found.values()), list(wanted))

    def test_the_most_important_come_first_while_there_is_room(self) -> None:
        ours = by_names(*(decision(f"ours-{n}.test") for n in range(MAX_DECISIONS)))
        theirs = by_names(*(decision(f"theirs-{n}.test") for n in range(10)))
        self.assertEqual(merged(theirs, ours, NOW, inf), ours)
        ours.popitem()
        self.assertEqual(len(merged(theirs, ours, NOW, inf)), MAX_DECISIONS)

    def test_the_size_is_bounded(self) -> None:
        ours = by_names(*(decision(f"{n}-{'x' * 2000}") for n in range(MAX_DECISIONS)))
        found = merged({}, ours, NOW, inf)
        size = sum(map(len, (text for item in data_of(found.values()).items() for text in item)))
        self.assertLess(MAX_SIZE - 20_000, size)
        self.assertLess(size, MAX_SIZE)

    def test_what_is_worth_writing(self) -> None:
        there = by_names(self.OLD)
        for wanted, is_worth in (
            (self.OLD, False),
            (self.OLD._replace(until=NOW + 215), False),
            (self.OLD._replace(until=NOW + 216), True),
            (self.OLD._replace(content=self.NEW.content), True),
            (self.OTHER, True),
        ):
            with self.subTest(wanted=wanted):
                self.assertEqual(is_worth_writing(there, by_names(wanted)), is_worth)


class MemoryTest(unittest.TestCase):
    def setUp(self) -> None:
        self.memory = Memory(["pinned.test"], cache_ttl=5, stale_ttl=300)

    def hear(self, outcome: Answer | ServiceError, at: float = NOW, names: str = "db.test") -> bool:
        return self.memory.hear(names, outcome, at, 0.0)

    @property
    def held(self) -> Decision | None:
        return self.memory.decisions().get("db.test")

    def test_who_is_asked_for_is_kept(self) -> None:
        self.assertFalse(self.memory.ask("db.test", answer()))
        self.memory.ask("avoided.test", answer("192.168.64.7"))
        self.memory.ask("unknown.test", ZoneNotFound("no"))
        self.memory.ask("[2001:db8::1]", answer())
        self.assertEqual(self.memory.due(0, 9), ["pinned.test", "db.test"])

    def test_who_is_due_is_so_once(self) -> None:
        self.memory.adopt(["a.test", "b.test"])
        self.assertEqual(len(self.memory.due(7, 2)), 2)
        self.assertEqual(len(self.memory.due(7, 2)), 1)
        self.assertEqual(self.memory.due(7, 2), [])
        self.memory.hear("a.test", answer(), NOW, due=12.0)
        self.assertEqual([self.memory.due(now, 2) for now in (11.9, 12.0)], [[], ["a.test"]])

    def test_who_was_not_asked_for_for_the_longest_goes_first(self) -> None:
        names = [f"n{n}.test" for n in range(MAX_DECISIONS - 1)]
        for each in names:
            self.memory.ask(each, answer())
        self.memory.ask("n0.test", answer())
        self.memory.ask("new.test", answer())
        found = set(self.memory.due(0, 9999))
        self.assertEqual(len(found), MAX_DECISIONS)
        self.assertEqual({*names, "pinned.test", "new.test"} - found, {"n1.test"})
        self.assertFalse(self.memory.hear("n1.test", answer(), NOW, 0.0))

    def test_others_names_push_out_nobody(self) -> None:
        names = [f"n{n}.test" for n in range(MAX_DECISIONS)]
        self.memory.adopt(names)
        self.assertEqual(len(self.memory), MAX_DECISIONS)
        self.memory.ask("new.test", answer())
        self.assertEqual(
            {*self.memory.due(0, 9999)} & {"new.test", "pinned.test"}, {"new.test", "pinned.test"}
        )

    def test_how_long_it_holds(self) -> None:
        for cache_ttl, stale_ttl, fresh_for, hold_for in (
            (5, 300, 95, 300),
            (0, 0, 91, 91),
            (60, 100, 150, 150),
        ):
            with self.subTest(cache_ttl=cache_ttl, stale_ttl=stale_ttl):
                self.memory = Memory(["db.test"], cache_ttl, stale_ttl)
                self.hear(answer())
                assert self.held
                self.assertEqual(
                    (self.held.fresh_until, self.held.until), (NOW + fresh_for, NOW + hold_for)
                )

    def test_what_changes_it(self) -> None:
        """What is heard one after the other: whether that is a change, and until when it holds."""
        self.memory.adopt(["db.test"])
        events: list[tuple[Answer | ServiceError, bool, int | None]] = [
            (ResolverTimeout("late"), False, None),
            (answer(), True, 1 + 300),
            (answer(), False, 2 + 300),
            (ResolverFailure("no"), False, 2 + 300),
            (Overloaded("no"), False, 2 + 300),
            (answer(stale=True), True, 2 + 300),
            (answer(), True, 6 + 300),
            (answer("192.168.32.7"), True, 7 + 300),
            (answer("192.168.64.7"), True, None),  # which is avoided
            (NameNotFound("no"), False, None),
            (answer(), True, 10 + 300),
        ]
        for n, (outcome, is_change, until) in enumerate(events):
            with self.subTest(n=n):
                self.assertEqual(self.hear(outcome, NOW + n), is_change)
                held = self.held if self.held and self.held.content else None
                self.assertEqual(held and held.until, until and NOW + until)

    def test_who_has_no_answer_is_forgotten_in_time(self) -> None:
        self.memory.adopt(["db.test"])
        self.hear(answer())
        for names in ("db.test", "pinned.test"):
            for at in (NOW + 1, NOW + 300, NOW + 301):
                self.hear(NameNotFound("no"), at, names)
        self.assertEqual(list(self.memory.due(inf, 9)), ["pinned.test"])
        self.assertIsNone(self.held)


CONFIG_MAP = "/api/v1/namespaces/ns/configmaps/kept"


class KeeperTest(unittest.TestCase):
    """A service that keeps decisions with a stand-in for the API server, whose ConfigMap is `data`."""

    api: ApiServer

    def setUp(self) -> None:
        self.api = self.enterContext(api_server())
        self.api.objects[CONFIG_MAP] = {"kind": "ConfigMap", "metadata": {"name": "kept"}}
        self.dns = self.enterContext(fake_dns(db=["192.168.0.7"], other=["192.168.32.7"]))

    def start(self, retry: float = 0.2, **environment: str) -> Client:
        """With a time that passes faster."""
        for module, name, value in (
            (keeper, "MIN_PAUSE", 0.1),
            (keeper, "RETRY_PAUSE", retry),
            (keeper, "EXTEND_INTERVAL", 0.5),
        ):
            self.enterContext(mock.patch.object(module, name, value))
        default = {
            "KEPT_DECISIONS": "ns/kept",
            "KUBERNETES_URL": self.api.url,
            "DNS_CACHE_TTL": "1",
        }
        return self.enterContext(running(**default | environment))  # type: ignore[arg-type]

    @property
    def data(self) -> dict[str, str]:
        found: dict[str, str] = self.api.objects[CONFIG_MAP].get("data", {})
        return found

    def wait_for(self, names: str, zone: str) -> None:
        def is_there() -> bool:
            found = decisions_in(self.data).get(names)
            return found is not None and f" zone={zone} " in found.content

        wait_until(is_there)

    def test_who_is_asked_for_is_kept_and_follows(self) -> None:
        client = self.start()
        client.lookup("db.test", "other.test")
        client.lookup("unknown.test")
        self.wait_for("db.test,other.test", "eu-central-1b")
        self.dns.answers["db.test"] = ["192.168.64.7"]
        self.wait_for("db.test,other.test", "eu-central-1c")
        self.assertEqual(list(decisions_in(self.data)), ["db.test,other.test"])
        self.assertEqual(client.metric("kept_names"), 1)
        self.assertGreater(client.metric('kept_writes_total{outcome="written"}'), 0)

    def test_who_asks_for_what_is_kept_is_counted(self) -> None:
        """The API server would have known it: it does not go by the ConfigMap."""
        client = self.start()
        client.lookup("db.test")
        self.wait_for("db.test", "eu-central-1b")
        self.assertEqual(client.metric("kept_unheeded_total"), 0)
        client.lookup("db.test")
        self.assertEqual(client.metric("kept_unheeded_total"), 1)

    def test_nobody_counts_what_is_asked_anew(self) -> None:
        client = self.start(KEPT_NAMES="db.test")
        self.wait_for("db.test", "eu-central-1b")
        wait_until(lambda: self.dns.asked.count("db.test") > 1)
        self.assertEqual(client.metric("lookup_duration_seconds_count"), 0)

    def test_a_name_that_is_gone_is_taken_out(self) -> None:
        self.start(KEPT_NAMES="db.test other.test")
        self.wait_for("db.test", "eu-central-1b")
        del self.dns.answers["db.test"]
        wait_until(lambda: list(decisions_in(self.data)) == ["other.test"])

    def test_names_of_before_are_kept_but_not_their_answers(self) -> None:
        until = int(time()) + 300
        there = [decision("db.test", until), decision("gone.test", until), decision("over.test", 1)]
        self.api.objects[CONFIG_MAP]["data"] = data_of(there)
        self.dns.answers["over.test"] = ["192.168.0.7"]
        self.start()
        self.wait_for("db.test", "eu-central-1b")
        self.wait_for("over.test", "eu-central-1b")
        wait_until(lambda: "gone.test" not in decisions_in(self.data))

    def test_somebody_else_writes_at_the_same_time(self) -> None:
        client = self.start()
        self.api.faults[f"PUT {CONFIG_MAP}"] = [refusal(409, "Conflict")]
        client.lookup("db.test")
        self.wait_for("db.test", "eu-central-1b")
        self.assertEqual(client.metric('kept_writes_total{outcome="failed"}'), 0)

    def test_an_api_server_that_fails_delays_nobody(self) -> None:
        faults: list[Reply | Fault] = [
            refusal(404, "NotFound"),
            Reply(200, b"nonsense"),
            break_off,
            refusal(403),
        ]
        self.api.faults[f"GET {CONFIG_MAP}"] = list(faults)
        self.api.faults[f"PUT {CONFIG_MAP}"] = [refusal(422, "Invalid")]
        with self.assertLogs(level="INFO") as log:
            client = self.start()
            self.assertEqual(client.lookup("db.test").status, 200)
            self.wait_for("db.test", "eu-central-1b")
            wait_until(lambda: "decisions are kept again" in log.output[-1])
        self.assertEqual(client.metric('kept_writes_total{outcome="failed"}'), len(faults) + 1)

    def test_what_is_not_written_is_so_at_the_end(self) -> None:
        self.api.faults[f"GET {CONFIG_MAP}"] = [refusal(500)]
        with self.assertLogs(level="ERROR"):
            client = self.start(retry=60.0, KEPT_NAMES="db.test")
            wait_until(lambda: client.metric('kept_writes_total{outcome="failed"}') == 1)
        wait_until(lambda: "db.test" in self.dns.asked)
        client.drain()
        self.assertIn("db.test", decisions_in(self.data))

    def test_without_it_there_is_nothing_of_it(self) -> None:
        client = self.start(KEPT_DECISIONS="")
        client.lookup("db.test")
        self.assertNotIn("kept", client.request("/metrics").body)
        self.assertEqual(self.api.requests, [])


if __name__ == "__main__":
    unittest.main()
