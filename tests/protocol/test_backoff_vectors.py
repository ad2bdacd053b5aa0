from __future__ import annotations

import math
from typing import Any

from tests.vectors import each


@each("backoff")
def test_backoff_is_full_jitter_after_the_cap(vector: dict[str, Any]) -> None:
    """The SDKs implement it; here the vectors themselves are held against the specification."""
    told = vector["given"]
    ceiling = min(told["cap_ms"], told["base_ms"] * 2 ** told["attempt"])
    assert math.floor(told["random"] * ceiling) == vector["want"]
