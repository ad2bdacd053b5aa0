"""A server's WebSocket frames as bytes (RFC 6455 §5.2), so that one frame can be built once and written to many."""

from __future__ import annotations

from realtime.protocol import deflate

TEXT_FINAL = 0x81
"""FIN set, no extension bits, opcode 1."""

BINARY_FINAL = 0x82
"""The same with opcode 2."""

COMPRESSED = 0x40
"""RSV1: the payload is compressed (RFC 7692 §6)."""


def text_frame(payload: bytes) -> bytes:
    """An unmasked, unfragmented text frame around `payload`, which must be UTF-8."""
    return data_frame(TEXT_FINAL, payload)


def compressed_frame(first: int, payload: bytes, window_bits: int) -> bytes:
    """A frame with the payload compressed, where that makes it smaller; `first` is TEXT_FINAL or BINARY_FINAL."""
    packed = deflate.pack(payload, window_bits)
    if len(packed) < len(payload):
        return data_frame(first | COMPRESSED, packed)
    return data_frame(first, payload)


def data_frame(first: int, payload: bytes) -> bytes:
    """An unmasked frame that begins with the byte `first`."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
