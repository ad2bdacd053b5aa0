"""`/metrics`: the numbers of this worker and of those beside it, in the text format of Prometheus or OpenMetrics.

Numbers tell how busy a site is and how its parts fare, so they are not for everybody: an API key with the operation
`admin` on `$metrics` (`*` includes that), or an address of `METRICS_NETWORKS`. No row is read for it but the key's, and
that one at most once a minute: numbers are wanted most when the database is away. docs/how-to/monitor.md.
"""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import MethodNotAllowed

from realtime import metrics, worker
from realtime.api.authentication import identity_from_header
from realtime.api.errors import exception_handler
from realtime.api.permissions import no_credentials
from realtime.conf import settings
from realtime.delivery.addresses import parse_address, parse_networks
from realtime.protocol.errors import ProtocolError

NAME = "$metrics"
"""No channel, but what the capability of a key is asked about."""

KEY_FRESH_S = 600.0
"""How old a key's row may be. While the database is there, the worker reads the keys in use again each second."""

FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
"""Headers of proxies: with one of them the address is the proxy's, and says nothing about who asks."""


@csrf_exempt  # else Django's HTML page about CSRF would be the answer to a POST
def scrape(request: HttpRequest) -> HttpResponse:
    """The numbers, for who may have them."""
    if request.method not in ("GET", "HEAD"):
        response = exception_handler(MethodNotAllowed(request.method or ""))
        response.headers["Allow"] = "GET, HEAD"
        return response
    try:
        _authorize(request)
        running = worker.current()
        if running is None:
            raise ProtocolError(
                "not_found", "There is no worker in this process.", remedy="Scrape the address that serves the sockets."
            )
        body, content_type = metrics.expose(running, request.headers.get("Accept", ""))
    except Exception as error:
        return exception_handler(error, {"request": request})
    response = HttpResponse(body, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    return response


def _authorize(request: HttpRequest) -> None:
    header = request.META.get("HTTP_AUTHORIZATION")
    if header is None:
        if not _from_open_network(request):
            raise no_credentials()
        return
    identity = identity_from_header(header, time.time(), key_fresh_s=KEY_FRESH_S)
    if identity.kind != "key" or identity.capability is None or not identity.capability.allows(NAME, "admin"):
        raise ProtocolError(
            "forbidden",
            "The credentials do not allow reading metrics.",
            remedy=f'Use an API key with the capability {{"{NAME}": ["admin"]}}.',
        )


def _from_open_network(request: HttpRequest) -> bool:
    networks = settings.METRICS_NETWORKS
    if not networks or any(name in request.META for name in FORWARDED):
        return False
    address = parse_address(request.META.get("REMOTE_ADDR") or "")
    return address is not None and any(address in network for network in parse_networks(networks))
