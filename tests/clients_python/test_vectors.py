"""The vectors that the server and the JavaScript SDK are tested against, too."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import seriatim_client
from realtime.protocol import errors as server
from seriatim_client import CLOSES, ERRORS, Cursor, Line, Position, Rewind, SeriatimError, Since, names, parse_from
from seriatim_client.backoff import Backoff, BackoffOptions
from seriatim_client.codes import LOCAL_ERRORS, meant_code, reconnect_after
from seriatim_client.data import to_json
from seriatim_client.data_reader import DataReader
from seriatim_client.fossil import DeltaError, apply_delta
from seriatim_client.frames import ErrorFrame, MessageFrame, parse_frame
from seriatim_client.positions import check_from, wire_from
from tests import vectors
from tests.test_architecture import PURE_IMPORTS, imports

Vector = dict[str, Any]


@vectors.each("positions")
def test_the_forms_of_from_are_those_of_the_wire(vector: Vector) -> None:
    if "error" in vector:
        with pytest.raises(SeriatimError) as refused:
            check_from(vector["given"])
        assert refused.value.code == vector["error"]
        return
    want = vector["want"]
    made: object = want["form"]
    match want["form"]:
        case "resume":
            made = Position(want["epoch"], want["serial"])
        case "rewind":
            made = Rewind(want["count"])
        case "since":
            made = Since(want["time"])
        case "cursor":
            made = Cursor(want["cursor"])
    checked = check_from(vector["given"])
    assert checked == made
    assert check_from(wire_from(checked)) == checked


@vectors.each("names")
def test_what_is_a_name(vector: Vector) -> None:
    ((kind, value),) = vector["given"].items()
    checks = {
        "client": names.is_client_id,
        "id": names.is_message_id,
        "event": names.is_event,
        "key": names.is_key,
        "cursor": names.is_cursor_name,
        "epoch": names.is_epoch,
    }
    if kind == "channel":
        assert names.namespace_of(value) == (None if "error" in vector else vector["want"]["namespace"])
    else:
        assert checks[kind](value) is vector["want"]


@vectors.each("backoff")
def test_backoff_is_full_jitter_after_the_cap(vector: Vector) -> None:
    given = vector["given"]
    options = BackoffOptions(first_ms=given["base_ms"], cap_ms=given["cap_ms"])
    backoff = Backoff(options, lambda: float(given["random"]))
    for _ in range(given["attempt"]):
        backoff.next_ms()
    assert backoff.next_ms() == vector["want"]


@vectors.each("errors")
def test_errors_and_closes(vector: Vector) -> None:
    given, want = vector["given"], vector["want"]
    if want.get("type") == "error":
        frame = parse_frame(json.dumps(want))
        assert isinstance(frame, ErrorFrame)
        error = frame.error()
        assert (error.code, error.message, error.remedy) == (want["code"], want["message"], want["remedy"])
        assert (error.channel, error.retry_after_ms) == (want.get("channel"), want.get("retry_after_ms"))
        assert frame.ref == want.get("ref")
    elif "code" in given:
        row = ERRORS[given["code"]]
        assert {"http_status": row.http_status, "fault": row.fault, "retry": row.retry} == want
    else:
        assert reconnect_after(given["close"]) == want["reconnect"]
        if "plain" in want:
            assert meant_code(want["plain"]) == meant_code(given["close"])


@vectors.each("envelopes")
def test_a_message_frame_is_read_as_it_was_written(vector: Vector) -> None:
    frame = parse_frame(vector["want"])
    assert isinstance(frame, MessageFrame)
    given, message = vector["given"], vector["given"]["message"]
    assert (frame.channel, frame.serial, frame.time) == (given["channel"], given["serial"], given["time"])
    assert (frame.id, frame.event, frame.key) == (message["id"], message["event"], message["key"])
    assert frame.client == (given["client"] or None)
    assert frame.data == json.loads(message["data"])


@vectors.each("canonical")
def test_data_that_the_server_refuses_for_its_depth_or_text_is_refused_here(vector: Vector) -> None:
    try:
        value = json.loads(vector["given"])
    except (ValueError, RecursionError):
        return
    if "error" in vector and "integer" not in vector["name"] and "digits" not in vector["name"]:
        try:
            text = to_json(value)
        except SeriatimError as error:
            assert error.code == "bad_frame"
        else:
            # What JSON text says and no Python value keeps is the server's to refuse.
            assert len(text) > 300 or value == json.loads(text)
    elif "error" not in vector:
        assert json.loads(to_json(value)) == value


@vectors.each("deltas")
def test_deltas(vector: Vector) -> None:
    given = vector["given"]
    if "frames" in given:
        assert _data_of(given["frames"]) == vector["want"]
    elif "error" in vector:
        with pytest.raises(DeltaError):
            apply_delta(given["base"].encode(), given["delta"].encode())
    else:
        assert apply_delta(given["base"].encode(), given["delta"].encode()).decode() == vector["want"]


def _data_of(frames: list[Vector]) -> list[object]:
    found: list[object] = []
    reader = DataReader()
    for frame in frames:
        if frame["type"] == "attached":
            reader.begin(frame.get("delta"))
        elif frame["type"] == "skipped":
            reader.forget()
        else:
            message = parse_frame(json.dumps({"channel": "a", "id": "i", "time": 1, "event": "message", **frame}))
            assert isinstance(message, MessageFrame)
            try:
                found.append(reader.read(message))
            except DeltaError:
                found.append("error")
    return found


def test_the_tables_are_those_of_the_server() -> None:
    assert set(ERRORS) == set(server.ERRORS)
    for code, row in ERRORS.items():
        theirs = server.ERRORS[code]
        assert (row.http_status, row.fault, row.retry) == (theirs.http_status, theirs.fault, theirs.retry)
    assert {code: row.reconnect for code, row in CLOSES.items()} == {
        code: row.reconnect for code, row in server.CLOSES.items()
    }
    assert not set(LOCAL_ERRORS) & set(ERRORS)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("head", "head"),
        ("start", "start"),
        ("latest", "latest"),
        ("rewind:50", Rewind(50)),
        ("since:1763812345678", Since(1763812345678)),
        ("cursor:a:b", Cursor("a:b")),
        ("k3J9.41", Position("k3J9", 41)),
        ("k3J9", None),
        ("k3J9.", None),
        (".41", None),
        ("rewind:", None),
        ("rewind:-1", None),
        ("rewind:²", None),
        ("k3J9.99999999999999999", None),
    ],
)
def test_positions_as_text(text: str, form: object) -> None:
    if form is None:
        with pytest.raises(SeriatimError) as refused:
            parse_from(text)
        assert refused.value.code == "bad_position"
    else:
        assert parse_from(text) == form


_SHELL = {"__init__", "__main__", "chance", "client", "http_socket", "sync", "rest"}
_MODULES = sorted(Path(seriatim_client.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", [p for p in _MODULES if p.stem not in _SHELL], ids=lambda p: p.stem)
def test_the_core_imports_only_what_has_no_effect(path: Path) -> None:
    impure = {f"seriatim_client.{name}" for name in _SHELL}
    more = {"__future__", "urllib", "urllib.parse", "collections.abc"}
    for name in imports(path):
        if name.startswith("seriatim_client"):
            assert name not in impure
        else:
            assert name.partition(".")[0] in PURE_IMPORTS | more
            assert name != "urllib.request"


@pytest.mark.parametrize("path", sorted(Path(seriatim_client.__file__).parent.rglob("*.py")), ids=lambda p: p.stem)
def test_every_module_opens_with_its_role_and_none_knows_the_server(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert not {name.partition(".")[0] for name in imports(path)} & {"realtime", "django", "tests"}


def test_the_reference_has_every_state_and_every_code() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "sdk-python.md").read_text()
    codes = re.findall(r"^\| `(\w+)` \| ", page.partition("## Errors")[2], re.MULTILINE)
    assert codes == sorted(LOCAL_ERRORS)
    states = re.findall(
        r"^\| `(\w+)` \| ", page.partition("### States of the line")[2].partition("### Tokens")[0], re.M
    )
    assert states == [state.value for state in Line]
