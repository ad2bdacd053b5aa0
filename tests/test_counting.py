"""What a worker counts: histograms, totals of several threads, the loop's lateness, warnings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from realtime import counting
from realtime.counting import LAG_EVERY_S, PACE_KEPT, Histogram, LoopLag, Pace, SharedCounts


@pytest.mark.parametrize(("value", "bucket"), [(-1.0, 0), (0.0, 0), (1.0, 0), (1.001, 1), (2.0, 1), (5.0, 2), (5.1, 3)])
def test_a_value_is_counted_below_its_upper_bound(value: float, bucket: int) -> None:
    histogram = Histogram([1, 2, 5])
    histogram.observe(value)
    assert histogram.counts == [int(index == bucket) for index in range(4)]
    assert histogram.total == value


def test_no_addition_of_several_threads_is_lost() -> None:
    counts = SharedCounts()

    def work() -> None:
        for index in range(2000):
            counts.add(index % 7)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts.copy().values()) == 16_000


class FakeLoop:
    """A loop that comes to what is due when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], object]]] = []

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        entry = (self.now + delay, callback)
        self.due.append(entry)

        class Handle:
            def cancel(handle) -> None:
                self.due.remove(entry)

        return Handle()

    def turn(self, late_s: float) -> None:
        due, callback = self.due.pop(0)
        self.now = due + late_s
        callback()


def lag_of(loop: FakeLoop) -> LoopLag:
    lag = LoopLag(cast("Any", loop), clock=lambda: loop.now)
    lag.start()
    return lag


def test_the_lag_of_a_loop_is_how_late_it_comes() -> None:
    loop = FakeLoop()
    lag = lag_of(loop)
    for late_s in (0.0, 0.3, 0.02):
        loop.turn(late_s)
        assert lag.last_s == pytest.approx(late_s)
    assert sum(lag.histogram.counts) == 3
    assert lag.histogram.total == pytest.approx(0.32)


def test_a_loop_that_hangs_is_later_with_every_look() -> None:
    loop = FakeLoop()
    lag = lag_of(loop)
    loop.turn(0.0)
    assert lag.now_s == 0.0
    loop.now += LAG_EVERY_S + 7
    assert lag.now_s == pytest.approx(7)
    loop.now += 1
    assert lag.now_s == pytest.approx(8)


def test_a_loop_that_is_not_watched_any_more_is_not_late() -> None:
    loop = FakeLoop()
    lag = lag_of(loop)
    lag.stop()
    loop.now += 1000
    assert lag.now_s == 0.0
    assert not loop.due


def test_warnings_and_errors_are_counted_by_logger_once() -> None:
    counting.count_logs()
    counting.count_logs()
    before = counting.log_counts.totals.copy()
    logger = logging.getLogger("realtime.tests_of_counting")
    logger.info("not counted")
    logger.warning("once")
    logger.error("and once")
    after = counting.log_counts.totals.copy()
    assert {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key, 0)} == {
        ("warning", "realtime.tests_of_counting"): 1,
        ("error", "realtime.tests_of_counting"): 1,
    }


def test_rates_are_those_between_the_looks_and_unknown_outside_of_them() -> None:
    pace = Pace()
    assert pace.rates(100, 5, 2) == [None, None] and pace.cpu_share() is None
    # Looks come late and at no round time; what happened between two is spread evenly.
    for at_s, delivered, cpu_s in ((102.0, 0, 1.0), (107.0, 50, 2.0), (117.0, 50, 2.5)):
        pace.note(at_s, delivered, cpu_s)
    assert pace.rates(115, 5, 4) == [None, None, pytest.approx(4.0), pytest.approx(0.0)]
    assert pace.rates(117, 5, 2) == [pytest.approx(0.0), pytest.approx(0.0)]
    assert pace.rates(107, 5, 1) == [10.0], "from look to look nothing is guessed"
    assert pace.rates(120, 5, 1) == [None], "nobody has looked since"
    assert pace.cpu_share() == pytest.approx(0.1)


def test_an_hour_is_kept_and_a_clock_that_is_set_back_begins_anew() -> None:
    pace = Pace()
    for number in range(PACE_KEPT + 100):
        pace.note(number * 5.0, number * 10, 0.0)
    newest_s = (PACE_KEPT + 99) * 5.0
    assert pace.rates(newest_s, 5, PACE_KEPT - 1) == [2.0] * (PACE_KEPT - 1)
    assert pace.rates(newest_s, 5, PACE_KEPT)[0] is None
    pace.note(50.0, 7, 0.0)
    pace.note(55.0, 12, 0.0)
    assert pace.rates(55, 5, 2) == [None, 1.0]
