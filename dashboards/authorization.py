"""Which channels a dashboard may show, to whom: what a person may follow himself, and nothing by way of a dashboard."""

from __future__ import annotations

import time
from typing import Final

from django.contrib.auth.base_user import AbstractBaseUser

from dashboards.models import SPEED, Dashboard
from realtime.authorization import allowed_operations
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import parse_channel
from realtime.tokens import Identity, client_id_of, issue_token

READING: Final = ("subscribe", "history")
TOKEN_TTL_S: Final = 15 * 60
SHARED_TTL_S: Final = 5 * 60

_NOBODY: Final = "dashboards"
"""Dashboards without an owner show what everybody known may follow."""


def channels_of(dashboard: Dashboard, speed: str = "") -> list[str]:
    """The channels of the widgets, each once; with the chosen speed, or all of them."""
    speeds = [speed] if speed else list(dashboard.speeds) or [""]
    names = dict.fromkeys(widget.channel.replace(SPEED, each) for widget in dashboard.widgets.all() for each in speeds)
    return list(names)


def may_read(client: str, channel: str) -> bool:
    """Whether somebody who is logged in as `client` may follow the channel and read its history."""
    try:
        name = parse_channel(channel)
        return set(READING) <= allowed_operations(Identity(client, None, "session"), name)  # type: ignore[arg-type]
    except ProtocolError:
        return False


def client_of(user: AbstractBaseUser | None) -> str:
    return _NOBODY if user is None else client_id_of(user)


def token_for(
    dashboard: Dashboard, client: str, reader: str, ttl_s: float, not_after_s: float | None = None
) -> dict[str, object]:
    """A token as `client` for exactly the channels that `reader` may follow. Read only."""
    now_s = time.time()
    capability = {name: list(READING) for name in channels_of(dashboard) if may_read(reader, name)}
    text, expires_s = issue_token(client, capability, ttl_s, now_s, not_after_s=not_after_s)
    return {"token": text, "expires": expires_s}
