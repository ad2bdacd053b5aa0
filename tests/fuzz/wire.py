"""Nonsense of every kind at a real server, for a while: WebSocket, REST and every fallback.

    python -m tests.fuzz.wire --seconds 60 --seed 7

What is sent begins as something valid and is spoilt: wrong types, deep and giant values, cut and joined texts, bytes
that are no UTF-8, violations of RFC 6455 and of HTTP. In the end there must have been no status 500 and no traceback,
the memory of the server must be where it was after warming up, and who comes then must be served. The seed repeats the
dice.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import TEXT, HandshakeRefused, RawSocket, connect, frame_bytes, handshake_bytes, talker, token

MIB = 1 << 20
GROWTH_MOST_BYTES = 24 * MIB
"""After warming up; what the allocator may keep of the largest things."""
WARM_SHARE = 0.3
LOOK_S = 1.5
"""How long an answer is read: a stream does not end."""

FRAMES: list[dict[str, Any]] = [
    {"type": "auth", "ref": 1, "token": "x.y.z"},
    {"type": "attach", "ref": 2, "channel": "fuzz", "from": "start", "window": 10},
    {"type": "attach", "ref": 2, "channel": "fuzz", "from": {"epoch": "abcd", "serial": 4}, "delta": "fossil"},
    {"type": "attach", "ref": 2, "channel": "fuzz", "from": {"rewind": 5}, "ack_ms": 100},
    {"type": "attach", "ref": 2, "channel": "fuzz", "from": {"cursor": "here"}, "cursor": "here"},
    {"type": "detach", "ref": 3, "channel": "fuzz"},
    {"type": "ack", "serials": {"fuzz": 1}},
    {"type": "publish", "ref": 4, "channel": "fuzz", "messages": [{"id": "1", "event": "e", "key": "k", "data": [1]}]},
    {"type": "publish", "ref": 4, "channel": "fuzz", "messages": [{"data": {"a": "b"}}], "chained": True},
    {"type": "signal", "ref": 5, "channel": "fuzz", "event": "e", "data": {"x": 1}, "to": "eve"},
    {"type": "presence", "ref": 6, "channel": "fuzz", "action": "enter", "data": {}},
    {"type": "history", "ref": 7, "channel": "fuzz", "after": 0, "before": 9, "limit": 10, "order": "asc"},
    {"type": "ping", "ref": 8, "acks": {"fuzz": 2}},
]

REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/api/v1/channels?prefix=f&limit=3&page=", None),
    ("GET", "/api/v1/channels/fuzz", None),
    ("PATCH", "/api/v1/channels/fuzz2", {"closed": True, "reason": "x"}),
    ("GET", "/api/v1/channels/fuzz/messages?after=1&limit=2&order=asc", None),
    ("POST", "/api/v1/channels/fuzz/messages", {"messages": [{"id": "a", "data": {"x": 1}}], "client": "c"}),
    ("DELETE", "/api/v1/channels/fuzz2/messages?upto=3", None),
    ("POST", "/api/v1/channels/fuzz2/epoch", None),
    ("GET", "/api/v1/channels/fuzz/ledger", None),
    ("GET", "/api/v1/channels/fuzz/trace?serial=1", None),
    ("GET", "/api/v1/channels/fuzz/presence?limit=2", None),
    ("POST", "/api/v1/channels/fuzz/signals", {"event": "e", "data": 1, "to": "eve"}),
    ("POST", "/api/v1/publish", {"items": [{"channel": "fuzz", "messages": [{"data": 1}], "client": "c"}]}),
    ("POST", "/api/v1/tokens", {"client": "c", "cap": {"a*": ["subscribe"]}, "ttl_s": 60}),
    ("POST", "/api/v1/tokens/revoke", {"jti": "x", "reason": "r"}),
    ("DELETE", "/api/v1/clients/nobody/connections", None),
    ("GET", "/api/v1/audit?act=block&since=0&limit=3", None),
    ("GET", "/api/v1/events?attach=fuzz,start&from=head", None),
    ("GET", "/api/v1/channels/fuzz/events", None),
    ("POST", "/api/v1/tickets", {"attach": [{"channel": "fuzz", "from": "start"}]}),
    ("GET", "/api/v1/stream?attach=fuzz,start", None),
    ("POST", "/api/v1/stream", {"attach": [{"channel": "fuzz", "from": "start"}]}),
    ("GET", "/api/v1/poll?attach=fuzz,start&wait_ms=100", None),
    ("POST", "/api/v1/poll", {"attach": [{"channel": "fuzz", "from": {"rewind": 3}}], "wait_ms": 100}),
    ("POST", "/api/v1/frames", [FRAMES[7], FRAMES[9]]),
    ("GET", "/sockjs/info", None),
    ("POST", "/sockjs/000/abcdefgh/xhr", None),
    ("POST", "/sockjs/000/abcdefgh/xhr_send", ['{"type":"ping"}']),
    ("POST", "/sockjs/000/abcdefgh/xhr_streaming", None),
    ("GET", "/sockjs/000/abcdefgh/eventsource", None),
    ("GET", "/sockjs/000/abcdefgh/htmlfile?c=callback", None),
    ("GET", "/sockjs/000/abcdefgh/jsonp?c=callback", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", None),
    ("GET", "/api/schema", None),
    ("GET", "/ws", None),
    ("GET", "/admin/login/?next=/admin/", None),
    ("GET", "/seriatim/token", None),
]


class Spoiler:
    """Makes of something valid something that may not be."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def value(self) -> Any:
        dice = self.dice
        kinds: list[Any] = [
            None, True, False, 0, -1, 1.5, 2**53, 2**63, -(2**64), 10**40, 1e308, "", " ", "\0", "é", "\U0001f600",
            "\ud800", "a" * 300, "x" * dice.choice([5000, 70_000]), "../../etc/passwd", "' OR 1=1 --", "$control",
            "%00", "{}", "fuzz", "fuzz:*", [], {}, [[]], {"": None}, [None] * 300, {"a": {"b": {}}}, "head", "start",
            {"serial": -1}, {"epoch": "x" * 33, "serial": 1}, {"rewind": 10**9}, {"since": 2**62}, {"cursor": "\n"},
        ]  # fmt: skip
        return dice.choice(kinds)

    def spoil(self, value: Any, depth: int = 0) -> Any:
        """The value with one thing in it changed, mostly."""
        dice = self.dice
        if depth > 4 or dice.random() < 0.2 or not isinstance(value, dict | list) or not value:
            return self.value()
        if isinstance(value, list):
            copy = list(value)
            copy[dice.randrange(len(copy))] = self.spoil(copy[0], depth + 1)
            return copy * dice.choice([1, 1, 1, 2, 150])
        changed = dict(value)
        name = dice.choice(list(changed))
        match dice.randrange(6):
            case 0:
                del changed[name]
            case 1:
                changed[str(self.value())[:200]] = self.value()
            case 2:
                changed[name] = self.value()
            case _:
                changed[name] = self.spoil(changed[name], depth + 1)
        return changed

    def text(self, value: Any) -> bytes:
        """JSON, perhaps broken on the way."""
        dice = self.dice
        raw = json.dumps(value, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
        match dice.randrange(14):
            case 0:
                raw = raw[: dice.randrange(len(raw) + 1)]
            case 1:
                at = dice.randrange(len(raw) + 1)
                raw = raw[:at] + dice.randbytes(dice.randrange(1, 9)) + raw[at:]
            case 2:
                raw = raw + raw
            case 3:
                deep = dice.choice([50, 600, 20_000])
                raw = b'{"type":"publish","channel":"fuzz","messages":[{"data":' + b"[" * deep + b"]" * deep + b"}]}"
            case 4:
                raw = b'{"type":"ping","ref":' + b"9" * dice.choice([20, 400, 5000]) + b"}"
            case 5:
                raw = b'{"type":"ping","type":"auth","ref":1,"ref":"x"}'
            case 6:
                raw = b"\xff\xfe" + raw.decode("utf-8", "replace").encode("utf-16-le", "surrogatepass")
            case 7:
                raw = b"[" + raw.replace(b":", b":NaN", 1) + b"]"
        return raw

    def violation(self) -> bytes:
        """Bytes on a WebSocket that RFC 6455 does not allow, or that hardly anybody sends."""
        dice = self.dice
        some = dice.randbytes(dice.choice([0, 1, 5, 125, 126, 300]))
        raw: list[bytes] = [
            frame_bytes(some, TEXT),
            frame_bytes(some, 2),
            frame_bytes(some, TEXT, mask=False),
            frame_bytes(some, dice.choice([3, 4, 7, 11, 15])),
            frame_bytes(b"a" * 126, 9),
            frame_bytes(b"x", 9, fin=False),
            frame_bytes(b"rest", 0),
            frame_bytes(b"begin", TEXT, fin=False) + frame_bytes(b"again", TEXT),
            frame_bytes(b"\xe2\x82", TEXT, fin=False) + frame_bytes(b"\xac", 0),
            frame_bytes(b"", TEXT, fin=False) * 50 + frame_bytes(b"{}", 0),
            bytes([0xC1 | dice.choice([0, 0x20, 0x10])]) + frame_bytes(some, TEXT)[1:],
            b"\x81\xff" + struct.pack("!Q", dice.choice([2**63, 2**62, 2**40, 1 << 24, 0])) + b"\0\0\0\0",
            b"\x81\xfe\x00\x05\0\0\0\0short",
            frame_bytes(struct.pack("!H", dice.choice([0, 999, 1004, 1005, 1006, 1015, 2999, 65535])) + some[:100], 8),
            frame_bytes(b"\x03", 8),
            frame_bytes(b"\x03\xe8\xff\xff", 8),
            frame_bytes(b"x" * dice.choice([1_048_576, 1_048_577, 3_000_000]), TEXT),
            dice.randbytes(dice.randrange(1, 200)),
        ]  # fmt: skip
        return dice.choice(raw)

    def request(self, port: int, bearers: list[str]) -> bytes:
        """An HTTP request, on a connection of its own."""
        dice = self.dice
        method, target, body = dice.choice(REQUESTS)
        if dice.random() < 0.15:
            method = dice.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW", "CONNECT", "get"])
        if dice.random() < 0.4:
            target = self.target(target)
        content = b"" if body is None else self.text(self.spoil(body) if dice.random() < 0.7 else body)
        headers = {
            "Host": f"127.0.0.1:{port}",
            "Connection": "close",
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
        }
        if dice.random() < 0.9:
            headers["Authorization"] = f"Bearer {dice.choice(bearers)}"
        for _ in range(dice.choice([0, 0, 1, 2])):
            name, value = dice.choice(
                [
                    ("Host", "\xff"), ("Host", ""), ("Content-Length", "-1"), ("Content-Length", "99999999999"),
                    ("Content-Length", str(len(content) + 50)), ("Content-Length", "0"), ("Content-Type", "text/xml"),
                    ("Content-Type", "application/json; charset=utf-16"), ("Content-Encoding", "gzip"),
                    ("Content-Type", "application/x-ndjson"), ("Content-Type", "multipart/form-data; boundary=x"),
                    ("Transfer-Encoding", "chunked"), ("Authorization", "Bearer"), ("Authorization", "Basic eDp5"),
                    ("Authorization", "Bearer " + "é" * 9), ("Authorization", "Bearer ser_x_" + "y" * 40),
                    ("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30."), ("Cookie", "sessionid=" + "x" * 40),
                    ("Cookie", "sessionid=\x01;;=;"), ("Origin", "null"), ("Origin", "http://evil.example"),
                    ("Last-Event-ID", "x" * 3000), ("Last-Event-ID", "fuzz abcd 1"), ("Accept", "\x7f"),
                    ("Idempotency-Key", "a b"), ("X-Forwarded-For", "1.2.3.4, x"), ("Expect", "100-continue"),
                    ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "short"), ("Sec-WebSocket-Version", "99"),
                    ("Range", "bytes=0-1"), ("X" * 300, "y"), ("X-Long", "z" * 20_000), ("Accept-Encoding", "gzip"),
                ]
            )  # fmt: skip
            headers[name] = value
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        raw = head.encode("latin1", "replace") + b"\r\n" + content
        if dice.random() < 0.03:
            at = dice.randrange(len(raw))
            raw = raw[:at] + dice.randbytes(3) + raw[at:]
        return raw if dice.random() > 0.03 else raw[: dice.randrange(len(raw))]

    def target(self, target: str) -> str:
        dice = self.dice
        path, question, query = target.partition("?")
        match dice.randrange(7):
            case 0:
                return path + question + query + "&" + quote(str(self.value())[:300].encode("utf-8", "replace"))
            case 1:
                pairs = [pair.partition("=")[0] for pair in query.split("&")]
                wrong = quote(str(self.value())[:2000].encode("utf-8", "replace"))
                return f"{path}?{dice.choice(pairs) or 'x'}={wrong}"
            case 2:
                return (
                    path.replace("fuzz", quote(str(self.value())[:300].encode("utf-8", "replace"))) + question + query
                )
            case 3:
                return path.replace("fuzz", dice.choice(["%ff", "%", "%2f", "..", "a%0d%0ab", "%00", "a" * 300, "$x"]))
            case 4:
                return path + dice.choice(["/", "//", "/..", ";x", "%20", "/\x7f"]) + question + query
            case 5:
                return target + "&attach=" + "&attach=".join(f"c{number}" for number in range(300))
            case _:
                return path + "?" + "x" * dice.choice([100, 13_000, 40_000])


@dataclass
class Figures:
    """What was sent, and what came back."""

    frames: int = 0
    sockets: int = 0
    requests: int = 0
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    closes: collections.Counter[int | None] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    warm_bytes: int = 0
    end_bytes: int = 0

    def __str__(self) -> str:
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        closes = ", ".join(f"{code}: {count}" for code, count in self.closes.most_common())
        return (
            f"{self.sockets} sockets with {self.frames} inputs (closed with {closes})\n"
            f"{self.requests} requests (statuses {statuses})\n"
            f"memory of the server: {self.warm_bytes / MIB:.0f} MiB after warming up, "
            f"{self.end_bytes / MIB:.0f} MiB in the end"
        )


async def fuzz(server: ServerProcess, seconds: float, seed: int, *, actors: int = 6, bearers: list[str]) -> Figures:
    """Nonsense for so long; the figures, with whatever must not have happened in `faults`."""
    figures = Figures()
    told = len(server.log_text())
    until = time.monotonic() + seconds
    warm_at = time.monotonic() + seconds * WARM_SHARE

    async def act(number: int) -> None:
        spoiler = Spoiler(random.Random(f"{seed} {number}"))
        while time.monotonic() < until:
            if number % 2:
                await speak(server.port, spoiler, figures)
            else:
                await ask(server.port, spoiler, figures, bearers)

    async def weigh() -> None:
        await asyncio.sleep(max(0.0, warm_at - time.monotonic()))
        figures.warm_bytes = server.rss_bytes()

    await asyncio.gather(weigh(), *[act(number) for number in range(actors)])
    socket = await talker(server.port, token("after"))
    answer = await socket.ask({"type": "publish", "ref": 1, "channel": "after", "messages": [{"data": seed}]})
    if answer["type"] != "published":
        figures.faults.append(f"who came afterwards was answered {answer}")
    await socket.close()
    figures.end_bytes = server.rss_bytes()
    log = server.log_text()[told:]
    if "Traceback" in log:
        at = log.index("Traceback")
        figures.faults.append("a traceback in the log:\n" + log[max(0, at - 500) : at + 3000])
    return figures


async def speak(port: int, spoiler: Spoiler, figures: Figures) -> None:
    """One WebSocket: some valid frames, some spoilt ones, perhaps a violation; then it goes, in order or not."""
    dice = spoiler.dice
    socket = RawSocket()
    figures.sockets += 1
    path = dice.choice(["/ws", "/ws", "/ws", "/sockjs/websocket", "/sockjs/000/s/websocket"])
    headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if dice.random() < 0.3 else ""
    try:
        bearer = token(f"fuzz-{dice.randrange(20)}") if dice.random() < 0.85 else None
        await connect(port, bearer, into=socket, path=path, headers=headers)
        for _ in range(dice.randrange(1, 25)):
            if not socket.is_open:
                break
            figures.frames += 1
            frame = dice.choice(FRAMES)
            match dice.randrange(10):
                case 0:
                    socket.write(spoiler.violation())
                case 1 | 2 | 3:
                    socket.send_text(json.dumps(frame).encode())
                case 4:
                    raw = frame_bytes(spoiler.text(frame))
                    socket.write(raw[: dice.randrange(len(raw))])
                    break
                case _:
                    socket.send_text(spoiler.text(spoiler.spoil(frame)))
            if dice.random() < 0.3:
                await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(socket.ended), dice.choice([0.01, 0.05, 0.3]))
        figures.closes[socket.close_code] += 1
        # Compressed frames are none to a socket that only says that it could read them.
        figures.faults += [f"a WebSocket got {fault}" for fault in socket.faults if not headers or "0xc1" not in fault]
    except HandshakeRefused as refused:
        figures.statuses[refused.status] += 1
        if refused.status == 500:
            figures.faults.append("a handshake was answered with 500")
    except (OSError, TimeoutError):
        figures.closes[None] += 1
    finally:
        if not socket.ended.done():
            socket.abort()


async def ask(port: int, spoiler: Spoiler, figures: Figures, bearers: list[str]) -> None:
    """One HTTP request; of the answer only the status matters, and the connection is cut."""
    raw = spoiler.request(port, bearers)
    if spoiler.dice.random() < 0.02:
        raw = handshake_bytes(port, "x" * 5000).replace(b"13", b"12")
    figures.requests += 1
    status, answer = 0, b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(raw)
            answer = await asyncio.wait_for(reader.read(2000), LOOK_S)
            status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0
        finally:
            writer.transport.abort()
    except (OSError, TimeoutError):
        pass
    figures.statuses[status] += 1
    # What the SockJS protocol has a server say to who names no callback, or a bad one.
    if status == 500 and b'"callback" parameter' not in answer:
        figures.faults.append(f"500 for {raw[:1500]!r}")


PREPARE = 'from realtime.tokens import create_api_key\nprint("key:" + create_api_key("fuzz", {"*": ["*"]})[1])'


def bearers_of(server: ServerProcess) -> list[str]:
    """A token, and an API key that may do everything."""
    return [token("fuzz"), server.manage("shell", "-c", PREPARE).rpartition("key:")[2].strip()]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.wire", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args(arguments)
    seed = random.randrange(2**31) if given.seed is None else given.seed
    with ServerProcess() as server:
        figures = asyncio.run(fuzz(server, given.seconds, seed, bearers=bearers_of(server)))
        print(figures)
    if figures.end_bytes - figures.warm_bytes > GROWTH_MOST_BYTES:
        figures.faults.append("the memory of the server grew")
    for fault in figures.faults[:20]:
        print("FAULT", fault)
    print(f"seed {seed}: {len(figures.faults)} faults")
    return 1 if figures.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
