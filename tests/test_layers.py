"""How CHANNEL_LAYERS is made from URLs, and which layers the backplane gets of an entry."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import create_pool
from django.test import override_settings
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection

from realtime import checks, layers
from realtime.layers import host_of, redis_layer, shards, split_urls
from tests.servers import Redis


class ProjectsOwn(RedisPubSubChannelLayer):  # type: ignore[misc]  # the library has no types
    """A project may have one of its own."""


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("redis://a:1/0", ["redis://a:1/0"]),
        (" redis://a:1/0, rediss://u:p@b:2/3 ,unix:///c ", ["redis://a:1/0", "rediss://u:p@b:2/3", "unix:///c"]),
        (
            "redis+sentinel://a:1,b:2,c/one,redis+sentinel://d:1,e:2/two/4",
            ["redis+sentinel://a:1,b:2,c/one", "redis+sentinel://d:1,e:2/two/4"],
        ),
        ("redis://a,,redis://b,", ["redis://a,", "redis://b,"]),
        ("", []),
    ],
)
def test_commas_separate_urls_and_sentinels(text: str, urls: list[str]) -> None:
    assert split_urls(text) == urls


def test_one_redis() -> None:
    entry = redis_layer("redis://user:p%40ss@cache.internal:6380/2")
    (host,) = entry["CONFIG"]["hosts"]
    pool = create_pool(host)
    assert isinstance(pool, ConnectionPool)
    options = pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("cache.internal", 6380, 2)
    assert (options["username"], options["password"]) == ("user", "p@ss")
    assert (options["socket_timeout"], options["health_check_interval"]) == (30, 10)
    assert pool.max_connections == 1000


def test_parameters_of_the_url_go_before_ours() -> None:
    pool = create_pool(host_of("redis://cache?socket_timeout=60&health_check_interval=5&max_connections=2000"))
    assert (pool.connection_kwargs["socket_timeout"], pool.connection_kwargs["health_check_interval"]) == (60.0, 5)
    assert pool.max_connections == 2000


def test_a_socket_in_the_file_system_has_no_options_of_tcp() -> None:
    pool = create_pool(host_of("unix:///run/redis.sock?db=1"))
    pool.make_connection()
    assert (pool.connection_kwargs["path"], pool.connection_kwargs["db"]) == ("/run/redis.sock", 1)


def test_the_master_that_sentinels_name() -> None:
    host = host_of(
        "redis+sentinel://user:p%2Css@10.0.0.1:26380,sentinel,[::1]:26381/my%2Fmaster/3"
        "?sentinel_username=watch&sentinel_password=w&socket_timeout=40"
    )
    pool = create_pool(host)
    assert pool.__class__ is SentinelConnectionPool
    assert pool.service_name == "my/master"
    options = pool.connection_kwargs
    given = (options["username"], options["password"], options["db"], options["socket_timeout"])
    assert given == ("user", "p,ss", 3, 40.0)
    places = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(place["host"], place["port"]) for place in places] == [
        ("10.0.0.1", 26380),
        ("sentinel", 26379),
        ("::1", 26381),
    ]
    for place in places:
        assert (place["username"], place["password"]) == ("watch", "w")
        assert (place["socket_timeout"], place["socket_connect_timeout"], place["socket_keepalive"]) == (1, 1, True)
        # Or one that is away would be asked for seconds before the next one.
        assert place["retry"].get_retries() == 0
    pool.make_connection()  # type: ignore[no-untyped-call]


def test_sentinels_over_tls() -> None:
    pool = create_pool(host_of("rediss+sentinel://a,b/main"))
    assert pool.connection_class is SentinelManagedSSLConnection
    assert pool.connection_kwargs["db"] == 0
    for sentinel in pool.sentinel_manager.sentinels:
        assert sentinel.connection_pool.connection_class is SSLConnection


@pytest.mark.parametrize(
    "url",
    [
        "http://cache:6379",
        "cache:6379",
        "redis://",
        "redis+sentinel://a:1,b:2",
        "redis+sentinel:///main",
        "redis+sentinel://,/main",
        "redis+sentinel://a:1,:2/main",
        "",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        host_of(url)


def test_a_refusal_does_not_say_the_password() -> None:
    with pytest.raises(ValueError) as caught:
        host_of("https://user:hunter2@cache:6379/x")
    assert "hunter2" not in str(caught.value) and "cache:6379" in str(caught.value)


@pytest.mark.parametrize("urls", ["", " , ", []])
def test_no_url_at_all_is_refused(urls: Any) -> None:
    with pytest.raises(ValueError):
        redis_layer(urls)


def test_every_url_passes_the_check_of_redis_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_redis_major", lambda: 8)
    for url in ("redis://a", "unix:///a", "redis+sentinel://a/b"):
        with override_settings(CHANNEL_LAYERS={"default": redis_layer(url)}):
            assert checks.check_redis() == []


async def test_the_kernel_looks_after_the_connection(redis_server: Redis) -> None:
    """What the options say is what the socket of a real connection has."""
    pool = create_pool(host_of(redis_server.url))
    connection = await pool.get_connection()
    sock = connection._writer.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        idle_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        # Or redis-py would poll on an ended connection without a pause: see `health_check_interval`.
        assert idle_s > connection.health_check_interval
    await pool.disconnect()


def test_the_page_of_settings_tells_the_options() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/settings.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+)", page, re.MULTILINE))
    assert {name: int(told[name]) for name in layers.CONNECTION} == layers.CONNECTION
    idle, every, probes = layers.KEEPALIVE_IDLE_S, layers.KEEPALIVE_EVERY_S, layers.KEEPALIVE_PROBES
    assert f"on, {idle} s, {every} s, {probes}" in page
    assert f"and `TCP_USER_TIMEOUT` | {layers.USER_TIMEOUT_MS // 1000} s" in page
    assert set(layers.SENTINEL_CONNECTION.values()) == {1} and "`socket_connect_timeout` | 1 s" in page


# ---------------------------------------------------------------------- shards


def test_every_host_of_a_pubsub_layer_is_a_layer_of_our_own() -> None:
    for backend in ("channels_redis.pubsub.RedisPubSubChannelLayer", "tests.test_layers.ProjectsOwn"):
        entry = redis_layer("redis://a:1,redis://b:2", prefix="mine")
        entry["BACKEND"] = backend
        with override_settings(CHANNEL_LAYERS={"default": entry, "other": entry}):
            found = shards("other")
            assert [shard.own for shard in found] == [True, True]
            layers: list[Any] = [shard.make() for shard in found]
            assert [layer._kwargs["hosts"][0]["address"] for layer in layers] == ["redis://a:1", "redis://b:2"]
            assert {layer._kwargs["prefix"] for layer in layers} == {"mine"}
            assert found[0].make() is not layers[0]


def test_a_pubsub_layer_without_hosts_has_one() -> None:
    layer = {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}}
    with override_settings(CHANNEL_LAYERS=layer):
        assert len(shards("default")) == 1


class OtherLayer(BaseChannelLayer):  # type: ignore[misc]  # channels has no types
    """Of another maker."""


def test_any_other_layer_is_shared_with_the_project() -> None:
    other = {"default": {"BACKEND": f"{__name__}.OtherLayer"}}
    with override_settings(CHANNEL_LAYERS=other):
        (shard,) = shards("default")
        assert not shard.own
        assert isinstance(shard.make(), OtherLayer) and shard.make() is shard.make()


def test_the_layer_in_memory_carries_nothing() -> None:
    memory = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with override_settings(CHANNEL_LAYERS=memory):
        assert shards("default") == []
