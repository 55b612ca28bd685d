"""The head of a request: where it ends, what it asks for, and what follows of it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from common.errors import InvalidRequest, shown

# A lookup of eight names of 253 octets fits several times.
MAX_HEAD = 16 * 1024

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/1\.([0-9])" % _TOKEN)
# No folded lines, no space before the colon, no bare CR or LF, no other control
# characters (RFC 9112, section 5).
_FIELDS = re.compile(rb"(?:%b:[\t\x20-\x7e\x80-\xff]*\r\n){0,99}\r\n" % _TOKEN)
_FIELD = re.compile(
    rb"^(connection|content-length|content-type|expect|host|transfer-encoding|user-agent):(.*)\r$",
    re.IGNORECASE | re.MULTILINE,
)
# An absolute-form target (RFC 9112, section 3.2.2); what follows the authority is the path.
_ABSOLUTE = re.compile(r"https?://[^/?#]+", re.IGNORECASE)


class Body(NamedTuple):
    """What a head says of the body that follows."""

    length: int | None  # in bytes; None if it comes in chunks
    media_type: str  # in lower case, without parameters
    is_held_back: bool  # until the client is told to go on


class Fields(NamedTuple):
    """What the fields of a head say, as far as an answer depends on it."""

    persists: bool  # another request may follow on the connection, if the body is read
    body: Body | None
    agent: str  # what the client calls itself, in lower case


class Head(NamedTuple):
    """The head of a request, as far as an answer depends on it."""

    command: str
    path: str  # with its query, without an authority
    version: str
    fields: Fields


def head_size(received: bytes | bytearray) -> int:
    """How many bytes of `received` are the first head; 0 if it is not complete.

    If it is sure to be refused already, it is all there is.
    """
    end = received.find(b"\r\n\r\n")
    if end >= 0:
        return end + 4
    return len(received) if len(received) > MAX_HEAD or _is_hopeless(received) else 0


def _is_hopeless(received: bytes | bytearray) -> bool:
    line, newline, _ = received.partition(b"\n")
    if not newline:
        return False
    # Counted, which is cheap: this is done anew for each byte of a head that comes bytewise.
    has_bare_lf = received.count(b"\n") > received.count(b"\r\n")
    return has_bare_lf or not _REQUEST_LINE.fullmatch(line[:-1])


def parse_head(head: bytes) -> Head:
    """The request that `head` makes; stricter and far faster than `email` would parse it.

    Raises `InvalidRequest`.
    """
    line, _, fields = head.partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise InvalidRequest(f"malformed request line {shown(line.decode('latin-1'))}")
    if len(head) > MAX_HEAD:
        raise InvalidRequest(f"the request's head is larger than {MAX_HEAD} bytes")
    command, target, minor = match.groups()
    version = f"HTTP/1.{minor.decode()}"
    return Head(command.decode(), _path(target.decode()), version, _parse_fields(version, fields))


def _path(target: str) -> str:
    origin = _ABSOLUTE.match(target)
    if origin is None:
        return target
    path = target[origin.end() :]
    return path if path.startswith("/") else f"/{path}"


# A client sends the same fields with all its requests. Bounded, as a head is.
@lru_cache(maxsize=128)
def _parse_fields(version: str, fields: bytes) -> Fields:
    """What the fields say. Raises `InvalidRequest` for whatever might be understood in two ways."""
    if not _FIELDS.fullmatch(fields):
        raise InvalidRequest("malformed or too many header fields")
    found: dict[bytes, list[bytes]] = {}
    for name, value in _FIELD.findall(fields):
        found.setdefault(name.lower(), []).append(value.strip(b"\t ").lower())
    _check(version, found)
    agent = b" ".join(found.get(b"user-agent", ())).decode("latin-1")
    return Fields(_persists(version, found), _body(version, found), agent)


def _check(version: str, found: Mapping[bytes, Sequence[bytes]]) -> None:
    for name in (b"content-length", b"host", b"transfer-encoding"):
        if len(found.get(name, ())) > 1:
            raise InvalidRequest(f"header field {name.decode()} is repeated")
    if b"host" not in found and version != "HTTP/1.0":  # RFC 9112, section 3.2
        raise InvalidRequest("header field host is missing")
    for length in found.get(b"content-length", ()):
        if not re.fullmatch(rb"[0-9]{1,18}", length):
            raise InvalidRequest(f"Content-Length {shown(length.decode('latin-1'))} is no length")
    if b"content-length" in found and b"transfer-encoding" in found:
        raise InvalidRequest("both Content-Length and Transfer-Encoding are given")


def _persists(version: str, found: Mapping[bytes, Sequence[bytes]]) -> bool:
    """Whether another request may follow on the connection (RFC 9112, section 9.3)."""
    options = {
        option.strip() for value in found.get(b"connection", ()) for option in value.split(b",")
    }
    return b"close" not in options and (version != "HTTP/1.0" or b"keep-alive" in options)


def _body(version: str, found: Mapping[bytes, Sequence[bytes]]) -> Body | None:
    if b"content-length" not in found and b"transfer-encoding" not in found:
        return None
    length = int(found[b"content-length"][0]) if b"content-length" in found else None
    media_type = b",".join(found.get(b"content-type", ())).partition(b";")[0].strip()
    is_held_back = version != "HTTP/1.0" and b"100-continue" in found.get(b"expect", ())
    return Body(length, media_type.decode("latin-1"), is_held_back)
