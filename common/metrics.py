"""Metrics in the Prometheus text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. All of it is used
from one thread, the event loop's, and so needs no lock. (Lines that the log drops are
counted from its own thread as well: in the worst case one of two counts is lost.)
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a cached answer (tens of microseconds) to the longest wait for DNS.
DURATION_BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


NAMESPACE = "automatic_zone_placement"


class Family:
    """A metric's name, its HELP and TYPE, and its samples."""

    type = "untyped"

    def __init__(self, name: str, documentation: str, namespace: str = f"{NAMESPACE}_") -> None:
        self.name = f"{namespace}{name}"
        self.documentation = documentation

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.documentation}"
        yield f"# TYPE {self.name} {self.type}"
        yield from self.samples()

    def samples(self) -> Iterator[str]:
        raise NotImplementedError


class _Labelled(Family):
    """A number for each combination of label values; the caller sees to it that those are few."""

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        super().__init__(name, documentation)
        self.labels = labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def begin(self, *samples: tuple[str, ...]) -> None:
        """Has these samples from the start, at 0.

        Prometheus sees no increase in what begins at 1, and errors may be rare.
        """
        self.values.update(dict.fromkeys(samples, 0))

    def samples(self) -> Iterator[str]:
        for values, number in self.values.items():
            yield f"{self.name}{_braces(dict(zip(self.labels, values, strict=True)))} {number}"


class Counter(_Labelled):
    """Counts up."""

    type = "counter"

    def increment(self, *values: str, by: float = 1) -> None:
        self.values[values] = self.values.get(values, 0) + by


class LabelledGauge(_Labelled):
    """What was last set, for each combination of label values."""

    type = "gauge"

    def set(self, number: float, *values: str) -> None:
        self.values[values] = number


class Gauge(Family):
    """A value that is read when it is asked for."""

    type = "gauge"

    def __init__(
        self, name: str, documentation: str, read: Callable[[], float], **labels: str
    ) -> None:
        super().__init__(name, documentation)
        self.read = read
        self.labels = labels

    def samples(self) -> Iterator[str]:
        yield f"{self.name}{_braces(self.labels)} {self.read()}"


class Process(Family):
    """Something of the process itself, by the name that Prometheus' own clients give it."""

    def __init__(self, name: str, type: str, documentation: str, read: Callable[[], float]) -> None:
        super().__init__(name, documentation, namespace="process_")
        self.type = type
        self.read = read

    def samples(self) -> Iterator[str]:
        with suppress(OSError):  # no /proc here
            yield f"{self.name} {self.read()}"


class Histogram(Family):
    """Counts observations, in seconds, by how long they took."""

    type = "histogram"

    def __init__(self, name: str, documentation: str) -> None:
        super().__init__(name, documentation)
        self.counts = [0] * (len(DURATION_BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.sum += seconds

    def samples(self) -> Iterator[str]:
        bounds = [*map(str, DURATION_BUCKETS), "+Inf"]
        for bound, count in zip(bounds, accumulate(self.counts), strict=True):
            yield f'{self.name}_bucket{{le="{bound}"}} {count}'
        yield f"{self.name}_sum {self.sum}"
        yield f"{self.name}_count {sum(self.counts)}"


def process() -> list[Family]:
    """The metrics of the process that Prometheus' users expect.

    https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
    """
    return [
        Process("cpu_seconds_total", "counter", "Processor time.", _processor_time),
        Process("open_fds", "gauge", "Open file descriptors.", _open_descriptors),
        Process("max_fds", "gauge", "The limit of open file descriptors.", _most_descriptors),
        Process("resident_memory_bytes", "gauge", "Resident memory.", _resident_memory),
        Process("start_time_seconds", "gauge", "Since when it runs, Unix time.", _start_time),
    ]


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round(usage.ru_utime + usage.ru_stime, 6)


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # without that of the folder itself


def _most_descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _resident_memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _start_time() -> float:
    """proc(5): field 22 of stat, in ticks since boot, and btime."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/stat") as file:
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def _braces(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def render(families: Iterable[Family]) -> bytes:
    """The body of an answer to a scrape."""
    return "".join(f"{line}\n" for family in families for line in family.lines()).encode()
