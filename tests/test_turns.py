"""Turns of HTTP requests: few at once while the loop is busy, in order, and nobody holds up the others for long."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.signals import request_started

from realtime import asgi
from realtime.turns import Full, Turn, Turns, let_requests_stand_back
from tests.conftest import MS, aeventually

LONG_MS = 600_000


class Busy:
    """A worker whose loop is busy as long as the test says so."""

    def __init__(self) -> None:
        self.busy = True
        self.turns = Turns(asyncio.get_running_loop(), lambda: self.busy)
        self.order: list[int] = []

    def ask(self, number: int) -> asyncio.Task[Turn]:
        async def take() -> Turn:
            turn = await self.turns.take()
            self.order.append(number)
            return turn

        return asyncio.ensure_future(take())


def niceness_in(thread_of: Callable[[Callable[[], int]], int]) -> int:
    """Of a request that such a thread begins."""

    def begin() -> int:
        request_started.send(sender=None)
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    return thread_of(begin)


def in_a_thread(work: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness elsewhere")
@pytest.mark.django_db
def test_requests_stand_back_behind_a_busy_loop_and_nothing_else_does(realtime_settings: Callable[..., None]) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    realtime_settings(HTTP_NICE=3)
    busy = False
    stop = let_requests_stand_back(lambda: busy)
    try:
        assert niceness_in(in_a_thread) == mine
        busy = True
        assert niceness_in(in_a_thread) == mine + 3
        assert niceness_in(lambda work: work()) == mine, "the main thread is the loop's"
    finally:
        stop()
    assert niceness_in(in_a_thread) == mine


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_while_the_loop_is_busy_requests_run_in_order_and_few_at_once(
    realtime_settings: Callable[..., None],
) -> None:
    realtime_settings(HTTP_AT_ONCE=2, HTTP_TURN_MS=LONG_MS)
    busy = Busy()
    asked = [busy.ask(number) for number in range(6)]
    for count in range(2, 7):
        await settled()
        assert busy.order == list(range(count)) and busy.turns.running == 2
        assert busy.turns.waiting == 6 - count
        turn = asked[count - 2].result()
        turn.end()
        turn.end()  # the answer begins, and then it ends
    await settled()
    assert busy.turns.running == 1 and busy.turns.waited == 4
    asked[-1].result().end()


async def test_nobody_waits_while_the_loop_has_little_to_do(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(HTTP_AT_ONCE=1, HTTP_TURN_MS=LONG_MS)
    busy = Busy()
    busy.busy = False
    turns = [await busy.turns.take() for _ in range(20)]
    busy.busy = True
    waits = busy.ask(1)
    await settled()
    assert busy.turns.waiting == 1
    busy.busy = False
    late = busy.ask(2)
    turns.pop().end()
    await settled()
    assert sorted(busy.order) == [1, 2] and busy.turns.waiting == 0
    for turn in [*turns, waits.result(), late.result()]:
        turn.end()
    assert busy.turns.running == 0


async def test_a_request_that_waits_for_something_holds_up_the_others_for_a_moment(
    realtime_settings: Callable[..., None],
) -> None:
    realtime_settings(HTTP_AT_ONCE=1, HTTP_TURN_MS=20)
    busy = Busy()
    slow = await busy.turns.take()  # and does not end
    inner = await asyncio.wait_for(busy.turns.take(), 20_000 * MS)
    slow.end()
    assert busy.turns.running == 1
    inner.end()


async def test_who_goes_away_while_waiting_leaves_no_gap(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(HTTP_AT_ONCE=1, HTTP_TURN_MS=LONG_MS)
    busy = Busy()
    first = await busy.turns.take()
    gone, given, last = busy.ask(1), busy.ask(2), busy.ask(3)
    await settled()
    gone.cancel()
    await settled()
    assert busy.turns.waiting == 2
    first.end()  # the second has its turn, but does not know it yet
    given.cancel()
    await settled()
    assert busy.order == [3] and busy.turns.running == 1
    last.result().end()
    assert busy.turns.running == 0 and busy.turns.waiting == 0


async def test_more_than_may_wait_are_told_when_to_come_back(
    realtime_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    realtime_settings(HTTP_AT_ONCE=1, HTTP_TURN_MS=LONG_MS, HTTP_WAITING=1)
    busy = Busy()
    first, waits = await busy.turns.take(), busy.ask(1)
    await settled()
    with pytest.raises(Full):
        await busy.turns.take()
    monkeypatch.setattr("realtime.worker.current", lambda: busy)
    served: list[str] = []

    async def django(scope: dict[str, Any], receive: Any, send: Any) -> None:
        served.append(scope["path"])

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    application = asgi._in_turn(django)
    await application({"type": "http", "path": "/page"}, None, send)
    assert sent[0]["status"] == 503 and (b"retry-after", b"2") in sent[0]["headers"] and not served
    assert busy.turns.refused == 2
    # Health is told whatever waits.
    await application({"type": "http", "path": "/api/v1/readyz"}, None, send)
    assert served == ["/api/v1/readyz"]
    first.end()
    await aeventually(waits.done)
    waits.result().end()


async def test_the_turn_ends_when_the_answer_begins(
    realtime_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    realtime_settings(HTTP_AT_ONCE=1, HTTP_TURN_MS=LONG_MS)
    busy = Busy()
    monkeypatch.setattr("realtime.worker.current", lambda: busy)
    running: list[int] = []

    async def django(scope: dict[str, Any], receive: Any, send: Any) -> None:
        running.append(busy.turns.running)
        if scope["path"] == "/fails":
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        running.append(busy.turns.running)
        await send({"type": "http.response.body", "body": b"", "more_body": True})

    async def send(message: dict[str, Any]) -> None: ...

    await asgi._in_turn(django)({"type": "http", "path": "/page"}, None, send)
    assert running == [1, 0]
    with pytest.raises(RuntimeError):
        await asgi._in_turn(django)({"type": "http", "path": "/fails"}, None, send)
    assert busy.turns.running == 0
