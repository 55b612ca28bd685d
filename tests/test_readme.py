"""The README's tables have what the code has, no more and no less."""

from __future__ import annotations

import re
import unittest
from dataclasses import asdict, fields
from pathlib import Path

import errors
from server import ENDPOINTS, ServerSettings
from tests.support import running

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def _first_column(header: str) -> list[str]:
    """The words in code font of the first column of the table with this header."""
    _, _, rest = README.partition(f"{header}\n")
    table = rest.partition("\n\n")[0].splitlines()[1:]
    return [word for row in table for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


class ReadmeTest(unittest.TestCase):
    def test_endpoints(self) -> None:
        paths = {path.partition("?")[0] for path in _first_column("| path | answer |")}
        self.assertEqual(paths, set(ENDPOINTS))

    def test_settings(self) -> None:
        documented = _first_column("| variable | default | meaning |")
        self.assertEqual(set(documented), {each.name.upper() for each in fields(ServerSettings)})

    def test_defaults(self) -> None:
        for name, value in asdict(ServerSettings.from_environment({})).items():
            row = re.search(rf"^\| `{name.upper()}` \| (.*?) \|", README, re.MULTILINE)
            assert row
            if value:  # none is shown for an empty one
                with self.subTest(name):
                    self.assertEqual(
                        row[1].strip("`"), f"{value:g}" if isinstance(value, float) else str(value)
                    )

    def test_errors(self) -> None:
        rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", README, re.MULTILINE)
        known = {
            (str(each.status.value), name)
            for name, each in vars(errors).items()
            if isinstance(each, type)
            and issubclass(each, errors.ServiceError)
            and each is not errors.ServiceError
        }
        self.assertEqual(set(rows), known)

    def test_metrics(self) -> None:
        with running() as client:
            text = client.request("/metrics").body
        families = set(re.findall(r"^# TYPE automatic_zone_placement_(\w+)", text, re.MULTILINE))
        self.assertEqual(set(_first_column("| metric | type | what it counts |")), families)


if __name__ == "__main__":
    unittest.main()
