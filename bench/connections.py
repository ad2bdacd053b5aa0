"""What a connection costs: CPU to connect, prove who it is and attach, and memory while nothing happens on it.

    python -m bench.connections [--clients 2000] [--turns 5]

Each client has a token of its own and attaches to the same channel. The floor is bare Daphne: the same handshakes, one
frame in and one frame out, the application an echo. Memory is the growth of the server's own pages while all are open,
without what the kernel holds for their sockets; the last line says what stays when all have gone.
"""

from __future__ import annotations

import argparse
import secrets
import selectors
import socket
import time
from collections.abc import Sequence

from bench import machine, wire
from bench.machine import Process, Row

LIMIT_S = 120
AT_ONCE = 200
"""Connections on their way at a time: a crowd, but no longer queue than the kernel's backlog."""

SETTLE_S = 2.5
"""Until what a connection leaves behind for a moment has gone: Daphne looks once a second."""


class Crowd:
    """Many clients, each with its handshake and its first frame; they stay until `leave`."""

    def __init__(
        self, port: int, hellos: Sequence[bytes], first_frame: bytes, answer: bytes, at_once: int = AT_ONCE
    ) -> None:
        self._port = port
        self._hellos = hellos
        self._first_frame = first_frame
        self._answer = answer
        self._at_once = at_once
        self.socks: list[socket.socket] = []

    def come(self) -> None:
        """All connect; returns when each has its answer."""
        selector = selectors.DefaultSelector()
        waiting: dict[socket.socket, bytes] = {}
        starting = iter(self._hellos)
        deadline = time.monotonic() + LIMIT_S
        left = len(self._hellos)
        while left:
            while len(waiting) < self._at_once and (hello := next(starting, None)) is not None:
                sock = socket.socket()
                sock.connect(("127.0.0.1", self._port))
                sock.sendall(hello)
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
                waiting[sock] = b""
                self.socks.append(sock)
            if time.monotonic() > deadline:
                raise SystemExit(f"{left} clients have no answer after {LIMIT_S} s.")
            for key, _ in selector.select(1):
                sock = key.fileobj  # type: ignore[assignment]
                before = waiting[sock]
                data = sock.recv(65536)
                if not data:
                    raise SystemExit(f"A connection was closed: {before!r}")
                came = waiting[sock] = before + data
                if b"\r\n\r\n" not in before and b"\r\n\r\n" in came:
                    if not came.startswith(b"HTTP/1.1 101"):
                        raise SystemExit(came.decode(errors="replace"))
                    sock.sendall(self._first_frame)
                if self._answer in came:
                    selector.unregister(sock)
                    del waiting[sock]
                    left -= 1

    def leave(self) -> None:
        for sock in self.socks:
            sock.close()
        self.socks.clear()


def measure(clients: int = 2000, turns: int = 5) -> list[Row]:
    """Rows of the table: CPU to connect, memory while idle."""
    machine.pin_generator()
    plain_hellos = [wire.handshake() for _ in range(clients)]
    attach = wire.frame({"type": "attach", "ref": 1, "channel": "connections"})
    echoed = b'{"ref":1}'
    memory_bytes: dict[str, list[float]] = {"floor": [], "ours": []}
    left_bytes: list[float] = []
    with machine.running("bench.echo") as echo, machine.running("bench.site") as site:

        def hellos() -> list[bytes]:
            # New tokens in every turn: one that was seen before is not verified again.
            mark = secrets.token_hex(4)
            return [wire.handshake(wire.token(f"client-{mark}-{i}")) for i in range(clients)]

        def turn(name: str, server: Process, crowd: Crowd) -> float:
            base = server.rss_bytes()
            cost = machine.cost(server, crowd.come)
            time.sleep(SETTLE_S)
            memory_bytes[name].append((server.rss_bytes() - base) / clients)
            crowd.leave()
            time.sleep(SETTLE_S)
            if name == "ours":
                left_bytes.append((server.rss_bytes() - base) / clients)
            return cost.cpu_s / clients * 1000

        found = machine.interleaved(
            turns,
            {
                "floor": lambda: turn("floor", echo, Crowd(echo.port, plain_hellos, wire.masked(echoed), echoed)),
                "ours": lambda: turn("ours", site, Crowd(site.port, hellos(), attach, b'"type":"attached"')),
            },
        )
    # Memory once used is used again: only the first turn, on processes that never had so many, shows it.
    floor_bytes, ours_bytes = memory_bytes["floor"][0], memory_bytes["ours"][0]
    print(f"growth in each turn, KB per connection: {', '.join(f'{each / 1e3:.1f}' for each in memory_bytes['ours'])}")
    print(f"left after all had gone, KB per connection: {', '.join(f'{each / 1e3:.1f}' for each in left_bytes)}")
    ratios = [floor / ours for floor, ours in zip(found["floor"], found["ours"], strict=True)]
    return [
        Row(
            "CPU ms to connect, with token and attach (floor: bare Daphne, an echo)",
            machine.spread(found["floor"], ".2f"),
            machine.spread(found["ours"], ".2f"),
            machine.spread(ratios, ".2f"),
            "≤ 1.0 ms",
        ),
        Row(
            f"KB of memory per idle connection, {clients} of them",
            f"{floor_bytes / 1e3:.1f}",
            f"{ours_bytes / 1e3:.1f}",
            f"{floor_bytes / ours_bytes:.2f}",
            "≤ 25",
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=5)
    print(machine.table(measure(**vars(parser.parse_args()))))
