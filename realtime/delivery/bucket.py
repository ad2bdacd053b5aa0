"""A token bucket: how much of something may happen now, and when there is room for more.

Pure: the time comes in with every call, in seconds of a clock that does not go back (`time.monotonic`).
"""

from __future__ import annotations

import math


class TokenBucket:
    """`burst` at once, `rate_per_s` in the long run. Full at first. Not thread-safe: each has one owner.

    A request for more than `burst` is served when the bucket is full and leaves a debt, so that a limit that is
    lowered while clients run never makes a batch impossible.
    """

    __slots__ = ("_at_s", "_tokens", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        """ValueError unless both are above 0: without a limit, have no bucket."""
        if not (rate_per_s > 0 and burst > 0):
            raise ValueError("The rate and the burst of a bucket must be above 0.")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._tokens = float(burst)
        self._at_s = -math.inf

    def take(self, n: float, now: float) -> int:
        """Takes `n` and returns 0; or takes nothing and returns in how many milliseconds to ask again.

        Asking again after that time is served, unless others took in between. A refusal costs nothing: who keeps
        asking is not held back longer.
        """
        self._fill(now)
        missing = min(n, self.burst) - self._tokens
        # Sums of floats: a wait that was rounded to the millisecond must not miss by a trillionth of a token.
        if missing <= 1e-6 * self.burst:
            self._tokens -= n
            return 0
        return max(1, math.ceil(missing / self.rate_per_s * 1000))

    def left(self, now: float) -> float:
        """How much could be taken now; below 0 while a debt is paid off."""
        self._fill(now)
        return self._tokens

    def charge(self, n: float, now: float) -> None:
        """Takes `n` that was used already, if need be as a debt: until it is paid off, even taking 0 is refused. Below
        0 gives back what was taken and not used."""
        self._fill(now)
        self._tokens -= n

    def _fill(self, now: float) -> None:
        if now > self._at_s:
            self._tokens = min(self.burst, self._tokens + (now - self._at_s) * self.rate_per_s)
            self._at_s = now
