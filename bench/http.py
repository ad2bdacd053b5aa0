"""Publishes over REST per CPU second of the server, on kept connections with an API key.

    python -m bench.http [--requests 1500] [--turns 5] [--connections 16] [--batch 100]

The floor is an APIView without credentials that returns {}, POSTed the same body on the same server. `bench.rest` asks
the same of the view alone, without a server and its sockets.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import subprocess
import sys

from bench import machine
from bench.machine import Process, Row
from bench.publish import CHANNEL, DATA


def api_key(server: Process) -> str:
    """A key that may do everything."""
    return subprocess.run(
        [sys.executable, "manage.py", "create_api_key", "bench"],
        cwd=machine.ROOT,
        env={**machine.environment(server.folder)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout.strip()


def request(path: str, body: bytes, key: str | None) -> bytes:
    credentials = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{credentials}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def post_all(port: int, text: bytes, count: int, connections: int, status: bytes) -> None:
    """Posts `count` times, one request at a time on each connection."""
    selector = selectors.DefaultSelector()
    left, waiting = count, 0
    for _ in range(min(connections, count)):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(text)
        selector.register(sock, selectors.EVENT_READ, (sock, bytearray()))
        left -= 1
        waiting += 1
    while waiting:
        for key, _ in selector.select():
            sock, answer = key.data
            data = sock.recv(65536)
            if not data:
                raise SystemExit("The server closed the connection.")
            answer += data
            if not _complete(answer):
                continue
            if answer[9:12] != status:
                raise SystemExit(answer.decode())
            answer.clear()
            waiting -= 1
            if left:
                sock.sendall(text)
                left -= 1
                waiting += 1
            else:
                selector.unregister(sock)
                sock.close()


def _complete(answer: bytearray) -> bool:
    head, found, body = bytes(answer).partition(b"\r\n\r\n")
    if not found:
        return False
    at = head.lower().find(b"content-length:")
    if at < 0:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head[at + 15 :].split(b"\r\n", 1)[0])


def measure(requests: int = 1500, turns: int = 5, connections: int = 16, batch: int = 100) -> list[Row]:
    """Rows of the table: one message a request, and `batch`."""
    machine.pin_generator()
    rows: list[Row] = []
    with machine.running("bench.site") as server:
        key = api_key(server)
        path = f"/api/v1/channels/{CHANNEL}/messages"
        for size in (1, batch):
            message = {"event": "message", "data": DATA}
            body = json.dumps(message if size == 1 else {"messages": [message] * size}).encode()
            count = requests if size == 1 else max(100, requests // 5)

            def us(path: str, key: str | None, status: bytes, body: bytes = body, count: int = count) -> float:
                text = request(path, body, key)
                cost = machine.cost(server, lambda: post_all(server.port, text, count, connections, status))
                return cost.cpu_s / count * 1e6

            found = machine.interleaved(
                turns,
                {"empty": lambda: us("/bench/empty", None, b"200"), "ours": lambda: us(path, key, b"201")},
            )
            ratios = [empty / ours for empty, ours in zip(found["empty"], found["ours"], strict=True)]
            print(
                f"{size} a request: empty {machine.spread(found['empty'])} µs, ours {machine.spread(found['ours'])} µs"
            )
            rows.append(
                Row(
                    "REST publishes per CPU s, one a request"
                    if size == 1
                    else f"REST messages per CPU s, {size} a request (floor: requests)",
                    machine.spread([1e6 / each for each in found["empty"]]),
                    machine.spread([size * 1e6 / each for each in found["ours"]]),
                    machine.spread(ratios, ".2f"),
                    "≥ 0.8" if size == 1 else "",
                )
            )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--batch", type=int, default=100)
    print(machine.table(measure(**vars(parser.parse_args()))))
