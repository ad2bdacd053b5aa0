"""Does the torture find what it is there to find? One fault is built into the server, and the checker must name it.

Two of them run with all tests; the rest: `python -m pytest -m slow tests/e2e/test_mutants.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.checker import RULES
from tests.e2e.mutant_serve import MUTANTS
from tests.e2e.processes import ServerProcess
from tests.e2e.run import Plan
from tests.e2e.torture import report, server_for, torture
from tests.servers import Postgres, Redis

pytestmark = pytest.mark.e2e

#: Mutant → the rules of which it must be found to break one: the right reasons. Others may break with them.
BREAKS = {
    "sweep-off": {"lost"},
    "hold-off": {"step", "effect"},
    "jump-without-reading": {"step", "effect"},
    "log-dedupe-off": {"id", "duplicate"},
    "announced-twice": {"twice"},
    "window-plus-one": {"window"},
    "head-before-dedupe": {"hole"},
    "published-before-commit": {"serial", "history", "attached"},
    "resume-plus-one": {"attached", "effect"},
    "resume-plus-one-in-secret": {"step", "lost"},
    "retention-untold": {"skipped"},
    "retention-unheeded": {"pruned"},
    "blocks-mixed-up": {"attached"},
    "order-swapped": {"step", "twice"},
    "chain-ignored": {"order"},
}
BREAKS_OF_SEVERAL = {
    "news-lost-and-sweep-off": ({"lost"}, ["nothing"]),
    "deaf-since-the-layer-failed": ({"news"}, ["freeze_redis"]),
    "attached-from-memory": ({"attached", "skipped"}, ["freeze_redis"]),
    "logs-unlocked": ({"refused", "serial", "answer"}, ["nothing"]),
    "drain-drops-what-was-accepted": ({"drain"}, ["end_supervisor"]),
    "supervisor-restarts-nobody": ({"restart"}, ["kill_worker"]),
    # Not too often: it must have come so far as to relay.
    "outbox-deleted-before-it-is-relayed": ({"outbox"}, ["kill_worker", "nothing", "nothing"]),
    "outbox-relayed-backwards": ({"commit order"}, ["nothing"]),
    "outbox-beside-the-transaction": ({"uncommitted"}, ["nothing"]),
}
"""The same of several workers, with the blows that bring it out."""
BREAKS_OF_TRANSPORTS = {
    "last-event-id-plus-one": ({"attached", "skipped"}, ("events", "sse")),
    "poll-acked-too-early": ({"position", "attached"}, ("poll", "websocket")),
    "session-loses-a-frame-when-it-moves": ({"step", "attached"}, ("sockjs-xhr", "stream")),
    "posts-unordered": ({"order"}, ("stream",)),
}
"""The same of transports, with those between which the clients change."""
QUICK = ("log-dedupe-off", "outbox-relayed-backwards")
CONTROLS = {"announcements-lost"}
"""Not wrong: it must pass, see test_torture."""
ELSEWHERE = {"never-suspicious", "restores-unnoticed", "restores-untold", "disks-forgotten"}
"""Caught in test_news and test_back_in_time."""

PLAN = Plan(seconds=6, seed=5, subscribers=12, rate=150, kill_every_s=3, settle_s=4, minima={})
PLAN_OF_SEVERAL = Plan(seconds=8, seed=5, subscribers=12, rate=150, workers=3, blow_every_s=0.3, settle_s=15, minima={})
#: Without blows for this one: after the last of them everybody reads the log, and on a slow machine that is the end.
UNDISTURBED = {"sweep-off"}
#: 96 in so short a run, which goes on for them on a slow machine.
OF_OUTBOX = {"transactions": 3000}


def _marked(mutants: Iterable[str]) -> list[Any]:
    return [mutant if mutant in QUICK else pytest.param(mutant, marks=pytest.mark.slow) for mutant in mutants]


def test_every_mutant_is_known_and_breaks_a_rule() -> None:
    breaks = BREAKS | {mutant: rules for mutant, (rules, _) in (BREAKS_OF_SEVERAL | BREAKS_OF_TRANSPORTS).items()}
    assert breaks.keys() | CONTROLS | ELSEWHERE == MUTANTS.keys()
    assert all(rules <= RULES.keys() for rules in breaks.values())


@pytest.mark.parametrize("mutant", _marked(BREAKS))
def test_the_checker_catches_the_mutant(mutant: str) -> None:
    plan = replace(PLAN, kill_every_s=10 * PLAN.seconds) if mutant in UNDISTURBED else PLAN
    with ServerProcess(mutant=mutant) as server:
        run = asyncio.run(torture(plan, server))
    assert run.checker.broken.keys() & BREAKS[mutant], report(run)


@pytest.mark.parametrize("mutant", _marked(BREAKS_OF_TRANSPORTS))
def test_the_checker_catches_the_mutant_of_a_transport(mutant: str) -> None:
    rules, transports = BREAKS_OF_TRANSPORTS[mutant]
    plan = replace(PLAN, publishers=6, transports=transports)
    with ServerProcess(mutant=mutant) as server:
        run = asyncio.run(torture(plan, server))
    assert run.checker.broken.keys() & rules, report(run)


@pytest.mark.sqlite
@pytest.mark.parametrize("mutant", _marked(BREAKS_OF_SEVERAL))
def test_the_checker_catches_the_mutant_of_several_workers(
    mutant: str, postgres_server: Postgres, own_redis_server: Redis
) -> None:
    rules, blows = BREAKS_OF_SEVERAL[mutant]
    plan = replace(PLAN_OF_SEVERAL, blows=blows, minima=OF_OUTBOX if mutant.startswith("outbox") else {})
    url = postgres_server.create_database(mutant.replace("-", "_"))
    with server_for(plan, url, own_redis_server, mutant) as server:
        run = asyncio.run(torture(plan, server, url, own_redis_server))
    assert run.checker.broken.keys() & rules, report(run)
