"""Texts and files: read piece by piece, plain and compressed, complete or broken."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
import unittest
from itertools import permutations, product
from pathlib import Path
from unittest import mock

from lookup import json_stream as documents
from lookup.table import (
    InvalidSubnets,
)
from lookup.table_reader import load, parse, read_files
from tests.tables import (
    AWS_KEYS,
    EXAMPLE,
    FORMS,
    GIVEN_TWICE,
    GOOD,
    MALFORMED_DOCUMENTS,
    PLAIN,
    ZONE_ID,
    compressed,
    entry,
    text_problems,
)

# Texts to be read in pieces of all sizes.
TEXTS = [
    *FORMS,
    "\n".join(FORMS),
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


def spoilt(data: bytes, index: int) -> bytes:
    """The data with one byte changed."""
    changed = bytearray(data)
    changed[index] ^= 0xFF
    return bytes(changed)


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


if __name__ == "__main__":
    unittest.main()
