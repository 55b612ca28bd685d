"""Who of the Pods that are in another zone than their database may be moved: a decision, no I/O.

A round gives `make_plan` what there is (Pods, nodes, volumes, and the lookup service's
answers) and what is remembered of the rounds before. All times are seconds of the
Unix clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from relocation.history import History, Move, Seen, remember_answers, settle_moves
from relocation.landings import Obstacle, Rules, Verdict, landings
from relocation.scheduling import why_no_node
from relocation.world import Workload, World

# Whose Pods are created anew wherever there is room. A DaemonSet's belong to their node, a Job's
# would begin their work again.
MOVABLE = frozenset({"Deployment", "ReplicaSet", "StatefulSet"})


class Plan(NamedTuple):
    """What to report, whom to evict, and what to remember."""

    workloads: Mapping[Workload, Sequence[Verdict]]
    history: History

    @property
    def verdicts(self) -> list[Verdict]:
        """Those on all Pods."""
        return [verdict for peers in self.workloads.values() for verdict in peers]

    def evictions(self) -> list[Verdict]:
        """Those of whom to evict as many as may be: one of a workload at most."""
        return [each for each in self.verdicts if each.landed == "elsewhere" and not each.obstacle]

    def names_elsewhere(self) -> set[str]:
        """The names of which somebody is elsewhere."""
        return {each.pod.asks for each in self.verdicts if each.landed == "elsewhere"}


def make_plan(world: World, history: History, rules: Rules, now: float) -> Plan:
    """What to do about the Pods that are not where their database is."""
    seen = remember_answers(history.seen, world.answers, rules, now)
    workloads: dict[Workload, list[Verdict]] = defaultdict(list)
    for verdict in landings(world, rules):
        workloads[verdict.pod.workload].append(verdict)
    moves = settle_moves(history.moves, workloads, rules, now)
    judged = {}
    for workload, peers in workloads.items():
        trouble = _trouble(peers, moves.get(workload), now)
        judged[workload] = list(_judged(peers, trouble, world, seen, rules))
    return Plan(judged, History(seen, moves))


def _judged(
    peers: Sequence[Verdict],
    trouble: Obstacle | None,
    world: World,
    seen: Mapping[str, Seen],
    rules: Rules,
) -> Iterator[Verdict]:
    """The verdicts on the Pods of a workload, with what keeps each where it is."""
    for verdict in sorted(peers, key=_turn):
        if verdict.landed == "elsewhere":
            last = seen.get(verdict.pod.asks)
            wait = rules.after - (last.seconds if last else 0)
            obstacle = _obstacle(verdict, wait) or trouble or why_no_node(verdict, world)
            since = max(verdict.pod.created, last.since if last else 0)
            verdict = verdict._replace(obstacle=obstacle, since=since)
            trouble = trouble if obstacle else FIRST
        yield verdict


FIRST = Obstacle("another Pod of its workload goes first", "workload")


def _turn(verdict: Verdict) -> tuple[bool, float]:
    """Sorts the Pods of a workload: first those placed for another zone, the oldest first."""
    return verdict.is_placed_for_it(), verdict.pod.created


def _trouble(peers: Sequence[Verdict], move: Move | None, now: float) -> Obstacle | None:
    """What keeps all Pods of a workload where they are."""
    if move:
        if move.until is None:
            return Obstacle("another Pod of its workload is on the move", "workload")
        if now < move.until:
            left = _duration(move.until - now)
            return Obstacle(f"left alone for {left}: the last one landed elsewhere", "backoff")
    if any(not each.pod.is_ready or each.pod.is_terminating for each in peers):
        return Obstacle("another Pod of its workload is not Ready", "workload")
    return None


def _obstacle(verdict: Verdict, wait: float) -> Obstacle | None:
    """What keeps this Pod where it is, whatever its workload does.

    `wait` is how many seconds its answer must still be the same.
    """
    pod, destination = verdict.pod, verdict.destination
    stays = f"its database must stay there for {_duration(wait)} more"
    obstacles = {
        Obstacle("it was not placed when it was created"): not pod.placed,
        Obstacle("it has not asked for it"): not pod.relocates,
        Obstacle(f"a {pod.workload.kind} is not moved"): pod.workload.kind not in MOVABLE,
        Obstacle("it is terminating", "pod"): pod.is_terminating,
        Obstacle("it is not Ready", "pod"): not pod.is_ready,
        Obstacle("the answer is not certain", "answer"): not destination.is_certain,
        Obstacle("its database is not in one zone", "answer"): not destination.selector,
        Obstacle(stays, "answer"): wait > 0,
    }
    return next((obstacle for obstacle, holds in obstacles.items() if holds), None)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
