"""Frames of a client: from text to a checked, frozen value, or to an error that says what to mend.

Pure. Every frame passes here, so there are two ways through. The fast one decodes into typed Structs and looks by hand
only at what types cannot say. The slow one runs when the fast one found a fault: it decodes without types to learn
whether the fault is bad_frame or unknown_type, which field it is, and which request (`ref`) and channel to answer for.
Frames of the server are plain dicts, made where they are needed. Specification: docs/reference/protocol.md#frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from realtime.protocol.codec import JSON_FAULTS, canonical_of_decoded, check_decoded, decode, json_fault
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import DEFAULT_EVENT, MAX_MESSAGES, NewMessage, is_event, is_key, parse_messages
from realtime.protocol.names import MAX_INTEGER, is_count, is_visible_ascii, parse_channel

MAX_REF_CHARS: Final = 64
MAX_HISTORY: Final = 1000

_Ref = Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)] | Annotated[str, Meta(max_length=MAX_REF_CHARS)] | None
_Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
_Acks = dict[str, _Count]


class _ClientFrame(Struct, frozen=True, kw_only=True):
    """What every frame may carry. `acks` is the content of an ack that rides along; it comes into force first."""

    ref: _Ref = None
    acks: _Acks | None = None


class Auth(_ClientFrame, frozen=True, kw_only=True, tag="auth"):
    token: str


class Attach(_ClientFrame, frozen=True, kw_only=True, tag="attach"):
    """`from_` is UNSET when absent. It is not parsed yet: a wrong position is told only to who may subscribe."""

    channel: str
    from_: object | UnsetType = msgspec.field(default=UNSET, name="from")
    window: _Count | None = None
    presence: bool = False
    delta: str | None = None


class Detach(_ClientFrame, frozen=True, kw_only=True, tag="detach"):
    channel: str


class Ack(_ClientFrame, frozen=True, kw_only=True, tag="ack"):
    serials: _Acks


class Publish(_ClientFrame, frozen=True, kw_only=True, tag="publish"):
    """`messages` are checked and canonical already."""

    channel: str
    messages: tuple[NewMessage, ...]
    chained: bool = False


class Signal(_ClientFrame, frozen=True, kw_only=True, tag="signal"):
    channel: str
    event: Annotated[str, Meta(min_length=1, max_length=64)]
    data: object = None


class Presence(_ClientFrame, frozen=True, kw_only=True, tag="presence"):
    channel: str
    action: Literal["enter", "update", "leave"]
    data: object = None


class History(_ClientFrame, frozen=True, kw_only=True, tag="history"):
    """`before` and `after` are exclusive; both may be given."""

    channel: str
    before: _Count | None = None
    after: _Count | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_HISTORY)] | None = None


class Ping(_ClientFrame, frozen=True, kw_only=True, tag="ping"):
    pass


Frame = Auth | Attach | Detach | Ack | Publish | Signal | Presence | History | Ping


class _WireMessage(Struct, gc=False):
    id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    event: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    data: object = None


class _WirePublish(_ClientFrame, frozen=True, kw_only=True, tag="publish"):
    channel: str
    messages: Annotated[list[_WireMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    chained: bool = False


_WireFrame = Auth | Attach | Detach | Ack | _WirePublish | Signal | Presence | History | Ping
_decode: Final[Callable[[str], _WireFrame]] = msgspec.json.Decoder(_WireFrame).decode


class FrameError(ProtocolError):
    """A frame that cannot be served. `ref` and `channel` are those of the frame, where it had valid ones.

    The channel counts also for the order of publishes: a chained publish behind this one fails.
    """

    def __init__(self, error: ProtocolError, ref: str | int | None, channel: str | None, is_publish: bool) -> None:
        super().__init__(error.code, error.message, remedy=error.remedy, channel=channel)
        self.ref = ref
        self.is_publish = is_publish

    def frame(self, ref: str | int | None = None) -> dict[str, object]:
        return super().frame(self.ref if ref is None else ref)


def parse_frame(text: str) -> Frame:
    """The frame in `text`. FrameError `bad_frame` or `unknown_type` for everything else, never another exception.

    Names of channels and positions are still unchecked: their errors come behind those of the frame, and a position
    is only looked at for those who may subscribe.
    """
    try:
        frame = _decode(text)
    except JSON_FAULTS as fault:
        return _mend(text, fault)
    try:
        return _finish(frame, text)
    except ProtocolError as fault:
        return _mend(text, fault)


def _finish(frame: _WireFrame, text: str) -> Frame:
    """Checks what types cannot say."""
    if isinstance(frame, _WirePublish):
        return Publish(
            ref=frame.ref,
            acks=frame.acks,
            channel=frame.channel,
            messages=tuple([_checked(message) for message in frame.messages]),
            chained=frame.chained,
        )
    if isinstance(frame, Signal | Presence):
        check_decoded(frame.data, text)
    return frame


def _checked(message: _WireMessage) -> NewMessage:
    message_id, key = message.id, message.key
    if message_id is not None and not is_visible_ascii(message_id):
        raise ProtocolError("bad_frame")
    if key is not None and not is_key(key):
        raise ProtocolError("bad_frame")
    return NewMessage(message_id, message.event or DEFAULT_EVENT, key, canonical_of_decoded(message.data))


# --- the slow way: what is wrong with this text? ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    holds: Callable[[object], bool]
    rule: str
    required: bool = False


def _is_str(value: object) -> bool:
    return isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_ref(value: object) -> bool:
    if isinstance(value, str):
        # `_salvaged` also finds refs with lone surrogates, which no answer can say.
        return len(value) <= MAX_REF_CHARS and (value.isascii() or value.encode("utf-8", "ignore").decode() == value)
    return type(value) is int and abs(value) <= MAX_INTEGER


def _is_acks(value: object) -> bool:
    return isinstance(value, dict) and all(is_count(serial) for serial in value.values())


def _is_limit(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_HISTORY


def _is_action(value: object) -> bool:
    return value in ("enter", "update", "leave")


_COUNT: Final = "an integer from 0 below 2^53"
_ACKS: Final = f'an object of channels and serials like {{"chat:lobby":42}}, each serial {_COUNT}'
_REF: Final = _Field("ref", _is_ref, f"a string of at most {MAX_REF_CHARS} characters or an integer below 2^53")
_RIDING: Final = _Field("acks", _is_acks, _ACKS)
_CHANNEL: Final = _Field("channel", _is_str, "a string, the name of a channel", required=True)

_FIELDS: Final[dict[str, tuple[_Field, ...]]] = {
    "auth": (_Field("token", _is_str, "a string, the JWT", required=True),),
    "attach": (
        _CHANNEL,
        _Field("window", is_count, f"{_COUNT}, or absent for the namespace's own"),
        _Field("presence", _is_bool, "true or false"),
        _Field("delta", _is_str, 'a string like "fossil"'),
    ),
    "detach": (_CHANNEL,),
    "ack": (_Field("serials", _is_acks, _ACKS, required=True),),
    "publish": (_CHANNEL, _Field("chained", _is_bool, "true or false")),
    "signal": (_CHANNEL, _Field("event", is_event, "a string of 1 to 64 characters", required=True)),
    "presence": (_CHANNEL, _Field("action", _is_action, '"enter", "update" or "leave"', required=True)),
    "history": (
        _CHANNEL,
        _Field("before", is_count, _COUNT),
        _Field("after", is_count, _COUNT),
        _Field("limit", _is_limit, f"an integer from 1 to {MAX_HISTORY}"),
    ),
    "ping": (),
}


def _mend(text: str, fault: Exception) -> Frame:
    """The error that `text` deserves; or the frame, where the two ways differ and this one finds nothing wrong.

    They differ on names given twice, of which the last counts, and on `null` where it means absent: neither is worth
    the fast way's time.
    """
    try:
        obj = decode(text)
    except ProtocolError as error:
        raise _for(error, _salvaged(text)) from None
    except MemoryError:  # pragma: no cover - the shell bounds a frame to max_frame_bytes
        raise _for(json_fault(text, fault), None) from None
    try:
        return _checked_slowly(obj, text)
    except ProtocolError as error:
        raise _for(error, obj) from None


def _checked_slowly(obj: object, text: str) -> Frame:
    if not isinstance(obj, dict):
        message = f"The frame is {_describe(obj)}, not an object."
        raise ProtocolError("bad_frame", message, remedy='Send one JSON object per text frame, like {"type":"ping"}.')
    kind = obj.get("type")
    if not isinstance(kind, str):
        message = f"`type` is {_describe(kind)}." if "type" in obj else "`type` is missing."
        raise ProtocolError("bad_frame", message, remedy=f"`type` must be {_types()}.")
    if kind not in _FIELDS:
        message = f"Clients send no frame of type `{_clipped(kind)}`."
        raise ProtocolError("unknown_type", message, remedy=f"Use {_types()}.")
    for field in (_REF, _RIDING, *_FIELDS[kind]):
        value = obj.get(field.name)
        if value is None:
            if field.required:
                state = "null" if field.name in obj else "missing"
                raise ProtocolError(
                    "bad_frame", f"`{field.name}` of `{kind}` is {state}.", remedy=f"It must be {field.rule}."
                )
        elif not field.holds(value):
            message = f"`{field.name}` of `{kind}` is {_describe(value)}."
            raise ProtocolError("bad_frame", message, remedy=f"It must be {field.rule}.")
    if kind == "publish":
        if "messages" not in obj:
            message = "`messages` of `publish` is missing."
            raise ProtocolError("bad_frame", message, remedy=f"Send an array of 1 to {MAX_MESSAGES} messages.")
        messages = parse_messages(obj["messages"], MAX_MESSAGES)
        return Publish(
            ref=obj.get("ref"),
            acks=obj.get("acks"),
            channel=obj["channel"],
            messages=messages,
            chained=bool(obj.get("chained")),
        )
    try:
        given = {name: value for name, value in obj.items() if value is not None or name == "from"}
        return _finish(msgspec.convert(given, _WireFrame), text)
    except msgspec.ValidationError as fault:  # pragma: no cover - the fields above are all that can be wrong
        raise ProtocolError("bad_frame", f"The frame is wrong: {_clipped(str(fault))}.") from None


def _for(error: ProtocolError, obj: object) -> FrameError:
    """The error with the ref and the channel of the frame, where they are valid."""
    if not isinstance(obj, dict):
        return FrameError(error, None, None, is_publish=False)
    ref, channel = obj.get("ref"), obj.get("channel")
    if not isinstance(channel, str):
        channel = None
    else:
        try:
            parse_channel(channel)
        except ProtocolError:
            channel = None
    return FrameError(error, ref if _is_ref(ref) else None, channel, is_publish=obj.get("type") == "publish")


def _salvaged(text: str) -> object:
    """The frame as a laxer reader sees it, to find the ref and the channel beside a NaN or a lone surrogate.

    Only those two are used, and both are checked. What is no JSON at all, or too deep, gives None.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _types() -> str:
    return "one of " + ", ".join(f'"{name}"' for name in _FIELDS)


def _clipped(text: str) -> str:
    shown = text if len(text) <= 40 else text[:40] + "…"
    return shown.encode("utf-8", "replace").decode()


def _describe(value: object) -> str:
    """What this is, in words that never quote more than a number."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}" if abs(value) < 2**64 else "a number out of range"
        case str():
            return "a string" if value else "an empty string"
        case list():
            return "an array"
        case _:
            return "an object"
