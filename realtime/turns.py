"""Turns of HTTP requests in a process that serves sockets, too: how many of Django's threads may want the interpreter.

Django runs each request in a thread of its own. As many threads as there are requests want the interpreter then, and
the loop, which writes to all sockets, gets it only in its turn: eight of them made a broadcast take four times as long,
and were not quicker for it. So, while the loop has much to do, few requests run at once and the others wait, in order.

A request that itself waits, for a slow database or another service, needs no interpreter meanwhile. Its turn therefore
ends after a moment, whatever it does: it holds up nobody for longer, not even if it waits for another request to this
process.

And where a request and a busy loop share a core, the system is asked to prefer the loop: otherwise it shares out the
core fairly, in slices of milliseconds, while a message waits. See docs/explanation/load.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from django.core.signals import request_started

from realtime.conf import settings

NICEST: Final = 19
"""Linux knows no nicer ones."""


class Full(Exception):
    """So many requests wait that one more is refused."""


class Turn:
    """The right to run, until `end`, or a moment later."""

    __slots__ = ("_ended", "_timer", "_turns")

    def __init__(self, turns: Turns, loop: asyncio.AbstractEventLoop) -> None:
        self._turns = turns
        self._ended = False
        self._timer = loop.call_later(settings.HTTP_TURN_MS / 1000, self.end)

    def end(self) -> None:
        """The answer begins. More than once is as good as once."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._turns.next()


class Turns:
    """On the loop's thread; numbers may be read from any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_busy: Callable[[], bool]) -> None:
        self._loop = loop
        self._is_busy = is_busy
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        self.running = 0
        """Turns that have not ended."""
        self.waited = 0
        """Requests that had to wait, since the start."""
        self.refused = 0

    @property
    def loop_is_busy(self) -> bool:
        """Whether the loop has much to do. Any thread."""
        return self._is_busy()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def take(self) -> Turn:
        """A turn, at once while the loop has little to do. Raises Full when HTTP_WAITING requests wait already."""
        if not self._waiting and self._is_free():
            return self._begin()
        if len(self._waiting) >= settings.HTTP_WAITING:
            self.refused += 1
            raise Full
        self.waited += 1
        future: asyncio.Future[Turn] = self._loop.create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                future.result().end()
            else:
                self._waiting.remove(future)
            raise

    def next(self) -> None:
        """A turn has ended."""
        self.running -= 1
        while self._waiting and self._is_free():
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._begin())

    def _is_free(self) -> bool:
        return self.running < settings.HTTP_AT_ONCE or not self._is_busy()

    def _begin(self) -> Turn:
        self.running += 1
        return Turn(self, self._loop)


def let_requests_stand_back(is_busy: Callable[[], bool]) -> Callable[[], object]:
    """From now on the threads of Django's requests that begin while the loop is busy are by `HTTP_NICE` nicer than the
    calling thread; returns what ends that. Only Linux knows niceness of threads; elsewhere nothing happens."""
    if sys.platform != "linux":
        return lambda: None
    niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + settings.HTTP_NICE, NICEST)

    def stand_back(**_: object) -> None:
        # In the request's own thread, which ends with it: who is nice once cannot take it back without rights.
        if is_busy() and threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)

    request_started.connect(stand_back, weak=False)
    return lambda: request_started.disconnect(stand_back)
