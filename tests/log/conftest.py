"""Fixtures of the log's tests. Everything here commits: rounds, threads and processes have to see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connection

from realtime.models import Namespace
from tests.log.world import Saved, accept_rows, execute, refuse_rows


@pytest.fixture
def log(transactional_db: None) -> None:
    """An empty log and the namespace `default`, which the flush before took away."""
    Namespace.objects.get_or_create(name="default")


@pytest.fixture
def refusing_rows(log: None) -> Iterator[None]:
    """The database refuses messages with an id that begins with "bad"."""
    refuse_rows()
    yield
    accept_rows()


@pytest.fixture
def saved(log: None, tmp_path: Path) -> Iterator[Callable[[], Saved]]:
    """Makes a copy of the log's tables, to go back to."""
    yield lambda: Saved(tmp_path)
    if connection.vendor == "postgresql":
        execute("DROP SCHEMA IF EXISTS saved CASCADE")
