"""A server's WebSocket frames as bytes (RFC 6455 §5.2), so that one frame can be built once and written to many."""

from __future__ import annotations

TEXT_FINAL = 0x81
"""FIN set, no extension bits, opcode 1."""


def text_frame(payload: bytes) -> bytes:
    """An unmasked, unfragmented text frame around `payload`, which must be UTF-8."""
    size = len(payload)
    if size < 126:
        return bytes((TEXT_FINAL, size)) + payload
    if size < 65536:
        return bytes((TEXT_FINAL, 126)) + size.to_bytes(2, "big") + payload
    return bytes((TEXT_FINAL, 127)) + size.to_bytes(8, "big") + payload
