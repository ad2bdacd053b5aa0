"""A bystander: what one client notices while the server is busy with others. A process of its own, so that the
generator's work does not count as the server's delay.

It publishes a durable message every so often to a channel that it follows itself, and notes how long each took to come
back. It also notes the pauses between heartbeats of a second connection that does nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import selectors
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench import machine, wire

CHANNEL = "probe"
TEXT, PING, PONG = 1, 9, 10


@dataclass(frozen=True)
class Noticed:
    """Since it was last asked. Milliseconds."""

    latencies_ms: Sequence[float]
    heartbeats_ms: Sequence[float]
    """Pauses between two heartbeats."""

    def latency_ms(self, share: float) -> float:
        return quantile(self.latencies_ms, share)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Probe:
    """Starts at once; `noticed` asks it, `stop` ends it."""

    def __init__(self, port: int, every_s: float = 0.05) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        bearers = wire.token("probe"), wire.token("probe-idle")
        self._process = context.Process(target=_run, args=(other, port, bearers, every_s), daemon=True)
        self._process.start()
        self._pipe.recv()

    def noticed(self) -> Noticed:
        self._pipe.send("tell")
        found: Noticed = self._pipe.recv()
        return found

    def stop(self) -> None:
        self._pipe.send("stop")
        self._process.join(5)


def _run(pipe: Connection, port: int, bearers: tuple[str, str], every_s: float) -> None:
    machine.pin_generator()
    sock, idle = (wire.connect(port, bearer) for bearer in bearers)
    cut, cut_idle = wire.Frames(), wire.Frames()
    wire.await_frame(sock, cut, "ready")
    wire.await_frame(idle, cut_idle, "ready")
    wire.request(sock, cut, {"type": "attach", "ref": 1, "channel": CHANNEL, "window": 0}, "attached")
    selector = selectors.DefaultSelector()
    for each in (sock, idle, pipe):
        selector.register(each, selectors.EVENT_READ)
    pipe.send("ready")
    sent: dict[int, float] = {}
    latencies: list[float] = []
    heartbeats: list[float] = []
    beat_at = None
    number, next_at = 0, time.monotonic()
    while True:
        now = time.monotonic()
        if now >= next_at:
            number, next_at = number + 1, max(next_at + every_s, now)
            sent[number] = now
            sock.sendall(wire.frame({"type": "publish", "channel": CHANNEL, "messages": [{"data": number}]}))
        for key, _ in selector.select(max(0.0, next_at - time.monotonic())):
            if key.fileobj is pipe:
                if pipe.recv() == "stop":
                    return
                now = time.monotonic()
                # What has not come yet is at least so late.
                late = [(now - at) * 1000 for at in sent.values() if now - at > 1]
                pipe.send(Noticed([*latencies, *late], heartbeats))
                latencies, heartbeats = [], []
            elif key.fileobj is sock:
                for frame in _frames(sock, cut):
                    if frame["type"] == "message":
                        latencies.append((time.monotonic() - sent.pop(frame["data"])) * 1000)
            else:
                for frame in _frames(idle, cut_idle):
                    if frame["type"] == "heartbeat":
                        now = time.monotonic()
                        if beat_at is not None:
                            heartbeats.append((now - beat_at) * 1000)
                        beat_at = now


def _frames(sock: socket.socket, cut: wire.Frames) -> Iterator[dict[str, Any]]:
    """The text frames that came; pings are answered."""
    for opcode, payload in cut.feed(sock.recv(65536)):
        if opcode == PING:
            sock.sendall(wire.masked(payload, PONG))
        elif opcode == TEXT:
            yield json.loads(payload)


def describe(noticed: Noticed) -> str:
    """In a few words."""
    if not noticed.latencies_ms:
        return "nothing came"
    return (
        f"{statistics.median(noticed.latencies_ms):.0f} / {noticed.latency_ms(0.99):.0f} / "
        f"{max(noticed.latencies_ms):.0f} ms"
    )
