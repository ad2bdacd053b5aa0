"""The rules of namespaces, in memory: asked at every request, read from the database once a second at most.

`rules_for` never touches the database on an event loop once the cache is warm. A worker keeps it fresh with `refresh()`
from a reader thread; a process without a worker (shell, tests, a plain WSGI server) reads again when a second has
passed. An operator's change holds at once in the process that made it, as soon as they hear of it in all workers
(`realtime.control`), and within about a second everywhere, heard of or not. What each rule means:
docs/reference/protocol.md#namespaces.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, TypeVar

from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.db.models.signals import post_delete, post_save

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.models import Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, namespace_of

__all__ = [
    "Rules",
    "all_rules",
    "changed_here",
    "is_stale",
    "load",
    "on_change",
    "on_stale",
    "refresh",
    "reset",
    "rules_for",
    "rules_named",
]

logger = logging.getLogger("realtime.namespaces")

T = TypeVar("T")

FRESH_S: Final = 1.0
# While a worker refreshes every second, requests leave the reading to it; if it stops they take over.
REFRESHER_GONE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The fields of `models.Namespace`, typed and ready to use. Two are equal when they rule the same."""

    name: str
    retention_messages: int | None = None
    retention_age_s: int | None = None
    message_ttl_s: int | None = None
    window_default: int = 256
    window_max: int = 1024
    ack_ms: int = 10_000
    cursor_ms: int = 500
    key_limit: int = 1000
    max_message_bytes: int | None = None
    publish_rate: int | None = None
    publish_burst: int | None = None
    create: str = "publish"
    known_ops: frozenset[str] = frozenset()
    anonymous_ops: frozenset[str] = frozenset()
    presence: bool = True
    delta: bool = False
    overflow: str = "hold"

    @property
    def message_limit_bytes(self) -> int:
        """Largest canonical data of a message: the namespace's limit, never above the platform's."""
        if self.max_message_bytes is None:
            return settings.MAX_MESSAGE_BYTES
        return min(self.max_message_bytes, settings.MAX_MESSAGE_BYTES)

    @property
    def publish_burst_count(self) -> int | None:
        """Size of a client's token bucket; None when the rate is unlimited."""
        if self.publish_rate is None:
            return None
        return self.publish_burst or self.publish_rate


@dataclass(frozen=True, slots=True)
class _Snapshot:
    rules: Mapping[str, Rules]
    read_at: float


_snapshot: _Snapshot | None = None
_stale = False
_refreshed_at = -math.inf
_loading = threading.Lock()
_listeners: list[Callable[[], None]] = []
_stale_listeners: list[Callable[[], None]] = []


def rules_for(channel: ChannelName) -> Rules:
    """The rules of a channel's namespace; ProtocolError `not_found` when there is none. Also for the event loop."""
    rules = _current().get(namespace_of(channel))
    if rules is None:
        raise ProtocolError(
            "not_found",
            f"There is no namespace for the channel {channel}.",
            remedy="The operator creates namespaces in the admin.",
            channel=channel,
        )
    return rules


def rules_named(name: str) -> Rules | None:
    """The rules of a namespace by its own name; None when there is none."""
    return _current().get(name)


def all_rules() -> Mapping[str, Rules]:
    """All namespaces by name: one consistent reading, immutable."""
    return _current()


def load() -> Mapping[str, Rules]:
    """Read all namespaces now. For threads; a worker calls it before it serves."""
    global _snapshot, _stale
    # Cleared before the reading: a change that is saved meanwhile sets it again, and the next caller reads again.
    _stale = False
    read_at = time.monotonic()
    rows = read_again_if_broken(lambda: list(Namespace.objects.values(*_COLUMNS)))
    rules: Mapping[str, Rules] = MappingProxyType({row["name"]: _rules(row) for row in rows})
    before = _snapshot
    if before is not None and before.read_at > read_at:
        return rules  # another thread began later and was faster
    _snapshot = _Snapshot(rules, read_at)
    if before is not None and before.rules != rules:
        _tell(_listeners)
    return rules


def refresh() -> Mapping[str, Rules]:
    """`load()` for a worker's reader thread, every second; meanwhile requests never read. Raises DatabaseError."""
    global _refreshed_at
    rules = load()
    _refreshed_at = time.monotonic()
    return rules


def on_change(listener: Callable[[], None]) -> Callable[[], None]:
    """Call `listener` after a reading that found other rules, in the thread that read; returns what stops it."""
    return _listen(_listeners, listener)


def on_stale(listener: Callable[[], None]) -> Callable[[], None]:
    """Call `listener` when rules were changed, here or elsewhere, so that somebody reads them before the next regular
    time; in the thread that noticed. Returns what stops it."""
    return _listen(_stale_listeners, listener)


def _listen(listeners: list[Callable[[], None]], listener: Callable[[], None]) -> Callable[[], None]:
    listeners.append(listener)

    def stop() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return stop


def is_stale() -> bool:
    """Whether rules were changed since the last reading began."""
    return _stale


def changed_here() -> None:
    """The rules in memory are old: also when another process said so. Any thread; reads nothing."""
    _mark_stale()
    _tell(_stale_listeners)


def reset() -> None:
    """Forget everything (tests)."""
    global _snapshot, _stale, _refreshed_at
    _snapshot, _stale, _refreshed_at = None, False, -math.inf


_COLUMNS: Final = tuple(field.name for field in fields(Rules))


def _current() -> Mapping[str, Rules]:
    snapshot = _snapshot
    now = time.monotonic()
    cared_for = now - _refreshed_at < REFRESHER_GONE_S
    if snapshot is not None and not _stale and (cared_for or now - snapshot.read_at < FRESH_S):
        return snapshot.rules
    if elsewhere.on_event_loop():
        if snapshot is not None:
            return snapshot.rules
        raise _cold()
    # One thread reads; the others go on with what there is rather than queue behind it.
    if not _loading.acquire(blocking=snapshot is None):
        return snapshot.rules if snapshot is not None else _current()
    try:
        return load()
    except SynchronousOnlyOperation:
        raise _cold() from None
    except DatabaseError as error:
        if snapshot is None:
            raise ProtocolError(
                "unavailable", "The rules of namespaces cannot be read.", retry_after_ms=1000
            ) from error
        # Old rules are better than none: what needs the database fails by itself.
        logger.warning("Namespaces cannot be read, the old rules go on: %s", error)
        return snapshot.rules
    finally:
        _loading.release()


def _cold() -> ProtocolError:
    return ProtocolError(
        "unavailable",
        "The rules of namespaces are not loaded yet.",
        remedy="Try again shortly; in a program of your own call realtime.namespaces.load() first.",
        retry_after_ms=1000,
    )


def _rules(row: Mapping[str, object]) -> Rules:
    given = dict(row)
    for name in ("known_ops", "anonymous_ops"):
        value = given[name]
        given[name] = (
            frozenset(each for each in value if isinstance(each, str)) if isinstance(value, list) else frozenset()
        )
    return Rules(**given)  # type: ignore[arg-type]  # the columns are the fields, and their types the database's


def _on_saved(*, using: str = "", raw: bool = False, **_: object) -> None:
    _mark_stale()
    # Again on commit: until then other threads read the old rows.
    after_commit(changed_here, using=using or None)
    # While a fixture is loaded no other rows may be written; whoever serves meanwhile finds the rules by looking.
    if not raw:
        elsewhere.tell("namespaces", {}, using=using or None)


def _mark_stale() -> None:
    global _stale
    _stale = True


def _tell(listeners: list[Callable[[], None]]) -> None:
    for listener in list(listeners):
        try:
            listener()
        except Exception:  # one listener's fault must not keep the others on old rules
            logger.exception("A listener for changed namespaces failed.")


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


# Connected on import: who never imports this module has no cache to keep right.
for _signal in (post_save, post_delete):
    _signal.connect(_on_saved, sender=Namespace)
