"""The shortcut for plain text messages must not be noticed: whatever the stream, and wherever it is cut."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from typing import Any, cast

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.protocol import WebSocketProtocol as Autobahn
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from realtime.protocol.deflate import pack
from realtime.server.protocol import PACKED, PLAIN_BYTES_MOST, SeriatimProtocol, Socket

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

    def __init__(self, most: int = 1 << 20, *, deflate: bool = False) -> None:
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
        if deflate:
            self.protocol._perMessageCompress = PACKED
        self.socket = self.protocol.socket = Socket(self.protocol, 15 if deflate else 0)
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
    """The frames of one message or ping, and what an application has to see of it. Some are compressed."""
    mask = draw(masks)
    kind = draw(
        st.sampled_from(["text", "text", "text", "packed", "packed", "pieces", "packed pieces", "binary", "ping"])
    )
    if kind == "binary":
        return frame(BINARY, b"\xff\xfe", mask=mask), ["<binary>"]
    if kind == "ping":
        return frame(PING, b"?", mask=mask), []
    text = draw(texts)
    packed = "packed" in kind
    payload, rsv = (pack(text.encode(), 15), 4) if packed else (text.encode(), 0)
    if "pieces" not in kind:
        return frame(TEXT, payload, mask=mask, rsv=rsv), [text]
    cut = draw(st.integers(0, len(payload)))
    pieces = [frame(TEXT, payload[:cut], final=False, mask=mask, rsv=rsv), frame(CONTINUED, payload[cut:], mask=mask)]
    return frame(PING, b"!", mask=mask).join(pieces), [text]


@settings(max_examples=200, deadline=None)
@given(st.lists(messages(), max_size=8), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_every_message_arrives_once_and_in_order_wherever_the_stream_is_cut(
    sent: list[tuple[bytes, list[str]]], cuts: list[int]
) -> None:
    opened = Opened(deflate=True).feed(b"".join(stream for stream, _ in sent), cuts)
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


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(TEXT, pack(b"\xff\xfe", 15), rsv=4), 1007),
        (frame(TEXT, b"\xff\xff\xff\xff", rsv=4), 1007),
        (frame(TEXT, pack(b"x" * 1001, 15), rsv=4), 1009),
        (frame(TEXT, pack(b"x" * 1001, 15), rsv=4, final=False) + frame(CONTINUED, b""), 1009),
        (frame(PING, b"abcdef", rsv=4), 1002),
        (frame(TEXT, b"abcdef", rsv=2), 1002),
    ],
    ids=["utf-8", "no stream", "too large", "too large in pieces", "compressed ping", "reserved bit"],
)
def test_a_wrong_compressed_message_ends_the_connection_with_its_code(wrong: bytes, code: int) -> None:
    good = frame(TEXT, pack(b'{"good":1}', 15), rsv=4)
    opened = Opened(most=1000, deflate=True).feed(good + wrong + good)
    assert opened.seen == ['{"good":1}']
    assert opened.close_code == code


def test_a_compressed_message_that_nobody_agreed_to_is_an_error() -> None:
    opened = Opened().feed(frame(TEXT, pack(b'{"good":1}', 15), rsv=4))
    assert (opened.seen, opened.close_code) == ([], 1002)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(messages(), min_size=1, max_size=12),
    st.lists(st.integers(0, 1 << 20), max_size=4),
    st.lists(st.booleans(), min_size=1),
)
def test_nothing_is_handed_over_while_reading_is_paused(
    sent: list[tuple[bytes, list[str]]], cuts: list[int], pauses: list[bool]
) -> None:
    """Whatever the stream, and whether the parser or Autobahn is at it: what has come waits until reading goes on."""

    async def run() -> Opened:
        opened = Opened(deflate=True)
        pausing = itertools.cycle(pauses)
        paused = False

        def take(text: str) -> None:
            nonlocal paused
            assert not paused
            opened.seen.append(text)
            if next(pausing):
                paused = True
                opened.socket.pause_reading()

        async def go_on() -> None:
            nonlocal paused
            while paused:
                await asyncio.sleep(0)
                paused = False
                opened.socket.resume_reading()
                await asyncio.sleep(0)

        opened.socket.on_text = take
        opened.socket.on_binary = lambda data: take("<binary>")
        stream = b"".join(stream for stream, _ in sent)
        ends = sorted({cut % (len(stream) + 1) for cut in cuts} | {len(stream)})
        for start, end in zip([0, *ends], ends, strict=False):
            opened.feed(stream[start:end])
            await go_on()
        return opened

    opened = asyncio.run(run())
    assert opened.seen == [text for _, seen in sent for text in seen]
    assert opened.close_code is None


async def test_one_read_of_compressed_messages_does_not_fill_the_memory() -> None:
    """Sixty of 1 MiB fit into one read; the application stops reading at the first."""
    opened = Opened(deflate=True)
    sizes: list[int] = []

    def take(text: str) -> None:
        sizes.append(len(text))
        opened.socket.pause_reading()

    opened.socket.on_text = take
    opened.feed(frame(TEXT, pack(b"x" * (1 << 20), 15), rsv=4) * 60)
    assert sizes == [1 << 20]
    opened.socket.resume_reading()
    await asyncio.sleep(0)
    assert sizes == [1 << 20] * 2


def test_a_fault_in_the_application_closes_with_its_code() -> None:
    """Passed on to Twisted it would end the connection without a word to anybody."""
    opened = Opened()

    def fail(text: str) -> None:
        raise RuntimeError

    opened.socket.on_text = fail
    opened.feed(frame(TEXT, b"abcdef"))
    assert opened.close_code == 1011


@pytest.mark.parametrize("deflate", [False, True])
def test_a_message_in_pieces_of_nothing_costs_nothing(deflate: bool) -> None:
    """Fragments without content, kept one by one, would fill the memory, and no limit on sizes would notice."""
    opened = Opened(deflate=deflate)
    opened.feed(frame(TEXT, b"", final=False, rsv=4 if deflate else 0))
    nothing = frame(CONTINUED, b"", final=False) * 1000
    tracemalloc.start()
    try:
        for _ in range(20):
            opened.feed(nothing)
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert left < 50_000
    opened.feed(frame(CONTINUED, pack(b"end", 15) if deflate else b"end"))
    assert opened.seen == ["end"]
