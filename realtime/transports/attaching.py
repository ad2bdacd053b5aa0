"""What a request over HTTP wants to follow, and what comes of it.

The list comes in the query (`attach=<channel>[,<position>]`, any number of times), in a JSON body, or in a ticket. Each
entry becomes an `attach` frame for the connection's session, with a window of 0: the socket alone paces a response, and
the client keeps its positions itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from realtime.conf import settings
from realtime.connection import Connection
from realtime.protocol import events
from realtime.protocol.codec import decode, encode
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import MAX_INTEGER, ChannelName
from realtime.transports.links import HttpLink

ABSENT = object()
PASSED_ON = ("presence", "delta")

_READER = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Entering(NamedTuple):
    """That the client is present in a channel while the request is read."""

    reader: str
    """Its own name for what is carried by one request after the other: random, one for each page."""
    data: object
    at: int | None
    """When it said so first, in Unix milliseconds of the server; None: now."""


@dataclass(slots=True)
class Wanted:
    """One channel to attach to. `position` is what `from` of the frame says, ABSENT for the head."""

    channel: str
    position: object = ABSENT
    more: dict[str, object] = field(default_factory=dict)
    """Fields of `attach` that are passed on, and `enter`."""
    members_mark: str = ""
    """What the client knows of the members, by the last sync of a poll."""

    @property
    def entering(self) -> Entering | None:
        return parse_entering(self.more["enter"]) if "enter" in self.more else None

    @property
    def is_begun(self) -> bool:
        """A poll need not tell it anything but news: where it begins is known, and that it has entered."""
        return self.at_position and (self.entering is None or self.entering.at is not None)

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
        more = {name: value for name, value in self.more.items() if name != "enter"}
        return encode({"type": "attach", "ref": ref, "channel": self.channel, **position, "window": 0, **more})


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
    mark = more.get("presence")
    if isinstance(mark, str):
        more["presence"] = True
    if entry.get("enter") is not None:
        parse_entering(entry["enter"])
        more["enter"] = entry["enter"]
    return Wanted(entry["channel"], entry.get("from", ABSENT), more, mark if isinstance(mark, str) else "")


def parse_entering(value: object) -> Entering:
    """`enter` of an entry: `{"reader":…,"data":…,"at":…}`."""
    at = value.get("at") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not (at is None or (type(at) is int and 0 <= at <= MAX_INTEGER)):
        raise ProtocolError(
            "bad_frame", "`enter` of an entry cannot be read.", remedy='Send {"reader":…,"data":…}, and `at` as told.'
        )
    return Entering(checked_reader(value.get("reader")), value.get("data"), at)


def checked_reader(name: object) -> str:
    """ProtocolError `bad_frame` for what is none."""
    if not isinstance(name, str) or not _READER.fullmatch(name):
        raise ProtocolError(
            "bad_frame", "`reader` is wrong or missing.", remedy="Send 8 to 64 random characters of A-Z a-z 0-9 _ -."
        )
    return name


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


def _nothing() -> None:
    """For a callback that nobody set."""


class Answers:
    """Waits until every channel of a list is attached or refused, and entered where that was wanted."""

    def __init__(self, connection: Connection, link: HttpLink, wanted: Sequence[Wanted]) -> None:
        self._missing = set(range(len(wanted)))
        self._entering = {ref: each.entering for ref, each in enumerate(wanted) if each.entering is not None}
        self._channels = [each.channel for each in wanted]
        self._connection = connection
        self._link = link
        self.attached = 0
        self.first_error: dict[str, object] | None = None
        self.on_all: Callable[[], None] = _nothing
        """Called when all are answered."""
        self._follows_none = not wanted
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
            self.attached += frame["type"] == "attached"
            entering = self._entering.get(ref)
            if frame["type"] == "attached" and entering is not None:
                # Behind the frame that says so.
                asyncio.get_running_loop().call_soon(self._enter, ref, entering)
            else:
                self._answered(ref)

    def _answered(self, ref: int) -> None:
        self._missing.discard(ref)
        if not self._missing:
            self.on_all()

    def _enter(self, ref: int, entering: Entering) -> None:
        self._connection.reader = entering.reader
        done = partial(self._entered, ref, entering)
        self._connection.enter_by_list(ChannelName(self._channels[ref]), entering.data, entering.at, done)

    def _entered(self, ref: int, entering: Entering, error: ProtocolError | None, at: int) -> None:
        frame: dict[str, object] | None = None
        if error is not None:
            frame = {**error.frame(None), "channel": self._channels[ref], "action": "enter"}
        elif entering.at is None or self._connection.transport != "poll":
            # A poll that repeats it waits for news, and this is none.
            frame = {"type": "ok", "channel": self._channels[ref], "action": "enter", "at": at}
        if frame is not None and self._link.closed is None:
            self._link.write(self._link.encoding.encode([encode(frame)]))
        self._answered(ref)

    @property
    def complete(self) -> bool:
        return not self._missing

    async def wait(self) -> None:
        """Returns when all are answered, or the connection has ended."""
        answered = asyncio.Event()
        self.on_all = answered.set
        if self.complete:
            answered.set()
        waits = [asyncio.ensure_future(answered.wait()), asyncio.ensure_future(self._link.ended.wait())]
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
