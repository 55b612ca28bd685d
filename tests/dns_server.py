"""A small DNS server (RFC 1035) for tests: a few names, and all the ways to fail."""

from __future__ import annotations

import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address

from tests.support import in_background

FORMERR, SERVFAIL, NXDOMAIN, REFUSED = 1, 2, 3, 5  # RCODEs
NODATA: list[str] = []
SILENT = None
MALFORMED = -1  # no RCODE, but an answer that ends too soon

# What a name resolves to: addresses and names (CNAME, before what they lead to), an
# RCODE, or no answer at all. "AAAA NAME" is what a name resolves to if that is asked for.
Zone = dict[str, list[str] | int | None]

A, CNAME, AAAA, IN = 1, 5, 28, 1
ANSWER = 0x8180  # a response to a query that desired recursion, which is available


def encoded(name: str) -> bytes:
    labels = name.rstrip(".").split(".")
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def _question(query: bytes) -> tuple[str, int, int]:
    """The name in lower case, the type, and where the question section ends."""
    labels, position = [], 12
    while length := query[position]:
        labels.append(query[position + 1 : position + 1 + length].decode())
        position += 1 + length
    (kind,) = struct.unpack_from("!H", query, position + 1)
    return ".".join(labels).lower(), kind, position + 5


def _kind(value: str) -> int:
    try:
        return A if isinstance(ip_address(value), IPv4Address) else AAAA
    except ValueError:
        return CNAME


def _record(owner: str, value: str) -> tuple[str, bytes]:
    """A resource record, and the owner of the one that follows it."""
    kind = _kind(value)
    data = encoded(value) if kind == CNAME else ip_address(value).packed
    head = struct.pack("!HHIH", kind, IN, 5, len(data))
    return value if kind == CNAME else owner, encoded(owner) + head + data


def reply(query: bytes, zone: Zone) -> bytes | None:
    """The message that answers `query`, or None for silence."""
    name, kind, end = _question(query)
    known = zone.get(name, NXDOMAIN)
    if kind == AAAA:
        known = zone.get(f"AAAA {name}", known)
    if known is SILENT:
        return None
    rcode, values = (max(0, known), []) if isinstance(known, int) else (0, known)
    records, owner, number = b"", name, 0
    for value in values:
        if _kind(value) in (kind, CNAME):
            owner, record = _record(owner, value)
            records += record
            number += 1
    if known == MALFORMED:
        records, number = b"\xc0", 1
    header = query[:2] + struct.pack("!HHHHH", ANSWER | rcode, 1, number, 0, 0)
    return header + query[12:end] + records


@contextmanager
def serving(zone: Zone, address: str = "127.0.0.1", port: int = 53) -> Iterator[list[str]]:
    """Answers from `zone`, over UDP; yields the list of what was asked for, named as in the zone."""
    asked: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, sock = self.request
            name, kind, _ = _question(query)
            asked.append(f"AAAA {name}" if kind == AAAA else name)
            answer = reply(query, zone)
            if answer is not None:
                sock.sendto(answer, self.client_address)

    with socketserver.UDPServer((address, port), Handler) as server, in_background(server):
        yield asked
