"""A table of messages in hash partitions (deploy/postgres): what was there stays, and everything goes on."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tests.balancers import DEPLOY
from tests.e2e.processes import ServerProcess
from tests.e2e.run import Plan
from tests.e2e.torture import missed, report, torture
from tests.e2e.wire import request, token
from tests.servers import Postgres

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

PLAN = Plan(seconds=10, seed=3, subscribers=20, rate=80, minima={"kills": 1, "skips told": 1})


def test_a_database_in_use_is_partitioned_and_then_tortured(postgres_server: Postgres) -> None:
    url = postgres_server.create_database("partitions")
    server = ServerProcess(database_url=url)
    path = "/api/v1/channels/before/messages"
    try:
        server.start()
        published = {"messages": [{"id": str(number), "data": number} for number in range(50)]}
        _, first = asyncio.run(request(server.port, "POST", path, token("ana"), published))
        sql = DEPLOY / "postgres" / "partition_messages.sql"
        postgres_server.run_tool("psql", url, "-v", "ON_ERROR_STOP=1", given=sql.read_text())
        with psycopg.connect(url) as database:
            count = database.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'realtime_message'::regclass")
            assert count.fetchone() == (16,)
        status, again = asyncio.run(request(server.port, "POST", path, token("ana"), published))
        assert (status, again["serials"]) == (200, first["serials"]), "known by their ids, as before"
        run = asyncio.run(torture(PLAN, server, url))
        assert not run.checker.violations, report(run)
        assert not missed(run), report(run)
        with psycopg.connect(url) as database:
            spread = database.execute("SELECT count(DISTINCT tableoid) FROM realtime_message").fetchone()
        assert spread is not None
        assert spread[0] > 2
    finally:
        server.close()
