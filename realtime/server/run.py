"""One worker: Daphne with our WebSocket protocol, on an address or on a listening socket it was given.

Importing this module installs Twisted's asyncio reactor (Daphne does), so only the command that serves imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from autobahn.twisted.websocket import WebSocketServerProtocol
from daphne.server import Server
from django.core.exceptions import ImproperlyConfigured
from twisted.internet import defer, reactor, tcp
from twisted.protocols.basic import LineReceiver
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol

from realtime import worker
from realtime.conf import settings
from realtime.load import FILES_KEPT, open_files_most
from realtime.server.balance import Balance
from realtime.server.channel import QUICK, SeriatimChannel
from realtime.server.protocol import SeriatimProtocol
from realtime.server.request import CUT, SeriatimRequest
from realtime.turns import let_requests_stand_back

logger = logging.getLogger(__name__)

NEVER_S = 10**9
"""For Daphne's timers that the platform replaces: its pings come in bursts and may drop a slow peer too early."""

CLOSE_HANDSHAKE_S = 5
"""How long a client has to answer a close frame before the connection is dropped."""

FIRST_REQUEST_S = 1.0
"""How long a drain waits for the request of a connection that was accepted just before: a client sends it at once."""

CANCEL_S = 0.5
"""How long requests that are cancelled at the end of a drain get to end in order."""

EXIT_S = 2.0
"""How much longer than its drain time a process may take to end; whatever hangs then is left behind."""

BACKLOG = 4096
"""Connections that the kernel holds while a worker is busy: a mass reconnect arrives within a second. The kernel
lowers it to net.core.somaxconn."""

ACCEPTS_A_TURN = 20
"""Connections that are accepted before the loop serves others again. Each costs most of a millisecond until it is open,
and Twisted takes more at a time the more there are: a mass reconnect would hold up delivery by the second."""

HOOKS = (
    (tcp.Connection, "writeSomeData"),
    (tcp.Connection, "startWriting"),
    (tcp.Connection, "_maybePauseProducer"),
    (tcp.Connection, "_writeDisconnected"),
    (tcp.Port, "doRead"),
    (SeriatimProtocol, "sendCloseFrame"),
    (SeriatimProtocol, "dropConnection"),
    (WebSocketServerProtocol, "succeedHandshake"),
    (WebSocketServerProtocol, "processData"),
    (WebSocketServerProtocol, "onMessageFrameData"),
    (WebSocketServerProtocol, "_fail_connection"),
    (WebSocketServerProtocol, "_closeConnection"),
    (Server, "create_application"),
    (HTTPChannel, "resetTimeout"),
    (HTTPChannel, "timeoutConnection"),
    (HTTPChannel, "_waitingForTransport"),
    (LineReceiver, "_buffer"),
    (LineReceiver, "line_mode"),
)
"""What is used of Twisted, Autobahn and Daphne beside their documented interfaces."""


class SeriatimServer(Server):
    """Daphne's server with our protocol in its WebSocket factory and our extensions in WebSocket scopes."""

    def __init__(
        self,
        application: Callable[..., Awaitable[None]],
        endpoint: str,
        on_ready: Callable[[], object],
        **options: Any,
    ) -> None:
        self._on_ready = on_ready
        self.balance: Balance | None = None
        """Where several workers share the listening socket."""
        self.listen_failed = False
        self.leaving = False
        """The process is about to end."""
        self.quick_served: set[SeriatimChannel] = set()
        """Connections whose request is served without ASGI and has no answer yet."""
        self.silent: WeakKeyDictionary[SeriatimChannel, float] = WeakKeyDictionary()
        """Connections on which nothing has come yet, and when they were accepted (monotonic, s). Weak: a channel that
        Twisted exchanges for one of HTTP/2 hears of nothing any more."""
        self.buffer_high_bytes = settings.SOCKET_BUFFER_HIGH_BYTES
        self.deflate_min_bytes = settings.DEFLATE_MIN_BYTES
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
        build = self.http_factory.buildProtocol
        quick = getattr(self.application, QUICK, None)
        named = {"quick": quick, "starts": () if quick is None else quick.starts()}
        channel = type("Channel", (SeriatimChannel,), named)
        # Twisted's own factory makes its own channel; the proxy around it is for HTTP/2, where that is spoken.
        self.http_factory.protocol = lambda: _GenericHTTPChannelProtocol(channel())

        def build_protocol(address: Any) -> Any:
            protocol = build(address)
            protocol.requestFactory = SeriatimRequest
            return protocol

        self.http_factory.buildProtocol = build_protocol
        build_socket = self.ws_factory.buildProtocol

        def build_socket_protocol(address: Any) -> Any:
            instead, self.ws_factory.instead = self.ws_factory.instead, None
            return build_socket(address) if instead is None else instead

        self.ws_factory.buildProtocol = build_socket_protocol
        self.ws_factory.instead = None
        """The protocol of a request that asks for another than Autobahn's."""
        self.ws_factory.place = None
        self.ws_factory.setProtocolOptions(
            # Given again, since setProtocolOptions sets it back.
            allowNullOrigin=True,
            # A protocol error is answered with its close code, not with a reset connection.
            failByDrop=False,
            closeHandshakeTimeout=CLOSE_HANDSHAKE_S,
            # Daphne has a limit for the same, and without a timer for each.
            openHandshakeTimeout=0,
        )
        # Autobahn would copy each option to each connection, and make a log line of them that nobody reads: an eighth
        # of what a connection costs.
        options = {name: getattr(self.ws_factory, name) for name in SeriatimProtocol.CONFIG_ATTRS}
        self.ws_factory.protocol = type("Protocol", (SeriatimProtocol,), {**options, "CONFIG_ATTRS": ()})
        # In the loop's first turn, not with the first client: what the worker has to read should not make him wait.
        reactor.callLater(0, self._start_worker)  # type: ignore[arg-type]  # the stub has other argument names

    def listen_success(self, port: Any) -> Any:
        """Daphne forgets the port, which the drain has to close."""
        if self.balance is not None:
            self.balance.watch(port)
        accept = port.doRead

        def accept_some() -> None:
            port.numberAccepts = min(port.numberAccepts, ACCEPTS_A_TURN)
            accept()

        port.doRead = accept_some
        super().listen_success(port)
        return port

    def listen_error(self, failure: Any) -> None:
        """The address is taken, or not ours: said by Daphne, and told by the exit status."""
        self.listen_failed = True
        super().listen_error(failure)

    def _start_worker(self) -> None:
        if self.signal_handlers:
            # Twisted has set its own by now, which asks the loop to stop. A loop that hangs never hears of it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, partial(_exit_in_time, signal.getsignal(number)))
        running = worker.ensure()

        async def wait() -> None:
            await running.ready.wait()
            self._on_ready()

        self._starting = asyncio.ensure_future(wait())

    def kill_all_applications(self) -> defer.Deferred[None]:
        """Daphne's trigger before the reactor stops, which waits for it: drains instead of cutting everybody off.

        `/readyz` off; stop listening; let the worker send its clients away (`reconnect`, 1012) and store what it
        accepted, while requests that are under way get their answers; then end what is left.
        """
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        if self.balance is not None:
            self.balance.leave()
        self.leaving = True
        running = worker.current()
        if running is not None:
            running.refuse()
        for listener in self.listeners:
            port = listener.result if listener.called else None
            if port is not None:
                # What the kernel has accepted is still served; new connections go to those who still listen.
                await defer.maybeDeferred(port.stopListening).asFuture(asyncio.get_running_loop())
        if running is not None:
            await running.drain(self._is_busy)
        left = list(self._under_way())
        for application in left:
            application.cancel()
        if left:
            # Those that a thread works for end when it does, which nobody can hasten.
            await asyncio.wait(left, timeout=CANCEL_S)

    def _is_busy(self) -> bool:
        """Whether requests are under way, also those that are not here yet, on connections of the last moment."""
        since = time.monotonic() - FIRST_REQUEST_S
        expected = any(accepted_at > since for accepted_at in self.silent.values())
        return expected or bool(self.quick_served) or any(self._under_way())

    def _under_way(self) -> Iterator[asyncio.Future[None]]:
        """Applications that have not returned: handshakes and HTTP requests."""
        for details in list(self.connections.values()):
            application = details.get("application_instance")
            if application is not None and not application.done():
                yield application

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] != "websocket":
            scope["extensions"] = {CUT: protocol.cut}
            return super().create_application(protocol, scope)
        scope["extensions"] = protocol.extensions()
        queue = super().create_application(protocol, scope)
        self.connections[protocol]["application_instance"].add_done_callback(partial(self._application_done, protocol))
        return queue

    async def handle_reply(self, protocol: Any, message: Any) -> None:
        """Daphne's own returns at once, however much waits for the client."""
        await super().handle_reply(protocol, message)
        await protocol.room()

    def _application_done(self, protocol: Any, application: asyncio.Future[None]) -> None:
        """One that left an open socket to its callbacks needs none of what Daphne does for it every second."""
        socket = protocol.socket
        if (
            not application.cancelled()
            and application.exception() is None
            and socket is not None
            and socket.open
            and socket.on_closed is not None
        ):
            protocol.alone()
            self.connections.pop(protocol, None)

    def protocol_disconnected(self, protocol: Any) -> None:
        if protocol in self.connections:
            super().protocol_disconnected(protocol)


def check_hooks() -> None:
    """ImproperlyConfigured when the installed Daphne, Twisted or Autobahn lacks what the server builds on."""
    missing = [f"{owner.__name__}.{name}" for owner, name in HOOKS if not hasattr(owner, name)]
    if missing:
        raise ImproperlyConfigured(
            f"The installed Daphne, Twisted or Autobahn has no {', '.join(missing)}. "
            "Install the versions of requirements.txt."
        )


def _exit_in_time(before: Any, number: int, frame: Any) -> None:
    """Handler of the signals that end the process: does what was done before, and sees to it that it ends."""
    timer = threading.Timer(settings.DRAIN_S + EXIT_S, _exit_now)
    timer.daemon = True
    timer.start()
    before(number, frame)


def _exit_now() -> None:
    logger.error("The process did not end within %.0f s of the signal; leaving what hangs.", settings.DRAIN_S + EXIT_S)
    logging.shutdown()
    os._exit(1)


def _raise_open_files() -> None:
    """Every connection is an open file, and the usual limit is 1024; the hard one is there to be used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A hard limit of "infinity" is more than some kernels let a process have.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if open_files_most() - FILES_KEPT < settings.CONNECTIONS_MAX:
        logger.info(
            "The system allows %d open files, which bounds the connections before CONNECTIONS_MAX does.",
            open_files_most(),
        )


SWITCH_S = 0.0005
"""How long another thread keeps the interpreter when the loop wants it, instead of Python's 5 ms: a message passes
through the loop and the log writer several times before it is out. See docs/explanation/load.md."""


def _loop_is_busy() -> bool:
    running = worker.current()
    return running is not None and running.turns.loop_is_busy


def endpoint(host: str, port: int) -> str:
    """Twisted's description of a listening TCP address."""
    return f"tcp:port={port}:interface={host.replace(':', chr(92) + ':')}:backlog={BACKLOG}"


def adopted(descriptor: int) -> str:
    """Twisted's description of a listening socket that this process was given; whether IPv4 or IPv6 it finds out."""
    return f"fd:fileno={descriptor}"


def serve(
    application: Callable[..., Awaitable[None]],
    where: str,
    on_ready: Callable[[], object],
    *,
    handle_signals: bool = True,
    on_request: Callable[[str, str, dict[str, Any]], object] | None = None,
    balance: Balance | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Blocks; must run in the main thread.

    `on_ready` is called once, when clients are served. With `handle_signals` False it runs in any thread, until `stop`.
    `on_request(protocol, action, details)` hears of every request, as Daphne's access log does. `balance` is given
    where several workers accept from one socket.
    """
    check_hooks()
    _raise_open_files()
    sys.setswitchinterval(SWITCH_S)
    stop_standing_back = let_requests_stand_back(_loop_is_busy)
    server = SeriatimServer(
        application, where, on_ready, verbosity=0, signal_handlers=handle_signals, action_logger=on_request
    )
    server.balance = balance
    try:
        server.run()
    finally:
        stop_standing_back()
    if server.listen_failed:
        sys.exit(1)


def stop() -> None:
    """Has `serve` drain and return. From any thread; returns at once."""
    reactor.callFromThread(reactor.stop)  # type: ignore[misc]  # the stub has it as a function of a class
