"""Two workers over real Redis servers that are killed, stopped, silenced, locked and failed over.

What is promised meanwhile: publishing goes on, followers at another worker get every message, in order and within two
seconds, no task ends, no queue grows. Afterwards announcements carry the messages again, by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
import redis
from django.test import override_settings

from realtime import backplane, namespaces, worker
from realtime.backplane import Backplane
from realtime.delivery.blocks import Encoding
from realtime.hub import Attached, Attaching
from realtime.layers import redis_layer
from realtime.protocol import positions
from realtime.protocol.names import ChannelName
from realtime.publishing import apublish
from tests.conftest import MS, WITHIN_S, aeventually
from tests.hub.world import ENCODING
from tests.servers import Redis, free_port
from tests.stalling import StallingProxy

# The database has no part in this: once is enough. Two workers read, one writes.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]

FASTER = 4
"""The backplane's times are divided by this; a test lasts as long as several of them."""

PATIENCE_S = 60_000 * MS


class Follower:
    """A subscriber at one worker's hub that notes when each serial came."""

    encoding: Encoding = ENCODING
    congested = False

    def __init__(self, at: worker.Worker, channel: str) -> None:
        self.came_at: list[float] = []
        self.writer: Callable[[Any], None] = self.write
        self.attached = asyncio.Event()
        self._at = at
        attaching = Attaching(ChannelName(channel), positions.Head(), 0, 0, 10_000, 100)
        self.subscriber = at.hub.attach(attaching, self, self._joined, self._ended)

    def _joined(self, subscriber: Any, answer: Any) -> None:
        assert isinstance(answer, Attached)
        self._at.hub.begin(subscriber)
        self.attached.set()

    def _ended(self, code: str) -> None:
        raise AssertionError(code)

    def write(self, payload: Any) -> None:
        for text in payload:
            assert f'"serial":{len(self.came_at) + 1},' in text
            self.came_at.append(time.monotonic())

    def send(self, frame: dict[str, object]) -> None:
        assert frame["type"] == "attached"


class Talk:
    """Somebody publishes to a channel at the first worker, somebody follows it at the second."""

    def __init__(self, pair: Pair, channel: str) -> None:
        self.pair = pair
        self.channel = channel
        self.follower = Follower(pair.second, channel)
        self.began_at: list[float] = []
        self.stored_at: list[float] = []
        self._going = False

    async def say(self, count: int = 1, every_s: float = 0.05) -> None:
        for _ in range(count):
            self.began_at.append(time.monotonic())
            async with asyncio.timeout(PATIENCE_S):
                await apublish(self.channel, len(self.began_at))
            self.stored_at.append(time.monotonic())
            await asyncio.sleep(every_s)

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Says one thing after the other meanwhile."""
        self._going = True

        async def say() -> None:
            while self._going:
                await self.say()

        saying = asyncio.ensure_future(say())
        try:
            yield
        finally:
            self._going = False
            await saying
        await self.everything()

    async def everything(self) -> None:
        await aeventually(lambda: len(self.follower.came_at) == len(self.stored_at), PATIENCE_S, what="everything came")

    def publishing_s(self) -> float:
        """The longest that somebody waited for `published`."""
        return max(stored - began for stored, began in zip(self.stored_at, self.began_at, strict=True))

    def waiting_s(self) -> float:
        """The longest from `published` to the other worker."""
        return max(came - stored for came, stored in zip(self.follower.came_at, self.stored_at, strict=True))


class Pair:
    """Two workers of one site in this process."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first, self.second = worker.Worker(loop), worker.Worker(loop)

    @property
    def backplanes(self) -> tuple[Backplane, Backplane]:
        return self.first.backplane, self.second.backplane

    async def start(self) -> None:
        for each in (self.first, self.second):
            each.start()
            await each.ready.wait()

    async def talk(self, channel: str = "room") -> Talk:
        talk = Talk(self, channel)
        async with asyncio.timeout(PATIENCE_S):
            await talk.follower.attached.wait()
        return talk

    async def whole(self) -> None:
        """Every line carries beacons, and has joined what it follows."""
        now, lines = time.monotonic(), [line for each in self.backplanes for line in each.lines]
        await aeventually(
            lambda: all(line._heard_beacon_at > now and not line._memberships for line in lines),
            PATIENCE_S,
            what="whole again",
        )
        assert not any(each.suspect for each in self.backplanes)

    async def carries(self, talk: Talk, count: int = 10) -> None:
        """What is said now arrives by announcements, not because the log was read."""
        await talk.everything()
        hub, ear = self.second.hub, self.second.backplane
        heard, healed = ear.counts["heard"], hub.counts["healed"]
        await talk.say(count)
        await talk.everything()
        assert ear.counts["heard"] - heard >= count
        assert hub.counts["healed"] == healed

    async def sound(self) -> None:
        """No task has ended, no queue has grown."""
        for each in self.backplanes:
            for line in each.lines:
                assert len(line._tasks) == 4 and not any(task.done() for task in line._tasks)
                assert line._listening is not None and not line._listening.done()
                assert len(line._queue) <= backplane.ANNOUNCEMENTS_MOST
                assert len(line._heads) <= 1 and not line._memberships
                layer: Any = line._layer
                # Names that could not be subscribed to are kept until the next renewal; nothing waits at any of them.
                queues = layer._get_layer().channels
                assert len(queues) < 10 and not any(queue.qsize() for queue in queues.values())


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "PATIENCE_S", "BEACON_S", "SUSPECT_S", "RENEW_S", "RENEW_DEAF_S"):
        monkeypatch.setattr(backplane, name, getattr(backplane, name) / FASTER)


Proxy = Callable[[int], "SilentRedis"]


class SilentRedis(StallingProxy):
    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Makes proxies in front of a port, which last longer than the workers."""
    with contextlib.ExitStack() as stack:
        yield lambda port: stack.enter_context(SilentRedis(port))


@pytest_asyncio.fixture
async def pairs(proxy: Proxy) -> AsyncIterator[Callable[..., Any]]:
    """Makes a pair on the given URLs."""
    namespaces.reset()
    async with contextlib.AsyncExitStack() as stack:

        async def make(*urls: str) -> Pair:
            stack.enter_context(override_settings(CHANNEL_LAYERS={"default": redis_layer(urls)}))
            pair = Pair()
            stack.push_async_callback(pair.second.stop)
            stack.push_async_callback(pair.first.stop)
            await pair.start()
            worker._current = pair.first
            return pair

        yield make
    namespaces.reset()


async def through(pair: Pair, talk: Talk, hurt: Callable[[], object], heal: Callable[[], object]) -> None:
    """Everything that is promised, while Redis is hurt and when it is whole."""
    await pair.carries(talk)
    await asyncio.to_thread(hurt)
    async with talk.going_on():
        await aeventually(lambda: all(each.suspect for each in pair.backplanes), PATIENCE_S, what="suspect")
        # Long enough for lines to be begun anew, in vain.
        await aeventually(
            lambda: all(each.counts["renewals"] >= 2 for each in pair.backplanes), PATIENCE_S, what="renewed"
        )
        await asyncio.to_thread(heal)
        await pair.whole()
    assert len(talk.stored_at) > 50
    assert talk.publishing_s() < WITHIN_S
    assert talk.waiting_s() < WITHIN_S
    # It was an outage: the log was read for what nobody had told.
    assert pair.second.hub.counts["healed"] > 10
    # Announcements that had waited go out first.
    await aeventually(lambda: not any(line._queue for each in pair.backplanes for line in each.lines), PATIENCE_S)
    await pair.carries(talk)
    await pair.sound()


async def test_redis_is_killed_and_started_again(pairs: Any, own_redis_server: Redis) -> None:
    pair = await pairs(own_redis_server.url)
    await through(pair, await pair.talk(), own_redis_server.kill, own_redis_server.start)


async def test_redis_stops_and_goes_on(pairs: Any, own_redis_server: Redis) -> None:
    pair = await pairs(own_redis_server.url)
    await through(pair, await pair.talk(), own_redis_server.pause, own_redis_server.resume)


async def test_the_network_swallows_everything(pairs: Any, own_redis_server: Redis, proxy: Proxy) -> None:
    hole = proxy(own_redis_server.port)
    pair = await pairs(hole.url)
    await through(pair, await pair.talk(), hole.stall, hole.heal)


async def test_connections_that_are_forgotten_on_the_way_are_replaced(
    pairs: Any, own_redis_server: Redis, proxy: Proxy
) -> None:
    """They never heal; new ones would work at once."""
    hole = proxy(own_redis_server.port)
    pair = await pairs(hole.url)
    talk = await pair.talk()
    await pair.carries(talk)
    hole.forget()
    async with talk.going_on():
        await aeventually(lambda: all(each.suspect for each in pair.backplanes), PATIENCE_S, what="suspect")
        await pair.whole()
    assert talk.waiting_s() < WITHIN_S
    await pair.carries(talk)
    await pair.sound()


async def test_the_password_changes(pairs: Any, own_redis_server: Redis) -> None:
    with redis.Redis(port=own_redis_server.port) as operator:
        operator.config_set("requirepass", "old")
        operator.execute_command("AUTH", "old")

        def change() -> None:
            operator.config_set("requirepass", "new")
            for kind in ("normal", "pubsub"):
                operator.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

        pair = await pairs(f"redis://:old@127.0.0.1:{own_redis_server.port}")
        await through(pair, await pair.talk(), change, lambda: operator.config_set("requirepass", "old"))


async def test_a_redis_that_is_not_there_at_the_start(pairs: Any, own_redis_server: Redis) -> None:
    own_redis_server.kill()
    pair = await pairs(own_redis_server.url)
    talk = await pair.talk()
    async with talk.going_on():
        await aeventually(lambda: all(each.suspect for each in pair.backplanes), PATIENCE_S, what="suspect")
    assert talk.waiting_s() < WITHIN_S
    await asyncio.to_thread(own_redis_server.start)
    await pair.whole()
    await pair.carries(talk)
    await pair.sound()


async def test_renewals_leave_no_connections_behind(pairs: Any, own_redis_server: Redis) -> None:
    pair = await pairs(own_redis_server.url)
    await pair.whole()
    for each in pair.backplanes:
        for line in each.lines:
            for _ in range(5):
                await line._renew()
    await pair.whole()
    with redis.Redis(port=own_redis_server.port) as operator:
        # Two workers, each publishing on one connection and listening on another; the operator's own.
        await aeventually(lambda: len(operator.client_list()) == 5, PATIENCE_S)


# ---------------------------------------------------------------------- several


async def test_a_dead_shard_concerns_its_own_channels_alone(
    pairs: Any, own_redis_server: Redis, redis_server: Redis
) -> None:
    pair = await pairs(own_redis_server.url, redis_server.url)
    ear = pair.second.backplane
    names = [f"room{number}" for number in range(20)]
    hurt, sound = (next(name for name in names if ear.line_of(name) is line) for line in ear.lines)
    one, other = await pair.talk(hurt), await pair.talk(sound)
    await pair.carries(one)
    await pair.carries(other)
    own_redis_server.pause()
    await aeventually(lambda: all(each.suspects(ChannelName(hurt)) for each in pair.backplanes), PATIENCE_S)
    async with one.going_on():
        for _ in range(3):
            assert not ear.suspects(ChannelName(sound))
            heard = ear.counts["heard"]
            await other.say(10)
            await other.everything()
            assert ear.counts["heard"] - heard >= 10
        renewals = ear.counts["renewals"]
        await aeventually(lambda: ear.counts["renewals"] > renewals)
        own_redis_server.resume()
        await pair.whole()
    assert one.waiting_s() < WITHIN_S
    # Not by the log: by announcements, which the dead shard's queue did not hold up.
    assert pair.second.hub.counts["healed"] <= len(one.stored_at)
    await aeventually(lambda: not any(line._queue for each in pair.backplanes for line in each.lines), PATIENCE_S)
    await pair.carries(one)
    await pair.carries(other)
    await pair.sound()


class Replica(Redis):
    def __init__(self, master: Redis) -> None:
        super().__init__()
        self._master = master

    def command(self) -> list[str]:
        return [*super().command(), "--replicaof", "127.0.0.1", str(self._master.port), "--repl-diskless-sync", "yes"]


class Sentinel(Redis):
    """Watches a master; one is enough to fail it over here."""

    def __init__(self, master: Redis) -> None:
        super().__init__()
        self._master = master

    def prepare(self) -> None:
        (self.folder / "sentinel.conf").write_text(
            f"sentinel monitor main 127.0.0.1 {self._master.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )

    def command(self) -> list[str]:
        command = super().command()
        return [command[0], str(self.folder / "sentinel.conf"), "--sentinel", "--port", str(self.port)]

    def master_port(self) -> int:
        with redis.Redis(port=self.port) as asked:
            return int(asked.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1])

    def knows_the_replica(self) -> bool:
        with redis.Redis(port=self.port) as asked:
            master: dict[str, Any] = asked.info("sentinel")["master0"]
        return bool(master["slaves"])


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_sentinel_names_another_master(pairs: Any, own_redis_server: Redis, how: str) -> None:
    master = own_redis_server
    with Replica(master) as replica, Sentinel(master) as sentinel:
        await aeventually(sentinel.knows_the_replica, PATIENCE_S)
        pair = await pairs(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main")
        talk = await pair.talk()
        await pair.whole()
        await pair.carries(talk)
        if how == "killed":
            master.kill()
        else:
            master.pause()
        async with talk.going_on():
            await aeventually(lambda: sentinel.master_port() == replica.port, PATIENCE_S, what="failed over")
            await aeventually(lambda: any(each.suspect for each in pair.backplanes), PATIENCE_S, what="suspect")
            await pair.whole()
        assert talk.waiting_s() < WITHIN_S
        await pair.carries(talk)
        # The old one comes back as a replica, and changes nothing.
        if how == "killed":
            await asyncio.to_thread(master.start)
        else:
            master.resume()
        await asyncio.sleep(2 * backplane.RENEW_S)
        await pair.whole()
        await pair.carries(talk)
        await pair.sound()
