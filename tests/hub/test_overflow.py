"""The handbook's case in simulated time, 20 messages a second to a client that handles 15; and what else conflates."""

from __future__ import annotations

from typing import Any

import pytest

from realtime import hub
from realtime.hub import Mode, Overflow
from realtime.protocol import positions
from realtime.protocol.names import Epoch, Serial
from tests.hub.world import Client, World, key_at

SECONDS, A_SECOND, HANDLES = 120, 20, 15
WINDOW = 16


class Slow(Client):
    """Handles what it got one by one, and acknowledges half a window at a time, as `ack_every` says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handled: list[tuple[int, float]] = []
        self.waited = False

    def handle(self) -> None:
        if len(self.handled) < len(self.got):
            self.handled.append((self.got[len(self.handled)][1], self.world.loop.now))
            if len(self.handled) % (WINDOW // 2) == 0:
                self.ack(self.handled[-1][0])
        assert self.subscriber is not None
        self.waited |= self.subscriber.mode is Mode.WAITING


def run(overflow: Overflow) -> tuple[World, Slow, list[float]]:
    """Two minutes of it; with how late each message was handled."""
    world = World(window_bytes=1 << 20)
    world.set_overflow(overflow)
    client = Slow(world, WINDOW)
    world.clients.append(client)
    client.attach(positions.Head())
    world.loop.advance(1)
    published: dict[int, float] = {}
    # The least common multiple of both paces is 60 a second.
    for step in range(SECONDS * 60):
        if step % (60 // A_SECOND) == 0:
            world.publish()
            published[world.log.head] = world.loop.now
            world.hear_all()
        if step % (60 // HANDLES) == 0:
            client.handle()
        world.loop.advance(1 / 60)
    return world, client, [at - published[serial] for serial, at in client.handled]


def test_held_everything_arrives_late_and_the_window_closes() -> None:
    world, client, late = run(Overflow.HOLD)
    assert client.waited
    assert not client.left_out
    # A quarter of two minutes' messages are still to come.
    assert late[-1] > SECONDS / 5
    while len(client.handled) < world.log.head:
        client.handle()
        world.loop.advance(1 / HANDLES)
        world.settle(0)
    assert [serial for serial, _ in client.handled] == list(range(1, world.log.head + 1))


def test_conflated_the_newest_arrive_and_every_gap_is_told() -> None:
    world, client, late = run(Overflow.CONFLATE)
    assert client.waited
    # Never later than a window's worth of its own pace, and some to get there.
    assert max(late) < 3 * WINDOW / HANDLES
    assert client.left_out
    delivered = {serial for _, serial in client.got}
    told = {serial for _, serial in client.left_out}
    assert delivered | told >= set(range(1, client.position + 1))
    assert not delivered & told
    world.settle()
    newest = {key_at(serial): serial for serial in range(1, world.log.head + 1) if key_at(serial)}
    assert {*newest.values(), world.log.head} <= {serial for _, serial in client.got}


def stalled(world: World, behind: int) -> Client:
    world.log.commit(1)
    client = world.client()
    world.loop.advance(1)
    client.congest(True)
    for _ in range(behind):
        world.publish()
    world.hear_all()
    return client


@pytest.mark.parametrize("by_log", [False, True])
def test_one_write_after_a_stall_is_the_newest_of_each_key(by_log: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_log:
        monkeypatch.setattr(hub, "CONFLATE_LOOK_MOST", 4)
    world = World()
    world.set_overflow(Overflow.CONFLATE)
    client = stalled(world, 50)
    client.congest(False)
    world.loop.advance(1)
    newest = {key_at(serial): serial for serial in range(2, 52) if key_at(serial)}
    assert [serial for _, serial in client.got] == sorted({*newest.values(), 51})
    assert len(client.left_out) == 50 - len(client.got)
    assert world.hub.counts["conflated"] == len(client.left_out)


def test_a_channel_that_holds_leaves_nothing_out() -> None:
    world = World()
    client = stalled(world, 50)
    client.congest(False)
    world.loop.advance(1)
    assert len(client.got) == 50


def test_an_operators_change_holds_for_those_attached() -> None:
    world = World()
    client = stalled(world, 50)
    world.set_overflow(Overflow.CONFLATE)
    client.congest(False)
    world.loop.advance(1)
    assert len(client.got) < 10


def test_a_hole_of_ours_conflates_nobody() -> None:
    world = World()
    world.set_overflow(Overflow.CONFLATE)
    client = world.client()
    world.loop.advance(1)
    world.publish(5)
    world.pending.clear()
    world.publish()
    world.hear_all()
    world.loop.advance(1)
    assert [serial for _, serial in client.got] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "position", [positions.Start(), positions.Rewind(50), positions.Since(0)], ids=["start", "rewind", "since"]
)
def test_history_that_was_asked_for_is_whole(position: Any) -> None:
    world = World()
    world.set_overflow(Overflow.CONFLATE)
    world.log.commit(50)
    client = world.client(4, position)
    world.settle()
    assert len(client.got) == 50


@pytest.mark.parametrize(("away", "whole"), [(8, True), (40, False)])
def test_who_was_away_for_longer_than_a_window_is_conflated(away: int, whole: bool) -> None:
    world = World()
    world.set_overflow(Overflow.CONFLATE)
    world.log.commit(50)
    client = world.client(8, positions.Resume(Epoch("e1"), Serial(50 - away)))
    world.settle()
    assert client.position == 50
    assert (len(client.got) == away) is whole


def test_under_load_everybody_is_served_a_few_times_a_second() -> None:
    world = World()
    world.set_overflow(Overflow.CONFLATE_ALL)
    client = world.client()
    world.loop.advance(1)
    for _ in range(100):
        world.publish()
        world.hear_all()
        world.loop.advance(0.01)
    world.loop.advance(1)
    assert client.position == 100
    assert len(client.got) <= 25
    world.set_overflow(Overflow.CONFLATE)
    for _ in range(20):
        world.publish()
        world.hear_all()
        world.loop.advance(0.01)
    world.loop.advance(1)
    assert [serial for _, serial in client.got][-15:] == list(range(106, 121))
