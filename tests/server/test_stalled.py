"""Sockets that stand still: what was written to them comes whole and in order, and is kept once for all of them."""

from __future__ import annotations

import os
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from autobahn.websocket.protocol import WebSocketProtocol as Autobahn
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import tcp

from realtime.links import WEBSOCKET
from realtime.server.protocol import Socket

HIGH_BYTES = 16_384
WRITE_BYTES = 65_536


class Reactor:
    """Takes down who wants to write; the test decides when they may."""

    def __init__(self) -> None:
        self.writers: list[tcp.Connection] = []

    def addReader(self, reader: object) -> None: ...

    def addWriter(self, writer: tcp.Connection) -> None:
        if writer not in self.writers:
            self.writers.append(writer)

    def removeReader(self, reader: object) -> None: ...

    def removeWriter(self, writer: tcp.Connection) -> None:
        if writer in self.writers:
            self.writers.remove(writer)


class Opened:
    """An open WebSocket over Twisted's own transport, and its client's end, both with small buffers."""

    def __init__(self, stack: ExitStack, reactor: Reactor) -> None:
        ours, self.theirs = (stack.enter_context(each) for each in socket.socketpair())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for each in (ours, self.theirs):
            each.setblocking(False)
        transport: Any = tcp.Connection(ours, SimpleNamespace(), reactor)  # type: ignore[arg-type]
        transport.connected = 1
        server = SimpleNamespace(buffer_high_bytes=HIGH_BYTES)
        self.transport = transport
        protocol: Any = SimpleNamespace(
            transport=transport, state=Autobahn.STATE_OPEN, factory=SimpleNamespace(server_class=server)
        )
        self.socket = Socket(protocol)
        # Called through the loop, which no test here has.
        self.socket.on_congested = self.socket.on_drained = None
        self.socket.opened()

    def read(self, most: int = 1 << 20) -> bytes:
        try:
            return self.theirs.recv(most)
        except BlockingIOError:
            return b""

    def read_all(self) -> bytes:
        got = self.read()
        while self.socket.buffered_bytes:
            self.transport.doWrite()
            got += self.read()
        return got


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


SIZES = st.sampled_from([1, 100, 1023, 1024, 5000, 20_000, WRITE_BYTES])
STEPS = st.lists(
    st.tuples(st.just("write"), SIZES) | st.tuples(st.just("read"), SIZES) | st.tuples(st.just("drain"), st.just(0)),
    max_size=25,
)


@given(STEPS)
def test_wherever_a_write_is_cut_every_byte_comes_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    with ExitStack() as stack:
        opened = Opened(stack, Reactor())
        sent, got = b"", b""
        for step, size in steps:
            if step == "write":
                data = os.urandom(size)
                sent += data
                opened.socket.write(data)
            elif step == "read":
                got += opened.read(size)
            elif opened.socket.buffered_bytes:
                opened.transport.doWrite()
            assert 0 <= opened.socket.buffered_bytes <= len(sent) - len(got)
        got += opened.read_all()
        assert got == sent
        moved = opened.socket.moved_bytes
        opened.socket.write(b"after")
        assert opened.read_all() == b"after" and opened.socket.moved_bytes == moved, "straight to the kernel again"


def test_what_many_do_not_take_is_kept_once(stack: ExitStack) -> None:
    reactor = Reactor()
    all_opened = [Opened(stack, reactor) for _ in range(200)]
    payloads = [os.urandom(WRITE_BYTES) for _ in range(2)]
    ways = WEBSOCKET.ways([each.socket.write for each in all_opened])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        WEBSOCKET.write_all(ways, payloads[0])
        assert all(each.transport.producerPaused for each in all_opened), "the hub is told to write no more"
        assert len(reactor.writers) == len(all_opened)
        for each in all_opened:
            each.socket.write(payloads[1])
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    waiting = [each.socket.buffered_bytes for each in all_opened]
    assert min(waiting) > WRITE_BYTES, "or nothing is shown"
    assert grown < 4096 * len(all_opened), f"{grown} bytes for {sum(waiting)} that wait"
    for each in all_opened:
        assert each.read_all() == b"".join(payloads)


def test_nothing_is_buffered_for_one_who_is_gone(stack: ExitStack) -> None:
    opened = Opened(stack, Reactor())
    data = os.urandom(WRITE_BYTES)
    opened.transport.connected = 0
    opened.socket.write_rest(data, 10_000)
    assert opened.socket.buffered_bytes == 0
