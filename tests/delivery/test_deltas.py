"""Frames for those who asked for deltas: whole or a difference, made once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery import deltas
from realtime.delivery.blocks import Block, BlockCache
from realtime.delivery.deltas import Deltas
from realtime.links import TEXTS
from realtime.protocol.messages import NewMessage, envelope
from seriatim_client.fossil import apply_delta

STATE = "a state that hardly changes, with a text that is long enough to be worth a difference"


def made(serial: int, data: object) -> str:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return envelope("a:b", serial, 1763812345678, "ana", NewMessage(f"i{serial}", "message", None, text))


def states(first: int, count: int) -> list[str]:
    return [made(serial, {"n": serial, "state": STATE}) for serial in range(first, first + count)]


def read(frames: list[str], held: bytes | None = None) -> list[Any]:
    """What a client makes of them."""
    found = []
    for text in frames:
        frame = json.loads(text)
        data = frame["data"].encode()
        if "base" in frame:
            assert held is not None and frame["base"] == frame["serial"] - 1
            data = apply_delta(held, data)
        held = data
        found.append(json.loads(data))
    return found


def bases(frames: list[str]) -> list[int | None]:
    return [json.loads(frame).get("base") for frame in frames]


def test_the_first_is_whole_unless_its_base_is_held() -> None:
    maker, frames = Deltas(10_000), states(41, 4)
    assert bases(maker.frames(42, frames[1:], None)) == [None, 42, 43]
    assert bases(maker.frames(42, frames[1:], frames[0])) == [41, 42, 43]
    assert read(maker.frames(41, frames, None)) == [json.loads(frame)["data"] for frame in frames]


def test_a_whole_frame_differs_in_its_data_alone() -> None:
    frame = made(1, {"quote": '"\\', "data": ',"data":1', "é": None})
    given, whole = json.loads(frame), json.loads(Deltas(10_000).whole_frame(frame))
    assert json.loads(whole.pop("data")) == given.pop("data")
    assert whole == given


def test_a_delta_that_is_not_smaller_is_not_sent() -> None:
    maker = Deltas(10_000)
    frames = [made(1, {"a": 1}), made(2, {"b": 2}), made(3, STATE), made(4, list(range(40)))]
    assert bases(maker.frames(1, frames, None)) == [None] * 4
    assert (maker.made, maker.whole) == (0, 4)


def test_large_data_come_whole() -> None:
    frames = states(1, 3)
    assert bases(Deltas(len(STATE)).frames(1, frames, None)) == [None] * 3
    assert bases(Deltas(len(STATE) + 30).frames(1, frames, None)) == [None, 1, 2]


def test_each_frame_is_made_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    maker, frames = Deltas(10_000), states(1, 5)
    first = maker.frames(1, frames, None)
    assert (maker.made, maker.whole) == (4, 1)
    again = maker.frames(3, frames[2:], frames[1])
    assert all(one is other for one, other in zip(again, first[2:], strict=True))
    assert (maker.made, maker.whole) == (4, 1)
    monkeypatch.setattr(deltas, "MADE_BYTES_MOST", 1000)
    maker.frames(6, states(6, 20), frames[-1])
    assert maker._made_size <= 1000
    assert maker._made_size == sum(len(a) + len(b) + len(text) for (a, b), text in maker._made.items())
    assert read(maker.frames(1, frames, None)) == read(first)


def test_a_slice_of_a_block_rests_on_what_is_before_it_there() -> None:
    maker, block = Deltas(10_000), Block(9, states(9, 6))

    def sent(start: int, end: int, *, holds: bool) -> list[int | None]:
        return bases(list(block.encode(TEXTS, start, end, maker, holds=holds)))  # type: ignore[call-overload]

    assert sent(2, 4, holds=True) == [10, 11]
    assert sent(2, 4, holds=False) == [None, 11], "the same slice, for others"
    assert sent(0, 2, holds=True) == [None, 9], "the message before is in another block"
    plain = block.encode(TEXTS, 2, 4)
    assert plain == tuple(block.frames[2:4])


def test_slices_that_are_kept_are_told_apart_by_what_they_rest_on() -> None:
    maker, cache = Deltas(10_000), BlockCache(100_000, 64)
    cache.add("log", 9, states(9, 6))
    block = cache.find("log", 9)
    assert block is not None

    def sent(start: int, *, holds: bool, deltas: Deltas | None = maker) -> object:
        return cache.payload("log", block, TEXTS, start, 4, deltas, holds=holds)

    for _ in range(2):
        assert bases(list(sent(2, holds=True))) == [10, 11]  # type: ignore[call-overload]
        assert bases(list(sent(2, holds=False))) == [None, 11]  # type: ignore[call-overload]
        assert sent(2, holds=True, deltas=None) == tuple(block.frames[2:4])
    assert sent(2, holds=True) is sent(2, holds=True)


DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=8), children, max_size=5),
    max_leaves=12,
)


@given(st.lists(DATA, min_size=1, max_size=8), st.data())
def test_whatever_is_sent_is_read(sent: list[object], drawn: st.DataObject) -> None:
    """In any cuts: each slice begins with what was held or anew."""
    maker, frames = Deltas(200), [made(serial, data) for serial, data in enumerate(sent, 1)]
    at, held, got = 0, None, []
    while at < len(frames):
        end = drawn.draw(st.integers(at + 1, len(frames)))
        holds = at > 0 and drawn.draw(st.booleans())
        base = frames[at - 1] if holds else None
        got += read(maker.frames(at + 1, frames[at:end], base), held if holds else None)
        held = json.dumps(sent[end - 1], separators=(",", ":"), ensure_ascii=False).encode()
        at = end
    assert got == sent
