"""The handbook's first chapter in figures: what one message costs over each transport, on the wire and on the server.

    python -m bench.transports [--subscribers 100] [--rate 5] [--seconds 10]

The same channel, the same subscribers, the same pace, one transport after the other; plain polling asks REST for the
history once a second, as a page without any of this would. Bytes are those of the subscribers' sockets, both ways.
Latency is from before the publish to the last byte of the message at a subscriber, so it has the commit in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from bench import machine, wire
from bench.machine import Process

CHANNEL = "news"
PLAIN_POLL_S = 1.0
SETTLE_S = 4.0
STAMP = re.compile(rb'"at":([0-9]+)')
POSITIONS = re.compile(rb'"positions":(\{.*\}),"poll_after_ms"')
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@dataclass
class Figures:
    messages: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def heard(self, data: bytes) -> None:
        now_us = time.time_ns() // 1000
        for stamp in STAMP.findall(data):
            self.messages += 1
            self.latencies_ms.append((now_us - int(stamp)) / 1000)


@dataclass
class Subscriber:
    """One client, as its transport needs it. `figures` counts from when it is told to."""

    server: Process
    token: str
    figures: Figures = field(default_factory=Figures)

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.server.port)

    def write(self, data: bytes) -> None:
        self.figures.bytes_out += len(data)
        self.writer.write(data)

    def request(self, method: str, path: str, body: bytes = b"") -> None:
        length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.token}\r\n{length}\r\n"
        self.write(head.encode() + body)

    async def answer(self) -> bytes:
        """A whole response with a length: its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        found = LENGTH.search(head)
        assert found, head
        body = await self.reader.readexactly(int(found[1]))
        self.figures.bytes_in += len(head) + len(body)
        self.figures.heard(body)
        return body

    async def read_on(self) -> None:
        rest = b""
        while data := await self.reader.read(65536):
            self.figures.bytes_in += len(data)
            # A stamp may be cut by the end of a read.
            whole, newline, rest = (rest + data).rpartition(b"}")
            self.figures.heard(whole + newline)

    async def websocket(self) -> None:
        await self.open()
        self.write(wire.handshake(self.token))
        await self.reader.readuntil(b"\r\n\r\n")
        self.write(wire.frame({"type": "attach", "ref": 1, "channel": CHANNEL, "window": 0}))
        await self.read_on()

    async def streaming(self) -> None:
        await self.open()
        self.request("GET", f"/api/v1/stream?attach={CHANNEL}")
        await self.read_on()

    async def sse(self) -> None:
        await self.open()
        self.request("GET", f"/api/v1/channels/{CHANNEL}/events")
        await self.read_on()

    async def long_polling(self) -> None:
        await self.open()
        attach: dict[str, object] = {"channel": CHANNEL}
        while True:
            self.request("POST", "/api/v1/poll", json.dumps({"attach": [attach]}).encode())
            found = POSITIONS.search(await self.answer())
            assert found
            attach["from"] = json.loads(found[1])[CHANNEL]

    async def polling(self) -> None:
        await self.open()
        after = None
        while True:
            query = "limit=1" if after is None else f"after={after}"
            self.request("GET", f"/api/v1/channels/{CHANNEL}/messages?{query}")
            body = json.loads(await self.answer())
            after = body["head"]
            await asyncio.sleep(PLAIN_POLL_S)


TRANSPORTS: dict[str, Callable[[Subscriber], Coroutine[None, None, None]]] = {
    "polling, once a second": Subscriber.polling,
    "long polling": Subscriber.long_polling,
    "streaming": Subscriber.streaming,
    "Server-Sent Events": Subscriber.sse,
    "WebSocket": Subscriber.websocket,
}


async def follow(transport: str, server: Process, subscribers: int, rate: float, seconds: float) -> list[str]:
    """A row of the table."""
    tasks, clients = [], [Subscriber(server, wire.token(f"s{number}")) for number in range(subscribers)]
    for client in clients:
        tasks.append(asyncio.ensure_future(TRANSPORTS[transport](client)))
        await asyncio.sleep(0.01)
    await asyncio.sleep(SETTLE_S)
    for client in clients:
        client.figures = Figures()
    cpu_s = server.cpu_s()
    await asyncio.sleep(seconds)
    idle_ms = (server.cpu_s() - cpu_s) * 1000 / subscribers / seconds
    idle_bytes = sum(each.figures.bytes_in + each.figures.bytes_out for each in clients) / subscribers / seconds
    for client in clients:
        client.figures = Figures()
    cpu_s = server.cpu_s()
    await asyncio.to_thread(publish, server, rate, seconds)
    await asyncio.sleep(SETTLE_S)
    spent_ms = (server.cpu_s() - cpu_s) * 1000
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        client.writer.close()
    count = int(rate * seconds)
    assert all(each.figures.messages == count for each in clients), [each.figures.messages for each in clients]
    latencies = sorted(each for client in clients for each in client.figures.latencies_ms)
    into = statistics.mean(each.figures.bytes_in for each in clients) / count
    out = statistics.mean(each.figures.bytes_out for each in clients) / count
    p50, p99 = (latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
    return [
        transport,
        f"{into:,.0f} + {out:,.0f}",
        f"{p50:,.0f}",
        f"{p99:,.0f}",
        f"{spent_ms / count / subscribers * 1000:,.0f}",
        f"{idle_bytes:,.0f}",
        f"{idle_ms * 1000:,.0f}",
    ]


def publish(server: Process, rate: float, seconds: float) -> None:
    """At an even pace over one WebSocket; `at` in the data is the time before."""
    sock = wire.connect(server.port, wire.token("publisher"))
    cut = wire.Frames()
    wire.await_frame(sock, cut, "ready")
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        data = {"text": "x" * 150, "at": time.time_ns() // 1000}
        frame = {"type": "publish", "channel": CHANNEL, "messages": [{"data": data}]}
        wire.request(sock, cut, frame, "published")
    sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--rate", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    machine.pin_generator()
    threading.stack_size(256 * 1024)
    print(f"{machine.describe()}; {given.subscribers} subscribers, {given.rate:g} messages a second.\n")
    print(
        "| transport | bytes a message, down + up | p50 ms | p99 | µs of server CPU a delivery"
        " | bytes an idle second | µs of CPU an idle second |\n|---|---|---|---|---|---|---|"
    )
    for transport in TRANSPORTS:
        with machine.running("bench.site") as server:
            publish(server, 10, 0.2)
            row = asyncio.run(follow(transport, server, given.subscribers, given.rate, given.seconds))
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
