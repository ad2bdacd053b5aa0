"""Which transport is next: after which failures, and when the best is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from seriatim_client.transport_choice import TransportChoice


def choice() -> TransportChoice:
    return TransportChoice(["websocket", "streaming", "polling"])


def end(it: TransportChoice, now_ms: float = 0, **how: Any) -> bool:
    return it.ended(**{"is_broken": True, "lived_ms": None, "is_timeout": False, "now_ms": now_ms, **how})


def test_the_next_follows_after_two_tries_that_came_to_nothing_and_after_the_last_the_first() -> None:
    it = choice()
    seen = []
    for _ in range(6):
        end(it)
        seen.append(it.current)
    assert seen == ["websocket", "streaming", "streaming", "polling", "polling", "websocket"]


def test_what_worked_here_is_tried_longer() -> None:
    it = choice()
    it.ready()
    assert [end(it) for _ in range(4)] == [False, False, False, True]


def test_a_line_on_which_nothing_comes_is_given_up_at_once_unless_it_has_worked() -> None:
    it = choice()
    assert end(it, is_timeout=True)
    it.ready()
    assert not end(it, is_timeout=True)


def test_a_close_of_the_servers_proves_the_path() -> None:
    it = choice()
    end(it)
    end(it, is_broken=False)
    assert not end(it)


def test_three_short_lives_in_three_minutes_not_in_more() -> None:
    it = choice()
    assert not end(it, 0, lived_ms=20_000)
    assert not end(it, 100_000, lived_ms=20_000)
    assert not end(it, 190_000, lived_ms=20_000)
    assert not end(it, 200_000, lived_ms=31_000)
    assert end(it, 210_000, lived_ms=20_000)


def test_the_best_is_tried_less_and_less_often() -> None:
    it = choice()
    waits = []
    for _ in range(6):
        waits.append(it.upgrade_ms)
        it.not_upgraded()
    assert waits == [60_000, 120_000, 240_000, 480_000, 900_000, 900_000]
    it.upgraded()
    assert (it.current, it.upgrade_ms) == ("websocket", 60_000)


def test_one_alone_is_never_left_and_none_is_refused() -> None:
    it = TransportChoice(["polling"])
    assert not any(end(it) for _ in range(9))
    with pytest.raises(ValueError, match="at least one"):
        TransportChoice([])
