"""Durable publishes per CPU second of the server, over one WebSocket with 64 in flight.

    python -m bench.publish [--messages 20000] [--turns 5] [--in-flight 64]
    python -m tests.servers postgres -- python -m bench.publish      # PostgreSQL

One message of 200 bytes a frame. The floor is what the same frames cost on bare Daphne that echoes them, plus what the
same rows cost in bare transactions (sqlite3 with executemany, or psycopg) of the size that our rounds had. On
PostgreSQL the database's own CPU is in neither.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import sqlite3
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import machine, wire
from bench.machine import Process, Row

CHANNEL = "bench"
DATA = "x" * 198

#: channel_id, serial, client, mid, key, time, envelope
Record = tuple[int, int, str, str, None, int, str]


def frames(count: int) -> list[bytes]:
    """Publish frames, each with an id of its own, as an SDK sends them."""
    return [
        wire.frame(
            {
                "type": "publish",
                "ref": ref,
                "channel": CHANNEL,
                "messages": [{"id": secrets.token_hex(13), "event": "message", "data": DATA}],
            }
        )
        for ref in range(count)
    ]


def send_all(sock: socket.socket, work: Sequence[bytes], in_flight: int) -> bytes:
    """Keeps `in_flight` frames unanswered until each has its answer; returns the last answer."""
    cut = wire.Frames()
    sent, answered, last = 0, 0, b""
    while answered < len(work):
        upto = min(len(work), answered + in_flight)
        if sent < upto:
            sock.sendall(b"".join(work[sent:upto]))
            sent = upto
        data = sock.recv(262144)
        if not data:
            raise ConnectionError("The server closed the connection.")
        for opcode, payload in cut.feed(data):
            if opcode == 1:
                answered += 1
                last = payload
    return last


def echoed(server: Process, sock: socket.socket, count: int, in_flight: int) -> float:
    """CPU microseconds of an echo."""
    work = frames(count)
    return machine.cost(server, lambda: send_all(sock, work, in_flight)).cpu_s / count * 1e6


def published(server: Process, sock: socket.socket, count: int, in_flight: int, walls: list[float]) -> float:
    """CPU microseconds of a publish."""
    work = frames(count)
    cost = machine.cost(server, lambda: _check(send_all(sock, work, in_flight)))
    walls.append(count / cost.wall_s)
    return cost.cpu_s / count * 1e6


def _check(answer: bytes) -> None:
    if json.loads(answer)["type"] != "published":
        raise SystemExit(f"Not published: {answer!r}")


def rounds(server: Process) -> tuple[int, int]:
    """Rounds of the writer, and messages in them, since it started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/bench/rounds") as answer:
        counts = json.load(answer)
    return counts["rounds"], counts["messages"]


# -- bare transactions


def records(first: int, count: int) -> list[Record]:
    """Rows as the log stores them."""
    rows: list[Record] = []
    for serial in range(first, first + count):
        mid = secrets.token_hex(13)
        envelope = {
            "type": "message",
            "channel": CHANNEL,
            "serial": serial,
            "id": mid,
            "time": 1763812345678,
            "client": wire.CLIENT,
            "event": "message",
            "data": DATA,
        }
        rows.append((1, serial, wire.CLIENT, mid, None, 1763812345678, json.dumps(envelope, separators=(",", ":"))))
    return rows


Store = Callable[[Sequence[Record]], object]
COLUMNS = "(channel_id, serial, client, mid, key, time, envelope)"


def bare_sqlite(server: Process, folder: str) -> Store:
    """Inserts into an empty table of the same shape, with the same pragmas."""
    with sqlite3.connect(server.folder / "db.sqlite3") as site:
        shape = site.execute(
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'realtime_message' AND sql IS NOT NULL ORDER BY type DESC"
        ).fetchall()
    bare = sqlite3.connect(Path(folder) / "floor.sqlite3", isolation_level=None)
    for (statement,) in shape:
        bare.execute(statement)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")

    def store(rows: Sequence[Record]) -> None:
        bare.execute("BEGIN IMMEDIATE")
        bare.executemany(f"INSERT INTO realtime_message {COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        bare.execute("COMMIT")

    return store


def bare_postgres() -> Store:
    """The same on PostgreSQL, by arrays: faster than executemany there."""
    import psycopg

    bare = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    bare.execute("CREATE TABLE IF NOT EXISTS bench_message (LIKE realtime_message INCLUDING ALL)")
    bare.execute("TRUNCATE bench_message")
    types = "%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[]"

    def store(rows: Sequence[Record]) -> None:
        with bare.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                f"INSERT INTO bench_message {COLUMNS} SELECT * FROM unnest({types})",
                [list(column) for column in zip(*rows, strict=True)],
            )
            cursor.execute("COMMIT")

    return store


class Commits:
    """The floor of the database, run in this process on the server's core."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = 1

    def cost_us(self, count: int, size: int) -> float:
        """CPU microseconds of a row in transactions of `size`."""
        rows = records(self._next, count)
        self._next += count
        os.sched_setaffinity(0, machine.SERVER_CORES)
        cpu = time.process_time()
        for at in range(0, count, size):
            self._store(rows[at : at + size])
        cpu = time.process_time() - cpu
        machine.pin_generator()
        return cpu / count * 1e6


def measure(messages: int = 20_000, turns: int = 5, in_flight: int = 64) -> list[Row]:
    """The row of the table."""
    machine.pin_generator()
    postgres = "DATABASE_URL" in os.environ
    with (
        tempfile.TemporaryDirectory(prefix="seriatim-bench-") as folder,
        machine.running("bench.echo") as echo,
        machine.running("bench.site") as site,
    ):
        to_echo, to_site = wire.connect(echo.port), wire.connect(site.port, wire.token())
        wire.await_frame(to_site, wire.Frames(), "ready")
        send_all(to_site, frames(200), in_flight)
        commits = Commits(bare_postgres() if postgres else bare_sqlite(site, folder))
        walls: list[float] = []
        size = in_flight // 2

        def ours() -> float:
            nonlocal size
            before = rounds(site)
            us = published(site, to_site, messages, in_flight, walls)
            after = rounds(site)
            size = max(1, round((after[1] - before[1]) / max(1, after[0] - before[0])))
            return us

        found = machine.interleaved(
            turns,
            {
                "ours": ours,
                "echo": lambda: echoed(echo, to_echo, messages, in_flight),
                "commit": lambda: commits.cost_us(messages, size),
            },
        )
    floors = [echo_us + commit_us for echo_us, commit_us in zip(found["echo"], found["commit"], strict=True)]
    ratios = [floor / us for floor, us in zip(floors, found["ours"], strict=True)]
    print(
        f"echo {machine.spread(found['echo'], '.1f')} µs, commit {machine.spread(found['commit'], '.1f')} µs, "
        f"ours {machine.spread(found['ours'], '.1f')} µs; {size} messages a round, "
        f"{statistics.median(walls):,.0f} messages per second of the clock"
    )
    where = "PostgreSQL" if postgres else "SQLite"
    return [
        Row(
            f"publishes per CPU s, one WebSocket, {in_flight} in flight, {where}",
            machine.spread([1e6 / us for us in floors]),
            machine.spread([1e6 / us for us in found["ours"]]),
            machine.spread(ratios, ".2f"),
            "≥ 0.5",
        )
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=64)
    print(machine.table(measure(**vars(parser.parse_args()))))
