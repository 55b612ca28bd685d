"""The program: rounds and the election in threads, and beside them the port for probes and scrapes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread

from common.kubernetes import KubernetesError
from common.port import Port
from common.probes import ProbesHandler, Status
from common.signals import heed
from relocation.rounds import Relocator

# Connections to the port at once: far more than a kubelet and a Prometheus have. If others open as
# many, the longest idle one makes room.
MAX_CONNECTIONS = 32

# Seconds that a call in flight has to end in after SIGTERM, and as many to give back the Lease.
PATIENCE = 1.0


class Program:
    """A relocator at work, and who asks how it is doing."""

    def __init__(self, relocator: Relocator) -> None:
        self.relocator = relocator
        self.status = Status(relocator.metrics.families)
        self.port = Port(partial(ProbesHandler, self.status), MAX_CONNECTIONS)
        self._stopping = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Works until SIGTERM or SIGINT; a second one ends the process at once."""
        heed(self.stop)
        address, port, *_ = listener.getsockname()
        changed = " ".join(self.relocator.settings.changed(os.environ)) or "all by default"
        logging.info("metrics on %s port %d, settings: %s", address, port, changed)
        await self.serve(listener)
        logging.info("stopped")

    def stop(self) -> None:
        """Begins no other round, nor another eviction."""
        self.status.is_stopping = True
        self.relocator.stopping.set()
        self._stopping.set()

    async def serve(self, listener: socket.socket) -> None:
        """Works until `stop` is called. What is in flight then has a second to end."""
        await self.port.listen(listener)
        election, stopping = self.relocator.election, self.relocator.stopping
        _start(partial(election.run, stopping))
        worker = _start(self.relocator.run)
        await self._stopping.wait()
        await asyncio.to_thread(worker.join, PATIENCE)
        if not worker.is_alive():  # else it may be evicting somebody: nobody else may begin yet
            await asyncio.to_thread(_start(self._release).join, PATIENCE)
        await self.port.drain()

    def _release(self) -> None:
        with suppress(KubernetesError):
            self.relocator.election.release()


def _start(work: Callable[[], None]) -> Thread:
    """A daemon: a call that hangs does not keep the process."""
    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread
