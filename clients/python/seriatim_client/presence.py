"""Who is in a channel, put together from a sync and the events after it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from seriatim_client.frames import Member, PresenceFrame

PresenceAction = Literal["enter", "update", "leave"]
Outcome = Literal["changed", "ignored", "gap"]


class PresenceMembers:
    """Members by client id. Read-only for everybody but `apply` and `forget`."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        """What is known last; stays, as past, while there is no line."""
        self._count: int | None = None
        self._revision = 0
        self._pages: dict[str, Member] | None = None
        """Of a sync that is not complete."""
        self._is_known: bool = False

    @property
    def count(self) -> int:
        """How many members: also when there are too many for a list."""
        return len(self.members) if self._count is None else self._count

    def forget(self) -> None:
        """The attachment ended: nothing is known until the next sync."""
        self._is_known = False
        self._pages = None

    def apply(self, frame: PresenceFrame) -> Outcome:
        """`gap`: an event is missing, so a new sync is needed."""
        if frame.action == "count":
            self._count, self.members, self._is_known = frame.count, {}, False
            return "changed"
        if frame.action == "sync":
            if self._pages is None:
                self._pages = {}
            self._pages.update({member.client: member for member in frame.members})
            if frame.more:
                return "ignored"
            self.members, self._pages, self._count = self._pages, None, None
            self._revision, self._is_known = frame.revision, True
            return "changed"
        if not self._is_known or frame.revision <= self._revision:
            return "ignored"
        if frame.revision != self._revision + 1:
            self.forget()
            return "gap"
        self._revision = frame.revision
        # A copy: whoever has looked at the members keeps what it saw.
        members = dict(self.members)
        (member,) = frame.members
        if frame.action == "leave":
            members.pop(member.client, None)
        else:
            before = members.get(member.client)
            members[member.client] = member if before is None else replace(member, since=before.since)
        self.members = members
        return "changed"
