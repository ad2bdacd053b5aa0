"""What of HTTP the transports serve, and how every request of theirs begins and may end.

`find` looks at method and path alone; whoever it finds answers the request, also where it refuses. Everything else is
Django's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from realtime import worker
from realtime.conf import settings
from realtime.protocol.errors import ProtocolError
from realtime.transports import frames, http, polls, relay, sockjs, streams, tickets
from realtime.transports.http import Header, Request, RequestGone, Send
from realtime.worker import Worker

logger = logging.getLogger(__name__)

Serve = Callable[[Request, Send, Worker, list[Header]], Awaitable[None]]
Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

PATHS: Mapping[str, Mapping[str, Serve]] = {
    "/events": {"GET": streams.serve_events},
    "/frames": {"POST": frames.serve_frames},
    "/poll": {"GET": polls.serve_poll, "POST": polls.serve_poll},
    "/tickets": {"POST": tickets.serve_tickets},
    "/stream": {"GET": streams.serve_lines, "POST": streams.serve_lines},
}
"""Below API_PATH, by method."""

CHANNEL_EVENTS: Mapping[str, Serve] = {"GET": streams.serve_channel_events}


def find(scope: dict[str, Any]) -> Application | None:
    """The application for a request, or None where it is not ours."""
    path = _path(scope)
    mounted = sockjs.find(path)
    if mounted is not None:
        return _SockJs(*mounted, path)
    prefix = settings.API_PATH
    if not path.startswith(prefix + "/"):
        return None
    rest = path[len(prefix) :]
    methods = PATHS.get(rest)
    if methods is not None:
        return _Endpoint(methods, "")
    if rest.startswith("/channels/") and rest.endswith("/events"):
        return _Endpoint(CHANNEL_EVENTS, unquote(rest[len("/channels/") : -len("/events")]))
    return None


def find_socket(scope: dict[str, Any]) -> Application | None:
    """The same for a WebSocket."""
    mounted = sockjs.find(_path(scope))
    if mounted is None or not mounted[0].websocket:
        return None
    service, rest = mounted
    parts = rest.split("/")[1:]
    if parts == ["websocket"] or (len(parts) == 3 and parts[2] == "websocket"):

        async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await sockjs.serve_socket(service, len(parts) == 1, scope, receive, send, worker.ensure())

        return application
    return None


def _path(scope: dict[str, Any]) -> str:
    """The path as it came: a slash that was percent-encoded is part of a name."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin1").partition("?")[0]
    return path.removeprefix(scope.get("root_path", ""))


class _SockJs:
    """Answers one request to a SockJS service, whose refusals are plain text as its protocol has them."""

    def __init__(self, service: sockjs.Service, rest: str, path: str) -> None:
        self._service = service
        self._rest = rest
        self._path = path

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        running = worker.ensure()
        request = Request(scope, receive)
        send = sockjs.patient(scope, send)
        try:
            cors = sockjs.cors_of(self._service, request)
            await running.ready.wait()
            session_id = sockjs.session_in(self._rest)
            elsewhere = session_id is not None and session_id not in self._service.sessions
            if elsewhere and request.method != "OPTIONS" and await relay.pass_on(self._path, request, send):
                return
            await sockjs.serve(self._service, self._rest, request, send, running, cors)
        except ProtocolError as error:
            await sockjs.refuse(send, running, error)
        except RequestGone:
            pass


class _Endpoint:
    """Answers one request: checks where it comes from, serves it, and turns what goes wrong into an answer."""

    def __init__(self, methods: Mapping[str, Serve], name: str) -> None:
        self._methods = methods
        self._name = name

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        running = worker.ensure()
        request = Request(scope, receive)
        request.name = self._name
        cors: list[Header] = []
        started = False

        async def watched(message: dict[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            cors = http.check_place(request)
            serve = self._methods.get(request.method)
            if serve is not None:
                await running.ready.wait()
                await serve(request, watched, running, cors)
            elif request.method == "OPTIONS":
                await http.preflight(watched, cors, [*self._methods, "OPTIONS"])
            else:
                await self._wrong_method(watched, running, cors)
        except ProtocolError as error:
            await http.refuse(watched, running, error, cors)
        except RequestGone:
            pass
        except Exception:
            # What was sent cannot be taken back; the server then ends the connection.
            if started:
                raise
            logger.exception("%s %s failed.", request.method, scope["path"])
            await http.refuse(watched, running, ProtocolError("internal"), cors)

    async def _wrong_method(self, send: Send, running: Worker, cors: list[Header]) -> None:
        error = ProtocolError(
            "bad_frame", "This address does not know this method.", remedy="The header Allow lists those it knows."
        )
        allowed = ", ".join([*self._methods, "OPTIONS"]).encode()
        await http.refuse(send, running, error, [*cors, (b"allow", allowed)], status=405)
