"""How far the posts of clients without a socket were handled."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0011_signing_keys"),
    ]

    operations = [
        migrations.CreateModel(
            name="Upstream",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("client", models.CharField(max_length=128)),
                ("name", models.CharField(max_length=64)),
                ("seq", models.BigIntegerField()),
                ("used", models.DateTimeField()),
            ],
            options={
                "indexes": [models.Index(fields=["used"], name="realtime_upstream_used")],
                "constraints": [models.UniqueConstraint(fields=("client", "name"), name="realtime_upstream_unique")],
            },
        ),
    ]
