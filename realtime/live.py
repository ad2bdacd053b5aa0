"""What happens at this moment on all workers behind one address: who is connected, what is attached, who has a message.

Asked of the workers when somebody looks (`realtime.metrics.siblings`), in threads, so that nothing is written while
nobody does, and no answer is older than the question. Every answer is bounded: the workers sort and cut before they
tell. Workers behind another address are not asked. In a process without a worker there is nothing.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from realtime import worker
from realtime.counting import PACE_EVERY_S
from realtime.hub import Mode, Subscriber
from realtime.metrics import siblings
from realtime.protocol.names import ChannelName
from realtime.worker import Worker

__all__ = [
    "Books",
    "Connections",
    "LiveWorker",
    "Passed",
    "books",
    "busiest",
    "connection",
    "connections",
    "count",
    "occupancies",
    "passed",
    "workers",
]

MOST: Final = 200
"""Connections that are told at once."""

ATTACHMENTS_MOST: Final = 200
"""Attachments of one connection that are told."""

NAMES_AT_ONCE: Final = 250
"""Names in one question: it must fit into a socket's buffer."""

LEDGER_PATIENCE_S: Final = 1.0
"""How long a worker's event loop may take until it comes to its books."""

Question = siblings.Question

T = TypeVar("T")


def _ask(question: Question) -> tuple[dict[str, Any], list[str]]:
    running = worker.current()
    return ({}, []) if running is None else siblings.ask_all(running, question)


# ---------------------------------------------------------------- occupancy


def occupancies(channels: Iterable[ChannelName]) -> Counter[str]:
    """How many are attached to each of the channels."""
    names = list(channels)
    found: Counter[str] = Counter()
    for start in range(0, len(names), NAMES_AT_ONCE):
        for answer in _ask({"ask": "occupancies", "channels": names[start : start + NAMES_AT_ONCE]})[0].values():
            found.update(answer)
    return found


def _occupancies(running: Worker, question: Question) -> dict[str, int]:
    found = {name: running.hub.occupancy(name) for name in question["channels"]}
    return {name: count for name, count in found.items() if count}


def busiest(most: int) -> list[tuple[str, int]]:
    """The channels with the most attachments, as far as each worker's own busiest show it."""
    found: Counter[str] = Counter()
    for answer in _ask({"ask": "busiest", "most": most * 2})[0].values():
        found.update(dict(answer))
    return found.most_common(most)


def _busiest(running: Worker, question: Question) -> list[tuple[str, int]]:
    hub = running.hub
    counts = ((name, hub.occupancy(name)) for name in list(hub.channels) if not name.startswith("$"))
    return heapq.nlargest(int(question["most"]), counts, key=lambda item: item[1])


# ---------------------------------------------------------------- workers

MINUTES_STEP_S: Final = 5.0
MINUTES_STEPS: Final = 60
"""Of the short line: five minutes."""

HOUR_STEP_S: Final = 20.0
HOUR_STEPS: Final = 180
"""Of the long line: an hour."""


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """One worker behind this address, and what it did lately."""

    name: str
    id: str
    age_s: float
    draining: bool
    replaceable: bool
    """Another is started in its place when it ends."""
    connections: int
    cpu_share: float | None
    minutes: list[float | None]
    """Messages delivered a second, in steps of `MINUTES_STEP_S`; None where it was not there."""
    hour: list[float | None]
    """The same in steps of `HOUR_STEP_S`."""


def workers() -> list[LiveWorker]:
    """All that answer."""
    # Ends of steps that are the same for all, and so long ago that each has taken its totals since.
    asked = {"ask": "workers", "until": time.time() - 2 * PACE_EVERY_S}
    return [LiveWorker(name=name, **answer) for name, answer in sorted(_ask(asked)[0].items())]


def _workers(running: Worker, question: Question) -> dict[str, Any]:
    until_s = float(question["until"])
    return {
        "id": running.id,
        "age_s": time.time() - running.counts.started_at,
        "draining": running.draining,
        "replaceable": running.leave_process is not None,
        "connections": running.load.connections,
        "cpu_share": running.pace.cpu_share(),
        "minutes": running.pace.rates(until_s // MINUTES_STEP_S * MINUTES_STEP_S, MINUTES_STEP_S, MINUTES_STEPS),
        "hour": running.pace.rates(until_s // HOUR_STEP_S * HOUR_STEP_S, HOUR_STEP_S, HOUR_STEPS),
    }


# ---------------------------------------------------------------- connections


@dataclass(slots=True)
class Connections:
    """Some connections, and how many there are of the kind that was asked for."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    missing: list[str] = field(default_factory=list)
    """Workers that did not answer."""


def connections(*, client: str = "", channel: str = "", sort: str = "waiting", most: int = 50) -> Connections:
    """Connections of a client (by the beginning of its id) and to a channel, those with most waiting first, or the
    newest (`sort` "age")."""
    most = min(most, MOST)
    answers, missing = _ask({"ask": "connections", "client": client, "channel": channel, "sort": sort, "most": most})
    found = Connections(missing=missing)
    for name, answer in answers.items():
        found.total += answer["total"]
        found.rows += [{**row, "worker": name} for row in answer["rows"]]
    found.rows = heapq.nlargest(most, found.rows, key=lambda row: _rank(row, sort))
    return found


def _rank(row: Mapping[str, Any], sort: str) -> tuple[float, float]:
    return (-row["age_s"], 0.0) if sort == "age" else (row["waiting"], -row["age_s"])


def _connections(running: Worker, question: Question) -> dict[str, Any]:
    client, channel, most = question["client"], question["channel"], int(question["most"])
    rows = []
    for each in list(running.clients):
        identity = getattr(each, "identity", None)
        if identity is None or not identity.client.startswith(client):
            continue
        if channel and channel not in each.subscribers:
            continue
        rows.append(_row(each))
    return {"total": len(rows), "rows": heapq.nlargest(most, rows, key=lambda row: _rank(row, question["sort"]))}


def connection(connection_id: str) -> dict[str, Any] | None:
    """One connection with its attachments; None where there is none of that id."""
    for name, answer in _ask({"ask": "connection", "id": connection_id})[0].items():
        if answer is not None:
            found: dict[str, Any] = {**answer, "worker": name}
            return found
    return None


def _connection(running: Worker, question: Question) -> dict[str, Any] | None:
    for each in list(running.clients):
        if getattr(each, "id", None) == question["id"]:
            subscribers = list(each.subscribers.values())
            return {**_row(each), "attached": [attachment(one) for one in subscribers[:ATTACHMENTS_MOST]]}
    return None


def _row(each: Any) -> dict[str, Any]:
    subscribers = list(each.subscribers.values())
    identity = each.identity
    return {
        "id": each.id,
        "client": "" if identity is None else identity.client,
        "kind": "" if identity is None else identity.kind,
        "transport": each.transport,
        "attachments": len(subscribers),
        "sent": each.link.written_bytes,
        "buffered": each.link.waiting_bytes,
        "waiting": sum([_backlog(one) for one in subscribers]),
        "unacked": sum([one.window.in_flight for one in subscribers]),
        "age_s": round(time.monotonic() - each.opened_at, 1),
        "silent_s": round(time.monotonic() - each.heard_at, 1),
    }


def _backlog(subscriber: Subscriber) -> int:
    """Messages of the log that were not sent to it yet."""
    order = subscriber.followed.order
    return 0 if order is None else max(0, order.position - subscriber.reached)


def attachment(subscriber: Subscriber) -> dict[str, Any]:
    """What is known of one attachment."""
    mode = subscriber.mode
    if mode is Mode.WAITING:
        state = "waits for its socket" if subscriber.window.open else "waits for an ack"
    else:
        state = mode.value
    return {
        "channel": subscriber.followed.name,
        "epoch": subscriber.followed.epoch,
        "state": state,
        "start": subscriber.start,
        "position": subscriber.reached,
        "delivered": subscriber.delivered,
        # Also of earlier epochs, whose positions are void.
        "carried": subscriber.carried,
        "left_out": dict(subscriber.left_out or {}),
        # Without a window nobody acknowledges.
        "acked": subscriber.window.acked if subscriber.window.size else None,
        "window": subscriber.window.size,
        "unacked": subscriber.window.in_flight,
        "waiting": _backlog(subscriber),
    }


def count(client: str) -> int:
    """Open connections of exactly this client."""
    return sum(_ask({"ask": "count", "client": client})[0].values())


def _count(running: Worker, question: Question) -> int:
    return running.load.admission.clients[question["client"]]


# ---------------------------------------------------------------- the ledger


@dataclass(frozen=True, slots=True)
class Ledger:
    """Messages delivered since the workers began, counted in two ways that know nothing of each other."""

    by_positions: int
    by_writes: int
    missing: list[str]

    @property
    def balanced(self) -> bool:
        return self.by_positions == self.by_writes


def ledger() -> Ledger:
    """The books of all workers, each balanced in one moment of its event loop."""
    answers, missing = _ask({"ask": "ledger"})
    told = [answer for answer in answers.values() if answer is not None]
    missing = missing + [name for name, answer in answers.items() if answer is None]
    return Ledger(sum(each[0] for each in told), sum(each[1] for each in told), missing)


def _ledger(running: Worker, question: Question) -> tuple[int, int] | None:
    return _between_turns(running, running.hub.ledger)


def _between_turns(running: Worker, look: Callable[[], T]) -> T | None:
    """What a look at the hub says between two turns of its loop; None where the loop is too late for it."""
    found: Future[T] = Future()

    def call() -> None:
        try:
            found.set_result(look())
        except Exception as error:
            found.set_exception(error)

    running.loop.call_soon_threadsafe(call)
    try:
        return found.result(LEDGER_PATIENCE_S)
    except TimeoutError:
        return None


@dataclass(frozen=True, slots=True)
class Books:
    """What was delivered of one channel, by the workers that follow it, since each of them began to."""

    attached: int
    ended: int
    """Attachments that are no more, and count all the same."""
    positions: int
    """Serials that positions moved over, since each attachment's start."""
    left_out: dict[str, int]
    """Of those, the ones that attachments were told they do not get, by reason."""
    written: int
    """Messages, as they were counted while they were written."""
    waiting: int
    """Messages of the log that were not sent to attachments yet, all together."""
    unacked: int
    missing: list[str]

    @property
    def delivered(self) -> int:
        """As positions tell: position − start − left out."""
        return self.positions - sum(self.left_out.values())

    @property
    def balanced(self) -> bool:
        return self.delivered == self.written


def books(channel: ChannelName) -> Books:
    """The books of one channel over all attachments, those of each worker balanced in one moment of its event loop."""
    answers, missing = _ask({"ask": "books", "channel": channel})
    told = [answer for answer in answers.values() if answer is not None]
    left_out: Counter[str] = Counter()
    for each in told:
        left_out.update(each["left_out"])
    totals = {name: sum(each[name] for each in told) for name in BOOKS}
    missing = missing + [name for name, answer in answers.items() if answer is None]
    return Books(**totals, left_out=dict(left_out), missing=missing)


BOOKS: Final = ("attached", "ended", "positions", "written", "waiting", "unacked")


def _books(running: Worker, question: Question) -> dict[str, Any] | None:
    def look() -> dict[str, Any]:
        followed = running.hub.books(question["channel"])
        if followed is None:
            return {**dict.fromkeys(BOOKS, 0), "left_out": {}}
        kept = followed.books
        return {
            "attached": len(followed.subscribers),
            "ended": kept.ended,
            "positions": followed.delivered + sum(kept.left_out.values()),
            "left_out": dict(kept.left_out),
            "written": kept.written,
            "waiting": sum([_backlog(each) for each in followed.subscribers]),
            "unacked": sum([each.window.in_flight for each in followed.subscribers]),
        }

    return _between_turns(running, look)


# ---------------------------------------------------------------- one message


@dataclass(frozen=True, slots=True)
class Passed:
    """Where a message is on its way to those who are attached now."""

    attached: int
    passed: int
    """Attachments whose position is at the message or beyond: it was written to them, or they asked to begin there."""
    acked: int
    without_ack: int
    """Attachments with a window of 0, which never acknowledge."""
    heard: int
    """Workers that follow the channel and have heard of the message."""
    following: int
    """Workers that follow the channel."""
    missing: list[str]


def passed(channel: ChannelName, epoch: str | None, serial: int) -> Passed:
    """How many live positions have passed a message, and how many acknowledged it. Live state: who has left is not
    counted, and who attached behind the message counts as one that passed it."""
    answers, missing = _ask({"ask": "passed", "channel": channel, "epoch": epoch, "serial": serial})
    totals = {name: sum(each[name] for each in answers.values()) for name in PASSED}
    return Passed(**totals, missing=missing)


PASSED: Final = ("attached", "passed", "acked", "without_ack", "heard", "following")


def _passed(running: Worker, question: Question) -> dict[str, int]:
    found = dict.fromkeys(PASSED, 0)
    serial = int(question["serial"])
    subscribers = running.hub.subscribers(question["channel"])
    for each in subscribers:
        found["attached"] += 1
        found["without_ack"] += not each.window.size
        if each.followed.epoch == question["epoch"]:
            found["passed"] += each.reached >= serial
            found["acked"] += bool(each.window.size) and each.window.acked >= serial
    if subscribers:
        order = subscribers[0].followed.order
        found["following"] = 1
        found["heard"] = int(order is not None and order.position >= serial)
    return found


_OFFERS: Mapping[str, Callable[[Worker, Question], object]] = {
    "workers": _workers,
    "occupancies": _occupancies,
    "busiest": _busiest,
    "connections": _connections,
    "connection": _connection,
    "count": _count,
    "passed": _passed,
    "ledger": _ledger,
    "books": _books,
}


def begin() -> None:
    """This process can be asked from now on. A worker's first request may come later than another worker's question."""
    for name, answer in _OFFERS.items():
        siblings.offer(name, answer)


begin()
