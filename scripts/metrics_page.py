"""Writes the tables of docs/reference/metrics.md from the registry, realtime/metrics/table.py.

    DJANGO_SETTINGS_MODULE=tests.settings .seriatim/venv/bin/python -m scripts.metrics_page

tests/test_docs.py fails when the page is not what this would write.
"""

from __future__ import annotations

import re
from pathlib import Path

import django

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "metrics.md"
BEGIN = "<!-- metrics: written by scripts/metrics_page.py -->\n"
END = "<!-- end of the metrics -->\n"

HEAD = "| metric | type, labels | what it says | what to do |\n|---|---|---|---|\n"

SOURCE = PAGE.parent.parent.parent / "realtime" / "metrics" / "table.py"


def sections() -> str:
    """A table for each part of the registry, under the heading that the registry has."""
    from realtime.metrics.exposition import CONFIGURED, CONFIGURED_MEANING, UP, UP_MEANING
    from realtime.metrics.table import METRICS

    headings = _headings()
    text = ""
    for metric in METRICS:
        if metric.name in headings:
            text += f"\n### {headings[metric.name]}\n\n{HEAD}"
            if metric is METRICS[0]:
                text += _row(UP, "gauge", (), UP_MEANING, "The worker died or is stuck: see its supervisor's log.")
                text += _row(CONFIGURED, "gauge", None, CONFIGURED_MEANING, "Compare with `sum(seriatim_worker_up)`.")
        text += _row(metric.name, metric.kind, metric.labels, metric.meaning, metric.action)
    return text


def _row(name: str, kind: str, labels: tuple[str, ...] | None, meaning: str, action: str) -> str:
    listed = "" if not labels else ": " + ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {kind}{listed} | {meaning} | {action or 'For comparison.'} |\n"


def _headings() -> dict[str, str]:
    """The first metric of each part → its heading: the comments `# -- heading ---` of the registry."""
    found = re.findall(r"^    # -- (.+?) -+\n    Metric\(\n        \"(\w+)\"", SOURCE.read_text(), re.MULTILINE)
    return {name: heading.capitalize() for heading, name in found}


def page(text: str) -> str:
    """`text` with the part between the two marks replaced by the tables as they should be."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE}: the two marks are missing.")
    return before + BEGIN + sections() + "\n" + END + after


if __name__ == "__main__":
    django.setup()
    PAGE.write_text(page(PAGE.read_text()))
