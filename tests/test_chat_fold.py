"""The fold of a room: its vectors, which static/js/chat/fold.js must pass too, and that order and cut do not matter."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chat.fold import Fold, fold
from tests import vectors

CLIENTS = st.sampled_from(["ana", "bo", "mo"])


def result(folded: Fold) -> dict[str, Any]:
    return {"messages": folded.messages(), "receipts": folded.receipts(), "notices": folded.notices()}


@vectors.each("chat_fold")
def test_vectors(vector: dict[str, Any]) -> None:
    folded = Fold()
    for seed in vector["given"].get("seeds", ()):
        for state in seed["messages"]:
            folded.seed(state, seed["through"])
        for client, through in seed["receipts"].items():
            folded.saw(client, through)
    for envelope in vector["given"]["messages"]:
        folded.add(envelope)
    assert result(folded) == vector["want"]


@st.composite
def logs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Logs in which little is invalid and much concerns the same few messages."""
    log: list[dict[str, Any]] = []
    for serial in range(1, draw(st.integers(2, 25))):
        of = st.integers(0, min(serial, 6))
        event = draw(st.sampled_from(["message", "message", "edit", "delete", "react", "react", "receipt", "member"]))
        client: str | None = draw(CLIENTS)
        data: dict[str, Any] = {}
        if event == "message":
            data = {"text": f"text {serial}"}
            if draw(st.booleans()):
                data["thread"] = draw(of)
        elif event == "edit":
            data = {"of": draw(of), "text": f"edit {serial}"}
        elif event == "delete":
            data = {"of": draw(of)}
            if draw(st.booleans()):
                client, data["by"] = None, "mo"
        elif event == "react":
            data = {"of": draw(of), "emoji": draw(st.sampled_from("👍🎉")), "on": draw(st.booleans())}
        elif event == "receipt":
            data = {"through": draw(st.integers(0, serial))}
        else:
            client, data = None, {"action": "joined", "client": "bo"}
        envelope = {"serial": serial, "id": f"i{serial}", "time": 1000 + serial}
        log.append({**envelope, "client": client, "event": event, "data": data})
    return log


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pages_in_any_order_and_cut_give_the_same(data: st.DataObject) -> None:
    log = data.draw(logs())
    cuts = sorted(data.draw(st.sets(st.integers(0, len(log)), max_size=4)) | {0, len(log)})
    pages = [log[low:high] for low, high in pairwise(cuts)]
    shuffled = [envelope for page in data.draw(st.permutations(pages)) for envelope in page]
    again = data.draw(st.lists(st.sampled_from(log), max_size=5))
    assert result(fold([*shuffled, *again])) == result(fold(log))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_state_that_was_folded_elsewhere_goes_with_any_part_of_the_log_around_it(data: st.DataObject) -> None:
    """What a page of history gives is folded through its head; events of before and after it may be known already."""
    log = data.draw(logs())
    through = data.draw(st.integers(0, len(log)))
    known_from = data.draw(st.integers(0, through))
    elsewhere = fold(log[:through])
    folded = fold(log[known_from:]) if data.draw(st.booleans()) else Fold()
    for state in elsewhere.messages():
        folded.seed(state, through)
    for client, seen in elsewhere.receipts().items():
        folded.saw(client, seen)
    for envelope in log[known_from:]:
        folded.add(envelope)
    whole = fold(log)
    assert folded.messages() == whole.messages()
    assert folded.receipts() == whole.receipts()
