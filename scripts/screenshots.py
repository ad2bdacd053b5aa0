"""Takes the pictures of docs/images from a running site of its own: `python -m scripts.screenshots`.

`pages` behind it takes those of home, log in, cursors and console alone; `dashboards`, `chat`, `desk` and `trouble`
theirs. Needs what the browser tests need, and fonts with the signs that people send each other (Debian: fonts-inter,
fonts-noto-color-emoji). Run it when a page has changed, and look at the result.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser import chromium
from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
WIDE = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
FORMATS: dict[str, dict[str, Any]] = {"": WIDE, "-phone": PHONE}
DESK = {"desk": "/admin/", "desk-live": "/admin/realtime/liveconnection/", "api": "/api/docs"}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [each for each in wanted if each not in PARTS]:
        sys.exit(f"No such pictures: {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    with Site(DEMO="1") as site, chromium() as browser, feeding(site):
        site.manage("demo")
        if {"chat", "desk", "trouble"} & set(wanted):
            talk(site, browser)
        for each in wanted:
            PARTS[each](site, browser)


def dashboards(site: Site, browser: Browser) -> None:
    """The list, the mast, this server, and the editor with a widget open."""
    for theme in ("light", "dark"):
        for form, context in FORMATS.items():
            suffix = f"{form}{'' if theme == 'light' else '-dark'}"
            ana = Person(site, browser, "admin", color_scheme=theme, **context).log_in()
            ana.open("/dashboards/")
            shoot(ana, f"dashboards{suffix}")
            ana.open("/dashboards/server/")
            ana.wait_for_word("Live")
            eventually(lambda ana=ana: len(ana.ledger("received")) >= 2, LONG_S)
            ana.page.wait_for_timeout(1500)
            shoot(ana, f"dashboard-server{suffix}")
            ana.open("/dashboards/weather/")
            ana.wait_for_word("Live")
            eventually(lambda ana=ana: len(ana.ledger("received")) >= 3, LONG_S)
            ana.page.wait_for_timeout(1500)
            shoot(ana, f"dashboard{suffix}")
            ana.page.get_by_role("button", name="Edit").click()
            ana.page.get_by_role("button", name="Change: Gusts").click()
            shoot(ana, f"dashboard-edit{suffix}")
            ana.close()


def chat(site: Site, browser: Browser) -> None:
    """The lobby with somebody else in it, and a thread."""
    bo = Person(site, browser, "bo").log_in()
    bo.enter("lobby")
    for theme in ("light", "dark"):
        for form, context in FORMATS.items():
            suffix = f"{form}{'' if theme == 'light' else '-dark'}"
            ana = Person(site, browser, "ana", color_scheme=theme, **context).log_in()
            ana.enter("lobby")
            ana.page.get_by_text("Here now, 2").wait_for(state="attached")
            eventually(partial(is_seen_typing, bo, ana), LONG_S, every_s=1.0)
            shoot(ana, f"chat{suffix}")
            ana.page.locator("[data-list] .th").first.click()
            ana.page.wait_for_timeout(700)
            shoot(ana, f"chat-thread{suffix}")
            ana.close()
    bo.close()


def is_seen_typing(bo: Person, ana: Person) -> bool:
    bo.page.locator("#text").press_sequentially("So ")
    ana.page.wait_for_timeout(500)
    return ana.page.get_by_text("Bo is typing").is_visible()


def desk(site: Site, browser: Browser) -> None:
    """The operator's front page, its live connections, and the page of the HTTP interface."""
    bo = Person(site, browser, "bo").log_in()
    bo.enter("lobby")
    # Rates are told when there has been time to count.
    bo.page.wait_for_timeout(60_000)
    for theme in ("light", "dark"):
        for form, context in FORMATS.items():
            suffix = f"{form}{'' if theme == 'light' else '-dark'}"
            admin = Person(site, browser, "admin", color_scheme=theme, **context).log_in()
            for name, path in DESK.items():
                admin.open(path)
                admin.page.wait_for_timeout(1000)
                shoot(admin, f"{name}{suffix}")
            admin.close()
    bo.close()


def pages(site: Site, browser: Browser) -> None:
    """Home with a line that was cut, log in, cursors with company, the console while it is held."""
    company = [Person(site, browser, "") for _ in range(4)]
    for each in company:
        each.open("/cursors/")
        each.wait_for_word("Live")
    for theme in ("light", "dark"):
        for form, context in FORMATS.items():
            suffix = f"{form}{'' if theme == 'light' else '-dark'}"
            ana = Person(site, browser, "ana", color_scheme=theme, **context)
            ana.open("/accounts/login/")
            shoot(ana, f"login{suffix}")
            ana.log_in()
            shoot_home(ana, f"home{suffix}")
            shoot_cursors(ana, company, f"cursors{suffix}")
            shoot_console(ana, f"console{suffix}")
            ana.close()
    for each in company:
        each.close()


def shoot_home(ana: Person, name: str) -> None:
    ana.open("/")
    lane = ana.page.locator("[data-lane=phone]")
    eventually(lambda: lane.locator("circle.here").count() >= 5, LONG_S)
    ana.page.locator("[data-cut]").click()
    eventually(lambda: lane.locator("circle.to-come").count() >= 4, LONG_S)
    ana.page.locator("[data-cut]").click()
    eventually(lambda: lane.locator("circle.resumed").count() >= 4, LONG_S)
    shoot(ana, name)


def shoot_cursors(ana: Person, company: list[Person], name: str) -> None:
    ana.open("/cursors/")
    ana.wait_for_word("Live")
    for turn in range(30):
        for at, each in enumerate(company):
            box = each.page.locator("[data-quay]").bounding_box()
            assert box is not None
            each.page.mouse.move(
                box["x"] + box["width"] * (0.12 + 0.2 * at + turn / 400),
                box["y"] + box["height"] * (0.2 + 0.15 * ((at * 3) % 4) + turn / 500),
            )
    ana.page.locator("[data-quay]").focus()
    ana.page.keyboard.press("ArrowUp")
    ana.page.wait_for_timeout(1200)
    shoot(ana, name)


def shoot_console(ana: Person, name: str) -> None:
    page = ana.page
    ana.open("/console/")
    ana.wait_for_word("Live")
    page.locator("[data-attach]").click()
    page.wait_for_timeout(500)

    def publish(times: int) -> None:
        page.evaluate("document.querySelector('[data-setup]').open = true")
        page.fill("#times", str(times))
        page.locator("[data-publish]").click()
        page.wait_for_timeout(700)

    publish(8)
    page.locator("[data-cut]").click()
    publish(6)
    page.locator("[data-cut]").click()
    page.wait_for_timeout(700)
    publish(3)
    page.locator("[data-stall]").click()
    publish(12)
    ana.page.wait_for_timeout(500)
    page.locator("[data-frames] [data-type=message]").last.click()
    if page.viewport_size is not None and page.viewport_size["width"] < 1000:
        page.evaluate("document.querySelector('[data-setup]').open = false; scrollTo(0, 0)")
    page.wait_for_timeout(200)
    shoot(ana, name)


@contextmanager
def feeding(site: Site) -> Iterator[None]:
    feed = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "feed", "--url", site.url], env=site.environment()
    )
    try:
        yield
    finally:
        feed.kill()
        feed.wait()


def talk(site: Site, browser: Browser) -> None:
    """A few messages more, from two windows, so that some are ours."""
    ana, bo = Person(site, browser, "ana").log_in(), Person(site, browser, "bo").log_in()
    ana.enter("lobby")
    bo.enter("lobby")
    for person, text in (
        (bo, "Thank you! The queue at gate north is two minutes, both lanes open."),
        (ana, "First act is in the tower. On time, for once."),
        (ana, "Page for tonight’s changes: https://harbourdays.example/order"),
        (bo, "Read it. Bus at 23:40 instead of 23:20, I tell the drivers."),
        (ana, "Perfect. See you at the stage."),
    ):
        person.say(text)
        ana.wait_for_texts(text)
        bo.wait_for_texts(text)
    ana.close()
    bo.close()


def trouble(site: Site, browser: Browser) -> None:
    """The server is killed while somebody writes and somebody watches."""
    people = {}
    for theme in ("light", "dark"):
        for form, context in FORMATS.items():
            suffix = f"{form}{'' if theme == 'light' else '-dark'}"
            ana = Person(site, browser, "ana", color_scheme=theme, **context).log_in()
            ana.enter("lobby")
            watcher = Person(site, browser, "ana", color_scheme=theme, **context).log_in()
            watcher.open("/dashboards/weather/")
            watcher.wait_for_word("Live")
            people[suffix] = (ana, watcher)
    site.kill()
    for suffix, (ana, watcher) in people.items():
        ana.wait_for_word("Offline")
        watcher.wait_for_word("Offline")
        ana.say("Can someone bring the spare radio? Mine is at 12 %.")
        ana.say("On my way to the north gate.")
        ana.page.wait_for_timeout(600)
        shoot(ana, f"chat-offline{suffix}")
        watcher.page.wait_for_timeout(9000)
        shoot(watcher, f"dashboard-behind{suffix}")
        ana.close()
        watcher.close()


def shoot(person: Person, name: str) -> None:
    person.page.screenshot(path=IMAGES / f"{name}.png")


PARTS = {"pages": pages, "dashboards": dashboards, "chat": chat, "desk": desk, "trouble": trouble}
"""By what they are asked for with. The last one takes the server away."""


if __name__ == "__main__":
    main()
