"""Several workers under their supervisor: real processes on PostgreSQL and Redis, killed, replaced and ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import eventually
from tests.servers import Postgres, Redis, Site, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

PATIENCE_S = 60


class Workers(Site):
    """The site with two workers; its process is the supervisor."""

    count = 2

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def command(self) -> list[str]:
        return [*super().command(), "--workers", str(self.count)]

    def answers(self) -> bool:
        return len(self.workers()) == self.count and all_ready(self.url)

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return {int(pid) for pid in children.read_text().split()}
        except FileNotFoundError:
            return set()


def all_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def workers(postgres_server: Postgres, redis_server: Redis) -> Iterator[Workers]:
    with Workers(DATABASE_URL=postgres_server.url, REDIS_URL=redis_server.url) as site:
        yield site


def test_a_killed_worker_is_started_again_and_the_others_go_on(workers: Workers) -> None:
    before = workers.workers()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    assert all_ready(workers.url)
    eventually(lambda: len(workers.workers() - {victim}) == 2, timeout_s=PATIENCE_S)
    assert len(workers.workers() & before) == 1


def test_sighup_replaces_all_one_by_one_without_a_pause(workers: Workers) -> None:
    before = workers.workers()
    os.kill(workers.process.pid, signal.SIGHUP)

    def replaced() -> bool:
        # One request may meet the worker that has just begun to leave, which says so; the next meets another.
        assert any(all_ready(workers.url) for _ in range(3)), "nobody served while workers were replaced"
        return not before & workers.workers() and len(workers.workers()) == 2

    eventually(replaced, timeout_s=PATIENCE_S)


def test_sigterm_ends_all(postgres_server: Postgres, redis_server: Redis) -> None:
    with Workers(DATABASE_URL=postgres_server.url, REDIS_URL=redis_server.url) as site:
        pids = site.workers()
        site.process.terminate()
        assert site.process.wait(PATIENCE_S) == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_workers_end_with_a_supervisor_that_is_killed(postgres_server: Postgres, redis_server: Redis) -> None:
    with Workers(DATABASE_URL=postgres_server.url, REDIS_URL=redis_server.url) as site:
        pids = site.workers()
        site.process.kill()
        site.process.wait(PATIENCE_S)
        eventually(lambda: not [pid for pid in pids if running(pid)], timeout_s=PATIENCE_S)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


CRASHING = """
import socket, sys
from realtime.server import supervisor
supervisor.BACKOFF_FIRST_S = supervisor.BACKOFF_LAST_S = 0.01
listening = supervisor.bind("127.0.0.1", int(sys.argv[1]), 16)
supervisor.Supervisor(
    1, lambda *_: [sys.executable, "-c", "raise SystemExit(3)"], listening, drain_s=1,
    say=lambda text: print(text, flush=True),
).run()
"""


def test_a_crash_loop_is_called_one_and_starting_goes_on() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(free_port())],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if len([each for each in said if "starting it again" in each]) >= 7:
                break
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert re.search(r"has ended 5 times within 10 s", "".join(said))
    assert "status 3" in said[0]
