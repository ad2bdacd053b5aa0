from __future__ import annotations

import heapq
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from realtime.delivery.admission import REFUSING_S, Admission, Appointments, Limits, Place, Refusal

NOW = 1000.0


def admit(admission: Admission, address: str = "a", now: float = NOW, chance: float = 0.0) -> Place:
    place = admission.admit(address, now, chance)
    assert isinstance(place, Place)
    return place


def refuse(admission: Admission, address: str = "a", now: float = NOW, chance: float = 0.0) -> Refusal:
    refusal = admission.admit(address, now, chance)
    assert isinstance(refusal, Refusal)
    return refusal


def test_without_limits_everybody_is_let_in() -> None:
    admission = Admission(Limits())
    places = [admit(admission) for _ in range(1000)]
    assert (admission.connections, admission.unauthenticated, admission.addresses["a"]) == (1000, 1000, 1000)
    for place in places:
        place.leave()
    assert not admission.connections
    assert not admission.unauthenticated
    assert not admission.addresses


def test_a_full_worker_refuses_until_somebody_leaves() -> None:
    admission = Admission(Limits(connections=2))
    first, _ = admit(admission), admit(admission, "b")
    assert refuse(admission, "c").reason == "worker"
    assert admission.refusing(NOW)
    first.leave()
    first.leave()
    admit(admission, "c")
    assert refuse(admission, "c").reason == "worker"
    assert admission.refused == {"worker": 2}
    assert admission.admitted == 3


def test_an_address_over_its_limit_does_not_hold_up_others() -> None:
    admission = Admission(Limits(per_address=1, connections=10))
    place = admit(admission, "a")
    waits = [refuse(admission, "a").retry_s for _ in range(500)]
    assert refuse(admission, "a").reason == "address"
    assert waits == sorted(waits)
    assert not admission.refusing(NOW)
    admit(admission, "b")
    place.leave()
    admit(admission, "a")


def test_unauthenticated_connections_have_a_limit_of_their_own() -> None:
    admission = Admission(Limits(unauthenticated=1))
    place = admit(admission)
    assert refuse(admission).reason == "unauthenticated"
    assert place.identify("ana", NOW, 0) is None
    admit(admission)
    assert (admission.connections, admission.unauthenticated) == (2, 1)


def test_a_client_over_its_limit_is_refused_when_it_is_known_and_still_counts_as_unknown() -> None:
    admission = Admission(Limits(per_client=1))
    first, second = admit(admission), admit(admission, "b")
    assert first.identify("ana", NOW, 0) is None
    refusal = second.identify("ana", NOW, 0)
    assert refusal is not None
    assert refusal.reason == "client"
    assert (admission.clients, admission.unauthenticated) == ({"ana": 1}, 1)
    first.leave()
    assert second.identify("ana", NOW, 0) is None
    second.leave()
    assert not admission.clients
    assert not admission.unauthenticated


def test_a_place_that_was_left_is_not_identified_any_more() -> None:
    admission = Admission(Limits())
    place = admit(admission)
    place.leave()
    assert place.identify("ana", NOW, 0) is None
    assert not admission.clients
    assert not admission.unauthenticated


def test_new_connections_have_a_rate_and_a_burst() -> None:
    admission = Admission(Limits(rate_per_s=10, burst=5))
    for _ in range(5):
        admit(admission)
    assert refuse(admission).reason == "rate"
    admit(admission, now=NOW + 0.1)
    assert refuse(admission, now=NOW + 0.1).reason == "rate"


def test_a_worker_that_is_overloaded_or_leaves_lets_nobody_in() -> None:
    admission = Admission(Limits())
    admission.overloaded = True
    assert refuse(admission).reason == "overload"
    admission.overloaded = False
    admission.draining = True
    refusal = refuse(admission, chance=0.5)
    assert (refusal.reason, refusal.retry_s) == ("draining", 1.5)
    assert admission.refusing(NOW)


def test_who_polls_an_overloaded_worker_has_a_turn_at_the_pace_of_the_appointments() -> None:
    admission = Admission(Limits(rate_per_s=10, burst=10, connections=50))
    admission.overloaded = True

    def polled(now: float) -> int:
        found = [admission.admit("a", now, 0.0, returning=True) for _ in range(40)]
        refused = {each.reason for each in found if isinstance(each, Refusal)}
        assert refused == {"overload"}
        places = [each for each in found if isinstance(each, Place)]
        for place in places:
            place.leave()
        return len(places)

    assert [polled(NOW), polled(NOW + 0.5), polled(NOW + 10)] == [10, 5, 10]
    assert refuse(admission).reason == "overload"
    admission.draining = True
    draining = admission.admit("a", NOW + 20, 0.0, returning=True)
    assert isinstance(draining, Refusal) and draining.reason == "draining"


def test_it_says_for_a_moment_that_it_refuses_and_then_no_more() -> None:
    admission = Admission(Limits(rate_per_s=1, burst=1))
    assert not admission.refusing(NOW)
    admit(admission)
    refuse(admission)
    assert admission.refusing(NOW + REFUSING_S - 0.1)
    assert not admission.refusing(NOW + REFUSING_S)


def test_waits_grow_with_the_number_of_the_refused_and_have_an_end() -> None:
    admission = Admission(Limits(rate_per_s=100, burst=1, retry_most_s=30))
    admit(admission)
    waits = [refuse(admission).retry_s for _ in range(10_000)]
    assert waits[0] == 1.0
    assert abs(waits[1000] - 11.0) < 0.1
    assert max(waits) <= 30.0


def test_appointments_that_have_passed_are_forgotten() -> None:
    book = Appointments(10, 60)
    for _ in range(100):
        book.give(NOW, 0)
    assert book.waiting(NOW + 10)
    assert not book.waiting(NOW + 12)
    assert book.give(NOW + 100, 0) == 1.0


@given(st.integers(200, 3000), st.integers(20, 400), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_crowd_that_is_refused_does_not_come_back_as_a_crowd(crowd: int, rate: int, seed: int) -> None:
    """A full worker, and everybody comes back when told to: no second sees many more than the rate."""
    dice = random.Random(seed)
    admission = Admission(Limits(connections=1, rate_per_s=rate, burst=1, retry_most_s=1e6))
    admit(admission)
    # Those who come next, as a heap of times: first all at once.
    coming = [NOW] * crowd
    seen: dict[int, int] = {}
    while coming[0] < NOW + 3 * (crowd / rate + 1):
        now = heapq.heappop(coming)
        seen[int(now)] = seen.get(int(now), 0) + 1
        heapq.heappush(coming, now + refuse(admission, now=now, chance=dice.random()).retry_s)
    first, *later = (seen[second] for second in sorted(seen))
    assert first >= crowd
    assert max(later) <= 2 * rate + 10


class Comings(RuleBasedStateMachine):
    """Whatever comes, is known and leaves in any order: the counts are those of a list of who is there."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(connections=6, per_address=3, per_client=2, unauthenticated=4)
        self.admission = Admission(self.limits)
        self.here: list[Place] = []

    @rule(address=st.sampled_from("abc"))
    def come(self, address: str) -> None:
        found = self.admission.admit(address, NOW, 0)
        unknown = sum(place.client is None for place in self.here)
        full = len(self.here) >= 6 or unknown >= 4 or sum(place.address == address for place in self.here) >= 3
        assert isinstance(found, Refusal) == full
        if isinstance(found, Place):
            self.here.append(found)

    @rule(which=st.integers(0, 5), client=st.sampled_from(["ana", "bo"]))
    def identify(self, which: int, client: str) -> None:
        if which < len(self.here) and self.here[which].client is None:
            full = sum(place.client == client for place in self.here) >= 2
            assert (self.here[which].identify(client, NOW, 0) is not None) == full

    @rule(which=st.integers(0, 5), times=st.integers(1, 2))
    def leave(self, which: int, times: int) -> None:
        if which < len(self.here):
            place = self.here.pop(which)
            for _ in range(times):
                place.leave()

    @invariant()
    def counts_are_right(self) -> None:
        admission = self.admission
        assert admission.connections == len(self.here)
        assert admission.unauthenticated == sum(place.client is None for place in self.here)
        for address in "abc":
            assert admission.addresses.get(address, 0) == sum(place.address == address for place in self.here)
        assert sum(admission.clients.values()) == sum(place.client is not None for place in self.here)
        assert 0 not in admission.addresses.values()
        assert 0 not in admission.clients.values()


TestComings = Comings.TestCase
