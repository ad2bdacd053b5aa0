"""The Django app of the platform: wires configuration and system checks, starts nothing.

No thread, socket or task begins here. A process that only migrates or opens a shell must stay a plain Django process;
what runs in a worker is started by the ASGI application (`realtime.asgi`) or by the first publish.
"""

from __future__ import annotations

from django.apps import AppConfig


class RealtimeConfig(AppConfig):
    name = "realtime"
    label = "realtime"
    verbose_name = "Realtime"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Imported here: checks import Django's database layer, which needs the app registry.
        from realtime import checks  # noqa: F401  (importing registers the checks)
        from realtime.conf import settings

        settings.load()
