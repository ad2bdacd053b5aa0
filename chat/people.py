"""Between users and client ids. The platform's rule is `realtime.tokens.client_id_of`; this is its way back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.db.models import Q

from realtime.tokens import client_id_of


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
    wanted = Q(pk__in=())
    for client in clients:
        wanted |= is_client(client)
    # A filter by primary key may also find somebody whose username is his client id: only exact ones are given.
    found = [person(user) for user in get_user_model().objects.filter(wanted)]
    asked = set(clients)
    return [each for each in found if each["client"] in asked]
