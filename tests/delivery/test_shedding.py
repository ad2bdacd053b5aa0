"""The ladder: never to and fro within the hold time, step by step, and back down when all is calm."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.delivery.shedding import CALM, CALM_MEMORY, MEASURES, Ladder, Measurements, Step, Thresholds

RISE_S, HOLD_S = 1.0, 5.0
THRESHOLDS = Thresholds(
    lag_s=0.25, memory_bytes=1_000_000, writer_messages=1000, writer_bytes=5000, ready=100, announcements=10
)
HIGH, BETWEEN, CALMED = Measurements(lag_s=0.3), Measurements(lag_s=0.2), Measurements(lag_s=0.01)


def ladder() -> Ladder:
    return Ladder(THRESHOLDS, RISE_S, HOLD_S)


def climb(to: Step) -> tuple[Ladder, float]:
    made, now = ladder(), 0.0
    while made.step < to:
        made.update(HIGH, now)
        now += 0.25
    return made, now


def test_one_stall_moves_nothing() -> None:
    made = ladder()
    assert made.update(Measurements(lag_s=30), 0.0) is Step.NORMAL
    assert made.update(CALMED, 0.25) is Step.NORMAL
    assert made.update(Measurements(lag_s=30), 30.0) is Step.NORMAL


def test_it_climbs_step_by_step_while_pressure_lasts() -> None:
    made = ladder()
    steps = [made.update(HIGH, index / 4) for index in range(24)]
    assert [steps.index(step) / 4 for step in Step] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert steps[-1] is Step.CONFLATE
    assert made.rises == {step: 1 for step in Step if step}
    assert (made.pressure, made.cause) == (0.3 / 0.25, "lag_s")


def test_between_high_and_calm_it_stays() -> None:
    made, now = climb(Step.SHED_IDLE)
    for index in range(1000):
        assert made.update(BETWEEN, now + index) is Step.SHED_IDLE


def test_it_comes_down_step_by_step_when_all_is_calm() -> None:
    made, now = climb(Step.CONFLATE)
    began, seen = now, []
    while made.step and now < began + 100:
        now += 0.25
        if (step := made.update(CALMED, now)) not in seen:
            seen.append(step)
    assert seen == [Step.CONFLATE, Step.DROP_SIGNALS, Step.SHED_IDLE, Step.REFUSE_NEW, Step.NORMAL]
    assert now - began == pytest.approx(4 * HOLD_S, abs=0.5)


def test_calm_that_is_broken_begins_anew() -> None:
    made, now = climb(Step.REFUSE_NEW)
    for _ in range(20):
        for _ in range(10):
            now += 0.25
            assert made.update(CALMED, now) is Step.REFUSE_NEW
        now += 0.25
        assert made.update(BETWEEN, now) is Step.REFUSE_NEW


@pytest.mark.parametrize("name", MEASURES)
def test_every_measurement_counts(name: str) -> None:
    limit = getattr(THRESHOLDS, name)
    share = CALM_MEMORY if name == "memory_bytes" else CALM
    high = Measurements(**{name: limit})
    made = ladder()
    assert [made.update(high, now) for now in (0.0, 0.5, 1.0)][-1] is Step.REFUSE_NEW
    assert made.cause == name
    for now in range(2, 30):
        assert made.update(Measurements(**{name: type(limit)(limit * share) + type(limit)(1)}), now) >= Step.REFUSE_NEW
    for index in range(100):
        made.update(Measurements(**{name: type(limit)(limit * share * 0.99)}), 30.0 + index)
    assert made.step is Step.NORMAL


def test_a_threshold_of_zero_is_off() -> None:
    made = Ladder(Thresholds(), RISE_S, HOLD_S)
    for now in range(100):
        assert made.update(Measurements(10.0, 10**12, 10**9, 10**12, 10**9, 10**9), now) is Step.NORMAL


# Phases of pressure, calm and neither, each some seconds of measurements: single random ones never climb.
phases = st.tuples(st.sampled_from([0.01, 0.17, 0.175, 0.2, 0.25, 0.4]), st.floats(0.05, 0.9), st.integers(1, 30))
times_and_lags = st.lists(phases, max_size=12).map(
    lambda found: [(wait_s, lag_s) for lag_s, wait_s, count in found for _ in range(count)]
)


def test_a_step_down_is_not_taken_back_at_once() -> None:
    made, now = climb(Step.SHED_IDLE)
    while made.step is Step.SHED_IDLE:
        now += 0.25
        made.update(CALMED, now)
    fell_at = now
    while made.step is Step.REFUSE_NEW:
        now += 0.25
        made.update(HIGH, now)
    assert now - fell_at >= HOLD_S


@given(times_and_lags)
@settings(max_examples=300, deadline=None)
def test_no_change_is_taken_back_within_the_hold_time_and_no_step_is_skipped(walk: list[tuple[float, float]]) -> None:
    made, now = ladder(), 0.0
    changes: list[tuple[float, int]] = []
    for wait_s, lag_s in walk:
        now += wait_s
        before = made.step
        after = made.update(Measurements(lag_s=lag_s), now)
        assert abs(after - before) <= 1
        if after > before:
            assert lag_s >= THRESHOLDS.lag_s
        if after < before:
            assert lag_s < THRESHOLDS.lag_s * CALM
        if after != before:
            changes.append((now, after - before))
    for (first_at, first), (second_at, second) in itertools.pairwise(changes):
        apart_s = RISE_S if first == second == 1 else HOLD_S
        assert second_at - first_at >= apart_s - 1e-9
    # Whatever came before, calm brings it back to normal.
    for index in range(int(4 * HOLD_S * 4) + 40):
        made.update(CALMED, now + HOLD_S + index / 4)
    assert made.step is Step.NORMAL


@given(times_and_lags)
@settings(max_examples=100, deadline=None)
def test_pressure_that_lasts_leads_to_the_top_from_anywhere(walk: list[tuple[float, float]]) -> None:
    made, now = ladder(), 0.0
    for wait_s, lag_s in walk:
        now += wait_s
        made.update(Measurements(lag_s=lag_s), now)
    for index in range(int((HOLD_S + 4 * RISE_S) * 4) + 8):
        made.update(HIGH, now + index / 4)
    assert made.step is Step.CONFLATE
