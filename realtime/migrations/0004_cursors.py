"""Positions that the server keeps for clients."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0003_default_namespace"),
    ]

    operations = [
        migrations.CreateModel(
            name="Cursor",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("channel", models.CharField(max_length=200)),
                ("client", models.CharField(max_length=128)),
                ("name", models.CharField(max_length=64)),
                ("epoch", models.CharField(max_length=32, null=True)),
                ("serial", models.BigIntegerField()),
                (
                    "used",
                    models.BigIntegerField(help_text="Unix milliseconds of the last use; forgotten 30 days later."),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["used"], name="realtime_cursor_used")],
                "constraints": [
                    models.UniqueConstraint(fields=("channel", "client", "name"), name="realtime_cursor_unique")
                ],
            },
        ),
    ]
