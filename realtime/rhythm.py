"""When regular work is due: as much as possible at one moment, and for connections only at their own.

A worker that has nothing else to do spends its time on waking up. So all regular work of a process is done at the beats
of one clock: what is due four times a second, every second and every half a minute meets in the same turn of the loop.
And of thousands of connections a look takes only those for which something may be due (`Wheel`).
"""

from __future__ import annotations

import math
import random
from typing import Final, Generic, TypeVar

PHASE_S: Final = random.random()
"""Where the beats of this process lie, so that the workers of one machine do not ask the database all at once."""

MOMENT: Final = 0.1
"""Part of a period: who comes a little early, or so late, does not come twice."""

EARLY: Final = 0.001
"""Part of a step by which a look may come early: timers are as exact as that."""

T = TypeVar("T")


def until_beat(now_s: float, every_s: float, phase_s: float = PHASE_S) -> float:
    """Seconds until the next beat; where that is now, or in a moment, until the one after it. Beats of every second are
    among those of every quarter of one."""
    wait_s = every_s - (now_s - phase_s) % every_s
    return wait_s if wait_s >= every_s * MOMENT else wait_s + every_s


class Wheel(Generic[T]):
    """Who is to be looked at when, by the beats of every `step_s`: nobody early, everybody less than a step late."""

    def __init__(self, step_s: float, phase_s: float = PHASE_S) -> None:
        self._step_s = step_s
        self._phase_s = phase_s
        self._done = -math.inf
        """The last step that was taken out."""
        self._step_of: dict[T, float] = {}
        self._steps: dict[float, dict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._step_of)

    def put(self, item: T, at_s: float) -> None:
        """The item is due at this moment, and at no other; where that is past, at the next step."""
        step = max(math.ceil((at_s - self._phase_s) / self._step_s), self._done + 1)
        if self._step_of.get(item) != step:
            self.drop(item)
            self._step_of[item] = step
            self._steps.setdefault(step, {})[item] = None

    def drop(self, item: T) -> None:
        """It is not there any more, if it was."""
        step = self._step_of.pop(item, None)
        if step is not None:
            among = self._steps[step]
            del among[item]
            if not among:
                del self._steps[step]

    def take(self, now_s: float) -> list[T]:
        """Those who are due, in the order in which they are; they have to be put in again."""
        last = math.floor((now_s - self._phase_s) / self._step_s + EARLY)
        found: list[T] = []
        for step in sorted(step for step in self._steps if step <= last):
            found.extend(self._steps.pop(step))
        for item in found:
            del self._step_of[item]
        self._done = max(self._done, last)
        return found
