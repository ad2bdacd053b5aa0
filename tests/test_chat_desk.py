"""Rooms in the operator's desk: what is changed there goes the road of the chat's own page, or is not changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chat import rooms
from chat.models import AuditEntry, Membership, Mute, Room
from realtime import namespaces, publishing
from realtime.authorization import on_reauthorize
from realtime.protocol.errors import ProtocolError
from realtime.testing import relay_now
from tests.chatting import Person, logged, make_room

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


@pytest.fixture
def desk() -> Client:
    return Person("root", is_staff=True, is_superuser=True).browser


@pytest.fixture
def told() -> Iterator[list[str | None]]:
    """Channels of which this process heard that rights changed."""
    channels: list[str | None] = []
    stop = on_reauthorize(lambda channel, client: channels.append(channel))
    yield channels
    stop()


def rows(prefix: str, known: list[Any], new: list[dict[str, Any]], **changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of an inline; `changes` are by user name."""
    fields: dict[str, Any] = {f"{prefix}-TOTAL_FORMS": len(known) + len(new), f"{prefix}-INITIAL_FORMS": len(known)}
    for number, row in enumerate(known):
        own = {"id": row.pk, "user": row.user_id, **changes.get(row.user.username, {})}
        if isinstance(row, Membership):
            own.setdefault("role", row.role)
        elif "until" in own or not isinstance(row, Membership):
            until = timezone.localtime(own.pop("until", row.until))
            own |= {"until_0": f"{until:%Y-%m-%d}", "until_1": f"{until:%H:%M:%S}"}
        fields |= {f"{prefix}-{number}-{name}": value for name, value in own.items()}
    for number, row in enumerate(new, start=len(known)):
        fields |= {f"{prefix}-{number}-{name}": value for name, value in row.items()}
    return fields


def save(
    desk: Client,
    room: Room,
    members: dict[str, dict[str, Any]] | None = None,
    mutes: dict[str, dict[str, Any]] | None = None,
    new_members: list[dict[str, Any]] | None = None,
    new_mutes: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> Any:
    """The form of a room as a browser would send it; what it published is in the log afterwards."""
    room.refresh_from_db()
    given = {"name": room.name, "topic": room.topic, "kind": room.kind, **fields}
    given |= rows("memberships", list(room.memberships.all()), new_members or [], **members or {})
    given |= rows("mutes", list(room.mutes.all()), new_mutes or [], **mutes or {})
    response = desk.post(reverse("admin:chat_room_change", args=[room.pk]), given)
    relay_now()
    return response


def muted(person: Person, minutes: float) -> dict[str, Any]:
    until = timezone.localtime(timezone.now() + timedelta(minutes=minutes))
    return {"user": person.user.pk, "until_0": f"{until:%Y-%m-%d}", "until_1": f"{until:%H:%M:%S}"}


def trail(room: Room) -> list[tuple[str, str, str]]:
    return [(each.by, each.action, each.about) for each in AuditEntry.objects.filter(room=room)][::-1]


def events(channel: str) -> list[tuple[str, Any]]:
    found = logged(channel)
    assert all(client is None for client, _, _ in found)
    return [(event, data) for _, event, data in found]


def test_members_come_change_and_go_as_from_the_page(
    desk: Client,
    ana: Person,
    bo: Person,
    cy: Person,
    told: list[str | None],
    django_capture_on_commit_callbacks: Any,
) -> None:
    room = make_room("loft", "private", owner=ana, member=bo)
    with django_capture_on_commit_callbacks(execute=True):
        new = [{"user": cy.user.pk, "role": "moderator"}]
        assert save(desk, room, {"bo": {"DELETE": "on"}}, new_members=new).status_code == 302
    assert dict(room.memberships.values_list("user__username", "role")) == {"ana": "owner", "cy": "moderator"}
    assert events("chat:loft") == [
        ("member", {"action": "removed", "client": "bo", "by": "root"}),
        ("member", {"action": "invited", "client": "cy", "by": "root"}),
        ("member", {"action": "role", "client": "cy", "by": "root", "role": "moderator"}),
    ]
    assert events("chat:@bo") == [("room", {"action": "removed", "room": "loft"})]
    assert events("chat:@cy") == [("room", {"action": "invited", "room": "loft"})]
    assert trail(room) == [("root", "removed", "bo"), ("root", "invited", "cy"), ("root", "role", "cy")]
    assert "chat:loft" in told

    assert save(desk, room, {"cy": {"role": "owner"}}).status_code == 302
    assert events("chat:loft")[3:] == [("member", {"action": "role", "client": "cy", "by": "root", "role": "owner"})]
    # What is as it was is told to nobody.
    assert save(desk, room).status_code == 302
    assert len(events("chat:loft")) == len(trail(room)) == 4


def test_mutes_begin_are_moved_and_end_as_from_the_page(
    desk: Client, ana: Person, bo: Person, told: list[str | None], django_capture_on_commit_callbacks: Any
) -> None:
    room = make_room("lobby", owner=ana, member=bo)
    assert save(desk, room, new_mutes=[muted(bo, 5)]).status_code == 302
    assert save(desk, room, mutes={"bo": {"until": timezone.now() + timedelta(minutes=60)}}).status_code == 302
    until = int(Mute.objects.get().until.timestamp() * 1000)
    assert bo.publish("lobby", {"event": "message", "data": {"text": "x"}}).status_code == 403
    with django_capture_on_commit_callbacks(execute=True):
        assert save(desk, room, mutes={"bo": {"DELETE": "on"}}).status_code == 302
    assert bo.publish("lobby", {"event": "message", "data": {"text": "x"}}).status_code == 201
    said = [data for event, data in [each[1:] for each in logged("chat:lobby")] if event == "member"]
    assert [each["action"] for each in said] == ["muted", "muted", "unmuted"]
    assert (said[1]["client"], said[1]["by"], said[1]["until"]) == ("bo", "root", until)
    assert trail(room) == [("root", action, "bo") for action in ("muted", "muted", "unmuted")]
    assert told == ["chat:lobby"] * 2  # for the mute, and since the form saves the room, too


def test_all_of_a_form_or_nothing(desk: Client, ana: Person, bo: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word to the room fails: the rows are as they were, and nothing is written or told."""
    room = make_room("lobby", owner=ana)

    def refuse(*_: Any, **__: Any) -> None:
        raise ProtocolError("unavailable", "Not now.")

    with monkeypatch.context() as patch, pytest.raises(ProtocolError):
        patch.setattr(rooms, "_tell", refuse)
        save(desk, room, new_members=[{"user": bo.user.pk, "role": "member"}], topic="new")
    room.refresh_from_db()
    assert (room.topic, room.memberships.count(), trail(room)) == ("", 1, [])
    relay_now()
    assert logged("chat:lobby") == []


def test_a_room_is_made_named_closed_and_its_members_hear_of_it(desk: Client, ana: Person, bo: Person) -> None:
    given = {"slug": "quay", "name": "Quay", "topic": "", "kind": "private"}
    given |= rows("memberships", [], [{"user": ana.user.pk, "role": "owner"}, {"user": bo.user.pk, "role": "member"}])
    given |= rows("mutes", [], [])
    assert desk.post(reverse("admin:chat_room_add"), given).status_code == 302
    room = Room.objects.get(slug="quay")
    assert trail(room) == [
        ("root", "created", ""),
        ("root", "invited", "ana"),
        ("root", "role", "ana"),
        ("root", "invited", "bo"),
    ]
    assert save(desk, room, name="The quay", topic="Ferries", kind="public").status_code == 302
    assert events("chat:quay")[-1] == (
        "room",
        {"name": "The quay", "topic": "Ferries", "kind": "public", "by": "root"},
    )
    assert desk.post(reverse("admin:chat_room_delete", args=[room.pk]), {"post": "yes"}).status_code == 302
    relay_now()
    assert [data["action"] for _, data in events("chat:@bo")] == ["invited", "renamed", "removed"]
    # And by the list of rooms.
    other = make_room("pier", owner=ana)
    picked = {"action": "delete_selected", "_selected_action": [other.pk], "post": "yes"}
    assert desk.post(reverse("admin:chat_room_changelist"), picked).status_code == 302
    relay_now()
    assert (Room.objects.count(), events("chat:@ana")[-1]) == (0, ("room", {"action": "removed", "room": "pier"}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"members": {"ana": {"role": "member"}}}, "A room needs an owner."),
        ({"members": {"ana": {"DELETE": "on"}}}, "A room needs an owner."),
        ({"members": {"ana": {"user": "cy"}}}, "Delete this row"),
        ({"new_mutes": [-1]}, "A time from now on"),
        ({"new_mutes": [31 * 24 * 60]}, "A time from now on"),
    ],
)
def test_what_the_page_would_refuse_is_refused(
    desk: Client, ana: Person, bo: Person, cy: Person, change: dict[str, Any], why: str
) -> None:
    room = make_room("lobby", owner=ana, member=bo)
    for row in change.get("members", {}).values():
        if "user" in row:
            row["user"] = cy.user.pk
    if "new_mutes" in change:
        change = {"new_mutes": [muted(bo, minutes) for minutes in change["new_mutes"]]}
    response = save(desk, room, **change)
    assert response.status_code == 200 and why in response.content.decode()
    assert dict(room.memberships.values_list("user__username", "role")) == {"ana": "owner", "bo": "member"}
    assert (Mute.objects.count(), trail(room), logged("chat:lobby")) == (0, [], [])


def test_the_addresses_of_the_chat_itself_are_no_rooms(desk: Client) -> None:
    given = {"slug": "search", "name": "Search", "kind": "public"} | rows("memberships", [], []) | rows("mutes", [], [])
    response = desk.post(reverse("admin:chat_room_add"), given)
    assert response.status_code == 200 and "The chat itself" in response.content.decode()


def test_nothing_is_managed_in_a_direct_room(desk: Client, ana: Person, bo: Person) -> None:
    slug = ana.post("direct", {"client": "bo"}).json()["slug"]
    room = Room.objects.get(slug=slug)
    assert "memberships-TOTAL_FORMS" not in desk.get(reverse("admin:chat_room_change", args=[room.pk])).content.decode()
    save(desk, room, {"bo": {"DELETE": "on"}})
    assert room.memberships.count() == 2
