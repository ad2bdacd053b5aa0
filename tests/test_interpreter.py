"""Whether the interpreter is kept while sending: only when another thread takes it, and not for ever."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from realtime import links
from realtime.interpreter import KEPT_MOST_S, KEPT_S, Interpreter, interpreter
from tests.conftest import eventually


class Fake:
    """A clock and a count of waits, set by the test."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits = 0
        self.interpreter = Interpreter(lambda: self.now, lambda: self.waits)

    def broadcast(self, waits: int) -> bool:
        """A broadcast that is slow twice, with so many waits between; whether the interpreter is kept afterwards."""
        self.waits += 100
        self.interpreter.begin()
        self.waits += 100
        self.interpreter.slow()
        self.waits += waits
        self.interpreter.slow()
        return self.interpreter.kept


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        yield ours, theirs


def test_a_machine_that_is_busy_elsewhere_is_no_reason() -> None:
    fake = Fake()
    assert not fake.broadcast(waits=0) and not fake.broadcast(waits=1)
    assert fake.broadcast(waits=4)
    assert fake.interpreter.contentions == 1


def test_the_cheaper_way_is_tried_again_and_less_often_each_time(pair: tuple[socket.socket, socket.socket]) -> None:
    fake = Fake()
    for keeping_s in (1.0, 2.0, 4.0, 8.0, 16.0, 16.0):
        assert fake.broadcast(waits=4)
        fake.now += keeping_s - 0.01
        fake.interpreter.send(pair[0].fileno(), b"x")
        assert fake.interpreter.kept, keeping_s
        fake.now += 0.02
        fake.interpreter.send(pair[0].fileno(), b"x")
        assert not fake.interpreter.kept, keeping_s
    assert KEPT_MOST_S == 16.0
    # After a quiet while it begins small.
    fake.now += 2 * KEPT_MOST_S
    assert fake.broadcast(waits=4)
    fake.now += KEPT_S + 0.01
    fake.interpreter.send(pair[0].fileno(), b"x")
    assert not fake.interpreter.kept


def test_it_sends_what_it_is_given_and_says_how_much_was_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert Fake().interpreter.send(ours.fileno(), b"a\0b") == 3
    assert theirs.recv(10) == b"a\0b"
    taken = 0
    with pytest.raises(OSError):
        while True:
            taken += Fake().interpreter.send(ours.fileno(), bytes(100_000))
    assert taken > 0
    theirs.close()
    with pytest.raises(OSError):  # and no signal that ends the process
        Fake().interpreter.send(ours.fileno(), b"x")


@contextmanager
def busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(10_000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Sink:
    """A link as far as a broadcast minds it."""

    def __init__(self, ours: socket.socket) -> None:
        self.ours = ours

    def write(self, payload: bytes) -> None:
        if interpreter.kept:
            interpreter.send(self.ours.fileno(), payload)
        else:
            self.ours.send(payload)


def test_a_broadcast_beside_a_busy_thread_is_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    before = interpreter.contentions
    writers = [Sink(ours).write] * 64

    def noticed() -> bool:
        links.WEBSOCKET.write_all(links.WEBSOCKET.ways(writers), b"x" * 10)
        theirs.recv(10_000)
        return interpreter.contentions > before

    with busy_thread():
        eventually(noticed, 20.0, what="another thread in between")
