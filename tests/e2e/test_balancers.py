"""Three servers behind HAProxy, and behind nginx: one is killed, one is drained, and nothing is lost.

Everything goes through the balancer: subscribers, publishers over WebSocket and REST, and in the end the reading of the
whole log.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import cast

import pytest

from tests.balancers import Balancer, HAProxy, Nginx
from tests.conftest import aeventually
from tests.e2e.faults import Faults
from tests.e2e.processes import ServerProcess
from tests.e2e.run import Plan
from tests.e2e.torture import report, torture
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite, pytest.mark.slow]

PLAN = Plan(seconds=12, seed=6, subscribers=30, publishers=5, rate=80, prunes=False, minima={})
SERVERS = 3


class Fleet:
    """Servers behind a balancer, as far as a run of the torture asks: it believes that they are one."""

    mutant = None

    def __init__(self, servers: list[ServerProcess], balancer: Balancer) -> None:
        self.servers = servers
        self.balancer = balancer

    @property
    def port(self) -> int:
        return self.balancer.port

    def log_text(self) -> str:
        return "\n".join(server.log_text() for server in self.servers)


@pytest.mark.parametrize("kind", [HAProxy, Nginx])
def test_one_is_killed_and_one_is_drained_behind_a_balancer(
    kind: type[Balancer], postgres_server: Postgres, own_redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres_server.create_database(f"behind_{kind.name}")
    servers = [ServerProcess(database_url=url, REDIS_URL=own_redis_server.url) for _ in range(SERVERS)]
    ends: Counter[str] = Counter()
    try:
        for server in servers:
            server.start()
        ports = [server.port for server in servers]
        with kind(ports, ports) as balancer:
            fleet = Fleet(servers, balancer)

            async def blows(faults: Faults) -> None:
                """The torture's faults: nothing but these."""
                run = faults.run
                end = time.monotonic() + run.plan.seconds

                def attached() -> bool:
                    return all(len(each.attachments) == len(each.progress) for each in run.subscribers)

                await aeventually(attached, 30, what="all attached")
                await asyncio.sleep(1)
                for what, number in (("killed", signal.SIGKILL), ("drained", signal.SIGTERM)):
                    victim = servers[0 if what == "killed" else 1]
                    before = run.counts["connections that died"]
                    if what == "killed":
                        await asyncio.to_thread(victim.kill9)
                    else:
                        victim.signal(number)
                        await aeventually(lambda: not victim.running, 30, what="drained")  # noqa: B023
                        victim.stop()
                    await asyncio.sleep(1)
                    await aeventually(attached, 30, what=f"all attached after one was {what}")
                    ends[what] = run.counts["connections that died"] - before
                    await asyncio.to_thread(victim.start)
                    await asyncio.sleep(2)
                await asyncio.sleep(max(0.0, end - time.monotonic()))
                run.chaos = False

            monkeypatch.setattr(Faults, "live", blows)
            # A run of one server, as far as the torture knows: what several need is a supervisor's.
            run = asyncio.run(torture(PLAN, cast(ServerProcess, fleet)))
        print(kind.name, dict(ends))
        print(report(run))
        assert not run.checker.violations, report(run)
        # A third of the connections stood on each, so both blows hit.
        assert min(ends["killed"], ends["drained"]) >= PLAN.subscribers // SERVERS // 2, ends
        assert run.counts["clients sent away"] > 0
        assert sum(run.checker.heads.values()) >= PLAN.rate * PLAN.seconds / 2
        assert "Traceback" not in fleet.log_text()
    finally:
        for server in servers:
            server.close()
