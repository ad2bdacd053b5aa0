"""What a worker does regularly: it looks after connections when something may be due for them, and at the log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from django.db import OperationalError

from realtime import namespaces, worker
from realtime.backplane import Backplane
from realtime.conf import settings
from realtime.connection import Connection
from realtime.links import SocketLink
from tests.conftest import MS, aeventually
from tests.conversation import connected, stop_worker
from tests.server.test_stalled import Opened, Reactor

PATIENCE_S = 60_000 * MS


@pytest_asyncio.fixture
async def one_worker(transactional_db: None) -> AsyncIterator[None]:
    namespaces.reset()
    yield
    await stop_worker()


def of_client(running: worker.Worker, client: str) -> Any:
    """Its connection."""
    (found,) = [each for each in running.clients if each.identity is not None and each.identity.client == client]
    return found


async def test_a_fault_at_one_connection_keeps_neither_it_nor_another_from_being_looked_after(
    one_worker: None, realtime_settings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    realtime_settings(HEARTBEAT_MS=1000)
    async with connected() as ana, connected() as bo:
        running = worker.current()
        assert running is not None
        for each in list(running.clients):
            pulse, faults = each.pulse, [RuntimeError("a fault of ours")]

            def failing(
                now: float, pulse: Callable[[float], None] = pulse, faults: list[RuntimeError] = faults
            ) -> None:
                if faults:
                    raise faults.pop()
                pulse(now)

            each.pulse = failing  # type: ignore[method-assign]
        for peer in (ana, bo):
            for _ in range(2):
                await peer.read(type="heartbeat")
        assert caplog.text.count("a fault of ours") == 2
        assert len(running._looks) == len(running.clients)
    await aeventually(lambda: not running.clients)
    assert len(running._looks) == 0


async def test_a_silent_connection_is_looked_at_when_its_heartbeat_is_due_and_when_something_begins_to_wait(
    one_worker: None,
) -> None:
    async with connected():
        running = worker.current()
        assert running is not None
        with ExitStack() as stack:
            opened = Opened(stack, Reactor())
            opened.socket.write(b"ready")
            socket: Any = opened.socket
            connection = Connection(running, SocketLink(socket))
            now = time.monotonic()
            connection.pulse(now)
            # It has not said who it is.
            assert connection.session.deadline is not None
            assert now + settings.HEARTBEAT_MS / 4000 < connection.session.deadline == connection.look_at
            running.look_soon(connection)
            running._looks.put(connection, connection.look_at)
            opened.socket.write(b"x" * 1_000_000)
            assert connection in running._looks.take(now + running._pulse_s), "in the very next look"
            connection.pulse(now)
            assert connection.look_at == now, "and in each, while something waits"
            connection.gone()


async def test_logs_are_read_more_often_while_a_line_seems_dead(
    one_worker: None, realtime_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    realtime_settings(SWEEP_MS=200, SWEEP_SUSPECT_MS=10)
    suspect = False
    monkeypatch.setattr(Backplane, "suspect", property(lambda self: suspect))
    monkeypatch.setattr(worker, "SUSPECT_EVERY_S", 20 * MS)
    async with connected():
        running = worker.current()
        assert running is not None
        swept: list[object] = []

        def sweep(among: object = None) -> bool:
            swept.append(among)
            return True

        monkeypatch.setattr(running.hub, "sweep", sweep)

        def often() -> int:
            return len(swept) - swept.count(None)

        await aeventually(lambda: swept.count(None) >= 2, PATIENCE_S)
        assert often() == 0
        suspect = True
        await aeventually(lambda: often() >= 10, PATIENCE_S)
        suspect = False
        await aeventually(lambda: not running._sweeping_suspects, PATIENCE_S)
        before, regular = often(), swept.count(None)
        await aeventually(lambda: swept.count(None) >= regular + 2, PATIENCE_S)
        assert often() == before


def test_a_reading_that_fails_keeps_the_others_from_nothing_but_a_database_that_is_away_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    faults: dict[str, Exception] = {}

    def mirror(name: str) -> Any:
        def refresh() -> None:
            read.append(name)
            if name in faults:
                raise faults[name]

        return SimpleNamespace(refresh=refresh)

    monkeypatch.setattr(worker, "MIRRORS", [mirror("a"), mirror("b"), mirror("c")])
    monkeypatch.setattr(worker, "_refresh_api_keys", mirror("keys").refresh)
    assert worker._refresh_rows()
    assert read == ["a", "b", "c", "keys"]
    read.clear()
    faults["b"] = ValueError("a row that nobody can read")
    with pytest.raises(ValueError, match="nobody can read"):
        worker._refresh_rows()
    assert read == ["a", "b", "c", "keys"]
    read.clear()
    faults["b"] = OperationalError("away")
    with pytest.raises(OperationalError):
        worker._refresh_rows()
    assert read == ["a", "b"]
