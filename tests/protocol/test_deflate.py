"""permessage-deflate: which offers are met (RFC 7692 §5, §7.1), and what counts as a packed message (§7.2)."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.deflate import TAIL, WINDOWS, Corrupt, TooLarge, agree, pack, unpack
from realtime.protocol.websocket import BINARY_FINAL, COMPRESSED, TEXT_FINAL, compressed_frame, data_frame, text_frame

PLAIN = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offered", "answer", "bits"),
    [
        ("permessage-deflate", PLAIN, 15),
        # Chromium, Firefox, the Python library websockets, Autobahn
        ("permessage-deflate; client_max_window_bits", PLAIN, 15),
        ("permessage-deflate; client_no_context_takeover; client_max_window_bits", PLAIN, 15),
        ("permessage-deflate;server_no_context_takeover;client_max_window_bits=8", PLAIN, 15),
        ("Permessage-Deflate ; Server_No_Context_Takeover", PLAIN, 15),
        ("permessage-deflate; server_max_window_bits=15", f"{PLAIN}; server_max_window_bits=15", 15),
        ("permessage-deflate; server_max_window_bits=14", f"{PLAIN}; server_max_window_bits=12", 12),
        ("permessage-deflate; server_max_window_bits=12", f"{PLAIN}; server_max_window_bits=12", 12),
        ('permessage-deflate; server_max_window_bits="11"', f"{PLAIN}; server_max_window_bits=9", 9),
        ("permessage-deflate; server_max_window_bits=9", f"{PLAIN}; server_max_window_bits=9", 9),
        # the first that can be met
        ("x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=10, permessage-deflate", None, 9),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", PLAIN, 15),
        ("permessage-deflate; mystery, permessage-deflate; client_max_window_bits=10", PLAIN, 15),
    ],
)
def test_an_offer_that_can_be_met_is_accepted(offered: str, answer: str | None, bits: int) -> None:
    agreed = agree(offered)
    assert agreed is not None
    assert agreed.window_bits == bits
    assert agreed.header == answer or answer is None


@pytest.mark.parametrize(
    "offered",
    [
        "",
        ",;,",
        "permessage-bzip2",
        "permessage-deflat",
        "permessage-deflate; mystery",
        "permessage-deflate; mystery=1",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=1_0",
        "permessage-deflate; server_max_window_bits=९",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate;",
        "permessage-deflate; =",
    ],
)
def test_another_offer_is_declined(offered: str) -> None:
    assert agree(offered) is None


@given(st.text(max_size=60))
def test_any_header_is_read(header: str) -> None:
    agree(header)


messages = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=20), st.integers(1, 4000)),
)


@given(messages, st.sampled_from(WINDOWS))
def test_what_was_packed_is_unpacked_by_anybody(message: bytes, bits: int) -> None:
    packed = pack(message, bits)
    assert unpack(packed, len(message)) == message
    # A client that allots no more than the agreed window.
    assert zlib.decompressobj(-bits).decompress(packed + TAIL) == message


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        # RFC 7692 §7.2.3: fixed codes; a block without compression; two blocks; a last block and the padding
        (b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
        (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello"),
        (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello"),
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),
        (b"\x00", b""),
        (b"\x02\x00", b""),
    ],
)
def test_the_examples_of_the_rfc_are_read(packed: bytes, message: bytes) -> None:
    assert unpack(packed, 100) == message


def taken_over(message: bytes, before: bytes) -> bytes:
    """Packed by a client that goes on with its window, against the agreement."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=before)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]


@pytest.mark.parametrize(
    "packed",
    [
        b"\xff" * 20,
        b"\x00\x05\x00\xfa\xff\x48\x65",  # ends inside a block
        b"\x00\x64\x00\x9b\xff\x48\x65",  # ends long before its block does
        pack(b"Hello" * 100, 15)[:-3],
        pack(b"Hello", 15) + b"\x07",  # a block of a kind that does not exist
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00" + pack(b"more", 15),  # something behind the last block
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x01",
        taken_over(b"Hello Hello", before=b"Hello Hello Hello"),
    ],
)
def test_another_stream_is_corrupt(packed: bytes) -> None:
    with pytest.raises(Corrupt):
        unpack(packed, 100_000)


def test_no_more_is_unpacked_than_may_be() -> None:
    packed = pack(b"a" * 1000, 15)
    assert len(unpack(packed, 1000)) == 1000
    with pytest.raises(TooLarge):
        unpack(packed, 999)


def test_a_bomb_costs_no_memory() -> None:
    """100 MB in 100 kB. Unpacked they would show at once."""
    packed = pack(b"\0" * 100_000_000, 15)
    most = 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            unpack(packed, most)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The buffer may be enlarged by copying; what was not read yet is kept, too.
    assert peak < 3 * most + len(packed)


def test_a_frame_is_compressed_only_where_that_makes_it_smaller() -> None:
    text = b'{"a":1}' * 100
    frame = compressed_frame(TEXT_FINAL, text, 15)
    assert frame[0] == TEXT_FINAL | COMPRESSED and len(frame) < len(text) / 5
    assert unpack(frame[2:], len(text)) == text
    assert compressed_frame(BINARY_FINAL, b"abc", 15) == data_frame(BINARY_FINAL, b"abc")
    assert compressed_frame(TEXT_FINAL, b"", 15) == text_frame(b"")
