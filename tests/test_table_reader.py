"""Tables out of documents: all their forms, and what is warned of."""

from __future__ import annotations

import json
import unittest
from collections.abc import Iterable
from itertools import permutations

from lookup.table import (
    Subnet,
    SubnetTable,
)
from lookup.table_reader import MAX_SENTENCES, load, parse
from lookup.table_writer import lines
from tests.tables import (
    EXAMPLE,
    FORMS,
    GOOD,
    ZONE,
    ZONE_ID,
    entry,
    messages,
    problems,
)


class FormTest(unittest.TestCase):
    def test_all_forms_are_one_table(self) -> None:
        for text in (*FORMS, "\n".join(FORMS), "".join(FORMS)):
            with self.subTest(text):
                table = parse(f"\n{text}\r\n")
                self.assertEqual(list(table), [Subnet("10.0.0.0/8", "a", "i")])
                self.assertEqual(table.warnings, ())

    def test_the_id_and_the_labels_may_be_missing_or_null(self) -> None:
        for raw in (entry("10.0.0.0/8"), entry("10.0.0.0/8", id=None, NodeLabels=None)):
            self.assertEqual(list(load([raw])), [Subnet("10.0.0.0/8", "zone-a", None, ())])
        self.assertEqual(
            list(load([entry("10.0.0.0/8", NodeLabels={})])), [Subnet("10.0.0.0/8", "zone-a")]
        )

    def test_labels_keep_their_order(self) -> None:
        labels = {"z": "1", "example.com/b": "2", "a": "3"}
        (subnet,) = parse(json.dumps([entry("10.0.0.0/8", id="i", NodeLabels=labels)]))
        self.assertEqual(subnet.node_labels(), (*labels.items(), (ZONE, "zone-a")))
        self.assertEqual(subnet.node_labels(ZONE_ID), (*labels.items(), (ZONE_ID, "i")))

    def test_exact_repeats_are_one_subnet(self) -> None:
        table = load([*EXAMPLE, *EXAMPLE], EXAMPLE)
        self.assertEqual((len(table), len(list(table))), (3, 3))
        self.assertEqual(table.warnings, ())

    def test_the_table_is_sorted_by_address_an_enclosing_subnet_first(self) -> None:
        cidrs = ["9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/32", "100.0.0.0/8"]
        for order in permutations(cidrs):
            self.assertEqual([each.cidr for each in load(list(map(entry, order)))], cidrs)


class WarningTest(unittest.TestCase):
    def assert_warning(self, documents: Iterable[object], *texts: str) -> SubnetTable:
        """There is exactly one, and it holds the texts."""
        table = load(*documents)
        (warning,) = table.warnings
        for text in texts:
            self.assertIn(text, warning)
        return table

    def test_a_good_table_needs_none(self) -> None:
        for label in (ZONE, ZONE_ID):
            self.assertEqual(load(EXAMPLE, node_label=label).warnings, ())

    def test_one_id_under_several_names(self) -> None:
        one, other = (
            entry("10.0.0.0/24", "us-1a", id="az1"),
            entry("10.1.0.0/24", "us-1b", id="az1"),
        )
        names = ("zone id az1", "us-1a, us-1b", f"NODE_LABEL={ZONE_ID}")
        self.assert_warning([[one, other]], *names)
        self.assert_warning([[other], [one]], *names)

    def test_one_name_with_several_ids(self) -> None:
        one, other = (
            entry("10.0.0.0/24", "us-1a", id="az1"),
            entry("10.1.0.0/24", "us-1a", id="az2"),
        )
        self.assert_warning([[one], [other]], "zone name us-1a", "az1, az2", f"={ZONE_ID}")

    def test_all_shuffled_pairs_are_named(self) -> None:
        one = [entry(f"10.0.{n}.0/24", f"us-1{n}", id=f"az{n}") for n in range(3)]
        other = [entry(f"10.1.{n}.0/24", f"us-1{n}", id=f"az{(n + 1) % 3}") for n in range(3)]
        warnings = load(one, other).warnings
        self.assertEqual(len(warnings), 6)
        for n in range(3):
            names = ", ".join(sorted([f"us-1{n}", f"us-1{(n - 1) % 3}"]))
            self.assertIn(f"zone id az{n} has several names: {names}.", "\n".join(warnings))

    def test_who_uses_ids_is_not_told_of_shuffled_names(self) -> None:
        one = [entry(f"10.0.{n}.0/24", f"us-1{n}", id=f"az{n}") for n in range(3)]
        other = [entry(f"10.1.{n}.0/24", f"us-1{n}", id=f"az{(n + 1) % 3}") for n in range(3)]
        self.assertEqual(len(messages(one, other)), 6)
        self.assertEqual(messages(one, other, node_label=ZONE_ID), [])

    def test_no_more_warnings_are_listed_than_can_be_read(self) -> None:
        ipv6_only = [{"SubnetId": f"subnet-{n}", "CidrBlock": None} for n in range(MAX_SENTENCES)]
        self.assertEqual(len(messages([GOOD, *ipv6_only])), MAX_SENTENCES)
        self.assertIn("IPv6-only", messages([GOOD, *ipv6_only])[-1])
        outer = entry("10.0.0.0/8", "a", id="az1", VpcId="vpc-1")
        inner = [entry(f"10.0.0.{n}/32", "b", id="az1", VpcId="vpc-2") for n in range(250)]
        warnings = messages([*ipv6_only[:5], outer, *inner])
        self.assertEqual(len(warnings), MAX_SENTENCES + 1)
        self.assertIn("zone id az1 has several names", warnings[0])  # what matters comes first
        self.assertEqual(warnings[-1], "and further warnings")

    def test_zones_without_ids_are_not_shuffled(self) -> None:
        table = load([entry("10.0.0.0/24", "a"), entry("10.1.0.0/24", "a", id="i")])
        self.assertEqual(table.warnings, ())

    def test_ipv6_only_subnets_whose_block_is_not_there_are_left_out(self) -> None:
        found: list[dict[str, object]] = [
            {"Ipv6Native": True},
            {"CIDRBlock": None},
            {"CidrBlock": None},
            {"Ipv6Native": True, "Ipv6CidrBlockAssociationSet": []},
            {"CIDRBlock": None, **associations(("2001:db8::/64", "disassociated"))},
        ]
        for said in found:
            with self.subTest(said):
                raw = said | {"SubnetId": "subnet-6", "AvailabilityZone": "a"}
                table = self.assert_warning([[GOOD, raw]], "entry 1: ", "subnet-6", "IPv6-only")
                self.assertEqual(len(table), 1)
                self.assertIn("empty", problems([raw])[0])

    def test_subnets_of_one_vpc_inside_those_of_another(self) -> None:
        outer = entry("10.0.0.0/16", "a", VpcId="vpc-1", OwnerId="111111111111")
        inner = entry("10.0.3.0/24", "b", VpcId="vpc-2", OwnerId="222222222222")
        for tables in ([[outer, inner]], [[inner], [outer]]):
            with self.subTest(tables):
                self.assert_warning(
                    tables, *map(str, [*outer.values(), *inner.values()]), "reachable"
                )

    def test_subnets_that_do_not_overlap_or_name_no_other_vpc(self) -> None:
        outer = entry("10.0.0.0/16", VpcId="vpc-1")
        for other in (
            entry("10.1.0.0/16", VpcId="vpc-2"),
            entry("9.255.255.0/24", VpcId="vpc-2"),
            entry("10.0.3.0/24", VpcId="vpc-1"),
            entry("10.0.3.0/24"),
        ):
            with self.subTest(other):
                self.assertEqual(load([outer, other]).warnings, ())

    def test_the_vpc_that_a_nested_subnet_is_in_is_the_innermost(self) -> None:
        one = [entry(cidr, VpcId="vpc-1") for cidr in ("10.0.0.0/8", "10.2.0.0/16")]
        other = [entry(cidr, VpcId="vpc-2") for cidr in ("10.1.0.0/16", "10.1.1.0/24")]
        self.assert_warning([one, other], "10.1.0.0/16 in", "inside 10.0.0.0/8")

    def test_what_the_input_says_cannot_forge_a_line(self) -> None:
        for forged in ("vpc\nforged", "vpc\r\nforged", "vpc\u2028forged", "\x1b[31mvpc"):
            one, other = entry("10.0.0.0/24", "a", VpcId=forged), entry("10.0.0.0/24", "b")
            inner = entry("10.0.0.0/32", "a", VpcId="vpc-2", OwnerId=forged)
            with self.subTest(forged):
                texts = [*problems([one, other]), *load([one, inner]).warnings]
                texts += load([GOOD, {"CidrBlock": None, "SubnetId": forged}]).warnings
                self.assertEqual(len(texts), 3)
                for text in texts:
                    self.assertTrue(text.isprintable(), ascii(text))


def associations(*blocks: tuple[object, object]) -> dict[str, object]:
    """A subnet's IPv6 blocks and their states, as AWS prints them."""
    return {
        "Ipv6CidrBlockAssociationSet": [
            {
                "AssociationId": f"subnet-cidr-assoc-{number}",
                "Ipv6CidrBlock": cidr,
                "Ipv6CidrBlockState": {"State": state},
                "Ipv6AddressAttribute": "public",
                "IpSource": "amazon",
            }
            for number, (cidr, state) in enumerate(blocks)
        ]
    }


# What else an entry says, and the blocks that it is then.
ASSOCIATED: list[tuple[dict[str, object], list[str]]] = [
    ({"CidrBlock": "10.0.0.0/24", **associations()}, ["10.0.0.0/24"]),
    ({"CidrBlock": "10.0.0.0/24", "Ipv6CidrBlockAssociationSet": None}, ["10.0.0.0/24"]),
    (
        {"CidrBlock": "10.0.0.0/24", **associations(("2001:db8::/64", "associated"))},
        ["10.0.0.0/24", "2001:db8::/64"],
    ),
    (
        {"CIDRBlock": "10.0.0.0/24", **associations(("2001:db8::/64", "associated"))},
        ["10.0.0.0/24", "2001:db8::/64"],
    ),
    (
        {"Ipv6Native": True, **associations(("2001:db8::/64", "associated"))},
        ["2001:db8::/64"],
    ),
    ({"CIDRBlock": None, **associations(("2001:db8::/64", "associated"))}, ["2001:db8::/64"]),
    (associations(("2001:db8::/64", "associated")), ["2001:db8::/64"]),
    (
        associations(
            ("2001:db8:0:2::/64", "associated"),
            ("2001:db8:0:3::/64", "associating"),
            ("2001:db8:0:1::/64", "associated"),
            ("2001:db8:0:4::/64", "disassociating"),
            ("2001:db8:0:5::/64", "disassociated"),
            ("2001:db8:0:6::/64", "failing"),
        ),
        ["2001:db8:0:1::/64", "2001:db8:0:2::/64"],
    ),
    (
        {"CIDRBlock": "2001:db8::/64", **associations(("2001:db8::/64", "associated"))},
        ["2001:db8::/64"],
    ),
]

# What is no such list.
UNASSOCIATED: list[tuple[object, str]] = [
    ("2001:db8::/64", "Ipv6CidrBlock is missing"),
    ({}, "Ipv6CidrBlock is missing"),
    ([None], "Ipv6CidrBlock is missing"),
    (["2001:db8::/64"], "Ipv6CidrBlock is missing"),
    ([{"Ipv6CidrBlock": "2001:db8::/64"}], "Ipv6CidrBlock is missing"),
    ([{"Ipv6CidrBlockState": {"State": "associated"}}], "Ipv6CidrBlock is missing"),
    (
        [{"Ipv6CidrBlock": "2001:db8::/64", "Ipv6CidrBlockState": {"State": None}}],
        "Ipv6CidrBlock is missing",
    ),
    (
        [{"Ipv6CidrBlock": "2001:db8::/64", "Ipv6CidrBlockState": "associated"}],
        "Ipv6CidrBlock is missing",
    ),
    (
        [{"Ipv6CidrBlock": 5, "Ipv6CidrBlockState": {"State": "associated"}}],
        "Ipv6CidrBlock 5 is not a string",
    ),
    (
        [{"Ipv6CidrBlock": "2001:db8::1/64", "Ipv6CidrBlockState": {"State": "associated"}}],
        "Ipv6CidrBlock '2001:db8::1/64' has host bits set",
    ),
]


class AssociationTest(unittest.TestCase):
    """The IPv6 blocks of a subnet of AWS's."""

    def test_those_that_are_associated_are_blocks_of_the_subnet(self) -> None:
        for said, cidrs in ASSOCIATED:
            with self.subTest(said):
                raw = said | {"AvailabilityZone": "a", "AvailabilityZoneId": "i"}
                table = load([raw])
                self.assertEqual([subnet.cidr for subnet in table], cidrs)
                self.assertEqual({(s.zone, s.zone_id) for s in table}, {("a", "i")})
                self.assertEqual(table.warnings, ())

    def test_what_cannot_be_understood_is_a_problem(self) -> None:
        for value, why in UNASSOCIATED:
            for good in (GOOD, {"AvailabilityZone": "a"}, {"CIDRBlock": None} | GOOD):
                with self.subTest(value, good=good):
                    (problem,) = problems([good | {"Ipv6CidrBlockAssociationSet": value}])
                    self.assertIn(f"entry 0: Ipv6CidrBlockAssociationSet: {why}", problem)

    def test_a_block_in_two_zones_is_a_problem_in_both_families(self) -> None:
        block = associations(("2001:db8::/64", "associated"))
        one, other = entry("10.0.0.0/24", "a") | block, entry("10.0.1.0/24", "b") | block
        (problem,) = problems([one, other])
        self.assertIn("entry 1: 2001:db8::/64 is in zone b; in entry 0 it is in zone a", problem)

    def test_subnets_of_one_vpc_inside_those_of_another_in_both_families(self) -> None:
        outer = entry("::/16", "a", VpcId="vpc-1")
        inner = entry("0:1::/64", "a", VpcId="vpc-2")
        beside = entry("0.1.0.0/24", "a", VpcId="vpc-2")  # the same number, but of IPv4
        (warning,) = load([outer, inner, beside]).warnings
        self.assertIn("0:1::/64 in zone a, 'vpc-2' (entry 1) lies inside ::/16", warning)

    def test_a_subnet_that_is_half_of_another_vpcs(self) -> None:
        for outer, inner in (("10.0.0.0/23", "10.0.1.0/24"), ("0.0.0.0/0", "128.0.0.0/1")):
            entries = [entry(outer, VpcId="vpc-1"), entry(inner, VpcId="vpc-2")]
            self.assertIn(f"lies inside {outer}", load(entries).warnings[0])

    def test_both_families_are_printed_and_read_again(self) -> None:
        raw = [said | {"AvailabilityZone": "a"} for said, _ in ASSOCIATED]
        table = load(raw)
        self.assertEqual(len(table), 4)
        again = parse("".join(lines(table)))
        self.assertEqual(list(again), list(table))
        self.assertEqual(again.fingerprint, table.fingerprint)


if __name__ == "__main__":
    unittest.main()
