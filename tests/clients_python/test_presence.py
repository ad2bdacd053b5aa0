"""Members put together from a sync and the events after it; no socket, no clock."""

from __future__ import annotations

import json
from typing import Any

from seriatim_client.frames import PresenceFrame, parse_frame
from seriatim_client.presence import PresenceMembers


def frame(action: str, revision: int = 0, **fields: Any) -> PresenceFrame:
    found = parse_frame(
        json.dumps({"type": "presence", "channel": "a", "action": action, "revision": revision, **fields})
    )
    assert isinstance(found, PresenceFrame)
    return found


def test_members_are_put_together() -> None:
    known = PresenceMembers()
    ana = {"client": "ana", "connections": 1, "data": None, "since": 1}
    assert known.apply(frame("enter", 3, client="early")) == "ignored"
    assert known.apply(frame("sync", 7, members=[ana], more=True)) == "ignored"
    assert known.apply(frame("sync", 7, members=[{**ana, "client": "bo"}], more=False)) == "changed"
    before = known.members
    assert list(before) == ["ana", "bo"]
    assert known.apply(frame("leave", 8, client="bo")) == "changed"
    assert known.apply(frame("leave", 8, client="ana")) == "ignored"
    assert known.apply(frame("update", 9, client="ana", data=5, since=4)) == "changed"
    assert (known.members["ana"].data, known.members["ana"].since) == (5, 1)
    assert list(before) == ["ana", "bo"], "who has looked keeps what it saw"
    assert known.apply(frame("enter", 11, client="cy")) == "gap"
    assert known.apply(frame("enter", 12, client="cy")) == "ignored", "until there is a sync again"


def test_a_crowd_is_a_number() -> None:
    known = PresenceMembers()
    known.apply(frame("sync", 1, members=[], more=False))
    assert known.apply(frame("count", count=812)) == "changed"
    assert (known.count, known.members) == (812, {})
    assert known.apply(frame("sync", 1, members=[{"client": "ana"}], more=False)) == "changed"
    assert known.count == 1


def test_what_is_malformed_is_ignored() -> None:
    for text in (
        '{"type":"presence","channel":"a","action":"sync","revision":1,"members":7}',
        '{"type":"presence","channel":"a","action":"sync","revision":1,"members":[7]}',
        '{"type":"presence","channel":"a","action":"enter","revision":1}',
        '{"type":"presence","channel":"a","action":"dance","revision":1}',
        '{"type":"presence","channel":"a","action":"count"}',
    ):
        assert parse_frame(text) is None, text
