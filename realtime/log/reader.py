"""Reads of the log for an event loop: asked for with a callback, done in threads, equal wishes shared.

Hundreds of subscribers that attach in one moment make one query. A read never begins before it was asked for: wishes
that come while a query runs wait for the next. Everything here runs on the loop's thread, but for the reads themselves,
which run in `READER_THREADS` threads with database connections of their own. A failed read answers None; it was logged.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from realtime import counting
from realtime.conf import settings
from realtime.counting import SECONDS, Histogram
from realtime.log import incarnation, reads
from realtime.log.patience import patience
from realtime.log.sql import tell_failure
from realtime.log.types import NEVER_USED, Known, LogState, Page
from realtime.protocol.names import ChannelName

logger = logging.getLogger(__name__)

NAMES_A_QUERY = 500
"""Channels asked for in one statement: below every database's limit of parameters."""

T = TypeVar("T")


class LogReader:
    """The reader of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._connections: list[BaseDatabaseWrapper] = []
        self._pool = ThreadPoolExecutor(
            settings.READER_THREADS, thread_name_prefix="seriatim-reader", initializer=self._begin_thread
        )
        self._states: dict[ChannelName, list[Callable[[LogState | None], None]]] = {}
        self._reading_states = False
        self._snapshots: dict[tuple[int, int], list[Callable[[tuple[LogState, list[tuple[int, str]]] | None], None]]]
        self._snapshots = {}
        self._closed = False
        self.waiting_count = 0
        """Reads that were asked for and are not answered."""
        self.seconds = Histogram(SECONDS)
        """From the wish to the answer."""

    def close(self) -> None:
        """No more reads begin; callbacks of those that run are still called. Connections are closed behind them."""
        self._closed = True
        threading.Thread(target=self._finish, name="seriatim-reader-end").start()

    def _begin_thread(self) -> None:
        connection = connections[settings.DATABASE]
        connection.inc_thread_sharing()  # closed by another thread when this one has ended
        self._connections.append(connection)

    def _finish(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:
            connection.close()

    def run(self, read: Callable[[], T], done: Callable[[T | None], None]) -> None:
        """Runs a read in a thread; `done` gets its result on the loop, or None when it failed."""
        if self._closed:
            return

        def work() -> T | None:
            try:
                with patience(connections[settings.DATABASE]):
                    return read()
            except Exception as error:
                counting.database_errors.add("reader")
                tell_failure(logger, "A read failed", error, logging.WARNING)
                return None

        def answered(future: asyncio.Future[T | None]) -> None:
            self.waiting_count -= 1
            self.seconds.observe(self._loop.time() - asked_at)
            if not future.cancelled():
                done(future.result())

        asked_at = self._loop.time()
        self.waiting_count += 1
        self._loop.run_in_executor(self._pool, work).add_done_callback(answered)

    # ------------------------------------------------------------------ what the hub asks (realtime.hub.Reader)

    def state(self, channel: ChannelName, done: Callable[[LogState | None], None]) -> None:
        self._states.setdefault(channel, []).append(done)
        if not self._reading_states:
            self._reading_states = True
            # Not at once: all who ask in this turn of the loop share the query.
            self._loop.call_soon(self._read_states)

    def _read_states(self) -> None:
        wishes: dict[ChannelName, list[Callable[[LogState | None], None]]] = {}
        for name in list(self._states)[:NAMES_A_QUERY]:
            wishes[name] = self._states.pop(name)
        names = list(wishes)

        def answer(states: dict[ChannelName, LogState] | None) -> None:
            if self._states:
                self._loop.call_soon(self._read_states)
            else:
                self._reading_states = False
            for name, callbacks in wishes.items():
                state = None if states is None else states[name]
                for callback in callbacks:
                    callback(state)

        self.run(lambda: reads.read_states(names), answer)

    def changes(
        self, known: dict[ChannelName, Known], done: Callable[[dict[ChannelName, LogState] | None], None]
    ) -> None:
        self.run(lambda: reads.read_changes(known), done)

    def rows(
        self,
        channel_id: int,
        after: int,
        upto: int,
        done: Callable[[tuple[list[tuple[int, str]], LogState] | None], None],
    ) -> None:
        self.run(lambda: _read_rows(channel_id, after, upto), done)

    def fell(self, channel_id: int, epoch: str, reached: int, done: Callable[[bool | None], None]) -> None:
        def find_out() -> bool:
            incarnation.fell(channel_id, epoch, reached)
            return True

        self.run(find_out, done)

    def since(self, state: LogState, time_ms: int, done: Callable[[int | None], None]) -> None:
        self.run(lambda: reads.find_since(state, time_ms), done)

    def snapshot(
        self, channel_id: int, key_limit: int, done: Callable[[tuple[LogState, list[tuple[int, str]]] | None], None]
    ) -> None:
        key = (channel_id, key_limit)
        waiting = self._snapshots.setdefault(key, [])
        waiting.append(done)
        if len(waiting) == 1:
            self._loop.call_soon(self._read_snapshot, key)

    def _read_snapshot(self, key: tuple[int, int]) -> None:
        callbacks = self._snapshots.pop(key)

        def answer(found: tuple[LogState, list[tuple[int, str]]] | None) -> None:
            for callback in callbacks:
                callback(found)

        self.run(lambda: reads.read_snapshot(*key), answer)

    # ------------------------------------------------------------------ what sessions ask

    def page(
        self,
        channel: ChannelName,
        before: int | None,
        after: int | None,
        limit: int,
        done: Callable[[Page | None], None],
    ) -> None:
        self.run(
            lambda: reads.read_page(channel, after=after, before=before, since=None, order=None, limit=limit), done
        )


def _read_rows(channel_id: int, after: int, upto: int) -> tuple[list[tuple[int, str]], LogState]:
    """Rows, and behind them the state that explains what is missing. No more than a window could take is read."""
    rows = reads.read_messages(channel_id, after, upto, max_messages=upto - after, max_bytes=settings.WINDOW_BYTES)
    return rows, reads.read_heads([channel_id]).get(channel_id, NEVER_USED)
