"""Alerts and dashboards: they name what there is, and each alert fires when it should, not before, and ends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client import exposition
from prometheus_client.parser import text_string_to_metric_families

from realtime.counting import MESSAGES, SECONDS, LoopLag
from realtime.metrics import METRICS
from realtime.metrics.exposition import _Read
from realtime.metrics.reading import Buckets, Reading
from tests.balancers import DEPLOY, ROOT, program, program_environment

PROMETHEUS = DEPLOY / "prometheus"
RUNBOOK = ROOT / "docs" / "how-to" / "runbook"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]]

LABELS = {
    "seriatim_worker_up": {"worker"},
    "seriatim_workers_configured": set(),
    **{metric.name: {"worker", *metric.labels} for metric in METRICS},
    "up": set(),
}
"""Of every series, apart from those that Prometheus adds."""

ADDED = {"instance", "job"}


def promtool(*arguments: str | Path, cwd: Path) -> str:
    said = subprocess.run(
        [program("usr/bin/promtool"), *arguments],
        cwd=cwd,
        env=program_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def metric_of(series: str) -> str:
    """The metric to which a series belongs: histograms have three."""
    stem = re.sub(r"_(bucket|count|sum)$", "", series)
    return stem if series not in LABELS and stem in LABELS else series


def unknown_names(expression: str) -> set[str]:
    """What an expression asks for and no worker has: metrics, and labels that none of its metrics has."""
    text = re.sub(r"\[[^\]]*\]", "", expression)
    named = {metric_of(name) for name in re.findall(r"\b(?:seriatim_\w+|up)\b", text)}
    wrong = {name for name in named if name not in LABELS}
    known = set().union(*(LABELS.get(name, set()) for name in named)) | ADDED
    if re.search(r"_bucket\b", text):
        known.add("le")
    for name, matchers in re.findall(r"\b(seriatim_\w+|up)\{([^}]*)\}", text):
        own = LABELS.get(metric_of(name), set()) | ADDED
        wrong |= {f"{name}{{{label}}}" for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)} - {
            f"{name}{{{label}}}" for label in own
        }
    for labels in re.findall(r"\bby\s*\(([^)]*)\)", text):
        wrong |= {label.strip() for label in labels.split(",")} - known
    return wrong


def labels_left(expression: str) -> set[str]:
    """Which labels its result has."""
    by = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    if by:
        return {label.strip() for labels in by for label in labels.split(",")} - {"le"}
    if re.match(r"(sum|max|count|time)\b", expression):
        return set()
    return ADDED.union(*(LABELS[metric_of(name)] for name in re.findall(r"\b(?:seriatim_\w+|up)\b", expression)))


# ---------------------------------------------------------------------- what they name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is_and_has_a_page(rule: dict[str, Any]) -> None:
    assert unknown_names(rule["expr"]) == set()
    said = rule["annotations"]
    kept = labels_left(rule["expr"])
    assert set(re.findall(r"\$labels\.(\w+)", said["summary"] + said["description"])) <= kept
    assert rule["labels"]["severity"] in ("critical", "warning")
    page = ROOT / said["runbook"]
    text = page.read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    for heading in ("## What it means", "## Look", "## Do"):
        assert heading in text
    assert f"({rule['alert']}.md)" in (RUNBOOK / "README.md").read_text()


def test_every_page_of_the_runbook_has_its_alert() -> None:
    pages = {page.stem for page in RUNBOOK.glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in RULES}


def test_dashboards_ask_for_what_there_is() -> None:
    asked = 0
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                asked += 1
                assert unknown_names(target["expr"]) == set(), (path.name, panel["title"])
    assert asked > 20


def test_expressions_of_dashboards_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{index}", "expr": re.sub(r"\$__rate_interval|\$__range", "5m", target["expr"])}
        for index, target in enumerate(
            target
            for path in DASHBOARDS
            for panel in json.loads(path.read_text())["panels"]
            for target in panel.get("targets", ())
        )
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", "panels.yml", cwd=tmp_path)


def test_a_name_that_nobody_has_is_found() -> None:
    assert unknown_names("rate(seriatim_lost_total[5m]) > 0") == {"seriatim_lost_total"}
    assert unknown_names('seriatim_connections{transport="websocket", colour="red"}') == {
        "seriatim_connections{colour}"
    }
    assert unknown_names("sum by (instance, channel) (seriatim_connections)") == {"channel"}
    assert unknown_names("sum by (le) (rate(seriatim_round_seconds_bucket[5m]))") == set()


# ---------------------------------------------------------------------- promtool


def test_promtool_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "seriatim.key").write_text("k")
    config = tmp_path / "prometheus.yml"
    config.write_text(config.read_text().replace("/etc/prometheus/seriatim.key", str(tmp_path / "seriatim.key")))
    said = promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    assert f"{len(RULES)} rules found" in said
    promtool("check", "rules", "rules.yml", cwd=tmp_path)


STEPS = 65
"""Minutes of a phase: all is well, something is wrong, all is well again."""


@dataclass(frozen=True)
class Case:
    """One alert: series in which the thing goes wrong after the first phase, and when it must have fired."""

    alert: str
    series: dict[str, str]
    by_m: int = 12


def level(well: float, wrong: float) -> str:
    """A gauge in three phases."""
    return f"{well}x{STEPS - 1} {wrong}x{STEPS - 1} {well}x{STEPS - 1}"


def total(rate: int, wrong: int) -> str:
    """A counter in three phases, which grows by so much in a minute."""
    first = (STEPS - 1) * rate
    second = first + STEPS * wrong
    return f"0+{rate}x{STEPS - 1} {first + wrong}+{wrong}x{STEPS - 1} {second}+{rate}x{STEPS - 1}"


def times(metric: str, well: float = 0.05, wrong: float = 2.5) -> dict[str, str]:
    """A histogram of which all observations are at most `well` in good times, and up to `wrong` in bad ones."""
    assert {well, wrong} <= set(SECONDS)

    def bucket(bound: str, grows: str) -> tuple[str, str]:
        return f'{metric}_bucket{{instance="app1:8000",worker="w1",le="{bound}"}}', grows

    return dict([bucket(str(well), total(10, 0)), bucket(str(wrong), total(10, 10)), bucket("+Inf", total(10, 10))])


def on(metric: str, **labels: str) -> str:
    given = {"instance": "app1:8000", "worker": "w1", **labels}
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in given.items()) + "}"


CASES = (
    Case("SeriatimUnreachable", {'up{job="seriatim",instance="app1:8000"}': level(1, 0)}, by_m=3),
    Case(
        "SeriatimWorkerMissing",
        {
            on("seriatim_worker_up"): level(1, 0),
            on("seriatim_worker_up", worker="w2"): level(1, 1),
            'seriatim_workers_configured{instance="app1:8000"}': level(2, 2),
        },
        by_m=3,
    ),
    Case("SeriatimWorkerRestarting", {on("seriatim_worker_start_time_seconds"): total(0, 1)}, by_m=6),
    Case("SeriatimEventLoopStuck", {on("seriatim_event_loop_overdue_seconds"): level(0, 20)}, by_m=2),
    Case("SeriatimEventLoopLate", times("seriatim_event_loop_lag_seconds")),
    Case("SeriatimDrainHangs", {on("seriatim_worker_draining"): level(0, 1)}, by_m=3),
    Case(
        "SeriatimVersionsMixed",
        {
            on("seriatim_worker_info", version="1"): level(1, 1),
            on("seriatim_worker_info", version="2", instance="app2:8000"): f"_x{STEPS - 1} 1x{STEPS - 1} _x{STEPS - 1}",
        },
        by_m=35,
    ),
    Case(
        "SeriatimErrorsLogged",
        {
            on("seriatim_log_records_total", level="error", logger="realtime.hub"): total(0, 1),
            on("seriatim_log_records_total", level="warning", logger="realtime.log"): total(1, 1),
        },
        by_m=3,
    ),
    Case("SeriatimSheddingLoad", {on("seriatim_shedding_step"): level(0, 2)}, by_m=3),
    Case(
        "SeriatimConnectionsRefused",
        {
            on("seriatim_admission_refused_total", reason="worker"): total(0, 100),
            on("seriatim_admission_refused_total", reason="draining"): total(100, 100),
        },
    ),
    Case(
        "SeriatimFilesRunOut",
        {on("seriatim_process_open_fds"): level(500, 900), on("seriatim_process_max_fds"): level(1000, 1000)},
    ),
    Case("SeriatimCommitsSlow", times("seriatim_publish_commit_seconds")),
    Case("SeriatimDatabaseFails", {on("seriatim_database_errors_total", part="writer"): total(0, 3)}, by_m=4),
    Case("SeriatimOutboxWaits", {on("seriatim_outbox_oldest_seconds"): level(1, 90)}, by_m=3),
    Case(
        "SeriatimOutboxRefused",
        {
            on("seriatim_outbox_messages", state="refused"): level(0, 1),
            on("seriatim_outbox_messages", state="waiting"): level(50, 50),
        },
        by_m=3,
    ),
    Case("SeriatimChannelLocked", {on("seriatim_writer_channels_aside"): level(0, 1)}, by_m=4),
    Case(
        "SeriatimRetentionStands",
        # The time of each minute, then always the same.
        {
            on("seriatim_retention_last_success_timestamp_seconds"): (
                f"0+60x{STEPS - 1} {60 * STEPS}x{STEPS - 1} {120 * STEPS}+60x{STEPS - 1}"
            )
        },
        by_m=40,
    ),
    Case("SeriatimLogFellBack", {on("seriatim_logs_fallen_total"): total(0, 1)}, by_m=3),
    Case("SeriatimNewsLate", times("seriatim_announce_lag_seconds")),
    Case("SeriatimRedisSilent", {on("seriatim_backplane_suspect", line="0"): level(0, 1)}, by_m=3),
    Case(
        "SeriatimSubscribersFallBehind",
        # Falls behind, by 100 messages in a minute, then stays there, which is for its window to decide.
        {
            on("seriatim_furthest_behind_messages"): f"5x{STEPS - 1} 100+100x{STEPS - 1} {100 * STEPS}x{STEPS - 1}",
        },
        by_m=25,
    ),
    Case("SeriatimReadsSlow", times("seriatim_log_read_seconds")),
    Case(
        "SeriatimLedgerOff",
        {
            on("seriatim_ledger_imbalances_total"): f"0x{STEPS - 1} 1x{2 * STEPS - 1}",
            on("seriatim_ledger_difference_messages"): level(0, 2),
        },
        by_m=2,
    ),
    Case("SeriatimGapsTold", {on("seriatim_gaps_told_total", reason="retention"): total(0, 3)}, by_m=50),
    Case("SeriatimSweepSlow", times("seriatim_sweep_seconds")),
)


def fires(folder: Path, alert: str, series: dict[str, str], expected: dict[int, bool]) -> None:
    """Asserts that the alert fires at these minutes of the series, or does not."""
    shutil.copy(PROMETHEUS / "rules.yml", folder)
    firing = f'count(ALERTS{{alertstate="firing",alertname="{alert}"}})'
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if yes else [],
            }
            for minute, yes in expected.items()
        ],
    }
    written = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "tests.yml").write_text(yaml.safe_dump(written, sort_keys=False))
    promtool("test", "rules", "tests.yml", cwd=folder)


def told(found: list[Reading], missing: list[str]) -> dict[str, float]:
    """What a scrape of `/metrics` brings Prometheus: its series and their values."""
    encode, _ = exposition.choose_encoder("text/plain")
    return {
        sample.name + "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}": sample.value
        for family in text_string_to_metric_families(encode(_Read(found, missing)).decode())
        for sample in family.samples
        if (labels := {"instance": "app1:8000", **sample.labels})
    }


def minutes(scrapes: list[dict[str, float]]) -> dict[str, str]:
    """One scrape a minute, as promtool takes them; `_` where a series is not there."""
    names = {name: None for scrape in scrapes for name in scrape}
    return {name: " ".join(str(scrape.get(name, "_")) for scrape in scrapes) for name in names}


def test_the_alert_fires_when_a_worker_dies(tmp_path: Path, realtime_settings: Callable[..., None]) -> None:
    realtime_settings(WORKERS=2)
    well = told([Reading("w1", {}), Reading("w2", {})], [])
    dead = told([Reading("w1", {})], ["w2"])
    scrapes = [*[well] * 10, *[dead] * 10, *[well] * 10]
    fires(tmp_path, "SeriatimWorkerMissing", minutes(scrapes), {9: False, 10: False, 12: True, 19: True, 20: False})


def test_alerts_fire_when_the_lag_of_a_loop_grows(tmp_path: Path) -> None:
    now = [1000.0]
    loop = SimpleNamespace(call_later=lambda delay, call: SimpleNamespace(cancel=lambda: None))
    lag = LoopLag(cast("Any", loop), lambda: now[0])
    lag.start()

    def scrape(late_s: float) -> dict[str, float]:
        """After a minute in which every turn came so late; the loop is in the middle of one."""
        for _ in range(20):
            now[0] = lag._due + late_s
            lag._tick()
        now[0] = lag._due + late_s
        histogram = Buckets(list(lag.histogram.counts), lag.histogram.total)
        series: dict[str, Any] = {
            "seriatim_event_loop_lag_seconds": [((), histogram)],
            "seriatim_event_loop_overdue_seconds": [((), lag.now_s)],
        }
        return told([Reading("w1", series)], [])

    scrapes = [scrape(late_s) for late_s in [*[0.001] * 20, *[2.0] * 20, *[20.0] * 10, *[0.001] * 20]]
    (tmp_path / "late").mkdir()
    late = {19: False, 32: True, 49: True, 68: False}
    fires(tmp_path / "late", "SeriatimEventLoopLate", minutes(scrapes), late)
    fires(tmp_path, "SeriatimEventLoopStuck", minutes(scrapes), {19: False, 39: False, 42: True, 49: True, 52: False})


def test_every_alert_has_its_case() -> None:
    assert [case.alert for case in CASES] == [rule["alert"] for rule in RULES]
    assert max(SECONDS) < max(MESSAGES)  # the two kinds of histograms are not mixed up above


def test_every_alert_fires_when_it_should_not_before_and_ends(tmp_path: Path) -> None:
    tests = []
    for case in CASES:
        firing = f'count(ALERTS{{alertstate="firing",alertname="{case.alert}"}})'
        yes = [{"labels": "{}", "value": 1}]
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": f"{minute}m", "exp_samples": expected}
                    for minute, expected in (
                        (STEPS - 1, []),
                        (STEPS + case.by_m, yes),
                        (2 * STEPS - 1, yes),
                        (3 * STEPS - 1, []),
                    )
                ]
                # Nothing else is alarmed by it.
                + [
                    {
                        "expr": f'count(ALERTS{{alertstate="firing",alertname!="{case.alert}"}})',
                        "eval_time": f"{2 * STEPS - 1}m",
                        "exp_samples": [],
                    }
                ],
            }
        )
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    written = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(written, sort_keys=False))
    promtool("test", "rules", "tests.yml", cwd=tmp_path)
