"""The site's pages as a person uses them: logging in, reading a room, waiting for what is on the screen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.browser import complaints
from tests.conftest import MS, eventually
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

LONG_S = 60_000 * MS

#: What a browser says of a server, or a network, that is away.
_AWAY = r"ERR_(CONNECTION|INTERNET_DISCONNECTED|FAILED|EMPTY|INCOMPLETE_CHUNKED)|WebSocket connection"


class Person:
    """Somebody with a browser window of their own."""

    def __init__(self, site: Site, browser: Browser, name: str, **context: object) -> None:
        self.site = site
        self.name = name
        self.context: BrowserContext = browser.new_context(**context)  # type: ignore[arg-type]  # passed on
        self.page: Page = self.context.new_page()
        self.complaints = complaints(self.page)

    def log_in(self) -> Person:
        self.page.goto(f"{self.site.url}/accounts/login/")
        self.page.fill("#id_username", self.name)
        self.page.fill("#id_password", self.name)
        self.page.click("main button[type=submit]")
        self.page.wait_for_url("**/chat/**")
        return self

    def open(self, path: str) -> None:
        self.page.goto(self.site.url + path)

    def enter(self, slug: str) -> None:
        """Open a room and wait until it is live and filled."""
        self.open(f"/chat/{slug}/")
        self.wait_for_word("Live")
        self.page.locator("[data-order]:not(:empty), [data-empty]").first.wait_for(state="attached")

    def say(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")

    # -- what is on the screen

    @property
    def word(self) -> str:
        """The word in the chip of the line."""
        return self.page.locator("[data-line-chip] b").inner_text()

    def wait_for_word(self, word: str) -> None:
        eventually(lambda: self.word == word, LONG_S, what=f"{self.name} reads {word}")

    @property
    def banner(self) -> str:
        return self.page.locator("[data-line-banner]").inner_text().replace("\n", " ").strip()

    @property
    def texts(self) -> list[str]:
        """The messages as they stand, own unsent ones last."""
        return self.page.locator("[data-list] li.msg .text").all_inner_texts()

    @property
    def serials(self) -> list[int]:
        ids = self.page.eval_on_selector_all("[data-list] li.msg[id]", "all => all.map(one => one.id)")
        return [int(str(each)[1:]) for each in ids]

    @property
    def states(self) -> list[str]:
        """The lines that say what became of a message of ours."""
        lines = self.page.locator("[data-list] li.msg .st").all_inner_texts()
        return [re.sub(r"\s+", " ", each).strip() for each in lines]

    def wait_for_texts(self, *texts: str) -> None:
        """Wait until all of these are there as messages of the log, in this order, each once."""

        def there() -> bool:
            stored = self.page.locator("[data-list] li.msg[id] .text").all_inner_texts()
            return [each for each in stored if each in texts] == list(texts)

        eventually(there, LONG_S, what=f"{self.name} reads {texts} once and in order")

    def ledger(self, name: str) -> str:
        return self.page.locator(f"[data-ledger={name}]").text_content() or ""

    def assert_whole(self) -> None:
        """In order, nothing missing of the log, nothing doubled, and no complaint of the page itself.

        Receipts, reactions and edits have numbers too: those of messages alone have holes.
        """
        serials = self.serials
        assert serials == sorted(set(serials))
        assert (self.ledger("missing"), self.ledger("doubled")) == ("0", "0")
        assert self.faults() == []

    def faults(self) -> list[str]:
        """Errors of the page, without those that a server which is away causes."""
        return [each for each in self.complaints if not re.search(_AWAY, each)]

    def close(self) -> None:
        self.context.close()
