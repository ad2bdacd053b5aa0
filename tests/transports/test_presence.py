"""Being present by requests: as long as one is read, and ten seconds longer, at whichever worker the next one comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from realtime import worker
from realtime.delivery.presence import GRACE_S, Key
from realtime.delivery.signals import Signal
from realtime.models import Namespace, Present
from realtime.protocol.names import ChannelName
from tests.conftest import aeventually
from tests.conversation import Peer, connected, in_thread, token
from tests.transports.exchange import asked, lines_of, opened, refused

pytestmark = pytest.mark.django_db(transaction=True)

READER = "reader-of-ana-1"
OTHER = "reader-of-ana-2"


def entry(data: object = 1, at: int | None = None, reader: str = READER, **more: Any) -> dict[str, object]:
    enter = {"reader": reader, "data": data, **({} if at is None else {"at": at})}
    return {"channel": "lobby", "enter": enter, **more}


def body(*entries: object, **more: object) -> bytes:
    return json.dumps({"attach": entries, **more}).encode()


async def poll(*entries: object, wait_ms: int = 0, **options: Any) -> list[dict[str, Any]]:
    status, answer = await asked("POST", "/poll", body=body(*entries, wait_ms=wait_ms), **options)
    assert status == 200, answer
    frames: list[dict[str, Any]] = answer["frames"]
    return frames


async def follow(peer: Peer) -> list[str]:
    await peer.request("attach", channel="lobby", presence=True)
    sync = await peer.read(type="presence", action="sync")
    return [member["client"] for member in sync["members"]]


async def event(peer: Peer) -> tuple[Any, ...]:
    frame = await peer.read(type="presence")
    return frame["action"], frame.get("client"), frame.get("data")


async def leave(reader: str = READER) -> str:
    posted = b'{"type":"presence","channel":"lobby","action":"leave","ref":1}\n'
    headers = [(b"content-type", b"application/x-ndjson")]
    async with opened("POST", "/frames", [("reader", reader)], body=posted, headers=headers) as exchange:
        await exchange.until(lambda: exchange.complete)
        return str(lines_of(exchange.body)[0]["type"])


def running() -> worker.Worker:
    found = worker.current()
    assert found is not None
    return found


def pass_time(seconds: float) -> None:
    """For those who are present, but not for the test."""
    membership = running().presence.membership
    membership.expire(running().loop.time() + seconds)
    running().presence._flush()


def connections() -> int:
    row = running().presence.membership.row(Key(ChannelName("lobby"), "ana"))
    return -1 if row is None else row.connections


@pytest.mark.parametrize("path", ["/stream", "/events"])
async def test_who_reads_is_present_and_ten_seconds_longer(path: str) -> None:
    async with connected(text=token("bo")) as bo:
        assert await follow(bo) == []
        method, query, given = "POST", [], body(entry("x"))
        if path == "/events":
            status, ticket = await asked("POST", "/tickets", body=given)
            assert status == 201
            method, query, given = "GET", [("ticket", ticket["ticket"])], b""
        auth = None if query else ""
        async with opened(method, path, query, body=given, auth=auth) as exchange:
            await exchange.until(lambda: b'"action":"enter"' in exchange.body)
            assert await event(bo) == ("enter", "ana", "x")
            pass_time(3600)
            assert connections() == 1, "as long as it is read"
        assert connections() == 1, "the next request may come any moment"
        pass_time(GRACE_S + 1)
        assert connections() == -1
        assert (await event(bo))[:2] == ("leave", "ana")


async def test_polls_are_one_presence_and_write_it_once() -> None:
    async with connected(text=token("bo")) as bo:
        await follow(bo)
        told = await poll(entry({"name": "Ana"}))
        (ok,) = [frame for frame in told if frame["type"] == "ok"]
        assert (ok["channel"], ok["action"]) == ("lobby", "enter")
        assert await event(bo) == ("enter", "ana", {"name": "Ana"})
        written = running().presence.counts["written"]
        for _ in range(5):
            pass_time(GRACE_S - 1)
            again = {**entry({"name": "Ana"}, ok["at"]), "from": {"epoch": None, "serial": 0}}
            assert await poll(again) == [], "nothing is told, and a poll would wait"
            assert connections() == 1
        assert running().presence.counts["written"] == written
        pass_time(GRACE_S + 1)
        assert (await event(bo))[:2] == ("leave", "ana")


async def test_of_two_pages_the_data_set_last_holds() -> None:
    (first,) = [each for each in await poll(entry("old")) if each["type"] == "ok"]
    (second,) = [each for each in await poll(entry("new", reader=OTHER)) if each["type"] == "ok"]
    assert second["at"] > first["at"] and connections() == 2
    for reader in (READER, "reader-of-ana-3"):
        await poll(entry("old", first["at"], reader))
    row = running().presence.membership.row(Key(ChannelName("lobby"), "ana"))
    assert row is not None and (row.data, row.at) == ('"new"', second["at"])
    # A time to come counts as now.
    await poll(entry("later", 2**50))
    row = running().presence.membership.row(Key(ChannelName("lobby"), "ana"))
    assert row is not None and row.data == '"later"' and second["at"] < row.at < 2**50


async def test_leaving_counts_at_once_and_only_for_ones_own_page() -> None:
    async with connected(text=token("bo")) as bo:
        await follow(bo)
        async with opened("POST", "/stream", body=body(entry())) as stream:
            await stream.told_line("ok")
            await poll(entry(reader=OTHER))
            assert await leave() == "ok" and connections() == 1
            assert await leave("nobody-so-called") == "ok" and connections() == 1
            assert (await event(bo))[:2] == ("enter", "ana")
            assert await leave(OTHER) == "ok"
            assert (await event(bo))[:2] == ("leave", "ana")
        assert connections() == -1
        # What was on its way when it left does not bring it back, and saying it anew does.
        await poll(entry(at=1, reader=OTHER))
        assert connections() == -1
        await poll(entry(reader=OTHER))
        assert connections() == 1 and await leave(OTHER) == "ok"
        assert (await event(bo))[:2] == ("enter", "ana") and (await event(bo))[:2] == ("leave", "ana")
        # Another worker hears of it by the layer, as this one does here.
        await poll(entry())
        assert connections() == 1
        running()._hear_signal(Signal(ChannelName("lobby"), "ana", READER, ""))
        assert connections() == -1


async def test_a_stream_that_follows_another_keeps_the_presence() -> None:
    async with opened("POST", "/stream", body=body(entry())) as old:
        (ok,) = await old.told_line("ok")
        async with opened("POST", "/stream", body=body(entry(at=ok["at"]))) as new:
            await new.told_line("ok")
            await old.leave()
            pass_time(3600)
            assert connections() == 1, "carried by the new one, whatever became of the old"


def syncs(frames: list[dict[str, Any]]) -> list[tuple[list[str], str]]:
    found = [frame for frame in frames if frame["type"] == "presence"]
    assert all(frame["action"] == "sync" for frame in found)
    return [([each["client"] for each in frame["members"]], frame["mark"]) for frame in found]


async def test_polls_follow_by_marks() -> None:
    at = {"channel": "lobby", "from": {"epoch": None, "serial": 0}}
    ((nobody, mark),) = syncs(await poll({**at, "presence": True}, wait_ms=20_000))
    assert nobody == []
    async with opened("POST", "/poll", body=body({**at, "presence": mark}, wait_ms=20_000)) as waiting:
        await aeventually(lambda: running().presence.counts["read"] > 1)
        assert not waiting.complete
        async with connected(text=token("bo")) as bo:
            await bo.request("attach", channel="lobby")
            await bo.request("presence", channel="lobby", action="enter", data=7)
            ((members, second),) = syncs((await waiting.answer())["frames"])
            assert members == ["bo"] and second != mark
            assert await poll({**at, "presence": second}) == []
            ((members, third),) = syncs(await poll({**at, "presence": mark}, wait_ms=20_000))
            assert (members, third) == (["bo"], second), "whoever knows less is told"


@override_settings(REALTIME={**settings.REALTIME, "PRESENCE_DATA_BYTES": 10})
async def test_refusals() -> None:
    await in_thread(Namespace.objects.create, name="quiet", presence=False)
    for wrong in ({"reader": "short"}, {}, 7, {"reader": READER, "at": -1}, {"reader": READER, "at": True}):
        await refused(400, "bad_frame", "POST", "/poll", body=body({"channel": "lobby", "enter": wrong}))
    await refused(400, "bad_frame", "POST", "/frames", [("reader", "x")], body=b'{"type":"ping"}')
    told = await poll(entry("x" * 20), {**entry(), "channel": "quiet:a"})
    errors = {frame["channel"]: frame for frame in told if frame["type"] == "error"}
    assert {name: (each["code"], each["action"]) for name, each in errors.items()} == {
        "lobby": ("too_large", "enter"),
        "quiet:a": ("forbidden", "enter"),
    }
    assert connections() == -1 and not await in_thread(Present.objects.count)
    status, (answer,) = await asked("POST", "/frames", body=b'[{"type":"presence","channel":"lobby","action":"enter"}]')
    assert (status, answer["code"]) == (200, "not_attached")
    assert "enter" in answer["remedy"]


async def test_a_right_that_is_taken_away_ends_it() -> None:
    await in_thread(Namespace.objects.create, name="room", known_ops=["subscribe", "presence"])
    async with opened("POST", "/stream", body=body({**entry(), "channel": "room:x"})) as exchange:
        await exchange.told_line("ok")
        row = await in_thread(Namespace.objects.get, name="room")
        row.presence = False
        await in_thread(row.save)
        await aeventually(lambda: not len(running().presence.membership))
