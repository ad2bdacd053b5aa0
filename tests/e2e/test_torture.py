"""The torture in short, on both databases; the long one is `make torture`. See docs/how-to/test.md."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import psycopg
import pytest

from tests.conftest import MS, aeventually
from tests.e2e.faults import terminate_connections
from tests.e2e.lines import StreamLine
from tests.e2e.processes import ServerProcess
from tests.e2e.run import DECK, TRANSPORTS, Plan, Run
from tests.e2e.torture import missed, read_history, report, server_for, torture
from tests.e2e.wire import Talker, talker, token
from tests.servers import Postgres, Redis

pytestmark = pytest.mark.e2e

#: Of every kind of fault some: how many, chance and the machine decide in so short a time.
SURE = {
    "kills": 1,
    "attachments at kills": 10,
    "backfills interrupted": 1,
    "links cut in mid-frame": 1,
    "connections that died": 10,
    "reconnects refused": 1,
    "resumes that replay": 10,
    "stalls at the window": 1,
    "links silenced": 1,
    "duplicates answered": 5,
    "answers lost": 1,
}
SHORT = Plan(seconds=10, seed=11, subscribers=16, kill_every_s=6, settle_s=40, minima=SURE)
SURE_OF_TRANSPORTS = (
    *("changes of transport", "changes of transport in mid-stream", "posts answered", "posts sent again"),
    *(f"messages by {transport}" for transport in TRANSPORTS),
)
SHORT_OF_TRANSPORTS = replace(
    SHORT,
    seconds=8,
    kill_every_s=5,
    publishers=6,
    transports=TRANSPORTS,
    minima=SURE | dict.fromkeys(SURE_OF_TRANSPORTS, 1),
)
SURE_OF_SEVERAL = (
    *("workers killed", "workers stopped", "Redis killed", "Redis frozen", "rolling replacements", "supervisors ended"),
    *("applications killed", "transactions", "transactions rolled back", "connections of the least used worker"),
    *("deliveries from another worker", "deliveries from another worker while Redis was away"),
    *("resumes at another worker", "clients sent away", "links cut in mid-frame", "database connections terminated"),
)
SHORT_OF_SEVERAL = Plan(
    seconds=15,
    seed=13,
    subscribers=16,
    workers=3,
    blow_every_s=0.3,
    blows=[name for name in dict.fromkeys(DECK) if name != "nothing"],
    minima=dict.fromkeys(SURE_OF_SEVERAL, 1),
)


def judge(run: Run) -> None:
    assert not run.checker.violations, report(run)
    assert not missed(run), report(run)


def test_nothing_is_lost_doubled_or_disordered_on_sqlite_by_clients_that_change_their_transport() -> None:
    with ServerProcess() as server:
        run = asyncio.run(torture(SHORT_OF_TRANSPORTS, server))
        judge(run)
        assert "Traceback" not in server.log_text()


def test_the_sweep_alone_heals_a_worker_that_hears_no_announcement() -> None:
    plan = replace(SHORT, seconds=4, seed=12, kill_every_s=3, prunes=False, minima={"kills": 1})
    with ServerProcess(mutant="announcements-lost") as server:
        judge(asyncio.run(torture(plan, server)))


@pytest.mark.database
@pytest.mark.postgres
def test_nothing_is_lost_doubled_or_disordered_on_postgresql(postgres_server: Postgres) -> None:
    url = postgres_server.create_database("torture")
    with ServerProcess(database_url=url) as server:
        run = asyncio.run(torture(SHORT, server, url))
        judge(run)
        assert run.counts["database connections terminated"]


@pytest.mark.sqlite
def test_nothing_is_lost_doubled_or_disordered_by_several_workers(
    postgres_server: Postgres, own_redis_server: Redis
) -> None:
    url = postgres_server.create_database("torture_workers")
    with server_for(SHORT_OF_SEVERAL, url, own_redis_server) as server:
        judge(asyncio.run(torture(SHORT_OF_SEVERAL, server, url, own_redis_server)))


SLOW_INSERTS = """
CREATE FUNCTION wait_in_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
CREATE TRIGGER wait_in_insert BEFORE INSERT ON realtime_message
    FOR EACH ROW WHEN (NEW.mid = 'slow') EXECUTE FUNCTION wait_in_insert();
"""


@pytest.mark.database
@pytest.mark.postgres
async def test_a_database_connection_that_dies_in_mid_publish_is_unavailable_and_the_retry_is_stored_once(
    postgres_server: Postgres,
) -> None:
    url = postgres_server.create_database("mid_publish")
    server = ServerProcess(database_url=url)
    try:
        await asyncio.to_thread(server.start)
        with psycopg.connect(url, autocommit=True) as database:
            database.execute(SLOW_INSERTS)
        publisher = await talker(server.port, token("ana"))
        reader = await talker(server.port, token("bo"))
        await reader.ask({"type": "attach", "ref": 1, "channel": "lobby"})

        first = await publisher.ask(_publish(1, "quick"))
        assert first["serials"] == [1]
        publisher.send(_publish(2, "slow"))
        publisher.send(_publish(3, "behind"))
        # While the insert waits: the round holds its locks and has written, but not committed.
        await aeventually(lambda: asyncio.to_thread(terminate_connections, url, only="realtime_message"), 20_000 * MS)
        refused = await publisher.until("error")
        assert (refused["ref"], refused["code"]) == (2, "unavailable")
        assert refused["retry_after_ms"] > 0
        with psycopg.connect(url, autocommit=True) as database:
            database.execute("DROP TRIGGER wait_in_insert ON realtime_message")
        # Behind it in the same round, or in the next one: both are right.
        last = await _stored(publisher, 3, "behind")
        again = await _stored(publisher, 4, "slow")
        once_more = await publisher.ask(_publish(5, "slow"))
        assert (again["serials"], again["duplicates"]) == ([3], [])
        assert (last["serials"], last["duplicates"]) == ([2], [])
        assert (once_more["serials"], once_more["duplicates"]) == ([3], [0])

        assert [(await reader.until("message"))["id"] for _ in range(3)] == ["quick", "behind", "slow"]
        history = await read_history(server.port, "lobby", token("bo"))
        assert (history.head, len(history.messages)) == (3, 3)
        assert server.running
    finally:
        await asyncio.to_thread(server.close)


def _publish(ref: int, id: str) -> dict[str, object]:
    return {"type": "publish", "ref": ref, "channel": "lobby", "messages": [{"id": id, "data": ref}]}


async def _stored(publisher: Talker, ref: int, id: str) -> dict[str, object]:
    """Publishes until it is stored; the first try may have been sent already."""
    frame = _publish(ref, id)
    if ref == 3:
        first = await publisher.receive()
        assert first is not None
        assert first["ref"] == 3, first
        if first["type"] == "published":
            return first
    while (answer := await publisher.ask(frame))["type"] != "published":
        assert answer["code"] == "unavailable", answer
        await asyncio.sleep(answer["retry_after_ms"] / 1000)
    return answer


async def test_a_line_that_goes_while_it_connects_is_over() -> None:
    """What it would still hear reached a subscriber that was on its next line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nheard\n")

    heard: list[bytes] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        line = StreamLine(server.sockets[0].getsockname()[1], token("ana"), random.Random(1))
        line.on_text = heard.append
        opening = asyncio.ensure_future(line.open([]))
        await asyncio.sleep(0)
        line.abort()
        with pytest.raises(ConnectionAbortedError):
            await opening
        await asyncio.sleep(20 * MS)
    assert heard == []
