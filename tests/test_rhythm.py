"""When regular work is due: never lost, never early, never long after its time."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from realtime.rhythm import EARLY, MOMENT, Wheel, until_beat


@given(st.floats(0, 1e7), st.sampled_from([0.01, 0.25, 1.0, 5.0, 30.0]), st.floats(0, 1))
def test_a_beat_is_neither_at_once_nor_far(now_s: float, every_s: float, phase_s: float) -> None:
    wait_s = until_beat(now_s, every_s, phase_s)
    assert MOMENT * every_s <= wait_s <= (1 + MOMENT) * every_s
    beats = (now_s + wait_s - phase_s) / every_s
    assert abs(beats - round(beats)) * every_s < 1e-6, "a multiple, as it is for everybody"


def test_what_is_rare_meets_what_is_often() -> None:
    often = {1000.3 + 0.25 * beat for beat in range(400)}
    for every_s in (0.5, 1.0, 5.0, 10.0):
        for now_s in (1000.31, 1007.7, 1020.0):
            due_s = now_s + until_beat(now_s, every_s, 0.3)
            assert min(abs(due_s - beat) for beat in often) < 1e-6


STEP_S = 0.25
STEPS = st.lists(
    st.tuples(st.just("put"), st.integers(0, 5), st.floats(-1, 4))
    | st.tuples(st.just("drop"), st.integers(0, 5), st.just(0.0))
    | st.tuples(st.just("take"), st.just(0), st.floats(0, 1)),
    max_size=40,
)


@given(STEPS)
def test_the_wheel_agrees_with_a_dict_of_times(steps: list[tuple[str, int, float]]) -> None:
    """A naive model: when each is due. Nobody is given out twice, early, or later than the first look a step after."""
    wheel: Wheel[int] = Wheel(STEP_S, 0.1)
    due: dict[int, float] = {}
    now_s = taken_s = 100.0
    for step, item, seconds in steps:
        if step == "put":
            due[item] = now_s + seconds
            wheel.put(item, due[item])
        elif step == "drop":
            due.pop(item, None)
            wheel.drop(item)
        else:
            now_s += seconds
            found = wheel.take(now_s)
            assert len(found) == len(set(found)) and all(due[each] <= now_s + EARLY * STEP_S for each in found)
            for each in found:
                del due[each]
            overdue = [at_s for at_s in due.values() if max(at_s, taken_s) + STEP_S < now_s]
            assert not overdue
            taken_s = now_s
        assert len(wheel) == len(due)
    last = wheel.take(now_s + 10)
    assert sorted(last) == sorted(due), "and nobody is forgotten"
    assert not wheel._steps, "nor kept"


def test_who_has_been_looked_at_is_not_looked_at_again_in_the_same_step() -> None:
    """One that wants to be looked at always must not keep the loop."""
    wheel: Wheel[str] = Wheel(1.0, 0.0)
    wheel.put("always", 7.0)
    assert wheel.take(7.5) == ["always"]
    wheel.put("always", 7.5)
    assert wheel.take(7.9) == []
    assert wheel.take(8.0) == ["always"]
    wheel.put("always", -math.pi)
    assert wheel.take(8.9) == [] and wheel.take(9.0) == ["always"]
