"""WebSockets of the draft hixie-76, which came before RFC 6455: for SockJS, whose protocol's suite asks for it.

Who may connect and what it costs is decided where it is for every other socket, in the application. Here is only the
draft: its handshake, whose answer must not wait for the last eight bytes of the request (some proxies hold them back
until there is one), and its frames, texts between 00 and FF. Clients of the draft have been gone for a decade; nothing
but SockJS is served to them. See https://datatracker.ietf.org/doc/html/draft-hixie-thewebsocketprotocol-76.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from enum import Enum, auto
from typing import Any
from urllib.parse import unquote

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from realtime.server.protocol import DENIAL, SOCKET

NONCE_BYTES = 8
"""What follows the head of the request, and is a part of what has to be answered."""

CLOSING = b"\xff\x00"
"""The closing handshake, of either side."""

TEXT, END = 0x00, b"\xff"


class State(Enum):
    """Of one connection, in this order."""

    CONNECTING = auto()
    """The application has not decided."""
    ACCEPTED = auto()
    """The head of the answer is sent; the nonce may be missing."""
    OPEN = auto()
    CLOSED = auto()


def number_in(key: str) -> bytes | None:
    """What a key of the handshake stands for: its digits as one number, divided by its spaces, in four bytes; None for
    no key."""
    digits, spaces = "".join(each for each in key if "0" <= each <= "9"), key.count(" ")
    if not digits or len(digits) > 20 or not spaces or int(digits) % spaces:
        return None
    found = int(digits) // spaces
    return found.to_bytes(4, "big") if found < 1 << 32 else None


def is_asked_for(headers: Any) -> bool:
    """By the headers of a request that is an upgrade."""
    return all(headers.hasHeader(name) for name in (b"sec-websocket-key1", b"sec-websocket-key2"))


@implementer(IPushProducer)
class OldSocket(Protocol):
    """One connection, with the face that the server and its applications know of WebSockets."""

    transport: Any
    socket = None
    """What only connections of our own protocol have."""

    def __init__(self, request: Any) -> None:
        self.server = request.server
        self.state = State.CONNECTING
        self._request: Any = request
        self._queue: Any = None
        self._numbers: list[bytes | None] = []
        self._answer = b""
        self._denial: dict[str, Any] = {}
        self._buffer = bytearray()
        self._looked_at = 0
        self._reading = True
        self._began_at = time.monotonic()
        self._opened, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()

    # ------------------------------------------------------------------ Twisted's events

    def dataReceived(self, data: bytes) -> None:
        if self._request is not None:
            # Daphne gives the head of the request again, for a protocol that has not seen it.
            request, self._request = self._request, None
            self._begin(request)
            return
        self._buffer += data
        if self.state in (State.CONNECTING, State.ACCEPTED) and len(self._buffer) > self._most:
            self.abort()
        elif self.state is State.ACCEPTED:
            self._open()
        self._take_frames()

    def connectionLost(self, reason: Any = None) -> None:
        self.state = State.CLOSED
        self._opened.set()
        self._room.set()
        if self._queue is not None:
            self._queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self.server.protocol_disconnected(self)

    # ------------------------------------------------------------------ the handshake

    def _begin(self, request: Any) -> None:
        headers = request.requestHeaders

        def header(name: bytes) -> str:
            return bytes(headers.getRawHeaders(name, [b""])[0]).decode("latin1")

        self._numbers = [number_in(header(b"sec-websocket-key1")), number_in(header(b"sec-websocket-key2"))]
        origin, host = header(b"origin"), header(b"host")
        if None in self._numbers or not origin or not host or not request.path.isascii():
            self._deny(400, [], b"This handshake is neither that of RFC 6455 nor of the draft before it.")
            return
        scheme = "wss" if request.isSecure() else "ws"
        lines = [
            "HTTP/1.1 101 WebSocket Protocol Handshake",
            "Upgrade: WebSocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Origin: {origin}",
            f"Sec-WebSocket-Location: {scheme}://{host}{request.uri.decode('latin1')}",
        ]
        self._answer = "\r\n".join([*lines, "", ""]).encode("latin1")
        scope = {
            "type": "websocket",
            "scheme": scheme,
            "path": unquote(request.path.decode("ascii")),
            "raw_path": request.path,
            "root_path": self.server.root_path,
            # What has an underscore could pass for another header.
            "headers": [
                (name.lower(), value)
                for name, values in headers.getAllRawHeaders()
                if b"_" not in name
                for value in values
            ],
            "query_string": request.query_string,
            "client": request.client_addr,
            "server": request.server_addr,
            "subprotocols": [],
        }
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)
        self.server.protocol_connected(self)
        self._queue = self.server.create_application(self, scope)
        self._queue.put_nowait({"type": "websocket.connect"})

    def _open(self) -> None:
        """Answers the nonce, as soon as all of it is there."""
        if len(self._buffer) < NONCE_BYTES:
            return
        nonce = bytes(self._buffer[:NONCE_BYTES])
        del self._buffer[:NONCE_BYTES]
        numbers = b"".join(each for each in self._numbers if each is not None)
        self.transport.write(hashlib.md5(numbers + nonce, usedforsecurity=False).digest())
        self.state = State.OPEN
        self._opened.set()

    def _deny(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        lines = [b"HTTP/1.1 %d Refused" % status, b"Connection: close", b"Content-Length: %d" % len(body)]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self._end()

    # ------------------------------------------------------------------ frames

    @property
    def _most(self) -> int:
        return int(self.server.websocket_max_message_size)

    def _take_frames(self) -> None:
        while self._buffer and self._reading and self.state is State.OPEN:
            if self._buffer[0] != TEXT:
                if self._buffer[:2] == CLOSING:
                    self._close()
                elif len(self._buffer) > 1 or self._buffer[:1] != END:
                    self.abort()
                return
            end = self._buffer.find(END, self._looked_at)
            if (len(self._buffer) if end < 0 else end) > self._most:
                self.abort()
                return
            if end < 0:
                self._looked_at = len(self._buffer)
                return
            payload = bytes(self._buffer[1:end])
            del self._buffer[: end + 1]
            self._looked_at = 0
            try:
                text = payload.decode()
            except ValueError:
                self.abort()
                return
            self._queue.put_nowait({"type": "websocket.receive", "text": text})

    def _close(self) -> None:
        self.transport.write(CLOSING)
        self._end()

    def _end(self) -> None:
        self.state = State.CLOSED
        self.transport.loseConnection()
        # What the client does not take is not kept for ever.
        asyncio.get_running_loop().call_later(self.server.ws_factory.closeHandshakeTimeout, self.abort)

    # ------------------------------------------------------------------ the server's side

    def extensions(self) -> dict[str, object]:
        """For the scope. Of what `SOCKET` can do, reading and aborting."""
        return {DENIAL: {}, SOCKET: self}

    def handle_reply(self, message: dict[str, Any]) -> None:
        """What the application says."""
        match message["type"]:
            case "websocket.accept" if self.state is State.CONNECTING:
                self.transport.write(self._answer)
                self.state = State.ACCEPTED
                self._open()
                self._take_frames()
            case "websocket.send" if self.state is State.OPEN:
                self.transport.write(b"\x00" + message["text"].encode() + END)
            case "websocket.close" if self.state is State.CONNECTING:
                self._deny(403, [], b"")
            case "websocket.close" if self.state is not State.CLOSED:
                self._close()
            case "websocket.http.response.start":
                self._denial = message
            case "websocket.http.response.body":
                self._deny(self._denial["status"], self._denial.get("headers", []), message.get("body", b""))

    async def room(self) -> None:
        """Returns when the client has answered the handshake and takes more, or is gone."""
        if self.state is State.ACCEPTED:
            await self._opened.wait()
        await self._room.wait()

    def handle_exception(self, exception: Exception) -> None:
        """The application raised."""
        self.abort()

    def check_timeouts(self) -> None:
        """Called about every two seconds."""
        late = time.monotonic() - self._began_at > self.server.websocket_connect_timeout
        if late and self.state in (State.CONNECTING, State.ACCEPTED):
            self.abort()

    def abort(self) -> None:
        """Drops the connection now."""
        self.transport.abortConnection()

    def pause_reading(self) -> None:
        self._reading = False
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self._reading = True
        asyncio.get_running_loop().call_soon(self._take_frames)
        self.transport.resumeProducing()

    # ------------------------------------------------------------------ IPushProducer: Twisted about its buffer

    def pauseProducing(self) -> None:
        self._room.clear()

    def resumeProducing(self) -> None:
        self._room.set()

    def stopProducing(self) -> None:
        """The connection is gone; `connectionLost` tells it."""
