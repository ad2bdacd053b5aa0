"""Every feature of the chat in Chromium on two workers: two people, three tabs, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.agreement import assert_agreed, assert_copy_is_exact, listen, record_line, said_by_line, worker_of
from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Postgres, Redis, Site
from tests.test_pages_in_browser import findings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

Meet = Callable[..., Person]


@pytest.fixture(scope="module")
def site(postgres_server: Postgres, redis_server: Redis) -> Iterator[Site]:
    """Two workers."""
    url = postgres_server.create_database("chat_features")
    with Site(WORKERS="2", DATABASE_URL=url, REDIS_URL=redis_server.url) as running:
        running.manage("demo", "--force")
        running.manage("shell", given=_ROOMS)
        yield running


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    """Cookies of those who have logged in: once for all tests."""
    return {}


@pytest.fixture
def meet(site: Site, browser: Browser, sessions: dict[str, Any]) -> Iterator[Meet]:
    """`meet("ana")` gives a window in which ana is logged in, and nothing else is kept."""
    met: list[Person] = []

    def make(name: str, **context: object) -> Person:
        person = Person(site, browser, name, **context)
        met.append(person)
        if name in sessions:
            person.context.add_cookies(sessions[name])
        else:
            sessions[name] = person.log_in().context.cookies()
        return person

    yield make
    for person in met:
        person.close()


def message(person: Person, text: str) -> Locator:
    return person.page.locator("[data-list] li.msg[id]", has=person.page.locator(".text", has_text=text)).first


def pick(person: Person, text: str, item: str) -> None:
    """What the menu of a message offers."""
    message(person, text).hover()
    message(person, text).locator("[data-do=more]").click()
    person.page.get_by_role("menuitem", name=item).click()


def test_two_people_and_three_tabs_see_the_same_of_everything_done_to_messages(site: Site, meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("features")
    bo.enter("features")
    tab = Person.__new__(Person)
    tab.__dict__.update(ana.__dict__)
    tab.page = ana.context.new_page()
    tab.enter("features")
    everybody = (ana, tab, bo)

    ana.say("first **bold** words")
    bo.wait_for_texts("first bold words")
    bo.say("Is @ana here?")
    for each in everybody:
        each.wait_for_texts("first bold words", "Is @ana here?")
    assert message(bo, "first").locator("strong").inner_text() == "bold"
    assert "mention" in (message(ana, "Is @ana").get_attribute("class") or "")
    assert "mention" not in (message(bo, "Is @ana").get_attribute("class") or "")

    # Edited by the arrow, which takes one's own last message.
    ana.page.press("#text", "ArrowUp")
    assert ana.page.input_value("#text") == "first **bold** words"
    ana.page.fill("#text", "first, edited")
    ana.page.press("#text", "Enter")
    for each in everybody:
        message(each, "first, edited").locator(".edited").wait_for()

    # Reacted to, by both, by mouse and by key; taken back by one.
    message(bo, "first, edited").hover()
    message(bo, "first, edited").locator("[data-do=react]").first.click()
    bo.page.get_by_role("toolbar", name="Pick an emoji").get_by_role("button", name="Party").click()
    message(ana, "first, edited").get_by_role("button", name="Party, 1").click()
    for each in everybody:
        message(each, "first, edited").get_by_role("button", name="Party, 2").wait_for()
    message(bo, "first, edited").get_by_role("button", name="Party, 2").click()
    for each in everybody:
        message(each, "first, edited").get_by_role("button", name="Party, 1").wait_for()
    assert message(tab, "first").get_by_role("button", name="Party, 1").get_attribute("aria-pressed") == "true"

    # Answered in a thread, once there alone and once to the room too.
    message(ana, "Is @ana").focus()
    ana.page.keyboard.press("t")
    ana.page.fill("#reply", "only in the thread")
    ana.page.press("#reply", "Enter")
    ana.page.locator("[data-also]").check()
    ana.page.fill("#reply", "in the room too")
    ana.page.press("#reply", "Enter")
    for each in (tab, bo):
        message(each, "Is @ana").get_by_role("button", name="2 replies").wait_for()
        each.wait_for_texts("in the room too")
        assert message(each, "only in the thread").count() == 0
    message(bo, "Is @ana").get_by_role("button", name="2 replies").click()
    assert bo.page.locator("[data-thread-list] .text").all_inner_texts() == [
        "Is @ana here?",
        "only in the thread",
        "in the room too",
    ]
    bo.page.locator("[data-thread-close]").click()

    # Deleted, and its text is gone everywhere, in the page as it is loaded too.
    pick(ana, "first, edited", "Delete")
    ana.page.get_by_role("button", name="Delete", exact=True).click()
    for each in everybody:
        each.page.get_by_text("Message deleted", exact=True).wait_for()
        assert each.page.get_by_text("first, edited").count() == 0

    # Here, seen, typed.
    for each in everybody:
        each.page.get_by_text("Here now, 2").wait_for(state="attached")
    ana.say("the last one")
    eventually(lambda: "Sent · Seen by Bo" in ana.states, LONG_S, what="seen")
    bo.page.locator("#text").press_sequentially("hm")
    ana.page.get_by_text("Bo is typing").wait_for()
    bo.wait_for_texts("the last one")
    assert_agreed(site, "features", everybody, {"ana": "Ana", "bo": "Bo"})
    before = bo.page.evaluate(_CONTENT)
    bo.page.reload()
    bo.wait_for_word("Live")
    eventually(lambda: bo.page.evaluate(_CONTENT) == before, LONG_S, what="the same again")


#: What messages say and have; not what a page says of its own, such as what is new to it.
_CONTENT = """() => [...document.querySelectorAll("[data-list] li.msg[id]")].map((node) =>
  [node.id, ...[...node.querySelectorAll(".text, .gone, .rx, .th")].map((each) => each.innerText)])"""


def test_what_one_may_not_do_is_not_offered_and_the_server_refuses_it(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("features")
    bo.enter("features")
    ana.say("mine alone")
    bo.wait_for_texts("mine alone")
    message(bo, "mine alone").hover()
    message(bo, "mine alone").locator("[data-do=more]").click()
    assert bo.page.get_by_role("menuitem").all_inner_texts() == ["Copy link", "Copy text"]
    bo.page.keyboard.press("Escape")
    serial = (message(bo, "mine alone").get_attribute("id") or "")[1:]
    # The page's own client, used against it.
    outcomes = bo.page.evaluate(
        """async (of) => {
          const { channel } = await import("/static/js/chat/page.js");
          const said = [["edit", { of, text: "forged" }], ["delete", { of }],
            ["member", { action: "role", client: "bo" }]];
          const done = await Promise.allSettled(said.map(([event, data]) => channel.publish(data, { event })));
          return done.map((each) => each.reason?.code ?? "stored");
        }""",
        int(serial),
    )
    assert outcomes == ["forbidden"] * 3
    assert message(ana, "mine alone").count() == 1
    # A request of another site has no token.
    assert bo.context.request.post(f"{bo.site.url}/chat/features/join", data={}).status == 403


def test_rooms_are_made_entered_moderated_and_left(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("features")
    bo.enter("features")
    ana.page.get_by_role("button", name="Create or browse rooms").click()
    ana.page.get_by_role("button", name="Create a room").click()
    ana.page.get_by_label("Name").fill("Back Stage")
    ana.page.get_by_label("Topic").fill("Behind it")
    ana.page.get_by_label("Who may enter").select_option("private")
    ana.page.get_by_role("button", name="Create", exact=True).click()
    ana.page.wait_for_url("**/chat/back-stage*/")
    slug = ana.page.url.rstrip("/").rsplit("/", 1)[1]
    ana.wait_for_word("Live")
    assert bo.context.request.get(f"{bo.site.url}/chat/{slug}/").status == 404
    ana.page.get_by_role("button", name="Room settings").click()
    ana.page.get_by_role("menuitem", name="Invite somebody").click()
    ana.page.get_by_label("User name").fill("bo")
    ana.page.get_by_role("button", name="Invite", exact=True).click()
    # It comes to the list of rooms by itself.
    bo.page.locator(f"#rail a[data-slug={slug}]").click()
    bo.page.wait_for_url(f"**/chat/{slug}/")
    bo.wait_for_word("Live")
    bo.say("I am in")
    ana.wait_for_texts("I am in")
    pick(ana, "I am in", "Delete as moderator")
    ana.page.get_by_label("Reason, for the record").fill("not the place")
    ana.page.get_by_role("button", name="Delete", exact=True).click()
    for each in (ana, bo):
        each.page.get_by_text("Message deleted by Ana (moderator)").wait_for()
    members(ana, "Actions for Bo", "Mute for 10 minutes")
    bo.page.get_by_text(re.compile("Bo was muted by Ana until")).wait_for()
    bo.say("can you hear me")
    eventually(lambda: any("you can no longer write in this room" in each for each in bo.states), LONG_S)
    ana.page.keyboard.press("Escape")
    ana.page.get_by_role("button", name="Room settings").click()
    ana.page.get_by_role("menuitem", name="Record of moderation").click()
    record = ana.page.locator("[data-dialog=audit]")
    eventually(lambda: "not the place" in record.inner_text() and "mute" in record.inner_text(), LONG_S)
    ana.page.keyboard.press("Escape")
    members(ana, "Actions for Bo", "Remove from the room")
    ana.page.get_by_role("button", name="Remove", exact=True).click()
    bo.page.get_by_text("This room is closed to you.").wait_for()
    eventually(lambda: bo.page.locator(f"#rail a[data-slug={slug}]").count() == 0, LONG_S)
    # A talk between two, from the jump list.
    bo.page.keyboard.press("Control+k")
    bo.page.get_by_role("combobox").fill("ana")
    bo.page.get_by_role("option", name=re.compile("Write to them")).first.click()
    bo.page.wait_for_url(re.compile(r"/chat/(?!back-stage|features)[^/]+/$"))
    talk = bo.page.url.rstrip("/").rsplit("/", 1)[1]
    badge = ana.page.locator(f"[data-direct] a[data-slug={talk}] [data-unread]")
    badge.wait_for(state="attached")
    ana.page.wait_for_timeout(500)
    before = badge.inner_text()
    bo.say("just you")
    eventually(lambda: badge.inner_text() not in ("", before), LONG_S, what="told in the rail")


def members(person: Person, of: str, item: str) -> None:
    person.page.get_by_role("button", name="Room settings").click()
    person.page.get_by_role("menuitem", name="Members").click()
    person.page.get_by_role("button", name=of).click()
    person.page.get_by_role("menuitem", name=item).click()


def test_files_go_with_a_message_and_lying_ones_stay_with_the_text(meet: Meet, tmp_path: Path) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("files")
    bo.enter("files")
    good, lying = tmp_path / "canopy.png", tmp_path / "photo.png"
    good.write_bytes(ana.page.screenshot(clip={"x": 0, "y": 0, "width": 40, "height": 30}))
    lying.write_text("<script>alert(1)</script>")
    ana.page.set_input_files("[data-file]", [good])
    ana.page.fill("#text", "the canopy")
    eventually(lambda: ana.page.locator(".going.there").count() == 1, LONG_S, what="uploaded")
    ana.page.press("#text", "Enter")
    picture = message(bo, "the canopy").get_by_role("img", name="canopy.png")
    picture.wait_for()
    eventually(lambda: picture.evaluate("one => one.naturalWidth") == 40, LONG_S, what="the picture itself")
    picture.click()
    bo.page.locator("[data-dialog=picture] img").wait_for()
    bo.page.keyboard.press("Escape")
    ana.page.set_input_files("[data-file]", [lying])
    ana.page.fill("#text", "with a lie")
    failed = ana.page.locator(".going.failed")
    failed.wait_for()
    assert "Not uploaded" in failed.inner_text()
    ana.page.press("#text", "Enter")
    assert ana.page.input_value("#text") == "with a lie"
    assert "not uploaded" in ana.page.inner_text("[data-note]")
    failed.get_by_role("button", name="Remove photo.png").click()
    ana.page.press("#text", "Enter")
    bo.wait_for_texts("the canopy", "with a lie")


def test_what_would_be_a_program_is_text_wherever_it_is_drawn(meet: Meet) -> None:
    """Messages, names of people, rooms and files, topics, reactions, notices, the record, what is found, links."""
    ana = meet("ana")
    page = ana.page
    page.route("**/chat/files/x/*", lambda route: route.fulfill(body="", content_type="image/png"))
    ana.enter("escaping")

    def look(where: str) -> None:
        """The words are there, also in fields and attributes that are read out, and no element was made of them."""
        told = "all => all.flatMap((node) => [node, ...node.querySelectorAll('input, [title], [alt], [aria-label]')])"
        told += ".map((one) => [one.textContent, one.value, one.title, one.alt, one.ariaLabel].join(' ')).join(' ')"
        eventually(lambda: "<x-evil" in page.eval_on_selector_all(where, told), LONG_S, what=f"the words in {where}")
        assert page.locator("x-evil, [onclick], [onerror], [onload], [onmouseover], iframe, object, embed").count() == 0
        assert page.locator("[data-list] :is(script, style, form, svg:not(.ico), img:not(.photo img))").count() == 0
        assert set(page.eval_on_selector_all("a[href]", "all => all.map(one => one.protocol)")) <= {"http:", "https:"}

    texts = page.locator("[data-list] li.msg[id] .text")
    eventually(lambda: texts.count() >= len(_NASTY), LONG_S)
    hrefs = page.eval_on_selector_all("[data-list] .text a", "all => all.map(one => one.href)")
    assert hrefs and all(each.startswith("https://a.example/") for each in hrefs)
    for where in (
        "[data-list] .text",
        "[data-list] .by b",
        "[data-list] .rx",
        "[data-list] .filec",
        "[data-list] .photo",
    ):
        look(where)
    look("[data-list] .text a[href='https://a.example/label']")
    look("[data-list] li:not(.msg)")
    for where in (
        "[data-room-name]",
        "[data-topic]",
        "#rail a[data-slug=escaping]",
        "#rail [data-with=mallory]",
        "#side",
    ):
        look(where)
    page.locator("[data-list] .photo").first.click()
    look("[data-dialog=picture]")
    page.keyboard.press("Escape")
    message(ana, "a place to answer").focus()
    page.keyboard.press("t")
    look("[data-thread-list]")
    page.locator("[data-thread-close]").click()
    for item, name in (("Members", "members"), ("Record of moderation", "audit"), ("Name and topic", "edit-room")):
        page.get_by_role("button", name="Room settings").click()
        page.get_by_role("menuitem", name=item).click()
        look(f"[data-dialog={name}]")
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Create or browse rooms").click()
    look("[data-dialog=rooms]")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    for words in ("x-evil", "mallory", "answer"):  # rooms and messages, people, a thread
        page.get_by_role("combobox").fill(words)
        look("#jump-list")
    page.keyboard.press("Escape")
    page.locator("#text").press_sequentially("@mal")
    look(".mention-list")
    page.keyboard.press("Escape")
    assert page.evaluate("window.hacked") is None
    assert ana.faults() == []


def test_a_link_a_date_and_a_search_lead_to_a_message_far_back(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("thousands")
    newest = ana.serials[-1]
    ana.page.evaluate("location.hash = '#m700'")
    ana.page.locator("#m700.flash").wait_for()
    assert ana.page.evaluate("document.activeElement.id") == "m700"
    ana.page.keyboard.press("End")
    ana.page.locator(f"#m{newest}").wait_for()
    ana.page.get_by_role("button", name="Search in this room").click()
    ana.page.get_by_role("combobox").fill("n77.")
    ana.page.get_by_role("option", name=re.compile("n77[.]")).first.click()
    ana.page.locator("li.msg.flash", has_text="n77.").wait_for()
    ana.page.get_by_role("button", name="Newest").click()
    ana.page.locator(f"#m{newest}").wait_for()
    ana.open("/chat/thousands/#m900")
    ana.page.locator("#m900").wait_for()
    ana.page.get_by_role("button", name="Search in this room").click()
    ana.page.get_by_label("Go to a date").fill(ana.page.evaluate("new Date().toLocaleDateString('sv')"))
    ana.page.locator("#m1.flash").wait_for()
    ana.assert_whole()


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_however_many_messages_keep_the_page_small_and_quick(
    meet: Meet, site: Site, browser: Browser, count: int
) -> None:
    if count > 2_000:
        site.manage("shell", given=_ROOMS_MORE)
    ana = meet("ana")
    ana.page.add_init_script(_WATCH)
    ana.enter("thousands")
    ana.page.evaluate(_COUNT_HISTORY)
    # Up through all of it, and down again: by the wheel, faster than anybody reads.
    pace = {"by": -4000, "end": "li.beginning", "newest": ana.serials[-1]}
    browser.start_tracing(page=ana.page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
    ana.page.evaluate(_SCROLL, pace)
    assert ana.serials[0] == 1
    ana.page.evaluate(_SCROLL, pace | {"by": 4000, "end": f"#m{pace['newest']}"})
    longest_ms = longest_task_ms(json.loads(browser.stop_tracing()))
    watched = ana.page.evaluate("watched")
    # All but what there was at first was fetched on the way.
    assert watched["fetched"] >= count - 200
    print(f"{count} messages: {watched}, longest task {longest_ms:.1f} ms of the processor")
    assert 50 < watched["rows"] <= 181
    assert watched["jumps"] == []
    assert longest_ms < 50
    ana.assert_whole()


def longest_task_ms(trace: dict[str, Any]) -> float:
    """The longest task of the page's own thread, in time of the processor: without what else the machine does."""
    events = trace["traceEvents"]
    threads = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        each["tdur"] / 1000
        for each in events
        if each["name"].endswith("RunTask") and "tdur" in each and (each["pid"], each["tid"]) in threads
    ]
    assert len(tasks) > 100
    return float(max(tasks))


@pytest.mark.parametrize("away_s", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_offline_with_messages_both_ways_and_a_reload_nothing_is_lost_or_doubled(meet: Meet, away_s: int) -> None:
    ana, bo = meet("ana"), meet("bo")
    room = f"offline-{away_s}"
    ana.enter(room)
    bo.enter(room)
    ana.say("before")
    bo.wait_for_texts("before")
    # No socket and no token from here on, as when the network is gone; pages and scripts come from a cache.
    ana.context.route("**/chat/token", lambda route: route.abort())
    ana.page.evaluate("import('/static/js/chat/page.js').then(({ client }) => client.close())")
    ana.page.reload()
    mine, theirs = [f"ana {number}" for number in range(4)], [f"bo {number}" for number in range(4)]
    for text in mine[:2]:
        ana.say(text)
    for text in theirs[:2]:
        bo.say(text)
    ana.page.wait_for_timeout(away_s * 500)
    ana.page.reload()
    for text in mine[2:]:
        ana.say(text)
    for text in theirs[2:]:
        bo.say(text)
    eventually(lambda: len(ana.texts) == 4, LONG_S, what="what was typed is still there")
    ana.page.wait_for_timeout(away_s * 500)
    ana.context.unroute("**/chat/token")
    for person in (ana, bo):
        eventually(lambda person=person: len(person.serials) == 9, LONG_S, what="all of both")  # type: ignore[misc]
        person.wait_for_texts(*mine)
        person.wait_for_texts(*theirs)
        person.assert_whole()
    assert ana.texts == bo.texts
    assert ana.page.locator("li.msg.own").count() == 0


def test_it_is_told_who_is_there_and_on_how_many_devices(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("stage-crew")
    # In whichever room: who talks with him sees that he is there.
    bo.enter("files")
    talk = ana.page.locator("[data-direct] [data-with=bo]")
    eventually(lambda: talk.locator(".here").get_attribute("class") == "here", LONG_S, what="bo is there")
    assert "here" in talk.inner_text()
    assert "away" in ana.page.locator("[data-direct] [data-with=ines]").inner_text()
    # By name where he belongs to the room.
    ana.page.locator("[data-away] li", has_text="Bo").get_by_text("in another room").wait_for()

    # Windows of one browser are one device, whichever of them is closed.
    line = bo.page.locator("[data-me-line]")
    window = bo.context.new_page()
    window.goto(f"{bo.site.url}/chat/stage-crew/")
    window.get_by_text("Here now, 2").wait_for(state="attached")
    eventually(lambda: line.inner_text() == "Here", LONG_S, what="one device")
    phone = meet("bo", viewport={"width": 360, "height": 700})
    phone.enter("stage-crew")
    eventually(lambda: line.inner_text() == "Here on 2 devices", LONG_S, what="two devices")
    ana.page.locator("[data-here-count]").click()
    ana.page.locator("dialog li", has_text="Here on 2 devices").wait_for()
    ana.page.keyboard.press("Escape")
    window.close()
    eventually(lambda: line.inner_text() == "Here on 2 devices", LONG_S, what="still two devices")
    assert ana.page.locator("[data-me-line]").inner_text() == "Here"
    for each in (ana, bo, phone):
        assert each.faults() == []


def test_who_moderates_by_keyboard_goes_on_where_they_were(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("stage-crew")
    ana.page.locator("[data-here-count]").click()
    for item in ("Mute for 10 minutes", "Let them write again"):
        ana.page.get_by_role("button", name="Actions for Chidi").focus()
        ana.page.keyboard.press("Enter")
        ana.page.get_by_role("menuitem", name=item).focus()
        # Somebody comes or goes while the menu is open.
        ana.page.evaluate("dispatchEvent(new Event('whereabouts'))")
        ana.page.keyboard.press("Enter")
        muted = ana.page.locator("dialog li", has_text="Chidi").get_by_text("muted until")
        muted.wait_for(state="visible" if item.startswith("Mute") else "detached")
        assert ana.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Actions for Chidi"
    assert ana.faults() == []


@pytest.mark.slow
def test_who_goes_is_away_after_the_grace(meet: Meet) -> None:
    ana, bo, phone = meet("ana"), meet("bo"), meet("bo")
    ana.enter("stage-crew")
    for each in (bo, phone):
        each.enter("stage-crew")
    line = bo.page.locator("[data-me-line]")
    eventually(lambda: line.inner_text() == "Here on 2 devices", LONG_S, what="two devices")
    phone.open("/dashboards/")
    eventually(lambda: line.inner_text() == "Here", 4 * LONG_S, what="one device, by the next list")
    bo.open("/dashboards/")
    talk = ana.page.locator("[data-direct] [data-with=bo] .here")
    eventually(lambda: talk.get_attribute("class") == "here away", 2 * LONG_S, what="bo is away")
    ana.page.locator("[data-away] li", has_text="Bo").get_by_text("just now").wait_for()


def test_a_quiet_room_counts_mentions_only(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("files")
    ana.page.get_by_role("button", name="Room settings").click()
    ana.page.get_by_role("menuitem", name="Quiet: count mentions only").click()
    quiet = ana.page.locator("[data-quiet] a[data-slug=files]")
    quiet.wait_for()
    assert ana.page.locator("[data-title=quiet]").is_visible()
    ana.enter("stage-crew")
    bo.enter("files")
    bo.say("not for her")
    bo.wait_for_texts("not for her")
    assert "unread" not in (quiet.get_attribute("class") or "")
    bo.say("@ana, this is")
    eventually(lambda: "1 mention" in quiet.inner_text(), LONG_S, what="counted")
    assert "unread" in (quiet.get_attribute("class") or "")
    ana.enter("files")
    ana.page.get_by_role("button", name="Room settings").click()
    ana.page.get_by_role("menuitem", name="Count all new messages").click()
    ana.page.locator("[data-rooms] a[data-slug=files]").wait_for()
    assert not ana.page.locator("[data-title=quiet]").is_visible()


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_worker_of_a_page_is_killed_and_the_talk_goes_on(site: Site, meet: Meet, rounds: int) -> None:
    ana, bo = meet("ana"), meet("bo")
    room = f"killed-{rounds}"
    for person in (ana, bo):
        record_line(person)
        person.enter(room)
    while worker_of(bo) == worker_of(ana):
        bo.enter(room)
    for person in (ana, bo):
        listen(person)
    for round_number in range(rounds):
        said = [f"ana {round_number}.{number}" for number in range(4)]
        answers = [f"bo {round_number}.{number}" for number in range(2)]
        before, since = worker_of(ana), len(said_by_line(bo))
        is_elsewhere = worker_of(bo) != before
        ana.say(said[0])
        bo.say(answers[0])
        ana.say(said[1])
        os.kill(site.worker_pids()[before], signal.SIGKILL)
        ana.say(said[2])
        bo.say(answers[1])
        ana.say(said[3])
        for person in (ana, bo):
            person.wait_for_texts(*said)
            person.wait_for_texts(*answers)
            person.wait_for_word("Live")
        eventually(lambda: ana.page.locator("li.msg.own").count() == 0, LONG_S)
        if is_elsewhere:  # surely in the first round
            assert {word for word, _, _ in said_by_line(bo)[since:]} <= {"Live"}
        eventually(lambda: len(site.worker_pids()) == 2, LONG_S, what="another has its name")
    for person in (ana, bo):
        assert_copy_is_exact(person)
    assert_agreed(site, room, (ana, bo), {"ana": "Ana", "bo": "Bo"})


def test_names_are_offered_while_one_types_them(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("features")
    ana.page.locator("#text").press_sequentially("ask @in")
    ana.page.get_by_role("option", name=re.compile("Ines")).wait_for()
    ana.page.keyboard.press("Enter")
    assert ana.page.input_value("#text") == "ask @ines "
    ana.page.keyboard.press("Enter")
    message(ana, "ask @ines").locator(".at").wait_for()


def test_names_that_arrive_late_take_nothing_away(meet: Meet) -> None:
    """What the server knows of `@…` comes while one chooses, has chosen, or wants no list any more."""
    ana = meet("ana")
    ana.enter("stage-crew")
    page, held = ana.page, list[Any]()
    page.route(re.compile("/chat/people"), lambda route: held.append(route))
    options = page.get_by_role("option")

    def ask(text: str) -> None:
        page.focus("#text")
        with page.expect_request(re.compile("/chat/people")):
            page.keyboard.insert_text(text)
        options.first.wait_for()
        eventually(lambda: page.evaluate("true") and len(held) == 1, LONG_S, what="the server was asked")

    def arrive() -> None:
        """An answer with somebody whom the page did not know."""
        people = [{"client": "bodo", "name": "Bodo"}, {"client": "boris", "name": "Boris"}]
        with page.expect_response(re.compile("/chat/people")):
            held.pop().fulfill(json={"people": people})
        page.evaluate("new Promise((go) => setTimeout(go, 50))")

    # Who was chosen stays chosen, whoever comes.
    ask("@")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    chosen = page.locator("[role=option][aria-selected=true]").inner_text()
    arrive()
    assert page.locator("[role=option][aria-selected=true]").inner_text() == chosen
    page.keyboard.press("Escape")
    page.fill("#text", "")

    # A list that was closed, and a text that was sent, stay so.
    ask("@b")
    page.keyboard.press("Escape")
    arrive()
    assert options.count() == 0
    page.fill("#text", "")
    ask("@b")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    arrive()
    assert (options.count(), page.input_value("#text")) == (0, "")
    ask("@bod")
    assert "Bodo" in options.first.inner_text()
    # The cursor is elsewhere: Enter means the text again.
    page.keyboard.press("Home")
    assert options.count() == 0
    held.pop().abort()
    page.fill("#text", "")

    # A dialog that closes gives the focus back at once or never: by the time of its event somebody writes.
    ana.page.get_by_role("button", name="Search in this room").click()
    page.evaluate("""() => {
      const dialog = document.querySelector("dialog[open]");
      window.closed = new Promise((go) => dialog.addEventListener("close", () => setTimeout(go, 50)));
      dialog.close();
      const field = document.querySelector("#text");
      field.focus();
      field.value = "@";
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }""")
    page.evaluate("closed")
    assert page.evaluate("document.activeElement.id") == "text" and options.count() > 0

    # Another window in between.
    page.evaluate("document.activeElement.blur()")
    assert options.count() == 0
    page.focus("#text")
    assert options.count() > 0
    page.fill("#text", "")
    assert ana.faults() == []


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        ("dark", 360),
        pytest.param("light", 1440, marks=pytest.mark.slow),
        pytest.param("dark", 1440, marks=pytest.mark.slow),
        pytest.param("light", 360, marks=pytest.mark.slow),
    ],
)
def test_what_opens_has_no_barriers(meet: Meet, theme: str, width: int) -> None:
    context: dict[str, Any] = {"viewport": {"width": width, "height": 800}, "color_scheme": theme}
    ana = meet("ana", reduced_motion="reduce", **context)
    ana.enter("barriers")
    eventually(lambda: ana.page.locator("[data-list] .rx").count() > 0, LONG_S)
    page = ana.page

    def look() -> None:
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    message(ana, "a list").focus()
    look()
    page.keyboard.press("r")
    look()
    page.keyboard.press("Escape")
    message(ana, "a list").locator("[data-do=more]").click()
    look()
    page.keyboard.press("Escape")
    message(ana, "a list").focus()
    page.keyboard.press("t")
    look()
    page.locator("[data-thread-close]").click()
    for name in ("Members", "Invite somebody", "Record of moderation", "Name and topic", "Leave"):
        page.get_by_role("button", name="Room settings").click()
        page.get_by_role("menuitem", name=name).click()
        page.locator("dialog[open]").wait_for()
        look()
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill("list")
    page.get_by_role("option").first.wait_for()
    look()
    page.keyboard.press("Escape")
    page.locator("#text").press_sequentially("@")
    page.locator(".mention-list li").first.wait_for()
    look()
    assert ana.faults() == []


_NASTY = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked=1'>",
    "[x](javascript:window.hacked=1)",
    "[x](java\tscript:window.hacked=1) [y](data:text/html,<script>hacked=1</script>)",
    "`<svg onload=window.hacked=1>` **<iframe srcdoc='<script>parent.hacked=1</script>'>**",
    "```\n</code><script>window.hacked=1</script>\n```",
    "> <a href='javascript:window.hacked=1'>x</a>\n- <style>*{display:none}</style>",
    'https://a.example/"onmouseover="window.hacked=1',
    '[a"onclick=window.hacked=1 b](https://a.example/)',
    "[<x-evil onclick=hacked=1>](https://a.example/label) **<x-evil>** `<x-evil>`",
]

#: Rows in the document at most, and by how many pixels what was being read moved by itself.
_WATCH = """
window.watched = { rows: 0, jumps: [], steps: 0, fetched: 0 };
addEventListener("DOMContentLoaded", () => {
  const list = document.querySelector("[data-list]");
  if (!list) return;
  new MutationObserver(() => { window.watched.rows = Math.max(window.watched.rows, list.children.length); })
    .observe(list, { childList: true });
});
"""

#: How many messages of the past came while one scrolled.
_COUNT_HISTORY = """async () => {
  const { channel } = await import("/static/js/chat/page.js");
  const ask = channel.history.bind(channel);
  channel.history = async (...asked) => {
    const answer = await ask(...asked);
    watched.fetched += answer.messages.length;
    return answer;
  };
}"""

_SCROLL = """async ({ by, end }) => {
  const box = document.querySelector("[data-log]");
  const frame = () => new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
  const isThere = () => {
    const node = document.querySelector(end);
    return node !== null && (by < 0 ? box.scrollTop < 1 : box.scrollHeight - box.clientHeight - box.scrollTop < 2);
  };
  const until = performance.now() + 120000;
  while (!isThere() && performance.now() < until) {
    box.scrollTop += by;
    const middle = box.getBoundingClientRect().top + box.clientHeight / 2;
    const node = document.elementFromPoint(box.getBoundingClientRect().left + 200, middle)?.closest("li.msg");
    const before = node?.getBoundingClientRect().top;
    await frame();
    await frame();
    watched.steps += 1;
    if (node?.isConnected && Math.abs(node.getBoundingClientRect().top - before) > 2) {
      watched.jumps.push([node.id, before, node.getBoundingClientRect().top]);
    }
  }
}"""

_EVIL = '"><x-evil onclick=hacked=1>'

_ROOMS = (
    f"""
_NASTY, _EVIL = {_NASTY!r}, {_EVIL!r}
"""
    + """
from django.contrib.auth import get_user_model
from chat.models import Membership, Room
from realtime.publishing import publish
for slug in "features files escaping thousands offline-4 offline-30 killed-1 killed-3 barriers".split():
    Room.objects.create(slug=slug, name=slug)
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(32) as pool:  # many share a commit
    list(pool.map(
        lambda number: publish(
            "chat:thousands", {"text": f"one of many, n{number + 1}."}, client="bo" if number % 3 else "ines"
        ),
        range(2_000),
    ))
ana = get_user_model().objects.get(username="ana")
from chat.models import AuditEntry
from chat.rooms import direct
mallory = get_user_model().objects.create_user("mallory", first_name=_EVIL)
room = Room.objects.get(slug="escaping")
Room.objects.filter(pk=room.pk).update(name=_EVIL, topic=_EVIL)
Membership.objects.create(room=room, user=ana, role="owner")
Membership.objects.create(room=room, user=mallory)
AuditEntry.objects.create(room=room, by="mallory", action="mute", about=_EVIL, detail=_EVIL)
direct(mallory, "ana")
for text in _NASTY:
    publish("chat:escaping", {"text": text}, client="mallory")
kinds = {".pdf": "application/pdf", ".png": "image/png"}
files = [{"id": "x", "name": _EVIL + suffix, "type": kinds[suffix], "size": 1} for suffix in kinds]
nasty = publish("chat:escaping", {"text": "a place to answer " + _EVIL, "files": files}, client="mallory").serial
publish("chat:escaping", {"text": "an answer " + _EVIL, "thread": nasty}, client="mallory")
publish("chat:escaping", {"of": nasty, "emoji": "<x-evil>", "on": True}, event="react", client="mallory")
publish("chat:escaping", {"topic": _EVIL, "by": "mallory"}, event="room")
publish("chat:escaping", {"action": "muted", "client": _EVIL, "by": "mallory", "until": 1}, event="member")
Membership.objects.create(room=Room.objects.get(slug="barriers"), user=ana, role="moderator")
first = publish("chat:barriers", {"text": "**bold** `code` @ana", "mentions": ["ana"]}, client="bo")
publish("chat:barriers", {"text": "a list:\\n- one\\n- two\\n> quoted\\n```\\ncode\\n```"}, client="ana")
publish("chat:barriers", {"of": 1, "emoji": "🎉", "on": True}, event="react", client="ines")
publish("chat:barriers", {"text": "a reply", "thread": 1}, client="ines")
publish("chat:barriers", {"text": "gone"}, client="bo")
publish("chat:barriers", {"of": 5, "by": "ana"}, event="delete")
publish("chat:barriers", {"action": "joined", "client": "chidi"}, event="member")
"""
)

_ROOMS_MORE = """
from realtime.publishing import publish
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(32) as pool:  # many share a commit
    list(pool.map(
        lambda number: publish(
            "chat:thousands", {"text": f"one of many, n{number + 1}."}, client="bo" if number % 3 else "ines"
        ),
        range(2_000, 10_000),
    ))
"""
