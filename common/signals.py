"""SIGTERM and SIGINT: the first one stops the program, a second one ends it at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

STOPPING = (signal.SIGTERM, signal.SIGINT)


def end_at_once() -> None:
    """Has the signals end the process, as long as nobody else heeds them.

    By itself they would not end process 1 of a container.
    """
    for number in STOPPING:
        signal.signal(number, lambda number, _: os._exit(128 + number))


def heed(stop: Callable[[], None]) -> None:
    """Has the first signal call `stop` on the event loop, which runs."""
    is_stopping = False

    def heard(number: signal.Signals) -> None:
        nonlocal is_stopping
        if is_stopping:
            os._exit(128 + number)
        is_stopping = True
        logging.info("%s: no longer ready", number.name)
        stop()

    for each in STOPPING:
        asyncio.get_running_loop().add_signal_handler(each, heard, each)
