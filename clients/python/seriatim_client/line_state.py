"""The states of the line, and which may follow which. Pure.

The names are those of the JavaScript SDK; docs/reference/sdk-python.md says what each means.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Line(StrEnum):
    """What the connection to the server is doing."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    LIVE = "live"
    CATCHING_UP = "catching_up"
    SLOW = "slow"
    MOVING = "moving"
    OFFLINE = "offline"
    WAITING = "waiting"
    SIGNED_OUT = "signed_out"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class State:
    """The state of the line, with its reason. Times are Unix milliseconds.

    `since_ms`: while offline, of the last sign of life. `attempt`: tries since the last good connection, 0 while
    connected. `next_try_at_ms`: when the next one begins by itself. `lost_at_ms`: when the line was lost, until it is
    live again. `code`: the close code that led here.
    """

    name: Line
    since_ms: float
    attempt: int = 0
    next_try_at_ms: float | None = None
    lost_at_ms: float | None = None
    reason: str = ""
    code: int | None = None


UP: Final = frozenset({Line.LIVE, Line.CATCHING_UP, Line.SLOW})
GIVEN_UP: Final = frozenset({Line.CLOSED, Line.SIGNED_OUT, Line.STOPPED})
"""Only `connect` leads out of these."""

_END: Final = frozenset({Line.OFFLINE, Line.WAITING, Line.SIGNED_OUT, Line.STOPPED, Line.CLOSED})

TRANSITIONS: Final[dict[Line, frozenset[Line]]] = {
    Line.CLOSED: frozenset({Line.CONNECTING}),
    Line.CONNECTING: frozenset({Line.CONNECTING, Line.MOVING}) | UP | _END,
    Line.LIVE: frozenset({Line.CATCHING_UP, Line.SLOW, Line.MOVING, Line.CONNECTING}) | _END,
    Line.CATCHING_UP: frozenset({Line.LIVE, Line.SLOW, Line.MOVING, Line.CONNECTING}) | _END,
    Line.SLOW: frozenset({Line.LIVE, Line.CATCHING_UP, Line.MOVING, Line.CONNECTING}) | _END,
    Line.MOVING: frozenset({Line.MOVING, Line.CONNECTING}) | _END,
    Line.OFFLINE: frozenset({Line.OFFLINE, Line.CONNECTING, Line.CLOSED}),
    Line.WAITING: frozenset({Line.WAITING, Line.CONNECTING, Line.CLOSED}),
    Line.SIGNED_OUT: frozenset({Line.CONNECTING, Line.CLOSED}),
    Line.STOPPED: frozenset({Line.CONNECTING, Line.CLOSED}),
}
