"""How long a message is worth delivering."""

from __future__ import annotations

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0006_incarnation"),
    ]

    operations = [
        migrations.AddField(
            model_name="namespace",
            name="message_ttl_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="How many seconds a message is worth delivering, to anybody; empty: for ever. May be short.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
                verbose_name="time to live (s)",
            ),
        ),
        migrations.AddConstraint(
            model_name="namespace",
            constraint=models.CheckConstraint(
                condition=models.Q(("message_ttl_s__isnull", True), ("message_ttl_s__gte", 1), _connector="OR"),
                name="realtime_namespace_message_ttl_s",
            ),
        ),
    ]
