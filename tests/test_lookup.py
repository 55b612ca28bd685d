"""Lookups over real sockets: every answer and every error of the README's tables."""

from __future__ import annotations

import socket
import unittest
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
    "fqdn=%ff",
    "FQDN=db.test",
    "fqdn=" + ",".join(["db.test"] * 9),
]

INVALID_NAMES = [
    "1.2.3",
    "0x7f000001",
    "1.2.3.0x4",
    "2130706433",
    "256.1.1.1",
    "1.2.3.4.5",
    "01.2.3.4",
    "1.2.3.4.",
    "127.1",
    "::1",
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
    "a",
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
                "nodeLabels": [{"key": ZONE, "value": "eu-central-1b", "weight": 100}],
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
            dns.answers = {name.lower(): ["192.168.1.1"] for name in VALID_NAMES}
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
                {"key": "example.com/row", "value": "row-2", "weight": 100},
                {"key": ZONE, "value": "dc-1", "weight": 50},
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
                {"key": "example.com/rack", "value": "rack-a", "weight": 100},
                {"key": "example.com/row", "value": "row-2", "weight": 50},
                {"key": ZONE, "value": "dc-1", "weight": 25},
            ],
        )

    def test_node_label_may_be_the_zone_id(self) -> None:
        with running(RACKS, NODE_LABEL=ZONE_ID) as client:
            cloud, rack = client.lookup("10.2.0.1").body, client.lookup("10.1.9.9").body
        self.assertEqual(cloud["nodeLabels"], [{"key": ZONE_ID, "value": "eu1-az1", "weight": 100}])
        with self.subTest("a subnet without an id has the zone's name"):
            self.assertEqual(rack["nodeLabels"][-1], {"key": ZONE, "value": "dc-1", "weight": 50})


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

    def test_addresses_in_several_zones_are_listed_with_them(self) -> None:
        for addresses in (["192.168.0.1", "192.168.32.1"], ["192.168.0.1", "10.9.9.9"]):
            with self.subTest(addresses), fake_dns(db=addresses), running() as client:
                response = client.lookup("db.test")
                self.assert_error(response, 409, "AmbiguousZone", "eu-central-1b", *addresses)

    def test_other_paths_and_methods(self) -> None:
        with running() as client:
            for path in ("/", "/lookup/", "/x?fqdn=192.168.1.7", "//lookup"):
                with self.subTest(path):
                    self.assert_error(client.request(path), 404, "NotFound")
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
                with self.subTest(method):
                    response = client.request("/lookup?fqdn=192.168.1.7", method)
                    self.assert_error(response, 405, "MethodNotAllowed", method)
                    self.assertEqual(response.headers["Allow"], "GET, HEAD")

    def test_the_value_is_shown_in_bounds(self) -> None:
        with running() as client:
            body = client.lookup("x" * 5000).body
        self.assertLess(len(str(body["error"])), 500)


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
                {"key": ZONE, "value": "eu-central-1a", "weight": 50},
                {"key": ZONE, "value": "eu-central-1b", "weight": 100},
            ],
        )

    def test_a_label_of_several_names_is_given_once_with_its_highest_weight(self) -> None:
        with running(RACKS) as client:
            body = client.lookup("10.1.2.3", "10.1.9.9", "10.2.0.1").body
        self.assertEqual(
            body["nodeLabels"],
            [
                {"key": "example.com/rack", "value": "rack-a", "weight": 100},
                {"key": "example.com/row", "value": "row-2", "weight": 50},
                {"key": ZONE, "value": "eu-1", "weight": 25},
                {"key": ZONE, "value": "dc-1", "weight": 25},
            ],
        )

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
