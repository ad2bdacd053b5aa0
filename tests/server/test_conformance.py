"""RFC 6455 and RFC 7692 against the echo, byte by byte: the nastiest of what the Autobahn suite asks, and quick.

The whole suite is run by `python -m tests.conformance`. Everything here is sent both ways into the application: through
the socket's own callbacks (/echo), with our parser before Autobahn's, and through ASGI (/asgi).
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping

import pytest

from realtime.protocol.deflate import pack
from tests.conformance.server import Echo
from tests.conftest import MS, eventually
from tests.server.test_protocol import BINARY, CLOSE, CONTINUED, PING, TEXT, frame

pytestmark = pytest.mark.e2e

PONG = 10
PATIENCE_S = 60_000 * MS
MIB = 1 << 20
OFFER = "permessage-deflate; client_max_window_bits"


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    with Echo() as running:
        yield running


class Line:
    """A client that sends bytes and reads frames."""

    def __init__(self, port: int, path: str, offer: str | None, headers: Mapping[str, str] | None = None) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        given = {**(headers or {}), **({"Sec-WebSocket-Extensions": offer} if offer is not None else {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self.sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"{lines}\r\n".encode()
        )
        self._left = b""
        while b"\r\n\r\n" not in self._left:
            self._read()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        status, *answered = head.decode().split("\r\n")
        assert " 101 " in status, status
        fields = (line.partition(":") for line in answered)
        self.headers = {name.lower(): value.strip() for name, _, value in fields}

    @property
    def agreed(self) -> str:
        return self.headers.get("sec-websocket-extensions", "")

    def send(self, *pieces: bytes, chop: int | None = None) -> Line:
        """All in one write, or in writes of so many bytes."""
        data = b"".join(pieces)
        for start in range(0, len(data), chop or len(data) or 1):
            self.sock.sendall(data[start : start + (chop or len(data))])
        return self

    def _read(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise EOFError
        self._left += data

    def _take(self, count: int) -> bytes:
        while len(self._left) < count:
            self._read()
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def frame(self) -> tuple[int, bytes]:
        """The next frame: its first byte and its payload. EOFError when there is none any more."""
        first, size = self._take(2)
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        elif size == 127:
            size = int.from_bytes(self._take(8), "big")
        return first, self._take(size)

    def message(self, window_bits: int = 15) -> tuple[int, bytes]:
        """The next message, which the echo sends whole: its opcode and its bytes."""
        first, payload = self.frame()
        assert first & 0xB0 == 0x80
        if first & 0x40:
            assert self.agreed
            payload = zlib.decompressobj(-window_bits).decompress(payload + b"\0\0\xff\xff")
        return first & 15, payload

    def closes(self, code: int) -> str:
        """The next is a close frame with this code; returns its reason."""
        opcode, payload = self.message()
        assert opcode == CLOSE, (opcode, payload[:100])
        assert payload[:2] == struct.pack("!H", code), payload
        return payload[2:].decode()

    def ends(self, code: int) -> str:
        """The same, which is answered, and then nothing but the end of the connection."""
        reason = self.closes(code)
        try:
            self.send(frame(CLOSE, struct.pack("!H", code)))
            left = self.frame()
        except (EOFError, ConnectionError):
            return reason
        raise AssertionError(f"{left} after the close frame")

    def close(self) -> None:
        self.sock.close()


Open = Callable[..., Line]


@pytest.fixture(params=["/echo", "/asgi"])
def path(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def line(echo: Echo, path: str) -> Iterator[Open]:
    """Opens a connection; `offer` is what it offers."""
    opened: list[Line] = []

    def open_line(offer: str | None = None) -> Line:
        opened.append(Line(echo.port, path, offer))
        return opened[-1]

    yield open_line
    for each in opened:
        each.close()


def fine(line: Line) -> None:
    """The connection works, for short texts and after a ping."""
    line.send(frame(PING, b"well?"), frame(TEXT, b"still here"))
    assert line.frame() == (0x8A, b"well?")
    assert line.message() == (TEXT, b"still here")


# ---------------------------------------------------------------------- messages


SIZES = [0, 1, 125, 126, 127, 8191, 8192, 8193, 65_535, 65_536, MIB]


@pytest.mark.parametrize("offer", [None, OFFER])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_every_size_come_back(line: Open, opcode: int, offer: str | None) -> None:
    open_line = line(offer)
    for size in SIZES:
        payload = os.urandom(size) if opcode == BINARY else ("ä€😀x" * (size // 10 + 1)).encode()[: size // 10 * 10]
        open_line.send(frame(opcode, payload))
        assert open_line.message() == (opcode, payload)
    fine(open_line)


def test_a_large_message_in_small_writes_comes_back(line: Open) -> None:
    open_line, payload = line(), os.urandom(2 * MIB)
    open_line.send(frame(BINARY, payload), chop=1499)
    assert open_line.message() == (BINARY, payload)
    fine(open_line)


def test_a_large_message_in_small_fragments_comes_back(line: Open) -> None:
    open_line, payload = line(), os.urandom(MIB)
    pieces = [payload[start : start + 256] for start in range(0, MIB, 256)]
    head = frame(BINARY, pieces[0], final=False)
    open_line.send(head, *(frame(CONTINUED, piece, final=False) for piece in pieces[1:]), frame(CONTINUED, b""))
    assert open_line.message() == (BINARY, payload)
    fine(open_line)


def test_fragments_with_control_frames_between_them(line: Open) -> None:
    open_line = line()
    stream = [
        frame(TEXT, "é".encode()[:1], final=False),
        frame(PING, b"one"),
        frame(CONTINUED, b"", final=False),
        frame(PONG, b"nobody asked"),
        frame(CONTINUED, "é".encode()[1:], final=False),
        frame(PING, b""),
        frame(CONTINUED, b"!"),
    ]
    for chop in (None, 1):
        open_line.send(*stream, chop=chop)
        assert open_line.frame() == (0x8A, b"one")
        assert open_line.frame() == (0x8A, b"")
        assert open_line.message() == (TEXT, "é!".encode())
    fine(open_line)


def test_a_message_in_pieces_of_nothing(line: Open) -> None:
    open_line = line()
    nothing = frame(CONTINUED, b"", final=False) * 20_000
    open_line.send(frame(TEXT, b"", final=False), nothing, frame(CONTINUED, b""))
    assert open_line.message() == (TEXT, b"")
    fine(open_line)


@pytest.mark.parametrize(
    "stream",
    [
        [frame(TEXT, b"abc", mask=b"")],
        [frame(TEXT, b"abc", rsv=1)],
        [frame(TEXT, b"abc", rsv=2)],
        [frame(BINARY, b"abc", rsv=4)],
        [frame(PING, b"abc", rsv=7)],
        *([frame(opcode, b"")] for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        [frame(PING, b"x" * 126)],
        [frame(PING, b"x", final=False)],
        [frame(CONTINUED, b"x")],
        [frame(TEXT, b"x", final=False), frame(TEXT, b"x")],
        [b"\x82\xfe\x00\x7d" + b"\0" * 129],  # 125 bytes, their number in two
        [b"\x82\xff" + (126).to_bytes(8, "big") + b"\0" * 130],  # 126 bytes, their number in eight
    ],
)
def test_what_is_no_frame_closes_with_1002(line: Open, stream: list[bytes]) -> None:
    open_line = line()
    fine(open_line)
    assert open_line.send(*stream).ends(1002)


# ---------------------------------------------------------------------- UTF-8


VALID = ["κόσμε", "\x00", "\x7f", "\x80", "߿", "ࠀ", "퟿", "", "�", "￿", "𐀀", "\U0010ffff"]


@pytest.mark.parametrize("text", VALID)
def test_text_may_be_cut_within_a_character(line: Open, text: str) -> None:
    open_line, payload = line(), text.encode()
    for cut in range(len(payload) + 1):
        open_line.send(frame(TEXT, payload[:cut], final=False), frame(CONTINUED, payload[cut:]))
        assert open_line.message() == (TEXT, payload)
    fine(open_line)


INVALID = {
    "continuation alone": b"\x80",
    "overlong": b"\xc0\xaf",
    "overlong of three": b"\xe0\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "beyond the last": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "never": b"\xfe",
    "cut short": "κόσμε".encode()[:-1],
}


@pytest.mark.parametrize("wrong", INVALID.values(), ids=INVALID)
def test_text_that_is_not_utf_8_closes_with_1007(line: Open, wrong: bytes) -> None:
    assert line().send(frame(TEXT, b"good " + wrong)).ends(1007)
    assert line().send(frame(TEXT, b"good ", final=False), frame(CONTINUED, wrong)).ends(1007)
    assert line().send(frame(TEXT, b"x" * 9000 + wrong)).ends(1007)


def test_what_cannot_become_text_any_more_closes_before_its_message_ends(line: Open) -> None:
    assert line().send(frame(TEXT, b"good \xf4\x90", final=False)).ends(1007)


# ---------------------------------------------------------------------- closing


@pytest.mark.parametrize(
    "payload", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xe8" + b"x" * 123, b"\x0b\xb8", b"\x13\x87"]
)
def test_a_close_frame_is_answered_and_nothing_behind_it_is_read(line: Open, payload: bytes) -> None:
    open_line = line()
    fine(open_line)
    open_line.send(frame(CLOSE, payload), frame(TEXT, b"after"), frame(PING, b""))
    opcode, answer = open_line.message()
    assert opcode == CLOSE and answer in (b"", b"\x03\xe8", payload)
    with pytest.raises((EOFError, ConnectionResetError)):
        open_line.frame()


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_a_close_code_that_a_client_may_send(line: Open, code: int) -> None:
    line().send(frame(CLOSE, struct.pack("!H", code))).closes(1000)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_a_close_code_that_nobody_may_send(line: Open, code: int) -> None:
    assert line().send(frame(CLOSE, struct.pack("!H", code))).closes(1002)


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\x03", 1002), (b"\x03\xe8\xce\xba\xe1", 1007), (b"\x03\xe8" + b"x" * 124, 1002)]
)
def test_a_close_frame_that_is_malformed(line: Open, payload: bytes, code: int) -> None:
    assert line().send(frame(CLOSE, payload)).closes(code)


def test_a_client_that_closes_and_does_not_read_is_dropped(line: Open) -> None:
    """What waits for it in the server must not be kept for as long as it likes."""
    open_line = line()
    for _ in range(4):
        open_line.send(frame(BINARY, b"x" * (4 * MIB)))
    open_line.send(frame(CLOSE, b""))

    def reset() -> bool:
        try:
            open_line.sock.send(b"\0")
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    eventually(reset, PATIENCE_S)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1009, 1011, 1012, 1013, 3000, 4410])
def test_the_application_closes_with_every_code_and_its_reason(line: Open, code: int) -> None:
    reason = "retry_after_ms=700 " + "é" * 80
    kept = line().send(frame(TEXT, f"\0command: close {code} {reason}".encode())).ends(code)
    assert 121 <= len(kept.encode()) <= 123 and reason.startswith(kept)


def test_a_fault_of_the_application_closes_with_1011(line: Open) -> None:
    assert line().send(frame(TEXT, b"\0command: raise")).ends(1011) == "server fault"


@pytest.mark.parametrize("size", [16 * MIB + 1, 1 << 40, (1 << 63) - 1])
def test_a_frame_over_the_limit_closes_with_1009_when_it_is_announced(line: Open, size: int) -> None:
    assert line().send(b"\x82\xff" + size.to_bytes(8, "big") + b"\0\0\0\0").closes(1009)


def test_fragments_over_the_limit_close_with_1009(line: Open) -> None:
    open_line = line().send(frame(BINARY, b"x" * (8 * MIB), final=False))
    assert open_line.send(b"\x00\xff" + (8 * MIB + 1).to_bytes(8, "big") + b"\0\0\0\0").closes(1009)


# ---------------------------------------------------------------------- permessage-deflate


def packed(payload: bytes, *, opcode: int = TEXT, pieces: int = 1) -> list[bytes]:
    """A compressed message in so many frames (RFC 7692 §6.1: RSV1 on the first)."""
    data = pack(payload, 15)
    size = -(-len(data) // pieces)
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    return [
        frame(CONTINUED if index else opcode, piece, final=index == len(cut) - 1, rsv=0 if index else 4)
        for index, piece in enumerate(cut)
    ]


@pytest.mark.parametrize(
    ("offer", "agreed", "bits"),
    [
        (OFFER, "permessage-deflate; server_no_context_takeover; client_no_context_takeover", 15),
        (
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
            9,
        ),
        (
            "permessage-deflate; mystery, permessage-deflate; server_max_window_bits=12",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
            12,
        ),
        ("permessage-deflate; mystery", "", 0),
        ("permessage-deflate; server_max_window_bits=99", "", 0),
        ("permessage-bzip2; client_max_compress_level=3", "", 0),
        ("permessage-bzip2; mystery", "", 0),
        (None, "", 0),
    ],
)
def test_compression_is_agreed_on_or_declined(line: Open, offer: str | None, agreed: str, bits: int) -> None:
    open_line = line(offer)
    assert open_line.agreed == agreed
    # Far apart, so that only a large window sees the second half in the first.
    text = bytes(32 + byte % 90 for byte in os.urandom(6000)) * 2
    for _ in range(2):
        open_line.send(frame(TEXT, text))
        first, payload = open_line.frame()
        assert first == (0xC1 if bits else 0x81)
        if bits:
            assert zlib.decompressobj(-bits).decompress(payload + b"\0\0\xff\xff") == text
    fine(open_line)


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("size", [0, 1, 100, 5000, 200_000])
def test_compressed_messages_come_back(line: Open, size: int, pieces: int) -> None:
    open_line = line(OFFER)
    for opcode, payload in ((TEXT, b"x" * size), (BINARY, os.urandom(size))):
        for chop in (None, 1 if size < 1000 else 1499):
            open_line.send(
                *packed(payload, opcode=opcode, pieces=pieces), frame(TEXT, b"plain"), *packed(b"packed"), chop=chop
            )
            assert open_line.message() == (opcode, payload)
            assert open_line.message() == (TEXT, b"plain")
            assert open_line.message() == (TEXT, b"packed")
    fine(open_line)


def test_control_frames_between_compressed_fragments(line: Open) -> None:
    open_line = line(OFFER)
    open_line.send(frame(PING, b"!").join(packed(b"y" * 50_000, pieces=3)))
    assert [open_line.frame(), open_line.frame()] == [(0x8A, b"!")] * 2
    assert open_line.message() == (TEXT, b"y" * 50_000)
    fine(open_line)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        ([frame(PING, b"", rsv=4)], 1002),
        ([frame(TEXT, b"x", final=False), frame(CONTINUED, b"y", rsv=4)], 1002),
        ([frame(TEXT, b"x", rsv=2)], 1002),
        ([frame(TEXT, b"x", rsv=6)], 1002),
        ([frame(TEXT, b"\xff\xff\xff", rsv=4)], 1007),
        ([frame(BINARY, b"\xff" * 10_000, rsv=4)], 1007),
        ([frame(TEXT, pack(b"x" * 100, 15)[:-2], rsv=4)], 1007),
        (packed(b"\xed\xa0\x80"), 1007),
        (packed(b"\xed\xa0\x80" * 10_000, pieces=2), 1007),
        (packed(b"\0" * (16 * MIB + 1)), 1009),
        (packed(b"\0" * (16 * MIB + 1), opcode=BINARY, pieces=5), 1009),
        (packed(b"\0" * (1 << 30), opcode=BINARY), 1009),
    ],
    ids=lambda value: None if isinstance(value, int) else f"{sum(map(len, value))} bytes",
)
def test_what_is_no_compressed_message_closes(line: Open, stream: list[bytes], code: int) -> None:
    open_line = line(OFFER)
    fine(open_line)
    assert open_line.send(*stream).ends(code)
