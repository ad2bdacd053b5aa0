"""Fallback transports on the real server: restarts, slow and malicious clients, what is logged."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import jwt
import pytest

from tests.conftest import MS
from tests.e2e.wire import frame_bytes
from tests.servers import Site

pytestmark = pytest.mark.e2e

PATIENCE_S = 60_000 * MS


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    with Site(REALTIME_REQUEST_TIMEOUT_S="1", REALTIME_DRAIN_S="2", LOG_LEVEL="DEBUG") as running:
        yield running


def token(server: Site, client: str = "ana", ttl_s: int = 600) -> str:
    secret = server.environment()["REALTIME_JWT_SECRET"]
    return jwt.encode({"sub": client, "exp": int(time.time()) + ttl_s, "cap": {"*": ["*"]}}, secret, "HS256")


def request(server: Site, method: str, path: str, body: object = None, **headers: str) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    sent = {
        "Authorization": f"Bearer {token(server)}",
        **{name.replace("_", "-"): each for name, each in headers.items()},
    }
    connection.request(method, path, None if body is None else json.dumps(body).encode(), sent)
    return connection.getresponse()


def publish(server: Site, channel: str, *data: object) -> list[dict[str, Any]]:
    frames = [{"type": "publish", "channel": channel, "messages": [{"data": each}]} for each in data]
    response = request(server, "POST", "/api/v1/frames", frames, Content_Type="application/json")
    assert response.status == 200
    found: list[dict[str, Any]] = json.loads(response.read())
    assert all(each["type"] == "published" for each in found), found
    return found


class Events:
    """What a browser's EventSource does: reads events, remembers the last id, comes back with it."""

    def __init__(self, server: Site, path: str, **headers: str) -> None:
        self.server, self.path, self.headers = server, path, headers
        self.last_id = ""
        self.seen: list[Any] = []
        self.connects = 0

    def read(self, count: int) -> None:
        """Until `count` messages were seen, through whatever ends a connection."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.seen) < count:
            assert time.monotonic() < deadline, self.seen
            try:
                self._read_some(count)
            except OSError:
                time.sleep(0.05)

    def _read_some(self, count: int) -> None:
        headers = {**self.headers, **({"Last-Event-ID": self.last_id} if self.last_id else {})}
        response = request(self.server, "GET", self.path, **headers)
        assert response.status in (200, 503), response.read()
        self.connects += response.status == 200
        event: dict[str, str] = {}
        while len(self.seen) < count and (line := response.readline()):
            text = line.decode().rstrip("\n")
            if text and not text.startswith(":"):
                name, _, value = text.partition(": ")
                event[name] = value
            elif not text:
                self.last_id = event.get("id", self.last_id)
                if event.get("event") == "message":
                    self.seen.append(json.loads(event["data"])["data"])
                event = {}
        response.close()


def test_events_resume_by_the_last_id_across_two_restarts(server: Site) -> None:
    publish(server, "news", 1, 2)
    publish(server, "other", "a")
    one = Events(server, "/api/v1/channels/news/events?from=start")
    many = Events(server, "/api/v1/events?attach=news,start&attach=other,start")
    one.read(1)
    many.read(3)
    server.kill()
    server.start()
    publish(server, "news", 3)
    one.read(2)
    server.stop()
    server.start()
    publish(server, "news", 4)
    publish(server, "other", "b")
    one.read(4)
    many.read(6)
    assert one.seen == [1, 2, 3, 4]
    assert [each for each in many.seen if isinstance(each, int)] == [1, 2, 3, 4]
    assert [each for each in many.seen if isinstance(each, str)] == ["a", "b"]
    assert one.connects == 3


def test_a_client_that_does_not_read_costs_a_position_and_no_memory(server: Site) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
        head = "GET /api/v1/channels/big/events HTTP/1.1\r\nHost: localhost\r\n"
        slow.sendall(f"{head}Authorization: Bearer {token(server)}\r\n\r\n".encode())
        assert slow.recv(15).startswith(b"HTTP/1.1 200")
        for _ in range(20):
            publish(server, "big", *["x" * 60_000] * 10)

        assert waiting_for_sockets(server) == 1
        # What the kernel and one buffer took, of twelve megabytes.
        serials: list[int] = []
        with slow.makefile("rb") as body:
            while len(serials) < 200:
                line = body.readline()
                assert line
                if line.startswith(b'data: {"type":"message"'):
                    serials.append(int(line.split(b'"serial":', 1)[1].split(b",", 1)[0]))
    assert serials == list(range(1, 201))


def sockjs_socket(server: Site, session: str) -> socket.socket:
    """A SockJS WebSocket, raw: authenticated, small buffers in the kernel."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    peer.settimeout(PATIENCE_S)
    peer.connect(("127.0.0.1", server.port))
    head = f"GET /sockjs/000/{session}/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    head += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
    peer.sendall(head.encode())
    recv_until(peer, b"\x01o")
    peer.sendall(sockjs_bytes({"type": "auth", "token": token(server)}))
    return peer


def sockjs_bytes(*frames: dict[str, Any]) -> bytes:
    return frame_bytes(json.dumps([json.dumps(frame) for frame in frames]).encode())


def test_a_sockjs_websocket_that_does_not_read_costs_a_position_and_no_memory(server: Site) -> None:
    with sockjs_socket(server, "slow-one") as slow:
        slow.sendall(sockjs_bytes({"type": "attach", "ref": 1, "channel": "wide", "window": 0}))
        assert recv_until(slow, b"attached")
        before = waiting_for_sockets(server)
        for _ in range(20):
            publish(server, "wide", *["x" * 60_000] * 10)
        assert waiting_for_sockets(server) == before + 1
        got = b""
        serials: list[int] = []
        while len(serials) < 200:
            part = slow.recv(1 << 20)
            assert part
            got += part
            # With the comma: what was read may end in the middle of a number.
            found = list(re.finditer(rb'"wide\\",\\"serial\\":(\d+),', got))
            serials += [int(each[1]) for each in found]
            got = got[found[-1].end() :] if found else got[-100_000:]
    assert serials == list(range(1, 201))


def test_a_sockjs_websocket_that_asks_and_does_not_read_is_not_read_from(server: Site) -> None:
    with sockjs_socket(server, "asking-one") as asking:
        pings = sockjs_bytes(*[{"type": "ping", "ref": "r" * 60}] * 100) * 10
        asking.settimeout(1500 * MS)
        with pytest.raises(TimeoutError):
            # Far more than the kernel holds on both sides; the answers are as long.
            for _ in range(1000):
                asking.sendall(pings)
    assert publish(server, "after", 1)


def old_handshake(
    server: Site, path: str, nonce: bytes = b"", *, origin: str = "http://localhost", key: str = "12998 5 Y3 1  .P00"
) -> socket.socket:
    """What a browser before RFC 6455 sends (the draft hixie-76)."""
    peer = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    head = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nOrigin: {origin}\r\n"
    )
    head += f"Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\nSec-WebSocket-Key2: {key}\r\n\r\n"
    peer.sendall(head.encode() + nonce)
    return peer


NONCE, ANSWER = b"a" * 8, bytes.fromhex("ca3400d8a50847972cd5715ababf437b")


def test_sockjs_speaks_the_draft_before_rfc_6455(server: Site) -> None:
    frame = b"\x00%s\xff" % json.dumps([json.dumps({"type": "auth", "token": token(server)})]).encode()
    with old_handshake(server, "/sockjs/000/old-fashioned/websocket") as old:
        # A proxy may hold the last bytes back until it sees the head of the answer.
        head = recv_until(old, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") and head.endswith(b"\r\n\r\n")
        assert b"Sec-WebSocket-Origin: http://localhost\r\n" in head
        assert b"Sec-WebSocket-Location: ws://localhost/sockjs/000/old-fashioned/websocket\r\n" in head
        old.sendall(NONCE)
        assert recv_until(old, b"\x00o\xff") == ANSWER + b"\x00o\xff"
        old.sendall(frame[:9])
        old.sendall(frame[9:])
        assert recv_until(old, b"\xff").startswith(b'\x00a["{\\"type\\":\\"ready')
        old.sendall(b"\xff\x00")
        assert old.recv(100) == b"\xff\x00"
        assert old.recv(100) == b""
    with old_handshake(server, "/sockjs/000/old-fashioned/websocket", NONCE + frame) as hasty:
        assert ANSWER + b"\x00o\xff" in recv_until(hasty, b"ready")


def test_the_draft_is_refused_like_any_other_handshake(server: Site) -> None:
    for status, path, given in (
        (b"403", "/sockjs/000/old/websocket", {"origin": "https://foe.example"}),
        (b"400", "/sockjs/000/old/websocket", {"key": "12"}),
        (b"400", "/sockjs/000/öld/websocket", {}),
        (b"403", "/sockjs/000/old/websocket", {"origin": "https://☃.example"}),
        (b"404", "/sockjs/nothing/websocket", {}),
        (b"400", "/ws", {}),
    ):
        with old_handshake(server, path, NONCE, **given) as refused:
            assert refused.recv(100).startswith(b"HTTP/1.1 " + status), path
    for sent in (b"\x00" + b"x" * 2_000_000, b"\x00\xfe\xff", b"\x80\x01x", b"\x01x\xff"):
        with old_handshake(server, "/sockjs/websocket", NONCE) as bad:
            recv_until(bad, ANSWER)
            with pytest.raises(OSError):
                bad.sendall(sent)
                while bad.recv(100):
                    pass
                raise ConnectionError("closed in order")


def recv_until(peer: socket.socket, text: bytes) -> bytes:
    found = b""
    while text not in found:
        part = peer.recv(65_536)
        assert part, found
        found += part
    return found


def waiting_for_sockets(server: Site) -> float:
    key = server.manage("create_api_key", f"scraper-{time.monotonic_ns()}", "--cap", '{"*":["*"]}').strip()
    found = request(server, "GET", "/metrics", Authorization=f"Bearer {key}").read().decode().splitlines()
    (waiting,) = [line for line in found if line.startswith("seriatim_attachments{") and "waiting_socket" in line]
    return float(waiting.rpartition(" ")[2])


def test_requests_that_drip_in_are_cut(server: Site) -> None:
    for sent in (
        b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n",
        b"POST /api/v1/frames HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /sockjs/000/a/xhr_send HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[",
    ):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as slow:
            slow.sendall(sent)
            answer = b""
            while part := slow.recv(4096):
                answer += part
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_frame"


def test_a_body_without_end_is_cut(server: Site) -> None:
    heads = (b"Content-Length: 100000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n")
    for path, head in itertools.product((b"/api/v1/frames", b"/sockjs/000/a/xhr_send"), heads):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as large:
            large.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\n" % path + head)
            chunk = b"x" * 1_000_000
            try:
                # Far more than the limit and what the kernel holds on both sides.
                for _ in range(100):
                    large.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk) if b"chunked" in head else chunk)
            except OSError:
                continue
            pytest.fail("a hundred megabytes were taken")


def test_huge_heads_are_refused(server: Site) -> None:
    before = publish(server, "heads", 1)
    for line in (
        b"GET /api/v1/poll?attach=%s HTTP/1.1\r\nHost: x\r\n" % (b"x" * 100_000),
        b"GET /api/v1/poll?attach=heads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % (b"x" * 100_000),
        b"GET /api/v1/events?attach=heads HTTP/1.1\r\nHost: x\r\nLast-Event-ID: %s\r\n" % (b"x" * 100_000),
        b"GET /sockjs/000/a/eventsource HTTP/1.1\r\nHost: x\r\n" + b"X-More: x\r\n" * 5000,
    ):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as large:
            answer = b""
            try:
                large.sendall(line + b"\r\n")
                while part := large.recv(4096):
                    answer += part
            except OSError:
                pass  # it was cut before all of it was sent
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert publish(server, "heads", 2)[0]["serials"] == [before[0]["serials"][0] + 1]


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /api/v1/poll?attach=%s HTTP/1.1\r\n" % (b"x" * 20_000), 414, "too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-More: %s\r\n" % (b"x" * 20_000), 431, "too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-More: x\r\n" * 2000, 431, "too_large"),
        (b"\x16\x03\x01\x02\x00\x01\r\n", 400, "bad_frame"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n", 400, "bad_frame"),
    ],
)
def test_a_head_that_is_refused_is_told_why(server: Site, head: bytes, status: int, code: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(head + b"\r\n")
        first, _, body = read_to_end(client).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status), first
    assert json.loads(body)["error"]["code"] == code


@pytest.mark.parametrize("unusual", [b"", b"TE: trailers\r\n"])
def test_a_refused_head_waits_for_the_answer_before_it(server: Site, unusual: bytes) -> None:
    (stored,) = publish(server, "heads", 1)
    place = f"{stored['epoch']}.{stored['serials'][0]}"
    poll = f"GET /api/v1/poll?attach=heads,{place}&wait_ms=500 HTTP/1.1\r\nAuthorization: Bearer {token(server)}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(poll.encode() + b"Host: 127.0.0.1\r\n" + unusual + b"\r\n")
        time.sleep(0.1)
        client.sendall(b"GET / HTTP/1.1\r\nX-More: %s\r\n\r\n" % (b"x" * 30_000))
        answers = re.findall(rb"HTTP/1.1 (\d+) ", read_to_end(client))
    assert answers == [b"200", b"431"]


def read_to_end(client: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(4096):
            answer += part
    return answer


def test_nothing_of_a_ticket_or_token_is_logged(server: Site) -> None:
    response = request(server, "POST", "/api/v1/tickets", {"attach": ["news"]})
    ticket = json.loads(response.read())["ticket"]
    assert request(server, "GET", f"/api/v1/events?ticket={ticket}", Authorization="Basic x").status == 401
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    for path in (
        f"/api/v1/events?ticket={ticket}",
        f"/api/v1/nothing?ticket={ticket}",
        f"/api/v1/poll?ticket={ticket}",
    ):
        connection.request("GET", path)
        found = connection.getresponse()
        if found.status == 200:
            found.close()
            connection.close()
        else:
            found.read()
    log = server.log.read_text()
    assert ticket[:40] not in log and ticket[-40:] not in log
    assert token(server)[:30] not in log


def test_a_poll_in_pieces_is_answered_as_one_that_comes_whole(server: Site) -> None:
    """The first goes by ASGI, the second does not."""
    publish(server, "pieces", 1, 2)
    body = json.dumps({"attach": [{"channel": "pieces", "from": {"epoch": None, "serial": 0}}]}).encode()
    head = (
        f"POST /api/v1/poll HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token(server)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    answers = []
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pieces in ([head + body], [head, body], [head + body], [head[:9], head[9:] + body]):
            for piece in pieces:
                peer.sendall(piece)
                time.sleep(50 * MS)
            response = HTTPResponse(peer)
            response.begin()
            told = json.loads(response.read())
            headers = {(name.lower(), value) for name, value in response.getheaders()}
            answers.append((response.status, headers, told))
    assert answers[0][2]["positions"]["pieces"]["serial"] == 2
    assert all(answer == answers[0] for answer in answers)
