"""The operator's endpoints: the list of channels, revoking, disconnecting; who may, and what the audit log says."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from realtime import desk, revocations
from realtime.models import Act, ApiKey, Channel, Log, Namespace
from realtime.tokens import create_api_key, verify_token
from tests.api.conftest import Api, assert_refused, token

EVERYTHING = {"*": ["*"]}


def key(capability: dict[str, list[str]] = EVERYTHING, name: str = "ops") -> str:
    return create_api_key(name, capability)[1]


def many_channels(count: int) -> None:
    namespace = Namespace.objects.get(name="default")
    Channel.objects.bulk_create([Channel(name=f"room-{number:05}", namespace=namespace) for number in range(count)])
    Log.objects.bulk_create(
        [Log(channel=channel, epoch="abcd", head=5, last_time=9) for channel in Channel.objects.all()]
    )


def names(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [each["name"] for each in response.json()["channels"]]


def test_channels_by_prefix_page_by_page_in_bounded_queries(api: Api) -> None:
    many_channels(10_000)
    auth = key()
    api.request("GET", "/api/v1/channels", auth=auth)  # the key's row is known from now on
    with CaptureQueriesContext(
        connection,
    ) as queries:
        response = api.request("GET", "/api/v1/channels?limit=1000", auth=auth)
    assert len(queries) == 1
    assert names(response) == [f"room-{number:05}" for number in range(1000)]
    assert response.json()["channels"][0] == {
        "name": "room-00000",
        "epoch": "abcd",
        "oldest": 1,
        "head": 5,
        "occupancy": 0,
        "last_time": 9,
    }
    found: list[str] = []
    page: str | None = ""
    while page is not None:
        response = api.request("GET", f"/api/v1/channels?prefix=room-09&limit=300&page={page}", auth=auth)
        found += names(response)
        page = response.json()["next"]
    assert found == [f"room-{number:05}" for number in range(9000, 10_000)]
    assert names(api.request("GET", "/api/v1/channels?prefix=room-0001", auth=auth)) == [
        f"room-{number:05}" for number in range(10, 20)
    ]
    assert names(api.request("GET", "/api/v1/channels?prefix=Room", auth=auth)) == []


def test_the_platforms_own_channels_are_not_listed(api: Api) -> None:
    Channel.objects.create(name="$control", namespace=None)
    assert "$control" not in names(api.request("GET", "/api/v1/channels", auth=key()))


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "prefix=a%20b", "prefix=%00", "page=%24control"])
def test_parameters_that_are_none_are_refused(api: Api, query: str) -> None:
    assert_refused(api.request("GET", f"/api/v1/channels?{query}", auth=key()), 400, "bad_frame")


def test_a_list_needs_an_api_key_that_covers_all_of_it(api: Api) -> None:
    narrow = key({"chat:*": ["subscribe"], "room": ["subscribe"]})
    assert names(api.request("GET", "/api/v1/channels?prefix=chat:a", auth=narrow)) == []
    for prefix in ("", "cha", "room"):
        assert_refused(api.request("GET", f"/api/v1/channels?prefix={prefix}", auth=narrow), 403, "forbidden")
    assert_refused(api.request("GET", "/api/v1/channels", auth=token()), 403, "forbidden")
    assert_refused(api.request("GET", "/api/v1/channels", auth=None), 401, "unauthorized")


WRITES = [("POST", "/api/v1/tokens/revoke", {"jti": "x"}), ("DELETE", "/api/v1/clients/ana/connections", None)]


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_only_keys_with_admin_everywhere_may_operate(api: Api, method: str, path: str, body: Any) -> None:
    without = key({"*": ["subscribe", "publish", "history", "presence", "signal"], "chat:*": ["admin"]}, "feed")
    for auth in (without, token()):
        assert_refused(api.request(method, path, body, auth=auth), 403, "forbidden")
    assert_refused(api.request(method, path, body, auth=None), 401, "unauthorized")
    assert not Act.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_revoked_token_is_refused_and_the_audit_log_says_who_did_it(transactional_db: None, api: Api) -> None:
    good, bad = token("ana"), token("ana")
    jti = _jti(bad)
    response = api.request("POST", "/api/v1/tokens/revoke", {"jti": jti, "reason": "leaked"}, auth=key())
    assert response.status_code == 200 and response.json() == {"revoked": 1, "connections": 0}
    assert_refused(api.publish("room", {"data": 1}, auth=bad), 401, "unauthorized", "revoked")
    assert api.publish("room", {"data": 1}, auth=good).status_code == 201
    act = Act.objects.get()
    assert (act.actor, act.act, act.target, act.details) == ("key:ops", "revoke jti", jti, {"reason": "leaked"})


@pytest.mark.django_db(transaction=True)
def test_a_revoked_key_takes_the_tokens_issued_with_it_along(transactional_db: None, api: Api) -> None:
    doomed, other = key(name="doomed"), key(name="other")
    issued = [
        api.request("POST", "/api/v1/tokens", {"client": "dora"}, auth=auth).json()["token"] for auth in (doomed, other)
    ]
    row = ApiKey.objects.get(name="doomed")
    assert api.request("POST", "/api/v1/tokens/revoke", {"key": row.key_id}, auth=key()).status_code == 200
    assert_refused(api.publish("room", {"data": 1}, auth=issued[0]), 401, "unauthorized", "revoked")
    assert_refused(api.publish("room", {"data": 1}, auth=doomed), 401, "unauthorized", "revoked")
    assert api.publish("room", {"data": 1}, auth=issued[1]).status_code == 201


@pytest.mark.parametrize(
    "body", [{}, {"jti": "a", "client": "b"}, {"jti": 1}, {"jti": ""}, {"jti": "x" * 257}, {"client": "a b"},
             {"key": "ser_x"}, {"jti": "a", "reason": "x" * 201}, {"jti": "\0"}]
)  # fmt: skip
def test_a_body_that_names_nothing_to_revoke_is_refused(api: Api, body: Any) -> None:
    assert_refused(api.request("POST", "/api/v1/tokens/revoke", body, auth=key()), 400, "bad_frame")


@pytest.mark.django_db(transaction=True)
def test_who_is_blocked_is_refused_whatever_the_credentials(transactional_db: None, api: Api) -> None:
    backend = key(name="mallory")
    desk.block("mallory", actor="user:op", reason="abuse")
    for auth in (token("mallory"), backend):
        assert_refused(api.publish("room", {"data": 1}, auth=auth), 403, "forbidden", "blocked")
    assert api.publish("room", {"data": 1}, auth=token("ana")).status_code == 201
    assert desk.lift("block", "mallory", actor="user:op") and not desk.lift("block", "mallory", actor="user:op")
    assert api.publish("room", {"data": 1}, auth=token("mallory")).status_code == 201
    assert [each.act for each in Act.objects.order_by("pk")] == ["block", "unblock"]


def test_disconnecting_is_answered_with_the_count_and_told_in_the_audit_log(api: Api) -> None:
    client = "a/b?c"
    response = api.request("DELETE", f"/api/v1/clients/{quote(client, safe='')}/connections", auth=key())
    assert response.status_code == 200 and response.json() == {"connections": 0}
    assert Act.objects.get().target == client
    assert_refused(api.request("DELETE", "/api/v1/clients/a%20b/connections", auth=key()), 400, "bad_frame")


def test_what_fails_is_not_in_the_audit_log(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(revocations, "revoke", broken)
    with pytest.raises(RuntimeError):
        desk.revoke("jti", "x", actor="user:op")
    assert not Act.objects.exists()


def _jti(text: str) -> str:
    jti = verify_token(text, time.time()).jti
    assert jti is not None
    return jti
