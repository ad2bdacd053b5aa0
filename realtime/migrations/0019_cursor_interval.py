"""How often a namespace's cursors are stored."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0018_limits_of_channels"),
    ]

    operations = [
        migrations.AddField(
            model_name="namespace",
            name="cursor_ms",
            field=models.PositiveIntegerField(
                default=500,
                help_text="Milliseconds within which an acknowledged position of a cursor is stored, 100 to 3600000.",
                verbose_name="cursor interval (ms)",
            ),
        ),
        migrations.AddConstraint(
            model_name="namespace",
            constraint=models.CheckConstraint(
                condition=models.Q(("cursor_ms__gte", 100), ("cursor_ms__lte", 3600000)),
                name="realtime_namespace_cursor_ms",
            ),
        ),
    ]
