"""Lookups over real sockets: every answer and every error of the README's tables."""

from __future__ import annotations

import socket
import unittest
from typing import ClassVar
from urllib.parse import quote

from tests.support import Response, fake_dns, running

ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"

RACKS = [
    {
        "CIDRBlock": "10.1.0.0/16",
        "AvailabilityZone": "dc-1",
        "NodeLabels": {"example.com/row": "row-2"},
    },
    {
        "CIDRBlock": "10.1.2.0/24",
        "AvailabilityZone": "dc-1",
        "NodeLabels": {"example.com/rack": "rack-a", "example.com/row": "row-2"},
    },
    {"CIDRBlock": "10.2.0.0/16", "AvailabilityZone": "eu-1", "AvailabilityZoneId": "eu1-az1"},
]

# reason and status of what is refused before anything is resolved
INVALID_QUERIES = [
    "",
    "fqdn",
    "fqdn=",
    "fqdn=db.test&fqdn=other.test",
    "fqdn=db.test&x=1",
    "x=1",
    "fqdn=db.test&",
    "fqdn=db.test&x=",
    "fqdn=%ff",
    "FQDN=db.test",
    "fqdn=" + ",".join(["db.test"] * 9),
]

INVALID_NAMES = [
    "db",
    "db.",
    "a" * 63,
    "localhost1",
    "1.2.3",
    "0x7f000001",
    "1.2.3.0x4",
    "2130706433",
    "256.1.1.1",
    "1.2.3.4.5",
    "01.2.3.4",
    "1.2.3.4.",
    "127.1",
    "fe80::1%eth0",
    "[fd00::1",
    "fd00::1]",
    "[[fd00::1]]",
    "[192.168.1.7]",
    "[]",
    "[db.test]",
    "fd00::1::2",
    "fd00:",
    "1:2:3:4:5:6:7:8:9",
    "fd00::10000",
    "::ffff:192.168.1.256",
    ":",
    ".",
    "..",
    "a..b",
    ".a",
    "a..",
    "-a.test",
    "a-.test",
    "a b",
    " db.test",
    "db.test\n",
    "db.test\r\nx: y",
    "{{ request.object }}",
    "db.test/../x",
    "bücher.test",
    "\u212aelvin.test",
    "a" * 64 + ".test",
    ".".join(["a" * 49] * 5) + ".test",  # 254 octets
    "x\0y",
]

VALID_NAMES = [
    "localhost",
    "db.test.",
    "DB.Test",
    "_srv._tcp.db.test",
    "a_b.test",
    "3com.test",
    "x--y.test",
    "xn--bcher-kva.test",
    "a" * 63 + ".test",
    ".".join(["a" * 49] * 4 + ["a" * 48]) + ".test",  # 253 octets
    "1.2.3.4a",
]


class AnswerTest(unittest.TestCase):
    def test_an_address_is_answered_without_dns(self) -> None:
        with fake_dns() as dns, running() as client:
            response = client.lookup("192.168.1.7")
        self.assertEqual(response.status, 200)
        self.assertEqual(
            response.body,
            {
                "fqdn": "192.168.1.7",
                "address": "192.168.1.7",
                "subnet": "192.168.0.0/19",
                "zone": "eu-central-1b",
                "zoneId": "euc1-az3",
                "nodeLabels": [{"key": ZONE, "values": ["eu-central-1b"], "weight": 100}],
                "nodeSelector": {ZONE: "eu-central-1b"},
            },
        )
        self.assertEqual(dns.asked, [])

    def test_a_name_is_answered_with_its_address(self) -> None:
        with fake_dns(db=["192.168.33.4"]), running() as client:
            response = client.lookup("db.test")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.body["fqdn"], "db.test")
        self.assertEqual(response.body["address"], "192.168.33.4")
        self.assertEqual(response.body["zone"], "eu-central-1a")
        self.assertNotIn("stale", response.body)

    def test_valid_names_reach_dns(self) -> None:
        with fake_dns() as dns, running() as client:
            dns.answers = {name.lower().rstrip("."): ["192.168.1.1"] for name in VALID_NAMES}
            for name in VALID_NAMES:
                with self.subTest(name):
                    self.assertEqual(client.lookup(name).status, 200)

    def test_head_is_get_without_a_body(self) -> None:
        with running() as client:
            target = "/lookup?fqdn=192.168.1.7"
            get, head = client.request(target), client.request(target, "HEAD")
        self.assertEqual(head.status, 200)
        self.assertEqual(head.headers["Content-Length"], get.headers["Content-Length"])
        self.assertEqual(head.body, "")

    def test_several_addresses_in_one_zone_are_answered(self) -> None:
        with fake_dns(db=["192.168.96.1", "192.168.0.1"]), running() as client:
            response = client.lookup("db.test")
        self.assertEqual(response.body["zone"], "eu-central-1b")
        self.assertEqual(response.body["address"], "192.168.0.1")

    def test_labels_that_not_all_addresses_share_are_left_out(self) -> None:
        with fake_dns(db=["10.1.2.1", "10.1.9.1"]), running(RACKS) as client:
            body = client.lookup("db.test").body
        self.assertEqual(
            body["nodeLabels"],
            [
                {"key": "example.com/row", "values": ["row-2"], "weight": 100},
                {"key": ZONE, "values": ["dc-1"], "weight": 50},
            ],
        )

    def test_the_most_specific_label_comes_first(self) -> None:
        with running(RACKS) as client:
            body = client.lookup("10.1.2.3").body
        self.assertEqual(body["subnet"], "10.1.2.0/24")
        self.assertIsNone(body["zoneId"])
        self.assertEqual(
            body["nodeLabels"],
            [
                {"key": "example.com/rack", "values": ["rack-a"], "weight": 100},
                {"key": "example.com/row", "values": ["row-2"], "weight": 50},
                {"key": ZONE, "values": ["dc-1"], "weight": 25},
            ],
        )

    def test_node_label_may_be_the_zone_id(self) -> None:
        with running(RACKS, NODE_LABEL=ZONE_ID) as client:
            cloud, rack = client.lookup("10.2.0.1").body, client.lookup("10.1.9.9").body
        self.assertEqual(
            cloud["nodeLabels"], [{"key": ZONE_ID, "values": ["eu1-az1"], "weight": 100}]
        )
        with self.subTest("a subnet without an id has the zone's name"):
            self.assertEqual(
                rack["nodeLabels"][-1], {"key": ZONE, "values": ["dc-1"], "weight": 50}
            )


class ErrorTest(unittest.TestCase):
    def assert_error(self, response: Response, status: int, reason: str, *values: str) -> None:
        self.assertEqual((response.status, response.body["reason"]), (status, reason))
        self.assertEqual(set(response.body), {"error", "reason"})
        self.assertEqual(response.headers["Content-Type"], "application/json")
        for value in values:
            self.assertIn(value, response.body["error"])

    def test_invalid_queries(self) -> None:
        with fake_dns() as dns, running() as client:
            for query in INVALID_QUERIES:
                with self.subTest(query):
                    self.assert_error(client.request(f"/lookup?{query}"), 400, "InvalidRequest")
        self.assertEqual(dns.asked, [])

    def test_of_many_addresses_some_are_named(self) -> None:
        for number, ending in ((16, "10.9.9.15 is"), (17, "10.9.9.15, ... is")):
            addresses = [f"10.9.9.{each}" for each in range(number)]
            with self.subTest(number), fake_dns(db=addresses), running() as client:
                self.assert_error(client.lookup("db.test"), 404, "ZoneNotFound", "10.9.9.0", ending)

    def test_invalid_names(self) -> None:
        with fake_dns() as dns, running() as client:
            for name in INVALID_NAMES:
                with self.subTest(name):
                    response = client.request(f"/lookup?fqdn={quote(name)}")
                    self.assert_error(response, 400, "InvalidName", repr(name)[:100])
        self.assertEqual(dns.asked, [])

    def test_what_dns_says(self) -> None:
        cases: list[tuple[list[str] | Exception, int, str]] = [
            (socket.gaierror(socket.EAI_NONAME, "unknown"), 404, "NameNotFound"),
            (socket.gaierror(socket.EAI_NODATA, "no address"), 404, "NameNotFound"),
            ([], 404, "NameNotFound"),
            (["10.9.9.9"], 404, "ZoneNotFound"),
            (socket.gaierror(socket.EAI_AGAIN, "try again"), 502, "ResolverFailure"),
            (socket.gaierror(socket.EAI_FAIL, "failed"), 502, "ResolverFailure"),
            (OSError(24, "too many open files"), 502, "ResolverFailure"),
            (MemoryError("no memory"), 502, "ResolverFailure"),
        ]
        for answer, status, reason in cases:
            with self.subTest(answer), fake_dns(db=answer), running() as client:
                self.assert_error(client.lookup("db.test"), status, reason, "db.test")

    def test_other_paths_and_methods(self) -> None:
        with running() as client:
            for path in ("/lookup/", "/x?fqdn=192.168.1.7", "//lookup", "*", "lookup"):
                with self.subTest(path):
                    self.assert_error(client.request(path), 404, "NotFound", "/lookup", "/metrics")
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
                with self.subTest(method):
                    response = client.request("/lookup?fqdn=192.168.1.7", method)
                    self.assert_error(response, 405, "MethodNotAllowed", method)
                    self.assertEqual(response.headers["Allow"], "GET, HEAD")

    def test_the_value_is_shown_in_bounds(self) -> None:
        with running() as client:
            body = client.lookup("x" * 5000).body
        self.assertLess(len(str(body["error"])), 500)


class SeveralZonesTest(unittest.TestCase):
    """A name in several zones: addresses, the expected terms, and whether a zone may be insisted on."""

    B, A, C = "192.168.0.", "192.168.32.", "192.168.64."  # one subnet for each zone
    CASES: ClassVar[list[tuple[list[str], list[tuple[list[str], int]]]]] = [
        ([B + "1", B + "2", A + "1"], [(["eu-central-1b"], 100), (["eu-central-1a"], 50)]),
        ([B + "1", A + "1"], [(["eu-central-1a", "eu-central-1b"], 100)]),
        ([C + "1", B + "1", A + "1"], [(["eu-central-1a", "eu-central-1b", "eu-central-1c"], 100)]),
        (
            [B + "1", B + "2", B + "3", A + "1", A + "2", C + "1"],
            [(["eu-central-1b"], 100), (["eu-central-1a"], 67), (["eu-central-1c"], 33)],
        ),
        # Outside the table, an address counts for no zone, but nothing is sure any more.
        ([B + "1", "10.9.9.9"], [(["eu-central-1b"], 100)]),
        (
            [B + "1", A + "1", A + "2", "10.9.9.9"],
            [(["eu-central-1a"], 100), (["eu-central-1b"], 50)],
        ),
    ]

    def test_zones_are_preferred_by_their_share_and_none_is_insisted_on(self) -> None:
        for addresses, terms in self.CASES:
            with self.subTest(addresses), fake_dns(db=addresses), running() as client:
                body = client.lookup("db.test").body
                found = [(term["values"], term["weight"]) for term in body["nodeLabels"]]
                self.assertEqual(found, terms)
                self.assertEqual({term["key"] for term in body["nodeLabels"]}, {ZONE})
                self.assertEqual(body["nodeSelector"], {})
                for key in ("address", "subnet", "zone", "zoneId"):
                    self.assertIsNone(body[key])

    def test_each_address_is_listed_with_what_is_known_of_it(self) -> None:
        with fake_dns(db=["192.168.33.1", "192.168.0.1", "10.9.9.9"]), running() as client:
            body = client.lookup("db.test").body
        keys = ("address", "subnet", "zone", "zoneId")
        self.assertEqual(
            [tuple(each[key] for key in keys) for each in body["addresses"]],
            [
                ("10.9.9.9", None, None, None),
                ("192.168.0.1", "192.168.0.0/19", "eu-central-1b", "euc1-az3"),
                ("192.168.33.1", "192.168.32.0/19", "eu-central-1a", "euc1-az2"),
            ],
        )

    def test_by_zone_id_it_is_the_same(self) -> None:
        addresses = ["192.168.0.1", "192.168.32.1"]
        with fake_dns(db=addresses), running(NODE_LABEL=ZONE_ID) as client:
            body = client.lookup("db.test").body
        terms = [{"key": ZONE_ID, "values": ["euc1-az2", "euc1-az3"], "weight": 100}]
        self.assertEqual(body["nodeLabels"], terms)

    def test_the_more_specific_labels_of_several_zones_are_left_out(self) -> None:
        with fake_dns(db=["10.1.2.1", "10.2.0.1"]), running(RACKS) as client:
            body = client.lookup("db.test").body
        terms = [{"key": ZONE, "values": ["dc-1", "eu-1"], "weight": 100}]
        self.assertEqual(body["nodeLabels"], terms)

    def test_more_addresses_than_any_database_has_are_a_failure(self) -> None:
        addresses = [f"192.168.0.{number}" for number in range(1, 130)]
        with fake_dns(db=addresses, ok=addresses[:128]), running() as client:
            response = client.lookup("db.test")
            self.assertEqual((response.status, response.body["reason"]), (502, "ResolverFailure"))
            self.assertIn("129", response.body["error"])
            self.assertEqual(client.lookup("ok.test").status, 200)


class SelectorTest(unittest.TestCase):
    """When a zone may be insisted on."""

    NAMES: ClassVar[dict[str, list[str] | Exception]] = {
        "db": ["192.168.0.1"],
        "cache": ["192.168.32.1"],
        "lb": ["192.168.0.1", "192.168.32.1"],
        "far": ["10.9.9.9"],
        "partly": ["192.168.0.1", "10.9.9.9"],
        "failing": socket.gaierror(socket.EAI_AGAIN, "try again"),
    }
    # names, the zone that is told, the zone that may be insisted on
    CASES: ClassVar[list[tuple[list[str], str | None, str | None]]] = [
        (["db"], "eu-central-1b", "eu-central-1b"),
        (["db", "cache"], "eu-central-1b", "eu-central-1b"),
        (["cache", "db"], "eu-central-1a", "eu-central-1a"),
        (["lb"], None, None),
        (["lb", "cache"], None, None),
        (["cache", "lb"], "eu-central-1a", "eu-central-1a"),
        (["partly"], None, None),
        (["db", "partly"], "eu-central-1b", None),
        (["db", "far"], "eu-central-1b", None),
        (["db", "gone"], "eu-central-1b", None),
        (["failing", "cache"], "eu-central-1a", None),
        (["db", "failing"], "eu-central-1b", None),
    ]

    def test_by_what_is_known_of_the_names(self) -> None:
        with fake_dns(**self.NAMES), running() as client:
            for names, zone, selected in self.CASES:
                with self.subTest(names):
                    body = client.lookup(*(f"{name}.test" for name in names)).body
                    self.assertEqual(body["zone"], zone)
                    selector = {ZONE: selected} if selected else {}
                    self.assertEqual(body["nodeSelector"], selector)

    def test_a_stale_answer_is_never_insisted_on(self) -> None:
        with fake_dns(**self.NAMES) as dns, running(DNS_CACHE_TTL="0") as client:
            self.assertEqual(client.lookup("db.test").body["nodeSelector"], {ZONE: "eu-central-1b"})
            dns.answers["db.test"] = self.NAMES["failing"]
            for names in (["db.test"], ["db.test", "cache.test"], ["cache.test", "db.test"]):
                body = client.lookup(*names).body
                self.assertTrue(body["stale"])
                self.assertEqual(body["nodeSelector"], {})
                self.assertIn("eu-central-1b", str(body["nodeLabels"]))


class AvoidedZonesTest(unittest.TestCase):
    def test_an_avoided_zone_is_told_but_not_asked_for(self) -> None:
        for avoided in ("eu-central-1b", "euc1-az3", "eu-west-1a, euc1-az3"):
            with self.subTest(avoided), running(AVOID_ZONES=avoided) as client:
                body = client.lookup("192.168.1.7").body
                self.assertEqual((body["zone"], body["zoneId"]), ("eu-central-1b", "euc1-az3"))
                self.assertEqual((body["nodeLabels"], body["nodeSelector"]), ([], {}))
                other = client.lookup("192.168.33.7").body
                self.assertEqual(other["nodeSelector"], {ZONE: "eu-central-1a"})

    def test_the_other_names_and_the_other_zones_of_a_name_are_preferred(self) -> None:
        lb = ["192.168.0.1", "192.168.0.2", "192.168.32.1", "192.168.64.1"]
        with fake_dns(lb=lb), running(AVOID_ZONES="eu-central-1b") as client:
            several = client.lookup("lb.test").body
            names = client.lookup("192.168.1.7", "192.168.33.7").body
        zones = ["eu-central-1a", "eu-central-1c"]
        self.assertEqual(several["nodeLabels"], [{"key": ZONE, "values": zones, "weight": 100}])
        self.assertEqual(names["nodeLabels"], [{"key": ZONE, "values": zones[:1], "weight": 100}])
        self.assertEqual((several["nodeSelector"], names["nodeSelector"]), ({}, {}))
        self.assertEqual(names["zone"], "eu-central-1a")

    def test_a_name_that_is_partly_in_an_avoided_zone_lets_nothing_be_insisted_on(self) -> None:
        lb = ["192.168.0.1", "192.168.32.1"]
        with fake_dns(lb=lb), running(AVOID_ZONES="eu-central-1b") as client:
            self.assertEqual(client.lookup("192.168.65.7", "lb.test").body["nodeSelector"], {})


class AllowedDomainsTest(unittest.TestCase):
    # names, and whether they are in one of the domains db.test and example.com
    CASES: ClassVar[list[tuple[str, bool]]] = [
        ("db.test", True),
        ("a.db.test", True),
        ("A.DB.test.", True),
        ("a.b.example.com", True),
        ("192.168.1.7", True),
        ("xdb.test", False),
        ("test", False),
        ("example.com.evil.test", False),
        ("example.org", False),
        ("localhost", False),
    ]

    def test_other_names_are_refused_and_not_asked_for(self) -> None:
        for setting in ("db.test,example.com", " .DB.test. , Example.com"):
            with fake_dns() as dns, running(ALLOWED_DOMAINS=setting) as client:
                dns.answers = {name.lower().strip("."): ["192.168.0.1"] for name, _ in self.CASES}
                for name, is_allowed in self.CASES:
                    with self.subTest(name):
                        response = client.lookup(name)
                        refused = (
                            (400, "InvalidName") if name == "test" else (403, "NameNotAllowed")
                        )
                        if is_allowed:
                            self.assertEqual(response.status, 200)
                        else:
                            found = (response.status, response.body["reason"])
                            self.assertEqual(found, refused)
                            self.assertIn(repr(name), response.body["error"])
                self.assertEqual(dns.asked, ["db.test", "a.db.test", "a.b.example.com"])


class SeveralNamesTest(unittest.TestCase):
    def test_the_first_name_that_can_be_placed_gives_the_zone(self) -> None:
        with fake_dns(db=["192.168.0.1"], cache=["192.168.32.1"]), running() as client:
            response = client.lookup("gone.test", "db.test", "1.2.3", "cache.test")
        self.assertEqual(response.status, 200)
        errors = response.body["errors"]
        self.assertEqual(
            [(error["fqdn"], error["reason"]) for error in errors],
            [("gone.test", "NameNotFound"), ("1.2.3", "InvalidName")],
        )
        self.assertEqual(response.body["fqdn"], "db.test")
        self.assertEqual(response.body["zone"], "eu-central-1b")
        self.assertEqual(
            response.body["nodeLabels"],
            [
                {"key": ZONE, "values": ["eu-central-1b"], "weight": 100},
                {"key": ZONE, "values": ["eu-central-1a"], "weight": 50},
            ],
        )

    def test_the_weights_of_all_names_are_one_falling_sequence(self) -> None:
        with running(RACKS) as client:
            body = client.lookup("10.1.2.3", "10.2.0.1").body
            self.assertEqual([term["weight"] for term in body["nodeLabels"]], [100, 50, 25, 12])
            body = client.lookup("10.2.0.1", "10.1.2.3").body
            self.assertEqual([term["weight"] for term in body["nodeLabels"]], [100, 50, 25, 12])
            self.assertEqual(body["nodeLabels"][0]["values"], ["eu-1"])

    def test_a_name_in_several_zones_outweighs_those_behind_it(self) -> None:
        lb = ["192.168.0.1", "192.168.0.2", "192.168.32.1"]
        with fake_dns(lb=lb), running() as client:
            body = client.lookup("lb.test", "192.168.64.1").body
        self.assertEqual([term["weight"] for term in body["nodeLabels"]], [100, 50, 25])
        self.assertEqual((body["fqdn"], body["zone"]), ("lb.test", None))

    def test_a_weight_is_never_less_than_1_and_equal_ones_are_one_term(self) -> None:
        table = [
            {"CIDRBlock": f"10.{number}.0.0/16", "AvailabilityZone": f"zone-{number}"}
            for number in range(8)
        ]
        uneven = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1"]
        with fake_dns(uneven=uneven), running(table) as client:
            names = [f"10.{number}.0.1" for number in range(2, 8)]
            for last in (["10.0.0.1", "10.1.0.1"], ["uneven.test"]):
                with self.subTest(last):
                    terms = client.lookup(*names, *last).body["nodeLabels"]
                    weights = [term["weight"] for term in terms]
                    self.assertEqual(weights, [100, 50, 25, 12, 6, 3, 1])
                    self.assertEqual(terms[-1]["values"], ["zone-0", "zone-1"])

    def test_a_label_of_several_names_is_given_once_with_its_highest_weight(self) -> None:
        with running(RACKS) as client:
            body = client.lookup("10.1.9.9", "10.2.0.1", "10.1.2.3").body
        self.assertEqual(
            body["nodeLabels"],
            [
                {"key": "example.com/row", "values": ["row-2"], "weight": 100},
                {"key": ZONE, "values": ["dc-1"], "weight": 50},
                {"key": ZONE, "values": ["eu-1"], "weight": 25},
                {"key": "example.com/rack", "values": ["rack-a"], "weight": 12},
            ],
        )

    def test_a_name_given_twice_is_one_name(self) -> None:
        with fake_dns(db=["192.168.0.1"]) as dns, running() as client:
            body = client.lookup("db.test", "DB.test.", "db.test").body
        self.assertEqual(dns.asked, ["db.test"])
        self.assertEqual([term["weight"] for term in body["nodeLabels"]], [100])

    def test_when_none_can_be_placed_it_is_the_first_name_s_error(self) -> None:
        with fake_dns(db=["10.9.9.9"]), running() as client:
            response = client.lookup("db.test", "gone.test")
        self.assertEqual(response.status, 404)
        self.assertEqual(response.body["reason"], "ZoneNotFound")

    def test_names_are_resolved_side_by_side(self) -> None:
        with fake_dns(db=["192.168.0.1"]) as dns, running(DNS_TIMEOUT="0.2") as client:
            dns.silent = {f"silent{number}.test" for number in range(7)}
            response = client.lookup(*sorted(dns.silent), "db.test")
        self.assertEqual(response.status, 200)
        errors = response.body["errors"]
        self.assertEqual({error["reason"] for error in errors}, {"ResolverTimeout"})
        self.assertEqual(len(errors), 7)


if __name__ == "__main__":
    unittest.main()
