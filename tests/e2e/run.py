"""One run of the torture: its plan, and what its actors share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.e2e.checker import Checker
from tests.e2e.processes import Proxy, ServerProcess
from tests.e2e.wire import token

if TYPE_CHECKING:
    from tests.e2e.publishers import Publisher
    from tests.e2e.subscribers import Subscriber

STYLES = ("every", "cadence", "window 1", "window 0", "late", "batched", "stalled", "riding")
"""How a subscriber acknowledges; see `Subscriber`."""

HOT, BIG, PRUNED = "hot", "big", "pruned"
QUIET = ("a", "b", "c", "d")
BIG_BYTES = 40_000
STALL_S = 0.4
"""How long a full window is watched before it is acknowledged."""
IN_FLIGHT = 64
ANSWER_S = 20.0
"""After so long without an answer a publisher believes the connection dead and opens another."""


@dataclass(frozen=True)
class Plan:
    """One run. `minima` are the faults that must have hit, at 50 subscribers in 60 s; shorter runs need less."""

    seconds: float = 60.0
    seed: int = 1
    subscribers: int = 50
    publishers: int = 5
    rate: float = 120.0
    """Messages a second of all publishers together."""
    kill_every_s: float = 9.0
    fault_every_s: float = 0.12
    settle_s: float = 60.0
    """How long everything may take to come level in the end."""
    prunes: bool = True
    minima: Mapping[str, int] = field(
        default_factory=lambda: {
            "kills": 4,
            "attachments at kills": 200,
            "backfills interrupted": 10,
            "links cut in mid-frame": 10,
            "publishes cut in mid-frame": 2,
            "connections that died": 150,
            "reconnects refused": 20,
            "resumes that replay": 200,
            "stalls at the window": 30,
            "links silenced": 20,
            "duplicates answered": 100,
            "retries found stored": 3,
            "answers lost": 10,
            "skips told": 3,
            "messages processed again after a crash of the client": 20,
        }
    )

    def minimum(self, name: str) -> int:
        """What this run must reach."""
        share = min(1.0, self.seconds / 60 * self.subscribers / 50)
        return max(1, int(self.minima[name] * share))


class Run:
    """What the actors share."""

    def __init__(self, plan: Plan, server: ServerProcess, proxy: Proxy) -> None:
        self.plan = plan
        self.server = server
        self.proxy = proxy
        self.checker = Checker()
        self.random = random.Random(plan.seed)
        self.tokens: dict[str, str] = {}
        self.subscribers: list[Subscriber] = []
        self.publishers: list[Publisher] = []
        self.chaos = True
        """Faults are made; off while everything heals."""
        self.over = False
        self.recoveries_s: list[float] = []
        self.starts_s: list[float] = []
        self.healing_s = 0.0

    @property
    def counts(self) -> Counter[str]:
        return self.checker.counts

    def token(self, client: str) -> str:
        known = self.tokens.get(client)
        if known is None:
            known = self.tokens[client] = token(client)
        return known
