"""Cursors in Chromium, on two workers: pointers of others, by mouse, finger and key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Postgres, Redis, Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.e2e]


@pytest.fixture(scope="module")
def site(postgres_server: Postgres, redis_server: Redis) -> Iterator[Site]:
    """Two workers, and guests are let in."""
    url = postgres_server.create_database("site_pages")
    with Site(DEMO="1", WORKERS="2", DATABASE_URL=url, REDIS_URL=redis_server.url) as server:
        server.manage("demo")
        yield server


@pytest.fixture(scope="module")
def ana(site: Site, browser: Browser) -> Iterator[Person]:
    person = Person(site, browser, "ana").log_in()
    yield person
    person.close()


@pytest.fixture
def guest(site: Site, browser: Browser) -> Iterator[Person]:
    person = Person(site, browser, "", has_touch=True)
    yield person
    person.close()


def place_of(person: Person, who: str) -> tuple[float, float] | None:
    """Where this page draws the pointer of `who`."""
    pointer = person.page.locator(f"[data-pointer='{who}']")
    if pointer.count() == 0:
        return None
    numbers = re.findall(r"[\d.]+", pointer.evaluate("node => node.style.transform"))
    return float(numbers[0]), float(numbers[1])


def is_near(place: tuple[float, float] | None, wanted: tuple[float, float]) -> bool:
    return place is not None and abs(place[0] - wanted[0]) < 3 and abs(place[1] - wanted[1]) < 3


def worker_of(person: Person) -> str:
    """Which worker this page is connected to, as the panel of the chip says."""
    facts = person.page.locator("[data-line-facts]").text_content() or ""
    return "".join(re.findall(r"Worker(\S+?)You are", facts))


def test_two_people_see_each_others_pointers(ana: Person, guest: Person) -> None:
    for person in (ana, guest):
        person.open("/cursors/")
        person.wait_for_word("Live")
    while worker_of(guest) == worker_of(ana):
        guest.open("/cursors/")
        guest.wait_for_word("Live")
    guest_id = guest.page.evaluate("JSON.parse(document.querySelector('#page-data').textContent).client")
    box = ana.page.locator("[data-quay]").bounding_box()
    assert box is not None
    size = guest.page.locator("[data-quay]").evaluate("node => [node.clientWidth, node.clientHeight]")

    ana.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=5)
    wanted = (size[0] / 4, size[1] / 2)
    eventually(lambda: is_near(place_of(guest, "ana"), wanted), LONG_S, what="the guest sees ana's pointer")

    # By key, and by a finger: both are drawn on the own page too, since the system draws none.
    guest.page.locator("[data-quay]").focus()
    guest.page.keyboard.press("ArrowRight")
    assert guest.page.locator(".pointer", has_text="You").count() == 1
    eventually(lambda: is_near(place_of(ana, guest_id), (size[0] * 0.52, size[1] / 2)), LONG_S)
    finger = guest.page.locator("[data-quay]").bounding_box()
    assert finger is not None
    guest.page.touchscreen.tap(finger["x"] + finger["width"] / 10, finger["y"] + finger["height"] / 10)
    eventually(lambda: is_near(place_of(ana, guest_id), (size[0] / 10, size[1] / 10)), LONG_S)

    assert ana.page.locator(f"[data-who='{guest_id}']").count() == 1
    eventually(lambda: "On the wire: in" in ana.page.locator("[data-wire]").inner_text(), LONG_S)
    # Who leaves the field takes the pointer along.
    ana.page.mouse.move(2, 2)
    eventually(lambda: place_of(guest, "ana") is None, LONG_S)
    assert ana.faults() == guest.faults() == []


def test_keys_are_listed_and_single_ones_can_be_switched_off(ana: Person) -> None:
    ana.open("/cursors/")
    ana.page.keyboard.press("?")
    ana.page.get_by_role("dialog", name="Keys").wait_for()
    ana.page.get_by_label("Single keys work").uncheck()
    ana.page.keyboard.press("Escape")
    ana.page.keyboard.press("?")
    assert not ana.page.locator("#keys").is_visible()
    ana.open("/cursors/")
    ana.page.keyboard.press("?")
    assert not ana.page.locator("#keys").is_visible()
    ana.page.evaluate("localStorage.clear()")
    ana.open("/cursors/")
    ana.page.keyboard.press("g")
    ana.page.keyboard.press("c")
    ana.page.wait_for_url("**/chat/**")
