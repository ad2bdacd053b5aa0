"""`manage.py serve`: runs the site, sockets and pages, in this process."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from realtime.conf import settings


class Command(BaseCommand):
    help = "Serves the site: WebSockets, REST and pages."
    requires_system_checks = "__all__"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default 127.0.0.1).")
        parser.add_argument("--port", type=int, default=8000, help="TCP port (default 8000).")

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        self._check_database()
        # Imported here: Daphne installs Twisted's reactor, which no other command should have.
        from realtime.server import run

        module, _, name = str(django_settings.ASGI_APPLICATION).rpartition(".")
        application = getattr(import_module(module), name)
        self.stdout.write(f"Serving on http://{host}:{port} (process {os.getpid()}). Stop with Ctrl-C.")
        run.serve(application, run.endpoint(host, port))

    def _check_database(self) -> None:
        """Database checks are not run by default; here they are what keeps a promise."""
        self.check(databases=[settings.DATABASE])
        connection = connections[settings.DATABASE]
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError("The database lacks migrations. Run: manage.py migrate")
        connection.close()
