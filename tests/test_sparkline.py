"""Small line charts: a true scale, holes, and words for those who do not see them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.sparkline import HEIGHT, WIDTH, draw


def points(path: str) -> list[list[tuple[float, float]]]:
    """The lines of a path, each as its points."""
    runs = [run for run in path.replace("Z", "").split("M") if run]
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", run)] for run in runs]


def test_the_scale_begins_at_zero_and_ends_at_the_most() -> None:
    drawn = draw([0.0, 5.0, 10.0])
    assert points(drawn.line) == [[(0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0)]]
    assert points(drawn.area) == [[(0, HEIGHT), (0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0), (WIDTH, HEIGHT)]]
    assert drawn.text == "at most 10 messages a second, now 10"


def test_what_is_not_known_is_a_hole() -> None:
    drawn = draw([None, 4.0, 2.0, None, 1.0, None])
    assert [len(run) for run in points(drawn.line)] == [2, 2], "a value alone is a dot"
    assert drawn.line.count("M") == drawn.area.count("Z") == 2
    assert drawn.newest is None and "nothing is known of now" in drawn.text


@pytest.mark.parametrize("values", [[], [None, None]])
def test_where_nothing_is_known_there_is_no_line(values: list[float | None]) -> None:
    assert draw(values).line == "" and draw(values).text == "nothing is known yet"


def test_a_line_of_nothing_lies_on_the_ground() -> None:
    assert points(draw([0.0, 0.0]).line) == [[(0, HEIGHT), (WIDTH, HEIGHT)]]


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=80))
def test_every_known_value_is_within_the_drawing_and_at_its_height(values: list[float | None]) -> None:
    drawn = draw(values)
    runs = points(drawn.line)
    known = [value for value in values if value is not None]
    assert all(0 <= x <= WIDTH + 2 and 0 <= y <= HEIGHT for run in runs for x, y in run)
    assert sum(map(len, runs)) >= len(known)
    heights = [y for run in runs for _, y in run]
    if known and max(known) > 0:
        assert min(heights) == 0, "the most touches the upper edge"
