"""The log against a model: any sequence of rounds, prunes, deletions, epochs and clock jumps.

Run by test_machine, and under mutants by test_mutants.
"""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from realtime.conf import settings
from realtime.log import (
    Append,
    Published,
    Rounds,
    begin_anew,
    delete_chunks,
    new_epoch,
    prune,
    read_messages,
    read_page,
    read_snapshot,
    read_states,
)
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import data_of
from realtime.protocol.names import ChannelName
from tests.log.world import check_log, message

_names = itertools.count()

#: Few of each, so that everything meets everything. "bad…" ids are refused by the database.
MIDS = ("a", "b", "c", "d", "e", "f", "bad")
KEYS = (None, None, "k", "l")

_messages = st.tuples(st.sampled_from(MIDS), st.sampled_from(("1", "2")), st.sampled_from(KEYS))
_appends = st.tuples(
    st.integers(0, 1),  # channel
    st.sampled_from(("ana", "")),
    st.lists(_messages, min_size=1, max_size=3),
    st.booleans(),  # chained to the one before it on its channel
)


class _Log:
    """What the model knows of one channel."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.oldest = 1
        self.head = 0
        #: (client, mid) → (serial, data, time), of rows that exist
        self.known: dict[tuple[str, str], tuple[int, str, int]] = {}
        self.latest: dict[str, int] = {}
        self.keys: dict[int, str] = {}
        self.last_time = 0


class LogMachine(RuleBasedStateMachine):
    """Every rule does one thing to the log and to the model, and compares."""

    @initialize()
    def begin(self) -> None:
        self.now_ms = 1_000_000
        number = next(_names)
        self.names = [ChannelName(f"machine{number}-{i}") for i in range(2)]
        self.logs = {name: _Log() for name in self.names}
        self.rounds = Rounds(clock=lambda: self.now_ms)

    @rule(batch=st.lists(_appends, min_size=1, max_size=6))
    def publish(self, batch: list[tuple[int, str, list[tuple[str, str, str | None]], bool]]) -> None:
        before: dict[ChannelName, Append] = {}
        appends = []
        for number, client, messages, chained in batch:
            name = self.names[number]
            each = Append(
                name,
                client,
                [message(mid, data, key) for mid, data, key in messages],
                previous=before.get(name) if chained else None,
            )
            before[name] = each
            appends.append(each)
        chains = [each.previous for each in appends]
        result = self.rounds.run(appends)
        assert not result.aside and not result.away
        assert set(result.settled) == set(appends) and len(result.settled) == len(appends)
        new: dict[ChannelName, list[int]] = {name: [] for name in self.names}
        for each, previous in zip(appends, chains, strict=True):
            self._expect(each, previous, new[each.channel])
        told: dict[ChannelName, list[int]] = {name: [] for name in self.names}
        for news in result.news:
            told[news.channel] += range(news.first, news.first + len(news.frames))
        assert told == new

    def _expect(self, each: Append, previous: Append | None, new: list[int]) -> None:
        """What the append must have come to, were all appends done one after the other."""
        log, outcome = self.logs[each.channel], each.outcome
        if previous is not None and isinstance(previous.outcome, ProtocolError):
            assert isinstance(outcome, ProtocolError) and outcome.code == "order", outcome
            return
        if any(m.id == "bad" for m in each.messages):
            assert isinstance(outcome, ProtocolError) and outcome.code == "internal", outcome
            return
        assert isinstance(outcome, Published), outcome
        serials, duplicates, conflicts = [], [], []
        for index, m in enumerate(each.messages):
            assert m.id is not None
            known = log.known.get((each.client, m.id))
            if known is not None:
                duplicates.append(index)
                if known[1] != m.data:
                    conflicts.append(index)
                serials.append(known[0])
                continue
            log.head += 1
            log.last_time = max(self.now_ms, log.last_time)
            log.known[each.client, m.id] = (log.head, m.data, log.last_time)
            if m.key is not None:
                log.latest[m.key] = log.head
                log.keys[log.head] = m.key
            serials.append(log.head)
            new.append(log.head)
        assert (outcome.serials, outcome.duplicates, outcome.conflicts) == (serials, duplicates, conflicts)
        log.epoch = log.epoch or outcome.epoch
        assert outcome.epoch == log.epoch

    @rule(number=st.integers(0, 1), back=st.integers(-1, 3))
    def prune(self, number: int, back: int) -> None:
        name = self.names[number]
        log = self.logs[name]
        if log.epoch is not None:
            upto = max(log.head - back, 0)
            prune(name, upto)
            log.oldest = max(log.oldest, min(upto, log.head) + 1)

    @rule()
    def delete(self) -> None:
        delete_chunks(now_ms=self.now_ms, pause=lambda _: None)
        cutoff = self.now_ms - 1000 * settings.IDEMPOTENCY_MIN_S
        for log in self.logs.values():
            kept = set(log.latest.values())
            log.known = {
                identity: (serial, data, time)
                for identity, (serial, data, time) in log.known.items()
                if serial >= log.oldest or time >= cutoff or serial in kept
            }

    @rule(number=st.integers(0, 1))
    def new_epoch(self, number: int) -> None:
        log = self.logs[self.names[number]]
        if log.epoch is not None:
            epoch = new_epoch(self.names[number])
            assert epoch != log.epoch
            log.epoch = epoch

    @rule(number=st.integers(0, 1))
    def begin_anew(self, number: int) -> None:
        log = self.logs[self.names[number]]
        if log.epoch is not None:
            log.epoch = begin_anew(self.names[number])
            log.oldest = log.head + 1
            log.latest.clear()

    @rule(by_ms=st.sampled_from((1, 1000, 130_000, -5000)))
    def pass_time(self, by_ms: int) -> None:
        self.now_ms += by_ms

    @invariant()
    def agrees(self) -> None:
        for name, state in read_states(self.names).items():
            log = self.logs[name]
            if log.epoch is None:
                assert (state.oldest, state.head) == (1, 0)
                continue
            assert state.channel_id is not None
            assert state[1:] == (log.epoch, log.oldest, log.head, log.last_time)
            retained = check_log(name)
            by_serial = {serial: (*identity, data, time) for identity, (serial, data, time) in log.known.items()}
            for row in retained:
                assert (row.client, row.mid, data_of(row.envelope), row.time) == by_serial[row.serial]
                assert row.key == log.keys.get(row.serial)
            wanted: Any = [(row.serial, row.envelope) for row in retained]
            assert wanted == read_messages(
                state.channel_id, log.oldest - 1, log.head, max_messages=1000, max_bytes=1_000_000
            )
            page = read_page(name, after=0)
            assert (page.epoch, page.oldest, page.head) == (log.epoch, log.oldest, log.head)
            assert (page.messages, page.more) == ([row.envelope for row in retained], False)
            assert page.skipped == ((1, log.oldest - 1, "retention") if log.oldest > 1 else None)
            snapshot_state, snapshot = read_snapshot(state.channel_id, 10)
            assert snapshot_state == state
            assert [serial for serial, _ in snapshot] == sorted(log.latest.values())
