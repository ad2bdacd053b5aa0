"""One connection, by WebSocket or another transport: performs what its session decides.

Between three parties: the link (bytes out), the session (pure; what to do), the hub and the writer (what comes of it).
Everything runs on the loop's thread and returns at once; what takes time (a commit, a read of the log, an application's
hook) comes back as a callback. Frames stay in the client's order to the very end, and none of them costs a thread hop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import assert_never, cast

import msgspec

from realtime import authorization, budgets, limits, publishing, signals, tokens
from realtime.authorization import NeedsHook, Operation
from realtime.conf import settings
from realtime.delivery.blocks import size_bytes
from realtime.delivery.bucket import TokenBucket
from realtime.delivery.presence import Key
from realtime.delivery.signals import Signal
from realtime.hub import Answer, Attached, Attaching, Subscriber
from realtime.links import Link
from realtime.load import Place
from realtime.log.types import Append, LogState, Page, Published
from realtime.namespaces import Rules
from realtime.protocol import positions, session
from realtime.protocol.codec import encode
from realtime.protocol.errors import CLOSES, ProtocolError
from realtime.protocol.messages import NewMessage, signal_frame
from realtime.protocol.names import EVERYBODY, ChannelName, ClientId, namespace_of
from realtime.protocol.session import Effect, Session, SessionSettings, State
from realtime.providers import KeyAwaited, Provider
from realtime.tokens import Identity, SessionEnd
from realtime.worker import Worker

logger = logging.getLogger(__name__)

ABNORMAL = 1006
"""RFC 6455 §7.4.1: stands for an end without a close frame; never sent."""

PING_ANSWER_S = 10.0
"""How long a client that was silent for two heartbeats has to answer a ping."""

AWAY_RETRY_MS = 1000
"""Hint with `unavailable` when a read failed."""

RECONNECT_SPREAD_MS = 1000
"""Clients of a draining worker are told to come back at a random time within this, so that they do not come at once."""

OTHER_CODE = 0
"""Counts every close code of clients that no table has."""

LIMIT_RETRY_MS = 5000
"""Hint for a client that has as many connections as an operator allows: nobody knows when it closes one."""

OVER_RATE_LEAST = 20
"""So many publishes have to be refused before a connection is closed for them, however slow they come."""

OVER_RATE_TIMES = 10
"""How many times as many have to be refused as served."""

HISTORY_DEFAULT = 100

REMEMBERED_MOST = 1000
"""Answers of application hooks that one connection remembers; beyond it they are asked again."""


class Connection:
    """The shell around one `Session`. Its owner feeds it and tells it when the connection is gone (`gone`)."""

    def __init__(
        self,
        worker: Worker,
        link: Link,
        transport: str = "websocket",
        place: Place | None = None,
        *,
        speaks: bool = True,
    ) -> None:
        """`place` is the room that was found for it (`worker.load.admit`); without one it counts against no limit.
        `speaks`: its client can say something more, so that silence has a meaning."""
        now = time.monotonic()
        self._place = place
        self.transport = transport
        self.worker = worker
        self.link = link
        self.identity: Identity | None = None
        self.id = f"c_{secrets.token_urlsafe(9)}"
        self.session = Session(self.id, _session_settings(worker, speaks), now)
        self.subscribers: dict[ChannelName, Subscriber] = {}
        self._joining: dict[int, Subscriber] = {}
        self._appends: dict[int, Append] = {}
        self._ops: dict[Append, int] = {}
        self._publishing: list[session.Publish] = []
        """Publishes that wait for an application's hook about the one that is asked for."""
        self._asking = False
        self._draining = False
        self._failed_ops: set[int] = set()
        """Publishes that failed, while others wait here that may be chained to them."""
        # Lists that are short, though taken from in front: an empty deque has 760 bytes.
        self._effects: list[Effect] = []
        self._performing = False
        self._allowed: set[tuple[ChannelName, Operation]] = set()
        """What application hooks allowed; asked again when rights may have changed."""
        self._asking_signals: set[ChannelName] = set()
        """Channels about which something is asked before a signal can be passed on."""
        self._signal_bucket: TokenBucket | None = None
        self._presence_bucket: TokenBucket | None = None
        # Tuples, since most connections have none: an empty set has 216 bytes.
        self._present_in: tuple[ChannelName, ...] = ()
        """Channels that the client has entered by this connection."""
        self._follows: tuple[ChannelName, ...] = ()
        """Channels whose members it is told."""
        self.reader: str | None = None
        """The name under which its client is present by one request after the other, at any worker."""
        self.member_marks: Mapping[str, str] | None = None
        """Of a request that is answered once: what its client knows of the members of channels."""
        self._rights = 0
        """How often rights may have changed: what was allowed before such a change must not count after it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = False
        self.name_message: Callable[[int, int], str] | None = None
        """Gives an id to a message without one, by the number of its publish here and its place in it. For those whose
        frames may come again as a whole."""
        self._published_count = 0
        self._readable: asyncio.Event | None = None
        """For shells that wait in `readable`."""
        self.opened_at = now
        self.heard_at = now
        self._pinged_at: float | None = None
        self.look_at = 0.0
        self._moved = (0, now)
        self._counted_bytes = 0
        self._gone = False
        self._rechecking = False
        self._recheck_again = False
        self._leaving = False
        self._close_code: int | None = None
        """With which the server ended it."""
        self._client: ClientId | None = None
        """Whom receivers of `connected` were told of."""
        self._key_id: str | None = None
        """Of the API key whose connections count this one."""
        self._told_until: dict[ChannelName, float] | None = None
        """Channels in which a publish was over a rate, and until when the client was told to wait."""
        self._over_since = 0.0
        self._over_refused = 0
        self._over_served = 0
        link.on_congested = self._congested
        link.on_drained = self._drained
        link.on_way = self._rewire
        worker.enter(self)
        worker.counts.opened[transport] += 1

    # ------------------------------------------------------------------ what comes in

    def open(self, token: str | None) -> None:
        """The handshake is done; with a token, unless one is awaited."""
        if token is not None:
            self._perform(self.session.open(token))

    def open_as(self, identity: Identity) -> None:
        """The shell has found out who it is."""
        self.session.look_up()
        self._identify(identity, None)

    def open_with_cookie(self, cookie: str) -> None:
        """The handshake carried this site's session cookie; if it proves nobody, `auth` is awaited."""
        now_s = time.time()
        self.session.look_up()
        self.worker.reader.run(lambda: (tokens.identity_from_cookies(cookie, now_s),), self._found_session)

    def _found_session(self, found: tuple[Identity | None] | None) -> None:
        if found is None:
            # Nobody knows whether the cookie is good. Waiting for `auth` would tell a browser that it is not.
            self._close(1013, f"retry_after_ms={AWAY_RETRY_MS}")
        elif found[0] is not None:
            self._identify(found[0], None)
        else:
            self._perform(self.session.unidentified(time.monotonic(), _time_ms()))

    def receive_text(self, text: bytes | str) -> None:
        """A text message, valid UTF-8."""
        if self._gone:
            return
        now = time.monotonic()
        counts = self.worker.counts
        counts.frames_in += 1
        counts.bytes_in += size_bytes(text) if isinstance(text, str) else len(text)
        self.heard_at = now
        self._pinged_at = None
        self._perform(self.session.receive(text if isinstance(text, str) else text.decode(), now, _time_ms()))
        if self.session.full:
            self._read_no_further()

    def end(self, code: int, reason: str) -> None:
        """The shell ends the connection, for a reason of its own."""
        if not self._gone:
            self._close(code, reason)

    def receive_binary(self, data: bytes) -> None:
        self._close(1003, "text frames only")

    def receive_too_large(self) -> None:
        self._close(1009, f"frames of at most {settings.MAX_FRAME_BYTES} bytes")

    def heard(self) -> None:
        """Any other sign of life: a ping or a pong."""
        self.heard_at = time.monotonic()
        self._pinged_at = None

    @property
    def busy(self) -> bool:
        """Something that was received waits for its turn or its outcome."""
        return bool(self.session.busy or self._publishing or self._asking_signals)

    async def readable(self) -> None:
        """Returns when the next frame may be read; for shells that take frames out of a queue."""
        if self._paused and not self._gone:
            self._readable = asyncio.Event()
            await self._readable.wait()

    def gone(self, code: int | None = None) -> None:
        """The connection has ended: everything that belongs to it is let go. Idempotent.

        `code` is that of the client's close frame, None where there was none.
        """
        if self._gone:
            return
        self._gone = True
        if self._place is not None:
            self._place.leave()
        self._count_end(code)
        logger.debug("Ended.", extra={**self._known(), "code": self._close_code or code})
        self.session.closed()
        self.worker.leave(self)
        if self._key_id is not None:
            self.worker.by_key[self._key_id] -= 1
            if not self.worker.by_key[self._key_id]:
                del self.worker.by_key[self._key_id]
        if self._client is not None:
            signals.send(signals.disconnected, Connection, client=self._client, connection=self.id)
        for subscriber in [*self.subscribers.values(), *self._joining.values()]:
            self.worker.hub.detach(subscriber)
        self._drop_presence()
        self.subscribers.clear()
        self._joining.clear()
        self._publishing.clear()
        for task in self._tasks:
            task.cancel()
        self._wake_reader()
        # The link knows this by them: a circle would wait for the collector.
        self.link.on_congested = self.link.on_drained = self.link.on_way = _nobody

    def _known(self) -> dict[str, object]:
        """What log lines say of this connection (`LOG_FORMAT` json)."""
        return {
            "worker": self.worker.name,
            "transport": self.transport,
            "connection": self.id,
            "client": self._client,
        }

    def _count_bytes(self) -> None:
        """What was written to this connection alone; the hub counts its broadcasts."""
        written = self.link.written_bytes
        self.worker.counts.bytes_out += written - self._counted_bytes
        self._counted_bytes = written

    def _count_end(self, code: int | None) -> None:
        counts = self.worker.counts
        self._count_bytes()
        by = "client" if self._close_code is None else "server"
        counts.closed[self.transport, by, known_close_code(self._close_code or code)] += 1

    # ------------------------------------------------------------------ effects

    def _perform(self, effects: list[Effect]) -> None:
        """Performs effects in order, those that come of them last. Not by recursion: a client decides how many."""
        self._look_soon()
        self._effects.extend(effects)
        if self._performing:
            return
        self._performing = True
        try:
            while self._effects and not self._gone:
                self._perform_one(self._effects.pop(0))
        finally:
            self._performing = False
        if self._paused and not (self.session.full or self.link.congested or self._gone or self.worker.draining):
            self._read_on()

    def _look_soon(self) -> None:
        if self.look_at:
            self.look_at = 0.0
            self.worker.look_soon(self)

    def _read_no_further(self) -> None:
        if not self._paused:
            self._paused = True
            self.link.pause_reading()

    def _read_on(self) -> None:
        self._paused = False
        self._wake_reader()
        self.link.resume_reading()

    def _wake_reader(self) -> None:
        if self._readable is not None:
            self._readable.set()

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case session.Send(frame):
                if frame["type"] == "error":
                    self.worker.counts.errors[cast("str", frame["code"])] += 1
                self.link.send(frame)
            case session.Publish():
                self._publish(effect)
            case session.Ack(serials):
                self._ack(serials)
            case session.Attach():
                self._attach(effect)
            case session.Detach(channel):
                self._end(channel)
            case session.History():
                self._history(effect)
            case session.Verify(token, ref):
                self._verify(token, ref)
            case session.Recheck():
                self.reauthorize(None, None)
            case session.Close(code, reason):
                self._close(code, reason)
            case session.Signal():
                self._signal(effect)
            case session.Presence():
                self._presence(effect)
            case _:
                assert_never(effect)

    def _close(self, code: int, reason: str) -> None:
        self.session.closed()
        self._close_code = self._close_code or code
        self.link.close(code, reason)
        if self._paused:
            # Else nobody would notice the end of a connection that was read no further.
            self._read_on()

    def _failed(self, op: int, error: ProtocolError, channel: ChannelName) -> None:
        self._perform(self.session.failed(op, error, channel in self.subscribers, time.monotonic(), _time_ms()))

    # ------------------------------------------------------------------ identity

    def _verify(self, token: str, ref: str | int | None, *, waited: bool = False) -> None:
        if self.session.state is State.CLOSED:
            return
        try:
            if tokens.is_api_key(token):
                raise ProtocolError("unauthorized", "API keys are for HTTP only.", remedy="Get a token for the client.")
            identity = tokens.verify_token(token, time.time())
        except KeyAwaited as awaited:
            if waited:
                self._perform(self.session.undecided(awaited, ref, time.monotonic(), _time_ms()))
            else:
                self._verify_when_read(awaited.provider, token, ref)
        except ProtocolError as error:
            if error.code == "unavailable":
                self._perform(self.session.undecided(error, ref, time.monotonic(), _time_ms()))
            else:
                self._perform(self.session.refused(error, ref))
        else:
            self._identify(identity, ref)

    def _verify_when_read(self, provider: Provider, token: str, ref: str | int | None) -> None:
        """Again when the provider's keys were fetched, or would have been; others are served meanwhile."""
        loop = self.worker.loop
        tried = False

        def again() -> None:
            nonlocal tried
            if not tried:
                tried = True
                late.cancel()
                self._verify(token, ref, waited=True)

        def read() -> None:
            with contextlib.suppress(RuntimeError):  # a loop that was closed
                loop.call_soon_threadsafe(again)

        late = loop.call_later(settings.JWKS_TIMEOUT_S, again)
        provider.when_read(read)

    def _identify(self, identity: Identity, ref: str | int | None) -> None:
        shut_out = tokens.refusal_of(identity, time.time())
        if shut_out is not None:
            self._shut_out(shut_out, ref)
            return
        if self._place is not None and self.session.state is State.OPENING:
            refusal = self.worker.load.identify(self._place, identity.client)
            if refusal is not None:
                self._too_many(identity.client, refusal.retry_ms, ref)
                return
        if self.session.state is State.OPENING and self._over_limit(identity):
            self._too_many(identity.client, LIMIT_RETRY_MS, ref)
            return
        expires_in_s = None if identity.expires_at_s is None else identity.expires_at_s - time.time()
        self._allowed.clear()
        self._rights += 1
        if self.session.client is None or self.session.client == identity.client:
            self.identity = identity
        self._perform(self.session.identified(identity.client, expires_in_s, ref, time.monotonic(), _time_ms()))
        if self._client is None and self.session.state is State.READY:
            self._client = identity.client
            self._key_id = identity.key_id
            if self._key_id is not None:
                self.worker.by_key[self._key_id] += 1
            logger.debug("Ready.", extra=self._known())
            signals.send(signals.connected, Connection, client=identity.client, connection=self.id)

    def _over_limit(self, identity: Identity) -> bool:
        """Whether an operator's limit lets no further connection of the client, or of the key of its token, in."""
        most = limits.of(identity.client, identity.key_id)
        # `Admission` has counted this one already.
        if most.connections is not None and self.worker.load.admission.clients[identity.client] > most.connections:
            return True
        key_id, of_key = identity.key_id, most.connections_of_key
        return key_id is not None and of_key is not None and self.worker.by_key[key_id] >= of_key

    def _mind_rate(self, channel: ChannelName, error: ProtocolError) -> None:
        """A publish was over a rate. Who waits as long as he is told listens, and may be refused again and again where
        others share the rate. Who is refused ten times as often as served for `OVER_RATE_S` before it was time to ask
        does not, and is closed with 4429."""
        if error.code != "rate_limited":
            return
        now = time.monotonic()
        if self._told_until is None or len(self._told_until) >= REMEMBERED_MOST:
            self._told_until = {}
        early = now < self._told_until.get(channel, now)
        self._told_until[channel] = now + (error.retry_after_ms or 0) / 1000
        if not early:
            return
        if not self._over_refused:
            self._over_since, self._over_served = now, 0
        self._over_refused += 1
        if now - self._over_since < settings.OVER_RATE_S:
            return
        if self._over_refused > OVER_RATE_LEAST + OVER_RATE_TIMES * self._over_served:
            self._close(4429, f"retry_after_ms={error.retry_after_ms or 0}")
        self._over_refused = 0

    def _too_many(self, client: ClientId, retry_ms: int, ref: str | int | None) -> None:
        error = ProtocolError(
            "limit_exceeded",
            f"{client} has as many connections to this worker as one client may have.",
            remedy="Share one connection, or close those that are not needed.",
            retry_after_ms=retry_ms,
        )
        self._perform([session.Send(error.frame(ref)), session.Close(1013, f"retry_after_ms={retry_ms}")])

    def recheck_access(self) -> None:
        """Something was revoked, or somebody was blocked: ends the connection where that concerns it."""
        if self.identity is not None and not self._gone and self.session.state is not State.CLOSED:
            refusal = tokens.refusal_of(self.identity, time.time())
            if refusal is not None:
                self._shut_out(refusal)

    def _shut_out(self, error: ProtocolError, ref: str | int | None = None) -> None:
        if error.code == "forbidden":
            self._perform([session.Send(error.frame(ref)), session.Close(4403, error.message)])
        else:
            self._perform(self.session.refused(error, ref))

    def disconnect(self, client: str, reason: str) -> None:
        if self.identity is not None and self.identity.client == client and self.session.state is not State.CLOSED:
            self._close(4403, reason or "disconnected by an operator")

    def session_ended(self, end: SessionEnd) -> None:
        """Somebody logged out or was changed: ends the connection when it rests on that session."""
        mark = self.identity.session if self.identity is not None else None
        if mark is None or not end.concerns(mark):
            return
        if end.certain:
            self._session_over(False)
        else:
            self.recheck_session()

    def recheck_session(self) -> None:
        """Asks the database whether the session behind the cookie, or the API key, still holds."""
        identity = self.identity
        if identity is None or (identity.session is None and identity.kind != "key"):
            return
        if self._rechecking:
            # What is asked now may have an answer that the read under way has missed.
            self._recheck_again = True
            return
        self._rechecking = True
        self.worker.reader.run(lambda: tokens.still_valid(identity), self._rechecked)

    def _rechecked(self, valid: bool | None) -> None:
        self._rechecking = False
        if self._recheck_again:
            self._recheck_again = False
            self.recheck_session()
        self._session_over(valid)

    def _session_over(self, valid: bool | None) -> None:
        if valid is False and not self._gone:
            error = ProtocolError(
                "unauthorized",
                "The session has ended, or the API key was revoked.",
                remedy="Log in again, or use another key, then reconnect.",
            )
            self._perform(self.session.refused(error))

    # ------------------------------------------------------------------ authorisation

    def _authorize(
        self,
        channel: ChannelName,
        operation: Operation,
        allowed: Callable[[Rules], None],
        refused: Callable[[ProtocolError], None],
        messages: Sequence[NewMessage] | None = None,
    ) -> None:
        """Calls one of the two: at once, unless an application's hook has to be asked. `messages`: of a publish."""
        assert self.identity is not None
        try:
            decision = authorization.decide(self.identity, channel, operation)
        except ProtocolError as error:
            refused(error)
            return
        if not isinstance(decision, NeedsHook):
            allowed(decision)
        elif (channel, operation) in self._allowed and not decision.sees_messages:
            allowed(decision.rules)
        else:
            task = asyncio.ensure_future(self._ask(decision, messages, allowed, refused))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(
        self,
        question: NeedsHook,
        messages: Sequence[NewMessage] | None,
        allowed: Callable[[Rules], None],
        refused: Callable[[ProtocolError], None],
    ) -> None:
        rights = self._rights
        identity, channel, operation = question.identity, question.channel, question.operation
        context = {"messages": messages, "client": identity.client} if question.sees_messages else None
        try:
            rules = await authorization.authorize_async(identity, channel, operation, context)
        except ProtocolError as error:
            if not self._gone:
                refused(error)
            return
        if self._gone:
            return
        if rights == self._rights and not question.sees_messages:
            if len(self._allowed) >= REMEMBERED_MOST:
                self._allowed.clear()
            self._allowed.add((channel, operation))
        allowed(rules)

    def reauthorize(self, channel: ChannelName | None, client: str | None) -> None:
        """Rights may have changed (on one channel, of one client): attachments that are not allowed now end."""
        if self.identity is None or client not in (None, self.identity.client):
            return
        self._allowed = {known for known in self._allowed if channel not in (None, known[0])}
        self._rights += 1
        for name in [name for name in self.subscribers if channel in (None, name)]:
            self._recheck(name)

    def _recheck(self, channel: ChannelName) -> None:
        """Ends an attachment that is not allowed any more."""
        self._authorize(channel, "subscribe", _nothing_more, partial(self._expel, channel))
        if channel in self._follows or channel in self._present_in:
            self._authorize(channel, "presence", _nothing_more, partial(self._withdraw, channel))

    def _withdraw(self, channel: ChannelName, error: ProtocolError) -> None:
        if error.code in ("forbidden", "not_found"):
            self._end_presence(channel)

    def _expel(self, channel: ChannelName, error: ProtocolError) -> None:
        # A hook that could not answer has not said no.
        if error.code in ("forbidden", "not_found") and channel in self.subscribers:
            self._end(channel)
            frame: dict[str, object] = {"type": "detached", "channel": channel, "reason": "forbidden"}
            self._perform(self.session.ended(channel, frame))

    # ------------------------------------------------------------------ publishing

    def _publish(self, effect: session.Publish) -> None:
        if self.name_message is not None:
            self._published_count += 1
            effect = session.Publish(
                effect.op,
                effect.channel,
                tuple(
                    [
                        each if each.id is not None else each.with_id(self.name_message(self._published_count, index))
                        for index, each in enumerate(effect.messages)
                    ]
                ),
                effect.after,
            )
        self._publishing.append(effect)
        self._publish_next()

    def _publish_next(self) -> None:
        """Submits in the client's order: while a hook is asked about one publish, those behind it wait."""
        if self._draining:
            return
        self._draining = True
        while self._publishing and not self._asking:
            effect = self._publishing.pop(0)
            self._asking = True
            self._authorize(
                effect.channel,
                "publish",
                partial(self._submit, effect),
                partial(self._refuse_publish, effect),
                effect.messages,
            )
        self._draining = False

    def _submit(self, effect: session.Publish, rules: Rules) -> None:
        self._asking = False
        assert self.identity is not None
        try:
            if effect.after in self._failed_ops:
                raise ProtocolError("order", channel=effect.channel)
            append = publishing.build(
                self.identity,
                rules,
                effect.channel,
                effect.messages,
                previous=None if effect.after is None else self._appends.get(effect.after),
                tag=self,
            )
            self._appends[effect.op] = append
            self._ops[append] = effect.op
            try:
                self.worker.writer.submit(append)
            except ProtocolError:
                del self._appends[effect.op], self._ops[append]
                raise
        except ProtocolError as error:
            self._refuse_publish(effect, error)
        else:
            self._over_served += 1
            self._publish_next()

    def _refuse_publish(self, effect: session.Publish, error: ProtocolError) -> None:
        self._asking = False
        self._note_failed(effect.op)
        self._failed(effect.op, error, effect.channel)
        self._mind_rate(effect.channel, error)
        self._publish_next()

    def published(self, appends: list[Append]) -> None:
        """Appends of this connection, in order, have their outcomes; the answers go out in one write."""
        self.link.hold()
        try:
            for append in appends:
                self._published(append)
        finally:
            self.link.release()

    def _published(self, append: Append) -> None:
        op = self._ops.pop(append, None)
        if op is None:
            # Nobody waited for it any longer.
            return
        del self._appends[op]
        if self._gone:
            return
        outcome = append.outcome
        if isinstance(outcome, Published):
            answer: dict[str, object] = {
                "channel": outcome.channel,
                "epoch": outcome.epoch,
                "serials": outcome.serials,
                "duplicates": outcome.duplicates,
                "conflicts": outcome.conflicts,
            }
            self._perform(self.session.published(op, answer, time.monotonic(), _time_ms()))
        else:
            self._note_failed(op)
            self._failed(op, outcome or ProtocolError("internal"), append.channel)

    def _note_failed(self, op: int) -> None:
        """For chained publishes that were begun and wait, here or behind a hook; of later ones the session knows."""
        if not (self._publishing or self._asking or self._effects):
            self._failed_ops.clear()
        self._failed_ops.add(op)

    # ------------------------------------------------------------------ signals

    def _signal(self, effect: session.Signal) -> None:
        channel = effect.channel
        if channel in self._asking_signals:
            # While a hook or the log is asked about one signal of a channel, those behind it are not kept.
            self.worker.signalling.counts["dropped"] += 1
            return
        self._asking_signals.add(channel)
        self._authorize(
            channel,
            "signal",
            lambda rules: self._find_channel(effect, rules),
            lambda error: self._refuse_signal(effect, error),
        )

    def _find_channel(self, effect: session.Signal, rules: Rules) -> None:
        """Goes on at once, unless there has to be such a channel and nobody here knows."""
        channel = effect.channel
        if rules.create == "publish" or self.worker.hub.exists(channel):
            self._pass_on(effect, rules)
        elif self._take_signal(effect):
            self.worker.reader.state(channel, lambda state: self._channel_found(effect, rules, state))

    def _channel_found(self, effect: session.Signal, rules: Rules, state: LogState | None) -> None:
        if self._gone:
            return
        if state is None:
            error = ProtocolError("unavailable", "The log cannot be read now.", retry_after_ms=AWAY_RETRY_MS)
            self._refuse_signal(effect, error)
        elif state.channel_id is None:
            self._refuse_signal(effect, ProtocolError("not_found"))
        else:
            self._pass_on(effect, rules, taken=True)

    def _pass_on(self, effect: session.Signal, rules: Rules, *, taken: bool = False) -> None:
        assert self.identity is not None
        channel, frame = effect.channel, effect.frame
        data = encode(frame.data)
        try:
            publishing.check_size(data, "the signal", rules, channel)
        except ProtocolError as error:
            self._refuse_signal(effect, error)
            return
        if taken or self._take_signal(effect):
            self._asking_signals.discard(channel)
            client = self.identity.client
            self.worker.signal(
                Signal(channel, client, frame.event, signal_frame(channel, client, frame.event, data)), self.link
            )

    def _take_signal(self, effect: session.Signal) -> bool:
        """Takes one signal out of this connection's rate; False: it has none left, and the client was told."""
        rate = settings.SIGNALS_PER_S
        if not rate:
            return True
        if self._signal_bucket is None:
            self._signal_bucket = TokenBucket(rate, rate)
        wait_ms = self._signal_bucket.take(1, time.monotonic())
        if wait_ms:
            message = f"A connection may send {rate} signals a second."
            self._refuse_signal(effect, ProtocolError("rate_limited", message, retry_after_ms=wait_ms))
        return not wait_ms

    def _refuse_signal(self, effect: session.Signal, error: ProtocolError) -> None:
        self._asking_signals.discard(effect.channel)
        error.channel = effect.channel
        self._perform([session.Send(error.frame(effect.frame.ref))])

    # ------------------------------------------------------------------ presence

    def _presence(self, effect: session.Presence) -> None:
        self._authorize(
            effect.channel,
            "presence",
            lambda rules: self._declare(effect),
            lambda error: self._failed(effect.op, error, effect.channel),
        )

    def _declare(self, effect: session.Presence) -> None:
        """Enters, updates or leaves. Whoever updates without having entered, enters."""
        assert self.identity is not None
        channel, frame = effect.channel, effect.frame
        key = Key(channel, self.identity.client)

        def done(error: ProtocolError | None) -> None:
            if error is not None and error.code == "limit_exceeded":
                self._present_in = tuple([name for name in self._present_in if name != channel])
            if self._gone:
                return
            if error is not None:
                self._failed(effect.op, error, channel)
            else:
                self._perform(self.session.done(effect.op, {"type": "ok"}, time.monotonic(), _time_ms()))

        if self.reader is not None and frame.action == "leave":
            # Posted: the request by which it is present is another, perhaps at another worker.
            self.worker.presence.leave_everywhere(key, self.reader, done)
            return
        try:
            data = self._presence_data(channel, frame.data)
        except ProtocolError as error:
            self._failed(effect.op, error, channel)
            return
        if frame.action == "leave":
            self._present_in = tuple([name for name in self._present_in if name != channel])
            self.worker.presence.leave(key, self.id, done)
        else:
            if channel not in self._present_in:
                self._present_in = (*self._present_in, channel)
            self.worker.presence.enter(key, self.id, data, done)

    def _presence_data(self, channel: ChannelName, data: object) -> str:
        """The text of a member's data. ProtocolError where the connection cannot enter with it."""
        if channel not in self.subscribers:
            raise ProtocolError(
                "not_attached",
                "A connection is present in channels that it is attached to.",
                remedy="Attach first; over HTTP say `enter` in the list that is attached.",
                channel=channel,
            )
        self._take_presence()
        text = encode(data)
        if size_bytes(text) > settings.PRESENCE_DATA_BYTES:
            raise ProtocolError(
                "too_large",
                f"The data of a member has at most {settings.PRESENCE_DATA_BYTES} bytes.",
                remedy="Send less; what is larger belongs into a message.",
                channel=channel,
            )
        return text

    def enter_by_list(
        self,
        channel: ChannelName,
        data: object,
        at: int | None,
        done: Callable[[ProtocolError | None, int], None],
    ) -> None:
        """Its request says that the client is present in a channel, which is attached: anew, or as it said before, at
        the time `at`. `done` hears the error, or the time. `reader` has to be known."""

        def enter(rules: Rules) -> None:
            assert self.identity is not None and self.reader is not None
            key = Key(channel, self.identity.client)
            try:
                text = self._presence_data(channel, data)
            except ProtocolError as error:
                done(error, 0)
                return
            if channel not in self._present_in:
                self._present_in = (*self._present_in, channel)
            if at is None:
                entered_at = self.worker.presence.enter(key, self.reader, text, lambda error: done(error, entered_at))
            else:
                self.worker.presence.enter_again(key, self.reader, text, at, lambda error: done(error, at))
            self.worker.presence.membership.carry(key, self.reader, self.id)

        self._authorize(channel, "presence", enter, lambda error: done(error, 0))

    def _take_presence(self) -> None:
        rate = settings.PRESENCE_PER_S
        if not rate:
            return
        if self._presence_bucket is None:
            self._presence_bucket = TokenBucket(rate, rate)
        wait_ms = self._presence_bucket.take(1, time.monotonic())
        if wait_ms:
            message = f"A connection may send {rate} presence frames a second."
            raise ProtocolError("rate_limited", message, retry_after_ms=wait_ms)

    def _follow_presence(self, channel: ChannelName) -> None:
        self._unfollow_presence(channel)
        self._follows = (*self._follows, channel)
        mark = None if self.member_marks is None else self.member_marks.get(channel, "")
        self.worker.presence.follow(channel, self.link, mark)

    def _unfollow_presence(self, channel: ChannelName) -> None:
        if channel in self._follows:
            self._follows = tuple([name for name in self._follows if name != channel])
            self.worker.presence.unfollow(channel, self.link)

    def _end_presence(self, channel: ChannelName) -> None:
        """The attachment has ended, or the right: the client leaves, and is told nothing more."""
        self._unfollow_presence(channel)
        if channel in self._present_in and self.identity is not None:
            self._present_in = tuple([name for name in self._present_in if name != channel])
            self.worker.presence.leave(Key(channel, self.identity.client), self.reader or self.id)

    def _drop_presence(self) -> None:
        """The connection has ended, for whatever reason: its client may be back in a moment."""
        for channel in self._follows:
            self.worker.presence.unfollow(channel, self.link)
        for channel in self._present_in:
            if self.identity is not None and self.reader is not None:
                self.worker.presence.release(Key(channel, self.identity.client), self.reader, self.id)
            elif self.identity is not None:
                self.worker.presence.drop(Key(channel, self.identity.client), self.id)
        self._follows = self._present_in = ()

    # ------------------------------------------------------------------ attachments

    def _attach(self, effect: session.Attach) -> None:
        rights = self._rights

        def refused(error: ProtocolError) -> None:
            self._failed(effect.op, error, effect.channel)

        def allowed(rules: Rules) -> None:
            self._attach_position(effect, rules, rights)

        def subscribes(rules: Rules) -> None:
            if effect.frame.presence:
                self._authorize(effect.channel, "presence", allowed, refused)
            else:
                allowed(rules)

        self._authorize(effect.channel, "subscribe", subscribes, refused)

    def _attach_position(self, effect: session.Attach, rules: Rules, rights: int) -> None:
        frame = effect.frame
        try:
            position: positions.From = (
                positions.Head() if frame.from_ is msgspec.UNSET else positions.parse_from(frame.from_)
            )
            if isinstance(position, positions.Cursor) and frame.window == 0:
                raise ProtocolError(
                    "bad_position",
                    "A cursor moves by acks, and a window of 0 has none.",
                    remedy="Leave `window` out, or keep the position in the client and attach from it.",
                    channel=effect.channel,
                )
        except ProtocolError as error:
            self._failed(effect.op, error, effect.channel)
            return
        if positions.needs_history(position):
            self._authorize(
                effect.channel,
                "history",
                lambda rules: self._join(effect, rules, rights, position),
                lambda error: self._failed(effect.op, error, effect.channel),
            )
        else:
            self._join(effect, rules, rights, position)

    def _join(self, effect: session.Attach, rules: Rules, rights: int, position: positions.From) -> None:
        assert self.identity is not None
        try:
            budgets.check(self.identity.client, effect.channel)
            self._admit(effect.channel)
        except ProtocolError as error:
            self._failed(effect.op, error, effect.channel)
            return
        asked = effect.frame.window
        window = min(rules.window_default if asked is None else asked, rules.window_max)
        # Each poll is an attach, and what is sent first on one is whole, which is longer than plain data.
        deltas = rules.delta and effect.frame.delta == "fossil" and self.transport != "poll"
        attaching = Attaching(
            effect.channel,
            position,
            window,
            max(1, window // 2),
            rules.ack_ms,
            rules.key_limit,
            self.identity.client,
            deltas,
        )
        self._joining[effect.op] = self.worker.hub.attach(
            attaching,
            self.link,
            lambda subscriber, answer: self._joined(effect, rules, rights, subscriber, answer),
            lambda code: self._ended_by_hub(effect.channel, code),
        )

    def _admit(self, channel: ChannelName) -> None:
        """ProtocolError `limit_exceeded` where the connection has as many attachments as it may."""
        assert self.identity is not None
        most = limits.of(self.identity.client, self.identity.key_id, namespace_of(channel)).attachments
        attached = self.session.attachments
        if most is not None and channel not in attached and len(attached) >= most:
            raise ProtocolError(
                "limit_exceeded",
                f"This connection has {len(attached)} attachments; an operator allows {most}.",
                remedy="Detach from a channel first.",
                channel=channel,
            )
        self.session.admit(channel)

    def _joined(
        self, effect: session.Attach, rules: Rules, rights: int, subscriber: Subscriber, answer: Answer
    ) -> None:
        del self._joining[effect.op]
        channel = effect.channel
        error = None
        if isinstance(answer, ProtocolError):
            error = answer
        elif answer is None:
            error = ProtocolError("unavailable", "The log cannot be read now.", retry_after_ms=AWAY_RETRY_MS)
        elif rules.create != "publish" and not answer.exists:
            error = ProtocolError("not_found", channel=channel)
        if not isinstance(answer, Attached) or error is not None:
            self.worker.hub.detach(subscriber)
            self._failed(effect.op, error or ProtocolError("internal"), channel)
            return
        # Attaching again moves the attachment: the old one ends here, and nothing is said about it.
        before = self.subscribers.get(channel)
        if before is not None:
            self.worker.hub.detach(before)
        self.subscribers[channel] = subscriber
        snapshot = subscriber.snapshot
        budgets.charge(
            subscriber.attaching.client,
            budgets.ATTACH_BYTES + (0 if snapshot is None else sum([len(frame) for frame in snapshot])),
        )
        self._perform(self.session.attached(effect.op, answer.frame, time.monotonic(), _time_ms()))
        if self.subscribers.get(channel) is not subscriber:
            # A frame that waited behind this one has detached it again: nothing more of the channel may come.
            return
        if answer.skipped is not None:
            self.link.send(answer.skipped)
        self.worker.hub.begin(subscriber)
        if effect.frame.presence:
            self._follow_presence(channel)
        else:
            self._unfollow_presence(channel)
        if rights != self._rights:
            self._recheck(channel)

    def _end(self, channel: ChannelName) -> None:
        subscriber = self.subscribers.pop(channel, None)
        if subscriber is not None:
            self._end_presence(channel)
            self.worker.hub.detach(subscriber)

    def _ended_by_hub(self, channel: ChannelName, code: str) -> None:
        self.subscribers.pop(channel, None)
        self._end_presence(channel)
        self._perform(self.session.ended(channel, {"type": "detached", "channel": channel, "reason": code}))

    def _ack(self, serials: dict[str, int]) -> None:
        for name, serial in serials.items():
            subscriber = self.subscribers.get(cast("ChannelName", name))
            if subscriber is not None and not self.worker.hub.ack(subscriber, serial):
                self.link.send(
                    ProtocolError(
                        "bad_ack", f"Serial {serial} was never sent on this attachment.", channel=name
                    ).frame()
                )

    # ------------------------------------------------------------------ history

    def _history(self, effect: session.History) -> None:
        self._authorize(
            effect.channel,
            "history",
            lambda rules: self._read_page(effect, rules),
            lambda error: self._failed(effect.op, error, effect.channel),
        )

    def _read_page(self, effect: session.History, rules: Rules) -> None:
        frame = effect.frame
        assert self.identity is not None
        try:
            budgets.check(self.identity.client, effect.channel)
        except ProtocolError as error:
            self._failed(effect.op, error, effect.channel)
            return
        self.worker.reader.page(
            effect.channel,
            frame.before,
            frame.after,
            HISTORY_DEFAULT if frame.limit is None else frame.limit,
            lambda page: self._page_read(effect, page),
        )

    def _page_read(self, effect: session.History, page: Page | None) -> None:
        if self._gone:
            return
        if page is None:
            error = ProtocolError("unavailable", "The log cannot be read now.", retry_after_ms=AWAY_RETRY_MS)
            self._failed(effect.op, error, effect.channel)
            return
        assert self.identity is not None
        budgets.charge(self.identity.client, sum([len(envelope) for envelope in page.messages]))
        answer: dict[str, object] = {
            "type": "history",
            "channel": effect.channel,
            "epoch": page.epoch,
            "oldest": page.oldest,
            "head": page.head,
            # Spliced as they are stored: nobody parses a page on its way.
            "messages": [msgspec.Raw(envelope.encode()) for envelope in page.messages],
            "more": page.more,
        }
        if page.skipped is not None:
            answer["skipped"] = {
                "from": page.skipped.first,
                "to": page.skipped.last,
                "reason": page.skipped.reason,
            }
        self._perform(self.session.done(effect.op, answer, time.monotonic(), _time_ms()))

    def announce(self, data: Mapping[str, object]) -> None:
        """What an operator says to everybody: to those who are served, as a signal of a channel that has no others."""
        if self.session.state is State.READY:
            self.link.send(
                {"type": "signal", "channel": EVERYBODY, "client": None, "event": "announcement", "data": data}
            )

    def leave(self) -> None:
        """The worker drains: reads no further, and goes with a hint when its publishes are answered."""
        if self._leaving:
            return
        self._read_no_further()
        if self._appends or self._publishing:
            return
        self._leaving = True
        if self.session.state is State.READY:
            after_ms = secrets.randbelow(RECONNECT_SPREAD_MS)
            self.link.send({"type": "reconnect", "after_ms": after_ms, "reason": "drain"})
        # The client's close frame has to be read.
        self.link.resume_reading()
        self._close(1012, "drain")

    def give_up(self) -> None:
        """The database has not answered in time: what becomes of its publishes, nobody knows."""
        waiting, self._publishing = self._publishing, []
        ops = [(op, append.channel) for append, op in self._ops.items()]
        self._ops.clear()
        self._appends.clear()
        for op, channel in [*ops, *((effect.op, effect.channel) for effect in waiting)]:
            self._failed(op, ProtocolError("unavailable", retry_after_ms=AWAY_RETRY_MS), channel)
        self.leave()

    def abort(self) -> None:
        """The time to leave is over."""
        self.link.abort()

    @property
    def idle_since(self) -> float | None:
        """Since when the client sends nothing, in monotonic seconds; None: it has to stay, or goes already."""
        waits = self._appends or self._publishing or self._joining
        return None if waits or self.session.state is State.CLOSED else self.session.spoke_at

    def shed(self, retry_ms: int) -> None:
        """The worker has too much to do: the client is asked to come back later."""
        self._close(1013, f"retry_after_ms={retry_ms}")

    # ------------------------------------------------------------------ liveness

    def _congested(self) -> None:
        # Who asks and does not read must not fill our memory with answers, nor with pongs.
        self.session.hold()
        self._read_no_further()
        for subscriber in self.subscribers.values():
            self.worker.hub.pause(subscriber)

    def _drained(self) -> None:
        for subscriber in list(self.subscribers.values()):
            self.worker.signalling.drained(subscriber)
            self.worker.hub.drained(subscriber)
        for channel in self._follows:
            self.worker.presence.drained(channel, self.link)
        self._perform(self.session.release(time.monotonic(), _time_ms()))

    def _rewire(self) -> None:
        self._look_soon()
        for subscriber in self.subscribers.values():
            self.worker.hub.rewire(subscriber)

    def pulse(self, now: float) -> None:
        """Looks after the connection, when something may be due: deadlines, heartbeat, dead sockets (§8)."""
        if now < self.look_at:
            return
        deadline = self.session.deadline
        if deadline is not None and now >= deadline:
            self._perform(self.session.wake(now))
            deadline = self.session.deadline
        heartbeat_s = settings.HEARTBEAT_MS / 1000
        # Most connections are silent most of the time; what makes something due sooner comes through `_perform`, and
        # that something begins to wait through `_rewire`, where the link can tell.
        look_at = now + (heartbeat_s if self.link.is_watched else heartbeat_s / 4)
        if deadline is not None:
            look_at = min(look_at, deadline)
        if self.session.state is State.READY:
            sent_at = max([self.link.sent_at, *map(self.worker.hub.sent_at, self.subscribers.values())])
            if now - sent_at >= heartbeat_s:
                self.worker.counts.heartbeats += 1
                self.link.send({"type": "heartbeat"})
            else:
                look_at = min(look_at, sent_at + heartbeat_s)
        if self._pinged_at is not None:
            if now - self._pinged_at > PING_ANSWER_S:
                self._close_code = self._close_code or ABNORMAL
                self.link.abort()
        elif now - self.heard_at >= 2 * heartbeat_s and self.link.ping():
            self.worker.counts.pings += 1
            self._pinged_at = now
        elif now - self.heard_at < 2 * heartbeat_s:
            look_at = min(look_at, self.heard_at + 2 * heartbeat_s)
        self._count_bytes()
        waiting, moved = self.link.waiting_bytes, self.link.moved_bytes
        if not waiting or moved != self._moved[0]:
            # What begins to wait stands still from the first look that sees it.
            self._moved = (moved if waiting else -1, now)
        elif now - self._moved[1] > 2 * heartbeat_s:
            # The close frame waits behind what the socket does not take; the closing handshake's limit ends it.
            self._close(4410, "slow")
        self.look_at = now if waiting or self._pinged_at is not None else look_at


def known_close_code(code: int | None) -> int:
    """The code, where the tables know it; a client may send any, and each one counted is a time series."""
    if code is None or code == ABNORMAL:
        return ABNORMAL
    return code if code in CLOSES or 1000 <= code <= 1013 else OTHER_CODE


def _nobody() -> None:
    """Hears what a link tells when its connection is gone."""


def _nothing_more(rules: Rules) -> None:
    """It is still allowed."""


def _time_ms() -> int:
    return int(time.time() * 1000)


def _session_settings(worker: Worker, speaks: bool) -> SessionSettings:
    return SessionSettings(
        heartbeat_ms=settings.HEARTBEAT_MS,
        max_frame_bytes=settings.MAX_FRAME_BYTES,
        max_message_bytes=settings.MAX_MESSAGE_BYTES,
        max_attachments=settings.MAX_ATTACHMENTS,
        auth_timeout_s=settings.AUTH_TIMEOUT_MS / 1000,
        leeway_s=settings.TOKEN_LEEWAY_S,
        idle_s=settings.IDLE_MS / 1000 if speaks else 0.0,
        publishes_most=settings.INFLIGHT_PUBLISHES_MAX,
        backlog_most=settings.BACKLOG_FRAMES,
        backlog_bytes=settings.BACKLOG_BYTES,
        worker=worker.name,
    )
