"""A TCP proxy that can fall silent without closing anything, as a network does that drops packets.

It runs in threads, so that it serves coroutine tests and tests that block alike. Connections to it are made by the
kernel even while it is silent; what it cannot imitate is a peer that does not acknowledge bytes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

_CHUNK = 65_536


class StallingProxy:
    """Passes bytes on to `upstream_port` and back until told otherwise; also a context manager."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream = ("127.0.0.1", upstream_port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        self.passed_bytes = 0
        self._sockets: set[socket.socket] = set()
        self._gates: list[threading.Event] = []
        self._forgotten: list[threading.Event] = []
        self._silent = False
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Nothing passes any more, neither on connections that are there nor on new ones."""
        self._silent = True
        for gate in self._gates:
            gate.clear()

    def heal(self) -> None:
        """Everything passes again, what was held back first."""
        self._silent = False
        for gate in self._gates:
            gate.set()

    def forget(self) -> None:
        """Connections that are there carry nothing for ever, new ones work: a firewall that lost its table."""
        for gate in self._gates:
            gate.clear()
        self._forgotten += self._gates
        self._gates.clear()

    def cut(self) -> None:
        """Connections that are there end at once, new ones work."""
        for each in list(self._sockets):
            self._end(each)

    @property
    def connections(self) -> int:
        """Open ones, the forgotten among them."""
        return len(self._sockets) // 2

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            # Closing alone would leave `accept` waiting.
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in list(self._sockets):
            self._end(each)
        for gate in (*self._gates, *self._forgotten):
            gate.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- threads -----------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                down, _ = self._listening.accept()
            except OSError:
                return
            gate = threading.Event()
            if not self._silent:
                gate.set()
            self._gates.append(gate)
            threading.Thread(target=self._connect, args=(down, gate), daemon=True).start()

    def _connect(self, down: socket.socket, gate: threading.Event) -> None:
        gate.wait()
        try:
            up = socket.create_connection(self._upstream, timeout=5)
        except OSError:
            down.close()
            return
        up.settimeout(None)
        for each in (down, up):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets |= {down, up}
        for source, target in ((down, up), (up, down)):
            threading.Thread(target=self._pass, args=(source, target, gate), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, gate: threading.Event) -> None:
        try:
            while data := source.recv(_CHUNK):
                gate.wait()
                target.sendall(data)
                self.passed_bytes += len(data)
            gate.wait()
        except OSError:
            pass
        self._end(source)
        self._end(target)

    def _end(self, each: socket.socket) -> None:
        self._sockets.discard(each)
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
