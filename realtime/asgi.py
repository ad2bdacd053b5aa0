"""The platform's ASGI application, in front of Django's: sockets here, everything else there.

`get_application(django_application)` is what a project's asgi.py calls. The worker starts with the first connection or
request, since Daphne has no lifespan; servers that have one start it then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter

from realtime import worker
from realtime.routing import websocket_urlpatterns

ROLES = ("all", "realtime", "web")

role = "all"
"""What this process serves, by `manage.py serve --role`. "realtime": sockets and health; "web": all but sockets."""

HEALTH = ("/healthz", "/readyz", "/metrics")

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

NOT_FOUND = [(b"content-type", b"text/plain; charset=utf-8")]


def get_application(django_application: Application) -> Application:
    """Routes `websocket` and `lifespan` to the platform and `http` to `django_application`."""
    router = ProtocolTypeRouter(
        {
            "websocket": _or_not_found(URLRouter(websocket_urlpatterns)),
            "http": django_application,
            "lifespan": _lifespan,
        }
    )

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        worker.ensure()
        if scope["type"] == "http" and role == "realtime" and scope["path"] not in HEALTH:
            await _not_here(send)
        else:
            await router(scope, receive, send)

    return application


async def _not_here(send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": NOT_FOUND})
    await send({"type": "http.response.body", "body": b"This process serves sockets alone (role realtime)."})


def _or_not_found(router: Application) -> Application:
    """Refuses WebSockets of other paths, where the router would raise."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        if path == "ws" and role != "web":
            await router(scope, receive, send)
            return
        await receive()
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await send({"type": "websocket.http.response.start", "status": 404, "headers": NOT_FOUND})
            await send({"type": "websocket.http.response.body", "body": b"There is no WebSocket here, but at /ws."})
        else:
            await send({"type": "websocket.close"})

    return application


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
