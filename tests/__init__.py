"""All tests: `python3 -m unittest`. Those that lack a tool are skipped, and the last line tells which."""

from __future__ import annotations

import signal
import sys
import unittest
from collections import Counter

# Whoever runs us in the background, or by nohup, has these ignored, and so would the programs
# have that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Suite(unittest.TestSuite):
    """All tests, and in the end a line for each reason for which some were skipped."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        """The result, as `unittest` has it."""
        super().run(result, debug)
        for reason, number in Counter(why for _, why in result.skipped).items():
            print(f"\nskipped {number}: {reason}", end="", file=sys.stderr)
        if result.skipped:
            print("\n(docs/CONTRIBUTING.md says what has them run)", file=sys.stderr)
        return result


def load_tests(
    loader: unittest.TestLoader, _: unittest.TestSuite, pattern: str | None
) -> unittest.TestSuite:
    """The tests in this folder, by `unittest`'s load_tests protocol."""
    return Suite(loader.discover(__path__[0], pattern or "test*.py", __path__[0] + "/.."))
