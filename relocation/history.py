"""What one round remembers for the next, and a leader for the one after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from relocation.landings import Rules, Verdict
from relocation.world import Destination, Workload

# However often it has failed, a workload gets another chance after a day.
MAX_BACKOFF = 86_400.0

# Seconds after which a Pod that is still there, and not terminating, was not evicted: two calls to the
# API server, of which the first may have been given up before it was done.
GRACE = 30.0

# Workloads that are on the move or left alone. If so many Pods do not land where they should,
# something else is wrong; and half a kilobyte for each fits into an annotation.
MAX_MOVES = 200

# Bytes of what a leader leaves: an object's annotations have 256 KiB at most.
MAX_HISTORY = 128 << 10


class Seen(NamedTuple):
    """An answer that was given for certain, and for how long it has been the same."""

    answer: str  # a destination's fingerprint
    since: float  # the first time
    seconds: float  # from one round to the next, both with this answer
    at: float | None = None  # the last round, if it had this answer


class Move(NamedTuple):
    """What becomes of a workload of which a Pod was evicted.

    It is on the move until a successor has landed; if that fails, it is left alone
    `until` then.
    """

    at: float
    evicted: str  # the Pod's uid
    newest: float  # when the newest of the Pods was created; those that come later are successors
    failures: int
    until: float | None = None


class History(NamedTuple):
    """What one round remembers for the next."""

    seen: Mapping[str, Seen] = {}
    moves: Mapping[Workload, Move] = {}

    def moving(self) -> int:
        """How many workloads are on the move."""
        return sum(move.until is None for move in self.moves.values())

    def backed_off(self, now: float) -> int:
        """How many workloads are left alone for now, because a Pod landed elsewhere."""
        return sum(move.until is not None and now < move.until for move in self.moves.values())

    def interrupted(self) -> History:
        """The same after a time in which nobody looked, which counts for nothing."""
        return self._replace(
            seen={name: each._replace(at=None) for name, each in self.seen.items()}
        )

    def with_move(self, verdict: Verdict, peers: Iterable[Verdict], now: float) -> History:
        """The same with the eviction of one of the workload's Pods remembered."""
        last = self.moves.get(verdict.pod.workload)
        newest = max(each.pod.created for each in peers)
        move = Move(now, verdict.pod.uid, newest, last.failures if last else 0)
        return self._replace(moves={**self.moves, verdict.pod.workload: move})

    def to_text(self, names: Iterable[str]) -> str:
        """All moves, and of these names what has been seen, as far as that fits; as JSON."""
        moves = [[*workload, *move] for workload, move in self.moves.items()]
        room = MAX_HISTORY - len(json.dumps(moves))
        seen = {}
        for name in names:
            entry = self.seen.get(name)
            room -= len(json.dumps([name, entry])) + len(", ")
            if entry and room > 0:
                seen[name] = entry[:-1]
        return json.dumps({"moves": moves, "seen": seen})

    @classmethod
    def from_text(cls, text: str, now: float) -> History:
        """What was left by another, whose clock may be another; of an empty text, nothing.

        Raises `ValueError`.
        """
        try:
            found = json.loads(text) if text else {"moves": [], "seen": {}}
            moves = dict(_move(each, now) for each in found["moves"])
            return cls({name: _seen(each, now) for name, each in found["seen"].items()}, moves)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not what relocation leaves: {error}") from None


def _move(entry: Sequence[Any], now: float) -> tuple[Workload, Move]:
    namespace, kind, name, at, evicted, newest, failures, until = entry
    limit = None if until is None else min(float(until), now + MAX_BACKOFF)
    move = Move(min(float(at), now), str(evicted), float(newest), int(failures), limit)
    return Workload(str(namespace), str(kind), str(name)), move


def _seen(entry: Sequence[Any], now: float) -> Seen:
    answer, since, seconds = entry
    return Seen(str(answer), min(float(since), now), float(seconds))


def remember_answers(
    seen: Mapping[str, Seen], answers: Mapping[str, Destination | str], rules: Rules, now: float
) -> dict[str, Seen]:
    """How long each name's answer has been the same, now that there are these answers.

    An answer that is missing or not certain changes nothing, but the time until the
    next one does not count.
    """
    known = {}
    for asks, answer in answers.items():
        last = seen.get(asks)
        if isinstance(answer, str) or not answer.is_certain:
            if last:
                known[asks] = last._replace(at=None)
        elif last and answer.fingerprint == last.answer:
            gap = 0.0 if last.at is None else min(max(0.0, now - last.at), rules.longest_gap)
            known[asks] = last._replace(seconds=last.seconds + gap, at=now)
        else:
            known[asks] = Seen(answer.fingerprint, now, 0.0, now)
    return known


def settle_moves(
    moves: Mapping[Workload, Move],
    workloads: Mapping[Workload, Sequence[Verdict]],
    rules: Rules,
    now: float,
) -> dict[Workload, Move]:
    """What has become of the moves, without those of which there is nothing left to remember."""
    settled = {
        workload: _settled(move, workloads.get(workload, ()), rules, now)
        for workload, move in moves.items()
    }
    return {workload: move for workload, move in settled.items() if move}


def _settled(move: Move, peers: Sequence[Verdict], rules: Rules, now: float) -> Move | None:
    if move.until is not None:
        is_wanted = now < move.until or any(each.landed == "elsewhere" for each in peers)
        return move if is_wanted else None
    successors = [each for each in peers if each.pod.created > move.newest]
    ready = [each for each in successors if each.pod.is_ready]
    if ready and len(ready) == len(successors) and all(each.landed == "in_zone" for each in ready):
        return None
    if any(each.landed == "elsewhere" for each in ready) or now - move.at >= rules.backoff:
        pause = min(rules.backoff * 2 ** min(move.failures, 30), MAX_BACKOFF)
        return move._replace(failures=move.failures + 1, until=now + pause)
    is_there = any(each.pod.uid == move.evicted and not each.pod.is_terminating for each in peers)
    return move._replace(until=now) if is_there and now - move.at >= GRACE else move
