"""One entry of a table: what is wrong with it, and what is not."""

from __future__ import annotations

import json
import unittest
from itertools import permutations

from lookup.table import (
    Subnet,
)
from lookup.table_reader import MAX_SENTENCES, load
from tests.tables import (
    AWS_KEYS,
    GIVEN_TWICE,
    GOOD,
    MALFORMED_DOCUMENTS,
    ZONE,
    ZONE_ID,
    entry,
    problems,
    text_problems,
)

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
    (167772160, "is not a string"),
    (NAN, "is not a string"),
    (True, "is not a string"),
    (["10.0.0.0/8"], "is not a string"),
    ({}, "is not a string"),
]

BAD_IPV6_CIDRS: list[tuple[object, str]] = [
    ("2001:db8::", "is not a CIDR"),
    ("2001:db8::/129", "is not a CIDR"),
    ("2001:db8::/032", "is not a CIDR"),
    ("2001:db8::/ffff::", "is not a CIDR"),
    ("2001:db8::/64%eth0", "is not a CIDR"),
    ("fe80::%eth0/64", "is not a CIDR"),
    ("2001:db8::1::/64", "is not a CIDR"),
    ("2001:db8:::/64", "is not a CIDR"),
    ("2001:db8:1:2:3:4:5:6:7/64", "is not a CIDR"),
    ("2001:db8/32", "is not a CIDR"),
    ("20010:db8::/32", "is not a CIDR"),
    ("2001:db8::g/128", "is not a CIDR"),
    ("[2001:db8::]/32", "is not a CIDR"),
    ("::10.0.0.256/128", "is not a CIDR"),
    (" ::/0", "is not a CIDR"),
    ("::/0\n", "is not a CIDR"),
    ("2001:db8::1/64", "has host bits set; the subnet is 2001:db8::/64"),
    ("2001:DB8::3/127", "has host bits set; the subnet is 2001:db8::2/127"),
    ("::1/0", "has host bits set; the subnet is ::/0"),
    ("::ffff:10.0.0.0/104", "is IPv4 written as IPv6"),
    ("::ffff:0:0/96", "is IPv4 written as IPv6"),
    ("::ffff:a00:1/128", "is IPv4 written as IPv6"),
]

# a CIDRBlock, and how it is printed
VALID_CIDRS = [
    ("0.0.0.0/0", "0.0.0.0/0"),
    ("255.255.255.255/32", "255.255.255.255/32"),
    ("10.0.0.0/9", "10.0.0.0/9"),
    ("::/0", "::/0"),
    ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"),
    ("2001:DB8:0:0:0:0:0:0/32", "2001:db8::/32"),
    ("2001:0db8:0000:1000::/52", "2001:db8:0:1000::/52"),
    ("fd00::/8", "fd00::/8"),
    ("::10.0.0.0/104", "::a00:0/104"),  # not mapped, though it looks so
    ("::ffff:0:0:0/96", "::ffff:0:0:0/96"),
    ("::fffe:0:0/95", "::fffe:0:0/95"),
    ("64:ff9b::/96", "64:ff9b::/96"),
]

# CIDRBlock and CidrBlock of one entry, and how the message shows them
TWO_CIDRS: list[tuple[object, object, str]] = [
    (
        "10.0.0.0/8",
        "10.0.0.0/9",
        "CIDRBlock '10.0.0.0/8' is not the same as CidrBlock '10.0.0.0/9'",
    ),
    ("10.0.0.0/8", None, "CIDRBlock '10.0.0.0/8' is not the same as CidrBlock None"),
    (None, "10.0.0.0/8", "CIDRBlock None is not the same as CidrBlock '10.0.0.0/8'"),
    ("10.0.0.0/8", "", "CIDRBlock '10.0.0.0/8' is not the same as CidrBlock ''"),
    (5, "10.0.0.0/8", "CIDRBlock 5 is not the same as CidrBlock '10.0.0.0/8'"),
]

# a key, and the one that was meant
MISSPELT_KEYS = [
    ("AvailabilityZoneID", "AvailabilityZoneId"),
    ("AvailabilityZoneld", "AvailabilityZoneId"),  # a small L
    ("AvailabiltyZoneId", "AvailabilityZoneId"),
    ("AvailabilityZoneIds", "AvailabilityZoneId"),
    ("availabilityZoneId", "AvailabilityZoneId"),
    ("availability_zone_id", "AvailabilityZoneId"),
    ("Availability Zone", "AvailabilityZone"),
    ("availabilityzone", "AvailabilityZone"),
    ("AvailabilityZones", "AvailabilityZone"),
    ("AvalibilityZone", "AvailabilityZone"),
    ("CIDRblock", "CIDRBlock"),
    ("cidrBlock", "CIDRBlock"),
    ("CIDR_Block", "CIDRBlock"),
    ("CIDRBlocks", "CIDRBlock"),
    ("CdirBlock", "CIDRBlock"),
    ("NodeLabel", "NodeLabels"),
    ("Nodelabels", "NodeLabels"),
    ("node-labels", "NodeLabels"),
    ("NodeLables", "NodeLabels"),
]

# What else somebody may note down, and other answers of AWS have.
OTHER_KEYS = """
    AZ Account AvailabilityZoneMessage AvailabilityZoneName AvailabilityZoneType Block Cidr
    CidrBlockAssociationSet CidrBlockState Comment Description Ipv6CidrBlock Labels Name Node
    NodeLabelsNote Region RouteTableId VpcName Zone ZoneId
"""

# Answers of which a page is missing, and answers that only look so.
PAGES = ['{"NextToken": "a", "Subnets": [%s]}', '{"Subnets": [%s], "NextToken": "a"}']

LAST_PAGES = ['{"NextToken": null, "Subnets": [%s]}', '{"Subnets": [%s], "NextToken": ""}']

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
BAD_DOCUMENTS = [
    "null",
    "true",
    "5",
    '"10.0.0.0/8"',
    "NaN",
    "{}",
    '{"Subnets": null}',
    '{"Subnets": {}}',
    '{"subnets": []}',
]

EMPTY_DOCUMENTS = ["", " \n", "[]", "[] []", '{"Subnets": []}', '[]\n{"Subnets": [ ]}']


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
        for cidr, why in [*BAD_CIDRS, *BAD_IPV6_CIDRS]:
            self.assert_refused(entry(cidr), f"CIDRBlock {cidr!r} {why}")
            self.assert_refused(
                {"CidrBlock": cidr, "AvailabilityZone": "a"}, f"CIDRBlock {cidr!r} {why}"
            )

    def test_valid_cidrs(self) -> None:
        for cidr, printed in VALID_CIDRS:
            with self.subTest(cidr):
                self.assertEqual([subnet.cidr for subnet in load([entry(cidr)])], [printed])

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

    def test_a_second_list_pasted_into_the_first(self) -> None:
        for raw in ([], [GOOD], [GOOD, GOOD]):
            self.assert_refused(raw, "expected an object, not [", "make one list of both")
        ((single,)) = problems([{"a": 1}, 5])[-1:]
        self.assertNotIn("list", single)

    def test_two_cidrs_that_are_not_the_same(self) -> None:
        for one, other, why in TWO_CIDRS:
            self.assert_refused(entry(one, CidrBlock=other), why)
        self.assertEqual(problems([entry("10.0.0.0/8", CidrBlock="10.0.0.0/8")]), [])

    def test_misspelt_keys(self) -> None:
        for key, meant in MISSPELT_KEYS:
            for cidr_key in ("CIDRBlock", "CidrBlock"):
                with self.subTest(key, cidr_key=cidr_key):
                    good = {cidr_key: "10.0.0.0/8", "AvailabilityZone": "zone-a"}
                    others = {name: good[name] for name in good if name.lower() != meant.lower()}
                    named = problems([others | {key: "a"}])
                    self.assertIn(f"no key {key!r}; {meant} is close to it", named[0])

    def test_a_misspelt_key_is_named_beside_what_is_missing(self) -> None:
        named = problems([{"CIDRblock": "10.0.0.0/8", "AvailabilityZoneID": "a"}])
        self.assertEqual(len(named), 4, named)

    def test_a_key_like_another_that_is_there_is_a_warning_once(self) -> None:
        """AWS may bring new ones, and a table of them must not stop all that gather."""
        for key, meant in [*MISSPELT_KEYS, ("AvailabilityZoneArn", "AvailabilityZoneId")]:
            right = GOOD | {"AvailabilityZoneId": "az1", "NodeLabels": {"example.com/rack": "r"}}
            of_aws = {name.replace("CIDRB", "CidrB"): value for name, value in right.items()}
            for good in (right, of_aws):
                with self.subTest(key, keys=list(good)):
                    self.assertEqual(load([good]).warnings, ())
                    table = load([good | {key: "x"}] * 3)
                    self.assertEqual(list(table), list(load([good])))
                    (warning,) = table.warnings
                    self.assertIn(f"entry 0: the key {key!r} beside {meant} is not read", warning)

    def test_other_keys_are_no_problem(self) -> None:
        for key in (*AWS_KEYS.split(), *OTHER_KEYS.split(), "", "x" * 5000):
            with self.subTest(key[:50]):
                self.assertEqual(problems([GOOD | {key: "a"}]), [])
        self.assertEqual(problems([GOOD | {5: "a"}]), [])

    def test_a_key_given_twice(self) -> None:
        for text, key, line in GIVEN_TWICE:
            with self.subTest(text):
                problem = text_problems(text)[-1]
                self.assertIn(f"the key {key!r} is given twice in one object: line {line}", problem)

    def test_a_page_is_missing(self) -> None:
        good = json.dumps(GOOD)
        for text in PAGES:
            with self.subTest(text):
                (problem,) = text_problems(text % good)
                self.assertIn("NextToken: the pages that follow are missing", problem)
                self.assertEqual(problems(json.loads(text % good)), [problem])
                self.assertEqual(len(text_problems(good.join(["[", "]"]) + text % good)), 1)
        for text in LAST_PAGES:
            self.assertEqual(text_problems(text % good), [])

    def test_no_more_problems_are_listed_than_can_be_read(self) -> None:
        self.assertEqual(len(problems([5] * MAX_SENTENCES)), MAX_SENTENCES)
        named = problems([5] * (MAX_SENTENCES + 5))
        self.assertEqual(len(named), MAX_SENTENCES + 1)
        self.assertEqual(named[-1], "and further problems")

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
        self.assertTrue(named[0].startswith("document 2, entry 1: "), named)
        self.assertTrue(named[1].startswith("document 3, expected a list"), named)
        self.assertEqual(
            text_problems(json.dumps([GOOD]) + json.dumps({"Subnets": [GOOD, 5]}) + '"x"'), named
        )

    def test_documents_that_are_no_table(self) -> None:
        for texts, why in (
            (BAD_DOCUMENTS, "expected a list of subnets"),
            (EMPTY_DOCUMENTS, "the list of subnets is empty"),
        ):
            for text in texts:
                with self.subTest(text):
                    (problem,) = text_problems(text)
                    self.assertIn(why, problem)

    def test_documents_that_are_no_json(self) -> None:
        good = json.dumps(GOOD)
        for template in MALFORMED_DOCUMENTS:
            before, after = template.replace("%s", good).split("^")
            line, column = before.count("\n") + 1, len(before.split("\n")[-1]) + 1
            with self.subTest(template):
                (problem,) = text_problems(before + after)
                self.assertRegex(problem, f"^not JSON: .*: line {line}, column {column}$")

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
        self.assertTrue(problem.startswith("document 2, entry 1: "), problem)
        self.assertIn("; in entry 0 it is in zone", problem)

    def test_the_entry_that_a_block_was_in_first_is_named(self) -> None:
        others = [entry(f"10.{n}.0.0/16") for n in range(5)]
        repeated = [*others, others[2], entry("10.0.0.0/8"), entry("10.9.0.0/16")]
        (problem,) = problems([*repeated, GOOD, entry("10.9.0.0/16", "zone-b")])
        self.assertIn("10.9.0.0/16 is in zone zone-b; in entry 7 it is in zone zone-a", problem)

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


if __name__ == "__main__":
    unittest.main()
