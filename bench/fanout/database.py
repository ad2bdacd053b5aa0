"""The database beside the server: what a commit takes by itself, and where PostgreSQL's processes are."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench import machine, publish

PROBE_S = 2
"""How long commits are made, at the pace of the fan-out that they are subtracted from."""


def commit_us(folder: Path, pace: float) -> dict[str, float]:
    """Percentiles of bare transactions of one row each, as the log stores it, in the file system of the server's own.

    `folder` is of a server that has stopped. Runs on the server's core.
    """
    if "DATABASE_URL" in os.environ:
        store = publish.bare_postgres()
    else:
        store = publish.bare_sqlite(machine.Process(0, 0, folder), str(folder))
    os.sched_setaffinity(0, machine.SERVER_CORES)
    took_us = []
    start = time.perf_counter()
    for number in range(int(PROBE_S * pace)):
        time.sleep(max(0.0, start + number / pace - time.perf_counter()))
        rows = publish.records(number + 1, 1)
        before = time.perf_counter()
        store(rows)
        took_us.append((time.perf_counter() - before) * 1e6)
    machine.pin_generator()
    took_us.sort()
    return {name: took_us[int(share * (len(took_us) - 1))] for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))}


def postmaster() -> int:
    """The process id of PostgreSQL's first process, moved off the server's core; 0 when there is none here."""
    if "DATABASE_URL" not in os.environ:
        return 0
    import psycopg

    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        (backend,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        try:
            lines = Path(f"/proc/{backend}/status").read_text().splitlines()
        except OSError:
            return 0  # on another machine, or in another namespace: its CPU is not ours to count
    parent = next(int(line.split()[1]) for line in lines if line.startswith("PPid"))
    for pid in machine.family(parent):
        os.sched_setaffinity(pid, machine.GENERATOR_CORES)
    return parent
