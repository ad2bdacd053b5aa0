"""The chat in Chromium over each transport, while the server is killed; and the browser's own EventSource."""

from __future__ import annotations

import json
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


_LISTEN = """url => {
  window.seen = [];
  window.source = new EventSource(url);
  window.source.addEventListener("message", (event) => {
    window.seen.push([event.lastEventId, JSON.parse(event.data).serial]);
  });
}"""


def test_an_event_source_resumes_by_itself_across_restarts(site: Site, people: dict[str, Person]) -> None:
    person = people["sse"]
    person.page.evaluate(_LISTEN, "/api/v1/channels/news/events?from=start")
    count = 0

    def publish() -> None:
        nonlocal count
        count += 3
        data = json.dumps([f"n{number}" for number in range(count - 3, count)])
        site.manage("shell", given=f"from realtime.publishing import publish\nfor d in {data}: publish('news', d)\n")
        eventually(lambda: len(person.page.evaluate("seen")) >= count, LONG_S, what="all events")

    publish()
    for _ in range(2):
        site.kill()
        time.sleep(0.2)
        site.start()
        publish()
    assert [serial for _, serial in person.page.evaluate("seen")] == list(range(1, count + 1))
