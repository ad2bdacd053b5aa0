"""`manage.py runserver` with sockets: Django's own command, reloading as ever, on the server of `serve`.

It replaces Django's where `realtime` stands before `django.contrib.staticfiles` in INSTALLED_APPS. For development:
static files are served from where they lie. In production run `serve`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import autoreload

from realtime import asgi
from realtime.conf import settings

if apps.is_installed("django.contrib.staticfiles"):
    from django.contrib.staticfiles.management.commands.runserver import Command as RunserverCommand
else:
    from django.core.management.commands.runserver import (  # type: ignore[assignment]  # the same but for static files
        Command as RunserverCommand,
    )

requests = logging.getLogger("django.server")

STOP_S = 5.0
"""How long a reload waits until the worker has sent its clients away and stored what it took."""


class Command(RunserverCommand):
    help = "Starts a development server: WebSockets, REST and pages, with autoreload."

    addr: str
    port: str
    _stop: Callable[[], object] | None = None

    def run(self, **options: Any) -> None:
        self._stopped = threading.Event()
        try:
            super().run(**options)
        finally:
            # Reached when the reloader ends this process, while the server still runs in its thread.
            if self._stop is not None:
                self._stop()
                self._stopped.wait(STOP_S)

    def inner_run(self, *args: Any, **options: Any) -> None:
        autoreload.raise_last_exception()
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True, databases=[settings.DATABASE])
        self.check_migrations()
        for connection in connections.all(initialized_only=True):
            connection.close()
        # Imported here: Daphne installs Twisted's reactor, for the loop of the thread that imports it.
        from realtime.server import run

        reloads = options["use_reloader"]
        self._stop = run.stop if reloads else None
        where = run.endpoint(self.addr, int(self.port))
        try:
            run.serve(self._application(options), where, self._say_ready, handle_signals=not reloads, on_request=_log)
        except SystemExit:
            if not reloads:
                raise
            # In a thread nobody would notice; Django's command does the same.
            self.stderr.write(f"Error: nothing can listen on {self.addr}:{self.port}.")
            os._exit(1)
        except ImproperlyConfigured as error:
            self.stderr.write(f"Error: {error}")
            os._exit(1)
        finally:
            self._stop = None
            self._stopped.set()

    def _application(self, options: dict[str, Any]) -> Any:
        application = asgi.find_application()
        serves_static = options.get("use_static_handler") and (django_settings.DEBUG or options.get("insecure_serving"))
        return ASGIStaticFilesHandler(application) if serves_static else application  # type: ignore[arg-type]

    def _say_ready(self) -> None:
        self.on_bind(int(self.port))


def _log(protocol: str, action: str, details: dict[str, Any]) -> None:
    """A line for each answer, where Django's own server writes it. Without the query: it may hold secrets."""
    if protocol == "http" and action == "complete":
        status = details["status"]
        level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
        path = details["path"].partition("?")[0]
        requests.log(level, '"%s %s" %s', details["method"], path, status)
