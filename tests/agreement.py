"""Whether pages of a room show what its log says: the log out of the database, folded here, against the screen.

The fold here is the server's (`chat.fold`); the page has its own. What a page heard of the stream is compared as well:
every message of the log from the first one heard on, once, in order.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from chat.fold import Object, fold
from tests.conftest import eventually
from tests.pages import LONG_S, Person
from tests.servers import Site


def read_log(site: Site, slug: str) -> list[Object]:
    """What the room's log holds, by the database alone."""
    found: list[Object] = json.loads(site.manage("shell", given=_READ.format(slug=slug)).splitlines()[-1])
    return found


def listen(person: Person) -> None:
    """From now on this page writes down what its stream delivers."""
    person.page.evaluate(
        """async () => {
          const { channel } = await import("/static/js/chat/page.js");
          window.heard = [];
          channel.on("message", ({ serial, id }) => heard.push([serial, id]));
        }"""
    )


def assert_agreed(site: Site, slug: str, people: Sequence[Person], names: Mapping[str, str]) -> list[Object]:
    """All pages show the fold of the log as it is now, and have heard every message of it once and in order.

    `names` are the people's, by client. Returns the log.
    """
    log = read_log(site, slug)
    head = log[-1]["serial"]

    def settled() -> bool:
        """Receipts of others still come for a moment."""
        nonlocal log, head
        heard = [each.page.evaluate("window.heard?.at(-1)?.[0] ?? null") for each in people]
        if all(each is None or each == head for each in heard):
            return True
        log = read_log(site, slug)
        head = log[-1]["serial"]
        return False

    eventually(settled, LONG_S, what="every page has heard the newest message")
    for person in people:
        wanted = shown_of(log, person.name, names)
        with contextlib.suppress(AssertionError):  # what is different is told below
            eventually(lambda person=person, wanted=wanted: shown_by(person) == wanted)  # type: ignore[misc]
        assert shown_by(person) == wanted
        heard = person.page.evaluate("window.heard ?? null")
        if heard is not None:
            first = heard[0][0]
            assert heard == [[each["serial"], each["id"]] for each in log if each["serial"] >= first]
        person.assert_whole()
    return log


def shown_of(log: Sequence[Object], me: str, names: Mapping[str, str]) -> list[Object]:
    """The rows that a page of `me` has to show of this log."""
    rows = []
    for message in fold(log).messages():
        if message["thread"] is not None and not message["also"]:
            continue
        deleted, replies = message["deleted"], message["replies"]["count"]
        gone = {None: None, "author": "Message deleted"}.get(
            deleted, f"Message deleted by {names.get(deleted or '')} (moderator)"
        )
        rows.append(
            {
                "serial": message["serial"],
                "by": names[message["client"]],
                "text": plain(message["text"]),
                "edited": message["edited"] is not None,
                "gone": gone,
                "reactions": [
                    [each["emoji"], len(each["clients"]), me in each["clients"]] for each in message["reactions"]
                ],
                "replies": f"{replies} {'reply' if replies == 1 else 'replies'}" if replies else None,
                "files": [each["name"] for each in message["files"]],
            }
        )
    return rows


def shown_by(person: Person) -> list[Object]:
    """The rows that this page shows as messages of the log."""
    found: list[Object] = person.page.evaluate(_SHOWN)
    return found


def plain(text: str) -> str:
    """What is left to read of the Markdown that these tests use."""
    return re.sub(r"\*\*|`", "", text)


_READ = """
import json
from realtime.log.reads import read_page
page = read_page("chat:{slug}", after=0, order="asc", limit=1000)
print(json.dumps([json.loads(text) for text in page.messages]))
"""

_SHOWN = """() => [...document.querySelectorAll("[data-list] li.msg[id]")].map((node) => {
  const isEdited = node.querySelector(".edited") !== null;
  return {
    serial: Number(node.dataset.serial),
    by: node.querySelector(".body > p b").textContent,
    text: (node.querySelector(".text")?.innerText ?? "").replace(isEdited ? / \\(edited\\)$/ : /(?!)/, ""),
    edited: isEdited,
    gone: node.querySelector(".gone")?.textContent ?? null,
    reactions: [...node.querySelectorAll("[data-react]")].map((each) => {
      const count = Number(/, (\\d+)$/.exec(each.getAttribute("aria-label"))[1]);
      return [each.dataset.react, count, each.getAttribute("aria-pressed") === "true"];
    }),
    replies: node.querySelector(".th b")?.textContent ?? null,
    files: [...node.querySelectorAll(".files a")].map((each) => each.dataset.picture ?? each.getAttribute("download")),
  };
})"""


def record_line(person: Person) -> None:
    """From the next page on, what chip and banner say is written down whenever it changes."""
    person.context.add_init_script(_RECORD)


def said_by_line(person: Person) -> list[tuple[str, str, str]]:
    """What this page has said of its line, in order: the chip's word, the banner, and what the chip adds."""
    return [(word, banner, via) for word, banner, via in person.page.evaluate("window.lineSaid ?? []")]


#: What a banner may say (the copy is exact), with what is different from time to time.
BANNERS = [
    r"Connecting\. Keep typing: what you send is kept here and goes in order\.",
    r"Catching up: [\d,]+ messages? to go\. They arrive in order; nothing was missed\.",
    r"Live again\. [\d,]+ messages? received(, [\d,]+ of yours sent)?, (none lost|[\d,]+ can’t be had)\.",
    r"Slow connection\. Messages take about [\d.]+ m?s\. Order holds; nothing is dropped\.",
    # A page that was loaded while the line was away shows nothing, and does not claim to.
    r"Offline since \d\d:\d\d\.( You see everything up to then\.)?"
    r"( 1 message waits here and sends itself\.| [\d,]+ messages wait here and send themselves\.)?"
    r"( Next try in \d+ (s|min)\.| Trying now\.)?( ?Try now)?",
]


def assert_copy_is_exact(person: Person) -> None:
    for _, banner, _ in said_by_line(person):
        assert banner == "" or any(re.fullmatch(each, banner) for each in BANNERS), banner


_RECORD = """
window.lineSaid = [];
addEventListener("DOMContentLoaded", () => {
  const chip = document.querySelector("[data-line-chip]");
  const place = document.querySelector("[data-line-banner]");
  if (chip === null || place === null) return;
  const note = () => {
    const banner = place.innerText.replace(/\\s+/g, " ").trim();
    const [word, via] = ["b", ".via"].map((each) => chip.querySelector(each)?.textContent ?? "");
    const last = window.lineSaid.at(-1);
    if (last?.[0] !== word || last?.[1] !== banner) window.lineSaid.push([word, banner, via]);
  };
  const all = { childList: true, subtree: true, characterData: true };
  for (const node of [chip, place]) new MutationObserver(note).observe(node, all);
  note();
});
"""


def worker_of(person: Person) -> str:
    """Which worker this page is connected to, as the panel of the chip says."""
    facts = person.page.locator("[data-line-facts]").text_content() or ""
    return "".join(re.findall(r"Worker(\S+?)You are", facts))


def row_of(log: Sequence[Object], text: str) -> Any:
    """The serial of the message with this text."""
    (serial,) = (each["serial"] for each in log if each["event"] == "message" and each["data"]["text"] == text)
    return serial
