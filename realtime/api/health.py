"""`/healthz` and `/readyz`, for load balancers and supervisors. Plain views: no credentials, nothing secret in the
answer.

`/healthz`: the process answers. `/readyz`: send it traffic: the database is reachable, the log writer alive, the
worker not draining. A probe waits a second for another at most, so that a database that hangs cannot collect threads.
"""

from __future__ import annotations

import logging
import threading
import time

from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from realtime.api import local
from realtime.conf import settings

logger = logging.getLogger("realtime.api")

# Probes come from several balancers at once; one query a second tells them all.
DATABASE_FRESH_S = 1.0

_probing = threading.Lock()
_database_ok = False
_probed_at = float("-inf")


@csrf_exempt  # else Django's page about CSRF would be the answer to a POST
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """The process is alive and its threads answer."""
    return _no_store(JsonResponse({"status": "ok"}))


@csrf_exempt
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """200 when this worker can take traffic; else 503 and what fails."""
    checks = {"database": _database_reachable(), **local.readiness()}
    ready = all(checks.values())
    body = {"status": "ready" if ready else "not ready", "checks": checks}
    response = _no_store(JsonResponse(body, status=200 if ready else 503))
    if not ready:
        response.headers["Retry-After"] = "1"
    return response


def _database_reachable() -> bool:
    global _database_ok, _probed_at
    if not _probing.acquire(timeout=DATABASE_FRESH_S):
        return False
    try:
        if time.monotonic() - _probed_at < DATABASE_FRESH_S:
            return _database_ok
        _database_ok = _probe()
        _probed_at = time.monotonic()
        return _database_ok
    finally:
        _probing.release()


def _probe() -> bool:
    try:
        with connections[settings.DATABASE].cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except DatabaseError as error:
        logger.warning("The database is not reachable: %s", error)
        return False
    return True


def _no_store(response: HttpResponse) -> HttpResponse:
    response.headers["Cache-Control"] = "no-store"
    return response
