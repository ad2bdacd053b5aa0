"""What is to be published, until the server has answered that it is stored. Pure.

Order. Each channel has a lane. Frames of a lane are sent without waiting for answers, but each behind another carries
`chained`: when one fails, those behind it fail with `order` instead of overtaking it. A lane in which one failed halts
until all that is in flight has been answered, waits as long as the server said, and starts again from its first
message. When the line is lost everything unanswered is sent again, in the same order and with the same ids; what was
stored already answers with its first serial.

    waiting ──sent over the line──▶ pending ──published──▶ sent
       ▲                               │
       └── line lost, order, retry ────┴── refused for good ──▶ failed
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Literal, Protocol

from seriatim_client.backoff import Backoff, BackoffOptions, Random
from seriatim_client.clock import Clock
from seriatim_client.connection import OnAnswer
from seriatim_client.data import byte_count, message_json
from seriatim_client.errors import SeriatimError
from seriatim_client.frames import ErrorFrame, PublishedFrame, ServerFrame
from seriatim_client.messages import Published

MOST_FAULTS: Final = 5
"""How often `internal` is tried again for one message before it counts as poison."""
FRAME_ROOM_BYTES: Final = 1024
"""Room for everything in a publish frame but the message."""


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """What waits to be sent is bounded; beyond it a publish fails with `outbox_full`."""

    max_messages: int = 1_000
    max_bytes: int = 4 * 1024 * 1024
    """Of data."""
    max_in_flight: int = 64


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message that is not stored yet.

    `reason` it waits for: `connection`, `order` (one before it waits), or the code of the refusal that is tried again.
    `attempts`: how often it was sent.
    """

    id: str
    channel: str
    state: Literal["waiting", "pending"]
    reason: str | None
    retry_at_ms: float | None
    attempts: int


@dataclass(slots=True, eq=False)
class _Item:
    handle: object
    channel: str
    id: str
    text: str
    """JSON of the message."""
    size_bytes: int
    """Of its data."""
    in_flight: bool = False
    attempts: int = 0
    faults: int = 0
    """How often the server said `internal`."""


@dataclass(slots=True, eq=False)
class _Lane:
    channel: str
    backoff: Backoff
    items: deque[_Item] = field(default_factory=deque)
    in_flight: int = 0
    """The first so many of `items` are."""
    halted: bool = False
    """One failed; nothing is sent until everything in flight is answered."""
    retry_at_ms: float = 0
    reason: str | None = None


class Outlet(Protocol):
    """What becomes of a message."""

    def stored(self, handle: object, receipt: Published) -> None: ...
    def failed(self, handle: object, error: SeriatimError) -> None: ...


SendPublish = Callable[[dict[str, Any], OnAnswer, str], None]


class Outbox:
    """Bounded: by `limits` what waits, by `max_in_flight` what is on its way."""

    def __init__(self, clock: Clock, random: Random, limits: OutboxLimits, outlet: Outlet) -> None:
        self._clock = clock
        self._random = random
        self._limits = limits
        self._outlet = outlet
        self._lanes: dict[str, _Lane] = {}
        self.size = 0
        self._size_bytes = 0
        self._in_flight = 0
        self._send: SendPublish | None = None
        self._max_frame_bytes = inf
        self._owner: str | None = None
        self._timer = clock.timer(lambda late_ms: self._fill())

    @property
    def has_room(self) -> bool:
        """Whether at least half of its limits is free."""
        return self.size * 2 <= self._limits.max_messages and self._size_bytes * 2 <= self._limits.max_bytes

    def entries(self) -> list[Unsent]:
        """What is not stored yet; in order within each channel."""
        return [
            self._explain(lane, item, index) for lane in self._lanes.values() for index, item in enumerate(lane.items)
        ]

    def add(self, handle: object, channel: str, id: str, event: str, key: str | None, data: str) -> None:
        """Queues a message, `data` being JSON text, and sends it as soon as its turn comes. Raises when it cannot."""
        text = message_json(id, event, key, data)
        size_bytes = byte_count(data)
        if self.size >= self._limits.max_messages or self._size_bytes + size_bytes > self._limits.max_bytes:
            raise SeriatimError(
                "outbox_full",
                f"{self.size} messages wait to be sent; there is no room for more.",
                channel=channel,
                remedy="Wait for `drain()`, or raise the limits of the outbox.",
            )
        lane = self._lanes.get(channel)
        if lane is None:
            backoff = Backoff(BackoffOptions(first_ms=500), self._random)
            lane = self._lanes[channel] = _Lane(channel, backoff)
        lane.items.append(_Item(handle, channel, id, text, size_bytes))
        self.size += 1
        self._size_bytes += size_bytes
        self._fill()

    def open(self, send: SendPublish, max_frame_bytes: float) -> None:
        """The line is up: everything queued is sent in order."""
        self._send = send
        self._max_frame_bytes = max_frame_bytes
        self._fill()

    def shut(self) -> None:
        """The line is lost. What was in flight has an unknown outcome, so it waits to be sent again."""
        self._send = None
        self._in_flight = 0
        self._timer.clear()
        for lane in self._lanes.values():
            lane.in_flight = 0
            lane.halted = False
            for item in lane.items:
                item.in_flight = False

    def set_owner(self, owner: str) -> None:
        """Says whose line it is. Sending what another one wrote would put words into the wrong mouth."""
        if self._owner is not None and owner != self._owner:
            self.abandon(SeriatimError("identity"))
        self._owner = owner

    def discard(self, handle: object) -> bool:
        """Takes back a message that was never sent; False when it was, or is not here."""
        for lane in self._lanes.values():
            for item in lane.items:
                if item.handle is handle:
                    if item.attempts > 0:
                        return False
                    self._fail(lane, item, SeriatimError("discarded", channel=lane.channel))
                    self._fill()
                    return True
        return False

    def abandon(self, error: SeriatimError) -> None:
        """Gives up on everything."""
        self.shut()
        for lane in list(self._lanes.values()):
            for item in list(lane.items):
                self._fail(lane, item, error)
        self._lanes.clear()

    def _remove(self, lane: _Lane, item: _Item) -> None:
        lane.items.remove(item)
        self.size -= 1
        self._size_bytes -= item.size_bytes

    def _fill(self) -> None:
        """Sends what may be sent: lanes take turns, so that a long one does not hold up the others."""
        if self._send is None:
            return
        now_ms = self._clock.now_ms
        next_at_ms = inf
        sent = True
        while sent and self._in_flight < self._limits.max_in_flight:
            sent = False
            for lane in list(self._lanes.values()):
                if lane.halted or self._in_flight >= self._limits.max_in_flight:
                    continue
                if lane.retry_at_ms > now_ms:
                    next_at_ms = min(next_at_ms, lane.retry_at_ms)
                    continue
                lane.retry_at_ms = 0
                lane.reason = None
                if lane.in_flight >= len(lane.items):
                    if not lane.items:
                        del self._lanes[lane.channel]
                    continue
                sent = True
                self._send_one(lane, lane.items[lane.in_flight], self._send)
        if next_at_ms < inf:
            self._timer.set(next_at_ms - now_ms)

    def _send_one(self, lane: _Lane, item: _Item, send: SendPublish) -> None:
        if byte_count(item.text) + FRAME_ROOM_BYTES > self._max_frame_bytes:
            # The server would close the connection, and every later one that tries.
            error = SeriatimError("too_large", channel=lane.channel, remedy="Send less at once.")
            self._fail(lane, item, error)
            return
        frame: dict[str, Any] = {"type": "publish", "channel": lane.channel}
        if lane.in_flight > 0:
            frame["chained"] = True
        item.in_flight = True
        item.attempts += 1
        lane.in_flight += 1
        self._in_flight += 1
        send(frame, lambda answer: self._answered(lane, item, answer), f'"messages":[{item.text}]')

    def _answered(self, lane: _Lane, item: _Item, answer: ServerFrame) -> None:
        if not item.in_flight:
            return
        item.in_flight = False
        lane.in_flight -= 1
        self._in_flight -= 1
        if isinstance(answer, PublishedFrame) and answer.serials:
            lane.backoff.reset()
            self._remove(lane, item)
            self._outlet.stored(item.handle, Published.of(answer, 0, item.id))
        elif isinstance(answer, ErrorFrame):
            self._refused(lane, item, answer.error(lane.channel))
        else:
            self._refused(lane, item, SeriatimError("internal", "The answer makes no sense.", channel=lane.channel))
        if lane.halted and lane.in_flight == 0:
            lane.halted = False
        self._fill()

    def _refused(self, lane: _Lane, item: _Item, error: SeriatimError) -> None:
        lane.halted = True
        if error.code == "order":
            return
        if error.code == "internal":
            item.faults += 1
        # `unauthorized` is about the connection: the close behind it decides, and the message waits for the next one.
        if error.code == "unauthorized" or (error.retry and item.faults < MOST_FAULTS):
            lane.reason = error.code
            wait_ms = lane.backoff.next_ms() if error.retry_after_ms is None else error.retry_after_ms
            lane.retry_at_ms = self._clock.now_ms + wait_ms
        else:
            self._fail(lane, item, error)

    def _fail(self, lane: _Lane, item: _Item, error: SeriatimError) -> None:
        self._remove(lane, item)
        self._outlet.failed(item.handle, error)

    def _explain(self, lane: _Lane, item: _Item, index: int) -> Unsent:
        if item.in_flight:
            return Unsent(item.id, item.channel, "pending", None, None, item.attempts)
        is_up = self._send is not None
        reason = "connection" if not is_up else "order" if index > 0 else lane.reason
        retry_at_ms = lane.retry_at_ms if is_up and index == 0 and lane.retry_at_ms > 0 else None
        return Unsent(item.id, item.channel, "waiting", reason, retry_at_ms, item.attempts)
