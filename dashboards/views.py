"""Pages of the dashboards, the tokens they connect with, and the JSON by which they are changed.

Every answer of the JSON that is no success has one shape: {"error": {code, message, remedy}}. Changes need Django's
CSRF header.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, cast

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.text import slugify
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.csrf import csrf_exempt, ensure_csrf_cookie
from django.views.decorators.http import require_GET

from dashboards import quiz
from dashboards.authorization import (
    SHARED_TTL_S,
    TOKEN_TTL_S,
    channels_of,
    client_of,
    may_read,
    token_for,
)
from dashboards.kinds import CHANNELS_MOST, KINDS, WIDGETS_MOST
from dashboards.models import Dashboard, Share, Widget
from realtime.revocations import revoke
from realtime.tokens import client_id_of

P = ParamSpec("P")

BODY_MOST_BYTES: Final = 64 * 1024
DASHBOARDS_MOST: Final = 100
"""Of one person."""
SHARES_MOST: Final = 20


class Refused(Exception):
    """Becomes the error that the page shows."""

    def __init__(self, code: str, message: str, remedy: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.remedy, self.status = code, message, remedy, status


class _Csrf(CsrfViewMiddleware):
    """Django's check, which gives its reason instead of a page."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        return cast("HttpResponse", reason)


def endpoint(
    *methods: str,
) -> Callable[
    [Callable[Concatenate[HttpRequest, User, P], dict[str, Any]]], Callable[Concatenate[HttpRequest, P], HttpResponse]
]:
    """A view for a logged-in person that gives an object, or raises what becomes the error."""

    def decorate(
        view: Callable[Concatenate[HttpRequest, User, P], dict[str, Any]],
    ) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
        @wraps(view)
        def wrapped(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            try:
                return JsonResponse(view(request, _user(request, methods), *args, **kwargs))
            except Refused as refused:
                error = {"code": refused.code, "message": refused.message, "remedy": refused.remedy}
                return JsonResponse({"error": error}, status=refused.status)

        # Exempt from the middleware, whose refusal is a page; `_user` asks.
        return never_cache(cast("Callable[Concatenate[HttpRequest, P], HttpResponse]", csrf_exempt(wrapped)))

    return decorate


def _user(request: HttpRequest, methods: tuple[str, ...]) -> User:
    if request.method not in methods:
        raise Refused("bad_frame", f"{request.method} means nothing here.", f"Use {' or '.join(methods)}.", 405)
    if not request.user.is_authenticated:
        raise Refused("unauthorized", "Nobody is logged in.", "Log in again.", 401)
    if request.method != "GET":
        check = _Csrf(lambda _: HttpResponse())
        check.process_request(request)
        # The attribute says that the view is exempt, which is for the middleware.
        if check.process_view(request, lambda _: HttpResponse(), (), {}) is not None:
            raise Refused(
                "forbidden", "The CSRF token is missing or wrong.", "Send the cookie's value as X-CSRFToken.", 403
            )
    return request.user


def _body(request: HttpRequest) -> dict[str, Any]:
    if int(request.META.get("CONTENT_LENGTH") or 0) > BODY_MOST_BYTES:
        raise Refused("too_large", "The request is too large.", f"Send at most {BODY_MOST_BYTES} bytes.", 413)
    try:
        body = json.loads(request.body or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused("bad_frame", "The body is no JSON object.", "Send one.")
    return body


# ---------------------------------------------------------------- pages


@require_GET
@ensure_csrf_cookie
@login_required
def index(request: HttpRequest) -> HttpResponse:
    dashboards = Dashboard.objects.visible_to(request.user).select_related("owner").prefetch_related("widgets")
    return render(request, "dashboards/index.html", {"dashboards": dashboards})


@require_GET
@cache_control(private=True, no_cache=True)
@ensure_csrf_cookie
@login_required
def page(request: HttpRequest, slug: str) -> HttpResponse:
    """One dashboard. One that is not for this person does not exist."""
    dashboard = get_object_or_404(Dashboard.objects.visible_to(request.user), slug=slug)
    return _render(
        request,
        dashboard,
        client=client_id_of(cast("User", request.user)),
        token_url=reverse("dashboards:token", args=[slug]),
        can_change=dashboard.may_be_changed_by(request.user),
    )


@require_GET
@never_cache
def shared(request: HttpRequest, share: str) -> HttpResponse:
    """The same for whoever has the link; nothing can be changed from there."""
    row = _share(share)
    return _render(
        request,
        row.dashboard,
        client=row.client,
        token_url=reverse("dashboards:shared-token", args=[share]),
        can_change=False,
    )


def _render(
    request: HttpRequest, dashboard: Dashboard, *, client: str, token_url: str, can_change: bool
) -> HttpResponse:
    speed = request.GET.get("speed", "")
    if speed not in dashboard.speeds:
        speed = next((each for each in ("normal", *dashboard.speeds) if each in dashboard.speeds), "")
    page_data = {
        "client": client,
        "slug": dashboard.slug,
        "name": dashboard.name,
        "isPublic": dashboard.is_public,
        "speed": speed,
        "deltas": dashboard.deltas,
        "widgets": [described(each) for each in dashboard.widgets.all()],
        "kinds": {kind: label for kind, (label, _) in KINDS.items()},
        "canChange": can_change,
        "quizRoundS": quiz.ROUND_S if quiz.CHANNEL in channels_of(dashboard) else 0,
    }
    context = {
        "dashboard": dashboard,
        "page_data": page_data,
        "token_url": token_url,
        "can_change": can_change,
        "speeds": [(name, label, name == speed) for name, label in dashboard.speeds.items()],
        "has_quiz": bool(page_data["quizRoundS"]) and request.user.is_authenticated,
        "two_policies": dashboard.slug == "match",
    }
    return render(request, "dashboards/dashboard.html", context)


def described(widget: Widget) -> dict[str, Any]:
    return {
        "kind": widget.kind,
        "title": widget.title,
        "channel": widget.channel,
        "field": widget.field,
        "options": widget.options,
        "span": widget.span,
    }


@require_GET
@never_cache
def token(request: HttpRequest, slug: str) -> JsonResponse:
    """A short-lived token that reads the dashboard's channels; 401 in JSON for a script that is signed out."""
    if not request.user.is_authenticated:
        return JsonResponse({"error": {"code": "unauthorized", "message": "Nobody is logged in."}}, status=401)
    dashboard = get_object_or_404(Dashboard.objects.visible_to(request.user), slug=slug)
    client = client_id_of(request.user)
    ends_s = time.time() + request.session.get_expiry_age()
    return JsonResponse(token_for(dashboard, client, client, TOKEN_TTL_S, ends_s))


@require_GET
@never_cache
def shared_token(request: HttpRequest, share: str) -> JsonResponse:
    """The same by a link: what the dashboard's owner may follow, for five minutes."""
    try:
        row = _share(share)
    except Http404:
        error = {"code": "unauthorized", "message": "This link was taken back.", "remedy": "Ask for another."}
        return JsonResponse({"error": error}, status=401)
    return JsonResponse(token_for(row.dashboard, row.client, client_of(row.dashboard.owner), SHARED_TTL_S))


def _share(share: str) -> Share:
    return get_object_or_404(Share.objects.select_related("dashboard__owner"), pk=share)


# ---------------------------------------------------------------- changes


@endpoint("POST")
def create(request: HttpRequest, user: User) -> dict[str, Any]:
    name = _name(_body(request))
    if Dashboard.objects.filter(owner=user).count() >= DASHBOARDS_MOST:
        raise Refused("limit_exceeded", f"You have {DASHBOARDS_MOST} dashboards.", "Delete one.", 429)
    slug = f"{slugify(name)[:40] or 'dashboard'}-{secrets.token_hex(3)}"
    dashboard = Dashboard.objects.create(slug=slug, name=name, owner=user)
    return {"url": reverse("dashboards:page", args=[dashboard.slug])}


@endpoint("PUT", "DELETE")
def change(request: HttpRequest, user: User, slug: str) -> dict[str, Any]:
    """Replaces name, visibility, how messages come and all widgets, or nothing of it."""
    dashboard = _changeable(user, slug)
    if request.method == "DELETE":
        for share in dashboard.shares.all():
            _take_back(share, user)
        dashboard.delete()
        return {"url": reverse("dashboards:index")}
    body = _body(request)
    given = body.get("widgets")
    if not isinstance(given, list) or len(given) > WIDGETS_MOST:
        raise Refused("bad_frame", f"`widgets` must be a list of at most {WIDGETS_MOST}.", "Take some away.")
    with transaction.atomic():
        dashboard.name = _name(body)
        dashboard.is_public = body.get("public") is True
        dashboard.deltas = body.get("deltas") is True
        dashboard.save()
        dashboard.widgets.all().delete()
        for position, each in enumerate(given):
            _widget(dashboard, position, each).save()
        channels = channels_of(dashboard)
        if len(channels) > CHANNELS_MOST * max(1, len(dashboard.speeds)):
            raise Refused("limit_exceeded", f"At most {CHANNELS_MOST} channels.", "Use fewer.", 429)
        reader = client_id_of(user)
        for channel in channels:
            if not may_read(reader, channel):
                raise Refused(
                    "forbidden", f"You may not follow {channel}.", "Use a channel that you can read yourself.", 403
                )
    return {"widgets": [described(each) for each in dashboard.widgets.all()]}


def _widget(dashboard: Dashboard, position: int, given: object) -> Widget:
    names = ("kind", "title", "channel", "field", "options", "span")
    if not isinstance(given, dict) or set(given) - set(names):
        raise Refused("bad_frame", f"A widget has {', '.join(names)}.", "Send these and nothing else.")
    widget = Widget(dashboard=dashboard, position=position, **given)
    try:
        widget.full_clean()
    except (ValidationError, TypeError) as error:
        found = error.message_dict if isinstance(error, ValidationError) else {"widget": [str(error)]}
        name, sentences = next(iter(found.items()))
        raise Refused("bad_frame", f"Widget {position + 1}, {name}: {sentences[0]}", "Correct it.") from None
    return widget


def _name(body: dict[str, Any]) -> str:
    name = body.get("name")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 80:
        raise Refused("bad_frame", "A dashboard has a name of 1 to 80 characters.", "Give it one.")
    return name.strip()


def _changeable(user: User, slug: str) -> Dashboard:
    visible = Dashboard.objects.all() if user.is_staff else Dashboard.objects.visible_to(user)
    dashboard = visible.filter(slug=slug).first()
    if dashboard is None:
        raise Refused("not_found", "There is no such dashboard.", "Look at the list.", 404)
    if not dashboard.may_be_changed_by(user):
        raise Refused("forbidden", "This dashboard is not yours.", "Make one of your own.", 403)
    return dashboard


@endpoint("POST", "DELETE")
def share(request: HttpRequest, user: User, slug: str) -> dict[str, Any]:
    """A link to read it by; DELETE takes back all of them, and ends the connections of who came by them."""
    dashboard = _changeable(user, slug)
    if request.method == "DELETE":
        rows = list(dashboard.shares.all())
        for row in rows:
            _take_back(row, user)
        return {"count": len(rows)}
    if dashboard.shares.count() >= SHARES_MOST:
        raise Refused("limit_exceeded", f"There are {SHARES_MOST} links.", "Take them back first.", 429)
    row = Share.objects.create(dashboard=dashboard)
    return {"url": request.build_absolute_uri(reverse("dashboards:shared", args=[row.pk]))}


def _take_back(row: Share, user: User) -> None:
    with transaction.atomic():
        revoke("client", row.client, by=user.get_username(), reason="A link to a dashboard was taken back.")
        row.delete()


@endpoint("POST")
def vote(request: HttpRequest, user: User) -> dict[str, Any]:
    round_ = quiz.round_of(time.time())
    choices = quiz.question_of(round_)[1]
    choice = _body(request).get("choice")
    if choice not in choices:
        raise Refused("bad_frame", "That is no answer to this question.", "Choose one that is shown.")
    if not quiz.vote(client_id_of(user), round_, choices.index(choice)):
        raise Refused("order", "You have voted on this question.", "Wait for the next one.", 409)
    return {"round": round_, "choice": choice}
