"""Daphne's WebSocket protocol, extended for one purpose: that the platform sees and uses the socket itself.

What ASGI hides and this gives back, as an extension in the scope (`SOCKET`): writing bytes that are shared by many
connections, how much of them the kernel has not taken, a word when that changes, frames in without a queue between,
close codes with reasons, pings. Also the `websocket.http.response` extension of ASGI, so that a refused handshake can
say why. Everything else is Daphne's and Autobahn's; what is used of them is checked at start (`realtime.server.run`).
It must not know what the frames mean. See docs/explanation/server.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from autobahn.websocket.protocol import WebSocketProtocol as Autobahn
from daphne.ws_protocol import WebSocketProtocol as DaphneProtocol
from twisted.internet import tcp
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from realtime.interpreter import interpreter
from realtime.load import Place
from realtime.protocol import deflate
from realtime.protocol.websocket import BINARY_FINAL, COMPRESSED, TEXT_FINAL, compressed_frame, data_frame

logger = logging.getLogger(__name__)

SOCKET = "seriatim.socket"
"""Name of the extension in `scope["extensions"]`; its value is a `Socket`."""

DENIAL = "websocket.http.response"
"""ASGI's extension for answering a handshake with an HTTP response of one's own."""

PLACE = "seriatim.place"
"""Name of the extension whose value is the connection's `realtime.load.Place`; it is left when the connection is lost.
"""


OPEN = Autobahn.STATE_OPEN
"""Handshake done, no close frame sent."""

TEXT_COMPRESSED = TEXT_FINAL | COMPRESSED
"""First byte of a text message in one frame, compressed (RFC 7692 §6)."""

MASKED = 0x80
"""Bit of the second byte, which every client has to set; the other seven are the size, or how the size follows."""

TWO_MORE_BYTES = 126
"""Size in the second byte that says: the size is in the next two."""

PLAIN_HEAD_BYTES = 8
"""The most that stands before the payload of a plain text message: two bytes, size, mask."""

VIEWED_BYTES_LEAST = 1024
"""Of less that is left of a write a copy is made: a view has 330 bytes, and keeps all of what it is a part of."""

PLAIN_BYTES_MOST = 8192
"""Larger messages are left to Autobahn, which unmasks them faster and takes them in piece by piece."""


@implementer(IPushProducer)
class Socket:
    """One open WebSocket, as the platform sees it. Every method runs on the loop's thread and returns at once.

    `on_text` gets each text message, `on_binary` each binary one, `on_heard` is called at every ping or pong,
    `on_congested` when more than the mark waits in the buffer, `on_drained` when nothing waits any more.
    None of them is ever called from inside `write`. An application that has set `on_closed` may return: the socket
    stays open, and `on_closed(code)` tells its end.
    """

    __slots__ = (
        "_handed",
        "_is_clear",
        "_number",
        "_protocol",
        "_send",
        "_transport",
        "on_binary",
        "on_closed",
        "on_congested",
        "on_drained",
        "on_heard",
        "on_text",
        "on_way",
        "window_bits",
    )

    def __init__(self, protocol: SeriatimProtocol, window_bits: int = 0) -> None:
        self._protocol = protocol
        self.window_bits = window_bits
        """Of compressed frames, with which the client has to be able to unpack them; 0: it wants none."""
        self._transport = protocol.transport
        self._send: Callable[[bytes], int] | None = None
        """The system's call, where the transport is plain TCP; TLS goes through the transport."""
        self._number = -1
        """The socket's descriptor."""
        self._is_clear = False
        """Open, and nothing waits before what is written next. A broadcast looks at nothing else: what it touches of
        thousands of connections has to come from memory each time, and that is most of its cost."""
        self._handed = 0
        """Bytes given to the transport, because the kernel did not take them at once."""
        self.on_text: Callable[[str], None] | None = None
        self.on_binary: Callable[[bytes], None] | None = None
        self.on_closed: Callable[[int | None], None] | None = None
        self.on_heard: Callable[[], None] | None = None
        self.on_congested: Callable[[], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self.on_way: Callable[[], None] | None = None

    def opened(self) -> None:
        """The handshake is done: from now on the bytes are ours. Takes the place of Twisted's producer."""
        transport = self._transport
        # Its class, not what it offers: a TLS transport passes on every name of the TCP transport below it, and what is
        # sent there goes out as plain text.
        if isinstance(transport, tcp.Connection) and not transport.TLS:
            self._send = transport.socket.send
            self._number = transport.socket.fileno()
        below: Any = transport if self._send is not None else getattr(transport, "transport", transport)
        below.bufferSize = self._protocol.factory.server_class.buffer_high_bytes
        # Twisted's HTTP channel is still registered from before the upgrade, and would be kept alive by it.
        transport.unregisterProducer()
        transport.registerProducer(self, True)

    def lost(self) -> None:
        """The connection is gone, and its descriptor may soon be another's."""
        self._send = None
        self._clear(False)

    def wait(self) -> None:
        """Somebody writes to the transport himself: what is written here has to go behind it."""
        self._clear(False)

    def _clear(self, is_clear: bool) -> None:
        if is_clear != self._is_clear:
            self._is_clear = is_clear
            if self.on_way is not None:
                self.on_way()

    @property
    def quick(self) -> Callable[[bytes], int] | None:
        """The system's call, good until `on_way` is called; None where only `write` will do."""
        return self._send if self._is_clear else None

    @property
    def number(self) -> int:
        """The descriptor for the same; -1: none."""
        return self._number if self._is_clear else -1

    def write(self, data: bytes) -> None:
        """Writes ready WebSocket frames. Straight to the kernel when nothing waits before them, which costs a sixth of
        the way through Twisted's reactor; what the kernel does not take, and what comes behind it, is buffered."""
        if self._is_clear:
            try:
                taken = self._send(data) if not interpreter.kept else interpreter.send(self._number, data)  # type: ignore[misc]
            except OSError:
                # A full buffer, or an error that is left to the transport: it meets the same one in its turn, and
                # cleans up.
                taken = 0
            if taken != len(data):
                self.write_rest(data, taken)
            return
        if self._protocol.state != OPEN:
            return
        if self._send is not None and not (self._transport.dataBuffer or self._transport._tempDataBuffer):
            # What waited is gone.
            self._clear(True)
            self.write(data)
            return
        self.write_rest(data, 0)

    def write_rest(self, data: bytes, taken: int) -> None:
        """Buffers what is left of data of which the kernel has taken so many bytes.

        Of data that went out to many, each of those who stand still has another part left. A copy of it for each was
        most of what they cost; so it is a view of the bytes that are there once, and Twisted joins it with what comes
        behind it when the socket takes something again.
        """
        self._clear(False)
        left = len(data) - taken
        self._handed += left
        transport = self._transport
        if self._send is None or not taken or left < VIEWED_BYTES_LEAST:
            transport.write(data[taken:])
        elif transport.connected and not transport._writeDisconnected:
            # As Twisted's `write`, which takes nothing but bytes.
            transport._tempDataBuffer.append(memoryview(data)[taken:])
            transport._tempDataLen += left
            transport._maybePauseProducer()
            transport.startWriting()

    @property
    def buffered_bytes(self) -> int:
        """Bytes written that the kernel has not taken."""
        transport = self._transport
        if self._send is not None:
            return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)
        # TLS: pieces that are not encrypted yet, before the TCP transport below it.
        pieces = getattr(transport, "_appSendBuffer", ())
        below = getattr(transport, "transport", None)
        if not isinstance(below, tcp.Connection):
            return 0
        return sum(map(len, pieces)) + int(len(below.dataBuffer) - below.offset + below._tempDataLen)

    @property
    def moved_bytes(self) -> int:
        """Bytes that had to wait and were taken since: stands still while a client reads nothing."""
        return self._handed - self.buffered_bytes

    @property
    def open(self) -> bool:
        """The handshake is done, and no end has begun."""
        return bool(self._protocol.state == OPEN)

    def ping(self) -> None:
        """Sends a WebSocket ping."""
        if self._protocol.state == OPEN:
            self._protocol.sendPing(b"seriatim")

    def close(self, code: int, reason: str) -> None:
        """Sends a close frame with any code that RFC 6455 §7.4 lets a server send; `reason` is cut at 123 bytes."""
        if self._protocol.state == OPEN:
            self._protocol.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:123].decode(errors="ignore").encode())

    def abort(self) -> None:
        """Drops the connection now, without a close frame."""
        self._protocol.dropConnection(abort=True)

    def pause_reading(self) -> None:
        """Takes no more frames in until `resume_reading`, not even of what has come; TCP holds the sender."""
        self._protocol.reading = False
        self._protocol.transport.pauseProducing()

    def resume_reading(self) -> None:
        if not self._protocol.reading:
            self._protocol.reading = True
            # Not from inside here: the caller may have been called by the parser.
            asyncio.get_running_loop().call_soon(self._protocol.read_on)
        self._protocol.transport.resumeProducing()

    # ------------------------------------------------------------------ IPushProducer: Twisted about its buffer

    def pauseProducing(self) -> None:
        if self.on_congested is not None:
            asyncio.get_running_loop().call_soon(self.on_congested)

    def resumeProducing(self) -> None:
        if self.on_drained is not None:
            asyncio.get_running_loop().call_soon(self.on_drained)

    def stopProducing(self) -> None:
        """The connection is gone; `websocket.disconnect` tells it."""


class _Packed:
    """Where Autobahn expects a decompressor: lets messages through as they are, and `onMessage` unpacks them whole.

    So the bound on what came is Autobahn's, the one on what comes out of it `deflate.unpack`'s, and nothing is kept for
    a connection between two messages.
    """

    EXTENSION_NAME = deflate.NAME

    def start_decompress_message(self) -> None: ...

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:
        return data

    def end_decompress_message(self) -> None: ...


PACKED = _Packed()


class SeriatimProtocol(DaphneProtocol):
    """Daphne's protocol with a `Socket`, permessage-deflate, refusals, close codes and no time limit of a day."""

    data: bytes
    """Autobahn's: what came and was not parsed yet."""

    socket: Socket | None = None
    place: Place | None = None
    reading = True
    """False while the application takes no more: what came then stays in `data`."""
    _closed_by_client = False
    _room: asyncio.Event | None = None
    """Set when the client has taken what waits for it; None while nobody waits for that."""
    _last_call: Any = None
    """Drops a connection that was closed in order and does not take the rest."""

    # ------------------------------------------------------------------ Autobahn's events

    def connectionMade(self) -> None:
        self.place, self.factory.place = getattr(self.factory, "place", None), None
        super().connectionMade()

    def succeedHandshake(self, res: Any) -> None:
        """The extensions are settled here already: Autobahn would fail the handshake over an offer that is malformed,
        and would make a decompressor for one that is not."""
        self.websocket_extensions: list[object] = []
        agreed = self._agreed()
        if agreed is not None:
            res = (res, {"Sec-WebSocket-Extensions": agreed.header})
        super().succeedHandshake(res)

    def onOpen(self) -> None:
        super().onOpen()
        if self.socket is not None:
            if self.socket.window_bits:
                self._perMessageCompress = PACKED
            self.socket.opened()
        # What belongs to the handshake is a third of an idle connection's memory.
        self.http_request_data = self.http_response_data = ""
        self.http_headers = self.request.headers = {}
        self.request.extensions = []
        self.clean_headers: list[tuple[bytes, bytes]] = []

    def dataReceived(self, data: bytes) -> None:
        """Takes plain text messages out of the stream at a third of Autobahn's cost, and leaves everything else to it.

        Between two messages `self.data` holds what nobody has parsed yet, so that either can go on from there.
        """
        socket = self.socket
        try:
            if socket is not None and self.state == OPEN and not (self.current_frame or self.inside_message):
                if self.data:
                    data, self.data = self.data + data, b""
                data = self._take_texts(socket, data)
                if not data:
                    return
            super().dataReceived(data)
        except Exception:
            # Passed on, it would end the connection without a word, and Twisted would tell nobody.
            logger.exception("What a client sent could not be handled.")
            self.fault()

    def _take_texts(self, socket: Socket, data: bytes) -> bytes:
        """Hands over the plain text messages that `data` begins with, keeps one that is not complete yet, and returns
        what has to be Autobahn's: other frames, and whatever it has to object to."""
        at, end = 0, len(data)
        most = min(PLAIN_BYTES_MOST, self.maxMessagePayloadSize or PLAIN_BYTES_MOST)
        packed = TEXT_COMPRESSED if socket.window_bits else TEXT_FINAL
        while at + PLAIN_HEAD_BYTES <= end and self.state == OPEN:
            first = data[at]
            if first != TEXT_FINAL and first != packed:
                break
            if not self.reading:
                self.data = data[at:]
                return b""
            size, start = data[at + 1] - MASKED, at + 2
            if size > TWO_MORE_BYTES:
                # The size is in the next eight: a long message. Read on, its head could pass for a short one.
                break
            if size == TWO_MORE_BYTES:
                size, start = int.from_bytes(data[start : start + 2], "big"), at + 4
                if size < TWO_MORE_BYTES:
                    break
            if not 0 <= size <= most or socket.on_text is None:
                break
            stop = start + 4 + size
            if stop > end:
                self.data = data[at:]
                return b""
            mask = data[start : start + 4] * (size // 4 + 1)
            masked = int.from_bytes(data[start + 4 : stop], "little")
            unmasked = masked ^ int.from_bytes(mask[:size], "little")
            payload = unmasked.to_bytes(size, "little")
            try:
                text = (payload if first == TEXT_FINAL else self._unpack(payload)).decode()
            except ValueError:
                break
            at = stop
            socket.on_text(text)
        return data[at:]

    def processData(self) -> bool:
        """Autobahn's next step through `data`."""
        return self.reading and bool(super().processData())

    def read_on(self) -> None:
        """What came while the application took no more is parsed now."""
        if self.reading and self.state != Autobahn.STATE_CLOSED:
            self.dataReceived(b"")

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self._message = bytearray()
        if self._isMessageCompressed:
            # What is checked piece by piece is not text yet.
            self.utf8validateIncomingCurrentMessage = False

    def onMessageFrameData(self, payload: bytes) -> None:
        """Gathered in one buffer, that of the limit: Autobahn keeps a list, whose length nothing bounds when a client
        sends a message in pieces of nothing."""
        if not self.failedByMe:
            self._message += payload

    def onMessageFrameEnd(self) -> None:
        """Nothing is gathered by frame."""

    def onMessageEnd(self) -> None:
        message, self._message = self._message, bytearray()
        if not self.failedByMe:
            self.onMessage(bytes(message), self.message_is_binary)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self._isMessageCompressed:
            try:
                payload = self._unpack(payload)
                if not isBinary:
                    payload.decode()
            except deflate.TooLarge as error:
                self._fail_connection(1009, f"a message unpacks to {error}")
                return
            except ValueError as error:
                self._fail_connection(1007, f"a compressed message is malformed: {error}")
                return
        socket = self.socket
        if socket is None or socket.on_text is None:
            super().onMessage(payload, isBinary)
        elif isBinary:
            if socket.on_binary is not None:
                socket.on_binary(payload)
        else:
            socket.on_text(payload.decode())

    def _unpack(self, payload: bytes) -> bytes:
        return deflate.unpack(payload, self.maxMessagePayloadSize)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Autobahn reads the Origin before the application does, and calls one that it cannot read malformed."""
        super().failHandshake(reason, 403 if "rigin" in reason else code, responseHeaders)

    def onPing(self, payload: bytes) -> None:
        super().onPing(payload)
        self.onPong(payload)

    def onPong(self, payload: bytes) -> None:
        """Any control frame is a sign of life."""
        if self.socket is not None and self.socket.on_heard is not None:
            self.socket.on_heard()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        self._closed_by_client = True
        found: bool | None = super().onCloseFrame(code, reasonRaw)
        return found

    def _closeConnection(self, abort: bool = False) -> None:
        """Autobahn's end of every connection. It would reset one whose close frame it has just answered, and a reset
        overtakes the answer; the others it leaves open for as long as a client does not read what is left."""
        if abort and not self._closed_by_client:
            super()._closeConnection(True)
        else:
            self._last_call = self.factory._batched_timer.call_later(
                self.closeHandshakeTimeout, self.transport.abortConnection
            )
            super()._closeConnection(False)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # A handshake that Autobahn refused never reached onConnect, which would have set `server`.
        if getattr(self, "server", None) is not None:
            super().onClose(wasClean, code, reason)
        if self.socket is not None and self.socket.on_closed is not None:
            self.socket.on_closed(code)

    def alone(self) -> None:
        """The application has returned and left the socket to its callbacks: nothing is kept for it any more."""
        del self.application_queue, self.application_deferred

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        # Resolved with the protocol itself. Circles wait for the collector, and make it slow.
        self.is_open = self.is_closed = None
        self._make_room()
        if self.place is not None:
            self.place.leave()
        if self._last_call is not None:
            self._last_call.cancel()
            self._last_call = None
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.lost()
            socket.on_text = socket.on_binary = socket.on_heard = socket.on_congested = socket.on_drained = None
            socket.on_way = None
            socket.on_closed = None

    def sendData(self, *args: Any, **options: Any) -> None:
        """Autobahn's only way out: handshakes, pongs, close frames."""
        if self.socket is not None:
            self.socket.wait()
        super().sendData(*args, **options)

    # ------------------------------------------------------------------ Daphne's side

    def extensions(self) -> dict[str, object]:
        """What this protocol offers the application in its scope."""
        agreed = self._agreed()
        self.socket = Socket(self, agreed.window_bits if agreed is not None else 0)
        return {SOCKET: self.socket, DENIAL: {}, PLACE: self.place}

    def _agreed(self) -> deflate.Agreement | None:
        """What becomes of the extensions that the client offers."""
        offered = self.http_headers.get("sec-websocket-extensions") if self.server.deflate_min_bytes else None
        return deflate.agree(offered) if offered else None

    def handle_reply(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.http.response.start":
            self._denial = message
        elif kind == "websocket.http.response.body":
            self._deny(self._denial, message.get("body", b""))
        elif kind == "websocket.close" and self.state == OPEN:
            # Daphne's own way refuses most codes and drops the reason.
            reason = (message.get("reason") or "").encode()[:123].decode(errors="ignore").encode()
            self.sendCloseFrame(code=message.get("code") or 1000, reasonUtf8=reason)
        elif kind == "websocket.send" and self.state != OPEN:
            if self.state == Autobahn.STATE_CONNECTING:
                raise ValueError("The socket has not been accepted yet, so nothing can be sent over it.")
        elif kind == "websocket.send":
            # Daphne drops empty messages, and Autobahn refuses those that are larger than what clients may send.
            text = message.get("text")
            first, payload = (BINARY_FINAL, message["bytes"]) if text is None else (TEXT_FINAL, text.encode())
            socket = self.socket
            assert socket is not None
            if socket.window_bits and len(payload) >= self.server.deflate_min_bytes:
                socket.write(compressed_frame(first, payload, socket.window_bits))
            else:
                socket.write(data_frame(first, payload))
        else:
            super().handle_reply(message)

    async def room(self) -> None:
        """Returns when the client has taken what waits for it, or is gone. For applications that send by ASGI: without
        this they would be told that everything is sent, and it would be kept here for a client that does not read."""
        socket = self.socket
        if socket is None or not socket.open or socket.buffered_bytes <= self.server.buffer_high_bytes:
            return
        if self._room is None:
            self._room = asyncio.Event()
            socket.on_drained = self._make_room
        await self._room.wait()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def handle_exception(self, exception: Exception) -> None:
        """The application raised."""
        if self.state == OPEN:
            self.fault()
        else:
            super().handle_exception(exception)

    def fault(self) -> None:
        """Ends the connection for a reason that lies here."""
        if self.state == OPEN:
            self.sendCloseFrame(code=1011, reasonUtf8=b"server fault")
        else:
            self.dropConnection(abort=True)

    def _deny(self, start: dict[str, Any], body: bytes) -> None:
        """Answers the handshake with an HTTP response and ends the connection."""
        lines = [b"HTTP/1.1 %d Refused" % start["status"], b"Connection: close", b"Content-Length: %d" % len(body)]
        lines += [name + b": " + value for name, value in start.get("headers", [])]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.handshake_deferred = None
        del self.handshake_deferred
        self.wasNotCleanReason = "handshake refused"
        self.dropConnection(abort=False)

    def check_timeouts(self) -> None:
        """Only the handshake has a limit here: the platform itself minds heartbeats, idleness and the token's end."""
        if self.state == Autobahn.STATE_CONNECTING and self.duration() > self.server.websocket_connect_timeout:
            self.serverReject()
