"""A proxy such as stands in offices: it breaks upgrades, holds responses back, cuts what is idle, is slow, resets."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

REFUSED = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
CHUNK = 4096


@dataclass
class Faults:
    """What it does to every connection through it."""

    no_upgrade: bool = False
    """A request for a WebSocket is answered with 400."""
    buffers: bool = False
    """A response without a length is held back until it is complete."""
    idle_s: float | None = None
    """A connection on which nothing moves for so long is cut."""
    bytes_per_s: float | None = None
    reset_chance: float = 0.0
    """How probable it is that a connection is reset, for each piece that moves."""


@dataclass
class Proxy:
    """`async with Proxy(port, faults) as proxy:` listens on `proxy.port`. What it did stands in `counts`."""

    target: int
    faults: Faults
    seed: int = 1
    port: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("refused", "held", "cut", "reset"), 0))
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._random = random.Random(self.seed)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass_on(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            # Cancelled by `__aexit__`, which asks for no more than the end: asyncio would log it as a fault.
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if self.faults.no_upgrade and re.search(rb"\r\nupgrade: *websocket", head, re.IGNORECASE):
            self.counts["refused"] += 1
            writer.write(REFUSED)
            await writer.drain()
            return
        out_reader, out_writer = await asyncio.open_connection("127.0.0.1", self.target)
        out_writer.write(head)
        moved = [asyncio.get_running_loop().time()]
        ways = [
            asyncio.ensure_future(self._move(reader, out_writer, moved, holds=False)),
            asyncio.ensure_future(self._move(out_reader, writer, moved, holds=self.faults.buffers)),
        ]
        if self.faults.idle_s is not None:
            ways.append(asyncio.ensure_future(self._watch(moved, self.faults.idle_s)))
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            out_writer.close()

    async def _watch(self, moved: list[float], idle_s: float) -> None:
        loop = asyncio.get_running_loop()
        left = idle_s
        while left > 0:
            await asyncio.sleep(left)
            left = moved[0] + idle_s - loop.time()
        self.counts["cut"] += 1

    async def _move(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, moved: list[float], *, holds: bool
    ) -> None:
        held = b""
        while data := await reader.read(CHUNK):
            moved[0] = asyncio.get_running_loop().time()
            if self._random.random() < self.faults.reset_chance:
                self.counts["reset"] += 1
                with suppress(OSError):
                    writer.transport.abort()
                return
            if self.faults.bytes_per_s is not None:
                await asyncio.sleep(len(data) / self.faults.bytes_per_s)
            if holds:
                held += data
                if not _is_complete(held):
                    self.counts["held"] += 1
                    continue
                data, held = held, b""
            writer.write(data)
            await writer.drain()


def _is_complete(response: bytes) -> bool:
    """Whether nothing of the response is to come, as far as a proxy that reads chunks can tell."""
    return b"transfer-encoding: chunked" not in response.lower() or response.endswith(b"0\r\n\r\n")
