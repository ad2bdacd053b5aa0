"""What one process that serves clients consists of: a loop, one hub, one log writer, one reader, one backplane.

`ensure()` starts it in the running loop, `current()` finds it from any thread. A process without one (a shell, a
management command, a WSGI server beside us) publishes all the same: `realtime.publishing` then makes its rounds itself.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import logging
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from django.db import InterfaceError, OperationalError, connections

from realtime import (
    authorization,
    closings,
    control,
    counting,
    cursors,
    limits,
    namespaces,
    presence,
    providers,
    revocations,
    signals,
    signing,
    tokens,
    upstreams,
)
from realtime.backplane import Backplane
from realtime.conf import settings
from realtime.control import Follower
from realtime.counting import PACE_EVERY_S, Counts, LoopLag, Pace
from realtime.cursors import Cursors
from realtime.delivery.blocks import size_bytes
from realtime.delivery.presence import Key
from realtime.delivery.signals import Signal
from realtime.hub import Hub, HubSettings, Overflow, Sink, Subscriber
from realtime.layers import shards
from realtime.load import Load, Measurements
from realtime.log import incarnation, intake, outbox, retention
from realtime.log.reader import LogReader
from realtime.log.sql import tell_failure
from realtime.log.types import Append, News, Published
from realtime.log.writer import LogWriter, RoundStats
from realtime.mirror import Mirror
from realtime.presence import LOOK_S, Presence
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, namespace_of
from realtime.rhythm import Wheel, until_beat
from realtime.signalling import Attachments, Signalling
from realtime.tokens import Identity, SessionEnd
from realtime.turns import Turns

logger = logging.getLogger(__name__)

T = TypeVar("T")

Access = tuple[frozenset[str], frozenset[str], bool]
"""What who is known and who is not may do, and whether anybody may be present."""

MIRRORS: Sequence[Mirror[Any]] = (
    revocations.mirror,
    signing.mirror,
    limits.mirror,
    closings.mirror,
    namespaces.mirror,
)
"""What is read before anybody is served, and whenever it changed."""

PULSE_MOST_S = 1.0
"""How often connections are looked after at least: heartbeats, expiry, dead sockets."""

SUSPECT_EVERY_S = 0.25
"""How often it is looked whether a line of the channel layer seems dead."""

SESSIONS_EVERY_S = 30.0
"""How often the sessions behind cookies are asked for: their ends are heard of (`realtime.control`), but not every one
is noticed where it happens."""


LEAVE_APART_S = 0.005
"""How far apart clients of a draining worker leave, while there is time: each one reconnects somewhere."""

DRAIN_LOOK_S = 0.05
"""How often a draining worker looks whether those who still wait for an answer can go now."""

BACKLOG_EVERY_S = 10.0
"""How often it is counted what waits in the outbox: relaying tells only of what moves."""

REAUTHORIZED_BY_NAME_MOST = 100
"""Channels closed in one moment about which connections are asked one by one; beyond it about all they follow."""

LAST_SHARE = 0.3
"""Share of the drain time that is kept for the end: what cannot be committed is refused in the first half of it, and
who was refused hears that and goes in the second."""

LAST_MOST_S = 4.0

RELABEL_S = 5.0
"""How long a worker that starts gives new epochs to logs before it serves. Hundreds of thousands have them by then."""

EXPIRE_EVERY_S = 1.0
"""How often messages whose time to live is over leave the log, where a namespace has one."""

BALANCE_EVERY_S = 1.0
"""How often the books of some channels are balanced; of all of them, with 20,000 attachments, in ten seconds."""

ANNOUNCED_A_TURN = 500
"""Connections that are told an announcement in one turn of the loop: some milliseconds' worth."""

ANNOUNCED_KEPT = 100
"""Announcements that are known by their ids: what is heard twice is told once."""

LOAD_RETRY_S = 0.5
"""Pause before the namespaces are asked for again by a worker that starts while the database is away."""


class Client(Protocol):
    """A connection, as far as the worker minds it."""

    identity: Identity | None
    subscribers: dict[ChannelName, Subscriber]
    """What it is attached to."""

    look_at: float
    """Before, in monotonic seconds, nothing is due for it; `Worker.look_soon` where that becomes sooner."""

    def pulse(self, now: float) -> None:
        """Heartbeats, deadlines, dead sockets; sets `look_at` anew."""

    def published(self, appends: list[Append]) -> None:
        """Appends of this connection, in order, have their outcomes."""

    def leave(self) -> None:
        """The worker drains: goes when nothing it was promised is open. Called until it is gone."""

    def give_up(self) -> None:
        """The worker cannot wait any longer: what was promised and is open is `unavailable`; then it goes."""

    def abort(self) -> None:
        """Cuts the connection."""

    @property
    def idle_since(self) -> float | None:
        """Since when the client sends nothing; None: it must not be shed."""

    def shed(self, retry_ms: int) -> None:
        """Closes the connection; the client may come back after this."""

    def reauthorize(self, channel: ChannelName | None, client: str | None) -> None: ...
    def session_ended(self, end: SessionEnd) -> None: ...
    def recheck_session(self) -> None: ...

    def recheck_access(self) -> None:
        """Something was revoked, or somebody was blocked."""

    def disconnect(self, client: str, reason: str) -> None:
        """An operator disconnects the client: ends the connection if it is that client's."""

    def announce(self, data: Mapping[str, object]) -> None:
        """An operator has something to say to everybody."""


class Worker:
    """One per process. Made and stopped on the loop's thread; `on_round` runs in the writer's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self.name = name or f"w{self.pid}"
        self.id = secrets.token_urlsafe(9)
        """Tells it from every other, also from those before and after it that have its name."""
        self.leave_process: Callable[[], object] | None = None
        """Ends this process in order, where somebody starts another in its place; None: nobody does."""
        self.counts = Counts()
        self.pace = Pace()
        self.lag = LoopLag(loop)
        self.backlog = outbox.Backlog(0, None, 0)
        """Of the outbox, as it was counted last."""
        self.reader = LogReader(loop)
        self.backplane = Backplane(
            shards(settings.CHANNEL_LAYER),
            # Names may be the same on two machines; on the layer a worker is a random number.
            self.id,
            self._hear,
            self._hear_of,
            self._hear_signal,
        )
        self.writer = LogWriter(self._on_round, on_stats=self._count_round)
        self.cursors = Cursors(loop, self.writer, _cursor_ms)
        self.hub = Hub(
            loop,
            self.reader,
            self.backplane,
            self.cursors,
            HubSettings(
                hold_s=settings.HOLD_MS / 1000,
                sweep_grace_s=settings.SWEEP_GRACE_MS / 1000,
                linger_s=settings.LINGER_S,
                window_bytes=settings.WINDOW_BYTES,
                block_messages=settings.BLOCK_MESSAGES,
                cache_bytes=settings.BLOCK_CACHE_BYTES,
                delta_bytes=settings.DELTA_MAX_BYTES,
            ),
            self._overflow,
        )
        # Followed before anything is read into memory, so that no change falls in between.
        self.control = Follower(loop, self.hub, self._load_namespaces)
        self.load = Load(loop, self._measure)
        self.turns = Turns(loop, lambda: self.load.busy)
        self.signalling = Signalling(loop, self.hub, lambda: self.load.drops_signals, self._connections_of)
        self.presence = Presence(
            loop, self.writer, self.reader, self._hint_presence, self._tell_left, secrets.token_urlsafe(9)
        )
        self.clients: set[Client] = set()
        self._pulse_s = min(PULSE_MOST_S, settings.HEARTBEAT_MS / 4000)
        self._looks: Wheel[Client] = Wheel(self._pulse_s)
        """When each of them is to be looked after."""
        self.by_key: Counter[str] = Counter()
        """Connections whose tokens were issued with an API key, by the key's id."""
        self.ready = asyncio.Event()
        """Set when the namespaces are known; nobody is served before."""
        self.draining = False
        self._maintenance = ThreadPoolExecutor(1, thread_name_prefix="seriatim-maintenance")
        self._timers: dict[Callable[[], object], asyncio.TimerHandle] = {}
        """Of regular work, by what it does."""
        self._stops: list[Callable[[], None]] = []
        self._sessions_at = 0.0
        self._relaying = False
        self._relay_again = False
        self._watching = False
        self._sweeping_suspects = False
        self._stopped = False
        self._incarnation: int | None = None
        """Of the database: all logs have epochs of it, as far as this worker knows."""
        self._asked: set[Callable[[], object]] = set()
        """Regular reads that wait for their answer."""
        self._retaining: asyncio.Future[None] | None = None
        self._expiring: asyncio.Future[None] | None = None
        self._access: dict[str, Access] = {}
        """Who may do what by the namespaces' rules, as attachments here were decided."""
        self._announced: deque[str] = deque(maxlen=ANNOUNCED_KEPT)

    def start(self) -> None:
        counting.count_logs()
        self.lag.start()
        self.load.start()
        self.writer.start()
        self.backplane.start()
        self.control.start()
        self._note_pace()
        for every_s, work in (
            (self._pulse_s, self._pulse),
            (settings.SWEEP_MS / 1000, self._sweep),
            (SUSPECT_EVERY_S, self._mind_suspects),
            (settings.SWEEP_MS / 1000, self._watch_incarnation),
            (1.0, self._refresh_caches),
            (settings.OUTBOX_MS / 1000, self.relay_outbox),
            (BACKLOG_EVERY_S, self._count_backlog),
            (PACE_EVERY_S, self._note_pace),
            (settings.RETENTION_INTERVAL_S, self._retain),
            (EXPIRE_EVERY_S, self._expire),
            (BALANCE_EVERY_S, self.hub.balance_some),
            (LOOK_S, self.presence.tick),
        ):
            self._repeat(every_s, work)
        self._stops = [
            authorization.on_reauthorize(
                lambda channel, client: self._soon(self._each, lambda each: each.reauthorize(channel, client))
            ),
            tokens.on_session_end(lambda end: self._soon(self._each, lambda each: each.session_ended(end))),
            *(mirror.on_stale(partial(self._soon, self._read, mirror)) for mirror in MIRRORS),
            revocations.mirror.on_change(lambda *_: self._soon(self._each, lambda each: each.recheck_access())),
            signing.mirror.on_change(lambda *_: self._soon(self._each, lambda each: each.recheck_access())),
            providers.on_change(lambda: self._soon(self._each, lambda each: each.recheck_access())),
            limits.mirror.on_change(lambda *_: self._soon(self._mind_limits)),
            closings.mirror.on_change(lambda before, after: self._soon(self._mind_closings, before ^ after)),
            namespaces.mirror.on_change(lambda *_: self._soon(self._mind_access)),
            control.on("disconnect", self._disconnect_heard),
            control.on("announce", self._announce_heard),
            control.on("drain", self._drain_heard),
            self.control.stop,
        ]

    def refuse(self) -> None:
        """The worker is about to leave: `/readyz` says so, and nobody new is let in."""
        self.draining = self.load.admission.draining = True

    async def drain(self, busy: Callable[[], bool] = lambda: False) -> None:
        """Sends clients away, spread over half of `DRAIN_S` and with a hint when to come back, then stops.

        A client is served until its turn comes; then nothing more of it is read, and it is told to go when what it was
        promised is committed and answered. `busy` tells of other work that needs the worker, such as HTTP requests.
        Whatever hangs, clients are gone within `DRAIN_S`: where the database does not answer, publishers get
        `unavailable` while they can still hear it, and whoever is there at the end is cut off.
        """
        self.refuse()
        loop = self.loop
        began = loop.time()
        deadline = began + settings.DRAIN_S
        last_s = min(settings.DRAIN_S * LAST_SHARE, LAST_MOST_S)
        leaving = list(self.clients)
        for index, client in enumerate(leaving):
            slot_s = min(settings.DRAIN_S / 2, len(leaving) * LEAVE_APART_S) * index / len(leaving)
            await asyncio.sleep(max(0.0, began + slot_s - loop.time()))
            client.leave()
        await self._leave_until(deadline - last_s, busy)
        stopping = asyncio.ensure_future(self.stop(last_s / 2))
        await self._leave_until(deadline - last_s / 2 + DRAIN_LOOK_S, lambda: not stopping.done())
        for client in list(self.clients):
            client.give_up()
        await self._leave_until(deadline, lambda: not stopping.done())
        for client in list(self.clients):
            client.abort()
        await stopping

    async def _leave_until(self, deadline: float, busy: Callable[[], bool]) -> None:
        """Until all clients have gone and nothing is busy any more, or the time is over."""
        while (self.clients or busy()) and self.loop.time() < deadline:
            for client in list(self.clients):
                client.leave()
            await asyncio.sleep(DRAIN_LOOK_S)

    async def stop(self, timeout_s: float | None = None) -> None:
        """Ends tasks and threads; what was accepted is committed first, or refused after `timeout_s`."""
        global _current
        if _current is self:
            _current = None
        self._stopped = True
        for stop in self._stops:
            stop()
        self.lag.stop()
        self.load.stop()
        for timer in self._timers.values():
            timer.cancel()
        await self.backplane.stop()
        self.cursors.store()
        await asyncio.to_thread(self.writer.stop, settings.PUBLISH_TIMEOUT_S if timeout_s is None else timeout_s)
        self.reader.close()
        self._maintenance.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------ from the writer's thread

    def _on_round(self, appends: Sequence[Append], news: Sequence[News]) -> None:
        """After a commit: callers in threads are answered here, connections and the hub on the loop, in one go."""
        committed_at = time.monotonic()
        mine: list[Append] = []
        for append in appends:
            if isinstance(append.tag, Future):
                self._count_append(append, "call")
                append.tag.set_result(append)
            else:
                self._count_append(append, "socket")
                mine.append(append)
        for each in news:
            self.counts.stored_bytes += sum([size_bytes(frame) for frame in each.frames])
        try:
            self.loop.call_soon_threadsafe(self._tell, mine, news, committed_at)
        except RuntimeError:
            # The loop has ended: its connections are gone, and the log has what was committed.
            pass
        for each in news:
            signals.send_published(each.channel, each.epoch, each.first, len(each.frames))

    def _count_append(self, append: Append, source: str) -> None:
        outcome = append.outcome
        if isinstance(outcome, Published):
            duplicates = len(outcome.duplicates)
            self.counts.stored[source] += len(outcome.serials) - duplicates
            self.counts.duplicates += duplicates
            self.counts.conflicts += len(outcome.conflicts)

    def _count_round(self, stats: RoundStats) -> None:
        counts = self.counts
        counts.round_messages.observe(stats.messages_count)
        counts.round_seconds.observe(stats.took_s)
        counts.commit_seconds.observe(stats.waited_s + stats.took_s)

    def _tell(self, appends: list[Append], news: Sequence[News], committed_at: float) -> None:
        by_client: dict[Client, list[Append]] = {}
        for append in appends:
            by_client.setdefault(cast("Client", append.tag), []).append(append)
        for client, settled in by_client.items():
            client.published(settled)
        if not news:
            return
        # By the wall, as other workers read it.
        told_at = time.time() - (time.monotonic() - committed_at)
        for each in news:
            self.hub.hear(each)
            self.backplane.announce(each, told_at)
        self._count_fanout(committed_at)

    def _count_fanout(self, committed_at: float) -> None:
        """When all who are level have it: a large crowd takes several turns of the loop."""
        if self.hub.late:
            self.loop.call_soon(self._count_fanout, committed_at)
        else:
            self.counts.fanout_seconds.observe(time.monotonic() - committed_at)

    def relay_outbox(self) -> None:
        """Has the writer's thread move what is in the outbox into the log. Any thread; several wishes are one."""
        if self._relaying:
            self._relay_again = True
            return
        self._relaying = True
        try:
            self.writer.run(self._relay)
        except ProtocolError:
            # The writer stops or is overrun; the next tick asks again.
            self._relaying = False

    def _relay(self) -> None:
        """In the writer's thread."""
        self._relay_again = False
        try:
            outbox.relay(self._on_relayed, may_create)
        finally:
            self._relaying = False
        if self._relay_again:
            self.relay_outbox()

    def _on_relayed(self, news: Sequence[News]) -> None:
        self.counts.stored["outbox"] += sum([len(each.frames) for each in news])
        self._on_round([], news)

    # ------------------------------------------------------------------ on the loop

    def _hear(self, news: News) -> None:
        self.hub.hear(news)

    def _overflow(self, channel: ChannelName) -> Overflow:
        """What the channel's namespace says now, and what the worker's load makes of it."""
        rules = namespaces.all_rules().get(namespace_of(channel))
        if rules is None or rules.overflow != "conflate":
            return Overflow.HOLD
        return Overflow.CONFLATE_ALL if self.load.conflates else Overflow.CONFLATE

    def signal(self, signal: Signal, sender: Sink | None = None) -> None:
        """Passes a signal to all who are attached to its channel, here and elsewhere, but its sender."""
        self.signalling.give(signal, sender)
        if not self.load.drops_signals:
            self.backplane.signal(signal)

    def _connections_of(self, clients: Collection[str]) -> Iterator[tuple[str, Attachments]]:
        """The connections of some clients; nothing is looked through where none of them is connected."""
        connected = self.load.admission.clients
        if any(client in connected for client in clients):
            for each in list(self.clients):
                if each.identity is not None and each.identity.client in clients:
                    yield each.identity.client, each.subscribers

    def _hear_signal(self, signal: Signal) -> None:
        if signal.frame:
            self.signalling.give(signal)
        elif signal.client:
            self.presence.has_left(Key(signal.channel, signal.client), signal.event)
        else:
            self.presence.heard(signal.channel)

    def _hint_presence(self, channel: ChannelName) -> None:
        """A signal without a frame, which no client can send: it may be lost like one, and of many one is enough."""
        self.backplane.signal(Signal(channel, "", "", ""))

    def _tell_left(self, key: Key, connection: str) -> None:
        """The same, with who left and by which connection."""
        self.backplane.signal(Signal(key.channel, key.client, connection, ""))

    def _hear_of(self, channel: ChannelName, epoch: str | None, head: int) -> None:
        self.hub.hear_of(channel, epoch, head)

    def _soon(self, work: Callable[..., object], *args: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(work, *args)

    def _each(self, work: Callable[[Client], object]) -> None:
        for client in list(self.clients):
            work(client)

    def _repeat(self, every_s: float, work: Callable[[], object]) -> None:
        """Regular work: some time after each beat (see realtime.rhythm), for the first time after one."""

        def turn() -> None:
            wait()
            try:
                work()
            except Exception:
                logger.exception("A regular task of the worker failed.")

        def wait() -> None:
            self._timers[work] = self.loop.call_later(until_beat(self.loop.time(), every_s), turn)

        wait()

    def enter(self, client: Client) -> None:
        """A connection is there, and is looked after from now on."""
        self.clients.add(client)
        self.look_soon(client)

    def leave(self, client: Client) -> None:
        """It is gone. Idempotent."""
        self.clients.discard(client)
        self._looks.drop(client)

    def look_soon(self, client: Client) -> None:
        """Something may have become due for it."""
        if client in self.clients:
            self._looks.put(client, 0.0)

    def _pulse(self) -> None:
        now = time.monotonic()
        recheck = now - self._sessions_at > SESSIONS_EVERY_S
        if recheck:
            self._sessions_at = now
        for client in self._looks.take(now):
            try:
                client.pulse(now)
            except Exception:
                logger.exception("Looking after a connection failed.")
                client.look_at = now
            if client in self.clients:
                self._looks.put(client, client.look_at)
        if recheck:
            self._each(lambda client: client.recheck_session())
        if self.load.sheds_idle:
            self._shed_idle(now)

    def _shed_idle(self, now: float) -> None:
        """Sends away those who were idle longest, a few at each look."""
        before = now - settings.SHED_IDLE_S
        idle = [(since, id(client), client) for client in self.clients if (since := client.idle_since) is not None]
        most = max(1, len(self.clients) * settings.SHED_PERCENT // 100)
        for since, _, client in heapq.nsmallest(most, idle):
            if since > before:
                break
            self.load.shed += 1
            client.shed(self.load.retry_ms())

    def _measure(self) -> Measurements:
        queued = (0, 0) if self.writer.away else self.writer.queued()
        return Measurements(
            lag_s=self.lag.last_s,
            # A database that is away is no load: who is here may stay.
            writer_messages=queued[0],
            writer_bytes=queued[1],
            ready=self.hub.turns_waiting,
            # For the eye alone: what waits for a channel layer that is away is read from the log.
            announcements=self.backplane.waiting_count,
        )

    def _sweep(self) -> None:
        """Looks at the log of every channel that is followed here."""
        self.hub.sweep()

    def _mind_suspects(self) -> None:
        """Looks at the logs of channels whose line of the layer seems dead, more often."""
        if self.backplane.suspect and not self._sweeping_suspects:
            self._sweeping_suspects = True
            self._sweep_suspects()

    def _sweep_suspects(self) -> None:
        self._sweeping_suspects = self.backplane.suspect and not self._stopped
        if self._sweeping_suspects:
            self.loop.call_later(settings.SWEEP_SUSPECT_MS / 1000, self._sweep_suspects)
            self.hub.sweep(self.backplane.suspects)

    def _load_namespaces(self) -> None:
        # Nobody waits for them here: a provider that is away must not keep a worker from serving the others.
        providers.refresh()

        def loaded(complete: bool | None) -> None:
            if not complete:
                self.loop.call_later(LOAD_RETRY_S, self._load_namespaces)
            else:
                _freeze_once()
                self._access = _access()
                self.ready.set()

        def load() -> bool:
            # Nobody attaches before it is known whether positions mean what they meant; after a restore of very many
            # logs the last are told a little later.
            incarnation.current()
            incarnation.relabel(within_s=min(RELABEL_S, settings.DATABASE_TIMEOUT_S / 2))
            return all(mirror.refresh(now=True) for mirror in MIRRORS)

        self.reader.run(load, loaded)

    def _watch_incarnation(self) -> None:
        """Looks whether the database is still the one that it was, also while nobody publishes."""

        def found(number: int | None) -> None:
            if number is None or number == self._incarnation or self._stopped:
                self._watching = False
                return
            future = self.loop.run_in_executor(None, _relabel)
            future.add_done_callback(lambda future: relabelled(number, complete=future.result()))

        def relabelled(number: int, *, complete: bool) -> None:
            self._watching = False
            if complete:
                self._incarnation = number
            self.hub.sweep()

        if not self._watching:
            self._watching = True
            self.reader.run(incarnation.current, found)

    def _read(self, mirror: Mirror[Any]) -> None:
        """Has a mirror look at its rows, if it is time for it."""

        def read(done: bool | None) -> None:
            # What was changed when the reading had just ended; a database that is away is asked at the next look.
            if done and mirror.is_stale:
                self._read(mirror)

        self._ask(mirror.refresh, read)

    def _mind_access(self) -> None:
        """Other rules are in memory: where they say anew who may do what, who is attached is asked again."""
        before, self._access = self._access, _access()
        if before != self._access:
            self._each(lambda each: each.reauthorize(None, None))

    def _mind_limits(self) -> None:
        """Other limits are in memory. Those on new connections hold for new ones; a token may live too long now."""
        self.load.limit_connections(limits.connections_per_worker(), limits.connections_per_address())
        self._each(lambda each: each.recheck_access())

    def _mind_closings(self, names: frozenset[str]) -> None:
        """Channels were closed or opened: who is attached is asked again whether he may."""
        for name in names if len(names) <= REAUTHORIZED_BY_NAME_MOST else (None,):
            authorization.reauthorize_here(None if name is None else ChannelName(name), None)

    def disconnect(self, client: str, reason: str) -> None:
        """Ends the client's connections to this worker. Any thread."""
        self._soon(self._each, lambda each: each.disconnect(client, reason))

    def _disconnect_heard(self, data: Mapping[str, object] | None) -> None:
        # None: what was missed was meant for connections of then, and nobody knows whose.
        if data is not None and isinstance(data.get("client"), str):
            self._each(lambda each: each.disconnect(str(data["client"]), str(data.get("reason") or "")))

    def announce(self, announcement_id: str, text: str) -> None:
        """Tells every connection to this worker what an operator has to say. Any thread."""
        self._soon(self._announce, announcement_id, text)

    def _announce(self, announcement_id: str, text: str) -> None:
        if announcement_id not in self._announced:
            self._announced.append(announcement_id)
            self._announce_some({"id": announcement_id, "text": text}, list(self.clients))

    def _announce_some(self, data: Mapping[str, object], left: list[Client]) -> None:
        some = left[-ANNOUNCED_A_TURN:]
        del left[-ANNOUNCED_A_TURN:]
        for client in some:
            client.announce(data)
        if left:
            self.loop.call_soon(self._announce_some, data, left)

    def _announce_heard(self, data: Mapping[str, object] | None) -> None:
        # None: what was missed was meant for whoever was connected then.
        if data is not None:
            self._announce(str(data.get("id")), str(data.get("text")))

    def give_way(self) -> None:
        """Has the process drain and end; another takes its place. Any thread."""
        if self.leave_process is not None:
            logger.warning("An operator drains this worker.")
            self.leave_process()

    def _drain_heard(self, data: Mapping[str, object] | None) -> None:
        if data is not None and data.get("worker") == self.id:
            self.give_way()

    def _note_pace(self) -> None:
        self.pace.note(time.time(), self.hub.counts["sent"], time.process_time())

    def _refresh_caches(self) -> None:
        providers.refresh()
        self._ask(_refresh_rows, self._refreshed)

    def _refreshed(self, complete: bool | None) -> None:
        for mirror in MIRRORS if complete else ():
            if mirror.is_stale:
                self._read(mirror)

    def _ask(self, read: Callable[[], T], done: Callable[[T | None], None]) -> None:
        """A regular read; left out while the one before waits, or a database that is away would gather them."""
        if read in self._asked:
            return

        def answered(result: T | None) -> None:
            self._asked.discard(read)
            done(result)

        self._asked.add(read)
        self.reader.run(read, answered)

    def _count_backlog(self) -> None:
        def counted(backlog: outbox.Backlog | None) -> None:
            if backlog is not None:
                self.backlog = backlog

        self._ask(outbox.count_backlog, counted)

    def _retain(self) -> None:
        if self._retaining is None or self._retaining.done():
            self._retaining = self.loop.run_in_executor(self._maintenance, self._apply_retention)

    def _expire(self) -> None:
        if not self.ready.is_set():
            # The rules are not known yet: the database was away since this worker began.
            return
        if self._expiring is None or self._expiring.done():
            rules = namespaces.all_rules()
            if any(rule.message_ttl_s is not None for rule in rules.values()):
                self._expiring = self.loop.run_in_executor(self._maintenance, _expire, rules)

    def _apply_retention(self) -> None:
        """In the thread for maintenance."""
        try:
            retention.apply_retention(namespaces.all_rules())
            self.counts.deleted += retention.delete_chunks()
            cursors.forget_old(time.time())
            upstreams.forget_old(time.time())
            revocations.prune()
            presence.forget_old()
            self.counts.retained_at = time.time()
        except Exception as error:
            counting.database_errors.add("retention")
            tell_failure(logger, "Retention failed; it is tried again", error)
        finally:
            connections[settings.DATABASE].close()


def _access() -> dict[str, Access]:
    return {
        name: (rules.known_ops, rules.anonymous_ops, rules.presence) for name, rules in namespaces.all_rules().items()
    }


def _expire(rules: Mapping[str, namespaces.Rules]) -> None:
    """In the thread for maintenance."""
    try:
        retention.expire(rules)
    except Exception as error:
        counting.database_errors.add("retention")
        tell_failure(logger, "Messages whose time to live is over could not be taken; it is tried again", error)
    finally:
        connections[settings.DATABASE].close()


def _cursor_ms(channel: ChannelName) -> int:
    rules = namespaces.all_rules().get(namespace_of(channel))
    return cursors.STORE_EVERY_MS if rules is None else rules.cursor_ms


def _refresh_rows() -> bool:
    """What is read every second, one after the other: a thread that is woken up costs more than a query. In a reader's
    thread."""
    refreshes: list[Callable[[], object]] = [*(mirror.refresh for mirror in MIRRORS), _refresh_api_keys]
    fault: Exception | None = None
    for refresh in refreshes:
        try:
            refresh()
        except (InterfaceError, OperationalError):
            # Away: the others would wait for it, too.
            raise
        except Exception as error:
            fault = fault or error
    if fault is not None:
        raise fault
    return True


def _refresh_api_keys() -> None:
    tokens.refresh_api_keys(time.time())


def _relabel() -> bool:
    """Gives new epochs to logs whose epochs are of an earlier incarnation; whether all have one. In a thread."""
    try:
        return incarnation.relabel()
    except Exception as error:
        counting.database_errors.add("incarnation")
        tell_failure(logger, "Logs could not be given new epochs; it is tried again", error)
        return False
    finally:
        connections[settings.DATABASE].close()


GC_AS_PYTHON_HAS_IT = (700, 10, 10)
GC_THRESHOLDS = (10_000, 5, 200)
"""When the collector looks: it finds next to nothing, since circles are broken when a connection or a poll ends. As
Python has it, 1,000 polling clients made it take 45 % of the processor: what each poll holds while it waits was looked
at three times, and then all of it again. Now a look at what is young comes fourteen times less often, and one at
everything with every ten million objects more."""


def _freeze_once() -> None:
    """What was loaded by now stays: the collector need not look at it again and again. Once in a process, and without
    the litter of starting, which would stay, too."""
    global _frozen
    if not _frozen:
        _frozen = True
        gc.collect()
        gc.freeze()
        # Who has set it himself had a reason.
        if gc.get_threshold() == GC_AS_PYTHON_HAS_IT:
            gc.set_threshold(*GC_THRESHOLDS)


_frozen = False


def may_create(channel: ChannelName) -> bool:
    """Whether publishing to a channel that does not exist makes it."""
    try:
        return namespaces.rules_for(channel).create == "publish"
    except ProtocolError:
        return False


name = ""
"""What `ready` calls this worker, where its supervisor numbered it."""

_current: Worker | None = None


def current() -> Worker | None:
    """This process's worker, from any thread; None where none runs (also in a child that was forked from one)."""
    worker = _current
    if worker is None or worker.loop.is_closed() or worker.pid != os.getpid():
        return None
    return worker


intake.current = current


def ensure() -> Worker:
    """This process's worker, started if need be. On the event loop only."""
    global _current
    loop = asyncio.get_running_loop()
    worker = _current
    if worker is None or worker.loop is not loop:
        worker = _current = Worker(loop)
        worker.start()
    return worker


def occupancy(channel: ChannelName) -> int:
    """Attachments to the channel on this worker; 0 in a process without one."""
    worker = current()
    return worker.hub.occupancy(channel) if worker is not None else 0
