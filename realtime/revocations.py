"""What was taken back before its time: tokens by jti, by client or by API key, and clients that are blocked.

Rows in the database, all of them in memory of every worker, so that each verification asks without a query. A
revocation holds at once where it is made; the others hear of it with its facts (`realtime.control`), so that they need
no reading, and read all rows when they may have missed something, at the start, and now and then. Who is connected is
asked by the worker (`on_change`). Rows that say nothing any more are pruned. docs/how-to/revoke-and-block.md.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from django.db import Error, transaction
from django.db.models import Q

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.models import Revocation
from realtime.namespaces import read_again_if_broken

__all__ = ["Kind", "block", "heard", "is_blocked", "is_revoked", "load", "on_change", "refresh", "revoke", "unblock"]

logger = logging.getLogger("realtime.revocations")

Kind = Literal["jti", "client", "key", "block"]

FRESH_S: Final = 1.0
"""In a process without a worker: how old what is in memory may be."""

REFRESH_EVERY_S: Final = 15.0
"""How often a worker reads all rows, whatever it heard."""

REFRESHER_GONE_S: Final = 60.0
"""While a worker reads, requests leave it to him; if it stops they take over."""

PRUNE_EVERY_S: Final = 600.0


class Entry(NamedTuple):
    """One revocation, in Unix seconds."""

    at_s: float
    until_s: float | None


_Table = dict[tuple[str, str], Entry]

_table: _Table = {}
_read_at = -math.inf
_refreshed_at = -math.inf
_pruned_at = -math.inf
_changes = 0
_lock = threading.Lock()
_loading = threading.Lock()
_listeners: list[Callable[[], None]] = []


# ---------------------------------------------------------------- asking


def is_revoked(jti: str | None, client: str, key_id: str | None, issued_at_s: float | None, now_s: float) -> bool:
    """Whether a token with these claims was taken back. Safe on an event loop.

    Of a client or a key, what was issued in the second of the revocation is taken back as well: `iat` has no more
    digits. A token that does not say when it was issued counts as an old one.
    """
    table = _current()
    if not table:
        return False
    if jti is not None and _holds(table.get(("jti", jti)), now_s):
        return True
    for key in (("client", client), ("key", key_id or "")):
        entry = table.get(key)
        if entry is not None and _holds(entry, now_s) and (issued_at_s is None or issued_at_s <= entry.at_s):
            return True
    return False


def is_blocked(client: str, now_s: float) -> bool:
    """Whether the client is blocked, whatever its credentials. Safe on an event loop."""
    table = _current()
    return bool(table) and _holds(table.get(("block", client)), now_s)


def _holds(entry: Entry | None, now_s: float) -> bool:
    return entry is not None and (entry.until_s is None or now_s < entry.until_s)


def _current() -> _Table:
    now = time.monotonic()
    if now - _refreshed_at < REFRESHER_GONE_S or now - _read_at < FRESH_S or elsewhere.on_event_loop():
        return _table
    # One thread reads; the others go on with what there is, unless there is nothing yet.
    if not _loading.acquire(blocking=_read_at == -math.inf):
        return _table
    try:
        load()
    except Error as error:
        # What was known holds on. A process that never could read lets in whom the signature lets in, and says so.
        logger.warning("Revocations cannot be read: %s", error)
    finally:
        _loading.release()
    return _table


# ---------------------------------------------------------------- changing


def revoke(kind: Kind, value: str, *, by: str = "", reason: str = "", until: datetime | None = None) -> None:
    """Takes back: a token (`jti`), all tokens of a client or of an API key until now, or a client's access (`block`).

    Holds here when the transaction commits, on open connections of all workers within two seconds, after restarts as
    well. It is forgotten at `until`; by default tokens after `REVOCATIONS_KEPT_S`, blocks never.
    """
    now = datetime.now(UTC)
    if until is None and kind != "block":
        until = now + timedelta(seconds=settings.REVOCATIONS_KEPT_S)
    with transaction.atomic(using=settings.DATABASE):
        Revocation.objects.using(settings.DATABASE).update_or_create(
            kind=kind, value=value, defaults={"at": now, "until": until, "by": by, "reason": reason}
        )
        until_s = until.timestamp() if until is not None else None
        after_commit(lambda: _put(kind, value, Entry(now.timestamp(), until_s)), using=settings.DATABASE)
        data = {"kind": kind, "value": value, "at": now.timestamp(), "until": until_s}
        elsewhere.tell("revocation", data, using=settings.DATABASE)


def block(client: str, *, by: str = "", reason: str = "", until: datetime | None = None) -> None:
    """Shuts the client out, whatever its credentials, until `until` or `unblock`."""
    revoke("block", client, by=by, reason=reason, until=until)


def unblock(client: str) -> bool:
    """Lets the client in again; whether it was blocked."""
    return lift("block", client)


def lift(kind: Kind, value: str) -> bool:
    """Takes a revocation back; whether there was one."""
    with transaction.atomic(using=settings.DATABASE):
        found, _ = Revocation.objects.using(settings.DATABASE).filter(kind=kind, value=value).delete()
        after_commit(lambda: _put(kind, value, None), using=settings.DATABASE)
        elsewhere.tell("revocation", {"kind": kind, "value": value, "at": None, "until": None}, using=settings.DATABASE)
    return bool(found)


def heard(data: Mapping[str, object]) -> None:
    """Another process changed one. On the event loop: reads nothing."""
    kind, value, at_s, until_s = (data.get(name) for name in ("kind", "value", "at", "until"))
    if not isinstance(kind, str) or not isinstance(value, str):
        return
    if isinstance(at_s, int | float):
        _put(kind, value, Entry(float(at_s), float(until_s) if isinstance(until_s, int | float) else None))
    else:
        _put(kind, value, None)


def missed() -> None:
    """Changes may have been missed: all rows are read at the next regular look, within a second."""
    global _read_at
    _read_at = -math.inf


def _put(kind: str, value: str, entry: Entry | None) -> None:
    global _table, _changes
    with _lock:
        # A copy: whoever asks meanwhile reads one or the other.
        table = dict(_table)
        if entry is None:
            table.pop((kind, value), None)
        else:
            table[kind, value] = entry
        _table = table
        _changes += 1
    _tell()


# ---------------------------------------------------------------- reading


def load() -> None:
    """Reads all rows that still say something. For threads; a worker calls it before it serves."""
    global _table, _read_at
    while True:
        changes, read_at = _changes, time.monotonic()
        rows = read_again_if_broken(_rows)
        with _lock:
            if changes != _changes:
                continue  # what was heard meanwhile may be newer than what was read
            before, _table, _read_at = _table, {(kind, value): entry for kind, value, entry in rows}, read_at
        break
    if before != _table:
        _tell()


def _rows() -> list[tuple[str, str, Entry]]:
    rows = Revocation.objects.using(settings.DATABASE).order_by()
    valid = rows.filter(Q(until__isnull=True) | Q(until__gt=datetime.now(UTC)))
    return [
        (kind, value, Entry(at.timestamp(), until.timestamp() if until is not None else None))
        for kind, value, at, until in valid.values_list("kind", "value", "at", "until")
    ]


def refresh(*, now: bool = False) -> None:
    """`load` for a worker's reader thread, called every second, read when it is time; prunes now and then."""
    global _refreshed_at, _pruned_at
    moment = time.monotonic()
    if now or moment - _read_at >= REFRESH_EVERY_S:
        load()
    _refreshed_at = moment
    if moment - _pruned_at >= PRUNE_EVERY_S:
        _pruned_at = moment
        prune()


def prune() -> int:
    """Deletes rows that say nothing any more; how many."""
    found, _ = Revocation.objects.using(settings.DATABASE).filter(until__lte=datetime.now(UTC)).delete()
    return found


def on_change(listener: Callable[[], None]) -> Callable[[], None]:
    """Call `listener` when another set holds, in the thread that noticed; returns what stops it."""
    _listeners.append(listener)

    def stop() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return stop


def _tell() -> None:
    for listener in list(_listeners):
        try:
            listener()
        except Exception:  # one listener's fault must not keep others from closing connections
            logger.exception("A listener for revocations failed.")


def reset() -> None:
    """Forget everything (tests)."""
    global _table, _read_at, _refreshed_at, _pruned_at
    _table, _read_at, _refreshed_at, _pruned_at = {}, -math.inf, -math.inf, -math.inf
