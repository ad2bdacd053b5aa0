"""Subscribers that change their transport in mid-stream and take nothing along but their positions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import msgspec

from tests.e2e.checker import Attachment, Frame, decode_frame
from tests.e2e.lines import (
    API,
    LOST,
    Asked,
    EventsLine,
    Line,
    Polled,
    PollLine,
    Refused,
    SessionLine,
    SessionSocket,
    StreamLine,
    exchange,
    list_of,
)
from tests.e2e.run import ONE_CHANNEL, Run
from tests.e2e.subscribers import FAREWELLS, Subscriber
from tests.e2e.wire import HandshakeRefused, RawSocket, Unanswered, connect

STAY_S = (0.4, 6.0)
"""How long it stays with a transport."""
OPEN_S = 15.0
TICKETS = 0.3
"""How often a stream of events is opened with a ticket in place of a header."""
LEAST_USED = 0.5
"""How often the next transport is the one that has brought least."""

SAME_AGAIN = 0.6
"""How often the transport is kept when it broke."""
LINGERS_S = 1.0
"""How long an old line may go on beside its successor, unheard."""
NO_ROOM = 503


class Traveller(Subscriber):
    """Reads on by another transport whenever the dice say so, and when a line broke.

    On a WebSocket and in SockJS sessions it acknowledges in its own way; elsewhere there is nothing to acknowledge, and
    it processes at once, or later and then forgets what it has not processed when the line ends. A stream of events
    that broke is opened again with the id of its last event, at the address it was opened with first.
    """

    def __init__(self, run: Run, index: int, channels: list[str], first: Any) -> None:
        super().__init__(run, index, channels, first)
        self._own_style = self.style
        self._transports = [each for each in run.plan.transports if each not in ONE_CHANNEL or len(channels) == 1]
        self._transport = ""
        self._one_way = False
        self._told_positions: dict[str, Any] = {}
        """What the last poll of this line was answered with."""
        self._refs_of: dict[str, int] = {}
        """By channel the attachments that the line has not answered."""
        self._came_from = ""
        """The worker that it was connected to last, as far as it was told."""
        self._at_first: list[Asked] = []
        """What the line's address says."""
        self._url = ""
        self._last_id: str | None = None
        self._lingering: set[asyncio.Task[None]] = set()

    @property
    def where(self) -> str:
        return f"{self.name} ({self._transport})"

    # ------------------------------------------------------------------ life

    async def live(self) -> None:
        try:
            await self._travel()
        finally:
            for task in self._lingering:
                task.cancel()

    async def _travel(self) -> None:
        wait_s = 0.1
        broken = False
        while not self.run.over:
            if self.away:
                await asyncio.sleep(0.05)
                continue
            self._choose(broken=broken)
            line = self._line()
            self.socket = line
            try:
                async with asyncio.timeout(OPEN_S):
                    await self._open(line)
            except (OSError, TimeoutError) as error:
                line.abort()
                self._forget()
                self._judge_refusal(error)
                await asyncio.sleep(self.random.uniform(0, wait_s))
                wait_s = min(1.0, wait_s * 2)
                broken = True
                continue
            wait_s = 0.1
            broken = await self._stay(line)

    def _choose(self, *, broken: bool) -> None:
        """The next transport. Of a line that broke, its last id is kept if the next is of the same kind."""
        others = [each for each in self._transports if each != self._transport]
        if self._transport and (not others or (broken and self.random.random() < SAME_AGAIN)):
            return
        if self._transport:
            self.run.counts["changes of transport"] += 1
            if any(each.position < self.run.checker.heads[name] for name, each in self.progress.items()):
                self.run.counts["changes of transport in mid-stream"] += 1
        if self.random.random() < LEAST_USED:
            # A short run has to meet them all.
            others.sort(key=lambda each: self.run.counts[f"messages by {each}"])
            del others[1:]
        self._transport = self.random.choice(others)
        self._last_id = None

    async def _stay(self, line: RawSocket | Line) -> bool:
        """Until the line ends or is left for another; True when it broke."""
        leaves_in_s = self.random.uniform(*STAY_S)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(line.ended), leaves_in_s)
            if line.ended.done():
                if isinstance(line, Line) and line.close_code == LOST:
                    self.run.counts["sessions lost"] += 1
                    line.close_code = None
                self._end(line)
                if not self.run.over:
                    await asyncio.sleep(self.random.uniform(0, 0.2))
                return True
            if self.run.chaos and len(self._transports) > 1:
                break
        self._leave_behind(line)
        for fault in line.faults:
            self.run.checker.fail("wire", f"{self.name}: {fault}")
        self._forget()
        return False

    def _leave_behind(self, line: RawSocket | Line) -> None:
        """Nothing of it is heard any more; the server may not know for a while."""
        line.on_text = lambda text: None
        if isinstance(line, EventsLine):
            line.on_event = lambda text, event_id: None
        if isinstance(line, PollLine) or self.random.random() < 0.5:
            line.abort()
            return

        async def linger() -> None:
            try:
                await asyncio.sleep(self.random.uniform(0, LINGERS_S))
            finally:
                line.abort()

        task = asyncio.ensure_future(linger())
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    def _judge_refusal(self, error: Exception) -> None:
        self.run.counts["reconnects refused"] += 1
        if isinstance(error, (Refused, HandshakeRefused)) and error.status != NO_ROOM:
            self.run.checker.fail("refused", f"{self.name}: {self._transport} answered {error}")

    # ------------------------------------------------------------------ lines

    def _line(self) -> RawSocket | Line:
        port, bearer = self.run.proxy.port, self.run.token(self.name)
        line: RawSocket | Line
        match self._transport:
            case "websocket":
                line = RawSocket()
            case "sockjs-websocket" | "sockjs-raw":
                line = SessionSocket(bearer, self.random, raw=self._transport == "sockjs-raw")
            case "sockjs-xhr" | "sockjs-xhr_streaming" | "sockjs-eventsource":
                line = SessionLine(port, bearer, self.random, self._transport.removeprefix("sockjs-"))
            case "stream":
                line = StreamLine(port, bearer, self.random)
            case "sse" | "events":
                line = EventsLine(port, bearer, self.random, one=self._transport == "sse")
            case _:
                assert self._transport == "poll", self._transport
                line = PollLine(port, bearer, self.random)
        self._one_way = isinstance(line, Line) and line.one_way
        self.style = self._own_style
        if self._one_way:
            self.style = "late" if self._own_style == "late" else "window 0"
        line.on_text = self._on_text
        self.worker, self._moved = "", False
        return line

    async def _open(self, line: RawSocket | Line) -> None:
        match line:
            case SessionSocket():
                await connect(self.run.proxy.port, into=line, timeout_s=OPEN_S, path=line.path)
                line.begin()
            case RawSocket():
                await connect(self.run.proxy.port, self.run.token(self.name), into=line, timeout_s=OPEN_S)
            case SessionLine():
                await line.open()
            case StreamLine():
                await line.open(self._ask())
            case EventsLine():
                await self._open_events(line)
            case PollLine():
                self._told_positions = {}
                line.pause_s = self.random.choice((0.0, 0.3))
                line.ask = lambda: self._ask(self._told_positions)
                line.on_answer = self._on_polled
                line.on_unanswered = self._on_unpolled
                await line.open()

    async def _open_events(self, line: EventsLine) -> None:
        line.on_event = self._on_event
        last_id = None if self._own_style == "late" else self._last_id
        self._last_id = None
        if last_id is None:
            asked = self._positions()
            self._url = line.url(asked)
            if self.random.random() < TICKETS:
                self._url = await self._url_with_ticket(asked)
        else:
            self.run.counts["resumes by Last-Event-ID"] += 1
            asked = self._positions_in(last_id)
        self._attach_all(asked)
        await line.open(self._url, last_id)

    async def _url_with_ticket(self, asked: list[Asked]) -> str:
        body = json.dumps({"attach": list_of(asked)}).encode()
        port, bearer = self.run.server.port, self.run.token(self.name)
        status, text = await exchange(port, "POST", f"{API}/tickets", bearer, body)
        if status != 201:
            raise Refused(status, text)
        self.run.counts["tickets"] += 1
        ticket = json.loads(text)
        return self._url.partition("?")[0] + "?ticket=" + str(ticket["ticket"])

    def _positions(self) -> list[Asked]:
        """Where it stands: all that it takes along."""
        found = []
        for name, progress in self.progress.items():
            stands = {"epoch": progress.epoch, "serial": progress.position}
            found.append(Asked(name, self.first if progress.start is None else stands))
        return found

    def _positions_in(self, last_id: str) -> list[Asked]:
        """What the id of an event asks for. A channel without a position there begins as the address says."""
        texts = last_id.partition(":")[2].split(",") if self._transport == "events" else [last_id]
        found = []
        for each, text in zip(self._at_first, texts, strict=True):
            epoch, _, serial = text.partition(".")
            found.append(
                Asked(each.channel, {"epoch": epoch or None, "serial": int(serial)} if text else each.position)
            )
        return found

    def _ask(self, told: dict[str, Any] | None = None) -> list[Asked]:
        asked = self._positions()
        for each in asked:
            each.position = (told or {}).get(each.channel, each.position)
        self._attach_all(asked)
        return asked

    def _attach_all(self, asked: list[Asked]) -> None:
        """Before a request is sent that attaches to a list."""
        self._at_first = asked
        self._pending.clear()
        self._refs_of.clear()
        for each in asked:
            ref = next(self._refs)
            self._refs_of[each.channel] = ref
            self._pending[ref] = Attachment(self.run.checker, self.where, each.channel, each.position, 0)

    # ------------------------------------------------------------------ frames

    def _on_frame(self, text: bytes, frame: Frame) -> None:
        if frame.type == "message":
            self.run.counts[f"messages by {self._transport}"] += 1
        elif frame.type == "ready":
            self.worker, self._came_from = self._came_from, frame.worker
        if not self._one_way:
            super()._on_frame(text, frame)
            return
        match frame.type:
            case "ready":
                self._moved, self.worker = frame.worker != self.worker, frame.worker
                self.run.connected(frame.worker)
                return
            case "attached" | "error" if frame.channel in self._refs_of:
                # The index in the list, or nothing.
                frame.ref = self._refs_of.pop(frame.channel)
            case "close":
                assert self.socket is not None
                if frame.code not in FAREWELLS:
                    self.run.checker.fail("refused", f"{self.name}: ended with {frame.code} {frame.reason}")
        super()._on_frame(text, frame)

    def _attach(self, channel: str) -> None:
        if self._one_way:
            # Refused for a moment: there is no asking again on this line.
            self.leave()
        else:
            super()._attach(channel)

    def _ack(self, serials: dict[str, int]) -> None:
        if not self._one_way:
            super()._ack(serials)

    def _on_event(self, text: bytes, event_id: str | None) -> None:
        try:
            frame = decode_frame(text)
        except msgspec.MsgspecError as error:
            self.run.checker.fail("wire", f"{self.name}: {error} in {text[:200]!r}")
            return
        self._on_frame(text, frame)
        if event_id is not None:
            self._check_id(event_id)
            self._last_id = event_id
        elif frame.type == "message":
            self.run.checker.fail("position", f"{self.name}: message {frame.serial} of {frame.channel} has no id")

    def _check_id(self, event_id: str) -> None:
        """It says where all channels stand now."""
        for asked in self._positions_in(event_id):
            attachment = self.attachments.get(asked.channel)
            if attachment is None or attachment.unexplained:
                continue
            stands = {"epoch": self.progress[asked.channel].epoch, "serial": attachment.position}
            if asked.position != stands:
                self.run.checker.fail("position", f"{attachment.where}: id {event_id}, stands at {stands}")

    # ------------------------------------------------------------------ polls

    def _on_polled(self, polled: Polled) -> None:
        self.run.counts["polls answered"] += 1
        frames = [(bytes(each), decode_frame(each)) for each in polled.frames]
        told = {frame.channel for _, frame in frames if frame.type in ("attached", "error")}
        for channel, ref in list(self._refs_of.items()):
            attachment = self._pending[ref]
            if channel not in told and channel in polled.positions:
                # It was asked from a position and stands there: nothing is said about that.
                serial, epoch = attachment.asked["serial"], attachment.asked["epoch"]
                head = max(serial, attachment.known_head)
                fields = {"serial": serial, "epoch": epoch, "head": head, "window": 0}
                self._on_frame(b"", Frame("attached", channel, **fields))
        for text, frame in frames:
            self._on_frame(text, frame)
        for channel, position in polled.positions.items():
            attachment = self.attachments[channel]
            stands = {"epoch": self.progress[channel].epoch, "serial": attachment.position}
            if position != stands and not attachment.unexplained:
                self.run.checker.fail("position", f"{attachment.where}: told {position}, stands at {stands}")
        self._told_positions |= polled.positions

    def _on_unpolled(self, error: ConnectionError) -> None:
        if isinstance(error, Unanswered):
            self.run.counts["polls asked again"] += 1
        elif isinstance(error, Refused):
            self._judge_refusal(error)

    def _forget(self) -> None:
        super()._forget()
        self._refs_of.clear()
        self._told_positions = {}
