"""What relocation counts."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from common.metrics import Counter, Family, Gauge, LabelledGauge, process
from relocation.eviction import EvictionResult
from relocation.history import History
from relocation.landings import Landed, Verdict, Wait


class RelocationMetrics:
    """What the program counts."""

    def __init__(
        self, is_leading: Callable[[], bool] = bool, lines_dropped: Counter | None = None
    ) -> None:
        self.is_leading = is_leading
        self.lines_dropped = [lines_dropped] if lines_dropped else []
        self.rounds = Counter("relocation_rounds_total", "Rounds, by how they ended.", "outcome")
        self.pods = LabelledGauge(
            "relocation_pods", "Placed Pods, by where they are: in zone, elsewhere.", "landed"
        )
        self.waiting = LabelledGauge(
            "relocation_waiting_seconds",
            "How long the Pod has been elsewhere that has waited the longest, by what keeps it.",
            "reason",
        )
        self.evictions = Counter(
            "relocation_evictions_total", "Evictions asked for, by what came of it.", "outcome"
        )
        self.moving = 0
        self.backed_off = 0
        self.last_success = 0.0
        self.rounds.begin(("success",), ("failure",))
        self.evictions.begin(*((outcome,) for outcome in get_args(EvictionResult)))
        self.clear()

    def clear(self) -> None:
        """Shows nobody: whoever does not lead knows of none."""
        self.show_landings([])
        self.show_waits({})
        self.show_history(History(), 0)

    def show_landings(self, verdicts: Iterable[Verdict]) -> None:
        """Shows where the Pods are."""
        counts = Tally(verdict.landed for verdict in verdicts)
        for landed in get_args(Landed):
            self.pods.set(counts[landed], landed)

    def show_waits(self, waits: Mapping[Wait, float]) -> None:
        """Shows for how many seconds somebody waits, by what keeps them."""
        for wait in get_args(Wait):
            self.waiting.set(waits.get(wait, 0), wait)

    def show_history(self, history: History, now: float) -> None:
        """Shows how many workloads are on the move, and left alone."""
        self.moving, self.backed_off = history.moving(), history.backed_off(now)

    def families(self) -> list[Family]:
        """All families, in the order they are shown."""
        return [
            self.pods,
            self.waiting,
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
            Gauge(
                "relocation_leader",
                "1 if this one holds the Lease and acts, 0 if it stands by.",
                lambda: int(self.is_leading()),
            ),
            *self.lines_dropped,
            *process(),
        ]
