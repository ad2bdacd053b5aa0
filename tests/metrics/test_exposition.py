"""What is written for Prometheus: read back by its own parsers, with the series of all workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from realtime import metrics
from realtime.counting import SECONDS
from realtime.metrics.exposition import _Read, families
from realtime.metrics.reading import Buckets, Reading
from realtime.metrics.siblings import _Answer, encoded
from realtime.metrics.table import METRICS

FORMATS = [("text/plain", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)]

COUNTS = [3, 0, 2, *[0] * (len(SECONDS) - 3), 4]

SERIES: dict[str, list[Any]] = {
    "seriatim_worker_info": [(("0.1.0", "3.11.7", "postgresql"), 1.0)],
    "seriatim_connections": [(("websocket",), 7.0)],
    "seriatim_connections_closed_total": [(("websocket", "client", "1000"), 5.0), (("websocket", "server", "0"), 1.0)],
    "seriatim_sent_bytes_total": [((), 1e15)],
    "seriatim_round_seconds": [((), Buckets(COUNTS, 12.5))],
}


def samples(found: list[Reading], missing: list[str], accept: str, parse: Any) -> dict[tuple[str, ...], float]:
    """Every sample by its name and sorted labels."""
    encode, _ = exposition.choose_encoder(accept)
    text = encode(_Read(found, missing)).decode()
    read: dict[tuple[str, ...], float] = {}
    for family in parse(text):
        for sample in family.samples:
            key = (sample.name, *sorted(f"{name}={value}" for name, value in sample.labels.items()))
            assert key not in read, f"{key} stands twice"
            read[key] = sample.value
    return read


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_all_kinds_are_written_as_the_parsers_read_them(accept: str, parse: Any) -> None:
    read = samples([Reading("w1", SERIES), Reading("w2", SERIES)], ["w3"], accept, parse)
    for name in ("w1", "w2"):
        assert read["seriatim_worker_up", f"worker={name}"] == 1
        assert read["seriatim_connections", "transport=websocket", f"worker={name}"] == 7
        assert (
            read["seriatim_connections_closed_total", "by=client", "code=1000", "transport=websocket", f"worker={name}"]
            == 5
        )
        assert read["seriatim_sent_bytes_total", f"worker={name}"] == 1e15
        assert (
            read["seriatim_worker_info", "database=postgresql", "python=3.11.7", "version=0.1.0", f"worker={name}"] == 1
        )
        assert read["seriatim_round_seconds_bucket", "le=0.0005", f"worker={name}"] == 3
        assert read["seriatim_round_seconds_bucket", "le=0.0025", f"worker={name}"] == 5
        assert read["seriatim_round_seconds_bucket", "le=10.0", f"worker={name}"] == 5
        assert read["seriatim_round_seconds_bucket", "le=+Inf", f"worker={name}"] == 9
        assert read["seriatim_round_seconds_count", f"worker={name}"] == 9
        assert read["seriatim_round_seconds_sum", f"worker={name}"] == 12.5
    assert read["seriatim_worker_up", "worker=w3"] == 0
    assert read["seriatim_workers_configured",] == 1


def test_numbers_of_another_version_are_left_out_where_they_do_not_fit() -> None:
    series: dict[str, list[Any]] = {
        "seriatim_connections": [(("websocket", "surplus"), 1.0)],
        "seriatim_round_seconds": [((), Buckets([1, 2], 3.0)), ((), 4.0)],
        "seriatim_heartbeats_sent_total": [((), Buckets([1], 1.0)), ((), 6.0)],
        "seriatim_nobody_knows_this_total": [((), 5.0)],
    }
    read = samples([Reading("w1", series)], [], *FORMATS[0])
    assert {key[0] for key in read} == {
        "seriatim_worker_up",
        "seriatim_workers_configured",
        "seriatim_heartbeats_sent_total",
    }


def test_what_siblings_are_told_is_what_was_read() -> None:
    import msgspec

    told = msgspec.json.decode(encoded(Reading("w1", SERIES)), type=_Answer)
    assert told.worker == "w1"
    assert {
        name: [(tuple(labels), value) for labels, value in series] for name, series in told.series.items()
    } == SERIES


def test_a_registry_of_the_project_can_have_them() -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics.Collector())
    assert list(registry.collect()) == [], "there is no worker here"

    class Clash:
        def collect(self) -> Iterator[Family]:
            return iter([Family("seriatim_connections", "", "gauge")])

    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Clash())


def test_families_come_in_the_order_of_the_table() -> None:
    names = [family.name for family in families([Reading("w1", SERIES)], [])]
    assert names[:2] == ["seriatim_worker_up", "seriatim_workers_configured"]
    assert len(names) == len(METRICS) + 2
