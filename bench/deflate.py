"""What permessage-deflate saves and costs: bytes on the wire, CPU of a broadcast, memory of a connection.

    python -m bench.deflate [--subscribers 300] [--messages 300] [--connections 2000]

The floor are the same subscribers without the extension, on the same server. Messages are chat texts and rows of
figures, published one by one over one WebSocket; a turn ends when every subscriber has every byte.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import ssl
import statistics
import time
import zlib

from bench import machine, wire
from bench.machine import Process, Row

OFFER = "permessage-deflate; client_max_window_bits"
PONG = 10
COMPRESSED_TEXT = 0x41
"""Opcode and RSV1."""
LIMIT_S = 300
TURNS = 5

SPOKEN = (
    "the of and to in you that it he was for on are with his they be this have from one had by word but not what all "
    "were we when your can said there use an each which she do how their if will up other about out many then them "
    "these so some her would make like him into time has look two more write go see number no way could people my than "
    "first water been call who oil its now find long down day did get come made may part"
)
WORDS = SPOKEN.split()


def chat(dice: random.Random, words: int) -> object:
    return {"text": " ".join(dice.choice(WORDS) for _ in range(words))}


def feed(dice: random.Random, rows: int) -> object:
    return {
        "rows": [
            {
                "symbol": "".join(dice.choices("ABCDEFGHIJ", k=4)),
                "price": round(dice.random() * 1000, 2),
                "volume": dice.randrange(10**6),
                "change": round(dice.random() * 4 - 2, 3),
            }
            for _ in range(rows)
        ]
    }


KINDS = {
    "chat, 12 words": lambda dice: chat(dice, 12),
    "chat, 80 words": lambda dice: chat(dice, 80),
    "10 rows of figures": lambda dice: feed(dice, 10),
    "100 rows of figures": lambda dice: feed(dice, 100),
    "700 rows of figures": lambda dice: feed(dice, 700),
}


def pack(payload: bytes) -> bytes:
    """A client's compressed message (RFC 7692 §7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Audience:
    """Subscribers of one channel that count what they get."""

    def __init__(
        self, server: Process, channel: str, count: int, offer: str | None, context: ssl.SSLContext | None = None
    ) -> None:
        self._server = server
        self._channel = channel
        self._selector = selectors.DefaultSelector()
        self.bytes = 0
        self._publisher = wire.connect(server.port, wire.token("publisher"), context=context)
        self._cut = wire.Frames()
        wire.await_frame(self._publisher, self._cut, "ready")
        self._publish(None)
        self._socks = [wire.connect(server.port, wire.token(), offer=offer, context=context) for _ in range(count)]
        for sock in self._socks:
            cut = wire.Frames()
            wire.await_frame(sock, cut, "ready")
            wire.request(sock, cut, {"type": "attach", "ref": 1, "channel": channel, "window": 0}, "attached")
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
        self._got = dict.fromkeys(self._socks, 0)

    def _publish(self, data: object) -> None:
        frame = {"type": "publish", "channel": self._channel, "messages": [{"data": data}]}
        wire.request(self._publisher, self._cut, frame, "published")

    def broadcast(self, messages: list[object]) -> float:
        """CPU milliseconds of the server for each of them; `bytes` is then what one subscriber got for each."""
        # While the others had their turn, heartbeats came; and who says nothing for long would be asked.
        for sock in self._socks:
            sock.sendall(wire.masked(b"", PONG))
        while self._read(0.1):
            pass
        before, cpu_s = dict(self._got), self._server.cpu_s()
        for data in messages:
            self._publish(data)
            self._read(0)
        deadline = time.monotonic() + LIMIT_S
        while len({self._got[sock] - before[sock] for sock in self._socks}) > 1 or self._read(0.3):
            if time.monotonic() > deadline:
                raise SystemExit(f"Not all have everything after {LIMIT_S} s.")
            self._read(0.1)
        self.bytes = (self._got[self._socks[0]] - before[self._socks[0]]) // len(messages)
        return (self._server.cpu_s() - cpu_s) / len(messages) * 1000

    def _read(self, timeout_s: float) -> bool:
        """Takes what there is; whether there was something."""
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            self._got[sock] += _take(sock)
        return bool(ready)

    def leave(self) -> None:
        for sock in [*self._socks, self._publisher]:
            sock.close()


def _take(sock: socket.socket) -> int:
    """How many bytes there are. Of TLS all records: the kernel tells nothing of those that were read already."""
    taken = 0
    while True:
        try:
            size = len(sock.recv(1 << 20))
        except ssl.SSLWantReadError:
            return taken
        taken += size
        if not size or not isinstance(sock, ssl.SSLSocket):
            return taken


def idle_bytes(server: Process, count: int, offer: str | None) -> float:
    """How much the server grows for each of so many connections that are idle after one message each way, compressed
    where that was agreed on. They are closed then."""
    before = server.rss_bytes()
    socks = []
    for _ in range(count):
        socks.append(wire.connect(server.port, wire.token(), offer=offer))
        cut = wire.Frames()
        wire.await_frame(socks[-1], cut, "ready")
        ping = json.dumps({"type": "ping", "ref": 1, "more": "x" * 600}).encode()
        socks[-1].sendall(wire.masked(ping) if offer is None else wire.masked(pack(ping), COMPRESSED_TEXT))
        wire.await_frame(socks[-1], cut, "pong")
    grown = server.rss_bytes() - before
    for sock in socks:
        sock.close()
    time.sleep(3)
    return grown / count


def measure(subscribers: int = 300, messages: int = 300, connections: int = 2000) -> list[Row]:
    machine.pin_generator()
    dice = random.Random(1)
    rows: list[Row] = []
    for kind, make in KINDS.items():
        data = [make(dice) for _ in range(messages)]
        with machine.running("bench.site") as server:
            audiences = {
                "floor": Audience(server, "plain", subscribers, None),
                "ours": Audience(server, "packed", subscribers, OFFER),
            }
            figures = machine.interleaved(
                TURNS, {name: lambda each=each, data=data: each.broadcast(data) for name, each in audiences.items()}
            )
            floor, ours = audiences["floor"].bytes, audiences["ours"].bytes
        size = len(json.dumps(data[0], separators=(",", ":")))
        ratio = statistics.median(o / f for f, o in zip(figures["floor"], figures["ours"], strict=True))
        rows += [
            Row(
                f"bytes on the wire a message: {kind} ({size:,} bytes of data)",
                f"{floor:,}",
                f"{ours:,}",
                f"{ours / floor:.2f}",
                "",
            ),
            Row(
                f"CPU ms a broadcast to {subscribers}: {kind}",
                machine.spread(figures["floor"], ".2f"),
                machine.spread(figures["ours"], ".2f"),
                f"{ratio:.2f}",
                "",
            ),
        ]
    memory: dict[str, list[float]] = {"floor": [], "ours": []}
    for _ in range(3):
        for name, offer in (("floor", None), ("ours", OFFER)):
            with machine.running("bench.site") as server:
                idle_bytes(server, 200, offer)
                memory[name].append(idle_bytes(server, connections, offer) / 1000)
    rows.append(
        Row(
            f"KB of an idle connection ({connections:,} of them)",
            machine.spread(memory["floor"], ".1f"),
            machine.spread(memory["ours"], ".1f"),
            f"{statistics.median(memory['ours']) / statistics.median(memory['floor']):.2f}",
            "≤ 1.05",
        )
    )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=300)
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--connections", type=int, default=2000)
    print(machine.table(measure(**vars(parser.parse_args()))))
