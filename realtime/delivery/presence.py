"""Who is a member of a channel: what one worker contributes, what all contribute together, and what followers are told.

Pure. A worker's own part (`Membership`) is written as rows that all can read; the members of a channel are the merge
of the rows of all workers that live (`merge`); a `View` turns two readings of them, one after the other, into events.
So an event is never carried anywhere, and none can be lost: whoever reads later reads everything. See
docs/explanation/presence.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Raw

from realtime.protocol.names import ChannelName

LISTED_MOST: Final = 200
"""Members that followers are told by name; above it they hear a number (docs/reference/protocol.md#presence)."""

PAGE_MEMBERS: Final = 100
"""Members in one frame of a sync: with the largest data still less than half of a frame."""

COUNT_EVERY_S: Final = 1.0
"""A number is told once in this time."""

GRACE_S: Final = 10.0
"""How long a client whose connection broke stays a member."""

LEFT_MOST: Final = 10_000
"""Connections remembered that have left; of more, a request on its way may bring one back until the grace is over."""

Frame = dict[str, object]
"""A presence frame without `type` and `channel`."""


class Key(NamedTuple):
    """One client in one channel."""

    channel: ChannelName
    client: str


class Row(NamedTuple):
    """What one worker says of a client in a channel."""

    client: str
    connections: int
    data: str
    """JSON text."""
    at: int
    """When the data was set, in Unix milliseconds; of several the last one holds."""
    since: int


class Member(NamedTuple):
    """A client, whatever its connections are connected to."""

    client: str
    connections: int
    """0 where all of them broke a moment ago."""
    data: str
    at: int
    since: int


def merge(rows: Iterable[Row]) -> dict[str, Member]:
    """One member for each client: connections add up, the newest data holds, the earliest entry counts."""
    members: dict[str, Member] = {}
    # Sorted, so that every worker makes the same of the same rows, whatever their order.
    for row in sorted(rows, key=lambda row: (row.at, row.data)):
        before = members.pop(row.client, None)
        connections, since = (0, row.since) if before is None else (before.connections, before.since)
        members[row.client] = Member(row.client, connections + row.connections, row.data, row.at, min(since, row.since))
    return members


class _Own:
    __slots__ = ("at", "connections", "data", "lingers_until", "since")

    def __init__(self, since: int) -> None:
        self.connections: set[str] = set()
        self.data = "null"
        self.at = 0
        self.since = since
        self.lingers_until: float | None = None


class Membership:
    """One worker's own part: which of its connections entered what, and who dropped a moment ago."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._own: dict[Key, _Own] = {}
        self._carried: dict[tuple[Key, str], tuple[str, float]] = {}
        """Of connections that are one request after the other: which one carries them, and until when they count
        without one."""
        self._left: dict[tuple[Key, str], float] = {}
        """Which of those have left, and until when a request that was on its way may say otherwise."""
        self.dirty: dict[Key, None] = {}
        """Of whom the row that is written is not what it should be, first changed first."""

    def __len__(self) -> int:
        return len(self._own)

    def __contains__(self, key: Key) -> bool:
        return key in self._own

    def enter(self, key: Key, connection: str, data: str, time_ms: int, known: Member | None = None) -> int:
        """The client is a member by this connection, with this data. `known`: as who it is seen already. Gives the
        time of the data, by which it can be said again (`enter_again`)."""
        own = self._own.get(key)
        if own is None:
            own = self._own[key] = _Own(time_ms if known is None else known.since)
        own.connections.add(connection)
        self._left.pop((key, connection), None)
        own.lingers_until = None
        if own.data != data or not own.at:
            # Later than what is known, even where another worker's clock is ahead of ours.
            own.at = max(time_ms, own.at + 1, 0 if known is None else known.at + 1)
            own.data = data
        self.dirty[key] = None
        return own.at

    def enter_again(self, key: Key, connection: str, data: str, at: int, known: Member | None = None) -> bool:
        """What a client repeats that entered by `at`, perhaps at another worker: data that was set later stays. False:
        it is so already, and nothing is to be written."""
        own = self._own.get(key)
        if (key, connection) in self._left or (own is not None and connection in own.connections and own.at >= at):
            return False
        if own is None:
            own = self._own[key] = _Own(at if known is None else min(at, known.since))
        own.connections.add(connection)
        own.lingers_until = None
        if at > own.at:
            own.at, own.data = at, data
        self.dirty[key] = None
        return True

    def leave(self, key: Key, connection: str) -> bool:
        """The client leaves by this connection; False: it was not there."""
        own = self._own.get(key)
        if own is None or connection not in own.connections:
            return False
        own.connections.discard(connection)
        self._carried.pop((key, connection), None)
        if not own.connections and own.lingers_until is None:
            del self._own[key]
        self.dirty[key] = None
        return True

    def carry(self, key: Key, connection: str, request: str) -> None:
        """A request carries the connection, if that has entered."""
        own = self._own.get(key)
        if own is not None and connection in own.connections:
            self._carried[key, connection] = (request, math.inf)

    def leave_for_good(self, key: Key, connection: str, now: float) -> bool:
        """As `leave`, by a connection of requests, of which some that repeat the opposite may be on their way."""
        if len(self._left) < LEFT_MOST:
            self._left[key, connection] = now + self._grace_s
        return self.leave(key, connection)

    def release(self, key: Key, connection: str, request: str, now: float) -> None:
        """The request is over. If no other carries the connection it counts as it is for the grace, and nothing is
        written: the next one may come any moment."""
        if self._carried.get((key, connection), ("",))[0] == request:
            self._carried[key, connection] = (request, now + self._grace_s)

    def drop(self, key: Key, connection: str, now: float) -> None:
        """The connection broke: the client has some time to be back, here or at another worker."""
        own = self._own.get(key)
        if own is not None and connection in own.connections:
            own.connections.discard(connection)
            own.lingers_until = now + self._grace_s
            self.dirty[key] = None

    def expire(self, now: float) -> None:
        """Takes out who did not come back in time."""
        for key, connection in [each for each, (_, until) in self._carried.items() if until <= now]:
            # It had its grace.
            del self._carried[key, connection]
            self.leave(key, connection)
        for entry in [each for each, until in self._left.items() if until <= now]:
            del self._left[entry]
        late = [key for key, own in self._own.items() if own.lingers_until is not None and own.lingers_until <= now]
        for key in late:
            own = self._own[key]
            own.lingers_until = None
            if not own.connections:
                del self._own[key]
                self.dirty[key] = None

    def forget(self, key: Key) -> None:
        """The client was not let in after all."""
        self._own.pop(key, None)
        self.dirty.pop(key, None)

    def row(self, key: Key) -> Row | None:
        """What should be written of the client; None: nothing."""
        own = self._own.get(key)
        return None if own is None else Row(key.client, len(own.connections), own.data, own.at, own.since)

    def rewrite(self) -> None:
        """Everything is to be written again: others took this worker for dead and removed its rows."""
        self.dirty.update(dict.fromkeys(self._own))


class View:
    """The members of one channel as the followers on one worker are told of them."""

    def __init__(self) -> None:
        self.members: Mapping[str, Member] | None = None
        """None: unknown, or too many for a list."""
        self.count: int | None = None
        """None: unknown."""
        self.revision = 0
        self.pending = False
        """What was read last is not told yet: read again in a moment."""
        self._counted_at: float | None = None
        self._mark: str | None = None

    @property
    def known(self) -> bool:
        return self.count is not None

    @property
    def mark(self) -> str:
        """Tells whether somebody knows these members already, at whichever worker he learnt them."""
        if self._mark is None:
            told = {} if self.members is None else {client: each.data for client, each in self.members.items()}
            text = str(self.count) if self.members is None else repr(sorted(told.items()))
            self._mark = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._mark

    def apply(self, members: Mapping[str, Member] | None, count: int, now: float) -> list[Frame]:
        """Takes a later reading (`members` None: more than a list takes); what to tell those who have a sync."""
        before, known = self.members, self.known
        self._mark = None
        if before is not None and members is not None:
            self.members, self.count = members, count
            return self._events(before, members)
        self.pending = self._counted_at is not None and now - self._counted_at < COUNT_EVERY_S
        if self.pending:
            return []
        changed = self.count != count or before is not None or members is not None
        self.members, self.count = members, count
        if members is None and changed:
            self._counted_at = now
        return self.sync() if known and changed else []

    def sync(self) -> list[Frame]:
        """What a new follower is told: a list in pages, or a number."""
        if self.members is None:
            return [{"action": "count", "count": self.count or 0}]
        members = list(self.members.values())
        pages: Sequence[Sequence[Member]] = [
            members[start : start + PAGE_MEMBERS] for start in range(0, len(members), PAGE_MEMBERS)
        ] or [[]]
        return [
            {
                "action": "sync",
                "revision": self.revision,
                "members": [_shown(member) for member in page],
                "more": number < len(pages),
            }
            for number, page in enumerate(pages, 1)
        ]

    def _events(self, before: Mapping[str, Member], after: Mapping[str, Member]) -> list[Frame]:
        frames: list[Frame] = []
        for client in before:
            if client not in after:
                frames.append({"action": "leave", "revision": self._next(), "client": client})
        for client, member in after.items():
            known = before.get(client)
            if known is None or known.data != member.data:
                action = "enter" if known is None else "update"
                frames.append({"action": action, "revision": self._next(), **_shown(member)})
        return frames

    def _next(self) -> int:
        self.revision += 1
        return self.revision


def _shown(member: Member) -> dict[str, object]:
    return {
        "client": member.client,
        "connections": member.connections,
        "data": Raw(member.data.encode()),
        "since": member.since,
    }
