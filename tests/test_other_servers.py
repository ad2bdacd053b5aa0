"""The application under a server that is not ours: slower, and as correct."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import MS
from tests.servers import Site

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60_000 * MS


class Uvicorn(Site):
    """The site under uvicorn."""

    name = "uvicorn"

    def command(self) -> list[str]:
        arguments = ["--app-dir", str(ROOT), "--port", str(self.port), "--timeout-graceful-shutdown", "1"]
        return [sys.executable, "-m", "uvicorn", *arguments, "config.asgi:application"]


@pytest.fixture(scope="module")
def uvicorn() -> Iterator[Uvicorn]:
    with Uvicorn() as server:
        yield server


class Peer:
    def __init__(self, server: Uvicorn, client: str, **options: Any) -> None:
        secret = server.environment()["REALTIME_JWT_SECRET"]
        token = jwt.encode({"sub": client, "exp": int(time.time()) + 600, "cap": {"*": ["*"]}}, secret, "HS256")
        self.socket: ClientConnection = connect(
            f"ws://127.0.0.1:{server.port}/ws",
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            legacy=True,
            **options,
        )
        assert self.read()["type"] == "ready"

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, **frame: object) -> None:
        self.socket.send(json.dumps(frame))

    def read(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.socket.recv(PATIENCE_S))
        return frame

    def request(self, **frame: object) -> dict[str, Any]:
        self.send(ref=1, **frame)
        while (answer := self.read()).get("ref") != 1:
            pass
        return answer


def test_pages_and_sockets_are_served(uvicorn: Uvicorn) -> None:
    with urlopen(f"{uvicorn.url}/healthz") as response:
        assert response.status == 200
    with Peer(uvicorn, "ana") as ana, Peer(uvicorn, "bo") as bo:
        assert bo.request(type="attach", channel="lobby")["type"] == "attached"
        assert ana.request(type="publish", channel="lobby", messages=[{"data": "hello"}])["serials"] == [1]
        assert bo.read()["type"] == "attached"
        message = bo.read()
        assert (message["serial"], message["client"], message["data"]) == (1, "ana", "hello")


def test_a_refused_handshake_says_why(uvicorn: Uvicorn) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(
            f"ws://127.0.0.1:{uvicorn.port}/ws",
            additional_headers={"Origin": "http://elsewhere.example"},
            legacy=True,
        )
    assert caught.value.response.status_code == 403
    assert b"elsewhere.example" in caught.value.response.body


def test_close_codes_are_those_of_plain_asgi(uvicorn: Uvicorn) -> None:
    with Peer(uvicorn, "ana") as ana:
        ana.socket.send(b"binary")
        with pytest.raises(ConnectionClosed) as caught:
            ana.read()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4003, "text frames only")


def test_who_does_not_read_gets_everything_later(uvicorn: Uvicorn) -> None:
    count, size = 400, 20_000
    with Peer(uvicorn, "ana") as ana, Peer(uvicorn, "slow", max_queue=4) as slow, Peer(uvicorn, "quick") as quick:
        for each in (slow, quick):
            each.request(type="attach", channel="large", window=0)
        for number in range(count):
            answer = ana.request(type="publish", channel="large", messages=[{"data": [number, "x" * size]}])
            assert answer["serials"] == [number + 1]
            if number % 50 == 49:
                serial = 0
                while serial < number + 1:
                    serial = quick.read().get("serial", 0)
        serials: list[int] = []
        while len(serials) < count:
            frame = slow.read()
            if frame["type"] == "message":
                serials.append(frame["serial"])
                assert frame["data"][0] == frame["serial"] - 1
        assert serials == list(range(1, count + 1))
