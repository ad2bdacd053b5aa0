"""A loop, a log, a reader and a sink for driving the real hub: time is a number, disorder is chosen by the test.

`World` is the whole of a small system: a log that commits, announcements that may be lost, doubled, delayed or swapped,
reads that take time and may fail, subscribers whose frames are checked one by one as they come.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from realtime.cursors import CursorKey, Opened, Position
from realtime.delivery.blocks import Encoding
from realtime.hub import Answer, Attached, Attaching, Hub, HubSettings, Overflow, Rows, Subscriber
from realtime.log.types import Known, LogState, News
from realtime.protocol import positions
from realtime.protocol.names import ChannelName
from seriatim_client.fossil import apply_delta

CHANNEL = ChannelName("chat:lobby")


class Loop:
    """An event loop whose time passes only when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ids = itertools.count()
        self._due: list[tuple[float, int, _Call]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: object) -> _Call:
        return self.call_later(0, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> _Call:
        call = _Call(callback, args)
        heapq.heappush(self._due, (self.now + delay, next(self._ids), call))
        return call

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            at, _, call = heapq.heappop(self._due)
            self.now = max(self.now, at)
            call.run()
        self.now = end


@dataclass
class _Call:
    callback: Callable[..., object]
    args: tuple[object, ...]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def run(self) -> None:
        if not self.cancelled:
            self.callback(*self.args)


def key_at(serial: int) -> str | None:
    """Every third message has no key, the others one of three."""
    return f"k{serial % 5 % 3}" if serial % 3 else None


def data_at(serial: int, epoch: str, size: int) -> str:
    """Mostly what it was before, with one large change in five."""
    state = "a state that hardly changes" if serial % 5 else f"another {serial * 7919}, {serial * 104729}"
    return json.dumps({"serial": serial, "state": state, "epoch": epoch, "pad": "x" * size}, separators=(",", ":"))


def frame_of(channel: str, serial: int, epoch: str, data: str) -> str:
    frame = {"channel": channel, "serial": serial, "epoch": epoch, "key": key_at(serial), "data": None}
    return json.dumps(frame, separators=(",", ":"))[: -len("null}")] + data + "}"


class Log:
    """One channel's log, as the database has it."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.rows: dict[int, str] = {}
        self.oldest = 1
        self.head = 0
        self.data: dict[tuple[str, int], set[str]] = {}
        """What was ever committed, by epoch and serial; one that a database forgot in its fall may be there again."""
        self.fallen = False
        """It went back in time, and gives no serial in this epoch any more."""

    def commit(self, count: int, size: int = 0) -> News:
        if self.epoch is None:
            self.epoch = "e1"
        if self.fallen:
            self.new_epoch()
        first = self.head + 1
        frames = [self.make(first + i, size) for i in range(count)]
        self.rows.update(enumerate(frames, first))
        self.head += count
        return News(CHANNEL, 7, self.epoch, first, frames)

    def make(self, serial: int, size: int = 0) -> str:
        assert self.epoch is not None
        data = data_at(serial, self.epoch, size)
        self.data.setdefault((self.epoch, serial), set()).add(data)
        return frame_of(CHANNEL, serial, self.epoch, data)

    def prune(self, upto: int, physically: bool) -> None:
        self.oldest = max(self.oldest, min(upto, self.head) + 1)
        if physically:
            for serial in [serial for serial in self.rows if serial < self.oldest]:
                del self.rows[serial]

    def fall(self, head: int) -> None:
        """Forgets what came after `head`, without a word."""
        self.head = head
        self.oldest = min(self.oldest, head + 1)
        for serial in [serial for serial in self.rows if serial > head]:
            del self.rows[serial]
        self.fallen = True

    def new_epoch(self) -> None:
        self.fallen = False
        self.epoch = f"e{int((self.epoch or 'e0')[1:]) + 1}"
        for serial in self.rows:
            self.rows[serial] = self.make(serial)

    def state(self) -> LogState:
        return LogState(None if self.epoch is None else 7, self.epoch, self.oldest, self.head, 0)


class Reader:
    """Reads that take a while: what they see is what the log is when they begin, a little after they are asked for."""

    def __init__(self, loop: Loop, log: Log) -> None:
        self.loop = loop
        self.log = log
        self.away = False
        self.begins_after_s = 0.001
        self.takes_s = 0.002
        self.most_rows: int | None = None
        """How many rows a read gives at most, as one that is bounded in bytes does where messages are large."""
        self._queue: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self._busy = False
        self.reads = 0

    def _ask(self, read: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """One read after the other: states answer in the order they began."""
        self._queue.append((read, done))
        if not self._busy:
            self._busy = True
            self.loop.call_later(self.begins_after_s, self._begin)

    def _begin(self) -> None:
        read, done = self._queue.pop(0)
        result = None if self.away else read()
        self.reads += 1
        self.loop.call_later(self.takes_s, self._answer, result, done)

    def _answer(self, result: Any, done: Callable[[Any], None]) -> None:
        if self._queue:
            self.loop.call_soon(self._begin)
        else:
            self._busy = False
        done(result)

    def state(self, channel: ChannelName, done: Callable[[LogState | None], None]) -> None:
        self._ask(self.log.state, done)

    def changes(
        self, known: dict[ChannelName, Known], done: Callable[[dict[ChannelName, LogState] | None], None]
    ) -> None:
        def read() -> dict[ChannelName, LogState]:
            state = self.log.state()
            return {
                name: state
                for name, (_, epoch, position) in known.items()
                if state.epoch != epoch or state.head != position
            }

        self._ask(read, done)

    def rows(self, channel_id: int, after: int, upto: int, done: Callable[[Rows | None], None]) -> None:
        rows = self.log.rows
        self._ask(
            lambda: (
                [(s, f) for s, f in sorted(rows.items()) if after < s <= upto][: self.most_rows],
                self.log.state(),
            ),
            done,
        )

    def fell(self, channel_id: int, epoch: str, reached: int, done: Callable[[bool | None], None]) -> None:
        def find_out() -> bool:
            if (self.log.epoch, self.log.head < reached) == (epoch, True):
                self.log.new_epoch()
            return True

        self._ask(find_out, done)

    def since(self, state: LogState, time_ms: int, done: Callable[[int | None], None]) -> None:
        self._ask(lambda: min(time_ms, state.head), done)

    def snapshot(
        self, channel_id: int, key_limit: int, done: Callable[[tuple[LogState, list[tuple[int, str]]] | None], None]
    ) -> None:
        def newest_of_each_key() -> tuple[LogState, list[tuple[int, str]]]:
            newest = {key_at(serial): serial for serial in sorted(self.log.rows) if key_at(serial) is not None}
            rows = [(serial, self.log.rows[serial]) for serial in sorted(newest.values())]
            return self.log.state(), rows[-key_limit:]

        self._ask(newest_of_each_key, done)


class Following:
    def __init__(self) -> None:
        self.channels: set[ChannelName] = set()

    def follow(self, channel: ChannelName) -> None:
        self.channels.add(channel)

    def unfollow(self, channel: ChannelName) -> None:
        self.channels.discard(channel)


class Cursors:
    """Cursors in memory, stored at once."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.positions: dict[CursorKey, Position] = {}

    def open(self, key: CursorKey, head: Position, done: Callable[[Opened], None]) -> None:
        self.loop.call_later(0.001, lambda: done(Opened(self.positions.setdefault(key, head))))

    def note(self, key: CursorKey, position: Position) -> None:
        self.positions[key] = position

    def store_soon(self, key: CursorKey) -> None:
        pass


class Whole:
    """An encoding that changes nothing."""

    name = "whole"

    def encode(self, frames: Sequence[str]) -> tuple[str, ...]:
        return tuple(frames)

    def join(self, payloads: Sequence[Sequence[str]]) -> tuple[str, ...]:
        return tuple(text for payload in payloads for text in payload)

    def ways(self, writers: Sequence[Any]) -> Sequence[Any]:
        return writers

    def write_all(self, ways: Sequence[Any], payload: object) -> int:
        for write in ways:
            write(payload)
        return 0


ENCODING = Whole()


@dataclass(eq=False)
class Client:
    """A subscriber that checks every frame as it comes: order, once, window, nothing after the end."""

    world: World
    window: int
    deltas: bool = False
    encoding: Encoding = field(default=ENCODING)
    congested: bool = False
    subscriber: Subscriber | None = None
    epoch: str | None = None
    position: int = -1
    acked: int = 0
    attached: bool = False
    ended: str | None = None
    got: list[tuple[str, int]] = field(default_factory=list)
    skipped: list[dict[str, object]] = field(default_factory=list)
    explained: bool = True
    in_snapshot: bool = False
    in_flight: list[int] = field(default_factory=list)
    left_out: set[tuple[str | None, int]] = field(default_factory=set)
    """What conflation left out, by epoch and serial."""
    whole_through: int = 0
    """The head that `attached` told one who asked for history."""
    held: bytes | None = None
    """With deltas: the data of the message at the position, if that was delivered on this attachment."""
    deltas_got: int = 0
    writer: Any = None

    def __post_init__(self) -> None:
        self.writer = self.write

    def write(self, payload: Any) -> None:
        assert not self.congested, "a congested sink was written to"
        for text in payload:
            frame = json.loads(text)
            if frame.get("type") == "skipped":
                self.send(frame)
                continue
            assert self.attached, "a message without an attachment"
            if frame.get("snapshot"):
                assert self.in_snapshot
                assert "base" not in frame
                assert type(frame["data"]) is (str if self.deltas else dict)
                continue
            assert not self.in_snapshot, "a live message inside the snapshot"
            assert self.explained, "a message before `skipped` told why the position moved"
            assert frame["epoch"] == self.epoch, (frame, self.epoch)
            assert frame["serial"] == self.position + 1, (frame, self.position)
            self.check_data(frame)
            self.position += 1
            self.got.append((frame["epoch"], frame["serial"]))
            if self.window:
                self.in_flight.append(self.position)
                assert len(self.in_flight) <= self.window, "more in flight than the window"

    def check_data(self, frame: dict[str, Any]) -> None:
        """What the client makes of the frame is what the log has."""
        data: Any = frame["data"]
        if not self.deltas:
            assert isinstance(data, dict) and "base" not in frame
            data = json.dumps(data, separators=(",", ":"))
        assert isinstance(data, str)
        if "base" in frame:
            assert frame["base"] == self.position and self.held is not None, "a delta to what was not delivered"
            data = apply_delta(self.held, data.encode()).decode()
            self.deltas_got += 1
        self.held = data.encode()
        assert data in self.world.log.data[frame["epoch"], frame["serial"]]

    def send(self, frame: dict[str, Any]) -> None:
        self.held = None
        match frame["type"]:
            case "attached":
                self.on_attached(frame)
            case "skipped":
                self.skipped.append(frame)
                self.explained = True
                if frame["reason"] == "conflated":
                    self.on_conflated(frame)
                elif frame["to"] is not None:
                    assert frame["from"] == self.position + 1 or not self.got, frame
                    self.position = self.acked = max(self.position, frame["to"])
                    self.in_flight.clear()
            case "snapshot.end":
                self.in_snapshot = False
                assert frame["serial"] == self.position

    def on_conflated(self, frame: dict[str, Any]) -> None:
        assert self.world.conflated, "something was left out, and nobody allowed it"
        assert not self.in_snapshot
        assert frame["epoch"] == self.epoch
        assert frame["from"] == self.position + 1 <= frame["to"], frame
        assert frame["from"] > self.whole_through, "history that was asked for was left out"
        self.left_out.update((self.epoch, serial) for serial in range(frame["from"], frame["to"] + 1))
        self.position = frame["to"]

    def on_attached(self, frame: dict[str, Any]) -> None:
        assert frame.get("delta") == ("fossil" if self.deltas else None)
        self.held = None
        self.attached = True
        self.epoch = frame["epoch"]
        self.position = self.acked = frame["serial"]
        self.in_flight.clear()
        self.whole_through = 0
        # From a position of its own it may be sent again what was left out before.
        self.left_out.clear()
        # Another epoch under a snapshot ends it: all of the new log follows.
        self.in_snapshot = False
        self.explained = frame["resumed"]

    def joined(self, subscriber: Subscriber, answer: Answer) -> None:
        if not isinstance(answer, Attached):
            self.world.hub.detach(subscriber)
            self.subscriber = None
            return
        self.on_attached(answer.frame)
        if answer.skipped is not None:
            self.skipped.append(answer.skipped)
            self.explained = True
        if isinstance(subscriber.attaching.position, positions.Start | positions.Rewind | positions.Since):
            self.whole_through = answer.frame["head"]  # type: ignore[assignment]
        self.in_snapshot = isinstance(subscriber.attaching.position, positions.Latest)
        self.world.hub.begin(subscriber)

    def end(self, code: str) -> None:
        self.ended = code

    def attach(self, position: positions.From) -> None:
        if self.subscriber is not None:
            self.world.hub.detach(self.subscriber)
        self.attached = False
        attaching = Attaching(CHANNEL, position, self.window, max(1, self.window // 2), 10_000, 100, deltas=self.deltas)
        self.subscriber = self.world.hub.attach(attaching, self, self.joined, self.end)

    def detach(self) -> None:
        if self.subscriber is not None:
            self.world.hub.detach(self.subscriber)
            self.subscriber = None
            self.attached = False

    def ack(self, serial: int) -> bool:
        assert self.subscriber is not None
        good = self.world.hub.ack(self.subscriber, serial)
        if good and serial <= self.position:
            self.acked = max(self.acked, serial)
            self.in_flight = [each for each in self.in_flight if each > serial]
        return good

    def congest(self, congested: bool) -> None:
        self.congested = congested
        if self.subscriber is not None:
            if congested:
                self.world.hub.pause(self.subscriber)
            else:
                self.world.hub.drained(self.subscriber)


class World:
    """A hub over a log, with announcements in the test's hands."""

    def __init__(self, **settings: Any) -> None:
        self.loop = Loop()
        self.log = Log()
        self.reader = Reader(self.loop, self.log)
        self.following = Following()
        self.cursors = Cursors(self.loop)
        settings = {"block_messages": 8, "cache_bytes": 20_000, "window_bytes": 4000, "linger_s": 5.0, **settings}
        self.hub = Hub(
            self.loop, self.reader, self.following, self.cursors, HubSettings(**settings), lambda channel: self.overflow
        )
        self.overflow = Overflow.HOLD
        self.conflated = False
        """Whether the overflow was ever another."""
        self.clients: list[Client] = []
        self.pending: list[News] = []
        """Announced, not heard yet."""

    def client(self, window: int = 0, position: positions.From | None = None, *, deltas: bool = False) -> Client:
        client = Client(self, window, deltas)
        self.clients.append(client)
        client.attach(position or positions.Head())
        return client

    def set_overflow(self, overflow: Overflow) -> None:
        self.overflow = overflow
        self.conflated |= overflow is not Overflow.HOLD

    def publish(self, count: int = 1, size: int = 0) -> News:
        news = self.log.commit(count, size)
        self.pending.append(news)
        return news

    def hear_all(self) -> None:
        for news in self.pending:
            self.hub.hear(news)
        self.pending.clear()

    def settle(self, seconds: float = 3.0) -> None:
        """Lets everything come to rest: reads answer, sockets drain, clients ack, the sweep finds what is missing."""
        self.reader.away = False
        for client in self.clients:
            client.congest(False)
        for step in range(int(seconds / 0.02)):
            if step % 50 == 0:
                self.hub.sweep()
            self.loop.advance(0.02)
            for client in self.clients:
                if client.attached and client.window and client.position > client.acked:
                    client.ack(client.position)
