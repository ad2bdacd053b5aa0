from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery import recovery
from realtime.delivery.recovery import Bounds, Plan, Skip

EPOCH = Skip(None, None, "epoch")
LOG = Bounds("e1", 11, 20)
EMPTIED = Bounds("e1", 21, 20)
NEVER = Bounds(None, 1, 0)


@pytest.mark.parametrize(
    ("epoch", "serial", "bounds", "plan"),
    [
        ("e1", 15, LOG, Plan(15)),
        ("e1", 20, LOG, Plan(20)),
        ("e1", 10, LOG, Plan(10)),
        ("e1", 9, LOG, Plan(10, Skip(10, 10, "retention"))),
        ("e1", 0, LOG, Plan(10, Skip(1, 10, "retention"))),
        ("e1", 20, EMPTIED, Plan(20)),
        ("e1", 19, EMPTIED, Plan(20, Skip(20, 20, "retention"))),
        # another log, or one that went back
        ("e1", 21, LOG, Plan(10, EPOCH)),
        ("e0", 15, LOG, Plan(10, EPOCH)),
        ("e0", 0, LOG, Plan(10, EPOCH)),
        ("e1", 15, NEVER, Plan(0, EPOCH)),
        # who waited for the first message
        (None, 0, NEVER, Plan(0)),
        (None, 0, LOG, Plan(10)),
        (None, 0, EMPTIED, Plan(20)),
    ],
)
def test_resume(epoch: str | None, serial: int, bounds: Bounds, plan: Plan) -> None:
    assert recovery.resume(epoch, serial, bounds) == plan
    assert plan.resumed == (plan.skip is None)


@pytest.mark.parametrize(
    ("bounds", "start", "head", "rewind_3", "rewind_all"),
    [(LOG, 10, 20, 17, 10), (EMPTIED, 20, 20, 20, 20), (NEVER, 0, 0, 0, 0), (Bounds("e1", 19, 20), 18, 20, 18, 18)],
)
def test_positions_without_a_serial(bounds: Bounds, start: int, head: int, rewind_3: int, rewind_all: int) -> None:
    assert recovery.start(bounds) == Plan(start)
    assert recovery.head(bounds) == Plan(head)
    assert recovery.rewind(3, bounds) == Plan(rewind_3)
    assert recovery.rewind(10**9, bounds) == Plan(rewind_all)
    assert recovery.rewind(0, bounds) == Plan(head)


LOGS = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: Bounds("e1", min(p) + 1, max(p)))


@given(bounds=LOGS, serial=st.integers(0, 40))
def test_every_serial_after_the_position_is_delivered_or_told(bounds: Bounds, serial: int) -> None:
    plan = recovery.resume("e1", serial, bounds)
    if serial > bounds.head:
        assert plan.skip == EPOCH and plan.serial == bounds.oldest - 1
        return
    delivered = set(range(plan.serial + 1, bounds.head + 1))
    told: set[int] = set()
    if plan.skip is not None:
        assert plan.skip.first is not None and plan.skip.last is not None
        told = set(range(plan.skip.first, plan.skip.last + 1))
        assert told and plan.serial == plan.skip.last
    assert delivered | told == set(range(serial + 1, bounds.head + 1)) and not delivered & told
    assert all(each >= bounds.oldest for each in delivered)
    assert all(each < bounds.oldest for each in told)


@given(bounds=LOGS, count=st.integers(0, 40))
def test_rewind_is_the_last_of_what_is_there(bounds: Bounds, count: int) -> None:
    retained = list(range(bounds.oldest, bounds.head + 1))
    plan = recovery.rewind(count, bounds)
    assert list(range(plan.serial + 1, bounds.head + 1)) == (retained[-count:] if count else [])
    assert plan.resumed


@given(bounds=LOGS, position=st.integers(0, 40))
def test_a_skip_ends_where_the_log_begins(bounds: Bounds, position: int) -> None:
    skip = recovery.skip_of(position, bounds)
    missing = list(range(position + 1, bounds.oldest))
    assert skip == (Skip(missing[0], missing[-1], "retention") if missing else None)
