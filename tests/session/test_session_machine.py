"""The session against a model that is too simple to be wrong: random frames, completions in any order, time.

Whatever happens: frames begin in the order sent and only beside what they may run beside; each request is answered
exactly once; a chained publish knows what became of the one before it; nothing comes after a close; the queue stays
within its bound; no move but those of the table is ever tried (it would be a KeyError).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from realtime.protocol import session
from realtime.protocol.session import Close, Send, State
from tests.session.driver import BAD, Driver, ack, attach, auth, detach, history, ping, presence, publish, signal

BACKLOG_MOST = 6
PUBLISHES_MOST = 4
CHANNELS = ["chat:a", "chat:b", "chat:"]

HITS: Counter[str] = Counter()
"""How often each situation was really met: a test of situations that never come proves nothing."""


class SessionMachine(RuleBasedStateMachine):
    driver: Driver

    @initialize(ready=st.booleans())
    def begin(self, ready: bool) -> None:
        self.driver = Driver(
            ready=ready, backlog_most=BACKLOG_MOST, publishes_most=PUBLISHES_MOST, idle_s=300.0, max_attachments=50
        )
        self.refs = 0
        self.sent: list[int] = []
        """Refs of requests in the order sent."""
        self.begun = 0
        """How many of them have begun."""
        self.kinds: dict[int, tuple[str, str, bool]] = {}
        self.answered: Counter[object] = Counter()
        self.last_publish: dict[str, int] = {}
        self.outcome: dict[int, str] = {}
        self.verifying = False
        self.ended = False

    # -- what comes in -----------------------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(["publish"] * 6 + ["attach"] * 3 + ["history", "presence", "detach", "ping", "broken"]),
        each=st.lists(
            st.tuples(st.sampled_from(CHANNELS[:1] * 4 + CHANNELS), st.sampled_from([True, True, False])),
            min_size=1,
            max_size=4,
        ),
    )
    def requests(self, kind: str, each: list[tuple[str, bool]]) -> None:
        for channel, chained in each:
            if not self.driver.session.full:
                self.request(kind, channel, chained)

    @rule(channels=st.permutations(CHANNELS[:2]))
    def attaches_side_by_side(self, channels: list[str]) -> None:
        for channel in channels:
            if not self.driver.session.full:
                self.request("attach", channel, False)

    def request(self, kind: str, channel: str, chained: bool) -> None:
        self.refs += 1
        ref = self.refs
        frame: dict[str, object]
        match kind:
            case "publish":
                frame = publish(ref, channel, chained=chained)
            case "broken":
                frame = {**publish(ref, channel), "messages": []}
            case "attach":
                frame = attach(ref, channel)
            case "history":
                frame = history(ref, channel)
            case "presence":
                frame = presence(ref, channel)
            case "detach":
                frame = detach(ref, channel)
            case _:
                frame = ping(ref)
        if not self.ended:
            self.sent.append(ref)
            self.kinds[ref] = (kind, channel, chained)
        HITS[kind] += 1
        self.watch(lambda: self.driver.send(frame))

    @precondition(lambda self: not self.driver.session.full)
    @rule(frame=st.sampled_from([ack(a=1), signal(None), BAD, {"type": "dance"}, auth(), auth()]))
    def other(self, frame: object) -> None:
        self.watch(lambda: self.driver.send(frame))

    @precondition(lambda self: self.driver.running)
    @rule(data=st.data(), good=st.booleans())
    def finish(self, data: st.DataObject, good: bool) -> None:
        op = data.draw(st.sampled_from(sorted(self.driver.running)))
        self.finish_op(op, good)

    def finish_op(self, op: int, good: bool) -> None:
        running = self.driver.session._running[op]
        ref = running.ref
        assert isinstance(ref, int)
        if running.kind == "publish":
            self.outcome[ref] = "ok" if good else "failed"
        HITS["succeeded" if good else "failed"] += 1
        attached = running.channel in self.driver.session.attachments
        self.watch(lambda: self.driver.complete(ref) if good else self.driver.fail(ref, attached=attached))

    @precondition(lambda self: self.verifying)
    @rule(outcome=st.sampled_from(["good"] * 6 + ["short", "bad", "other client"]))
    def verified(self, outcome: str) -> None:
        self.verifying = False
        HITS[f"token {outcome}"] += 1
        client = "bo" if outcome == "other client" else "ana"
        if outcome == "bad":
            self.watch(self.driver.refuse)
        else:
            expires_in_s = 30.0 if outcome == "short" else None
            self.watch(lambda: self.driver.identify(client, expires_in_s))

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.0, 29.0]))
    def wait(self, seconds: float) -> None:
        self.watch(lambda: self.driver.wait(seconds))

    @rule(luck=st.integers(0, 30))
    def close(self, luck: int) -> None:
        if luck == 17:
            self.driver.session.closed()
            self.ended = True

    # -- what must hold ----------------------------------------------------------------------------------------------

    def watch(self, act: Any) -> None:
        silent = self.ended
        running_before = {op: self.driver.session._running[op] for op in self.driver.running}
        act()
        effects = self.driver.take()
        assert not (silent and effects), effects
        beside = {op: each for op, each in running_before.items() if op in self.driver.session._running}
        for effect in effects:
            assert not self.ended, "an effect after the close"
            match effect:
                case session.Publish(op=op) | session.Attach(op=op) | session.History(op=op) | session.Presence(op=op):
                    each = self.driver.session._running[op]
                    self.check_begin(each.ref, effect, beside)
                    beside[op] = each
                case session.Verify():
                    assert not self.driver.running
                    self.verifying = True
                case Send(frame):
                    self.check_answer(frame, beside)
                case Close():
                    self.ended = True
        waiting = self.driver.session._waiting
        assert len(waiting) <= BACKLOG_MOST
        assert self.driver.session.full == (len(waiting) == BACKLOG_MOST)
        if waiting:
            HITS["waited"] += 1
            assert self.verifying or self.driver.running, "frames wait for nothing"
        self.ended = self.ended or self.driver.session.state is State.CLOSED

    def check_begin(self, ref: object, effect: Any, beside: dict[int, Any]) -> None:
        self.check_turn(ref)
        kind, channel, chained = self.kinds[self.sent[self.begun - 1]]
        kinds = {each.kind for each in beside.values()}
        match kind:
            case "publish":
                assert kinds <= {"publish"} and len(beside) < PUBLISHES_MOST
                last = self.last_publish.get(channel)
                state = None if last is None else self.outcome[last]
                assert not (chained and state == "failed")
                if chained and state == "running":
                    HITS["chained behind one that runs"] += 1
                    assert beside[effect.after].ref == last
                else:
                    assert effect.after is None
                assert isinstance(ref, int)
                self.last_publish[channel], self.outcome[ref] = ref, "running"
            case "attach":
                assert kinds <= {"attach"} and all(each.channel != channel for each in beside.values())
                HITS["attaches side by side"] += bool(beside)
            case _:
                assert not beside

    def check_turn(self, ref: object) -> None:
        """It is the turn of this request: everything sent before has begun."""
        assert self.sent[self.begun] == ref, (self.sent, self.begun, ref)
        self.begun += 1

    def check_answer(self, frame: dict[str, Any], beside: dict[int, Any]) -> None:
        ref = frame.get("ref")
        if not isinstance(ref, int) or frame["type"] in ("ready", "authenticated"):
            return
        self.answered[ref] += 1
        assert self.answered[ref] == 1, "answered twice"
        if ref in self.sent[: self.begun]:
            return
        # Answered without having run: in its turn all the same, and beside nothing but what it may run beside.
        self.check_turn(ref)
        kind, channel, chained = self.kinds[ref]
        assert {each.kind for each in beside.values()} <= {"attach" if kind == "attach" else "publish"}
        if frame["type"] == "error" and kind in ("publish", "broken") and channel != "chat:":
            if frame["code"] == "order":
                assert chained and self.outcome[self.last_publish[channel]] == "failed"
                HITS["order"] += 1
            self.last_publish[channel], self.outcome[ref] = ref, "failed"

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        for _ in range(1000):
            if self.verifying:
                self.verifying = False
                self.watch(self.driver.identify)
            elif self.driver.running:
                self.finish_op(min(self.driver.running), True)
            else:
                break
        HITS["closed" if self.ended else "open"] += 1
        assert not self.driver.session._waiting
        if not self.ended:
            assert [ref for ref in self.sent if self.answered[ref] != 1] == []


MINIMA = {
    "waited": 5,
    "order": 5,
    "chained behind one that runs": 5,
    "attaches side by side": 5,
    "failed": 5,
    "open": 5,
    "closed": 5,
}


def test_answers_come_in_a_permissible_order_each_once() -> None:
    HITS.clear()
    for _ in range(4):
        run_state_machine_as_test(
            SessionMachine, settings=settings(max_examples=300, stateful_step_count=50, database=None, deadline=None)
        )
        # What is rare may be missing from one run by chance, not from four.
        if all(HITS[situation] >= least for situation, least in MINIMA.items()):
            return
    assert not [(situation, HITS[situation]) for situation, least in MINIMA.items() if HITS[situation] < least]
