"""Presence over plain ASGI: a real worker, its database, and peers that come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.conf import settings
from django.test import override_settings

from realtime import namespaces, presence, tokens, worker
from realtime.delivery.presence import Key
from realtime.models import Namespace, PresenceLease, Present
from realtime.protocol.names import ChannelName
from tests.conftest import aeventually
from tests.conversation import Peer, connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)

CHANNEL = "lobby"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture(autouse=True)
async def one_worker(fresh: None) -> AsyncIterator[None]:
    yield
    await stop_worker()


async def follow(peer: Peer, channel: str = CHANNEL) -> list[str]:
    """Attaches with presence; who is there by the sync."""
    await peer.request("attach", channel=channel, presence=True)
    sync = await peer.read(type="presence", action="sync")
    return [member["client"] for member in sync["members"]]


async def say(peer: Peer, action: str, data: object = None, channel: str = CHANNEL) -> str:
    answer = await peer.request("presence", channel=channel, action=action, data=data)
    return str(answer.get("code", answer["type"]))


async def event(peer: Peer) -> tuple[Any, ...]:
    frame = await peer.read(type="presence")
    return frame["action"], frame.get("client"), frame.get("data")


def running() -> worker.Worker:
    found = worker.current()
    assert found is not None
    return found


def connections_of(client: str) -> int:
    row = running().presence.membership.row(Key(ChannelName(CHANNEL), client))
    return -1 if row is None else row.connections


async def test_members_are_those_who_entered_and_everybody_hears_of_it() -> None:
    async with connected() as ana, connected(text=token("bo")) as bo:
        assert await follow(ana) == [] and await follow(bo) == []
        for action, data, told in (("enter", 1, "enter"), ("update", [2], "update"), ("leave", None, "leave")):
            assert await say(ana, action, data) == "ok"
            for peer in (ana, bo):
                assert (await event(peer))[:2] == (told, "ana")
        assert await say(ana, "update", 3) == "ok"
        assert await event(bo) == ("enter", "ana", 3)
        assert await say(bo, "leave") == "ok"
        await bo.nothing_else()


async def test_detaching_leaves_and_breaking_does_not() -> None:
    async with connected() as ana, connected(text=token("bo")) as bo:
        await follow(ana)
        await ana.request("attach", channel=CHANNEL)
        await follow(bo)
        await say(ana, "enter")
        assert (await event(bo))[:2] == ("enter", "ana")
        await ana.request("detach", channel=CHANNEL)
        assert (await event(bo))[:2] == ("leave", "ana")
        await ana.request("attach", channel=CHANNEL)
        await say(ana, "enter", 7)
        assert (await event(bo))[:2] == ("enter", "ana")
        await ana.leave()
        await aeventually(lambda: connections_of("ana") == 0)
        async with connected() as again:
            assert await follow(again) == ["ana"]
            await say(again, "enter", 7)
        await bo.nothing_else()


@override_settings(
    REALTIME={**settings.REALTIME, "PRESENCE_DATA_BYTES": 10, "PRESENCE_MEMBERS_MAX": 1, "PRESENCE_PER_S": 6}
)
async def test_refusals() -> None:
    async with connected() as ana, connected(text=token("bo")) as bo:
        assert await say(ana, "enter") == "not_attached"
        await follow(ana)
        await bo.request("attach", channel=CHANNEL)
        assert await say(ana, "enter", "x" * 20) == "too_large"
        assert await say(ana, "enter") == "ok"
        assert await say(bo, "enter") == "limit_exceeded"
        assert await say(ana, "leave") == "ok"
        assert await say(bo, "enter") == "ok"
        answers = [await say(bo, "update", number) for number in range(9)]
        assert "rate_limited" in answers


async def test_a_right_that_is_taken_away_ends_it(transactional_db: None) -> None:
    await in_thread(Namespace.objects.create, name="room", known_ops=["subscribe", "presence"])
    async with connected(text=token(cap={"room:x": ["subscribe"]})) as stranger:
        refused = await stranger.request("attach", channel="room:x", presence=True)
        assert refused["code"] == "forbidden"
        assert await say(stranger, "enter", channel="room:x") == "forbidden"
    async with connected() as ana, connected(text=token("bo")) as bo:
        await follow(ana, "room:x")
        await say(ana, "enter", channel="room:x")
        await bo.request("attach", channel="room:x")
        row = await in_thread(Namespace.objects.get, name="room")
        row.presence = False
        await in_thread(row.save)
        await aeventually(lambda: not len(running().presence.membership) and not running().presence.followers)
        assert await say(bo, "enter", channel="room:x") == "forbidden"


async def test_rows_of_a_worker_count_while_its_lease_holds() -> None:
    async with connected() as ana:
        assert await follow(ana) == []
        far = 2**52
        await in_thread(PresenceLease.objects.create, worker="other", until=far)
        row = {"channel": CHANNEL, "worker": "other", "connections": 1, "data": "1", "at": 1, "since": 1, "stamp": 5}
        await in_thread(Present.objects.create, client="zoe", **row)
        assert await event(ana) == ("enter", "zoe", 1)
        await in_thread(PresenceLease.objects.filter(worker="other").update, until=1)
        assert (await event(ana))[:2] == ("leave", "zoe")
        await in_thread(presence.forget_old)
        assert await in_thread(Present.objects.filter(worker="other").count) == 0


async def test_a_worker_that_was_taken_for_dead_writes_its_members_again() -> None:
    async with connected() as ana, connected(text=token("bo")) as bo:
        await follow(bo)
        await ana.request("attach", channel=CHANNEL)
        await say(ana, "enter", 1)
        assert await event(bo) == ("enter", "ana", 1)
        await in_thread(PresenceLease.objects.update, until=1)
        assert (await event(bo))[:2] == ("leave", "ana")
        await in_thread(presence.forget_old)
        running().presence._renew_at = 0.0
        assert await event(bo) == ("enter", "ana", 1)


async def test_a_follower_that_does_not_read_gets_a_sync_instead_of_all_it_missed() -> None:
    async with connected() as ana, connected(text=token("bo")) as bo:
        await follow(bo)
        await ana.request("attach", channel=CHANNEL)
        (link,) = running().presence._rooms[ChannelName(CHANNEL)].followers
        link.congested = True
        await say(ana, "enter", 1)
        await aeventually(lambda: running().presence.counts["events"] == 1)
        link.congested = False
        running().presence.drained(ChannelName(CHANNEL), link)
        sync = await bo.read(type="presence")
        assert (sync["action"], [member["client"] for member in sync["members"]]) == ("sync", ["ana"])
        await bo.nothing_else()


async def test_a_crowd_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "LISTED_MOST", 1)
    async with connected() as ana, connected(text=token("bo")) as bo:
        await follow(ana)
        await say(ana, "enter")
        assert (await event(ana))[0] == "enter"
        await bo.request("attach", channel=CHANNEL, presence=True)
        assert (await event(bo))[0] == "sync"
        await say(bo, "enter")
        for peer in (ana, bo):
            assert (await peer.read(type="presence", action="count"))["count"] == 2
        await say(bo, "leave")
        for peer in (ana, bo):
            assert [each["client"] for each in (await peer.read(type="presence", action="sync"))["members"]] == ["ana"]
        page = await in_thread(presence.members, ChannelName(CHANNEL), "", 10)
        assert [member.client for member in page] == ["ana"]
