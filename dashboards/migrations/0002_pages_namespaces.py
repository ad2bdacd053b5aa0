"""The namespaces of the site's pages: pointers that are never stored, and a place where everybody may try things."""

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

NAMESPACES = {
    # Signals and presence only: nobody has `publish` there, so the log stays empty.
    "cursors": {"known_ops": [], "anonymous_ops": [], "presence": True},
    # Written by anybody the demo lets in. Small in every way, so that it stays a playground.
    "play": {
        "retention_messages": 1000,
        "retention_age_s": 86_400,
        "max_message_bytes": 4096,
        "publish_rate": 20,
        "publish_burst": 200,
        "known_ops": [],
        "anonymous_ops": [],
        "presence": True,
    },
}


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    namespaces = apps.get_model("realtime", "Namespace")
    for name, rules in NAMESPACES.items():
        namespaces.objects.get_or_create(name=name, defaults=rules)


class Migration(migrations.Migration):
    dependencies = [("dashboards", "0001_demo_namespace"), ("realtime", "0003_default_namespace")]

    # Not removed on the way back: channels may refer to them by then.
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
