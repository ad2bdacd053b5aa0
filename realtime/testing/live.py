"""The real server for a test: `serve`'s own, in a process of its own, on the test database."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import TransactionTestCase

from realtime import namespaces
from realtime.server.supervisor import bind

START_S = 30.0
STOP_S = 15.0

_CHILD = "import sys, django; django.setup(); from realtime.testing import child; child.main(sys.argv[1])"


class LiveServerError(Exception):
    """The server did not start; the message ends with what it said."""


class LiveServer:
    """The project under the real server, on a free port of this machine; also a context manager.

    It runs with the project's settings on the databases of the test, which must be visible to another process: rows
    that the test commits (`TransactionTestCase`, `django_db(transaction=True)`), and for SQLite a file
    (`DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}`). Overridden settings of the test do not reach it;
    `realtime` changes keys of REALTIME for it, and `settings` other settings, to what JSON can say.
    """

    def __init__(
        self, realtime: Mapping[str, object] | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        self._realtime = dict(realtime or {})
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `stop`)
        self.host = "127.0.0.1"
        self.port = 0

    @property
    def url(self) -> str:
        """Of the site, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://{self.host}:{self.port}{self._realtime.get('WEBSOCKET_PATH') or _websocket_path()}"

    def start(self) -> None:
        """Returns when clients are served. Raises LiveServerError."""
        listening = bind(self.host, 0, backlog=128)
        self.port = listening.getsockname()[1]
        ready_read, ready_write = os.pipe()
        plan = {
            "databases": _databases(),
            "realtime": self._realtime,
            "settings": {"ALLOWED_HOSTS": [*django_settings.ALLOWED_HOSTS, self.host, "localhost"], **self._settings},
            "fd": listening.fileno(),
            "ready_fd": ready_write,
        }
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": django_settings.SETTINGS_MODULE,
            # The project is found where the test found it.
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(plan)],
            pass_fds=(listening.fileno(), ready_write),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C is for the test, which then stops its server in order.
            start_new_session=True,
        )
        os.close(ready_write)
        listening.close()
        try:
            ready = bool(select.select([ready_read], [], [], START_S)[0]) and os.read(ready_read, 16) != b""
        finally:
            os.close(ready_read)
        if not ready:
            said = self.output()
            self.stop()
            raise LiveServerError(f"The server did not start within {START_S:.0f} s.\n{said}")

    def stop(self) -> None:
        """Drains and ends it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._output.close()

    def output(self) -> str:
        """What the server has written so far: its log."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class RealtimeLiveServerTestCase(TransactionTestCase):
    """A test case with a server of its own for each test: `self.live_server_url`, `self.websocket_url`.

    For each test, because between tests the tables are emptied, and a log that is taken away under a running server is
    no case it is made for. Starting takes about a second.
    """

    realtime_settings: ClassVar[Mapping[str, object]] = {}
    """Keys of REALTIME, for the server alone."""

    server: LiveServer

    @property
    def live_server_url(self) -> str:
        return self.server.url

    @property
    def websocket_url(self) -> str:
        return self.server.websocket_url

    def setUp(self) -> None:
        super().setUp()
        # Emptied tables were not heard of.
        namespaces.reset()
        self.server = LiveServer(self.realtime_settings)
        self.server.start()
        # Runs before the tables are emptied.
        self.addCleanup(self.server.stop)


def _databases() -> dict[str, dict[str, Any]]:
    """Which databases the test uses, for another process."""
    found = {}
    for connection in connections.all():
        name = connection.settings_dict["NAME"]
        if connection.vendor == "sqlite" and connection.is_in_memory_db():  # type: ignore[attr-defined]
            raise ImproperlyConfigured(
                f"The test database {connection.alias!r} is in memory, where no server process can see it. Set "
                f"DATABASES[{connection.alias!r}]['TEST'] = {{'NAME': BASE_DIR / 'test.sqlite3'}}."
            )
        found[connection.alias] = {"NAME": str(name)}
    return found


def _websocket_path() -> str:
    from realtime.conf import settings

    return settings.WEBSOCKET_PATH
