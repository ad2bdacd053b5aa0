"""The server under test: the site as `manage.py serve` runs it, and two addresses more for floors and sizes.

    python -m bench.site --port N

`POST /bench/empty` is an APIView that does nothing, on the same server; `GET /bench/rounds` counts the writer's rounds.
"""

from __future__ import annotations

import argparse
from functools import partialmethod

import django
from django.core.management import call_command
from django.http import HttpRequest, JsonResponse
from django.urls import path


def add_addresses() -> None:
    """Before the first request: puts the two in front of the site's own."""
    from rest_framework.request import Request
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from config import urls
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

    LogWriter.__init__ = partialmethod(LogWriter.__init__, on_stats=count)  # type: ignore[method-assign,assignment]
    urls.urlpatterns[:0] = [path("bench/empty", Empty.as_view()), path("bench/rounds", rounds)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    django.setup()
    call_command("migrate", verbosity=0)
    add_addresses()
    call_command("serve", port=port)


if __name__ == "__main__":
    main()
