"""`python server.py` as a process: its settings, its log, its signals and its end."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, suppress
from dataclasses import fields
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any, ClassVar
from unittest import mock
from urllib.parse import quote

from common.listening import listen, raise_connection_limit
from common.names import VERSION
from server import MAX_CONNECTIONS, OTHER_DESCRIPTORS, ServerSettings, main
from tests.support import DEADLINE, ROOT, Remote, read_all, responses, wait_until

SERVER = str(ROOT / "server.py")

SETTINGS = {each.name.upper() for each in fields(ServerSettings)}

# The test's own environment, without what may be meant for another server.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in SETTINGS} | {
    "PORT": "0",
    "SUBNETS_FILE": str(ROOT / "kyverno" / "tests" / "subnets.json"),
}

SECONDS = [
    "-1",
    "-0.001",
    "86400.1",
    "1e99",
    "nan",
    "inf",
    "-inf",
    "1s",
    "1,5",
    "five",
    "0x1",
    "1_0",
]

BAD_SETTINGS = {
    "PORT": [
        "-1",
        "65536",
        "http",
        "80.0",
        "+80",
        "8 0",
        "8_0",
        "0x50",
        "1e3",
        "\u0668",
        "9" * 5000,
    ],
    "HOST": ["192.0.2.1", "a" * 300, "\udcff"],
    "LOG_LEVEL": ["verbose", "20", "WARN", "INFO ", "in\nfo", "İNFO"],
    "NODE_LABEL": ["zone", "topology.kubernetes.io/region", "topology.k8s.aws/zone-id\n"],
    "DNS_TIMEOUT": [*SECONDS, "0", "0.001", "10.1"],
    "AVOID_ZONES": [",", "a,,b", "a,"],
    "ALLOWED_DOMAINS": [",", "*.example.com", "example..com", "a b", "example.com,"],
    "DNS_CACHE_TTL": SECONDS,
    "DNS_CACHE_MAXSIZE": ["-1", "1000001", "1.5", "many", "9" * 5000],
    "DNS_STALE_TTL": SECONDS,
    "SHUTDOWN_DELAY": SECONDS,
}

GOOD_SETTINGS: list[tuple[str, str, object]] = [
    ("PORT", "0", 0),
    ("PORT", "65535", 65535),
    ("PORT", "", 8080),
    ("HOST", "", ""),
    ("HOST", "::1", "::1"),
    ("LOG_LEVEL", "debug", "DEBUG"),
    ("LOG_LEVEL", "Critical", "CRITICAL"),
    ("NODE_LABEL", "topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("NODE_LABEL", "topology.k8s.aws/zone-id", "topology.k8s.aws/zone-id"),
    ("SUBNETS_FILE", "", ""),
    ("DNS_TIMEOUT", "0.01", 0.01),
    ("DNS_TIMEOUT", "10", 10),
    ("AVOID_ZONES", "", ()),
    ("AVOID_ZONES", "eu-central-1a, euc1-az3", ("eu-central-1a", "euc1-az3")),
    ("ALLOWED_DOMAINS", "Example.com, .corp.", ("example.com", "corp")),
    ("DNS_CACHE_TTL", "0", 0),
    ("DNS_CACHE_MAXSIZE", "0", 0),
    ("DNS_CACHE_MAXSIZE", "1000000", 1000000),
    ("DNS_STALE_TTL", "1e3", 1000),
    ("SHUTDOWN_DELAY", "0.5", 0.5),
]

# content of SUBNETS_FILE, and what each line on standard error must say
BAD_FILES: list[tuple[bytes, list[str]]] = [
    (b"", ["empty"]),
    (b"[", ["not JSON"]),
    (b"\xff\xfe[\x00]\x00", ["not UTF-8"]),
    (
        b'[5, {"CIDRBlock": "10.0.0.1/8", "AvailabilityZone": "a b"}, {}]',
        ["entry 0", "10.0.0.1/8", "'a b'", "CIDRBlock is missing", "AvailabilityZone is missing"],
    ),
]

# Put before the server, to replace something in it.

# For when the log does not tell the port.
TELL_PORT = """
from common import listening
def listen(host, port, listen=listening.listen):
    listener = listen(host, port)
    print(listener.getsockname()[1], flush=True)
    return listener
listening.listen = listen
"""

# Names are answered when there is a line on standard input. They have no IPv6 address.
ANSWER_WHEN_TOLD = """
import socket, sys
def getaddrinfo(_host, _port, family, *_):
    if family == socket.AF_INET6:
        raise socket.gaierror(socket.EAI_NONAME, "none")
    sys.stdin.readline()
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.168.1.7", 0))]
socket.getaddrinfo = getaddrinfo
"""

# As the C library may be when DNS is dead.
STUCK = """
import socket, time
socket.getaddrinfo = lambda *_: time.sleep(3600)
"""

# A log that is soon full.
FEW_LINES = "import common.log; common.log.MAX_LINES = 10"

# A signal, while the table is read.
SIGNAL_ITSELF = """
import os
from lookup import table_file
read = table_file.read_file
def read_file(path, label):
    os.kill(os.getpid(), %d)
    return read(path, label)
table_file.read_file = read_file
"""

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (?:INFO|WARNING|ERROR) .+")

# What a client asks, and what the log says of it.
LOGGED = [
    ("192.168.1.7", "'192.168.1.7' address=192.168.1.7 zone=eu-central-1b"),
    (
        "192.168.1.7,192.168.33.1",
        "'192.168.1.7,192.168.33.1' address=192.168.1.7 zone=eu-central-1b",
    ),
    ("10.9.9.9", "'10.9.9.9' reason=ZoneNotFound"),
    ("1.2.3", "'1.2.3' reason=InvalidName"),
    ("a%20b", "'a b' reason=InvalidName"),
    ("", "'fqdn=' reason=InvalidRequest"),
]

# What is no lookup, and what the log says of it.
REFUSED = [
    (b"hello\r\n\r\n", "'hello' reason=InvalidRequest"),
    (b"GET /healthz HTTP/1.1\r\n\r\n", "'GET /healthz HTTP/1.1' reason=InvalidRequest"),
    (b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", "'GET /x HTTP/1.1' reason=NotFound"),
    (b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n", "'PUT / HTTP/1.1' reason=MethodNotAllowed"),
]

# What might make a line of its own, or more than one, in the log.
FORGERIES = [
    "\nforged",
    "\r\nforged",
    "x\x0bforged",
    "x\x85forged",
    "x\u2028forged",
    "\x1b[0m\rforged",
    "' address=10.0.0.1 zone=forged",
    "\0forged",
]


def command(prelude: str = "") -> list[str]:
    if not prelude:
        return [sys.executable, SERVER]
    return [sys.executable, "-c", f"{prelude}\nimport sys, server\nsys.exit(server.main([]))"]


class Server(Remote):
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        super().__init__(0)
        self.process = process
        self._log = log

    def log(self) -> list[str]:
        """The lines of the log so far."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode().split("\n")[:-1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Waits for the end; the exit status."""
        return self.process.wait(DEADLINE)

    def listens(self) -> re.Match[str] | None:
        """The address and the port, once the log has them."""
        return re.search(r" INFO listening on (\S+) port (\d+), ", "\n".join(self.log()))

    def wait_for_port(self) -> None:
        """Waits until it listens and says where."""
        wait_until(lambda: self.listens() is not None or self.process.poll() is not None)
        said = self.listens()
        assert said, self.log()
        self.port = int(said[2])
        self.host = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(said[1], said[1])


@contextmanager
def started(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cwd: str = str(ROOT),
    stderr: int | None = None,
) -> Iterator[Server]:
    """A process with a log, or with `stderr` instead; it is ended in any case."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        process = stack.enter_context(
            subprocess.Popen(
                arguments,
                cwd=cwd,
                env=ENVIRONMENT | dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log if stderr is None else stderr,
            )
        )
        stack.callback(process.kill)
        yield Server(process, log)


@contextmanager
def serving(prelude: str = "", cwd: str = str(ROOT), **environment: str) -> Iterator[Server]:
    """A server that listens, and whose log says so."""
    with started(command(prelude), environment, cwd) as server:
        server.wait_for_port()
        yield server


@contextmanager
def serving_unheard(
    *before: str, stderr: int | None = None, prelude: str = "", **environment: str
) -> Iterator[Server]:
    """A server that listens, but does not say so in its log; `before` are words of a command."""
    with started([*before, *command(prelude + TELL_PORT)], environment, stderr=stderr) as server:
        assert server.process.stdout
        server.port = int(server.process.stdout.readline())
        yield server


def complaints(name: str, value: str) -> list[str]:
    """The lines with which `main` refuses the setting."""
    with (
        mock.patch.dict(os.environ, ENVIRONMENT | {name: value}, clear=True),
        mock.patch("server.run"),
        mock.patch("signal.signal"),
        redirect_stderr(io.StringIO()) as errors,
    ):
        status = main([])
    assert status == 2, f"the exit status is {status}"
    return errors.getvalue().splitlines()


def refusals(environments: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Runs a server for each, side by side; the lines with which each of them refuses to start."""
    lines: list[list[str]] = []
    with ExitStack() as stack:
        for each in [stack.enter_context(started(command(), env)) for env in environments]:
            assert each.wait() == 2, each.log()
            assert each.process.stdout and each.process.stdout.read() == b""
            lines.append(each.log())
    return lines


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return socket.has_dualstack_ipv6()
    return False


class SettingsTest(unittest.TestCase):
    def assert_named(self, lines: list[str], name: str, value: str) -> None:
        """It is one line with the variable and its value."""
        self.assertEqual(len(lines), 1, lines)
        self.assertIn(name, lines[0])
        self.assertIn(repr(value)[1:50].rstrip("'"), lines[0])
        self.assertNotIn("int_max_str_digits", lines[0])

    def test_a_bad_value_is_named_with_its_variable(self) -> None:
        for name, values in BAD_SETTINGS.items():
            for value in values:
                with self.subTest(name, value=value[:20]):
                    self.assert_named(complaints(name, value), name, value)

    def test_a_bad_value_ends_the_process_with_status_2(self) -> None:
        cases = [(name, values[0]) for name, values in BAD_SETTINGS.items()]
        found = refusals([{name: value} for name, value in cases])
        for (name, value), lines in zip(cases, found, strict=True):
            with self.subTest(name):
                self.assert_named(lines, name, value)

    def test_good_values(self) -> None:
        for name, text, value in GOOD_SETTINGS:
            with self.subTest(name, text=text):
                settings = ServerSettings.from_environment({name: text})
                self.assertEqual(getattr(settings, name.lower()), value)

    def test_it_serves_with_the_least_of_everything(self) -> None:
        least = {"DNS_TIMEOUT": "0.01", "DNS_CACHE_TTL": "0", "DNS_CACHE_MAXSIZE": "0"}
        with serving(**least, DNS_STALE_TTL="0", LOG_LEVEL="debug") as server:
            self.assertEqual(server.lookup("192.168.1.7").status, 200)

    def test_a_port_in_use(self) -> None:
        for host in ("", "127.0.0.1"):
            with self.subTest(host=host), listen(host, 0) as listener:
                port = str(listener.getsockname()[1])
                ((line, *more),) = refusals([{"HOST": host, "PORT": port}])
                self.assertEqual(more, [])
                self.assertIn(port, line)
                self.assertTrue(line.endswith("in use"), line)

    def test_a_subnets_file_that_cannot_be_used(self) -> None:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        cases = [(folder, ["Is a directory"]), (folder / "none.json", ["No such file"])]
        for number, (content, expected) in enumerate(BAD_FILES):
            path = folder / f"{number}.json"
            path.write_bytes(content)
            cases.append((path, expected))
        found = refusals([{"SUBNETS_FILE": str(path)} for path, _ in cases])
        for (path, expected), lines in zip(cases, found, strict=True):
            with self.subTest(expected):
                self.assertEqual(len(lines), len(expected), lines)
                for line, why in zip(lines, expected, strict=True):
                    self.assertTrue(line.startswith(f"{path}: "), line)
                    self.assertIn(why, line)

    def test_a_subnets_file_replaces_the_table(self) -> None:
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "subnets.json"
        entries = [
            {"CIDRBlock": f"10.{n}.0.0/16", "AvailabilityZone": zone, "AvailabilityZoneId": "1"}
            for n, zone in enumerate("xy")
        ]
        path.write_text("\ufeff" + json.dumps(entries), "utf-8")
        with serving(SUBNETS_FILE=str(path)) as server:
            self.assertEqual(server.lookup("10.1.0.1").body["zone"], "y")
            self.assertEqual(server.lookup("192.168.1.7").status, 404)
            (warning,) = [line for line in server.log() if " WARNING " in line]
        self.assertIn("zone id 1 has several names: x, y", warning)


class HostTest(unittest.TestCase):
    def answers(self, server: Server, host: str) -> bool:
        server.host = host
        return not server.is_refused() and server.lookup("192.168.1.7").status == 200

    def test_by_default_both_families_on_one_socket(self) -> None:
        with serving() as server:
            self.assertTrue(self.answers(server, "127.0.0.1"))
            self.assertEqual(self.answers(server, "::1"), has_ipv6())

    def test_the_ipv6_wildcard_is_both_families_too(self) -> None:
        if not has_ipv6():
            self.skipTest("there is no IPv6 here")
        with serving(HOST="::") as server:
            self.assertTrue(self.answers(server, "127.0.0.1"))
            self.assertTrue(self.answers(server, "::1"))

    def test_one_address_only(self) -> None:
        hosts = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]
        for host in hosts:
            with self.subTest(host), serving(HOST=host) as server:
                self.assertEqual(server.host, host)
                for each in hosts:
                    self.assertEqual(self.answers(server, each), each == host)

    def test_it_runs_from_any_directory(self) -> None:
        with serving(cwd="/") as server:
            self.assertEqual(server.lookup("192.168.1.7").status, 200)


class LogTest(unittest.TestCase):
    def assert_lookups(self, server: Server, expected: list[str]) -> None:
        """The whole log: it starts, logs a line for each of these lookups, and ends."""
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 0)
        first, *lines, signalled, last = server.log()
        for line in server.log():
            self.assertRegex(line, LOG_LINE)
        self.assertRegex(
            first, r" INFO listening on \S+ port \d+, \d+ subnets in \S+subnets.json, "
        )
        self.assertRegex(signalled, r" INFO SIGTERM: no longer ready$")
        self.assertRegex(last, r" INFO stopped$")
        self.assertEqual(len(lines), len(expected), lines)
        for line, text in zip(lines, expected, strict=True):
            self.assertRegex(line, rf" INFO lookup {re.escape(text)} ms=\d+\.\d\d$")

    def test_a_line_for_each_lookup(self) -> None:
        with serving() as server:
            for query, _ in LOGGED:
                server.request(f"/lookup?fqdn={query}")
            self.assert_lookups(server, [text for _, text in LOGGED])

    def test_probes_and_scrapes_are_quiet(self) -> None:
        with serving(SHUTDOWN_DELAY="600") as server:
            for path in ("/healthz", "/readyz", "/metrics", "/"):
                server.request(path)
            server.signal(signal.SIGTERM)
            wait_until(lambda: server.request("/readyz").status == 503)
            server.signal(signal.SIGTERM)
            server.wait()
            self.assertEqual([line for line in server.log() if "refused" in line], [])

    def test_a_line_for_each_request_that_is_refused(self) -> None:
        with serving() as server:
            for data, _ in REFUSED:
                server.raw(data)
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)
            lines = [line for line in server.log() if " refused " in line]
        self.assertEqual(len(lines), len(REFUSED), lines)
        for line, (_, text) in zip(lines, REFUSED, strict=True):
            self.assertRegex(line, LOG_LINE)
            self.assertTrue(line.endswith(f" INFO refused {text}"), line)

    def test_nothing_that_a_client_sends_forges_a_line(self) -> None:
        with serving(LOG_LEVEL="DEBUG") as server:
            for text in FORGERIES:
                server.request(f"/lookup?fqdn={quote(text)}")
                server.request(f"/{quote(text)}")
                server.raw(f"GET /lookup?fqdn={text} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                server.raw(f"GET /{text} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                server.raw(f"{text} / HTTP/1.1\r\nHost: {text}\r\n\r\n".encode())
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)
            for line in server.log():
                self.assertRegex(line, LOG_LINE)
            lookups = [line for line in server.log() if " INFO lookup " in line]
            self.assertEqual(len(lookups), len(FORGERIES))
            for line, text in zip(lookups, FORGERIES, strict=True):
                self.assertIn(f" INFO lookup {text!r} reason=InvalidName", line)

    def test_request_headers_are_never_logged(self) -> None:
        token = "Authorization: Bearer SECRET\r\n"
        with serving(LOG_LEVEL="DEBUG") as server:
            for target in ("/lookup?fqdn=192.168.1.7", "/lookup", "/other", "/ /", "*"):
                for fields in (token, f" {token}", f"{token}\n", f"x\r\n{token}", 200 * token):
                    server.raw(f"GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
            server.request("/lookup?fqdn=1.2.3", Authorization="Bearer SECRET")
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)
            log = "\n".join(server.log())
        self.assertNotIn("SECRET", log)
        self.assertIn("'1.2.3'", log)

    def test_the_level_silences_it(self) -> None:
        with serving_unheard(LOG_LEVEL="WARNING") as server:
            self.assertEqual(server.lookup("192.168.1.7").status, 200)
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)
            self.assertEqual(server.log(), [])

    def assert_works(self, server: Server) -> None:
        for name, status in (("192.168.1.7", 200), ("1.2.3", 400), ("192.168.1.7", 200)):
            self.assertEqual(server.lookup(name).status, status)
        self.assertEqual(server.request("/metrics").status, 200)
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 0)

    def test_without_standard_error_it_works(self) -> None:
        with serving_unheard("sh", "-c", 'exec "$@" 2>&-', "sh") as server:
            self.assert_works(server)

    def test_when_nobody_reads_the_log_it_works(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with closing(os.fdopen(writer, "wb")), serving_unheard(stderr=writer) as server:
            self.assert_works(server)

    def test_a_log_that_nobody_reads_holds_nobody_up(self) -> None:
        reader, writer = os.pipe()
        number = 2000  # of some 100 bytes each: more than a pipe holds
        with (
            closing(os.fdopen(reader, "rb")),
            closing(os.fdopen(writer, "wb")),
            serving_unheard(stderr=writer, prelude=FEW_LINES) as server,
        ):
            line = b"GET /lookup?fqdn=192.168.1.7 HTTP/1.1\r\nHost: x\r\n\r\n"
            answers = server.answers(line * number)
            self.assertEqual([each.status for each in answers], [200] * number)
            for path in ("/healthz", "/readyz"):
                self.assertEqual(server.request(path).status, 200)
            self.assertGreater(server.metric("log_lines_dropped_total"), 0)
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)


class CommandLineTest(unittest.TestCase):
    def run_it(self, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        """The exit status, the output, and the lines on standard error."""
        with started([*command(), *arguments], environment) as server:
            assert server.process.stdout
            output = server.process.stdout.read().decode()
            return server.wait(), output, server.log()

    def test_the_version(self) -> None:
        self.assertEqual(self.run_it("--version"), (0, f"{VERSION}\n", []))

    def test_help_has_every_setting_with_its_default_and_its_present_value(self) -> None:
        status, output, errors = self.run_it("--help", DNS_CACHE_TTL="7")
        self.assertEqual((status, errors), (0, []))
        for name in SETTINGS:
            self.assertRegex(output, rf"\n  {name} \(default '[^']*'")
        self.assertIn("  DNS_CACHE_TTL (default '5', now '7')", output)

    def test_what_it_does_not_know_is_refused(self) -> None:
        for argument in ("--port", "9000", "--Lookup"):
            with self.subTest(argument):
                status, output, errors = self.run_it(argument)
                self.assertEqual((status, output), (2, ""))
                self.assertIn(argument, errors[-1])

    def test_a_lookup_is_answered_and_explained(self) -> None:
        table = self.table()
        names = "10.0.0.1,10.1.0.1"
        status, output, errors = self.run_it("--lookup", names, SUBNETS_FILE=table, AVOID_ZONES="y")
        self.assertEqual(status, 0)
        with serving(SUBNETS_FILE=table, AVOID_ZONES="y") as server:
            self.assertEqual(json.loads(output), server.lookup(names).body)
        self.assertEqual(
            errors,
            [
                "10.0.0.1: 10.0.0.1 is in subnet 10.0.0.0/16, zone x",
                "10.1.0.1: 10.1.0.1 is in subnet 10.1.0.0/16, zone y, which is avoided",
            ],
        )

    def test_a_name_without_an_answer_is_status_1(self) -> None:
        cases = [
            ("10.9.9.9", "ZoneNotFound"),
            ("10.0.0.1,10.9.9.9", "ZoneNotFound"),
            ("db", "InvalidName"),
            ("a,b,c,d,e,f,g,h,i", "InvalidRequest"),
            ("", "InvalidName"),
            ("\udcff", "InvalidName"),  # a byte that is no UTF-8
        ]
        for names, reason in cases:
            with self.subTest(names):
                status, output, _ = self.run_it("--lookup", names, SUBNETS_FILE=self.table())
                self.assertEqual(status, 1)
                self.assertIn(f'"reason": "{reason}"', output)

    def table(self) -> str:
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "subnets.json"
        entries = [("10.0.0.0/16", "x"), ("10.1.0.0/16", "y")]
        path.write_text(
            json.dumps([{"CIDRBlock": cidr, "AvailabilityZone": zone} for cidr, zone in entries])
        )
        return str(path)

    def test_a_misspelt_setting_is_a_warning(self) -> None:
        with serving(DNS_CACHE_TLL="3", dns_timeout="2", DNS="1") as server:
            warnings = [line for line in server.log() if " WARNING " in line]
        self.assertEqual(len(warnings), 2, warnings)
        self.assertIn("'DNS_CACHE_TLL' is no setting; DNS_CACHE_TTL is one", warnings[0])
        self.assertIn("'dns_timeout' is no setting; DNS_TIMEOUT is one", warnings[1])

    def test_the_table_that_is_shipped_is_a_warning(self) -> None:
        with serving(
            SUBNETS_FILE=str(ROOT / "deploy" / "files" / "example-subnets.json")
        ) as server:
            (warning,) = [line for line in server.log() if " WARNING " in line]
            self.assertEqual(server.metric("example_table"), 1)
        self.assertIn("Example", warning)

    def test_without_a_file_the_table_is_the_one_in_the_module(self) -> None:
        own = 'import subnets; subnets.SUBNETS_DATA = [{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "z"}]'
        with serving(own, SUBNETS_FILE="") as server:
            self.assertEqual(server.lookup("10.0.0.1").body["zone"], "z")
            self.assertIn(", 1 subnets in SUBNETS_DATA, ", server.log()[0])

    def test_an_avoided_zone_that_is_not_in_the_table_is_a_warning(self) -> None:
        with serving(SUBNETS_FILE=self.table(), AVOID_ZONES="x,z") as server:
            (warning,) = [line for line in server.log() if " WARNING " in line]
        self.assertIn("AVOID_ZONES has 'z'", warning)

    def test_the_first_line_says_what_to_try(self) -> None:
        names = {"": "localhost", "127.0.0.1": "127.0.0.1", "0.0.0.0": "localhost"}
        for host, name in (names | ({"::1": "[::1]"} if has_ipv6() else {})).items():
            settings = {"SUBNETS_FILE": self.table(), "DNS_CACHE_TTL": "7", "HOST": host}
            with self.subTest(host), serving(**settings) as server:
                (first,) = server.log()
                url = f"http://{name}:{server.port}/lookup?fqdn=10.0.0.0"
                self.assertIn(f", 2 subnets in {settings['SUBNETS_FILE']}, ", first)
                self.assertIn(" DNS_CACHE_TTL='7'", first)
                self.assertNotIn("DNS_TIMEOUT", first)  # which is as it is by default
                self.assertTrue(first.endswith(f"; try {url}"), first)


class EarlySignalTest(unittest.TestCase):
    def test_a_signal_before_it_serves_ends_the_first_process_of_a_container(self) -> None:
        unshare = ["unshare", "--pid", "--fork", "--kill-child"]
        unshare += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        try:
            subprocess.run([*unshare, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.skipTest(f"the system does not let us make namespaces: {error}")
        # The program is process 1 in there; it signals itself from where the table is read.
        for number in (signal.SIGTERM, signal.SIGINT):
            with started([*unshare, *command(SIGNAL_ITSELF % number)], {}) as server:
                self.assertEqual(server.wait(), 128 + number)
                self.assertEqual(server.log(), [])

    def test_to_read_the_table_again_while_it_is_read_is_nothing_to_end_for(self) -> None:
        with serving(SIGNAL_ITSELF % signal.SIGHUP) as server:
            self.assertEqual(server.request("/healthz").status, 200)


class ListenTest(unittest.TestCase):
    """Where the system has one family of addresses only, or few descriptors."""

    def test_without_ipv6_it_listens_on_ipv4(self) -> None:
        create, families = socket.create_server, []

        def without_ipv6(*arguments: Any, **options: Any) -> socket.socket:
            families.append(options.get("family"))
            if options.get("family") == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            return create(*arguments, **options)

        with (
            mock.patch("socket.has_dualstack_ipv6", return_value=True),
            mock.patch("socket.create_server", without_ipv6),
            listen("", 0) as listener,
        ):
            self.assertEqual(listener.family, socket.AF_INET)
        self.assertEqual(families, [socket.AF_INET6, None])

    def test_another_failure_is_no_reason_to_do_without_ipv6(self) -> None:
        failure = OSError(errno.EACCES, "Permission denied")
        with (
            mock.patch("socket.has_dualstack_ipv6", return_value=True),
            mock.patch("socket.create_server", side_effect=failure),
            self.assertRaises(OSError),
        ):
            listen("", 0)

    # soft and hard limit of open files, the soft one then, and the connections that there is room for
    LIMITS: ClassVar[list[tuple[int, int, int, int]]] = [
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, MAX_CONNECTIONS),
        (1024, resource.RLIM_INFINITY, 5152, MAX_CONNECTIONS),
        (1024, 100_000, 5152, MAX_CONNECTIONS),
        (100_000, 100_000, 100_000, MAX_CONNECTIONS),
        (3056, 3056, 3056, 2000),
        (1024, 2056, 2056, 1028),
        (1024, 1024, 1024, 512),
    ]

    def test_connections_leave_room_for_other_descriptors(self) -> None:
        for soft, hard, raised, expected in self.LIMITS:
            limits = [soft, hard]

            def set_limits(_: int, new: tuple[int, int], limits: list[int] = limits) -> None:
                limits[:] = new

            with (
                self.subTest(soft=soft, hard=hard),
                mock.patch("resource.getrlimit", lambda _, limits=limits: tuple(limits)),
                mock.patch("resource.setrlimit", set_limits),
            ):
                self.assertEqual(
                    raise_connection_limit(MAX_CONNECTIONS, OTHER_DESCRIPTORS), expected
                )
                self.assertEqual(limits, [raised, hard])

    def test_a_limit_that_cannot_be_raised_is_kept(self) -> None:
        for error in (ValueError("not allowed to raise maximum limit"), OSError("no")):
            with (
                self.subTest(error),
                mock.patch("resource.getrlimit", return_value=(1024, 100_000)),
                mock.patch("resource.setrlimit", side_effect=error),
            ):
                self.assertEqual(raise_connection_limit(MAX_CONNECTIONS, OTHER_DESCRIPTORS), 512)

    def test_however_few_they_are_whoever_connects_has_his_turn_at_once(self) -> None:
        """Else there would be none for a connection, and asyncio tried only a second later."""
        prelude = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
        with serving(prelude) as server, ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(server.connect())
            self.assertEqual(server.request("/healthz").status, 200)
            self.assertFalse([line for line in server.log() if "WARNING" in line])


class SignalTest(unittest.TestCase):
    def test_it_is_not_ready_but_works_until_a_second_signal_ends_it(self) -> None:
        for first, second in (
            (signal.SIGTERM, signal.SIGINT),
            (signal.SIGINT, signal.SIGTERM),
            (signal.SIGTERM, signal.SIGTERM),
        ):
            with self.subTest(first=first, second=second), serving(SHUTDOWN_DELAY="600") as server:
                self.assert_drains(server, first)
                server.signal(second)
                self.assertEqual(server.wait(), 128 + second)

    def assert_drains(self, server: Server, number: signal.Signals) -> None:
        with closing(HTTPConnection(server.host, server.port, timeout=DEADLINE)) as kept:
            kept.request("GET", "/readyz")
            self.assertEqual(kept.getresponse().read(), b'{"status": "ok"}')
            server.signal(number)
            wait_until(lambda: server.request("/readyz").status == 503)
            self.assertEqual(server.request("/readyz").body["reason"], "ShuttingDown")
            self.assertEqual(server.request("/healthz").status, 200)
            response = server.lookup("192.168.1.7")
            self.assertEqual((response.status, response.headers["Connection"]), (200, "close"))
            kept.request("GET", "/lookup?fqdn=192.168.1.7")
            answer = kept.getresponse()
            self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))

    def test_after_the_delay_it_ends(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number), serving(SHUTDOWN_DELAY="0.05") as server:
                with server.connect():  # a silent connection does not delay it
                    server.signal(number)
                    self.assertEqual(server.wait(), 0)
                self.assertIn(f" INFO {number.name}: no longer ready", server.log()[-2])
                self.assertTrue(server.is_refused())

    def test_two_signals_at_once_end_it_as_two_one_after_another(self) -> None:
        with serving(SHUTDOWN_DELAY="600") as slow, serving() as quick:
            for server in (slow, quick):
                server.signal(signal.SIGSTOP)
                os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
                server.signal(signal.SIGTERM)
                server.signal(signal.SIGINT)
                server.signal(signal.SIGCONT)
                with self.subTest("at once" if server is quick else "with a delay"):
                    self.assertIn(server.wait(), (128 + signal.SIGTERM, 128 + signal.SIGINT))

    def test_a_request_in_flight_is_finished(self) -> None:
        with serving(ANSWER_WHEN_TOLD, DNS_TIMEOUT="10") as server, server.connect() as client:
            client.sendall(b"GET /lookup?fqdn=db.test HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: server.metric("dns_queries") == 1)
            server.signal(signal.SIGTERM)
            wait_until(server.is_refused)
            assert server.process.stdin
            server.process.stdin.write(b"\n")
            server.process.stdin.flush()
            (response,) = responses(read_all(client))
            self.assertEqual(server.wait(), 0)
        self.assertEqual((response.status, response.body["zone"]), (200, "eu-central-1b"))
        self.assertEqual(response.headers["Connection"], "close")

    def test_a_resolver_that_is_stuck_does_not_delay_the_end(self) -> None:
        with serving(STUCK, DNS_TIMEOUT="0.05") as server:
            response = server.lookup("one.test", "two.test")
            self.assertEqual((response.status, response.body["reason"]), (504, "ResolverTimeout"))
            self.assertEqual(server.metric("dns_queries"), 4)  # for both kinds of addresses
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)


if __name__ == "__main__":
    unittest.main()
