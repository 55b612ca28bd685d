"""The metrics: their format, that their labels are bounded, and that each one moves."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import socket
import string
import subprocess
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock
from urllib.parse import quote

from common.metrics import DURATION_BUCKETS, Counter, Gauge, Histogram, LabelledGauge, render
from common.names import VERSION
from lookup.lookups import ASKERS, OUTCOMES
from tests.support import SUBNETS, Client, FakeDNS, fake_dns, running, wait_until

PREFIX = "automatic_zone_placement_"

# https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format"
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
VALUE = r'"(?:[^"\\\n]|\\[\\"n])*"'
LABELS = rf"\{{[a-zA-Z_]\w*={VALUE}(?:,[a-zA-Z_]\w*={VALUE})*\}}"
SAMPLE = re.compile(rf"({NAME})({LABELS})? (\d+(?:\.\d+)?(?:e-?\d+)?)")

# How a sample's name may go on after the family's.
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

# sample, request that moves it, its method
REQUESTS = [
    ('requests_total{endpoint="/lookup",status="200"}', "/lookup?fqdn=192.168.1.7", "GET"),
    ('requests_total{endpoint="/lookup",status="200"}', "/lookup?fqdn=192.168.1.7", "HEAD"),
    ('requests_total{endpoint="/lookup",status="400"}', "/lookup?fqdn=1.2.3", "GET"),
    ('requests_total{endpoint="/lookup",status="404"}', "/lookup?fqdn=10.9.9.9", "GET"),
    ('requests_total{endpoint="/",status="200"}', "/", "GET"),
    ('requests_total{endpoint="/lookup",status="502"}', "/lookup?fqdn=failing.test", "GET"),
    ('requests_total{endpoint="/lookup",status="504"}', "/lookup?fqdn=silent.test", "GET"),
    ('requests_total{endpoint="/lookup",status="405"}', "/lookup", "POST"),
    ('requests_total{endpoint="/healthz",status="200"}', "/healthz", "GET"),
    ('requests_total{endpoint="/readyz",status="200"}', "/readyz?x", "GET"),
    ('requests_total{endpoint="other",status="404"}', "/no/such/path", "GET"),
    ('requests_total{endpoint="other",status="405"}', "/no/such/path", "BREW"),
    ('lookups_total{outcome="Success",asker="engine"}', "/lookup?fqdn=db.test", "GET"),
    ('lookups_total{outcome="Success",asker="engine"}', "/lookup?fqdn=db.test,none.test", "GET"),
    ('lookups_total{outcome="InvalidRequest",asker="engine"}', "/lookup", "GET"),
    ('lookups_total{outcome="InvalidName",asker="engine"}', "/lookup?fqdn=1.2.3", "GET"),
    ('lookups_total{outcome="NameNotAllowed",asker="engine"}', "/lookup?fqdn=db.example", "GET"),
    ('lookups_total{outcome="NameNotFound",asker="engine"}', "/lookup?fqdn=none.test", "GET"),
    ('lookups_total{outcome="ZoneNotFound",asker="engine"}', "/lookup?fqdn=10.9.9.9", "GET"),
    ('lookups_total{outcome="ResolverFailure",asker="engine"}', "/lookup?fqdn=failing.test", "GET"),
    ('lookups_total{outcome="ResolverTimeout",asker="engine"}', "/lookup?fqdn=silent.test", "GET"),
    ("lookup_duration_seconds_count", "/lookup?fqdn=192.168.1.7", "GET"),
    ("lookup_duration_seconds_count", "/lookup?fqdn=db.test", "GET"),
    ("lookup_duration_seconds_count", "/lookup", "GET"),
    ('zone_answers_total{zone="eu-central-1b"}', "/lookup?fqdn=192.168.1.7", "GET"),
    ('zone_answers_total{zone="eu-central-1a"}', "/lookup?fqdn=db.test,192.168.1.7", "GET"),
    ('zone_answers_total{zone="several"}', "/lookup?fqdn=two.test", "GET"),
    ('dns_resolutions_total{outcome="Success"}', "/lookup?fqdn=db.test", "GET"),
    ('dns_resolutions_total{outcome="NameNotFound"}', "/lookup?fqdn=none.test", "GET"),
    ('dns_resolutions_total{outcome="ResolverFailure"}', "/lookup?fqdn=failing.test", "GET"),
    ('dns_resolutions_total{outcome="ResolverTimeout"}', "/lookup?fqdn=silent.test", "GET"),
    ("dns_cache_names", "/lookup?fqdn=db.test", "GET"),
]


class Sample(NamedTuple):
    name: str
    labels: str
    value: float


class Family(NamedTuple):
    help: str
    type: str
    samples: list[Sample]


def families(text: str) -> dict[str, Family]:
    """All of a scrape by name; fails if anything in it is not as the format has it."""
    found: dict[str, Family] = {}
    assert text.endswith("\n")
    for block in re.split(r"^# HELP ", text, flags=re.MULTILINE)[1:]:
        first, second, *lines = block.splitlines()
        name, _, documentation = first.partition(" ")
        kind = second.removeprefix(f"# TYPE {name} ")
        assert re.fullmatch(NAME, name) and name not in found, name
        samples = list(map(sample, lines))
        for each in samples:
            assert each.name.removeprefix(name) in SUFFIXES[kind], (name, each)
        assert len({(each.name, each.labels) for each in samples}) == len(samples), name
        found[name] = Family(documentation, kind, samples)
    assert text.startswith("# HELP ") and len(found) == text.count("# TYPE ")
    return found


def sample(line: str) -> Sample:
    match = SAMPLE.fullmatch(line)
    assert match, line
    return Sample(match[1], match[2] or "", float(match[3]))


def scrape(client: Client) -> dict[str, Family]:
    return families(client.request("/metrics").body)


def sample_names(client: Client) -> set[str]:
    return {
        each.name + each.labels for family in scrape(client).values() for each in family.samples
    }


@contextmanager
def serving(**settings: str) -> Iterator[tuple[Client, FakeDNS]]:
    """A server and a DNS that knows db.test and two.test and fails for failing.test."""
    answers: dict[str, list[str] | Exception] = {
        "db": ["192.168.33.4"],
        "two": ["192.168.0.1", "192.168.32.1"],
        "failing": socket.gaierror(socket.EAI_FAIL, "failed"),
    }
    environment = {"DNS_TIMEOUT": "0.05", "ALLOWED_DOMAINS": "test"} | settings
    with fake_dns(**answers) as dns, running(max_connections=100, **environment) as client:
        dns.silent = {"silent.test"}
        yield client, dns


class FormatTest(unittest.TestCase):
    def test_the_content_type_names_the_version(self) -> None:
        with running() as client:
            response = client.request("/metrics")
        self.assertEqual(
            response.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8"
        )

    def test_every_family_follows_the_conventions(self) -> None:
        with serving() as (client, _):
            for _, target, method in REQUESTS:
                client.request(target, method)
            scraped = scrape(client)
        self.assertGreater(len(scraped), 9)
        for name, family in scraped.items():
            with self.subTest(name):
                self.assertTrue(name.startswith((PREFIX, "process_")))
                self.assertTrue(family.help.endswith("."))
                self.assertEqual(name.endswith("_total"), family.type == "counter")
                self.assertTrue(family.samples or family.type == "counter")

    @unittest.skipUnless(
        shutil.which("promtool"), "promtool (Debian package prometheus) is not on PATH"
    )
    def test_promtool_has_no_objections(self) -> None:
        with serving() as (client, _):
            for _, target, method in REQUESTS:
                client.request(target, method)
            text = client.request("/metrics").body
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_label_values_are_escaped(self) -> None:
        counter = Counter("x_total", "X.", "a", "b")
        counter.increment('"quoted"\n', "back\\slash")
        gauge = Gauge("y", "Y.", lambda: 0.5, c='\\"')
        text = render([counter, gauge]).decode()
        self.assertIn(rf'{PREFIX}x_total{{a="\"quoted\"\n",b="back\\slash"}} 1', text)
        self.assertIn(rf'{PREFIX}y{{c="\\\""}} 0.5', text)
        self.assertEqual([len(family.samples) for family in families(text).values()], [1, 1])

    def test_a_counter_without_labels_begins_at_0(self) -> None:
        self.assertIn(f"{PREFIX}x_total 0\n", render([Counter("x_total", "X.")]).decode())

    def test_a_counter_counts_fractions_too(self) -> None:
        counter = Counter("x_seconds_total", "X.")
        counter.increment(by=0.25)
        counter.increment(by=0.5)
        self.assertIn(f"{PREFIX}x_seconds_total 0.75\n", render([counter]).decode())

    def test_a_gauge_has_what_was_last_set(self) -> None:
        gauge = LabelledGauge("x", "X.", "a")
        gauge.begin(("b",), ("c",))
        gauge.set(3, "b")
        gauge.set(2, "b")
        found = families(render([gauge]).decode())[f"{PREFIX}x"]
        self.assertEqual(found.type, "gauge")
        self.assertEqual([each.value for each in found.samples], [2, 0])


class HistogramTest(unittest.TestCase):
    def buckets(self, histogram: Histogram) -> dict[str, float]:
        (family,) = families(render([histogram]).decode()).values()
        return {each.labels or each.name: each.value for each in family.samples}

    def test_buckets_are_cumulative(self) -> None:
        histogram = Histogram("x_seconds", "X.")
        for seconds in (*DURATION_BUCKETS, 0, 1e6):
            histogram.observe(seconds)
        values = list(self.buckets(histogram).values())
        count = len(DURATION_BUCKETS) + 2
        self.assertEqual(values[:-2], [float(n) for n in range(2, count + 1)])
        self.assertAlmostEqual(values[-2], sum(DURATION_BUCKETS) + 1e6)
        self.assertEqual(values[-1], count)

    def test_a_bucket_holds_what_is_no_longer_than_its_bound(self) -> None:
        histogram = Histogram("x_seconds", "X.")
        histogram.observe(0.001)
        histogram.observe(0.00100001)
        buckets = self.buckets(histogram)
        self.assertEqual(buckets['{le="0.0005"}'], 0)
        self.assertEqual(buckets['{le="0.001"}'], 1)
        self.assertEqual(buckets['{le="0.0025"}'], 2)

    def test_the_last_bucket_of_a_scrape_is_the_count(self) -> None:
        with serving() as (client, _):
            for number in range(20):
                client.lookup(f"192.168.{number}.1")
            samples = scrape(client)[f"{PREFIX}lookup_duration_seconds"].samples
        *buckets, total, count = samples
        values = [each.value for each in buckets]
        bounds = [float(each.labels[5:-2]) for each in buckets]
        self.assertEqual(values, sorted(values))
        self.assertEqual(bounds, [*DURATION_BUCKETS, float("inf")])
        self.assertEqual((values[-1], count.value), (20, 20))
        self.assertGreater(total.value, 0)


class MovementTest(unittest.TestCase):
    def test_each_request_moves_its_samples(self) -> None:
        for name, target, method in REQUESTS:
            with self.subTest(name, target=target, method=method), serving() as (client, _):
                before = client.metric(name)
                client.request(target, method)
                self.assertEqual(client.metric(name) - before, 1)

    def test_a_scrape_is_counted_by_the_next(self) -> None:
        with serving() as (client, _):
            for count in range(3):
                own = client.metric('requests_total{endpoint="/metrics",status="200"}')
                self.assertEqual(own, count)

    def test_what_is_no_request_is_counted_too(self) -> None:
        with serving() as (client, _):
            client.raw(b"hello\r\n\r\n")
            self.assertEqual(client.metric('requests_total{endpoint="other",status="400"}'), 1)

    def test_lookups_are_no_more_than_what_is_asked(self) -> None:
        with serving() as (client, _):
            for path in ("/healthz", "/readyz", "/metrics", "/other"):
                client.request(path)
            self.assertEqual(client.metric("lookup_duration_seconds_count"), 0)
            self.assertEqual(client.metric("dns_cache_hits_total"), 0)

    def test_cache_hits(self) -> None:
        with serving() as (client, _):
            for hits in range(3):
                client.lookup("db.test")
                self.assertEqual(client.metric("dns_cache_hits_total"), hits)
            self.assertEqual(client.metric('dns_resolutions_total{outcome="Success"}'), 1)
            self.assertEqual(client.metric("dns_cache_names"), 1)

    def test_stale_answers(self) -> None:
        with serving(DNS_CACHE_TTL="0") as (client, dns):
            client.lookup("db.test")
            self.assertEqual(client.metric("dns_stale_answers_total"), 0)
            dns.answers["db.test"] = socket.gaierror(socket.EAI_AGAIN, "try again")
            self.assertTrue(client.lookup("db.test").body["stale"])
            self.assertEqual(client.metric("dns_stale_answers_total"), 1)
            self.assertEqual(client.metric('dns_resolutions_total{outcome="ResolverFailure"}'), 1)
            self.assertEqual(client.metric("dns_cache_hits_total"), 0)

    def test_too_many_queries(self) -> None:
        with serving() as (client, _), mock.patch("lookup.resolver.MAX_QUERIES", 0):
            client.lookup("db.test")
            self.assertEqual(client.metric('dns_resolutions_total{outcome="Overloaded"}'), 1)
            self.assertEqual(client.metric('requests_total{endpoint="/lookup",status="503"}'), 1)
            self.assertEqual(client.metric('lookups_total{outcome="Overloaded",asker="engine"}'), 1)

    def test_a_defect(self) -> None:
        with serving() as (client, _), self.assertLogs(level="ERROR"):
            with mock.patch.object(
                client.server.service.lookups, "answer", side_effect=ZeroDivisionError
            ):
                client.lookup("192.168.1.7")
            self.assertEqual(
                client.metric('lookups_total{outcome="InternalError",asker="engine"}'), 1
            )

    def test_every_outcome_is_there_before_its_first(self) -> None:
        with serving() as (client, _):
            samples = scrape(client)[f"{PREFIX}lookups_total"].samples
        self.assertEqual(
            {each.labels: each.value for each in samples},
            {
                f'{{outcome="{outcome}",asker="{asker}"}}': 0
                for outcome in OUTCOMES
                for asker in ASKERS
            },
        )

    def test_queries_under_way(self) -> None:
        with serving() as (client, dns):
            client.lookup("silent.test")
            self.assertEqual(client.metric("dns_queries"), 1)
            dns.speak()
            wait_until(lambda: client.metric("dns_queries") == 0)

    def test_not_ready(self) -> None:
        with serving(SHUTDOWN_DELAY="60") as (client, _):
            client.stop()
            client.request("/readyz")
            self.assertEqual(client.metric('requests_total{endpoint="/readyz",status="503"}'), 1)

    def test_open_connections(self) -> None:
        with serving() as (client, _):
            wait_until(lambda: client.metric("open_connections") == 1)  # that which asks
            with client.connect():
                wait_until(lambda: client.metric("open_connections") == 2)
            wait_until(lambda: client.metric("open_connections") == 1)

    def test_whether_the_table_is_the_example(self) -> None:
        for table, expected in ((SUBNETS, 0), ([SUBNETS[0] | {"Example": True}, SUBNETS[1]], 1)):
            with running(table) as client:
                self.assertEqual(client.metric("example_table"), expected)

    def test_the_process(self) -> None:
        with serving() as (client, _):
            descriptors = len(os.listdir("/proc/self/fd")) - 1  # that of the folder itself
            found = {
                name: family.samples[0].value
                for name, family in scrape(client).items()
                if name.startswith("process_")
            }
            with client.connect(), client.connect():
                wait_until(lambda: client.metric("open_connections") == 3)
                more = scrape(client)["process_open_fds"].samples[0].value
        self.assertEqual(
            found["process_open_fds"], descriptors + 2
        )  # both ends of the scrape's own
        self.assertEqual(more, found["process_open_fds"] + 4)  # both ends of two connections
        self.assertGreater(found["process_resident_memory_bytes"], 10 * 2**20)
        self.assertGreater(found["process_cpu_seconds_total"], 0)
        self.assertLess(abs(found["process_start_time_seconds"] - time.time()), 3600)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertEqual(found["process_max_fds"], soft)

    def test_what_runs(self) -> None:
        with serving() as (client, _):
            (info,) = scrape(client)[f"{PREFIX}build_info"].samples
            self.assertEqual(client.metric("subnets"), 6)
        self.assertEqual(info.value, 1)
        self.assertIn(f'version="{VERSION}"', info.labels)


class BoundsTest(unittest.TestCase):
    METHODS = ("GET", "GET", "GET", "HEAD", "POST", "DELETE", "BREW", "get")
    PREFIXES = (
        "/lookup?fqdn=",
        "/lookup?fqdn=192.168.1.1,",
        "/lookup?",
        "/lookup/",
        "/lookup;",
        "//lookup?",
        "/healthz",
        "/metrics/",
        "/",
        "http://x/lookup?fqdn=",
    )

    def hammer(self, client: Client, seed: int) -> None:
        """Random requests, each kind of them several times."""
        numbers = random.Random(seed)
        for method in self.METHODS:
            for prefix in self.PREFIXES:
                text = "".join(numbers.choices(string.printable, k=numbers.randint(1, 40)))
                client.request(prefix + quote(text), method)
                client.raw(f"{method} {prefix}{text} HTTP/1.1\r\n\r\n".encode())
                client.request(
                    "/healthz", "M" + "".join(numbers.choices(string.ascii_letters, k=5))
                )

    def test_no_client_makes_the_metrics_grow(self) -> None:
        with serving() as (client, _):
            for _, target, method in REQUESTS:
                client.request(target, method)
            client.request("/metrics")
            self.hammer(client, seed=1)
            known = sample_names(client)
            for seed in (2, 3, 4):
                self.hammer(client, seed)
            self.assertEqual(sample_names(client), known)


if __name__ == "__main__":
    unittest.main()
