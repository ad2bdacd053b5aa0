"""Workers that ask each other: dead ones, stopped ones, garbage, and one that takes another's place."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from realtime.metrics import siblings
from realtime.metrics.siblings import Answerer, ask

PATIENCE_S = 60.0


@pytest.fixture
def started() -> Iterator[Callable[..., Answerer]]:
    """Starts an answerer; all are ended with the test."""
    running: list[Answerer] = []

    def start(folder: Path, name: str, answer: Callable[[bytes], bytes]) -> Answerer:
        running.append(Answerer(folder, name, answer))
        running[-1].start()
        return running[-1]

    yield start
    for each in running:
        each.stop()


Start = Callable[..., Answerer]


def test_each_answers_for_itself(tmp_path: Path, started: Start) -> None:
    started(tmp_path, "w1", lambda question: b"one")
    started(tmp_path, "w2", lambda question: b"two" * 500_000)
    assert ask(tmp_path, ["w1", "w2"], patience_s=PATIENCE_S) == {"w1": b"one", "w2": b"two" * 500_000}


def test_each_hears_the_question(tmp_path: Path, started: Start) -> None:
    started(tmp_path, "w1", lambda question: question[::-1])
    assert ask(tmp_path, ["w1"], b"abc", PATIENCE_S) == {"w1": b"cba"}


def test_one_that_is_not_there_or_has_died_answers_nothing_at_once(tmp_path: Path, started: Start) -> None:
    started(tmp_path, "w1", lambda question: b"one")
    started(tmp_path, "w2", lambda question: b"two").stop()
    assert (tmp_path / "w2.sock").exists()
    began = time.monotonic()
    assert ask(tmp_path, ["w1", "w2", "w3"], patience_s=PATIENCE_S) == {"w1": b"one", "w2": b"", "w3": b""}
    assert time.monotonic() - began < PATIENCE_S / 2


def test_those_that_take_too_long_cost_the_patience_once(tmp_path: Path, started: Start) -> None:
    """As of a process that is stopped: the kernel takes the connection, and nobody answers."""
    listening = []
    for name in ("w2", "w3", "w4"):
        stopped = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stopped.bind(str(tmp_path / f"{name}.sock"))
        stopped.listen(1)
        listening.append(stopped)
    started(tmp_path, "w5", lambda question: b"five")
    began = time.monotonic()
    answers = ask(tmp_path, ["w2", "w3", "w4", "w5"], patience_s=0.5)
    took_s = time.monotonic() - began
    for stopped in listening:
        stopped.close()
    assert answers == {"w2": b"", "w3": b"", "w4": b"", "w5": b"five"}
    assert 0.4 < took_s < 1.4, "the patience is for all together"


def test_one_that_fails_while_it_answers_goes_on(
    tmp_path: Path, started: Start, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([b"first"])

    def answer(question: bytes) -> bytes:
        return next(answers)  # the second time there is none

    started(tmp_path, "w1", answer)
    assert ask(tmp_path, ["w1"], patience_s=PATIENCE_S) == {"w1": b"first"}
    assert ask(tmp_path, ["w1"], patience_s=PATIENCE_S) == {"w1": b""}
    assert ask(tmp_path, ["w1"], patience_s=PATIENCE_S) == {"w1": b""}
    assert "could not be told" in caplog.text


def test_one_who_asks_and_goes_away_does_not_hold_up_the_next(tmp_path: Path, started: Start) -> None:
    started(tmp_path, "w1", lambda question: b"x" * 3_000_000)
    rude = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    rude.connect(str(tmp_path / "w1.sock"))
    rude.close()
    assert len(ask(tmp_path, ["w1"], patience_s=PATIENCE_S)["w1"]) == 3_000_000


def test_an_answer_without_end_is_given_up(tmp_path: Path, started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "ANSWER_MOST_BYTES", 100_000)
    started(tmp_path, "w1", lambda question: b"x" * 1_000_000)
    assert ask(tmp_path, ["w1"], patience_s=PATIENCE_S) == {"w1": b""}


def test_a_successor_takes_the_name_over(tmp_path: Path, started: Start) -> None:
    before = started(tmp_path, "w1", lambda question: b"before")
    started(tmp_path, "w1", lambda question: b"after")
    assert ask(tmp_path, ["w1"], patience_s=PATIENCE_S) == {"w1": b"after"}
    before.stop()
    assert ask(tmp_path, ["w1"], patience_s=PATIENCE_S) == {"w1": b"after"}, "the one before took the name along"


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Answerer(tmp_path / "nowhere", "w1", lambda question: b"")
    with pytest.raises(OSError, match="too long"):
        Answerer(tmp_path, "w" * 200, lambda question: b"")
    assert not [thread for thread in threading.enumerate() if thread.name == "seriatim-metrics"]
