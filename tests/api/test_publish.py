"""POST messages and POST /publish."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from realtime import authorization
from realtime.delivery.capability import Capability
from realtime.models import Message, Namespace
from realtime.protocol.names import ChannelName
from realtime.tokens import Identity, create_api_key
from tests.api.conftest import Api, assert_refused, messages_path, token


def stored(api: Api, channel: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = api.page(channel, "after=0&limit=1000").json()["messages"]
    return messages


def test_one_message_is_stored_and_answered_with_its_serial(api: Api) -> None:
    response = api.publish("x", {"event": "tick", "data": {"v": 1}})
    assert response.status_code == 201
    body = response.json()
    assert list(body) == ["channel", "epoch", "serials", "duplicates", "conflicts"]
    assert (body["channel"], body["serials"], body["duplicates"], body["conflicts"]) == ("x", [1], [], [])
    (message,) = stored(api, "x")
    assert (message["event"], message["data"], message["client"]) == ("tick", {"v": 1}, "ana")
    assert response.headers["Cache-Control"] == "no-store"


def test_many_messages_are_stored_in_order(api: Api) -> None:
    response = api.publish("x", {"messages": [{"data": i} for i in range(1000)]})
    assert response.status_code == 201 and response.json()["serials"] == list(range(1, 1001))
    assert_refused(api.publish("x", {"messages": [{"data": i} for i in range(1001)]}), 400, "bad_frame")
    assert api.page("x").json()["head"] == 1000


def test_all_known_is_200(api: Api) -> None:
    one, two = [{"id": "x", "data": 1}], [{"id": "x", "data": 1}, {"id": "y", "data": 2}]
    answers = [api.publish("x", {"messages": each}) for each in (one, one, two, two)]
    assert [each.status_code for each in answers] == [201, 200, 201, 200]
    assert (answers[2].json()["serials"], answers[2].json()["duplicates"]) == ([1, 2], [0])
    other = api.publish("x", {"id": "x", "data": "other"})
    assert (other.status_code, other.json()["conflicts"]) == (200, [0])


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "x"},
        {"messages": []},
        {"messages": None},
        {"messages": [1]},
        {"messages": [{"data": 1}, {"event": ""}]},
        {"id": "a b", "data": 1},
        {"id": "", "data": 1},
        {"id": "i" * 65, "data": 1},
        {"key": "a\nb", "data": 1},
        {"event": 5, "data": 1},
        [1],
        "x",
        None,
    ],
)
def test_a_wrong_body_is_refused_and_stores_nothing(api: Api, body: Any) -> None:
    assert_refused(api.publish("x", body), 400, "bad_frame")
    assert Message.objects.count() == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"data":NaN}',
        b'{"data":1e999}',
        b'{"data":"\\ud800"}',
        b'{"data":"\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"data":1}x',
        b'{"data":' + b"[" * 65 + b"]" * 65 + b"}",
        b"[" * 100_000,
        b'{"data":' + b"[" * 200_000,
    ],
)
def test_json_is_read_as_strictly_as_on_the_wire(api: Api, raw: bytes) -> None:
    assert_refused(api.request("POST", messages_path("x"), raw=raw), 400, "bad_frame")
    assert Message.objects.count() == 0


def test_data_is_stored_in_canonical_form_and_the_last_duplicate_name_counts(api: Api) -> None:
    raw = b'{ "data" : { "b" : 1.50 , "a" : "\\u00e9\\/" , "b" : 2 }, "unknown": [1] }'
    assert api.request("POST", messages_path("x"), raw=raw).status_code == 201
    assert '"data":{"b":2,"a":"é/"}}' in api.page("x").content.decode()


def test_data_of_64_levels_and_an_empty_object_are_messages(api: Api) -> None:
    raw = b'{"data":' + b"[" * 64 + b"]" * 64 + b"}"
    assert api.request("POST", messages_path("x"), raw=raw).status_code == 201
    assert api.publish("x", {}).status_code == 201
    assert [message["data"] for message in stored(api, "x")][1] is None


# ---------------------------------------------------------------- Idempotency-Key


def test_the_idempotency_key_is_the_id_of_a_single_message(api: Api) -> None:
    api.publish("x", {"data": 0})
    answers = [
        api.publish("x", {"data": 1}, Idempotency_Key="key-1"),
        api.publish("x", {"data": 2}, Idempotency_Key="key-1"),
        api.publish("x", {"data": 1, "id": "key-1"}, Idempotency_Key="key-1"),
        api.publish("x", {"messages": [{"data": 1}]}, Idempotency_Key="key-1"),
    ]
    assert [each.status_code for each in answers] == [201, 200, 200, 200]
    assert [each.json()["conflicts"] for each in answers] == [[], [0], [], []]
    assert [message["id"] == "key-1" for message in stored(api, "x")] == [False, True]


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"messages": [{"data": 1}, {"data": 2}]}, "key-1"),
        ({"data": 1, "id": "other"}, "key-1"),
        ({"data": 1}, "a b"),
        ({"data": 1}, ""),
        ({"data": 1}, "k" * 65),
        ({"data": 1}, "zo\xeb"),
    ],
)
def test_an_idempotency_key_that_does_not_fit_is_refused(api: Api, body: Any, key: str) -> None:
    assert_refused(api.publish("x", body, Idempotency_Key=key), 400, "bad_frame")
    assert Message.objects.count() == 0


# ---------------------------------------------------------------- who publishes


def test_an_api_key_publishes_under_its_name_or_for_the_client_in_the_body(api: Api) -> None:
    _, key = create_api_key("backend")
    assert api.publish("x", {"data": 1}, auth=key).status_code == 201
    api.publish("x", {"data": 2, "client": "feed-8"}, auth=key)
    api.publish("x", {"messages": [{"data": 3}], "client": "feed-7"}, auth=key)
    api.publish("x", {"data": 4, "client": None}, auth=key)
    assert [message["client"] for message in stored(api, "x")] == ["backend", "feed-8", "feed-7", "backend"]


@pytest.mark.parametrize("client", ["", "a b", 5, "c" * 129, ["x"]])
def test_the_client_in_the_body_is_a_client_id(api: Api, client: Any) -> None:
    _, key = create_api_key("backend")
    assert_refused(api.publish("x", {"data": 1, "client": client}, auth=key), 400, "bad_frame", "client")


def test_a_token_publishes_as_its_sub_whatever_the_body_says(api: Api) -> None:
    assert api.publish("x", {"data": 1, "client": "mallory"}).status_code == 201
    assert [message["client"] for message in stored(api, "x")] == ["ana"]


def test_ids_are_known_per_client(api: Api) -> None:
    _, key = create_api_key("backend")
    answers = [
        api.publish("x", {"id": "m", "data": 1}, auth=token("ana")),
        api.publish("x", {"id": "m", "data": 1}, auth=token("ben")),
        api.publish("x", {"id": "m", "data": 1}, auth=key),
        api.publish("x", {"id": "m", "data": 1, "client": "ana"}, auth=key),
    ]
    assert [each.json()["serials"] for each in answers] == [[1], [2], [3], [1]]


# ---------------------------------------------------------------- order of checks, limits


def test_refusals_come_in_the_order_of_the_contract(api: Api) -> None:
    """Credentials, body, name, forbidden, not found, limits."""
    narrow = token(cap={"club:*": ["publish"]})
    wrong, large = {"messages": 1}, {"data": "x" * 70_000}
    assert_refused(api.publish("bad name", wrong, auth="bad"), 401, "unauthorized")
    assert_refused(api.publish("bad name", wrong, auth=narrow), 400, "bad_frame")
    assert_refused(api.publish("bad name", large, auth=narrow), 400, "bad_channel")
    assert_refused(api.publish("nobody:x", large, auth=narrow), 403, "forbidden")
    assert_refused(api.publish("club:x", large, auth=narrow), 404, "not_found")
    assert_refused(api.publish("x", large), 413, "too_large")


def test_a_namespace_can_leave_the_making_of_channels_to_operators(api: Api) -> None:
    Namespace.objects.create(name="made", create="operator")
    assert_refused(api.publish("made:x", {"data": 1}), 404, "not_found")
    assert api.page("made:x").json()["messages"] == []


def test_a_rate_is_told_with_when_to_come_back(api: Api) -> None:
    Namespace.objects.create(name="slow", publish_rate=1, publish_burst=2)
    answers = [api.publish("slow:x", {"data": i}, auth=token("flood")) for i in range(3)]
    assert [each.status_code for each in answers] == [201, 201, 429]
    error = assert_refused(answers[2], 429, "rate_limited")
    assert 0 < error["retry_after_ms"] <= 1000


def test_a_body_that_is_too_long_is_refused_before_it_is_read(api: Api, realtime_settings: Any) -> None:
    realtime_settings(ROUND_MAX_BYTES=2048)
    assert_refused(api.publish("x", {"data": "x" * 2048}), 413, "too_large", "2048")
    assert api.publish("x", {"data": "x" * 1900}).status_code == 201


def test_a_body_without_a_length_is_read_too() -> None:
    """Chunked: DRF's own parser takes such a body for an empty one."""
    from io import BytesIO

    from django.core.handlers.asgi import ASGIRequest

    from realtime.api.parsers import read_object

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")],
    }
    assert read_object(ASGIRequest(scope, BytesIO(b'{"data":1}'))) == {"data": 1}


def test_publishing_costs_no_query_beside_the_round(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with a token nor with an API key: credentials and rules come from memory."""
    from django.test.utils import CaptureQueriesContext

    from realtime.api import views
    from realtime.log.types import Published
    from realtime.protocol.names import ChannelName

    def stored_nothing(*_: object, **__: object) -> Published:
        return Published(ChannelName("x"), "epoch", [1], [], [])

    monkeypatch.setattr(views, "publish_batch", stored_nothing)
    _, key = create_api_key("backend")
    for auth in (token(), key):
        api.publish("x", {"data": 1}, auth=auth)
        with CaptureQueriesContext(connection) as queries:
            for _ in range(5):
                assert api.publish("x", {"data": 1}, auth=auth).status_code == 201
        assert len(queries) == 0, queries.captured_queries


# ---------------------------------------------------------------- POST /publish


def publish_many(api: Api, body: Any, **more: Any) -> Any:
    return api.request("POST", "/api/v1/publish", body, **more)


def test_items_are_answered_in_order_each_by_itself(api: Api) -> None:
    items = [
        {"channel": "a", "messages": [{"data": 1}, {"data": 2}]},
        {"channel": "bad name", "messages": [{"data": 1}]},
        {"channel": "d", "messages": [{"data": 1}, {"event": ""}]},
        {"channel": "b", "messages": [{"data": 3}]},
        {"channel": "nobody:x", "messages": [{"data": 1}]},
        {"channel": "a", "messages": [{"data": 4}]},
        {"messages": [{"data": 1}]},
        {"channel": "a"},
        "x",
    ]
    response = publish_many(api, {"items": items})
    assert response.status_code == 200
    got = response.json()["items"]
    assert [each.get("serials") or each["error"]["code"] for each in got] == [
        [1, 2],
        "bad_channel",
        "bad_frame",
        [1],
        "not_found",
        [3],
        "bad_frame",
        "bad_frame",
        "bad_frame",
    ]
    assert (got[0]["channel"], got[0]["duplicates"], got[0]["conflicts"]) == ("a", [], [])
    assert api.page("d").json()["head"] == 0


def test_an_item_that_is_forbidden_leaves_the_others(api: Api) -> None:
    items = [{"channel": each, "messages": [{"data": 1}]} for each in ("a", "b")]
    got = publish_many(api, {"items": items}, auth=token(cap={"b": ["publish"]})).json()["items"]
    assert [each.get("serials") or each["error"]["code"] for each in got] == ["forbidden", [1]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": "x"},
        {"items": [{"channel": "a", "messages": [{"data": 1}]}] * 101},
        {"items": [{"channel": "a", "messages": [{"data": 1}] * 501}] * 2},
    ],
)
def test_wrong_items_are_refused_as_a_whole(api: Api, body: Any) -> None:
    assert_refused(publish_many(api, body), 400, "bad_frame")
    assert Message.objects.count() == 0


def test_an_api_key_says_for_whom_at_the_top_or_per_item(api: Api) -> None:
    _, key = create_api_key("backend")
    items = [
        {"channel": "a", "messages": [{"data": 1}]},
        {"channel": "a", "messages": [{"data": 2}], "client": "feed"},
    ]
    publish_many(api, {"items": items, "client": "all"}, auth=key)
    assert [message["client"] for message in stored(api, "a")] == ["all", "feed"]
    got = publish_many(api, {"items": [{**items[0], "client": "a b"}]}, auth=key).json()["items"]
    assert got[0]["error"]["code"] == "bad_frame"


def test_items_need_credentials(api: Api) -> None:
    item = {"channel": "a", "messages": [{"data": 1}]}
    assert_refused(publish_many(api, {"items": [item]}, auth=None), 401, "unauthorized")


def test_a_capability_is_what_counts_not_who_asks(api: Api) -> None:
    _, key = create_api_key("backend", {"a": ["history"]})
    assert_refused(api.publish("a", {"data": 1}, auth=key), 403, "forbidden")
    assert Capability.parse({"a": ["history"]}).allows("a", "history")


def test_a_hook_that_sees_messages_sees_those_of_every_door(api: Api) -> None:
    seen: list[object] = []

    def hook(identity: Identity, channel: ChannelName, operation: str, context: Any) -> bool:
        if operation == "publish":
            seen.append(([each.data for each in context["messages"]], context["client"]))
            return all(each.data != "13" for each in context["messages"])
        return True

    Namespace.objects.create(name="seen")
    authorization.register("seen", hook, remember_s=60, sees_messages=True)
    try:
        assert api.publish("seen:x", {"messages": [{"data": 1}, {"data": 2}]}).status_code == 201
        assert_refused(api.publish("seen:x", {"messages": [{"data": 1}, {"data": 13}]}), 403, "forbidden")
        items = [{"channel": "seen:x", "messages": [{"data": each}]} for each in (3, 13)]
        answer = publish_many(api, {"items": items}).json()["items"]
        key = create_api_key("backend")[1]
        assert api.publish("seen:x", {"client": "bo", "data": 4}, auth=key).status_code == 201
    finally:
        authorization.unregister("seen", hook)
    assert answer[0]["serials"] == [3] and answer[1]["error"]["code"] == "forbidden"
    assert seen == [(["1", "2"], "ana"), (["1", "13"], "ana"), (["3"], "ana"), (["13"], "ana"), (["4"], "bo")]
