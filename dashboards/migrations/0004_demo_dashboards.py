"""The dashboards that every installation begins with, and the namespaces of their channels."""

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from dashboards.demo import DASHBOARDS, NAMESPACES


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for name, rules in NAMESPACES.items():
        defaults = {"create": "publish", "anonymous_ops": [], "presence": False, **rules}
        apps.get_model("realtime", "Namespace").objects.get_or_create(name=name, defaults=defaults)
    dashboards = apps.get_model("dashboards", "Dashboard").objects
    widgets = apps.get_model("dashboards", "Widget").objects
    for slug, title, about, speeds, described in DASHBOARDS:
        dashboard, created = dashboards.get_or_create(
            slug=slug, defaults={"name": title, "about": about, "speeds": speeds, "is_public": True}
        )
        for position, (kind, name, channel, field, span, options) in enumerate(described if created else ()):
            widgets.create(
                dashboard=dashboard,
                position=position,
                kind=kind,
                title=name,
                channel=channel,
                field=field,
                span=span,
                options=options,
            )


class Migration(migrations.Migration):
    dependencies = [("dashboards", "0003_dashboards"), ("realtime", "0007_message_ttl")]

    # Not removed on the way back: the tables go, and channels may refer to the namespaces.
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
