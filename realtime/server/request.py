"""Daphne's HTTP request, extended: refusals before anything is spent, and answers that wait for their client.

A WebSocket that there is no room for is refused here.

The cheapest place that still knows the client's address and can answer: the request's head is parsed, nothing else has
happened. Who is let in holds a place from here until the connection is lost.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from daphne.http_protocol import WebRequest

from realtime import worker
from realtime.conf import settings
from realtime.delivery.admission import FIRST_S
from realtime.load import Refusal
from realtime.protocol.errors import ProtocolError
from realtime.server import hixie
from realtime.server.channel import last_answer

CUT = "seriatim.cut"
"""Name of the extension of HTTP scopes whose value drops the connection, whatever waits for the client."""


def _is_sockjs(path: str) -> bool:
    return path.startswith(settings.SOCKJS_PATH) or bool(settings.SOCKJS_TEST_SERVICES)


BODY_LIMITS = 4
"""Times ROUND_MAX_BYTES, from where a body is not read to its end."""


class SeriatimRequest(WebRequest):
    """One HTTP request; Daphne turns it into a WebSocket when it asks for one."""

    channel: Any
    producer: Any
    _room: asyncio.Event | None = None
    """Set while the socket takes more of an answer that comes in parts."""
    _ours: bool | None = None
    """Below API_PATH or SOCKJS_PATH; None while its head is not complete."""
    _refused = False
    """It has its answer, though it is not complete."""
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Twisted would read every body by its type, for fields that nobody asks for: a seventh of what a poll costs.
        self._parsePOSTFormSubmission = False
        self._deadline = asyncio.get_running_loop().call_later(settings.REQUEST_TIMEOUT_S, self._too_slow)

    # ------------------------------------------------------------------ coming in

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        self._ours = self.channel._path.startswith((settings.API_PATH.encode(), settings.SOCKJS_PATH.encode()))
        self._mind_size(length or 0)

    def handleContentChunk(self, data: bytes) -> None:
        if not self._refused:
            super().handleContentChunk(data)
            self._mind_size(self.content.tell())

    def _mind_size(self, size: int) -> None:
        """What is a little too large hears so from the application; but nobody fills the disk with the rest."""
        if self._ours and size > BODY_LIMITS * settings.ROUND_MAX_BYTES and not self._refused:
            self._cut_short(413, ProtocolError("too_large", "The body is too long.", remedy="Send less at once."))

    def _too_slow(self) -> None:
        """The head has to come in time, and so has the body where it cannot be long. Uploads to the site may take
        longer."""
        if self.channel is not None and self._ours is not False and not self._refused:
            self._cut_short(
                408, ProtocolError("bad_frame", "The request did not come in time.", remedy="Send it in one go.")
            )

    def _cut_short(self, status: int, error: ProtocolError) -> None:
        self._refused = True
        self.channel.write(last_answer(status, error))
        self.channel.loseConnection()

    def process(self) -> Any:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._refused:
            return None
        if self.method != b"GET" or not self._connection_says_upgrade():
            # That is no handshake; it is answered by what is at its address.
            self.requestHeaders.removeHeader(b"upgrade")
        if self.server.leaving:
            # This answer is the last on its connection: the next request is for a worker that stays.
            self.channel.persistent = False
            if worker.current() is None:
                self._refuse(Refusal("draining", FIRST_S))
                return None
        if self._asks_for_an_old_socket():
            return self._process_old_socket()
        if not self._asks_for_our_socket():
            return super().process()
        running = worker.ensure()
        found = running.load.admit(
            getattr(self.client, "host", None),
            [value.decode("latin1") for value in self.requestHeaders.getRawHeaders(b"x-forwarded-for", ())],
        )
        if isinstance(found, Refusal):
            running.counts.handshakes_refused[503] += 1
            self._refuse(found)
            return None
        factory = self.server.ws_factory
        # The protocol takes it as soon as there is one.
        factory.place = found
        channel = self.channel
        result = super().process()
        if factory.place is None:
            self._leave_to_the_protocol(channel)
        else:
            # There is none: the request was malformed, and has its answer.
            factory.place = None
            found.leave()
        return result

    def _asks_for_an_old_socket(self) -> bool:
        """Of the draft before RFC 6455. Where it is not served, Autobahn refuses it."""
        headers = self.requestHeaders
        is_upgrade = headers.getRawHeaders(b"upgrade", (b"",))[0].lower() == b"websocket"
        path = self.path.decode("latin1")
        return is_upgrade and hixie.is_asked_for(headers) and _is_sockjs(path) and not self._asks_for_our_socket()

    def _process_old_socket(self) -> Any:
        factory = self.server.ws_factory
        channel = self.channel
        factory.instead = socket = hixie.OldSocket(self)
        result = super().process()
        factory.instead = None
        if socket.transport is not None:
            # What came with the head is not the next request.
            channel.rawDataReceived = socket.dataReceived
            self._leave_to_the_protocol(channel)
        return result

    # ------------------------------------------------------------------ flow control

    def handle_reply(self, message: dict[str, Any]) -> None:
        super().handle_reply(message)
        if message.get("more_body") and self._room is None and not self.finished and self.channel is not None:
            self._room = asyncio.Event()
            self._room.set()
            self.registerProducer(self, True)
            if self.channel._waitingForTransport:
                self._room.clear()

    async def room(self) -> None:
        """Returns when the client has taken what waits for it, or is gone: without this an answer without an end would
        be kept here for a client that does not read."""
        if self._room is not None:
            await self._room.wait()

    def pauseProducing(self) -> None:
        assert self._room is not None
        self._room.clear()

    def resumeProducing(self) -> None:
        assert self._room is not None
        self._room.set()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self.resumeProducing()

    def finish(self) -> None:
        self._let_go()
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._let_go()
        super().connectionLost(reason)

    def _let_go(self) -> None:
        if self._room is not None:
            self._room.set()
            if self.producer is not None:
                self.unregisterProducer()

    def cut(self) -> None:
        """Drops the connection now."""
        if self.channel is not None and not self.finished:
            self.channel.forceAbortClient()

    # ------------------------------------------------------------------ refusals

    def _leave_to_the_protocol(self, channel: Any) -> None:
        """The connection is the WebSocket protocol's. Request and channel know each other, and would wait for the
        collector with all they hold."""
        channel.requests.clear()
        self.channel = None
        self.content.close()
        self.server.connections.pop(self, None)

    def _connection_says_upgrade(self) -> bool:
        """Where it does not, Autobahn refuses the handshake; SockJS wants an answer of its own."""
        values = b",".join(self.requestHeaders.getRawHeaders(b"connection", ()))
        return b"upgrade" in values.lower() or not _is_sockjs(self.path.decode("latin1"))

    def _asks_for_our_socket(self) -> bool:
        headers = self.requestHeaders
        if headers.getRawHeaders(b"upgrade", (b"",))[0].lower() != b"websocket":
            return False
        root = headers.getRawHeaders(b"daphne-root-path", (self.server.root_path.encode(),))[0]
        path = unquote(self.path.decode("latin1"))
        return path.removeprefix(unquote(root.decode("latin1"))) == settings.WEBSOCKET_PATH

    def _refuse(self, refusal: Refusal) -> None:
        body = refusal.text.encode()
        self.setResponseCode(503)
        self.setHeader(b"retry-after", b"%d" % refusal.retry_whole_s)
        self.setHeader(b"content-type", b"text/plain; charset=utf-8")
        self.setHeader(b"content-length", b"%d" % len(body))
        self.setHeader(b"connection", b"close")
        self.channel.persistent = False
        self.write(body)
        self.finish()
