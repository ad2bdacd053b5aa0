"""The one road into the log for whoever is no connection: a view, a task, a command, a shell, the platform itself.

Inside `atomic()` of the log's database a message is a row of the outbox, and so there if and only if the transaction
commits. Elsewhere the writer of this process's worker stores it, and where there is no worker the caller makes the
round. Connections hand their appends to the writer themselves, since they must not wait. Names, rights and sizes are
the caller's business: `realtime.publishing` for messages, `realtime.control` for events between workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from django.db import connections, transaction

from realtime import signals
from realtime.conf import settings
from realtime.log import outbox
from realtime.log.rounds import run_round_now
from realtime.log.types import Append, Published
from realtime.log.writer import LogWriter
from realtime.protocol.errors import ProtocolError


class Running(Protocol):
    """A worker, as far as the road goes through it."""

    writer: LogWriter

    def relay_outbox(self) -> None:
        """Has the outbox moved into the log soon."""


def _nobody() -> Running | None:
    return None


current: Callable[[], Running | None] = _nobody
"""This process's worker; `realtime.worker` puts its own function here."""

recorder: Callable[[Append], Published] | None = None
"""Takes the log's place in tests; see `realtime.testing.captured_publishes`."""


def in_transaction() -> bool:
    """Whether the calling thread is inside `atomic()` of the log's database: then `put`, else `settle`."""
    return connections[settings.DATABASE].in_atomic_block


def put(append: Append) -> None:
    """Makes the messages part of the calling thread's transaction. They are relayed soon after it has committed."""
    for message in append.messages:
        outbox.put(append.channel, append.client, message)
    transaction.on_commit(_relay_soon, using=settings.DATABASE)


def settle(appends: Sequence[Append]) -> None:
    """Stores them; returns when all have their outcome, at the latest after `PUBLISH_TIMEOUT_S`: one without has an
    unknown fate. Not for the event loop."""
    if recorder is not None:
        for append in appends:
            append.settle(recorder(append))
        return
    running = current()
    if running is None:
        _, news = run_round_now(appends)
        for each in news:
            signals.send_published(each.channel, each.epoch, each.first, len(each.frames))
        return
    waiting: list[Future[Append]] = []
    for append in appends:
        settled: Future[Append] = Future()
        append.tag = settled
        try:
            running.writer.submit(append)
        except ProtocolError as refusal:
            append.settle(refusal)
        else:
            waiting.append(settled)
    deadline = time.monotonic() + settings.PUBLISH_TIMEOUT_S
    for settled in waiting:
        try:
            settled.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return  # what has no outcome now is told as unknown


def outcome_of(append: Append) -> Published | ProtocolError:
    """What came of an append that `settle` returned from."""
    if append.outcome is None:
        return ProtocolError("unavailable", "The database took too long.", channel=append.channel)
    return append.outcome


def _relay_soon() -> None:
    """Has this process's worker relay the outbox; without one, some worker finds the row within a second."""
    running = current()
    if running is not None:
        running.relay_outbox()
