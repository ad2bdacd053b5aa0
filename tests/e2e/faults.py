"""What goes wrong during the torture: links, clients, the server process, retention, the database's connections.

What befalls several workers is in `blows`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from functools import partial

import psycopg

from tests.conftest import aeventually
from tests.e2e.blows import Blows
from tests.e2e.processes import Link
from tests.e2e.publishers import SocketPublisher
from tests.e2e.run import PRUNED, Run
from tests.servers import Redis, ServerError

LONGER = 3
"""How many times its time a run may take to meet its minima."""


class Faults:
    """Hurts the links, the server process or its workers, Redis, and, on PostgreSQL, the database's connections."""

    def __init__(self, run: Run, database_url: str | None, redis: Redis | None) -> None:
        self.run = run
        self.random = random.Random(f"{run.plan.seed}/faults")
        self._database_url = database_url
        self._redis = redis

    async def live(self) -> None:
        plan, end = self.run.plan, time.monotonic() + self.run.plan.seconds
        works = [self._hurt_links()]
        if self._redis is None:
            works.append(self._kill(end))
        else:
            works.append(Blows(self.run, self._redis, random.Random(f"{plan.seed}/blows")).live())
        if plan.prunes:
            works.append(self._prune())
        if self._database_url is not None:
            works.append(self._terminate_database_connections())
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.sleep(plan.seconds)
            with contextlib.suppress(AssertionError):  # the report says what is missing
                await aeventually(self._nothing_missing, plan.seconds * (LONGER - 1), every_s=0.2)
            self.run.chaos = False
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _nothing_missing(self) -> bool:
        return not self.run.plan.missed(self.run.counts)

    # ------------------------------------------------------------------ links

    async def _hurt_links(self) -> None:
        while self.run.chaos:
            await asyncio.sleep(self.random.expovariate(1 / self.run.plan.fault_every_s))
            links = list(self.run.proxy.links.values())
            if links:
                self._hurt(self._choose(links))

    def _choose(self, links: list[Link]) -> Link:
        """Somebody who is catching up, half of the time, if there is anybody."""
        if self.random.random() < 0.5:
            behind = [each.socket.local_port for each in self.run.subscribers if each.behind and each.socket]
            found = [self.run.proxy.links[port] for port in behind if port in self.run.proxy.links]
            if found:
                return self.random.choice(found)
        return self.random.choice(links)

    def _hurt(self, link: Link) -> None:
        counts = self.run.counts
        match self.random.choices(range(8), (3, 5, 3, 3, 2, 3, 2, 2))[0]:
            case 0:
                counts["links reset"] += 1
                link.reset()
            case 1:
                # Now and then a publisher's, whose answers are lost with it.
                aim = self._publisher_links() if self.random.random() < 0.3 else []
                for each in aim or [link]:
                    each.down.cut_after = self.random.randint(1, 4000)
            case 2:
                for each in self._publisher_links() or [link]:
                    each.up.on_cut = lambda: counts.update(["publishes cut in mid-frame"])
                    each.up.cut_after = self.random.randint(1, 400)
            case 3:
                counts["links silenced"] += 1
                link.down.silence()
                self._until_later(link, self.random.uniform(0.3, 2.5))
            case 4:
                counts["links silenced"] += 1
                link.down.silence()
                link.up.silence()
                self._until_later(link, self.random.uniform(0.3, 2.5))
            case 5:
                counts["links slowed"] += 1
                link.down.rate_bytes_s = self.random.uniform(3_000, 50_000)
                self._until_later(link, self.random.uniform(0.5, 3))
            case 6:
                counts["links delayed"] += 1
                link.down.delay_s = self.random.uniform(0.01, 0.2)
                link.up.delay_s = self.random.uniform(0.01, 0.2)
                self._until_later(link, self.random.uniform(0.5, 3))
            case _:
                found = [each for each in self.run.subscribers if each.socket is not None]
                if found:
                    counts["clients deaf"] += 1
                    self.random.choice(found).deafen(self.random.uniform(0.3, 3))

    def _publisher_links(self) -> list[Link]:
        sockets = [each.socket for each in self.run.publishers if isinstance(each, SocketPublisher)]
        ports = [socket.local_port for socket in sockets if socket is not None]
        links = [self.run.proxy.links[port] for port in ports if port in self.run.proxy.links]
        return self.random.sample(links, 1) if links else []

    def _until_later(self, link: Link, seconds: float) -> None:
        """Then the link heals, or is reset."""
        end = link.reset if self.random.random() < 0.4 else link.heal
        asyncio.get_running_loop().call_later(seconds, end)

    # ------------------------------------------------------------------ the server

    async def _kill(self, end: float) -> None:
        plan = self.run.plan
        await asyncio.sleep(plan.kill_every_s * self.random.uniform(0.3, 0.6))
        while self.run.chaos:
            await self.kill_once()
            pause_s = plan.kill_every_s * self.random.uniform(0.6, 1.2)
            if time.monotonic() + pause_s > end and self._nothing_missing():
                return
            await asyncio.sleep(pause_s)

    async def kill_once(self) -> None:
        run = self.run
        attached = sum(len(each.attachments) for each in run.subscribers)
        run.counts["kills"] += 1
        run.counts["attachments at kills"] += attached
        run.counts["attachments behind at kills"] += sum(
            one.behind for each in run.subscribers for one in each.attachments.values()
        )
        killed_at = time.monotonic()
        await asyncio.to_thread(run.server.kill9)
        await asyncio.to_thread(self._start_again)
        run.starts_s["kill → ready"].append(time.monotonic() - killed_at)
        run.recoveries.watch("kill", began=killed_at, again=True)

    def _start_again(self) -> None:
        """As a supervisor does: a start whose database connection is cut is tried again."""
        for _ in range(5):
            try:
                self.run.server.start()
                return
            except ServerError:
                if self._database_url is None:
                    raise
                self.run.counts["starts that failed"] += 1
        self.run.server.start()

    # ------------------------------------------------------------------ retention

    async def _prune(self) -> None:
        """Takes messages from under subscribers that are away or stalled."""
        followers = [each for each in self.run.subscribers if PRUNED in each.progress]
        checker = self.run.checker
        while self.run.chaos and followers:
            await asyncio.sleep(self.random.uniform(0.5, 1.5))
            sleepers = self.random.sample(followers, max(1, len(followers) // 2))
            for each in sleepers:
                each.away = True
                each.leave()
            with contextlib.suppress(AssertionError):  # prune what there is
                await aeventually(partial(self._grown_to, checker.heads[PRUNED] + 8), 10, what="grown")
            upto = checker.heads[PRUNED] - 2
            if upto > 0:
                checker.pruned[PRUNED] = max(checker.pruned[PRUNED], upto)
                try:
                    await asyncio.to_thread(self.run.server.manage, "prune", "--channel", PRUNED, "--upto", str(upto))
                except ServerError:
                    # Its database connection was cut, before or after it did its work.
                    checker.counts["prunes that failed"] += 1
                else:
                    checker.pruned_surely[PRUNED] = max(checker.pruned_surely[PRUNED], upto)
                    checker.counts["prunes"] += 1
            for each in sleepers:
                each.away = False
            await asyncio.sleep(self.random.uniform(1, 4))
        for each in followers:
            each.away = False

    def _grown_to(self, head: int) -> bool:
        return self.run.checker.heads[PRUNED] >= head or not self.run.chaos

    # ------------------------------------------------------------------ the database

    async def _terminate_database_connections(self) -> None:
        assert self._database_url is not None
        while self.run.chaos:
            await asyncio.sleep(self.random.uniform(0.5, 2.5))
            count = await asyncio.to_thread(terminate_connections, self._database_url)
            self.run.counts["database connections terminated"] += count


def terminate_connections(database_url: str, *, only: str = "") -> int:
    """Ends every connection to the database but the caller's own; `only` those whose statement contains it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE %s",
            [f"%{only}%"],
        ).fetchone()
    assert row is not None
    return int(row[0])
