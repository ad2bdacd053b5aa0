from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import is_event, is_key
from realtime.protocol.names import (
    ChannelName,
    is_client_id,
    is_count,
    is_cursor_name,
    is_epoch,
    is_message_id,
    is_namespace,
    is_platform_name,
    namespace_of,
    parse_channel,
)
from tests.vectors import each

PREDICATES: dict[str, Callable[[object], bool]] = {
    "client": is_client_id,
    "id": is_message_id,
    "event": is_event,
    "key": is_key,
    "cursor": is_cursor_name,
    "epoch": is_epoch,
}


@each("names")
def test_name_follows_the_vector(vector: dict[str, Any]) -> None:
    ((kind, value),) = vector["given"].items()
    if kind != "channel":
        assert PREDICATES[kind](value) is vector["want"]
    elif "want" in vector:
        name = parse_channel(value)
        assert name == value
        assert namespace_of(name) == vector["want"]["namespace"]
    else:
        with pytest.raises(ProtocolError) as refused:
            parse_channel(value)
        assert refused.value.code == vector["error"]


@given(st.text(alphabet="aZ9_-.:@=$ /\n\0é", max_size=12) | st.text(max_size=220))
def test_a_name_passes_exactly_when_the_grammar_says_so(value: str) -> None:
    part = r"[A-Za-z0-9_.@=-]+"
    grammar = re.compile(rf"{part}|[A-Za-z0-9_-]{{1,64}}(?::{part})+")
    valid = (
        grammar.fullmatch(value) is not None
        and len(value) <= 200
        and not {".", ".."} & set(value.split(":"))
        and not value.startswith("default:")
    )
    if valid:
        assert parse_channel(value) == value
        assert is_namespace(namespace_of(parse_channel(value)))
    else:
        with pytest.raises(ProtocolError) as refused:
            parse_channel(value)
        assert refused.value.code == "bad_channel"


@pytest.mark.parametrize("value", [None, True, 5, 1.5, b"abcd", ["abcd"], {"a": 1}])
def test_what_is_no_string_is_no_name(value: object) -> None:
    assert not any(predicate(value) for predicate in (*PREDICATES.values(), is_namespace))


def test_a_refused_name_of_a_megabyte_is_not_echoed() -> None:
    with pytest.raises(ProtocolError) as refused:
        parse_channel("x" * 1_000_000)
    assert refused.value.channel is None
    assert len(str(refused.value.frame())) < 500


def test_refused_names_are_not_kept_in_the_cache() -> None:
    parse_channel.cache_clear()
    for value in ("a b", "x" * 1_000_000, ""):
        with pytest.raises(ProtocolError):
            parse_channel(value)
    assert parse_channel.cache_info().currsize == 0


def test_the_error_says_which_rule_is_broken() -> None:
    said = []
    for value in ("", "n" * 201, "$control", "a b", "a::b", "a:..", "a.b:c", "default:x"):
        with pytest.raises(ProtocolError) as refused:
            parse_channel(value)
        said.append(refused.value.message)
    assert len(set(said)) == len(said)


def test_platform_names_are_apart_from_those_of_clients() -> None:
    assert is_platform_name("$control")
    assert not any(map(is_platform_name, ("control", "$", "$Control", "$a b", "$" + "x" * 64)))
    assert namespace_of(ChannelName("$control")) == "", "no rule of an operator holds there"


@pytest.mark.parametrize(
    ("value", "want"),
    [(0, True), (2**53 - 1, True), (2**53, False), (-1, False), (True, False), (1.0, False), ("1", False)],
)
def test_a_count_is_an_integer_from_0_below_2_to_the_53(value: object, want: bool) -> None:
    assert is_count(value) is want
