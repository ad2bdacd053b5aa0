"""What a test published, without a worker, and the relay of the outbox by hand."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

from django.db import DatabaseError
from django.db.models import Max

from realtime import sending, signals, worker
from realtime.conf import settings
from realtime.delivery.signals import Signal
from realtime.log import intake, outbox
from realtime.log.types import Append, News, Published
from realtime.models import Outbox
from realtime.protocol.names import is_platform_name

EPOCH = "captured"
"""Epoch of receipts inside `captured_publishes`; serials count from 1 for each channel."""


@dataclass(frozen=True, slots=True)
class CapturedPublish:
    """A message that was published. `in_transaction`: inside `atomic()`, so that it went to the outbox."""

    channel: str
    data: object
    event: str
    id: str
    key: str | None
    client: str
    in_transaction: bool


class CapturedPublishes(Sequence[CapturedPublish]):
    """What was published since the block began, in order; a sequence that grows inside the block and stays after it.

    A message of a savepoint that was rolled back is not in it.
    """

    def __init__(self) -> None:
        self._after = _last_row()
        self._direct: list[tuple[int, CapturedPublish]] = []
        """Each with the last row of the outbox before it."""
        self._serials: Counter[str] = Counter()
        self._final: list[CapturedPublish] | None = None
        # Threads of the code under test publish as well.
        self._lock = threading.Lock()

    def on(self, channel: str) -> list[CapturedPublish]:
        """Those of one channel."""
        return [each for each in self._all() if each.channel == channel]

    @overload
    def __getitem__(self, index: int) -> CapturedPublish: ...
    @overload
    def __getitem__(self, index: slice) -> list[CapturedPublish]: ...
    def __getitem__(self, index: int | slice) -> CapturedPublish | list[CapturedPublish]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"<captured {self._all()!r}>"

    def record(self, append: Append) -> Published:
        """Takes the place of the log for what is published outside of transactions: stores nothing."""
        row = _last_row()
        with self._lock:
            for message in () if is_platform_name(append.channel) else append.messages:
                self._direct.append(
                    (
                        row,
                        CapturedPublish(
                            append.channel,
                            json.loads(message.data),
                            message.event,
                            message.id or "",
                            message.key,
                            append.client,
                            in_transaction=False,
                        ),
                    )
                )
            first = self._serials[append.channel] + 1
            self._serials[append.channel] += len(append.messages)
            serials = list(range(first, self._serials[append.channel] + 1))
        return Published(append.channel, EPOCH, serials, [], [])

    def finish(self) -> None:
        """Keeps what there is now: the transaction of the test may end."""
        self._final = self._all()

    def _all(self) -> list[CapturedPublish]:
        if self._final is not None:
            return self._final
        # The table and not a list of calls: it forgets what was rolled back.
        rows = Outbox.objects.using(settings.DATABASE).filter(id__gt=self._after).order_by("id")
        # What workers tell each other is no message of the project's.
        rows = rows.exclude(channel__startswith="$")
        found = [
            (
                row.pk,
                0,
                CapturedPublish(
                    row.channel, json.loads(row.data), row.event, row.mid, row.key, row.client, in_transaction=True
                ),
            )
            for row in rows
        ]
        found += [(row, 1, each) for row, each in self._direct]
        found.sort(key=lambda entry: entry[:2])
        return [each for _, _, each in found]


@contextmanager
def captured_publishes() -> Iterator[CapturedPublishes]:
    """Captures what is published in the block, by any thread of this process, instead of storing it in the log.

        with captured_publishes() as published:
            pay(order)
        assert [each.data for each in published.on("orders:1")] == [{"state": "paid"}]

    Inside `atomic()`, and so everywhere in a `TestCase`, the rows of the outbox are written and stay: `relay_now()`
    moves them on. Not for use beside a running worker, which takes them away.
    """
    captured = CapturedPublishes()
    before, intake.recorder = intake.recorder, captured.record
    try:
        yield captured
    finally:
        intake.recorder = before
        captured.finish()


@dataclass(frozen=True, slots=True)
class CapturedSignal:
    """A signal as it was sent; `to` "" is everybody."""

    channel: str
    event: str
    data: Any
    to: str
    client: str


@contextmanager
def captured_signals() -> Iterator[list[CapturedSignal]]:
    """Captures the signals that are sent from Python in the block, by any thread of this process, and sends none."""
    captured: list[CapturedSignal] = []

    def record(signal: Signal) -> None:
        frame = json.loads(signal.frame)
        captured.append(CapturedSignal(signal.channel, signal.event, frame["data"], signal.to, signal.client))

    before, sending.recorder = sending.recorder, record
    try:
        yield captured
    finally:
        sending.recorder = before


def relay_now() -> int:
    """Moves what is in the outbox into the log, in this thread and its transaction, as a worker does after a commit.

    Returns how many messages were moved. Afterwards `realtime.log.read_page` and the REST interface have them, and
    receivers of the signal `published` are called (`realtime.signals.flush()` waits for them).
    """

    between_workers = 0

    def tell(news: list[News]) -> None:
        nonlocal between_workers
        for each in news:
            signals.send_published(each.channel, each.epoch, each.first, len(each.frames))
            between_workers += len(each.frames) if is_platform_name(each.channel) else 0

    return outbox.relay(tell, worker.may_create) - between_workers


def _last_row() -> int:
    try:
        return Outbox.objects.using(settings.DATABASE).aggregate(last=Max("id"))["last"] or 0
    except DatabaseError:
        # Another thread's connection, while the test's transaction holds SQLite's lock.
        return 0
