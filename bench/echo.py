"""The floor of sockets: Daphne as it is, and an ASGI application of a few lines that sends back what it gets.

python -m bench.echo --port N
"""

from __future__ import annotations

import argparse
from typing import Any

from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echoes texts until the client leaves."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    endpoints = build_endpoint_description_strings(host="127.0.0.1", port=parser.parse_args().port)
    Server(application, endpoints=[f"{each}:backlog=4096" for each in endpoints]).run()
