"""Between users and client ids. The platform's rule is `realtime.tokens.client_id_of`; this is its way back."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from typing import Final, TypedDict, cast

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser, User
from django.db.models import Q

from chat.models import NAMESPACE, LastSeen, Room
from realtime.tokens import client_id_of

TOUCH_EVERY_MS: Final = 60_000
"""Who asks more often is not written down more often."""

_IN_CHANNEL = re.compile(r"[A-Za-z0-9_.-]+")


class Person(TypedDict):
    client: str
    name: str


def display_name(user: AbstractUser) -> str:
    return user.get_full_name() or user.get_username()


def person(user: AbstractUser) -> Person:
    return {"client": client_id_of(user), "name": display_name(user)}


def is_client(client: str) -> Q:
    """The filter on a user's row that finds who has this client id."""
    if client.startswith("~"):
        key = client[1:]
        return Q(pk=key) if key.isascii() and key.isdigit() and len(key) < 19 else Q(pk__in=())
    return Q(username=client)


def people(clients: Iterable[str]) -> list[Person]:
    """Those of `clients` who are users, by one query."""
    asked = set(clients)
    return [each for each in map(person, users(asked)) if each["client"] in asked]


def users(clients: Iterable[str]) -> list[User]:
    """The users behind client ids, by one query."""
    wanted = Q(pk__in=())
    asked = set(clients)
    for client in asked:
        wanted |= is_client(client)
    # A filter by primary key may also find somebody whose username is his client id: only exact ones are given.
    found = cast("Iterable[User]", get_user_model().objects.filter(wanted))
    return [user for user in found if client_id_of(user) in asked]


def user_of(client: str) -> User | None:
    """The user with this client id, if there is one."""
    return next(iter(users([client])), None)


def inbox_of(client: str) -> str:
    """The channel that tells somebody what changes for him. Client ids may have characters that names may not have."""
    name = client if _IN_CHANNEL.fullmatch(client) else "=" + hashlib.sha256(client.encode()).hexdigest()
    return f"{NAMESPACE}:@{name}"


def here_of(user_pk: object) -> str:
    """The channel in which somebody is present while he has the chat open, whatever the room."""
    return f"{NAMESPACE}:={user_pk}"


def may_know_of(user_pk: int, other_pk: str) -> bool:
    """Whether somebody may know that the other one has the chat open: himself, and those he talks with."""
    if str(user_pk) == other_pk:
        return True
    if not (other_pk.isascii() and other_pk.isdigit() and len(other_pk) < 19):
        return False
    return Room.objects.filter(pair=pair_of(user_pk, int(other_pk))).exists()


def pair_of(one_pk: int, other_pk: int) -> str:
    """What tells the direct room of two users from all others."""
    return ":".join(map(str, sorted([one_pk, other_pk])))


def touch(client: str) -> None:
    """Somebody is here now."""
    now_ms = int(time.time() * 1000)
    if not LastSeen.objects.filter(client=client, time__gt=now_ms - TOUCH_EVERY_MS).exists():
        LastSeen.objects.update_or_create(client=client, defaults={"time": now_ms})
