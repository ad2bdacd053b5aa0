"""Dashboards may ask for deltas. Those of the demo whose messages resemble each other do; the console may try them."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

NAMESPACES = ("server", "replay", "scores", "play")
DASHBOARDS = ("server", "seattle", "match")


def allow(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("realtime", "Namespace").objects.filter(name__in=NAMESPACES).update(delta=True)
    apps.get_model("dashboards", "Dashboard").objects.filter(slug__in=DASHBOARDS, owner=None).update(deltas=True)


class Migration(migrations.Migration):
    dependencies = [("dashboards", "0004_demo_dashboards")]

    operations = [
        migrations.AddField(
            "dashboard",
            "deltas",
            models.BooleanField(
                default=False,
                help_text="Whether the page asks for messages as differences, where the channels' namespaces allow it: "
                "less to send where the next message is mostly the last one.",
            ),
        ),
        # An operator may have allowed it before, or forbidden it since: the way back leaves that.
        migrations.RunPython(allow, migrations.RunPython.noop),
    ]
