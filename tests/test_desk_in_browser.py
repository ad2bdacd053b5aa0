"""The desk in a real browser, with a client of the server that the browser looks at."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import complaints
from tests.conftest import MS, eventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, talker, token

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.sqlite]

LONG_S = 60_000 * MS
PEOPLE = """
from django.contrib.auth.models import Group, User
for name in ("viewer", "operator", "owner"):
    user = User.objects.create_user(name, password=name, is_staff=True)
    user.groups.add(Group.objects.get(name=name))
"""


@pytest.fixture(scope="module")
def site() -> Iterator[ServerProcess]:
    server = ServerProcess(COLLECTED_STATIC="0", DEBUG="0")
    try:
        server.start()
        server.manage("shell", "-c", PEOPLE)
        yield server
    finally:
        server.close()


class Client:
    """A client of the sockets, driven from a thread that has no event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.socket: Talker | None = None
        self.ref = 0

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LONG_S)

    def connect(self, port: int, name: str) -> None:
        self.socket = self.run(talker(port, token(name)))

    def ask(self, **frame: Any) -> dict[str, Any]:
        assert self.socket is not None
        self.ref += 1
        answer: dict[str, Any] = self.run(self.socket.ask({**frame, "ref": self.ref}))
        return answer

    def end(self) -> int | None:
        socket = self.socket
        assert socket is not None

        async def read() -> int | None:
            while await socket.receive() is not None:
                pass
            return socket.close_code

        code: int | None = self.run(read())
        return code


@pytest.fixture
def client() -> Iterator[Client]:
    import threading

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield Client(loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LONG_S)
    loop.close()


def log_in(site: ServerProcess, browser: Browser, name: str) -> tuple[Page, list[str]]:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    found = complaints(page)
    page.goto(f"{site.url}/admin/")
    page.fill("#id_username", name)
    page.fill("#id_password", name)
    page.press("#id_password", "Enter")
    page.locator(".desk h1").wait_for()
    return page, found


def shot(page: Page, name: str) -> None:
    """A picture where somebody wants to look at it: `SCREENSHOTS=folder`."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png")


def test_owner_operator_and_viewer_do_each_their_part(site: ServerProcess, browser: Browser, client: Client) -> None:
    client.connect(site.port, "mallory")
    assert client.ask(type="attach", channel="club:x")["code"] == "forbidden", "there is no such namespace"

    owner, complaints_of_owner = log_in(site, browser, "owner")
    owner.goto(f"{site.url}/admin/realtime/namespace/add/")
    owner.fill("#id_name", "club")
    owner.press("#id_name", "Enter")
    owner.wait_for_url("**/namespace/")
    eventually(lambda: client.ask(type="attach", channel="club:x", window=2)["type"] == "attached", LONG_S)

    owner.goto(f"{site.url}/admin/realtime/apikey/add/")
    owner.fill("#id_name", "backend")
    owner.press("#id_name", "Enter")
    key = owner.locator("#api-key").inner_text()
    assert key.startswith("ser_")

    owner.goto(f"{site.url}/admin/realtime/limit/add/")
    owner.select_option("#id_scope", "client", force=True)
    owner.fill("#id_name", "mallory")
    owner.fill("#id_message_bytes", "10")
    owner.press("#id_message_bytes", "Enter")
    owner.wait_for_url("**/limit/")
    big, small = [{"data": "x" * 50}], [{"data": 1}]
    eventually(
        lambda: client.ask(type="publish", channel="club:x", messages=big).get("code") == "too_large",
        LONG_S,
        what="the limit holds",
    )
    for _ in range(6):
        assert client.ask(type="publish", channel="club:x", messages=small)["type"] == "published"

    operator, complaints_of_operator = log_in(site, browser, "operator")
    shot(operator, "front")
    operator.fill("#message", "club:x#1")
    operator.press("#message", "Enter")
    operator.locator(".desk-steps").wait_for()
    assert "Passed by 1 of 1 live positions" in operator.locator(".desk-steps").inner_text()
    operator.goto(f"{site.url}/admin/realtime/liveconnection/?client=mallory")
    shot(operator, "connections")
    operator.click("text=mallory")
    waiting = int(operator.locator("[data-waiting]").inner_text())
    assert waiting >= 4, "its window is 2, and it has acknowledged nothing"
    shot(operator, "connection")
    operator.fill("input[name=reason]", "look at your loop")
    operator.click("button[value=disconnect]")
    operator.locator("text=is disconnected").first.wait_for()
    assert client.end() == 4403
    client.connect(site.port, "mallory")
    assert client.ask(type="attach", channel="club:x")["type"] == "attached", "it may come again"
    operator.goto(f"{site.url}/admin/realtime/liveconnection/?client=mallory")
    operator.click("text=mallory")
    address = operator.url
    operator.click("button[value=block]")
    operator.locator("text=is blocked").first.wait_for()
    assert client.end() == 4403
    client.socket = client.run(talker(site.port))
    client.socket.send({"type": "auth", "token": token("mallory")})
    assert client.end() == 4403

    viewer, complaints_of_viewer = log_in(site, browser, "viewer")
    text = viewer.locator(".desk").inner_text()
    assert re.search(r"user:operator\s+block\s+mallory", text), text
    viewer.goto(f"{site.url}/admin/realtime/act/")
    text = viewer.locator("#result_list").inner_text()
    shot(viewer, "audit")
    for who, act in (("user:owner", "make namespace"), ("user:owner", "make API key"), ("user:owner", "make limit"),
                     ("user:operator", "disconnect"), ("user:operator", "block")):  # fmt: skip
        assert re.search(rf"{who}\s+{act}", text), text
    viewer.goto(f"{site.url}/admin/realtime/namespace/")
    assert viewer.locator("a[href$='/namespace/add/']").count() == 0
    viewer.goto(address)
    assert viewer.locator("button[value=block], button[value=disconnect]").count() == 0
    viewer.goto(f"{site.url}/admin/realtime/channel/")
    assert viewer.locator("select[name=action] option[value=close]").count() == 0
    viewer.click("th.field-name a, td.field-name a")
    assert "by positions" in viewer.locator("#content, main").first.inner_text()
    shot(viewer, "channel")
    operate = viewer.url.replace("/change/", "/operate/")
    assert viewer.request.get(operate).status == 403
    operator.goto(operate)
    operator.locator("[data-delivered]").wait_for()
    operator.fill("form:has(button[value=close]) input[name=reason]", "enough")
    operator.click("button[value=close]")
    operator.locator("text=The channel is closed").first.wait_for()
    shot(operator, "operate")
    operator.evaluate("document.documentElement.classList.add('dark')")
    shot(operator, "operate-dark")
    operator.set_viewport_size({"width": 360, "height": 800})
    shot(operator, "operate-phone")
    assert operator.evaluate("document.documentElement.scrollWidth <= 360"), "nothing scrolls sideways"
    for path in ("namespace/add/", "limit/add/", "apikey/add/", "revocation/add/", "signingkey/add/"):
        response = viewer.request.get(f"{site.url}/admin/realtime/{path}")
        assert response.status == 403, path
    assert complaints_of_owner == [] and complaints_of_operator == []
    assert [each for each in complaints_of_viewer if "404" not in each] == [], "the connection is gone"


def test_the_front_page_is_readable_in_the_dark_and_on_a_phone(site: ServerProcess, browser: Browser) -> None:
    page, found = log_in(site, browser, "operator")
    page.evaluate("document.documentElement.classList.add('dark')")
    shot(page, "front-dark")
    colors = page.eval_on_selector(
        ".desk-card", "card => [getComputedStyle(card).backgroundColor, getComputedStyle(card).color]"
    )
    assert colors[0] == "rgb(26, 26, 24)" and colors[1] == "rgb(237, 235, 228)"
    assert page.locator(".desk-chart, .desk-nothing").count() >= 1, "a line, or why there is none"
    page.set_viewport_size({"width": 360, "height": 800})
    shot(page, "front-phone")
    assert page.evaluate("document.documentElement.scrollWidth <= 360"), "nothing scrolls sideways"
    assert found == []


def test_what_an_operator_announces_stands_on_every_page_until_it_is_closed(
    site: ServerProcess, browser: Browser
) -> None:
    viewer, found = log_in(site, browser, "viewer")
    viewer.set_viewport_size({"width": 360, "height": 800})
    viewer.goto(f"{site.url}/cursors/")
    viewer.locator("[data-line-chip] b", has_text="Live").wait_for()
    operator, complaints_of_operator = log_in(site, browser, "operator")
    operator.click("text=Announce to all")
    operator.fill("textarea", "Back at six. <b>Really</b>")
    operator.click("button[value=look]")
    assert operator.locator(".desk-quote").inner_text() == "Back at six. <b>Really</b>"
    operator.click("button[value=announce]")
    operator.locator("text=Announced to").first.wait_for()
    shown = viewer.locator("[role=status] > div", has_text="Back at six. <b>Really</b>")
    shown.wait_for()
    shot(viewer, "announced-phone")
    assert viewer.evaluate("document.documentElement.scrollWidth <= 360"), "nothing scrolls sideways"
    shown.get_by_role("button", name="Close").click()
    shown.wait_for(state="detached")
    assert found == complaints_of_operator == []
