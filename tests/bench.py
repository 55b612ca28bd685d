"""Measure the lookup service under load and under faults, beside other servers.

    python3 tests/bench.py                          this server and tests/do_nothing.py
    python3 tests/bench.py --only dead --only many  some measures
    python3 tests/bench.py --soak 10                everything at once for ten minutes, nothing else
    python3 tests/bench.py --against 'peer=python3 /path/peer.py=http://127.0.0.1:{port}/'

It prints one Markdown table. Absolute figures do not travel between machines; ratios do: the
servers take turns within each round, and a ratio is the median of the rounds' own ratios.

Everything runs in private namespaces (network, mounts, processes): a real dnsmasq answers on
127.0.0.1, the C library's resolver is pointed at it, and nothing outlives the run. It needs
Linux and the Debian packages wrk, dnsmasq and iproute2.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import ipaddress
import itertools
import json
import re
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.certificates import Authority
from tests.laboratory import (
    NAMES,
    OK,
    PATIENCE,
    PORTS,
    ROOT,
    Answer,
    Bench,
    Dns,
    Load,
    Pressure,
    Running,
    Server,
    ask,
    beside,
    enter_namespaces,
    furnish_namespaces,
    hold,
    not_ok,
    number,
    pace,
    percentile,
    ratio,
    running,
    tally,
    wrk,
)

# What an API server sends when a ReplicaSet creates a Pod.
REVIEW = ROOT / "tests" / "review.json"

MANY = 50_000
SUBNETS = 100_000
SILENT = 1_000
RELOADS = 4
RELOAD_PAUSE = 2.0
DNS_TIMEOUT = 1.0  # seconds: the service's default deadline for a lookup
LIBRARY_GIVES_UP = 10.0  # seconds: the C library's default, two tries of five seconds
DOCUMENTED = {200, 400, 404, 405, 502, 503, 504}

NEW = [f"new{i}.many.test" for i in range(MANY)]
DEAD = [f"d{i}.dead.test" for i in range(MANY)]

LOADS = {
    "16 connections": Pressure(16),
    "64 connections": Pressure(64),
    "one connection a request": Pressure(16, close=True),
}

BAD_REQUESTS = (
    "/lookup",
    "/lookup?fqdn=",
    "/lookup?fqdn=a{}.db.test&fqdn=b.db.test",
    "/lookup?fqdn=256.1.1.{}",
    "/lookup?fqdn=a..b{}.test%00",
    "/lookup?fqdn=" + 300 * "a" + "{}",
    "/nowhere/{}",
    "POST /lookup?fqdn=a{}.db.test",
    "BREW /pot/{}",
)


async def warm(it: Running) -> None:
    for path in it.paths(NAMES):
        await ask(it, path)


# --- side by side --------------------------------------------------------------------------------


async def measure_start(bench: Bench) -> None:
    """Compare start-up time and idle memory."""
    startups, memories = [], []
    for _ in range(2 * bench.rounds + 1):
        row = []
        for server in bench.servers:
            async with running(server) as it:
                await asyncio.sleep(0.2)
                row.append((1000 * it.startup, it.rss()))
        startups.append([startup for startup, _ in row])
        memories.append([memory for _, memory in row])
    bench.compare("start-up", "≤ 500 ms", " ms", startups)
    bench.compare("memory, idle", "≤ 1.3 x do-nothing", " MiB", memories)


async def measure_load(bench: Bench) -> None:
    """Compare requests a second and latency on cached names, log on."""
    rounds: dict[str, list[list[Load]]] = {name: [] for name in LOADS}
    memories = []
    for _ in range(bench.rounds):
        results = [await load(bench, server) for server in bench.servers]
        memories.append([memory for _, memory in results])
        for name in LOADS:
            rounds[name].append([loads[name] for loads, _ in results])
    for name in LOADS:
        report_load(bench, name, rounds[name])
    bench.compare("memory, after these", "", " MiB", memories)


async def load(bench: Bench, server: Server) -> tuple[dict[str, Load], float]:
    async with running(server) as it:
        await warm(it)
        run = functools.partial(wrk, it, it.paths(NAMES))
        loads = {x: await run(replace(how, seconds=bench.seconds)) for x, how in LOADS.items()}
        return loads, it.rss()


def report_load(bench: Bench, name: str, rounds: list[list[Load]]) -> None:
    target = "≥ 2 x peers" if LOADS[name].close else "≥ 8 x peers, ≥ 2 x do-nothing"
    rates = [[load.rate for load in row] for row in rounds]
    bench.compare(f"{name}: requests/s", target, "", rates)
    bench.compare(f"{name}: p50", "", " ms", [[load.p50 for load in row] for row in rounds])
    bench.compare(f"{name}: p99", "", " ms", [[load.p99 for load in row] for row in rounds])
    cpu = [[load.cpu for load in row] for row in rounds]
    bench.compare(f"{name}: processor time a request", "", " µs", cpu)
    columns = list(zip(*rounds, strict=True))
    tails = [median(load.p99 / (load.p50 or 1) for load in column) for column in columns]
    bench.add(f"{name}: p99 / p50", "≤ 5" if "64" in name else "", *map(number, tails))
    failed = [sum(load.failed for load in column) for column in columns]
    bench.add(f"{name}: failed", "0", *map(str, failed))


async def measure_reviews(bench: Bench) -> None:
    """Compare reviews of Pods, over TLS, with lookups; both of cached names."""
    pair = Authority(bench.scratch).issue("webhook")
    body = bench.scratch / "review.json"
    body.write_text(REVIEW.read_text().replace("db.example.internal", NAMES[0]))
    reviews, lookups = [], []
    for _ in range(bench.rounds):
        port = next(PORTS)
        async with running(bench.own, TLS_PORT=str(port), **pair.settings()) as it:
            await warm(it)
            how = Pressure(seconds=bench.seconds)
            lookups.append(await wrk(it, it.paths(NAMES), how))
            how = replace(how, tls_port=port, body=body)
            reviews.append(await wrk(it, ["POST /mutate?timeout=3s"], how))
    title = f"reviews of {body.stat().st_size / 1000:.1f} kB over TLS, 16 connections"
    rows = {"requests/s": "rate", "p50, ms": "p50", "p99, ms": "p99", "processor, µs": "cpu"}
    for name, field in rows.items():
        ours, theirs = ([getattr(load, field) for load in loads] for loads in (reviews, lookups))
        figure = f"{number(median(ours))}, lookups {number(median(theirs))} ({ratio(ours, theirs)})"
        bench.add(f"{title}: {name}", "", figure)
    bench.add(f"{title}: failed", "0", str(sum(load.failed for load in reviews)))


# --- DNS that does not answer --------------------------------------------------------------------


@dataclass(frozen=True)
class Mix:
    """Answers to names in the cache, to names asked for once, to probes, to dead names."""

    cached: Load
    new: list[Answer]
    probes: list[Answer]
    dead: list[Answer]

    def p99(self) -> dict[str, float]:
        new, probes = percentile(self.new, 0.99), percentile(self.probes, 0.99)
        return {"cached names": self.cached.p99, "new names": new, "probes": probes}

    def failed(self) -> dict[str, int]:
        new, probes = not_ok(self.new), not_ok(self.probes)
        return {"cached names": self.cached.failed, "new names": new, "probes": probes}


async def measure_dead(bench: Bench) -> None:
    """Ask for names whose DNS never answers in one lookup of five."""
    without, with_ = [], []
    for _ in range(bench.rounds):
        without.append(await mix(bench, dead=0))
        with_.append(await mix(bench, dead=100))
    title = "a fifth of the names is dead"
    dead = [answer for run in with_ for answer in run.dead]
    share = len(dead) / sum(run.cached.requests + len(run.new) + len(run.dead) for run in with_)
    figure = f"{tally(a.status for a in dead)} (≤ {percentile(dead, 1):,.0f} ms)"
    bench.add(f"{title}: answers to these {share:.0%} of the lookups", "503, 504", figure)
    for kind in with_[0].p99():
        p99 = [[run.p99()[kind] for run in runs] for runs in (with_, without)]
        bench.add(f"{title}: {kind}, p99", "≤ 2 x", beside(p99[0], p99[1], " ms"))
        failed = sum(run.failed()[kind] for run in with_)
        bench.add(f"{title}: {kind}, failed", "0", str(failed))


async def mix(bench: Bench, dead: float) -> Mix:
    seconds = LIBRARY_GIVES_UP + 2
    async with running(bench.own) as it:
        await warm(it)
        answers = await asyncio.gather(
            wrk(it, it.paths(NAMES), Pressure(seconds=seconds, rate=400)),
            pace(it, it.paths(NEW), 50, seconds),
            pace(it, ["/healthz"], 50, seconds),
            pace(it, it.paths(DEAD), dead, seconds),
        )
    return Mix(*answers)


async def measure_outage(bench: Bench) -> None:
    """Stop all of DNS for a while, in which queries wait or are lost."""
    await outage(bench, "DNS hangs", bench.dns.hang, bench.dns.unhang)
    await outage(bench, "DNS loses queries", bench.dns.lose, bench.dns.find)


async def outage(
    bench: Bench, title: str, stop: Callable[[], None], resume: Callable[[], None]
) -> None:
    down, after = LIBRARY_GIVES_UP + 2, LIBRARY_GIVES_UP + 2

    async def switch() -> float:
        stop()
        await asyncio.sleep(down)
        resume()
        return time.perf_counter()

    async with running(bench.own) as it:
        await warm(it)
        seen, new, back = await asyncio.gather(
            pace(it, it.paths(NAMES), 4 * len(NAMES), down + after),
            pace(it, it.paths(NEW), 10, down + after),
            switch(),
        )
    report_seen(bench, title, [answer for answer in seen if answer.began < back])
    unseen = [answer for answer in new if answer.began + answer.seconds < back]
    figure = f"{tally(a.status for a in unseen)} (≤ {percentile(unseen, 1):,.0f} ms)"
    bench.add(f"{title}: new names", "503, 504, ≤ 1 s", figure)
    since = [answer for answer in seen + new if answer.began > back]
    late = [answer.began - back for answer in since if answer.status != OK or answer.stale]
    figure = f"{max(late, default=0):.1f} s after"
    bench.add(f"{title}, returns: the last stale or failed answer", "≤ 2 s after", figure)


def report_seen(bench: Bench, title: str, answers: list[Answer]) -> None:
    waited, followed = split_by_deadline(answers)
    stale = sum(answer.stale for answer in answers) / len(answers)
    figure = f"{tally(answer.status for answer in answers)}, {stale:.0%} stale"
    bench.add(f"{title}: names seen before", "200", figure)
    slowest, p99 = percentile(waited, 1), percentile(followed, 0.99)
    bench.add(f"{title}: …, first lookups after the TTL", "≤ 1 s", f"≤ {slowest:,.0f} ms")
    bench.add(f"{title}: …, those that follow, p99", "≤ 50 ms", f"{number(p99)} ms")


def split_by_deadline(answers: list[Answer]) -> tuple[list[Answer], list[Answer]]:
    """Lookups that began while their name's query was within its deadline, and all others.

    A slow lookup began the query, unless one is stuck: until the C library gives up.
    """
    waited: list[Answer] = []
    others: list[Answer] = []
    queries: dict[str, float] = {}
    for answer in sorted(answers, key=lambda answer: answer.began):
        age = answer.began - queries.get(answer.path, -PATIENCE)
        if age > LIBRARY_GIVES_UP - 0.5 and answer.seconds > DNS_TIMEOUT / 2:
            queries[answer.path], age = answer.began, 0
        (waited if age <= DNS_TIMEOUT else others).append(answer)
    return waited, others


# --- clients and tables that are too big ---------------------------------------------------------


async def measure_silent(bench: Bench) -> None:
    """Hold a thousand connections that send nothing, or a byte now and then."""
    runs = [await silent(bench, last=i == bench.rounds - 1) for i in range(bench.rounds)]
    withouts, withs, news, memories, helds = zip(*runs, strict=True)
    title = f"{SILENT:,} silent connections"
    failed = sum(load.failed for load in withs) + sum(map(not_ok, news))
    bench.add(f"{title}: lookups failed", "0", str(failed))
    p99 = beside([load.p99 for load in withs], [load.p99 for load in withouts], " ms")
    bench.add(f"{title}: p99", "≤ 2 x", p99)
    bench.add(f"{title}: memory", "< 60 MiB", f"{number(max(memories))} MiB")
    held = sorted(helds[-1])
    figure = f"{held[0]:.0f} to {held[-1]:.0f} s" if held[-1] < PATIENCE else "not all"
    bench.add(f"{title}: closed by the server after", "all", figure)


Silence = tuple[Load, Load, list[Answer], float, list[float]]


async def silent(bench: Bench, last: bool) -> Silence:
    async with running(bench.own) as it:
        await warm(it)
        how = Pressure(seconds=bench.seconds)
        run = functools.partial(wrk, it, it.paths(NAMES), how)
        without = await run()
        silences = [asyncio.create_task(hold(it, drips=i % 2 == 0)) for i in range(SILENT)]
        await asyncio.sleep(1)
        with_, new = await asyncio.gather(run(), pace(it, it.paths(NEW), 20, bench.seconds))
        memory = it.rss()
        held = await asyncio.gather(*silences) if last else []
        for silence in silences:
            silence.cancel()
    return without, with_, new, memory, held


def bad_requests(n: int) -> Iterator[str]:
    kinds = itertools.cycle(BAD_REQUESTS)
    return (kind.format(i) for i, kind in zip(range(n), kinds, strict=False))


async def measure_many(bench: Bench) -> None:
    """Send many distinct names, then many bad requests, and see what they leave behind."""

    async def flood(prefix: str, n: int) -> tuple[Load, Load]:
        once = Pressure(seconds=PATIENCE, limit=n)
        names = it.paths(f"{prefix}{i}.many.test" for i in range(n))
        return await wrk(it, names, once), await wrk(it, bad_requests(n), once)

    async def size() -> tuple[float, int]:
        return it.rss(), len((await ask(it, "/metrics")).body.splitlines())

    async with running(bench.own) as it:
        await flood("warm", 2_000)  # fills the cache and every series of the metrics,
        await size()  # that of /metrics among them
        memory, lines = await size()
        names, bad = await flood("many", MANY)
        await asyncio.sleep(LIBRARY_GIVES_UP)
        memory_after, lines_after = await size()
    title = f"{MANY:,} distinct names, as many bad requests"
    bench.add(f"{title}: the names' answers", "200", tally(names.statuses))
    bench.add(f"{title}: the bad ones'", "400, 404, 405", tally(bad.statuses))
    bench.add(f"{title}: without an answer", "0", str(names.unanswered + bad.unanswered))
    bench.add(f"{title}: memory", "+ ≤ 10 MiB", f"{memory:.1f} → {memory_after:.1f} MiB")
    bench.add(f"{title}: lines of /metrics", "no more", f"{lines} → {lines_after}")


async def measure_subnets(bench: Bench) -> None:
    """Compare a hundred thousand subnets with six."""
    file = bench.scratch / "subnets.json"
    file.write_text(json.dumps(many_subnets()))
    few: list[list[float]] = []
    many: list[list[float]] = []
    for _ in range(bench.rounds):
        few.append(await with_subnets(bench))
        many.append(await with_subnets(bench, SUBNETS_FILE=str(file)))
    title = f"{SUBNETS:,} subnets instead of 6"
    rows = (
        ("names, requests/s", "as fast", ""),
        ("addresses, requests/s", "as fast", ""),
        ("start-up", "≤ 2 s", " s"),
        ("memory", "", " MiB"),
    )
    columns = zip(rows, zip(*many, strict=True), zip(*few, strict=True), strict=True)
    for (name, target, unit), with_, without in columns:
        bench.add(f"{title}: {name}", target, beside(with_, without, unit))


async def with_subnets(bench: Bench, **settings: str) -> list[float]:
    addresses = [f"192.168.{i % 192}.{i % 256}" for i in range(768)]
    async with running(bench.own, **settings) as it:
        await warm(it)
        how = Pressure(seconds=bench.seconds)
        names = await wrk(it, it.paths(NAMES), how)
        inside = await wrk(it, it.paths(addresses), how)
        return [names.rate, inside.rate, it.startup, it.rss()]


def many_subnets() -> list[dict[str, str]]:
    """List the example's range, and subnets of five sizes, nested in each other."""
    networks = [ipaddress.IPv4Network("192.168.0.0/16")]
    for length in range(24, 29):
        subnets = ipaddress.IPv4Network("10.0.0.0/8").subnets(new_prefix=length)
        networks += itertools.islice(subnets, SUBNETS // 5)
    zones = [{"AvailabilityZone": f"z-{z}", "AvailabilityZoneId": f"id-{z}"} for z in "abc"]
    pairs = zip(networks[:SUBNETS], itertools.cycle(zones), strict=False)
    return [{"CIDRBlock": str(network), **zone} for network, zone in pairs]


async def measure_reload(bench: Bench) -> None:
    """Read a hundred thousand subnets again and again, while lookups come at a steady rate."""
    file = bench.scratch / "subnets.json"
    file.write_text(json.dumps(many_subnets()))
    runs = [await reload_under_load(bench, str(file)) for _ in range(bench.rounds)]
    withouts, withs, counts, memories = zip(*runs, strict=True)
    title = f"{SUBNETS:,} subnets, read {min(counts):.0f} times in {RELOADS * RELOAD_PAUSE:.0f} s"
    failed = sum(load.failed for load in withs)
    bench.add(f"{title}: lookups failed", "0", str(failed))
    for name in ("p50", "p99"):
        with_, without = ([getattr(load, name) for load in run] for run in (withs, withouts))
        bench.add(f"{title}: {name}", "≤ 2 x", beside(with_, without, " ms"))
    bench.add(f"{title}: memory", "", f"{number(max(memories))} MiB")


async def reload_under_load(bench: Bench, file: str) -> tuple[Load, Load, float, float]:
    async def reload() -> None:
        for _ in range(RELOADS):
            it.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(RELOAD_PAUSE)

    async with running(bench.own, SUBNETS_FILE=file) as it:
        await warm(it)
        how = Pressure(seconds=RELOADS * RELOAD_PAUSE, rate=1000)
        without = await wrk(it, it.paths(NAMES), how)
        with_, _ = await asyncio.gather(wrk(it, it.paths(NAMES), how), reload())
        metrics = (await ask(it, "/metrics")).body.decode()
        (count,) = re.findall(r'subnets_reloads_total{outcome="success"} (\d+)', metrics)
        return without, with_, int(count), it.rss()


# --- everything at once --------------------------------------------------------------------------


async def soak(bench: Bench, minutes: float) -> None:
    """Load, dead names, outages, bad requests and silent connections: answers and growth."""
    seconds, samples = 60 * minutes, list[tuple[float, int]]()
    async with running(bench.own) as it:
        await warm(it)
        disturbances = (outages(bench.dns), crowd(it), watch(it, samples, seconds / 100))
        background = [asyncio.create_task(disturbance) for disturbance in disturbances]
        try:
            loads, answers = await asyncio.gather(soak_load(it, seconds), soak_ask(it, seconds))
        finally:
            bench.dns.unhang()
            for task in background:
                task.cancel()
    report_soak(bench, f"soak of {minutes:g} minutes", loads, answers)
    second, last = samples[len(samples) // 4 : len(samples) // 2], samples[-len(samples) // 4 :]
    for i, name in enumerate(("memory, MiB", "threads")):
        figure = f"≤ {max(s[i] for s in second):.0f} → ≤ {max(s[i] for s in last):.0f}"
        bench.add(f"soak: {name}, second and last quarter", "no growth", figure)


def report_soak(bench: Bench, title: str, loads: list[Load], answers: list[Answer]) -> None:
    statuses = sum((load.statuses for load in loads), Counter(a.status for a in answers))
    unanswered = statuses.pop(0, 0) + sum(load.unanswered for load in loads)
    outside = Counter({status: n for status, n in statuses.items() if status not in DOCUMENTED})
    bench.add(f"{title}: answers", "", tally(statuses))
    bench.add(f"{title}: statuses that are not documented", "none", tally(outside))
    bench.add(f"{title}: unanswered", "0", str(unanswered))


async def soak_load(it: Running, seconds: float) -> list[Load]:
    full = Pressure(seconds=seconds, count=True)
    some = replace(full, rate=100)
    loads = await asyncio.gather(
        wrk(it, it.paths(NAMES), full),
        wrk(it, it.paths(NAMES), replace(some, close=True)),
        wrk(it, it.paths(NEW), some),
        wrk(it, bad_requests(MANY), some),
    )
    return list(loads)


async def soak_ask(it: Running, seconds: float) -> list[Answer]:
    dead = pace(it, it.paths(DEAD), 20, seconds)
    probes = pace(it, ["/healthz", "/readyz", "/metrics"], 5, seconds)
    return list(itertools.chain(*await asyncio.gather(dead, probes)))


async def outages(dns: Dns) -> None:
    while True:
        await asyncio.sleep(2 * LIBRARY_GIVES_UP)
        dns.hang()
        await asyncio.sleep(LIBRARY_GIVES_UP + 2)
        dns.unhang()


async def crowd(it: Running) -> None:
    while True:
        await asyncio.gather(*(hold(it, drips=i % 2 == 0) for i in range(200)))


async def watch(it: Running, samples: list[tuple[float, int]], pause: float) -> None:
    while True:
        samples.append((it.rss(), it.status("Threads")))
        await asyncio.sleep(pause)


# --- the command ---------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "start": measure_start,
    "load": measure_load,
    "reviews": measure_reviews,
    "dead": measure_dead,
    "outage": measure_outage,
    "silent": measure_silent,
    "many": measure_many,
    "subnets": measure_subnets,
    "reload": measure_reload,
}

AGAINST = """another server: its command, which gets the environment variable PORT and runs in the
root of this repository, and the URL, with {port}, to which a name is appended; repeatable"""


def arguments() -> argparse.Namespace:
    lines = [f"  {name:10}{measure.__doc__}" for name, measure in MEASURES.items()]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["measures:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--against", metavar="NAME=COMMAND=URL", type=Server.parse, action="append", help=AGAINST)
    add("--only", metavar="MEASURE", choices=MEASURES, action="append", help="repeatable")
    add("--rounds", type=int, default=3, help="default: %(default)s")
    add("--seconds", type=float, default=5, help="of each load; default: %(default)s")
    add("--soak", metavar="MINUTES", type=float, help="everything at once, and no other measure")
    add("--server", metavar="COMMAND", help="instead of this repository's server.py")
    return parser.parse_args()


def own_servers(command: str | None) -> list[Server]:
    own = shlex.split(command) if command else [sys.executable, str(ROOT / "server.py")]
    idle = [sys.executable, str(ROOT / "tests" / "do_nothing.py")]
    return [
        Server("server.py", tuple(own), "http://127.0.0.1:{port}/lookup?fqdn="),
        Server("do-nothing", tuple(idle), "http://127.0.0.1:{port}/"),
    ]


async def measure(bench: Bench, options: argparse.Namespace) -> None:
    if options.soak:
        await soak(bench, options.soak)
    for name in options.only or ([] if options.soak else MEASURES):
        await MEASURES[name](bench)


def main() -> None:
    options = arguments()
    enter_namespaces()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        furnish_namespaces(scratch)
        servers = own_servers(options.server) + (options.against or [])
        bench = Bench(servers, options.rounds, options.seconds, Dns(), scratch)
        try:
            asyncio.run(measure(bench, options))
        except KeyboardInterrupt:
            sys.exit("bench: interrupted")
        finally:
            print(bench.markdown())


if __name__ == "__main__":
    main()
