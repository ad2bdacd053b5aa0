"""Real workers between which no announcement travels: what is published at one comes to the others all the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.conftest import MS, WITHIN_S
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, connect, token
from tests.servers import Postgres

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

WORKERS = 3
MESSAGES = 12
CONNECTIONS_MOST = 500
"""Tries until there is a connection to each worker."""

SUSPICION_S = 15_000 * MS
RARELY = {"SWEEP_MS": 600_000}
"""The regular sweep hardly ever comes: what is found was found by suspicion."""

Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Prints a figure into the run's own output, though the test passes."""

    def print_it(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", flush=True)

    return print_it


@contextlib.asynccontextmanager
async def workers(
    postgres: Postgres, layer: str, *, realtime: Mapping[str, int] | None = None, mutant: str | None = None
) -> AsyncIterator[int]:
    """The port of three workers over that layer."""
    server = ServerProcess(
        database_url=postgres.create_database(f"news_{time.monotonic_ns()}"),
        workers=WORKERS,
        mutant=mutant,
        DJANGO_SETTINGS_MODULE="tests.e2e.settings",
        TEST_LAYER=f"tests.e2e.layers.{layer}",
        TEST_REALTIME=json.dumps(realtime or {}),
    )
    try:
        await asyncio.to_thread(server.start)
        yield server.port
    finally:
        await asyncio.to_thread(server.close)


async def one_at_each(port: int) -> dict[str, Talker]:
    """A connection to each worker, attached to the channel."""
    found: dict[str, Talker] = {}
    for _ in range(CONNECTIONS_MOST):
        socket = Talker()
        await connect(port, token("ana"), into=socket)
        worker = (await socket.until("ready"))["worker"]
        if worker in found:
            socket.abort()
        else:
            found[worker] = socket
            answer = await socket.ask({"type": "attach", "ref": "a", "channel": "lobby", "window": 0})
            assert answer["type"] == "attached"
        if len(found) == WORKERS:
            return found
        await asyncio.sleep(0.01)  # the others may only be starting
    raise AssertionError(f"connections came to {list(found)} alone")


async def latencies_s(port: int) -> list[float]:
    """Publishes at one worker and sees when it comes to the others, of each message to the last of them."""
    sockets = await one_at_each(port)
    publisher = sockets.pop("w1")
    dice = random.Random(1)
    took_s = []
    for number in range(MESSAGES):
        await asyncio.sleep(dice.uniform(0, 0.3))  # at any point between two sweeps
        began = time.monotonic()
        frame = {"type": "publish", "ref": number, "channel": "lobby", "messages": [{"data": number}]}
        serials = (await publisher.ask(frame))["serials"]
        came = await asyncio.gather(*(socket.until("message") for socket in sockets.values()))
        took_s.append(time.monotonic() - began)
        assert [message["serial"] for message in came] == serials * len(sockets)
    for socket in [publisher, *sockets.values()]:
        socket.abort()
    return took_s


def spread(values: list[float]) -> str:
    ordered = sorted(values)
    median = ordered[len(ordered) // 2]
    return f"{ordered[0]:.2f} / {median:.2f} / {ordered[-1]:.2f} s (least, median, most of {len(ordered)})"


async def test_with_every_announcement_dropped_everything_comes_within_two_seconds(
    postgres_server: Postgres, tell: Tell
) -> None:
    async with workers(postgres_server, "SwallowingAnnouncements") as port:
        took_s = await latencies_s(port)
    tell(f"every announcement dropped, nobody suspects it: from one worker to the others {spread(took_s)}")
    assert max(took_s) < WITHIN_S


@pytest.mark.slow
async def test_with_a_layer_that_swallows_all_everything_comes_within_two_seconds(
    postgres_server: Postgres, tell: Tell
) -> None:
    async with workers(postgres_server, "Swallowing") as port:
        took_s = await latencies_s(port)
    tell(f"a channel layer that swallows all: from one worker to the others {spread(took_s)}")
    assert max(took_s) < WITHIN_S


async def hear(socket: Talker, serial: int) -> None:
    """Waits for this message; those before it may still come."""
    while (await socket.until("message", SUSPICION_S))["serial"] != serial:
        pass


async def comes(port: int) -> bool:
    """Whether messages come to the other workers before suspicion and the sweeps that it brings would be over."""
    sockets = await one_at_each(port)
    publisher = sockets.pop("w1")

    async def publish(ref: int) -> None:
        await publisher.ask({"type": "publish", "ref": ref, "channel": "lobby", "messages": [{"data": ref}]})

    # The first one may be found by the sweep that every worker begins with. It tells that this is over.
    await publish(1)
    with contextlib.suppress(TimeoutError):
        await asyncio.gather(*(socket.until("message", WITHIN_S) for socket in sockets.values()))
    await publish(2)
    try:
        await asyncio.gather(*(hear(socket, 2) for socket in sockets.values()))
    except TimeoutError:
        return False
    finally:
        for socket in [publisher, *sockets.values()]:
            socket.abort()
    return True


async def test_a_worker_that_does_not_hear_itself_looks_at_the_log_more_often(postgres_server: Postgres) -> None:
    async with workers(postgres_server, "Swallowing", realtime=RARELY) as port:
        assert await comes(port)


@pytest.mark.slow
async def test_without_suspicion_that_test_fails(postgres_server: Postgres) -> None:
    async with workers(postgres_server, "Swallowing", realtime=RARELY, mutant="never-suspicious") as port:
        assert not await comes(port)
