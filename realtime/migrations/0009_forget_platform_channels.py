"""Nothing on the way up. On the way down the platform's own channels go: before 0008 there is no place for them.

They are made again when somebody has something to say there; what was said is for those who listen at that time.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations


def forget(apps: Any, schema_editor: Any) -> None:
    alias = schema_editor.connection.alias
    channels = apps.get_model("realtime", "Channel").objects.using(alias).filter(namespace=None)
    ids = list(channels.values_list("pk", flat=True))
    apps.get_model("realtime", "Message").objects.using(alias).filter(channel_id__in=ids).delete()
    channels.delete()


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0008_channels_without_namespace"),
    ]

    operations = [
        migrations.RunPython(migrations.RunPython.noop, forget),
    ]
