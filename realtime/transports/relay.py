"""Requests of a SockJS session find the worker that has it, without a balancer that keeps them together.

The supervisor gives its workers a folder that is theirs alone. Each listens there on a socket; one that gets a request
for a session which it does not have asks the others, and passes the request on to whoever has it, with what its client
sends and is sent. A session that nobody has begins where its first request came. Workers on other machines are not
asked: between machines the balancer has to keep a client at one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from realtime.conf import settings
from realtime.protocol.errors import ProtocolError
from realtime.transports import sockjs
from realtime.transports.http import Request, RequestGone, Send
from realtime.worker import Worker

logger = logging.getLogger(__name__)

SUFFIX = ".relay"

PATIENCE_S = 2.0
"""How long another worker has to say whether a session is its own: it only looks into a dict."""

LENGTH_BYTES = 4

_folder: Path | None = None
_own: Path | None = None
_server: asyncio.Server | None = None


async def listen(folder: str, running: Worker) -> None:
    """Answers the other workers of this folder from now on; and they may be asked."""
    global _folder, _own, _server
    _folder, _own = Path(folder), Path(folder) / f"{running.name}{SUFFIX}"
    try:
        _own.unlink(missing_ok=True)
        _server = await asyncio.start_unix_server(lambda reader, writer: _answer(running, reader, writer), str(_own))
    except OSError as error:
        logger.warning("SockJS sessions of this worker cannot be reached from others: %s", error)
        _folder = None


async def pass_on(path: str, request: Request, send: Send) -> bool:
    """Has another worker answer, if the session is one of its own; else False, and the request is as it was."""
    if _folder is None:
        return False
    body = await request.body(settings.ROUND_MAX_BYTES)
    request.receive = _again(body, request.receive)
    question = {
        "path": path,
        "method": request.method,
        "headers": request.scope["headers"],
        "query_string": request.scope.get("query_string") or b"",
        "client": request.scope.get("client"),
        "body": body,
    }
    for other in _others(_folder):
        if other != _own and await _ask(other, question, request, send):
            return True
    return False


def _others(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _again(body: bytes, receive: Any) -> Any:
    """Gives a body that was read once more, then what comes behind it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return waiting.pop() if waiting else await receive()

    return receive_again


async def _ask(other: Path, question: dict[str, Any], request: Request, send: Send) -> bool:
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(str(other))
            _put(writer, question)
            known = await reader.readexactly(1)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        # It has ended, or is about to, and its sessions with it.
        return False
    try:
        if known != b"1":
            return False
        await _carry(reader, request, send)
        return True
    finally:
        writer.close()


async def _carry(reader: asyncio.StreamReader, request: Request, send: Send) -> None:
    """Until the answer is complete or the client is gone. An answer cut off by the other's end is cut off here."""
    gone = asyncio.ensure_future(_gone(request))
    carrying = asyncio.ensure_future(_carry_all(reader, send))
    try:
        await asyncio.wait([gone, carrying], return_when=asyncio.FIRST_COMPLETED)
        if carrying.done():
            await carrying
    finally:
        gone.cancel()
        carrying.cancel()


async def _carry_all(reader: asyncio.StreamReader, send: Send) -> None:
    async for message in _messages(reader):
        await send(message)


async def _gone(request: Request) -> None:
    await request.gone()


# ---------------------------------------------------------------------- the other side


async def _answer(running: Worker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async for question in _messages(reader):
            await _serve(running, question, reader, writer)
            return
    except (OSError, asyncio.IncompleteReadError, RequestGone):
        logger.debug("A worker that passed a request on has gone.")
    except Exception:
        logger.exception("A request that was passed on failed.")
    finally:
        writer.close()


async def _serve(
    running: Worker, question: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    mounted = sockjs.find(question["path"])
    session_id = None if mounted is None else sockjs.session_in(mounted[1])
    known = mounted is not None and session_id in mounted[0].sessions
    writer.write(b"1" if known else b"0")
    if mounted is None or not known:
        await writer.drain()
        return

    async def receive() -> dict[str, Any]:
        # The one that passes on says nothing more: its end is the client's.
        await reader.read()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        _put(writer, message)
        await writer.drain()

    headers = [(bytes(name), bytes(value)) for name, value in question["headers"]]
    scope = {"type": "http", "path": question["path"], **question, "headers": headers}
    request = Request(scope, _again(question["body"], receive))
    service, rest = mounted
    try:
        await sockjs.serve(service, rest, request, send, running, sockjs.cors_of(service, request))
    except ProtocolError as error:
        await sockjs.refuse(send, running, error)


def _put(writer: asyncio.StreamWriter, message: object) -> None:
    packed = msgspec.msgpack.encode(message)
    writer.write(len(packed).to_bytes(LENGTH_BYTES, "big") + packed)


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """What the other side has put, until it ends."""
    while True:
        try:
            length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
            packed = await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return
        yield msgspec.msgpack.decode(packed)
