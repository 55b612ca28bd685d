"""The table: what is refused and why, what is warned of, the match, and the command."""

from __future__ import annotations

import ast
import gzip
import json
import os
import pickle
import pty
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
import unittest
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from ipaddress import IPv4Address, ip_address
from itertools import permutations, product
from pathlib import Path
from typing import Any
from unittest import mock

import subnets
from lookup import json_stream as documents
from lookup.table import (
    FAMILIES,
    Block,
    InvalidSubnets,
    Level,
    Size,
    Subnet,
    SubnetTable,
    cidr_of,
)
from lookup.table_reader import MAX_SENTENCES, load, parse, read_files
from lookup.table_writer import MAX_CONFIGMAP_SIZE, lines
from lookup.zones import Location
from tests.support import DEADLINE, ROOT, run_subnets

ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"

GOOD = {"CIDRBlock": "172.16.0.0/12", "AvailabilityZone": "zone-a"}

# Not SUBNETS_DATA: that is the user's to change.
EXAMPLE = [
    {"CIDRBlock": "192.168.0.0/19", "AvailabilityZone": "zone-b", "AvailabilityZoneId": "az3"},
    {"CIDRBlock": "192.168.32.0/19", "AvailabilityZone": "zone-a", "AvailabilityZoneId": "az2"},
    {"CIDRBlock": "192.168.64.0/19", "AvailabilityZone": "zone-c", "AvailabilityZoneId": "az1"},
]

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

# "Subnet" in the EC2 API reference, without the keys that are read.
AWS_KEYS = """
    AssignIpv6AddressOnCreation AvailableIpAddressCount BlockPublicAccessStates
    CustomerOwnedIpv4Pool DefaultForAz EnableDns64 EnableLniAtDeviceIndex
    Ipv6Native MapCustomerOwnedIpOnLaunch MapPublicIpOnLaunch
    NetworkFirewallConnectivityType OutpostArn OwnerId PrivateDnsNameOptionsOnLaunch State
    SubnetArn SubnetId Tags Type VpcId
"""

# What else somebody may note down, and other answers of AWS have.
OTHER_KEYS = """
    AZ Account AvailabilityZoneMessage AvailabilityZoneName AvailabilityZoneType Block Cidr
    CidrBlockAssociationSet CidrBlockState Comment Description Ipv6CidrBlock Labels Name Node
    NodeLabelsNote Region RouteTableId VpcName Zone ZoneId
"""

# JSON in which a key is given twice, the key, and the line of the value that it is in
GIVEN_TWICE = [
    (
        '[{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "a", "CIDRBlock": "10.0.0.0/9"}]',
        "CIDRBlock",
        1,
    ),
    (
        '[{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "a",\n"AvailabilityZone": "a"}]',
        "AvailabilityZone",
        1,
    ),
    ('[\n\n{"a": 1,\n"a": 1}]', "a", 3),
    ('[\n{"CIDRBlock": "10.0.0.0/8", "NodeLabels": {"b": "1", "a": "1", "a": "2"}}]', "a", 2),
    ('{"Subnets": [\n{"Tags": [{"Key": "a", "Key": "a"}]}]}', "Key", 2),
    ('{"Subnets": [],\n"Subnets": []}', "Subnets", 2),
    ('{"Subnets": [], "Note": 1,\n"Other": 2, "Note": 1}', "Note", 2),
    ('[]\n{"Subnets": [], "NextToken": null, "NextToken": null}', "NextToken", 2),
]

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
BAD_DOCUMENTS = ["null", "true", "5", '"10.0.0.0/8"', "NaN", "{}", '{"Subnets": null}']
BAD_DOCUMENTS += ['{"Subnets": {}}', '{"subnets": []}']

EMPTY_DOCUMENTS = ["", " \n", "[]", "[] []", '{"Subnets": []}', '[]\n{"Subnets": [ ]}']

# What is no JSON; "^" is where that shows, and %s an entry.
MALFORMED_DOCUMENTS = [
    "[^",
    "^]",
    "[{^]",
    "[] ^x",
    "[%s,^]",
    "[%s ^%s]",
    "[\n%s,\n  %s\n^",
    "[^,%s]",
    "[%s^}",
    "{^'Subnets': []}",
    '{"Subnets": [%s]^',
    '{"Subnets": [%s]^]',
    '{"Subnets" ^[%s]}',
    '{"Subnets": [%s],^}',
    '{"Subnets":\n[%s, ^x]}',
    "^\0",
    "[^\u00a0%s]",
]

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


def problems(*documents: object, node_label: str = ZONE) -> list[str]:
    """What is wrong with them; nothing if they are fine."""
    try:
        load(*documents, node_label=node_label)
    except InvalidSubnets as error:
        return error.problems
    return []


def text_problems(text: str) -> list[str]:
    try:
        parse(text)
    except InvalidSubnets as error:
        return error.problems
    return []


def messages(*documents: object, node_label: str = ZONE) -> list[str]:
    """What is wrong with them, or what is warned of."""
    try:
        return list(load(*documents, node_label=node_label).warnings)
    except InvalidSubnets as error:
        return error.problems


def found(table: SubnetTable, address: str) -> str | None:
    subnet = table.match(ip_address(address))
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
            with self.subTest(key):
                others = {name: value for name, value in GOOD.items() if name != meant}
                named = problems([others | {key: "a"}])
                self.assertIn(f"no key {key!r}; {meant} is close to it", named[0])

    def test_a_misspelt_key_is_named_beside_what_is_missing(self) -> None:
        named = problems([{"CIDRblock": "10.0.0.0/8", "AvailabilityZoneID": "a"}])
        self.assertEqual(len(named), 4, named)

    def test_a_key_like_another_that_is_there_is_a_warning_once(self) -> None:
        """AWS may bring new ones, and a table of them must not stop all that gather."""
        for key, meant in [*MISSPELT_KEYS, ("AvailabilityZoneArn", "AvailabilityZoneId")]:
            right = GOOD | {"AvailabilityZoneId": "az1", "NodeLabels": {"example.com/rack": "r"}}
            for good in (right, {"CidrBlock": right["CIDRBlock"]} | right):
                with self.subTest(key, keys=list(good)):
                    table = load([good, *(entry(f"10.0.{n}.0/24") | good for n in range(2))])
                    self.assertEqual(table.warnings, ())
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


# Zone and id of two entries for one block, and what becomes of them by the zone's name and by
# its id: zone and id, or None where they contradict each other.
Zone = tuple[str, str | None]
ONE_BLOCK: list[tuple[Zone, Zone, Zone | None, Zone | None]] = [
    (("a", None), ("a", None), ("a", None), ("a", None)),
    (("a", "1"), ("a", "1"), ("a", "1"), ("a", "1")),
    (("a", "1"), ("a", None), ("a", "1"), ("a", "1")),
    (("a", None), ("a", "1"), ("a", "1"), ("a", "1")),
    (("a", "1"), ("a", "2"), None, None),
    (("a", "1"), ("b", "1"), None, ("a", "1")),
    (("b", "1"), ("a", "1"), None, ("b", "1")),
    (("a", "1"), ("b", "2"), None, None),
    (("a", None), ("b", None), None, None),
    (("a", "1"), ("b", None), None, None),
    (("a", None), ("b", "1"), None, None),
]

# Zones of a table, and those that it has by its ids.
COMPLETED: list[tuple[list[Zone], list[Zone]]] = [
    ([("a", None), ("a", None)], [("a", None), ("a", None)]),
    ([("a", "1"), ("a", None)], [("a", "1"), ("a", "1")]),
    ([("a", None), ("a", "1"), ("a", None)], [("a", "1"), ("a", "1"), ("a", "1")]),
    ([("a", "1"), ("b", None)], [("a", "1"), ("b", None)]),
    ([("a", "1"), ("a", "2"), ("a", None)], [("a", "1"), ("a", "2"), ("a", None)]),
    ([("a", "1"), ("b", "1"), ("a", None)], [("a", "1"), ("b", "1"), ("a", None)]),
    ([("a", "1"), ("b", "2"), ("b", None)], [("a", "1"), ("b", "2"), ("b", "2")]),
]


def zones_of(table: SubnetTable) -> list[Zone]:
    return [(subnet.zone, subnet.zone_id) for subnet in table]


class ZoneIdTest(unittest.TestCase):
    def assert_merged(self, label: str, one: Zone, other: Zone, merged: Zone | None) -> None:
        same = [entry("10.0.0.0/24", zone, id=zone_id) for zone, zone_id in (one, other)]
        for tables in ([same], [[same[0]], [same[1]]], [[GOOD, *same, *same]]):
            with self.subTest(label, tables=tables):
                if merged is None:
                    self.assertIn("10.0.0.0/24 is in zone", problems(*tables, node_label=label)[0])
                else:
                    table = load(*tables, node_label=label)
                    self.assertEqual(zones_of(table)[0], merged)

    def test_two_entries_for_one_block(self) -> None:
        for one, other, by_name, by_id in ONE_BLOCK:
            self.assert_merged(ZONE, one, other, by_name)
            self.assert_merged(ZONE_ID, one, other, by_id)

    def test_labels_count_where_names_do_not(self) -> None:
        one = entry("10.0.0.0/24", "a", id="1", NodeLabels={"rack": "r1"})
        other = one | {"AvailabilityZone": "b", "NodeLabels": {"rack": "r2"}}
        (problem,) = problems([one, other], node_label=ZONE_ID)
        self.assertIn("other NodeLabels", problem)

    def test_a_name_for_each_account_is_a_problem_that_says_what_helps(self) -> None:
        one = entry("10.0.0.0/24", "us-1a", id="az1", OwnerId="111111111111")
        (problem,) = problems([one], [one | {"AvailabilityZone": "us-1b"}])
        for text in ("in zone us-1a (az1)", "in zone us-1b (az1)", f"={ZONE_ID}", "--node-label"):
            self.assertIn(text, problem)
        (unrelated,) = problems([one], [one | {"AvailabilityZoneId": "az2"}])
        self.assertNotIn(ZONE_ID, unrelated)

    def test_ids_are_completed_only_where_they_count(self) -> None:
        for zones, by_id in COMPLETED:
            entries = [entry(f"10.{n}.0.0/16", z, id=i) for n, (z, i) in enumerate(zones)]
            with self.subTest(zones):
                self.assertEqual(zones_of(load(entries)), zones)
                self.assertEqual(zones_of(load(entries, node_label=ZONE_ID)), by_id)

    def test_labels_are_kept_when_an_id_is_completed(self) -> None:
        racks = [entry(f"10.{n}.0.0/16", "a", NodeLabels={"rack": f"r{n}"}) for n in range(2)]
        table = load([*racks, entry("10.9.0.0/16", "a", id="1")], node_label=ZONE_ID)
        self.assertEqual(
            list(table)[:2],
            [Subnet(f"10.{n}.0.0/16", "a", "1", (("rack", f"r{n}"),)) for n in range(2)],
        )

    def test_what_still_lacks_an_id_is_a_warning(self) -> None:
        for zones, by_id in COMPLETED:
            entries = [entry(f"10.{n}.0.0/16", z, id=i) for n, (z, i) in enumerate(zones)]
            lacking = {zone for zone, zone_id in by_id if zone_id is None}
            warnings = load(entries, node_label=ZONE_ID).warnings
            with self.subTest(zones):
                if lacking and any(zone_id for _, zone_id in by_id):
                    (warning,) = warnings
                    self.assertIn(f"no AvailabilityZoneId for {', '.join(lacking)}, b", warning)
                else:
                    self.assertEqual(warnings, ())

    def test_many_zones_are_not_all_listed(self) -> None:
        entries = [entry(f"10.{n}.0.0/16", f"zone-{n:02}") for n in range(20)]
        (warning,) = messages([*entries, entry("10.9.0.0/24", "a", id="1")], node_label=ZONE_ID)
        self.assertIn("zone-00, zone-01", warning)
        self.assertIn("zone-15 and 4 more", warning)

    def test_the_table_knows_its_zones(self) -> None:
        shared = [entry("10.0.0.0/24", "a", id="1"), entry("10.0.0.0/24", "other", id="1")]
        table = load([*shared, GOOD, entry("10.0.1.0/24", "b", id="2")], node_label=ZONE_ID)
        self.assertEqual(table.zones, {"a", "1", "b", "2", "zone-a"})


class FormTest(unittest.TestCase):
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


# entries as (zone, id), and the zones (name, id) that the label of the name, and that of the id,
# do not stand for alone
AMBIGUOUS: list[tuple[list[tuple[str, str | None]], set[tuple[str, str | None]], set[Any]]] = [
    ([("a", None), ("b", None)], set(), set()),
    ([("a", "1"), ("b", "2"), ("b", None)], set(), set()),
    ([("a", "1"), ("b", "1")], {("a", "1"), ("b", "1")}, set()),
    ([("a", "1"), ("a", "2")], {("a", "1"), ("a", "2")}, set()),
    ([("a", "1"), ("b", "1"), ("c", "3")], {("a", "1"), ("b", "1")}, set()),
    ([("a", "1"), ("b", "2"), ("b", "1")], {("a", "1"), ("b", "1"), ("b", "2")}, set()),
    ([("a", "1"), ("b", "1"), ("a", None)], {("a", "1"), ("b", "1"), ("a", None)}, {("a", None)}),
]


class ZonesTest(unittest.TestCase):
    def test_which_zones_are_ambiguous(self) -> None:
        for zones, by_name, by_id in AMBIGUOUS:
            entries = [entry(f"10.0.{n}.0/24", zone, id=id) for n, (zone, id) in enumerate(zones)]
            for label, expected in ((ZONE, by_name), (ZONE_ID, by_id)):
                with self.subTest(zones, label=label):
                    table = load(entries, node_label=label)
                    found = {(s.zone, s.zone_id) for s in table if table.is_ambiguous(s)}
                    self.assertEqual(found, expected)


FINGERPRINTED = [
    entry("10.0.0.0/24", "a", id="1"),
    entry("10.0.1.0/24", "a", id="1"),
    entry("10.0.0.0/16", "b", NodeLabels={"x": "1", "y": "2"}),
]

# Of these: another version that makes another number of them would alarm for
# as long as it is rolled out.
FINGERPRINT = 17290591660474


class FingerprintTest(unittest.TestCase):
    def test_neither_order_nor_form_nor_use_counts(self) -> None:
        expected = load(FINGERPRINTED).fingerprint
        for order in permutations(FINGERPRINTED):
            self.assertEqual(load(list(order)).fingerprint, expected)
        table = load({"Subnets": FINGERPRINTED}, [FINGERPRINTED[0]])
        table.match(IPv4Address("10.0.0.1"))
        self.assertEqual(pickle.loads(pickle.dumps(table)).fingerprint, expected)
        again = SubnetTable({(32, mask.bit_count()): level for mask, level in table._ipv4})
        self.assertEqual(again.fingerprint, expected)

    def test_it_is_the_same_in_every_process(self) -> None:
        self.assertEqual(load(FINGERPRINTED).fingerprint, FINGERPRINT)

    def test_every_part_of_an_entry_counts(self) -> None:
        one, *others = FINGERPRINTED
        changed = [
            one | {"CIDRBlock": "10.0.0.0/25"},
            one | {"CIDRBlock": "10.0.2.0/24"},
            one | {"AvailabilityZone": "c"},
            one | {"AvailabilityZoneId": "2"},
            one | {"AvailabilityZoneId": None},
            one | {"NodeLabels": {"x": "1", "y": "2"}},
            one | {"NodeLabels": {"y": "2", "x": "1"}},
        ]
        found = {load([each, *others]).fingerprint for each in [one, *changed]}
        found.add(load(others).fingerprint)
        self.assertEqual(len(found), len(changed) + 2)

    def test_a_float_holds_it(self) -> None:
        for number in range(200):
            fingerprint = load([entry(f"10.0.{number}.0/24", "a")]).fingerprint
            self.assertEqual(int(float(fingerprint)), fingerprint)
            self.assertLess(fingerprint, 2**48)


class TimeTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def file(self, name: str, time: int) -> str:
        path = self.folder / name
        path.write_text(json.dumps([GOOD]))
        os.utime(path, (time, time))
        return str(path)

    def test_it_is_that_of_the_file_changed_last(self) -> None:
        old, new = self.file("old", 1000), self.file("new", 2000)
        for paths, expected in (([old], 1000), ([old, new], 2000), ([new, old], 2000)):
            self.assertEqual(read_files(paths).modified_at, expected)

    def test_links_are_followed(self) -> None:
        self.file("old", 1000)
        (self.folder / "link").symlink_to("old")
        self.assertEqual(read_files([str(self.folder / "link")]).modified_at, 1000)

    def test_the_pasted_table_is_as_old_as_its_module(self) -> None:
        expected = os.stat(subnets.__file__).st_mtime
        self.assertEqual(subnets.pasted_table().modified_at, expected)

    def test_what_was_never_a_file_has_none(self) -> None:
        self.assertIsNone(load([GOOD]).modified_at)


# a time as a table says it, and in Unix time
GATHERINGS = [
    ("1970-01-01T00:01:00Z", 60),
    ("1970-01-01T01:01:00+01:00", 60),
    ("2027-01-15T08:00:00.25Z", 1_800_000_000.25),
]

NO_TIMES: list[object] = [
    None,
    5,
    "",
    "yesterday",
    "2027-01-15T25:00:00Z",
    [],
    "2027-01-15T08:00:00Z\n",
]


class GatheringTest(unittest.TestCase):
    def test_a_table_may_say_when_it_was_gathered(self) -> None:
        for said, time in GATHERINGS:
            with self.subTest(said):
                document = {"GatheredAt": said, "Subnets": [GOOD]}
                self.assertEqual(load(document).gathered_at, time)
                self.assertEqual(parse(json.dumps(document)).gathered_at, time)
        self.assertIsNone(load([GOOD]).gathered_at)

    def test_the_oldest_counts(self) -> None:
        documents = [{"GatheredAt": said, "Subnets": [GOOD]} for said, _ in GATHERINGS]
        for order in permutations(documents):
            self.assertEqual(load(*order, [GOOD]).gathered_at, 60)

    def test_what_is_no_time(self) -> None:
        for value in NO_TIMES:
            with self.subTest(value):
                (problem,) = problems({"GatheredAt": value, "Subnets": [GOOD]})
                self.assertIn(f"GatheredAt {value!r} is not a time", problem)

    def test_it_is_written_as_it_was_read(self) -> None:
        written = "".join(lines(load({"GatheredAt": "2027-01-15T08:00:00Z", "Subnets": EXAMPLE})))
        self.assertTrue(written.startswith('{"GatheredAt": "2027-01-15T08:00:00Z", "Subnets": [\n'))
        self.assertEqual("".join(lines(parse(written))), written)
        self.assertEqual(list(parse(written)), list(load(EXAMPLE)))


class Counting(dict[Any, Any]):
    """A dictionary that counts how often it, or another, is asked."""

    probes = 0

    def get(self, key: Any, default: Any = None) -> Any:
        Counting.probes += 1
        return super().get(key, default)


def random_blocks(count: int, seed: int, bits: int = 32) -> set[Block]:
    """That many subnets of all sizes in 10.0.0.0/8 or a00::/8, many of them inside others."""
    numbers = random.Random(seed)
    blocks: set[Block] = set()
    while len(blocks) < count:
        length = numbers.randint(9, bits)
        number = 10 << bits - 8 | numbers.getrandbits(bits - 8)
        blocks.add(((bits, length), number >> bits - length << bits - length))
    return blocks


def table_of(blocks: Iterable[Block]) -> SubnetTable:
    levels: dict[Size, Level] = {}
    for size, address in blocks:
        levels.setdefault(size, {})[address] = Location("zone-a")
    return SubnetTable(levels)


def scan(blocks: set[Block], address: int) -> str | None:
    """The most specific subnet of the address, found by looking at every one."""
    holding = [
        (size, network) for size, network in blocks if (address ^ network) >> size[0] - size[1] == 0
    ]
    return cidr_of(*max(holding)) if holding else None


class MatchTest(unittest.TestCase):
    def test_the_longest_prefix_wins_whatever_the_order(self) -> None:
        for order in permutations(NESTED):
            table = load(list(map(entry, order)))
            self.assertEqual(
                [(address, found(table, address)) for address, _ in NESTED_MATCHES], NESTED_MATCHES
            )

    def test_an_address_outside_is_in_no_subnet(self) -> None:
        table = load(EXAMPLE)
        for address in ("0.0.0.0", "192.167.255.255", "192.168.96.0", "255.255.255.255"):
            self.assertIsNone(found(table, address))
        self.assertEqual(found(table, "192.168.95.255"), "192.168.64.0/19")

    def test_a_subnet_is_made_when_it_is_found_and_kept(self) -> None:
        table = load(EXAMPLE)
        before = list(table)
        address = IPv4Address("192.168.40.1")
        subnet = table.match(address)
        self.assertEqual(subnet, Subnet("192.168.32.0/19", "zone-a", "az2"))
        self.assertIs(table.match(address), subnet)
        self.assertEqual(list(table), before)

    def test_many_subnets_are_matched_as_a_scan_would(self) -> None:
        for bits, family in FAMILIES.items():
            blocks = random_blocks(100_000, seed=1, bits=bits)
            table = table_of(blocks)
            self.assertEqual(len(table), 100_000)
            numbers = random.Random(2)
            for number in range(20):
                address = 10 << bits - 8 | numbers.getrandbits(bits - 8)
                if number % 2:  # also some that are in a small subnet
                    address = next(iter(blocks))[1] + number
                self.assertEqual(found(table, str(family(address))), scan(blocks, address))

    def test_neither_family_is_taken_for_the_other(self) -> None:
        """0.0.0.1/32 and ::1/128 are one number."""
        low = load([entry("0.0.0.0/8", "a"), entry("::/64", "b"), entry("::1/128", "c")])
        for address, zone in (("0.0.0.1", "a"), ("::1", "c"), ("::2", "b"), ("1.0.0.0", None)):
            with self.subTest(address):
                subnet = low.match(ip_address(address))
                self.assertEqual(subnet and subnet.zone, zone)
        self.assertEqual([subnet.cidr for subnet in low], ["0.0.0.0/8", "::/64", "::1/128"])
        everything = load([entry("0.0.0.0/0", "a"), entry("::/0", "b")])
        self.assertEqual(
            [found(everything, each) for each in ("::", "0.0.0.0")], ["::/0", "0.0.0.0/0"]
        )

    def test_the_table_knows_whether_it_has_ipv6(self) -> None:
        for entries, expected in (([GOOD], False), ([GOOD, entry("::/64")], True)):
            self.assertEqual(load(entries).has_ipv6, expected)

    def test_a_match_makes_a_probe_for_each_prefix_length_at_most(self) -> None:
        for count in (6, 10_000):
            blocks = random_blocks(count, seed=3)
            lengths = len({size for size, _ in blocks})
            table = table_of(blocks | random_blocks(count, seed=3, bits=128))
            table._ipv4 = [(mask, Counting(level)) for mask, level in table._ipv4]
            for address in ("10.1.2.3", "10.128.0.0", "11.0.0.0"):
                with self.subTest(count=count, address=address):
                    Counting.probes = 0
                    found(table, address)
                    self.assertIn(Counting.probes, range(1, lengths + 1))


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

    def test_both_families_are_printed_and_read_again(self) -> None:
        raw = [said | {"AvailabilityZone": "a"} for said, _ in ASSOCIATED]
        table = load(raw)
        self.assertEqual(len(table), 4)
        again = parse("".join(lines(table)))
        self.assertEqual(list(again), list(table))
        self.assertEqual(again.fingerprint, table.fingerprint)


# Texts to be read in pieces of all sizes.
TEXTS = [
    *FormTest.FORMS,
    "\n".join(FormTest.FORMS),
    json.dumps([GOOD, entry("10.0.0.0/8", "z\u00f6ne", Note="\U0001f40d")], ensure_ascii=False),
    f' {{"Note" : [1, {{"a": "b"}}],\r\n "Subnets" : [ ] , "Next" : null }} [{json.dumps(GOOD)}]',
    *(text.replace("^", "").replace("%s", json.dumps(GOOD)) for text in MALFORMED_DOCUMENTS),
    *(text for text, _, _ in GIVEN_TWICE),
]


def said_of(text: str) -> list[object]:
    """The subnets in a text, or else what is wrong with it."""
    try:
        return list(parse(text))
    except InvalidSubnets as error:
        return list(error.problems)


def described(number: int) -> str:
    """A subnet in AWS's own words."""
    said = {key: f"{key} of subnet number {number}" for key in AWS_KEYS.split()}
    cidr, zone = f"10.{number >> 8 & 255}.{number & 255}.0/24", f"zone-{number % 3}"
    return json.dumps(
        {"CidrBlock": cidr, "AvailabilityZone": zone, **said, "OwnerId": None, "VpcId": None}
    )


class ReadingTest(unittest.TestCase):
    def test_the_pieces_make_no_difference(self) -> None:
        for text in TEXTS:
            whole = said_of(text)
            for size, longest in product((1, 2, 3, 7, 64, 1000), (400, 1000)):
                with (
                    self.subTest(text, size=size, longest=longest),
                    mock.patch.multiple(documents, CHUNK_SIZE=size, MAX_VALUE_SIZE=longest),
                ):
                    self.assertEqual(said_of(text), whole)

    def test_several_texts_are_one_table(self) -> None:
        texts = [json.dumps([each]) for each in EXAMPLE]
        self.assertEqual(list(parse(*texts)), list(load(EXAMPLE)))
        with self.assertRaisesRegex(InvalidSubnets, "empty"):
            parse()

    def test_a_value_that_is_too_long(self) -> None:
        long = json.dumps([[]] * 1000)
        with mock.patch.multiple(documents, CHUNK_SIZE=100, MAX_VALUE_SIZE=500):
            for text, column in ((f'{{"Note": {long}}}', 10), (f"[{long}]", 2), (f"[\n{long}]", 1)):
                with self.subTest(text[:10]):
                    (problem,) = text_problems(text)
                    self.assertRegex(problem, f"^not JSON: longer than 500: .*column {column}$")

    def test_a_text_is_decoded_an_entry_at_a_time(self) -> None:
        """So that other threads, which answer lookups, need not wait for all of it."""
        ends: list[int] = []
        decode = documents._decode

        def noted(text: str, position: int) -> tuple[object, int]:
            value, end = decode(text, position)
            ends.append(end - position)
            return value, end

        entries = ",".join(map(described, range(500)))
        for text in (f"[{entries}]", f'{{"Subnets": [{entries}]}}'):
            ends.clear()
            with mock.patch("lookup.json_stream._decode", noted):
                self.assertEqual(len(parse(text)), 500)
            self.assertLessEqual(max(ends), len(described(499)))

    def test_a_file_takes_no_more_memory_than_its_table(self) -> None:
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = Path(folder) / "subnets.json"
        path.write_text('{"Subnets": [' + ",\n".join(map(described, range(5000))) + "]}")
        with mock.patch.multiple(documents, CHUNK_SIZE=65536, MAX_VALUE_SIZE=32768):
            tracemalloc.start()
            try:
                table = read_files([str(path)])
                after, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        self.assertEqual(len(table), 5000)
        self.assertGreater(path.stat().st_size, 5_000_000)
        self.assertLess(peak, 2_000_000)
        self.assertLess(after, 200 * 5000)


def compressed(*parts: bytes) -> bytes:
    return b"".join(map(gzip.compress, parts))


def spoilt(data: bytes, index: int) -> bytes:
    """The data with one byte changed."""
    changed = bytearray(data)
    changed[index] ^= 0xFF
    return bytes(changed)


PLAIN = json.dumps(EXAMPLE).encode()

# What a file may hold instead of PLAIN.
SAME_FILES = [
    PLAIN,
    b"\xef\xbb\xbf" + PLAIN,
    compressed(PLAIN),
    compressed(b"\xef\xbb\xbf" + PLAIN),
    compressed(PLAIN[:50], PLAIN[50:]),
    compressed(PLAIN, PLAIN),
]

# What cannot be read, and what is said of it.
BAD_FILES = [
    (b"", "the list of subnets is empty"),
    (b"\xff\xfe[\x00]\x00", "not UTF-8: byte 0xff"),  # as PowerShell writes it
    (b'[{"AvailabilityZone": "z\xf6ne"}]', "not UTF-8: byte 0xf6"),
    (b"[] \xe2\x82", "not UTF-8: byte 0xe2"),
    (compressed(b"[] \xf6"), "not UTF-8: byte 0xf6"),
    (compressed(b""), "the list of subnets is empty"),
    (compressed(PLAIN)[:-1], "cannot be read: Compressed file ended"),
    (compressed(PLAIN)[:30], "cannot be read: Compressed file ended"),
    (b"\x1f\x8b", "cannot be read: "),
    (b"\x1f\x8b" + PLAIN, "cannot be read: "),
    (spoilt(compressed(PLAIN), -5), "cannot be read: "),
    (spoilt(compressed(PLAIN), 10), "cannot be read: Error -3"),
    (spoilt(compressed(PLAIN), 12), "cannot be read: CRC check failed"),
    (compressed(PLAIN) + b"garbage", "cannot be read: "),
    (b"[", "not JSON: "),
    (compressed(b"["), "not JSON: "),
]


class FilesTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def file(self, content: bytes, name: str = "subnets.json") -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def assert_refused(self, paths: list[str], *expected: str) -> None:
        """A line begins with each of these, in their order."""
        with self.assertRaises(InvalidSubnets) as caught:
            read_files(paths)
        problems = caught.exception.problems
        self.assertEqual(len(problems), len(expected), problems)
        for problem, beginning in zip(problems, expected, strict=True):
            self.assertEqual(problem[: len(beginning)], beginning)

    def test_plain_and_compressed_files(self) -> None:
        for content, name in product(SAME_FILES, ("subnets.json", "subnets.json.gz")):
            with self.subTest(content, name=name):
                self.assertEqual(list(read_files([self.file(content, name)])), list(load(EXAMPLE)))

    def test_files_that_cannot_be_read(self) -> None:
        for content, why in BAD_FILES:
            with self.subTest(content):
                path = self.file(content)
                self.assert_refused([path], f"{path}: {why}")

    def test_files_that_cannot_be_opened(self) -> None:
        folder, missing = str(self.folder), str(self.folder / "none.json")
        self.assert_refused(
            [folder, missing],
            f"{folder}: cannot be read: Is a directory",
            f"{missing}: cannot be read: No such file or directory",
        )

    def test_a_file_that_unpacks_to_too_much(self) -> None:
        bomb = self.file(compressed(b" " * 100_000 + PLAIN))
        self.assertEqual(len(read_files([bomb])), 3)
        with mock.patch.multiple(documents, CHUNK_SIZE=1000, MAX_FILE_SIZE=100_000):
            self.assert_refused([bomb], f"{bomb}: longer than 100,000 bytes")
        with mock.patch("lookup.json_stream.MAX_FILE_SIZE", len(PLAIN)):
            self.assertEqual(len(read_files([self.file(PLAIN)])), 3)
        with mock.patch("lookup.json_stream.MAX_FILE_SIZE", len(PLAIN) - 1):
            path = self.file(PLAIN)
            self.assert_refused([path], f"{path}: longer than {len(PLAIN) - 1:,} bytes")

    def test_several_files_are_one_table(self) -> None:
        paths = [self.file(json.dumps([e]).encode(), f"{n}.json") for n, e in enumerate(EXAMPLE)]
        for order in permutations(paths):
            self.assertEqual(list(read_files(order)), list(load(EXAMPLE)))

    def test_what_is_said_begins_with_the_files_name(self) -> None:
        one = self.file(json.dumps([entry("10.0.0.0/24", "a"), 5]).encode(), "1.json")
        other = self.file(b"[] " + json.dumps([entry("10.0.0.0/24", "b")]).encode(), "2.json")
        empty = self.file(b"[]", "3.json")
        self.assert_refused(
            [empty, one, other],
            f"{one}: entry 1: expected an object",
            f"{other}: document 2, entry 0: 10.0.0.0/24 is in zone b; in {one}: entry 0 it is in",
        )
        self.assert_refused([empty, empty], f"{empty}, {empty}: the list of subnets is empty")
        (warning,) = read_files([self.file(b'[{"CidrBlock": null}]' + PLAIN)]).warnings
        self.assertIn("subnets.json: entry 0: the subnet is IPv6-only", warning)

    def test_the_label_counts(self) -> None:
        path = self.file(json.dumps([entry("10.0.0.0/24", id="1"), GOOD]).encode())
        self.assertEqual({s.zone_id for s in read_files([path])}, {"1", None})
        self.assertEqual({s.zone_id for s in read_files([path], ZONE_ID)}, {"1"})


# What `python3 subnets.py` refuses, and what it says of it.
REFUSED_INPUTS = [
    (b"", "empty"),
    (b"[", "not JSON"),
    (b"\xff\xfe[\x00]\x00", "not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[" + b"9" * 5000 + b"]", "digits"),
    (b"[NaN]", "nan"),
    (b"null", "None"),
]

# What stands below SUBNETS_DATA, and whether it is a table that Python would pass over.
BELOW_THE_TABLE = [
    ("", False),
    ("OTHER = [{}]\n", False),
    ("print(end='')\n", False),
    ("[]\n", True),
    ('[\n    {"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "a"}\n]\n', True),
    ('\n{"Subnets": []}\n', True),
    ('OTHER = 1\n[{"CIDRBlock": null}]\n', True),
]


class PasteTest(unittest.TestCase):
    """What is pasted into subnets.py."""

    def pasted(self, table: str, below: str = "") -> list[str]:
        """The CIDRs of the table in a copy of the module, or what is wrong with it."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        before, _, rest = (ROOT / "subnets.py").read_text().partition("SUBNETS_DATA: Any = ")
        after = rest.partition("# fmt: on\n")[2]
        module = f"{before}SUBNETS_DATA: Any = {table}\n{below}# fmt: on\n{after}"
        (folder / "subnets.py").write_text(module)
        for imported in ("common", "lookup"):
            (folder / imported).symlink_to(ROOT / imported)
        (folder / "ask.py").write_text(
            "import subnets\n"
            "from lookup.table import InvalidSubnets\n"
            "try: print(*(subnet.cidr for subnet in subnets.pasted_table()), sep='\\n')\n"
            "except InvalidSubnets as error: print(*error.problems, sep='\\n')\n"
        )
        run = subprocess.run(
            [sys.executable, folder / "ask.py"], capture_output=True, text=True, timeout=DEADLINE
        )
        self.assertEqual(run.stderr, "")
        return run.stdout.splitlines()

    def test_what_aws_prints_is_the_table(self) -> None:
        """Whole, and with the README's --query."""
        whole = (ROOT / "tests/examples/aws-one-account/subnets.json").read_text()
        keys = (*ZONE_KEYS, "Ipv6CidrBlockAssociationSet")
        picked = {"CIDRBlock": "CidrBlock", **{key: key for key in keys}}
        query = json.dumps(
            [
                {name: subnet.get(key) for name, key in picked.items()}
                for subnet in json.loads(whole)["Subnets"]
            ],
            indent=4,
        )
        for pasted in (whole, query):
            with self.subTest(pasted):
                self.assertEqual(self.pasted(pasted), [subnet.cidr for subnet in parse(whole)])

    def test_a_second_list_below_the_first(self) -> None:
        cidrs = [str(each["CIDRBlock"]) for each in EXAMPLE]
        refused = ["SUBNETS_DATA: a second list stands below the first; make one list of both"]
        flush = "[\n" + ",\n".join(map(json.dumps, EXAMPLE)) + "\n]"
        for table, (below, is_refused) in product((repr(EXAMPLE), flush), BELOW_THE_TABLE):
            with self.subTest(table=table, below=below):
                self.assertEqual(self.pasted(table, below), refused if is_refused else cidrs)

    def test_problems_name_the_table(self) -> None:
        for table, why in (("[]", "the list of subnets is empty"), ("[5]", "entry 0: expected")):
            (problem,) = self.pasted(table)
            self.assertTrue(problem.startswith(f"SUBNETS_DATA: {why}"), problem)


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
            [each.split(":")[:2] for each in run.errors],
            [["standard input", f" entry {index}"] for index in (0, 2, 3)],
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
                self.assertIn(f"{path}: cannot be read: {why}", run.errors[0])

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
        self.assertEqual(run.stderr, "standard input: cannot be read: Bad file descriptor\n")

    def test_several_files_are_merged(self) -> None:
        files = [self.file(json.dumps([each]).encode()) for each in EXAMPLE]
        run = run_subnets(*files[1:], "-", stdin=compressed(json.dumps(EXAMPLE[:1]).encode()))
        self.assertEqual((run.status, run.errors), (0, []))
        self.assertEqual(list(parse(run.output)), list(load(EXAMPLE)))

    def test_every_file_with_a_problem_is_named(self) -> None:
        paths = [self.file(b"["), self.file(PLAIN), self.file(b"[5]")]
        run = run_subnets(*paths)
        self.assertEqual((run.status, run.output, len(run.errors)), (2, "", 2))
        for line, path in zip(run.errors, (paths[0], paths[2]), strict=True):
            self.assertTrue(line.startswith(f"{path}: "), line)

    def test_the_node_label(self) -> None:
        """It does what NODE_LABEL does for the service."""
        shared = entry("10.0.0.0/24", "us-1a", id="az1")
        table = json.dumps([shared, shared | {"AvailabilityZone": "us-1b"}]).encode()
        for arguments in ((), ("--node-label", ZONE)):
            run = run_subnets(*arguments, stdin=table)
            self.assertEqual((run.status, len(run.errors)), (2, 1))
        run = run_subnets("--node-label", ZONE_ID, stdin=table)
        self.assertEqual((run.status, run.errors), (0, []))
        self.assertEqual(list(parse(run.output)), [Subnet("10.0.0.0/24", "us-1a", "az1")])
        refused = run_subnets("--node-label", "zone", stdin=table)
        self.assertEqual((refused.status, refused.output), (2, ""))

    def test_help(self) -> None:
        run = run_subnets("--help")
        self.assertEqual((run.status, run.errors), (0, []))
        for text in ("usage: python3 subnets.py", "FILE", ZONE, ZONE_ID, "standard input", "gzip"):
            self.assertIn(text, " ".join(run.output.split()))


@contextmanager
def on_a_terminal() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`python3 subnets.py` with a terminal for its standard input, and that terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "subnets.py")]
    try:
        with subprocess.Popen(
            command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                yield process, ours
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)


class TerminalTest(unittest.TestCase):
    def told(self, process: subprocess.Popen[bytes]) -> bytes:
        """What it says before it reads."""
        assert process.stderr
        self.assertTrue(select.select([process.stderr], [], [], DEADLINE)[0], "nothing was said")
        return process.stderr.readline()

    def test_it_says_that_it_reads_standard_input(self) -> None:
        with on_a_terminal() as (process, terminal):
            self.assertIn(b"standard input", self.told(process))
            os.write(terminal, PLAIN + b"\n\x04")
            output, errors = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, errors), (0, b""))
        self.assertEqual(list(parse(output.decode())), list(load(EXAMPLE)))

    def test_an_interrupt_is_quiet(self) -> None:
        with on_a_terminal() as (process, _):
            self.told(process)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, output, errors), (130, b"", b""))


ENTRIES = [entry(f"10.{n >> 8}.{n & 255}.0/24", f"zone-{n % 3}") for n in range(20_000)]


class SizeTest(unittest.TestCase):
    """A ConfigMap has its limit, and kubectl would say so late."""

    def output(self, count: int) -> str:
        lines = (f"    {json.dumps(each)}" for each in ENTRIES[:count])
        return "[\n" + ",\n".join(lines) + "\n]\n"

    def warnings(self, count: int, limit: int) -> list[str]:
        with (
            tempfile.NamedTemporaryFile("w") as file,
            mock.patch("subnets.MAX_CONFIGMAP_SIZE", limit),
            redirect_stdout(StringIO()) as output,
            redirect_stderr(StringIO()) as errors,
        ):
            json.dump(ENTRIES[:count], file)
            file.flush()
            self.assertEqual(subnets.main([file.name]), 0)
        self.assertEqual(output.getvalue(), self.output(count))
        return errors.getvalue().splitlines()

    def test_a_table_that_is_too_large(self) -> None:
        size = len(self.output(1000))
        packed = len(gzip.compress(self.output(1000).encode(), 9))
        self.assertEqual(self.warnings(1000, limit=size), [])
        for limit, fits in ((size - 1, True), (packed, True), (packed - 1, False)):
            with self.subTest(limit):
                (warning,) = self.warnings(1000, limit)
                for text in ("warning: ", f"{size:,}", f"{limit:,}", f"{packed:,}", "gzip -9"):
                    self.assertIn(text, warning)
                self.assertEqual("subnets.json.gz" in warning, fits)

    def test_the_limit_is_that_of_a_configmap(self) -> None:
        self.assertEqual(MAX_CONFIGMAP_SIZE, 1 << 20)
        run = run_subnets(stdin=json.dumps(ENTRIES).encode())
        self.assertEqual(len(run.errors), 1)
        self.assertIn(f"{len(run.output):,} bytes", run.errors[0])


PROGRAMS = [path for path in ROOT.glob("*.py") if '__name__ == "__main__"' in path.read_text()]

# Runs a program as if Python were of another version.
DISGUISED = """
import runpy, sys
sys.version_info, sys.version = ({}, 0, "final", 0), "{}.0 (main)"
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class OldPythonTest(unittest.TestCase):
    def assert_said(self, *command: str) -> None:
        """One line, which says what is needed."""
        run = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual((run.returncode, run.stdout), (1, ""), run.stderr)
        self.assertRegex(
            run.stderr, r"^Python 3\.11 or newer is needed, and this is 3\.\d+\.\d+\n$"
        )

    def test_an_older_python_is_told_what_is_needed(self) -> None:
        self.assertGreaterEqual(len(PROGRAMS), 2)
        for program, version in product(PROGRAMS, ("3, 8", "3, 9", "3, 10")):
            with self.subTest(program, version=version):
                script = DISGUISED.format(version, version.replace(", ", "."))
                self.assert_said(sys.executable, "-c", script, str(program))

    def test_it_can_be_told(self) -> None:
        """What a program imports up to the module that tells it, an older Python can compile."""
        for program in PROGRAMS:
            with self.subTest(program):
                self.assertEqual(first_own_import(program), "common")

    def test_a_real_older_python(self) -> None:
        versions = ("python3.8", "python3.9", "python3.10")
        found = [path for path in map(shutil.which, versions) if path and runs(path)]
        if not found:
            self.skipTest("no python3.8, python3.9 or python3.10 is on PATH")
        for python, program in product(found, PROGRAMS):
            with self.subTest(python, program=program):
                self.assert_said(python, str(program))


def first_own_import(program: Path) -> str:
    """The first of our folders that it imports from; `SyntaxError` if Python 3.8 cannot read it."""
    tree = ast.parse(program.read_text(), feature_version=(3, 8))
    imports = (each.module or "" for each in tree.body if isinstance(each, ast.ImportFrom))
    folders = (each.partition(".")[0] for each in imports)
    return next(each for each in folders if (ROOT / each).is_dir())


def runs(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


if __name__ == "__main__":
    unittest.main()
