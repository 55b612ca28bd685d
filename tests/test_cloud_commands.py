"""The documents' commands that gather a table, with the clouds' command lines replaced.

In place of each is a script that prints a file of tests/cloud_cli, which is in the
form that the cloud's documentation gives for that command.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from lookup.table import Subnet
from lookup.table_reader import parse

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
DOCUMENTS = "".join(
    path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
)

# Its words up to the first option name the file.
STAND_IN = """#!/bin/bash
file=$(basename "$0")
for word; do [[ $word == -* ]] && break; file+=-$word; done
cat "{folder}/$file.json"
"""

# getent ahostsv4 NAME
GETENT = """#!/bin/bash
case $2 in
    orders.postgres*) echo "10.30.0.5 STREAM $2" ;;
    billing.mysql*) echo "10.30.4.4 STREAM $2"; echo "10.30.4.4 DGRAM" ;;
    *) exit 2 ;;
esac
"""


def commands(tool: str) -> list[str]:
    """The documents' shell blocks that use the tool."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", DOCUMENTS, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if re.search(rf"\b{tool} [\w>-]", block)]


def table(text: str) -> set[Subnet]:
    return set(parse(text))


@unittest.skipUnless(shutil.which("jq"), "the jq command is not on PATH")
class CommandTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for part in ("subnets.py", "common", "lookup"):
            (self.folder / part).symlink_to(ROOT / part)
        for tool in ("aws", "az", "gcloud"):
            self.replace(tool, STAND_IN.format(folder=TESTS / "cloud_cli"))
        self.replace("getent", GETENT)
        # What is looked up in the table afterwards is another matter.
        skip = "[[ $1 == server.py ]] && exit"
        self.replace("python3", f'#!/bin/bash\n{skip}\nexec "{sys.executable}" "$@"\n')

    def replace(self, tool: str, script: str) -> None:
        path = self.folder / tool
        path.write_text(script)
        path.chmod(0o755)

    def run_block(self, block: str) -> str:
        """What it prints, or writes to subnets.json."""
        written = self.folder / "subnets.json"
        written.unlink(missing_ok=True)
        run = subprocess.run(
            ["bash", "-ec", f'PATH="$PWD:$PATH"\n{block}'],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        self.assertEqual(run.returncode, 0, f"{block}\n{run.stderr}")
        return written.read_text() if written.exists() else run.stdout

    def gathered(self, tool: str) -> set[Subnet]:
        return table("".join(map(self.run_block, commands(tool))))

    def example(self, name: str) -> set[Subnet]:
        return table((TESTS / "examples" / name / "subnets.json").read_text())

    def test_google_cloud(self) -> None:
        self.assertEqual(self.gathered("gcloud"), self.example("google-cloud"))

    def test_azure(self) -> None:
        self.assertEqual(self.gathered("az"), self.example("azure"))

    def test_aws(self) -> None:
        script = "deploy/files/gather-subnets.sh"
        (self.folder / script).parent.mkdir(parents=True)
        shutil.copy(ROOT / script, self.folder / script)
        blocks = commands("aws ec2 describe-subnets") + commands(f"sh {script}")
        self.assertGreaterEqual(len(blocks), 5)
        for block in blocks:
            with self.subTest(block):
                self.assertTrue(table(self.run_block(block)))


if __name__ == "__main__":
    unittest.main()
