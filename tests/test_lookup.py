"""Lookups over real sockets: every answer and every error of the README's tables."""

from __future__ import annotations

import socket
import unittest
from typing import ClassVar
from urllib.parse import quote

from tests.support import Response, fake_dns, running
from tests.test_host import INVALID_NAMES, VALID_NAMES

ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"

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


# what a client calls itself, and who asks then
AGENTS = [
    ("Kyverno/v1.19.0", "engine"),
    ("Go-http-client/1.1", "engine"),
    ("", "engine"),
    ("curl/8.5.0", "person"),
    ("Wget/1.21", "person"),
    ("Mozilla/5.0 (X11)", "person"),
    ("libcurl/8", "engine"),
    ("automatic-zone-placement/relocation", "relocation"),
]


class AskerTest(unittest.TestCase):
    def test_lookups_are_counted_by_who_asks(self) -> None:
        with running() as client:
            for agent, asker in AGENTS:
                sample = f'lookups_total{{outcome="Success",asker="{asker}"}}'
                before = client.metric(sample)
                with self.subTest(agent):
                    client.request("/lookup?fqdn=192.168.1.7", **{"User-Agent": agent})
                    self.assertEqual(client.metric(sample), before + 1)


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


class AddressesTest(unittest.TestCase):
    def test_a_name_in_several_zones(self) -> None:
        with fake_dns(lb=["192.168.0.1", "192.168.32.1"]), running() as client:
            body = client.lookup("lb.test").body
        self.assertEqual((body["address"], body["zone"], body["nodeSelector"]), (None, None, {}))
        self.assertEqual(len(body["addresses"]), 2)
        zones = ["eu-central-1a", "eu-central-1b"]
        self.assertEqual(body["nodeLabels"], [{"key": ZONE, "values": zones, "weight": 100}])

    def test_more_addresses_than_any_database_has_are_a_failure(self) -> None:
        addresses = [f"192.168.0.{number}" for number in range(1, 130)]
        with fake_dns(db=addresses, ok=addresses[:128]), running() as client:
            response = client.lookup("db.test")
            self.assertEqual((response.status, response.body["reason"]), (502, "ResolverFailure"))
            self.assertIn("129", response.body["error"])
            self.assertEqual(client.lookup("ok.test").status, 200)


class SettingsTest(unittest.TestCase):
    def test_a_zone_that_is_avoided_is_told_but_not_preferred(self) -> None:
        with running(AVOID_ZONES="eu-west-1a, euc1-az3") as client:
            body = client.lookup("192.168.1.7").body
        self.assertEqual((body["zone"], body["nodeLabels"]), ("eu-central-1b", []))

    def test_the_node_label_may_be_the_zone_s_id(self) -> None:
        with running(NODE_LABEL=ZONE_ID) as client:
            body = client.lookup("192.168.1.7").body
        self.assertEqual(body["nodeSelector"], {ZONE_ID: "euc1-az3"})


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
