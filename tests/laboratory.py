"""What tests/bench.py works with: namespaces, a DNS server, servers, two clients, a table."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
INSIDE = "BENCH_INSIDE_NAMESPACES"
TOOLS = {"wrk": "wrk", "dnsmasq": "dnsmasq", "ip": "iproute2", "unshare": "util-linux"}

NAMES = [f"n{i}.db.test" for i in range(64)]
ADDRESS = "192.168.1.7"  # needs no DNS
PATIENCE = 120.0  # seconds: what takes longer is reported as not done

OK = HTTPStatus.OK

# What Kyverno's client, which is Go's, sends: the token makes up most of a real request.
HEADERS = (
    "User-Agent: Go-http-client/1.1",
    "Accept-Encoding: gzip",
    f"Authorization: Bearer {900 * 'x'}",
)

# Arguments: a file of "METHOD path" lines, milliseconds to pause before each request (0: none),
# "count" to count statuses, the number of answers after which to stop (0: none), and a file with
# the JSON that is sent with each request, if any.
LUA = """
local ffi = require("ffi")
ffi.cdef("int getpid(); int kill(int, int);")  -- SIGINT ends wrk early; thread:stop() does not
statuses = {}
function setup(thread) worker = thread end
function init(args)
  local requests, n = {}, 0
  if args[5] then
    wrk.headers["Content-Type"] = "application/json"
    wrk.body = io.open(args[5]):read("*a")
  end
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format(line:match("(%S+) (%S+)"))
  end
  request = function() n = n % #requests + 1; return requests[n] end
  local pause, limit, answers = tonumber(args[2]), tonumber(args[4]), 0
  if pause > 0 then delay = function() return pause end end
  if args[3] == "count" then
    response = function(status)
      statuses[tostring(status)] = (statuses[tostring(status)] or 0) + 1
      answers = answers + 1
      if answers == limit then ffi.C.kill(ffi.C.getpid(), 2) end
    end
  end
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("\\nBENCH %d %d %d %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.write + e.timeout, e.read,
    e.status, e.timeout))
  for status, n in pairs(worker:get("statuses")) do io.write(" ", status, "=", n) end
  io.write("\\n")
end
"""


# --- the namespaces and the DNS server -----------------------------------------------------------


def enter_namespaces() -> None:
    """Run this program again inside namespaces of its own; return when already there."""
    if os.environ.pop(INSIDE, None):
        return
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        sys.exit(f"bench: not installed: apt-get install {' '.join(missing)}")
    flags = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        flags += ["--user", "--map-root-user"]
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", *flags, "--", sys.executable, *sys.argv])


def furnish_namespaces(scratch: Path) -> None:
    """Loopback up, many ports and descriptors, the C library's resolver pointed at 127.0.0.1."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("10000 65535")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = {"resolv.conf": "nameserver 127.0.0.1\n", "nsswitch.conf": "hosts: files dns\n"}
    for name, text in files.items():
        (scratch / name).write_text(text)
        if Path("/etc", name).exists():
            subprocess.run(["mount", "--bind", scratch / name, f"/etc/{name}"], check=True)


class Dns:
    """dnsmasq: NAMES, a wildcard under many.test, and dead.test, whose server never answers."""

    OPTIONS = """--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root
        --pid-file= --listen-address=127.0.0.1 --bind-interfaces --dns-forward-max=20000
        --local=/db.test/ --address=/many.test/192.168.7.7 --server=/dead.test/127.0.0.1#5300"""

    def __init__(self) -> None:
        self._dead = mute_socket(5300)
        self._lost: socket.socket | None = None
        self.start()

    def start(self) -> None:
        hosts = [f"--host-record={name},192.168.{3 * i}.7" for i, name in enumerate(NAMES)]
        self.process = subprocess.Popen(["dnsmasq", *self.OPTIONS.split(), *hosts])

    def hang(self) -> None:
        """Stop answering; what is asked meanwhile waits in the socket."""
        self.process.send_signal(signal.SIGSTOP)

    def unhang(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def lose(self) -> None:
        """Stop answering; what is asked meanwhile is lost."""
        self.process.kill()
        self.process.wait()
        self._lost = mute_socket(53)

    def find(self) -> None:
        if self._lost:
            self._lost.close()
        self.start()


def mute_socket(port: int) -> socket.socket:
    mute = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mute.bind(("127.0.0.1", port))
    return mute


# --- the servers under measure -------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A command that listens on $PORT, and the URL to which a name is appended."""

    name: str
    command: tuple[str, ...]
    url: str

    @classmethod
    def parse(cls, text: str) -> Server:
        name, _, rest = text.partition("=")
        command, separator, url = rest.rpartition("=http://")
        if not (name and command and "{port}" in url):
            raise argparse.ArgumentTypeError(f"not NAME=COMMAND=http://…{{port}}/…: {text!r}")
        return cls(name, tuple(shlex.split(command)), separator[1:] + url)


@dataclass
class Running:
    """A started server."""

    process: subprocess.Popen[bytes]
    port: int
    prefix: str
    startup: float = 0.0  # seconds from exec to the first 200

    def paths(self, names: Iterable[str]) -> list[str]:
        return [self.prefix + name for name in names]

    def processes(self) -> Iterator[tuple[Path, list[str]]]:
        """The folders in /proc of the server's processes, with their fields of /proc/PID/stat."""
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:  # the session
                    yield directory, fields

    def status(self, key: str) -> int:
        """Sum up a number of /proc/PID/status over the server's processes."""
        total = 0
        for directory, _ in self.processes():
            with contextlib.suppress(OSError):
                lines = (directory / "status").read_text().splitlines()
                total += sum(int(s.split()[1]) for s in lines if s.startswith(key + ":"))
        return total

    def cpu(self) -> float:
        """Processor time so far, in seconds."""
        ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in self.processes())
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """Resident memory in MiB."""
        return self.status("VmRSS") / 1024


PORTS = itertools.count(8001)


@contextlib.asynccontextmanager
async def running(server: Server, **settings: str) -> AsyncIterator[Running]:
    """Start a server, wait until it answers 200, and end it; its log goes to a file."""
    port = next(PORTS)
    prefix = urlsplit(server.url.format(port=port))._replace(scheme="", netloc="").geturl()
    env = {**os.environ, "PORT": str(port), "LOG_LEVEL": "INFO", **settings}
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            server.command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
        it = Running(process, port, prefix)
        try:
            while (await ask(it, prefix + ADDRESS)).status != OK:
                if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    log.seek(0)
                    sys.exit(f"bench: no answer of {server.name}: {log.read()[-2000:].decode()}")
                await asyncio.sleep(0.002)
            it.startup = time.perf_counter() - began
            yield it
        finally:
            if process.poll() is not None:
                print(
                    f"bench: {server.name} ended by itself: {process.returncode}", file=sys.stderr
                )
            end(process)
            log.seek(0)
            show_traceback(server, log.read())


def show_traceback(server: Server, log: bytes) -> None:
    found = log.find(b"Traceback")
    if found >= 0:
        text = log[found : found + 2000].decode(errors="replace")
        print(f"bench: in the log of {server.name}: {text}", file=sys.stderr)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- a client for load: wrk ----------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What wrk saw: p50 and p99 in milliseconds; failed is unanswered and every status ≥ 400.

    `cpu` is the server's processor time a request, in microseconds.
    """

    requests: int
    rate: float
    p50: float
    p99: float
    cpu: float
    unanswered: int
    failed: int
    statuses: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Pressure:
    connections: int = 16
    seconds: float = 5
    rate: float = 0  # at most so many requests a second; 0: as fast as the server can
    limit: int = 0  # stop after so many answers; 0: only when the time is up
    count: bool = False  # count statuses, which takes wrk's time
    close: bool = False  # one connection a request
    body: Path | None = None  # the file with what is sent with each request
    tls_port: int = 0  # instead of the server's port

    def url(self, it: Running) -> str:
        scheme, port = ("https", self.tls_port) if self.tls_port else ("http", it.port)
        return f"{scheme}://127.0.0.1:{port}/"

    def options(self) -> list[str]:
        headers = [*HEADERS, "Connection: close"] if self.close else HEADERS
        options = ["-t1", f"-c{self.connections}", f"-d{self.seconds:.0f}", "-T15"]
        return options + [part for header in headers for part in ("-H", header)]

    def arguments(self) -> list[str]:
        pause = round(1000 * self.connections / self.rate) if self.rate else 0
        body = [str(self.body)] if self.body else []
        return [str(pause), "count" if self.count or self.limit else "-", str(self.limit), *body]


async def wrk(it: Running, paths: Iterable[str], how: Pressure) -> Load:
    """Load a server with paths ("METHOD path", or a path to GET) in turn."""
    lines = (path if " " in path else f"GET {path}" for path in paths)
    with tempfile.TemporaryDirectory() as directory:
        script, requests = Path(directory, "bench.lua"), Path(directory, "requests")
        script.write_text(LUA)
        requests.write_text("\n".join(lines))
        command = ["wrk", *how.options(), "-s", str(script), how.url(it), "--"]
        before = it.cpu()
        out = await output(*command, str(requests), *how.arguments())
        return parse_wrk(out, it.cpu() - before, await sized(it))


async def output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        return (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()


async def sized(it: Running) -> bool:
    """Whether answers have a length: wrk counts one that has none as a read error, too."""
    return b"content-length:" in (await ask(it, it.prefix + ADDRESS)).head.lower()


def parse_wrk(out: str, cpu: float, sized: bool) -> Load:
    fields = next(line for line in out.splitlines() if line.startswith("BENCH ")).split()[1:]
    requests, duration, p50, p99, lost, read, bad, late = map(int, fields[:8])
    lost += read if sized else max(0, read - requests)
    pairs = (pair.split("=") for pair in fields[8:])
    statuses = Counter({int(status): int(n) for status, n in pairs})
    rate = requests / duration * 1e6
    each = cpu / max(requests, 1) * 1e6
    return Load(requests, rate, p50 / 1e3, p99 / 1e3, each, lost, lost + bad + late, statuses)


# --- a client for single answers -----------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One answer: times in seconds of the monotonic clock; status 0 when there was none."""

    path: str
    began: float
    seconds: float
    status: int
    head: bytes
    body: bytes

    @property
    def stale(self) -> bool:
        return b'"stale":true' in self.body.replace(b" ", b"")


async def ask(it: Running, path: str) -> Answer:
    """One request on a connection of its own."""
    began, raw = time.perf_counter(), b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(15):
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            with contextlib.closing(writer):
                request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                raw = await reader.read(-1)
    seconds = time.perf_counter() - began
    head, _, body = raw.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head.startswith(b"HTTP/1.") else 0
    return Answer(path, began, seconds, status, head, body)


async def pace(it: Running, paths: Iterable[str], rate: float, seconds: float) -> list[Answer]:
    """Ask `rate` times a second, whether or not the answers come; then wait for them."""
    tasks, began = [], time.perf_counter()
    for i, path in zip(range(int(rate * seconds)), itertools.cycle(paths), strict=False):
        await asyncio.sleep(began + i / rate - time.perf_counter())
        tasks.append(asyncio.create_task(ask(it, path)))
    return list(await asyncio.gather(*tasks))


async def hold(it: Running, drips: bool) -> float:
    """Connect, send nothing, or a byte every two seconds; return how long the server bore it."""
    began = time.perf_counter()
    request = itertools.chain(b"GET /lookup?fqdn=a.test HTTP/1.1\r\nX: ", itertools.repeat(120))
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            with contextlib.closing(writer):
                while not await closed(reader, 2):
                    if drips:
                        writer.write(bytes([next(request)]))
    return time.perf_counter() - began


async def closed(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the peer closes within that time."""
    try:
        await asyncio.wait_for(reader.read(-1), seconds)
    except TimeoutError:
        return False
    return True


# --- the table -----------------------------------------------------------------------------------

Table = Sequence[Sequence[float]]  # of each round, a figure of each server


@dataclass
class Bench:
    """What the measures share, and the rows they add: measure, target, a figure per server."""

    servers: list[Server]  # this server, the do-nothing server, others
    rounds: int
    seconds: float
    dns: Dns
    scratch: Path
    rows: list[tuple[str, str, list[str]]] = field(default_factory=list)

    @property
    def own(self) -> Server:
        return self.servers[0]

    def add(self, measure: str, target: str, *figures: str) -> None:
        print(f"{measure}: {' | '.join(figures)}", file=sys.stderr)
        self.rows.append((measure, target, list(figures)))

    def compare(self, measure: str, target: str, unit: str, rounds: Table) -> None:
        """Add a row of medians, and behind each how many times it this server's figure is."""
        own, *others = zip(*rounds, strict=True)
        figures = [f"{number(median(other))}{unit} ({ratio(own, other)})" for other in others]
        self.add(measure, target, f"{number(median(own))}{unit}", *figures)

    def markdown(self) -> str:
        head = ["measure", "to reach", *(server.name for server in self.servers)]
        lines = [head, ["---"] * len(head)]
        for measure, target, figures in self.rows:
            blank = [""] * (len(self.servers) - len(figures))
            lines.append([measure, target, *figures, *blank])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Show three digits: the machine is noisier than that."""
    return f"{float(f'{value:.3g}'):,g}"


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> str:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True) if b]
    return f"{number(median(ratios))} x" if ratios else "? x"


def beside(with_: Sequence[float], without: Sequence[float], unit: str) -> str:
    medians = number(median(with_)), number(median(without))
    return f"{medians[0]}{unit}, without {medians[1]}{unit} ({ratio(with_, without)})"


def percentile(answers: Iterable[Answer], q: float) -> float:
    """In milliseconds."""
    ordered = sorted(answer.seconds for answer in answers)
    return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def tally(statuses: Iterable[int] | Counter[int]) -> str:
    counts = sorted(Counter(statuses).items())
    return ", ".join(f"{status or 'unanswered'}: {n:,} times" for status, n in counts) or "none"


def not_ok(answers: Iterable[Answer]) -> int:
    return sum(answer.status != OK for answer in answers)
