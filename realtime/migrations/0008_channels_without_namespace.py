"""The platform's own channels belong to no namespace."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0007_message_ttl"),
    ]

    operations = [
        migrations.AlterField(
            model_name="channel",
            name="namespace",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="channels",
                to="realtime.namespace",
            ),
        ),
        migrations.AddConstraint(
            model_name="channel",
            constraint=models.CheckConstraint(
                condition=models.Q(("namespace__isnull", False), ("name__startswith", "$"), _connector="OR"),
                name="realtime_channel_has_namespace",
            ),
        ),
    ]
