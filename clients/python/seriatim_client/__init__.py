"""The Python client of Seriatim: realtime channels in which nothing is lost, doubled or out of order.

Reference: docs/reference/sdk-python.md.
"""

from __future__ import annotations

from seriatim_client.backoff import BackoffOptions
from seriatim_client.client import Channel, Client, Presence
from seriatim_client.codes import CLOSES, ERRORS, LOCAL_ERRORS
from seriatim_client.effects import Recovered
from seriatim_client.errors import SeriatimError
from seriatim_client.frames import Announcement, Attached, Member, Ready, Signal
from seriatim_client.line_state import Line, State
from seriatim_client.messages import HistoryPage, Message, Published, SkippedRange, Snapshot
from seriatim_client.outbox import OutboxLimits, Unsent
from seriatim_client.positions import Cursor, Position, Rewind, Since, parse_from
from seriatim_client.rest import AsyncRest, Draft, IssuedToken, Rest
from seriatim_client.sync import SyncChannel, SyncClient, SyncPresence

__all__ = [
    "Client",
    "Channel",
    "SyncClient",
    "SyncChannel",
    "Presence",
    "SyncPresence",
    "Member",
    "Rest",
    "AsyncRest",
    "Draft",
    "IssuedToken",
    "Message",
    "Published",
    "HistoryPage",
    "SkippedRange",
    "Snapshot",
    "Signal",
    "Announcement",
    "Position",
    "Rewind",
    "Since",
    "Cursor",
    "parse_from",
    "State",
    "Line",
    "Recovered",
    "Unsent",
    "Ready",
    "Attached",
    "BackoffOptions",
    "OutboxLimits",
    "SeriatimError",
    "ERRORS",
    "LOCAL_ERRORS",
    "CLOSES",
]

__version__ = "0.1.0"
