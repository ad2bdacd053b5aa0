"""A connection's side of the protocol as a state machine: a frame and the time go in, effects come out.

Theory of operation
-------------------
`Session` decides and touches nothing. The shell performs the effects in the order given and reports what came of those
that take time (`Verify`, `Publish`, `Attach`, `History`) by calling the method that the effect names; that returns
effects again. Frames of one connection are handled in order. What takes time may run beside what came before only where
nobody can tell the difference:

    =============  ==========================================================
    a frame        may begin while these are still running
    =============  ==========================================================
    publish        publishes (the log keeps their order)
    attach         attaches to other channels
    auth, history  nothing
    any other      publishes
    =============  ==========================================================

Frames that may not begin yet wait in a queue, and everything behind them waits too; so do all frames while the client
does not take what it was sent (`hold`). The queue is bounded: while `full` is true the shell must not read on. States
and what leads from one to the other stand in `TRANSITIONS`.

Pure: no clock (`now` is monotonic seconds, `time_ms` Unix milliseconds), no randomness, no I/O. Specification:
docs/reference/protocol.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from msgspec import Struct

from realtime.protocol import frames
from realtime.protocol.errors import ProtocolError
from realtime.protocol.frames import Frame, FrameError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import ChannelName, parse_channel

BAD_FRAMES_MOST = 10
"""Bad frames and unknown types in a minute that are only answered; the next closes (4400)."""

BAD_FRAMES_S = 60.0

UNAUTHORIZED_MOST = 10
"""Frames before `auth` that are only answered; the next closes (4401)."""

EXPIRY_WARNING_S = 60.0
"""How long before its end a token's expiry is announced."""

CHAINS_MOST = 1024
"""Channels whose last publish failed that a connection remembers, for `chained`; beyond it the oldest is forgotten."""


class State(Enum):
    OPENING = "opening"
    """No identity yet: only `auth` is served."""
    READY = "ready"
    CLOSED = "closed"
    """Nothing more is said."""


TRANSITIONS: Final = {
    (State.OPENING, "identified"): State.READY,
    (State.OPENING, "refused"): State.CLOSED,
    (State.OPENING, "auth timeout"): State.CLOSED,
    (State.OPENING, "too many frames before auth"): State.CLOSED,
    (State.OPENING, "too many bad frames"): State.CLOSED,
    (State.OPENING, "closed"): State.CLOSED,
    (State.READY, "identified"): State.READY,
    (State.READY, "refused"): State.CLOSED,
    (State.READY, "expired"): State.CLOSED,
    (State.READY, "too many bad frames"): State.CLOSED,
    (State.READY, "idle"): State.CLOSED,
    (State.READY, "closed"): State.CLOSED,
}
"""Every move there is; docs/explanation/delivery.md draws its picture from this table."""


# ---------------------------------------------------------------------- effects

# Structs and not dataclasses: a frozen dataclass takes several times as long to make, and every frame makes some.


class Send(Struct, frozen=True):
    """Send this frame to the client."""

    frame: dict[str, object]


class Close(Struct, frozen=True):
    """Send a close frame with this code and reason, after everything before it."""

    code: int
    reason: str


class Verify(Struct, frozen=True):
    """Verify the token; then `identified` or `refused`."""

    token: str
    ref: str | int | None


class Recheck(Struct, frozen=True):
    """The capability changed: end the attachments that it does not allow (`detached`, then `Session.ended`)."""


class Attach(Struct, frozen=True):
    """Authorise, parse the position, attach; then `attached` or `failed`. A refused one leaves the old attachment."""

    op: int
    channel: ChannelName
    frame: frames.Attach


class Detach(Struct, frozen=True):
    """End the attachment: nothing more of the channel may be sent after this."""

    channel: ChannelName


class Ack(Struct, frozen=True):
    """Acknowledge per channel; answer an entry beyond what was sent with `bad_ack`, ignore what is not attached."""

    serials: dict[str, int]


class Publish(Struct, frozen=True):
    """Authorise and append; then `published` or `failed`. With `after`, only if that publish did not fail."""

    op: int
    channel: ChannelName
    messages: tuple[NewMessage, ...]
    after: int | None


class History(Struct, frozen=True):
    """Authorise and read a page; then `history` or `failed`."""

    op: int
    channel: ChannelName
    frame: frames.History


class Signal(Struct, frozen=True):
    """Authorise and pass on; a refusal is answered with an error that carries the frame's ref."""

    channel: ChannelName
    frame: frames.Signal


class Presence(Struct, frozen=True):
    """Authorise and enter, update or leave; then `done` or `failed`."""

    op: int
    channel: ChannelName
    frame: frames.Presence


Effect = Send | Close | Verify | Recheck | Attach | Detach | Ack | Publish | History | Signal | Presence


# ---------------------------------------------------------------------- the machine


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What `ready` tells, and limits; defaults and reasons are in realtime.conf."""

    heartbeat_ms: int = 25_000
    max_frame_bytes: int = 1 << 20
    max_message_bytes: int = 1 << 16
    max_attachments: int = 200
    auth_timeout_s: float = 10.0
    leeway_s: float = 10.0
    idle_s: float = 0.0
    publishes_most: int = 256
    backlog_most: int = 256
    backlog_bytes: int = 4 << 20
    """What of one connection may wait, and again what may be on its way into the log, in characters."""
    worker: str = "w1"


@dataclass(slots=True)
class _Running:
    """A request that takes time."""

    kind: str
    ref: str | int | None
    channel: ChannelName
    size: int = 0
    """Characters of data on the way into the log."""


class Session:
    """The protocol of one connection; see the module's docstring for the contract with the shell."""

    def __init__(self, connection: str, settings: SessionSettings, now: float) -> None:
        self.state = State.OPENING
        self.connection = connection
        self.client: str | None = None
        self.attachments: set[ChannelName] = set()
        """Channels attached, or being attached for the first time."""
        self._settings = settings
        self._opened_at = now
        # Lists, though they are taken from in front: they are bounded, mostly empty, and an empty deque has 760 bytes.
        self._waiting: list[Frame | FrameError] = []
        self._waiting_sizes: list[int] = []
        self._waiting_size = 0
        self._publishing_size = 0
        self._running: dict[int, _Running] = {}
        self._verifying = False
        self._held = False
        self._next_op = 0
        self._chains: OrderedDict[ChannelName, int | None] = OrderedDict()
        """By channel the op of the last publish while it runs, or None when it failed."""
        self._unauthorized = 0
        self._bad_at: list[float] = []
        self._expires_at: float | None = None
        self._warn_at: float | None = None
        self.spoke_at = now
        """When the client sent its last frame."""

    # ------------------------------------------------------------------ what the shell asks

    @property
    def full(self) -> bool:
        """The shell must not read on until this is false again."""
        return len(self._waiting) >= self._settings.backlog_most or self._waiting_size >= self._settings.backlog_bytes

    @property
    def busy(self) -> bool:
        """Something that came waits for its turn, or takes time."""
        return bool(self._waiting or self._running or self._verifying)

    @property
    def deadline(self) -> float | None:
        """When `wake` has something to do, in monotonic seconds; None: never."""
        times = [self._warn_at]
        if self._expires_at is not None:
            times.append(self._expires_at + self._settings.leeway_s)
        if self.state is State.OPENING and not self._verifying:
            times.append(self._opened_at + self._settings.auth_timeout_s)
        if self.state is State.READY and self._settings.idle_s:
            times.append(self.spoke_at + self._settings.idle_s)
        return min((time for time in times if time is not None), default=None)

    # ------------------------------------------------------------------ what comes in

    def open(self, token: str) -> list[Effect]:
        """The handshake carried this token."""
        self._verifying = True
        return [Verify(token, None)]

    def look_up(self) -> None:
        """The handshake carried something that may prove a client: then `identified`, `refused` or `unidentified`."""
        self._verifying = True

    def unidentified(self, now: float, time_ms: int) -> list[Effect]:
        """What was looked up proves nobody: `auth` is awaited."""
        if self.state is State.CLOSED:
            return []
        self._verifying = False
        return self._continue(now, time_ms)

    def receive(self, text: str, now: float, time_ms: int) -> list[Effect]:
        """A text frame came."""
        if self.state is State.CLOSED:
            return []
        self.spoke_at = now
        try:
            frame: Frame | FrameError = frames.parse_frame(text)
        except FrameError as error:
            frame = error
        if self._waiting or not self._may_begin(frame):
            self._waiting.append(frame)
            self._waiting_sizes.append(len(text))
            self._waiting_size += len(text)
            return []
        return self._begin(frame, now, time_ms)

    def identified(
        self, client: str, expires_in_s: float | None, ref: str | int | None, now: float, time_ms: int
    ) -> list[Effect]:
        """The credentials are good, for `expires_in_s` from now (None: for ever)."""
        if self.state is State.CLOSED:
            return []
        self._verifying = False
        if self.client is not None and client != self.client:
            return self.refused(
                ProtocolError(
                    "unauthorized", "The new token is for another client.", remedy="Open another connection."
                ),
                ref,
            )
        renewal = self.state is State.READY
        self._move("identified")
        self.client = client
        self._expires_at = None if expires_in_s is None else now + expires_in_s
        self._warn_at = None if self._expires_at is None else self._expires_at - EXPIRY_WARNING_S
        expires_ms = None if expires_in_s is None else max(0, round(expires_in_s * 1000))
        effects: list[Effect] = []
        if renewal:
            effects.append(Send(_with_ref({"type": "authenticated", "expires_ms": expires_ms}, ref)))
            effects.append(Recheck())
        else:
            effects.append(Send(_with_ref(self._ready(expires_ms, time_ms), ref)))
        effects += self._warn(now)
        return effects + self._continue(now, time_ms)

    def refused(self, error: ProtocolError, ref: str | int | None = None) -> list[Effect]:
        """The credentials are not good, or not any more."""
        if self.state is State.CLOSED:
            return []
        self._move("refused")
        return [Send(error.frame(ref)), Close(4401, error.message)]

    def undecided(self, error: ProtocolError, ref: str | int | None, now: float, time_ms: int) -> list[Effect]:
        """Nobody can say now whether the credentials are good. Who has good ones already keeps them."""
        if self.state is State.CLOSED:
            return []
        if self.state is State.READY:
            self._verifying = False
            return [Send(error.frame(ref)), *self._continue(now, time_ms)]
        self._move("closed")
        return [Send(error.frame(ref)), Close(1013, f"retry_after_ms={error.retry_after_ms or 0}")]

    def attached(self, op: int, frame: dict[str, object], now: float, time_ms: int) -> list[Effect]:
        """The channel is attached; `frame` is the `attached` frame without `ref`. Messages may follow the effects."""
        running = self._end(op)
        if self.state is State.CLOSED:
            return []
        # Its old attachment may have been ended while this one was on its way.
        self.attachments.add(running.channel)
        return [Send(_with_ref(frame, running.ref)), *self._continue(now, time_ms)]

    def published(self, op: int, answer: dict[str, object], now: float, time_ms: int) -> list[Effect]:
        """The messages are committed; `answer` is the `published` frame without `type` and `ref`."""
        running = self._end(op)
        if self.state is State.CLOSED:
            return []
        if self._chains.get(running.channel, -1) == op:
            del self._chains[running.channel]
        return [Send(_with_ref({"type": "published", **answer}, running.ref)), *self._continue(now, time_ms)]

    def done(self, op: int, answer: dict[str, object], now: float, time_ms: int) -> list[Effect]:
        """A history or presence request is answered by this frame, which has no `ref` yet."""
        running = self._end(op)
        if self.state is State.CLOSED:
            return []
        return [Send(_with_ref(answer, running.ref)), *self._continue(now, time_ms)]

    def failed(self, op: int, error: ProtocolError, attached: bool, now: float, time_ms: int) -> list[Effect]:
        """A request was refused; `attached` says whether an attachment to its channel (still) stands."""
        running = self._end(op)
        if self.state is State.CLOSED:
            return []
        if running.kind == "publish" and self._chains.get(running.channel, -1) == op:
            self._note_failure(running.channel)
        if running.kind == "attach" and not attached:
            self.attachments.discard(running.channel)
        if error.channel is None:
            error.channel = running.channel
        return [Send(error.frame(running.ref)), *self._continue(now, time_ms)]

    def hold(self) -> None:
        """What was sent before waits at the socket: nothing is begun until `release`. Who asks and does not read would
        else make the server keep any number of answers."""
        self._held = True

    def release(self, now: float, time_ms: int) -> list[Effect]:
        """The socket takes frames again."""
        self._held = False
        return self._continue(now, time_ms)

    def ended(self, channel: ChannelName, frame: dict[str, object]) -> list[Effect]:
        """The shell ended an attachment by itself; `frame` tells the client."""
        self.attachments.discard(channel)
        return [] if self.state is State.CLOSED else [Send(frame)]

    def closed(self) -> None:
        """The connection is gone, or the shell closes it for a reason of its own."""
        if self.state is not State.CLOSED:
            self._move("closed")
        self._forget_waiting()

    def wake(self, now: float) -> list[Effect]:
        """Something may be due: see `deadline`."""
        if (
            self.state is State.OPENING
            and not self._verifying
            and now >= self._opened_at + self._settings.auth_timeout_s
        ):
            self._move("auth timeout")
            return [Close(4408, "no auth frame in time")]
        if self.state is State.READY:
            if self._expires_at is not None and now >= self._expires_at + self._settings.leeway_s:
                self._move("expired")
                error = ProtocolError("unauthorized", "The token has expired.")
                return [Send(error.frame()), Close(4401, "token expired")]
            if self._settings.idle_s and now >= self.spoke_at + self._settings.idle_s:
                self._move("idle")
                return [Close(4408, "idle too long")]
            return self._warn(now)
        return []

    # ------------------------------------------------------------------ order

    def _may_begin(self, frame: Frame | FrameError) -> bool:
        if self._verifying or self._held:
            return False
        if not self._running:
            return True
        # What runs side by side is of one kind, and has been since the first.
        kind = next(iter(self._running.values())).kind
        match frame:
            case frames.Publish():
                return (
                    kind == "publish"
                    and len(self._running) < self._settings.publishes_most
                    and self._publishing_size < self._settings.backlog_bytes
                )
            case frames.Attach():
                return kind == "attach" and all(r.channel != frame.channel for r in self._running.values())
            case frames.Auth() | frames.History() | frames.Presence():
                return False
            case _:
                return kind == "publish"

    def _continue(self, now: float, time_ms: int) -> list[Effect]:
        """Begins what waited and may begin now."""
        effects: list[Effect] = []
        while self._waiting and self.state is not State.CLOSED and self._may_begin(self._waiting[0]):
            self._waiting_size -= self._waiting_sizes.pop(0)
            effects += self._begin(self._waiting.pop(0), now, time_ms)
        return effects

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_sizes.clear()
        self._waiting_size = 0

    def _begin(self, frame: Frame | FrameError, now: float, time_ms: int) -> list[Effect]:
        if isinstance(frame, FrameError):
            return self._bad(frame, now)
        effects: list[Effect] = []
        if frame.acks and self.state is State.READY:
            effects.append(Ack(frame.acks))
        if isinstance(frame, frames.Auth):
            self._verifying = True
            effects.append(Verify(frame.token, frame.ref))
            return effects
        if self.state is State.OPENING:
            return self._before_auth(frame)
        try:
            effects += self._perform(frame, time_ms)
        except ProtocolError as error:
            effects.append(Send(error.frame(frame.ref)))
        return effects

    def _perform(self, frame: Frame, time_ms: int) -> Iterator[Effect]:
        match frame:
            case frames.Publish():
                yield from self._publish(frame)
            case frames.Ack():
                yield Ack(frame.serials)
            case frames.Ping():
                yield Send(_with_ref({"type": "pong", "time": time_ms}, frame.ref))
            case frames.Attach():
                channel = parse_channel(frame.channel)
                op = self._run("attach", frame.ref, channel)
                yield Attach(op, channel, frame)
            case frames.Detach():
                channel = parse_channel(frame.channel)
                if channel not in self.attachments:
                    raise ProtocolError("not_attached", channel=channel)
                self.attachments.discard(channel)
                yield Detach(channel)
                yield Send(_with_ref({"type": "detached", "channel": channel}, frame.ref))
            case frames.History():
                channel = parse_channel(frame.channel)
                yield History(self._run("history", frame.ref, channel), channel, frame)
            case frames.Signal():
                yield Signal(parse_channel(frame.channel), frame)
            case frames.Presence():
                channel = parse_channel(frame.channel)
                yield Presence(self._run("presence", frame.ref, channel), channel, frame)
            case frames.Auth():
                raise AssertionError("auth is begun before")
            case _:
                assert_never(frame)

    def admit(self, channel: ChannelName) -> None:
        """Counts an attachment that passed authorisation; ProtocolError `limit_exceeded` where there are enough.

        Attaching again to a channel is no further attachment.
        """
        if channel in self.attachments:
            return
        if len(self.attachments) >= self._settings.max_attachments:
            raise ProtocolError(
                "limit_exceeded",
                f"This connection has {len(self.attachments)} attachments, as many as allowed.",
                remedy="Detach from a channel first, or open another connection.",
                channel=channel,
            )
        self.attachments.add(channel)

    def _publish(self, frame: frames.Publish) -> Iterator[Effect]:
        channel = parse_channel(frame.channel)
        after: int | None = None
        if frame.chained and channel in self._chains:
            after = self._chains[channel]
            if after is None:
                self._note_failure(channel)
                raise ProtocolError("order", channel=channel)
        op = self._run("publish", frame.ref, channel, sum([len(message.data) for message in frame.messages]))
        self._chains[channel] = op
        yield Publish(op, channel, frame.messages, after)

    def _run(self, kind: str, ref: str | int | None, channel: ChannelName, size: int = 0) -> int:
        self._next_op += 1
        self._running[self._next_op] = _Running(kind, ref, channel, size)
        self._publishing_size += size
        return self._next_op

    def _end(self, op: int) -> _Running:
        running = self._running.pop(op)
        self._publishing_size -= running.size
        return running

    def _note_failure(self, channel: ChannelName) -> None:
        self._chains[channel] = None
        self._chains.move_to_end(channel)
        if len(self._chains) > CHAINS_MOST:
            oldest = next((name for name, op in self._chains.items() if op is None), None)
            if oldest is not None:
                del self._chains[oldest]

    def _note_refused(self, frame: frames.Publish) -> None:
        """A publish was not even begun. What is no channel's name is not remembered: it can be a megabyte."""
        try:
            self._note_failure(parse_channel(frame.channel))
        except ProtocolError:
            return

    # ------------------------------------------------------------------ faults

    def _bad(self, error: FrameError, now: float) -> list[Effect]:
        if error.is_publish and error.channel is not None:
            self._note_failure(ChannelName(error.channel))
        effects: list[Effect] = [Send(error.frame(error.ref))]
        self._bad_at = [*self._bad_at[-BAD_FRAMES_MOST:], now]
        if len(self._bad_at) > BAD_FRAMES_MOST and now - self._bad_at[0] < BAD_FRAMES_S:
            self._move("too many bad frames")
            effects.append(Close(4400, "too many bad frames"))
        return effects

    def _before_auth(self, frame: Frame) -> list[Effect]:
        self._unauthorized += 1
        if isinstance(frame, frames.Publish):
            self._note_refused(frame)
        error = ProtocolError(
            "unauthorized",
            "There was no `auth` frame yet.",
            remedy='Send {"type":"auth","token":…} first, or a token with the handshake.',
        )
        effects: list[Effect] = [Send(error.frame(frame.ref))]
        if self._unauthorized > UNAUTHORIZED_MOST:
            self._move("too many frames before auth")
            effects.append(Close(4401, "frames before auth"))
        return effects

    # ------------------------------------------------------------------ the token's life

    def _ready(self, expires_ms: int | None, time_ms: int) -> dict[str, object]:
        return {
            "type": "ready",
            "protocol": 1,
            "connection": self.connection,
            "client": self.client,
            "time": time_ms,
            "expires_ms": expires_ms,
            "heartbeat_ms": self._settings.heartbeat_ms,
            "max_frame_bytes": self._settings.max_frame_bytes,
            "max_message_bytes": self._settings.max_message_bytes,
            "max_attachments": self._settings.max_attachments,
            "worker": self._settings.worker,
        }

    def _warn(self, now: float) -> list[Effect]:
        if self._warn_at is None or self._expires_at is None or now < self._warn_at:
            return []
        self._warn_at = None
        return [Send({"type": "auth.expiring", "in_ms": max(0, round((self._expires_at - now) * 1000))})]

    def _move(self, event: str) -> None:
        """One move of the table; anything else is a fault of this module."""
        self.state = TRANSITIONS[self.state, event]
        if self.state is State.CLOSED:
            self._forget_waiting()
            self._expires_at = self._warn_at = None


def _with_ref(frame: dict[str, object], ref: str | int | None) -> dict[str, object]:
    if ref is not None:
        frame["ref"] = ref
    return frame
