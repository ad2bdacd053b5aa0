"""One worker: Daphne with our WebSocket protocol, on an address or on a listening socket it was given.

Importing this module installs Twisted's asyncio reactor (Daphne does), so only the command that serves imports it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from daphne.server import Server
from django.core.exceptions import ImproperlyConfigured
from twisted.internet import reactor, tcp

from realtime import worker
from realtime.conf import settings
from realtime.server.protocol import SeriatimProtocol

logger = logging.getLogger(__name__)

NEVER_S = 10**9
"""For Daphne's timers that the platform replaces: its pings come in bursts and may drop a slow peer too early."""

CLOSE_HANDSHAKE_S = 2
"""How long a client has to answer a close frame before the connection is dropped."""

BACKLOG = 4096
"""Connections that the kernel holds while a worker is busy: a mass reconnect arrives within a second. The kernel
lowers it to net.core.somaxconn."""

HOOKS = (
    (tcp.Connection, "writeSomeData"),
    (tcp.Connection, "startWriting"),
    (SeriatimProtocol, "sendCloseFrame"),
    (SeriatimProtocol, "dropConnection"),
    (Server, "create_application"),
)
"""What is used of Twisted, Autobahn and Daphne beside their documented interfaces."""


class SeriatimServer(Server):
    """Daphne's server with our protocol in its WebSocket factory and our extensions in WebSocket scopes."""

    def __init__(self, application: Callable[..., Awaitable[None]], endpoint: str, **options: Any) -> None:
        self.buffer_high_bytes = settings.SOCKET_BUFFER_HIGH_BYTES
        super().__init__(
            application,
            endpoints=[endpoint],
            ready_callable=self.extend,
            websocket_timeout=-1,
            ping_interval=NEVER_S,
            websocket_max_message_size=settings.MAX_FRAME_BYTES,
            websocket_max_frame_size=settings.MAX_FRAME_BYTES,
            server_name="seriatim",
            **options,
        )

    def extend(self) -> None:
        """Called by Daphne when its factories exist and before the reactor runs."""
        self.ws_factory.protocol = SeriatimProtocol
        self.ws_factory.setProtocolOptions(
            # Given again, since setProtocolOptions sets it back.
            allowNullOrigin=True,
            # A protocol error is answered with its close code, not with a reset connection.
            failByDrop=False,
            closeHandshakeTimeout=CLOSE_HANDSHAKE_S,
        )
        # In the loop's first turn, not with the first client: what the worker has to read should not make him wait.
        reactor.callLater(0, worker.ensure)  # type: ignore[arg-type]  # the stub has the arguments in another order

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] == "websocket":
            scope["extensions"] = protocol.extensions()
        return super().create_application(protocol, scope)


def check_hooks() -> None:
    """ImproperlyConfigured when the installed Daphne, Twisted or Autobahn lacks what the server builds on."""
    missing = [f"{owner.__name__}.{name}" for owner, name in HOOKS if not hasattr(owner, name)]
    if missing:
        raise ImproperlyConfigured(
            f"The installed Daphne, Twisted or Autobahn has no {', '.join(missing)}. "
            "Install the versions of requirements.txt."
        )


def endpoint(host: str, port: int) -> str:
    """Twisted's description of a listening TCP address."""
    return f"tcp:port={port}:interface={host.replace(':', chr(92) + ':')}:backlog={BACKLOG}"


def serve(application: Callable[..., Awaitable[None]], where: str) -> None:
    """Serves until SIGTERM or SIGINT. Blocks; must run in the main thread."""
    check_hooks()
    SeriatimServer(application, where, verbosity=0).run()
