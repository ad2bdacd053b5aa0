"""POST /tokens: an API key hands out no more than it has."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from realtime.tokens import Identity, create_api_key, verify_token
from tests.api.conftest import Api, assert_refused, token


def ask(api: Api, key: str, body: Any) -> Any:
    return api.request("POST", "/api/v1/tokens", body, auth=key)


def issued(api: Api, key: str, **body: Any) -> Identity:
    response = ask(api, key, {"client": "dora", **body})
    assert response.status_code == 201, response.content
    answer = response.json()
    assert list(answer) == ["token", "expires"]
    identity = verify_token(answer["token"], time.time())
    assert identity.expires_at_s is not None and answer["expires"] == identity.expires_at_s * 1000
    return identity


def test_a_token_has_the_client_the_capability_and_the_lifetime_asked_for(api: Api) -> None:
    _, key = create_api_key("backend")
    identity = issued(api, key, cap={"a": ["subscribe"]}, ttl_s=120)
    assert identity.client == "dora" and identity.capability is not None
    assert identity.capability.operations("a") == {"subscribe"}
    assert identity.expires_at_s == pytest.approx(time.time() + 120, abs=2)
    assert issued(api, key).expires_at_s == pytest.approx(time.time() + 3600, abs=2)


@pytest.mark.parametrize(
    ("own", "asked", "allowed"),
    [
        ({"*": ["*"]}, {"*": ["*"]}, True),
        ({"*": ["*"]}, {"x": ["admin"]}, True),
        ({"club:*": ["*"]}, {"club:x": ["publish"], "club:team.*": ["subscribe"]}, True),
        ({"club:*": ["publish"]}, {"club:*": ["publish", "history"]}, False),
        ({"club:*": ["*"]}, {"*": ["publish"]}, False),
        ({"club:*": ["*"]}, {"club*": ["publish"]}, False),
        ({"club:x": ["*"]}, {"club:*": ["publish"]}, False),
        ({}, {"x": ["publish"]}, False),
        ({}, {}, True),
        ({"x": ["publish"]}, {"y": ["fly"]}, True),
    ],
)
def test_never_more_than_the_keys_own_capability(api: Api, own: Any, asked: Any, allowed: bool) -> None:
    _, key = create_api_key("backend", own)
    response = ask(api, key, {"client": "dora", "cap": asked})
    if allowed:
        assert response.status_code == 201
    else:
        assert_refused(response, 403, "forbidden")


def test_without_cap_a_narrow_key_gives_its_own_without_admin_and_a_full_one_leaves_it_to_namespaces(api: Api) -> None:
    _, narrow = create_api_key("narrow", {"x": ["*"]})
    capability = issued(api, narrow).capability
    assert capability is not None
    assert capability.operations("x") == {"subscribe", "publish", "history", "presence", "signal"}
    assert capability.operations("y") == frozenset()
    _, full = create_api_key("full", {"*": ["*"]})
    assert issued(api, full).capability is None


def test_a_token_never_outlives_its_key(api: Api) -> None:
    _, key = create_api_key("backend", expires=timezone.now() + timedelta(seconds=100))
    assert issued(api, key, ttl_s=3600).expires_at_s == pytest.approx(time.time() + 100, abs=2)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"client": ""},
        {"client": "a b"},
        {"client": 5},
        {"client": "dora", "cap": []},
        {"client": "dora", "cap": {"*": "publish"}},
        {"client": "dora", "ttl_s": 0},
        {"client": "dora", "ttl_s": -5},
        {"client": "dora", "ttl_s": "60"},
        {"client": "dora", "ttl_s": True},
        {"client": "dora", "ttl_s": 10**9},
        [],
    ],
)
def test_a_wrong_body_is_refused(api: Api, body: Any) -> None:
    _, key = create_api_key("backend")
    assert_refused(ask(api, key, body), 400, "bad_frame")


def test_a_capability_that_makes_the_token_too_long_is_refused(api: Api) -> None:
    _, key = create_api_key("backend")
    cap = {f"channel-{i}": ["publish"] for i in range(300)}
    assert_refused(ask(api, key, {"client": "dora", "cap": cap}), 413, "too_large")


def test_only_api_keys_issue_tokens(api: Api) -> None:
    assert_refused(ask(api, token(), {"client": "dora"}), 403, "forbidden")
