"""Cursors, console and home in Chromium, on two workers: what one does there, by mouse, finger and key."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Postgres, Redis, Site
from tests.test_pages_in_browser import look

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
    # In one step, since a pointer may go at any moment.
    drawn = person.page.evaluate("who => document.querySelector(`[data-pointer='${who}']`)?.style.transform", who)
    if not drawn:
        return None
    numbers = re.findall(r"[\d.]+", drawn)
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
    # By presence, so before anybody has moved.
    row = ana.page.locator(f"[data-who='{guest_id}']")
    eventually(lambda: row.count() == 1 and "has not moved" in row.inner_text(), LONG_S, what="ana sees who is here")
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

    assert "moving" in row.inner_text()
    eventually(lambda: "On the wire: in" in ana.page.locator("[data-wire]").inner_text(), LONG_S)
    # Who leaves the field takes the pointer along.
    ana.page.mouse.move(2, 2)
    eventually(lambda: place_of(guest, "ana") is None, LONG_S)
    assert ana.faults() == guest.faults() == []


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("transport", "word"),
    [
        ("sockjs", "SockJS by websocket"),
        ("sockjs&within=xhr-polling", "SockJS by xhr-polling"),
        pytest.param("sockjs&within=xhr-streaming", "SockJS by xhr-streaming", marks=SLOW),
        pytest.param("websocket", "WebSocket", marks=SLOW),
        pytest.param("streaming", "Streaming", marks=SLOW),
        pytest.param("sse", "SSE", marks=SLOW),
        pytest.param("polling", "Polling", marks=SLOW),
    ],
)
def test_pointers_go_over_every_transport_both_ways(ana: Person, guest: Person, transport: str, word: str) -> None:
    ana.open("/cursors/")
    ana.wait_for_word("Live")
    guest.open(f"/cursors/?transport={transport}")
    guest.wait_for_word("Live")
    # The page says what carries it.
    via = guest.page.locator("[data-line-chip] .via")
    eventually(lambda: via.inner_text().split(" · ")[0] == word, LONG_S, what=word)
    guest_id = guest.page.evaluate("JSON.parse(document.querySelector('#page-data').textContent).client")
    eventually(lambda: ana.page.locator(f"[data-who='{guest_id}']").count() == 1, LONG_S)
    eventually(lambda: guest.page.locator("[data-who='ana']").count() == 1, LONG_S)

    def press(person: Person, key: str) -> None:
        person.page.locator("[data-quay]").focus()
        person.page.keyboard.press(key)

    def moved(person: Person, who: str, key: str) -> bool:
        # A signal is sent once and may come before the other one is attached: the next one comes.
        press(person, key)
        other = guest if person is ana else ana
        return place_of(other, who) is not None

    eventually(lambda: moved(ana, "ana", "ArrowLeft"), LONG_S, every_s=0.2, what="the guest sees ana")
    eventually(lambda: moved(guest, guest_id, "ArrowRight"), LONG_S, every_s=0.2, what="ana sees the guest")
    assert ana.faults() == guest.faults() == []


# -- the server's own dashboard


@pytest.mark.slow
def test_the_servers_dashboard_shows_both_workers_and_tells_of_one_that_is_killed(site: Site, ana: Person) -> None:
    ana.open("/dashboards/server/")
    ana.wait_for_word("Live")

    def lights() -> dict[str, str]:
        rows = ana.page.eval_on_selector_all(
            ".lights li:not(.muted)",
            "all => all.map((each) => [...each.children].slice(1).map((one) => one.textContent))",
        )
        return dict(rows)

    def rows() -> dict[str, list[str]]:
        """What the table says of each worker: silent or "", then its columns."""
        cells = ana.page.eval_on_selector_all(
            "[data-kind=table] tbody tr",
            "all => all.map((each) => [each.className, ...[...each.children].map((one) => one.textContent)])",
        )
        return {each[1]: each for each in cells}

    both = {"w1": "Well", "w2": "Well"}
    eventually(lambda: set(lights()) == set(both) and "silent" not in str(lights()).lower(), LONG_S)
    eventually(lambda: set(rows()) == set(both), LONG_S)
    # Both rows live: each changes while the other does, too.
    before = rows()
    eventually(lambda: all(rows()[name] != before[name] for name in both), LONG_S, what="both say something new")
    legend = ana.page.locator("[data-kind=line] .leg")
    # Each line has its name and its newest value.
    eventually(lambda: legend.inner_text().split()[::2] == ["w1", "w2"], LONG_S)
    # The one that does not carry this page, so that nothing else tells of it.
    victim = "w2" if worker_of(ana) == "w1" else "w1"
    os.kill(site.worker_pids()[victim], signal.SIGKILL)
    told: list[str] = []

    def is_told() -> bool:
        said = ana.page.locator("[data-announce]").text_content() or ""
        if f"{victim} Silent for" in said:
            told.append(said)
        return bool(told)

    eventually(is_told, LONG_S, what=f"{victim} is silent")
    # Its replacement has its name.
    eventually(lambda: set(lights()) == set(both) and "Silent" not in str(lights()), LONG_S, what="both are back")
    assert "Silent" not in str(rows())
    assert (ana.ledger("missing"), ana.ledger("doubled")) == ("0", "0")
    assert ana.faults() == []


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


# -- the console


def open_console(person: Person) -> None:
    person.open("/console/")
    person.wait_for_word("Live")
    person.page.get_by_role("button", name="Attach").click()
    eventually(lambda: "epoch" in person.page.locator("[data-epoch]").inner_text() or is_empty(person), LONG_S)


def is_empty(person: Person) -> bool:
    return "Nothing was published" in person.page.locator(".say").inner_text()


def publish(person: Person, times: int) -> None:
    """Publish so many and wait until the server said that they are stored."""
    answers = person.page.locator("[data-frames] [data-type=published], [data-frames] [data-type='201']")
    before = answers.last.get_attribute("id") if answers.count() else None
    person.page.get_by_label("Times").fill(str(times))
    person.page.get_by_role("button", name="Publish", exact=True).click()
    eventually(lambda: answers.count() and answers.last.get_attribute("id") != before, LONG_S)


def beads(person: Person, state: str) -> int:
    return person.page.locator(f".bead.{state}").count()


def assert_nothing_lost(person: Person) -> None:
    assert person.page.locator("[data-lost]").inner_text() == "0"
    assert person.page.locator("[data-doubled]").inner_text() == "0"
    assert person.faults() == []


def test_a_cut_line_goes_on_without_a_hole(ana: Person) -> None:
    open_console(ana)
    publish(ana, 3)
    eventually(lambda: "In order through #3." in ana.page.locator(".say").inner_text(), LONG_S)
    ana.page.get_by_role("heading", name="Frames").click()
    ana.page.keyboard.press("x")
    ana.wait_for_word("Cut")
    publish(ana, 4)  # by HTTP, since there is no line
    assert ana.page.locator("[data-head]").inner_text() == "head 7"
    assert beads(ana, "waiting") == 4
    ana.page.get_by_role("button", name="Join the line").click()
    eventually(lambda: "In order through #7." in ana.page.locator(".say").inner_text(), LONG_S)
    assert "4 from the log after resume" in ana.page.locator("[data-beads]").inner_html()
    told = ana.page.locator("[data-frames] .brk").inner_text()
    assert re.fullmatch(r"You cut the line at [\d:]+\. Back after [\d.]+ s on worker w\d\.", told)
    # Each serial once, as the frames have it.
    ana.page.get_by_label("Filter frames").fill("#1-7")
    ana.page.get_by_role("button", name="In", exact=True).click()
    rows = ana.page.locator("[data-frames] [data-type=message] .sum")
    eventually(lambda: rows.count() == 7, LONG_S)
    assert [int(each.split()[0][1:]) for each in rows.all_inner_texts()] == list(range(1, 8))
    assert_nothing_lost(ana)


def test_stalled_acks_hold_the_server_and_an_ack_lets_it_go_on(ana: Person) -> None:
    open_console(ana)
    head = int(ana.page.locator("[data-head]").inner_text().split()[1])
    stall = ana.page.get_by_role("button", name="Stall acks")
    stall.click()
    # What was in flight before is acknowledged by hand, so that the window is empty.
    eventually(lambda: beads(ana, "waiting") == 0, LONG_S)
    ack = ana.page.get_by_role("button", name="Ack and go on")
    if ack.is_enabled():
        ack.click()
    publish(ana, 12)
    ana.wait_for_word(f"Held at #{head + 8}")
    said = ana.page.locator(".say").inner_text()
    assert said.startswith("The server waits for you. 8 of 8 are unacknowledged, so #")
    assert beads(ana, "flight") == 8
    eventually(lambda: beads(ana, "waiting") >= 4, LONG_S)
    row = ana.page.locator("[data-frames] [data-type=message]").last
    row.click()
    assert "Why it stops here." in ana.page.locator("[data-why]").inner_text()
    ana.page.locator("[data-frames]").focus()
    ana.page.keyboard.press("a")
    eventually(lambda: f"In order through #{head + 12}." in ana.page.locator(".say").inner_text(), LONG_S)
    ana.page.get_by_role("button", name="Same id again").click()
    eventually(lambda: "12 duplicates" in ana.page.locator("[data-type=published]").last.inner_text(), LONG_S)
    assert_nothing_lost(ana)


def test_the_console_shows_what_a_delta_is_made_of(ana: Person) -> None:
    ana.open("/console/")
    ana.wait_for_word("Live")
    ana.page.get_by_label("Data come").select_option("fossil")
    ana.page.get_by_label("Attach from").select_option("head")
    ana.page.get_by_role("button", name="Attach").click()
    eventually(lambda: ana.page.locator("[data-frames] [data-type=attached]").count() == 1, LONG_S)
    told = ana.page.locator("[data-frames] [data-type=attached] .sum").inner_text()
    assert told.endswith(", as differences")
    publish(ana, 3)
    rows = ana.page.locator("[data-frames] [data-type=message]")
    eventually(lambda: rows.count() == 3, LONG_S)
    whole, *deltas = rows.locator(".sum").all_inner_texts()
    assert whole.endswith(", whole")
    assert all(re.search(r", \d+ B on #\d+ for \d+ B$", each) for each in deltas)
    rows.last.click()
    facts = ana.page.locator("[data-frame-facts]").inner_text()
    assert '{"text":"wind is up to 31"}' in facts
    assert_nothing_lost(ana)


def test_the_console_goes_over_other_transports_too(ana: Person) -> None:
    ana.open("/console/")
    ana.wait_for_word("Live")
    ana.page.get_by_role("button", name="Disconnect").click()
    ana.page.get_by_label("Transport").select_option("polling")
    ana.page.get_by_role("button", name="Connect", exact=True).click()
    ana.wait_for_word("Live")
    ana.page.get_by_role("button", name="Attach").click()
    eventually(lambda: "epoch" in ana.page.locator("[data-epoch]").inner_text(), LONG_S)
    head = int(ana.page.locator("[data-head]").inner_text().split()[1])
    publish(ana, 2)
    ana.page.get_by_role("button", name="Cut line").click()
    publish(ana, 3)
    ana.page.get_by_role("button", name="Join the line").click()
    eventually(lambda: f"In order through #{head + 5}." in ana.page.locator(".say").inner_text(), LONG_S)
    assert_nothing_lost(ana)


def test_the_demo_of_the_front_page_runs_and_survives_a_cut(guest: Person) -> None:
    guest.open("/")
    lane = guest.page.locator("[data-lane=phone]")
    eventually(lambda: lane.locator("circle.here").count() >= 2, LONG_S, what="the phone has messages")
    guest.page.get_by_role("button", name="Cut the phone’s line").click()
    eventually(lambda: lane.locator("circle.to-come").count() >= 2, LONG_S, what="the log goes on without the phone")
    guest.page.get_by_role("button", name="Mend the phone’s line").click()
    eventually(lambda: lane.locator("circle.resumed").count() >= 2, LONG_S, what="what was missed came")
    assert_nothing_lost(guest)


@pytest.mark.parametrize(
    ("width", "theme"),
    [
        (1440, "light"),
        (360, "dark"),
        pytest.param(1440, "dark", marks=pytest.mark.slow),
        pytest.param(360, "light", marks=pytest.mark.slow),
    ],
)
def test_the_pages_have_no_barriers(site: Site, browser: Browser, theme: str, width: int) -> None:
    person = Person(
        site, browser, "", viewport={"width": width, "height": 860}, color_scheme=theme, reduced_motion="reduce"
    )
    try:
        person.open("/cursors/")
        person.wait_for_word("Live")
        person.page.locator("[data-quay]").focus()
        person.page.keyboard.press("ArrowRight")
        look(person, width > 760)
        if theme == "dark":  # one theme at each width: the dialog has no colours of its own
            person.page.keyboard.press("?")
            look(person, width > 760)
        open_console(person)
        person.page.locator("[data-frames] [data-row]").last.click()
        look(person, width > 760)
        if width < 760:
            person.page.locator("[data-setup] summary").click()
            look(person, wide=False)
        person.open("/")
        eventually(lambda: person.page.locator("[data-lane=laptop] circle").count() > 0, LONG_S)
        look(person, width > 760)
    finally:
        person.close()
