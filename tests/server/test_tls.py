"""The same socket over TLS: nothing is written past the transport, and everything else holds."""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from tests.conformance.server import Echo
from tests.conftest import MS, aeventually
from tests.server.test_protocol import BINARY, CLOSE, frame

pytestmark = pytest.mark.e2e

PATIENCE_S = 60_000 * MS
MIB = 1 << 20


def certificate(path: Path) -> Path:
    """A key and a certificate for localhost that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")


@pytest.fixture(scope="module")
def echo(pem: Path) -> Iterator[Echo]:
    with Echo(pem) as running:
        yield running


def opened(echo: Echo, pem: Path, path: str, compression: str | None) -> connect:
    """Not the client with threads: Python 3.11 lets two of them into one TLS object, which loses what is sent while the
    session's tickets come."""
    context = ssl.create_default_context(cafile=str(pem))
    url = f"wss://localhost:{echo.port}{path}"
    return connect(url, ssl=context, compression=compression, max_size=None, max_queue=None, open_timeout=PATIENCE_S)


async def received(client: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(client.recv(), PATIENCE_S)


@pytest.mark.parametrize("path", ["/echo", "/asgi"])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_of_every_size_come_back(echo: Echo, pem: Path, path: str, compression: str | None) -> None:
    async with opened(echo, pem, path, compression) as client:
        assert client.response is not None
        assert ("Sec-WebSocket-Extensions" in client.response.headers) == (compression is not None)
        sizes = (0, 1, 125, 126, 8192, 16_384, 65_536, 4 * MIB)
        for size in sizes:
            for message in ("é" * size, os.urandom(size)):
                await client.send(message)
                assert await received(client) == message
        # Many at once: none overtakes another, whatever waits in the transport.
        messages = [f"{number} " + "x" * (number * 997 % 40_000) for number in range(200)]
        for message in messages:
            await client.send(message)
        assert [await received(client) for _ in messages] == messages


@pytest.mark.parametrize("path", ["/echo", "/asgi"])
async def test_close_codes_and_reasons_arrive(echo: Echo, pem: Path, path: str) -> None:
    async with opened(echo, pem, path, None) as client:
        await client.send("\0command: close 1013 retry_after_ms=700")
        with pytest.raises(ConnectionClosedError) as ended:
            await received(client)
    assert ended.value.rcvd is not None
    assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (1013, "retry_after_ms=700")


async def test_what_waits_is_counted_and_a_client_that_closes_without_reading_is_dropped(echo: Echo, pem: Path) -> None:
    async with opened(echo, pem, "/echo", None) as other:
        below = socket.create_connection(("localhost", echo.port))
        lazy = ssl.create_default_context(cafile=str(pem)).wrap_socket(below, server_hostname="localhost")
        lazy.sendall(
            b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b" 101 " in lazy.recv(1024)

        async def waiting() -> int:
            await other.send("\0command: waiting")
            return int(await received(other))

        async def much_waits() -> bool:
            return await waiting() > 4 * MIB

        async def nothing_waits() -> bool:
            return await waiting() == 0

        assert await waiting() == 0
        for _ in range(2):
            lazy.sendall(frame(BINARY, os.urandom(8 * MIB)))
        await aeventually(much_waits, PATIENCE_S)
        assert await waiting() < 17 * MIB
        lazy.sendall(frame(CLOSE, b""))
        await aeventually(nothing_waits, PATIENCE_S)
        lazy.close()
