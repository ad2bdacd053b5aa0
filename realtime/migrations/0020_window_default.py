"""A default window of 512: half as many acks, which were a twelfth of what a worker spends on a message to 500."""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def widen(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Those that stand at the old default, as far as their own largest one allows."""
    namespaces = apps.get_model("realtime", "Namespace").objects.using(schema_editor.connection.alias)
    namespaces.filter(window_default=256, window_max__gte=512).update(window_default=512)


class Migration(migrations.Migration):
    dependencies = [("realtime", "0019_cursor_interval")]

    operations = [
        migrations.AlterField(
            "namespace",
            "window_default",
            models.PositiveIntegerField(
                default=512, help_text="Messages in flight without an ack, when the client asks for no window."
            ),
        ),
        migrations.RunPython(widen, migrations.RunPython.noop, elidable=True),
    ]
