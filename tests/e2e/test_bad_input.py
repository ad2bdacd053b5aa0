"""Whatever a client sends, it gets the error or the close of the table, and nobody else notices.

Every attack runs against one real server while a witness publishes and listens on connections of its own. In the end
the attacks are repeated, and the server's memory must stay where it was.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import jwt
import pytest

from tests.conftest import MS, aeventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import (
    BINARY,
    SECRET,
    TEXT,
    HandshakeRefused,
    Talker,
    connect,
    frame_bytes,
    handshake_bytes,
    request,
    talker,
    token,
)

pytestmark = pytest.mark.e2e

MIB = 1 << 20
RSS_SLACK_BYTES = 24 * MIB
"""What the allocator may keep behind; one attack that leaked its 16 MiB frames would be over it at once."""
HALF_OPEN = 2000
SLOW = 200


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()[-5000:]


class Witness:
    """Somebody else, who must not notice anything: publishes on one connection and gets it on another."""

    def __init__(self, publisher: Talker, reader: Talker, channel: str) -> None:
        self._publisher = publisher
        self._reader = reader
        self._channel = channel
        self._count = 0

    async def is_well(self) -> None:
        self._count += 1
        frame = {"type": "publish", "ref": self._count, "channel": self._channel, "messages": [{"data": self._count}]}
        answer = await self._publisher.ask(frame)
        assert answer["serials"] == [self._count], answer
        message = await self._reader.until("message")
        assert (message["serial"], message["data"]) == (self._count, self._count)
        self._reader.send({"type": "ack", "serials": {self._channel: self._count}})


@pytest.fixture
async def witness(server: ServerProcess, request: pytest.FixtureRequest) -> AsyncIterator[Witness]:
    channel = f"witness-{time.time_ns()}"
    publisher = await talker(server.port, token("witness-1"))
    reader = await talker(server.port, token("witness-2"))
    await reader.ask({"type": "attach", "ref": 0, "channel": channel})
    found = Witness(publisher, reader, channel)
    await found.is_well()
    yield found
    await found.is_well()
    await publisher.close()
    await reader.close()


async def closed(socket: Talker) -> int | None:
    """Waits for the end; the code of the close frame."""
    await asyncio.wait_for(asyncio.shield(socket.ended), 30)
    return socket.close_code


async def refused(socket: Talker, text: str | bytes, code: str) -> dict[str, Any]:
    """Sends a text frame that must be answered with this error, on a connection that stays open."""
    socket.send_text(text if isinstance(text, bytes) else text.encode())
    answer = await socket.until("error")
    assert answer["code"] == code, (text[:200], answer)
    assert answer["message"], answer
    assert answer["remedy"], answer
    return answer


async def refuse_all(port: int, texts: list[str], code: str) -> None:
    """Each gets its error. On new connections now and then: the eleventh bad frame of a minute closes."""
    for start in range(0, len(texts), 8):
        socket = await talker(port, token("eve"))
        for text in texts[start : start + 8]:
            await refused(socket, text, code)
        assert (await socket.ask({"type": "ping", "ref": "alive"}))["type"] == "pong"
        await socket.close()


# ---------------------------------------------------------------------- attacks


async def malformed_frames(port: int) -> None:
    bad = ["", " ", "{", "[]", "null", "1", '"ping"', '{"type":"ping"', '{"type":"ping"}{"type":"ping"}', "{'type':1}"]
    bad += ['{"type":null}', '{"type":7}', "{}", '{"type":"ping"}\x00', '{"type":"ping","ref":1e400}', "\ufeff{}"]
    bad += ['{"type":"ping","ref":[]}', '{"type":"ping","ref":"' + "r" * 65 + '"}', '{"type":"ping","ref":0.5}']
    await refuse_all(port, bad, "bad_frame")
    await refuse_all(port, ['{"type":"nothing"}', '{"type":"ready"}', '{"type":""}'], "unknown_type")


def each(base: dict[str, object], field: str, *values: object) -> list[dict[str, object]]:
    return [{**base, field: value} for value in values]


async def wrong_types(port: int) -> None:
    channel: dict[str, object] = {"channel": "c"}
    publish = {"type": "publish", **channel}
    ids: tuple[object, ...] = (1, "", "x" * 65, "é", [])
    events: tuple[object, ...] = (1, "", "x" * 65, [])
    keys: tuple[object, ...] = (1, "", "x" * 129, "\n")
    frames = [
        *each({"type": "attach", **channel}, "window", True, -1, 1.5, "x", [], {}, 2**53, 10**30),
        *each({"type": "attach"}, "channel", None, 7, [], {}, True),
        *each({"type": "ack"}, "serials", None, 1, "x", [], [1], {"c": -1}, {"c": "1"}, {"c": None}, {"c": 2**53}),
        *each({"type": "ping"}, "acks", 1, "x", [], {"c": 1.5}),
        *each(publish, "messages", None, 1, "x", {}, [], [1], [None], [{"data": 1}] * 101),
        *each({**publish, "messages": [{"data": 1}]}, "chained", 1, "yes", []),
        *each(publish, "messages", *([{"id": wrong}] for wrong in ids)),
        *each(publish, "messages", *([{"event": wrong}] for wrong in events)),
        *each(publish, "messages", *([{"key": wrong}] for wrong in keys)),
        *each({"type": "history", **channel}, "limit", 0, 1001, -1, "5", 1.5),
        *each({"type": "auth"}, "token", None, 7, []),
        {"type": "attach"},
        {"type": "auth"},
        {"type": "publish", "channel": "c"},
    ]
    await refuse_all(port, [json.dumps(frame) for frame in frames], "bad_frame")


async def the_eleventh_bad_frame(port: int) -> None:
    socket = await talker(port, token("eve"))
    for _ in range(10):
        await refused(socket, "{", "bad_frame")
    socket.send_text(b"{")
    assert await closed(socket) == 4400


async def huge_frames(port: int) -> None:
    socket = await talker(port, token("eve"))
    socket.write(frame_bytes(b"x" * (16 * MIB)))
    assert await closed(socket) in (1009, None)  # None: our own bytes in flight turn its close into a reset
    whole = await talker(port, token("eve"))
    whole.write(frame_bytes(b"x" * (MIB + 1)))
    assert await closed(whole) in (1009, None)
    announced = await talker(port, token("eve"))
    announced.write(struct.pack("!BBQ", 0x80 | TEXT, 0x80 | 127, 2**62) + b"\0\0\0\0")
    assert await closed(announced) == 1009
    pieces = await talker(port, token("eve"))
    for index in range(40):
        pieces.write(frame_bytes(b"x" * 64_000, TEXT if index == 0 else 0, fin=False))
    assert await closed(pieces) in (1009, None)


async def large_messages(port: int) -> None:
    socket = await talker(port, token("eve"))
    over = {"type": "publish", "ref": 1, "channel": "large", "messages": [{"data": "x" * 65_535}]}
    assert (await socket.ask(over))["code"] == "too_large"
    most = {"type": "publish", "ref": 2, "channel": "large", "messages": [{"data": "x" * 65_534}]}
    assert (await socket.ask(most))["type"] == "published"
    await socket.close()


async def binary_and_broken_text(port: int) -> None:
    for payload, opcode, code in (
        (b"{}", BINARY, 1003),
        (b'{"type":"\xff"}', TEXT, 1007),
        (b"\xed\xa0\x80", TEXT, 1007),
        (b"\xc0\xaf", TEXT, 1007),
    ):
        socket = await talker(port, token("eve"))
        socket.write(frame_bytes(payload, opcode))
        assert await closed(socket) == code, payload


async def broken_websocket(port: int) -> None:
    """RFC 6455: unmasked, reserved opcodes and bits, fragmented control frames, a continuation of nothing."""
    for data in (
        frame_bytes(b'{"type":"ping"}', mask=False),
        frame_bytes(b"x", 3),
        frame_bytes(b"x", 11),
        b"\xf1\x80\0\0\0\0",
        frame_bytes(b"x", 9, fin=False),
        frame_bytes(b"x" * 126, 9),
        frame_bytes(b"x", 0),
    ):
        socket = await talker(port, token("eve"))
        socket.write(data)
        assert await closed(socket) == 1002, data[:8]
    for reason in (b"\x03", struct.pack("!H", 1005), struct.pack("!H", 1000) + b"\xff"):
        socket = await talker(port, token("eve"))
        socket.write(frame_bytes(reason, 8))
        assert await closed(socket) in (1002, 1007, None), reason


async def foul_names(port: int) -> None:
    names = [
        "",
        "$control",
        "$",
        "default:x",
        ":a",
        "a:",
        "a::b",
        ".",
        "..",
        "a:.",
        "a:..",
        "a b",
        "a/b",
        "é",
        "a\u0000",
    ]
    names += ["x" * 201, "n" * 65 + ":a", "a.b:c", "a\n", "%61", "a?b", "a#b", "\U0001f600", "../../etc/passwd", "a,b"]
    for kind in ("attach", "detach", "history"):
        texts = [json.dumps({"type": kind, "channel": name}) for name in names]
        for text in texts:
            socket = await talker(port, token("eve"))
            await refused(socket, text, "bad_channel")
            await socket.close()
    socket = await talker(port, token("eve"))
    for name in names:
        frame = {"type": "publish", "channel": name, "messages": [{"data": 1}]}
        await refused(socket, json.dumps(frame), "bad_channel")
    assert (await socket.ask({"type": "attach", "ref": 1, "channel": "nowhere:x"}))["code"] in (
        "forbidden",
        "not_found",
    )
    await socket.close()


def signed(header: object, claims: object, secret: str | None) -> str:
    """A token that no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    digest = b"" if secret is None else hmac.digest(secret.encode(), b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(digest).rstrip(b"=")]).decode()


async def foul_tokens(port: int) -> None:
    now = int(time.time())
    claims = {"sub": "eve", "exp": now + 600}
    good = token("eve")
    head, body, signature = good.split(".")
    bad = [
        token("eve", secret="another" * 8),
        token("eve", ttl_s=-60),
        signed({"alg": "none"}, claims, None),
        signed({"alg": "none"}, claims, SECRET),
        signed({"alg": "HS256", "kid": 7}, claims, SECRET),
        signed({"alg": "HS256", "crit": ["b64"], "b64": False}, claims, SECRET),
        signed({}, claims, SECRET),
        signed({"alg": "HS256"}, [], SECRET),
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-2]}",
        f"{head}.{body[:-1]}.{signature}",
        "",
        ".",
        "..",
        "x" * 5000,
        "é",
        "ser_x_" + "y" * 40,
        token("eve", pad="x" * 4096),
        token("eve", nbf=now + 600),
        token("eve", iat=now + 600),
        token("eve", aud="elsewhere"),
        token("eve", exp="soon"),
        token("eve", cap="everything"),
        token("eve", cap={"*": "publish"}),
        token(""),
        token("é"),
        token("x" * 129),
        jwt.encode({"sub": "eve"}, SECRET, algorithm="HS256"),
        jwt.encode({"exp": now + 600}, SECRET, algorithm="HS256"),
        jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": "another"}),
        signed({"alg": "HS512"}, claims, SECRET),
    ]
    for text in bad:
        socket = await talker(port)
        socket.send({"type": "auth", "token": text})
        assert (await socket.until("error"))["code"] == "unauthorized", text
        assert await closed(socket) == 4401, text
    for text in bad[:5]:
        socket = await open_with(port, text)
        assert (await socket.until("error"))["code"] == "unauthorized", text
        assert await closed(socket) == 4401, text
        status, answer = await request(port, "GET", "/api/v1/channels/c/messages", text)
        assert (status, answer["error"]["code"]) == (401, "unauthorized"), text
    socket = await talker(port, token("eve"))
    socket.send({"type": "auth", "token": token("adam")})
    assert (await socket.until("error"))["code"] == "unauthorized"
    assert await closed(socket) == 4401


async def open_with(port: int, bearer: str) -> Talker:
    socket = Talker()
    await connect(port, bearer, into=socket)
    return socket


async def frames_before_auth(port: int) -> None:
    socket = await talker(port)
    for _ in range(10):
        await refused(socket, '{"type":"ping"}', "unauthorized")
    socket.send({"type": "ping"})
    assert (await socket.until("error"))["code"] == "unauthorized"
    assert await closed(socket) == 4401


async def acks_beyond(port: int) -> None:
    channel = f"acks-{time.time_ns()}"
    socket = await talker(port, token("eve"))
    await socket.ask({"type": "publish", "ref": 1, "channel": channel, "messages": [{"data": i} for i in range(3)]})
    attached = await socket.ask({"type": "attach", "ref": 2, "channel": channel, "from": "start"})
    assert attached["serial"] == 0
    assert [(await socket.until("message"))["serial"] for _ in range(3)] == [1, 2, 3]
    # Before the first valid one it may have been meant for an earlier attachment.
    socket.send({"type": "ack", "serials": {channel: 99}})
    assert (await socket.ask({"type": "ping", "ref": 3}))["type"] == "pong"
    socket.send({"type": "ack", "serials": {channel: 2, "unknown": 7}})
    for beyond in (4, 2**53 - 1):
        error = await refused(socket, json.dumps({"type": "ack", "serials": {channel: beyond}}), "bad_ack")
        assert error["channel"] == channel
    socket.send({"type": "ack", "serials": {channel: 1}})
    socket.send({"type": "ack", "serials": {channel: 3}})
    assert (await socket.ask({"type": "ping", "ref": 4}))["type"] == "pong"
    await refused(socket, json.dumps({"type": "ack", "serials": {channel: 2**53}}), "bad_frame")
    await socket.close()


async def positions_beyond(port: int) -> None:
    channel = f"positions-{time.time_ns()}"
    socket = await talker(port, token("eve"))
    stored = await socket.ask({"type": "publish", "ref": 1, "channel": channel, "messages": [{"data": 1}, {"data": 2}]})
    epoch = stored["epoch"]
    for ref, position in enumerate(({"epoch": epoch, "serial": 3}, {"epoch": "abcdefgh", "serial": 1}), 2):
        attached = await socket.ask({"type": "attach", "ref": ref, "channel": channel, "from": position})
        assert (attached["serial"], attached["resumed"]) == (0, False)
        skipped = await socket.until("skipped")
        assert (skipped["from"], skipped["to"], skipped["reason"], skipped["epoch"]) == (None, None, "epoch", epoch)
        assert [(await socket.until("message"))["serial"] for _ in range(2)] == [1, 2]
    far = {"epoch": epoch, "serial": 2**53 - 1}
    assert not (await socket.ask({"type": "attach", "ref": 4, "channel": channel, "from": far}))["resumed"]
    wrong: list[object] = [
        {},
        [],
        7,
        "end",
        "",
        None,
        True,
        {"epoch": epoch},
        {"serial": 1},
        {"epoch": "", "serial": 1},
    ]
    wrong += [{"epoch": None, "serial": 1}, {"epoch": epoch, "serial": -1}, {"epoch": epoch, "serial": 1.5}]
    wrong += [
        {"rewind": -1},
        {"rewind": "5"},
        {"since": -1},
        {"rewind": 1, "since": 1},
        {"epoch": "é" * 8, "serial": 1},
    ]
    wrong += [{"epoch": epoch, "serial": 2**53}, {"cursor": ""}, {"cursor": "x" * 65}, {"epoch": "x" * 33, "serial": 1}]
    for ref, position in enumerate(wrong, 10):  # type: ignore[assignment]
        answer = await socket.ask({"type": "attach", "ref": ref, "channel": channel, "from": position})
        assert answer.get("code") == "bad_position", (position, answer)
    await socket.close()


async def ids_used_again(port: int) -> None:
    channel = f"ids-{time.time_ns()}"
    socket = await talker(port, token("eve"))
    first = await socket.ask(
        {"type": "publish", "ref": 1, "channel": channel, "messages": [{"id": "a", "data": 1}, {"id": "a", "data": 2}]}
    )
    assert (first["serials"], first["duplicates"], first["conflicts"]) == ([1, 1], [1], [1])
    again = await socket.ask({"type": "publish", "ref": 2, "channel": channel, "messages": [{"id": "a", "data": 3}]})
    assert (again["serials"], again["duplicates"], again["conflicts"]) == ([1], [0], [0])
    same = await socket.ask({"type": "publish", "ref": 3, "channel": channel, "messages": [{"id": "a", "data": 1.0}]})
    assert same["duplicates"] == [0]
    path = f"/api/v1/channels/{channel}/messages"
    status, rest = await request(port, "POST", path, token("eve"), {"id": "a", "data": "other"})
    assert (status, rest["serials"], rest["conflicts"]) == (200, [1], [0])
    status, page = await request(port, "GET", path, token("eve"))
    assert [message["data"] for message in page["messages"]] == [1]
    await socket.close()


async def attaches_over_the_limit(port: int) -> None:
    socket = await talker(port, token("eve"))
    for index in range(205):
        socket.send({"type": "attach", "ref": index, "channel": f"limit:{index}".replace(":", "-")})
    answers: dict[int, dict[str, Any]] = {}
    while len(answers) < 205:
        frame = await socket.receive()
        assert frame is not None
        if "ref" in frame:
            answers[frame["ref"]] = frame
    kinds = [answers[index].get("code", answers[index]["type"]) for index in range(205)]
    assert kinds.count("attached") == 200
    assert kinds.count("limit_exceeded") == 5
    # Attaching again is no further attachment, and after a detach there is room.
    free = kinds.index("attached")
    assert (await socket.ask({"type": "attach", "ref": "r", "channel": f"limit-{free}"}))["type"] == "attached"
    assert (await socket.ask({"type": "detach", "ref": "d", "channel": f"limit-{free}"}))["type"] == "detached"
    assert (await socket.ask({"type": "attach", "ref": "a", "channel": "limit-again"}))["type"] == "attached"
    await socket.close()


async def nested_json(port: int) -> None:
    deep = ["[" * 100_000 + "]" * 100_000, "[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000]
    texts = deep.copy()
    texts += [f'{{"type":"publish","channel":"deep","messages":[{{"data":{each}}}]}}' for each in deep]
    texts += [f'{{"type":"ping","ref":{deep[0]}}}', f'{{"type":"attach","channel":"deep","from":{deep[2]}}}']
    texts += ['{"type":"publish","channel":"deep","messages":[{"data":' + "[" * 65 + "]" * 65 + "}]}"]
    await refuse_all(port, texts, "bad_frame")
    socket = await talker(port, token("eve"))
    socket.send_text(
        b'{"type":"publish","ref":1,"channel":"deep","messages":[{"data":' + b"[" * 64 + b"]" * 64 + b"}]}"
    )
    assert (await socket.until("published"))["ref"] == 1
    await socket.close()


async def foul_values(port: int) -> None:
    """Lone surrogates, NaN, numbers that no double can be."""
    values = ['"\\ud800"', '"\\udc00\\ud800"', '{"\\ud800":1}', "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01"]
    values += ["1" + "0" * 400, "1.", ".5", "+1", "0x1", '"\x01"', "nul", "True", '"\\x41"', "[1,]", '{"a":1,}', "'a'"]
    texts = [f'{{"type":"publish","ref":1,"channel":"foul","messages":[{{"data":{value}}}]}}' for value in values]
    await refuse_all(port, texts, "bad_frame")
    path = "/api/v1/channels/foul/messages"
    for value in ("\ud800", "a\ud800"):
        status, answer = await request(port, "POST", path, token("eve"), {"data": value})
        assert (status, answer["error"]["code"]) == (400, "bad_frame")


async def many_bytes_of_names(port: int) -> None:
    """An ack and an attach that name what never was."""
    socket = await talker(port, token("eve"))
    socket.send({"type": "ack", "serials": {f"never-{index}": index for index in range(20_000)}})
    assert (await socket.ask({"type": "ping", "ref": 1}))["type"] == "pong"
    await socket.close()


async def requests_without_end(port: int) -> None:
    """A client that asks and never reads: the server stops reading it, and does not hoard answers."""
    socket = await talker(port, token("eve"))
    socket.deaf(on=True)
    for _ in range(20_000):
        socket.send_text(b'{"type":"history","ref":1,"channel":"large"}')
    await asyncio.sleep(0.5)
    socket.abort()


async def half_open_handshakes(port: int) -> None:
    """Connections that begin a handshake and say no more."""
    whole = handshake_bytes(port)
    held = await open_many(port, HALF_OPEN, lambda index: whole[: index % (len(whole) - 1)])
    # Somebody with manners still gets in.
    socket = await talker(port, token("eve"))
    assert (await socket.ask({"type": "ping", "ref": 1}))["type"] == "pong"
    await socket.close()
    for _, writer in held:
        writer.transport.abort()


async def slow_handshakes(port: int) -> None:
    """A few bytes at a time; the last ones come, and are served."""
    whole = handshake_bytes(port, token("eve"))
    held = await open_many(port, SLOW, lambda index: b"")
    for start in range(0, len(whole), 40):
        for _, writer in held:
            writer.write(whole[start : start + 40])
            await writer.drain()
    for reader, writer in held:
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 101")
        writer.transport.abort()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_many(port: int, count: int, first: Callable[[int], bytes]) -> list[Streams]:
    held: list[Streams] = []
    for start in range(0, count, 100):
        opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(100)))
        for index, (reader, writer) in enumerate(opened, start):
            writer.write(first(index))
            held.append((reader, writer))
    return held


async def foul_handshakes(port: int) -> None:
    for headers, status in (
        ("Origin: http://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Sec-WebSocket-Protocol: graphql-ws\r\n", 400),
        ("Sec-WebSocket-Version: 12\r\n", 400),
        ("X-Junk: " + "x" * 20_000 + "\r\n", 431),
        ("Sec-WebSocket-Key: short\r\n", 400),
    ):
        with pytest.raises((HandshakeRefused, ConnectionError)) as caught:
            await connect(port, headers=headers)
        if isinstance(caught.value, HandshakeRefused):
            assert caught.value.status in (status, 400), headers[:80]
    for junk in (
        b"\x16\x03\x01\x02\x00" * 20,
        b"GET /ws HTTP/9.9\r\n\r\n",
        b"\0" * 4096,
        b"A" * 70_000,
        b"\r\n" * 1000,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(junk)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.transport.abort()


ATTACKS: list[Callable[[int], Awaitable[None]]] = [
    malformed_frames,
    wrong_types,
    the_eleventh_bad_frame,
    huge_frames,
    large_messages,
    binary_and_broken_text,
    broken_websocket,
    foul_names,
    foul_tokens,
    frames_before_auth,
    acks_beyond,
    positions_beyond,
    ids_used_again,
    attaches_over_the_limit,
    nested_json,
    foul_values,
    many_bytes_of_names,
    requests_without_end,
    half_open_handshakes,
    slow_handshakes,
    foul_handshakes,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_bad_input_gets_its_answer_and_harms_nobody_else(
    attack: Callable[[int], Awaitable[None]], server: ServerProcess, witness: Witness
) -> None:
    await attack(server.port)
    await witness.is_well()


async def test_bad_input_leaves_nothing_behind_in_memory(server: ServerProcess, witness: Witness) -> None:
    """Every attack ran once, so what the process needs for them it has. Three times more must not need more."""
    for attack in ATTACKS:  # alone, for those who run only this test
        await attack(server.port)
    before, files = server.rss_bytes(), server.open_files()
    for _ in range(2):
        for attack in ATTACKS:
            await attack(server.port)
            await witness.is_well()
    await aeventually(lambda: server.open_files() <= files + 50, 30_000 * MS, what="sockets are closed")
    grown = server.rss_bytes() - before
    assert grown < RSS_SLACK_BYTES, f"{grown / MIB:.1f} MiB more than before"
