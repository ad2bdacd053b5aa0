"""Several workers under their supervisor: real processes on PostgreSQL and Redis, killed, replaced and ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.conftest import MS, WITHIN_S, aeventually, eventually
from tests.e2e.wire import Talker, talker, token
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


PEOPLE = "from django.contrib.auth.models import User; User.objects.create_superuser('eve', password='one')"


async def test_an_operator_drains_one_worker_while_redis_is_away(workers: Workers, redis_server: Redis) -> None:
    """Its clients are sent to the other, those of the other notice nothing, and another process takes its place."""
    await asyncio.to_thread(workers.manage, "shell", "-c", PEOPLE)
    sockets: dict[str, Talker] = {}
    while len(sockets) < 2:
        socket = await talker(workers.port)
        socket.send({"type": "auth", "token": token(f"c{len(sockets)}")})
        sockets.setdefault((await socket.until("ready"))["worker"], socket)
    before = workers.workers()
    async with httpx.AsyncClient(base_url=workers.url, trust_env=False, timeout=PATIENCE_S) as desk:
        await log_in(desk, "eve")
        ids: dict[str, str] = {}

        async def both_are_listed() -> bool:
            # Who was just started may not have been heard of.
            page = (await desk.get("/admin/realtime/liveconnection/drain/")).text
            ids.update((name, worker) for worker, name in re.findall(r'value="([^"]+)"[^>]*> <b>(w\d)</b>', page))
            return ids.keys() == {"w1", "w2"}

        await aeventually(both_are_listed, PATIENCE_S, every_s=100 * MS)
        await asyncio.to_thread(redis_server.pause)
        try:
            form = {"csrfmiddlewaretoken": desk.cookies["csrftoken"], "worker": ids["w2"]}
            headers = {"Origin": workers.url, "Connection": "close"}
            answer = await desk.post("/admin/realtime/liveconnection/drain/", data=form, headers=headers)
            drained_at = time.time()
            assert answer.status_code == 302
            assert (await sockets["w2"].until("reconnect", PATIENCE_S))["reason"] == "drain"
            assert time.time() - drained_at < WITHIN_S
            while await sockets["w2"].receive(PATIENCE_S) is not None:
                pass
            assert sockets["w2"].close_code == 1012
        finally:
            await asyncio.to_thread(redis_server.resume)
        await aeventually(lambda: len(workers.workers() - before) == 1, PATIENCE_S)
        await aeventually(workers.answers, PATIENCE_S)
        assert len(workers.workers() & before) == 1
        # The page is of either worker: both write one audit log.
        shown = re.sub(r"<[^>]+>", "", (await desk.get("/admin/realtime/act/", headers={"Connection": "close"})).text)
        assert re.search(r"user:eve\s+drain worker\s+w2", shown)
    assert (await sockets["w1"].ask({"type": "ping", "ref": 1}))["type"] == "pong"
    await sockets["w1"].close()


async def log_in(desk: httpx.AsyncClient, name: str) -> None:
    await desk.get("/admin/login/")
    form = {"csrfmiddlewaretoken": desk.cookies["csrftoken"], "username": name, "password": "one"}
    answer = await desk.post("/admin/login/", data=form, headers={"Origin": str(desk.base_url).rstrip("/")})
    assert answer.status_code == 302


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


WAITING = """
import os, pathlib, signal, sys, time
folder, ready = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(folder / f"{os.getpid()}.started").touch()
while not (folder / f"{os.getpid()}.go").exists():
    time.sleep(0.01)
os.write(ready, b"ready")
os.close(ready)
signal.pause()
"""

CRASHING = "raise SystemExit(3)"

SUPERVISING = """
import sys
from realtime.server import supervisor
supervisor.BACKOFF_FIRST_S = supervisor.BACKOFF_LAST_S = 0.01
port, worker, folder = sys.argv[1:]
listening = supervisor.bind("127.0.0.1", int(port), 16)
supervisor.Supervisor(
    1, lambda number, fd, ready: [sys.executable, "-c", worker, folder, str(ready)], listening, drain_s=1,
    say=lambda text: print(text, flush=True),
).run()
"""


@contextmanager
def supervising(worker: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A supervisor of one worker, which is this program; what it says. It ends in order."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISING, str(free_port()), worker, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_two_never_start_in_one_place(tmp_path: Path) -> None:
    """Replaced while it starts, and dying while its replacement starts: who is ready last answers under the name."""

    def started(count: int) -> list[int]:
        """Their processes, once there are so many; no more come soon."""
        eventually(lambda: len(list(tmp_path.glob("*.started"))) >= count, PATIENCE_S)
        time.sleep(300 * MS)
        found = sorted(tmp_path.glob("*.started"), key=lambda path: path.stat().st_mtime_ns)
        assert len(found) == count
        return [int(path.stem) for path in found]

    with supervising(WAITING, tmp_path) as (process, said):
        (first,) = started(1)
        process.send_signal(signal.SIGHUP)
        started(1)
        (tmp_path / f"{first}.go").touch()
        second = started(2)[1]
        os.kill(first, signal.SIGKILL)
        started(2)
        (tmp_path / f"{second}.go").touch()
        assert "starting it again" in said.readline()
        assert f"Worker 1 is replaced by process {second}." in said.readline()
        os.kill(second, signal.SIGKILL)
        started(3)


def test_a_crash_loop_is_called_one_and_starting_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    with supervising(CRASHING, tmp_path) as (_, lines):
        for line in lines:
            said.append(line)
            if len([each for each in said if "starting it again" in each]) >= 7:
                break
    assert re.search(r"has ended 5 times within 10 s", "".join(said))
    assert "status 3" in said[0]
