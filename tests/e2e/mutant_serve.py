"""`manage.py serve` with one fault built in: `python -m tests.e2e.mutant_serve MUTANT --port N [--workers N]`.

A test that never fails proves nothing. Each mutant takes away or spoils one thing that a promise rests on, and
`test_mutants.py` shows that the torture finds it, for the right reason. The faults are patched into the running process
from here; nothing in `realtime/` knows of them. Workers have the fault of their supervisor, and the application that
publishes in transactions (`outbox_publisher`) has it too.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import django
from django.core.management import execute_from_command_line

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(install: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[install.__name__.replace("_", "-")] = install
    return install


def _spoil(owner: Any, name: str, spoiled: Callable[[Any], Any]) -> None:
    """Puts another in its place, made from what is there: a fault that was patched into nothing would go unnoticed."""
    setattr(owner, name, spoiled(getattr(owner, name)))


def _slowed(work: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def work_slowly(*given: Any) -> Any:
        time.sleep(seconds)
        return work(*given)

    return work_slowly


def _lose_announcements(share: float) -> None:
    """Every worker forgets that share of what it should hear."""
    from realtime.hub import Hub

    hear, dice = Hub.hear, random.Random(1)

    def hear_some(self: Hub, news: Any) -> None:
        if dice.random() >= share:
            hear(self, news)

    Hub.hear = hear_some  # type: ignore[method-assign]


@mutant
def announcements_lost() -> None:
    """No mutant but a control: every announcement is lost, and the sweep alone must heal it."""
    _lose_announcements(1.0)


@mutant
def sweep_off() -> None:
    """Announcements are lost, and nobody compares the heads with the log."""
    from realtime.hub import Hub

    _lose_announcements(1.0)
    Hub.sweep = lambda self, among=None: True  # type: ignore[method-assign]


@mutant
def hold_off() -> None:
    """Announcements are lost, and what comes behind a hole is passed on as if there were none."""
    from realtime.hub import Hub

    def without_hole(hear: Any) -> Any:
        def hear_without_hole(self: Hub, news: Any) -> None:
            followed = self._channels.get(news.channel)
            if followed is not None and followed.order is not None and news.first > followed.order.position + 1:
                followed.order.position = news.first - 1
                followed.restart_ledger(followed.order.position)
                for level in (level for levels in followed.levels.values() for level in levels):
                    level.position = followed.order.position
            hear(self, news)

        return hear_without_hole

    _spoil(Hub, "hear", without_hole)
    _lose_announcements(0.1)


@mutant
def jump_without_reading() -> None:
    """Announcements are lost, and the hole that stays is given up: those who are level never read what was in it."""
    from realtime.hub import Hub

    _lose_announcements(0.1)

    def jump(self: Hub, followed: Any, order: Any) -> None:
        order.jump()
        followed.restart_ledger(order.position)
        for level in (level for levels in followed.levels.values() for level in levels):
            level.position = order.position

    Hub._jump = jump  # type: ignore[method-assign]


@mutant
def log_dedupe_off() -> None:
    """Ids that are stored already are not looked at. The unique constraint is led astray, or it would save the day."""
    from realtime.log import rounds

    decide, fresh = rounds.decide, itertools.count()

    def decide_blindly(appends: Any, look: Any, clock_ms: int) -> Any:
        decision = decide(appends, look._replace(known=[]), clock_ms)
        rows = [(*row[:3], f"{time.time_ns():x}-{next(fresh)}", *row[4:]) for row in decision.writes.rows]
        decision.writes = decision.writes._replace(rows=rows)
        return decision

    rounds.decide = decide_blindly


@mutant
def announced_twice() -> None:
    """The hub passes some news on twice."""
    from realtime.hub import Hub

    deliver, dice = Hub._deliver, random.Random(2)

    def deliver_twice(self: Hub, followed: Any, frames: Any) -> None:
        frames = list(frames)
        deliver(self, followed, frames)
        if dice.random() < 0.05:
            for encoding, levels in followed.levels.items():
                for subscriber in (subscriber for level in levels for subscriber in level.members):
                    subscriber.sink.write(encoding.encode(frames))

    Hub._deliver = deliver_twice  # type: ignore[method-assign]


@mutant
def window_plus_one() -> None:
    """One message more in flight than was agreed."""
    from realtime.delivery.window import Window

    init = Window.__init__

    def init_larger(self: Window, size: int, most_bytes: int, position: int) -> None:
        init(self, size + 1 if size else 0, most_bytes, position)

    Window.__init__ = init_larger  # type: ignore[method-assign]


@mutant
def head_before_dedupe() -> None:
    """Known messages are counted before they are recognised: the head moves on and leaves a hole."""
    from realtime.log import rounds

    decide = rounds.decide

    def decide_early(appends: Any, look: Any, clock_ms: int) -> Any:
        known = [row[0] for row in look.known]
        logs = [log._replace(head=log.head + known.count(log.channel_id)) for log in look.logs]
        return decide(appends, look._replace(logs=logs), clock_ms)

    rounds.decide = decide_early


@mutant
def published_before_commit() -> None:
    """Publishers are answered, and a little later the round is committed."""
    from realtime import worker
    from realtime.log import rounds, sql

    decide = rounds.decide
    decisions: list[Any] = []
    on_round = worker.Worker._on_round
    told: set[Any] = set()

    def decide_and_keep(appends: Any, look: Any, clock_ms: int) -> Any:
        decision = decide(appends, look, clock_ms)
        decisions[:] = [decision]
        return decision

    def on_round_once(self: Any, appends: Any, news: Any) -> None:
        rest = [append for append in appends if append not in told]
        told.difference_update(appends)
        on_round(self, rest, news)

    def answering_first(dialect: type[sql.Sqlite] | type[sql.Postgres]) -> None:
        store = dialect.store

        def answer_then_store(self: Any, cursor: Any, writes: Any) -> None:
            running, (decision,) = worker.current(), decisions
            if running is not None:
                for append, outcome in decision.outcomes.items():
                    append.settle(outcome)
                running._on_round(list(decision.outcomes), [])
                told.update(decision.outcomes)
                time.sleep(0.3)
            store(self, cursor, writes)

        dialect.store = answer_then_store  # type: ignore[method-assign]

    rounds.decide = decide_and_keep
    worker.Worker._on_round = on_round_once  # type: ignore[method-assign]
    answering_first(sql.Sqlite)
    answering_first(sql.Postgres)


@mutant
def resume_plus_one() -> None:
    """Whoever resumes misses the first message after his position."""
    from realtime.delivery import recovery

    resume = recovery.resume

    def resume_later(epoch: str | None, serial: int, bounds: recovery.Bounds) -> recovery.Plan:
        plan = resume(epoch, serial, bounds)
        return recovery.Plan(min(plan.serial + 1, bounds.head), plan.skip)

    recovery.resume = resume_later


@mutant
def resume_plus_one_in_secret() -> None:
    """The same, while `attached` says what was asked for."""
    from realtime.hub import Hub
    from realtime.protocol.positions import Resume

    begin = Hub.begin

    def begin_later(self: Hub, subscriber: Any) -> None:
        if isinstance(subscriber.attaching.position, Resume) and subscriber.position < subscriber.followed.bounds.head:
            subscriber.position += 1
        begin(self, subscriber)

    Hub.begin = begin_later  # type: ignore[method-assign]


@mutant
def retention_untold() -> None:
    """What retention took is passed over without a `skipped`."""
    from realtime.links import SocketLink

    send = SocketLink.send

    def send_others(self: SocketLink, frame: dict[str, object]) -> None:
        if frame["type"] != "skipped":
            send(self, frame)

    SocketLink.send = send_others  # type: ignore[method-assign]


@mutant
def retention_unheeded() -> None:
    """What retention took is delivered for as long as its rows are there."""
    from realtime.delivery import recovery

    recovery.skip_of = lambda position, bounds: None


@mutant
def blocks_mixed_up() -> None:
    """Blocks are cached by serial alone: a channel may get what another one has there."""
    from realtime.hub import Followed

    Followed.log_key = property(lambda self: (0, "all"))  # type: ignore[assignment,method-assign]


@mutant
def order_swapped() -> None:
    """Two messages that came together are written in the wrong order."""
    from realtime.hub import Hub

    deliver = Hub._deliver

    def deliver_backwards(self: Hub, followed: Any, frames: Any) -> None:
        deliver(self, followed, list(frames)[::-1])

    Hub._deliver = deliver_backwards  # type: ignore[method-assign]


@mutant
def chain_ignored() -> None:
    """Appends of one connection are stored in another order than they were sent."""
    from realtime.log.writer import LogWriter

    take = LogWriter._take

    def take_backwards(self: LogWriter) -> Any:
        taken = take(self)
        if taken is None:
            return None
        since, batch = taken
        for append in batch:
            append.previous = None
        return since, batch[::-1]

    LogWriter._take = take_backwards  # type: ignore[method-assign]


# -- transports -------------------------------------------------------------------------------------------------------


@mutant
def last_event_id_plus_one() -> None:
    """Who comes back with the id of his last event begins one message too late."""
    from realtime.transports.http import Request

    def one_more(post_init: Any) -> Any:
        def read(self: Request) -> None:
            post_init(self)
            before, dot, serial = self.headers.get("last-event-id", "").rpartition(".")
            if dot:
                self.headers["last-event-id"] = f"{before}.{int(serial) + 1}"

        return read

    _spoil(Request, "__post_init__", one_more)


@mutant
def poll_acked_too_early() -> None:
    """The last frame of a poll's answer is left out, and its position counts as told."""
    from realtime.transports import polls
    from realtime.transports.links import PollLink

    def shortened(body: Any) -> Any:
        def leave_out(link: PollLink, running: Any) -> bytes:
            if len(link.frames) > 1:
                link.frames.pop()
            made: bytes = body(link, running)
            return made

        return leave_out

    _spoil(polls, "_body", shortened)


@mutant
def session_loses_a_frame_when_it_moves() -> None:
    """What waited for a SockJS session's next request begins with its second frame."""
    from realtime.transports.sockjs import Session

    def lossy(begun: Any) -> Any:
        def begin(self: Session) -> None:
            if len(self._outbox) > 1:
                self._outbox.popleft()
            begun(self)

        return begin

    _spoil(Session, "begun", lossy)


@mutant
def posts_unordered() -> None:
    """Every post counts as the next one."""
    from realtime import upstreams

    _spoil(upstreams, "reached", lambda reached: lambda client, name: 1_000_000_000)


# -- several workers --------------------------------------------------------------------------------------------------


@mutant
def news_lost_and_sweep_off() -> None:
    """What other workers announce is not heard, and nobody compares the heads with the log."""
    from realtime.backplane import Line
    from realtime.hub import Hub

    _spoil(Line, "_take", lambda take: lambda self, message: None)
    _spoil(Hub, "sweep", lambda sweep: lambda self: None)


@mutant
def deaf_since_the_layer_failed() -> None:
    """A worker that once took the layer for dead never listens to it again; the sweep is all that it has left."""
    from realtime import backplane

    deaf: set[Any] = set()
    backplane.SUSPECT_S = 1.5  # so that a short run sees it

    def until_it_failed(take: Any) -> Any:
        def take_some(self: backplane.Line, message: object) -> None:
            if self.suspect:
                deaf.add(self)
            if self not in deaf:
                take(self, message)

        return take_some

    _spoil(backplane.Line, "_take", until_it_failed)


@mutant
def never_suspicious() -> None:
    """A layer that carries nothing is never noticed: the log is looked at no more often than with one that does."""
    from realtime.backplane import Line

    _spoil(Line, "suspect", lambda suspect: property(lambda self: False))


@mutant
def attached_from_memory() -> None:
    """Where a channel is followed already, an attach is answered from what this worker has heard, not from the log."""
    from realtime.hub import Hub
    from realtime.log.types import LogState

    class Memory:
        def __init__(self, hub: Hub) -> None:
            self._hub = hub

        def state(self, channel: Any, done: Callable[[Any], None]) -> None:
            followed = self._hub._channels[channel]
            assert followed.order is not None
            bounds = followed.bounds
            known = LogState(followed.channel_id, followed.epoch, bounds.oldest, followed.order.position, 0)
            self._hub._loop.call_soon(done, known)

    def from_memory(attach: Any) -> Any:
        def attach_from_memory(self: Hub, attaching: Any, *rest: Any) -> Any:
            followed = self._channels.get(attaching.channel)
            reader = self._reader
            if followed is not None and followed.order is not None and followed.epoch is not None:
                self._reader = Memory(self)  # type: ignore[assignment]
            try:
                return attach(self, attaching, *rest)
            finally:
                self._reader = reader

        return attach_from_memory

    _spoil(Hub, "attach", from_memory)


@mutant
def logs_unlocked() -> None:
    """Two workers give serials of one channel at the same time."""
    from realtime.log import rounds, sql

    _spoil(sql, "_LOCK", lambda lock: lock.replace("FOR NO KEY UPDATE", "FOR KEY SHARE"))
    # So long, that they meet.
    _spoil(rounds, "decide", lambda decide: _slowed(decide, 0.05))


@mutant
def drain_drops_what_was_accepted() -> None:
    """A worker that leaves sends its clients away without waiting for what they have published."""
    from realtime.connection import Connection
    from realtime.log import rounds

    def at_once(leave: Any) -> Any:
        def leave_at_once(self: Connection) -> None:
            self._appends.clear()
            self._publishing.clear()
            leave(self)

        return leave_at_once

    _spoil(Connection, "leave", at_once)
    # So long, that something is under way.
    _spoil(rounds, "decide", lambda decide: _slowed(decide, 0.3))


@mutant
def supervisor_restarts_nobody() -> None:
    """A worker that ended stays away."""
    from realtime.server.supervisor import Supervisor

    def only(mind: Any) -> Any:
        def mind_only(self: Supervisor, slot: Any, now: float) -> None:
            mind(self, slot, now)
            if slot.process is None:
                slot.start_at = now + 3600

        return mind_only

    _spoil(Supervisor, "_mind_process", only)


@mutant
def outbox_deleted_before_it_is_relayed() -> None:
    """Rows leave the outbox in one transaction, and get their serials in the next."""
    from realtime.log import outbox

    def for_good(take: Any) -> Any:
        def take_for_good(cursor: Any, *rest: Any) -> Any:
            other = cursor.db.copy()
            with other.cursor() as beside:
                rows = take(beside, *rest)
                outbox._delete(beside, [row[0] for row in rows])
            other.close()
            time.sleep(1 if rows else 0)
            return rows

        return take_for_good

    _spoil(outbox, "_take", for_good)


@mutant
def outbox_relayed_backwards() -> None:
    """What waits in the outbox gets its serials in the wrong order."""
    from realtime.log import outbox

    _spoil(outbox, "_take", lambda take: lambda *given: take(*given)[::-1])


@mutant
def outbox_beside_the_transaction() -> None:
    """An application's message is written on a connection of its own, and stays when the transaction is rolled back."""
    from django.db import connections

    from realtime.conf import settings
    from realtime.log import outbox

    def beside(put: Any) -> Any:
        def put_beside(*message: Any) -> None:
            def work() -> None:
                put(*message)
                connections[settings.DATABASE].close()

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

        return put_beside

    _spoil(outbox, "put", beside)


@mutant
def restores_unnoticed() -> None:
    """Nobody asks whether the database is the one that it was."""
    from realtime.log import rounds

    _spoil(rounds, "dialect_of", lambda real: lambda connection, *, guarded: real(connection, guarded=False))
    restores_untold()


@mutant
def restores_untold() -> None:
    """Rounds ask, and nobody else: logs that are not published to keep their epochs."""
    from realtime.hub import Hub
    from realtime.log import incarnation

    _spoil(incarnation, "current", lambda real: lambda: 1)
    _spoil(incarnation, "relabel", lambda real: lambda **given: True)
    _spoil(Hub, "_doubt", lambda real: lambda self, followed: None)


@mutant
def disks_forgotten() -> None:
    """Workers do not remember how long the server's log was, nor mind a head that fell."""
    from realtime.hub import Hub
    from realtime.log import incarnation

    incarnation._Memory.is_told = False
    _spoil(Hub, "_doubt", lambda real: lambda self, followed: None)


def main() -> None:
    name, arguments = sys.argv[1], sys.argv[2:]
    django.setup()
    from realtime.server import supervisor

    def command_of_worker(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "tests.e2e.mutant_serve", name, *arguments[1:]]  # without "serve"

    supervisor.manage_command = command_of_worker
    MUTANTS[name]()
    execute_from_command_line(["manage.py", "serve", *arguments])


if __name__ == "__main__":
    main()
