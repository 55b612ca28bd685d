"""From addresses to the answer: without sockets, and without DNS."""

from __future__ import annotations

import json
import unittest
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from common.errors import NameNotFound, ResolverTimeout, ServiceError
from lookup.placement import Answer, Placement
from lookup.resolver import Resolution, Result
from lookup.table_reader import load
from tests.support import SUBNETS

ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"
ROW, RACK = "example.com/row", "example.com/rack"

A, B, C = "eu-central-1a", "eu-central-1b", "eu-central-1c"

RACKS: list[dict[str, Any]] = [
    {"CIDRBlock": "10.1.0.0/16", "AvailabilityZone": "dc-1", "NodeLabels": {ROW: "2"}},
    {"CIDRBlock": "10.1.2.0/24", "AvailabilityZone": "dc-1", "NodeLabels": {RACK: "a", ROW: "2"}},
    {"CIDRBlock": "10.2.0.0/16", "AvailabilityZone": "eu-1", "AvailabilityZoneId": "eu1-az1"},
]

# One name for two zones, as where the tables of two AWS accounts were merged.
AMBIGUOUS: list[dict[str, Any]] = [
    {
        "CIDRBlock": f"10.3{n}.0.0/16",
        "AvailabilityZone": "us-1a",
        "AvailabilityZoneId": f"us1-az{n}",
    }
    for n in (1, 2)
]

# What the names are. IN_A is an address in eu-central-1a, and so on.
IN_A, IN_B, IN_C, NOWHERE = "192.168.32.1", "192.168.0.1", "192.168.64.1", "10.99.9.9"


def resolution(*addresses: str, **doubts: bool) -> Resolution:
    return Resolution(map(ip_address, addresses), **doubts)


NAMES: dict[str, Result] = {
    "a": resolution(IN_A),
    "b": resolution(IN_B),
    "c": resolution(IN_C),
    "b twice": resolution(IN_B, "192.168.96.1"),
    "a and b": resolution(IN_A, IN_B),
    "b, partly": resolution(IN_B, NOWHERE),
    "nowhere": resolution(NOWHERE),
    "stale b": resolution(IN_B, stale=True),
    "incomplete b": resolution(IN_B, incomplete=True),
    "ambiguous": resolution("10.31.0.1"),
    "other ambiguous": resolution("10.32.0.1"),
    "b and ambiguous": resolution(IN_B, "10.31.0.1"),
    "gone": NameNotFound("gone"),
    "silent": ResolverTimeout("silent"),
}

# names, of which one the answer tells, the zone that it tells, and the one that it insists on
TOLD: list[tuple[list[str], str, str | None, str | None]] = [
    (["b"], "b", B, B),
    (["b twice"], "b twice", B, B),
    (["b", "a"], "b", B, B),
    (["a", "b"], "a", A, A),
    # The first name comes first, even if it is in several zones.
    (["a and b"], "a and b", None, None),
    (["a and b", "a"], "a and b", None, None),
    (["a and b", "c"], "a and b", None, None),
    (["a", "a and b"], "a", A, A),
    # Not all is known, so nothing is insisted on.
    (["b, partly"], "b, partly", None, None),
    (["a", "b, partly"], "a", A, None),
    (["a", "nowhere"], "a", A, None),
    (["nowhere", "a"], "a", A, None),
    (["gone", "a"], "a", A, None),
    (["a", "silent"], "a", A, None),
    (["stale b"], "stale b", B, None),
    (["a", "stale b"], "a", A, None),
    (["incomplete b"], "incomplete b", B, None),
    (["a", "incomplete b"], "a", A, None),
    # eu-central-1c is to be avoided. What is told is what is preferred, if anything is.
    (["c"], "c", C, None),
    (["c", "a"], "a", A, None),
    (["a", "c"], "a", A, None),
    (["c", "a and b"], "a and b", None, None),
    (["a and b", "c"], "a and b", None, None),
    # So is what is ambiguous.
    (["ambiguous"], "ambiguous", "us-1a", None),
    (["ambiguous", "a"], "a", A, None),
    (["a", "ambiguous"], "a", A, None),
    (["b and ambiguous"], "b and ambiguous", None, None),
    (["c", "ambiguous"], "c", C, None),
]

# the same names, and what of them is doubtful
DOUBTS = [
    (["b"], set()),
    (["stale b"], {"stale"}),
    (["a", "stale b"], {"stale"}),
    (["incomplete b", "a"], {"incomplete"}),
    (["ambiguous"], {"ambiguous"}),
    (["a", "other ambiguous"], {"ambiguous"}),
    (["b and ambiguous", "stale b"], {"ambiguous", "stale"}),
    (["a", "gone"], {"errors"}),
    (["c"], set()),
]

# addresses of one name, and the zones that are preferred with their weights
SHARES: list[tuple[list[str], list[tuple[list[str], int]]]] = [
    ([IN_B, "192.168.0.2", IN_A], [([B], 100), ([A], 50)]),
    ([IN_B, IN_A], [([A, B], 100)]),
    ([IN_C, IN_B, IN_A], [([A, B, C], 100)]),
    (
        [IN_B, "192.168.0.2", "192.168.0.3", IN_A, "192.168.32.2", IN_C],
        [([B], 100), ([A], 67), ([C], 33)],
    ),
    # Outside the table, an address counts for no zone.
    ([IN_B, NOWHERE], [([B], 100)]),
    ([IN_B, IN_A, "192.168.32.2", NOWHERE], [([A], 100), ([B], 50)]),
]

# names as addresses, and the labels with their weights
LABELS: list[tuple[list[list[str]], list[tuple[str, list[str], int]]]] = [
    ([["10.1.2.3"]], [(RACK, ["a"], 100), (ROW, ["2"], 50), (ZONE, ["dc-1"], 25)]),
    # What not all addresses share is left out, in one zone as in several.
    ([["10.1.2.1", "10.1.9.1"]], [(ROW, ["2"], 100), (ZONE, ["dc-1"], 50)]),
    ([["10.1.2.1", "10.2.0.1"]], [(ZONE, ["dc-1", "eu-1"], 100)]),
    # The weights of all names are one falling sequence.
    (
        [["10.1.2.3"], ["10.2.0.1"]],
        [(RACK, ["a"], 100), (ROW, ["2"], 50), (ZONE, ["dc-1"], 25), (ZONE, ["eu-1"], 12)],
    ),
    (
        [["10.2.0.1"], ["10.1.2.3"]],
        [(ZONE, ["eu-1"], 100), (RACK, ["a"], 50), (ROW, ["2"], 25), (ZONE, ["dc-1"], 12)],
    ),
    # A label of several names is there once, with its highest weight.
    (
        [["10.1.9.9"], ["10.2.0.1"], ["10.1.2.3"]],
        [(ROW, ["2"], 100), (ZONE, ["dc-1"], 50), (ZONE, ["eu-1"], 25), (RACK, ["a"], 12)],
    ),
]


def answered(placement: Placement, results: dict[str, Result]) -> Answer:
    answer = placement.answer(results)
    assert isinstance(answer, Answer), answer
    return answer


class ToldTest(unittest.TestCase):
    def setUp(self) -> None:
        self.placement = Placement(load(SUBNETS + AMBIGUOUS), avoided=[C])

    def answer(self, names: Sequence[str]) -> Answer:
        return answered(self.placement, {name: NAMES[name] for name in names})

    def test_of_which_name_it_tells_and_on_which_zone_it_insists(self) -> None:
        for names, told, zone, insisted in TOLD:
            with self.subTest(names):
                answer = self.answer(names)
                self.assertEqual((answer.fqdn, answer.zone), (told, zone))
                self.assertEqual(dict(answer.node_selector), {ZONE: insisted} if insisted else {})

    def test_the_zone_that_it_tells_is_the_one_that_it_prefers_most(self) -> None:
        for names, _, zone, _ in TOLD:
            answer = self.answer(names)
            if zone and answer.node_labels:
                with self.subTest(names):
                    self.assertEqual(answer.node_labels[0], (ZONE, (zone,), 100))

    def test_what_is_doubtful_is_said(self) -> None:
        for names, doubts in DOUBTS:
            with self.subTest(names):
                body = json.loads(self.answer(names).body)
                self.assertEqual({"stale", "incomplete", "ambiguous", "errors"} & set(body), doubts)
                self.assertTrue(all(body[doubt] for doubt in doubts))

    def test_why_nothing_is_preferred(self) -> None:
        for names, reason in (
            (["b"], ""),
            (["c"], "ZoneAvoided"),
            (["ambiguous"], "ZoneAmbiguous"),
            (["c", "ambiguous"], "ZoneAmbiguous"),
            (["c", "a"], ""),
        ):
            with self.subTest(names):
                self.assertEqual(self.answer(names).reason, reason)

    def test_what_is_avoided_by_its_id(self) -> None:
        for avoided in ([B], ["euc1-az3"], ["eu-west-1a", "euc1-az3"]):
            placement = Placement(load(SUBNETS), avoided=avoided)
            with self.subTest(avoided):
                answer = answered(placement, {"b": NAMES["b"]})
                self.assertEqual((answer.zone, answer.zone_id), (B, "euc1-az3"))
                self.assertEqual((answer.node_labels, answer.node_selector), ((), ()))
                answer = answered(placement, {"a and b": NAMES["a and b"]})
                self.assertEqual(answer.node_labels, ((ZONE, (A,), 100),))

    def test_by_its_id_nothing_is_ambiguous(self) -> None:
        placement = Placement(load(SUBNETS + AMBIGUOUS, node_label=ZONE_ID), ZONE_ID)
        answer = answered(placement, {"x": NAMES["ambiguous"]})
        self.assertEqual(answer.node_selector, ((ZONE_ID, "us1-az1"),))
        self.assertFalse(answer.ambiguous)

    def test_without_any_place_it_is_the_first_name_s_error(self) -> None:
        for names, reason in (
            (["gone"], "NameNotFound"),
            (["silent", "gone"], "ResolverTimeout"),
            (["nowhere", "silent"], "ZoneNotFound"),
        ):
            with self.subTest(names):
                error = self.placement.answer({name: NAMES[name] for name in names})
                assert isinstance(error, ServiceError)
                self.assertEqual(error.reason, reason)


class WeightTest(unittest.TestCase):
    def test_zones_of_one_name_by_their_share(self) -> None:
        placement = Placement(load(SUBNETS))
        for addresses, expected in SHARES:
            with self.subTest(addresses):
                answer = answered(placement, {"x": resolution(*addresses)})
                found = [(list(each.values), each.weight) for each in answer.node_labels]
                self.assertEqual(found, expected)
                self.assertEqual({each.key for each in answer.node_labels}, {ZONE})
                self.assertEqual(answer.node_selector, ())

    def test_labels_of_the_subnets_and_of_several_names(self) -> None:
        placement = Placement(load(RACKS))
        for names, expected in LABELS:
            with self.subTest(names):
                results: dict[str, Result] = {each[0]: resolution(*each) for each in names}
                answer = answered(placement, results)
                found = [(key, list(values), weight) for key, values, weight in answer.node_labels]
                self.assertEqual(found, expected)

    def test_a_weight_is_never_less_than_1_and_equal_ones_are_one_term(self) -> None:
        table = [
            {"CIDRBlock": f"10.{number}.0.0/16", "AvailabilityZone": f"zone-{number}"}
            for number in range(8)
        ]
        placement = Placement(load(table))
        names = [[f"10.{number}.0.1"] for number in range(2, 8)]
        uneven = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1"]
        for last in ([["10.0.0.1"], ["10.1.0.1"]], [uneven]):
            results: dict[str, Result] = {each[0]: resolution(*each) for each in names + last}
            with self.subTest(last):
                labels = answered(placement, results).node_labels
                self.assertEqual([each.weight for each in labels], [100, 50, 25, 12, 6, 3, 1])
                self.assertEqual(labels[-1].values, ("zone-0", "zone-1"))

    def test_the_node_label_may_be_the_zone_s_id(self) -> None:
        placement = Placement(load(RACKS, node_label=ZONE_ID), ZONE_ID)
        answer = answered(placement, {"x": resolution("10.2.0.1")})
        self.assertEqual(answer.node_labels, ((ZONE_ID, ("eu1-az1",), 100),))
        with self.subTest("a subnet without an id has the zone's name"):
            answer = answered(placement, {"x": resolution("10.1.9.9")})
            self.assertEqual(answer.node_labels[-1], (ZONE, ("dc-1",), 50))


class BodyTest(unittest.TestCase):
    def body(self, *names: str) -> Any:
        placement = Placement(load(SUBNETS))
        return json.loads(answered(placement, {name: NAMES[name] for name in names}).body)

    def test_in_one_zone(self) -> None:
        self.assertEqual(
            self.body("b", "a"),
            {
                "fqdn": "b",
                "address": IN_B,
                "subnet": "192.168.0.0/19",
                "zone": B,
                "zoneId": "euc1-az3",
                "nodeLabels": [
                    {"key": ZONE, "values": [B], "weight": 100},
                    {"key": ZONE, "values": [A], "weight": 50},
                ],
                "nodeSelector": {ZONE: B},
            },
        )

    def test_in_several_zones_each_address_is_listed(self) -> None:
        body = self.body("b, partly")
        for key in ("address", "subnet", "zone", "zoneId"):
            self.assertIsNone(body[key])
        nowhere = {"address": NOWHERE, "subnet": None, "zone": None, "zoneId": None}
        there = {"address": IN_B, "subnet": "192.168.0.0/19", "zone": B, "zoneId": "euc1-az3"}
        self.assertEqual(body["addresses"], [nowhere, there])

    def test_errors_are_listed(self) -> None:
        errors = self.body("gone", "b", "silent")["errors"]
        self.assertEqual(
            errors,
            [
                {"fqdn": "gone", "error": "gone", "reason": "NameNotFound"},
                {"fqdn": "silent", "error": "silent", "reason": "ResolverTimeout"},
            ],
        )

    def test_a_line_in_the_log(self) -> None:
        for name, summary in (
            ("b twice", f"address={IN_B} zone={B}"),
            ("a and b", f"address={IN_B},{IN_A} zone={B},{A}"),
        ):
            with self.subTest(name):
                answer = answered(Placement(load(SUBNETS)), {name: NAMES[name]})
                self.assertEqual(answer.summary, summary)

    def test_it_is_made_once(self) -> None:
        answer = answered(Placement(load(SUBNETS)), {"b": NAMES["b"]})
        self.assertIs(answer.body, answer.body)


class ExplanationTest(unittest.TestCase):
    def test_a_line_for_each_address(self) -> None:
        placement = Placement(load(SUBNETS + AMBIGUOUS), avoided=[C])
        lines = placement.explain(NAMES)
        found = {line.partition(":")[0]: line for line in lines}
        for name, ending in (
            ("a", "192.168.32.1 is in subnet 192.168.32.0/19, zone eu-central-1a (euc1-az2)"),
            ("c", "zone eu-central-1c (euc1-az1), which is avoided"),
            ("ambiguous", "zone us-1a (us1-az1), which is ambiguous"),
            ("nowhere", "10.99.9.9 is in no subnet"),
            ("gone", "NameNotFound: gone"),
        ):
            with self.subTest(name):
                self.assertTrue(found[name].endswith(ending), found[name])


if __name__ == "__main__":
    unittest.main()
