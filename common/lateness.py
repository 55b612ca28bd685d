"""How late the event loop is: while it hangs, nobody is answered."""

from __future__ import annotations

import asyncio

from common.metrics import Counter

# Seconds between two looks. What hangs for less is seen in part only.
INTERVAL = 0.1

# By so much a timer of a loop that has nothing to do may be late: it counts in milliseconds.
TOLERANCE = 0.01


class Lateness:
    """Counts the seconds by which the event loop came too late to a timer."""

    def __init__(self) -> None:
        self.counter = Counter(
            "event_loop_late_seconds_total",
            "Seconds by which the event loop came too late to its timer.",
        )

    async def watch(self) -> None:
        """Looks now and then, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL
            await asyncio.sleep(INTERVAL)
            late = loop.time() - due
            if late > TOLERANCE:
                self.counter.increment(by=round(late, 6))
