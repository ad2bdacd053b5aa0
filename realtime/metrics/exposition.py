"""Writing readings down, as Prometheus and OpenMetrics want them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.utils import floatToGoString

from realtime import worker
from realtime.conf import settings
from realtime.metrics.reading import Buckets, Reading
from realtime.metrics.siblings import readings
from realtime.metrics.table import METRICS, Metric
from realtime.worker import Worker

UP = "seriatim_worker_up"
UP_MEANING = "1 for a worker that answered, 0 for one that should be there and did not."
CONFIGURED = "seriatim_workers_configured"
CONFIGURED_MEANING = "How many workers there should be behind this address."


class Collector(PrometheusCollector):
    """All workers behind this process's address, for a registry of `prometheus_client`; nothing without a worker.

    A project that has a page of metrics already registers one: `REGISTRY.register(Collector())`.
    """

    def collect(self) -> Iterator[Family]:
        running = worker.current()
        if running is not None:
            yield from families(*readings(running))

    def describe(self) -> Iterable[Family]:
        """Names only, so that registering reads nothing."""
        return families([], [])


class _Read(PrometheusCollector):
    def __init__(self, found: Sequence[Reading], missing: Sequence[str]) -> None:
        self._found = found
        self._missing = missing

    def collect(self) -> Iterator[Family]:
        return families(self._found, self._missing)


def expose(running: Worker, accept: str) -> tuple[bytes, str]:
    """The numbers of all workers, and the content type, in the format that the header `Accept` prefers."""
    encode, content_type = exposition.choose_encoder(accept)
    return encode(_Read(*readings(running))), content_type


def families(found: Sequence[Reading], missing: Sequence[str]) -> Iterator[Family]:
    """Every metric with the series of all workers; a worker of another version may lack some."""
    up = GaugeMetricFamily(
        UP, "1 for a worker that answered, 0 for one that should be there and did not.", None, ["worker"]
    )
    for reading in found:
        up.add_metric([reading.worker], 1)
    for name in missing:
        up.add_metric([name], 0)
    yield up
    configured = GaugeMetricFamily(CONFIGURED, CONFIGURED_MEANING)
    configured.add_metric([], settings.WORKERS)
    yield configured
    for metric in METRICS:
        family = _family(metric)
        for reading in found:
            for labels, value in reading.series.get(metric.name, ()):
                if len(labels) == len(metric.labels):
                    _add(family, metric, [reading.worker, *labels], value)
        yield family


_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily


def _family(metric: Metric) -> _Family:
    labels = ["worker", *metric.labels]
    match metric.kind:
        case "counter":
            return CounterMetricFamily(metric.name, metric.meaning, labels=labels, unit=metric.unit)
        case "gauge":
            return GaugeMetricFamily(metric.name, metric.meaning, labels=labels, unit=metric.unit)
        case "histogram":
            return HistogramMetricFamily(metric.name, metric.meaning, labels=labels, unit=metric.unit)
        case "info":
            return InfoMetricFamily(metric.name.removesuffix("_info"), metric.meaning, labels=["worker"])


def _add(family: _Family, metric: Metric, labels: list[str], value: float | Buckets) -> None:
    if isinstance(family, HistogramMetricFamily):
        if isinstance(value, Buckets) and len(value.counts) == len(metric.bounds) + 1:
            bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
            family.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.total)
    elif isinstance(value, Buckets):
        return
    elif isinstance(family, InfoMetricFamily):
        family.add_metric(labels[:1], dict(zip(metric.labels, labels[1:], strict=True)))
    else:
        family.add_metric(labels, value)
