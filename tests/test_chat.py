"""Rooms, who may see them, the token of the chat, and the demo."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client, override_settings

from chat import authorization
from chat.demo import DIRECT, HAPPENED, SAID
from chat.models import Membership, Room
from chat.people import people
from chat.uploads import examine
from realtime.authorization import Identity, Operation, authorize
from realtime.log.reads import read_page, read_states
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import parse_channel
from realtime.tokens import ANONYMOUS, identity_from_session, issue_token, verify_token

pytestmark = pytest.mark.django_db


@pytest.fixture
def ana() -> User:
    return User.objects.create_user("ana", password="a", first_name="Ana")


@pytest.fixture
def bo() -> User:
    return User.objects.create_user("bo", password="b", first_name="Bo")


@pytest.fixture
def lobby() -> Room:
    return Room.objects.create(slug="lobby", name="lobby", topic="Everybody")


@pytest.fixture
def attic(ana: User) -> Room:
    room = Room.objects.create(slug="attic", name="attic", kind="private")
    Membership.objects.create(room=room, user=ana)
    return room


def identity_of(client: Client) -> Identity:
    """Whoever the token endpoint says the logged-in user is."""
    body = client.get("/chat/token").json()
    return verify_token(body["token"], body["expires"] - 60)


def may(identity: Identity, channel: str, operation: Operation) -> bool:
    try:
        authorize(identity, parse_channel(channel), operation)
    except ProtocolError as error:
        assert error.code == "forbidden"
        return False
    return True


# -- pages


@pytest.mark.parametrize("path", ["/chat/", "/chat/lobby/", "/chat/names?id=ana"])
def test_who_is_not_logged_in_is_sent_to_log_in_and_back(client: Client, lobby: Room, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/?next=/chat/")


def test_the_chat_opens_in_the_lobby(client: Client, ana: User, attic: Room, lobby: Room) -> None:
    client.force_login(ana)
    assert client.get("/chat/")["Location"] == "/chat/lobby/"
    lobby.delete()
    assert client.get("/chat/")["Location"] == "/chat/attic/"


def test_without_rooms_the_chat_says_so(client: Client, ana: User) -> None:
    client.force_login(ana)
    assert "No room yet" in client.get("/chat/").content.decode()


def test_a_private_room_does_not_exist_for_others(
    client: Client, ana: User, bo: User, lobby: Room, attic: Room
) -> None:
    client.force_login(bo)
    assert client.get("/chat/attic/").status_code == 404
    assert "attic" not in client.get("/chat/lobby/").content.decode()
    client.force_login(ana)
    assert client.get("/chat/attic/").status_code == 200
    assert "chat:attic" in client.get("/chat/lobby/").content.decode()


def test_a_room_escapes_what_people_named_it(client: Client, ana: User) -> None:
    Room.objects.create(slug="x", name="<script>alert(1)</script>", topic='"><img src=x onerror=alert(1)>')
    client.force_login(ana)
    page = client.get("/chat/x/").content.decode()
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_a_page_needs_few_queries_however_many_rooms_there_are(
    client: Client, ana: User, django_assert_max_num_queries: object
) -> None:
    for number in range(30):
        Room.objects.create(slug=f"r{number}", name=f"r{number}")
    client.force_login(ana)
    with django_assert_max_num_queries(12):  # type: ignore[operator]  # a fixture without a public type
        client.get("/chat/r1/")


# -- the token


def test_the_token_is_of_the_user_and_of_the_rooms_only(client: Client, ana: User) -> None:
    client.force_login(ana)
    response = client.get("/chat/token")
    assert response["Cache-Control"] == "max-age=0, no-cache, no-store, must-revalidate, private"
    identity = verify_token(response.json()["token"], response.json()["expires"] - 1)
    assert identity.client == "ana"
    assert identity.capability is not None
    assert identity.capability.operations("chat:anything") == set(authorization.OPERATIONS)
    assert identity.capability.operations("demo:feed") == frozenset()


def test_the_token_lives_a_quarter_of_an_hour_and_never_longer_than_the_session(client: Client, ana: User) -> None:
    client.force_login(ana)
    body = client.get("/chat/token").json()
    issued = verify_token(body["token"], body["expires"] - 1).issued_at_s
    assert issued is not None
    assert 895 <= body["expires"] - issued <= 901
    session = client.session
    session.set_expiry(120)
    session.save()
    body = client.get("/chat/token").json()
    issued = verify_token(body["token"], body["expires"] - 1).issued_at_s
    assert issued is not None
    assert body["expires"] - issued <= 120


def test_a_script_that_is_signed_out_gets_401_and_no_redirect(client: Client) -> None:
    response = client.get("/chat/token")
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "unauthorized"


def test_a_token_is_not_given_for_a_post(client: Client, ana: User) -> None:
    client.force_login(ana)
    assert client.post("/chat/token").status_code == 405


# -- the hook


@pytest.mark.parametrize("operation", authorization.OPERATIONS)
def test_public_rooms_are_open_to_everybody_known(client: Client, bo: User, lobby: Room, operation: Operation) -> None:
    client.force_login(bo)
    assert may(identity_of(client), "chat:lobby", operation)
    assert not may(ANONYMOUS, "chat:lobby", operation)


@pytest.mark.parametrize("operation", authorization.OPERATIONS)
def test_private_rooms_are_open_to_their_members(
    client: Client, ana: User, bo: User, attic: Room, operation: Operation
) -> None:
    client.force_login(ana)
    assert may(identity_of(client), "chat:attic", operation)
    client.force_login(bo)
    assert not may(identity_of(client), "chat:attic", operation)


def test_a_change_of_members_holds_at_once(client: Client, bo: User, attic: Room) -> None:
    client.force_login(bo)
    identity = identity_of(client)
    assert not may(identity, "chat:attic", "subscribe")
    membership = Membership.objects.create(room=attic, user=bo)
    assert may(identity, "chat:attic", "subscribe")
    membership.delete()
    # Inside a test's transaction on_commit does not run, so a remembered yes would last: ask the hook itself.
    assert not authorization.may(identity, parse_channel("chat:attic"), "subscribe", {})


def test_there_is_nothing_to_do_in_what_is_no_room(client: Client, ana: User) -> None:
    client.force_login(ana)
    assert not may(identity_of(client), "chat:nowhere", "publish")


def test_a_client_id_is_no_way_around_the_members(ana: User, attic: Room) -> None:
    """Client ids of the form ~<pk> belong to users whose name cannot be one."""
    for client in (f"~{ana.pk}", "~", "~x", "~-1", "~" + "9" * 40):
        text, _ = issue_token(client, {"chat:*": ["subscribe"]}, 60)
        assert not may(verify_token(text, time.time()), "chat:attic", "subscribe")


def test_a_session_alone_grants_nothing_in_rooms(client: Client, ana: User, lobby: Room) -> None:
    """The namespace grants nothing by itself, so that the token's short life is the only one."""
    client.force_login(ana)
    identity = identity_from_session(str(client.session.session_key), time.time())
    assert identity is not None
    assert not may(identity, "chat:lobby", "subscribe")


# -- names


def test_names_are_given_for_client_ids(client: Client, ana: User, bo: User) -> None:
    odd = User.objects.create_user("with space", first_name="Odd", last_name="One")
    client.force_login(ana)
    response = client.get("/chat/names", {"id": ["ana", "bo", "nobody", f"~{odd.pk}", f"~{ana.pk}", "~x"]})
    assert response.json() == {"names": {"ana": "Ana", "bo": "Bo", f"~{odd.pk}": "Odd One"}}
    assert people([]) == []


# -- the demo


@pytest.mark.django_db(transaction=True)
def test_the_demo_can_be_made_again_and_adds_nothing(client: Client, settings: Any, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path
    with override_settings(DEMO=True):
        call_command("demo", verbosity=0)
        names = [parse_channel(f"chat:{slug}") for slug in SAID]
        before = read_states(names)
        assert before[names[0]].head == len(SAID["lobby"]) + len(HAPPENED)
        Membership.objects.filter(user__username="ana", room__slug="night-shift").delete()
        call_command("demo", verbosity=0)
        after = read_states(names)
    assert after == before
    assert [state.head for state in after.values()][1:] == [len(said) for said in list(SAID.values())[1:]]
    page = read_page(names[0], after=0, before=None, since=None, order="asc", limit=len(SAID["lobby"]))
    assert [json.loads(text)["data"]["text"] for text in page.messages] == [text for _, text in SAID["lobby"]]
    assert Room.objects.filter(kind="direct").count() == len(DIRECT)
    assert not Room.objects.get(slug="night-shift").members.filter(username="ana").exists()
    for name in ("ana", "bo", "admin"):
        assert client.login(username=name, password=name)
    assert not User.objects.get(username="ines").has_usable_password()
    client.force_login(User.objects.get(username="ana"))
    shown = client.get("/chat/lobby/page", {"after": len(SAID["lobby"])}).json()["messages"]
    picture, _, _, edited, deleted, mentioned, _ = shown
    assert (picture["replies"]["count"], [each["emoji"] for each in picture["reactions"]]) == (2, ["❤️", "🎉"])
    assert (edited["edited"] is not None, deleted["deleted"], mentioned["mentions"]) == (True, "ana", ["ana", "bo"])
    (file,) = picture["files"]
    image = client.get(f"/chat/files/{file['id']}/{file['name']}").content
    assert examine(image, file["name"], file["type"]).width == file["width"]
    assert len(image) == file["size"]


def test_the_demo_is_not_made_by_accident() -> None:
    with override_settings(DEMO=False), pytest.raises(CommandError, match="--force"):
        call_command("demo", verbosity=0)
    assert not User.objects.filter(username="admin").exists()


def test_the_demo_says_what_a_channel_takes() -> None:
    for slug, said in SAID.items():
        assert re.fullmatch(r"[a-z0-9-]+", slug)
        assert all(0 < len(text) < 400 for _, text in said)
