"""The ladder of load shedding: measurements of a worker and the time go in, how much it gives up comes out.

Theory of operation
-------------------
Each measurement has a threshold. While any of them is reached (`high`) for `rise_s` without a break, the worker goes
one step up; while all are well below (`calm`) for `hold_s` without a break, one step down. Between the two it stays
where it is. So a single stall of the loop moves nothing, steps are never skipped, and no change is taken back within
`hold_s`: what a step does needs time to show, and a worker that refuses and admits in turns makes a crowd run to and
fro.

The order of the steps is from what costs clients least to what costs them most: who is not here yet waits; who does
nothing is asked to come back; then what may be lost by contract (signals); then what may be replaced by what is newer.
Messages of channels that hold them are never given up.

Pure. The thresholds were found by test: docs/explanation/load.md.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

CALM = 0.7
"""Share of a threshold below which a measurement counts as calm. Memory has a share of its own."""

CALM_MEMORY = 0.95
"""A process gives memory back late and in part: it would never be calm at the other share."""


class Step(IntEnum):
    """How much the worker gives up; each step includes those before it."""

    NORMAL = 0
    REFUSE_NEW = 1
    SHED_IDLE = 2
    DROP_SIGNALS = 3
    CONFLATE = 4


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a worker measures of itself."""

    lag_s: float = 0.0
    """How late the event loop runs what is due."""
    memory_bytes: int = 0
    writer_messages: int = 0
    """Waiting for the log writer."""
    writer_bytes: int = 0
    ready: int = 0
    """Subscribers that wait for their turn to read on from the log."""
    announcements: int = 0
    """News that wait for the channel layer."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a measurement is high; 0 is never. Defaults and reasons are in realtime.conf."""

    lag_s: float = 0.0
    memory_bytes: int = 0
    writer_messages: int = 0
    writer_bytes: int = 0
    ready: int = 0
    announcements: int = 0


MEASURES = tuple(Thresholds.__dataclass_fields__)


class Ladder:
    """Where one worker stands. Its attributes are for metrics."""

    def __init__(self, thresholds: Thresholds, rise_s: float, hold_s: float) -> None:
        self.thresholds = thresholds
        self._rise_s = rise_s
        self._hold_s = hold_s
        self.step = Step.NORMAL
        self.pressure = 0.0
        """The largest measurement, as a share of its threshold."""
        self.cause = ""
        """Which one that is; empty before the first."""
        self.rises: Counter[Step] = Counter()
        """How often each step was reached from below."""
        self._changed_at = -math.inf
        self._rose = True
        """Whether the last change was upwards."""
        self._high_since: float | None = None
        self._calm_since: float | None = None

    def update(self, measurements: Measurements, now: float) -> Step:
        """The step from now on. Call it several times within `rise_s`; `now` must not go back."""
        high, calm = self._judge(measurements)
        self._high_since = (now if self._high_since is None else self._high_since) if high else None
        self._calm_since = (now if self._calm_since is None else self._calm_since) if calm else None
        since_change_s = now - self._changed_at
        if self._high_since is not None and self.step < Step.CONFLATE:
            # The direction turns only after `hold_s`; further on in the same direction only `rise_s` has to pass.
            apart_s = self._rise_s if self._rose else self._hold_s
            if now - self._high_since >= self._rise_s and since_change_s >= apart_s:
                self._change(Step(self.step + 1), now)
        elif (
            self._calm_since is not None
            and self.step > Step.NORMAL
            and min(now - self._calm_since, since_change_s) >= self._hold_s
        ):
            self._change(Step(self.step - 1), now)
        return self.step

    def _judge(self, measurements: Measurements) -> tuple[bool, bool]:
        self.pressure, self.cause = 0.0, ""
        calm = True
        for name in MEASURES:
            threshold = getattr(self.thresholds, name)
            if not threshold:
                continue
            share = getattr(measurements, name) / threshold
            if share >= (CALM_MEMORY if name == "memory_bytes" else CALM):
                calm = False
            if share > self.pressure:
                self.pressure, self.cause = share, name
        return self.pressure >= 1, calm

    def _change(self, step: Step, now: float) -> None:
        self._rose = step > self.step
        if self._rose:
            self.rises[step] += 1
        self.step = step
        self._changed_at = now
        # The next step needs its own reason, from now on.
        self._high_since = self._calm_since = now
