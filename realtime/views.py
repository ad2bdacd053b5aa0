"""A token for a page of this project: whoever is logged in gets one for himself.

`realtime.urls` serves it as `realtime:token`, and `{% seriatim_config %}` tells the page its address. A project that
decides otherwise writes a view of its own with `realtime.tokens.issue_token`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from django.http import HttpRequest, JsonResponse
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from realtime.conf import settings
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import is_client_id
from realtime.tokens import issue_token

logger = logging.getLogger("realtime.tokens")

CapabilityOf = Callable[[HttpRequest], Mapping[str, Any] | None]


@require_GET
@never_cache
def token(request: HttpRequest) -> JsonResponse:
    """`{"token", "expires"}` for the user of the session; 401 in JSON, no redirect, for a script that is signed out.

    The client id is that of `REALTIME["USER_CLIENT_ID"]`, the capability what `REALTIME["TOKEN_CAPABILITY"]` says of
    the request. It ends with the session at the latest.
    """
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return _refused(ProtocolError("unauthorized", "Nobody is logged in.", remedy="Log in, then try again."))
    client = import_string(settings.USER_CLIENT_ID)(user)
    if not isinstance(client, str) or not is_client_id(client):
        logger.error("REALTIME['USER_CLIENT_ID'] gave no client id for user %s.", user.pk)
        return _refused(ProtocolError("forbidden", "This account cannot connect."))
    capability = None
    if settings.TOKEN_CAPABILITY is not None:
        capability = cast("CapabilityOf", import_string(settings.TOKEN_CAPABILITY))(request)
    now_s = time.time()
    try:
        text, expires_at_s = issue_token(
            client, capability, settings.TOKEN_TTL_S, now_s, not_after_s=now_s + request.session.get_expiry_age()
        )
    except ProtocolError as refusal:
        logger.error("No token could be issued: %s", refusal)
        return _refused(refusal)
    return JsonResponse({"token": text, "expires": int(expires_at_s * 1000)})


def _refused(refusal: ProtocolError) -> JsonResponse:
    return JsonResponse(refusal.body(), status=refusal.http_status)
