"""JSON documents, one after another, from files that may be compressed: read a value at a time.

Only a window of a file is in memory, whatever its size, and a thread that reads lets
others run after each value, where `json.loads` would not before the end.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BufferedIOBase, BufferedReader

from common.errors import shown

# A file is read in pieces of so many bytes, so that no more of it is in memory at once.
CHUNK_SIZE = 1024 * 1024

# The longest value: a subnet with the 50 tags that AWS allows takes up to 250,000 characters.
MAX_VALUE_SIZE = 512 * 1024

# The longest file, unpacked: a million subnets in AWS's own words are 1.3 GB. A compressed file
# of 1 MiB can unpack to 1 GiB of nothing, but not to more than this.
MAX_FILE_SIZE = 2 * 1024**3

_GZIP_MAGIC = b"\x1f\x8b"


class Unreadable(Exception):
    """A text that cannot be read on; the message is a sentence that says why."""


def pieces(text: str) -> Iterator[str]:
    """A text that is in memory already, piece by piece."""
    return (text[start : start + CHUNK_SIZE] for start in range(0, len(text), CHUNK_SIZE))


def chunks(path: str) -> Iterator[str]:
    """The text of a file, piece by piece. Raises `Unreadable`."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            yield from _decoded(_unpacked(file))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise Unreadable(f"not UTF-8: byte {byte:#04x}, {error.reason}") from None
    except (EOFError, OSError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise Unreadable(f"cannot be read: {why}") from None


def _unpacked(file: BufferedReader) -> Iterator[bytes]:
    source: BufferedIOBase = file
    if file.peek(2)[:2] == _GZIP_MAGIC:
        import gzip  # only now, because most have no use for it

        source = gzip.GzipFile(fileobj=file)
    size = 0
    is_end = False  # asked once more, a terminal would want another Ctrl-D
    while not is_end:
        chunk = source.read(CHUNK_SIZE)
        is_end = len(chunk) < CHUNK_SIZE
        size += len(chunk)
        if size > MAX_FILE_SIZE:
            raise Unreadable(f"longer than {MAX_FILE_SIZE:,} bytes")
        yield chunk


def _decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    for chunk in chunks:
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Raises `ValueError` for a key given twice, of which Python keeps the last."""
    found = dict(members)
    if len(found) < len(members):
        ((key, _),) = Counter(key for key, _ in members).most_common(1)
        raise ValueError(_given_twice(key))
    return found


def _given_twice(key: str) -> str:
    return f"the key {shown(key)} is given twice in one object"


_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder(object_pairs_hook=_unique).raw_decode


class Reader:
    """Reads JSON documents, one after another, a value at a time.

    Only a window of the text is in memory: `text`, read up to `position`. A thread
    that reads lets others run after each value, where `json.loads` would not before
    the end. Every method raises `Unreadable`.
    """

    def __init__(self, chunks: Iterator[str]) -> None:
        self.chunks = chunks
        self.text = ""
        self.position = 0
        self.line, self.column = 1, 1  # of the window's first character

    def read_more(self) -> bool:
        """Moves the window by a chunk; whether there was one."""
        chunk = next(self.chunks, None)
        if chunk is None:
            return False
        self.line, self.column = self.line_and_column(self.position)
        self.text = self.text[self.position :] + chunk
        self.position = 0
        return True

    def line_and_column(self, position: int) -> tuple[int, int]:
        last = self.text.rfind("\n", 0, position)
        column = self.column + position if last < 0 else position - last
        return self.line + self.text.count("\n", 0, position), column

    def error(self, why: str, position: int) -> Unreadable:
        line, column = self.line_and_column(position)
        return Unreadable(f"not JSON: {why}: line {line}, column {column}")

    def peek(self) -> str:
        """The next character that is no white space, which is passed over; "" at the end."""
        while True:
            space = _SPACE.match(self.text, self.position)
            assert space  # be there any or not
            self.position = space.end()
            if self.position < len(self.text) or not self.read_more():
                return self.text[self.position : self.position + 1]

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"Expecting {character!r}", self.position)
        self.position += 1

    def value(self) -> object:
        """The value that is next."""
        self.peek()
        while len(self.text) - self.position < 2 * MAX_VALUE_SIZE and self.read_more():
            pass
        try:
            value, self.position = _decode(self.text, self.position)
        except json.JSONDecodeError as error:
            if error.pos - self.position > MAX_VALUE_SIZE:  # there may be more than the window has
                raise self.error(f"longer than {MAX_VALUE_SIZE:,}", self.position) from None
            raise self.error(error.msg, error.pos) from None
        except ValueError as error:  # a key given twice, or a number with thousands of digits
            raise self.error(str(error), self.position) from None
        except RecursionError:
            raise Unreadable("nested too deeply") from None
        return value

    def elements(self) -> Iterator[object]:
        """The values of the list that is next."""
        for _ in self.parts("[", "]"):
            yield self.value()

    def members(self, streamed: str) -> Iterator[tuple[str, object]]:
        """The keys and values of the object that is next; for a list under `streamed`, its `elements`."""
        seen: set[str] = set()
        for _ in self.parts("{", "}"):
            key = self.key()
            if key in seen:
                raise self.error(_given_twice(key), self.position)
            seen.add(key)
            self.take(":")
            is_list = key == streamed and self.peek() == "["
            yield key, self.elements() if is_list else self.value()

    def key(self) -> str:
        if self.peek() != '"':
            raise self.error("Expecting a key in double quotes", self.position)
        return str(self.value())

    def parts(self, opening: str, closing: str) -> Iterator[None]:
        """Yields where a part of a list or object begins, for the caller to take it."""
        self.take(opening)
        more = self.peek() != closing
        while more:
            yield
            more = self.peek() != closing
            if more:
                self.take(",")
        self.take(closing)
