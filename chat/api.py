"""The chat over HTTP: JSON for a logged-in browser. What happens is in chat/rooms.py, what was said in chat/index.py.

Every answer that is no success has one shape: {"error": {code, message, remedy}}. Changes need Django's CSRF header.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, cast

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.exceptions import SuspiciousOperation
from django.core.files.base import ContentFile
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.multipartparser import MultiPartParserError
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import content_disposition_header
from django.views.decorators.csrf import csrf_exempt

from chat import index, rooms, uploads
from chat.authorization import file_of
from chat.models import AuditEntry, IndexedMessage, LastSeen, Membership, Mute, Quiet, Room, Upload
from chat.people import display_name, here_of, inbox_of, person, touch
from chat.rooms import Refused
from realtime.protocol.errors import ERRORS, ProtocolError
from realtime.tokens import client_id_of

logger = logging.getLogger(__name__)

P = ParamSpec("P")

BODY_MOST_BYTES: Final = 64 * 1024
ROOMS_MOST: Final = 300
"""Rooms in one list."""
PEOPLE_MOST: Final = 20
RESULTS_MOST: Final = 50
PAGE_DEFAULT: Final = 50
AUDIT_MOST: Final = 100
QUERY_CHARS: Final = 100
WORDS_MOST: Final = 8
EXCERPT_CHARS: Final = 300
MULTIPART_BYTES: Final = 64 * 1024
"""What a form may have beside the file."""


class _Csrf(CsrfViewMiddleware):
    """Django's check, which gives its reason instead of a page."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        return cast("HttpResponse", reason)


def endpoint(
    *methods: str,
) -> Callable[
    [Callable[Concatenate[HttpRequest, User, P], HttpResponseBase | dict[str, Any]]],
    Callable[Concatenate[HttpRequest, P], HttpResponseBase],
]:
    """A view for a logged-in person that gives an object or a response, or raises what becomes the error."""

    def decorate(
        view: Callable[Concatenate[HttpRequest, User, P], HttpResponseBase | dict[str, Any]],
    ) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
        @wraps(view)
        def wrapped(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            try:
                answer = view(request, _user(request, methods), *args, **kwargs)
            except (MultiPartParserError, SuspiciousOperation):
                answer = _error(
                    400, "bad_frame", "The form cannot be read.", "Send multipart/form-data as it is defined."
                )
            except Refused as refused:
                answer = _error(refused.status, refused.code, refused.message, refused.remedy)
            except ProtocolError as error:
                answer = _error(ERRORS[error.code].http_status, error.code, error.message, error.remedy)
            if isinstance(answer, dict):
                answer = JsonResponse(answer)
            if not answer.has_header("Cache-Control"):
                add_never_cache_headers(answer)
            return answer

        # Exempt from the middleware, whose refusal is a page; `_user` asks.
        return cast("Callable[Concatenate[HttpRequest, P], HttpResponseBase]", csrf_exempt(wrapped))

    return decorate


def _user(request: HttpRequest, methods: tuple[str, ...]) -> User:
    if request.method not in methods:
        raise Refused("bad_frame", f"{request.method} means nothing here.", f"Use {' or '.join(methods)}.", 405)
    if not request.user.is_authenticated:
        raise Refused("unauthorized", "Nobody is logged in.", "Log in again.", 401)
    if request.method != "GET":
        # Before the check, which reads a form to look for the token in it.
        if int(request.META.get("CONTENT_LENGTH") or 0) > uploads.SIZE_MOST_BYTES + MULTIPART_BYTES:
            raise _too_large(uploads.SIZE_MOST_BYTES)
        check = _Csrf(lambda _: HttpResponse())
        check.process_request(request)
        # The attribute says that the view is exempt, which is for the middleware.
        if check.process_view(request, lambda _: HttpResponse(), (), {}) is not None:
            raise Refused("forbidden", "The CSRF token is missing or wrong.", "Send the cookie's value as X-CSRFToken.")
    return request.user


def _too_large(most: int) -> Refused:
    return Refused("too_large", "The request is too large.", f"Send at most {most} bytes.", 413)


def _error(status: int, code: str, message: str, remedy: str) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message, "remedy": remedy}}, status=status)


def _body(request: HttpRequest) -> dict[str, Any]:
    if int(request.META.get("CONTENT_LENGTH") or 0) > BODY_MOST_BYTES:
        raise _too_large(BODY_MOST_BYTES)
    if request.content_type != "application/json":
        raise Refused("bad_frame", "The body is not JSON.", "Send Content-Type: application/json.")
    try:
        body = json.loads(request.body or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused("bad_frame", "The body is no JSON object.", "Send one.")
    return body


def _integer(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refused("bad_frame", f"`{name}` is no whole number.", "Correct it, or leave it out.")
    return int(text)


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)


# ---------------------------------------------------------------- rooms


@endpoint("GET", "POST")
def room_list(request: HttpRequest, user: User) -> HttpResponseBase | dict[str, Any]:
    """All rooms that one may see, with what is new in each; POST makes one."""
    if request.method == "POST":
        body = _body(request)
        room = rooms.create(user, body.get("name"), body.get("topic", ""), body.get("kind"), body.get("members", []))
        return JsonResponse(described(user, [room])[0], status=201)
    touch(client_id_of(user))
    found = list(Room.objects.visible_to(user)[:ROOMS_MOST])
    return {"rooms": described(user, found), "inbox": inbox_of(client_id_of(user))}


def described(user: User, found: list[Room]) -> list[dict[str, Any]]:
    """Rooms as a page lists them. The number of queries does not depend on how many there are."""
    client = client_id_of(user)
    indexes = index.catch_up(found)
    counts = index.unread(found, client)
    others = rooms.names_of_direct(found, user)
    roles = dict(Membership.objects.filter(room__in=found, user=user).values_list("room_id", "role"))
    mutes = dict(
        Mute.objects.filter(room__in=found, user=user, until__gt=timezone.now()).values_list("room_id", "until")
    )
    quiet = set(Quiet.objects.filter(room__in=found, user=user).values_list("room_id", flat=True))
    listed = []
    for room in found:
        unread, mentions = counts[room.pk]
        entry = {
            "slug": room.slug,
            "name": rooms.name_for(room, others.get(room.pk)),
            "topic": room.topic,
            "kind": room.kind,
            "channel": room.channel,
            "role": roles.get(room.pk),
            "muted_until": _ms(mutes.get(room.pk)),
            "unread": unread,
            "mentions": mentions,
            "quiet": room.pk in quiet,
            "last_time": indexes[room.pk].last_time or _ms(room.created),
        }
        if room.pk in others:
            entry |= {"with": client_id_of(others[room.pk]), "here": here_of(others[room.pk].pk)}
        listed.append(entry)
    return listed


@endpoint("POST")
def seen(request: HttpRequest, user: User) -> dict[str, Any]:
    """A page of the chat is open, or was until now."""
    touch(client_id_of(user))
    return {}


@endpoint("POST")
def direct(request: HttpRequest, user: User) -> HttpResponseBase:
    room, is_new = rooms.direct(user, _body(request).get("client"))
    return JsonResponse(described(user, [room])[0], status=201 if is_new else 200)


@endpoint("GET", "PATCH")
def one_room(request: HttpRequest, user: User, slug: str) -> dict[str, Any]:
    room = rooms.room_for(user, slug)
    if request.method == "PATCH":
        room = rooms.change(user, room, _body(request))
    return described(user, [room])[0]


ACTIONS: Final = ("join", "leave", "invite", "remove", "mute", "unmute", "role", "quiet", "delete-message")


@endpoint("POST")
def act(request: HttpRequest, user: User, slug: str, action: str) -> dict[str, Any]:
    """What people do to a room and to each other in it."""
    room, body = rooms.room_for(user, slug), _body(request)
    client = body.get("client")
    match action:
        case "join":
            rooms.join(user, room)
        case "leave":
            rooms.leave(user, room)
        case "invite":
            rooms.invite(user, room, client)
        case "remove":
            rooms.remove(user, room, client)
        case "mute":
            return {"muted_until": rooms.mute(user, room, client, body.get("minutes"))}
        case "unmute":
            rooms.unmute(user, room, client)
        case "role":
            rooms.set_role(user, room, client, body.get("role"))
        case "quiet":
            rooms.set_quiet(user, room, body.get("on"))
        case "delete-message":
            rooms.delete_message(user, room, body.get("serial"), body.get("reason", ""))
    return {}


@endpoint("GET")
def members(request: HttpRequest, user: User, slug: str) -> dict[str, Any]:
    """Members with their roles; and who is muted without being one, with the role null."""
    room = rooms.room_for(user, slug)
    memberships = list(room.memberships.select_related("user")[: rooms.MEMBERS_MOST])
    mutes = list(room.mutes.filter(until__gt=timezone.now()).select_related("user")[: rooms.MEMBERS_MOST])
    until = {each.user_id: each.until for each in mutes}
    role = {each.user_id: each.role for each in memberships}
    found = {each.user_id: each.user for each in memberships} | {each.user_id: each.user for each in mutes}
    clients = {pk: client_id_of(each) for pk, each in found.items()}
    seen = dict(LastSeen.objects.filter(client__in=list(clients.values())).values_list("client", "time"))
    return {
        "members": [
            {
                "client": clients[pk],
                "name": display_name(each),
                "role": role.get(pk),
                "muted_until": _ms(until.get(pk)),
                "last_seen": seen.get(clients[pk]),
            }
            for pk, each in found.items()
        ]
    }


@endpoint("GET")
def audit(request: HttpRequest, user: User, slug: str) -> dict[str, Any]:
    """What was done to the room, newest first: for its moderators. `before` is the `id` of an entry."""
    room = rooms.room_for(user, slug)
    if rooms.role_of(user, room) not in ("moderator", "owner"):
        raise Refused("forbidden", "Only a room's moderators see what was done.", "Ask one of them.")
    entries = AuditEntry.objects.filter(room=room)
    before = _integer(request, "before")
    if before is not None:
        entries = entries.filter(pk__lt=before)
    found = list(entries[: AUDIT_MOST + 1])
    return {
        "entries": [
            {
                "id": each.pk,
                "time": _ms(each.time),
                "by": each.by,
                "action": each.action,
                "about": each.about,
                "detail": each.detail,
            }
            for each in found[:AUDIT_MOST]
        ],
        "more": len(found) > AUDIT_MOST,
    }


# ---------------------------------------------------------------- what was said


@endpoint("GET")
def page(request: HttpRequest, user: User, slug: str) -> dict[str, Any]:
    """Folded messages before, after or around a serial, or of a thread; without any of these the newest."""
    room = rooms.room_for(user, slug)
    where = {name: _integer(request, name) for name in ("before", "after", "around", "thread")}
    if sum(where[name] is not None for name in ("before", "after", "around")) > 1:
        raise Refused("bad_frame", "A page is before, after or around one serial.", "Send one of them.")
    in_thread = where["thread"] is not None
    limit, most = _integer(request, "limit"), index.THREAD_MOST if in_thread else index.PAGE_MOST
    if limit is not None and not 1 <= limit <= most:
        raise Refused("bad_frame", "`limit` is out of bounds.", f"Send 1 to {most}.")
    return index.page(room, **where, limit=limit or (most if in_thread else PAGE_DEFAULT))


@endpoint("GET")
def at(request: HttpRequest, user: User, slug: str) -> dict[str, Any]:
    """The first message of a day (`date`, in UTC) or since a time (`time`, Unix milliseconds); null where none is."""
    room = rooms.room_for(user, slug)
    time_ms = _integer(request, "time")
    if time_ms is None:
        try:
            day = datetime.strptime(request.GET.get("date", ""), "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise Refused("bad_frame", "`date` is no date.", "Send YYYY-MM-DD.") from None
        time_ms = int((day - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
    position = index.catch_up([room])[room.pk]
    # Times never decrease with the serial.
    rows = IndexedMessage.objects.filter(room=room, time__gte=time_ms, serial__gte=position.oldest)
    return {"serial": rows.order_by("time", "serial").values_list("serial", flat=True).first()}


@endpoint("GET")
def search(request: HttpRequest, user: User) -> dict[str, Any]:
    """Messages that have all words of `q`, newest first, in all rooms that one may see, or in `room`."""
    words = request.GET.get("q", "").casefold().replace("\0", "").split()
    if not words or len(words) > WORDS_MOST or sum(map(len, words)) > QUERY_CHARS:
        raise Refused("bad_frame", "`q` has no words, or too many.", f"Send 1 to {WORDS_MOST} words.")
    slug = request.GET.get("room")
    found = [rooms.room_for(user, slug)] if slug else list(Room.objects.visible_to(user)[:ROOMS_MOST])
    index.catch_up(found)
    rows = IndexedMessage.objects.filter(room__in=found, deleted=False)
    for word in words:
        rows = rows.filter(searched__contains=word)
    before = _integer(request, "before")
    if before is not None:
        rows = rows.filter(time__lt=before)
    hits = list(rows.order_by("-time", "-serial")[: RESULTS_MOST + 1])
    slugs = {room.pk: room.slug for room in found}
    return {
        "results": [
            {
                "slug": slugs[hit.room_id],
                "serial": hit.serial,
                "client": hit.client,
                "time": hit.time,
                "text": _excerpt(hit.state["text"], words),
                "thread": hit.thread,
            }
            for hit in hits[:RESULTS_MOST]
        ],
        "more": len(hits) > RESULTS_MOST,
    }


def _excerpt(text: str, words: list[str]) -> str:
    """The text, or what is around the first word in it."""
    if len(text) <= EXCERPT_CHARS:
        return text
    first = min((at for word in words if (at := text.casefold().find(word)) >= 0), default=0)
    start = max(0, first - EXCERPT_CHARS // 3)
    return (
        ("…" if start else "")
        + text[start : start + EXCERPT_CHARS]
        + ("…" if start + EXCERPT_CHARS < len(text) else "")
    )


@endpoint("GET")
def people(request: HttpRequest, user: User) -> dict[str, Any]:
    """People whose name begins with or has `q`, for invitations and mentions."""
    words = request.GET.get("q", "").replace("\0", "")[:QUERY_CHARS].split()
    found = get_user_model().objects.filter(is_active=True)
    for word in words:
        named = Q(first_name__icontains=word) | Q(last_name__icontains=word)
        found = found.filter(named | Q(username__icontains=word))
    return {"people": [person(each) for each in found.order_by("username")[:PEOPLE_MOST]]}


# ---------------------------------------------------------------- files


@endpoint("POST")
def upload(request: HttpRequest, user: User, slug: str) -> HttpResponseBase:
    """Takes one file for a room, if it is what it claims to be; a message then names it."""
    room = rooms.room_for(user, slug)
    client = client_id_of(user)
    if rooms.muted_until(user, room) is not None:
        raise Refused("forbidden", "You are muted in this room.", "Wait until you may write again.")
    files = request.FILES.getlist("file")
    if len(files) != 1:
        raise Refused("bad_frame", "There is not one file.", "Send multipart/form-data with one `file`.")
    given = files[0]
    if (given.size or 0) > uploads.SIZE_MOST_BYTES:
        raise _too_large(uploads.SIZE_MOST_BYTES)
    name, content = uploads.clean_name(given.name or ""), given.read()
    try:
        found = uploads.examine(content, name, given.content_type or "")
    except uploads.Unsupported as refusal:
        raise Refused("unsupported_type", str(refusal), "Send another file.", 415) from None
    if uploads.kept_bytes(client) + len(content) > uploads.KEPT_MOST_BYTES:
        raise Refused("conflict", "Your files take as much room as they may.", "Delete messages with files first.")
    row = Upload(room=room, client=client, name=name, type=found.type, size=len(content))
    row.width, row.height = found.width, found.height
    # Stored under a name of ours, without a suffix that a web server could draw conclusions from.
    row.file.save(row.id, ContentFile(content), save=True)
    return JsonResponse({"file": file_of(row)}, status=201)


@endpoint("GET")
def file(request: HttpRequest, user: User, id: str, name: str) -> HttpResponseBase:
    """A file, for who may see its room. Only images that were examined are shown; everything else is saved."""
    row = Upload.objects.filter(pk=id, room__in=Room.objects.visible_to(user)).first()
    if row is None or row.name != name:
        raise Refused("not_found", "There is no such file.", "It may have been deleted with its message.")
    try:
        # At most SIZE_MOST_BYTES. A stream would be read as a whole, too: under ASGI Django has no other way.
        with row.file.open("rb") as opened:
            content = opened.read()
    except OSError:
        logger.exception("The file of upload %s cannot be read.", row.pk)
        raise Refused("not_found", "The file cannot be read.", "Tell the operator.") from None
    type_ = "text/plain; charset=utf-8" if row.type == "text/plain" else row.type
    response = HttpResponse(content, content_type=type_)
    disposition = content_disposition_header(row.type not in uploads.INLINE, row.name)
    response["Content-Disposition"] = disposition or "inline"
    response["X-Content-Type-Options"] = "nosniff"
    # Opened by itself, nothing in it runs or loads.
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    # Who may not see it any more must not find it in a shared cache; it never changes.
    response["Cache-Control"] = "private, max-age=300"
    return response
