"""Dashboards in Chromium: every kind of widget from history to live against the log, with conflation and a death."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site
from tests.stalling import StallingProxy
from tests.test_chat_features_in_browser import longest_task_ms

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

#: Channel → what its namespace does for who falls behind, and whether it allows deltas.
CHANNELS = {"held:widgets": ("hold", False), "newest:widgets": ("conflate", False), "delta:widgets": ("hold", True)}
CHANNEL = "held:widgets"
COLOURS = ("red", "blue", "green")
KEYS = ("k0", "k1")
#: Charts draw at least so many points as they are: SLOTS in static/js/dashboards/figures.js, four times.
DRAWN_WHOLE = 3200
#: So small that a line which stands still for a moment falls behind.
WINDOW = 32
KINDS: dict[str, dict[str, Any]] = {
    "line": {"field": "v"},
    "area": {"field": "v", "options": {"by_key": True}},
    "gauge": {"field": "v", "options": {"max": 10_000}},
    "number": {"field": "v"},
    "bar": {"field": "colour", "options": {"fold": "count"}},
    "table": {"field": "v", "options": {"columns": ["v", "colour"]}},
    "feed": {"field": "v"},
    "lights": {"field": "state"},
}
_PREPARE = f"""
import json
from django.core.management import call_command
from realtime.models import Namespace
from realtime.tokens import issue_token
call_command("demo", force=True, verbosity=0)
for channel, (overflow, delta) in {CHANNELS}.items():
    Namespace.objects.create(name=channel.split(":")[0], overflow=overflow, delta=delta, window_default={WINDOW},
                             known_ops=["subscribe", "history"])
channels = [*{list(CHANNELS)}, "scores:live", "demo:commentary"]
print("TOKEN", issue_token("publisher", {{channel: ["publish", "history"] for channel in channels}}, 3600)[0])
"""


class Publisher:
    """A backend that publishes over REST, and reads the log there."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._token = site.manage("shell", "--verbosity", "0", given=_PREPARE).split("TOKEN ")[1].split()[0]
        self.heads = dict.fromkeys(CHANNELS, 0)
        # The worker is told of new namespaces a moment later.
        for channel in CHANNELS:
            eventually(lambda channel=channel: self._is_there(channel), LONG_S)  # type: ignore[misc]

    def _is_there(self, channel: str) -> bool:
        try:
            self.more(10, channel)
        except urllib.error.HTTPError as error:
            assert error.code == 404, error
            return False
        return True

    def publish(self, channel: str, messages: list[dict[str, Any]]) -> None:
        self._ask(channel, "", {"messages": messages})

    def more(self, count: int, channel: str = CHANNEL) -> None:
        """So many messages more, whose values are their serials: nobody else publishes there."""
        first = self.heads[channel] + 1
        self.publish(
            channel,
            [
                {
                    "id": f"n{value}",
                    "key": f"k{value % 2}",
                    "data": {"v": value, "colour": COLOURS[value * value % 3], "state": ("live", "slow")[value % 2]},
                }
                for value in range(first, first + count)
            ],
        )
        self.heads[channel] += count

    def log(self, channel: str) -> list[dict[str, Any]]:
        """All that is stored, as the server says it."""
        messages: list[dict[str, Any]] = []
        more = True
        while more:
            page = self._ask(channel, f"?limit=1000&after={messages[-1]['serial'] if messages else 0}")
            messages += page["messages"]
            more = page["more"]
        assert [each["serial"] for each in messages] == list(range(1, self.heads[channel] + 1))
        return messages

    def _ask(self, channel: str, query: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self._site.url}/api/v1/channels/{quote(channel, safe='')}/messages{query}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=LONG_S) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def publisher(site: Site) -> Publisher:
    return Publisher(site)


@pytest.fixture
def ana(site: Site, browser: Browser, publisher: Publisher) -> Iterator[Person]:
    person = Person(site, browser, "ana").log_in()
    yield person
    person.close()


_SEND = """async ([url, method, body]) => {
  const token = /csrftoken=([^;]+)/.exec(document.cookie)[1];
  const response = await fetch(url, { method, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "X-CSRFToken": token } });
  return response.json();
}"""


def make_dashboard(ana: Person, channel: str = CHANNEL, **options: dict[str, Any]) -> str:
    """One with every kind of widget; its address. Options by kind."""
    ana.open("/dashboards/")
    url: str = ana.page.evaluate(_SEND, ["/dashboards/api/new", "POST", {"name": "All kinds"}])["url"]
    widgets = [
        {"kind": kind, "title": kind, "channel": channel, "span": 4, **more}
        | {"options": more.get("options", {}) | options.get(kind, {})}
        for kind, more in KINDS.items()
    ]
    slug = url.split("/")[2]
    body = {"name": "All kinds", "deltas": CHANNELS[channel][1], "widgets": widgets}
    saved = ana.page.evaluate(_SEND, [f"/dashboards/api/of/{slug}", "PUT", body])
    assert "error" not in saved, saved
    return url


def widget(ana: Person, kind: str) -> Any:
    return ana.page.locator(f"[data-kind={kind}]")


def figure(ana: Person, name: str) -> int:
    return int(ana.ledger(name).replace(",", ""))


def serials_of(ana: Person) -> list[int]:
    """Of the feed, newest first."""
    return [
        int(each) for each in ana.page.eval_on_selector_all("[data-serial]", "all => all.map(e => e.dataset.serial)")
    ]


#: What the page holds, and what its widgets show, in one moment.
_HELD = """async (channel) => {
  const { followed, shown } = await import(document.querySelector("script[src*='dashboards/dashboard']").src);
  const all = (selector, read) => [...document.querySelectorAll(selector)].map(read);
  const text = (each) => each.textContent.replace(",", "");
  const pairs = (selector, read) => Object.fromEntries(all(selector, ({ children }) => read([...children].map(text))));
  const { log } = followed.get(channel);
  return {
    rows: log.rows.map(({ serial, key, data }) => ({ serial, key, data })),
    counts: { received: log.received, merged: log.merged, missing: log.missing, doubled: log.doubled },
    charts: Object.fromEntries(shown.map(({ widget, drawn }) => [widget.kind, drawn.data?.slice(1)])),
    feed: all("[data-serial]", (each) => Number(each.dataset.serial)),
    bars: pairs(".bars li:not(.muted)", ([label, , value]) => [label, Number(value)]),
    table: pairs("[data-kind=table] tbody tr", ([key, ...cells]) => [key, cells]),
    lights: pairs(".lights li:not(.muted)", ([, key, word]) => [key, word]),
    number: all(":is([data-kind=number], [data-kind=gauge]) [data-value]", text),
    told: all("[data-ledger]:not([data-ledger=resumed])", text),
  };
}"""


def differences(held: dict[str, Any], log: list[dict[str, Any]], conflates: bool) -> list[str]:
    """In what the page and its widgets are not what the log says."""
    wrong: list[str] = []

    def same(what: str, shown: object, expected: object) -> None:
        if shown != expected:
            wrong.append(f"{what}: {str(shown)[-200:]}, not {str(expected)[-200:]}")

    rows, counts = held["rows"], held["counts"]
    serials = [row["serial"] for row in rows]
    if conflates:
        # Some gave way to newer ones of their key, and the page knows how many.
        same("in order, each once", serials, sorted(set(serials)))
        same("received or merged", counts["received"] + counts["merged"], len(log))
        same("received", counts["received"], len(rows))
    else:
        same("serials", serials, [message["serial"] for message in log])
        same("merged", counts["merged"], 0)
    same("missing, doubled", (counts["missing"], counts["doubled"]), (0, 0))
    same("the ledger", held["told"], [str(counts[name]) for name in ("received", "merged", "missing", "doubled")])
    of = {message["serial"]: {name: message[name] for name in ("serial", "key", "data")} for message in log}
    same("contents", rows, [of[serial] for serial in serials])
    values = [row["data"]["v"] for row in rows]
    # A line has a gap wherever a message is not there; where nothing was sent for long, too.
    (line,) = held["charts"]["line"]
    if len(values) <= DRAWN_WHOLE:
        same("line", [value for value in line if value is not None], values)
    drawn = [
        (before, after)
        for before, gap, after in zip(line, line[1:], line[2:], strict=False)
        if gap is None and None not in (before, after)
    ]
    holes = [(before, after) for before, after in pairwise(values) if after != before + 1]
    same("holes of the line", [hole for hole in holes if hole not in drawn], [])
    same("gaps that are not between two values", len(drawn), line.count(None))
    areas = [[value for value in column if value is not None] for column in held["charts"]["area"]]
    of_keys = [[row["data"]["v"] for row in rows if row["key"] == key] for key in KEYS]
    same("keys", len(areas), len(KEYS))
    if len(values) <= DRAWN_WHOLE:
        same("area by key", areas, of_keys)
    for what, drawn_values, all_values in zip(("line", *KEYS), (line, *areas), (values, *of_keys), strict=False):
        # Of very many as many as there are pixels, each of the log, the ends among them.
        seen = [value for value in drawn_values if value is not None]
        same(f"{what}, in order", seen, sorted(set(seen) & set(all_values)))
        same(f"{what}, ends", seen[:1] + seen[-1:], all_values[:1] + all_values[-1:])
    same("sparkline", held["charts"]["number"], [values])
    same("gauge and number", held["number"], [str(log[-1]["data"]["v"])] * 2)
    same("feed", held["feed"], serials[:-31:-1])
    same("bars", held["bars"], dict(Counter(row["data"]["colour"] for row in rows)))
    newest = {message["key"]: message["data"] for message in log}
    same("table", held["table"], {key: [str(data["v"]), data["colour"]] for key, data in newest.items()})
    words = {"live": "Well", "slow": "Slow"}
    same("lights", held["lights"], {key: words[data["state"]] for key, data in newest.items()})
    return wrong


def assert_exact(ana: Person, publisher: Publisher, channel: str) -> None:
    """The page holds, and every widget shows, what the log says: no hole, no double."""
    log = publisher.log(channel)
    wrong = [""]

    def exact() -> bool:
        wrong[:] = differences(ana.page.evaluate(_HELD, channel), log, channel == "newest:widgets")
        return not wrong

    try:
        eventually(exact, LONG_S, every_s=0.1)
    except AssertionError:
        raise AssertionError("\n".join(wrong)) from None
    assert ana.faults() == []


@pytest.mark.parametrize("channel", list(CHANNELS))
def test_every_widget_is_exact_from_history_to_live_and_over_every_cut(
    site: Site, browser: Browser, publisher: Publisher, channel: str
) -> None:
    with StallingProxy(site.port) as line:
        ana = Person(SimpleNamespace(url=f"http://127.0.0.1:{line.port}"), browser, "ana").log_in()  # type: ignore[arg-type]  # its address is enough
        url = make_dashboard(ana, channel)
        deltas: list[str] = []

        def keep(frame: str | bytes) -> None:
            if isinstance(frame, str) and '"base":' in frame:
                deltas.append(frame)

        ana.page.on("websocket", lambda socket: socket.on("framereceived", keep))

        def publish() -> None:
            for _ in range(20):
                publisher.more(7, channel)

        # History, and what is published while the page attaches and reads back.
        with ThreadPoolExecutor(1) as backend:
            published = backend.submit(publish)
            ana.open(url)
            ana.wait_for_word("Live")
            published.result()
        assert_exact(ana, publisher, channel)
        # The line stands still, so that the page falls behind; then it goes on.
        line.stall()
        for _ in range(5):
            publisher.more(40, channel)
        line.heal()
        assert_exact(ana, publisher, channel)
        merged = figure(ana, "merged")
        assert (merged > 0) == (channel == "newest:widgets")
        if merged:
            assert f"Showing the newest; {merged} merged, counts are exact." in widget(ana, "line").inner_text()
            # Bars count messages themselves, so they say that they counted some alone.
            told = f"{figure(ana, 'received')} of {publisher.heads[channel]} messages came one by one"
            assert told in widget(ana, "bar").inner_text()
        # The line is cut in the middle of a stream.
        with ThreadPoolExecutor(1) as backend:
            published = backend.submit(publish)
            line.cut()
            published.result()
        assert_exact(ana, publisher, channel)
        eventually(lambda: ana.ledger("resumed") != "0", LONG_S)
        if channel == CHANNEL:
            # The worker dies, which is the same for every policy.
            site.kill()
            ana.wait_for_word("Offline")
            state, badge = ana.page.locator("[data-state]"), widget(ana, "number").locator(".badge")
            eventually(lambda: state.inner_text() == "8 widgets behind", LONG_S)
            eventually(lambda: re.fullmatch(r"\d+ s behind|\d+ min behind", badge.inner_text()), LONG_S)
            site.start()
            publisher.more(29, channel)
            assert_exact(ana, publisher, channel)
        # Somebody who comes later reads the same, all of it.
        ana.page.reload()
        assert_exact(ana, publisher, channel)
        assert ana.ledger("merged") == "0"
        assert bool(deltas) == CHANNELS[channel][1]
        ana.close()


def test_who_falls_behind_gets_the_newest_score_and_every_line(ana: Person, publisher: Publisher) -> None:
    def score(number: int) -> dict[str, Any]:
        return {"key": "match", "data": {"score": f"{number}:0", "home": number, "clock": "1′"}}

    publisher.publish("scores:live", [score(0)])
    publisher.publish("demo:commentary", [{"data": {"text": "Kick-off"}}])
    ana.open("/dashboards/match/")
    ana.wait_for_word("Live")
    eventually(lambda: "0:0" in widget(ana, "table").inner_text(), LONG_S)
    ana.page.get_by_role("button", name="Fall behind").click()
    for number in range(1, 61):
        publisher.publish("scores:live", [score(number)])
    publisher.publish("demo:commentary", [{"data": {"text": f"line {number}"}} for number in range(1, 30)])
    assert "60:0" not in widget(ana, "table").inner_text()
    ana.page.get_by_role("button", name="Catch up").click()
    eventually(lambda: "60:0" in widget(ana, "table").inner_text(), LONG_S)
    eventually(lambda: len(serials_of(ana)) == 30, LONG_S)
    said = widget(ana, "feed").locator("li span").all_inner_texts()
    assert [each.strip() for each in said] == [f"line {number}" for number in range(29, 0, -1)] + ["Kick-off"]
    merged = int(ana.ledger("merged"))
    assert merged > 0
    assert f"Showing the newest; {merged} merged, counts are exact." in widget(ana, "table").inner_text()
    # 61 scores and 30 lines: each was received or merged, none was lost or doubled.
    assert int(ana.ledger("received")) + merged == 91
    assert (ana.ledger("missing"), ana.ledger("doubled")) == ("0", "0")


def test_time_stands_still_goes_back_and_goes_on_by_keys(ana: Person, publisher: Publisher) -> None:
    url = make_dashboard(ana)
    ana.open(url)
    ana.wait_for_word("Live")
    eventually(lambda: ana.ledger("received") != "0", LONG_S)
    before = int(ana.ledger("received"))
    value = widget(ana, "number").locator("[data-value]").inner_text()
    ana.page.keyboard.press("Space")
    state = ana.page.locator("[data-state]")
    eventually(lambda: re.fullmatch(r"Paused at \d\d:\d\d:\d\d", state.inner_text()), LONG_S)
    publisher.more(3)
    button = ana.page.locator("[data-pause]")
    eventually(lambda: button.inner_text().strip() == "Go live (3 since)", LONG_S)
    assert widget(ana, "number").locator("[data-value]").inner_text() == value
    paused = ana.page.locator("[data-state]").inner_text()
    ana.page.keyboard.press("Shift+ArrowLeft")
    eventually(lambda: ana.page.locator("[data-state]").inner_text() != paused, LONG_S)
    ana.page.keyboard.press("0")
    eventually(lambda: widget(ana, "number").locator("[data-value]").inner_text() == str(before + 3), LONG_S)


def test_the_strip_shows_an_hour_and_its_frame_is_the_window(ana: Person, publisher: Publisher) -> None:
    ana.open(make_dashboard(ana))
    ana.wait_for_word("Live")
    overview = ana.page.locator("[data-track] path")
    eventually(lambda: (overview.get_attribute("d") or "").startswith("M"), LONG_S)
    strip = ana.page.locator("[data-scrub]")
    for window, strip_s in ((300, 3600), (60, 3600), (3600, 4 * 3600)):
        ana.page.locator(f"[data-window='{window}']").click()
        assert strip.get_attribute("min") == str(window - strip_s)
        share = strip.evaluate("each => each.style.getPropertyValue('--window')")
        assert float(share.rstrip("%")) == pytest.approx(100 * window / strip_s)
    ana.page.locator("[data-window='300']").click()
    # As far to the left as it goes: the frame begins where the hour does.
    strip.focus()
    ana.page.keyboard.press("Home")
    state = ana.page.locator("[data-state]")
    eventually(lambda: state.inner_text().startswith("Paused at "), LONG_S)
    assert strip.input_value() == str(300 - 3600)
    box = strip.bounding_box()
    assert box is not None
    ana.page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    eventually(lambda: not state.is_visible(), LONG_S)


def test_a_threshold_colours_and_tells_and_the_page_fills_the_screen(ana: Person, publisher: Publisher) -> None:
    head = publisher.heads[CHANNEL]
    ana.open(
        make_dashboard(ana, number={"warn": head + 1, "alert": head + 2}, gauge={"alert": head + 1, "below": True})
    )
    page, number = ana.page, widget(ana, "number")
    colours = []
    for value, level in ((head, ""), (head + 1, "warn"), (head + 2, "alert")):
        if level:
            publisher.more(1)
        eventually(lambda value=value: number.locator("[data-value]").inner_text() == f"{value:,}", LONG_S)  # type: ignore[misc]
        assert (set(number.get_attribute("class").split()) & {"warn", "alert"}) == ({level} if level else set())
        if level:
            assert f"number: {value:,}, at or over {value}." in (page.locator("[data-announce]").text_content() or "")
        colours.append(number.locator(".num").evaluate("each => getComputedStyle(each).color"))
    assert len(set(colours)) == 3
    # From below: it was reached at first, and is no more.
    assert "alert" not in widget(ana, "gauge").get_attribute("class").split()
    page.keyboard.press("f")
    eventually(lambda: page.evaluate("document.fullscreenElement?.id") == "main", LONG_S)
    page.keyboard.press("f")
    eventually(lambda: page.evaluate("document.fullscreenElement === null"), LONG_S)
    assert ana.faults() == []


@pytest.mark.slow
def test_500_messages_a_second_are_all_counted_and_block_nothing(ana: Person, publisher: Publisher) -> None:
    seconds, rate, batches = 30, 500, 20
    ana.open(make_dashboard(ana))
    ana.wait_for_word("Live")
    assert_exact(ana, publisher, CHANNEL)
    already = publisher.heads[CHANNEL]
    began = time.monotonic()

    def flood() -> float:
        for number in range(seconds * batches):
            publisher.more(rate // batches)
            time.sleep(max(0.0, began + (number + 1) / batches - time.monotonic()))
        return time.monotonic() - began

    ana.page.context.browser.start_tracing(  # type: ignore[union-attr]  # it has one
        page=ana.page, categories=["toplevel", "disabled-by-default-devtools.timeline"]
    )
    with ThreadPoolExecutor(1) as backend:
        took_s = backend.submit(flood).result()
    head = already + seconds * rate
    eventually(lambda: figure(ana, "received") == head, LONG_S, what=f"all {head} messages")
    longest_ms = longest_task_ms(json.loads(ana.page.context.browser.stop_tracing()))  # type: ignore[union-attr]
    print(f"{seconds * rate} messages in {took_s:.1f} s, longest task {longest_ms:.1f} ms of the processor")
    assert_exact(ana, publisher, CHANNEL)
    assert longest_ms < 50


def test_it_is_edited_by_keyboard_and_shared_by_a_link(site: Site, browser: Browser, ana: Person) -> None:
    ana.open(make_dashboard(ana))
    page = ana.page
    page.get_by_role("button", name="Edit").press("Enter")
    page.get_by_role("button", name="Move later: line").press("Enter")
    page.get_by_role("button", name="Remove: lights").press("Enter")
    page.get_by_role("button", name="Add a widget").press("Enter")
    page.fill("#w-title", "Newest")
    page.fill("#w-field", "v")
    page.fill("#w-options", '{"colour": "red"}')
    page.press("#w-field", "Enter")
    page.get_by_role("button", name="Save").press("Enter")
    page.get_by_role("alert").filter(has_text="no option 'colour'").wait_for()
    page.get_by_role("button", name="Change: Newest").press("Enter")
    page.fill("#w-options", '{"alert": 5}')
    page.press("#w-field", "Enter")
    with page.expect_navigation():
        page.get_by_role("button", name="Save").press("Enter")
    titles = [kind for kind in KINDS if kind != "lights"]
    eventually(
        lambda: page.locator("[data-widget] h2").all_inner_texts() == ["area", "line", *titles[2:], "Newest"], LONG_S
    )
    page.get_by_role("button", name="Share").press("Enter")
    page.get_by_role("button", name="Make a link").press("Enter")
    eventually(lambda: page.locator("[data-share-link]").input_value() != "", LONG_S)
    link = page.locator("[data-share-link]").input_value()
    visitor = Person(site, browser, "nobody")
    visitor.page.goto(link)
    visitor.wait_for_word("Live")
    eventually(lambda: visitor.ledger("received") == ana.ledger("received") != "0", LONG_S)
    assert visitor.page.get_by_role("button", name="Edit").count() == 0
    page.get_by_role("button", name="Take back all links").press("Enter")
    visitor.wait_for_word("Signed out")
    visitor.close()
    # A refused save is an error to the console.
    assert [each for each in ana.faults() if "400" not in each] == []
