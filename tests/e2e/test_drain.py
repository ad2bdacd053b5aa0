"""SIGTERM: clients are sent away, what was accepted is answered first, and nobody new is taken in."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest

from tests.conftest import MS, aeventually
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import HandshakeRefused, Talker, connect, talker, token
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

#: Clients leave 5 ms apart, so this many keep two workers draining for a second.
CLIENTS = 400
#: No more at once: a server that is stormed turns some away.
AT_ONCE = 20


@contextlib.asynccontextmanager
async def started(server: ServerProcess) -> AsyncIterator[ServerProcess]:
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.close)


async def test_a_server_that_drains_takes_nobody_in() -> None:
    async with started(ServerProcess()) as server:
        await refuses_while_it_drains(server)


async def test_neither_do_several_workers(postgres_server: Postgres, redis_server: Redis) -> None:
    url = postgres_server.create_database("drain")
    async with started(ServerProcess(database_url=url, workers=2, REDIS_URL=redis_server.url)) as server:
        await refuses_while_it_drains(server)


async def refuses_while_it_drains(server: ServerProcess) -> None:
    clients: list[Talker] = []
    while len(clients) < CLIENTS:
        clients += await asyncio.gather(*(talker(server.port, token("ana")) for _ in range(AT_ONCE)))
    server.signal(signal.SIGTERM)
    hints = [asyncio.ensure_future(client.until("reconnect")) for client in clients]
    await asyncio.wait(hints, return_when=asyncio.FIRST_COMPLETED)

    async def refused() -> bool:
        try:
            late = await connect(server.port, token("ana"), into=Talker(), timeout_s=10_000 * MS)
        except ConnectionRefusedError:
            return True
        except HandshakeRefused as error:
            # Accepted by the system before the socket that listens was closed.
            return error.status == 503 and "(draining)" in error.text
        except ConnectionResetError:
            # It waited to be accepted when that happened.
            return False
        late.abort()
        return False

    await aeventually(refused, 20_000 * MS)
    assert not all_gone(clients), "whoever is refused only when all have gone proves nothing"
    await asyncio.gather(*hints)
    for client in clients:
        client.abort()


def all_gone(clients: Sequence[Talker]) -> bool:
    return all(client.close_code is not None for client in clients)


SLOW_INSERTS = """
CREATE FUNCTION wait_in_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$;
CREATE TRIGGER wait_in_insert BEFORE INSERT ON realtime_message
    FOR EACH ROW WHEN (NEW.mid LIKE 'slow%') EXECUTE FUNCTION wait_in_insert();
"""


async def test_what_was_accepted_is_stored_and_answered_before_the_client_is_sent_away(
    postgres_server: Postgres,
) -> None:
    url = postgres_server.create_database("drain_accepted")
    async with started(ServerProcess(database_url=url)) as server:
        with psycopg.connect(url, autocommit=True) as database:
            database.execute(SLOW_INSERTS)
        publisher = await talker(server.port, token("ana"))
        for ref in (1, 2):
            frame = {"type": "publish", "ref": ref, "channel": "lobby", "messages": [{"id": f"slow{ref}"}]}
            publisher.send(frame)
        # Answered while the first is being stored: the server has read both.
        await publisher.ask({"type": "ping", "ref": 3})
        server.signal(signal.SIGTERM)
        kinds = [(await publisher.receive() or {}).get("type") for _ in range(4)]
        assert kinds == ["published", "published", "reconnect", None]
        assert publisher.close_code == 1012
        with psycopg.connect(url) as database:
            stored = database.execute("SELECT mid FROM realtime_message ORDER BY serial").fetchall()
        assert stored == [("slow1",), ("slow2",)]
