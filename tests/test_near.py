"""`python3 subnets.py --near ZONE`: the addresses of a zone, and CoreDNS that puts them first."""

from __future__ import annotations

import json
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, ip_address, ip_network
from pathlib import Path
from typing import Any

from lookup.near import Network, NotOneZone, near_first, networks_of
from lookup.table import SubnetTable
from lookup.table_reader import load
from tests import dns_server
from tests.dns_server import AAAA, A, Zone, encoded
from tests.support import DEADLINE, SUBNETS, ZONES, run_subnets, wait_until

Address = IPv4Address | IPv6Address


def entry(cidr: str, zone: str, id: str | None = None) -> dict[str, Any]:
    return {"CIDRBlock": cidr, "AvailabilityZone": zone, "AvailabilityZoneId": id}


# subnets and their zones, and the networks of zone a
NEAR: list[tuple[list[tuple[str, str]], list[str]]] = [
    ([("10.0.0.0/24", "a")], ["10.0.0.0/24"]),
    ([("10.0.0.0/32", "a"), ("::/128", "a")], ["10.0.0.0/32", "::/128"]),
    ([("0.0.0.0/0", "a"), ("::/0", "a")], ["0.0.0.0/0", "::/0"]),
    ([("10.0.0.0/24", "a"), ("10.0.1.0/24", "a"), ("10.0.2.0/24", "b")], ["10.0.0.0/23"]),
    # Not 10.0.1.0/23, which would be no network.
    ([("10.0.1.0/24", "a"), ("10.0.2.0/24", "a")], ["10.0.1.0/24", "10.0.2.0/24"]),
    ([("10.0.0.0/24", "a"), ("10.0.0.0/25", "a"), ("10.0.0.7/32", "a")], ["10.0.0.0/24"]),
    (
        [("10.0.0.0/24", "a"), ("10.0.0.0/26", "b")],
        ["10.0.0.64/26", "10.0.0.128/25"],
    ),
    (
        [("10.0.0.0/24", "a"), ("10.0.0.0/25", "b"), ("10.0.0.0/26", "a"), ("10.0.0.7/32", "b")],
        [
            "10.0.0.0/30",
            "10.0.0.4/31",
            "10.0.0.6/32",
            "10.0.0.8/29",
            "10.0.0.16/28",
            "10.0.0.32/27",
            "10.0.0.128/25",
        ],
    ),
    # One ends where the one around it does, and the next begins there.
    (
        [("10.0.0.0/24", "b"), ("10.0.0.128/25", "a"), ("10.0.1.0/24", "b"), ("10.0.1.0/25", "a")],
        ["10.0.0.128/25", "10.0.1.0/25"],
    ),
    ([("255.255.255.0/24", "a"), ("::/120", "a")], ["255.255.255.0/24", "::/120"]),
    ([("255.255.255.255/32", "a"), ("ffff::/16", "b")], ["255.255.255.255/32"]),
    ([("ffff::/16", "a"), ("0.0.0.0/8", "b")], ["ffff::/16"]),
    (
        [("2001:db8::/62", "a"), ("2001:db8:0:3::/64", "b")],
        ["2001:db8::/63", "2001:db8:0:2::/64"],
    ),
]

# (zone, id) of entries, a zone that cannot be given, and a word of why
REFUSED: list[tuple[list[tuple[str, str | None]], str, str]] = [
    ([("a", "1"), ("b", None)], "c", "not in the table, which has zone a (1), zone b"),
    ([("a", "1"), ("a", "2")], "a", "give the id (1, 2)"),
    ([("a", "1"), ("b", "1")], "b", "give the id (1)"),
]


def table_of(subnets: list[tuple[str, str]]) -> SubnetTable:
    return load([entry(*subnet) for subnet in subnets])


def random_table(seed: int) -> SubnetTable:
    """Subnets of three zones in a small range, of both families, inside and beside one another."""
    numbers = random.Random(seed)
    subnets: dict[str, str] = {}
    for base in ("10.0.0.0/22", "2001:db8::/118"):
        around = ip_network(base)
        for _ in range(40):
            host = numbers.randrange(around.num_addresses)
            address = around.network_address + host
            length = numbers.randint(around.prefixlen, around.max_prefixlen)
            subnets[str(ip_network((address, length), strict=False))] = numbers.choice("abc")
    return table_of(list(subnets.items()))


class NetworksTest(unittest.TestCase):
    def test_those_of_a_zone(self) -> None:
        for subnets, expected in NEAR:
            with self.subTest(subnets):
                self.assertEqual(list(map(str, networks_of(table_of(subnets), "a"))), expected)

    def test_they_are_the_zones_exactly_and_as_few_as_possible(self) -> None:
        for seed in range(3):
            table = random_table(seed)
            for zone in "abc":
                networks = networks_of(table, zone)
                self.assert_fewest(networks)
                for base in ("10.0.0.0/22", "2001:db8::/118"):
                    for address in ip_network(base):
                        subnet = table.match(address)
                        expected = subnet is not None and subnet.zone == zone
                        self.assertEqual(_holds(networks, address), expected, (seed, address))

    def assert_fewest(self, networks: list[Network]) -> None:
        for version in (4, 6):
            own: list[Any] = [network for network in networks if network.version == version]
            self.assertEqual(list(collapse_addresses(own)), own)

    def test_a_zone_has_a_name_and_an_id(self) -> None:
        table = load([entry("10.0.0.0/24", "a", "1"), entry("10.0.1.0/24", "b", "2")])
        for zone in ("a", "1"):
            self.assertEqual(list(map(str, networks_of(table, zone))), ["10.0.0.0/24"])

    def test_an_id_may_have_several_names(self) -> None:
        table = load([entry("10.0.0.0/24", "a", "1"), entry("10.0.1.0/24", "b", "1")])
        self.assertEqual(list(map(str, networks_of(table, "1"))), ["10.0.0.0/23"])

    def test_what_is_not_one_zone(self) -> None:
        for zones, zone, word in REFUSED:
            table = load([entry(f"10.0.{n}.0/24", *each) for n, each in enumerate(zones)])
            with self.subTest(zone, zones=zones), self.assertRaises(NotOneZone) as caught:
                networks_of(table, zone)
            self.assertIn(word, str(caught.exception))

    def test_a_zone_that_is_taken_up_by_others(self) -> None:
        subnets = [("10.0.0.0/24", "a"), ("10.0.0.0/25", "b"), ("10.0.0.128/25", "c")]
        with self.assertRaisesRegex(NotOneZone, "all of zone a is taken up"):
            networks_of(table_of(subnets), "a")


def _holds(networks: list[Network], address: Address) -> bool:
    return any(address in network for network in networks)


class CommandTest(unittest.TestCase):
    def setUp(self) -> None:
        self.path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "subnets.json"

    def near(self, zone: str, entries: object) -> tuple[int, list[str], list[str]]:
        self.path.write_text(json.dumps(entries))
        run = run_subnets("--near", zone, str(self.path))
        return run.status, run.output.splitlines(), run.errors

    def test_it_prints_a_block(self) -> None:
        entries = [entry(f"10.0.{2 * n}.0/24", "a") for n in range(5)]
        expected = [
            "loadbalance round_robin {",
            "    prefer 10.0.0.0/24 10.0.2.0/24 10.0.4.0/24 10.0.6.0/24",
            "    prefer 10.0.8.0/24",
            "}",
        ]
        self.assertEqual(self.near("a", entries), (0, expected, []))

    def test_a_zone_that_is_not_there(self) -> None:
        status, output, (error,) = self.near("z", SUBNETS)
        self.assertEqual((status, output), (2, []))
        for name, zone_id in ZONES:
            self.assertIn(f"zone {name} ({zone_id})", error)

    def test_a_table_that_is_wrong(self) -> None:
        status, output, errors = self.near("a", [entry("10.0.0.1/24", "a")])
        self.assertEqual((status, output), (2, []))
        self.assertIn("host bits", errors[0])


# A load balancer, and a proxy that leads to one: an address in each zone, in both families.
ADDRESSES = ["192.168.1.7", "192.168.33.7", "192.168.65.7"]
IPV6_ADDRESSES = [f"2001:db8:0:{number}::7" for number in range(3)]
BALANCER = "internal-shop-1234.eu-central-1.elb.amazonaws.com"
NAMES: Zone = {
    BALANCER: ADDRESSES,
    f"AAAA {BALANCER}": IPV6_ADDRESSES,
    "shop.example.internal": [BALANCER, *ADDRESSES],
    "AAAA shop.example.internal": [BALANCER, *IPV6_ADDRESSES],
}
TABLE = load(SUBNETS, [entry(f"2001:db8:0:{n}::/64", *zone) for n, zone in enumerate(ZONES)])

# Queries of a zone, over both names and both types.
QUERIES = 1000


def free_port() -> int:
    """A port of both protocols that nobody has; somebody else may be quicker, but hardly is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(client: socket.socket, name: str, kind: int) -> list[Address]:
    """The addresses in the answer, in their order."""
    number = random.randrange(1 << 16)
    head = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0)
    client.send(head + encoded(name) + struct.pack("!HH", kind, 1))
    answer = client.recv(4096)
    _, _, _, count, _, _ = struct.unpack_from("!HHHHHH", answer)
    assert answer[:2] == head[:2]
    position, found = _after_name(answer, 12) + 4, []
    for _ in range(count):
        position = _after_name(answer, position) + 10
        of, length = struct.unpack_from("!H6xH", answer, position - 10)
        if of == kind:
            found.append(ip_address(answer[position : position + length]))
        position += length
    return found


def _after_name(message: bytes, position: int) -> int:
    while length := message[position]:
        if length >= 0xC0:
            return position + 2
        position += 1 + length
    return position + 1


@contextmanager
def coredns(*blocks: str) -> Iterator[list[socket.socket]]:
    """A real CoreDNS in front of the names, with a server for each block; a client of each."""
    backend = free_port()
    ports = [free_port() for _ in blocks]
    servers = [
        f".:{port} {{\nbind 127.0.0.1\n{block}\ncache 30\nforward . 127.0.0.1:{backend}\n}}\n"
        for port, block in zip(ports, blocks, strict=True)
    ]
    with (
        dns_server.serving(NAMES, port=backend),
        tempfile.NamedTemporaryFile("w") as corefile,
    ):
        corefile.write("".join(servers))
        corefile.flush()
        command = ["coredns", "-conf", corefile.name]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            clients = [_connected(port) for port in ports]
            yield clients
            for client in clients:
                client.close()
        finally:
            process.terminate()
            process.wait(DEADLINE)


def _connected(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(("127.0.0.1", port))
    client.settimeout(0.2)

    def is_there() -> bool:
        with suppress(OSError):  # not yet
            return bool(ask(client, BALANCER, A))
        return False

    wait_until(is_there)
    client.settimeout(DEADLINE)
    return client


@unittest.skipUnless(shutil.which("coredns"), "coredns (since 1.12.4) is not on PATH")
class CoreDNSTest(unittest.TestCase):
    def test_the_near_address_comes_first_each_time(self) -> None:
        blocks = ["\n".join(near_first(TABLE, name)) for name, _ in ZONES]
        cases = [(name, kind) for name in (BALANCER, "shop.example.internal") for kind in (A, AAAA)]
        with coredns(*blocks) as clients:
            for number, client in enumerate(clients):
                near = {ip_address(each[number]) for each in (ADDRESSES, IPV6_ADDRESSES)}
                for query in range(QUERIES):
                    found = ask(client, *cases[query % len(cases)])
                    self.assertEqual(len(found), 3)
                    self.assertIn(found[0], near)

    def test_without_it_any_of_them_does(self) -> None:
        """Otherwise the test above would say nothing."""
        with coredns("loadbalance") as (client,):
            first = {ask(client, BALANCER, A)[0] for _ in range(QUERIES)}
        self.assertEqual(first, set(map(ip_address, ADDRESSES)))


if __name__ == "__main__":
    unittest.main()
