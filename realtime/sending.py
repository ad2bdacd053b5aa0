"""Signals from Python: what a view, a task or a command tells the clients that are attached now, and nobody later.

In a process with a worker a signal goes the way of those that clients send. Any other process hands it to the channel
layer, on an event loop in a thread of its own, whose connections stay open from one call to the next. Nothing is stored
and nothing waits for a commit. See docs/how-to/send-signals.md.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from realtime import authorization, closings, worker
from realtime.backplane import PATIENCE_S, shard_index, signal_group_of, signal_message
from realtime.conf import settings
from realtime.delivery.bucket import TokenBucket
from realtime.delivery.signals import Signal
from realtime.layers import Layer, shards
from realtime.log import reads
from realtime.namespaces import Rules, rules_for
from realtime.protocol.codec import canonical
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import parse_message, signal_frame
from realtime.protocol.names import ChannelName, is_client_id, parse_channel
from realtime.publishing import check_size
from realtime.tokens import Identity

BUCKETS_MOST = 50_000
"""Clients whose rate over HTTP is remembered in a process; the one unheard of for longest begins anew."""

recorder: Callable[[Signal], None] | None = None
"""Takes the place of worker and layer in tests; see `realtime.testing.captured_signals`."""


def signal(channel: str, event: str, data: object = None, *, to: str = "", client: str = "") -> None:
    """Sends a signal to all who are attached to the channel now, on any worker, with the application's own authority.

    `to` names one client, of whom all connections that are attached get it. `client` is whom it is from; "" is nobody,
    `null` on the wire. `data` is anything JSON can say.

    It is sent at once, also inside a transaction, and perhaps nobody is there: for what must arrive, or must wait for a
    commit, there is `publish`. Returns when it is on its way, which takes no longer than one call of Redis.

    Raises ProtocolError: `bad_channel`, `bad_frame`, `not_found`, `forbidden` (an operator has closed the channel),
    `too_large`, `rate_limited` (`APPLICATION_SIGNALS_PER_S`), and `unavailable`: nothing leads to the workers from
    here.
    """
    _wait(_pass_on(_prepare(channel, event, data, to, client)))


async def asignal(channel: str, event: str, data: object = None, *, to: str = "", client: str = "") -> None:
    """`signal` for coroutines."""
    prepared = await asyncio.to_thread(_prepare, channel, event, data, to, client)
    # A thread waits, so that a caller who is cancelled leaves nothing behind.
    await asyncio.to_thread(_wait, _pass_on(prepared))


def send_for(identity: Identity, channel: ChannelName, event: str, data: object, *, to: str, client: str) -> None:
    """Sends one with a client's authority and out of the client's rate. Blocks; not for the event loop."""
    rules = authorization.authorize(identity, channel, "signal")
    prepared = _build(rules, channel, event, data, to, client)
    _take(identity.client, settings.SIGNALS_PER_S, "This client")
    _wait(_pass_on(prepared))


def _prepare(channel: str, event: str, data: object, to: str, client: str) -> Signal:
    name = parse_channel(channel)
    rules = rules_for(name)
    if closings.is_closed(name):
        raise closings.closed(name)
    prepared = _build(rules, name, event, data, to, client)
    _take("", settings.APPLICATION_SIGNALS_PER_S, "This process")
    return prepared


def _build(rules: Rules, channel: ChannelName, event: str, data: object, to: str, client: str) -> Signal:
    for field, value in (("to", to), ("client", client)):
        if value and not is_client_id(value):
            remedy = "Use 1 to 128 visible ASCII characters."
            raise ProtocolError("bad_frame", f"`{field}` is no client id.", remedy=remedy)
    event = parse_message({"event": event, "data": None}).event
    text = canonical(data)
    check_size(text, "the signal", rules, channel)
    if rules.create != "publish" and reads.read_states([channel])[channel].channel_id is None:
        raise ProtocolError("not_found", channel=channel)
    return Signal(channel, client, event, signal_frame(channel, client, event, text), to)


# ---------------------------------------------------------------- rates

_buckets: OrderedDict[str, TokenBucket] = OrderedDict()
"""By client; "" is the application."""
_lock = threading.Lock()


def _take(client: str, rate: int, whose: str) -> None:
    if not rate:
        return
    with _lock:
        bucket = _buckets.pop(client, None)
        if bucket is None or bucket.rate_per_s != rate:
            bucket = TokenBucket(rate, rate)
        _buckets[client] = bucket
        if len(_buckets) > BUCKETS_MOST:
            _buckets.popitem(last=False)
        wait_ms = bucket.take(1, time.monotonic())
    if wait_ms:
        raise ProtocolError("rate_limited", f"{whose} may send {rate} signals a second.", retry_after_ms=wait_ms)


# ---------------------------------------------------------------- on its way


def _pass_on(prepared: Signal) -> Future[None] | None:
    """Has it passed on by this process's worker, or by the channel layer: what is returned is done when it has it."""
    if recorder is not None:
        recorder(prepared)
        return None
    running = worker.current()
    if running is not None:
        running.loop.call_soon_threadsafe(running.signal, prepared)
        return None
    return _mouth().send(prepared)


def _wait(sent: Future[None] | None) -> None:
    if sent is None:
        return
    try:
        # Its own time limit comes first; the thread may have died with the interpreter.
        sent.result(PATIENCE_S * 2)
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(
            "unavailable",
            f"The channel layer did not take the signal ({type(error).__name__}).",
            remedy="Look at Redis. A signal may be left out, or sent again.",
            retry_after_ms=1000,
        ) from error


class _Mouth:
    """The channel layer for a process without a worker. Any thread may send."""

    def __init__(self) -> None:
        self.alias = settings.CHANNEL_LAYER
        self.pid = os.getpid()
        self._shards = shards(self.alias)
        self._layers: list[Layer] = [shard.make() for shard in self._shards]
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="seriatim-signals", daemon=True).start()

    def send(self, prepared: Signal) -> Future[None]:
        if not self._layers:
            raise ProtocolError(
                "unavailable",
                "No worker runs in this process, and the channel layer in memory leads to no other.",
                remedy="Configure a channel layer on Redis, or send the signal over HTTP.",
            )
        return asyncio.run_coroutine_threadsafe(self._send(prepared), self._loop)

    async def _send(self, prepared: Signal) -> None:
        index = shard_index(prepared.channel, len(self._layers))
        group = signal_group_of(prepared.channel, self._shards[index])
        async with asyncio.timeout(PATIENCE_S):
            await self._layers[index].group_send(group, signal_message("", prepared.channel, [prepared]))


_the_mouth: _Mouth | None = None


def _mouth() -> _Mouth:
    global _the_mouth
    with _lock:
        # A child that was forked has the parent's object without its thread.
        if _the_mouth is None or _the_mouth.pid != os.getpid() or _the_mouth.alias != settings.CHANNEL_LAYER:
            _the_mouth = _Mouth()
        return _the_mouth
