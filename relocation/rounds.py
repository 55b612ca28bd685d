"""A round: look, decide, evict; and one after the other, while this one leads."""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Iterable
from threading import Event
from time import time

from common.kubernetes import Client, KubernetesError, Refused
from common.lease import LeaderElection
from common.metrics import Counter
from common.names import DECIDED_ZONE_LABEL
from relocation.decision import Plan, make_plan
from relocation.eviction import (
    EvictionResult,
    described,
    outcome_of,
    record_relocation,
    request_eviction,
)
from relocation.history import MAX_MOVES, History
from relocation.landings import Verdict, Wait
from relocation.look import has_all_pods, look
from relocation.lookup_client import LookupFailure
from relocation.metrics import RelocationMetrics
from relocation.settings import RelocationSettings
from relocation.world import Workload

# Seconds to wait after a round that failed; doubled with each further one, up to the interval.
FIRST_PAUSE = 1.0

# Seconds until one that stands by looks again whether it leads, which costs nothing.
STAND_BY_PAUSE = 0.2

# What a Pod waits for whose eviction was asked for.
WAITS: dict[EvictionResult, Wait | None] = {
    "evicted": None,
    "budget": "budget",
    "gone": "pod",
    "refused": "refused",
}


class Relocator:
    """Looks round after round, and evicts whom the decision names."""

    def __init__(
        self,
        api: Client,
        settings: RelocationSettings,
        election: LeaderElection,
        lines_dropped: Counter | None = None,
    ) -> None:
        self.api = api
        self.settings = settings
        self.election = election
        self.metrics = RelocationMetrics(election.is_leading, lines_dropped)
        self.stopping = Event()
        self.history = History()
        self.term = ""  # in which that was learnt
        self.summary = ""  # as it was last logged
        self.refused: dict[Workload, EvictionResult] = {}

    def run(self) -> None:
        """Runs until `stopping` is set."""
        pause = 0.0
        failures = 0
        while not self.stopping.wait(pause):
            if not self.election.is_leading():
                self.metrics.clear()
                pause = STAND_BY_PAUSE
            elif self.try_round():
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
        self.history = self.history.interrupted()
        self.metrics.rounds.increment("failure")
        return False

    def round(self) -> None:
        """Looks, decides and acts. Raises `KubernetesError` or `LookupFailure`."""
        self.recall()
        world = look(self.api, self.settings, labelSelector=DECIDED_ZONE_LABEL)
        now = time()
        plan = make_plan(world, self.history, self.settings.rules(), now)
        self.history = plan.history
        self.show(plan, now)
        waits = _waits(plan.verdicts, now)
        evictions = plan.evictions()
        present = {verdict.pod.workload for verdict in evictions}
        self.refused = {each: why for each, why in self.refused.items() if each in present}
        for verdict in evictions:
            if wait := self.move(verdict, plan, now):
                waits[wait] = max(waits.get(wait, 0.0), now - verdict.since)
        self.metrics.show_waits(waits)
        self.metrics.show_history(self.history, now)
        self.leave(plan)

    def recall(self) -> None:
        """Goes on from what another has left, if another may have led since the last round."""
        if self.term != self.election.term:
            self.term = self.election.term
            try:
                self.history = History.from_text(self.election.note, time())
            except ValueError as error:
                logging.warning("begins anew: %s", error)
                self.history = History()

    def leave(self, plan: Plan) -> None:
        """Writes down what must not be forgotten. Raises `KubernetesError`."""
        note = self.history.to_text(sorted(plan.names_elsewhere()))
        if note != self.election.note:
            self.election.save(note)

    def show(self, plan: Plan, now: float) -> None:
        """Sets the metrics, and logs what has changed since the last round."""
        self.metrics.show_landings(plan.verdicts)
        self.metrics.show_history(plan.history, now)
        counts = Tally(verdict.landed for verdict in plan.verdicts)
        line = (
            f"{counts['in_zone']} Pods in their zone, {counts['elsewhere']} elsewhere, "
            f"{counts['unknown']} unknown; {self.metrics.moving} workloads on the move, "
            f"{self.metrics.backed_off} left alone for now"
        )
        if line != self.summary:
            logging.info("%s", line)
            self.summary = line
        for verdict in plan.verdicts:
            if verdict.landed != "in_zone":
                why = verdict.obstacle.text if verdict.obstacle else "may be evicted"
                logging.debug("%s: %s", described(verdict), why)

    def move(self, verdict: Verdict, plan: Plan, now: float) -> Wait | None:
        """Evicts the Pod if it is its turn; else, what it waits for. Raises `KubernetesError`.

        The move is written down before it is begun: whoever leads after this one counts it,
        even if this one is stopped in between and goes on later.
        """
        if self.is_full():
            return "limit"
        workload = verdict.pod.workload
        if not has_all_pods(self.api, workload):
            return "workload"
        before = self.history
        self.history = before.with_move(verdict, plan.workloads[workload], now)
        self.leave(plan)
        outcome = self.evict(verdict)
        if outcome != "evicted":
            self.history = before
        return WAITS[outcome]

    def is_full(self) -> bool:
        """Whether nobody else may be evicted now."""
        return (
            self.history.moving() >= self.settings.relocate_max_concurrent
            or len(self.history.moves) >= MAX_MOVES
            or self.stopping.is_set()
        )

    def evict(self, verdict: Verdict) -> EvictionResult:
        """Asks for the Pod's eviction. Raises `KubernetesError` if it may have been granted."""
        outcome: EvictionResult = "evicted"
        try:
            request_eviction(self.api, verdict)
            logging.info("%s: evicted", described(verdict))
            record_relocation(self.api, verdict)
        except Refused as error:
            if not (known := outcome_of(error)):
                raise
            outcome = known
            if self.refused.get(verdict.pod.workload) != outcome:  # once, not in each round
                logging.warning("%s: not evicted for now: %s", described(verdict), error)
                self.refused[verdict.pod.workload] = outcome
        self.metrics.evictions.increment(outcome)
        return outcome


def _waits(verdicts: Iterable[Verdict], now: float) -> dict[Wait, float]:
    """The longest time in seconds for which somebody waits, by what is known to keep them."""
    waits: dict[Wait, float] = {}
    for verdict in verdicts:
        if verdict.obstacle and (wait := verdict.obstacle.wait):
            waits[wait] = max(waits.get(wait, 0.0), now - verdict.since)
    return waits
