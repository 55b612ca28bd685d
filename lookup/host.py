"""A host as it is asked for: by its domain name, or by an address that stands for itself. No I/O."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from common.errors import InvalidName, shown

Address = IPv4Address | IPv6Address

# RFC 1123, section 2.1, with the underscore of RFC 2782. A last label that is a
# number, decimal or hexadecimal, would be an address to the C library: `1.2.3`,
# `0x7f000001` and the like are 1.2.0.3 and 127.0.0.1 to inet_aton(3).
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NUMBER = r"(?:[0-9]+|0x[0-9a-f]*)"
_NAME = re.compile(
    rf"(?=.{{1,253}}\.?\Z)(?:{_LABEL}\.)*(?!{_NUMBER}\.?\Z){_LABEL}\.?", re.ASCII | re.IGNORECASE
)

# What an address may consist of: no zone identifier (`%eth0`), which means nothing elsewhere.
_ADDRESS = re.compile(r"[0-9.]{7,15}|[0-9a-f:.]{2,45}", re.ASCII | re.IGNORECASE)
MAX_ADDRESS = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]")

# RFC 6052: what a DNS64 makes of A records.
_DNS64 = IPv6Network("64:ff9b::/96")


def parse_name(text: str) -> str:
    """The domain name in lower case, and without a dot at its end: all names are absolute.

    So a name must have a dot inside (RFC 1034, section 3.1), but for `localhost`
    (RFC 6761, section 6.3). Raises `InvalidName`.
    """
    if not _NAME.fullmatch(text):
        raise InvalidName(f"{shown(text)} is neither a domain name nor an IP address")
    name = text.lower().removesuffix(".")
    if "." not in name and name != "localhost":
        raise InvalidName(f"{shown(text)} is not fully qualified: it has only one label")
    return name


def address_in(text: str) -> Address | None:
    """The address that the text is, IPv6 perhaps in brackets; None if it is none."""
    bare = text[1:-1] if ":" in text and text[0] + text[-1] == "[]" else text
    if not _ADDRESS.fullmatch(bare):
        return None
    try:
        return as_ipv4(ip_address(bare))
    except ValueError:
        return None


def as_ipv4(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, mapped or made by a DNS64; others as they are."""
    if isinstance(address, IPv4Address):
        return address
    if address in _DNS64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address
