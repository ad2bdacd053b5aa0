from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.errors import ProtocolError
from realtime.protocol.positions import (
    Cursor,
    From,
    Head,
    Latest,
    Resume,
    Rewind,
    Since,
    Start,
    needs_history,
    parse_from,
)
from tests.vectors import each


def told(frm: From) -> dict[str, object]:
    """The position in the words of the vectors."""
    match frm:
        case Resume(epoch, serial):
            return {"form": "resume", "epoch": epoch, "serial": serial}
        case Rewind(count):
            return {"form": "rewind", "count": count}
        case Since(time_ms):
            return {"form": "since", "time": time_ms}
        case Start():
            return {"form": "start"}
        case Head():
            return {"form": "head"}
        case Latest():
            return {"form": "latest"}
        case Cursor(name):
            return {"form": "cursor", "cursor": name}


@each("positions")
def test_position_follows_the_vector(vector: dict[str, Any]) -> None:
    if "want" in vector:
        frm = parse_from(vector["given"])
        assert told(frm) | {"needs_history": needs_history(frm)} == vector["want"]
    else:
        with pytest.raises(ProtocolError) as refused:
            parse_from(vector["given"])
        assert refused.value.code == vector["error"]
        assert refused.value.message and refused.value.remedy


FIELDS = st.sampled_from(["epoch", "serial", "rewind", "since", "cursor", "zzz"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())


@given(VALUES | st.dictionaries(FIELDS, VALUES | st.sampled_from(["abcd", 0, 5])))
def test_anything_is_a_position_or_bad_position(value: object) -> None:
    try:
        parse_from(value)
    except ProtocolError as error:
        assert error.code == "bad_position"
