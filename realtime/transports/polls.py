"""`/poll`: positions in, frames and new positions out; the next poll is the ack. Nothing stays between two polls.

A poll waits until there is something to tell. News is then gathered for a moment, and for longer the more the worker
has to do: the fewer polls, the more each of them carries.

`Poll` is what every poll is, and goes on by callbacks: thousands may wait. Two shells bring it requests: an ASGI
application for any server (`serve_poll`), and `take`, by which our own server passes on plain requests that it has read
itself, without a task and the layers of ASGI between. `take` refuses hardly anything: what it does not like goes the
ordinary way, and is refused there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any

from realtime import tokens, worker
from realtime.conf import settings
from realtime.connection import Connection
from realtime.load import Place
from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError
from realtime.tokens import Identity
from realtime.transports import attaching, http
from realtime.transports.attaching import Answers, Wanted
from realtime.transports.http import Request, Send
from realtime.transports.links import PollLink
from realtime.worker import Worker

logger = logging.getLogger(__name__)

GATHER_S = 0.02
"""How long news is gathered on a calm worker: what was committed together comes in one answer."""

CALM = 0.25
"""Share of its limits up to which a worker counts as calm."""

BUSY = 0.85
"""Share of a core from which news is held longest: the rest is for bursts, and for those on WebSockets."""

SPREAD = 0.25
"""Share of the hold by which polls differ. Those that stand at the same news would come back, and be answered, all at
once."""

SHARED_WAIT_S = 5.0
"""How long a poll waits for news on a worker that has no room for others: those who are refused get a turn, too."""

READ_S = 5.0
"""How long a poll waits at least where there is news already, which only has to be read."""

SNAPSHOT_S = 10.0
"""How long an answer waits for the rest of a snapshot; half of one is worth nothing."""

LISTS_KEPT_BYTES = 1024
"""Bodies up to this are remembered with what they ask for: a crowd that stands at one position sends the same."""

_WAIT = re.compile(r"[0-9]{1,7}")


class Phase(Enum):
    ATTACHING = "attaching"
    WAITING = "waiting"
    """For news."""
    GATHERING = "gathering"
    """There is news, and more may come."""
    COMPLETING = "completing"
    """For the rest of snapshots."""


class Poll:
    """One poll, from what it asks to its answer. On the loop's thread."""

    __slots__ = (
        "_answers",
        "_began",
        "_connection",
        "_done",
        "_identity",
        "_link",
        "_looking",
        "_over",
        "_phase",
        "_running",
        "_timer",
        "_wait_s",
        "_wanted",
    )

    def __init__(
        self,
        running: Worker,
        place: Place,
        identity: Identity,
        wanted: Sequence[Wanted],
        wait_s: float,
        done: Callable[[bytes | ProtocolError], None],
    ) -> None:
        """`done` gets the body of the answer, or why there is none; once, and never from inside `begin`."""
        self._running = running
        self._identity = identity
        self._wanted = wanted
        self._wait_s = wait_s
        self._done: Callable[[bytes | ProtocolError], None] | None = done
        self._timer: asyncio.TimerHandle | None = None
        self._looking = False
        self._phase = Phase.ATTACHING
        self._over = False
        """What it waited for last has taken long enough."""
        self._began = time.monotonic()
        waiting_for = {each.channel: each.epoch for each in wanted if each.at_position}
        self._link = link = PollLink(settings.POLL_BYTES, waiting_for, tells_ready=not wanted)
        link.snapshots.update(each.channel for each in wanted if each.position == "latest")
        self._connection = Connection(running, link, "poll", place, speaks=False)
        self._connection.member_marks = {each.channel: each.members_mark for each in wanted}
        self._answers = Answers(self._connection, link, wanted)

    def begin(self) -> None:
        self._answers.on_all = self._link.on_change = self._look_soon
        self._connection.open_as(self._identity)
        attaching.attach_all(self._connection, self._wanted)
        if self._answers.complete:
            self._look_soon()

    def abandon(self) -> None:
        """Its client is gone, or it has its answer: lets go of everything. Idempotent."""
        self._done = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connection.gone()
        # All of these know each other: a circle would wait for the collector.
        self._link.on_answer = _untold
        self._link.on_change = self._answers.on_all = _nothing

    def _look_soon(self) -> None:
        """Behind what is being done: it is called from the middle of an attach, or of a broadcast."""
        if not self._looking:
            self._looking = True
            self._running.loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        if self._done is None:
            return
        answer: bytes | ProtocolError | None
        try:
            answer = self._answer()
        except Exception:
            logger.exception("A poll failed.")
            answer = ProtocolError("internal")
        if answer is not None:
            done = self._done
            self.abandon()
            done(answer)

    def _answer(self) -> bytes | ProtocolError | None:
        """What to answer now; None: it goes on waiting."""
        link, running = self._link, self._running
        if self._phase is Phase.ATTACHING:
            if not self._answers.complete and link.closed is None:
                return None
            refusal = self._answers.refusal()
            if refusal is not None:
                return http.told_to(self._identity, refusal)
            self._phase = Phase.WAITING
            if not link.frames:
                if not all(each.is_begun for each in self._wanted):
                    return _body(link, running)
                turn_s = _turn_of(running, self._wait_s)
                self._wait(max(turn_s, READ_S) if link.behind else turn_s)
        if self._phase is Phase.WAITING:
            if not link.frames:
                return _body(link, running) if self._over else None
            self._phase = Phase.GATHERING
            hold_s = min(hold_of(running) * (1 - SPREAD * random.random()), self._wait_s)
            self._wait(max(GATHER_S, self._began + hold_s - time.monotonic()))
        if self._phase is Phase.GATHERING:
            if not (self._over or link.full):
                return None
            if link.snapshots and link.closed is None:
                self._phase = Phase.COMPLETING
                self._wait(SNAPSHOT_S)
        incomplete = self._phase is Phase.COMPLETING and link.snapshots and link.closed is None
        return None if incomplete and not self._over else _body(link, running)

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._over = False
        self._timer = self._running.loop.call_later(seconds, self._enough)

    def _enough(self) -> None:
        self._over = True
        self._look()


def _nothing() -> None:
    """Nobody waits any more."""


def _untold(frame: dict[str, object]) -> None:
    """Nobody waits any more."""


# ---------------------------------------------------------------------- by ASGI


async def serve_poll(request: Request, send: Send, running: Worker, cors: list[http.Header]) -> None:
    if request.method == "POST":
        wanted, wait_s = in_body(await request.body(settings.MAX_FRAME_BYTES))
    else:
        wanted, wait_s = in_query(request.scope.get("query_string") or b"")
    identity = await http.identify(request, running, changes=False)
    place = http.admit(request, running, returning=all(each.at_position for each in wanted))
    answered: asyncio.Future[bytes | ProtocolError] = running.loop.create_future()
    poll = Poll(running, place, identity, wanted, wait_s, partial(_settle, answered))
    gone = asyncio.ensure_future(request.gone())
    either: list[asyncio.Future[Any]] = [gone, answered]
    try:
        poll.begin()
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        poll.abandon()
    if answered.done():
        found = answered.result()
        if isinstance(found, ProtocolError):
            raise found
        await http.respond(send, 200, found, headers=cors)


def _settle(answered: asyncio.Future[bytes | ProtocolError], answer: bytes | ProtocolError) -> None:
    if not answered.done():
        answered.set_result(answer)


# ---------------------------------------------------------------------- by our own server


@dataclass(frozen=True, slots=True)
class Caller:
    """What the head of a request says of who sends it, which on a connection is the same again and again."""

    host: str
    origin: str | None
    credential: str
    """A token; an API key is looked up in the database, and goes the ordinary way."""
    forwarded: tuple[str, ...]
    """Values of X-Forwarded-For."""
    cors: tuple[http.Header, ...]
    """Headers that let the page read the answer."""


def starts() -> tuple[bytes, ...]:
    """How requests begin that `take` may be asked about."""
    path = f"{settings.API_PATH}/poll".encode()
    return b"POST %s HTTP/1.1\r\n" % path, b"GET %s?" % path


def caller_of(headers: Mapping[str, str]) -> Caller | None:
    """The caller, by headers that came once each; None: the request has to go the ordinary way."""
    credential = http.bearer_of(headers.get("authorization", ""))
    host, origin = headers.get("host", ""), headers.get("origin")
    if not credential or tokens.is_api_key(credential):
        return None
    try:
        cors = http.check_origin(host, origin)
    except ProtocolError:
        return None
    forwarded = headers.get("x-forwarded-for")
    return Caller(host, origin, credential, () if forwarded is None else (forwarded,), tuple(cors))


def take(
    caller: Caller,
    query: bytes | None,
    body: bytes,
    peer: str | None,
    done: Callable[[int, bytes, Sequence[http.Header]], None],
) -> Callable[[], None] | None:
    """Begins to serve a poll: `done(status, body, headers)` is called once, and not if what is returned was called
    before, which says that the client is gone. None: it has to go the ordinary way, and nothing was done. `query` is
    None for a POST.
    """
    running = worker.current()
    if running is None or not running.ready.is_set():
        return None
    try:
        if query is not None:
            wanted, wait_s = in_query(query)
        elif len(body) <= LISTS_KEPT_BYTES:
            wanted, wait_s = _in_small_body(body)
        else:
            wanted, wait_s = in_body(body)
        identity = tokens.verify_token(caller.credential, time.time())
    except ProtocolError:
        return None
    headers = (http.NO_STORE, *caller.cors)

    def answered(answer: bytes | ProtocolError) -> None:
        if isinstance(answer, bytes):
            done(200, answer, headers)
        else:
            told, more = http.refusal(running, answer)
            done(answer.http_status, told, (http.NO_STORE, *caller.cors, *more))

    try:
        returning = all(each.at_position for each in wanted)
        place = http.admit_from(running, peer, caller.forwarded, returning=returning)
    except ProtocolError as error:
        running.loop.call_soon(answered, error)
        return _nothing
    poll = Poll(running, place, identity, wanted, wait_s, answered)
    poll.begin()
    return poll.abandon


# ---------------------------------------------------------------------- what is asked, and what is answered


def in_body(body: bytes) -> tuple[list[Wanted], float]:
    """The list of a JSON body, and how many seconds to wait."""
    fields = attaching.read_json(body)
    wanted = attaching.in_body(fields)
    most = settings.POLL_WAIT_MS
    return wanted, _checked_wait(fields.get("wait_ms", most) if isinstance(fields, dict) else most)


_in_small_body = lru_cache(maxsize=256)(in_body)
"""Nobody changes what is returned."""


def in_query(raw: bytes) -> tuple[list[Wanted], float]:
    """The same of a query."""
    query = http.parse_query(raw)
    wanted = attaching.in_query(query)
    text = query.get("wait_ms", [str(settings.POLL_WAIT_MS)])[-1]
    return wanted, _checked_wait(int(text) if _WAIT.fullmatch(text) else None)


def _checked_wait(wait_ms: object) -> float:
    if type(wait_ms) is not int or wait_ms < 0:
        raise ProtocolError("bad_frame", "`wait_ms` is no number of milliseconds.", remedy="Correct `wait_ms`.")
    return min(wait_ms, settings.POLL_WAIT_MS) / 1000


def hold_of(running: Worker) -> float:
    """How long a poll with news takes, in seconds, and a little less."""
    load = running.load
    limit = load.admission.limits.connections
    share = max(load.ladder.pressure, load.connections / limit if limit else 0.0, load.lately / BUSY)
    return min(1.0, max(0.0, (share - CALM) / (1 - CALM))) * settings.POLL_HOLD_MS / 1000


def _turn_of(running: Worker, wait_s: float) -> float:
    """How long a poll may wait. An overloaded worker has room, but no time for more of them."""
    crowded = running.load.refusing and not running.load.admission.overloaded
    return min(wait_s, SHARED_WAIT_S) if crowded else wait_s


def _body(link: PollLink, running: Worker) -> bytes:
    """Frames are joined as they are: nobody parses them on their way."""
    pause_ms = round(hold_of(running) * 1000) if running.load.refusing else 0
    return _body_of(tuple(link.frames), tuple(link.positions.items()), pause_ms)


@lru_cache(maxsize=4)
def _body_of(
    frames: tuple[str, ...], positions: tuple[tuple[str, tuple[str | None, int]], ...], pause_ms: int
) -> bytes:
    """One for all who are told the same."""
    told = {channel: {"epoch": epoch, "serial": serial} for channel, (epoch, serial) in positions}
    return f'{{"frames":[{",".join(frames)}],"positions":{encode(told)},"poll_after_ms":{pause_ms}}}'.encode()
