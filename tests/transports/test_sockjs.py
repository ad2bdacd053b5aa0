"""SockJS: its sessions, our frames inside them, and what is refused. Its own suite is run by a documented command."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.test import Client

from realtime import publishing, worker
from realtime.asgi import get_application
from realtime.delivery.admission import Limits
from realtime.transports import sockjs
from tests.conftest import aeventually
from tests.conversation import HOST, PATIENCE_S, in_thread, no_django, token
from tests.transports.exchange import Exchange

pytestmark = pytest.mark.django_db(transaction=True)

BASE = "/sockjs/000/session-of-ana"
AUTH: dict[str, Any] = {"type": "auth"}


@pytest.fixture(autouse=True)
def no_sessions() -> Any:
    sockjs._PLATFORM.sessions.clear()
    yield
    sockjs._PLATFORM.sessions.clear()


@contextlib.asynccontextmanager
async def opened(method: str, path: str, *arguments: Any, **options: Any) -> AsyncIterator[Exchange]:
    exchange = Exchange(method, path, *arguments, auth=None, **options)
    exchange.start()
    try:
        yield exchange
    finally:
        await exchange.leave()


async def asked(method: str, path: str, *arguments: Any, **options: Any) -> Exchange:
    async with opened(method, path, *arguments, **options) as exchange:
        await exchange.until(lambda: exchange.complete)
        return exchange


async def poll(base: str = BASE) -> str:
    exchange = await asked("POST", f"{base}/xhr")
    assert exchange.status == 200
    return exchange.body.decode().rstrip("\n")


async def say(*frames: dict[str, Any], base: str = BASE) -> None:
    body = json.dumps([json.dumps(frame) for frame in frames]).encode()
    exchange = await asked("POST", f"{base}/xhr_send", body=body)
    assert (exchange.status, exchange.body) == (204, b"")


def frames_in(text: str) -> list[dict[str, Any]]:
    assert text.startswith("a"), text
    return [json.loads(each) for each in json.loads(text[1:])]


async def heard(count: int, base: str = BASE) -> list[dict[str, Any]]:
    """So many messages, by polls."""
    found: list[dict[str, Any]] = []
    while len([each for each in found if each["type"] == "message"]) < count:
        found += frames_in(await poll(base))
    return [each for each in found if each["type"] == "message"]


def auth() -> dict[str, Any]:
    return {**AUTH, "token": token()}


async def test_our_frames_travel_in_a_polled_session() -> None:
    assert await poll() == "o"
    await say(auth(), {"type": "attach", "ref": 1, "channel": "a"})
    await say({"type": "publish", "channel": "a", "messages": [{"data": "ä\u2028</script>"}, {"data": 2}]})
    assert [each["data"] for each in await heard(2)] == ["ä\u2028</script>", 2]
    running = worker.current()
    assert running is not None
    assert (running.counts.opened["sockjs"], running.load.connections) == (1, 1)


@pytest.mark.parametrize("kind", ["xhr_streaming", "eventsource", "htmlfile"])
async def test_streams_carry_them_too(kind: str) -> None:
    method = "POST" if kind.startswith("xhr") else "GET"
    query = [("c", "callback")] if kind == "htmlfile" else []
    async with opened(method, f"{BASE}/{kind}", query) as stream:
        await stream.until(lambda: b'"o"' in stream.body or b"o\n" in stream.body or b"data: o\r\n\r\n" in stream.body)
        await say(auth(), {"type": "attach", "channel": "a"})
        await stream.until(lambda: b"attached" in stream.body)
        await in_thread(publishing.publish, "a", "</script><script>alert(1)</script>")
        await stream.until(lambda: b"alert" in stream.body)
        if kind == "htmlfile":
            assert b"<script>alert" not in stream.body and b"</script><script>" not in stream.body


async def test_jsonp_is_called_by_name_alone() -> None:
    exchange = await asked("GET", f"{BASE}/jsonp", [("c", "callback")])
    assert exchange.body == b'/**/callback("o");\r\n'
    assert exchange.headers["x-content-type-options"] == "nosniff"
    for name in ("alert(1);x", "a b", "x" * 101):
        assert (await asked("GET", f"{BASE}/jsonp", [("c", name)])).status == 500


async def test_a_response_ends_after_so_much_and_the_session_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    object.__setattr__(sockjs._PLATFORM, "response_bytes", 5000)
    try:
        async with opened("POST", f"{BASE}/xhr_streaming") as stream:
            await say_when_open(stream)
            await in_thread(publishing.publish, "a", "x" * 6000)
            await stream.until(lambda: stream.complete)
        await in_thread(publishing.publish, "a", 2)
        assert [each["data"] for each in await heard(1)] == [2]
    finally:
        object.__setattr__(sockjs._PLATFORM, "response_bytes", sockjs.RESPONSE_BYTES)


async def say_when_open(stream: Exchange) -> None:
    await stream.until(lambda: b"o\n" in stream.body)
    await say(auth(), {"type": "attach", "channel": "a"})
    await stream.until(lambda: b"attached" in stream.body)


async def test_while_nobody_receives_a_session_costs_a_position(realtime_settings: Any) -> None:
    realtime_settings(SOCKET_BUFFER_HIGH_BYTES=20_000)
    assert await poll() == "o"
    await say(auth(), {"type": "attach", "channel": "a", "window": 0})
    while "attached" not in await poll():
        pass
    for number in range(60):
        await in_thread(publishing.publish, "a", f"{number}:" + "x" * 2000)
    session = sockjs._PLATFORM.sessions["session-of-ana"]
    running = worker.current()
    assert running is not None
    await aeventually(lambda: running.hub.census().modes["waiting_socket"] == 1)
    assert session.waiting_bytes < 100_000
    found = [int(each["data"].partition(":")[0]) for each in await heard(60)]
    assert found == list(range(60))


async def test_a_session_that_nobody_receives_from_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockjs, "UNRECEIVED_S", 0.1)
    assert await poll() == "o"
    running = worker.current()
    assert running is not None
    await aeventually(lambda: not sockjs._PLATFORM.sessions and running.load.connections == 0)
    assert (await asked("POST", f"{BASE}/xhr_send", body=b'["x"]')).status == 404


async def test_a_session_has_one_receiver_and_is_over_when_that_is_cut() -> None:
    assert await poll() == "o"
    async with opened("POST", f"{BASE}/xhr"):
        await asyncio.sleep(0.02)
        assert await poll() == 'c[2010,"Another connection still open"]'
    assert await poll() == 'c[1002,"Connection interrupted"]'
    running = worker.current()
    assert running is not None
    assert running.load.connections == 0


async def test_what_cannot_be_read_is_refused() -> None:
    assert (await asked("POST", f"{BASE}/xhr_send", body=b'["x"]')).status == 404
    assert await poll() == "o"
    for body in (b"", b'["x', b"[1]", b"{}", b"7"):
        assert (await asked("POST", f"{BASE}/xhr_send", body=body)).status == 500
    for body in (b'["\xff\xfe"]', b"\xff", b"[" * 100_000, b"[" + b"9" * 6000 + b"]"):
        broken = await asked("POST", f"{BASE}/xhr_send", body=body)
        assert (broken.status, broken.body) == (500, b"Broken JSON encoding.")
    assert (await asked("GET", f"{BASE}/xhr")).status == 405
    for path in ("/sockjs/a", "/sockjs/a./b/xhr", "/sockjs//b/xhr", "/sockjs/iframe.html", "/sockjs/a/b/nothing"):
        assert (await asked("POST", path)).status == 404


async def test_a_session_that_a_cookie_opened_is_used_with_that_cookie_alone(transactional_db: None) -> None:
    def log_in(name: str) -> tuple[bytes, bytes]:
        browser = Client()
        browser.force_login(get_user_model().objects.create_user(name))
        return b"cookie", f"sessionid={browser.session.session_key}".encode()

    ana, bo = await in_thread(log_in, "ana"), await in_thread(log_in, "bo")
    own = (b"origin", b"http://testserver")
    opening = await asked("POST", f"{BASE}/xhr", headers=[own, ana])
    assert opening.body == b"o\n"
    publish = json.dumps([json.dumps({"type": "publish", "channel": "a", "messages": [{"data": "forged"}]})]).encode()
    for headers in ([own, bo], [own], [], [own, (b"cookie", b"sessionid=")]):
        assert (await asked("POST", f"{BASE}/xhr_send", headers=headers, body=publish)).status == 404
        assert (await asked("POST", f"{BASE}/xhr", headers=headers)).status == 404
        assert (await asked("GET", f"{BASE}/eventsource", headers=headers)).status == 404
    mine = await asked("POST", f"{BASE}/xhr", headers=[own, ana])
    assert (frames_in(mine.body.decode().rstrip("\n"))[0]["client"], "forged" in str(mine.body)) == ("ana", False)
    assert (await asked("POST", f"{BASE}/xhr_send", headers=[own, ana], body=b"[]")).status == 204


async def test_an_id_that_is_easily_guessed_opens_no_session() -> None:
    for name in ("a", "1234567"):
        assert (await asked("POST", f"/sockjs/000/{name}/xhr")).status == 404
    assert await poll("/sockjs/000/12345678") == "o"


async def test_half_of_a_pair_is_a_bad_frame_and_the_session_goes_on() -> None:
    assert await poll() == "o"
    await say(auth())
    assert frames_in(await poll())[0]["type"] == "ready"
    for text in (b'["\\ud800"]', b'["{\\"type\\":\\"ping\\",\\"ref\\":\\"\\udfff\\"}"]'):
        assert (await asked("POST", f"{BASE}/xhr_send", body=text)).status == 204
        assert frames_in(await poll())[0]["code"] == "bad_frame"
    await say({"type": "ping", "ref": 1})
    assert frames_in(await poll())[0]["type"] == "pong"


async def test_origins_and_room_are_checked() -> None:
    foreign = [(b"origin", b"https://foe.example")]
    assert (await asked("POST", f"{BASE}/xhr", headers=foreign)).status == 403
    assert (await asked("GET", "/sockjs/info", headers=foreign)).status == 403
    assert await poll() == "o"
    running = worker.current()
    assert running is not None
    running.load.admission.limits = Limits(connections=1)
    assert (await asked("POST", "/sockjs/000/another-one/xhr")).status == 503
    for path in ("/sockjs/000/another/websocket", "/sockjs/websocket"):
        peer = WebsocketCommunicator(get_application(no_django), path, [HOST])
        peer.scope["extensions"] = {"websocket.http.response": {}}
        await peer.send_input({"type": "websocket.connect"})
        denied = await peer.receive_output(PATIENCE_S)
        assert (denied["status"], int(dict(denied["headers"])[b"retry-after"]) > 0) == (503, True)
        await peer.receive_output(PATIENCE_S)


async def test_the_test_services_are_mounted_only_where_the_settings_say_so(realtime_settings: Any) -> None:
    assert sockjs.find("/echo") is None
    realtime_settings(SOCKJS_TEST_SERVICES=1)
    assert await poll("/echo/000/a") == "o"
    assert (await asked("POST", "/echo/000/a/xhr_send", body=b'["hello"]')).status == 204
    assert await poll("/echo/000/a") == 'a["hello"]'
    assert await poll("/close/000/a") == "o"
    assert await poll("/close/000/a") == 'c[3000,"Go away!"]'


async def test_a_worker_that_drains_ends_its_sessions() -> None:
    assert await poll() == "o"
    await say(auth())
    assert "ready" in await poll()
    running = worker.current()
    assert running is not None
    draining = asyncio.ensure_future(running.drain())
    assert frames_in(await poll())[0]["type"] == "reconnect"
    assert await poll() == 'c[1012,"drain"]'
    await draining


async def test_a_websocket_carries_a_session_or_raw_frames() -> None:
    for path, raw in (("/sockjs/000/a/websocket", False), ("/sockjs/websocket", True)):
        peer = WebsocketCommunicator(get_application(no_django), path, [HOST])
        assert (await peer.connect(PATIENCE_S))[0]
        if not raw:
            assert await peer.receive_from(PATIENCE_S) == "o"
        frame = json.dumps(auth())
        await peer.send_to(text_data=frame if raw else json.dumps([frame]))
        text = await peer.receive_from(PATIENCE_S)
        found = json.loads(text) if raw else frames_in(text)[0]
        assert found["type"] == "ready"
        await peer.disconnect(timeout=PATIENCE_S)
    running = worker.current()
    assert running is not None
    await aeventually(lambda: running.load.connections == 0)
    foreign = WebsocketCommunicator(
        get_application(no_django), "/sockjs/websocket", [HOST, (b"origin", b"https://foe.example")]
    )
    assert not (await foreign.connect(PATIENCE_S))[0]
