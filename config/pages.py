"""The pages that belong to no application: home, cursors, console; and the tokens they connect with.

On a demo (`DEMO`) they are open to who is not logged in, as a guest: a client id that the page carries, signed, so that
a token can be renewed for the same guest without a cookie or a row. A guest's capability is a channel or two of the
namespace `play`, which is small and rate-limited, and the cursors.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
import zlib
from collections.abc import Mapping
from typing import Final, cast

from django.conf import settings as django_settings
from django.contrib.auth.models import AbstractUser
from django.contrib.auth.views import LogoutView, redirect_to_login
from django.core import signing
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import require_GET, require_POST

from realtime.conf import settings
from realtime.delivery.addresses import client_address, parse_networks
from realtime.protocol.errors import ProtocolError
from realtime.tokens import client_id_of, issue_token

logger = logging.getLogger("config.pages")

CURSORS_CHANNEL: Final = "cursors:quay"
#: Where everybody may try the console.
CONSOLE_CHANNEL: Final = "play:open"
#: The demos of the front page share so many channels: a visitor has one nearly alone, and visitors make no new ones.
HOME_CHANNELS: Final = 64
TOKEN_TTL_S: Final = 15 * 60
GUEST_MOST_S: Final = 12 * 3600
#: A page asks for one token when it opens and one a quarter of an hour. This leaves room for an office behind one
#: address, and stops who collects identities to get around the limits of one client.
TOKENS_PER_MINUTE: Final = 120
BODY_MOST_BYTES: Final = 4096

#: What may carry the cursors, as it stands in the page's address, and what people call it.
TRANSPORTS: Final = (
    ("", "Automatic"),
    ("websocket", "WebSocket"),
    ("streaming", "Streaming"),
    ("sse", "SSE"),
    ("polling", "Polling"),
    ("sockjs", "SockJS"),
)

#: operations by pattern; a hook or a namespace narrows them, so nobody gets into a room by the console.
Capability = Mapping[str, list[str]]
EVERYTHING: Final = ["subscribe", "publish", "history", "presence", "signal"]
READING: Final = frozenset({"subscribe", "history"})
CONSOLE_OF_USERS: Final[Capability] = {
    "play:*": EVERYTHING,
    "chat:*": EVERYTHING,
    "demo:*": ["subscribe", "history"],
    "cursors:*": ["subscribe", "presence", "signal"],
}
CONSOLE_OF_GUESTS: Final[Capability] = {CONSOLE_CHANNEL: EVERYTHING}
CURSORS: Final[Capability] = {CURSORS_CHANNEL: ["subscribe", "presence", "signal"]}


def _signer() -> signing.TimestampSigner:
    """Made when it is needed: without a key, `manage.py check` says so."""
    return signing.TimestampSigner(salt="config.pages.guest")


@require_GET
@cache_control(private=True, no_cache=True)
def home(request: HttpRequest) -> HttpResponse:
    """What this is, with the demo in it for who may publish in `play`."""
    page_data = _page_data(request)
    if page_data is not None:
        page_data["channel"] = _home_channel(str(page_data["client"]))
    return render(request, "home.html", {"page_data": page_data})


class LogOut(LogoutView):
    """By POST, as the menu does it. An address that somebody opens asks first: a link must log nobody out."""

    http_method_names = ["get", "head", "post", "options"]  # noqa: RUF012  # as Django declares it

    def get(self, request: HttpRequest) -> HttpResponse:
        return render(request, "registration/log_out.html")


@require_GET
@cache_control(private=True, no_cache=True)
def cursors(request: HttpRequest) -> HttpResponse:
    page_data = _page_data(request)
    if page_data is None:
        return redirect_to_login(request.get_full_path())
    transport = request.GET.get("transport", "")
    context = {
        "page_data": page_data | {"channel": CURSORS_CHANNEL},
        "transports": TRANSPORTS,
        "transport": transport if transport in dict(TRANSPORTS) else "",
        "sockjs_path": settings.SOCKJS_PATH,
    }
    return render(request, "cursors.html", context)


@require_GET
@cache_control(private=True, no_cache=True)
def console(request: HttpRequest) -> HttpResponse:
    page_data = _page_data(request)
    if page_data is None:
        return redirect_to_login(request.get_full_path())
    context = {"page_data": page_data | {"channel": CONSOLE_CHANNEL}, "mints": _may_mint(request)}
    return render(request, "console.html", context)


@require_GET
@never_cache
def token(request: HttpRequest) -> JsonResponse:
    """A short-lived token for one of the pages (`?for=`); errors in JSON, not a redirect, for a script."""
    if _asks_too_often(request):
        return _refusal(429, "rate_limited", "Too many tokens were asked for from this address.", retry_after_s=60)
    client = _client(request, request.GET.get("guest", ""))
    if client is None:
        return _refusal(401, "unauthorized", "Nobody is logged in.")
    is_user = request.user.is_authenticated
    capabilities: dict[str, Capability] = {
        "home": {_home_channel(client): ["subscribe", "publish", "history"]},
        "cursors": CURSORS,
        "console": CONSOLE_OF_USERS if is_user else CONSOLE_OF_GUESTS,
        "console-reading": _reading(CONSOLE_OF_USERS if is_user else CONSOLE_OF_GUESTS),
    }
    capability = capabilities.get(request.GET.get("for", ""))
    if capability is None:
        return _refusal(400, "bad_frame", f"`for` is one of {', '.join(capabilities)}.")
    return _issued(request, client, capability)


@require_POST
@never_cache
def mint(request: HttpRequest) -> JsonResponse:
    """A token for any client and capability, for operators (superusers) at the console; each is written to the log."""
    if not _may_mint(request):
        return _refusal(403, "forbidden", "Only an operator may choose the client and the capability.")
    try:
        asked = json.loads(request.body[:BODY_MOST_BYTES])
        client, capability = asked["client"], asked["cap"]
    except (ValueError, KeyError, TypeError):
        return _refusal(400, "bad_frame", 'Send {"client": …, "cap": {"pattern": ["operation"]}}.')
    if not isinstance(client, str) or not isinstance(capability, dict):
        return _refusal(400, "bad_frame", "`client` is a string and `cap` an object.")
    try:
        response = _issued(request, client, capability)
    except ProtocolError as error:
        return _refusal(400, error.code, error.message)
    logger.warning("operator %s made a token at the console for %r: %s", request.user, client, json.dumps(capability))
    return response


# ---------------------------------------------------------------- who asks


def _page_data(request: HttpRequest) -> dict[str, object] | None:
    """Who the page connects as; None where nobody is logged in and guests are not let in."""
    if request.user.is_authenticated:
        return {"client": client_id_of(request.user), "guest": ""}
    if not django_settings.DEMO:
        return None
    client = f"guest-{secrets.token_hex(3)}"
    return {"client": client, "guest": _signer().sign(client)}


def _client(request: HttpRequest, guest: str) -> str | None:
    if request.user.is_authenticated:
        return client_id_of(request.user)
    if not django_settings.DEMO:
        return None
    try:
        return _signer().unsign(guest, max_age=GUEST_MOST_S)
    except signing.BadSignature:
        return None


def _may_mint(request: HttpRequest) -> bool:
    return request.user.is_authenticated and cast("AbstractUser", request.user).is_superuser


def _asks_too_often(request: HttpRequest) -> bool:
    """Counted per address and minute, in this process: with several workers the limit is as many times higher."""
    forwarded = request.headers.get("X-Forwarded-For", "")
    address = client_address(
        request.META.get("REMOTE_ADDR"), [forwarded] if forwarded else [], parse_networks(settings.TRUSTED_PROXIES)
    )
    key = f"config.pages.tokens.{address}.{int(time.time() // 60)}"
    cache.add(key, 0, 120)
    try:
        return cache.incr(key) > TOKENS_PER_MINUTE
    except ValueError:  # it was thrown out of the cache in between
        return False


# ---------------------------------------------------------------- what they get


def _home_channel(client: str) -> str:
    return f"play:home-{zlib.crc32(client.encode()) % HOME_CHANNELS}"


def _reading(capability: Capability) -> Capability:
    return {pattern: [each for each in operations if each in READING] for pattern, operations in capability.items()}


def _issued(request: HttpRequest, client: str, capability: Capability) -> JsonResponse:
    now_s = time.time()
    ends_s = now_s + request.session.get_expiry_age() if request.user.is_authenticated else None
    text, expires_s = issue_token(client, capability, TOKEN_TTL_S, now_s, not_after_s=ends_s)
    return JsonResponse({"token": text, "expires": expires_s, "client": client})


def _refusal(status: int, code: str, message: str, retry_after_s: int | None = None) -> JsonResponse:
    response = JsonResponse({"error": {"code": code, "message": message}}, status=status)
    if retry_after_s is not None:
        response["Retry-After"] = str(retry_after_s)
    return response
