"""The shells against a real server: asyncio, threads, REST; the server is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from seriatim_client import (
    Announcement,
    BackoffOptions,
    Channel,
    Client,
    Cursor,
    Message,
    Position,
    Rest,
    SeriatimError,
    Signal,
    SyncClient,
)
from tests.conftest import MS, aeventually, eventually, heed_ctrl_c
from tests.servers import Site

pytestmark = pytest.mark.e2e

QUICK = BackoffOptions(first_ms=50, cap_ms=400)
CAP = {"*": ["*"]}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def api(site: Site) -> Iterator[Rest]:
    with Rest(site.url, site.manage("create_api_key", "ops", "--cap", '{"*":["*"]}').strip()) as rest:
        yield rest


@pytest.fixture
def token(api: Rest) -> Callable[..., str]:
    """Issues a token that may do everything."""

    def issue(client: str = "ana", ttl_s: float = 600) -> str:
        return api.issue_token(client, CAP, ttl_s).token

    return issue


@pytest.fixture(params=["websocket", "streaming", "polling"])
async def client(site: Site, token: Callable[..., str], request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with Client(site.url, token=token(), backoff=QUICK, transports=[request.param]) as made:
        yield made


_names = iter(range(1_000_000))


@pytest.fixture
def name() -> str:
    """A channel of the test's own."""
    return f"sdk-python-{next(_names)}"


async def take(channel: Channel, count: int) -> list[Message]:
    """Processes so many messages."""
    got: list[Message] = []
    async with asyncio.timeout(20_000 * MS):
        async for message in channel:
            got.append(message)
            if len(got) == count:
                channel.processed_through(message.serial)
                break
    return got


async def test_publish_follow_and_read_back(client: Client, name: str) -> None:
    channel = client.channel(name, "start")
    futures = [channel.publish({"number": number}, event="counted", key=f"k{number}") for number in range(5)]
    receipts = await asyncio.gather(*futures)
    assert [receipt.serial for receipt in receipts] == [1, 2, 3, 4, 5]
    got = await take(channel, 5)
    assert [(m.serial, m.id, m.data, m.key) for m in got] == [
        (r.serial, r.id, {"number": n}, f"k{n}") for n, r in enumerate(receipts)
    ]
    assert {(m.client, m.event, m.channel) for m in got} == {("ana", "counted", name)}
    assert channel.position == got[-1].position == Position(receipts[0].epoch, 5)
    page = await channel.history(before=4, limit=2)
    assert [m.serial for m in page.messages] == [3, 2]
    assert (page.head, page.more, page.epoch) == (5, True, receipts[0].epoch)
    assert (await channel.publish({"number": 0}, event="counted", key="k0", id=receipts[0].id)).duplicate
    assert (await channel.publish("other", id=receipts[0].id)).conflict


async def test_a_loop_that_is_left_goes_on_with_the_same_message(client: Client, name: str) -> None:
    channel = client.channel(name, "start")
    for number in range(3):
        await channel.publish(number)
    async for message in channel:
        assert message.serial == 1
        break
    async for message in channel:
        assert message.serial == 1
        channel.processed_through(1)
        break
    assert [m.serial for m in await take(channel, 2)] == [2, 3]


async def test_a_wait_that_is_cancelled_loses_nothing(client: Client, name: str) -> None:
    channel = client.channel(name, "start")
    await channel.attach()
    messages = aiter(channel)
    publishing = asyncio.create_task(_publish_slowly(channel, 20))
    got: list[int] = []
    while len(got) < 20:
        try:
            got.append((await asyncio.wait_for(anext(messages), 3 * MS)).serial)
        except TimeoutError:
            pass
    await publishing
    assert got == list(range(1, 21))


async def _publish_slowly(channel: Channel, count: int) -> None:
    for number in range(count):
        await channel.publish(number)


async def test_a_second_loop_takes_over(client: Client, name: str) -> None:
    channel = client.channel(name)
    first = asyncio.create_task(anext(aiter(channel)))
    await aeventually(lambda: channel.state == "attached")
    second = asyncio.create_task(anext(aiter(channel)))
    with pytest.raises(SeriatimError) as busy:
        await first
    assert busy.value.code == "busy"
    await channel.publish("x")
    assert (await second).data == "x"


async def test_loops_end_when_the_channel_is_detached_or_the_client_closed(client: Client, name: str) -> None:
    async def read() -> list[int]:
        return [message.serial async for message in channel]

    channel = client.channel(name)
    for end in (channel.detach, client.close):
        reading = asyncio.create_task(read())
        await aeventually(lambda: channel.state == "attached")
        await end()
        assert await reading == []
    with pytest.raises(SeriatimError) as closed:
        await channel.publish(1)
    assert closed.value.code == "closed"


async def test_refusals_reach_the_caller(site: Site, api: Rest, name: str) -> None:
    token = api.issue_token("eve", {name: ["subscribe"]}).token
    async with Client(site.url, token=token) as client:
        for refused in (client.channel(name).publish(1), client.channel(name).history()):
            with pytest.raises(SeriatimError) as error:
                await refused
            assert error.value.code == "forbidden"
        with pytest.raises(SeriatimError) as error:
            await client.channel("elsewhere").attach()
        assert error.value.code == "forbidden"
        with pytest.raises(SeriatimError) as error:
            async for _ in client.channel(name, "start"):
                raise AssertionError
        assert error.value.code == "forbidden"


async def test_a_bad_token_ends_what_waits(site: Site, name: str) -> None:
    async with Client(site.url, token="no.such.token", backoff=QUICK) as client:
        with pytest.raises(SeriatimError) as refused:
            await client.channel(name).attach()
        assert refused.value.code == "signed_out"
        assert client.state.name == "signed_out"


async def test_a_token_is_renewed_before_it_expires(site: Site, token: Callable[..., str], name: str) -> None:
    asked: list[str] = []

    def fetch() -> str:
        asked.append(threading.current_thread().name)
        return token(ttl_s=2 if len(asked) == 1 else 600)

    states: list[str] = []
    async with Client(site.url, token=fetch) as client:
        client.on_state = lambda state: states.append(state.name.value)
        await client.connected()
        await aeventually(lambda: len(asked) == 2)
        await client.channel(name).publish(1)
        assert client.state.name == "live"
    assert threading.current_thread().name not in asked, "a plain function may block"


async def test_signals_arrive_or_are_refused_without_harm(client: Client, name: str) -> None:
    got: list[Signal] = []
    channel = client.channel(name)
    channel.on_signal = got.append
    channel.on_error = lambda error: None
    await channel.attach()
    assert channel.signal("typing", {"on": True}) is True
    await channel.publish(1)  # the line carries on


ANNOUNCE = "from realtime import desk; desk.announce('Back at six.', actor='shell')"


async def test_what_an_operator_says_to_everybody_is_told(site: Site, client: Client, name: str) -> None:
    told: list[Announcement] = []
    client.on_announcement = told.append
    # Who follows nothing asks for nothing, where each question is a request.
    await client.channel(name).attach()
    await asyncio.to_thread(site.manage, "shell", "-c", ANNOUNCE)
    await aeventually(lambda: [each.text for each in told] == ["Back at six."])


async def test_a_state_and_the_stream_are_put_together(client: Client, api: Rest, name: str) -> None:
    for number in range(5):
        await client.channel(name).publish(number)
    channel = client.channel(name, "start")
    asked: list[Position] = []

    async def load(position: Position) -> int:
        asked.append(position)
        return 3

    await channel.load_state(load)
    assert [position.serial for position in asked] == [0]
    assert [m.serial for m in await take(channel, 2)] == [4, 5]


async def test_a_hole_is_told_before_what_follows(site: Site, client: Client, name: str) -> None:
    channel = client.channel(name, "start")
    for number in range(6):
        await channel.publish(number)
    await take(channel, 1)
    await channel.detach()
    site.manage("prune", "--channel", name, "--upto", "4")
    told: list[tuple[int | None, int | None, str]] = []

    async def tell(first: int | None, last: int | None, reason: str) -> None:
        told.append((first, last, reason))

    channel.on_discontinuity = tell
    assert [m.serial for m in await take(channel, 2)] == [5, 6]
    assert told == [(2, 4, "retention")]


def _has_reached(channel: Channel, serial: int) -> bool:
    return channel.position is not None and channel.position.serial >= serial


async def test_nothing_is_lost_or_doubled_while_the_server_is_killed(token: Callable[..., str]) -> None:
    with Site() as site:
        key = site.manage("create_api_key", "ops", "--cap", '{"*":["*"]}').strip()
        with Rest(site.url, key) as api:
            own = api.issue_token("ana", CAP, 3600).token
        async with (
            Client(site.url, token=own, backoff=QUICK) as publisher,
            Client(site.url, token=own, backoff=QUICK) as subscriber,
        ):
            out, into = publisher.channel("killed"), subscriber.channel("killed", "start")
            await into.attach()
            total = 300
            futures = []

            async def publish() -> None:
                for number in range(total):
                    await publisher.drain()
                    futures.append(out.publish(number, id=f"n{number}"))
                    await asyncio.sleep(10 * MS)

            publishing = asyncio.create_task(publish())
            reading = asyncio.create_task(take(into, total))
            for at in (60, 180):
                await aeventually(partial(_has_reached, into, at), 30_000 * MS)
                await asyncio.to_thread(site.kill)
                await aeventually(lambda: publisher.state.name == "offline" and subscriber.state.name == "offline")
                await asyncio.to_thread(site.start)
            await publishing
            async with asyncio.timeout(40_000 * MS):
                receipts = await asyncio.gather(*futures)
                got = await reading
            assert [m.data for m in got] == list(range(total))
            assert [m.serial for m in got] == list(range(1, total + 1))
            assert [r.serial for r in receipts] == list(range(1, total + 1))


def test_the_facade_for_threads(site: Site, token: Callable[..., str], name: str) -> None:
    with SyncClient(site.url, token=token("sync")) as client:
        assert client.connected(timeout_s=10).client == "sync"
        channel = client.channel(name, "start")
        assert channel.publish({"n": 1}, timeout_s=10).serial == 1
        soon = [channel.publish_soon({"n": number}) for number in (2, 3)]
        assert [future.result(10).serial for future in soon] == [2, 3]
        assert [m.serial for m in channel.history(timeout_s=10).messages] == [3, 2, 1]
        for message in channel:
            assert message.serial == 1
            break
        assert [m.serial for m in channel.read(idle_s=0.5)] == [1, 2, 3]
        assert channel.position is not None and channel.position.serial == 3
        with pytest.raises(SeriatimError):
            client.channel("no such name")
    with pytest.raises(SeriatimError) as closed:
        channel.publish(4)
    assert closed.value.code == "closed"


def test_a_cursor_goes_on_where_the_last_process_was(site: Site, token: Callable[..., str], name: str) -> None:
    with SyncClient(site.url, token=token("worker")) as client:
        channel = client.channel(name)
        channel.publish(0)
    for first in (2, 4):
        with SyncClient(site.url, token=token("worker")) as client:
            channel = client.channel(name, Cursor("one"))
            channel.attach(timeout_s=10)
            for number in range(2):
                channel.publish(number)
            got = []
            for message in channel.read(idle_s=1):
                got.append(message.serial)
            assert got == [first, first + 1]


def test_ctrl_c_ends_a_loop_and_the_next_one_goes_on(site: Site, token: Callable[..., str], name: str) -> None:
    script = f"""
from seriatim_client import SyncClient
with SyncClient({site.url!r}, token={token()!r}) as client:
    channel = client.channel({name!r}, "start")
    channel.publish(1)
    try:
        for message in channel:
            print("got", message.serial, flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    channel.publish(2)
    print([message.serial for message in channel.read(idle_s=0.5)], flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT / "clients" / "python")},
        preexec_fn=heed_ctrl_c,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "got 1\n"
    # Now the loop waits for the second message; the first is processed once it asked for that.
    threading.Event().wait(300 * MS)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "stopped\n[2]\n"
    assert process.returncode == 0


def test_rest_publishes_reads_and_issues_tokens(api: Rest, name: str) -> None:
    first = api.publish(name, {"a": 1}, id="one", client="feed")
    again = api.publish(name, {"a": 1}, id="one", client="feed")
    assert (first.serial, first.duplicate, again.serial, again.duplicate) == (1, False, 1, True)
    assert [m.client for m in api.history(name).messages] == ["feed"]
    assert [m.serial for m in api.messages(name, after=0)] == [1]
    assert len(json.dumps(api.issue_token("ana").token)) > 40


async def test_presence_is_entered_again_after_each_loss(site: Site, token: Callable[..., str], name: str) -> None:
    async with Client(site.url, token=token("ana"), backoff=QUICK) as ana, Client(site.url, token=token("bo")) as bo:
        mine, theirs = ana.channel(name, presence=True), bo.channel(name, presence=True)
        heard: list[set[str]] = []
        theirs.presence.on_change = lambda presence: heard.append(set(presence.members))
        with pytest.raises(SeriatimError, match="attached"):
            await mine.presence.enter()
        await theirs.attach()
        await mine.attach()
        await mine.presence.enter({"mood": 1})
        await aeventually(lambda: set(mine.presence.members) == set(theirs.presence.members) == {"ana"})
        assert theirs.presence.members["ana"].data == {"mood": 1}
        await mine.presence.update(2)
        await aeventually(lambda: theirs.presence.members["ana"].data == 2)

        # As a network that is gone: the server hears of it, and the client comes back.
        next(iter(ana._links.values())).socket.transport.abort()  # type: ignore[union-attr]
        await aeventually(lambda: ana.state.name == "live" and mine.state == "attached")
        await bo.channel(name).publish(1)
        await mine.presence.update(3)
        await aeventually(lambda: theirs.presence.members["ana"].data == 3)
        await mine.presence.leave()
        await aeventually(lambda: theirs.presence.count == 0)
        assert heard == [set(), {"ana"}, {"ana"}, {"ana"}, set()]


async def test_presence_over_requests(site: Site, token: Callable[..., str], client: Client, name: str) -> None:
    async with Client(site.url, token=token("bo"), transports=["polling"]) as bo:
        mine, theirs = client.channel(name, presence=True), bo.channel(name, presence=True)
        await asyncio.gather(mine.attach(), theirs.attach())
        await mine.presence.enter(1)
        await theirs.presence.enter("by polls")
        await aeventually(lambda: set(mine.presence.members) == set(theirs.presence.members) == {"ana", "bo"})
        # Another channel opens the stream anew: nobody sees that.
        await client.channel(f"{name}-b").attach()
        await mine.presence.update(2)
        await aeventually(lambda: theirs.presence.members["ana"].data == 2)
        await mine.presence.leave()
        await aeventually(lambda: set(theirs.presence.members) == {"bo"})
        await theirs.detach()
        await aeventually(lambda: mine.presence.count == 0)


def test_presence_for_threads(site: Site, token: Callable[..., str], name: str) -> None:
    with SyncClient(site.url, token=token("ana")) as client:
        channel = client.channel(name, presence=True)
        channel.attach()
        channel.presence.enter("here", timeout_s=5)
        eventually(lambda: channel.presence.count == 1)
        assert channel.presence.members["ana"].data == "here"
        channel.presence.leave()
        eventually(lambda: not channel.presence.members)
