"""The namespace of channels without one in their name."""

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def create_default(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("realtime", "Namespace").objects.get_or_create(
        name="default",
        defaults={
            "create": "publish",
            "known_ops": ["subscribe", "publish", "history", "presence", "signal"],
            "anonymous_ops": [],
        },
    )


class Migration(migrations.Migration):
    dependencies = [("realtime", "0002_log_fillfactor")]

    # Not removed on the way back: channels may refer to it by then.
    operations = [migrations.RunPython(create_default, migrations.RunPython.noop)]
