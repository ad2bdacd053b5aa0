"""Configuration of the platform: one dict, `REALTIME`, in the site's settings.

This module is the only place that knows a key, its default, its unit and the reason for the default;
docs/reference/settings.md is tested against it. It reads no environment variable (config/settings.py does) and
holds nothing an operator changes at run time: that is a namespace's business (`realtime.namespaces`).

Use `from realtime.conf import settings` and read `settings.HEARTBEAT_MS`. The first read of a key fills the object's
own dict, so later reads cost a plain attribute lookup and hot paths need no copy of their own. Never copy a value to
a module constant: `override_settings(REALTIME=...)` in a test would not reach it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast, overload

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

T = TypeVar("T")

_KIB: Final = 1024
_MIB: Final = 1024 * 1024


class Key(Generic[T]):
    """One key of `REALTIME`: a default, its unit, and why it is what it is.

    A non-data descriptor: once the value is in the instance's dict, Python no longer comes here.
    """

    def __init__(self, default: T, unit: str, reason: str, *, least: int | None = None) -> None:
        self.default = default
        self.unit = unit
        self.reason = reason
        self.least = least
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Key[T]: ...
    @overload
    def __get__(self, instance: Settings, owner: type) -> T: ...
    def __get__(self, instance: Settings | None, owner: type) -> Key[T] | T:
        if instance is None:
            return self
        instance.load()
        return cast("T", instance.__dict__[self.name])

    def checked(self, value: object) -> T:
        """Return `value` when it has the type of the default and is not below `least`; refuse it otherwise."""
        if not self._accepts(value):
            raise ImproperlyConfigured(
                f"REALTIME[{self.name!r}] is {value!r}; expected {self.expects}. "
                f"Correct it in the settings module, or leave the key out for the default {self.default!r}."
            )
        return cast("T", value)

    @property
    def expects(self) -> str:
        """The accepted values in words, for messages and the settings page."""
        if isinstance(self.default, int):
            return f"an integer of at least {self.least or 0} ({self.unit})"
        if self.default is None:
            return "a string or None"
        if isinstance(self.default, str):
            return "a string that is not empty"
        return "a mapping" if isinstance(self.default, Mapping) else "a list"

    def _accepts(self, value: object) -> bool:
        default = self.default
        if isinstance(default, int):
            # bool is an int in Python, and `True` milliseconds is always a mistake.
            return isinstance(value, int) and not isinstance(value, bool) and value >= (self.least or 0)
        if default is None:
            return value is None or (isinstance(value, str) and value != "")
        if isinstance(default, str):
            return isinstance(value, str) and value != ""
        if isinstance(default, Mapping):
            return isinstance(value, Mapping)
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)


# Defaults whose own type would be narrower than what a site may set.
_NO_TEXT = cast("str | None", None)
_NO_KEYS: Mapping[str, Mapping[str, str]] = {}
_NO_PROVIDERS: Mapping[str, Mapping[str, object]] = {}
_NO_ORIGINS: Sequence[str] = ()
_NO_NETWORKS: Sequence[str] = ()


class Settings:
    """The values of `REALTIME`, typed; reset whenever the Django setting changes (tests)."""

    # -- wire limits, told to clients in `ready` ---------------------------------------------------------------------
    HEARTBEAT_MS = Key(
        25_000,
        "milliseconds",
        "Below the 30 s after which common proxies and phone networks drop a silent connection.",
        least=1000,
    )
    MAX_FRAME_BYTES = Key(
        1_048_576, "bytes", "Daphne's and Autobahn's own bound; holds 100 messages of ordinary size.", least=1024
    )
    MAX_MESSAGE_BYTES = Key(
        65_536, "bytes", "Of one message's canonical data; larger things belong in a file store.", least=1
    )
    MAX_ATTACHMENTS = Key(
        200, "attachments per connection", "Bounds what one client can make a worker remember and reauthorise.", least=1
    )
    AUTH_TIMEOUT_MS = Key(
        10_000, "milliseconds", "Time for the first `auth` frame; an unauthenticated socket costs memory.", least=100
    )
    IDLE_MS = Key(
        0,
        "milliseconds",
        "Closes connections that sent nothing for so long; 0 is off: subscribers are silent by nature.",
    )

    # -- tokens and origins ------------------------------------------------------------------------------------------
    TOKEN_MAX_BYTES = Key(
        4096, "bytes", "Checked before any cryptography, so that a large token cannot cost CPU.", least=256
    )
    TOKEN_LEEWAY_S = Key(10, "seconds", "Clocks of issuer and worker may differ by this much; widens exp, nbf and iat.")
    TOKEN_AUDIENCE = Key(_NO_TEXT, "text", "Required `aud` claim; None refuses every token that names an audience.")
    TOKEN_ISSUER = Key(_NO_TEXT, "text", "Required `iss` claim; None does not look at it.")
    SIGNING_KEYS = Key(
        _NO_KEYS,
        "key id → {alg, secret | public_key, private_key}",
        "The algorithm belongs to the key, never to the token. The first key that can sign issues tokens.",
    )
    IDENTITY_PROVIDERS = Key(
        _NO_PROVIDERS,
        "issuer → {jwks, audience, algorithms, prefix, capability}",
        "Whose tokens are taken beside our own, by their claim `iss`. Here and not in the admin: what a server fetches "
        "is for those to say who run it.",
    )
    JWKS_MAX_AGE_S = Key(
        600,
        "seconds",
        "How often a provider's keys are fetched again: a key that it took back is good for so long. Providers publish "
        "a new key hours before they use it.",
        least=1,
    )
    JWKS_REFETCH_S = Key(
        10,
        "seconds",
        "From one fetch to the next for a key that is not known, and after a failure: whoever sends tokens with "
        "invented key ids makes us ask a provider six times a minute, and no more.",
        least=1,
    )
    JWKS_TIMEOUT_S = Key(
        5,
        "seconds",
        "One fetch in all, and who waits for it: half the time that a client has to prove itself.",
        least=1,
    )
    JWKS_MAX_BYTES = Key(262_144, "bytes", "One answer: a hundred keys with their certificates.", least=1024)
    ORIGINS = Key(
        _NO_ORIGINS, "list of origins", "Other sites whose pages may connect; this site itself is always allowed."
    )
    USER_CLIENT_ID = Key(
        "realtime.tokens.client_id_of",
        "dotted path of a function",
        "Maps a Django user to a client id, for connections with the session cookie and for `realtime.views.token`.",
    )
    TOKEN_CAPABILITY = Key(
        _NO_TEXT,
        "dotted path of a function",
        "Maps a request to the capability of the token that `realtime.views.token` gives; None: namespaces decide.",
    )
    TOKEN_TTL_S = Key(
        900, "seconds", "Life of tokens of `realtime.views.token`; short, since the SDK fetches the next one.", least=60
    )

    # -- fallback transports -----------------------------------------------------------------------------------------
    API_PATH = Key("/api/v1", "path", "Where the fallback transports stand, beside the REST interface of the URLconf.")
    QUERY_MAX_BYTES = Key(
        12_288,
        "bytes",
        "Of a request's query: 200 channels of ordinary names with their positions; servers stop at 16 KiB. More goes "
        "into a body or a ticket.",
        least=256,
    )

    SOCKJS_PATH = Key("/sockjs", "path", "Where SockJS is served.")
    SOCKJS_TEST_SERVICES = Key(
        0, "0 or 1", "1 mounts the services of the SockJS protocol's test suite at the root: echo without any checks."
    )
    REQUEST_TIMEOUT_S = Key(
        30,
        "seconds",
        "Within this the head of a request has to come, and its body where it is one of the API: who drips it in holds "
        "a connection for nothing.",
        least=1,
    )
    POLL_WAIT_MS = Key(
        25_000, "milliseconds", "The longest that a poll waits for news: below the 30 s of common proxies.", least=1000
    )
    POLL_HOLD_MS = Key(
        2000,
        "milliseconds",
        "The least that a poll with news takes on a worker at its limits; a calm one answers at once. Within the two "
        "seconds that delivery may take.",
    )
    POLL_BYTES = Key(
        262_144, "bytes", "Frames in one answer to a poll, about; the rest comes with the next.", least=1024
    )
    UPSTREAM_KEPT_S = Key(
        86_400,
        "seconds",
        "How long the number of a client's last post is remembered after it: a laptop's night.",
        least=60,
    )

    # -- the log: writer, rounds, readers ----------------------------------------------------------------------------
    WRITER_QUEUE_MESSAGES = Key(
        20_000,
        "messages",
        "About a second of work for the slowest database measured; beyond it publishers wait.",
        least=1,
    )
    WRITER_QUEUE_BYTES = Key(
        64 * _MIB, "bytes", "The same bound for large messages; memory of a worker whose database is away.", least=_KIB
    )
    ROUND_MAX_MESSAGES = Key(
        2000, "messages", "One transaction; larger rounds gained nothing and hold row locks longer.", least=1
    )
    ROUND_MAX_BYTES = Key(4 * _MIB, "bytes", "One transaction; keeps a round of large messages short.", least=_KIB)
    LOCK_TIMEOUT_MS = Key(
        200, "milliseconds", "How long a round waits for a channel's row before it sets the channel aside.", least=1
    )
    STUCK_CHANNEL_MS = Key(
        2000,
        "milliseconds",
        "How long a set-aside channel is retried before its publishers hear `unavailable`.",
        least=1,
    )
    READER_THREADS = Key(
        2, "threads per worker", "Each holds one database connection; reads are few because they are shared.", least=1
    )
    BLOCK_MESSAGES = Key(
        64, "messages", "Size of one cached block of the log; one read serves all who want it.", least=1
    )
    BLOCK_CACHE_BYTES = Key(
        32 * _MIB,
        "bytes per worker",
        "Blocks for subscribers that catch up, and encoded slices; the oldest go. The largest message must fit.",
        least=8 * _MIB,
    )
    PUBLISH_TIMEOUT_S = Key(
        10, "seconds", "How long a caller in a thread (REST, shell) waits for its round before `unavailable`.", least=1
    )
    DATABASE_TIMEOUT_S = Key(
        10,
        "seconds",
        "How long one transaction or read of ours may take before its connection is cut off: a PostgreSQL that falls "
        "silent must not hold publishers for longer.",
        least=1,
    )
    INFLIGHT_PUBLISHES_MAX = Key(
        256, "publish frames per connection", "Unanswered ones; beyond it the connection is read no further.", least=1
    )
    BACKLOG_FRAMES = Key(
        256, "frames per connection", "Received frames that wait for their turn before reading stops.", least=1
    )
    BACKLOG_BYTES = Key(
        4 * _MIB,
        "bytes per connection",
        "The same for large frames; also what one connection may have on its way into the log.",
        least=_KIB,
    )

    OVER_RATE_S = Key(
        10,
        "seconds",
        "Who is refused ten times as often as served for so long, for publishing over its rate, is closed with 4429.",
        least=1,
    )
    REVOCATIONS_KEPT_S = Key(
        30 * 86_400,
        "seconds",
        "How long a revoked token is remembered: at least as long as the longest lifetime of your tokens.",
        least=60,
    )

    # -- delivery ----------------------------------------------------------------------------------------------------
    HOLD_MS = Key(
        30, "milliseconds", "A hole is usually two workers' announcements that swapped; wait before reading the log."
    )
    SWEEP_MS = Key(
        1000,
        "milliseconds",
        "How often heads of followed channels are asked for: heals every lost announcement.",
        least=10,
    )
    SWEEP_SUSPECT_MS = Key(
        200, "milliseconds", "The same while the channel layer carries nothing: then the sweep is the news.", least=10
    )
    OUTBOX_MS = Key(
        500,
        "milliseconds",
        "How often the outbox is looked into for messages of processes without a worker; the others tell.",
        least=10,
    )
    SWEEP_GRACE_MS = Key(250, "milliseconds", "What the sweep found new may be on its way; only later is it read.")
    WINDOW_BYTES = Key(
        _MIB,
        "bytes",
        "Unacknowledged bytes of one attachment before it waits, whatever its message window.",
        least=_KIB,
    )
    SOCKET_BUFFER_HIGH_BYTES = Key(
        65_536,
        "bytes",
        "Above this a connection gets nothing more until the client has drained it. More memory gained no speed.",
        least=4096,
    )
    READ_RATE_BYTES = Key(
        8 * _MIB,
        "bytes per second, client and worker",
        "Of history and snapshots; ten seconds' worth at once. Sixteen full pages a second: more than anybody scrolls, "
        "a few percent of what a database reads. 0 is no limit.",
    )
    SIGNALS_PER_S = Key(
        120,
        "signals per second and connection",
        "Twice the frames of a display, so a pointer and a second stream of events fit; also how many may come at "
        "once. 0 is no limit.",
    )
    APPLICATION_SIGNALS_PER_S = Key(
        1000,
        "signals per second and process",
        "Sent from Python: a loop without a pause must not fill the channel layer. A tenth of what one Redis passes "
        "on; also how many may be sent at once. 0 is no limit.",
    )
    PRESENCE_PER_S = Key(
        20,
        "presence frames per second and connection",
        "Each is a row written; what changes more often is a signal. Also how many may come at once. 0 is no limit.",
    )
    PRESENCE_DATA_BYTES = Key(
        2048,
        "bytes",
        "Of a member's data in canonical form: a name, a colour, a state. A page of a list has a hundred of them.",
        least=1,
    )
    PRESENCE_MEMBERS_MAX = Key(
        10_000,
        "members per channel",
        "Those of one channel are counted once a second while somebody follows them: some milliseconds of a database.",
        least=1,
    )
    DEFLATE_MIN_BYTES = Key(
        512,
        "bytes",
        "Frames from this size on go out compressed to clients that offer permessage-deflate; below it little is saved "
        "for the CPU of both sides. 0 is off: the extension is declined.",
    )
    DELTA_MAX_BYTES = Key(
        16_384,
        "bytes",
        "Data up to this size go out as differences to those who asked for deltas; larger ones whole. Making one holds "
        "up the loop for half a millisecond at 10 KB, and for some at worst, once per message.",
    )
    LINGER_S = Key(5, "seconds", "Keeps following a channel after its last subscriber left: page loads come back.")

    # -- admission: who may connect ----------------------------------------------------------------------------------
    CONNECTIONS_MAX = Key(
        20_000,
        "connections per worker",
        "About 25 KB each, so half a gigabyte; never more than the open files that the system allows. 0 is no limit.",
    )
    CONNECTIONS_PER_ADDRESS_MAX = Key(
        10_000,
        "connections per address and worker",
        "Half of a worker: a campus, a carrier, or a proxy that is not in TRUSTED_PROXIES looks like one address. "
        "Lower it where clients come directly. 0 is no limit.",
    )
    CONNECTIONS_PER_CLIENT_MAX = Key(
        1000,
        "connections per client id and worker",
        "More than the tabs and devices of a person, enough for a backend; beyond it a program opens them in a loop. "
        "0 is no limit.",
    )
    UNAUTHENTICATED_MAX = Key(
        2000,
        "connections per worker",
        "That have not proved who they are yet; with AUTH_TIMEOUT_MS it bounds what strangers can occupy. "
        "0 is no limit.",
    )
    CONNECTIONS_PER_S = Key(
        500,
        "new connections per second and worker",
        "Each costs up to a millisecond of CPU with token and attach: half of a core is left to those who are here. "
        "0 is no limit.",
    )
    CONNECTIONS_BURST = Key(
        10_000,
        "connections",
        "So many may come at once before the rate holds: those of a neighbour that died.",
        least=1,
    )
    RETRY_AFTER_MAX_S = Key(
        120, "seconds", "The longest that a refused client is asked to wait; the more are refused, the longer.", least=1
    )
    TRUSTED_PROXIES = Key(
        _NO_NETWORKS,
        "list of networks or addresses",
        "Proxies whose X-Forwarded-For is believed; from everybody else the header is text that anybody can send.",
    )

    # -- HTTP in the same process: see docs/explanation/load.md --------------------------------------------------------
    HTTP_AT_ONCE = Key(
        1,
        "requests per worker",
        "Django's requests that run at once while the sockets keep the event loop busy: each is a thread that wants "
        "the interpreter, and none is quicker for another beside it.",
        least=1,
    )
    HTTP_NICE = Key(
        4,
        "steps of niceness",
        "So far behind a busy loop the system puts the threads of Django's requests on a core that they share (Linux). "
        "Each step is a fifth less of a contended core; from about 5 on other busy programs keep a request, and the "
        "interpreter with it, too long from the core.",
        least=0,
    )
    HTTP_TURN_MS = Key(
        250,
        "milliseconds",
        "So long a request may hold up others: one that waits for something else does not need the interpreter.",
        least=1,
    )
    HTTP_WAITING = Key(
        1000,
        "requests per worker",
        "That wait for their turn; more get 503. It is some seconds' work, after which nobody waits for an answer.",
        least=1,
    )

    # -- shedding: what is given up under load; how the thresholds were found is in docs/explanation/load.md -----------
    LAG_HIGH_MS = Key(
        1000,
        "milliseconds",
        "Overloaded when the event loop stays so late for two seconds: then a message takes as long as the promise of "
        "two seconds allows. 0 is off.",
    )
    MEMORY_MAX_BYTES = Key(
        0,
        "bytes per worker",
        "Overloaded from nine tenths of it. 0: the control group's limit divided by the workers, if there is one.",
    )
    QUEUE_HIGH_PERCENT = Key(
        80,
        "percent of WRITER_QUEUE_MESSAGES and WRITER_QUEUE_BYTES",
        "Overloaded from here, while what waits is still stored within a second; at 100 publishers are refused. "
        "0 is off.",
    )
    READY_HIGH = Key(
        10_000,
        "subscribers",
        "Overloaded while so many wait for their turn to read on from the log: a bystander waits a second. 0 is off.",
    )
    SHED_HOLD_S = Key(
        5, "seconds", "No step is taken back sooner: what it does needs time, and to and fro makes crowds.", least=1
    )
    SHED_IDLE_S = Key(
        60, "seconds", "Connections whose client sent something within this are not idle, so never shed.", least=1
    )
    SHED_PERCENT = Key(
        1, "percent of connections per second", "How fast idle ones are sent away: slower than they can come back."
    )

    # -- retention ---------------------------------------------------------------------------------------------------
    IDEMPOTENCY_MIN_S = Key(
        120, "seconds", "Rows stay this long whatever the retention says; the wire contract promises it.", least=120
    )
    RETENTION_INTERVAL_S = Key(30, "seconds", "How often retention looks for work.", least=1)
    DELETE_CHUNK = Key(1000, "rows", "One short transaction each, so that deleting never delays publishing.", least=1)

    # -- metrics -----------------------------------------------------------------------------------------------------
    METRICS_NETWORKS = Key(
        _NO_NETWORKS,
        "list of networks or addresses",
        "Who may read `/metrics` without an API key, by the address that connects. Empty: behind a proxy everybody "
        "comes from its address.",
    )

    # -- the process -------------------------------------------------------------------------------------------------
    WORKERS = Key(1, "processes", "More than one needs PostgreSQL and Redis; checked at start.", least=1)
    DRAIN_S = Key(
        10, "seconds", "A stopping worker sends its clients away within this; supervisors must wait longer.", least=1
    )
    WEBSOCKET_PATH = Key("/ws", "path", "Where sockets are served; the template tag tells pages.")
    CHANNEL_LAYER = Key("default", "alias in CHANNEL_LAYERS", "The layer that carries news between workers.")
    DATABASE = Key("default", "alias in DATABASES", "The database that holds the log.")
    PREFIX = Key("seriatim", "text", "Begins every name on the channel layer, so that two sites can share a Redis.")

    def load(self) -> None:
        """Read and check the whole dict. Raises `ImproperlyConfigured` for an unknown key or an unfit value."""
        given = getattr(django_settings, "REALTIME", {})
        if not isinstance(given, Mapping):
            raise ImproperlyConfigured(f"REALTIME must be a dict, not {type(given).__name__}.")
        table = keys()
        for name in given:
            if name not in table:
                raise ImproperlyConfigured(_unknown(name, table))
        loaded = {name: key.checked(given[name]) if name in given else key.default for name, key in table.items()}
        self.__dict__.update(loaded)

    def reset(self) -> None:
        """Forget every value; the next read loads again."""
        self.__dict__.clear()


def keys() -> dict[str, Key[Any]]:
    """Every key by name, in the order of the table above."""
    return {name: value for name, value in vars(Settings).items() if isinstance(value, Key)}


def _unknown(name: object, table: Mapping[str, Key[Any]]) -> str:
    near = difflib.get_close_matches(str(name).upper(), table, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "docs/reference/settings.md lists the keys."
    return f"REALTIME has an unknown key {name!r}. {hint}"


settings = Settings()


def _on_setting_changed(*, setting: str, **_: object) -> None:
    if setting == "REALTIME":
        settings.reset()


setting_changed.connect(_on_setting_changed)
