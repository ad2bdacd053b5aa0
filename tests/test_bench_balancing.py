"""The simulation of balancing algorithms: what it must show, and that the page says what it says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench import balancing
from bench.balancing import ALGORITHMS, SVG, USES, Connection, Run, Server

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "scale.md"


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], float]:
    return balancing.compare()


def test_the_page_and_the_picture_are_what_the_simulation_gives(found: dict[tuple[str, str], float]) -> None:
    """When this fails: python -m bench.balancing, and put its table into the page."""
    text = PAGE.read_text()
    shown = text.partition("<!-- simulated -->\n")[2].partition("<!-- end of simulated -->")[0]
    assert shown.strip() == balancing.table(found)
    assert SVG.read_text() == balancing.draw(found)


def test_what_the_page_says_of_the_algorithms_is_so(found: dict[tuple[str, str], float]) -> None:
    alike, chatty, campus, sizes, crowd = (use.name for use in USES)
    assert min(found.values()) >= 1, "the busiest has at least its share"
    assert found["least connections", alike] < 1.02
    assert found["least bandwidth", chatty] < found["least connections", chatty]
    worst = max(ALGORITHMS, key=lambda algorithm: found[algorithm, campus])
    assert worst == "hash of the address"
    assert found["reported load", sizes] < found["least response time", sizes] < found["least connections", sizes]
    assert max(ALGORITHMS, key=lambda algorithm: found[algorithm, crowd]) == "reported load"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_gives_the_same_run_and_nobody_gets_lost(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "WARM_UP_S", 60)
    monkeypatch.setattr(balancing, "CROWD_WATCHED_S", 60)
    runs = [Run(USES[-1], ALGORITHMS[algorithm], random.Random(7)) for _ in range(2)]
    for run in runs:
        run.go()
    one, other = runs
    assert one.imbalance == other.imbalance
    open_ = sum(server.connections for server in one.servers)
    assert open_ == len(one._ends) > 100
    assert sum(server.load for server in one.servers) == pytest.approx(sum(c.rate for _, _, _, c in one._ends))


def test_least_connections_asks_the_counts_and_the_dice_between_equals() -> None:
    servers = [Server(1.0, connections=count) for count in (3, 1, 1)]
    dice = random.Random(1)
    chosen = {id(ALGORITHMS["least connections"](servers, Connection("a", 1.0), dice, number)) for number in range(50)}
    assert chosen == {id(servers[1]), id(servers[2])}
