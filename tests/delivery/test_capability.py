from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.delivery.capability import OPERATIONS, Capability
from tests.vectors import each

NAMES = st.text(alphabet="ab:", min_size=1, max_size=4)
PATTERNS = NAMES | NAMES.map(lambda name: name + "*") | st.just("*")
CAPS = st.dictionaries(PATTERNS, st.lists(st.sampled_from([*sorted(OPERATIONS), "*", "fly"]), max_size=3), max_size=4)


@each("capability")
def test_capability_follows_the_vector(vector: dict[str, Any]) -> None:
    told = vector["given"]
    if "error" in vector:
        with pytest.raises(ValueError, match="must be"):
            Capability.parse(told["cap"])
    elif "covers" in told:
        assert Capability.parse(told["cap"]).covers(Capability.parse(told["covers"])) is vector["want"]
    else:
        capability = Capability.parse(told["cap"])
        assert capability.allows(told["channel"], told["op"]) is vector["want"]


@given(CAPS, NAMES)
def test_operations_are_what_is_allowed(cap: dict[str, list[str]], channel: str) -> None:
    capability = Capability.parse(cap)
    assert capability.operations(channel) == {op for op in OPERATIONS if capability.allows(channel, op)}


@given(CAPS, NAMES)
def test_every_pattern_that_matches_adds_its_operations(cap: dict[str, list[str]], channel: str) -> None:
    want: set[str] = set()
    for pattern, operations in cap.items():
        if channel == pattern or (pattern.endswith("*") and channel.startswith(pattern[:-1])):
            want |= OPERATIONS if "*" in operations else OPERATIONS & set(operations)
    assert Capability.parse(cap).operations(channel) == want


@given(CAPS, CAPS, NAMES)
def test_what_is_covered_never_allows_more(mine: dict[str, list[str]], asked: dict[str, list[str]], name: str) -> None:
    key, token = Capability.parse(mine), Capability.parse(asked)
    if key.covers(token):
        assert token.operations(name) <= key.operations(name)


@given(CAPS)
def test_grants_read_back_as_the_same_capability(cap: dict[str, list[str]]) -> None:
    capability = Capability.parse(cap)
    again = Capability.parse(capability.grants())
    assert again == capability and hash(again) == hash(capability)
    assert capability.covers(again) and again.covers(capability)
    assert repr(again) == repr(capability)


@given(CAPS)
def test_a_capability_covers_itself_and_all_covers_it(cap: dict[str, list[str]]) -> None:
    capability = Capability.parse(cap)
    assert capability.covers(capability)
    assert Capability.parse({"*": ["*"]}).covers(capability)
    assert capability.covers(Capability.parse({}))
