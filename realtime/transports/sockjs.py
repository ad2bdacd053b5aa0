"""SockJS: our frames inside its sessions, for clients that speak it already.

A session is what the protocol makes of several requests: one that receives, and posts that send. It lives on one
worker; requests that arrive at another are passed on (`realtime.transports.relay`). Each session is a connection like
any other, whose link writes into the session's outbox: while no request receives, what waits there is bounded, and the
hub waits at a position. docs/reference/protocol.md#sockjs says what is ours; the rest is the protocol's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs

from realtime import handshake, tokens
from realtime.conf import settings
from realtime.connection import Connection
from realtime.links import TEXTS
from realtime.load import Place
from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError
from realtime.transports import http
from realtime.transports.http import Header, Request, Send
from realtime.transports.links import HttpLink
from realtime.transports.streams import CUT
from realtime.worker import Worker

DENIAL = "websocket.http.response"
"""The extension of ASGI by which a handshake is refused with a status of ours."""

SOCKET = "seriatim.socket"
"""The extension of our own server; see realtime.server.protocol."""

RESPONSE_BYTES = 131_072
"""A streaming response ends after so much, and the client opens the next: browsers keep what a request has brought."""

UNRECEIVED_S = 5.0
"""A session that nobody receives from for so long is over (the protocol's own number)."""

CLOSE_S = 5.0
"""A client that takes nothing hears after two heartbeats that it is too slow (4410), and has so long to take that."""

CUT_S = 0.05
"""How long the end of a connection may take from the socket to here."""

PRELUDE = "h" * 2048
"""Some browsers show nothing of a response before they have so much of it."""

ID_CHARS_LEAST = 8
"""Of a session's id where who knows it can speak in it; the protocol's own client makes so many, of 32 letters each."""

YEAR_S = 31_536_000

NO_CACHE: Header = (b"cache-control", b"no-store, no-cache, no-transform, must-revalidate, max-age=0")
CACHED: tuple[Header, ...] = (
    (b"cache-control", b"public, max-age=%d" % YEAR_S),
    (b"expires", b"Fri, 01 Jan 2100 00:00:00 GMT"),
)
PLAIN = b"text/plain; charset=UTF-8"
SCRIPT = b"application/javascript; charset=UTF-8"

_CALLBACK = re.compile(r"[a-zA-Z0-9_.-]+")
_PART = re.compile(r"[^/.]+")

IFRAME = """<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="{url}"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>"""

HTMLFILE = """<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.{callback};
    c.start();
    function p(d) {{c.message(d);}};
    window.onload = function() {{c.stop();}};
  </script>
"""


def _nothing() -> None:
    """For callbacks nobody set."""


class Handler(Protocol):
    """What stands behind a session."""

    async def message(self, text: str) -> None:
        """The client sent this."""

    def received(self) -> None:
        """What was said has gone out."""

    def gone(self) -> None:
        """The session is over. Idempotent."""


class Session:
    """One client's session: what waits for it, and whether it is over."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.handler: Handler | None = None
        self.pause_reading = self.resume_reading = _nothing
        """Of the socket below, where the session has one of its own."""
        self.opened_by: str | None = None
        """The key of the site's session that proves who it is; then every request of it has to bring the same."""
        self.receiving = False
        self.closing: tuple[int, str] | None = None
        self.waiting_bytes = 0
        self.wake = asyncio.Event()
        self.on_end: Callable[[], None] = lambda: None
        self._opened = False
        self._outbox: deque[str] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def say(self, text: str) -> None:
        """A message for the client."""
        if self.closing is None:
            quoted = json.dumps(text)
            self._outbox.append(quoted)
            self.waiting_bytes += len(quoted)
            self.wake.set()

    def close(self, code: int, reason: str) -> None:
        """Tells the client the end, now and whenever it asks, until the session is forgotten."""
        if self.closing is None:
            self.closing = (code, reason)
            self.wake.set()
            if not self.receiving:
                self.left()

    def frame(self) -> str | None:
        """The next frame of the protocol, or None while there is nothing to say."""
        if not self._opened:
            self._opened = True
            return "o"
        if self._outbox:
            found = f"a[{','.join(self._outbox)}]"
            self._outbox.clear()
            self.waiting_bytes = 0
            return found
        if self.closing is not None:
            return f"c{json.dumps(list(self.closing), separators=(',', ':'))}"
        return None

    def begun(self) -> None:
        """A request receives."""
        self.receiving = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def left(self) -> None:
        """No request receives any more."""
        self.receiving = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(UNRECEIVED_S, self.end)

    def interrupted(self) -> None:
        """The receiving request was cut: nobody knows what of it arrived."""
        self.closing = self.closing or (1002, "Connection interrupted")
        self._outbox.clear()
        self.waiting_bytes = 0
        if self.handler is not None:
            self.handler.gone()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.handler is not None:
            self.handler.gone()
        self.on_end()


@dataclass(frozen=True)
class Service:
    """What is mounted at a path."""

    open: Callable[[Session, Request, Worker], Handler]
    websocket: bool = True
    cookie: bool = False
    response_bytes: int = RESPONSE_BYTES
    checked: bool = True
    """Hosts and origins have to be allowed."""
    script_url: str | None = None
    """Of the client, for the iframe; without one there is no iframe."""
    sessions: dict[str, Session] = field(default_factory=dict)


# ---------------------------------------------------------------------- our frames inside


class SessionLink(HttpLink):
    """Writes frames into a session's outbox."""

    def __init__(self, session: Session, high_bytes: int) -> None:
        super().__init__(TEXTS, high_bytes)
        self._session = session

    def _put(self, payload: Sequence[str]) -> None:
        before = self._session.waiting_bytes
        for text in payload:
            self._session.say(text)
        self.written_bytes += self._session.waiting_bytes - before
        if self._session.waiting_bytes > self.high_bytes:
            self.congest()

    def send(self, frame: dict[str, object]) -> None:
        self.write((encode(frame),))

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)
        self._session.close(code, reason)

    def abort(self) -> None:
        self.close(1006, "")
        self._session.end()

    def pause_reading(self) -> None:
        self._session.pause_reading()

    def resume_reading(self) -> None:
        self._session.resume_reading()

    def drained(self) -> None:
        self.moved_bytes = self.written_bytes
        if self.congested:
            self.congested = False
            self.on_drained()

    @property
    def waiting_bytes(self) -> int:
        return self._session.waiting_bytes


class PlatformHandler:
    """A connection behind a session; its client sends `auth` first, unless this site's cookie proves it."""

    def __init__(self, session: Session, request: Request, running: Worker, place: Place) -> None:
        self._link = SessionLink(session, settings.SOCKET_BUFFER_HIGH_BYTES)
        self._connection = Connection(running, self._link, "sockjs", place)
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        cookie = request.headers.get("cookie", "")
        key = tokens.session_key_in(cookie)
        if origin is not None and handshake.is_own_origin(origin, host) and key is not None:
            session.opened_by = key
            self._connection.open_with_cookie(cookie)
        else:
            self._connection.open(None)

    async def message(self, text: str) -> None:
        # Half of a pair, escaped: as a frame it is as bad as before, but it can be read.
        text = text.encode("utf-8", "backslashreplace").decode()
        if len(text.encode()) > settings.MAX_FRAME_BYTES:
            self._connection.receive_too_large()
            return
        self._connection.receive_text(text)
        await self._connection.readable()

    def received(self) -> None:
        self._link.drained()
        self._connection.heard()

    def gone(self) -> None:
        self._connection.gone()


def open_platform(session: Session, request: Request, running: Worker) -> Handler:
    return PlatformHandler(session, request, running, http.admit(request, running))


# ---------------------------------------------------------------------- the protocol's own test services


class Echo:
    """Says what it hears."""

    def __init__(self, session: Session, request: Request, running: Worker) -> None:
        self._session = session

    async def message(self, text: str) -> None:
        self._session.say(text)

    def received(self) -> None:
        """There is nothing more to say."""

    def gone(self) -> None:
        """Nothing is kept."""


class Closing(Echo):
    """Closes at once."""

    def __init__(self, session: Session, request: Request, running: Worker) -> None:
        super().__init__(session, request, running)
        session.close(3000, "Go away!")


TEST_BYTES = 4096
_TEST: Mapping[str, Service] = {
    "/echo": Service(Echo, response_bytes=TEST_BYTES, checked=False, script_url="/sockjs.js"),
    "/disabled_websocket_echo": Service(Echo, websocket=False, response_bytes=TEST_BYTES, checked=False),
    "/cookie_needed_echo": Service(Echo, cookie=True, response_bytes=TEST_BYTES, checked=False),
    "/close": Service(Closing, response_bytes=TEST_BYTES, checked=False),
}
_PLATFORM = Service(open_platform)


def find(path: str) -> tuple[Service, str] | None:
    """The service at a path, and the rest of the path below it."""
    for prefix, service in _mounted():
        if path == prefix or path.startswith(prefix + "/"):
            return service, path[len(prefix) :]
    return None


def _mounted() -> Iterable[tuple[str, Service]]:
    yield settings.SOCKJS_PATH, _PLATFORM
    if settings.SOCKJS_TEST_SERVICES:
        yield from _TEST.items()


def session_in(rest: str) -> str | None:
    """The session that a path below a service is about; None for what begins and ends with its request."""
    parts = rest.split("/")[1:]
    if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
        return None
    return parts[1] if parts[2] in STYLES or parts[2] in SENDING else None


# ---------------------------------------------------------------------- how frames are written


@dataclass(frozen=True, slots=True)
class Style:
    """How one kind of receiving request writes frames."""

    method: str
    media_type: bytes
    write: Callable[[str, str], bytes]
    """Of a frame and the name of the callback."""
    prelude: Callable[[str], bytes] | None = None
    """None: it is answered with one frame."""
    callback: bool = False


def _line(frame: str, callback: str) -> bytes:
    return f"{frame}\n".encode()


def _event(frame: str, callback: str) -> bytes:
    return f"data: {frame}\r\n\r\n".encode()


def _script(frame: str, callback: str) -> bytes:
    return f"<script>\np({_in_script(frame)});\n</script>\r\n".encode()


def _call(frame: str, callback: str) -> bytes:
    return f"/**/{callback}({json.dumps(frame)});\r\n".encode()


def _in_script(frame: str) -> str:
    """A string that cannot end the script which it stands in."""
    return json.dumps(frame).replace("<", "\\u003c")


def _page(callback: str) -> bytes:
    return (HTMLFILE.format(callback=callback).strip().ljust(1024) + "\r\n\r\n").encode()


STYLES: Mapping[str, Style] = {
    "xhr": Style("POST", SCRIPT, _line),
    "xhr_streaming": Style("POST", SCRIPT, _line, lambda callback: f"{PRELUDE}\n".encode()),
    "eventsource": Style("GET", b"text/event-stream", _event, lambda callback: b"\r\n"),
    "htmlfile": Style("GET", b"text/html; charset=UTF-8", _script, _page, callback=True),
    "jsonp": Style("GET", SCRIPT, _call, callback=True),
}
SENDING = ("xhr_send", "jsonp_send")
STILL_OPEN = 'c[2010,"Another connection still open"]'


# ---------------------------------------------------------------------- requests


Passed = Callable[[Request, Send], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request to a service."""

    service: Service
    rest: str
    request: Request
    send: Send
    running: Worker
    cors: list[Header]

    async def serve(self) -> None:
        method, rest = self.request.method, self.rest
        parts = rest.split("/")[1:]
        if rest in ("", "/") and method == "GET":
            await self._answer(200, b"Welcome to SockJS!\n", PLAIN)
        elif rest == "/info":
            await self._info()
        elif re.fullmatch(r"/iframe[0-9a-zA-Z_.-]*\.html", rest) and method == "GET" and self.service.script_url:
            await self._iframe(self.service.script_url)
        elif len(parts) == 1 and parts[0] == "websocket" and self.service.websocket:
            await self._no_upgrade()
        elif len(parts) == 3 and all(_PART.fullmatch(part) for part in parts):
            await self._in_session(parts[1], parts[2])
        else:
            await self._answer(404, b"", PLAIN)

    async def _in_session(self, session_id: str, kind: str) -> None:
        style = STYLES.get(kind)
        method = self.request.method
        if kind == "websocket" and self.service.websocket:
            await self._no_upgrade()
        elif style is None and kind not in SENDING:
            await self._answer(404, b"", PLAIN)
        elif method == "OPTIONS":
            await self._preflight("POST" if style is None else style.method)
        elif method != ("POST" if style is None else style.method):
            await self._answer(
                405, b"", None, [(b"allow", b"OPTIONS, POST" if style is None else style.method.encode())]
            )
        elif style is not None:
            await self._receive(session_id, style)
        else:
            await self._take(session_id, kind == "jsonp_send")

    # -------------------------------------------------------------- receiving

    async def _receive(self, session_id: str, style: Style) -> None:
        callback = await self._callback() if style.callback else ""
        if callback is None:
            return
        session = self.service.sessions.get(session_id)
        if (self.service.checked and len(session_id) < ID_CHARS_LEAST) or not self._may_use(session):
            await self._answer(404, b"", PLAIN, self.cors)
            return
        if session is None:
            session = self._begin(session_id)
        headers = [NO_CACHE, *self._cookie(), *self.cors]
        if style.prelude is not None:
            await self._start(style, headers, style.prelude(callback))
        if session.receiving:
            # The other one may have been cut a moment ago, and its end be still on its way.
            await asyncio.sleep(CUT_S)
        if session.receiving:
            await self._last(style, headers, style.write(STILL_OPEN, callback))
            return
        session.begun()
        gone = asyncio.ensure_future(self.request.gone())
        try:
            await self._pump(session, style, headers, callback, gone)
        finally:
            if gone.done():
                session.interrupted()
            gone.cancel()
            session.left()

    def _may_use(self, session: Session | None) -> bool:
        """Knowing its id is not enough where a cookie has opened it. To others it is a session that is not there."""
        if session is None or session.opened_by is None:
            return True
        brought = tokens.session_key_in(self.request.headers.get("cookie", "")) or ""
        return secrets.compare_digest(session.opened_by.encode(), brought.encode())

    def _begin(self, session_id: str) -> Session:
        sessions = self.service.sessions
        session = Session(self.service)
        session.handler = self.service.open(session, self.request, self.running)
        sessions[session_id] = session
        session.on_end = lambda: None if sessions.get(session_id) is not session else _drop(sessions, session_id)
        return session

    async def _pump(
        self,
        session: Session,
        style: Style,
        headers: list[Header],
        callback: str,
        gone: asyncio.Future[None],
    ) -> None:
        written = 0
        while not gone.done():
            frame = await _next_frame(session, gone)
            if frame is None:
                return
            data = style.write(frame, callback)
            written += len(data)
            ends = frame[0] == "c" or written >= self.service.response_bytes
            if style.prelude is None or ends:
                await self._last(style, headers, data)
            else:
                await self.send({"type": "http.response.body", "body": data, "more_body": True})
            if session.handler is not None:
                session.handler.received()
                if frame[0] == "c":
                    # It has been told the end: nothing has to wait for it any more.
                    session.handler.gone()
            if style.prelude is None or ends:
                return

    async def _start(self, style: Style, headers: list[Header], prelude: bytes) -> None:
        started = [(b"content-type", style.media_type), (b"x-accel-buffering", b"no"), *headers]
        await self.send({"type": "http.response.start", "status": 200, "headers": started})
        await self.send({"type": "http.response.body", "body": prelude, "more_body": True})

    async def _last(self, style: Style, headers: list[Header], data: bytes) -> None:
        if style.prelude is None:
            # A script of another site's page must not be taken for anything else.
            await self._answer(200, data, style.media_type, [*headers, (b"x-content-type-options", b"nosniff")])
        else:
            await self.send({"type": "http.response.body", "body": data, "more_body": True})
            await self.send({"type": "http.response.body", "body": b""})

    async def _callback(self) -> str | None:
        """The name of the page's function; None where it was refused."""
        query = self.request.query()
        found = (query.get("c") or query.get("callback") or [""])[0]
        if not found:
            await self._answer(500, b'"callback" parameter required', PLAIN)
        elif len(found) > 100 or not _CALLBACK.fullmatch(found):
            await self._answer(500, b'invalid "callback" parameter', PLAIN)
        else:
            return found
        return None

    # -------------------------------------------------------------- sending

    async def _take(self, session_id: str, form: bool) -> None:
        session = self.service.sessions.get(session_id)
        if session is None or session.handler is None or session.closing is not None or not self._may_use(session):
            await self._answer(404, b"", PLAIN, self.cors)
            return
        try:
            body = (await self.request.body(settings.ROUND_MAX_BYTES)).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            await self._answer(500, b"Broken JSON encoding.", PLAIN, self.cors)
            return
        if form and self.request.media_type == "application/x-www-form-urlencoded":
            body = parse_qs(body, keep_blank_values=True).get("d", [""])[0]
        if not body:
            await self._answer(500, b"Payload expected.", PLAIN, self.cors)
            return
        texts = _texts_in(body)
        if texts is None:
            await self._answer(500, b"Broken JSON encoding.", PLAIN, self.cors)
            return
        for text in texts:
            await session.handler.message(text)
        headers = [NO_CACHE, *self._cookie(), *self.cors]
        if form:
            await self._answer(200, b"ok", PLAIN, headers)
        else:
            await self._answer(204, b"", PLAIN, headers)

    # -------------------------------------------------------------- the rest

    async def _info(self) -> None:
        if self.request.method == "OPTIONS":
            await self._preflight("GET")
            return
        info = {
            "websocket": self.service.websocket,
            "cookie_needed": self.service.cookie,
            "origins": ["*:*"],
            "entropy": secrets.randbits(32),
        }
        await self._answer(200, json.dumps(info).encode(), b"application/json; charset=UTF-8", [NO_CACHE, *self.cors])

    async def _iframe(self, url: str) -> None:
        body = IFRAME.format(url=url).encode()
        tag = f'"{hash_of(body)}"'.encode()
        if self.request.headers.get("if-none-match", "").encode() == tag:
            await self._answer(304, b"", None, [*CACHED, (b"etag", tag)])
        else:
            await self._answer(200, body, b"text/html; charset=UTF-8", [*CACHED, (b"etag", tag)])

    async def _preflight(self, method: str) -> None:
        headers = [
            *CACHED,
            *self.cors,
            (b"access-control-max-age", b"%d" % YEAR_S),
            (b"access-control-allow-methods", f"OPTIONS, {method}".encode()),
        ]
        asked = self.request.headers.get("access-control-request-headers")
        if asked:
            headers.append((b"access-control-allow-headers", asked.encode("latin1")))
        await self._answer(204, b"", None, [*headers, *self._cookie()])

    async def _no_upgrade(self) -> None:
        if self.request.method == "GET":
            await self._answer(400, b'Can "Upgrade" only to "WebSocket".', PLAIN)
        else:
            await self._answer(405, b"", None, [(b"allow", b"GET")])

    def _cookie(self) -> list[Header]:
        """For balancers that keep a client at one server when they see this cookie."""
        if not self.service.cookie:
            return []
        found = re.search(r"JSESSIONID=([A-Za-z0-9_.-]{1,100})", self.request.headers.get("cookie", ""))
        return [(b"set-cookie", f"JSESSIONID={found[1] if found else 'dummy'}; path=/".encode())]

    async def _answer(self, status: int, body: bytes, media_type: bytes | None, headers: Iterable[Header] = ()) -> None:
        given = [*headers, (b"content-length", b"%d" % len(body))]
        if media_type is not None:
            given.append((b"content-type", media_type))
        await self.send({"type": "http.response.start", "status": status, "headers": given})
        await self.send({"type": "http.response.body", "body": body})


def _drop(sessions: dict[str, Session], session_id: str) -> None:
    sessions.pop(session_id, None)


def hash_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


def _texts_in(body: str) -> list[str] | None:
    """The messages of a payload: an array of strings, or one string; None for anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, str):
        return [found]
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return found
    return None


async def _next_frame(session: Session, gone: asyncio.Future[None]) -> str | None:
    """The next frame, a heartbeat after a while; None when the client is gone."""
    while True:
        session.wake.clear()
        frame = session.frame()
        if frame is not None:
            return frame
        waiting = asyncio.ensure_future(session.wake.wait())
        ends: list[asyncio.Future[Any]] = [gone, waiting]
        await asyncio.wait(ends, timeout=settings.HEARTBEAT_MS / 1000, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if gone.done():
            return None
        if not session.wake.is_set():
            return "h"


def patient(scope: dict[str, Any], send: Send) -> Send:
    """Sends, but waits for a client that takes nothing no longer than until its session has ended for that; then its
    connection is dropped and RequestGone raised."""
    extensions = scope.get("extensions") or {}
    cut = extensions[SOCKET].abort if SOCKET in extensions else extensions.get(CUT, _nothing)

    async def send_in_time(message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(2 * settings.HEARTBEAT_MS / 1000 + CLOSE_S):
                await send(message)
        except TimeoutError:
            cut()
            raise http.RequestGone from None

    return send_in_time


async def serve(service: Service, rest: str, request: Request, send: Send, running: Worker, cors: list[Header]) -> None:
    await Exchange(service, rest, request, send, running, cors).serve()


async def refuse(send: Send, running: Worker, error: ProtocolError) -> None:
    await http.refuse(send, running, error)


def cors_of(service: Service, request: Request) -> list[Header]:
    """ProtocolError `forbidden` where the service checks who asks."""
    origin = request.headers.get("origin")
    if service.checked:
        http.check_place(request)
    if origin is None:
        return [(b"access-control-allow-origin", b"*")]
    return [
        (b"access-control-allow-origin", origin.encode("latin1")),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"origin"),
    ]


# ---------------------------------------------------------------------- WebSocket


async def serve_socket(
    service: Service, raw: bool, scope: dict[str, Any], receive: Any, send: Any, running: Worker
) -> None:
    """A session inside a WebSocket; `raw`: without the protocol's frames."""
    if (await receive())["type"] != "websocket.connect":
        return
    request = Request({**scope, "method": "GET"}, receive)
    send = patient(scope, send)
    session = Session(service)
    socket = (scope.get("extensions") or {}).get(SOCKET)
    if socket is not None:
        session.pause_reading, session.resume_reading = socket.pause_reading, socket.resume_reading
    try:
        if service.checked:
            http.check_place(request)
        await running.ready.wait()
        session.handler = service.open(session, request, running)
    except ProtocolError as error:
        await _deny(scope, send, error)
        return
    await send({"type": "websocket.accept", "subprotocol": None})
    session.begun()
    reading = asyncio.ensure_future(_read(session, raw, receive))
    try:
        await _write(session, raw, send, reading)
    except http.RequestGone:
        pass
    finally:
        reading.cancel()
        session.handler.gone()


async def _deny(scope: dict[str, Any], send: Any, error: ProtocolError) -> None:
    """Refuses the handshake, with the status and the hint where the server can say them: a full worker is no wall."""
    if DENIAL not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", PLAIN)]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    await send({"type": f"{DENIAL}.start", "status": error.http_status, "headers": headers})
    await send({"type": f"{DENIAL}.body", "body": str(error).encode()})


async def _read(session: Session, raw: bool, receive: Any) -> None:
    """Until the client is gone, or says what cannot be read."""
    assert session.handler is not None
    while (message := await receive())["type"] != "websocket.disconnect":
        text = message.get("text")
        if text is None:
            return
        texts = [text] if raw else _texts_in(text) if text else []
        if texts is None:
            return
        for each in texts:
            await session.handler.message(each)


async def _write(session: Session, raw: bool, send: Any, reading: asyncio.Future[None]) -> None:
    while not reading.done():
        frame = await _next_frame(session, reading)
        if frame is None:
            break
        if raw and frame[0] == "a":
            for text in json.loads(frame[1:]):
                await send({"type": "websocket.send", "text": text})
        elif not raw:
            await send({"type": "websocket.send", "text": frame})
        if session.handler is not None:
            session.handler.received()
        if frame[0] == "c":
            assert session.closing is not None
            code, reason = session.closing
            await send({"type": "websocket.close", "code": code if raw else 1000, "reason": reason if raw else ""})
            return
    await send({"type": "websocket.close", "code": 1000})
