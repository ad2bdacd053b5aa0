"""Rooms, members, roles and moderation over HTTP: who may do what, what it publishes, and what the trail says."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from chat import people, rooms
from chat.api import ACTIONS
from chat.authorization import OPERATIONS, may
from chat.models import AuditEntry, LastSeen, Membership, Mute, Room
from chat.people import here_of, inbox_of
from realtime import namespaces, publishing
from realtime.protocol.names import ClientId, parse_channel
from realtime.testing import relay_now
from realtime.tokens import Identity
from tests.chatting import Person, logged, make_room, refusal

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh() -> None:
    namespaces.reset()
    publishing._buckets.clear()


@pytest.fixture
def ana() -> Person:
    return Person("ana", first_name="Ana")


@pytest.fixture
def bo() -> Person:
    return Person("bo", first_name="Bo")


@pytest.fixture
def cy() -> Person:
    return Person("cy")


def trail(room: Room) -> list[tuple[str, str, str, str]]:
    return [(each.by, each.action, each.about, each.detail) for each in AuditEntry.objects.filter(room=room)][::-1]


# -- the form of requests and refusals


PATHS = [
    ("GET", "rooms"), ("POST", "rooms"), ("POST", "direct"), ("POST", "seen"), ("GET", "search"), ("GET", "people"),
    ("GET", "lobby/room"), ("PATCH", "lobby/room"), ("GET", "lobby/members"), ("GET", "lobby/audit"),
    ("GET", "lobby/page"), ("GET", "lobby/at"), ("POST", "lobby/files"), ("GET", "files/x/y"),
    *(("POST", f"lobby/{action}") for action in ACTIONS),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_who_is_not_logged_in_gets_401_in_the_one_shape(client: Client, method: str, path: str) -> None:
    make_room("lobby")
    response = client.generic(method, f"/chat/{path}", "{}", content_type="application/json")
    assert (response.status_code, refusal(response)) == (401, "unauthorized")
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize(("method", "path"), [each for each in PATHS if each[0] != "GET"])
def test_changes_need_the_csrf_token(ana: Person, method: str, path: str) -> None:
    make_room("lobby", owner=ana)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ana.user)
    response = browser.generic(method, f"/chat/{path}", "{}", content_type="application/json")
    assert (response.status_code, refusal(response)) == (403, "forbidden")
    assert Room.objects.count() == 1


def test_with_the_csrf_token_a_change_is_done(ana: Person) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ana.user)
    browser.cookies["csrftoken"] = "x" * 32
    body = json.dumps({"name": "Loft", "kind": "private"})
    request: dict[str, Any] = {"content_type": "application/json", "HTTP_X_CSRFTOKEN": "x" * 32}
    assert browser.post("/chat/rooms", body, **request).status_code == 201


@pytest.mark.parametrize("body", ["", "[]", "{", "null", '"x"'])
def test_bodies_are_objects(ana: Person, body: str) -> None:
    response = ana.browser.generic("POST", "/chat/rooms", body, content_type="application/json")
    assert refusal(response) == "bad_frame"


def test_methods_and_content_types_that_mean_nothing_are_refused(ana: Person) -> None:
    response = ana.browser.delete("/chat/rooms")
    assert (response.status_code, refusal(response)) == (405, "bad_frame")
    assert refusal(ana.browser.post("/chat/rooms", {"name": "x"})) == "bad_frame"
    assert refusal(ana.browser.generic("POST", "/chat/rooms", "{}", content_type="multipart/form-data")) == "bad_frame"


# -- making rooms


def test_who_makes_a_room_owns_it_and_the_invited_hear_of_it(ana: Person, bo: Person) -> None:
    body = {"name": "Night  shift ", "topic": "Keys", "kind": "private", "members": ["bo", "ana"]}
    response = ana.post("rooms", body)
    assert response.status_code == 201
    room = response.json()
    assert (room["name"], room["topic"], room["kind"], room["role"]) == ("Night shift", "Keys", "private", "owner")
    assert room["slug"].startswith("night-shift-") and room["channel"] == f"chat:{room['slug']}"
    assert logged(room["channel"]) == [(None, "member", {"action": "invited", "client": "bo", "by": "ana"})]
    assert logged("chat:@bo") == [(None, "room", {"action": "invited", "room": room["slug"]})]
    assert logged("chat:@ana") == [(None, "room", {"action": "created", "room": room["slug"]})]
    assert [each["slug"] for each in bo.get("rooms").json()["rooms"]] == [room["slug"]]
    assert trail(Room.objects.get()) == [("ana", "created", "", ""), ("ana", "invited", "bo", "")]


def test_names_of_rooms_become_addresses_that_are_free(ana: Person) -> None:
    slugs = [
        ana.post("rooms", {"name": name, "kind": "public"}).json()["slug"]
        for name in ("Kü che", "Kü che", "搜", "rooms")
    ]
    assert slugs[0] == "ku-che"
    assert slugs[1].startswith("ku-che-") and slugs[2] == "room" and slugs[3].startswith("rooms-")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": "  "}, {"name": 5}, {"name": "x" * 81}, {"name": "a\u202eb"},
        {"topic": 5}, {"topic": "x" * 201},
        {"kind": "direct"}, {"kind": None}, {"members": "bo"}, {"members": ["bo"] * 51},
    ],
)  # fmt: skip
def test_wrong_rooms_are_not_made(ana: Person, bo: Person, change: dict[str, Any]) -> None:
    response = ana.post("rooms", {"name": "x", "topic": "", "kind": "public", "members": [], **change})
    assert refusal(response) == "bad_frame"
    assert not Room.objects.exists()


def test_a_room_with_somebody_who_does_not_exist_is_not_made_at_all(ana: Person) -> None:
    assert refusal(ana.post("rooms", {"name": "x", "kind": "private", "members": ["nobody"]})) == "not_found"
    assert refusal(ana.post("rooms", {"name": "x", "kind": "private", "members": [[]]})) in ("not_found", "bad_frame")
    assert not Room.objects.exists() and logged("chat:@ana") == []


def test_rooms_of_one_owner_are_bounded(ana: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "ROOMS_OWNED_MOST", 1)
    assert ana.post("rooms", {"name": "x", "kind": "public"}).status_code == 201
    assert refusal(ana.post("rooms", {"name": "y", "kind": "public"})) == "conflict"


def test_two_people_have_one_direct_room(ana: Person, bo: Person, cy: Person) -> None:
    first = ana.post("direct", {"client": "bo"})
    again = bo.post("direct", {"client": "ana"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["slug"] == again.json()["slug"]
    assert (first.json()["name"], first.json()["with"]) == ("Bo", "bo")
    assert (again.json()["name"], again.json()["with"]) == ("Ana", "ana")
    assert logged("chat:@bo") == [(None, "room", {"action": "added", "room": first.json()["slug"]})]
    assert cy.get("rooms").json()["rooms"] == []
    assert refusal(ana.post("direct", {"client": "ana"})) == "bad_frame"
    assert refusal(ana.post("direct", {"client": "nobody"})) == "not_found"
    assert refusal(ana.post("direct", {})) == "not_found"


def test_nothing_is_managed_in_a_direct_room(ana: Person, bo: Person, cy: Person) -> None:
    slug = ana.post("direct", {"client": "bo"}).json()["slug"]
    bodies: dict[str, dict[str, Any]] = {
        "invite": {"client": "cy"},
        "remove": {"client": "bo"},
        "mute": {"client": "bo", "minutes": 5},
        "unmute": {"client": "bo"},
        "role": {"client": "ana", "role": "owner"},
        "leave": {},
        "delete-message": {"serial": 1},
    }
    for action, body in bodies.items():
        assert refusal(ana.post(f"{slug}/{action}", body)) == "forbidden", action
    assert refusal(ana.post(f"{slug}/room", {"name": "x"}, "PATCH")) == "forbidden"
    assert Membership.objects.count() == 2


@pytest.mark.parametrize("kind", ["private", "direct"])
def test_closed_rooms_do_not_exist_for_others(ana: Person, bo: Person, cy: Person, kind: str) -> None:
    if kind == "direct":
        slug = ana.post("direct", {"client": "bo"}).json()["slug"]
    else:
        slug = make_room("loft", "private", owner=ana, member=bo).slug
    ana.says(slug, "secret word")
    for method, path in PATHS:
        if path.startswith("lobby/"):
            address = path.replace("lobby", slug)
            body = {"client": "bo", "minutes": 1, "role": "owner", "serial": 1}
            response = cy.get(address) if method == "GET" else cy.post(address, body, method)
            assert (response.status_code, refusal(response)) == (404, "not_found"), path
    assert cy.get(f"{slug}/").status_code == 404
    assert cy.get("search", q="secret").json()["results"] == []
    assert refusal(cy.get("search", q="secret", room=slug)) == "not_found"
    assert [each["text"] for each in bo.get("search", q="secret").json()["results"]] == ["secret word"]


def test_names_and_topics_are_changed_by_moderators(ana: Person, bo: Person, cy: Person) -> None:
    room = make_room("lobby", owner=ana, moderator=bo, member=cy)
    assert refusal(cy.post("lobby/room", {"name": "x"}, "PATCH")) == "forbidden"
    assert bo.post("lobby/room", {"topic": "Quay"}, "PATCH").json()["topic"] == "Quay"
    assert ana.post("lobby/room", {"name": "Hall"}, "PATCH").json()["name"] == "Hall"
    assert refusal(ana.post("lobby/room", {"slug": "x", "kind": "private"}, "PATCH")) == "bad_frame"
    assert logged("chat:lobby") == [
        (None, "room", {"topic": "Quay", "by": "bo"}),
        (None, "room", {"name": "Hall", "by": "ana"}),
    ]
    assert trail(room) == [("bo", "topic", "", "Quay"), ("ana", "renamed", "", "Hall")]
    room.refresh_from_db()
    assert (room.slug, room.kind) == ("lobby", "public")


# -- members


def test_public_rooms_are_joined_and_left(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana)
    for _ in range(2):
        assert bo.post("lobby/join").status_code == 200
    assert bo.get("lobby/room").json()["role"] == "member"
    for _ in range(2):
        assert bo.post("lobby/leave").status_code == 200
    assert bo.get("lobby/room").json()["role"] is None
    member = [(None, "member", {"action": action, "client": "bo"}) for action in ("joined", "left")]
    assert logged("chat:lobby") == member, "who joins twice joined once"


def test_who_is_deleted_has_left_all_rooms(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana, member=bo)
    make_room("loft", "private", owner=ana, member=bo)
    assert ana.post("direct", {"client": "bo"}).status_code == 201
    slug = Room.objects.get(kind="direct").slug
    bo.user.delete()
    relay_now()
    for room in ("lobby", "loft"):
        assert logged(f"chat:{room}") == [(None, "member", {"action": "left", "client": "bo"})]
        assert [each["client"] for each in ana.get(f"{room}/members").json()["members"]] == ["ana"]
    assert logged(f"chat:{slug}") == [], "nobody leaves a room of two"


def test_a_room_keeps_an_owner(ana: Person, bo: Person) -> None:
    make_room("loft", "private", owner=ana, member=bo)
    assert refusal(ana.post("loft/leave")) == "conflict"
    assert refusal(ana.post("loft/role", {"client": "ana", "role": "member"})) == "conflict"
    assert ana.post("loft/role", {"client": "bo", "role": "owner"}).status_code == 200
    assert ana.post("loft/leave").status_code == 200
    assert ana.get("loft/").status_code == 404
    assert bo.post("loft/leave").status_code == 200, "the last member may go"


def test_private_rooms_are_opened_by_their_moderators(ana: Person, bo: Person, cy: Person) -> None:
    room = make_room("loft", "private", owner=ana, member=bo)
    assert refusal(bo.post("loft/invite", {"client": "cy"})) == "forbidden"
    for _ in range(2):
        assert ana.post("loft/invite", {"client": "cy"}).status_code == 200
    assert cy.get("loft/page").status_code == 200
    assert logged("chat:loft") == [(None, "member", {"action": "invited", "client": "cy", "by": "ana"})]
    assert refusal(cy.post("loft/remove", {"client": "bo"})) == "forbidden"
    assert ana.post("loft/remove", {"client": "cy"}).status_code == 200
    assert cy.get("loft/page").status_code == 404
    assert logged("chat:@cy")[-1] == (None, "room", {"action": "removed", "room": "loft"})
    assert refusal(ana.post("loft/remove", {"client": "cy"})) == "not_found"
    assert trail(room) == [("ana", "invited", "cy", ""), ("ana", "removed", "cy", "")]


def test_members_of_public_rooms_invite_others(ana: Person, bo: Person, cy: Person) -> None:
    make_room("lobby", owner=ana, member=bo)
    assert bo.post("lobby/invite", {"client": "cy"}).status_code == 200
    assert refusal(Person("dy").post("lobby/invite", {"client": "cy"})) == "forbidden"


def test_nobody_acts_on_those_who_are_not_below(ana: Person, bo: Person, cy: Person) -> None:
    make_room("lobby", owner=ana, moderator=bo, member=cy)
    second = Person("dy")
    Membership.objects.create(room=Room.objects.get(), user=second.user, role="moderator")
    for actor, about, expected in [
        (cy, "ana", "forbidden"), (cy, "bo", "forbidden"), (bo, "ana", "forbidden"), (bo, "dy", "forbidden"),
        (bo, "bo", "bad_frame"), (ana, "ana", "bad_frame"), (bo, "nobody", "not_found"),
    ]:  # fmt: skip
        assert refusal(actor.post("lobby/mute", {"client": about, "minutes": 5})) == expected
        assert refusal(actor.post("lobby/remove", {"client": about})) == expected
    for client in ("bo", "cy"):
        assert refusal(bo.post("lobby/role", {"client": client, "role": "owner"})) == "forbidden"
    assert bo.post("lobby/mute", {"client": "cy", "minutes": 5}).status_code == 200
    assert ana.post("lobby/remove", {"client": "bo"}).status_code == 200
    assert refusal(ana.post("lobby/role", {"client": "cy", "role": "king"})) == "bad_frame"
    assert Mute.objects.count() == 1


def test_members_are_listed_with_roles_mutes_and_when_they_were_seen(ana: Person, bo: Person, cy: Person) -> None:
    make_room("lobby", owner=ana, member=bo)
    bo.get("rooms")
    ana.post("lobby/mute", {"client": "cy", "minutes": 5})
    listed = {each["client"]: each for each in ana.get("lobby/members").json()["members"]}
    assert {client: each["role"] for client, each in listed.items()} == {"ana": "owner", "bo": "member", "cy": None}
    assert listed["cy"]["muted_until"] > timezone.now().timestamp() * 1000 > listed["bo"]["last_seen"] - 1000
    assert (listed["ana"]["last_seen"], listed["bo"]["muted_until"], listed["bo"]["name"]) == (None, None, "Bo")


def test_a_quiet_room_is_ones_own_affair(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana, member=bo)
    assert refusal(bo.post("lobby/quiet", {"on": "yes"})) == "bad_frame"
    for _ in range(2):
        assert bo.post("lobby/quiet", {"on": True}).json() == {}
    bo.says("lobby", "x")
    assert [each.get("rooms").json()["rooms"][0]["quiet"] for each in (ana, bo)] == [False, True]
    assert logged("chat:@bo") == [(None, "room", {"action": "quiet", "room": "lobby"})]
    assert [event for _, event, _ in logged("chat:lobby")] == ["message"]
    page = bo.get("lobby/").content.decode()
    assert page.index("<ul data-quiet>") < page.index('data-slug="lobby"')
    page = ana.get("lobby/").content.decode()
    assert page.index("<ul data-direct>") > page.index('data-slug="lobby"')
    bo.post("lobby/quiet", {"on": False})
    assert bo.get("rooms").json()["rooms"][0]["quiet"] is False


def test_who_talks_with_somebody_knows_whether_he_is_there(ana: Person, bo: Person, cy: Person) -> None:
    room = ana.post("direct", {"client": "bo"}).json()
    assert room["here"] == here_of(bo.user.pk) and bo.get("rooms").json()["rooms"][0]["here"] == here_of(ana.user.pk)
    channel = parse_channel(room["here"])
    for person, expected in ((bo, {"subscribe", "presence"}), (ana, {"subscribe", "presence"}), (cy, set())):
        identity = Identity(ClientId(person.client), None, "token")
        assert {operation for operation in OPERATIONS if may(identity, channel, operation, {})} == expected
    nobody = Identity(ClientId("x"), None, "token")
    for name in ("chat:=", "chat:=ana", "chat:=99", f"chat:={'9' * 30}"):
        assert not any(may(each, parse_channel(name), "presence", {}) for each in (identity, nobody))


def test_a_page_says_that_somebody_is_there_to_the_minute(ana: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100_000.0, 100_030.0, 100_090.0])
    monkeypatch.setattr(people, "time", SimpleNamespace(time=lambda: next(times)))
    seen = []
    for _ in range(3):
        assert ana.post("seen").json() == {}
        seen.append(LastSeen.objects.get(client="ana").time)
    assert seen == [100_000_000, 100_000_000, 100_090_000]


# -- moderation


def test_who_is_muted_may_not_write_until_then_not_even_after_leaving(ana: Person, bo: Person) -> None:
    room = make_room("lobby", owner=ana, member=bo)
    first = bo.says("lobby", "hello")
    until = ana.post("lobby/mute", {"client": "bo", "minutes": 5}).json()["muted_until"]
    assert logged("chat:lobby")[-1] == (
        None,
        "member",
        {"action": "muted", "client": "bo", "by": "ana", "until": until},
    )
    assert bo.get("rooms").json()["rooms"][0]["muted_until"] == until
    bo.post("lobby/leave")
    bo.post("lobby/join")
    refused: dict[str, dict[str, Any]] = {
        "message": {"text": "x"},
        "edit": {"of": first, "text": "x"},
        "react": {"of": first, "emoji": "👍", "on": True},
    }
    for event, data in refused.items():
        assert refusal(bo.publish("lobby", {"event": event, "data": data})) == "forbidden", event
    bo.does("lobby", "receipt", through=first)
    bo.does("lobby", "delete", of=first)
    Mute.objects.update(until=timezone.now())
    bo.says("lobby", "again")
    ana.post("lobby/mute", {"client": "bo", "minutes": 5})
    for _ in range(2):
        assert ana.post("lobby/unmute", {"client": "bo"}).status_code == 200
    bo.says("lobby", "and again")
    assert [each[1] for each in trail(room)] == ["muted", "muted", "unmuted"]


@pytest.mark.parametrize("minutes", [0, -1, 1.5, "5", True, None, 10**9])
def test_mutes_have_an_end(ana: Person, bo: Person, minutes: Any) -> None:
    make_room("lobby", owner=ana, member=bo)
    assert refusal(ana.post("lobby/mute", {"client": "bo", "minutes": minutes})) == "bad_frame"


def test_moderators_delete_messages_and_the_trail_says_why(ana: Person, bo: Person, cy: Person) -> None:
    room = make_room("lobby", owner=ana, moderator=bo, member=cy)
    serial = cy.says("lobby", "rude")
    theirs = ana.says("lobby", "from the owner")
    assert refusal(cy.post("lobby/delete-message", {"serial": theirs})) == "forbidden"
    assert refusal(bo.post("lobby/delete-message", {"serial": theirs})) == "forbidden"
    for _ in range(2):
        assert bo.post("lobby/delete-message", {"serial": serial, "reason": "rude"}).status_code == 200
    assert [each for each in logged("chat:lobby") if each[1] == "delete"] == [
        (None, "delete", {"of": serial, "by": "bo"})
    ]
    (message, _) = ana.get("lobby/page").json()["messages"]
    assert (message["text"], message["deleted"]) == ("", "bo")
    assert trail(room)[0] == ("bo", "deleted", f"#{serial}", "of cy: rude")
    assert refusal(ana.post("lobby/delete-message", {"serial": serial + 5})) == "not_found"
    for wrong in ({"serial": 0}, {"serial": "1"}, {}, {"serial": serial, "reason": 5}):
        assert refusal(ana.post("lobby/delete-message", wrong)) == "bad_frame"


def test_the_trail_is_for_moderators_and_comes_in_pages(ana: Person, bo: Person) -> None:
    room = make_room("lobby", moderator=ana, member=bo)
    AuditEntry.objects.bulk_create(AuditEntry(room=room, by="ana", action="topic", detail=str(n)) for n in range(120))
    assert refusal(bo.get("lobby/audit")) == "forbidden"
    first = ana.get("lobby/audit").json()
    assert first["more"] and len(first["entries"]) == 100 and first["entries"][0]["detail"] == "119"
    assert set(first["entries"][0]) == {"id", "time", "by", "action", "about", "detail"}
    rest = ana.get("lobby/audit", before=first["entries"][-1]["id"]).json()
    assert not rest["more"] and [each["detail"] for each in rest["entries"]] == [str(n) for n in range(19, -1, -1)]


# -- the inbox and the hook


def test_an_inbox_is_its_owners_and_the_servers(ana: Person, bo: Person) -> None:
    odd = Person("with+sign" * 14)
    assert inbox_of("ana") == "chat:@ana" and inbox_of(odd.client).startswith("chat:@=")
    assert odd.client == "with+sign" * 14 and inbox_of("with+sign") != inbox_of("with+signs")
    for person in (ana, odd):
        inbox = parse_channel(person.get("rooms").json()["inbox"])
        identity = Identity(ClientId(person.client), None, "token")
        allowed = {operation for operation in OPERATIONS if may(identity, inbox, operation, {})}
        assert allowed == {"subscribe", "history"}
        assert not may(Identity(ClientId("bo"), None, "token"), inbox, "subscribe", {})
    assert refusal(ana.publish("@ana", {"event": "room", "data": {}})) == "forbidden"


def test_only_members_hear_and_write_in_closed_rooms(ana: Person, bo: Person, cy: Person) -> None:
    make_room("loft", "private", owner=ana)
    direct = ana.post("direct", {"client": "bo"}).json()["slug"]
    for slug in ("loft", direct):
        channel = parse_channel(f"chat:{slug}")
        for person, expected in ((ana, True), (cy, False)):
            identity = Identity(ClientId(person.client), None, "token")
            for operation in OPERATIONS:
                assert may(identity, channel, operation, {}) is expected, operation
        assert refusal(cy.publish(slug, {"event": "message", "data": {"text": "x"}})) == "forbidden"


def test_typing_of_the_muted_is_not_passed_on(ana: Person, bo: Person) -> None:
    make_room("lobby", owner=ana, member=bo)
    ana.post("lobby/mute", {"client": "bo", "minutes": 5})
    channel = parse_channel("chat:lobby")
    assert not may(Identity(ClientId("bo"), None, "token"), channel, "signal", {})
    assert may(Identity(ClientId("bo"), None, "token"), channel, "subscribe", {})


# -- people, and the cost


def test_people_are_found_by_their_names(ana: Person, bo: Person) -> None:
    User.objects.create_user("gone", first_name="Anabel", is_active=False)
    assert ana.get("people", q="AN").json()["people"] == [{"client": "ana", "name": "Ana"}]
    assert len(ana.get("people").json()["people"]) == 2
    assert ana.get("people", q="\0%_").json()["people"] == []


def test_lists_need_few_queries_however_many_rooms_there_are(
    ana: Person, bo: Person, django_assert_max_num_queries: Any
) -> None:
    for number in range(15):
        make_room(f"r{number}", "private", owner=ana, member=bo)
        bo.says(f"r{number}", "hello @ana", mentions=["ana"])
    bo.post("direct", {"client": "ana"})
    listed = ana.get("rooms").json()["rooms"]
    assert [(each["unread"], each["mentions"]) for each in listed] == [(1, 1)] * 15 + [(0, 0)]
    with django_assert_max_num_queries(12):
        ana.get("rooms")
    with django_assert_max_num_queries(12):
        ana.get("r3/page")
    with django_assert_max_num_queries(10):
        ana.get("r3/members")
    with django_assert_max_num_queries(10):
        ana.get("search", q="hello")
