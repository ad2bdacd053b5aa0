"""Small line charts for pages without script: paths for SVG, and the words that say the same.

Pure. The scale begins at 0, and a hole in what is known is a hole in the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Sparkline", "draw"]

WIDTH = 600
HEIGHT = 100

DOT = 2
"""How wide a value is drawn that has no neighbour."""


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A drawing of `WIDTH` by `HEIGHT`."""

    line: str
    area: str
    """Below the line."""
    most: float
    """What the upper edge stands for; 0 where there is nothing."""
    newest: float | None
    """None: nothing is known of the last step."""

    @property
    def text(self) -> str:
        if not self.line:
            return "nothing is known yet"
        now = "nothing is known of now" if self.newest is None else f"now {self.newest:.0f}"
        return f"at most {self.most:.0f} messages a second, {now}"


def draw(values: Sequence[float | None]) -> Sparkline:
    """The line through values at equal distances."""
    known = [value for value in values if value is not None]
    most = max(known, default=0.0)
    step = WIDTH / max(1, len(values) - 1)
    runs = [
        [(index * step, HEIGHT - (value / most if most else 0) * HEIGHT) for index, value in run]
        for run in _runs(values)
    ]
    runs = [run if len(run) > 1 else [run[0], (run[0][0] + DOT, run[0][1])] for run in runs]
    return Sparkline(
        "".join(f"M{_points(run)}" for run in runs),
        "".join(f"M{_points([(run[0][0], HEIGHT), *run, (run[-1][0], HEIGHT)])}Z" for run in runs),
        most,
        values[-1] if values else None,
    )


def _runs(values: Iterable[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Values without a hole between them, with their places."""
    run: list[tuple[int, float]] = []
    for index, value in enumerate(values):
        if value is not None:
            run.append((index, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _points(run: Iterable[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in run)
