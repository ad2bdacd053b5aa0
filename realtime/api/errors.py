"""Every refusal of the HTTP interface in one shape, from the one table of `realtime.protocol.errors`.

DRF's and Django's own exceptions are turned into rows of that table here and nowhere else; views raise `ProtocolError`.
A fault of ours is logged with its trace and answered `internal`: the answer says nothing about the inside.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.http.request import UnreadablePostError
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.views import set_rollback

from realtime.api import local
from realtime.protocol import codec
from realtime.protocol.errors import ProtocolError

logger = logging.getLogger("realtime.api")

CHALLENGE = 'Bearer realm="seriatim"'


def exception_handler(exc: Exception, context: Mapping[str, Any] | None = None) -> HttpResponse:
    """DRF's `EXCEPTION_HANDLER`: answers every exception, so none reaches Django's HTML pages."""
    set_rollback()
    error, status = translate(exc)
    if status >= 500 and not isinstance(exc, ProtocolError):
        request = (context or {}).get("request")
        where = f"{request.method} {request.path}" if request is not None else "a request"
        if error.code == "unavailable":
            logger.warning("%s failed: %s", where, exc)
        else:
            logger.error("%s failed.", where, exc_info=exc)
    response = error_response(error, status)
    if isinstance(exc, exceptions.MethodNotAllowed):
        view = (context or {}).get("view")
        if view is not None:
            response.headers["Allow"] = ", ".join(view.allowed_methods)
    return response


def error_response(error: ProtocolError, status: int | None = None) -> HttpResponse:
    """The answer for one row of the table; `status` where HTTP knows a better one (405, 415)."""
    local.count_error(error.code)
    response = HttpResponse(
        codec.encode(error.body()), content_type="application/json", status=status or error.http_status
    )
    response.headers["Cache-Control"] = "no-store"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.code == "rate_limited" and error.retry_after_ms is not None:
        tell_rate(response, None, 0, error.retry_after_ms)
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = CHALLENGE
    # Django would write a line for every refusal: a flood of requests must not become a flood of log lines.
    response._has_been_logged = True  # type: ignore[attr-defined]  # what its own log_response sets and asks
    return response


def tell_rate(response: HttpResponse, limit: int | None, remaining: int, reset_ms: int) -> None:
    """The headers that say what is left of a rate: messages per second, how many now, and seconds until all of it."""
    if limit is not None:
        response.headers["RateLimit-Limit"] = str(limit)
    response.headers["RateLimit-Remaining"] = str(remaining)
    response.headers["RateLimit-Reset"] = str(-(-reset_ms // 1000))


def translate(exc: Exception) -> tuple[ProtocolError, int]:
    """The row of the table for an exception, and the HTTP status."""
    error = _translated(exc)
    if isinstance(exc, exceptions.MethodNotAllowed | exceptions.UnsupportedMediaType | exceptions.NotAcceptable):
        return error, exc.status_code
    return error, error.http_status


def _translated(exc: Exception) -> ProtocolError:
    match exc:
        case ProtocolError():
            return exc
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return ProtocolError("unauthorized", _sentence(exc))
        case PermissionDenied() | exceptions.PermissionDenied():
            return ProtocolError("forbidden", _sentence(exc))
        case Http404() | exceptions.NotFound():
            return ProtocolError("not_found", "There is nothing at this address.", remedy="Check the path.")
        case exceptions.MethodNotAllowed():
            return ProtocolError(
                "bad_frame", "This address does not know this method.", remedy="The header Allow lists those it knows."
            )
        case exceptions.UnsupportedMediaType():
            return ProtocolError(
                "bad_frame", "The body is not JSON by its Content-Type.", remedy="Send Content-Type: application/json."
            )
        case exceptions.Throttled():
            wait_s: float | None = exc.wait  # type: ignore[attr-defined]  # the stubs lack it
            return ProtocolError("rate_limited", retry_after_ms=None if wait_s is None else int(wait_s * 1000))
        case RequestDataTooBig():
            return ProtocolError("too_large", "The body of the request is too large.", remedy="Send less at once.")
        case exceptions.APIException() if exc.status_code < 500:
            return ProtocolError("bad_frame", _sentence(exc))
        case SuspiciousOperation() | BadRequest() | MultiPartParserError() | UnreadablePostError():
            return ProtocolError(
                "bad_frame", "The request cannot be read.", remedy="Send it as the reference describes."
            )
        case OperationalError() | InterfaceError():
            return ProtocolError("unavailable", "The database is away.", retry_after_ms=1000)
        case _:
            return ProtocolError("internal")


def _sentence(exc: Exception) -> str | None:
    """What DRF or Django says, as one sentence; None for the table's own where there is nothing to say."""
    detail = getattr(exc, "detail", None)
    if detail is None:
        detail = str(exc)
    if not isinstance(detail, str) or not detail:
        return None
    return detail if detail.endswith(".") else f"{detail}."


@csrf_exempt  # else Django's HTML page about CSRF would be the answer to a POST
def not_found(request: HttpRequest, **_: object) -> HttpResponse:
    """Every path under `/api` that no route knows, whatever the method."""
    return exception_handler(Http404(), {"request": request})
