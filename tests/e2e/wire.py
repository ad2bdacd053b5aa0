"""The wire, raw: a WebSocket and an HTTP client that hide nothing and repair nothing.

Not a library's client, because these tests need to see what a library smooths over: the bytes of each frame, a frame
that was cut in its middle, the close code, a socket that is not read. Frames are masked with a key of zeros, which is a
valid mask and leaves the payload readable in a trace.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket as sockets
import struct
import time
from collections.abc import Callable
from typing import Any

import jwt

SECRET = "only-for-tests-" + "s" * 40
"""REALTIME_JWT_SECRET of `tests.servers.site_environment`."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def token(client: str, *, ttl_s: float = 3600, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token for `client`; every claim can be given otherwise."""
    payload: dict[str, Any] = {"sub": client, "exp": int(time.time() + ttl_s), **claims}
    return jwt.encode(payload, secret, algorithm=algorithm)


def frame_bytes(payload: bytes, opcode: int = TEXT, *, fin: bool = True, mask: bool = True) -> bytes:
    """One WebSocket frame of a client."""
    first = (0x80 if fin else 0) | opcode
    bit = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (b"\0\0\0\0" if mask else b"") + payload


class HandshakeRefused(ConnectionError):
    """The server answered the handshake with something else than 101; `text` is the body."""

    def __init__(self, status: int, head: str, text: str) -> None:
        super().__init__(f"handshake answered with {status}: {head[:200]} {text[:200]}")
        self.status = status
        self.text = text


class RawSocket(asyncio.Protocol):
    """One WebSocket. `on_text` gets each text message, `on_end` is called once when the connection is over.

    `cut_inside` says that it ended in the middle of a frame; `close_code` that the server closed it in order.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.on_text: Callable[[bytes], None] = lambda text: None
        self.on_end: Callable[[], None] = lambda: None
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.close_code: int | None = None
        self.close_reason = ""
        self.cut_inside = False
        self.faults: list[str] = []
        """What no server may send: continuations, masked or binary frames, text that is not UTF-8."""
        self.local_port = 0
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._handshake = True

    # ------------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.local_port = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._handshake:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).decode("latin1")
            status = int(head.split(" ", 2)[1])
            if status != 101:
                size = re.search(r"(?im)^content-length: *(\d+)", head)
                body = bytes(self._buffer[end + 4 :])
                if size is not None and len(body) < int(size[1]):
                    return
                if not self.opened.done():
                    self.opened.set_exception(HandshakeRefused(status, head, body.decode()))
                self.abort()
                return
            del self._buffer[: end + 4]
            self._handshake = False
            if not self.opened.done():
                self.opened.set_result(None)
        self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut_inside = bool(self._buffer) and not self._handshake
        if not self.opened.done():
            self.opened.set_exception(ConnectionResetError("cut in the handshake"))
            self.opened.exception()  # looked at, if nobody waits
        if not self.ended.done():
            self.ended.set_result(None)
            self.on_end()

    def _parse(self) -> None:
        buffer = self._buffer
        at = 0
        end = len(buffer)
        while end - at >= 2:
            first, size = buffer[at], buffer[at + 1]
            start = at + 2
            if size == 126:
                if end - at < 4:
                    break
                size = int.from_bytes(buffer[at + 2 : at + 4], "big")
                start = at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size = int.from_bytes(buffer[at + 2 : at + 10], "big")
                start = at + 10
            elif size > 127:
                self.faults.append("a masked frame")
                size &= 127
            if end - start < size:
                break
            payload = bytes(buffer[start : start + size])
            at = start + size
            self._frame(first, payload)
        del buffer[:at]

    def _frame(self, first: int, payload: bytes) -> None:
        if first == 0x80 | TEXT:
            self.on_text(payload)
        elif first == 0x80 | CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.close_reason = payload[2:].decode(errors="replace")
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(frame_bytes(payload[:2], CLOSE))
                self.transport.close()
        elif first == 0x80 | PING:
            self.write(frame_bytes(payload, PONG))
        elif first != 0x80 | PONG:
            self.faults.append(f"a frame that begins with {first:#x}")

    # ------------------------------------------------------------------ sending

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Any bytes at all."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def send_text(self, text: bytes) -> None:
        self.write(frame_bytes(text))

    def send(self, frame: dict[str, Any]) -> None:
        self.send_text(json.dumps(frame, separators=(",", ":")).encode())

    def deaf(self, *, on: bool) -> None:
        """Reads nothing from the socket while on."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading() if on else self.transport.resume_reading()

    def abort(self) -> None:
        """Ends the connection as a dying client does: with a TCP reset."""
        if self.transport is not None:
            linger_reset(self.transport)
            self.transport.abort()

    async def close(self) -> None:
        """Ends the connection in order."""
        self.write(frame_bytes(struct.pack("!H", 1000), CLOSE))
        try:
            await asyncio.wait_for(asyncio.shield(self.ended), 10)
        except TimeoutError:
            self.abort()


def linger_reset(transport: asyncio.BaseTransport) -> None:
    """Makes the socket's end a reset, so that what is still buffered reaches nobody."""
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))


def handshake_bytes(port: int, bearer: str | None = None, *, path: str = "/ws", headers: str = "") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    authorization = f"Authorization: Bearer {bearer}\r\n" if bearer is not None else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{authorization}{headers}\r\n"
    ).encode()


async def connect(
    port: int,
    bearer: str | None = None,
    *,
    headers: str = "",
    into: RawSocket | None = None,
    timeout_s: float = 30,
    path: str = "/ws",
) -> RawSocket:
    """A WebSocket that is open. Raises OSError when it does not come about (`HandshakeRefused` with the status)."""
    socket = into or RawSocket()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: socket, "127.0.0.1", port)
    socket.write(handshake_bytes(port, bearer, path=path, headers=headers))
    try:
        await asyncio.wait_for(asyncio.shield(socket.opened), timeout_s)
    except TimeoutError:
        socket.abort()
        raise ConnectionError("the handshake was not answered") from None
    return socket


class Talker(RawSocket):
    """A socket for tests that speak in turns: messages gather in `inbox`."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.on_text = lambda text: self.inbox.put_nowait(json.loads(text))
        self.on_end = lambda: self.inbox.put_nowait(None)

    async def receive(self, timeout_s: float = 30) -> dict[str, Any] | None:
        """The next frame; None when the connection is over."""
        return await asyncio.wait_for(self.inbox.get(), timeout_s)

    async def until(self, kind: str, timeout_s: float = 30) -> dict[str, Any]:
        """The next frame of this type; those before it are dropped."""
        while True:
            frame = await self.receive(timeout_s)
            if frame is None:
                raise ConnectionError(f"closed with {self.close_code} {self.close_reason} before `{kind}`")
            if frame["type"] == kind:
                return frame

    async def ask(self, frame: dict[str, Any], timeout_s: float = 30) -> dict[str, Any]:
        """Sends a request and returns its answer, found by `ref`."""
        self.send(frame)
        while True:
            answer = await self.receive(timeout_s)
            if answer is None:
                raise ConnectionError(f"closed with {self.close_code} {self.close_reason} before an answer")
            if answer.get("ref") == frame["ref"]:
                return answer


async def talker(port: int, bearer: str | None = None, *, headers: str = "") -> Talker:
    """A `Talker` that is open; with a token, also `ready`."""
    socket = Talker()
    await connect(port, bearer, headers=headers, into=socket)
    if bearer is not None:
        await socket.until("ready")
    return socket


GATEWAY = (502, 503, 504)
"""What a balancer says of a server that went away; ours answer in JSON."""


class Unanswered(ConnectionError):
    """The request was sent, and its answer did not come: it may have had its effect."""


async def request(
    port: int,
    method: str,
    path: str,
    bearer: str | None = None,
    body: object = None,
    *,
    timeout_s: float = 60,
) -> tuple[int, Any]:
    """One HTTP request on a connection of its own: status and JSON. Raises OSError; `Unanswered` once it was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = False
    try:
        content = b"" if body is None else json.dumps(body).encode()
        authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{authorization}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        sent = True
        answer = await asyncio.wait_for(reader.read(-1), timeout_s)
        head, separator, text = answer.partition(b"\r\n\r\n")
        if not separator:
            raise Unanswered("no answer")
        lines = head.decode("latin1").lower().split("\r\n")
        length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), None)
        if length is None or len(text) < length:
            raise Unanswered("half an answer")
        status = int(lines[0].split(" ")[1])
        if status in GATEWAY and "content-type: application/json" not in lines:
            raise Unanswered(f"{status} of a balancer, whose server may have had the request")
        return status, json.loads(text)
    except (OSError, TimeoutError) as error:
        if sent and not isinstance(error, Unanswered):
            raise Unanswered(str(error)) from error
        raise
    finally:
        writer.transport.abort()
