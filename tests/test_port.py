"""A port by itself: probes on it, what it keeps account of, and how late the event loop is."""

from __future__ import annotations

import asyncio
import socket
import time
import unittest
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from unittest import mock

from common import lateness, port
from common.lateness import Lateness
from common.listening import listen
from common.metrics import render
from common.port import Port
from common.probes import ProbesHandler, Status
from tests.support import DEADLINE, Remote

MAX_CONNECTIONS = 8


@asynccontextmanager
async def probed(status: Status) -> AsyncIterator[tuple[Port, Remote]]:
    """A port that answers probes, and a client, which is for other threads."""
    listener = listen("127.0.0.1", 0)
    number = listener.getsockname()[1]
    probes = Port(partial(ProbesHandler, status), MAX_CONNECTIONS)
    await probes.listen(listener)
    try:
        yield probes, Remote(number)
    finally:
        await probes.drain()


async def wait_until_true(condition: partial[bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


def connect_slowly(stack: ExitStack, remote: Remote) -> socket.socket:
    connection = stack.enter_context(remote.connect())
    connection.sendall(b"GET /he")
    return connection


class LoopTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        # In debug mode, it is no warning that a test is slow.
        asyncio.get_running_loop().slow_callback_duration = DEADLINE


class ProbesTest(LoopTest):
    async def test_what_is_told(self) -> None:
        status = Status(lambda: [status.requests])
        async with probed(status) as (_, remote):
            for is_stopping, ready in ((False, 200), (True, 503)):
                status.is_stopping = is_stopping
                with self.subTest(is_stopping=is_stopping):
                    for path, code in (("/healthz", 200), ("/readyz", ready), ("/", 404)):
                        answer = await asyncio.to_thread(remote.request, path)
                        self.assertEqual(answer.status, code)
            scraped = (await asyncio.to_thread(remote.request, "/metrics")).body
        self.assertIn('requests_total{endpoint="/readyz",status="503"} 1', scraped)

    async def test_however_many_slow_clients_there_are_probes_are_answered(self) -> None:
        async with probed(Status(list)) as (_, remote):
            with ExitStack() as stack:
                for _ in range(5 * MAX_CONNECTIONS):
                    await asyncio.to_thread(connect_slowly, stack, remote)
                answer = await asyncio.to_thread(remote.request, "/healthz")
        self.assertEqual(answer.status, 200)


class AccountTest(LoopTest):
    async def test_what_is_kept_of_a_client_is_forgotten_with_it(self) -> None:
        async with probed(Status(list)) as (probes, remote):
            with ExitStack() as stack:
                for _ in range(3):
                    await asyncio.to_thread(connect_slowly, stack, remote)
                await wait_until_true(partial(lambda: list(probes._held.values()) == [7] * 3))
                self.assertEqual(probes._all_held, 21)
            await wait_until_true(partial(lambda: not probes.connections))
        self.assertEqual((probes._held, probes._all_held), ({}, 0))

    async def test_who_has_had_something_for_the_longest_makes_room(self) -> None:
        async with probed(Status(list)) as (probes, remote):
            with mock.patch.object(port, "MAX_HELD", 20), ExitStack() as stack:
                first, second, third = [
                    await asyncio.to_thread(connect_slowly, stack, remote) for _ in range(3)
                ]
                await wait_until_true(partial(lambda: probes._all_held == 14))
                self.assertEqual(await asyncio.to_thread(first.recv, 1), b"")
                for each in (second, third):
                    each.sendall(b"althz HTTP/1.0\r\n\r\n")
                    answer = await asyncio.to_thread(each.recv, 65536)
                    self.assertIn(b"200 OK", answer)
            self.assertEqual(probes._all_held, 0)


class LatenessTest(LoopTest):
    async def test_a_loop_that_hangs_is_late(self) -> None:
        late = Lateness()
        watching = asyncio.create_task(late.watch())
        with mock.patch.object(lateness, "INTERVAL", 0.001):
            await asyncio.sleep(0)
            time.sleep(0.1)
            await asyncio.sleep(0.01)
        watching.cancel()
        name, value = render([late.counter]).decode().splitlines()[-1].split()
        self.assertEqual(name, "automatic_zone_placement_event_loop_late_seconds_total")
        self.assertGreater(float(value), 0.05)


if __name__ == "__main__":
    unittest.main()
