"""Messages that belong to an application's transaction."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0004_cursors"),
    ]

    operations = [
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("channel", models.CharField(max_length=200)),
                ("client", models.CharField(max_length=128)),
                ("mid", models.CharField(max_length=64)),
                ("event", models.TextField()),
                ("key", models.CharField(max_length=128, null=True)),
                ("data", models.TextField()),
                ("created", models.BigIntegerField(help_text="Unix milliseconds.")),
                (
                    "refusal",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Why the log will not have it; empty while it waits.",
                        max_length=500,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "outbox",
                "indexes": [
                    models.Index(condition=models.Q(("refusal", "")), fields=["id"], name="realtime_outbox_waiting")
                ],
            },
        ),
    ]
