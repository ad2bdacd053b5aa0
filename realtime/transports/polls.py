"""`/poll`: positions in, frames and new positions out; the next poll is the ack. Nothing stays between two polls.

A poll waits until there is something to tell. News is then gathered for a moment, and for longer the more the worker
has to do: the fewer polls, the more each of them carries.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from realtime.conf import settings
from realtime.connection import Connection
from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError
from realtime.transports import attaching, http
from realtime.transports.attaching import Answers, Wanted
from realtime.transports.http import Request, Send
from realtime.transports.links import PollLink
from realtime.worker import Worker

GATHER_S = 0.02
"""How long news is gathered on a calm worker: what was committed together comes in one answer."""

CALM = 0.25
"""Share of its limits up to which a worker counts as calm."""

SHARED_WAIT_S = 5.0
"""How long a poll waits for news on a worker that has no room for others: those who are refused get a turn, too."""

SNAPSHOT_S = 10.0
"""How long an answer waits for the rest of a snapshot; half of one is worth nothing."""

_WAIT = re.compile(r"[0-9]{1,7}")


async def serve_poll(request: Request, send: Send, running: Worker, cors: list[http.Header]) -> None:
    wanted, wait_s = await _asked(request)
    identity = await http.identify(request, running, changes=False)
    at_positions = all(each.is_begun for each in wanted)
    place = http.admit(request, running, returning=all(each.at_position for each in wanted))
    waiting_for = {each.channel: each.epoch for each in wanted if each.at_position}
    link = PollLink(settings.POLL_BYTES, waiting_for, tells_ready=not wanted)
    link.snapshots.update(each.channel for each in wanted if each.position == "latest")
    connection = Connection(running, link, "poll", place, speaks=False)
    connection.member_marks = {each.channel: each.members_mark for each in wanted}
    gone = asyncio.ensure_future(request.gone())
    began = time.monotonic()
    try:
        answers = Answers(connection, link, wanted)
        connection.open_as(identity)
        attaching.attach_all(connection, wanted)
        await _first(gone, answers.wait())
        refusal = answers.refusal()
        if not gone.done() and refusal is not None:
            raise http.told_to(identity, refusal)
        if at_positions and not link.news.is_set():
            await _first(gone, link.news.wait(), _turn_of(running, wait_s))
        if link.news.is_set():
            hold_s = min(hold_of(running), wait_s)
            await _first(gone, link.full.wait(), max(GATHER_S, began + hold_s - time.monotonic()))
            if link.snapshots:
                await _first(gone, link.whole(), SNAPSHOT_S)
        if gone.done():
            return
        body = _body(link, running)
    finally:
        gone.cancel()
        connection.gone()
    await http.respond(send, 200, body, headers=cors)


async def _asked(request: Request) -> tuple[list[Wanted], float]:
    most = settings.POLL_WAIT_MS
    if request.method == "POST":
        body = attaching.read_json(await request.body(settings.MAX_FRAME_BYTES))
        wanted = attaching.in_body(body)
        wait_ms: Any = body.get("wait_ms", most) if isinstance(body, dict) else most
    else:
        query = request.query()
        wanted = attaching.in_query(query)
        text = query.get("wait_ms", [str(most)])[-1]
        wait_ms = int(text) if _WAIT.fullmatch(text) else None
    if type(wait_ms) is not int or wait_ms < 0:
        raise ProtocolError("bad_frame", "`wait_ms` is no number of milliseconds.", remedy="Correct `wait_ms`.")
    return wanted, min(wait_ms, most) / 1000


def hold_of(running: Worker) -> float:
    """How long a poll with news takes at least, in seconds."""
    load = running.load
    limit = load.admission.limits.connections
    share = max(load.ladder.pressure, load.connections / limit if limit else 0.0)
    return min(1.0, max(0.0, (share - CALM) / (1 - CALM))) * settings.POLL_HOLD_MS / 1000


def _turn_of(running: Worker, wait_s: float) -> float:
    """How long a poll may wait. An overloaded worker has room, but no time for more of them."""
    crowded = running.load.refusing and not running.load.admission.overloaded
    return min(wait_s, SHARED_WAIT_S) if crowded else wait_s


def _body(link: PollLink, running: Worker) -> bytes:
    """Frames are joined as they are: nobody parses them on their way."""
    pause_ms = round(hold_of(running) * 1000) if running.load.refusing else 0
    return (
        f'{{"frames":[{",".join(link.frames)}],"positions":{encode(link.positions)},"poll_after_ms":{pause_ms}}}'
    ).encode()


async def _first(gone: asyncio.Future[None], wait: Any, timeout_s: float | None = None) -> None:
    """Returns when `wait` does, the client goes away, or the time is over."""
    waiting = asyncio.ensure_future(wait)
    try:
        await asyncio.wait([gone, waiting], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
