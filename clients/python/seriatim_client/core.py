"""The client without its sockets: one line to the server, kept through every loss of it, and the channels on it. Pure.

No socket, no clock, no chance: the shell says what happens and when, and performs what `take_effects` gives after
every call. Time is told as Unix milliseconds that never step back; `next_at_ms` says when to call `tick`. Connections
are never repaired: the next one is dialled when the last one ended, and the close code decides how (codes.py). The
states and which may follow which are the table in line_state.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, assert_never

from seriatim_client.attachment import Attachment, ChannelState, Step
from seriatim_client.backoff import Backoff, BackoffOptions, Random
from seriatim_client.clock import Clock, Timer
from seriatim_client.codes import meant_code, reconnect_after, retry_after_ms
from seriatim_client.connection import NOTHING_CAME, Connection, OnAnswer
from seriatim_client.data import to_json
from seriatim_client.effects import (
    Dial,
    Effect,
    Fail,
    FetchToken,
    Hangup,
    Recovered,
    Report,
    RoomMade,
    Send,
    Settle,
    Tell,
    TokenReason,
    TryBest,
)
from seriatim_client.errors import SeriatimError
from seriatim_client.frames import (
    Answer,
    Attached,
    Authenticated,
    AuthExpiring,
    Detached,
    ErrorFrame,
    Heartbeat,
    HistoryFrame,
    MessageFrame,
    PresenceFrame,
    PublishedFrame,
    Ready,
    Reconnect,
    ServerFrame,
    Signal,
    Skipped,
    SnapshotEnd,
)
from seriatim_client.ids import IdMaker
from seriatim_client.latency import Latency
from seriatim_client.line_state import GIVEN_UP, TRANSITIONS, UP, Line, State
from seriatim_client.messages import HistoryPage, Published
from seriatim_client.names import check_channel, is_event
from seriatim_client.outbox import Outbox, OutboxLimits, Unsent
from seriatim_client.positions import From, Position
from seriatim_client.presence import PresenceAction, PresenceMembers
from seriatim_client.transport_choice import TransportChoice, TransportName

GOOD_AFTER_MS: Final = 10_000
"""A connection that was ready for so long was a good one: the next backoff starts anew."""
TOKEN_KEPT_MS: Final = 60_000
"""How long a token without a known end is used again."""
TOKEN_MARGIN_MS: Final = 60_000
"""A token this near its end is not used for a new connection."""
TOKEN_AGAIN_MS: Final = 5_000
"""How soon a token function that failed is called again while the old token still holds."""
MOVE_GRACE_MS: Final = 5_000
"""How long a worker that said it leaves may take to close before we leave it."""
SENT_WITHIN_MS: Final = 3_000
"""How long the account of a recovery waits for our own messages to be stored."""
OTHER_WITHIN_MS: Final = 500
"""How soon another transport is tried when one does not get through."""
MEASURE_MS: Final = 2_000
"""How often a line whose answers are late is measured."""
MOST_ASKS: Final = 5
"""How often a question is asked again when the server says that it may be."""


@dataclass(frozen=True, slots=True)
class CoreOptions:
    backoff: BackoffOptions = field(default_factory=BackoffOptions)
    outbox: OutboxLimits = field(default_factory=OutboxLimits)
    transports: tuple[TransportName, ...] = ("websocket", "streaming", "polling")
    """The best first. The next is tried where one does not get through, and the best again in the background."""


@dataclass(slots=True, eq=False)
class _Question:
    """A request that is asked again on the next connection when the line is lost."""

    handle: object
    frame: dict[str, Any]
    backoff: Backoff
    timer: Timer
    is_asked: bool = False


@dataclass(slots=True, eq=False)
class _Here:
    """Presence in one channel: ours and everybody's."""

    members: PresenceMembers = field(default_factory=PresenceMembers)
    entered: str | None = None
    """Our data as JSON, while we have entered."""
    waiting: list[object] = field(default_factory=list)
    """Handles that are settled by the server's next word about it."""


class Core:
    """After every call perform `take_effects()`, in order, then `tick` at `next_at_ms`."""

    def __init__(self, random: Random, now_ms: float, options: CoreOptions | None = None) -> None:
        options = options or CoreOptions()
        self.random = random
        self.backoff = options.backoff
        self.clock = Clock(now_ms)
        self._effects: list[Effect] = []
        self._ids = IdMaker(random)
        self._outbox = Outbox(self.clock, random, options.outbox, self)
        self._attachments: dict[str, Attachment] = {}
        """In the order of their making, which is the order of attaching."""
        self._here: dict[str, _Here] = {}
        """By channel, as `_attachments`."""
        self._questions: dict[int, _Question] = {}

        self.state = State(Line.CLOSED, now_ms, reason="not connected yet")
        self.given_up: SeriatimError | None = None
        """Why nothing will come any more, until `connect`."""
        self._connection: Connection | None = None
        self._try_number = 0
        """Counts tries: what an older one still brings is void."""
        self._attempt = 0
        self._reconnect_backoff = Backoff(self.backoff, random)
        self._retry_timer = self.clock.timer(lambda late_ms: self._open())
        self._measure_timer = self.clock.timer(lambda late_ms: self._measure())
        self._token_timer = self.clock.timer(lambda late_ms: self._renew())
        self._move_timer = self.clock.timer(lambda late_ms: self._leave_worker())
        self._recovered_timer = self.clock.timer(lambda late_ms: self._tell_recovered())
        self._upgrade_timer = self.clock.timer(lambda late_ms: self._try_best())
        self._choice = TransportChoice(options.transports)
        self.transport = self._choice.current
        """Of the current connection, or of the last one."""
        self._latency = Latency()
        self.ready: Ready | None = None
        self._ready_at_ms: float | None = None
        self._is_opening = False
        """While a channel that is attached with this connection is not answered, the line is connecting."""
        self._move_at_ms: float | None = None
        self._last_error: ErrorFrame | None = None
        """The last error about the connection itself: it explains the close behind it."""

        self._token: str | None = None
        self._token_kept_until_ms = -inf
        self._token_ends_at_ms: float | None = None
        self._is_fetching = False
        self._refusals = 0
        """Refusals of credentials in a row, without a good connection between."""

        self._received = self._sent = self._skipped = 0
        self._away_ms = 0.0
        self._owes_recovered = False

    # -- the shell's side --------------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    @property
    def next_at_ms(self) -> float | None:
        return self.clock.next_at_ms

    def tick(self, now_ms: float) -> None:
        """Time has come to `now_ms`."""
        self.clock.tell(now_ms)
        self.clock.run_due()

    def token_given(self, try_number: int, token: str | None, now_ms: float) -> None:
        """The answer to `FetchToken`. None: connect without credentials."""
        self.clock.tell(now_ms)
        if try_number != self._try_number or not self._is_fetching:
            return
        self._is_fetching = False
        if self._connection is None:
            self._token = token
            self._token_kept_until_ms = self.clock.now_ms + TOKEN_KEPT_MS
            self._dial()
        # The same again would only be told again that it expires.
        elif self._connection.is_ready and token is not None and token != self._token:
            self._token = token
            self._token_kept_until_ms = self.clock.now_ms + TOKEN_KEPT_MS
            self._connection.request({"type": "auth", "token": token}, self._authenticated)

    def token_failed(self, try_number: int, signed_out: bool, text: str, now_ms: float) -> None:
        """The answer to `FetchToken`. `signed_out`: nobody is; anything else is a try that failed."""
        self.clock.tell(now_ms)
        if try_number != self._try_number or not self._is_fetching:
            return
        self._is_fetching = False
        self.emit(Tell(Report(SeriatimError("token", text))))
        if self._connection is not None:
            ends_at_ms = self._token_ends_at_ms
            if not signed_out and ends_at_ms is not None and self.clock.now_ms < ends_at_ms:
                self._token_timer.set(TOKEN_AGAIN_MS)
        elif signed_out:
            self._end(Line.SIGNED_OUT, text)
        else:
            self._retry(self._reconnect_backoff.next_ms(), Line.OFFLINE, reason=f"no token could be had: {text}")

    def opened(self, try_number: int, now_ms: float) -> None:
        self.clock.tell(now_ms)
        if try_number == self._try_number and self._connection is not None:
            self._connection.opened()

    def received(self, try_number: int, text: str, now_ms: float) -> None:
        self.clock.tell(now_ms)
        if try_number == self._try_number and self._connection is not None:
            self._connection.received(text)

    def lost(self, try_number: int, code: int, reason: str, now_ms: float) -> None:
        """The connection ended; 1006 when no close frame said a code."""
        self.clock.tell(now_ms)
        if try_number == self._try_number and self._connection is not None:
            self._connection.lost(code, reason)

    def refused(self, try_number: int, status: int, wait_ms: int | None, now_ms: float) -> None:
        """The handshake was answered with an HTTP status; `wait_ms` is its `Retry-After`."""
        self.clock.tell(now_ms)
        if try_number != self._try_number or self._connection is None:
            return
        reason = f"the handshake was refused with HTTP {status}"
        if status == 401:
            self._connection.lost(4401, reason)
        elif wait_ms is not None or status in (429, 503):
            self._connection.lost(1013, reason if wait_ms is None else f"{reason}; retry_after_ms={wait_ms}")
        else:
            self._connection.lost(1006, reason)

    # -- the application's side --------------------------------------------------------------------------------------

    def connect(self, now_ms: float) -> None:
        """Connects, and stays connected until `close`. Also begins anew after `signed_out` and `stopped`."""
        self.clock.tell(now_ms)
        if self.state.name not in GIVEN_UP:
            return
        self.given_up = None
        self._refusals = 0
        self._token_kept_until_ms = -inf
        self._attempt = 0
        self._reconnect_backoff.reset()
        self._open()

    def close(self, now_ms: float) -> None:
        """Ends the connection and the tries for another. What is not stored yet fails with `closed`."""
        self.clock.tell(now_ms)
        error = SeriatimError("closed")
        if self.state.name is Line.CLOSED:
            self._give_up(error, True)
            return
        self.send_acks()
        self._drop(1000, "closed by the client")
        self._try_number += 1
        self._is_fetching = False
        self._end(Line.CLOSED, "closed by the client", is_own=True)

    def retry_now(self, now_ms: float) -> None:
        """Tries now what would be tried later."""
        self.clock.tell(now_ms)
        name = self.state.name
        if name in (Line.OFFLINE, Line.WAITING) or (name is Line.MOVING and self._connection is None):
            self._open()
        elif name in (Line.SIGNED_OUT, Line.STOPPED):
            self.connect(now_ms)

    def channel(
        self,
        name: str,
        from_: From | None = None,
        window: int | None = None,
        presence: bool | None = None,
        delta: bool | None = None,
    ) -> None:
        """Makes the channel known, and sets what later attaches begin with. Raises `bad_channel`."""
        if name not in self._attachments:
            self._attachments[check_channel(name)] = Attachment(name, self)
            self._here[name] = _Here()
        self._attachments[name].configure(from_, window, presence, delta)

    def attach(self, handle: object, name: str, from_: From | None, now_ms: float) -> None:
        self.clock.tell(now_ms)
        if self.given_up:
            self.emit(Fail(handle, self.given_up))
        else:
            self._attachments[name].attach(handle, from_)

    def want(self, name: str, now_ms: float) -> None:
        """Attaches, if the channel is not followed yet."""
        self.clock.tell(now_ms)
        if not self.given_up:
            self._attachments[name].want()

    def detach(self, name: str, now_ms: float) -> None:
        self.clock.tell(now_ms)
        self._attachments[name].unwant()

    def next_step(self, name: str, now_ms: float) -> Step | None:
        """See `Attachment.next_step`."""
        self.clock.tell(now_ms)
        return self._attachments[name].next_step()

    def settle(self, name: str, processed: bool, now_ms: float) -> None:
        """See `Attachment.settle`."""
        self.clock.tell(now_ms)
        self._attachments[name].settle(processed)

    def processed_through(self, name: str, serial: int, now_ms: float) -> None:
        self.clock.tell(now_ms)
        self._attachments[name].processed_through(serial)

    def load_with(self, handle: object, name: str, now_ms: float) -> None:
        self.clock.tell(now_ms)
        if self.given_up:
            self.emit(Fail(handle, self.given_up))
        else:
            self._attachments[name].load_with(handle)

    def loaded(self, name: str, through: int | Position | None, now_ms: float) -> None:
        self.clock.tell(now_ms)
        self._attachments[name].loaded(through)

    def load_failed(self, name: str, text: str, now_ms: float) -> None:
        self.clock.tell(now_ms)
        self._attachments[name].load_failed(text)

    def publish(
        self, handle: object, channel: str, id: str | None, event: str, key: str | None, data: Any, now_ms: float
    ) -> str:
        """Queues a message and gives its id. The handle is settled with `Published`. Raises what cannot be sent."""
        self.clock.tell(now_ms)
        if self.given_up:
            raise self.given_up
        id = self._ids.make(self.clock.now_ms) if id is None else id
        self._outbox.add(handle, check_channel(channel), id, event, key, to_json(data))
        self._wake_line()
        return id

    def discard(self, handle: object, now_ms: float) -> bool:
        """Takes back a message that was never sent."""
        self.clock.tell(now_ms)
        return self._outbox.discard(handle)

    def history(
        self, handle: object, channel: str, before: int | None, after: int | None, limit: int | None, now_ms: float
    ) -> None:
        """Asks for a page, again on the next connection if need be. The handle is settled with `HistoryPage`."""
        self.clock.tell(now_ms)
        if self.given_up:
            self.emit(Fail(handle, self.given_up))
            return
        asked = {"before": before, "after": after, "limit": limit}
        frame: dict[str, Any] = {"type": "history", "channel": check_channel(channel)}
        frame |= {name: value for name, value in asked.items() if value is not None}

        question = _Question(
            handle,
            frame,
            Backoff(self.backoff, self.random),
            self.clock.timer(lambda late_ms: self._put(question)),
        )
        self._questions[id(handle)] = question
        self._wake_line()
        self._put(question)

    def forget(self, handle: object) -> None:
        """Nobody waits for the answer any more."""
        question = self._questions.pop(id(handle), None)
        if question is not None:
            question.timer.clear()

    def signal(self, channel: str, event: str, data: Any, now_ms: float) -> bool:
        """Sends what is worth nothing later; false, and nothing sent, while there is no connection."""
        self.clock.tell(now_ms)
        if not is_event(event):
            raise SeriatimError("bad_frame", "`event` is not 1 to 64 characters.", channel=channel)
        text = to_json(data)
        check_channel(channel)
        if self._connection is None or not self._connection.is_ready:
            return False
        self._connection.send({"type": "signal", "channel": channel, "event": event}, f'"data":{text}')
        return True

    def presence(self, handle: object, channel: str, action: PresenceAction, data: Any, now_ms: float) -> None:
        """Enters, changes or leaves; the handle is settled when the server has said so. Who has entered enters again at
        each attach, by itself."""
        self.clock.tell(now_ms)
        text = to_json(data)
        here = self._here[check_channel(channel)]
        if self.given_up:
            self.emit(Fail(handle, self.given_up))
            return
        here.entered = None if action == "leave" else text
        here.waiting.append(handle)
        if self._attachments[channel].state == "attached" and self.is_up():
            self._declare(channel, action, text)
        elif action == "leave" or not self._attachments[channel].is_wanted:
            # While the line is away there is nothing to leave: the server sees to that by itself.
            self._attend(channel, None if action == "leave" else SeriatimError("not_attached", channel=channel))

    def members(self, channel: str) -> PresenceMembers:
        return self._here[channel].members

    def _declare(self, channel: str, action: PresenceAction, text: str) -> None:
        handles, here = list(self._here[channel].waiting), self._here[channel]

        def answered(answer: ServerFrame) -> None:
            error = answer.error() if isinstance(answer, ErrorFrame) else None
            if error is not None and not error.retry and here.entered == text:
                here.entered = None
            mine = [handle for handle in here.waiting if handle in handles]
            here.waiting = [handle for handle in here.waiting if handle not in handles]
            for handle in mine:
                self.emit(Settle(handle, None) if error is None else Fail(handle, error))
            if error is not None and not mine:
                self.emit(Tell(Report(error, channel)))

        self.request({"type": "presence", "channel": channel, "action": action}, answered, f'"data":{text}')

    def _attend(self, channel: str, error: SeriatimError | None) -> None:
        """Answers all who wait for the server's word about who we are there."""
        here = self._here[channel]
        handles, here.waiting = here.waiting, []
        if error is not None:
            here.entered = None
        for handle in handles:
            self.emit(Settle(handle, None) if error is None else Fail(handle, error))

    def _presence_came(self, frame: PresenceFrame) -> None:
        here = self._here.get(frame.channel)
        if here is None:
            return
        outcome = here.members.apply(frame)
        if outcome == "changed":
            self.emit(Tell(frame))
        elif outcome == "gap":
            self._attachments[frame.channel].attach_again()

    def attached(self, name: str) -> None:
        here = self._here[name]
        if here.entered is not None:
            self._declare(name, "enter", here.entered)
        else:
            self._attend(name, None)

    def detached(self, name: str, error: SeriatimError) -> None:
        self._here[name].members.forget()
        self._attend(name, error)

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def latency_ms(self) -> float | None:
        return self._latency.ms

    @property
    def behind(self) -> int:
        return sum(each.behind for each in self._attachments.values() if each.is_wanted)

    @property
    def unsent_count(self) -> int:
        return self._outbox.size

    @property
    def has_room(self) -> bool:
        return self._outbox.has_room

    def unsent(self) -> list[Unsent]:
        return self._outbox.entries()

    def position(self, name: str) -> Position | None:
        return self._attachments[name].position

    def channel_state(self, name: str) -> tuple[ChannelState, str]:
        attachment = self._attachments[name]
        return attachment.state, attachment.reason

    def channel_head(self, name: str) -> int:
        return self._attachments[name].head

    def channel_behind(self, name: str) -> int:
        return self._attachments[name].behind

    # -- what parts of the core need of it ---------------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def is_up(self) -> bool:
        return self._connection is not None and self._connection.is_ready

    def request(self, frame: dict[str, Any], on_answer: OnAnswer, raw: str = "") -> None:
        if self._connection is not None:
            self._connection.request(frame, on_answer, raw)

    def send_acks(self) -> None:
        if self._connection is None or not self._connection.is_ready:
            return
        serials = self.take_acks()
        if serials is not None:
            self._connection.send({"type": "ack", "serials": serials})

    def take_acks(self) -> dict[str, int] | None:
        acks = {name: each.take_ack() for name, each in self._attachments.items()}
        return {name: serial for name, serial in acks.items() if serial is not None} or None

    def changed(self) -> None:
        self._put_right()
        if self.state.name is Line.OFFLINE and self._is_needed():
            self._wake_line()

    def counted(self, received: int, skipped: int) -> None:
        self._received += received
        self._skipped += skipped

    def stored(self, handle: object, receipt: Published) -> None:
        self._sent += 1
        self.emit(Settle(handle, receipt))
        self._outbox_shrank()

    def failed(self, handle: object, error: SeriatimError) -> None:
        self.emit(Fail(handle, error))
        self._outbox_shrank()

    def _outbox_shrank(self) -> None:
        self.emit(RoomMade())
        if self._outbox.size == 0:
            self._tell_recovered()

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._drop(1000, "replaced")
        self._try_number += 1
        self._attempt += 1
        self._ready_at_ms = None
        self._enter(Line.CONNECTING, attempt=self._attempt)
        if self._refusals == 0 and self.clock.now_ms < self._token_kept_until_ms:
            self._dial()
        else:
            self._fetch("unauthorized" if self._refusals else "connect")

    def _fetch(self, reason: TokenReason) -> None:
        self._is_fetching = True
        self._token_kept_until_ms = -inf
        self.emit(FetchToken(self._try_number, reason))

    def _dial(self) -> None:
        self._connection = Connection(self.clock, self, self._token)
        self.transport = self._choice.current
        self.emit(Dial(self._try_number, self._connection.header_token, self.transport))

    def _set_upgrade(self) -> None:
        # What is left for something else than a WebSocket stays left.
        if self.transport != self._choice.best == "websocket":
            self._upgrade_timer.set(self._choice.upgrade_ms)

    def _try_best(self) -> None:
        """Beside the connection in use. When the best stands, the next connection is its own, and the channels resume
        on it from where they are."""
        if self._connection is not None and self._connection.is_ready:
            self.emit(TryBest(self._try_number, self._connection.header_token))

    def best_tried(self, try_number: int, works: bool, now_ms: float) -> None:
        """The best transport became ready, or did not."""
        self.clock.tell(now_ms)
        if try_number != self._try_number or self._connection is None:
            return
        if works:
            self._choice.upgraded()
            self._open()
        else:
            self._choice.not_upgraded()
            self._set_upgrade()

    def write(self, text: str) -> None:
        self.emit(Send(self._try_number, text))

    def is_ready(self, frame: Ready) -> None:
        assert self._connection is not None
        self.ready = frame
        self._ready_at_ms = self.clock.now_ms
        self._choice.ready()
        self._set_upgrade()
        self._move_at_ms = None
        self._last_error = None
        self._token_expires(frame.expires_ms)
        self._outbox.set_owner(frame.client or "")
        self._is_opening = True
        self.emit(Tell(frame))
        for attachment in self._attachments.values():
            attachment.line_up()
        for question in list(self._questions.values()):
            if not question.timer.is_set:
                self._put(question)
        self._outbox.open(self.request, frame.max_frame_bytes)
        self._put_right()

    def _token_expires(self, expires_ms: float | None) -> None:
        self._token_ends_at_ms = None if expires_ms is None else self.clock.now_ms + expires_ms
        ends_at_ms = inf if self._token_ends_at_ms is None else self._token_ends_at_ms
        self._token_kept_until_ms = ends_at_ms - TOKEN_MARGIN_MS

    def _renew(self) -> None:
        if self.is_up() and not self._is_fetching:
            self._fetch("expiring")

    def _authenticated(self, answer: ServerFrame) -> None:
        if isinstance(answer, Authenticated):
            self._token_expires(answer.expires_ms)
        else:
            self.came(answer, 0)

    # -- frames ------------------------------------------------------------------------------------------------------

    def came(self, frame: ServerFrame, size_bytes: int) -> None:
        match frame:
            case Heartbeat() | Authenticated() | Ready() | Answer() | PublishedFrame() | HistoryFrame():
                pass
            case AuthExpiring():
                self._renew()
            case Reconnect(after_ms, reason):
                self._move_at_ms = self.clock.now_ms + after_ms
                self._enter(Line.MOVING, reason=reason or "the worker leaves", next_try_at_ms=self._move_at_ms)
                self._move_timer.set(after_ms + MOVE_GRACE_MS)
            case Signal():
                self.emit(Tell(frame))
            case PresenceFrame():
                self._presence_came(frame)
            case ErrorFrame():
                if frame.channel in self._attachments:
                    self.emit(Tell(Report(frame.error(), frame.channel)))
                else:
                    self._last_error = frame
                    self.emit(Tell(Report(frame.error())))
            case Attached() | Detached() | MessageFrame() | Skipped() | SnapshotEnd():
                attachment = self._attachments.get(frame.channel)
                if attachment is not None:
                    attachment.receive(frame, size_bytes)
            case _:
                assert_never(frame)

    # -- questions ---------------------------------------------------------------------------------------------------

    def _put(self, question: _Question) -> None:
        if question.is_asked or not self.is_up():
            return
        question.is_asked = True

        def answered(answer: ServerFrame) -> None:
            question.is_asked = False
            if self._questions.get(id(question.handle)) is not question:
                return
            if isinstance(answer, HistoryFrame):
                self._answer(question, Settle(question.handle, HistoryPage.of(answer)))
                return
            error = answer.error() if isinstance(answer, ErrorFrame) else SeriatimError("internal")
            if error.code == "unauthorized":
                return  # The close behind it decides.
            if error.retry and question.backoff.attempt < MOST_ASKS:
                backoff_ms = question.backoff.next_ms()
                question.timer.set(backoff_ms if error.retry_after_ms is None else error.retry_after_ms)
            else:
                self._answer(question, Fail(question.handle, error))

        self.request(question.frame, answered)

    def _answer(self, question: _Question, effect: Effect) -> None:
        self.forget(question.handle)
        self.emit(effect)

    # -- losing ------------------------------------------------------------------------------------------------------

    def _drop(self, code: int, reason: str) -> None:
        """Lets go of the connection, if there is one, and tells everybody who relied on it."""
        connection, self._connection = self._connection, None
        self._is_opening = False
        self._is_fetching = False
        for timer in (
            self._retry_timer,
            self._measure_timer,
            self._token_timer,
            self._move_timer,
            self._recovered_timer,
            self._upgrade_timer,
        ):
            timer.clear()
        self._owes_recovered = False
        if connection is None:
            return
        connection.end()
        self.emit(Hangup(self._try_number, code, reason))
        self._latency.reset()
        self._outbox.shut()
        for question in self._questions.values():
            question.is_asked = False
        for attachment in self._attachments.values():
            attachment.line_down(reason or "the line is away")
        for name, here in self._here.items():
            here.members.forget()
            if here.entered is None:
                self._attend(name, None)

    def is_lost(self, code: int, reason: str, heard_at_ms: float) -> None:
        was_ready = self._ready_at_ms is not None
        lived_ms = None if self._ready_at_ms is None else self.clock.now_ms - self._ready_at_ms
        has_moved = self._choice.ended(
            is_broken=code in (1005, 1006),
            lived_ms=lived_ms,
            is_timeout=reason == NOTHING_CAME,
            now_ms=self.clock.now_ms,
        )
        if lived_ms is not None and lived_ms >= GOOD_AFTER_MS:
            self._reconnect_backoff.reset()
            self._attempt = 0
            self._refusals = 0
        self._ready_at_ms = None
        error, self._last_error = self._last_error, None
        meant = meant_code(code)
        why = reason or (error.message if error else "") or "the line broke"
        self._drop(1000, why)
        hint_ms = retry_after_ms(reason)
        if hint_ms is None and error is not None:
            hint_ms = error.retry_after_ms
        # Before `ready` the server waited for credentials and got none: as if they had been refused.
        rule = "new_token" if meant == 4408 and not was_ready else reconnect_after(code)
        if rule == "no":
            self._end(Line.CLOSED if meant == 1000 else Line.STOPPED, why, meant)
        elif rule == "new_token":
            self._refusals += 1
            self._token_kept_until_ms = -inf
            if self._refusals > 1:
                self._end(Line.SIGNED_OUT, why, meant)
            else:
                self._open()
        elif rule == "on_demand" and not self._is_needed():
            self._enter(Line.OFFLINE, reason="idle", code=meant, since_ms=heard_at_ms)
        elif rule == "after_hint" and meant == 1012:
            wait_ms = (
                self._reconnect_backoff.next_ms()
                if self._move_at_ms is None
                else max(0.0, self._move_at_ms - self.clock.now_ms)
            )
            self._retry(wait_ms, Line.MOVING, reason=why, code=meant, since_ms=heard_at_ms)
        elif rule == "after_hint":
            self._retry(
                self._reconnect_backoff.next_ms() if hint_ms is None else hint_ms,
                Line.WAITING,
                reason=why,
                code=meant,
            )
        else:
            # Another transport may get through at once.
            wait_ms = min(self._reconnect_backoff.next_ms(), OTHER_WITHIN_MS if has_moved else inf)
            self._retry(wait_ms, Line.OFFLINE, reason=why, code=meant, since_ms=heard_at_ms)

    def _retry(
        self, wait_ms: float, name: Line, *, reason: str, code: int | None = None, since_ms: float | None = None
    ) -> None:
        self._retry_timer.set(wait_ms)
        self._enter(
            name,
            reason=reason,
            code=code,
            since_ms=since_ms,
            attempt=self._attempt,
            next_try_at_ms=self.clock.now_ms + wait_ms,
        )

    def _leave_worker(self) -> None:
        """A worker that said it leaves has not closed: we go."""
        if self.state.name is Line.MOVING and self._connection is not None:
            self._connection.lost(1012, "the worker leaves")

    def _end(self, name: Line, reason: str, code: int | None = None, *, is_own: bool = False) -> None:
        """Only `connect` goes on from here."""
        self._enter(name, reason=reason, code=code)
        self._give_up(SeriatimError(name.value, f"{_SAID[name]}: {reason}."), is_own)

    def _give_up(self, error: SeriatimError, is_own: bool) -> None:
        """Nothing comes back by itself: whoever waits is told."""
        self.given_up = error
        self._outbox.abandon(error)
        for question in list(self._questions.values()):
            self._answer(question, Fail(question.handle, error))
        for attachment in self._attachments.values():
            attachment.give_up(error, is_own)

    def _is_needed(self) -> bool:
        """Whether there is something to say or to follow."""
        return (
            self._outbox.size > 0
            or len(self._questions) > 0
            or any(attachment.is_wanted for attachment in self._attachments.values())
        )

    def _wake_line(self) -> None:
        """Something is to be said: a line that was given up for idleness is needed again."""
        if self.state.name is Line.OFFLINE and self.state.next_try_at_ms is None:
            self._open()

    # -- state -------------------------------------------------------------------------------------------------------

    def _put_right(self) -> None:
        """Puts the state right while the line is up."""
        if not self.is_up() or self.state.name is Line.MOVING:
            return
        attachments = self._attachments.values()
        if self._is_opening:
            if any(each.is_asking for each in attachments):
                return
            self._is_opening = False
        name = Line.SLOW if self._latency.is_slow(self.clock.now_ms) else Line.LIVE
        if any(each.is_catching_up for each in attachments):
            name = Line.CATCHING_UP
        if name is self.state.name:
            return
        lost_at_ms = self.state.lost_at_ms
        is_back = lost_at_ms is not None and name is not Line.CATCHING_UP
        self._enter(name, reason="connected")
        if not is_back or lost_at_ms is None:
            return
        self._away_ms = self.clock.now_ms - lost_at_ms
        self._owes_recovered = True
        self._recovered_timer.set(SENT_WITHIN_MS)
        if self._outbox.size == 0:
            self._tell_recovered()

    def _tell_recovered(self) -> None:
        """Tells what was made good: when our own messages are sent too, or after a moment without them."""
        if not self._owes_recovered:
            return
        self._owes_recovered = False
        self._recovered_timer.clear()
        self.emit(Tell(Recovered(self._away_ms, self._received, self._sent, self._skipped)))

    def _enter(
        self,
        name: Line,
        *,
        reason: str = "",
        code: int | None = None,
        attempt: int = 0,
        since_ms: float | None = None,
        next_try_at_ms: float | None = None,
    ) -> None:
        before = self.state
        if name not in TRANSITIONS[before.name]:
            raise AssertionError(f"no way from {before.name} to {name}: a bug")
        now_ms = self.clock.now_ms
        lost_at_ms = before.lost_at_ms
        if before.name in UP and name not in UP:
            lost_at_ms = now_ms if since_ms is None else since_ms
            self._received = self._sent = self._skipped = 0
        since_ms = before.since_ms if name is before.name else now_ms if since_ms is None else since_ms
        # Trying and failing again is one absence: it counts from when the line was lost.
        if name is Line.OFFLINE and lost_at_ms is not None:
            since_ms = lost_at_ms
        if name in GIVEN_UP or (name in UP and name is not Line.CATCHING_UP):
            lost_at_ms = None
        self.state = State(name, since_ms, attempt, next_try_at_ms, lost_at_ms, reason, code)
        self.emit(Tell(self.state))

    def took(self, ms: float) -> None:
        self._latency.sample(ms, self.clock.now_ms)
        if self._latency.is_suspect and not self._measure_timer.is_set:
            self._measure_timer.set(MEASURE_MS)
        self._put_right()

    def _measure(self) -> None:
        """Asks again soon whether a line whose answers are late is still slow."""
        if self._connection is None or not self._connection.is_ready:
            return
        self._put_right()
        if self._latency.is_suspect:
            self._connection.probe()
            self._measure_timer.set(MEASURE_MS)


_SAID: Final = {
    Line.CLOSED: "The connection was closed",
    Line.SIGNED_OUT: "The credentials were refused",
    Line.STOPPED: "The server ended the connection for good",
}
