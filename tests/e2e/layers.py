"""Channel layers that carry no announcement, for servers whose settings are `tests.e2e.settings`."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import Any

from realtime.backplane import BEACON


class Swallowing:
    """Takes everything and carries nothing."""

    def __init__(self, **_: object) -> None:
        self._numbers = itertools.count(1)

    async def new_channel(self, prefix: str = "specific") -> str:
        return f"{prefix}.{next(self._numbers)}"

    async def receive(self, channel: str) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("nothing ever comes")

    async def group_add(self, group: str, channel: str) -> None: ...

    async def group_discard(self, group: str, channel: str) -> None: ...

    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...


class SwallowingAnnouncements(Swallowing):
    """Carries a worker's beacon, which only itself hears, and nothing else: nobody suspects anything."""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self._members: dict[str, set[str]] = defaultdict(set)
        self._queues: dict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(asyncio.Queue)

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self._queues[channel].get()

    async def group_add(self, group: str, channel: str) -> None:
        self._members[group].add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._members[group].discard(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if message["type"] == BEACON:
            for channel in self._members[group]:
                self._queues[channel].put_nowait(message)
