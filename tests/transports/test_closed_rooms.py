"""A private room by every road there is to it: its member gets in, nobody else does, and no page of another site."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from channels.testing import WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.test import Client

from realtime import publishing
from realtime.asgi import get_application
from realtime.models import Namespace
from realtime.transports import sockjs
from tests.chatting import Person, make_room
from tests.conversation import HOST, OWN_ORIGIN, PATIENCE_S, Peer, bearer, in_thread, no_django
from tests.test_chat_messages import close_connections_of_hooks
from tests.transports.exchange import API, Exchange

pytestmark = pytest.mark.django_db(transaction=True)

Header = tuple[bytes, bytes]
Road = Callable[[str, list[Header]], Awaitable[str]]

SECRET = "the key is under the mat"
FOREIGN: Header = (b"origin", b"https://foe.example")

_SESSIONS = itertools.count(1)


@pytest.fixture(autouse=True)
def no_sessions() -> Iterator[None]:
    sockjs._PLATFORM.sessions.clear()
    yield
    sockjs._PLATFORM.sessions.clear()


# ---------------------------------------------------------------------- roads to read


async def answered(method: str, path: str, headers: list[Header], body: object = None, query: Any = None) -> str:
    """All that is said until the secret is out, something is refused, or the answer ends."""
    content = b"" if body is None else json.dumps(body).encode()
    exchange = Exchange(method, path, query, headers=headers, auth=None, body=content)
    exchange.start()
    try:
        await exchange.until(
            lambda: exchange.complete or SECRET.encode() in exchange.body or b'"code"' in exchange.body
        )
        return f"{exchange.status} {exchange.body.decode()}"
    finally:
        await exchange.leave()


def attaching(channel: str) -> dict[str, Any]:
    return {"channel": channel, "from": {"rewind": 10}}


async def by_socket(channel: str, headers: list[Header], kind: str = "attach") -> str:
    peer = Peer(*headers)
    if not await peer.connect():
        return "403 not connected"
    try:
        fields = {"from": {"rewind": 10}} if kind == "attach" else {}
        answer = await peer.request(kind, channel=channel, **fields)
        if kind == "attach" and answer["type"] == "attached":
            answer = await peer.read(type="message", channel=channel)
        return json.dumps(answer)
    finally:
        await peer.leave()


async def by_history_of_the_socket(channel: str, headers: list[Header]) -> str:
    return await by_socket(channel, headers, "history")


async def by_events_of_the_channel(channel: str, headers: list[Header]) -> str:
    return await answered("GET", f"{API}/channels/{channel}/events", headers, query=[("from", "start")])


async def by_events(channel: str, headers: list[Header]) -> str:
    return await answered("GET", f"{API}/events", headers, query=[("attach", f"{channel},rewind:10")])


async def by_stream(channel: str, headers: list[Header]) -> str:
    return await answered("POST", f"{API}/stream", headers, {"attach": [attaching(channel)]})


async def by_poll(channel: str, headers: list[Header]) -> str:
    return await answered("POST", f"{API}/poll", headers, {"attach": [attaching(channel)], "wait_ms": 0})


async def by_frames(channel: str, headers: list[Header]) -> str:
    return await answered("POST", f"{API}/frames", headers, [{"type": "history", "channel": channel}])


async def by_ticket(channel: str, headers: list[Header]) -> str:
    ticket = await answered("POST", f"{API}/tickets", headers, {"attach": [attaching(channel)]})
    status, _, body = ticket.partition(" ")
    if status != "201":
        return ticket
    return await answered("GET", f"{API}/events", [], query=[("ticket", json.loads(body)["ticket"])])


async def by_sockjs(channel: str, headers: list[Header]) -> str:
    """A polled session. Its token goes in a frame: SockJS sends no header."""
    credential = next((value.decode().partition(" ")[2] for name, value in headers if name == b"authorization"), None)
    rest = [each for each in headers if each[0] != b"authorization"]
    base = f"/sockjs/000/closed-room-{next(_SESSIONS)}"
    opened = await answered("POST", f"{base}/xhr", rest)
    if not opened.startswith("200"):
        return opened
    frames = [{"type": "attach", "ref": 1, **attaching(channel)}]
    if credential is not None:
        frames.insert(0, {"type": "auth", "token": credential})
    await answered("POST", f"{base}/xhr_send", rest, [json.dumps(each) for each in frames])
    said = ""
    async with asyncio.timeout(PATIENCE_S):
        while not any(word in said for word in (SECRET, '"error', '\\"error', "c[")):
            said += await answered("POST", f"{base}/xhr", rest)
    return said


async def by_rest(channel: str, headers: list[Header]) -> str:
    """Django's part; the history of a channel."""
    given = {name.decode(): value.decode() for name, value in headers}
    response = await in_thread(Client().get, f"{API}/channels/{channel}/messages", headers=given)
    return f"{response.status_code} {response.content.decode()}"


READING: list[Road] = [
    by_socket, by_history_of_the_socket, by_events_of_the_channel, by_events, by_stream, by_poll, by_frames, by_ticket,
    by_sockjs, by_rest,
]  # fmt: skip


# ---------------------------------------------------------------------- roads to do something


async def published(channel: str, headers: list[Header]) -> str:
    peer = Peer(*headers)
    assert await peer.connect()
    try:
        message = {"event": "message", "data": {"text": "x"}}
        return json.dumps(await peer.request("publish", channel=channel, messages=[message]))
    finally:
        await peer.leave()


async def published_by_frames(channel: str, headers: list[Header]) -> str:
    message = {"event": "message", "data": {"text": "x"}}
    frame = {"type": "publish", "channel": channel, "messages": [message]}
    return await answered("POST", f"{API}/frames", headers, [frame])


async def published_by_rest(channel: str, headers: list[Header]) -> str:
    return await posted("messages", channel, headers, {"event": "message", "data": {"text": "x"}})


async def typed_by_rest(channel: str, headers: list[Header]) -> str:
    return await posted("signals", channel, headers, {"event": "typing", "data": {"on": True}})


async def posted(what: str, channel: str, headers: list[Header], body: object) -> str:
    given = {name.decode(): value.decode() for name, value in headers}
    path = f"{API}/channels/{channel}/{what}"
    response = await in_thread(Client().post, path, body, content_type="application/json", headers=given)
    return f"{response.status_code} {response.content.decode()}"


async def entered(channel: str, headers: list[Header]) -> str:
    peer = Peer(*headers)
    assert await peer.connect()
    try:
        attached = await peer.request("attach", channel=channel, presence=True)
        entered = await peer.request("presence", channel=channel, action="enter", data=None)
        return json.dumps(attached if "code" in attached else entered)
    finally:
        await peer.leave()


async def who_is_there(channel: str, headers: list[Header]) -> str:
    given = {name.decode(): value.decode() for name, value in headers}
    response = await in_thread(Client().get, f"{API}/channels/{channel}/presence", headers=given)
    return f"{response.status_code} {response.content.decode()}"


DOING: list[Road] = [
    published, published_by_frames, published_by_rest, typed_by_rest, entered, who_is_there,
]  # fmt: skip


# ---------------------------------------------------------------------- members and others


@pytest_asyncio.fixture
async def people() -> AsyncIterator[tuple[str, str, Person]]:
    """Tokens of a member and of a stranger, both for every room that one may see; and the room's owner."""

    def make() -> tuple[str, str, Person]:
        owner, member, stranger = Person("ana"), Person("bo"), Person("cy")
        make_room("loft", "private", owner=owner, member=member)
        owner.says("loft", SECRET)
        publishing._buckets.clear()
        return member.token(), stranger.token(), owner

    yield await in_thread(make)
    with contextlib.suppress(Exception):
        close_connections_of_hooks()


#: These wait for credentials in a frame before they say anything at all.
SOCKETS: list[Road] = [by_socket, by_history_of_the_socket, by_sockjs]


async def test_a_private_room_is_read_by_members_alone(people: tuple[str, str, Person]) -> None:
    member, stranger, _ = people
    for road in READING:
        assert SECRET in await road("chat:loft", [bearer(member)]), road
        refused = await road("chat:loft", [bearer(stranger)])
        assert SECRET not in refused and "forbidden" in refused, (road, refused)
        if road not in SOCKETS:
            nobody = await road("chat:loft", [OWN_ORIGIN])
            assert SECRET not in nobody and ("unauthorized" in nobody or "forbidden" in nobody), (road, nobody)


async def test_nothing_is_done_in_a_private_room_by_others(people: tuple[str, str, Person]) -> None:
    member, stranger, _ = people
    for road in DOING:
        done = await road("chat:loft", [bearer(member)])
        # Signals over REST go to workers, of which none is near; that comes behind the question of rights.
        assert '"code"' not in done or (road is typed_by_rest and "unavailable" in done), (road, done)
        refused = await road("chat:loft", [bearer(stranger)])
        assert "forbidden" in refused, (road, refused)


async def test_who_is_removed_hears_no_more_on_the_streams_he_has(people: tuple[str, str, Person]) -> None:
    member, _, owner = people
    streams = [
        Exchange("GET", f"{API}/channels/chat:loft/events", headers=[bearer(member)], auth=None),
        Exchange(
            "POST", f"{API}/stream", headers=[bearer(member)], auth=None, body=b'{"attach":[{"channel":"chat:loft"}]}'
        ),
    ]
    for stream in streams:
        stream.start()
    for stream in streams:
        await stream.until(lambda stream=stream: b"attached" in stream.body)  # type: ignore[misc]
    body = {"client": "bo"}
    path = "/chat/loft/remove"
    assert (await in_thread(owner.browser.post, path, body, content_type="application/json")).status_code == 200
    for stream in streams:
        await stream.until(lambda stream=stream: b"forbidden" in stream.body)  # type: ignore[misc]
    await in_thread(owner.says, "loft", "only among us")
    for stream in streams:
        assert b"only among us" not in stream.body
        await stream.leave()
    assert "forbidden" in await by_poll("chat:loft", [bearer(member)])


# ---------------------------------------------------------------------- pages of other sites


@pytest_asyncio.fixture
async def cookie() -> Header:
    """Of somebody who may read and write `room:a` by being logged in."""

    def log_in() -> Header:
        Namespace.objects.create(name="room", known_ops=["subscribe", "publish", "history"])
        publishing.publish("room:a", SECRET)
        browser = Client()
        browser.force_login(get_user_model().objects.create_user("ana"))
        return b"cookie", f"sessionid={browser.session.session_key}".encode()

    found: Header = await in_thread(log_in)
    return found


async def test_a_cookie_is_nothing_to_a_page_of_another_site(
    cookie: Header, realtime_settings: Callable[..., None]
) -> None:
    roads = [each for each in READING if each is not by_ticket]
    for road in roads:
        if road is not by_frames:  # which may change something, and so wants the CSRF header too
            assert SECRET in await road("room:a", [cookie, OWN_ORIGIN]), road
        refused = await road("room:a", [cookie, FOREIGN])
        assert SECRET not in refused and refused[:3] in ("401", "403"), (road, refused)
    # Nor to a site whose pages may connect with tokens of their own.
    realtime_settings(ORIGINS=["https://foe.example"])
    for road in roads:
        refused = await road("room:a", [cookie, FOREIGN])
        said_so = refused[:3] in ("401", "403") or "unauthorized" in refused
        assert SECRET not in refused and said_so, (road, refused)


async def test_no_page_of_another_site_opens_a_websocket(cookie: Header) -> None:
    for path in ("/ws", "/sockjs/websocket", "/sockjs/000/foreign/websocket"):
        for origin in (b"https://foe.example", b"null", b"http://testserver.foe.example", b"http://testserver:81"):
            peer = WebsocketCommunicator(get_application(no_django), path, [HOST, cookie, (b"origin", origin)])
            assert not (await peer.connect(PATIENCE_S))[0], (path, origin)
        peer = WebsocketCommunicator(get_application(no_django), path, [HOST, cookie, OWN_ORIGIN])
        assert (await peer.connect(PATIENCE_S))[0], path
        await peer.disconnect(timeout=PATIENCE_S)


async def test_a_form_of_another_site_posts_nothing(cookie: Header) -> None:
    """What a form can send needs no preflight, and brings the cookie where the browser is old."""
    for path in ("frames", "poll", "stream", "tickets"):
        for sent_as in ("text/plain", "application/x-www-form-urlencoded", "application/json", ""):
            await posts_nothing(cookie, path, sent_as)


async def posts_nothing(cookie: Header, path: str, sent_as: str) -> None:
    body = [{"type": "publish", "channel": "room:a", "messages": [{"data": "forged"}]}]
    content: object = body if path == "frames" else {"attach": ["room:a"], "wait_ms": 0}
    kind = [(b"content-type", sent_as.encode())] if sent_as else []
    for origin in ([FOREIGN], [], [(b"origin", b"null")]):
        said = await answered("POST", f"{API}/{path}", [cookie, *kind, *origin], content)
        assert said[:3] in ("401", "403") and SECRET not in said, said
    if path == "frames":
        # From a page of ours: the CSRF header has to be there as well.
        said = await answered("POST", f"{API}/frames", [cookie, OWN_ORIGIN, *kind], content)
        assert said.startswith("403") and "CSRF" in said, said
        token = b"x" * 32
        both = (b"cookie", cookie[1] + b"; csrftoken=" + token)
        said = await answered("POST", f"{API}/frames", [both, OWN_ORIGIN, (b"x-csrftoken", token)], content)
        assert said.startswith("200") and "published" in said, said
