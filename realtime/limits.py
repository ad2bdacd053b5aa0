"""Limits that operators change while all run: for everybody, a namespace, a channel, an API key or a client; the
strictest wins.

They stand beside the settings and the rules of namespaces and can only be stricter. All rows are in memory of every
worker, which reads them again when it hears of a change, and every second. Who enforces what: publishing (rates and
sizes), connections (connections, attachments), presence (members), tokens (lifetimes). docs/reference/limits.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from django.db.models import QuerySet
from django.db.models.signals import post_delete, post_save

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.mirror import Glance, Mirror
from realtime.models import Limit
from realtime.protocol.names import ChannelName, namespace_of

__all__ = [
    "ChannelLimits",
    "Limits",
    "Rate",
    "connections_per_address",
    "connections_per_worker",
    "mirror",
    "of",
    "of_channel",
]

REMEMBERED_MOST: Final = 20_000
"""Answers of `of` that are remembered until something changes."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One budget that a publish is taken out of."""

    scope: str
    name: str
    """Of the row: "" for everybody, a namespace, a key's id, a client."""
    messages_per_s: int | None
    bytes_per_s: int | None

    @property
    def shared(self) -> bool:
        """All clients of an API key together; else each client by itself."""
        return self.scope == Limit.Scope.KEY


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for one client, in one namespace. None: no limit from here."""

    rates: tuple[Rate, ...] = ()
    connections: int | None = None
    """Of the client, per worker."""
    connections_of_key: int | None = None
    """Of all clients whose tokens were issued with the API key, per worker."""
    attachments: int | None = None
    message_bytes: int | None = None
    token_lifetime_s: int | None = None


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What holds for one channel, whoever uses it. None: no limit from here."""

    messages_per_s: int | None = None
    bytes_per_s: int | None = None
    message_bytes: int | None = None
    members: int | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    scope: str
    name: str
    connections: int | None
    connections_per_address: int | None
    connections_per_worker: int | None
    attachments: int | None
    publish_rate: int | None
    publish_bytes: int | None
    channel_rate: int | None
    channel_bytes: int | None
    message_bytes: int | None
    members: int | None
    token_lifetime_s: int | None


_COLUMNS: Final = tuple(_Row.__slots__)
_NONE: Final = Limits()
_NO_CHANNEL_LIMITS: Final = ChannelLimits()


@dataclass(frozen=True, slots=True)
class _Table:
    """All rows, and what was made of them for those who asked."""

    rows: dict[tuple[str, str], _Row] = field(default_factory=dict)
    answers: dict[tuple[str, str | None, str | None], Limits] = field(default_factory=dict, compare=False)
    channel_answers: dict[ChannelName, ChannelLimits] = field(default_factory=dict, compare=False)


def of(client: str, key_id: str | None = None, namespace: str | None = None) -> Limits:
    """What holds for a client whose token was issued with this API key, in this namespace. Safe on an event loop."""
    table = mirror.current()
    if not table.rows:
        return _NONE
    asked = (client, key_id, namespace)
    found = table.answers.get(asked)
    if found is None:
        found = _found(table, client, key_id, namespace)
        if len(table.answers) >= REMEMBERED_MOST:
            table.answers.clear()
        table.answers[asked] = found
    return found


def of_channel(channel: ChannelName) -> ChannelLimits:
    """What holds for a channel, by the rows for everybody, its namespace and itself. Safe on an event loop."""
    table = mirror.current()
    if not table.rows:
        return _NO_CHANNEL_LIMITS
    found = table.channel_answers.get(channel)
    if found is None:
        places = (("global", ""), ("namespace", namespace_of(channel)), ("channel", channel))
        rows = [row for place in places if (row := table.rows.get(place)) is not None]
        found = ChannelLimits(
            messages_per_s=_strictest(row.channel_rate for row in rows),
            bytes_per_s=_strictest(row.channel_bytes for row in rows),
            message_bytes=_strictest(row.message_bytes for row in rows),
            members=_strictest(row.members for row in rows),
        )
        if len(table.channel_answers) >= REMEMBERED_MOST:
            table.channel_answers.clear()
        table.channel_answers[channel] = found
    return found


def connections_per_address() -> int | None:
    """How many connections one address may have to a worker, by the row for everybody."""
    row = mirror.current().rows.get(("global", ""))
    return None if row is None else row.connections_per_address


def connections_per_worker() -> int | None:
    """How many connections a worker may have, by the row for everybody."""
    row = mirror.current().rows.get(("global", ""))
    return None if row is None else row.connections_per_worker


def _found(table: _Table, client: str, key_id: str | None, namespace: str | None) -> Limits:
    places = (("global", ""), ("namespace", namespace), ("key", key_id), ("client", client))
    rows = [row for scope, name in places if name is not None and (row := table.rows.get((scope, name))) is not None]
    return Limits(
        rates=tuple(
            Rate(row.scope, row.name, row.publish_rate, row.publish_bytes)
            for row in rows
            if row.publish_rate is not None or row.publish_bytes is not None
        ),
        connections=_strictest(row.connections for row in rows if row.scope in ("global", "client")),
        connections_of_key=_strictest(row.connections for row in rows if row.scope == "key"),
        attachments=_strictest(row.attachments for row in rows),
        message_bytes=_strictest(row.message_bytes for row in rows),
        token_lifetime_s=_strictest(row.token_lifetime_s for row in rows),
    )


def _strictest(values: object) -> int | None:
    return min((value for value in values if value is not None), default=None)  # type: ignore[attr-defined]


def _read() -> _Table:
    return _Table({(row["scope"], row["name"]): _Row(**row) for row in _rows()})


def _rows() -> QuerySet[Limit, dict[str, Any]]:
    rows: QuerySet[Limit, dict[str, Any]] = Limit.objects.using(settings.DATABASE).values(*_COLUMNS)
    return rows


mirror: Final = Mirror("Limits", _read, _Table(), glance=Glance(_rows))
"""All rows."""


def _on_saved(*, using: str = "", raw: bool = False, **_: object) -> None:
    after_commit(mirror.stale, using=using or None)
    if not raw:
        elsewhere.tell("limits", {}, using=using or None)


for _signal in (post_save, post_delete):
    _signal.connect(_on_saved, sender=Limit)
