"""What befalls several workers, their supervisor and the Redis between them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import Awaitable, Callable

from tests.conftest import aeventually
from tests.e2e.processes import WorkerProcess
from tests.e2e.run import LOOK_S, Run
from tests.servers import Redis, ServerError

TOLD_AGAIN_S = 15.0
"""How long the replacing of all workers may take until the supervisor is told again."""
UNDISTURBED = 0.8
"""How often a supervisor that replaces its workers may do so until it is ended."""
ALONE = 0.6
"""How often the next blow waits until the last one is over."""
RECOVERED_S = 15.0
"""And how long."""


class Blows:
    """Deals blows from a shuffled deck, so that every kind comes in every run, in an order that the seed decides.

    Some wait until all is level again, others fall into what is still going on. Each has its recovery watched;
    `nothing` shows what the faults of links alone do to that measure.
    """

    def __init__(self, run: Run, redis: Redis, dice: random.Random) -> None:
        self.run = run
        self.random = dice
        self._redis = redis
        self._redis_turn = asyncio.Lock()
        self._replacing = asyncio.Lock()
        self._stopped: set[WorkerProcess] = set()
        self._lasting: set[asyncio.Task[None]] = set()
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            each.__name__: each
            for each in (
                *(self.kill_worker, self.stop_worker, self.kill_redis, self.freeze_redis),
                *(self.replace_workers, self.end_supervisor, self.nothing),
            )
        }
        self._deck = [kinds[name] for name in run.plan.blows]

    async def live(self) -> None:
        """Until the run heals; then everything that was stopped goes on."""
        recoveries = self.run.recoveries
        try:
            while self.run.chaos:
                for blow in self.random.sample(self._deck, len(self._deck)):
                    if await self._pause(self.run.plan.blow_every_s * self.random.uniform(0.5, 1.5)):
                        recoveries.mix()
                        await blow()
                    if self.random.random() < ALONE:
                        with contextlib.suppress(AssertionError):
                            await aeventually(lambda: not (recoveries.busy and self.run.chaos), RECOVERED_S)
            await asyncio.gather(*self._lasting)
        finally:
            for task in list(self._lasting):
                task.cancel()
            await asyncio.gather(*self._lasting, return_exceptions=True)
            for worker in self._stopped:
                worker.signal(signal.SIGCONT)

    def _last(self, work: Awaitable[None]) -> None:
        """Has the rest of a blow done while others are dealt."""
        task = asyncio.ensure_future(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    async def _pause(self, seconds: float) -> bool:
        """Not beyond the end of the run's chaos; True when that is not over."""
        with contextlib.suppress(AssertionError):
            await aeventually(lambda: not self.run.chaos, seconds, every_s=0.1)
        return self.run.chaos

    async def nothing(self) -> None:
        self.run.recoveries.watch("no blow")

    # ------------------------------------------------------------------ workers

    def _victim(self) -> WorkerProcess | None:
        workers = self.run.server.workers()
        return self.random.choice(workers) if workers else None

    def _count_attachments(self, worker: WorkerProcess, what: str) -> None:
        there = [each for each in self.run.subscribers if each.worker == worker.name]
        self.run.counts[what] += sum(len(each.attachments) for each in there)

    async def kill_worker(self) -> None:
        worker = self._victim()
        if worker is not None:
            self._count_attachments(worker, "attachments at kills")
            if worker.signal(signal.SIGKILL):
                self.run.counts["workers killed"] += 1
                self.run.recoveries.watch("worker killed")

    async def stop_worker(self) -> None:
        worker = self._victim()
        if worker is not None and worker.signal(signal.SIGSTOP):
            self._stopped.add(worker)
            self._count_attachments(worker, "attachments at stops")
            self.run.counts["workers stopped"] += 1
            self._last(self._continue(worker, self.random.uniform(0.5, 5)))

    async def _continue(self, worker: WorkerProcess, after_s: float) -> None:
        with self.run.recoveries.lasting():
            await self._pause(after_s)
        self._stopped.discard(worker)
        if worker.signal(signal.SIGCONT):
            self.run.recoveries.watch("worker stopped, from its going on")

    # ------------------------------------------------------------------ Redis

    async def kill_redis(self) -> None:
        async with self._redis_turn:
            self.run.news_away = True
            self.run.counts["Redis killed"] += 1
            self.run.recoveries.watch("Redis killed")
            await asyncio.to_thread(self._redis.kill)
            await self._pause(self.random.uniform(0, 2))
            await asyncio.to_thread(self._redis.start)
            self.run.news_away = False

    async def freeze_redis(self) -> None:
        self._last(self._freeze_redis(self.random.uniform(1, 7)))

    async def _freeze_redis(self, seconds: float) -> None:
        async with self._redis_turn:
            if not self.run.chaos:
                return
            self.run.news_away = True
            self.run.counts["Redis frozen"] += 1
            self.run.recoveries.watch("Redis frozen")
            self._redis.pause()
            try:
                with self.run.recoveries.lasting():
                    await self._pause(seconds)
            finally:
                self._redis.resume()
            self.run.news_away = False

    # ------------------------------------------------------------------ the supervisor

    @property
    def _supervisor(self) -> int | None:
        return self.run.server.pid if self.run.server.running else None

    async def replace_workers(self) -> None:
        if self._supervisor is not None and not self._replacing.locked():
            self._last(self._replace_workers(time.monotonic()))

    async def _replace_workers(self, began: float) -> None:
        """Other blows take part in it. A supervisor whose new worker is killed gives up, and is told again."""
        server, supervisor = self.run.server, self._supervisor
        before = {worker.pid for worker in server.workers()}

        def over() -> bool:
            workers = {worker.pid for worker in server.workers()}
            return self._supervisor != supervisor or (len(workers) >= server.count and not workers & before)

        async with self._replacing:
            with self.run.recoveries.lasting():
                while self.run.chaos and not over():
                    with contextlib.suppress(AssertionError):
                        server.signal(signal.SIGHUP)
                        await aeventually(over, TOLD_AGAIN_S, every_s=LOOK_S)
        if self._supervisor == supervisor and over():
            self.run.counts["rolling replacements"] += 1
            self.run.starts_s["SIGHUP → all replaced"].append(time.monotonic() - began)
            self.run.recoveries.watch("rolling SIGHUP, from its end")

    async def end_supervisor(self) -> None:
        """SIGTERM, and a new one on the same port; now and then while it replaces its workers."""
        if self.random.random() < UNDISTURBED:
            async with self._replacing:
                pass
        server, began = self.run.server, time.monotonic()
        self.run.counts["supervisors ended"] += 1
        await asyncio.to_thread(server.stop)
        self.run.starts_s["SIGTERM → ended"].append(time.monotonic() - began)
        for attempt in itertools.count():
            try:
                await asyncio.to_thread(server.start)
                break
            except ServerError:
                # Its database connection was cut, as a supervisor's start looks for migrations.
                if attempt == 5:
                    raise
                self.run.counts["starts that failed"] += 1
        self.run.starts_s["SIGTERM → ready"].append(time.monotonic() - began)
        self.run.recoveries.watch("supervisor ended", began=began, again=True)


async def until_all_serve(run: Run) -> bool:
    """Every worker that should be there is there; the run's rule `restart` otherwise. False when there is none."""
    server = run.server
    try:
        await aeventually(lambda: len(server.workers()) >= server.count, run.plan.settle_s, every_s=LOOK_S)
    except AssertionError:
        run.checker.fail("restart", f"{len(server.workers())} of {server.count} workers run at the end")
    return bool(server.workers())
