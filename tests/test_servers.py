from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.conftest import MS, eventually
from tests.servers import Postgres, Redis, ServerError, site_environment

ROOT = Path(__file__).resolve().parent.parent


def can_connect(url: str) -> bool:
    address = urlsplit(url.strip())
    assert address.port
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", address.port)) == 0


def test_postgresql_keeps_what_was_committed_when_it_is_killed(own_postgres_server: Postgres) -> None:
    port = own_postgres_server.port
    dsn = own_postgres_server.create_database("kept")
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (7)")
    own_postgres_server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    own_postgres_server.start()
    assert own_postgres_server.port == port
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (7,)


def test_postgresql_does_not_run_as_root(postgres_server: Postgres) -> None:
    assert postgres_server._process is not None
    status = Path(f"/proc/{postgres_server._process.pid}/status").read_text()
    assert "\nUid:\t0\t" not in status


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up its rights")
def test_postgresql_starts_from_a_folder_that_others_cannot_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers._can", lambda user, path, mode: "pginstall" not in path)
    with Postgres() as server:
        assert server._binaries.is_relative_to(server.folder)
    assert not server.folder.exists()


def test_redis_can_be_killed_paused_and_started_again(own_redis_server: Redis) -> None:
    own_redis_server.pause()
    assert not own_redis_server.answers()
    own_redis_server.resume()
    assert own_redis_server.answers()
    own_redis_server.kill()
    assert not own_redis_server.answers()
    own_redis_server.start()
    assert own_redis_server.answers()


def test_a_server_that_does_not_start_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Redis()
    monkeypatch.setattr(server, "command", lambda: ["sh", "-c", "echo no room; exit 1"])
    with pytest.raises(ServerError, match="no room"):
        server.start()
    server.close()


def test_the_command_line_gives_the_address_returns_the_status_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.servers", "redis", "--", "sh", "-c", "echo $REDIS_URL; exit 3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert not can_connect(done.stdout)


def test_the_command_line_stops_its_servers_when_it_is_stopped(tmp_path: Path) -> None:
    told = tmp_path / "url"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.servers", "redis", "--", "sh", "-c", f"echo $REDIS_URL > {told}; exec sleep 60"],
        cwd=ROOT,
        start_new_session=True,
    )
    eventually(lambda: told.exists() and told.read_text().strip(), 10_000 * MS)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) != 0
    assert not can_connect(told.read_text())


def test_the_command_line_explains_itself() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.servers", "mysql"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"usage" in done.stderr


def test_a_process_of_the_site_needs_no_other_environment(site_environment: dict[str, str]) -> None:
    manage = [sys.executable, "manage.py"]
    subprocess.run([*manage, "migrate", "-v0"], cwd=ROOT, env=site_environment, check=True)
    subprocess.run([*manage, "check", "--database", "default"], cwd=ROOT, env=site_environment, check=True)


def test_a_process_of_the_site_without_secrets_says_what_is_missing(tmp_path: Path) -> None:
    environment = site_environment(tmp_path, SECRET_KEY="", ALLOWED_HOSTS="", WORKERS="3")
    command = [sys.executable, "manage.py", "check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    for expected in ("realtime.E014", "realtime.E003", "realtime.E004", "realtime.E008", "HINT: Set DATABASE_URL"):
        assert expected in done.stderr
