"""What is a domain name, what is an address, and which one."""

from __future__ import annotations

import random
import unittest
from contextlib import suppress
from ipaddress import ip_address

from common.errors import InvalidName
from lookup.host import MAX_ADDRESS, Address, address_in, as_ipv4, parse_name

INVALID_NAMES = [
    "db",
    "db.",
    "a" * 63,
    "localhost1",
    "1.2.3",
    "0x7f000001",
    "1.2.3.0x4",
    "2130706433",
    "256.1.1.1",
    "1.2.3.4.5",
    "01.2.3.4",
    "1.2.3.4.",
    "127.1",
    "fe80::1%eth0",
    "[fd00::1",
    "fd00::1]",
    "[[fd00::1]]",
    "[192.168.1.7]",
    "[]",
    "[db.test]",
    "fd00::1::2",
    "fd00:",
    "1:2:3:4:5:6:7:8:9",
    "fd00::10000",
    "::ffff:192.168.1.256",
    ":",
    ".",
    "..",
    "a..b",
    ".a",
    "a..",
    "-a.test",
    "a-.test",
    "a b",
    " db.test",
    "db.test\n",
    "db.test\r\nx: y",
    "{{ request.object }}",
    "db.test/../x",
    "bücher.test",
    "\u212aelvin.test",
    "a" * 64 + ".test",
    ".".join(["a" * 49] * 5) + ".test",  # 254 octets
    "x\0y",
]

VALID_NAMES = [
    "localhost",
    "db.test.",
    "DB.Test",
    "_srv._tcp.db.test",
    "a_b.test",
    "3com.test",
    "x--y.test",
    "xn--bcher-kva.test",
    "a" * 63 + ".test",
    ".".join(["a" * 49] * 4 + ["a" * 48]) + ".test",  # 253 octets
    "1.2.3.4a",
]

# as it is given, and as it is understood
ADDRESSES = [
    ("192.168.1.7", "192.168.1.7"),
    ("0.0.0.0", "0.0.0.0"),
    ("fd00::1", "fd00::1"),
    ("[fd00::1]", "fd00::1"),
    ("FD00:0:0::0001", "fd00::1"),
    ("::", "::"),
    ("::1", "::1"),
    ("64:ff9b:1::1", "64:ff9b:1::1"),
    # What stands for an IPv4 address is that.
    ("::ffff:192.168.1.7", "192.168.1.7"),
    ("[::ffff:c0a8:107]", "192.168.1.7"),
    ("64:ff9b::192.168.1.7", "192.168.1.7"),
    ("64:ff9b::c0a8:107", "192.168.1.7"),
    ("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]


# What matters to a parser of names and of addresses.
PIECES = [
    "[",
    "]",
    ":",
    "::",
    "%",
    "%eth0",
    ".",
    ",",
    "0",
    "00",
    "1",
    "255",
    "256",
    "ffff",
    "10000",
]
PIECES += [
    "1.2.3.4",
    "fd00::1",
    "64:ff9b::",
    "::ffff:",
    "db",
    "test",
    "-",
    "_",
    " ",
    "\n",
    "x" * 50,
]


class NameTest(unittest.TestCase):
    def test_names(self) -> None:
        for text in VALID_NAMES:
            with self.subTest(text):
                self.assertEqual(parse_name(text), text.lower().rstrip("."))
                self.assertIsNone(address_in(text))

    def test_what_is_no_name(self) -> None:
        for text in INVALID_NAMES:
            with self.subTest(text):
                self.assertIsNone(address_in(text))
                with self.assertRaises(InvalidName):
                    parse_name(text)


class AddressTest(unittest.TestCase):
    def test_whatever_it_is_it_is_at_most_one_of_the_two(self) -> None:
        chance = random.Random(20240229)
        seen = set()
        for _ in range(20_000):
            text = "".join(chance.choices(PIECES, k=chance.randrange(1, 9)))
            address, name = address_in(text), None
            with suppress(InvalidName):
                name = parse_name(text)
            with self.subTest(text):
                self.assertFalse(address and name)
                self.assertEqual(address, self.by_the_library(text))
            seen.add("address" if address else "name" if name else "neither")
        self.assertEqual(seen, {"address", "name", "neither"})

    def by_the_library(self, text: str) -> Address | None:
        """The same, in words of the standard library's."""
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text
        if "%" in text:
            return None
        try:
            return as_ipv4(ip_address(bare))
        except ValueError:
            return None

    def test_addresses(self) -> None:
        for text, expected in ADDRESSES:
            with self.subTest(text):
                self.assertEqual(str(address_in(text)), expected)
                self.assertLessEqual(len(text), MAX_ADDRESS)
                with self.assertRaises(InvalidName):
                    parse_name(text)


if __name__ == "__main__":
    unittest.main()
