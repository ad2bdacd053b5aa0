"""SIGHUP under load: every worker is replaced while clients publish and subscribe, and nobody loses anything by it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter

import pytest

from tests.e2e.faults import Faults
from tests.e2e.run import Plan
from tests.e2e.subscribers import Subscriber
from tests.e2e.torture import missed, report, server_for, torture
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.e2e, pytest.mark.sqlite]

DRAIN_S = 10
"""As settings.DRAIN_S has it."""

ROLLING = Plan(
    seconds=10,
    seed=21,
    subscribers=60,
    publishers=2,
    rate=200,
    workers=2,
    blow_every_s=1,
    blows=["replace_workers"],
    prunes=False,
    minima={"rolling replacements": 1},
)


class Absences:
    """Who was sent away, by which process, with which code, and for how long each was without its channels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.codes: Counter[int | None] = Counter()
        self.gaps_s: list[float] = []
        self._left_at: dict[str, float] = {}
        end, attached = Subscriber._end, Subscriber._on_attached

        def note_end(subscriber: Subscriber, socket: object) -> None:
            if not subscriber.run.over:
                self.codes[getattr(socket, "close_code", None)] += 1
                self._left_at.setdefault(subscriber.name, time.monotonic())
            end(subscriber, socket)  # type: ignore[arg-type]

        def note_attached(subscriber: Subscriber, frame: object) -> None:
            attached(subscriber, frame)  # type: ignore[arg-type]
            if len(subscriber.attachments) == len(subscriber.progress) and subscriber.name in self._left_at:
                now, left_at = time.monotonic(), self._left_at.pop(subscriber.name)
                self.gaps_s.append(now - left_at)

        monkeypatch.setattr(Subscriber, "_end", note_end)
        monkeypatch.setattr(Subscriber, "_on_attached", note_attached)

    @property
    def away(self) -> int:
        """Still, at the end."""
        return len(self._left_at)

    def text(self) -> str:
        return (
            f"{sum(self.codes.values())} connections ended {dict(self.codes)}; without their channels for "
            f"{statistics.median(self.gaps_s) * 1000:.0f} ms in the middle, {max(self.gaps_s) * 1000:.0f} ms at most"
        )


def test_all_workers_are_replaced_under_load_without_a_loss(
    postgres_server: Postgres, own_redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    absences = Absences(monkeypatch)
    monkeypatch.setattr(Faults, "_hurt", lambda *_: None)  # nothing else goes wrong
    url = postgres_server.create_database("rolling")
    with server_for(ROLLING, url, own_redis_server) as server:
        run = asyncio.run(torture(ROLLING, server, None, own_redis_server))
        log = server.log_text()
    print(report(run))
    print(absences.text())
    assert not run.checker.violations, report(run)
    assert not missed(run), report(run)
    assert set(absences.codes) == {1012}, absences.text()
    # Each worker has half of the subscribers, and every one of them was replaced.
    assert sum(absences.codes.values()) >= ROLLING.subscribers // 2
    assert not absences.away
    assert max(absences.gaps_s) < DRAIN_S, absences.text()
    assert "killing it" not in log
    assert "Traceback" not in log
