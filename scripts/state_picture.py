"""Draws docs/images/session-states.svg from the table of moves in realtime/protocol/session.py.

    .seriatim/venv/bin/python -m scripts.state_picture

tests/session/test_state_picture.py fails when the picture is not what this would draw.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

from realtime.protocol.session import TRANSITIONS, State

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "session-states.svg"

BOX_WIDTH, BOX_HEIGHT, APART, LINE = 120, 48, 230, 18
LEFT, TOP = 20, 150

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
     font-family="system-ui, sans-serif" font-size="13">
<title>States of a session and what leads from one to the other</title>
<rect width="100%" height="100%" fill="#fff"/>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 8 4 0 8z" fill="#445"/></marker></defs>
"""


def picture() -> str:
    """The whole picture. A table that this layout cannot show is refused: moves lead forward, or to the same state."""
    order = {state: place for place, state in enumerate(State)}
    events: dict[tuple[int, int], list[str]] = defaultdict(list)
    for (before, event), after in TRANSITIONS.items():
        events[order[before], order[after]].append(event)
    below = max((len(names) for (i, j), names in events.items() if j - i > 1), default=0)
    width = 2 * LEFT + len(order) * BOX_WIDTH + (len(order) - 1) * APART
    parts = [HEAD.format(width=width, height=TOP + BOX_HEIGHT + 60 + below * LINE)]
    for (i, j), names in sorted(events.items()):
        parts.append(_move(i, j, names))
    for state, place in order.items():
        x = _x(place)
        parts.append(
            f'<rect x="{x}" y="{TOP}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="#eef2fb" stroke="#445"/>\n'
            + _text(x + BOX_WIDTH / 2, TOP + BOX_HEIGHT / 2 + 5, state.name, weight="bold")
        )
    return "".join(parts) + "</svg>\n"


def _x(place: int) -> int:
    return LEFT + place * (BOX_WIDTH + APART)


def _move(i: int, j: int, names: list[str]) -> str:
    middle = TOP + BOX_HEIGHT / 2
    if j == i:
        x = _x(i) + BOX_WIDTH / 2
        line = f"M{x - 25} {TOP} C{x - 45} {TOP - 60} {x + 45} {TOP - 60} {x + 25} {TOP}"
        return _path(line) + _stack(x, TOP - 52 - (len(names) - 1) * LINE, names)
    start, end = _x(i) + BOX_WIDTH, _x(j)
    if j == i + 1:
        return _path(f"M{start} {middle} H{end - 2}") + _stack(
            (start + end) / 2, middle - 9 - (len(names) - 1) * LINE, names
        )
    if j < i:
        raise ValueError("A move backwards: give the picture a way to show it.")
    bottom = TOP + BOX_HEIGHT
    start, end = int(_x(i) + BOX_WIDTH / 2), int(_x(j) + BOX_WIDTH / 2)
    line = f"M{start} {bottom} C{start} {bottom + 50} {end} {bottom + 50} {end} {bottom + 2}"
    return _path(line) + _stack((start + end) / 2, bottom + 58, names)


def _path(line: str) -> str:
    return f'<path d="{line}" fill="none" stroke="#445" marker-end="url(#tip)"/>\n'


def _stack(x: float, y: float, names: list[str]) -> str:
    return "".join(_text(x, y + index * LINE, name) for index, name in enumerate(names))


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-weight="{weight}" fill="#223">{escape(text)}</text>\n'


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture())
