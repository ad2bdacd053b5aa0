from __future__ import annotations

import enum
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.codec import MAX_DEPTH, canonical, canonical_of_decoded, decode, encode, raw
from realtime.protocol.errors import ProtocolError
from tests.vectors import each

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Without surrogates: no JSON text has lone ones.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


def refusal(call: Any, *args: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as refused:
        call(*args)
    assert refused.value.code == "bad_frame"
    return refused.value


@each("canonical")
def test_canonical_form_follows_the_vector(vector: dict[str, Any]) -> None:
    text = vector["given"]
    if "want" in vector:
        assert canonical(decode(text)) == vector["want"]
        assert canonical_of_decoded(decode(text)) == vector["want"]
        assert canonical(decode(text.encode())) == vector["want"]
        assert canonical(decode(vector["want"])) == vector["want"], "canonical text is its own canonical text"
    else:
        refusal(lambda: canonical(decode(text)))
        refusal(lambda: canonical_of_decoded(decode(text)))
        refusal(lambda: canonical(decode(text.encode())))


@given(JSON)
def test_data_comes_back_as_it_was(data: object) -> None:
    text = canonical(data)
    back = json.loads(text)
    assert back == data and canonical(back) == text
    assert canonical_of_decoded(decode(text)) == text
    assert json.dumps(back, separators=(",", ":"), ensure_ascii=False) == json.dumps(
        data, separators=(",", ":"), ensure_ascii=False
    ), "the same types, in the same order"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_comes_back_bit_for_bit_in_its_shortest_digits(number: float) -> None:
    text = canonical(number)
    assert math.copysign(1, float(text)) == math.copysign(1, number) and float(text) == number
    digits = "".join(filter(str.isdigit, text.partition("e")[0])).strip("0")
    assert len(digits) <= len("".join(filter(str.isdigit, repr(number).partition("e")[0])).strip("0"))


@given(st.text() | st.binary())
def test_decoding_anything_gives_a_value_or_bad_frame(text: str | bytes) -> None:
    try:
        decode(text)
    except ProtocolError as error:
        assert error.code == "bad_frame" and error.message and error.remedy


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_depth_never_reaches_the_interpreter(text: str) -> None:
    assert "deep" in refusal(decode, text).message


def test_errors_never_quote_a_large_input() -> None:
    for text in ("x" * 1_000_000, "9" * 1_000_000, '"' + "a" * 1_000_000, "\ud800" * 100_000, b"\xff" * 1_000_000):
        assert len(str(refusal(decode, text))) < 400


def test_numbers_in_a_row_are_not_taken_for_one() -> None:
    text = "[" + ",".join(["1234567890"] * 1000) + "]"
    assert canonical_of_decoded(decode(text)) == text


@given(st.integers(0, 40), st.integers(300, 330), st.integers(0, 40))
def test_a_long_integer_is_found_wherever_it_stands(before: int, digits: int, after: int) -> None:
    text = '["' + "x" * before + '",' + "9" * digits + ',"' + "y" * after + '"]'
    if digits <= 308:
        assert canonical_of_decoded(decode(text)) == text
    else:
        refusal(canonical_of_decoded, decode(text))


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
@pytest.mark.parametrize("ends", ["[]", "{}", '["x",1]', "[null]"])
def test_sixty_four_levels_and_not_one_more(depth: int, ends: str) -> None:
    text = "[" * (depth - 1) + ends + "]" * (depth - 1)
    for call in (canonical, canonical_of_decoded):
        if depth <= MAX_DEPTH:
            assert call(decode(text)) == text
        else:
            assert "64 deep" in refusal(call, decode(text)).message


# --- values made in Python -------------------------------------------------------------------------------------------


class Word(str):
    pass


class Count(int):
    pass


class Ratio(float):
    pass


class Colour(enum.StrEnum):
    RED = "red"


def test_subclasses_and_tuples_are_data_too() -> None:
    data = {"a": (Word("x"), Count(5), Ratio(0.5)), Word("b"): Colour.RED}
    assert canonical(data) == '{"a":["x",5,0.5],"b":"red"}'


@pytest.mark.parametrize(
    "data",
    [
        math.nan,
        [math.inf],
        {"a": -math.inf},
        "\ud800",
        {"\udc00": 1},
        {1: 2},
        {None: 1},
        b"bytes",
        {1, 2},
        object(),
        1j,
        10**400,
        -(2**1024),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_say_is_refused(data: object) -> None:
    error = refusal(canonical, data)
    assert error.message and error.remedy


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.extend([loop] * 10)
    assert "64 deep" in refusal(canonical, loop).message


def test_raw_text_is_copied_as_it_is() -> None:
    assert encode({"messages": [raw('{"a":1.0}'), raw("[ ]")]}) == '{"messages":[{"a":1.0},[ ]]}'
