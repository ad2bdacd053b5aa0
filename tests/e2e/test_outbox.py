"""A short run of `python -m tests.e2e.outbox`, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.e2e.outbox import Plan, Result, _judge, run
from tests.e2e.processes import ServerProcess
from tests.servers import Postgres, Redis

pytestmark = pytest.mark.e2e

PLAN = Plan(transactions=300, processes=2, kill_every=60, kill_server_every=130, kills=2, server_kills=1)


def check(result: Result) -> None:
    assert result.faults == []
    counts = result.counts
    assert counts["messages"] == counts["facts"] > 100
    assert counts["publishers killed"] >= 2
    assert counts["servers killed"] + counts["workers killed"] >= 1
    assert counts["rolled back"] > counts["transactions"] / 5
    assert counts["with savepoints"] > 20
    assert counts["requests"] > 20


def test_exactly_what_was_committed_is_published_once_in_order_on_sqlite() -> None:
    with ServerProcess() as site:
        check(run(PLAN, site))


def test_exactly_what_was_committed_is_published_once_in_order_on_postgresql(postgres_server: Postgres) -> None:
    with ServerProcess(database_url=postgres_server.create_database("outbox_e2e")) as site:
        check(run(PLAN, site))


@pytest.mark.slow
@pytest.mark.sqlite
def test_of_several_workers_that_relay_at_once_too(postgres_server: Postgres, redis_server: Redis) -> None:
    url = postgres_server.create_database("outbox_workers")
    with ServerProcess(database_url=url, workers=3, REDIS_URL=redis_server.url) as site:
        check(run(replace(PLAN, transactions=600, workers=3), site))


def test_the_judge_finds_what_is_wrong() -> None:
    def fact(number: int, place: int = 1) -> list[object]:
        return ["a", "w", number, place]

    def faults(facts: Sequence[object], messages: Sequence[object], waiting: int = 0) -> list[str]:
        result = Result()
        _judge({"waiting": waiting, "facts": facts, "messages": messages, "relays": []}, result)
        return [fault.partition(":")[0].partition(" ")[0] for fault in result.faults]

    good = [["a", 1, fact(0)], ["a", 2, fact(1)]]
    assert faults([fact(0), fact(1)], good) == []
    assert faults([fact(0), fact(1)], good, waiting=1) == ["1"]
    assert faults([fact(0)], good) == ["In"]
    assert faults([fact(0), fact(1), fact(2)], good) == ["Committed,"]
    assert faults([fact(0), fact(1)], [["a", 1, fact(1)], ["a", 2, fact(0)]]) == ["Out"]
    assert "Published" in faults([fact(0)], [["a", 1, fact(0)], ["a", 2, fact(0)]])
    assert faults([fact(0), fact(1)], [["a", 1, fact(0)], ["a", 3, fact(1)]]) == ["Serial"]
