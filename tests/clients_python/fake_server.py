"""A server in memory that speaks the wire, strictly, and a bench that puts a core before it.

It keeps windows, refuses acks beyond what was sent, and fails chained publishes. A test moves every frame by hand, so
it can cut a line between any two. `violations` is the point: what a client must never do stands there, so that a test
of something else finds it too.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from realtime.protocol.fossil import delta
from realtime.protocol.frames import FrameError, parse_frame
from seriatim_client.core import Core, CoreOptions
from seriatim_client.effects import Dial, Effect, End, Fail, FetchToken, Hangup, Send, Settle, Tell
from seriatim_client.errors import SeriatimError
from seriatim_client.line_state import State

Frame = dict[str, Any]


@dataclass
class Log:
    epoch: str | None = None
    oldest: int = 1
    head: int = 0
    rows: dict[int, Frame] = field(default_factory=dict)
    ids: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class Followed:
    """An attachment as the server sees it."""

    channel: str
    sent: int
    acked: int
    window: int
    epoch: str | None
    cursor: str | None = None
    has_acked: bool = False
    delta: bool = False
    held: tuple[int, str] | None = None
    """With deltas: serial and data of the message before, as JSON."""

    def told(self, row: Frame) -> Frame:
        """The message as this attachment is sent it; a difference wherever there can be one, however long."""
        if not self.delta:
            return row
        held, text = self.held, json.dumps(row["data"])
        self.held = (row["serial"], text)
        if held is None:
            return row | {"data": text}
        return row | {"base": held[0], "data": delta(held[1].encode(), text.encode())}


class FakeServer:
    def __init__(self, client: str | None = "ana") -> None:
        self.client = client
        self.allows_delta = True
        self.now_ms = 1_763_812_345_000.0
        self.violations: list[str] = []
        self.links: list[Link] = []
        self.logs: dict[str, Log] = {}
        self.cursors: dict[tuple[str, str], tuple[str | None, int]] = {}
        self.window = 256
        self.ack_every = 128
        self.ack_ms = 10_000
        self.expires_ms: float | None = None
        self.heartbeat_ms = 25_000
        self.max_frame_bytes = 1_048_576
        self.refuse: Callable[[Frame, Link], Frame | None] = lambda frame, link: None
        """Gives an error to refuse a frame with."""
        self.greet: Callable[[Link], tuple[int, str] | None] = lambda link: None
        """Gives a close code, to end the connection when it opens."""
        self._epochs = 0

    @property
    def link(self) -> Link | None:
        """The newest connection."""
        return self.links[-1] if self.links else None

    def log(self, channel: str) -> Log:
        return self.logs.setdefault(channel, Log())

    def publish(
        self,
        channel: str,
        data: Any,
        id: str,
        *,
        client: str = "bo",
        event: str = "message",
        key: str | None = None,
    ) -> tuple[int, bool, bool]:
        """Stores a message, as any publisher does: serial, duplicate, conflict."""
        log = self.log(channel)
        is_first = log.epoch is None
        if is_first:
            log.epoch = self.new_epoch()
        known = log.ids.get((client, id))
        if known is not None:
            return known, True, known in log.rows and log.rows[known]["data"] != data
        log.head += 1
        frame = {"type": "message", "channel": channel, "serial": log.head, "id": id, "time": int(self.now_ms)}
        frame |= {"client": client, "event": event, "data": data}
        if key is not None:
            frame["key"] = key
        log.rows[log.head] = frame
        log.ids[client, id] = log.head
        for link in self.links:
            link.news(channel, is_first)
        return log.head, False, False

    def new_epoch(self) -> str:
        self._epochs += 1
        return f"ep0{self._epochs}"

    def prune(self, channel: str, serial: int) -> None:
        """Rows through `serial` are gone."""
        log = self.log(channel)
        for at in range(log.oldest, serial + 1):
            log.rows.pop(at, None)
        log.oldest = max(log.oldest, serial + 1)
        for link in self.links:
            link.news(channel, False)

    def start_anew(self, channel: str) -> None:
        """The log gets another epoch; rows and serials stay."""
        self.log(channel).epoch = self.new_epoch()
        for link in self.links:
            link.anew(channel)


class Link:
    """One connection: two directions of frames on their way."""

    def __init__(self, server: FakeServer, try_number: int, token: str | None, core: Core) -> None:
        self.server = server
        self.try_number = try_number
        self.token = token
        self.core = core
        self.to_server: deque[str] = deque()
        self.to_client: deque[str | tuple[int, str] | None] = deque([None])
        """None: the socket opens; a pair: it closes."""
        self.read: list[Frame] = []
        self.wrote: list[Frame] = []
        self.followed: dict[str, Followed] = {}
        self.failed: dict[str, bool] = {}
        self.is_over = False
        self.is_ready = False
        self.closed_with: int | None = None

    # -- what a test does --------------------------------------------------------------------------------------------

    def move_up(self) -> bool:
        if not self.to_server or self.is_over:
            return False
        text = self.to_server.popleft()
        try:
            parse_frame(text)
        except FrameError as error:
            self.server.violations.append(f"{error}: {text}")
        self.handle(json.loads(text))
        return True

    def move_down(self) -> bool:
        if not self.to_client or self.is_over:
            return False
        item = self.to_client.popleft()
        now_ms = self.server.now_ms
        if item is None:
            self.core.opened(self.try_number, now_ms)
            self.opened()
        elif isinstance(item, str):
            self.core.received(self.try_number, item, now_ms)
        else:
            self.is_over = True
            self.leave()
            self.core.lost(self.try_number, *item, now_ms)
        return True

    def cut(self) -> None:
        """The line breaks: what is on its way is lost."""
        if not self.is_over:
            self.is_over = True
            self.leave()
            self.core.lost(self.try_number, 1006, "", self.server.now_ms)

    def close(self, code: int, reason: str = "") -> None:
        """The server closes, after what it wrote before."""
        self.to_client.append((code, reason))

    def write(self, frame: Frame) -> None:
        if not self.is_over:
            self.wrote.append(frame)
            self.to_client.append(json.dumps(frame))

    # -- the wire ----------------------------------------------------------------------------------------------------

    def hung_up(self, code: int) -> None:
        self.closed_with = code
        if self.is_over:
            return
        while self.to_server:  # what was sent before a close still arrives
            self.move_up()
        self.is_over = True
        self.leave()

    def leave(self) -> None:
        for followed in self.followed.values():
            self.store_cursor(followed)
        self.followed.clear()

    def opened(self) -> None:
        end = self.server.greet(self)
        if end:
            self.close(*end)
        else:
            self.be_ready()

    def be_ready(self, **more: Any) -> None:
        self.is_ready = True
        server = self.server
        self.write(
            {
                "type": "ready",
                "protocol": 1,
                "connection": f"c{len(server.links)}",
                "client": server.client,
                "time": int(server.now_ms),
                "expires_ms": server.expires_ms,
                "heartbeat_ms": server.heartbeat_ms,
                "max_frame_bytes": server.max_frame_bytes,
                "max_message_bytes": 65_536,
                "max_attachments": 200,
                "worker": "w1",
                **more,
            }
        )

    def handle(self, frame: Frame) -> None:
        self.read.append(frame)
        if "acks" in frame:
            self.ack(frame["acks"])
        refusal = self.server.refuse(frame, self)
        if refusal is not None:
            if frame["type"] == "publish":
                self.failed[frame["channel"]] = True
            said = {"type": "error", "ref": frame.get("ref"), "channel": frame.get("channel")}
            self.write({k: v for k, v in said.items() if v is not None} | {"message": "m", "remedy": "r"} | refusal)
            return
        match frame["type"]:
            case "auth":
                self.token = frame["token"]
                self.write({"type": "authenticated", "ref": frame["ref"], "expires_ms": self.server.expires_ms})
            case "ping":
                self.write({"type": "pong", "ref": frame["ref"], "time": int(self.server.now_ms)})
            case "attach":
                self.attach(frame)
            case "detach":
                followed = self.followed.pop(frame["channel"], None)
                if followed is not None:
                    self.store_cursor(followed)
                self.write({"type": "detached", "ref": frame["ref"], "channel": frame["channel"]})
            case "ack":
                self.ack(frame["serials"])
            case "publish":
                self.publish(frame)
            case "history":
                self.history(frame)
            case "signal":
                pass
            case other:
                self.server.violations.append(f"unknown type {other}")

    def attach(self, frame: Frame) -> None:
        server, channel, given = self.server, frame["channel"], frame["from"]
        log = server.log(channel)
        position: tuple[str | None, int] | None = None
        cursor = None
        if isinstance(given, dict) and "serial" in given:
            position = (given["epoch"], given["serial"])
        elif isinstance(given, dict) and "cursor" in given:
            cursor = given["cursor"]
            position = server.cursors.setdefault((channel, cursor), (log.epoch, log.head))
        serial = log.head
        skipped: Frame | None = None
        if position is not None:
            epoch, at = position
            if epoch is None and at == 0:
                serial = log.oldest - 1
            elif epoch != log.epoch or at > log.head:
                serial, skipped = log.oldest - 1, {"from": None, "to": None, "reason": "epoch"}
            elif at < log.oldest - 1:
                serial = log.oldest - 1
                skipped = {"from": at + 1, "to": serial, "reason": "retention"}
            else:
                serial = at
        elif given == "start":
            serial = log.oldest - 1
        elif isinstance(given, dict) and "rewind" in given:
            serial = max(log.oldest - 1, log.head - given["rewind"])
        window = min(frame.get("window", 256), server.window)
        followed = self.followed[channel] = Followed(channel, serial, serial, window, log.epoch, cursor)
        followed.delta = frame.get("delta") == "fossil" and server.allows_delta
        self.write(self.attached(followed, log, serial, skipped is None) | {"ref": frame["ref"]})
        if skipped is not None:
            self.write({"type": "skipped", "channel": channel, "epoch": log.epoch, **skipped})
        if given == "latest":
            newest = {row["key"]: row for row in log.rows.values() if "key" in row}
            for row in sorted(newest.values(), key=lambda each: int(each["serial"])):
                self.write(followed.told(row) | {"snapshot": True})
                followed.held = None
            self.write({"type": "snapshot.end", "channel": channel, "epoch": log.epoch, "serial": log.head})
            followed.sent = followed.acked = log.head
        self.news(channel, False)

    def attached(self, followed: Followed, log: Log, serial: int, resumed: bool) -> Frame:
        every = min(self.server.ack_every, followed.window)
        frame = {
            "type": "attached",
            "channel": followed.channel,
            "epoch": log.epoch,
            "serial": serial,
            "head": log.head,
            "resumed": resumed,
            "window": followed.window,
            "ack_every": every,
            "ack_ms": self.server.ack_ms,
        }
        return frame | {"delta": "fossil"} if followed.delta else frame

    def news(self, channel: str, is_first: bool) -> None:
        """Writes what the window allows."""
        followed = self.followed.get(channel)
        if followed is None or self.is_over:
            return
        log = self.server.log(channel)
        if is_first:
            self.unasked(followed, log, 0, True)
        if followed.sent < log.oldest - 1:
            to = log.oldest - 1
            said: Frame = {
                "type": "skipped",
                "channel": channel,
                "epoch": log.epoch,
                "from": followed.sent + 1,
                "to": to,
            }
            self.write(said | {"reason": "retention"})
            followed.sent = followed.acked = to
            followed.held = None
        while followed.sent < log.head and (followed.window == 0 or followed.sent - followed.acked < followed.window):
            followed.sent += 1
            self.write(followed.told(log.rows[followed.sent]))

    def anew(self, channel: str) -> None:
        followed = self.followed.get(channel)
        if followed is not None:
            log = self.server.log(channel)
            self.unasked(followed, log, log.oldest - 1, False)
            self.write(
                {"type": "skipped", "channel": channel, "epoch": log.epoch, "from": None, "to": None, "reason": "epoch"}
            )
            self.news(channel, False)

    def unasked(self, followed: Followed, log: Log, serial: int, resumed: bool) -> None:
        followed.sent = followed.acked = serial
        followed.has_acked = False
        followed.held = None
        followed.epoch = log.epoch
        self.write(self.attached(followed, log, serial, resumed))

    def ack(self, serials: dict[str, int]) -> None:
        for channel, serial in serials.items():
            followed = self.followed.get(channel)
            if followed is None:
                continue
            if followed.window == 0:
                self.server.violations.append("an ack with window 0")
            if serial > followed.sent:
                if followed.has_acked:
                    self.server.violations.append(f"bad_ack: {serial} beyond {followed.sent} in {channel}")
                continue
            followed.has_acked = True
            if serial > followed.acked:
                followed.acked = serial
                self.news(channel, False)

    def store_cursor(self, followed: Followed) -> None:
        if followed.cursor is None:
            return
        key = (followed.channel, followed.cursor)
        epoch, serial = self.server.cursors[key]
        if epoch != followed.epoch or serial < followed.acked:
            self.server.cursors[key] = (followed.epoch, followed.acked)

    def publish(self, frame: Frame) -> None:
        channel, server = frame["channel"], self.server
        if frame.get("chained") and self.failed.get(channel):
            self.write({"type": "error", "ref": frame["ref"], "code": "order", "message": "", "channel": channel})
            return
        outcomes = [
            server.publish(channel, m["data"], m["id"], client=server.client or "", event=m["event"], key=m.get("key"))
            for m in frame["messages"]
        ]
        self.failed[channel] = False
        self.write(
            {
                "type": "published",
                "ref": frame["ref"],
                "channel": channel,
                "epoch": server.log(channel).epoch,
                "serials": [serial for serial, _, _ in outcomes],
                "duplicates": [index for index, (_, known, _) in enumerate(outcomes) if known],
                "conflicts": [index for index, (_, _, other) in enumerate(outcomes) if other],
            }
        )

    def history(self, frame: Frame) -> None:
        log = self.server.log(frame["channel"])
        before, after, limit = frame.get("before", 2**53), frame.get("after"), frame.get("limit", 100)
        rows = [row for serial, row in sorted(log.rows.items()) if (after or 0) < serial < before]
        if after is None:
            rows.reverse()
        page: Frame = {"type": "history", "ref": frame["ref"], "channel": frame["channel"], "epoch": log.epoch}
        page |= {"oldest": log.oldest, "head": log.head, "messages": rows[:limit], "more": len(rows) > limit}
        self.write(page)


class Bench:
    """A core before a `FakeServer`: performs its effects, and moves time and frames by hand."""

    def __init__(
        self, random: Callable[[], float], options: CoreOptions | None = None, client: str | None = "ana"
    ) -> None:
        self.server = FakeServer(client)
        self.core = Core(random, self.server.now_ms, options)
        self.token: Callable[[str], str | None] = lambda reason: "header.claims.signature"
        self.answers: dict[object, object] = {}
        """What became of each request, by its handle."""
        self.told: list[object] = []
        self.ended: list[tuple[str, SeriatimError | None]] = []
        self.states: list[str] = []

    @property
    def now_ms(self) -> float:
        return self.server.now_ms

    @property
    def link(self) -> Link:
        assert self.server.link is not None
        return self.server.link

    def perform(self) -> None:
        while effects := self.core.take_effects():
            for effect in effects:
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Dial(try_number, token, _):
                self.server.links.append(Link(self.server, try_number, token, self.core))
            case Send(try_number, text):
                self.find(try_number).to_server.append(text)
            case Hangup(try_number, code, _):
                self.find(try_number).hung_up(code)
            case FetchToken(try_number, reason):
                try:
                    token = self.token(reason)
                except SeriatimError as error:
                    self.core.token_failed(try_number, error.code == "unauthorized", error.message, self.now_ms)
                else:
                    self.core.token_given(try_number, token, self.now_ms)
            case Settle(handle, value):
                assert handle not in self.answers, "answered twice"
                self.answers[handle] = value
            case Fail(handle, error):
                assert handle not in self.answers, "answered twice"
                self.answers[handle] = error
            case End(name, _, error):
                self.ended.append((name, error))
            case Tell(notice):
                self.told.append(notice)
                if isinstance(notice, State):
                    self.states.append(notice.name.value)

    def find(self, try_number: int) -> Link:
        return next(link for link in self.server.links if link.try_number == try_number)

    def up(self) -> bool:
        moved = self.server.link is not None and self.server.link.move_up()
        self.perform()
        return moved

    def down(self) -> bool:
        moved = self.server.link is not None and self.server.link.move_down()
        self.perform()
        return moved

    def settle(self) -> None:
        """Moves everything that is on its way, in both directions, until nothing is."""
        self.perform()
        while self.up() or self.down():
            pass

    def cut(self) -> None:
        self.link.cut()
        self.perform()

    def advance(self, ms: float, *, moving: bool = False) -> None:
        """Moves time, running what falls due on the way at its own moment."""
        end_ms = self.now_ms + ms
        while (at_ms := self.core.next_at_ms) is not None and at_ms <= end_ms:
            self.server.now_ms = max(self.now_ms, at_ms)
            self.core.tick(self.now_ms)
            self.perform()
            if moving:
                self.settle()
        self.server.now_ms = end_ms
        self.core.tick(end_ms)
        self.perform()

    def sleep(self, ms: float) -> None:
        """Moves time while nothing runs, as when a machine sleeps; what fell due fires late."""
        self.server.now_ms += ms
        self.core.tick(self.now_ms)
        self.perform()

    def connect(self) -> None:
        self.core.connect(self.now_ms)
        self.settle()

    def follow(self, name: str, from_: Any = "head", window: int | None = None) -> None:
        self.core.channel(name, from_, window)
        self.core.want(name, self.now_ms)
        self.settle()

    def publish(self, channel: str, data: Any, id: str | None = None) -> object:
        handle = object()
        self.core.publish(handle, channel, id, "message", None, data, self.now_ms)
        self.perform()
        return handle

    def pull(self, name: str) -> Any:
        step = self.core.next_step(name, self.now_ms)
        self.perform()
        return step

    def processed(self, name: str, yes: bool = True) -> None:
        self.core.settle(name, yes, self.now_ms)
        self.perform()
