"""Two real workers on PostgreSQL and Redis: what one process changes holds at all of them, whatever Redis does.

The workers are processes of their own, each with an address, so that it is known which one did what. Times are those of
this machine's one clock, from the commit to the frame that a client of the other worker got.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.conftest import MS, WITHIN_S, aeventually
from tests.e2e.processes import ServerProcess
from tests.e2e.rotation import Operator, Run
from tests.e2e.wire import Talker, request, talker, token
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

PATIENCE_S = 60_000 * MS

PEOPLE = """
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from chat.models import Membership, Room
from realtime.models import Namespace

def session_of(user):
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.create()
    return store.session_key
"""


class Workers:
    """Two of them, their Redis, and programs beside them that have no worker."""

    def __init__(self, first: ServerProcess, second: ServerProcess, redis: Redis) -> None:
        self.first, self.second, self.redis = first, second, redis

    async def run(self, code: str) -> Any:
        """Runs code in a shell; what it puts into `answer`, where `done()` notes the time."""
        given = (
            "import json, time\nfrom django.db import transaction\n" + PEOPLE + "answer = {}\n"
            "def done(): answer['at'] = time.time()\n" + code + "\nprint('answer:' + json.dumps(answer))"
        )
        output = await asyncio.to_thread(self.first.manage, "shell", "-c", given)
        return json.loads(output.rpartition("answer:")[2])

    async def prepare(self) -> str:
        """ana, who is logged in, and three private rooms that she is a member of; her session's key."""
        answer = await self.run(
            """
Namespace.objects.update_or_create(name="chat", defaults={"known_ops": ["subscribe"]})
User.objects.filter(username="ana").delete()
ana = User.objects.create_user("ana")
for slug in ("zero", "one", "two"):
    room, _ = Room.objects.get_or_create(slug=slug, name=slug, kind="private")
    Membership.objects.create(room=room, user=ana)
answer["key"] = session_of(ana)
"""
        )
        return str(answer["key"])

    async def sockets(self, key: str) -> list[Talker]:
        """One at each worker, with the session's cookie."""
        found = []
        for server in (self.first, self.second):
            headers = f"Cookie: sessionid={key}\r\nOrigin: {server.url}\r\n"
            found.append(await talker(server.port, headers=headers))
            await found[-1].until("ready")
        return found

    async def stop_redis(self) -> None:
        await asyncio.to_thread(self.redis.pause)


async def end_of(socket: Talker) -> tuple[int | None, float]:
    """The close code, and when it came."""
    async with asyncio.timeout(PATIENCE_S):
        while await socket.receive(PATIENCE_S) is not None:
            pass
    return socket.close_code, time.time()


async def frame_at(socket: Talker, kind: str, **fields: object) -> float:
    """When a frame with these fields came."""
    async with asyncio.timeout(PATIENCE_S):
        while not (await socket.until(kind, PATIENCE_S)).items() >= fields.items():
            pass
    return time.time()


@pytest.fixture(scope="module")
def servers(postgres_server: Postgres) -> Iterator[Workers]:
    with ExitStack() as stack:
        redis = stack.enter_context(Redis())
        url = postgres_server.create_database("control")
        first, second = (ServerProcess(database_url=url, REDIS_URL=redis.url) for _ in range(2))
        for server in (first, second):
            stack.callback(server.close)
            server.start()
        yield Workers(first, second, redis)


@pytest_asyncio.fixture(params=["Redis runs", "Redis is stopped"])
async def workers(servers: Workers, request: pytest.FixtureRequest) -> AsyncIterator[Workers]:
    if request.param == "Redis is stopped":
        await servers.stop_redis()
    yield servers
    await asyncio.to_thread(servers.redis.resume)


async def test_logging_out_at_one_worker_closes_the_sockets_at_the_other(workers: Workers) -> None:
    key, other = await workers.prepare(), (await workers.run("answer['key'] = session_of(User.objects.get())"))["key"]
    sockets = await workers.sockets(key)
    others = await workers.sockets(other)
    async with httpx.AsyncClient(trust_env=False) as browser:
        answer = await browser.post(
            f"{workers.first.url}/accounts/logout/",
            data={"csrfmiddlewaretoken": "c" * 32},
            headers={"Cookie": f"sessionid={key}; csrftoken={'c' * 32}"},
        )
    logged_out_at = time.time()
    assert answer.status_code == 302
    for socket in sockets:
        code, at = await end_of(socket)
        assert code == 4401 and at - logged_out_at < WITHIN_S
    for socket in others:
        assert (await socket.ask({"type": "ping", "ref": 1}))["type"] == "pong"
        await socket.close()


async def test_rights_that_a_program_takes_away_end_attachments_at_all_workers(workers: Workers) -> None:
    """Where it commits, and only there."""
    sockets = await workers.sockets(await workers.prepare())
    for socket in sockets:
        for slug in ("zero", "one", "two"):
            await until_answered(socket, {"type": "attach", "channel": f"chat:{slug}"}, "attached")
    # Nobody is told of the deletions: only a worker that asks again finds out. And who has heard of this one has heard
    # of all that the rooms were made with.
    await workers.run(
        """
from realtime.authorization import reauthorize
Membership.objects.filter(room__slug="zero")._raw_delete("default")
reauthorize(channel="chat:zero")
"""
    )
    for socket in sockets:
        await frame_at(socket, "detached", channel="chat:zero", reason="forbidden")
    answer = await workers.run(
        """
from realtime.authorization import reauthorize
Membership.objects.all()._raw_delete("default")
try:
    with transaction.atomic():
        reauthorize(channel="chat:one")
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
with transaction.atomic():
    reauthorize(channel="chat:two")
done()
"""
    )
    for socket in sockets:
        at = await frame_at(socket, "detached", channel="chat:two", reason="forbidden")
        assert at - answer["at"] < WITHIN_S
        # What was rolled back came before it, and would have been heard before it.
        assert (await socket.ask({"type": "detach", "ref": 1, "channel": "chat:one"}))["type"] == "detached"
        await socket.close()


async def test_a_user_that_a_program_locks_out_is_gone_from_all_workers(workers: Workers) -> None:
    sockets = await workers.sockets(await workers.prepare())
    answer = await workers.run(
        "User.objects.get().save()\nana = User.objects.get()\nana.is_active = False\nana.save()\ndone()"
    )
    for socket in sockets:
        code, at = await end_of(socket)
        assert code == 4401 and at - answer["at"] < WITHIN_S


async def test_a_rule_that_an_operator_changes_holds_at_all_workers(workers: Workers) -> None:
    await workers.run("Namespace.objects.filter(name='ruled').delete()\nNamespace.objects.create(name='ruled')")
    sockets = [await talker(server.port, token("ana")) for server in (workers.first, workers.second)]
    for socket in sockets:
        await until_answered(socket, {"type": "attach", "channel": "ruled:x"}, "attached")
    answer = await workers.run(
        "row = Namespace.objects.get(name='ruled')\n"
        "row.known_ops = ['publish']\nrow.max_message_bytes = 5\n"
        "with transaction.atomic():\n    row.save()\n    row.save()\ndone()"
    )
    for socket in sockets:
        at = await frame_at(socket, "detached", channel="ruled:x", reason="forbidden")
        assert at - answer["at"] < WITHIN_S
        publish = {"type": "publish", "ref": 1, "channel": "ruled:x", "messages": [{"data": "too large"}]}
        assert (await socket.ask(publish))["code"] == "too_large"
        await socket.close()


async def until_answered(socket: Talker, frame: dict[str, Any], kind: str) -> None:
    """Asks again while the answer is another: a namespace that was made now is not known everywhere yet."""

    async def answered() -> bool:
        return bool((await socket.ask({**frame, "ref": 1}))["type"] == kind)

    await aeventually(answered, PATIENCE_S)


async def test_a_worker_that_missed_events_takes_everything_for_changed(servers: Workers) -> None:
    """It stands still while a program ends a session, and what was said of that is pruned before it goes on."""
    sockets = await servers.sockets(await servers.prepare())
    os.kill(servers.second.pid, signal.SIGSTOP)
    try:
        # Without a worker: nothing is announced that could wait for the one that stands still.
        await servers.run("ana = User.objects.get()\nana.set_password('another')\nana.save()")
        # The first has read of it before it is pruned.
        assert (await end_of(sockets[0]))[0] == 4401
        head = (await servers.run(HEAD))["head"]
        await asyncio.to_thread(servers.first.manage, "prune", "--channel", "$control", "--upto", str(head))
        assert sockets[1].is_open
    finally:
        os.kill(servers.second.pid, signal.SIGCONT)
    goes_on_at = time.time()
    code, at = await end_of(sockets[1])
    assert code == 4401 and at - goes_on_at < WITHIN_S
    # A regular look may have been due and have come first.
    await aeventually(lambda: "Events may have been missed" in servers.second.log_text())
    assert "Events may have been missed" not in servers.first.log_text()


HEAD = """
from realtime.control import CHANNEL
from realtime.log import read_states
answer["head"] = read_states([CHANNEL])[CHANNEL].head
"""


async def test_revoked_blocked_and_disconnected_clients_are_gone_from_all_workers(workers: Workers) -> None:
    """By REST at the first worker, and by a program without one; what holds survives a restart."""
    key = (await workers.run("from realtime.tokens import create_api_key\n"
                             "answer['key'] = create_api_key('ops', {'*': ['*']})[1]"))["key"]  # fmt: skip
    ports = (workers.first.port, workers.second.port)

    # Each run has its own: a revocation stays, and a block a moment longer than it holds.
    jti, mallory = f"leaked-{time.time_ns()}", f"mallory-{time.time_ns()}"

    async def at_both(client: str, **claims: Any) -> list[Talker]:
        return [await talker(port, token(client, **claims)) for port in ports]

    leaked, kicked, blocked, others = (
        await at_both("rev", jti=jti), await at_both("kick"), await at_both(mallory), await at_both("rev"),
    )  # fmt: skip
    began = time.time()
    status, _ = await request(ports[0], "POST", "/api/v1/tokens/revoke", key, {"jti": jti})
    assert status == 200
    for socket in leaked:
        code, at = await end_of(socket)
        assert code == 4401 and at - began < WITHIN_S
    began = time.time()
    status, body = await request(ports[1], "DELETE", "/api/v1/clients/kick/connections", key)
    assert (status, body) == (200, {"connections": 1})
    for socket in kicked:
        code, at = await end_of(socket)
        assert code == 4403 and at - began < WITHIN_S
    answer = await workers.run("from realtime import desk\ndesk.block('" + mallory + "', actor='shell')\ndone()")
    for socket in blocked:
        code, at = await end_of(socket)
        assert code == 4403 and at - answer["at"] < WITHIN_S
    for socket in others:
        assert (await socket.ask({"type": "ping", "ref": 1}))["type"] == "pong"
        await socket.close()
    await asyncio.to_thread(workers.second.restart)
    for bearer, code in ((token("rev", jti=jti), 4401), (token(mallory), 4403)):
        again = await talker(ports[1])
        again.send({"type": "auth", "token": bearer})
        assert (await end_of(again))[0] == code
    await workers.run("from realtime import desk\ndesk.lift('block', '" + mallory + "', actor='shell')")


async def test_what_is_said_to_everybody_comes_to_every_connection_once(workers: Workers) -> None:
    """By a program without a worker; to those who are attached to nothing, too."""
    text = f"Back at six. {time.time_ns()}"
    sockets = [await talker(server.port, token(f"hears-{server.port}")) for server in (workers.first, workers.second)]
    silent = await talker(workers.second.port)
    answer = await workers.run(f"from realtime import desk\ndesk.announce({text!r}, actor='shell')\ndone()")
    for socket in sockets:
        frame = await socket.until("signal", PATIENCE_S)
        assert time.time() - answer["at"] < WITHIN_S
        assert {**frame, "data": frame["data"]["text"]} == {
            "type": "signal", "channel": "$all", "client": None, "event": "announcement", "data": text,
        }  # fmt: skip
    silent.send({"type": "auth", "token": token("late")})
    first = await silent.receive(PATIENCE_S)
    assert first is not None and first["type"] == "ready", "nothing comes before it"
    for socket in (*sockets, silent):
        socket.send({"type": "ping", "ref": "p"})
        # Not twice, and not to who came too late.
        while (frame := await socket.receive(PATIENCE_S) or {})["type"] != "pong":
            assert frame["type"] != "signal"
        await socket.close()


async def test_a_limit_and_a_closed_channel_of_another_process_hold_at_all_workers(workers: Workers) -> None:
    client, channel = f"limited-{time.time_ns()}", f"closing-{time.time_ns()}"
    sockets = [await talker(server.port, token(client)) for server in (workers.first, workers.second)]
    frame = {"type": "publish", "ref": "p", "channel": channel, "messages": [{"data": 1}]}
    assert (await sockets[0].ask(frame))["type"] == "published"
    for socket in sockets:
        assert (await socket.ask({"type": "attach", "ref": "a", "channel": channel}))["type"] == "attached"
    answer = await workers.run(
        f"from realtime import desk\ndesk.close({channel!r}, actor='shell')\n"
        f"from realtime.models import Limit\nLimit.objects.create(scope='client', name={client!r}, message_bytes=10)\n"
        "done()"
    )
    for socket in sockets:
        at = await frame_at(socket, "detached", channel=channel, reason="forbidden")
        assert at - answer["at"] < WITHIN_S
        assert (await socket.ask({**frame, "ref": "q"}))["code"] == "forbidden"
        assert (await socket.ask({"type": "attach", "ref": "b", "channel": channel}))["code"] == "forbidden"
    for number, socket in enumerate(sockets):
        while await published(socket, {"data": "x" * 50}):
            assert time.time() - answer["at"] < WITHIN_S * (number + 1)
        await socket.close()


async def published(socket: Talker, message: dict[str, Any]) -> bool:
    frame = {"type": "publish", "ref": f"r{time.time_ns()}", "channel": "room", "messages": [message]}
    return bool((await socket.ask(frame))["type"] == "published")


async def rotate_and_revoke(workers: Workers, *, clients: int, rotations: int, seed: int) -> None:
    """Keys go round, and with each round somebody's token is taken back by `jti`, by client, by API key, by its key."""
    operator = Operator(workers.first)
    operator.start()
    try:
        run = Run((workers.first.port, workers.second.port), operator, seed=seed, refresh_s=clients / 20)
        key = await run.api_key("shop")
        await run.rotate("HS256", key, hurry=True)
        await run.enter(clients, key)
        for algorithm in ("EdDSA", "ES256", "RS256", "HS256", "EdDSA")[:rotations]:
            sleepers = await run.enter(3, key, sleeper=True)
            victims = await run.enter(2, key, sleeper=True)
            doomed_key = await run.api_key("doomed")
            doomed = await run.enter(3, doomed_key, sleeper=True)
            old = await run.rotate(algorithm, key)
            await run.put_out(victims[:1], f"desk.revoke('jti', {victims[0].jti!r}, actor='run')")
            await run.put_out(victims[1:], f"desk.revoke('client', {victims[1].name!r}, actor='run')")
            await run.put_out(doomed, f"desk.revoke('key', {doomed_key.split('_')[1]!r}, actor='run')")
            await run.refreshed()
            await run.put_out(sleepers, f"desk.retire_key({old!r}, actor='run')")
        await run.end()
        await operator.act(f"desk.retire_key({run.current!r}, actor='run')")
    finally:
        await asyncio.to_thread(operator.close)
    print(run.figures)
    assert not run.figures.cut and not run.figures.stayed
    assert max(run.figures.out_s) < WITHIN_S
    assert len(run.figures.out_s) == 8 * rotations and len(run.figures.kids) == rotations + 1
    assert run.figures.refreshed > clients / 4


async def test_keys_go_round_and_tokens_are_revoked_and_no_valid_client_is_cut(servers: Workers) -> None:
    """Without Redis, when news travel through the log alone."""
    await servers.stop_redis()
    try:
        await rotate_and_revoke(servers, clients=20, rotations=1, seed=1)
    finally:
        await asyncio.to_thread(servers.redis.resume)


@pytest.mark.slow
async def test_the_same_with_hundreds_of_clients(workers: Workers) -> None:
    """With -s it says what happened."""
    await rotate_and_revoke(workers, clients=300, rotations=5, seed=2)
