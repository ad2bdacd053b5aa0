"""Metrics of workers, in the text formats of Prometheus and OpenMetrics, and as a dict of main figures.

`table` is the registry: every metric with its labels, its meaning, what to do about it, and where a worker has the
number. `reading` takes all numbers of this process's worker, `siblings` those of the others behind the same address,
`exposition` writes them down. Nothing here is called unless somebody asks. docs/reference/metrics.md is written from
the table.
"""

from __future__ import annotations

from realtime.metrics.exposition import Collector, expose
from realtime.metrics.reading import Reading, read, snapshot
from realtime.metrics.siblings import answer_siblings
from realtime.metrics.table import METRICS, Metric

__all__ = ["METRICS", "Collector", "Metric", "Reading", "answer_siblings", "expose", "read", "snapshot"]
