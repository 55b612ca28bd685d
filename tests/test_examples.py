"""The worked examples: each folder's table, and what is expected of it.

A folder has a `subnets.json` as users would gather it and an `expected.json` with the
service's settings, lookups and their answers, and what the check of the table must
say: for each warning or problem the words that occur in it. Where a check without the
settings' NODE_LABEL says something else, as it will at first, that is in `at_first`.
"""

from __future__ import annotations

import json
import unittest
from typing import Any

from common.names import ZONE_LABEL
from lookup.table import InvalidSubnets
from lookup.table_reader import parse, read_files
from tests.support import ROOT, Run, run_subnets, running

EXAMPLES = sorted((ROOT / "tests" / "examples").iterdir())


class ExampleTest(unittest.TestCase):
    def assert_said(self, lines: list[str], expected: list[list[str]]) -> None:
        """For each list of words there is a line that has them all; without any, no line."""
        if not expected:
            self.assertEqual(lines, [])
        for words in expected:
            fitting = [line for line in lines if all(word in line for word in words)]
            self.assertTrue(fitting, f"{words} in none of {lines}")

    def assert_answers(self, run: Run, expected: Any) -> None:
        """The service, given the table that the check printed, answers as expected."""
        with running(json.loads(run.output), **expected["settings"]) as client:
            for name, answer in expected["lookups"].items():
                with self.subTest(name):
                    response = client.lookup(name)
                    self.assertEqual(response.status, answer["status"])
                    if "body" in answer:
                        self.assertEqual(response.body, answer["body"])
                    else:
                        self.assertEqual(response.body["reason"], answer["reason"])

    def test_examples(self) -> None:
        self.assertGreaterEqual(len(EXAMPLES), 15)
        for folder in EXAMPLES:
            expected = json.loads((folder / "expected.json").read_text())
            with self.subTest(folder.name):
                self.check(str(folder / "subnets.json"), expected)

    def check(self, path: str, expected: Any) -> None:
        label = expected["settings"]["NODE_LABEL"]
        run = self.checked(path, label, expected)
        if run.status == 0:
            self.assert_answers(run, expected)
        if label != ZONE_LABEL:
            self.checked(path, ZONE_LABEL, expected | expected.get("at_first", {}))

    def checked(self, path: str, label: str, expected: Any) -> Run:
        """The check of the table, which says what is expected."""
        run = run_subnets("--node-label", label, path)
        warnings = [line for line in run.errors if line.startswith("warning: ")]
        self.assert_said(warnings, expected["warnings"])
        if expected.get("problems"):
            self.assertEqual((run.status, run.output), (2, ""))
            self.assert_said(run.errors, expected["problems"])
            with self.assertRaises(InvalidSubnets):
                read_files([path], label)
        else:
            self.assertEqual((run.status, run.errors), (0, warnings))
            self.assertEqual(list(read_files([path], label)), list(parse(run.output)))
        return run


if __name__ == "__main__":
    unittest.main()
