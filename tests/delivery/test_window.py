from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery.window import UNBOUNDED, Acked, Window


def send(window: Window, *sizes: int) -> None:
    window.sent_through(window.sent + len(sizes), array("I", sizes))


def test_a_window_counts_messages() -> None:
    window = Window(3, 1000, 10)
    assert (window.limit, window.in_flight, window.open) == (13, 0, True)
    send(window, 1, 1, 1)
    assert (window.in_flight, window.open) == (3, False)
    assert window.ack_through(12) is Acked.ADVANCED
    assert (window.limit, window.in_flight) == (15, 1)


def test_a_window_counts_bytes_and_lets_the_frame_that_crosses_it_through() -> None:
    window = Window(100, 1000, 0)
    send(window, 600)
    assert window.open and window.room_bytes == 400
    send(window, 5000)
    opens = [window.open]
    for serial in (1, 2):
        window.ack_through(serial)
        opens.append(window.open)
    assert opens == [False, False, True]
    assert window.room_bytes == 1000


def test_a_window_of_nought_never_closes() -> None:
    window = Window(0, 10, 5)
    send(window, *[1000] * 50)
    assert window.open and window.in_flight == 0
    assert (window.limit, window.room_bytes) == (UNBOUNDED, UNBOUNDED)
    assert window.ack_through(30) is Acked.ADVANCED
    assert not window._sizes


@pytest.mark.parametrize(
    ("serials", "said"),
    [
        ([12], ["advanced"]),
        ([12, 11, 12, 13], ["advanced", "ignored", "ignored", "advanced"]),
        ([99], ["ignored"]),
        ([99, 12, 99], ["ignored", "advanced", "beyond"]),
        ([99, 10, 99], ["ignored", "ignored", "beyond"]),
        ([9, 99], ["ignored", "ignored"]),
        ([13, 14], ["advanced", "beyond"]),
    ],
)
def test_acks(serials: list[int], said: list[str]) -> None:
    window = Window(5, 1000, 10)
    send(window, 1, 1, 1)
    assert [window.ack_through(serial).value for serial in serials] == said


def test_after_a_restart_acks_of_the_time_before_are_forgiven_again() -> None:
    window = Window(5, 1000, 10)
    send(window, 1)
    window.ack_through(11)
    assert window.ack_through(50) is Acked.BEYOND
    window.restart(3)
    assert (window.acked, window.sent, window.room_bytes) == (3, 3, 1000)
    assert window.ack_through(50) is Acked.IGNORED


def test_what_is_skipped_counts_as_acknowledged() -> None:
    window = Window(2, 1000, 10)
    send(window, 400, 400)
    window.skip_to(40)
    assert (window.acked, window.sent, window.in_flight, window.room_bytes, window.open) == (40, 40, 0, 1000, True)
    assert window.ack_through(12) is Acked.IGNORED


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(st.integers(0, 300), max_size=5)),
        st.tuples(st.just("ack"), st.integers(0, 60)),
        st.tuples(st.just("skip"), st.integers(1, 9)),
        st.tuples(st.just("restart"), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(size=st.sampled_from([0, 1, 3, 10]), most_bytes=st.sampled_from([1, 100, 1000]), steps=STEPS)
def test_it_agrees_with_a_list_of_what_is_in_flight(
    size: int, most_bytes: int, steps: list[tuple[str, int | list[int]]]
) -> None:
    window = Window(size, most_bytes, 10)
    flying: list[tuple[int, int]] = []
    """(serial, bytes) of every frame sent and not acknowledged."""
    acked = sent = 10
    settled = False
    for what, value in steps:
        if isinstance(value, list):
            window.sent_through(sent + len(value), array("I", value))
            flying += enumerate(value, sent + 1)
            sent += len(value)
        elif what == "ack":
            said = window.ack_through(value)
            if value > sent:
                assert said is (Acked.BEYOND if settled else Acked.IGNORED)
            elif value < acked:
                assert said is Acked.IGNORED
            else:
                settled = True
                assert said is (Acked.ADVANCED if value > acked else Acked.IGNORED)
                acked = value
        elif what == "skip":
            sent = acked = sent + value
            window.skip_to(sent)
        else:
            sent = acked = value
            settled = False
            window.restart(value)
        flying = [(serial, each) for serial, each in flying if acked < serial <= sent]
        if what == "restart":
            flying = []
        in_flight_bytes = sum(each for _, each in flying)
        assert (window.acked, window.sent) == (acked, sent)
        if size:
            assert window.in_flight == len(flying)
            assert window.room_bytes == most_bytes - in_flight_bytes
            assert window.limit == acked + size
            assert window.open == (len(flying) < size and in_flight_bytes < most_bytes)
        else:
            assert window.open and window.in_flight == 0


@given(
    size=st.integers(1, 6),
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 4)),
            st.tuples(st.just("leave out"), st.integers(1, 5)),
            st.tuples(st.just("ack"), st.integers(0, 12)),
        ),
        max_size=40,
    ),
)
def test_what_is_left_out_takes_no_room_and_opens_none(size: int, moves: list[tuple[str, int]]) -> None:
    """Against the plainest model there is: the list of serials in flight."""
    window = Window(size, 100, 0)
    flight: list[int] = []
    sent = acked = 0
    for move, number in moves:
        if move == "send":
            count = min(number, size - len(flight))
            flight += range(sent + 1, sent + count + 1)
            sent += count
            window.sent_through(sent, array("I", [7] * count))
        elif move == "leave out":
            sent += number
            window.pass_over(sent)
        else:
            serial = max(0, sent - number)
            if serial > acked:
                acked = serial
            flight = [each for each in flight if each > serial]
            assert window.ack_through(serial) is not Acked.BEYOND
        assert window.in_flight == len(flight)
        assert window.room_bytes == 100 - 7 * len(flight)
        assert window.limit == sent + size - len(flight)
        assert window.open == (len(flight) < size and 7 * len(flight) < 100)
        assert (window.sent, window.acked) == (sent, acked)
