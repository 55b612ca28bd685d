"""Who runs in another zone than its database, and who of them may be moved: a decision, no I/O.

A round gives `make_plan` what there is (Pods, nodes, volumes, and the lookup service's
answers) and what is remembered of the rounds before. All times are seconds of the
Unix clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from relocation.landings import Rules, Verdict, landings
from relocation.memory import Memory, Move, Seen, remember_answers, settle_moves
from relocation.scheduling import why_no_node
from relocation.world import Workload, World

# Whose Pods are created anew wherever there is room. A DaemonSet's belong to their node, a Job's
# would begin their work again.
MOVABLE = frozenset({"Deployment", "ReplicaSet", "StatefulSet"})


class Plan(NamedTuple):
    """What to report, whom to evict, and what to remember."""

    verdicts: Sequence[Verdict]
    memory: Memory

    def evictions(self) -> list[Verdict]:
        """Those of whom to evict as many as may be: one of a workload at most."""
        return [each for each in self.verdicts if each.landed == "elsewhere" and not each.obstacle]

    def after_eviction(self, workload: Workload, now: float) -> Plan:
        """The same with the eviction of one of the workload's Pods remembered."""
        before = frozenset(each.pod.uid for each in self.verdicts if each.pod.workload == workload)
        last = self.memory.moves.get(workload)
        move = Move(now, before, last.failures if last else 0)
        moves = {**self.memory.moves, workload: move}
        return self._replace(memory=self.memory._replace(moves=moves))


def make_plan(world: World, memory: Memory, rules: Rules, now: float) -> Plan:
    """What to do about the Pods that are not where their database is."""
    seen = remember_answers(memory.seen, world.answers, rules, now)
    workloads: dict[Workload, list[Verdict]] = defaultdict(list)
    for verdict in landings(world, rules):
        workloads[verdict.pod.workload].append(verdict)
    moves = settle_moves(memory.moves, workloads, rules, now)
    verdicts: list[Verdict] = []
    for workload, peers in workloads.items():
        trouble = _trouble(peers, moves.get(workload), rules, now)
        verdicts += _judged(peers, trouble, world, seen, rules)
    return Plan(verdicts, Memory(seen, moves))


def _judged(
    peers: Sequence[Verdict], trouble: str, world: World, seen: Mapping[str, Seen], rules: Rules
) -> Iterator[Verdict]:
    """The verdicts on the Pods of a workload, with what keeps each where it is."""
    for verdict in sorted(peers, key=_turn):
        if verdict.landed == "elsewhere":
            last = seen.get(verdict.pod.asks)
            wait = rules.after - (last.seconds if last else 0)
            obstacle = _obstacle(verdict, wait) or trouble or why_no_node(verdict, world)
            verdict = verdict._replace(obstacle=obstacle)
            trouble = trouble if obstacle else "another Pod of its workload goes first"
        yield verdict


def _turn(verdict: Verdict) -> tuple[bool, float]:
    """Sorts the Pods of a workload: first those placed for another zone, the oldest first."""
    return verdict.is_placed_for_it(), verdict.pod.created


def _trouble(peers: Sequence[Verdict], move: Move | None, rules: Rules, now: float) -> str:
    """What keeps all Pods of a workload where they are; empty if nothing does."""
    if move and move.until is None:
        return "another Pod of its workload is on the move"
    if move and move.until is not None and now < move.until:
        return f"left alone for {_duration(move.until - now)}: the last one landed elsewhere"
    if any(not each.pod.is_ready or each.pod.is_terminating for each in peers):
        return "another Pod of its workload is not Ready"
    for each in peers:  # the same pause, though a restart of ours may have forgotten the move
        is_new = now - each.pod.created < rules.backoff
        if is_new and each.landed == "elsewhere" and each.is_placed_for_it():
            return f"{each.pod.name} was placed for this zone and landed elsewhere a moment ago"
    return ""


def _obstacle(verdict: Verdict, wait: float) -> str:
    """What keeps this Pod where it is, whatever its workload does; empty if nothing does.

    `wait` is how many seconds its answer must still be the same.
    """
    pod, answer = verdict.pod, verdict.location
    obstacles = {
        "it was not placed when it was created": not pod.placed,
        "it has not asked for it": not pod.relocates,
        f"a {pod.workload.kind} is not moved": pod.workload.kind not in MOVABLE,
        "it is terminating": pod.is_terminating,
        "it is not Ready": not pod.is_ready,
        "the answer is stale or not complete": not answer.is_certain,
        "its database is not in one zone": not answer.selector,
        f"its database must stay there for {_duration(wait)} more": wait > 0,
    }
    return next((obstacle for obstacle, holds in obstacles.items() if holds), "")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
