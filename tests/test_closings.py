"""Channels that are closed and opened again: what clients are told, what is refused, by every door, on every worker."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from realtime import authorization, closings, control, desk, limits, namespaces, publishing, tokens, worker
from realtime.models import Act, Channel, Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from tests.api.conftest import Api, assert_refused
from tests.conftest import WITHIN_S, aeventually
from tests.conversation import connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = ChannelName("room")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    def reset() -> None:
        namespaces.reset()
        tokens.reset_caches()
        limits.mirror.reset()
        closings.mirror.reset()

    reset()
    yield
    reset()


@pytest_asyncio.fixture
async def one_worker() -> AsyncIterator[None]:
    yield
    await stop_worker()


def made(name: str = "room") -> None:
    publishing.publish(name, "first")


def test_nobody_publishes_to_a_closed_channel_by_any_door_and_its_log_can_be_read() -> None:
    made()
    made("other")
    assert desk.close("room", actor="user:eve", reason="flood")
    assert not desk.close("room", actor="user:eve"), "it was closed"
    api = Api()
    assert_refused(api.publish("room", {"data": 1}), 403, "forbidden", "closed")
    many = api.request("POST", "/api/v1/publish", {"items": [
        {"channel": each, "messages": [{"data": 1}]} for each in ("room", "other")
    ]}).json()["items"]  # fmt: skip
    assert many[0]["error"]["code"] == "forbidden" and many[1]["serials"] == [2]
    with pytest.raises(ProtocolError, match="closed"):
        publishing.publish("room", 1)
    with pytest.raises(ProtocolError, match="closed"):
        desk.publish("room", 1, actor="user:eve")
    assert [each["data"] for each in api.page("room").json()["messages"]] == ["first"]
    assert api.request("GET", "/api/v1/channels/room").json()["closed"] is True
    assert "closed" not in api.request("GET", "/api/v1/channels/other").json()
    assert desk.open_again("room", actor="user:eve")
    assert api.publish("room", {"data": 1}).json()["serials"] == [2]
    assert list(Act.objects.order_by("pk").values_list("act", "target", "details")) == [
        ("close channel", "room", {"reason": "flood"}),
        ("open channel", "room", {}),
    ]


def test_who_may_not_even_attach_does_not_learn_that_a_channel_is_closed() -> None:
    made()
    closings.close(ROOM)
    stranger = token(cap={"else:*": ["*"]})
    told = [assert_refused(Api().publish(name, {"data": 1}, auth=stranger), 403, "forbidden") for name in ("room", "x")]
    assert told[0]["message"].replace("room", "x") == told[1]["message"]


def test_a_channel_that_does_not_exist_or_is_the_platforms_own_is_not_closed() -> None:
    with pytest.raises(ProtocolError) as refused:
        desk.close("room", actor="user:eve")
    assert refused.value.code == "not_found"
    Channel.objects.create(name="$control")
    with pytest.raises(ProtocolError):
        closings.close(control.CHANNEL)
    assert not Act.objects.exists() and not Channel.objects.filter(closed__isnull=False).exists()


async def test_attachments_end_with_forbidden_and_come_again_when_it_is_open(one_worker: None) -> None:
    async with connected() as ana, connected(text=token("bob")) as bob:
        await ana.publish("room", "first")
        for peer in (ana, bob):
            assert (await peer.request("attach", channel="room", presence=True))["type"] == "attached"
        await bob.request("attach", channel="other")
        await in_thread(desk.close, "room", actor="user:eve")
        for peer in (ana, bob):
            frame = await peer.read(type="detached")
            assert (frame["channel"], frame["reason"]) == ("room", "forbidden")
        assert (await bob.request("attach", channel="room"))["code"] == "forbidden"
        assert (await bob.publish("room", 1))["code"] == "forbidden"
        assert (await bob.request("presence", channel="room", action="enter"))["code"] == "forbidden"
        assert (await bob.request("history", channel="room"))["messages"][0]["data"] == "first"
        assert (await ana.publish("other", 1))["type"] == "published", "the others go on"
        await in_thread(desk.open_again, "room", actor="user:eve")
        await aeventually(lambda: not closings.is_closed(ROOM), WITHIN_S)
        assert (await bob.request("attach", channel="room", **{"from": "start"}))["type"] == "attached"
        assert (await bob.publish("room", 2))["type"] == "published"


async def test_a_worker_that_hears_of_it_or_only_looks_ends_attachments_too(one_worker: None) -> None:
    async with connected() as ana:
        await ana.publish("room", 1)
        await ana.request("attach", channel="room")
        # As another process does it: the row, and not a word to this one.
        await in_thread(lambda: Channel.objects.filter(name="room").update(closed="2026-01-01T00:00:00Z"))
        assert (await ana.read(type="detached"))["reason"] == "forbidden"
        assert worker.ensure().hub.occupancy(ROOM) == 0


def test_what_was_decided_from_memory_is_asked_of_the_closed_ones_first() -> None:
    made()
    closings.close(ROOM)
    for operation in ("subscribe", "publish", "presence", "signal"):
        with pytest.raises(ProtocolError, match="closed"):
            authorization.authorize(_ana(), ROOM, operation)
    for operation in ("history", "admin"):
        authorization.authorize(_ana(), ROOM, operation)  # type: ignore[arg-type]  # as above


def _ana() -> tokens.Identity:
    return tokens.verify_token(token(), time.time())


# ---------------------------------------------------------------- REST


def key(capability: dict[str, list[str]]) -> str:
    return tokens.create_api_key("ops", capability)[1]


def test_rest_closes_opens_empties_and_gives_a_new_epoch_as_the_desk_does() -> None:
    Namespace.objects.create(name="club")
    for _ in range(3):
        publishing.publish("club:x", 1)
    api, auth = Api(), key({"club:*": ["admin", "subscribe", "publish"]})
    at = "/api/v1/channels/club:x"
    answer = api.request("PATCH", at, {"closed": True, "reason": "flood"}, auth=auth)
    assert answer.status_code == 200 and answer.json()["closed"] is True
    assert_refused(api.publish("club:x", {"data": 1}, auth=auth), 403, "forbidden", "closed")
    assert "closed" not in api.request("PATCH", at, {"closed": False}, auth=auth).json()
    before = api.request("GET", at, auth=auth).json()["epoch"]
    told = api.request("POST", f"{at}/epoch", auth=auth).json()
    assert told["epoch"] != before and (told["oldest"], told["head"]) == (1, 3)
    told = api.request("DELETE", f"{at}/messages?upto=2", auth=auth).json()
    assert (told["oldest"], told["head"]) == (3, 3)
    told = api.request("DELETE", f"{at}/messages", auth=auth).json()
    assert (told["oldest"], told["head"]) == (4, 3)
    ledger = api.request("GET", f"{at}/ledger", auth=auth).json()
    assert ledger["balanced"] and ledger["delivered"] == ledger["written"] == 0
    acts = list(Act.objects.order_by("pk").values_list("actor", "act", "target"))
    assert acts == [("key:ops", act, "club:x") for act in (
        "close channel", "open channel", "new epoch", "prune channel", "empty channel",
    )]  # fmt: skip
    assert Act.objects.order_by("pk")[0].details == {"reason": "flood"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/api/v1/channels/room", {"closed": True}),
        ("POST", "/api/v1/channels/room/epoch", None),
        ("DELETE", "/api/v1/channels/room/messages", None),
        ("GET", "/api/v1/channels/room/ledger", None),
        ("GET", "/api/v1/channels/room/trace?serial=1", None),
        ("GET", "/api/v1/audit", None),
    ],
)
def test_only_an_api_key_with_admin_does_any_of_it(method: str, path: str, body: object) -> None:
    made()
    api = Api()
    raw = b"" if body is None else json.dumps(body).encode()
    assert_refused(api.request(method, path, raw=raw), 403, "forbidden", "API key")
    assert_refused(api.request(method, path, raw=raw, auth=None), 401, "unauthorized")
    weak = key({"*": ["subscribe", "publish", "history", "presence", "signal"], "else": ["admin"]})
    assert_refused(api.request(method, path, raw=raw, auth=weak), 403, "forbidden", "admin")
    assert api.request(method, path, raw=raw, auth=key({"*": ["*"]})).status_code == 200
    assert Channel.objects.get().closed is None or method == "PATCH"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"closed": 1},
        {"closed": True, "reason": 5},
        {"closed": True, "reason": "x" * 201},
        {"closed": True, "reason": "\0"},
    ],
)
def test_a_body_that_says_neither_is_bad(body: dict[str, object]) -> None:
    made()
    assert_refused(Api().request("PATCH", "/api/v1/channels/room", body, auth=key({"*": ["*"]})), 400, "bad_frame")
    assert Channel.objects.get().closed is None


def test_a_channel_that_is_none_is_told(db: None) -> None:
    api, auth = Api(), key({"*": ["*"]})
    for method, path, body in (
        ("PATCH", "", {"closed": True}),
        ("POST", "/epoch", {}),
        ("DELETE", "/messages", {}),
        ("GET", "/trace?serial=3", {}),
    ):
        at = f"/api/v1/channels/room{path}"
        assert_refused(api.request(method, at, body, auth=auth), 404, "not_found")
    assert_refused(api.request("GET", "/api/v1/channels/room/trace", auth=auth), 400, "bad_frame")
    assert not Act.objects.exists()


def test_one_message_is_traced_by_rest_too() -> None:
    made()
    told = Api().request("GET", "/api/v1/channels/room/trace?serial=1", auth=key({"room": ["admin"]})).json()
    assert (told["message"]["data"], told["message"]["serial"]) == ("first", 1)
    assert told["live"]["attached"] == 0 and told["epoch"]


def test_no_act_fails_for_a_character_that_a_database_does_not_store() -> None:
    desk.record("user:eve", "publish", "a\0b", event="c\0d", data=[{"e\0": "\\u0000"}])
    act = Act.objects.get()
    assert (act.target, act.details) == ("ab", {"event": "cd", "data": [{"e": "\\u0000"}]})


def test_the_audit_log_is_read_by_actor_act_target_and_time_page_by_page() -> None:
    api, auth = Api(), key({"*": ["*"]})
    for number in range(5):
        desk.record("user:eve", "block", f"c{number}", reason="abuse")
        desk.record("key:ops", "publish", "room", serial=number)

    def read(query: str) -> Any:
        return api.request("GET", f"/api/v1/audit?{query}", auth=auth).json()

    assert [each["target"] for each in read("actor=user:eve")["acts"]] == ["c4", "c3", "c2", "c1", "c0"]
    assert [each["details"]["serial"] for each in read("act=publish&target=room")["acts"]] == [4, 3, 2, 1, 0]
    assert read("target=c3")["acts"][0]["details"] == {"reason": "abuse"}
    page = read("limit=4")
    rest = read(f"limit=100&before={page['next']}")
    assert len(page["acts"]) == 4 and len(rest["acts"]) == 6 and rest["next"] is None
    assert read("since=253402300799000")["acts"] == [] and len(read("since=1")["acts"]) == 10
    assert_refused(api.request("GET", "/api/v1/audit?act=dance", auth=auth), 400, "bad_frame")
