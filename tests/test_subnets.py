"""The table: what is refused and why, what is warned of, the match, and the command."""

from __future__ import annotations

import ast
import json
import random
import re
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterable
from ipaddress import IPv4Address
from itertools import permutations
from pathlib import Path
from typing import Any

from subnets import SUBNETS_DATA, Block, InvalidSubnets, Subnet, SubnetTable, load, parse
from tests.support import DEADLINE, ROOT, run_subnets

ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"

GOOD = {"CIDRBlock": "172.16.0.0/12", "AvailabilityZone": "zone-a"}

NAN = float("nan")

# what is no CIDRBlock, and what the message must say of it
BAD_CIDRS: list[tuple[object, str]] = [
    ("10.0.0.0", "is not a CIDR"),
    ("", "is not a CIDR"),
    ("/8", "is not a CIDR"),
    ("10.0.0.0/", "is not a CIDR"),
    ("10.0.0.0/33", "is not a CIDR"),
    ("10.0.0.0/-1", "is not a CIDR"),
    ("10.0.0.0/08", "is not a CIDR"),
    ("10.0.0.0/8/8", "is not a CIDR"),
    ("10.0.0/8", "is not a CIDR"),
    ("10.0.0.0.0/8", "is not a CIDR"),
    ("256.0.0.0/8", "is not a CIDR"),
    ("010.0.0.0/8", "is not a CIDR"),
    ("0x0a000000/8", "is not a CIDR"),
    ("10.0.0.0/255.0.0.0", "is not a CIDR"),
    (" 10.0.0.0/8", "is not a CIDR"),
    ("10.0.0.0/8\n", "is not a CIDR"),
    ("\uff11\uff10.0.0.0/8", "is not a CIDR"),
    ("10.0.0.0/\u0668", "is not a CIDR"),
    ("db.test/8", "is not a CIDR"),
    ("10.0.0.1/8", "has host bits set; the subnet is 10.0.0.0/8"),
    ("10.0.0.1/31", "has host bits set; the subnet is 10.0.0.0/31"),
    ("0.0.0.1/0", "has host bits set; the subnet is 0.0.0.0/0"),
    ("2001:db8::/32", "is IPv6"),
    ("::ffff:10.0.0.0/104", "is IPv6"),
    (167772160, "is not a string"),
    (NAN, "is not a string"),
    (True, "is not a string"),
    (["10.0.0.0/8"], "is not a string"),
    ({}, "is not a string"),
]

VALID_VALUES = ["a", "A", "0", "a_b.c-D", "eu-central-1b", "a" * 63]

BAD_VALUES: list[object] = [
    "a" * 64,
    "-a",
    "a-",
    ".a",
    "a_",
    "a b",
    "a/b",
    "a\n",
    "zöne",
    "\u0661",
    5,
    NAN,
    False,
    [],
    {"a": "b"},
]

VALID_KEYS = [
    "a",
    "Rack",
    "a" * 63,
    "example.com/rack",
    "a/" + "b" * 63,
    ".".join(["a" * 49] * 4 + ["a" * 53]) + "/rack",  # 253 characters before the slash
]

BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a/b/c",
    "a" * 64,
    "-a",
    "a b",
    "a\n",
    "räck",
    "Example.com/rack",
    "example..com/rack",
    "-example.com/rack",
    "ex_ample.com/rack",
    ".".join(["a" * 49] * 4 + ["a" * 54]) + "/rack",
    ZONE,
    ZONE_ID,
]

# what is neither of the two forms
BAD_DOCUMENTS = ["null", "true", "5", '"10.0.0.0/8"', "NaN", "{}", '{"Subnets": null}']
BAD_DOCUMENTS += ['{"Subnets": {}}', '{"subnets": []}']

EMPTY_DOCUMENTS = ["", " \n", "[]", "[] []", '{"Subnets": []}', '[]\n{"Subnets": []}']

MALFORMED_DOCUMENTS = ["[", "]", "[{]", "[] x", "[1,]", "{'Subnets': []}", "[{}", "\0"]

# An entry of a list for each of these: each lies in the next, in several orders.
NESTED = ["10.1.2.3/32", "10.1.2.0/24", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]

# address, the subnet it is in
NESTED_MATCHES = [
    ("10.1.2.3", "10.1.2.3/32"),
    ("10.1.2.2", "10.1.2.0/24"),
    ("10.1.2.4", "10.1.2.0/24"),
    ("10.1.1.255", "10.1.0.0/16"),
    ("10.1.3.0", "10.1.0.0/16"),
    ("10.0.255.255", "10.0.0.0/8"),
    ("10.255.255.255", "10.0.0.0/8"),
    ("9.255.255.255", "0.0.0.0/0"),
    ("11.0.0.0", "0.0.0.0/0"),
    ("0.0.0.0", "0.0.0.0/0"),
    ("255.255.255.255", "0.0.0.0/0"),
]


def entry(cidr: object, zone: object = "zone-a", **more: object) -> dict[str, object]:
    """An entry; `id` is its AvailabilityZoneId."""
    if "id" in more:
        more["AvailabilityZoneId"] = more.pop("id")
    return {"CIDRBlock": cidr, "AvailabilityZone": zone} | more


def problems(*documents: object) -> list[str]:
    """What is wrong with them; nothing if they are fine."""
    try:
        load(*documents)
    except InvalidSubnets as error:
        return error.problems
    return []


def text_problems(text: str) -> list[str]:
    try:
        parse(text)
    except InvalidSubnets as error:
        return error.problems
    return []


def found(table: SubnetTable, address: str) -> str | None:
    subnet = table.match(IPv4Address(address))
    return subnet and subnet.cidr


ZONE_KEYS = ("AvailabilityZone", "AvailabilityZoneId")


class ProblemTest(unittest.TestCase):
    def assert_refused(self, raw: object, *texts: str) -> None:
        """It is one problem, which names the entry and holds the texts, in one line."""
        with self.subTest(raw):
            (problem,) = problems([GOOD, raw])
            self.assertTrue(problem.startswith("entry 1: "), problem)
            self.assertEqual(len(problem.splitlines()), 1, problem)
            for text in texts:
                self.assertIn(text, problem)

    def test_bad_cidrs(self) -> None:
        for cidr, why in BAD_CIDRS:
            self.assert_refused(entry(cidr), f"CIDRBlock {cidr!r} {why}")
            self.assert_refused(
                {"CidrBlock": cidr, "AvailabilityZone": "a"}, f"CIDRBlock {cidr!r} {why}"
            )

    def test_missing_values(self) -> None:
        self.assert_refused({"AvailabilityZone": "zone-a"}, "CIDRBlock is missing")
        self.assert_refused({"CIDRBlock": "10.0.0.0/8"}, "AvailabilityZone is missing")
        for nothing in (None, ""):
            self.assert_refused(entry("10.0.0.0/8", nothing), "AvailabilityZone is missing")
        self.assert_refused(entry("10.0.0.0/8", id=""), "AvailabilityZoneId is missing")
        self.assert_refused(entry("10.0.0.0/8", NodeLabels={"a": ""}), "NodeLabels", "'a'")

    def test_bad_zones_ids_and_label_values(self) -> None:
        for value in BAD_VALUES:
            why = f"{value!r} is not a valid Kubernetes label value"
            self.assert_refused(entry("10.0.0.0/8", value), f"AvailabilityZone {why}")
            self.assert_refused(entry("10.0.0.0/8", id=value), f"AvailabilityZoneId {why}")
            self.assert_refused(entry("10.0.0.0/8", NodeLabels={"rack": value}), "'rack'", why)

    def test_bad_label_keys(self) -> None:
        for key in BAD_KEYS:
            shown = repr(key)[:90]
            self.assert_refused(entry("10.0.0.0/8", NodeLabels={key: "a"}), "NodeLabels", shown)

    def test_node_labels_that_are_no_object(self) -> None:
        for labels in ([], ["a"], "a", 5, False):
            self.assert_refused(entry("10.0.0.0/8", NodeLabels=labels), f"NodeLabels {labels!r}")

    def test_entries_that_are_no_objects(self) -> None:
        for raw in (None, 5, NAN, "10.0.0.0/8", ["10.0.0.0/8", "zone-a"]):
            self.assert_refused(raw, f"expected an object, not {raw!r}")

    def test_valid_values_and_keys(self) -> None:
        for value in VALID_VALUES:
            with self.subTest(value):
                labels = {"rack": value}
                self.assertEqual(
                    list(load([entry("10.0.0.0/8", value, id=value, NodeLabels=labels)])),
                    [Subnet("10.0.0.0/8", value, value, (("rack", value),))],
                )
        for key in VALID_KEYS:
            with self.subTest(key):
                self.assertEqual(problems([entry("10.0.0.0/8", NodeLabels={key: "a"})]), [])

    def test_every_problem_is_named_at_once(self) -> None:
        bad = [entry(cidr, "-", id="-", NodeLabels={"-": "-"}) for cidr, _ in BAD_CIDRS]
        named = problems([GOOD, *bad, GOOD])
        for index, (cidr, why) in enumerate(BAD_CIDRS, 1):
            with self.subTest(cidr):
                own = [each for each in named if each.startswith(f"entry {index}: ")]
                self.assertEqual(len(own), 5, own)
                self.assertIn(f"{cidr!r} {why}", own[0])
        self.assertEqual(len(named), 5 * len(bad))

    def test_problems_of_several_documents_name_the_document(self) -> None:
        named = problems([GOOD], {"Subnets": [GOOD, 5]}, "x")
        self.assertEqual(len(named), 2)
        self.assertIn("document 2, entry 1: ", named[0])
        self.assertIn("document 3, ", named[1])

    def test_documents_that_are_no_table(self) -> None:
        for texts, why in (
            (BAD_DOCUMENTS, "expected a list of subnets"),
            (EMPTY_DOCUMENTS, "the list of subnets is empty"),
            (MALFORMED_DOCUMENTS, "not JSON"),
        ):
            for text in texts:
                with self.subTest(text):
                    (problem,) = text_problems(text)
                    self.assertIn(why, problem)

    def test_deep_nesting_is_a_problem_and_no_crash(self) -> None:
        for depth in (*range(900, 1010), 5000, 100_000):
            nested = "[" * depth + "]" * depth
            with self.subTest(depth):
                self.assertTrue(text_problems(nested))
                self.assertTrue(text_problems(f'[{{"CIDRBlock": {nested}}}]'))

    def test_a_number_of_any_length_is_a_problem_and_no_crash(self) -> None:
        for number in ("9" * 5000, "-" + "9" * 5000, "1e5000", "-Infinity"):
            with self.subTest(number[:10]):
                document = f'[{{"CIDRBlock": {number}, "AvailabilityZone": "zone-a"}}]'
                self.assertEqual(len(text_problems(document)), 1)

    def test_a_value_is_shown_in_bounds(self) -> None:
        for raw in (
            "x" * 5000,
            entry("x" * 5000),
            entry(["x" * 5000]),
            entry("10.0.0.0/8", "x" * 5000),
        ):
            (problem,) = problems([raw])
            self.assertLess(len(problem), 500)

    def test_one_block_in_two_zones_names_both_vpcs_and_owners(self) -> None:
        one = entry("10.0.0.0/24", "eu-1a", id="eu1-az1", VpcId="vpc-1", OwnerId="111111111111")
        other = entry("10.0.0.0/24", "eu-1a", id="eu1-az2", VpcId="vpc-2", OwnerId="222222222222")
        (problem,) = problems([one], [GOOD, other])
        for text in ("10.0.0.0/24", *map(str, [*one.values(), *other.values()])):
            with self.subTest(text):
                self.assertIn(text, problem)
        self.assertIn("document 1, entry 0", problem)
        self.assertIn("document 2, entry 1", problem)

    def test_one_block_in_two_zones_without_vpcs_and_ids(self) -> None:
        (problem,) = problems([entry("10.0.0.0/24", "dc-1"), GOOD, entry("10.0.0.0/24", "dc-2")])
        for text in ("10.0.0.0/24", "dc-1", "entry 0", "dc-2", "entry 2"):
            self.assertIn(text, problem)

    def test_an_id_in_one_entry_only_does_not_hide_another_zone(self) -> None:
        self.assertEqual(
            len(problems([entry("10.0.0.0/24", "a"), entry("10.0.0.0/24", "b", id="i")])), 1
        )

    def test_one_block_with_other_labels_is_a_problem(self) -> None:
        labels: list[dict[str, str] | None] = [None, {"a": "1"}, {"a": "2"}, {"b": "1", "a": "1"}]
        for one, other in permutations(labels, 2):
            with self.subTest(one=one, other=other):
                same = [entry("10.0.0.0/24", NodeLabels=each) for each in (one, other)]
                (problem,) = problems(same)
                self.assertIn("entry 1: 10.0.0.0/24 has other NodeLabels", problem)


class FormTest(unittest.TestCase):
    def test_a_shared_subnet_with_a_name_for_each_account_is_a_problem(self) -> None:
        one = entry("10.0.0.0/24", "us-1a", id="az1")
        (problem,) = problems([one, one | {"AvailabilityZone": "us-1b"}])
        self.assertIn("10.0.0.0/24 is in zone us-1a (az1)", problem)
        self.assertIn("in zone us-1b (az1)", problem)

    FORMS = (
        '[{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "a", "AvailabilityZoneId": "i"}]',
        '[{"CidrBlock": "10.0.0.0/8", "AvailabilityZone": "a", "AvailabilityZoneId": "i"}]',
        '{"Subnets": [{"CidrBlock": "10.0.0.0/8", "AvailabilityZone": "a", "AvailabilityZoneId": '
        '"i", "MapPublicIpOnLaunch": false, "Tags": [{"Key": "Name", "Value": ""}]}]}',
    )

    def test_all_forms_are_one_table(self) -> None:
        for text in (*self.FORMS, "\n".join(self.FORMS), "".join(self.FORMS)):
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
        table = load([*SUBNETS_DATA, *SUBNETS_DATA], SUBNETS_DATA)
        self.assertEqual((len(table), len(list(table))), (6, 6))
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

    def test_the_shipped_table_needs_none(self) -> None:
        self.assertEqual(load(SUBNETS_DATA).warnings, ())

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

    def test_zones_without_ids_are_not_shuffled(self) -> None:
        table = load([entry("10.0.0.0/24", "a"), entry("10.1.0.0/24", "a", id="i")])
        self.assertEqual(table.warnings, ())

    def test_ipv6_only_subnets_are_left_out(self) -> None:
        for raw in (
            {"SubnetId": "subnet-6", "Ipv6Native": True, "AvailabilityZone": "a"},
            {"SubnetId": "subnet-6", "CIDRBlock": None, "AvailabilityZone": "a"},
            {"SubnetId": "subnet-6", "CidrBlock": None, "AvailabilityZone": "a"},
        ):
            with self.subTest(raw):
                table = self.assert_warning([[GOOD, raw]], "entry 1: ", "subnet-6", "IPv6")
                self.assertEqual(len(table), 1)
                self.assertIn("empty", problems([raw])[0])

    def test_subnets_of_one_vpc_inside_those_of_another(self) -> None:
        outer = entry("10.0.0.0/16", "a", VpcId="vpc-1", OwnerId="111111111111")
        inner = entry("10.0.3.0/24", "b", VpcId="vpc-2", OwnerId="222222222222")
        for documents in ([[outer, inner]], [[inner], [outer]]):
            with self.subTest(documents):
                self.assert_warning(
                    documents, *map(str, [*outer.values(), *inner.values()]), "reachable"
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


class Counting(dict[Any, Any]):
    """A dictionary that counts how often it, or another, is asked."""

    probes = 0

    def get(self, key: Any, default: Any = None) -> Any:
        Counting.probes += 1
        return super().get(key, default)


def random_blocks(count: int, seed: int) -> dict[Block, Subnet]:
    """That many subnets of all sizes in 10.0.0.0/8, many of them inside others."""
    numbers = random.Random(seed)
    blocks: dict[Block, Subnet] = {}
    while len(blocks) < count:
        length = numbers.randint(9, 32)
        address = 10 << 24 | numbers.getrandbits(24) >> 32 - length << 32 - length
        blocks[address, length] = Subnet(f"{address:08x}/{length}", "zone-a")
    return blocks


def scan(blocks: dict[Block, Subnet], address: int) -> str | None:
    """The most specific subnet of the address, found by looking at every one."""
    holding = [
        (length, subnet.cidr)
        for (network, length), subnet in blocks.items()
        if (address ^ network) >> 32 - length == 0
    ]
    return max(holding)[1] if holding else None


class MatchTest(unittest.TestCase):
    def test_the_longest_prefix_wins_whatever_the_order(self) -> None:
        for order in permutations(NESTED):
            table = load(list(map(entry, order)))
            self.assertEqual(
                [(address, found(table, address)) for address, _ in NESTED_MATCHES], NESTED_MATCHES
            )

    def test_an_address_outside_is_in_no_subnet(self) -> None:
        table = load(SUBNETS_DATA)
        for address in ("0.0.0.0", "192.167.255.255", "192.168.192.0", "255.255.255.255"):
            self.assertIsNone(found(table, address))
        self.assertEqual(found(table, "192.168.191.255"), "192.168.160.0/19")

    def test_many_subnets_are_matched_as_a_scan_would(self) -> None:
        blocks = random_blocks(100_000, seed=1)
        table = SubnetTable(blocks)
        self.assertEqual(len(table), 100_000)
        numbers = random.Random(2)
        for _ in range(20):
            address = 10 << 24 | numbers.getrandbits(24)
            self.assertEqual(found(table, str(IPv4Address(address))), scan(blocks, address))

    def test_a_match_makes_a_probe_for_each_prefix_length_at_most(self) -> None:
        for count in (6, 10_000):
            blocks = random_blocks(count, seed=3)
            lengths = len({length for _, length in blocks})
            table = SubnetTable(blocks)
            table._levels = [(mask, Counting(level)) for mask, level in table._levels]
            for address in ("10.1.2.3", "10.128.0.0", "11.0.0.0"):
                with self.subTest(count=count, address=address):
                    Counting.probes = 0
                    found(table, address)
                    self.assertIn(Counting.probes, range(1, lengths + 1))


# What `python subnets.py` refuses, and what it says of it.
REFUSED_INPUTS = [
    (b"", "empty"),
    (b"[", "not JSON"),
    (b"\xff\xfe[\x00]\x00", "not UTF-8"),  # as PowerShell writes it
    (b'[{"AvailabilityZone": "z\xf6ne"}]', "not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[" + b"9" * 5000 + b"]", "digits"),
    (b"[NaN]", "nan"),
    (b"null", "None"),
]


class PasteTest(unittest.TestCase):
    """The outputs of `aws ec2 describe-subnets`, whole and with the README's --query."""

    def test_what_is_pasted_is_the_table(self) -> None:
        whole = (ROOT / "tests/examples/aws-one-account/subnets.json").read_text()
        picked = {"CIDRBlock": "CidrBlock", **{key: key for key in ZONE_KEYS}}
        query = json.dumps(
            [
                {name: subnet.get(key) for name, key in picked.items()}
                for subnet in json.loads(whole)["Subnets"]
            ],
            indent=4,
        )
        source = (ROOT / "subnets.py").read_text()
        for pasted in (whole, query):
            module = re.sub(
                r"(?<=\nSUBNETS_DATA: Any = )\[.*?\n\]", pasted, source, flags=re.DOTALL
            )
            namespace: dict[str, Any] = {"__name__": "pasted"}
            exec(module, namespace)
            with self.subTest(pasted):
                self.assertEqual(set(load(namespace["SUBNETS_DATA"])), set(parse(whole)))


class CommandTest(unittest.TestCase):
    SHUFFLED = (
        '\ufeff{"Subnets": [{"CidrBlock": "10.2.0.0/16", "AvailabilityZone": "us-1a", '
        '"AvailabilityZoneId": "az1", "VpcId": "vpc-1"}]}'
        '[{"CIDRBlock": "10.10.0.0/16", "AvailabilityZone": "us-1b", "AvailabilityZoneId": "az1"},'
        '{"CIDRBlock": "10.10.0.1/32", "AvailabilityZone": "dc", "NodeLabels": {"z": "1", "a": "2"}}]'
    ).encode()

    OUTPUT = """[
    {"CIDRBlock": "10.2.0.0/16", "AvailabilityZone": "us-1a", "AvailabilityZoneId": "az1"},
    {"CIDRBlock": "10.10.0.0/16", "AvailabilityZone": "us-1b", "AvailabilityZoneId": "az1"},
    {"CIDRBlock": "10.10.0.1/32", "AvailabilityZone": "dc", "NodeLabels": {"z": "1", "a": "2"}}
]
"""

    def file(self, content: bytes) -> str:
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = Path(folder) / "subnets.json"
        path.write_bytes(content)
        return str(path)

    def test_it_prints_the_merged_table_sorted_an_entry_a_line(self) -> None:
        for run in (
            run_subnets(stdin=self.SHUFFLED),
            run_subnets("-", stdin=self.SHUFFLED),
            run_subnets(self.file(self.SHUFFLED)),
        ):
            self.assertEqual((run.status, run.output), (0, self.OUTPUT))
            (warning,) = run.errors
            self.assertIn("warning: zone id az1 has several names: us-1a, us-1b", warning)

    def test_what_it_prints_is_valid_input_and_a_valid_literal(self) -> None:
        table = parse(self.SHUFFLED.decode("utf-8-sig"))
        self.assertEqual(list(parse(self.OUTPUT)), list(table))
        self.assertEqual(list(load(ast.literal_eval(self.OUTPUT))), list(table))
        self.assertEqual(run_subnets(stdin=self.OUTPUT.encode()).output, self.OUTPUT)

    def test_problems_go_to_standard_error(self) -> None:
        document = [5, GOOD, entry("10.0.0.1/8"), entry("10.0.0.0/8", "-")]
        run = run_subnets(stdin=json.dumps(document).encode())
        self.assertEqual((run.status, run.output), (2, ""))
        self.assertEqual(
            [each.split(":")[0] for each in run.errors], ["entry 0", "entry 2", "entry 3"]
        )

    def test_refused_inputs(self) -> None:
        for content, why in REFUSED_INPUTS:
            with self.subTest(content[:40]):
                run = run_subnets(stdin=content)
                self.assertEqual((run.status, run.output, len(run.errors)), (2, "", 1), run.errors)
                self.assertIn(why, run.errors[0])

    def test_a_file_that_cannot_be_read(self) -> None:
        folder = self.enterContext(tempfile.TemporaryDirectory())
        for path, why in ((folder, "Is a directory"), (f"{folder}/none.json", "No such file")):
            with self.subTest(why):
                run = run_subnets(path)
                self.assertEqual((run.status, run.output, len(run.errors)), (2, "", 1), run.errors)
                self.assertIn(f"{path}: {why}", run.errors[0])

    def test_a_reader_that_has_enough(self) -> None:
        table = "[" + ",".join(
            f'{{"CIDRBlock": "10.{n}.0.0/16", "AvailabilityZone": "zone-{n}"}}' for n in range(256)
        )
        run = subprocess.run(
            ["sh", "-c", '"$0" subnets.py - | true', sys.executable],
            cwd=ROOT,
            input=table + "]",
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        self.assertEqual(run.stderr, "")

    def test_a_standard_input_that_cannot_be_read(self) -> None:
        run = subprocess.run(
            ["sh", "-c", 'exec "$0" subnets.py - <&-', sys.executable],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        self.assertEqual((run.returncode, run.stdout), (2, ""))
        self.assertEqual(len(run.stderr.splitlines()), 1, run.stderr)


if __name__ == "__main__":
    unittest.main()
