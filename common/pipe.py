"""Bytes from a client and to it, perhaps through TLS; and two things to wait for: more, and sent."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from contextlib import suppress
from time import monotonic
from typing import Protocol

from common.tls import Channel

# What is read at a time, and how much is read ahead while a request is being answered.
READ_SIZE = 16 * 1024

# Who has connected with TLS has so many seconds for the handshake before a request, even if
# the server stops meanwhile.
NEWCOMER_TIME = 0.5


class Gone(Exception):
    """The connection is no more."""


class Owner(Protocol):
    """Who keeps account of the pipes."""

    # One for all pipes: it is read before another is asked. (What a `Protocol` is given may be
    # 256 KiB at a time, from each of thousands of connections.)
    buffer: memoryview

    def opened(self, pipe: Pipe) -> None:
        """A client has connected; has it served."""

    def closed(self, pipe: Pipe) -> None:
        """The connection is no more."""

    def holds(self, pipe: Pipe, size: int) -> None:
        """So many bytes are kept for this pipe while it waits. It may be closed for that."""


class Pipe(asyncio.BufferedProtocol):
    """One connection. One coroutine reads from it and writes to it; what it may wait for raises `Gone`."""

    transport: asyncio.Transport

    def __init__(self, owner: Owner, context: ssl.SSLContext | None = None) -> None:
        self.received = bytearray()  # and not taken yet
        self.deadline = math.inf  # when the owner closes it
        self.has_ended = False  # the client, which sends no more
        self.is_closing = False  # our side is closed, what still comes is discarded
        self.is_unsent = False  # something of what was written
        self._owner = owner
        self._held = 0  # bytes, as the owner knows
        self._channel = Channel(context) if context else None  # through which all goes
        # Until then its first request may be on its way.
        self._newcomer_until = monotonic() + NEWCOMER_TIME if context else 0.0
        self._wanted = 0  # whoever waits, waits for more bytes than so many
        self._waiter: asyncio.Future[None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=1, low=0)  # `is_unsent` is then what it says
        self._owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.closed(self)
        self._wake()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.is_closing or self.has_ended:  # also of a client that goes on behind its end
            return
        data = self._owner.buffer[:nbytes]
        self.received += data if self._channel is None else self._decrypt(self._channel, data)
        if self._waiter and (len(self.received) > self._wanted or self.has_ended):
            self._wake()
        else:
            self._keep()

    def _decrypt(self, channel: Channel, data: memoryview) -> bytes:
        was_open = channel.is_open
        try:
            said = channel.decrypt(data)
        except ssl.SSLError as error:
            logging.debug("no TLS with %s: %s", self.transport.get_extra_info("peername"), error)
            self.transport.write(channel.pending())  # says why
            self.transport.close()
            return b""
        self.transport.write(channel.pending())
        self.has_ended = channel.has_ended
        if channel.is_open and not was_open:
            self._wake()
        return said

    def _keep(self) -> None:
        """Keeps what has come: it is not all that is waited for, or there is no time for it yet."""
        self._account()
        if self._waiter is None and len(self.received) > READ_SIZE:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.has_ended = True
        self._wake()
        return True  # it may still be answered

    def pause_writing(self) -> None:
        self.is_unsent = True
        self.transport.pause_reading()  # who does not read is not read from
        self._account()

    def resume_writing(self) -> None:
        self.is_unsent = False
        self._account()
        self._wake()

    def _account(self) -> None:
        if self.transport.is_closing():
            return  # what is kept goes with it
        unsent = self.transport.get_write_buffer_size() if self.is_unsent else 0
        held = len(self.received) + unsent
        if held != self._held:
            self._held = held
            self._owner.holds(self, held)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # What the coroutine calls.

    async def shake_hands(self) -> bool:
        """Waits until what is said is secret; False if it is not to be."""
        if self._channel is None:
            return False
        while not (self._channel.is_open or self.has_ended or self.is_closing):
            await self._wait()
        return True

    async def more(self, than: int) -> bool:
        """Waits for more than so many bytes, until the client sends no more; whether they are there."""
        self._wanted = than
        while len(self.received) <= than:
            if self.has_ended or self.is_closing:
                return False
            await self._wait()
        return True

    def take(self, size: int) -> bytearray:
        """The first so many bytes that have come, which are no longer kept here."""
        taken, self.received = self.received, bytearray()
        if size < len(taken):
            self.received += taken[size:]
            del taken[size:]
        if self._held:
            self._account()
        return taken

    def write(self, data: bytes) -> None:
        """Sends this, or what the kernel does not take of it later. Raises `Gone`."""
        if self.transport.is_closing():
            raise Gone
        self.transport.write(self._channel.encrypt(data) if self._channel else data)

    async def sent(self) -> None:
        """Waits until all that was written is sent."""
        while self.is_unsent:
            await self._wait()

    def end(self) -> None:
        """Says that nothing more will be sent, and reads what still comes only to discard it."""
        if self.is_closing:
            return
        self.is_closing = True
        self.received = bytearray()
        self._account()
        if self._channel:
            self.transport.write(self._channel.end())
        with suppress(OSError):  # the client is gone already
            self.transport.write_eof()
        self.transport.resume_reading()

    async def ended(self) -> None:
        """Waits until the client sends no more."""
        while not self.has_ended:
            await self._wait()

    async def _wait(self) -> None:
        if self.transport.is_closing():
            raise Gone
        if self.received:
            self._account()
        if not (self.is_unsent or self.has_ended):
            self.transport.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # What the owner does.

    def close(self) -> None:
        """Closes the connection when what was written is sent."""
        self.transport.close()

    def dismiss(self) -> None:
        """Closes our side unless a request is being answered, has begun to arrive or may do."""
        is_silent = self._waiter and not self._waiter.done() and not self.received
        if is_silent and not self.is_unsent and monotonic() >= self._newcomer_until:
            self.end()
            self._wake()

    def abort(self) -> None:
        """Closes the connection, whatever its state."""
        self.transport.abort()
