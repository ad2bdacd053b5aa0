"""Patience with the database: a call of the platform's threads that takes too long has its connection cut.

A database can fall silent without a word: packets are dropped, a proxy hangs, a disk stands. The kernel notices the
first (`keepalives`, `tcp_user_timeout` in OPTIONS), nobody the others, and the driver waits for ever. So one thread of
the process looks at the calls that are open, and shuts the socket of one that is late; the call then fails as if the
server had gone, which every caller survives. Connecting has its own limit (`connect_timeout`).

PostgreSQL alone: SQLite's waits are bounded by its `timeout`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper

from realtime.conf import settings

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""How often open calls are looked at: how much later than due one may be cut."""


@dataclass(slots=True, eq=False)
class _Call:
    connection: BaseDatabaseWrapper
    due: float
    cut: bool = False


_calls: dict[int, _Call] = {}
"""Open calls by identity. Each is put and removed by its own thread."""

_starting = threading.Lock()
_looking: threading.Thread | None = None


@contextlib.contextmanager
def patience(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """What is done inside, with a connection of the calling thread, ends within `DATABASE_TIMEOUT_S`, if need be with
    an OperationalError. For one transaction or one read; calls may nest, and then the outer limit holds, too."""
    if connection.vendor != "postgresql":
        yield
        return
    if _looking is None:
        _start()
    call = _Call(connection, time.monotonic() + settings.DATABASE_TIMEOUT_S)
    _calls[id(call)] = call
    try:
        yield
    finally:
        del _calls[id(call)]


def idle_limit() -> str:
    """A statement for the begin of a transaction on PostgreSQL that locks rows: the server ends it when we fall silent.

    A process that is stopped, or cut off from the network, in the middle of a round would otherwise keep its channels
    locked for everybody until the server's keepalives notice, by default after two hours.
    """
    return f"SET LOCAL idle_in_transaction_session_timeout = {settings.DATABASE_TIMEOUT_S * 1000:d}"


def _start() -> None:
    global _looking
    with _starting:
        if _looking is None:
            _looking = threading.Thread(target=_look, name="seriatim-patience", daemon=True)
            _looking.start()


def _look() -> None:
    while True:
        time.sleep(LOOK_EVERY_S)
        now = time.monotonic()
        for call in list(_calls.values()):
            # Again at each look: it may have connected anew meanwhile.
            if now > call.due and _cut(call.connection) and not call.cut:
                call.cut = True
                logger.warning(
                    "The database has not answered for %d s; the connection is cut off.", settings.DATABASE_TIMEOUT_S
                )


def _cut(connection: BaseDatabaseWrapper) -> bool:
    """Shuts the socket from another thread; False while there is none."""
    driver = connection.connection
    if driver is None:
        return False
    try:
        duplicate = socket.socket(fileno=os.dup(driver.fileno()))
    except Exception:
        # Closed by its own thread in this moment.
        return False
    with duplicate:
        # Still open behind the copy: so it was the driver's socket that was copied, not one that got its number since.
        if driver.closed:
            return False
        with contextlib.suppress(OSError):
            duplicate.shutdown(socket.SHUT_RDWR)
    return True


def _after_fork() -> None:
    """In a child: the thread is not there, and the calls are not ours."""
    global _looking, _starting
    _looking, _starting = None, threading.Lock()
    _calls.clear()


os.register_at_fork(after_in_child=_after_fork)
