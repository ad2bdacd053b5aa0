"""The shortcut for plain text messages must not be noticed: whatever the stream, and wherever it is cut."""

from __future__ import annotations

from typing import Any, cast

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.protocol import WebSocketProtocol as Autobahn
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from realtime.server.protocol import PLAIN_BYTES_MOST, SeriatimProtocol, Socket

TEXT, BINARY, CONTINUED, CLOSE, PING = 1, 2, 0, 8, 9


def frame(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = b"\x12\x00\xff\x80", rsv: int = 0) -> bytes:
    """A client's frame (RFC 6455 §5.2); an empty mask leaves it unmasked."""
    size = len(payload)
    first, bit = (0x80 if final else 0) | rsv << 4 | opcode, 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    key = mask or b"\0\0\0\0"
    return head + mask + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


class Opened:
    """A protocol whose handshake is done, and what its application saw."""

    def __init__(self, most: int = 1 << 20) -> None:
        factory: Any = cast("Any", WebSocketServerFactory)()
        factory.setProtocolOptions(failByDrop=False, maxMessagePayloadSize=most, maxFramePayloadSize=most)
        self.protocol: Any = SeriatimProtocol()
        self.protocol.factory = factory
        self.transport: Any = cast("Any", StringTransport)()
        self.protocol.makeConnection(self.transport)
        self.protocol.state = Autobahn.STATE_OPEN
        self.protocol.inside_message = False
        self.protocol.current_frame = None
        self.protocol.websocket_version = 13
        self.socket = self.protocol.socket = Socket(self.protocol)
        self.transport.registerProducer(self.socket, True)
        self.seen: list[str] = []
        self.socket.on_text = self.seen.append
        self.socket.on_binary = lambda data: self.seen.append("<binary>")

    def feed(self, stream: bytes, cuts: list[int] | None = None) -> Opened:
        ends = sorted({cut % (len(stream) + 1) for cut in cuts or []} | {len(stream)})
        for start, end in zip([0, *ends], ends, strict=False):
            self.protocol.dataReceived(stream[start:end])
        return self

    @property
    def close_code(self) -> int | None:
        sent = self.transport.value()
        at = sent.find(b"\x88")
        return int.from_bytes(sent[at + 2 : at + 4], "big") if at >= 0 else None


texts = st.one_of(
    st.text(max_size=40),
    st.integers(0, 400).map(lambda size: "x" * size),
    st.sampled_from([120, 121, 125, 126, 127, PLAIN_BYTES_MOST, PLAIN_BYTES_MOST + 1, 70_000]).map(lambda n: "y" * n),
)
masks = st.binary(min_size=4, max_size=4)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """The frames of one message or ping, and what an application has to see of it."""
    mask = draw(masks)
    kind = draw(st.sampled_from(["text", "text", "text", "pieces", "binary", "ping"]))
    if kind == "binary":
        return frame(BINARY, b"\xff\xfe", mask=mask), ["<binary>"]
    if kind == "ping":
        return frame(PING, b"?", mask=mask), []
    text = draw(texts)
    payload = text.encode()
    if kind == "text":
        return frame(TEXT, payload, mask=mask), [text]
    cut = draw(st.integers(0, len(payload)))
    pieces = [frame(TEXT, payload[:cut], final=False, mask=mask), frame(CONTINUED, payload[cut:], mask=mask)]
    return frame(PING, b"!", mask=mask).join(pieces), [text]


@settings(max_examples=200, deadline=None)
@given(st.lists(messages(), max_size=8), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_every_message_arrives_once_and_in_order_wherever_the_stream_is_cut(
    sent: list[tuple[bytes, list[str]]], cuts: list[int]
) -> None:
    opened = Opened().feed(b"".join(stream for stream, _ in sent), cuts)
    assert opened.seen == [text for _, seen in sent for text in seen]
    assert opened.close_code is None


def test_a_stream_of_single_bytes_is_understood() -> None:
    stream = frame(TEXT, b'{"a":1}') + frame(TEXT, b"z" * 130) + frame(PING, b"") + frame(TEXT, b"{}")
    assert Opened().feed(stream, list(range(len(stream)))).seen == ['{"a":1}', "z" * 130, "{}"]


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\x01\x02\x03\x04", b"abcd"])
def test_the_head_of_a_long_message_is_not_taken_for_a_short_one(mask: bytes) -> None:
    """With a mask below 0x80 the misread piece is valid UTF-8, so nothing else would stop it."""
    text = "y" * 70_000
    opened = Opened().feed(frame(TEXT, text.encode(), mask=mask) + frame(TEXT, b"{}"))
    assert (opened.seen, opened.close_code) == ([text, "{}"], None)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(TEXT, b"ab\xff\xfecd"), 1007),
        (frame(TEXT, b"abcdef", mask=b""), 1002),
        (frame(TEXT, b"abcdef", rsv=4), 1002),
        (b"\x81\xfe\x00\x05\0\0\0\0abcde", 1002),
        (frame(TEXT, b"x" * 2000), 1009),
        (frame(CONTINUED, b"abcdef"), 1002),
        (frame(TEXT, b"abc", final=False) + frame(TEXT, b"abcdef"), 1002),
    ],
    ids=["utf-8", "unmasked", "reserved bit", "size not minimal", "too large", "continued", "within another"],
)
def test_a_wrong_frame_ends_the_connection_with_its_code_after_what_came_before(wrong: bytes, code: int) -> None:
    opened = Opened(most=1000).feed(frame(TEXT, b'{"good":1}') + wrong + frame(TEXT, b'{"after":1}'))
    assert opened.seen == ['{"good":1}']
    assert opened.close_code == code
