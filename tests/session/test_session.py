"""The session, one rule at a time; tests/session/test_session_machine.py mixes them."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.protocol import session
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName
from realtime.protocol.session import (
    BAD_FRAMES_MOST,
    BAD_FRAMES_S,
    CHAINS_MOST,
    EXPIRY_WARNING_S,
    TRANSITIONS,
    UNAUTHORIZED_MOST,
    State,
)
from tests.session.driver import (
    BAD,
    UNKNOWN,
    Driver,
    ack,
    attach,
    auth,
    detach,
    history,
    ping,
    presence,
    publish,
    signal,
)

# ---------------------------------------------------------------------- transitions


def _opening(driver: Driver, event: str) -> None:
    match event:
        case "identified":
            driver.send(auth())
            driver.identify()
        case "refused":
            driver.send(auth())
            driver.refuse()
        case "auth timeout":
            driver.wait(10)
        case "too many frames before auth":
            driver.send(*[ping(i) for i in range(UNAUTHORIZED_MOST + 1)])
        case _:
            _any(driver, event)


def _ready(driver: Driver, event: str) -> None:
    match event:
        case "identified":
            driver.send(auth())
            driver.identify()
        case "refused":
            driver.send(auth())
            driver.refuse()
        case "expired":
            driver.send(auth())
            driver.identify(expires_in_s=5)
            driver.wait(5 + 10)
        case "idle":
            driver.wait(30)
        case _:
            _any(driver, event)


def _any(driver: Driver, event: str) -> None:
    match event:
        case "too many bad frames":
            driver.send(*[BAD] * (BAD_FRAMES_MOST + 1))
        case "closed":
            driver.session.closed()
        case _:
            raise AssertionError(f"no way to cause {event!r}")


@pytest.mark.parametrize(("move", "after"), TRANSITIONS.items(), ids=str)
def test_every_move_of_the_table_can_be_made(move: tuple[State, str], after: State) -> None:
    before, event = move
    driver = Driver(ready=before is State.READY, idle_s=30.0)
    assert driver.session.state is before
    (_ready if before is State.READY else _opening)(driver, event)
    assert driver.session.state is after


def test_a_move_that_is_not_in_the_table_is_a_fault_of_the_module() -> None:
    driver = Driver()
    with pytest.raises(KeyError):
        driver.session._move("auth timeout")


def test_nothing_leads_out_of_closed() -> None:
    assert all(state is not State.CLOSED for state, _ in TRANSITIONS)
    assert {state for state, _ in TRANSITIONS} | {State.CLOSED} == set(State)


# ---------------------------------------------------------------------- opening


def test_ready_tells_the_limits_of_the_server() -> None:
    driver = Driver(ready=False, heartbeat_ms=7, max_frame_bytes=8, max_message_bytes=9, max_attachments=10, worker="w")
    driver.send(auth(ref=0))
    assert driver.only(session.Verify) == session.Verify("t", 0)
    driver.identify(expires_in_s=3600, ref=0)
    assert driver.sent() == [
        {
            "type": "ready",
            "protocol": 1,
            "connection": "c_1",
            "client": "ana",
            "time": 1_763_812_345_678,
            "expires_ms": 3_600_000,
            "heartbeat_ms": 7,
            "max_frame_bytes": 8,
            "max_message_bytes": 9,
            "max_attachments": 10,
            "worker": "w",
            "ref": 0,
        }
    ]


def test_credentials_without_an_end_have_expires_ms_null() -> None:
    driver = Driver(ready=False)
    driver.did(driver.session.open("token"))
    driver.take()
    driver.identify()
    driver.assert_sent({"type": "ready", "expires_ms": None})
    assert driver.session.deadline is None


def test_frames_behind_auth_are_served_in_order_after_ready() -> None:
    driver = Driver(ready=False)
    driver.send(auth(), attach(1), ping(2))
    assert [type(effect) for effect in driver.take()] == [session.Verify]
    driver.identify()
    driver.assert_sent({"type": "ready"})
    driver.complete(1)
    driver.assert_sent({"type": "attached", "ref": 1}, {"type": "pong", "ref": 2})


def test_a_bad_token_is_an_error_and_a_close_and_what_waited_is_forgotten() -> None:
    driver = Driver(ready=False)
    driver.send(auth(ref="a"), ping(1))
    driver.refuse("a")
    driver.take()
    driver.assert_silent()
    driver = Driver(ready=False)
    driver.did(driver.session.open("bad"))
    driver.take()
    driver.send(ping(1))
    driver.refuse()
    driver.assert_closed(4401, {"type": "error", "code": "unauthorized", "ref": None})


def test_frames_before_auth_are_unauthorized_and_the_eleventh_closes() -> None:
    driver = Driver(ready=False)
    for ref in range(UNAUTHORIZED_MOST):
        driver.send(ping(ref))
        driver.assert_error("unauthorized", ref)
    driver.send(attach("last"))
    driver.assert_closed(4401, {"code": "unauthorized", "ref": "last"})


def test_frames_before_auth_may_be_of_any_kind_and_touch_nothing() -> None:
    driver = Driver(ready=False)
    frames = [attach(1), detach(2), publish(3), history(4), presence(5), signal(6), ping(7), {**ack(a=1), "ref": 8}]
    for frame in frames:
        driver.send({**frame, "acks": {"chat:a": 1}})
        driver.assert_error("unauthorized", frame["ref"])
    assert not driver.running and not driver.session.attachments


def test_bad_frames_before_auth_are_bad_frames_and_counted_apart() -> None:
    driver = Driver(ready=False)
    driver.send(*[ping(ref) for ref in range(UNAUTHORIZED_MOST)])
    driver.take()
    driver.send(BAD)
    driver.assert_error("bad_frame")
    driver.send(UNKNOWN)
    driver.assert_error("unknown_type", "u")
    driver.send(auth())
    driver.identify()
    driver.assert_sent({"type": "ready"})


def test_who_sends_no_auth_in_time_is_closed() -> None:
    driver = Driver(ready=False, auth_timeout_s=10.0)
    assert driver.session.deadline == driver.now + 10
    driver.wait(9.99)
    driver.assert_silent()
    driver.wait(0.01)
    driver.assert_closed(4408)


def test_while_a_token_is_verified_no_time_runs() -> None:
    driver = Driver(ready=False, auth_timeout_s=10.0)
    driver.send(auth())
    driver.take()
    assert driver.session.deadline is None
    driver.wait(100)
    driver.assert_silent()
    driver.identify()
    driver.assert_sent({"type": "ready"})


def test_while_a_cookie_is_looked_up_frames_wait_and_are_served_after_ready() -> None:
    driver = Driver(ready=False)
    driver.session.look_up()
    driver.send(ping(1), publish(2))
    driver.assert_silent()
    driver.identify()
    driver.assert_sent({"type": "ready"}, {"type": "pong", "ref": 1})
    driver.assert_begun(2)


def test_a_cookie_that_proves_nobody_leaves_the_session_waiting_for_auth() -> None:
    driver = Driver(ready=False, auth_timeout_s=10.0)
    driver.session.look_up()
    driver.send(ping(1), auth(ref=2))
    driver.did(driver.session.unidentified(driver.now, 0))
    driver.assert_error("unauthorized", 1)
    driver.identify(ref=2)
    driver.assert_sent({"type": "ready", "ref": 2})
    late = Driver(ready=False, auth_timeout_s=10.0)
    late.session.look_up()
    late.wait(11)
    late.assert_silent()
    late.did(late.session.unidentified(late.now, 0))
    late.wait(0)
    late.assert_closed(4408)


# ---------------------------------------------------------------------- renewal and expiry


def test_a_renewal_is_answered_and_the_capability_looked_at_again() -> None:
    driver = Driver(expires_in_s=100)
    driver.send(auth(ref=5))
    assert driver.take() == [session.Verify("t", 5)]
    driver.identify(expires_in_s=200, ref=5)
    effects = driver.take()
    assert effects[0] == session.Send({"type": "authenticated", "expires_ms": 200_000, "ref": 5})
    assert effects[1] == session.Recheck()
    assert driver.session.deadline == driver.now + 200 - EXPIRY_WARNING_S


def test_a_token_of_another_client_closes() -> None:
    driver = Driver()
    driver.send(auth(ref=1))
    driver.take()
    driver.identify(client="bo", ref=1)
    driver.assert_closed(4401, {"code": "unauthorized", "ref": 1})
    assert driver.session.client == "ana"


def test_frames_behind_a_renewal_wait_for_it() -> None:
    driver = Driver()
    driver.send(auth(), publish(1), ping(2))
    assert [type(effect) for effect in driver.take()] == [session.Verify]
    driver.identify()
    assert [type(effect) for effect in driver.take()[1:]] == [session.Recheck, session.Publish, session.Send]


def test_acks_that_ride_on_a_renewal_count() -> None:
    driver = Driver()
    driver.send({**auth(), "acks": {"chat:a": 3}})
    assert driver.take() == [session.Ack({"chat:a": 3}), session.Verify("t", None)]


def test_expiry_is_announced_a_minute_before_and_once() -> None:
    driver = Driver(expires_in_s=100)
    assert driver.session.deadline == driver.now + 40
    driver.wait(39)
    driver.assert_silent()
    driver.wait(1)
    driver.assert_sent({"type": "auth.expiring", "in_ms": 60_000})
    driver.wait(1)
    driver.assert_silent()


@pytest.mark.parametrize(("left_s", "in_ms"), [(60, 60_000), (59.5, 59_500), (0, 0), (-3, 0)])
def test_expiry_follows_ready_at_once_when_less_than_a_minute_is_left(left_s: float, in_ms: int) -> None:
    driver = Driver(ready=False)
    driver.send(auth())
    driver.identify(expires_in_s=left_s)
    driver.assert_sent({"type": "ready", "expires_ms": in_ms}, {"type": "auth.expiring", "in_ms": in_ms})


def test_a_token_ends_with_its_leeway() -> None:
    driver = Driver(expires_in_s=10, leeway_s=10.0)
    driver.wait(19.9)
    driver.take()
    assert driver.session.deadline == pytest.approx(driver.now + 0.1)
    driver.wait(0.2)
    driver.assert_closed(4401, {"code": "unauthorized"})
    assert driver.session.deadline is None


def test_a_renewal_in_the_leeway_saves_the_connection_and_is_announced_anew() -> None:
    driver = Driver(expires_in_s=10, leeway_s=10.0)
    driver.wait(15)
    driver.send(auth())
    driver.take()
    driver.identify(expires_in_s=100)
    driver.assert_sent({"type": "authenticated"})
    driver.wait(39)
    driver.assert_silent()
    driver.wait(1)
    driver.assert_sent({"type": "auth.expiring"})


def test_a_renewal_without_an_end_stops_the_clock() -> None:
    driver = Driver(expires_in_s=10)
    driver.send(auth())
    driver.identify(expires_in_s=None)
    assert driver.session.deadline is None
    driver.take()
    driver.wait(10_000)
    driver.assert_silent()


def test_who_is_silent_too_long_is_closed_and_any_frame_is_a_sign_of_life() -> None:
    driver = Driver(idle_s=30.0)
    driver.wait(29)
    driver.send(BAD)
    driver.take()
    driver.wait(29)
    driver.assert_silent()
    assert driver.session.deadline == driver.now + 1
    driver.wait(1)
    driver.assert_closed(4408)


# ---------------------------------------------------------------------- requests and their answers


def test_a_ping_is_answered_with_the_time() -> None:
    driver = Driver()
    driver.send(ping(6))
    assert driver.sent() == [{"type": "pong", "time": 1_763_812_345_678, "ref": 6}]


@pytest.mark.parametrize("make", [publish, attach, history, presence])
def test_each_request_is_answered_once_with_its_ref(make: Any) -> None:
    for ref in ("r", 0, 7, ""):
        driver = Driver()
        driver.send(make(ref))
        driver.assert_begun(ref)
        driver.take()
        driver.complete(ref)
        (answer,) = driver.sent()
        assert answer["ref"] == ref
        driver.send(make(ref))
        driver.take()
        driver.fail(ref, "unavailable")
        driver.assert_sent({"type": "error", "code": "unavailable", "ref": ref, "channel": "chat:a"})


@pytest.mark.parametrize("make", [publish, attach, history, presence])
def test_a_request_without_a_ref_has_an_answer_without_one(make: Any) -> None:
    driver = Driver()
    driver.send(make(None))
    driver.take()
    driver.complete(None)
    (answer,) = driver.sent()
    assert "ref" not in answer


def test_a_ref_that_is_used_twice_is_answered_twice() -> None:
    driver = Driver()
    driver.send(publish(1), publish(1), ping(1))
    driver.assert_sent({"type": "pong", "ref": 1})
    driver.complete(1)
    driver.complete(1)
    driver.assert_sent({"type": "published", "ref": 1}, {"type": "published", "ref": 1})


def test_the_name_is_looked_at_before_anything_is_asked() -> None:
    for make in (publish, attach, history, presence, signal, detach):
        driver = Driver()
        driver.send(make(1, "chat:"))
        driver.assert_error("bad_channel", 1)
        assert not driver.running
    driver = Driver()
    driver.send(publish(1, "chat:", messages=[]))
    driver.assert_error("bad_frame", 1)


def test_a_position_is_not_looked_at_before_the_capability() -> None:
    driver = Driver()
    driver.send({**attach(1), "from": {"nonsense": True}})
    assert driver.only(session.Attach).frame.from_ == {"nonsense": True}


def test_detach_is_answered_where_there_is_an_attachment() -> None:
    driver = Driver()
    driver.send(detach(1))
    driver.assert_error("not_attached", 1)
    driver.attach("chat:a")
    driver.send(detach(2), detach(3))
    assert driver.take()[:2] == [
        session.Detach(ChannelName("chat:a")),
        session.Send({"type": "detached", "channel": "chat:a", "ref": 2}),
    ]


def test_detach_behind_an_attach_waits_for_it() -> None:
    driver = Driver()
    driver.send(attach(1), detach(2))
    driver.assert_sent()
    driver.complete(1)
    driver.assert_sent({"type": "attached"}, {"type": "detached", "ref": 2})


def test_acks_of_a_frame_come_before_what_it_asks() -> None:
    driver = Driver()
    driver.send({**publish(1), "acks": {"chat:a": 4}}, {**ack(b=2), "acks": {"chat:a": 5}})
    assert [type(effect) for effect in driver.effects] == [session.Ack, session.Publish, session.Ack, session.Ack]
    assert driver.effects[2:] == [session.Ack({"chat:a": 5}), session.Ack({"b": 2})]


def test_acks_of_a_frame_that_is_refused_count_all_the_same() -> None:
    driver = Driver()
    driver.send({**detach(1), "acks": {"chat:b": 4}})
    assert driver.effects[0] == session.Ack({"chat:b": 4})


# ---------------------------------------------------------------------- attachments


def test_attachments_are_bounded_and_attaching_again_is_none_more() -> None:
    driver = Driver(max_attachments=2)
    driver.attach("chat:a")
    driver.attach("chat:b")
    with pytest.raises(ProtocolError) as caught:
        driver.session.admit(ChannelName("chat:c"))
    assert (caught.value.code, caught.value.channel) == ("limit_exceeded", "chat:c")
    driver.attach("chat:a")
    driver.send(detach(1, "chat:b"))
    driver.attach("chat:c")
    assert driver.session.attachments == {"chat:a", "chat:c"}


def test_attaches_under_way_count() -> None:
    driver = Driver(max_attachments=1)
    driver.send(attach(1, "chat:a"), attach(2, "chat:b"))
    driver.session.admit(ChannelName("chat:a"))
    with pytest.raises(ProtocolError):
        driver.session.admit(ChannelName("chat:b"))


def test_a_refused_attach_leaves_the_old_attachment_and_no_new_one() -> None:
    driver = Driver()
    driver.send(attach(1))
    driver.session.admit(ChannelName("chat:a"))
    driver.fail(1, "not_found")
    assert not driver.session.attachments
    driver.attach("chat:a")
    driver.send(attach(2))
    driver.fail(2, "bad_position", attached=True)
    assert driver.session.attachments == {"chat:a"}


def test_an_attachment_that_the_shell_ended_is_told_and_gone() -> None:
    driver = Driver()
    driver.attach("chat:a")
    frame: dict[str, object] = {"type": "detached", "channel": "chat:a", "reason": "forbidden"}
    driver.did(driver.session.ended(ChannelName("chat:a"), frame))
    assert driver.sent() == [frame]
    driver.send(detach(1))
    driver.assert_error("not_attached", 1)


def test_an_attach_that_succeeds_stands_though_the_old_one_was_ended_meanwhile() -> None:
    driver = Driver()
    driver.attach("chat:a")
    driver.send(attach(1))
    driver.session.admit(ChannelName("chat:a"))
    driver.did(driver.session.ended(ChannelName("chat:a"), {"type": "detached"}))
    driver.did(driver.session.attached(driver.op_of(1), {"type": "attached"}, driver.now, 0))
    driver.take()
    driver.send(detach(2))
    driver.assert_sent({"type": "detached", "ref": 2})


# ---------------------------------------------------------------------- what may run beside what

MAKERS: dict[str, Any] = {
    "publish": publish,
    "attach": attach,
    "other attach": lambda ref: attach(ref, "chat:b"),
    "auth": auth,
    "history": history,
    "presence": presence,
    "detach": detach,
    "ack": lambda ref: {**ack(a=1), "ref": ref},
    "signal": signal,
    "ping": ping,
    "bad": lambda ref: {"type": "publish", "ref": ref},
    "unknown": lambda ref: {"type": "dance", "ref": ref},
}
MAY_BEGIN_BESIDE = {
    "publish": {"publish", "detach", "ack", "signal", "ping", "bad", "unknown"},
    "attach": {"other attach"},
    "history": set(),
    "presence": set(),
    "auth": set(),
}


@pytest.mark.parametrize("running", MAY_BEGIN_BESIDE)
@pytest.mark.parametrize("frame", MAKERS)
def test_what_may_begin_beside_what(running: str, frame: str) -> None:
    driver = Driver()
    driver.send(MAKERS[running]("running"))
    driver.take()
    driver.send(MAKERS[frame]("next"))
    assert bool(driver.take()) == (frame in MAY_BEGIN_BESIDE[running])


@pytest.mark.parametrize("running", ["publish", "attach", "history", "presence"])
@pytest.mark.parametrize("frame", MAKERS)
def test_what_had_to_wait_begins_when_it_may(running: str, frame: str) -> None:
    driver = Driver()
    driver.send(MAKERS[running]("running"), MAKERS[frame]("next"))
    driver.complete("running")
    assert not driver.session._waiting
    assert any(getattr(effect, "frame", {}) for effect in driver.take())


def test_nothing_overtakes_what_waits() -> None:
    driver = Driver()
    driver.send(publish(1), history(2), publish(3), ping(4))
    driver.assert_begun(1)
    driver.complete(1)
    driver.assert_begun(2)
    driver.assert_sent({"ref": 1})
    driver.complete(2)
    driver.assert_begun(3)
    driver.assert_sent({"ref": 2}, {"type": "pong", "ref": 4})


def test_attaches_to_different_channels_may_complete_in_any_order() -> None:
    driver = Driver()
    driver.send(attach(1, "chat:a"), attach(2, "chat:b"), attach(3, "chat:a"))
    driver.assert_begun(1, 2)
    driver.complete(2)
    driver.assert_begun(1)
    driver.complete(1)
    driver.assert_begun(3)
    driver.assert_sent({"ref": 2}, {"ref": 1})


def test_publishes_under_way_are_bounded() -> None:
    driver = Driver(publishes_most=3)
    driver.send(*[publish(ref) for ref in range(5)])
    driver.assert_begun(0, 1, 2)
    driver.complete(0)
    driver.assert_begun(1, 2, 3)


def test_a_full_backlog_says_so_until_it_is_served() -> None:
    driver = Driver(backlog_most=3)
    driver.send(history(0), ping(1), ping(2))
    assert not driver.full()
    driver.send(ping(3))
    assert driver.full()
    driver.take()
    driver.complete(0)
    assert not driver.full()
    driver.assert_sent({"ref": 0}, {"ref": 1}, {"ref": 2}, {"ref": 3})


def test_nothing_is_begun_while_the_client_takes_nothing() -> None:
    driver = Driver(backlog_most=3)
    driver.send(history(0))
    driver.session.hold()
    driver.complete(0)
    driver.send(ping(1), publish(2), history(3))
    driver.assert_sent({"ref": 0})
    driver.assert_begun()
    assert driver.full()
    driver.did(driver.session.release(driver.now, 0))
    driver.assert_sent({"ref": 1})
    driver.assert_begun(2)
    driver.complete(2)
    driver.assert_begun(3)


def test_a_long_backlog_is_served_without_recursion() -> None:
    driver = Driver()
    driver.send(history(0), *[ping(ref) for ref in range(5000)])
    driver.complete(0)
    assert len(driver.sent()) == 5001


# ---------------------------------------------------------------------- chained publishes


def test_a_chained_publish_names_the_one_it_stands_behind() -> None:
    driver = Driver()
    driver.send(publish(1), publish(2, chained=True), publish(3, "chat:b", chained=True))
    first, second, other = driver.running.values()
    assert (first.after, second.after, other.after) == (None, first.op, None)


def test_a_chained_publish_behind_one_that_succeeded_is_free() -> None:
    driver = Driver()
    driver.send(publish(1))
    driver.complete(1)
    driver.send(publish(2, chained=True))
    assert driver.running[driver.op_of(2)].after is None


@pytest.mark.parametrize("code", ["forbidden", "not_found", "too_large", "rate_limited", "unavailable", "order"])
def test_a_chained_publish_behind_one_that_failed_fails_with_order(code: str) -> None:
    driver = Driver()
    driver.send(publish(1))
    driver.fail(1, code)
    driver.take()
    driver.send(publish(2, chained=True))
    driver.assert_error("order", 2)
    driver.send(publish(3, chained=True))
    driver.assert_error("order", 3)
    driver.send(publish(4, "chat:b", chained=True))
    driver.assert_begun(4)


def test_a_chained_publish_behind_a_bad_frame_fails_with_order() -> None:
    driver = Driver()
    driver.send({"type": "publish", "ref": 1, "channel": "chat:a", "messages": []}, publish(2, chained=True))
    driver.assert_sent({"code": "bad_frame", "ref": 1}, {"code": "order", "ref": 2})


def test_a_chained_publish_behind_one_before_auth_fails_with_order() -> None:
    driver = Driver(ready=False)
    driver.send(publish(1), auth(), publish(2, chained=True))
    driver.take()
    driver.identify()
    driver.assert_sent({"type": "ready"}, {"code": "order", "ref": 2})


def test_a_bad_frame_of_another_type_breaks_no_chain() -> None:
    driver = Driver()
    driver.send({"type": "history", "ref": 1, "channel": "chat:a", "limit": 0}, publish(2, chained=True))
    driver.assert_begun(2)


def test_a_publish_that_is_not_chained_begins_the_chain_anew() -> None:
    driver = Driver()
    driver.send(publish(1))
    driver.fail(1)
    driver.send(publish(2), publish(3, chained=True))
    assert driver.running[driver.op_of(3)].after == driver.op_of(2)


def test_the_failure_of_an_older_publish_does_not_break_a_newer_chain() -> None:
    driver = Driver()
    driver.send(publish(1), publish(2))
    driver.fail(1)
    driver.take()
    driver.send(publish(3, chained=True))
    assert driver.running[driver.op_of(3)].after == driver.op_of(2)
    driver.complete(2)
    driver.fail(3)
    driver.take()
    driver.send(publish(4, chained=True))
    driver.assert_error("order", 4)


def test_a_chain_that_waited_knows_what_failed_meanwhile() -> None:
    driver = Driver(publishes_most=1)
    driver.send(publish(1), publish(2, chained=True), publish(3, chained=True), publish(4))
    driver.fail(1)
    driver.assert_sent({"ref": 1}, {"code": "order", "ref": 2}, {"code": "order", "ref": 3})
    driver.assert_begun(4)


def test_failures_are_remembered_for_a_bounded_number_of_channels() -> None:
    driver = Driver()
    for number in range(CHAINS_MOST + 50):
        driver.send(publish(number, f"chat:{number}"))
        driver.fail(number)
    assert len(driver.session._chains) == CHAINS_MOST
    driver.take()
    driver.send(publish("young", f"chat:{CHAINS_MOST + 49}", chained=True))
    driver.assert_error("order", "young")
    driver.send(publish("old", "chat:0", chained=True))
    driver.assert_begun("old")


def test_a_publish_that_runs_is_never_forgotten_for_a_failure() -> None:
    driver = Driver(publishes_most=10)
    driver.send(publish("running", "chat:running"))
    for number in range(CHAINS_MOST + 50):
        driver.send(publish(number, f"chat:{number}"))
        driver.fail(number)
    driver.send(publish("next", "chat:running", chained=True))
    assert driver.running[driver.op_of("next")].after == driver.op_of("running")


def test_names_that_are_no_channels_are_not_remembered() -> None:
    driver = Driver()
    for number in range(9):
        driver.send(publish(number, "x" * 1000 + str(number)))
        driver.send({"type": "publish", "channel": "y" * 1000 + str(number)})
    assert not driver.session._chains


# ---------------------------------------------------------------------- bad frames


def test_ten_bad_frames_in_a_minute_are_answered_and_the_eleventh_closes() -> None:
    driver = Driver()
    for _ in range(BAD_FRAMES_MOST // 2):
        driver.send(BAD)
        driver.assert_error("bad_frame")
        driver.send(UNKNOWN)
        driver.assert_error("unknown_type", "u")
        driver.now += 5
    driver.send({"type": "ping", "ref": "mine", "acks": 3})
    driver.assert_closed(4400, {"code": "bad_frame", "ref": "mine"})


def test_bad_frames_are_forgotten_after_a_minute() -> None:
    driver = Driver()
    for _ in range(100):
        driver.send(BAD)
        driver.assert_error("bad_frame")
        driver.now += BAD_FRAMES_S / 10 + 0.001


def test_a_bad_frame_is_answered_in_its_turn() -> None:
    driver = Driver()
    driver.send(history(1), BAD, ping(2))
    driver.assert_sent()
    driver.complete(1)
    driver.assert_sent({"ref": 1}, {"code": "bad_frame"}, {"ref": 2})


# ---------------------------------------------------------------------- after the end


def test_everything_after_the_end_is_silent() -> None:
    driver = Driver(expires_in_s=100)
    driver.attach("chat:a")
    driver.send(publish(1), publish(2))
    kept = Driver()
    kept.send(attach(3), attach(4, "chat:b"))
    alone = Driver()
    alone.send(history(5), ping(6))
    for each in (driver, kept, alone):
        each.take()
        each.session.closed()
    driver.complete(1)
    driver.fail(2)
    driver.did(driver.session.ended(ChannelName("chat:a"), {"type": "detached"}))
    kept.complete(3)
    kept.fail(4)
    alone.complete(5)
    for each in (driver, kept, alone):
        each.send(ping(7), auth(), BAD)
        each.identify()
        each.refuse()
        each.did(each.session.unidentified(each.now, 0))
        each.wait(10_000)
        each.session.closed()
        each.assert_silent()
        assert each.session.deadline is None and not each.session.full
        assert each.session.state is State.CLOSED


def test_the_eleventh_bad_frame_is_the_last_word_even_with_frames_behind_it() -> None:
    driver = Driver()
    driver.send(history(1), *[BAD] * 20, ping(2))
    driver.complete(1)
    bad: dict[str, object] = {"code": "bad_frame"}
    driver.assert_closed(4400, {"ref": 1}, *[bad] * 11)


def test_large_frames_fill_the_backlog_by_their_size() -> None:
    driver = Driver(backlog_bytes=1000)
    driver.send(history(1))
    for ref in (2, 3):
        assert not driver.session.full
        driver.send(publish(ref, messages=[{"data": "x" * 600}]))
    assert driver.session.full
    driver.complete(1)
    assert not driver.session.full


def test_what_is_on_its_way_into_the_log_is_bounded_by_its_size() -> None:
    driver = Driver(backlog_bytes=1000)
    for ref in (1, 2, 3):
        driver.send(publish(ref, messages=[{"data": "x" * 600}]))
    driver.assert_begun(1, 2)
    driver.complete(1)
    driver.assert_begun(2, 3)
