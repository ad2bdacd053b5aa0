"""How connections end that nobody has closed: a day passes, and a client takes nothing any more."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from realtime import namespaces, tokens, worker
from realtime.conf import settings
from realtime.protocol.session import State
from realtime.publishing import publish
from realtime.testing import LiveServer
from tests.conftest import MS, aeventually, eventually
from tests.conversation import connected, in_thread, stop_worker
from tests.server.test_conformance import PONG, Line
from tests.server.test_protocol import TEXT, Opened, frame

DAY_S = 86_400
PATIENCE_S = 60_000 * MS


def test_a_day_is_no_limit() -> None:
    """Daphne's would be: it closes every socket after 24 hours, whatever happens on it."""
    opened = Opened()
    opened.protocol.server = SimpleNamespace(
        websocket_timeout=DAY_S, ping_interval=20, websocket_connect_timeout=20, deflate_min_bytes=0
    )
    opened.protocol.socket_opened = opened.protocol.last_ping = time.time() - 2 * DAY_S
    opened.protocol.check_timeouts()
    assert opened.transport.value() == b"" and not opened.transport.disconnecting
    assert opened.feed(frame(TEXT, b"{}")).seen == ["{}"]


@pytest.fixture
def server(transactional_db: None) -> Iterator[LiveServer]:
    namespaces.reset()
    with LiveServer({"HEARTBEAT_MS": 1000}) as running:
        yield running


def follower(server: LiveServer, client: str, channel: str) -> Line:
    line = Line(server.port, "/ws", None, {"Authorization": f"Bearer {tokens.issue_token(client)[0]}"})
    line.send(frame(TEXT, json.dumps({"type": "attach", "channel": channel, "window": 0}).encode()))
    while (answer := json.loads(line.frame()[1]))["type"] != "attached":
        assert answer["type"] == "ready"
    return line


@pytest.mark.e2e
def test_who_takes_nothing_for_two_heartbeats_is_dropped(server: LiveServer) -> None:
    slow, quick = follower(server, "slow", "room"), follower(server, "quick", "elsewhere")
    for _ in range(60):
        # More than the kernel keeps for it.
        publish("room", "x" * 60_000)
        publish("room", "x" * 60_000)

    def is_dropped() -> bool:
        try:
            slow.sock.send(frame(PONG, b""))
        except ConnectionError:
            return True
        # It is not silent: it is said to be alive, and takes nothing.
        return False

    eventually(is_dropped, PATIENCE_S, every_s=200 * MS)
    publish("elsewhere", "still here")
    while (found := quick.frame())[0] & 15 != TEXT or json.loads(found[1])["type"] != "message":
        pass
    slow.close()
    quick.close()


@pytest.mark.django_db(transaction=True)
async def test_what_is_called_slow_is_a_buffer_that_stands_still_for_two_heartbeats() -> None:
    namespaces.reset()
    try:
        async with connected() as peer:
            running = worker.current()
            assert running is not None
            clients: list[Any] = list(running.clients)
            (connection,) = clients
            await peer.request("attach", channel="lobby")
            peer.hold()
            await in_thread(publish, "lobby", "x" * 1000)
            await in_thread(publish, "lobby", "x" * 1000)
            await aeventually(lambda: connection.link.waiting_bytes)
            two_s = 2 * settings.HEARTBEAT_MS / 1000
            now = time.monotonic() + two_s  # whenever it was looked at last
            connection.pulse(now)
            connection.pulse(now + two_s)
            assert connection.session.state is State.READY
            connection.pulse(now + two_s + 1)
            peer.take()
            assert (await peer.closed())[:2] == (4410, "slow")
    finally:
        await stop_worker()
