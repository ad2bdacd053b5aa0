"""The promises, under everything that can happen to a line.

Cuts between any two frames, closes of every kind, refusals, frames that come twice or not at all, pauses, slow
consumers, loops that are left in the middle. Each run is made by a seeded generator; a failure names its seed.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from seriatim_client import Cursor, Position, Published, Rewind
from seriatim_client.messages import Discontinuity, Message
from tests.clients_python.fake_server import Bench, Frame, Link

CHANNELS = ["chat:one", "chat:two"]
RUNS = 12
STEPS = 300


class Witness:
    """What a consumer may see: each serial once, in order, and every hole told before the message behind it.

    A message counts as seen when it is settled as processed.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench = bench
        self.name = name
        self.last: int | None = None
        self.out: Message | None = None
        self.faults: list[str] = []
        self.processed = 0
        self.discontinuities = 0

    def pull(self) -> bool:
        if self.out is not None:
            return False
        step = self.bench.pull(self.name)
        if self.last is None:
            # A discontinuity has moved the position already; a message moves it when it is settled.
            position = step.before if isinstance(step, Discontinuity) else self.bench.core.position(self.name)
            self.last = None if position is None else position.serial
        if isinstance(step, Discontinuity):
            assert self.last is not None or step.first is None
            self.discontinuities += 1
            if step.first is not None and step.first != (self.last or 0) + 1:
                self.faults.append(f"skipped from {step.first} after {self.last} ({step.reason})")
            self.last = step.last if step.last is not None else step.position.serial
        elif isinstance(step, Message):
            if self.last is None or step.serial != self.last + 1:
                self.faults.append(f"message {step.serial} after {self.last}")
            row = self.bench.server.log(self.name).rows.get(step.serial)
            if row is not None and (row["id"], row["data"]) != (step.id, step.data):
                self.faults.append(f"message {step.serial} is another one")
            self.out = step
        return step is not None

    def settle(self, yes: bool) -> None:
        if self.out is not None:
            if yes:
                self.last = self.out.serial
                self.processed += 1
            self.out = None
            self.bench.processed(self.name, yes)

    def finish(self) -> None:
        self.settle(True)
        while self.pull():
            self.settle(True)


class Run:
    def __init__(self, seed: int, from_: Any, faults: set[str]) -> None:
        self.random = random.Random(seed)
        self.bench = Bench(random.Random(seed + 1).random)
        self.faults = faults
        self.refusing = True
        self.damaged = 0
        """Differences that are not what the server made."""
        self.published: dict[str, list[str]] = {name: [] for name in CHANNELS}
        self.outcomes: dict[object, tuple[str, str]] = {}
        server = self.bench.server
        server.window = self.random.randint(1, 12)
        server.ack_every = self.random.randint(1, 12)
        server.refuse = self.refuse
        self.witnesses: dict[str, Witness] = {}
        for name in CHANNELS:
            if self.random.random() < 0.5:
                for index in range(5):
                    server.publish(name, f"before {index}", f"b{index}")
            self.bench.core.channel(name, from_, delta=self.random.random() < 0.5)
            self.bench.core.want(name, self.bench.now_ms)
            self.witnesses[name] = Witness(self.bench, name)
        self.bench.core.connect(self.bench.now_ms)
        self.bench.perform()

    def refuse(self, frame: Frame, link: Link) -> Frame | None:
        """Some requests are refused; an `unavailable` may have stored the message before it was said."""
        if not self.refusing or frame["type"] not in ("publish", "attach") or self.random.random() > 0.1:
            return None
        code = self.random.choice(["rate_limited", "unavailable", "internal"])
        if (
            code == "unavailable"
            and frame["type"] == "publish"
            and self.random.random() < 0.5
            and not (frame.get("chained") and link.failed.get(frame["channel"]))
        ):
            for message in frame["messages"]:
                self.bench.server.publish(frame["channel"], message["data"], message["id"], client="ana")
        return {"code": code} if code == "internal" else {"code": code, "retry_after_ms": self.random.randint(0, 300)}

    def step(self, number: int) -> None:
        bench, server, dice = self.bench, self.bench.server, self.random.random()
        name = self.random.choice(CHANNELS)
        link = server.link
        if dice < 0.27:
            bench.down()
        elif dice < 0.47:
            bench.up()
        elif dice < 0.62:
            witness = self.witnesses[name]
            if witness.out is not None:
                # A loop that is left in the middle gives the message back.
                witness.settle(self.random.random() < 0.8)
            else:
                witness.pull()
        elif dice < 0.68:
            bench.advance(self.random.random() * 400)
        elif dice < 0.72:
            bench.advance(self.random.random() * 4000)
        elif dice < 0.73:
            bench.sleep(self.random.random() * 40_000)
        elif dice < 0.82:
            server.publish(name, number, f"s{number}")
        elif dice < 0.93:
            id = f"p{number}"
            self.published[name].append(id)
            self.outcomes[bench.publish(name, number, id)] = (name, id)
        elif dice < 0.945 and link is not None:
            bench.cut()
        elif dice < 0.955 and link is not None and not link.is_over:
            if self.random.random() < 0.3:
                link.write({"type": "reconnect", "after_ms": 300, "reason": "drain"})
            code = self.random.choice([1001, 1006, 1011, 1012, 1013, 4012, 4410, 4429])
            link.close(code, self.random.choice(["", "retry_after_ms=500"]))
        elif dice < 0.97 and "wire" in self.faults and link is not None and link.to_client:
            self.harm(link)
        elif dice < 0.98 and "prune" in self.faults:
            log = server.log(name)
            server.prune(name, log.oldest + self.random.randint(0, log.head - log.oldest + 1) - 1)
        elif dice < 0.985 and "epoch" in self.faults and server.log(name).epoch is not None:
            server.start_anew(name)

    def harm(self, link: Link) -> None:
        """A server with a fault loses a message, or sends it twice."""
        at = self.random.randrange(len(link.to_client))
        text = link.to_client[at]
        if not isinstance(text, str) or not text.startswith('{"type": "message"'):
            return
        behind = [each for index, each in enumerate(link.to_client) if index > at and isinstance(each, str)]
        if '"base"' in text and self.random.random() < 0.3:
            frame = json.loads(text)
            # A digit of a literal: what comes out is a number again, and another one.
            data = re.sub(r":([0-8])", lambda found: f":{int(found[1]) + 1}", frame["data"])
            link.to_client[at] = json.dumps(frame | {"data": data})
            self.damaged += data != frame["data"]
        # The last one in a full window cannot be missed: nothing comes behind it.
        elif self.random.random() < 0.5 and any(each.startswith(text[:44]) for each in behind):
            del link.to_client[at]
        else:
            link.to_client.insert(at, text)

    def finish(self) -> None:
        self.refusing = False
        bench = self.bench
        for _ in range(400):
            bench.settle()
            for witness in self.witnesses.values():
                witness.finish()
            bench.advance(400)
            heads = all(w.last == bench.server.log(name).head for name, w in self.witnesses.items())
            if heads and bench.core.unsent_count == 0 and bench.core.state.name == "live":
                break

    def judge(self) -> None:
        bench, server = self.bench, self.bench.server
        assert server.violations == []
        assert bench.core.unsent() == []
        assert bench.core.state.name == "live"
        for name, witness in self.witnesses.items():
            log = server.log(name)
            assert witness.faults == []
            assert witness.last == log.head
            assert bench.core.position(name) == Position(log.epoch, log.head)
            stored = sorted((serial, id) for (client, id), serial in log.ids.items() if client == "ana")
            assert [id for _, id in stored] == self.published[name], "each publish once, in order"
            if not self.faults & {"prune", "epoch"}:
                assert witness.discontinuities == 0, "a line that breaks makes no hole"
        for handle, (name, id) in self.outcomes.items():
            receipt = bench.answers[handle]
            assert isinstance(receipt, Published)
            assert (receipt.id, receipt.serial) == (id, server.log(name).ids["ana", id])


CASES = [
    pytest.param("start", set(), id="start, cuts and refusals"),
    pytest.param("head", {"wire"}, id="head, a server that loses and doubles"),
    pytest.param("start", {"wire"}, id="start, a server that loses and doubles"),
    pytest.param("start", {"prune", "epoch"}, id="start, retention and new epochs"),
    pytest.param(Rewind(3), {"prune", "epoch", "wire"}, id="rewind, everything"),
    pytest.param(Cursor("one"), {"wire"}, id="cursor"),
]


@pytest.mark.parametrize(("from_", "faults"), CASES)
def test_each_message_is_processed_once_in_order_and_each_publish_stored_once_in_order(
    from_: Any, faults: set[str]
) -> None:
    cuts = seen = damaged = deltas = 0
    for seed in range(1, RUNS + 1):
        run = Run(seed, from_, faults)
        try:
            for number in range(STEPS):
                run.step(number)
            run.finish()
            run.judge()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        cuts += len(run.bench.server.links) - 1
        seen += sum(witness.processed for witness in run.witnesses.values())
        damaged += run.damaged
        deltas += sum("base" in frame for link in run.bench.server.links for frame in link.wrote)
    # The faults must really have hit, or the test proves nothing.
    assert cuts > RUNS
    assert seen > RUNS * 20
    assert deltas > RUNS * 10
    assert damaged > 0 or "wire" not in faults


def _talk(bench: Bench) -> None:
    """Follows a channel, publishes to it, and has the window filled and acknowledged."""
    bench.server.window = 3
    bench.server.ack_every = 2
    for index in range(4):
        bench.server.publish("chat:one", f"old {index}", f"o{index}")
    bench.core.channel("chat:one", "start")
    bench.core.want("chat:one", bench.now_ms)
    bench.core.connect(bench.now_ms)
    bench.perform()
    for index in range(4):
        bench.publish("chat:one", index, f"p{index}")


def _moves(cuts_at: set[int]) -> tuple[Bench, Witness, int]:
    """Runs the talk, with one move of a frame at a time, and a cut before the moves that are given."""
    bench = Bench(random.Random(7).random)
    _talk(bench)
    witness = Witness(bench, "chat:one")
    moves = 0
    cuts = sorted(cuts_at)
    for _ in range(1000):
        if cuts and moves >= cuts[0]:
            del cuts[0]
            bench.cut()
        if bench.up() or bench.down():
            moves += 1
        elif witness.pull() or witness.out is not None:
            witness.settle(True)
        elif bench.core.state.name == "live" and bench.core.unsent_count == 0 and not bench.core.behind:
            break
        else:
            bench.advance(500)
    return bench, witness, moves


def test_a_cut_at_every_frame_boundary_loses_and_doubles_nothing() -> None:
    _, _, whole = _moves(set())
    assert whole > 25
    for at in range(whole):
        bench, witness, _ = _moves({at})
        log = bench.server.log("chat:one")
        assert log.head == 8, f"cut at {at}"
        assert [id for client, id in log.ids if client == "ana"] == ["p0", "p1", "p2", "p3"], f"cut at {at}"
        assert (witness.faults, witness.processed, witness.last) == ([], 8, 8), f"cut at {at}"
        assert bench.server.violations == []
        assert len(bench.server.links) == 2


@given(st.sets(st.integers(0, 60), max_size=6))
@hypothesis_settings(max_examples=60)
def test_cuts_at_any_set_of_frame_boundaries_lose_and_double_nothing(cuts_at: set[int]) -> None:
    bench, witness, _ = _moves(cuts_at)
    log = bench.server.log("chat:one")
    assert [id for client, id in log.ids if client == "ana"] == ["p0", "p1", "p2", "p3"]
    assert (witness.faults, witness.processed, witness.last) == ([], 8, 8)
    assert bench.server.violations == []
