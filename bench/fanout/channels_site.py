"""The peer Channels + Daphne, the usual way: a consumer in a group, and the layer in memory, which is its fastest.

python -m daphne -b 127.0.0.1 -p PORT bench.fanout.channels_site:application
"""

from __future__ import annotations

import os
from typing import Any

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

LAYER = (
    {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [os.environ["LAYER_URL"]]}}
    if "LAYER_URL" in os.environ
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
)

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY="of a site without secrets",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": LAYER},
)
django.setup()


class Room(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    """What a client sends goes to all, itself too."""

    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive_json(self, content: dict[str, Any]) -> None:
        await self.channel_layer.group_send("room", {"type": "room.message", "data": content["data"]})

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json({"data": event["data"]})


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/", Room.as_asgi())])})
