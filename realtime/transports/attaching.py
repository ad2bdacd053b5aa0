"""What a request over HTTP wants to follow, and what comes of it.

The list comes in the query (`attach=<channel>[,<position>]`, any number of times), in a JSON body, or in a ticket. Each
entry becomes an `attach` frame for the connection's session, with a window of 0: the socket alone paces a response, and
the client keeps its positions itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from realtime.conf import settings
from realtime.connection import Connection
from realtime.protocol import events
from realtime.protocol.codec import decode, encode
from realtime.protocol.errors import ProtocolError
from realtime.transports.links import HttpLink

ABSENT = object()
PASSED_ON = ("presence", "delta")


@dataclass(slots=True)
class Wanted:
    """One channel to attach to. `position` is what `from` of the frame says, ABSENT for the head."""

    channel: str
    position: object = ABSENT
    more: dict[str, object] = field(default_factory=dict)

    @property
    def at_position(self) -> bool:
        """Resumed: the client knows where it is."""
        return isinstance(self.position, Mapping) and "serial" in self.position

    @property
    def epoch(self) -> object:
        """Of the log in which it is at a position."""
        return self.position.get("epoch") if isinstance(self.position, Mapping) else None

    def frame(self, ref: int) -> str:
        """The `attach` frame."""
        position = {} if self.position is ABSENT else {"from": self.position}
        return encode({"type": "attach", "ref": ref, "channel": self.channel, **position, "window": 0, **self.more})


def in_query(query: Mapping[str, Sequence[str]]) -> list[Wanted]:
    """The list of a query; `from` stands for entries without a position of their own."""
    default = parse_from(query["from"][-1]) if "from" in query else ABSENT
    found = []
    for entry in query.get("attach", ()):
        channel, comma, position = entry.partition(",")
        found.append(Wanted(channel, parse_from(position) if comma else default))
    return checked(found)


def parse_from(text: str) -> object:
    return events.parse_from(text)


def in_body(body: object) -> list[Wanted]:
    """The list of `attach` in a JSON body: objects with the fields of an `attach` frame."""
    entries = body.get("attach") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        raise ProtocolError("bad_frame", "`attach` is no array.", remedy='Send {"attach":[{"channel":…,"from":…}, …]}.')
    # An empty list is for a client that wants to know who it is before it follows anything.
    return checked([_in_object(entry) for entry in entries]) if entries else []


def _in_object(entry: object) -> Wanted:
    if isinstance(entry, str):
        return Wanted(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("channel"), str):
        raise ProtocolError("bad_frame", "An entry of `attach` has no channel.", remedy='Send {"channel":…,"from":…}.')
    more = {name: entry[name] for name in PASSED_ON if name in entry}
    return Wanted(entry["channel"], entry.get("from", ABSENT), more)


def checked(found: list[Wanted]) -> list[Wanted]:
    """The list, where it is one: not empty, not too long, no channel twice."""
    if not found:
        raise ProtocolError(
            "bad_frame", "There is no channel to follow.", remedy="Say `attach=<channel>` for each channel."
        )
    if len(found) > settings.MAX_ATTACHMENTS:
        raise ProtocolError(
            "limit_exceeded",
            f"One request may follow {settings.MAX_ATTACHMENTS} channels.",
            remedy="Follow fewer, or open another stream.",
        )
    if len({each.channel for each in found}) < len(found):
        raise ProtocolError("bad_frame", "A channel is in the list twice.", remedy="Name each channel once.")
    return found


def mark_of(wanted: Sequence[Wanted]) -> str:
    """Tells lists of channels apart: an id of one means nothing in another."""
    return hashlib.sha256(",".join([each.channel for each in wanted]).encode()).hexdigest()[:8]


def read_json(body: bytes) -> object:
    """The JSON of a body, as strictly as a frame's."""
    return decode(body)


class Answers:
    """Waits until every channel of a list is attached or refused."""

    def __init__(self, connection: Connection, link: HttpLink, wanted: Sequence[Wanted]) -> None:
        self._missing = set(range(len(wanted)))
        self._connection = connection
        self._link = link
        self.attached = 0
        self.first_error: dict[str, object] | None = None
        self._all = asyncio.Event()
        self._follows_none = not wanted
        if self._follows_none:
            self._all.set()
        link.on_answer = self._answer

    def _answer(self, frame: dict[str, object]) -> None:
        if frame["type"] == "error" and self.first_error is None:
            self.first_error = frame
        if frame["type"] == "detached":
            self.attached -= 1
            if not self.attached and not self._missing:
                # Nothing can come any more. Behind the frame that says so.
                asyncio.get_running_loop().call_soon(self._connection.end, 1000, "nothing is attached")
        ref = frame.get("ref")
        if ref in self._missing:
            assert isinstance(ref, int)
            self._missing.discard(ref)
            self.attached += frame["type"] == "attached"
            if not self._missing:
                self._all.set()

    async def wait(self) -> None:
        """Returns when all are answered, or the connection has ended."""
        waits = [asyncio.ensure_future(self._all.wait()), asyncio.ensure_future(self._link.ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def refusal(self) -> ProtocolError | None:
        """Why there is nothing to stream; None where at least one channel is attached."""
        if (self.attached or self._follows_none) and self._link.closed is None:
            return None
        if self.first_error is not None:
            return error_of(self.first_error)
        return ProtocolError("unavailable", "The worker is leaving.", remedy="Ask again: another one answers.")


def attach_all(connection: Connection, wanted: Sequence[Wanted]) -> None:
    for ref, each in enumerate(wanted):
        connection.receive_text(each.frame(ref))


def error_of(frame: Mapping[str, object]) -> ProtocolError:
    """The error that a frame tells."""

    def text(name: str) -> str | None:
        value = frame.get(name)
        return value if isinstance(value, str) else None

    retry = frame.get("retry_after_ms")
    return ProtocolError(
        str(frame["code"]),
        text("message"),
        remedy=text("remedy"),
        channel=text("channel"),
        retry_after_ms=retry if isinstance(retry, int) else None,
    )
