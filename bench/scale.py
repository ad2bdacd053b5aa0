"""What a second worker costs: deliveries per CPU second of two workers, beside those of one.

    python -m tests.servers postgres redis -- python -m bench scale
    python -m tests.servers postgres redis -- python -m bench.scale [--subscribers 500] [--pace 40,200,full] [--turns 3]

Both sites are up at the same time, on one PostgreSQL and one Redis, and take turns: the same number of subscribers in
all, a publisher, every message to everybody. CPU is that of the workers alone, summed up. The floor is the one worker:
with two, each message is announced over Redis and heard by the other, both ask the log what they missed, and each
write loop is half as long. Subscribers acknowledge as they are asked to; every delivery is counted and held against its
order (bench/fanout/load.c).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine, wire
from bench.fanout import database, load
from bench.machine import Row
from realtime.conf import Settings

WORKERS = (1, 2)
AIM = 0.85
AFTER_READY_S = 2
"""For the first sweeps and joined groups."""


@dataclass(frozen=True)
class Site:
    """A site with some workers."""

    workers: int
    port: int
    pids: Sequence[int]
    tokens: Path

    def deliveries(self, subscribers: int, plan: Sequence[tuple[str, float]]) -> list[float]:
        """Deliveries per CPU second at each pace."""
        options = {"tokens": self.tokens, "channel": f"scale-{self.workers}", "reader": "nap"}
        loaded = load.run("seriatim", self.port, self.pids, subscribers, plan, options)
        if loaded.trouble:
            raise SystemExit(f"{self.workers} workers: {loaded.trouble}")
        return [phase["delivered"] / phase["server_cpu_s"] for phase in loaded.phases]


@contextmanager
def running(workers: int, subscribers: int) -> Iterator[Site]:
    """`manage.py serve --workers N` on the server's core."""
    with tempfile.TemporaryDirectory(prefix="seriatim-bench-") as name:
        folder = Path(name)
        environment = machine.environment(folder)
        for limit in ("CONNECTIONS_MAX", "CONNECTIONS_PER_ADDRESS_MAX", "CONNECTIONS_BURST"):
            environment[f"REALTIME_{limit}"] = str(max(subscribers + 100, getattr(Settings, limit).default))
        tokens = folder / "tokens"
        tokens.write_text("".join(wire.token(f"bench-{number}") + "\n" for number in range(subscribers + 1)))
        manage = [sys.executable, "manage.py"]
        subprocess.run([*manage, "migrate", "--verbosity", "0"], cwd=machine.ROOT, env=environment, check=True)

        def command(port: int) -> list[str]:
            return [*manage, "serve", "--port", str(port), "--workers", str(workers)]

        with machine.serving(command, folder, environment, folder / "log") as process:
            pids = machine.family(process.pid)
            deadline = time.monotonic() + machine.START_S
            # With several, the first is their supervisor, which serves nobody.
            while len(pids) < workers + (workers > 1) or not _serve(process.port, workers):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{workers} workers do not serve after {machine.START_S} s.")
                time.sleep(0.1)
                pids = machine.family(process.pid)
            time.sleep(AFTER_READY_S)
            yield Site(workers, process.port, pids[-workers:], tokens)


def _serve(port: int, workers: int) -> bool:
    """Whether connections come to all of them."""
    names = set()
    for _ in range(4 * workers):
        with wire.connect(port, wire.token()) as sock:
            names.add(str(wire.await_frame(sock, wire.Frames(), "ready")["worker"]))
    return len(names) == workers


def measure(subscribers: int = 500, pace: str = "40,200,full", seconds: float = 4, turns: int = 3) -> list[Row]:
    """A row of the table for each pace; none without the two servers."""
    if not {"DATABASE_URL", "REDIS_URL"} <= set(os.environ):
        print("Left out: python -m tests.servers postgres redis -- python -m bench scale")
        return []
    machine.pin_generator()
    load.allow_files(subscribers + 1)
    database.postmaster()
    paces = pace.split(",")
    plan = [(each, seconds) for each in paces]
    found: dict[int, list[list[float]]] = {workers: [] for workers in WORKERS}
    with running(1, subscribers) as one, running(2, subscribers) as two:
        for turn in range(turns + 1):
            # The first only warms up; then they take turns in being first.
            for site in (one, two) if turn % 2 else (two, one):
                figures = site.deliveries(subscribers, plan)
                if turn:
                    found[site.workers].append(figures)
    rows = []
    for index, each in enumerate(paces):
        floors = [figures[index] for figures in found[1]]
        ours = [figures[index] for figures in found[2]]
        ratios = [two / one for one, two in zip(floors, ours, strict=True)]
        at = "at full speed" if each == "full" else f"{each} messages a second"
        rows.append(
            Row(
                f"deliveries per CPU s of two workers, {subscribers} subscribers, {at} (floor: one worker)",
                machine.spread(floors),
                machine.spread(ours),
                machine.spread(ratios, ".2f"),
                f"≥ {AIM}",
            )
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--pace", default="40,200,full")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--turns", type=int, default=3)
    print(machine.table(measure(**vars(parser.parse_args()))))
