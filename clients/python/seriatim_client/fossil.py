"""Fossil deltas: a text out of the text before it and a difference. Pure.

The format: https://fossil-scm.org/home/doc/trunk/www/delta_format.wiki. All numbers count bytes of UTF-8.
"""

from __future__ import annotations

from typing import Final

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
_VALUES: Final = {ord(digit): value for value, digit in enumerate(_DIGITS)}
_MOST: Final = 1 << 32
"""No size or offset reaches this; the checksum is below it."""


class DeltaError(ValueError):
    """The delta is none, or not for this base."""


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """The text that `delta` makes of `base`. Raises DeltaError; never gives a text whose checksum is wrong."""
    size, at = _number(delta, 0)
    at = _expect(delta, at, b"\n")
    made = bytearray()
    while True:
        number, at = _number(delta, at)
        sign = delta[at : at + 1]
        at += 1
        if sign == b"@":
            offset, at = _number(delta, at)
            at = _expect(delta, at, b",")
            if offset + number > len(base):
                raise DeltaError("a copy reaches beyond the base")
            made += base[offset : offset + number]
        elif sign == b":":
            if at + number > len(delta):
                raise DeltaError("a literal reaches beyond the delta")
            made += delta[at : at + number]
            at += number
        elif sign == b";":
            text = bytes(made)
            if at != len(delta) or len(text) != size or number != _checksum(text):
                raise DeltaError("the checksum is another: the delta belongs to another base")
            return text
        else:
            raise DeltaError("an unknown command")
        if len(made) > size:
            raise DeltaError("more came out than was said")


def _checksum(text: bytes) -> int:
    padded = text + bytes(-len(text) % 4)
    return sum(int.from_bytes(padded[at : at + 4], "big") for at in range(0, len(padded), 4)) % _MOST


def _number(delta: bytes, at: int) -> tuple[int, int]:
    start, number = at, 0
    while at < len(delta) and delta[at] in _VALUES:
        number = number * 64 + _VALUES[delta[at]]
        at += 1
        if number >= _MOST:
            raise DeltaError("a number is too large")
    if at == start:
        raise DeltaError("a number is missing")
    return number, at


def _expect(delta: bytes, at: int, sign: bytes) -> int:
    if delta[at : at + 1] != sign:
        raise DeltaError(f"{sign!r} is missing")
    return at + 1
