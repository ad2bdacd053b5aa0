"""Torture: many subscribers and publishers, a server that is killed, links that break; then everything must be there.

    python -m tests.e2e.torture --seconds 60 --seed 7 --database postgres

For the given time links are cut, silenced, slowed and reset, and the server process is killed and started again. Then
all faults end, publishers get their last answers, subscribers read to the heads, and the checker must find each message
exactly once and in order. The run fails as well when too few faults hit. The seed decides the actors and the dice, not
the operating system: the same seed is the same kind of run, not the same interleaving. See docs/how-to/test.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from tests.conftest import aeventually
from tests.e2e.checker import History, decode_frame
from tests.e2e.faults import Faults
from tests.e2e.processes import Proxy, ServerProcess
from tests.e2e.publishers import Publisher, Repeater, RestPublisher, SocketPublisher
from tests.e2e.run import BIG, HOT, PRUNED, QUIET, Plan, Run
from tests.e2e.subscribers import Subscriber
from tests.servers import Postgres


def _cast(run: Run) -> None:
    """The actors."""
    plan = run.plan
    for index in range(plan.subscribers):
        channels = [HOT, QUIET[index % len(QUIET)]]
        if index % 5 == 1:
            channels.append(BIG)
        if index % 3 == 0:
            channels.append(PRUNED)
        first: Any = ("start", {"epoch": None, "serial": 0}, "head", {"rewind": 20})[index // 2 % 4]
        run.subscribers.append(Subscriber(run, index, channels, first))
    shares = (0.3, 0.25, 0.08, 0.3, 0.07)
    makers: list[Callable[[int, float], Publisher]] = [
        lambda index, rate: SocketPublisher(run, index, rate, chain=True),
        lambda index, rate: SocketPublisher(run, index, rate, chain=False, repeats=True),
        lambda index, rate: RestPublisher(run, index, rate, most=1),
        lambda index, rate: RestPublisher(run, index, rate, most=25),
        lambda index, rate: Repeater(run, index, rate),
    ]
    for index in range(plan.publishers):
        run.publishers.append(makers[index % 5](index, plan.rate * shares[index % 5]))


async def read_history(port: int, channel: str, bearer: str) -> History:
    """The whole log of a channel by REST, page after page."""
    messages: list[bytes] = []
    after = 0
    while True:
        path = f"/api/v1/channels/{quote(channel, safe='')}/messages?after={after}&limit=500"
        status, page = await _request_raw(port, path, bearer)
        assert status == 200, (status, page)
        messages += [bytes(each) for each in page.messages]
        if not page.more:
            return History(page.epoch, page.oldest, page.head, messages)
        after = decode_frame(messages[-1]).serial


class _Page(msgspec.Struct):
    epoch: str | None
    oldest: int
    head: int
    messages: list[msgspec.Raw]
    more: bool


async def _request_raw(port: int, path: str, bearer: str) -> tuple[int, _Page]:
    """As `request`, but with the messages as they were written."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
            f"Authorization: Bearer {bearer}\r\n\r\n".encode()
        )
        head, _, text = (await asyncio.wait_for(reader.read(-1), 60)).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), msgspec.json.decode(text, type=_Page)
    finally:
        writer.close()


async def torture(plan: Plan, server: ServerProcess, database_url: str | None = None) -> Run:
    """One run against a server that has been started. Judge it by `run.checker` and `missed`."""
    async with Proxy(server.port) as proxy:
        run = Run(plan, server, proxy)
        _cast(run)
        faults = Faults(run, database_url)
        lives: list[Coroutine[Any, Any, None]] = [each.live() for each in run.subscribers]
        lives += [each.live() for each in run.publishers]
        tasks = [asyncio.ensure_future(life) for life in lives]
        try:
            await faults.live()
            await _heal(run)
        finally:
            run.over = True
            for each in run.subscribers:
                each.leave()
            for task in [*tasks, *faults.watches]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return run


async def _heal(run: Run) -> None:
    """Everything heals; then the end is judged."""
    began = time.monotonic()
    run.chaos = False
    run.proxy.heal()
    for subscriber in run.subscribers:
        subscriber.away = False
        if subscriber.socket is not None:
            subscriber.socket.deaf(on=False)
    for publisher in run.publishers:
        publisher.finishing = True
    deadline = began + run.plan.settle_s
    while not all(each.done for each in run.publishers):
        if time.monotonic() > deadline:
            names = [each.client for each in run.publishers if not each.done]
            run.checker.fail("answer", f"publishers without an answer for {run.plan.settle_s} s: {names}")
            break
        await asyncio.sleep(0.05)
    bearer = run.token("reader")
    histories: dict[str, History] = {}
    for channel in (HOT, BIG, PRUNED, *QUIET):
        histories[channel] = await read_history(run.server.port, channel, bearer)
    heads = {channel: history.head for channel, history in histories.items()}
    with contextlib.suppress(AssertionError):  # the checker says better what is missing
        left_s = max(0.0, deadline - time.monotonic())
        await aeventually(lambda: all(each.level(heads) for each in run.subscribers), left_s, what="all level")
    run.healing_s = time.monotonic() - began
    # Nothing more may come now: a message that comes twice may come late.
    await asyncio.sleep(0.5)
    run.checker.finish(histories)
    log = run.server.log_text()
    if "Traceback" in log and run.server.mutant is None:
        run.counts["tracebacks in the log"] += log.count("Traceback")


def missed(run: Run) -> list[str]:
    """Faults that hit too seldom for the run to prove anything."""
    return [
        f"{name}: {run.counts[name]}, at least {run.plan.minimum(name)} needed"
        for name in run.plan.minima
        if run.counts[name] < run.plan.minimum(name)
    ]


def report(run: Run) -> str:
    checker, plan = run.checker, run.plan
    lines = [
        f"seed {plan.seed} · {plan.seconds:g} s · {plan.subscribers} subscribers · {plan.publishers} publishers",
        f"messages stored   {sum(len(each) for each in checker.owners.values())}"
        f" ({', '.join(f'{name} {head}' for name, head in checker.heads.most_common())})",
        f"deliveries        {checker.counts['deliveries']}",
        f"publish answers   {checker.counts['publishes answered']}",
        "faults that hit (minimum)",
    ]
    for name, count in sorted(checker.counts.items()):
        if name not in ("deliveries", "publishes answered"):
            least = f" ({plan.minimum(name)})" if name in plan.minima else ""
            lines.append(f"  {count:>6} {name}{least}")
    for what, values in (("kill → ready", run.starts_s), ("kill → all level again", run.recoveries_s)):
        if values:
            spread = f"{min(values):.1f} / {sorted(values)[len(values) // 2]:.1f} / {max(values):.1f} s"
            lines.append(f"{what:<24}{spread} (least, median, most of {len(values)})")
    lines.append(f"{'last fault → all level':<24}{run.healing_s:.1f} s")
    lines += [f"MISSED {each}" for each in missed(run)]
    lines += [f"VIOLATION {each}" for each in checker.violations]
    total = sum(checker.broken.values())
    lines.append(f"{total} violations {dict(checker.broken)}" if total else "every message exactly once, in order")
    return "\n".join(lines)


@contextlib.contextmanager
def database(kind: str) -> Iterator[str | None]:
    """DATABASE_URL of a new database; None for SQLite, which the server's folder holds."""
    if kind == "sqlite":
        yield None
    else:
        with Postgres() as postgres:
            yield postgres.create_database("torture")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.torture", description="Torture a server, then judge it.")
    parser.add_argument("--seconds", type=float, default=60, help="how long faults are made (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="of all dice; a random one when absent")
    parser.add_argument("--subscribers", type=int, default=50)
    parser.add_argument("--publishers", type=int, default=5)
    parser.add_argument("--rate", type=float, default=120, help="messages a second in all (default 120)")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--mutant", default=None, help="a fault built into the server; see tests.e2e.mutant_serve")
    parser.add_argument("--keep-log", metavar="FILE", default=None, help="write the server's log there")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3), "big")
    print(f"seed {seed}", flush=True)
    plan = Plan(
        seconds=given.seconds,
        seed=seed,
        subscribers=given.subscribers,
        publishers=given.publishers,
        rate=given.rate,
    )
    with database(given.database) as url, ServerProcess(database_url=url, mutant=given.mutant) as server:
        run = asyncio.run(torture(plan, server, url))
        log = server.log_text()
    if given.keep_log:
        with open(given.keep_log, "w") as file:
            file.write(log)
    print(report(run))
    if run.checker.violations:
        print("--- the end of the server's log ---\n" + log[-4000:])
    return 1 if run.checker.violations or missed(run) else 0


if __name__ == "__main__":
    sys.exit(main())
