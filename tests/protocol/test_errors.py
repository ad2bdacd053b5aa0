from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.errors import (
    CLOSES,
    DEFAULT_RETRY_AFTER_MS,
    ERRORS,
    ProtocolError,
    close_reason,
    plain_close_code,
    reconnect_class,
)
from tests.vectors import each

# By hand from the specification, not from the table: a code that is lost or invented shows here.
CODES = {
    "bad_frame": 400,
    "unknown_type": 400,
    "bad_channel": 400,
    "bad_position": 400,
    "bad_ack": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "not_attached": 409,
    "order": 409,
    "too_large": 413,
    "rate_limited": 429,
    "limit_exceeded": 429,
    "unavailable": 503,
    "internal": 500,
}
CLOSE_CODES = {1000, 1001, 1003, 1007, 1009, 1011, 1012, 1013, 4400, 4401, 4403, 4408, 4410, 4429}


def test_every_code_of_the_specification_is_in_the_table_and_no_other() -> None:
    assert {code: row.http_status for code, row in ERRORS.items()} == CODES
    assert set(CLOSES) == CLOSE_CODES


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    for code, row in ERRORS.items():
        assert row.code == code
        assert (row.fault == "server") == (row.http_status >= 500)
        for text in (row.meaning, row.message, row.remedy):
            assert text.endswith(".") and len(text) > 10
    for number, close in CLOSES.items():
        assert close.code == number
        assert close.name.isidentifier() and close.meaning.endswith(".") and close.remedy.endswith((".", ")"))
    assert len({close.name for close in CLOSES.values()}) == len(CLOSES)


@each("errors")
def test_error_follows_the_vector(vector: dict[str, Any]) -> None:
    asked, want = vector["given"], vector["want"]
    if "close" in asked:
        code = asked["close"]
        assert reconnect_class(code) == want["reconnect"]
        assert plain_close_code(code) == want.get("plain", plain_close_code(code))
    elif "message" in asked:
        facts = {name: asked.get(name) for name in ("remedy", "channel", "retry_after_ms")}
        error = ProtocolError(asked["code"], asked["message"], **facts)
        assert error.frame(asked.get("ref")) == want
        assert list(error.frame(asked.get("ref"))) == list(want)
    else:
        row = ERRORS[asked["code"]]
        assert {"http_status": row.http_status, "fault": row.fault, "retry": row.retry} == want


@pytest.mark.parametrize("code", CODES)
def test_an_error_without_facts_has_the_texts_of_the_table(code: str) -> None:
    error = ProtocolError(code)
    frame = error.frame()
    assert frame["message"] == ERRORS[code].message and frame["remedy"] == ERRORS[code].remedy
    assert error.http_status == CODES[code]
    assert "ref" not in frame and "channel" not in frame
    body = {name: value for name, value in frame.items() if name != "type"}
    assert error.body() == {"error": body}


@pytest.mark.parametrize("code", CODES)
def test_only_who_is_told_to_wait_is_told_how_long(code: str) -> None:
    waits = code in ("rate_limited", "unavailable")
    assert ProtocolError(code).retry_after_ms == (DEFAULT_RETRY_AFTER_MS if waits else None)
    assert ProtocolError(code, retry_after_ms=7).frame()["retry_after_ms"] == 7


@pytest.mark.parametrize(("ms", "s"), [(1, 1), (999, 1), (1000, 1), (1001, 2), (0, 0)])
def test_the_header_is_in_whole_seconds_rounded_up(ms: int, s: int) -> None:
    assert ProtocolError("rate_limited", retry_after_ms=ms).retry_after_s == s
    assert ProtocolError("forbidden").retry_after_s is None


@pytest.mark.parametrize("ref", [0, "", "a", -1])
def test_a_ref_that_is_false_is_still_repeated(ref: str | int) -> None:
    assert ProtocolError("forbidden").frame(ref)["ref"] == ref


def test_an_error_writes_itself_as_a_sentence() -> None:
    error = ProtocolError("forbidden", "No.", remedy="Ask.", channel="chat:lobby")
    assert str(error) == "forbidden (chat:lobby): No. Ask."
    assert str(ProtocolError("forbidden", "No.", remedy="Ask.")) == "forbidden: No. Ask."


def test_an_unknown_code_is_a_bug_of_the_caller() -> None:
    with pytest.raises(KeyError):
        ProtocolError("no_such_code")


@given(st.text(max_size=200))
def test_a_close_reason_fits_and_is_never_cut_within_a_character(text: str) -> None:
    reason = close_reason(text)
    assert len(reason.encode("utf-8", "replace")) <= 123
    assert text.startswith(reason)
    assert reason == text or len(reason.encode()) > 119
