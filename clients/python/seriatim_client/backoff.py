"""How long to wait before the next try: an exponential, capped, then full jitter over the whole of it. Pure.

The jitter comes after the cap: added before it, everybody at the cap would be in step once a server was away for long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

Random = Callable[[], float]
"""As `random.random`: from 0 inclusive to 1 exclusive."""


@dataclass(frozen=True, slots=True)
class BackoffOptions:
    """`first_ms` is the ceiling of the first wait, `cap_ms` of every later one; it grows by `factor`."""

    first_ms: float = 1_000
    cap_ms: float = 16_000
    factor: float = 2


class Backoff:
    """A row of waits; `reset` begins it anew."""

    __slots__ = ("_options", "_random", "attempt")

    def __init__(self, options: BackoffOptions, random: Random) -> None:
        self._options = options
        self._random = random
        self.attempt = 0

    def next_ms(self) -> int:
        """The next wait in milliseconds."""
        options = self._options
        ceiling = min(options.cap_ms, options.first_ms * options.factor ** min(self.attempt, 64))
        self.attempt += 1
        return floor(self._random() * ceiling)

    def reset(self) -> None:
        self.attempt = 0
