"""Who is let in: bearer credentials, session cookies with Origin and CSRF, nobody."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.test import Client

from realtime.authorization import authorizes, unregister
from realtime.models import Namespace
from realtime.tokens import create_api_key, revoke_api_key
from tests.api.conftest import Api, assert_refused, messages_path, token

ORIGIN = "http://testserver"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", messages_path("x"), {"data": 1}),
        ("GET", messages_path("x"), None),
        ("GET", "/api/v1/channels/x", None),
        ("POST", "/api/v1/publish", {"items": [{"channel": "x", "messages": [{"data": 1}]}]}),
        ("POST", "/api/v1/tokens", {"client": "x"}),
    ],
)
def test_without_credentials_every_endpoint_answers_401(api: Api, method: str, path: str, body: Any) -> None:
    assert_refused(api.request(method, path, body, auth=None), 401, "unauthorized")
    assert_refused(
        api.request(method, f"{path}?access_token={token()}&token={token()}", body, auth=None), 401, "unauthorized"
    )
    for bad in ("abc.def.ghi", "ser_nobody_0123456789", ""):
        assert_refused(api.request(method, path, body, auth=bad), 401, "unauthorized")


@pytest.mark.parametrize("header", ["", "Basic YTpi", "Bearer", "Bearer  ", "bearer", "Token {}", "{}", "Bearer {},x"])
def test_another_kind_of_authorization_is_refused(api: Api, header: str) -> None:
    response = api.http.get(messages_path("x"), headers={"Authorization": header.format(token())})
    assert_refused(response, 401, "unauthorized")


def test_the_scheme_is_read_in_any_case(api: Api) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        assert api.http.get(messages_path("x"), headers={"Authorization": f"{scheme} {token()}"}).status_code == 200


def test_a_token_that_is_refused_says_why(api: Api) -> None:
    secret = django_settings.REALTIME["SIGNING_KEYS"]["default"]["secret"]
    expired = jwt.encode({"sub": "ana", "exp": int(time.time()) - 100}, secret, "HS256")
    error = assert_refused(api.page("x", auth=expired), 401, "unauthorized", "expired")
    assert "new token" in error["remedy"]


def test_revoked_keys_are_refused(api: Api) -> None:
    row, key = create_api_key("backend")
    assert api.page("x", auth=key).status_code == 200
    revoke_api_key(row)
    assert_refused(api.page("x", auth=key), 401, "unauthorized", "revoked")


# ---------------------------------------------------------------- anonymous


def test_a_namespace_may_let_anonymous_clients_in(api: Api) -> None:
    Namespace.objects.create(name="open", anonymous_ops=["history", "publish"])
    assert api.publish("open:x", {"data": 1}, auth=None).status_code == 201
    (message,) = api.page("open:x", auth=None).json()["messages"]
    assert message["client"] == "~anonymous"
    assert_refused(api.request("GET", "/api/v1/channels/open:x", auth=None), 401, "unauthorized")
    assert_refused(api.page("nobody:x", auth=None), 401, "unauthorized")


def test_who_is_unknown_cannot_make_the_server_read_a_body(api: Api) -> None:
    assert_refused(api.request("POST", messages_path("x"), raw=b"{", auth=None), 401, "unauthorized")


# ---------------------------------------------------------------- cookies


class Browser:
    """A logged-in page."""

    def __init__(self, username: str = "ana") -> None:
        self.http = Client(enforce_csrf_checks=True)
        self.user = get_user_model().objects.create_user(username, password="one")
        self.http.force_login(self.user)
        self.csrf = "c" * 32
        self.http.cookies[django_settings.CSRF_COOKIE_NAME] = self.csrf

    def publish(self, channel: str = "x", **headers: str) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(messages_path(channel), {"data": 1}, content_type="application/json", headers=given)


@pytest.fixture
def browser(api: Api) -> Browser:
    return Browser()


def test_a_cookie_with_origin_and_csrf_header_publishes(api: Api, browser: Browser) -> None:
    assert browser.publish(Origin=ORIGIN, X_CSRFToken=browser.csrf).status_code == 201
    (message,) = api.page("x").json()["messages"]
    assert message["client"] == "ana"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "origin"),
        ({"X_CSRFToken": "c" * 32}, "origin"),
        ({"Origin": "http://evil.example", "X_CSRFToken": "c" * 32}, "origin"),
        ({"Origin": "https://testserver", "X_CSRFToken": "c" * 32}, "origin"),
        ({"Origin": "http://testserver.evil.example", "X_CSRFToken": "c" * 32}, "origin"),
        ({"Origin": "null", "X_CSRFToken": "c" * 32}, "origin"),
        ({"Origin": ORIGIN}, "csrf"),
        ({"Origin": ORIGIN, "X_CSRFToken": "d" * 32}, "csrf"),
        ({"Origin": ORIGIN, "X_CSRFToken": ""}, "csrf"),
    ],
)
def test_a_cookie_alone_changes_nothing(browser: Browser, headers: dict[str, str], said: str) -> None:
    assert_refused(browser.publish(**headers), 403, "forbidden", said)


def test_the_allow_list_of_origins_is_not_for_cookies(browser: Browser, realtime_settings: Any) -> None:
    realtime_settings(ORIGINS=["http://friend.example"])
    response = browser.publish(Origin="http://friend.example", X_CSRFToken=browser.csrf)
    assert_refused(response, 403, "forbidden")


def test_a_cookie_reads_without_origin_but_not_for_a_foreign_page(browser: Browser) -> None:
    path = messages_path("x")
    assert browser.http.get(path).status_code == 200
    assert browser.http.get(path, headers={"Origin": ORIGIN}).status_code == 200
    assert_refused(browser.http.get(path, headers={"Origin": "http://evil.example"}), 401, "unauthorized")


def test_a_bearer_credential_wins_over_the_cookie_also_when_it_is_bad(browser: Browser) -> None:
    response = browser.publish(Authorization=f"Bearer {token('ben')}")
    assert response.status_code == 201
    assert browser.http.get(messages_path("x")).json()["messages"][0]["client"] == "ben"
    assert_refused(
        browser.publish(Authorization="Bearer x", Origin=ORIGIN, X_CSRFToken=browser.csrf), 401, "unauthorized"
    )


def test_a_session_that_ended_is_nobody(browser: Browser) -> None:
    browser.user.set_password("two")
    browser.user.save()
    assert_refused(browser.http.get(messages_path("x")), 401, "unauthorized")
    browser.http.cookies[django_settings.SESSION_COOKIE_NAME] = "x" * 32
    assert_refused(browser.http.get(messages_path("x")), 401, "unauthorized")


def test_a_session_has_what_the_namespace_grants_to_anyone_known(browser: Browser) -> None:
    Namespace.objects.create(name="closed", known_ops=["history"])
    assert browser.http.get(messages_path("closed:x")).status_code == 200
    response = browser.publish("closed:x", Origin=ORIGIN, X_CSRFToken=browser.csrf)
    assert_refused(response, 403, "forbidden")


# ---------------------------------------------------------------- hooks


def test_a_hook_of_the_application_decides_over_http_too(api: Api) -> None:
    Namespace.objects.create(name="club")

    @authorizes("club")
    def hook(identity: Any, channel: str, operation: str, context: Any) -> bool:
        return operation == "history" or channel == f"club:{identity.client}"

    try:
        assert api.publish("club:ana", {"data": 1}).status_code == 201
        assert_refused(api.publish("club:ben", {"data": 1}), 403, "forbidden")
        assert api.page("club:ben").status_code == 200
    finally:
        unregister("club", hook)
