"""What is in flight on one attachment: sent, not yet acknowledged, and how much more may be sent.

Pure. The window counts `message` frames by number (`size`) and by bytes (`most_bytes`; the frame that crosses it is
still sent). Serials in flight are consecutive but for what conflation left out (`pass_over`), which is no message and
takes no room. A subscriber in a level set is not touched per message: its window is brought up to date (`sent_through`)
when it acknowledges or leaves.
See docs/reference/protocol.md, "Acknowledging".
"""

from __future__ import annotations

from array import array
from enum import Enum

UNBOUNDED = 1 << 62
"""A limit that no serial and no byte count reaches."""


class Acked(Enum):
    ADVANCED = "advanced"
    IGNORED = "ignored"
    BEYOND = "beyond"
    """Acknowledges what was never sent: `bad_ack`."""


class Window:
    """The window of one attachment. `size` 0: no acknowledgements, everything may be sent."""

    __slots__ = ("_bytes", "_gaps", "_settled", "_sizes", "acked", "most_bytes", "sent", "size")

    def __init__(self, size: int, most_bytes: int, position: int) -> None:
        self.size = size
        self.most_bytes = most_bytes
        self.restart(position)

    def restart(self, position: int) -> None:
        """Delivery starts after `position`, after an attach or in a new epoch: nothing is in flight."""
        self.acked = position
        self.sent = position
        self._sizes = array("I")
        self._gaps: list[tuple[int, int]] | None = None
        """First and last serials that were left out among what is in flight; a list only where it is needed."""
        self._bytes = 0
        self._settled = False

    def skip_to(self, position: int) -> None:
        """Everything through `position` counts as processed and acknowledged."""
        self.acked = position
        self.sent = position
        del self._sizes[:]
        self._gaps = None
        self._bytes = 0

    def pass_over(self, serial: int) -> None:
        """Everything behind what was sent, through `serial`, is left out. What was sent before stays in flight."""
        if self.size:
            self._gaps = self._gaps or []
            if self._gaps and self._gaps[-1][1] == self.sent:
                self._gaps[-1] = (self._gaps[-1][0], serial)
            else:
                self._gaps.append((self.sent + 1, serial))
        self.sent = serial

    @property
    def in_flight(self) -> int:
        """Messages that were sent and are not acknowledged."""
        return len(self._sizes)

    @property
    def limit(self) -> int:
        """The last serial that may be sent, as far as the number goes."""
        return self.sent + self.size - len(self._sizes) if self.size else UNBOUNDED

    @property
    def room_bytes(self) -> int:
        """A frame may be sent while this is positive."""
        return self.most_bytes - self._bytes if self.size else UNBOUNDED

    @property
    def open(self) -> bool:
        return not self.size or (len(self._sizes) < self.size and self._bytes < self.most_bytes)

    def sent_through(self, serial: int, sizes: array[int]) -> None:
        """Frames of these sizes in bytes, the last of them `serial`, were sent."""
        self.sent = serial
        if self.size:
            self._sizes.extend(sizes)
            self._bytes += sum(sizes)

    def ack_through(self, serial: int) -> Acked:
        """The client has processed everything through `serial`.

        Beyond what was sent is ignored until the first valid one, because it may have been meant for the attachment, or
        the epoch, before this one.
        """
        if serial > self.sent:
            return Acked.BEYOND if self._settled else Acked.IGNORED
        if serial < self.acked:
            return Acked.IGNORED
        self._settled = True
        if serial == self.acked:
            return Acked.IGNORED
        if self.size:
            count = serial - self.acked - self._forget_gaps(serial)
            if serial == self.sent:
                self._bytes = 0
            else:
                self._bytes -= sum(self._sizes[:count])
            del self._sizes[:count]
        self.acked = serial
        return Acked.ADVANCED

    def _forget_gaps(self, serial: int) -> int:
        """How many serials through `serial` were left out; those are past."""
        count = 0
        while self._gaps and self._gaps[0][0] <= serial:
            first, last = self._gaps.pop(0)
            count += min(last, serial) - first + 1
            if last > serial:
                self._gaps.insert(0, (serial + 1, last))
        return count
