"""Limits of channels: what all clients together may publish to one, how many members it has; and of whole workers."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models


def drop_zeros(apps: Any, schema_editor: Any) -> None:
    """A limit of 0 connections for each address limited nothing; from now on the database refuses it."""
    limits = apps.get_model("realtime", "Limit").objects.using(schema_editor.connection.alias)
    limits.filter(connections_per_address=0).update(connections_per_address=None)


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0017_audit_by_act"),
    ]

    operations = [
        migrations.RunPython(drop_zeros, migrations.RunPython.noop),
        migrations.RemoveConstraint(
            model_name="limit",
            name="realtime_limit_scope",
        ),
        migrations.RemoveConstraint(
            model_name="limit",
            name="realtime_limit_rates",
        ),
        migrations.AddField(
            model_name="limit",
            name="channel_bytes",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="The same, counted in bytes of data.",
                null=True,
                verbose_name="bytes per second and channel",
            ),
        ),
        migrations.AddField(
            model_name="limit",
            name="channel_rate",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="That all clients together may publish to one channel.",
                null=True,
                verbose_name="messages per second and channel",
            ),
        ),
        migrations.AddField(
            model_name="limit",
            name="connections_per_worker",
            field=models.PositiveIntegerField(
                blank=True, help_text="Connections to a worker, all together. For everybody only.", null=True
            ),
        ),
        migrations.AddField(
            model_name="limit",
            name="members",
            field=models.PositiveIntegerField(
                blank=True, help_text="Members of one channel (presence), on all workers together.", null=True
            ),
        ),
        migrations.AlterField(
            model_name="limit",
            name="name",
            field=models.CharField(
                blank=True,
                help_text="The namespace, the channel, the id of the API key, or the client id; empty: everybody.",
                max_length=200,
            ),
        ),
        migrations.AlterField(
            model_name="limit",
            name="scope",
            field=models.CharField(
                choices=[
                    ("global", "everybody"),
                    ("namespace", "a namespace"),
                    ("channel", "a channel"),
                    ("key", "an API key and the tokens issued with it"),
                    ("client", "a client"),
                ],
                max_length=10,
            ),
        ),
        migrations.AddConstraint(
            model_name="limit",
            constraint=models.CheckConstraint(
                condition=models.Q(("scope__in", ["global", "namespace", "channel", "key", "client"])),
                name="realtime_limit_scope",
            ),
        ),
        migrations.AddConstraint(
            model_name="limit",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("publish_rate__isnull", True), ("publish_rate__gte", 1), _connector="OR"),
                    models.Q(("publish_bytes__isnull", True), ("publish_bytes__gte", 1), _connector="OR"),
                    models.Q(("channel_rate__isnull", True), ("channel_rate__gte", 1), _connector="OR"),
                    models.Q(("channel_bytes__isnull", True), ("channel_bytes__gte", 1), _connector="OR"),
                ),
                name="realtime_limit_rates",
                violation_error_message="A rate is at least 1; block who may do nothing, close what nobody may use.",
            ),
        ),
        migrations.AddConstraint(
            model_name="limit",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("connections_per_address__isnull", True), ("connections_per_address__gte", 1), _connector="OR"
                    ),
                    models.Q(
                        ("connections_per_worker__isnull", True), ("connections_per_worker__gte", 1), _connector="OR"
                    ),
                ),
                name="realtime_limit_connections",
                violation_error_message="At least 1: nobody could connect any more, you neither.",
            ),
        ),
    ]
