"""Ids of messages: ULIDs, 48 bits of time and 80 of chance, so that they sort by when they were made. Pure.

Two of one millisecond differ by one in the part of chance, so the order of making is the order of sorting, also when
the clock stands still or steps back.
"""

from __future__ import annotations

from typing import Final

from seriatim_client.backoff import Random

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class IdMaker:
    """Makes ids, given the time and chance."""

    __slots__ = ("_last_ms", "_random", "_rest")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._last_ms = -1
        self._rest = 0

    def make(self, now_ms: float) -> str:
        time_ms = max(self._last_ms, int(now_ms))
        if time_ms == self._last_ms:
            self._rest = (self._rest + 1) % (1 << 80)
        else:
            self._last_ms = time_ms
            self._rest = (int(self._random() * (1 << 40)) << 40) | int(self._random() * (1 << 40))
        number = (time_ms << 80) | self._rest
        return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
