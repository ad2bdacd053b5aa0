"""Indexes by which the audit log is read for one kind of act, and from a time on."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0016_closed_channels"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="act",
            index=models.Index(fields=["act", "-id"], name="realtime_act_act"),
        ),
        migrations.AddIndex(
            model_name="act",
            index=models.Index(fields=["at"], name="realtime_act_at"),
        ),
    ]
