"""Cursors, console and home: who gets in, and what their tokens allow."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client, override_settings

from config import pages
from realtime.tokens import Identity, verify_token


@pytest.fixture(autouse=True)
def nobody_asked_yet(db: None) -> None:
    cache.clear()


@pytest.fixture
def ana(db: None) -> User:
    return User.objects.create_user("ana", password="a")


def token_of(client: Client, purpose: str, guest: str = "") -> Identity:
    response = client.get("/pages/token", {"for": purpose, "guest": guest})
    assert response.status_code == 200, response.content
    assert "no-store" in response["Cache-Control"]
    return verify_token(response.json()["token"], response.json()["expires"] - 1)


def page_data(client: Client, path: str) -> dict[str, str]:
    response = client.get(path)
    assert response.status_code == 200
    data: dict[str, str] = response.context["page_data"]
    return data


@pytest.mark.parametrize("path", ["/cursors/", "/console/"])
def test_without_the_demo_nobody_unknown_gets_in(client: Client, path: str) -> None:
    assert client.get(path)["Location"] == f"/accounts/login/?next={path}"
    assert client.get("/pages/token", {"for": "cursors"}).status_code == 401


def test_without_the_demo_the_front_page_connects_nobody_unknown(client: Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.context["page_data"] is None
    assert "page-data" not in response.content.decode()


@override_settings(DEMO=True)
def test_a_guest_has_the_channel_of_the_page_and_nothing_else(client: Client) -> None:
    data = page_data(client, "/cursors/")
    identity = token_of(client, "cursors", data["guest"])
    assert identity.client == data["client"]
    assert identity.capability is not None
    assert identity.capability.operations("cursors:quay") == {"subscribe", "presence", "signal"}
    for other in ("cursors:other", "play:open", "chat:lobby", "demo:feed", "$control"):
        assert identity.capability.operations(other) == frozenset()


@override_settings(DEMO=True)
def test_a_guest_of_the_console_has_its_open_channel_alone(client: Client) -> None:
    guest = page_data(client, "/console/")["guest"]
    identity = token_of(client, "console", guest)
    assert identity.capability is not None
    assert "publish" in identity.capability.operations("play:open")
    for other in ("play:home-1", "chat:lobby", "demo:feed"):
        assert identity.capability.operations(other) == frozenset()
    reading = token_of(client, "console-reading", guest).capability
    assert reading is not None
    assert reading.operations("play:open") == {"subscribe", "history"}


@override_settings(DEMO=True)
@pytest.mark.parametrize("guest", ["", "ana", "guest-abcdef", "guest-abcdef:1tGqXo:forged"])
def test_a_guest_cannot_be_made_up(client: Client, guest: str) -> None:
    assert client.get("/pages/token", {"for": "cursors", "guest": guest}).status_code == 401


@override_settings(DEMO=True)
def test_the_demo_of_the_front_page_has_few_channels(client: Client) -> None:
    channels = set()
    for _ in range(3 * pages.HOME_CHANNELS):
        channels.add(page_data(client, "/")["channel"])
    assert 1 < len(channels) <= pages.HOME_CHANNELS
    data = page_data(client, "/")
    capability = token_of(client, "home", data["guest"]).capability
    assert capability is not None
    assert capability.operations(data["channel"]) == {"subscribe", "publish", "history"}


def test_a_user_is_who_they_are_whatever_guest_they_name(client: Client, ana: User) -> None:
    with override_settings(DEMO=True):
        guest = page_data(client, "/cursors/")["guest"]
    client.force_login(ana)
    assert token_of(client, "cursors", guest).client == "ana"


def test_tokens_of_one_address_are_limited(client: Client, ana: User) -> None:
    client.force_login(ana)
    answers = [client.get("/pages/token", {"for": "cursors"}) for _ in range(pages.TOKENS_PER_MINUTE + 1)]
    # The minute may have changed in between; then the limit began anew.
    if all(each.status_code == 200 for each in answers):
        answers = [client.get("/pages/token", {"for": "cursors"}) for _ in range(pages.TOKENS_PER_MINUTE + 1)]
    assert answers[-1].status_code == 429
    assert answers[-1]["Retry-After"] == "60"


def test_a_purpose_that_is_none_is_told(client: Client, ana: User) -> None:
    client.force_login(ana)
    response = client.get("/pages/token", {"for": "everything"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "bad_frame"


# -- what an operator may choose


def mint(client: Client, body: object) -> tuple[int, dict[str, object]]:
    response = client.post("/pages/mint", json.dumps(body), content_type="application/json")
    return response.status_code, response.json()


def test_an_operator_chooses_client_and_capability(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.force_login(User.objects.create_superuser("admin"))
    status, body = mint(client, {"client": "probe-1", "cap": {"chat:*": ["subscribe"]}})
    assert status == 200
    identity = verify_token(str(body["token"]), float(str(body["expires"])) - 1)
    assert identity.client == "probe-1"
    assert identity.capability is not None
    assert identity.capability.operations("chat:lobby") == {"subscribe"}
    assert "admin made a token at the console for 'probe-1'" in caplog.text
    assert str(body["token"]) not in caplog.text


@pytest.mark.parametrize("staff", [False, True])
def test_who_is_no_operator_cannot(client: Client, ana: User, staff: bool) -> None:
    User.objects.filter(pk=ana.pk).update(is_staff=staff)
    client.force_login(ana)
    assert mint(client, {"client": "bo", "cap": {"*": ["*"]}})[0] == 403
    client.logout()
    assert mint(client, {"client": "bo", "cap": {"*": ["*"]}})[0] == 403


@pytest.mark.parametrize(
    "body", [None, [], {}, {"client": 1, "cap": {}}, {"client": "a", "cap": []}, {"client": "", "cap": {}}]
)
def test_a_wish_in_the_wrong_shape_is_refused(client: Client, body: object) -> None:
    client.force_login(User.objects.create_superuser("admin"))
    assert mint(client, body)[0] == 400


def test_minting_needs_the_token_of_the_form(db: None) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("admin"))
    assert mint_status(client) == 403


def mint_status(client: Client) -> int:
    return client.post("/pages/mint", "{}", content_type="application/json").status_code


def test_only_an_operator_is_offered_another_client(client: Client, ana: User) -> None:
    client.force_login(ana)
    assert "another client" not in client.get("/console/").content.decode()
    client.force_login(User.objects.create_superuser("admin"))
    assert "another client" in client.get("/console/").content.decode()
