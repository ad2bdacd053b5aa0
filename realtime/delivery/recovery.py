"""Where delivery starts: a position that a client names, held against what the log still has.

Pure: the caller reads (epoch, oldest, head) from the primary *after* the request arrived (and, for a gap, after the
rows), hands them in, and performs the plan. Nothing here may decide from memory of a hub, since "beyond the head" and
"another epoch" are answers that cost a client its state. See docs/reference/protocol.md, "Attach".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["retention", "epoch", "conflated"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a log has: serials `oldest` to `head` of `epoch`; an empty log has `oldest == head + 1`.

    A channel never published to has epoch None, oldest 1 and head 0.
    """

    epoch: str | None
    oldest: int
    head: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Serials that a subscriber cannot have; both ends None when the log itself is another (`reason` "epoch")."""

    first: int | None
    last: int | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """Delivery goes on after `serial`; `resumed` is False exactly when `skip` has to be told first."""

    serial: int
    skip: Skip | None = None

    @property
    def resumed(self) -> bool:
        return self.skip is None


def resume(epoch: str | None, serial: int, bounds: Bounds) -> Plan:
    """Continues after (epoch, serial); (None, 0) is the position of one who waited for the first message."""
    if epoch is None and serial == 0:
        return start(bounds)
    if epoch != bounds.epoch or serial > bounds.head:
        return Plan(bounds.oldest - 1, Skip(None, None, "epoch"))
    overtaken = skip_of(serial, bounds)
    return Plan(serial) if overtaken is None else Plan(bounds.oldest - 1, overtaken)


def start(bounds: Bounds) -> Plan:
    """Everything that is retained."""
    return Plan(bounds.oldest - 1)


def head(bounds: Bounds) -> Plan:
    """Only what is new."""
    return Plan(bounds.head)


def rewind(count: int, bounds: Bounds) -> Plan:
    """The last `count` that are retained."""
    return Plan(max(bounds.oldest - 1, bounds.head - count))


def skip_of(position: int, bounds: Bounds) -> Skip | None:
    """What retention took from a reader at `position` of the same epoch, or None."""
    if position >= bounds.oldest - 1:
        return None
    return Skip(position + 1, bounds.oldest - 1, "retention")
