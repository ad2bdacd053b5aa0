"""Helpers for tests of the HTTP interface: a client that speaks it, and assertions about its refusals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from realtime import namespaces, tokens
from realtime.protocol.errors import ERRORS

ABSENT: Any = object()


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    """What one test stored must not be what the next one finds."""
    namespaces.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    tokens.reset_caches()


def token(client: str = "ana", cap: Any = ABSENT) -> str:
    return tokens.issue_token(client, {"*": ["*"]} if cap is ABSENT else cap, 600, time.time())[0]


class Api:
    """Django's test client, with the paths, credentials and bodies of the HTTP interface."""

    def __init__(self) -> None:
        self.http = Client()

    def request(
        self,
        method: str,
        path: str,
        body: Any = ABSENT,
        *,
        auth: str | None = ABSENT,
        raw: bytes | None = None,
        content_type: str = "application/json",
        **headers: str,
    ) -> Any:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        auth = token() if auth is ABSENT else auth
        if auth is not None:
            headers["Authorization"] = f"Bearer {auth}"
        data = raw if raw is not None else b"" if body is ABSENT else json.dumps(body).encode()
        return self.http.generic(method, path, data, content_type=content_type, headers=headers)

    def publish(self, channel: str, body: Any, **more: Any) -> Any:
        return self.request("POST", messages_path(channel), body, **more)

    def page(self, channel: str, query: str = "", **more: Any) -> Any:
        return self.request("GET", f"{messages_path(channel)}?{query}", **more)


def messages_path(channel: str) -> str:
    return f"/api/v1/channels/{quote(channel, safe='')}/messages"


def assert_refused(response: Any, status: int, code: str, said: str = "") -> dict[str, Any]:
    """Asserts the one shape of errors and returns what is in it."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/json"
    body = json.loads(response.content)
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert error["code"] == code and code in ERRORS
    assert error["message"] and error["remedy"]
    assert set(error) <= {"code", "message", "remedy", "channel", "retry_after_ms"}
    assert said.lower() in f"{error['message']} {error['remedy']}".lower()
    if "retry_after_ms" in error:
        assert response.headers["Retry-After"] == str(-(-error["retry_after_ms"] // 1000))
    else:
        assert "Retry-After" not in response.headers
    assert (status == 401) == ("WWW-Authenticate" in response.headers)
    return error


@pytest.fixture
def api(db: None) -> Api:
    return Api()
