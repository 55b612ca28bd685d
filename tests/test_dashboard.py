"""The dashboard: that Grafana finds it, and that its queries are about what there is."""

from __future__ import annotations

import json
import re
import shutil
import unittest
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from tests.certificates import AVAILABLE, WHY_NOT
from tests.chart import FILES, NAME
from tests.prometheus import FOREIGN, metrics_in, promtool, scraped, values_in

DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h"} | dict.fromkeys(
    ("$cluster", "$namespace", "$job", "$instance"), ".*"
)

WIDTH = 24


def queries() -> Iterator[tuple[str, str]]:
    """The title of each panel with each of its queries."""
    for panel in PANELS:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def without_variables(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """Where the panel is."""
    at = panel["gridPos"]
    return {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}


class DashboardTest(unittest.TestCase):
    def test_it_is_the_same_one_after_an_upgrade(self) -> None:
        self.assertEqual(DASHBOARD["uid"], NAME)
        self.assertNotIn("id", DASHBOARD)

    def test_it_asks_for_the_data_source_and_whom_to_show(self) -> None:
        names = [each["name"] for each in DASHBOARD["templating"]["list"]]
        self.assertEqual(names, ["datasource", "cluster", "namespace", "job", "instance"])
        chosen = {"type": "prometheus", "uid": "${datasource}"}
        for panel in PANELS:
            for each in [panel, *panel["targets"]] if panel["type"] != "row" else []:
                self.assertEqual(each["datasource"], chosen)

    def test_every_query_is_about_whom_to_show(self) -> None:
        for title, query in queries():
            for name, selector in re.findall(r"(\w+)\{(.*?)\}", query):
                with self.subTest(title, metric=name):
                    self.assertIn('cluster=~"$cluster"', selector)
                    if name not in FOREIGN:
                        for label in ("namespace", "job", "instance"):
                            self.assertIn(f'{label}=~"${label}"', selector)
            self.assertEqual(set(re.findall(r"(\w+)\{", query)), metrics_in(query))

    @unittest.skipUnless(AVAILABLE, WHY_NOT)
    def test_every_metric_is_there(self) -> None:
        known = {metric for metric, _, _ in scraped()} | FOREIGN
        for title, query in queries():
            with self.subTest(title):
                self.assertLessEqual(metrics_in(query), known)

    @unittest.skipUnless(AVAILABLE, WHY_NOT)
    def test_every_value_of_a_label_is_there(self) -> None:
        for title, query in queries():
            for metric, label, value in values_in(query):
                if metric not in FOREIGN:
                    with self.subTest(title):
                        self.assertIn((metric, label, value), scraped())

    @unittest.skipUnless(
        shutil.which("promtool"), "promtool (Debian package prometheus) is not on PATH"
    )
    def test_every_query_is_valid(self) -> None:
        rules = [
            {"record": f"query:{number}", "expr": without_variables(query)}
            for number, (_, query) in enumerate(queries())
        ]
        self.assertEqual(promtool("check", {"groups": [{"name": NAME, "rules": rules}]}), "")

    def test_every_panel_says_what_it_shows(self) -> None:
        for panel in PANELS:
            with self.subTest(panel["title"]):
                if panel["type"] != "row":
                    self.assertTrue(panel["description"].endswith("."))
                    self.assertTrue(panel["targets"])
        self.assertEqual(len({panel["id"] for panel in PANELS}), len(PANELS))

    def test_every_panel_has_a_word_for_no_data(self) -> None:
        for panel in PANELS:
            if panel["type"] != "row" and "vector(0)" not in panel["targets"][0]["expr"]:
                with self.subTest(panel["title"]):
                    self.assertTrue(panel["fieldConfig"]["defaults"]["noValue"])

    def test_a_word_is_not_red(self) -> None:
        """Grafana gives it the colour of the first step."""
        for panel in PANELS:
            defaults = panel.get("fieldConfig", {}).get("defaults", {})
            if "noValue" in defaults and "thresholds" in defaults:
                with self.subTest(panel["title"]):
                    first, *_ = defaults["thresholds"]["steps"]
                    self.assertIn(first["color"], ("text", "green"))

    def test_no_share_is_of_nothing(self) -> None:
        """It would be NaN, which is neither data nor a word."""
        for title, query in queries():
            with self.subTest(title):
                self.assertEqual(query.count("\n/\n("), query.count("\n/"))
                if "histogram_quantile" in query:
                    self.assertRegex(query, r"\nand on \(\) sum\(.+\) > 0$")

    def test_no_panel_covers_another(self) -> None:
        for one, other in combinations(PANELS, 2):
            self.assertFalse(cells(one) & cells(other), (one["title"], other["title"]))
        self.assertLess(max(x for panel in PANELS for x, _ in cells(panel)), WIDTH)


if __name__ == "__main__":
    unittest.main()
