"""Signals on one worker, over the real hub: who gets them, in how many writes, and what is kept under pressure."""

from __future__ import annotations

import json
from typing import Any

from realtime import signalling
from realtime.delivery.signals import Signal
from realtime.hub import Mode
from realtime.protocol import positions
from realtime.protocol.messages import signal_frame
from realtime.signalling import Signalling
from tests.hub.world import CHANNEL, Client, World


class Screen(Client):
    """A client that takes signals beside messages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[tuple[str, Any]] = []
        self.writes = 0

    def write(self, payload: Any) -> None:
        found = [json.loads(text) for text in payload]
        if found[0]["type" if "type" in found[0] else "serial"] != "signal":
            super().write(payload)
            return
        assert not self.congested, "a congested sink was written to"
        assert self.attached, "a signal before `attached`"
        self.writes += 1
        self.seen += [(frame["client"], frame["data"]) for frame in found]


class Stage:
    def __init__(self, count: int = 3) -> None:
        self.world = World()
        self.overloaded = False
        self.signalling = Signalling(self.world.loop, self.world.hub, lambda: self.overloaded)
        self.screens: list[Screen] = []
        for _ in range(count):
            self.join()
        self.world.loop.advance(1)

    def join(self, window: int = 0) -> Screen:
        screen = Screen(self.world, window)
        screen.attach(positions.Head())
        self.screens.append(screen)
        return screen

    def signal(self, sender: Screen | None, data: object, client: str = "ana", event: str = "move") -> None:
        text = signal_frame(CHANNEL, client, event, json.dumps(data))
        self.signalling.give(Signal(CHANNEL, client, event, text), sender)

    def drain(self, screen: Screen) -> None:
        screen.congested = False
        assert screen.subscriber is not None
        self.signalling.drained(screen.subscriber)
        self.world.hub.drained(screen.subscriber)


def test_those_of_one_turn_are_one_write_without_the_senders_own() -> None:
    stage = Stage()
    ana, bo, cy = stage.screens
    stage.signal(ana, 1, "ana")
    stage.signal(bo, 2, "bo")
    stage.signal(ana, 3, "ana")
    assert not cy.seen, "in the next turn"
    stage.world.loop.advance(0)
    assert cy.seen == [("ana", 1), ("bo", 2), ("ana", 3)]
    assert (ana.seen, bo.seen) == ([("bo", 2)], [("ana", 1), ("ana", 3)])
    assert [screen.writes for screen in stage.screens] == [1, 1, 1]


def test_who_is_being_attached_or_has_left_gets_none() -> None:
    stage = Stage()
    late = stage.join()
    assert late.subscriber is not None and late.subscriber.mode is Mode.JOINING
    stage.signal(None, 1)
    stage.screens[0].detach()
    stage.world.loop.advance(1)
    assert (late.seen, stage.screens[0].seen, stage.screens[1].seen) == ([], [], [("ana", 1)])


def test_a_full_window_holds_up_no_signal() -> None:
    stage = Stage(0)
    slow = stage.join(window=1)
    stage.world.loop.advance(1)
    stage.world.publish(3)
    stage.world.hear_all()
    stage.world.loop.advance(1)
    assert slow.subscriber is not None and slow.subscriber.mode is Mode.WAITING
    stage.signal(None, 1)
    stage.world.loop.advance(0)
    assert slow.seen == [("ana", 1)]


def test_a_congested_one_gets_the_newest_of_each_when_it_has_drained() -> None:
    stage = Stage()
    stalled = stage.screens[0]
    stalled.congest(True)
    for number in range(5):
        stage.signal(None, number, "ana")
        stage.signal(None, number, "bo", "typing")
        stage.signal(stalled, number, "cy")
        stage.world.loop.advance(0.01)
    assert len(stage.screens[1].seen) == 15
    assert stalled.seen == []
    stage.drain(stalled)
    assert stalled.seen == [("ana", 4), ("bo", 4)]
    assert stage.signalling.counts["dropped"] == 8


def test_what_is_kept_for_a_congested_one_is_bounded() -> None:
    stage = Stage()
    stalled = stage.screens[0]
    stalled.congest(True)
    for number in range(signalling.KEPT_MOST * 3):
        stage.signal(None, number, f"p{number}")
    stage.world.loop.advance(0)
    assert stalled.subscriber is not None and stalled.subscriber.signals is not None
    assert len(stalled.subscriber.signals) == signalling.KEPT_MOST
    stage.drain(stalled)
    assert [data for _, data in stalled.seen] == list(range(signalling.KEPT_MOST * 2, signalling.KEPT_MOST * 3))


def test_a_large_crowd_is_served_in_slices_and_what_comes_meanwhile_is_gathered(monkeypatch: Any) -> None:
    monkeypatch.setattr(signalling, "WRITES_A_TURN", 2)
    stage = Stage(5)
    stage.signal(None, 1)
    stage.signalling._run()
    assert sorted(len(screen.seen) for screen in stage.screens) == [0, 0, 0, 1, 1]
    stage.signal(None, 2)
    stage.signal(None, 3)
    stage.world.loop.advance(0)
    assert all(screen.seen == [("ana", 1), ("ana", 2), ("ana", 3)] for screen in stage.screens)
    assert all(screen.writes == 2 for screen in stage.screens)


def test_of_too_many_in_one_turn_the_newest_of_each_is_passed_on() -> None:
    stage = Stage(1)
    for number in range(signalling.GATHERED_MOST + 1):
        stage.signal(None, number, f"p{number % 10}")
    stage.world.loop.advance(0)
    assert len(stage.screens[0].seen) == 10
    assert stage.screens[0].seen[-1] == ("p0", signalling.GATHERED_MOST)


def test_under_load_they_are_dropped_and_counted() -> None:
    stage = Stage()
    stage.overloaded = True
    stage.signal(None, 1)
    stage.world.loop.advance(0)
    assert not stage.screens[0].seen
    assert stage.signalling.counts["dropped"] == 1


def test_where_nobody_is_attached_nothing_gathers() -> None:
    stage = Stage(0)
    stage.signal(None, 1)
    assert not stage.signalling._gathered
