"""Cursors: positions kept for clients, never backwards, made before they are answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.db import OperationalError, transaction

from realtime import cursors, namespaces, tokens, worker
from realtime.cursors import PER_CHANNEL_MOST, CursorKey, Cursors, Opened, Position, _open, _store, forget_old
from realtime.log.retention import begin_anew
from realtime.models import Cursor, Namespace
from realtime.protocol.names import ChannelName
from realtime.publishing import publish
from tests.conftest import aeventually
from tests.conversation import connected, in_thread, stop_worker

pytestmark = pytest.mark.django_db(transaction=True)

LOBBY = ChannelName("lobby")
PHONE = CursorKey(LOBBY, "ana", "phone")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture
async def one_worker(fresh: None) -> AsyncIterator[None]:
    yield
    await stop_worker()


def filled(count: int) -> str:
    """Publishes `count` messages; the log's epoch."""
    receipts = [publish(LOBBY, n) for n in range(count)]
    assert receipts[-1].epoch is not None
    return receipts[-1].epoch


def stored(key: CursorKey = PHONE) -> tuple[str | None, int]:
    row = Cursor.objects.get(channel=key.channel, client=key.client, name=key.name)
    return row.epoch, row.serial


def opened(key: CursorKey, head: Position) -> Position:
    answer = _open(key, head)
    assert answer.position is not None, answer.error
    return answer.position


# ---------------------------------------------------------------------- rows


def test_the_first_use_stores_the_head_and_later_ones_find_it() -> None:
    assert opened(PHONE, Position("e1", 7)) == ("e1", 7)
    assert stored() == ("e1", 7)
    assert opened(PHONE, Position("e1", 9)) == ("e1", 7)


def test_a_cursor_never_moves_backwards() -> None:
    epoch = filled(9)
    opened(PHONE, Position(epoch, 2))
    for serial, want in ((5, 5), (3, 5), (5, 5), (8, 8)):
        _store({PHONE: Position(epoch, serial)})
        assert stored() == (epoch, want)


def test_the_epoch_of_now_wins_over_the_one_before_and_not_the_other_way() -> None:
    old = filled(9)
    opened(PHONE, Position(old, 8))
    new = begin_anew(LOBBY)
    _store({PHONE: Position(new, 0)})
    assert stored() == (new, 0)
    _store({PHONE: Position(old, 9)})
    assert stored() == (new, 0)


def test_a_cursor_of_a_channel_without_a_log_learns_its_epoch() -> None:
    assert opened(PHONE, Position(None, 0)) == (None, 0)
    epoch = filled(2)
    _store({PHONE: Position(epoch, 1)})
    assert stored() == (epoch, 1)


def test_many_cursors_are_stored_in_one_go() -> None:
    epoch = filled(3)
    keys = [CursorKey(LOBBY, f"client-{n}", "phone") for n in range(250)]
    _store({key: Position(epoch, 2) for key in keys})
    assert Cursor.objects.filter(serial=2).count() == 250


def test_a_client_has_a_bounded_number_of_cursors_in_a_channel() -> None:
    for n in range(PER_CHANNEL_MOST):
        opened(CursorKey(LOBBY, "ana", f"c{n}"), Position("e1", 1))
    refused = _open(CursorKey(LOBBY, "ana", "one-more"), Position("e1", 1))
    assert refused.position is None and refused.error is not None and refused.error.code == "limit_exceeded"
    assert opened(CursorKey(LOBBY, "ana", "c5"), Position("e1", 3)) == ("e1", 1)
    assert opened(CursorKey(LOBBY, "bo", "one-more"), Position("e1", 1)) == ("e1", 1)


def test_cursors_that_nobody_used_for_long_are_forgotten() -> None:
    opened(PHONE, Position("e1", 1))
    row = Cursor.objects.get()
    assert forget_old(row.used / 1000 + cursors.KEPT_S - 1) == 0
    assert forget_old(row.used / 1000 + cursors.KEPT_S + 1) == 1


# ---------------------------------------------------------------------- the loop's side


class Loop:
    """Time stands still until the test calls what is due."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call_later(self, delay: float, callback: Any) -> Loop:
        self.due.append(callback)
        return self

    def cancel(self) -> None:
        self.due.clear()

    def call_soon_threadsafe(self, callback: Any, *args: object) -> None:
        callback(*args)


class Writer:
    """The log writer's thread, as far as jobs go: runs them at once."""

    def run(self, job: Any) -> None:
        job()


def test_what_is_noted_is_stored_together_and_only_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[CursorKey, Position]] = []
    monkeypatch.setattr(cursors, "_store", lambda noted: calls.append(dict(noted)))
    loop = Loop()
    kept = Cursors(loop, Writer())  # type: ignore[arg-type]  # as much of a writer as is used
    for serial in (1, 2, 3):
        kept.note(PHONE, Position("e1", serial))
    assert (calls, len(loop.due)) == ([], 1)
    loop.due[0]()
    assert calls == [{PHONE: Position("e1", 3)}]
    kept.store()
    assert len(calls) == 1


def test_a_failed_store_is_tried_again_with_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[CursorKey, Position]] = []

    def fail(noted: dict[CursorKey, Position]) -> None:
        raise OperationalError("away")

    loop = Loop()
    kept = Cursors(loop, Writer())  # type: ignore[arg-type]  # as above
    monkeypatch.setattr(cursors, "_store", fail)
    kept.note(PHONE, Position("e1", 3))
    kept.store()
    assert len(loop.due) == 1
    kept.note(PHONE, Position("e1", 4))
    monkeypatch.setattr(cursors, "_store", lambda noted: calls.append(dict(noted)))
    kept.store()
    assert calls == [{PHONE: Position("e1", 4)}]


def test_each_namespace_stores_as_often_as_it_says_and_what_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[CursorKey, Position]] = []
    monkeypatch.setattr(cursors, "_store", lambda noted: calls.append(dict(noted)))
    clock = Clock()
    interval_ms = {"often": 100, "seldom": 60_000}
    kept = Cursors(clock, Writer(), interval_ms.__getitem__)  # type: ignore[arg-type]  # as above
    often, seldom, ending = (CursorKey(ChannelName(name), "ana", key) for name, key in OFTEN_AND_SELDOM)
    for key in (often, seldom, ending):
        kept.note(key, Position("e1", 1))
    clock.advance(99)
    assert calls == []
    clock.advance(1)
    assert calls == [{often: ("e1", 1)}]
    kept.store_soon(ending)
    clock.advance(0)
    assert calls[1:] == [{ending: ("e1", 1)}]
    # The interval is changed while a position waits: it is not stored twice, nor after the newer one.
    interval_ms["seldom"] = 100
    kept.note(seldom, Position("e1", 2))
    clock.advance(100)
    assert calls[2:] == [{seldom: ("e1", 2)}]
    clock.advance(60_000)
    assert len(calls) == 3


OFTEN_AND_SELDOM = (("often", "phone"), ("seldom", "phone"), ("seldom", "desk"))


class Clock:
    """A loop whose time the test moves."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.timers: list[Clock.Ringing] = []

    class Ringing:
        def __init__(self, at_ms: float, callback: Any) -> None:
            self.at_ms = at_ms
            self.callback = callback
            self.cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def call_later(self, delay: float, callback: Any) -> Clock.Ringing:
        self.timers.append(Clock.Ringing(self.now_ms + delay * 1000, callback))
        return self.timers[-1]

    def call_soon_threadsafe(self, callback: Any, *args: object) -> None:
        callback(*args)

    def advance(self, ms: float) -> None:
        self.now_ms += ms
        due = [each for each in self.timers if each.at_ms <= self.now_ms + 1e-6]
        self.timers = [each for each in self.timers if each not in due]
        for each in due:
            if not each.cancelled:
                each.callback()


def test_a_database_that_is_away_is_answered_as_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(transaction, "atomic", fail)
    answers: list[Opened] = []
    Cursors(Loop(), Writer()).open(PHONE, Position("e1", 1), answers.append)  # type: ignore[arg-type]  # as above
    assert answers[0].error is not None and answers[0].error.code == "unavailable"


# ---------------------------------------------------------------------- over the wire


async def test_a_client_goes_on_at_its_cursor_after_a_disconnect(one_worker: None) -> None:
    await in_thread(filled, 3)
    async with connected() as first:
        answer = await first.request("attach", channel=LOBBY, **{"from": {"cursor": "phone"}})
        assert answer["serial"] == 3
        await in_thread(filled, 4)
        await first.messages(LOBBY, 4)
        await first.send({"type": "ack", "serials": {LOBBY: 5}})
        await first.request("ping")
    await aeventually(lambda: in_thread(lambda: stored()[1] == 5))
    async with connected() as again:
        answer = await again.request("attach", channel=LOBBY, **{"from": {"cursor": "phone"}})
        assert (answer["serial"], answer["resumed"]) == (5, True)
        assert [(await again.read(type="message"))["serial"] for _ in range(2)] == [6, 7]


async def test_a_namespace_says_live_how_often_its_cursors_are_stored(one_worker: None) -> None:
    await in_thread(Namespace.objects.create, name="seldom", cursor_ms=3_600_000)
    channel = ChannelName("seldom:x")
    key = CursorKey(channel, "ana", "phone")
    async with connected() as peer:
        await peer.request("attach", channel=channel, **{"from": {"cursor": "phone"}})
        for number in range(3):
            await peer.publish(channel, number)
        await peer.messages(channel, 3)
        running = worker.current()
        assert running is not None
        await peer.request("ping")
        await peer.send({"type": "ack", "serials": {channel: 1}})
        await peer.request("ping")
        assert list(running.cursors._waiting) == [3_600_000]
        assert (await in_thread(stored, key))[1] == 0
        await in_thread(Namespace.objects.filter(name="seldom").update, cursor_ms=100)
        await in_thread(namespaces.load)
        await peer.send({"type": "ack", "serials": {channel: 2}})
        await aeventually(lambda: in_thread(lambda: stored(key)[1] == 2))
        await in_thread(Namespace.objects.filter(name="seldom").update, cursor_ms=3_600_000)
        await in_thread(namespaces.load)
        await peer.send({"type": "ack", "serials": {channel: 3}})
        await peer.request("ping")
        assert (await in_thread(stored, key))[1] == 2
    # The end of the attachment waits for no interval.
    await aeventually(lambda: in_thread(lambda: stored(key)[1] == 3))


async def test_a_cursor_and_a_window_of_0_do_not_go_together(one_worker: None) -> None:
    async with connected() as peer:
        answer = await peer.request("attach", channel=LOBBY, window=0, **{"from": {"cursor": "phone"}})
        assert answer["code"] == "bad_position"
