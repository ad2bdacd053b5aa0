"""Positions and the forms of `from` (docs/reference/protocol.md#positions). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from seriatim_client.errors import SeriatimError
from seriatim_client.names import is_cursor_name, is_epoch

_SERIAL_END: Final = 2**53


@dataclass(frozen=True, slots=True)
class Position:
    """Everything through `serial` of the log `epoch` is behind the subscriber.

    `epoch` is None, and `serial` 0, in a channel never published to. As text: `EPOCH.SERIAL`.
    """

    epoch: str | None
    serial: int

    def __str__(self) -> str:
        return "start" if self.epoch is None else f"{self.epoch}.{self.serial}"


@dataclass(frozen=True, slots=True)
class Rewind:
    """The last `count` messages that are retained, then what is new."""

    count: int


@dataclass(frozen=True, slots=True)
class Since:
    """From the first message whose time is not before `time_ms` (Unix milliseconds)."""

    time_ms: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position that the server keeps for this client under `name`."""

    name: str


From = Literal["head", "start", "latest"] | Position | Rewind | Since | Cursor
"""Where delivery starts."""

FromArgument = From | str | Mapping[str, Any]
"""What is accepted for it: also the wire's own forms, as `{"rewind": 50}`."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _SERIAL_END


def _is_position(epoch: object, serial: object) -> bool:
    return _is_count(serial) and (serial == 0 if epoch is None else is_epoch(epoch))


def check_from(value: object) -> From:
    """`value` as a form of `from`; `bad_position` for anything else, two forms at once too."""
    if value == "head" or value == "start" or value == "latest":
        return value
    match value:
        case Rewind(count) if _is_count(count):
            return value
        case Since(time_ms) if _is_count(time_ms):
            return value
        case Cursor(name) if is_cursor_name(name):
            return value
        case Position(epoch, serial) if _is_position(epoch, serial):
            return value
        case Mapping():
            given = [name for name in ("rewind", "since", "cursor") if name in value]
            if "epoch" in value or "serial" in value:
                given.append("serial")
            if given == ["rewind"] and _is_count(value["rewind"]):
                return Rewind(value["rewind"])
            if given == ["since"] and _is_count(value["since"]):
                return Since(value["since"])
            if given == ["cursor"] and is_cursor_name(value["cursor"]):
                return Cursor(value["cursor"])
            if given == ["serial"] and "epoch" in value and _is_position(value["epoch"], value.get("serial")):
                return Position(value["epoch"], value["serial"])
    raise SeriatimError(
        "bad_position",
        f"{value!r} is not a position to attach from.",
        remedy='Use "head", "start", "latest", Rewind(…), Since(…), Cursor(…) or Position(epoch, serial).',
    )


def parse_from(text: str) -> From:
    """The text form, as commands take it: `head`, `start`, `latest`, `rewind:N`, `since:MS`, `cursor:NAME`, or
    `EPOCH.SERIAL`."""
    form, colon, rest = text.partition(":")
    if colon and form == "cursor":
        return check_from(Cursor(rest))
    if colon and form in ("rewind", "since") and rest.isascii() and rest.isdigit():
        return check_from(Rewind(int(rest)) if form == "rewind" else Since(int(rest)))
    epoch, point, serial = text.rpartition(".")
    if point and serial.isascii() and serial.isdigit() and len(serial) <= 16:
        return check_from(Position(epoch, int(serial)))
    return check_from(text)


def wire_from(value: From) -> object:
    """What stands in the `attach` frame."""
    match value:
        case Position(epoch, serial):
            return {"epoch": epoch, "serial": serial}
        case Rewind(count):
            return {"rewind": count}
        case Since(time_ms):
            return {"since": time_ms}
        case Cursor(name):
            return {"cursor": name}
        case _:
            return value
