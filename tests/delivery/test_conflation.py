from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery import conflation
from realtime.delivery.recovery import Skip

KEYS = st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=30)


def test_without_keys_only_the_newest_goes_on() -> None:
    assert conflation.newest([None, None, None]) == [2]


def test_with_keys_the_newest_of_each_goes_on() -> None:
    assert conflation.newest(["a", "b", "a", "c", "b"]) == [2, 3, 4]


def test_the_newest_of_all_goes_on_also_without_a_key() -> None:
    assert conflation.newest(["a", "a", None, "b", None]) == [1, 3, 4]


def test_gaps_are_told_before_what_follows_them_and_at_the_end() -> None:
    assert list(conflation.gaps(4, [5, 8], 10)) == [
        (None, 5),
        (Skip(6, 7, "conflated"), 8),
        (Skip(9, 10, "conflated"), None),
    ]


@given(keys=KEYS, position=st.integers(0, 1000))
def test_every_serial_is_delivered_or_told_in_order_and_the_newest_of_each_key_is_delivered(
    keys: list[str | None], position: int
) -> None:
    last = position + len(keys)
    kept = [position + 1 + index for index in conflation.newest(keys)]
    at = position
    delivered: list[int] = []
    for skip, serial in conflation.gaps(position, kept, last):
        if skip is not None:
            assert skip.first == at + 1
            assert skip.last is not None and skip.last >= skip.first
            at = skip.last
        if serial is not None:
            assert serial == at + 1
            at = serial
            delivered.append(serial)
    assert at == last
    newest = {key: position + 1 + index for index, key in enumerate(keys) if key is not None}
    assert set(delivered) == {*newest.values(), last}
