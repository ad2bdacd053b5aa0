"""Control: what one process changes and every worker must hear of, through the channel `$control` of the log.

`broadcast` says it, from any process and thread: a message of the log like any other, so it is there if and only if the
change was committed, it has its place in an order, and a worker that was away finds it. Each worker follows the channel
through its own hub, as one more subscriber (`Follower`), and calls the handlers that were put in by `on`. Whatever may
have been missed (a gap, another epoch, a log that had to be read anew) is told to every handler as None: then it takes
everything of its kind for changed.

Handlers are a short cut, not the only way: sessions, namespaces and keys are looked at regularly all the same. What
travels, and how old it may become: docs/explanation/delivery.md, "Control". No client can name the channel.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, Final

import msgspec
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction

from realtime import authorization, closings, elsewhere, limits, namespaces, revocations, signing, tokens
from realtime.conf import settings
from realtime.delivery.blocks import Encoding
from realtime.hub import Answer, Attached, Attaching, Hub, Subscriber
from realtime.log import intake
from realtime.log.types import Append
from realtime.protocol import positions
from realtime.protocol.codec import canonical
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import ChannelName

__all__ = ["CHANNEL", "Follower", "Handler", "broadcast", "on"]

logger = logging.getLogger(__name__)

CHANNEL: Final = ChannelName("$control")

Handler = Callable[[Mapping[str, object] | None], object]

OWN_MOST: Final = 1000
"""Events of this process that it knows by their ids. One that is forgotten is handled twice, which harms nothing."""

SAME_MOST: Final = 1000
"""Callbacks of a transaction among which the same event is looked for, newest first."""

WAITING_MOST: Final = 1000
"""Events that wait for the thread that stores what is said on an event loop."""

RETRY_S: Final = 0.5
"""Pause before a worker tries again to follow the channel while the database is away."""


# ---------------------------------------------------------------- saying


def broadcast(event: str, data: Mapping[str, object], *, using: str | None = None) -> None:
    """Has every other worker hear of `event`. What it means for this process the caller sees to himself, and first.

    `data` is what JSON can say, with nothing secret in it: it stays in the log for an hour. Inside a transaction on
    `using` (by default, the default database) the others hear of it if and only if that commits; the same event twice
    in one transaction is one. Elsewhere it is committed when this returns, but on an event loop, which it does not
    block. Raises nothing when it cannot be stored: that is logged, and the workers notice by looking, later.
    """
    using = using or DEFAULT_DB_ALIAS
    if using != settings.DATABASE and connections[using].in_atomic_block:
        # Of a transaction that the log knows nothing of, only the end can be told.
        elsewhere.after_commit(lambda: _say(event, canonical(data)), using=using)
    else:
        _say(event, canonical(data))


def _say(event: str, data: str) -> None:
    append = _append_of(event, data)
    if elsewhere.on_event_loop():
        elsewhere.after_commit(lambda: _store_soon(append), using=settings.DATABASE)
    elif intake.in_transaction():
        _put(append)
    else:
        _store(append)


def _append_of(event: str, data: str) -> Append:
    message_id = secrets.token_urlsafe(15)
    return Append(CHANNEL, "", [NewMessage(message_id, event, None, data)], fresh=frozenset({message_id}))


def _put(append: Append) -> None:
    """Makes it part of the transaction, unless that says the same already."""
    connection = connections[settings.DATABASE]
    committed = _Committed(append)
    # Django forgets those of a savepoint that was rolled back, whose rows of the outbox are gone, too.
    callbacks = islice(reversed(connection.run_on_commit), SAME_MOST)
    if any(committed == callback for _, callback, *_ in callbacks):
        return
    try:
        # A savepoint: what fails here must not spoil the transaction of somebody who changes something else.
        with transaction.atomic(using=settings.DATABASE):
            intake.put(append)
            connection.on_commit(committed)
    except DatabaseError as error:
        _not_said(append, error)


class _Committed:
    """What happens when the transaction of an event has committed. Equal for equal events."""

    def __init__(self, append: Append) -> None:
        self._message = append.messages[0]

    def __call__(self) -> None:
        _own(self._message)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Committed):
            return False
        mine, theirs = self._message, other._message
        return (mine.event, mine.data) == (theirs.event, theirs.data)

    def __hash__(self) -> int:
        return hash((self._message.event, self._message.data))


def _store(append: Append) -> None:
    """Waits until it is committed."""
    # Before, and not behind it: this process's worker may hear of it sooner than we.
    _own(append.messages[0])
    intake.settle([append])
    outcome = intake.outcome_of(append)
    if isinstance(outcome, ProtocolError):
        _not_said(append, outcome)


def _not_said(append: Append, error: Exception) -> None:
    event = append.messages[0].event
    logger.error("Other workers were not told of %s, and will notice only by looking: %s", event, error)


_own_ids: dict[str, None] = {}
"""Of events that took effect in this process before they were stored, oldest first."""
_lock = threading.Lock()


def _own(message: NewMessage) -> None:
    with _lock:
        _own_ids[message.id or ""] = None
        if len(_own_ids) > OWN_MOST:
            del _own_ids[next(iter(_own_ids))]


# ---------------------------------------------------------------- saying, on an event loop

_executor: ThreadPoolExecutor | None = None
_executor_pid = 0
_waiting = 0


def _store_soon(append: Append) -> None:
    """Stores it in a thread."""
    global _executor, _executor_pid, _waiting
    with _lock:
        # A forked child has the parent's object without its thread.
        if _executor is None or _executor_pid != os.getpid():
            _executor = ThreadPoolExecutor(1, thread_name_prefix="seriatim-control")
            _executor_pid, _waiting = os.getpid(), 0
        full = _waiting >= WAITING_MOST
        _waiting += not full
    if full:
        _not_said(append, RuntimeError("too many events wait to be stored"))
    else:
        _executor.submit(_store_in_thread, append)


def _store_in_thread(append: Append) -> None:
    global _waiting
    try:
        _store(append)
    except Exception:
        logger.exception("An event could not be stored.")
    finally:
        with _lock:
            _waiting -= 1
        # In a process without a worker it was this thread's own connection.
        connections.close_all()


# ---------------------------------------------------------------- hearing

_handlers: dict[str, tuple[Handler, ...]] = {}


def on(event: str, handler: Handler) -> Callable[[], None]:
    """Call `handler(data)` in every process with a worker when another process says `event`; returns what stops it.

    `handler(None)`: events may have been missed, so everything of this kind may have changed. Called on the worker's
    event loop: it must return at once, and hand what takes time to a thread. The same event may come twice.
    """
    with _lock:
        _handlers[event] = (*_handlers.get(event, ()), handler)

    def stop() -> None:
        with _lock:
            _handlers[event] = tuple(each for each in _handlers.get(event, ()) if each is not handler)

    return stop


class _Whole:
    """Frames as they are."""

    name = "control"

    def encode(self, frames: Sequence[str]) -> tuple[str, ...]:
        return tuple(frames)

    def join(self, payloads: Sequence[Iterable[str]]) -> tuple[str, ...]:
        return tuple(chain.from_iterable(payloads))

    def ways(self, writers: Sequence[Callable[[Any], None]]) -> Sequence[Callable[[Any], None]]:
        return writers

    def write_all(self, ways: Sequence[Callable[[Any], None]], payload: Any) -> int:
        for write in ways:
            write(payload)
        return 0


_WHOLE: Final = _Whole()


class _Event(msgspec.Struct):
    """What matters of a message."""

    id: str
    event: str
    data: dict[str, object]


_event_of: Final = msgspec.json.Decoder(_Event).decode


class Follower:
    """One worker's subscriber of the channel, from the head. On the loop's thread; a `realtime.hub.Sink`.

    `began` is called once, when nothing that is said from now on can be missed: what is read from the database after
    that is as new as the events that follow.
    """

    encoding: Encoding = _WHOLE
    congested = False

    def __init__(self, loop: asyncio.AbstractEventLoop, hub: Hub, began: Callable[[], object]) -> None:
        self._loop = loop
        self._hub = hub
        self._began: Callable[[], object] | None = began
        self._subscriber: Subscriber | None = None
        self._stopped = False
        self._beginning_anew = False
        self.writer: Callable[[Any], None] = self.write
        self.counts: Counter[str] = Counter(heard=0, own=0, missed=0)
        """Events of others; events of this process; how often everything was taken for changed."""

    def start(self) -> None:
        """Follows as soon as the database answers. Also again, from the head."""
        self._beginning_anew = False
        if self._stopped:
            return
        if self._subscriber is not None:
            self._hub.detach(self._subscriber)
        # A window of 0: unbounded, since nothing waits here.
        attaching = Attaching(CHANNEL, positions.Head(), window=0, ack_every=0, ack_ms=0, key_limit=0)
        self._subscriber = self._hub.attach(attaching, self, self._joined, lambda code: self._begin_anew())

    def stop(self) -> None:
        self._stopped = True
        if self._subscriber is not None:
            self._hub.detach(self._subscriber)

    def _joined(self, subscriber: Subscriber, answer: Answer) -> None:
        if not isinstance(answer, Attached):
            self._loop.call_later(RETRY_S, self.start)
            return
        self._hub.begin(subscriber)
        if self._began is None:
            self._missed()
        else:
            began, self._began = self._began, None
            began()

    def send(self, frame: dict[str, object]) -> None:
        """What the hub says of the log itself."""
        if frame["type"] == "attached" and not frame["resumed"]:
            # Another log. What it retains may be what was heard before: from its head, then.
            self._begin_anew()
        elif frame["type"] == "skipped" and frame["reason"] == "retention":
            self._missed()

    def _begin_anew(self) -> None:
        if not self._beginning_anew:
            self._beginning_anew = True
            # Not now: the hub is in the middle of its subscribers.
            self._loop.call_soon(self.start)

    def write(self, payload: Any) -> None:
        for text in payload:
            try:
                event = _event_of(text)
            except msgspec.MsgspecError:
                logger.error("The log has an event that cannot be read: %s", text[:200])
                continue
            if event.id in _own_ids:
                self.counts["own"] += 1
                continue
            self.counts["heard"] += 1
            for handler in _handlers.get(event.event, ()):
                _handle(event.event, handler, event.data)

    def _missed(self) -> None:
        self.counts["missed"] += 1
        logger.warning("Events may have been missed; everything is taken for changed.")
        for event, handlers in list(_handlers.items()):
            for handler in handlers:
                _handle(event, handler, None)


def _handle(event: str, handler: Handler, data: Mapping[str, object] | None) -> None:
    try:
        handler(data)
    except Exception:  # one handler's fault must not keep the others from hearing
        logger.exception("A handler of %s failed.", event)


# ---------------------------------------------------------------- what the platform itself says


def _rights_changed(data: Mapping[str, object] | None) -> None:
    channel, client = (None, None) if data is None else (_text(data, "channel"), _text(data, "client"))
    authorization.reauthorize_here(None if channel is None else ChannelName(channel), client)


def _session_ended(data: Mapping[str, object] | None) -> None:
    end = tokens.SessionEnd(None, None, certain=False)
    if data is not None:
        session = _text(data, "session")
        # Certain is only the end of one session.
        end = tokens.SessionEnd(session, _text(data, "user"), session is not None and data.get("certain") is True)
    tokens.end_session_here(end)


def _text(data: Mapping[str, object], name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) else None


elsewhere.carrier = broadcast


def _revoked(data: Mapping[str, object] | None) -> None:
    if data is None:
        revocations.mirror.stale()
    else:
        revocations.heard(data)


on("limits", lambda data: limits.mirror.stale())
on("closings", lambda data: closings.mirror.stale())
on("signing_keys", lambda data: signing.mirror.stale())
on("revocation", _revoked)
on("reauthorize", _rights_changed)
on("session_end", _session_ended)
on("namespaces", lambda data: namespaces.mirror.stale())
