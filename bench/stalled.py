"""What subscribers that stand still cost a worker: memory while 100,000 messages go by, and whether all get them later.

    python -m bench.stalled [--messages 100000] [--stalled 200] [--silent 200] [--whole N] [--first 5000]

`stalled` subscribers do not read their socket (half of them with window 0, half with the default window, all with small
kernel buffers); `silent` ones read but never acknowledge. Nobody is cut off for it: otherwise who takes nothing for two
heartbeats is, and would have to connect again. Messages of 200 bytes are published in batches of 100. Then
all go on, and every one must get every message in order. The floor is the growth with nobody standing still, after the
worker's cache of blocks was filled once. With `--whole N` all go on for the `first` messages, then N of each kind to
the end: a million messages to two thousand are 600 gigabytes, which no loopback carries in minutes.

One reader that keeps up has its frames parsed. Frames are the same bytes for all, so that what it got is the reference
that the others' streams are compared with, gigabytes at the speed of memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import secrets
import selectors
import socket
import time
from bisect import bisect_right
from collections.abc import Callable

from bench import machine, wire
from bench.machine import Process, Row
from bench.probe import Probe, describe
from bench.publish import DATA

BATCH = 100
IN_FLIGHT = 8
SMALL_BYTES = 4096
LARGE_BYTES = 1 << 20
LIMIT_S = 300
FLOOR_MESSAGES = 150_000
"""Enough to fill the cache of blocks."""
PING, PONG, CLOSE = 9, 10, 8


FIRST = 2
"""Serial of the first message that counts: the one before it makes the channel."""


_numbers = itertools.count()


class Reference:
    """The stream of a channel's message frames, as one who keeps up gets it."""

    def __init__(self) -> None:
        self.stream = bytearray()
        self.ends: list[int] = []
        """Where the frame of each serial ends."""
        self._cut = wire.Frames()

    def feed(self, data: bytes) -> None:
        for opcode, payload in self._cut.feed(data):
            message = json.loads(payload) if opcode == 1 else {}
            if message.get("type") != "message":
                continue
            if message["serial"] != len(self.ends) + FIRST:
                raise SystemExit(f"Serial {message['serial']} after {len(self.ends) + FIRST - 1}")
            self.stream += _head(opcode, len(payload)) + payload
            self.ends.append(len(self.stream))

    def serial(self, position: int) -> int:
        """The last serial that is whole in the first `position` bytes."""
        return bisect_right(self.ends, position) + FIRST - 1

    def start_of(self, position: int) -> int:
        """Where the frame begins that the byte at `position` belongs to."""
        before = bisect_right(self.ends, position)
        return self.ends[before - 1] if before else 0


def _head(opcode: int, size: int) -> bytes:
    return bytes((0x80 | opcode, size)) if size < 126 else bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")


class Subscriber:
    """One that stands still first, and whose stream is compared afterwards."""

    def __init__(self, port: int, channel: str, window: int | None, *, reads: bool) -> None:
        # Not more than 1,000 connections of one client.
        self.sock = wire.connect(
            port, wire.token(f"bench-{next(_numbers) % 10}"), receive_bytes=None if reads else SMALL_BYTES
        )
        cut = wire.Frames()
        wire.await_frame(self.sock, cut, "ready")
        attach = {"type": "attach", "ref": 1, "channel": channel}
        if window is not None:
            attach["window"] = window
        self.window = int(str(wire.request(self.sock, cut, attach, "attached")["window"]))
        self.channel = channel
        self.sock.setblocking(False)
        self.position = 0
        self.waiting = bytearray()
        """Read, not compared yet."""
        self._acked = 0

    def read(self) -> bytes:
        data = self.sock.recv(LARGE_BYTES)
        if not data:
            raise SystemExit("A connection was closed.")
        return data

    def compare(self, reference: Reference, data: bytes) -> None:
        """Takes a piece of the stream; anything but the reference and signs of life ends the measurement."""
        if self.waiting:
            data = bytes(self.waiting) + data
            self.waiting.clear()
        while data:
            if reference.stream[self.position : self.position + len(data)] == data:
                self.position += len(data)
                return
            at = _first_difference(reference.stream, self.position, data)
            start = reference.start_of(self.position + at)
            if start < self.position:
                data = bytes(reference.stream[start : self.position]) + data
            else:
                data = data[start - self.position :]
            self.position = start
            cut = wire.Frames()
            size = data[1]
            if size > 125 or len(data) < 2 + size:
                if len(data) < 4:
                    self.waiting += data
                    return
                raise SystemExit(f"After serial {reference.serial(start)}: {data[:80]!r}")
            ((opcode, payload),) = cut.feed(data[: 2 + size])
            data = data[2 + size :]
            if opcode == PING:
                self.sock.sendall(wire.masked(payload, PONG))
            elif opcode != 1 or json.loads(payload)["type"] != "heartbeat":
                raise SystemExit(f"After serial {reference.serial(start)}: {payload!r}")

    def acknowledge(self, reference: Reference) -> None:
        """As the server asks: after every half of a window."""
        if self.window:
            serial = reference.serial(self.position)
            if serial - self._acked >= self.window // 2:
                self._acked = serial
                self.sock.sendall(wire.frame({"type": "ack", "serials": {self.channel: serial}}))


def _first_difference(stream: bytearray, position: int, data: bytes) -> int:
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        if stream[position + low : position + middle + 1] == data[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low


class Run:
    """One channel, one publisher, one reader that keeps up, and those who do not."""

    def __init__(self, server: Process, channel: str, messages: int) -> None:
        self.server = server
        self.channel = channel
        self.messages = messages
        self.reference = Reference()
        self.highest_bytes = 0
        self._selector = selectors.DefaultSelector()
        self._publisher = wire.connect(server.port, wire.token())
        cut = wire.Frames()
        wire.await_frame(self._publisher, cut, "ready")
        first = {"type": "publish", "channel": channel, "messages": [{"data": None}]}
        wire.request(self._publisher, cut, first, "published")

    def publish(self, silent: list[Subscriber]) -> None:
        """Publishes everything; the reader keeps up, the silent ones read what their window lets through."""
        publisher = self._publisher
        reader = Subscriber(self.server.port, self.channel, 0, reads=True)
        self._selector.register(reader.sock, selectors.EVENT_READ, lambda: self.reference.feed(reader.read()))
        for each in silent:
            self._selector.register(each.sock, selectors.EVENT_READ, lambda each=each: each.waiting.extend(each.read()))
        cut = wire.Frames()
        sent = answered = 0

        def answers() -> None:
            nonlocal answered
            for opcode, payload in cut.feed(publisher.recv(LARGE_BYTES)):
                if opcode == 1 and payload.startswith(b'{"type":"published"'):
                    answered += BATCH
                elif opcode == 1 and b"heartbeat" not in payload:
                    raise SystemExit(f"Not published: {payload!r}")

        self._selector.register(publisher, selectors.EVENT_READ, answers)
        while len(self.reference.ends) < self.messages:
            while sent < min(self.messages, answered + BATCH * IN_FLIGHT):
                publisher.sendall(_batch(self.channel))
                sent += BATCH
            self._turn()
        self._selector.unregister(publisher)
        self._selector.unregister(reader.sock)
        publisher.close()
        reader.sock.close()

    def go_on(self, subscribers: list[Subscriber], count: int) -> None:
        """All read and acknowledge now, until each has the first `count` messages; then they stop again."""
        left = len(subscribers)
        end = self.reference.ends[count - 1]

        def take(subscriber: Subscriber, data: bytes) -> None:
            nonlocal left
            subscriber.compare(self.reference, data)
            subscriber.acknowledge(self.reference)
            if subscriber.position >= end:
                left -= 1
                self._selector.unregister(subscriber.sock)

        for each in subscribers:
            each.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LARGE_BYTES)
            if each.sock in self._selector.get_map():
                self._selector.unregister(each.sock)
            self._selector.register(each.sock, selectors.EVENT_READ, lambda each=each: take(each, each.read()))
            take(each, b"")
        deadline = time.monotonic() + LIMIT_S
        while left:
            if time.monotonic() > deadline:
                least = min(self.reference.serial(each.position) for each in subscribers)
                raise SystemExit(f"{left} subscribers have not everything after {LIMIT_S} s; one stands at {least}.")
            self._turn()

    def _turn(self) -> None:
        for key, _ in self._selector.select(0.2):
            act: Callable[[], None] = key.data
            act()
        self.highest_bytes = max(self.highest_bytes, self.server.rss_bytes())


def _batch(channel: str) -> bytes:
    messages = [{"id": secrets.token_hex(13), "data": DATA} for _ in range(BATCH)]
    return wire.frame({"type": "publish", "channel": channel, "messages": messages})


def measure(
    messages: int = 100_000, stalled: int = 200, silent: int = 200, whole: int | None = None, first: int = 5000
) -> list[Row]:
    """The row of the table."""
    machine.pin_generator()
    few = min(messages, FLOOR_MESSAGES)
    with machine.running("bench.site", "--patient") as server:
        Run(server, "warm", few).publish([])
        probe = Probe(server.port)
        base = server.rss_bytes()
        floor_bytes = _published(Run(server, "floor", few), [], base, probe, "nobody stands still")

        run = Run(server, "stalled", messages)
        still = [Subscriber(server.port, run.channel, 0 if i % 2 else None, reads=False) for i in range(stalled)]
        unacked = [Subscriber(server.port, run.channel, None, reads=True) for _ in range(silent)]
        base = server.rss_bytes()
        grown_bytes = _published(run, unacked, base, probe, f"{stalled + silent} stand still")
        probe.stop()
        cpu, started = server.cpu_s(), time.perf_counter()
        deliveries = 0
        if whole is not None:
            run.go_on([*still, *unacked], first)
            print(
                f"all {len(still) + len(unacked)} got their first {first:,} messages, in order, in "
                f"{time.perf_counter() - started:.0f} s; at most {run.highest_bytes / 1e6:.0f} MB"
            )
            deliveries = sum(first - 256 if each.window else first for each in [*still, *unacked])
        to_the_end = [*still[:whole], *unacked[:whole]]
        run.go_on(to_the_end, messages)
        cpu_s = server.cpu_s() - cpu
        begun = first if whole is not None else 256
        deliveries += sum(messages - begun if each.window or whole is not None else messages for each in to_the_end)
        print(
            f"{len(to_the_end)} subscribers got {messages:,} messages each, in order; catching up took "
            f"{time.perf_counter() - started:.0f} s, {cpu_s:.0f} s of CPU; at most {run.highest_bytes / 1e6:.0f} MB"
        )
    return [
        Row(
            f"MB that a worker grows by while {stalled} do not read, {silent} do not ack, {messages:,} messages",
            f"{floor_bytes / 1e6:.1f}",
            f"{grown_bytes / 1e6:.1f}",
            "",
            "< 30",
        ),
        Row(
            "deliveries per CPU s when they read on",
            "",
            f"{deliveries / cpu_s:,.0f}",
            "",
            "all, in order",
        ),
    ]


def _published(run: Run, silent: list[Subscriber], base_bytes: int, probe: Probe, who: str) -> int:
    """Publishes everything, and says what a bystander noticed; by how much the worker grew at most."""
    probe.noticed()
    cpu, started = run.server.cpu_s(), time.perf_counter()
    run.publish(silent)
    print(
        f"{who}: {run.messages:,} messages in {time.perf_counter() - started:.0f} s, "
        f"{run.server.cpu_s() - cpu:.0f} s of CPU; {base_bytes / 1e6:.0f} MB before, "
        f"{run.highest_bytes / 1e6:.0f} MB at most; a bystander: {describe(probe.noticed())} (median / 99 % / most)",
        flush=True,
    )
    return run.highest_bytes - base_bytes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--stalled", type=int, default=200)
    parser.add_argument("--silent", type=int, default=200)
    parser.add_argument("--whole", type=int)
    parser.add_argument("--first", type=int, default=5000)
    print(machine.table(measure(**vars(parser.parse_args()))))
