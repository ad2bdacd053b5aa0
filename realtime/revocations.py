"""What was taken back before its time: tokens by jti, by client or by API key, and clients that are blocked.

Rows in the database, all of them in memory of every worker, so that each verification asks without a query. A
revocation holds at once where it is made; the others hear of it with its facts (`realtime.control`), so that they need
no reading, and read all rows when they may have missed something, at the start, and now and then. Who is connected is
asked by the worker (`on_change`). Rows that say nothing any more are pruned. docs/how-to/revoke-and-block.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from django.db import transaction
from django.db.models import Q

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.mirror import Mirror
from realtime.models import Revocation

__all__ = ["Kind", "block", "heard", "is_blocked", "is_revoked", "lift", "mirror", "prune", "revoke", "unblock"]

Kind = Literal["jti", "client", "key", "block"]

REFRESH_EVERY_S: Final = 15.0
"""How often a worker reads all rows, whatever it heard."""

REFRESHER_GONE_S: Final = 60.0
"""While a worker reads, requests leave it to him; if it stops they take over."""


class Entry(NamedTuple):
    """One revocation, in Unix seconds."""

    at_s: float
    until_s: float | None


_Table = dict[tuple[str, str], Entry]


# ---------------------------------------------------------------- asking


def is_revoked(jti: str | None, client: str, key_id: str | None, issued_at_s: float | None, now_s: float) -> bool:
    """Whether a token with these claims was taken back. Safe on an event loop.

    Of a client or a key, what was issued in the second of the revocation is taken back as well: `iat` has no more
    digits. A token that does not say when it was issued counts as an old one.
    """
    table = mirror.current()
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
    table = mirror.current()
    return bool(table) and _holds(table.get(("block", client)), now_s)


def _holds(entry: Entry | None, now_s: float) -> bool:
    return entry is not None and (entry.until_s is None or now_s < entry.until_s)


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


def _put(kind: str, value: str, entry: Entry | None) -> None:
    def changed(table: _Table) -> _Table:
        # A copy: whoever asks meanwhile reads one or the other.
        others = {key: each for key, each in table.items() if key != (kind, value)}
        return others if entry is None else {**others, (kind, value): entry}

    mirror.change(changed)


# ---------------------------------------------------------------- reading


def _read() -> _Table:
    """All rows that still say something."""
    rows = Revocation.objects.using(settings.DATABASE).order_by()
    valid = rows.filter(Q(until__isnull=True) | Q(until__gt=datetime.now(UTC)))
    return {
        (kind, value): Entry(at.timestamp(), until.timestamp() if until is not None else None)
        for kind, value, at, until in valid.values_list("kind", "value", "at", "until")
    }


mirror: Final = Mirror("Revocations", _read, _Table(), every_s=REFRESH_EVERY_S, refresher_gone_s=REFRESHER_GONE_S)
"""All of them."""


def prune() -> int:
    """Deletes rows that say nothing any more; how many."""
    found, _ = Revocation.objects.using(settings.DATABASE).filter(until__lte=datetime.now(UTC)).delete()
    return found
