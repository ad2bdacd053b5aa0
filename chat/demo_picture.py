"""The demo's only picture, drawn: a harbour at sunrise. So that nothing has to be shipped or loaded for it."""

from __future__ import annotations

import struct
import zlib
from typing import Final

WIDTH: Final = 480
HEIGHT: Final = 270
HORIZON: Final = 165
SUN: Final = (330, 140, 34)
"""Centre and radius, in pixels."""
TOWER: Final = (84, 60, 12)
"""The lighthouse: where it stands, how high its top is, and half of its width at the foot."""

Colour = tuple[int, int, int]


def harbour() -> bytes:
    """The picture as PNG."""
    rows = b"".join(b"\0" + bytes(part for x in range(WIDTH) for part in _colour(x, y)) for y in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _colour(x: int, y: int) -> Colour:
    at, top, foot = TOWER
    if top <= y < HORIZON + 14:
        half = foot * (y + 60) // (HORIZON + 74)
        if abs(x - at) <= half:
            return (196, 62, 54) if (y - top) // 18 % 2 else (240, 236, 228)
        if top <= y < top + 9 and abs(x - at) <= half + 5:
            return (52, 58, 70)
    if y >= HORIZON and x < 190 - (y - HORIZON) * 2:
        return (70, 72, 82)  # the mole
    sun_x, sun_y, radius = SUN
    if y < HORIZON:
        if (x - sun_x) ** 2 + (y - sun_y) ** 2 <= radius * radius:
            return (255, 226, 150)
        return _between((96, 140, 196), (250, 206, 164), y / HORIZON)
    if abs(x - sun_x) < radius + (y - HORIZON) // 3 and (y + x // 9) % 7 < 3:
        return (250, 214, 160)
    return _between((74, 128, 156), (28, 62, 96), (y - HORIZON) / (HEIGHT - HORIZON))


def _between(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
