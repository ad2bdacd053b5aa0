"""The round: many appends become rows of their logs in one transaction.

Theory of operation. A round locks the `Log` rows of its channels, sorted by id. Whoever holds the row is the only one
who can give serials of that channel, so what it reads afterwards is final: a new statement finds the ids that are
stored already (a snapshot taken before the lock would miss what the last holder committed). Then the round decides in
memory: a known id gets its first serial, every other message the next one; `time` is the clock's, but never below the
last message's. The rows, the heads and the newest of each key are written together and committed. Only then is an
outcome set: nobody hears of a message that a crash could still take back.

An append is stored whole or not at all. When the database refuses a round because of what is in it, the round is rolled
back and its halves are tried in order, down to the append that is at fault: serials are given after the lock, so
nothing remains of the attempt and there is no hole. When the database itself is in trouble, the outcome is unknown (it
may have died after the commit), and all appends get `unavailable`: the same ids again find out.

A channel whose row somebody else holds for too long is set aside with all its appends, so that the others can go on;
see `writer.LogWriter`, which tries again. What follows on that channel is set aside as well: order comes first.

With the locks comes the question whether this is still the database that it was (`witness`). If not, a new incarnation
begins and the round is repeated. A log whose epoch is of another incarnation gets a new one in the round that gives its
next serial, in the same transaction: whoever publishes first after a restore, no serial is given twice in an epoch.

This module does not know threads, queues or the hub. docs/explanation/architecture.md, "The round".
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from django.db import DatabaseError, DataError, InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from realtime.conf import settings
from realtime.log import incarnation
from realtime.log.changes import make_epoch
from realtime.log.patience import patience
from realtime.log.sql import (
    LOCK_NOT_AVAILABLE,
    Dialect,
    LockedLog,
    Locks,
    Look,
    MessageRow,
    NewLog,
    Wanted,
    Writes,
    dialect_of,
    discard,
    is_away,
    raise_if_replaced,
    reopen_if_replaced,
    sqlstate_of,
    tell_failure,
)
from realtime.log.types import Append, News, Published
from realtime.log.witness import Unsound, Witness, advance_mark
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import data_of, envelope
from realtime.protocol.names import ChannelName, namespace_of

logger = logging.getLogger(__name__)

#: PostgreSQL gave up one of several transactions; nothing of it remains and the same one may succeed.
_TRY_AGAIN = ("40001", "40P01")
_TRIES = 5
#: SQLSTATE classes of OperationalError that say something about the row, not about the server: too complex or long.
_ROW_CLASSES = ("54",)


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Trouble(Enum):
    """What an exception means for a round."""

    BUSY = auto()  # a lock could not be had in time
    AGAIN = auto()  # the database asks to repeat the transaction
    AWAY = auto()  # the database cannot be reached or cannot write; the outcome is unknown
    UNSOUND = auto()  # it may be another database; nothing was written
    CONTENT = auto()  # something in the round is at fault


def trouble_of(error: Exception, vendor: str) -> Trouble:
    """Sort an exception that a round met."""
    if isinstance(error, Unsound):
        return Trouble.UNSOUND
    if isinstance(error, OperationalError):
        state = sqlstate_of(error)
        if state == LOCK_NOT_AVAILABLE:
            return Trouble.BUSY
        if state in _TRY_AGAIN:
            return Trouble.AGAIN
        return Trouble.CONTENT if state[:2] in _ROW_CLASSES else Trouble.AWAY
    # SQLite says InterfaceError of a value it cannot bind, and of nothing else.
    if isinstance(error, InterfaceError):
        return Trouble.CONTENT if vendor == "sqlite" else Trouble.AWAY
    # The bare class: a damaged file, a protocol out of step.
    return Trouble.AWAY if type(error) is DatabaseError or is_away(error) else Trouble.CONTENT


@dataclass(slots=True)
class Round:
    """What became of the appends of a round: `settled` have an outcome, `aside` have none yet."""

    settled: list[Append] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    aside: list[Append] = field(default_factory=list)
    #: Names of the channels that are set aside.
    stuck: set[str] = field(default_factory=set)
    #: The database was lost: the connection is closed, and what was left of the round has failed.
    away: bool = False
    #: Appends that were refused on their own, and why the first of them was.
    failed_count: int = 0
    failure: tuple[Append, Exception] | None = None
    #: For a caller with a transaction of its own around the round: what the mark may say once that is committed.
    witness: Witness | None = None


class _Growing:
    """A locked log while the round gives serials."""

    __slots__ = ("channel_id", "epoch", "first", "frames", "head", "known", "name", "time")

    def __init__(self, log: LockedLog, clock_ms: int) -> None:
        self.name = ChannelName(log.name)
        self.channel_id = log.channel_id
        self.epoch = log.epoch
        self.head = log.head
        self.first = log.head + 1
        # A clock that was set back must not order messages against their serials.
        self.time = max(clock_ms, log.last_time)
        self.frames: list[str] = []
        # (client, id) → (serial, data, envelope); data None: to be cut out of the envelope if somebody asks.
        self.known: dict[tuple[str, str], tuple[int, str | None, str]] = {}


@dataclass(slots=True)
class Decision:
    """What a round will write, and what it will say when that is committed."""

    writes: Writes
    outcomes: dict[Append, Published | ProtocolError]
    logs: list[_Growing]


def decide(appends: Sequence[Append], look: Look, clock_ms: int) -> Decision:
    """Give serials. Pure: everything it needs is locked and in `look`."""
    logs = {log.name: _Growing(log, clock_ms) for log in look.logs}
    if look.known:
        by_id = {log.channel_id: log.known for log in logs.values()}
        for channel_id, client, known_id, serial, stored in look.known:
            # A log that could not be locked is not among them, though its messages are found.
            if channel_id in by_id:
                by_id[channel_id][client, known_id] = (serial, None, stored)
    rows: list[MessageRow] = []
    latest: dict[tuple[int, str], int] = {}
    outcomes: dict[Append, Published | ProtocolError] = {}
    for append in appends:
        previous = append.previous
        if previous is not None and not isinstance(outcomes.get(previous, previous.outcome), Published):
            outcomes[append] = ProtocolError("order", channel=append.channel)
            continue
        log = logs.get(append.channel)
        if log is None:
            outcomes[append] = ProtocolError("not_found", channel=append.channel)
            continue
        client, known, channel_id, time_ms = append.client, log.known, log.channel_id, log.time
        serials: list[int] = []
        duplicates: list[int] = []
        conflicts: list[int] = []
        for index, message in enumerate(append.messages):
            mid, data = message.id, message.data
            assert mid is not None, "the door gives every message an id"
            identity = (client, mid)
            first = known.get(identity)
            if first is not None:
                serials.append(first[0])
                duplicates.append(index)
                if (data_of(first[2]) if first[1] is None else first[1]) != data:
                    conflicts.append(index)
                continue
            log.head = serial = log.head + 1
            text = envelope(log.name, serial, time_ms, client, message)
            known[identity] = (serial, data, "")
            log.frames.append(text)
            rows.append((channel_id, serial, client, mid, message.key, time_ms, text))
            serials.append(serial)
            if message.key is not None:
                latest[channel_id, message.key] = serial
        outcomes[append] = Published(append.channel, log.epoch, serials, duplicates, conflicts)
    grown = [log for log in logs.values() if log.frames]
    heads = {log.channel_id: (log.head, log.time) for log in grown}
    return Decision(Writes(rows, heads, latest), outcomes, grown)


class Rounds:
    """Runs rounds on the calling thread's connection to the log's database."""

    def __init__(
        self,
        *,
        clock: Callable[[], int] = now_ms,
        new_epoch: Callable[[], str] = make_epoch,
        retry_after_ms: Callable[[], int] = lambda: random.randint(500, 1500),
    ) -> None:
        self._clock = clock
        self._new_epoch = new_epoch
        self._retry_after_ms = retry_after_ms
        self._guarded = True

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[settings.DATABASE]

    def run(self, appends: Sequence[Append], locks: Locks | None = None, *, guarded: bool | None = None) -> Round:
        """Settle the appends, in order, in as few transactions as possible. Raises no `Exception`.

        By default waits `LOCK_TIMEOUT_MS` for each lock, then goes on with the logs that are free.

        Within `atomic()` it is not asked whether the database is the one that it was: what there is inside a
        transaction that is somebody else's, such as a test's, came with it. With `guarded` it is, and then `Unsound`
        is raised: the caller has to end the transaction, settle the incarnation and begin again.
        """
        result = Round()
        self._guarded = not self.connection.in_atomic_block if guarded is None else guarded
        self._run(list(appends), locks or Locks(settings.LOCK_TIMEOUT_MS), result)
        if result.failure is not None:
            append, error = result.failure
            logger.error(
                "%d of %d appends were refused; the first: channel %s, client %s, %d messages",
                result.failed_count,
                len(appends),
                append.channel,
                append.client or "(none)",
                len(append.messages),
                exc_info=error,
                extra={"channel": append.channel, "client": append.client},
            )
        return result

    def unavailable(self, append: Append) -> ProtocolError:
        """The outcome of an append whose fate is unknown."""
        return ProtocolError("unavailable", channel=append.channel, retry_after_ms=self._retry_after_ms())

    def _run(self, appends: list[Append], locks: Locks, result: Round) -> None:
        """One attempt after the other, until every append is settled or set aside."""
        if result.stuck:
            appends = _set_aside(appends, result)
        if not appends:
            return
        if result.away:
            self._fail_all(appends, result)
            return
        for attempt in range(1, _TRIES + 1):
            try:
                self._transact(appends, locks, result)
                return
            except Exception as caught:
                # Handled behind the block: an error of a later attempt is not a consequence of this one.
                error = caught
            match trouble_of(error, self.connection.vendor):
                case Trouble.BUSY if not locks.skip:
                    self._run(appends, locks._replace(skip=True), result)
                case Trouble.BUSY | Trouble.AGAIN if attempt < _TRIES:
                    logger.warning("A round of %d appends is repeated: %s", len(appends), error)
                    continue
                case Trouble.BUSY | Trouble.AGAIN:
                    self._fail_all(appends, result)
                case Trouble.UNSOUND if self.connection.in_atomic_block:
                    raise error
                case Trouble.UNSOUND if attempt < _TRIES and self._settle(result):
                    continue
                case Trouble.UNSOUND:
                    self._fail_all(appends, result)
                case Trouble.CONTENT if len(appends) > 1:
                    middle = len(appends) // 2
                    self._run(appends[:middle], locks, result)
                    self._run(appends[middle:], locks, result)
                case Trouble.CONTENT:
                    self._refuse(appends[0], error, result)
                case _:
                    logger.warning("The database failed a round of %d appends: %s", len(appends), error)
                    result.away = True
                    self._fail_all(appends, result)
            return

    def _settle(self, result: Round) -> bool:
        """Has the incarnation settled, before any serial is given; False when the database does not let it be."""
        try:
            incarnation.settle()
        except Exception as error:
            what = "The incarnation of the database could not be settled; it is tried again"
            tell_failure(logger, what, error, logging.WARNING)
            result.away = True
            return False
        return True

    def _refuse(self, append: Append, error: Exception, result: Round) -> None:
        """Settle the one append that the database will not have."""
        result.failed_count += 1
        if result.failure is None:
            result.failure = (append, error)
        if isinstance(error, DataError | UnicodeError):
            message = "The database cannot store the text of the message."
            remedy = "Send Unicode text without NUL characters, within the limits of the protocol."
            append.settle(ProtocolError("bad_frame", message, remedy=remedy, channel=append.channel))
        else:
            append.settle(ProtocolError("internal", channel=append.channel))
        result.settled.append(append)

    def _fail_all(self, appends: list[Append], result: Round) -> None:
        for append in appends:
            append.settle(self.unavailable(append))
        result.settled += appends

    def _transact(self, appends: list[Append], locks: Locks, result: Round) -> None:
        """One transaction. Sets outcomes after its commit, or raises and leaves nothing behind."""
        connection = self.connection
        names = list(dict.fromkeys([append.channel for append in appends]))
        try:
            with patience(connection):
                look, decision = self._write(connection, appends, names, locks)
        except Exception as error:
            if trouble_of(error, connection.vendor) is Trouble.AWAY:
                discard(connection)
            raise
        if look.witness is not None and _is_written(decision):
            result.witness = look.witness
            if not connection.in_atomic_block:
                advance_mark(connection, look.witness)
        if look.busy:
            result.stuck |= look.busy
            _set_aside(appends, result)
        for append, outcome in decision.outcomes.items():
            append.settle(outcome)
        result.settled += decision.outcomes
        result.news += [News(log.name, log.channel_id, log.epoch, log.first, log.frames) for log in decision.logs]

    def _write(
        self, connection: BaseDatabaseWrapper, appends: list[Append], names: list[ChannelName], locks: Locks
    ) -> tuple[Look, Decision]:
        sql = dialect_of(connection, guarded=self._guarded)
        reopen_if_replaced(connection)
        was_connected = connection.connection is not None
        cursor = sql.cursor(connection)
        try:
            try:
                look = self._open(sql, cursor, appends, names, locks)
            except (OperationalError, InterfaceError):
                if not was_connected or connection.in_atomic_block or not _is_lost(connection):
                    raise
                # The server closed a connection that had been idle. Nothing was written yet: a new one will do.
                discard(connection)
                cursor = sql.cursor(connection)
                look = self._open(sql, cursor, appends, names, locks)
            if look.busy:
                appends = [append for append in appends if append.channel not in look.busy]
            epochs = {log.channel_id: self._new_epoch() for log in look.logs if not log.current}
            if epochs:
                logs = [log._replace(epoch=epochs.get(log.channel_id, log.epoch)) for log in look.logs]
                look = look._replace(logs=logs)
            decision = decide(appends, look, self._clock())
            if epochs:
                decision.writes = decision.writes._replace(epochs=epochs)
            if _is_written(decision):
                sql.store(cursor, decision.writes)
                # What was committed into a file that had been taken away exists for nobody else.
                raise_if_replaced(connection)
            else:
                sql.rollback(cursor)
        except Exception:
            _roll_back(sql, cursor)
            raise
        finally:
            _close(cursor)
        return look, decision

    def _open(
        self, sql: Dialect, cursor: CursorWrapper, appends: list[Append], names: list[ChannelName], locks: Locks
    ) -> Look:
        """Lock and look up; make the logs that are missing and may be made."""
        index = {name: i for i, name in enumerate(names)}
        wanted: list[Wanted] = []
        for append in appends:
            i, client, fresh = index[append.channel], append.client, append.fresh
            wanted += [(i, client, m.id or "") for m in append.messages if m.id not in fresh]
        look = sql.open(cursor, names, wanted, locks)
        if len(look.logs) + len(look.busy) == len(names):
            return look
        creatable = {append.channel for append in appends if append.create}
        new = [
            NewLog(name, (namespace_of(name) or None) if name in creatable else None, self._new_epoch())
            for name in set(names).difference(look.busy, [log.name for log in look.logs])
        ]
        return sql.create_and_open(cursor, names, wanted, locks, new)


def _is_written(decision: Decision) -> bool:
    return bool(decision.writes.rows or decision.writes.epochs)


def run_round_now(appends: Sequence[Append]) -> tuple[Sequence[Append], list[News]]:
    """The same round in the caller's thread, on its connection: for commands, shells and tests without a worker.

    Returns when every append has its outcome, at the latest after about `STUCK_CHANNEL_MS`. Within `atomic()` the rows
    are as durable as the transaction around them, and the news must wait for its commit.
    """
    rounds = Rounds()
    deadline = time.monotonic() + settings.STUCK_CHANNEL_MS / 1000
    result = rounds.run(appends)
    news = result.news
    while result.aside:
        if time.monotonic() > deadline:
            for append in result.aside:
                append.settle(rounds.unavailable(append))
            break
        result = rounds.run(result.aside)  # waits for the lock again
        news += result.news
    return appends, news


def _is_lost(connection: BaseDatabaseWrapper) -> bool:
    """Whether the driver knows the connection to be gone. `is_usable` would also say so of an aborted transaction."""
    return bool(getattr(connection.connection, "closed", False))


def _set_aside(appends: list[Append], result: Round) -> list[Append]:
    """Move the appends of stuck channels to `result.aside`; return the others."""
    others: list[Append] = []
    for append in appends:
        (result.aside if append.channel in result.stuck else others).append(append)
    return others


def _roll_back(sql: Dialect, cursor: CursorWrapper) -> None:
    try:
        sql.rollback(cursor)
    except Exception:
        # The connection is gone, and with it the transaction; the error that is on its way says so.
        logger.debug("Rolling back failed", exc_info=True)


def _close(cursor: CursorWrapper) -> None:
    try:
        cursor.close()
    except Exception:
        logger.debug("Closing the cursor failed", exc_info=True)
