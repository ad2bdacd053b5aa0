"""Proves the load generator before it is trusted: a server that loses, doubles and swaps messages must be found out.

    python -m bench.fanout.check

`python -m bench.fanout` begins with it when it has built the generator anew. The server is a thread with plain sockets,
no faster than it has to be.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from bench.fanout import load

SUBSCRIBERS = 3
PACE = 200
PHASE = (str(PACE), 0.4)
FAULTY = PACE // 2
"""The number of the message that the fault hits, well within the phase that counts."""
ACK_EVERY = 8

Frames = Sequence[bytes]
Fault = Callable[[int, bytes], Frames]
"""(number of the message, its frame) → what the faulty subscriber gets instead."""


def _sound(number: int, frame: bytes) -> Frames:
    return [frame]


def _without(number: int, frame: bytes) -> Frames:
    return [] if number == FAULTY else [frame]


def _twice(number: int, frame: bytes) -> Frames:
    return [frame, frame] if number == FAULTY else [frame]


class _Swap:
    """Keeps one message back, and sends it behind the next."""

    def __init__(self) -> None:
        self._kept: bytes | None = None

    def __call__(self, number: int, frame: bytes) -> Frames:
        if number == FAULTY:
            self._kept = frame
            return []
        kept, self._kept = self._kept, None
        return [frame] if kept is None else [frame, kept]


class FakeServer:
    """Speaks as a broadcasting server (`ws`) or as Seriatim does; treats the second subscriber by a fault."""

    def __init__(self, dialect: str, fault: Fault, *, serial_step_at: int | None = None) -> None:
        self._dialect = dialect
        self._fault = fault
        self._serial_step_at = serial_step_at
        self._number = 0
        self._serial = 0
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []
        self.acks: list[tuple[int, int]] = []
        """(what was acknowledged, what had been sent then)"""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        request = client.recv(8192).decode()
        key = re.search(r"Sec-WebSocket-Key: (\S+)", request)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(f"{key[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        client.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        if self._dialect == "seriatim":
            client.sendall(_text({"type": "ready"}))
        else:
            self._clients.append(client)
        waiting = b""
        while data := _received(client):
            payloads, waiting = _unmasked(waiting + data)
            for payload in payloads:
                self._take(client, payload)

    def _take(self, client: socket.socket, payload: bytes) -> None:
        if self._dialect == "ws":
            self._broadcast(_frame(payload))
            return
        frame = json.loads(payload)
        if frame["type"] == "attach":
            with self._lock:
                self._clients.append(client)
                attached = {
                    "type": "attached",
                    "serial": self._serial,
                    "window": 16,
                    "ack_every": ACK_EVERY,
                    "ack_ms": 50,
                }
                client.sendall(_text(attached))
        elif frame["type"] == "ack":
            self.acks.append((frame["serials"]["bench"], self._serial))
        elif frame["type"] == "publish":
            self._serial += 2 if self._number == self._serial_step_at else 1
            data = frame["messages"][0]["data"]
            self._broadcast(_text({"type": "message", "serial": self._serial, "data": data}))
            client.sendall(_text({"type": "published", "ref": frame["ref"]}))

    def _broadcast(self, frame: bytes) -> None:
        for place, client in enumerate(self._clients):
            for each in self._fault(self._number, frame) if place == 1 else [frame]:
                client.sendall(each)
        self._number += 1


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except OSError:
        return b""


def _unmasked(data: bytes) -> tuple[list[bytes], bytes]:
    """Payloads of a client's frames, and what is not whole yet."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, start = data[at + 1] & 127, at + 2
        if size == 126:
            size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        if start + 4 + size > len(data):
            break
        mask = data[start : start + 4] * (size // 4 + 1)
        payload = data[start + 4 : start + 4 + size]
        found.append(bytes(byte ^ key for byte, key in zip(payload, mask, strict=False)))
        at = start + 4 + size
    return found, data[at:]


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else bytes((0x81, 126)) + size.to_bytes(2, "big")
    return head + payload


def _text(value: object) -> bytes:
    return _frame(json.dumps(value, separators=(",", ":")).encode())


def _counted(
    dialect: str, fault: Fault = _sound, serial_step_at: int | None = None
) -> tuple[dict[str, Any], FakeServer]:
    server = FakeServer(dialect, fault, serial_step_at=serial_step_at)
    try:
        options = {"drain": 0.3}
        loaded = load.run(dialect, server.port, [os.getpid()], SUBSCRIBERS, [PHASE], options)
    finally:
        server.close()
    if loaded.trouble or len(loaded.phases) != 1:
        raise SystemExit(f"The load generator fails at its own check: {loaded.trouble}")
    return loaded.phases[0], server


def _expect(what: str, phase: dict[str, Any], **figures: int) -> None:
    counted = {name: phase[name] for name in ("lost", "doubles", "disorder")}
    expected = {"lost": 0, "doubles": 0, "disorder": 0, **figures}
    if counted != expected or not phase["published"]:
        raise SystemExit(f"The load generator is not to be trusted: {what} was counted as {counted}, not {expected}.")


def generator() -> None:
    """Ends the program when the load generator finds faults where there are none, or not those that there are."""
    for dialect in ("ws", "seriatim"):
        _expect(f"a sound server ({dialect})", _counted(dialect)[0])
        _expect("a lost message", _counted(dialect, _without)[0], lost=1, disorder=1)
        _expect("a doubled message", _counted(dialect, _twice)[0], doubles=1)
        _expect("swapped messages", _counted(dialect, _Swap())[0], lost=1, doubles=1, disorder=1)
    _expect("a serial left out", _counted("seriatim", serial_step_at=FAULTY)[0], disorder=SUBSCRIBERS)
    phase, server = _counted("seriatim")
    most = (phase["published"] + PACE) * SUBSCRIBERS // (ACK_EVERY // 2)
    if not phase["published"] * SUBSCRIBERS // ACK_EVERY - SUBSCRIBERS <= phase["acks"] <= most:
        raise SystemExit(f"The load generator sent {phase['acks']} acks for {phase['published']} messages.")
    if any(acknowledged > sent for acknowledged, sent in server.acks):
        raise SystemExit("The load generator acknowledged what it had not got.")


if __name__ == "__main__":
    generator()
