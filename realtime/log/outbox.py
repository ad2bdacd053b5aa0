"""The outbox: messages that belong to somebody's transaction, on their way into the log.

Inside `atomic()` a publish is a row here, written by the application's own connection: it is there if and only if the
application's other rows are. The log writer of some worker relays it: in one transaction the rows are taken, their
messages get serials, the rows are deleted. So a message cannot be relayed twice, or lost, whatever dies in between. One
relay runs at a time in the whole system, in the order of the rows, so that what one connection published in consecutive
transactions stays in order. No foreign key: a reference to our rows would lock them for as long as the application's
transaction lasts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from django.db import DatabaseError, Error, connections, transaction
from django.db.backends.utils import CursorWrapper

from realtime import counting
from realtime.conf import settings
from realtime.log import incarnation
from realtime.log.patience import idle_limit, patience
from realtime.log.reads import reading
from realtime.log.rounds import Rounds
from realtime.log.sql import discard, raise_if_replaced, reopen_if_replaced, tell_failure
from realtime.log.types import Append, News, Published
from realtime.log.witness import Unsound, advance_mark
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import ChannelName

logger = logging.getLogger(__name__)

RELAYED_AT_ONCE = 500
"""Rows in one relaying transaction: short enough that publishers beside it hardly wait."""

_RELAY_LOCK = 0x5E71A71
"""Key of PostgreSQL's advisory lock that the relaying transaction holds. SQLite has one writer anyway."""

COUNTED_MOST = 10_000
"""Rows that `count_backlog` looks at: beyond it the number says no more, and would cost more."""

_Row = tuple[int, str, str, str, str, str | None, str]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is in the outbox: how many messages wait (at most `COUNTED_MOST`), for how many seconds the oldest has, how
    many the log refused."""

    waiting: int
    oldest_s: float | None
    refused: int


def put(channel: ChannelName, client: str, message: NewMessage) -> None:
    """Writes a message into the outbox, on the calling thread's connection and within its transaction."""
    with connections[settings.DATABASE].cursor() as cursor:
        cursor.execute(
            "INSERT INTO realtime_outbox (channel, client, mid, event, key, data, created, refusal)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, '')",
            [channel, client, message.id, message.event, message.key, message.data, time.time_ns() // 1_000_000],
        )


def relay(announce: Callable[[list[News]], object], creates: Callable[[ChannelName], bool]) -> int:
    """Moves what is committed in the outbox into the log; returns how many messages. For the log writer's thread.

    `announce` is called after each commit. `creates` says whether a channel may be made by publishing to it. Returns
    early when another worker relays, or the database is away: whoever comes next goes on. So it is with the messages of
    channels whose log somebody holds locked; those of the others pass them.
    """
    moved, settled = 0, False
    stuck: set[ChannelName] = set()
    while True:
        try:
            count, more, news = _relay_some(creates, stuck)
        except Unsound:
            if settled or not _settle():
                return moved
            settled = True
            continue
        except Error as error:
            counting.database_errors.add("outbox")
            tell_failure(logger, "Relaying the outbox failed; it is tried again", error, logging.WARNING)
            discard(connections[settings.DATABASE])
            return moved
        moved += count
        if news:
            announce(news)
        if not more:
            return moved


def _settle() -> bool:
    """Has the incarnation settled; the relaying transaction has ended. False: not now."""
    try:
        incarnation.settle()
    except Exception as error:
        counting.database_errors.add("outbox")
        tell_failure(logger, "Relaying the outbox waits for the incarnation of the database", error, logging.WARNING)
        return False
    return True


def count_backlog() -> Backlog:
    """Counts what is committed in the outbox. For a thread that may read."""
    with reading() as cursor:
        cursor.execute(
            "SELECT count(*), min(created) FROM"
            " (SELECT created FROM realtime_outbox WHERE refusal = '' ORDER BY id LIMIT %s) AS waiting",
            [COUNTED_MOST],
        )
        waiting, oldest_ms = cursor.fetchone()
        cursor.execute(
            "SELECT count(*) FROM (SELECT 1 FROM realtime_outbox WHERE refusal <> '' LIMIT %s) AS refused",
            [COUNTED_MOST],
        )
        refused = cursor.fetchone()[0]
    oldest_s = None if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
    return Backlog(waiting, oldest_s, refused)


def _relay_some(creates: Callable[[ChannelName], bool], stuck: set[ChannelName]) -> tuple[int, bool, list[News]]:
    """One transaction: how many rows left the outbox, whether others may follow now, and the news.

    Rows of `stuck` channels are left where they are; channels that turn out to be stuck are added.
    """
    connection = connections[settings.DATABASE]
    # In a transaction of the caller's own, such as a test's, the database is taken for the one that it was.
    guarded = not connection.in_atomic_block
    reopen_if_replaced(connection)
    with patience(connection), transaction.atomic(using=settings.DATABASE), connection.cursor() as cursor:
        rows = _take(cursor, connection.vendor, stuck)
        if not rows:
            return 0, False, []
        appends = [
            Append(
                ChannelName(channel),
                client,
                [NewMessage(mid, event, key, data)],
                create=creates(ChannelName(channel)),
            )
            for _, channel, client, mid, event, key, data in rows
        ]
        result = Rounds().run(appends, guarded=guarded)
        if result.away:
            raise DatabaseError("the database failed the round of the relay")
        stuck.update(append.channel for append in result.aside)
        settled = [(row[0], append.outcome) for row, append in zip(rows, appends, strict=True)]
        done = [id_ for id_, outcome in settled if isinstance(outcome, Published)]
        _delete(cursor, done)
        for id_, outcome in settled:
            if isinstance(outcome, ProtocolError) and outcome.code != "unavailable":
                _refuse(cursor, id_, outcome)
    if guarded:
        raise_if_replaced(connection)
        if result.witness is not None:
            advance_mark(connection, result.witness)
    return len(done), len(rows) == RELAYED_AT_ONCE and bool(done or result.aside), result.news


def _take(cursor: CursorWrapper, vendor: str, stuck: Collection[ChannelName]) -> Sequence[_Row]:
    if vendor == "postgresql":
        # The round will run within this transaction, and so has no limits of its own.
        cursor.execute(f"SET LOCAL lock_timeout = {settings.LOCK_TIMEOUT_MS:d}; {idle_limit()}")
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_RELAY_LOCK])
        if not cursor.fetchone()[0]:
            return []
    others = f" AND channel NOT IN ({', '.join(['%s'] * len(stuck))})" if stuck else ""
    cursor.execute(
        "SELECT id, channel, client, mid, event, key, data FROM realtime_outbox WHERE refusal = ''"
        f"{others} ORDER BY id LIMIT %s",
        [*stuck, RELAYED_AT_ONCE],
    )
    rows: Sequence[_Row] = cursor.fetchall()
    return rows


def _delete(cursor: CursorWrapper, ids: Sequence[int]) -> None:
    if ids:
        cursor.execute(f"DELETE FROM realtime_outbox WHERE id IN ({', '.join(['%s'] * len(ids))})", [*ids])


def _refuse(cursor: CursorWrapper, id_: int, refusal: ProtocolError) -> None:
    """A message that the log will never have stays where it is, with the reason, out of the way of the others: it was
    accepted, so it must not vanish."""
    logger.error("The outbox keeps a message that the log refuses: %s", refusal)
    cursor.execute("UPDATE realtime_outbox SET refusal = %s WHERE id = %s", [str(refusal)[:500], id_])
