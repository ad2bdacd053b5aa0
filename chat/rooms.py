"""What people do to rooms and to each other in them: create, invite, leave, mute, remove, delete.

Each function checks the rights of who acts, changes the rows, writes the audit trail and tells the room and the people
concerned, all in one transaction: the events go into the log if and only if the rows are changed. Refusals are
`Refused`; what one may not see does not exist (`not_found`).
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.utils import timezone

from chat import fold
from chat.models import AuditEntry, Membership, Mute, Quiet, Room
from chat.people import display_name, inbox_of, pair_of, user_of
from realtime.log.reads import read_messages, read_states
from realtime.publishing import publish
from realtime.tokens import client_id_of

if TYPE_CHECKING:
    from realtime.protocol.names import ChannelName

NAME_CHARS: Final = 80
TOPIC_CHARS: Final = 200
REASON_CHARS: Final = 300
INVITED_AT_ONCE: Final = 50
ROOMS_OWNED_MOST: Final = 100
"""Of one person: rooms are rows and channels for ever."""
DIRECT_MOST: Final = 500
MUTE_MINUTES_MOST: Final = 30 * 24 * 60
MEMBERS_MOST: Final = 500
"""Of one private room: its members are listed and told one by one."""

_RANKS: Final = {None: 0, "member": 1, "moderator": 2, "owner": 3}
_STATUS: Final = {"bad_frame": 400, "forbidden": 403, "not_found": 404, "conflict": 409}


class Refused(Exception):
    """Why something was not done, for whoever asked for it."""

    def __init__(self, code: str, message: str, remedy: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy
        self.status = status or _STATUS[code]


# ---------------------------------------------------------------- finding


def room_for(user: User, slug: str) -> Room:
    """A room that the user may see."""
    room = Room.objects.visible_to(user).filter(slug=slug).first()
    if room is None:
        raise Refused("not_found", f"There is no room {slug!r}.", "Ask for an invitation, or look for another room.")
    return room


def role_of(user: User, room: Room) -> str | None:
    return Membership.objects.filter(room=room, user=user).values_list("role", flat=True).first()


def muted_until(user: User, room: Room) -> datetime | None:
    return Mute.objects.filter(room=room, user=user, until__gt=timezone.now()).values_list("until", flat=True).first()


def person_called(client: object) -> User:
    """The user whom a request names."""
    user = user_of(client) if isinstance(client, str) else None
    if user is None or not user.is_active:
        raise Refused("not_found", "There is no such person.", "Look for people by GET /chat/people.")
    return user


# ---------------------------------------------------------------- making rooms


@transaction.atomic
def create(user: User, name: object, topic: object, kind: object, members: object) -> Room:
    """A new room, with its maker as the owner; `members` are invited."""
    called, about = _name(name), _topic(topic)
    if kind not in (Room.Kind.PUBLIC, Room.Kind.PRIVATE):
        raise Refused("bad_frame", "A room is public or private.", "Send `kind`. Direct rooms: POST /chat/direct.")
    invited = _people(members)
    if Membership.objects.filter(user=user, role=Membership.Role.OWNER).count() >= ROOMS_OWNED_MOST:
        raise Refused("conflict", f"You own {ROOMS_OWNED_MOST} rooms already.", "Hand one over first.")
    room = _with_free_slug(called, about, str(kind))
    Membership.objects.create(room=room, user=user, role=Membership.Role.OWNER)
    _note(room, user, "created")
    _tell(user, "created", room)
    for person in invited:
        if person.pk != user.pk:
            _add(room, person, user)
    return room


@transaction.atomic
def direct(user: User, client: object) -> tuple[Room, bool]:
    """The room of two people, and whether it is new. The same one whoever asks."""
    other = person_called(client)
    if other.pk == user.pk:
        raise Refused("bad_frame", "A direct room is for two people.", "Name somebody else.")
    pair = pair_of(user.pk, other.pk)
    known = Room.objects.filter(pair=pair).first()
    if known is not None:
        return known, False
    if Room.objects.filter(kind=Room.Kind.DIRECT, memberships__user=user).count() >= DIRECT_MOST:
        raise Refused(
            "conflict", f"You have {DIRECT_MOST} direct rooms already.", "Use one of them, or a private room."
        )
    try:
        with transaction.atomic():
            room = Room.objects.create(
                slug=f"dm-{secrets.token_hex(10)}", name="Direct", kind=Room.Kind.DIRECT, pair=pair
            )
    except IntegrityError:  # both asked at the same moment
        return Room.objects.get(pair=pair), False
    for person in (user, other):
        Membership.objects.create(room=room, user=person)
    _tell(other, "added", room)
    _tell(user, "created", room)
    return room, True


def _with_free_slug(name: str, topic: str, kind: str) -> Room:
    stem = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:40] or "room"
    # Addresses of the chat itself stand beside those of the rooms.
    slug = stem if stem not in RESERVED and kind == Room.Kind.PUBLIC else f"{stem}-{secrets.token_hex(3)}"
    for _ in range(5):
        try:
            with transaction.atomic():
                return Room.objects.create(slug=slug, name=name, topic=topic, kind=kind)
        except IntegrityError:
            slug = f"{stem}-{secrets.token_hex(3)}"
    raise Refused("conflict", "No address was free for this name.", "Choose another name.")


RESERVED: Final = frozenset({"rooms", "direct", "search", "seen", "people", "files", "token", "names"})


@transaction.atomic
def change(user: User, room: Room, changes: dict[str, Any]) -> Room:
    """Another name or topic."""
    _require(user, room, "moderator")
    told: dict[str, Any] = {}
    if "name" in changes:
        told["name"] = room.name = _name(changes["name"])
    if "topic" in changes:
        told["topic"] = room.topic = _topic(changes["topic"])
    if not told:
        raise Refused("bad_frame", "Nothing is to be changed.", "Send `name` or `topic`.")
    room.save(update_fields=list(told))
    _tell_of_change(room, user, told)
    return room


# ---------------------------------------------------------------- members


@transaction.atomic
def join(user: User, room: Room) -> None:
    """Into a public room; who is a member already stays one."""
    _, new = Membership.objects.get_or_create(room=room, user=user)
    if new:
        _publish(room, "member", {"action": "joined", "client": client_id_of(user)})
        _tell(user, "added", room)


@transaction.atomic
def leave(user: User, room: Room) -> None:
    """Out of a room. The last owner hands it over first, unless he is the last member."""
    _refuse_direct(room)
    _lock(room)
    role = role_of(user, room)
    if role is None:
        return
    others = room.memberships.exclude(user=user)
    if role == "owner" and others.exists() and not others.filter(role="owner").exists():
        raise Refused("conflict", "The last owner cannot leave.", "Make somebody else an owner first.")
    _take_out(room, user)
    _publish(room, "member", {"action": "left", "client": client_id_of(user)})
    _tell(user, "removed", room)


@receiver(pre_delete, sender=settings.AUTH_USER_MODEL)
def _leave_all(instance: User, **_: object) -> None:
    """An account that is deleted takes its memberships with it, in Django's transaction; its rooms hear of that.

    A room may lose its last owner so: an operator gives it another.
    """
    for membership in instance.memberships.exclude(room__kind=Room.Kind.DIRECT).select_related("room"):
        _publish(membership.room, "member", {"action": "left", "client": client_id_of(instance)})


@transaction.atomic
def invite(user: User, room: Room, client: object) -> None:
    """Somebody becomes a member: of a public room by any member, of a private one by its moderators."""
    _refuse_direct(room)
    _require(user, room, "moderator" if room.is_private else "member")
    person = person_called(client)
    if room.memberships.count() >= MEMBERS_MOST:
        raise Refused("conflict", f"The room has {MEMBERS_MOST} members already.", "Make another room.")
    _add(room, person, user)


@transaction.atomic
def remove(user: User, room: Room, client: object) -> None:
    """Takes a member out: owners anybody but themselves, moderators those who are below them."""
    _refuse_direct(room)
    _lock(room)
    person = person_called(client)
    _require_above(user, room, person)
    if role_of(person, room) is None:
        raise Refused("not_found", "This person is not a member of the room.", "Look at its members.")
    _expel(room, person, user)


@transaction.atomic
def set_role(user: User, room: Room, client: object, role: object) -> None:
    """Owners give roles, also their own away; one owner always stays."""
    _refuse_direct(room)
    if role not in Membership.Role.values:
        raise Refused("bad_frame", "There is no such role.", "Send member, moderator or owner.")
    _lock(room)
    _require(user, room, "owner")
    person = person_called(client)
    membership = Membership.objects.filter(room=room, user=person).first()
    if membership is None:
        raise Refused("not_found", "This person is not a member of the room.", "Invite them first.")
    if membership.role == role:
        return
    if membership.role == "owner" and room.memberships.filter(role="owner").count() == 1:
        raise Refused("conflict", "A room needs an owner.", "Make somebody else an owner first.")
    _give_role(membership, str(role), user)


@transaction.atomic
def set_quiet(user: User, room: Room, on: object) -> None:
    """Whether somebody hears of the room only where he is mentioned. His other pages are told, and nobody else."""
    if not isinstance(on, bool):
        raise Refused("bad_frame", "`on` is neither true nor false.", "Send one of them.")
    if on:
        _, changed = Quiet.objects.get_or_create(room=room, user=user)
    else:
        changed = Quiet.objects.filter(room=room, user=user).delete()[0] > 0
    if changed:
        _tell(user, "quiet", room)


# ---------------------------------------------------------------- moderation


@transaction.atomic
def mute(user: User, room: Room, client: object, minutes: object) -> int:
    """Somebody may not write until a time, which is returned in Unix milliseconds."""
    _refuse_direct(room)
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MUTE_MINUTES_MOST:
        raise Refused("bad_frame", "`minutes` is out of bounds.", f"Send 1 to {MUTE_MINUTES_MOST}.")
    person = person_called(client)
    _require_above(user, room, person)
    return _silence(room, person, timezone.now() + timedelta(minutes=minutes), f"{minutes} minutes", user)


@transaction.atomic
def unmute(user: User, room: Room, client: object) -> None:
    """Somebody may write again."""
    _refuse_direct(room)
    person = person_called(client)
    _require_above(user, room, person)
    muted = Mute.objects.filter(room=room, user=person).first()
    if muted is not None:
        _unmute(muted, user)


@transaction.atomic
def delete_message(user: User, room: Room, serial: object, reason: object) -> None:
    """Takes another's message away, by an event that the server publishes; the audit trail keeps who and why."""
    _refuse_direct(room)
    _require(user, room, "moderator")
    number = fold.whole(serial)
    if number is None or number < 1:
        raise Refused("bad_frame", "`serial` is no serial.", "Send the serial of a message.")
    if not isinstance(reason, str) or len(reason) > REASON_CHARS:
        raise Refused("bad_frame", "`reason` is no short text.", f"Send at most {REASON_CHARS} characters.")
    author = _author(room, number)
    if author is None:
        raise Refused("not_found", "There is no such message.", "It may be older than what the room keeps.")
    person = user_of(author)
    if person is not None and person.pk != user.pk:
        _require_above(user, room, person, or_equal=True)
    by = client_id_of(user)
    _note(room, user, "deleted", f"#{number}", f"of {author}" + (f": {reason}" if reason else ""))
    # The id makes a second click the same deletion.
    _publish(room, "delete", {"of": number, "by": by}, id=f"delete-{number}")


def _author(room: Room, serial: int) -> str | None:
    """Who wrote the message with this serial, if it is one and is retained."""
    channel = cast("ChannelName", room.channel)
    state = read_states([channel])[channel]
    if state.channel_id is None or not state.oldest <= serial <= state.head:
        return None
    rows = read_messages(state.channel_id, serial - 1, serial, max_messages=1, max_bytes=1)
    envelope = json.loads(rows[0][1]) if rows else {}
    return cast("str | None", envelope.get("client")) if envelope.get("event") == "message" else None


# ---------------------------------------------------------------- the operator's desk


class Desk:
    """What an operator does to a room: asked by no role, and otherwise the same steps, in the caller's transaction."""

    def __init__(self, by: User, room: Room) -> None:
        self._by, self._room = by, room

    def lock(self) -> None:
        """Before the members are judged."""
        _lock(self._room)

    def created(self) -> None:
        _note(self._room, self._by, "created")

    def changed(self, fields: Iterable[str]) -> None:
        """Name, topic or kind are saved already."""
        told = {field: getattr(self._room, field) for field in ("name", "topic", "kind") if field in fields}
        if told:
            _tell_of_change(self._room, self._by, told)

    def admit(self, person: User, role: str) -> None:
        _add(self._room, person, self._by)
        membership = Membership.objects.get(room=self._room, user=person)
        if membership.role != role:
            _give_role(membership, role, self._by)

    def give_role(self, membership: Membership, role: str) -> None:
        _give_role(membership, role, self._by)

    def expel(self, person: User) -> None:
        _expel(self._room, person, self._by)

    def mute(self, person: User, until: datetime) -> None:
        _silence(self._room, person, until, f"until {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC", self._by)

    def unmute(self, muted: Mute) -> None:
        _unmute(muted, self._by)

    def close(self) -> None:
        """The room goes, with all that is kept about it."""
        members = list(self._room.members.all()[:MEMBERS_MOST])
        self._room.delete()
        for member in members:
            _tell(member, "removed", self._room)


# ---------------------------------------------------------------- the steps


def _require(user: User, room: Room, role: str) -> None:
    if _RANKS[role_of(user, room)] < _RANKS[role]:
        raise Refused("forbidden", f"Only a room's {role}s may do this.", "Ask one of them.")


def _require_above(user: User, room: Room, person: User, *, or_equal: bool = False) -> None:
    """Moderators act on those below them, owners on everybody else."""
    _require(user, room, "moderator")
    if person.pk == user.pk:
        raise Refused("bad_frame", "Nobody does this to themselves.", "Leave the room instead.")
    mine, theirs = role_of(user, room), role_of(person, room)
    if mine != "owner" and (_RANKS[theirs] > _RANKS[mine] if or_equal else _RANKS[theirs] >= _RANKS[mine]):
        raise Refused("forbidden", "This person's role is not below yours.", "Ask an owner of the room.")


def _refuse_direct(room: Room) -> None:
    if room.is_direct:
        raise Refused("forbidden", "A direct room belongs to its two people.", "Make a private room for more.")


def _lock(room: Room) -> None:
    """Two changes of the members of one room go one after the other."""
    Room.objects.select_for_update().get(pk=room.pk)


def _add(room: Room, person: User, by: User) -> None:
    _, new = Membership.objects.get_or_create(room=room, user=person)
    if new:
        about = client_id_of(person)
        _note(room, by, "invited", about)
        _publish(room, "member", {"action": "invited", "client": about, "by": client_id_of(by)})
        _tell(person, "invited", room)


def _expel(room: Room, person: User, by: User) -> None:
    _take_out(room, person)
    about = client_id_of(person)
    _note(room, by, "removed", about)
    _publish(room, "member", {"action": "removed", "client": about, "by": client_id_of(by)})
    _tell(person, "removed", room)


def _give_role(membership: Membership, role: str, by: User) -> None:
    room, about = membership.room, client_id_of(membership.user)
    membership.role = role
    membership.save(update_fields=["role"])
    _note(room, by, "role", about, role)
    _publish(room, "member", {"action": "role", "client": about, "by": client_id_of(by), "role": role})


def _silence(room: Room, person: User, until: datetime, words: str, by: User) -> int:
    Mute.objects.update_or_create(room=room, user=person, defaults={"until": until})
    until_ms, about = int(until.timestamp() * 1000), client_id_of(person)
    _note(room, by, "muted", about, words)
    _publish(room, "member", {"action": "muted", "client": about, "by": client_id_of(by), "until": until_ms})
    return until_ms


def _unmute(muted: Mute, by: User) -> None:
    # By the instance, whose signal tells the platform.
    muted.delete()
    about = client_id_of(muted.user)
    _note(muted.room, by, "unmuted", about)
    _publish(muted.room, "member", {"action": "unmuted", "client": about, "by": client_id_of(by)})


def _tell_of_change(room: Room, by: User, told: dict[str, Any]) -> None:
    for field, value in told.items():
        _note(room, by, "renamed" if field == "name" else field, detail=value)
    _publish(room, "room", {**told, "by": client_id_of(by)})
    if "kind" in told or ("name" in told and room.is_private):
        for member in room.members.all()[:MEMBERS_MOST]:
            _tell(member, "renamed", room)


def _take_out(room: Room, person: User) -> None:
    for membership in Membership.objects.filter(room=room, user=person).select_related("room"):
        membership.delete()


def _note(room: Room, by: User, action: str, about: str = "", detail: str = "") -> None:
    AuditEntry.objects.create(room=room, by=client_id_of(by), action=action, about=about, detail=detail)


def _publish(room: Room, event: str, data: dict[str, Any], id: str | None = None) -> None:
    publish(room.channel, data, event=event, id=id)


def _tell(person: User, action: str, room: Room) -> None:
    """To a person's inbox, so that the list of rooms follows."""
    publish(inbox_of(client_id_of(person)), {"action": action, "room": room.slug}, event="room")


def _name(value: object) -> str:
    name = " ".join(value.split()) if isinstance(value, str) else ""
    if not 1 <= len(name) <= NAME_CHARS or not name.isprintable():
        raise Refused("bad_frame", "`name` is no name.", f"Send 1 to {NAME_CHARS} characters.")
    return name


def _topic(value: object) -> str:
    topic = " ".join(value.split()) if isinstance(value, str) else None
    if topic is None or len(topic) > TOPIC_CHARS or not (topic.isprintable()):
        raise Refused("bad_frame", "`topic` is no topic.", f"Send at most {TOPIC_CHARS} characters.")
    return topic


def _people(value: object) -> Sequence[User]:
    if not isinstance(value, list) or len(value) > INVITED_AT_ONCE:
        raise Refused("bad_frame", "`members` is no list of people.", f"Send at most {INVITED_AT_ONCE} client ids.")
    found = {person.pk: person for person in map(person_called, value)}
    return list(found.values())


def names_of_direct(rooms: Iterable[Room], user: User) -> dict[int, User]:
    """Of each direct room among these: who the other one is. One query."""
    direct = [room.pk for room in rooms if room.is_direct]
    if not direct:
        return {}
    others = Membership.objects.filter(room__in=direct).exclude(user=user).select_related("user")
    return {each.room_id: each.user for each in others}


def name_for(room: Room, other: User | None) -> str:
    """What a room is called: a direct one after the other person."""
    return display_name(other) if other is not None else room.name
