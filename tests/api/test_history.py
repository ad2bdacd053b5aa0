"""GET messages and GET of a channel: pages, parameters, names in paths."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from django.test import RequestFactory

from realtime.api.views import channel_in, page_text
from realtime.log import retention
from realtime.log.types import Page, Skipped
from realtime.models import Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import parse_channel
from tests.api.conftest import Api, assert_refused, messages_path, token


def fill(api: Api, channel: str, count: int) -> None:
    assert api.publish(channel, {"messages": [{"data": i} for i in range(count)]}).status_code == 201


def serials(response: Any) -> list[int]:
    assert response.status_code == 200, response.content
    return [message["serial"] for message in response.json()["messages"]]


def test_a_page_has_messages_as_on_the_wire(api: Api) -> None:
    api.publish("x", {"messages": [{"id": "m", "event": "e", "key": "k", "data": [1]}, {"data": 2}]})
    body = api.page("x", "after=0").json()
    assert list(body) == ["epoch", "oldest", "head", "messages", "more"]
    one, two = body["messages"]
    time = one.pop("time")
    assert one == {
        "type": "message",
        "channel": "x",
        "serial": 1,
        "id": "m",
        "client": "ana",
        "event": "e",
        "key": "k",
        "data": [1],
    }
    assert isinstance(time, int) and "key" not in two


def test_stored_envelopes_are_spliced_unparsed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(api, "x", 3)
    known = token()
    api.page("x", auth=known)
    monkeypatch.setattr("realtime.protocol.codec.decode", lambda *_: pytest.fail("parsed"))
    assert serials(api.page("x", "order=asc", auth=known)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ("order=asc", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("after=6", [7, 8, 9]),
        ("after=6&order=desc", [9, 8, 7]),
        ("before=3", [2, 1]),
        ("before=3&order=asc", [1, 2]),
        ("after=3&before=7", [4, 5, 6]),
        ("after=9", []),
        ("before=1", []),
        ("since=1", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("since=9000000000000", []),
        ("after=0&limit=2", [1, 2]),
        ("limit=2", [9, 8]),
        ("unknown=1&limit=1", [9]),
    ],
)
def test_the_asked_range_in_the_asked_order(api: Api, query: str, expected: list[int]) -> None:
    fill(api, "x", 9)
    assert serials(api.page("x", query)) == expected


def test_pages_join_without_hole_in_both_directions(api: Api) -> None:
    fill(api, "x", 10)
    forward, at = [], 0
    while True:
        page = api.page("x", f"after={at}&limit=3").json()
        forward += [message["serial"] for message in page["messages"]]
        at = forward[-1]
        if not page["more"]:
            break
    backward, before = [], ""
    while True:
        page = api.page("x", f"limit=3{before}").json()
        backward += [message["serial"] for message in page["messages"]]
        before = f"&before={backward[-1]}"
        if not page["more"]:
            break
    assert forward == list(range(1, 11)) == backward[::-1]


def test_the_default_page_has_100(api: Api) -> None:
    fill(api, "x", 130)
    body = api.page("x", "after=0").json()
    assert (len(body["messages"]), body["more"], body["head"], body["oldest"]) == (100, True, 130, 1)


@pytest.mark.parametrize("name", ["limit", "after", "before", "since"])
@pytest.mark.parametrize("value", ["-1", "x", "", "1.0", "1e3", " 1", "٣", "0x1", "9" * 17, "null"])
def test_a_parameter_that_is_no_integer_in_range_is_refused(api: Api, name: str, value: str) -> None:
    assert_refused(api.page("x", f"{name}={value}"), 400, "bad_frame", name)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "order=up", "order=", "after=9007199254740992"])
def test_a_parameter_out_of_range_is_refused(api: Api, query: str) -> None:
    assert_refused(api.page("x", query), 400, "bad_frame")


def test_a_channel_never_used_is_an_empty_page(api: Api) -> None:
    body = api.page("never").json()
    assert body == {"epoch": None, "oldest": 1, "head": 0, "messages": [], "more": False}


def test_what_retention_took_from_the_asked_range_is_told(api: Api) -> None:
    fill(api, "x", 10)
    retention.prune(parse_channel("x"), 6)
    body = api.page("x", "after=2").json()
    assert (body["oldest"], body["head"]) == (7, 10)
    assert [message["serial"] for message in body["messages"]] == [7, 8, 9, 10]
    assert body["skipped"] == {"from": 3, "to": 6, "reason": "retention"}
    assert "skipped" not in api.page("x", "after=6").json()


def test_the_text_of_a_page_is_json() -> None:
    page = Page("epoch", 3, 4, ['{"serial":3}', '{"serial":4}'], True, Skipped(1, 2, "retention"))
    assert json.loads(page_text(page)) == {
        "epoch": "epoch",
        "oldest": 3,
        "head": 4,
        "messages": [{"serial": 3}, {"serial": 4}],
        "more": True,
        "skipped": {"from": 1, "to": 2, "reason": "retention"},
    }


def test_history_needs_its_operation_and_hides_what_exists(api: Api) -> None:
    publisher = token(cap={"*": ["publish", "subscribe"]})
    assert_refused(api.page("x", auth=publisher), 403, "forbidden")
    assert_refused(api.page("nobody:x", auth=publisher), 403, "forbidden")
    assert_refused(api.page("nobody:x"), 404, "not_found")
    assert_refused(api.page("x", "limit=0", auth=publisher), 400, "bad_frame")


def test_a_page_costs_only_the_reads_of_the_log(api: Api, django_assert_max_num_queries: Any) -> None:
    fill(api, "x", 3)
    api.page("x")
    with django_assert_max_num_queries(3):
        api.page("x")


# ---------------------------------------------------------------- one channel


def test_a_channel_shows_what_its_log_holds(api: Api) -> None:
    fill(api, "x", 3)
    body = api.request("GET", "/api/v1/channels/x").json()
    assert list(body) == ["name", "epoch", "oldest", "head", "occupancy", "last_time"]
    assert (body["name"], body["oldest"], body["head"], body["occupancy"]) == ("x", 1, 3, 0)
    assert body["last_time"] == api.page("x").json()["messages"][0]["time"]


def test_a_channel_never_used_has_no_epoch_and_no_time(api: Api) -> None:
    body = api.request("GET", "/api/v1/channels/never").json()
    assert (body["epoch"], body["oldest"], body["head"], body["last_time"]) == (None, 1, 0, None)
    assert_refused(api.request("GET", "/api/v1/channels/x", auth=token(cap={"y": ["subscribe"]})), 403, "forbidden")
    assert_refused(api.request("GET", "/api/v1/channels/nobody:x"), 404, "not_found")


# ---------------------------------------------------------------- names in paths


@pytest.mark.parametrize("name", ["a", "ns:b", "ns:a.b@c=d_e-f:g", "n" * 200, "messages", "publish", "ns%3Ab", "%61"])
def test_names_of_the_whole_alphabet_are_paths(api: Api, name: str) -> None:
    Namespace.objects.create(name="ns")
    response = api.request("POST", f"/api/v1/channels/{name}/messages", {"data": 1})
    assert response.status_code == 201
    assert response.json()["channel"] == unquote(name)


@pytest.mark.parametrize(
    "name",
    ["a b", "a/b", "ä", "a\nb", "n" * 201, ".", "..", "default:x", "a:", ":a", "$control", "a*", "", "%", "a\x00"],
)
@pytest.mark.parametrize("rest", ["", "/messages"])
def test_other_names_are_bad_ones(api: Api, name: str, rest: str) -> None:
    path = messages_path(name).removesuffix("/messages") + rest
    assert_refused(api.request("GET", path), 400, "bad_channel")


class Scope:
    """A request of an ASGI server, as far as names are concerned."""

    def __init__(self, raw_path: bytes) -> None:
        self.scope = {"raw_path": raw_path}


@pytest.mark.parametrize(
    ("raw_path", "name", "code"),
    [
        (b"/api/v1/channels/a%2Fb/messages", "a/b", "bad_channel"),
        (b"/api/v1/channels/a%2fmessages", "a", "bad_channel"),
        (b"/api/v1/channels/a/nothing", "a/nothing", "not_found"),
        (b"/api/v1/channels/a%252Fb", "a%2Fb", "bad_channel"),
    ],
)
def test_an_encoded_slash_is_part_of_the_name_and_a_plain_one_of_the_path(
    raw_path: bytes, name: str, code: str
) -> None:
    request: Any = Scope(raw_path)
    with pytest.raises(ProtocolError) as caught:
        channel_in(request, name)
    assert caught.value.code == code
    assert channel_in(RequestFactory().get("/"), "a:b") == "a:b"
