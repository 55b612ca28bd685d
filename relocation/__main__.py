"""Lets running Pods follow their database, and reports who is in another zone than it.

    python3 -m relocation --report
    python3 -m relocation

A round's way: `look` gathers what there is, from the API server (`kubernetes.py`) and
from the lookup service; `decision.py` decides; `Relocator` evicts. The Pods are then
created anew by their owners and placed as new Pods are.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import socket
import socketserver
import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from threading import Event, Thread, active_count
from time import gmtime, strftime, time
from typing import Any, get_args
from urllib.parse import SplitResult, quote

from common import log
from common.errors import complain, shown
from common.kubernetes import Client, KubernetesError, Refused, exchange, optional_url, parse_url
from common.listening import open_port
from common.metrics import CONTENT_TYPE, Counter, Family, Gauge, LabelledGauge, process, render
from common.names import VERSION, ZONE_ID_LABEL, ZONE_LABEL
from common.settings import (
    LOG_LEVELS,
    InvalidSetting,
    Settings,
    one_of,
    seconds,
    setting,
    text,
    whole_number,
)
from relocation.decision import (
    ZONE,
    Answer,
    Claim,
    Decision,
    Landed,
    Memory,
    Node,
    Pod,
    Rules,
    Verdict,
    Volume,
    Workload,
    World,
    decide,
    is_whole,
    landings,
)

AGENT = "automatic-zone-placement/relocation"

# What an annotation must be for the policies to ask for it; no other is asked for here either.
NAMES = re.compile(r"[A-Za-z0-9._,-]+")

# Seconds for a lookup. The service gives DNS one; a lookup that takes so long is worth none.
LOOKUP_TIMEOUT = 5.0

# Lookups side by side. While DNS is silent each takes a second.
LOOKUPS = 8

# Seconds that a call in flight has to end in after SIGTERM.
PATIENCE = 1.0

# Seconds to wait after a round that failed; doubled with each further one, up to the interval.
FIRST_PAUSE = 1.0

# Connections to the metrics port at once, and seconds that each has for its request.
MAX_CONNECTIONS = 32
REQUEST_TIMEOUT = 5.0

# Pods that have ended are nowhere.
RUNNING = "status.phase!=Succeeded,status.phase!=Failed"

OUTCOMES = ("evicted", "budget", "gone", "refused")


@dataclass(frozen=True)
class RelocationSettings(Settings):
    """The settings of relocation."""

    host: str = setting("", text, "the address to serve metrics on; by default all, IPv4 and IPv6")
    port: int = setting("8080", whole_number(65535), "the port; 0 takes a free one and logs it")
    log_level: str = setting(
        "INFO",
        one_of(*LOG_LEVELS),
        f"{', '.join(LOG_LEVELS)}; DEBUG says in each round who is elsewhere, and why they stay",
    )
    node_label: str = setting(
        ZONE_LABEL,
        one_of(ZONE_LABEL, ZONE_ID_LABEL),
        f"the label that stands for a node's zone: {ZONE_LABEL} or {ZONE_ID_LABEL}",
    )
    kubernetes_url: str = setting(
        "",
        optional_url,
        "an API server that needs no token: `kubectl proxy`; by default the cluster's",
    )
    lookup_url: str = setting(
        "http://automatic-zone-placement:8080/lookup", optional_url, "the lookup service"
    )
    relocate_interval: float = setting("60", seconds(0.1), "seconds from one round to the next")
    relocate_after: float = setting(
        "300", seconds(), "seconds for which a database must have been in its new zone"
    )
    relocate_backoff: float = setting(
        "600",
        seconds(1),
        "seconds for which a workload is left alone if its Pod landed elsewhere; doubled each time",
    )
    relocate_max_concurrent: int = setting(
        "3", whole_number(1000), "workloads of which a Pod is on the move at once; 0 moves nobody"
    )

    def rules(self) -> Rules:
        """What of it the decision follows."""
        return Rules(
            node_label=self.node_label,
            after=self.relocate_after,
            backoff=self.relocate_backoff,
            longest_gap=2 * self.relocate_interval,
        )


# What there is.


class LookupFailure(Exception):
    """The lookup service cannot be asked."""


def ask(url: SplitResult, asks: str) -> Answer | str:
    """The lookup service's answer for an annotation, or a word that says why there is none.

    Raises `LookupFailure`.
    """
    try:
        reply = exchange(
            url,
            f"{url.path.rstrip('/') or '/lookup'}?fqdn={quote(asks)}",
            headers={"Accept": "application/json", "User-Agent": AGENT},
            timeout=LOOKUP_TIMEOUT,
        )
    except (OSError, HTTPException) as error:
        raise LookupFailure(f"{url.geturl()}: {error or type(error).__name__}") from None
    try:
        body = json.loads(reply.body)
        return Answer.from_json(body) if reply.status == 200 else str(body["reason"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return "InvalidAnswer"


def ask_all(url: SplitResult, asks: Iterable[str]) -> dict[str, Answer | str]:
    """The answer for each annotation, or a word.

    Raises `LookupFailure` if the first lookup fails: if the service is down, one is
    enough to learn it.
    """
    names = set(asks)
    answers: dict[str, Answer | str] = {
        each: "InvalidName" for each in names if not NAMES.fullmatch(each)
    }
    waiting: SimpleQueue[str] = SimpleQueue()
    for number, each in enumerate(sorted(names - answers.keys())):
        if number == 0:
            answers[each] = ask(url, each)
        else:
            waiting.put(each)

    def work() -> None:
        with suppress(Empty):
            while True:
                each = waiting.get_nowait()
                try:
                    answers[each] = ask(url, each)
                except LookupFailure:
                    answers[each] = "LookupFailure"

    # Daemons, unlike those of an executor: the process may end without them.
    threads = [Thread(target=work, daemon=True) for _ in range(min(LOOKUPS, waiting.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def look(api: Client, settings: RelocationSettings, asks: str = "", **query: str) -> World:
    """What there is now, with the Pods of the query, as if all had the annotation `asks`."""
    nodes = {node.name: node for node in api.collect("/api/v1/nodes", Node.from_json)}
    namespace = query.pop("namespace", "")
    path = f"/api/v1/namespaces/{quote(namespace)}/pods" if namespace else "/api/v1/pods"
    pods = api.collect(path, partial(Pod.from_json, asks=asks), fieldSelector=RUNNING, **query)
    world = World(pods, nodes, ask_all(parse_url(settings.lookup_url), (pod.asks for pod in pods)))
    wanted = {
        Claim(verdict.pod.namespace, name)
        for verdict in landings(world, settings.rules())
        if verdict.landed == "elsewhere"
        for name in verdict.pod.constraints.claims
    }
    return world._replace(volumes=volumes(api, wanted)) if wanted else world


def volumes(api: Client, wanted: set[Claim]) -> dict[Claim, Volume]:
    """The volumes that these claims have."""

    def keep(item: Mapping[str, Any]) -> Volume | None:
        volume = Volume.from_json(item)
        return volume if volume and volume.claim in wanted else None

    return {each.claim: each for each in api.collect("/api/v1/persistentvolumes", keep)}


def stands_whole(api: Client, workload: Workload) -> bool:
    """Whether all Pods of the workload are there and available; not if it is gone."""
    kinds = f"{workload.kind.lower()}s"
    path = f"/apis/apps/v1/namespaces/{workload.namespace}/{kinds}/{workload.name}"
    try:
        return is_whole(api.get(path))
    except Refused as error:
        if error.status == 404:
            return False
        raise


# The loop.


class Metrics:
    """What the program counts."""

    def __init__(self, lines_dropped: Counter | None = None) -> None:
        self.lines_dropped = [lines_dropped] if lines_dropped else []
        self.rounds = Counter("relocation_rounds_total", "Rounds, by how they ended.", "outcome")
        self.pods = LabelledGauge(
            "relocation_pods", "Placed Pods, by where they are: in zone, elsewhere.", "landed"
        )
        self.evictions = Counter(
            "relocation_evictions_total", "Evictions asked for, by what came of it.", "outcome"
        )
        self.moving = 0
        self.backed_off = 0
        self.last_success = 0.0
        self.rounds.begin(("success",), ("failure",))
        self.pods.begin(*((landed,) for landed in get_args(Landed)))
        self.evictions.begin(*((outcome,) for outcome in OUTCOMES))

    def families(self) -> list[Family]:
        """All families, in the order they are shown."""
        return [
            self.pods,
            self.evictions,
            self.rounds,
            Gauge(
                "relocation_workloads_moving",
                "Workloads of which a Pod is on the move.",
                lambda: self.moving,
            ),
            Gauge(
                "relocation_workloads_backed_off",
                "Workloads left alone because their Pod landed elsewhere.",
                lambda: self.backed_off,
            ),
            Gauge(
                "relocation_last_success_timestamp_seconds",
                "When the last round succeeded; 0 before the first.",
                lambda: self.last_success,
            ),
            *self.lines_dropped,
            *process(),
        ]


class Relocator:
    """Looks round after round, and evicts whom the decision names."""

    def __init__(
        self, api: Client, settings: RelocationSettings, lines_dropped: Counter | None = None
    ) -> None:
        self.api = api
        self.settings = settings
        self.metrics = Metrics(lines_dropped)
        self.stopping = Event()
        self.memory = Memory()
        self.summary = ""  # as it was last logged
        self.refused: dict[Workload, str] = {}

    def run(self) -> None:
        """Runs until `stopping` is set."""
        pause = 0.0
        failures = 0
        while not self.stopping.wait(pause):
            if self.try_round():
                failures, pause = 0, self.settings.relocate_interval
            else:
                pause = min(FIRST_PAUSE * 2 ** min(failures, 30), self.settings.relocate_interval)
                failures += 1

    def try_round(self) -> bool:
        """One round; whether it succeeded."""
        try:
            self.round()
        except (KubernetesError, LookupFailure) as error:
            logging.error("this round failed: %s", error)
        except Exception:  # it must not end all that comes after it
            logging.exception("this round failed: a defect")
        else:
            self.metrics.rounds.increment("success")
            self.metrics.last_success = time()
            return True
        self.metrics.rounds.increment("failure")
        return False

    def round(self) -> None:
        """Looks, decides and acts. Raises `KubernetesError` or `LookupFailure`."""
        world = look(self.api, self.settings, labelSelector=ZONE)
        now = time()
        decision = decide(world, self.memory, self.settings.rules(), now)
        self.memory = decision.memory
        self.show(decision, now)
        evictions = decision.evictions()
        present = {verdict.pod.workload for verdict in evictions}
        self.refused = {each: why for each, why in self.refused.items() if each in present}
        for verdict in evictions:
            is_full = self.memory.moving() >= self.settings.relocate_max_concurrent
            if is_full or self.stopping.is_set():
                break
            workload = verdict.pod.workload
            if stands_whole(self.api, workload) and self.evict(verdict):
                decision = decision.after_eviction(workload, now)
                self.memory = decision.memory
                self.metrics.moving = self.memory.moving()

    def show(self, decision: Decision, now: float) -> None:
        """Sets the metrics, and logs what has changed since the last round."""
        counts = Tally(verdict.landed for verdict in decision.verdicts)
        for landed in get_args(Landed):
            self.metrics.pods.set(counts[landed], landed)
        self.metrics.moving = decision.memory.moving()
        self.metrics.backed_off = decision.memory.backed_off(now)
        line = (
            f"{counts['in_zone']} Pods in their zone, {counts['elsewhere']} elsewhere, "
            f"{counts['unknown']} unknown; {self.metrics.moving} workloads on the move, "
            f"{self.metrics.backed_off} left alone for now"
        )
        if line != self.summary:
            logging.info("%s", line)
            self.summary = line
        for verdict in decision.verdicts:
            if verdict.landed != "in_zone":
                logging.debug("%s: %s", _described(verdict), verdict.obstacle or "may be evicted")

    def evict(self, verdict: Verdict) -> bool:
        """Asks for the Pod's eviction; whether it was granted.

        https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
        """
        pod = verdict.pod
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            # A StatefulSet's next Pod has the same name.
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/eviction"
        try:
            self.api.create(path, eviction)
        except Refused as error:
            outcome = {404: "gone", 409: "gone", 429: "budget"}.get(error.status, "refused")
            self.metrics.evictions.increment(outcome)
            if self.refused.get(pod.workload) != outcome:  # once, not in each round
                logging.warning("%s: not evicted for now: %s", _described(verdict), error)
                self.refused[pod.workload] = outcome
            return False
        self.metrics.evictions.increment("evicted")
        logging.info("%s: evicted", _described(verdict))
        self.tell(verdict)
        return True

    def tell(self, verdict: Verdict) -> None:
        """Writes the Event that says why the Pod went."""
        pod = verdict.pod
        about = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        }
        note = (
            f"Evicted from zone {verdict.here}: {shown(pod.asks)} is in zone "
            f"{verdict.answer.zone} now, where its successor will be placed."
        )
        try:
            self.api.tell(about, "Normal", "Relocated", "Evict", note)
        except KubernetesError as error:
            logging.warning("%s: no event could be written: %s", _described(verdict), error)


def _described(verdict: Verdict) -> str:
    pod = verdict.pod
    return (
        f"pod={pod.namespace}/{pod.name} workload={pod.workload} name={shown(pod.asks)} "
        f"in={verdict.here} database={verdict.answer.zone}"
    )


# The metrics port.


class MetricsServer(ThreadingHTTPServer):
    """Serves `/metrics` and `/healthz` on a socket that listens already."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, families: Callable[[], list[Family]]) -> None:
        handler = partial(MetricsHandler, families)
        socketserver.BaseServer.__init__(self, listener.getsockname(), handler)
        self.socket = listener

    def handle_error(self, request: Any, client_address: Any) -> None:
        logging.debug("a connection to the metrics port was lost", exc_info=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        if active_count() > MAX_CONNECTIONS:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)


class MetricsHandler(BaseHTTPRequestHandler):
    """Answers probes and scrapes."""

    timeout = REQUEST_TIMEOUT
    server_version = AGENT

    def __init__(self, families: Callable[[], list[Family]], *arguments: Any) -> None:
        self.families = families
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.answer(200, render(self.families()), CONTENT_TYPE)
        elif path == "/healthz":
            self.answer(200, b'{"status": "ok"}')
        else:
            body = {"error": f"there is nothing at {shown(path)}", "reason": "NotFound"}
            self.answer(404, json.dumps(body).encode())

    def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing: probes and scrapes come every few seconds."""


# The report.


COLUMNS = (
    "NAMESPACE",
    "WORKLOAD",
    "POD",
    "NAME",
    "DATABASE IN",
    "POD IN",
    "SINCE",
    "WHAT WOULD BE DONE",
)

# Names without an answer that a report lists; the others are counted.
MAX_LISTED = 20


def report(
    api: Client, settings: RelocationSettings, asks: str, query: Mapping[str, str]
) -> list[str]:
    """The lines of a report: who is elsewhere, what would be done about it, and a summary.

    Raises `KubernetesError` or `LookupFailure`.
    """
    world = look(api, settings, asks, **query)
    # An answer's age is not known to somebody who asks once: taken to be enough.
    rules = settings.rules()._replace(after=0)
    decision = decide(world, Memory(), rules, time())
    elsewhere = [each for each in decision.verdicts if each.landed == "elsewhere"]
    fates = [_fate(api, each) for each in elsewhere]
    rows = [_row(each, fate) for each, fate in zip(elsewhere, fates, strict=True)]
    table = [*_table([COLUMNS, *sorted(rows)]), ""] if rows else []
    return [*table, *_summary(decision.verdicts, fates.count(EVICT), settings)]


EVICT = "evict"


def _fate(api: Client, verdict: Verdict) -> str:
    if verdict.obstacle:
        return f"nothing: {verdict.obstacle}"
    if not stands_whole(api, verdict.pod.workload):
        return "nothing: not all Pods of its workload are there and available"
    return EVICT


def _row(verdict: Verdict, fate: str) -> tuple[str, ...]:
    pod = verdict.pod
    return (
        pod.namespace,
        str(pod.workload),
        pod.name,
        pod.asks,
        verdict.answer.zone,
        verdict.here or "-",
        strftime("%Y-%m-%dT%H:%MZ", gmtime(pod.created)),
        fate,
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _summary(
    verdicts: Sequence[Verdict], evictions: int, settings: RelocationSettings
) -> list[str]:
    counts = Tally(verdict.landed for verdict in verdicts)
    lines = [
        f"{len(verdicts)} Pods: {counts['in_zone']} in their database's zone, "
        f"{counts['elsewhere']} elsewhere, {counts['unknown']} unknown."
    ]
    if evictions:
        lines.append(
            f"{evictions} would be evicted, at most {settings.relocate_max_concurrent} at once, "
            f"if the answers stay the same for {settings.relocate_after:g} s."
        )
    unknown = Tally(
        f"{shown(each.pod.asks)}: {each.obstacle}" for each in verdicts if each.landed == "unknown"
    )
    lines += [f"unknown: {what}, {number} Pods" for what, number in unknown.most_common(MAX_LISTED)]
    if len(unknown) > MAX_LISTED:
        lines.append(f"unknown: {len(unknown) - MAX_LISTED} more names")
    return lines


# From the command line to the end.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs as the environment says; the exit status is 2 if that is not possible."""
    # As process 1 of a container it would not be ended by the signal, before there is a handler.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    options = parse_arguments(arguments)
    try:
        settings = RelocationSettings.from_environment(os.environ)
        api = Client.from_environment(os.environ, AGENT)
    except ValueError as error:
        return complain(str(error), status=2)
    warnings = list(RelocationSettings.misspelt(os.environ))
    if options.report:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return print_report(api, settings, options)
    try:
        listener = open_port(settings.host, "PORT", settings.port)
    except InvalidSetting as error:
        return complain(str(error), status=2)
    handler = log.start(settings.log_level)
    log.warn(warnings)
    run(Relocator(api, settings, handler.dropped if handler else None), listener)
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says; ends the process for `--help`, `--version` and what is wrong."""
    parser = RelocationSettings.parser(
        "Evicts Pods whose database has moved to another zone, or reports them.", os.environ
    )
    parser.allow_abbrev = False
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--report", action="store_true", help="report once, and change nothing")
    parser.add_argument("--name", default="", help="report on Pods as if they had this annotation")
    parser.add_argument("-l", "--selector", default="", help="report on Pods with these labels")
    parser.add_argument("-n", "--namespace", default="", help="report on Pods of this namespace")
    options = parser.parse_args(arguments)
    if not options.report and (options.name or options.selector or options.namespace):
        parser.error("--name, --selector and --namespace go with --report")
    if options.name and not NAMES.fullmatch(options.name):
        parser.error(f"--name: {shown(options.name)} is not a domain name, or several with commas")
    return options


def print_report(api: Client, settings: RelocationSettings, options: argparse.Namespace) -> int:
    """Prints the report; the exit status is 1 if something could not be read."""
    query = {"labelSelector": options.selector, "namespace": options.namespace}
    try:
        lines = report(api, settings, options.name, {k: v for k, v in query.items() if v})
    except (KubernetesError, LookupFailure) as error:
        return complain(str(error), status=1)
    if hasattr(signal, "SIGPIPE"):  # ends quietly, as other filters do, if its reader has enough
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(*lines, sep="\n")
    return 0


def run(relocator: Relocator, listener: socket.socket) -> None:
    """Runs until SIGTERM or SIGINT; a second one ends the process at once.

    What is in flight then has a second to end. The threads are daemons: a call that
    hangs does not keep the process.
    """

    def stop(number: int, _frame: object) -> None:
        if relocator.stopping.is_set():
            os._exit(128 + number)
        relocator.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server = MetricsServer(listener, relocator.metrics.families)
    Thread(target=server.serve_forever, daemon=True).start()
    worker = Thread(target=relocator.run, daemon=True)
    worker.start()
    address, port, *_ = listener.getsockname()
    changed = " ".join(relocator.settings.changed(os.environ)) or "all by default"
    logging.info("metrics on %s port %d, settings: %s", address, port, changed)
    relocator.stopping.wait()
    worker.join(PATIENCE)
    logging.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
