"""The hub: one per worker. It knows who follows which channel here, and gives each what comes next in its log.

Theory of operation
-------------------
A followed channel has an `Ordering`: the serial that was passed on here last, and what is held behind a hole. A
subscriber is a position. Those whose position is the channel's stand in *level sets*, keyed by encoding; a message
costs them two comparisons and one write of a payload that was encoded once. A set holds a thousand at most and has a
position of its own: sets that a turn of the loop has no time for are served in the next, together with what came
meanwhile. Everybody else is *behind* and reads the log from his position through a shared cache of blocks, until he is
level again. Whatever goes wrong (an announcement
lost, a hole that stays, a window that fills, a socket that takes nothing, a worker that was away) ends in the same
thing: a position that is behind. There is no second path.

What a subscriber is told about the log itself (skipped, another epoch) is decided only by bounds read from the primary.

The hub runs on one event loop, calls nothing that blocks and awaits nothing: reads are asked for with a callback
(`LogReader`), so that tests can drive it with a loop and a log of their own. It must not know Channels, sockets or
frames' contents. See docs/explanation/delivery.md.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from realtime.counting import SECONDS, Histogram
from realtime.cursors import CursorKey, Opened, Position
from realtime.delivery import conflation, recovery
from realtime.delivery.blocks import Block, BlockCache, Encoding, size_bytes
from realtime.delivery.deltas import Deltas
from realtime.delivery.ordering import Ordering
from realtime.delivery.recovery import Bounds, Plan, Skip
from realtime.delivery.signals import SignalQueue
from realtime.delivery.window import UNBOUNDED, Acked, Window
from realtime.log.types import Known, LogState, News
from realtime.protocol import positions
from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, is_platform_name

logger = logging.getLogger(__name__)

LEDGER_MESSAGES = 4096
"""Sizes of frames remembered per channel for windows of level subscribers; no window may be larger."""

EARLY_NEWS_MOST = 64
"""Announcements kept while a channel's state is read; what is beyond it is read from the log."""

WRITE_BYTES_MOST = 65_536
"""Bytes of frames joined for one write. What a socket does not take of a write is kept for it alone, unshared."""

STEPS_A_TURN = 128
"""Catch-up writes in one turn of the loop, so that acks, accepts and heartbeats get theirs."""

BOUNDS_FRESH_S = 0.02
"""How old bounds may be when a reader behind is served: retention that was told before his ack must be seen by him."""

ANEW_AFTER_S = 0.1
"""Pause between telling a new epoch and reading its log: all who follow begin at its start in one moment, and their
own reloading of state comes first."""

ANEW_APART_S = 0.0005
"""How far apart the subscribers of one channel begin then."""

ANEW_MOST_S = 1.0
"""The last of them begins no later."""

RETRY_S = 0.25
"""Pause before a failed read is asked again."""

CONFLATE_LOOK_MOST = 1024
"""Messages that one step looks at for the newest of each key, a tenth of a millisecond's work. Who is further behind is
given the newest of each key as the log keeps them."""

BALANCED_ATTACHMENTS = 2000
"""Attachments whose books are balanced by one call of `balance_some`, a millisecond's work. A larger channel is
balanced as a whole, and the next calls do nothing for it."""

CONFLATED_EVERY_S = 0.25
"""How often conflatable channels are served while the worker has too much to do: a picture that moves, at four a
second."""


_BlockKey = tuple[tuple[int | None, str | None], int]
"""A log in one epoch, and the number of a block of it."""


class Sink(Protocol):
    """Where a subscriber's frames go: one connection's outgoing side.

    Both calls return at once; what the socket does not take is buffered by the sink, which sets `congested` when that
    is over its mark and later has `Hub.drained` called for its subscribers.
    """

    encoding: Encoding
    congested: bool

    @property
    def writer(self) -> Callable[[Any], None]:
        """`write` for broadcasts, without what only a single sink has to mind."""

    def write(self, payload: object) -> None:
        """Sends what `encoding.encode` made."""

    def send(self, frame: dict[str, object]) -> None:
        """Sends a frame for this connection alone."""


Rows = tuple[list[tuple[int, str]], LogState]
"""Rows (serial, envelope) in order, and the state of their log as it was after they were read: what is missing among
them, and of which epoch they are, is explained only by that."""


class Reader(Protocol):
    """Reads of the log, asked for with a callback that is called on the loop; None says that the read failed.

    A read begins after it was asked for, never earlier; equal wishes may share one.
    """

    def state(self, channel: ChannelName, done: Callable[[LogState | None], None]) -> None: ...

    def changes(
        self, known: dict[ChannelName, Known], done: Callable[[dict[ChannelName, LogState] | None], None]
    ) -> None:
        """The states of those channels whose log is another than the known one, or has another head."""

    def rows(self, channel_id: int, after: int, upto: int, done: Callable[[Rows | None], None]) -> None: ...

    def since(self, state: LogState, time_ms: int, done: Callable[[int | None], None]) -> None: ...

    def fell(self, channel_id: int, epoch: str, reached: int, done: Callable[[bool | None], None]) -> None:
        """The log's head was read below `reached`, which is passed on. If so, it gets a new epoch, then `done`."""

    def snapshot(
        self, channel_id: int, key_limit: int, done: Callable[[tuple[LogState, list[tuple[int, str]]] | None], None]
    ) -> None: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Loop(Protocol):
    """What the hub needs of an event loop; asyncio's fits."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[..., object], *args: object) -> object: ...
    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer: ...


class Following(Protocol):
    """Told which channels have followers here, so that the backplane listens to them."""

    def follow(self, channel: ChannelName) -> None: ...
    def unfollow(self, channel: ChannelName) -> None: ...


class Cursors(Protocol):
    """Positions kept for clients; see realtime.cursors."""

    def open(self, key: CursorKey, head: Position, done: Callable[[Opened], None]) -> None: ...
    def note(self, key: CursorKey, position: Position) -> None: ...
    def store_soon(self, key: CursorKey) -> None: ...


class Overflow(Enum):
    """What happens in a channel to those who fall behind."""

    HOLD = "hold"
    """They get everything, when they can take it."""
    CONFLATE = "conflate"
    """They go on with the newest of each key."""
    CONFLATE_ALL = "conflate all"
    """The worker has too much to do: everybody does, some times a second."""


def _hold(channel: ChannelName) -> Overflow:
    return Overflow.HOLD


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Times in seconds, sizes in bytes; the defaults and their reasons are in realtime.conf."""

    hold_s: float = 0.03
    sweep_grace_s: float = 0.25
    linger_s: float = 5.0
    window_bytes: int = 1 << 20
    block_messages: int = 64
    cache_bytes: int = 32 << 20
    delta_bytes: int = 16 << 10
    writes_a_turn: int = 1024
    """Writes to level subscribers in one turn of the loop, some milliseconds' worth, so that acks, accepts and
    heartbeats get theirs; also how many stand in one level set."""


class Mode(Enum):
    JOINING = "joining"
    """Its attach is being answered."""
    LEVEL = "level"
    """In a level set, whose position is its own."""
    BEHIND = "behind"
    """Reading on: scheduled, or waiting for a read."""
    WAITING = "waiting"
    """Its window is full or its socket takes nothing: costs nothing until it acks or drains."""
    AHEAD = "ahead"
    """It attached at a head that this worker has not heard of yet."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Attaching:
    """What an attach asks for, authorised and parsed."""

    channel: ChannelName
    position: positions.From
    window: int
    ack_every: int
    ack_ms: int
    key_limit: int
    client: str = ""
    """Whose cursor it is, where the position is one."""
    deltas: bool = False
    """Whether data come as strings, whole or as differences to the message before."""

    @property
    def cursor(self) -> CursorKey | None:
        name = self.position.name if isinstance(self.position, positions.Cursor) else None
        return None if name is None else CursorKey(self.channel, self.client, name)


class Subscriber:
    """One attachment: a position in a channel, its window and its sink."""

    __slots__ = (
        "attaching",
        "byte_limit",
        "carried",
        "cursor",
        "followed",
        "holds",
        "left_out",
        "level",
        "limit",
        "mode",
        "on_end",
        "position",
        "queued",
        "signals",
        "sink",
        "slow",
        "snapshot",
        "start",
        "whole_through",
        "window",
    )

    def __init__(self, attaching: Attaching, sink: Sink, followed: Followed, on_end: Callable[[str], None]) -> None:
        self.attaching = attaching
        self.cursor = attaching.cursor
        self.sink = sink
        self.followed = followed
        self.on_end = on_end
        """Called when the hub ends the attachment by itself, with an error code."""
        self.mode = Mode.JOINING
        self.level: Level | None = None
        """The set it stands in while its mode is LEVEL."""
        self.holds = False
        """Whether the message at its position was delivered on this attachment: then a delta may follow on it."""
        self.position = 0
        self.window = Window(0, 0, 0)
        self.limit = 0
        self.byte_limit = 0
        self.queued = False
        self.snapshot: deque[str] | None = None
        self.signals: SignalQueue | None = None
        """Kept by `realtime.signalling` while its sink is congested."""
        self.slow = False
        """It had to wait for an ack or for its socket since it was level last."""
        self.whole_through = 0
        """Nothing is conflated through this serial: what it asked for is history."""
        self.start = 0
        """Where delivery began in this epoch."""
        self.left_out: dict[str, int] | None = None
        """Serials behind `start` that were not delivered, and it was told so, by reason. None: all were."""
        self.carried = 0
        """Messages that were delivered in epochs before."""

    @property
    def reached(self) -> int:
        """Its position, whichever way it is served."""
        return self.position if self.level is None else self.level.position

    @property
    def delivered(self) -> int:
        """Messages that were written to it, told from positions alone: position − start − what was left out."""
        return self.carried + self.reached - self.start - sum((self.left_out or {}).values())

    def leave_out(self, reason: str, count: int) -> None:
        """So many serials behind its position are passed over."""
        self.left_out = self.left_out or {}
        self.left_out[reason] = self.left_out.get(reason, 0) + count
        self.followed.books.left_out[reason] += count

    def begin_at(self, serial: int) -> None:
        """Delivery begins behind this serial, at an attach or in another epoch."""
        self.carried = self.delivered
        self.position = self.start = serial
        self.left_out = None
        self.holds = False

    def attached_frame(self, epoch: str | None, serial: int, head: int, resumed: bool) -> dict[str, object]:
        """The `attached` frame; the caller adds `ref` when it answers a request."""
        frame: dict[str, object] = {
            "type": "attached",
            "channel": self.attaching.channel,
            "epoch": epoch,
            "serial": serial,
            "head": head,
            "resumed": resumed,
            "window": self.attaching.window,
            "ack_every": self.attaching.ack_every,
            "ack_ms": self.attaching.ack_ms,
        }
        if self.attaching.deltas:
            frame["delta"] = "fossil"
        return frame


@dataclass(frozen=True, slots=True)
class Attached:
    """The answer to an attach: what to tell the client before `Hub.begin`."""

    frame: dict[str, object]
    skipped: dict[str, object] | None
    exists: bool
    """Whether there is such a channel: one that was never published to may still wait for an operator to create it."""


Answer = Attached | ProtocolError | None
"""What comes of an attach; None: the database is away."""


class Level:
    """Subscribers of one channel and encoding who have been sent the same: everything through `position`. Those with
    deltas stand apart, and among them those who hold the message at the position from those who do not yet.

    What a broadcast needs of them stands together: the ways to write, and how far all may go.
    """

    __slots__ = (
        "_ways",
        "byte_limit",
        "bytes_sent",
        "deltas",
        "encoding",
        "holds",
        "limit",
        "members",
        "position",
        "queued",
        "sent_at",
    )

    def __init__(self, encoding: Encoding, deltas: bool, holds: bool, position: int, bytes_sent: int) -> None:
        self.encoding = encoding
        self.deltas = deltas
        self.holds = holds
        """Whether all have been sent the message at the position; always false without deltas, where it is all one."""
        self.position = position
        self.bytes_sent = bytes_sent
        """`Followed.bytes_sent` as it was at the position."""
        self.members: dict[Subscriber, None] = {}
        self.limit = UNBOUNDED
        """No member's window ends before this serial; it may have been opened further since."""
        self.byte_limit = UNBOUNDED
        """The same in bytes, counted as `bytes_sent` is."""
        self.sent_at = float("-inf")
        """When something was written to all."""
        self.queued = False
        """Late: its turn comes."""
        self._ways: Any = None

    def add(self, subscriber: Subscriber) -> None:
        subscriber.level = self
        self.members[subscriber] = None
        self.limit = min(self.limit, subscriber.limit)
        self.byte_limit = min(self.byte_limit, subscriber.byte_limit)
        self._ways = None

    def remove(self, subscriber: Subscriber) -> None:
        subscriber.level = None
        del self.members[subscriber]
        self._ways = None

    @property
    def ways(self) -> Any:
        """What the encoding writes to all with."""
        if self._ways is None:
            self._ways = self.encoding.ways([subscriber.sink.writer for subscriber in self.members])
        return self._ways

    def rewire(self) -> None:
        self._ways = None

    def without_room(self, last: int, before_last: int) -> list[Subscriber]:
        """Members whose window has no room for everything through serial `last`, `before_last` bytes before it."""
        if last <= self.limit and before_last < self.byte_limit:
            return []
        found: list[Subscriber] = []
        self.limit = self.byte_limit = UNBOUNDED
        for each in self.members:
            if last <= each.limit and before_last < each.byte_limit:
                self.limit = min(self.limit, each.limit)
                self.byte_limit = min(self.byte_limit, each.byte_limit)
            else:
                found.append(each)
        return found


@dataclass(slots=True)
class Books:
    """What was delivered of one channel, since this worker began to follow it."""

    written: int = 0
    """Messages, as they were counted while they were written."""
    settled: int = 0
    """Messages delivered to attachments that have ended, as their positions tell."""
    ended: int = 0
    """Those attachments."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Serials that attachments were told they do not get, by reason."""
    off: int = 0
    """By how many messages positions and writes differed when that was looked at last."""


class Followed:
    """One channel with followers on this worker."""

    __slots__ = (
        "ahead",
        "books",
        "bounds",
        "bounds_at",
        "bytes_sent",
        "channel_id",
        "early",
        "epoch",
        "gathered",
        "hole_timer",
        "ledger",
        "ledger_first",
        "levels",
        "linger_timer",
        "name",
        "order",
        "subscribers",
    )

    def __init__(self, name: ChannelName) -> None:
        self.name = name
        self.channel_id: int | None = None
        self.epoch: str | None = None
        self.order: Ordering | None = None
        self.bounds = Bounds(None, 1, 0)
        self.bounds_at = float("-inf")
        self.levels: dict[tuple[Encoding, bool], list[Level]] = {}
        """By encoding, and whether data come as deltas."""
        self.subscribers: set[Subscriber] = set()
        self.ahead: set[Subscriber] = set()
        self.books = Books()
        self.bytes_sent = 0
        self.ledger = array("I")
        """Sizes of the frames passed on last, ending at the ordering's position."""
        self.ledger_first = 1
        self.early: list[News] = []
        """News heard before the log was read."""
        self.gathered: list[Subscriber] = []
        """Who waits for the next serving, while everybody is conflated."""
        self.hole_timer: Timer | None = None
        self.linger_timer: Timer | None = None

    @property
    def log_key(self) -> tuple[int | None, str | None]:
        return (self.channel_id, self.epoch)

    @property
    def delivered(self) -> int:
        """Messages that were written to all who are or were attached, told from positions alone."""
        return self.books.settled + sum([each.delivered for each in self.subscribers])

    def restart_ledger(self, position: int) -> None:
        self.ledger = array("I")
        self.ledger_first = position + 1

    def record(self, sizes: array[int]) -> None:
        """Frames of these sizes are passed on now."""
        self.bytes_sent += sum(sizes)
        self.ledger.extend(sizes)
        if len(self.ledger) > 2 * LEDGER_MESSAGES:
            cut = len(self.ledger) - LEDGER_MESSAGES
            del self.ledger[:cut]
            self.ledger_first += cut

    def level_at(self, position: int, encoding: Encoding, deltas: bool, holds: bool, most: int) -> Level:
        """A set at the channel's position with room for one more."""
        levels = self.levels.setdefault((encoding, deltas), [])
        for level in levels:
            if level.position == position and level.holds is holds and len(level.members) < most:
                return level
        levels.append(Level(encoding, deltas, holds, position, self.bytes_sent))
        return levels[-1]


@dataclass(slots=True)
class Census:
    """Attachments at one moment; see `Hub.census`."""

    channels: int = 0
    modes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """How many are "joining", "level", "behind", "ahead"; "waiting_ack" for a full window, "waiting_socket"."""
    behind_most: int = 0
    """Messages that the furthest behind has before it."""


class Hub:
    """Order, holes, fan-out and catching up for one worker. Every method runs on the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        reader: Reader,
        following: Following,
        cursors: Cursors,
        settings: HubSettings,
        overflow: Callable[[ChannelName], Overflow] = _hold,
    ) -> None:
        """`overflow` is asked whenever it matters, so that an operator's change holds at once."""
        self._loop = loop
        self._reader = reader
        self._following = following
        self._cursors = cursors
        self._settings = settings
        self._overflow = overflow
        self._channels: dict[ChannelName, Followed] = {}
        self._blocks = BlockCache(settings.cache_bytes, settings.block_messages)
        self.deltas = Deltas(settings.delta_bytes)
        self._loading: dict[tuple[object, int], list[Subscriber]] = {}
        self._ready: deque[Subscriber] = deque()
        self._running = False
        self._sweeping = False
        self._doubting = False
        self._late: deque[tuple[Followed, Level]] = deque()
        """Level sets whose turn comes, oldest first."""
        self._writes = 0
        """Writes to level subscribers in this turn of the loop."""
        self._counting = False
        self.counts = {
            "delivered": 0,
            "payloads": 0,
            "holes": 0,
            "healed": 0,
            "duplicates": 0,
            "blocks_read": 0,
            "late": 0,
            "bytes": 0,
            "early": 0,
            "sent": 0,
            "cache_hits": 0,
            "cache_misses": 0,
            "swept": 0,
            "swept_behind": 0,
            "swept_epochs": 0,
            "fallen": 0,
            "conflated": 0,
            "balanced": 0,
            "imbalances": 0,
        }
        """Totals since start, for metrics and for tests that must know that a fault really hit."""
        self.skips: defaultdict[str, int] = defaultdict(int)
        """Subscribers that were told `skipped`, by reason."""
        self.skipped: defaultdict[str, int] = defaultdict(int)
        """Serials that they were told of, where those are known."""
        self.settled = 0
        """Messages delivered to attachments that have ended, as their positions tell."""
        self.unbalanced: dict[ChannelName, int] = {}
        """Channels whose books were off when they were looked at last, and by how many messages."""
        self._to_balance: deque[ChannelName] = deque()
        self._balance_room = 0
        self.sweep_seconds = Histogram(SECONDS)
        self._sweep_began = 0.0

    # ------------------------------------------------------------------ attachments

    def attach(
        self,
        attaching: Attaching,
        sink: Sink,
        done: Callable[[Subscriber, Answer], None],
        on_end: Callable[[str], None],
    ) -> Subscriber:
        """Attaches `sink`; `done(subscriber, answer)` is called once, unless the subscriber is detached before.

        The answer rests on a read begun after this call; None says that the database is away. After telling the
        client the answer, the caller must call `begin`.
        """
        followed = self._follow(attaching.channel)
        subscriber = Subscriber(attaching, sink, followed, on_end)
        followed.subscribers.add(subscriber)
        self._reader.state(attaching.channel, lambda state: self._plan(subscriber, state, done))
        return subscriber

    def begin(self, subscriber: Subscriber) -> None:
        """Starts delivery, after the client was told."""
        if subscriber.mode is Mode.JOINING:
            subscriber.mode = Mode.BEHIND
            order, asked = subscriber.followed.order, subscriber.attaching.position
            if order is not None and isinstance(asked, positions.Resume | positions.Cursor):
                # It was away for longer than its window holds: no better than one that was slow.
                subscriber.slow = 0 < subscriber.window.size < order.position - subscriber.position
            self._step(subscriber)

    def detach(self, subscriber: Subscriber) -> None:
        """Ends an attachment: nothing more is written for it. Idempotent."""
        if subscriber.mode is Mode.GONE:
            return
        followed = subscriber.followed
        self._leave_level(subscriber)
        subscriber.mode = Mode.GONE
        self.settled += subscriber.delivered
        followed.books.settled += subscriber.delivered
        followed.books.ended += 1
        if subscriber.cursor is not None:
            self._cursors.store_soon(subscriber.cursor)
        followed.ahead.discard(subscriber)
        followed.subscribers.discard(subscriber)
        if not followed.subscribers:
            followed.linger_timer = self._loop.call_later(self._settings.linger_s, self._forget, followed)

    def ack(self, subscriber: Subscriber, serial: int) -> bool:
        """Everything through `serial` is processed; False when that acknowledges what was never sent."""
        window = subscriber.window
        if subscriber.mode is Mode.LEVEL:
            self._settle(subscriber)
        result = window.ack_through(serial)
        if result is Acked.ADVANCED:
            self._note(subscriber, serial)
            if subscriber.mode is Mode.LEVEL:
                subscriber.limit = window.limit
                assert subscriber.level is not None
                subscriber.byte_limit = subscriber.level.bytes_sent + window.room_bytes
            elif subscriber.mode is Mode.WAITING:
                subscriber.mode = Mode.BEHIND
                self._schedule(subscriber)
        return result is not Acked.BEYOND

    def _note(self, subscriber: Subscriber, serial: int) -> None:
        if subscriber.cursor is not None:
            self._cursors.note(subscriber.cursor, Position(subscriber.followed.epoch, serial))

    def pause(self, subscriber: Subscriber) -> None:
        """Its sink is congested: leaves the level set until `drained`."""
        if subscriber.mode is Mode.LEVEL:
            self._leave_level(subscriber)
            self._wait(subscriber)

    def drained(self, subscriber: Subscriber) -> None:
        """Its sink takes frames again."""
        if subscriber.mode is Mode.WAITING:
            subscriber.mode = Mode.BEHIND
            self._schedule(subscriber)

    @staticmethod
    def rewire(subscriber: Subscriber) -> None:
        """Its sink's writer is good for something else now, see `Encoding.ways`."""
        if subscriber.level is not None:
            subscriber.level.rewire()

    @staticmethod
    def sent_at(subscriber: Subscriber) -> float:
        """When a broadcast was last written to it, by the loop's clock."""
        return subscriber.level.sent_at if subscriber.level is not None else float("-inf")

    def ledger(self) -> tuple[int, int]:
        """Messages delivered since the start: as all positions tell, and as was counted while writing. They are the
        same, or a message was lost or written twice. On the loop's thread, between its turns."""
        live = sum([each.delivered - each.books.settled for each in self._channels.values()])
        return self.settled + live, self.counts["sent"]

    def books(self, channel: ChannelName) -> Followed | None:
        """The channel with its books, where it is followed here. To be read like `ledger`."""
        return self._channels.get(channel)

    def balance_some(self) -> None:
        """Balances the books of some channels, in turn: to be called regularly, between turns of the loop."""
        self._balance_room = min(BALANCED_ATTACHMENTS, self._balance_room + BALANCED_ATTACHMENTS)
        if not self._to_balance:
            self._to_balance.extend(self._channels)
        while self._to_balance and self._balance_room > 0:
            followed = self._channels.get(self._to_balance.popleft())
            if followed is not None:
                self._balance_room -= 1 + len(followed.subscribers)
                self._balance(followed)

    def _balance(self, followed: Followed) -> None:
        """Says once what is wrong, and again only when it has become worse or better."""
        self.counts["balanced"] += 1
        books = followed.books
        by_positions = followed.delivered
        off = by_positions - books.written
        if off == books.off:
            return
        books.off = off
        if not off:
            del self.unbalanced[followed.name]
            return
        self.unbalanced[followed.name] = off
        self.counts["imbalances"] += 1
        logger.error(
            "The ledger of %s does not balance: positions tell of %d delivered messages, %d were written.",
            followed.name,
            by_positions,
            books.written,
            extra={"channel": followed.name},
        )

    def occupancy(self, channel: ChannelName) -> int:
        """Attachments to the channel on this worker."""
        followed = self._channels.get(channel)
        return len(followed.subscribers) if followed else 0

    def exists(self, channel: ChannelName) -> bool:
        """Whether the channel is known here to exist; False where only the log can say."""
        followed = self._channels.get(channel)
        return followed is not None and followed.channel_id is not None

    def subscribers(self, channel: ChannelName) -> list[Subscriber]:
        followed = self._channels.get(channel)
        return list(followed.subscribers) if followed else []

    @property
    def turns_waiting(self) -> int:
        """Subscribers that wait for their turn to read on from the log."""
        return len(self._ready)

    @property
    def channels(self) -> Iterable[ChannelName]:
        return self._channels.keys()

    @property
    def cache(self) -> BlockCache:
        return self._blocks

    @property
    def late(self) -> bool:
        """Whether level subscribers wait for their turn: what was passed on last is not with all of them yet."""
        return bool(self._late)

    def census(self) -> Census:
        """What the attachments of this worker do at the moment. From any thread: then it is a picture of a crowd that
        moves. Looks one by one only at those who are not level."""
        found = Census()
        for followed in list(self._channels.values()):
            if is_platform_name(followed.name):
                continue
            found.channels += 1
            level = sum([len(each.members) for levels in list(followed.levels.values()) for each in list(levels)])
            found.modes["level"] += level
            if level == len(followed.subscribers):
                continue
            order = followed.order
            for subscriber in list(followed.subscribers):
                mode = subscriber.mode
                if mode is Mode.LEVEL:
                    continue
                if mode is Mode.WAITING:
                    found.modes["waiting_socket" if subscriber.window.open else "waiting_ack"] += 1
                else:
                    found.modes[mode.value] += 1
                if order is not None and mode in (Mode.BEHIND, Mode.WAITING):
                    found.behind_most = max(found.behind_most, order.position - subscriber.position)
        return found

    # ------------------------------------------------------------------ news

    def hear(self, news: News) -> None:
        """Committed messages of a channel, from this worker's writer or from another worker. May lie about nothing but
        completeness and order: what it says was committed, was."""
        followed = self._channels.get(news.channel)
        if followed is None:
            return
        last = news.first + len(news.frames) - 1
        order = followed.order
        if order is None or news.epoch != followed.epoch:
            # Not known yet, or another epoch: only a read of the log decides which, and this news waits for it.
            self._keep_early(followed, news)
            return
        if last <= order.position:
            self.counts["duplicates"] += 1
            return
        fresh = order.offer(news.first, news.frames)
        if fresh:
            self._deliver(followed, fresh)
        else:
            self.counts["early"] += 1
        self._mind_hole(followed)

    def hear_of(self, channel: ChannelName, epoch: str | None, head: int, grace_s: float | None = None) -> None:
        """The channel's log is known to reach `head`. It is read when its frames stay away for `grace_s`."""
        followed = self._channels.get(channel)
        if followed is None or followed.order is None or epoch is None:
            return
        if epoch != followed.epoch:
            self._ask(followed)
            return
        followed.order.hear_of(head)
        self._mind_hole(followed, grace_s)

    def sweep(self, among: Callable[[ChannelName], bool] | None = None) -> bool:
        """Compares every followed channel, or those `among` is true of, with the log; what is unreached a grace later
        is read from it. False, and nothing else, while the sweep before waits for the database."""
        if self._sweeping:
            return False
        known = {
            name: (followed.channel_id, followed.epoch, followed.order.position)
            for name, followed in self._channels.items()
            if followed.order is not None and (among is None or among(name))
        }
        if known:
            self._sweeping = True
            self._sweep_began = self._loop.time()
            self.counts["swept"] += len(known)
            self._reader.changes(known, self._swept)
        return True

    # ------------------------------------------------------------------ following

    def _follow(self, channel: ChannelName) -> Followed:
        followed = self._channels.get(channel)
        if followed is None:
            followed = self._channels[channel] = Followed(channel)
            self._following.follow(channel)
        if followed.linger_timer is not None:
            followed.linger_timer.cancel()
            followed.linger_timer = None
        return followed

    def _forget(self, followed: Followed) -> None:
        if followed.subscribers or self._channels.get(followed.name) is not followed:
            return
        if followed.hole_timer is not None:
            followed.hole_timer.cancel()
        self._balance(followed)
        self.unbalanced.pop(followed.name, None)
        del self._channels[followed.name]
        self._following.unfollow(followed.name)

    # ------------------------------------------------------------------ attaching

    def _plan(
        self,
        subscriber: Subscriber,
        state: LogState | None,
        done: Callable[[Subscriber, Answer], None],
    ) -> None:
        if subscriber.mode is Mode.GONE:
            return
        if state is None:
            done(subscriber, None)
            return
        followed = subscriber.followed
        self._learn(followed, state)
        bounds = followed.bounds
        match subscriber.attaching.position:
            case positions.Resume(epoch=epoch, serial=serial):
                plan = recovery.resume(epoch, serial, bounds)
            case positions.Rewind(count=count):
                plan = recovery.rewind(count, bounds)
            case positions.Start():
                plan = recovery.start(bounds)
            case positions.Since(time_ms=time_ms):
                if state.channel_id is not None:
                    self._reader.since(state, time_ms, lambda serial: self._plan_since(subscriber, state, serial, done))
                    return
                plan = recovery.head(bounds)
            case positions.Cursor():
                assert subscriber.cursor is not None
                at_head = Position(bounds.epoch, bounds.head)
                self._cursors.open(
                    subscriber.cursor, at_head, lambda opened: self._plan_cursor(subscriber, bounds, opened, done)
                )
                return
            case positions.Latest():
                if state.channel_id is not None:
                    self._reader.snapshot(
                        state.channel_id,
                        subscriber.attaching.key_limit,
                        lambda found: self._plan_snapshot(subscriber, found, done),
                    )
                    return
                subscriber.snapshot = deque()
                plan = recovery.head(bounds)
            case _:
                plan = recovery.head(bounds)
        self._answer(subscriber, plan, bounds, done)

    def _plan_since(
        self,
        subscriber: Subscriber,
        state: LogState,
        serial: int | None,
        done: Callable[[Subscriber, Answer], None],
    ) -> None:
        if subscriber.mode is Mode.GONE:
            return
        if serial is None:
            done(subscriber, None)
            return
        bounds = Bounds(state.epoch, state.oldest, state.head)
        self._answer(subscriber, Plan(max(serial, bounds.oldest - 1)), bounds, done)

    def _plan_cursor(
        self,
        subscriber: Subscriber,
        bounds: Bounds,
        opened: Opened,
        done: Callable[[Subscriber, Answer], None],
    ) -> None:
        if subscriber.mode is Mode.GONE:
            return
        if opened.position is None:
            done(subscriber, opened.error)
            return
        # The log may have grown since the bounds were read, and the cursor with it: beyond them is not beyond the head.
        position = opened.position
        if position.epoch == bounds.epoch and position.serial <= bounds.head:
            self._answer(subscriber, recovery.resume(*position, bounds), bounds, done)
        else:
            self._reader.state(
                subscriber.followed.name, lambda state: self._plan_stored(subscriber, position, state, done)
            )

    def _plan_stored(
        self,
        subscriber: Subscriber,
        position: Position,
        state: LogState | None,
        done: Callable[[Subscriber, Answer], None],
    ) -> None:
        """A cursor that does not fit the bounds, held against what the log was after the cursor was read."""
        if subscriber.mode is Mode.GONE:
            return
        if state is None:
            done(subscriber, None)
            return
        self._learn(subscriber.followed, state)
        bounds = subscriber.followed.bounds
        self._answer(subscriber, recovery.resume(*position, bounds), bounds, done)

    def _plan_snapshot(
        self,
        subscriber: Subscriber,
        found: tuple[LogState, list[tuple[int, str]]] | None,
        done: Callable[[Subscriber, Answer], None],
    ) -> None:
        if subscriber.mode is Mode.GONE:
            return
        if found is None:
            done(subscriber, None)
            return
        state, rows = found
        self.hear_of(subscriber.followed.name, state.epoch, state.head)
        frames = [frame for _, frame in rows]
        if subscriber.attaching.deltas:
            frames = [self.deltas.whole_frame(frame) for frame in frames]
        subscriber.snapshot = deque(frame[:-1] + ',"snapshot":true}' for frame in frames)
        bounds = Bounds(state.epoch, state.oldest, state.head)
        self._answer(subscriber, recovery.head(bounds), bounds, done)

    def _answer(
        self,
        subscriber: Subscriber,
        plan: Plan,
        bounds: Bounds,
        done: Callable[[Subscriber, Answer], None],
    ) -> None:
        if bounds.epoch != subscriber.followed.epoch:
            # The log became another while this was worked out: from the beginning, with what it is now.
            subscriber.snapshot = None
            self._reader.state(subscriber.followed.name, lambda state: self._plan(subscriber, state, done))
            return
        subscriber.begin_at(plan.serial)
        if isinstance(subscriber.attaching.position, positions.Start | positions.Rewind | positions.Since):
            subscriber.whole_through = bounds.head
        subscriber.window = Window(subscriber.attaching.window, self._settings.window_bytes, plan.serial)
        frame = subscriber.attached_frame(bounds.epoch, plan.serial, bounds.head, plan.resumed)
        skipped = None if plan.skip is None else self._skipped_frame(subscriber.followed.name, bounds.epoch, plan.skip)
        if plan.skip is not None:
            self._note(subscriber, plan.serial)
        done(subscriber, Attached(frame, skipped, subscriber.followed.channel_id is not None))

    def _skipped_frame(self, channel: ChannelName, epoch: str | None, skip: Skip) -> dict[str, object]:
        self.skips[skip.reason] += 1
        if skip.first is not None and skip.last is not None:
            self.skipped[skip.reason] += skip.last - skip.first + 1
        return {
            "type": "skipped",
            "channel": channel,
            "epoch": epoch,
            "from": skip.first,
            "to": skip.last,
            "reason": skip.reason,
        }

    # ------------------------------------------------------------------ what the log says

    def _learn(self, followed: Followed, state: LogState) -> None:
        """Takes in a state read from the primary. Reads of states answer in the order they began, so the last word on
        the epoch is the newest; heads may be older than what was heard since, and only grow."""
        followed.bounds_at = self._loop.time()
        followed.channel_id = state.channel_id
        bounds = Bounds(state.epoch, state.oldest, state.head)
        if followed.order is None:
            followed.epoch, followed.bounds = state.epoch, bounds
            followed.order = Ordering(state.head)
            followed.restart_ledger(state.head)
        elif state.epoch == followed.epoch:
            known = followed.bounds
            followed.bounds = Bounds(state.epoch, max(known.oldest, state.oldest), max(known.head, state.head))
        elif followed.epoch is None and followed.order.position == 0:
            self._begin_epoch(followed, bounds)
        else:
            self._change_epoch(followed, bounds)
        self._replay_early(followed)
        followed.order.hear_of(state.head)
        self._mind_hole(followed)

    def _keep_early(self, followed: Followed, news: News) -> None:
        """Keeps news until the log was read; the hole it leaves, if it is too much, is found then."""
        if followed.order is not None and not followed.early:
            self._ask(followed)
        if len(followed.early) < EARLY_NEWS_MOST:
            followed.early.append(news)

    def _replay_early(self, followed: Followed) -> None:
        """Passes on the news that waited for this read; what is of another epoch even now is of one that ended."""
        early, followed.early = followed.early, []
        for news in early:
            if news.epoch == followed.epoch:
                self.hear(news)

    def _begin_epoch(self, followed: Followed, bounds: Bounds) -> None:
        """A log begins under those who waited at (null, 0): they learn its epoch before its first message."""
        followed.epoch = bounds.epoch
        followed.bounds = bounds
        for subscriber in followed.subscribers:
            if subscriber.mode is not Mode.JOINING:
                subscriber.sink.send(subscriber.attached_frame(bounds.epoch, 0, bounds.head, resumed=True))
                level = subscriber.level
                if level is not None and subscriber.sink.encoding is not level.encoding:
                    # Where a frame is written with its epoch, what it was told has changed how.
                    self._leave_level(subscriber)
                    self._enter_level(subscriber)

    def _change_epoch(self, followed: Followed, bounds: Bounds) -> None:
        """The log is another: everybody here is told and starts at its beginning."""
        for subscriber in list(followed.subscribers):
            self._leave_level(subscriber)
        followed.epoch = bounds.epoch
        followed.bounds = bounds
        followed.order = Ordering(bounds.head)
        followed.restart_ledger(bounds.head)
        followed.ahead.clear()
        if followed.hole_timer is not None:
            followed.hole_timer.cancel()
            followed.hole_timer = None
        plan = Plan(bounds.oldest - 1, Skip(None, None, "epoch"))
        for index, subscriber in enumerate(list(followed.subscribers)):
            if subscriber.mode is Mode.JOINING:
                continue
            subscriber.begin_at(plan.serial)
            subscriber.whole_through = 0
            subscriber.snapshot = None
            subscriber.window.restart(plan.serial)
            self._note(subscriber, plan.serial)
            subscriber.sink.send(subscriber.attached_frame(bounds.epoch, plan.serial, bounds.head, resumed=False))
            subscriber.sink.send(
                self._skipped_frame(followed.name, bounds.epoch, plan.skip or Skip(None, None, "epoch"))
            )
            subscriber.mode = Mode.BEHIND
            pause_s = min(ANEW_AFTER_S + index * ANEW_APART_S, ANEW_MOST_S)
            self._loop.call_later(pause_s, self._schedule, subscriber)

    def _ask(self, followed: Followed) -> None:
        """Asks the primary what the log is; a failed read is asked again while somebody follows."""
        self._reader.state(followed.name, lambda state: self._asked(followed, state))

    def _asked(self, followed: Followed, state: LogState | None) -> None:
        if self._channels.get(followed.name) is not followed:
            return
        if state is None:
            self._loop.call_later(RETRY_S, self._ask, followed)
        else:
            self._learn(followed, state)

    def _refresh_bounds(self, subscriber: Subscriber, state: LogState | None) -> None:
        """The bounds that a subscriber behind waited for."""
        if state is None:
            self._loop.call_later(RETRY_S, self._schedule, subscriber)
        else:
            self._learn(subscriber.followed, state)
            self._schedule(subscriber)

    def _swept(self, states: dict[ChannelName, LogState] | None) -> None:
        self._sweeping = False
        self.sweep_seconds.observe(self._loop.time() - self._sweep_began)
        for name, state in (states or {}).items():
            followed = self._channels.get(name)
            if followed is None or followed.order is None:
                continue
            if state.epoch != followed.epoch:
                # Perhaps only older than what was learnt since: a read of its own decides.
                self.counts["swept_epochs"] += 1
                self._ask(followed)
            elif state.head > followed.order.position:
                self.counts["swept_behind"] += 1
                followed.order.hear_of(state.head)
                self._mind_hole(followed, self._settings.sweep_grace_s)
            elif state.head < followed.order.position:
                self._doubt(followed)

    def _doubt(self, followed: Followed) -> None:
        """A head was read that is below what was passed on here. The read may have begun earlier; if one that begins
        now says so too, the database went back in time, and all logs with it: one question at a time is enough."""
        channel_id, epoch, order = followed.channel_id, followed.epoch, followed.order
        if self._doubting or channel_id is None or epoch is None or order is None:
            return
        self._doubting = True
        reached = order.position

        def read(state: LogState | None) -> None:
            if state is None or state.epoch != epoch or state.head >= reached:
                settled(None)
                return
            self.counts["fallen"] += 1
            self._reader.fell(channel_id, epoch, reached, settled)

        def settled(_: bool | None) -> None:
            self._doubting = False
            if self._channels.get(followed.name) is followed:
                self._ask(followed)

        self._reader.state(followed.name, read)

    # ------------------------------------------------------------------ holes

    def _mind_hole(self, followed: Followed, grace_s: float | None = None) -> None:
        """Starts or stops the wait for what is missing; when it stays missing, the log is read."""
        order = followed.order
        if order is None:
            return
        if not order.hole:
            if followed.hole_timer is not None:
                followed.hole_timer.cancel()
                followed.hole_timer = None
        elif followed.hole_timer is None:
            grace = self._settings.hold_s if grace_s is None else grace_s
            followed.hole_timer = self._loop.call_later(grace, self._hole_stays, followed, order.position)

    def _hole_stays(self, followed: Followed, position: int) -> None:
        followed.hole_timer = None
        order = followed.order
        if order is None or not order.hole or self._channels.get(followed.name) is not followed:
            return
        if order.position != position:
            # What was missing then has come; this hole is younger.
            self._mind_hole(followed)
            return
        self.counts["holes"] += 1
        self._jump(followed, order)

    def _jump(self, followed: Followed, order: Ordering) -> None:
        """Reads what is missing: everybody who is level falls behind and reads on from the log."""
        fallen = [subscriber for levels in followed.levels.values() for level in levels for subscriber in level.members]
        for subscriber in fallen:
            self._leave_level(subscriber)
            subscriber.mode = Mode.BEHIND
        self.counts["healed"] += order.top - order.position
        order.jump()
        followed.restart_ledger(order.position)
        for subscriber in fallen:
            self._schedule(subscriber)
        self._release_ahead(followed)

    # ------------------------------------------------------------------ delivery

    def _deliver(self, followed: Followed, frames: Iterable[str]) -> None:
        """Gives frames, next in order, to all who are level: to some now, to others in the next turns of the loop."""
        order = followed.order
        assert order is not None
        frames = list(frames)
        first = order.position - len(frames) + 1
        sizes = array("I", [size_bytes(frame) for frame in frames])
        followed.record(sizes)
        self._blocks.add(followed.log_key, first, frames)
        self.counts["delivered"] += len(frames)
        if followed.levels and self._overflow(followed.name) is Overflow.CONFLATE_ALL:
            self._gather(followed)
        parts = _parts(frames, sizes)
        for levels in list(followed.levels.values()):
            payloads: dict[bool, list[object]] = {}
            for level in list(levels):
                if self._late or self._writes >= self._settings.writes_a_turn or level.position != first - 1:
                    self._queue_level(followed, level)
                    continue
                holds = level.holds
                if holds not in payloads:
                    payloads[holds] = self._payloads(followed, level, first, parts)
                self._write_level(followed, level, payloads[holds], sizes)
                if holds is not level.holds:
                    self._unite(followed, level)
        self._release_ahead(followed)

    def _payloads(self, followed: Followed, level: Level, first: int, parts: Sequence[list[str]]) -> list[object]:
        """What a level set at `first` - 1 is sent, a payload for each part of the frames from `first` on."""
        if not level.deltas:
            return [level.encoding.encode(part) for part in parts]
        before = self._blocks.find(followed.log_key, first - 1) if level.holds else None
        base = None if before is None else before.frames[first - 1 - before.first]
        payloads: list[object] = []
        for part in parts:
            payloads.append(level.encoding.encode(self.deltas.frames(first, part, base)))
            first, base = first + len(part), part[-1]
        return payloads

    def _write_level(self, followed: Followed, level: Level, payloads: Sequence[object], sizes: array[int]) -> None:
        """Writes the frames that follow the set's position to all whose window has room for them."""
        last = level.position + len(sizes)
        bytes_sent = level.bytes_sent + sum(sizes)
        before_last = bytes_sent - sizes[-1]
        # Those whose window has no room for all of this take what fits from the block that has it.
        fallen = level.without_room(last, before_last)
        for subscriber in fallen:
            self._leave_level(subscriber)
            subscriber.mode = Mode.BEHIND
        for payload in payloads:
            # Anew each time: a write that had to be buffered has changed them.
            self.counts["bytes"] += level.encoding.write_all(level.ways, payload)
        level.sent_at = self._loop.time()
        writes = len(payloads) * len(level.members)
        self.counts["payloads"] += writes
        sent = len(sizes) * len(level.members)
        self.counts["sent"] += sent
        followed.books.written += sent
        self._writes += writes
        if not self._counting:
            self._counting = True
            self._loop.call_soon(self._next_turn)
        level.position = last
        level.bytes_sent = bytes_sent
        level.holds = level.deltas
        for subscriber in fallen:
            self._step(subscriber)

    def _queue_level(self, followed: Followed, level: Level) -> None:
        if not level.queued:
            level.queued = True
            self._late.append((followed, level))
            if not self._counting:
                self._counting = True
                self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """A new turn of the loop: level sets that are late come first."""
        self._writes = 0
        while self._late and self._writes < self._settings.writes_a_turn:
            followed, level = self._late.popleft()
            level.queued = False
            self._catch_up(followed, level)
        if self._late or self._writes:
            self._loop.call_soon(self._next_turn)
        else:
            self._counting = False

    def _catch_up(self, followed: Followed, level: Level) -> None:
        """Gives a level set that is late what came meanwhile, as much as one write takes."""
        order = followed.order
        if not level.members or order is None or level.position == order.position:
            return
        position = level.position
        block = self._blocks.find(followed.log_key, position + 1)
        if block is None or order.position - position > LEDGER_MESSAGES // 2:
            # So late that the frames are in memory no more: each reads on from the log for himself.
            for subscriber in list(level.members):
                self._leave_level(subscriber)
                subscriber.mode = Mode.BEHIND
                self._schedule(subscriber)
            return
        self.counts["late"] += 1
        start = position + 1 - block.first
        count = min(len(block.sizes) - start, order.position - position)
        end = start + _fit(block.sizes, start, count, WRITE_BYTES_MOST)
        deltas = self.deltas if level.deltas else None
        payload = self._blocks.payload(followed.log_key, block, level.encoding, start, end, deltas, holds=level.holds)
        self._write_level(followed, level, [payload], block.sizes[start:end])
        if level.position != order.position:
            self._queue_level(followed, level)
        else:
            self._unite(followed, level)

    def _unite(self, followed: Followed, level: Level) -> None:
        """Moves the members of a small level set to another at the same position: one set costs less than two."""
        most = self._settings.writes_a_turn
        if not level.members or len(level.members) > most // 2:
            # All have fallen behind, so the set is gone already; or it is large enough.
            return
        key = (level.encoding, level.deltas)
        for other in followed.levels.get(key, ()):
            fits = len(other.members) + len(level.members) <= most and other.holds is level.holds
            if other is not level and other.position == level.position and fits and not other.queued:
                for subscriber in list(level.members):
                    level.remove(subscriber)
                    other.add(subscriber)
                followed.levels[key].remove(level)
                return

    def _release_ahead(self, followed: Followed) -> None:
        if followed.ahead and followed.order is not None:
            position = followed.order.position
            for subscriber in [sub for sub in followed.ahead if sub.position <= position]:
                followed.ahead.discard(subscriber)
                subscriber.mode = Mode.BEHIND
                self._step(subscriber)

    def _settle(self, subscriber: Subscriber) -> None:
        """Brings the window of a level subscriber up to the position of its set."""
        followed, level = subscriber.followed, subscriber.level
        assert level is not None
        window = subscriber.window
        start = window.sent + 1 - followed.ledger_first
        window.sent_through(level.position, followed.ledger[max(start, 0) : level.position + 1 - followed.ledger_first])
        subscriber.position = level.position

    def _leave_level(self, subscriber: Subscriber) -> None:
        level = subscriber.level
        if level is not None:
            self._settle(subscriber)
            level.remove(subscriber)
            subscriber.holds = level.holds
            subscriber.mode = Mode.WAITING
            if not level.members:
                subscriber.followed.levels[level.encoding, level.deltas].remove(level)

    def _enter_level(self, subscriber: Subscriber) -> None:
        followed, window = subscriber.followed, subscriber.window
        deltas = subscriber.attaching.deltas
        level = followed.level_at(
            subscriber.position,
            subscriber.sink.encoding,
            deltas,
            deltas and subscriber.holds,
            self._settings.writes_a_turn,
        )
        subscriber.limit = window.limit
        subscriber.byte_limit = level.bytes_sent + window.room_bytes if window.size else UNBOUNDED
        level.add(subscriber)
        subscriber.mode = Mode.LEVEL
        subscriber.slow = False

    # ------------------------------------------------------------------ catching up

    def _schedule(self, subscriber: Subscriber) -> None:
        if not subscriber.queued and subscriber.mode is Mode.BEHIND:
            subscriber.queued = True
            self._ready.append(subscriber)
            if not self._running:
                self._running = True
                self._loop.call_soon(self._run)

    def _run(self) -> None:
        for _ in range(min(STEPS_A_TURN, len(self._ready))):
            subscriber = self._ready.popleft()
            subscriber.queued = False
            if subscriber.mode is Mode.BEHIND:
                self._step(subscriber)
        if self._ready:
            self._loop.call_soon(self._run)
        else:
            self._running = False

    def _step(self, subscriber: Subscriber) -> None:
        """One move of a subscriber that is behind: one write, one wish, or a change of mode."""
        followed = subscriber.followed
        order = followed.order
        assert order is not None
        if subscriber.sink.congested:
            self._wait(subscriber)
            return
        if subscriber.snapshot is not None:
            self._send_snapshot(subscriber)
            return
        position = subscriber.position
        if position > order.position:
            subscriber.mode = Mode.AHEAD
            followed.ahead.add(subscriber)
            return
        if not subscriber.window.open:
            self._wait(subscriber)
            return
        if position == order.position:
            self._enter_level(subscriber)
            return
        if self._loop.time() - followed.bounds_at > BOUNDS_FRESH_S:
            self._reader.state(followed.name, lambda state: self._refresh_bounds(subscriber, state))
            return
        skip = recovery.skip_of(position, followed.bounds)
        if skip is not None:
            assert skip.last is not None
            subscriber.sink.send(self._skipped_frame(followed.name, followed.epoch, skip))
            subscriber.leave_out(skip.reason, skip.last - position)
            subscriber.position = skip.last
            subscriber.holds = False
            subscriber.window.skip_to(skip.last)
            self._note(subscriber, skip.last)
            self._schedule(subscriber)
            return
        if self._conflates(subscriber):
            self._conflate(subscriber, order.position)
            return
        block = self._blocks.find(followed.log_key, position + 1)
        if block is None:
            self.counts["cache_misses"] += 1
            self._load(followed, position + 1, subscriber)
            return
        self.counts["cache_hits"] += 1
        start = position + 1 - block.first
        window = subscriber.window
        count = min(len(block.sizes) - start, order.position - position, window.limit - window.sent)
        end = start + _fit(block.sizes, start, count, min(window.room_bytes, WRITE_BYTES_MOST))
        deltas = self.deltas if subscriber.attaching.deltas else None
        encoding = subscriber.sink.encoding
        subscriber.sink.write(
            self._blocks.payload(followed.log_key, block, encoding, start, end, deltas, holds=subscriber.holds)
        )
        subscriber.position = position + end - start
        subscriber.holds = True
        subscriber.window.sent_through(subscriber.position, block.sizes[start:end])
        self.counts["payloads"] += 1
        self.counts["sent"] += end - start
        followed.books.written += end - start
        self._schedule(subscriber)

    @staticmethod
    def _wait(subscriber: Subscriber) -> None:
        """Until it acks or drains."""
        subscriber.mode = Mode.WAITING
        subscriber.slow = True

    # ------------------------------------------------------------------ conflation

    def _conflates(self, subscriber: Subscriber) -> bool:
        """Whether something is to be left out for it."""
        followed, position = subscriber.followed, subscriber.position
        assert followed.order is not None
        if followed.order.position - position < 2 or position < subscriber.whole_through:
            return False
        overflow = self._overflow(followed.name)
        return overflow is Overflow.CONFLATE_ALL or (overflow is Overflow.CONFLATE and subscriber.slow)

    def _conflate(self, subscriber: Subscriber, last: int) -> None:
        """Goes on with the newest of each key through `last`."""
        followed, first = subscriber.followed, subscriber.position + 1
        blocks = self._blocks_of(followed, first, last) if last - first < CONFLATE_LOOK_MOST else None
        if blocks is None:
            assert followed.channel_id is not None
            self._reader.snapshot(
                followed.channel_id,
                subscriber.attaching.key_limit,
                lambda found: self._conflate_by_log(subscriber, first - 1, found),
            )
            return
        keys: list[str | None] = []
        frames: list[str] = []
        for block in blocks:
            start, end = max(first, block.first) - block.first, min(last + 1, block.next) - block.first
            keys += block.keys(start, end)
            frames += block.frames[start:end]
        self._send_newest(subscriber, {first + index: frames[index] for index in conflation.newest(keys)}, last)

    def _blocks_of(self, followed: Followed, first: int, last: int) -> list[Block] | None:
        """The blocks in memory that hold all of these serials, or None."""
        blocks: list[Block] = []
        while first <= last:
            block = self._blocks.find(followed.log_key, first)
            if block is None:
                return None
            blocks.append(block)
            first = block.next
        return blocks

    def _conflate_by_log(
        self, subscriber: Subscriber, position: int, found: tuple[LogState, list[tuple[int, str]]] | None
    ) -> None:
        """The newest of each key, as the log has them; the newest message of all is read on to as ever."""
        followed = subscriber.followed
        if subscriber.mode is not Mode.BEHIND or subscriber.position != position or followed.order is None:
            return
        if found is None:
            self._loop.call_later(RETRY_S, self._schedule, subscriber)
            return
        state, rows = found
        if state.epoch != followed.epoch:
            self._ask(followed)
            self._loop.call_later(self._settings.hold_s, self._schedule, subscriber)
            return
        last = min(state.head, followed.order.position)
        frames = {serial: frame for serial, frame in rows if position < serial <= last}
        if last not in frames:
            last -= 1
        if not subscriber.sink.congested and last > position:
            self._send_newest(subscriber, frames, last)
        else:
            self._schedule(subscriber)

    def _send_newest(self, subscriber: Subscriber, frames: dict[int, str], last: int) -> None:
        """Sends frames by serial, as many as the window has room for, and says what is left out before each and behind
        them through `last`."""
        followed, window = subscriber.followed, subscriber.window
        room, room_bytes = window.limit - window.sent, min(window.room_bytes, WRITE_BYTES_MOST)
        texts: list[str] = []
        for skip, serial in conflation.gaps(subscriber.position, frames, last):
            if room <= 0 or room_bytes <= 0:
                break
            if skip is not None and skip.last is not None:
                self.counts["conflated"] += skip.last - subscriber.position
                texts.append(encode(self._skipped_frame(followed.name, followed.epoch, skip)))
                window.pass_over(skip.last)
                subscriber.leave_out(skip.reason, skip.last - subscriber.position)
                subscriber.position = skip.last
                subscriber.holds = False
            if serial is not None:
                frame = frames[serial]
                texts.append(self.deltas.whole_frame(frame) if subscriber.attaching.deltas else frame)
                size = size_bytes(frame)
                window.sent_through(serial, array("I", [size]))
                subscriber.position = serial
                subscriber.holds = True
                room, room_bytes = room - 1, room_bytes - size
                self.counts["sent"] += 1
                followed.books.written += 1
        subscriber.sink.write(subscriber.sink.encoding.encode(texts))
        self.counts["payloads"] += 1
        self._schedule(subscriber)

    def _gather(self, followed: Followed) -> None:
        """Takes everybody out of the level sets until the next serving."""
        for levels in list(followed.levels.values()):
            for level in list(levels):
                for subscriber in list(level.members):
                    self._leave_level(subscriber)
                    subscriber.mode = Mode.BEHIND
                    if not followed.gathered:
                        self._loop.call_later(CONFLATED_EVERY_S, self._serve_gathered, followed)
                    followed.gathered.append(subscriber)

    def _serve_gathered(self, followed: Followed) -> None:
        gathered, followed.gathered = followed.gathered, []
        self._schedule_all(gathered)

    # ------------------------------------------------------------------ reading

    def _send_snapshot(self, subscriber: Subscriber) -> None:
        snapshot = subscriber.snapshot
        assert snapshot is not None
        if snapshot:
            frames = [snapshot.popleft() for _ in range(min(len(snapshot), self._settings.block_messages))]
            subscriber.sink.write(subscriber.sink.encoding.encode(frames))
        if not snapshot:
            subscriber.snapshot = None
            subscriber.sink.send(
                {
                    "type": "snapshot.end",
                    "channel": subscriber.followed.name,
                    "epoch": subscriber.followed.epoch,
                    "serial": subscriber.position,
                }
            )
        self._schedule(subscriber)

    def _load(self, followed: Followed, serial: int, subscriber: Subscriber) -> None:
        """Reads the block of `serial`, once for all who want it."""
        if followed.channel_id is None:
            return
        key = (followed.log_key, self._blocks.number_of(serial))
        waiting = self._loading.get(key)
        if waiting is not None:
            waiting.append(subscriber)
            return
        self._loading[key] = [subscriber]
        self.counts["blocks_read"] += 1
        first = self._blocks.number_of(serial) * self._settings.block_messages + 1
        known = self._blocks.find(followed.log_key, first)
        after = known.next - 1 if known is not None and known.next <= serial else min(first, serial) - 1
        self._read_block(followed, key, serial, after)

    def _read_block(self, followed: Followed, key: _BlockKey, serial: int, after: int) -> None:
        assert followed.channel_id is not None
        self._reader.rows(
            followed.channel_id,
            after,
            self._blocks.last_of(serial),
            lambda found: self._loaded(followed, key, serial, after, found),
        )

    def _loaded(self, followed: Followed, key: _BlockKey, serial: int, after: int, found: Rows | None) -> None:
        waiting = self._loading.pop(key, [])
        if found is None:
            self._loop.call_later(RETRY_S, self._schedule_all, waiting)
            return
        rows, state = found
        if state.epoch != key[0][1] or state.epoch != followed.epoch:
            # The log became another meanwhile, or this answer is the older one: a read of its own decides.
            self._ask(followed)
            self._loop.call_later(self._settings.hold_s, self._schedule_all, waiting)
            return
        self._learn(followed, state)
        run = self._consecutive(rows, serial)
        if run:
            self._blocks.add(key[0], run[0][0], [frame for _, frame in run])
        elif rows and rows[-1][0] < serial and after < serial - 1:
            # A read is bounded in bytes: with large messages it ends before it has come from the start of the block to
            # the one that is wanted. Then from there.
            self._loading[key] = waiting
            self._read_block(followed, key, serial, serial - 1)
            return
        elif serial > state.head:
            # It was passed on here, and is not there any more.
            self._doubt(followed)
            self._loop.call_later(RETRY_S, self._schedule_all, waiting)
            return
        elif serial >= followed.bounds.oldest:
            self._report_hole(followed, serial, waiting)
        self._schedule_all(waiting)

    def _report_hole(self, followed: Followed, serial: int, waiting: list[Subscriber]) -> None:
        """The log has a hole that nothing explains. Saying so beats leaving something out."""
        logger.error(
            "The log of %s has no message %d of %s.",
            followed.name,
            serial,
            followed.bounds,
            extra={"channel": followed.name, "serial": serial},
        )
        for subscriber in waiting:
            if subscriber.mode is Mode.BEHIND and subscriber.position + 1 == serial:
                self.detach(subscriber)
                subscriber.on_end("internal")

    def _schedule_all(self, subscribers: list[Subscriber]) -> None:
        for subscriber in subscribers:
            self._schedule(subscriber)

    @staticmethod
    def _consecutive(rows: list[tuple[int, str]], serial: int) -> list[tuple[int, str]]:
        """The rows of consecutive serials around `serial`; empty when it is not among them."""
        index = next((i for i, (found, _) in enumerate(rows) if found == serial), None)
        if index is None:
            return []
        start = index
        while start and rows[start - 1][0] == rows[start][0] - 1:
            start -= 1
        end = index + 1
        while end < len(rows) and rows[end][0] == rows[end - 1][0] + 1:
            end += 1
        return rows[start:end]


def _fit(sizes: array[int], start: int, count: int, room: int) -> int:
    """How many of `count` frames from `start` on go out in one write that is full at `room` bytes: at least one."""
    if sum(sizes[start : start + count]) > room:
        for taken in range(count):
            room -= sizes[start + taken]
            if room <= 0:
                return taken + 1
    return count


def _parts(frames: list[str], sizes: array[int]) -> list[list[str]]:
    """The frames in order, in pieces of at most `WRITE_BYTES_MOST`, or of one frame that is larger."""
    if sum(sizes) <= WRITE_BYTES_MOST:
        return [frames]
    parts: list[list[str]] = []
    room = 0
    for frame, size in zip(frames, sizes, strict=True):
        if size > room or not parts:
            parts.append([])
            room = WRITE_BYTES_MOST
        parts[-1].append(frame)
        room -= size
    return parts
