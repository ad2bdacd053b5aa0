"""How the log tells a database that went back in time; see realtime/log/witness.py.

Logs that exist get a new epoch once: nothing says yet whether they are what they were.
"""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

# Part of a dump that is restored into the emptied table of logs leaves the witness as it is: so emptying it takes that
# away. The schema is named because a restore may run without a search path.
TRIGGER = """
    CREATE FUNCTION realtime_log_emptied() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        emptied boolean := TG_OP = 'TRUNCATE';
    BEGIN
        IF NOT emptied THEN
            EXECUTE format('SELECT NOT EXISTS (SELECT 1 FROM %I.%I)', TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO emptied;
        END IF;
        IF emptied THEN
            EXECUTE format('DELETE FROM %I.realtime_incarnation', TG_TABLE_SCHEMA);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER realtime_log_emptied AFTER DELETE OR TRUNCATE ON realtime_log
        FOR EACH STATEMENT EXECUTE FUNCTION realtime_log_emptied();
"""

# pg_repack writes the rows of a table anew, which for this one would look like a restore. It leaves out tables without
# a key; one row needs none. Publications want to know then how to tell rows apart.
WITHOUT_KEY = """
    ALTER TABLE realtime_incarnation DROP CONSTRAINT realtime_incarnation_pkey;
    ALTER TABLE realtime_incarnation REPLICA IDENTITY FULL;
"""


def guard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(TRIGGER, params=None)
        schema_editor.execute(WITHOUT_KEY)


def unguard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP TRIGGER realtime_log_emptied ON realtime_log")
        schema_editor.execute("DROP FUNCTION realtime_log_emptied()")


class Migration(migrations.Migration):
    dependencies = [("realtime", "0005_outbox")]

    operations = [
        migrations.CreateModel(
            name="Incarnation",
            fields=[
                (
                    "number",
                    models.BigIntegerField(
                        help_text="Random; what the logs' epochs belong to.", primary_key=True, serialize=False
                    ),
                ),
                (
                    "system",
                    models.CharField(default="", help_text="System identifier of the cluster.", max_length=32),
                ),
                (
                    "timeline",
                    models.CharField(default="", help_text="Of the cluster's write-ahead log.", max_length=8),
                ),
                ("database", models.CharField(default="", help_text="OID of the database.", max_length=10)),
                ("log", models.BigIntegerField(help_text="OID of the table of `Log`.", null=True)),
                (
                    "started",
                    models.DateTimeField(
                        help_text="When the server was started that this was last compared on.", null=True
                    ),
                ),
                (
                    "writer",
                    models.CharField(default="", help_text="Transaction that wrote the row.", max_length=10),
                ),
                (
                    "rounds",
                    models.BigIntegerField(
                        help_text="Rounds that were committed; null: no mark beside the file.", null=True
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="log",
            name="incarnation",
            field=models.BigIntegerField(default=0, help_text="Of the database, in which the epoch was given."),
        ),
        migrations.RunPython(guard, unguard),
    ]
