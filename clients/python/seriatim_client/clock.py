"""Time as the core knows it: what it was told last, and what it waits for. Pure.

The shell tells the time with every input and asks `next_at_ms` when to come back. Milliseconds; Unix time that never
steps back (the shell's duty).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

LATE_MS: Final = 2_000
"""A timer that runs later than this was kept from running: the process was stopped, or its loop was blocked."""


class Timer:
    """One moment to wait for; setting it again moves it. `run` gets how late it is."""

    __slots__ = ("_clock", "_run", "at_ms")

    def __init__(self, clock: Clock, run: Callable[[float], None]) -> None:
        self._clock = clock
        self._run = run
        self.at_ms: float | None = None

    @property
    def is_set(self) -> bool:
        return self.at_ms is not None

    def set(self, wait_ms: float) -> None:
        self.at_ms = self._clock.now_ms + max(0.0, wait_ms)
        self._clock.wait_for(self)

    def set_sooner(self, wait_ms: float) -> None:
        """Sets it, unless it is due before already."""
        if self.at_ms is None or self._clock.now_ms + wait_ms < self.at_ms:
            self.set(wait_ms)

    def clear(self) -> None:
        self.at_ms = None

    def fire(self, late_ms: float) -> None:
        self.at_ms = None
        self._run(late_ms)


class Clock:
    """The time last told, and the timers on it."""

    def __init__(self, now_ms: float) -> None:
        self.now_ms = now_ms
        self._count = 0
        self._waiting: list[tuple[float, int, Timer]] = []

    def timer(self, run: Callable[[float], None]) -> Timer:
        return Timer(self, run)

    def tell(self, now_ms: float) -> None:
        self.now_ms = max(self.now_ms, now_ms)

    def wait_for(self, timer: Timer) -> None:
        assert timer.at_ms is not None
        self._count += 1
        heapq.heappush(self._waiting, (timer.at_ms, self._count, timer))

    @property
    def next_at_ms(self) -> float | None:
        """When something is due, or None."""
        self._forget()
        return self._waiting[0][0] if self._waiting else None

    def run_due(self) -> None:
        """Runs what is due by now, in order."""
        while (at_ms := self.next_at_ms) is not None and at_ms <= self.now_ms:
            _, _, timer = heapq.heappop(self._waiting)
            timer.fire(self.now_ms - at_ms)

    def _forget(self) -> None:
        """Drops timers that were cleared or moved since."""
        while self._waiting and self._waiting[0][2].at_ms != self._waiting[0][0]:
            heapq.heappop(self._waiting)
