"""The chat in Chromium, against the site in a process of its own: what people see, also when the server dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

Meet = Callable[..., Person]

#: What stands under the last of one's own messages once it is stored; the other may have read it by then.
SENT = (["Sent"], ["Sent · Seen by Bo"])


@pytest.fixture(scope="module", autouse=True)
def people_and_rooms(site: Site) -> None:
    site.manage("demo", "--force")
    site.manage("shell", given=_ROOMS)


@pytest.fixture
def meet(site: Site, browser: Browser) -> Iterator[Meet]:
    """`meet("ana")` gives a window in which ana is logged in. The server runs, whatever the test before did to it."""
    met: list[Person] = []
    if not site.answers():
        site.start()

    def make(name: str, **context: object) -> Person:
        met.append(Person(site, browser, name, **context).log_in())
        return met[-1]

    yield make
    for person in met:
        person.close()


def test_what_one_says_the_other_reads(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("talk")
    bo.enter("talk")
    assert "Nothing said yet" in bo.page.inner_text("[data-log]")
    ana.say("first")
    bo.wait_for_texts("first")
    bo.say("second")
    ana.wait_for_texts("first", "second")
    eventually(lambda: ana.states in SENT, LONG_S, what="sent, once the database has it")
    assert bo.page.locator("li.msg .by b").first.inner_text() == "Ana"
    for person in (ana, bo):
        person.assert_whole()
        assert "In order through #2" in person.page.inner_text("[data-order]")


def test_text_stays_text_and_only_web_addresses_become_links(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("escaping")
    nasty = '<img src=x onerror="document.title=1"> javascript:alert(1) https://a.example/x?y=1.'
    ana.say(nasty)
    ana.wait_for_texts(nasty)
    assert ana.page.locator("li.msg img").count() == 0
    assert ana.page.eval_on_selector_all("li.msg .text a", "all => all.map(one => one.href)") == [
        "https://a.example/x?y=1"
    ]
    assert ana.page.locator("li.msg .text a").get_attribute("rel") == "noopener noreferrer nofollow ugc"


def test_lines_are_kept_and_enter_sends(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("lines")
    ana.page.click("#text")
    ana.page.keyboard.type("one")
    ana.page.keyboard.press("Shift+Enter")
    ana.page.keyboard.type("two")
    ana.page.keyboard.press("Enter")
    ana.wait_for_texts("one\ntwo")
    assert ana.page.input_value("#text") == ""


def test_scrolling_back_reads_the_past_without_a_jump(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("long")
    eventually(lambda: len(ana.serials) >= 50, LONG_S)
    log = ana.page.locator("[data-log]")
    seen: set[int] = set()
    for _ in range(60):
        seen.update(ana.serials)
        if ana.page.locator("li.beginning").count():
            break
        oldest = ana.serials[0]
        log.evaluate("box => { box.scrollTop = 300; }")
        # The message at the top of the view keeps its place on the screen while older ones come in above it.
        before = log.evaluate(_TOP_MESSAGE)
        eventually(partial(has_older, ana, oldest), LONG_S, what="older messages")
        after = ana.page.evaluate("id => document.getElementById(id)?.getBoundingClientRect().top", before["id"])
        assert after is not None and abs(after - before["top"]) <= 2
    assert seen >= set(range(1, 161))
    assert "The beginning of the room" in ana.page.inner_text("[data-list]")
    ana.assert_whole()


def has_older(person: Person, oldest: int) -> bool:
    return person.serials[0] < oldest or person.page.locator("li.beginning").count() > 0


def test_new_messages_do_not_move_what_is_being_read(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("reading")
    bo.enter("reading")
    log = ana.page.locator("[data-log]")
    eventually(lambda: len(ana.serials) == 80, LONG_S)
    log.evaluate("box => { box.scrollTop = 700; }")
    before = log.evaluate(_TOP_MESSAGE)
    bo.say("here below")
    bo.say("and another")
    ana.page.get_by_role("button", name="2 new below").wait_for()
    after = ana.page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", before["id"])
    assert abs(after - before["top"]) <= 2
    ana.page.get_by_role("button", name="2 new below").click()
    assert ana.page.locator("li.msg").last.is_visible()
    assert not ana.page.locator("[data-pill]").is_visible()


def test_the_worker_is_killed_in_mid_conversation_and_nothing_is_lost_or_doubled(site: Site, meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("killed")
    bo.enter("killed")
    said = [f"{number}" for number in range(1, 13)]
    for text in said[:4]:
        ana.say(text)
    site.kill()  # some of them were stored, some answered, some neither
    for text in said[4:6]:
        ana.say(text)
    ana.wait_for_word("Offline")
    bo.wait_for_word("Offline")
    assert ana.banner.startswith("Offline since ")
    assert "You see everything up to then." in ana.banner
    assert "send themselves" in ana.banner
    assert "Try now" in ana.banner
    assert "wait here" not in bo.banner
    eventually(lambda: "Waiting for a connection. Kept on this device." in ana.states)
    assert "Waiting for the one above, so the order stays yours" in ana.states
    ana.say(said[6])
    assert ana.page.input_value("#text") == ""
    site.start()
    for text in said[7:]:
        ana.say(text)
    for person in (ana, bo):
        person.wait_for_word("Live")
        person.wait_for_texts(*said)
        person.assert_whole()
        assert person.ledger("resumed") != "not needed"
    eventually(lambda: ana.states in SENT, LONG_S)
    assert ana.page.locator("li.msg.own").count() == 0


@pytest.mark.slow
def test_killed_again_and_again_while_both_write(site: Site, meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("again")
    bo.enter("again")
    said: dict[str, list[str]] = {"ana": [], "bo": []}
    for round_number in range(2):
        for number in range(6):
            for person in (ana, bo):
                said[person.name].append(f"{person.name} {round_number}.{number}")
                person.say(said[person.name][-1])
            if number == 2:
                site.kill()
            if number == 4:
                site.start()
        # The rate: twenty messages in ten seconds.
        eventually(lambda: ana.page.locator("li.msg.own").count() == 0, LONG_S)
        eventually(lambda: bo.page.locator("li.msg.own").count() == 0, LONG_S)
    for person in (ana, bo):
        eventually(lambda person=person: len(person.serials) == 24, LONG_S, what="all 24")  # type: ignore[misc]
        # What each wrote stands in the order of writing, once; both read the same.
        for texts in said.values():
            person.wait_for_texts(*texts)
        person.assert_whole()
    assert ana.texts == bo.texts


def test_what_was_pruned_meanwhile_is_told_with_its_numbers(site: Site, meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("pruned")
    assert ana.serials == list(range(1, 6))
    eventually(lambda: ana.ledger("received") == "6", what="our receipt, #6")
    site.kill()
    ana.wait_for_word("Offline")
    site.manage("shell", given=_TEN_MORE_THEN_PRUNED)
    site.start()
    ana.wait_for_texts(*(f"more {number}" for number in range(5, 11)))
    notice = ana.page.locator("[data-notice-banner]").inner_text()
    assert "4 messages can’t be had. #7 to #10 are past this room’s 90 days." in notice
    gap = "Messages #7 to #10 are past this room’s 90 days and can’t be shown."
    assert ana.page.locator("li.gap").inner_text() == gap
    assert ana.serials == [1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 16]
    assert ana.ledger("missing") == "0"  # all of them are explained
    ana.page.reload()
    ana.page.get_by_text("Messages #1 to #10 are past this room’s 90 days and can’t be shown.").wait_for()


def test_a_room_that_was_started_anew_says_so(site: Site, meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("anew")
    ana.wait_for_texts("old 0", "old 1", "old 2")
    site.manage("shell", given=_ANEW)
    ana.page.get_by_text("This room was started anew.").wait_for()
    site.manage(
        "shell", given='from realtime.publishing import publish; publish("chat:anew", {"text": "fresh"}, client="bo")'
    )
    ana.wait_for_texts("fresh")
    assert ana.texts == ["fresh"]
    assert "Numbers go on at #" in ana.page.inner_text("[data-notice-banner]")


def test_after_a_long_absence_the_banner_accounts_for_it(site: Site, meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("absence")
    ana.page.clock.install()
    site.kill()
    try:
        ana.wait_for_word("Offline")
        ana.page.clock.run_for(12_000)
        ana.say("while away")
    finally:
        site.start()
    site.manage("shell", given=_THREE_MESSAGES)

    def told() -> bool:
        # The page's time is ours: tries to connect happen when we say, and end before a slow server has answered
        # if it runs away from the server's.
        ana.page.clock.run_for(1000)
        return "Live again." in ana.banner

    eventually(told, LONG_S, every_s=1.0)
    assert ana.banner.endswith("1 of yours sent, none lost.")
    ana.page.clock.run_for(5000)
    assert ana.banner == ""
    ana.wait_for_texts("while away")


def test_what_was_not_sent_outlives_a_reload_and_is_stored_once(meet: Meet) -> None:
    ana = meet("ana")
    ana.context.route("**/chat/token", lambda route: route.abort())
    ana.open("/chat/reload/")
    ana.say("from before")
    eventually(lambda: "Waiting for a connection. Kept on this device." in ana.states)
    ana.page.reload()
    eventually(lambda: ana.texts == ["from before"], LONG_S)
    ana.context.unroute("**/chat/token")
    ana.wait_for_texts("from before")
    ana.page.reload()
    ana.wait_for_texts("from before")


def test_a_draft_outlives_a_reload(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("drafts")
    ana.page.fill("#text", "half a thou")
    ana.page.get_by_text("Draft saved").wait_for()
    ana.page.reload()
    assert ana.page.input_value("#text") == "half a thou"
    ana.enter("talk")
    assert ana.page.locator("a[data-slug=drafts] [data-draft]").is_visible()
    assert ana.page.input_value("#text") == ""


def test_too_many_at_once_wait_and_go_in_order(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("flood")
    said: list[str] = []
    # On a slow machine it takes more of them to be too many in 10 s.
    while not any("Not sent: too many messages from you in 10 s. Goes again" in each for each in ana.states):
        assert len(said) < 200
        said.append(f"m{len(said)}")
        ana.say(said[-1])
    ana.wait_for_texts(*said)
    ana.assert_whole()


def test_too_long_a_text_is_not_sent_and_not_lost(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("limit")
    ana.page.fill("#text", "x" * 4003)
    ana.page.press("#text", "Enter")
    assert "3 characters over the limit" in ana.page.inner_text("[data-note]")
    assert len(ana.page.input_value("#text")) == 4003
    assert ana.texts == []


def test_other_rooms_say_what_is_new_and_the_room_where_it_begins(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    bo.enter("news")
    bo.say("old")
    bo.wait_for_texts("old")
    bo.page.wait_for_timeout(600)  # read marks are kept after a moment of reading
    bo.enter("talk")
    ana.enter("news")
    ana.say("new one")
    ana.say("new two")
    unread = bo.page.locator("a[data-slug=news] [data-unread]")
    eventually(lambda: unread.inner_text().startswith("2"), LONG_S)
    bo.enter("news")
    bo.page.get_by_text("2 new since").wait_for()
    # What was read there is not new on another device, which has read nothing yet.
    eventually(lambda: any("Seen by Bo" in each for each in ana.states), LONG_S, what="bo's receipt")
    bo.enter("talk")
    ana.say("new three")
    ana.wait_for_texts("new three")
    phone = meet("bo")
    phone.enter("news")
    phone.page.get_by_text("1 new since").wait_for()


def test_a_phone_has_the_rooms_in_a_drawer(meet: Meet) -> None:
    ana = meet("ana", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    ana.enter("talk")
    opener = ana.page.get_by_role("button", name="Rooms", exact=True)
    opener.click()
    ana.page.locator("#rail").wait_for(state="visible")
    assert ana.page.evaluate("document.activeElement.hasAttribute('data-drawer-close')")
    assert ana.page.evaluate("document.querySelector('#main').inert")
    ana.page.keyboard.press("Escape")
    eventually(lambda: not ana.page.locator("#rail").is_visible())
    assert ana.page.evaluate("document.activeElement.hasAttribute('data-drawer-open')")
    opener.click()
    ana.page.locator("#rail a[data-slug=lobby]").click()
    ana.page.wait_for_url("**/chat/lobby/")


def test_a_room_can_be_read_and_written_by_keyboard(meet: Meet) -> None:
    ana = meet("ana")
    ana.enter("reading")
    ana.page.locator("[data-log]").focus()
    ana.page.keyboard.press("k")
    newest = ana.page.evaluate("document.activeElement.id")
    ana.page.keyboard.press("k")
    assert ana.page.evaluate("document.activeElement.id") == f"m{int(newest[1:]) - 1}"
    ana.page.keyboard.press("c")
    assert ana.page.evaluate("document.activeElement.id") == "text"
    ana.page.keyboard.press("Alt+ArrowUp")
    ana.page.wait_for_url(lambda url: not url.endswith("/reading/"))


def test_a_message_that_is_drawn_anew_keeps_the_focus(meet: Meet) -> None:
    ana = meet("ana")
    asked: list[Route] = []
    ana.page.route("**/chat/names?*", lambda route: asked.append(route))
    ana.enter("reading")
    ana.page.locator("[data-log]").focus()
    ana.page.keyboard.press("k")
    newest = ana.page.evaluate("document.activeElement.id")
    assert newest.startswith("m")
    while not asked:
        ana.page.wait_for_timeout(20)
    asked[0].fulfill(json={"names": {"bo": "Somebody Else"}})
    ana.page.locator(f"#{newest} .body b", has_text="Somebody Else").wait_for(state="attached")
    assert ana.page.evaluate("document.activeElement.id") == newest


def test_live_messages_are_read_aloud_and_the_past_is_not(meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    ana.enter("aloud")
    bo.enter("aloud")
    log = ana.page.locator("[data-log]")
    assert log.get_attribute("aria-live") == "off"
    bo.say("hello")
    ana.wait_for_texts("hello")
    assert log.get_attribute("aria-live") == "polite"
    ana.say("mine")
    ana.wait_for_texts("hello", "mine")
    assert log.get_attribute("aria-live") == "off"


_TOP_MESSAGE = """box => {
  const top = box.getBoundingClientRect().top;
  const node = [...box.querySelectorAll("li.msg")].find((each) => each.getBoundingClientRect().top >= top);
  return { id: node.id, top: node.getBoundingClientRect().top };
}"""

_ROOMS = """
from chat.models import Room
from realtime.publishing import publish
for slug in (
    "talk escaping lines long reading killed again pruned anew absence reload drafts flood limit news aloud"
).split():
    Room.objects.create(slug=slug, name=slug)
for number in range(1, 161):
    publish("chat:long", {"text": f"number {number}"}, client="bo" if number % 3 else "ines")
for number in range(5):
    publish("chat:pruned", {"text": f"text {number}"}, client="bo")
for number in range(3):
    publish("chat:anew", {"text": f"old {number}"}, client="bo")
for number in range(1, 81):
    publish("chat:reading", {"text": f"line {number}"}, client="bo")
"""

_TEN_MORE_THEN_PRUNED = """
from realtime.log.retention import prune
from realtime.publishing import publish
for number in range(1, 11):
    publish("chat:pruned", {"text": f"more {number}"}, client="bo")
prune("chat:pruned", 10)
"""

_ANEW = """
from realtime.log.retention import begin_anew
begin_anew("chat:anew")
"""

_THREE_MESSAGES = """
from realtime.publishing import publish
for number in range(3):
    publish("chat:absence", {"text": f"from afar {number}"}, client="bo")
"""
