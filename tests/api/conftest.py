"""Helpers for tests of the HTTP interface: a client that speaks it, and assertions about its refusals."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from realtime import namespaces, tokens
from realtime.api import openapi
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
        response = self.http.generic(method, path, data, content_type=content_type, headers=headers)
        assert_documented(method, path.partition("?")[0], response)
        return response

    def publish(self, channel: str, body: Any, **more: Any) -> Any:
        return self.request("POST", messages_path(channel), body, **more)

    def page(self, channel: str, query: str = "", **more: Any) -> Any:
        return self.request("GET", f"{messages_path(channel)}?{query}", **more)


def assert_documented(method: str, path: str, response: Any) -> None:
    """The OpenAPI document knows this answer: its status, and where it is a refusal, its code."""
    paths = openapi.document()["paths"]
    templates = [
        template for template in paths if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]*", re.escape(template)), path)
    ]
    if not templates or method.lower() not in paths[templates[0]]:
        return  # an address or a method that is none
    responses = paths[templates[0]][method.lower()]["responses"]
    assert str(response.status_code) in responses, f"{method} {templates[0]} is said never to answer {response!r}"
    content = responses[str(response.status_code)].get("content", {}).get("application/json")
    if response.status_code >= 400 and response.headers["Content-Type"] == "application/json" and "/api/" in path:
        _, only = content["schema"]["allOf"]
        codes = only["properties"]["error"]["properties"]["code"]["enum"]
        assert json.loads(response.content)["error"]["code"] in codes, response.content


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
