"""Security headers that Django 5.2 does not set itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

SyncHandler = Callable[[HttpRequest], HttpResponseBase]
AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def content_security_policy(get_response: SyncHandler | AsyncHandler) -> SyncHandler | AsyncHandler:
    """Add `Content-Security-Policy` unless the view has set one (to widen it for itself).

    The admin has a policy of its own: see docs/decisions/0002-the-admin-has-a-wider-content-security-policy.md.

    In both modes, so that an async view is not pushed to a thread because of a header.
    """
    if iscoroutinefunction(get_response):
        next_async = cast("AsyncHandler", get_response)

        async def handle_async(request: HttpRequest) -> HttpResponseBase:
            return _with_policy(request, await next_async(request))

        return handle_async

    next_sync = cast("SyncHandler", get_response)

    def handle(request: HttpRequest) -> HttpResponseBase:
        return _with_policy(request, next_sync(request))

    return handle


def _with_policy(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    # Asked after the view: only then is it known which one it was.
    match = request.resolver_match
    in_admin = match is not None and match.app_name == "admin"
    policy = settings.CONTENT_SECURITY_POLICY_OF_ADMIN if in_admin else settings.CONTENT_SECURITY_POLICY
    response.headers.setdefault("Content-Security-Policy", policy)
    return response
