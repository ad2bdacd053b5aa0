"""Credentials of an HTTP request: a bearer token or API key, else the session cookie of this site's own pages.

Nothing is ever read from the query: addresses land in logs. What a request without credentials may do is the business
of `realtime.authorization`, which knows `ANONYMOUS`.
"""

from __future__ import annotations

import time

from django.conf import settings as django_settings
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, CSRFCheck
from rest_framework.request import Request

from realtime.api.errors import CHALLENGE
from realtime.protocol.errors import ProtocolError
from realtime.tokens import (
    API_KEY_FRESH_S,
    Identity,
    identity_from_session,
    is_api_key,
    refusal_of,
    verify_api_key,
    verify_token_in_thread,
)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class PlatformAuthentication(BaseAuthentication):
    """Puts an `Identity` into `request.auth`, None without credentials. Bad ones are refused, never passed over."""

    def authenticate(self, request: Request) -> tuple[None, Identity] | None:
        identity = identify(request._request)
        shut_out = None if identity is None else refusal_of(identity, time.time())
        if shut_out is not None:
            raise shut_out
        return None if identity is None else (None, identity)

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


def identify(request: HttpRequest) -> Identity | None:
    """The client behind a request; None without credentials. Raises `unauthorized`, or `forbidden` for CSRF."""
    header = request.META.get("HTTP_AUTHORIZATION")
    if header is not None:
        return identity_from_header(header, time.time())
    session_key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
    if session_key:
        return _identity_from_cookie(request, session_key)
    return None


def identity_from_header(header: str, now_s: float, *, key_fresh_s: float = API_KEY_FRESH_S) -> Identity:
    """The identity of an `Authorization` header. `key_fresh_s`: how old an API key's row may be."""
    scheme, _, credential = header.partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise ProtocolError(
            "unauthorized",
            "The Authorization header is not a bearer credential.",
            remedy="Send `Authorization: Bearer <token or API key>`.",
        )
    if is_api_key(credential):
        return verify_api_key(credential, now_s, key_fresh_s)
    return verify_token_in_thread(credential, now_s)


def _identity_from_cookie(request: HttpRequest, session_key: str) -> Identity | None:
    """A cookie proves a browser, not who wrote the request: only this site's own pages may use it."""
    origin = request.META.get("HTTP_ORIGIN")
    own = f"{request.scheme}://{request.get_host()}"
    unsafe = request.method not in SAFE_METHODS
    if not unsafe and origin is not None and origin != own:
        return None  # a foreign page that reads: as if without credentials
    identity = identity_from_session(session_key, time.time())
    if identity is None or not unsafe:
        return identity
    if origin != own:
        raise ProtocolError(
            "forbidden",
            "With the session cookie, only pages of this site may change anything.",
            remedy="Send the request from a page of this site (its Origin header), or use a token.",
        )
    check = CSRFCheck(lambda _: None)  # type: ignore[arg-type]  # the next handler is never called
    check.process_request(request)
    reason = check.process_view(request, None, (), {})  # type: ignore[arg-type]  # DRF calls it so as well
    if reason is not None:
        raise ProtocolError(
            "forbidden",
            f"The CSRF check failed: {str(reason).rstrip('.')}.",
            remedy=f"Send the token of the cookie {django_settings.CSRF_COOKIE_NAME} in the header X-CSRFToken.",
        )
    return identity
