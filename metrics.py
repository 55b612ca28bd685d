"""Metrics in the Prometheus text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. All of it is used
from one thread, the event loop's, and so needs no lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

__all__ = ["CONTENT_TYPE", "Counter", "Family", "Gauge", "Histogram", "render"]

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

    def __init__(self, name: str, documentation: str) -> None:
        self.name = f"{NAMESPACE}_{name}"
        self.documentation = documentation

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.documentation}"
        yield f"# TYPE {self.name} {self.type}"
        yield from self.samples()

    def samples(self) -> Iterator[str]:
        raise NotImplementedError


class Counter(Family):
    """Counts up, by label values; the caller sees to it that those are few."""

    type = "counter"

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        super().__init__(name, documentation)
        self.labels = labels
        self.values: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def increment(self, *values: str, by: int = 1) -> None:
        self.values[values] = self.values.get(values, 0) + by

    def samples(self) -> Iterator[str]:
        for values, count in self.values.items():
            yield f"{self.name}{_braces(dict(zip(self.labels, values, strict=True)))} {count}"


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


def _braces(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def render(families: Iterable[Family]) -> bytes:
    """The body of an answer to a scrape."""
    return "".join(f"{line}\n" for family in families for line in family.lines()).encode()
