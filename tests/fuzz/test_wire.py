"""The fuzzer for some seconds, and what a log must never say. `python -m tests.fuzz.wire` goes on for longer."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import connect, token
from tests.fuzz.wire import bearers_of, fuzz

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

PASSWORD = f"pw-{secrets.token_hex(8)}"
USER = f"from django.contrib.auth.models import User; User.objects.create_superuser('eve', password={PASSWORD!r})"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(LOG_FORMAT="json", LOG_LEVEL="DEBUG") as running:
        yield running


@pytest.fixture(scope="module")
def bearers(server: ServerProcess) -> list[str]:
    return bearers_of(server)


def test_nonsense_is_answered_and_nobody_else_notices(server: ServerProcess, bearers: list[str]) -> None:
    figures = asyncio.run(fuzz(server, 2, 11, bearers=bearers))
    assert not figures.faults, figures.faults
    assert figures.frames > 10 and figures.requests > 5, str(figures)


def test_no_line_of_the_log_has_a_credential(server: ServerProcess, bearers: list[str]) -> None:
    """Tokens, API keys, tickets, cookies and passwords, good and bad, by every way in; at the most talkative level."""
    server.manage("shell", "-c", USER)
    jwt, key = bearers
    with httpx.Client(base_url=server.url, trust_env=False, headers={"Origin": server.url}) as client:

        def post(path: str, body: object, bearer: str) -> httpx.Response:
            return client.post(path, json=body, headers={"Authorization": f"Bearer {bearer}"})

        client.get("/admin/login/")
        form = {"csrfmiddlewaretoken": client.cookies["csrftoken"], "username": "eve", "next": "/admin/"}
        client.post("/admin/login/", data={**form, "password": PASSWORD + "wrong"})
        assert client.post("/admin/login/", data={**form, "password": PASSWORD}).status_code == 302
        cookies = [client.cookies["csrftoken"], client.cookies["sessionid"]]
        issued = post("/api/v1/tokens", {"client": "ana", "cap": {"*": ["*"]}}, key).json()["token"]
        post("/api/v1/tokens", {"client": 5, "token": issued}, key)
        ticket = post("/api/v1/tickets", {"attach": [{"channel": "room"}]}, issued).json()["ticket"]
        with client.stream("GET", f"/api/v1/events?ticket={ticket}") as events:
            assert events.status_code == 200
        spoilt = [issued[:-4] + "AAAA", key[:-4] + "AAAA", ticket[:-4] + "AAAA"]
        for each in (*spoilt, issued, key):
            post("/api/v1/publish", {"items": 5}, each)
            for path in ("/api/v1/events?ticket=", "/nothing/here?access_token=", "/sockjs/info?t=", "/admin/?key="):
                client.get(f"{path}{each}", headers={"Authorization": f"Bearer {each}"})
        client.get("/nothing/there", headers={"Cookie": f"sessionid={cookies[1]}x"})

    async def sockets() -> None:
        for each in (jwt, spoilt[0], key):
            entry = f"Sec-WebSocket-Protocol: seriatim.v1.json, seriatim.bearer.{each}\r\n"
            for headers in (entry, f"Cookie: sessionid={cookies[1]}\r\nOrigin: {server.url}\r\n"):
                socket = await connect(server.port, headers=headers)
                socket.send({"type": "auth", "ref": 1, "token": each})
                socket.send_text(f'{{"type":"auth","token":"{each}"'.encode())
                await socket.close()

    asyncio.run(sockets())
    told = [token("fuzz").split(".")[1][:20], PASSWORD, *cookies, ticket, *spoilt]
    told += [jwt.split(".")[2], issued.split(".")[1], issued.split(".")[2], key.rpartition("_")[2], key[-20:]]
    eventually(lambda: "/nothing/there" in server.log_text())
    lines = [line for line in server.log_text().splitlines() if line.startswith("{")]
    assert len(lines) > 20 and all("message" in json.loads(line) for line in lines)
    found = [(secret, line) for secret in told for line in server.log_text().splitlines() if secret in line]
    assert not found, found
