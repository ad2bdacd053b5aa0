"""A match that never ends: score and commentary as pure functions of the second.

The score goes out each second on a channel that conflates, under one key: whoever falls behind wants the newest. The
commentary goes out every third second on a channel that holds: whoever falls behind wants all of it, in order.
"""

from __future__ import annotations

from typing import Any, Final

from dashboards.mast import height

SCORES: Final = "scores:live"
COMMENTARY: Final = "demo:commentary"
MATCH_S: Final = 600
TEAMS: Final = ("Quay", "Lighthouse")
LINES: Final = (
    "{a} build from the back.",
    "{b} press high and win a throw-in.",
    "Long ball by {a}, headed clear.",
    "Corner for {b}.",
    "A shot from {a}, just wide.",
    "{b} change sides, patiently.",
    "Free kick for {a} near the line.",
)


def _goal(second: int) -> int | None:
    """Which team scores in this second: about one goal in fifty seconds."""
    chance = (height("goal", 1, second) + 1) / 2
    return None if chance > 0.02 else int(chance > 0.01)


def score(second: int) -> dict[str, Any]:
    number, minute_s = divmod(second, MATCH_S)
    goals = [0, 0]
    for each in range(second - minute_s, second + 1):
        team = _goal(each)
        if team is not None:
            goals[team] += 1
    return {
        "at": second,
        "match": number,
        "clock": f"{minute_s * 90 // MATCH_S}′",
        "score": f"{goals[0]}:{goals[1]}",
        "goals": sum(goals),
        "home": goals[0],
        "away": goals[1],
        "possession": round(50 + 18 * height("ball", 20, second // 20)),
    }


def commentary(second: int) -> dict[str, Any] | None:
    team = _goal(second)
    if team is None and second % 3:
        return None
    now = score(second)
    if team is not None:
        return {"at": second, "text": f"Goal for {TEAMS[team]}! It is {now['score']}.", "clock": now["clock"]}
    a, b = TEAMS if height("side", 3, second) > 0 else TEAMS[::-1]
    line = LINES[int((height("line", 3, second) + 1) / 2 * len(LINES)) % len(LINES)]
    return {"at": second, "text": line.format(a=a, b=b), "clock": now["clock"]}
