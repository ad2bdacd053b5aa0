from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage, data_of, envelope, parse_message, parse_messages
from tests.vectors import each

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
DATA = st.recursive(st.none() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))


def refusal(call: Any, *args: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as refused:
        call(*args)
    assert refused.value.code == "bad_frame"
    return refused.value


@each("envelopes")
def test_envelope_follows_the_vector(vector: dict[str, Any]) -> None:
    told = vector["given"]
    message = NewMessage(**told["message"])
    text = envelope(told["channel"], told["serial"], told["time"], told["client"], message)
    assert text == vector["want"]
    assert data_of(text) == message.data


@given(TEXT, TEXT, TEXT, st.none() | TEXT, DATA)
def test_an_envelope_is_json_and_its_data_is_found(
    client: str, message_id: str, event: str, key: str | None, data: object
) -> None:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    frame = envelope("chat:lobby", 7, 12, client, NewMessage(message_id, event, key, text))
    want = {"type": "message", "channel": "chat:lobby", "serial": 7, "id": message_id, "time": 12, "client": client}
    want |= {"event": event} | ({} if key is None else {"key": key}) | {"data": data}
    assert json.loads(frame) == want
    assert list(json.loads(frame)) == list(want)
    assert data_of(frame) == text


def test_what_may_be_absent_has_its_default() -> None:
    assert parse_message({}) == NewMessage(None, "message", None, "null")
    assert parse_message({"id": None, "event": None, "key": None, "data": None, "zzz": 1}) == parse_message({})
    assert parse_message({"id": "x", "event": "e", "key": "k", "data": {"a": [1]}}) == NewMessage(
        "x", "e", "k", '{"a":[1]}'
    )


def test_the_door_gives_an_id() -> None:
    assert parse_message({"data": 1}).with_id("01J") == NewMessage("01J", "message", None, "1")
    with pytest.raises(AssertionError):
        envelope("q", 1, 0, "ana", parse_message({}))


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        ({"id": "a b"}, "id"),
        ({"id": 5}, "id"),
        ({"event": ""}, "event"),
        ({"event": "\ud800"}, "event"),
        ({"key": "a\n"}, "key"),
        ({"key": "\udfff"}, "key"),
        ({"data": float("nan")}, "data"),
        ({"data": "\ud800"}, "data"),
    ],
    ids=repr,
)
def test_the_error_names_the_field_and_the_message(obj: object, field: str) -> None:
    error = refusal(parse_messages, [{}, obj], 100)
    assert f"`{field}`" in error.message and error.message.startswith("Message 1")
    assert error.remedy
    assert refusal(parse_message, obj).message.startswith("The message")


@pytest.mark.parametrize("obj", [None, {}, "a", 5, [], [{}] * 101, ["a"], [None], [[]]], ids=lambda o: repr(o)[:20])
def test_messages_are_1_to_most_objects(obj: object) -> None:
    refusal(parse_messages, obj, 100)


def test_the_most_is_the_callers() -> None:
    assert len(parse_messages([{}] * 1000, 1000)) == 1000
    refusal(parse_messages, [{}] * 1001, 1000)
    assert "Send 1 to 1000" in refusal(parse_messages, [], 1000).remedy
