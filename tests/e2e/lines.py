"""Raw clients of the transports over HTTP, each with the face of a `RawSocket`: frames come, frames go, it ends.

Like `tests.e2e.wire` they hide nothing and repair nothing: a line whose response is cut has ended, and what was half
there is dropped. They share no code with the SDKs. A line of one way is asked with a list of channels and answers
nothing; the others are sessions of SockJS, over which frames go both ways.
"""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from tests.e2e.wire import GATEWAY, RawSocket, Unanswered, linger_reset

API = "/api/v1"
BROKEN = (OSError, EOFError)
"""How a line breaks; `asyncio.IncompleteReadError` is an EOFError."""
PATIENCE_S = 60.0
"""For the head of an answer; a poll's comes within 25 s."""


class Refused(ConnectionError):
    """The server answered with a status that is no success."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body[:300]!r}")
        self.status = status


class Answer:
    """The head of a response, and its body as it comes."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader

    @property
    def keeps_connection(self) -> bool:
        return self.headers.get("connection", "").lower() != "close" and "content-length" in self.headers

    async def pieces(self) -> AsyncIterator[bytes]:
        """EOFError or OSError when it is cut."""
        reader = self._reader
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                yield (await reader.readexactly(size + 2))[:-2]
        elif "content-length" in self.headers:
            yield await reader.readexactly(int(self.headers["content-length"]))
        elif self.status != 204:
            while data := await reader.read(65536):
                yield data

    async def whole(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])


class Call:
    """A connection that carries one request after the other."""

    def __init__(self) -> None:
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    @property
    def local_port(self) -> int:
        return 0 if self.writer is None else int((self.writer.get_extra_info("sockname") or (0, 0))[1])

    async def ask(
        self, port: int, method: str, path: str, bearer: str | None, body: bytes = b"", headers: str = ""
    ) -> Answer:
        """OSError when it cannot be asked; `Unanswered` when it was, and no answer came."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        reader, writer = self.reader, self.writer
        assert reader is not None
        authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        if body and "Content-Type" not in headers:
            headers += "Content-Type: application/json\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{authorization}{length}{headers}\r\n"
        writer.write(head.encode() + body)
        try:
            async with asyncio.timeout(PATIENCE_S):
                text = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
        except (*BROKEN, TimeoutError) as error:
            raise Unanswered(str(error)) from error
        first, *lines = text[:-4].split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(int(first.split(" ")[1]), found, reader)

    def deaf(self, *, on: bool) -> None:
        transport = None if self.writer is None else self.writer.transport
        if isinstance(transport, asyncio.Transport) and not transport.is_closing():
            transport.pause_reading() if on else transport.resume_reading()

    def drop(self) -> None:
        """With a reset: what is on its way reaches nobody."""
        if self.writer is not None:
            linger_reset(self.writer.transport)
            self.writer.transport.abort()
            self.reader = self.writer = None


async def exchange(
    port: int, method: str, path: str, bearer: str | None, body: bytes = b"", headers: str = "", timeout_s: float = 60
) -> tuple[int, bytes]:
    """One request on a connection of its own. OSError; `Unanswered` once it was sent."""
    call = Call()
    try:
        async with asyncio.timeout(timeout_s):
            answer = await call.ask(port, method, path, bearer, body, headers)
            text = await answer.whole()
        if answer.status in GATEWAY and "json" not in answer.headers.get("content-type", ""):
            raise Unanswered(f"{answer.status} of a balancer, whose server may have had the request")
        return answer.status, text
    except (EOFError, TimeoutError) as error:
        raise Unanswered(str(error)) from error
    finally:
        call.drop()


# ---------------------------------------------------------------------- what is asked


class Asked(msgspec.Struct):
    """One channel of a list, and where to begin: what `from` of an attach frame would be."""

    channel: str
    position: Any


def position_text(position: Any) -> str:
    """As it stands in a query."""
    if isinstance(position, str):
        return position
    if "rewind" in position:
        return f"rewind:{position['rewind']}"
    return f"{position['epoch'] or ''}.{position['serial']}"


def query_of(asked: Sequence[Asked]) -> str:
    return urlencode([("attach", f"{each.channel},{position_text(each.position)}") for each in asked])


def list_of(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    return [{"channel": each.channel, "from": each.position} for each in asked]


# ---------------------------------------------------------------------- lines


class Line:
    """What lines over HTTP share. `open` returns when the response has begun; `ended` is done when it is over."""

    one_way = True

    def __init__(self, port: int, bearer: str, dice: random.Random) -> None:
        self.port = port
        self.bearer = bearer
        self.random = dice
        self.on_text: Callable[[bytes], None] = lambda text: None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.faults: list[str] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self.cut_inside = False
        self._call = Call()
        self._task: asyncio.Task[None] | None = None

    @property
    def local_port(self) -> int:
        return self._call.local_port

    @property
    def is_open(self) -> bool:
        return not self.ended.done()

    def send(self, frame: dict[str, Any]) -> None:
        raise AssertionError("nothing goes up on a line of one way")

    def deaf(self, *, on: bool) -> None:
        self._call.deaf(on=on)

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._over()

    def _over(self) -> None:
        self._call.drop()
        if not self.ended.done():
            self.ended.set_result(None)

    def _start(self, work: Any) -> None:
        """The rest of the line's life."""

        async def live() -> None:
            try:
                await work
            except BROKEN:
                pass
            finally:
                self._over()

        self._task = asyncio.ensure_future(live())

    async def _begin(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Answer:
        try:
            answer = await self._call.ask(self.port, method, path, self.bearer, body, headers)
            if not self.is_open:
                # It was told to go while it connected: there was nothing to drop yet.
                raise ConnectionAbortedError(path)
            if answer.status != 200:
                raise Refused(answer.status, await answer.whole())
        except EOFError as error:
            self._call.drop()
            raise Unanswered(str(error)) from error
        except OSError:
            self._call.drop()
            raise
        return answer

    async def _parts(self, answer: Answer, end: bytes) -> AsyncIterator[bytes]:
        """The body in parts with this end."""
        rest = b""
        try:
            async for piece in answer.pieces():
                *parts, rest = (rest + piece).split(end)
                for part in parts:
                    yield part
        except BROKEN as error:
            self.cut_inside = bool(rest) or (isinstance(error, asyncio.IncompleteReadError) and bool(error.partial))
            raise


class StreamLine(Line):
    """`/stream`: a frame a line."""

    async def open(self, asked: Sequence[Asked]) -> None:
        if self.random.random() < 0.5:
            answer = await self._begin("GET", f"{API}/stream?{query_of(asked)}")
        else:
            answer = await self._begin("POST", f"{API}/stream", json.dumps({"attach": list_of(asked)}).encode())
        self._start(self._read(answer))

    async def _read(self, answer: Answer) -> None:
        async for text in self._parts(answer, b"\n"):
            self.on_text(text)


class EventsLine(Line):
    """Server-Sent Events, of one channel or of many."""

    def __init__(self, port: int, bearer: str, dice: random.Random, *, one: bool) -> None:
        super().__init__(port, bearer, dice)
        self._one = one
        self.on_event: Callable[[bytes, str | None], None] = lambda text, event_id: None
        """Gets the data and the id of each event."""

    def url(self, asked: Sequence[Asked]) -> str:
        if not self._one:
            return f"{API}/events?{query_of(asked)}"
        (only,) = asked
        return (
            f"{API}/channels/{quote(only.channel, safe='')}/events?{urlencode({'from': position_text(only.position)})}"
        )

    async def open(self, url: str, last_id: str | None) -> None:
        """`last_id` goes before what the address says, as with an EventSource that comes back."""
        headers = "" if last_id is None else f"Last-Event-ID: {last_id}\r\n"
        if "ticket=" in url:
            # All that an EventSource has.
            self.bearer = ""
        self._start(self._read(await self._begin("GET", url, headers=headers)))

    async def _read(self, answer: Answer) -> None:
        async for event in self._parts(answer, b"\n\n"):
            fields: dict[str, str] = {}
            for line in event.decode().split("\n"):
                name, colon, value = line.partition(": ")
                if not colon or name in fields:
                    self.faults.append(f"a line {line[:100]!r} of an event")
                fields[name] = value
            if "data" in fields:
                kind = msgspec.json.decode(fields["data"].encode(), type=_Kind).type
                if fields.get("event") != ("refused" if kind == "error" else kind):
                    self.faults.append(f"an event {fields.get('event')} of a frame {kind}")
                self.on_event(fields["data"].encode(), fields.get("id"))
            elif not fields.keys() <= {"", "retry"}:
                self.faults.append(f"an event {event[:100]!r} without data")


class _Kind(msgspec.Struct):
    type: str


class Polled(msgspec.Struct, forbid_unknown_fields=True):
    """The answer to a poll."""

    frames: list[msgspec.Raw]
    positions: dict[str, dict[str, Any]]
    poll_after_ms: int


class PollLine(Line):
    """Long polls, one after the other: a poll whose answer is lost is sent again."""

    def __init__(self, port: int, bearer: str, dice: random.Random) -> None:
        super().__init__(port, bearer, dice)
        self.ask: Callable[[], list[Asked]]
        """What the next poll asks for."""
        self.on_answer: Callable[[Polled], None]
        self.on_unanswered: Callable[[ConnectionError], None]
        """A poll got no answer, or was refused; the same is asked again."""
        self.pause_s = 0.0
        """At most between two polls."""

    async def open(self) -> None:
        await self._poll((0, 200))
        self._start(self._go_on())

    async def _go_on(self) -> None:
        while True:
            try:
                await self._poll()
            except OSError as error:
                self.on_unanswered(error if isinstance(error, ConnectionError) else ConnectionError(str(error)))
                await asyncio.sleep(self.random.uniform(0.05, 0.5))

    async def _poll(self, waits: Sequence[int | None] = (None, 200, 3000)) -> None:
        asked = self.ask()
        wait_ms = self.random.choice(waits)
        if self.random.random() < 0.5:
            wait = "" if wait_ms is None else f"&wait_ms={wait_ms}"
            answer = await self._begin("GET", f"{API}/poll?{query_of(asked)}{wait}")
        else:
            body = {"attach": list_of(asked), **({} if wait_ms is None else {"wait_ms": wait_ms})}
            answer = await self._begin("POST", f"{API}/poll", json.dumps(body).encode())
        try:
            polled = msgspec.json.decode(await answer.whole(), type=Polled)
        except EOFError as error:
            self.cut_inside = True
            self._call.drop()
            raise Unanswered(str(error)) from error
        if not answer.keeps_connection or self.random.random() < 0.5:
            self._call.drop()  # the next one comes to any worker
        self.on_answer(polled)
        await asyncio.sleep(max(polled.poll_after_ms / 1000, self.random.uniform(0, self.pause_s)))


# ---------------------------------------------------------------------- SockJS


def session_path(dice: random.Random) -> str:
    name = "".join(dice.choices(string.ascii_lowercase + string.digits, k=16))
    return f"/sockjs/{dice.randrange(1000):03d}/{name}"


def auth_frame(bearer: str) -> dict[str, Any]:
    return {"type": "auth", "token": bearer}


LOST = 1006
"""The client's own word for a session that the server does not know any more."""


class SessionLine(Line):
    """A SockJS session over HTTP: one request receives, posts send, one at a time, on connections of their own."""

    one_way = False

    def __init__(self, port: int, bearer: str, dice: random.Random, kind: str) -> None:
        super().__init__(port, bearer, dice)
        self._kind = kind
        self._path = session_path(dice)
        self._opened = False
        self._outbox: list[str] = []
        self._sending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        answer = await self._next()
        self._start(self._receive(answer))

    async def _next(self) -> Answer:
        method = "GET" if self._kind == "eventsource" else "POST"
        bearer, self.bearer = self.bearer, ""  # the session proves itself by its first frame
        try:
            return await self._begin(method, f"{self._path}/{self._kind}")
        finally:
            self.bearer = bearer

    async def _receive(self, answer: Answer) -> None:
        while self.is_open:
            async for line in self._parts(answer, b"\n"):
                text = line.rstrip(b"\r")
                if self._kind == "eventsource" and text:
                    if not text.startswith(b"data: "):
                        self.faults.append(f"a line {text[:100]!r}")
                    text = text.removeprefix(b"data: ")
                if text and not self._frame(text):
                    return
            self._call.drop()
            answer = await self._next()

    def _frame(self, text: bytes) -> bool:
        """False when the session is over."""
        kind = text[:1]
        if kind == b"o":
            if self._opened:
                self.close_code = LOST
                return False
            self._opened = True
            self.send(auth_frame(self.bearer))
        elif kind == b"a":
            for each in json.loads(text[1:]):
                self.on_text(each.encode())
        elif kind == b"c":
            self.close_code, self.close_reason = json.loads(text[1:])
            return False
        elif kind != b"h":
            self.faults.append(f"a frame {text[:100]!r}")
        return True

    def send(self, frame: dict[str, Any]) -> None:
        self._outbox.append(json.dumps(frame, separators=(",", ":")))
        if self._sending is None and self.is_open:
            self._sending = asyncio.ensure_future(self._post())

    async def _post(self) -> None:
        try:
            while self._outbox and self.is_open:
                body, self._outbox = json.dumps(self._outbox).encode(), []
                status, text = await exchange(
                    self.port, "POST", f"{self._path}/xhr_send", None, body, "Content-Type: text/plain\r\n"
                )
                if status not in (204, 404, 503):
                    self.faults.append(f"a post answered {status} {text[:100]!r}")
                if status != 204:
                    self.abort()
        except BROKEN:
            # Whether it was taken is not known; the session is over.
            self.abort()
        finally:
            self._sending = None

    def _over(self) -> None:
        super()._over()
        if self._sending is not None and self._sending is not asyncio.current_task():
            self._sending.cancel()


class SessionSocket(RawSocket):
    """A SockJS session inside a WebSocket, or raw."""

    one_way = False

    def __init__(self, bearer: str, dice: random.Random, *, raw: bool) -> None:
        super().__init__()
        self.path = "/sockjs/websocket" if raw else f"{session_path(dice)}/websocket"
        self._bearer = bearer
        self._raw = raw
        self._told: tuple[int, str] | None = None

    def _frame(self, first: int, payload: bytes) -> None:
        if self._raw or first & 15 != 1:
            super()._frame(first, payload)
        elif payload[:1] == b"o":
            self.send(auth_frame(self._bearer))
        elif payload[:1] == b"a":
            for each in json.loads(payload[1:]):
                self.on_text(each.encode())
        elif payload[:1] == b"c":
            self._told = json.loads(payload[1:])
        elif payload[:1] != b"h":
            self.faults.append(f"a frame {payload[:100]!r}")
        if self._told is not None:
            self.close_code, self.close_reason = self._told

    def send(self, frame: dict[str, Any]) -> None:
        text = json.dumps(frame, separators=(",", ":"))
        self.send_text((text if self._raw else json.dumps([text])).encode())

    def begin(self) -> None:
        """It is open."""
        if self._raw:
            self.send(auth_frame(self._bearer))
