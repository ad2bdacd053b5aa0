"""A storm of connections against a worker with room for less than half of them: who is in must not notice, who is not
must be told when to come back, and they must not all come back at once.

    python -m bench.storm [--clients 5000] [--room 2000] [--rate 200] [--stay 30] [--leave 50]

All connect as fast as the generator can. Those who are refused come back when `Retry-After` says. When the worker is
full it stays so for a while; then some of those who are in leave every second, until the others have had their turn.
Nobody who is in may be lost: no connection may end but by leaving, and all are asked for a sign of life, before the
first leave and at the end; otherwise the exit status is 1. A bystander publishes twenty durable messages a second and
waits for each (`bench.probe`), and counts the pauses between heartbeats. A line for every five seconds.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import machine, wire
from bench.machine import Process
from bench.probe import Probe, describe, quantile

LINE_S = 5.0
HEARTBEAT_MS = 5000
PING, PONG = b"\x89\x08seriatim", wire.masked(b"seriatim", 10)
LIFE_ASKED, LIFE = wire.frame({"type": "ping", "ref": 2}), b'"type":"pong"'
PROBES = 2
"""Connections of the bystander, which are in before the storm."""

AT_ONCE = 400
"""Handshakes on their way at a time: what the kernel's queue takes without losing any."""

LIMIT_S = 600

LIFE_S = 30
"""How long one who is in may take for a sign of life."""


@dataclass
class Tally:
    """What happened in a stretch of time."""

    tries: int = 0
    refused: int = 0
    admitted: int = 0
    retry_after_s: list[int] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    """Answers that are neither 101 nor 503, by their first line."""


class Storm:
    """Clients that want in. `turn` does what is due; the caller decides when who leaves."""

    def __init__(self, port: int, hellos: Sequence[bytes], first_frame: bytes = b"") -> None:
        self._port = port
        self._hellos = hellos
        self._first_frame = first_frame
        self._selector = selectors.DefaultSelector()
        self._due = [(0.0, number) for number in range(len(hellos))]
        """When each comes next: a heap."""
        self._coming: dict[socket.socket, tuple[int, bytes]] = {}
        self.inside: dict[socket.socket, int] = {}
        """In the order in which they got in."""
        self.served = 0
        """Clients that got in once."""
        self.lost = 0
        """Connections that were in and ended by themselves."""
        self.silent: set[socket.socket] = set()
        """Those that were asked for a sign of life and have given none."""
        self.tally = Tally()
        self.tries_at: Counter[int] = Counter()
        """Tries by second."""
        self._heard: dict[socket.socket, bytes] = {}
        self._began = time.monotonic()

    @property
    def outside(self) -> int:
        return len(self._due) + len(self._coming)

    def turn(self, wait_s: float = 0.05) -> None:
        """Starts who is due, and reads what came."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now and len(self._coming) < AT_ONCE:
            _, number = heapq.heappop(self._due)
            self._start(number, now)
        for key, _ in self._selector.select(wait_s):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                data = sock.recv(65536)
            except OSError:
                data = b""
            if sock in self._coming:
                self._answered(sock, data)
            elif not data:
                self._lose(sock)
            else:
                if sock in self.silent:
                    self._hear(sock, data)
                if PING in data:
                    self._say(sock, PONG)

    def _start(self, number: int, now: float) -> None:
        self.tally.tries += 1
        self.tries_at[int(now - self._began)] += 1
        sock = socket.socket()
        try:
            sock.connect(("127.0.0.1", self._port))
            sock.sendall(self._hellos[number])
        except OSError:
            sock.close()
            self.tally.other["not connected"] += 1
            heapq.heappush(self._due, (now + 1, number))
            return
        sock.setblocking(False)
        self._coming[sock] = number, b""
        self._selector.register(sock, selectors.EVENT_READ)

    def _answered(self, sock: socket.socket, data: bytes) -> None:
        number, before = self._coming[sock]
        came = before + data
        head, found, _ = came.partition(b"\r\n\r\n")
        if not found and data:
            self._coming[sock] = number, came
            return
        del self._coming[sock]
        if head.startswith(b"HTTP/1.1 101"):
            sock.sendall(self._first_frame)
            self.inside[sock] = number
            self.served += 1
            self.tally.admitted += 1
            return
        self._selector.unregister(sock)
        sock.close()
        wait_s = 1
        if head.startswith(b"HTTP/1.1 503"):
            self.tally.refused += 1
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            wait_s = int(fields[b"retry-after"])
            self.tally.retry_after_s.append(wait_s)
        else:
            self.tally.other[head.partition(b"\r\n")[0].decode(errors="replace") or "closed"] += 1
        # HTTP says it in whole seconds: within the second, everybody as he likes.
        heapq.heappush(self._due, (time.monotonic() + wait_s + random.random(), number))

    def ask(self) -> None:
        """Asks all who are in for a sign of life; `silent` are those who have given none yet."""
        for sock in list(self.inside):
            self.silent.add(sock)
            self._say(sock, LIFE_ASKED)

    def _hear(self, sock: socket.socket, data: bytes) -> None:
        # The answer may come in two pieces.
        heard = self._heard.pop(sock, b"") + data
        if LIFE in heard:
            self.silent.discard(sock)
        else:
            self._heard[sock] = heard[-len(LIFE) :]

    def _say(self, sock: socket.socket, frame: bytes) -> None:
        try:
            sock.sendall(frame)
        except OSError:
            self._lose(sock)

    def _lose(self, sock: socket.socket) -> None:
        self.lost += 1
        self._go(sock)

    def leave(self, count: int) -> None:
        """The first who came go, for good."""
        for sock in list(self.inside)[:count]:
            self._go(sock)

    def _go(self, sock: socket.socket) -> None:
        del self.inside[sock]
        self.silent.discard(sock)
        self._heard.pop(sock, None)
        self._selector.unregister(sock)
        sock.close()

    def take_tally(self) -> Tally:
        tally, self.tally = self.tally, Tally()
        return tally


def run(server: Process, clients: int, room: int, rate: int, stay_s: float, leave_per_s: int) -> bool:
    """Whether all got in, and nobody who was in was lost."""
    probe = Probe(server.port)
    time.sleep(3)
    print(f"before: publish → receive {describe(probe.noticed())} (median / 99 % / most)")
    attach = wire.frame({"type": "attach", "ref": 1, "channel": "storm"})
    storm = Storm(server.port, [wire.handshake(wire.token(f"storm-{number}")) for number in range(clients)], attach)
    waits = "Retry-After s: median, most"
    columns = ("s", "tries/s", "refused/s", waits, "in", "CPU", "publish → receive", "heartbeats ms: median, most")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    began = line_at = time.monotonic()
    cpu_s = server.cpu_s()
    full_at: float | None = None
    left = asked = silent = 0
    others: Counter[str] = Counter()
    while storm.served < clients:
        storm.turn()
        now = time.monotonic()
        if now - began > LIMIT_S:
            print(f"{clients - storm.served} never got in.")
            break
        if full_at is None and len(storm.inside) >= room:
            full_at = now
        if full_at is not None and not asked and now - full_at > stay_s - LIFE_S / 2:
            asked = len(storm.inside)
            storm.ask()
        if full_at is not None and now - full_at > stay_s:
            silent += len(storm.silent)
            storm.silent.clear()
            due = int((now - full_at - stay_s) * leave_per_s)
            storm.leave(due - left)
            left = due
        if now - line_at >= LINE_S:
            tally, noticed = storm.take_tally(), probe.noticed()
            others += tally.other
            seconds, line_at = now - line_at, now
            used, cpu_s = server.cpu_s() - cpu_s, server.cpu_s()
            told = "–"
            if tally.retry_after_s:
                told = f"{quantile(tally.retry_after_s, 0.5):.0f}, {max(tally.retry_after_s)}"
            beats = f"{quantile(noticed.heartbeats_ms, 0.5):.0f}, {max(noticed.heartbeats_ms, default=0):.0f}"
            print(
                f"| {now - began:.0f} | {tally.tries / seconds:.0f} | {tally.refused / seconds:.0f} | {told} "
                f"| {len(storm.inside)} | {100 * used / seconds:.0f} % | {describe(noticed)} | {beats} |",
                flush=True,
            )
    others += storm.take_tally().other
    silent += len(storm.silent)
    storm.silent.clear()
    asked += len(storm.inside)
    storm.ask()
    asked_at = time.monotonic()
    while storm.silent and time.monotonic() - asked_at < LIFE_S:
        storm.turn()
    silent += len(storm.silent)
    tries = storm.tries_at
    first_s = next((second for second in range(max(tries) + 1) if tries[second] < rate), 0)
    later = [tries[second] for second in range(first_s, max(tries) + 1)]
    print(
        f"\n{storm.served} of {clients} got in after {time.monotonic() - began:.0f} s and {sum(tries.values())} tries. "
        f"After the first {first_s} s, tries in a second: {quantile(later, 0.5):.0f} in the middle, "
        f"{max(later, default=0)} at most. Other answers: {dict(others) or 'none'}.\n"
        f"Of those who were in, {storm.lost} connections were lost; of {asked} who were asked for a sign of life, "
        f"{silent} gave none."
    )
    probe.stop()
    storm.leave(clients)
    return storm.served == clients and not storm.lost and not silent


def main(clients: int, room: int, rate: int, stay: float, leave: int) -> None:
    machine.pin_generator()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, clients + 1000)), hard))
    os.environ.update(
        {
            "REALTIME_CONNECTIONS_MAX": str(room + PROBES),
            "REALTIME_CONNECTIONS_PER_S": str(rate),
            "REALTIME_CONNECTIONS_BURST": str(rate),
            "REALTIME_HEARTBEAT_MS": str(HEARTBEAT_MS),
        }
    )
    with machine.running("bench.site") as server:
        is_well = run(server, clients, room, rate, stay, leave)
    print(machine.describe())
    if not is_well:
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--room", type=int, default=2000, help="connections that the worker takes")
    parser.add_argument("--rate", type=int, default=200, help="new connections per second that it takes")
    parser.add_argument("--stay", type=float, default=30, help="seconds for which it is full")
    parser.add_argument("--leave", type=int, default=50, help="clients that leave per second after that")
    main(**vars(parser.parse_args()))
