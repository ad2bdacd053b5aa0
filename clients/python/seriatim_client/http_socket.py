"""A socket made of requests, for where WebSockets do not get through: texts in and out, a close with a code.

Downstream is one request with the list of channels and positions, `POST /stream` or one `POST /poll` after the other.
When the list changes, the request is ended and the next one asks from the positions that were reached, so nothing is
missing and nothing comes twice; the core sees one connection. Upstream, one `POST /frames` at a time keeps the order.
Who enters a channel is present by what is read: `enter` is part of the list.
The JavaScript SDK does the same (clients/js/src/http-session.js). Specification: docs/reference/protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from seriatim_client.codes import ERRORS

GATHER_S: Final = 0.005
"""So long attaches gather before a request carries them: a client attaches its channels one by one."""
GOOD_AFTER_S: Final = 1.0
"""A response that ended earlier than this is a line that breaks: the core waits before it tries again."""
AGAIN_S: Final = 1.0
"""How soon a channel is asked for again that was refused for a while, without a hint."""
FIRST_LINE_S: Final = 8.0
"""A proxy may hold a response back: what a stream sends at once must be here within this."""
POLL_WAIT_MS: Final = 25_000
POLL_GRACE_S: Final = 15.0
POSTED_MOST: Final = 50
POSTED_CHARACTERS_MOST: Final = 500_000
"""Frames and characters of one post; the rest follows in the next."""
POST_WITHIN_S: Final = 60.0


class Refused(Exception):
    """The server answered a request with an error."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.error = error


@dataclass(slots=True, eq=False)
class _Entry:
    """One channel that is followed."""

    ref: Any
    """Of the `attach` that is not answered yet."""
    start: Any
    """What the core asked for; used until there is a position."""
    more: dict[str, Any]
    position: dict[str, Any] | None = None
    epoch: str | None = None
    begins_after: int = 0
    """What the last `attached` said."""
    delta: str | None = None
    """How data come, as it said too."""
    in_snapshot: bool = False
    enter: dict[str, Any] | None = None
    """As what the client is present: `data`, and `at`, when it was said first, as the server told."""
    is_entering: dict[str, Any] | None = None
    """What the request in use says of that."""
    enter_refs: list[Any] = field(default_factory=list)
    """Of the `presence` frames that are not answered yet."""
    is_asked: bool = False
    """The request in use follows it; what an older one still brings is not for this attach."""


class HttpSocket:
    """The face of a `websockets` connection that the shell uses: `send`, iteration, `close`, `close_code`."""

    def __init__(self, http: httpx.AsyncClient, api: str, token: str | None, *, polls: bool) -> None:
        self._http = http
        self._api = api
        self._token = token
        self._polls = polls
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._entries: dict[str, _Entry] = {}
        self._unanswered: set[str] = set()
        self._is_stale = False
        self._request: asyncio.Task[None] | None = None
        self._poster: asyncio.Task[None] | None = None
        self._restart_handle: asyncio.TimerHandle | None = None
        self._is_ready = False
        self._renewal: tuple[Any] | None = None
        """The ref of the `auth` frame that renews the token and is not answered yet."""
        self._reader = secrets.token_hex(8)
        """The name by which the server knows this socket's requests as one presence."""
        self._posts: deque[tuple[str, dict[str, Any]]] = deque()
        self._failed: set[str] = set()
        """Channels whose last publish failed. A post knows only of itself, so what is chained is judged here."""
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._read()

    # -- the face ----------------------------------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        """Never waits: the core bounds what is in flight."""
        if self.close_code is not None:
            return
        frame = json.loads(text)
        match frame["type"]:
            case "auth":
                self._token = frame["token"]
                if self._is_ready:
                    self._renewal = (frame.get("ref"),)
                self._restart()
            case "attach":
                self._attach(frame)
            case "detach":
                self._detach(frame)
            case "ack":
                pass  # A response is paced by its socket, a poll by the next one.
            case "presence" if frame["action"] != "leave":
                self._enter(frame)
            case kind:
                if kind == "presence":
                    self._leave(frame["channel"])
                self._posts.append((text, frame))
                self._post_on()

    def __aiter__(self) -> AsyncIterator[str]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[str]:
        while (text := await self._texts.get()) is not None:
            yield text

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Sends what waits, then ends. Whoever gives up earlier cancels it and calls `abort`."""
        with contextlib.suppress(Exception):
            while self._poster is not None and self.close_code is None:
                await asyncio.wait([self._poster])
        self._end(code, reason)

    def abort(self) -> None:
        self._end(1006, "")

    # -- what the core asks for ----------------------------------------------------------------------------------------

    def _attach(self, frame: dict[str, Any]) -> None:
        start = frame.get("from")
        more: dict[str, Any] = {name: frame[name] for name in ("presence", "delta") if name in frame}
        entry = _Entry(frame.get("ref"), start, more, in_snapshot=start == "latest")
        before = self._entries.get(frame["channel"])
        if before is not None:
            # Attaching again moves the attachment, and who entered has not left.
            entry.enter, entry.enter_refs = before.enter, before.enter_refs
        self._entries[frame["channel"]] = entry
        self._restart()

    def _detach(self, frame: dict[str, Any]) -> None:
        channel, ref = frame["channel"], frame.get("ref")
        entry = self._entries.get(channel)
        if entry is None:
            self._tell({"type": "error", "ref": ref, "channel": channel, "code": "not_attached", "message": ""})
            return
        if entry.enter is not None:
            leave = {"type": "presence", "channel": channel, "action": "leave"}
            self._posts.append((json.dumps(leave), leave))
            self._post_on()
        self._drop(channel, "not_attached")
        self._restart()
        self._tell({"type": "detached", "ref": ref, "channel": channel})

    def _enter(self, frame: dict[str, Any]) -> None:
        """Present from the next request on; answered when that is stored."""
        channel, ref = frame["channel"], frame.get("ref")
        entry = self._entries.get(channel)
        if entry is None:
            self._tell({"type": "error", "ref": ref, "channel": channel, "code": "not_attached", "message": ""})
            return
        entry.enter = {"data": frame.get("data")}
        entry.enter_refs.append(ref)
        self._restart()

    def _leave(self, channel: str) -> None:
        """The post that follows says it."""
        entry = self._entries.get(channel)
        if entry is not None:
            entry.enter = None
            self._answer_entering(entry, {"type": "ok"})

    def _answer_entering(self, entry: _Entry, answer: dict[str, Any]) -> None:
        refs, entry.enter_refs = entry.enter_refs, []
        for ref in refs:
            self._tell({**answer, "ref": ref})

    def _drop(self, channel: str, code: str) -> bool:
        """The channel is followed no more; `code` is for those who wait to enter it."""
        entry = self._entries.pop(channel, None)
        if entry is not None:
            self._answer_entering(entry, {"type": "error", "channel": channel, "code": code, "message": ""})
        return entry is not None

    # -- downstream ---------------------------------------------------------------------------------------------------

    def _cuts_a_snapshot(self) -> bool:
        return any(entry.in_snapshot and entry.ref is None for entry in self._entries.values())

    def _restart(self, after_s: float = GATHER_S) -> None:
        """The list changed: another request, once several channels have been asked for, and no snapshot is cut."""
        self._is_stale = True
        loop = asyncio.get_running_loop()
        if self._cuts_a_snapshot() or self.close_code is not None:
            return
        if self._restart_handle is not None:
            if self._restart_handle.when() <= loop.time() + after_s:
                return
            self._restart_handle.cancel()
        self._restart_handle = loop.call_later(after_s, self._read)

    def _read(self) -> None:
        if self._restart_handle is not None:
            self._restart_handle.cancel()
            self._restart_handle = None
        if self._request is not None:
            self._request.cancel()
        self._unanswered = set(self._entries)
        self._is_stale = False
        wanted = []
        for channel, entry in self._entries.items():
            entry.is_asked = True
            entry.is_entering = entry.enter
            start = entry.start if entry.position is None else entry.position
            each = {"channel": channel, **({} if start is None else {"from": start}), **entry.more}
            if entry.enter is not None:
                each["enter"] = {"reader": self._reader, **entry.enter}
            wanted.append(each)
        self._request = asyncio.get_running_loop().create_task(self._run(wanted))

    async def _run(self, wanted: list[dict[str, Any]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await (self._poll(wanted) if self._polls else self._stream(wanted))
        except Refused as refused:
            self._refused_whole(refused)
        except (httpx.HTTPError, TimeoutError) as error:
            self._end(1006, f"no answer: {str(error) or type(error).__name__}")
        else:
            # A snapshot that was cut begins again, which only the core can ask for.
            if self._is_ready and loop.time() - began >= GOOD_AFTER_S and not self._cuts_a_snapshot():
                self._request = None
                self._read()
            else:
                self._end(1006, "the response ended")

    async def _stream(self, wanted: list[dict[str, Any]]) -> None:
        timeout = httpx.Timeout(FIRST_LINE_S, read=None)
        async with contextlib.AsyncExitStack() as stack:
            deadline = await stack.enter_async_context(asyncio.timeout(FIRST_LINE_S))
            request = self._http.stream(
                "POST", f"{self._api}/stream", json={"attach": wanted}, headers=self._headers(), timeout=timeout
            )
            response = await stack.enter_async_context(request)
            await _check(response)
            try:
                async for line in response.aiter_lines():
                    deadline.reschedule(None)
                    if line:
                        self._line(line)
            except httpx.HTTPError:
                # A line that breaks while it is read has ended: the next request goes on.
                return

    async def _poll(self, wanted: list[dict[str, Any]]) -> None:
        is_first = True
        while True:
            timeout = httpx.Timeout(FIRST_LINE_S, read=POLL_WAIT_MS / 1000 + POLL_GRACE_S)
            # The first is to say that all are attached, the others wait for news.
            body = {"attach": wanted, "wait_ms": 0 if is_first else POLL_WAIT_MS}
            response = await self._http.post(f"{self._api}/poll", json=body, headers=self._headers(), timeout=timeout)
            await _check(response)
            answer = response.json()
            told = _attached_at_positions(wanted, answer["frames"]) if is_first else []
            is_first = False
            # An empty poll is as good as a heartbeat: it shows that the line is well.
            for frame in [*told, *answer["frames"]] or [{"type": "heartbeat"}]:
                self._line(json.dumps(frame))
            positions = answer["positions"]
            wanted = [
                _known_in(
                    answer["frames"],
                    {**entry, "from": positions[entry["channel"]]} if entry["channel"] in positions else entry,
                )
                for entry in wanted
            ]
            await asyncio.sleep(answer["poll_after_ms"] / 1000 if wanted else POLL_WAIT_MS / 1000)

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def _line(self, line: str) -> None:
        try:
            frame = json.loads(line)
        except ValueError:
            return  # Cut short: the end of the response follows.
        entry = self._entries.get(frame.get("channel", ""))
        if entry is not None and not entry.is_asked:
            return
        match frame["type"]:
            case "ready":
                self._ready(frame, line)
                return
            case "close":
                self._end(frame["code"], frame["reason"])
                return
            case "attached":
                if entry is not None:
                    self._attached(frame, entry)
                return
            case "ok" | "error" if frame.get("action") == "enter":
                self._entered(frame, entry)
                return
            case "error":
                self._refused(frame, line)
                return
            case "detached":
                if self._drop(frame["channel"], "not_attached"):
                    self._restart()
            case "message":
                if entry is None:
                    return  # It was on its way when the channel was detached.
                # Only in steps of one: about any other step the core asks anew, from its own position.
                if not entry.in_snapshot and entry.position and frame["serial"] == entry.position["serial"] + 1:
                    entry.position = {"epoch": entry.epoch, "serial": frame["serial"]}
            case "skipped" | "snapshot.end":
                if entry is None:
                    return
                if frame["type"] == "snapshot.end":
                    entry.in_snapshot = False
                    if self._is_stale:
                        self._restart()
                # Of another epoch: `attached` said where its log begins.
                serial = frame.get("serial", frame.get("to"))
                entry.epoch = frame["epoch"]
                entry.position = {"epoch": entry.epoch, "serial": entry.begins_after if serial is None else serial}
        self._texts.put_nowait(line)

    def _ready(self, frame: dict[str, Any], line: str) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._texts.put_nowait(line)
            self._post_on()
        elif self._renewal is not None:
            (ref,), self._renewal = self._renewal, None
            self._tell({"type": "authenticated", "ref": ref, "expires_ms": frame["expires_ms"]})

    def _attached(self, frame: dict[str, Any], entry: _Entry) -> None:
        is_answer = frame["channel"] in self._unanswered
        self._unanswered.discard(frame["channel"])
        ref = entry.ref
        is_news = not frame["resumed"] or frame["epoch"] != entry.epoch or frame.get("delta") != entry.delta
        entry.epoch, entry.begins_after, entry.delta = frame["epoch"], frame["serial"], frame.get("delta")
        # Otherwise `skipped` follows; until it is here, it must be told again.
        if frame["resumed"] and not entry.in_snapshot:
            entry.position = {"epoch": frame["epoch"], "serial": frame["serial"]}
        frame.pop("ref", None)
        if is_answer:
            entry.ref = None
            if ref is not None:
                frame["ref"] = ref
            elif not is_news:
                return  # Asked by us, for another channel's sake.
        self._tell(frame)

    def _entered(self, frame: dict[str, Any], entry: _Entry | None) -> None:
        """The outcome of entering; of what has been changed since, the next request tells."""
        if entry is None or entry.enter is None or entry.is_entering is not entry.enter:
            return
        code = frame.get("code")
        if code is None:
            entry.enter["at"] = frame["at"]
        elif not entry.enter_refs and code in ERRORS and ERRORS[code].retry:
            self._restart(frame.get("retry_after_ms", AGAIN_S * 1000) / 1000)
            return
        else:
            entry.enter = None
        self._answer_entering(entry, {name: frame[name] for name in frame if name not in ("action", "at")})

    def _refused(self, error: dict[str, Any], line: str) -> None:
        """A channel of the list is refused, or something else is."""
        channel = error.get("channel")
        entry = self._entries.get(channel or "")
        if channel is None or entry is None or channel not in self._unanswered:
            if line:
                self._texts.put_nowait(line)
            return
        self._unanswered.discard(channel)
        code = error["code"]
        if entry.ref is None and code in ERRORS and ERRORS[code].retry:
            # Asked by us, for another channel's sake: asked again until it is granted or refused for good.
            self._restart(error.get("retry_after_ms", AGAIN_S * 1000) / 1000)
            return
        self._drop(channel, code)
        self._restart()
        if entry.ref is None:
            self._tell({"type": "detached", "channel": channel, "reason": code})
        else:
            self._tell({"message": "", "remedy": "", **error, "type": "error", "ref": entry.ref})

    def _refused_whole(self, refused: Refused) -> None:
        error = refused.error
        if self._is_ready and error.get("channel") in self._unanswered:
            # All were refused, and this is the first of them: without it the others are told too.
            self._request = None
            self._refused(error, "")
            return
        self._fail(refused)

    # -- upstream -----------------------------------------------------------------------------------------------------

    def _post_on(self) -> None:
        if self._poster is None and self._is_ready and self._posts and self.close_code is None:
            self._poster = asyncio.get_running_loop().create_task(self._post())

    async def _post(self) -> None:
        try:
            while posted := self._take_posts():
                body = "".join(f"{text}\n" for text, _ in posted)
                headers = {**self._headers(), "Content-Type": "application/x-ndjson"}
                response = await self._http.post(
                    f"{self._api}/frames",
                    params={"reader": self._reader},
                    content=body.encode(),
                    headers=headers,
                    timeout=POST_WITHIN_S,
                )
                await _check(response)
                publishes = {frame.get("ref"): frame["channel"] for _, frame in posted if frame["type"] == "publish"}
                for line in filter(None, response.text.split("\n")):
                    answer = json.loads(line)
                    channel = publishes.get(answer.get("ref"))
                    if channel is not None:
                        (self._failed.add if answer["type"] == "error" else self._failed.discard)(channel)
                    self._texts.put_nowait(line)
                if any(frame["type"] == "presence" for _, frame in posted):
                    # The request in use still says that we are there.
                    self._restart()
        except Refused as refused:
            self._fail(refused)
        except httpx.HTTPError as error:
            self._end(1006, f"no answer: {str(error) or type(error).__name__}")
        finally:
            self._poster = None

    def _take_posts(self) -> list[tuple[str, dict[str, Any]]]:
        """What the next post carries; what is chained to a publish that failed is answered at once."""
        taken: list[tuple[str, dict[str, Any]]] = []
        size = 0
        while self._posts and len(taken) < POSTED_MOST:
            text, frame = self._posts[0]
            if frame["type"] == "publish":
                channel = frame["channel"]
                if not frame.get("chained"):
                    self._failed.discard(channel)
                if channel in self._failed:
                    self._posts.popleft()
                    error = {"type": "error", "ref": frame.get("ref"), "channel": channel, "code": "order"}
                    self._tell({**error, "message": "The one before it failed.", "remedy": ""})
                    continue
            size += len(text)
            if taken and size > POSTED_CHARACTERS_MOST:
                break
            taken.append(self._posts.popleft())
        return taken

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _fail(self, refused: Refused) -> None:
        """What a refused request would have been on a socket."""
        status, error = refused.status, refused.error
        if "code" in error:
            self._tell({"remedy": "", "message": "", **error, "type": "error"})
        hint = error.get("retry_after_ms")
        if status in (401, 403):
            self._end(4401 if status == 401 else 4403, str(error.get("message", "")))
        elif status in (429, 503):
            self._end(1013, "" if hint is None else f"retry_after_ms={hint}")
        else:
            self._end(1011 if status >= 500 else 1006, f"HTTP {status}")

    def _tell(self, frame: dict[str, Any]) -> None:
        if self.close_code is None:
            if frame.get("ref", ...) is None:
                del frame["ref"]
            self._texts.put_nowait(json.dumps(frame))

    def _end(self, code: int, reason: str) -> None:
        if self.close_code is not None:
            return
        self.close_code, self.close_reason = code, reason
        if self._restart_handle is not None:
            self._restart_handle.cancel()
        for task in (self._request, self._poster):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._texts.put_nowait(None)


async def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    error: dict[str, Any] = {}
    with contextlib.suppress(ValueError, AttributeError):
        error = response.json().get("error") or {}
    seconds = response.headers.get("Retry-After", "")
    if not error and seconds.isdecimal():
        error = {"retry_after_ms": int(seconds) * 1000}
    raise Refused(response.status_code, error)


def _known_in(frames: list[dict[str, Any]], entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with what an answer tells of it: that it has entered, and whom it has been told of."""
    known = dict(entry)
    for frame in frames:
        if frame.get("channel") == entry["channel"]:
            if frame["type"] == "presence" and "mark" in frame and entry.get("presence"):
                known["presence"] = frame["mark"]
            if frame["type"] == "ok" and "enter" in entry:
                known["enter"] = {**entry["enter"], "at": frame["at"]}
    return known


def _attached_at_positions(wanted: list[dict[str, Any]], frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """That a channel is attached where it was to be goes without saying in a poll; over a socket it is said."""
    told = []
    for entry in wanted:
        start = entry.get("from")
        own = [frame for frame in frames if frame.get("channel") == entry["channel"]]
        if not isinstance(start, dict) or "serial" not in start:
            continue
        if any(frame["type"] in ("attached", "error") for frame in own):
            continue
        head = max([start["serial"], *(frame.get("serial") or 0 for frame in own)])
        pace = {"head": head, "resumed": True, "window": 0, "ack_every": 0, "ack_ms": 0}
        told.append({"type": "attached", "channel": entry["channel"], **start, **pace})
    return told
