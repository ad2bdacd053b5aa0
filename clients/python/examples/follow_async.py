"""Follows a channel with asyncio, and publishes what is given.

SERIATIM_URL=https://chat.example SERIATIM_TOKEN=… python follow_async.py news:today "hello"
"""

import asyncio
import os
import sys

from seriatim_client import Client, Rewind


async def main(name: str = "news:today", text: str | None = None) -> None:
    url = os.environ.get("SERIATIM_URL", "http://127.0.0.1:8000")
    async with Client(url, token=os.environ.get("SERIATIM_TOKEN")) as client:
        channel = client.channel(name, Rewind(10))
        if text is not None:
            published = await channel.publish({"text": text})
            print("stored at", published.serial, flush=True)
        async for message in channel:
            print(message.serial, message.client, message.data, flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
