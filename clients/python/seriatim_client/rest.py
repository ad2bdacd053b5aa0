"""The HTTP API for backends: publish, read history, issue tokens (docs/reference/rest.md).

Everything is safe to repeat, since each message has its id before it is sent the first time. So requests that fail on
the way, or with a code that may be tried again, are repeated: after `Retry-After` if the server said so, else by
backoff.
`Rest` blocks, `AsyncRest` does not; both are this module's `_Call` with another `httpx` client.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from seriatim_client.addresses import rest_url
from seriatim_client.backoff import Backoff, BackoffOptions, Random
from seriatim_client.chance import strong_random
from seriatim_client.codes import ERRORS
from seriatim_client.data import message_json, to_json
from seriatim_client.errors import SeriatimError
from seriatim_client.frames import read_error, read_history, read_published
from seriatim_client.ids import IdMaker
from seriatim_client.messages import HistoryPage, Message, Published
from seriatim_client.names import check_channel

MOST_A_REQUEST: Final = 1_000
"""How many messages one request may hold."""
MOST_FAULTS: Final = 5
"""How often `internal` is tried again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to publish. Without an `id` one is made at the call."""

    data: Any = None
    event: str = "message"
    key: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """`expires` in Unix milliseconds."""

    token: str
    expires: int


@dataclass(slots=True)
class _Call:
    """One request until it is answered: decides whether to repeat it, and after how long. Pure."""

    method: str
    path: str
    deadline_s: float
    backoff: Backoff
    content: str | None = None
    params: dict[str, str | int] = field(default_factory=dict)
    faults: int = 0

    def fields(self, status: int, body: bytes) -> Mapping[str, Any]:
        """The answer. Raises `SeriatimError`, which knows whether to try again."""
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            value = {}
        if 200 <= status < 300:
            return value
        refusal = value.get("error")
        if isinstance(refusal, dict) and isinstance(refusal.get("code"), str):
            raise read_error(refusal).error()
        # Not our server's words: a proxy's, or another site's.
        text = f"HTTP {status} for {self.method} {self.path}, and no error of Seriatim."
        if status in (429, 502, 503, 504):
            raise SeriatimError("unavailable", text)
        code = next((code for code, row in ERRORS.items() if row.http_status == status and row.fault == "client"), None)
        raise SeriatimError(code or ("internal" if status >= 500 else "bad_frame"), text)

    def wait_s(self, error: SeriatimError, retry_after: str | None, now_s: float) -> float:
        """How long to wait before the next try. Raises the error when there is none."""
        if error.code == "internal":
            self.faults += 1
        if not (error.retry or error.code == "unreachable") or self.faults >= MOST_FAULTS:
            raise error
        if error.retry_after_ms is not None:
            wait_s = error.retry_after_ms / 1000
        elif retry_after is not None and retry_after.isdigit():
            wait_s = float(retry_after)
        else:
            wait_s = self.backoff.next_ms() / 1000
        if now_s + wait_s > self.deadline_s:
            raise error
        return wait_s


class _Requests:
    """What both kinds share: making requests and reading answers."""

    def __init__(
        self, url: str, api_key: str | None, timeout_s: float, backoff: BackoffOptions, random: Random
    ) -> None:
        self.url = rest_url(url)
        self._timeout_s = timeout_s
        self._backoff = backoff
        self._random = random
        self._ids = IdMaker(random)
        self._making_ids = threading.Lock()
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def _call(self, method: str, path: str, content: str | None = None, **params: str | int | None) -> _Call:
        return _Call(
            method,
            path,
            time.monotonic() + self._timeout_s,
            Backoff(self._backoff, self._random),
            content,
            {name: value for name, value in params.items() if value is not None},
        )

    def _publish_call(self, channel: str, messages: Sequence[Draft], client: str | None) -> tuple[_Call, list[str]]:
        if not 1 <= len(messages) <= MOST_A_REQUEST:
            raise SeriatimError("bad_frame", f"A request holds 1 to {MOST_A_REQUEST} messages.", channel=channel)
        with self._making_ids:  # the same id twice would be one message
            ids = [each.id or self._ids.make(time.time() * 1000) for each in messages]
        texts = [
            message_json(id, each.event, each.key, to_json(each.data)) for id, each in zip(ids, messages, strict=True)
        ]
        rest = "" if client is None else f',"client":{json.dumps(client)}'
        return self._call("POST", _messages(channel), f'{{"messages":[{",".join(texts)}]{rest}}}'), ids

    def _history_call(
        self,
        channel: str,
        after: int | None,
        before: int | None,
        since: int | None,
        limit: int | None,
        order: str | None,
    ) -> _Call:
        return self._call(
            "GET", _messages(channel), None, after=after, before=before, since=since, limit=limit, order=order
        )

    def _token_call(self, client: str, cap: Mapping[str, Sequence[str]] | None, ttl_s: float | None) -> _Call:
        asked = {"client": client, "cap": cap, "ttl_s": ttl_s}
        return self._call("POST", "/tokens", to_json({k: v for k, v in asked.items() if v is not None}))


def _messages(channel: str) -> str:
    return f"/channels/{quote(check_channel(channel), safe='')}/messages"


def _published(fields: Mapping[str, Any], ids: list[str]) -> list[Published]:
    answer = read_published(fields)
    if answer is None or len(answer.serials) != len(ids):
        raise SeriatimError("internal", "The answer to the publish makes no sense.")
    return [Published.of(answer, index, id) for index, id in enumerate(ids)]


def _page(fields: Mapping[str, Any], channel: str) -> HistoryPage:
    frame = read_history(fields, channel)
    if frame is None:
        raise SeriatimError("internal", "The answer is no page of history.")
    return HistoryPage.of(frame)


def _token(fields: Mapping[str, Any]) -> IssuedToken:
    token, expires = fields.get("token"), fields.get("expires")
    if not isinstance(token, str) or not isinstance(expires, int):
        raise SeriatimError("internal", "The answer holds no token.")
    return IssuedToken(token, expires)


def _unreachable(error: httpx.TransportError) -> SeriatimError:
    text = f"The server could not be reached: {str(error) or type(error).__name__}."
    return SeriatimError("unreachable", text, remedy="Check the address and whether the server runs.")


def _next_page(page: HistoryPage, left: int | None) -> tuple[int, int | None] | None:
    """Behind which serial the next page begins, and how many messages are left to give; None at the end."""
    if left is not None:
        left -= len(page.messages)
        if left <= 0:
            return None
    if not page.more or not page.messages:
        return None
    return page.messages[-1].serial, left


class Rest(_Requests):
    """For backends and scripts: blocks. `api_key` may be a token too. Safe to use from several threads.

    `timeout_s` is for a call with all its repetitions. Raises `SeriatimError`; `unreachable` when no server answered.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 30,
        backoff: BackoffOptions | None = None,
        random: Random = strong_random,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, backoff or BackoffOptions(first_ms=200), random)
        self._http = httpx.Client(headers=self._headers, timeout=timeout_s, transport=transport)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def publish(
        self,
        channel: str,
        data: Any = None,
        *,
        event: str = "message",
        key: str | None = None,
        id: str | None = None,
        client: str | None = None,
    ) -> Published:
        """Publishes one message. `client`: in whose name, with an API key."""
        return self.publish_many(channel, [Draft(data, event, key, id)], client=client)[0]

    def publish_many(self, channel: str, messages: Iterable[Draft], *, client: str | None = None) -> list[Published]:
        """Publishes messages in order. Each thousand is stored all or none; later ones only behind earlier ones."""
        waiting, receipts = list(messages), []
        for first in range(0, len(waiting), MOST_A_REQUEST):
            call, ids = self._publish_call(channel, waiting[first : first + MOST_A_REQUEST], client)
            receipts += _published(self._send(call), ids)
        return receipts

    def history(
        self,
        channel: str,
        *,
        after: int | None = None,
        before: int | None = None,
        since: int | None = None,
        limit: int | None = None,
        order: str | None = None,
    ) -> HistoryPage:
        """One page. Serials are exclusive; ascending with `after` or `since`, else newest first."""
        return _page(self._send(self._history_call(channel, after, before, since, limit, order)), channel)

    def messages(
        self, channel: str, *, after: int | None = None, before: int | None = None, limit: int | None = None
    ) -> Iterator[Message]:
        """Messages over all pages: rising after `after`, else falling from `before` or the head."""
        left = limit
        is_ascending = after is not None
        while True:
            page = self.history(channel, after=after, before=before, limit=_page_limit(left))
            yield from page.messages if left is None else page.messages[:left]
            more = _next_page(page, left)
            if more is None:
                return
            last, left = more
            after, before = (last, before) if is_ascending else (after, last)

    def issue_token(
        self, client: str, cap: Mapping[str, Sequence[str]] | None = None, ttl_s: float | None = None
    ) -> IssuedToken:
        """A token for a client, never with more than the key's own capability."""
        return _token(self._send(self._token_call(client, cap, ttl_s)))

    def _send(self, call: _Call) -> Mapping[str, Any]:
        while True:
            retry_after = None
            try:
                try:
                    answer = self._http.request(
                        call.method, self.url + call.path, content=call.content, params=call.params or None
                    )
                    retry_after = answer.headers.get("Retry-After")
                    return call.fields(answer.status_code, answer.content)
                except httpx.TransportError as error:
                    raise _unreachable(error) from error
            except SeriatimError as error:
                wait_s = call.wait_s(error, retry_after, time.monotonic())
            time.sleep(wait_s)


class AsyncRest(_Requests):
    """`Rest` for coroutines."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 30,
        backoff: BackoffOptions | None = None,
        random: Random = strong_random,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, backoff or BackoffOptions(first_ms=200), random)
        self._http = httpx.AsyncClient(headers=self._headers, timeout=timeout_s, transport=transport)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    async def publish(
        self,
        channel: str,
        data: Any = None,
        *,
        event: str = "message",
        key: str | None = None,
        id: str | None = None,
        client: str | None = None,
    ) -> Published:
        """See `Rest.publish`."""
        return (await self.publish_many(channel, [Draft(data, event, key, id)], client=client))[0]

    async def publish_many(
        self, channel: str, messages: Iterable[Draft], *, client: str | None = None
    ) -> list[Published]:
        """See `Rest.publish_many`."""
        waiting, receipts = list(messages), []
        for first in range(0, len(waiting), MOST_A_REQUEST):
            call, ids = self._publish_call(channel, waiting[first : first + MOST_A_REQUEST], client)
            receipts += _published(await self._send(call), ids)
        return receipts

    async def history(
        self,
        channel: str,
        *,
        after: int | None = None,
        before: int | None = None,
        since: int | None = None,
        limit: int | None = None,
        order: str | None = None,
    ) -> HistoryPage:
        """See `Rest.history`."""
        return _page(await self._send(self._history_call(channel, after, before, since, limit, order)), channel)

    async def messages(
        self, channel: str, *, after: int | None = None, before: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Message]:
        """See `Rest.messages`."""
        left = limit
        is_ascending = after is not None
        while True:
            page = await self.history(channel, after=after, before=before, limit=_page_limit(left))
            for message in page.messages if left is None else page.messages[:left]:
                yield message
            more = _next_page(page, left)
            if more is None:
                return
            last, left = more
            after, before = (last, before) if is_ascending else (after, last)

    async def issue_token(
        self, client: str, cap: Mapping[str, Sequence[str]] | None = None, ttl_s: float | None = None
    ) -> IssuedToken:
        """See `Rest.issue_token`."""
        return _token(await self._send(self._token_call(client, cap, ttl_s)))

    async def _send(self, call: _Call) -> Mapping[str, Any]:
        while True:
            retry_after = None
            try:
                try:
                    answer = await self._http.request(
                        call.method, self.url + call.path, content=call.content, params=call.params or None
                    )
                    retry_after = answer.headers.get("Retry-After")
                    return call.fields(answer.status_code, answer.content)
                except httpx.TransportError as error:
                    raise _unreachable(error) from error
            except SeriatimError as error:
                wait_s = call.wait_s(error, retry_after, time.monotonic())
            await asyncio.sleep(wait_s)


def _page_limit(left: int | None) -> int:
    return MOST_A_REQUEST if left is None else max(1, min(MOST_A_REQUEST, left))
