"""How long an answer takes, and whether that makes a slow line. Pure."""

from __future__ import annotations

from typing import Final

SLOW_MS: Final = 1_500
"""From here a person notices."""
SLOW_FOR_MS: Final = 5_000
"""For how long it must last to be called slow: one bad answer is not a slow line."""


class Latency:
    """`ms` is smoothed over a few answers; None before the first."""

    __slots__ = ("_over_since_ms", "ms")

    def __init__(self) -> None:
        self.ms: float | None = None
        self._over_since_ms: float | None = None

    def sample(self, ms: float, now_ms: float) -> None:
        """The last answer took `ms`, or one has been awaited for so long already."""
        self.ms = ms if self.ms is None else self.ms * 0.6 + ms * 0.4
        if ms < SLOW_MS:
            self._over_since_ms = None
        elif self._over_since_ms is None:
            self._over_since_ms = now_ms - ms + SLOW_MS

    @property
    def is_suspect(self) -> bool:
        """Whether the last answer was late: worth asking again soon."""
        return self._over_since_ms is not None

    def is_slow(self, now_ms: float) -> bool:
        return self._over_since_ms is not None and now_ms - self._over_since_ms >= SLOW_FOR_MS

    def reset(self) -> None:
        """The line was cut: what was measured belongs to the old one."""
        self.ms = None
        self._over_since_ms = None
