"""HTTP/1.1 on a pipe: one coroutine a connection, which reads from top to bottom.

`http.server` gives a thread to each connection, or all of them the same one. Here a
connection costs a coroutine, and a handler gets to work when a whole request is there.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from time import monotonic
from typing import Protocol

from common.handler import Handler
from common.pipe import Gone, Pipe
from common.request import head_size

# Between requests: longer than the clients of Go's net/http keep an idle connection
# (90 s), so that it is never ours to close just when they send the next request.
IDLE_TIMEOUT = 120.0

# For a head to arrive, whether nothing of it comes or a byte now and then, with the
# handshake if there is one; for a body; and for a client to read its answer, or to
# close its side after the last one.
HEAD_TIMEOUT = 15.0
BODY_TIMEOUT = 15.0
SEND_TIMEOUT = 15.0
LINGER_TIMEOUT = 15.0

# What a pipe's deadline is while its client waits for us.
NEVER = math.inf


class Endpoint(Protocol):
    """Where the client has connected."""

    draining: bool  # each connection ends with the answer that it waits for

    def handler(self, head: bytes) -> Handler:
        """Who answers the request with this head."""

    def answered(self, pipe: Pipe) -> None:
        """The pipe has been of use just now."""


async def serve(pipe: Pipe, endpoint: Endpoint) -> None:
    """Answers a client's requests, one after another in their order, until there are no more."""
    with suppress(Gone):
        if await pipe.shake_hands():
            pipe.deadline = monotonic() + IDLE_TIMEOUT  # clients open some that they need later
        while await _exchange(pipe, endpoint):
            if pipe.received:
                await asyncio.sleep(0)  # the others have their turn: nobody gains by pipelining
        await _close(pipe)


async def _exchange(pipe: Pipe, endpoint: Endpoint) -> bool:
    """Answers a request, if there is one; whether another may follow."""
    size = await _read_head(pipe)
    if not size:
        return False
    handler = endpoint.handler(bytes(pipe.received[:size]))
    if handler.parse_request() and handler.length:
        if not await _read_body(pipe, size, handler):
            return False
    else:
        pipe.take(size)
    pipe.deadline = NEVER
    response = await handler.answer()
    handler.close_connection = handler.close_connection or endpoint.draining
    endpoint.answered(pipe)
    pipe.deadline = monotonic() + IDLE_TIMEOUT
    pipe.write(handler.encoded(response))
    if pipe.is_unsent:
        del response  # which is as large, and may take a while
        await _send(pipe)
    return not handler.close_connection


async def _read_head(pipe: Pipe) -> int:
    """The size of the next head, which has come then; 0 if there is no more."""
    if not await pipe.more(0):
        return 0
    size = _next_head(pipe)
    if not size:
        pipe.deadline = monotonic() + HEAD_TIMEOUT
    while not size:
        if not await pipe.more(len(pipe.received)):
            return 0
        size = _next_head(pipe)
    return size


def _next_head(pipe: Pipe) -> int:
    if pipe.received.startswith(b"\r\n"):  # RFC 9112, section 2.2
        pipe.take(2)
    return head_size(pipe.received)


async def _read_body(pipe: Pipe, size: int, handler: Handler) -> bool:
    """Takes head and body from the pipe, for the handler; False if the client ends before."""
    pipe.deadline = monotonic() + BODY_TIMEOUT
    if handler.is_held_back and len(pipe.received) == size:
        pipe.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not await pipe.more(size + handler.length - 1):
        return False
    whole = pipe.take(size + handler.length)
    del whole[:size]
    handler.body = whole
    return True


async def _send(pipe: Pipe) -> None:
    pipe.deadline = monotonic() + SEND_TIMEOUT
    await pipe.sent()
    pipe.deadline = monotonic() + IDLE_TIMEOUT


async def _close(pipe: Pipe) -> None:
    # Were both sides closed with something of the client's unread, the kernel would send
    # a reset, which may overtake the answer (RFC 9112, section 9.6).
    pipe.deadline = monotonic() + LINGER_TIMEOUT
    pipe.end()
    await pipe.ended()
