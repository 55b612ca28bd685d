"""The documents: their tables have what the code has, their answers are real, their links lead somewhere."""

from __future__ import annotations

import json
import re
import unittest
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory

from common import errors
from lookup.handler import ENDPOINTS
from server import ServerSettings
from tests.support import SUBNETS, running
from tests.test_process import serving

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", "docs/", "deploy/")
DOCUMENTS = {path: path.read_text() for each in FOLDERS for path in ROOT.glob(f"{each}*.md")}

HTTP, SETTINGS, METRICS = (
    DOCUMENTS[ROOT / "docs" / f"{name}.md"] for name in ("http", "settings", "metrics")
)
CONTRIBUTING = ROOT / "docs" / "CONTRIBUTING.md"

# A request that is shown, and its answer on the line below.
SHOWN = re.compile(r"^\$ curl 'localhost:8080(/\S+)'\n(.*)$", re.MULTILINE)

# The subnet of the example with IPv6.
IPV6_SUBNET = {
    "CIDRBlock": "2001:db8:1::/64",
    "AvailabilityZone": "eu-central-1b",
    "AvailabilityZoneId": "euc1-az3",
}

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
CODE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def _first_column(document: str, header: str) -> list[str]:
    """The words in code font of the first column of the table with this header."""
    _, _, rest = document.partition(f"{header}\n")
    table = rest.partition("\n\n")[0].splitlines()[1:]
    return [word for row in table for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


def _anchors(document: str) -> set[str]:
    """What a link may name behind its `#`, as GitHub makes it of the headings."""
    headings = HEADING.findall(CODE.sub("", document))
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


class ReadmeTest(unittest.TestCase):
    def test_endpoints(self) -> None:
        paths = {path.partition("?")[0] for path in _first_column(HTTP, "| path | answer |")}
        self.assertEqual(paths, set(ENDPOINTS))

    def test_settings(self) -> None:
        documented = _first_column(SETTINGS, "| variable | default | meaning |")
        self.assertEqual(set(documented), {each.name.upper() for each in fields(ServerSettings)})

    def test_defaults(self) -> None:
        for name, value in asdict(ServerSettings.from_environment({})).items():
            row = re.search(rf"^\| `{name.upper()}` \| (.*?) \|", SETTINGS, re.MULTILINE)
            assert row
            if value:  # none is shown for an empty one
                with self.subTest(name):
                    self.assertEqual(
                        row[1].strip("`"), f"{value:g}" if isinstance(value, float) else str(value)
                    )

    def test_errors(self) -> None:
        rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", HTTP, re.MULTILINE)
        known = {
            (str(each.status.value), name)
            for name, each in vars(errors).items()
            if isinstance(each, type)
            and issubclass(each, errors.ServiceError)
            and each is not errors.ServiceError
        }
        self.assertEqual(set(rows), known)

    def test_metrics(self) -> None:
        table = {"GatheredAt": "2026-01-31T12:00:00Z", "Subnets": SUBNETS}
        file = Path(self.enterContext(TemporaryDirectory())) / "subnets.json"
        file.write_text(json.dumps(table))
        with serving(SUBNETS_FILE=str(file)) as server:  # a process, which alone has a log
            text = server.request("/metrics").body
        families = set(re.findall(r"^# TYPE automatic_zone_placement_(\w+)", text, re.MULTILINE))
        self.assertEqual(
            set(_first_column(METRICS, "| metric | type | what it counts |")), families
        )

    def test_answers(self) -> None:
        shown = {pair for text in DOCUMENTS.values() for pair in SHOWN.findall(text)}
        self.assertTrue(shown)
        with running([*SUBNETS, IPV6_SUBNET]) as client:
            for target, answer in shown:
                self.assertEqual(client.request(target).body, json.loads(answer), target)

    def test_links(self) -> None:
        for path, text in DOCUMENTS.items():
            for file, anchor in LINK.findall(CODE.sub("", text)):
                if not file.startswith("https://"):
                    with self.subTest(path=path.name, file=file, anchor=anchor):
                        target = (path.parent / file).resolve() if file else path
                        self.assertTrue(target.exists())
                        if anchor:
                            self.assertIn(anchor, _anchors(DOCUMENTS[target]))

    def test_every_program_and_capability_is_introduced(self) -> None:
        introduced = re.findall(r"^\| \[(\w+\.py|\w+/)\]", DOCUMENTS[CONTRIBUTING], re.MULTILINE)
        folders = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
        programs = {path.name for path in ROOT.glob("*.py")}
        self.assertEqual(set(introduced), programs | folders - {"tests/"} | {"deploy/", "kyverno/"})

    def test_every_document_is_linked_to(self) -> None:
        linked = {file for file, _ in LINK.findall(DOCUMENTS[ROOT / "README.md"])}
        missing = {str(path.relative_to(ROOT)) for path in DOCUMENTS} - linked - {"README.md"}
        self.assertEqual(missing, set())


if __name__ == "__main__":
    unittest.main()
