from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery.ordering import HELD_BYTES_MOST, HELD_FRAMES_MOST, Ordering


def frame(serial: int) -> str:
    return f"frame {serial}"


def frames(first: int, count: int = 1) -> list[str]:
    return [frame(serial) for serial in range(first, first + count)]


@dataclass
class Case:
    """Announcements (first, count) after position 10, and what each gives out."""

    says: str
    offers: list[tuple[int, int]]
    given: list[Sequence[int]]
    position: int
    hole: bool = False


CASES = [
    Case("the next goes out", [(11, 2)], [range(11, 13)], 12),
    Case("an older one is dropped", [(9, 2)], [()], 10),
    Case("the same one is dropped", [(11, 1), (11, 1)], [[11], ()], 11),
    Case("of one that overlaps only the rest goes out", [(9, 4)], [range(11, 13)], 12),
    Case("one behind a hole is held", [(12, 2)], [()], 10, hole=True),
    Case("the missing one brings what was held", [(12, 2), (11, 1)], [(), range(11, 14)], 13),
    Case("holes may be several", [(14, 1), (12, 1), (11, 1), (13, 1)], [(), (), [11, 12], [13, 14]], 14),
    Case("what is held twice comes once", [(12, 2), (12, 3), (11, 1)], [(), (), range(11, 15)], 14),
    Case("what overlaps the held comes once", [(13, 1), (11, 4), (15, 1)], [(), range(11, 15), [15]], 15),
    Case("an empty announcement is nothing", [(11, 0)], [()], 10),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_order(case: Case) -> None:
    order = Ordering(10)
    for (first, count), given_out in zip(case.offers, case.given, strict=True):
        assert list(order.offer(first, frames(first, count))) == [frame(serial) for serial in given_out]
    assert (order.position, order.hole) == (case.position, case.hole)


def test_frames_that_are_next_are_passed_on_uncopied() -> None:
    order = Ordering(0)
    heard = frames(1, 3)
    assert order.offer(1, heard) is heard


def test_a_head_that_was_only_heard_of_is_a_hole() -> None:
    order = Ordering(10)
    seen = []
    for head in (10, 13, 12):
        order.hear_of(head)
        seen.append((order.hole, order.top))
    assert seen == [(False, 10), (True, 13), (True, 13)]
    assert list(order.offer(11, frames(11, 3))) == frames(11, 3)
    assert not order.hole


def test_giving_up_on_a_hole_moves_to_the_top_and_forgets_the_held() -> None:
    order = Ordering(10)
    order.offer(13, frames(13))
    order.hear_of(20)
    assert order.jump() == 20 == order.position
    assert not order.hole and not order._held and not order._held_bytes
    assert list(order.offer(11, frames(11, 11))) == frames(21)


def test_what_is_held_is_bounded_by_number() -> None:
    order = Ordering(0)
    order.offer(2, frames(2, 2 * HELD_FRAMES_MOST))
    assert len(order._held) == HELD_FRAMES_MOST
    assert order.top == 2 * HELD_FRAMES_MOST + 1
    assert len(order.offer(1, frames(1))) == HELD_FRAMES_MOST + 1
    assert order.hole and not order._held and not order._held_bytes


def test_what_is_held_is_bounded_by_bytes() -> None:
    order = Ordering(0)
    large = "x" * (HELD_BYTES_MOST // 4)
    order.offer(2, [large] * 10)
    assert len(order._held) == 4 and order._held_bytes <= HELD_BYTES_MOST
    assert list(order.offer(1, ["first"])) == ["first", *[large] * 4]
    assert order.top == 11 and order.hole and not order._held_bytes


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "offer", "offer", "hear of", "jump"]), st.integers(1, 40), st.integers(0, 6)
    ),
    max_size=40,
)


@given(start=st.integers(0, 15), steps=STEPS)
def test_it_agrees_with_a_set(start: int, steps: list[Step]) -> None:
    """A naive model: the set of all serials heard, a position, and the highest serial."""
    order = Ordering(start)
    position = top = start
    heard: set[int] = set()
    given_out: list[str] = []
    expected: list[str] = []
    for what, first, count in steps:
        match what:
            case "offer":
                given_out += order.offer(first, frames(first, count))
                heard |= set(range(first, first + count))
                top = max(top, first + count - 1)
            case "hear of":
                order.hear_of(first)
                top = max(top, first)
            case _:
                order.jump()
                position = top
                heard.clear()
        while position + 1 in heard:
            position += 1
            expected.append(frame(position))
        assert given_out == expected
        assert (order.position, order.top, order.hole) == (position, top, top > position)
        assert order._held_bytes == sum(len(held) for held in order._held.values())
        assert all(serial > position for serial in order._held)
