"""Where the thresholds of load shedding come from: what a worker measures of itself as it gets more to do, beside what
a bystander notices.

    python -m bench.congestion [fan-out] [connecting] [asking] [publishing] [catching-up]

Each line is one load, heavier than the one before. A bystander publishes a durable message every 50 ms and waits for
it: from the load at which that takes longer than anybody wants, the threshold is read off. The ladder itself is
switched off here, and so are the limits on connections. docs/explanation/load.md has the figures and the choice.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import selectors
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from bench import machine, wire
from bench.connections import Crowd
from bench.machine import Process
from bench.probe import Probe, describe, quantile

LOAD_S = 5.0
DATA = "x" * 198
LARGE_BYTES = 1 << 18

OFF = {
    "REALTIME_LAG_HIGH_MS": "0",
    "REALTIME_QUEUE_HIGH_PERCENT": "0",
    "REALTIME_READY_HIGH": "0",
    "REALTIME_CONNECTIONS_PER_S": "0",
    "REALTIME_CONNECTIONS_PER_CLIENT_MAX": "0",
}


def measured(server: Process) -> list[dict[str, float]]:
    """What the worker measured of itself since it was asked last, four times a second."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/bench/load", timeout=60) as answer:
        found: list[dict[str, float]] = json.load(answer)["measured"]
    return found


@contextmanager
def watched(server: Process, probe: Probe, what: str, measure: str) -> Iterator[None]:
    """Prints a line of the table for what happens inside."""
    probe.noticed()
    measured(server)
    cpu_s, began = server.cpu_s(), time.monotonic()
    yield
    wall_s, cpu_s = time.monotonic() - began, server.cpu_s() - cpu_s
    noticed = probe.noticed()
    # One more look, for what took less time than there is between two.
    time.sleep(0.3)
    found = measured(server)
    late_ms, depths = [each["lag_s"] * 1000 for each in found], [each[measure] for each in found]
    print(
        f"| {what} | {100 * cpu_s / wall_s:.0f} % | {quantile(late_ms, 0.5):.0f}, {max(late_ms):.0f} ms "
        f"| {quantile(depths, 0.5):,.0f}, {max(depths):,.0f} | {describe(noticed)} |",
        flush=True,
    )


def head(measure: str) -> None:
    late, waiting, told = "loop late: median, most", f"{measure}: median, most", "publish → receive: median, 99 %, most"
    columns = ("load", "CPU", late, waiting, told)
    print(f"\n| {' | '.join(columns)} |")
    print("|---|---|---|---|---|")


class Readers:
    """Subscribers that read what comes, in a thread."""

    def __init__(self, port: int, channel: str, count: int, **attach: object) -> None:
        first = wire.frame({"type": "attach", "ref": 1, "channel": channel, **attach})
        hellos = [wire.handshake(wire.token(f"reader-{secrets.token_hex(4)}")) for _ in range(count)]
        self.crowd = Crowd(port, hellos, first, b'"type":"attached"')
        self.got = 0
        self._channel = channel
        self._over = False
        self._thread: threading.Thread | None = None

    def read_on(self, quiet_s: float = 3600.0) -> None:
        """Until `stop`, or until nothing has come for so long."""
        selector = selectors.DefaultSelector()
        for sock in self.crowd.socks:
            selector.register(sock, selectors.EVENT_READ)
        heard_at = time.monotonic()
        while not self._over and time.monotonic() - heard_at < quiet_s:
            for key, _ in selector.select(0.2):
                heard_at = time.monotonic()
                self.got += _socket(key).recv(LARGE_BYTES).count(b'{"type":"message"')

    def start(self) -> None:
        self._thread = threading.Thread(target=self.read_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over = True
        if self._thread is not None:
            self._thread.join()
        self.crowd.leave()


def _socket(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


def publisher(port: int) -> socket.socket:
    sock = wire.connect(port, wire.token(f"publisher-{secrets.token_hex(4)}"))
    wire.await_frame(sock, wire.Frames(), "ready")
    return sock


def fan_out(server: Process, probe: Probe, subscribers: int = 1000) -> None:
    """A channel with many subscribers, and more and more messages a second."""
    readers = Readers(server.port, "crowd", subscribers, window=0)
    readers.crowd.come()
    readers.start()
    sock = publisher(server.port)
    head("subscribers that wait for their turn")
    message = wire.frame({"type": "publish", "channel": "crowd", "messages": [{"data": DATA}]})
    for rate in (0, 20, 40, 60, 80, 100, 120, 160, 200):
        before = readers.got
        with watched(server, probe, f"{rate} messages/s to {subscribers}", "ready"):
            began, count = time.monotonic(), 0
            while (now := time.monotonic()) < began + LOAD_S:
                due = int((now - began) * rate)
                if due > count:
                    sock.sendall(message * (due - count))
                    count = due
                time.sleep(0.002)
        wanted, deadline = before + count * subscribers, time.monotonic() + 60
        while readers.got < wanted and time.monotonic() < deadline:
            time.sleep(0.1)
    readers.stop()
    sock.close()


def connecting(server: Process, probe: Probe) -> None:
    """Many clients at once."""
    head("subscribers that wait for their turn")
    for count in (100, 500, 1000, 2000, 4000):
        hellos = [wire.handshake(wire.token(f"c-{secrets.token_hex(4)}")) for _ in range(count)]
        attach = wire.frame({"type": "attach", "ref": 1, "channel": "connecting"})
        crowd = Crowd(server.port, hellos, attach, b'"type":"attached"', at_once=count)
        with watched(server, probe, f"{count} connect at once", "ready"):
            crowd.come()
        crowd.leave()
        time.sleep(3)


def asking(server: Process, probe: Probe, at_once: int = 20) -> None:
    """More and more clients that ask again as soon as they are answered, so many questions at a time each."""
    head("subscribers that wait for their turn")
    question = wire.frame({"type": "ping"}) * at_once
    for count in (10, 50, 100, 200, 500, 1000):
        hellos = [wire.handshake(wire.token(f"a-{secrets.token_hex(4)}")) for _ in range(count)]
        crowd = Crowd(server.port, hellos, question, b'"type":"pong"')
        crowd.come()
        selector = selectors.DefaultSelector()
        for each in crowd.socks:
            selector.register(each, selectors.EVENT_READ, wire.Frames())
        with watched(server, probe, f"{count} ask", "ready"):
            deadline = time.monotonic() + LOAD_S
            while time.monotonic() < deadline:
                for key, _ in selector.select(0.2):
                    if any(b'"pong"' in payload for _, payload in key.data.feed(_socket(key).recv(LARGE_BYTES))):
                        _socket(key).sendall(question)
        crowd.leave()
        time.sleep(3)


def publishing(server: Process, probe: Probe) -> None:
    """More and more messages that wait to be stored: each publisher keeps its frames of 100 unanswered."""
    head("messages that wait for the writer")
    for publishers in (1, 2, 4, 8, 16, 32):
        socks = [publisher(server.port) for _ in range(publishers)]
        cuts = {sock: wire.Frames() for sock in socks}
        selector = selectors.DefaultSelector()
        batch = {"type": "publish", "channel": "flood", "messages": [{"data": DATA}] * 100}
        frame = wire.frame(batch)
        with watched(server, probe, f"{publishers * 1000:,} messages on their way", "writer_messages"):
            for sock in socks:
                selector.register(sock, selectors.EVENT_READ)
                sock.sendall(frame * 10)
            deadline = time.monotonic() + LOAD_S
            while time.monotonic() < deadline:
                for key, _ in selector.select(0.2):
                    sock = _socket(key)
                    answers = sum(b'"published"' in payload for _, payload in cuts[sock].feed(sock.recv(LARGE_BYTES)))
                    sock.sendall(frame * answers)
        for sock in socks:
            sock.close()
        time.sleep(3)


def catching_up(server: Process, probe: Probe) -> None:
    """Subscribers that come back and read on from the log."""
    sock = publisher(server.port)
    cut = wire.Frames()
    messages = [{"data": DATA}] * 100
    for _ in range(10):
        wire.request(sock, cut, {"type": "publish", "channel": "past", "messages": messages}, "published")
    head("subscribers that wait for their turn")
    for count in (100, 500, 1000, 2000, 4000):
        readers = Readers(server.port, "past", count, **{"from": "start", "window": 0})
        with watched(server, probe, f"{count} read 1000 messages", "ready"):
            readers.crowd.come()
            readers.read_on(quiet_s=0.5)
        readers.stop()
        time.sleep(3)


MEASURES = {
    "fan-out": fan_out,
    "connecting": connecting,
    "asking": asking,
    "publishing": publishing,
    "catching-up": catching_up,
}


def main(names: list[str]) -> None:
    machine.pin_generator()
    os.environ.update(OFF)
    for name in names or MEASURES:
        with machine.running("bench.site") as server:
            probe = Probe(server.port)
            print(f"\n-- {name}", flush=True)
            MEASURES[name](server, probe)
            probe.stop()
    print(f"\n{machine.describe()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MEASURES, []], metavar="NAME")
    main(parser.parse_args().names)
