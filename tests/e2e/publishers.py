"""Publishers that repeat what was not answered, over WebSocket and REST."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from tests.e2e.checker import Frame, SendOrder, decode_frame
from tests.e2e.run import ANSWER_S, BIG, BIG_BYTES, HOT, IN_FLIGHT, PRUNED, QUIET, Run
from tests.e2e.wire import RawSocket, Unanswered, connect, request


@dataclass(eq=False)
class Item:
    """One message that a publisher has to get stored."""

    id: str
    data: str
    event: str = "message"

    def wire(self) -> dict[str, Any]:
        return {"id": self.id, "event": self.event, "data": json.loads(self.data)}


@dataclass(eq=False)
class Batch:
    """Messages of one frame or request."""

    channel: str
    items: list[Item]
    tries: int = 0


class Publisher:
    """Makes messages at its pace until the run tells it to finish; then it is done when all are answered."""

    def __init__(self, run: Run, index: int, rate: float) -> None:
        self.run = run
        self.client = f"p{index}"
        self.rate = rate
        self.random = random.Random(f"{run.plan.seed}/p{index}")
        self.finishing = False
        self.done = False
        self.made = 0
        self._orders: Counter[str] = Counter()

    keeps_order = False
    """Its messages keep their order over all its connections."""

    async def live(self) -> None:
        raise NotImplementedError

    def make(self, most: int) -> Batch:
        """The next batch, and what the pause after it is, is the caller's business."""
        dice = self.random.random()
        channel = HOT if dice < 0.55 else PRUNED if dice < 0.65 else self.random.choice(QUIET)
        pad = self.random.choice((10, 60, 200))
        count = self.random.randint(1, most)
        if dice > 0.97:
            # Enough of them that a block of the log is larger than one read of it.
            channel, pad, count = BIG, BIG_BYTES, 1
        items = []
        for _ in range(count):
            self.made += 1
            data = json.dumps({"by": self.client, "n": self.made, "pad": "x" * pad}, separators=(",", ":"))
            item = Item(f"{self.client}-{self.made}", data)
            self._orders[channel] += 1
            order = self._orders[channel] if self.keeps_order else -1
            self.run.checker.publishing(channel, self.client, item.id, item.data, order)
            items.append(item)
        return Batch(channel, items)

    def known(self, client: str, channel: str, items: list[Item]) -> set[str]:
        """Ids that were answered before."""
        answers = self.run.checker.answers
        return {item.id for item in items if (channel, client, item.id) in answers}

    def judge(self, client: str, batch: Batch, known: set[str], answer: Frame) -> None:
        pairs = [(item.id, item.data) for item in batch.items]
        self.run.checker.published(batch.channel, client, pairs, known, answer)


class SocketPublisher(Publisher):
    """Pipelines over a WebSocket, up to 64 frames in flight; what was not answered is sent again, in order, chained.

    With `chain` every frame is chained, so that its order holds over failures and connections; without, only what is
    sent again is. One in five frames holds an old id beside new ones when `repeats` is set.
    """

    def __init__(self, run: Run, index: int, rate: float, *, chain: bool, repeats: bool = False) -> None:
        super().__init__(run, index, rate)
        self.chain = self.keeps_order = chain
        self.repeats = repeats
        self._again: deque[Batch] = deque()
        self._flying: OrderedDict[int, tuple[Batch, set[str], int]] = OrderedDict()
        self._failed: list[tuple[int, Batch]] = []
        self._broken_chains: set[str] = set()
        """Channels of which the last publish on this connection failed: what is chained to that fails, too."""
        self._refs = itertools.count(1)
        self._order: SendOrder | None = None
        self._answered = asyncio.Event()
        self._pause_s = 0.0
        self._stored: deque[tuple[str, Item]] = deque(maxlen=200)
        self.socket: RawSocket | None = None
        self._heard_at = 0.0
        self._is_ready = False
        self._worker = ""
        self._read_through = 0
        """The server has read every frame through this ref: it answered a ping behind it."""

    async def live(self) -> None:
        wait_s = 0.1
        while not self.done:
            socket = RawSocket()
            socket.on_text = self._on_text
            socket.on_end = self._answered.set
            self._is_ready = False
            self._read_through = 0
            try:
                await connect(self.run.proxy.port, self.run.token(self.client), into=socket, timeout_s=15)
            except OSError:
                self.run.counts["reconnects refused"] += 1
                await asyncio.sleep(self.random.uniform(0, wait_s))
                wait_s = min(1.0, wait_s * 2)
                continue
            wait_s = 0.1
            self.socket = socket
            self._order = SendOrder(self.run.checker, self.client)
            await self._speak(socket)
            self._close(socket)

    def _close(self, socket: RawSocket) -> None:
        socket.abort()
        self.socket = None
        if self._order is not None:
            self._order.finish()
        if self.done:
            return
        self.run.counts["connections that died"] += 1
        if socket.cut_inside:
            self.run.counts["links cut in mid-frame"] += 1
        self.run.counts["answers lost"] += len(self._flying)
        # Failed and unanswered ones in the order they were sent, in front of what waits.
        old = [*self._failed, *((ref, batch) for ref, (batch, _, _) in self._flying.items())]
        self._again.extendleft(batch for _, batch in sorted(old, key=lambda pair: pair[0], reverse=True))
        self._failed.clear()
        self._flying.clear()
        self._broken_chains.clear()

    async def _speak(self, socket: RawSocket) -> None:
        self._heard_at = time.monotonic()
        next_at = time.monotonic()
        while socket.is_open and not self.done:
            now = time.monotonic()
            if self._flying and now - self._heard_at > ANSWER_S:
                self.run.counts["connections given up"] += 1
                return
            if self._failed and not self._flying:
                await asyncio.sleep(self._pause_s)
                self._again.extendleft(batch for _, batch in sorted(self._failed, key=lambda p: p[0], reverse=True))
                self._broken_chains.update(batch.channel for _, batch in self._failed)
                self._failed.clear()
            room = self._is_ready and len(self._flying) < IN_FLIGHT and not self._failed
            if room and self._again:
                self._send(socket, self._again.popleft(), again=True)
                continue
            if self.finishing:
                if not self._again and not self._flying and not self._failed:
                    self.done = True
                    return
            elif room and now >= next_at:
                # In bursts, so that really many are in flight.
                for _ in range(self.random.choice((1, 1, 1, 2, 24))):
                    batch = self.make(4)
                    stored = [item for channel, item in self._stored if channel == batch.channel]
                    if self.repeats and stored and self.random.random() < 0.2:
                        batch.items.insert(self.random.randrange(len(batch.items) + 1), self.random.choice(stored))
                        batch.items.append(batch.items[0])
                    next_at = max(next_at, now - 1) + len(batch.items) / self.rate
                    if len(self._flying) < IN_FLIGHT:
                        self._send(socket, batch, again=False)
                    else:
                        self._again.append(batch)
                if self._flying and self.random.random() < 0.3:
                    socket.send({"type": "ping", "ref": next(reversed(self._flying))})
                continue
            self._answered.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), min(0.2, max(0.005, next_at - now)))

    def _send(self, socket: RawSocket, batch: Batch, *, again: bool) -> None:
        assert self._order is not None
        ref = next(self._refs)
        batch.tries += 1
        self._flying[ref] = (
            batch,
            self.known(self.client, batch.channel, batch.items),
            self._order.sending(batch.channel),
        )
        self.run.origins.update(dict.fromkeys([(self.client, item.id) for item in batch.items], self._worker))
        frame: dict[str, Any] = {
            "type": "publish",
            "ref": ref,
            "channel": batch.channel,
            "messages": [item.wire() for item in batch.items],
        }
        if (self.chain or again) and batch.channel not in self._broken_chains:
            frame["chained"] = True
        # Nothing is in flight when the first of those that failed is sent again, so it need not be chained.
        self._broken_chains.discard(batch.channel)
        socket.send(frame)

    def _on_text(self, text: bytes) -> None:
        frame = decode_frame(text)
        self._heard_at = time.monotonic()
        self._answered.set()
        if frame.type == "ready":
            self._is_ready, self._worker = True, frame.worker
            self.run.connected(frame.worker)
        elif frame.type == "pong":
            self._read_through = max(self._read_through, int(frame.ref or 0))
        elif frame.type == "reconnect":
            self._on_reconnect()
        elif frame.type == "published":
            found = self._flying.pop(int(frame.ref or 0), None)
            if found is None:
                self.run.checker.fail("answer", f"{self.client}: published for ref {frame.ref}, which is not awaited")
                return
            batch, known, number = found
            self.judge(self.client, batch, known, frame)
            assert self._order is not None
            self._order.answered(number, frame)
            self._stored.append((batch.channel, self.random.choice(batch.items)))
        elif frame.type == "error":
            found = self._flying.pop(int(frame.ref or 0), None)
            if found is None or frame.code not in ("unavailable", "order"):
                self.run.checker.fail("refused", f"{self.client}: {frame.code} {frame.message} for {frame.ref}")
            if found is not None:
                self.run.counts[f"publishes answered {frame.code}"] += 1
                self._failed.append((int(frame.ref or 0), found[0]))
                self._pause_s = (frame.retry_after_ms or 200) / 4000

    def _on_reconnect(self) -> None:
        """The worker leaves. What it had read before a ping that it answered must have its answer by now."""
        self.run.counts["clients sent away"] += 1
        if self._flying:
            self.run.counts["publishers sent away in mid-publish"] += 1
        open_ = [ref for ref in self._flying if ref <= self._read_through]
        if open_:
            self.run.checker.fail("drain", f"{self.client}: sent away from {self._worker} without answers to {open_}")


class RestPublisher(Publisher):
    """One request after the other, each repeated until it is answered. `repeats`: also publishes what others have."""

    def __init__(self, run: Run, index: int, rate: float, *, most: int) -> None:
        super().__init__(run, index, rate)
        self.most = most
        self.keeps_order = True

    async def live(self) -> None:
        while not self.finishing:
            batch = self.make(self.most)
            await self._store(self.client, batch)
            await asyncio.sleep(len(batch.items) / self.rate * self.random.uniform(0.5, 1.5))
        self.done = True

    async def _store(self, client: str, batch: Batch) -> None:
        """Returns when it is answered. Half of the requests go through the proxy, where they meet faults."""
        lost = False
        while True:
            port = self.run.proxy.port if self.random.random() < 0.7 else self.run.server.port
            known = self.known(client, batch.channel, batch.items)
            batch.tries += 1
            body: dict[str, Any] = {"messages": [item.wire() for item in batch.items]}
            if len(batch.items) == 1 and self.random.random() < 0.5:
                body = batch.items[0].wire()
            path = f"/api/v1/channels/{quote(batch.channel, safe='')}/messages"
            try:
                status, answer = await request(port, "POST", path, self.run.token(client), body, timeout_s=ANSWER_S)
            except Unanswered:
                self.run.counts["answers lost"] += 1
                lost = True
            except OSError:
                self.run.counts["requests refused"] += 1
            else:
                if status in (200, 201):
                    self._judge_answer(client, batch, known, status, answer, lost)
                    return
                self.run.counts[f"requests answered {status}"] += 1
                if status != 503:
                    self.run.checker.fail("refused", f"{client}: REST publish answered {status} {answer}")
                    return
            await asyncio.sleep(self.random.uniform(0.05, 0.5))

    def _judge_answer(
        self, client: str, batch: Batch, known: set[str], status: int, answer: dict[str, Any], lost: bool
    ) -> None:
        frame = msgspec.convert({"type": "published", **answer}, Frame)
        if (status == 200) != (len(frame.duplicates) == len(batch.items)):
            self.run.checker.fail("answer", f"{client}: status {status} with duplicates {frame.duplicates}")
        self.judge(client, batch, known, frame)


class Repeater(RestPublisher):
    """Publishes again what others have published, in their names: by REST, sometimes with other data."""

    def __init__(self, run: Run, index: int, rate: float) -> None:
        super().__init__(run, index, rate, most=3)
        self.keeps_order = False

    async def live(self) -> None:
        while not self.finishing:
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * 3 / self.rate)
            checker = self.run.checker
            answered = checker.answers
            if not answered:
                continue
            key = self.random.choice(list(itertools.islice(reversed(answered), 500)))
            channel, client, id = key
            data = checker.sent[key].data
            if self.random.random() < 0.3:
                data = data.replace('"by"', '"not by"')
                self.run.counts["conflicts sent"] += 1
            await self._store(client, Batch(channel, [Item(id, data)]))
            await self._store(self.client, self.make(1))
        self.done = True
