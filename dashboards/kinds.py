"""What a widget may be, and what its options may say. Pure: no database, no request.

The page draws what stands here (static/js/dashboards/widgets.js); a kind or an option that is not in the table is
refused, so that nothing is stored that no page can draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

FIELD: Final = re.compile(r"[A-Za-z0-9_-]{1,40}(\.[A-Za-z0-9_-]{1,40}){0,5}")
"""Names joined by dots: where in a message's data the value stands."""

SERIES_MOST: Final = 6
"""There are six colours that everybody can tell apart."""
TEXT_CHARS: Final = 160
COLUMNS_MOST: Final = 12
WIDGETS_MOST: Final = 24
CHANNELS_MOST: Final = 12


class Invalid(ValueError):
    """Says in a sentence what is wrong, for the person who edits."""


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Invalid("must be a number")
    return value


def _text(value: object) -> object:
    if not isinstance(value, str) or len(value) > TEXT_CHARS:
        raise Invalid(f"must be a text of at most {TEXT_CHARS} characters")
    return value


def _field(value: object) -> object:
    if not isinstance(value, str) or not FIELD.fullmatch(value):
        raise Invalid("must be names joined by dots, such as cpu.user")
    return value


def _fields(most: int) -> Callable[[object], object]:
    def check(value: object) -> object:
        if not isinstance(value, list) or len(value) > most:
            raise Invalid(f"must be a list of at most {most} fields")
        return [_field(each) for each in value]

    return check


def _labels(value: object) -> object:
    if not isinstance(value, dict) or len(value) > COLUMNS_MOST + 1:
        raise Invalid(f"must be an object of at most {COLUMNS_MOST + 1} fields and what they are called")
    return {_field(field): _text(label) for field, label in value.items()}


def _one_of(*values: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        if value not in values:
            raise Invalid(f"must be one of {', '.join(values)}")
        return value

    return check


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise Invalid("must be true or false")
    return value


def _digits(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 6:
        raise Invalid("must be a whole number from 0 to 6")
    return value


_EVERYWHERE: Final[Mapping[str, Callable[[object], object]]] = {
    "unit": _text,
    "note": _text,
    "digits": _digits,
    "warn": _number,
    "alert": _number,
    "below": _flag,
    "event": _text,
}
"""`warn` and `alert` are thresholds: at or over them, with `below` at or under them. `event`: only messages of it."""

_FOLD: Final = _one_of("newest", "sum", "max", "mean")

KINDS: Final[Mapping[str, tuple[str, Mapping[str, Callable[[object], object]]]]] = {
    "line": ("Line", {"more": _fields(SERIES_MOST - 1), "by_key": _flag, "least": _number, "time": _field}),
    "area": ("Area", {"more": _fields(SERIES_MOST - 1), "by_key": _flag, "least": _number, "time": _field}),
    "gauge": ("Gauge", {"min": _number, "max": _number, "fold": _FOLD, "quiet": _number}),
    "number": ("Number", {"fold": _FOLD, "time": _field, "quiet": _number}),
    "bar": ("Bars", {"fold": _one_of("newest", "count"), "label": _field, "round": _field}),
    "table": ("Table by key", {"columns": _fields(COLUMNS_MOST), "labels": _labels, "quiet": _number}),
    "feed": ("Events", {"label": _field}),
    "lights": ("Status lights", {"quiet": _number}),
}
"""Kind → what people call it, and the options it has beside those that all have. `quiet`: after so many seconds without
a word of it a key is shown as silent, and counts in no sum. `labels`: what is above the columns, by field; `key` is the
first."""


def check_options(kind: str, options: object) -> dict[str, Any]:
    """The options as they are stored. `Invalid` for one that the kind does not have, or that has the wrong shape."""
    if kind not in KINDS:
        raise Invalid(f"There is no widget of the kind {kind!r}. Kinds: {', '.join(KINDS)}.")
    if not isinstance(options, dict):
        raise Invalid("The options must be an object.")
    known = {**_EVERYWHERE, **KINDS[kind][1]}
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise Invalid(f"A widget of the kind {kind} has no option {name!r}. It has: {', '.join(sorted(known))}.")
        try:
            checked[name] = known[name](value)
        except Invalid as error:
            raise Invalid(f"The option {name} {error}.") from None
    if kind == "gauge" and checked.get("min", 0) >= checked.get("max", 100):
        raise Invalid("The option min must be below max.")
    return checked
