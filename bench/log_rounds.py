"""How many messages the log stores per CPU second of its process, against the bare database driver.

    python -m bench.log_rounds                                       # SQLite
    python -m tests.servers postgres -- python -m bench.log_rounds   # PostgreSQL

For rounds of 1, 64 and 1000 messages with 200 bytes of data, each message an append of its own, spread over 8 channels
and 64 clients, in a new database with the site's settings:

- floor: the driver alone (sqlite3, psycopg) inserts ready rows into the same tables and moves the heads, in one
  transaction a round; it looks nothing up and encodes nothing;
- rounds: `Rounds.run`, with locks, look-up of ids, serials and envelopes;
- writer: the same appends through `LogWriter`, submitted as fast as it takes them (rounds are as large as they get).

CPU seconds are this process's own: on PostgreSQL the server's work is not in them, see the column of wall seconds.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import django
from django.db import connection
from django.test.utils import setup_databases, teardown_databases

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

from realtime.log import Append, LogWriter, News, Published, Rounds, read_states, run_round_now  # noqa: E402
from realtime.log.sql import integers  # noqa: E402
from realtime.protocol.errors import ProtocolError  # noqa: E402
from realtime.protocol.messages import NewMessage, envelope  # noqa: E402
from realtime.protocol.names import ChannelName  # noqa: E402

CHANNELS = [ChannelName(f"bench{i}") for i in range(8)]
CLIENTS = [f"client-{i:03d}" for i in range(64)]
DATA = '"' + "x" * 198 + '"'
SIZES = (1, 64, 1000)
MESSAGES = 30_000

#: channel_id, serial, client, mid, key, time, envelope
Row = tuple[int, int, str, str, None, int, str]


def appends(count: int) -> list[Append]:
    return [
        Append(CHANNELS[i % 8], CLIENTS[i % 64], (NewMessage(secrets.token_hex(13), "message", None, DATA),))
        for i in range(count)
    ]


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds, beginning with an empty table: a larger index costs more."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("DELETE FROM realtime_message")
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            cursor.execute("TRUNCATE realtime_message")
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def rounds_of(size: int) -> Callable[[], None]:
    batches = [appends(size) for _ in range(max(1, min(MESSAGES, 2000 * size) // size))]
    rounds = Rounds()

    def work() -> None:
        while batches:  # let go of what is done, as a worker does
            rounds.run(batches.pop())

    return work


def floor_of(size: int) -> Callable[[], None]:
    states = read_states(CHANNELS)
    ids = [int(states[name].channel_id or 0) for name in CHANNELS]
    heads = {states[name].channel_id: states[name].head for name in CHANNELS}
    batches: list[list[Row]] = []
    for _ in range(max(1, min(MESSAGES, 2000 * size) // size)):
        rows: list[Row] = []
        for i in range(size):
            heads[ids[i % 8]] += 1
            message = NewMessage(secrets.token_hex(13), "message", None, DATA)
            text = envelope(CHANNELS[i % 8], heads[ids[i % 8]], 1763812345678, CLIENTS[i % 64], message)
            rows.append((ids[i % 8], heads[ids[i % 8]], CLIENTS[i % 64], str(message.id), None, 1763812345678, text))
        batches.append(rows)
    store = bare_sqlite() if connection.vendor == "sqlite" else bare_postgres()

    def work() -> None:
        for rows in batches:
            store(rows, {row[0]: row[1] for row in rows})
        batches.clear()

    return work


def bare_sqlite() -> Callable[[Sequence[Row], dict[int, int]], None]:
    bare = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    for pragma in connection.settings_dict["OPTIONS"]["init_command"].split(";"):
        bare.execute(pragma)

    def store(rows: Sequence[Row], heads: dict[int, int]) -> None:
        bare.execute("BEGIN IMMEDIATE")
        bare.executemany(
            "INSERT INTO realtime_message (channel_id, serial, client, mid, key, time, envelope)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        bare.executemany(
            "UPDATE realtime_log SET head = ? WHERE channel_id = ?", [(head, id_) for id_, head in heads.items()]
        )
        bare.execute("COMMIT")

    return store


def bare_postgres() -> Callable[[Sequence[Row], dict[int, int]], None]:
    import psycopg

    parameters: dict[str, Any] = connection.get_connection_params()
    bare = psycopg.connect(
        host=parameters["host"],
        port=parameters["port"],
        user=parameters["user"],
        dbname=connection.settings_dict["NAME"],
        autocommit=True,
    )

    def store(rows: Sequence[Row], heads: dict[int, int]) -> None:
        with bare.cursor() as cursor:
            cursor.execute("BEGIN")
            # Faster than executemany from some ten rows on; lists as the driver adapts them.
            cursor.execute(
                "INSERT INTO realtime_message (channel_id, serial, client, mid, key, time, envelope) SELECT * FROM"
                " unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[])",
                [list(column) for column in zip(*rows, strict=True)],
            )
            cursor.execute(
                "UPDATE realtime_log l SET head = x.head FROM unnest(%s::bigint[], %s::bigint[]) AS x (id, head)"
                " WHERE l.channel_id = x.id",
                [integers(heads), integers(heads.values())],
            )
            cursor.execute("COMMIT")

    return store


def through_writer(count: int) -> Callable[[], None]:
    work = appends(count)
    left = threading.Semaphore(0)

    def on_round(settled: list[Append], news: list[News]) -> None:
        left.release(len(settled))

    def submit_all() -> None:
        writer = LogWriter(on_round)
        writer.start()
        for append in work:
            while True:
                try:
                    writer.submit(append)
                    break
                except ProtocolError:
                    time.sleep(0.002)
        for _ in work:
            left.acquire()
        writer.stop(10)
        assert all(isinstance(append.outcome, Published) for append in work)

    return submit_all


def main() -> None:
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        run_round_now(appends(8))
        print(f"{connection.vendor}, {MESSAGES} messages, {sys.version.split()[0]}")
        print(f"{'':8} {'size':>5} {'rows/CPU s':>11} {'rows/s':>9} {'of the floor':>13}")
        for size in SIZES:
            count = min(MESSAGES, 2000 * size) // size * size
            cpu, wall = measured(floor_of(size))
            floor = count / cpu
            print(f"{'floor':8} {size:5} {floor:11,.0f} {count / wall:9,.0f}")
            cpu, wall = measured(rounds_of(size))
            print(f"{'rounds':8} {size:5} {count / cpu:11,.0f} {count / wall:9,.0f} {count / cpu / floor:13.0%}")
        cpu, wall = measured(through_writer(MESSAGES))
        print(f"{'writer':8} {'':5} {MESSAGES / cpu:11,.0f} {MESSAGES / wall:9,.0f}")
    finally:
        connection.close()
        teardown_databases(databases, verbosity=0)


if __name__ == "__main__":
    main()
