"""Presence on one worker: rows written and read off the loop, followers told.

Members are rows in the database, one for each client, channel and worker, that count while the worker's lease holds.
This module writes this worker's rows in batches (in the log writer's thread, like cursors), renews the lease, reads the
channels that are followed here, and tells followers what changed between two readings (`realtime.delivery.presence`).
After a commit other workers get a hint over the channel layer; one that is lost costs them at most a second, since
every followed channel is looked at once in `LOOK_S`. See docs/explanation/presence.md.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from django.db import Error, connections, transaction
from django.db.models import Count, Sum

from realtime import counting, limits
from realtime.conf import settings
from realtime.delivery.blocks import Encoding
from realtime.delivery.presence import LISTED_MOST, Frame, Key, Member, Membership, Row, View, merge
from realtime.log.patience import patience
from realtime.log.reader import LogReader
from realtime.log.writer import LogWriter
from realtime.models import PresenceLease, Present
from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often followed channels are looked at, whatever was heard of them."""

LEASE_S: Final = 20.0
"""Members of a worker that died leave when this and a look are over: within the 30 s that are promised."""

RENEW_S: Final = 5.0
"""How often the lease is renewed: three renewals may fail before anybody is taken for dead."""

CALM_S: Final = RENEW_S + 1
"""After the database was away nothing is read for so long: workers that live get time to say so."""

FORGET_S: Final = 60.0
"""Rows of a worker whose lease is over for so long are deleted."""

ROWS_AT_ONCE: Final = 500
"""Rows of one transaction: some milliseconds of the log writer's time."""

NAMES_AT_ONCE: Final = 250
"""Channels of one reading."""

WRITES_A_TURN: Final = 1024
"""Followers told in one turn of the loop: some milliseconds' worth."""

AWAY_RETRY_MS: Final = 1000

REPEATED_MOST_MS: Final = 86_400_000
"""How long ago somebody may claim to have set its data: more is a clock that is wrong, or a lie."""

Digest = tuple[int, int]
"""Number and sum of the stamps of a channel's rows: another one means that something changed."""


class Sink(Protocol):
    """A follower's outgoing side; the part of the hub's that presence needs."""

    encoding: Encoding
    congested: bool

    def write(self, payload: object) -> None: ...


class Loop(Protocol):
    def time(self) -> float: ...
    def call_soon(self, callback: Callable[..., object], *args: Any) -> object: ...
    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object: ...


class Found(NamedTuple):
    """One reading of a channel."""

    digest: Digest
    members: dict[str, Member] | None
    """None: too many for a list."""
    size: int


class _Written(NamedTuple):
    refused: frozenset[Key]
    renewed: bool
    lost: bool
    """Others have removed this worker's rows."""


Done = Callable[[ProtocolError | None], None]


class _Follower:
    __slots__ = ("mark", "sink", "synced")

    def __init__(self, sink: Sink, mark: str | None) -> None:
        self.sink = sink
        self.mark = mark
        """It is told syncs instead of events, with their mark, and none that has this one."""
        self.synced = False
        """It has a sync, so events mean something to it."""


class _Room:
    """A channel that is followed here."""

    def __init__(self) -> None:
        self.view = View()
        self.digest: Digest | None = None
        self.followers: dict[Sink, _Follower] = {}


class Presence:
    """One worker's. Every method runs on the loop's thread and returns at once."""

    def __init__(
        self,
        loop: Loop,
        writer: LogWriter,
        reader: LogReader,
        hint: Callable[[ChannelName], None],
        tell_left: Callable[[Key, str], None],
        worker: str,
    ) -> None:
        """`hint` tells other workers that a channel's members changed, perhaps, `tell_left` that a client left by a
        connection that may have been at them; `worker` is a name like no other."""
        self._loop = loop
        self._writer = writer
        self._reader = reader
        self._hint = hint
        self._tell_left = tell_left
        self._worker = worker
        self.membership = Membership()
        self._rooms: dict[ChannelName, _Room] = {}
        self._waiting: list[tuple[Key, Done]] = []
        """Who waits for a write of this key."""
        self._stored: set[Key] = set()
        self._writing = False
        self._renew_at = 0.0
        self._wanted: dict[ChannelName, None] = {}
        """Channels to be read."""
        self._reading = False
        self._calm_until = 0.0
        self.counts: Counter[str] = Counter(dict.fromkeys(("events", "syncs", "written", "read", "failures"), 0))
        """Events told (once, however many follow), syncs sent, rows written, channels read, failed reads and writes."""

    @property
    def followers(self) -> int:
        return sum([len(room.followers) for room in self._rooms.values()])

    # ------------------------------------------------------------------ members

    def enter(self, key: Key, connection: str, data: str, done: Done) -> int:
        """Makes the client a member, or changes its data; `done` is called when that is committed, or why it is not.
        Gives the time of the data."""
        at = self.membership.enter(key, connection, data, time.time_ns() // 1_000_000, self._known(key))
        self._wait(key, done)
        return at

    def enter_again(self, key: Key, connection: str, data: str, at: int, done: Done) -> None:
        """As `enter`, by one who has entered at the time `at`, and whose data may have been changed since."""
        now = time.time_ns() // 1_000_000
        at = max(now - REPEATED_MOST_MS, min(now, at))
        if self.membership.enter_again(key, connection, data, at, self._known(key)) or key in self.membership.dirty:
            self._wait(key, done)
        else:
            done(None)

    def _known(self, key: Key) -> Member | None:
        room = self._rooms.get(key.channel)
        return None if room is None or room.view.members is None else room.view.members.get(key.client)

    def leave(self, key: Key, connection: str, done: Done | None = None) -> None:
        """The client is no member any more by this connection; as of now, without grace."""
        if not self.membership.leave(key, connection):
            if done is not None:
                done(None)
        elif done is not None:
            self._wait(key, done)
        else:
            self._flush()

    def leave_everywhere(self, key: Key, connection: str, done: Done) -> None:
        """As `leave`, by a connection whose requests may have come to other workers. Where the word about it is lost,
        the grace ends it."""
        self._tell_left(key, connection)
        self.has_left(key, connection)
        if key in self.membership.dirty:
            self._wait(key, done)
        else:
            done(None)

    def has_left(self, key: Key, connection: str) -> None:
        """See `leave_everywhere`: this worker hears of it."""
        self.membership.leave_for_good(key, connection, self._loop.time())
        self._flush()

    def release(self, key: Key, connection: str, request: str) -> None:
        """The request that carried the connection is over; the next one may come to any worker."""
        self.membership.release(key, connection, request, self._loop.time())

    def drop(self, key: Key, connection: str) -> None:
        """The connection is gone; its client may be back."""
        self.membership.drop(key, connection, self._loop.time())
        self._flush()

    def _wait(self, key: Key, done: Done) -> None:
        self._waiting.append((key, done))
        self._flush()

    def _flush(self) -> None:
        if not self._writing and self.membership.dirty:
            self._writing = True
            # Not at once: what comes in this turn of the loop is written together.
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        dirty = self.membership.dirty
        keys = list(dirty)[:ROWS_AT_ONCE]
        for key in keys:
            del dirty[key]
        rows = {key: self.membership.row(key) for key in keys}
        new = frozenset([key for key, row in rows.items() if row is not None and key not in self._stored])
        waiting = [each for each in self._waiting if each[0] in rows]
        self._waiting = [each for each in self._waiting if each[0] not in rows]
        now = self._loop.time()
        renew = bool(len(self.membership) and now >= self._renew_at)

        def work() -> None:
            written: _Written | None = None
            try:
                written = _write(self._worker, rows, new, renew)
            except Error as error:
                counting.database_errors.add("presence")
                logger.warning("Storing who is present failed; it is tried again: %s", error)
                connections[settings.DATABASE].close()
            self._loop.call_soon_threadsafe(self._written, rows, waiting, written, now)

        try:
            self._writer.run(work)
        except ProtocolError:
            self._written(rows, waiting, None, now)

    def _written(
        self,
        rows: dict[Key, Row | None],
        waiting: Sequence[tuple[Key, Done]],
        written: _Written | None,
        now: float,
    ) -> None:
        self._writing = False
        if written is None:
            self.counts["failures"] += 1
            # The next look writes them.
            self.membership.dirty.update(dict.fromkeys(rows))
            for _, done in waiting:
                done(ProtocolError("unavailable", "Presence cannot be stored now.", retry_after_ms=AWAY_RETRY_MS))
            return
        if written.renewed:
            self._renew_at = now + RENEW_S
        if written.lost and self._stored:
            self.membership.rewrite()
        self.counts["written"] += len(rows) - len(written.refused)
        for key, row in rows.items():
            if row is None:
                self._stored.discard(key)
            elif key in written.refused:
                self.membership.forget(key)
            else:
                self._stored.add(key)
        for channel in {key.channel for key in rows}:
            self._hint(channel)
            self.heard(channel)
        for key, done in waiting:
            done(_too_many(key.channel) if key in written.refused else None)
        self._flush()

    # ------------------------------------------------------------------ followers

    def follow(self, channel: ChannelName, sink: Sink, mark: str | None = None) -> None:
        """Tells the sink who is a member: a sync of a reading that begins now, then what changes. With a `mark` it is
        told syncs alone, and the first one only where it differs from what the mark is of."""
        room = self._rooms.setdefault(channel, _Room())
        room.followers[sink] = _Follower(sink, mark)
        self._want(channel)

    def unfollow(self, channel: ChannelName, sink: Sink) -> None:
        room = self._rooms.get(channel)
        if room is not None:
            room.followers.pop(sink, None)
            if not room.followers:
                del self._rooms[channel]

    def drained(self, channel: ChannelName, sink: Sink) -> None:
        """The sink takes frames again: what it missed is made good by a sync."""
        room = self._rooms.get(channel)
        if room is not None and sink in room.followers and not room.followers[sink].synced:
            self._want(channel)

    def heard(self, channel: ChannelName) -> None:
        """The members of a channel have changed, perhaps."""
        if channel in self._rooms:
            self._want(channel)

    def tick(self) -> None:
        """To be called once in `LOOK_S`."""
        now = self._loop.time()
        self.membership.expire(now)
        if len(self.membership) and now >= self._renew_at and not self.membership.dirty:
            # A renewal is a write without rows.
            if not self._writing:
                self._writing = True
                self._write()
        else:
            self._flush()
        for channel, room in self._rooms.items():
            if room.view.pending:
                room.digest = None
            self._want(channel)

    # ------------------------------------------------------------------ reading

    def _want(self, channel: ChannelName) -> None:
        self._wanted[channel] = None
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        """One reading at a time, so that none overtakes another."""
        names = list(self._wanted)[:NAMES_AT_ONCE]
        known: dict[ChannelName, Digest | None] = {}
        for name in names:
            del self._wanted[name]
            room = self._rooms.get(name)
            if room is not None:
                known[name] = room.digest
        # Those who wait now are answered by this reading, those who come later by the next.
        waiting = [
            (name, follower)
            for name in known
            for follower in self._rooms[name].followers.values()
            if not follower.synced
        ]
        if known and self._loop.time() >= self._calm_until:
            self._reader.run(lambda: read(known), lambda found: self._have_read(known, found, waiting))
        else:
            self._reading = False

    def _have_read(
        self,
        asked: Iterable[ChannelName],
        found: dict[ChannelName, Found] | None,
        waiting: Sequence[tuple[ChannelName, _Follower]],
    ) -> None:
        self._reading = False
        now = self._loop.time()
        if found is None:
            self.counts["failures"] += 1
            self._calm_until = now + CALM_S
            return
        self.counts["read"] += len(list(asked))
        for channel, reading in found.items():
            room = self._rooms.get(channel)
            if room is not None:
                room.digest = reading.digest
                self._tell(channel, room, room.view.apply(reading.members, reading.size, now))
        for channel in {name for name, _ in waiting}:
            room = self._rooms.get(channel)
            if room is not None and room.view.known:
                for name, follower in waiting:
                    if name == channel and room.followers.get(follower.sink) is follower:
                        follower.synced = True
                        self._send_sync(channel, room, follower)
        if self._wanted:
            self._reading = True
            self._loop.call_soon(self._read)

    # ------------------------------------------------------------------ telling

    def _tell(self, channel: ChannelName, room: _Room, frames: list[Frame]) -> None:
        if not frames:
            return
        followers = [follower for follower in room.followers.values() if follower.synced]
        self.counts["events"] += len(frames)
        texts = [_text(channel, frame) for frame in frames]
        self._send_some(room, [each for each in followers if each.mark is None], texts, {})
        marked = [each for each in followers if each.mark is not None]
        if marked:
            self._send_some(room, marked, _marked(channel, room.view), {})

    def _send_some(
        self, room: _Room, followers: list[_Follower], texts: list[str], payloads: dict[Encoding, object]
    ) -> None:
        """In slices; a later slice keeps its place behind all that was begun before, as the loop calls in order."""
        for follower in followers[:WRITES_A_TURN]:
            sink = follower.sink
            if room.followers.get(sink) is not follower or not follower.synced:
                continue
            if sink.congested:
                # It gets a sync in place of all that it misses.
                follower.synced = False
                continue
            payload = payloads.get(sink.encoding)
            if payload is None:
                payload = payloads[sink.encoding] = sink.encoding.encode(texts)
            sink.write(payload)
        if len(followers) > WRITES_A_TURN:
            self._loop.call_soon(self._send_some, room, followers[WRITES_A_TURN:], texts, payloads)

    def _send_sync(self, channel: ChannelName, room: _Room, follower: _Follower) -> None:
        sink = follower.sink
        if sink.congested:
            follower.synced = False
            return
        if follower.mark is not None and follower.mark == room.view.mark:
            return
        self.counts["syncs"] += 1
        if follower.mark is None:
            texts = [_text(channel, frame) for frame in room.view.sync()]
        else:
            texts = _marked(channel, room.view)
        sink.write(sink.encoding.encode(texts))


def _text(channel: ChannelName, frame: Frame) -> str:
    return encode({"type": "presence", "channel": channel, **frame})


def _marked(channel: ChannelName, view: View) -> list[str]:
    """A sync that says its mark."""
    return [_text(channel, {**frame, "mark": view.mark}) for frame in view.sync()]


def _members_most(channel: ChannelName) -> int:
    """By the settings and by an operator's limits, whichever is stricter. Who is a member already stays one."""
    most = limits.of_channel(channel).members
    return settings.PRESENCE_MEMBERS_MAX if most is None else min(most, settings.PRESENCE_MEMBERS_MAX)


def _too_many(channel: ChannelName) -> ProtocolError:
    return ProtocolError(
        "limit_exceeded",
        f"The channel has {_members_most(channel)} members, as many as it may have.",
        remedy="Follow the channel without entering, or enter when others have left.",
        channel=channel,
    )


# ---------------------------------------------------------------------- the database, in threads


def _now_ms() -> int:
    """By the database's clock, where it has one that all workers share."""
    connection = connections[settings.DATABASE]
    if connection.vendor != "postgresql":
        return time.time_ns() // 1_000_000
    with connection.cursor() as cursor:
        cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        return int(cursor.fetchone()[0])


def _living() -> list[str]:
    leases = PresenceLease.objects.using(settings.DATABASE).filter(until__gt=_now_ms())
    return list(leases.values_list("worker", flat=True))


def _write(worker: str, rows: dict[Key, Row | None], new: frozenset[Key], renew: bool) -> _Written:
    alias = settings.DATABASE
    present = Present.objects.using(alias)
    with patience(connections[alias]), transaction.atomic(using=alias):
        lost = renew and _renew(worker)
        refused = _without_room(new)
        present.bulk_create(
            [
                Present(
                    channel=key.channel,
                    client=key.client,
                    worker=worker,
                    connections=row.connections,
                    data=row.data,
                    at=row.at,
                    since=row.since,
                    stamp=secrets.randbits(31),
                )
                # In the order of the unique index, so that two workers cannot wait for each other.
                for key, row in sorted(rows.items())
                if row is not None and key not in refused
            ],
            update_conflicts=True,
            unique_fields=["channel", "client", "worker"],
            update_fields=["connections", "data", "at", "since", "stamp"],
        )
        left: dict[str, list[str]] = {}
        for key, row in rows.items():
            if row is None:
                left.setdefault(key.channel, []).append(key.client)
        for channel, clients in sorted(left.items()):
            present.filter(channel=channel, client__in=clients, worker=worker).delete()
    return _Written(refused, renew, lost)


def _renew(worker: str) -> bool:
    """Renews the lease, or begins one; True: there was none, so rows of before may be gone."""
    until = _now_ms() + int(LEASE_S * 1000)
    leases = PresenceLease.objects.using(settings.DATABASE)
    if leases.filter(worker=worker).update(until=until):
        return False
    leases.create(worker=worker, until=until)
    return True


def _without_room(new: frozenset[Key]) -> frozenset[Key]:
    """Who cannot become a member, because the channel has as many as it may have."""
    refused: set[Key] = set()
    for channel in {key.channel for key in new}:
        rows = Present.objects.using(settings.DATABASE).filter(channel=channel)
        room = _members_most(ChannelName(channel)) - rows.values("client").distinct().count()
        entering = sorted(key for key in new if key.channel == channel)
        if len(entering) > room:
            known = set(rows.filter(client__in=[key.client for key in entering]).values_list("client", flat=True))
            refused.update([key for key in entering if key.client not in known][max(0, room) :])
    return frozenset(refused)


def read(known: dict[ChannelName, Digest | None]) -> dict[ChannelName, Found]:
    """Channels whose members are not those of the digest. In a thread."""
    rows = Present.objects.using(settings.DATABASE).filter(worker__in=_living())
    totals = {
        name: (count, stamps, clients)
        for name, count, stamps, clients in rows.filter(channel__in=list(known))
        .values_list("channel")
        .annotate(Count("pk"), Sum("stamp"), Count("client", distinct=True))
        .order_by()
    }
    found: dict[ChannelName, Found] = {}
    for name, before in known.items():
        count, stamps, clients = totals.get(name, (0, 0, 0))
        digest = (count, stamps)
        if digest == before:
            continue
        if clients > LISTED_MOST:
            found[name] = Found(digest, None, clients)
            continue
        members = merge(
            Row(*row) for row in rows.filter(channel=name).values_list("client", "connections", "data", "at", "since")
        )
        found[name] = Found(digest, members, len(members))
    return found


def count(channel: ChannelName) -> int:
    """How many members a channel has. In a thread."""
    rows = Present.objects.using(settings.DATABASE).filter(channel=channel, worker__in=_living())
    return rows.values("client").distinct().count()


def members(channel: ChannelName, after: str, limit: int) -> list[Member]:
    """Members in the order of their client ids, behind `after`. In a thread."""
    rows = Present.objects.using(settings.DATABASE).filter(channel=channel, worker__in=_living())
    clients = list(rows.filter(client__gt=after).values_list("client", flat=True).distinct().order_by("client")[:limit])
    some = merge(
        Row(*row) for row in rows.filter(client__in=clients).values_list("client", "connections", "data", "at", "since")
    )
    return [some[client] for client in clients if client in some]


def forget_old() -> None:
    """Deletes what workers left that are gone. In a thread."""
    leases = PresenceLease.objects.using(settings.DATABASE).filter(until__lt=_now_ms() - int(FORGET_S * 1000))
    gone = list(leases.values_list("worker", flat=True))
    if gone:
        with transaction.atomic(using=settings.DATABASE):
            # Again, under lock: one that was only slow may have come back.
            leases.filter(worker__in=gone).delete()
            living = _living()
            rows = Present.objects.using(settings.DATABASE).filter(worker__in=gone)
            rows.exclude(worker__in=living).delete()
