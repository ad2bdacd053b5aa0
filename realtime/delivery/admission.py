"""Who may connect now: limits on connections, and when those who are refused should come back.

Pure: time comes in as `now` (monotonic seconds), chance as a number from 0 below 1. One object per worker decides for
every connection, whatever its transport: `admit` before anything is spent on it, `Place.identify` when it is known who
it is, `Place.leave` when it is gone.

Refused clients that all wait the same time come back together, and are refused together. So each refusal hands out an
appointment: one after the other, as fast as connections are let in. The more are refused, the longer the next one
waits; and however many wait, no more come back per second than could be admitted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from realtime.delivery.bucket import TokenBucket

Reason = Literal["worker", "address", "client", "unauthenticated", "rate", "overload", "draining"]
"""What there was no room for: see `Limits`; "overload" and "draining" are the worker's own state."""

REASONS: Final[tuple[Reason, ...]] = (
    "worker",
    "address",
    "client",
    "unauthenticated",
    "rate",
    "overload",
    "draining",
)

FIRST_S = 1.0
"""The soonest anybody is asked to come back: HTTP says it in whole seconds."""

JITTER = 0.25
"""Share of the wait by which appointments are spread: clients that were refused together must not stay together."""

PACE_PER_S = 200.0
"""Appointments per second where no rate of new connections is set."""

CLIENT_PACE_PER_S = 1.0
"""The same for one client over its own limit: rather a fault in its program than a crowd."""

REFUSING_S = 2.0
"""How long after a refusal the worker counts as one that refuses."""

OWN_MOST = 1024
"""Addresses and clients with appointments of their own before those that nobody waits for are forgotten."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Connections at a time, and new ones per second; 0 is no limit. Defaults and reasons are in realtime.conf."""

    connections: int = 0
    per_address: int = 0
    per_client: int = 0
    unauthenticated: int = 0
    rate_per_s: int = 0
    burst: int = 1
    retry_most_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """There is no room; come back after `retry_s`."""

    reason: Reason
    retry_s: float

    @property
    def retry_ms(self) -> int:
        return int(self.retry_s * 1000)

    @property
    def retry_whole_s(self) -> int:
        """For HTTP's Retry-After."""
        return math.ceil(self.retry_s)

    @property
    def text(self) -> str:
        """For whom a status alone says too little."""
        return f"There is no room for another connection now ({self.reason}). Come back in {self.retry_whole_s} s.\n"


class Appointments:
    """When to come back: one after the other at a pace, with jitter, never later than `most_s` and a quarter."""

    __slots__ = ("_most_s", "_pace_s", "_until")

    def __init__(self, pace_per_s: float, most_s: float) -> None:
        self._pace_s = 1 / pace_per_s
        self._most_s = most_s
        self._until = 0.0

    def give(self, now: float, chance: float) -> float:
        """Seconds until the next free appointment."""
        at = max(self._until, now + FIRST_S)
        self._until = min(at + self._pace_s, now + self._most_s)
        wait_s = at - now
        return wait_s + chance * max(JITTER * wait_s, FIRST_S)

    def waiting(self, now: float) -> bool:
        """Whether somebody has an appointment that has not come yet."""
        return self._until > now


class Place:
    """Room for one connection, held until `leave`."""

    __slots__ = ("_admission", "_left", "address", "client")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission = admission
        self.address = address
        self.client: str | None = None
        """Known since `identify`; until then it counts as unauthenticated."""
        self._left = False

    def identify(self, client: str, now: float, chance: float) -> Refusal | None:
        """The connection proved to be this client's. A refusal is to be told, and the connection closed."""
        if self._left or self.client is not None:
            return None
        return self._admission.identify(self, client, now, chance)

    def leave(self) -> None:
        """The connection is gone. Idempotent."""
        if not self._left:
            self._left = True
            self._admission.leave(self)


class Admission:
    """The limits of one worker and who counts against them. Its counts are plain attributes, for metrics."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections = 0
        self.unauthenticated = 0
        self.addresses: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.admitted = 0
        """Since the start."""
        self.refused: Counter[Reason] = Counter()
        """Since the start, by reason."""
        self.overloaded = False
        """Set by the one who watches the worker's load: nobody new is let in, and who comes back again and again by
        nature (a poll) only at the pace of the appointments."""
        self.draining = False
        """Set when the worker begins to leave."""
        self._bucket = TokenBucket(limits.rate_per_s, limits.burst) if limits.rate_per_s else None
        self._pace_per_s = limits.rate_per_s or PACE_PER_S
        self._crowd = Appointments(self._pace_per_s, limits.retry_most_s)
        self._returns = TokenBucket(self._pace_per_s, self._pace_per_s)
        """Of an overloaded worker: as many who come back by nature have a turn as have an appointment."""
        self._own: dict[tuple[Reason, str], Appointments] = {}
        """Of addresses and clients at their own limit: they must not make others wait."""
        self._refused_at = -math.inf

    def admit(self, address: str, now: float, chance: float, *, returning: bool = False) -> Place | Refusal:
        """Room for a connection from `address`, or when to ask again. `returning`: it comes back all the time by nature
        (a poll), so that the rate of new connections says nothing about it."""
        limits = self.limits
        full = self._full()
        if full == "overload" and returning and not self._returns.take(1, now):
            # Who polls is never in: an overloaded worker would send all of them away, until it has nothing to do.
            full = self._full(overloaded=False)
        if full is not None:
            return self._refuse(full, now, chance)
        if limits.per_address and self.addresses[address] >= limits.per_address:
            return self._refuse_one("address", address, self._pace_per_s, now, chance)
        # Last: a token that was taken is gone.
        if self._bucket is not None and not returning and self._bucket.take(1, now):
            return self._refuse("rate", now, chance)
        self.admitted += 1
        self.connections += 1
        self.unauthenticated += 1
        self.addresses[address] += 1
        return Place(self, address)

    def identify(self, place: Place, client: str, now: float, chance: float) -> Refusal | None:
        """See `Place.identify`."""
        limits = self.limits
        if limits.per_client and self.clients[client] >= limits.per_client:
            return self._refuse_one("client", client, CLIENT_PACE_PER_S, now, chance)
        place.client = client
        self.unauthenticated -= 1
        self.clients[client] += 1
        return None

    def leave(self, place: Place) -> None:
        """See `Place.leave`."""
        self.connections -= 1
        _less(self.addresses, place.address)
        if place.client is None:
            self.unauthenticated -= 1
        else:
            _less(self.clients, place.client)

    def retry_s(self, now: float, chance: float) -> float:
        """An appointment for one who is sent away without having asked for room."""
        return self._crowd.give(now, chance)

    def refusing(self, now: float) -> bool:
        """Whether new connections are refused, or were a moment ago. Limits of one address or client do not count."""
        return self._full() is not None or now - self._refused_at < REFUSING_S

    def _full(self, *, overloaded: bool = True) -> Reason | None:
        """Why nobody at all is let in. `overloaded` False: the load is left out of account."""
        limits = self.limits
        if self.draining:
            return "draining"
        if self.overloaded and overloaded:
            return "overload"
        if limits.connections and self.connections >= limits.connections:
            return "worker"
        if limits.unauthenticated and self.unauthenticated >= limits.unauthenticated:
            return "unauthenticated"
        return None

    def _refuse(self, reason: Reason, now: float, chance: float) -> Refusal:
        self.refused[reason] += 1
        self._refused_at = now
        # Others serve while this one leaves: they are not asked to wait for it.
        return Refusal(reason, FIRST_S * (1 + chance) if reason == "draining" else self._crowd.give(now, chance))

    def _refuse_one(self, reason: Reason, name: str, pace_per_s: float, now: float, chance: float) -> Refusal:
        """One address or client has enough; the others know nothing of it."""
        self.refused[reason] += 1
        own = self._own.get((reason, name))
        if own is None:
            if len(self._own) >= OWN_MOST:
                self._own = {key: each for key, each in self._own.items() if each.waiting(now)}
            own = self._own[reason, name] = Appointments(pace_per_s, self.limits.retry_most_s)
        return Refusal(reason, own.give(now, chance))


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
