"""SockJS over two workers without a balancer: every request may come to either."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from typing import Any

import jwt
import pytest

from tests.conftest import MS
from tests.servers import Postgres, Redis, Site

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

PATIENCE_S = 60_000 * MS
SESSIONS = 12


def post(server: Site, path: str, body: bytes = b"") -> tuple[int, str]:
    """On a connection of its own, so that any worker may take it."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("POST", path, body)
    response = connection.getresponse()
    found = (response.status, response.read().decode())
    connection.close()
    return found


def worker_of_a_stream(server: Site, token: str) -> str:
    """Which worker has taken a connection now."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("GET", "/api/v1/stream?attach=any", headers={"Authorization": f"Bearer {token}"})
    ready = json.loads(connection.getresponse().readline())
    connection.close()
    return str(ready["worker"])


def test_the_requests_of_a_session_find_their_worker(postgres_server: Postgres, redis_server: Redis) -> None:
    url = postgres_server.create_database("sockjs")
    with Site(DATABASE_URL=url, REDIS_URL=redis_server.url, WORKERS="2") as server:
        secret = server.environment()["REALTIME_JWT_SECRET"]
        token = jwt.encode({"sub": "ana", "exp": int(time.time()) + 600, "cap": {"*": ["*"]}}, secret, "HS256")
        workers: set[str] = set()
        while len(workers) < 2:
            workers.add(worker_of_a_stream(server, token))
        workers.clear()
        for number in range(SESSIONS):
            base = f"/sockjs/000/session-{number}"
            assert post(server, f"{base}/xhr") == (200, "o\n")
            frames: list[dict[str, Any]] = [
                {"type": "auth", "token": token},
                {"type": "attach", "channel": f"c{number}"},
                {"type": "publish", "channel": f"c{number}", "messages": [{"data": each} for each in range(5)]},
            ]
            for frame in frames:
                assert post(server, f"{base}/xhr_send", json.dumps([json.dumps(frame)]).encode()) == (204, "")
            found: list[dict[str, Any]] = []
            while len([each for each in found if each["type"] == "message"]) < 5:
                status, text = post(server, f"{base}/xhr")
                assert (status, text[0]) == (200, "a"), text
                found += [json.loads(each) for each in json.loads(text[1:])]
            assert [each["data"] for each in found if each["type"] == "message"] == list(range(5))
            workers.add(next(each["worker"] for each in found if each["type"] == "ready"))
        assert post(server, "/sockjs/000/nobody/xhr_send", b'["x"]')[0] == 404
        # Else nothing had to be passed on.
        assert len(workers) == 2
