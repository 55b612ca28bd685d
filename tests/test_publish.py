"""`python3 publish.py` against a stand-in for the Kubernetes API: what it writes, and what it refuses."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import socket
import tempfile
import unittest
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from unittest import mock

import publish
from lookup.table import Subnet
from lookup.table_reader import parse
from lookup.table_writer import lines
from tests.api_server import (
    ApiServer,
    Fault,
    Json,
    Reply,
    Request,
    break_off,
    break_off_halfway,
    listening,
    refusal,
)
from tests.support import Run

NAME = "automatic-zone-placement-gathered"
CONFIG_MAP = f"/api/v1/namespaces/zones/configmaps/{NAME}"
EVENTS = "/apis/events.k8s.io/v1/namespaces/zones/events"
KEY = "subnets.json"
ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"


def entries(*zones: str, first: int = 0) -> list[Json]:
    """A subnet for each letter: 10.0.0.0/24 is in the zone of the first, and so on."""
    return [
        {"CIDRBlock": f"10.0.{number}.0/24", "AvailabilityZone": f"zone-{zone}"}
        for number, zone in enumerate(zones, first)
    ]


def config_map(table: object = None, **annotations: str) -> Json:
    """As the component makes it, and with this table."""
    metadata = {"namespace": "zones", "name": NAME, "uid": "u-1", "labels": {"app": "x"}}
    found: Json = {"metadata": metadata | ({"annotations": annotations} if annotations else {})}
    return found if table is None else found | {"data": {KEY: dated(table)}}


def dated(table: object) -> str:
    """A table of just now."""
    return json.dumps({"GatheredAt": datetime.now().astimezone().isoformat(), "Subnets": table})


def packed(data: bytes) -> Json:
    return {"binaryData": {KEY: base64.b64encode(data).decode()}}


class ConfigMapServer(ApiServer):
    """Has one ConfigMap, which can only be replaced by who knows its latest version."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self.put = 0
        self.meanwhile: Callable[[], None] = lambda: None

    @property
    def config_map(self) -> Json:
        return self.objects[CONFIG_MAP]

    @property
    def events(self) -> list[Json]:
        return [body for path, body in self.created if path == EVENTS]

    def change(self, config_map: Json) -> None:
        """What somebody else does, or what was asked for."""
        self.version += 1
        self.objects[CONFIG_MAP] = deepcopy(config_map)
        self.config_map["metadata"]["resourceVersion"] = str(self.version)

    def reply(self, request: Request) -> Reply | Fault:
        if request.method != "PUT" or self.faults.get(f"PUT {request.path}"):
            return super().reply(request)
        self.meanwhile()
        if request.body["metadata"]["resourceVersion"] != str(self.version):
            return refusal(409, "Conflict", "the object has been modified")
        self.put += 1
        self.change(request.body)
        return Reply(200, self.config_map)


# How a table differs from the present one, and the lines that say so.
COMPARISONS: list[tuple[list[Json], list[Json], list[str]]] = [
    ([], [], []),
    (entries("a"), entries("a"), []),
    ([], entries("a"), ["+ 10.0.0.0/24 zone-a"]),
    (entries("a"), [], ["- 10.0.0.0/24 zone-a"]),
    (entries("a"), entries("b"), ["~ 10.0.0.0/24 zone-a -> zone-b"]),
    (
        entries("a", "b"),
        entries("c", first=1) + entries("d", first=2),
        ["- 10.0.0.0/24 zone-a", "~ 10.0.1.0/24 zone-b -> zone-c", "+ 10.0.2.0/24 zone-d"],
    ),
    (
        entries("a"),
        [each | {"AvailabilityZoneId": "z1"} for each in entries("a")],
        ["~ 10.0.0.0/24 zone-a -> zone-a (z1)"],
    ),
    (
        entries("a"),
        [each | {"NodeLabels": {"example.com/rack": "r1"}} for each in entries("a")],
        ["~ 10.0.0.0/24 zone-a -> zone-a example.com/rack=r1"],
    ),
]

# What may stand in the annotation in the place of what was published.
BROKEN_PASTS = [
    "",
    "[]",
    "null",
    "5",
    '{"subnets": 900}',
    '{"subnets": 900, "hours": [1]}',
    '{"subnets": 900, "hours": {"x": [1, 2]}}',
    '{"subnets": 900, "hours": {"1": [1]}}',
    '{"subnets": 900, "hours": {"1": [Infinity, 2]}}',
    '{"subnets": 900, "hours": {"1": {"2": 3, "4": 5}}}',
    '{"subnets": 900, "hours": {"1": [900, 0], "999999999": [900, 0]}}',
    "[" * 100_000,
]

# What may be in the files, and a word of why it is not published.
WRONG: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b'{"Subnets": []}', "empty"),
    (b'{"Subnets": [{"CidrBlock": "10.0.0.0/24"}]}', "AvailabilityZone is missing"),
    (b'{"Subnets": []}\nincomplete: no subnets of x in y', "not JSON"),
    (json.dumps(entries("a")).encode() + json.dumps(entries("b")).encode(), "10.0.0.0/24"),
]

# What may stand in the ConfigMap in the place of a table.
NO_TABLES: list[Json] = [
    {"data": {KEY: "["}},
    {"data": {KEY: "[]"}},
    packed(b"no gzip"),
    packed(gzip.compress(b"[]")[:-9]),
    packed(gzip.compress(b"\xff")),
]


def table(found: list[Json]) -> list[Subnet]:
    return list(parse(json.dumps(found))) if found else []


class ComparisonTest(unittest.TestCase):
    def test_comparisons(self) -> None:
        for before, after, said in COMPARISONS:
            with self.subTest(said):
                changes = publish.compare(table(before), table(after))
                self.assertEqual(changes.lines(), said)
                self.assertEqual(any(changes), bool(said))

    def test_many_changes_are_cut_short(self) -> None:
        changes = publish.compare([], table(entries(*"a" * 150)))
        self.assertEqual(len(changes.lines()), 101)
        self.assertEqual(changes.lines()[-1], "and 50 more")
        self.assertEqual(str(changes), "150 added, 0 removed, 0 moved")


class PublishTest(unittest.TestCase):
    def serve(self, config_map: Json | None) -> ConfigMapServer:
        self.server = self.enterContext(listening(ConfigMapServer()))
        if config_map:
            self.server.change(config_map)
        return self.server

    def run_it(self, *contents: object, **environment: str) -> Run:
        """Runs the program with these files, JSON or bytes."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        files = []
        for number, content in enumerate(contents):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / str(number)).write_bytes(data)
            files.append(str(folder / str(number)))
        environment = {
            "KUBERNETES_URL": self.server.url,
            "NAMESPACE": "zones",
        } | environment
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            redirect_stdout(io.StringIO()) as output,
            redirect_stderr(io.StringIO()) as errors,
        ):
            status = publish.main(files)
        return Run(status, output.getvalue(), errors.getvalue().splitlines())

    def present(self) -> list[Subnet]:
        """The table that is in the ConfigMap now."""
        return list(publish.present_table(self.server.config_map, ZONE) or ())

    def assert_refused(self, run: Run, word: str) -> None:
        """Nothing was written, and the process and an Event say why."""
        self.assertEqual((run.status, self.server.put), (1, 0), run)
        self.assertIn(word, "\n".join(run.errors))
        self.assertEqual(run.errors[-1], "The table of before stays.")
        (event,) = self.server.events
        self.assertEqual((event["type"], event["reason"]), ("Warning", "TableRefused"))
        self.assertIn(word, event["note"])

    def test_the_first_table(self) -> None:
        server = self.serve(config_map())
        run = self.run_it(entries("a", "b"))
        self.assertEqual((run.status, run.errors), (0, []))
        self.assertEqual(run.output.splitlines()[-1], "2 subnets: 2 added, 0 removed, 0 moved")
        self.assertEqual(self.present(), table(entries("a", "b")))
        self.assertEqual(server.config_map["metadata"]["labels"], {"app": "x"})
        self.assertEqual(server.config_map["data"].keys(), {KEY})  # as text, for people to read
        (event,) = server.events
        self.assertEqual((event["type"], event["reason"]), ("Normal", "TableChanged"))
        self.assertEqual(event["regarding"]["uid"], "u-1")
        self.assertTrue(event["note"].startswith("2 added, 0 removed, 0 moved; + 10.0.0.0/24"))

    def test_what_has_not_changed_is_not_written(self) -> None:
        for present in (
            config_map(entries("a")),
            config_map() | packed(gzip.compress(dated(entries("a")).encode())),
        ):
            server = self.serve(present)
            run = self.run_it(entries("a"))
            self.assertEqual(run, Run(0, "1 subnets, as before\n", []))
            self.assertEqual((server.put, server.events), (0, []))

    def test_what_has_changed_is_said(self) -> None:
        server = self.serve(config_map(entries(*"abcdef")))
        run = self.run_it(entries("z", "b") + entries(*"defd", first=3))
        lines = ["- 10.0.2.0/24 zone-c", "~ 10.0.0.0/24 zone-a -> zone-z", "+ 10.0.6.0/24 zone-d"]
        self.assertEqual(run.output.splitlines()[:3], lines)
        self.assertEqual(
            server.events[0]["note"], "; ".join(["1 added, 1 removed, 1 moved", *lines])
        )

    def test_a_note_is_no_longer_than_the_api_server_takes(self) -> None:
        server = self.serve(config_map())
        self.run_it(entries(*"a" * 200))
        self.run_it([{"CIDRBlock": "\u00e9" * 200}] * 20)
        for event in server.events:
            self.assertIn(len(event["note"].encode()), (1023, 1024))

    def test_files_are_one_table(self) -> None:
        self.serve(config_map())
        self.assertEqual(self.run_it(entries("a"), entries("b", first=1)).status, 0)
        self.assertEqual(self.present(), table(entries("a", "b")))

    def test_a_table_that_is_wrong(self) -> None:
        for content, word in WRONG:
            with self.subTest(word):
                self.serve(config_map(entries("c")))
                self.assert_refused(self.run_it(content), word)
                self.assertEqual(self.present(), table(entries("c")))

    def test_warnings_are_said(self) -> None:
        self.serve(config_map())
        run = self.run_it([*entries("a"), {"CidrBlock": None, "SubnetId": "subnet-6"}])
        self.assertEqual(run.status, 0)
        self.assertIn("subnet-6", run.errors[0])

    def test_names_of_zones_do_not_matter_with_ids(self) -> None:
        shared = [
            {"CIDRBlock": "10.0.0.0/24", "AvailabilityZone": name, "AvailabilityZoneId": "z1"}
            for name in ("zone-a", "zone-b")
        ]
        self.serve(config_map())
        self.assert_refused(self.run_it(shared), "10.0.0.0/24")
        for present, put in ((None, 1), (shared, 0)):
            self.serve(config_map(present))
            run = self.run_it(shared, NODE_LABEL="topology.k8s.aws/zone-id")
            self.assertEqual((run.status, self.server.put), (0, put), run)

    def test_a_third_may_vanish_or_move_and_no_more(self) -> None:
        nine = entries(*"abcabcabc")
        for refused, allowed, word in (
            (nine[4:], nine[3:], "of 9 subnets, 4 would vanish and 0 move"),
            (entries(*"xxxxbcabc"), entries(*"xxxabcabc"), "0 would vanish and 4 move"),
            (entries(*"xxcabca"), entries(*"xbcabca"), "2 would vanish and 2 move"),
            (nine[4:] + entries(*"abcd", first=9), nine[3:], "4 would vanish"),
        ):
            with self.subTest(word):
                self.serve(config_map(nine))
                self.assert_refused(self.run_it(refused), word)
                self.assertEqual(self.present(), table(nine))
                self.assertEqual(self.run_it(allowed).status, 0)
                self.assertEqual(self.present(), table(allowed))

    def test_more_may_vanish_once_if_it_is_told_so(self) -> None:
        nine = entries(*"abcabcabc")
        annotations = {publish.MAY_VANISH: "true", "other": "x"}
        server = self.serve(config_map(nine, **annotations))
        self.assertEqual(self.run_it(nine[8:]).status, 0)
        self.assertEqual(self.present(), table(nine[8:]))
        self.assertEqual(self.annotations.keys(), {"other", publish.PUBLISHED})
        self.assertEqual(self.run_it(nine[8:] + entries("a")).status, 0)  # what was is forgotten
        server.put = 0
        server.created.clear()
        self.assert_refused(self.run_it(nine[:1]), "of 2 subnets, 1 would vanish")

    @property
    def annotations(self) -> Json:
        return dict(self.server.config_map["metadata"]["annotations"])

    def run_at(self, hour: float, content: object) -> int:
        with mock.patch("publish.time", lambda: 1_800_000_000 + hour * 3600):
            return self.run_it(content).status

    def test_no_third_after_another_vanishes_within_a_day(self) -> None:
        """Reproduced: of 900 subnets 36 were left within two hours."""
        self.serve(config_map())
        ninety = entries(*"abc" * 30)
        self.assertEqual(self.run_at(0, ninety), 0)
        self.assertEqual(self.run_at(30, ninety[30:]), 0)
        for hour in (30.25, 31, 40, 53):
            self.assertEqual(self.run_at(hour, ninety[31:]), 1, hour)
        self.assertEqual(self.run_at(54, ninety[50:]), 0)
        self.assertEqual(self.present(), table(ninety[50:]))
        self.assertEqual(self.run_at(54.1, ninety[51:]), 1)

    def test_the_largest_of_the_day_counts_whenever_it_was(self) -> None:
        self.serve(config_map())
        ninety = entries(*"abc" * 30)
        for hour, number, status in ((0, 60, 0), (1, 90, 0), (2, 60, 0), (3, 59, 1), (26, 59, 0)):
            self.assertEqual(self.run_at(hour, ninety[:number]), status, hour)

    def test_what_has_come_back_may_vanish_again(self) -> None:
        self.serve(config_map())
        nine = entries(*"abcabcabc")
        for hour, content in enumerate((nine, nine[3:], nine, nine[3:], nine)):
            self.assertEqual(self.run_at(hour, content), 0, hour)

    def test_no_third_after_another_moves_within_a_day(self) -> None:
        self.serve(config_map())
        moving = [entries(*"x" * number, *"a" * (9 - number)) for number in range(9)]
        self.assertEqual([self.run_at(0, moving[each]) for each in (0, 2, 3, 4)], [0, 0, 0, 1])
        self.assertEqual([self.run_at(23.9, moving[4]), self.run_at(24, moving[4])], [1, 0])

    def test_hosts_may_move(self) -> None:
        """By a failover, and back again; a subnet of AWS's never does."""
        hosts = [
            [{"CIDRBlock": cidr, "AvailabilityZone": zone} for cidr in ("10.0.0.7/32", "::7/128")]
            for zone in "ab"
        ]
        self.serve(config_map())
        for content in (hosts[0], hosts[1], hosts[0]):
            self.assertEqual(self.run_at(0, content), 0)
        for cidr in ("10.0.0.6/31", "2001:db8::/32", "::6/127"):
            one, other = ([{"CIDRBlock": cidr, "AvailabilityZone": zone}] for zone in "ab")
            with self.subTest(cidr):
                self.serve(config_map(one))
                self.assertEqual(self.run_at(0, other), 1)

    def test_vanished_and_moved_are_added_up(self) -> None:
        self.serve(config_map())
        self.assertEqual(self.run_at(0, entries(*"a" * 9)), 0)
        self.assertEqual(self.run_at(1, entries(*"xx", *"a" * 7)), 0)
        self.assertEqual(self.run_at(2, entries(*"xx", *"a" * 5)), 1)
        self.assertEqual(self.run_at(2, entries(*"xx", *"a" * 6)), 0)

    def test_what_is_remembered_is_bounded(self) -> None:
        self.serve(config_map())
        many = entries(*"abcdefgh" * 25)
        for hour in range(60):
            self.assertEqual(self.run_at(hour, many[: 200 - hour % 2]), 0)
        remembered = json.loads(self.annotations[publish.PUBLISHED])
        self.assertEqual(len(remembered["hours"]), publish.MEMORY)
        self.assertEqual(remembered["subnets"], 199)
        large = {hour: [100_000, 33_333] for hour in range(500_000, 500_024)}
        self.assertLess(len(json.dumps({"subnets": 100_000, "hours": large})), 900)

    def test_what_is_remembered_is_no_help_if_it_is_broken(self) -> None:
        for broken in BROKEN_PASTS:
            with self.subTest(broken):
                self.serve(config_map(entries(*"abc"), **{publish.PUBLISHED: broken}))
                self.assert_refused(self.run_it(entries("a")), "of 3 subnets, 2 would vanish")
                self.assertEqual(self.run_it(entries("a", "b")).status, 0)

    def test_a_table_is_written_again_once_a_day(self) -> None:
        """So that an alert can be made of its age."""
        server = self.serve(config_map())
        for hour, put in ((0, 1), (1, 1), (23.9, 1), (24, 2), (25, 2), (48.5, 3)):
            self.assertEqual(self.run_at(hour, entries("a")), 0)
            self.assertEqual(server.put, put, hour)
        hours = json.loads(self.annotations[publish.PUBLISHED])["hours"]
        self.assertEqual(set(map(tuple, hours.values())), {(1, 0)})  # nothing has moved
        self.assertIn('{"GatheredAt": "2027-01-17T08:30:00Z"', server.config_map["data"][KEY])
        self.assertEqual(len(server.events), 1)

    def test_an_ambiguous_table(self) -> None:
        shuffled = [
            each | {"AvailabilityZoneId": "z1"}
            for each in entries("a", "b") + entries("b", first=2)
        ]
        self.serve(config_map())
        self.assert_refused(self.run_it(shuffled), "do not match one to one for zone-a, zone-b")
        self.assertEqual(self.run_it(shuffled, NODE_LABEL=ZONE_ID).status, 0)
        self.serve(config_map(None, **{publish.MAY_BE_AMBIGUOUS: "true"}))
        self.assertEqual(self.run_it(shuffled).status, 0)
        self.assertEqual(self.run_it(shuffled[:2]).status, 0)  # it is said for good
        self.assertIn(publish.MAY_BE_AMBIGUOUS, self.annotations)

    def test_a_large_table_is_compressed(self) -> None:
        large = entries(*"abc" * 10)
        server = self.serve(config_map(large[1:]) | {"binaryData": {"other": "eA=="}})
        with mock.patch("publish.MAX_TEXT_SIZE", 1000):
            self.assertEqual(self.run_it(large).status, 0)
        self.assertEqual(server.config_map["data"], {})
        self.assertEqual(server.config_map["binaryData"].keys(), {KEY, "other"})
        self.assertEqual(self.present(), table(large))
        self.assertEqual(self.run_it(large[:25]).status, 0)
        self.assertEqual(server.config_map["data"].keys(), {KEY})
        self.assertEqual(server.config_map["binaryData"].keys(), {"other"})
        self.assertEqual(self.present(), table(large[:25]))

    def test_how_large_is_too_large(self) -> None:
        found = parse(dated(entries("a")))
        size = sum(map(len, lines(found)))
        packed_size = len(gzip.compress("".join(lines(found)).encode(), mtime=0))
        past = publish.Past(None, {})
        for text, most, part in (
            (size, 0, "data"),
            (size - 1, packed_size, "binaryData"),
            (size - 1, packed_size - 1, None),
        ):
            with mock.patch.multiple(publish, MAX_TEXT_SIZE=text, MAX_CONFIGMAP_SIZE=most):
                if part:
                    self.assertIn(KEY, publish.with_table(config_map(), found, past)[part])
                else:
                    with self.assertRaises(publish.Unfit):
                        publish.with_table(config_map(), found, past)

    def test_a_table_that_is_too_large(self) -> None:
        self.serve(config_map(entries("c")))
        with mock.patch("publish.MAX_TEXT_SIZE", 10), mock.patch("publish.MAX_CONFIGMAP_SIZE", 10):
            self.assert_refused(self.run_it(entries("c", "a")), "do not fit")

    def test_what_is_no_table_counts_as_what_was_published_last(self) -> None:
        nine = entries(*"abcabcabc")
        for data in [*NO_TABLES, {"data": {}}]:
            with self.subTest(data):
                self.serve(config_map())
                self.run_at(0, nine)
                self.server.change({"metadata": self.server.config_map["metadata"]} | data)
                self.assertEqual(self.run_at(100, nine[4:]), 1)
                self.assertEqual(self.run_at(100, nine[3:]), 0)
                self.assertEqual(self.present(), table(nine[3:]))

    def test_what_is_no_table_does_not_give_way_if_nobody_knows_how_large_it_was(self) -> None:
        for data in NO_TABLES:
            with self.subTest(data):
                self.serve(config_map() | data)
                self.assert_refused(self.run_it(entries("a")), "how many subnets it had")
                self.serve(config_map(**{publish.MAY_VANISH: "true"}) | data)
                self.assertEqual(self.run_it(entries("a")).status, 0)
                self.assertEqual(self.present(), table(entries("a")))

    def interfere(self, other: list[Json]) -> None:
        """When a change arrives for the first time, somebody else has written this table."""
        server = self.server

        def change() -> None:
            server.meanwhile = lambda: None
            server.change(config_map(other))

        server.meanwhile = change

    def test_somebody_else_changes_it_meanwhile(self) -> None:
        self.serve(config_map(entries("a")))
        self.interfere(entries("a", "x", "c"))
        run = self.run_it(entries("a", "b", "c", "d"))
        self.assertEqual((run.status, self.server.put), (0, 1), run)
        self.assertIn("~ 10.0.1.0/24 zone-x -> zone-b", run.output)
        self.assertEqual(self.present(), table(entries("a", "b", "c", "d")))

    def test_what_somebody_else_writes_meanwhile_must_not_vanish_either(self) -> None:
        self.serve(config_map(entries("a")))
        self.interfere(entries(*"abcdefghi"))
        self.assert_refused(self.run_it(entries("a", "b")), "of 9 subnets, 7 would vanish")
        self.assertEqual(self.present(), table(entries(*"abcdefghi")))

    def test_somebody_else_changes_it_all_the_time(self) -> None:
        server = self.serve(config_map(entries("a")))
        server.meanwhile = lambda: server.change(config_map(entries("a")))
        self.assert_failed(self.run_it(entries("a", "b")), "the object has been modified")

    def assert_failed(self, run: Run, word: str) -> None:
        """Nothing was written, and the process says why."""
        self.assertEqual((run.status, self.server.put), (1, 0), run)
        self.assertIn(word, "\n".join(run.errors))

    def test_it_may_not(self) -> None:
        for method in ("GET", "PUT"):
            with self.subTest(method):
                server = self.serve(config_map(entries("a")))
                fault = refusal(403, "Forbidden", "configmaps is forbidden")
                server.faults[f"{method} {CONFIG_MAP}"] = [fault]
                self.assert_failed(self.run_it(entries("a", "b")), "configmaps is forbidden")

    def test_there_is_no_config_map(self) -> None:
        self.serve(None)
        self.assert_failed(self.run_it(entries("a")), f"GET {CONFIG_MAP}")

    def test_the_connection_is_lost_before_it_is_done(self) -> None:
        for method in ("GET", "PUT"):
            with self.subTest(method):
                server = self.serve(config_map(entries("a")))
                server.faults[f"{method} {CONFIG_MAP}"] = [break_off]
                self.assert_failed(self.run_it(entries("a", "b")), f"{method} {CONFIG_MAP}")
                self.assertEqual(self.present(), table(entries("a")))
                self.assertEqual(self.run_it(entries("a", "b")).status, 0)
                self.assertEqual(self.present(), table(entries("a", "b")))

    def test_the_connection_is_lost_when_it_is_done(self) -> None:
        server = self.serve(config_map(entries("a")))

        def do_and_break_off(connection: socket.socket) -> None:
            server.change(server.requests[-1].body)
            break_off_halfway(connection)

        server.faults[f"PUT {CONFIG_MAP}"] = [do_and_break_off]
        self.assert_failed(self.run_it(entries("a", "b")), f"PUT {CONFIG_MAP}")
        self.assertEqual(self.present(), table(entries("a", "b")))
        self.assertEqual(self.run_it(entries("a", "b")), Run(0, "2 subnets, as before\n", []))

    def test_nobody_listens(self) -> None:
        self.serve(config_map(entries("a")))
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        run = self.run_it(entries("b"), KUBERNETES_URL=f"http://127.0.0.1:{port}")
        self.assertEqual(run.status, 1)
        self.assertIn("refused", run.errors[0])

    def test_an_event_that_cannot_be_written_is_no_failure(self) -> None:
        server = self.serve(config_map())
        server.faults[f"POST {EVENTS}"] = [refusal(403, "Forbidden")]
        run = self.run_it(entries("a"))
        self.assertEqual((run.status, server.put), (0, 1))
        self.assertIn("no Event could be written", run.errors[0])

    def test_settings_that_cannot_be_used(self) -> None:
        self.serve(None)
        for environment in (
            {"NODE_LABEL": "zone"},
            {"KUBERNETES_URL": "nowhere"},
            {"KUBERNETES_URL": ""},
        ):
            with self.subTest(environment):
                run = self.run_it(entries("a"), **environment)
                self.assertEqual(run.status, 2)
                self.assertIn(next(iter(environment)), run.errors[0])


if __name__ == "__main__":
    unittest.main()
