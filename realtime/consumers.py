"""The WebSocket shell: a Channels consumer that accepts or refuses, and then only feeds its `Connection`.

It is a consumer so that it stands in Channels' routing like any other, but takes nothing else of the base class: no
channel-layer channel per connection, no dispatch (which closes database connections in a thread for every message).
Where the server offers the socket itself, frames do not pass through ASGI's queue at all.
"""

from __future__ import annotations

import logging
from typing import Any

from channels.consumer import AsyncConsumer

from realtime import handshake, worker
from realtime.conf import settings
from realtime.connection import Connection
from realtime.delivery.blocks import size_bytes
from realtime.links import AsgiLink, Send, SocketLink
from realtime.load import Place
from realtime.worker import Worker

logger = logging.getLogger(__name__)

SOCKET = "seriatim.socket"
"""The extension by which our server offers the socket; see realtime.server.protocol."""

PLACE = "seriatim.place"
"""The extension that says which room our server has found for the connection."""

DENIAL = "websocket.http.response"


class RealtimeConsumer(AsyncConsumer):
    """Serves the wire contract on one WebSocket."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        running = worker.ensure()
        judged = handshake.check(scope["headers"], scope.get("subprotocols") or ())
        place = _place(scope, running) if isinstance(judged, handshake.Accepted) else None
        refused = judged if isinstance(judged, handshake.Refused) else place
        if isinstance(refused, handshake.Refused):
            running.counts.handshakes_refused[refused.status] += 1
            await _refuse(scope, send, refused)
            return
        assert isinstance(judged, handshake.Accepted)
        assert isinstance(place, Place)
        socket = (scope.get("extensions") or {}).get(SOCKET)
        if socket is not None:
            await running.ready.wait()
            await _serve_socket(socket, send, judged, running, place)
            return
        try:
            await running.ready.wait()
            await _serve(receive, send, judged, running, place)
        finally:
            place.leave()


def _place(scope: dict[str, Any], running: Worker) -> Place | handshake.Refused:
    """Room for the connection. Our server has found it before it made the scope; others know nothing of it."""
    place: Place | None = (scope.get("extensions") or {}).get(PLACE)
    if place is not None:
        return place
    peer = scope.get("client")
    forwarded = [value.decode("latin1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    found = running.load.admit(peer[0] if peer else None, forwarded)
    if isinstance(found, Place):
        return found
    return handshake.Refused(503, found.text, found.retry_whole_s)


async def _serve_socket(socket: Any, send: Send, judged: handshake.Accepted, running: Worker, place: Place) -> None:
    """On our server: the socket feeds the connection by callbacks, so this returns when it is open. A task that only
    waits for the end would be a fifth of what an idle connection takes."""
    connection = Connection(running, SocketLink(socket), place=place)
    socket.on_text = connection.receive_text
    socket.on_binary = connection.receive_binary
    socket.on_heard = connection.heard
    socket.on_closed = connection.gone
    await send({"type": "websocket.accept", "subprotocol": judged.subprotocol})
    if socket.open:
        _open(connection, judged)
    else:
        # It was gone before it was accepted, and will tell nobody.
        connection.gone()


async def _serve(receive: Any, send: Send, judged: handshake.Accepted, running: Worker, place: Place) -> None:
    """On any other server."""
    link = AsgiLink(send, settings.SOCKET_BUFFER_HIGH_BYTES)
    connection = Connection(running, link, place=place)
    code = None
    try:
        await send({"type": "websocket.accept", "subprotocol": judged.subprotocol})
        _open(connection, judged)
        code = await _feed(connection, receive)
    finally:
        connection.gone(code)
        link.stop()


def _open(connection: Connection, judged: handshake.Accepted) -> None:
    if judged.cookie is not None:
        connection.open_with_cookie(judged.cookie)
    else:
        connection.open(judged.token)


async def _feed(connection: Connection, receive: Any) -> int | None:
    """Gives the connection what comes through ASGI, until it is gone; returns the close code, if there was one."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code: int | None = message.get("code")
            return code
        text = message.get("text")
        if text is None:
            connection.receive_binary(message["bytes"])
        elif size_bytes(text) > settings.MAX_FRAME_BYTES:
            # Other servers have limits of their own, or none.
            connection.receive_too_large()
        else:
            connection.receive_text(text)
        await connection.readable()


async def _refuse(scope: dict[str, Any], send: Send, refused: handshake.Refused) -> None:
    if DENIAL not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % refused.retry_after_s))
    await send({"type": f"{DENIAL}.start", "status": refused.status, "headers": headers})
    await send({"type": f"{DENIAL}.body", "body": refused.text.encode()})
