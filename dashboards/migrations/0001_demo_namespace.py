"""The namespace of the live feed: read by those who log in, written by tokens that say so."""

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("realtime", "Namespace").objects.get_or_create(
        name="demo",
        defaults={
            "create": "publish",
            "retention_messages": 7200,
            "known_ops": ["subscribe", "history"],
            "anonymous_ops": [],
            "presence": False,
        },
    )


class Migration(migrations.Migration):
    initial = True
    dependencies = [("realtime", "0003_default_namespace")]

    # Not removed on the way back: channels may refer to it by then.
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
