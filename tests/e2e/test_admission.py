"""Limits on connections, on the real server: refused before the upgrade, counted right, and no second storm."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.storm import Storm
from tests.conftest import MS, aeventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, connect, handshake_bytes, request, talker, token

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]


@asynccontextmanager
async def started(**variables: str) -> AsyncIterator[ServerProcess]:
    server = ServerProcess(database_url=None, **variables)  # type: ignore[arg-type]  # none of them is `workers`
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.close)


async def answer_to(server: ServerProcess, *, path: str = "/ws", headers: str = "", cut: int | None = None) -> bytes:
    """What a handshake is answered with, to the end of the connection or of the head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(handshake_bytes(server.port, token("ana"), path=path, headers=headers)[:cut])
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10_000 * MS)
    finally:
        writer.transport.abort()


async def test_a_full_worker_refuses_before_the_upgrade_and_says_when_to_come_back() -> None:
    async with started(REALTIME_CONNECTIONS_MAX="2") as server:
        inside = [await talker(server.port, token("ana")) for _ in range(2)]
        head = await answer_to(server)
        assert head.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in head.lower()
        waits = [int((await answer_to(server)).lower().split(b"retry-after: ")[1].split(b"\r")[0]) for _ in range(20)]
        assert min(waits) >= 1
        # Pages, REST and probes are served all the same.
        status, answer = await request(server.port, "GET", "/readyz")
        assert (status, answer["checks"]["admitting"]) == (503, False)
        assert (await request(server.port, "GET", "/healthz"))[0] == 200
        await inside[0].close()
        await aeventually(lambda: ready(server), 10_000 * MS)
        (await talker(server.port, token("bo"))).abort()


async def ready(server: ServerProcess) -> bool:
    return (await request(server.port, "GET", "/readyz"))[0] == 200


async def test_handshakes_that_fail_take_no_room() -> None:
    async with started(REALTIME_CONNECTIONS_MAX="3") as server:
        for _ in range(4):
            assert b" 403 " in await answer_to(server, headers="Origin: http://elsewhere.example\r\n")
            assert b" 400 " in await answer_to(server, headers="Sec-WebSocket-Protocol: other\r\n")
            assert b" 400 " in await answer_to(server, headers="Sec-WebSocket-Key: again\r\n")
            assert b" 400 " in await answer_to(server, headers="X-Odd: a\x0bb\r\n")
            assert b" 404 " in await answer_to(server, path="/elsewhere")
            with pytest.raises((asyncio.IncompleteReadError, TimeoutError, OSError)):
                await asyncio.wait_for(answer_to(server, cut=-2), 50 * MS)
            dropped = Talker()
            await connect(server.port, token("ana"), into=dropped)
            dropped.abort()
            await asyncio.sleep(20 * MS)
        inside = [await talker(server.port, token("ana")) for _ in range(3)]
        assert b" 503 " in await answer_to(server)
        for each in inside:
            each.abort()


async def test_addresses_are_those_that_a_trusted_proxy_has_seen() -> None:
    async with started(REALTIME_CONNECTIONS_PER_ADDRESS_MAX="1", TRUSTED_PROXIES="127.0.0.0/8") as server:
        first = await talker(server.port, token("ana"), headers="X-Forwarded-For: 203.0.113.7\r\n")
        forged = "X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\n"
        assert b" 503 " in await answer_to(server, headers=forged)
        # Others are not held up by it, and nobody is told that the worker is not ready.
        other = await talker(server.port, token("ana"), headers="X-Forwarded-For: 203.0.113.8\r\n")
        assert (await request(server.port, "GET", "/readyz"))[0] == 200
        for each in (first, other):
            each.abort()


CLIENTS, ROOM, RATE = 200, 80, 40


async def test_a_storm_is_let_in_as_there_is_room_and_does_not_come_back_as_one() -> None:
    """The small form of `python -m bench.storm`."""
    async with started(
        REALTIME_CONNECTIONS_MAX=str(ROOM + 1),
        REALTIME_CONNECTIONS_PER_S=str(RATE),
        REALTIME_CONNECTIONS_BURST=str(RATE),
    ) as server:
        bystander = await talker(server.port, token("bystander"))
        await bystander.ask({"type": "attach", "ref": 1, "channel": "lobby"})
        hellos = [handshake_bytes(server.port, token(f"storm{number}")) for number in range(CLIENTS)]
        storm = Storm(server.port, hellos)
        over = asyncio.Event()
        latencies_s: list[float] = []
        noticing = asyncio.ensure_future(notice(bystander, latencies_s, over))
        full_at, most_inside = None, 0
        deadline = time.monotonic() + 90
        while storm.served < CLIENTS and time.monotonic() < deadline:
            await asyncio.to_thread(storm.turn)
            most_inside = max(most_inside, len(storm.inside))
            if full_at is None and len(storm.inside) == ROOM:
                full_at = time.monotonic()
            if full_at is not None and time.monotonic() - full_at > 3:
                storm.leave(1)
        over.set()
        await noticing
        tally = storm.take_tally()
        storm.leave(CLIENTS)
        tries = storm.tries_at
        by_second, waits = [tries[second] for second in range(max(tries) + 1)], tally.retry_after_s
        print(f"{sum(by_second)} tries of {CLIENTS}, by second {by_second}")
        print(f"Retry-After {statistics.median(waits)} s in the middle, {max(waits)} s at most")
        print(
            f"publish → receive {statistics.median(latencies_s) * 1000:.0f} ms, at most {max(latencies_s) * 1000:.0f}"
        )
        assert storm.served == CLIENTS, "somebody never got in"
        assert most_inside <= ROOM
        assert not tally.other and not storm.lost
        assert tally.refused >= CLIENTS - ROOM - RATE
        # The more were refused before it, the longer one waits; a fixed wait would bring all back together.
        assert max(waits) >= (CLIENTS - ROOM) / RATE
        first_s = next(second for second, count in enumerate(by_second) if count < 2 * RATE)
        assert max(by_second[first_s:]) <= 3 * RATE
        assert max(latencies_s) < 2
        bystander.abort()


async def notice(bystander: Talker, latencies_s: list[float], over: asyncio.Event) -> None:
    """Publishes ten messages a second and waits for each to come."""
    number = 0
    while not over.is_set():
        number += 1
        began = time.monotonic()
        bystander.send({"type": "publish", "channel": "lobby", "messages": [{"data": number}]})
        while (await bystander.until("message"))["data"] != number:
            pass
        latencies_s.append(time.monotonic() - began)
        await asyncio.sleep(100 * MS)
