"""The server under test: the site as `manage.py serve` runs it, and three addresses more for floors and figures.

    python -m bench.site --port N [--certificate PEM] [--patient]

`POST /bench/empty` is an APIView that does nothing, on the same server; `GET /bench/rounds` counts the writer's rounds,
`GET /bench/load` tells what the worker measured of itself since it was asked last.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partialmethod

import django
from django.conf import settings
from django.core.management import call_command
from django.http import HttpRequest, JsonResponse
from django.urls import path


def add_addresses() -> None:
    """Before the first request: puts the three in front of the site's own."""
    from rest_framework.request import Request
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from config import urls
    from realtime.delivery.shedding import Ladder, Measurements, Step
    from realtime.log.writer import LogWriter, RoundStats

    counts = {"rounds": 0, "messages": 0}

    def count(stats: RoundStats) -> None:
        counts["rounds"] += 1
        counts["messages"] += stats.messages_count

    class Empty(APIView):
        authentication_classes = ()
        permission_classes = ()

        def post(self, request: Request) -> Response:
            return Response({})

    def rounds(request: HttpRequest) -> JsonResponse:
        return JsonResponse(counts)

    measured: list[dict[str, float]] = []
    update = Ladder.update

    def note(ladder: Ladder, measurements: Measurements, now: float) -> Step:
        step = update(ladder, measurements, now)
        measured.append({**asdict(measurements), "step": step})
        return step

    def load(request: HttpRequest) -> JsonResponse:
        found = measured.copy()
        measured.clear()
        return JsonResponse({"measured": found})

    Ladder.update = note  # type: ignore[method-assign,assignment]
    LogWriter.__init__ = partialmethod(LogWriter.__init__, on_stats=count)  # type: ignore[method-assign,assignment]
    urls.urlpatterns[:0] = [
        path("bench/empty", Empty.as_view()),
        path("bench/rounds", rounds),
        path("bench/load", load),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", help="key and certificate in one file: TLS")
    parser.add_argument("--patient", action="store_true", help="nobody is cut off for silence, nor for a late loop")
    options = parser.parse_args()
    if options.patient:
        settings.REALTIME = {**settings.REALTIME, "HEARTBEAT_MS": 600_000, "LAG_HIGH_MS": 60_000}
    django.setup()
    call_command("migrate", verbosity=0)
    add_addresses()
    if options.certificate is not None:
        from realtime.server import run

        pem = options.certificate
        run.endpoint = lambda host, port: f"ssl:{port}:interface={host}:privateKey={pem}:certKey={pem}"
    call_command("serve", port=options.port)


if __name__ == "__main__":
    main()
