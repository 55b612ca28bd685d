"""One thread that waits for sockets, for moments in time and for other threads.

It is a small part of what `asyncio` does, under the same names. `asyncio` itself
takes 3 MB more, an eighth of the memory that the whole service has.
"""

from __future__ import annotations

import logging
import sched
import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

__all__ = ["EventLoop"]


class EventLoop:
    """Calls back when a socket is ready, a time has come or another thread asks for it.

    All methods but `call_soon_threadsafe` belong to the thread that runs the loop.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers = sched.scheduler(monotonic)
        self._calls: deque[Callable[[], None]] = deque()
        self._running = True
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self.watch(self._wake_receiver, selectors.EVENT_READ, self._woken)

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], None]) -> None:
        """From now on calls `callback` with those of `events` that are ready; 0 ends it.

        A socket must not be closed while it is watched.
        """
        watched = sock in self._selector.get_map()
        if not events:
            if watched:
                self._selector.unregister(sock)
        elif watched:
            self._selector.modify(sock, events, callback)
        else:
            self._selector.register(sock, events, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after all that is ready now has had its turn."""
        self._calls.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Calls `callback` when that time has passed."""
        self._timers.enter(seconds, 0, callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """`call_soon` for other threads and for signal handlers."""
        self._calls.append(callback)
        with suppress(OSError):  # it is full: enough to wake up; or closed: nobody is there to
            self._wake_sender.send(b"\0")

    def _woken(self, _events: int) -> None:
        self._wake_receiver.recv(4096)

    def run(self) -> None:
        """Runs until `stop` is called."""
        while self._running:
            try:
                self._turn()
            except Exception:  # a defect; it must not end all that others wait for
                logging.exception("defect in what the event loop has called")

    def _turn(self) -> None:
        delay = self._timers.run(blocking=False)
        at_once = self._calls or not self._running
        for key, events in self._selector.select(0 if at_once else delay):
            key.data(events)
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    def stop(self) -> None:
        """Ends `run` after this turn."""
        self._running = False

    def close(self) -> None:
        """Frees what the loop holds; what is still watched is left to its owner."""
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()
