"""Incarnations: the lives of a database between restores, and how another begins.

Whoever finds the witness unsound (`witness`) settles it, in a transaction that only one process has at a time. If the
database is the one that it was, and only its server was started again, the witness is written anew under the same
number. If it is another, or nothing tells, the witness gets a new number, and from that moment no log whose epoch is of
an earlier one gives a serial. All logs get new epochs then: each at its next round, and all that are left by `relabel`,
which every worker runs when it sees another number.

Nobody has to be sure that a database went back in time. A new epoch costs that what is retained is delivered again,
with a word about it; a serial that is given twice costs the promise.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Final, NamedTuple

from django.db import DatabaseError, OperationalError, connections, transaction
from django.db.backends.utils import CursorWrapper

from realtime.conf import settings
from realtime.log import mark, witness
from realtime.log.changes import PATIENCE_MS, LogLocked, changing, is_postgres, make_epoch
from realtime.log.mark import Mark
from realtime.log.patience import patience
from realtime.log.sql import integers, is_away, reopen_if_replaced, texts
from realtime.log.witness import POSTGRES_NUMBER, POSTGRES_SEAL, file_of, sqlite_witness

logger = logging.getLogger(__name__)

_SETTLE_LOCK: Final = 0x5E71A72
"""Key of PostgreSQL's advisory lock that a settling transaction holds. SQLite has one writer anyway."""

_BATCH: Final = 500
"""Logs that get new epochs in one transaction."""

_TIMELINE: Final = (
    # During recovery it fails, and so does everything that would be written then.
    "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)",
    # A moment behind after a promotion, until the first checkpoint. Where the former is not allowed.
    "SELECT lpad(upper(to_hex(timeline_id)), 8, '0') FROM pg_control_checkpoint()",
)
_SYSTEM: Final = ("SELECT system_identifier::text FROM pg_control_system()",)


def look() -> int | None:
    """The number of the incarnation, or None where the witness has to be settled. One read.

    Raises DatabaseError when the database is away.
    """
    connection = connections[settings.DATABASE]
    reopen_if_replaced(connection)
    with patience(connection), connection.cursor() as cursor:
        return _recall(cursor) if is_postgres(cursor) else _number(cursor)


def current() -> int:
    """The number of the incarnation, settled if need be. Not within `atomic()`.

    Raises ProtocolError `unavailable` or DatabaseError when the database is away or cannot be written.
    """
    number = look()
    return settle() if number is None else number


def settle() -> int:
    """Makes the witness sound, in a new incarnation if need be; returns the number. Not within `atomic()`.

    Raises ProtocolError `unavailable` when the database is away or cannot be written.
    """
    with _alone() as cursor:
        number = _number(cursor)
        if not is_postgres(cursor):
            # If it is sound, somebody else was faster.
            return _settle_sqlite(cursor) if number is None else number
        if number is None:
            _settle_postgres(cursor)
        number = _recall(cursor)
        return _begin(cursor, "it lacks what was committed to it") if number is None else number


def renew(why: str) -> int:
    """Begins a new incarnation in any case; returns its number. Not within `atomic()`."""
    with _alone() as cursor:
        return _begin(cursor, why)


def fell(channel_id: int, epoch: str, reached: int) -> None:
    """The head of a log was read below `reached`, which somebody has had in this epoch: the database went back, unless
    that read was older. Begins a new incarnation if it is below that now, in an epoch of the present incarnation."""
    with _alone() as cursor:
        number = _number(cursor)
        cursor.execute("SELECT epoch, head, incarnation FROM realtime_log WHERE channel_id = %s", [channel_id])
        state = cursor.fetchone()
        if number is not None and state is not None and state[0] == epoch and state[1] < reached and state[2] == number:
            _begin(cursor, f"the log of channel {channel_id} ended at {reached} and ends at {state[1]}")
    _relabel([channel_id])


def new_epochs(why: str = "an operator says so") -> tuple[int, list[int]]:
    """Begins a new incarnation, with new epochs for all logs: how many have one, and ids of those that were locked.

    No log gives a serial in its old epoch from now on, not even one that was locked.
    """
    number = renew(why)
    relabel()
    connection = connections[settings.DATABASE]
    with patience(connection), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM realtime_log")
        (count,) = cursor.fetchone()
        cursor.execute("SELECT channel_id FROM realtime_log WHERE incarnation <> %s ORDER BY channel_id", [number])
        locked = [channel_id for (channel_id,) in cursor.fetchall()]
    return count - len(locked), locked


def relabel(*, within_s: float = math.inf, pause: Callable[[float], object] = time.sleep) -> bool:
    """Gives new epochs to all logs whose epoch is of an earlier incarnation; whether none is left, because it was
    locked or there was no time.

    Short transactions, and on SQLite a pause (seconds) as long as each, so that rounds find their turn. Several
    processes may do it at once: a log gets one epoch.
    """
    connection = connections[settings.DATABASE]
    complete, last, changed = True, 0, 0
    end = time.monotonic() + within_s
    while True:
        with patience(connection), connection.cursor() as cursor:
            number = _number(cursor)
            if number is None:
                return False  # another restore; whoever settles that begins again
            cursor.execute(
                "SELECT channel_id FROM realtime_log WHERE channel_id > %s AND incarnation <> %s"
                " ORDER BY channel_id LIMIT %s",
                [last, number, _BATCH],
            )
            ids = [row[0] for row in cursor.fetchall()]
        if not ids:
            if changed:
                logger.warning("%d logs have new epochs", changed)
            return complete
        if time.monotonic() > end:
            return False
        last = ids[-1]
        started = time.monotonic()
        held = _relabel(ids)
        complete = complete and not held
        changed += len(ids) - len(held)
        if connection.vendor == "sqlite":
            pause(time.monotonic() - started)


# -- the witness ------------------------------------------------------------------------------------------------------


def _number(cursor: CursorWrapper) -> int | None:
    if is_postgres(cursor):
        cursor.execute(f"SELECT {POSTGRES_NUMBER}")
        number: int | None = cursor.fetchone()[0]
        return number
    found = sqlite_witness(cursor)
    return None if found is None else found.number


@contextmanager
def _alone() -> Iterator[CursorWrapper]:
    """A transaction that one process has at a time."""
    connection = connections[settings.DATABASE]
    assert not connection.in_atomic_block, "the witness must be written by a transaction, not by a savepoint"
    with changing(settings.STUCK_CHANNEL_MS) as cursor:
        if is_postgres(cursor):
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_SETTLE_LOCK])
        else:
            # Takes the write lock, also where transactions begin without it.
            cursor.execute("UPDATE realtime_incarnation SET number = number WHERE 1 = 0")
        yield cursor


def _begin(cursor: CursorWrapper, why: str) -> int:
    number = random.SystemRandom().randrange(1, 2**63)
    cursor.execute("SELECT EXISTS (SELECT 1 FROM realtime_log)")
    (used,) = cursor.fetchone()
    # In a new database it is nobody's concern.
    logger.log(
        logging.WARNING if used else logging.DEBUG, "A new incarnation of the database begins, with new epochs: %s", why
    )
    cursor.execute("DELETE FROM realtime_incarnation")
    if is_postgres(cursor):
        _write_postgres(cursor, number, _facts(cursor))
    else:
        _write_sqlite(cursor, number)
    return number


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


class _Facts(NamedTuple):
    """What a cluster is; "" where it does not say."""

    system: str
    timeline: str


def _settle_postgres(cursor: CursorWrapper) -> int:
    cursor.execute(
        "SELECT number, system, timeline, writer = xmin::text, log = 'realtime_log'::regclass::oid::bigint,"
        " database = split_part(pg_relation_filepath('realtime_incarnation'), '/', -2)"
        " FROM realtime_incarnation"
    )
    rows = cursor.fetchall()
    facts = _facts(cursor)
    why = _difference(rows, facts)
    if why is not None:
        return _begin(cursor, why)
    number, system, timeline = rows[0][:3]
    logger.info("The database server was started again; the database is the one that it was")
    cursor.execute("DELETE FROM realtime_incarnation")
    _write_postgres(cursor, number, _Facts(facts.system or system, facts.timeline or timeline))
    return int(number)


def _difference(rows: Sequence[tuple[int, str, str, bool, bool, bool]], facts: _Facts) -> str | None:
    """Why this is another database than the one that the witness was written in; None if it is not."""
    if len(rows) != 1:
        return "it was emptied or partly restored" if rows else "nothing says which it is"
    _, system, timeline, written_here, same_table, same_database = rows[0]
    if facts.system and system and facts.system != system:
        return f"it is in another cluster ({system} → {facts.system})"
    if not same_database:
        return "it is a copy of the database, made by the server"
    if not (written_here and same_table):
        return "its tables were restored"
    if facts.timeline and timeline and facts.timeline != timeline:
        return f"the cluster has another timeline ({timeline} → {facts.timeline}), by a failover or a restore"
    return None


def _write_postgres(cursor: CursorWrapper, number: int, facts: _Facts) -> None:
    cursor.execute(
        "INSERT INTO realtime_incarnation (number, system, timeline, database, log, started, writer)"
        " SELECT %s, %s, %s, split_part(pg_relation_filepath('realtime_incarnation'), '/', -2),"
        " 'realtime_log'::regclass::oid::bigint, pg_postmaster_start_time(), pg_current_xact_id()::xid::text",
        [number, *facts],
    )


def _facts(cursor: CursorWrapper) -> _Facts:
    cursor.execute("SELECT pg_is_in_recovery()")
    if cursor.fetchone()[0]:
        raise OperationalError("The database server is a standby.")
    facts = _Facts(_first_allowed(_SYSTEM), _first_allowed(_TIMELINE))
    if not facts.timeline:
        logger.warning(
            "The database does not tell its timeline: after a failover that lost commits run manage.py new_epoch --all"
        )
    return facts


def _first_allowed(questions: Sequence[str]) -> str:
    """The answer to the first question that is answered; "" when the server forbids or lacks all of it."""
    for question in questions:
        try:
            with transaction.atomic(using=settings.DATABASE), connections[settings.DATABASE].cursor() as cursor:
                cursor.execute(question)
                return str(cursor.fetchone()[0] or "")
        except DatabaseError as error:
            # If it was lost instead, the next statement says so.
            logger.info("The database does not answer %r: %s", question, error)
    return ""


class _Memory:
    """What this process has seen of a server, to notice one whose disk was turned back: nothing in it tells that."""

    number: int | None = None
    flushed: int | None = None
    """The end of the write-ahead log on disk, in bytes. No crash and no restart moves it back."""
    is_told = True
    """Whether the server tells it."""


def _recall(cursor: CursorWrapper) -> int | None:
    """The number of the incarnation; None where the witness is not sound, or the server lacks what this process has
    seen there. Otherwise the server is familiar from now on."""
    # Before the question: another thread may ask as well.
    known_number, known_flushed = _Memory.number, _Memory.flushed
    seal, flushed = _ask(cursor)
    if seal is None:
        return None
    number = int(seal.partition(" ")[0])
    if number == known_number and known_flushed is not None and flushed is not None and flushed < known_flushed:
        return None
    _Memory.number, _Memory.flushed = number, flushed
    witness.session = seal.partition(" ")[2]
    return number


def _ask(cursor: CursorWrapper) -> tuple[str | None, int | None]:
    """The seal, and where the write-ahead log ends on disk."""
    if _Memory.is_told:
        try:
            # A savepoint, where an error would end the transaction.
            with transaction.atomic(using=settings.DATABASE) if cursor.db.in_atomic_block else nullcontext():
                cursor.execute(f"SELECT {POSTGRES_SEAL}, (pg_current_wal_flush_lsn() - '0/0')::bigint")
                answer: tuple[str | None, int | None] = cursor.fetchone()
                return answer
        except DatabaseError as error:
            if is_away(error):
                raise
            logger.info("The database does not tell where its write-ahead log ends: %s", error)
            _Memory.is_told = False
    cursor.execute(f"SELECT {POSTGRES_SEAL}")
    return (cursor.fetchone()[0], None)


# -- SQLite -----------------------------------------------------------------------------------------------------------


def _settle_sqlite(cursor: CursorWrapper) -> int:
    file = file_of(cursor.db)
    cursor.execute("SELECT number, rounds FROM realtime_incarnation")
    rows = cursor.fetchall()
    if len(rows) != 1:
        return _begin(cursor, "it was emptied or partly restored" if rows else "nothing says which it is")
    number, rounds = rows[0]
    try:
        known = None if file is None else mark.read(file.mark_path, locked=True)
    except OSError:
        known = None  # a new one may be possible all the same
    if rounds is None and known is None:
        # Not marked yet, or it could not be.
        cursor.execute("DELETE FROM realtime_incarnation")
        _write_sqlite(cursor, number)
        return int(number)
    if known is None:
        return _begin(cursor, "its high-water mark is missing or a copy")
    if known.number != number or rounds is None:
        return _begin(cursor, "its high-water mark is of another")
    return _begin(cursor, f"it ends at round {rounds}, though round {known.rounds} was told")


def _write_sqlite(cursor: CursorWrapper, number: int) -> None:
    file = file_of(cursor.db)
    rounds: int | None = None
    if file is not None:
        try:
            # Before the commit: the next who settles waits for that. If it fails, the two differ, and all begins anew.
            mark.create(file.mark_path, Mark(number, 0), like=file.path)
            rounds = 0
            witness.unmarkable.discard(file.path)
        except OSError as error:
            witness.complain(file, error)
    cursor.execute(
        "INSERT INTO realtime_incarnation (number, rounds, system, timeline, database, writer)"
        " VALUES (%s, %s, '', '', '', '')",
        [number, rounds],
    )


# -- epochs -----------------------------------------------------------------------------------------------------------


def _relabel(channel_ids: Sequence[int]) -> list[int]:
    """New epochs for those of the logs whose epoch is of an earlier incarnation; returns ids that were locked."""
    with changing(PATIENCE_MS) as cursor:
        left = _relabel_batch(cursor, channel_ids, skip=True)
    locked: list[int] = []
    for channel_id in left:
        try:
            with changing(PATIENCE_MS) as cursor:
                _relabel_batch(cursor, [channel_id], skip=False)
        except LogLocked:
            # Whoever holds it cannot give serials in the old epoch, and gives it a new one when he wants to.
            locked.append(channel_id)
    return locked


def _relabel_batch(cursor: CursorWrapper, channel_ids: Sequence[int], *, skip: bool) -> list[int]:
    """Returns the ids of logs that others hold."""
    epochs = [make_epoch() for _ in channel_ids]
    if not is_postgres(cursor):
        cursor.executemany(
            "UPDATE realtime_log SET epoch = %s, incarnation = (SELECT number FROM realtime_incarnation)"
            " WHERE channel_id = %s AND incarnation <> (SELECT number FROM realtime_incarnation)",
            list(zip(epochs, channel_ids, strict=True)),
        )
        return []
    cursor.execute(
        "WITH n AS MATERIALIZED (SELECT min(number) AS number FROM realtime_incarnation), x AS MATERIALIZED"
        " (SELECT l.channel_id, v.epoch FROM realtime_log l"
        " JOIN unnest(%s::bigint[], %s::text[]) AS v (channel_id, epoch) ON v.channel_id = l.channel_id"
        f" ORDER BY l.channel_id FOR NO KEY UPDATE OF l{' SKIP LOCKED' if skip else ''})"
        ", done AS (UPDATE realtime_log l SET epoch = x.epoch, incarnation = n.number FROM x, n"
        " WHERE l.channel_id = x.channel_id AND l.incarnation <> n.number)"
        " SELECT channel_id FROM x",
        [integers(channel_ids), texts(epochs)],
    )
    held_by_us = {row[0] for row in cursor.fetchall()}
    return [channel_id for channel_id in channel_ids if channel_id not in held_by_us]
