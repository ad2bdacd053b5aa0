"""Sending without giving the interpreter away, while other threads want it.

Python releases its global lock around each `send()`, although a non-blocking one takes microseconds. Where another
thread waits for the lock it takes it every time, and keeps it for the switch interval: a broadcast to 500 sockets that
takes 5 ms alone took 2 s beside one busy thread. A call through `ctypes.PyDLL` keeps the lock, and 11 ms were left of
the 2 s; it costs a microsecond more, so it is used only from the moment that writes are seen to be slow, for a while.
"""

from __future__ import annotations

import ctypes
import resource
import socket
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Final

KEPT_S: Final = 1.0
"""How long the lock is kept after writes were slow; then the cheaper call is tried again."""

KEPT_MOST_S: Final = 16.0
"""The same after several such trials in a row, each of which had cost a slow broadcast its first few writes."""

WAITS: Final = 4
"""So often the thread waited during a few writes, if another one takes the interpreter at each of them."""


class Interpreter:
    """The choice for this process. Read and changed by the loop's thread alone."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, count_waits: Callable[[], int] | None = None
    ) -> None:
        self._clock = clock
        self._count_waits = count_waits or _count_waits
        self._keeping_s = KEPT_S
        self._until = 0.0
        self._send = _system_send()
        self._waits: int | None = None
        self.kept = False
        """Whether to call `send` instead of the socket's own."""
        self.contentions = 0
        """How often another thread was found in between."""

    def begin(self) -> bool:
        """A broadcast begins. Whether its writes have to keep the interpreter."""
        self._waits = None
        return self._keeps()

    def slow(self) -> bool:
        """Some writes of the broadcast took long. Whether the others have to keep the interpreter.

        They have to if the thread waited often since the last time it was told so: then it was for the interpreter. A
        non-blocking send never waits, and a machine that is busy with other things interrupts without being waited for.
        Once is nothing: the thread that committed what is sent has still to come to rest.
        """
        if self.kept or self._send is None:
            return self.kept
        before, self._waits = self._waits, self._count_waits()
        if before is None or self._waits - before < WAITS:
            return False
        now = self._clock()
        self._keeping_s = min(2 * self._keeping_s, KEPT_MOST_S) if now - self._until < self._keeping_s else KEPT_S
        self._until = now + self._keeping_s
        self.contentions += 1
        self.kept = True
        return True

    def _keeps(self) -> bool:
        if self.kept and self._clock() > self._until:
            self.kept = False
        return self.kept

    def send_all(self, descriptors: Sequence[int], data: bytes) -> list[int]:
        """`send` to each of them: how many bytes were taken, -1 where none could be."""
        assert self._send is not None
        return list(map(self._send, descriptors, repeat(data), repeat(len(data)), repeat(_FLAGS)))

    def send(self, descriptor: int, data: bytes) -> int:
        """send(2), non-blocking, keeping the interpreter: how many bytes were taken; OSError if none could be."""
        assert self._send is not None
        self._keeps()
        taken = self._send(descriptor, data, len(data), _FLAGS)
        if taken < 0:
            # Which error it is matters to nobody here: the transport meets it again.
            raise OSError("send failed")
        return taken


_FLAGS: Final = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)


_THREAD: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


def _count_waits() -> int:
    """How often the calling thread went to sleep by itself: for a lock, or in a call that blocks."""
    return resource.getrusage(_THREAD).ru_nvcsw


def _system_send() -> Callable[[int, bytes, int, int], int] | None:
    """The C library's `send`; None where it is not found or could block."""
    try:
        send = ctypes.PyDLL(None).send
    except (OSError, AttributeError, TypeError):
        return None
    if not hasattr(socket, "MSG_DONTWAIT") or not hasattr(socket, "MSG_NOSIGNAL"):
        return None
    send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    send.restype = ctypes.c_ssize_t
    return send


interpreter: Final = Interpreter()
