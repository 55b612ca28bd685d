"""A port: it keeps account of its connections, the longest idle one first, and closes those overdue."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from itertools import islice
from time import monotonic
from typing import Any

from common import connection
from common.connection import NEVER
from common.handler import Handler
from common.listening import BACKLOG
from common.pipe import READ_SIZE, Pipe

# Of all connections together, what has come of requests that are not complete or not yet
# looked at, and what of answers is not sent. Twice the largest review, and nothing besides what
# the connections themselves take.
MAX_HELD = 16 * 1024 * 1024

# Deadlines are looked at so often.
SWEEP_INTERVAL = 1.0

# When descriptors run out, it is said, and connections make room, so often.
SHORTAGE_INTERVAL = 0.5

# When it stops, a port waits so many seconds for requests in flight.
DRAIN_TIMEOUT = 5.0

# Connections that are accepted before those that are open have their turn. Fewer where few
# may be open: it is some turns before one is counted, and another makes room for it.
ACCEPTED_AT_ONCE = 64

LoopHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


class Port:
    """Serves who connects to it: with TLS, if there is a `context` for who connects now."""

    def __init__(
        self,
        handler: Callable[[bytes], Handler],
        max_connections: int,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self.handler = handler
        self.max_connections = max_connections
        self.draining = False  # from the moment it is told to stop
        self.connections: OrderedDict[Pipe, None] = OrderedDict()
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._context = context
        self._held: dict[Pipe, int] = {}  # bytes, the one first that has had some for the longest
        self._all_held = 0
        self._listeners: list[socket.socket] = []
        self._accepted_at_once = min(ACCEPTED_AT_ONCE, max(4, max_connections // 8))
        self._refusing_until = 0.0  # for want of descriptors, as has been said
        self._tasks: set[asyncio.Task[None]] = set()
        self._handled_before: LoopHandler | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Begins to serve those who connect to the socket."""
        loop = asyncio.get_running_loop()
        self._handled_before = loop.get_exception_handler()
        loop.set_exception_handler(self._loop_failed)
        self._start(self._close_overdue())
        # To asyncio, a backlog is also the number of connections that it accepts at once.
        await loop.create_server(self._pipe, sock=listener, backlog=self._accepted_at_once)
        listener.listen(BACKLOG)
        self._listeners.append(listener)

    def number_open(self) -> int:
        """How many connections are open."""
        return len(self.connections)

    def _pipe(self) -> Pipe:
        return Pipe(self, self._context() if self._context else None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself would let it be collected
        task.add_done_callback(self._tasks.discard)

    async def _close_overdue(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = monotonic()
            for each in list(self.connections):
                if each.deadline < now:
                    each.abort()

    # What its pipes say.

    def opened(self, pipe: Pipe) -> None:
        if len(self.connections) >= self.max_connections:
            self._make_room()
        pipe.deadline = monotonic() + connection.HEAD_TIMEOUT
        self.connections[pipe] = None
        self._start(self._serve(pipe))

    async def _serve(self, pipe: Pipe) -> None:
        try:
            await connection.serve(pipe, self)
        finally:
            pipe.close()

    def answered(self, pipe: Pipe) -> None:
        """Notes that the connection has been of use just now."""
        if pipe in self.connections:
            self.connections.move_to_end(pipe)

    def holds(self, pipe: Pipe, size: int) -> None:
        """Takes account of so many bytes that are kept for the pipe.

        If all of them are too many, it is who has had some for the longest that makes room: an
        API server takes milliseconds.
        """
        self._all_held += size - self._held.pop(pipe, 0)
        if size:
            self._held[pipe] = size
        while self._all_held > MAX_HELD:
            self._close(next(iter(self._held)))

    def closed(self, pipe: Pipe) -> None:
        self.connections.pop(pipe, None)
        self._all_held -= self._held.pop(pipe, 0)

    # When there are too many.

    def _close(self, pipe: Pipe) -> None:
        pipe.abort()
        self.closed(pipe)

    def _make_room(self, places: int = 1) -> None:
        """Closes the longest idle connections, or if all are kept waiting the first of these."""
        idle = (each for each in self.connections if each.deadline < NEVER)
        for each in list(islice(idle, places)) or list(islice(self.connections, 1)):
            self._close(each)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._lacks_descriptors(error)
        elif self._handled_before is None:
            loop.default_exception_handler(context)
        if self._handled_before is not None:  # by another port
            self._handled_before(loop, context)

    def _lacks_descriptors(self, error: OSError) -> None:
        # asyncio says it for each that it would have accepted, and tries again after a second.
        if self._refusing_until < monotonic():
            self._refusing_until = monotonic() + SHORTAGE_INTERVAL
            logging.warning("no connection can be accepted: %s", error.strerror)
            self._make_room(min(self._accepted_at_once, max(1, len(self.connections) // 2)))

    # The end.

    async def drain(self) -> None:
        """Closes the listeners, lets requests in flight finish, and closes all connections."""
        self.draining = True
        await self._turns()  # who has come by now is accepted
        while self._listeners:
            self._stop_listening(self._listeners.pop())
        await self._turns()  # and what they have sent by now is read
        await self._finish()
        for each in list(self.connections):
            each.abort()
        for task in self._tasks:
            task.cancel()
        await self._turns()

    def _stop_listening(self, listener: socket.socket) -> None:
        # Not `asyncio.Server.close`: that lets down who has been accepted just now.
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()

    async def _turns(self) -> None:
        for _ in range(BACKLOG // self._accepted_at_once):
            await asyncio.sleep(0)

    async def _finish(self) -> None:
        deadline = monotonic() + DRAIN_TIMEOUT
        while monotonic() < deadline:
            for each in list(self.connections):
                each.dismiss()  # again: it may not have been the time for it before
            if all(each.is_closing for each in self.connections):
                return
            await asyncio.sleep(0.01)
