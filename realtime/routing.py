"""WebSocket routes of the platform, for a project that has a URLRouter of its own (`realtime.asgi` needs none)."""

from __future__ import annotations

from django.urls import path

from realtime.conf import settings
from realtime.consumers import RealtimeConsumer

websocket_urlpatterns = [path(settings.WEBSOCKET_PATH.lstrip("/"), RealtimeConsumer.as_asgi())]
