"""The chat in Chromium on two workers, from end to end: through every feature, and through what can happen to the line.

Each scenario ends with the checker of `tests.agreement`: every page against the log.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.agreement import (
    assert_agreed,
    assert_copy_is_exact,
    listen,
    read_log,
    record_line,
    said_by_line,
)
from tests.browser import complaints
from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Postgres, Redis, Site
from tests.stalling import StallingProxy
from tests.test_chat_features_in_browser import members, message, pick

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.slow]

Meet = Callable[..., Person]

NAMES = {"ana": "Ana", "bo": "Bo"}
AWAY_S = 30


@pytest.fixture(scope="module")
def site(postgres_server: Postgres, redis_server: Redis) -> Iterator[Site]:
    """Two workers."""
    url = postgres_server.create_database("chat_trouble")
    with Site(WORKERS="2", DATABASE_URL=url, REDIS_URL=redis_server.url) as running:
        running.manage("demo", "--force")
        running.manage("shell", given=_ROOMS)
        yield running


@pytest.fixture
def network(site: Site) -> Iterator[StallingProxy]:
    """The way to the site, which can be taken away."""
    with StallingProxy(site.port) as proxy:
        yield proxy


@pytest.fixture
def meet(site: Site, browser: Browser) -> Iterator[Meet]:
    """`meet("ana")` gives a window in which ana is logged in; `by=` a network is another way to the site."""
    met: list[Person] = []

    def make(name: str, *, by: StallingProxy | None = None, **context: object) -> Person:
        place = site if by is None else cast("Site", SimpleNamespace(url=f"http://127.0.0.1:{by.port}"))
        person = Person(place, browser, name, **context)
        met.append(person)
        record_line(person)
        return person.log_in()

    yield make
    for person in met:
        person.close()


def another_tab(person: Person, slug: str) -> Person:
    tab = Person.__new__(Person)
    tab.__dict__.update(person.__dict__)
    tab.page = person.context.new_page()
    tab.complaints = complaints(tab.page)
    tab.enter(slug)
    return tab


# ---------------------------------------------------------------- every feature


def test_two_people_and_three_tabs_go_through_every_feature(site: Site, meet: Meet, tmp_path: Path) -> None:
    ana, bo = meet("ana"), meet("bo")
    bo.enter("crowd")

    # A private room is made and opened to somebody, whose list of rooms follows by itself.
    ana.enter("crowd")
    ana.page.get_by_role("button", name="Create or browse rooms").click()
    ana.page.get_by_role("button", name="Create a room").click()
    ana.page.get_by_label("Name").fill("Green Room")
    ana.page.get_by_label("Who may enter").select_option("private")
    ana.page.get_by_role("button", name="Create", exact=True).click()
    ana.page.wait_for_url("**/chat/green-room*/")
    slug = ana.page.url.rstrip("/").rsplit("/", 1)[1]
    ana.wait_for_word("Live")
    assert bo.context.request.get(f"{site.url}/chat/{slug}/").status == 404
    menu(ana, "Invite somebody")
    ana.page.get_by_label("User name").fill("bo")
    ana.page.get_by_role("button", name="Invite", exact=True).click()
    bo.page.locator(f"#rail a[data-slug={slug}]").click()
    bo.page.wait_for_url(f"**/chat/{slug}/")
    bo.wait_for_word("Live")
    tab = another_tab(ana, slug)
    everybody = (ana, tab, bo)
    for each in everybody:
        listen(each)
        each.page.get_by_text("Here now, 2").wait_for(state="attached")

    # All three at once; what one types is seen, what all say has one order.
    bo.page.locator("#text").press_sequentially("so")
    for each in (ana, tab):
        each.page.get_by_text("Bo is typing").wait_for()
    for number in range(3):
        for each, who in zip(everybody, ("ana", "tab", "bo"), strict=True):
            each.say(f"{who} {number}")
    for each in everybody:
        for who in ("ana", "tab", "bo"):
            each.wait_for_texts(*(f"{who} {number}" for number in range(3)))
        eventually(lambda each=each: each.states[-1:] in ([], ["Sent"]) or "Seen" in each.states[-1])  # type: ignore[misc]
    assert ana.texts == tab.texts == bo.texts

    # Markdown, a mention, a link to a message.
    bo.say("**bold** and `code` for @ana now")
    for each in (ana, tab):
        message(each, "bold and code").locator("strong").wait_for()
        assert "mention" in (message(each, "bold and code").get_attribute("class") or "")
    first = message(bo, "ana 0").get_attribute("id")
    bo.page.evaluate(f"location.hash = '#{first}'")
    bo.page.locator(f"#{first}.flash").wait_for()
    bo.page.keyboard.press("End")

    # Edits, reactions of both, taken back by one; a thread, once to the room too.
    tab.page.locator("#text").click()
    tab.page.press("#text", "ArrowUp")
    last = tab.page.input_value("#text")
    assert last in ("ana 2", "tab 2")  # whichever was stored behind the other
    edited = f"{last}, edited"
    tab.page.fill("#text", edited)
    tab.page.press("#text", "Enter")
    for each in everybody:
        message(each, edited).locator(".edited").wait_for()
    message(bo, "ana 1").hover()
    message(bo, "ana 1").locator("[data-do=react]").first.click()
    bo.page.get_by_role("toolbar", name="Pick an emoji").get_by_role("button", name="Party").click()
    message(tab, "ana 1").get_by_role("button", name="Party, 1").click()
    message(bo, "ana 1").get_by_role("button", name="Party, 2").click()
    for each in everybody:
        message(each, "ana 1").get_by_role("button", name="Party, 1").wait_for()
    message(ana, "bo 0").focus()
    ana.page.keyboard.press("t")
    ana.page.fill("#reply", "only in the thread")
    ana.page.press("#reply", "Enter")
    ana.page.locator("[data-also]").check()
    ana.page.fill("#reply", "in the room too")
    ana.page.press("#reply", "Enter")
    for each in everybody:
        message(each, "bo 0").get_by_role("button", name="2 replies").wait_for()
        each.wait_for_texts("in the room too")

    # A file.
    picture = tmp_path / "canopy.png"
    picture.write_bytes(bo.page.screenshot(clip={"x": 0, "y": 0, "width": 40, "height": 30}))
    bo.page.set_input_files("[data-file]", [picture])
    eventually(lambda: bo.page.locator(".going.there").count() == 1, LONG_S, what="uploaded")
    bo.page.fill("#text", "the canopy")
    bo.page.press("#text", "Enter")
    for each in everybody:
        there = message(each, "the canopy").get_by_role("img", name="canopy.png")
        eventually(lambda there=there: there.evaluate("one => one.naturalWidth") == 40, LONG_S)  # type: ignore[misc]

    # Search, in the room.
    tab.page.get_by_role("button", name="Search in this room").click()
    tab.page.get_by_role("combobox").fill("canopy")
    tab.page.get_by_role("option", name=re.compile("the canopy")).first.click()
    tab.page.locator("li.msg.flash", has_text="the canopy").wait_for()

    # Moderation: muted, heard again, a message taken away; all of it is on record.
    members(ana, "Actions for Bo", "Mute for 10 minutes")
    bo.page.get_by_text(re.compile("Bo was muted by Ana until")).wait_for()
    bo.say("can you hear me")
    eventually(lambda: any("you can no longer write in this room" in each for each in bo.states), LONG_S)
    ana.page.keyboard.press("Escape")
    members(ana, "Actions for Bo", "Let them write again")
    bo.page.get_by_text("Bo may write again.").wait_for()
    ana.page.keyboard.press("Escape")
    bo.page.locator("li.msg.own").get_by_role("button", name="Discard").click()
    bo.say("and now?")
    for each in everybody:
        each.wait_for_texts("and now?")
    pick(ana, "and now?", "Delete as moderator")
    ana.page.get_by_label("Reason, for the record").fill("a test")
    ana.page.get_by_role("button", name="Delete", exact=True).click()
    for each in everybody:
        each.page.locator("[data-list] .gone", has_text="Message deleted by Ana (moderator)").wait_for()
    pick(ana, "ana 2", "Delete")
    ana.page.get_by_role("button", name="Delete", exact=True).click()
    for each in everybody:
        each.page.locator("[data-list] .gone", has_text=re.compile("^Message deleted$")).wait_for()
    menu(ana, "Record of moderation")
    record = ana.page.locator("[data-dialog=audit]")
    acts = ("Ana muted Bo for 10 minutes", "Ana let Bo write again", "a test")
    eventually(lambda: all(each in record.inner_text() for each in acts), LONG_S, what="all of it is on record")
    ana.page.keyboard.press("Escape")

    # A new topic, for all.
    menu(ana, "Name and topic")
    ana.page.get_by_role("textbox", name="Topic").fill("Where one waits")
    ana.page.get_by_role("button", name="Save", exact=True).click()
    for each in everybody:
        each.page.get_by_text("set the topic: Where one waits").wait_for()
        eventually(lambda each=each: each.page.inner_text("[data-topic]") == "Where one waits", LONG_S)  # type: ignore[misc]

    # What was said while one was elsewhere is counted there, and is new when one comes back.
    at_first = assert_agreed(site, slug, everybody, NAMES)
    bo.enter("crowd")
    ana.say("come back")
    tab.say("please do")
    unread = bo.page.locator(f"#rail a[data-slug={slug}] [data-unread]")
    eventually(lambda: unread.inner_text().startswith("2"), LONG_S, what="2 new")
    bo.page.locator(f"#rail a[data-slug={slug}]").click()
    bo.page.get_by_text("2 new since").wait_for()
    bo.wait_for_word("Live")
    for each in (ana, tab):
        eventually(lambda each=each: any("Seen by Bo" in state for state in each.states), LONG_S, what="seen")  # type: ignore[misc]
    tab.page.reload()
    tab.wait_for_word("Live")
    log = assert_agreed(site, slug, everybody, NAMES)
    assert log[: len(at_first)] == at_first and len(log) > len(at_first)

    # A talk between two; a public room is joined and left; one is removed from a private one.
    members(bo, "Actions for Ana", "Write to Ana")
    bo.page.wait_for_url(re.compile(rf"/chat/(?!{slug}|crowd)[^/]+/$"))
    talk = bo.page.url.rstrip("/").rsplit("/", 1)[1]
    bo.wait_for_word("Live")
    bo.say("just you")
    badge = ana.page.locator(f"[data-direct] a[data-slug={talk}] [data-unread]")
    eventually(lambda: badge.count() == 1 and badge.inner_text() != "", LONG_S, what="told in the rail")
    bo.enter("crowd")
    menu(bo, "Join")
    bo.page.get_by_text("Bo joined.").wait_for()
    role = 'import("/static/js/chat/page.js").then(({ room }) => room.role)'
    eventually(lambda: bo.page.evaluate(role) == "member", LONG_S, what="the page knows it too")
    menu(bo, "Leave")
    bo.page.get_by_role("button", name="Leave", exact=True).click()
    bo.page.get_by_text("Bo left.").wait_for()
    bo.enter(slug)
    members(ana, "Actions for Bo", "Remove from the room")
    ana.page.get_by_role("button", name="Remove", exact=True).click()
    bo.page.get_by_text("This room is closed to you.").wait_for()
    eventually(lambda: bo.page.locator(f"#rail a[data-slug={slug}]").count() == 0, LONG_S)


def menu(person: Person, item: str) -> None:
    """What the room's own menu offers."""
    person.page.get_by_role("button", name="Room settings").click()
    person.page.get_by_role("menuitem", name=item, exact=True).click()


# ---------------------------------------------------------------- the line is away


@contextlib.contextmanager
def away(network: StallingProxy, person: Person, *, is_told: bool) -> Iterator[None]:
    """Nothing passes, new connections hang; pages and their scripts come from a cache. `is_told`: the browser knows."""

    def from_cache(route: Route) -> None:
        if route.request.resource_type in ("document", "script", "stylesheet", "font", "image"):
            upstream = f"127.0.0.1:{network._upstream[1]}"
            answer = route.fetch(url=route.request.url.replace(f"127.0.0.1:{network.port}", upstream))
            route.fulfill(response=answer)
        else:
            route.fallback()

    person.context.route("**/*", from_cache)
    person.context.set_offline(is_told)
    network.stall()
    try:
        yield
    finally:
        network.heal()
        person.context.set_offline(False)
        person.context.unroute("**/*", from_cache)


@pytest.mark.parametrize("is_told", [True, False], ids=["the browser knows", "packets are dropped"])
def test_away_for_long_with_messages_both_ways_and_a_reload(
    site: Site, network: StallingProxy, meet: Meet, is_told: bool
) -> None:
    room = f"away-{is_told}".lower()
    ana, bo = meet("ana", by=network), meet("bo")
    ana.enter(room)
    bo.enter(room)
    tab = another_tab(ana, room)
    everybody = (ana, tab, bo)
    listen(tab)
    listen(bo)
    ana.say("before")
    for each in everybody:
        each.wait_for_texts("before")
    mine, theirs = [f"ana {number}" for number in range(5)], [f"bo {number}" for number in range(5)]
    others = [f"tab {number}" for number in range(3)]
    with away(network, ana, is_told=is_told):
        until = time.monotonic() + AWAY_S
        # Before the page knows, and once it does.
        ana.say(mine[0])
        tab.say(others[0])
        bo.say(theirs[0])
        for each in (ana, tab):
            eventually(lambda each=each: each.word in ("Offline", "Connecting"), 2 * LONG_S, what="it is known")  # type: ignore[misc]
            told = each.banner
            assert "send themselves" in told or "sends itself" in told or "goes in order" in told
        for text in mine[1:3]:
            ana.say(text)
        for text in theirs[1:3]:
            bo.say(text)
        ana.page.reload()
        for text in mine[3:]:
            ana.say(text)
        tab.say(others[1])
        eventually(lambda: [each for each in ana.texts if each in mine] == mine, LONG_S, what="all typed is there")
        tab.page.reload()
        tab.say(others[2])
        for text in theirs[3:]:
            bo.say(text)
        eventually(lambda: len(bo.texts) == 6, LONG_S)
        ana.page.wait_for_timeout(max(0.0, until - time.monotonic()) * 1000)
        assert [each for each in bo.texts if not each.startswith("bo")] == ["before"]
    for each in everybody:
        each.wait_for_word("Live")
        for said in (mine, others, theirs):
            each.wait_for_texts(*said)
        eventually(lambda each=each: each.page.locator("li.msg.own").count() == 0, LONG_S)  # type: ignore[misc]
    log = assert_agreed(site, room, everybody, NAMES)
    texts = [each["data"]["text"] for each in log if each["event"] == "message"]
    assert sorted(texts) == sorted(["before", *mine, *others, *theirs])
    for each in (ana, tab):
        assert_copy_is_exact(each)


def test_the_banner_accounts_for_what_happened_meanwhile(site: Site, network: StallingProxy, meet: Meet) -> None:
    ana, bo = meet("ana", by=network), meet("bo")
    ana.enter("account")
    bo.enter("account")
    listen(ana)
    with away(network, ana, is_told=False):
        until = time.monotonic() + AWAY_S
        for number in range(3):
            ana.say(f"ana {number}")
        for number in range(4):
            bo.say(f"bo {number}")
        eventually(lambda: ana.word in ("Offline", "Connecting"), 2 * LONG_S)
        eventually(lambda: ana.word == "Offline" and "wait" in ana.banner, 2 * LONG_S, what="a banner with numbers")
        assert "3 messages wait here and send themselves." in ana.banner
        ana.page.wait_for_timeout(max(0.0, until - time.monotonic()) * 1000)
    told = eventually(
        lambda: [each for _, each, _ in said_by_line(ana) if each.startswith("Live again.")],
        2 * LONG_S,
        what="accounted",
    )
    assert told[-1].endswith("3 of yours sent, none lost.")
    for person in (ana, bo):
        person.wait_for_texts(*(f"bo {number}" for number in range(4)))
        person.wait_for_texts(*(f"ana {number}" for number in range(3)))
    assert_copy_is_exact(ana)
    assert_agreed(site, "account", (ana, bo), NAMES)


# ---------------------------------------------------------------- workers die


def test_all_workers_are_killed_and_the_banner_tells_the_truth(site: Site, meet: Meet) -> None:
    ana, bo = meet("ana"), meet("bo")
    for person in (ana, bo):
        person.enter("all-killed")
        listen(person)
    ana.say("before")
    bo.wait_for_texts("before")
    workers = site.worker_pids()
    supervisor = parent_of(workers["w1"])
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        ana.say("first")
        ana.say("second")
        for person, waiting in ((ana, " 2 messages wait here and send themselves."), (bo, "")):
            # Tries to connect hang, since somebody listens still: Offline and Connecting take turns.
            eventually(partial(offline_since, person, waiting), 3 * LONG_S, what="Offline")
            assert person.page.locator("[data-typing]").inner_text() == "Who is typing is not known while offline"
    finally:
        os.kill(supervisor, signal.SIGCONT)
    for person in (ana, bo):
        person.wait_for_word("Live")
        person.wait_for_texts("before", "first", "second")
        assert_copy_is_exact(person)
    assert_agreed(site, "all-killed", (ana, bo), NAMES)


def offline_since(person: Person, waiting: str) -> bool:
    """Whether the page has said that it is offline, and how many messages wait, and since when in the same words."""
    for word, banner, via in said_by_line(person):
        told = re.fullmatch(
            rf"Offline (since \d\d:\d\d)\. You see everything up to then\.{re.escape(waiting)}"
            r" (Next try in \d+ s|Trying now)\. ?Try now",
            banner,
        )
        if word == "Offline" and told:
            assert told[1] == via
            return True
    return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---------------------------------------------------------------- retention is shorter


def test_what_retention_took_meanwhile_is_told_and_the_rest_is_read_anew(
    site: Site, network: StallingProxy, meet: Meet
) -> None:
    ana, bo = meet("ana", by=network), meet("bo")
    for person in (ana, bo):
        person.enter("short")
    listen(ana)
    ana.say("mine, from before")
    bo.wait_for_texts("mine, from before")
    with away(network, ana, is_told=False):
        ana.page.press("#text", "ArrowUp")
        ana.page.fill("#text", "mine, edited too late")
        ana.page.press("#text", "Enter")
        ana.say("typed meanwhile")
        for number in range(6):
            bo.say(f"bo {number}")
        menu(bo, "Name and topic")
        bo.page.get_by_role("textbox", name="Topic").fill("Told while she was away")
        bo.page.get_by_role("button", name="Save", exact=True).click()
        bo.page.get_by_text("set the topic: Told while she was away").wait_for()
        eventually(lambda: ana.word in ("Offline", "Connecting"), 2 * LONG_S)
        site.manage("shell", given=_MORE_THAN_IS_KEPT)
        head = read_log(site, "short")[-1]["serial"]
        site.manage("prune", "--channel", "chat:short", "--upto", str(head - 5))
    ana.wait_for_word("Live")
    ana.wait_for_texts(*(f"kept {number}" for number in range(1, 6)), "typed meanwhile")
    gap = ana.page.locator("li.gap").inner_text()
    first, last = (int(each) for each in re.findall(r"#(\d+)", gap))
    assert gap == f"Messages #{first} to #{last} are past this room’s 90 days and can’t be shown."
    told = ana.page.locator("[data-notice-banner]").inner_text()
    assert f"{last - first + 1} messages can’t be had. #{first} to #{last} are past this room’s 90 days." in told
    assert ana.ledger("missing") == "0" and ana.ledger("doubled") == "0"
    # What was told in the part that is gone is known all the same.
    eventually(lambda: ana.page.inner_text("[data-topic]") == "Told while she was away", LONG_S, what="the topic")
    # What it was to change is gone: it says so and keeps the text.
    eventually(
        lambda: any("Edit not sent: you can no longer change this message." in each for each in ana.states), LONG_S
    )
    bo.wait_for_texts("typed meanwhile")
    bo.say("and on")
    ana.wait_for_texts("typed meanwhile", "and on")
    assert ana.page.locator("li.gap").count() == 1 and ana.page.locator("li.beginning").count() == 1
    heard: list[Any] = ana.page.evaluate("window.heard")
    serials = [each[0] for each in heard]
    assert serials == sorted(set(serials)) and not any(first <= each <= last for each in serials)


_ROOMS = """
from django.contrib.auth import get_user_model
from chat.models import Membership, Room
for slug in "crowd away-true away-false account all-killed short".split():
    Room.objects.create(slug=slug, name=slug)
bo = get_user_model().objects.get(username="bo")
Membership.objects.create(room=Room.objects.get(slug="short"), user=bo, role="owner")
"""

_MORE_THAN_IS_KEPT = """
from realtime.publishing import publish
for number in range(1, 6):
    publish("chat:short", {"text": f"kept {number}"}, client="bo")
"""
