"""`SUBNETS_FILE` changes while the service runs."""

from __future__ import annotations

import gc
import gzip
import json
import os
import signal
import tempfile
import threading
import unittest
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from unittest import mock

from common.file_watch import FileWatch
from common.names import ZONE_LABEL
from lookup.table import InvalidSubnets, SubnetTable
from lookup.table_file import TableFile
from lookup.table_reader import read_files
from tests.support import DEADLINE, ROOT, Client, fake_dns, running, wait_until
from tests.test_process import serving

NAME = "db.test"
ADDRESS = "10.0.0.7"


def table(zone: str, cidr: str = "10.0.0.0/24") -> list[dict[str, Any]]:
    return [{"CIDRBlock": cidr, "AvailabilityZone": zone}]


def content(zone: str) -> bytes:
    return json.dumps(table(zone)).encode()


def zone_of(client: Any, name: str = ADDRESS) -> str:
    return str(client.lookup(name).body["zone"])


# Ways to change the file at `path`, whose content is that of `zone-a`, to that of `zone-b`,
# which is as long.


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(content("zone-b"))
    other.rename(path)


def rewrite(path: Path) -> None:
    path.write_bytes(content("zone-b"))


def rewrite_with_the_time_of_before(path: Path) -> None:
    before = path.stat()
    rewrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def compress(path: Path) -> None:
    path.write_bytes(gzip.compress(content("zone-b")))


def swap_a_link(path: Path) -> None:
    """As the kubelet does it: the file is a link into `..data`, which is a link to a folder."""
    volume = path.resolve().parent.parent
    (volume / "2").mkdir()
    (volume / "2" / "subnets.json").write_bytes(content("zone-b"))
    (volume / "..data_tmp").symlink_to("2")
    (volume / "..data_tmp").rename(volume / "..data")


CHANGES: list[Callable[[Path], None]] = [
    replace,
    rewrite,
    rewrite_with_the_time_of_before,
    compress,
    swap_a_link,
]

# What may be there in place of a table, and a word of what is said of it.
WRONG: list[tuple[bytes | None, str]] = [
    (b"[", "not JSON"),
    (b"", "empty"),
    (b"[]", "empty"),
    (b'[{"CIDRBlock": "10.0.0.1/24", "AvailabilityZone": "a"}]', "10.0.0.1/24"),
    (gzip.compress(content("zone-b"))[:-9], "cannot be read"),
    (content("zone-b") + content("zone-b"), "several documents"),
    (None, "No such file"),
]


class Case(unittest.TestCase):
    def setUp(self) -> None:
        volume = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (volume / "1").mkdir()
        (volume / "..data").symlink_to("1")
        self.path = volume / "subnets.json"
        self.path.symlink_to("..data/subnets.json")
        (volume / "1" / "subnets.json").write_bytes(content("zone-a"))

    def put(self, data: bytes | None) -> None:
        """Puts another file in the place of this one, or nothing."""
        new = self.path.with_suffix(".put")
        if data is None:
            self.path.unlink(missing_ok=True)
        else:
            new.write_bytes(data)
            new.replace(self.path)

    def put_pipe(self) -> Path:
        """Puts a pipe there: whoever reads the file waits until something is written into it."""
        pipe = self.path.with_suffix(".pipe")
        os.mkfifo(pipe)
        pipe.replace(self.path)
        return self.path


class Recorder:
    """Stands in for the event loop: keeps what was handed over."""

    def __init__(self) -> None:
        self.found: list[SubnetTable | InvalidSubnets] = []

    def call_soon_threadsafe(self, callback: Callable[[Any], None], found: Any) -> None:
        callback(found)


class WatchTest(Case):
    """What of a change is noticed, and when the file is read."""

    def watch(self, interval: float = 0.01, retry: float = 3600) -> TableFile:
        self.enterContext(mock.patch("common.file_watch.INTERVAL", interval))
        self.enterContext(mock.patch("common.file_watch.RETRY_INTERVAL", retry))
        file = TableFile(str(self.path), ZONE_LABEL)
        self.assertEqual([subnet.zone for subnet in file.read()], ["zone-a"])
        self.recorder = Recorder()
        file.watch(self.recorder, self.recorder.found.append)  # type: ignore[arg-type]
        self.addCleanup(file.unwatch)
        return file

    def wait_for(self, number: int) -> None:
        wait_until(lambda: len(self.recorder.found) >= number)

    def test_every_kind_of_change(self) -> None:
        for change in CHANGES:
            with self.subTest(change.__name__):
                self.setUp()
                file = self.watch()
                change(self.path)
                self.wait_for(1)
                (found,) = self.recorder.found
                assert isinstance(found, SubnetTable)
                self.assertEqual([subnet.zone for subnet in found], ["zone-b"])
                file.unwatch()

    def test_what_is_the_same_is_not_read_again(self) -> None:
        looks = threading.Semaphore(0)
        with mock.patch.object(FileWatch, "_look", lambda _: looks.release() or (1, 1, 1, 1)):  # type: ignore[func-returns-value]
            self.watch()
            for _ in range(20):
                self.assertTrue(looks.acquire(timeout=DEADLINE))
        self.assertEqual(self.recorder.found, [])

    def test_what_is_still_being_written_is_left_alone(self) -> None:
        """It is read when two looks have found the same, as the last two of these do."""
        looks = iter([1, 2, 3, 4, 5, 5])
        last = [0]

        def look(_: TableFile) -> tuple[int, int, int, int]:
            last[0] = next(looks, last[0])
            return last[0], 0, 0, 0

        with mock.patch.object(FileWatch, "_look", look):
            self.watch()
            self.wait_for(1)
            self.assertEqual(list(looks), [])

    def test_no_beginning_of_a_table_is_one(self) -> None:
        """However slowly, and in which steps, one is written."""
        forms = (
            {"Subnets": table("zone-b"), "GatheredAt": "2027-01-15T08:00:00Z"},
            table("zone-b"),
        )
        for text in map(json.dumps, forms):
            for size in range(len(text)):
                self.put(text[:size].encode())
                with self.assertRaises(InvalidSubnets, msg=text[:size]):
                    TableFile(str(self.path), ZONE_LABEL).read()

    def test_a_change_while_it_is_read_is_noticed(self) -> None:
        self.watch()
        pipe = self.put_pipe()
        with pipe.open("wb") as writer:
            self.put(content("zone-c"))
            writer.write(content("zone-b"))
        self.wait_for(2)
        zones = [[s.zone for s in found] for found in self.recorder.found]  # type: ignore[union-attr]
        self.assertEqual(zones, [["zone-b"], ["zone-c"]])

    def test_what_is_wrong(self) -> None:
        file = self.watch()
        for number, (data, word) in enumerate(WRONG, 1):
            with self.subTest(word):
                self.put(data)
                self.wait_for(number)
                found = self.recorder.found[-1]
                assert isinstance(found, InvalidSubnets)
                self.assertEqual(len(found.problems), 1)
                self.assertIn(word, found.problems[0])
                self.assertTrue(found.problems[0].startswith(f"{self.path}: "))
        self.put(content("zone-b"))
        self.wait_for(len(WRONG) + 1)
        self.assertIsInstance(self.recorder.found[-1], SubnetTable)
        file.unwatch()

    def test_what_is_wrong_is_tried_again_though_it_is_the_same(self) -> None:
        self.watch(retry=0.02)
        self.put(b"[")
        self.wait_for(3)

    def test_a_reader_that_dies_is_a_problem_like_others(self) -> None:
        script = self.path.with_name("die.py")
        script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        with (
            mock.patch("lookup.table_file.PROGRAM", script.parent),
            mock.patch("lookup.table_file.MODULE", "die"),
        ):
            file = self.watch()
            file.read_again()
            self.wait_for(1)
        found = self.recorder.found[-1]
        assert isinstance(found, InvalidSubnets)
        self.assertIn("SIGKILL", str(found))
        file.read_again()
        self.wait_for(2)
        self.assertIsInstance(self.recorder.found[-1], SubnetTable)


class ServerTest(Case):
    """What becomes of answers, of the log and of the metrics."""

    @contextmanager
    def watching(self, **settings: Any) -> Iterator[Client]:
        self.put(content("zone-a"))
        with running(table("zone-a"), SUBNETS_FILE=str(self.path), **settings) as client:
            self.file = TableFile(str(self.path), ZONE_LABEL)
            self.file.read()
            self.file.watch(client.loop, client.server.service.reload)
            self.client = client
            try:
                yield client
            finally:
                self.file.unwatch()

    def reload(self, data: bytes | None, outcome: str = "success") -> None:
        """Has this read, and waits until it is in use, or is not."""
        sample = f'subnets_reloads_total{{outcome="{outcome}"}}'
        before = self.client.metric(sample)
        self.put(data)
        self.file.read_again()
        wait_until(lambda: self.client.metric(sample) == before + 1)

    def test_every_way_to_an_answer_leads_to_the_new_table(self) -> None:
        with (
            fake_dns(db=[ADDRESS], other=[ADDRESS]) as dns,
            self.watching(DNS_CACHE_TTL="600") as client,
        ):
            for zone in ("zone-a", "zone-b", "zone-c"):
                self.reload(content(zone))
                for name in (NAME, ADDRESS, f"other.test,{NAME}"):
                    with self.subTest(zone, name=name):
                        self.assertEqual(zone_of(client, name), zone)
            self.assertEqual(dns.asked.count(NAME), 1)  # afterwards it came from the cache

    def test_what_was_in_no_subnet(self) -> None:
        with fake_dns(db=[ADDRESS]), self.watching() as client:
            self.assertEqual(client.lookup("10.9.9.9").body["reason"], "ZoneNotFound")
            self.assertEqual(zone_of(client, NAME), "zone-a")
            self.reload(json.dumps(table("zone-b", "10.9.9.0/24")).encode())
            self.assertEqual(zone_of(client, "10.9.9.9"), "zone-b")
            self.assertEqual(client.lookup(NAME).body["reason"], "ZoneNotFound")

    def test_a_lookup_that_waits_for_dns_meanwhile(self) -> None:
        with fake_dns(slow=[ADDRESS]) as dns, self.watching(DNS_TIMEOUT="10") as client:
            dns.silent.add("slow.test")
            zones: list[str] = []
            thread = threading.Thread(target=lambda: zones.append(zone_of(client, "slow.test")))
            thread.start()
            wait_until(lambda: "slow.test" in dns.asked)
            self.reload(content("zone-b"))
            dns.speak()
            thread.join(DEADLINE)
            self.assertEqual(zones, ["zone-b"])

    def test_nothing_that_is_remembered_keeps_the_old_table(self) -> None:
        with fake_dns(db=[ADDRESS], far=["10.9.9.9"]), self.watching() as client:
            for name in (NAME, ADDRESS, "far.test", "10.9.9.8"):
                client.lookup(name)
            old = weakref.ref(client.server.service.lookups.placement)
            self.reload(content("zone-b"))
            gc.collect()
            self.assertIsNone(old())

    def test_lookups_go_on_while_the_file_is_read(self) -> None:
        with self.watching() as client:
            pipe = self.put_pipe()
            self.file.read_again()
            with pipe.open("wb") as writer:  # which waits until it is being read
                for _ in range(100):
                    self.assertEqual(zone_of(client), "zone-a")
                writer.write(content("zone-b"))
            wait_until(lambda: zone_of(client) == "zone-b")

    def test_no_lookup_is_lost(self) -> None:
        with self.watching() as client, Load(client) as load:
            for number in range(5):
                self.reload(content(f"zone-{number}"))
        self.assertGreater(len(load.zones), 5)
        order = [
            zone
            for zone, before in zip(load.zones, ["", *load.zones], strict=False)
            if zone != before
        ]
        self.assertEqual(order, ["zone-a", *(f"zone-{number}" for number in range(5))])

    def test_what_is_wrong_is_left_aside_and_said_once(self) -> None:
        for data, word in WRONG:
            with (
                self.subTest(word),
                self.watching() as client,
                self.assertLogs(level="WARNING") as log,
            ):
                self.reload(data, "failure")
                self.reload(data, "failure")
                self.assertEqual(zone_of(client), "zone-a")
                self.assertEqual(len(log.output), 2, log.output)
                self.assertIn(word, log.output[0])
                self.assertIn("the 1 subnets of before stay", log.output[1])
                self.assertEqual(client.metric('subnets_reloads_total{outcome="success"}'), 0)

    def test_it_is_said_again_if_it_is_wrong_again(self) -> None:
        with self.watching(), self.assertLogs(level="WARNING") as log:
            for data, outcome in ((b"[", "failure"), (content("zone-a"), "success")) * 2:
                self.reload(data, outcome)
        self.assertEqual(sum("not JSON" in line for line in log.output), 2)

    def test_warnings_come_again(self) -> None:
        two = [*table("zone-c"), {"CidrBlock": None, "SubnetId": "subnet-6"}]
        with self.watching(AVOID_ZONES="zone-a") as client, self.assertLogs(level="WARNING") as log:
            self.reload(json.dumps(two).encode())
            self.assertEqual(client.metric("subnets"), 1)
        self.assertEqual(len(log.output), 2, log.output)
        self.assertIn("AVOID_ZONES has 'zone-a'", log.output[0])
        self.assertIn("subnet-6", log.output[1])

    def test_avoided_zones_stay_avoided(self) -> None:
        with self.watching(AVOID_ZONES="zone-b") as client:
            self.reload(content("zone-b"))
            self.assertEqual(client.lookup(ADDRESS).body["nodeLabels"], [])

    def test_metrics_follow(self) -> None:
        with self.watching() as client, self.assertLogs():
            loaded = client.metric("subnets_loaded_timestamp_seconds")
            self.assertEqual(client.metric("example_table"), 0)
            self.reload(b"[", "failure")
            self.assertEqual(client.metric("subnets_loaded_timestamp_seconds"), loaded)
            self.reload((ROOT / "deploy" / "files" / "example-subnets.json").read_bytes())
            self.assertEqual(client.metric("example_table"), 1)
            self.assertEqual(client.metric("subnets"), 6)
            self.assertEqual(client.metric("subnets_warnings"), 1)  # that it is the example
            found = read_files([str(self.path)])
            self.assertEqual(client.metric("subnets_hash"), found.fingerprint)
            modified = client.metric("subnets_modified_timestamp_seconds")
            self.assertEqual(modified, found.modified_at)
            self.assertEqual(modified, self.path.stat().st_mtime)
            self.assertGreater(client.metric("subnets_loaded_timestamp_seconds"), loaded)
            with self.subTest("only of a table that says when it was gathered"):
                subnets = json.loads(content("zone-b"))
                said = {"GatheredAt": "1970-01-02T00:00:00Z", "Subnets": subnets}
                self.reload(json.dumps(said).encode())
                self.assertEqual(client.metric("subnets_gathered_timestamp_seconds"), 86400)


class Load:
    """Looks the address up, over and over on one connection; `zones` are the answers."""

    def __init__(self, client: Client) -> None:
        self.zones: list[str] = []
        self._port = client.port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        wait_until(lambda: bool(self.zones))
        return self

    def __exit__(self, *_: object) -> None:
        number = len(self.zones)
        wait_until(lambda: len(self.zones) > number + 1 or not self._thread.is_alive())
        self._ended.set()
        self._thread.join(DEADLINE)
        assert self.zones[-1] != "lost", "a lookup had no answer"

    def _run(self) -> None:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)) as connection:
            while not self._ended.is_set():
                try:
                    connection.request("GET", f"/lookup?fqdn={ADDRESS}")
                    self.zones.append(json.loads(connection.getresponse().read())["zone"])
                except Exception:
                    self.zones.append("lost")
                    raise


class ProcessTest(Case):
    """`python3 server.py` as a process, with its signals."""

    def test_sighup_reads_the_file_again(self) -> None:
        with serving(SUBNETS_FILE=str(self.path)) as server:
            self.assertEqual(zone_of(server), "zone-a")
            self.put(content("zone-b"))
            server.signal(signal.SIGHUP)
            wait_until(lambda: zone_of(server) == "zone-b")
            wait_until(lambda: any("1 subnets" in line for line in server.log()[1:]))

    def test_a_change_is_noticed_without_a_signal(self) -> None:
        with serving(
            "import common.file_watch; common.file_watch.INTERVAL = 0.01",
            SUBNETS_FILE=str(self.path),
        ) as server:
            swap_a_link(self.path)
            wait_until(lambda: zone_of(server) == "zone-b")

    def test_a_wrong_file_does_not_end_it(self) -> None:
        with serving(SUBNETS_FILE=str(self.path)) as server:
            self.put(b"[")
            server.signal(signal.SIGHUP)
            wait_until(lambda: any("not JSON" in line for line in server.log()))
            self.assertEqual(zone_of(server), "zone-a")

    def test_it_ends_though_the_file_is_being_read(self) -> None:
        with serving(SUBNETS_FILE=str(self.path)) as server:
            pipe = self.put_pipe()
            server.signal(signal.SIGHUP)
            with pipe.open("wb"):
                server.signal(signal.SIGTERM)
                self.assertEqual(server.wait(), 0)

    def test_without_a_file_sighup_ends_it_as_ever(self) -> None:
        with serving(SUBNETS_FILE="") as server:
            server.signal(signal.SIGHUP)
            self.assertEqual(server.wait(), -signal.SIGHUP)


if __name__ == "__main__":
    unittest.main()
