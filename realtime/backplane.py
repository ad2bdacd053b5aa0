"""News between workers, over the channel layer. It may lose, double, delay and swap; the hub and the log mend that.

One channel-layer channel per worker, one group per followed channel, joined only while somebody follows here. Names on
the layer are hashes under the site's prefix, since the layer allows fewer characters than we do; the true name travels
inside and is checked. Announcing is one background task with a bounded queue: nothing that serves a client ever awaits
the layer. When the queue is full an announcement shrinks to *channel, epoch, head*, and the listeners read the log.
See docs/explanation/delivery.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from realtime.conf import settings
from realtime.log.types import News
from realtime.protocol.names import ChannelName

logger = logging.getLogger(__name__)

ANNOUNCEMENTS_MOST = 1000
"""Announcements queued with their frames. Beyond it each channel keeps one head, so memory is O(channels)."""

ANNOUNCED_BYTES_MOST = 8 << 20
"""Characters of frames queued; for the same reason."""

RETRY_S = 1.0
"""Pause after the layer failed."""

PATIENCE_S = 5.0
"""How long one call of the layer may hold up the next. One that takes longer has stopped; the log has the message."""

BEACON = "seriatim.beacon"

BEACON_S = 1.0
"""How often a worker sends itself a word through the layer."""

SUSPECT_S = 3.0
"""A worker that has not heard its own beacon for so long takes the layer for dead, and looks at the log more often."""


class Layer(Protocol):
    """What is used of a channel layer."""

    async def new_channel(self, prefix: str = ...) -> str: ...
    async def receive(self, channel: str) -> dict[str, Any]: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...


def group_of(channel: ChannelName) -> str:
    """The group's name on the layer: at most 99 of A–Z a–z 0–9 - _ . are allowed there."""
    return f"{settings.PREFIX}.c.{hashlib.sha1(channel.encode(), usedforsecurity=False).hexdigest()}"


class Backplane:
    """One worker's ear and mouth. Every method runs on the loop's thread and returns at once.

    `hear` gets news of other workers; `hear_of(channel, epoch, head)` a head alone.
    """

    def __init__(
        self,
        layer: Layer,
        worker: str,
        hear: Callable[[News], None],
        hear_of: Callable[[ChannelName, str | None, int], None],
    ) -> None:
        self._layer = layer
        self._worker = worker
        self._hear = hear
        self._hear_of = hear_of
        self._name: str | None = None
        self._queue: deque[News] = deque()
        self._queued_bytes = 0
        self._heads: dict[ChannelName, tuple[str, int]] = {}
        """Announcements that shrank."""
        self._memberships: dict[ChannelName, bool] = {}
        """Wanted by channel: to join (True) or to leave; done in order by the membership task."""
        self._followed: set[ChannelName] = set()
        self._beacon_group = f"{settings.PREFIX}.b.{hashlib.sha1(worker.encode(), usedforsecurity=False).hexdigest()}"
        self._joined_beacon = False
        self._heard_beacon_at = time.monotonic()
        self._wake_announcer = asyncio.Event()
        self._wake_memberships = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = {"announced": 0, "shrunk": 0, "heard": 0, "failures": 0}

    def start(self) -> None:
        for work in (self._listen, self._announce, self._keep_memberships, self._send_beacons):
            self._tasks.add(asyncio.ensure_future(work()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def suspect(self) -> bool:
        """The layer seems to carry nothing: what other workers commit is heard of only by reading the log."""
        return time.monotonic() - self._heard_beacon_at > SUSPECT_S

    def announce(self, news: News) -> None:
        """Tells other workers, some time soon, perhaps."""
        size = sum([len(frame) for frame in news.frames])
        if len(self._queue) >= ANNOUNCEMENTS_MOST or self._queued_bytes + size > ANNOUNCED_BYTES_MOST:
            self._heads[news.channel] = (news.epoch, news.first + len(news.frames) - 1)
            self.counts["shrunk"] += 1
        else:
            self._queue.append(news)
            self._queued_bytes += size
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
        """The only receiver of this worker's name. Never cancelled but at the end: layers would drop the name."""
        while True:
            try:
                if self._name is None:
                    self._name = await self._layer.new_channel(f"{settings.PREFIX}.hub")
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
                try:
                    self._take(message)
                except Exception:
                    # A fault of ours; the worker must not be deaf from now on.
                    logger.exception("Hearing an announcement failed.")

    def _take(self, message: object) -> None:
        """Hears another worker's announcement; what is none, or of another version, is counted and dropped."""
        match message:
            case {"type": "seriatim.news", "worker": self._worker}:
                return
            case {"type": "seriatim.beacon"}:
                self._heard_beacon_at = time.monotonic()
            case {
                "type": "seriatim.news",
                "channel": str(channel),
                "channel_id": int(channel_id),
                "epoch": str(epoch),
                "first": int(first),
                "frames": list(frames),
            } if first > 0 and all(isinstance(frame, str) for frame in frames):
                self.counts["heard"] += 1
                if frames:
                    self._hear(News(ChannelName(channel), channel_id, epoch, first, frames))
                else:
                    self._hear_of(ChannelName(channel), epoch, first)
            case _:
                self._failed("Reading an announcement of another worker", ValueError("not an announcement"))

    async def _announce(self) -> None:
        while True:
            await self._wake_announcer.wait()
            self._wake_announcer.clear()
            while self._queue or self._heads:
                if self._queue:
                    news = self._queue.popleft()
                    self._queued_bytes -= sum([len(frame) for frame in news.frames])
                    channel = news.channel
                    message = self._message(news.channel, news.epoch, news.first, news.frames, news.channel_id)
                else:
                    channel, (epoch, head) = self._heads.popitem()
                    message = self._message(channel, epoch, head, [], 0)
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await self._layer.group_send(group_of(channel), message)
                    self.counts["announced"] += 1
                except Exception as error:
                    self._failed("Announcing over the channel layer", error)
                    await asyncio.sleep(RETRY_S)

    async def _send_beacons(self) -> None:
        """A task of its own, so that a long queue of announcements does not look like a dead layer."""
        while True:
            await asyncio.sleep(BEACON_S)
            if self._name is None:
                continue
            try:
                async with asyncio.timeout(PATIENCE_S):
                    if not self._joined_beacon:
                        await self._layer.group_add(self._beacon_group, self._name)
                        self._joined_beacon = True
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
        while True:
            await self._wake_memberships.wait()
            self._wake_memberships.clear()
            while self._memberships and self._name is not None:
                channel, join = next(iter(self._memberships.items()))
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        if join:
                            await self._layer.group_add(group_of(channel), self._name)
                        else:
                            await self._layer.group_discard(group_of(channel), self._name)
                except Exception as error:
                    self._failed("Joining a group of the channel layer", error)
                    # One group that cannot be joined must not keep the others waiting.
                    self._memberships[channel] = self._memberships.pop(channel)
                    await asyncio.sleep(RETRY_S)
                else:
                    if self._memberships.get(channel) is join:
                        del self._memberships[channel]

    def _failed(self, what: str, error: Exception) -> None:
        """Counted and said once in a while: nothing depends on the layer but speed."""
        self.counts["failures"] += 1
        if self.counts["failures"] in (1, 10, 100) or self.counts["failures"] % 1000 == 0:
            logger.warning("%s failed (%d so far): %r", what, self.counts["failures"], error)
