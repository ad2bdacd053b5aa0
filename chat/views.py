"""Pages of the chat, the token its client connects with, and the names of people."""

from __future__ import annotations

import time
from typing import Final, cast

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AbstractUser, User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import require_GET

from chat.authorization import OPERATIONS
from chat.index import seen
from chat.models import NAMESPACE, Quiet, Room
from chat.people import here_of, inbox_of, people, person, touch
from chat.rooms import muted_until, name_for, names_of_direct
from chat.uploads import SIZE_MOST_BYTES
from realtime.namespaces import rules_named
from realtime.tokens import issue_token

LOBBY: Final = "lobby"
TOKEN_TTL_S: Final = 15 * 60
#: Characters of one message; the namespace's limit in bytes has room for it in any script.
TEXT_MOST: Final = 4000
#: Names given with the page; others are asked for as they are met.
PEOPLE_MOST: Final = 200
ROOMS_MOST: Final = 100


@require_GET
@login_required
def index(request: HttpRequest) -> HttpResponse:
    """To the lobby, or to the first room there is."""
    rooms = list(Room.objects.visible_to(request.user)[:ROOMS_MOST])
    room = next((room for room in rooms if room.slug == LOBBY), rooms[0] if rooms else None)
    if room is None:
        return render(request, "chat/no_rooms.html")
    return redirect("chat:room", slug=room.slug)


@require_GET
@cache_control(private=True, no_cache=True)
@login_required
def room(request: HttpRequest, slug: str) -> HttpResponse:
    """One room. What is in it comes over the channel; a room one may not see does not exist."""
    user = cast("User", request.user)
    visible = list(Room.objects.visible_to(user)[:ROOMS_MOST])
    current = next((each for each in visible if each.slug == slug), None)
    if current is None:
        current = get_object_or_404(Room.objects.visible_to(user), slug=slug)
    others = names_of_direct([*visible, current], user)
    for each in (*visible, current):
        each.name = name_for(each, others.get(each.pk))
    memberships = list(current.memberships.select_related("user")[:PEOPLE_MOST])
    members = [person(each.user) for each in memberships]
    muted = muted_until(user, current)
    role = next((each.role for each in memberships if each.user_id == user.pk), None)
    known = {each["client"]: each["name"] for each in (*members, person(user))}
    quiet = set(Quiet.objects.filter(user=user).values_list("room_id", flat=True))
    context = {
        "groups": _groups(visible, quiet),
        "room": current,
        "role": role,
        "me": person(user),
        "page_data": {
            "client": person(user)["client"],
            "names": known,
            "inbox": inbox_of(person(user)["client"]),
            "here": here_of(user.pk),
            "seen": seen(current, person(user)["client"]),
            "room": {
                "slug": current.slug,
                "name": current.name,
                "topic": current.topic,
                "kind": current.kind,
                "channel": current.channel,
                "role": role,
                "quiet": current.pk in quiet,
                "muted_until": None if muted is None else int(muted.timestamp() * 1000),
            },
            "retentionDays": _retention_days(),
            "textMost": TEXT_MOST,
            "fileBytesMost": SIZE_MOST_BYTES,
        },
        "text_most": TEXT_MOST,
    }
    return render(request, "chat/room.html", context)


def _groups(rooms: list[Room], quiet: set[int]) -> list[tuple[str, str, list[Room]]]:
    """The list of rooms as it is drawn: of each part its name in the page, its title, and its rooms."""
    loud = [room for room in rooms if room.pk not in quiet]
    return [
        ("rooms", "Rooms", [room for room in loud if not room.is_direct]),
        ("direct", "Direct", [room for room in loud if room.is_direct]),
        ("quiet", "Quiet", [room for room in rooms if room.pk in quiet]),
    ]


@require_GET
@never_cache
def token(request: HttpRequest) -> JsonResponse:
    """A short-lived token for the chat's channels; 401 in JSON, not a redirect, for a script that is signed out.

    Every room of the namespace in one pattern, so that it stays small; the hook narrows it at each request.
    """
    if not request.user.is_authenticated:
        return JsonResponse({"error": {"code": "unauthorized", "message": "Nobody is logged in."}}, status=401)
    now_s = time.time()
    ends_s = now_s + request.session.get_expiry_age()
    user = cast("AbstractUser", request.user)
    client = person(user)["client"]
    touch(client)
    text, expires_s = issue_token(client, {f"{NAMESPACE}:*": list(OPERATIONS)}, TOKEN_TTL_S, now_s, not_after_s=ends_s)
    return JsonResponse({"token": text, "expires": expires_s})


@require_GET
@login_required
def names(request: HttpRequest) -> JsonResponse:
    """Names of the given client ids (`?id=ana&id=bo`), as far as they are users here."""
    found = people(request.GET.getlist("id")[:PEOPLE_MOST])
    return JsonResponse({"names": {each["client"]: each["name"] for each in found}})


def _retention_days() -> int | None:
    rules = rules_named(NAMESPACE)
    seconds = rules.retention_age_s if rules else None
    return None if seconds is None else seconds // 86_400
