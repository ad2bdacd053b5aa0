"""A real Prometheus with the delivered configuration, before real workers: one stops, and somebody is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.balancers import DEPLOY, program, program_environment
from tests.conftest import MS, eventually
from tests.e2e.processes import ServerProcess
from tests.servers import Postgres, Redis, Server

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

#: Instead of 15 s, so that a run takes seconds. A scrape waits 2 s for a worker that is stuck.
SCRAPE_S = 4


class Prometheus(Server):
    """`deploy/prometheus` in a folder of its own; only times, the key's place and the target are others."""

    name = "prometheus"

    def __init__(self, target: str, key: str) -> None:
        super().__init__()
        self._target = target
        self._key = key

    def prepare(self) -> None:
        shutil.copytree(DEPLOY / "prometheus", self.folder, dirs_exist_ok=True)
        (self.folder / "seriatim.key").write_text(self._key)
        (self.folder / "targets" / "seriatim.yml").write_text(f'- targets: ["{self._target}"]\n')
        self._replace("prometheus.yml", "15s", f"{SCRAPE_S}s", 2)
        self._replace("prometheus.yml", "/etc/prometheus/seriatim.key", f"{self.folder}/seriatim.key", 1)
        self._replace("rules.yml", "for: 1m", "for: 1s")

    def _replace(self, name: str, old: str, new: str, count: int | None = None) -> None:
        path: Path = self.folder / name
        text = path.read_text()
        assert old in text
        assert count is None or text.count(old) == count
        path.write_text(text.replace(old, new))

    def command(self) -> list[str]:
        return [
            program("usr/bin/prometheus"),
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def environment(self) -> dict[str, str]:
        return program_environment()

    def answers(self) -> bool:
        try:
            with closing(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=2)) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, path: str) -> dict[str, object]:
        with closing(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=5)) as answer:
            found: dict[str, object] = json.load(answer)["data"]
            return found

    def firing(self) -> set[str]:
        alerts = self.ask("alerts")["alerts"]
        assert isinstance(alerts, list)
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def healthy(self) -> bool:
        targets = self.ask("targets")["activeTargets"]
        assert isinstance(targets, list)
        return [target["health"] for target in targets] == ["up"]


def test_a_worker_that_stops_is_told_of_until_it_goes_on(postgres_server: Postgres, own_redis_server: Redis) -> None:
    url = postgres_server.create_database("alerts")
    server = ServerProcess(database_url=url, workers=2, REDIS_URL=own_redis_server.url)
    try:
        server.start()
        key = server.manage("create_api_key", "prometheus", "--cap", '{"$metrics":["admin"]}').strip()
        with Prometheus(f"127.0.0.1:{server.port}", key) as prometheus:
            eventually(prometheus.healthy, 30_000 * MS, every_s=0.5)
            assert prometheus.firing() == set()
            stopped = server.workers()[0]
            os.kill(stopped.pid, signal.SIGSTOP)
            try:
                # Which one depends on who is asked: its sibling, or the one that does not answer.
                told = eventually(prometheus.firing, 60_000 * MS, every_s=0.5)
                assert told <= {"SeriatimWorkerMissing", "SeriatimUnreachable"}
            finally:
                os.kill(stopped.pid, signal.SIGCONT)
            eventually(lambda: not prometheus.firing(), 60_000 * MS, every_s=0.5)
    finally:
        server.close()
