"""What one round remembers for the next: how long answers have been the same, and who is on the move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from relocation.landings import Rules, Verdict
from relocation.world import Location, Workload

# However often it has failed, a workload gets another chance after a day.
MAX_BACKOFF = 86_400.0


class Seen(NamedTuple):
    """A fresh answer, how many seconds it has been the same, and when it was last given."""

    location: Location
    seconds: float
    at: float


class Move(NamedTuple):
    """What becomes of a workload of which a Pod was evicted.

    It is on the move until a successor has landed; if that fails, it is left alone
    `until` then.
    """

    at: float
    before: frozenset[str]  # the Pods' uids: all others are successors
    failures: int
    until: float | None = None


class Memory(NamedTuple):
    """What one round remembers for the next."""

    seen: Mapping[str, Seen] = {}
    moves: Mapping[Workload, Move] = {}

    def moving(self) -> int:
        """How many workloads are on the move."""
        return sum(move.until is None for move in self.moves.values())

    def backed_off(self, now: float) -> int:
        """How many workloads are left alone for now, because a Pod landed elsewhere."""
        return sum(move.until is not None and now < move.until for move in self.moves.values())


def remember_answers(
    seen: Mapping[str, Seen], answers: Mapping[str, Location | str], rules: Rules, now: float
) -> dict[str, Seen]:
    """How long each name's answer has been the same, now that there are these answers.

    An answer that is missing or stale changes nothing, but the time in which there
    was none does not count either.
    """
    known = {}
    for asks, answer in answers.items():
        last = seen.get(asks)
        if isinstance(answer, str) or not answer.is_certain:
            if last:
                known[asks] = last
        elif last and answer == last.location:
            gap = min(max(0.0, now - last.at), rules.longest_gap)
            known[asks] = Seen(answer, last.seconds + gap, now)
        else:
            known[asks] = Seen(answer, 0.0, now)
    return known


def settle_moves(
    moves: Mapping[Workload, Move],
    workloads: Mapping[Workload, Sequence[Verdict]],
    rules: Rules,
    now: float,
) -> dict[Workload, Move]:
    settled = {
        workload: _settled(move, workloads.get(workload, ()), rules, now)
        for workload, move in moves.items()
    }
    return {workload: move for workload, move in settled.items() if move}


def _settled(move: Move, peers: Sequence[Verdict], rules: Rules, now: float) -> Move | None:
    """What has become of a move; None if there is nothing left to remember."""
    if move.until is not None:
        is_wanted = now < move.until or any(each.landed == "elsewhere" for each in peers)
        return move if is_wanted else None
    successors = [each for each in peers if each.pod.uid not in move.before]
    ready = [each for each in successors if each.pod.is_ready]
    if ready and len(ready) == len(successors) and all(each.landed == "in_zone" for each in ready):
        return None
    if any(each.landed == "elsewhere" for each in ready) or now - move.at >= rules.backoff:
        pause = min(rules.backoff * 2 ** min(move.failures, 30), MAX_BACKOFF)
        return move._replace(failures=move.failures + 1, until=now + pause)
    return move
