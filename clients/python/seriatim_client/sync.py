"""The client for code without an event loop: a thin façade over `Client`, whose loop runs in a thread of its own.

Methods may be called from any thread; a loop over a channel belongs to the thread that runs it, and so do the
listeners `on_discontinuity` and `on_snapshot`. Every wait can be interrupted by KeyboardInterrupt, and loses nothing:
the message that a loop was given is processed only when the loop asks for the next one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, assert_never

from seriatim_client.client import Channel, Client, OnDiscontinuity, Presence, Reader, logger
from seriatim_client.errors import SeriatimError
from seriatim_client.frames import Attached, Member, Ready
from seriatim_client.line_state import State
from seriatim_client.messages import Discontinuity, HistoryPage, Load, Message, Published, Snapshot
from seriatim_client.positions import FromArgument, Position
from seriatim_client.transport_choice import TransportName

T = TypeVar("T")


class SyncClient:
    """`with SyncClient(url, token=…) as client:` connects and closes. The arguments are those of `Client`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = Client(url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="seriatim", daemon=True)
        self._channels: dict[str, SyncChannel] = {}
        self._is_closed = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def connect(self) -> None:
        """Connects, and stays connected until `close`. A client that was closed stays so: make another one."""
        if self._is_closed:
            raise SeriatimError("closed")
        if not self._thread.is_alive():
            self._thread.start()
        self._do(self._client.connect)

    def close(self, flush_s: float = 0) -> None:
        """Ends the connection. With `flush_s` it waits so long for what is not stored yet."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._thread.is_alive():
            self._loop.close()
            return
        try:
            if flush_s > 0:
                self._wait(self._client.flush(), flush_s)
        except TimeoutError:
            pass
        finally:
            try:
                self._wait(self._client.close())
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def connected(self, timeout_s: float | None = None) -> Ready:
        """Waits until the server has said who we are."""
        return self._wait(self._client.connected(), timeout_s)

    def flush(self, timeout_s: float | None = None) -> None:
        """Waits until everything queued is stored, refused or taken back."""
        self._wait(self._client.flush(), timeout_s)

    def retry_now(self) -> None:
        """Tries now what would be tried at `state.next_try_at_ms`."""
        self._do(self._client.retry_now)

    @property
    def state(self) -> State:
        return self._client.state

    @property
    def transport(self) -> TransportName:
        """What carries the current connection, or carried the last one."""
        return self._client.transport

    @property
    def ready(self) -> Ready | None:
        """The `ready` frame of the last connection."""
        return self._client.ready

    @property
    def latency_ms(self) -> float | None:
        """How long an answer takes, smoothed; None before the first."""
        return self._client.latency_ms

    @property
    def client_id(self) -> str | None:
        return self._client.client_id

    def channel(
        self,
        name: str,
        from_: FromArgument | None = None,
        window: int | None = None,
        presence: bool | None = None,
        delta: Literal["fossil"] | bool | None = None,
    ) -> SyncChannel:
        """See `Client.channel`."""
        channel = self._do(lambda: self._client.channel(name, from_, window, presence, delta))
        return self._channels.setdefault(name, SyncChannel(channel, self))

    def _do(self, call: Callable[[], T]) -> T:
        """Calls something in the loop's thread."""

        async def in_loop() -> T:
            return call()

        return self._wait(in_loop())

    def _wait(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        if not self._thread.is_alive():
            work.close()
            raise SeriatimError("closed", "The client is not connected.", remedy="Call `connect()`, or use `with`.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            if not future.done():
                future.cancel()
            raise
        except BaseException:
            # Ctrl-C: nobody waits any more.
            future.cancel()
            raise


class SyncPresence:
    """Who is present in a channel. See `Presence`."""

    def __init__(self, presence: Presence, client: SyncClient) -> None:
        self._presence = presence
        self._client = client

    @property
    def members(self) -> Mapping[str, Member]:
        return self._client._do(lambda: self._presence.members)

    @property
    def count(self) -> int:
        return self._client._do(lambda: self._presence.count)

    def enter(self, data: Any = None, timeout_s: float | None = None) -> None:
        """See `Presence.enter`."""
        self._client._wait(self._presence.enter(data), timeout_s)

    def update(self, data: Any, timeout_s: float | None = None) -> None:
        """See `Presence.update`."""
        self._client._wait(self._presence.update(data), timeout_s)

    def leave(self, timeout_s: float | None = None) -> None:
        """See `Presence.leave`."""
        self._client._wait(self._presence.leave(), timeout_s)


class SyncChannel:
    """A channel for a thread: `for message in channel`. See `Channel`."""

    def __init__(self, channel: Channel, client: SyncClient) -> None:
        self.name = channel.name
        self._channel = channel
        self.presence = SyncPresence(channel.presence, client)
        self._client = client
        self.on_discontinuity: OnDiscontinuity | None = None
        """Called by the loop, in its thread: `(from, to, reason)`. Without it they are logged."""
        self.on_snapshot: Callable[[Snapshot], object] | None = None

    @property
    def position(self) -> Position | None:
        return self._channel.position

    @property
    def behind(self) -> int:
        return self._channel.behind

    def attach(self, from_: FromArgument | None = None, timeout_s: float | None = None) -> Attached:
        """Follows the channel. Raises when the server refuses for good."""
        return self._client._wait(self._channel.attach(from_), timeout_s)

    def detach(self) -> None:
        """Stops following. The position is kept."""
        self._client._wait(self._channel.detach())

    def __iter__(self) -> SyncReader:
        return self.read()

    def read(self, idle_s: float | None = None) -> SyncReader:
        """A loop that ends after `idle_s` without a message; None: never by itself."""
        return SyncReader(self, self._client._do(lambda: aiter(self._channel)), idle_s)

    def processed_through(self, serial: int) -> None:
        """Counts everything through `serial` as processed, before the loop asks for more: to leave it on purpose."""
        self._client._do(lambda: self._channel.processed_through(serial))

    def publish(
        self,
        data: Any = None,
        *,
        event: str = "message",
        key: str | None = None,
        id: str | None = None,
        timeout_s: float | None = None,
    ) -> Published:
        """Publishes, and waits until it is stored. After `TimeoutError` the outcome is unknown: repeat with the id."""
        return self._client._wait(self._publish(data, event, key, id), timeout_s)

    def publish_soon(
        self, data: Any = None, *, event: str = "message", key: str | None = None, id: str | None = None
    ) -> concurrent.futures.Future[Published]:
        """Publishes without waiting, in the order of the calls."""
        return asyncio.run_coroutine_threadsafe(self._publish(data, event, key, id), self._client._loop)

    async def _publish(self, data: Any, event: str, key: str | None, id: str | None) -> Published:
        return await self._channel.publish(data, event=event, key=key, id=id)

    def history(
        self,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> HistoryPage:
        """A page of the log. See `Channel.history`."""
        return self._client._wait(self._channel.history(before=before, after=after, limit=limit), timeout_s)

    def signal(self, event: str, data: Any = None) -> bool:
        """See `Channel.signal`."""
        return self._client._do(lambda: self._channel.signal(event, data))


class SyncReader:
    """One loop over a channel, in one thread."""

    def __init__(self, channel: SyncChannel, reader: Reader, idle_s: float | None) -> None:
        self._channel = channel
        self._reader: Reader | None = reader
        """None after an interruption: what it took then was not given to anybody."""
        self._idle_s = idle_s

    def __iter__(self) -> SyncReader:
        return self

    def __next__(self) -> Message:
        while True:
            client = self._channel._client
            if self._reader is None:
                self._reader = client._do(lambda: aiter(self._channel._channel))
            try:
                step = client._wait(self._pull(self._reader))
            except StopAsyncIteration:
                raise StopIteration from None
            except SeriatimError:
                raise
            except BaseException:
                self._reader = None
                raise
            match step:
                case None:
                    raise StopIteration
                case Message():
                    return step
                case Discontinuity(_, first, last, reason):
                    if self._channel.on_discontinuity is None:
                        logger.warning(
                            "%s: serials %s to %s cannot be had: %s", self._channel.name, first, last, reason
                        )
                    else:
                        self._channel.on_discontinuity(first, last, reason)
                case Snapshot():
                    if self._channel.on_snapshot is not None:
                        self._channel.on_snapshot(step)
                case Load():
                    raise AssertionError("there is no load_state here")
                case _:
                    assert_never(step)

    async def _pull(self, reader: Reader) -> Message | Discontinuity | Snapshot | Load | None:
        # Time runs in the loop: a wait that was cancelled from another thread could have had its message already.
        try:
            async with asyncio.timeout(self._idle_s):
                return await reader.pull()
        except TimeoutError:
            return None
