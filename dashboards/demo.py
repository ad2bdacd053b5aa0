"""The dashboards that every installation begins with: plain data, for the migration that makes them."""

from __future__ import annotations

from typing import Any, Final

NAMESPACES: Final[dict[str, dict[str, Any]]] = {
    # An hour of a row per worker every two seconds.
    "server": {"retention_age_s": 3600, "known_ops": ["subscribe", "history"]},
    "replay": {"retention_messages": 7200, "known_ops": ["subscribe", "history"]},
    # The latest counts: who falls behind goes on with the newest of each key.
    "scores": {"retention_messages": 3600, "known_ops": ["subscribe", "history"], "overflow": "conflate"},
    "quiz": {"retention_age_s": 86_400, "known_ops": ["subscribe", "history"]},
}

Described = tuple[str, str, str, str, int, dict[str, Any]]
"""Kind, title, channel, field, span, options."""

_SERVER = "server:workers"
_MAST = "demo:feed"
_QUIET_S = 5
"""A worker says its numbers every two seconds."""
_SUM: Final[dict[str, Any]] = {"fold": "sum", "quiet": _QUIET_S}
_SEATTLE = "replay:seattle-@speed"

DASHBOARDS: Final[tuple[tuple[str, str, str, dict[str, str], tuple[Described, ...]], ...]] = (
    (
        "server",
        "This server",
        "What the workers of this server say about themselves, every two seconds.",
        {},
        (
            ("number", "Connections", _SERVER, "connections", 3, _SUM),
            ("number", "Published", _SERVER, "published", 3, _SUM | {"unit": "a second", "digits": 1}),
            ("number", "Delivered", _SERVER, "delivered", 3, _SUM | {"unit": "a second", "digits": 1}),
            ("number", "Out", _SERVER, "kb_out", 3, _SUM | {"unit": "kB/s", "digits": 1}),
            ("area", "Delivered each second, by worker", _SERVER, "delivered", 6, {"by_key": True, "least": 5}),
            (
                "line",
                "CPU by worker, %",
                _SERVER,
                "cpu",
                6,
                {"by_key": True, "least": 20, "warn": 60, "alert": 85, "unit": "%"},
            ),
            (
                "table",
                "Workers",
                _SERVER,
                "",
                6,
                {
                    "columns": ["connections", "attachments", "channels", "lag_ms", "cpu", "memory", "waiting"],
                    "labels": {"key": "worker", "lag_ms": "loop lag, ms", "cpu": "CPU, %", "memory": "memory, MB"},
                    "quiet": _QUIET_S,
                },
            ),
            (
                "gauge",
                "Event-loop lag, worst worker",
                _SERVER,
                "lag_ms",
                3,
                {"fold": "max", "min": 0, "max": 1000, "warn": 200, "alert": 600, "unit": "ms", "quiet": _QUIET_S},
            ),
            ("lights", "Health", _SERVER, "state", 3, {"quiet": _QUIET_S}),
        ),
    ),
    (
        "weather",
        "North mast",
        "A weather mast, one reading a second, published over REST by manage.py feed.",
        {},
        (
            ("number", "Wind", _MAST, "wind", 3, {"unit": "km/h", "digits": 1}),
            ("number", "Gusts", _MAST, "gust", 3, {"unit": "km/h", "digits": 1, "alert": 40}),
            ("number", "Air", _MAST, "temperature", 3, {"unit": "°C", "digits": 1}),
            ("number", "Visitors", _MAST, "visitors", 3, {"unit": "on the quay"}),
            (
                "line",
                "Wind and gusts, km/h",
                _MAST,
                "wind",
                8,
                {"more": ["gust"], "least": 48, "alert": 40, "note": "canopy down above 40 km/h"},
            ),
            ("area", "Visitors on the quay", _MAST, "visitors", 4, {"least": 500}),
        ),
    ),
    (
        "seattle",
        "Seattle, day by day",
        "Four years of weather, replayed. Data: vega_datasets 0.9.0 (MIT licence), drawn from public-domain NOAA data.",
        {"slow": "A day in 4 s", "normal": "A day a second", "fast": "4 days a second"},
        (
            ("line", "Highest and lowest, °C", _SEATTLE, "high", 8, {"more": ["low"], "least": 10, "unit": "°C"}),
            ("number", "Highest", _SEATTLE, "high", 4, {"unit": "°C", "digits": 1}),
            ("area", "Rain, mm a day", _SEATTLE, "rain", 6, {"least": 10, "warn": 20, "alert": 40}),
            (
                "gauge",
                "Wind",
                _SEATTLE,
                "wind",
                3,
                {"min": 0, "max": 10, "warn": 6, "alert": 8, "unit": "m/s", "digits": 1},
            ),
            ("feed", "Days", _SEATTLE, "sky", 3, {"label": "date"}),
            ("bar", "Sky, days in this window", _SEATTLE, "sky", 12, {"fold": "count"}),
        ),
    ),
    (
        "match",
        "Live scores",
        "One match on two channels. The score conflates: after a pause you get the newest alone. "
        "The commentary holds: after a pause you get every line, in order.",
        {},
        (
            (
                "table",
                "Score, conflated",
                "scores:live",
                "score",
                6,
                {"columns": ["score", "clock", "possession"], "labels": {"key": "match"}},
            ),
            ("feed", "Commentary, held", "demo:commentary", "text", 6, {"label": "clock"}),
            ("line", "Goals", "scores:live", "home", 6, {"more": ["away"], "least": 4}),
            ("gauge", "Possession of Quay", "scores:live", "possession", 6, {"min": 0, "max": 100, "unit": "%"}),
        ),
    ),
    (
        "quiz",
        "A quiz",
        "A question every ten minutes, one vote a person, counted from the messages themselves.",
        {},
        (
            (
                "bar",
                "Votes on this question",
                "quiz:live",
                "choice",
                8,
                {"fold": "count", "event": "vote", "round": "round"},
            ),
            ("feed", "Questions and votes", "quiz:live", "choice", 4, {"label": "text"}),
        ),
    ),
)
