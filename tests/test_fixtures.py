"""The fixtures keep what they promise, since every other test believes them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.db import connection

from realtime.conf import settings
from tests.conftest import MS, aeventually, eventually


def rows_of_migrations() -> int:
    return apps.get_model("realtime", "Namespace")._base_manager.filter(name="default").count()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("time", ["first", "second"])
def test_rows_made_by_migrations_are_there_after_every_flush(time: str) -> None:
    assert rows_of_migrations() == 1


@pytest.mark.django_db
def test_rows_made_by_migrations_are_there_without_transactions_too() -> None:
    assert rows_of_migrations() == 1


@pytest.mark.django_db(transaction=True)
def test_a_thread_with_a_connection_of_its_own_sees_the_rows() -> None:
    apps.get_model("realtime", "Namespace")._base_manager.create(name="seen")
    seen: list[bool] = []

    def look() -> None:
        seen.append(apps.get_model("realtime", "Namespace")._base_manager.filter(name="seen").exists())
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.sqlite
@pytest.mark.django_db
def test_sqlite_is_a_file_of_this_process_as_durable_as_the_site_s() -> None:
    assert ":memory:" not in connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone()[0] == "wal"
        cursor.execute("PRAGMA synchronous")
        assert cursor.fetchone()[0] == 2


def test_changing_one_key_of_realtime_keeps_the_others(realtime_settings: Callable[..., None]) -> None:
    realtime_settings(HOLD_MS=5)
    realtime_settings(LINGER_S=1)
    assert (settings.HOLD_MS, settings.LINGER_S) == (5, 1)
    assert django_settings.REALTIME["SIGNING_KEYS"] == settings.SIGNING_KEYS
    assert settings.SIGNING_KEYS


def test_keys_of_realtime_are_given_back_after_the_test() -> None:
    assert settings.HOLD_MS == 30


def test_eventually_returns_what_it_waited_for_and_says_what_it_missed() -> None:
    answers = iter([None, "", "here"])
    assert eventually(lambda: next(answers)) == "here"
    with pytest.raises(AssertionError, match="the postman"):
        eventually(lambda: False, 20 * MS, what="the postman")


async def test_eventually_waits_for_coroutines_too() -> None:
    answers = iter([0, 0, 3])

    async def ask() -> int:
        return next(answers)

    assert await aeventually(ask) == 3
    with pytest.raises(AssertionError, match="False"):
        await aeventually(lambda: False, 20 * MS)
