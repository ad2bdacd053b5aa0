"""A PostgreSQL that falls silent without a word: who publishes and who reads hears so in time, and all comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.db import OperationalError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from realtime import namespaces, worker
from realtime.log import patience as patience_module
from realtime.log import reads, rounds
from realtime.log.patience import patience
from realtime.log.types import LogState
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from realtime.publishing import apublish, publish
from tests.conftest import MS, aeventually, eventually
from tests.servers import site_environment
from tests.stalling import StallingProxy

ROOM = ChannelName("room")

TIMEOUT_S = 1
CONNECT_S = 2
"""As short as the driver has it."""

BOUND_S = (TIMEOUT_S + patience_module.LOOK_EVERY_S + CONNECT_S) + 3000 * MS
"""A call that was under way is cut off, a new connection is tried; and some for a slow machine."""

PATIENCE_S = 60_000 * MS


# ---------------------------------------------------------------------- options


def options_of(url: str) -> dict[str, Any]:
    """OPTIONS of the site's database under that DATABASE_URL."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json, config.settings as s; print(json.dumps(s.DATABASES['default']['OPTIONS']))",
        ],
        env=site_environment(os.devnull, DATABASE_URL=url),  # type: ignore[arg-type]
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_options_of_the_site_and_what_a_url_says_otherwise() -> None:
    ours = options_of("postgres://u:p@db:5432/name")
    assert ours == {
        "connect_timeout": 5,
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    theirs = options_of("postgres://u:p@db:5432/name?connect_timeout=9&tcp_user_timeout=2500&sslmode=require")
    assert {name: str(value) for name, value in theirs.items()} == {
        **{name: str(value) for name, value in ours.items()},
        "connect_timeout": "9",
        "tcp_user_timeout": "2500",
        "sslmode": "require",
    }


@pytest.mark.postgres
@pytest.mark.django_db
def test_the_kernel_looks_after_the_connection() -> None:
    connection.ensure_connection()
    sock = socket.socket(fileno=os.dup(connection.connection.fileno()))
    with sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20


# ---------------------------------------------------------------------- patience


def own() -> BaseDatabaseWrapper:
    """This thread's connection itself; `django.db.connection` is whichever the looking thread has."""
    return connections["default"]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_call_that_takes_too_long_is_cut_off(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(DATABASE_TIMEOUT_S=TIMEOUT_S)
    started = time.monotonic()
    with pytest.raises(OperationalError), patience(own()), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(6)")
    assert TIMEOUT_S <= time.monotonic() - started < BOUND_S
    connection.close()
    with patience(own()), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert not patience_module._calls


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_calls_in_time_are_left_alone_whatever_comes_after_them(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(DATABASE_TIMEOUT_S=TIMEOUT_S)
    for _ in range(3):
        with patience(own()), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [TIMEOUT_S + 2 * patience_module.LOOK_EVERY_S])


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_an_inner_call_does_not_prolong_the_outer(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(DATABASE_TIMEOUT_S=TIMEOUT_S)
    started = time.monotonic()
    with pytest.raises(OperationalError), patience(own()):
        while time.monotonic() - started < PATIENCE_S:
            with patience(own()), connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.3)")
    assert time.monotonic() - started < BOUND_S
    connection.close()


@pytest.mark.sqlite
@pytest.mark.django_db
def test_sqlite_is_not_watched() -> None:
    with patience(own()):
        assert not patience_module._calls


# ---------------------------------------------------------------------- the platform over a proxy that stalls


@pytest.fixture
def proxy(realtime_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[StallingProxy]:
    """Between the platform's threads and the database; this thread's own connection goes past it."""
    realtime_settings(DATABASE_TIMEOUT_S=TIMEOUT_S, PUBLISH_TIMEOUT_S=60)
    connection.ensure_connection()
    settings = connections.settings["default"]
    with StallingProxy(int(settings["PORT"])) as between:
        monkeypatch.setitem(settings, "HOST", "127.0.0.1")
        monkeypatch.setitem(settings, "PORT", str(between.port))
        monkeypatch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], "connect_timeout": CONNECT_S})
        yield between
    # Whatever was cut off, nothing of it stays open at the server.
    eventually(lambda: sessions() == 0, PATIENCE_S)


def sessions() -> int:
    """Connections to this database, but for this thread's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


@pytest_asyncio.fixture
async def running(transactional_db: None, proxy: StallingProxy) -> AsyncIterator[worker.Worker]:
    namespaces.reset()
    found = worker.ensure()
    async with asyncio.timeout(PATIENCE_S):
        await found.ready.wait()
    yield found
    proxy.heal()
    await found.stop()
    namespaces.reset()


async def refused(*, id: str) -> float:
    """Publishes, expects `unavailable`, and returns after how long."""
    started = time.monotonic()
    with pytest.raises(ProtocolError) as caught:
        await apublish(ROOM, "x", id=id)
    assert caught.value.code == "unavailable" and caught.value.retry_after_ms
    return time.monotonic() - started


async def published_again(id: str) -> int:
    """Tries until it is stored; returns the serial."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            receipt = await apublish(ROOM, "x", id=id)
        except ProtocolError as error:
            assert error.code == "unavailable" and time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            assert receipt.serial is not None
            return receipt.serial


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
async def test_publishers_hear_in_time_and_publish_again(running: worker.Worker, proxy: StallingProxy) -> None:
    assert await published_again("m1") == 1
    proxy.stall()
    # The round under way, then rounds that cannot even connect.
    assert await refused(id="m2") < BOUND_S
    assert await refused(id="m3") < BOUND_S
    proxy.heal()
    assert [await published_again(id) for id in ("m2", "m3", "m1")] == [2, 3, 1]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
async def test_a_connection_that_is_forgotten_on_the_way_is_replaced(
    running: worker.Worker, proxy: StallingProxy
) -> None:
    """It never heals; a new one works at once, so that a round which had written nothing need not even fail."""
    assert await published_again("m1") == 1
    proxy.forget()
    started = time.monotonic()
    assert await published_again("m2") == 2
    assert time.monotonic() - started < BOUND_S


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
async def test_readers_hear_in_time_and_nothing_gathers(running: worker.Worker, proxy: StallingProxy) -> None:
    await published_again("m1")
    states: list[LogState | None] = []
    running.reader.state(ROOM, states.append)
    await aeventually(lambda: states)
    proxy.stall()
    running.reader.state(ROOM, states.append)
    began, lag_s, most = time.monotonic(), 0.0, 0
    while time.monotonic() - began < 3 * (TIMEOUT_S + CONNECT_S):
        before = time.monotonic()
        await asyncio.sleep(0.02)
        lag_s = max(lag_s, time.monotonic() - before - 0.02)
        most = max(most, running.reader.waiting_count)
    assert states[1:] == [None]
    # One of each kind: namespaces, limits, keys, revocations, closed channels, the backlog, and what the hub asks for.
    assert most <= 16
    assert lag_s < 1000 * MS, "the event loop waited for the database"
    proxy.heal()

    async def reads_again() -> bool:
        running.reader.state(ROOM, states.append)
        await asyncio.sleep(0.1)
        return states[-1] is not None

    await aeventually(reads_again, PATIENCE_S)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
async def test_what_was_cut_off_is_stored_once(running: worker.Worker, proxy: StallingProxy) -> None:
    """Stalls at any moment of a round, also between the commit and its answer: the same id finds out."""
    for number in range(6):
        trying = asyncio.ensure_future(published_again(f"m{number}"))
        await asyncio.sleep(0.002 * number)
        proxy.stall()
        await asyncio.sleep(TIMEOUT_S + 2 * patience_module.LOOK_EVERY_S)
        proxy.heal()
        assert await trying == number + 1


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_processes_without_a_worker_hear_in_time_too(proxy: StallingProxy) -> None:
    outcome: list[object] = []

    def work() -> None:
        try:
            publish(ROOM, 1, id="m1")
            reads.read_states([ROOM])
            proxy.stall()
            started = time.monotonic()
            for call in (lambda: publish(ROOM, 2, id="m2"), lambda: reads.read_states([ROOM])):
                try:
                    call()
                except ProtocolError as error:
                    outcome.append(error.code)
            outcome.append(time.monotonic() - started)
        finally:
            with contextlib.suppress(Exception):
                connections["default"].close()

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: not thread.is_alive(), PATIENCE_S)
    assert outcome[:2] == ["unavailable", "unavailable"]
    assert isinstance(outcome[2], float) and outcome[2] < 2 * BOUND_S


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_whoever_falls_silent_in_a_round_keeps_its_channels_for_a_while_only(
    proxy: StallingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is cut off while it holds a channel's row: the server itself ends its transaction."""
    held = threading.Event()
    decide = rounds.decide

    def fall_silent(*arguments: Any) -> Any:
        if threading.current_thread() is thread:
            proxy.stall()
            held.set()
        return decide(*arguments)

    def work() -> None:
        with contextlib.suppress(ProtocolError):
            publish(ROOM, "lost", id="m2")
        connections["default"].close()

    publish(ROOM, "before", id="m1")
    monkeypatch.setattr(rounds, "decide", fall_silent)
    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(PATIENCE_S)
    started = time.monotonic()
    while True:
        try:
            receipt = publish(ROOM, "after", id="m3")
        except ProtocolError as error:
            assert error.code == "unavailable" and time.monotonic() - started < PATIENCE_S
        else:
            break
    # The proxy still stalls: nothing has told the server that its client is gone.
    assert receipt.serial == 2
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
