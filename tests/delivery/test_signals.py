from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery.signals import Signal, SignalQueue
from realtime.protocol.names import ChannelName

LOBBY = ChannelName("chat:lobby")


def signal(client: str, number: int, event: str = "move", chars: int = 4) -> Signal:
    return Signal(LOBBY, client, event, f"{number:0{chars}}")


def frames(queue: SignalQueue) -> list[str]:
    return [signal.frame for signal, _ in queue.take_all()]


def test_while_there_is_room_all_are_kept_in_order() -> None:
    queue = SignalQueue(4, 100)
    for number in range(4):
        queue.put(signal("ana", number))
    assert frames(queue) == ["0000", "0001", "0002", "0003"]
    assert queue.dropped == 0


def test_when_it_is_full_the_newest_of_each_client_and_event_is_kept() -> None:
    queue = SignalQueue(4, 100)
    for number, (client, event) in enumerate(
        [("ana", "move"), ("ana", "move"), ("bo", "move"), ("ana", "typing"), ("bo", "move")]
    ):
        queue.put(signal(client, number, event))
    assert frames(queue) == ["0001", "0003", "0004"]
    assert queue.dropped == 2


def test_of_too_many_clients_the_oldest_go() -> None:
    queue = SignalQueue(2, 100)
    for number, client in enumerate(["ana", "bo", "cy"]):
        queue.put(signal(client, number))
    assert frames(queue) == ["0001", "0002"]


def test_one_that_is_too_large_fits_alone() -> None:
    queue = SignalQueue(4, 10)
    queue.put(signal("ana", 1))
    queue.put(signal("bo", 2, chars=20))
    assert frames(queue) == ["2".zfill(20)]
    queue.put(signal("ana", 3))
    assert len(queue) == 1


@given(
    most=st.integers(1, 5),
    most_chars=st.integers(1, 40),
    newest_only=st.booleans(),
    puts=st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from(["x", "y"]), st.integers(1, 12)), max_size=60),
)
def test_it_is_bounded_in_order_and_has_the_newest_of_all(
    most: int, most_chars: int, newest_only: bool, puts: list[tuple[str, str, int]]
) -> None:
    queue = SignalQueue(most, most_chars, newest_only=newest_only)
    given = [Signal(LOBBY, client, event, f"{n:0{chars}}") for n, (client, event, chars) in enumerate(puts)]
    for count, each in enumerate(given, 1):
        queue.put(each)
        assert len(queue) <= most
        assert len(queue) + queue.dropped == count
    kept = [signal for signal, _ in queue.take_all()]
    assert len(kept) == 1 or sum(len(signal.frame) for signal in kept) <= most_chars
    places = [given.index(signal) for signal in kept]
    assert places == sorted(places)
    assert not given or kept[-1] == given[-1]
    if newest_only:
        assert len({signal[:3] for signal in kept}) == len(kept)
    for signal in kept:
        # Never an older one where a newer one of the same client and event had to go.
        newer = [each for each in given[given.index(signal) + 1 :] if each[:3] == signal[:3]]
        assert all(each in kept for each in newer)
