"""CPU of `POST …/messages` against an empty DRF view, in one process, through the whole ASGI stack.

    python -m bench.rest [--requests 2000] [--concurrency 16] [--messages 1]

Counts the CPU of all threads (the event loop, Django's, the log writer's), so the commit is in the first number and not
in the second. Uses a database of its own. The two are measured in turns, because shared machines drift.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from typing import Any

_folder = tempfile.TemporaryDirectory(prefix="seriatim-bench-")
os.environ.setdefault("DATABASE_URL", f"sqlite:///{_folder.name}/db.sqlite3")
os.environ.update(
    DJANGO_SETTINGS_MODULE="config.settings",
    ENV_FILE=os.devnull,
    SECRET_KEY="bench-" + "k" * 44,
    REALTIME_JWT_SECRET="bench-" + "s" * 44,
    ALLOWED_HOSTS="localhost",
    COLLECTED_STATIC="0",
    LOG_LEVEL="WARNING",
)

from config.asgi import application  # noqa: E402  (after the environment)


def empty_view() -> None:
    """Puts an APIView that does nothing at /empty, with DRF's defaults and this site's middleware."""
    from django.urls import path
    from rest_framework.request import Request
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from config import urls

    class Empty(APIView):
        def post(self, request: Request) -> Response:
            return Response({})

    urls.urlpatterns.insert(0, path("empty", Empty.as_view()))


async def post(path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """One request; returns its status."""
    status = 0
    sent = asyncio.Event()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*headers, (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    first = True

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif not message.get("more_body"):
            sent.set()

    await application(scope, receive, send)
    return status


async def cpu_us(path: str, want: int, body: bytes, headers: list[tuple[bytes, bytes]], o: argparse.Namespace) -> float:
    """CPU microseconds of the process per request."""
    left = o.requests

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            status = await post(path, body, headers)
            assert status == want, status

    started = time.process_time()
    await asyncio.gather(*[client() for _ in range(o.concurrency)])
    requests: int = o.requests
    return (time.process_time() - started) / requests * 1e6


async def main(o: argparse.Namespace) -> None:
    from realtime.tokens import issue_token

    token, _ = issue_token("bench", {"*": ["publish"]}, 3600)
    message = {"data": {"text": "x" * 180}}
    body = json.dumps(message if o.messages == 1 else {"messages": [message] * o.messages}).encode()
    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"authorization", f"Bearer {token}".encode()),
    ]
    rounds: list[tuple[float, float]] = []
    for turn in range(o.turns + 1):
        empty = await cpu_us("/empty", 200, body, headers, o)
        publish = await cpu_us("/api/v1/channels/bench/messages", 201, body, headers, o)
        if turn:  # the first warms up
            rounds.append((empty, publish))
            print(f"empty {empty:.0f} µs  publish {publish:.0f} µs  ratio {publish / empty:.2f}")
    ratio = statistics.median(publish / empty for empty, publish in rounds)
    print(f"median ratio {ratio:.2f} ({o.messages} messages a request, {o.concurrency} at once)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--messages", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    empty_view()
    asyncio.run(main(parser.parse_args()))
