"""Keeps decisions in the ConfigMap: asks for each name again and again, and writes what comes of it.

Nobody who asks waits for any of this. The API server is spoken to by threads of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Thread
from time import monotonic, time
from typing import Any, TypeVar

from common.errors import InternalError
from common.kubernetes import Client, KubernetesError
from common.metrics import Counter, Family, Gauge
from kept.configmap import BEHIND, Decisions, data_of, decisions_in, is_worth_writing, merged
from kept.memory import EXTEND_INTERVAL, Memory
from lookup.lookups import Lookups, Outcome

# Who asks for what Pods need. A person, or the relocation, may be curious about anything.
ASKERS = ("webhook", "engine")

# Seconds between two looks at who is to be asked for.
TICK = 0.05

# Lookups side by side, where DNS is silent for so long that others would have to wait: a share
# of the resolver's queries that leaves most of them to those who wait.
MAX_ASKING = 64

# Lookups that begin in one tick: a thousand names take two of the five seconds of a round.
MAX_BEGUN = 25

# Seconds between two writes, at the least, and after one that has failed.
MIN_PAUSE = 1.0
RETRY_PAUSE = 5.0

# Seconds for what is not yet written when the service stops.
LAST_WRITE = 2.0

T = TypeVar("T")


class Keeper:
    """Keeps the names that engines ask for; `path` is where the API server has the ConfigMap."""

    def __init__(self, path: str, client: Client, lookups: Lookups, memory: Memory) -> None:
        self._path = path
        self._client = client
        self._lookups = lookups
        self._memory = memory
        self._changed = asyncio.Event()
        self._asking: set[asyncio.Task[None]] = set()
        self._running: list[asyncio.Task[None]] = []
        self._problem = ""
        self._written_at = 0.0
        self._writes = Counter(
            "kept_writes_total", "Writes of the ConfigMap of decisions.", "outcome"
        )
        self._unheeded = Counter(
            "kept_unheeded_total", "Lookups of engines though the decision was in the ConfigMap."
        )
        self._writes.begin(("written",), ("unchanged",), ("failed",))

    def metrics(self) -> list[Family]:
        """The families that describe what is kept."""
        return [
            Gauge("kept_names", "Names that are kept.", lambda: len(self._memory)),
            self._unheeded,
            self._writes,
            Gauge(
                "kept_written_timestamp_seconds",
                "When the ConfigMap was last found or made what it should be, in Unix time.",
                lambda: self._written_at,
            ),
        ]

    def heard(self, names: Sequence[str], asker: str, outcome: Outcome) -> None:
        """Somebody has asked for names, and this came of it."""
        if asker in ASKERS and self._memory.ask(",".join(names), outcome):
            self._unheeded.increment()

    def start(self) -> None:
        """Keeps them from now on, on the running loop."""
        rounds = (self._ask_for_ever(), self._write_for_ever())
        self._running = [asyncio.create_task(each) for each in rounds]

    async def stop(self) -> None:
        """Keeps no more; what is not written yet gets a last chance."""
        for task in (*self._running, *self._asking):
            task.cancel()
        await asyncio.gather(*self._running, *self._asking, return_exceptions=True)
        if self._changed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WRITE):
                    await self._write()

    async def _ask_for_ever(self) -> None:
        while True:
            most = min(MAX_BEGUN, MAX_ASKING - len(self._asking))
            for names in self._memory.due(monotonic(), most):
                task = asyncio.create_task(self._ask(names))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            await asyncio.sleep(TICK)

    async def _ask(self, names: str) -> None:
        """Looks names up, which counts as nobody's lookup, and notes what comes of it."""
        outcome: Outcome
        now = monotonic()
        due = now + self._memory.interval
        try:
            results = await self._lookups.resolve(names.split(","))
            outcome = self._lookups.answer(results)
            now = monotonic()
            due = self._due(results, now)
        except Exception as error:  # it must not end the rounds
            logging.error("keeping %s", names, exc_info=error)
            outcome = InternalError(str(error))
        age = max(0.0, self._memory.interval - (due - now))
        if self._memory.hear(names, outcome, time() - age, due):
            self._changed.set()

    def _due(self, names: Iterable[str], now: float) -> float:
        """When the first of the names is no longer what the resolver remembers."""
        ends = map(self._lookups.resolver.fresh_until, names)
        return min((end for end in ends if end > now), default=now + self._memory.interval)

    async def _write_for_ever(self) -> None:
        while True:
            pause = MIN_PAUSE if await self._write() else RETRY_PAUSE
            await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(EXTEND_INTERVAL - pause):
                    await self._changed.wait()

    async def _write(self) -> bool:
        """Writes what is to be written, and keeps the names that others have written."""
        self._changed.clear()
        update = _Update(self._memory.decisions(), self._memory.hold_for)
        try:
            is_written = await _apart(lambda: self._client.update(self._path, update))
        except asyncio.CancelledError:
            self._changed.set()
            raise
        except Exception as error:
            self._fail(error)
            return False
        self._memory.adopt(update.there)
        self._succeed("written" if is_written else "unchanged")
        return True

    def _succeed(self, outcome: str) -> None:
        self._writes.increment(outcome)
        self._written_at = time()
        if self._problem:
            logging.info("decisions are kept again")
        self._problem = ""

    def _fail(self, error: Exception) -> None:
        """Says once what is wrong; that it still is, the metrics tell."""
        self._changed.set()
        self._writes.increment("failed")
        if str(error) == self._problem:
            return
        self._problem = str(error)
        is_expected = isinstance(error, KubernetesError)
        logging.error("decisions are not kept: %s", error, exc_info=None if is_expected else error)


class _Update:
    """Makes the ConfigMap that is to be of the one that is there, of which it keeps the decisions."""

    def __init__(self, ours: Decisions, hold_for: float) -> None:
        self.there: Decisions = {}
        self._ours = ours
        self._hold_for = hold_for

    def __call__(self, config_map: dict[str, Any]) -> dict[str, Any] | None:
        now = time()
        self.there = decisions_in(config_map.get("data"))
        wanted = merged(self.there, self._ours, now, now + self._hold_for + BEHIND)
        if not is_worth_writing(self.there, wanted):
            return None
        return {**config_map, "data": data_of(wanted.values())}


async def _apart(work: Callable[[], T]) -> T:
    """What `work` returns or raises in a thread of its own, which delays nobody's end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: Exception | None) -> None:
        if future.done():  # nobody waits for it any more
            return
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(finish, result, error)

    Thread(target=run, daemon=True).start()
    return await future
