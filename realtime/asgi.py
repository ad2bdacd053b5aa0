"""The platform's ASGI application, in front of Django's: sockets and their fallbacks here, everything else there.

`get_application(django_application)` is what a project's asgi.py calls; our own servers find it by `find_application`.
The worker starts with the first connection or request, since Daphne has no lifespan; servers that have one start it
then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from channels.routing import ProtocolTypeRouter
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.utils.module_loading import import_string

from realtime import worker
from realtime.conf import settings
from realtime.consumers import RealtimeConsumer
from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError
from realtime.transports import polls
from realtime.transports import routing as transports
from realtime.turns import Full

ROLES = ("all", "realtime", "web")

role = "all"
"""What this process serves, by `manage.py serve --role`. "realtime": sockets, their fallbacks and health; "web": all
but these."""

HEALTH = ("/healthz", "/readyz", "/metrics")

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

RETRY_S = 2
"""After so long a request that found no room is welcome again."""

NOT_FOUND = [(b"content-type", b"text/plain; charset=utf-8")]


def get_application(django_application: Application, *, websocket: Application | None = None) -> Application:
    """Routes `websocket`, `lifespan` and the fallback transports to the platform, and other `http` to
    `django_application`.

    `websocket` is the project's own application for sockets at other paths than `REALTIME["WEBSOCKET_PATH"]`, such as a
    URLRouter; without one they are refused.
    """
    router = ProtocolTypeRouter(
        {
            "websocket": _at_our_path(RealtimeConsumer.as_asgi(), websocket),
            "http": _in_turn(django_application),
            "lifespan": _lifespan,
        }
    )

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        worker.ensure()
        fallback = transports.find(scope) if scope["type"] == "http" and role != "web" else None
        if fallback is not None:
            await fallback(scope, receive, send)
        elif scope["type"] == "http" and role == "realtime" and not scope["path"].endswith(HEALTH):
            await _not_here(send)
        else:
            await router(scope, receive, send)

    # For our own server; other servers never look at it.
    application.seriatim_quick = Quick()  # type: ignore[attr-defined]
    return application


class Quick:
    """What our own server may ask without ASGI; see `realtime.server.channel.Quick`."""

    def starts(self) -> tuple[bytes, ...]:
        return () if role == "web" else polls.starts()

    def caller_of(self, headers: Mapping[str, str]) -> polls.Caller | None:
        return polls.caller_of(headers)

    take = staticmethod(polls.take)


def find_application() -> Application:
    """The application that ASGI_APPLICATION names; without that setting, Django's own with the platform in front."""
    named = getattr(django_settings, "ASGI_APPLICATION", None)
    if not named:
        return get_application(get_asgi_application())
    application: Application = import_string(named)
    if isinstance(application, ASGIHandler):
        raise ImproperlyConfigured(
            f"{named} is Django's application alone, which serves no sockets. "
            "In that module write: application = realtime.asgi.get_application(get_asgi_application())"
        )
    return application


async def _not_here(send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": NOT_FOUND})
    await send({"type": "http.response.body", "body": b"This process serves sockets alone (role realtime)."})


def _at_our_path(platform: Application, others: Application | None) -> Application:
    """Gives WebSockets of other paths to the project's own application, or refuses them, where a router would raise."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        ours = scope["path"].removeprefix(scope.get("root_path", "")) == settings.WEBSOCKET_PATH
        if ours and role != "web":
            await platform(scope, receive, send)
            return
        fallback = transports.find_socket(scope) if role != "web" else None
        if fallback is not None:
            await fallback(scope, receive, send)
            return
        if others is not None and not ours:
            await others(scope, receive, send)
            return
        await receive()
        if "websocket.http.response" in (scope.get("extensions") or {}):
            body = f"There is no WebSocket here, but at {settings.WEBSOCKET_PATH}.".encode()
            await send({"type": "websocket.http.response.start", "status": 404, "headers": NOT_FOUND})
            await send({"type": "websocket.http.response.body", "body": body})
        else:
            await send({"type": "websocket.close"})

    return application


def _in_turn(django_application: Application) -> Application:
    """Django's requests one after the other while the sockets have much to do; health is asked and told at any time."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        running = worker.current()
        if running is None or scope["path"].endswith(HEALTH):
            await django_application(scope, receive, send)
            return
        try:
            turn = await running.turns.take()
        except Full:
            await _refuse(send)
            return

        async def send_and_end(message: dict[str, Any]) -> None:
            # The view is done. What follows are bytes, for as long as the client takes.
            turn.end()
            await send(message)

        try:
            await django_application(scope, receive, send_and_end)
        finally:
            turn.end()

    return application


async def _refuse(send: Any) -> None:
    error = ProtocolError("unavailable", "Too many requests wait for this worker.", retry_after_ms=1000 * RETRY_S)
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"retry-after", b"%d" % RETRY_S),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": encode(error.body()).encode()})


async def _lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            worker.ensure()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            running = worker.current()
            if running is not None:
                await running.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
