"""What is left of a connection that is gone: nothing, and without the collector."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MS, aeventually, eventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, connect, handshake_bytes, talker, token

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

CLIENTS = 200
FEW = 5
"""What the process has for itself, or still holds of the last request."""


class CountingServer(ServerProcess):
    """Runs without a collector, and counts."""

    @property
    def counts_file(self) -> Path:
        return self.folder / "counts.json"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.server.count_serve", str(self.counts_file), "--port", str(self.port)]

    def counts(self) -> dict[str, int]:
        self.counts_file.unlink(missing_ok=True)
        self.signal(signal.SIGUSR1)
        eventually(self.counts_file.exists)
        found: dict[str, int] = json.loads(self.counts_file.read_text())
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[CountingServer]:
    with CountingServer() as running:
        yield running


async def come(server: CountingServer, client: str) -> Talker:
    """Connects, attaches, publishes, reads it and acknowledges it."""
    peer = await talker(server.port, token(client))
    await peer.ask({"type": "attach", "ref": 1, "channel": client})
    await peer.ask({"type": "publish", "ref": 2, "channel": client, "messages": [{"data": client}]})
    return peer


async def nothing_more(server: CountingServer, before: dict[str, int]) -> bool:
    """Not more than before, but for a few; shown when it fails."""
    now = await asyncio.to_thread(server.counts)
    more = {name: now[name] - before[name] for name in now if now[name] - before[name] > FEW}
    print(more)
    return not more


@pytest.mark.parametrize("end", ["in order", "reset", "cut in the handshake", "refused", "bad token"])
async def test_nothing_of_a_connection_waits_for_the_collector(server: CountingServer, end: str) -> None:
    (await come(server, "first")).abort()
    await asyncio.sleep(1500 * MS)
    before = await asyncio.to_thread(server.counts)
    if end in ("in order", "reset"):
        peers = [await come(server, f"{end[0]}{number}") for number in range(CLIENTS)]
        now = await asyncio.to_thread(server.counts)
        assert now["Connection"] - before["Connection"] >= CLIENTS, "the count would not see them"
        for peer in peers:
            if end == "reset":
                peer.abort()
            else:
                await peer.close()
    for _ in range(CLIENTS):
        if end == "cut in the handshake":
            await cut(server)
        elif end == "refused":
            with pytest.raises(OSError, match="403"):
                await connect(server.port, token("ana"), headers="Origin: http://elsewhere.example\r\n")
        elif end == "bad token":
            peer = await talker(server.port)
            peer.send({"type": "auth", "token": "no.such.token"})
            await aeventually(lambda peer=peer: peer.close_code == 4401)  # type: ignore[misc]
    # Daphne and timers let go of some a second or two later.
    await aeventually(lambda: nothing_more(server, before), 15_000 * MS, every_s=250 * MS)


async def cut(server: CountingServer) -> None:
    """Half a handshake, then the end."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(handshake_bytes(server.port, token("ana"))[:-2])
    await writer.drain()
    writer.transport.abort()
