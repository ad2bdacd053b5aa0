"""Whether this is the database that it was: the question that every round asks, together with its locks.

A database that goes back in time brings its rows along, so it cannot tell by its rows alone. The one row of
`Incarnation`, the *witness*, therefore says what it was written in, of things that no copy of rows brings along:

- PostgreSQL: the transaction that wrote it (the row's own `xmin`: rows that a restore wrote have another), the OID of
  the log's table, that of the database, and when the server process was started. All of it is compared within the
  statement that locks the logs. After every start of a server `incarnation.settle` compares the rest: the system
  identifier and the timeline.
- SQLite: how many rounds were committed, which must not be less than the mark beside the file says (`mark`).

The witness holds a number, and so does every `Log` row: the incarnation in which its epoch was given. A round gives
serials of a log only while the witness is sound and the numbers agree.
docs/decisions/0008-a-database-says-which-it-is.md
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from realtime.log import mark
from realtime.log.mark import Mark

logger = logging.getLogger(__name__)


class Unsound(Exception):
    """The witness does not fit the database it is in. Nothing was written; `incarnation.settle` finds out why."""


def _where_sound(answer: str) -> str:
    return (
        "(SELECT CASE WHEN count(*) = 1 AND bool_and(w.writer = w.xmin::text AND w.started = pg_postmaster_start_time()"
        " AND w.log = 'realtime_log'::regclass::oid::bigint"
        # base/DATABASE/FILE, or more in front of it in a tablespace: cheaper than a look into pg_database.
        " AND w.database = split_part(pg_relation_filepath('realtime_incarnation'), '/', -2))"
        f" THEN {answer} END FROM realtime_incarnation w)"
    )


POSTGRES_NUMBER = _where_sound("min(w.number)")
"""An expression: the number of the incarnation, or NULL where the witness is not sound."""

POSTGRES_SEAL = _where_sound("min(w.number) || ' ' || min(w.writer)")
"""The same, and behind a space the *session*: what changes each time that the witness is written, and so with every
start of the server. One expression, because the server spends more on planning a second one than on all the rest."""

session: str | None = None
"""The session that was compared with what this process remembers (`incarnation.look`); None: that is nothing."""


def number_of(seal: str) -> int | None:
    """The number in a seal; None where the session is not the one that this process knows."""
    global session
    number, _, found = seal.partition(" ")
    if session is None:
        session = found
    return int(number) if session == found else None


class Witness(NamedTuple):
    """A sound witness on SQLite; `rounds` None: without a mark."""

    number: int
    rounds: int | None


class DatabaseFile:
    """The file of an SQLite connection, as it was when the connection was made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.mark_path = mark.path_of(path)
        self._inode = _inode(path)
        self._wal_inode: tuple[int, int] | None = None

    @property
    def replaced(self) -> bool:
        """Whether another file is there now: the connection still has the old one, which nobody else will see."""
        if _inode(self.path) != self._inode:
            return True
        if self._wal_inode is None:
            # Made with the first write, and kept while anybody has the database open.
            self._wal_inode = _inode(self.path + "-wal")
        return False

    @property
    def exists(self) -> bool:
        return _inode(self.path) is not None

    @property
    def has_foreign_wal(self) -> bool:
        """Whether the write-ahead log of the file that was replaced is still there: SQLite would apply it to the new
        one, which destroys it."""
        return self._wal_inode is not None and _inode(self.path + "-wal") == self._wal_inode


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_kept = threading.local()
"""Of each thread: its connection, and the file of that."""

unmarkable: set[str] = set()
"""Database files beside which this process can write no mark."""


def file_of(connection: BaseDatabaseWrapper) -> DatabaseFile | None:
    """The file of an open SQLite connection; None for one in memory."""
    raw: Any = connection.connection
    kept: tuple[object, DatabaseFile | None] | None = getattr(_kept, "file", None)
    if kept is None or kept[0] is not raw:
        path = next(path for _, name, path in raw.execute("PRAGMA database_list") if name == "main")
        kept = _kept.file = (raw, DatabaseFile(path) if path else None)
    return kept[1]


def remember_file(*, connection: BaseDatabaseWrapper, **_: object) -> None:
    """Notes which file a new connection has, before another can take its place. Receiver of `connection_created`."""
    if connection.vendor == "sqlite":
        file_of(connection)


def sqlite_witness(cursor: CursorWrapper) -> Witness | None:
    """The witness, if it is sound; within a transaction that may write, for as long as that lasts."""
    file = file_of(cursor.db)
    if file is None:
        return _sound(_rows(cursor), None, None)
    # First the mark, then the rows: what is committed in between is ahead of the mark, never behind it.
    known = _mark_of(file, locked=False)
    witness = _sound(_rows(cursor), file, known)
    if witness is None and known is not None:
        # Perhaps it was seen while it was written.
        known = _mark_of(file, locked=True)
        witness = _sound(_rows(cursor), file, known)
    return witness


def advance_mark(connection: BaseDatabaseWrapper, witness: Witness) -> None:
    """After the commit of a round, before anybody is told of it."""
    file = file_of(connection)
    if file is None or witness.rounds is None:
        return
    try:
        mark.advance(file.mark_path, Mark(witness.number, witness.rounds))
    except OSError as error:
        complain(file, error)


def _rows(cursor: CursorWrapper) -> Sequence[tuple[int, int | None]]:
    cursor.execute("SELECT number, rounds FROM realtime_incarnation")
    rows: Sequence[tuple[int, int | None]] = cursor.fetchall()
    return rows


def _sound(
    rows: Sequence[tuple[int, int | None]], file: DatabaseFile | None, known: Mark | Literal["unknown"] | None
) -> Witness | None:
    if len(rows) != 1:
        return None
    witness = Witness(*rows[0])
    if file is None:
        return witness._replace(rounds=None)
    if witness.rounds is None:
        return witness if file.path in unmarkable else None
    if known == "unknown":
        return witness
    return witness if known is not None and known.number == witness.number and known.rounds <= witness.rounds else None


def _mark_of(file: DatabaseFile, *, locked: bool) -> Mark | Literal["unknown"] | None:
    try:
        return mark.read(file.mark_path, locked=locked)
    except OSError as error:
        complain(file, error)
        return "unknown"


def complain(file: DatabaseFile, error: OSError) -> None:
    """Says once that there can be no mark."""
    if file.path not in unmarkable:
        unmarkable.add(file.path)
        logger.warning(
            "The high-water mark of the database cannot be kept: an older copy will not be noticed: %s", error
        )
