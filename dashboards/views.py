"""The page that draws the live feed, and the token it connects with."""

from __future__ import annotations

import time
from typing import Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import require_GET

from dashboards.mast import CHANNEL, LIMIT_KMH, PERIOD_S
from realtime.tokens import client_id_of, issue_token

TOKEN_TTL_S: Final = 15 * 60
#: How much of the past a page shows when it opens.
REWIND: Final = 900


@require_GET
@login_required
def index(request: HttpRequest) -> HttpResponse:
    return redirect("dashboards:weather")


@require_GET
@cache_control(private=True, no_cache=True)
@login_required
def weather(request: HttpRequest) -> HttpResponse:
    """The readings of the weather mast, from history to live."""
    page_data = {
        "client": client_id_of(request.user),  # type: ignore[arg-type]  # logged in, says the decorator
        "channel": CHANNEL,
        "rewind": REWIND,
        "periodS": PERIOD_S,
        "limitKmh": LIMIT_KMH,
    }
    return render(request, "dashboards/weather.html", {"page_data": page_data, "limit_kmh": LIMIT_KMH})


@require_GET
@never_cache
def token(request: HttpRequest) -> JsonResponse:
    """A short-lived token that reads the feed; 401 in JSON, not a redirect, for a script that is signed out."""
    if not request.user.is_authenticated:
        return JsonResponse({"error": {"code": "unauthorized", "message": "Nobody is logged in."}}, status=401)
    now_s = time.time()
    text, expires_s = issue_token(
        client_id_of(request.user),
        {CHANNEL: ["subscribe", "history"]},
        TOKEN_TTL_S,
        now_s,
        not_after_s=now_s + request.session.get_expiry_age(),
    )
    return JsonResponse({"token": text, "expires": expires_s})
