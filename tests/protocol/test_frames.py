from __future__ import annotations

import inspect
import json
import sys
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.frames import Attach, Frame, FrameError, Publish, parse_frame
from tests.vectors import each

TYPES = ["auth", "attach", "detach", "ack", "publish", "signal", "presence", "history", "ping"]


def told(frame: Frame) -> dict[str, Any]:
    """The frame in the words of the vectors."""
    fields = {name: getattr(frame, name) for name in frame.__struct_fields__}
    told = {"type": frame.__struct_config__.tag, **fields}
    if isinstance(frame, Publish):
        told["messages"] = [msgspec.to_builtins(message) for message in frame.messages]
    if isinstance(frame, Attach):
        position = told.pop("from_")
        if position is not msgspec.UNSET:
            told["from"] = position
    return told


def refusal(text: str) -> FrameError:
    with pytest.raises(FrameError) as refused:
        parse_frame(text)
    return refused.value


@each("frames")
def test_frame_follows_the_vector(vector: dict[str, Any]) -> None:
    text = vector["given"]
    if "want" in vector:
        assert told(parse_frame(text)) == vector["want"]
    else:
        error = refusal(text)
        assert {"code": error.code, "ref": error.ref, "channel": error.channel} == vector["error"]
        assert error.message.endswith(".") and error.remedy.endswith(".")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type":"attach","ref":1}', "`channel` of `attach` is missing."),
        ('{"type":"attach","channel":null}', "`channel` of `attach` is null."),
        ('{"type":"attach","channel":"q","window":-1}', "`window` of `attach` is the number -1."),
        ('{"type":"ping","ref":true}', "`ref` of `ping` is true."),
        ('{"type":"ping","ref":"' + "r" * 65 + '"}', "`ref` of `ping` is a string."),
        ('{"type":"ping","ref":1e300}', "`ref` of `ping` is a number out of range."),
        ('{"type":"ping","acks":[1]}', "`acks` of `ping` is an array."),
        ('{"type":"auth","token":{}}', "`token` of `auth` is an object."),
        ('{"type":"signal","channel":"q","event":""}', "`event` of `signal` is an empty string."),
        ('{"type":"frobnicate"}', "Clients send no frame of type `frobnicate`."),
        ('{"ref":1}', "`type` is missing."),
        ("[]", "The frame is an array, not an object."),
        ("", "The text is not JSON: it is empty."),
        ('{"type":"ping","é":NaN}', "The text is not JSON: NaN and Infinity are no numbers of JSON."),
        ('{"type":"ping","é":[1,-Infinity]}', "The text is not JSON: NaN and Infinity are no numbers of JSON."),
        ('{"type":"ping",}', "The text is not JSON: trailing comma in object (byte 15)."),
        (
            '{"type":"publish","channel":"q","messages":[{},{"id":""}]}',
            "Message 1 has a wrong `id`.",
        ),
    ],
)
def test_the_error_says_which_field_is_wrong(text: str, said: str) -> None:
    assert refusal(text).message == said


def test_a_refused_publish_is_known_as_one_where_it_can_be_read() -> None:
    """What is chained behind it on that channel has to fail."""
    assert refusal('{"type":"publish","ref":1,"channel":"q","messages":[{"data":NaN}]}').is_publish
    assert not refusal('{"type":"ping","ref":true}').is_publish
    assert not refusal('{"type":').is_publish


def test_the_error_frame_answers_the_request() -> None:
    error = refusal('{"type":"attach","ref":"r","channel":"q","window":"x"}')
    frame = error.frame()
    assert (frame["type"], frame["ref"], frame["code"], frame["channel"]) == ("error", "r", "bad_frame", "q")
    assert "ref" not in refusal("{").frame()


# --- whatever comes ---------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
FIELDS = ["ref", "acks", "channel", "messages", "serials", "token", "window", "presence", "delta", "from", "chained"]
FIELD = st.sampled_from([*FIELDS, "event", "data", "action", "before", "after", "limit", "zzz"])
GOOD = st.sampled_from([0, 1, "q", "enter", "head", True, {"q": 1}, [{"data": 1}], [{"id": "x", "key": "k"}]])
MESSAGE = st.dictionaries(st.sampled_from(["id", "event", "key", "data", "zzz"]), JSON | GOOD)
OBJECT = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | JSON},
    optional={"messages": st.lists(MESSAGE, max_size=3), "channel": st.just("q") | JSON},
).flatmap(lambda known: st.dictionaries(FIELD, GOOD | JSON).map(lambda more: more | known))


def served_or_refused(text: str) -> Frame | FrameError:
    """A frame or a FrameError that can be sent: nothing else may come out, whatever goes in."""
    try:
        return parse_frame(text)
    except FrameError as error:
        assert error.code in ("bad_frame", "unknown_type")
        assert error.message and error.remedy and len(str(error)) < 600
        json.dumps(error.frame(), ensure_ascii=False).encode()
        return error


@given(st.text())
def test_any_text_is_served_or_refused(text: str) -> None:
    served_or_refused(text)


@given(JSON)
def test_any_json_is_served_or_refused(value: object) -> None:
    served_or_refused(json.dumps(value))


@given(OBJECT)
def test_any_object_with_a_type_is_served_or_refused(value: object) -> None:
    served_or_refused(json.dumps(value))
    served_or_refused(json.dumps(value, ensure_ascii=False))


@given(OBJECT, st.sampled_from(TYPES), st.text(max_size=64), st.integers(1, 3))
def test_order_of_fields_makes_no_difference(value: dict[str, object], kind: str, ref: str, turn: int) -> None:
    value |= {"type": kind, "ref": ref}
    items = list(value.items())
    turned = dict(items[turn:] + items[:turn])
    one, other = served_or_refused(json.dumps(value)), served_or_refused(json.dumps(turned))
    if isinstance(one, FrameError):
        assert isinstance(other, FrameError) and (one.code, one.ref) == (other.code, other.ref)
        assert one.channel == other.channel
    else:
        assert not isinstance(other, FrameError) and repr(told(one)) == repr(told(other))


@given(st.lists(MESSAGE, min_size=1, max_size=4))
def test_the_fast_and_the_slow_way_agree(messages: list[object]) -> None:
    """A `null` that means absent sends the frame the slow way."""
    fast = served_or_refused(json.dumps({"type": "publish", "channel": "q", "messages": messages}))
    slow = served_or_refused(json.dumps({"type": "publish", "channel": "q", "messages": messages, "chained": None}))
    if isinstance(fast, FrameError):
        assert isinstance(slow, FrameError) and fast.frame() == slow.frame()
    else:
        assert fast == slow


HOSTILE = {
    "deep arrays": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a string": '"' + "x" * 1_000_000 + '"',
    "a number": "9" * 1_000_000,
    "a fraction": "0." + "9" * 1_000_000,
    "an exponent": "1e" + "9" * 1_000_000,
    "empty arrays": "[" + ",".join(["[]"] * 300_000) + "]",
    "names": "{" + ",".join(f'"{i}":1' for i in range(60_000)) + "}",
    "one name": "{" + ",".join(['"a":1'] * 150_000) + "}",
    "escapes": '"' + "\\u0000" * 160_000 + '"',
}
PLACES = {
    "data": '{"type":"publish","ref":"r","channel":"q","messages":[{"data":%s}]}',
    "signal": '{"type":"signal","ref":"r","channel":"q","event":"e","data":%s}',
    "unknown": '{"type":"ping","ref":"r","zzz":%s}',
    "unknown type": '{"type":"frobnicate","zzz":%s}',
    "ref": '{"type":"ping","ref":%s}',
    "channel": '{"type":"detach","channel":%s}',
    "serials": '{"type":"ack","serials":%s}',
    "from": '{"type":"attach","channel":"q","from":%s}',
    "type": '{"type":%s}',
    "bare": "%s",
    "cut": '{"type":"ping","zzz":[%s',
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_text_is_served_or_refused_at_once(what: str, place: str) -> None:
    """CPU time, generous for a slow machine and far below anything quadratic."""
    begun = time.thread_time()
    served_or_refused(PLACES[place] % HOSTILE[what])
    assert time.thread_time() - begun < 2


def test_memory_stays_flat() -> None:
    """Neither frames nor errors leave anything behind, not even in caches."""
    texts = [PLACES[place] % what for place in ("data", "channel", "type") for what in HOSTILE.values()]

    def rounds(count: int) -> int:
        for _ in range(count):
            for text in texts:
                served_or_refused(text)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first = rounds(1)
        assert rounds(2) - first < 100_000
    finally:
        tracemalloc.stop()


def test_data_64_deep_is_served_also_below_a_deep_stack_of_callers() -> None:
    text = PLACES["data"] % ("[" * 64 + "]" * 64)

    def call(depth: int) -> object:
        return call(depth - 1) if depth else served_or_refused(text)

    assert isinstance(call(sys.getrecursionlimit() // 2 - len(inspect.stack(0))), Publish)
