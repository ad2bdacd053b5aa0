"""A weather mast that does not exist: its readings as a pure function of the second.

Because a reading depends on the second alone, a feed that is killed and started again continues the same curve, and a
reading that is published twice is the same message twice.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, TypedDict

CHANNEL: Final = "demo:feed"
#: Seconds between two readings.
PERIOD_S: Final = 1
#: The gust at which the crew takes the canopy down.
LIMIT_KMH: Final = 40.0


class Reading(TypedDict):
    at: int
    wind: float
    gust: float
    temperature: float
    visitors: int


def reading(second: int) -> Reading:
    """The reading of this Unix second."""
    hour = 2 * math.pi * (second % 86_400) / 86_400
    breeze = (
        19 + 5 * _drift(second, 900, "breeze") + 4 * _drift(second, 140, "breeze") + 1.6 * _drift(second, 11, "puff")
    )
    squall = max(0.0, _drift(second, 420, "squall") - 0.45) * 26
    wind = max(0.5, breeze + squall)
    gust = wind * (1.12 + 0.3 * abs(_drift(second, 23, "gust"))) + 1.5 * abs(_drift(second, 3, "gust"))
    temperature = 14 - 4 * math.cos(hour - 0.6) + 0.8 * _drift(second, 1800, "air") + 0.1 * _drift(second, 40, "air")
    visitors = (
        1450 - 1100 * math.cos(hour - 0.4) + 160 * _drift(second, 600, "crowd") + 20 * _drift(second, 30, "crowd")
    )
    return {
        "at": second,
        "wind": round(wind, 1),
        "gust": round(gust, 1),
        "temperature": round(temperature, 1),
        "visitors": max(0, round(visitors)),
    }


def _drift(second: int, period_s: int, name: str) -> float:
    """Smooth noise between -1 and 1: random heights every `period_s`, joined by a cosine."""
    step, rest = divmod(second, period_s)
    before, after = height(name, period_s, step), height(name, period_s, step + 1)
    blend = (1 - math.cos(math.pi * rest / period_s)) / 2
    return before + (after - before) * blend


def height(name: str, period_s: int, step: int) -> float:
    """A number between -1 and 1 that looks like chance and is always the same."""
    digest = hashlib.blake2b(f"{name} {period_s} {step}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**31 - 1
