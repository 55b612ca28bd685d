"""A small DNS server (RFC 1035) for tests: a few names, and all the ways to fail."""

from __future__ import annotations

import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from tests.support import in_background

__all__ = ["NODATA", "NXDOMAIN", "REFUSED", "SERVFAIL", "SILENT", "Zone", "serving"]

SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5  # RCODEs
NODATA: list[str] = []
SILENT = None

# What a name resolves to: addresses and names (CNAME, before what they lead to), an
# RCODE, or no answer at all.
Zone = dict[str, list[str] | int | None]

A, CNAME, IN = 1, 5, 1
ANSWER = 0x8180  # a response to a query that desired recursion, which is available


def _encoded(name: str) -> bytes:
    labels = name.rstrip(".").split(".")
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def _question(query: bytes) -> tuple[str, int]:
    """The name in lower case and where the question section ends."""
    labels, position = [], 12
    while length := query[position]:
        labels.append(query[position + 1 : position + 1 + length].decode())
        position += 1 + length
    return ".".join(labels).lower(), position + 5


def _record(owner: str, value: str) -> tuple[str, bytes]:
    """A resource record, and the owner of the one that follows it."""
    try:
        kind, data, owner_of_next = A, IPv4Address(value).packed, owner
    except ValueError:
        kind, data, owner_of_next = CNAME, _encoded(value), value
    head = struct.pack("!HHIH", kind, IN, 5, len(data))
    return owner_of_next, _encoded(owner) + head + data


def reply(query: bytes, zone: Zone) -> bytes | None:
    """The message that answers `query`, or None for silence."""
    name, end = _question(query)
    known = zone.get(name, NXDOMAIN)
    if known is SILENT:
        return None
    rcode, values = (known, []) if isinstance(known, int) else (0, known)
    records, owner = b"", name
    for value in values:
        owner, record = _record(owner, value)
        records += record
    header = query[:2] + struct.pack("!HHHHH", ANSWER | rcode, 1, len(values), 0, 0)
    return header + query[12:end] + records


@contextmanager
def serving(zone: Zone, address: str = "127.0.0.1", port: int = 53) -> Iterator[list[str]]:
    """Answers from `zone`, over UDP; yields the list of the names that were asked for."""
    asked: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, sock = self.request
            asked.append(_question(query)[0])
            answer = reply(query, zone)
            if answer is not None:
                sock.sendto(answer, self.client_address)

    with socketserver.UDPServer((address, port), Handler) as server, in_background(server):
        yield asked
