"""What bench.storm says of those who are in: one that is lost, or mute, must not go unseen."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench.storm import LIFE, Storm

FRAME = b"\x81\x18{" + LIFE + b',"ref":2}'


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def inside(storm: Storm, stack: ExitStack) -> socket.socket:
    """The server's end of a connection that is in."""
    ours, theirs = (stack.enter_context(each) for each in socket.socketpair())
    ours.setblocking(False)
    storm.inside[ours] = len(storm.inside)
    storm._selector.register(ours, selectors.EVENT_READ)
    return theirs


def test_connections_that_end_by_themselves_are_counted(stack: ExitStack) -> None:
    storm = Storm(0, [])
    ends = [inside(storm, stack) for _ in range(3)]
    storm.turn(0)
    assert storm.lost == 0
    ends[1].close()
    storm.turn(0)
    assert (storm.lost, len(storm.inside)) == (1, 2)
    storm.leave(2)
    storm.turn(0)
    assert storm.lost == 1, "who leaves is not lost"


def test_who_gives_no_sign_of_life_is_silent(stack: ExitStack) -> None:
    storm = Storm(0, [])
    in_one_piece, in_two, mute, gone = (inside(storm, stack) for _ in range(4))
    gone.close()
    storm.ask()
    assert len(storm.silent) == 3 and storm.lost == 1
    assert b"ping" not in in_one_piece.recv(100), "masked, as clients do"
    in_one_piece.sendall(b"\x81\x02{}" + FRAME)
    in_two.sendall(FRAME[:9])
    mute.sendall(b'\x81\x14{"type":"heartbeat"}')
    storm.turn(0)
    assert len(storm.silent) == 2
    in_two.sendall(FRAME[9:])
    storm.turn(0)
    assert len(storm.silent) == 1 and storm.lost == 1
