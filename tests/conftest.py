"""Fixtures and helpers of the whole suite. See docs/how-to/test.md."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.core import serializers
from django.db import transaction
from django.db.models.signals import post_migrate
from django.test import override_settings
from hypothesis import settings as hypothesis_settings

from tests.browser import chromium
from tests.servers import Postgres, Redis, Site, site_environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from pytest_django import DjangoDbBlocker

T = TypeVar("T")

# Hypothesis' deadline is wall-clock time: on a loaded machine it fails tests that are right.
hypothesis_settings.register_profile("seriatim", deadline=None)
hypothesis_settings.load_profile("seriatim")

#: Unit of every timeout in tests, in seconds. Raise it on a slow machine: all timeouts scale.
MS = 0.001

#: How long what is promised "within 2 s" may take here. The promise is for a machine that has time; TEST_SLACK=1 holds
#: the project to it to the letter.
WITHIN_S = 2000 * MS * float(os.environ.get("TEST_SLACK", "3"))

#: What marks a test as one that touches the database: it runs again on PostgreSQL.
_DATABASE_FIXTURES = {
    "db",
    "transactional_db",
    "django_db_reset_sequences",
    "django_db_serialized_rollback",
    "live_server",
}


def heed_ctrl_c() -> None:
    """As `preexec_fn`: what a shell starts in the background ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


_LONG = ("tests/e2e/", "_in_browser.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test that uses the database, and leave out those of the other one, and slow ones unless asked for."""
    wants_slow = "slow" in (config.option.markexpr or "")
    engine = "sqlite" if django_settings.DATABASES["default"]["ENGINE"].endswith("sqlite3") else "postgres"
    other = "postgres" if engine == "sqlite" else "sqlite"
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("django_db") or fixtures & _DATABASE_FIXTURES:
            item.add_marker("database")
        is_slow = item.get_closest_marker("slow") is not None
        (left_out if item.get_closest_marker(other) or (is_slow and not wants_slow) else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    # What waits for servers and browsers first, file by file: with several processes the short ones fill in at the end.
    items.sort(key=lambda item: not any(word in item.path.as_posix() for word in _LONG))


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """Keep the rows that migrations make, such as the default namespace.

    A test with transactions ends with all tables emptied, and the next test, in whatever order, would miss them.
    """
    models = [
        model
        for model in apps.get_models()
        if model._meta.managed and model._meta.app_label in ("realtime", "chat", "dashboards")
    ]
    # Which database this is cannot be restored; it is written anew by itself.
    models.remove(apps.get_model("realtime", "Incarnation"))
    with django_db_blocker.unblock():
        rows = serializers.serialize("json", [row for model in models for row in model._base_manager.all()])

    def restore(using: str, **_: object) -> None:
        with transaction.atomic(using):
            for row in serializers.deserialize("json", rows, using=using):
                row.save(using=using)

    # Emptying the tables ends with this signal. Kept by a strong reference: nobody else holds the function.
    post_migrate.connect(restore, sender=apps.get_app_config("realtime"), weak=False)


def eventually(
    predicate: Callable[[], T], timeout_s: float = 30_000 * MS, *, every_s: float = 5 * MS, what: str = ""
) -> T:
    """Wait until `predicate()` is true and return its value; fail with what it last returned.

    Blocks the thread: in a coroutine use `aeventually`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"not within {timeout_s} s: {what or inspect.getsource(predicate).strip()} (last {value!r})"
            )
        time.sleep(every_s)


@overload
async def aeventually(
    predicate: Callable[[], Coroutine[Any, Any, T]], timeout_s: float = ..., *, every_s: float = ..., what: str = ...
) -> T: ...
@overload
async def aeventually(
    predicate: Callable[[], T], timeout_s: float = ..., *, every_s: float = ..., what: str = ...
) -> T: ...
async def aeventually(
    predicate: Callable[[], Any], timeout_s: float = 30_000 * MS, *, every_s: float = 5 * MS, what: str = ""
) -> Any:
    """`eventually` for coroutines; the predicate may be one itself."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = predicate()
        value: Any = await result if inspect.isawaitable(result) else result
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"not within {timeout_s} s: {what or inspect.getsource(predicate).strip()} (last {value!r})"
            )
        await asyncio.sleep(every_s)


@pytest.fixture
def realtime_settings() -> Iterator[Callable[..., None]]:
    """Change keys of `REALTIME` for one test, keeping the others: `realtime_settings(HOLD_MS=5)`."""
    active: list[override_settings] = []

    def change(**keys: object) -> None:
        override = override_settings(REALTIME={**django_settings.REALTIME, **keys})
        override.enable()
        active.append(override)

    yield change
    for override in reversed(active):
        override.disable()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL for tests that start processes of their own; ask it for a fresh database each time.

    Not the database of the Django test run: that one is chosen by DATABASE_URL (`python -m tests.servers`).
    """
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis shared by the tests of this process: leave it running, and use names of your own."""
    with Redis() as server:
        yield server


@pytest.fixture
def own_redis_server() -> Iterator[Redis]:
    """A Redis that the test may kill, pause and restart."""
    with Redis() as server:
        yield server


@pytest.fixture
def own_postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL that the test may kill and restart."""
    with Postgres() as server:
        yield server


@pytest.fixture(name="site_environment")
def _site_environment(tmp_path: Path) -> dict[str, str]:
    """Environment of a `manage.py` process with a SQLite file of its own; not migrated yet."""
    return site_environment(tmp_path)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site in a process of its own (SQLite, one worker), for a module of tests. `with Site(…)` for another kind."""
    with Site() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for a module of browser tests. Open a context or page of your own; `tests.browser.complaints` listens.

    Playwright's synchronous API keeps an event loop in this thread. So the module has no coroutine tests, and its
    rows are made by the site's own process (`manage.py`), not by the ORM here. Module scope lets the others run.
    """
    with chromium() as running:
        yield running
