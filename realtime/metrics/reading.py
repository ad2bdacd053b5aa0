"""Reading a worker's numbers: all of them for a scrape, the main ones for a page.

Any thread may read, so that a loop that hangs can still be looked at. Nothing here asks the database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from realtime.counting import Histogram
from realtime.metrics.table import METRICS, Source
from realtime.worker import Worker

logger = logging.getLogger(__name__)


class Buckets(NamedTuple):
    """A histogram as it was read: how many values fell into each bucket, not cumulated, and their sum."""

    counts: list[int]
    total: float


Series = tuple[tuple[str, ...], float | Buckets]


class Reading(NamedTuple):
    """All numbers of one worker at one moment, by name of the metric."""

    worker: str
    series: dict[str, list[Series]]


def read(worker: Worker) -> Reading:
    """Every metric of the table. One that cannot be read is left out, and said once."""
    # Before the census, whose cost it is to tell.
    began = time.perf_counter()
    source = Source(worker, worker.hub.census(), began)
    series: dict[str, list[Series]] = {}
    for metric in METRICS:
        try:
            series[metric.name] = [(labels, _copied(value)) for labels, value in metric.read(source)]
        except Exception:
            _say_once(metric.name)
    return Reading(worker.name, series)


def _copied(value: float | Histogram) -> float | Buckets:
    return Buckets(list(value.counts), value.total) if isinstance(value, Histogram) else value


_said: set[str] = set()


def _say_once(name: str) -> None:
    if name not in _said:
        _said.add(name)
        logger.exception("The metric %s cannot be read.", name)


FIGURES: Sequence[str] = (
    "seriatim_connections",
    "seriatim_attachments",
    "seriatim_channels_followed",
    "seriatim_messages_published_total",
    "seriatim_messages_delivered_total",
    "seriatim_received_bytes_total",
    "seriatim_sent_bytes_total",
    "seriatim_errors_total",
    "seriatim_gaps_told_total",
    "seriatim_healed_messages_total",
    "seriatim_publish_duplicates_total",
    "seriatim_event_loop_overdue_seconds",
    "seriatim_process_cpu_seconds_total",
    "seriatim_process_resident_memory_bytes",
    "seriatim_writer_queue_messages",
    "seriatim_shedding_step",
)
"""What a page about a running server shows."""

TIMES: Sequence[str] = ("seriatim_publish_commit_seconds", "seriatim_fanout_seconds", "seriatim_announce_lag_seconds")


def snapshot(worker: Worker) -> dict[str, Any]:
    """The main figures of a worker as plain JSON, for a page that shows them as they change; may be called each second.

    Names are those of the metrics without prefix; a metric with labels is summed up over all but the first. Times are
    `[count, sum in seconds]` since the start: the difference of two snapshots is the mean between them.
    """
    figures: dict[str, Any] = {"worker": worker.name}
    source = Source(worker, worker.hub.census(), time.perf_counter())
    for metric in METRICS:
        if metric.name in FIGURES:
            values = [(labels, value) for labels, value in metric.read(source) if not isinstance(value, Histogram)]
            if metric.labels:
                sums: dict[str, float] = {}
                for labels, value in values:
                    sums[labels[0]] = sums.get(labels[0], 0) + value
                figures[_short(metric.name)] = sums
            else:
                figures[_short(metric.name)] = values[0][1] if values else None
        elif metric.name in TIMES:
            for _, histogram in metric.read(source):
                if isinstance(histogram, Histogram):
                    figures[_short(metric.name)] = [sum(histogram.counts), histogram.total]
    return figures


def _short(name: str) -> str:
    return name.removeprefix("seriatim_")
