"""Rows that every request asks for, in memory: namespaces, limits, closed channels, signing keys, revocations.

A `Mirror` holds what a reading made of them. Asking it never touches the database on an event loop. A worker reads
again when it hears of a change (`realtime.control`), and regularly, whatever it heard; a process without one, such as a
shell, reads again when a second has passed. A change is in force at once in the process that made it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from django.db import Error, InterfaceError, OperationalError, connections
from django.db.models import QuerySet

from realtime import elsewhere
from realtime.conf import settings

__all__ = ["Glance", "Mirror", "drop_broken_connections", "read_again_if_broken"]

logger = logging.getLogger("realtime.mirror")

T = TypeVar("T")

FRESH_S: Final = 1.0
"""In a process without a worker: how old what is in memory may be."""

READS_MOST: Final = 5
"""Readings that one call begins when changes come meanwhile; then the next look goes on."""


class Mirror(Generic[T]):
    """One value made of rows, and who is told that it changed. Readings replace the value and never touch the old one,
    and one that found nothing new leaves it: whoever keeps what he made of it compares by identity."""

    def __init__(
        self,
        what: str,
        read: Callable[[], T],
        nothing: T,
        *,
        glance: Callable[[], object] | None = None,
        every_s: float = 0.0,
        refresher_gone_s: float = 5.0,
    ) -> None:
        """`read` asks the database; `nothing` is the value before the first reading. `glance` asks it for all that the
        reading depends on: while that is the same a worker reads no more (see `Glance`). `every_s`: how old a worker
        lets it become that has heard of no change. `refresher_gone_s`: while a worker looks after it requests leave the
        reading to him; if he has not for so long, they take over."""
        self.value = nothing
        self._what = what
        self._read = read
        self._glance = glance
        self._version = 0
        """How often the value was read, changed, or said to be old."""
        self._seen: tuple[int, object] | None = None
        """The version of the value, and what the glance before its reading saw."""
        self._nothing = nothing
        self._every_s = every_s
        self._refresher_gone_s = refresher_gone_s
        self._read_at = -math.inf
        self._refreshed_at = -math.inf
        self._was_read = False
        self._changes = 0
        """How often the value was said to be old, or changed without a reading."""
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._on_change: list[Callable[[T, T], object]] = []
        self._on_stale: list[Callable[[], object]] = []

    # ------------------------------------------------------------------ asking

    def current(self) -> T:
        """The value; on an event loop whatever there is."""
        now = time.monotonic()
        cared_for = now - self._refreshed_at < self._refresher_gone_s
        if cared_for or now - self._read_at < FRESH_S or elsewhere.on_event_loop():
            return self.value
        # One thread reads; the others go on with what there is rather than queue behind it.
        if self._loading.acquire(blocking=not self._was_read):
            try:
                self.load()
            except Error as error:
                # What was known is better than nothing: what needs the database fails by itself.
                logger.warning("%s cannot be read, what was known goes on: %s", self._what, error)
            finally:
                self._loading.release()
        return self.value

    @property
    def is_stale(self) -> bool:
        """Whether it is known to be old."""
        return self._read_at == -math.inf

    # ------------------------------------------------------------------ reading

    def load(self) -> T:
        """Reads now. For threads; a worker does it before it serves. Raises what the database raises."""
        for _ in range(READS_MOST):
            with self._lock:
                self._version += 1
            changes, read_at = self._changes, time.monotonic()
            value = read_again_if_broken(self._read)
            with self._lock:
                if changes != self._changes:
                    continue  # what was changed meanwhile may be newer than what was read
                if self._read_at > read_at:
                    break  # another thread began later and was faster
                before, self._read_at, self._was_read = self.value, read_at, True
                if value == before:
                    break
                self.value = value
            self._tell(before, value)
            break
        return self.value

    def refresh(self, *, now: bool = False) -> bool:
        """`load`, when it is time, for a worker's reader thread, every second; True."""
        moment = time.monotonic()
        if self._glance is not None:
            self._look(moment, self._glance, now=now)
        elif now or moment - self._read_at >= self._every_s:
            self.load()
        self._refreshed_at = moment
        return True

    def _look(self, moment: float, glance: Callable[[], object], *, now: bool) -> None:
        # Before the reading: what is changed in between is in the value, and seen by the next glance.
        seen = read_again_if_broken(glance)
        with self._lock:
            if not now and self._seen == (self._version, seen):
                self._read_at = max(self._read_at, moment)
                return
            version = self._version + 1
        self.load()
        with self._lock:
            # Had somebody else read meanwhile, or changed it, nobody would know which of the two the value is.
            self._seen = (version, seen) if self._version == version else None

    # ------------------------------------------------------------------ changing

    def stale(self) -> None:
        """The value is old: also when another process said so. Any thread; reads nothing."""
        with self._lock:
            self._changes += 1
            self._version += 1
            self._read_at = self._refreshed_at = -math.inf
        for listener in list(self._on_stale):
            _call(listener)

    def change(self, make: Callable[[T], T]) -> None:
        """Puts in what the value becomes by facts that need no reading. Any thread."""
        with self._lock:
            self._changes += 1
            self._version += 1
            before, self.value = self.value, make(self.value)
            after = self.value
        if after != before:
            self._tell(before, after)

    def reset(self) -> None:
        """Forgets everything (tests)."""
        with self._lock:
            self.value, self._was_read = self._nothing, False
            self._version += 1
            self._read_at = self._refreshed_at = -math.inf

    # ------------------------------------------------------------------ telling

    def on_change(self, listener: Callable[[T, T], object]) -> Callable[[], None]:
        """Call `listener(before, after)` when the value became another, in the thread that noticed; returns what stops
        it."""
        return _listen(self._on_change, listener)

    def on_stale(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call `listener` when the value is known to be old, so that somebody reads before the next regular time;
        returns what stops it."""
        return _listen(self._on_stale, listener)

    def _tell(self, before: T, after: T) -> None:
        for listener in list(self._on_change):
            _call(listener, before, after)


def _listen(listeners: list[Any], listener: Any) -> Callable[[], None]:
    listeners.append(listener)

    def stop() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return stop


def _call(listener: Callable[..., object], *arguments: object) -> None:
    try:
        listener(*arguments)
    except Exception:  # one listener's fault must not keep the others on what was
        logger.exception("A listener for changes failed.")


class Glance:
    """The rows of a query, as the database gives them. Compiled once: Django takes ten times as long for that as the
    database for an answer, and it is asked every second. So nothing in the query may depend on the time."""

    def __init__(self, make: Callable[[], QuerySet[Any, Any]]) -> None:
        self._make = make
        self._compiled: dict[str, tuple[str, str, tuple[Any, ...]]] = {}
        """Alias, SQL and parameters, by the database of the platform."""

    def __call__(self) -> object:
        compiled = self._compiled.get(settings.DATABASE)
        if compiled is None:
            rows = self._make()
            compiled = self._compiled[settings.DATABASE] = (rows.db, *rows.query.get_compiler(rows.db).as_sql())
        alias, sql, parameters = compiled
        with connections[alias].cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()


# ---------------------------------------------------------------- connections of long-lived threads


def read_again_if_broken(read: Callable[[], T]) -> T:
    """Call `read`; once more if this thread's database connection had broken since its last use.

    Outside of requests nobody else looks after connections: a thread would fail for ever after a restart of the
    database.
    """
    try:
        return read()
    except (OperationalError, InterfaceError):
        if not drop_broken_connections():
            raise
    return read()


def drop_broken_connections() -> bool:
    """Close this thread's connections that failed and are of no more use; whether there was one. Costs nothing else."""
    dropped = False
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or not connection.errors_occurred or connection.in_atomic_block:
            continue
        if connection.is_usable():
            connection.errors_occurred = False
        else:
            connection.close()
            dropped = True
    return dropped
