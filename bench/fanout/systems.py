"""The systems that are compared, and how each is started: one process on the server's core, on a free port.

Each is set up as its own documentation says, with what it needs for thousands of connections and nothing that slows it
down: no access log, no compression, no second process between.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine
from bench.fanout import load, peers
from tests.servers import free_port


@dataclass(frozen=True)
class System:
    """One of those compared. `prepare` installs what it needs and gives the command that serves on a port."""

    name: str
    title: str
    command: Callable[[Path, int, int], list[str]]
    """(folder of its own, port, connections) → command line"""
    environment: Callable[[Path], dict[str, str]] = field(default=lambda folder: dict(os.environ))
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Server:
    """One that listens: its port, and all its processes."""

    port: int
    pids: list[int]


@contextmanager
def running(system: System, folder: Path, connections: int) -> Iterator[Server]:
    """The system on the server's core, from when it listens; ended in the end."""
    port = free_port()
    with open(folder / "log", "wb") as log:
        child = subprocess.Popen(
            system.command(folder, port, connections),
            cwd=machine.ROOT,
            env=system.environment(folder),
            stdout=log,
            stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, machine.SERVER_CORES),
        )
    try:
        try:
            machine._wait(child, port)
        except SystemExit as error:
            raise SystemExit(f"{system.title}: {error}\n{(folder / 'log').read_text()[-2000:]}") from None
        time.sleep(0.5)  # what it does after it listens: workers, first sweeps
        yield Server(port, family(child.pid))
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += family(int(child))
    return found


# -- the systems


def _floor(folder: Path, port: int, connections: int) -> list[str]:
    return [str(load.build("floor")), str(port)]


def _nchan(folder: Path, port: int, connections: int) -> list[str]:
    nginx, module = peers.nginx()
    (folder / "nginx.conf").write_text(
        f"""
        load_module {module};
        daemon off;
        {"user root;" if os.geteuid() == 0 else ""}
        worker_processes 1;
        pid {folder}/nginx.pid;
        error_log stderr error;
        events {{ worker_connections {connections + 100}; }}
        http {{
            access_log off;
            keepalive_requests 1000000000;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location = /sub {{
                    nchan_subscriber websocket; nchan_channel_id room; nchan_subscriber_first_message newest;
                }}
                location = /pub {{ nchan_publisher; nchan_channel_id room; nchan_message_buffer_length 1000; }}
            }}
        }}
        """
    )
    return [str(nginx), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _seriatim(folder: Path, port: int, connections: int) -> list[str]:
    template = folder.parent / "seriatim.sqlite3"
    if "DATABASE_URL" in os.environ or not template.exists():
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=machine.ROOT, env=machine.environment(folder), check=True)
        if (folder / "db.sqlite3").exists():
            # One migration for all rounds; the journal is gone, since the last connection was closed.
            shutil.copy(folder / "db.sqlite3", template)
    else:
        shutil.copy(template, folder / "db.sqlite3")
    return [sys.executable, "manage.py", "serve", "--port", str(port)]


SYSTEMS = {
    system.name: system
    for system in (
        System("floor", "C, one send() each", _floor),
        System("nchan", "nginx + nchan", _nchan, prepare=peers.nginx),
        System("seriatim", "Seriatim", _seriatim, environment=machine.environment),
    )
}
