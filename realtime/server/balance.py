"""Least connections: several workers take connections from one listening socket, and each minds the others' load.

The kernel wakes every worker for a connection, and whoever comes first takes it. That is even only while all are
alike: a worker that was just started, or the last to be replaced, would stay emptier than the others for hours. So the
workers keep a table in a file that all of them map: how many connections each has, and when it last said so. One that
has more than the least waits a moment before it accepts, and takes the connection only if nobody else has. Nothing
depends on the table: who does not say anything any more is not counted, and nobody waits for longer than `HOLD_S`.

The alternative, a listening socket for each worker (SO_REUSEPORT), would lose what waits in the queue of one that ends.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor, tcp

SEAT = struct.Struct("=dQ")
"""When a worker last spoke, by the clock that all processes share (0: never, or it has left), and its connections."""

SEATS_A_WORKER = 2
"""One that starts sits beside the one that it replaces, which may still accept and then drains."""

SAY_EVERY_S = 0.25
STALE_S = 1.0
"""A worker that has said nothing for so long is dead, stopped or too busy to accept: nobody waits for it."""

HOLD_S = 0.02
"""How long a connection is left to others who have fewer. Longer than it takes an idle one to accept it while the
processors are busy."""

SLACK = 8
SLACK_PERCENT = 5
"""How many more than the least one may have, and how many it takes when nobody else did: a burst that is taken one by
one costs half as much again."""


class Table:
    """What the workers of one supervisor know of each other. `number` counts from 1."""

    def __init__(self, path: Path, workers: int, number: int) -> None:
        size = SEAT.size * SEATS_A_WORKER * workers
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, size)
            self._table = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        seats = range(SEATS_A_WORKER * (number - 1), SEATS_A_WORKER * number)
        # The one that has been silent for longer: the other's owner may still be there.
        self._own = min(seats, key=lambda seat: self._read(seat)[0]) * SEAT.size

    def say(self, count: int) -> None:
        SEAT.pack_into(self._table, self._own, time.monotonic(), count)

    def leave(self) -> None:
        SEAT.pack_into(self._table, self._own, 0.0, 0)

    def least(self) -> int | None:
        """The fewest connections that another worker has; None when there is nobody else."""
        since = time.monotonic() - STALE_S
        seats = range(0, len(self._table), SEAT.size)
        counts = [
            count
            for offset in seats
            if offset != self._own
            for said_at, count in [SEAT.unpack_from(self._table, offset)]
            if said_at > since
        ]
        return min(counts, default=None)

    def _read(self, seat: int) -> tuple[float, int]:
        said_at, count = SEAT.unpack_from(self._table, seat * SEAT.size)
        return said_at, count


class _Counted(tcp.Server):
    """An accepted connection, which the port's balance counts while it lasts."""

    def __init__(self, sock: Any, protocol: Any, client: Any, server: Any, *rest: Any) -> None:
        super().__init__(sock, protocol, client, server, *rest)
        self._balance: Balance | None = server.balance
        server.balance.count += 1

    def connectionLost(self, reason: Any) -> None:
        balance, self._balance = self._balance, None
        if balance is not None:
            balance.count -= 1
        super().connectionLost(reason)


class Balance:
    """Decides when this worker's port accepts. On the loop's thread."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.count = 0
        self._left = False

    def watch(self, port: Any) -> None:
        """From now on the port accepts when it is this worker's turn."""
        accept = port.doRead
        port.balance = self
        port.transport = _Counted

        def take(most: int) -> None:
            port.numberAccepts = min(port.numberAccepts, most)
            accept()
            self._tell()

        def accept_in_turn() -> None:
            room = self.room()
            if room < 1:
                port.stopReading()
                reactor.callLater(HOLD_S, take_what_is_left)  # type: ignore[arg-type]  # see `_say`
            else:
                take(room)

        def take_what_is_left() -> None:
            if port.connected and not port.disconnecting:
                take(max(SLACK, self.room()))
                port.startReading()

        port.doRead = accept_in_turn
        self._say()

    def leave(self) -> None:
        """It accepts nothing more; nobody waits for it."""
        self._left = True
        self._table.leave()

    def room(self) -> int:
        """How many more it should take before others have as many; may be negative."""
        least = self._table.least()
        if least is None:
            return 1 << 30
        return least + max(SLACK, least * SLACK_PERCENT // 100) - self.count

    def _tell(self) -> None:
        if not self._left:
            self._table.say(self.count)

    def _say(self) -> None:
        self._tell()
        if not self._left:
            reactor.callLater(SAY_EVERY_S, self._say)  # type: ignore[arg-type]  # the stub has other argument names
