"""What relocation counts."""

from __future__ import annotations

from typing import get_args

from common.metrics import Counter, Family, Gauge, LabelledGauge, process
from relocation.landings import Landed

OUTCOMES = ("evicted", "budget", "gone", "refused")


class RelocationMetrics:
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
