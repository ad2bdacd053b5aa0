"""What other workers must hear of, said by the modules that change it; `realtime.control` carries it.

The modules that keep what every worker remembers (rights, sessions, namespaces) stand below the log. So they say here
that something changed, and `realtime.control`, which can write to the log, puts its function into `carrier`. The app
imports it when it is ready, so that no process changes anything unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from django.db import DEFAULT_DB_ALIAS, connections


class Carrier(Protocol):
    """See `realtime.control.broadcast`."""

    def __call__(self, event: str, data: Mapping[str, object], *, using: str | None = None) -> None: ...


carrier: Carrier | None = None


def tell(event: str, data: Mapping[str, object], *, using: str | None = None) -> None:
    """Has all other workers hear that something changed, when and if the transaction on `using` commits. Any thread.

    What follows from it in this process is the caller's own business, and must not wait for this.
    """
    if carrier is not None:
        carrier(event, data, using=using)


def after_commit(call: Callable[[], object], *, using: str | None = None) -> None:
    """Calls when the calling thread's transaction on `using` has committed; at once where there is none.

    Unlike Django's `on_commit` it needs no database for that, so it may be used on an event loop, and a database that
    is away keeps nothing from happening here.
    """
    connection = connections[using or DEFAULT_DB_ALIAS]
    if connection.in_atomic_block:
        connection.on_commit(call)
    else:
        call()


def on_event_loop() -> bool:
    """Whether the calling thread runs an event loop, which must not be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
