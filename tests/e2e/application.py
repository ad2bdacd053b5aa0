"""An application that publishes in its transactions: a process of its own, killed at random and started again."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections import Counter

import psycopg

from tests.conftest import aeventually
from tests.e2e.checker import Fact
from tests.e2e.outbox import PROGRAM, ROLLED_BACK, ROOT
from tests.e2e.publishers import Publisher
from tests.e2e.run import HOT, QUIET, Run

START_S = 60.0
"""How long a process may take until its first transaction, on a machine that has much else to do."""
END_S = 20.0
"""How long it may take to end its last ones."""


class Application(Publisher):
    """Commits and rolls back, and publishes within; what it wrote beside its messages is the truth about them."""

    def __init__(self, run: Run, index: int, rate: float) -> None:
        super().__init__(run, index, rate)
        run.checker.applications.add(self.client)
        self._done = run.server.folder / f"done-{self.client}"
        self._counted = 0
        self._process: subprocess.Popen[bytes] | None = None

    async def live(self) -> None:
        self._done.touch()
        await asyncio.to_thread(self._table)
        names = (f"{self.client}-{number}" for number in itertools.count())
        try:
            while not self.finishing:
                await asyncio.to_thread(self._start, next(names))
                await self._until_killed()
        finally:
            self._kill()
        self.done = True

    def _count(self) -> None:
        """What it has done since this was called last."""
        text = self._done.read_text()
        letters = Counter(text[self._counted :])
        self._counted = len(text)
        counts = self.run.counts
        counts["transactions"] += sum(letters.values())
        counts["transactions rolled back"] += sum(letters[letter] for letter in ROLLED_BACK)
        counts["transactions that the database failed"] += letters["x"]

    async def _until_killed(self) -> None:
        """It is killed a while after its first transaction; in the end it ends by itself."""
        process = self._process
        assert process is not None
        before = self._done.stat().st_size
        started = time.monotonic()
        kill_at: float | None = None
        life_s = self.random.uniform(1.0, 5.0)
        while not self.finishing:
            await asyncio.sleep(0.02)
            now = time.monotonic()
            assert process.poll() is None, f"{self.client} ended with {process.returncode}: {self._said()}"
            if kill_at is None:
                assert now - started < START_S, f"{self.client} made no transaction: {self._said()}"
                if self._done.stat().st_size > before:
                    kill_at = now + life_s
            elif now > kill_at:
                self.run.counts["applications killed"] += 1
                self._kill()
                self._count()
                return
        process.terminate()
        await aeventually(lambda: process.poll() is not None, END_S, what="the application ends")
        self._count()
        assert process.returncode in (0, -15), self._said()  # -15: it had not got so far as to mind the signal

    def _start(self, name: str) -> None:
        with (self.run.server.folder / "applications.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", PROGRAM, "publish", name, str(self._done)),
                    *("--channels", ",".join((HOT, *QUIET)), "--client", self.client, "--rate", str(self.rate)),
                ],
                cwd=ROOT,
                env=self.run.server.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _table(self) -> None:
        subprocess.run(
            [sys.executable, "-m", PROGRAM, "table"], cwd=ROOT, env=self.run.server.environment(), check=True
        )

    def _said(self) -> str:
        return (self.run.server.folder / "applications.log").read_text(errors="replace")[-2000:]


def read_outbox(database_url: str) -> tuple[list[Fact], int]:
    """What is committed, and how many messages wait to be relayed."""
    with psycopg.connect(database_url) as connection:
        facts: list[Fact] = connection.execute("SELECT channel, who, number, place FROM outbox_fact").fetchall()
        row = connection.execute("SELECT count(*) FROM realtime_outbox").fetchone()
    assert row is not None
    return facts, int(row[0])
