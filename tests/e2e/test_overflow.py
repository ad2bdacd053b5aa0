"""20 messages a second to a client that handles 15, over real sockets, held and conflated; and signals over workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.conftest import MS
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, connect, talker, token
from tests.servers import Postgres, Redis

pytestmark = pytest.mark.e2e

A_SECOND, HANDLES, SECONDS = 20, 15, 6
WINDOW = 8
KEYS = 3
PATIENCE_S = 60_000 * MS

NAMESPACES = """
from realtime.models import Namespace
Namespace.objects.create(name="held", overflow="hold")
Namespace.objects.create(name="conflated", overflow="conflate")
"""


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        # While it runs: an operator's change holds within about a second.
        running.manage("shell", "-c", NAMESPACES)
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()[-5000:]


class Slow:
    """Handles the messages of one channel at its pace and acknowledges half a window at a time."""

    def __init__(self, socket: Talker, channel: str) -> None:
        self.socket = socket
        self.channel = channel
        self.position = 0
        self.handled: list[int] = []
        self.newest: dict[str, int] = {}
        self.left_out: set[int] = set()
        self.late_s = 0.0

    async def run(self, head: int) -> None:
        while self.position < head:
            frame = await self.socket.receive(PATIENCE_S)
            assert frame is not None
            if frame["type"] == "skipped":
                assert (frame["reason"], frame["from"]) == ("conflated", self.position + 1)
                self.left_out.update(range(frame["from"], frame["to"] + 1))
                self.position = frame["to"]
            elif frame["type"] == "message":
                assert frame["serial"] == self.position + 1
                self.position = frame["serial"]
                self.handled.append(self.position)
                self.newest[frame["key"]] = self.position
                self.late_s = max(self.late_s, time.time() - frame["time"] / 1000)
                await asyncio.sleep(1 / HANDLES)
                if len(self.handled) % (WINDOW // 2) == 0:
                    self.socket.send({"type": "ack", "serials": {self.channel: self.position}})


async def publish(port: int, channels: list[str], count: int) -> None:
    socket = await talker(port, token("ana", cap={"*": ["*"]}))
    began = time.monotonic()
    for number in range(count):
        await asyncio.sleep(began + number / A_SECOND - time.monotonic())
        for channel in channels:
            message = {"key": f"k{number % KEYS}", "data": number}
            frame = {"type": "publish", "ref": f"{channel}{number}", "channel": channel, "messages": [message]}
            assert (await socket.ask(frame))["type"] == "published"
    socket.abort()


async def test_the_slow_client_of_the_handbook_held_and_conflated(server: ServerProcess) -> None:
    slow = []
    for channel in ("held:x", "conflated:x"):
        socket = await talker(server.port, token("slow", cap={"*": ["*"]}))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            attach = {"type": "attach", "ref": "a", "channel": channel, "window": WINDOW}
            if (await socket.ask(attach))["type"] == "attached":
                break
            assert time.monotonic() < deadline, "the worker never saw the namespace"
            await asyncio.sleep(0.2)
        slow.append(Slow(socket, channel))
    held, conflated = slow
    count = A_SECOND * SECONDS
    await asyncio.gather(
        publish(server.port, [each.channel for each in slow], count), held.run(count), conflated.run(count)
    )
    assert held.handled == list(range(1, count + 1))
    assert sorted([*conflated.handled, *conflated.left_out]) == list(range(1, count + 1))
    assert conflated.left_out, "it was never so slow that something had to be left out"
    assert set(conflated.newest.values()) == {count, count - 1, count - 2}
    assert conflated.late_s < held.late_s
    held.socket.abort()
    conflated.socket.abort()


async def test_signals_come_to_every_worker_once_and_not_back(postgres_server: Postgres, redis_server: Redis) -> None:
    database = postgres_server.create_database(f"signals_{time.monotonic_ns()}")
    with ServerProcess(database_url=database, workers=2, REDIS_URL=redis_server.url) as server:
        sockets: list[tuple[str, Talker]] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(sockets) < 6 or len({worker for worker, _ in sockets}) < 2:
            assert time.monotonic() < deadline and len(sockets) < 200
            socket = Talker()
            await connect(server.port, token(f"c{len(sockets)}", cap={"*": ["*"]}), into=socket)
            worker = (await socket.until("ready"))["worker"]
            assert (await socket.ask({"type": "attach", "ref": "a", "channel": "lobby"}))["type"] == "attached"
            sockets.append((worker, socket))
        sender = sockets[0][1]
        # Workers may still be joining the group of the channel: nothing is promised until they have.
        for _, socket in sockets[1:]:
            heard = None
            while heard is None:
                sender.send({"type": "signal", "channel": "lobby", "event": "warm"})
                try:
                    heard = await socket.receive(0.5)
                except TimeoutError:
                    assert time.monotonic() < deadline
        for number in range(20):
            sender.send({"type": "signal", "channel": "lobby", "event": f"e{number}", "data": number})
        for _, socket in sockets[1:]:
            seen: list[int] = []
            while 19 not in seen:
                frame = await socket.until("signal", PATIENCE_S)
                assert frame["client"] == "c0" and "serial" not in frame and "id" not in frame
                if frame["event"] != "warm":
                    seen.append(frame["data"])
            assert seen == list(range(20))
        sender.send({"type": "ping", "ref": "end"})
        last = await sender.receive(PATIENCE_S)
        assert last is not None and last["type"] == "pong", "its own signals came back"
        for _, socket in sockets:
            socket.abort()
