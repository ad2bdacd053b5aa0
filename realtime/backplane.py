"""News between workers, over the channel layer. It may lose, double, delay and swap; the hub and the log mend that.

One *line* for each shard of the layer. On each a worker has a name of its own and one group per followed channel,
joined only while somebody follows here. Names on the layer are hashes under the site's prefix, since the layer allows
fewer characters than we do; the true name travels inside and is checked. Announcing is one background task with a
bounded queue: nothing that serves a client ever awaits the layer. When the queue is full an announcement shrinks to
*channel, epoch, head*, and the listeners read the log. Signals have a queue of their own, sent only while no
announcement waits; where it is full it keeps the newest of each client and event. On a layer that is not our own they
have a line of their own: what waits for a name there is bounded, and they must push out no news.

A layer can die without a word: packets that are dropped, a Redis that is stopped, a master that moved. So each worker
sends itself a beacon through every line. One that is missed makes the line *suspect*, and the log is asked more often;
a line that stays silent is begun anew, connections and all, until it speaks. See docs/explanation/delivery.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from realtime.conf import settings
from realtime.counting import SECONDS, Histogram
from realtime.delivery.signals import Signal, SignalQueue
from realtime.layers import OwnLayer, Shard
from realtime.log.types import News
from realtime.protocol.names import ChannelName

logger = logging.getLogger(__name__)

ANNOUNCEMENTS_MOST = 1000
"""Announcements queued with their frames on one line. Beyond it each channel keeps one head: memory is O(channels)."""

ANNOUNCED_BYTES_MOST = 8 << 20
"""Characters of frames queued; for the same reason."""

SIGNALS_MOST = 1000
"""Signals queued on one line; beyond it the newest of each client and event, which is all that they promise."""

SIGNALS_CHARS_MOST = 1 << 20
"""The same in characters of their frames."""

RETRY_S = 1.0
"""Pause after the layer failed."""

PATIENCE_S = 4.0
"""How long one call of the layer may hold up the next. One that takes longer has stopped; the log has the message."""

BEACON = "seriatim.beacon"

NEWS, SIGNALS = "hub", "signals"
"""What a line carries: both, or on a layer that is not our own, signals alone."""

BEACON_S = 1.0
"""How often a worker sends itself a word through each line."""

SUSPECT_S = 3.0
"""A worker that has not heard its own beacon for so long takes the line for dead, and looks at the log more often."""

RENEW_S = 6.0
"""A line on which nothing at all was heard for so long is begun anew. Longer than one patience and one beacon."""

RENEW_DEAF_S = 30.0
"""The same where others are heard and the own beacon is not: what is wrong is not the connection."""

LAG_MOST_S = 60.0
"""Announcements that seem to have taken longer say that two clocks differ."""

JOINS_A_TURN = 50
"""Groups joined in one turn of the loop. After a renewal there may be thousands, and joining one need not wait for
Redis."""


def group_of(channel: ChannelName) -> str:
    """The group's name on the layer: at most 99 of A–Z a–z 0–9 - _ . are allowed there."""
    return f"{settings.PREFIX}.c.{hashlib.sha1(channel.encode(), usedforsecurity=False).hexdigest()}"


def signal_message(sender: str, channel: ChannelName, signals: Sequence[Signal]) -> dict[str, Any]:
    """What travels in the channel's group. `sender` is a worker's name there, or "" for a process without one."""
    return {
        "type": "seriatim.signals",
        "worker": sender,
        "channel": channel,
        "signals": [[signal.client, signal.event, signal.frame, signal.to] for signal in signals],
    }


def shard_index(channel: ChannelName, count: int) -> int:
    """Which of the shards carries a channel: the same in every process, whatever its hash seed."""
    return 0 if count == 1 else zlib.crc32(channel.encode()) % count


def signal_group_of(channel: ChannelName, shard: Shard) -> str:
    """The group in which the channel's signals travel. A layer that is not our own may bound what waits for a name
    (channels-redis: 100 messages) and drop what is new: there signals have groups, and every worker a second name, of
    their own, so that they push out no announcement."""
    group = group_of(channel)
    return group if shard.own else f"{group}.s"


class Backplane:
    """One worker's ear and mouth. Every method runs on the loop's thread and returns at once.

    All workers must have the same shards in the same order; without any, a worker has nobody to talk to. `hear` gets
    news of other workers; `hear_of(channel, epoch, head)` a head alone.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        worker: str,
        hear: Callable[[News], None],
        hear_of: Callable[[ChannelName, str | None, int], None],
        hear_signal: Callable[[Signal], None] = lambda signal: None,
    ) -> None:
        names = ("announced", "shrunk", "heard", "failures", "renewals", "signals_sent", "signals_heard")
        self.counts: Counter[str] = Counter(dict.fromkeys((*names, "signals_dropped"), 0))
        """Totals of all lines since the start."""
        self.lag = Histogram(SECONDS)
        """From a commit in another worker until it was heard of here, by the clocks of both."""
        ear = (worker, hear, hear_of, hear_signal, self.counts, self.lag)
        self.lines = [Line(shard, *ear) for shard in shards]
        self.signal_lines = [
            line if shard.own else Line(shard, *ear, role=SIGNALS)
            for shard, line in zip(shards, self.lines, strict=True)
        ]
        """What signals travel over: the same, or lines of their own. See `signal_group_of`."""
        self._all = [*self.lines, *(line for line in self.signal_lines if line not in self.lines)]

    def start(self) -> None:
        for line in self._all:
            line.start()

    async def stop(self) -> None:
        await asyncio.gather(*[line.stop() for line in self._all])

    @property
    def suspect(self) -> bool:
        """Some line seems to carry nothing: what other workers commit is heard of only by reading the log."""
        return any(line.suspect for line in self.lines)

    def suspects(self, channel: ChannelName) -> bool:
        """Whether it is the line of this channel."""
        return bool(self.lines) and self.line_of(channel).suspect

    @property
    def waiting_count(self) -> int:
        """Announcements that are not sent yet."""
        return sum([line.waiting_count for line in self.lines])

    def announce(self, news: News, committed_at: float | None = None) -> None:
        """Tells other workers, some time soon, perhaps. `committed_at` is in Unix seconds; None: now."""
        if self.lines:
            self.line_of(news.channel).announce(news, time.time() if committed_at is None else committed_at)

    def signal(self, signal: Signal) -> None:
        """Passes a signal to other workers, if all goes well."""
        if self.lines:
            self.signal_lines[shard_index(signal.channel, len(self.lines))].signal(signal)

    def follow(self, channel: ChannelName) -> None:
        for line in self._lines_of(channel):
            line.follow(channel)

    def unfollow(self, channel: ChannelName) -> None:
        for line in self._lines_of(channel):
            line.unfollow(channel)

    def _lines_of(self, channel: ChannelName) -> set[Line]:
        index = shard_index(channel, len(self.lines)) if self.lines else 0
        return {*self.lines[index : index + 1], *self.signal_lines[index : index + 1]}

    def line_of(self, channel: ChannelName) -> Line:
        return self.lines[shard_index(channel, len(self.lines))]


class Line:
    """One shard of the layer: a name there, groups, a queue, a beacon. One that is dead holds up no other."""

    def __init__(
        self,
        shard: Shard,
        worker: str,
        hear: Callable[[News], None],
        hear_of: Callable[[ChannelName, str | None, int], None],
        hear_signal: Callable[[Signal], None],
        counts: Counter[str],
        lag: Histogram,
        role: str = NEWS,
    ) -> None:
        """`role` tells two lines of a worker apart that are on one layer."""
        self._shard = shard
        self._role = role
        self._layer = shard.make()
        self._worker = worker
        self._hear = hear
        self._hear_of = hear_of
        self._hear_signal = hear_signal
        self.counts = counts
        self._lag = lag
        self._name: str | None = None
        self._queue: deque[tuple[News, float]] = deque()
        self._queued_bytes = 0
        self._heads: dict[ChannelName, tuple[str, int]] = {}
        """Announcements that shrank."""
        self._signals = SignalQueue(SIGNALS_MOST, SIGNALS_CHARS_MOST)
        self._signalling: dict[ChannelName, list[Signal]] = {}
        """What was in that queue, on its way channel by channel."""
        self._memberships: dict[ChannelName, bool] = {}
        """Wanted by channel: to join (True) or to leave; done in order by the membership task."""
        self._followed: set[ChannelName] = set()
        named = f"{worker} {role}"
        self._beacon_group = f"{settings.PREFIX}.b.{hashlib.sha1(named.encode(), usedforsecurity=False).hexdigest()}"
        self._joined_beacon = False
        self._heard_beacon_at = self._heard_at = self._renewed_at = time.monotonic()
        self._wake_announcer = asyncio.Event()
        self._wake_memberships = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listening = asyncio.ensure_future(self._listen())
        for work in (self._announce, self._keep_memberships, self._send_beacons, self._mind):
            self._tasks.add(asyncio.ensure_future(work()))

    async def stop(self) -> None:
        """Ends within about `PATIENCE_S`, whatever the layer does."""
        await self._flush([*self._tasks, *([self._listening] if self._listening else [])])

    @property
    def suspect(self) -> bool:
        return self.silent_s > SUSPECT_S

    @property
    def silent_s(self) -> float:
        """How long ago the own beacon was heard."""
        return time.monotonic() - self._heard_beacon_at

    @property
    def waiting_count(self) -> int:
        return len(self._queue) + len(self._heads)

    def announce(self, news: News, committed_at: float) -> None:
        size = sum([len(frame) for frame in news.frames])
        if len(self._queue) >= ANNOUNCEMENTS_MOST or self._queued_bytes + size > ANNOUNCED_BYTES_MOST:
            self._heads[news.channel] = (news.epoch, news.first + len(news.frames) - 1)
            self.counts["shrunk"] += 1
        else:
            self._queue.append((news, committed_at))
            self._queued_bytes += size
        self._wake_announcer.set()

    def signal(self, signal: Signal) -> None:
        before = self._signals.dropped
        self._signals.put(signal)
        self.counts["signals_dropped"] += self._signals.dropped - before
        self._wake_announcer.set()

    def follow(self, channel: ChannelName) -> None:
        self._followed.add(channel)
        self._memberships[channel] = True
        self._wake_memberships.set()

    def unfollow(self, channel: ChannelName) -> None:
        self._followed.discard(channel)
        self._memberships[channel] = False
        self._wake_memberships.set()

    # ------------------------------------------------------------------ tasks

    async def _listen(self) -> None:
        """The only receiver of this worker's name. Cancelled only to give the name up: layers drop it then."""
        while True:
            try:
                if self._name is None:
                    async with asyncio.timeout(PATIENCE_S):
                        self._name = await self._layer.new_channel(f"{settings.PREFIX}.{self._role}")
                    # A new name belongs to no group yet.
                    self._joined_beacon = False
                    self._memberships.update(dict.fromkeys(self._followed, True))
                    self._wake_memberships.set()
                message = await self._layer.receive(self._name)
            except Exception as error:
                self._failed("Listening to the channel layer", error)
                self._name = None
                await asyncio.sleep(RETRY_S)
            else:
                self._heard_at = time.monotonic()
                try:
                    self._take(message)
                except Exception:
                    # A fault of ours; the worker must not be deaf from now on.
                    logger.exception("Hearing an announcement failed.")

    def _take(self, message: object) -> None:
        """Hears another worker's announcement; what is none, or of another version, is counted and dropped."""
        match message:
            case {"type": "seriatim.news" | "seriatim.signals", "worker": self._worker}:
                return
            case {"type": "seriatim.beacon"}:
                self._heard_beacon_at = self._heard_at
            case {
                "type": "seriatim.news",
                "channel": str(channel),
                "channel_id": int(channel_id),
                "epoch": str(epoch),
                "first": int(first),
                "frames": list(frames),
                **rest,
            } if first > 0 and all(isinstance(frame, str) for frame in frames):
                self.counts["heard"] += 1
                self._note_lag(rest.get("at"))
                if frames:
                    self._hear(News(ChannelName(channel), channel_id, epoch, first, frames))
                else:
                    self._hear_of(ChannelName(channel), epoch, first)
            case {"type": "seriatim.signals", "channel": str(channel), "signals": list(signals)}:
                for each in signals:
                    match each:
                        case [str(client), str(event), str(frame), str(to)]:
                            self.counts["signals_heard"] += 1
                            self._hear_signal(Signal(ChannelName(channel), client, event, frame, to))
            case _:
                self._failed("Reading an announcement of another worker", ValueError("not an announcement"))

    def _note_lag(self, at: object) -> None:
        if isinstance(at, float):
            lag_s = time.time() - at
            # Clocks of two machines may differ by a little; beyond that the number tells of them and of nothing else.
            if -LAG_MOST_S < lag_s < LAG_MOST_S:
                self._lag.observe(max(0.0, lag_s))

    async def _announce(self) -> None:
        while True:
            await self._wake_announcer.wait()
            self._wake_announcer.clear()
            while self._queue or self._heads or self._signals or self._signalling:
                signals: list[Signal] = []
                if self._queue:
                    news, at = self._queue.popleft()
                    self._queued_bytes -= sum([len(frame) for frame in news.frames])
                    channel = news.channel
                    message = self._message(news.channel, news.epoch, news.first, news.frames, news.channel_id)
                    message["at"] = at
                elif self._heads:
                    channel, (epoch, head) = self._heads.popitem()
                    message = self._message(channel, epoch, head, [], 0)
                else:
                    channel, signals = self._next_signals()
                    message = signal_message(self._worker, channel, signals)
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await self._layer.group_send(self._group_of(channel), message)
                except Exception as error:
                    self.counts["signals_dropped"] += len(signals)
                    self._failed("Announcing over the channel layer", error)
                    await asyncio.sleep(RETRY_S)
                else:
                    self.counts["signals_sent" if signals else "announced"] += len(signals) or 1

    def _group_of(self, channel: ChannelName) -> str:
        return signal_group_of(channel, self._shard) if self._role == SIGNALS else group_of(channel)

    def _next_signals(self) -> tuple[ChannelName, list[Signal]]:
        """The signals of one channel; those that come while they are sent go together, too."""
        if not self._signalling:
            for signal, _ in self._signals.take_all():
                self._signalling.setdefault(signal.channel, []).append(signal)
        channel = next(iter(self._signalling))
        return channel, self._signalling.pop(channel)

    async def _send_beacons(self) -> None:
        """A task of its own, so that a long queue of announcements does not look like a dead layer."""
        while True:
            await asyncio.sleep(BEACON_S)
            name = self._name
            if name is None:
                continue
            try:
                async with asyncio.timeout(PATIENCE_S):
                    if not self._joined_beacon:
                        await self._layer.group_add(self._beacon_group, name)
                        self._joined_beacon = self._name == name
                    await self._layer.group_send(self._beacon_group, {"type": BEACON})
            except Exception as error:
                self._failed("Sending a beacon over the channel layer", error)

    def _message(
        self, channel: ChannelName, epoch: str, first: int, frames: list[str], channel_id: int
    ) -> dict[str, Any]:
        """`first` is the head where there are no frames."""
        return {
            "type": "seriatim.news",
            "worker": self._worker,
            "channel": channel,
            "channel_id": channel_id,
            "epoch": epoch,
            "first": first,
            "frames": frames,
        }

    async def _keep_memberships(self) -> None:
        done = 0
        while True:
            await self._wake_memberships.wait()
            self._wake_memberships.clear()
            while self._memberships and (name := self._name) is not None:
                channel, join = next(iter(self._memberships.items()))
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        if join:
                            await self._layer.group_add(self._group_of(channel), name)
                        else:
                            await self._layer.group_discard(self._group_of(channel), name)
                except Exception as error:
                    self._failed("Joining a group of the channel layer", error)
                    # One group that cannot be joined must not keep the others waiting.
                    self._memberships[channel] = self._memberships.pop(channel)
                    await asyncio.sleep(RETRY_S)
                else:
                    # Under another name everything is wanted again.
                    if self._memberships.get(channel) is join and self._name == name:
                        del self._memberships[channel]
                    done += 1
                    if done % JOINS_A_TURN == 0:
                        await asyncio.sleep(0)

    # ------------------------------------------------------------------ beginning anew

    async def _mind(self) -> None:
        """Begins a silent line anew, again and again until it speaks: no error need ever tell that it is dead."""
        while True:
            await asyncio.sleep(BEACON_S)
            now = time.monotonic()
            heard = self._heard_at if now - self._heard_beacon_at < RENEW_DEAF_S else self._heard_beacon_at
            if now - max(heard, self._renewed_at) >= RENEW_S:
                self._renewed_at = now
                await self._renew()

    async def _renew(self) -> None:
        """New connections, a new name, the same groups."""
        self.counts["renewals"] += 1
        self._name = None
        if self._listening is not None:
            await self._flush([self._listening])
        self._listening = asyncio.ensure_future(self._listen())

    async def _flush(self, ending: Sequence[asyncio.Task[None]]) -> None:
        """Ends tasks, and closes the layer's connections where it is our own."""
        flushing = asyncio.ensure_future(self._close()) if self._shard.own else None
        # The layer forgets its names before its listener is cancelled, who would otherwise wait to unsubscribe.
        await asyncio.sleep(0)
        for task in ending:
            task.cancel()
        left = {*ending, *([flushing] if flushing else [])}
        for _ in range(2):
            if left:
                _, left = await asyncio.wait(left, timeout=PATIENCE_S)
                for task in left:
                    task.cancel()

    async def _close(self) -> None:
        layer = cast("OwnLayer", self._layer)
        try:
            try:
                await layer.flush()
            except Exception:
                # Closing may itself take too long the first time; the second time it is closed already.
                await layer.flush()
        except Exception as error:
            self._failed("Closing the connections of the channel layer", error)
            self._layer = self._shard.make()

    def _failed(self, what: str, error: Exception) -> None:
        """Counted and said once in a while: nothing depends on the layer but speed."""
        self.counts["failures"] += 1
        if self.counts["failures"] in (1, 10, 100) or self.counts["failures"] % 1000 == 0:
            logger.warning("%s failed (%d so far): %r", what, self.counts["failures"], error)
