from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections
from django.test import override_settings

from realtime import checks
from tests.servers import free_port

SECRET = "s" * 32
POSTGRES = "django.db.backends.postgresql"
SQLITE = "django.db.backends.sqlite3"
MEMORY: dict[str, Any] = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


def redis_layer(*hosts: object) -> dict[str, Any]:
    return {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": list(hosts)}}}


def ids(found: list[CheckMessage]) -> list[str]:
    # A finding without a remedy is half a finding.
    assert all(message.hint for message in found)
    return [str(message.id) for message in found]


def realtime(**keys: object) -> override_settings:
    return override_settings(REALTIME=keys)


def test_the_settings_of_the_tests_themselves_have_no_fault() -> None:
    assert run_checks(tags=[checks.TAG]) == []


def test_a_database_and_a_layer_that_are_not_defined_are_named() -> None:
    with realtime(DATABASE="logs", CHANNEL_LAYER="news"):
        assert ids(checks.check_aliases()) == ["realtime.E001", "realtime.E002"]


def test_several_workers_are_refused_on_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_engine", lambda: SQLITE)
    with realtime(WORKERS=2), override_settings(CHANNEL_LAYERS=redis_layer()):
        assert ids(checks.check_workers()) == ["realtime.E003"]


def test_several_workers_are_refused_without_a_layer_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_engine", lambda: POSTGRES)
    with realtime(WORKERS=2), override_settings(CHANNEL_LAYERS=MEMORY):
        assert ids(checks.check_workers()) == ["realtime.E004"]


def test_several_workers_with_debug_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_engine", lambda: POSTGRES)
    with (
        realtime(WORKERS=2),
        override_settings(CHANNEL_LAYERS=redis_layer(), DEBUG=True),
    ):
        assert ids(checks.check_workers()) == ["realtime.W001"]


def test_several_workers_on_postgresql_and_redis_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_engine", lambda: POSTGRES)
    with realtime(WORKERS=4), override_settings(CHANNEL_LAYERS=redis_layer()):
        assert checks.check_workers() == []


def test_one_worker_needs_neither_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_engine", lambda: SQLITE)
    with realtime(WORKERS=1), override_settings(CHANNEL_LAYERS=MEMORY, DEBUG=True):
        assert checks.check_workers() == []


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"alg": "HS256", "secret": SECRET}, []),
        ({"alg": "HS256", "secret": SECRET[:-1]}, ["realtime.E006"]),
        ({"alg": "HS256", "secret": "ä" * 16}, []),  # bytes count, not characters
        ({"alg": "HS256"}, ["realtime.E006"]),
        ({"alg": "none"}, ["realtime.E005"]),
        ({"secret": SECRET}, ["realtime.E005"]),
        (SECRET, ["realtime.E005"]),
        ({"alg": "EdDSA", "secret": SECRET}, ["realtime.E005"]),
        ({"alg": "ES256", "public_key": "-----BEGIN PUBLIC KEY-----"}, []),
    ],
)
def test_a_signing_key_must_be_long_enough_and_of_a_known_kind(key: object, expected: list[str]) -> None:
    with realtime(SIGNING_KEYS={"default": {"alg": "HS256", "secret": SECRET}, "k2": key}):
        assert ids(checks.check_signing_keys()) == expected


def test_a_site_without_a_secret_key_is_refused_at_start() -> None:
    with override_settings(SECRET_KEY=""):
        assert ids(checks.check_secret_key()) == ["realtime.E014"]


def test_a_site_without_signing_keys_is_told_what_does_not_work() -> None:
    with realtime(SIGNING_KEYS={}):
        assert ids(checks.check_signing_keys()) == ["realtime.W002"]


@pytest.mark.parametrize(
    ("major", "host", "expected"),
    [
        (7, "redis://localhost", []),
        (8, "redis://localhost", ["realtime.E007"]),
        (8, ("localhost", 6379), ["realtime.E007"]),
        (8, {"address": "redis://localhost"}, ["realtime.E007"]),
        (8, {"address": "redis://localhost", "socket_timeout": None}, ["realtime.E007"]),
        (8, {"address": "redis://localhost", "socket_timeout": 5, "max_connections": 1000}, ["realtime.E007"]),
        (8, {"address": "redis://localhost", "socket_timeout": None, "max_connections": 1000}, []),
        (8, {"address": "redis://localhost", "socket_timeout": 30, "max_connections": 2000}, []),
    ],
)
def test_redis_py_8_is_refused_with_its_own_defaults(
    monkeypatch: pytest.MonkeyPatch, major: int, host: object, expected: list[str]
) -> None:
    monkeypatch.setattr(checks, "_redis_major", lambda: major)
    with override_settings(CHANNEL_LAYERS=redis_layer({"socket_timeout": None, "max_connections": 1000}, host)):
        assert ids(checks.check_redis()) == expected


@pytest.mark.parametrize(
    "path", ["realtime.tokens.no_such_name", "no_such_module.name", "realtime.conf.settings", "word"]
)
def test_the_function_that_names_clients_must_exist(path: str) -> None:
    with realtime(USER_CLIENT_ID=path):
        assert ids(checks.check_client_ids()) == ["realtime.E015"]


def test_redis_py_8_is_refused_when_no_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_redis_major", lambda: 8)
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}):
        assert ids(checks.check_redis()) == ["realtime.E007"]


def test_no_allowed_host_is_refused_unless_debugging() -> None:
    with override_settings(ALLOWED_HOSTS=[], DEBUG=False):
        assert ids(checks.check_hosts()) == ["realtime.E008"]
    with override_settings(ALLOWED_HOSTS=[], DEBUG=True):
        assert checks.check_hosts() == []


@pytest.mark.parametrize("origin", ["https://app.example.org", "http://localhost:3000", "capacitor://localhost"])
def test_an_origin_is_scheme_host_and_port(origin: str) -> None:
    with realtime(ORIGINS=[origin]):
        assert checks.check_hosts() == []


@pytest.mark.parametrize(
    "origin",
    ["*", "app.example.org", "https://*.example.org", "https://example.org/", "https://a@example.org", "http://x:y", 7],
)
def test_what_no_browser_would_send_as_an_origin_is_refused(origin: object) -> None:
    with realtime(ORIGINS=[origin]):
        assert ids(checks.check_hosts()) == ["realtime.E009"]


@pytest.mark.parametrize(
    "keys",
    [
        {"MAX_MESSAGE_BYTES": 1_048_576},
        {"MAX_MESSAGE_BYTES": 100_000, "ROUND_MAX_BYTES": 99_999},
        {"ROUND_MAX_MESSAGES": 20_001},
        {"ROUND_MAX_BYTES": 65 * 1024 * 1024},
    ],
)
def test_sizes_that_do_not_fit_into_each_other_are_refused(keys: dict[str, int]) -> None:
    with realtime(**keys):
        assert ids(checks.check_sizes()) == ["realtime.E010"]


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
def test_sqlite_as_configured_is_durable() -> None:
    assert checks.check_durability(databases=["default"]) == []


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("pragma", "expected"),
    [
        ("PRAGMA synchronous=NORMAL", ["realtime.E012"]),
        ("PRAGMA synchronous=OFF", ["realtime.E012"]),
        ("PRAGMA synchronous=EXTRA", []),
        ("PRAGMA journal_mode=DELETE", ["realtime.E011"]),
    ],
)
def test_sqlite_that_would_forget_or_block_is_refused(pragma: str, expected: list[str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(pragma)
    try:
        assert ids(checks.check_durability(databases=["default"])) == expected
    finally:
        connection.close()  # the next one runs init_command again


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("value", "expected"), [("on", []), ("off", ["realtime.E013"]), ("local", [])])
def test_postgresql_that_answers_before_it_wrote_is_refused(value: str, expected: list[str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET synchronous_commit = {value}")
    try:
        # The server of the tests runs with fsync off, and is told so.
        assert ids(checks.check_durability(databases=["default"])) == [*expected, "realtime.W004"]
    finally:
        connection.close()


@pytest.mark.postgres
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("forbidden", "expected"),
    [
        (["pg_walfile_name(pg_lsn)"], []),
        (["pg_walfile_name(pg_lsn)", "pg_control_checkpoint()"], ["realtime.W006"]),
    ],
)
def test_postgresql_that_does_not_tell_its_timeline_is_a_warning(forbidden: list[str], expected: list[str]) -> None:
    with connection.cursor() as cursor:
        for function in forbidden:
            cursor.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        cursor.execute("CREATE ROLE restricted")
        cursor.execute("SET LOCAL ROLE restricted")
    assert ids(checks.check_durability(databases=["default"])) == ["realtime.W004", *expected]


@pytest.mark.sqlite  # opens no connection but its own; once is enough
@pytest.mark.django_db
def test_a_database_that_is_away_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    away = connections.create_connection("default")
    from django.db.backends.postgresql.base import DatabaseWrapper

    away = DatabaseWrapper(
        {**away.settings_dict, "HOST": "127.0.0.1", "PORT": str(free_port()), "USER": "x", "NAME": "x", "OPTIONS": {}}
    )
    monkeypatch.setattr(checks, "connections", {"default": away})
    assert ids(checks.check_durability(databases=["default"])) == ["realtime.W003"]


def test_the_database_is_asked_only_when_django_says_so() -> None:
    # No database fixture here: a query would fail the test.
    assert checks.check_durability(databases=None) == []
    assert checks.check_durability(databases=["other"]) == []


def test_a_server_without_a_command_refuses_in_one_sentence_per_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_durability", lambda **_: [])
    with (
        realtime(WORKERS=2, DATABASE="logs"),
        override_settings(CHANNEL_LAYERS=MEMORY, ALLOWED_HOSTS=[]),
        pytest.raises(ImproperlyConfigured) as refused,
    ):
        checks.refuse()
    assert {line.split(":")[0] for line in str(refused.value).splitlines()} >= {
        "realtime.E001",
        "realtime.E004",
        "realtime.E008",
    }
    assert "Set REDIS_URL" in str(refused.value)
