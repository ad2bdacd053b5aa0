"""Frames for attachments that asked for deltas: `data` as a string, whole or as a difference to the message before.

Pure. Which message the client of an attachment holds is the hub's knowledge; here a base is given or it is not. A delta
is made once for all who hold the same base, whatever their transport and compression: what was made last is remembered.
See docs/reference/protocol.md#deltas.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import pairwise

from realtime.protocol.codec import encode
from realtime.protocol.fossil import delta
from realtime.protocol.messages import data_of, with_data

MADE_BYTES_MOST = 4 << 20
"""Of frames that were made and are remembered, with what they were made of: some thousand messages of a dashboard."""


class Deltas:
    """Makes frames, and remembers them: their text is all that they depend on."""

    def __init__(self, most_bytes: int) -> None:
        """Data larger than `most_bytes` comes whole: making a delta holds up the loop."""
        self.most_bytes = most_bytes
        self.made = 0
        """Deltas that were made and are smaller than the message."""
        self.whole = 0
        """Messages that were made whole, with or without a try."""
        self._made: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._made_size = 0

    def frames(self, first: int, frames: Iterable[str], base: str | None) -> list[str]:
        """Consecutive envelopes from serial `first` on. `base`: the envelope before, which the client holds; None where
        it does not, or where that is not known."""
        return [
            self._frame(serial, before, frame)
            for serial, (before, frame) in enumerate(pairwise([base or "", *frames]), first)
        ]

    def whole_frame(self, frame: str) -> str:
        """The envelope with its data as a string."""
        return self._frame(0, "", frame)

    def _frame(self, serial: int, before: str, frame: str) -> str:
        key = (before, frame)
        made = self._made.get(key)
        if made is not None:
            self._made.move_to_end(key)
            return made
        made = self._made[key] = self._make(serial, before, frame)
        self._made_size += len(before) + len(frame) + len(made)
        while self._made_size > MADE_BYTES_MOST:
            (before, frame), gone = self._made.popitem(last=False)
            self._made_size -= len(before) + len(frame) + len(gone)
        return made

    def _make(self, serial: int, before: str, frame: str) -> str:
        data = data_of(frame)
        whole = with_data(frame, encode(data))
        if before and len(data) <= self.most_bytes:
            base = data_of(before)
            if len(base) <= self.most_bytes:
                difference = with_data(frame, encode(delta(base.encode(), data.encode())), base=serial - 1)
                if len(difference) < len(whole):
                    self.made += 1
                    return difference
        self.whole += 1
        return whole
