"""What the core asks of its shell. Pure.

`try_number` says for which connection; the shell gives it back with every input about it, and what belongs to an older
one is void. `handle` is what the shell gave with a request, opaque to the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seriatim_client.errors import SeriatimError
from seriatim_client.frames import Attached, PresenceFrame, Ready, Signal
from seriatim_client.line_state import State
from seriatim_client.transport_choice import TransportName

TokenReason = Literal["connect", "expiring", "unauthorized"]


@dataclass(frozen=True, slots=True)
class FetchToken:
    """Ask the application for a token, then say `token_given` or `token_failed`."""

    try_number: int
    reason: TokenReason


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a connection, then say `opened` or `refused`; later `received` and, once, `lost`."""

    try_number: int
    token: str | None
    """For the header `Authorization`; None when there is none or it travels in a frame."""
    transport: TransportName


@dataclass(frozen=True, slots=True)
class TryBest:
    """See whether a WebSocket gets through by now, then say `best_tried`."""

    try_number: int
    token: str | None


@dataclass(frozen=True, slots=True)
class Send:
    """Send a text frame behind those before it. What cannot be sent any more is dropped."""

    try_number: int
    text: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the connection behind what was sent; nothing more is to be said about it."""

    try_number: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """A request is answered."""

    handle: object
    value: object


@dataclass(frozen=True, slots=True)
class Fail:
    """A request is refused, or can never be answered."""

    handle: object
    error: SeriatimError


@dataclass(frozen=True, slots=True)
class Wake:
    """`next_step` of the channel may give something."""

    channel: str


@dataclass(frozen=True, slots=True)
class End:
    """The channel is not followed any more: loops end, by `error` when there is one."""

    channel: str
    reason: str
    error: SeriatimError | None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was made good after the line had been away: messages received, own ones stored, serials not to be had."""

    away_ms: float
    received: int
    sent: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Report:
    """Something went wrong that the client mends itself, or that belongs to no call."""

    error: SeriatimError
    channel: str | None = None


Notice = State | Ready | Attached | Signal | PresenceFrame | Recovered | Report
"""For whoever listens."""


@dataclass(frozen=True, slots=True)
class Tell:
    notice: Notice


@dataclass(frozen=True, slots=True)
class RoomMade:
    """Something left the outbox."""


Effect = FetchToken | Dial | TryBest | Send | Hangup | Settle | Fail | Wake | End | Tell | RoomMade
