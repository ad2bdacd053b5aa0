"""The backplane over a layer that lies, fails, forgets and is slow: it loses news at most, and never the worker."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from channels.layers import InMemoryChannelLayer

from realtime import backplane
from realtime.backplane import Backplane, Line, group_of
from realtime.delivery.signals import Signal
from realtime.layers import Shard
from realtime.log.types import News
from realtime.protocol.names import ChannelName
from tests.conftest import aeventually

LOBBY, OTHER = ChannelName("chat:lobby"), ChannelName("chat:other")


def news(first: int, count: int = 1, channel: ChannelName = LOBBY, size: int = 10) -> News:
    return News(channel, 7, "e1", first, ["x" * size] * count)


class FakeLayer:
    """A layer under the test's hand: what it says, when it fails, how long it takes."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.signal_inbox: asyncio.Queue[Any] = asyncio.Queue()
        """Of names of lines for signals."""
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.groups: dict[str, set[str]] = {}
        self.names = 0
        self.failing = False
        self.refused_groups: set[str] = set()
        self.go = asyncio.Event()
        self.go.set()

    async def new_channel(self, prefix: str = "specific.") -> str:
        self.fail()
        if prefix.endswith(".signals"):
            return prefix
        self.names += 1
        return f"{prefix}.{self.names}"

    async def receive(self, channel: str) -> Any:
        message = await (self.signal_inbox if channel.endswith(".signals") else self.inbox).get()
        if isinstance(message, Exception):
            raise message
        return message

    async def group_add(self, group: str, channel: str) -> None:
        self.fail()
        if group in self.refused_groups:
            raise ValueError("no such group")
        self.groups.setdefault(group, set()).add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self.fail()
        self.groups.get(group, set()).discard(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self.go.wait()
        self.fail()
        self.sent.append((group, message))

    def fail(self) -> None:
        if self.failing:
            raise ConnectionError("the layer is away")

    def members(self, channel: ChannelName) -> set[str]:
        return self.groups.get(group_of(channel), set())


class Ear:
    def __init__(self) -> None:
        self.heard: list[object] = []
        self.fault: Exception | None = None

    def hear(self, each: News) -> None:
        if self.fault is not None:
            raise self.fault
        self.heard.append(each)

    def hear_of(self, channel: ChannelName, epoch: str | None, head: int) -> None:
        self.heard.append((channel, epoch, head))

    def hear_signal(self, signal: Signal) -> None:
        self.heard.append(signal)


def shard(layer: Any) -> Shard:
    return Shard(lambda: layer, own=hasattr(layer, "flush"))


class Started:
    def __init__(self, layer: Any, name: str = "w1") -> None:
        self.ear = Ear()
        self.layer = layer
        self.backplane = Backplane([shard(layer)], name, self.ear.hear, self.ear.hear_of, self.ear.hear_signal)
        self.backplane.start()

    @property
    def line(self) -> Line:
        return self.backplane.lines[0]

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def started(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Started]:
    monkeypatch.setattr(backplane, "RETRY_S", 0.01)
    world = Started(FakeLayer())
    await world.settle()
    yield world
    await world.backplane.stop()


MESSAGE = {
    "type": "seriatim.news",
    "worker": "w2",
    "channel": "chat:lobby",
    "channel_id": 7,
    "epoch": "e1",
    "first": 3,
    "frames": ["a", "b"],
}


# ---------------------------------------------------------------------- hearing


async def test_news_of_another_worker_is_heard(started: Started) -> None:
    started.layer.inbox.put_nowait(MESSAGE)
    started.layer.inbox.put_nowait({**MESSAGE, "frames": [], "first": 9})
    await started.settle()
    assert started.ear.heard == [News(LOBBY, 7, "e1", 3, ["a", "b"]), (LOBBY, "e1", 9)]


async def test_its_own_news_is_not(started: Started) -> None:
    started.layer.inbox.put_nowait({**MESSAGE, "worker": "w1"})
    await started.settle()
    assert not started.ear.heard and not started.backplane.counts["failures"]


@pytest.mark.parametrize(
    "foreign",
    [
        {},
        {"type": "chat.message", "text": "hello"},
        {**MESSAGE, "type": "seriatim.news.v2"},
        {**MESSAGE, "channel": None},
        {**MESSAGE, "channel_id": "7"},
        {**MESSAGE, "epoch": None},
        {**MESSAGE, "first": "3"},
        {**MESSAGE, "first": 0},
        {**MESSAGE, "frames": "ab"},
        {**MESSAGE, "frames": ["a", 5]},
        {**MESSAGE, "frames": None},
        {name: value for name, value in MESSAGE.items() if name != "frames"},
        "a string",
        None,
        [1, 2],
    ],
    ids=repr,
)
async def test_what_is_no_announcement_is_counted_and_dropped(started: Started, foreign: object) -> None:
    started.layer.inbox.put_nowait(foreign)
    started.layer.inbox.put_nowait(MESSAGE)
    await started.settle()
    assert len(started.ear.heard) == 1
    assert started.backplane.counts["failures"] == 1


async def test_a_fault_in_hearing_does_not_make_deaf(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    started.ear.fault = ZeroDivisionError("a fault of ours")
    started.layer.inbox.put_nowait(MESSAGE)
    await started.settle()
    started.ear.fault = None
    started.layer.inbox.put_nowait(MESSAGE)
    await started.settle()
    assert len(started.ear.heard) == 1 and "a fault of ours" in caplog.text


async def test_a_collision_of_names_is_seen_by_the_name_inside(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two channels in one group of the layer: the listener hears of both, each under its own name."""
    monkeypatch.setattr(backplane, "group_of", lambda channel: "one-group")
    started.backplane.announce(news(1))
    started.backplane.announce(news(1, channel=OTHER))
    await started.settle()
    assert [(group, message["channel"]) for group, message in started.layer.sent] == [
        ("one-group", LOBBY),
        ("one-group", OTHER),
    ]


def test_names_on_the_layer_are_allowed_there() -> None:
    longest = ChannelName("a" * 64 + ":" + "@=" * 67)
    for channel in (LOBBY, longest):
        group = group_of(channel)
        assert InMemoryChannelLayer().require_valid_group_name(group)
    assert group_of(LOBBY) != group_of(OTHER)


# ---------------------------------------------------------------------- announcing


async def test_announcements_go_out_in_order(started: Started) -> None:
    for first in range(1, 6):
        started.backplane.announce(news(first), 1700000000.5)
    await started.settle()
    assert [message["first"] for _, message in started.layer.sent] == [1, 2, 3, 4, 5]
    assert started.layer.sent[0] == (
        group_of(LOBBY),
        {**MESSAGE, "worker": "w1", "first": 1, "frames": ["x" * 10], "at": 1700000000.5},
    )


@pytest.mark.parametrize(("ago_s", "observed"), [(0.04, True), (-0.5, True), (3600.0, False), (-3600.0, False)])
async def test_the_lag_of_what_is_heard_is_measured_where_clocks_agree(
    started: Started, ago_s: float, observed: bool
) -> None:
    await started.layer.inbox.put({**MESSAGE, "at": time.time() - ago_s})
    await aeventually(lambda: len(started.ear.heard) == 1)
    lag = started.backplane.lag
    assert sum(lag.counts) == observed
    assert not observed or max(0.0, ago_s) <= lag.total <= max(0.0, ago_s) + 10


@pytest.mark.parametrize("at", [None, "soon", True, 17])
async def test_news_without_a_time_is_heard_all_the_same(started: Started, at: object) -> None:
    await started.layer.inbox.put({**MESSAGE, "at": at})
    await aeventually(lambda: len(started.ear.heard) == 1)
    assert not sum(started.backplane.lag.counts)


async def test_a_queue_that_is_full_shrinks_to_heads(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backplane, "ANNOUNCEMENTS_MOST", 5)
    started.layer.go.clear()
    for first in range(1, 1001):
        started.backplane.announce(news(first))
        started.backplane.announce(news(first, channel=OTHER))
        if first == 1:
            await started.settle()
    assert len(started.line._queue) == 5 and len(started.line._heads) == 2
    assert started.backplane.counts["shrunk"] >= 1990
    started.layer.go.set()
    await aeventually(lambda: len(started.layer.sent) == 8)
    last = {message["channel"]: message for _, message in started.layer.sent}
    assert {channel: (message["first"], message["frames"]) for channel, message in last.items()} == {
        LOBBY: (1000, []),
        OTHER: (1000, []),
    }
    assert not started.line._queued_bytes


async def test_large_announcements_shrink_by_their_bytes(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backplane, "ANNOUNCED_BYTES_MOST", 1000)
    started.layer.go.clear()
    await started.settle()
    for first in (1, 3, 5):
        started.backplane.announce(news(first, 2, size=300))
    started.backplane.announce(news(7, 1, size=5000))
    assert started.line._queued_bytes == 600
    assert started.line._heads == {LOBBY: ("e1", 7)}
    started.layer.go.set()
    await aeventually(lambda: len(started.layer.sent) == 2)
    assert not started.line._queued_bytes


async def test_a_layer_that_is_away_loses_news_and_nothing_else(started: Started) -> None:
    started.layer.failing = True
    started.backplane.announce(news(1))
    await aeventually(lambda: started.backplane.counts["failures"])
    started.layer.failing = False
    started.backplane.announce(news(2))
    await aeventually(lambda: started.layer.sent)
    assert [message["first"] for _, message in started.layer.sent] == [2]


async def test_failures_are_said_once_in_a_while(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(250):
        started.layer.inbox.put_nowait({})
    await aeventually(lambda: started.backplane.counts["failures"] == 250)
    assert len([record for record in caplog.records if record.name == "realtime.backplane"]) == 3


# ---------------------------------------------------------------------- membership


async def test_groups_are_joined_while_somebody_follows(started: Started) -> None:
    started.backplane.follow(LOBBY)
    started.backplane.follow(OTHER)
    await started.settle()
    started.backplane.unfollow(OTHER)
    await started.settle()
    assert (started.layer.members(LOBBY), started.layer.members(OTHER)) == ({"seriatim.hub.1"}, set())


async def test_only_the_last_wish_counts(started: Started) -> None:
    started.backplane.follow(LOBBY)
    started.backplane.unfollow(LOBBY)
    started.backplane.unfollow(OTHER)
    started.backplane.follow(OTHER)
    await started.settle()
    assert not started.layer.members(LOBBY) and started.layer.members(OTHER)
    assert not started.line._memberships


async def test_joining_waits_for_the_layer(started: Started) -> None:
    started.layer.failing = True
    started.backplane.follow(LOBBY)
    await aeventually(lambda: started.backplane.counts["failures"])
    assert not started.layer.members(LOBBY)
    started.layer.failing = False
    await aeventually(lambda: started.layer.members(LOBBY))


async def test_a_group_that_cannot_be_joined_keeps_no_other_waiting(started: Started) -> None:
    started.layer.refused_groups.add(group_of(LOBBY))
    started.backplane.follow(LOBBY)
    started.backplane.follow(OTHER)
    await aeventually(lambda: started.layer.members(OTHER))
    assert not started.layer.members(LOBBY)


async def test_a_layer_that_forgot_the_name_gives_another_that_joins_again(started: Started) -> None:
    started.backplane.follow(LOBBY)
    await started.settle()
    started.layer.groups.clear()
    started.layer.inbox.put_nowait(ConnectionError("gone"))
    await aeventually(lambda: started.layer.members(LOBBY) == {"seriatim.hub.2"})
    started.layer.inbox.put_nowait(MESSAGE)
    await aeventually(lambda: started.ear.heard)


async def test_a_layer_that_is_away_at_the_start_is_found_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backplane, "RETRY_S", 0.01)
    layer = FakeLayer()
    layer.failing = True
    world = Started(layer)
    world.backplane.follow(LOBBY)
    await aeventually(lambda: world.backplane.counts["failures"] >= 2)
    layer.failing = False
    await aeventually(lambda: layer.members(LOBBY))
    await world.backplane.stop()


# ---------------------------------------------------------------------- the end


async def test_stopping_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    before = asyncio.all_tasks()
    layer = FakeLayer()
    layer.go.clear()
    world = Started(layer)
    world.backplane.follow(LOBBY)
    world.backplane.announce(news(1))
    await world.settle()
    await world.backplane.stop()
    assert asyncio.all_tasks() == before


async def test_two_workers_hear_each_other_over_a_real_layer() -> None:
    layer = InMemoryChannelLayer()
    first, second = Started(layer, "w1"), Started(layer, "w2")
    for each in (first, second):
        each.backplane.follow(LOBBY)
    await first.settle()
    first.backplane.announce(news(1, 2))
    second.backplane.announce(news(3))
    second.backplane.announce(news(9, channel=OTHER))
    await aeventually(lambda: first.ear.heard and second.ear.heard)
    await first.settle()
    assert (second.ear.heard, first.ear.heard) == ([news(1, 2)], [news(3)])
    for each in (first, second):
        await each.backplane.stop()


async def test_a_layer_that_carries_nothing_is_suspect_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backplane, "BEACON_S", 0.01)
    monkeypatch.setattr(backplane, "SUSPECT_S", 0.2)
    layer = InMemoryChannelLayer()
    ear = Backplane([Shard(lambda: layer)], "w1", lambda news: None, lambda channel, epoch, head: None)
    ear.start()
    try:
        await aeventually(lambda: ear.lines[0]._joined_beacon)
        await asyncio.sleep(2 * backplane.SUSPECT_S)
        assert not ear.suspect
        send, layer.group_send = layer.group_send, _swallow
        await aeventually(lambda: ear.suspect)
        layer.group_send = send
        await aeventually(lambda: not ear.suspect)
    finally:
        await ear.stop()


async def _swallow(group: str, message: object) -> None:
    """A layer that is there and carries nothing."""


# ---------------------------------------------------------------------- a line that dies without a word


class OwnLayer(FakeLayer):
    """A layer of the line's own. `carries`: what is sent to a group comes back; `torn`: whoever waits for it waits for
    ever, until it is flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.carries = True
        self.torn = False
        self.flushes = 0
        self.flush_faults: list[Exception] = []
        self.stuck_flush = False

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await super().group_send(group, message)
        if self.torn:
            await asyncio.Event().wait()
        if self.carries and self.groups.get(group):
            self.inbox.put_nowait(message)

    async def flush(self) -> None:
        self.flushes += 1
        if self.stuck_flush:
            await asyncio.Event().wait()
        if self.flush_faults:
            raise self.flush_faults.pop(0)
        self.groups.clear()
        self.inbox = asyncio.Queue()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times a twentieth of the real ones."""
    for name in ("RETRY_S", "PATIENCE_S", "BEACON_S", "SUSPECT_S", "RENEW_S", "RENEW_DEAF_S"):
        monkeypatch.setattr(backplane, name, getattr(backplane, name) / 20)


@pytest.mark.usefixtures("quick")
async def test_a_silent_line_is_begun_anew_until_it_speaks() -> None:
    world = Started(OwnLayer())
    world.backplane.follow(LOBBY)
    await aeventually(lambda: world.layer.members(LOBBY) == {"seriatim.hub.1"})
    await asyncio.sleep(2 * backplane.RENEW_S)
    assert not world.backplane.suspect and not world.backplane.counts["renewals"]
    world.layer.carries = False
    await aeventually(lambda: world.backplane.suspect)
    await aeventually(lambda: world.backplane.counts["renewals"] >= 2)
    world.layer.carries = True
    await aeventually(lambda: not world.backplane.suspect)
    renewals = world.backplane.counts["renewals"]
    assert world.layer.flushes == renewals
    # Under its new name it is in its groups again, and hears.
    await aeventually(lambda: world.layer.members(LOBBY) == {f"seriatim.hub.{renewals + 1}"})
    world.layer.inbox.put_nowait(MESSAGE)
    await aeventually(lambda: world.ear.heard)
    await asyncio.sleep(2 * backplane.RENEW_S)
    assert world.backplane.counts["renewals"] == renewals
    await world.backplane.stop()


@pytest.mark.usefixtures("quick")
async def test_a_line_on_which_others_are_heard_is_not_begun_anew_at_once() -> None:
    world = Started(OwnLayer())
    world.layer.carries = False

    async def others() -> None:
        while True:
            world.layer.inbox.put_nowait(MESSAGE)
            await asyncio.sleep(backplane.BEACON_S)

    talking = asyncio.ensure_future(others())
    await aeventually(lambda: world.backplane.suspect)
    await asyncio.sleep(2 * backplane.RENEW_S)
    assert not world.backplane.counts["renewals"]
    await aeventually(lambda: world.backplane.counts["renewals"])
    talking.cancel()
    await world.backplane.stop()


@pytest.mark.usefixtures("quick")
async def test_calls_that_never_return_hold_up_nothing_for_long() -> None:
    world = Started(OwnLayer())
    await aeventually(lambda: world.layer.names)
    world.layer.torn = True
    for first in range(1, 4):
        world.backplane.announce(news(first))
    await aeventually(lambda: world.backplane.counts["failures"] >= 3)
    world.layer.torn = False
    world.backplane.announce(news(9))
    await aeventually(lambda: any(message.get("first") == 9 for _, message in world.layer.sent))
    await world.backplane.stop()


@pytest.mark.usefixtures("quick")
async def test_a_layer_that_cannot_even_be_closed_is_replaced() -> None:
    layers: list[OwnLayer] = []

    def make() -> OwnLayer:
        layers.append(OwnLayer())
        layers[-1].carries = len(layers) > 1
        return layers[-1]

    ears = Backplane([Shard(make, own=True)], "w1", lambda news: None, lambda channel, epoch, head: None)
    layers[0].flush_faults = [ConnectionError("closing"), ConnectionError("closing")] * 2
    ears.start()
    await aeventually(lambda: len(layers) == 2 and not ears.suspect)
    await ears.stop()


@pytest.mark.usefixtures("quick")
async def test_closing_that_never_ends_keeps_neither_renewal_nor_stop_waiting() -> None:
    before = asyncio.all_tasks()
    world = Started(OwnLayer())
    world.layer.carries = False
    world.layer.stuck_flush = True
    await aeventually(lambda: world.layer.flushes >= 3)
    world.layer.carries = True
    await aeventually(lambda: not world.backplane.suspect)
    await world.backplane.stop()
    assert asyncio.all_tasks() == before


# ---------------------------------------------------------------------- several lines


class Lines:
    """A worker on two layers."""

    def __init__(self) -> None:
        self.layers = [OwnLayer(), OwnLayer()]
        self.ear = Ear()
        self.backplane = Backplane([shard(each) for each in self.layers], "w1", self.ear.hear, self.ear.hear_of)
        self.backplane.start()
        self.channels = [ChannelName(f"chat:{number}") for number in range(40)]

    def index(self, channel: ChannelName) -> int:
        return self.backplane.lines.index(self.backplane.line_of(channel))


def test_channels_are_shared_out_over_lines_and_every_worker_agrees() -> None:
    async def outcome() -> list[int]:
        world = Lines()
        found = [world.index(channel) for channel in world.channels]
        await world.backplane.stop()
        return found

    found = asyncio.run(outcome())
    assert found == asyncio.run(outcome())
    assert found[:8] == [zlib.crc32(f"chat:{number}".encode()) % 2 for number in range(8)]
    assert 10 <= sum(found) <= 30


@pytest.mark.usefixtures("quick")
async def test_a_dead_line_holds_up_no_other() -> None:
    world = Lines()
    await aeventually(lambda: all(each.names for each in world.layers))
    dead, alive = (next(each for each in world.channels if world.index(each) == index) for index in (0, 1))
    world.layers[0].torn = True
    for first in range(1, 101):
        world.backplane.announce(news(first, channel=dead))
        world.backplane.announce(news(first, channel=alive))
        world.backplane.follow(ChannelName(f"{alive}/{first}"))
    await aeventually(lambda: len([1 for _, sent in world.layers[1].sent if sent["type"] == "seriatim.news"]) == 100)
    await aeventually(lambda: world.backplane.suspects(dead))
    assert world.backplane.suspect and not world.backplane.suspects(alive)
    assert world.backplane.counts["failures"] < 50
    world.layers[0].torn = False
    await aeventually(lambda: not world.backplane.suspect)
    await world.backplane.stop()


# ---------------------------------------------------------------------- signals


def signal(number: int, client: str = "ana", channel: ChannelName = LOBBY) -> Signal:
    return Signal(channel, client, "move", f"frame {number}")


def signals_of(message: dict[str, Any]) -> list[str]:
    return [frame for _, _, frame, _ in message["signals"]]


async def test_signals_of_another_worker_are_heard_and_its_own_are_not(started: Started) -> None:
    message = {
        "type": "seriatim.signals",
        "worker": "w2",
        "channel": LOBBY,
        "signals": [["ana", "move", "frame 1", ""]],
    }
    started.layer.inbox.put_nowait({**message, "worker": "w1"})
    started.layer.inbox.put_nowait(message)
    started.layer.inbox.put_nowait({**message, "signals": [["ana", 5], "x", None, ["ana", "move", "frame 2", ""]]})
    await started.settle()
    assert started.ear.heard == [signal(1), signal(2)]


async def test_what_one_sends_another_hears(started: Started) -> None:
    started.backplane.signal(signal(1))
    await started.settle()
    _, message = started.layer.sent[-1]
    other = Started(started.layer, "w2")
    other.layer.inbox.put_nowait(message)
    await started.settle()
    assert [*started.ear.heard, *other.ear.heard] == [signal(1)]
    await other.backplane.stop()


async def test_signals_wait_under_a_name_of_their_own_where_a_layer_bounds_what_waits(started: Started) -> None:
    """Else a flood of them would have the layer drop announcements."""
    started.backplane.follow(LOBBY)
    await started.settle()
    signals_group = backplane.signal_group_of(LOBBY, shard(started.layer))
    assert (started.layer.members(LOBBY), started.layer.groups[signals_group]) == (
        {"seriatim.hub.1"},
        {"seriatim.signals"},
    )
    started.backplane.announce(news(1))
    started.backplane.signal(signal(1))
    await started.settle()
    sent = {message["type"]: group for group, message in started.layer.sent}
    assert (sent["seriatim.news"], sent["seriatim.signals"]) == (group_of(LOBBY), signals_group)
    started.layer.signal_inbox.put_nowait(backplane.signal_message("w2", LOBBY, [signal(2)]))
    await started.settle()
    assert started.ear.heard == [signal(2)]
    started.backplane.unfollow(LOBBY)
    await started.settle()
    assert not started.layer.members(LOBBY) and not started.layer.groups[signals_group]


async def test_announcements_go_before_signals_and_those_of_a_channel_together() -> None:
    layer = OwnLayer()
    layer.carries = False
    started = Started(layer)
    await started.settle()
    started.layer.go.clear()
    started.backplane.announce(news(1))
    await started.settle()
    for number in range(3):
        started.backplane.signal(signal(number))
    started.backplane.signal(signal(3, channel=OTHER))
    started.backplane.announce(news(2))
    started.layer.go.set()
    await started.settle()
    sent = [message for _, message in started.layer.sent if message["type"] != backplane.BEACON]
    assert [message["type"].removeprefix("seriatim.") for message in sent] == ["news", "news", "signals", "signals"]
    assert signals_of(sent[2]) == ["frame 0", "frame 1", "frame 2"]
    assert signals_of(sent[3]) == ["frame 3"]
    assert started.backplane.counts["signals_sent"] == 4
    await started.backplane.stop()


async def test_of_too_many_signals_the_newest_of_each_client_wait(started: Started) -> None:
    started.layer.go.clear()
    started.backplane.signal(signal(0, "first"))
    await started.settle()
    for number in range(backplane.SIGNALS_MOST + 1):
        started.backplane.signal(signal(number, f"p{number % 10}"))
    started.layer.go.set()
    await started.settle()
    assert len(signals_of(started.layer.sent[-1][1])) == 10
    assert signals_of(started.layer.sent[-1][1])[-1] == f"frame {backplane.SIGNALS_MOST}"
    assert started.backplane.counts["signals_dropped"] == backplane.SIGNALS_MOST - 9


async def test_signals_that_the_layer_refuses_are_dropped_and_counted(started: Started) -> None:
    started.layer.failing = True
    started.backplane.signal(signal(1))
    await started.settle()
    started.layer.failing = False
    started.backplane.announce(news(1))
    await asyncio.sleep(0.05)
    assert [message["type"] for _, message in started.layer.sent if message["type"] != backplane.BEACON] == [
        "seriatim.news"
    ]
    assert started.backplane.counts["signals_dropped"] == 1
