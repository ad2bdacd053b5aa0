"""Immutable pieces of logs, shared by all who read there.

A block holds consecutive frames of one log out of `BLOCK_MESSAGES` serials. Many subscribers behind at one place share
one read and one encoding of it. The cache is bounded in bytes, encoded slices among them, whatever the number of
channels and readers; what was used longest ago goes first. Pure.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from realtime.delivery.deltas import Deltas
from realtime.protocol.messages import key_of

PAYLOADS_SHARE = 8
"""Part of the cache, one in so many, that encoded slices may take: readers that start together stay together, so few
slices serve nearly all. They were bounded by block once, four each: then slices took as much as all blocks."""

FRAME_OVERHEAD_BYTES = 120
"""What a frame costs beside its text: the string object, its place in the list, its size."""


class Encoding(Protocol):
    """How frames become what one transport writes. One instance per encoding and process: it is a key."""

    name: str

    def encode(self, frames: Sequence[str]) -> object:
        """The frames, joined for one write."""
        ...

    def join(self, payloads: Sequence[Any]) -> object:
        """What `encode` made several times, as one."""
        ...

    def ways(self, writers: Sequence[Callable[[Any], None]]) -> Any:
        """What `write_all` takes instead of these writers: made once for many writes, as long as they stay what they
        are (see `Hub.rewire`)."""
        ...

    def write_all(self, ways: Any, payload: Any) -> int:
        """Writes what `encode` made to everyone: the innermost loop of a broadcast. Returns bytes, of all together."""
        ...


def size_bytes(frame: str) -> int:
    """Bytes of a frame in UTF-8."""
    return len(frame) if frame.isascii() else len(frame.encode())


class Block:
    """Frames of serials first, first + 1, …; it grows only at its end."""

    __slots__ = ("_keys", "bytes", "first", "frames", "sizes")

    def __init__(self, first: int, frames: Sequence[str]) -> None:
        self.first = first
        self.frames: list[str] = []
        self.sizes = array("I")
        self.bytes = 0
        self._keys: list[str | None] = []
        self.extend(frames)

    @property
    def next(self) -> int:
        """The serial behind the last one here."""
        return self.first + len(self.frames)

    def extend(self, frames: Sequence[str]) -> int:
        """Adds the frames that follow; returns by how many bytes the block grew."""
        sizes = array("I", [size_bytes(frame) for frame in frames])
        self.frames.extend(frames)
        self.sizes.extend(sizes)
        grown = sum(sizes) + FRAME_OVERHEAD_BYTES * len(sizes)
        self.bytes += grown
        return grown

    def keys(self, start: int, end: int) -> list[str | None]:
        """Keys of frames[start:end], looked for once."""
        for frame in self.frames[len(self._keys) : end]:
            self._keys.append(key_of(frame))
        return self._keys[start:end]

    def is_based(self, start: int, deltas: Deltas | None, *, holds: bool) -> bool:
        """Whether the frame at `start` may be a delta, for those who hold the message before."""
        return deltas is not None and holds and start > 0

    def encode(
        self, encoding: Encoding, start: int, end: int, deltas: Deltas | None = None, *, holds: bool = False
    ) -> object:
        """Frames[start:end] in this encoding.

        With `deltas`, data are strings. `holds`: they follow on the message before, so that the first may be a delta
        too, where that message is in this block.
        """
        frames = self.frames[start:end]
        if deltas is not None:
            base = self.frames[start - 1] if self.is_based(start, deltas, holds=holds) else None
            frames = deltas.frames(self.first + start, frames, base)
        return encoding.encode(frames)


LogKey = Hashable
"""What names one log in one epoch: blocks of an epoch that ended must never serve the next."""


_PayloadKey = tuple[LogKey, Encoding, int, int, bool | None]
"""A log, the first serial of a slice and the one behind it, and where data come as deltas, whether the first may be
one."""


class BlockCache:
    """Blocks by log and number, and encoded slices of them: at most `most_bytes` of frames, their overhead and slices,
    each slice counted as its frames are."""

    def __init__(self, most_bytes: int, block_messages: int) -> None:
        self.most_bytes = most_bytes
        self.block_messages = block_messages
        self.bytes = 0
        self._blocks: OrderedDict[tuple[LogKey, int], Block] = OrderedDict()
        self._payloads: OrderedDict[_PayloadKey, tuple[object, int]] = OrderedDict()
        """Each with its size, oldest use first."""
        self._payload_bytes = 0

    def number_of(self, serial: int) -> int:
        return (serial - 1) // self.block_messages

    def last_of(self, serial: int) -> int:
        """The last serial of the block that `serial` belongs to."""
        return (self.number_of(serial) + 1) * self.block_messages

    def find(self, log: LogKey, serial: int) -> Block | None:
        """The block that holds `serial`, or None."""
        key = (log, self.number_of(serial))
        block = self._blocks.get(key)
        if block is None or not block.first <= serial < block.next:
            return None
        self._blocks.move_to_end(key)
        return block

    def add(self, log: LogKey, first: int, frames: Sequence[str]) -> None:
        """Keeps frames of consecutive serials, heard or read; what a block has already stays as it is."""
        at = 0
        while at < len(frames):
            serial = first + at
            count = min(len(frames) - at, self.last_of(serial) - serial + 1)
            self._add(log, serial, frames[at : at + count] if count < len(frames) else frames)
            at += count
        self._fit()

    def payload(
        self,
        log: LogKey,
        block: Block,
        encoding: Encoding,
        start: int,
        end: int,
        deltas: Deltas | None = None,
        *,
        holds: bool = False,
    ) -> object:
        """What `Block.encode` makes of a block that was found here; the same object for all who ask for the same."""
        # By serials: a block may be joined with what was read before it, and the slice stays the same.
        based = None if deltas is None else block.is_based(start, deltas, holds=holds)
        key = (log, encoding, block.first + start, block.first + end, based)
        known = self._payloads.get(key)
        if known is not None:
            self._payloads.move_to_end(key)
            return known[0]
        payload, size = block.encode(encoding, start, end, deltas, holds=holds), sum(block.sizes[start:end])
        self._payloads[key] = payload, size
        self._payload_bytes += size
        self.bytes += size
        self._fit()
        return payload

    def _fit(self) -> None:
        """Lets go of what was used longest ago, until the rest fits."""
        while self._payload_bytes > self.most_bytes // PAYLOADS_SHARE:
            _, size = self._payloads.popitem(last=False)[1]
            self._payload_bytes -= size
            self.bytes -= size
        while self.bytes > self.most_bytes and self._blocks:
            self.bytes -= self._blocks.popitem(last=False)[1].bytes

    def _add(self, log: LogKey, first: int, frames: Sequence[str]) -> None:
        key = (log, self.number_of(first))
        block = self._blocks.get(key)
        if block is not None and block.first <= first <= block.next:
            fresh = frames[block.next - first :]
            if fresh:
                self.bytes += block.extend(fresh)
        else:
            earlier = block
            block = self._blocks[key] = Block(first, frames)
            if earlier is not None:
                self.bytes -= earlier.bytes
                if first < earlier.first <= block.next:
                    block.extend(earlier.frames[block.next - earlier.first :])
            self.bytes += block.bytes
        self._blocks.move_to_end(key)
