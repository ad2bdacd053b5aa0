"""Cursors: positions that the server keeps for clients, by (channel, client, name).

The hub notes what was acknowledged; this module keeps the newest of each cursor in memory and stores them together as
often as their namespace says, in the log writer's thread, so that they contend with nothing. A cursor never moves
backwards, however many connections and workers use it. It exists before its first `attached` is sent. Specification:
docs/reference/protocol.md#positions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from django.db import Error, connections, transaction

from realtime import counting
from realtime.conf import settings
from realtime.log.patience import patience
from realtime.log.writer import LogWriter
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName

logger = logging.getLogger(__name__)

PER_CHANNEL_MOST = 100
"""Cursors of one client in one channel (docs/reference/protocol.md#positions)."""

KEPT_S = 30 * 86_400
"""How long a cursor is kept after its last use."""

STORE_EVERY_MS = 500
"""An acknowledged position is stored this long after the first that is not yet, where no namespace says otherwise."""

ROWS_A_STATEMENT = 100

_NEVER_BACKWARDS = """
    INSERT INTO realtime_cursor (channel, client, name, epoch, serial, used) VALUES {rows}
    ON CONFLICT (channel, client, name)
    DO UPDATE SET epoch = excluded.epoch, serial = excluded.serial, used = excluded.used
    WHERE realtime_cursor.epoch = excluded.epoch AND realtime_cursor.serial < excluded.serial
       OR realtime_cursor.epoch IS NULL
       OR realtime_cursor.epoch <> excluded.epoch AND excluded.epoch = (
            SELECT realtime_log.epoch FROM realtime_log
            JOIN realtime_channel ON realtime_channel.id = realtime_log.channel_id
            WHERE realtime_channel.name = excluded.channel)
"""
"""A later serial of the same epoch, or any of the epoch that the log has now: a worker that has not heard of it yet
must not bring the old one back."""


class CursorKey(NamedTuple):
    """Whose position this is."""

    channel: ChannelName
    client: str
    name: str


class Position(NamedTuple):
    """Everything through `serial` of `epoch` is acknowledged."""

    epoch: str | None
    serial: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to `open`: the stored position, or why there is none."""

    position: Position | None
    error: ProtocolError | None = None


class Timer(Protocol):
    def cancel(self) -> None: ...


class Loop(Protocol):
    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer: ...
    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> object: ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Positions that are stored together when the timer rings."""

    noted: dict[CursorKey, Position]
    timer: Timer


class Cursors:
    """The cursors that attachments of one worker use. Every method runs on the loop's thread and returns at once."""

    def __init__(
        self, loop: Loop, writer: LogWriter, every_ms: Callable[[ChannelName], int] = lambda channel: STORE_EVERY_MS
    ) -> None:
        """`every_ms` is the interval of a channel's namespace, as it is now."""
        self._loop = loop
        self._writer = writer
        self._every_ms = every_ms
        self._waiting: dict[int, _Waiting] = {}
        """What is not stored, by the interval; a cursor is in one of them at most."""

    def open(self, key: CursorKey, head: Position, done: Callable[[Opened], None]) -> None:
        """Finds the stored position, or stores `head` for a first use; then calls `done` on the loop."""
        self.store()

        def work() -> None:
            answer = _open(key, head)
            self._loop.call_soon_threadsafe(done, answer)

        try:
            self._writer.run(work)
        except ProtocolError as error:
            done(Opened(None, error))

    def note(self, key: CursorKey, position: Position) -> None:
        """The client has acknowledged `position`; stored soon."""
        self._put(key, position, self._every_ms(key.channel))

    def store_soon(self, key: CursorKey) -> None:
        """At the end of an attachment: in the next turn, with all others whose attachments end in this one."""
        for waiting in self._waiting.values():
            if key in waiting.noted:
                self._put(key, waiting.noted[key], 0)
                return

    def store(self) -> None:
        """Stores all that was noted, now: before a cursor is read, and when the worker drains."""
        for ms in list(self._waiting):
            self._store_of(ms)

    def _put(self, key: CursorKey, position: Position, ms: int) -> None:
        for each, other in self._waiting.items():
            if each != ms:
                other.noted.pop(key, None)
        waiting = self._waiting.get(ms)
        if waiting is None:
            timer = self._loop.call_later(ms / 1000, lambda: self._store_of(ms))
            waiting = self._waiting[ms] = _Waiting({}, timer)
        waiting.noted[key] = position

    def _store_of(self, ms: int) -> None:
        waiting = self._waiting.pop(ms)
        waiting.timer.cancel()
        noted = waiting.noted
        if not noted:
            return

        def work() -> None:
            try:
                _store(noted)
            except Error as error:
                counting.database_errors.add("cursors")
                logger.warning("Storing %d cursors failed; they are stored later: %s", len(noted), error)
                connections[settings.DATABASE].close()
                self._loop.call_soon_threadsafe(self._again, noted)

        try:
            self._writer.run(work)
        except ProtocolError:
            self._again(noted)

    def _again(self, noted: dict[CursorKey, Position]) -> None:
        for key, position in noted.items():
            if not any(key in waiting.noted for waiting in self._waiting.values()):
                # Not at once: the database is away.
                self._put(key, position, max(STORE_EVERY_MS, self._every_ms(key.channel)))


def _open(key: CursorKey, head: Position) -> Opened:
    connection = connections[settings.DATABASE]
    try:
        with patience(connection), transaction.atomic(using=settings.DATABASE), connection.cursor() as cursor:
            now_ms = time.time_ns() // 1_000_000
            cursor.execute(
                "UPDATE realtime_cursor SET used = %s WHERE channel = %s AND client = %s AND name = %s",
                [now_ms, *key],
            )
            if not cursor.rowcount:
                cursor.execute(
                    "SELECT count(*) FROM realtime_cursor WHERE channel = %s AND client = %s", [key.channel, key.client]
                )
                if cursor.fetchone()[0] >= PER_CHANNEL_MOST:
                    return Opened(None, _too_many(key))
                cursor.execute(
                    "INSERT INTO realtime_cursor (channel, client, name, epoch, serial, used)"
                    " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (channel, client, name) DO NOTHING",
                    [*key, head.epoch, head.serial, now_ms],
                )
            cursor.execute(
                "SELECT epoch, serial FROM realtime_cursor WHERE channel = %s AND client = %s AND name = %s", [*key]
            )
            return Opened(Position(*cursor.fetchone()))
    except Error as error:
        counting.database_errors.add("cursors")
        logger.warning("Opening a cursor failed: %s", error)
        connections[settings.DATABASE].close()
        return Opened(None, ProtocolError("unavailable", "The cursor cannot be read now.", channel=key.channel))


def _too_many(key: CursorKey) -> ProtocolError:
    return ProtocolError(
        "limit_exceeded",
        f"The client has {PER_CHANNEL_MOST} cursors in this channel, as many as allowed.",
        remedy="Use one of them; a cursor is forgotten 30 days after its last use.",
        channel=key.channel,
    )


def _store(noted: dict[CursorKey, Position]) -> None:
    now_ms = time.time_ns() // 1_000_000
    # In the order of the unique index, so that two workers cannot wait for each other.
    rows = [(*key, position.epoch, position.serial, now_ms) for key, position in sorted(noted.items())]
    connection = connections[settings.DATABASE]
    with patience(connection), transaction.atomic(using=settings.DATABASE), connection.cursor() as cursor:
        for at in range(0, len(rows), ROWS_A_STATEMENT):
            part = rows[at : at + ROWS_A_STATEMENT]
            values = ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(part))
            cursor.execute(_NEVER_BACKWARDS.format(rows=values), [value for row in part for value in row])


def forget_old(now_s: float) -> int:
    """Deletes cursors that nobody used for 30 days; returns how many. Any thread."""
    with connections[settings.DATABASE].cursor() as cursor:
        cursor.execute("DELETE FROM realtime_cursor WHERE used < %s", [int((now_s - KEPT_S) * 1000)])
        return int(cursor.rowcount)
