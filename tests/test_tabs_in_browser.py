"""Twenty tabs of one browser, over HTTP alone: six connections are all it has, and every tab is live all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.slow]

TABS = 20
PLACES = "Object.keys(localStorage).filter(key => key.startsWith('seriatim.place.')).length"
SHOWN = (
    "text => [...document.querySelectorAll('[data-list] li.msg[id] .text')].filter(e => e.innerText === text).length"
)


def wait_until_live(tab: Page) -> None:
    tab.wait_for_function(
        "() => document.querySelector('[data-line-chip] b')?.innerText === 'Live'", timeout=3 * LONG_S * 1000
    )


@pytest.mark.parametrize("transport", ["streaming", "sse"])
def test_twenty_tabs_are_live_and_pages_load(site: Site, browser: Browser, transport: str) -> None:
    site.manage("demo", "--force")
    ana, bo = Person(site, browser, "ana").log_in(), Person(site, browser, "bo").log_in()
    try:
        address = f"{site.url}/chat/stage-crew/?transport={transport}"
        tabs = [ana.page, *[ana.context.new_page() for _ in range(TABS - 1)]]
        for tab in tabs:
            tab.goto(address, timeout=3 * LONG_S * 1000)
        for tab in tabs:
            wait_until_live(tab)
        assert ana.page.evaluate(PLACES) == 3
        # Each says which one carries it: three have a lasting request, the others ask again and again.
        word = {"streaming": "Streaming", "sse": "SSE"}[transport]
        eventually(
            lambda: (
                sorted(tab.locator("[data-line-chip] .via").inner_text().split(" ")[0] for tab in tabs)
                == sorted([word] * 3 + ["Polling"] * (TABS - 3))
            ),
            LONG_S,
            what="every chip names what carries its tab",
        )
        bo.enter("stage-crew")
        for text in (f"first, by {transport}", f"second, by {transport}"):
            bo.say(text)
            for tab in tabs:
                tab.wait_for_function(f"text => ({SHOWN})(text) > 0", arg=text, timeout=LONG_S * 1000)
        # Each tab by itself says something, and another page loads beside them.
        for tab in (tabs[0], tabs[-1]):
            tab.fill("#text", f"from tab {tabs.index(tab)}, {transport}")
            tab.press("#text", "Enter")
        other = ana.context.new_page()
        other.goto(f"{site.url}/dashboards/", timeout=LONG_S * 1000)
        other.close()
        said = [f"{n}, by {transport}" for n in ("first", "second")]
        said += [f"from tab {n}, {transport}" for n in (0, TABS - 1)]
        for tab in tabs:
            for text in said:
                tab.wait_for_function(f"text => ({SHOWN})(text) > 0", arg=text, timeout=LONG_S * 1000)
                assert tab.evaluate(SHOWN, text) == 1
        # Places that are given back are taken.
        for tab in tabs[:10]:
            tab.close()
        tabs[-1].wait_for_function(f"() => {PLACES} === 3", timeout=LONG_S * 1000)
    finally:
        ana.close()
        bo.close()
