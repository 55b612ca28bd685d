"""Zones: what has no id is completed, what contradicts is refused, what is ambiguous is known."""

from __future__ import annotations

import unittest
from typing import Any

from lookup.table import (
    Subnet,
    SubnetTable,
)
from lookup.table_reader import load
from tests.tables import (
    GOOD,
    ZONE,
    ZONE_ID,
    entry,
    messages,
    problems,
)

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
        for number, end in ((16, "zone-15, beside"), (17, "zone-15 and 1 more, beside")):
            entries = [entry(f"10.{n}.0.0/16", f"zone-{n:02}") for n in range(number)]
            (warning,) = messages([*entries, entry("10.9.0.0/24", "a", id="1")], node_label=ZONE_ID)
            self.assertIn("zone-00, zone-01", warning)
            self.assertIn(end, warning)

    def test_the_table_knows_its_zones(self) -> None:
        shared = [entry("10.0.0.0/24", "a", id="1"), entry("10.0.0.0/24", "other", id="1")]
        table = load([*shared, GOOD, entry("10.0.1.0/24", "b", id="2")], node_label=ZONE_ID)
        self.assertEqual(table.zones, {"a", "1", "b", "2", "zone-a"})


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


if __name__ == "__main__":
    unittest.main()
