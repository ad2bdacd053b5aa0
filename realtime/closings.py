"""Channels that an operator has closed: nobody attaches or publishes to them until they are opened again.

A closed channel is one on which nobody has rights (`realtime.authorization` answers `forbidden`), so that attachments
end as they do when rights are taken away. Its log stays and can be read. The names are in memory of every worker,
which reads them again when it hears of a change, and every second. docs/how-to/operate.md.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from django.db import Error, transaction
from django.utils import timezone

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.models import Channel
from realtime.namespaces import read_again_if_broken
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName

__all__ = ["close", "closed", "is_closed", "load", "on_change", "on_stale", "open_again", "refresh", "stale"]

logger = logging.getLogger("realtime.closings")

FRESH_S: Final = 1.0
REFRESHER_GONE_S: Final = 5.0

_names: frozenset[str] = frozenset()
_read_at = -math.inf
_refreshed_at = -math.inf
_loading = threading.Lock()
_listeners: list[Callable[[frozenset[str]], None]] = []
_stale_listeners: list[Callable[[], None]] = []


def is_closed(channel: ChannelName) -> bool:
    """Safe on an event loop."""
    _freshen()
    return channel in _names


def closed(channel: ChannelName) -> ProtocolError:
    """What is said to whoever attaches or publishes."""
    return ProtocolError(
        "forbidden",
        f"The channel {channel} is closed.",
        remedy="Try again when an operator has opened it.",
        channel=channel,
    )


def close(channel: ChannelName) -> bool:
    """Closes it on all workers, when the transaction commits; False: it was closed. `not_found` for none. Blocks."""
    return _set(channel, to_closed=True)


def open_again(channel: ChannelName) -> bool:
    """The opposite."""
    return _set(channel, to_closed=False)


def _set(channel: ChannelName, *, to_closed: bool) -> bool:
    alias = settings.DATABASE
    rows = Channel.objects.using(alias).filter(name=channel, namespace__isnull=False)
    with transaction.atomic(using=alias):
        if not rows.filter(closed__isnull=to_closed).update(closed=timezone.now() if to_closed else None):
            if not rows.exists():
                raise ProtocolError("not_found", "There is no channel of this name.", channel=channel)
            return False
        after_commit(stale, using=alias)
        elsewhere.tell("closings", {}, using=alias)
    return True


def _freshen() -> None:
    now = time.monotonic()
    if now - _refreshed_at < REFRESHER_GONE_S or now - _read_at < FRESH_S or elsewhere.on_event_loop():
        return
    if _loading.acquire(blocking=_read_at == -math.inf):
        try:
            load()
        except Error as error:
            logger.warning("Closed channels cannot be read, the old ones go on: %s", error)
        finally:
            _loading.release()


def load() -> None:
    """Reads all names. For threads; a worker calls it before it serves."""
    global _names, _read_at
    read_at = time.monotonic()
    rows = Channel.objects.using(settings.DATABASE).filter(closed__isnull=False)
    names = frozenset(read_again_if_broken(lambda: list(rows.order_by().values_list("name", flat=True))))
    _read_at = read_at
    changed, _names = names ^ _names, names
    if changed:
        for listener in list(_listeners):
            listener(changed)


def refresh() -> None:
    """`load` for a worker's reader thread, every second."""
    global _refreshed_at
    load()
    _refreshed_at = time.monotonic()


def on_change(listener: Callable[[frozenset[str]], None]) -> Callable[[], None]:
    """Call `listener(names)` after a reading that found these closed or open, and not as before, in the thread that
    read; returns what stops it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener) if listener in _listeners else None


def on_stale(listener: Callable[[], None]) -> Callable[[], None]:
    """Call `listener` when channels were closed or opened, here or elsewhere, so that somebody reads them."""
    _stale_listeners.append(listener)
    return lambda: _stale_listeners.remove(listener) if listener in _stale_listeners else None


def stale() -> None:
    """The names in memory are old: also when another process said so. Any thread; reads nothing."""
    global _read_at, _refreshed_at
    _read_at = _refreshed_at = -math.inf
    for listener in list(_stale_listeners):
        listener()


def reset() -> None:
    """Forget everything (tests)."""
    global _names, _read_at, _refreshed_at
    _names, _read_at, _refreshed_at = frozenset(), -math.inf, -math.inf
