"""What came on one attachment, by serial. Pure.

Without `skipped`, consecutive serials differ by exactly 1. So each serial is the next one, or one that was here before,
or proof that something is missing.
"""

from __future__ import annotations

from typing import Literal

Step = Literal["next", "old", "gap"]


class SerialTracker:
    """Everything through `serial` of the log `epoch` came or was skipped."""

    __slots__ = ("epoch", "serial")

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.serial = 0

    def begin(self, epoch: str | None, serial: int) -> None:
        """Delivery starts after `serial`."""
        self.epoch = epoch
        self.serial = serial

    def take(self, serial: int) -> Step:
        """Takes the serial of a message. Only `next` moves the tracker."""
        if serial == self.serial + 1:
            self.serial = serial
            return "next"
        return "old" if serial <= self.serial else "gap"

    def skip(self, start: int | None, to: int | None) -> Step:
        """Takes what the server says it cannot give; both None when the epoch is another: `attached` said the rest."""
        if to is None:
            return "next"
        if start is not None and start > self.serial + 1:
            return "gap"
        if to <= self.serial:
            return "old"
        self.serial = to
        return "next"
