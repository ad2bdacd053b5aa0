"""Dashboards in Chromium: every kind of widget from history to live against the log, with conflation and a death."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

CHANNEL = "demo:widgets"
KINDS: dict[str, dict[str, Any]] = {
    "line": {"field": "v"},
    "area": {"field": "v", "options": {"by_key": True}},
    "gauge": {"field": "v", "options": {"max": 1000}},
    "number": {"field": "v", "options": {"alert": 60}},
    "bar": {"field": "colour", "options": {"fold": "count"}},
    "table": {"field": "v", "options": {"columns": ["v", "colour"]}},
    "feed": {"field": "v"},
    "lights": {"field": "state"},
}


class Publisher:
    """A backend that publishes over REST."""

    def __init__(self, site: Site) -> None:
        self._site = site
        cap = json.dumps({name: ["publish"] for name in (CHANNEL, "scores:live", "demo:commentary")})
        self._token = site.manage("issue_token", "publisher", "--cap", cap, "--ttl", "3600").strip()

    def publish(self, channel: str, messages: list[dict[str, Any]]) -> None:
        request = urllib.request.Request(
            f"{self._site.url}/api/v1/channels/{quote(channel, safe='')}/messages",
            json.dumps({"messages": messages}).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20):
            pass

    def numbers(self, start: int, stop: int) -> None:
        """Values start … stop - 1; so are their serials, where nobody else publishes."""
        self.publish(
            CHANNEL,
            [
                {
                    "id": f"n{value}",
                    "key": f"k{value % 2}",
                    "data": {"v": value, "colour": ("red", "blue", "green")[value % 3], "state": "live"},
                }
                for value in range(start, stop)
            ],
        )


@pytest.fixture(scope="module")
def publisher(site: Site) -> Publisher:
    site.manage("demo", "--force")
    publisher = Publisher(site)
    publisher.numbers(1, 31)
    return publisher


@pytest.fixture
def ana(site: Site, browser: Browser, publisher: Publisher) -> Iterator[Person]:
    person = Person(site, browser, "ana").log_in()
    yield person
    person.close()


_SEND = """async ([url, method, body]) => {
  const token = /csrftoken=([^;]+)/.exec(document.cookie)[1];
  const response = await fetch(url, { method, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "X-CSRFToken": token } });
  return response.json();
}"""


def make_dashboard(ana: Person) -> str:
    """One with every kind of widget; its address."""
    ana.open("/dashboards/")
    url: str = ana.page.evaluate(_SEND, ["/dashboards/api/new", "POST", {"name": "All kinds"}])["url"]
    widgets = [
        {"kind": kind, "title": kind, "channel": CHANNEL, "span": 4, "options": {}, **more}
        for kind, more in KINDS.items()
    ]
    slug = url.split("/")[2]
    ana.page.evaluate(_SEND, [f"/dashboards/api/of/{slug}", "PUT", {"name": "All kinds", "widgets": widgets}])
    return url


def widget(ana: Person, kind: str) -> Any:
    return ana.page.locator(f"[data-kind={kind}]")


def serials_of(ana: Person) -> list[int]:
    """Of the feed, newest first."""
    return [
        int(each) for each in ana.page.eval_on_selector_all("[data-serial]", "all => all.map(e => e.dataset.serial)")
    ]


def assert_exact(ana: Person, head: int) -> None:
    """Every widget says what the log of 1 … head says."""
    eventually(lambda: ana.ledger("received") == str(head), LONG_S, what=f"all {head} messages")
    eventually(lambda: widget(ana, "number").locator("[data-value]").inner_text() == str(head), LONG_S)
    assert (ana.ledger("missing"), ana.ledger("doubled")) == ("0", "0")
    assert widget(ana, "gauge").locator("[data-value]").inner_text() == str(head)
    assert serials_of(ana) == list(range(head, head - 30, -1))
    bars = dict(
        zip(*(widget(ana, "bar").locator(f"span.{each}").all_inner_texts() for each in ("ell", "n")), strict=True)
    )
    counts = {
        colour: sum(value % 3 == index for value in range(1, head + 1))
        for index, colour in enumerate(("red", "blue", "green"))
    }
    assert bars == {colour: str(count) for colour, count in counts.items()}
    state = {f"k{value % 2}": str(value) for value in (head - 1, head)}
    rows = [row.split("\t")[:2] for row in widget(ana, "table").locator("tbody tr").all_inner_texts()]
    assert dict(rows) == state
    assert widget(ana, "lights").locator("li").count() == 2
    shown = widget(ana, "line").locator("tbody tr td:first-child").all_inner_texts()
    assert [int(each.lstrip("#")) for each in shown] == list(range(head, max(0, head - 60), -1))
    assert widget(ana, "area").locator("canvas").count() == 1
    assert ana.faults() == []


def test_every_widget_from_history_to_live_through_a_death_of_the_server(
    site: Site, ana: Person, publisher: Publisher
) -> None:
    url = make_dashboard(ana)
    ana.open(url)
    ana.wait_for_word("Live")
    widget(ana, "line").get_by_role("button", name="Show as table").click()
    assert_exact(ana, 30)
    publisher.numbers(31, 51)
    publisher.numbers(45, 62)
    assert_exact(ana, 61)
    # The number went over its threshold while it was looked at.
    assert "at or over 60" in (ana.page.locator("[data-announce]").text_content() or "")
    site.kill()
    ana.wait_for_word("Offline")
    badge = ana.page.locator("[data-state]")
    eventually(lambda: badge.inner_text() == "8 widgets behind", LONG_S)
    assert re.fullmatch(r"\d+ s behind|\d+ min behind", widget(ana, "number").locator(".badge").inner_text())
    site.start()
    publisher.numbers(62, 91)
    assert_exact(ana, 90)
    # Somebody who comes later reads the same.
    ana.page.reload()
    widget(ana, "line").get_by_role("button", name="Show as table").click()
    assert_exact(ana, 90)


def test_who_falls_behind_gets_the_newest_score_and_every_line(ana: Person, publisher: Publisher) -> None:
    def score(number: int) -> dict[str, Any]:
        return {"key": "match", "data": {"score": f"{number}:0", "home": number, "clock": "1′"}}

    publisher.publish("scores:live", [score(0)])
    publisher.publish("demo:commentary", [{"data": {"text": "Kick-off"}}])
    ana.open("/dashboards/match/")
    ana.wait_for_word("Live")
    eventually(lambda: "0:0" in widget(ana, "table").inner_text(), LONG_S)
    ana.page.get_by_role("button", name="Fall behind").click()
    for number in range(1, 61):
        publisher.publish("scores:live", [score(number)])
    publisher.publish("demo:commentary", [{"data": {"text": f"line {number}"}} for number in range(1, 30)])
    assert "60:0" not in widget(ana, "table").inner_text()
    ana.page.get_by_role("button", name="Catch up").click()
    eventually(lambda: "60:0" in widget(ana, "table").inner_text(), LONG_S)
    eventually(lambda: len(serials_of(ana)) == 30, LONG_S)
    said = widget(ana, "feed").locator("li span").all_inner_texts()
    assert [each.strip() for each in said] == [f"line {number}" for number in range(29, 0, -1)] + ["Kick-off"]
    merged = int(ana.ledger("merged"))
    assert merged > 0
    assert f"Showing the newest; {merged} merged, counts are exact." in widget(ana, "table").inner_text()
    # 61 scores and 30 lines: each was received or merged, none was lost or doubled.
    assert int(ana.ledger("received")) + merged == 91
    assert (ana.ledger("missing"), ana.ledger("doubled")) == ("0", "0")


def test_time_stands_still_goes_back_and_goes_on_by_keys(ana: Person, publisher: Publisher) -> None:
    url = make_dashboard(ana)
    ana.open(url)
    ana.wait_for_word("Live")
    eventually(lambda: ana.ledger("received") != "0", LONG_S)
    before = int(ana.ledger("received"))
    value = widget(ana, "number").locator("[data-value]").inner_text()
    ana.page.keyboard.press("Space")
    state = ana.page.locator("[data-state]")
    eventually(lambda: re.fullmatch(r"Paused at \d\d:\d\d:\d\d", state.inner_text()), LONG_S)
    publisher.numbers(before + 1, before + 4)
    button = ana.page.locator("[data-pause]")
    eventually(lambda: button.inner_text().strip() == "Go live (3 since)", LONG_S)
    assert widget(ana, "number").locator("[data-value]").inner_text() == value
    paused = ana.page.locator("[data-state]").inner_text()
    ana.page.keyboard.press("Shift+ArrowLeft")
    eventually(lambda: ana.page.locator("[data-state]").inner_text() != paused, LONG_S)
    ana.page.keyboard.press("0")
    eventually(lambda: widget(ana, "number").locator("[data-value]").inner_text() == str(before + 3), LONG_S)


def test_it_is_edited_by_keyboard_and_shared_by_a_link(site: Site, browser: Browser, ana: Person) -> None:
    ana.open(make_dashboard(ana))
    page = ana.page
    page.get_by_role("button", name="Edit").press("Enter")
    page.get_by_role("button", name="Move later: line").press("Enter")
    page.get_by_role("button", name="Remove: lights").press("Enter")
    page.get_by_role("button", name="Add a widget").press("Enter")
    page.fill("#w-title", "Newest")
    page.fill("#w-field", "v")
    page.fill("#w-options", '{"colour": "red"}')
    page.press("#w-field", "Enter")
    page.get_by_role("button", name="Save").press("Enter")
    page.get_by_role("alert").filter(has_text="no option 'colour'").wait_for()
    page.get_by_role("button", name="Change: Newest").press("Enter")
    page.fill("#w-options", '{"alert": 5}')
    page.press("#w-field", "Enter")
    with page.expect_navigation():
        page.get_by_role("button", name="Save").press("Enter")
    titles = [kind for kind in KINDS if kind != "lights"]
    eventually(
        lambda: page.locator("[data-widget] h2").all_inner_texts() == ["area", "line", *titles[2:], "Newest"], LONG_S
    )
    page.get_by_role("button", name="Share").press("Enter")
    page.get_by_role("button", name="Make a link").press("Enter")
    eventually(lambda: page.locator("[data-share-link]").input_value() != "", LONG_S)
    link = page.locator("[data-share-link]").input_value()
    visitor = Person(site, browser, "nobody")
    visitor.page.goto(link)
    visitor.wait_for_word("Live")
    eventually(lambda: visitor.ledger("received") == ana.ledger("received") != "0", LONG_S)
    assert visitor.page.get_by_role("button", name="Edit").count() == 0
    page.get_by_role("button", name="Take back all links").press("Enter")
    visitor.wait_for_word("Signed out")
    visitor.close()
    # A refused save is an error to the console.
    assert [each for each in ana.faults() if "400" not in each] == []
