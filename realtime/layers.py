"""Channel layers: an entry of CHANNEL_LAYERS made from URLs, and what the backplane uses of an entry, shard by shard.

`redis_layer` is for settings modules, so nothing here needs a configured Django before it is called. Options are given
to redis-py with a unit and a reason, since its own defaults have broken channels-redis before (realtime.E007).
docs/how-to/scale.md tells how Redis is set up.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.utils.module_loading import import_string

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"

SENTINEL_PORT = 26379

CONNECTION: dict[str, Any] = {
    # Seconds for one answer. Nothing waits longer for one: idle receiving polls. redis-py 8 would have 5, under which
    # the other layer of channels-redis dies when idle.
    "socket_timeout": 30,
    # Seconds to be connected; a Redis that drops packets would take minutes.
    "socket_connect_timeout": 5,
    # A worker holds two; redis-py 8 would raise at the 101st where several threads use the layer.
    "max_connections": 1000,
    # Seconds without an answer after which redis-py asks for one. Never 0: when the kernel gives a connection up, a
    # listener without it takes the error for the end of a poll, polls on without a pause, and the event loop stands.
    "health_check_interval": 10,
}
"""Of every connection to Redis."""

KEEPALIVE_IDLE_S = 20
"""Silence after which the kernel probes the other end. Above `health_check_interval`, see there."""
KEEPALIVE_EVERY_S = 5
KEEPALIVE_PROBES = 3
USER_TIMEOUT_MS = 10_000
"""How long written bytes may stay unacknowledged before the kernel gives the connection up; its own 15 minutes are too
long for a Redis whose packets are dropped."""

SENTINEL_CONNECTION: dict[str, Any] = {
    # Seconds. One Sentinel after the other is asked, so one that is away must not take the time of all.
    "socket_timeout": 1,
    "socket_connect_timeout": 1,
}


class Layer(Protocol):
    """What is used of a channel layer."""

    async def new_channel(self, prefix: str = ...) -> str: ...
    async def receive(self, channel: str) -> dict[str, Any]: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...


class OwnLayer(Layer, Protocol):
    """A layer that nobody else in this process uses."""

    async def flush(self) -> None:
        """Closes its connections and forgets names and groups, in this process alone."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One layer that carries news. `own`: nobody else uses it, so it may be flushed."""

    make: Callable[[], Layer]
    own: bool = False


def shards(alias: str) -> list[Shard]:
    """The layers behind an entry of CHANNEL_LAYERS: one for each host of a Redis pub/sub layer, none for the layer in
    memory, else the layer itself.

    Apart, because channels-redis has no failover between hosts and sends through one lock: a host that is away would
    hold up what goes over the others. Made anew, because consumers of the project may use the entry as well, and
    flushing would take their groups away.
    """
    entry = channel_layers.configs[alias]
    backend = import_string(entry["BACKEND"])
    if issubclass(backend, InMemoryChannelLayer):
        # It reaches nobody but this process, which has the news already.
        return []
    pubsub = sys.modules.get("channels_redis.pubsub")
    if pubsub is None or not issubclass(backend, pubsub.RedisPubSubChannelLayer):
        return [Shard(partial(_shared, alias))]
    options = entry.get("CONFIG", {})
    hosts = options.get("hosts") or [{"address": "redis://localhost:6379"}]
    return [Shard(partial(backend, **{**options, "hosts": [host]}), own=True) for host in hosts]


def _shared(alias: str) -> Layer:
    return cast("Layer", get_channel_layer(alias))


def redis_layer(urls: str | Sequence[str], *, prefix: str = "seriatim") -> dict[str, Any]:
    """An entry of CHANNEL_LAYERS for one Redis, or for several that share the channels between them (shards).

    A text may have several URLs, separated by commas. Raises ValueError for a URL that is none.

    - `redis://user:password@host:6379/0`, `rediss://…` with TLS, `unix:///path`
    - `redis+sentinel://user:password@host1:26379,host2:26379/master/0`: whoever the Sentinels call the master;
      `rediss+sentinel://…` with TLS. `?sentinel_username=…&sentinel_password=…` are for the Sentinels themselves.

    Further parameters of a URL are options of redis-py and go before those given here.
    """
    found = split_urls(urls) if isinstance(urls, str) else list(urls)
    if not found:
        raise ValueError("No URL of a Redis is given.")
    return {"BACKEND": PUBSUB, "CONFIG": {"hosts": [host_of(url) for url in found], "prefix": prefix}}


def split_urls(text: str) -> list[str]:
    """The URLs in a text. A comma separates two only before a scheme: the Sentinels of one URL have commas, too."""
    return [url for url in (part.strip() for part in re.split(r",(?=\s*[a-z+]+://)", text)) if url]


def host_of(url: str) -> dict[str, Any]:
    """One entry of `hosts` in a Redis layer's CONFIG."""
    parts = urlsplit(url)
    match parts.scheme:
        case "unix":
            return {"address": url, **CONNECTION}
        case "redis" | "rediss":
            if not parts.hostname:
                raise ValueError(f"{_public(parts)} names no host.")
            return {"address": url, **CONNECTION, **_keepalive()}
        case "redis+sentinel" | "rediss+sentinel":
            return _behind_sentinels(parts)
        case _:
            raise ValueError(
                f"{_public(parts)} is no URL of a Redis. Its scheme is one of redis, rediss, unix, redis+sentinel, "
                "rediss+sentinel."
            )


def _behind_sentinels(parts: SplitResult) -> dict[str, Any]:
    credentials, _, places = parts.netloc.rpartition("@")
    master, _, database = parts.path.strip("/").partition("/")
    sentinels = [_address(place) for place in places.split(",")]
    if not master:
        raise ValueError(f"{_public(parts)}: expected redis+sentinel://host:26379,host:26379/name-of-the-master/0")
    options = dict(parse_qsl(parts.query))
    of_sentinels: dict[str, Any] = {**SENTINEL_CONNECTION, **_keepalive()}
    for name in ("username", "password"):
        if (value := options.pop(f"sentinel_{name}", None)) is not None:
            of_sentinels[name] = value
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # By default redis-py asks a Sentinel that is away four times, with pauses of seconds, before it asks the next one.
    of_sentinels["retry"] = Retry(NoBackoff(), 0)
    # redis-py knows the types of its options; it reads them from a URL of one host.
    given = parse_url(urlunsplit(("redis", f"{credentials}@sentinel", f"/{database or 0}", urlencode(options), "")))
    given.pop("host")
    host = {
        "sentinels": sentinels,
        "master_name": unquote(master),
        "sentinel_kwargs": of_sentinels,
        **CONNECTION,
        **_keepalive(),
        **given,
    }
    if parts.scheme == "rediss+sentinel":
        host["ssl"] = of_sentinels["ssl"] = True
    return host


def _address(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place.strip()}")
    if not parts.hostname:
        raise ValueError(f"The URL names a Sentinel without a host: {place!r}.")
    return parts.hostname, parts.port or SENTINEL_PORT


def _keepalive() -> dict[str, Any]:
    """Socket options by which the kernel notices an end that is gone without a word; as many as the system has."""
    values = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_EVERY_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": USER_TIMEOUT_MS,
    }
    options = {getattr(socket, name): value for name, value in values.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": options}


def _public(parts: SplitResult) -> str:
    """The URL as it may stand in a log: without user and password."""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
