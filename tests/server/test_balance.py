"""Who accepts the next connection: the table that workers share, and a port that waits for its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import tcp

from realtime.server import balance
from realtime.server.balance import HOLD_S, SAY_EVERY_S, SLACK, STALE_S, Balance, Table


class Clock:
    """The time, and what is to be called later."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.due: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def monotonic(self) -> float:
        return self.now

    def callLater(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        self.due.append((self.now + seconds, callback, arguments))

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.due and min(self.due, key=lambda each: each[0])[0] <= until:
            first = min(self.due, key=lambda each: each[0])
            self.due.remove(first)
            self.now = max(self.now, first[0])
            first[1](*first[2])
        self.now = until


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    monkeypatch.setattr(balance, "time", found)
    monkeypatch.setattr(balance, "reactor", found)
    yield found


class Port:
    """A listening port with connections waiting in its queue; a turn of the loop is `turn`."""

    def __init__(self, waiting: list[int]) -> None:
        self.waiting = waiting
        """One number, shared by the ports of all workers."""
        self.connected, self.disconnecting = True, False
        self.reading = True
        self.numberAccepts = 100
        self.accepted = 0
        self.balance: Any = None
        self.transport: Any = None

    def doRead(self) -> None:
        taken = min(self.numberAccepts, self.waiting[0])
        self.waiting[0] -= taken
        self.accepted += taken
        self.balance.count += taken
        self.numberAccepts = 100

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True

    def turn(self) -> None:
        if self.reading and self.waiting[0]:
            self.doRead()


class Workers:
    """Several workers on one queue."""

    def __init__(self, folder: Path, clock: Clock, count: int) -> None:
        self.folder, self.clock, self.count = folder, clock, count
        self.waiting = [0]
        self.ports = [self.start(number) for number in range(1, count + 1)]

    def start(self, number: int) -> Port:
        port = Port(self.waiting)
        Balance(Table(self.folder / "table", self.count, number)).watch(port)
        return port

    def arrive(self, count: int, order: Callable[[list[Port]], list[Port]] = list) -> None:
        """So many at once; then the ports look, in that order, until all are taken."""
        self.waiting[0] += count
        for _ in range(10_000):
            if not self.waiting[0]:
                return
            for port in order(self.ports):
                port.turn()
            self.clock.advance(0.001)
        raise AssertionError(f"{self.waiting[0]} connections are still waiting")

    def counts(self) -> list[int]:
        return [port.balance.count for port in self.ports]


def test_a_burst_is_shared(tmp_path: Path, clock: Clock) -> None:
    workers = Workers(tmp_path, clock, 3)
    workers.arrive(300)
    assert sum(workers.counts()) == 300
    assert max(workers.counts()) - min(workers.counts()) <= 2 * SLACK


def test_connections_one_by_one_are_shared_whoever_looks_first(tmp_path: Path, clock: Clock) -> None:
    workers = Workers(tmp_path, clock, 3)
    for _ in range(300):
        workers.arrive(1)
    assert max(workers.counts()) - min(workers.counts()) <= SLACK + 5


def test_one_that_starts_later_gets_what_comes_until_it_has_as_many(tmp_path: Path, clock: Clock) -> None:
    workers = Workers(tmp_path, clock, 3)
    workers.arrive(300)
    workers.ports[2].balance.leave()
    workers.ports[2] = workers.start(3)
    for _ in range(90):
        workers.arrive(1)
    assert workers.counts()[2] >= 80
    # Those that its predecessor sent away.
    assert min(workers.counts()) > 80


def test_nobody_waits_long_for_one_that_does_not_accept(tmp_path: Path, clock: Clock) -> None:
    """It speaks, and takes nothing: its loop is busy."""
    workers = Workers(tmp_path, clock, 2)
    workers.arrive(100, lambda ports: ports[:1])
    assert workers.ports[0].accepted == 100
    before = clock.now
    workers.arrive(1, lambda ports: ports[:1])
    assert clock.now - before <= 2 * HOLD_S


@pytest.mark.parametrize("how", ["dead", "left"])
def test_who_is_not_there_is_not_waited_for(tmp_path: Path, clock: Clock, how: str) -> None:
    workers = Workers(tmp_path, clock, 2)
    if how == "left":
        workers.ports[1].balance.leave()
    else:
        clock.due = [each for each in clock.due if each[1] != workers.ports[1].balance._say]
        clock.advance(2 * STALE_S)
    workers.waiting[0] = 100
    workers.ports[0].turn()
    assert workers.ports[0].accepted == 100, "at once, as if it were alone"


def test_a_worker_speaks_while_it_is_there(tmp_path: Path, clock: Clock) -> None:
    workers = Workers(tmp_path, clock, 2)
    workers.ports[1].balance.count = 7
    clock.advance(20 * SAY_EVERY_S)
    assert workers.ports[0].balance._table.least() == 7
    workers.ports[1].balance.leave()
    clock.advance(20 * SAY_EVERY_S)
    assert workers.ports[0].balance._table.least() is None


def test_a_successor_sits_beside_whom_it_replaces(tmp_path: Path, clock: Clock) -> None:
    first = Table(tmp_path / "table", 2, 1)
    first.say(50)
    successor = Table(tmp_path / "table", 2, 1)
    successor.say(3)
    other = Table(tmp_path / "table", 2, 2)
    assert other.least() == 3
    successor.leave()
    assert other.least() == 50
    # The third takes the seat of the first, which has left long ago.
    clock.advance(1)
    successor.say(4)
    first.leave()
    third = Table(tmp_path / "table", 2, 1)
    third.say(1)
    assert {other.least(), successor.least()} == {1}


def test_a_port_that_is_closed_while_it_waits_stays_closed(tmp_path: Path, clock: Clock) -> None:
    workers = Workers(tmp_path, clock, 2)
    port = workers.ports[0]
    port.balance.count = 100
    workers.waiting[0] = 1
    port.turn()
    assert not port.reading and not port.accepted
    port.connected = False
    clock.advance(1)
    assert not port.reading


def test_connections_are_counted_while_they_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp.Server, "__init__", lambda *_: None)
    lost: list[object] = []
    monkeypatch.setattr(tcp.Server, "connectionLost", lambda self, reason: lost.append(reason))
    port = SimpleNamespace(balance=SimpleNamespace(count=0))
    connections = [balance._Counted(None, None, None, port) for _ in range(3)]
    assert port.balance.count == 3
    connections[0].connectionLost("gone")
    connections[0].connectionLost("again")
    assert (port.balance.count, lost) == (2, ["gone", "again"])
