"""Conversations with the consumer over plain ASGI: the platform's application, and peers that speak the wire contract.

Everything is real but the server: worker, hub, log writer and database. A peer's server can be told to take nothing
(`hold`), like one whose client does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from channels.testing import WebsocketCommunicator
from django.db import connections

from realtime import tokens, worker
from realtime.asgi import get_application
from tests.conftest import MS

HOST = (b"host", b"testserver")
OWN_ORIGIN = (b"origin", b"http://testserver")
PATIENCE_S = 60_000 * MS

ABSENT: Any = object()

T = TypeVar("T")


async def no_django(scope: dict[str, Any], receive: Any, send: Any) -> None:
    raise AssertionError("no HTTP in these tests")


def token(client: str = "ana", cap: Any = ABSENT, ttl_s: int = 600) -> str:
    return tokens.issue_token(client, {"*": ["*"]} if cap is ABSENT else cap, ttl_s, time.time())[0]


def bearer(text: str) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + text.encode())


class Closed(AssertionError):
    """The server closed where a frame was expected."""


class Peer:
    """One WebSocket. Frames are dicts; `request` waits for the answer with its `ref` and keeps the others for later."""

    def __init__(self, *headers: tuple[bytes, bytes], path: str = "/ws", subprotocols: list[str] | None = None) -> None:
        self.application = get_application(no_django)
        self.taking = asyncio.Event()
        self.taking.set()
        self.offered = 0
        """Frames that the platform has given the server, taken or not."""
        self.communicator = WebsocketCommunicator(self.gate, path, [HOST, *headers], subprotocols)
        self.kept: list[dict[str, Any]] = []
        self.refs = itertools.count(1)
        self.subprotocol: str | None = None

    async def gate(self, scope: Any, receive: Any, send: Any) -> None:
        async def gated(message: dict[str, Any]) -> None:
            self.offered += 1
            await self.taking.wait()
            await send(message)

        await self.application(scope, receive, gated)

    def hold(self) -> None:
        self.taking.clear()

    def take(self) -> None:
        self.taking.set()

    async def connect(self) -> bool:
        accepted, self.subprotocol = await self.communicator.connect(PATIENCE_S)
        return bool(accepted)

    async def send(self, *frames: object) -> None:
        for frame in frames:
            if isinstance(frame, bytes):
                await self.communicator.send_to(bytes_data=frame)
            else:
                await self.communicator.send_to(text_data=frame if isinstance(frame, str) else json.dumps(frame))

    async def _next(self) -> dict[str, Any]:
        message = await self.communicator.receive_output(PATIENCE_S)
        if message["type"] != "websocket.send":
            raise Closed(message)
        frame: dict[str, Any] = json.loads(message["text"])
        return frame

    async def read(self, **fields: object) -> dict[str, Any]:
        """The next frame with these fields; those before it are kept for later reads."""
        for index, frame in enumerate(self.kept):
            if frame.items() >= fields.items():
                return self.kept.pop(index)
        while not (frame := await self._next()).items() >= fields.items():
            self.kept.append(frame)
        return frame

    async def request(self, kind: str, **fields: object) -> dict[str, Any]:
        ref = f"peer-{next(self.refs)}"
        await self.send({"type": kind, "ref": ref, **fields})
        return await self.read(ref=ref)

    async def publish(self, channel: str, *data: object, **fields: object) -> dict[str, Any]:
        return await self.request("publish", channel=channel, messages=[{"data": each} for each in data], **fields)

    async def messages(self, channel: str, count: int) -> list[Any]:
        """The data of the next `count` messages; asserts that their serials have no hole."""
        found = [await self.read(type="message", channel=channel) for _ in range(count)]
        serials = [frame["serial"] for frame in found]
        assert serials == list(range(serials[0], serials[0] + count)) if serials else True
        return [frame["data"] for frame in found]

    async def nothing_else(self) -> None:
        """Nothing was said that no test has read yet."""
        await self.request("ping")
        assert not self.kept, self.kept

    async def closed(self) -> tuple[int, str, list[dict[str, Any]]]:
        """Code and reason of the close, and the frames before it that nobody has read."""
        while True:
            try:
                self.kept.append(await self._next())
            except Closed as end:
                message = end.args[0]
                assert message["type"] == "websocket.close"
                kept, self.kept = self.kept, []
                return message.get("code", 1000), message.get("reason", ""), kept

    async def leave(self) -> None:
        self.take()
        await self.communicator.disconnect(timeout=PATIENCE_S)


@contextlib.asynccontextmanager
async def connected(*headers: tuple[bytes, bytes], text: str | None = None, **options: Any) -> AsyncIterator[Peer]:
    """A peer that is welcome, by a token in its header; `ready` is read."""
    peer = Peer(*headers, bearer(text or token()), **options)
    assert await peer.connect()
    try:
        await peer.read(type="ready")
        yield peer
    finally:
        await peer.leave()


async def in_thread(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Runs what uses the ORM in a thread that leaves no connection behind."""

    def work() -> T:
        try:
            return call(*arguments, **named)
        finally:
            connections.close_all()

    return await asyncio.to_thread(work)


async def stop_worker() -> None:
    running = worker.current()
    if running is not None:
        await running.stop()
        # Reads that had begun go on in threads; emptying the tables beside them is a deadlock on PostgreSQL.
        await asyncio.to_thread(running.reader._pool.shutdown)
        await asyncio.to_thread(running._maintenance.shutdown)
