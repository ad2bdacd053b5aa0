"""Thousands of real sockets at two workers, and the desk that lists them. With -s it says how long each list took."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import RawSocket, request, talker, token
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

SOCKETS = 2000
AT_ONCE = 50

PREPARE = """
from django.contrib.auth.models import User
from realtime.tokens import create_api_key
User.objects.create_superuser('eve', password='one')
print('key:' + create_api_key('desk', {'*': ['*']})[1])
"""


async def test_the_desk_lists_two_thousand_sockets_of_two_workers(postgres_server: Postgres) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(Redis())
        url = postgres_server.create_database("many")
        server = stack.enter_context(ServerProcess(database_url=url, workers=2, REDIS_URL=redis.url))
        key = (await asyncio.to_thread(server.manage, "shell", "-c", PREPARE)).rpartition("key:")[2].strip()
        sockets: list[RawSocket] = []
        for first in range(0, SOCKETS, AT_ONCE):
            sockets += await asyncio.gather(*[enter(server.port, n) for n in range(first, first + AT_ONCE)])
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as desk:
            await desk.get("/admin/login/")
            form = {"csrfmiddlewaretoken": desk.cookies["csrftoken"], "username": "eve", "password": "one"}
            headers = {"Origin": server.url}
            assert (await desk.post("/admin/login/", data=form, headers=headers)).status_code == 302
            wanted = {"": SOCKETS, "?client=many-1": of("many-1"), "?channel=room-3&sort=age": SOCKETS // 10}
            for address, expected in wanted.items():
                began = time.perf_counter()
                page = await desk.get(f"/admin/realtime/liveconnection/{address}")
                print(f"{(time.perf_counter() - began) * 1000:8.1f} ms  {address or 'all'}")
                assert page.status_code == 200
                assert str(expected) in page.text, address
        began = time.perf_counter()
        status, found = await request(server.port, "GET", "/api/v1/channels?prefix=room&limit=100", key)
        print(f"{(time.perf_counter() - began) * 1000:8.1f} ms  /api/v1/channels")
        assert status == 200 and sum(each["occupancy"] for each in found["channels"]) == SOCKETS
        began = time.perf_counter()
        status, found = await request(server.port, "DELETE", "/api/v1/clients/many-7/connections", key)
        print(f"{(time.perf_counter() - began) * 1000:8.1f} ms  disconnecting one")
        assert (status, found) == (200, {"connections": 1})
        await asyncio.wait_for(asyncio.shield(sockets[7].ended), 30)
        for socket in sockets:
            socket.abort()


def of(prefix: str) -> int:
    return sum(f"many-{number}".startswith(prefix) for number in range(SOCKETS))


async def enter(port: int, number: int) -> RawSocket:
    socket = await talker(port, token(f"many-{number}"))
    await socket.ask({"type": "attach", "ref": 1, "channel": f"room-{number % 10}"})
    await socket.ask({"type": "publish", "ref": 2, "channel": f"room-{number % 10}", "messages": [{"data": 1}]})
    return socket
