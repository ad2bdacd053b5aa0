"""Broadcasts to WebSockets: whatever the kernel takes of each write, every socket gets all bytes, once, in order."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime import links
from realtime.interpreter import interpreter
from realtime.links import LOOK_EVERY, WEBSOCKET
from tests.conftest import MS


class Wire:
    """Like the server's socket, with a kernel that takes what it is told to: None, an error; else so many bytes."""

    def __init__(self, takes: list[int | None]) -> None:
        self._takes = takes
        self._waiting = b""
        self._is_clear = True
        self.number = -1
        self.got = b""
        self.rewired = 0

    @property
    def quick(self) -> Callable[[bytes], int] | None:
        return self._call if self._is_clear else None

    def _call(self, data: bytes) -> int:
        assert not self._waiting, "overtaken"
        takes = self._takes.pop(0) if self._takes else len(data)
        if takes is None:
            raise BlockingIOError
        self.got += data[:takes]
        return min(takes, len(data))

    def write(self, data: bytes) -> None:
        # What it met once, it meets again in its turn; here it buffers at once.
        self.write_rest(data, 0)

    def write_rest(self, data: bytes, taken: int) -> None:
        self._is_clear = False
        self.rewired += 1
        self._waiting += data[taken:]

    def drain(self) -> None:
        self.got, self._waiting, self._is_clear = self.got + self._waiting, b"", True


def plain(written: list[bytes]) -> Callable[[bytes], None]:
    """The writer of a link that is no socket: it takes everything and says nothing."""

    def write(data: bytes) -> None:
        written.append(data)

    return write


TAKES = st.lists(st.sampled_from([None, 0, 1, 3, 7, 100]), max_size=4)


@given(st.lists(st.none() | TAKES, min_size=1, max_size=3 * LOOK_EVERY), st.integers(1, 4))
def test_every_socket_gets_every_byte_once_and_in_order(
    sockets: list[list[int | None] | None], broadcasts: int
) -> None:
    wires = [None if takes is None else Wire(list(takes)) for takes in sockets]
    plains: list[list[bytes]] = [[] for _ in wires]
    writers = [plain(to) if wire is None else wire.write for wire, to in zip(wires, plains, strict=True)]
    expected = b""
    ways, rewired = WEBSOCKET.ways(writers), 0
    for number in range(broadcasts):
        payload = b"%07d" % number
        if rewired != sum(wire.rewired for wire in wires if wire):
            rewired = sum(wire.rewired for wire in wires if wire)
            ways = WEBSOCKET.ways(writers)  # as the hub does when it is told
        assert WEBSOCKET.write_all(ways, payload) == len(wires) * len(payload)
        expected += payload
    for wire, to in zip(wires, plains, strict=True):
        if wire is not None:
            wire.drain()
        assert (b"".join(to) if wire is None else wire.got) == expected


class Pair:
    """The same between two real sockets with small buffers."""

    def __init__(self, stack: ExitStack) -> None:
        self.ours, self.theirs = (stack.enter_context(each) for each in socket.socketpair())
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.number = self.ours.fileno()
        self.quick = self.ours.send
        self.waiting = b""

    def write(self, data: bytes) -> None:
        self.write_rest(data, 0)

    def write_rest(self, data: bytes, taken: int) -> None:
        self.waiting += data[taken:]

    def read(self) -> bytes:
        try:
            return self.theirs.recv(1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    with ExitStack() as stack:
        yield [Pair(stack) for _ in range(2 * LOOK_EVERY)]


@pytest.mark.parametrize("begins", ["kept from the start", "kept after a while", "not kept"])
def test_the_same_while_the_interpreter_is_kept(
    begins: str, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "begin", lambda: begins == "kept from the start")
    monkeypatch.setattr(interpreter, "slow", lambda: True)
    monkeypatch.setattr(links, "SLOW_S", -1 if begins == "kept after a while" else 60_000 * MS)
    for index, pair in enumerate(pairs):
        if index % 3 == 0:
            while True:  # full, or with room for a part
                try:
                    pair.ours.send(b"-" * 100)
                except BlockingIOError:
                    break
            if index % 2 == 0:
                pair.theirs.recv(100)
    payload = bytes(range(256)) * 4
    WEBSOCKET.write_all(WEBSOCKET.ways([pair.write for pair in pairs]), payload)
    for pair in pairs:
        got = pair.read() + pair.waiting
        assert got.lstrip(b"-") == payload
    assert any(pair.waiting for pair in pairs) and not all(pair.waiting for pair in pairs)
