"""Metrics of several workers behind one address, as a scraper sees them while workers are stopped, killed, replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.conftest import eventually
from tests.e2e.test_supervisor import PATIENCE_S, Workers
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

#: More than one worker takes before another has as many.
CLIENTS = 20

Samples = dict[tuple[str, ...], float]


class Scraped(Workers):
    """Two workers and a key for their metrics."""

    key = ""

    def scrape(self) -> Samples:
        answer = httpx.get(
            f"{self.url}/metrics", headers={"Authorization": f"Bearer {self.key}"}, timeout=20, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def up(self) -> dict[str, float]:
        return {key[1]: value for key, value in self.scrape().items() if key[0] == "seriatim_worker_up"}


@pytest.fixture(scope="module")
def site(postgres_server: Postgres, redis_server: Redis) -> Iterator[Scraped]:
    with Scraped(DATABASE_URL=postgres_server.create_database("metrics"), REDIS_URL=redis_server.url) as running:
        running.key = running.manage("create_api_key", "prometheus", "--cap", '{"$metrics":["admin"]}').strip()
        yield running


def test_whoever_answers_a_scrape_has_the_numbers_of_all(site: Scraped) -> None:
    token = site.manage("issue_token", "ana", "--cap", '{"*":["*"]}').strip()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"{site.url.replace('http', 'ws')}/ws")) for _ in range(CLIENTS)]
        for socket in sockets:
            socket.send(json.dumps({"type": "auth", "token": token}))
            assert json.loads(socket.recv(PATIENCE_S))["type"] == "ready"
            socket.send(json.dumps({"type": "attach", "ref": 1, "channel": "all"}))
            assert json.loads(socket.recv(PATIENCE_S))["type"] == "attached"
        for number, socket in enumerate(sockets):
            messages = [{"id": f"m{number}", "data": number}]
            socket.send(json.dumps({"type": "publish", "ref": 2, "channel": "all", "messages": messages}))

        def delivered() -> float:
            return sum(value for key, value in site.scrape().items() if key[0] == "seriatim_messages_delivered_total")

        # Each scrape is answered by either worker, and each has both.
        for _ in range(6):
            eventually(lambda: delivered() == CLIENTS**2, timeout_s=PATIENCE_S, every_s=0.1)
            samples = site.scrape()
            assert site.up() == {"w1": 1, "w2": 1}
            assert sum(samples["seriatim_connections", worker, "websocket"] for worker in ("w1", "w2")) == CLIENTS
            published = [samples["seriatim_messages_published_total", "socket", worker] for worker in ("w1", "w2")]
            assert sum(published) == CLIENTS
    # What one worker committed, the other heard of, after a time that was measured, if anybody there follows.
    for worker, (own, of_other) in (("w1", published), ("w2", published[::-1])):
        assert (samples["seriatim_announce_lag_seconds_count", worker] > 0) == (own > 0 and of_other > 0)


def test_a_worker_that_is_stopped_is_down_and_the_others_are_told(site: Scraped) -> None:
    victim = min(site.workers())
    os.kill(victim, signal.SIGSTOP)
    try:
        # Connections that the kernel gives to the stopped one wait; try until the other one answers.
        def down() -> bool:
            try:
                return sorted(site.up().values()) == [0, 1]
            except httpx.TimeoutException:
                return False

        eventually(down, timeout_s=PATIENCE_S)
    finally:
        os.kill(victim, signal.SIGCONT)
    eventually(lambda: site.up() == {"w1": 1, "w2": 1}, timeout_s=PATIENCE_S)


def test_a_worker_that_is_killed_comes_back_under_its_name(site: Scraped) -> None:
    def starts() -> dict[str, float]:
        return {k[1]: v for k, v in site.scrape().items() if k[0] == "seriatim_worker_start_time_seconds"}

    eventually(lambda: len(starts()) == 2, timeout_s=PATIENCE_S)
    before = starts()
    os.kill(min(site.workers()), signal.SIGKILL)
    eventually(lambda: 0 in site.up().values(), timeout_s=PATIENCE_S, what="its death shows")
    eventually(lambda: site.up() == {"w1": 1, "w2": 1}, timeout_s=PATIENCE_S)
    after = starts()
    assert set(after) == {"w1", "w2"}
    assert len([name for name in after if after[name] != before[name]]) == 1


def test_replaced_workers_take_their_names_over(site: Scraped) -> None:
    before = site.workers()
    os.kill(site.process.pid, signal.SIGHUP)

    def replaced() -> bool:
        # At no time a name is there twice, or missing.
        assert site.up() == {"w1": 1, "w2": 1}
        return not before & site.workers() and len(site.workers()) == 2

    eventually(replaced, timeout_s=PATIENCE_S, every_s=0.05)
    assert site.up() == {"w1": 1, "w2": 1}
