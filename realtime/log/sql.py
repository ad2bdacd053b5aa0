"""The statements of a round in the two dialects. What they are for, and in which order, is in `rounds`.

Raw SQL through Django's cursor: no model instance on the path of a message, one statement per kind and round whatever
the number of messages.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from realtime.log.patience import idle_limit
from realtime.log.witness import (
    POSTGRES_NUMBER,
    POSTGRES_SEAL,
    Unsound,
    Witness,
    file_of,
    number_of,
    sqlite_witness,
)
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import is_platform_name

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: SQLSTATE of what `lock_timeout` raises.
LOCK_NOT_AVAILABLE = "55P03"
#: SQLSTATEs of a database that is there and cannot serve: its tables are just being restored (gone, or gone under our
#: hands), or it is a standby.
_NOT_SERVING = ("42P01", "XX000", "25006")


class LockedLog(NamedTuple):
    """A `Log` row, locked until the end of the transaction. `current`: its epoch was given in this incarnation of the
    database; otherwise it needs a new one before it may have a serial."""

    name: str
    channel_id: int
    epoch: str
    head: int
    last_time: int
    current: bool = True


#: A message that may be stored already: index of its channel's name, client, id. Bare tuples on the path of a message:
#: a named one takes ten times as long to make.
Wanted = tuple[int, str, str]
#: One that is: channel id, client, id, serial, envelope.
Known = tuple[int, str, str, int, str]


class Look(NamedTuple):
    """What a round works on: the logs it holds, the messages that are known, and `busy` names it could not lock.

    `witness`: on SQLite, what has to go into the mark once the round is committed.
    """

    logs: list[LockedLog]
    known: list[Known]
    busy: set[str]
    witness: Witness | None = None


class Locks(NamedTuple):
    """How to lock: wait so long for each row, or, with `skip`, leave out what somebody else holds."""

    timeout_ms: int
    skip: bool = False


class NewLog(NamedTuple):
    """A log to make, and its channel if there is none; `namespace` None: only for a channel that exists, unless it is
    one of the platform's own, which have none."""

    name: str
    namespace: str | None
    epoch: str

    @property
    def without_namespace(self) -> bool:
        return is_platform_name(self.name)


#: channel_id, serial, client, mid, key, time, envelope
MessageRow = tuple[int, int, str, str, str | None, int, str]


class Writes(NamedTuple):
    """What a round changes. `heads`: channel id → (head, last_time); `latest`: (channel id, key) → serial; `epochs`:
    channel id → new epoch, of logs whose epoch is not of this incarnation."""

    rows: Sequence[MessageRow]
    heads: Mapping[int, tuple[int, int]]
    latest: Mapping[tuple[int, str], int]
    epochs: Mapping[int, str] = {}


class Dialect(Protocol):
    """One transaction: `open`, perhaps `create_and_open`, then `store` or `rollback`."""

    @staticmethod
    def cursor(connection: BaseDatabaseWrapper) -> Any:
        """What the statements go through."""
        ...

    def open(self, cursor: CursorWrapper, names: Sequence[str], wanted: Sequence[Wanted], locks: Locks) -> Look:
        """Begin; lock the logs in the order of their ids; then, in a new statement, find what is known.

        Without `locks.skip` OperationalError says that a lock could not be had in time. `Unsound` says that the
        database may be another than it was.
        """
        ...

    def create_and_open(
        self,
        cursor: CursorWrapper,
        names: Sequence[str],
        wanted: Sequence[Wanted],
        locks: Locks,
        new: Sequence[NewLog],
    ) -> Look:
        """Make the logs that `open` did not find and open again. What others make meanwhile stays as they made it."""
        ...

    def store(self, cursor: CursorWrapper, writes: Writes) -> None:
        """Insert the rows, move the heads, note the newest of each key, change epochs; commit."""
        ...

    def rollback(self, cursor: CursorWrapper) -> None:
        """End the transaction, whatever its state."""
        ...


def dialect_of(connection: BaseDatabaseWrapper, *, guarded: bool = True) -> Dialect:
    """The dialect for `connection` as it is now: within `atomic()` a savepoint stands for the transaction.

    Not `guarded` means that the database is taken for the one that it was.
    """
    nested = connection.in_atomic_block
    if connection.vendor == "sqlite":
        return Sqlite(nested=nested, guarded=guarded)
    if connection.vendor == "postgresql":
        # Server-side binding takes one statement at a time.
        joined = connection.settings_dict["OPTIONS"].get("server_side_binding") is not True
        return Postgres(nested=nested, joined=joined, guarded=guarded)
    raise NotImplementedError(f"The log runs on SQLite and PostgreSQL, not on {connection.vendor}.")


def sqlstate_of(error: BaseException) -> str:
    """PostgreSQL's code of an error that Django wrapped; "" where there is none."""
    return getattr(error.__cause__, "sqlstate", None) or ""


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database cannot be reached, or cannot do anything, at the moment."""
    return isinstance(error, OperationalError | InterfaceError) or (
        isinstance(error, DatabaseError) and sqlstate_of(error) in _NOT_SERVING
    )


def tell_failure(logger: logging.Logger, what: str, error: Exception, level: int = logging.ERROR) -> None:
    """Logs that something failed which is tried again: in one line where the database is away, else with the trace."""
    if is_away(error) or (isinstance(error, ProtocolError) and error.code == "unavailable"):
        logger.warning("%s: %s", what, " ".join(str(error).split()))
    else:
        logger.log(level, "%s", what, exc_info=error)


def discard(connection: BaseDatabaseWrapper) -> None:
    """Close a connection that cannot be trusted any more; the next use opens a new one.

    Within `atomic()` that is for the block around us to do: closing would silently end its transaction.
    """
    if not connection.in_atomic_block:
        try:
            connection.close()
        except Exception:
            # Closing a dead connection may fail as well; Django forgets it all the same.
            logger.debug("Closing the connection failed", exc_info=True)


def reopen_if_replaced(connection: BaseDatabaseWrapper) -> None:
    """Let go of an SQLite file in whose place there is another: the next use opens that one.

    Raises OperationalError while there is none, or while the write-ahead log of the old one lies beside it.
    """
    if connection.vendor != "sqlite" or connection.connection is None or connection.in_atomic_block:
        return
    file = file_of(connection)
    if file is None or not file.replaced:
        return
    if not file.exists:
        raise OperationalError(f"The database file {file.path} is gone.")
    if file.has_foreign_wal:
        raise OperationalError(
            f"The database file {file.path} was replaced, and the write-ahead log of the old one is still beside it. "
            "Stop what uses it, remove the files -wal and -shm, and restore it again."
        )
    logger.warning("The database file %s was replaced; it is opened anew", file.path)
    discard(connection)


def raise_if_replaced(connection: BaseDatabaseWrapper) -> None:
    """After a commit: OperationalError when it went into an SQLite file that is no longer there."""
    if connection.vendor == "sqlite" and (file := file_of(connection)) is not None and file.replaced:
        raise OperationalError(f"The database file {file.path} was replaced.")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


# -- SQLite -----------------------------------------------------------------------------------------------------------

#: Values of one statement, three variables each: below Django's bound of 999, which also holds for odd builds.
_VALUES = 256


def _padded_size(count: int) -> int:
    """The next power of four: few different statement texts, so that SQLite finds them compiled."""
    size = 1
    while size < count:
        size *= 4
    return size


@lru_cache(maxsize=8)
def _select_logs(size: int) -> str:
    return (
        "SELECT c.name, l.channel_id, l.epoch, l.head, l.last_time, l.incarnation FROM realtime_channel c"
        " JOIN realtime_log l ON l.channel_id = c.id WHERE c.name IN (" + ",".join(["%s"] * size) + ")"
    )


@lru_cache(maxsize=8)
def _select_known(size: int) -> str:
    # CROSS JOIN fixes the order of the loops: the wanted outside, the unique index inside.
    return (
        "WITH w (channel_id, client, mid) AS (VALUES " + ",".join(["(%s,%s,%s)"] * size) + ")"
        " SELECT m.channel_id, m.client, m.mid, m.serial, m.envelope FROM w CROSS JOIN realtime_message m"
        " WHERE m.channel_id = w.channel_id AND m.client = w.client AND m.mid = w.mid"
    )


@lru_cache(maxsize=64)
def _with_question_marks(sql: str) -> str:
    return sql.replace("%s", "?")


class DirectCursor:
    """A cursor of the connection's own driver, with what the rounds use of Django's, and its errors.

    Django looks at every statement for placeholders and at every call for wrappers: half of what a round of one message
    costs. What a round asks is fixed, and nobody wraps it.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        connection.validate_no_broken_transaction()
        self.db = connection
        self.connection: Any = connection.connection
        with connection.wrap_database_errors:
            self._cursor = self.connection.cursor(sqlite3.Cursor)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        with self.db.wrap_database_errors:
            self._cursor.execute(_with_question_marks(sql), parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        with self.db.wrap_database_errors:
            self._cursor.executemany(_with_question_marks(sql), parameters)

    def fetchall(self) -> list[Any]:
        with self.db.wrap_database_errors:
            return list(self._cursor.fetchall())

    def fetchone(self) -> Any:
        with self.db.wrap_database_errors:
            return self._cursor.fetchone()

    def close(self) -> None:
        self._cursor.close()


class Sqlite:
    """There is one writer at a time: BEGIN IMMEDIATE locks every channel."""

    def __init__(self, *, nested: bool = False, guarded: bool = True) -> None:
        self._nested = nested
        self._guarded = guarded

    @staticmethod
    def cursor(connection: BaseDatabaseWrapper) -> Any:
        return DirectCursor(connection)

    def open(self, cursor: CursorWrapper, names: Sequence[str], wanted: Sequence[Wanted], locks: Locks) -> Look:
        cursor.execute("SAVEPOINT realtime_round" if self._nested else "BEGIN IMMEDIATE")
        return self._look(cursor, names, wanted)

    def create_and_open(
        self,
        cursor: CursorWrapper,
        names: Sequence[str],
        wanted: Sequence[Wanted],
        locks: Locks,
        new: Sequence[NewLog],
    ) -> Look:
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
        cursor.executemany(
            "INSERT INTO realtime_channel (name, namespace_id, created)"
            " SELECT %s, name, %s FROM realtime_namespace WHERE name = %s ON CONFLICT DO NOTHING",
            [(log.name, now, log.namespace) for log in new if log.namespace is not None],
        )
        cursor.executemany(
            "INSERT INTO realtime_channel (name, namespace_id, created) VALUES (%s, NULL, %s) ON CONFLICT DO NOTHING",
            [(log.name, now) for log in new if log.without_namespace],
        )
        cursor.executemany(
            "INSERT INTO realtime_log (channel_id, epoch, head, oldest, last_time, incarnation)"
            " SELECT id, %s, 0, 1, 0, coalesce((SELECT min(number) FROM realtime_incarnation), 0)"
            " FROM realtime_channel WHERE name = %s ON CONFLICT DO NOTHING",
            [(log.epoch, log.name) for log in new],
        )
        return self._look(cursor, names, wanted)

    def _look(self, cursor: CursorWrapper, names: Sequence[str], wanted: Sequence[Wanted]) -> Look:
        witness = sqlite_witness(cursor) if self._guarded else None
        if self._guarded and witness is None:
            raise Unsound
        logs: list[LockedLog] = []
        for part in chunks(names, _VALUES):
            size = _padded_size(len(part))
            cursor.execute(_select_logs(size), [*part, *[None] * (size - len(part))])
            for name, channel_id, epoch, head, last_time, incarnation in cursor.fetchall():
                current = witness is None or incarnation == witness.number
                logs.append(LockedLog(name, channel_id, epoch, head, last_time, current))
        ids = {log.name: log.channel_id for log in logs}
        by_index = [ids.get(name) for name in names]  # None, for a log that is missing, matches nothing
        known: list[Known] = []
        for some in chunks(wanted, _VALUES):
            size = _padded_size(len(some))
            parameters: list[Any] = [value for i, client, mid in some for value in (by_index[i], client, mid)]
            parameters += [None] * (3 * (size - len(some)))
            cursor.execute(_select_known(size), parameters)
            known += cursor.fetchall()
        if witness is not None and witness.rounds is not None:
            witness = witness._replace(rounds=witness.rounds + 1)
        return Look(logs, known, set(), witness)

    def store(self, cursor: CursorWrapper, writes: Writes) -> None:
        if writes.rows:
            cursor.executemany(
                "INSERT INTO realtime_message (channel_id, serial, client, mid, key, time, envelope)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                writes.rows,
            )
            cursor.executemany(
                "UPDATE realtime_log SET head = %s, last_time = %s WHERE channel_id = %s",
                [(head, time, channel_id) for channel_id, (head, time) in writes.heads.items()],
            )
        if writes.latest:
            cursor.executemany(
                "INSERT INTO realtime_latest (channel_id, key, serial) VALUES (%s, %s, %s)"
                " ON CONFLICT (channel_id, key) DO UPDATE SET serial = excluded.serial",
                [(channel_id, key, serial) for (channel_id, key), serial in writes.latest.items()],
            )
        if writes.epochs:
            cursor.executemany(
                "UPDATE realtime_log SET epoch = %s, incarnation = (SELECT number FROM realtime_incarnation)"
                " WHERE channel_id = %s",
                [(epoch, channel_id) for channel_id, epoch in writes.epochs.items()],
            )
        if self._guarded:
            cursor.execute("UPDATE realtime_incarnation SET rounds = rounds + 1 WHERE rounds IS NOT NULL")
        cursor.execute("RELEASE SAVEPOINT realtime_round" if self._nested else "COMMIT")

    def rollback(self, cursor: CursorWrapper) -> None:
        # SQLite itself ends a transaction when, say, the disk is full.
        if cursor.connection.in_transaction:
            if self._nested:
                cursor.execute("ROLLBACK TO SAVEPOINT realtime_round")
                cursor.execute("RELEASE SAVEPOINT realtime_round")
            else:
                cursor.execute("ROLLBACK")


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

Statement = tuple[str, Sequence[Any]]


def _lock(seal: str) -> str:
    return (
        f"SELECT c.name, l.channel_id, l.epoch, l.head, l.last_time, l.incarnation, {seal} FROM realtime_channel c"
        " JOIN realtime_log l ON l.channel_id = c.id WHERE c.name = ANY(%s::text[])"
        # Sorted: two rounds that want the same logs in another order would deadlock.
        " ORDER BY l.channel_id FOR NO KEY UPDATE OF l"
    )


_LOCK = _lock(POSTGRES_SEAL)
_LOCK_UNGUARDED = _lock("''")
_KNOWN = (
    "WITH n AS MATERIALIZED (SELECT c.id, x.i - 1 AS i FROM unnest(%s::text[]) WITH ORDINALITY AS x (name, i)"
    " JOIN realtime_channel c ON c.name = x.name)"
    " SELECT n.id, w.client, w.mid, m.serial, m.envelope"
    " FROM unnest(%s::integer[], %s::text[], %s::text[]) AS w (i, client, mid) JOIN n ON n.i = w.i"
    # OFFSET 0 keeps the planner from turning the index look-ups into one scan of a table it believes to be small.
    " CROSS JOIN LATERAL (SELECT serial, envelope FROM realtime_message"
    " WHERE channel_id = n.id AND client = w.client AND mid = w.mid OFFSET 0) m"
)
_INSERT = (
    "INSERT INTO realtime_message (channel_id, serial, client, mid, key, time, envelope)"
    " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[])"
)
_HEADS = (
    "UPDATE realtime_log l SET head = x.head, last_time = x.last_time"
    " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS x (channel_id, head, last_time)"
    " WHERE l.channel_id = x.channel_id"
)
_EPOCHS = (
    f"UPDATE realtime_log l SET epoch = x.epoch, incarnation = {POSTGRES_NUMBER}"
    " FROM unnest(%s::bigint[], %s::text[]) AS x (channel_id, epoch) WHERE l.channel_id = x.channel_id"
)
_LATEST = (
    "INSERT INTO realtime_latest (channel_id, key, serial)"
    " SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[])"
    " ON CONFLICT (channel_id, key) DO UPDATE SET serial = excluded.serial"
)


class Postgres:
    """Row locks in READ COMMITTED: the look-up is a statement of its own, so it sees what the last holder committed."""

    def __init__(self, *, nested: bool = False, joined: bool = True, guarded: bool = True) -> None:
        self._nested = nested
        self._joined = joined
        self._guarded = guarded
        self._begin: Statement = ("SAVEPOINT realtime_round" if nested else "BEGIN", ())
        self._commit: Statement = ("RELEASE SAVEPOINT realtime_round" if nested else "COMMIT", ())

    @staticmethod
    def cursor(connection: BaseDatabaseWrapper) -> CursorWrapper:
        return connection.cursor()

    def open(self, cursor: CursorWrapper, names: Sequence[str], wanted: Sequence[Wanted], locks: Locks) -> Look:
        array = texts(names)
        lock = _LOCK if self._guarded else _LOCK_UNGUARDED
        statements = [*self._start(locks), (lock + (" SKIP LOCKED" if locks.skip else ""), (array,))]
        if wanted:
            indices, clients, mids = zip(*wanted, strict=True)
            statements.append((_KNOWN, (array, integers(indices), texts(clients), texts(mids))))
        results = self._run(cursor, statements)
        logs = self._judge(cursor, results[0])
        known: list[Known] = results[1] if wanted else []
        return Look(logs, known, self._busy(cursor, names, logs) if locks.skip and len(logs) < len(names) else set())

    def _judge(self, cursor: CursorWrapper, rows: Sequence[Any]) -> list[LockedLog]:
        """Which of the logs have an epoch of this incarnation. Raises `Unsound`."""
        if not self._guarded or not rows:
            return [LockedLog(*row[:5]) for row in rows]
        number = self._number(rows[0][6])
        if any(row[5] != number for row in rows):
            # The statement may have waited for whoever gave them a new epoch, in an incarnation that had not begun yet
            # when the statement did. Now that they are held, what is read is the last word.
            cursor.execute(f"SELECT {POSTGRES_SEAL}")
            number = self._number(cursor.fetchone()[0])
        return [
            LockedLog(name, channel_id, epoch, head, last_time, incarnation == number)
            for name, channel_id, epoch, head, last_time, incarnation, _ in rows
        ]

    @staticmethod
    def _number(seal: str | None) -> int:
        number = None if seal is None else number_of(seal)
        if number is None:
            raise Unsound
        return number

    def _busy(self, cursor: CursorWrapper, names: Sequence[str], logs: Sequence[LockedLog]) -> set[str]:
        missing = set(names).difference(log.name for log in logs)
        cursor.execute(
            "SELECT c.name FROM realtime_channel c JOIN realtime_log l ON l.channel_id = c.id"
            " WHERE c.name = ANY(%s::text[])",
            (texts(missing),),
        )
        return {name for (name,) in cursor.fetchall()}

    def create_and_open(
        self,
        cursor: CursorWrapper,
        names: Sequence[str],
        wanted: Sequence[Wanted],
        locks: Locks,
        new: Sequence[NewLog],
    ) -> Look:
        # Before the round's transaction, not within: an insert waits for whoever inserts the same name, and must not
        # hold locks of logs meanwhile.
        self.rollback(cursor)
        busy: set[str] = set()
        for some in [[log] for log in new] if locks.skip else [new]:
            try:
                self._create(cursor, some, locks)
            except OperationalError as error:
                if not locks.skip or sqlstate_of(error) != LOCK_NOT_AVAILABLE:
                    raise
                self.rollback(cursor)
                busy.update(log.name for log in some)
        look = self.open(cursor, names, wanted, locks)
        return look._replace(busy=look.busy | busy.difference(log.name for log in look.logs))

    def _create(self, cursor: CursorWrapper, new: Sequence[NewLog], locks: Locks) -> None:
        channels = sorted(
            (log.name, log.namespace) for log in new if log.namespace is not None or log.without_namespace
        )
        self._run(
            cursor,
            [
                *self._start(locks),
                (
                    "INSERT INTO realtime_channel (name, namespace_id, created)"
                    " SELECT x.name, n.name, now() FROM unnest(%s::text[], %s::text[]) AS x (name, namespace)"
                    " LEFT JOIN realtime_namespace n ON n.name = x.namespace"
                    " WHERE n.name IS NOT NULL OR x.namespace IS NULL ORDER BY x.name ON CONFLICT DO NOTHING",
                    (texts([name for name, _ in channels]), texts([namespace for _, namespace in channels])),
                ),
                (
                    "INSERT INTO realtime_log (channel_id, epoch, head, oldest, last_time, incarnation)"
                    f" SELECT c.id, x.epoch, 0, 1, 0, coalesce({POSTGRES_NUMBER}, 0)"
                    " FROM unnest(%s::text[], %s::text[]) AS x (name, epoch)"
                    " JOIN realtime_channel c ON c.name = x.name ORDER BY c.id ON CONFLICT DO NOTHING",
                    (texts([log.name for log in new]), texts([log.epoch for log in new])),
                ),
                self._commit,
            ],
        )

    def store(self, cursor: CursorWrapper, writes: Writes) -> None:
        statements: list[Statement] = []
        if writes.rows:
            channel_ids, serials, clients, mids, keys, times, envelopes = zip(*writes.rows, strict=True)
            statements.append(
                (
                    _INSERT,
                    (
                        integers(channel_ids),
                        integers(serials),
                        texts(clients),
                        texts(mids),
                        texts(keys),
                        integers(times),
                        texts(envelopes),
                    ),
                )
            )
            heads, last_times = zip(*writes.heads.values(), strict=True)
            statements.append((_HEADS, (integers(writes.heads), integers(heads), integers(last_times))))
        if writes.latest:
            ids, latest_keys = zip(*writes.latest, strict=True)
            statements.append((_LATEST, (integers(ids), texts(latest_keys), integers(writes.latest.values()))))
        if writes.epochs:
            statements.append((_EPOCHS, (integers(writes.epochs), texts(writes.epochs.values()))))
        self._run(cursor, [*statements, self._commit])

    def rollback(self, cursor: CursorWrapper) -> None:
        if self._nested:
            cursor.execute("ROLLBACK TO SAVEPOINT realtime_round")
            cursor.execute("RELEASE SAVEPOINT realtime_round")
        else:
            cursor.execute("ROLLBACK")

    def _start(self, locks: Locks) -> list[Statement]:
        if self._nested:
            # Within somebody else's transaction the time limits would stay behind.
            return [self._begin]
        return [self._begin, (f"SET LOCAL lock_timeout = {locks.timeout_ms:d}", ()), (idle_limit(), ())]

    def _run(self, cursor: CursorWrapper, statements: Sequence[Statement]) -> list[list[Any]]:
        """Run the statements; the rows of those that give rows. In one message to the server where possible.

        Each statement sees its own snapshot also then, and the first that fails ends the message: COMMIT included.
        """
        results = []
        if self._joined:
            cursor.execute(
                "; ".join([text for text, _ in statements]), [value for _, values in statements for value in values]
            )
            while True:
                if cursor.description is not None:
                    results.append(cursor.fetchall())
                if not cursor.nextset():
                    return results
        for text, values in statements:
            cursor.execute(text, values)
            if cursor.description is not None:
                results.append(cursor.fetchall())
        return results


def texts(items: Iterable[str | None]) -> str:
    """A PostgreSQL array literal; psycopg's own dumper goes through Python several times for each item."""
    return "{" + ",".join(["NULL" if item is None else _quoted(item) for item in items]) + "}"


def _quoted(item: str) -> str:
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def integers(items: Iterable[int]) -> str:
    """A PostgreSQL array literal."""
    return "{" + ",".join(map(str, items)) + "}"
