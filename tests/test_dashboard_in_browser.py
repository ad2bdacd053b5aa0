"""The dashboard in Chromium: from history to live, through the death of the server and of the feed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"


class FeedProcess:
    """`manage.py feed` in a process of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(MANAGE), "feed", "--url", self._site.url], env=self._site.environment()
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def feed(site: Site) -> Iterator[FeedProcess]:
    process = FeedProcess(site)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def ana(site: Site, browser: Browser) -> Iterator[Person]:
    site.manage("demo", "--force")
    person = Person(site, browser, "ana").log_in()
    yield person
    person.close()


def number(text: str) -> int:
    return int(re.sub(r"\D", "", text) or 0)


def seconds_shown(person: Person) -> list[str]:
    return person.page.locator("[data-table] tbody tr td:nth-child(2)").all_inner_texts()


def assert_whole(person: Person) -> None:
    """Numbers of the table without a hole, nothing missing or doubled, no complaint of the page."""
    numbers = [number(each) for each in person.page.locator("[data-table] tbody tr td:first-child").all_inner_texts()]
    assert numbers == list(range(numbers[0], numbers[0] - len(numbers), -1))
    assert (person.ledger("missing"), person.ledger("doubled")) == ("0", "0")
    assert person.faults() == []


def test_history_and_live_readings_are_one_curve(ana: Person, feed: FeedProcess) -> None:
    ana.open("/dashboards/weather/")
    ana.wait_for_word("Live")
    eventually(lambda: number(ana.ledger("received")) > 300, LONG_S, what="five minutes of history")
    before = number(ana.ledger("through"))
    eventually(lambda: number(ana.ledger("through")) >= before + 3, LONG_S, what="three live readings")
    assert ana.page.locator("[data-figure=wind] [data-value]").inner_text() != "–"
    assert "km/h" in (ana.page.locator("[data-chart=wind]").get_attribute("aria-label") or "")
    assert ana.page.locator("[data-chart] canvas").count() == 2
    assert_whole(ana)


def test_the_server_dies_and_what_was_read_meanwhile_follows(site: Site, ana: Person, feed: FeedProcess) -> None:
    ana.open("/dashboards/weather/")
    ana.wait_for_word("Live")
    eventually(lambda: number(ana.ledger("received")) > 300, LONG_S)
    site.kill()
    ana.wait_for_word("Offline")
    badge = ana.page.locator("[data-state]")
    eventually(lambda: re.fullmatch(r"\d+ s behind", badge.inner_text()), LONG_S)
    assert " at " in ana.page.locator("[data-figure=wind] [data-unit]").inner_text()
    assert "to come" in ana.page.locator("[data-chart=wind] .to-come").inner_text()
    at_death = number(ana.ledger("through"))
    site.start()
    ana.wait_for_word("Live")
    eventually(lambda: number(ana.ledger("through")) > at_death + 5, LONG_S)
    eventually(lambda: not badge.is_visible(), LONG_S)
    ana.page.get_by_role("button", name="Show the last 60").click()
    assert len(seconds_shown(ana)) == 60
    assert len(set(seconds_shown(ana))) == 60
    assert_whole(ana)


def test_the_feed_dies_and_continues_without_doubles(ana: Person, feed: FeedProcess) -> None:
    ana.open("/dashboards/weather/")
    ana.wait_for_word("Live")
    eventually(lambda: number(ana.ledger("received")) > 300, LONG_S)
    feed.kill()
    badge = ana.page.locator("[data-state]")
    # The line is live and nothing is to come: nobody sends, and that is what is said.
    eventually(lambda: badge.inner_text().startswith("Quiet for"), LONG_S)
    before = number(ana.ledger("through"))
    feed.start()
    eventually(lambda: number(ana.ledger("through")) > before + 5, LONG_S)
    eventually(lambda: not badge.is_visible(), LONG_S)
    ana.page.get_by_role("button", name="Show the last 60").click()
    assert len(set(seconds_shown(ana))) == 60
    assert_whole(ana)


def test_a_pause_stops_the_drawing_and_not_the_readings(ana: Person, feed: FeedProcess) -> None:
    ana.open("/dashboards/weather/")
    ana.wait_for_word("Live")
    eventually(lambda: number(ana.ledger("received")) > 300, LONG_S)
    ana.page.keyboard.press("Space")
    assert re.fullmatch(r"Paused at \d\d:\d\d:\d\d", ana.page.locator("[data-state]").inner_text())
    shown = seconds_shown(ana)
    button = ana.page.locator("[data-pause]")
    eventually(lambda: re.fullmatch(r"Go live \([2-9] since\)", button.inner_text().strip()), LONG_S)
    assert seconds_shown(ana) == shown
    button.click()
    eventually(lambda: seconds_shown(ana) != shown, LONG_S)
    assert_whole(ana)
