"""Forgetting: what a log no longer retains, and when its rows really go.

In two steps. First `oldest` moves, in a short transaction on the `Log` row: from then the messages are no longer part
of the log, and whoever reads is told so. The rows go later, in chunks of `DELETE_CHUNK`, when they are older than
`IDEMPOTENCY_MIN_S`: until then a repeated publish still finds its first serial. Rows that `Latest` names stay, up to
the key limit of the namespace. Messages whose time to live is over leave the log in the same way, only sooner, and
`Latest`, too.

Nothing here delays publishing: `Log` rows are locked one short transaction at a time, those that a round holds come
later, and deleting takes no lock that a round wants. Rows below `oldest` never change, and nothing refers to them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from django.db.backends.utils import CursorWrapper

from realtime import namespaces
from realtime.conf import settings
from realtime.log.changes import PATIENCE_MS, LogLocked, changing, is_postgres, make_epoch
from realtime.log.reads import first_since, read_states, reading
from realtime.log.rounds import now_ms as clock_ms
from realtime.log.sql import integers
from realtime.log.types import LogState
from realtime.namespaces import Rules
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName

logger = logging.getLogger(__name__)

#: Logs changed in one transaction, and looked at by one query.
_BATCH = 100
_SCAN = 1000

PLATFORM_RULES = Rules("", retention_messages=5000, retention_age_s=3600)
"""Of the platform's own channels, which have no namespace that an operator could change. Whoever follows them and was
away for longer takes everything for changed, which costs as much as reading so many messages."""


def prune(name: ChannelName, upto: int) -> LogState:
    """Take everything through `upto` out of the log, as an operator asks; returns the state afterwards.

    The rows stay until `delete_chunks` finds them old enough, and longer where `Latest` names them. Raises
    `not_found` for a channel that was never used, `unavailable` when the log is locked or the database away.
    """
    state = read_states([name])[name]
    if state.channel_id is None or state.epoch is None:
        raise ProtocolError("not_found", "There is no log of this name.", channel=name)
    with changing(settings.STUCK_CHANNEL_MS) as cursor:
        cursor.execute(
            "UPDATE realtime_log SET oldest = CASE WHEN head < %s THEN head ELSE %s END + 1"
            " WHERE channel_id = %s AND oldest <= %s",
            [upto, upto, state.channel_id, upto],
        )
    return read_states([name])[name]


def new_epoch(name: ChannelName) -> str:
    """Give the log a new epoch, which makes every position of it void; rows and serials stay. Returns the epoch.

    Raises `not_found` for a channel that was never used, `unavailable` when the log is locked or the database away.
    """
    state = read_states([name])[name]
    if state.channel_id is None or state.epoch is None:
        raise ProtocolError("not_found", "There is no log of this name.", channel=name)
    epoch = make_epoch()
    with changing(settings.STUCK_CHANNEL_MS) as cursor:
        cursor.execute("UPDATE realtime_log SET epoch = %s WHERE channel_id = %s", [epoch, state.channel_id])
    return epoch


def begin_anew(name: ChannelName) -> str:
    """Begin the channel's log anew: a new epoch, in which nothing of what was before is retained. Returns the epoch.

    Serials go on, so that none is ever used twice. Rows are deleted later, like those that retention took. Raises as
    `new_epoch` does.
    """
    state = read_states([name])[name]
    if state.channel_id is None or state.epoch is None:
        raise ProtocolError("not_found", "There is no log of this name.", channel=name)
    epoch = make_epoch()
    with changing(settings.STUCK_CHANNEL_MS) as cursor:
        cursor.execute(
            "UPDATE realtime_log SET epoch = %s, oldest = head + 1 WHERE channel_id = %s", [epoch, state.channel_id]
        )
        cursor.execute("DELETE FROM realtime_latest WHERE channel_id = %s", [state.channel_id])
    return epoch


def apply_retention(rules: Mapping[str, Rules] | None = None, *, now_ms: int | None = None) -> int:
    """Move `oldest` of all channels to what their namespaces retain, and drop keys beyond the limit from `Latest`.

    Those of the platform itself keep what `PLATFORM_RULES` say. Without `rules` those that are stored now. Nothing is
    taken that is younger than `IDEMPOTENCY_MIN_S`. Returns how many logs moved. Deletes no message: call
    `delete_chunks` afterwards. Several workers may do this at once; that costs time, nothing else.
    """
    now = clock_ms() if now_ms is None else now_ms
    moved = _apply(PLATFORM_RULES, now)
    for rule in (namespaces.load() if rules is None else rules).values():
        if rule.retention_messages is not None or rule.retention_age_s is not None or rule.message_ttl_s is not None:
            moved += _apply(rule, now)
        if rule.message_ttl_s is not None:
            _forget_expired(rule, now - 1000 * rule.message_ttl_s)
        _trim_latest(rule)
    return moved


def expire(rules: Mapping[str, Rules], *, now_ms: int | None = None) -> int:
    """Move `oldest` past messages whose time to live is over, and nothing else; returns how many logs moved."""
    now = clock_ms() if now_ms is None else now_ms
    living = [rule for rule in rules.values() if rule.message_ttl_s is not None]
    return sum([_apply(replace(rule, retention_messages=None, retention_age_s=None), now) for rule in living])


def delete_chunks(*, now_ms: int | None = None, pause: Callable[[float], object] = time.sleep) -> int:
    """Delete rows that logs no longer retain and nobody needs for idempotency; returns how many.

    One short transaction for each `DELETE_CHUNK` rows, and after it a pause (seconds) as long as the transaction took,
    so that the writer of an SQLite file always finds its turn.
    """
    now = clock_ms() if now_ms is None else now_ms
    before = now - 1000 * settings.IDEMPOTENCY_MIN_S
    deleted, last = 0, 0
    while True:
        with reading() as cursor:
            ids = _logs_with_garbage(cursor, last, before)
        if not ids:
            return deleted
        last = ids[-1]
        while True:
            with reading() as cursor:
                doomed = _garbage(cursor, ids, before, settings.DELETE_CHUNK)
            if not doomed:
                break
            started = time.monotonic()
            with changing(PATIENCE_MS) as cursor:
                gone = _delete(cursor, doomed)
            deleted += gone
            # None gone: somebody else holds these rows, to delete them or in a backup. The next time, then.
            if gone == 0 or len(doomed) < settings.DELETE_CHUNK:
                break
            pause(time.monotonic() - started)


# -- retention by rule ------------------------------------------------------------------------------------------------


def _apply(rule: Rules, now_ms: int) -> int:
    idempotency_ms = 1000 * settings.IDEMPOTENCY_MIN_S
    young = now_ms - idempotency_ms
    too_old = now_ms - max(1000 * rule.retention_age_s, idempotency_ms) if rule.retention_age_s is not None else None
    if rule.message_ttl_s is not None:
        # Rows stay long enough for idempotency all the same: only deleting them would harm it.
        too_old = max(now_ms - 1000 * rule.message_ttl_s, -1 if too_old is None else too_old)
    moved, last = 0, 0
    while True:
        with reading() as cursor:
            logs = _logs_to_trim(cursor, rule, last, too_old)
            if not logs:
                return moved
            last = max(logs)
            targets = dict.fromkeys(logs, 0)
            if rule.retention_messages is not None:
                most = rule.retention_messages
                # The rows that the count would take, but not the young among them.
                bounds = {id_: (oldest, head - most) for id_, (oldest, head) in logs.items() if head - most >= oldest}
                targets.update(first_since(cursor, bounds, young))
            if too_old is not None:
                for id_, serial in first_since(cursor, logs, too_old).items():
                    targets[id_] = max(targets[id_], serial)
        # A log that is locked now has its turn the next time.
        moved += len(_move({id_: oldest for id_, oldest in targets.items() if oldest > logs[id_][0]}))


def _logs_to_trim(cursor: CursorWrapper, rule: Rules, last: int, too_old: int | None) -> dict[int, tuple[int, int]]:
    """channel id → (oldest, head) of logs with something beyond the rule; the next of them after id `last`."""
    of_namespace, names = "c.namespace_id = %s", [rule.name]
    if not rule.name:
        of_namespace, names = "c.namespace_id IS NULL", []
    cursor.execute(
        "SELECT l.channel_id, l.oldest, l.head FROM realtime_log l JOIN realtime_channel c ON c.id = l.channel_id"
        f" WHERE {of_namespace} AND l.channel_id > %s AND l.oldest <= l.head"
        " AND (l.head - l.oldest >= %s OR EXISTS (SELECT 1 FROM realtime_message m"
        " WHERE m.channel_id = l.channel_id AND m.serial = l.oldest AND m.time < %s))"
        " ORDER BY l.channel_id LIMIT %s",
        [
            *names,
            last,
            2**62 if rule.retention_messages is None else rule.retention_messages,
            -1 if too_old is None else too_old,
            _SCAN,
        ],
    )
    return {channel_id: (oldest, head) for channel_id, oldest, head in cursor.fetchall()}


def _forget_expired(rule: Rules, before_ms: int) -> None:
    """Drops keys from `Latest` whose newest message has expired."""
    expired = (
        "EXISTS (SELECT 1 FROM realtime_message m WHERE m.channel_id = {0}.channel_id AND m.key = {0}.key"
        " AND m.serial = {0}.serial AND m.time < %s)"
    )
    with reading() as cursor:
        cursor.execute(
            "SELECT DISTINCT x.channel_id FROM realtime_latest x JOIN realtime_channel c ON c.id = x.channel_id"
            f" WHERE c.namespace_id = %s AND {expired.format('x')}",
            [rule.name, before_ms],
        )
        ids = [channel_id for (channel_id,) in cursor.fetchall()]
    for channel_id in ids:
        try:
            with changing(PATIENCE_MS) as cursor:
                _lock_latest(cursor, channel_id)
                cursor.execute(
                    f"DELETE FROM realtime_latest WHERE channel_id = %s AND {expired.format('realtime_latest')}",
                    [channel_id, before_ms],
                )
        except LogLocked:
            continue  # the next time


def _lock_latest(cursor: CursorWrapper, channel_id: int) -> None:
    """Takes the lock that rounds hold while they write to `Latest`: row locks there would deadlock."""
    lock = " FOR NO KEY UPDATE" if is_postgres(cursor) else ""
    cursor.execute(f"SELECT 1 FROM realtime_log WHERE channel_id = %s{lock}", [channel_id])


def _trim_latest(rule: Rules) -> None:
    with reading() as cursor:
        cursor.execute(
            "SELECT x.channel_id, count(*) FROM realtime_latest x JOIN realtime_channel c ON c.id = x.channel_id"
            " WHERE c.namespace_id = %s GROUP BY x.channel_id HAVING count(*) > %s",
            [rule.name, rule.key_limit],
        )
        excesses = [(channel_id, count - rule.key_limit) for channel_id, count in cursor.fetchall()]
    for channel_id, excess in excesses:
        while excess > 0:
            try:
                with changing(PATIENCE_MS) as cursor:
                    _lock_latest(cursor, channel_id)
                    cursor.execute(
                        "DELETE FROM realtime_latest WHERE channel_id = %s AND serial IN (SELECT serial"
                        " FROM realtime_latest WHERE channel_id = %s ORDER BY serial LIMIT %s)",
                        [channel_id, channel_id, min(excess, settings.DELETE_CHUNK)],
                    )
            except LogLocked:
                break  # the next time
            excess -= settings.DELETE_CHUNK


# -- deleting ---------------------------------------------------------------------------------------------------------

# Found by key, not by serial: that is the index that `Latest` has.
_GARBAGE = (
    "m.channel_id = l.channel_id AND m.serial < l.oldest AND m.time < %s"
    " AND NOT EXISTS (SELECT 1 FROM realtime_latest x"
    " WHERE x.channel_id = m.channel_id AND x.key = m.key AND x.serial = m.serial)"
)


def _logs_with_garbage(cursor: CursorWrapper, last: int, before: int) -> list[int]:
    """Ids, after `last`, of the next logs with rows to delete."""
    cursor.execute(
        "SELECT l.channel_id FROM realtime_log l WHERE l.channel_id > %s AND l.oldest > 1"
        f" AND EXISTS (SELECT 1 FROM realtime_message m WHERE {_GARBAGE}) ORDER BY l.channel_id LIMIT %s",
        [last, before, _BATCH],
    )
    return [row[0] for row in cursor.fetchall()]


def _garbage(cursor: CursorWrapper, channel_ids: Sequence[int], before: int, most: int) -> list[tuple[int, int]]:
    """(channel id, serial) of rows to delete. Found by a read: a delete that searches would hold its lock meanwhile."""
    ids = ",".join(map(str, channel_ids))
    if is_postgres(cursor):
        cursor.execute(
            f"SELECT l.channel_id, r.serial FROM realtime_log l CROSS JOIN LATERAL (SELECT m.serial"
            f" FROM realtime_message m WHERE {_GARBAGE} ORDER BY m.serial LIMIT %s) r"
            f" WHERE l.channel_id IN ({ids}) LIMIT %s",
            [before, most, most],
        )
    else:
        cursor.execute(
            f"SELECT l.channel_id, m.serial FROM realtime_log l CROSS JOIN realtime_message m"
            f" WHERE {_GARBAGE} AND l.channel_id IN ({ids}) LIMIT %s",
            [before, most],
        )
    return list(cursor.fetchall())


def _delete(cursor: CursorWrapper, doomed: Sequence[tuple[int, int]]) -> int:
    if not is_postgres(cursor):
        cursor.executemany("DELETE FROM realtime_message WHERE channel_id = %s AND serial = %s", doomed)
        return len(doomed)
    channel_ids, serials = zip(*doomed, strict=True)
    cursor.execute(
        # SKIP LOCKED: two that delete the same rows do not wait for each other, in whatever order.
        "WITH doomed AS (SELECT m.channel_id, m.serial FROM realtime_message m"
        " JOIN unnest(%s::bigint[], %s::bigint[]) AS x (channel_id, serial)"
        " ON m.channel_id = x.channel_id AND m.serial = x.serial FOR UPDATE OF m SKIP LOCKED)"
        " DELETE FROM realtime_message m USING doomed d WHERE m.channel_id = d.channel_id AND m.serial = d.serial",
        [integers(channel_ids), integers(serials)],
    )
    return int(cursor.rowcount)


# -- moving `oldest` --------------------------------------------------------------------------------------------------


def _move(targets: Mapping[int, int]) -> set[int]:
    """Move `oldest` of many logs forward, in short transactions. Returns the ids of those that moved.

    Logs that others hold are left out at first, then tried one by one with a little patience.
    """
    items = sorted(targets.items())
    done: set[int] = set()
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        with changing(PATIENCE_MS) as cursor:
            done |= _move_batch(cursor, batch, skip=True)
        for item in batch:
            if item[0] in done:
                continue
            try:
                with changing(PATIENCE_MS) as cursor:
                    done |= _move_batch(cursor, [item], skip=False)
            except LogLocked:
                logger.info("The log of channel %d is locked; its oldest stays for now", item[0])
    return done


def _move_batch(cursor: CursorWrapper, items: Sequence[tuple[int, int]], *, skip: bool) -> set[int]:
    if not is_postgres(cursor):
        cursor.executemany(
            "UPDATE realtime_log SET oldest = %s WHERE channel_id = %s AND oldest < %s",
            [(oldest, id_, oldest) for id_, oldest in items],
        )
        return {id_ for id_, _ in items}
    ids, oldests = zip(*items, strict=True)
    cursor.execute(
        "WITH x AS MATERIALIZED (SELECT l.channel_id, v.oldest FROM realtime_log l"
        " JOIN unnest(%s::bigint[], %s::bigint[]) AS v (channel_id, oldest) ON v.channel_id = l.channel_id"
        f" ORDER BY l.channel_id FOR NO KEY UPDATE OF l{' SKIP LOCKED' if skip else ''})"
        " UPDATE realtime_log l SET oldest = x.oldest FROM x WHERE l.channel_id = x.channel_id"
        " AND l.oldest < x.oldest RETURNING l.channel_id",
        [integers(ids), integers(oldests)],
    )
    return {row[0] for row in cursor.fetchall()}
