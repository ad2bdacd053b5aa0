"""The server process of `realtime.testing.live`: the project's settings, the test's databases, then `serve`."""

from __future__ import annotations

import json
import os

from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.db import connections

from realtime import asgi
from realtime.conf import settings


def main(plan_text: str) -> None:
    """Serves until SIGTERM."""
    plan = json.loads(plan_text)
    for alias, given in plan["databases"].items():
        # Both: connections that exist have copies of their own.
        django_settings.DATABASES[alias].update(given)
        connections[alias].settings_dict.update(given)
    for name, value in plan["settings"].items():
        setattr(django_settings, name, value)
    django_settings.REALTIME = {**getattr(django_settings, "REALTIME", {}), **plan["realtime"]}
    settings.reset()
    # Imported here: Daphne installs Twisted's reactor.
    from realtime.server import run

    application = asgi.find_application()
    if apps.is_installed("django.contrib.staticfiles"):
        # Files are served from where they lie, as Django's StaticLiveServerTestCase does.
        application = ASGIStaticFilesHandler(application)  # type: ignore[arg-type]  # any application will do

    def say_ready() -> None:
        os.write(plan["ready_fd"], b"ready")
        os.close(plan["ready_fd"])

    run.serve(application, run.adopted(plan["fd"]), say_ready)
