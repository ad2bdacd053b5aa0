"""permessage-deflate (RFC 7692) without context takeover: what is agreed, and how one message is packed and unpacked.

Without takeover each message is compressed by itself. So one packed message serves every connection that agreed on the
same window, and no connection keeps a compressor: its memory is that of one without the extension. Pure.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

NAME = "permessage-deflate"

WINDOWS = (15, 12, 9)
"""Windows that are used, as powers of two bytes. Whoever asks for a smaller one than 15 gets the next of them, so that
a message is compressed three times at most. (zlib makes no raw stream with a window of 8.)"""

LEVEL = 1
"""Of zlib. Beside level 6, messages below 1 KiB come out the same within 7 %; at 32 KiB it takes a fifth of the time
and leaves a sixth more bytes. The loop waits meanwhile."""

TAIL = b"\x00\x00\xff\xff"
"""What a flushed stream ends with, left out on the wire (RFC 7692 §7.2.1)."""

END = b"\x03\x00"
"""An empty last block. Put behind a message it is reached only when the message ended where a block ends."""

PADDING = b"\x00"
"""What stands behind a message whose sender closed the stream instead of flushing it (RFC 7692 §7.2.3.4)."""

INFLATE_WINDOW = 15
"""Reads what was packed with any window."""


class Corrupt(ValueError):
    """The payload is not the deflate stream of one message."""


class TooLarge(ValueError):
    """The message is larger than what may be unpacked."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """An offer that was accepted: the answer's header, and the window that the server packs with."""

    header: str
    window_bits: int


@lru_cache(maxsize=32)
def agree(header: str) -> Agreement | None:
    """What to answer to `Sec-WebSocket-Extensions`: the first offer that can be met. None declines them all.

    An offer with a parameter that is unknown, doubled or without sense is declined, which leaves the connection as it
    would be without the extension (RFC 7692 §5.1, §7.1). Remembered: a handful of clients make nearly all offers.
    """
    for offer in header.split(","):
        name, *parameters = [part.strip() for part in offer.split(";")]
        if name.lower() != NAME:
            continue
        asked = _asked(parameters)
        if asked is None:
            continue
        bits = next((bits for bits in WINDOWS if bits <= asked.get("server_max_window_bits", WINDOWS[0])), None)
        if bits is None:
            continue
        answer = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
        if "server_max_window_bits" in asked:
            answer += f"; server_max_window_bits={bits}"
        return Agreement(answer, bits)
    return None


def _asked(parameters: list[str]) -> dict[str, int] | None:
    """The parameters of one offer by name; None when it has to be declined. What has no value counts as 0."""
    asked: dict[str, int] = {}
    for parameter in parameters:
        name, given, value = [part.strip() for part in parameter.lower().partition("=")]
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if name in asked:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            fine = not given
        elif name == "server_max_window_bits":
            fine = value in _BITS
        elif name == "client_max_window_bits":
            fine = not given or value in _BITS
        else:
            fine = False
        if not fine:
            return None
        asked[name] = int(value) if value else 0
    return asked


_BITS = frozenset(str(bits) for bits in range(8, 16))


def pack(message: bytes, window_bits: int) -> bytes:
    """The message as the payload of a frame with RSV1."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -window_bits)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]


def unpack(payload: bytes, most: int) -> bytes:
    """The message that was packed in `payload`, of at most `most` bytes: no more than that is ever unpacked.

    Raises Corrupt or TooLarge.
    """
    inflater = zlib.decompressobj(-INFLATE_WINDOW)
    try:
        message = inflater.decompress(payload + TAIL + END, most + 1)
    except zlib.error as error:
        raise Corrupt(str(error)) from None
    if len(message) > most:
        raise TooLarge(f"more than {most} bytes")
    if not inflater.eof or (inflater.unused_data and inflater.unused_data not in _AFTER_THE_LAST_BLOCK):
        raise Corrupt("the stream of the message does not end with it")
    return message


_AFTER_THE_LAST_BLOCK = (TAIL + END, PADDING + TAIL + END)
"""What is left over when the sender's own last block was met."""
