"""Outgoing sides of WebSocket connections: what the hub and the session write to.

Two of them, with one face. `SocketLink` writes ready WebSocket frames to the socket that our server offers
(`realtime.server.protocol`); `AsgiLink` serves every other ASGI server through `await send()`, correct and slower. Both
return at once, watch how much waits, and know nothing of what the frames say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice, repeat
from operator import call
from typing import Any, Protocol, cast

from realtime.conf import settings
from realtime.delivery.blocks import Encoding, size_bytes
from realtime.interpreter import interpreter
from realtime.protocol.codec import encode
from realtime.protocol.deflate import WINDOWS
from realtime.protocol.errors import close_reason, plain_close_code
from realtime.protocol.websocket import TEXT_FINAL, compressed_frame, text_frame

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]

LOOK_EVERY = 8
"""Writes between two looks at the clock."""

SLOW_S = 0.002
"""So many writes take a fiftieth of this. When they take longer, somebody is in between."""

NO_SOCKET = -1
"""Instead of a descriptor, where only the writer will do."""


class SharedSocket(Protocol):
    """What the server's extension offers; see realtime.server.protocol.Socket."""

    window_bits: int
    on_text: Callable[[str], None] | None
    on_binary: Callable[[bytes], None] | None
    on_heard: Callable[[], None] | None
    on_congested: Callable[[], None] | None
    on_drained: Callable[[], None] | None
    on_way: Callable[[], None] | None
    quick: Callable[[bytes], int] | None
    number: int
    buffered_bytes: int
    moved_bytes: int

    def write(self, data: bytes) -> None: ...
    def write_rest(self, data: bytes, taken: int) -> None: ...
    def ping(self) -> None: ...
    def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Ways:
    """How bytes get to many WebSockets: for each its writer, which is always right, and what is quicker while nothing
    waits before what is written: the system's call itself."""

    __slots__ = ("_numbers", "_quick", "writers")

    def __init__(self, writers: Sequence[Callable[[bytes], None]]) -> None:
        self.writers = writers
        sockets = [getattr(writer, "__self__", None) for writer in writers]
        self._quick = [
            getattr(socket, "quick", None) or writer for socket, writer in zip(sockets, writers, strict=True)
        ]
        self._numbers = [getattr(socket, "number", NO_SOCKET) for socket in sockets]

    def send(self, payload: bytes) -> None:
        size = len(payload)
        taken: list[int | None] = []
        if not interpreter.begin():
            self._call(payload, taken)
        if len(taken) < len(self.writers):
            rest = self._numbers[len(taken) :] if taken else self._numbers
            taken += interpreter.send_all(rest, payload)
        if taken.count(size) == len(taken):
            return
        for index, count in enumerate(taken):
            if count is None or count == size:
                continue
            if count < 0:
                self.writers[index](payload)
            else:
                cast("SharedSocket", self.writers[index].__self__).write_rest(payload, count)  # type: ignore[attr-defined]

    def _call(self, payload: bytes, taken: list[int | None]) -> None:
        """Puts into `taken` how many bytes each took, None for those that take everything, -1 where nothing could be
        written; ends before the last one when the interpreter is to be kept."""
        calls = map(call, self._quick, repeat(payload))
        most = len(self._quick)
        looked_at = time.perf_counter()
        while len(taken) < most:
            try:
                # What came before an error stays in the list.
                taken.extend(islice(calls, LOOK_EVERY))
            except OSError:
                # A full buffer, or an error that is left to the transport.
                taken.append(-1)
            now = time.perf_counter()
            if now - looked_at > SLOW_S and interpreter.slow():
                return
            looked_at = now


class WebSocketEncoding:
    """Frames as bytes of RFC 6455, joined for one write."""

    name = "websocket"

    def frame(self, payload: bytes) -> bytes:
        """One text frame around UTF-8."""
        return text_frame(payload)

    def encode(self, frames: Sequence[str]) -> bytes:
        if len(frames) == 1:
            return self.frame(frames[0].encode())
        return b"".join([self.frame(frame.encode()) for frame in frames])

    def join(self, payloads: Sequence[bytes]) -> bytes:
        return payloads[0] if len(payloads) == 1 else b"".join(payloads)

    def ways(self, writers: Sequence[Callable[[bytes], None]]) -> Ways:
        return Ways(writers)

    def write_all(self, ways: Ways, payload: bytes) -> int:
        """One write after the other, in C as far as nothing has to be minded, with an eye on the clock between (see
        realtime.interpreter)."""
        ways.send(payload)
        return len(ways.writers) * len(payload)


MADE_BYTES_MOST = 4 << 20
"""Of frames and what they were compressed to, for each window: some thousand messages, about as far as clients of one
mass reconnect lie apart."""


class DeflateEncoding(WebSocketEncoding):
    """The same with larger frames compressed, each by itself, so that one serves all who agreed on this window.

    What was compressed last is remembered: those who catch up read the same frames in slices of their own.
    """

    def __init__(self, window_bits: int) -> None:
        self.name = f"deflate{window_bits}"
        self._window_bits = window_bits
        self._made: dict[str, bytes] = {}
        self._made_bytes = 0

    def frame(self, payload: bytes) -> bytes:
        if len(payload) < settings.DEFLATE_MIN_BYTES:
            return text_frame(payload)
        return compressed_frame(TEXT_FINAL, payload, self._window_bits)

    def encode(self, frames: Sequence[str]) -> bytes:
        if len(frames) == 1:
            return self._shared(frames[0])
        return b"".join([self._shared(frame) for frame in frames])

    def _shared(self, frame: str) -> bytes:
        if len(frame) < settings.DEFLATE_MIN_BYTES:
            return self.frame(frame.encode())
        made = self._made.get(frame)
        if made is None:
            made = self._made[frame] = self.frame(frame.encode())
            self._made_bytes += len(frame) + len(made)
            while self._made_bytes > MADE_BYTES_MOST:
                oldest = next(iter(self._made))
                self._made_bytes -= len(oldest) + len(self._made.pop(oldest))
        return made


class TextsEncoding:
    """Frames as they are, for servers that take one text at a time."""

    name = "texts"

    def encode(self, frames: Sequence[str]) -> tuple[str, ...]:
        return tuple(frames)

    def join(self, payloads: Sequence[Sequence[str]]) -> tuple[str, ...]:
        return tuple([text for payload in payloads for text in payload])

    def ways(self, writers: Sequence[Callable[[Sequence[str]], None]]) -> Sequence[Callable[[Sequence[str]], None]]:
        return writers

    def write_all(self, ways: Sequence[Callable[[Sequence[str]], None]], payload: Sequence[str]) -> int:
        for write in ways:
            write(payload)
        return len(ways) * sum([size_bytes(text) for text in payload])


WEBSOCKET = WebSocketEncoding()
DEFLATE = {bits: DeflateEncoding(bits) for bits in WINDOWS}
TEXTS = TextsEncoding()


class Link(Protocol):
    """One connection's outgoing side, and what can be known about its liveness. It is a `realtime.hub.Sink`."""

    encoding: Encoding
    congested: bool
    sent_at: float
    """When `write` was last called; the hub knows when broadcasts went out."""
    written_bytes: int
    """What `write` got, in all."""
    on_congested: Callable[[], None]
    on_drained: Callable[[], None]
    on_way: Callable[[], None]
    """What `writer` is good for has changed: the ways of those sets that it is in are to be made anew."""

    @property
    def writer(self) -> Callable[[Any], None]: ...

    @property
    def is_watched(self) -> bool:
        """Nothing waits, and `on_way` is called when something begins to."""
        ...

    def write(self, payload: Any) -> None: ...
    def send(self, frame: dict[str, object]) -> None: ...
    def hold(self) -> None:
        """Gathers what is sent from now on; `release` must follow in the same turn of the loop."""
        ...

    def release(self) -> None:
        """Sends what was gathered, in one write: a system call costs more than an answer."""
        ...

    def ping(self) -> bool:
        """Sends a WebSocket ping; False where the server does that by itself."""
        ...

    def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def moved_bytes(self) -> int: ...


def _nothing() -> None:
    """For callbacks nobody set."""


class SocketLink:
    """Writes to the socket itself."""

    __slots__ = (
        "_frame",
        "_held",
        "congested",
        "encoding",
        "on_congested",
        "on_drained",
        "on_way",
        "sent_at",
        "socket",
        "writer",
        "written_bytes",
    )

    def __init__(self, socket: SharedSocket) -> None:
        encoding = DEFLATE[socket.window_bits] if socket.window_bits else WEBSOCKET
        self.encoding: Encoding = encoding
        self._frame = encoding.frame
        self.socket = socket
        self.writer: Callable[[Any], None] = socket.write
        self.written_bytes = 0
        self._held: list[bytes] | None = None
        self.congested = False
        self.sent_at = time.monotonic()
        self.on_congested: Callable[[], None] = _nothing
        self.on_drained: Callable[[], None] = _nothing
        self.on_way: Callable[[], None] = _nothing
        socket.on_way = self._way_changed
        socket.on_congested = self._congested
        socket.on_drained = self._drained

    def write(self, payload: bytes) -> None:
        if self._held is not None:
            self._held.append(payload)
            return
        self.sent_at = time.monotonic()
        self.written_bytes += len(payload)
        self.socket.write(payload)

    def send(self, frame: dict[str, object]) -> None:
        self.write(self._frame(encode(frame).encode()))

    def hold(self) -> None:
        if self._held is None:
            self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        if held:
            self.write(b"".join(held))

    def ping(self) -> bool:
        self.socket.ping()
        return True

    def close(self, code: int, reason: str) -> None:
        self.release()
        self.socket.close(code, reason)

    def abort(self) -> None:
        self.socket.abort()

    def pause_reading(self) -> None:
        self.socket.pause_reading()

    def resume_reading(self) -> None:
        self.socket.resume_reading()

    @property
    def waiting_bytes(self) -> int:
        return self.socket.buffered_bytes

    @property
    def moved_bytes(self) -> int:
        return self.socket.moved_bytes

    @property
    def is_watched(self) -> bool:
        return self.socket.quick is not None

    def _way_changed(self) -> None:
        self.on_way()

    def _congested(self) -> None:
        if not self.congested:
            self.congested = True
            self.on_congested()

    def _drained(self) -> None:
        if self.congested:
            self.congested = False
            self.on_drained()


class AsgiLink:
    """Sends through ASGI from one task, with an outbox between.

    The outbox is bounded: over `high_bytes` the link is congested, and the hub writes nothing more until it has
    drained; answers to requests still come in, and they are bounded by the requests that are read.
    """

    is_watched = False

    def __init__(self, send: Send, high_bytes: int) -> None:
        self.encoding: Encoding = TEXTS
        self._send = send
        self._high_bytes = high_bytes
        self._outbox: deque[str | tuple[int, str]] = deque()
        self._waiting = 0
        self.writer: Callable[[Any], None] = self._put
        self.written_bytes = 0
        self.moved_bytes = 0
        self._wake = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())
        self._closed = False
        self.congested = False
        self.sent_at = time.monotonic()
        self.on_congested: Callable[[], None] = _nothing
        self.on_drained: Callable[[], None] = _nothing
        self.on_way: Callable[[], None] = _nothing

    def write(self, payload: Sequence[str]) -> None:
        self.sent_at = time.monotonic()
        before = self._waiting
        self._put(payload)
        self.written_bytes += self._waiting - before

    def _put(self, payload: Sequence[str]) -> None:
        if self._closed:
            return
        self._outbox.extend(payload)
        self._waiting += sum([len(text) for text in payload])
        self._wake.set()
        if self._waiting > self._high_bytes and not self.congested:
            self.congested = True
            asyncio.get_running_loop().call_soon(self._tell_congested)

    def _tell_congested(self) -> None:
        # It may have drained in the meantime, and `on_drained` was called: a pause now would last for ever.
        if self.congested:
            self.on_congested()

    def send(self, frame: dict[str, object]) -> None:
        self.write((encode(frame),))

    def hold(self) -> None:
        """The outbox gathers anyway, and ASGI takes one text at a time."""

    def release(self) -> None:
        """See `hold`."""

    def ping(self) -> bool:
        return False

    def close(self, code: int, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self._outbox.append((plain_close_code(code), close_reason(reason)))
            self._wake.set()

    def abort(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the task; what waits is dropped. For a connection that is gone."""
        self._closed = True
        self._task.cancel()

    def pause_reading(self) -> None:
        """The shell itself takes one frame after the other out of ASGI's queue here."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    @property
    def waiting_bytes(self) -> int:
        return self._waiting

    async def _run(self) -> None:
        while True:
            # Before `on_drained`, which may write at once.
            self._wake.clear()
            while self._outbox:
                item = self._outbox.popleft()
                try:
                    if isinstance(item, tuple):
                        await self._send({"type": "websocket.close", "code": item[0], "reason": item[1]})
                        return
                    await self._send({"type": "websocket.send", "text": item})
                except Exception as error:
                    # Servers raise when the client is gone; `websocket.disconnect` follows and ends the connection.
                    logger.debug("Sending failed: %r", error)
                    self._closed = True
                    self._outbox.clear()
                    return
                self._waiting -= len(item)
                self.moved_bytes += len(item)
            if self.congested:
                self.congested = False
                self.on_drained()
            await self._wake.wait()
