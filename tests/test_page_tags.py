"""What a template gives its page, and the token that the page fetches."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.urls import clear_script_prefix, reverse, set_script_prefix

from realtime import tokens, views


def rendered(text: str, user: Any = None) -> str:
    request = RequestFactory().get("/")
    request.user = user or AnonymousUser()
    return Template("{% load seriatim %}" + text).render(Context({"request": request}))


def config(text: str = "{% seriatim_config %}", user: Any = None) -> dict[str, Any]:
    match = re.fullmatch(
        r'<script id="seriatim-config" type="application/json">(.*)</script>', rendered(text, user), re.DOTALL
    )
    assert match
    found: dict[str, Any] = json.loads(match[1])
    return found


def test_the_page_is_told_where_to_connect() -> None:
    assert config() == {"url": "/ws", "sdk": "/static/seriatim/index.js", "tokenUrl": "/seriatim/token"}


def test_the_page_is_told_who_is_logged_in_and_what_the_template_adds() -> None:
    found = config('{% seriatim_config room="a</script>b" %}', User(username="ana"))
    assert (found["clientId"], found["room"]) == ("ana", "a</script>b")


def test_paths_follow_the_prefix_of_the_site_and_the_settings(realtime_settings: Any) -> None:
    realtime_settings(WEBSOCKET_PATH="/live")
    set_script_prefix("/shop/")
    try:
        found = config()
    finally:
        clear_script_prefix()
    assert (found["url"], found["tokenUrl"]) == ("/shop/live", "/shop/seriatim/token")


def test_the_modules_of_the_sdk_have_addresses() -> None:
    assert rendered("{% seriatim_script %} {% seriatim_script 'page.js' %}") == (
        "/static/seriatim/index.js /static/seriatim/page.js"
    )


# -- the token --------------------------------------------------------------------------------------------------------


def only_reading(request: HttpRequest) -> dict[str, list[str]]:
    return {f"user-{request.user.get_username()}": ["subscribe"]}


@pytest.fixture
def ana(db: None, client: Client) -> Client:
    client.force_login(User.objects.create_user("ana"))
    return client


def test_who_is_logged_in_gets_a_token_of_his_own(ana: Client) -> None:
    response = ana.get(reverse("realtime:token"))
    identity = tokens.verify_token(response.json()["token"], time.time())
    assert (identity.client, identity.capability) == ("ana", None)
    assert identity.expires_at_s is not None
    assert abs(identity.expires_at_s - time.time() - 900) < 10
    assert response.json()["expires"] == identity.expires_at_s * 1000
    assert "no-store" in response.headers["Cache-Control"]


def test_a_function_of_the_project_says_what_the_token_may(ana: Client, realtime_settings: Any) -> None:
    realtime_settings(TOKEN_CAPABILITY=f"{__name__}.only_reading", TOKEN_TTL_S=60)
    identity = tokens.verify_token(ana.get(reverse("realtime:token")).json()["token"], time.time())
    assert identity.capability is not None
    assert identity.capability.grants() == {"user-ana": ["subscribe"]}


def test_a_token_ends_with_the_session(ana: Client) -> None:
    session = ana.session
    session.set_expiry(30)
    session.save()
    identity = tokens.verify_token(ana.get(reverse("realtime:token")).json()["token"], time.time())
    assert identity.expires_at_s is not None
    assert identity.expires_at_s <= time.time() + 31


def test_nobody_gets_no_token_and_no_redirect(db: None, client: Client) -> None:
    response = client.get(reverse("realtime:token"))
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "unauthorized"
    assert client.post(reverse("realtime:token")).status_code == 405


def test_a_user_without_a_client_id_is_refused(ana: Client, realtime_settings: Any) -> None:
    realtime_settings(USER_CLIENT_ID=f"{__name__}.no_client_id")
    assert ana.get(reverse("realtime:token")).status_code == 403


def no_client_id(user: object) -> str:
    return "no client id"


def test_without_sessions_nobody_is_logged_in() -> None:
    assert views.token(RequestFactory().get("/")).status_code == 401
