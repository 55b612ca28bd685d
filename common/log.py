"""The log: lines on standard error, written by a thread, so that nobody else waits for it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from time import localtime, strftime, time
from typing import Any

from common.metrics import Counter

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"  # ISO 8601

# Lines that wait to be written, some 2 MB. What comes when there are so many is dropped.
MAX_LINES = 10_000

# Seconds between writes: under load, the thread is not woken for each line.
PAUSE = 0.05

# At the end, the thread has so many seconds to write what is left.
CLOSE_TIMEOUT = 2.0


class Line(logging.LogRecord):
    """What a line shows, which is half the work of what `logging` notes of a record."""

    def __init__(
        self,
        name: str,
        level: int,
        _path: str,
        _line: int,
        msg: object,
        args: Any,
        exc_info: Any,
        *_: object,
        **__: object,
    ) -> None:
        self.name, self.levelno, self.levelname = name, level, logging.getLevelName(level)
        self.msg, self.args = msg, args
        self.exc_info, self.exc_text, self.stack_info = exc_info, None, None
        self.created = time()


class LineFormatter(logging.Formatter):
    """Formats the time once a second, not once a line."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _timestamp(int(record.created))

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info:
            return super().format(record)
        return f"{_timestamp(int(record.created))} {record.levelname} {record.getMessage()}"


@lru_cache(maxsize=1)
def _timestamp(second: int) -> str:
    return strftime(TIME_FORMAT, localtime(second))


class LineHandler(logging.Handler):
    """Hands lines to a thread that writes them to a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.dropped = Counter("log_lines_dropped_total", "Log lines that could not be written.")
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= MAX_LINES:
            self.dropped.increment()
            return
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:
            self.handleError(record)
        self._wake.set()

    def _run(self) -> None:
        while not self._closing.wait(PAUSE):
            self._wake.wait()
            self._wake.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        data = "".join(lines).encode(errors="backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # nobody reads it any more
            self.dropped.increment(by=len(lines))

    def close(self) -> None:
        """Writes what is left, unless nobody reads it. `logging` calls it when the process ends."""
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT)
        super().close()


def warn(warnings: Iterable[str]) -> None:
    """A line for each warning."""
    for warning in warnings:
        logging.warning("%s", warning)


def start(level: str) -> LineHandler | None:
    """Logs from this level on to standard error; None if that is closed."""
    logging.raiseExceptions = False  # a line that cannot be formatted must not cost an answer
    logging.root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.INFO)  # which selector it uses is of no use
    if sys.stderr is None:
        logging.root.addHandler(logging.NullHandler())
        return None
    # What no line shows is not looked up (https://docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None
    logging.setLogRecordFactory(Line)
    handler = LineHandler(sys.stderr.fileno())
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.root.addHandler(handler)
    return handler
