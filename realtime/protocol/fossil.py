"""Fossil deltas: how one text is told as a difference to another. The encoder; clients have the decoders.

Pure. The format is Fossil's (https://fossil-scm.org/home/doc/trunk/www/delta_format.wiki): the size of the target, then
copies from the base (`length@offset,`) and literals (`length:bytes`), then a checksum of the target. All numbers count
bytes. Which copies are used is the encoder's own business, and this one differs from Fossil's in two ways. A delta
travels as a JSON string, so every literal has to be whole characters. And its work is bounded: it looks for copies only
where the structure of a JSON text begins anew (a comma, a quote, a brace), and at most `ANCHORS_MOST` times. Why an own
encoder: docs/decisions/0015-an-own-encoder-of-deltas.md.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import islice
from struct import unpack
from typing import Final

ANCHORS_MOST: Final = 1024
"""Places in each text that are looked at, some hundred nanoseconds each. Behind the last of them only the common end is
found, and the rest is a literal."""

CHUNK_BYTES: Final = 8
"""What has to be alike at an anchor. A shorter copy saves nothing: it takes six bytes and parts a literal."""

LONG_BYTES: Final = 24
"""What is looked for first. Rows of a table begin alike; where they have moved, this much of it tells it apart."""

_ANCHOR: Final = re.compile(rb"[,{}\[\] ]+")
_DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def delta(base: bytes, target: bytes) -> str:
    """What turns `base` into `target`, both UTF-8. It may be longer than the target: the caller compares."""
    size = min(len(base), len(target))
    front = _character_before(target, _alike(base, 0, target, 0, size))
    back = _alike_at_the_end(base, target, size - front)
    end = _character_behind(target, len(target) - back)
    back = len(target) - end
    parts = [_number(len(target)), b"\n"]
    literal = front if front > CHUNK_BYTES else 0
    if literal:
        parts.append(_copy(front, 0))
    for at, offset, length in _copies(base, literal, len(base) - back, target, literal, end):
        if at > literal:
            parts.append(_literal(target[literal:at]))
        parts.append(_copy(length, offset))
        literal = at + length
    if back <= CHUNK_BYTES:
        end = len(target)
    if end > literal:
        parts.append(_literal(target[literal:end]))
    if end < len(target):
        parts.append(_copy(back, len(base) - back))
    parts += [_number(checksum(target)), b";"]
    return b"".join(parts).decode()


def _copies(
    base: bytes, base_start: int, base_end: int, target: bytes, start: int, end: int
) -> list[tuple[int, int, int]]:
    """Pieces of target[start:end] that are in base[base_start:base_end] too: (where, where in the base, length)."""
    places: dict[bytes, list[int]] = {}
    for found in islice(_ANCHOR.finditer(base, base_start, base_end), ANCHORS_MOST):
        at = found.start()
        places.setdefault(base[at : at + CHUNK_BYTES], []).append(at)
        places.setdefault(base[at : at + LONG_BYTES], []).append(at)
    copies: list[tuple[int, int, int]] = []
    done, near = start, base_start
    for _ in range(ANCHORS_MOST if places else 0):
        anchor = _ANCHOR.search(target, start, end)
        if anchor is None:
            break
        at, start = anchor.span()
        offsets = places.get(target[at : at + LONG_BYTES]) or places.get(target[at : at + CHUNK_BYTES])
        if offsets is None:
            continue
        # Values change more often than their order: the same piece further on is likelier than one before.
        place = bisect_left(offsets, near)
        offset = offsets[min(place, len(offsets) - 1)]
        stop = at + _alike(base, offset, target, at, min(end - at, base_end - offset))
        while at > done and offset > base_start and base[offset - 1] == target[at - 1]:
            at, offset = at - 1, offset - 1
        whole = _character_behind(target, at)
        offset, at = offset + whole - at, whole
        stop = _character_before(target, stop)
        if stop - at >= CHUNK_BYTES:
            copies.append((at, offset, stop - at))
            done = stop
            near = offset + stop - at
            start = max(start, stop)
    return copies


def checksum(text: bytes) -> int:
    """The sum of the text as big-endian words of 32 bits, the last one filled up with zeros."""
    words = (len(text) + 3) // 4
    total: int = sum(unpack(f">{words}I", text + bytes(-len(text) % 4)))
    return total & 0xFFFFFFFF


def _alike(one: bytes, at: int, other: bytes, other_at: int, most: int) -> int:
    """How many bytes from these places on are the same: by comparing ever larger slices, then ever smaller ones."""
    done, step, grows = 0, 32, True
    while step and done < most:
        size = min(step, most - done)
        if one[at + done : at + done + size] == other[other_at + done : other_at + done + size]:
            done += size
            step = step * 2 if grows else step // 2
        else:
            grows = False
            step = size // 2
    return done


def _alike_at_the_end(one: bytes, other: bytes, most: int) -> int:
    """The same backwards from the ends."""
    done, step, grows = 0, 32, True
    while step and done < most:
        size = min(step, most - done)
        if one[len(one) - done - size : len(one) - done] == other[len(other) - done - size : len(other) - done]:
            done += size
            step = step * 2 if grows else step // 2
        else:
            grows = False
            step = size // 2
    return done


def _character_before(text: bytes, at: int) -> int:
    """The place, or the start of the character that it cuts."""
    while 0 < at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _character_behind(text: bytes, at: int) -> int:
    """The place, or the end of the character that it cuts."""
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def _copy(length: int, offset: int) -> bytes:
    return b"%b@%b," % (_number(length), _number(offset))


def _literal(piece: bytes) -> bytes:
    return b"%b:%b" % (_number(len(piece)), piece)


def _number(value: int) -> bytes:
    digits = bytearray()
    while value > 63:
        digits.append(_DIGITS[value & 63])
        value >>= 6
    digits.append(_DIGITS[value])
    digits.reverse()
    return bytes(digits)
