"""Follows a channel without asyncio, until nothing comes for a while, and publishes what is given.

SERIATIM_URL=https://chat.example SERIATIM_TOKEN=… python follow_sync.py news:today "hello"
"""

import os
import sys

from seriatim_client import Rewind, SyncClient

IDLE_S = 5


def main(name: str = "news:today", text: str | None = None) -> None:
    url = os.environ.get("SERIATIM_URL", "http://127.0.0.1:8000")
    with SyncClient(url, token=os.environ.get("SERIATIM_TOKEN")) as client:
        channel = client.channel(name, Rewind(10))
        if text is not None:
            print("stored at", channel.publish({"text": text}).serial, flush=True)
        for message in channel.read(idle_s=IDLE_S):
            print(message.serial, message.client, message.data, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
