from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery.bucket import TokenBucket

RATES = st.floats(0.01, 1e5)
BURSTS = st.integers(1, 1000)


def test_a_full_bucket_gives_its_burst_and_then_refuses() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=3)
    assert [bucket.take(1, 100.0) for _ in range(4)] == [0, 0, 0, 100]


def test_it_fills_at_its_rate_and_never_beyond_the_burst() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=3)
    assert bucket.take(3, 0.0) == 0
    assert bucket.take(1, 0.05) == 50
    assert bucket.take(1, 0.1) == 0
    assert bucket.take(3, 1000.0) == 0
    assert bucket.take(1, 1000.0) == 100


def test_a_refusal_costs_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=1)
    assert bucket.take(1, 0.0) == 0
    assert {bucket.take(1, 0.5) for _ in range(100)} == {500}
    assert bucket.take(1, 1.0) == 0


def test_more_than_the_burst_is_served_when_full_and_leaves_a_debt() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=10)
    assert bucket.take(30, 0.0) == 0
    assert bucket.take(1, 0.0) == 2100
    assert bucket.take(30, 2.9) == 100
    assert bucket.take(30, 3.0) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=1)
    assert bucket.take(1, 50.0) == 0
    assert bucket.take(1, 40.0) == 100
    assert bucket.take(1, 50.1) == 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1), (1, -1), (float("nan"), 1)])
def test_a_bucket_without_a_rate_or_a_burst_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst)


@given(RATES, BURSTS, st.floats(0, 1e6), st.lists(st.integers(1, 2000), max_size=20))
def test_asking_again_after_the_wait_is_served(rate: float, burst: int, now: float, takes: list[int]) -> None:
    bucket = TokenBucket(rate, burst)
    for n in takes:
        wait_ms = bucket.take(n, now)
        assert wait_ms >= 0
        if wait_ms:
            now += wait_ms / 1000
            assert bucket.take(n, now) == 0


@given(RATES, BURSTS, st.lists(st.tuples(st.floats(0, 2), st.integers(1, 50)), max_size=50))
def test_over_any_time_no_more_than_burst_and_rate_allow(
    rate: float, burst: int, asks: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(rate, burst)
    now, taken = 0.0, 0
    for pause, n in asks:
        now += pause
        if n <= burst and bucket.take(n, now) == 0:
            taken += n
    # Each take may round a millionth of the burst in the asker's favour.
    assert taken <= (burst + rate * now) * (1 + 1e-4)


def test_a_charge_is_a_debt_that_holds_back_even_nothing() -> None:
    bucket = TokenBucket(10, 20)
    assert bucket.take(0, 0.0) == 0
    bucket.charge(25, 0.0)
    assert bucket.take(0, 0.0) == 500
    assert bucket.take(0, 0.499) > 0
    assert bucket.take(0, 0.5) == 0
