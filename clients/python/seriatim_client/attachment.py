"""Following one channel: attach, messages in order, acks, resume. Pure.

Theory of operation. Frames of the channel become items in one queue, in stream order. The consumer pulls: `next_step`
gives one message at a time, and `settle` says what became of it. Control items in front of the queue move the position
by themselves, but never while a message is in the consumer's hands. So the position, the acks and the discontinuities
are always those of what the application has really seen.

    detached ──want──▶ attaching ──attached──▶ attached
        ▲                  ▲ │                    │
        │                  │ └──── line lost ◀────┤   (wanted still: attaching again when the line is up)
        │                  └──────── gap ─────────┤   (resume from the own position, on the same connection)
        └──── unwant, detached, refused ──────────┘

Resume. Whatever the first `from` was, later attaches say the position of the last processed message; the server sends
what came after it again, so what is received and not processed then is dropped. Two exceptions. A snapshot that was cut
is asked for again. A cursor is attached by name each time, since acks move it only then; what the stored position
repeats is dropped by serial. What stands in the hands of the consumer when the line is lost stays there, and its second
copy is dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, assert_never

from seriatim_client.acks import AckCadence
from seriatim_client.backoff import Backoff, BackoffOptions, Random
from seriatim_client.clock import Clock
from seriatim_client.connection import OnAnswer
from seriatim_client.data_reader import DataReader
from seriatim_client.effects import Effect, End, Fail, Report, Settle, Tell, Wake
from seriatim_client.errors import SeriatimError
from seriatim_client.fossil import DeltaError
from seriatim_client.frames import Attached, Detached, ErrorFrame, MessageFrame, ServerFrame, Skipped, SnapshotEnd
from seriatim_client.messages import Discontinuity, Load, Message, Snapshot
from seriatim_client.positions import Cursor, From, Position, wire_from
from seriatim_client.serials import SerialTracker

ChannelState = Literal["detached", "attaching", "attached"]
Step = Message | Discontinuity | Snapshot | Load
"""What a consumer gets. After a `Message` it must call `settle`, after a `Load` `loaded` or `load_failed`."""


class Wires(Protocol):
    """What an attachment needs of the core."""

    clock: Clock
    random: Random
    backoff: BackoffOptions

    def is_up(self) -> bool: ...
    def request(self, frame: dict[str, Any], on_answer: OnAnswer) -> None: ...
    def send_acks(self) -> None:
        """Sends the acks of every channel in one frame."""

    def changed(self) -> None:
        """Something that the state of the line depends on may have changed."""

    def emit(self, effect: Effect) -> None: ...
    def attached(self, name: str) -> None:
        """The server has answered an attach of this channel."""

    def detached(self, name: str, error: SeriatimError) -> None:
        """The channel is not followed any more."""

    def counted(self, received: int, skipped: int) -> None: ...


# Items of the queue. `generation` counts attachments, also unasked ones: acks are only for messages of the present one.
# `life` counts lives of the following: a message of an earlier one does not come back into the queue.


@dataclass(slots=True)
class _Begin:
    frame: Attached
    restart: From | None


@dataclass(slots=True)
class _Skip:
    frame: Skipped
    position: Position


@dataclass(slots=True)
class _SnapshotBegin:
    position: Position
    count: int


@dataclass(slots=True)
class _SnapshotDone:
    position: Position
    restart: From | None


@dataclass(slots=True)
class _Message:
    message: Message
    size_bytes: int
    generation: int
    life: int


_Item = _Begin | _Skip | _SnapshotBegin | _SnapshotDone | _Message


@dataclass(slots=True)
class _Rows:
    """A snapshot so far."""

    rows: list[tuple[MessageFrame, int]]
    restart: From | None


class Attachment:
    """One channel, over all connections."""

    def __init__(self, name: str, wires: Wires) -> None:
        self.name = name
        self._wires = wires
        self._clock = wires.clock
        self._from: From = "head"
        self._window: int | None = None
        self._presence = False
        self._delta = False
        self.state: ChannelState = "detached"
        self.reason = "not attached yet"
        """Why it is in this state, for people."""
        self.is_wanted = False
        self.attached_as: Attached | None = None
        """The last `attached`, while it holds."""
        self._attach_handles: list[object] = []
        self._asks = 0
        """Counts attach requests: an answer to an older one is void."""
        self._restart: From | None = None
        """A `from` that the caller gave anew, until the position is there."""
        self._retry_timer = self._clock.timer(lambda late_ms: self._ask())
        self._retry_backoff = Backoff(wires.backoff, wires.random)

        self._tracker = SerialTracker()
        self._data = DataReader()
        self._cadence = AckCadence(wires.random)
        self._ack_timer = self._clock.timer(lambda late_ms: self._ack_time())
        self._ack_ms = 0.0
        self._processed_at_ms = 0.0
        self._head = 0
        self._generation = 0
        self._life = 0

        self._queue: deque[_Item] = deque()
        self._out: _Message | None = None
        """In the consumer's hands."""
        self._due: deque[Discontinuity | Snapshot] = deque()
        """To be told before anything else."""
        self._rows: _Rows | None = None
        self.position: Position | None = None
        """Everything through here is processed. None before the first attach, and while a first snapshot comes."""
        self._skip_due = False
        """`attached` said that the position was not honoured; `skipped` has to say why."""
        self._target = 0
        """The head at the attach: until it is processed the channel catches up."""
        self._is_level = True

        self._has_loader = False
        self._must_load = False
        self._is_loading = False
        self._load_life = 0
        self._load_handles: list[object] = []
        self._load_backoff = Backoff(wires.backoff, wires.random)
        self._load_timer = self._clock.timer(lambda late_ms: self._wake())

    # -- what the application asks -----------------------------------------------------------------------------------

    def configure(
        self, from_: From | None, window: int | None, presence: bool | None = None, delta: bool | None = None
    ) -> None:
        """For the attaches to come; None leaves it as it is."""
        if delta is not None:
            self._delta = delta
        if presence is not None:
            self._presence = presence
        if from_ is not None:
            self._from = from_
        if window is not None:
            self._window = window

    def attach(self, handle: object, from_: From | None) -> None:
        """Follows the channel; the handle is settled with `Attached`, or failed when the server refuses for good."""
        if from_ is None and self.state == "attached" and self.attached_as is not None:
            self._wires.emit(Settle(handle, self.attached_as))
            return
        self._attach_handles.append(handle)
        self.want(from_)

    def want(self, from_: From | None = None) -> None:
        """Follows the channel from now on, through every loss of the line."""
        if from_ is not None:
            self._restart = from_
        if self.is_wanted and from_ is None:
            return
        self.is_wanted = True
        self._ask()

    def unwant(self) -> None:
        """Stops following. The position is kept."""
        if not self.is_wanted:
            return
        if self.state != "detached" and self._wires.is_up():
            self._wires.request({"type": "detach", "channel": self.name}, lambda answer: None)
        self._leave("asked", None)

    def load_with(self, handle: object) -> None:
        """There is a state to load: `Load` comes now, and after each discontinuity. The handle: loaded once."""
        self._has_loader = True
        self._must_load = True
        self._load_handles.append(handle)
        self.want()
        self._wake()

    def give_up(self, error: SeriatimError, is_own: bool) -> None:
        """The line is not coming back by itself. The channel stays wanted, should it connect again."""
        self._load_timer.clear()
        self._fail_handles(error)
        self._wires.emit(End(self.name, error.code, None if is_own else error))

    # -- what the consumer does --------------------------------------------------------------------------------------

    def next_step(self) -> Step | None:
        """What is next, or None: `Wake` says when to ask again. A message that is out must be settled first."""
        if self._out is not None or self._is_loading:
            return None
        while True:
            self._advance()
            if self._due:
                return self._due.popleft()
            if (
                self._must_load
                and self._has_loader
                and self.position is not None
                and not self._skip_due
                and self.is_wanted
            ):
                if self._load_timer.is_set:
                    return None
                self._must_load = False
                self._is_loading = True
                self._load_life = self._life
                return Load(self.name, self.position)
            if not self._queue:
                return None
            item = self._queue.popleft()
            assert isinstance(item, _Message)
            message = item.message
            if not message.snapshot:
                if self._is_behind(message.epoch, message.serial):
                    self._acknowledge(item)
                    continue
                if self._skip_due:
                    # The server never said what became of the old position. Do not leave that out silently.
                    self._queue.appendleft(item)
                    self._tell(None, None, "unexplained", Position(message.epoch, message.serial - 1))
                    continue
                self._wires.counted(1, 0)
            self._out = item
            return message

    def settle(self, processed: bool) -> None:
        """The message that is out was processed; or it was not, and is the first of whoever comes next."""
        item, self._out = self._out, None
        if item is None:
            return
        message = item.message
        behind = not message.snapshot and self._is_behind(message.epoch, message.serial)
        if not processed and not behind:
            if item.life == self._life:
                self._queue.appendleft(item)
                self._wake()
            return
        if not message.snapshot and item.life == self._life:
            self._retry_backoff.reset()
            if not behind:
                self._move_to(message.position)
            self._acknowledge(item)
        self._advance()

    def processed_through(self, serial: int) -> None:
        """Everything through `serial` is processed, whatever the consumer does next."""
        at = self.position
        if at is not None and at.epoch == self._tracker.epoch and at.serial < serial <= self._tracker.serial:
            self._move_to(Position(at.epoch, serial))
        if self._out is not None and self._is_behind(self._out.message.epoch, self._out.message.serial):
            self.settle(True)

    def loaded(self, through: int | Position | None) -> None:
        """The state is loaded; it says that it stands at `through`, if it knows."""
        self._is_loading = False
        if self._load_life == self._life and self.position is not None:
            at = self.position
            if isinstance(through, int):
                through = Position(at.epoch, through)
            # The state may stand further on than the position it was asked at.
            if through is not None and at.epoch == through.epoch and through.serial > at.serial:
                self._move_to(through)
            self._load_backoff.reset()
            for handle in self._take_load_handles():
                self._wires.emit(Settle(handle, None))
        self._advance()
        self._wake()

    def load_failed(self, text: str) -> None:
        """It is called again, with backoff."""
        self._is_loading = False
        if self._load_life == self._life:
            self._must_load = True
            self._load_timer.set(self._load_backoff.next_ms())
            self._wires.emit(Tell(Report(SeriatimError("load_state", text, channel=self.name), self.name)))
        self._wake()

    # -- what the line does ------------------------------------------------------------------------------------------

    def line_up(self) -> None:
        if self.is_wanted:
            self._ask()

    def attach_again(self) -> None:
        """From the position, for a new sync of who is present."""
        if self.state == "attached":
            self._ask()

    def line_down(self, reason: str) -> None:
        """Consumers go on with what was received; what is left at the next attach will be sent again."""
        self._asks += 1
        self._retry_timer.clear()
        self._ack_timer.clear()
        self._cadence.begin(0)
        self._rows = None
        if self.is_wanted:
            self.state = "attaching"
            self.reason = reason

    def take_ack(self) -> int | None:
        """The serial to acknowledge, or None. From here it counts as said."""
        return self._cadence.take() if self.state == "attached" else None

    def receive(self, frame: ServerFrame, size_bytes: int) -> None:
        """A frame of this channel that is no answer to a request."""
        if isinstance(frame, Attached):
            if self.state == "attached":
                self._attached(frame)
        elif isinstance(frame, Detached):
            # While an attach is on its way its answer decides; this one is about the attachment before.
            if self.is_wanted and not self.is_asking:
                self._leave(frame.reason, None)
        elif self.state != "attached":
            pass  # Of an attachment that is over: what stands after the new `attached` will say it again.
        elif isinstance(frame, MessageFrame):
            self._message(frame, size_bytes)
        elif isinstance(frame, Skipped):
            self._skipped(frame)
        elif isinstance(frame, SnapshotEnd):
            self._snapshot_end(frame)

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> int:
        """The newest serial known to be in the log."""
        return max(self._head, self._tracker.serial)

    @property
    def behind(self) -> int:
        """How many messages are known to be in the log and not processed."""
        if self.position is None or self.state == "detached":
            return 0
        if self.position.epoch != self._tracker.epoch:
            return len(self._queue)
        return max(0, self.head - self.position.serial)

    @property
    def is_catching_up(self) -> bool:
        """Whether messages that were in the log at the attach are still to come."""
        return self.state == "attached" and not self._is_level

    @property
    def is_asking(self) -> bool:
        """Whether an attach was sent and not answered."""
        return self.state == "attaching" and not self._retry_timer.is_set

    # -- attaching ---------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._retry_timer.clear()
        self._drop()
        self._cadence.begin(0)
        self._ack_timer.clear()
        self.state = "attaching"
        if not self._wires.is_up():
            self.reason = "the line is away"
            return
        self.reason = "asked the server"
        self._asks += 1
        ask, restart, from_ = self._asks, self._restart, self._from_now()
        frame: dict[str, Any] = {"type": "attach", "channel": self.name, "from": wire_from(from_)}
        if self._window is not None:
            frame["window"] = self._window
        if self._presence:
            frame["presence"] = True
        if self._delta:
            frame["delta"] = "fossil"

        def answered(answer: ServerFrame) -> None:
            if ask != self._asks:
                return
            if isinstance(answer, Attached):
                self._attached(answer, restart, from_ == "latest")
            elif isinstance(answer, ErrorFrame):
                self._refused(answer.error(self.name))

        self._wires.request(frame, answered)
        self._wires.changed()

    def _from_now(self) -> From:
        if self._restart is not None:
            return self._restart
        if isinstance(self._from, Cursor) or self.position is None:
            return self._from
        return self.position

    def _refused(self, error: SeriatimError) -> None:
        if error.retry or error.code == "unauthorized":
            self.reason = f"refused with {error.code}; asks again"
            self._wires.emit(Tell(Report(error, self.name)))
            wait_ms = self._retry_backoff.next_ms() if error.retry_after_ms is None else error.retry_after_ms
            self._retry_timer.set(wait_ms)
            self._wires.changed()
        else:
            self._leave(error.code, error)

    def _leave(self, reason: str, error: SeriatimError | None) -> None:
        self.is_wanted = False
        self._restart = None
        self.state = "detached"
        self.reason = reason
        self.attached_as = None
        self._asks += 1
        self._life += 1
        self._retry_timer.clear()
        self._load_timer.clear()
        self._ack_timer.clear()
        self._cadence.begin(0)
        self._drop()
        why = error or SeriatimError("detached", f"The channel was detached: {reason}.", channel=self.name)
        self._fail_handles(why)
        self._wires.emit(End(self.name, reason, None if reason == "asked" else why))
        self._wires.detached(self.name, why)
        self._wires.changed()

    def _fail_handles(self, error: SeriatimError) -> None:
        handles, self._attach_handles = self._attach_handles, []
        for handle in handles + self._take_load_handles():
            self._wires.emit(Fail(handle, error))

    def _take_load_handles(self) -> list[object]:
        handles, self._load_handles = self._load_handles, []
        return handles

    def _drop(self) -> None:
        self._queue.clear()
        self._rows = None
        self._skip_due = False

    def _attached(self, frame: Attached, restart: From | None = None, with_snapshot: bool = False) -> None:
        """`restart`: the caller gave `from` anew, so the position before says nothing about this one."""
        self._generation += 1
        self.state = "attached"
        self.reason = "the server confirmed it" if frame.is_asked else "the log is new"
        self.attached_as = frame
        self._tracker.begin(frame.epoch, frame.serial)
        self._data.begin(frame.delta)
        self._head = frame.head
        self._cadence.begin(0 if frame.window == 0 else frame.ack_every)
        self._ack_ms = frame.ack_ms
        self._ack_timer.clear()
        # The first epoch of a log that was followed from before its first message is no backlog.
        if frame.is_asked or not frame.resumed:
            self._target = frame.head
            self._is_level = not with_snapshot and frame.head <= frame.serial
        if with_snapshot:
            self._rows = _Rows([], restart)
        else:
            self._push(_Begin(frame, restart))
        handles, self._attach_handles = self._attach_handles, []
        for handle in handles:
            self._wires.emit(Settle(handle, frame))
        self._wires.emit(Tell(frame))
        if frame.is_asked:
            self._wires.attached(self.name)
        self._wires.changed()

    # -- frames of the stream ----------------------------------------------------------------------------------------

    def _message(self, frame: MessageFrame, size_bytes: int) -> None:
        if frame.snapshot and self._rows is not None:
            if (row := self._read(frame)) is not None:
                self._rows.rows.append((row, size_bytes))
            return
        step = self._tracker.take(frame.serial)
        if step == "gap":
            text = f"Expected serial {self._tracker.serial + 1}, got {frame.serial}; resuming from the own position."
            self._again("gap", text)
        elif step == "next" and (row := self._read(frame)) is not None:
            # The server's window counts what the data are, not how few bytes told them.
            size_bytes = max(size_bytes, self._data.size_bytes)
            self._push(self._item(row, self._tracker.epoch, size_bytes))

    def _read(self, frame: MessageFrame) -> MessageFrame | None:
        """The message with its data, made out of what came; None: that was not possible."""
        try:
            data = self._data.read(frame)
            return frame if data is frame.data else replace(frame, data=data, base=None)
        except DeltaError as error:
            text = f"Message {frame.serial} cannot be read: {error}; resuming from the own position."
            self._again("delta", text)
            return None

    def _item(self, frame: MessageFrame, epoch: str | None, size_bytes: int) -> _Message:
        return _Message(Message.of(frame, epoch), size_bytes, self._generation, self._life)

    def _skipped(self, frame: Skipped) -> None:
        if self._tracker.skip(frame.start, frame.to) == "gap":
            text = f"Expected serial {self._tracker.serial + 1}, got {frame.start}; resuming from the own position."
            self._again("gap", text)
            return
        self._data.forget()
        # A skip that `attached` already counted (its serial is the skip's `to`) still has to be told.
        self._push(_Skip(frame, Position(self._tracker.epoch, self._tracker.serial)))

    def _snapshot_end(self, frame: SnapshotEnd) -> None:
        if self._rows is None:
            return
        rows, self._rows = self._rows, None
        position = Position(frame.epoch, frame.serial)
        self._tracker.begin(frame.epoch, frame.serial)
        self._push(_SnapshotBegin(position, len(rows.rows)))
        for row, size_bytes in rows.rows:
            self._push(self._item(row, frame.epoch, size_bytes))
        self._push(_SnapshotDone(position, rows.restart))

    def _again(self, code: str, text: str) -> None:
        """What came is not what was sent: says so, and resumes on the same connection."""
        self._wires.emit(Tell(Report(SeriatimError(code, text, channel=self.name), self.name)))
        if not self.is_wanted:
            return
        # At once the first time; a fault that comes again is not answered in a tight loop.
        if self._retry_backoff.attempt == 0:
            self._retry_backoff.next_ms()
            self._ask()
            return
        self._drop()
        self.state = "attaching"
        self.reason = "what came was not what was sent; asks again"
        self._retry_timer.set(self._retry_backoff.next_ms())
        self._wires.changed()

    def _push(self, item: _Item) -> None:
        self._queue.append(item)
        self._advance()
        self._wake()

    def _wake(self) -> None:
        self._wires.emit(Wake(self.name))

    # -- processing --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Handles the control items in front, unless something before them is not done."""
        while self._queue and self._out is None and not self._due and not self._is_loading:
            item = self._queue[0]
            if isinstance(item, _Message):
                return
            self._queue.popleft()
            match item:
                case _Begin(frame, restart):
                    self._begin(frame, restart)
                case _Skip(frame, position):
                    self._skip(frame, position)
                case _SnapshotBegin(position, count):
                    self._due.append(Snapshot(self.name, position, count))
                case _SnapshotDone(position, restart):
                    self._restarted(restart)
                    self._move_to(position)
                    self._must_load |= self._has_loader
                case _:
                    assert_never(item)

    def _restarted(self, restart: From | None) -> None:
        # Unless the caller gave another one meanwhile.
        if self._restart is restart:
            self._restart = None

    def _begin(self, frame: Attached, restart: From | None) -> None:
        self._restarted(restart)
        before = self.position if restart is None else None
        start = Position(frame.epoch, frame.serial)
        if not frame.resumed:
            self._skip_due = True
        elif before is None:
            self._move_to(start)
            self._must_load |= self._has_loader
        elif before.epoch == start.epoch:
            # A cursor may stand behind us (its messages are dropped by serial), or ahead: another connection moved it.
            if start.serial > before.serial:
                reason = "cursor" if isinstance(self._from, Cursor) else "unexplained"
                self._tell(before.serial + 1, start.serial, reason, start)
        elif before.epoch is None:
            # The first publish came while we waited for it, or were away: then its retention may be over too.
            if start.serial > 0:
                self._tell(1, start.serial, "retention", start)
            else:
                self._move_to(start)
        else:
            self._tell(None, None, "epoch", start)

    def _skip(self, frame: Skipped, position: Position) -> None:
        self._skip_due = False
        # Without numbers the log itself is another, or lost its end: then the position goes back.
        if frame.to is not None and self._is_behind(position.epoch, position.serial):
            return
        # What was in the hands of the consumer when the line was lost may be processed by now.
        first, at = frame.start, self.position
        if first is not None and at is not None and at.epoch == position.epoch:
            first = max(first, at.serial + 1)
        self._tell(first, frame.to, frame.reason, position)

    def _tell(self, first: int | None, last: int | None, reason: str, position: Position) -> None:
        """Moves the position over what cannot be had, and says so."""
        before = self.position
        self._skip_due = False
        self._move_to(position)
        # A conflated channel goes on with the newest of each key: that is the state.
        if self._has_loader and reason != "conflated":
            self._must_load = True
        self._wires.counted(0, 0 if first is None or last is None else last - first + 1)
        self._due.append(Discontinuity(self.name, first, last, reason, before, position))

    def _acknowledge(self, item: _Message) -> None:
        if item.generation != self._generation or self.state != "attached":
            return
        self._processed_at_ms = self._clock.now_ms
        if self._cadence.processed(item.message.serial, item.size_bytes):
            self._wires.send_acks()
        elif self._cadence.is_pending and self._ack_ms > 0 and not self._ack_timer.is_set:
            self._ack_timer.set(self._ack_ms)

    def _ack_time(self) -> None:
        if not self._cadence.is_pending:
            return
        # `ack_ms` counts from the last processed message; the timer was set at an earlier one.
        left_ms = self._processed_at_ms + self._ack_ms - self._clock.now_ms
        if left_ms > 0:
            self._ack_timer.set(left_ms)
        else:
            self._wires.send_acks()

    def _is_behind(self, epoch: str | None, serial: int) -> bool:
        return self.position is not None and self.position.epoch == epoch and serial <= self.position.serial

    def _move_to(self, position: Position) -> None:
        self.position = position
        if not self._is_level and position.epoch == self._tracker.epoch and position.serial >= self._target:
            self._is_level = True
            self._wires.changed()
