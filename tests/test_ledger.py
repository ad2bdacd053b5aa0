"""The loss ledger: what positions say was delivered is what clients have counted, whatever happened on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from realtime import live, metrics, namespaces, tokens, worker
from realtime.hub import BOUNDS_FRESH_S, Subscriber
from realtime.log import new_epoch, prune
from realtime.models import Namespace
from realtime.protocol.names import ChannelName
from tests.conftest import aeventually
from tests.conversation import Peer, connected, in_thread, stop_worker, token
from tests.deploy.test_alerts import fires

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = ChannelName("room")


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


class Counted:
    """A client that counts by itself what comes: messages, and serials that it was told it will not get."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.messages = 0
        self.left_out: dict[str, int] = {}

    async def attach(self, channel: str, **fields: object) -> None:
        assert (await self.peer.request("attach", channel=channel, **fields))["type"] == "attached"

    async def ack(self, channel: str, serial: int) -> None:
        await self.peer.send({"type": "ack", "serials": {channel: serial}})

    async def count_until(self, channel: str, serial: int) -> None:
        """Through the message of this serial."""
        while True:
            frame = await self.peer.read(channel=channel)
            if frame["type"] == "skipped" and frame["from"] is not None:
                reason = frame["reason"]
                self.left_out[reason] = self.left_out.get(reason, 0) + frame["to"] - frame["from"] + 1
            if frame["type"] == "message":
                self.messages += 1
                if frame["serial"] == serial:
                    return


def subscribers(client: str) -> list[Subscriber]:
    return [
        subscriber
        for each in worker.ensure().clients
        if each.identity is not None and each.identity.client == client
        for subscriber in each.subscribers.values()
    ]


def left_out(subscriber: Subscriber) -> dict[str, int]:
    return dict(subscriber.left_out or {})


async def balanced() -> live.Ledger:
    found = await in_thread(live.ledger)
    assert found.balanced, found
    return found


async def test_level_late_and_leaving_clients_are_accounted_for() -> None:
    async with connected() as publisher, connected(text=token("bob")) as second:
        level, late = Counted(publisher), Counted(second)
        await level.attach("room")
        for number in range(5):
            await publisher.publish("room", number)
        await level.count_until("room", 5)
        await late.attach("room", **{"from": "start"}, window=2)
        await late.count_until("room", 2)
        await balanced()
        await late.ack("room", 2)
        await late.count_until("room", 4)
        (one,), (other,) = subscribers("ana"), subscribers("bob")
        assert (one.delivered, other.delivered) == (level.messages, late.messages) == (5, 4)
        assert (other.start, other.reached, left_out(other)) == (0, 4, {})
        await second.request("detach", channel="room")
        assert (await balanced()).by_writes == 9
    assert (await balanced()).by_writes == 9


async def test_what_retention_took_and_what_was_of_another_epoch() -> None:
    async with connected() as publisher, connected(text=token("bob")) as second:
        slow = Counted(second)
        await slow.attach("room", window=2)
        for number in range(10):
            await publisher.publish("room", number)
        await slow.count_until("room", 2)
        await in_thread(prune, ROOM, 6)
        # What was read a moment before may be taken for true for so long.
        await asyncio.sleep(2 * BOUNDS_FRESH_S)
        await slow.ack("room", 2)
        await slow.count_until("room", 8)
        (one,) = subscribers("bob")
        assert slow.left_out == {"retention": 4} == left_out(one)
        assert one.delivered == slow.messages == 4 == one.reached - one.start - 4
        await in_thread(new_epoch, ROOM)
        await slow.count_until("room", 8)
        assert one.delivered == slow.messages == 6, "of both epochs"
        assert one.carried == 4 and left_out(one) == {}
        await balanced()


async def test_what_was_conflated() -> None:
    await in_thread(Namespace.objects.create, name="mast", overflow="conflate", known_ops=["subscribe", "publish"])
    async with connected() as publisher, connected(text=token("bob")) as second:
        slow = Counted(second)
        await slow.attach("mast:x", window=2)
        for number in range(12):
            await publisher.publish("mast:x", number)
        await slow.count_until("mast:x", 2)
        await slow.ack("mast:x", 2)
        await slow.count_until("mast:x", 12)
        (one,) = subscribers("bob")
        assert slow.left_out == {"conflated": 9} == left_out(one)
        assert one.delivered == slow.messages == 3
        await balanced()


async def test_events_of_the_platform_itself_are_in_both_counts() -> None:
    async with connected() as publisher:
        level = Counted(publisher)
        await level.attach("room")
        await in_thread(Namespace.objects.create, name="later")  # all workers are told, through the log
        running = worker.ensure()
        await aeventually(lambda: running.control.counts["own"] + running.control.counts["heard"])
        await publisher.publish("room", 1)
        await level.count_until("room", 1)
        await balanced()


async def books(channel: ChannelName = ROOM) -> live.Books:
    found = await in_thread(live.books, channel)
    assert found.balanced, found
    return found


async def test_the_books_of_a_channel_are_the_sum_of_what_its_clients_counted() -> None:
    async with connected() as publisher, connected(text=token("bob")) as second:
        level, slow = Counted(publisher), Counted(second)
        await level.attach("room")
        await slow.attach("room", window=2)
        for number in range(10):
            await publisher.publish("room", number)
        await publisher.publish("other", 1)
        await level.count_until("room", 10)
        await slow.count_until("room", 2)
        found = await books()
        assert (found.attached, found.ended, found.positions, found.waiting) == (2, 0, 12, 8)
        await in_thread(prune, ROOM, 6)
        await asyncio.sleep(2 * BOUNDS_FRESH_S)
        await slow.ack("room", 2)
        await slow.count_until("room", 8)
        found = await books()
        assert found.left_out == {"retention": 4} and found.positions == 10 + 8
        assert found.delivered == found.written == level.messages + slow.messages == 14
        await second.request("detach", channel="room")
        found = await books()
        assert (found.attached, found.ended, found.delivered, found.waiting) == (1, 1, 14, 0)
        assert (await books(ChannelName("other"))).written == 0, "nobody was attached there"


def told(name: str) -> float:
    """What the worker tells Prometheus."""
    ((_, value),) = metrics.read(worker.ensure()).series[name]
    assert isinstance(value, int | float)
    return value


async def test_a_ledger_that_is_off_is_told_by_the_metrics_and_fires_the_alert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("seriatim_ledger_imbalances_total", "seriatim_ledger_difference_messages")
    seen: list[list[float]] = []
    async with connected() as publisher:
        level = Counted(publisher)
        await level.attach("room")
        await publisher.publish("room", 1)
        await level.count_until("room", 1)
        hub = worker.ensure().hub
        hub.balance_some()
        assert hub.counts["balanced"], "somebody looks"
        seen.append([told(name) for name in names])
        (one,) = subscribers("ana")
        assert one.level is not None
        one.level.position += 3
        await aeventually(lambda: told(names[0]))  # by the regular look
        seen.append([told(name) for name in names])
        assert "The ledger of room does not balance: positions tell of 4" in caplog.text
        one.level.position -= 3
        await aeventually(lambda: not told(names[1]))
        seen.append([told(name) for name in names])
    assert seen == [[0, 0], [1, 3], [1, 0]]
    series = {
        f'{name}{{instance="app1:8000",worker="w1"}}': f"{before}x10 {wrong}x10 {after}x60"
        for name, before, wrong, after in zip(names, *seen, strict=True)
    }
    await asyncio.to_thread(fires, tmp_path, "SeriatimLedgerOff", series, {10: False, 12: True, 20: True, 60: False})


async def test_a_message_that_is_not_written_unbalances_the_books() -> None:
    async with connected() as publisher:
        level = Counted(publisher)
        await level.attach("room")
        await publisher.publish("room", 1)
        await level.count_until("room", 1)
        await balanced()
        (one,) = subscribers("ana")
        assert one.level is not None
        one.level.position += 1
        found = await in_thread(live.ledger)
        assert not found.balanced and found.by_positions == found.by_writes + 1
        one.level.position -= 1
