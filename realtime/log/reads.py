"""Reads of the log: states, ranges of envelopes, pages. Synchronous, from any thread, no model instances.

Each function is one query unless it says otherwise, bounded in rows and in bytes, on the connection of the calling
thread, which is kept; `reading` closes it when it broke. Everything reads the primary: what is "beyond the head" or
"retained" is never decided from a replica.

A row below `oldest` may still exist, and a row may go between two statements. So the rule for whoever explains a gap:
only by a state that was read *after* the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from django.db import Error, connections
from django.db.backends.utils import CursorWrapper

from realtime.conf import settings
from realtime.delivery.blocks import size_bytes
from realtime.log.patience import patience
from realtime.log.sql import discard, integers, is_away, reopen_if_replaced, texts
from realtime.log.types import NEVER_USED, Known, LogState, Page, Skipped
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName

T = TypeVar("T")

#: (serial, envelope)
Row = tuple[int, str]

PAGE_BYTES = 512 * 1024
RANGES_BYTES = 4 * 1024 * 1024
#: How often a page starts again because retention overtook it.
_PAGE_TRIES = 5
_NO_END = 2**63 - 1


@contextmanager
def reading() -> Iterator[CursorWrapper]:
    """A cursor on this thread's connection, which stays open for the next read.

    Where the database cannot be read, raises ProtocolError `unavailable` and closes the connection, so that the next
    read opens another.
    """
    connection = connections[settings.DATABASE]
    try:
        reopen_if_replaced(connection)
        with patience(connection), connection.cursor() as cursor:
            yield cursor
    except Error as error:
        if not is_away(error):
            raise
        discard(connection)
        raise ProtocolError("unavailable", "The database cannot be read at the moment.") from error


def _read(query: Callable[[CursorWrapper], T]) -> T:
    """Run a query; once more, on a new connection, when the one at hand had broken since its last use."""
    connection = connections[settings.DATABASE]
    was_connected = connection.connection is not None and not connection.in_atomic_block
    try:
        with reading() as cursor:
            return query(cursor)
    except ProtocolError:
        # Closed by `reading`, but for SQLite in memory. A read has no effect that a second one could double.
        if not was_connected or connection.vendor == "sqlite":
            raise
    with reading() as cursor:
        return query(cursor)


def read_states(names: Collection[ChannelName]) -> dict[ChannelName, LogState]:
    """The state of each channel, by name; `NEVER_USED` for those that do not exist."""
    if not names:
        return {}
    sql = (
        "SELECT c.name, c.id, l.epoch, coalesce(l.oldest, 1), coalesce(l.head, 0), coalesce(l.last_time, 0)"
        " FROM realtime_channel c LEFT JOIN realtime_log l ON l.channel_id = c.id WHERE c.name"
    )

    def query(cursor: CursorWrapper) -> list[Any]:
        cursor.execute(*_among(cursor, sql, list(names)))
        return list(cursor.fetchall())

    states = dict.fromkeys(names, NEVER_USED)
    states.update((name, LogState(*state)) for name, *state in _read(query))
    return states


def read_list(prefix: str, after: str, limit: int) -> list[tuple[ChannelName, LogState]]:
    """The next `limit` channels in the order of bytes, of those that begin with `prefix`, behind the name `after`.
    Without the platform's own. Both databases walk an index from there, however many channels there are."""
    # On PostgreSQL the index for prefixes, whose operators compare bytes whatever the collation. All names are ASCII.
    at_least, less, more, order = ("~>=~", "~<~", "~>~", "USING ~<~")
    if connections[settings.DATABASE].vendor == "sqlite":
        at_least, less, more, order = (">=", "<", ">", "")
    sql = (
        "SELECT c.name, c.id, l.epoch, coalesce(l.oldest, 1), coalesce(l.head, 0), coalesce(l.last_time, 0)"
        " FROM realtime_channel c LEFT JOIN realtime_log l ON l.channel_id = c.id"
        f" WHERE c.name {at_least} %s AND c.name {less} %s AND c.name {more} %s AND c.namespace_id IS NOT NULL"
        f" ORDER BY c.name {order} LIMIT %s"
    )

    def query(cursor: CursorWrapper) -> list[Any]:
        cursor.execute(sql, [prefix, f"{prefix}\x7f", after, limit])
        return list(cursor.fetchall())

    return [(name, LogState(*state)) for name, *state in _read(query)]


def read_heads(channel_ids: Collection[int]) -> dict[int, LogState]:
    """The state of each log, by channel id; ids without a log are left out."""
    return {row[0]: LogState(*row) for row in _read_heads(channel_ids)}


def read_changes(known: Mapping[ChannelName, Known]) -> dict[ChannelName, LogState]:
    """The states of those logs that are not the known ones, or have another head than is known. By ids, as far as there
    are any: a sweep asks for all that a worker follows, and by name it would cost the double."""
    names = {channel_id: name for name, (channel_id, _, _) in known.items() if channel_id is not None}
    unread = {name for name, (channel_id, _, _) in known.items() if channel_id is None}
    unread.update(names.values())
    changed: dict[ChannelName, LogState] = {}
    for row in _read_heads(names):
        name = names[row[0]]
        unread.discard(name)
        _, epoch, position = known[name]
        if row[1] != epoch or row[3] != position:
            changed[name] = LogState(*row)
    # Never published to, or deleted, or made anew under another id.
    for name, state in read_states(unread).items():
        _, epoch, position = known[name]
        if state.epoch != epoch or state.head != position:
            changed[name] = state
    return changed


def _read_heads(channel_ids: Collection[int]) -> list[Any]:
    if not channel_ids:
        return []
    sql = "SELECT channel_id, epoch, oldest, head, last_time FROM realtime_log WHERE channel_id"

    def query(cursor: CursorWrapper) -> list[Any]:
        cursor.execute(*_among(cursor, sql, list(channel_ids)))
        return list(cursor.fetchall())

    return _read(query)


def read_messages(
    channel_id: int,
    after: int,
    upto: int,
    *,
    max_messages: int,
    max_bytes: int,
    order: Literal["asc", "desc"] = "asc",
) -> list[Row]:
    """Rows with after < serial ≤ upto, in order, as many as fit; at least one, if there is one.

    Raw rows: what is below `oldest` is no longer part of the log and is for the caller to leave out.
    """
    rows = (
        "SELECT serial, envelope FROM realtime_message WHERE channel_id = %s AND serial > %s AND serial <= %s"
        f" ORDER BY serial {order} LIMIT %s"
    )

    def query(cursor: CursorWrapper) -> list[Row]:
        parameters: list[Any] = [channel_id, after, upto, max_messages]
        if _vendor(cursor) == "sqlite":
            cursor.execute(rows, parameters)  # rows come as they are fetched
        else:
            cursor.execute(
                f"SELECT serial, envelope FROM (SELECT serial, envelope, row_number() OVER w AS n,"
                f" sum(octet_length(envelope)) OVER w AS bytes FROM ({rows}) r WINDOW w AS (ORDER BY serial {order})) s"
                f" WHERE n = 1 OR bytes <= %s ORDER BY serial {order}",
                [*parameters, max_bytes],
            )
        return list(_up_to(cursor, max_bytes))

    return _read(query)


def read_ranges(
    ranges: Sequence[tuple[int, int, int]], max_messages_each: int, *, max_bytes: int = RANGES_BYTES
) -> dict[int, list[Row]]:
    """Rows of many channels: for each (channel_id, after, upto) those with after < serial ≤ upto, in order.

    At most `max_messages_each` serials of each range, counted from `after`, and `max_bytes` in all: the ranges at the
    end may come short, the caller reads on. Every channel id is in the answer. Raw rows, as in `read_messages`.
    """
    found: dict[int, list[Row]] = {channel_id: [] for channel_id, _, _ in ranges}
    if not ranges:
        return found
    bounds = [(channel_id, after, min(upto, after + max_messages_each)) for channel_id, after, upto in ranges]

    def query(cursor: CursorWrapper) -> list[Any]:
        if _vendor(cursor) == "sqlite":
            cursor.execute(
                # No ORDER BY: the loops run in the order of the ranges and the primary key, and a sort would hold
                # every envelope in memory before the first could be counted.
                "SELECT m.channel_id, m.serial, m.envelope FROM json_each(%s) r CROSS JOIN realtime_message m"
                " WHERE m.channel_id = json_extract(r.value, '$[0]') AND m.serial > json_extract(r.value, '$[1]')"
                " AND m.serial <= json_extract(r.value, '$[2]')",
                [json.dumps(bounds)],
            )
        else:
            cursor.execute(
                "SELECT channel_id, serial, envelope FROM (SELECT r.channel_id, m.serial, m.envelope, r.i,"
                " row_number() OVER w AS n, sum(octet_length(m.envelope)) OVER w AS bytes"
                " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) WITH ORDINALITY"
                " AS r (channel_id, after, upto, i)"
                # OFFSET 0: an index range per channel, whatever the planner believes about the sizes.
                " CROSS JOIN LATERAL (SELECT serial, envelope FROM realtime_message WHERE channel_id = r.channel_id"
                " AND serial > r.after AND serial <= r.upto OFFSET 0) m WINDOW w AS (ORDER BY r.i, m.serial)) s"
                " WHERE n = 1 OR bytes <= %s ORDER BY i, serial",
                [*(integers(column) for column in zip(*bounds, strict=True)), max_bytes],
            )
        return list(_up_to(cursor, max_bytes))

    for channel_id, serial, envelope in _read(query):
        found[channel_id].append((serial, envelope))
    return found


def read_snapshot(channel_id: int, key_limit: int) -> tuple[LogState, list[Row]]:
    """The newest message of each key, `key_limit` newest keys, in serial order; with the state of the same moment.

    One statement, so one snapshot on both databases. Messages older than `oldest` are among them: that is what
    `Latest` is for.
    """

    def query(cursor: CursorWrapper) -> list[Any]:
        cursor.execute(
            "SELECT l.channel_id, l.epoch, l.oldest, l.head, l.last_time, m.serial, m.envelope FROM realtime_log l"
            " LEFT JOIN (SELECT channel_id, serial FROM realtime_latest WHERE channel_id = %s"
            " ORDER BY serial DESC LIMIT %s) x ON x.channel_id = l.channel_id"
            " LEFT JOIN realtime_message m ON m.channel_id = x.channel_id AND m.serial = x.serial"
            " WHERE l.channel_id = %s ORDER BY m.serial",
            [channel_id, key_limit, channel_id],
        )
        return list(cursor.fetchall())

    rows = _read(query)
    if not rows:
        return NEVER_USED._replace(channel_id=channel_id), []
    return LogState(*rows[0][:5]), [(row[5], row[6]) for row in rows if row[5] is not None]


def find_since(state: LogState, time_ms: int) -> int:
    """The serial before the first retained message whose time is `time_ms` or later; the head if there is none.

    A binary search by primary key, since time never decreases with the serial: some 20 short queries.
    """
    if state.channel_id is None or state.oldest > state.head or time_ms > state.last_time:
        return state.head
    bounds = {state.channel_id: (state.oldest, state.head)}
    return _read(lambda cursor: first_since(cursor, bounds, time_ms))[state.channel_id] - 1


def first_since(cursor: CursorWrapper, bounds: Mapping[int, tuple[int, int]], time_ms: int) -> dict[int, int]:
    """Of each channel id, the first serial within its (oldest, head) whose time is `time_ms` or later, else head + 1.

    The searches run in step, so that the number of queries depends on the longest log and not on how many there are.
    """
    open_ends = {channel_id: (oldest, head + 1) for channel_id, (oldest, head) in bounds.items()}
    found: dict[int, int] = {}
    first_probe = True
    while open_ends:
        # The first probe is the oldest message: most often everything is younger.
        probes = {
            id_: low if first_probe else (low + high) // 2 for id_, (low, high) in open_ends.items() if low < high
        }
        first_probe = False
        found.update((id_, low) for id_, (low, _) in open_ends.items() if id_ not in probes)
        times = _times(cursor, probes)
        for channel_id, probe in probes.items():
            low, high = open_ends[channel_id]
            # No row: retention took it meanwhile, so it was older than everything that is left.
            young = times.get(channel_id, time_ms - 1) >= time_ms
            probes_left = (low, probe) if young else (probe + 1, high)
            open_ends[channel_id] = probes_left
        open_ends = {channel_id: ends for channel_id, ends in open_ends.items() if channel_id in probes}
    return found


def _times(cursor: CursorWrapper, serials: Mapping[int, int]) -> dict[int, int]:
    """channel id → time of the message with that serial, where there is one."""
    if not serials:
        return {}
    if _vendor(cursor) == "sqlite":
        cursor.execute(
            "SELECT m.channel_id, m.time FROM json_each(%s) x CROSS JOIN realtime_message m"
            " WHERE m.channel_id = json_extract(x.value, '$[0]') AND m.serial = json_extract(x.value, '$[1]')",
            [json.dumps(list(serials.items()))],
        )
    else:
        cursor.execute(
            "SELECT x.channel_id, m.time FROM unnest(%s::bigint[], %s::bigint[]) AS x (channel_id, serial)"
            " CROSS JOIN LATERAL (SELECT time FROM realtime_message"
            " WHERE channel_id = x.channel_id AND serial = x.serial OFFSET 0) m",
            [integers(serials), integers(serials.values())],
        )
    return dict(cursor.fetchall())


def read_page(
    name: ChannelName,
    *,
    after: int | None = None,
    before: int | None = None,
    since: int | None = None,
    order: Literal["asc", "desc"] | None = None,
    limit: int = 100,
    max_bytes: int = PAGE_BYTES,
) -> Page:
    """One page of history: at most `limit` messages and `max_bytes`, but at least one message if there is one.

    `after` and `before` are serials, exclusive; `since` a time in Unix milliseconds. Without `order`: "asc" with
    `after` or `since`, else "desc". Several short queries; the state is read again after the rows, and everything the
    page says about bounds and gaps comes from there. A channel that was never used is an empty page.
    """
    ascending = order == "asc" if order else after is not None or since is not None
    state = read_states([name])[name]
    if state.channel_id is None or state.epoch is None:
        return Page(None, state.oldest, state.head, [], False)
    low = after or 0
    if since is not None:
        found = find_since(state, since)
        # Otherwise all that is retained is young enough, and so may be what retention took behind `after`.
        if found >= state.oldest or after is None:
            low = max(low, found)
    high = _NO_END if before is None else before - 1
    rows: list[Row] = []
    for _ in range(_PAGE_TRIES):
        rows = read_messages(
            state.channel_id,
            max(low, state.oldest - 1),
            high,
            max_messages=limit,
            max_bytes=max_bytes,
            order="asc" if ascending else "desc",
        )
        state = read_states([name])[name]
        if state.channel_id is None:  # the channel was deleted meanwhile
            return Page(None, state.oldest, state.head, [], False)
        kept = [row for row in rows if row[0] >= state.oldest]
        if len(kept) == len(rows) or not ascending:
            break
    messages = [envelope for _, envelope in kept]
    first = max(low + 1, state.oldest)
    last = min(high, state.head)
    if ascending:
        more = (kept[-1][0] + 1 if kept else first) <= last
        asked = low + 1
    else:
        more = (kept[-1][0] - 1 if kept else last) >= first
        # Without `after`, the asked range is the `limit` serials below `before`.
        only_before = before is not None and after is None and since is None
        asked = high + 1 - limit if only_before else low + 1
        if more:
            asked = state.oldest  # the page ends before it comes to what was taken
    skipped = None
    # Without any bound the page is "what is retained": nothing is missing from that.
    bounded = after is not None or before is not None or since is not None
    if bounded and max(asked, 1) <= min(state.oldest - 1, high):
        skipped = Skipped(max(asked, 1), min(state.oldest - 1, high), "retention")
    return Page(state.epoch, state.oldest, state.head, messages, more, skipped)


def _vendor(cursor: CursorWrapper) -> str:
    return str(cursor.db.vendor)


def _among(cursor: CursorWrapper, sql: str, values: Sequence[object]) -> tuple[str, list[Any]]:
    """`sql` and a condition that its last column is one of `values`, as one parameter however many there are."""
    if _vendor(cursor) == "sqlite":
        return f"{sql} IN (SELECT value FROM json_each(%s))", [json.dumps(values)]
    if isinstance(values[0], int):
        return f"{sql} = ANY(%s::bigint[])", [integers(value for value in values if isinstance(value, int))]
    return f"{sql} = ANY(%s::text[])", [texts(map(str, values))]


def _up_to(cursor: CursorWrapper, max_bytes: int) -> Iterator[Any]:
    """Rows of the cursor until their last columns, envelopes, make `max_bytes`; always the first."""
    total = 0
    for row in cursor:
        total += size_bytes(row[-1])
        if total > max_bytes and total > size_bytes(row[-1]):
            return
        yield row
