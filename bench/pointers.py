"""A page of cursors: so many pointers, each moving 20 times a second, everybody sees everybody.

    python -m bench.pointers [--pointers 50] [--rate 20] [--seconds 10]

Each pointer is a connection that sends signals and receives those of all the others, so the deliveries grow with the
square. Reported: how many of them arrived (a signal is at most once), how late, what a screen receives, and what it
costs the worker. The time from sending to receiving is taken from a stamp in the signal: both ends are this process. It
includes the wait for the generator's own turn.
"""

from __future__ import annotations

import argparse
import random
import re
import selectors
import statistics
import time
from dataclasses import dataclass, field

from bench import machine, wire
from bench.machine import Process

CHANNEL = "cursors:quay"
SETTLE_S = 1.0
STAMP = re.compile(rb'"t":(\d+)')
#: Of the signals that arrive, one in so many has its time taken.
SAMPLED = 7


@dataclass
class Screen:
    """One pointer's connection."""

    number: int
    port: int
    received: int = 0
    received_bytes: int = 0
    late_ms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sock = wire.connect(self.port, wire.token(f"pointer-{self.number}"))
        self._cut = wire.Frames()
        wire.await_frame(self.sock, self._cut, "ready")
        wire.request(self.sock, self._cut, {"type": "attach", "ref": 1, "channel": CHANNEL}, "attached")

    def move(self) -> None:
        data = {"x": random.randrange(10_001), "y": random.randrange(10_001), "t": time.monotonic_ns() // 1000}
        self.sock.sendall(wire.frame({"type": "signal", "channel": CHANNEL, "event": "move", "data": data}))

    def read(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise SystemExit("The server closed a connection.")
        now_us = time.monotonic_ns() // 1000
        self.received_bytes += len(data)
        for opcode, payload in self._cut.feed(data):
            if opcode == 8:
                raise SystemExit(f"The server closed with {payload!r}.")
            stamp = STAMP.search(payload)
            if stamp is None:
                continue
            self.received += 1
            if self.received % SAMPLED == 0:
                self.late_ms.append((now_us - int(stamp.group(1))) / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pointers", type=int, default=50)
    parser.add_argument("--rate", type=float, default=20, help="moves a second of each")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    machine.pin_generator()
    with machine.running("bench.site") as server:
        print(machine.describe())
        print(measure(server, options.pointers, options.rate, options.seconds))


def measure(server: Process, pointers: int, rate: float, seconds: float) -> str:
    screens = [Screen(number, server.port) for number in range(pointers)]
    selector = selectors.DefaultSelector()
    for screen in screens:
        selector.register(screen.sock, selectors.EVENT_READ, screen)
    run(selector, screens, rate, SETTLE_S)
    for screen in screens:
        screen.received = screen.received_bytes = 0
        screen.late_ms.clear()
    cpu_s, started_s = server.cpu_s(), time.monotonic()
    sent = run(selector, screens, rate, seconds)
    took_s, cpu_s = time.monotonic() - started_s, server.cpu_s() - cpu_s
    for screen in screens:
        screen.sock.close()
    due, got = sent * (pointers - 1), sum(screen.received for screen in screens)
    late = sorted(each for screen in screens for each in screen.late_ms)
    return (
        f"{pointers} pointers, {sent / pointers / took_s:.1f} moves a second each: {got:,} of {due:,} deliveries "
        f"({100 * got / due:.2f} %), {got / took_s:,.0f} a second, {got / cpu_s:,.0f} per CPU second of the worker, "
        f"which used {100 * cpu_s / took_s:.0f} % of its core; late by {statistics.median(late):.1f} ms (median), "
        f"{late[int(len(late) * 0.99)]:.1f} ms (99 %); a screen receives "
        f"{sum(screen.received_bytes for screen in screens) / pointers / took_s / 1000:.0f} KB/s"
    )


def run(selector: selectors.BaseSelector, screens: list[Screen], rate: float, seconds: float) -> int:
    """Moves all pointers for so long, evenly spread, reads what comes, and a moment more; how many moves there were."""
    moves, started_s = 0, time.monotonic()
    step_s = 1 / rate / len(screens)
    while (now_s := time.monotonic()) < started_s + seconds + 0.3:
        while moves * step_s <= min(now_s - started_s, seconds):
            screens[moves % len(screens)].move()
            moves += 1
        for key, _ in selector.select(max(0.0, started_s + moves * step_s - time.monotonic())):
            key.data.read()
    return moves


if __name__ == "__main__":
    main()
