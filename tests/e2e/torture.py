"""Torture: many subscribers and publishers, a server that is killed, links that break; then everything must be there.

    python -m tests.e2e.torture --seconds 60 --seed 7 --database postgres
    python -m tests.e2e.torture --seconds 60 --seed 7 --workers 3
    python -m tests.e2e.torture --seconds 60 --seed 7 --workers 3 --transports all

For the given time links are cut, silenced, slowed and reset, and the server process is killed and started again. Of
several workers each is killed, stopped and replaced, their supervisor is ended, Redis killed and frozen, and one of the
publishers is an application that publishes in its transactions. Then all faults end, publishers get their last answers,
subscribers read to the heads, and the checker must find each message exactly once and in order. The run fails as well
when too few faults hit. The seed decides the actors and the dice, not the operating system: the same seed is the same
kind of run, not the same interleaving. See docs/how-to/test.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from tests.conftest import aeventually
from tests.e2e.application import Application, read_outbox
from tests.e2e.blows import until_all_serve
from tests.e2e.checker import Fact, Frame, History, decode_frame
from tests.e2e.faults import Faults
from tests.e2e.posters import Poster
from tests.e2e.processes import Proxy, ServerProcess
from tests.e2e.publishers import Item, Publisher, Repeater, RestPublisher, SocketPublisher
from tests.e2e.run import BIG, HOT, LOOK_S, PRUNED, QUIET, TRANSPORTS, Plan, Run, minima_of
from tests.e2e.subscribers import Subscriber
from tests.e2e.travellers import Traveller
from tests.e2e.wire import talker
from tests.servers import Postgres, Redis

PROBE = "probe"
PROBES = 10
"""Messages at the end of a run of several workers, to see how fast they come."""
PROBE_S = 5.0
SWEEP_GRACE_S = 0.25
"""REALTIME["SWEEP_GRACE_MS"]: what a sweep has found comes no sooner."""


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
        kind = Subscriber
        if plan.transports and index % 4:
            kind = Traveller
            if index % 4 == 1:
                channels = channels[:1] if index % 8 == 1 else channels[-1:]
        run.subscribers.append(kind(run, index, channels, first))
    shares = [0.3, 0.25, 0.08, 0.3, 0.07]
    makers: list[Callable[[int, float], Publisher]] = [
        lambda index, rate: SocketPublisher(run, index, rate, chain=True),
        lambda index, rate: SocketPublisher(run, index, rate, chain=False, repeats=True),
        lambda index, rate: RestPublisher(run, index, rate, most=1),
        lambda index, rate: RestPublisher(run, index, rate, most=25),
        lambda index, rate: Repeater(run, index, rate),
    ]
    if plan.workers > 1:
        makers[2] = lambda index, rate: Application(run, index, rate)
        shares[2] = 0.2
    if plan.transports:
        makers[2:2] = [lambda index, rate: Poster(run, index, rate)]
        shares[2:2] = [0.2]
    for index in range(plan.publishers):
        run.publishers.append(makers[index % len(makers)](index, plan.rate * shares[index % len(makers)]))


async def _read_histories(run: Run, bearer: str) -> dict[str, History]:
    return {channel: await read_history(run.server.port, channel, bearer) for channel in (HOT, BIG, PRUNED, *QUIET)}


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


async def torture(
    plan: Plan, server: ServerProcess, database_url: str | None = None, redis: Redis | None = None
) -> Run:
    """One run against a server that has been started. Judge it by `run.checker` and `missed`.

    With `redis` the server must be the supervisor of several workers on PostgreSQL.
    """
    async with Proxy(server.port) as proxy:
        run = Run(plan, server, proxy)
        _cast(run)
        faults = Faults(run, database_url, redis)
        lives: list[Coroutine[Any, Any, None]] = [each.live() for each in run.subscribers]
        lives += [each.live() for each in run.publishers]
        tasks = [asyncio.ensure_future(life) for life in lives]
        try:
            await _first_of(asyncio.ensure_future(faults.live()), tasks)
            await _heal(run, database_url)
        finally:
            run.over = True
            for each in run.subscribers:
                each.leave()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await run.recoveries.stop()
        for result in results:
            if isinstance(result, Exception):
                raise result
        return run


async def _first_of(work: asyncio.Task[None], lives: Sequence[asyncio.Task[Any]]) -> None:
    """Waits for the work, unless one of the lives fails before: that is a fault of the torture itself."""
    try:
        pending: set[asyncio.Task[Any]] = {work, *lives}
        while work in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _heal(run: Run, database_url: str | None) -> None:
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
    if run.plan.workers > 1 and not await until_all_serve(run):
        return  # nobody is left who could be asked
    facts: list[Fact] = []
    waiting = 0
    if run.checker.applications:
        assert database_url is not None
        facts, waiting = await _settled_outbox(database_url, deadline)
    bearer = run.token("reader")
    histories = await _read_histories(run, bearer)
    heads = {channel: history.head for channel, history in histories.items()}
    with contextlib.suppress(AssertionError):  # the checker says better what is missing
        left_s = max(0.0, deadline - time.monotonic())
        await aeventually(
            lambda: all(each.level(heads) for each in run.subscribers), left_s, every_s=LOOK_S, what="all level"
        )
    run.healing_s = time.monotonic() - began
    if run.plan.workers > 1:
        await _hear_news(run)
        histories = await _read_histories(run, bearer)
    # Nothing more may come now: a message that comes twice may come late.
    await asyncio.sleep(0.5)
    run.checker.finish(histories)
    run.checker.finish_outbox(facts, waiting)
    log = run.server.log_text()
    if "Traceback" in log and run.server.mutant is None:
        run.counts["tracebacks in the log"] += log.count("Traceback")


async def _settled_outbox(database_url: str, deadline: float) -> tuple[list[Fact], int]:
    """What is committed, once nothing waits to be relayed any more; nobody writes into the outbox by now."""
    while True:
        facts, waiting = await asyncio.to_thread(read_outbox, database_url)
        if not waiting or time.monotonic() > deadline:
            return facts, waiting
        await asyncio.sleep(0.05)


async def _hear_news(run: Run) -> None:
    """A message comes to everybody before the sweep could have brought it, or news does not travel any more.

    Lone ones, since what the sweep finds is read a grace later. Tried again and again: Redis may have come back only
    now, and the machine may be slow for other reasons.
    """
    publisher = await talker(run.server.port, run.token(PROBE))
    hearing = [each for each in run.subscribers if HOT in each.progress]
    checker = run.checker
    deadline = time.monotonic() + run.plan.settle_s
    for number in itertools.count(1):
        item = Item(f"{PROBE}-{number}", str(number))
        checker.publishing(HOT, PROBE, item.id, item.data)
        sent_at = time.monotonic()
        frame = {"type": "publish", "ref": number, "channel": HOT, "messages": [item.wire()]}
        answer = msgspec.convert(await publisher.ask(frame), Frame)
        if answer.type != "published":
            checker.fail("refused", f"{PROBE}: {answer.code} {answer.message}")
            break
        checker.published(HOT, PROBE, [(item.id, item.data)], set(), answer)
        with contextlib.suppress(AssertionError):  # the checker will say who lacks it
            await aeventually(
                lambda: all(each.got(HOT, checker.heads[HOT]) for each in hearing), PROBE_S, every_s=0.001
            )
        run.news_s.append(time.monotonic() - sent_at)
        if min(run.news_s) < SWEEP_GRACE_S and number >= PROBES:
            break
        if time.monotonic() > deadline:
            if min(run.news_s) >= SWEEP_GRACE_S:
                checker.fail("news", f"from publish to everybody it takes {min(run.news_s):.2f} s and more")
            break
        await asyncio.sleep(run.random.uniform(0.1, 0.4))
    publisher.abort()


def missed(run: Run) -> list[str]:
    """Faults that hit too seldom for the run to prove anything."""
    plan, counts = run.plan, run.counts
    return [f"{name}: {counts[name]}, at least {plan.minimum(name)} needed" for name in plan.missed(counts)]


def report(run: Run) -> str:
    checker, plan = run.checker, run.plan
    lines = [
        f"seed {plan.seed} · {plan.seconds:g} s · {plan.subscribers} subscribers · {plan.publishers} publishers"
        f" · {plan.workers} worker{'s' * (plan.workers > 1)}",
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
    lines.append("from … to all level again, and other times: least / median / most, s")
    times = {
        **run.starts_s,
        **{f"{kind} → all level": values for kind, values in run.recoveries.took_s.items()},
        "last fault → all level": [run.healing_s],
        "a publish → everybody, when all had healed": run.news_s,
    }
    for what, values in times.items():
        if values:
            spread = f"{min(values):6.2f} / {sorted(values)[len(values) // 2]:5.2f} / {max(values):5.2f}"
            lines.append(f"  {what:<52}{spread}  of {len(values)}")
    lines += [f"MISSED {each}" for each in missed(run)]
    lines += [f"VIOLATION {each}" for each in checker.violations]
    total = sum(checker.broken.values())
    lines.append(f"{total} violations {dict(checker.broken)}" if total else "every message exactly once, in order")
    return "\n".join(lines)


@contextlib.contextmanager
def surroundings(database: str, workers: int) -> Iterator[tuple[str | None, Redis | None]]:
    """DATABASE_URL of a new database, None for SQLite, which the server's folder holds; a Redis for several workers."""
    with contextlib.ExitStack() as stack:
        url = None if database == "sqlite" else stack.enter_context(Postgres()).create_database("torture")
        yield url, stack.enter_context(Redis()) if workers > 1 else None


def server_for(plan: Plan, database_url: str | None, redis: Redis | None, mutant: str | None = None) -> ServerProcess:
    """The server that the plan is for; to be started."""
    variables = {} if redis is None else {"REDIS_URL": redis.url}
    return ServerProcess(database_url=database_url, workers=plan.workers, mutant=mutant, **variables)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.torture", description="Torture a server, then judge it.")
    parser.add_argument("--seconds", type=float, default=60, help="how long faults are made (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="of all dice; a random one when absent")
    parser.add_argument("--subscribers", type=int, default=50)
    parser.add_argument("--publishers", type=int, help="default 5, with --transports 6")
    parser.add_argument("--rate", type=float, default=120, help="messages a second in all (default 120)")
    parser.add_argument("--database", choices=("sqlite", "postgres"), help="default sqlite; several workers: postgres")
    parser.add_argument("--workers", type=int, default=1, help="several run under their supervisor, with Redis")
    parser.add_argument(
        "--transports", default="", help=f"'all', or some of them by commas, between which clients change: {TRANSPORTS}"
    )
    parser.add_argument("--mutant", default=None, help="a fault built into the server; see tests.e2e.mutant_serve")
    parser.add_argument("--keep-log", metavar="FILE", default=None, help="write the server's log there")
    given = parser.parse_args()
    several = given.workers > 1
    if several and given.database == "sqlite":
        parser.error("several workers need --database postgres")
    transports = TRANSPORTS if given.transports == "all" else tuple(filter(None, given.transports.split(",")))
    if unknown := set(transports) - set(TRANSPORTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3), "big")
    print(f"seed {seed}", flush=True)
    plan = Plan(
        seconds=given.seconds,
        seed=seed,
        subscribers=given.subscribers,
        publishers=given.publishers or (6 if transports else 5),
        rate=given.rate,
        workers=given.workers,
        transports=transports,
        minima=minima_of(given.workers, transports),
    )
    kind = given.database or ("postgres" if several else "sqlite")
    with surroundings(kind, given.workers) as (url, redis), server_for(plan, url, redis, given.mutant) as server:
        try:
            run = asyncio.run(torture(plan, server, url, redis))
        finally:
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
