"""Short transactions that change logs, apart from rounds."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, connections, transaction
from django.db.backends.utils import CursorWrapper

from realtime.conf import settings
from realtime.log.patience import idle_limit, patience
from realtime.log.sql import LOCK_NOT_AVAILABLE, discard, is_away, sqlstate_of
from realtime.protocol.errors import ProtocolError

PATIENCE_MS = 100
"""How long a log may keep somebody waiting that a round holds."""


class LogLocked(ProtocolError):
    """Somebody else held a row for too long."""


def make_epoch() -> str:
    """48 random bits: an epoch must not come back on the same channel."""
    return secrets.token_urlsafe(6)


@contextmanager
def changing(lock_timeout_ms: int) -> Iterator[CursorWrapper]:
    """A short transaction. Raises `LogLocked`, or `unavailable` when the database is away."""
    connection = connections[settings.DATABASE]
    try:
        with patience(connection), transaction.atomic(using=settings.DATABASE), connection.cursor() as cursor:
            if is_postgres(cursor):
                cursor.execute(f"SET LOCAL lock_timeout = {lock_timeout_ms:d}")
                cursor.execute(idle_limit())
            yield cursor
    except DatabaseError as error:
        if sqlstate_of(error) == LOCK_NOT_AVAILABLE:
            raise LogLocked("unavailable", "The log is locked by another transaction.") from error
        if not is_away(error):
            raise
        discard(connection)
        raise ProtocolError("unavailable", "The database cannot be changed at the moment.") from error


def is_postgres(cursor: CursorWrapper) -> bool:
    return str(cursor.db.vendor) == "postgresql"
