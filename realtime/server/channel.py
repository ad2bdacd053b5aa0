"""Twisted's HTTP channel, extended: plain requests for what is asked most often are read and answered here.

A poll by the ordinary way is a Twisted request, a Daphne request, a scope, a queue and tasks, which cost several times
what the poll itself does. Where the application offers it (`Quick`), a request that is as plain as can be, and is there
whole, is taken out of the stream here, as small WebSocket frames are in `realtime.server.protocol`. Everything else,
and whatever this or the application does not like, is left to Twisted and Daphne with all its bytes: what they refuse
is refused by them. Nothing is understood in two ways, since what is read here is a small part of what they read: see
`read_head`. See docs/explanation/server.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet import tcp
from twisted.internet.protocol import connectionDone
from twisted.web import http

from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError

QUICK = "seriatim_quick"
"""Attribute of an ASGI application that offers a `Quick`. One that is wrapped in something else has none, so that
nothing passes by what it is wrapped in."""

HEAD_MOST_BYTES = 8192
"""Of a request that is read here: half of what Twisted reads."""

BODY_MOST_BYTES = 65_536

AHEAD_MOST_BYTES = 16_384
"""What is taken in behind a request that waits for its answer; then the client has to wait, as with Twisted."""

HEADERS_MOST = 64

_LINE = re.compile(rb"([A-Za-z0-9!#$%&'*+.^`|~-]{1,64}):[ \t]*([\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)[ \t]*")
"""A header (RFC 9110 §5): a token, no space before the colon, and a value of visible ASCII that is not empty. No
underscore: Daphne drops such headers."""

_QUERY = re.compile(rb"GET [!$%&'()*+,\-./0-9:;=@A-Z_a-z~]{1,256}\?([!$%&'()*+,\-./0-9:;=?@A-Z_a-z~]*) HTTP/1\.1")

_LENGTH = re.compile(rb"[0-9]{1,7}")

UNUSUAL = frozenset(
    {
        b"content-encoding",
        b"daphne-root-path",
        b"expect",
        b"http2-settings",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that ask for more than an answer."""


class Quick(Protocol):
    """What an application offers to be asked without ASGI."""

    def starts(self) -> tuple[bytes, ...]:
        """How requests begin that it may take."""

    def caller_of(self, headers: Mapping[str, str]) -> object | None:
        """What it wants to know of a head; None: the request goes the ordinary way."""

    def take(
        self,
        caller: Any,
        query: bytes | None,
        body: bytes,
        peer: str | None,
        done: Callable[[int, bytes, Sequence[tuple[bytes, bytes]]], None],
    ) -> Callable[[], None] | None:
        """Serves it; see `realtime.transports.polls.take`."""


class Head:
    """The head of a plain request."""

    __slots__ = ("body_bytes", "headers", "query")

    def __init__(self, headers: dict[str, str], body_bytes: int, query: bytes | None) -> None:
        self.headers = headers
        self.body_bytes = body_bytes
        self.query = query
        """None for a POST."""


def read_head(head: bytes) -> Head | None:
    """Reads the head of a request, without the empty line at its end; its first line begins as the application says.

    None unless it is plain: POST with one Content-Length, or GET with a query and without a body; HTTP/1.1; every line
    ended by CR LF, none continued; no header twice, none that asks for anything special; a Host; visible ASCII alone.
    """
    lines = head.split(b"\r\n")
    if len(lines) > HEADERS_MOST or len(head) > HEAD_MOST_BYTES:
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        name = found[1].lower()
        if name in headers or name in UNUSUAL:
            return None
        headers[name] = found[2]
    if b"host" not in headers or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    length = headers.get(b"content-length")
    query = None
    if head.startswith(b"POST "):
        if length is None or not _LENGTH.fullmatch(length) or int(length) > BODY_MOST_BYTES:
            return None
    else:
        asked = _QUERY.fullmatch(lines[0])
        if asked is None or length is not None:
            return None
        query = asked[1]
    return Head({name.decode(): value.decode() for name, value in headers.items()}, int(length or 0), query)


def last_answer(status: int, error: ProtocolError) -> bytes:
    """An answer behind which the connection ends, for requests that no application sees."""
    body = encode(error.body()).encode()
    reason = http.RESPONSES.get(status, b"Refused")
    return b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        status,
        reason,
        len(body),
        body,
    )


class SeriatimChannel(http.HTTPChannel):
    """One connection for HTTP/1.1."""

    transport: Any
    _networkProducer: Any
    quick: Quick | None = None
    starts: tuple[bytes, ...] = ()
    _abandon: Callable[[], None] | None = None
    """Of the request that is served here; None while there is none."""
    _ahead = b""
    """What came behind it."""
    _head = b""
    """Of the last request that was taken here, and what was read of it: the next one has mostly the same."""
    _known: tuple[Any, int] | None = None
    _answered_at = 0.0
    _silent = True
    """Nothing has come on it yet."""

    def connectionMade(self) -> None:
        self.factory.server.silent[self] = time.monotonic()
        super().connectionMade()  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        if self._silent:
            self._silent = False
            del self.factory.server.silent[self]
        if self._abandon is not None:
            self._ahead += data
            if len(self._ahead) > AHEAD_MOST_BYTES:
                self._networkProducer.pauseProducing()
        elif not (self.starts and data.startswith(self.starts) and self._take(data)):
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted's

    def _take(self, data: bytes) -> bool:
        """Takes the request that the data is; False: it is none of ours, and nothing was done."""
        if self.requests or self._buffer or not self.line_mode or not self.persistent or self._waitingForTransport:
            # In the middle of another, or behind the last one.
            return False
        server = self.factory.server
        if server.leaving or server.action_logger is not None or server.root_path or self.transport.disconnecting:
            return False
        quick = self.quick
        assert quick is not None
        size = len(self._head)
        query = None
        if self._known is not None and data.startswith(self._head):
            caller, body_bytes = self._known
        else:
            size = data.find(b"\r\n\r\n") + 4
            head = read_head(data[: size - 4]) if size > 4 else None
            caller = None if head is None else quick.caller_of(head.headers)
            if head is None or caller is None:
                return False
            body_bytes, query = head.body_bytes, head.query
            if query is None:
                self._head, self._known = data[:size], (caller, body_bytes)
        if len(data) != size + body_bytes:
            # Not all of it, or more than it.
            return False
        peer = self.transport.getPeer()
        self._abandon = quick.take(caller, query, data[size:], getattr(peer, "host", None), self._answer)
        if self._abandon is None:
            return False
        server.quick_served.add(self)
        self.resetTimeout()  # type: ignore[no-untyped-call]
        return True

    def _answer(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        server = self.factory.server
        server.quick_served.discard(self)
        self._abandon = None
        self._answered_at = time.monotonic()
        lines = b"".join([b"%s: %s\r\n" % header for header in headers])
        reason = http.RESPONSES.get(status, b"Unknown")
        self._write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%sServer: %s\r\n\r\n%s"
            % (status, reason, len(body), lines, server.server_name.encode(), body)
        )
        ahead, self._ahead = self._ahead, b""
        if ahead:
            self._networkProducer.resumeProducing()
            self.dataReceived(ahead)

    def _write(self, data: bytes) -> None:
        """Straight to the kernel, where nothing waits before it; Twisted keeps what the kernel does not take."""
        transport = self.transport
        taken = 0
        if (
            isinstance(transport, tcp.Connection)
            and not transport.TLS
            and transport.connected
            and not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting)
        ):
            try:
                taken = transport.socket.send(data)
            except OSError:
                # A full buffer, or an error that is left to the transport: it meets the same one.
                taken = 0
        if taken < len(data):
            transport.write(data[taken:])

    def lineLengthExceeded(self, line: bytes) -> None:
        """Twisted would hang up without a word."""
        self._refuse_head(long=True)

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's own answer says 400 and nothing more."""
        too_long = self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders
        self._refuse_head(long=too_long)

    def _refuse_head(self, *, long: bool) -> None:
        """Nobody else's answer is under way: the next head is read when the request before it was answered."""
        if long:
            error = ProtocolError(
                "too_large",
                f"The head has more than {self.totalHeadersSize} bytes or {self.maxHeaders} headers.",
                remedy="Send a long list in the body, or by a ticket.",
            )
            in_first_line = self._HTTPChannel__first_line  # type: ignore[attr-defined]  # Twisted's private name
            self._write(last_answer(414 if in_first_line else 431, error))
        else:
            error = ProtocolError("bad_frame", "This is no HTTP request.", remedy="Send HTTP/1.1 as RFC 9112 has it.")
            self._write(last_answer(400, error))
        self.loseConnection()  # type: ignore[no-untyped-call]

    def timeoutConnection(self) -> None:
        """Twisted's limit for an idle connection: it does not hold while a request is served, and counts from there."""
        full = self.timeOut
        rest = 0.0 if full is None else self._answered_at + full - time.monotonic()
        if self._abandon is not None or rest > 0:
            self.setTimeout(full if self._abandon is not None else rest)  # type: ignore[no-untyped-call]
            self.timeOut = full
        else:
            super().timeoutConnection()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self.factory.server.silent.pop(self, None)
        abandon, self._abandon = self._abandon, None
        self._head, self._known, self._ahead = b"", None, b""
        if abandon is not None:
            self.factory.server.quick_served.discard(self)
            abandon()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
