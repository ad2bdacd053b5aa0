"""How much one worker takes on: who is let in, and what it gives up when it has too much to do.

The decisions are pure (`realtime.delivery.admission`, `realtime.delivery.shedding`); this brings them the settings, the
clock, chance, and what the worker measures of itself. Others ask: servers and shells for a place before anything is
spent on a connection (`admit`), the worker for whom to send away (`sheds_idle`), signals and conflation whether they
are to save work (`drops_signals`, `conflates`), metrics for every number. Thresholds and how they were found:
docs/explanation/load.md.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from realtime.conf import settings
from realtime.delivery.addresses import Networks, client_address, parse_networks
from realtime.delivery.admission import Admission, Limits, Place, Reason, Refusal
from realtime.delivery.shedding import Ladder, Measurements, Step, Thresholds
from realtime.rhythm import until_beat

__all__ = ["Load", "Measurements", "Place", "Refusal", "Step"]

logger = logging.getLogger(__name__)

MEASURE_EVERY_S = 0.25
"""How often the ladder looks: several times within `RISE_S`, so that it rises on a series and not on one stall."""

RISE_S = 2.0
"""How long a threshold has to be reached without a break for the next step: longer than a crowd takes to connect, or
than a machine is busy with something else."""

MEMORY_EVERY_S = 1.0
"""How often the process's memory is looked at; it does not change faster than that matters."""

TELL_EVERY_S = 10.0
"""How often refusals are summed up in the log: in a storm a line for each would be load of its own."""

MEMORY_SHARE = 0.9
"""Of the memory that the control group allows: what is beyond is the operating system's to take, by a kill."""

BUSY_SHARE = 0.1
"""Of a core, from which the loop counts as busy: below it, whoever waits for the interpreter has it soon."""

LATELY = 0.125
"""Weight of the last look in `Load.lately`: an average over two seconds."""

FILES_KEPT = 256
"""File descriptors that are not for clients: databases, Redis, logs, static files, HTTP requests."""


class Load:
    """One worker's limits and its state of load. On the loop's thread; numbers may be read from any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, measure: Callable[[], Measurements]) -> None:
        """`measure` gives everything but the memory, at once."""
        self._loop = loop
        self._measure = measure
        self._proxies: Networks = parse_networks(settings.TRUSTED_PROXIES)
        self.admission = Admission(_limits())
        self.memory_limit_bytes = settings.MEMORY_MAX_BYTES or cgroup_share_bytes()
        self.memory_bytes = 0
        """In use, as far as can be known; see `Memory`."""
        self._memory = Memory()
        self.ladder = Ladder(_thresholds(self.memory_limit_bytes), RISE_S, settings.SHED_HOLD_S)
        self.measured = Measurements()
        """As of the last look."""
        self.shed = 0
        """Idle connections that were sent away since the start."""
        self.share = 0.0
        """Of a core, that the loop's thread used lately."""
        self.lately = 0.0
        """The same over some seconds: who is served in crowds makes `share` leap."""
        self._shared_at = (0.0, 0.0)
        self._timer: asyncio.TimerHandle | None = None
        self._memory_at = 0.0
        self._told_at = 0.0
        self._told: Counter[Reason] = Counter()
        self._pointed_at_proxies = False

    def start(self) -> None:
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------------ who is let in

    def admit(self, peer: str | None, forwarded: Iterable[str], *, returning: bool = False) -> Place | Refusal:
        """Room for a connection: give it back with `Place.leave`.

        `peer` is the address at the other end of the connection, `forwarded` the values of its X-Forwarded-For headers
        in order. `returning`: one that comes back all the time by nature.
        """
        address = client_address(peer, forwarded, self._proxies)
        found = self.admission.admit(address, time.monotonic(), random.random(), returning=returning)
        if isinstance(found, Refusal) and found.reason == "address":
            self._point_at_proxies(address)
        return found

    def identify(self, place: Place, client: str) -> Refusal | None:
        """The connection at this place is the client's; a refusal is to be told, and the connection closed."""
        return place.identify(client, time.monotonic(), random.random())

    def limit_connections(self, per_worker: int | None, per_address: int | None) -> None:
        """An operator's limits, beside those of the settings: the stricter holds."""
        own = _limits()
        self.admission.limits = replace(
            self.admission.limits,
            connections=_stricter(per_worker, own.connections),
            per_address=_stricter(per_address, own.per_address),
        )

    def retry_ms(self) -> int:
        """When one who is sent away now may come back."""
        return int(self.admission.retry_s(time.monotonic(), random.random()) * 1000)

    @property
    def refusing(self) -> bool:
        """New connections are refused, or were a moment ago."""
        return self.admission.refusing(time.monotonic())

    # ------------------------------------------------------------------ what waits

    @property
    def busy(self) -> bool:
        """The loop has much to do: what else wants the interpreter has to be modest."""
        return self.share >= BUSY_SHARE

    # ------------------------------------------------------------------ what is given up

    @property
    def step(self) -> Step:
        return self.ladder.step

    @property
    def sheds_idle(self) -> bool:
        """Idle connections are to be sent away, the longest idle first."""
        return self.ladder.step >= Step.SHED_IDLE

    @property
    def drops_signals(self) -> bool:
        """Signals are not passed on."""
        return self.ladder.step >= Step.DROP_SIGNALS

    @property
    def conflates(self) -> bool:
        """Channels that may be conflated are, for everybody."""
        return self.ladder.step >= Step.CONFLATE

    def _tick(self) -> None:
        now = time.monotonic()
        used, (before_s, used_before_s) = time.thread_time(), self._shared_at
        self._shared_at = now, used
        self.share = (used - used_before_s) / max(now - before_s, MEASURE_EVERY_S)
        self.lately += (self.share - self.lately) * LATELY
        if now - self._memory_at >= MEMORY_EVERY_S:
            self._memory_at = now
            self.memory_bytes = self._memory.in_use(rss_bytes(), sys.getallocatedblocks())
        measured = self._measure()
        self.measured = Measurements(
            measured.lag_s,
            self.memory_bytes,
            measured.writer_messages,
            measured.writer_bytes,
            measured.ready,
            measured.announcements,
        )
        before = self.ladder.step
        step = self.ladder.update(self.measured, now)
        if step is not before:
            self.admission.overloaded = step >= Step.REFUSE_NEW
            logger.log(
                logging.WARNING if step > before else logging.INFO,
                "Load: %s after %s; %s is at %.0f %% of its threshold.",
                step.name,
                before.name,
                self.ladder.cause or "nothing",
                self.ladder.pressure * 100,
            )
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            self._tell_refusals()
        self._timer = self._loop.call_later(until_beat(now, MEASURE_EVERY_S), self._tick)

    def _tell_refusals(self) -> None:
        refused = self.admission.refused
        new = refused - self._told
        if new:
            self._told = Counter(refused)
            reasons = ", ".join(f"{reason} {count}" for reason, count in new.most_common())
            logger.warning("Connections refused in %.0f s: %s; there are %d.", TELL_EVERY_S, reasons, self.connections)

    @property
    def connections(self) -> int:
        return self.admission.connections

    def _point_at_proxies(self, address: str) -> None:
        """Behind a proxy that is not trusted, everybody has its address: the likeliest mistake of all."""
        if not self._pointed_at_proxies:
            self._pointed_at_proxies = True
            logger.warning(
                "The address %s has as many connections as one address may have (CONNECTIONS_PER_ADDRESS_MAX). "
                "If it is a proxy of this site, add it to TRUSTED_PROXIES.",
                address,
            )


def open_files_most() -> int:
    """How many file descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _limits() -> Limits:
    files = open_files_most()
    room = files - min(FILES_KEPT, files // 2)
    return Limits(
        # Beyond that, accepting fails with an error that no client is told of.
        connections=min(settings.CONNECTIONS_MAX or room, room),
        per_address=settings.CONNECTIONS_PER_ADDRESS_MAX,
        per_client=settings.CONNECTIONS_PER_CLIENT_MAX,
        unauthenticated=settings.UNAUTHENTICATED_MAX,
        rate_per_s=settings.CONNECTIONS_PER_S,
        burst=settings.CONNECTIONS_BURST,
        retry_most_s=settings.RETRY_AFTER_MAX_S,
    )


def _stricter(given: int | None, own: int) -> int:
    """Of an operator's limit and of one where 0 is none."""
    return own if given is None else min(given, own or given)


def _thresholds(memory_limit_bytes: int) -> Thresholds:
    return Thresholds(
        lag_s=settings.LAG_HIGH_MS / 1000,
        memory_bytes=int(memory_limit_bytes * MEMORY_SHARE),
        writer_messages=settings.WRITER_QUEUE_MESSAGES * settings.QUEUE_HIGH_PERCENT // 100,
        writer_bytes=settings.WRITER_QUEUE_BYTES * settings.QUEUE_HIGH_PERCENT // 100,
        ready=settings.READY_HIGH,
    )


# ---------------------------------------------------------------------- memory

PAGE_BYTES = resource.getpagesize()

GIVEN_BACK = 0.9
"""Below this share of the most there was, memory was really given back."""


class Memory:
    """How much memory a process uses of what it has.

    Python gives hardly any of it back: after 4,000 connections had gone their 60 MB were free and still resident. So
    resident memory says when a limit is near, and never that it is not any more. But it does not grow before as many
    blocks are in use again as there were when it grew last; until then it counts in proportion to them.
    """

    def __init__(self) -> None:
        self._most = 0
        self._blocks = 1

    def in_use(self, rss: int, blocks: int) -> int:
        """Bytes, from resident ones and Python's blocks in use at the moment."""
        # Much less than before: some of it was given back, and what is left is in use.
        if rss > self._most or rss < self._most * GIVEN_BACK:
            self._most, self._blocks = rss, blocks
        return rss * min(blocks, self._blocks) // self._blocks


def rss_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def cgroup_share_bytes(root: Path = Path("/")) -> int:
    """This worker's share of the memory that its control group allows; 0 where there is no limit.

    A limit may stand at any level above the process, and it is for all workers together.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    found: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _limits_above(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits_above(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    # Version 1 says "no limit" by a number of the size of the address space.
    found = [limit for limit in found if limit < 1 << 60]
    return min(found) // settings.WORKERS if found else 0


def _limits_above(mount: Path, path: str, name: str) -> list[int]:
    folder = mount / path.lstrip("/")
    folders: Sequence[Path] = [folder, *folder.parents][: len(folder.parts) - len(mount.parts) + 1]
    found = []
    for each in folders:
        try:
            found.append(int((each / name).read_text()))
        except (OSError, ValueError):
            continue  # not a level of ours, or the word "max"
    return found
