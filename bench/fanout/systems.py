"""The systems that are compared, and how each is started: on the server's core, on a free port.

Each is set up as its own documentation says, with what it needs for thousands of connections and nothing that slows it
down: no access log, no compression, no proxy in front. Seriatim is the site as `manage.py serve` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine
from bench.fanout import hammer, install, load
from realtime.conf import Settings

HERE = "bench/fanout"


AFTER_LISTENING_S = 0.5
"""For workers that are forked, and first sweeps that are made, once the socket listens."""

NGINX_BESIDE = 1000
"""What an nginx worker with nchan has open beside its clients: listeners, and pipes between workers."""


def _nothing() -> None:
    """For systems that need no installation."""


def _own_environment(folder: Path, connections: int) -> dict[str, str]:
    return dict(os.environ)


@dataclass(frozen=True)
class System:
    """One of those compared."""

    name: str
    """Also the dialect that the load generator speaks to it, unless `options` names another."""
    title: str
    command: Callable[[Path, int, int], list[str]]
    """(a folder of its own, port, connections) → command line"""
    environment: Callable[[Path, int], dict[str, str]] = _own_environment
    """(the folder, connections) → environment variables"""
    install: Callable[[], object] = _nothing
    """Makes sure that it is there; `install.Missing` where that cannot be."""
    options: Mapping[str, object] = field(default_factory=dict)
    """For the load generator."""


@contextmanager
def running(system: System, folder: Path, connections: int) -> Iterator[tuple[int, list[int]]]:
    """The system, started for this: its port and all its processes. Ended in the end."""
    with machine.serving(
        lambda port: system.command(folder, port, connections),
        folder,
        system.environment(folder, connections),
        folder / "log",
    ) as process:
        time.sleep(AFTER_LISTENING_S)
        yield process.port, machine.family(process.pid)


def _floor(folder: Path, port: int, connections: int) -> list[str]:
    return [str(load.build("floor")), str(port)]


def _nchan(folder: Path, port: int, connections: int) -> list[str]:
    program, module = install.nginx()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""
        load_module {module};
        daemon off;
        {"user root;" if os.geteuid() == 0 else ""}
        worker_processes 1;
        pid {folder}/nginx.pid;
        error_log stderr error;
        events {{ worker_connections {connections + NGINX_BESIDE}; }}
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
    return [str(program), "-e", "stderr", "-p", str(folder), "-c", str(configuration)]


def _seriatim(folder: Path, port: int, connections: int) -> list[str]:
    # One migration for all rounds. The file is whole: its journal went with the last connection.
    migrated = folder.parent / "migrated.sqlite3"
    if migrated.exists():
        shutil.copy(migrated, folder / "db.sqlite3")
    else:
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=machine.ROOT, env=_seriatim_environment(folder, connections), check=True)
        if "DATABASE_URL" not in os.environ:
            hammer.create_operator(_seriatim_environment(folder, connections))
            shutil.copy(folder / "db.sqlite3", migrated)
    return [sys.executable, "manage.py", "serve", "--port", str(port)]


def _seriatim_environment(folder: Path, connections: int) -> dict[str, str]:
    """The site in production form; one worker, so without Redis even when another system here has one.

    Its settings are the defaults, but for limits that would refuse so many clients from one address.
    """
    site = {name: value for name, value in machine.environment(folder).items() if name != "REDIS_URL"}
    for name in ("CONNECTIONS_MAX", "CONNECTIONS_PER_ADDRESS_MAX", "CONNECTIONS_BURST"):
        if connections > getattr(Settings, name).default:
            site[f"REALTIME_{name}"] = str(connections)
    return site


def _node(script: str) -> Callable[[Path, int, int], list[str]]:
    return lambda folder, port, connections: [install.node(), f"{HERE}/{script}", str(port)]


def _node_environment(folder: Path, connections: int) -> dict[str, str]:
    return {**os.environ, "NODE_PATH": str(install.NODE / "node_modules"), "NODE_ENV": "production"}


def _channels(folder: Path, port: int, connections: int) -> list[str]:
    daphne = [sys.executable, "-m", "daphne", "--verbosity", "0", "--bind", "127.0.0.1", "--port", str(port)]
    return [*daphne, "bench.fanout.channels_site:application"]


def _layer_environment(folder: Path, connections: int) -> dict[str, str]:
    return {**os.environ, "LAYER_URL": os.environ["REDIS_URL"]}


FEW = {"dialect": "channels", "burst": 4, "ahead": 4}
"""Their layers drop what is 100 messages ahead of a consumer, and to 4,000 of them each message takes seconds."""

SYSTEMS = {
    system.name: system
    for system in (
        System("floor", "C, one send() each", _floor),
        System("nchan", "nginx + nchan", _nchan, install=install.nginx),
        System("seriatim", "Seriatim", _seriatim, _seriatim_environment),
        System("ws", "Node ws", _node("ws.cjs"), _node_environment, install.node),
        System("socketio", "Socket.IO", _node("socketio.cjs"), _node_environment, install.node),
        System("channels", "Channels + Daphne", _channels, options=FEW),
        System("channels-redis", "the same on Redis", _channels, _layer_environment, install.redis, FEW),
    )
}
