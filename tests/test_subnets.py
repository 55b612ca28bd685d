"""The table that is pasted into subnets.py, and its command."""

from __future__ import annotations

import ast
import gzip
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path
from unittest import mock

import subnets
from lookup.table import (
    Subnet,
)
from lookup.table_reader import load, parse
from lookup.table_writer import MAX_CONFIGMAP_SIZE
from tests.support import DEADLINE, ROOT, run_subnets
from tests.tables import (
    EXAMPLE,
    GOOD,
    PLAIN,
    ZONE,
    ZONE_ID,
    compressed,
    entry,
)

ZONE_KEYS = ("AvailabilityZone", "AvailabilityZoneId")

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
