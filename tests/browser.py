"""Chromium for browser tests: how it is started, and what it complained about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Debian's. Playwright's own download is not used: it works on fewer machines.
CHROMIUM = Path("/usr/bin/chromium")

_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # Chromium refuses its sandbox to root, as which CI often runs
    "--disable-gpu",
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    # No traffic that the test did not cause.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium. While it is open this thread counts as one with an event loop: neither coroutine tests
    nor the ORM work here."""
    if not CHROMIUM.exists():
        raise AssertionError(
            f"{CHROMIUM} is missing. Install it (apt-get install chromium) or run `make test` as root."
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def complaints(page: Page) -> list[str]:
    """A list that grows with every error of the page from now on: scripts, console, Content-Security-Policy.

    Call it before `page.goto`, and assert that the list is empty at the end.
    """
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "console",
        lambda message: (
            found.append(f"{message.text} ({message.location['url']})") if message.type == "error" else None
        ),
    )
    return found
