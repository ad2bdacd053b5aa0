"""Outgoing sides of connections over HTTP: a response body that goes on, in one of several formats.

A link sends from one task, so the server's flow control paces it: what is not sent waits in a bounded outbox, and over
the mark the link is congested, which makes the hub wait at a position. Nothing is sent before `begin`: until then the
shell can still refuse with a status.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol, cast
from weakref import WeakValueDictionary

from realtime.delivery.blocks import Encoding
from realtime.links import TEXTS
from realtime.protocol import events
from realtime.protocol.codec import encode

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]

CLOSE_S = 5.0
"""How long what was said last may take to go out before the connection is cut."""

FRAME_OVERHEAD_BYTES = 64
"""What a frame is counted for beside its text."""

RETRY_SPREAD_MS = 2000
"""Browsers that lose their stream come back at a random time within this and a second more, not all at once."""


def _nothing() -> None:
    """For callbacks nobody set."""


class BytesEncoding:
    """Frames as bytes of a body; what kinds of it share."""

    name = "bytes"

    def encode(self, frames: Sequence[str]) -> bytes:
        raise NotImplementedError

    def join(self, payloads: Sequence[bytes]) -> bytes:
        return payloads[0] if len(payloads) == 1 else b"".join(payloads)

    def ways(self, writers: Sequence[Callable[[bytes], None]]) -> Sequence[Callable[[bytes], None]]:
        return writers

    def write_all(self, ways: Sequence[Callable[[bytes], None]], payload: bytes) -> int:
        for write in ways:
            write(payload)
        return len(ways) * len(payload)


class LinesEncoding(BytesEncoding):
    """One frame a line (NDJSON)."""

    name = "lines"

    def encode(self, frames: Sequence[str]) -> bytes:
        return ("\n".join(frames) + "\n").encode()


class EventsEncoding(BytesEncoding):
    """Events of one channel, with its positions as ids: shared by all who follow it in the same epoch."""

    def __init__(self, epoch: str | None) -> None:
        self.name = f"events-{epoch}"
        self.epoch = epoch

    def encode(self, frames: Sequence[str]) -> bytes:
        return "".join([self._event(frame) for frame in frames]).encode()

    def _event(self, frame: str) -> str:
        kind = events.type_of(frame)
        position = events.moved_to(kind, frame, self.epoch)
        return events.event(kind, frame, None if position is None else events.position_text(*position))


LINES = LinesEncoding()
_events: WeakValueDictionary[str | None, EventsEncoding] = WeakValueDictionary()


def events_encoding(epoch: str | None) -> EventsEncoding:
    """One for each epoch that somebody follows."""
    found = _events.get(epoch)
    if found is None:
        found = _events[epoch] = EventsEncoding(epoch)
    return found


class Format(Protocol):
    """How one response says what its connection says."""

    media_type: bytes
    encoding: Encoding

    def opening(self) -> bytes:
        """What comes before everything."""
        ...

    def payload(self, payload: Any) -> bytes:
        """What the hub's encoding made."""
        ...

    def frame(self, frame: dict[str, object]) -> bytes:
        """A frame for this connection alone; nothing where it is not told here."""
        ...

    def closing(self, code: int, reason: str) -> bytes:
        """What comes last when the server ends it."""
        ...


class LinesFormat:
    """Frames as lines, `ready` first; the end is told as a frame `close`."""

    media_type = b"application/x-ndjson"

    def __init__(self) -> None:
        self.encoding: Encoding = LINES

    def opening(self) -> bytes:
        return b""

    def payload(self, payload: bytes) -> bytes:
        return payload

    def frame(self, frame: dict[str, object]) -> bytes:
        return encode(frame).encode() + b"\n"

    def closing(self, code: int, reason: str) -> bytes:
        return self.frame(close_frame(code, reason))


class EventsFormat:
    """Events of one channel. Only what concerns the channel is told: a browser's EventSource has nothing to answer."""

    media_type = b"text/event-stream"
    # What a browser's EventSource could not answer; and an announcement, a signal that is not the channel's.
    UNTOLD = frozenset({"ready", "authenticated", "auth.expiring", "signal"})

    def __init__(self) -> None:
        self.encoding: Encoding = events_encoding(None)
        self._serial = 0
        self._snapshot = False
        self._retry_ms: int | None = None

    def opening(self) -> bytes:
        return b"retry: %d\n\n" % (1000 + random.randrange(RETRY_SPREAD_MS))

    def payload(self, payload: Any) -> bytes:
        data: bytes = payload
        return data

    def frame(self, frame: dict[str, object]) -> bytes:
        kind = frame["type"]
        if kind == "heartbeat":
            return b": heartbeat\n\n"
        if kind == "reconnect":
            self._retry_ms = int(str(frame["after_ms"]))
            return b""
        if kind in self.UNTOLD:
            return b""
        frame = {name: value for name, value in frame.items() if name != "ref"}
        return events.event(str(kind), encode(frame), self._id_behind(str(kind), frame)).encode()

    def expect_snapshot(self, expected: bool) -> None:
        """The channel is attached from "latest": it has no position before the snapshot's end."""
        self._snapshot = expected

    def _id_behind(self, kind: str, frame: dict[str, object]) -> str | None:
        """The id of an event: a client that comes back with it has lost nothing and is told nothing twice."""
        epoch, serial = frame.get("epoch"), frame.get("serial")
        if kind == "attached":
            assert isinstance(serial, int)
            self._serial = serial
            self.encoding = events_encoding(epoch if isinstance(epoch, str) else None)
            # When it cannot be resumed from, `skipped` follows: it has to be told again if it gets lost.
            if not frame["resumed"] or self._snapshot:
                return None
        elif kind == "skipped":
            last = frame["to"]
            serial = self._serial if last is None else last
        elif kind == "snapshot.end":
            self._snapshot = False
        else:
            return None
        assert isinstance(serial, int)
        return events.position_text(epoch if isinstance(epoch, str) else None, serial)

    def closing(self, code: int, reason: str) -> bytes:
        retry_ms = hinted_ms(reason) or self._retry_ms
        told = events.event("close", encode(close_frame(code, reason))).encode()
        return told if retry_ms is None else b"retry: %d\n\n%s" % (retry_ms, told)


class ManyEventsFormat(EventsFormat):
    """Events of many channels, in an order that both sides know: every id has all positions."""

    def __init__(self, mark: str, channels: Sequence[str], positions: Sequence[str | None]) -> None:
        super().__init__()
        self.encoding = TEXTS
        self._mark = mark
        self._places = {channel: place for place, channel in enumerate(channels)}
        self._positions = list(positions)
        """By place; None where the client is to start over as it asked."""
        self._epochs: dict[str, str | None] = {}
        self._serials: dict[str, int] = {}
        self.snapshots: set[str] = set()
        """Channels whose snapshot is not complete."""

    UNTOLD = frozenset({"authenticated", "auth.expiring"})

    def payload(self, payload: Any) -> bytes:
        return "".join([self._event(frame) for frame in payload]).encode()

    def _event(self, frame: str) -> str:
        kind = events.type_of(frame)
        if kind not in ("message", "skipped"):
            return events.event(kind, frame)
        channel = channel_of(frame)
        position = events.moved_to(kind, frame, self._epochs.get(channel))
        return events.event(kind, frame, None if position is None else self._moved(channel, *position))

    def _moved(self, channel: str, epoch: str | None, serial: int) -> str:
        self._positions[self._places[channel]] = events.position_text(epoch, serial)
        return events.join_ids(self._mark, self._positions)

    def _id_behind(self, kind: str, frame: dict[str, object]) -> str | None:
        channel, epoch, serial = frame.get("channel"), frame.get("epoch"), frame.get("serial")
        if not isinstance(channel, str) or channel not in self._places:
            return None
        if kind == "attached":
            assert isinstance(serial, int)
            self._serials[channel] = serial
            self._epochs[channel] = epoch if isinstance(epoch, str) else None
            if not frame["resumed"] or channel in self.snapshots:
                return None
        elif kind == "skipped":
            last = frame["to"]
            serial = self._serials[channel] if last is None else last
        elif kind == "snapshot.end":
            self.snapshots.discard(channel)
        else:
            return None
        assert isinstance(serial, int)
        return self._moved(channel, epoch if isinstance(epoch, str) else None, serial)


def channel_of(frame: str) -> str:
    """The channel of a `message` or `skipped` frame, where it comes second; names have no quotes."""
    start = frame.index('"channel":"') + len('"channel":"')
    return frame[start : frame.index('"', start)]


def close_frame(code: int, reason: str) -> dict[str, object]:
    return {"type": "close", "code": code, "reason": reason}


def hinted_ms(reason: str) -> int | None:
    """When to come back, where the reason of a close says it."""
    _, found, hint = reason.partition("retry_after_ms=")
    return int(hint) if found and hint.isdecimal() else None


class HttpLink:
    """What links over HTTP share: the face of `realtime.links.Link`, and what is kept until there is an answer."""

    is_watched = False

    def __init__(self, encoding: Encoding, high_bytes: int) -> None:
        self.encoding = encoding
        self.high_bytes = high_bytes
        self.congested = False
        self.sent_at = time.monotonic()
        self.written_bytes = 0
        self.moved_bytes = 0
        self.on_congested: Callable[[], None] = _nothing
        self.on_drained: Callable[[], None] = _nothing
        self.on_way: Callable[[], None] = _nothing
        self.on_answer: Callable[[dict[str, object]], None] = lambda frame: None
        """Hears of every frame for this connection alone, before it is sent."""
        self.closed: tuple[int, str] | None = None
        """Code and reason with which the server ended it."""

    @cached_property
    def ended(self) -> asyncio.Event:
        """Nothing more will be sent."""
        return asyncio.Event()

    @property
    def writer(self) -> Callable[[Any], None]:
        """How the hub writes. Not kept: a link that knows itself would wait for the collector."""
        return self._put

    def _put(self, payload: Any) -> None:
        raise NotImplementedError

    def write(self, payload: Any) -> None:
        self.sent_at = time.monotonic()
        self._put(payload)

    def send(self, frame: dict[str, object]) -> None:
        raise NotImplementedError

    def hold(self) -> None:
        """The outbox gathers anyway."""

    def release(self) -> None:
        """See `hold`."""

    def ping(self) -> bool:
        return False

    def close(self, code: int, reason: str) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def pause_reading(self) -> None:
        """The request is read already."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    @property
    def waiting_bytes(self) -> int:
        raise NotImplementedError

    def congest(self) -> None:
        if not self.congested:
            self.congested = True
            asyncio.get_running_loop().call_soon(self._tell_congested)

    def _tell_congested(self) -> None:
        # It may have drained in the meantime, and `on_drained` was called: a pause now would last for ever.
        if self.congested:
            self.on_congested()


class StreamLink(HttpLink):
    """A body without an end, in a format."""

    def __init__(self, format_: Format, send: Send, high_bytes: int, cut: Callable[[], None]) -> None:
        """`cut` drops the connection where the server offers it."""
        self._format = format_
        super().__init__(format_.encoding, high_bytes)
        self._send = send
        self._cut = cut
        self._outbox: deque[bytes] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last_call: asyncio.TimerHandle | None = None
        self._add(format_.opening())

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends status 200, and from now on everything."""
        self._task = asyncio.ensure_future(self._run(list(headers)))

    def _put(self, payload: Any) -> None:
        self._add(self._format.payload(payload))

    def _add(self, data: bytes) -> None:
        if self.closed is not None or not data:
            return
        self._outbox.append(data)
        self._waiting += len(data)
        self.written_bytes += len(data)
        self._wake.set()
        if self._waiting > self.high_bytes:
            self.congest()

    def send(self, frame: dict[str, object]) -> None:
        self.on_answer(frame)
        data = self._format.frame(frame)
        # An `attached` may have brought another epoch, which belongs to the encoding of what follows.
        self.encoding = self._format.encoding
        if data:
            self.sent_at = time.monotonic()
            self._add(data)

    def close(self, code: int, reason: str) -> None:
        if self.closed is not None:
            return
        self._add(self._format.closing(code, reason))
        self.closed = (code, reason)
        self._wake.set()
        if self._task is None:
            self.ended.set()
        else:
            self._last_call = asyncio.get_running_loop().call_later(CLOSE_S, self.abort)

    def abort(self) -> None:
        self.stop()
        self._cut()

    def stop(self) -> None:
        """Ends the task; what waits is dropped."""
        self.closed = self.closed or (1006, "")
        if self._last_call is not None:
            self._last_call.cancel()
        if self._task is not None:
            self._task.cancel()
        self.ended.set()

    @property
    def waiting_bytes(self) -> int:
        return self._waiting

    async def _run(self, headers: list[tuple[bytes, bytes]]) -> None:
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            while self.closed is None or self._outbox:
                # Before `on_drained`, which may write at once.
                self._wake.clear()
                while self._outbox:
                    data = b"".join(self._outbox)
                    self._outbox.clear()
                    await self._send({"type": "http.response.body", "body": data, "more_body": True})
                    self._waiting -= len(data)
                    self.moved_bytes += len(data)
                if self.congested:
                    self.congested = False
                    self.on_drained()
                if self.closed is None:
                    await self._wake.wait()
            await self._send({"type": "http.response.body", "body": b""})
        except Exception as error:
            # Servers raise when the client is gone; `http.disconnect` follows and ends the connection.
            logger.debug("Sending failed: %r", error)
            self.closed = self.closed or (1006, "")
            self._outbox.clear()
        self.ended.set()


@lru_cache(maxsize=64)
def _told_by(frame: str) -> tuple[str, str]:
    """Type of a frame, and channel of one that may move a position. Many polls are told the same."""
    kind = events.type_of(frame)
    return kind, channel_of(frame) if kind in ("message", "skipped") else ""


_moved_to = lru_cache(maxsize=64)(events.moved_to)


class PollLink(HttpLink):
    """Gathers the frames of one poll, and the positions behind them."""

    def __init__(self, high_bytes: int, waiting_for: Mapping[str, object], *, tells_ready: bool = False) -> None:
        """`waiting_for`: the epochs of channels attached at a position; that they are attached there is no news.
        `tells_ready`: who one is, is what was asked."""
        super().__init__(TEXTS, high_bytes)
        self.frames: list[str] = []
        self.positions: dict[str, tuple[str | None, int]] = {}
        """Epoch and serial, by channel."""
        self.snapshots: set[str] = set()
        """Channels whose snapshot is not complete: a poll cut in one would begin it again, for ever."""
        self.full = False
        """It has as many bytes as an answer may have, or was ended."""
        self.behind = False
        """There was news already when it was attached: it is being read."""
        self.on_change: Callable[[], None] = _nothing
        """Called when there is something to tell, and when it is full, ended, or its snapshots are complete."""
        self._size = 0
        self._known = dict(waiting_for)
        self._tells_ready = tells_ready
        self._starts: dict[str, tuple[str | None, int]] = {}
        """Where channels were attached: epoch and serial."""

    def _put(self, payload: Sequence[str]) -> None:
        if self.closed is not None:
            # Nor may positions go on: the client would stand behind what it was not told.
            return
        for frame in payload:
            kind, channel = _told_by(frame)
            if channel:
                start = self._starts.get(channel)
                position = _moved_to(kind, frame, None if start is None else start[0])
                if position is not None:
                    self.positions[channel] = position
            self._keep(frame)

    def _keep(self, frame: str) -> None:
        self.frames.append(frame)
        self._size += len(frame) + FRAME_OVERHEAD_BYTES
        self.written_bytes += len(frame)
        if self._size > self.high_bytes and not self.snapshots:
            self.full = True
            self.congest()
        if self.full or len(self.frames) == 1:
            self.on_change()

    def send(self, frame: dict[str, object]) -> None:
        self.on_answer(frame)
        kind, channel = frame["type"], str(frame.get("channel"))
        frame = {name: value for name, value in frame.items() if name != "ref"}
        epoch, serial = frame.get("epoch"), frame.get("serial")
        if self.closed is not None or kind in ("heartbeat", "auth.expiring"):
            return
        if kind == "ready" and not self._tells_ready:
            return
        if kind == "attached":
            assert isinstance(serial, int)
            start = self._starts[channel] = (epoch if isinstance(epoch, str) else None, serial)
            if frame["resumed"] and channel not in self.snapshots:
                self.positions[channel] = start
                self.behind = self.behind or serial < cast("int", frame["head"])
            # Once: later ones are unasked, and tell something; so does the epoch of a log that began meanwhile.
            known = self._known.pop(channel, ...) if self._known else ...
            if frame["resumed"] and known == epoch:
                return
        elif kind == "skipped":
            last = frame["to"]
            began = self._starts.get(channel, (None, 0))
            self.positions[channel] = (began[0], began[1] if last is None else int(str(last)))
        elif kind == "error":
            self._end_snapshot(channel)
        elif kind == "snapshot.end":
            assert isinstance(serial, int)
            self._end_snapshot(channel)
            self.positions[channel] = (self._starts[channel][0], serial)
        self._keep(encode(frame))

    def _end_snapshot(self, channel: str) -> None:
        if channel in self.snapshots:
            self.snapshots.discard(channel)
            self.on_change()

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self._keep(encode(close_frame(code, reason)))
            self.closed = (code, reason)
            self.full = True
            self.on_change()

    def abort(self) -> None:
        self.close(1006, "")

    @property
    def waiting_bytes(self) -> int:
        """Nothing waits for the socket: a poll is answered once."""
        return 0
