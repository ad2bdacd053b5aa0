"""Who is present in which channel, as each worker says, and until when a worker's word holds."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0013_limits"),
    ]

    operations = [
        migrations.CreateModel(
            name="PresenceLease",
            fields=[
                ("worker", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("until", models.BigIntegerField(help_text="Unix milliseconds, by the database's clock.")),
            ],
        ),
        migrations.CreateModel(
            name="Present",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("channel", models.CharField(max_length=200)),
                ("client", models.CharField(max_length=128)),
                ("worker", models.CharField(max_length=32)),
                ("connections", models.IntegerField()),
                ("data", models.TextField()),
                ("at", models.BigIntegerField(help_text="When the data was set, in Unix milliseconds.")),
                ("since", models.BigIntegerField()),
                ("stamp", models.BigIntegerField(help_text="Random, another one at each change.")),
            ],
            options={
                "indexes": [models.Index(fields=["worker"], name="realtime_present_worker")],
                "constraints": [
                    models.UniqueConstraint(fields=("channel", "client", "worker"), name="realtime_present_unique")
                ],
            },
        ),
    ]
