"""`manage.py serve`: runs the site, sockets and pages; one worker in this process, or several under a supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from realtime import asgi, live, metrics, worker
from realtime.conf import settings
from realtime.transports import relay

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent dies."""


class Command(BaseCommand):
    help = "Serves the site: WebSockets, REST and pages."
    # In `handle`, when --workers is known.
    requires_system_checks: list[str] = []  # noqa: RUF012  (as Django declares it)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument("--port", type=int, default=8000, help="TCP port (default 8000)")
        parser.add_argument("--workers", type=int, help="processes; more than one needs PostgreSQL and Redis")
        parser.add_argument(
            "--role",
            choices=asgi.ROLES,
            default="all",
            help="realtime: sockets and health alone; web: pages, admin and REST alone (default all)",
        )
        # For the supervisor's children.
        parser.add_argument("--fd", type=int, help="listening socket that was passed on")
        parser.add_argument("--ready-fd", type=int, help="pipe to write to when clients are served")
        parser.add_argument("--parent", type=int, help="process id of the supervisor")
        parser.add_argument("--number", type=int, help="number of this worker")
        parser.add_argument("--siblings", help="folder that the workers share")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["workers"] is not None:
            # Before the checks, which judge the number.
            django_settings.REALTIME = {**getattr(django_settings, "REALTIME", {}), "WORKERS": options["workers"]}
            settings.reset()
        if options["fd"] is not None:
            self._serve_one(options)
            return
        self.check()
        self.check(databases=[settings.DATABASE])
        self._check_migrations()
        if settings.WORKERS > 1:
            self._supervise(options)
        else:
            self.stdout.write(f"Serving on {_url(options)} (process {os.getpid()}).")
            self._serve_one(options)

    def _check_migrations(self) -> None:
        connection = connections[settings.DATABASE]
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError("The database lacks migrations. Run: manage.py migrate")
        connection.close()

    def _serve_one(self, options: dict[str, Any]) -> None:
        # Imported here: Daphne installs Twisted's reactor, which no other command should have.
        from realtime.server import run
        from realtime.server.balance import Balance, Table

        balance = None
        asgi.role = options["role"]
        if options["fd"] is None:
            # Not the process's number: series of metrics go on after a restart.
            worker.name = "w1"
            where = run.endpoint(options["host"], options["port"])
        else:
            worker.name = f"w{options['number']}"
            _end_with(options["parent"])
            where = run.adopted(options["fd"])
            table = Path(options["siblings"]) / "connections"
            balance = Balance(Table(table, settings.WORKERS, options["number"]))

        try:
            application = asgi.find_application()
        except (ImportError, ImproperlyConfigured) as error:
            raise CommandError(f"There is no application to serve. {error}") from error
        ready_fd = options["ready_fd"]

        def say_ready() -> None:
            running = worker.current()
            if options["siblings"] is not None and running is not None:
                live.begin()
                # As from the supervisor, which starts the next one whenever a worker has ended.
                running.leave_process = partial(os.kill, os.getpid(), signal.SIGTERM)
                metrics.answer_siblings(options["siblings"], running)
                self._relaying = running.loop.create_task(relay.listen(options["siblings"], running))
            if ready_fd is not None:
                os.write(ready_fd, b"ready")
                os.close(ready_fd)

        run.serve(application, where, say_ready, balance=balance)

    def _supervise(self, options: dict[str, Any]) -> None:
        from realtime.server.supervisor import Supervisor, bind, manage_command

        listening = bind(options["host"], options["port"], backlog=4096)

        siblings = tempfile.TemporaryDirectory(prefix="seriatim-", ignore_cleanup_errors=True)

        def command(number: int, listening_fd: int, ready_fd: int) -> list[str]:
            passed = {
                "--workers": settings.WORKERS,
                "--siblings": siblings.name,
                "--number": number,
                "--fd": listening_fd,
                "--ready-fd": ready_fd,
                "--parent": os.getpid(),
                "--role": options["role"],
            }
            return manage_command(["serve", *[str(part) for pair in passed.items() for part in pair]])

        self.stdout.write(f"Serving on {_url(options)} with {settings.WORKERS} workers (supervisor {os.getpid()}).")
        with siblings:
            status = Supervisor(settings.WORKERS, command, listening, drain_s=settings.DRAIN_S, say=self._say).run()
        sys.exit(status)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _url(options: dict[str, Any]) -> str:
    host = f"[{options['host']}]" if ":" in options["host"] else options["host"]
    return f"http://{host}:{options['port']}"


def _end_with(parent: int) -> None:
    """A supervisor that is killed takes its workers along, drained: nobody else would restart or end them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # It died while this process started, before it could be asked to tell.
        sys.exit(1)
