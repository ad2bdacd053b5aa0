"""Requests to the raw ASGI shells in one process: everything is real but the server.

`Exchange` is one request whose answer may go on; `hold` makes its server take nothing, like one whose client does not
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote, urlencode

from realtime.asgi import get_application
from tests.conversation import HOST, PATIENCE_S, bearer, no_django, token

API = "/api/v1"


class Exchange:
    """One request. `status`, `headers` and `body` are what was answered so far."""

    def __init__(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        *,
        headers: list[tuple[bytes, bytes]] | None = None,
        auth: str | None = "",
        body: bytes = b"",
        extensions: dict[str, Any] | None = None,
    ) -> None:
        """`auth`: a token, "" for ana's that allows everything, None for none."""
        given = [HOST, *(headers or [])]
        if auth is not None:
            given.append(bearer(auth or token()))
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": quote(path, safe="/%").encode(),
            "query_string": urlencode(query or []).encode(),
            "headers": given,
            "client": ["127.0.0.1", 1],
            "extensions": extensions or {},
        }
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._in.put_nowait({"type": "http.request", "body": body})
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.offered = 0
        """Bytes that the platform has given the server, taken or not."""
        self.complete = False
        self._taking = asyncio.Event()
        self._taking.set()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(get_application(no_django)(self.scope, self._in.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.offered += len(message.get("body", b""))
        await self._taking.wait()
        async with self._changed:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                self.body += message.get("body", b"")
                self.complete = not message.get("more_body")
            self._changed.notify_all()

    def hold(self) -> None:
        self._taking.clear()

    def take(self) -> None:
        self._taking.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(holds)

    async def answer(self) -> Any:
        """The whole answer as JSON."""
        await self.until(lambda: self.complete)
        return json.loads(self.body) if self.body else None

    async def leave(self) -> None:
        """The client goes away."""
        self.take()
        self._in.put_nowait({"type": "http.disconnect"})
        if self._task is not None:
            await asyncio.wait_for(self._task, PATIENCE_S)

    # ------------------------------------------------------------------ what was said

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events that are complete: `event`, `id` if there is one, `data` decoded, `retry`."""
        found = []
        for block in self.body.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "data" in fields:
                fields["data"] = json.loads(fields["data"])
            if fields:
                found.append(fields)
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Lines that are complete, but heartbeats."""
        return [json.loads(line) for line in self.body.decode().split("\n")[:-1]]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each.get("event") == name]

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """The first `count` message events."""
        await self.until(lambda: len(self.named("message")) >= count)
        return self.named("message")[:count]

    async def told(self, name: str) -> dict[str, Any]:
        """The first event of this name."""
        await self.until(lambda: bool(self.named(name)))
        return self.named(name)[0]

    async def told_line(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        await self.until(lambda: len([each for each in self.lines if each["type"] == kind]) >= count)
        return [each for each in self.lines if each["type"] == kind]


@contextlib.asynccontextmanager
async def opened(method: str, path: str, *arguments: Any, **options: Any) -> AsyncIterator[Exchange]:
    """A request to the API, whose client leaves at the end."""
    exchange = Exchange(method, API + path, *arguments, **options)
    exchange.start()
    try:
        yield exchange
    finally:
        await exchange.leave()


async def asked(method: str, path: str, *arguments: Any, **options: Any) -> tuple[int, Any]:
    """Status and JSON of a request that is answered at once."""
    async with opened(method, path, *arguments, **options) as exchange:
        answer = await exchange.answer()
        assert exchange.headers.get("cache-control") == "no-store"
        return exchange.status, answer


async def refused(status: int, code: str, method: str, path: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """The error of a request that has to be refused so, in the one shape."""
    found, answer = await asked(method, path, *arguments, **options)
    assert (found, answer["error"]["code"]) == (status, code), (found, answer)
    assert {"message", "remedy"} <= answer["error"].keys()
    error: dict[str, Any] = answer["error"]
    return error


def lines_of(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]
