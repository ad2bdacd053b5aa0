"""Responses without an end: Server-Sent Events of one channel and of many, and frames as lines.

Errors come with their status as long as nothing was sent: the response begins when every channel is attached or
refused, and at least one is attached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from realtime.conf import settings
from realtime.connection import Connection
from realtime.protocol import events
from realtime.protocol.errors import ProtocolError
from realtime.tokens import Identity
from realtime.transports import attaching, http, tickets
from realtime.transports.attaching import Answers, Wanted
from realtime.transports.http import Request
from realtime.transports.links import EventsFormat, Format, LinesFormat, ManyEventsFormat, Send, StreamLink
from realtime.worker import Worker

CUT = "seriatim.cut"
"""The extension by which our server drops a connection whose client takes nothing."""

HEADERS = (http.NO_STORE, (b"x-accel-buffering", b"no"))
"""No cache keeps it, and nginx passes it on as it comes."""


async def serve_channel_events(request: Request, send: Send, running: Worker, cors: list[http.Header]) -> None:
    """`GET /channels/{name}/events`: one channel for a plain EventSource."""
    query = request.query()
    identity, listed = await tickets.identify(request, query, running)
    # Of a ticket the position counts, too: who was told to begin there would miss what came since.
    found = [Wanted(request.name)] if listed is None else [each for each in listed if each.channel == request.name]
    if not found:
        raise ProtocolError("forbidden", "The ticket is not for this channel.", remedy="Get one with it in `attach`.")
    wanted = found[0]
    if "from" in query:
        wanted.position = attaching.parse_from(query["from"][-1])
    last_id = request.headers.get("last-event-id")
    if last_id:
        wanted.position = attaching.parse_from(last_id)
    format_ = EventsFormat()
    format_.expect_snapshot(wanted.position == "latest")
    await _serve(request, send, running, cors, "sse", identity, [wanted], format_)


async def serve_events(request: Request, send: Send, running: Worker, cors: list[http.Header]) -> None:
    """`GET /events?attach=…`: many channels, all positions in every id."""
    query = request.query()
    identity, listed = await tickets.identify(request, query, running)
    wanted = attaching.in_query(query) if listed is None else listed
    mark = attaching.mark_of(wanted)
    last_id = request.headers.get("last-event-id")
    positions: list[str | None] = [None] * len(wanted)
    if last_id:
        positions = events.split_ids(last_id, mark, len(wanted))
        for each, position in zip(wanted, positions, strict=True):
            if position is not None:
                each.position = attaching.parse_from(position)
    format_ = ManyEventsFormat(mark, [each.channel for each in wanted], positions)
    format_.snapshots.update(each.channel for each in wanted if each.position == "latest")
    await _serve(request, send, running, cors, "sse", identity, wanted, format_)


async def serve_lines(request: Request, send: Send, running: Worker, cors: list[http.Header]) -> None:
    """`GET /stream?attach=…`, or `POST /stream` with the list in its body: frames, one a line."""
    if request.method == "POST":
        wanted = attaching.in_body(attaching.read_json(await request.body(settings.MAX_FRAME_BYTES)))
    else:
        wanted = attaching.in_query(request.query())
    identity = await http.identify(request, running, changes=False)
    await _serve(request, send, running, cors, "stream", identity, wanted, LinesFormat())


async def _serve(
    request: Request,
    send: Send,
    running: Worker,
    cors: list[http.Header],
    transport: str,
    identity: Identity,
    wanted: list[Wanted],
    format_: Format,
) -> None:
    place = http.admit(request, running)
    cut: Callable[[], Any] = (request.scope.get("extensions") or {}).get(CUT, _cannot_cut)
    link = StreamLink(format_, send, settings.SOCKET_BUFFER_HIGH_BYTES, cut)
    connection = Connection(running, link, transport, place, speaks=False)
    gone = asyncio.ensure_future(request.gone())
    try:
        answers = Answers(connection, link, wanted)
        connection.open_as(identity)
        attaching.attach_all(connection, wanted)
        waiting = asyncio.ensure_future(answers.wait())
        await asyncio.wait([gone, waiting], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            waiting.cancel()
            return
        refusal = answers.refusal()
        if refusal is not None:
            raise http.told_to(identity, refusal)
        link.begin([(b"content-type", format_.media_type), *HEADERS, *cors])
        ended = asyncio.ensure_future(link.ended.wait())
        await asyncio.wait([gone, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
    finally:
        gone.cancel()
        connection.gone()
        link.stop()


def _cannot_cut() -> None:
    """Other servers end the connection when the application returns, or in their own time."""
