"""The data of messages, whichever way they come. Pure.

On an attachment with deltas `data` is a string: the JSON text, or a difference to the data of the message before
(docs/reference/protocol.md#deltas).
"""

from __future__ import annotations

import json
from typing import Any

from seriatim_client.fossil import DeltaError, apply_delta
from seriatim_client.frames import MessageFrame


class DataReader:
    """What one attachment has brought last."""

    __slots__ = ("_has_deltas", "_serial", "_text")

    def __init__(self) -> None:
        self._has_deltas = False
        self._serial: int | None = None
        self._text = b""

    def begin(self, delta: str | None) -> None:
        """A new attachment; `delta` is what `attached` says of it."""
        self._has_deltas = delta == "fossil"
        self.forget()

    def forget(self) -> None:
        """Serials were left out: the next message comes whole."""
        self._serial, self._text = None, b""

    @property
    def size_bytes(self) -> int:
        """What the data of the last message are as JSON, with deltas: what the server's window counts."""
        return len(self._text)

    def read(self, frame: MessageFrame) -> Any:
        """The data of a message: each in stream order, once. Raises DeltaError for what is not what was sent; then only
        another attach helps."""
        if not self._has_deltas:
            return frame.data
        serial, before = self._serial, self._text
        self.forget()
        if not isinstance(frame.data, str):
            raise DeltaError("the data are no text")
        try:
            text = frame.data.encode()
            if frame.base is not None:
                if serial is None or serial != frame.base:
                    raise DeltaError(f"message {frame.base} is not at hand")
                text = apply_delta(before, text)
            value = json.loads(text.decode())
        except (UnicodeError, json.JSONDecodeError, RecursionError):
            raise DeltaError("the text is not JSON") from None
        if not frame.snapshot:
            self._serial, self._text = frame.serial, text
        return value
