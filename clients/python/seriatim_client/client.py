"""The asyncio shell: it owns the sockets, the time and the waiting, and leaves every decision to the core.

Each connection has two tasks: one reads the socket, one writes it, with a queue between the core and the writer. That
queue is bounded by what the core allows to be in flight. All of a client's objects belong to the event loop that
`connect` was called in.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, assert_never, cast

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from seriatim_client import frames
from seriatim_client.addresses import rest_url, socket_url
from seriatim_client.attachment import ChannelState, Step
from seriatim_client.backoff import BackoffOptions, Random
from seriatim_client.chance import strong_random
from seriatim_client.core import Core, CoreOptions
from seriatim_client.effects import (
    Dial,
    Effect,
    End,
    Fail,
    FetchToken,
    Hangup,
    Notice,
    Recovered,
    Report,
    RoomMade,
    Send,
    Settle,
    Tell,
    TryBest,
    Wake,
)
from seriatim_client.errors import SeriatimError
from seriatim_client.frames import Announcement, Attached, Member, PresenceFrame, Ready, Signal
from seriatim_client.http_socket import HttpSocket
from seriatim_client.line_state import State
from seriatim_client.messages import Discontinuity, HistoryPage, Load, Message, Published, Snapshot
from seriatim_client.outbox import OutboxLimits, Unsent
from seriatim_client.positions import From, FromArgument, Position, check_from
from seriatim_client.presence import PresenceAction
from seriatim_client.transport_choice import TransportName

logger = logging.getLogger("seriatim_client")

SUBPROTOCOL: Final = Subprotocol("seriatim.v1.json")
TOKEN_WITHIN_S: Final = 30
"""How long the application's token function may take."""
HANG_UP_WITHIN_S: Final = 2
"""How long a connection that ends may take to write what is left; a dead line never does."""
BEST_WITHIN_S: Final = 15
"""How long a WebSocket may take to become ready that is tried beside another transport."""
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Of a frame of the server. Far above what it sends; a bound all the same."""

T = TypeVar("T")
Token = str | Callable[[], str | Awaitable[str | None] | None] | None
"""A JWT, or a function that gives one (or None: connect without credentials)."""
Loader = Callable[[Position], int | Position | Awaitable[int | Position | None] | None]
"""Loads a state; see `Channel.load_state`."""
OnDiscontinuity = Callable[[int | None, int | None, str], object]


class _Link:
    """One connection as the shell sees it."""

    def __init__(self) -> None:
        self.texts: deque[str] = deque()
        self.news = asyncio.Event()
        self.is_ending = False
        self.socket: ClientConnection | HttpSocket | None = None
        self.reader: asyncio.Task[None] | None = None
        self.writer: asyncio.Task[None] | None = None


class Client:
    """One line to the server, kept through every loss of it, and the channels on it.

    `async with Client(url, token=…) as client:` connects and closes. Listeners are attributes, called in the loop.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        backoff: BackoffOptions | None = None,
        outbox: OutboxLimits | None = None,
        headers: dict[str, str] | None = None,
        proxy: str | Literal[True] | None = True,
        transports: Sequence[TransportName] = ("websocket", "streaming", "polling"),
        random: Random = strong_random,
    ) -> None:
        """Does not connect yet; raises `ValueError` for what is no address.

        `headers`: more headers for the handshake. `proxy`: True takes that of the environment. `transports`: the best
        first; the next is tried where one does not get through, and a WebSocket again in the background. A `token`
        function that is no coroutine function runs in a thread, since it may block. When it raises, the try has failed
        and the next one follows with backoff; `SeriatimError` `unauthorized`, or an HTTP error 401 or 403, means
        `signed_out`.
        """
        self.url = socket_url(url)
        self._token = token
        self._headers = headers or {}
        self._proxy: Any = proxy
        self._ahead_ms = time.time() * 1000 - time.monotonic() * 1000
        self._api = rest_url(url)
        self._http: httpx.AsyncClient | None = None
        options = CoreOptions(backoff or BackoffOptions(), outbox or OutboxLimits(), tuple(transports))
        self._core = Core(random, self._now(), options)
        self._channels: dict[str, Channel] = {}
        self._links: dict[int, _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetching: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at_ms: float | None = None
        self._changed = asyncio.Event()
        """Set, and a new one taken, whenever the state or the outbox changes."""

        self.on_state: Callable[[State], object] | None = None
        """The state of the line changed."""
        self.on_recovered: Callable[[Recovered], object] | None = None
        """The line is live again; what was made good."""
        self.on_announcement: Callable[[Announcement], object] | None = None
        """What an operator of the server says to everybody who is connected."""
        self.on_error: Callable[[SeriatimError], object] | None = None
        """What belongs to no call. Without a listener it is logged as a warning."""

    # -- life --------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connects, and stays connected until `close`. Also begins anew after `signed_out` and `stopped`."""
        asyncio.get_running_loop()
        self._core.connect(self._now())
        self._perform()

    async def close(self) -> None:
        """Ends the connection: acks are sent, loops end, what is not stored yet fails with `closed`.

        `await client.flush()` first to have it stored.
        """
        self._core.close(self._now())
        self._perform()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
            self._alarm_at_ms = None
        if self._fetching is not None:
            self._fetching.cancel()
        current = asyncio.current_task()
        while tasks := [task for task in self._tasks if task is not current]:
            await asyncio.wait(tasks)
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def __aenter__(self) -> Self:
        self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    def retry_now(self) -> None:
        """Tries now what would be tried at `state.next_try_at_ms`."""
        self._core.retry_now(self._now())
        self._perform()

    async def connected(self) -> Ready:
        """Waits until the server has said who we are. Raises when the line is given up first."""
        while not self._core.is_up():
            if self._core.given_up is not None:
                raise self._core.given_up
            await self._changed.wait()
        assert self._core.ready is not None
        return self._core.ready

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._core.state

    @property
    def transport(self) -> TransportName:
        """What carries the current connection, or carried the last one."""
        return self._core.transport

    @property
    def ready(self) -> Ready | None:
        """The `ready` frame of the last connection."""
        return self._core.ready

    @property
    def client_id(self) -> str | None:
        """Who the server says we are."""
        return None if self._core.ready is None else self._core.ready.client

    @property
    def latency_ms(self) -> float | None:
        """How long an answer takes, smoothed; None before the first."""
        return self._core.latency_ms

    @property
    def behind(self) -> int:
        """How many messages all channels together have still to process."""
        return self._core.behind

    @property
    def unsent(self) -> list[Unsent]:
        """What is not stored yet."""
        return self._core.unsent()

    # -- publishing --------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Waits until everything queued is stored, refused or taken back."""
        while self._core.unsent_count > 0:
            await self._changed.wait()

    async def drain(self) -> None:
        """Waits until at least half of the outbox is free: for those who publish faster than the line carries."""
        while not self._core.has_room:
            await self._changed.wait()

    # -- channels ----------------------------------------------------------------------------------------------------

    def channel(
        self,
        name: str,
        from_: FromArgument | None = None,
        window: int | None = None,
        presence: bool | None = None,
        delta: Literal["fossil"] | bool | None = None,
    ) -> Channel:
        """The channel `name`: the same object each time. Raises `bad_channel`, `bad_position`.

        `from_`: where the first attach begins (default `"head"`); later ones go on from the position. `window`: how
        many messages may be in flight unacknowledged (default: the server's; 0: no acks and no bound). `presence`:
        follow who is present. `delta`: `"fossil"` asks for messages as differences to the message before, where the
        namespace allows it; what is given here is the same. False: not any more.
        """
        if delta not in (None, False, "fossil"):
            raise SeriatimError("bad_frame", "`delta` is not one that this client reads.", remedy='Give "fossil".')
        has_delta = None if delta is None else delta == "fossil"
        self._core.channel(name, None if from_ is None else check_from(from_), window, presence, has_delta)
        if name not in self._channels:
            self._channels[name] = Channel(name, self, self._core)
        return self._channels[name]

    # -- the shell's work; `Channel` and `Reader` use it too -----------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() * 1000 + self._ahead_ms

    def _perform(self) -> None:
        """Does what the core asks, then waits for what it waits for. After every call of the core."""
        while effects := self._core.take_effects():
            for effect in effects:
                self._do(effect)
        self._set_alarm()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send(try_number, text):
                link = self._links.get(try_number)
                if link is not None:
                    link.texts.append(text)
                    link.news.set()
            case Wake(name):
                channel = self._channels.get(name)
                if channel is not None:
                    channel._wake()
            case Settle(handle, value):
                _settle(handle, value)
            case Fail(handle, error):
                _fail(handle, error)
            case RoomMade():
                self._tell_waiters()
            case FetchToken():
                self._fetching = self._spawn(self._fetch(effect))
            case Dial(try_number, token, transport):
                link = self._links[try_number] = _Link()
                link.reader = self._spawn(self._run_link(try_number, link, token, transport))
            case TryBest(try_number, token):
                self._spawn(self._try_best(try_number, token))
            case Hangup(try_number, code, reason):
                link = self._links.pop(try_number, None)
                if link is not None:
                    self._spawn(self._hang_up(link, code, reason))
            case End(name, _, error):
                channel = self._channels.get(name)
                if channel is not None:
                    channel._end(error)
            case Tell(notice):
                self._tell(notice)
            case _:
                assert_never(effect)

    def _tell(self, notice: Notice) -> None:
        match notice:
            case State():
                self._tell_waiters()
                if self.on_state is not None:
                    _call(self.on_state, notice)
            case Ready():
                self._tell_waiters()
            case Attached():
                pass
            case Signal(channel=frames.EVERYBODY):
                announcement = frames.announcement_of(notice)
                if announcement is not None and self.on_announcement is not None:
                    _call(self.on_announcement, announcement)
            case Signal(channel=name):
                channel = self._channels.get(name)
                if channel is not None and channel.on_signal is not None:
                    _call(channel.on_signal, notice)
            case PresenceFrame(channel=name):
                channel = self._channels.get(name)
                if channel is not None and channel.presence.on_change is not None:
                    _call(channel.presence.on_change, channel.presence)
            case Recovered():
                if self.on_recovered is not None:
                    _call(self.on_recovered, notice)
            case Report(error, name):
                channel = self._channels.get(name) if name is not None else None
                listener = (channel.on_error if channel is not None else None) or self.on_error
                if listener is not None:
                    _call(listener, error)
                else:
                    logger.warning("%s", error)
            case _:
                assert_never(notice)

    def _tell_waiters(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _set_alarm(self) -> None:
        at_ms = self._core.next_at_ms
        if at_ms == self._alarm_at_ms:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at_ms = at_ms
        if at_ms is not None:
            wait_s = max(0.0, (at_ms - self._now()) / 1000)
            self._alarm = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self._alarm = None
        self._alarm_at_ms = None
        self._core.tick(self._now())
        self._perform()

    async def _fetch(self, asked: FetchToken) -> None:
        try:
            async with asyncio.timeout(TOKEN_WITHIN_S):
                token = await self._call_token()
        except Exception as error:
            text = str(error) or type(error).__name__
            self._core.token_failed(asked.try_number, _says_signed_out(error), text, self._now())
        else:
            self._core.token_given(asked.try_number, token, self._now())
        self._perform()

    async def _call_token(self) -> str | None:
        if self._token is None or isinstance(self._token, str):
            return self._token
        if inspect.iscoroutinefunction(self._token):
            return cast("str | None", await self._token())
        value = await asyncio.to_thread(self._token)
        return await value if inspect.isawaitable(value) else value

    async def _open_websocket(self, token: str | None) -> ClientConnection:
        headers = dict(self._headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        # The core has its own limits of time and its own heartbeat.
        return await connect(
            self.url,
            subprotocols=[SUBPROTOCOL],
            additional_headers=headers,
            proxy=self._proxy,
            open_timeout=None,
            ping_interval=None,
            close_timeout=HANG_UP_WITHIN_S,
            max_size=MAX_FRAME_BYTES,
        )

    def _open_http(self, token: str | None, *, polls: bool) -> HttpSocket:
        if self._http is None:
            given = self._proxy if isinstance(self._proxy, str) else None
            self._http = httpx.AsyncClient(headers=self._headers, proxy=given, trust_env=self._proxy is True)
        return HttpSocket(self._http, self._api, token, polls=polls)

    async def _try_best(self, try_number: int, token: str | None) -> None:
        """A WebSocket that becomes ready, and is closed again."""
        works = False
        try:
            async with asyncio.timeout(BEST_WITHIN_S):
                socket = await self._open_websocket(token)
                works = isinstance(await socket.recv(), str)
                await socket.close()
        except Exception as error:
            logger.debug("a WebSocket does not get through yet: %r", error)
        self._core.best_tried(try_number, works, self._now())
        self._perform()

    async def _run_link(self, try_number: int, link: _Link, token: str | None, transport: TransportName) -> None:
        socket: ClientConnection | HttpSocket
        try:
            if transport == "websocket":
                socket = await self._open_websocket(token)
            else:
                socket = self._open_http(token, polls=transport == "polling")
        except InvalidStatus as error:
            response = error.response
            wait_ms = _retry_after_ms(response.headers.get("Retry-After"), time.time())
            self._core.refused(try_number, response.status_code, wait_ms, self._now())
            self._perform()
            return
        except Exception as error:  # of the network, of TLS, of a proxy: all are a try that failed
            self._core.lost(try_number, 1006, f"cannot connect: {str(error) or type(error).__name__}", self._now())
            self._perform()
            return
        link.socket = socket
        if link.is_ending:
            return  # `_hang_up` closes it.
        self._core.opened(try_number, self._now())
        link.writer = self._spawn(self._write(link, socket))
        self._perform()
        try:
            async for text in socket:
                if isinstance(text, str):
                    self._core.received(try_number, text, self._now())
                    self._perform()
        except ConnectionClosed:
            pass
        code = socket.close_code or 1006
        self._core.lost(try_number, code, socket.close_reason or "", self._now())
        self._perform()

    async def _write(self, link: _Link, socket: ClientConnection | HttpSocket) -> None:
        try:
            while True:
                while link.texts:
                    await socket.send(link.texts.popleft())
                if link.is_ending:
                    return
                link.news.clear()
                await link.news.wait()
        except ConnectionClosed:
            pass  # The reader says so.

    async def _hang_up(self, link: _Link, code: int, reason: str) -> None:
        link.is_ending = True
        link.news.set()
        if link.socket is None:
            if link.reader is not None:
                link.reader.cancel()
            return
        try:
            async with asyncio.timeout(HANG_UP_WITHIN_S):
                if link.writer is not None:
                    await asyncio.wait([link.writer])
                await link.socket.close(code, reason)
        except TimeoutError:
            if isinstance(link.socket, HttpSocket):
                link.socket.abort()
            else:
                link.socket.transport.abort()
            if link.writer is not None:
                link.writer.cancel()


class Presence:
    """Who is present in a channel. Members are known where the channel was made with `presence=True`."""

    def __init__(self, name: str, client: Client, core: Core) -> None:
        self._name = name
        self._client = client
        self._core = core
        self.on_change: Callable[[Presence], object] | None = None
        """Called when `members` or `count` are others."""

    @property
    def members(self) -> Mapping[str, Member]:
        """By client id, as it is known last; empty while only `count` is known."""
        return self._core.members(self._name).members

    @property
    def count(self) -> int:
        """How many members: also when there are too many for a list."""
        return self._core.members(self._name).count

    async def enter(self, data: Any = None) -> None:
        """Is present with `data`, and again whenever the line comes back, until `leave` or a detach. The channel has to
        be followed. Raises when the server refuses."""
        await self._say("enter", data)

    async def update(self, data: Any) -> None:
        """Changes the data; enters where one has not."""
        await self._say("update", data)

    async def leave(self) -> None:
        await self._say("leave", None)

    async def _say(self, action: PresenceAction, data: Any) -> None:
        handle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._core.presence(handle, self._name, action, data, self._client._now())
        self._client._perform()
        await handle


class Channel:
    """A named stream of messages. Made by `client.channel(name)`; one object per name.

    `async for message in channel` attaches if needed. A message counts as processed when the loop asks for the next
    one. A loop that is left by `break`, `return` or an exception has not processed the message it was left with: the
    next loop gets it first. One loop at a time: a second one takes over, and the first is told by `busy`. The loop ends
    at `detach()` and `client.close()`, and raises when the server detaches or refuses, or the line is given up.
    """

    def __init__(self, name: str, client: Client, core: Core) -> None:
        self.name = name
        self._client = client
        self._core = core
        self._news = asyncio.Event()
        self._stepping = asyncio.Lock()
        """Held by whoever handles a step, so that steps are handled in order."""
        self._reader: Reader | None = None
        self._loader: Loader | None = None
        self.presence = Presence(name, client, core)
        """Who is here, and being here oneself."""

        self.on_discontinuity: OnDiscontinuity | None = None
        """Called when messages cannot be had, `(from, to, reason)`: the serials, or None and None when the whole log is
        another. May be a coroutine function; called by the loop, which goes on when it is done. Without it they are
        logged."""
        self.on_snapshot: Callable[[Snapshot], object] | None = None
        """Called before the messages of a snapshot; may be a coroutine function."""
        self.on_signal: Callable[[Signal], object] | None = None
        self.on_error: Callable[[SeriatimError], object] | None = None
        """What the client mends itself: a gap, an attach or a load that is tried again. Default: the client's."""

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ChannelState:
        return self._core.channel_state(self.name)[0]

    @property
    def reason(self) -> str:
        """Why it is in this state, for people."""
        return self._core.channel_state(self.name)[1]

    @property
    def position(self) -> Position | None:
        """Everything through here is processed; None before the first attach."""
        return self._core.position(self.name)

    @property
    def head(self) -> int:
        """The newest serial known to be in the log."""
        return self._core.channel_head(self.name)

    @property
    def behind(self) -> int:
        """How many messages of the log are still to be processed, as far as is known here."""
        return self._core.channel_behind(self.name)

    # -- following ---------------------------------------------------------------------------------------------------

    async def attach(self, from_: FromArgument | None = None) -> Attached:
        """Follows the channel until `detach()`. Raises when the server refuses for good.

        `from_` given here begins there, also when a position is known.
        """
        checked: From | None = None if from_ is None else check_from(from_)
        handle: asyncio.Future[Attached] = asyncio.get_running_loop().create_future()
        self._core.attach(handle, self.name, checked, self._client._now())
        self._client._perform()
        return await handle

    async def detach(self) -> None:
        """Stops following. The position is kept."""
        self._core.detach(self.name, self._client._now())
        self._client._perform()

    def __aiter__(self) -> Reader:
        old, self._reader = self._reader, None
        if old is not None:
            old._supersede()
        # What the loop before was left with.
        self._core.settle(self.name, False, self._client._now())
        self._core.want(self.name, self._client._now())
        self._client._perform()
        self._reader = Reader(self, self._client, self._core)
        return self._reader

    def processed_through(self, serial: int) -> None:
        """Counts everything through `serial` as processed, before the loop asks for more: to leave it on purpose."""
        self._core.processed_through(self.name, serial, self._client._now())
        self._client._perform()

    async def load_state(self, loader: Loader) -> None:
        """Puts a state of the application and the stream together without a loss or a double.

        Attaches if needed, notes the position, holds messages back and calls `loader(position)`; what came after the
        position follows. It is called again after each discontinuity but `conflated`, and with backoff when it fails.
        Returns when the state was loaded the first time.

        The state is read a moment after the position was noted, so it may hold the effect of messages that follow. When
        it says how far it stands, return that serial (or `Position`), and the messages through it are left out.
        """
        self._loader = loader
        handle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._core.load_with(handle, self.name, self._client._now())
        self._client._perform()
        while not handle.done():
            news = self._news
            async with self._stepping:
                step = self._core.next_step(self.name, self._client._now())
                if isinstance(step, Message):
                    # Of a snapshot: a loop has to take it first.
                    self._core.settle(self.name, False, self._client._now())
                elif step is not None:
                    await self._handle(step)
                self._client._perform()
            if step is None or isinstance(step, Message):
                waits: set[asyncio.Future[Any]] = {handle}
                if step is None:
                    waits.add(asyncio.ensure_future(news.wait()))
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits - {handle}:
                        wait.cancel()
        await handle

    # -- asking ------------------------------------------------------------------------------------------------------

    def publish(
        self, data: Any = None, *, event: str = "message", key: str | None = None, id: str | None = None
    ) -> asyncio.Future[Published]:
        """Publishes, now or as soon as there is a connection, in the order of the calls. Await it to know the serial.

        The id is made here unless given, so that trying again stores nothing twice. The future fails with a
        `SeriatimError` only when trying again cannot help; cancelling it takes the message back if it was never sent.
        """
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        try:
            self._core.publish(future, self.name, id, event, key, data, self._client._now())
        except SeriatimError as error:
            future.set_exception(error)
        else:
            future.add_done_callback(self._dropped)
        self._client._perform()
        return future

    async def history(
        self, *, before: int | None = None, after: int | None = None, limit: int | None = None
    ) -> HistoryPage:
        """A page of the log; serials are exclusive, newest first unless `after` is given.

        Waits for the line, and asks again on the next connection when it breaks.
        """
        handle: asyncio.Future[HistoryPage] = asyncio.get_running_loop().create_future()
        self._core.history(handle, self.name, before, after, limit, self._client._now())
        self._client._perform()
        try:
            return await handle
        finally:
            self._core.forget(handle)

    def signal(self, event: str, data: Any = None) -> bool:
        """Sends what is worth nothing later: never stored, at most once. False while there is no connection."""
        sent = self._core.signal(self.name, event, data, self._client._now())
        self._client._perform()
        return sent

    # -- the shell's work --------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _end(self, error: SeriatimError | None) -> None:
        if self._reader is not None:
            self._reader._end(error)
        self._wake()

    def _dropped(self, future: asyncio.Future[Published]) -> None:
        if future.cancelled():
            self._core.discard(future, self._client._now())
            self._client._perform()

    async def _handle(self, step: Discontinuity | Snapshot | Load) -> None:
        match step:
            case Discontinuity(_, first, last, reason):
                if self.on_discontinuity is None:
                    logger.warning("%s: serials %s to %s cannot be had: %s", self.name, first, last, reason)
                else:
                    await _result(self.on_discontinuity(first, last, reason))
            case Snapshot():
                if self.on_snapshot is not None:
                    await _result(self.on_snapshot(step))
            case Load(_, position):
                await self._load(position)
            case _:
                assert_never(step)

    async def _load(self, position: Position) -> None:
        assert self._loader is not None
        try:
            through = await _result(self._loader(position))
        except BaseException as error:
            self._core.load_failed(self.name, str(error) or type(error).__name__, self._client._now())
            self._client._perform()
            if not isinstance(error, Exception):
                raise
        else:
            known = through if isinstance(through, Position) or type(through) is int else None
            self._core.loaded(self.name, known, self._client._now())
            self._client._perform()


class Reader:
    """One loop over a channel."""

    def __init__(self, channel: Channel, client: Client, core: Core) -> None:
        self._channel = channel
        self._client = client
        self._core = core
        self._has_message = False
        self._is_over = False
        self._error: SeriatimError | None = core.given_up

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Message:
        """The next message; the one before counts as processed. Cancelling it loses nothing."""
        channel = self._channel
        while True:
            news = channel._news
            async with channel._stepping:
                step = self._take()
                if step is not None and not isinstance(step, Message):
                    await channel._handle(step)
                    continue
            if step is not None:
                return step
            await news.wait()

    async def pull(self) -> Step:
        """The next step, whatever it is, for who handles them all: the façade for threads."""
        while True:
            news = self._channel._news
            step = self._take()
            if step is not None:
                return step
            await news.wait()

    def _take(self) -> Step | None:
        if self._has_message:
            self._has_message = False
            self._core.settle(self._channel.name, True, self._client._now())
            self._client._perform()
        if self._error is not None:
            self._is_over = True
            error, self._error = self._error, None
            raise error
        if self._is_over:
            raise StopAsyncIteration
        step = self._core.next_step(self._channel.name, self._client._now())
        self._has_message = isinstance(step, Message)
        self._client._perform()
        return step

    def _end(self, error: SeriatimError | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._error = error

    def _supersede(self) -> None:
        # What it was left with is the other's now.
        self._has_message = False
        self._end(SeriatimError("busy", channel=self._channel.name))
        self._channel._wake()


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _call(listener: Callable[[T], object], value: T) -> None:
    try:
        listener(value)
    except Exception:
        logger.exception("A listener failed.")


def _settle(handle: object, value: object) -> None:
    assert isinstance(handle, asyncio.Future)
    if not handle.done():
        handle.set_result(value)


def _fail(handle: object, error: SeriatimError) -> None:
    assert isinstance(handle, asyncio.Future)
    if not handle.done():
        handle.set_exception(error)


def _says_signed_out(error: Exception) -> bool:
    if isinstance(error, SeriatimError):
        return error.code in ("unauthorized", "forbidden")
    return getattr(getattr(error, "response", None), "status_code", None) in (401, 403)


def _retry_after_ms(value: str | None, now_s: float) -> int | None:
    """`Retry-After`: seconds or a date (RFC 9110 §10.2.3)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return int(value) * 1000
    with contextlib.suppress(ValueError):
        return max(0, round((parsedate_to_datetime(value).timestamp() - now_s) * 1000))
    return None
