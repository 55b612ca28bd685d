"""The C library's own resolver, asking a real DNS server.

Which server it asks is in /etc/resolv.conf, so the tests run in a mount and a
network namespace of their own, where that file and port 53 are theirs.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lookup.c_library import configure_c_library
from tests import dns_server
from tests.support import SUBNETS, Client, running, wait_until

INSIDE = "TESTS_RUN_IN_NAMESPACES"
AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
UNSHARE = ["unshare", *AS_ROOT, "--net", "--mount"]

HERE, THERE = "192.168.0.1", "192.168.32.1"
# As the kubelet writes it: with search domains, in which no name of ours exists.
RESOLV_CONF = """search default.svc.cluster.local svc.cluster.local cluster.local eu-central-1.compute.internal
nameserver 127.0.0.1
options ndots:5
"""
NSSWITCH_CONF = "hosts: files dns\n"
HOSTS = f"127.0.0.1 localhost\n{THERE} alias.of.the.pod.test\n"

Known = list[str] | int | None  # what is known of a name

CASES: dict[str, tuple[Known, int, str]] = {
    "db.test": ([HERE], 200, HERE),
    "alias.test": (["db.test", HERE], 200, HERE),
    "two-in-one-zone.test": ([HERE, "192.168.96.1"], 200, HERE),
    "two-in-two-zones.test": ([HERE, THERE], 200, "None"),
    "elsewhere.test": (["203.0.113.1"], 404, "ZoneNotFound"),
    "no-such-name.test": (dns_server.NXDOMAIN, 404, "NameNotFound"),
    "no-a-record.test": (dns_server.NODATA, 404, "NameNotFound"),
    "failing.test": (dns_server.SERVFAIL, 502, "ResolverFailure"),
    "refused.test": (dns_server.REFUSED, 502, "ResolverFailure"),
    "silent.test": (dns_server.SILENT, 504, "ResolverTimeout"),
    # To the C library these are what NXDOMAIN is.
    "formerr.test": (dns_server.FORMERR, 404, "NameNotFound"),
    "malformed.test": (dns_server.MALFORMED, 404, "NameNotFound"),
}

HERE_6, THERE_6, ELSEWHERE_6 = "fd00:b::1", "fd00:a::1", "2001:db8::1"
IPV6_SUBNETS = [
    {"CIDRBlock": f"fd00:{zone}::/64", "AvailabilityZone": f"eu-central-1{zone}"} for zone in "ab"
]

# With IPv6 in the table: what the name resolves to, what if AAAA is asked for, the status or the
# zone, and whether it is certain.
IPV6_CASES: dict[str, tuple[Known, Known, int | str, bool]] = {
    "a-only.test": ([HERE], [], "eu-central-1b", True),
    "aaaa-only.test": ([], [HERE_6], "eu-central-1b", True),
    "both-in-one-zone.test": ([HERE], [HERE_6], "eu-central-1b", True),
    "both-in-two-zones.test": ([HERE], [THERE_6], "None", False),
    "aaaa-in-two-zones.test": ([], [HERE_6, THERE_6], "None", False),
    "aaaa-elsewhere.test": ([HERE], [ELSEWHERE_6], "None", False),
    "alias-of-both.test": (["x.test", HERE], ["x.test", HERE_6], "eu-central-1b", True),
    "dns64.test": ([HERE], ["64:ff9b::192.168.0.1"], "eu-central-1b", True),
    "dns64-alone.test": ([], ["64:ff9b::192.168.0.1"], "eu-central-1b", True),
    "mapped.test": ([], ["::ffff:192.168.0.1"], "eu-central-1b", True),
    "neither.test": ([], [], 404, False),
    "no-such-name.test": (dns_server.NXDOMAIN, dns_server.NXDOMAIN, 404, False),
    "both-failing.test": (dns_server.SERVFAIL, dns_server.SERVFAIL, 502, False),
    "aaaa-failing-a-none.test": ([], dns_server.SERVFAIL, 502, False),
}

# As above, but DNS says nothing of one address family.
INCOMPLETE: dict[str, tuple[Known, Known, str]] = {
    "aaaa-failing.test": ([HERE], dns_server.SERVFAIL, "eu-central-1b"),
    "aaaa-refused.test": ([HERE], dns_server.REFUSED, "eu-central-1b"),
    "aaaa-silent.test": ([HERE], dns_server.SILENT, "eu-central-1b"),
    "a-failing.test": (dns_server.SERVFAIL, [THERE_6], "eu-central-1a"),
    "a-silent.test": (dns_server.SILENT, [THERE_6], "eu-central-1a"),
}

# The number of dots is what the C library decides by. RDS's names have five and more.
DOTS = [".".join(["a"] * number + ["test"]) for number in (1, 4, 5, 6, 14, 15, 40)]


def _set_loopback_up() -> None:
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1  # netdevice(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(sock, siocgifflags, request))
        fcntl.ioctl(sock, siocsifflags, struct.pack("16sH14s", b"lo", flags | iff_up, b""))


def _replace(path: str, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    subprocess.run(["mount", "--bind", file.name, path], check=True)
    os.unlink(file.name)


class NamespaceTest(unittest.TestCase):
    def test_all_of_it_in_namespaces_of_its_own(self) -> None:
        try:
            subprocess.run([*UNSHARE, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.skipTest(f"the system does not let us make namespaces: {error}")
        inside = subprocess.run(
            [*UNSHARE, sys.executable, "-m", "unittest", "-v", "tests.test_dns"],
            env=os.environ | {INSIDE: "1"},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(inside.returncode, 0, inside.stderr)
        self.assertRegex(inside.stderr, r"test_answers \S+ \.\.\. ok")


class RealResolverTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        _set_loopback_up()
        _replace("/etc/resolv.conf", RESOLV_CONF)
        _replace("/etc/nsswitch.conf", NSSWITCH_CONF)
        _replace("/etc/hosts", HOSTS)
        configure_c_library(os.environ, 1)

    def assert_lookup(self, client: Client, name: str, status: int, outcome: str) -> None:
        response = client.lookup(name)
        self.assertEqual(response.status, status)
        self.assertEqual(str(response.body["address" if status == 200 else "reason"]), outcome)

    def test_answers(self) -> None:
        zone = {name: known for name, (known, _, _) in CASES.items()}
        with dns_server.serving(zone) as asked, running(DNS_TIMEOUT="0.5") as client:
            for name, (_, status, outcome) in CASES.items():
                with self.subTest(name):
                    self.assert_lookup(client, name, status, outcome)
        self.assertNotIn("AAAA", str(asked))

    def test_answers_with_ipv6_in_the_table(self) -> None:
        zone: dns_server.Zone = {}
        for name, case in IPV6_CASES.items():
            zone |= {name: case[0], f"AAAA {name}": case[1]}
        with dns_server.serving(zone) as asked, running(SUBNETS + IPV6_SUBNETS) as client:
            for name, (a, aaaa, expected, is_certain) in IPV6_CASES.items():
                with self.subTest(name):
                    response = client.lookup(name)
                    found = str(response.body["zone"]) if response.status == 200 else None
                    self.assertEqual(found or response.status, expected)
                    self.assertEqual(bool(response.body.get("nodeSelector")), is_certain)
                    self.assertNotIn("incomplete", response.body)
                    # Of what fails, the C library makes sure.
                    times = {2 if known == dns_server.SERVFAIL else 1 for known in (a, aaaa)}
                    self.assertEqual({asked.count(name), asked.count(f"AAAA {name}")}, times)

    def test_what_dns_says_of_one_family_is_an_answer_but_not_certain(self) -> None:
        zone: dns_server.Zone = {}
        for name, (a, aaaa, _) in INCOMPLETE.items():
            zone |= {name: a, f"AAAA {name}": aaaa}
        table = SUBNETS + IPV6_SUBNETS
        with dns_server.serving(zone) as asked, running(table, DNS_TIMEOUT="0.5") as client:
            for name, (_, _, expected) in INCOMPLETE.items():
                for _ in range(2):  # the second time, from memory
                    with self.subTest(name):
                        body = client.lookup(name).body
                        self.assertEqual((body["zone"], body["incomplete"]), (expected, True))
                        self.assertEqual(body["nodeSelector"], {})
                        self.assertTrue(body["nodeLabels"])
            self.assertEqual(asked.count("aaaa-failing.test"), 1)

    def test_what_comes_late_completes_the_answer(self) -> None:
        zone: dns_server.Zone = {"db.test": [HERE, HERE_6], "AAAA db.test": dns_server.SILENT}
        table = SUBNETS + IPV6_SUBNETS
        with (
            dns_server.serving(zone) as asked,
            running(table, DNS_TIMEOUT="0.1", DNS_CACHE_TTL="60") as client,
        ):
            self.assertTrue(client.lookup("db.test").body["incomplete"])
            del zone["AAAA db.test"]
            wait_until(lambda: "incomplete" not in client.lookup("db.test").body)
            self.assertTrue(client.lookup("db.test").body["nodeSelector"])
        self.assertEqual(asked.count("db.test"), 1)

    def test_without_a_dns_server(self) -> None:
        with running() as client:
            self.assert_lookup(client, "db.test", 502, "ResolverFailure")

    def test_an_old_answer_while_the_dns_server_is_away(self) -> None:
        with running(DNS_CACHE_TTL="0") as client:
            with dns_server.serving({"db.test": [HERE]}):
                self.assertNotIn("stale", client.lookup("db.test").body)
            self.assertTrue(client.lookup("db.test").body["stale"])
            with dns_server.serving({"db.test": [THERE]}):
                wait_until(lambda: client.lookup("db.test").body["address"] == THERE)
                self.assertNotIn("stale", client.lookup("db.test").body)

    def test_an_absolute_name_and_its_case(self) -> None:
        with dns_server.serving({"db.test": [HERE]}) as asked, running() as client:
            self.assert_lookup(client, "DB.Test.", 200, HERE)
        self.assertEqual(asked, ["db.test"])

    def test_no_search_domain_is_tried(self) -> None:
        zone: dns_server.Zone = {"db.test": [HERE], "failing.test": dns_server.SERVFAIL}
        with dns_server.serving(zone) as asked, running(DNS_CACHE_TTL="0") as client:
            for name in ("db.test", "failing.test", "no-such-name.test"):
                client.lookup(name)
            self.assertEqual(set(asked), {"db.test", "failing.test", "no-such-name.test"})
            with self.subTest("so a failure does not delete the last good answer"):
                zone["db.test"] = dns_server.SERVFAIL
                self.assertTrue(client.lookup("db.test").body["stale"])
                self.assertTrue(client.lookup("db.test").body["stale"])

    def test_a_name_is_asked_for_once_however_many_dots_it_has(self) -> None:
        outcomes: list[tuple[list[str] | int, int]] = [([HERE], 200), (dns_server.NXDOMAIN, 404)]
        for known, status in outcomes:
            zone: dns_server.Zone = dict.fromkeys(DOTS, known)
            with dns_server.serving(zone) as asked, running(DNS_CACHE_TTL="0") as client:
                self.assertEqual({client.lookup(name).status for name in DOTS}, {status})
            self.assertEqual(asked, DOTS)

    def test_a_name_that_is_not_answered_is_asked_for_twice(self) -> None:
        zone: dns_server.Zone = dict.fromkeys(DOTS, dns_server.SILENT)
        with (
            dns_server.serving(zone) as asked,
            running(DNS_TIMEOUT="10") as client,
            ThreadPoolExecutor(len(DOTS)) as pool,
        ):
            statuses = [each.status for each in pool.map(client.lookup, DOTS)]
        self.assertEqual(statuses, [502] * len(DOTS))
        self.assertEqual(sorted(asked), sorted(DOTS * 2))

    def test_a_name_in_the_file_of_hosts(self) -> None:
        with dns_server.serving({}) as asked, running() as client:
            self.assert_lookup(client, "alias.of.the.pod.test", 200, THERE)
        self.assertEqual(asked, [])

    def test_a_lost_query_is_asked_again_within_the_deadline(self) -> None:
        zone: dns_server.Zone = {"db.test": dns_server.SILENT}
        with (
            dns_server.serving(zone) as asked,
            running(DNS_TIMEOUT="5") as client,
            ThreadPoolExecutor() as pool,
        ):
            response = pool.submit(client.lookup, "db.test")
            wait_until(lambda: asked == ["db.test"])
            zone["db.test"] = [HERE]
            self.assertEqual(response.result().body.get("address"), HERE)
        self.assertEqual(asked, ["db.test", "db.test"])


def load_tests(
    loader: unittest.TestLoader, _: unittest.TestSuite, __: str | None
) -> unittest.TestSuite:
    """Only those for where they run: in namespaces of their own, or outside, which has them run there."""
    return loader.loadTestsFromTestCase(
        RealResolverTest if os.environ.get(INSIDE) else NamespaceTest
    )


if __name__ == "__main__":
    unittest.main()
