"""The core by itself: states and their reasons, closes, tokens, heartbeat, acks, snapshots, loads, the outbox."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from seriatim_client import (
    Cursor,
    HistoryPage,
    Line,
    OutboxLimits,
    Position,
    Published,
    Rewind,
    SeriatimError,
    Snapshot,
)
from seriatim_client.acks import SIZE_LIMIT_BYTES, AckCadence
from seriatim_client.clock import Clock
from seriatim_client.core import CoreOptions
from seriatim_client.effects import Recovered
from seriatim_client.frames import EVERYBODY, Announcement, Attached, Signal, announcement_of, parse_frame
from seriatim_client.ids import IdMaker
from seriatim_client.line_state import TRANSITIONS
from seriatim_client.messages import Discontinuity, Load, Message
from seriatim_client.serials import SerialTracker
from tests.clients_python.fake_server import Bench

ONE = "chat:one"


@pytest.fixture
def bench() -> Bench:
    return Bench(random.Random(1).random)


def serials(bench: Bench, name: str = ONE) -> list[int]:
    """Processes all there is."""
    got = []
    while isinstance(step := bench.pull(name), Message):
        got.append(step.serial)
        bench.processed(name)
        bench.settle()
    return got


def up(bench: Bench, from_: Any = "head", window: int | None = None) -> None:
    bench.follow(ONE, from_, window)
    bench.connect()


# -- what concerns everybody -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "data", "expected"),
    [
        ("announcement", {"id": "a1", "text": "Back at six.", "later": 1}, Announcement("a1", "Back at six.")),
        ("other", {"id": "a1", "text": "x"}, None),
        ("announcement", {"id": 1, "text": "x"}, None),
        ("announcement", {"id": "a1"}, None),
        ("announcement", None, None),
    ],
)
def test_an_announcement_is_read_and_anything_else_is_not(event: str, data: Any, expected: Announcement | None) -> None:
    frame = json.dumps({"type": "signal", "channel": EVERYBODY, "client": None, "event": event, "data": data})
    signal = parse_frame(frame)
    assert isinstance(signal, Signal) and announcement_of(signal) == expected


# -- line --------------------------------------------------------------------------------------------------------------


def test_a_line_connects_and_is_live(bench: Bench) -> None:
    bench.connect()
    assert bench.states == ["connecting", "live"]
    assert bench.link.token == "header.claims.signature"
    assert bench.core.ready is not None and bench.core.ready.client == "ana"


def test_a_line_with_a_backlog_catches_up_first(bench: Bench) -> None:
    bench.server.publish(ONE, 1, "a")
    up(bench, "start")
    assert bench.states == ["connecting", "catching_up"]
    assert serials(bench) == [1]
    assert bench.states[-1] == "live"


@pytest.mark.parametrize(
    ("code", "reason", "state", "wait_ms"),
    [
        (1000, "", "closed", None),
        (1001, "", "offline", 500),
        (1006, "", "offline", 500),
        (1011, "", "offline", 500),
        (4011, "", "offline", 500),
        (4999, "", "offline", 500),
        (4410, "", "offline", 500),
        (1012, "", "moving", 500),
        (4012, "", "moving", 500),
        (1013, "retry_after_ms=700", "waiting", 700),
        (1013, "", "waiting", 500),
        (4429, "retry_after_ms=900", "waiting", 900),
        (1003, "", "stopped", None),
        (1009, "", "stopped", None),
        (4403, "blocked", "stopped", None),
        (4400, "", "stopped", None),
    ],
)
def test_the_close_code_decides(code: int, reason: str, state: str, wait_ms: float | None) -> None:
    bench = Bench(lambda: 0.5)
    bench.connect()
    bench.link.close(code, reason)
    bench.settle()
    assert bench.core.state.name == state
    assert bench.core.state.code == (code - 3000 if 4001 <= code <= 4013 else code)
    assert bench.core.state.reason
    if wait_ms is None:
        assert bench.core.state.next_try_at_ms is None
        assert bench.core.given_up is not None
        bench.advance(100_000)
        assert len(bench.server.links) == 1
    else:
        assert bench.core.state.next_try_at_ms == bench.now_ms + wait_ms
        bench.advance(wait_ms + 1)
        bench.settle()
        assert bench.core.state.name == "live"


def test_a_worker_that_leaves_is_followed_at_its_hint(bench: Bench) -> None:
    bench.connect()
    bench.link.write({"type": "reconnect", "after_ms": 740, "reason": "drain"})
    bench.settle()
    assert (bench.core.state.name, bench.core.state.reason) == ("moving", "drain")
    bench.link.close(1012)
    bench.settle()
    bench.advance(739)
    assert len(bench.server.links) == 1
    bench.advance(2)
    bench.settle()
    assert bench.core.state.name == "live"


def test_a_worker_that_says_it_leaves_and_stays_is_left(bench: Bench) -> None:
    bench.connect()
    bench.link.write({"type": "reconnect", "after_ms": 100, "reason": "drain"})
    bench.settle()
    bench.advance(6_000)
    bench.settle()
    assert bench.server.links[0].closed_with == 1000
    assert bench.core.state.name == "live"


def test_waits_grow_and_begin_anew_after_a_good_connection() -> None:
    bench = Bench(lambda: 0.5)
    bench.server.greet = lambda link: (1011, "")
    bench.connect()
    waits = []
    for _ in range(6):
        at_ms = bench.core.state.next_try_at_ms
        assert at_ms is not None
        waits.append(at_ms - bench.now_ms)
        bench.advance(at_ms - bench.now_ms)
        bench.settle()
    assert waits == [500, 1000, 2000, 4000, 8000, 8000]
    assert bench.core.state.attempt == 7
    bench.server.greet = lambda link: None
    bench.advance(8_001)
    bench.settle()
    bench.advance(10_000, moving=True)
    bench.cut()
    assert bench.core.state.next_try_at_ms == bench.now_ms + 500


def test_a_refused_token_is_replaced_once_then_nobody_is_signed_in(bench: Bench) -> None:
    asked: list[str] = []

    def token(reason: str) -> str:
        asked.append(reason)
        return f"token-{len(asked)}"

    bench.token = token
    bench.server.greet = lambda link: (4401, "expired")
    bench.core.channel(ONE)
    bench.core.want(ONE, bench.now_ms)
    waiting = bench.publish(ONE, 1)
    bench.connect()
    assert asked == ["connect", "unauthorized"]
    assert [link.token for link in bench.server.links] == ["token-1", "token-2"]
    assert (bench.core.state.name, bench.core.state.reason) == ("signed_out", "expired")
    error = bench.answers[waiting]
    assert isinstance(error, SeriatimError) and error.code == "signed_out"
    assert bench.ended == [(ONE, error)]
    bench.server.greet = lambda link: None
    bench.connect()
    assert bench.core.state.name == "live"


def test_a_token_function_that_says_signed_out_is_believed(bench: Bench) -> None:
    def token(reason: str) -> str:
        raise SeriatimError("unauthorized")

    bench.token = token
    bench.connect()
    assert bench.core.state.name == "signed_out"
    assert bench.server.links == []


def test_a_token_function_that_fails_is_a_try_that_failed(bench: Bench) -> None:
    def token(reason: str) -> str:
        raise SeriatimError("token", "no luck")

    bench.token = token
    bench.connect()
    assert bench.core.state.name == "offline"
    assert "no luck" in bench.core.state.reason
    bench.token = lambda reason: "t"
    bench.advance(20_000, moving=True)
    assert bench.core.state.name == "live"


def test_a_token_is_renewed_over_the_open_line(bench: Bench) -> None:
    bench.server.expires_ms = 3_600_000
    tokens = iter(["one", "two"])
    bench.token = lambda reason: next(tokens)
    bench.connect()
    bench.link.write({"type": "auth.expiring", "in_ms": 60_000})
    bench.settle()
    assert bench.link.token == "two"
    assert bench.core.state.name == "live"


def test_the_same_token_again_is_not_sent(bench: Bench) -> None:
    bench.connect()
    bench.link.write({"type": "auth.expiring", "in_ms": 60_000})
    bench.settle()
    assert [frame["type"] for frame in bench.link.read] == []


def test_silence_is_asked_and_then_given_up(bench: Bench) -> None:
    bench.connect()
    bench.advance(37_500)
    assert json.loads(bench.link.to_server[0])["type"] == "ping"
    bench.settle()
    assert bench.core.state.name == "live"
    bench.advance(37_500)
    bench.advance(10_000)
    assert bench.server.links[0].closed_with == 1000
    assert (bench.core.state.name, bench.core.state.reason) == ("offline", "no sign of life")


def test_a_process_that_slept_asks_before_it_judges(bench: Bench) -> None:
    bench.connect()
    bench.sleep(3_600_000)
    assert bench.core.state.name == "live"
    bench.settle()
    assert bench.core.state.name == "live"
    assert len(bench.server.links) == 1


def test_late_answers_make_a_slow_line(bench: Bench) -> None:
    up(bench)
    bench.publish(ONE, 1)
    bench.advance(8_000)
    assert bench.core.state.name == "slow"
    bench.settle()
    bench.advance(2_001, moving=True)  # one answer in time
    assert bench.core.state.name == "live"


def test_a_handshake_refused_for_want_of_room_waits_as_long_as_it_says(bench: Bench) -> None:
    bench.core.connect(bench.now_ms)
    bench.perform()
    bench.core.refused(bench.link.try_number, 503, 4000, bench.now_ms)
    bench.perform()
    assert (bench.core.state.name, bench.core.state.next_try_at_ms) == ("waiting", bench.now_ms + 4000)
    assert "503" in bench.core.state.reason


def test_what_an_older_connection_still_says_is_void(bench: Bench) -> None:
    bench.connect()
    old = bench.link
    bench.cut()
    bench.advance(1_000)
    bench.settle()
    bench.core.received(old.try_number, '{"type":"reconnect","after_ms":1,"reason":"x"}', bench.now_ms)
    bench.core.lost(old.try_number, 4403, "", bench.now_ms)
    bench.perform()
    assert bench.core.state.name == "live"


def test_idle_lines_come_back_when_there_is_something_to_say(bench: Bench) -> None:
    bench.connect()
    bench.link.close(4408, "idle")
    bench.settle()
    assert (bench.core.state.name, bench.core.state.next_try_at_ms) == ("offline", None)
    bench.core.channel(ONE)
    handle = bench.publish(ONE, 1)
    bench.settle()
    assert isinstance(bench.answers[handle], Published)


def test_what_was_made_good_is_told(bench: Bench) -> None:
    up(bench)
    bench.server.publish(ONE, 1, "a")
    bench.settle()
    serials(bench)
    bench.cut()
    bench.server.publish(ONE, 2, "b")
    bench.publish(ONE, 3)
    bench.advance(1_000, moving=True)
    serials(bench)
    (recovered,) = [each for each in bench.told if isinstance(each, Recovered)]
    assert (recovered.received, recovered.sent, recovered.skipped) == (1, 1, 0)
    assert recovered.away_ms > 0


def test_every_state_but_closed_can_be_closed() -> None:
    for name, after in TRANSITIONS.items():
        assert name is Line.CLOSED or Line.CLOSED in after


def test_close_sends_acks_and_gives_up_what_waits(bench: Bench) -> None:
    up(bench, "start")
    bench.server.publish(ONE, 1, "a")
    bench.settle()
    assert serials(bench) == [1]
    waiting = bench.publish(ONE, 2)
    bench.core.close(bench.now_ms)
    bench.perform()
    acked = [frame for frame in bench.link.read if frame.get("serials") or frame.get("acks")]
    assert acked
    error = bench.answers[waiting]
    assert isinstance(error, SeriatimError) and error.code == "closed"
    assert bench.ended == [(ONE, None)]
    assert bench.core.next_at_ms is None


# -- channels ----------------------------------------------------------------------------------------------------------


def test_a_message_left_unprocessed_is_the_first_of_the_next_loop(bench: Bench) -> None:
    up(bench, "start")
    bench.server.publish(ONE, "x", "a")
    bench.settle()
    first = bench.pull(ONE)
    bench.processed(ONE, False)
    assert bench.core.position(ONE) == Position("ep01", 0)
    assert bench.pull(ONE) == first


def test_processed_through_counts_before_the_loop_asks_for_more(bench: Bench) -> None:
    up(bench, "start")
    bench.server.publish(ONE, "x", "a")
    bench.settle()
    assert bench.pull(ONE).serial == 1
    bench.core.processed_through(ONE, 1, bench.now_ms)
    bench.perform()
    assert bench.core.position(ONE) == Position("ep01", 1)
    bench.processed(ONE, False)
    assert bench.pull(ONE) is None


def test_retention_is_told_before_the_message_behind_it(bench: Bench) -> None:
    up(bench, "start")
    for index in range(6):
        bench.server.publish(ONE, index, f"i{index}")
    bench.settle()
    bench.pull(ONE)
    bench.processed(ONE)
    bench.cut()
    bench.server.prune(ONE, 4)
    bench.advance(1_000, moving=True)
    step = bench.pull(ONE)
    assert step == Discontinuity(ONE, 2, 4, "retention", Position("ep01", 1), Position("ep01", 4))
    assert serials(bench) == [5, 6]


def test_a_new_log_is_told_and_delivered_from_its_start(bench: Bench) -> None:
    up(bench, "start")
    bench.server.publish(ONE, 1, "a")
    bench.settle()
    assert serials(bench) == [1]
    bench.server.start_anew(ONE)
    bench.settle()
    step = bench.pull(ONE)
    assert (step.first, step.last, step.reason) == (None, None, "epoch")
    assert bench.core.position(ONE) == Position("ep02", 0)
    assert serials(bench) == [1]


def test_a_snapshot_comes_whole_and_is_not_acknowledged(bench: Bench) -> None:
    for index, key in enumerate("abab"):
        bench.server.publish(ONE, index, f"i{index}", key=key)
    up(bench, "latest")
    assert bench.pull(ONE) == Snapshot(ONE, Position("ep01", 4), 2)
    rows = [bench.pull(ONE)]
    bench.processed(ONE)
    rows.append(bench.pull(ONE))
    bench.processed(ONE)
    assert [(row.serial, row.key, row.snapshot) for row in rows] == [(3, "a", True), (4, "b", True)]
    assert bench.core.position(ONE) == Position("ep01", 4)
    assert not any(frame["type"] == "ack" for frame in bench.link.read)
    bench.server.publish(ONE, 9, "n")
    bench.settle()
    assert serials(bench) == [5]


def test_a_snapshot_that_was_cut_is_asked_for_again(bench: Bench) -> None:
    bench.server.publish(ONE, 1, "a", key="k")
    bench.core.channel(ONE, "latest")
    bench.core.want(ONE, bench.now_ms)
    bench.core.connect(bench.now_ms)
    bench.perform()
    while len(bench.link.read) < 1:
        bench.up() or bench.down()
    bench.down()  # attached, and the end of the snapshot not
    bench.cut()
    bench.advance(1_000, moving=True)
    assert bench.link.read[0]["from"] == "latest"
    assert isinstance(bench.pull(ONE), Snapshot)


def test_an_attach_refused_for_good_ends_the_loop(bench: Bench) -> None:
    bench.server.refuse = lambda frame, link: {"code": "forbidden"}
    handle = object()
    bench.core.channel(ONE)
    bench.core.attach(handle, ONE, None, bench.now_ms)
    bench.connect()
    error = bench.answers[handle]
    assert isinstance(error, SeriatimError) and error.code == "forbidden"
    assert bench.ended == [(ONE, error)]
    assert bench.core.channel_state(ONE) == ("detached", "forbidden")


def test_an_attach_that_may_be_tried_again_is(bench: Bench) -> None:
    refusals = [{"code": "unavailable", "retry_after_ms": 50}]
    bench.server.refuse = lambda frame, link: refusals.pop() if refusals else None
    handle = object()
    bench.core.channel(ONE)
    bench.core.attach(handle, ONE, None, bench.now_ms)
    bench.connect()
    assert bench.core.channel_state(ONE)[0] == "attaching"
    bench.advance(60, moving=True)
    assert isinstance(bench.answers[handle], Attached)


def test_a_cursor_moved_by_another_connection_is_told(bench: Bench) -> None:
    for index in range(5):
        bench.server.publish(ONE, index, f"i{index}")
    bench.server.cursors[ONE, "c"] = ("ep01", 1)
    up(bench, Cursor("c"))
    bench.cut()
    bench.server.cursors[ONE, "c"] = ("ep01", 3)
    bench.advance(1_000, moving=True)
    step = bench.pull(ONE)
    assert (step.first, step.last, step.reason) == (2, 3, "cursor")


def test_acks_come_at_the_cadence_and_after_the_pause() -> None:
    bench = Bench(lambda: 0.0)  # always at half
    bench.server.ack_every = 8
    up(bench, "start")
    for index in range(6):
        bench.server.publish(ONE, index, f"i{index}")
    bench.settle()
    serials(bench)
    assert [frame["serials"][ONE] for frame in bench.link.read if frame["type"] == "ack"] == [4]
    bench.advance(10_001, moving=True)
    assert [frame["serials"][ONE] for frame in bench.link.read if frame["type"] == "ack"] == [4, 6]


def test_acks_ride_on_frames_that_are_sent_anyway(bench: Bench) -> None:
    up(bench, "start")
    bench.server.publish(ONE, 1, "a")
    bench.settle()
    serials(bench)
    bench.publish(ONE, 2)
    bench.settle()
    assert [frame["acks"] for frame in bench.link.read if "acks" in frame] == [{ONE: 1}]


def test_large_messages_are_acknowledged_by_size() -> None:
    cadence = AckCadence(lambda: 0.9)
    cadence.begin(128)
    assert not cadence.processed(1, SIZE_LIMIT_BYTES - 1)
    assert cadence.processed(2, 1)
    assert (cadence.take(), cadence.take()) == (2, None)


def test_acks_are_spread_over_the_second_half_of_a_run() -> None:
    chance = random.Random(3)
    due = set()
    for _ in range(300):
        cadence = AckCadence(chance.random)
        cadence.begin(10)
        due.add(next(count for count in range(1, 11) if cadence.processed(count, 1)))
    assert due == set(range(5, 11))


def test_window_0_is_never_acknowledged(bench: Bench) -> None:
    up(bench, "start", window=0)
    for index in range(300):
        bench.server.publish(ONE, index, f"i{index}")
    bench.settle()
    assert len(serials(bench)) == 300
    bench.advance(20_000, moving=True)
    assert bench.server.violations == []


def test_a_state_is_loaded_before_what_follows_and_again_after_a_hole(bench: Bench) -> None:
    handle = object()
    bench.core.channel(ONE, "start")
    bench.core.load_with(handle, ONE, bench.now_ms)
    for index in range(4):
        bench.server.publish(ONE, index, f"i{index}")
    bench.connect()
    assert bench.pull(ONE) == Load(ONE, Position("ep01", 0))
    assert bench.pull(ONE) is None, "messages are held back"
    bench.core.loaded(ONE, 2, bench.now_ms)
    bench.perform()
    assert bench.answers[handle] is None
    assert serials(bench) == [3, 4]
    bench.server.start_anew(ONE)
    bench.settle()
    assert isinstance(bench.pull(ONE), Discontinuity)
    assert isinstance(bench.pull(ONE), Load)
    bench.core.load_failed(ONE, "no", bench.now_ms)
    bench.perform()
    assert bench.pull(ONE) is None
    bench.advance(1_001)
    assert isinstance(bench.pull(ONE), Load)


def test_history_is_asked_again_on_the_next_line(bench: Bench) -> None:
    bench.server.publish(ONE, "x", "a")
    bench.connect()
    handle = object()
    bench.core.history(handle, ONE, None, None, 10, bench.now_ms)
    bench.perform()
    bench.cut()
    bench.advance(1_000, moving=True)
    page = bench.answers[handle]
    assert isinstance(page, HistoryPage)
    assert [(message.serial, message.epoch) for message in page.messages] == [(1, "ep01")]


def test_a_message_of_the_attachment_before_is_not_acknowledged_on_this_one(bench: Bench) -> None:
    bench.server.ack_every = 1
    up(bench, "start")
    bench.server.publish(ONE, 1, "a")
    bench.settle()
    assert bench.pull(ONE).serial == 1
    bench.server.start_anew(ONE)
    bench.settle()
    bench.processed(ONE)
    bench.settle()
    assert not [frame for frame in bench.link.read if frame["type"] == "ack"]


def test_an_answer_to_an_attach_before_the_last_one_is_void(bench: Bench) -> None:
    for index in range(3):
        bench.server.publish(ONE, index, f"i{index}")
    up(bench, "head")
    bench.core.attach("first", ONE, "start", bench.now_ms)
    bench.core.attach("second", ONE, Rewind(1), bench.now_ms)
    bench.settle()
    assert isinstance(bench.answers["first"], Attached)
    assert serials(bench) == [3]


def test_serials_are_next_old_or_proof_of_a_hole() -> None:
    tracker = SerialTracker()
    tracker.begin("abcd", 4)
    assert [tracker.take(serial) for serial in (5, 5, 4, 7, 6)] == ["next", "old", "old", "gap", "next"]
    assert [tracker.skip(8, 9), tracker.skip(5, 6), tracker.skip(7, 9), tracker.serial] == ["gap", "old", "next", 9]


# -- outbox ------------------------------------------------------------------------------------------------------------


def test_publishes_are_sent_without_waiting_and_chained(bench: Bench) -> None:
    bench.connect()
    handles = [bench.publish(ONE, index) for index in range(3)]
    sent = [json.loads(text) for text in bench.link.to_server]
    assert [frame.get("chained", False) for frame in sent] == [False, True, True]
    bench.settle()
    assert [bench.answers[handle].serial for handle in handles] == [1, 2, 3]  # type: ignore[attr-defined]


def test_what_waits_says_why(bench: Bench) -> None:
    bench.publish(ONE, 1, "a")
    bench.publish(ONE, 2, "b")
    assert [(each.id, each.state, each.reason) for each in bench.core.unsent()] == [
        ("a", "waiting", "connection"),
        ("b", "waiting", "connection"),
    ]
    bench.server.refuse = lambda frame, link: {"code": "rate_limited", "retry_after_ms": 300}
    bench.connect()
    first, second = bench.core.unsent()
    assert (first.state, first.reason, first.retry_at_ms) == ("waiting", "rate_limited", bench.now_ms + 300)
    assert second.reason == "order"


def test_what_was_on_its_way_when_the_line_was_lost_waits_again(bench: Bench) -> None:
    bench.connect()
    bench.publish(ONE, 1, "a")
    assert [each.state for each in bench.core.unsent()] == ["pending"]
    bench.cut()
    (unsent,) = bench.core.unsent()
    assert (unsent.state, unsent.reason, unsent.attempts) == ("waiting", "connection", 1)


def test_a_refusal_for_good_fails_one_and_the_others_follow_in_order(bench: Bench) -> None:
    bench.server.refuse = lambda frame, link: (
        {"code": "too_large"} if frame["type"] == "publish" and frame["messages"][0]["id"] == "b" else None
    )
    bench.connect()
    handles = {id: bench.publish(ONE, id, id) for id in "abcd"}
    bench.settle()
    error = bench.answers[handles["b"]]
    assert isinstance(error, SeriatimError) and error.code == "too_large"
    assert [id for _, id in bench.server.log(ONE).ids] == ["a", "c", "d"]


def test_poison_is_given_up_after_five_tries(bench: Bench) -> None:
    bench.server.refuse = lambda frame, link: {"code": "internal"} if frame["type"] == "publish" else None
    bench.connect()
    handle = bench.publish(ONE, 1)
    bench.advance(60_000, moving=True)
    error = bench.answers[handle]
    assert isinstance(error, SeriatimError) and error.code == "internal"


def test_the_outbox_is_bounded() -> None:
    bench = Bench(random.random, CoreOptions(outbox=OutboxLimits(max_messages=2, max_bytes=100)))
    bench.publish(ONE, 1)
    bench.publish(ONE, 2)
    with pytest.raises(SeriatimError) as full:
        bench.publish(ONE, 3)
    assert full.value.code == "outbox_full"
    bench = Bench(random.random, CoreOptions(outbox=OutboxLimits(max_bytes=100)))
    with pytest.raises(SeriatimError):
        bench.publish(ONE, "x" * 100)


def test_what_never_was_sent_can_be_taken_back(bench: Bench) -> None:
    first = bench.publish(ONE, 1)
    assert bench.core.discard(first, bench.now_ms)
    bench.perform()
    assert isinstance(bench.answers[first], SeriatimError)
    bench.connect()
    second = bench.publish(ONE, 2)
    assert not bench.core.discard(second, bench.now_ms)
    bench.settle()
    assert bench.server.log(ONE).head == 1


def test_another_client_does_not_send_the_messages_of_the_first(bench: Bench) -> None:
    bench.connect()
    handle = bench.publish(ONE, 1)
    bench.cut()
    bench.server.client = "bo"
    bench.advance(1_000, moving=True)
    error = bench.answers[handle]
    assert isinstance(error, SeriatimError) and error.code == "identity"
    assert bench.server.log(ONE).head == 0


@pytest.mark.parametrize(
    "data",
    [
        float("nan"),
        float("inf"),
        "\ud800",
        {"a": "\udfff"},
        object(),
        {1, 2},
        [[]] * 3 + [json.loads("[" * 65 + "]" * 65)],
    ],
)
def test_data_that_json_cannot_hold_is_refused_at_the_call(bench: Bench, data: Any) -> None:
    with pytest.raises(SeriatimError) as refused:
        bench.publish(ONE, data)
    assert refused.value.code == "bad_frame"


def test_data_nested_64_deep_passes(bench: Bench) -> None:
    bench.connect()
    handle = bench.publish(ONE, json.loads("[" * 64 + "]" * 64))
    bench.settle()
    assert isinstance(bench.answers[handle], Published)


def test_a_message_that_no_frame_can_hold_is_refused_without_harm_to_the_line(bench: Bench) -> None:
    bench.server.max_frame_bytes = 2000
    bench.connect()
    handle = bench.publish(ONE, "x" * 2000)
    after = bench.publish(ONE, 1)
    bench.settle()
    error = bench.answers[handle]
    assert isinstance(error, SeriatimError) and error.code == "too_large"
    assert isinstance(bench.answers[after], Published)


# -- small parts -------------------------------------------------------------------------------------------------------


def test_ids_sort_by_when_they_were_made() -> None:
    maker = IdMaker(random.Random(5).random)
    ids = [maker.make(now_ms) for now_ms in (1_000, 1_000, 999, 1_001, 1_001)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5
    assert all(len(id) == 26 for id in ids)


def test_a_timer_that_was_moved_runs_once() -> None:
    clock = Clock(0)
    ran: list[float] = []
    timer = clock.timer(ran.append)
    timer.set(10)
    timer.set(30)
    timer.set_sooner(20)
    assert clock.next_at_ms == 20
    clock.tell(50)
    clock.run_due()
    assert ran == [30.0]
    assert not timer.is_set


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"type":5}',
        '{"type":"later"}',
        '{"type":"message","channel":"q"}',
        '{"type":"attached","channel":"q","serial":"1"}',
        '{"type":"published","channel":"q","epoch":"abcd","serials":[true]}',
        '{"type":"history","channel":"q","oldest":1,"head":1,"messages":[5]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_frame_is_ignored(text: str) -> None:
    assert parse_frame(text) is None
