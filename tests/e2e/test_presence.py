"""Presence on two real workers on PostgreSQL and Redis: one is killed, and at first Redis carries nothing.

`python -m pytest -m slow tests/e2e/test_presence.py`: a lease of 20 s has to run out.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import MS, aeventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Talker, request, talker, token
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

CHANNEL = "room:presence"
DEAD_WITHIN_S = 30_000 * MS
"""What is promised."""

PATIENCE_S = 60_000 * MS


@pytest.fixture
def servers(postgres_server: Postgres) -> Iterator[tuple[ServerProcess, ServerProcess, Redis]]:
    with ExitStack() as stack:
        redis = stack.enter_context(Redis())
        url = postgres_server.create_database("presence")
        first, second = (ServerProcess(database_url=url, REDIS_URL=redis.url) for _ in range(2))
        for server in (first, second):
            stack.callback(server.close)
            server.start()
        first.manage("shell", "-c", "from realtime.models import Namespace; Namespace.objects.create(name='room')")
        yield first, second, redis


async def follow(server: ServerProcess, client: str) -> tuple[Talker, list[str]]:
    """A socket that follows the channel's members, and who they are by the sync."""
    socket = await talker(server.port, token(client))
    await until_answered(socket, {"type": "attach", "channel": CHANNEL, "presence": True}, "attached")
    sync = await presence(socket)
    assert sync["action"] == "sync"
    return socket, sorted(member["client"] for member in sync["members"])


async def until_answered(socket: Talker, frame: dict[str, Any], kind: str) -> None:
    """Asks until it works: a namespace that is new is known within a second."""

    async def answered() -> bool:
        return bool((await socket.ask({"ref": 1, **frame}))["type"] == kind)

    await aeventually(answered, PATIENCE_S, every_s=100 * MS)


async def presence(socket: Talker) -> dict[str, Any]:
    return await socket.until("presence", PATIENCE_S)


async def enter(socket: Talker, data: object) -> None:
    answer = await socket.ask({"type": "presence", "ref": 2, "channel": CHANNEL, "action": "enter", "data": data})
    assert answer["type"] == "ok", answer


async def test_members_of_a_worker_that_was_killed_leave_and_nobody_else_does(
    servers: tuple[ServerProcess, ServerProcess, Redis],
) -> None:
    first, second, redis = servers
    watcher, there = await follow(second, "watcher")
    assert there == []

    # Nothing is announced, and yet the other worker knows.
    await asyncio.to_thread(redis.pause)
    ana, _ = await follow(first, "ana")
    await enter(ana, {"mood": 1})
    entered = await presence(watcher)
    assert (entered["action"], entered["client"], entered["data"]) == ("enter", "ana", {"mood": 1})
    await asyncio.to_thread(redis.resume)

    doomed = await talker(first.port, token("bo"))
    await until_answered(doomed, {"type": "attach", "channel": CHANNEL}, "attached")
    await enter(doomed, None)
    stays, _ = await follow(second, "cy")
    await enter(stays, None)
    heard = {(await presence(watcher))["client"] for _ in range(2)}
    assert heard == {"bo", "cy"}
    seen = entered["revision"] + 2

    first.kill9()
    killed_at = time.monotonic()
    # ana comes back, to the worker that lives, and was never away for those who watch.
    ana, there = await follow(second, "ana")
    assert there == ["ana", "bo", "cy"]
    await enter(ana, {"mood": 1})
    left = await presence(watcher)
    assert (left["action"], left["client"], left["revision"]) == ("leave", "bo", seen + 1)
    assert time.monotonic() - killed_at < DEAD_WITHIN_S

    late, there = await follow(second, "late")
    assert there == ["ana", "cy"]
    await enter(stays, {"last": True})
    last = await presence(watcher)
    assert (last["action"], last["client"], last["revision"]) == ("update", "cy", seen + 2)
    for socket in (watcher, ana, stays, late):
        await socket.close()


async def read(server: ServerProcess, client: str, *, wait_ms: int = 0, **entry: Any) -> list[dict[str, Any]]:
    """What a poll of the channel says."""
    given = {"attach": [{"channel": CHANNEL, **entry}], "wait_ms": wait_ms}
    status, answer = await request(server.port, "POST", "/api/v1/poll", token(client), given)
    assert status == 200, answer
    frames: list[dict[str, Any]] = answer["frames"]
    return frames


async def leave(server: ServerProcess, client: str, reader: str) -> None:
    frame = {"type": "presence", "ref": 1, "channel": CHANNEL, "action": "leave"}
    status, answer = await request(server.port, "POST", f"/api/v1/frames?reader={reader}", token(client), frame)
    assert (status, answer[0]["type"] if isinstance(answer, list) else answer["type"]) == (200, "ok")


async def test_who_polls_is_present_at_every_worker_and_streams_of_a_killed_one_leave(
    servers: tuple[ServerProcess, ServerProcess, Redis],
) -> None:
    first, second, _ = servers
    watcher, there = await follow(second, "watcher")
    assert there == []

    async def seen() -> tuple[str, str]:
        frame = await presence(watcher)
        return frame["action"], frame["client"]

    # bo enters by a poll at one worker and goes on at the other: nobody sees him leave.
    async def bo_entered() -> bool:
        frames = await read(first, "bo", enter={"reader": "reader-of-bo", "data": "by poll"})
        return any(frame.get("action") == "enter" and frame["type"] == "ok" for frame in frames)

    await aeventually(bo_entered, PATIENCE_S, every_s=100 * MS)
    assert await seen() == ("enter", "bo")
    by_poll = [frame for frame in await read(second, "cy", presence=True) if frame["type"] == "presence"]
    assert [member["client"] for member in by_poll[0]["members"]] == ["bo"]

    # dee is present by a stream at the first worker, ed by a poll there; ed leaves by the second.
    body = {"attach": [{"channel": CHANNEL, "enter": {"reader": "reader-of-dee", "data": 1}}]}
    reader, writer = await asyncio.open_connection("127.0.0.1", first.port)
    content = json.dumps(body).encode()
    writer.write(
        f"POST /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token('dee')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    assert b" 200 " in await asyncio.wait_for(reader.readline(), PATIENCE_S)
    assert await seen() == ("enter", "dee")
    await read(first, "ed", enter={"reader": "reader-of-ed", "data": 1})
    assert await seen() == ("enter", "ed")
    await leave(second, "ed", "reader-of-ed")
    assert await seen() == ("leave", "ed")

    # The first worker dies: of those who were present there only dee had nothing but it.
    stop = asyncio.Event()

    async def bo_polls() -> None:
        while not stop.is_set():
            await read(second, "bo", wait_ms=1000, enter={"reader": "reader-of-bo", "data": "by poll"})

    polling = asyncio.create_task(bo_polls())
    killed_at = time.monotonic()
    first.kill9()
    try:
        left = await seen()
        while left[0] == "update":
            # bo's data, said anew at the other worker.
            left = await seen()
        assert left == ("leave", "dee")
        assert time.monotonic() - killed_at < DEAD_WITHIN_S
    finally:
        stop.set()
        await polling
        writer.transport.abort()
    late, there = await follow(second, "late")
    assert there == ["bo"]
    for socket in (watcher, late):
        await socket.close()
