"""Who gets the connections: three workers on one listening socket, before and after they were replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect as connect_blocking
from websockets.typing import Subprotocol

from realtime.server.supervisor import bind
from tests.conftest import aeventually, eventually
from tests.e2e.test_supervisor import PATIENCE_S, Workers
from tests.e2e.wire import token
from tests.servers import Postgres, Redis, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

WORKERS = 3
CLIENTS = 300


class Three(Workers):
    count = WORKERS


@pytest.fixture(scope="module")
def site(postgres_server: Postgres, redis_server: Redis) -> Iterator[Three]:
    database = postgres_server.create_database("balance")
    with Three(DATABASE_URL=database, REDIS_URL=redis_server.url) as workers:
        # All of them, not only those that answered first.
        seen: set[str] = set()

        def everybody_serves() -> bool:
            seen.add(worker_at(workers.url))
            return len(seen) == WORKERS

        eventually(everybody_serves, PATIENCE_S)
        yield workers


def worker_at(url: str) -> str:
    """A worker that accepts a connection now."""
    link = connect_blocking(
        url.replace("http", "ws", 1) + "/ws",
        subprotocols=[Subprotocol("seriatim.v1.json")],
        additional_headers={"Authorization": f"Bearer {token('first')}"},
        open_timeout=PATIENCE_S,
    )
    with link:
        return str(json.loads(link.recv(PATIENCE_S))["worker"])


class Crowd:
    """Clients that come back whenever they are sent away; at which worker each is."""

    def __init__(self, port: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/ws"
        self._tasks: list[asyncio.Task[None]] = []
        self.at: dict[int, str] = {}

    async def come(self, count: int, every_s: float) -> None:
        for _ in range(count):
            self._tasks.append(asyncio.ensure_future(self._stay(len(self._tasks))))
            await asyncio.sleep(every_s)
        await self.all_here()

    async def all_here(self) -> None:
        await aeventually(lambda: len(self.at) == len(self._tasks), PATIENCE_S, what="all are connected")

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def counts(self) -> list[int]:
        return sorted(Counter(self.at.values()).values())

    async def _stay(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {token(f'c{number}')}"}
        while True:
            with contextlib.suppress(ConnectionClosed, InvalidHandshake, OSError):
                async with connect(
                    self._url,
                    subprotocols=[Subprotocol("seriatim.v1.json")],
                    additional_headers=headers,
                    open_timeout=PATIENCE_S,
                ) as link:
                    async for text in link:
                        frame = json.loads(text)
                        if frame["type"] == "ready":
                            self.at[number] = frame["worker"]
            self.at.pop(number, None)
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def crowd(site: Three, every_s: float) -> AsyncIterator[Crowd]:
    found = Crowd(site.port)
    try:
        await found.come(CLIENTS, every_s)
        yield found
    finally:
        await found.leave()


@pytest.mark.parametrize("every_s", [0.0, 0.01], ids=["quickly", "slowly"])
async def test_connections_are_shared_evenly(site: Three, every_s: float) -> None:
    async with crowd(site, every_s) as here:
        counts = here.counts()
    assert len(counts) == WORKERS and counts[0] >= CLIENTS / WORKERS / 2, counts


async def test_they_are_even_again_when_all_workers_were_replaced(site: Three) -> None:
    """Without a table of who has how many, the last one to be replaced would have the fewest from then on."""
    async with crowd(site, 0.0) as here:
        before = site.workers()
        os.kill(site.process.pid, signal.SIGHUP)
        await aeventually(
            lambda: not before & site.workers() and len(site.workers()) == WORKERS, PATIENCE_S, what="replaced"
        )
        await here.all_here()
        replaced = here.counts()
        assert len(replaced) == WORKERS and replaced[0] >= CLIENTS / WORKERS / 3, replaced
        # On a busy machine a worker that is just starting may be too slow to get all that it should; the next ones
        # are for whoever has fewer.
        await here.come(CLIENTS // 3, 0.02)
        counts = here.counts()
    assert counts[0] >= 0.8 * sum(counts) / WORKERS, (replaced, counts)


# ---------------------------------------------------------------------- addresses


def test_the_shared_socket_may_be_of_either_family() -> None:
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        try:
            socket.create_server((host, 0), family=family).close()
        except OSError:
            # This machine does not have the family: then it is refused, and not taken for the other.
            with pytest.raises(OSError):
                bind(host, free_port(), 16)
            continue
        with bind(host, free_port(), 16) as listening:
            assert listening.family == family
            socket.create_connection(listening.getsockname()[:2]).close()
