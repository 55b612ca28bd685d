"""The C library's resolver: its settings, and a query to it, which blocks."""

from __future__ import annotations

import math
import socket
from collections.abc import MutableMapping
from ipaddress import ip_address

from common.errors import NameNotFound, ResolverFailure
from lookup.host import Address, as_ipv4

# By address family, the type of its DNS records.
RECORD_TYPES = {socket.AF_INET: "A", socket.AF_INET6: "AAAA"}

# More records than any database has, and than fit into the answers of most servers.
MAX_ADDRESSES = 128

# What getaddrinfo(3) says of a name that does not exist or has no record of the family. The GNU
# C library says the same of an answer that makes no sense to it, and of FORMERR.
_NOT_FOUND = {
    getattr(socket, code)
    for code in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, code)
}

# The most that resolv.conf(5) takes.
MAX_NDOTS = 15


def configure_c_library(environment: MutableMapping[str, str], timeout: float) -> None:
    """Sets what the GNU C library's resolver reads from the environment; see resolv.conf(5).

    It must not try the search list, or the NXDOMAIN of a search domain would stand
    for the failure of the name itself. So the root is the only search domain, and tried
    first, as far as `ndots` can see to that: otherwise a name that fails is asked for twice.

    By itself it asks again after 5 s: a lost query would block its name for as long. So it
    asks again after a second, and for no longer than twice a lookup's `timeout` in seconds.
    """
    wait = math.ceil(timeout / 5)  # it makes five attempts at the most
    attempts = max(2, math.ceil(timeout / wait))
    given = environment.get("RES_OPTIONS", f"timeout:{wait} attempts:{attempts}")
    environment["RES_OPTIONS"] = f"{given} ndots:{MAX_NDOTS}"
    environment["LOCALDOMAIN"] = "."


def query(name: str, family: socket.AddressFamily) -> frozenset[Address]:
    """The addresses of the name; blocks for as long as the C library does.

    Raises `NameNotFound` or `ResolverFailure`.
    """
    # With so many dots, `ndots` does not help, and only a dot at the end does. It hides a name
    # from the file of hosts: so not for all.
    asked = f"{name}." if name.count(".") >= MAX_NDOTS else name
    try:
        found = socket.getaddrinfo(asked, None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NOT_FOUND:
            raise NameNotFound(name) from None
        raise ResolverFailure(f"DNS failed for {name!r}: {error.strerror}") from None
    except Exception as error:  # whatever else goes wrong must end the query, too
        raise ResolverFailure(f"DNS failed for {name!r}: {error}") from None
    # A link-local address may have a zone identifier.
    texts = {str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found}
    if not texts:
        raise NameNotFound(name)
    if len(texts) > MAX_ADDRESSES:
        raise ResolverFailure(
            f"{name!r} has {len(texts)} {RECORD_TYPES[family]} records, the most is {MAX_ADDRESSES}"
        )
    return frozenset(as_ipv4(ip_address(text)) for text in texts)
