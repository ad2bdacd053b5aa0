"""Which transport carries the next connection, and when another is tried. Pure: time comes in as an argument.

Only what a broken path looks like moves us on: a connection that never became ready, or one that was cut again and
again after a short life. A close with a code of the server's own proves that the path works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

TransportName = Literal["websocket", "streaming", "polling"]

TRIES_UNPROVEN: Final = 2
"""Tries on a transport that has not worked here yet."""
TRIES_PROVEN: Final = 4
"""The same on one that has: a server may just be restarting."""
SHORT_LIFE_MS: Final = 30_000
"""A connection that was cut before this old was probably cut by something between us and the server."""
SHORT_LIVES: Final = 3
SHORT_LIVES_WITHIN_MS: Final = 180_000
"""So many short lives within so long: the path does not bear this transport."""
UPGRADE_FIRST_MS: Final = 60_000
UPGRADE_MOST_MS: Final = 900_000
"""How soon the best transport is tried in the background, doubled after each failure up to the last."""


class TransportChoice:
    """The same rules as in the JavaScript SDK; what worked is remembered for as long as the client lives."""

    def __init__(self, transports: Sequence[TransportName]) -> None:
        """`transports`: the best first; ValueError without one."""
        if not transports:
            raise ValueError("Give at least one transport.")
        self._transports = tuple(transports)
        self._index = 0
        self._failures = 0
        self._short_lives: list[float] = []
        self._proven: set[TransportName] = set()
        self.upgrade_ms: float = UPGRADE_FIRST_MS
        """How long to wait before the best is tried in the background."""

    @property
    def current(self) -> TransportName:
        return self._transports[self._index]

    @property
    def best(self) -> TransportName:
        return self._transports[0]

    def ready(self) -> None:
        """The current one became ready."""
        self._failures = 0
        self._proven.add(self.current)

    def ended(self, *, is_broken: bool, lived_ms: float | None, is_timeout: bool, now_ms: float) -> bool:
        """A connection ended; whether the next try is with another transport.

        `is_broken`: no close of the server's came. `lived_ms`: since it was ready, None when it never was.
        `is_timeout`: nothing came at all, so something may hold back what the server sends.
        """
        if not is_broken:
            self._failures = 0
            return False
        if lived_ms is not None:
            if lived_ms >= SHORT_LIFE_MS:
                return False
            self._short_lives = [at for at in self._short_lives if at > now_ms - SHORT_LIVES_WITHIN_MS]
            self._short_lives.append(now_ms)
            return len(self._short_lives) >= SHORT_LIVES and self._move_on()
        is_proven = self.current in self._proven
        self._failures += TRIES_UNPROVEN if is_timeout and not is_proven else 1
        return self._failures >= (TRIES_PROVEN if is_proven else TRIES_UNPROVEN) and self._move_on()

    def upgraded(self) -> None:
        """The best works again: it carries the next connection."""
        self._turn_to(0)
        self.upgrade_ms = UPGRADE_FIRST_MS

    def not_upgraded(self) -> None:
        self.upgrade_ms = min(self.upgrade_ms * 2, UPGRADE_MOST_MS)

    def _move_on(self) -> bool:
        self._turn_to((self._index + 1) % len(self._transports))
        return len(self._transports) > 1

    def _turn_to(self, index: int) -> None:
        self._index = index
        self._failures = 0
        self._short_lives = []
