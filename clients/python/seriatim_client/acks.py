"""When to acknowledge. Pure.

The server sets the pace (`ack_every`, `ack_ms`), because acks are most of what it hears from subscribers. They are
spread: each is due at a random point between half and the whole of `ack_every`, so that many subscribers of one channel
do not acknowledge in the same instant. The server's window also counts bytes (1 MiB): large messages are acknowledged
by size, or the server would wait for `ack_ms` at each mebibyte.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Final

from seriatim_client.backoff import Random

SIZE_LIMIT_BYTES: Final = 256 * 1024
"""A quarter of the window."""


class AckCadence:
    """Counts what is processed on one attachment, and says when to tell."""

    __slots__ = ("_count", "_due_after", "_every", "_random", "_size_bytes", "_unacked")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._every = 0
        self._unacked: int | None = None
        self._restart()

    def begin(self, every: int) -> None:
        """A new attachment: what was processed before is not acknowledged on it. 0: no acks at all."""
        self._every = every
        self._unacked = None
        self._restart()

    def processed(self, serial: int, size_bytes: int) -> bool:
        """Everything through `serial` is processed; gives whether an ack is due now."""
        if self._every == 0:
            return False
        self._unacked = serial
        self._count += 1
        self._size_bytes += size_bytes
        return self._count >= self._due_after or self._size_bytes >= SIZE_LIMIT_BYTES

    @property
    def is_pending(self) -> bool:
        return self._unacked is not None

    def take(self) -> int | None:
        """The serial to acknowledge, or None when there is nothing new. From here it counts as said."""
        serial, self._unacked = self._unacked, None
        if serial is not None:
            self._restart()
        return serial

    def _restart(self) -> None:
        half = ceil(self._every / 2)
        self._due_after = max(1, half + floor(self._random() * (self._every - half + 1)))
        self._count = 0
        self._size_bytes = 0
