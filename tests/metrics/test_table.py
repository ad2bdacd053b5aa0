"""The registry: names, units and labels as Prometheus wants them, words for every metric."""

from __future__ import annotations

import re

import pytest

from realtime.metrics import METRICS, Metric
from realtime.metrics.exposition import families

UNITS = ("seconds", "bytes", "ratio")


def name_of(metric: Metric) -> str:
    return metric.name


def test_no_name_stands_twice() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names)) > 50


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_a_metric_is_named_and_described(metric: Metric) -> None:
    assert re.fullmatch(r"seriatim(_[a-z]+)+", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert (metric.kind == "info") == metric.name.endswith("_info")
    assert (metric.kind == "histogram") == bool(metric.bounds)
    assert metric.bounds == tuple(sorted(set(metric.bounds)))
    # No milliseconds, no kilobytes: base units only.
    assert not re.search(r"_(ms|millis|milliseconds|kb|kilobytes|mb|minutes|percent)(_|$)", metric.name)
    if metric.kind == "histogram" and metric.unit != "seconds":
        assert metric.name == "seriatim_round_messages"
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+", label)
        # Labels must stay few: nothing that clients choose.
        assert label not in ("worker", "le", "channel", "client", "connection", "address", "namespace", "name")
    assert metric.meaning.endswith(".") and not metric.meaning.endswith("..")
    assert not metric.action or metric.action.endswith(".")


def test_every_metric_is_written_with_its_unit_and_type() -> None:
    written = {family.name: family for family in families([], [])}
    for metric in METRICS:
        name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name.removesuffix("_info")
        family = written[name]
        assert (family.type, family.unit, family.documentation) == (metric.kind, metric.unit, metric.meaning)
