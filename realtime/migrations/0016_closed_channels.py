"""Channels that an operator closes, and the index by which workers find them among all others."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0015_live_connections"),
    ]

    operations = [
        migrations.AddField(
            model_name="channel",
            name="closed",
            field=models.DateTimeField(
                blank=True, help_text="Since when nobody may attach or publish; empty: open.", null=True
            ),
        ),
        migrations.AddIndex(
            model_name="channel",
            index=models.Index(
                condition=models.Q(("closed__isnull", False)), fields=["name"], name="realtime_channel_closed"
            ),
        ),
    ]
