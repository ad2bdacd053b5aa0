"""The chat in Chromium over each transport, while the server is killed; the browser's own EventSource, and curl."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

WORDS = {"websocket": "WebSocket", "streaming": "Streaming", "sse": "SSE", "polling": "Polling"}


@pytest.fixture(scope="module", autouse=True)
def demo(site: Site) -> None:
    site.manage("demo", "--force")


@pytest.fixture(scope="module")
def people(site: Site, browser: Browser, demo: None) -> Iterator[dict[str, Person]]:
    """ana with a window for each transport, all in one room."""
    ana = Person(site, browser, "ana").log_in()
    state = ana.context.storage_state()
    ana.close()
    windows = {}
    for transport in WORDS:
        person = windows[transport] = Person(site, browser, "ana", storage_state=state)
        person.open(f"/chat/stage-crew/?transport={transport}")
        person.wait_for_word("Live")
    yield windows
    for person in windows.values():
        person.close()


def test_every_transport_carries_the_chat_and_survives_the_server(site: Site, people: dict[str, Person]) -> None:
    for transport, person in people.items():
        assert WORDS[transport] in person.page.locator("[data-line-chip] .via").inner_text()
        person.say(f"before, by {transport}")
    before = [f"before, by {transport}" for transport in people]
    for person in people.values():
        for text in before:
            person.wait_for_texts(text)
    site.kill()
    for transport, person in people.items():
        person.say(f"meanwhile, by {transport}")
    site.start()
    meanwhile = [f"meanwhile, by {transport}" for transport in people]
    for person in people.values():
        for text in before + meanwhile:
            person.wait_for_texts(text)
        person.wait_for_word("Live")
        person.assert_whole()
    assert len({tuple(person.texts) for person in people.values()}) == 1


def test_pages_that_were_frozen_or_offline_go_on(people: dict[str, Person]) -> None:
    writer = people["polling"]
    away = {name: people[name] for name in ("websocket", "streaming")}
    sessions = {name: person.context.new_cdp_session(person.page) for name, person in away.items()}
    for session in sessions.values():
        session.send("Page.setWebLifecycleState", {"state": "frozen"})
    writer.say("while they are frozen")
    writer.wait_for_texts("while they are frozen")
    for session in sessions.values():
        session.send("Page.setWebLifecycleState", {"state": "active"})
    for person in away.values():
        person.wait_for_texts("while they are frozen")
        person.context.set_offline(True)
    writer.say("while they are offline")
    writer.wait_for_texts("while they are offline")
    for name, person in away.items():
        person.say(f"{name}, offline")
        person.context.set_offline(False)
    for person in away.values():
        person.wait_for_texts("while they are frozen", "while they are offline")
        person.wait_for_word("Live")
        for name in away:
            person.wait_for_texts(f"{name}, offline")
        assert (person.ledger("missing"), person.ledger("doubled")) == ("0", "0")


_LISTEN = """async () => {
  window.post = (path, body) => fetch(path, { method: "POST", body, headers: {
    "Content-Type": "application/json", "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value } });
  const list = JSON.stringify({ attach: [{ channel: "news", from: "start" }] });
  const ticket = await (await window.post("/api/v1/tickets", list)).json();
  window.seen = { plain: [], ticket: [] };
  window.closes = [];
  window.sources = {};
  for (const [name, url] of [["plain", "/api/v1/channels/news/events?from=start"], ["ticket", ticket.url]]) {
    const source = window.sources[name] = new EventSource(url);
    source.addEventListener("message", (event) => window.seen[name].push(JSON.parse(event.data).serial));
    source.addEventListener("close", (event) => window.closes.push([name, JSON.parse(event.data).code]));
  }
  return ticket.url;
}"""


class Curl:
    """`curl -N`, begun again behind the last event that it was given, by whoever wrote the loop around it."""

    def __init__(self, url: str, cookie: str) -> None:
        self.command = ["curl", "-sN", "-H", f"Cookie: {cookie}", url]
        self.serials: list[int] = []
        self.starts = 0
        self._last_id: str | None = None
        self._running: subprocess.Popen[str] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopped:
            resume = [] if self._last_id is None else ["-H", f"Last-Event-ID: {self._last_id}"]
            self._running = subprocess.Popen([*self.command, *resume], stdout=subprocess.PIPE, text=True)
            self.starts += 1
            assert self._running.stdout is not None
            told: dict[str, str] = {}
            for line in self._running.stdout:
                name, _, value = line.rstrip("\n").partition(": ")
                if line != "\n":
                    told[name] = value
                    continue
                if told.get("event") == "message":
                    self.serials.append(json.loads(told["data"])["serial"])
                self._last_id = told.get("id", self._last_id)
                told = {}
            self._running.wait()
            time.sleep(0.05)

    def stop(self) -> None:
        self._stopped = True
        if self._running is not None:
            self._running.terminate()
        self._thread.join(LONG_S)


def test_event_sources_and_curl_resume_across_restarts_until_the_session_ends(
    site: Site, people: dict[str, Person]
) -> None:
    person = people["sse"]
    ticket_url = person.page.evaluate(_LISTEN)
    cookie = "; ".join(f"{each['name']}={each['value']}" for each in person.context.cookies())
    curl = Curl(f"{site.url}/api/v1/channels/news/events?from=start", cookie)
    count = 0

    def publish() -> None:
        nonlocal count
        count += 3
        data = json.dumps([f"n{number}" for number in range(count - 3, count)])
        site.manage("shell", given=f"from realtime.publishing import publish\nfor d in {data}: publish('news', d)\n")
        seen = "Math.min(seen.plain.length, seen.ticket.length)"
        eventually(lambda: person.page.evaluate(seen) >= count, LONG_S, what="all events")
        eventually(lambda: len(curl.serials) >= count, LONG_S, what="all events by curl")

    publish()
    for _ in range(2):
        site.kill()
        time.sleep(0.2)
        site.start()
        publish()
    curl.stop()
    everything = list(range(1, count + 1))
    assert person.page.evaluate("seen") == {"plain": everything, "ticket": everything}
    assert curl.serials == everything and curl.starts >= 3

    # The session ends: the ticket's stream is told so, its EventSource stops, and whoever asks hears what to do.
    person.page.evaluate("() => post('/accounts/logout/').then(() => 0)")
    eventually(lambda: ["ticket", 4401] in person.page.evaluate("closes"), LONG_S, what="told 4401")
    eventually(lambda: person.page.evaluate("sources.ticket.readyState") == 2, LONG_S, what="stopped")
    refused = person.context.request.get(site.url + ticket_url)
    assert refused.status == 401
    assert "POST /tickets" in refused.json()["error"]["remedy"]
