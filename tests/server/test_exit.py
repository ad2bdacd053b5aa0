"""A process that is told to end does so within its drain time, whatever hangs, and tells its clients what it can."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import time
from typing import Any

import pytest

from tests.conftest import MS, aeventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, request, talker, token

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

DRAIN_S = 4
EXIT_S = 2
PATIENCE_S = 60_000 * MS
"""What a busy machine adds."""


class HangingServer(ServerProcess):
    def __init__(self, drain_s: float = DRAIN_S, first_request_s: float | None = None) -> None:
        waits: dict[str, Any] = {} if first_request_s is None else {"FIRST_REQUEST_S": str(first_request_s)}
        super().__init__(REALTIME_DRAIN_S=str(int(drain_s)), **waits)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.server.hang_serve", "--port", str(self.port)]

    async def ended(self) -> int:
        """Waits for the end; its status."""
        await aeventually(lambda: not self.running, DRAIN_S + EXIT_S + PATIENCE_S)
        assert self._process is not None
        return self._process.wait()


async def test_an_idle_process_ends_at_once_and_in_order() -> None:
    with HangingServer() as server:
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert time.monotonic() - began < DRAIN_S


async def test_readiness_is_off_before_anything_else() -> None:
    with HangingServer() as server:
        waiting = [await talker(server.port, token("ana")) for _ in range(200)]
        # Open before the port is closed.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        server.signal(signal.SIGTERM)
        await waiting[0].until("reconnect")
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = await reader.read()  # to the end: the connection is not kept
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"not_draining": false' in answer
        for each in waiting:
            each.abort()
        await server.ended()


async def test_who_was_accepted_just_before_is_answered() -> None:
    # However slow this machine is, it happens within this time.
    with HangingServer(drain_s=PATIENCE_S, first_request_s=PATIENCE_S) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        # Connections are accepted in order.
        assert (await request(server.port, "GET", "/healthz"))[0] == 200
        server.signal(signal.SIGTERM)
        await aeventually(lambda: is_refused(server.port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert await server.ended() == 0


async def test_who_was_accepted_and_says_nothing_is_not_waited_for() -> None:
    with HangingServer(drain_s=10 * PATIENCE_S) as server:
        reader, _ = await asyncio.open_connection("127.0.0.1", server.port)
        assert (await request(server.port, "GET", "/healthz"))[0] == 200
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert await reader.read() == b""


async def is_refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def test_a_request_under_way_gets_its_answer() -> None:
    with HangingServer() as server:
        # One that takes a while: a body that comes slowly is not with the application yet, a publish that waits is.
        with sqlite3.connect(server.folder / "db.sqlite3", isolation_level=None) as database:
            database.execute("BEGIN IMMEDIATE")
            path = "/api/v1/channels/lobby/messages"
            posting = asyncio.ensure_future(
                request(server.port, "POST", path, token("ana"), {"id": "posted", "data": 1})
            )
            await asyncio.sleep(500 * MS)
            server.signal(signal.SIGTERM)
            await asyncio.sleep(500 * MS)
            assert not posting.done()
            database.execute("COMMIT")
        status, answer = await posting
        assert (status, answer["serials"]) == (201, [1])
        assert await server.ended() == 0


async def test_what_cannot_be_committed_is_refused_while_the_publisher_can_hear_it() -> None:
    with HangingServer() as server:
        publisher = await talker(server.port, token("ana"))
        database = sqlite3.connect(server.folder / "db.sqlite3", isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")
            publisher.send({"type": "publish", "ref": 1, "channel": "lobby", "messages": [{"id": "held", "data": 1}]})
            await publisher.ask({"type": "ping", "ref": 2})
            server.signal(signal.SIGTERM)
            frames = await told(publisher)
            assert [frame.get("code", frame["type"]) for frame in frames] == ["unavailable", "reconnect"]
            assert publisher.close_code == 1012
        finally:
            database.close()
        await server.ended()


async def told(peer: Talker) -> list[dict[str, object]]:
    """Every frame until the end."""
    found = []
    while (frame := await peer.receive()) is not None:
        found.append(frame)
    return found


@pytest.mark.parametrize("hanging", [signal.SIGUSR1, signal.SIGUSR2], ids=["the loop", "a thread"])
async def test_a_process_in_which_something_hangs_ends_by_the_deadline(hanging: signal.Signals) -> None:
    with HangingServer() as server:
        server.signal(hanging)
        await asyncio.sleep(200 * MS)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert await server.ended() == 1
        assert time.monotonic() - began >= DRAIN_S
        assert "did not end within 6 s" in server.log_text()


async def test_an_acknowledged_position_survives_the_end() -> None:
    with HangingServer() as server:
        peer = await talker(server.port, token("ana"))
        await peer.ask({"type": "attach", "ref": 1, "channel": "lobby", "from": {"cursor": "phone"}})
        messages = [{"data": number} for number in range(10)]
        await peer.ask({"type": "publish", "ref": 2, "channel": "lobby", "messages": messages})
        for _ in range(10):
            await peer.until("message")
        peer.send({"type": "ack", "serials": {"lobby": 7}})
        await peer.ask({"type": "ping", "ref": 3})
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        await asyncio.to_thread(server.start)
        again = await talker(server.port, token("ana"))
        attached = await again.ask({"type": "attach", "ref": 1, "channel": "lobby", "from": {"cursor": "phone"}})
        assert (attached["serial"], attached["head"]) == (7, 10)
        again.abort()
