"""The log writer: a thread that takes everything that waits and makes one round of it.

Group commit without artificial delay: while a round is at the database the next appends gather, so rounds grow with
the load and a lone append goes at once. The queue is first in, first out, and bounded in messages and bytes; beyond the
bounds `submit` refuses with `unavailable`, and the publisher comes again.

A channel whose row somebody else holds is set aside with everything that follows on it, and tried again until
`STUCK_CHANNEL_MS` after each append came here; then the append is `unavailable`. The others go on meanwhile.

One writer per process; it owns its thread's database connection. It knows neither hub nor event loop: `on_round` is
called in the writer's thread, and has to hand over. docs/explanation/architecture.md, "The round".
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from realtime import counting
from realtime.conf import settings
from realtime.log.rounds import Round, Rounds
from realtime.log.sql import Locks, discard
from realtime.log.types import Append, News
from realtime.protocol.errors import ProtocolError

logger = logging.getLogger(__name__)

#: Between two attempts to reach a database that is away: doubled from the first to the last.
_BACKOFF_FIRST_S = 0.05
_BACKOFF_LAST_S = 1.0
#: How often set-aside channels are tried, and how long such a try may wait for one lock: others wait no longer than
#: that, for at most half of the time.
_ASIDE_EVERY_S = 0.05
_ASIDE_WAIT_MS = 20
#: A channel without appends is forgotten; until then its next append does not make everybody wait to find out again.
_ASIDE_MEMORY_S = 30.0
#: Jobs that wait for the thread. Each is a client that attaches by a cursor or a second's worth of cursors.
_JOBS_MOST = 10_000


@dataclass(frozen=True, slots=True)
class RoundStats:
    """One round, for metrics: what it held, how long its oldest append had waited, how long it was at the database."""

    appends_count: int
    messages_count: int
    waited_s: float
    took_s: float


class LogWriter:
    """Turns submitted appends into rounds. Every method may be called from any thread.

    `on_round(appends, news)` runs in the writer's thread after each commit, with every append that has its outcome now,
    failed ones too, then the news. It is called exactly once for each append that `submit` accepted; an exception in it
    is logged and lost. `on_stats` is called after it.
    """

    def __init__(
        self,
        on_round: Callable[[list[Append], list[News]], None],
        *,
        on_stats: Callable[[RoundStats], None] | None = None,
        rounds: Rounds | None = None,
    ) -> None:
        self._on_round = on_round
        self._on_stats = on_stats
        self._rounds = rounds or Rounds(retry_after_ms=self._retry_after_ms)
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        # All below are guarded by `_changed`.
        self._queue: deque[tuple[float, Append]] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._messages_count = 0
        self._bytes = 0
        self._sleeping = False
        self._stopping = False
        self._dead = False
        # These belong to the writer's thread.
        self._aside = _Aside()
        self._current: list[Append] = []
        self._backoff_s = 0.0
        _writers.add(self)

    def start(self) -> None:
        """Start the thread. A writer runs once: after `stop`, or in a forked child, make another."""
        if self._thread is not None or self._dead:
            raise RuntimeError("A log writer can be started once.")
        self._thread = threading.Thread(target=self._work, name="realtime-log-writer", daemon=True)
        self._thread.start()

    def submit(self, append: Append) -> None:
        """Queue an append; `on_round` will be called with it.

        Never blocks. Raises ProtocolError `unavailable` when the queue is full, or when this writer is not running
        (not started, stopping, died, or a forked child's copy): nothing was stored then.
        """
        count = len(append.messages)
        with self._changed:
            thread = self._thread
            if self._stopping or self._dead or thread is None or not thread.is_alive():
                raise self._refusal(append, "The server is not taking messages at the moment.")
            # An append that is larger than the queue has to wait until it is alone.
            if self._messages_count and (
                self._messages_count + count > settings.WRITER_QUEUE_MESSAGES
                or self._bytes + append.size_bytes > settings.WRITER_QUEUE_BYTES
            ):
                raise self._refusal(append, "The server has more messages to store than it can hold.")
            self._messages_count += count
            self._bytes += append.size_bytes
            self._queue.append((time.monotonic(), append))
            if self._sleeping:
                self._changed.notify()

    def run(self, job: Callable[[], None]) -> None:
        """Have `job` run in the writer's thread, behind the round that is at the database: for small writes that would
        otherwise contend with it. It must handle its own errors, and is dropped when the writer stops before its turn.

        Never blocks. Raises ProtocolError `unavailable` when too many wait, or when this writer is not running.
        """
        with self._changed:
            thread = self._thread
            if self._stopping or self._dead or thread is None or not thread.is_alive() or len(self._jobs) >= _JOBS_MOST:
                raise ProtocolError("unavailable", retry_after_ms=self._retry_after_ms())
            self._jobs.append(job)
            if self._sleeping:
                self._changed.notify()

    def stop(self, timeout_s: float) -> bool:
        """Refuse new appends, store those that wait, end the thread. False when that took longer than `timeout_s`.

        Then what still waits is settled as `unavailable`, in the calling thread; what is at the database at that moment
        is settled by the writer's thread whenever the database answers.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
            thread = self._thread
        if thread is None or self._pid != os.getpid():
            return True
        thread.join(timeout_s)
        if not thread.is_alive():
            return True
        with self._changed:
            left = [append for _, append in self._queue]
            self._queue.clear()
        self._give_up(left)
        return False

    @property
    def running(self) -> bool:
        """Whether `submit` takes appends now, unless the queue is full."""
        with self._changed:
            return self._thread is not None and self._thread.is_alive() and not (self._stopping or self._dead)

    @property
    def away(self) -> bool:
        """The database was not reached when it was tried last."""
        return self._backoff_s > 0

    def queued(self) -> tuple[int, int]:
        """Messages and bytes that are not settled yet."""
        with self._changed:
            return self._messages_count, self._bytes

    @property
    def aside_count(self) -> int:
        """Channels whose row somebody else holds, at the moment."""
        return len(self._aside.channels)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._guarded_turn():
                pass
        except BaseException:
            logger.critical("The log writer died; this process cannot publish any more", exc_info=True)
        finally:
            with self._changed:
                self._dead = True
                left = [append for _, append in self._queue]
                self._queue.clear()
            self._give_up([*self._current, *self._aside.take_all(), *left])
            discard(self._rounds.connection)

    def _guarded_turn(self) -> bool:
        """`_turn`, surviving a fault of ours: rounds raise nothing, so what comes here is a bug."""
        try:
            return self._turn()
        except Exception:
            logger.exception("A turn of the log writer failed")
            self._give_up(self._current)
            self._current = []
            self._back_off(away=True)
            return True

    def _turn(self) -> bool:
        """One round, and a try for the channels that are set aside. False when there will be no more."""
        taken = self._take()
        if taken is None:
            return False
        since, batch = taken
        self._current = batch
        started = time.monotonic()
        result = self._rounds.run(batch) if batch else Round()
        took_s = time.monotonic() - started
        self._aside.add(result.aside, result.stuck, started)
        self._current = []
        self._finish(result)
        self._do_jobs()
        if batch and self._on_stats is not None:
            self._on_stats(RoundStats(len(batch), sum([len(a.messages) for a in batch]), started - since, took_s))
        if self._aside.channels and self._aside.next_try <= started and not result.away:
            result = self._retry_aside()
        self._back_off(away=result.away)
        return True

    def _take(self) -> tuple[float, list[Append]] | None:
        """Wait for work; everything that waits, within the bounds of a round, with the time of its oldest.

        The list is empty when it is only time for the channels that are set aside; None: stopped, and all is done.
        """
        with self._changed:
            while not self._queue:
                if self._jobs:
                    return 0.0, []
                if self._aside.appends_count:
                    wait_s: float | None = self._aside.next_try - time.monotonic()
                    if wait_s is not None and wait_s <= 0:
                        return 0.0, []
                elif self._stopping:
                    return None
                else:
                    wait_s = None
                self._sleeping = True
                self._changed.wait(wait_s)
                self._sleeping = False
            since = self._queue[0][0]
            batch: list[Append] = []
            count, size_bytes = settings.ROUND_MAX_MESSAGES, settings.ROUND_MAX_BYTES
            stuck = self._aside.channels
            refused: list[Append] = []
            while self._queue:
                came, append = self._queue[0]
                count -= len(append.messages)
                size_bytes -= append.size_bytes
                if batch and (count < 0 or size_bytes < 0):
                    break
                self._queue.popleft()
                if append.channel in stuck:
                    if not self._aside.put(append, came):
                        refused.append(append)
                else:
                    batch.append(append)
        if refused:
            self._give_up(refused)
        return since, batch

    def _do_jobs(self) -> None:
        """Those that wait now; what they ask for in turn waits for the next round."""
        with self._changed:
            jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            try:
                job()
            except Exception:
                logger.exception("A job in the log writer's thread failed")

    def _retry_aside(self) -> Round:
        """Try the set-aside channels: all at once without waiting, then one of them with a little patience.

        Patience, because a log that is merely busy in other workers is never free at the moment one looks.
        """
        aside = self._aside
        result = self._run_aside(aside.first_appends(), Locks(_ASIDE_WAIT_MS, skip=True))
        if not result.away and (patient := aside.first_appends(one=True)):
            result = self._run_aside(patient, Locks(_ASIDE_WAIT_MS))
        now = time.monotonic()
        expired = aside.expire(now)
        if expired:
            self._give_up(expired)
        aside.next_try = now + _ASIDE_EVERY_S
        return result

    def _run_aside(self, appends: list[Append], locks: Locks) -> Round:
        if not appends:
            return Round()
        result = self._rounds.run(appends, locks)
        self._aside.drop_settled(free={a.channel for a in result.settled} if not result.away else set())
        self._finish(result)
        return result

    def _finish(self, result: Round) -> None:
        if result.settled or result.news:
            self._announce(result.settled, result.news)

    def _give_up(self, appends: Sequence[Append]) -> None:
        """Settle appends that will not be tried any more."""
        left = [append for append in appends if append.outcome is None]
        for append in left:
            append.settle(self._rounds.unavailable(append))
        if left:
            self._announce(left, [])

    def _announce(self, settled: list[Append], news: list[News]) -> None:
        with self._changed:
            self._messages_count -= sum([len(append.messages) for append in settled])
            self._bytes -= sum([append.size_bytes for append in settled])
        try:
            self._on_round(settled, news)
        except Exception:
            logger.exception("Nobody took the outcome of %d appends", len(settled))

    def _back_off(self, *, away: bool) -> None:
        """Wait before the next attempt when the database is away; appends gather meanwhile."""
        # With DEBUG Django keeps the text of every statement: megabytes each, here.
        self._rounds.connection.queries_log.clear()
        if not away:
            self._backoff_s = 0.0
            return
        counting.database_errors.add("writer")
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_LAST_S) or _BACKOFF_FIRST_S
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, self._backoff_s)

    # -- errors -------------------------------------------------------------------------------------------------------

    def _retry_after_ms(self) -> int:
        """A hint that grows with the trouble, and spreads those who come again."""
        return int(1000 * self._backoff_s) + random.randint(200, 1000)

    def _refusal(self, append: Append, message: str) -> ProtocolError:
        return ProtocolError("unavailable", message, channel=append.channel, retry_after_ms=self._retry_after_ms())

    def _after_fork(self) -> None:
        """In a child: there is no thread, and the lock may be held by one that is not there."""
        self._changed = threading.Condition(threading.Lock())
        self._dead = True


class _Aside:
    """Channels whose row somebody else holds, with the appends that wait for it, in order."""

    def __init__(self) -> None:
        #: name → (came, append) in order; the channels themselves in the order of their turns.
        self.channels: dict[str, deque[tuple[float, Append]]] = {}
        self.next_try = 0.0
        self.appends_count = 0
        self._messages_count = 0
        self._empty_since: dict[str, float] = {}

    def add(self, appends: Sequence[Append], stuck: Collection[str], came: float) -> None:
        """Begin to set aside the channels `stuck`."""
        for name in stuck:
            if name not in self.channels:
                self.next_try = time.monotonic() + _ASIDE_EVERY_S
                logger.warning(
                    "Channel %s is locked by another transaction; it is set aside", name, extra={"channel": name}
                )
                self.channels[name] = deque()
        for append in appends:
            self._put(append, came)

    def put(self, append: Append, came: float) -> bool:
        """Keep an append behind the others of its channel; False when it is too much, see `_most_messages`."""
        if self._messages_count + len(append.messages) > settings.WRITER_QUEUE_MESSAGES // 4:
            return False
        self._put(append, came)
        return True

    def _put(self, append: Append, came: float) -> None:
        self.channels[append.channel].append((came, append))
        self._empty_since.pop(append.channel, None)
        self._messages_count += len(append.messages)
        self.appends_count += 1

    def first_appends(self, *, one: bool = False) -> list[Append]:
        """What waits, within the bounds of a round; with `one`, of the channel whose turn it is."""
        appends: list[Append] = []
        count, size_bytes = settings.ROUND_MAX_MESSAGES, settings.ROUND_MAX_BYTES
        for name, queue in list(self.channels.items()):
            for _, append in queue:
                count -= len(append.messages)
                size_bytes -= append.size_bytes
                if appends and (count < 0 or size_bytes < 0):
                    return appends
                appends.append(append)
            if one and queue:
                self.channels[name] = self.channels.pop(name)  # the next time another one's turn
                return appends
        return appends

    def drop_settled(self, free: set[str]) -> None:
        """Forget the appends that have an outcome, and the channels that turned out to be free."""
        for name, queue in list(self.channels.items()):
            while queue and queue[0][1].outcome is not None:
                self._pop(name)
            if not queue and name in free:
                del self.channels[name]
                self._empty_since.pop(name, None)

    def expire(self, now: float) -> list[Append]:
        """Take out the appends whose time is over, and forget channels that nobody used for long."""
        expired = []
        for name, queue in list(self.channels.items()):
            while queue and now - queue[0][0] >= settings.STUCK_CHANNEL_MS / 1000:
                expired.append(self._pop(name))
            if not queue and now - self._empty_since.setdefault(name, now) >= _ASIDE_MEMORY_S:
                del self.channels[name]
                del self._empty_since[name]
        return expired

    def take_all(self) -> list[Append]:
        return [self._pop(name) for name, queue in list(self.channels.items()) for _ in range(len(queue))]

    def _pop(self, name: str) -> Append:
        _, append = self.channels[name].popleft()
        self._messages_count -= len(append.messages)
        self.appends_count -= 1
        return append


_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
