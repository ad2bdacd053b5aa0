"""permessage-deflate from end to end: who gets what, compressed how often, with both SDKs and raw."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from realtime import namespaces, tokens
from realtime.hub import Attaching
from realtime.links import DeflateEncoding, SharedSocket, SocketLink
from realtime.protocol import positions
from realtime.protocol.deflate import TAIL, WINDOWS, pack
from realtime.protocol.websocket import compressed_frame
from realtime.publishing import publish
from realtime.testing import LiveServer
from seriatim_client import Client
from tests.conftest import MS
from tests.hub.world import CHANNEL, World
from tests.pages import Person
from tests.server.test_conformance import Line
from tests.server.test_protocol import TEXT, frame
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATIENCE_S = 60_000 * MS
LONG = "All of it again. " * 100
OFFER = "permessage-deflate; client_max_window_bits"
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


# ---------------------------------------------------------------------- once for all


class Wire:
    """A socket that keeps what was written."""

    def __init__(self, window_bits: int) -> None:
        self.window_bits = window_bits
        self.written: list[bytes] = []
        self.on_text = self.on_binary = self.on_heard = self.on_congested = self.on_drained = None
        self.buffered_bytes = self.taken_bytes = 0
        self.quick, self.number = None, -1

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


def texts_of(data: bytes, window_bits: int) -> list[tuple[bool, str]]:
    """The text frames in what was written: whether each is compressed, and its text."""
    found = []
    while data:
        first, size, start = data[0], data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        payload, data = data[start : start + size], data[start + size :]
        assert first in (0x81, 0xC1)
        if first == 0xC1:
            payload = zlib.decompressobj(-window_bits).decompress(payload + TAIL)
        found.append((first == 0xC1, payload.decode()))
    return found


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The window of each compression."""
    found: list[int] = []

    def counted(first: int, payload: bytes, window_bits: int) -> bytes:
        found.append(window_bits)
        return compressed_frame(first, payload, window_bits)

    monkeypatch.setattr("realtime.links.compressed_frame", counted)
    monkeypatch.setattr("realtime.links.DEFLATE", {bits: DeflateEncoding(bits) for bits in WINDOWS})
    return found


def follow(world: World, window_bits: int, position: positions.From | None = None) -> Wire:
    """Somebody who follows the channel over a socket with this window."""
    wire = Wire(window_bits)
    link: Any = SocketLink(cast("SharedSocket", wire))
    attaching = Attaching(CHANNEL, position or positions.Head(), 0, 1, 10_000, 100)
    world.hub.attach(attaching, link, lambda subscriber, answer: world.hub.begin(subscriber), lambda code: None)
    return wire


def test_a_message_is_compressed_once_for_all_who_agreed_on_a_window(compressions: list[int]) -> None:
    world = World(window_bytes=1 << 20)
    world.log.commit(1)
    wires = [follow(world, bits) for bits in (15, 15, 15, 12, 12, 9, 0, 0)]
    world.loop.advance(1)
    news = [world.log.commit(1, size=2000), world.log.commit(1), world.log.commit(1, size=2000)]
    for each in news:
        world.hub.hear(each)
    world.loop.advance(1)
    assert sorted(compressions) == [9, 9, 12, 12, 15, 15]
    for wire in wires:
        found = texts_of(b"".join(wire.written), wire.window_bits)
        assert [json.loads(text)["serial"] for _, text in found] == [2, 3, 4]
        assert [compressed for compressed, _ in found] == [bool(wire.window_bits), False, bool(wire.window_bits)]
    assert wires[0].written == wires[1].written == wires[2].written


def test_those_who_catch_up_share_what_was_compressed_wherever_they_start(compressions: list[int]) -> None:
    world = World(window_bytes=1 << 20, cache_bytes=1 << 20)
    world.log.commit(40, size=2000)
    starts = list(range(1, 31))
    wires = [follow(world, 15, positions.Rewind(41 - start)) for start in starts]
    world.loop.advance(1)
    for start, wire in zip(starts, wires, strict=True):
        found = texts_of(b"".join(wire.written), 15)
        serials = [json.loads(text)["serial"] for _, text in found if "pad" in text]
        assert serials == list(range(start, 41))
    assert len(compressions) == 40


def test_what_is_remembered_of_it_is_bounded(monkeypatch: pytest.MonkeyPatch, compressions: list[int]) -> None:
    monkeypatch.setattr("realtime.links.MADE_BYTES_MOST", 10_000)
    encoding = DeflateEncoding(15)
    frames = [f"{number} " + LONG for number in range(20)]
    for _ in range(2):
        for each in frames:
            encoding.encode([each])
    # Less than all of them fit, so that each was forgotten before it came again.
    assert len(compressions) == 40
    assert encoding.encode(frames[-2:]) == encoding.encode([frames[-2]]) + encoding.encode([frames[-1]])
    assert len(compressions) == 40
    assert sum(len(each) + len(made) for each, made in encoding._made.items()) == encoding._made_bytes <= 10_000


def test_only_larger_answers_are_compressed(compressions: list[int], realtime_settings: Callable[..., None]) -> None:
    realtime_settings(DEFLATE_MIN_BYTES=300)
    wire, plain = Wire(15), Wire(0)
    for each in (wire, plain):
        link = SocketLink(cast("SharedSocket", each))
        link.send({"type": "history", "messages": ["x" * 20] * 20})
        link.send({"type": "pong"})
    assert [compressed for compressed, _ in texts_of(b"".join(wire.written), 15)] == [True, False]
    assert [compressed for compressed, _ in texts_of(b"".join(plain.written), 15)] == [False, False]
    assert compressions == [15]


# ---------------------------------------------------------------------- a real server


@pytest.fixture
def server(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[LiveServer]:
    namespaces.reset()
    with LiveServer(getattr(request, "param", None)) as running:
        yield running


def bearer(client: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.issue_token(client)[0]}"}


class Raw(Line):
    """A client that sees which frames are compressed."""

    def __init__(self, server: LiveServer, client: str, offer: str | None = OFFER) -> None:
        super().__init__(server.port, "/ws", offer, bearer(client))
        self.window_bits = 9 if "=9" in self.agreed else 15

    def read(self, kind: str) -> tuple[bool, dict[str, Any], bytes]:
        """The next frame of this type: whether it was compressed, what it says, and its bytes on the wire."""
        while True:
            first, payload = self.frame()
            text = payload
            if first == 0xC1:
                text = zlib.decompressobj(-self.window_bits).decompress(payload + TAIL)
            found = json.loads(text)
            assert found["type"] != "error", found
            if found["type"] == kind:
                return first == 0xC1, found, payload

    def ask(self, kind: str, packed_by: int = 0, **fields: object) -> dict[str, Any]:
        data = json.dumps(fields).encode()
        self.send(frame(TEXT, pack(data, packed_by), rsv=4) if packed_by else frame(TEXT, data))
        return self.read(kind)[1]


@pytest.mark.e2e
def test_all_who_agreed_get_the_same_compressed_frame_and_the_others_the_plain_one(server: LiveServer) -> None:
    offers = [
        OFFER,
        "permessage-deflate",
        "permessage-deflate; server_max_window_bits=10",
        None,
        "permessage-deflate; x",
    ]
    lines = [Raw(server, f"c{index}", offer) for index, offer in enumerate(offers)]
    for line in lines:
        assert line.ask("attached", type="attach", ref=1, channel="room")["head"] == 0
    answer = lines[0].ask("published", 15, type="publish", ref=2, channel="room", messages=[{"data": LONG}])
    assert answer["serials"] == [1]
    publish("room", "short")
    found = [line.read("message") for line in lines]
    assert [compressed for compressed, _, _ in found] == [True, True, True, False, False]
    assert [message["data"] for _, message, _ in found] == [LONG] * 5
    assert found[0][2] == found[1][2]
    assert found[3][2] == found[4][2]
    assert len(found[0][2]) < len(found[3][2]) / 5
    assert [(compressed, message["data"]) for compressed, message, _ in [line.read("message") for line in lines]] == [
        (False, "short")
    ] * 5
    lines[0].send(frame(TEXT, pack(b'{"type":"history","ref":3,"channel":"room"}', 12), rsv=4))
    compressed, history, _ = lines[0].read("history")
    assert compressed and [message["data"] for message in history["messages"]] == ["short", LONG]
    for line in lines:
        line.close()


@pytest.mark.e2e
@pytest.mark.parametrize("server", [{"DEFLATE_MIN_BYTES": 0}], indirect=True)
def test_switched_off_it_is_declined(server: LiveServer) -> None:
    line = Raw(server, "ana")
    assert line.agreed == ""
    line.ask("attached", type="attach", ref=1, channel="room")
    publish("room", LONG)
    assert line.read("message")[0] is False
    line.send(frame(TEXT, pack(b'{"type":"ping"}', 15), rsv=4)).ends(1002)
    line.close()


def peak_bytes(server: LiveServer) -> int:
    assert server._process is not None
    status = Path(f"/proc/{server._process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


@pytest.mark.e2e
def test_a_bomb_is_refused_before_memory_grows(server: LiveServer) -> None:
    bombs = [Raw(server, f"eve{index}") for index in range(20)]
    for line in bombs:
        line.read("ready")
    before = peak_bytes(server)
    bomb = frame(TEXT, pack(b" " * (64 << 20), 15), rsv=4)
    for line in bombs:
        assert "1048576" in line.send(bomb).ends(1009)
        line.close()
    assert peak_bytes(server) - before < 16 << 20


@pytest.mark.e2e
def test_a_client_of_another_library_agrees_by_itself(server: LiveServer) -> None:
    with connect(server.websocket_url, additional_headers=bearer("ana")) as socket:
        assert socket.response is not None
        assert socket.response.headers["Sec-WebSocket-Extensions"] == AGREED
        assert json.loads(socket.recv(PATIENCE_S))["type"] == "ready"
        socket.send(json.dumps({"type": "attach", "channel": "room"}))
        assert json.loads(socket.recv(PATIENCE_S))["type"] == "attached"
        for number in range(1, 4):
            socket.send(json.dumps({"type": "publish", "channel": "room", "messages": [{"data": LONG * number}]}))
            found: dict[str, Any] = {}
            while not found.keys() >= {"published", "message"}:
                each = json.loads(socket.recv(PATIENCE_S))
                found[each["type"]] = each
            assert found["published"]["serials"] == [number]
            assert found["message"]["data"] == LONG * number


@pytest.mark.e2e
async def test_the_python_sdk_agrees_by_itself(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = []

    async def kept(*given: Any, **options: Any) -> Any:
        sockets.append(await connect_async(*given, **options))
        return sockets[-1]

    monkeypatch.setattr("seriatim_client.client.connect", kept)
    token = (await asyncio.to_thread(tokens.issue_token, "ana"))[0]
    async with Client(server.url, token=token) as client, asyncio.timeout(PATIENCE_S):
        channel = client.channel("room", "start")
        receipts = await asyncio.gather(*(channel.publish(LONG * number) for number in range(1, 6)))
        assert [receipt.serial for receipt in receipts] == [1, 2, 3, 4, 5]
        data = []
        async for message in channel:
            data.append(message.data)
            if len(data) == 5:
                break
        assert data == [LONG * number for number in range(1, 6)]
    answers = [socket.response.headers for socket in sockets if socket.response is not None]
    assert [headers["Sec-WebSocket-Extensions"] for headers in answers] == [AGREED]


@pytest.mark.e2e
@pytest.mark.browser
def test_a_browser_agrees_by_itself(site: Site, browser: Browser) -> None:
    site.manage("demo", "--force")
    ana, bo = (Person(site, browser, name).log_in() for name in ("ana", "bo"))
    agreed: list[str] = []
    watcher = ana.context.new_cdp_session(ana.page)
    watcher.send("Network.enable")
    watcher.on(
        "Network.webSocketHandshakeResponseReceived",
        lambda event: agreed.append(event["response"]["headers"].get("Sec-WebSocket-Extensions", "")),
    )
    for person in (ana, bo):
        person.enter("lobby")
    ana.say(LONG.strip())
    for person in (ana, bo):
        person.wait_for_texts(LONG.strip())
        person.assert_whole()
        person.close()
    assert agreed == [AGREED]
