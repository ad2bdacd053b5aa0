"""Signals from Python and over HTTP: who gets them, from a process with a worker and from one without, and what is
refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.test import override_settings

from realtime import authorization, namespaces, sending, tokens, worker
from realtime.delivery.signals import Signal
from realtime.layers import redis_layer
from realtime.models import Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from realtime.sending import asignal, signal
from realtime.testing import captured_signals
from tests.api.conftest import Api, assert_refused
from tests.api.conftest import token as api_token
from tests.conftest import MS, aeventually
from tests.conversation import Peer, connected, in_thread, stop_worker, token
from tests.servers import Redis

# The database has no part in this but to hold the namespaces.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]

PATIENCE_S = 60_000 * MS
TYPING = {"type": "signal", "channel": "lobby", "client": None, "event": "typing", "data": {"n": 1}}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    sending._buckets.clear()
    yield
    authorization._remembered.clear()
    namespaces.reset()
    tokens.reset_caches()
    sending._buckets.clear()


@pytest_asyncio.fixture
async def one_worker(fresh: None) -> AsyncIterator[None]:
    yield
    await stop_worker()


async def attached(peer: Peer, channel: str = "lobby") -> Peer:
    assert (await peer.request("attach", channel=channel))["type"] == "attached"
    return peer


# ---------------------------------------------------------------- with a worker


async def test_all_who_are_attached_get_it_as_any_signal(one_worker: None) -> None:
    async with connected() as ana, connected() as bo, connected() as stranger:
        await attached(ana)
        await attached(bo)
        await in_thread(signal, "lobby", "typing", {"n": 1})
        await asignal("lobby", "typing", {"n": 1}, client="backend")
        for peer in (ana, bo):
            assert await peer.read(type="signal") == TYPING
            assert await peer.read(type="signal") == {**TYPING, "client": "backend"}
        for peer in (ana, bo, stranger):
            await peer.nothing_else()


async def test_one_to_a_client_reaches_all_its_connections_that_are_attached(one_worker: None) -> None:
    async with (
        connected(text=token("ana")) as phone,
        connected(text=token("ana")) as desk,
        connected(text=token("ana")) as elsewhere,
        connected(text=token("bo")) as bo,
    ):
        for peer in (phone, desk, bo):
            await attached(peer)
        await attached(elsewhere, "other")
        await asignal("lobby", "typing", {"n": 1}, to="ana")
        await asignal("lobby", "typing", {"n": 2}, to="ana")
        await asignal("lobby", "typing", to="nobody")
        for peer in (phone, desk):
            assert [(await peer.read(type="signal"))["data"] for _ in range(2)] == [{"n": 1}, {"n": 2}]
        for peer in (phone, desk, elsewhere, bo):
            await peer.nothing_else()


async def test_a_client_that_does_not_read_gets_the_newest_of_its_own_later(one_worker: None) -> None:
    async with connected(text=token("ana")) as ana:
        await attached(ana)
        ana.hold()
        filler = "x" * 30_000
        running = worker.current()
        assert running is not None
        for number in range(8):
            await asignal("lobby", "move", [number, filler], to="ana")
            await ana.send({"type": "ping"})
            await aeventually(lambda number=number: running.signalling.counts["passed"] == number + 1, PATIENCE_S)  # type: ignore[misc]
        ana.take()
        seen: list[int] = []
        while not seen or seen[-1] != 7:
            seen.append((await ana.read(type="signal"))["data"][0])
        assert seen == sorted(seen) and len(seen) < 8


# ---------------------------------------------------------------- without a worker


@pytest_asyncio.fixture
async def over_redis(redis_server: Redis, monkeypatch: pytest.MonkeyPatch, fresh: None) -> AsyncIterator[worker.Worker]:
    """Two workers over one Redis, of which the peers use the first; the second is given. What the test sends comes from
    a process without one."""
    monkeypatch.setattr(sending, "_the_mouth", None)
    with override_settings(CHANNEL_LAYERS={"default": redis_layer(redis_server.url, prefix="sending")}):
        first = worker.ensure()
        second = worker.Worker(asyncio.get_running_loop())
        second.start()
        for each in (first, second):
            await each.ready.wait()
        monkeypatch.setattr(worker, "current", lambda: None)
        yield second
        monkeypatch.undo()
        await second.stop()
        await asyncio.to_thread(second.reader._pool.shutdown)
        await asyncio.to_thread(second._maintenance.shutdown)
        await stop_worker()


async def test_a_process_without_a_worker_reaches_every_worker(
    over_redis: worker.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Signal] = []
    monkeypatch.setattr(over_redis.signalling, "give", heard.append)
    lobby = ChannelName("lobby")
    over_redis.backplane.follow(lobby)
    async with connected(text=token("ana")) as ana, connected(text=token("bo")) as bo:
        await attached(ana)
        await attached(bo)
        assert worker._current is not None
        lines = [*worker._current.backplane.lines, *over_redis.backplane.lines]
        await aeventually(lambda: not any(line._memberships for line in lines), PATIENCE_S, what="groups joined")
        await in_thread(signal, "lobby", "typing", {"n": 1})
        await asignal("lobby", "nudge", to="ana")
        assert await ana.read(type="signal") == TYPING
        assert await bo.read(type="signal") == TYPING
        assert (await ana.read(type="signal"))["event"] == "nudge"
        await bo.nothing_else()
        await aeventually(lambda: len(heard) == 2, PATIENCE_S, what="heard by the other worker")
    assert [(each.event, each.to) for each in heard] == [("typing", ""), ("nudge", "ana")]


async def test_a_layer_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_the_mouth", None)
    away = {"default": redis_layer("redis://127.0.0.1:1")}
    with override_settings(CHANNEL_LAYERS=away), pytest.raises(ProtocolError) as refused:
        await asignal("lobby", "typing")
    assert refused.value.code == "unavailable"


def test_a_process_that_cannot_reach_a_worker_is_told(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> None:
    monkeypatch.setattr(sending, "_the_mouth", None)
    with pytest.raises(ProtocolError) as refused:
        signal("lobby", "typing")
    assert refused.value.code == "unavailable"


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("no:", "typing"), "bad_channel"),
        (("nowhere:x", "typing"), "not_found"),
        (("made:x", "typing"), "not_found"),
        (("lobby", ""), "bad_frame"),
        (("lobby", "e" * 65), "bad_frame"),
        (("small:x", "typing", "x" * 101), "too_large"),
    ],
)
def test_what_is_refused(arguments: tuple[Any, ...], code: str, transactional_db: None) -> None:
    Namespace.objects.create(name="made", create="operator")
    Namespace.objects.create(name="small", max_message_bytes=100)
    with captured_signals() as sent, pytest.raises(ProtocolError) as refused:
        signal(*arguments)
    assert (refused.value.code, sent) == (code, [])


@pytest.mark.parametrize("options", [{"to": "a b"}, {"client": "é"}])
def test_names_of_clients_are_checked(options: dict[str, str], transactional_db: None) -> None:
    with captured_signals(), pytest.raises(ProtocolError) as refused:
        signal("lobby", "typing", **options)
    assert refused.value.code == "bad_frame"


def test_a_loop_without_a_pause_is_stopped(settings: Any, transactional_db: None) -> None:
    settings.REALTIME = {**settings.REALTIME, "APPLICATION_SIGNALS_PER_S": 3}
    with captured_signals() as sent, pytest.raises(ProtocolError) as refused:
        for number in range(1000):
            signal("lobby", "move", number)
    assert refused.value.code == "rate_limited" and refused.value.retry_after_ms
    assert [each.data for each in sent][:3] == [0, 1, 2]


# ---------------------------------------------------------------- over HTTP

PATH = "/api/v1/channels/lobby/signals"


@pytest.fixture
def api(transactional_db: None) -> Api:
    return Api()


def test_a_client_signals_in_its_own_name(api: Api) -> None:
    with captured_signals() as sent:
        response = api.request("POST", PATH, {"event": "typing", "data": [1], "to": "bo"})
    assert (response.status_code, response.json()) == (202, {"channel": "lobby", "event": "typing"})
    assert [(each.client, each.to, each.data) for each in sent] == [("ana", "bo", [1])]


def test_an_api_key_says_whom_it_is_from(api: Api) -> None:
    key = tokens.create_api_key("backend", {"*": ["signal"]})[1]
    with captured_signals() as sent:
        api.request("POST", PATH, {"event": "typing"}, auth=key)
        api.request("POST", PATH, {"event": "typing", "client": "eve"}, auth=key)
    assert [each.client for each in sent] == ["backend", "eve"]


def test_what_is_refused_over_http(api: Api, settings: Any) -> None:
    assert_refused(api.request("POST", PATH, {"event": "typing"}, auth=None), 401, "unauthorized")
    reader = api_token(cap={"*": ["subscribe"]})
    assert_refused(api.request("POST", PATH, {"event": "typing"}, auth=reader), 403, "forbidden")
    bodies: list[dict[str, Any]] = [{}, {"event": 1}, {"event": "x", "to": 1}, {"event": ""}]
    for body in bodies:
        assert_refused(api.request("POST", PATH, body), 400, "bad_frame")
    settings.REALTIME = {**settings.REALTIME, "SIGNALS_PER_S": 1}
    with captured_signals():
        answers = [api.request("POST", PATH, {"event": "typing"}) for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and refused[0].json()["error"]["code"] == "rate_limited"
