"""What the front page of the desk says: a verdict, six figures, what to look at (worst first), and one message traced.

Numbers are those of all workers behind this address, at this moment; rates are between this look and the one before.
A few rows are read, each by an index. In threads.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from realtime import live, sparkline, worker
from realtime.log import reads
from realtime.metrics import siblings
from realtime.metrics.reading import Buckets, Reading
from realtime.models import ApiKey, SigningKey
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, parse_channel

SOON: Final = timedelta(days=7)
"""What ends within this is told before it does."""

OUTBOX_OLD_S: Final = 10.0
SAMPLE_LEAST_S: Final = 1.0
SAMPLE_MOST_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to look at."""

    weight: int
    """The larger, the worse."""
    title: str
    text: str
    where: str = ""
    """Name of the admin page that helps, without the site's prefix."""


@dataclass(slots=True)
class Figures:
    """The numbers of the front page."""

    connections: int = 0
    attachments: int = 0
    published_per_s: float | None = None
    delivered_per_s: float | None = None
    held: int = 0
    """Attachments that wait for an ack or for their socket: the log keeps what they have not got."""
    refused: int = 0
    errors_since_s: float = 0.0
    workers: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ledger: live.Ledger | None = None
    hour: sparkline.Sparkline = field(default_factory=lambda: sparkline.draw([]))
    """What all of them delivered a second, over the last hour."""


JUST_BACK_S: Final = 60.0
"""How long a worker is called new: about what a browser takes to come back to it."""

_lock = threading.Lock()
_before: tuple[float, dict[str, float]] | None = None


def figures() -> Figures:
    """As the workers tell them now; all 0 in a process without a worker."""
    running = worker.current()
    if running is None:
        return Figures()
    readings, missing = siblings.readings(running)
    now = time.monotonic()
    workers = live.workers()
    by_name = {each.name: each for each in workers}
    totals = {name: sum(_total(each, name) for each in readings) for name in _TOTALS}
    found = Figures(
        connections=int(totals["seriatim_connections"]),
        attachments=int(totals["seriatim_attachments"]),
        held=int(sum(_total(each, "seriatim_attachments", "waiting_ack", "waiting_socket") for each in readings)),
        refused=int(totals["seriatim_errors_total"]),
        missing=missing,
        ledger=live.ledger(),
        workers=[
            {
                "name": each.worker,
                "connections": int(_total(each, "seriatim_connections")),
                "lag_ms": round(_total(each, "seriatim_event_loop_overdue_seconds") * 1000, 1),
                "step": int(_total(each, "seriatim_shedding_step")),
                "outbox_old_s": _total(each, "seriatim_outbox_oldest_seconds"),
                "suspect": int(_total(each, "seriatim_backplane_suspect")),
                **_lately(by_name.get(each.worker)),
            }
            for each in sorted(readings, key=lambda each: each.worker)
        ],
        hour=sparkline.draw([_sum(step) for step in zip(*(each.hour for each in workers), strict=True)]),
    )
    _rates(found, totals, now)
    return found


def _lately(found: live.LiveWorker | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "id": found.id,
        "draining": found.draining,
        "new": found.age_s < JUST_BACK_S,
        "replaceable": found.replaceable and not found.draining,
        "cpu_percent": None if found.cpu_share is None else round(found.cpu_share * 100),
        "minutes": sparkline.draw(found.minutes),
    }


def _sum(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


_TOTALS: Final = (
    "seriatim_connections",
    "seriatim_attachments",
    "seriatim_messages_published_total",
    "seriatim_messages_delivered_total",
    "seriatim_errors_total",
)


def _total(reading: Reading, name: str, *labels: str) -> float:
    return sum(
        value
        for given, value in reading.series.get(name, ())
        if not isinstance(value, Buckets | list) and (not labels or any(label in given for label in labels))
    )


def _rates(found: Figures, totals: dict[str, float], now: float) -> None:
    global _before
    with _lock:
        before = _before
        if before is None or not now - before[0] < SAMPLE_LEAST_S:
            _before = (now, totals)
    if before is None or not SAMPLE_LEAST_S <= now - before[0] <= SAMPLE_MOST_S:
        return
    seconds = found.errors_since_s = now - before[0]
    gained = {name: totals[name] - before[1][name] for name in totals}
    # A worker that began anew counts from 0: no rate rather than one below 0.
    if min(gained["seriatim_messages_published_total"], gained["seriatim_messages_delivered_total"]) >= 0:
        found.published_per_s = gained["seriatim_messages_published_total"] / seconds
        found.delivered_per_s = gained["seriatim_messages_delivered_total"] / seconds
    found.refused = max(0, int(gained["seriatim_errors_total"]))


def problems(found: Figures) -> list[Problem]:
    """What to look at, worst first."""
    told = [
        Problem(90, f"Worker {name} does not answer", "It is dead, stopped or being replaced.")
        for name in found.missing
    ]
    if found.ledger is not None and not found.ledger.balanced:
        books = f"{found.ledger.by_positions} messages by positions, {found.ledger.by_writes} by what was written."
        books += " The pages of channels have theirs."
        told.append(Problem(100, "The ledger does not balance", books))
    for each in found.workers:
        name = each["name"]
        if each["step"]:
            told.append(Problem(80, f"{name} sheds load, step {each['step']}", "New connections are refused first."))
        if each["outbox_old_s"] > OUTBOX_OLD_S:
            told.append(Problem(70, "The outbox is not relayed", f"Its oldest waits for {each['outbox_old_s']:.0f} s."))
        if each["suspect"]:
            told.append(
                Problem(60, f"{name} hears nothing through the channel layer", "Messages come from the log, later.")
            )
    if not found.workers:
        told.append(
            Problem(50, "There is no worker in this process", "Open the desk at an address that serves sockets.")
        )
    if found.held:
        text = "The server waits for their acks or their sockets; what they miss stays in the log."
        held = f"{found.held} attachments are held" if found.held > 1 else "One attachment is held"
        told.append(Problem(20, held, text, "realtime_liveconnection_changelist"))
    return sorted(told + _ends(), key=lambda each: -each.weight)


def _ends() -> list[Problem]:
    now = datetime.now(UTC)
    found = []
    for row in SigningKey.objects.filter(state="retiring", retires__gt=now, retires__lt=now + SOON)[:5]:
        assert row.retires is not None
        text = "Tokens that it signed are refused from then on."
        found.append(Problem(30, f"Signing key {row.kid} retires {_in(row.retires - now)}", text, _KEYS))
    for key in ApiKey.objects.filter(revoked=False, expires__gt=now, expires__lt=now + SOON).order_by("expires")[:5]:
        assert key.expires is not None
        text = "Its backend needs another by then."
        found.append(
            Problem(40, f"API key {key.name} expires {_in(key.expires - now)}", text, "realtime_apikey_changelist")
        )
    return found


_KEYS: Final = "realtime_signingkey_changelist"


def _in(left: timedelta) -> str:
    hours = left.total_seconds() / 3600
    return f"in {hours / 24:.0f} days" if hours >= 48 else f"in {max(1, hours):.0f} h"


def verdict(told: list[Problem]) -> str:
    """One sentence."""
    bad = [each for each in told if each.weight >= 50]
    if not told:
        return "In order. Nothing to look at."
    count = {1: "One thing", 2: "Two things", 3: "Three things"}.get(len(told), f"{len(told)} things")
    return f"{'Look at this' if bad else 'In order'}. {count} to look at."


# ---------------------------------------------------------------- one message


@dataclass(frozen=True, slots=True)
class Trace:
    """One message from its publisher to those who have it."""

    channel: ChannelName
    message: dict[str, Any]
    epoch: str | None
    at: live.Passed


def trace(text: str) -> Trace:
    """The message `channel#serial`. ProtocolError with what is wrong, `not_found` for one that is not in the log."""
    name, hash_, number = text.strip().rpartition("#")
    if not hash_ or not number.isascii() or not number.isdigit() or not 0 < len(number) < 17:
        raise ProtocolError("bad_position", "Write the channel and the serial, as in chat:lobby#4190.")
    channel, serial = parse_channel(name), int(number)
    page = reads.read_page(channel, after=serial - 1, before=serial + 1, since=None, order="asc", limit=1)
    if not page.messages:
        why = "It is not published yet." if serial > page.head else "Retention took it."
        raise ProtocolError("not_found", f"There is no message {serial} in {channel}. {why}", channel=channel)
    return Trace(channel, json.loads(page.messages[0]), page.epoch, live.passed(channel, page.epoch, serial))
