"""Every page in both themes, wide and narrow: no finding of axe-core, no sideways scrolling, no complaint."""

from __future__ import annotations

import json
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
    from playwright.sync_api import Browser, Page, Route

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
        person.page.evaluate(_FLOOD)  # quicker than the limit is on any machine
        eventually(lambda: any(each.startswith("Not sent") for each in person.states), LONG_S)
        look(person, True)
        person.close()


_FLOOD = """() => {
  const text = document.querySelector("#text");
  for (let number = 0; number < 40; number++) {
    text.value = `flood ${number}`;
    text.dispatchEvent(new Event("input", { bubbles: true }));
    text.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  }
}"""

#: The desk: the pages that are ours, lists and forms that are the theme's with what desk.js adds to it.
DESK = ["", "realtime/namespace/add/"]
DESK_TOO = [
    *(
        f"realtime/{each}/"
        for each in ("channel", "liveconnection", "namespace", "limit", "apikey", "revocation", "signingkey", "act")
    ),
    *(f"realtime/{each}/add/" for each in ("limit", "apikey", "revocation", "signingkey")),
    *(f"realtime/liveconnection/{each}" for each in ("announce/", "trace/?message=chat:lobby%231")),
    *("auth/user/", "auth/group/", "chat/room/", "dashboards/dashboard/"),
]
ERRORS = """
import json
from django.template.loader import render_to_string
print("@@" + json.dumps([render_to_string(name) for name in ("403.html", "403_csrf.html", "500.html")]))
"""


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        ("dark", 360),
        pytest.param("light", 1440, marks=pytest.mark.slow),
        pytest.param("dark", 1440, marks=pytest.mark.slow),
        pytest.param("light", 360, marks=pytest.mark.slow),
    ],
)
def test_the_desk_the_api_and_errors_have_no_barriers(
    site: Site, browser: Browser, theme: str, width: int, request: pytest.FixtureRequest
) -> None:
    every = "slow" in [each.name for each in request.node.iter_markers()]
    context: dict[str, Any] = {"viewport": {"width": width, "height": 860}, "color_scheme": theme}
    person = Person(site, browser, "admin", reduced_motion="reduce", **context)
    page = person.page
    try:
        person.open("/admin/")
        assert findings(page) == []
        person.log_in()
        for path in [*DESK, *(DESK_TOO if every else [])]:
            person.open(f"/admin/{path}")
            page.locator("[role=main]").wait_for()
            assert findings(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        if width < 760:
            # The theme has only a listener to clicks there: on a phone nobody could get to the other pages by keys.
            person.open("/admin/")
            page.get_by_role("button", name="Navigation").press("Enter")
            page.get_by_role("link", name="Namespaces").wait_for()
            assert findings(page) == []
        person.open("/api/docs")
        page.locator("#operations-channels-publish button").first.click()
        page.locator("#operations-channels-publish .try-out__btn").click()
        page.locator("#operations-channels-publish .execute").wait_for()
        look(person, width > 760)
        page.locator(".btn.authorize").first.click()
        page.locator(".modal-ux").wait_for()
        look(person, width > 760)
        person.open("/accounts/logout/")
        look(person, width > 760)
        if every:
            # Nothing of the site can be made to fail on purpose: the pages as they are made then.
            for html in json.loads(site.manage("shell", "-c", ERRORS).split("@@")[1]):
                page.route("**/failing", lambda route, _, html=html: answer(route, html))
                person.open("/failing")
                page.unroute("**/failing")
                person.complaints[:] = []
                look(person, width > 760)
    finally:
        person.close()


def answer(route: Route, html: str) -> None:
    route.fulfill(body=html, content_type="text/html; charset=utf-8", status=500)


LONG_WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
LONG_NAMES = f"""
from django.contrib.auth import get_user_model
from chat.models import Membership, Room
from realtime.publishing import publish
ana = get_user_model().objects.get(username="ana")
other = get_user_model().objects.create(
    username="long", first_name="Wolfeschlegelsteinhausenbergerdorffvoralternwaren", last_name="{LONG_WORD[:60]}"
)
room = Room.objects.create(slug="long", name="{LONG_WORD[:60]}", topic="{LONG_WORD} {LONG_WORD}")
for user in (ana, other):
    Membership.objects.create(room=room, user=user, role="moderator")
for number in range(60):
    room = Room.objects.create(slug=f"many-{{number}}", name=f"many {{number}}")
    Membership.objects.create(room=room, user=ana, role="member")
publish("chat:long", {{"text": "{LONG_WORD * 3}", "mentions": ["long"]}}, client="long")
publish("chat:long", {{"text": "```\\n{"x" * 300}\\n```\\n> {LONG_WORD * 2}\\n- `{"y" * 200}`"}}, client="long")
publish("chat:long", {{"text": "a reply {LONG_WORD}", "thread": 1}}, client="long")
"""
#: As WCAG 1.4.12 has it.
SPACED = """() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    * { line-height: 1.5 !important; letter-spacing: .12em !important; word-spacing: .16em !important; }
    p { margin-bottom: 2em !important; }`);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}"""


@pytest.mark.slow
def test_long_words_and_wide_text_fit_at_every_width(site: Site, browser: Browser) -> None:
    """Names without a place to break, many rooms, WCAG's text spacing; 720 px are 1440 px at a zoom of 200 %."""
    site.manage("shell", "-c", LONG_NAMES)
    for width in (360, 720, 1440):
        person = Person(
            site, browser, "ana", viewport={"width": width, "height": 450}, reduced_motion="reduce"
        ).log_in()
        page = person.page
        person.enter("long")
        person.page.locator("[data-list] .th").first.wait_for()
        look(person, width > 760)
        page.locator("[data-list] .th").first.click()
        page.locator("[data-thread-list] li.msg").first.wait_for()
        look(person, width > 760)
        cut = page.evaluate(_CUT)
        assert cut == []
        for path in (
            "/",
            "/chat/lobby/",
            "/dashboards/",
            "/dashboards/weather/",
            "/cursors/",
            "/console/",
            "/api/docs",
        ):
            person.open(path)
            page.wait_for_load_state("networkidle") if path == "/api/docs" else None
            page.evaluate(SPACED)
            look(person, width > 760)
        person.close()


#: Text of names and messages that ends outside of what holds it and cannot be scrolled to.
_CUT = """() => [...document.querySelectorAll(".msg .by b, .msg .text, .about p, .people li > *")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }))
  .filter((each) => each.getBoundingClientRect().right > each.closest("main, .side").getBoundingClientRect().right + 1)
  .map((each) => each.outerHTML.slice(0, 90))"""


def test_without_javascript_the_pages_say_so(site: Site, browser: Browser) -> None:
    person = Person(site, browser, "ana", java_script_enabled=False)
    person.open("/accounts/login/")
    assert person.page.get_by_text("JavaScript is off.").count() == 0  # one can log in without it
    person.log_in()
    for path in ("/", "/chat/stage-crew/", "/dashboards/weather/", "/cursors/", "/console/"):
        person.open(path)
        assert person.page.get_by_text("JavaScript is off.").is_visible(), path
        assert person.page.locator("[data-line-chip]").is_hidden(), "it connects to nothing"
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
