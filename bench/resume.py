"""What it costs a worker when many clients come back at once and each missed some messages.

    python -m bench.resume [--clients 1000] [--missed 100] [--turns 3]

Each client connects with a token of its own, attaches from the position it had, and is level when the last message it
missed has come. Once all follow one channel, once they are spread over 50. The floor is the connections alone: bare
Daphne, the same handshakes, one frame in and one frame out.
"""

from __future__ import annotations

import argparse
import secrets
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Sequence

from bench import machine, wire
from bench.machine import Process, Row
from bench.publish import DATA

MESSAGE = b'{"type":"message"'
LIMIT_S = 120


class Client:
    """A client on its way: connects, shakes hands, sends one frame, counts what comes."""

    def __init__(self, port: int, hello: bytes, first_frame: bytes, count: int) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(("127.0.0.1", port))
        self.sock.sendall(hello)
        self.sock.setblocking(False)
        self._first_frame = first_frame
        self._left = count
        self._opened = False
        self._bytes = b""

    def readable(self) -> bool:
        """Takes what came; whether that was all."""
        data = self.sock.recv(262144)
        if not data:
            raise SystemExit(f"A connection was closed: {self._bytes!r}")
        if not self._opened:
            self._bytes += data
            head, found, data = self._bytes.partition(b"\r\n\r\n")
            if not found:
                return False
            if not head.startswith(b"HTTP/1.1 101"):
                raise SystemExit(head.decode(errors="replace"))
            self._opened, self._bytes = True, b""
            self.sock.sendall(self._first_frame)
        # A mark that is cut by the end of what came is found with the next.
        data = self._bytes + data
        self._left -= data.count(MESSAGE)
        self._bytes = data[1 - len(MESSAGE) :]
        return self._left <= 0


def run(clients: Sequence[Callable[[], Client]]) -> None:
    """Starts them all, as fast as the server's backlog takes them, until every one has what it wants."""
    selector = selectors.DefaultSelector()
    opened: list[Client] = []
    starting = iter(clients)
    waiting = len(clients)
    deadline = time.monotonic() + LIMIT_S
    started_all = False
    while waiting:
        if time.monotonic() > deadline:
            raise SystemExit(f"{waiting} of {len(clients)} clients are not level after {LIMIT_S} s.")
        if not started_all:
            for _ in range(50):
                make = next(starting, None)
                if make is None:
                    started_all = True
                    break
                client = make()
                opened.append(client)
                selector.register(client.sock, selectors.EVENT_READ, client)
        for key, _ in selector.select(0 if not started_all else 1):
            if key.data.readable():
                selector.unregister(key.fileobj)
                waiting -= 1
    for client in opened:
        client.sock.close()


def publish(server: Process, channels: Sequence[str], count: int) -> dict[str, tuple[str, int]]:
    """Publishes to each channel; (epoch, head) of each."""
    cut, heads = wire.Frames(), {}
    with wire.connect(server.port, wire.token()) as sock:
        wire.await_frame(sock, cut, "ready")
        for name in channels:
            for at in range(0, count, 100):
                messages = [{"id": secrets.token_hex(13), "data": DATA} for _ in range(min(100, count - at))]
                answer = wire.request(
                    sock, cut, {"type": "publish", "channel": name, "messages": messages}, "published"
                )
                serials = answer["serials"]
                assert isinstance(serials, list)
                heads[name] = (str(answer["epoch"]), int(serials[-1]))
    return heads


def measure(clients: int = 1000, missed: int = 100, turns: int = 3) -> list[Row]:
    """Rows of the table: all on one channel, all on 50."""
    machine.pin_generator()
    rows: list[Row] = []
    hello = [wire.handshake(wire.token(f"client-{i}")) for i in range(clients)]
    one = wire.masked(MESSAGE + b"}")
    with machine.running("bench.echo") as echo, machine.running("bench.site") as site:
        for spread in (1, 50):
            channels = [f"resume-{spread}-{i}" for i in range(spread)]
            publish(site, channels, 100)  # behind the positions
            walls: list[float] = []

            def ours(channels: list[str] = channels, spread: int = spread, walls: list[float] = walls) -> float:
                before = publish(site, channels, 1)
                publish(site, channels, missed)
                attach = [
                    wire.frame(
                        {
                            "type": "attach",
                            "ref": 1,
                            "channel": name,
                            "from": {"epoch": before[name][0], "serial": before[name][1]},
                        }
                    )
                    for name in channels
                ]
                works = [lambda i=i: Client(site.port, hello[i], attach[i % spread], missed) for i in range(clients)]
                cost = machine.cost(site, lambda: run(works))
                walls.append(cost.wall_s)
                time.sleep(1)  # what the closing connections cost is in neither figure
                return cost.cpu_s

            def floor() -> float:
                works = [lambda i=i: Client(echo.port, hello[i], one, 1) for i in range(clients)]
                cost = machine.cost(echo, lambda: run(works))
                time.sleep(1)
                return cost.cpu_s

            found = machine.interleaved(turns, {"floor": floor, "ours": ours})
            ratios = [floor / ours for floor, ours in zip(found["floor"], found["ours"], strict=True)]
            print(f"all level after {statistics.median(walls):.1f} s of the clock")
            what = "one channel" if spread == 1 else f"{spread} channels"
            rows.append(
                Row(
                    f"CPU s until {clients} clients that missed {missed} are level, {what} (floor: connecting alone)",
                    machine.spread(found["floor"], ".2f"),
                    machine.spread(found["ours"], ".2f"),
                    machine.spread(ratios, ".2f"),
                    "≤ 5 s",
                )
            )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--missed", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    print(machine.table(measure(**vars(parser.parse_args()))))
