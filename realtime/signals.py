"""Django signals of the platform: what was published, who came and went. Receivers are told; they decide nothing.

All receivers of a process run one after another in one thread of their own, never on the event loop, in the log
writer's thread or in the publisher's. So one that blocks delays only other receivers, and one that raises is logged.
The queue before it is bounded: beyond `QUEUE_MOST` signals are dropped, counted and logged. A signal tells of this
process alone and dies with it; whoever must see every message attaches with a cursor instead. See
docs/how-to/use-signals.md.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from typing import Any, Final

from django.db import close_old_connections, connections
from django.dispatch import Signal

from realtime.models import Message
from realtime.protocol.names import is_platform_name

logger = logging.getLogger("realtime.signals")

published = Signal()
"""Messages of one channel were committed by this process. `sender` is `realtime.models.Message`; `channel`, `epoch`,
`serials` (a range of new ones, in order; a message that was known by its id is not among them)."""

connected = Signal()
"""A client was told `ready` by this process. `sender` is its class; `client`, `connection` (the id told in `ready`)."""

disconnected = Signal()
"""A connection that had been `connected` has ended. The same arguments."""

QUEUE_MOST: Final = 10_000
"""Signals that wait for receivers: some seconds of a busy worker, a few MB."""

EXIT_S: Final = 5.0
"""How long a process that ends waits for its receivers."""

DROPS_LOGGED_EVERY_S: Final = 10.0


def send(signal: Signal, sender: type, **arguments: object) -> None:
    """Has the receivers of `signal` called soon. Never blocks; costs nothing where nobody listens."""
    if signal.has_listeners(sender):
        _dispatcher().put(signal, sender, arguments)


def send_published(channel: str, epoch: str, first: int, count: int) -> None:
    """`published` for the new messages of a channel in one round. After its commit, from any thread. Channels of the
    platform itself are its own business."""
    if is_platform_name(channel):
        return
    send(published, Message, channel=channel, epoch=epoch, serials=range(first, first + count))


def dropped() -> int:
    """How many signals of this process its receivers were too slow for."""
    current = _current
    return 0 if current is None else current.dropped


def flush(timeout_s: float = EXIT_S) -> bool:
    """Waits until the receivers have seen everything sent so far; False when that took too long. For tests."""
    current = _current
    return current is None or current.pid != os.getpid() or current.flush(timeout_s)


class _Dispatcher:
    """The thread that calls receivers, and the queue before it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.dropped = 0
        self._queue: deque[tuple[Signal, type, dict[str, Any]]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._logged_at = 0.0
        # A daemon: a receiver that never returns must not keep a process from ending. `_at_exit` waits for a while.
        threading.Thread(target=self._work, name="seriatim-signals", daemon=True).start()

    def put(self, signal: Signal, sender: type, arguments: dict[str, Any]) -> None:
        with self._changed:
            if len(self._queue) < QUEUE_MOST:
                self._queue.append((signal, sender, arguments))
                self._changed.notify_all()
                return
            self.dropped += 1
            now = time.monotonic()
            if now - self._logged_at < DROPS_LOGGED_EVERY_S:
                return
            self._logged_at = now
        logger.error("Receivers of signals are too slow: %d signals were dropped so far.", self.dropped)

    def flush(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout_s)

    def _work(self) -> None:
        while True:
            if not self._queue:
                # Before a pause, not after each signal: to connect again costs milliseconds.
                connections.close_all()
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._queue:
                    self._changed.wait()
                signal, sender, arguments = self._queue.popleft()
                self._busy = True
            try:
                close_old_connections()
                signal.send_robust(sender, **arguments)  # logs what a receiver raises
            except Exception:
                logger.exception("Receivers of a signal could not be called.")


_current: _Dispatcher | None = None
_starting = threading.Lock()


def _dispatcher() -> _Dispatcher:
    global _current
    with _starting:
        # A forked child has the parent's object without its thread.
        if _current is None or _current.pid != os.getpid():
            _current = _Dispatcher()
        return _current


def _new_lock() -> None:
    """A child may be forked while a thread of its parent holds the lock."""
    global _starting
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


@atexit.register
def _at_exit() -> None:
    if not flush(EXIT_S):
        logger.error("Receivers of signals did not finish in time; what waited for them is lost.")
