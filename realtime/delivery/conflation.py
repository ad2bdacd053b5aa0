"""What a subscriber that fell behind in a conflating channel still gets: the newest of each key, and the newest of all.

Pure. Everything else is left out and told by `skipped`, so that every serial is either delivered or told. Messages
without a key are states of the channel as a whole: only the very last of them is worth anything. See
docs/explanation/overflow.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from realtime.delivery.recovery import Skip


def newest(keys: Sequence[str | None]) -> list[int]:
    """Which of consecutive messages with these keys go on: their indexes, in order, the last one always among them."""
    seen: set[str] = set()
    kept: list[int] = []
    last = len(keys) - 1
    for index in range(last, -1, -1):
        key = keys[index]
        if index == last or (key is not None and key not in seen):
            kept.append(index)
        if key is not None:
            seen.add(key)
    kept.reverse()
    return kept


def gaps(position: int, kept: Iterable[int], last: int) -> Iterator[tuple[Skip | None, int | None]]:
    """For each serial of `kept` (rising, beyond `position`) what has to be told before it; at the end, with None, what
    is left out behind them through `last`."""
    for serial in kept:
        yield _left_out(position, serial - 1), serial
        position = serial
    if position < last:
        yield _left_out(position, last), None


def _left_out(position: int, last: int) -> Skip | None:
    return Skip(position + 1, last, "conflated") if last > position else None
