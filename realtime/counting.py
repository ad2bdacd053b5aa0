"""What a worker counts of itself, by plain additions where things happen; `realtime.metrics` reads it when asked.

Nothing here costs more than an addition, and nothing is done per delivery: sums are taken per round, per write or per
look at a connection. Every number is written by one thread and may be read by any: readers copy first. Numbers that
several threads write stand in a `SharedCounts`. See docs/decisions/0009-workers-tell-each-other-their-metrics.md.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any, Final

from realtime.rhythm import until_beat

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of times: from a write to a socket to the longest that a caller waits for its round."""

MESSAGES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Bounds of the size of a round, up to the default of `ROUND_MAX_MESSAGES`."""

LAG_EVERY_S: Final = 0.25
"""How often the loop's lateness is taken."""


PACE_EVERY_S: Final = 5.0
"""How often the totals are noted that a page draws: a step of the shortest line."""

PACE_KEPT: Final = 721
"""An hour of them: 100 KB in each worker."""

CPU_SAMPLES: Final = 4
"""Looks that a share of a core is the mean of: a quarter of a minute."""


class Histogram:
    """Counts of values by upper bounds. One thread observes."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """How many values fell between the bound before and this one, which is inclusive; last, those above all."""
        self.total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class SharedCounts:
    """Totals by key, bumped by any thread: for what is rare, such as failures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: defaultdict[Hashable, int] = defaultdict(int)

    def add(self, key: Hashable, count: int = 1) -> None:
        with self._lock:
            self._totals[key] += count

    def copy(self) -> dict[Any, int]:
        with self._lock:
            return dict(self._totals)


class Counts:
    """Totals of one worker since its start."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "closed",
        "commit_seconds",
        "conflicts",
        "deleted",
        "duplicates",
        "errors",
        "fanout_seconds",
        "frames_in",
        "handshakes_refused",
        "heartbeats",
        "http_errors",
        "opened",
        "pings",
        "retained_at",
        "round_messages",
        "round_seconds",
        "started_at",
        "stored",
        "stored_bytes",
    )

    def __init__(self) -> None:
        self.started_at = time.time()
        """Unix seconds."""
        # Bumped on the loop's thread.
        self.opened: defaultdict[str, int] = defaultdict(int)
        """Connections by transport."""
        self.closed: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        """Connections by transport, who ended them ("server" or "client") and close code."""
        self.handshakes_refused: defaultdict[int, int] = defaultdict(int)
        """By HTTP status."""
        self.frames_in = 0
        self.bytes_in = 0
        """UTF-8 bytes of the frames that clients sent."""
        self.bytes_out = 0
        """Bytes that sockets took; a connection's are added after each frame of its client, at heartbeats, and at its
        end."""
        self.heartbeats = 0
        self.pings = 0
        self.errors: defaultdict[str, int] = defaultdict(int)
        """Error frames by code."""
        self.fanout_seconds = Histogram(SECONDS)
        """Per round: from its commit until its messages were written to the subscribers here that were level."""
        # Bumped in the log writer's thread.
        self.stored: defaultdict[str, int] = defaultdict(int)
        """Messages that got a serial, by what brought them: "socket", "call" or "outbox"."""
        self.stored_bytes = 0
        """UTF-8 bytes of their envelopes."""
        self.duplicates = 0
        """Messages that were known already and got their first serial."""
        self.conflicts = 0
        """Those among them whose data differed."""
        self.round_messages = Histogram(MESSAGES)
        self.round_seconds = Histogram(SECONDS)
        """How long a round was at the database."""
        self.commit_seconds = Histogram(SECONDS)
        """Per round: from the publish that had waited longest until the commit."""
        # Written by the thread for maintenance.
        self.deleted = 0
        """Messages that retention deleted."""
        self.retained_at: float | None = None
        """Unix seconds at which retention succeeded last."""
        # Bumped by threads that serve HTTP.
        self.http_errors = SharedCounts()
        """Refusals of the HTTP interface by code."""


class Pace:
    """What a worker did in the last hour: totals that are taken every few seconds, and told as rates."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, float]] = deque(maxlen=PACE_KEPT)
        """Unix seconds, messages delivered and CPU seconds, both since the start."""

    def note(self, now_s: float, delivered: int, cpu_s: float) -> None:
        """The totals at this moment, from one thread. A clock that was set back begins anew."""
        if self._samples and now_s <= self._samples[-1][0]:
            self._samples.clear()
        self._samples.append((now_s, delivered, cpu_s))

    def rates(self, until_s: float, step_s: float, count: int) -> list[float | None]:
        """Messages delivered a second in each of so many steps, the last of which ends at that Unix time. None where
        nothing was noted: before the start, and after the last look. Any thread."""
        # In one go, so that nothing is added meanwhile.
        samples = tuple(self._samples)
        times = [at for at, _, _ in samples]
        totals = [_total_at(times, samples, until_s - step_s * back) for back in range(count, -1, -1)]
        return [
            None if before is None or after is None else (after - before) / step_s for before, after in pairwise(totals)
        ]

    def cpu_share(self) -> float | None:
        """Of a core, lately. Any thread."""
        samples = tuple(self._samples)[-CPU_SAMPLES:]
        if len(samples) < 2:
            return None
        (began_s, _, before_s), (ended_s, _, after_s) = samples[0], samples[-1]
        return (after_s - before_s) / (ended_s - began_s)


def _total_at(times: Sequence[float], samples: Sequence[tuple[float, int, float]], at_s: float) -> float | None:
    """Between two looks, as if all had gone evenly."""
    place = bisect_left(times, at_s)
    if place == len(times) or (place == 0 and times[0] != at_s):
        return None
    (after_s, after, _), (before_s, before, _) = samples[place], samples[max(0, place - 1)]
    share = (at_s - before_s) / (after_s - before_s) if after_s > before_s else 0.0
    return before + (after - before) * share


jwks_fetches: Final = SharedCounts()
"""Attempts to fetch the keys of identity providers, by how they ended: "read" or "failed"."""

database_errors: Final = SharedCounts()
"""Failures of this process at the database, by what failed: "writer", "reader", "outbox", "cursors", "retention"."""


class LoopLag:
    """How late an event loop comes to what is due: the first sign of a worker that has too much to do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._due = clock() + LAG_EVERY_S
        self._timer: asyncio.TimerHandle | None = None
        self.histogram = Histogram(SECONDS)
        self.last_s = 0.0
        """How late it was when it was looked at last."""

    def start(self) -> None:
        self._wait(self._clock())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def now_s(self) -> float:
        """How late it is at this moment, from any thread: grows while the loop does not come round at all."""
        return max(self.last_s, self._clock() - self._due) if self._timer is not None else 0.0

    def _tick(self) -> None:
        now = self._clock()
        self.last_s = max(0.0, now - self._due)
        self.histogram.observe(self.last_s)
        self._wait(now)

    def _wait(self, now: float) -> None:
        wait_s = until_beat(now, LAG_EVERY_S)
        self._due = now + wait_s
        self._timer = self._loop.call_later(wait_s, self._tick)


class LogCounts(logging.Handler):
    """Counts warnings and errors that the platform logs, by level and logger. Writes nothing."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.totals = SharedCounts()

    def emit(self, record: logging.LogRecord) -> None:
        self.totals.add((record.levelname.lower(), record.name))


log_counts: Final = LogCounts()
"""This process's, once `count_logs` was called."""


def count_logs() -> None:
    """Counts what the platform logs from now on. Idempotent."""
    # addHandler knows a handler that is there already.
    logging.getLogger("realtime").addHandler(log_counts)
