"""System checks: combinations that would lose messages, or leak, are refused at start with a remedy.

Each finding has an id (docs/reference/checks.md lists them). The plain checks run with every management command; those
that ask the database are tagged so and run with `migrate` and `check --database`. A server started by other means
calls `refuse()`, which runs both.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, OperationalError, connections, transaction
from django.utils.module_loading import import_string

from realtime.conf import settings
from realtime.delivery.addresses import parse_networks

TAG: Final = "realtime"

# RFC 7518 §3.2: an HMAC key is at least as long as the hash's output.
SECRET_MIN_BYTES: Final = 32
ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")

# A worker holds a handful of connections to Redis; the rest is for threads and shells in the same process.
REDIS_MAX_CONNECTIONS_MIN: Final = 1000
# Longer than the 5 s for which channels_redis lets Redis block.
REDIS_SOCKET_TIMEOUT_MIN_S: Final = 30

_IN_MEMORY_LAYER: Final = "channels.layers.InMemoryChannelLayer"


def refuse() -> None:
    """Run all checks of the platform, those of the database included; raise `ImproperlyConfigured` for any error.

    For ways into the program that run no management command (a foreign ASGI server).
    """
    found = checks.run_checks(tags=[TAG], databases=[settings.DATABASE], include_deployment_checks=False)
    errors = [message for message in found if message.is_serious()]
    if errors:
        raise ImproperlyConfigured("\n".join(f"{error.id}: {error.msg} {error.hint or ''}".strip() for error in errors))


@checks.register(TAG)
def check_aliases(**_: Any) -> list[checks.CheckMessage]:
    """The database and the channel layer that `REALTIME` names exist."""
    found: list[checks.CheckMessage] = []
    if settings.DATABASE not in django_settings.DATABASES:
        found.append(
            checks.Error(
                f"REALTIME['DATABASE'] is {settings.DATABASE!r}, which DATABASES does not have.",
                hint=f"Name one of: {', '.join(django_settings.DATABASES)}.",
                id="realtime.E001",
            )
        )
    if settings.CHANNEL_LAYER not in _channel_layers():
        found.append(
            checks.Error(
                f"REALTIME['CHANNEL_LAYER'] is {settings.CHANNEL_LAYER!r}, which CHANNEL_LAYERS does not have.",
                hint="Define it; channels.layers.InMemoryChannelLayer does for one worker.",
                id="realtime.E002",
            )
        )
    return found


@checks.register(TAG)
def check_workers(**_: Any) -> list[checks.CheckMessage]:
    """Several workers need a database that several processes may write, and a layer that they share."""
    if settings.WORKERS == 1:
        return []
    found: list[checks.CheckMessage] = []
    if _engine().endswith("sqlite3"):
        found.append(
            checks.Error(
                f"{settings.WORKERS} workers on SQLite: writing processes starve each other for minutes.",
                hint="Set DATABASE_URL to a PostgreSQL, or WORKERS=1.",
                id="realtime.E003",
            )
        )
    if _channel_layers().get(settings.CHANNEL_LAYER, {}).get("BACKEND") == _IN_MEMORY_LAYER:
        found.append(
            checks.Error(
                f"{settings.WORKERS} workers with the in-memory channel layer: no news would travel between them.",
                hint="Set REDIS_URL, or WORKERS=1.",
                id="realtime.E004",
            )
        )
    if django_settings.DEBUG:
        found.append(
            checks.Warning(
                f"{settings.WORKERS} workers with DEBUG: each keeps its last 9000 queries in memory and pays for them.",
                hint="Set DEBUG=0 when you measure or serve.",
                id="realtime.W001",
            )
        )
    return found


@checks.register(TAG)
def check_secret_key(**_: Any) -> list[checks.CheckMessage]:
    """Django notices a missing SECRET_KEY only at the first login."""
    try:
        if django_settings.SECRET_KEY:
            return []
    except ImproperlyConfigured:
        pass  # how Django's settings object tells that it is empty
    return [
        checks.Error(
            "SECRET_KEY is not set: nobody could log in.",
            hint="Set SECRET_KEY to the output of: openssl rand -base64 48",
            id="realtime.E014",
        )
    ]


@checks.register(TAG)
def check_signing_keys(**_: Any) -> list[checks.CheckMessage]:
    """Every key can do what it says, and none is so short that it can be guessed."""
    if not settings.SIGNING_KEYS:
        return [
            checks.Warning(
                "REALTIME['SIGNING_KEYS'] is empty: no token can be made or verified; only sessions and API keys work.",
                hint="Set REALTIME_JWT_SECRET to the output of: openssl rand -base64 48",
                id="realtime.W002",
            )
        ]
    return [found for kid, key in settings.SIGNING_KEYS.items() for found in _faults_of_key(kid, key)]


@checks.register(TAG)
def check_identity_providers(**_: Any) -> list[checks.CheckMessage]:
    """Every provider has what it takes to know its tokens from others."""
    from realtime import providers  # needs the apps, which are not loaded when this module is

    try:
        providers.check()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), hint="See docs/how-to/trust-an-identity-provider.md.", id="realtime.E019")]
    return []


def _faults_of_key(kid: str, key: object) -> Iterator[checks.CheckMessage]:
    where = f"REALTIME['SIGNING_KEYS'][{kid!r}]"
    algorithm = key.get("alg") if isinstance(key, Mapping) else None
    if not isinstance(key, Mapping) or algorithm not in ALGORITHMS:
        yield checks.Error(
            f"{where} has no known algorithm.",
            hint=f"Give a dict with `alg`, one of {', '.join(ALGORITHMS)}.",
            id="realtime.E005",
        )
    elif algorithm == "HS256":
        secret = key.get("secret") or ""
        length = len(secret.encode() if isinstance(secret, str) else secret)
        if length < SECRET_MIN_BYTES:
            yield checks.Error(
                f"{where}: the secret has {length} bytes; shorter than {SECRET_MIN_BYTES} it can be found by trying.",
                hint="Set REALTIME_JWT_SECRET to the output of: openssl rand -base64 48",
                id="realtime.E006",
            )
    elif not (key.get("public_key") or key.get("private_key")):
        yield checks.Error(
            f"{where}: {algorithm} needs a key pair.",
            hint="Give `public_key` (PEM), and `private_key` where this site issues tokens.",
            id="realtime.E005",
        )


@checks.register(TAG)
def check_client_ids(**_: Any) -> list[checks.CheckMessage]:
    """The function that names clients exists; otherwise every connection with a session cookie would fail."""
    fault = _fault_of_function(settings.USER_CLIENT_ID)
    if fault is None:
        return []
    return [
        checks.Error(
            f"REALTIME['USER_CLIENT_ID'] {fault}",
            hint="Give the dotted path of a function that takes a user and returns a client id.",
            id="realtime.E015",
        )
    ]


@checks.register(TAG)
def check_token_capability(**_: Any) -> list[checks.CheckMessage]:
    """The function that says what a page's token may do exists; otherwise no page would get a token."""
    fault = None if settings.TOKEN_CAPABILITY is None else _fault_of_function(settings.TOKEN_CAPABILITY)
    if fault is None:
        return []
    return [
        checks.Error(
            f"REALTIME['TOKEN_CAPABILITY'] {fault}",
            hint="Give the dotted path of a function that takes a request and returns a capability or None.",
            id="realtime.E016",
        )
    ]


def _fault_of_function(dotted_path: str) -> str | None:
    try:
        return None if callable(import_string(dotted_path)) else "is no function"
    except ImportError as error:
        return f"cannot be imported: {error}"


@checks.register(TAG)
def check_websocket_path(**_: Any) -> list[checks.CheckMessage]:
    """Sockets can be found: paths of requests begin with a slash."""
    if settings.WEBSOCKET_PATH.startswith("/"):
        return []
    return [
        checks.Error(
            f"REALTIME['WEBSOCKET_PATH'] is {settings.WEBSOCKET_PATH!r}, which no request can ask for.",
            hint="Begin it with a slash, as in /ws.",
            id="realtime.E017",
        )
    ]


@checks.register(TAG)
def check_networks(**_: Any) -> list[checks.CheckMessage]:
    """What stands for an address can be compared with one; a proxy's that cannot, would be everybody's."""
    found: list[checks.CheckMessage] = []
    for name, networks in (
        ("TRUSTED_PROXIES", settings.TRUSTED_PROXIES),
        ("METRICS_NETWORKS", settings.METRICS_NETWORKS),
    ):
        try:
            parse_networks(networks)
        except (ValueError, TypeError) as error:
            found.append(
                checks.Error(
                    f"REALTIME[{name!r}]: {error}.",
                    hint="Give addresses or networks, as in 10.0.0.0/8; bits behind the prefix must be 0.",
                    id="realtime.E018",
                )
            )
    return found


@checks.register(TAG)
def check_order_of_apps(**_: Any) -> list[checks.CheckMessage]:
    """The first app with a command of a name has it: `runserver` should be ours, where it is used."""
    apps = [app.partition(".apps.")[0] for app in django_settings.INSTALLED_APPS]
    staticfiles = "django.contrib.staticfiles"
    if not django_settings.DEBUG or not {"realtime", staticfiles} <= set(apps):
        return []
    if apps.index("realtime") < apps.index(staticfiles):
        return []
    return [
        checks.Warning(
            "django.contrib.staticfiles stands before realtime in INSTALLED_APPS: `runserver` would serve no sockets.",
            hint="Put realtime first.",
            id="realtime.W005",
        )
    ]


@checks.register(TAG)
def check_redis(**_: Any) -> list[checks.CheckMessage]:
    """redis-py 8 has defaults under which an idle channel layer dies after 5 s and joins raise."""
    layer = _channel_layers().get(settings.CHANNEL_LAYER, {})
    if not str(layer.get("BACKEND", "")).startswith("channels_redis.") or _redis_major() < 8:
        return []
    hosts: Sequence[object] = layer.get("CONFIG", {}).get("hosts", [("localhost", 6379)])
    if all(_is_safe_host(host) for host in hosts):
        return []
    return [
        checks.Error(
            "redis-py 8 with its defaults: every idle receive of the channel layer fails after 5 s, and the 101st "
            "connection raises.",
            hint="Install redis<8, or give each host as a dict with socket_timeout None and max_connections 1000.",
            id="realtime.E007",
        )
    ]


@checks.register(TAG)
def check_hosts(**_: Any) -> list[checks.CheckMessage]:
    """Somebody can connect, and only from where it is meant."""
    found: list[checks.CheckMessage] = []
    if not django_settings.DEBUG and not django_settings.ALLOWED_HOSTS:
        found.append(
            checks.Error(
                "ALLOWED_HOSTS is empty and DEBUG is off: every request would be refused.",
                hint="Set ALLOWED_HOSTS to the names of this site, separated by commas.",
                id="realtime.E008",
            )
        )
    for origin in settings.ORIGINS:
        if not _is_origin(origin):
            found.append(
                checks.Error(
                    f"REALTIME['ORIGINS'] has {origin!r}, which is no origin; no page would ever match it.",
                    hint="Write scheme, host and port only, as in https://app.example.org; there is no wildcard.",
                    id="realtime.E009",
                )
            )
    return found


@checks.register(TAG)
def check_sizes(**_: Any) -> list[checks.CheckMessage]:
    """What is smaller by name is smaller in fact."""
    pairs = (
        # A frame carries its message plus names and ids, which may be escaped.
        ("MAX_MESSAGE_BYTES", settings.MAX_MESSAGE_BYTES + 4096, "MAX_FRAME_BYTES", settings.MAX_FRAME_BYTES),
        ("MAX_MESSAGE_BYTES", settings.MAX_MESSAGE_BYTES, "ROUND_MAX_BYTES", settings.ROUND_MAX_BYTES),
        ("ROUND_MAX_MESSAGES", settings.ROUND_MAX_MESSAGES, "WRITER_QUEUE_MESSAGES", settings.WRITER_QUEUE_MESSAGES),
        ("ROUND_MAX_BYTES", settings.ROUND_MAX_BYTES, "WRITER_QUEUE_BYTES", settings.WRITER_QUEUE_BYTES),
    )
    return [
        checks.Error(
            f"REALTIME[{small!r}] does not fit in REALTIME[{large!r}].",
            hint=f"Raise {large} or lower {small}.",
            id="realtime.E010",
        )
        for small, small_value, large, large_value in pairs
        if small_value > large_value
    ]


@checks.register(TAG, checks.Tags.database)
def check_durability(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """`published` means committed to disk: the database must not answer before that."""
    alias = settings.DATABASE
    if not databases or alias not in databases or alias not in django_settings.DATABASES:
        return []
    try:
        vendor = connections[alias].vendor
        if vendor == "sqlite":
            return _faults_of_sqlite(alias)
        if vendor == "postgresql":
            return _faults_of_postgres(alias)
    except OperationalError as error:
        # A server may start while its database is away; it says so on /readyz, and publishers hear `unavailable`.
        return [
            checks.Warning(
                f"The database could not be asked how it commits: {error}",
                hint="Start it, then run: manage.py check --database default",
                id="realtime.W003",
            )
        ]
    return []


def _faults_of_sqlite(alias: str) -> list[checks.CheckMessage]:
    journal, synchronous = _ask(alias, "PRAGMA journal_mode"), _ask(alias, "PRAGMA synchronous")
    found: list[checks.CheckMessage] = []
    # "memory" is a database in memory: nothing of it is meant to last.
    if journal not in ("wal", "memory"):
        found.append(
            checks.Error(
                f"SQLite's journal mode is {journal!r}: readers would block the log writer.",
                hint="Put PRAGMA journal_mode=WAL in OPTIONS['init_command'] (not on a network file system).",
                id="realtime.E011",
            )
        )
    if int(synchronous) < 2:  # 0 OFF, 1 NORMAL, 2 FULL, 3 EXTRA
        found.append(
            checks.Error(
                "SQLite's synchronous is below FULL: a power failure would take back messages that were `published`.",
                hint="Put PRAGMA synchronous=FULL in OPTIONS['init_command'].",
                id="realtime.E012",
            )
        )
    return found


def _faults_of_postgres(alias: str) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
    if _ask(alias, "SHOW synchronous_commit") == "off":
        found.append(
            checks.Error(
                "PostgreSQL's synchronous_commit is off: a crash would take back messages that were `published`.",
                hint="ALTER ROLE <the site's role> SET synchronous_commit = on;",
                id="realtime.E013",
            )
        )
    if _ask(alias, "SHOW fsync") == "off":
        found.append(
            checks.Warning(
                "PostgreSQL's fsync is off: a power failure may destroy the database.",
                hint="Set fsync = on, except on a server for tests.",
                id="realtime.W004",
            )
        )
    if _ask(alias, "SELECT pg_is_in_recovery()") == "False" and not _tells_timeline(alias):
        found.append(
            checks.Warning(
                "PostgreSQL does not tell its timeline: a failover that lost commits is not noticed.",
                hint="Let the site's role execute pg_walfile_name, or run manage.py new_epoch --all after a failover.",
                id="realtime.W006",
            )
        )
    return found


def _tells_timeline(alias: str) -> bool:
    """As `realtime.log.incarnation` asks for it."""
    for question in (
        "SELECT pg_walfile_name(pg_current_wal_insert_lsn())",
        "SELECT timeline_id FROM pg_control_checkpoint()",
    ):
        try:
            with transaction.atomic(using=alias):
                _ask(alias, question)
        except DatabaseError:
            continue
        return True
    return False


def _ask(alias: str, question: str) -> str:
    with connections[alias].cursor() as cursor:
        cursor.execute(question)
        return str(cursor.fetchone()[0])


def _engine() -> str:
    return str(django_settings.DATABASES.get(settings.DATABASE, {}).get("ENGINE", ""))


def _channel_layers() -> dict[str, dict[str, Any]]:
    layers: dict[str, dict[str, Any]] = getattr(django_settings, "CHANNEL_LAYERS", {})
    return layers


def _redis_major() -> int:
    try:
        return int(importlib.metadata.version("redis").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def _is_safe_host(host: object) -> bool:
    if not isinstance(host, Mapping):
        return False
    timeout: float | None = host.get("socket_timeout", 0)
    most: int = host.get("max_connections", 0)
    return (timeout is None or timeout >= REDIS_SOCKET_TIMEOUT_MIN_S) and most >= REDIS_MAX_CONNECTIONS_MIN


def _is_origin(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  (raises for a port that is no number)
    except ValueError:
        return False
    plain = not (parts.path or parts.query or parts.fragment or parts.username)
    return bool(parts.scheme and parts.hostname and plain and "*" not in text)
