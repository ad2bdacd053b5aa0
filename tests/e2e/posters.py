"""Publishers that post their frames, numbered within an upstream, and send again what was not answered whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from tests.e2e.checker import Frame
from tests.e2e.lines import API, exchange
from tests.e2e.publishers import Batch, Publisher
from tests.e2e.run import ANSWER_S, Run
from tests.e2e.subscribers import FAREWELLS
from tests.e2e.wire import Unanswered

POSTS_MOST = 4
"""Posts in flight at a time."""
REPLAYED = 0.1
"""How often a post is sent again though it was answered."""
NDJSON = "application/x-ndjson"


class Poster(Publisher):
    """Several posts in flight, each on a connection of its own and so at any worker; their numbers keep the order.

    A post counts as done when every frame of it was answered with `published`. Until then it is sent again, as it is.
    """

    def __init__(self, run: Run, index: int, rate: float) -> None:
        super().__init__(run, index, rate)
        self.keeps_order = True
        self._upstream = f"upstream-{run.plan.seed}-{index}"

    async def live(self) -> None:
        slots = asyncio.Semaphore(POSTS_MOST)
        seq = 0
        async with asyncio.TaskGroup() as group:
            while not self.finishing:
                await slots.acquire()
                seq += 1
                batches = [self.make(4) for _ in range(self.random.randint(1, 3))]
                group.create_task(self._deliver(seq, batches, slots))
                count = sum(len(each.items) for each in batches)
                await asyncio.sleep(count / self.rate * self.random.uniform(0.2, 1.8))
        self.done = True

    async def _deliver(self, seq: int, batches: list[Batch], slots: asyncio.Semaphore) -> None:
        try:
            await self._until_answered(seq, batches)
            if self.random.random() < REPLAYED:
                self.run.counts["posts replayed after their answer"] += 1
                await self._until_answered(seq, batches)
        finally:
            slots.release()

    async def _until_answered(self, seq: int, batches: list[Batch]) -> None:
        pause_s = 0.5
        while True:
            try:
                if await self._post(seq, batches):
                    self.run.counts["posts answered"] += 1
                    return
                pause_s = 0.5
            except Unanswered:
                self.run.counts["answers lost"] += 1
            except OSError:
                self.run.counts["requests refused"] += 1
                pause_s = min(2.0, pause_s * 1.5)
            self.run.counts["posts sent again"] += 1
            await asyncio.sleep(self.random.uniform(0.05, pause_s))

    async def _post(self, seq: int, batches: list[Batch]) -> bool:
        """Whether all of it is stored."""
        frames: list[dict[str, Any]] = []
        for ref, batch in enumerate(batches):
            messages = [item.wire() for item in batch.items]
            frames.append({"type": "publish", "ref": ref, "channel": batch.channel, "messages": messages})
            if ref:
                # Else the second could be stored where the first is refused for a moment.
                frames[-1]["chained"] = True
        lines = self.random.random() < 0.5
        body = "\n".join(map(json.dumps, frames)) if lines else json.dumps(frames)
        known = [self.known(self.client, batch.channel, batch.items) for batch in batches]
        port = self.run.proxy.port if self.random.random() < 0.7 else self.run.server.port
        path = f"{API}/frames?upstream={self._upstream}&seq={seq}"
        headers = f"Content-Type: {NDJSON if lines else 'application/json'}\r\n"
        bearer = self.run.token(self.client)
        status, text = await exchange(port, "POST", path, bearer, body.encode(), headers, timeout_s=ANSWER_S)
        if status != 200:
            self.run.counts[f"posts answered {status}"] += 1
            if status not in (409, 503):
                self.run.checker.fail("refused", f"{self.client}: post {seq} answered {status} {text[:200]!r}")
            return False
        answers = msgspec.json.decode(b"[%s]" % text.strip().replace(b"\n", b",") if lines else text, type=list[Frame])
        return self._judge_answers(seq, batches, known, answers)

    def _judge_answers(self, seq: int, batches: list[Batch], known: list[set[str]], answers: list[Frame]) -> bool:
        checker, where = self.run.checker, f"{self.client}: post {seq}"
        stored = 0
        refs = [answer.ref for answer in answers if answer.type != "close"]
        if refs != sorted({int(ref) for ref in refs if ref is not None}):
            checker.fail("answer", f"{where}: answers to {refs}")
            return False
        for answer in answers:
            if answer.type == "published":
                ref = int(answer.ref or 0)
                self.judge(self.client, batches[ref], known[ref], answer)
                stored += 1
            elif answer.type == "close":
                if answer.code not in FAREWELLS:
                    checker.fail("refused", f"{where} ended with {answer.code} {answer.reason}")
                self.run.counts["posts ended by the server"] += 1
                return False
            elif answer.code in ("unavailable", "order"):
                self.run.counts[f"publishes answered {answer.code}"] += 1
            else:
                checker.fail("refused", f"{where}: {answer.code} {answer.message}")
        if len(refs) < len(batches):
            checker.fail("answer", f"{where}: {len(batches)} frames, answers to {refs}")
        return stored == len(batches)
