"""Frames as Server-Sent Events, and positions as text: in ids, in queries, in `Last-Event-ID`.

Pure. Specification: docs/reference/protocol.md#server-sent-events.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, cast

from realtime.protocol.codec import decode
from realtime.protocol.errors import ProtocolError

SNAPSHOT_END: Final = ',"snapshot":true}'
"""How a message of a snapshot ends: such a message has no place in the order, so its event has no id."""

_TYPE_AT: Final = len('{"type":"')
_SERIAL: Final = '"serial":'
_POSITION: Final = re.compile(r"([A-Za-z0-9_-]{4,32})?\.([0-9]{1,16})")
_WORDS: Final = ("head", "start", "latest")
_COUNTED: Final = re.compile(r"(rewind|since):([0-9]{1,16})")

NAMES: Final = {"error": "refused"}
"""Types whose event is called otherwise: `error` is what a browser calls a broken connection."""


def type_of(frame: str) -> str:
    """The type of a frame that the server made, where `type` always comes first."""
    return frame[_TYPE_AT : frame.index('"', _TYPE_AT)]


def serial_of(message: str) -> int:
    """The serial of a `message` frame; before it there are only the type and the channel, which have no quotes."""
    start = message.index(_SERIAL) + len(_SERIAL)
    return int(message[start : message.index(",", start)])


def event(kind: str, frame: str, event_id: str | None = None) -> str:
    """One event. A frame has no line feeds: JSON writes them escaped."""
    named = NAMES.get(kind, kind)
    if event_id is None:
        return f"event: {named}\ndata: {frame}\n\n"
    return f"event: {named}\nid: {event_id}\ndata: {frame}\n\n"


def position_text(epoch: str | None, serial: int) -> str:
    """A position in a channel; one that was never published to has no epoch: `.0`."""
    return f"{epoch or ''}.{serial}"


def moved_to(kind: str, frame: str, epoch: str | None) -> tuple[str | None, int] | None:
    """The position behind a frame of a channel that is in `epoch`; None where the frame moves nothing."""
    if kind == "message":
        return None if frame.endswith(SNAPSHOT_END) else (epoch, serial_of(frame))
    if kind == "skipped":
        fields = cast("dict[str, object]", decode(frame))
        return None if fields["to"] is None else (cast("str | None", fields["epoch"]), cast("int", fields["to"]))
    return None


def parse_from(text: str) -> object:
    """What `from` of an `attach` frame would be for a position in a query. What is none stays as it is: it is refused
    where every position is, and only for those who may attach."""
    if text in _WORDS:
        return text
    position = _POSITION.fullmatch(text)
    if position is not None:
        return {"epoch": position[1], "serial": int(position[2])}
    counted = _COUNTED.fullmatch(text)
    if counted is not None:
        return {counted[1]: int(counted[2])}
    return text[:100]


def join_ids(mark: str, positions: Sequence[str | None]) -> str:
    """The id of an event of many channels: `mark` of their list, then their positions in its order; one that has none
    yet is empty."""
    return f"{mark}:{','.join(['' if each is None else each for each in positions])}"


def split_ids(text: str, mark: str, count: int) -> list[str | None]:
    """The positions of such an id. ProtocolError `bad_position` where it belongs to another list."""
    given, colon, positions = text.partition(":")
    found = positions.split(",")
    if not colon or given != mark or len(found) != count:
        raise ProtocolError(
            "bad_position",
            "Last-Event-ID is not of this list of channels.",
            remedy="Open a new EventSource, without an id of an earlier one.",
        )
    return [each or None for each in found]
