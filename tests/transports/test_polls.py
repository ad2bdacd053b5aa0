"""Polls: positions in, frames and positions out; waiting, bounds, load."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from typing import Any

import pytest

from realtime import hub, publishing, worker
from realtime.connection import Connection
from realtime.delivery.admission import Limits
from realtime.hub import Mode
from realtime.load import Place
from realtime.log import retention
from realtime.protocol.names import ChannelName
from realtime.transports import polls
from realtime.transports.links import PollLink
from realtime.transports.polls import Poll
from tests.conftest import MS, aeventually
from tests.conversation import connected, in_thread, token
from tests.transports.exchange import asked, opened, refused

pytestmark = pytest.mark.django_db(transaction=True)


async def publish(channel: str, *data: object, **fields: Any) -> Any:
    found = [await in_thread(publishing.publish, channel, each, **fields) for each in data]
    return found[-1].epoch


async def poll(*attach: object, wait_ms: int = 0, **options: Any) -> dict[str, Any]:
    body = json.dumps({"attach": attach, "wait_ms": wait_ms}).encode()
    status, answer = await asked("POST", "/poll", body=body, **options)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def here(channel: str) -> int:
    """How many are attached, and were told so."""
    running = worker.current()
    if running is None:
        return 0
    return len([each for each in running.hub.subscribers(ChannelName(channel)) if each.mode is not Mode.JOINING])


def at(channel: str, position: object) -> dict[str, object]:
    return {"channel": channel, "from": position}


def data_of(answer: dict[str, Any]) -> list[Any]:
    return [frame["data"] for frame in answer["frames"] if frame["type"] == "message"]


async def test_the_next_poll_goes_on_where_the_last_one_ended() -> None:
    epoch = await publish("a", 1)
    first = await poll("a")
    assert [frame["type"] for frame in first["frames"]] == ["attached"]
    assert first["positions"] == {"a": {"epoch": epoch, "serial": 1}}
    await publish("a", 2, 3)
    second = await poll(at("a", first["positions"]["a"]))
    assert [frame["type"] for frame in second["frames"]] == ["message", "message"]
    assert data_of(second) == [2, 3]
    # Not taken over: what is asked for again comes again.
    assert data_of(await poll(at("a", first["positions"]["a"]))) == [2, 3]
    third = await poll(at("a", second["positions"]["a"]))
    assert (third["frames"], third["positions"]) == ([], second["positions"])


async def test_a_poll_waits_for_news() -> None:
    epoch = await publish("a", 1)
    query = [("attach", f"a,{epoch}.1"), ("attach", "b,.0"), ("wait_ms", "20000")]
    async with opened("GET", "/poll", query) as exchange:
        await aeventually(lambda: here("b") == 1)
        assert not exchange.complete
        await publish("a", 2)
        answer = await exchange.answer()
        assert data_of(answer) == [2]
        assert answer["positions"]["b"] == {"epoch": None, "serial": 0}
    running = worker.current()
    assert running is not None
    assert (running.counts.opened["poll"], running.load.connections) == (1, 0)


async def test_a_channel_that_is_born_between_two_polls_is_read_from_its_start() -> None:
    first = await poll("a")
    await publish("a", 1)
    second = await poll(at("a", first["positions"]["a"]))
    assert data_of(second) == [1]
    # With its epoch: positions beyond the first mean nothing without.
    assert second["frames"][0]["type"] == "attached" and second["frames"][0]["epoch"] is not None


async def test_skips_move_the_position() -> None:
    epoch = await publish("a", *range(6))
    await in_thread(retention.prune, "a", 4)
    answer = await poll(at("a", {"epoch": epoch, "serial": 1}))
    assert [frame["type"] for frame in answer["frames"]] == ["attached", "skipped", "message", "message"]
    assert answer["positions"]["a"]["serial"] == 6
    answer = await poll(at("a", {"epoch": "other", "serial": 1}))
    assert answer["frames"][1]["reason"] == "epoch"
    assert answer["positions"]["a"] == {"epoch": epoch, "serial": 6}


async def test_an_answer_is_bounded_and_nothing_is_lost_by_it(realtime_settings: Any) -> None:
    realtime_settings(POLL_BYTES=20_000, BLOCK_MESSAGES=4)
    epoch = await publish("a", *[f"{number}:" + "x" * 2000 for number in range(40)])
    position: Any = {"epoch": epoch, "serial": 0}
    found: list[str] = []
    answers = 0
    while len(found) < 40:
        answer = await poll(at("a", position), wait_ms=5000)
        assert len(json.dumps(answer)) < 40_000
        found += data_of(answer)
        position = answer["positions"]["a"]
        answers += 1
    assert [int(each.partition(":")[0]) for each in found] == list(range(40))
    assert answers > 2


async def test_a_snapshot_comes_whole_or_not_at_all(realtime_settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    realtime_settings(POLL_BYTES=2000, BLOCK_MESSAGES=2)
    monkeypatch.setattr(polls, "GATHER_S", 0.0)
    # Many turns of the loop, as a large one takes.
    monkeypatch.setattr(hub, "STEPS_A_TURN", 1)
    for key in range(60):
        epoch = await publish("a", "x" * 500, key=f"k{key}")
    answer = await poll(at("a", "latest"))
    kinds = [frame["type"] for frame in answer["frames"]]
    assert kinds == ["attached", *["message"] * 60, "snapshot.end"]
    assert answer["positions"]["a"] == {"epoch": epoch, "serial": 60}


async def test_refusals_of_one_channel_stand_beside_the_others() -> None:
    answer = await poll("a", "b", auth=token(cap={"a": ["subscribe"]}))
    assert {frame["type"] for frame in answer["frames"]} == {"attached", "error"}
    assert list(answer["positions"]) == ["a"]
    body = json.dumps({"attach": ["a"]}).encode()
    await refused(403, "forbidden", "POST", "/poll", body=body, auth=token(cap={}))
    await refused(400, "bad_frame", "POST", "/poll", body=b'{"attach":["a"],"wait_ms":"x"}')
    await refused(400, "bad_frame", "GET", "/poll", [("attach", "a"), ("wait_ms", "-1")])
    await refused(400, "bad_frame", "GET", "/poll")


async def test_signals_come_while_a_poll_waits() -> None:
    async with connected(text=token("bob")) as peer, opened("GET", "/poll", [("attach", "a,.0")]) as exchange:
        await aeventually(lambda: here("a") == 1)
        await peer.send({"type": "signal", "channel": "a", "event": "typing"})
        assert [frame["type"] for frame in (await exchange.answer())["frames"]] == ["signal"]


async def test_a_forged_position_costs_nothing_but_a_word() -> None:
    """Beyond the head, or of a log that never was: the log is read from its start, and nothing else is told."""
    epoch = await publish("a", 1, 2)
    for forged in ({"epoch": epoch, "serial": 2**53 - 1}, {"epoch": "forged", "serial": 1}):
        answer = await poll(at("a", forged))
        assert [frame["type"] for frame in answer["frames"]] == ["attached", "skipped", "message", "message"]
        assert answer["positions"] == {"a": {"epoch": epoch, "serial": 2}}
    for wrong in ({"epoch": epoch, "serial": -1}, {"epoch": epoch, "serial": 2**60}, {"epoch": epoch}, None, 7):
        await refused(400, "bad_position", "POST", "/poll", body=json.dumps({"attach": [at("a", wrong)]}).encode())


async def test_under_load_news_is_held() -> None:
    epoch = await publish("a", 1, 2)
    await poll(at("a", {"epoch": epoch, "serial": 1}))
    running = worker.current()
    assert running is not None
    running.load.ladder.pressure = running.load.lately = 0.0
    assert polls.hold_of(running) == 0
    running.load.lately = polls.BUSY
    assert polls.hold_of(running) == 2
    running.load.lately = 0.0
    running.load.admission.limits = Limits(connections=1)
    running.load.ladder.pressure = 1.0
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert data_of(await poll(at("a", {"epoch": epoch, "serial": 1}), wait_ms=5000)) == [2]
    assert loop.time() - began >= 1.5


async def test_on_a_full_worker_polls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polls, "SHARED_WAIT_S", 0.05)
    epoch = await publish("a", 1)
    here_already = at("a", {"epoch": epoch, "serial": 1})
    await poll(here_already, wait_ms=0)
    running = worker.current()
    assert running is not None
    running.load.admission.limits = Limits(connections=1)
    # Alone it fills the worker: its place is given back long before 25 s, with word when to come again.
    answer = await poll(here_already)
    assert answer["frames"] == [] and answer["poll_after_ms"] > 0
    place = running.load.admit("192.0.2.1", [])
    assert isinstance(place, Place)
    assert polls._turn_of(running, 25) == 0.05
    running.load.admission.overloaded = True
    assert polls._turn_of(running, 25) == 25
    place.leave()
    running.load.admission.overloaded = False
    assert polls._turn_of(running, 25) == 25


async def test_a_worker_that_drains_answers_its_polls() -> None:
    async with opened("GET", "/poll", [("attach", "a,.0")]) as exchange:
        await aeventually(lambda: here("a") == 1)
        running = worker.current()
        assert running is not None
        # Attached, and told so: before that, a worker that leaves refuses.
        clients: list[Any] = list(running.clients)
        await aeventually(lambda: not any(client._joining for client in clients))
        await asyncio.sleep(20 * MS)
        await running.drain()
        answer = await exchange.answer()
        assert [frame["type"] for frame in answer["frames"]] == ["reconnect", "close"]
        assert answer["frames"][-1]["code"] == 1012


def test_behind_the_end_nothing_is_told_and_nothing_moves() -> None:
    """Between the end of its connection and its answer a broadcast may still come: the next poll reads it."""
    link = PollLink(1000, {}, tells_ready=False)
    link.send({"type": "attached", "channel": "chat:a", "epoch": "e", "serial": 1, "head": 1, "resumed": True})
    link.write(['{"type":"message","channel":"chat:a","serial":2,"data":1}'])
    link.close(1012, "restart")
    told, stands = list(link.frames), dict(link.positions)
    link.write(['{"type":"message","channel":"chat:a","serial":3,"data":1}'])
    link.send({"type": "skipped", "channel": "chat:a", "epoch": "e", "from": 4, "to": 9, "reason": "retention"})
    assert link.frames == told and '"type":"close"' in told[-1]
    assert link.positions == stands == {"chat:a": ("e", 2)}


async def test_a_client_that_goes_away_leaves_nothing() -> None:
    async with opened("GET", "/poll", [("attach", "a,.0")]) as exchange:
        await aeventually(lambda: here("a") == 1)
        running = worker.current()
        assert running is not None
    await aeventually(lambda: here("a") == 0 and running.load.connections == 0)
    assert exchange.status == 0


async def test_an_empty_list_is_answered_with_who_one_is() -> None:
    answer = await poll(wait_ms=5000)
    assert [frame["type"] for frame in answer["frames"]] == ["ready"]
    assert answer["positions"] == {}


# ---------------------------------------------------------------------- from our own server, without ASGI


class Taken:
    """A poll that was read by our own server."""

    def __init__(self, *attach: object, wait_ms: int = 0, query: bytes | None = None, **headers: str) -> None:
        caller = polls.caller_of({"host": "localhost", "authorization": f"Bearer {token()}", **headers})
        self.answered: tuple[int, Any, dict[bytes, bytes]] | None = None
        self.leave = None
        if caller is not None:
            body = json.dumps({"attach": attach, "wait_ms": wait_ms}).encode()
            self.leave = polls.take(caller, query, body, "192.0.2.7", self._done)

    def _done(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        assert self.answered is None
        self.answered = status, json.loads(body), dict(headers)

    async def answer(self) -> tuple[int, Any, dict[bytes, bytes]]:
        assert self.leave is not None
        await aeventually(lambda: self.answered is not None)
        assert self.answered is not None
        return self.answered


async def test_our_own_server_asks_without_asgi_and_hears_the_same(realtime_settings: Any) -> None:
    realtime_settings(ORIGINS=["https://there.example"])
    epoch = await publish("a", 1, 2)
    last = at("a", {"epoch": epoch, "serial": 1})
    told = await poll(last)
    status, answer, headers = await Taken(last, origin="https://there.example").answer()
    assert (status, answer) == (200, told) and data_of(answer) == [2]
    assert headers[b"access-control-allow-origin"] == b"https://there.example"
    assert headers[b"cache-control"] == b"no-store"
    _, answer, _ = await Taken(query=f"attach=a,{epoch}.1&wait_ms=0".encode()).answer()
    assert answer == told
    status, answer, _ = await Taken(at("nowhere:a", "head")).answer()
    assert (status, answer["error"]["code"]) == (404, "not_found")
    waiting = Taken(at("a", {"epoch": epoch, "serial": 2}), wait_ms=20_000)
    await aeventually(lambda: here("a") == 1)
    await publish("a", 3)
    assert data_of((await waiting.answer())[1]) == [3]
    running = worker.current()
    assert running is not None and running.load.connections == 0
    running.load.admission.limits = Limits(connections=1)
    held = running.load.admit("192.0.2.1", [])
    assert isinstance(held, Place)
    status, answer, headers = await Taken(last).answer()
    assert (status, answer["error"]["code"]) == (503, "unavailable") and int(headers[b"retry-after"]) >= 1
    held.leave()


async def test_what_it_cannot_decide_goes_the_ordinary_way_and_nothing_is_done() -> None:
    await poll(wait_ms=0)
    running = worker.current()
    assert running is not None
    admitted = running.load.admission.admitted
    for odd in (
        Taken("a", authorization=""),
        Taken("a", authorization="Basic eDp5"),
        Taken("a", authorization="Bearer not.a.token"),
        Taken("a", authorization="Bearer sk_" + "a" * 40),
        Taken("a", host="elsewhere.example"),
        Taken("a", origin="https://elsewhere.example"),
        Taken("a", "a"),
        Taken("a", wait_ms=-1),
        Taken(query=b"attach=a&wait_ms=x"),
    ):
        assert odd.leave is None and odd.answered is None
    assert running.load.admission.admitted == admitted


async def test_a_poll_that_ends_leaves_nothing_for_the_collector() -> None:
    epoch = await publish("a", 1)
    await poll(at("a", "head"))
    gc.collect()
    gc.disable()
    try:
        answered = Taken(at("a", {"epoch": epoch, "serial": 0}))
        await answered.answer()
        left = Taken(at("a", {"epoch": epoch, "serial": 1}), wait_ms=20_000)
        await aeventually(lambda: here("a") == 1)
        assert left.leave is not None
        left.leave()
        left.leave = answered.leave = None
        await aeventually(lambda: not any(isinstance(each, Poll | PollLink | Connection) for each in gc.get_objects()))
        assert left.answered is None
    finally:
        gc.enable()
