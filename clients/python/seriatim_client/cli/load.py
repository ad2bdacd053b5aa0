"""`seriatim load`: subscribers and publishers of one channel, and what came of it.

Each is a connection of its own. Publishers keep to a rate, whatever the answers; what is due and finds the outbox full
is counted as held back. Latency is from the call of `publish` to the message in a subscriber's hands, in one process,
so by one clock. A loss is a message that was stored and did not reach a subscriber in the time after the end.
"""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from seriatim_client.cli.credentials import connected, line
from seriatim_client.cli.output import OK, REFUSED, Progress, compact, write
from seriatim_client.client import Client
from seriatim_client.messages import Published

OPEN_AT_ONCE = 20
"""How many connections are opened at a time: a load is no storm."""


@dataclass
class Count:
    """What was seen. Latencies are in milliseconds."""

    published: int = 0
    stored: int = 0
    refused: int = 0
    held_back: int = 0
    delivered: int = 0
    out_of_order: int = 0
    skipped: int = 0
    delivery_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)


class _Subscriber:
    def __init__(self, client: Client, name: str, count: Count, run: str) -> None:
        self.client = client
        self.channel = client.channel(name, "head")
        self.channel.on_discontinuity = self._skipped
        self.count = count
        self.run = run
        self.got = 0
        self.start: int | None = None
        self.last: int | None = None

    def _skipped(self, first: int | None, last: int | None, reason: str) -> None:
        self.count.skipped += 1 if first is None or last is None else last - first + 1
        self.last = None

    async def read(self) -> None:
        async for message in self.channel:
            now_s = time.monotonic()
            if self.last is not None and message.serial != self.last + 1:
                self.count.out_of_order += 1
            self.last = message.serial
            if isinstance(message.data, dict) and message.data.get("run") == self.run:
                self.got += 1
                self.count.delivered += 1
                self.count.delivery_ms.append((now_s - message.data["at_s"]) * 1000)


class _Publisher:
    def __init__(self, client: Client, name: str, count: Count, options: Namespace, run: str) -> None:
        self.client = client
        self.channel = client.channel(name)
        self.count = count
        self.options = options
        self.run = run

    async def write(self, rate: float, until_s: float, offset_s: float) -> None:
        """Publishes at `rate` a second. Due times are fixed, so that a slow moment is made up for."""
        padding = "x" * self.options.size
        due_s = time.monotonic() + offset_s
        while due_s < until_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            due_s += 1 / rate
            at_s = time.monotonic()
            future = self.channel.publish({"run": self.run, "at_s": at_s, "padding": padding})
            if future.done() and future.exception() is not None:
                self.count.held_back += 1
                continue
            self.count.published += 1
            future.add_done_callback(partial(self._answered, at_s))

    def _answered(self, at_s: float, done: asyncio.Future[Published]) -> None:
        if done.cancelled() or done.exception() is not None:
            self.count.refused += 1
        else:
            self.count.stored += 1
            self.count.answer_ms.append((time.monotonic() - at_s) * 1000)


async def load(options: Namespace) -> int:
    count = Count()
    run = f"{time.time_ns():x}"
    clients = [line(options, ["subscribe"], f"load-{index}") for index in range(options.subscribers)]
    clients += [line(options, ["publish"], f"load-p{index}") for index in range(options.publishers)]
    subscribers = [_Subscriber(each, options.channel, count, run) for each in clients[: options.subscribers]]
    writers = clients[options.subscribers :]
    publishers = [_Publisher(each, options.channel, count, options, run) for each in writers]
    tasks: list[asyncio.Task[None]] = []
    try:
        with Progress(options.quiet) as progress:
            for first in range(0, len(clients), OPEN_AT_ONCE):
                progress.show(f"connecting {first} of {len(clients)}")
                await asyncio.gather(*(connected(each, options) for each in clients[first : first + OPEN_AT_ONCE]))
            await asyncio.gather(*(each.channel.attach() for each in subscribers))
            tasks += [asyncio.create_task(each.read()) for each in subscribers]
            begin_s = time.monotonic()
            until_s = begin_s + options.duration
            rate = options.rate / max(1, len(publishers))
            writing = [
                asyncio.create_task(each.write(rate, until_s, index / options.rate))
                for index, each in enumerate(publishers)
            ]
            tasks += writing
            while any(not task.done() for task in writing):
                left_s = max(0.0, until_s - time.monotonic())
                progress.show(f"{left_s:.0f} s left · {count.stored} stored · {count.delivered} delivered")
                await asyncio.wait(writing, timeout=0.2)
            await asyncio.gather(*writing)
            took_s = time.monotonic() - begin_s
            await _settle(options, count, publishers, subscribers, progress)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in clients))
    lost = sum(max(0, count.stored - each.got) for each in subscribers)
    _report(options, count, lost, took_s)
    return OK if lost == 0 and count.out_of_order == 0 and count.refused == 0 else REFUSED


async def _settle(
    options: Namespace,
    count: Count,
    publishers: Sequence[_Publisher],
    subscribers: Sequence[_Subscriber],
    progress: Progress,
) -> None:
    """Waits for what is on its way."""
    try:
        async with asyncio.timeout(options.timeout):
            await asyncio.gather(*(each.client.flush() for each in publishers))
            while any(each.got < count.stored for each in subscribers):
                progress.show(f"waiting for {count.stored * len(subscribers) - count.delivered} deliveries")
                await asyncio.sleep(0.02)
    except TimeoutError:
        pass


def _quantiles(values: list[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    if not ordered:
        return {"p50": None, "p95": None, "p99": None, "max": None}
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 2) for name, part in at.items()}


def _report(options: Namespace, count: Count, lost: int, took_s: float) -> None:
    facts = {
        "subscribers": options.subscribers,
        "publishers": options.publishers,
        "duration_s": round(took_s, 2),
        "published": count.published,
        "stored": count.stored,
        "refused": count.refused,
        "held_back": count.held_back,
        "delivered": count.delivered,
        "delivered_per_s": round(count.delivered / took_s, 1),
        "lost": lost,
        "out_of_order": count.out_of_order,
        "skipped": count.skipped,
    }
    delivery, answer = _quantiles(count.delivery_ms), _quantiles(count.answer_ms)
    if options.style_out == "json":
        write(compact({**facts, "delivery_ms": delivery, "answer_ms": answer}))
        return
    for name, value in facts.items():
        write(f"{name:<16}{value}")
    for name, values in (("delivery_ms", delivery), ("answer_ms", answer)):
        write(f"{name:<16}" + "  ".join(f"{part} {value}" for part, value in values.items()))
