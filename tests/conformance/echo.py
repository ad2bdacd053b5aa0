"""Sends back what comes, text and binary, through our server class; only tests mount it.

    python -m tests.conformance.echo --port 9001

At /echo messages go in through the socket's `on_text` and `on_binary` and out through its `write`, as the platform's
own do; at /asgi through ASGI, as those of a project's own consumers do. Nobody logs in, nothing is stored.
A text that begins with `COMMAND` is no text to echo: `close CODE REASON` closes, `raise` is a fault in the application,
and `waiting` is answered with the bytes that wait for all clients at /echo.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.conformance.settings"
django.setup()

# Daphne installs its reactor, and settings are read, when these are imported.
from realtime.links import DEFLATE, WEBSOCKET  # noqa: E402
from realtime.protocol.websocket import BINARY_FINAL, compressed_frame, data_frame  # noqa: E402
from realtime.server import run  # noqa: E402
from realtime.server.protocol import SOCKET, Socket  # noqa: E402
from realtime.server.run import SeriatimServer, endpoint  # noqa: E402

COMMAND = "\0command: "


class EchoServer(SeriatimServer):
    """The server without a worker behind it: there is no log here."""

    def _start_worker(self) -> None:
        self._on_ready()


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    await receive()
    socket: Socket = scope["extensions"][SOCKET]
    if scope["path"] == "/echo":
        _mount(socket)
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            _mounted.discard(socket)
            return
        text = message.get("text")
        part = "bytes" if text is None else "text"
        if text is not None and text.startswith(COMMAND):
            code, reason = _closing(text)
            await send({"type": "websocket.close", "code": code, "reason": reason})
        else:
            await send({"type": "websocket.send", part: message[part]})


def _closing(text: str) -> tuple[int, str]:
    """Obeys a command: how to close."""
    name, _, rest = text.removeprefix(COMMAND).partition(" ")
    if name != "close":
        raise RuntimeError("as asked")
    code, _, reason = rest.partition(" ")
    return int(code), reason


_mounted: set[Socket] = set()


def _mount(socket: Socket) -> None:
    encoding = DEFLATE[socket.window_bits] if socket.window_bits else WEBSOCKET

    def on_text(text: str) -> None:
        if text == f"{COMMAND}waiting":
            waiting = sum(each.buffered_bytes for each in _mounted)
            socket.write(encoding.encode([str(waiting)]))
        elif text.startswith(COMMAND):
            socket.close(*_closing(text))
        else:
            socket.write(encoding.encode([text]))

    def on_binary(data: bytes) -> None:
        if socket.window_bits:
            socket.write(compressed_frame(BINARY_FINAL, data, socket.window_bits))
        else:
            socket.write(data_frame(BINARY_FINAL, data))

    _mounted.add(socket)
    socket.on_text = on_text
    socket.on_binary = on_binary


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", metavar="PEM", help="serve wss: with this file's key and certificate")
    given = parser.parse_args()
    run.CLOSE_HANDSHAKE_S = 1  # what is tested of it need not take long
    where = endpoint("127.0.0.1", given.port)
    if given.tls is not None:
        where = f"ssl:port={given.port}:interface=127.0.0.1:privateKey={given.tls}:certKey={given.tls}"
    server = EchoServer(application, where, lambda: None, verbosity=0)
    server.run()
    sys.exit(1 if server.listen_failed else 0)


if __name__ == "__main__":
    main()
