"""The namespace of the rooms. Nobody has rights by it alone: tokens say `chat:*`, and the hook narrows."""

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("realtime", "Namespace").objects.get_or_create(
        name="chat",
        defaults={
            "create": "publish",
            "retention_age_s": 90 * 86_400,
            # 4,000 characters of any script, escaped.
            "max_message_bytes": 32_768,
            # Twenty messages in ten seconds.
            "publish_rate": 2,
            "publish_burst": 20,
            "known_ops": [],
            "anonymous_ops": [],
        },
    )


class Migration(migrations.Migration):
    dependencies = [("chat", "0001_rooms"), ("realtime", "0003_default_namespace")]

    # Not removed on the way back: channels may refer to it by then.
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
