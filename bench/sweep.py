"""What it costs a worker to follow 10,000 channels: memory, and the question for their heads once a second.

    python -m bench sweep
    python -m bench.sweep [--connections 100] [--channels 100] [--turns 4]
    python -m tests.servers postgres redis -- python -m bench.sweep

Each connection attaches to channels of its own, all of which exist. Then nothing happens but heartbeats, sweeps and,
with Redis, beacons. The floor is the same worker with the same connections while they are detached.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence

from bench import machine, wire
from bench.machine import Process, Row
from realtime.conf import Settings

SETTLE_S = 3
"""For what attaching leaves to be done: joining groups, collecting garbage."""

TOLD_S = 60

MESSAGES_A_ROUND = 200


def make_channels(server: Process, names: Sequence[str]) -> None:
    """A message in each, so that each has a log."""
    with wire.connect(server.port, wire.token()) as sock:
        wire.await_frame(sock, wire.Frames(), "ready")
        for at in range(0, len(names), MESSAGES_A_ROUND):
            part = names[at : at + MESSAGES_A_ROUND]
            frames = [
                wire.frame({"type": "publish", "channel": name, "messages": [{"id": name, "data": 1}]}) for name in part
            ]
            sock.sendall(b"".join(frames))
            _await(sock, "published", len(part))


def _await(sock: socket.socket, kind: str, count: int) -> None:
    """So many frames of a kind; any error ends the measurement."""
    cut = wire.Frames()
    deadline = time.monotonic() + TOLD_S
    while count:
        data = sock.recv(262144)
        if not data or time.monotonic() > deadline:
            raise SystemExit(f"{count} frames of type {kind} did not come.")
        for opcode, payload in cut.feed(data):
            found = json.loads(payload) if opcode == 1 else {}
            if found.get("type") == "error":
                raise SystemExit(str(found))
            count -= found.get("type") == kind


class Crowd:
    """Connections to one worker, each with channels of its own, attached or not."""

    def __init__(self, server: Process, names: Sequence[Sequence[str]]) -> None:
        self.server = server
        self._names = names
        self._count = sum(map(len, names))
        self._socks = list(_connect(server, len(names)))
        self.attach_us: list[float] = []
        self.grown_bytes = 0
        time.sleep(SETTLE_S)
        self._bytes = server.rss_bytes()

    def idle_ms(self, seconds: float) -> float:
        """CPU milliseconds of a second in which nothing happens."""
        return machine.cost(self.server, lambda: time.sleep(seconds)).cpu_s / seconds * 1e3

    def following_ms(self, seconds: float) -> float:
        """The same while all channels are followed."""
        cost = machine.cost(self.server, lambda: self._all("attach", "attached"))
        self.attach_us.append(cost.cpu_s / self._count * 1e6)
        time.sleep(SETTLE_S)
        # Of the first time: later, what was freed is used again.
        self.grown_bytes = self.grown_bytes or self.server.rss_bytes() - self._bytes
        found = self.idle_ms(seconds)
        self._all("detach", "detached")
        time.sleep(Settings.LINGER_S.default + SETTLE_S)
        return found

    def leave(self) -> None:
        for sock in self._socks:
            sock.close()

    def _all(self, wish: str, answer: str) -> None:
        for sock, part in zip(self._socks, self._names, strict=True):
            sock.sendall(b"".join([wire.frame({"type": wish, "ref": 1, "channel": name}) for name in part]))
            _await(sock, answer, len(part))


def measure(connections: int = 100, channels: int = 100, seconds: float = 6, turns: int = 4) -> list[Row]:
    """The rows of the table."""
    machine.pin_generator()
    names = [[f"sweep-{connection}-{channel}" for channel in range(channels)] for connection in range(connections)]
    count = connections * channels
    where = "PostgreSQL" if "DATABASE_URL" in os.environ else "SQLite"
    where += " and Redis" if "REDIS_URL" in os.environ else ""
    with machine.running("bench.site") as server:
        make_channels(server, [name for each in names for name in each])
        crowd = Crowd(server, names)
        found = machine.interleaved(
            turns, {"floor": lambda: crowd.idle_ms(seconds), "ours": lambda: crowd.following_ms(seconds)}
        )
        crowd.leave()
    sweeps_us = [(ours - floor) / count * 1e3 for floor, ours in zip(found["floor"], found["ours"], strict=True)]
    print(
        f"attaching {machine.spread(crowd.attach_us)} µs of CPU a channel; "
        f"a sweep {machine.spread(sweeps_us, '.1f')} µs a channel"
    )
    return [
        Row(
            f"CPU ms of an idle second with {count:,} channels followed, {where} (floor: the same without)",
            machine.spread(found["floor"], ".0f"),
            machine.spread(found["ours"], ".0f"),
            "",
            "",
        ),
        Row(f"bytes for each channel and its attachment, {where}", "", f"{crowd.grown_bytes / count:,.0f}", "", ""),
    ]


def _connect(server: Process, count: int) -> Iterator[socket.socket]:
    for number in range(count):
        sock = wire.connect(server.port, wire.token(f"client-{number}"))
        wire.await_frame(sock, wire.Frames(), "ready")
        yield sock


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--channels", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--turns", type=int, default=4)
    print(machine.table(measure(**vars(parser.parse_args()))))
