"""One run of the torture: its plan, what its actors share, and how long it takes to recover."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.conftest import aeventually
from tests.e2e.checker import Checker
from tests.e2e.processes import Proxy, ServerProcess
from tests.e2e.wire import token

if TYPE_CHECKING:
    from tests.e2e.publishers import Publisher
    from tests.e2e.subscribers import Subscriber

STYLES = ("every", "cadence", "window 1", "window 0", "late", "batched", "stalled", "riding")
"""How a subscriber acknowledges; see `Subscriber`."""

TRANSPORTS = (
    *("websocket", "stream", "events", "sse", "poll"),
    *("sockjs-websocket", "sockjs-raw", "sockjs-xhr_streaming", "sockjs-eventsource", "sockjs-xhr"),
)
"""How a `Traveller` may read."""
ONE_CHANNEL = {"sse"}
"""Transports that carry one channel alone."""

HOT, BIG, PRUNED = "hot", "big", "pruned"
QUIET = ("a", "b", "c", "d")
BIG_BYTES = 40_000
STALL_S = 0.4
"""How long a full window is watched before it is acknowledged."""
IN_FLIGHT = 64
ANSWER_S = 20.0
"""After so long without an answer a publisher believes the connection dead and opens another."""


FOREVER_S = 3600.0
"""For what the end of the run ends."""
SEVERAL_AT_ONCE = "several at once"
LEVEL_MESSAGES = 30
"""Who has fewer messages before him than this counts as level: about as many as are published in half a second."""
LOOK_S = 0.02
"""How often those who watch a recovery look."""

MINIMA_OF_ONE = {
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
"""Faults that must have hit one server, at 50 subscribers in 60 s."""

MINIMA_OF_SEVERAL = {
    "workers killed": 2,
    "attachments at kills": 20,
    "workers stopped": 2,
    "attachments at stops": 20,
    "Redis killed": 1,
    "Redis frozen": 2,
    "rolling replacements": 1,
    "supervisors ended": 1,
    "applications killed": 5,
    "transactions": 300,
    "transactions rolled back": 75,
    "database connections terminated": 30,
    "connections of the least used worker": 50,
    "deliveries from another worker": 10_000,
    "deliveries from another worker while Redis was away": 1000,
    "resumes at another worker": 100,
    "clients sent away": 40,
    "backfills interrupted": 10,
    "links cut in mid-frame": 10,
    "publishes cut in mid-frame": 2,
    "connections that died": 150,
    "reconnects refused": 10,
    "resumes that replay": 200,
    "stalls at the window": 30,
    "links silenced": 20,
    "duplicates answered": 100,
    "retries found stored": 3,
    "answers lost": 10,
    "skips told": 3,
    "messages processed again after a crash of the client": 20,
}
"""The same of several workers."""

MINIMA_OF_TRANSPORTS = {
    "changes of transport": 200,
    "changes of transport in mid-stream": 50,
    "posts answered": 200,
    "posts sent again": 10,
}
"""And of transports; what each transport must have carried comes to it."""
MINIMA_OF_A_TRANSPORT = {
    "events": {"resumes by Last-Event-ID": 5, "tickets": 3},
    "poll": {"polls answered": 300, "polls asked again": 3},
}
MESSAGES_BY = 500
"""Messages by each transport."""


def minima_of(workers: int, transports: Sequence[str]) -> dict[str, int]:
    """Of a run of so many workers, with these transports."""
    found = dict(MINIMA_OF_SEVERAL if workers > 1 else MINIMA_OF_ONE)
    if transports:
        found |= MINIMA_OF_TRANSPORTS
    for each in transports:
        found |= {f"messages by {each}": MESSAGES_BY, **MINIMA_OF_A_TRANSPORT.get(each, {})}
    return found


DECK = (
    *("kill_worker", "kill_worker", "stop_worker", "stop_worker"),
    *("kill_redis", "freeze_redis", "freeze_redis"),
    *("replace_workers", "end_supervisor"),
    *("nothing", "nothing"),
)


@dataclass(frozen=True)
class Plan:
    """One run. `minima` are the faults that must have hit, at 50 subscribers in 60 s; shorter runs need less."""

    seconds: float = 60.0
    """How long faults are made at least. On a slow machine they go on until every minimum is met, three times as long
    at most."""
    seed: int = 1
    subscribers: int = 50
    publishers: int = 5
    rate: float = 120.0
    """Messages a second of all publishers together."""
    workers: int = 1
    """Several are under their supervisor, with Redis between them."""
    transports: Sequence[str] = ()
    """Some of TRANSPORTS: most subscribers change between them, and publishers post their frames."""
    kill_every_s: float = 9.0
    """The one server."""
    blow_every_s: float = 1.0
    """From the recovery of several workers, or from a blow that is not to be alone, to the next blow."""
    blows: Sequence[str] = DECK
    """What befalls several workers, each about as often as it stands here: methods of `Blows`."""
    fault_every_s: float = 0.12
    """Of links."""
    settle_s: float = 60.0
    """How long everything may take to come level in the end."""
    prunes: bool = True
    minima: Mapping[str, int] = field(default_factory=lambda: MINIMA_OF_ONE)

    def minimum(self, name: str) -> int:
        """What this run must reach."""
        share = min(1.0, self.seconds / 60 * self.subscribers / 50)
        return max(1, int(self.minima[name] * share))

    def missed(self, counts: Counter[str]) -> list[str]:
        """What hit too seldom for the run to prove anything."""
        return [name for name in self.minima if counts[name] < self.minimum(name)]


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
        self.news_away = False
        """Redis is dead or frozen: nothing announced travels."""
        self.origins: dict[tuple[str, str], str] = {}
        """(client, id) → the worker over whose connection it was published last."""
        self._connections: Counter[str] = Counter()
        self.recoveries = Recoveries(self)
        self.starts_s: dict[str, list[float]] = defaultdict(list)
        """How long processes took, by what for."""
        self.healing_s = 0.0
        self.news_s: list[float] = []
        """When all had healed: from a publish to its coming to everybody."""

    @property
    def counts(self) -> Counter[str]:
        return self.checker.counts

    def connected(self, worker: str) -> None:
        """A client is `ready` there."""
        if self.plan.workers > 1:
            self._connections[worker] += 1
            names = [f"w{number + 1}" for number in range(self.plan.workers)]
            self.counts["connections of the least used worker"] = min(self._connections[name] for name in names)

    def token(self, client: str) -> str:
        known = self.tokens.get(client)
        if known is None:
            known = self.tokens[client] = token(client)
        return known


class Recoveries:
    """Measures from a fault until all subscribers who were level before it have processed a message that was committed
    after it.

    Left out are those who stay away on purpose, and those whose own link is held down at the moment: link faults go on
    while something else recovers. A watch without a fault shows what remains of them.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.took_s: dict[str, list[float]] = defaultdict(list)
        """By kind of fault."""
        self._open: dict[asyncio.Task[None], list[str]] = {}
        self._lasting = 0

    @property
    def busy(self) -> bool:
        """Something lasts or recovers."""
        return bool(self._lasting or self._open)

    def mix(self) -> None:
        """Another fault falls into what is recovering now: how long that takes says nothing about either alone."""
        for kind in self._open.values():
            kind[:] = [SEVERAL_AT_ONCE]

    @contextlib.contextmanager
    def lasting(self) -> Iterator[None]:
        """For a fault that lasts: what is watched from within is not alone."""
        self._lasting += 1
        try:
            yield
        finally:
            self._lasting -= 1

    def watch(self, kind: str, *, began: float | None = None, again: bool = False) -> None:
        """Of a fault of this kind, at `began` or now. `again`: everybody must have attached again since then."""
        began = time.monotonic() if began is None else began
        label = [SEVERAL_AT_ONCE if self.busy else kind]
        self.mix()
        task = asyncio.ensure_future(self._watch(label, began, again=again))
        self._open[task] = label
        task.add_done_callback(lambda task: self._open.pop(task))

    async def _watch(self, label: list[str], began: float, *, again: bool) -> None:
        run = self._run
        began_ms = int((time.time() - (time.monotonic() - began)) * 1000)
        before, newest = dict(run.checker.heads), run.checker.newest
        await aeventually(lambda: newest[HOT][1] > began_ms, FOREVER_S, every_s=LOOK_S, what="something new")
        target = {**before, HOT: newest[HOT][0]}
        since = began if again else 0.0
        level = {channel: head - LEVEL_MESSAGES for channel, head in before.items()}
        watched = [each for each in run.subscribers if each.style != "stalled" and each.level(level)]
        await aeventually(
            lambda: all(each.away or each.held or each.reached(target, since) for each in watched),
            FOREVER_S,
            every_s=LOOK_S,
            what="all level",
        )
        self.took_s[label[0]].append(time.monotonic() - began)

    async def stop(self) -> None:
        """What has not recovered by now is not counted."""
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
