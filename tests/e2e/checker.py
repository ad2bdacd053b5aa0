"""Judges raw frames: was every message delivered exactly once, in order, and is every answer true?

The checker knows nothing of the server but the wire contract. It is told what publishers sent and were answered, what
each attachment got and acknowledged, and at the end what REST says the log holds. Each breach of a promise is a
violation under the name of a rule (`RULES`), so that a test can see that a fault was found for the right reason. It
also counts the faults that really hit: a run in which nothing went wrong proves little.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

WINDOW_BYTES = 1 << 20

RULES = {
    "attached": "`attached` comes before messages and says where delivery starts: where it was asked to, or a skip",
    "step": "serials of an attachment step by exactly one, unless `skipped` says why not",
    "twice": "no serial comes twice on an attachment",
    "epoch": "the epoch stays what it was",
    "payload": "what stands at a serial is what was published there, and the same for everybody",
    "position": "a position that the server hands out is the one behind what it told",
    "window": "never more in flight than the window allows",
    "skipped": "`skipped` names exactly what is missing, and only what was pruned",
    "pruned": "what was pruned before an attach does not come on it",
    "answer": "an answer to a publish is complete and true",
    "id": "one id has one serial",
    "serial": "one serial has one message",
    "duplicate": "a message that was answered before is told as a duplicate, and as a conflict when its data differs",
    "order": "what one connection publishes to one channel gets rising serials",
    "hole": "serials run from 1 to the head without a hole",
    "history": "the log that REST shows is what was published and delivered",
    "lost": "every message reaches every subscriber",
    "effect": "a subscriber that resumes from its last processed position processes every message once",
    "refused": "nothing is refused that should not be",
    "wire": "the server sends well-formed frames",
    "uncommitted": "what was published in a transaction that did not commit is seen by nobody",
    "outbox": "what was published in a transaction that committed is in the log, once",
    "commit order": "what one connection published in consecutive transactions is in the log in that order",
    "drain": "a worker that sends a client away has answered what it had accepted of him",
    "restart": "a worker that ends is replaced by another",
    "news": "when everything has healed, news travels faster than the sweep",
}

Key = tuple[str, str, str]
"""channel, client, id: what makes a message the same."""

Fact = tuple[str, str, int, int]
"""channel, connection, transaction, index: what an application wrote beside a message, and into it."""


class Frame(msgspec.Struct, gc=False):
    """Any frame of the server, as far as the tests look at it."""

    type: str
    channel: str | None = None
    serial: int = -1
    id: str | None = None
    client: str | None = None
    time: int = 0
    data: msgspec.Raw = msgspec.Raw(b"null")
    ref: str | int | None = None
    epoch: str | None = None
    head: int = -1
    resumed: bool = True
    window: int = -1
    ack_every: int = 0
    ack_ms: int = 0
    first: int | None = msgspec.field(name="from", default=None)
    to: int | None = None
    reason: str | None = None
    serials: list[int] = []
    duplicates: list[int] = []
    conflicts: list[int] = []
    code: str | int | None = None
    message: str | None = None
    retry_after_ms: int | None = None
    connection: str | None = None
    worker: str = ""


decode_frame = msgspec.json.Decoder(Frame).decode


@dataclass
class Sent:
    """What was first sent under an id."""

    data: str
    order: int
    """Its place among the publisher's messages to this channel; -1 where no order is promised over connections."""


class Checker:
    """All that is known of one run."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.broken: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.epochs: dict[str, str] = {}
        self.frames: dict[str, dict[int, bytes]] = defaultdict(dict)
        """The first text that was seen at each serial."""
        self.sent: dict[Key, Sent] = {}
        self.answers: dict[Key, int] = {}
        self.owners: dict[str, dict[int, Key]] = defaultdict(dict)
        self.heads: Counter[str] = Counter()
        self.newest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        """Serial and time of the newest message that came to somebody."""
        self.applications: set[str] = set()
        """Clients whose messages are published inside transactions; what they are is known in the end."""
        self.pruned: Counter[str] = Counter()
        """Through which serial a prune was ordered; rows may be gone from that moment."""
        self.pruned_surely: Counter[str] = Counter()
        """Through which serial a prune has finished."""
        self.progress: list[Progress] = []

    def fail(self, rule: str, text: str) -> None:
        assert rule in RULES, rule
        self.broken[rule] += 1
        if self.broken[rule] <= 5:
            self.violations.append(f"[{rule}] {text}")

    # ------------------------------------------------------------------ publishing

    def publishing(self, channel: str, client: str, id: str, data: str, order: int = -1) -> None:
        """A message is about to be sent, for the first time or again."""
        self.sent.setdefault((channel, client, id), Sent(data, order))

    def published(
        self, channel: str, client: str, messages: list[tuple[str, str]], known: set[str], answer: Frame
    ) -> None:
        """`published` came for these (id, data); `known` are the ids that had been answered before they were sent."""
        where = f"published on {channel} for {client}"
        if len(answer.serials) != len(messages) or answer.channel != channel:
            self.fail(
                "answer", f"{where}: {len(messages)} messages, serials {answer.serials}, channel {answer.channel}"
            )
            return
        self.counts["publishes answered"] += 1
        self._epoch(channel, answer.epoch, where)
        in_frame: set[str] = set()
        for index, (id, data) in enumerate(messages):
            serial = answer.serials[index]
            key = (channel, client, id)
            self._own(channel, serial, key, where)
            if self.answers.setdefault(key, serial) != serial:
                self.fail("id", f"{where}: id {id} is at {self.answers[key]}, and was answered {serial} later")
            first = self.sent[key]
            if id in known or id in in_frame:
                self.counts["duplicates answered"] += 1
                if index not in answer.duplicates:
                    self.fail("duplicate", f"{where}: id {id} was known, and is told as new at {serial}")
                if (index in answer.conflicts) != (data != first.data):
                    self.fail("duplicate", f"{where}: conflict of id {id} is told {index in answer.conflicts}")
            elif index in answer.duplicates:
                self.counts["retries found stored"] += 1
            in_frame.add(id)
            self.heads[channel] = max(self.heads[channel], serial)

    def _own(self, channel: str, serial: int, key: Key, where: str) -> None:
        owner = self.owners[channel].setdefault(serial, key)
        if owner != key:
            self.fail("serial", f"{where}: serial {serial} is of {owner[1:]}, and is given to {key[1:]}")

    def _epoch(self, channel: str, epoch: str | None, where: str) -> None:
        if epoch is None or self.epochs.setdefault(channel, epoch) != epoch:
            self.fail("epoch", f"{where}: epoch {epoch}, known is {self.epochs.get(channel)}")

    # ------------------------------------------------------------------ delivery

    def seen(self, where: str, text: bytes, frame: Frame) -> None:
        """A message frame came to somebody."""
        assert frame.channel is not None
        frames = self.frames[frame.channel]
        first = frames.get(frame.serial)
        if first is not None:
            if first != text:
                self.fail("payload", f"{where}: serial {frame.serial} is {text[:200]!r}, elsewhere {first[:200]!r}")
            return
        frames[frame.serial] = text
        key = (frame.channel, frame.client or "", frame.id or "")
        sent = self.sent.get(key)
        if key[1] in self.applications:
            pass  # `finish_outbox` knows what was committed
        elif sent is None:
            self.fail("payload", f"{where}: serial {frame.serial} is {key[1:]}, which nobody published")
        elif sent.data.encode() != bytes(frame.data):
            self.fail("payload", f"{where}: data of {key[1:]} is {bytes(frame.data)[:100]!r}, sent {sent.data[:100]}")
        self._own(frame.channel, frame.serial, key, where)
        self.heads[frame.channel] = max(self.heads[frame.channel], frame.serial)
        if frame.serial > self.newest[frame.channel][0]:
            self.newest[frame.channel] = (frame.serial, frame.time)

    # ------------------------------------------------------------------ the end

    def finish(self, histories: dict[str, History]) -> None:
        """Everything has come to rest: what REST shows, what was answered and what was delivered must be one."""
        for channel, history in histories.items():
            self._finish_log(channel, history)
        for progress in self.progress:
            progress.finish(histories[progress.channel].head)
        self._finish_order()

    def finish_outbox(self, facts: Iterable[Fact], waiting: int) -> None:
        """`facts` are committed; `waiting` messages are still on their way into the log. Call it after `finish`."""
        committed = set(facts)
        found: set[Fact] = set()
        last: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (-1, -1))
        for channel, frames in self.frames.items():
            for serial in sorted(frames):
                frame = decode_frame(frames[serial])
                if frame.client not in self.applications:
                    continue
                fact = msgspec.json.decode(frame.data, type=Fact)
                where = f"serial {serial} of {channel} is {fact}"
                if fact not in committed or fact[0] != channel:
                    self.fail("uncommitted", f"{where}, which did not commit")
                if fact in found:
                    self.fail("outbox", f"{where}, again")
                found.add(fact)
                if fact[2:] <= last[channel, fact[1]]:
                    self.fail("commit order", f"{where}, behind {last[channel, fact[1]]}")
                last[channel, fact[1]] = fact[2:]
        self.counts["messages of transactions"] += len(found)
        if missing := committed - found:
            self.fail("outbox", f"{len(missing)} messages are committed and not in the log, as {sorted(missing)[:5]}")
        if waiting:
            self.fail("outbox", f"{waiting} messages still wait on their way into the log")

    def _finish_log(self, channel: str, history: History) -> None:
        where = f"history of {channel}"
        if history.head:
            self._epoch(channel, history.epoch, where)
        if history.oldest - 1 > self.pruned[channel]:
            self.fail("history", f"{where}: oldest is {history.oldest}, pruned was through {self.pruned[channel]}")
        if self.heads[channel] > history.head:
            self.fail("history", f"{where}: head {history.head}, but {self.heads[channel]} was answered or delivered")
        ids: dict[tuple[str | None, str | None], int] = {}
        last_time = 0
        for text in history.messages:
            frame = decode_frame(text)
            self.seen(where, text, frame)
            if ids.setdefault((frame.client, frame.id), frame.serial) != frame.serial:
                self.fail("id", f"{where}: id {frame.id} is at {ids[frame.client, frame.id]} and at {frame.serial}")
            if frame.time < last_time:
                self.fail("history", f"{where}: the time of serial {frame.serial} is before that of the one before")
            last_time = frame.time
        shown = [decode_frame(text).serial for text in history.messages]
        if shown != list(range(history.oldest, history.head + 1)):
            missing = sorted(set(range(history.oldest, history.head + 1)) - set(shown))
            self.fail("hole", f"{where}: {history.oldest}…{history.head} lacks {missing[:10]}")
        below = [serial for serial in range(1, history.oldest) if serial not in self.owners[channel]]
        if below:
            self.fail("hole", f"{where}: nobody ever saw {below[:10]}, below the oldest")
        present = set(shown)
        for (name, client, id), serial in self.answers.items():
            if name == channel and serial >= history.oldest and serial not in present:
                self.fail("history", f"{where}: id {id} of {client} was answered {serial} and is not there")

    def _finish_order(self) -> None:
        """Publishers whose frames are chained keep their order over all connections."""
        by_publisher: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for key, sent in self.sent.items():
            if sent.order >= 0 and key in self.answers:
                by_publisher[key[:2]].append((sent.order, self.answers[key]))
        for (channel, client), pairs in by_publisher.items():
            pairs.sort()
            for (order, serial), (_, following) in itertools.pairwise(pairs):
                if following <= serial:
                    self.fail(
                        "order", f"{client} on {channel}: message {order} is at {serial}, a later one at {following}"
                    )


@dataclass
class History:
    """A channel's log by REST, read to its end."""

    epoch: str | None
    oldest: int
    head: int
    messages: list[bytes]


class SendOrder:
    """What one connection published to one channel, in the order sent: the new ones must rise."""

    def __init__(self, checker: Checker, name: str) -> None:
        self._checker = checker
        self._name = name
        self._frames: list[tuple[str, list[int]]] = []

    def sending(self, channel: str) -> int:
        """A publish frame is sent; gives the number by which `answered` knows it."""
        self._frames.append((channel, []))
        return len(self._frames) - 1

    def answered(self, number: int, answer: Frame) -> None:
        known = set(answer.duplicates)
        self._frames[number][1].extend(s for i, s in enumerate(answer.serials) if i not in known)

    def finish(self) -> None:
        """The connection is over."""
        last: dict[str, int] = {}
        for channel, serials in self._frames:
            for serial in serials:
                if serial <= last.get(channel, 0):
                    self._checker.fail("order", f"{self._name} on {channel}: {serial} behind {last[channel]}")
                last[channel] = serial
        self._frames.clear()


class Progress:
    """One logical subscriber of one channel over all its connections: what it has processed."""

    def __init__(self, checker: Checker, name: str, channel: str) -> None:
        self._checker = checker
        self.name = name
        self.channel = channel
        self.start: int | None = None
        """Nothing before it was asked for."""
        self.position = 0
        self.epoch: str | None = None
        self.processed = array("L")
        self.skips: list[tuple[int, int]] = []
        checker.progress.append(self)

    def begin(self, serial: int, epoch: str | None) -> None:
        """First attached after `serial`."""
        if self.start is None:
            self.start = self.position = serial
        if epoch is not None:
            self.epoch = epoch

    def process(self, serial: int) -> None:
        """The message had its effect here. The caller must not do this with what it did not get."""
        if serial != self.position + 1:
            self._checker.fail("effect", f"{self.name} on {self.channel}: processed {serial} after {self.position}")
        self.processed.append(serial)
        self.position = serial

    def skip(self, first: int, last: int) -> None:
        """Told that these cannot be had."""
        if last > self.position:
            self.skips.append((self.position + 1, last))
            self.position = last

    def finish(self, head: int) -> None:
        where = f"{self.name} on {self.channel}"
        if self.start is None:
            self._checker.fail("lost", f"{where}: was never attached")
            return
        wanted = set(range(self.start + 1, head + 1))
        for first, last in self.skips:
            wanted -= set(range(first, last + 1))
        missing = wanted - set(self.processed)
        if missing:
            some = sorted(missing)[:5]
            self._checker.fail(
                "lost", f"{where}: {len(missing)} of {head} never came, as {some}; stands at {self.position}"
            )
        if len(set(self.processed)) != len(self.processed):
            self._checker.fail("effect", f"{where}: some were processed twice")


@dataclass
class Attachment:
    """One attachment of one connection to one channel, judged frame by frame."""

    checker: Checker
    name: str
    channel: str
    asked: Any
    """`from` of the attach."""
    asked_window: int | None
    floor: int = 0
    """Serials through it were surely pruned before the attach was sent."""
    known_head: int = 0
    """Surely published before the attach was sent."""
    attached: bool = False
    closed: bool = False
    position: int = 0
    head: int = 0
    window: int = 0
    ack_every: int = 0
    ack_ms: int = 0
    acked: int = 0
    heard_at: float = 0.0
    messages: int = 0
    unexplained: bool = False
    """`resumed` was false and `skipped` has not come yet."""
    skip_from: int | None = None
    in_flight_bytes: int = 0
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.floor = self.checker.pruned_surely[self.channel]
        self.known_head = self.checker.heads[self.channel]

    @property
    def where(self) -> str:
        return f"{self.name} on {self.channel}"

    @property
    def in_flight(self) -> int:
        return len(self.sizes) if self.window else 0

    @property
    def full(self) -> bool:
        return bool(self.window) and (len(self.sizes) >= self.window or self.in_flight_bytes >= WINDOW_BYTES)

    @property
    def behind(self) -> bool:
        """Still reading what was there when it attached."""
        return self.attached and self.position < self.head

    def on_attached(self, frame: Frame) -> None:
        checker, fail = self.checker, self.checker.fail
        self.attached = True
        self.position = self.acked = frame.serial
        self.head = frame.head
        self.window, self.ack_every, self.ack_ms = frame.window, frame.ack_every, frame.ack_ms
        self.unexplained = not frame.resumed
        if frame.head:
            checker._epoch(self.channel, frame.epoch, f"attached of {self.where}")
        if frame.head < self.known_head:
            fail("attached", f"{self.where}: head {frame.head}, but {self.known_head} was published before")
        if not 0 <= frame.serial <= frame.head:
            fail("attached", f"{self.where}: serial {frame.serial} of head {frame.head}")
        if self.asked_window is not None and frame.window > self.asked_window:
            fail("attached", f"{self.where}: window {frame.window}, asked for {self.asked_window}")
        if frame.window and frame.ack_every > frame.window:
            fail("attached", f"{self.where}: ack_every {frame.ack_every} is above the window {frame.window}")
        asked = self.asked
        if isinstance(asked, dict) and "serial" in asked and asked.get("epoch") is not None:
            wanted = asked["serial"]
            if frame.resumed and frame.serial != wanted:
                fail("attached", f"{self.where}: asked for {wanted}, got {frame.serial}")
            if not frame.resumed:
                self.skip_from = wanted + 1
            if frame.serial < self.floor:
                fail("pruned", f"{self.where}: starts at {frame.serial}, though {self.floor} was pruned before")
            if frame.head > frame.serial and frame.resumed:
                checker.counts["resumes that replay"] += 1
        else:
            if not frame.resumed:
                fail("attached", f"{self.where}: {asked!r} is always resumed")
            if asked == "head" and frame.serial != frame.head:
                fail("attached", f"{self.where}: asked for the head {frame.head}, got {frame.serial}")
            from_start = asked == "start" or asked == {"epoch": None, "serial": 0}
            if from_start and not self.floor <= frame.serial <= checker.pruned[self.channel]:
                fail("attached", f"{self.where}: asked for the start, got {frame.serial}")
            if isinstance(asked, dict) and "rewind" in asked:
                lowest = frame.head - asked["rewind"]
                if frame.serial < lowest or frame.serial > max(lowest, checker.pruned[self.channel], 0):
                    fail("attached", f"{self.where}: asked for {asked}, got {frame.serial} of {frame.head}")

    def on_unasked(self, frame: Frame) -> None:
        """`attached` that nobody asked for: the channel's first message comes, or its epoch is another."""
        if self.head or self.messages or not frame.resumed or frame.serial:
            self.checker.fail("epoch", f"{self.where}: an unasked `attached` with epoch {frame.epoch}")
        self.checker._epoch(self.channel, frame.epoch, f"attached of {self.where}")
        self.head = frame.head

    def on_skipped(self, frame: Frame) -> None:
        fail = self.checker.fail
        if not self.attached:
            fail("attached", f"{self.where}: skipped before `attached`")
            return
        if frame.reason != "retention" or frame.first is None or frame.to is None:
            fail("skipped", f"{self.where}: from {frame.first} to {frame.to}, reason {frame.reason}")
            return
        expected = self.skip_from if self.unexplained else self.position + 1
        if frame.first != expected or frame.to < frame.first:
            fail("skipped", f"{self.where}: from {frame.first} to {frame.to}, expected from {expected}")
        if self.unexplained and frame.to != self.position:
            fail("skipped", f"{self.where}: to {frame.to}, but `attached` said {self.position}")
        if frame.to > self.checker.pruned[self.channel]:
            fail("skipped", f"{self.where}: to {frame.to}, pruned was through {self.checker.pruned[self.channel]}")
        self.unexplained = False
        self.position = self.acked = frame.to
        self.sizes.clear()
        self.in_flight_bytes = 0
        self.checker.counts["skips told"] += 1

    def on_message(self, text: bytes, frame: Frame) -> None:
        fail = self.checker.fail
        serial = frame.serial
        self.checker.counts["deliveries"] += 1
        if not self.attached:
            fail("attached", f"{self.where}: message {serial} before `attached`")
        if self.unexplained:
            fail("skipped", f"{self.where}: message {serial}, though `resumed` was false and nothing was skipped")
            self.unexplained = False
        if serial != self.position + 1:
            rule = "twice" if serial <= self.position else "step"
            fail(rule, f"{self.where}: {serial} after {self.position}")
        if serial <= self.floor:
            fail("pruned", f"{self.where}: message {serial}, though {self.floor} was pruned before the attach")
        if self.window:
            if len(self.sizes) >= self.window or self.in_flight_bytes >= WINDOW_BYTES:
                fail(
                    "window",
                    f"{self.where}: message {serial} while {len(self.sizes)} messages and {self.in_flight_bytes} bytes"
                    f" are in flight, window {self.window}, acked {self.acked}",
                )
            self.sizes.append(len(text))
            self.in_flight_bytes += len(text)
        self.messages += 1
        self.heard_at = time.monotonic()
        self.position = serial
        self.checker.seen(self.where, text, frame)

    def ack(self, serial: int) -> None:
        """An ack for it is sent. The server knows of it no sooner, so what it sends may only look too little."""
        gone = min(serial - self.acked, len(self.sizes))
        if gone > 0:
            self.in_flight_bytes -= sum(self.sizes[:gone])
            del self.sizes[:gone]
            self.acked = serial

    def cut(self) -> None:
        """Its connection ended."""
        self.closed = True
        if self.behind:
            self.checker.counts["backfills interrupted"] += 1
