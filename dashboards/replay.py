"""Seattle's weather, replayed day by day, at three speeds: a pure function of the second.

The data set is vendored with its licence in dashboards/data. Every day has a date of its own; on the chart a day stands
at the moment it was replayed.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any, Final

#: Speed → days a second.
SPEEDS: Final = {"slow": 0.25, "normal": 1.0, "fast": 4.0}
LABELS: Final = {"slow": "A day in 4 s", "normal": "A day a second", "fast": "4 days a second"}


def channel_of(speed: str) -> str:
    return f"replay:seattle-{speed}"


@cache
def days() -> list[dict[str, Any]]:
    with (Path(__file__).parent / "data" / "seattle-weather.csv").open(newline="") as file:
        return [
            {
                "date": row["date"].replace("/", "-"),
                "rain": float(row["precipitation"]),
                "high": float(row["temp_max"]),
                "low": float(row["temp_min"]),
                "wind": float(row["wind"]),
                "sky": row["weather"],
            }
            for row in csv.DictReader(file)
        ]


def replayed(second: int, speed: str) -> list[tuple[int, dict[str, Any]]]:
    """The days of this second with their running numbers; none where a slow replay rests."""
    pace = SPEEDS[speed]
    found = []
    for number in range(int(second * pace), int((second + 1) * pace)):
        day = days()[number % len(days())]
        found.append((number, {**day, "at": round(number / pace, 2)}))
    return found
