"""Order from disorder: announcements of one channel, as a worker hears them.

Announcements may be lost, doubled, late or swapped (two workers' announcements swap by nature). `Ordering` knows the
serial that was passed on last and gives out frames in serial order, each once: the next serial goes out, an older one
is dropped, one behind a hole is held. When a hole stays, the caller reads the log instead (`jump`). Pure; the caller
watches the clock. Frames are opaque to it, except that `len()` of one bounds what is held.
"""

from __future__ import annotations

from collections.abc import Sequence

HELD_FRAMES_MOST = 1024
"""Frames held behind a hole, per channel. Beyond it only the highest serial is remembered: the log has the rest."""

HELD_BYTES_MOST = 1 << 20
"""Characters held behind a hole, per channel; for the same reason."""


class Ordering:
    """The order of one channel's log on one worker.

    `position`: everything through it was given out. `top`: the highest serial heard of; the log has it, since only what
    is committed is announced. There is a hole exactly when `top > position`.
    """

    __slots__ = ("_held", "_held_bytes", "position", "top")

    def __init__(self, position: int) -> None:
        self.position = position
        self.top = position
        self._held: dict[int, str] = {}
        self._held_bytes = 0

    @property
    def hole(self) -> bool:
        return self.top > self.position

    def offer(self, first: int, frames: Sequence[str]) -> Sequence[str]:
        """Takes the frames of serials first, first + 1, …; returns those that are next in order, held ones included.

        What is returned counts as given out: after this the caller must deliver it.
        """
        last = first + len(frames) - 1
        if last > self.top:
            self.top = last
        if first > self.position + 1:
            self._hold(first, frames)
            return ()
        fresh = frames if first == self.position + 1 else frames[self.position + 1 - first :]
        if not fresh:
            return ()
        self.position = last
        return [*fresh, *self._release()] if self._held else fresh

    def hear_of(self, head: int) -> None:
        """The log is known to reach `head`, though its frames were not heard."""
        if head > self.top:
            self.top = head

    def jump(self) -> int:
        """Gives up on the hole: position becomes `top`; the caller reads what lies between from the log.

        Returns the new position. Held frames are forgotten: the log has them.
        """
        self.position = self.top
        self._held.clear()
        self._held_bytes = 0
        return self.position

    def _hold(self, first: int, frames: Sequence[str]) -> None:
        for serial, frame in enumerate(frames, first):
            if serial in self._held:
                continue
            if len(self._held) >= HELD_FRAMES_MOST or self._held_bytes + len(frame) > HELD_BYTES_MOST:
                return
            self._held[serial] = frame
            self._held_bytes += len(frame)

    def _release(self) -> list[str]:
        """The held frames that follow position without a hole; forgets those at or before it."""
        out: list[str] = []
        while (frame := self._held.pop(self.position + 1, None)) is not None:
            self.position += 1
            self._held_bytes -= len(frame)
            out.append(frame)
        for serial in [serial for serial in self._held if serial <= self.position]:
            self._held_bytes -= len(self._held.pop(serial))
        return out
