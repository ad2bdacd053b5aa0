"""A client that costs little: sockets, frames made in advance, bytes counted instead of parsed.

The generator shares the machine with the server, and a client library would need more CPU than what it measures.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
import time

from bench.machine import JWT_SECRET

CLIENT = "bench"


def token(client: str = CLIENT) -> str:
    """A JWT that allows everything for an hour."""

    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    claims = {"sub": client, "exp": int(time.time()) + 3600, "cap": {"*": ["*"]}}
    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    signature = hmac.new(JWT_SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def handshake(bearer: str | None = None, offer: str | None = None) -> bytes:
    """The request that opens a WebSocket at /ws; `offer` are its extensions."""
    credentials = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    if offer:
        credentials += f"Sec-WebSocket-Extensions: {offer}\r\n"
    return (
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
        f"{credentials}\r\n"
    ).encode()


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """One frame of a client (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    pad = (mask * (size // 4 + 1))[:size]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big") if size else b""
    return head + mask + body


def frame(value: object) -> bytes:
    """A client's frame of JSON."""
    return masked(json.dumps(value, separators=(",", ":")).encode())


def connect(
    port: int,
    bearer: str | None = None,
    *,
    receive_bytes: int | None = None,
    offer: str | None = None,
    context: ssl.SSLContext | None = None,
) -> socket.socket:
    """An open WebSocket; `receive_bytes` is the kernel's buffer for what the client does not read."""
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", port))
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    sock.sendall(handshake(bearer, offer))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)  # nothing of the frames behind it
        if not byte:
            raise ConnectionError(answer.decode(errors="replace"))
        answer += byte
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(answer.decode(errors="replace"))
    return sock


class Frames:
    """Cuts a stream of a server's bytes into frames."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(opcode, payload) of every frame that is complete now."""
        data = self._left + data if self._left else data
        found: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while at + 2 <= end:
            size, start = data[at + 1], at + 2
            if size == 126:
                if at + 4 > end:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                if at + 10 > end:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + size > end:
                break
            found.append((data[at] & 15, data[start : start + size]))
            at = start + size
        self._left = data[at:]
        return found


def request(sock: socket.socket, cut: Frames, value: object, *answers: str) -> dict[str, object]:
    """Sends a frame and returns the first answer of one of these types; what comes before it is dropped."""
    sock.sendall(frame(value))
    return await_frame(sock, cut, *answers)


def await_frame(sock: socket.socket, cut: Frames, *answers: str) -> dict[str, object]:
    """The next frame of one of these types. Frames behind it in the same read are dropped: ask when it is quiet."""
    while True:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("The server closed the connection.")
        for opcode, payload in cut.feed(data):
            if opcode == 8:
                raise ConnectionError(f"The server closed with {payload!r}.")
            if opcode == 1:
                found: dict[str, object] = json.loads(payload)
                if found["type"] in answers:
                    return found
                if found["type"] == "error":
                    raise ConnectionError(str(found))
