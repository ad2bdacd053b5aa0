"""Plain requests that the channel serves itself: taken only where nobody could read them in another way, and like all
others to whoever sends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel

from realtime.server.channel import AHEAD_MOST_BYTES, BODY_MOST_BYTES, SeriatimChannel, read_head

BODY = b'{"attach":[]}'
LINE = b"POST /poll HTTP/1.1"
USUAL = (b"Host: here", b"Authorization: Bearer t", b"Content-Length: %d" % len(BODY))


def head(*lines: bytes, first: bytes = LINE) -> bytes:
    return b"\r\n".join([first, *lines])


def whole(*more: bytes) -> bytes:
    return head(*USUAL, *more) + b"\r\n\r\n" + BODY


class Asked:
    """An application that is asked for what begins as it says."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes | None, bytes]] = []
        self.done: list[Callable[[int, bytes, Sequence[tuple[bytes, bytes]]], None]] = []
        self.gone = 0
        self.read = 0
        """Heads that it was shown."""
        self.refuses = False

    def starts(self) -> tuple[bytes, ...]:
        return b"POST /poll HTTP/1.1\r\n", b"GET /poll?"

    def caller_of(self, headers: Mapping[str, str]) -> object:
        self.read += 1
        return headers["authorization"]

    def take(self, caller: Any, query: bytes | None, body: bytes, peer: str | None, done: Any) -> Any:
        if self.refuses:
            return None
        self.taken.append((query, body))
        self.done.append(done)
        return self._leave

    def _leave(self) -> None:
        self.gone += 1

    def answer(self) -> None:
        self.done.pop(0)(200, b"{}", [(b"cache-control", b"no-store")])


class Server:
    leaving = False
    action_logger = None
    root_path = ""
    server_name = "seriatim"

    def __init__(self) -> None:
        self.quick_served: set[object] = set()
        self.silent: dict[object, float] = {}


class Line:
    """A connection, and what was left to Twisted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = Asked()
        self.server = Server()
        self.clock: Any = cast("Any", Clock)()
        self.others: list[bytes] = []
        monkeypatch.setattr(HTTPChannel, "dataReceived", lambda channel, data: self.others.append(data))
        self.channel: Any = cast("Any", SeriatimChannel)()
        self.channel.factory = self
        self.channel.quick = self.asked
        self.channel.starts = self.asked.starts()
        self.channel.callLater = self.clock.callLater
        self.channel.timeOut = 60
        self.transport: Any = cast("Any", StringTransport)()
        self.channel.makeConnection(self.transport)
        monkeypatch.setattr("realtime.server.channel.time.monotonic", self.clock.seconds)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


# ---------------------------------------------------------------------- what is plain


def test_a_plain_head_is_read() -> None:
    found = read_head(head(*USUAL, b"Origin:http://there \t", b"Connection: Keep-Alive"))
    assert found is not None
    assert (found.body_bytes, found.query) == (len(BODY), None)
    assert found.headers["origin"] == "http://there"
    found = read_head(head(b"host: here", first=b"GET /poll?attach=a,k3J9.7&wait_ms=5 HTTP/1.1"))
    assert found is not None and found.query == b"attach=a,k3J9.7&wait_ms=5"


@pytest.mark.parametrize(
    "lines",
    [
        USUAL[1:],  # no Host
        USUAL[:2],  # a POST without a length
        (*USUAL, USUAL[2]),  # twice the same is once too often
        (*USUAL, b"Content-Length: 7"),
        (*USUAL[:2], b"Content-Length: +13"),
        (*USUAL[:2], b"Content-Length: 13, 13"),
        (*USUAL[:2], b"Content-Length: 0x0d"),
        (*USUAL[:2], b"Content-Length: %d" % (BODY_MOST_BYTES + 1)),
        (*USUAL, b"Transfer-Encoding: chunked"),
        (*USUAL, b"transfer-encoding: identity"),
        (*USUAL, b"Transfer-Encoding : chunked"),
        (*USUAL, b"Expect: 100-continue"),
        (*USUAL, b"Connection: close"),
        (*USUAL, b"Connection: keep-alive, upgrade"),
        (*USUAL, b"Upgrade: websocket"),
        (*USUAL, b"Daphne-Root-Path: /x"),
        (*USUAL, b"X-Continued: a", b" Transfer-Encoding: chunked"),
        (*USUAL, b"X: a\nTransfer-Encoding: chunked"),
        (*USUAL, b"X: a\rTransfer-Encoding: chunked"),
        (*USUAL, b"X: a\0b"),
        (*USUAL, b"X: \xe4"),
        (*USUAL, b"Authorization: Bearer u"),
        (*USUAL, b"X_Forwarded_For: 192.0.2.1"),
        (*USUAL, b"no colon"),
        (*USUAL, b": no name"),
        (*USUAL, b"X-Empty:"),
        (*USUAL, *[b"X-%d: a" % number for number in range(70)]),
        (*USUAL, b"X: " + b"a" * 8192),
    ],
)
def test_whatever_somebody_might_read_otherwise_is_not(lines: tuple[bytes, ...]) -> None:
    assert read_head(head(*lines)) is None


@pytest.mark.parametrize(
    ("first", "lines"),
    [
        (b"GET /poll?a HTTP/1.1", USUAL),  # with a body
        (b"GET /poll?a HTTP/1.0", USUAL[:2]),
        (b"GET /poll?a  HTTP/1.1", USUAL[:2]),
        (b"GET /poll?a#b HTTP/1.1", USUAL[:2]),
        (b"GET /poll?\xe4 HTTP/1.1", USUAL[:2]),
    ],
)
def test_a_get_is_one_of_http_1_1_without_a_body(first: bytes, lines: tuple[bytes, ...]) -> None:
    assert read_head(head(*lines, first=first)) is None


@given(st.lists(st.sampled_from([*USUAL, b"", b" x", b"a:b", b"Host:\tx", b"A:\x7f", b"\r", b"b: \r", b"X:y\n"])))
def test_what_is_read_has_every_line_as_it_was_sent(lines: list[bytes]) -> None:
    found = read_head(head(*lines))
    if found is not None:
        sent = [line.partition(b":") for line in lines]
        assert found.headers == {n.decode().lower(): v.decode().strip(" \t") for n, _, v in sent}
        assert len(sent) == len(found.headers)


# ---------------------------------------------------------------------- on a connection


def test_requests_are_served_one_after_the_other(line: Line) -> None:
    for count in range(1, 4):
        line.channel.dataReceived(whole())
        assert len(line.asked.taken) == count and line.server.quick_served == {line.channel}
        line.asked.answer()
        assert not line.server.quick_served
    answers = line.transport.value()
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answers.endswith(b"Content-Length: 2\r\ncache-control: no-store\r\nServer: seriatim\r\n\r\n{}")
    assert line.asked.taken == [(None, BODY)] * 3 and line.others == []
    # The same head is read once.
    assert line.asked.read == 1
    line.channel.dataReceived(whole().replace(b"Bearer t", b"Bearer u"))
    line.channel.dataReceived(b"")
    assert line.asked.read == 2


def test_a_head_that_is_known_is_known_to_its_end(line: Line) -> None:
    line.channel.dataReceived(whole())
    line.asked.answer()
    longer = whole().replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.channel.dataReceived(longer)
    assert line.others == [longer]


@pytest.mark.parametrize("cut", [1, 20, len(whole()) - 1])
def test_half_a_request_is_left_to_twisted(line: Line, cut: int) -> None:
    line.channel.dataReceived(whole()[:cut])
    assert line.others == [whole()[:cut]] and not line.asked.taken


def test_two_requests_in_one_are_left_to_twisted(line: Line) -> None:
    line.channel.dataReceived(whole() + whole())
    assert line.others == [whole() + whole()]


def test_what_comes_behind_waits_in_order(line: Line) -> None:
    line.channel.dataReceived(whole())
    other = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
    line.channel.dataReceived(other[:9])
    line.channel.dataReceived(other[9:])
    assert line.others == []
    line.asked.answer()
    assert line.others == [other]


def test_what_comes_behind_is_bounded(line: Line) -> None:
    line.channel.dataReceived(whole())
    line.channel.dataReceived(b"x" * AHEAD_MOST_BYTES)
    assert line.transport.producerState == "producing"
    line.channel.dataReceived(b"x")
    assert line.transport.producerState == "paused"
    line.asked.answer()
    assert line.transport.producerState == "producing"


@pytest.mark.parametrize("state", ["request", "buffer", "raw", "last", "leaving", "logged", "refused"])
def test_it_steps_back(line: Line, state: str) -> None:
    channel = line.channel
    match state:
        case "request":
            channel.requests.append(object())
        case "buffer":
            channel._buffer = b"\r"
        case "raw":
            channel.line_mode = 0
        case "last":
            channel.persistent = False
        case "leaving":
            line.server.leaving = True
        case "logged":
            line.server.action_logger = print  # type: ignore[assignment]
        case "refused":
            line.asked.refuses = True
    channel.dataReceived(whole())
    assert line.others == [whole()] and not line.asked.taken
    channel.requests.clear()


def test_who_has_said_nothing_yet_is_known(line: Line) -> None:
    assert list(line.server.silent) == [line.channel]
    line.channel.dataReceived(b"P")
    assert not line.server.silent


def test_who_goes_without_a_word_is_forgotten(line: Line) -> None:
    line.channel.connectionLost(None)
    assert not line.server.silent


def test_a_client_that_goes_away_is_told_of(line: Line) -> None:
    line.channel.dataReceived(whole())
    line.channel.connectionLost(None)
    assert line.asked.gone == 1 and not line.server.quick_served


def test_an_idle_connection_ends_a_minute_behind_its_last_answer(line: Line) -> None:
    line.channel.dataReceived(whole())
    line.clock.pump([10] * 20)
    assert not line.transport.disconnecting
    line.asked.answer()
    line.clock.pump([1] * 59)
    assert not line.transport.disconnecting
    line.clock.pump([1] * 2)
    assert line.transport.disconnecting
