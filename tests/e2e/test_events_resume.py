"""Server-Sent Events without any library: Chromium's EventSource and `curl -N` at three workers without a balancer.

`python -m pytest -m slow tests/e2e/test_events_resume.py`. All workers are replaced, then killed one after the other;
meanwhile the tokens run out.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.conftest import MS, eventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import token
from tests.servers import Postgres, Redis

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

PATIENCE_S = 60_000 * MS
TTL_S = 10
"""Of each token. Several run out while the test goes on."""
EVERY_S = 0.05


@pytest.fixture
def server(postgres_server: Postgres, redis_server: Redis) -> Iterator[ServerProcess]:
    url = postgres_server.create_database("events")
    with ServerProcess(database_url=url, workers=3, REDIS_URL=redis_server.url) as running:
        yield running


class Publisher:
    """Says 1, 2, 3 … by REST, each with an id, until it is stored; by whichever worker answers."""

    def __init__(self, server: ServerProcess) -> None:
        self.count = 0
        self._server = server
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        bearer = token("publisher")
        while not self._stopped.wait(EVERY_S):
            number = self.count + 1
            request = urllib.request.Request(
                f"{self._server.url}/api/v1/channels/news/messages",
                json.dumps({"id": f"m{number}", "data": number}).encode(),
                {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
            )
            with suppress(OSError), urllib.request.urlopen(request, timeout=PATIENCE_S):
                self.count = number

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE_S)


class Curl:
    """`curl -N` in a loop, as in a shell: again behind the last id, and with another token when it hears 401."""

    def __init__(self, url: str) -> None:
        self.serials: list[int] = []
        self.starts = 0
        self.refused = 0
        self._url = url
        self._stopped = False
        self._running: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        bearer, last_id = token("curl", ttl_s=TTL_S), ""
        while not self._stopped:
            command = ["curl", "-sN", "-w", "\nstatus: %{http_code}\n", "-H", f"Authorization: Bearer {bearer}"]
            resume = ["-H", f"Last-Event-ID: {last_id}"] if last_id else []
            self._running = subprocess.Popen([*command, *resume, self._url], stdout=subprocess.PIPE, text=True)
            assert self._running.stdout is not None
            self.starts += 1
            event: dict[str, str] = {}
            for line in self._running.stdout:
                name, _, value = line.rstrip("\n").partition(": ")
                if name == "status" and value == "401":
                    self.refused += 1
                    bearer = token("curl", ttl_s=TTL_S)
                if line != "\n":
                    event[name] = value
                    continue
                if event.get("event") == "message":
                    self.serials.append(json.loads(event["data"])["serial"])
                last_id = event.get("id", last_id)
                event = {}
            self._running.wait()
            time.sleep(0.1)

    def stop(self) -> None:
        self._stopped = True
        if self._running is not None:
            self._running.terminate()
        self._thread.join(PATIENCE_S)


_FOLLOW = """() => {
  Object.assign(window, { serials: [], opened: 0, expired: 0 });
  let position = "start";
  const follow = async () => {
    const token = await newToken();
    const list = { attach: [{ channel: "news", from: position }] };
    let ticket;
    try {
      const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
      ticket = await (await fetch("/api/v1/tickets", { method: "POST", headers, body: JSON.stringify(list) })).json();
    } catch {
      ticket = {};
    }
    if (ticket.url === undefined) return void setTimeout(follow, 200);
    const source = new EventSource(ticket.url);
    let epoch = null;
    source.onopen = () => void (opened += 1);
    source.addEventListener("attached", (event) => void ({ epoch } = JSON.parse(event.data)));
    source.addEventListener("message", (event) => {
      const { serial } = JSON.parse(event.data);
      serials.push(serial);
      position = { epoch, serial };
    });
    source.addEventListener("close", (event) => {
      if (JSON.parse(event.data).code !== 4401) return;
      // The ticket is worth as much as its token.
      expired += 1;
      source.close();
      follow();
    });
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return;
      expired += 1;
      follow();
    };
  };
  follow();
}"""


def pids(server: ServerProcess) -> set[int]:
    return {worker.pid for worker in server.workers()}


def wait_for_others(server: ServerProcess, before: set[int], count: int) -> None:
    """Until so many of the three workers are others, and those before are gone."""

    def are_others() -> bool:
        now = pids(server)
        return len(now) == 3 and len(now - before) == count

    eventually(are_others, PATIENCE_S, what=f"{count} other workers")


def test_event_source_and_curl_go_on_behind_the_last_event(server: ServerProcess, browser: Browser) -> None:
    page = browser.new_context().new_page()
    page.expose_function("newToken", lambda: token("chromium", ttl_s=TTL_S))
    page.goto(f"{server.url}/healthz")
    page.evaluate(_FOLLOW)
    curl = Curl(f"{server.url}/api/v1/channels/news/events?from=start")
    publisher = Publisher(server)

    def level() -> bool:
        count = publisher.count
        return count > 0 and len(curl.serials) >= count and int(page.evaluate("serials.length")) >= count

    try:
        eventually(level, PATIENCE_S, what="both hear")
        before = pids(server)
        server.signal(signal.SIGHUP)
        wait_for_others(server, before, 3)
        eventually(level, PATIENCE_S, what="both hear after the replacement")
        for worker in server.workers():
            before = pids(server)
            worker.signal(signal.SIGKILL)
            wait_for_others(server, before, 1)
        eventually(level, PATIENCE_S, what="both hear after the kills")
        eventually(lambda: curl.refused > 1 and page.evaluate("expired") > 1, PATIENCE_S, what="tokens ran out")
        publisher.stop()
        eventually(level, PATIENCE_S, what="both have everything")
    finally:
        publisher.stop()
        curl.stop()
    seen, opened, expired = page.evaluate("[serials, opened, expired]")
    page.context.close()
    print(f"{publisher.count} messages; curl: {curl.starts} starts, {curl.refused} × 401;", end=" ")
    print(f"EventSource: {opened} connections, {expired} × 4401 or 401")
    everything = list(range(1, publisher.count + 1))
    assert seen == everything
    assert curl.serials == everything
