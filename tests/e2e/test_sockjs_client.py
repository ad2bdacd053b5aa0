"""The client of SockJS as npm has it, in Chromium, over each of its transports: one worker, three without a balancer.

`python -m pytest -m slow tests/e2e/test_sockjs_client.py`. Of its list two need Internet Explorer (`xdr-streaming`,
`xdr-polling`). Those inside an iframe need a page that only the protocol's test services have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import MS
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import token
from tests.project import ROOT
from tests.servers import Postgres, Redis

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

LIBRARY = ROOT / "static" / "vendor" / "sockjs" / "sockjs.min.js"
TRANSPORTS = ("websocket", "xhr-streaming", "eventsource", "htmlfile", "xhr-polling", "jsonp-polling")
IN_AN_IFRAME = ("iframe-eventsource", "iframe-htmlfile", "iframe-xhr-polling")
MESSAGES = 200
PATIENCE_S = 60_000 * MS

_FOLLOW = """({ transport, token, channel, messages }) => new Promise((resolve, reject) => {
  const socket = new SockJS(`${location.origin}/sockjs`, null, { transports: [transport] });
  const got = [];
  const send = (frame) => socket.send(JSON.stringify(frame));
  socket.onopen = () => {
    send({ type: "auth", token });
    send({ type: "attach", ref: 1, channel, from: "start", window: 16 });
  };
  socket.onclose = ({ code, reason }) => reject(new Error(`${code} ${reason}`));
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === "error") reject(new Error(data));
    if (frame.type === "attached") {
      for (let number = 1; number <= messages; number += 1) {
        send({ type: "publish", ref: number, channel, messages: [{ id: `m${number}`, data: number }] });
      }
    }
    if (frame.type !== "message") return;
    got.push([frame.serial, frame.data]);
    if (got.length % 8 === 0) send({ type: "ack", serials: { [channel]: frame.serial } });
    if (got.length < messages) return;
    resolve([socket.transport, got]);
    socket.onclose = null;
    socket.close();
  };
})"""

_ECHO = """({ transport, messages }) => new Promise((resolve, reject) => {
  const socket = new SockJS(`${location.origin}/echo`, null, { transports: [transport] });
  const got = [];
  socket.onopen = () => {
    for (let number = 1; number <= messages; number += 1) socket.send(`${number}`);
  };
  socket.onclose = ({ code, reason }) => reject(new Error(`${code} ${reason}`));
  socket.onmessage = ({ data }) => {
    got.push(Number(data));
    if (got.length < messages) return;
    resolve([socket.transport, got]);
    socket.onclose = null;
    socket.close();
  };
})"""


@pytest.fixture(scope="module", params=[1, 3], ids=["one-worker", "three-workers"])
def server(request: pytest.FixtureRequest, postgres_server: Postgres, redis_server: Redis) -> Iterator[ServerProcess]:
    url = postgres_server.create_database(f"sockjs_client_{request.param}")
    with ServerProcess(
        database_url=url, workers=request.param, REDIS_URL=redis_server.url, REALTIME_SOCKJS_TEST_SERVICES="1"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def page(server: ServerProcess, browser: Browser) -> Iterator[Page]:
    page = browser.new_context().new_page()
    # Where the iframe of the test services has it from.
    page.route("**/sockjs.js", lambda route: route.fulfill(path=LIBRARY, content_type="text/javascript"))
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(f"{server.url}/echo")
    page.add_script_tag(path=LIBRARY)
    yield page
    page.context.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_our_frames_come_once_in_order(server: ServerProcess, page: Page, transport: str) -> None:
    given = {
        "transport": transport,
        "token": token("ana"),
        "channel": f"sockjs-{transport}",
        "messages": MESSAGES,
    }
    used, got = page.evaluate(_FOLLOW, given)
    assert used == transport
    assert [tuple(each) for each in got] == [(number, number) for number in range(1, MESSAGES + 1)]


@pytest.mark.parametrize("transport", [*TRANSPORTS, *IN_AN_IFRAME])
def test_the_echo_says_what_it_hears(page: Page, transport: str) -> None:
    used, got = page.evaluate(_ECHO, {"transport": transport, "messages": MESSAGES})
    assert used == transport
    assert got == list(range(1, MESSAGES + 1))
