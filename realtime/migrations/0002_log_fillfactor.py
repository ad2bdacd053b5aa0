"""Room for updates in place: every round rewrites its `Log` rows, and half-full pages keep that out of the index."""

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def set_fillfactor(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE realtime_log SET (fillfactor = 50)")


def reset_fillfactor(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE realtime_log RESET (fillfactor)")


class Migration(migrations.Migration):
    dependencies = [("realtime", "0001_tables")]

    operations = [migrations.RunPython(set_fillfactor, reset_fillfactor)]
