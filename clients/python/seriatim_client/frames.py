"""The frames that a server sends, and reading one (docs/reference/protocol.md#from-the-server). Pure.

Clients ignore what they do not know. So a text that is no JSON object, a `type` that is not listed here, and a frame
without the fields it must have all read as None; fields that are not listed are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from seriatim_client.errors import SeriatimError

Ref = str | int


@dataclass(frozen=True, slots=True)
class Ready:
    """The server knows who we are. `client` is None for nobody known; `expires_ms` None for ever."""

    connection: str
    client: str | None
    time: int
    expires_ms: float | None
    heartbeat_ms: float
    max_frame_bytes: int
    max_message_bytes: int
    max_attachments: int
    worker: str
    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class Authenticated:
    expires_ms: float | None
    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class AuthExpiring:
    in_ms: float
    ref: None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    ref: None = None


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The worker is about to leave."""

    after_ms: float
    reason: str
    ref: None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`pong` or `ok`: an answer without content."""

    ref: Ref | None


@dataclass(frozen=True, slots=True)
class Attached:
    """Delivery starts after `serial`; `resumed` false: a `skipped` follows and says why not where it was asked.

    `is_asked` is false when the server says it by itself: the log is new.
    """

    channel: str
    epoch: str | None
    serial: int
    head: int
    resumed: bool
    window: int
    ack_every: int
    ack_ms: float
    ref: Ref | None = None
    delta: str | None = None
    """"fossil": data come as strings, whole or as differences."""

    @property
    def is_asked(self) -> bool:
        return self.ref is not None


@dataclass(frozen=True, slots=True)
class Detached:
    channel: str
    reason: str
    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class MessageFrame:
    channel: str
    serial: int
    id: str
    time: int
    client: str | None
    event: str
    key: str | None
    data: Any
    snapshot: bool = False
    base: int | None = None
    """`data` is a difference to the data of this serial."""
    ref: None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Serials that cannot be had. `start` and `to` are None when the whole log is another."""

    channel: str
    epoch: str | None
    start: int | None
    to: int | None
    reason: str
    ref: None = None


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    channel: str
    epoch: str | None
    serial: int
    ref: None = None


@dataclass(frozen=True, slots=True)
class PublishedFrame:
    channel: str
    epoch: str
    serials: tuple[int, ...]
    duplicates: tuple[int, ...]
    conflicts: tuple[int, ...]
    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class HistoryFrame:
    channel: str
    epoch: str | None
    oldest: int
    head: int
    messages: tuple[MessageFrame, ...]
    more: bool
    skipped: tuple[int, int, str] | None
    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A message that is never stored: at most once, without a serial."""

    channel: str
    client: str | None
    event: str
    data: Any
    ref: None = None


EVERYBODY: Final = "$all"
"""The channel of what concerns whoever is connected; nobody attaches to it."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What an operator of the server says to everybody. `id` is the same on every connection."""

    id: str
    text: str


def announcement_of(signal: Signal) -> Announcement | None:
    """The announcement that a signal of `EVERYBODY` is, if it is one."""
    data = signal.data
    if signal.event != "announcement" or not isinstance(data, dict):
        return None
    announcement_id, text = data.get("id"), data.get("text")
    if not isinstance(announcement_id, str) or not isinstance(text, str):
        return None
    return Announcement(announcement_id, text)


@dataclass(frozen=True, slots=True)
class Member:
    """A client that is present, however many connections it has."""

    client: str
    connections: int
    """When it was told last; events come only for other changes."""
    data: Any
    since: int
    """Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class PresenceFrame:
    """Who is present, or what has changed since the frame before."""

    channel: str
    action: Literal["sync", "enter", "update", "leave", "count"]
    revision: int
    members: tuple[Member, ...]
    """Of an event, the one member that it is about."""
    more: bool
    count: int
    ref: None = None


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """A refused request."""

    code: str
    message: str
    remedy: str
    channel: str | None
    retry_after_ms: int | None
    ref: Ref | None = None

    def error(self, channel: str | None = None) -> SeriatimError:
        return SeriatimError(
            self.code,
            self.message,
            remedy=self.remedy,
            channel=self.channel or channel,
            retry_after_ms=self.retry_after_ms,
        )


ServerFrame = (
    Ready
    | Authenticated
    | AuthExpiring
    | Heartbeat
    | Reconnect
    | Answer
    | Attached
    | Detached
    | MessageFrame
    | Skipped
    | SnapshotEnd
    | PublishedFrame
    | HistoryFrame
    | Signal
    | ErrorFrame
    | PresenceFrame
)

Fields = Mapping[str, Any]


class _Malformed(Exception):
    pass


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _Malformed(name)
    return value


def _text_or_none(fields: Fields, name: str) -> str | None:
    return None if fields.get(name) is None else _text(fields, name)


def _number(fields: Fields, name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Malformed(name)
    return value


def _number_or_none(fields: Fields, name: str) -> int | None:
    return None if fields.get(name) is None else _number(fields, name)


def _ms(fields: Fields, name: str) -> float:
    value = fields.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _Malformed(name)
    return value


def _ms_or_none(fields: Fields, name: str) -> float | None:
    return None if fields.get(name) is None else _ms(fields, name)


def _numbers(fields: Fields, name: str) -> tuple[int, ...]:
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise _Malformed(name)
    return tuple(cast("list[int]", value))


def _ref(fields: Fields) -> Ref | None:
    value = fields.get("ref")
    return value if isinstance(value, str) or type(value) is int else None


def _ready(fields: Fields) -> Ready:
    return Ready(
        connection=_text(fields, "connection"),
        client=_text_or_none(fields, "client"),
        time=_number(fields, "time"),
        expires_ms=_ms_or_none(fields, "expires_ms"),
        heartbeat_ms=_ms(fields, "heartbeat_ms"),
        max_frame_bytes=_number(fields, "max_frame_bytes"),
        max_message_bytes=_number(fields, "max_message_bytes"),
        max_attachments=_number(fields, "max_attachments"),
        worker=_text(fields, "worker"),
        ref=_ref(fields),
    )


def _attached(fields: Fields) -> Attached:
    return Attached(
        channel=_text(fields, "channel"),
        epoch=_text_or_none(fields, "epoch"),
        serial=_number(fields, "serial"),
        head=_number(fields, "head"),
        resumed=fields.get("resumed") is True,
        window=_number(fields, "window"),
        ack_every=_number_or_none(fields, "ack_every") or 0,
        ack_ms=_ms_or_none(fields, "ack_ms") or 0,
        ref=_ref(fields),
        delta=_text_or_none(fields, "delta"),
    )


def read_message(fields: Fields) -> MessageFrame:
    """A `message` frame, also one inside a page of history. Raises `_Malformed`."""
    return MessageFrame(
        channel=_text(fields, "channel"),
        serial=_number(fields, "serial"),
        id=_text(fields, "id"),
        time=_number(fields, "time"),
        client=_text_or_none(fields, "client"),
        event=_text(fields, "event"),
        key=_text_or_none(fields, "key"),
        data=fields.get("data"),
        snapshot=fields.get("snapshot") is True,
        base=_number_or_none(fields, "base"),
    )


def _skip(fields: Fields) -> tuple[int, int, str]:
    return _number(fields, "from"), _number(fields, "to"), _text(fields, "reason")


def read_history(fields: Fields, channel: str | None = None) -> HistoryFrame | None:
    """A page of history, from a frame or from the body of an HTTP answer (which does not name the channel)."""
    try:
        messages = fields.get("messages")
        skipped = fields.get("skipped")
        if not isinstance(messages, list):
            raise _Malformed("messages")
        return HistoryFrame(
            channel=channel or _text(fields, "channel"),
            epoch=_text_or_none(fields, "epoch"),
            oldest=_number(fields, "oldest"),
            head=_number(fields, "head"),
            messages=tuple(read_message(each) for each in messages),
            more=fields.get("more") is True,
            skipped=None if skipped is None else _skip(skipped),
            ref=_ref(fields),
        )
    except (_Malformed, AttributeError):
        return None


def read_published(fields: Fields) -> PublishedFrame | None:
    """The answer to a publish, from a frame or from the body of an HTTP answer."""
    try:
        return _published(fields)
    except _Malformed:
        return None


def _published(fields: Fields) -> PublishedFrame:
    return PublishedFrame(
        channel=_text(fields, "channel"),
        epoch=_text(fields, "epoch"),
        serials=_numbers(fields, "serials"),
        duplicates=_numbers(fields, "duplicates"),
        conflicts=_numbers(fields, "conflicts"),
        ref=_ref(fields),
    )


def read_error(fields: Fields) -> ErrorFrame:
    """An `error` frame, or the `error` of the body of an HTTP answer. Raises `_Malformed`."""
    return ErrorFrame(
        code=_text(fields, "code"),
        message=_text_or_none(fields, "message") or "",
        remedy=_text_or_none(fields, "remedy") or "",
        channel=_text_or_none(fields, "channel"),
        retry_after_ms=_number_or_none(fields, "retry_after_ms"),
        ref=_ref(fields),
    )


def _presence(fields: Fields) -> PresenceFrame | None:
    action, channel = _text(fields, "action"), _text(fields, "channel")
    if action == "count":
        return PresenceFrame(channel, "count", 0, (), False, _number(fields, "count"))
    revision = _number(fields, "revision")
    match action:
        case "sync":
            members = fields.get("members")
            if not isinstance(members, list):
                raise _Malformed("members")
            return PresenceFrame(
                channel, "sync", revision, tuple([_member(each) for each in members]), fields.get("more") is True, 0
            )
        case "enter" | "update" | "leave":
            return PresenceFrame(channel, action, revision, (_member(fields),), False, 0)
    return None


def _member(fields: Fields) -> Member:
    if not isinstance(fields, dict):
        raise _Malformed("members")
    connections, since = _number_or_none(fields, "connections"), _number_or_none(fields, "since")
    return Member(_text(fields, "client"), connections or 0, fields.get("data"), since or 0)


_READERS: Final[dict[str, Callable[[Fields], ServerFrame | None]]] = {
    "ready": _ready,
    "authenticated": lambda f: Authenticated(_ms_or_none(f, "expires_ms"), _ref(f)),
    "auth.expiring": lambda f: AuthExpiring(_ms(f, "in_ms")),
    "heartbeat": lambda f: Heartbeat(),
    "reconnect": lambda f: Reconnect(_ms(f, "after_ms"), _text_or_none(f, "reason") or ""),
    "pong": lambda f: Answer(_ref(f)),
    "ok": lambda f: Answer(_ref(f)),
    "attached": _attached,
    "detached": lambda f: Detached(_text(f, "channel"), _text_or_none(f, "reason") or "detached", _ref(f)),
    "message": read_message,
    "skipped": lambda f: Skipped(
        _text(f, "channel"),
        _text_or_none(f, "epoch"),
        _number_or_none(f, "from"),
        _number_or_none(f, "to"),
        _text(f, "reason"),
    ),
    "snapshot.end": lambda f: SnapshotEnd(_text(f, "channel"), _text_or_none(f, "epoch"), _number(f, "serial")),
    "published": _published,
    "history": read_history,
    "signal": lambda f: Signal(_text(f, "channel"), _text_or_none(f, "client"), _text(f, "event"), f.get("data")),
    "presence": _presence,
    "error": read_error,
}


def parse_frame(text: str) -> ServerFrame | None:
    """The frame in `text`, or None for what a client ignores."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    kind = fields.get("type")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        return None
    try:
        return read(fields)
    except _Malformed:
        return None
