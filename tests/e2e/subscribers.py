"""Subscribers that resume from what they processed, each with its own way of acknowledging."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec

from tests.e2e.checker import Attachment, Frame, Progress, decode_frame
from tests.e2e.lines import Line
from tests.e2e.run import STALL_S, STYLES, Run
from tests.e2e.wire import RawSocket, connect

FAREWELLS = (1000, 1001, 1012, 1013, 4410)
"""Codes with which a server may close in the torture."""


class Subscriber:
    """A logical subscriber: resumes from its last processed position over any number of connections.

    every      acks each message as it comes
    cadence    acks at the server's cadence: a random point of `ack_every`, and `ack_ms` after the last message
    window 1   window of one message
    window 0   no acks, paced by the socket alone
    late       processes later; what is not processed when the connection dies is forgotten and must come again
    batched    one ack frame for all its channels, several times a second
    stalled    never acks until its window is full, then waits, then acks everything
    riding     acks ride on pings
    """

    def __init__(self, run: Run, index: int, channels: list[str], first: Any) -> None:
        self.run = run
        self.name = f"s{index}"
        self.style = STYLES[index % len(STYLES)]
        self.random = random.Random(f"{run.plan.seed}/{index}")
        self.first = first
        """`from` of the first attach."""
        self.progress = {name: Progress(run.checker, f"{self.name} ({self.style})", name) for name in channels}
        self.attachments: dict[str, Attachment] = {}
        self.attached_at: dict[str, float] = {}
        self.socket: RawSocket | Line | None = None
        self.away = False
        """Stays away from the server while set."""
        self.worker = ""
        """Where it is connected, or was last."""
        self._deaf_until = 0.0
        self._moved = False
        """Connected to another worker than the last time."""
        self._pending: dict[int, Attachment] = {}
        self._refs = itertools.count(1)
        self._unacked: Counter[str] = Counter()
        self._targets: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._late: deque[tuple[str, int]] = deque()
        self._stalling: set[str] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def window(self) -> int | None:
        match self.style:
            case "window 1":
                return 1
            case "window 0":
                return 0
            case "stalled":
                return self.random.choice((4, 16, 64))
            case "every" | "batched":
                return self.random.choice((None, 32, 300))
            case _:
                return self.random.choice((None, 64))

    # ------------------------------------------------------------------ life

    async def live(self) -> None:
        wait_s = 0.1
        while not self.run.over:
            if self.away:
                await asyncio.sleep(0.05)
                continue
            socket = RawSocket()
            socket.on_text = self._on_text
            self.socket = socket  # before it is open: `ready` may come with the handshake's last bytes
            try:
                await connect(self.run.proxy.port, self.run.token(self.name), into=socket, timeout_s=15)
            except OSError:
                self.socket = None
                self.run.counts["reconnects refused"] += 1
                await asyncio.sleep(self.random.uniform(0, wait_s))
                wait_s = min(1.0, wait_s * 2)
                continue
            wait_s = 0.1
            await socket.ended
            self._end(socket)
            if not self.run.over:
                await asyncio.sleep(self.random.uniform(0, 0.2))

    def _end(self, socket: RawSocket | Line) -> None:
        self._forget()
        counts = self.run.counts
        for fault in socket.faults:
            self.run.checker.fail("wire", f"{self.name}: {fault}")
        if not self.run.over:
            counts["connections that died"] += 1
            if socket.cut_inside:
                counts["links cut in mid-frame"] += 1
            if socket.close_code not in (None, *FAREWELLS):
                self.run.checker.fail("refused", f"{self.name}: closed with {socket.close_code} {socket.close_reason}")

    def _forget(self) -> None:
        """What is left of the connection, at its end."""
        self.socket = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for attachment in [*self.attachments.values(), *self._pending.values()]:
            attachment.cut()
        self.attachments.clear()
        self.attached_at.clear()
        self._pending.clear()
        self._unacked.clear()
        self._dirty.clear()
        self._stalling.clear()
        if self._late:
            self.run.counts["messages processed again after a crash of the client"] += len(self._late)
        self._late.clear()

    def leave(self) -> None:
        if self.socket is not None:
            self.socket.abort()

    # ------------------------------------------------------------------ frames

    def _on_text(self, text: bytes) -> None:
        try:
            frame = decode_frame(text)
        except msgspec.MsgspecError as error:
            self.run.checker.fail("wire", f"{self.name}: {error} in {text[:200]!r}")
            return
        self._on_frame(text, frame)

    def _on_frame(self, text: bytes, frame: Frame) -> None:
        match frame.type:
            case "message":
                self._on_message(text, frame)
            case "attached":
                self._on_attached(frame)
            case "skipped":
                self._on_skipped(frame)
            case "ready":
                self._moved = frame.worker != self.worker
                self.worker = frame.worker
                self.run.connected(frame.worker)
                for channel in self.progress:
                    self._attach(channel)
            case "error":
                self._on_error(frame)
            case "reconnect":
                self.run.counts["clients sent away"] += 1
            case "detached":
                self.run.checker.fail("refused", f"{self.name}: detached from {frame.channel}: {frame.reason}")
                # Goes on from a new connection, as an SDK would.
                self.leave()

    def _attach(self, channel: str) -> None:
        if self.socket is None or channel in self.attachments:
            return
        progress = self.progress[channel]
        if progress.start is None:
            asked = self.first
        else:
            asked = {"epoch": progress.epoch, "serial": progress.position}
        window = self.window
        ref = next(self._refs)
        self._pending[ref] = Attachment(self.run.checker, self.where, channel, asked, window)
        frame = {"type": "attach", "ref": ref, "channel": channel, "from": asked}
        if window is not None:
            frame["window"] = window
        self.socket.send(frame)

    def _on_attached(self, frame: Frame) -> None:
        checker = self.run.checker
        if frame.ref is None:
            attachment = self.attachments.get(frame.channel or "")
            if attachment is None:
                checker.fail("attached", f"{self.name}: `attached` of {frame.channel} that nobody asked for")
                return
            attachment.on_unasked(frame)
        else:
            found = self._pending.pop(int(frame.ref), None)
            if found is None or found.channel != frame.channel:
                checker.fail("attached", f"{self.name}: `attached` of {frame.channel} for ref {frame.ref}")
                return
            attachment = self.attachments[found.channel] = found
            self.attached_at[found.channel] = time.monotonic()
            attachment.on_attached(frame)
            if self._moved and self.progress[found.channel].start is not None:
                self.run.counts["resumes at another worker"] += 1
            self._targets[found.channel] = max(1, frame.ack_every)
        progress = self.progress[attachment.channel]
        if progress.start is not None and progress.epoch is None:
            # It waited before the first message: (null, 0) is as good as "start", also when some are gone by now.
            progress.skip(1, frame.serial)
        progress.begin(frame.serial, frame.epoch)

    def _on_skipped(self, frame: Frame) -> None:
        attachment = self.attachments.get(frame.channel or "")
        if attachment is None:
            self.run.checker.fail("attached", f"{self.name}: skipped on {frame.channel} before `attached`")
            return
        attachment.on_skipped(frame)
        self._late = deque(item for item in self._late if item[0] != frame.channel)
        if frame.first is not None and frame.to is not None:
            self.progress[attachment.channel].skip(frame.first, frame.to)

    def _on_error(self, frame: Frame) -> None:
        if frame.code == "unavailable" and isinstance(frame.ref, int):
            self.run.counts["attaches answered unavailable"] += 1
            attachment = self._pending.pop(frame.ref, None)
            if attachment is not None:
                self._later((frame.retry_after_ms or 500) / 4000, self._attach, attachment.channel)
        else:
            self.run.checker.fail("refused", f"{self.name}: {frame.code} {frame.message} on {frame.channel}")

    @property
    def where(self) -> str:
        """Its name, and how it reads."""
        return f"{self.name} ({self.style})"

    def _on_message(self, text: bytes, frame: Frame) -> None:
        channel = frame.channel or ""
        attachment = self.attachments.get(channel)
        if attachment is None:
            self.run.checker.fail("attached", f"{self.where}: message {frame.serial} of {channel} without attachment")
            return
        attachment.on_message(text, frame)
        serial = frame.serial
        origin = self.run.origins.get((frame.client or "", frame.id or ""))
        if origin is not None and self.worker and origin != self.worker:
            self.run.counts["deliveries from another worker"] += 1
            if self.run.news_away:
                self.run.counts["deliveries from another worker while Redis was away"] += 1
        match self.style:
            case "every" | "window 1":
                self._process(channel, serial)
                self._ack({channel: serial})
            case "window 0":
                self._process(channel, serial)
            case "late":
                self._late.append((channel, serial))
                if len(self._late) == 1:
                    self._later(self.random.uniform(0.02, 0.4), self._catch_up)
            case "cadence":
                self._process(channel, serial)
                self._unacked[channel] += 1
                if self._unacked[channel] >= self._targets[channel]:
                    self._ack_at_cadence(channel)
                elif self._unacked[channel] == 1:
                    self._later(attachment.ack_ms / 1000, self._ack_when_silent, channel, attachment)
            case "batched":
                self._process(channel, serial)
                if not self._dirty:
                    self._later(self.random.uniform(0.05, 0.3), self._flush)
                self._dirty.add(channel)
            case "stalled":
                self._process(channel, serial)
                if attachment.full and channel not in self._stalling:
                    self._stalling.add(channel)
                    self._later(STALL_S if self.run.chaos else 0.02, self._unstall, channel)
            case "riding":
                self._process(channel, serial)
                self._unacked[channel] += 1
                if self._unacked[channel] >= 7 and self.socket is not None:
                    self._unacked[channel] = 0
                    attachment.ack(serial)
                    self.socket.send({"type": "ping", "ref": "p", "acks": {channel: serial}})

    # ------------------------------------------------------------------ processing and acks

    def _process(self, channel: str, serial: int) -> None:
        self.progress[channel].process(serial)

    def _ack(self, serials: dict[str, int]) -> None:
        if self.socket is not None:
            for channel, serial in serials.items():
                self.attachments[channel].ack(serial)
            self.socket.send({"type": "ack", "serials": serials})

    def _ack_at_cadence(self, channel: str) -> None:
        attachment = self.attachments[channel]
        self._ack({channel: attachment.position})
        self._unacked[channel] = 0
        self._targets[channel] = self.random.randint((attachment.ack_every + 1) // 2, max(1, attachment.ack_every))

    def _ack_when_silent(self, channel: str, attachment: Attachment) -> None:
        """`ack_ms` after the last message, if that is still unacknowledged."""
        rest_s = attachment.heard_at + attachment.ack_ms / 1000 - time.monotonic()
        if rest_s > 0.001:
            self._later(rest_s, self._ack_when_silent, channel, attachment)
        elif self._unacked[channel]:
            self._ack_at_cadence(channel)

    def _later(self, delay_s: float, work: Callable[..., None], *args: Any) -> None:
        """On this connection only."""

        def run() -> None:
            # Not by its time: one that is due may not have run.
            self._timers.discard(timer)
            work(*args)

        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._timers.add(timer)

    def _catch_up(self) -> None:
        done: dict[str, int] = {}
        for _ in range(len(self._late)):
            channel, serial = self._late.popleft()
            self._process(channel, serial)
            done[channel] = serial
        self._ack(done)

    def _flush(self) -> None:
        self._ack({channel: self.progress[channel].position for channel in self._dirty})
        self._dirty.clear()

    def _unstall(self, channel: str) -> None:
        self._stalling.discard(channel)
        attachment = self.attachments[channel]
        if self.run.checker.heads[channel] > attachment.position:
            self.run.counts["stalls at the window"] += 1
        self._ack({channel: attachment.position})

    # ------------------------------------------------------------------ asked by the run

    @property
    def behind(self) -> bool:
        return any(each.behind for each in self.attachments.values())

    def deafen(self, seconds: float) -> None:
        """Reads nothing for so long."""
        socket = self.socket
        if socket is not None:
            self._deaf_until = time.monotonic() + seconds
            socket.deaf(on=True)
            asyncio.get_running_loop().call_later(seconds, lambda: socket.deaf(on=False))

    @property
    def held(self) -> bool:
        """Its own line is held down at the moment."""
        link = None if self.socket is None else self.run.proxy.links.get(self.socket.local_port)
        return time.monotonic() < self._deaf_until or (link is not None and link.hurt)

    def got(self, channel: str, serial: int) -> bool:
        """Whether the message has come to it, on the attachment that it has now."""
        attachment = self.attachments.get(channel)
        return attachment is not None and attachment.position >= serial

    def reached(self, heads: dict[str, int], since: float) -> bool:
        """Attached again since then, and everything through these heads is processed."""
        return all(
            self.attached_at.get(channel, 0.0) > since and progress.position >= heads.get(channel, 0)
            for channel, progress in self.progress.items()
        )

    def level(self, heads: dict[str, int]) -> bool:
        return all(progress.position >= heads.get(channel, 0) for channel, progress in self.progress.items())
