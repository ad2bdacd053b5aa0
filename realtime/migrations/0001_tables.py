"""Tables of the platform, see realtime/models.py."""

from __future__ import annotations

import django.core.validators
import django.db.models.deletion
import django.db.models.expressions
import django.utils.timezone
from django.db import migrations, models

import realtime.models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="ApiKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "name",
                    models.CharField(help_text="Also the client id of what is published with the key.", max_length=64),
                ),
                ("key_id", models.CharField(max_length=32)),
                ("secret_hash", models.CharField(help_text="SHA-256 of the secret, hexadecimal.", max_length=64)),
                (
                    "capability",
                    models.JSONField(default=dict, help_text="Channel pattern → operations, as the `cap` of a token."),
                ),
                ("created", models.DateTimeField(default=django.utils.timezone.now)),
                ("last_used", models.DateTimeField(blank=True, null=True)),
                ("expires", models.DateTimeField(blank=True, help_text="Empty: never.", null=True)),
                ("revoked", models.BooleanField(default=False)),
            ],
            options={
                "verbose_name": "API key",
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(fields=("key_id",), name="realtime_api_key_id_unique"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Latest",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("channel_id", models.BigIntegerField()),
                ("key", models.CharField(max_length=128)),
                ("serial", models.BigIntegerField()),
            ],
            options={
                "verbose_name_plural": "latest",
                "constraints": [
                    models.UniqueConstraint(fields=("channel_id", "key"), name="realtime_latest_key_unique")
                ],
            },
        ),
        migrations.CreateModel(
            name="Message",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "channel_id", "serial", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("channel_id", models.BigIntegerField()),
                ("serial", models.BigIntegerField()),
                (
                    "client",
                    models.CharField(help_text="Who published; empty: a backend without a client id.", max_length=128),
                ),
                (
                    "mid",
                    models.CharField(
                        help_text="Unique per channel and client.", max_length=64, verbose_name="message id"
                    ),
                ),
                ("key", models.CharField(max_length=128, null=True)),
                ("time", models.BigIntegerField(help_text="Unix milliseconds; never decreases within a channel.")),
                ("envelope", models.TextField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("channel_id", "client", "mid"), name="realtime_message_id_unique"),
                    models.CheckConstraint(condition=models.Q(("serial__gte", 1)), name="realtime_message_serial"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Namespace",
            fields=[
                (
                    "name",
                    models.CharField(
                        help_text="A channel's name up to the first colon; names without one are in “default”.",
                        max_length=64,
                        primary_key=True,
                        serialize=False,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[A-Za-z0-9_-]{1,64}\\Z", "1–64 of A–Z a–z 0–9 _ -"
                            )
                        ],
                    ),
                ),
                (
                    "retention_messages",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="How many messages a channel keeps; empty: all. Younger than two minutes are kept.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
                (
                    "retention_age_s",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="How many seconds a message is kept, at least two minutes; empty: for ever.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="retention age (s)",
                    ),
                ),
                (
                    "window_default",
                    models.PositiveIntegerField(
                        default=256, help_text="Messages in flight without an ack, when the client asks for no window."
                    ),
                ),
                (
                    "window_max",
                    models.PositiveIntegerField(default=1024, help_text="The largest window a client may ask for."),
                ),
                (
                    "ack_ms",
                    models.PositiveIntegerField(
                        default=10000,
                        help_text="Milliseconds after the last message within which a client acknowledges.",
                        verbose_name="ack interval (ms)",
                    ),
                ),
                (
                    "key_limit",
                    models.PositiveIntegerField(
                        default=1000,
                        help_text="How many keys of a channel keep their newest message whatever the retention.",
                    ),
                ),
                (
                    "max_message_bytes",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Largest canonical data of one message; empty: the platform's limit.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
                (
                    "publish_rate",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Messages a second that one client may publish; empty: unlimited.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
                (
                    "publish_burst",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Messages a client may publish at once after a pause; empty: one second's worth.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                    ),
                ),
                (
                    "create",
                    models.CharField(
                        choices=[("publish", "by the first publish"), ("operator", "by an operator only")],
                        default="publish",
                        help_text="How channels of the namespace come to be.",
                        max_length=16,
                    ),
                ),
                (
                    "known_ops",
                    models.JSONField(
                        blank=True,
                        default=realtime.models.default_known_operations,
                        help_text="Granted to tokens without `cap` and to logged-in users.",
                        validators=[realtime.models.validate_operations],
                        verbose_name="operations of known clients",
                    ),
                ),
                (
                    "anonymous_ops",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Granted to clients without any credentials.",
                        validators=[realtime.models.validate_operations],
                        verbose_name="operations of anonymous clients",
                    ),
                ),
                ("presence", models.BooleanField(default=True, help_text="Whether clients can see who is attached.")),
                ("delta", models.BooleanField(default=False, help_text="Whether clients may ask for data as deltas.")),
                (
                    "overflow",
                    models.CharField(
                        choices=[
                            ("hold", "hold: wait, then deliver everything"),
                            ("conflate", "conflate: go on with the newest"),
                        ],
                        default="hold",
                        help_text="What happens to a subscriber that falls behind.",
                        max_length=16,
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("retention_messages__isnull", True), ("retention_messages__gte", 1), _connector="OR"
                        ),
                        name="realtime_namespace_retention_messages",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("retention_age_s__isnull", True), ("retention_age_s__gte", 1), _connector="OR"
                        ),
                        name="realtime_namespace_retention_age_s",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("window_default__gte", 1), ("window_default__lte", models.F("window_max"))),
                        name="realtime_namespace_window",
                        violation_error_message="The default window must be at least 1 and not above the largest one.",
                    ),
                    models.CheckConstraint(condition=models.Q(("ack_ms__gte", 100)), name="realtime_namespace_ack_ms"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("max_message_bytes__isnull", True), ("max_message_bytes__gte", 1), _connector="OR"
                        ),
                        name="realtime_namespace_max_message_bytes",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("publish_rate__isnull", True), ("publish_rate__gte", 1), _connector="OR"),
                        name="realtime_namespace_publish_rate",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("publish_burst__isnull", True), ("publish_burst__gte", 1), _connector="OR"),
                        name="realtime_namespace_publish_burst",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("create__in", ["publish", "operator"])), name="realtime_namespace_create"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("overflow__in", ["hold", "conflate"])), name="realtime_namespace_overflow"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Channel",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=200)),
                ("created", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "namespace",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="channels",
                        to="realtime.namespace",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="Log",
            fields=[
                (
                    "channel",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="log",
                        serialize=False,
                        to="realtime.channel",
                    ),
                ),
                ("epoch", models.CharField(max_length=32)),
                ("head", models.BigIntegerField(default=0)),
                ("oldest", models.BigIntegerField(default=1)),
                (
                    "last_time",
                    models.BigIntegerField(default=0, help_text="Time of the newest message, Unix milliseconds."),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("head__gte", 0),
                            ("oldest__gte", 1),
                            (
                                "oldest__lte",
                                django.db.models.expressions.CombinedExpression(models.F("head"), "+", models.Value(1)),
                            ),
                        ),
                        name="realtime_log_bounds",
                    )
                ],
            },
        ),
        migrations.AddIndex(
            model_name="channel",
            index=models.Index(fields=["name"], name="realtime_channel_prefix", opclasses=["varchar_pattern_ops"]),
        ),
        migrations.AddIndex(
            model_name="channel",
            index=models.Index(fields=["namespace"], name="realtime_channel_namespace"),
        ),
        migrations.AddConstraint(
            model_name="channel",
            constraint=models.UniqueConstraint(fields=("name",), name="realtime_channel_name_unique"),
        ),
    ]
