"""The table: which subnet holds an address, and what tells one table from another."""

from __future__ import annotations

import json
import os
import pickle
import random
import tempfile
import unittest
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address
from itertools import permutations
from pathlib import Path
from typing import Any

import subnets
from lookup.table import (
    FAMILIES,
    Block,
    Level,
    Size,
    Subnet,
    SubnetTable,
    cidr_of,
)
from lookup.table_reader import load, parse, read_files
from lookup.table_writer import lines
from lookup.zones import Location
from tests.tables import (
    EXAMPLE,
    GOOD,
    entry,
    found,
    problems,
)

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
            number_of_blocks = 100_000 if bits == 32 else 10_000
            blocks = random_blocks(number_of_blocks, seed=1, bits=bits)
            table = table_of(blocks)
            self.assertEqual(len(table), number_of_blocks)
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


if __name__ == "__main__":
    unittest.main()
