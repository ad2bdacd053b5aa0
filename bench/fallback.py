"""Mass fallback: thousands of clients that lost their WebSockets poll one worker. What they cost beside WebSockets, and
what happens when the worker has not room for all of them.

    python -m bench.fallback [--clients 3000] [--rate 3] [--seconds 12] [--room 2000]

First all follow one channel over WebSockets, then others poll it, each on a worker of its own: idle, then with a few
messages a second. Then as many poll a worker with less room than there are clients: who is refused comes back when
`Retry-After` says, from where it stood. Every client counts serials: one that is missing or comes twice ends the run.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import re
import resource
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

from bench import machine, wire
from bench.machine import Process
from bench.probe import quantile

CHANNEL = "news"
AT_ONCE = 200
"""Connections on their way at a time."""
SETTLE_S = 3.0
LIMIT_S = 60.0
"""For everybody to have everything at the end of a phase."""
SAMPLED = 10
"""Of so many clients the latency of one is taken: the generator has to be quicker than the server."""

SERIAL = re.compile(rb'"serial":([0-9]+),"id"')
STAMP = re.compile(rb'"at":([0-9]+)')
POSITIONS = re.compile(rb'"positions":\{"news":(\{[^}]*\})\}')
AFTER_MS = re.compile(rb'"poll_after_ms":([0-9]+)')
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *([0-9]+)", re.IGNORECASE)


class Client:
    """One of the crowd, and what it has heard."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.token = wire.token(f"fallback-{number}")
        self.sock: socket.socket | None = None
        self.serial: int | None = None
        """Of the last message that it was told, or where it began."""
        self.buffer = b""

    def heard(self, data: bytes, crowd: Crowd) -> None:
        for text in SERIAL.findall(data):
            serial = int(text)
            if self.serial is not None and serial != self.serial + 1:
                raise SystemExit(f"Client {self.number} was told {serial} behind {self.serial}.")
            self.serial = serial
            crowd.deliveries += 1
        if self.number % SAMPLED == 0:
            now_us = time.time_ns() // 1000
            crowd.latencies_ms += [(now_us - int(stamp)) / 1000 for stamp in STAMP.findall(data)]


class Crowd:
    """Many clients in one thread."""

    def __init__(self, port: int, count: int) -> None:
        self.port = port
        self.clients = [Client(number) for number in range(count)]
        self.selector = selectors.DefaultSelector()
        self.coming: set[int] = set()
        """Who is on the way in."""
        self.deliveries = 0
        self.latencies_ms: list[float] = []

    def start(self) -> None:
        """Brings everybody in."""
        waiting = iter(self.clients)
        deadline = time.monotonic() + LIMIT_S * 2
        while True:
            for client in itertools.islice(waiting, max(0, AT_ONCE - len(self.coming))):
                self.coming.add(client.number)
                self.come(client)
            if not self.coming:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(self.coming)} clients have no answer.")
            self.turn()

    def connect(self, client: Client) -> socket.socket:
        client.sock = sock = socket.socket()
        client.buffer = b""
        sock.connect(("127.0.0.1", self.port))
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, client)
        return sock

    def drop(self, client: Client) -> None:
        if client.sock is not None:
            self.selector.unregister(client.sock)
            client.sock.close()
            client.sock = None

    def turn(self, wait_s: float = 0.05) -> None:
        for key, _ in self.selector.select(wait_s):
            client: Client = key.data
            if client.sock is not key.fileobj:
                continue
            try:
                data = client.sock.recv(65536)
            except OSError:
                data = b""
            self.read(client, data)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not until():
            self.turn()

    def level(self, serial: int) -> bool:
        return all(each.serial is not None and each.serial >= serial for each in self.clients)

    def leave(self) -> None:
        for client in self.clients:
            self.drop(client)
        self.selector.close()

    def come(self, client: Client) -> None:
        raise NotImplementedError

    def read(self, client: Client, data: bytes) -> None:
        raise NotImplementedError


class Sockets(Crowd):
    """Over WebSockets, with a window of 0: as polls, they are paced by the socket alone."""

    def come(self, client: Client) -> None:
        self.connect(client).sendall(wire.handshake(client.token))

    def read(self, client: Client, data: bytes) -> None:
        if not data:
            raise SystemExit(f"A WebSocket ended: {client.buffer[-200:]!r}")
        assert client.sock is not None
        data = client.buffer + data
        if client.number in self.coming:
            if b"\r\n\r\n" in data and b"\r\n\r\n" not in client.buffer:
                client.sock.sendall(wire.frame({"type": "attach", "ref": 1, "channel": CHANNEL, "window": 0}))
            client.buffer = data
            found = re.search(rb'"type":"attached".*?"serial":([0-9]+)', data)
            if found is not None:
                client.serial, client.buffer = int(found[1]), b""
                self.coming.discard(client.number)
            return
        # A frame may be cut by the end of a read; all of them are whole behind the last brace.
        whole, brace, client.buffer = data.rpartition(b"}")
        client.heard(whole + brace, self)


class Polls(Crowd):
    """By long polls on connections that are kept."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__(port, count)
        self.positions: dict[int, bytes] = {}
        self.first = b'"head"'
        """From where they begin."""
        self.answers = 0
        self.news = 0
        """Answers with messages."""
        self.retry_after_s: list[int] = []
        self.lost = 0
        """Connections that ended without an answer."""
        self.tries_at: Counter[int] = Counter()
        """Polls that came back after a refusal, by second."""
        self._due: list[tuple[float, int]] = []

    def come(self, client: Client) -> None:
        self._poll(client)

    def turn(self, wait_s: float = 0.05) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._poll(self.clients[heapq.heappop(self._due)[1]])
        if self._due:
            wait_s = min(wait_s, max(0.0, self._due[0][0] - now))
        super().turn(wait_s)

    def _poll(self, client: Client) -> None:
        entry = b'{"channel":"news","from":%s}' % self.positions.get(client.number, self.first)
        body = b'{"attach":[%s]}' % entry
        head = (
            f"POST /api/v1/poll HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {client.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sock = client.sock or self.connect(client)
        try:
            sock.sendall(head.encode() + body)
        except OSError:
            self._later(client, 1 + random.random())

    def _later(self, client: Client, seconds: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, client.number))

    def read(self, client: Client, data: bytes) -> None:
        if not data:
            self.drop(client)
            self.lost += 1
            self._later(client, 1 + random.random())
            return
        client.buffer += data
        head, found, body = client.buffer.partition(b"\r\n\r\n")
        length = LENGTH.search(head + b"\r\n") if found else None
        if length is None or len(body) < int(length[1]):
            return
        client.buffer = b""
        if head.startswith(b"HTTP/1.1 503"):
            hint = RETRY_AFTER.search(head)
            assert hint is not None, head
            self.retry_after_s.append(int(hint[1]))
            # HTTP says it in whole seconds: within the second, everybody as he likes.
            wait_s = int(hint[1]) + random.random()
            self.tries_at[int(time.monotonic() + wait_s)] += 1
            self._later(client, wait_s)
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit((head + body).decode(errors="replace"))
        self.answers += 1
        self.coming.discard(client.number)
        client.heard(body, self)
        self.news += b'"type":"message"' in body
        position = POSITIONS.search(body)
        if position is not None:
            self.positions[client.number] = position[1]
            if client.serial is None:
                client.serial = int(json.loads(position[1])["serial"])
        pause = AFTER_MS.search(body)
        assert pause is not None, body
        pause_ms = int(pause[1])
        if b"connection: close" in head.lower():
            self.drop(client)
        if pause_ms:
            self._later(client, pause_ms / 1000)
        else:
            self._poll(client)


# ---------------------------------------------------------------------- phases


class Publisher(threading.Thread):
    """At an even pace over one WebSocket, from now on; `head` is the serial of the last one."""

    def __init__(self, server: Process, rate: float, seconds: float) -> None:
        super().__init__()
        self._server, self._rate, self._count = server, rate, int(rate * seconds)
        self.head = 0
        self.start()

    def run(self) -> None:
        sock = wire.connect(self._server.port, wire.token("publisher"))
        cut = wire.Frames()
        wire.await_frame(sock, cut, "ready")
        began = time.monotonic()
        for number in range(self._count):
            time.sleep(max(0.0, began + number / self._rate - time.monotonic()))
            data = {"text": "x" * 150, "at": time.time_ns() // 1000}
            frame = {"type": "publish", "channel": CHANNEL, "messages": [{"data": data}]}
            answer = wire.request(sock, cut, frame, "published")
            self.head = answer["serials"][0]  # type: ignore[index]
        sock.close()


def follow(name: str, make: Callable[[int], Crowd], rate: float, seconds: float) -> None:
    """A row of the table."""
    with machine.running("bench.site") as server:
        Publisher(server, 20, 0.2).join()
        base = server.rss_bytes()
        crowd = make(server.port)
        crowd.start()
        crowd.run(SETTLE_S)
        kept = (server.rss_bytes() - base) / len(crowd.clients) / 1e3
        cpu_s, began = server.cpu_s(), time.monotonic()
        crowd.run(seconds)
        idle = (server.cpu_s() - cpu_s) / (time.monotonic() - began)
        crowd.deliveries = 0
        answers = crowd.news if isinstance(crowd, Polls) else 0
        cpu_s, began = server.cpu_s(), time.monotonic()
        publisher = Publisher(server, rate, seconds)
        crowd.run(seconds + LIMIT_S, until=lambda: not publisher.is_alive() and crowd.level(publisher.head))
        took_s, used_s = time.monotonic() - began, server.cpu_s() - cpu_s
        if not crowd.level(publisher.head):
            raise SystemExit(f"{name}: not everybody has everything after {LIMIT_S} s.")
        most = (server.rss_bytes() - base) / len(crowd.clients) / 1e3
        each = f"{crowd.deliveries / (crowd.news - answers):.1f}" if isinstance(crowd, Polls) else "1"
        p50, p99 = (quantile(crowd.latencies_ms, share) for share in (0.5, 0.99))
        cells = (
            *(name, f"{kept:.1f}", f"{most:.1f}", f"{100 * idle:.1f} %", f"{100 * used_s / took_s:.0f} %"),
            *(f"{used_s / crowd.deliveries * 1e6:,.0f}", each, f"{p50:,.0f}", f"{p99:,.0f}"),
        )
        print(f"| {' | '.join(cells)} |", flush=True)
        if isinstance(crowd, Polls) and crowd.retry_after_s:
            print(f"(polls refused by the worker: {len(crowd.retry_after_s)})")
        crowd.leave()


def overflow(clients: int, room: int, rate: float, seconds: float) -> None:
    """More clients than there is room for."""
    os.environ["REALTIME_CONNECTIONS_MAX"] = str(room)
    with machine.running("bench.site") as server:
        Publisher(server, 20, 0.2).join()
        base = server.rss_bytes()
        crowd = Polls(server.port, clients)
        # From the first message on, whenever they get in.
        crowd.first = b'{"epoch":null,"serial":0}'
        for client in crowd.clients:
            client.serial = 0
        publisher = Publisher(server, rate, seconds * 2)
        began = time.monotonic()
        most_bytes = 0
        for client in crowd.clients:
            # Everybody comes at once.
            crowd.coming.add(client.number)
            crowd.come(client)
            if client.number % AT_ONCE == 0:
                crowd.turn(0)
        while publisher.is_alive() or not crowd.level(publisher.head):
            crowd.run(1, until=lambda: not publisher.is_alive() and crowd.level(publisher.head))
            most_bytes = max(most_bytes, server.rss_bytes() - base)
            if time.monotonic() - began > seconds * 2 + LIMIT_S:
                raise SystemExit(f"{sum(not each.serial for each in crowd.clients)} clients never got in.")
        hints, tries = crowd.retry_after_s, list(crowd.tries_at.values())
        print(
            f"\n{clients} polling clients on a worker with room for {room}: {len(hints)} polls were refused, told to"
            f" come back in {min(hints, default=0)}–{max(hints, default=0)} s, half of them within"
            f" {quantile(hints, 0.5):.0f}; at most {max(tries, default=0)} came back in one second. {publisher.head}"
            f" messages were published; after {time.monotonic() - began:.0f} s everybody had all of them."
            f" Memory grew by {most_bytes / 1e6:.0f} MB at most; connections lost: {crowd.lost}."
        )
        crowd.leave()


def main(clients: int, rate: float, seconds: float, room: int) -> None:
    machine.pin_generator()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, clients + 1000)), hard))
    print(f"{machine.describe()}; {clients} clients of one channel, {rate:g} messages a second.\n")
    columns = (
        *("transport", "KB a client", "KB at most", "CPU, idle", "CPU", "µs a delivery", "messages an answer"),
        *("p50 ms", "p99"),
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    follow("WebSocket", lambda port: Sockets(port, clients), rate, seconds)
    follow("long polling", lambda port: Polls(port, clients), rate, seconds)
    overflow(clients, room, rate, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--room", type=int, default=2000, help="connections that the worker takes in the last part")
    main(**vars(parser.parse_args()))
