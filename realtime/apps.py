"""The Django app of the platform: wires configuration and system checks, starts nothing.

No thread, socket or task begins here. A process that only migrates or opens a shell must stay a plain Django process;
what runs in a worker is started by the ASGI application (`realtime.asgi`) or by the first publish.
"""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as global_apps
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate


class RealtimeConfig(AppConfig):
    name = "realtime"
    label = "realtime"
    verbose_name = "Realtime"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Imported here: checks import Django's database layer, which needs the app registry.
        # Control in every process: a shell that takes away a right must be heard by all who serve clients.
        from realtime import checks, control  # noqa: F401  (importing registers the checks, and who carries changes)
        from realtime.conf import settings
        from realtime.groups import make_groups
        from realtime.log import witness

        settings.load()
        connection_created.connect(witness.remember_file)
        post_migrate.connect(restore_default_namespace, sender=self)
        post_migrate.connect(settle_incarnation, sender=self)
        post_migrate.connect(make_groups, sender=self)


def restore_default_namespace(*, using: str = DEFAULT_DB_ALIAS, apps: Any = global_apps, **_: Any) -> None:
    """Makes the namespace `default` again where all are gone: emptied tables (`flush`, tests with transactions) lose
    what a migration made. One that an operator has removed, while there are others, stays away."""
    try:
        namespace = apps.get_model("realtime", "Namespace")
    except LookupError:
        return  # migrated back to before there was one
    if router.allow_migrate_model(using, namespace) and not namespace.objects.using(using).exists():
        # In bulk: that sends no signal. Nobody else has to hear that a table was emptied.
        namespace.objects.using(using).bulk_create([namespace(name="default")])


def settle_incarnation(*, using: str = DEFAULT_DB_ALIAS, apps: Any = global_apps, **_: Any) -> None:
    """Writes down which database this is, as soon as there is a table for it, or again where tables were emptied."""
    from realtime.conf import settings
    from realtime.log import incarnation

    try:
        apps.get_model("realtime", "Incarnation")
    except LookupError:
        return  # migrated back to before there was one
    # Inside a transaction it cannot be written; whoever publishes first does it then.
    if using == settings.DATABASE and not connections[using].in_atomic_block:
        incarnation.settle()
