"""Every page in both themes, wide and narrow: no finding of axe-core, no sideways scrolling, no complaint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parent.parent
AXE = (ROOT / "tests/vendor/axe-core/axe.min.js").read_text()


@pytest.fixture(scope="module", autouse=True)
def something_to_see(site: Site) -> Iterator[None]:
    site.manage("demo", "--force")
    feed = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "feed", "--url", site.url], env=site.environment()
    )
    yield
    feed.kill()
    feed.wait()


def findings(page: Page) -> list[str]:
    """What axe-core finds by WCAG 2.2 A and AA and best practice."""
    # By the debugger, not by a script element, which the page's policy would block.
    page.evaluate(AXE)
    result: dict[str, Any] = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for each in result["violations"]
        for node in each["nodes"]
    ]


def look(person: Person, wide: bool) -> None:
    page = person.page
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
    assert person.faults() == []
    if not wide:
        # Nothing that one can do ends outside of the screen.
        outside = page.evaluate(_OUTSIDE)
        assert outside == []


_OUTSIDE = """() => [...document.querySelectorAll(":is(main, header) :is(button, a, input, summary)")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.closest("[data-table], .tile pre"))
  .map((each) => [each.outerHTML.slice(0, 90), each.getBoundingClientRect()])
  .filter(([, box]) => box.width > 1 && box.right > 0 && (box.right > innerWidth + 1 || box.left < -1))
  .map(([html]) => html)"""

#: The others with -m slow.
#: Each theme at one width with all tests, the others with -m slow.
VIEWS = [
    pytest.param(width, theme, marks=[] if (width, theme) in ((1440, "dark"), (360, "light")) else pytest.mark.slow)
    for width in (1440, 1024, 390, 360)
    for theme in ("light", "dark")
]


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_pages_have_no_barriers(site: Site, browser: Browser, theme: str, width: int) -> None:
    person = Person(
        site, browser, "ana", viewport={"width": width, "height": 860}, color_scheme=theme, reduced_motion="reduce"
    )
    try:
        wide = width > 760
        for path in ("/", "/accounts/login/", "/no-such-page"):
            person.open(path)
            person.complaints[:] = []  # a 404 is an error to the console
            look(person, wide)
        person.open("/accounts/login/")
        person.page.click("main button[type=submit]")
        person.page.fill("#id_username", "ana")
        person.page.fill("#id_password", "wrong")
        person.page.click("main button[type=submit]")
        person.page.get_by_role("alert").wait_for()
        look(person, wide)
        person.log_in()
        person.enter("lobby")
        look(person, wide)
        person.page.locator("[data-line-chip]").click()
        look(person, wide)
        person.page.keyboard.press("Escape")
        if not wide:
            person.page.locator("[data-drawer-open]").click()
            look(person, wide)
            person.page.keyboard.press("Escape")
        if width <= 1180:
            person.page.locator("[data-side-open]").click()
            look(person, wide)
            person.page.keyboard.press("Escape")
        person.open("/dashboards/")
        look(person, wide)
        for slug in ("weather", "seattle", "match", "quiz"):
            person.open(f"/dashboards/{slug}/")
            person.wait_for_word("Live")
            eventually(lambda: person.ledger("received") not in ("", "0"), LONG_S)
            look(person, wide)
    finally:
        person.close()


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        ("dark", 360),
        pytest.param("light", 1440, marks=pytest.mark.slow),
        pytest.param("dark", 1440, marks=pytest.mark.slow),
        pytest.param("light", 360, marks=pytest.mark.slow),
    ],
)
def test_what_opens_on_a_dashboard_has_no_barriers(site: Site, browser: Browser, theme: str, width: int) -> None:
    context: dict[str, Any] = {"viewport": {"width": width, "height": 860}, "color_scheme": theme}
    person = Person(site, browser, "admin", reduced_motion="reduce", **context).log_in()
    page, wide = person.page, width > 760
    person.open("/dashboards/weather/")
    person.wait_for_word("Live")
    eventually(lambda: person.ledger("received") not in ("", "0"), LONG_S)
    page.get_by_role("button", name="Show as table").first.click()
    page.locator("[data-kind=line] tbody td").first.wait_for()
    page.get_by_role("button", name="Pause").click()
    look(person, wide)
    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Make a link").click()
    eventually(lambda: page.locator("[data-share-link]").input_value() != "", LONG_S)
    look(person, wide)
    link = page.locator("[data-share-link]").input_value()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Edit").click()
    look(person, wide)
    page.get_by_role("button", name="Add a widget").click()
    look(person, wide)
    page.keyboard.press("Escape")
    visitor = Person(site, browser, "", reduced_motion="reduce", **context)
    visitor.page.goto(link)
    visitor.wait_for_word("Live")
    eventually(lambda: visitor.ledger("received") not in ("", "0"), LONG_S)
    look(visitor, wide)
    visitor.close()
    person.close()


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_states_of_trouble_have_no_barriers(browser: Browser, theme: str) -> None:
    with Site() as site:
        site.manage("demo", "--force")
        person = Person(site, browser, "ana", color_scheme=theme, reduced_motion="reduce").log_in()
        person.enter("stage-crew")
        person.say("before")
        person.wait_for_texts("before")
        site.kill()
        person.say("while away")
        person.wait_for_word("Offline")
        look(person, True)
        site.start()
        person.wait_for_texts("before", "while away")
        for number in range(24):
            person.say(f"flood {number}")
        eventually(lambda: any(each.startswith("Not sent") for each in person.states), LONG_S)
        look(person, True)
        person.close()


def test_targets_are_large_enough_for_a_finger(site: Site, browser: Browser) -> None:
    person = Person(
        site, browser, "ana", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    ).log_in()
    for path in ("/chat/lobby/", "/dashboards/weather/", "/"):
        person.open(path)
        small = person.page.evaluate(_SMALL)
        assert small == [], path
    person.close()


_SMALL = """() => [...document.querySelectorAll("button, a, summary, input, textarea")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.matches(".text a, .skip, .serial"))
  .map((each) => [each.outerHTML.slice(0, 100), each.getBoundingClientRect()])
  .filter(([, box]) => box.width > 1 && (box.height < 39.5 || box.width < 39.5))
  .map(([html, box]) => `${Math.round(box.width)}x${Math.round(box.height)} ${html}`)"""


def test_a_chosen_theme_stays_and_is_there_before_the_first_paint(site: Site, browser: Browser) -> None:
    person = Person(site, browser, "ana", color_scheme="light")
    person.open("/")
    person.page.get_by_role("button", name="Switch theme").click()
    assert person.page.evaluate("document.documentElement.dataset.theme") == "dark"
    person.page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { window.first = document.documentElement.dataset.theme; })"
    )
    person.open("/accounts/login/")
    assert person.page.evaluate("window.first") == "dark"
    person.close()
