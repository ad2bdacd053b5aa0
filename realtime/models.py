"""Tables of the platform.

`Log`, `Message` and `Latest` are written by `realtime.log` alone, with raw SQL; an admin form that saved a stale `Log`
would rewind a head and give serials twice. Everything else is ordinary Django. The tables are explained in
docs/explanation/architecture.md, the fields of a namespace in docs/reference/protocol.md#namespaces.

Every unique constraint of `Message` begins with the channel and nothing refers to it by foreign key, so that
PostgreSQL can hash-partition it by channel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from realtime.delivery.capability import OPERATIONS
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import is_client_id, parse_channel


def is_channel(name: str) -> bool:
    """Whether a channel may have this name."""
    try:
        parse_channel(name)
    except ProtocolError:
        return False
    return True


DEFAULT_KNOWN_OPERATIONS: Final = ("subscribe", "publish", "history", "presence", "signal")


def default_known_operations() -> list[str]:
    """What a token without `cap`, or a logged-in user, may do in a new namespace."""
    return list(DEFAULT_KNOWN_OPERATIONS)


def validate_operations(value: object) -> None:
    """Accept a list of operation names; anything else would be ignored silently when a client is authorised."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValidationError("Expected a list of operation names.", code="not_a_list")
    unknown = sorted(set(value) - set(OPERATIONS))
    if unknown:
        raise ValidationError(
            f"Unknown operations: {', '.join(unknown)}. Known: {', '.join(sorted(OPERATIONS))}.", code="unknown"
        )


class Namespace(models.Model):
    """The rules of all channels whose name begins with `<name>:`."""

    class Create(models.TextChoices):
        PUBLISH = "publish", "by the first publish"
        OPERATOR = "operator", "by an operator only"

    class Overflow(models.TextChoices):
        HOLD = "hold", "hold: wait, then deliver everything"
        CONFLATE = "conflate", "conflate: go on with the newest"

    name = models.CharField(
        max_length=64,
        primary_key=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9_-]{1,64}\Z", "1–64 of A–Z a–z 0–9 _ -")],
        help_text="A channel's name up to the first colon; names without one are in “default”.",
    )
    retention_messages = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="How many messages a channel keeps; empty: all. Younger than two minutes are kept.",
    )
    retention_age_s = models.PositiveIntegerField(
        "retention age (s)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="How many seconds a message is kept, at least two minutes; empty: for ever.",
    )
    message_ttl_s = models.PositiveIntegerField(
        "time to live (s)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="How many seconds a message is worth delivering, to anybody; empty: for ever. May be short.",
    )
    window_default = models.PositiveIntegerField(
        default=256, help_text="Messages in flight without an ack, when the client asks for no window."
    )
    window_max = models.PositiveIntegerField(default=1024, help_text="The largest window a client may ask for.")
    ack_ms = models.PositiveIntegerField(
        "ack interval (ms)",
        default=10_000,
        help_text="Milliseconds after the last message within which a client acknowledges.",
    )
    cursor_ms = models.PositiveIntegerField(
        "cursor interval (ms)",
        default=500,
        help_text="Milliseconds within which an acknowledged position of a cursor is stored, 100 to 3600000.",
    )
    key_limit = models.PositiveIntegerField(
        default=1000, help_text="How many keys of a channel keep their newest message whatever the retention."
    )
    max_message_bytes = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Largest canonical data of one message; empty: the platform's limit.",
    )
    publish_rate = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Messages a second that one client may publish; empty: unlimited.",
    )
    publish_burst = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Messages a client may publish at once after a pause; empty: one second's worth.",
    )
    create = models.CharField(
        max_length=16, choices=Create, default=Create.PUBLISH, help_text="How channels of the namespace come to be."
    )
    known_ops = models.JSONField(
        "operations of known clients",
        default=default_known_operations,
        blank=True,
        validators=[validate_operations],
        help_text="Granted to tokens without `cap` and to logged-in users.",
    )
    anonymous_ops = models.JSONField(
        "operations of anonymous clients",
        default=list,
        blank=True,
        validators=[validate_operations],
        help_text="Granted to clients without any credentials.",
    )
    presence = models.BooleanField(default=True, help_text="Whether clients can see who is attached.")
    delta = models.BooleanField(default=False, help_text="Whether clients may ask for data as deltas.")
    overflow = models.CharField(
        max_length=16,
        choices=Overflow,
        default=Overflow.HOLD,
        help_text="What happens to a subscriber that falls behind.",
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(retention_messages__isnull=True) | Q(retention_messages__gte=1),
                name="realtime_namespace_retention_messages",
            ),
            models.CheckConstraint(
                condition=Q(retention_age_s__isnull=True) | Q(retention_age_s__gte=1),
                name="realtime_namespace_retention_age_s",
            ),
            models.CheckConstraint(
                condition=Q(message_ttl_s__isnull=True) | Q(message_ttl_s__gte=1),
                name="realtime_namespace_message_ttl_s",
            ),
            models.CheckConstraint(
                condition=Q(window_default__gte=1) & Q(window_default__lte=F("window_max")),
                name="realtime_namespace_window",
                violation_error_message="The default window must be at least 1 and not above the largest one.",
            ),
            models.CheckConstraint(condition=Q(ack_ms__gte=100), name="realtime_namespace_ack_ms"),
            models.CheckConstraint(
                condition=Q(cursor_ms__gte=100) & Q(cursor_ms__lte=3_600_000), name="realtime_namespace_cursor_ms"
            ),
            models.CheckConstraint(
                condition=Q(max_message_bytes__isnull=True) | Q(max_message_bytes__gte=1),
                name="realtime_namespace_max_message_bytes",
            ),
            models.CheckConstraint(
                condition=Q(publish_rate__isnull=True) | Q(publish_rate__gte=1),
                name="realtime_namespace_publish_rate",
            ),
            models.CheckConstraint(
                condition=Q(publish_burst__isnull=True) | Q(publish_burst__gte=1),
                name="realtime_namespace_publish_burst",
            ),
            models.CheckConstraint(condition=Q(create__in=["publish", "operator"]), name="realtime_namespace_create"),
            models.CheckConstraint(condition=Q(overflow__in=["hold", "conflate"]), name="realtime_namespace_overflow"),
        ]

    def __str__(self) -> str:
        return self.name


class Channel(models.Model):
    """A named stream: what operators see and edit. Its numbers are in `Log`.

    The platform's own channels, whose names begin with `$`, have no namespace: there are no rules that an operator
    could change or take away. The desk does not show them.
    """

    name = models.CharField(max_length=200)
    namespace = models.ForeignKey(
        Namespace, on_delete=models.PROTECT, related_name="channels", db_index=False, null=True
    )
    created = models.DateTimeField(default=timezone.now)
    closed = models.DateTimeField(
        null=True, blank=True, help_text="Since when nobody may attach or publish; empty: open."
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["name"], name="realtime_channel_name_unique"),
            models.CheckConstraint(
                condition=Q(namespace__isnull=False) | Q(name__startswith="$"), name="realtime_channel_has_namespace"
            ),
        ]
        indexes = [
            # The list of channels by prefix: on PostgreSQL the unique index serves LIKE 'x%' only in collation C.
            models.Index(fields=["name"], opclasses=["varchar_pattern_ops"], name="realtime_channel_prefix"),
            models.Index(fields=["namespace"], name="realtime_channel_namespace"),
            models.Index(fields=["name"], condition=Q(closed__isnull=False), name="realtime_channel_closed"),
        ]

    def __str__(self) -> str:
        return self.name


class Log(models.Model):
    """One narrow row per channel: the lock of every round, and the last word on what serials exist.

    Serials `oldest` to `head` are retained, without a hole; an empty log has oldest = head + 1. Serials are never used
    again: a new epoch relabels the log and goes on counting.
    """

    channel = models.OneToOneField(Channel, on_delete=models.CASCADE, primary_key=True, related_name="log")
    epoch = models.CharField(max_length=32)
    head = models.BigIntegerField(default=0)
    oldest = models.BigIntegerField(default=1)
    last_time = models.BigIntegerField(default=0, help_text="Time of the newest message, Unix milliseconds.")
    incarnation = models.BigIntegerField(default=0, help_text="Of the database, in which the epoch was given.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(head__gte=0) & Q(oldest__gte=1) & Q(oldest__lte=F("head") + 1), name="realtime_log_bounds"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.channel_id}: {self.oldest}–{self.head}"


class Incarnation(models.Model):
    """One row, the witness: what the database was when it was written there. A database that went back in time, or one
    that its rows were copied into, is another. Written and judged by `realtime.log` alone; see `realtime.log.witness`.
    """

    number = models.BigIntegerField(primary_key=True, help_text="Random; what the logs' epochs belong to.")
    # PostgreSQL
    system = models.CharField(max_length=32, default="", help_text="System identifier of the cluster.")
    timeline = models.CharField(max_length=8, default="", help_text="Of the cluster's write-ahead log.")
    database = models.CharField(max_length=10, default="", help_text="OID of the database.")
    log = models.BigIntegerField(null=True, help_text="OID of the table of `Log`.")
    started = models.DateTimeField(null=True, help_text="When the server was started that this was last compared on.")
    writer = models.CharField(max_length=10, default="", help_text="Transaction that wrote the row.")
    # SQLite
    rounds = models.BigIntegerField(null=True, help_text="Rounds that were committed; null: no mark beside the file.")

    def __str__(self) -> str:
        return str(self.number)


class Message(models.Model):
    """One message as it is sent: `envelope` is the canonical `message` frame, spliced into answers unparsed.

    Rows below `Log.oldest` are no longer part of the log; they stay a while for idempotency, or because `Latest` names
    them.
    """

    pk = models.CompositePrimaryKey("channel_id", "serial")
    # Not a foreign key: see the module's docstring.
    channel_id = models.BigIntegerField()
    serial = models.BigIntegerField()
    client = models.CharField(max_length=128, help_text="Who published; empty: a backend without a client id.")
    mid = models.CharField("message id", max_length=64, help_text="Unique per channel and client.")
    key = models.CharField(max_length=128, null=True)  # noqa: DJ001  (no key is not the key "")
    time = models.BigIntegerField(help_text="Unix milliseconds; never decreases within a channel.")
    envelope = models.TextField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["channel_id", "client", "mid"], name="realtime_message_id_unique"),
            models.CheckConstraint(condition=Q(serial__gte=1), name="realtime_message_serial"),
        ]

    def __str__(self) -> str:
        return f"{self.channel_id}#{self.serial}"


class Latest(models.Model):
    """The newest message of each key of a channel; exempt from retention up to the namespace's key limit."""

    channel_id = models.BigIntegerField()
    key = models.CharField(max_length=128)
    serial = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "latest"
        constraints = [
            models.UniqueConstraint(fields=["channel_id", "key"], name="realtime_latest_key_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.channel_id}[{self.key}] = {self.serial}"


class Outbox(models.Model):
    """A message that was published inside somebody's transaction; relayed into the log when that has committed."""

    channel = models.CharField(max_length=200)
    client = models.CharField(max_length=128)
    mid = models.CharField(max_length=64)
    event = models.TextField()
    key = models.CharField(max_length=128, null=True)  # noqa: DJ001  (a message without a key)
    data = models.TextField()
    created = models.BigIntegerField(help_text="Unix milliseconds.")
    refusal = models.CharField(
        max_length=500, blank=True, default="", help_text="Why the log will not have it; empty while it waits."
    )

    class Meta:
        verbose_name_plural = "outbox"
        indexes = [models.Index(fields=["id"], condition=Q(refusal=""), name="realtime_outbox_waiting")]

    def __str__(self) -> str:
        return f"{self.mid} for {self.channel}"


class Cursor(models.Model):
    """The acknowledged position of a client, under a name, in a channel: where `{"cursor": …}` attaches.

    By the channel's name, since a client may wait in a channel that nobody has published to; then `epoch` is null.
    """

    channel = models.CharField(max_length=200)
    client = models.CharField(max_length=128)
    name = models.CharField(max_length=64)
    epoch = models.CharField(max_length=32, null=True)  # noqa: DJ001  (null is the epoch of a log without a message)
    serial = models.BigIntegerField()
    used = models.BigIntegerField(help_text="Unix milliseconds of the last use; forgotten 30 days later.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["channel", "client", "name"], name="realtime_cursor_unique"),
        ]
        indexes = [models.Index(fields=["used"], name="realtime_cursor_used")]

    def __str__(self) -> str:
        return f"{self.client}/{self.name} in {self.channel} at {self.serial}"


class Upstream(models.Model):
    """How many posts of one client's upstream have been handled; see `realtime.upstreams`."""

    client = models.CharField(max_length=128)
    name = models.CharField(max_length=64)
    seq = models.BigIntegerField()
    used = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["client", "name"], name="realtime_upstream_unique")]
        indexes = [models.Index(fields=["used"], name="realtime_upstream_used")]

    def __str__(self) -> str:
        return f"{self.client}/{self.name} at {self.seq}"


class ApiKey(models.Model):
    """A backend's credential, `ser_<key_id>_<secret>`; only a hash of the secret is kept.

    Names may repeat: while one key replaces another, both publish as the same client, so that ids stay known.
    """

    name = models.CharField(max_length=64, help_text="Also the client id of what is published with the key.")
    key_id = models.CharField(max_length=32)
    secret_hash = models.CharField(max_length=64, help_text="SHA-256 of the secret, hexadecimal.")
    capability = models.JSONField(default=dict, help_text="Channel pattern → operations, as the `cap` of a token.")
    created = models.DateTimeField(default=timezone.now)
    last_used = models.DateTimeField(null=True, blank=True)
    expires = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    revoked = models.BooleanField(default=False)

    class Meta:
        ordering = ["name"]
        verbose_name = "API key"
        constraints = [
            models.UniqueConstraint(fields=["key_id"], name="realtime_api_key_id_unique"),
        ]

    def __str__(self) -> str:
        return self.name


class Revocation(models.Model):
    """What is taken back before its time: a token, the tokens of a client or of an API key, or a client's access.

    Written by `realtime.revocations`, which tells the workers; rows that say nothing any more are pruned.
    """

    class Kind(models.TextChoices):
        JTI = "jti", "one token, by its jti"
        CLIENT = "client", "all tokens of a client until now"
        KEY = "key", "all tokens issued with an API key until now"
        BLOCK = "block", "a client is blocked, whatever its credentials"

    kind = models.CharField(max_length=8, choices=Kind)
    value = models.CharField(max_length=256, help_text="The jti, the client id, or the id of the API key.")
    at = models.DateTimeField(default=timezone.now, help_text="Of a client or key, tokens issued later are good again.")
    until = models.DateTimeField(null=True, blank=True, help_text="When it is forgotten. Empty: never.")
    by = models.CharField(max_length=160, blank=True, help_text="Who did it.")
    reason = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-at"]
        constraints = [
            models.UniqueConstraint(fields=["kind", "value"], name="realtime_revocation_unique"),
            models.CheckConstraint(
                condition=Q(kind__in=["jti", "client", "key", "block"]), name="realtime_revocation_kind"
            ),
        ]
        indexes = [models.Index(fields=["until"], name="realtime_revocation_until")]

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class Act(models.Model):
    """One thing that an operator did, in the admin or with an API key. Written by `realtime.desk`, never changed."""

    at = models.DateTimeField(default=timezone.now)
    actor = models.CharField(max_length=160, help_text="user:<name>, key:<name>, or shell.")
    act = models.CharField(max_length=40)
    target = models.CharField(max_length=260, blank=True)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name = "audit entry"
        verbose_name_plural = "audit log"
        indexes = [
            models.Index(fields=["actor", "-id"], name="realtime_act_actor"),
            models.Index(fields=["target", "-id"], name="realtime_act_target"),
            models.Index(fields=["act", "-id"], name="realtime_act_act"),
            models.Index(fields=["at"], name="realtime_act_at"),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.act} {self.target}"


class SigningKey(models.Model):
    """A key for tokens that operators can exchange while all run; `realtime.signing` explains the states."""

    class State(models.TextChoices):
        NEW = "new", "new: verifies, does not sign yet"
        CURRENT = "current", "current: signs and verifies"
        RETIRING = "retiring", "retiring: verifies what it signed"
        RETIRED = "retired", "retired: nothing of it is good"

    kid = models.CharField(
        "key id", max_length=64, validators=[RegexValidator(r"\A[A-Za-z0-9_.-]{1,64}\Z", "1–64 of A–Z a–z 0–9 _ . -")]
    )
    algorithm = models.CharField(max_length=8, choices=[(each, each) for each in ("HS256", "RS256", "ES256", "EdDSA")])
    state = models.CharField(max_length=8, choices=State, default=State.NEW)
    public_key = models.TextField(blank=True, help_text="PEM; empty for HS256.")
    material = models.TextField(blank=True, help_text="The secret or private key, encrypted; empty: it only verifies.")
    created = models.DateTimeField(default=timezone.now)
    retires = models.DateTimeField(null=True, blank=True, help_text="When a retiring key is good no more.")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["kid"], name="realtime_signing_key_kid_unique"),
            models.UniqueConstraint(
                fields=["state"], condition=Q(state="current"), name="realtime_signing_key_one_current"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["new", "current", "retiring", "retired"]), name="realtime_signing_key_state"
            ),
        ]

    def __str__(self) -> str:
        return self.kid


class Limit(models.Model):
    """What is allowed at most: to everybody, in a namespace, in a channel, with an API key, to a client. The strictest
    wins.

    Empty fields limit nothing. Rates and connections are counted on each worker by itself.
    """

    class Scope(models.TextChoices):
        GLOBAL = "global", "everybody"
        NAMESPACE = "namespace", "a namespace"
        CHANNEL = "channel", "a channel"
        KEY = "key", "an API key and the tokens issued with it"
        CLIENT = "client", "a client"

    scope = models.CharField(max_length=10, choices=Scope)
    name = models.CharField(
        max_length=200,
        blank=True,
        help_text="The namespace, the channel, the id of the API key, or the client id; empty: everybody.",
    )
    connections = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Connections of one client to a worker; with an API key, of all its clients together.",
    )
    connections_per_address = models.PositiveIntegerField(
        null=True, blank=True, help_text="Connections of one address to a worker. For everybody only."
    )
    connections_per_worker = models.PositiveIntegerField(
        null=True, blank=True, help_text="Connections to a worker, all together. For everybody only."
    )
    attachments = models.PositiveIntegerField(null=True, blank=True, help_text="Attachments of one connection.")
    publish_rate = models.PositiveIntegerField(
        "messages per second",
        null=True,
        blank=True,
        help_text="That one client may publish; with an API key, all its clients together.",
    )
    publish_bytes = models.PositiveIntegerField(
        "bytes per second", null=True, blank=True, help_text="The same, counted in bytes of data."
    )
    channel_rate = models.PositiveIntegerField(
        "messages per second and channel",
        null=True,
        blank=True,
        help_text="That all clients together may publish to one channel.",
    )
    channel_bytes = models.PositiveIntegerField(
        "bytes per second and channel", null=True, blank=True, help_text="The same, counted in bytes of data."
    )
    message_bytes = models.PositiveIntegerField(null=True, blank=True, help_text="Largest data of one message.")
    members = models.PositiveIntegerField(
        null=True, blank=True, help_text="Members of one channel (presence), on all workers together."
    )
    token_lifetime_s = models.PositiveIntegerField(
        "token lifetime (s)",
        null=True,
        blank=True,
        help_text="Tokens that live longer are refused. Not for namespaces: a token is for all of them.",
    )

    class Meta:
        ordering = ["scope", "name"]
        constraints = [
            models.UniqueConstraint(fields=["scope", "name"], name="realtime_limit_unique"),
            models.CheckConstraint(
                condition=Q(scope__in=["global", "namespace", "channel", "key", "client"]), name="realtime_limit_scope"
            ),
            models.CheckConstraint(
                condition=Q(scope="global", name="") | (~Q(scope="global") & ~Q(name="")),
                name="realtime_limit_name",
                violation_error_message="Name whom the limit is for; leave it empty for everybody.",
            ),
            models.CheckConstraint(
                condition=(Q(publish_rate__isnull=True) | Q(publish_rate__gte=1))
                & (Q(publish_bytes__isnull=True) | Q(publish_bytes__gte=1))
                & (Q(channel_rate__isnull=True) | Q(channel_rate__gte=1))
                & (Q(channel_bytes__isnull=True) | Q(channel_bytes__gte=1)),
                name="realtime_limit_rates",
                violation_error_message="A rate is at least 1; block who may do nothing, close what nobody may use.",
            ),
            models.CheckConstraint(
                condition=(Q(connections_per_address__isnull=True) | Q(connections_per_address__gte=1))
                & (Q(connections_per_worker__isnull=True) | Q(connections_per_worker__gte=1)),
                name="realtime_limit_connections",
                violation_error_message="At least 1: nobody could connect any more, you neither.",
            ),
        ]

    FIELDS: Final = {
        Scope.GLOBAL: frozenset(
            (
                "connections",
                "connections_per_address",
                "connections_per_worker",
                "attachments",
                "publish_rate",
                "publish_bytes",
                "channel_rate",
                "channel_bytes",
                "message_bytes",
                "members",
                "token_lifetime_s",
            )
        ),
        Scope.NAMESPACE: frozenset(
            (
                "attachments",
                "publish_rate",
                "publish_bytes",
                "channel_rate",
                "channel_bytes",
                "message_bytes",
                "members",
            )
        ),
        Scope.CHANNEL: frozenset(("channel_rate", "channel_bytes", "message_bytes", "members")),
        Scope.KEY: frozenset(
            ("connections", "attachments", "publish_rate", "publish_bytes", "message_bytes", "token_lifetime_s")
        ),
        Scope.CLIENT: frozenset(
            ("connections", "attachments", "publish_rate", "publish_bytes", "message_bytes", "token_lifetime_s")
        ),
    }
    """What a row of each scope can limit."""

    def __str__(self) -> str:
        return f"{self.scope} {self.name}".strip()

    def clean(self) -> None:
        """Refuses a name that nobody has, and a field that would limit nothing, rather than let somebody believe that
        it does."""
        checks: dict[str, Callable[[str], bool]] = {
            "namespace": lambda name: re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) is not None,
            "channel": is_channel,
            "client": is_client_id,
        }
        if self.name and self.scope in checks and not checks[self.scope](self.name):
            raise ValidationError({"name": f"That is the name of no {self.scope}."})
        meant = self.FIELDS.get(Limit.Scope(self.scope)) if self.scope in Limit.Scope.values else None
        if meant is not None:
            wrong = sorted(name for name in self.FIELDS[Limit.Scope.GLOBAL] - meant if getattr(self, name) is not None)
            if wrong:
                raise ValidationError(
                    {name: f"This limits nothing for {Limit.Scope(self.scope).label}." for name in wrong}
                )


class LiveConnection(models.Model):  # noqa: DJ008  (there is never one)
    """No table: what the desk shows of open connections is asked of the workers. Here for its permissions."""

    class Meta:
        managed = False
        verbose_name = "connection"
        default_permissions = ("view",)
        permissions = [("operate", "Can disconnect, block and revoke, publish, and change logs")]


class Present(models.Model):
    """What one worker says of a client in a channel; counts while the worker's lease holds. Written by
    `realtime.presence`."""

    # Not a foreign key: members of a channel need no log.
    channel = models.CharField(max_length=200)
    client = models.CharField(max_length=128)
    worker = models.CharField(max_length=32)
    connections = models.IntegerField()
    data = models.TextField()
    at = models.BigIntegerField(help_text="When the data was set, in Unix milliseconds.")
    since = models.BigIntegerField()
    stamp = models.BigIntegerField(help_text="Random, another one at each change.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["channel", "client", "worker"], name="realtime_present_unique"),
        ]
        indexes = [models.Index(fields=["worker"], name="realtime_present_worker")]

    def __str__(self) -> str:
        return f"{self.client} in {self.channel}"


class PresenceLease(models.Model):
    """Until when a worker's members are members, unless it says so again. Written by `realtime.presence`."""

    worker = models.CharField(max_length=32, primary_key=True)
    until = models.BigIntegerField(help_text="Unix milliseconds, by the database's clock.")

    def __str__(self) -> str:
        return self.worker
