from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery.blocks import FRAME_OVERHEAD_BYTES, PAYLOADS_SHARE, Block, BlockCache, size_bytes


class Joined:
    name = "joined"

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, frames: Sequence[str]) -> str:
        self.calls += 1
        return "|".join(frames)

    def join(self, payloads: Sequence[str]) -> str:
        return "|".join(payloads)

    def ways(self, writers: Sequence[Callable[[str], None]]) -> object:
        raise NotImplementedError

    def write_all(self, ways: object, payload: str) -> int:
        raise NotImplementedError  # nothing is written here


def frames(log: str, first: int, count: int) -> list[str]:
    return [f"{log}{serial}" for serial in range(first, first + count)]


def found(cache: BlockCache, log: str, serial: int) -> str | None:
    block = cache.find(log, serial)
    return None if block is None else block.frames[serial - block.first]


def test_sizes_are_bytes_of_utf8() -> None:
    assert [size_bytes(text) for text in ("abc", "ä", "😀", "")] == [3, 2, 4, 0]
    assert list(Block(5, ["ä", "b"]).sizes) == [2, 1]


def sliced(cache: BlockCache, log: str, encoding: Joined, first: int, last: int) -> object:
    """What subscribers are written who are behind: frames of these serials, all in one block."""
    block = cache.find(log, first)
    assert block is not None and last < block.next
    return cache.payload(log, block, encoding, first - block.first, last + 1 - block.first)


def test_a_slice_is_encoded_once_for_all_who_ask() -> None:
    cache, encoding, other = BlockCache(100_000, 8), Joined(), Joined()
    cache.add("log", 3, frames("a", 3, 5))
    first = sliced(cache, "log", encoding, 5, 6)
    assert first == "a5|a6" and sliced(cache, "log", encoding, 5, 6) is first
    assert encoding.calls == 1
    sliced(cache, "log", other, 5, 6)
    assert other.calls == 1
    cache.add("log", 8, ["a8"])
    assert sliced(cache, "log", encoding, 7, 8) == "a7|a8"
    cache.add("log", 1, frames("a", 1, 2))
    assert sliced(cache, "log", encoding, 5, 6) is first, "the block begins elsewhere now, the slice is the same"


def test_slices_count_and_those_used_longest_ago_go_first() -> None:
    """However many readers are at different places, each of which is a slice of its own."""
    cache, encoding = BlockCache(8000, 10), Joined()
    cache.add("log", 1, ["x" * 100] * 10)
    blocks_bytes, share = cache.bytes, 8000 // PAYLOADS_SHARE
    places = [(first, last) for first in range(1, 11) for last in range(first, 11)]
    for first, last in places:
        sliced(cache, "log", encoding, first, last)
        assert cache.bytes <= blocks_bytes + share
    assert cache.bytes > blocks_bytes
    calls = encoding.calls
    sliced(cache, "log", encoding, *places[-1])
    assert encoding.calls == calls, "the last is kept"
    sliced(cache, "log", encoding, *places[0])
    assert encoding.calls == calls + 1, "the first is not"
    cache.add("log", 11, ["x" * 100] * 40)
    assert cache.bytes <= cache.most_bytes, "blocks make room for slices"


def test_serials_belong_to_blocks_from_one_on() -> None:
    cache = BlockCache(10_000, 4)
    assert [cache.number_of(serial) for serial in (1, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]
    assert [cache.last_of(serial) for serial in (1, 4, 5)] == [4, 4, 8]


def test_frames_are_cut_at_the_borders_of_blocks() -> None:
    cache = BlockCache(10_000, 4)
    cache.add("log", 3, frames("a", 3, 7))
    blocks = [cache.find("log", serial) for serial in (3, 5, 9)]
    assert [block and (block.first, block.next) for block in blocks] == [(3, 5), (5, 9), (9, 10)]
    assert cache.find("log", 2) is None and cache.find("log", 10) is None


def test_a_block_grows_at_its_end_and_keeps_what_it_has() -> None:
    cache = BlockCache(10_000, 8)
    cache.add("log", 2, ["two", "three"])
    cache.add("log", 3, ["another three", "four"])
    cache.add("log", 2, ["another two"])
    assert [found(cache, "log", serial) for serial in range(1, 6)] == [None, "two", "three", "four", None]


def test_what_was_read_before_a_block_is_joined_with_it() -> None:
    cache = BlockCache(10_000, 8)
    cache.add("log", 5, frames("a", 5, 2))
    cache.add("log", 2, frames("a", 2, 4))
    assert [found(cache, "log", serial) for serial in range(1, 8)] == [None, "a2", "a3", "a4", "a5", "a6", None]


def test_a_piece_that_does_not_touch_takes_the_blocks_place() -> None:
    cache = BlockCache(10_000, 8)
    cache.add("log", 1, frames("a", 1, 2))
    cache.add("log", 5, frames("a", 5, 2))
    assert [found(cache, "log", serial) for serial in (1, 5)] == [None, "a5"]
    assert cache.bytes == 4 + 2 * FRAME_OVERHEAD_BYTES


def test_another_epoch_is_another_log() -> None:
    cache = BlockCache(10_000, 8)
    cache.add((7, "e1"), 1, ["old"])
    assert cache.find((7, "e2"), 1) is None


def test_the_block_that_was_used_longest_ago_goes_first() -> None:
    cache = BlockCache(3 * (FRAME_OVERHEAD_BYTES + 1), 1)
    cache.add("log", 1, ["a", "b", "c"])
    assert found(cache, "log", 1) == "a"
    cache.add("log", 4, ["d"])
    assert [found(cache, "log", serial) for serial in range(1, 5)] == ["a", None, "c", "d"]


def test_a_frame_larger_than_the_cache_is_not_kept() -> None:
    cache = BlockCache(200, 4)
    cache.add("log", 1, ["x" * 1000])
    assert cache.find("log", 1) is None and cache.bytes == 0


ADDS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 30), st.integers(0, 12), st.booleans()), max_size=40
)


@given(adds=ADDS, most_bytes=st.sampled_from([300, 1500, 100_000]), block_messages=st.sampled_from([1, 4, 8]))
def test_it_agrees_with_a_dict(adds: list[tuple[str, int, int, bool]], most_bytes: int, block_messages: int) -> None:
    """A naive model: a dict with everything that was ever added. The cache may forget, but never lie or overflow."""
    cache, encoding = BlockCache(most_bytes, block_messages), Joined()
    everything: dict[tuple[str, int], str] = {}
    for log, first, count, look in adds:
        added = frames(log, first, count)
        cache.add(log, first, added)
        everything.update({(log, serial): frame for serial, frame in enumerate(added, first)})
        block = cache.find(log, first)
        if block is not None and count:
            last = min(first + count, block.next) - 1
            assert sliced(cache, log, encoding, first, last) == "|".join(added[: last + 1 - first])
        assert cache.bytes <= most_bytes
        sizes = [block.bytes for block in cache._blocks.values()] + [size for _, size in cache._payloads.values()]
        assert cache.bytes == sum(sizes)
        for (name, number), block in cache._blocks.items():
            assert number * block_messages < block.first < block.next <= (number + 1) * block_messages + 1
            assert block.frames == [everything[str(name), serial] for serial in range(block.first, block.next)]
            assert block.bytes == sum(block.sizes) + FRAME_OVERHEAD_BYTES * len(block.frames)
        if most_bytes == 100_000:
            assert [found(cache, log, serial) for serial in range(first, first + count)] == added
        if look:
            for serial in range(1, 45):
                assert found(cache, log, serial) in (None, everything.get((log, serial)))
