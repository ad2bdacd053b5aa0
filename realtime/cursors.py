"""Cursors: positions that the server keeps for clients, by (channel, client, name).

The hub notes what was acknowledged; this module keeps the newest of each cursor in memory and stores them together once
a second, in the log writer's thread, so that they contend with nothing. A cursor never moves backwards, however many
connections and workers use it. It exists before its first `attached` is sent. Specification:
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

STORE_EVERY_S = 0.5
"""An acknowledged position is stored this long after the first that is not yet; within the second that is promised."""

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


class Cursors:
    """The cursors that attachments of one worker use. Every method runs on the loop's thread and returns at once."""

    def __init__(self, loop: Loop, writer: LogWriter) -> None:
        self._loop = loop
        self._writer = writer
        self._noted: dict[CursorKey, Position] = {}
        self._timer: Timer | None = None

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
        self._noted[key] = position
        if self._timer is None:
            self._timer = self._loop.call_later(STORE_EVERY_S, self.store)

    def store(self) -> None:
        """Stores what was noted, now: at the end of an attachment, and when the worker drains."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._noted:
            return
        noted, self._noted = self._noted, {}

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
            if key not in self._noted:
                self.note(key, position)


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
