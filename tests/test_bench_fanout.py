"""What the report of bench.fanout says of results: ratios by round, marks that must not be missing, aims."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from bench.fanout import plot
from bench.fanout.report import Report, marks

TITLES = {"nchan": "nginx + nchan", "seriatim": "Seriatim"}


def phase(pace: str = "200", /, **figures: Any) -> dict[str, Any]:
    """A faultless phase of 1,000 deliveries for 10 ms of CPU."""
    return {
        "pace": pace,
        "published": 10,
        "unsent": 0,
        "delivered": 1000,
        **dict.fromkeys(("lost", "doubles", "disorder", "errors", "closed"), 0),
        "acks": 10,
        "reads": 1000,
        "wall_s": 1.0,
        "server_cpu_s": 0.01,
        "server_system_s": 0.005,
        "server_core_busy_s": 0.01,
        "database_cpu_s": 0,
        "generator_cpu_s": 0.1,
        "generator_wall_s": 1.0,
        "latency_us": {"p50": 1000, "p95": 2000, "p99": 3000, "max": 4000},
        "beside": {},
        **figures,
    }


def result(system: str, turn: int, *phases: dict[str, Any], commit_p99: float = 0) -> dict[str, Any]:
    return {
        "system": system,
        "subscribers": 500,
        "round": turn,
        "connected": {"connections": 500, "server_cpu_s": 0.25, "server_kb": 10_000},
        "idle": {"wall_s": 1.0, "server_cpu_s": 0.001, "server_kb": 11_000},
        "phases": list(phases),
        "trouble": "",
        "commit_us": {"p99": commit_p99} if commit_p99 else {},
    }


def test_ratios_are_taken_within_a_round() -> None:
    report = Report(
        [
            result("nchan", 0, phase(server_cpu_s=0.01)),
            result("nchan", 1, phase(server_cpu_s=0.04)),
            result("seriatim", 0, phase(server_cpu_s=0.02)),
            result("seriatim", 1, phase(server_cpu_s=0.04)),
            result("seriatim", 2, phase(server_cpu_s=0.04)),
        ],
        TITLES,
    )
    assert report.ratios("seriatim", "nchan", 500, "200") == [0.5, 1.0]


def test_each_fault_is_marked() -> None:
    assert marks([phase()]) == []
    for name in ("lost", "doubles", "disorder", "errors", "closed"):
        assert marks([phase(), phase("200", **{name: 3})]) == [f"**3 {name}**"]
    assert marks([phase(generator_cpu_s=0.95)]) == ["**generator saturated**"]
    assert "neighbours took 49%" in marks([phase(server_core_busy_s=0.5)])[0]
    assert marks([phase(reads=500)]) == ["not one a write: 2.0 at once"]
    assert marks([phase("burst", reads=500)]) == []
    assert "pace not held: 50% not sent" in marks([phase(unsent=10)])[0]
    assert "requests failed" in marks([phase(beside={"history": {"requests": 1, "trouble": "500"}})])[0]


def test_a_system_that_failed_is_a_row_of_its_own() -> None:
    broken = {**result("seriatim", 0), "connected": {}, "idle": {}}
    report = Report([result("nchan", 0, phase()), broken], TITLES)
    assert "| 500 | 200 | Seriatim | failed |" in report.deliveries()
    assert "| 500 | Seriatim | failed |" in report.connections()
    assert "nginx + nchan" not in report.aims()


def test_latency_is_judged_without_the_commit() -> None:
    ours = phase(latency_us={"p50": 1, "p95": 1, "p99": 5000, "max": 1})
    report = Report([result("nchan", 0, phase()), result("seriatim", 0, ours, commit_p99=2000)], TITLES)
    assert report.latency(500, "200") == [1.0]
    assert (
        "| 500 | p99 at 200 a second without the commit's, to nchan's p99 | < 2 | 1.00 (1.00–1.00) |" in report.aims()
    )


def test_cost_of_a_pace_leaves_out_what_runs_anyway() -> None:
    report = Report([result("seriatim", 0, phase("1", server_cpu_s=0.003), phase("200"))], TITLES)
    assert report.net_us("seriatim", 500, "1") == 2.0
    assert report.connection_kb("seriatim", 500) == [22.0]


def line_of(aims: str, what: str) -> str:
    """What was reached."""
    (line,) = [line for line in aims.splitlines() if what in line]
    return line.split(" | ")[-1].removesuffix(" |")


def test_costs_are_compared_only_where_each_message_was_a_write() -> None:
    """500 subscribers, 2 µs a delivery at 40 a second, 4 µs at 1, and 0.2 at 200, where nine were joined."""
    cheap = phase("200", server_cpu_s=0.001_2, reads=111)
    phases = [phase("1", server_cpu_s=0.005), phase("40", server_cpu_s=0.003)]
    aims = Report([result("seriatim", 0, *phases, cheap)], TITLES).aims()
    what = "cost of a delivery to the best pace's"
    assert line_of(aims, what) == "2.00 at 1, 1.00 at 40, 200 not one a write (9.0 at once)"
    assert what not in Report([result("seriatim", 0, phases[0], cheap)], TITLES).aims(), "nothing to compare with"


def test_what_is_in_question_is_said_beside_every_aim() -> None:
    def aims(**figures: Any) -> str:
        ours = [phase(pace, **figures) for pace in ("1", "40", "200", "burst", "200+http")]
        others = [phase(each["pace"]) for each in ours]
        return Report([result("nchan", 0, *others), result("seriatim", 0, *ours, commit_p99=10)], TITLES).aims()

    rows = ("live, to nginx", "cost of a delivery", "bursts, to", "REST and admin hammered", "without the commit's")
    sure, doubtful = aims(), aims(server_core_busy_s=0.5)
    for row in rows:
        assert "(!)" not in line_of(sure, row) and "(!)" in line_of(doubtful, row), row
    joined = aims(reads=500)
    assert [row for row in rows if row in joined and "(!)" in line_of(joined, row)] == [rows[0]], "costs, not latencies"
    assert "(!)" not in aims(database_cpu_s=0.1, beside={"history": {"requests": 9, "trouble": ""}}), "told, no doubt"
    assert "(!)" in line_of(aims(beside={"history": {"requests": 9, "trouble": "500"}}), "hammered")


def test_the_picture_is_xml_with_a_bar_for_each_figure() -> None:
    results = [result(system, 0, phase("200"), phase("burst")) for system in TITLES]
    picture = plot.draw(Report(results, TITLES), "A caption & more")
    root = ElementTree.fromstring(picture)
    bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect") if len(bar)]
    assert len(bars) == 4
