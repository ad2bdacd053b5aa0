"""Whole conversations with the consumer over plain ASGI, as any ASGI server would serve it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.test import Client

from realtime import authorization, budgets, namespaces, publishing, tokens, worker
from realtime.authorization import HOOK_TIMEOUT_S
from realtime.models import Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from seriatim_client.fossil import apply_delta
from tests.conftest import aeventually
from tests.conversation import HOST, OWN_ORIGIN, PATIENCE_S, Peer, bearer, connected, in_thread, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing of another test is remembered, and its hooks are gone."""
    hooks = dict(authorization._hooks)
    namespaces.reset()
    tokens.reset_caches()
    yield
    authorization._hooks.clear()
    authorization._hooks.update(hooks)
    authorization._remembered.clear()
    namespaces.reset()
    tokens.reset_caches()


@pytest_asyncio.fixture(autouse=True)
async def one_worker(fresh: None) -> AsyncIterator[None]:
    yield
    await stop_worker()


@pytest.fixture
def room(transactional_db: None) -> None:
    Namespace.objects.create(name="room", known_ops=["subscribe", "publish", "history"], max_message_bytes=100)


@pytest.fixture
def cookie(transactional_db: None) -> tuple[Client, tuple[bytes, bytes]]:
    """A browser that is logged in as ana, and the header it sends."""
    browser = Client()
    browser.force_login(get_user_model().objects.create_user("ana", password="ana"))
    return browser, (b"cookie", f"sessionid={browser.session.session_key}".encode())


def clients_of(running: worker.Worker) -> list[Any]:
    return list(running.clients)


class Hook:
    """An application's hook that is answered when the test says so; called in a thread."""

    def __init__(self, namespace: str, **options: Any) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.answer: Callable[[str, str, str], bool] = lambda client, channel, operation: True
        self.go = threading.Event()
        self.go.set()
        authorization.register(namespace, self, **options)

    def __call__(self, identity: tokens.Identity, channel: ChannelName, operation: str, context: object) -> bool:
        question = (identity.client, channel, operation)
        self.asked.append(question)
        assert threading.current_thread() is not threading.main_thread()
        assert self.go.wait(PATIENCE_S)
        return self.answer(*question)


# ---------------------------------------------------------------------- handshake


@pytest.mark.parametrize(
    ("headers", "subprotocols"),
    [
        ([(b"host", b"elsewhere.example")], []),
        ([HOST, (b"origin", b"http://elsewhere.example")], []),
        ([HOST], ["graphql-ws"]),
    ],
)
async def test_a_handshake_that_is_not_allowed_is_refused(headers: Any, subprotocols: list[str]) -> None:
    peer = Peer(path="/ws", subprotocols=subprotocols)
    peer.communicator.scope["headers"] = headers
    assert not await peer.connect()


async def test_a_refused_handshake_says_why_where_the_server_can() -> None:
    peer = Peer((b"origin", b"http://elsewhere.example"))
    peer.communicator.scope["extensions"] = {"websocket.http.response": {}}
    await peer.communicator.send_input({"type": "websocket.connect"})
    start = await peer.communicator.receive_output(PATIENCE_S)
    body = await peer.communicator.receive_output(PATIENCE_S)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert b"elsewhere.example" in body["body"]


@pytest.mark.parametrize("path", ["/", "/ws/", "/ws2", "/wss", "/api/ws"])
async def test_there_is_a_socket_at_one_path_only(path: str) -> None:
    assert not await Peer(path=path).connect()


async def test_a_mount_point_is_no_part_of_the_path() -> None:
    peer = Peer(bearer(token()), path="/app/ws")
    peer.communicator.scope["root_path"] = "/app"
    assert await peer.connect()
    await peer.read(type="ready")
    await peer.leave()


async def test_the_subprotocol_is_echoed_where_one_was_offered() -> None:
    async with connected() as peer:
        assert peer.subprotocol is None
    async with connected(subprotocols=["seriatim.v2.cbor", "seriatim.v1.json"]) as peer:
        assert peer.subprotocol == "seriatim.v1.json"


# ---------------------------------------------------------------------- credentials


async def test_a_token_in_the_header() -> None:
    peer = Peer(bearer(token("bo")))
    assert await peer.connect()
    ready = await peer.read(type="ready")
    assert (ready["client"], ready["protocol"]) == ("bo", 1)
    assert 0 < ready["expires_ms"] <= 601_000 and "ref" not in ready
    await peer.leave()


async def test_a_token_among_the_subprotocols_is_not_echoed() -> None:
    peer = Peer(subprotocols=[f"seriatim.bearer.{token('bo')}", "seriatim.v1.json"])
    assert await peer.connect()
    assert peer.subprotocol == "seriatim.v1.json"
    assert (await peer.read(type="ready"))["client"] == "bo"
    await peer.leave()


async def test_a_token_in_the_first_frame_and_frames_behind_it() -> None:
    peer = Peer()
    assert await peer.connect()
    await peer.send({"type": "ping", "ref": "early"}, {"type": "auth", "ref": 0, "token": token()})
    await peer.send({"type": "ping", "ref": "late"})
    assert (await peer._next())["code"] == "unauthorized"
    assert (await peer._next())["type"] == "ready"
    assert (await peer._next())["ref"] == "late"
    await peer.leave()


async def test_a_session_cookie_with_this_sites_origin(cookie: Any) -> None:
    peer = Peer(cookie[1], OWN_ORIGIN)
    assert await peer.connect()
    # Sent before anybody knows whether the cookie is good.
    await peer.send({"type": "ping", "ref": 1})
    ready = await peer._next()
    assert (ready["type"], ready["client"]) == ("ready", "ana")
    assert (await peer._next())["type"] == "pong"
    assert (await peer.publish("lobby", 1))["serials"] == [1]
    await peer.leave()


async def test_a_session_cookie_without_origin_is_refused(cookie: Any) -> None:
    assert not await Peer(cookie[1]).connect()


async def test_a_session_cookie_of_nobody_leaves_auth_to_be_awaited(transactional_db: None) -> None:
    peer = Peer((b"cookie", b"sessionid=" + b"x" * 32), OWN_ORIGIN)
    assert await peer.connect()
    await peer.send({"type": "auth", "token": token("bo")})
    assert (await peer._next())["client"] == "bo"
    await peer.leave()


async def test_a_cookie_that_cannot_be_looked_up_is_not_called_bad(
    cookie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object) -> None:
        raise ProtocolError("unavailable")

    monkeypatch.setattr(tokens, "identity_from_cookies", away)
    peer = Peer(cookie[1], OWN_ORIGIN)
    assert await peer.connect()
    code, reason, frames = await peer.closed()
    assert (code, frames) == (4013, []) and "retry_after_ms" in reason
    await peer.leave()


@pytest.mark.parametrize("end", ["logout", "password", "inactive", "deleted"])
async def test_the_end_of_a_session_closes_its_socket(end: str, cookie: Any) -> None:
    browser, header = cookie
    async with connected(text=token("ana")) as by_token:
        peer = Peer(header, OWN_ORIGIN)
        assert await peer.connect()
        await peer.read(type="ready")

        def finish() -> None:
            user = User.objects.get(username="ana")
            if end == "logout":
                browser.logout()
            elif end == "password":
                user.set_password("another")
                user.save()
            elif end == "inactive":
                user.is_active = False
                user.save()
            else:
                user.delete()

        await in_thread(finish)
        code, _, frames = await peer.closed()
        assert (code, [frame["code"] for frame in frames]) == (4401, ["unauthorized"])
        await peer.leave()
        await by_token.nothing_else()


@pytest.mark.parametrize("text", ["", "nonsense", "ser_k1_secret"])
async def test_a_bad_token_is_told_on_the_open_socket(text: str) -> None:
    peer = Peer(bearer(text))
    assert await peer.connect()
    code, reason, frames = await peer.closed()
    assert code == 4401 and len(reason.encode()) <= 123
    assert [frame["code"] for frame in frames] == ["unauthorized"]
    await peer.leave()


# ---------------------------------------------------------------------- conversations


async def test_attach_publish_ack_history_detach() -> None:
    async with connected() as ana, connected(text=token("bo")) as bo:
        attached = await bo.request("attach", channel="lobby", window=4)
        assert attached == {
            "type": "attached",
            "channel": "lobby",
            "epoch": None,
            "serial": 0,
            "head": 0,
            "resumed": True,
            "window": 4,
            "ack_every": 2,
            "ack_ms": 10_000,
            "ref": attached["ref"],
        }
        published = await ana.request(
            "publish", channel="lobby", messages=[{"id": "m1", "event": "say", "key": "k", "data": {"b": 1.0}}]
        )
        assert published == {
            "type": "published",
            "channel": "lobby",
            "epoch": published["epoch"],
            "serials": [1],
            "duplicates": [],
            "conflicts": [],
            "ref": published["ref"],
        }
        begun = await bo.read(type="attached")
        assert (begun["epoch"], begun["serial"], begun["resumed"]) == (published["epoch"], 0, True)
        message = await bo.read(type="message")
        assert list(message) == ["type", "channel", "serial", "id", "time", "client", "event", "key", "data"]
        assert (message["client"], message["id"], message["event"], message["key"]) == ("ana", "m1", "say", "k")
        again = await ana.request("publish", channel="lobby", messages=[{"id": "m1", "data": 7}])
        assert (again["serials"], again["duplicates"], again["conflicts"]) == ([1], [0], [0])

        await ana.publish("lobby", *range(2, 8))
        assert await bo.messages("lobby", 3) == [2, 3, 4]
        await bo.nothing_else()
        await bo.send({"type": "ping", "acks": {"lobby": 4, "unknown": 9}})
        await bo.read(type="pong")
        assert await bo.messages("lobby", 3) == [5, 6, 7]
        await bo.send({"type": "ack", "serials": {"lobby": 99}})
        assert (await bo.read(type="error"))["code"] == "bad_ack"

        page = await bo.request("history", channel="lobby", before=7, limit=2)
        assert [each["serial"] for each in page["messages"]] == [6, 5]
        assert (page["oldest"], page["head"], page["more"], page["type"]) == (1, 7, True, "history")
        assert (await bo.request("detach", channel="lobby"))["type"] == "detached"
        assert (await bo.request("detach", channel="lobby"))["code"] == "not_attached"
        await ana.publish("lobby", 8)
        await bo.nothing_else()


@pytest.mark.parametrize(
    ("position", "first", "resumed"),
    [
        ("start", 1, True),
        ("head", 9, True),
        ({"rewind": 3}, 6, True),
        ({"since": 0}, 1, True),
        ({"serial": 4}, 5, True),
        ({"serial": 99}, 1, False),
        ({"serial": 4, "epoch": "other"}, 1, False),
    ],
)
async def test_every_position_is_followed_by_the_log(position: Any, first: int, resumed: bool) -> None:
    async with connected() as ana, connected() as bo:
        epoch = (await ana.publish("lobby", *range(1, 9)))["epoch"]
        if isinstance(position, dict) and "serial" in position:
            position = {"epoch": epoch, **position}
        attached = await bo.request("attach", channel="lobby", **{"from": position})
        assert (attached["serial"], attached["resumed"], attached["head"]) == (first - 1, resumed, 8)
        if not resumed:
            skipped = await bo._next()
            assert (skipped["type"], skipped["reason"], skipped["from"]) == ("skipped", "epoch", None)
        await ana.publish("lobby", 9)
        assert await bo.messages("lobby", 10 - first) == list(range(first, 10))
        await bo.nothing_else()


async def test_deltas_where_the_namespace_allows_them(transactional_db: None) -> None:
    await in_thread(Namespace.objects.create, name="board", known_ops=["subscribe", "publish", "history"], delta=True)
    states = [{"load": load, "state": "a state that is long enough to be told as a difference"} for load in range(5)]
    async with connected() as ana, connected() as bo, connected() as cy:
        for channel, delta in (("board:main", "fossil"), ("board:main", None), ("plain", "fossil")):
            attached = await ana.request("attach", channel=channel, delta=delta)
            assert attached.get("delta") == ("fossil" if (channel, delta) == ("board:main", "fossil") else None)
        await ana.request("attach", channel="board:main", delta="fossil", **{"from": "start"})
        assert "delta" not in await bo.request("attach", channel="board:main", delta="vcdiff")
        await ana.publish("plain", states[0])
        assert await ana.messages("plain", 1) == [states[0]]
        for state in states:
            await bo.publish("board:main", state)
        assert await bo.messages("board:main", 5) == states
        frames = [await ana.read(type="message", channel="board:main") for _ in states]
        assert [frame.get("base") for frame in frames] == [None, 1, 2, 3, 4]
        texts = [frames[0]["data"].encode()]
        for frame in frames[1:]:
            texts.append(apply_delta(texts[-1], frame["data"].encode()))
        assert [json.loads(text) for text in texts] == states
        # From the log: whole, then differences; the newest of each key whole; and as before when it is read without.
        await cy.request("attach", channel="board:main", delta="fossil", **{"from": {"rewind": 2}})
        assert [(await cy.read(type="message")).get("base") for _ in range(2)] == [None, 4]
        await bo.request("publish", channel="board:main", messages=[{"key": "k", "data": "x"}])
        await cy.request("attach", channel="board:main", delta="fossil", **{"from": "latest"})
        newest = await cy.read(type="message", snapshot=True)
        assert newest["data"] == '"x"' and "base" not in newest
        page = await cy.request("history", channel="board:main", limit=1)
        assert page["messages"][0]["data"] == "x"


async def test_latest_is_a_snapshot_and_then_what_is_new() -> None:
    async with connected() as ana, connected() as bo:
        messages = [{"key": f"k{number % 2}", "data": number} for number in range(4)]
        await ana.request("publish", channel="lobby", messages=messages)
        await bo.request("attach", channel="lobby", **{"from": "latest"})
        snapshot = [await bo._next(), await bo._next()]
        assert [(frame["data"], frame["snapshot"]) for frame in snapshot] == [(2, True), (3, True)]
        assert (await bo._next())["type"] == "snapshot.end"
        await ana.publish("lobby", "new")
        assert await bo.messages("lobby", 1) == ["new"]


async def test_refusals_come_in_the_order_of_the_contract(room: None) -> None:
    cap = {"lobby": ["publish"], "room:*": ["subscribe", "publish"], "nowhere:*": ["*"]}
    async with connected(text=token(cap=cap)) as peer:
        table: list[tuple[str, dict[str, Any], str]] = [
            ("attach", {"channel": "no:", "from": "nonsense"}, "bad_channel"),
            ("attach", {"channel": "lobby", "from": "nonsense"}, "forbidden"),
            ("attach", {"channel": "nobody:x"}, "forbidden"),
            ("attach", {"channel": "nowhere:x", "from": "nonsense"}, "not_found"),
            ("attach", {"channel": "room:x", "from": "nonsense"}, "bad_position"),
            ("attach", {"channel": "room:x", "from": None}, "bad_position"),
            ("attach", {"channel": "room:x", "from": "start"}, "forbidden"),
            ("history", {"channel": "room:x"}, "forbidden"),
            ("publish", {"channel": "room:x", "messages": [{"data": "x" * 200}]}, "too_large"),
            ("publish", {"channel": "other", "messages": [{"data": "x" * 200_000}]}, "forbidden"),
            ("publish", {"channel": "room:x", "messages": []}, "bad_frame"),
            ("signal", {"channel": "room:x", "event": "typing"}, "forbidden"),
            ("presence", {"channel": "room:x", "action": "enter"}, "forbidden"),
            ("dance", {}, "unknown_type"),
        ]
        for kind, fields, code in table:
            answer = await peer.request(kind, **fields)
            assert (answer["type"], answer["code"]) == ("error", code), (kind, fields)
            assert answer["message"] and answer["remedy"]
        assert (await peer.request("attach", channel="room:x", window=9999))["window"] == 1024


async def test_a_channel_that_an_operator_must_make_is_not_found(room: None) -> None:
    await in_thread(Namespace.objects.filter(name="room").update, create="operator")
    async with connected() as peer:
        assert (await peer.request("attach", channel="room:x"))["code"] == "not_found"
        assert (await peer.publish("room:x", 1))["code"] == "not_found"
        assert (await peer.request("detach", channel="room:x"))["code"] == "not_attached"


async def test_attaching_again_moves_the_attachment() -> None:
    async with connected() as peer:
        epoch = (await peer.publish("lobby", 1, 2, 3))["epoch"]
        await peer.request("attach", channel="lobby", **{"from": "start"})
        assert await peer.messages("lobby", 3) == [1, 2, 3]
        await peer.request("attach", channel="lobby", **{"from": {"epoch": epoch, "serial": 1}})
        assert await peer.messages("lobby", 2) == [2, 3]
        assert (await peer.request("attach", channel="lobby", **{"from": 1}))["code"] == "bad_position"
        await peer.publish("lobby", 4)
        assert await peer.messages("lobby", 1) == [4]
        running = worker.current()
        assert running is not None and running.hub.occupancy(ChannelName("lobby")) == 1
        await peer.nothing_else()


async def test_nothing_of_a_channel_follows_its_detach() -> None:
    async with connected() as peer:
        await peer.publish("lobby", 1)
        for _ in range(5):
            await peer.send(
                {"type": "attach", "channel": "lobby", "from": {"epoch": "other", "serial": 5}},
                {"type": "detach", "channel": "lobby"},
                {"type": "ping", "ref": "end"},
            )
            seen = []
            while (frame := await peer._next()).get("ref") != "end":
                seen.append(frame["type"])
            assert seen == ["attached", "detached"]


async def test_publishes_in_flight_keep_their_order_and_are_all_answered() -> None:
    async with connected() as ana, connected() as bo:
        await bo.request("attach", channel="lobby", window=0)
        for number in range(300):
            await ana.send(
                {"type": "publish", "ref": number, "channel": "lobby", "messages": [{"data": number}], "chained": True}
            )
        answers = [await ana._next() for _ in range(300)]
        assert [answer["ref"] for answer in answers] == list(range(300))
        assert [answer["serials"] for answer in answers] == [[number + 1] for number in range(300)]
        assert await bo.messages("lobby", 300) == list(range(300))


async def test_a_chained_publish_fails_behind_one_that_failed_though_both_had_waited(room: None) -> None:
    """Both wait for the attach, and begin in one go: the first is refused at once, the second must know."""
    async with connected() as peer:
        await peer.send(
            {"type": "attach", "ref": 0, "channel": "room:x"},
            {"type": "publish", "ref": 1, "channel": "room:x", "messages": [{"data": "x" * 200}]},
            {"type": "publish", "ref": 2, "channel": "room:x", "messages": [{"data": 2}], "chained": True},
            {"type": "publish", "ref": 3, "channel": "room:x", "messages": [{"data": 3}]},
        )
        assert (await peer.read(ref=1))["code"] == "too_large"
        assert (await peer.read(ref=2))["code"] == "order"
        assert (await peer.read(ref=3))["serials"] == [1]


async def test_attachments_are_bounded(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(MAX_ATTACHMENTS=2)
    async with connected() as peer:
        answers = [await peer.request("attach", channel=f"c{number}") for number in range(3)]
        assert [answer.get("code") for answer in answers] == [None, None, "limit_exceeded"]
        await peer.request("detach", channel="c0")
        assert (await peer.request("attach", channel="c2"))["type"] == "attached"


async def test_the_rate_of_a_namespace_is_kept(room: None) -> None:
    await in_thread(Namespace.objects.filter(name="room").update, publish_rate=1, publish_burst=2)
    async with connected(text=token("limited")) as peer:
        answers = [await peer.publish("room:x", number) for number in range(3)]
        assert [answer.get("code") for answer in answers] == [None, None, "rate_limited"]
        assert 0 < answers[-1]["retry_after_ms"] <= 1000


async def test_what_python_publishes_arrives() -> None:
    async with connected() as peer:
        await peer.request("attach", channel="lobby")
        receipt = await publishing.apublish("lobby", {"from": "python"})
        message = await peer.read(type="message")
        assert (message["serial"], message["data"], message["client"]) == (receipt.serial, {"from": "python"}, None)


# ---------------------------------------------------------------------- closes on plain ASGI


async def test_a_binary_frame_closes() -> None:
    async with connected() as peer:
        await peer.send(b"\x00")
        assert (await peer.closed())[0] == 4003


async def test_a_frame_that_is_too_large_closes(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(MAX_FRAME_BYTES=2000)
    async with connected() as peer:
        await peer.send({"type": "ping", "ref": 1, "more": "x" * 1900})
        await peer.read(ref=1)
        await peer.send('{"type":"ping","more":"' + "é" * 1000 + '"}')
        assert (await peer.closed())[0] == 4009


async def test_the_eleventh_bad_frame_closes() -> None:
    async with connected() as peer:
        await peer.send(*["no json"] * 12)
        code, reason, frames = await peer.closed()
        assert (code, reason) == (4400, "too many bad frames")
        assert [frame["code"] for frame in frames] == ["bad_frame"] * 11


async def test_who_sends_no_auth_is_closed(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(AUTH_TIMEOUT_MS=100, HEARTBEAT_MS=1000)
    peer = Peer()
    assert await peer.connect()
    assert (await peer.closed())[0] == 4408
    await peer.leave()


async def test_a_quiet_connection_gets_heartbeats(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(HEARTBEAT_MS=1000)
    async with connected() as peer:
        assert await peer._next() == {"type": "heartbeat"}


# ---------------------------------------------------------------------- rights


async def test_a_renewal_with_a_smaller_capability_ends_what_it_does_not_allow() -> None:
    async with connected() as peer:
        await peer.publish("a", 1)
        for channel in ("a", "b"):
            await peer.request("attach", channel=channel)
        smaller = token(cap={"b": ["subscribe"]})
        renewed = await peer.request("auth", token=smaller)
        assert renewed["type"] == "authenticated"
        assert await peer._next() == {"type": "detached", "channel": "a", "reason": "forbidden"}
        assert (await peer.publish("a", 2))["code"] == "forbidden"
        assert (await peer.request("detach", channel="b"))["type"] == "detached"
        await peer.nothing_else()


async def test_a_renewal_for_another_client_closes() -> None:
    async with connected() as peer:
        await peer.send({"type": "auth", "token": token("bo")})
        assert (await peer.closed())[0] == 4401


async def test_a_hook_is_asked_in_a_thread_and_its_yes_is_remembered(room: None) -> None:
    hook = Hook("room")
    async with connected() as peer:
        for number in range(3):
            assert (await peer.publish("room:x", number))["serials"] == [number + 1]
        await peer.request("attach", channel="room:x")
        await peer.request("attach", channel="room:x")
    assert hook.asked == [("ana", "room:x", "publish"), ("ana", "room:x", "subscribe")]


async def test_a_hook_that_sees_messages_is_asked_about_each_publish(room: None) -> None:
    seen: list[object] = []

    def hook(identity: tokens.Identity, channel: ChannelName, operation: str, context: Any) -> bool:
        if operation == "publish":
            seen.append(([(each.event, each.data) for each in context["messages"]], context["client"]))
            return all(each.data != '"no"' for each in context["messages"])
        return True

    authorization.register("room", hook, remember_s=60, sees_messages=True)
    async with connected() as peer:
        assert (await peer.publish("room:x", 1))["serials"] == [1]
        assert (await peer.publish("room:x", "no"))["code"] == "forbidden"
        assert (await peer.publish("room:x", {"b": 1}))["serials"] == [2]
    assert seen == [([("message", data)], "ana") for data in ("1", '"no"', '{"b":1}')]


async def test_a_no_of_a_hook_is_not_remembered(room: None) -> None:
    hook = Hook("room")
    hook.answer = lambda client, channel, operation: len(hook.asked) > 1
    async with connected() as peer:
        assert (await peer.publish("room:x", 1))["code"] == "forbidden"
        assert (await peer.publish("room:x", 1))["serials"] == [1]


async def test_publishes_keep_their_order_while_a_hook_is_slow(room: None) -> None:
    hook = Hook("room")
    hook.go.clear()
    async with connected() as peer:
        for number in range(10):
            channel = "room:x" if number % 2 == 0 else "lobby"
            await peer.send({"type": "publish", "ref": number, "channel": channel, "messages": [{"data": number}]})
        await peer.send({"type": "ping", "ref": "beside"})
        await peer.read(ref="beside")
        await aeventually(lambda: hook.asked)
        assert not peer.kept
        hook.go.set()
        answers = [await peer._next() for _ in range(10)]
        assert [answer["ref"] for answer in answers] == list(range(10))
        assert [answer["serials"][0] for answer in answers] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


async def test_a_chained_publish_fails_behind_one_that_a_hook_refused(room: None) -> None:
    hook = Hook("room")
    hook.go.clear()
    hook.answer = lambda client, channel, operation: len(hook.asked) > 1
    async with connected() as peer:
        for number in range(4):
            await peer.send(
                {
                    "type": "publish",
                    "ref": number,
                    "channel": "room:x",
                    "messages": [{"data": number}],
                    "chained": number < 3,
                }
            )
        hook.go.set()
        answers = [await peer.read(ref=number) for number in range(4)]
        assert [answer.get("code") for answer in answers] == ["forbidden", "order", "order", None]
        assert answers[3]["serials"] == [1]


async def test_a_chained_publish_whose_hook_is_asked_while_the_first_fails_fails_too(
    room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Hook("room")
    async with connected() as peer:
        await peer.publish("room:x", 0)
        running = worker.current()
        assert running is not None
        held: list[Any] = []
        submit = running.writer.submit
        monkeypatch.setattr(running.writer, "submit", held.append)
        await peer.send({"type": "publish", "ref": 1, "channel": "room:x", "messages": [{}]})
        await aeventually(lambda: held)
        hook.go.clear()
        asked = len(hook.asked)
        authorization.reauthorize_here(None, None)
        await aeventually(lambda: not any(client._allowed for client in clients_of(running)))
        await peer.send({"type": "publish", "ref": 2, "channel": "room:x", "messages": [{}], "chained": True})
        await aeventually(lambda: len(hook.asked) > asked)
        held[0].settle(ProtocolError("unavailable"))
        running._tell(held, [], time.monotonic())
        monkeypatch.setattr(running.writer, "submit", submit)
        hook.go.set()
        assert (await peer.read(ref=1))["code"] == "unavailable"
        assert (await peer.read(ref=2))["code"] == "order"


async def test_reauthorize_ends_attachments_that_the_hook_now_refuses(room: None) -> None:
    hook = Hook("room")
    banned: set[str] = set()
    hook.answer = lambda client, channel, operation: client not in banned
    async with connected() as ana, connected(text=token("bo")) as bo:
        for peer in (ana, bo):
            await peer.request("attach", channel="room:x")
            await peer.request("attach", channel="lobby")
        banned.add("bo")
        await in_thread(authorization.reauthorize, ChannelName("room:x"), "bo")
        assert await bo.read(type="detached") == {"type": "detached", "channel": "room:x", "reason": "forbidden"}
        await ana.publish("room:x", 1)
        assert await ana.messages("room:x", 1) == [1]
        assert (await bo.publish("room:x", 2))["code"] == "forbidden"
        assert (await bo.request("detach", channel="lobby"))["type"] == "detached"
        await bo.nothing_else()


async def test_rights_that_change_during_an_attach_count_for_it(room: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook said yes before, and the attachment begins after rights were taken away."""
    hook = Hook("room")
    async with connected() as peer:
        running = worker.current()
        assert running is not None
        wishes: list[Any] = []
        state = running.reader.state
        monkeypatch.setattr(running.reader, "state", lambda *wish: wishes.append(wish))
        await peer.send({"type": "attach", "ref": 1, "channel": "room:x"})
        await aeventually(lambda: wishes)
        hook.answer = lambda client, channel, operation: False
        await in_thread(authorization.reauthorize)
        await asyncio.sleep(0)
        monkeypatch.setattr(running.reader, "state", state)
        state(*wishes[0])
        assert (await peer.read(ref=1))["type"] == "attached"
        assert (await peer.read(type="detached"))["reason"] == "forbidden"
        assert running.hub.occupancy(ChannelName("room:x")) == 0


async def test_a_yes_from_before_a_change_of_rights_is_not_remembered(room: None) -> None:
    hook = Hook("room")
    hook.go.clear()
    async with connected() as peer:
        await peer.send({"type": "publish", "ref": 1, "channel": "room:x", "messages": [{}]})
        await aeventually(lambda: hook.asked)
        await in_thread(authorization.reauthorize)
        await asyncio.sleep(0)
        hook.go.set()
        await peer.read(ref=1)
        hook.answer = lambda client, channel, operation: False
        assert (await peer.publish("room:x", 2))["code"] == "forbidden"


async def test_a_hook_that_fails_refuses_and_ends_nothing(room: None, caplog: pytest.LogCaptureFixture) -> None:
    hook = Hook("room")
    async with connected() as peer:
        await peer.request("attach", channel="room:x")

        def broken(client: str, channel: str, operation: str) -> bool:
            raise ValueError("broken")

        hook.answer = broken
        await in_thread(authorization.reauthorize)
        assert (await peer.publish("room:x", 1))["code"] == "internal"
        assert (await peer.request("detach", channel="room:x"))["type"] == "detached"


# ---------------------------------------------------------------------- backpressure, plain ASGI


async def test_a_client_that_reads_nothing_costs_no_queue_and_gets_everything(
    realtime_settings: Callable[..., None],
) -> None:
    realtime_settings(SOCKET_BUFFER_HIGH_BYTES=4096, HOLD_MS=5)
    async with connected() as ana, connected(text=token("bo")) as bo, connected(text=token("cy")) as cy:
        for peer in (bo, cy):
            await peer.request("attach", channel="lobby", window=0)
        running = worker.current()
        assert running is not None
        link = next(each for each in clients_of(running) if each.identity.client == "bo").link
        bo.hold()
        rounds, size = 60, 20
        for number in range(rounds):
            await ana.publish("lobby", *[[number, each, "x" * 200] for each in range(size)])
            assert len(await cy.messages("lobby", size)) == size
        assert link.congested
        # What was in the air when the mark was passed: one round, not what came after.
        assert link.waiting_bytes < 4096 + 2 * size * 400
        assert bo.offered < rounds
        bo.take()
        got = await bo.messages("lobby", rounds * size)
        assert [each[:2] for each in got] == [[number, each] for number in range(rounds) for each in range(size)]
        await aeventually(lambda: not link.congested and link.waiting_bytes == 0)


async def test_frames_that_wait_stop_the_reading_and_end_with_the_connection(
    room: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(BACKLOG_FRAMES=5)
    hook = Hook("room")
    hook.go.clear()
    async with connected() as peer:
        await peer.send({"type": "history", "ref": 0, "channel": "room:x"})
        for ref in range(1, 50):
            await peer.send({"type": "ping", "ref": ref})
        await aeventually(lambda: hook.asked)
        await aeventually(lambda: peer.communicator.input_queue.qsize() >= 43)
        hook.go.set()
        answers = [await peer._next() for _ in range(50)]
        assert [answer["ref"] for answer in answers] == list(range(50))


async def test_a_connection_that_is_closed_while_it_is_not_read_goes_away(
    room: None, realtime_settings: Callable[..., None]
) -> None:
    realtime_settings(BACKLOG_FRAMES=2)
    hook = Hook("room")
    hook.go.clear()
    async with connected() as peer:
        for ref in range(6):
            await peer.send({"type": "history", "ref": ref, "channel": "room:x"})
        await aeventually(lambda: hook.asked)
        running = worker.current()
        assert running is not None
        (connection,) = clients_of(running)
        connection._close(4410, "slow")
        assert (await peer.closed())[0] == 4410
        await peer.communicator.send_input({"type": "websocket.disconnect", "code": 1006})
        # Well before the hook's own time limit, which would let the reading go on.
        await aeventually(lambda: not running.clients, HOOK_TIMEOUT_S / 2)
        hook.go.set()


async def test_everything_is_let_go_when_a_client_leaves() -> None:
    async with connected() as peer:
        await peer.request("attach", channel="lobby")
        await peer.send(
            {"type": "attach", "channel": "other"}, {"type": "publish", "channel": "lobby", "messages": [{}]}
        )
        running = worker.current()
        assert running is not None
    await aeventually(lambda: not running.clients)
    assert running.hub.occupancy(ChannelName("lobby")) == running.hub.occupancy(ChannelName("other")) == 0


async def test_a_server_that_raises_when_the_client_is_gone_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(bearer(token()))

    async def gate(scope: Any, receive: Any, send: Any) -> None:
        async def broken(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                raise OSError("client disconnected")
            await send(message)

        await peer.application(scope, receive, broken)

    peer.communicator.application = gate
    assert await peer.connect()
    running = worker.current()
    assert running is not None
    await aeventually(lambda: all(client.link._closed for client in clients_of(running)))
    await peer.send({"type": "ping"})
    await peer.leave()
    assert not running.clients and "never retrieved" not in caplog.text


# ---------------------------------------------------------------------- signals


async def test_signals_reach_the_others_and_are_nowhere_else(room: None) -> None:
    async with connected() as ana, connected() as bo, connected(text=token("cy")) as stranger:
        await ana.request("attach", channel="lobby")
        await bo.request("attach", channel="lobby")
        await ana.send({"type": "signal", "channel": "lobby", "event": "typing", "data": {"b": 1.50, "a": "é"}})
        assert await bo.read(type="signal") == {
            "type": "signal",
            "channel": "lobby",
            "client": "ana",
            "event": "typing",
            "data": {"b": 1.5, "a": "é"},
        }
        # Who is not attached may send one, too.
        await stranger.send({"type": "signal", "channel": "lobby", "event": "typing"})
        for peer in (ana, bo):
            assert (await peer.read(type="signal"))["client"] == "cy"
        for peer in (ana, bo, stranger):
            await peer.nothing_else()
        assert (await ana.publish("lobby", 1))["serials"] == [1]


async def test_a_signal_is_refused_like_a_publish(room: None) -> None:
    await in_thread(Namespace.objects.create, name="made", create="operator", known_ops=["signal"])
    cap = {"lobby": ["publish"], "room:*": ["signal"], "made:*": ["signal"], "nowhere:*": ["*"]}
    await in_thread(Namespace.objects.filter(name="room").update, known_ops=["signal"])
    async with connected(text=token(cap=cap)) as peer:
        table: list[tuple[dict[str, Any], str]] = [
            ({"channel": "no:", "event": "typing"}, "bad_channel"),
            ({"channel": "lobby", "event": "typing"}, "forbidden"),
            ({"channel": "lobby"}, "bad_frame"),
            ({"channel": "nowhere:x", "event": "typing"}, "not_found"),
            ({"channel": "made:x", "event": "typing", "data": "x" * 200_000}, "not_found"),
            ({"channel": "room:x", "event": "typing", "data": "x" * 101}, "too_large"),
        ]
        for fields, code in table:
            answer = await peer.request("signal", **fields)
            assert (answer["type"], answer["code"]) == ("error", code), fields
        await peer.nothing_else()


async def test_signals_over_their_rate_are_refused_with_an_honest_hint(settings: Any) -> None:
    settings.REALTIME = {**settings.REALTIME, "SIGNALS_PER_S": 5}
    async with connected() as ana, connected() as bo:
        await bo.request("attach", channel="lobby")
        for number in range(6):
            await ana.send({"type": "signal", "ref": number, "channel": "lobby", "event": "move", "data": number})
        error = await ana.read(type="error")
        assert (error["code"], error["ref"]) == ("rate_limited", 5)
        assert 0 < error["retry_after_ms"] <= 200
        await asyncio.sleep(error["retry_after_ms"] / 1000)
        await ana.send({"type": "signal", "channel": "lobby", "event": "move", "data": "again"})
        assert [(await bo.read(type="signal"))["data"] for _ in range(6)] == [0, 1, 2, 3, 4, "again"]
        await ana.nothing_else()


async def test_signals_that_wait_for_a_hook_do_not_gather(room: None) -> None:
    await in_thread(Namespace.objects.filter(name="room").update, known_ops=["subscribe", "signal"])
    hook = Hook("room")
    async with connected() as ana, connected() as bo:
        await bo.request("attach", channel="room:x")
        hook.go.clear()
        for number in range(20):
            await ana.send({"type": "signal", "channel": "room:x", "event": "move", "data": number})
        await ana.request("ping")
        hook.go.set()
        assert (await bo.read(type="signal"))["data"] == 0
        assert len([asked for asked in hook.asked if asked[2] == "signal"]) == 1
        await ana.send({"type": "signal", "channel": "room:x", "event": "move", "data": "known"})
        assert (await bo.read(type="signal"))["data"] == "known"


async def test_an_overloaded_worker_drops_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as ana, connected() as bo:
        await bo.request("attach", channel="lobby")
        running = worker.current()
        assert running is not None
        monkeypatch.setattr(type(running.load), "drops_signals", property(lambda load: True))
        await ana.send({"type": "signal", "channel": "lobby", "event": "move"})
        await ana.request("ping")
        await bo.nothing_else()
        assert running.signalling.counts["dropped"] == 1


async def test_who_does_not_read_gets_the_newest_signals_later() -> None:
    async with connected() as ana, connected() as bo:
        await bo.request("attach", channel="lobby")
        bo.hold()
        filler = "x" * 30_000
        for number in range(8):
            await ana.send({"type": "signal", "channel": "lobby", "event": "move", "data": [number, filler]})
            await ana.request("ping")
        bo.take()
        seen: list[int] = []
        while not seen or seen[-1] != 7:
            seen.append((await bo.read(type="signal"))["data"][0])
        assert seen == sorted(seen) and len(seen) < 8


async def test_a_conflating_namespace_says_what_it_left_out(room: None) -> None:
    await in_thread(Namespace.objects.filter(name="room").update, overflow="conflate", max_message_bytes=None)
    async with connected() as ana, connected() as bo:
        await ana.publish("room:x", "first")
        await bo.request("attach", channel="room:x", window=2)
        for number in range(20):
            await ana.request("publish", channel="room:x", messages=[{"key": f"k{number % 2}", "data": number}])
        assert await bo.messages("room:x", 2) == [0, 1]
        await bo.nothing_else()
        await bo.send({"type": "ack", "serials": {"room:x": 3}})
        skipped = await bo.read(type="skipped")
        assert (skipped["from"], skipped["to"], skipped["reason"]) == (4, 19, "conflated")
        assert await bo.messages("room:x", 2) == [18, 19]
        # What was sent before still counts: the window is full.
        await ana.publish("room:x", "more")
        await bo.nothing_else()
        assert running_counts()["conflated"] == 16


def running_counts() -> dict[str, int]:
    running = worker.current()
    assert running is not None
    return running.hub.counts


# ---------------------------------------------------------------------- budgets


async def test_who_reads_too_much_waits_until_it_is_paid_for(settings: Any) -> None:
    settings.REALTIME = {**settings.REALTIME, "READ_RATE_BYTES": 20_000}
    budgets.reset()
    async with connected() as ana, connected(text=token("bo")) as bo:
        await ana.request("publish", channel="lobby", messages=[{"data": "x" * 50_000} for _ in range(5)])
        page = await ana.request("history", channel="lobby")
        assert len(page["messages"]) == 5, "a page is served whole"
        for kind in ("history", "attach"):
            refused = await ana.request(kind, channel="lobby")
            assert refused["code"] == "rate_limited"
            # 250,000 bytes of 200,000 at once, 20,000 a second.
            assert 1000 < refused["retry_after_ms"] < 4000
        assert (await bo.request("history", channel="lobby"))["type"] == "history", "the budget of another"
        await asyncio.sleep(refused["retry_after_ms"] / 1000)
        assert (await ana.request("attach", channel="lobby"))["type"] == "attached"
    budgets.reset()
