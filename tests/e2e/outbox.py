"""The outbox under load: applications publish inside transactions, processes are killed at random, then all is counted.

    python -m tests.e2e.outbox --transactions 10000 [--database postgres] [--workers 3] [--processes 4] [--seed 1]

Several processes with several threads each commit, roll back, roll back to savepoints, and serve requests under
ATOMIC_REQUESTS. They and the server whose worker relays are killed with SIGKILL in between; of several workers, all of
which relay, mostly one at a time. In the end the log must have exactly the messages whose facts are committed, each
once, and each connection's in the order of its transactions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.processes import ServerProcess
from tests.servers import Postgres, Redis, ServerError, Site

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = "tests.e2e.outbox_publisher"
ROLLED_BACK = "rnf"
SETTLE_S = 60.0
STARTS = 10
LEAST_RELAYS = 3
LONGER = 10
"""How many times longer than planned a run may last until several workers have relayed."""
ONE_OF_SEVERAL = 0.7
"""How often one worker is killed instead of all with their supervisor."""


@dataclass(frozen=True)
class Plan:
    transactions: int = 10_000
    processes: int = 4
    kill_every: int = 150
    """Transactions between two kills of a publishing process."""
    kill_server_every: int = 600
    kills: int = 10
    """Kills of publishing processes at least; the run goes on until they have hit."""
    server_kills: int = 5
    """Of the server, or of one of its workers."""
    seed: int = 1
    workers: int = 1


@dataclass
class Result:
    """What happened. `faults` are sentences; empty when all is well."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def run(plan: Plan, site: ServerProcess, say: Callable[[str], object] = lambda text: None) -> Result:
    """Runs the plan against a site that is prepared and started."""
    result = Result()
    chance = random.Random(plan.seed)
    done = site.folder / "done"
    done.touch()
    _program(site, "table").check_returncode()
    names = iter(range(10**6))
    processes: list[subprocess.Popen[bytes]] = []
    began = time.monotonic()
    kills_at, server_at, told_at = plan.kill_every, plan.kill_server_every, 0
    try:
        while (
            (count := done.stat().st_size) < plan.transactions
            or result.counts["publishers killed"] < plan.kills
            or result.counts["servers killed"] + result.counts["workers killed"] < plan.server_kills
            or (plan.workers > 1 and count < plan.transactions * LONGER and not _several_relayed(site))
        ):
            while len(processes) < plan.processes:
                processes.append(_start(site, f"{plan.seed}-{next(names)}", done))
            if count >= kills_at:
                kills_at = count + plan.kill_every
                victim = processes.pop(chance.randrange(len(processes)))
                victim.kill()
                victim.wait()
                result.counts["publishers killed"] += 1
            if count >= server_at:
                server_at = count + plan.kill_server_every
                workers = site.workers() if plan.workers > 1 else []
                if workers and chance.random() < ONE_OF_SEVERAL:
                    chance.choice(workers).signal(signal.SIGKILL)
                    result.counts["workers killed"] += 1
                else:
                    site.kill()
                    _start_again(site)
                    result.counts["servers killed"] += 1
            if count >= told_at + 1000:
                told_at = count
                say(f"{count} transactions, {count / (time.monotonic() - began):.0f} a second, {dict(result.counts)}")
            time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    letters = Counter(done.read_text())
    result.counts["transactions"] = sum(letters.values())
    result.counts["rolled back"] = sum(letters[letter] for letter in ROLLED_BACK)
    result.counts["with savepoints"] = letters["s"]
    result.counts["requests"] = letters["q"] + letters["f"]
    result.counts["refused by a busy database"] = letters["x"]
    _judge(_settled(site), result)
    if plan.workers > 1 and result.counts["relays of the second busiest of them"] < LEAST_RELAYS:
        result.faults.append("Hardly more than one worker has relayed: the run proves too little.")
    return result


def _several_relayed(site: Site) -> bool:
    """Which of the workers relays is chance: on a busy machine one may be first every time, for a while."""
    relays: list[int] = json.loads(_program(site, "relays").stdout)["relays"]
    return _second(relays) >= LEAST_RELAYS


def _second(relays: list[int]) -> int:
    return sorted([0, 0, *relays])[-2]


def _start_again(site: ServerProcess) -> None:
    """Workers whose supervisor was killed may have to let go of the port first."""
    for _ in range(STARTS):
        with contextlib.suppress(ServerError):
            site.start()
            return
    site.start()


def _settled(site: Site) -> dict[str, Any]:
    """The report once nothing waits in the outbox any more."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        report: dict[str, Any] = json.loads(_program(site, "report").stdout)
        if not report["waiting"] or time.monotonic() > deadline:
            return report
        time.sleep(0.2)


def _judge(report: dict[str, Any], result: Result) -> None:
    if report["waiting"]:
        result.faults.append(f"{report['waiting']} messages still wait in the outbox.")
    # Workers each have a connection of their own.
    result.counts["connections that relayed"] = len(report["relays"])
    result.counts["relays of the second busiest of them"] = _second(report["relays"])
    facts = {tuple(fact) for fact in report["facts"]}
    messages = Counter(tuple(data) for _, _, data in report["messages"])
    result.counts["facts"], result.counts["messages"] = len(facts), sum(messages.values())
    result.faults += [f"Published twice: {each}" for each, count in messages.items() if count > 1]
    result.faults += [f"Committed, and not in the log: {each}" for each in facts - messages.keys()]
    result.faults += [f"In the log, and not committed: {each}" for each in messages.keys() - facts]
    last: dict[tuple[str, str], tuple[int, int]] = {}
    heads: Counter[str] = Counter()
    for channel, serial, (_, who, number, place) in report["messages"]:
        heads[channel] += 1
        if serial != heads[channel]:
            result.faults.append(f"Serial {serial} of {channel} follows {heads[channel] - 1}.")
        if last.get((channel, who), (-1, -1)) >= (number, place):
            result.faults.append(f"Out of order in {channel}: {who} {number}.{place} after {last[channel, who]}.")
        last[channel, who] = (number, place)


def _start(site: Site, name: str, done: Path) -> subprocess.Popen[bytes]:
    with (site.folder / "publishers.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", PROGRAM, "publish", name, str(done)],
            cwd=ROOT,
            env=site.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _program(site: Site, what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", PROGRAM, what],
        cwd=ROOT,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="several run under their supervisor, with Redis")
    parser.add_argument("--database", help="sqlite (default), postgres (one is started; several workers), or a URL")
    given = parser.parse_args()
    plan = Plan(given.transactions, given.processes, seed=given.seed, workers=given.workers)
    url = given.database or ("postgres" if given.workers > 1 else "sqlite")
    with contextlib.ExitStack() as stack:
        if url == "postgres":
            url = stack.enter_context(Postgres()).create_database("outbox")
        variables = {"REDIS_URL": stack.enter_context(Redis()).url} if plan.workers > 1 else {}
        database_url = None if url == "sqlite" else url
        site = ServerProcess(database_url=database_url, workers=plan.workers, **variables)
        result = run(plan, stack.enter_context(site), print)
    print(*(f"{count:8} {name}" for name, count in result.counts.items()), sep="\n")
    print(*result.faults[:20], sep="\n")
    print(f"{len(result.faults)} faults" if result.faults else "Exactly what was committed, once, in order.")
    return bool(result.faults)


if __name__ == "__main__":
    raise SystemExit(main())
