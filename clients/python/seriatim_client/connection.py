"""One connection, from dialling to its end: refs and answers, acks that ride along, heartbeat. Pure.

It never reconnects; the core dials the next one.

    dialling ──opened──▶ greeting ──ready──▶ ready
        └───────────────────┴──────────────────┴──▶ lost (once; nothing is told after it)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from seriatim_client.clock import LATE_MS, Clock
from seriatim_client.data import byte_count
from seriatim_client.frames import Ready, Ref, ServerFrame, parse_frame
from seriatim_client.latency import SLOW_MS

READY_WITHIN_MS: Final = 15_000
"""From dialling to `ready`. Longer than the 10 s in which the server waits for credentials."""
PROBE_WITHIN_MS: Final = 10_000
"""From a probe to the first sign of life."""
ANSWER_WITHIN_MS: Final = 60_000
"""From a request to its answer. The server gives up on its database long before; a thin line may need most of it."""

NOTHING_CAME: Final = "no answer while connecting"
"""Reason of a connection that never became ready in time."""

_HEADER_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
"""What a header can carry; every JWT is such."""

OnAnswer = Callable[[ServerFrame], None]
"""Gets the answer or the `ErrorFrame`. Never called when the line is lost first."""


class Events(Protocol):
    """What a connection tells."""

    def is_ready(self, frame: Ready) -> None: ...
    def came(self, frame: ServerFrame, size_bytes: int) -> None:
        """A frame that answers no request."""

    def took(self, ms: float) -> None:
        """An answer took so long, or one is awaited for so long already."""

    def is_lost(self, code: int, reason: str, heard_at_ms: float) -> None: ...
    def take_acks(self) -> dict[str, int] | None:
        """Acks to ride on a frame that is sent anyway."""

    def write(self, text: str) -> None: ...


@dataclass(slots=True)
class _Request:
    on_answer: OnAnswer
    sent_at_ms: float
    is_late: bool = False


class Connection:
    """`code` of `is_lost` is 1006 for a line that broke or fell silent."""

    def __init__(self, clock: Clock, events: Events, token: str | None) -> None:
        self._clock = clock
        self._events = events
        self._token = token
        self._has_ended = False
        self._is_ready = False
        self._next_ref = 1
        self._pending: dict[Ref, _Request] = {}
        """In the order sent."""
        self._opened_at_ms = clock.now_ms
        self.heard_at_ms = clock.now_ms
        self._probed_at_ms: float | None = None
        self._silence_ms = inf
        self._max_frame_bytes = inf
        self._timer = clock.timer(self._watch)
        self._timer.set(READY_WITHIN_MS)

    @property
    def is_ready(self) -> bool:
        return self._is_ready and not self._has_ended

    @property
    def header_token(self) -> str | None:
        """The token that the handshake carries; what no header can carry goes into the first frame."""
        return self._token if self._token is not None and _HEADER_TOKEN.fullmatch(self._token) else None

    def opened(self) -> None:
        self._heard()
        if self._token is not None and self.header_token is None:
            self._events.write(json.dumps({"type": "auth", "ref": 0, "token": self._token}))

    def received(self, text: str) -> None:
        self._heard()
        frame = parse_frame(text)
        if frame is None:
            return
        if isinstance(frame, Ready) and not self._is_ready:
            self._is_ready = True
            self._silence_ms = frame.heartbeat_ms * 1.5 if frame.heartbeat_ms > 0 else inf
            self._max_frame_bytes = frame.max_frame_bytes
            self._schedule()
            self._events.is_ready(frame)
            return
        request = None if frame.ref is None else self._pending.pop(frame.ref, None)
        if request is None:
            self._events.came(frame, byte_count(text))
            return
        self._events.took(max(0.0, self._clock.now_ms - request.sent_at_ms))
        if not self._has_ended:
            request.on_answer(frame)

    def send(self, frame: dict[str, Any], raw: str = "") -> None:
        """Sends a frame that has no answer. `raw`: more fields, as JSON text, encoded once by the caller."""
        if not self._has_ended:
            self._events.write(self._encode(frame, raw))

    def request(self, frame: dict[str, Any], on_answer: OnAnswer, raw: str = "") -> None:
        """Sends a frame with a `ref`. When the line is lost first, whoever asked asks again on the next one."""
        if self._has_ended:
            return
        ref = self._next_ref
        self._next_ref += 1
        self._pending[ref] = _Request(on_answer, self._clock.now_ms)
        self._timer.set_sooner(SLOW_MS)
        self._events.write(self._encode({**frame, "ref": ref}, raw))

    def probe(self) -> None:
        """Asks for a sign of life. The line counts as lost when none comes."""
        if not self.is_ready or self._probed_at_ms is not None:
            return
        self._probed_at_ms = self._clock.now_ms
        self.request({"type": "ping"}, lambda answer: None)
        self._timer.set_sooner(PROBE_WITHIN_MS)

    def end(self) -> None:
        """Nothing is told or sent any more."""
        self._has_ended = True
        self._timer.clear()
        self._pending.clear()

    def lost(self, code: int, reason: str) -> None:
        if self._has_ended:
            return
        self.end()
        self._events.is_lost(code, reason, self.heard_at_ms)

    def _heard(self) -> None:
        self.heard_at_ms = self._clock.now_ms
        self._probed_at_ms = None

    def _encode(self, frame: dict[str, Any], raw: str) -> str:
        text = json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
        if raw:
            text = f"{text[:-1]},{raw}}}"
        # Acks ride along, unless the frame is near its limit already.
        if frame["type"] == "ack" or not self._is_ready or len(text) * 4 > self._max_frame_bytes:
            return text
        acks = self._events.take_acks()
        return text if acks is None else f'{text[:-1]},"acks":{json.dumps(acks, separators=(",", ":"))}}}'

    def _watch(self, late_ms: float) -> None:
        now_ms = self._clock.now_ms
        if not self._is_ready:
            # After a stop of the process the time to connect counts anew: the answer may wait in the socket.
            if late_ms > LATE_MS:
                self._opened_at_ms = now_ms
            if now_ms - self._opened_at_ms >= READY_WITHIN_MS:
                self.lost(1006, NOTHING_CAME)
            else:
                self._schedule()
            return
        if late_ms > LATE_MS:
            # Nothing ran for a while, so silence proves nothing yet. Ask, and judge by what comes.
            self._probed_at_ms = None
            for request in self._pending.values():
                request.sent_at_ms += late_ms
            self.probe()
            self._schedule()
            return
        if self._probed_at_ms is not None and now_ms - self._probed_at_ms >= PROBE_WITHIN_MS:
            self.lost(1006, "no sign of life")
            return
        oldest = next(iter(self._pending.values()), None)
        if oldest is not None:
            age_ms = now_ms - oldest.sent_at_ms
            if age_ms >= ANSWER_WITHIN_MS:
                self.lost(1006, "a request was not answered")
                return
            if age_ms >= SLOW_MS and not oldest.is_late:
                oldest.is_late = True
                self._events.took(age_ms)
        if now_ms - self.heard_at_ms >= self._silence_ms:
            self.probe()
        self._schedule()

    def _schedule(self) -> None:
        if self._has_ended:
            return
        if not self._is_ready:
            due_ms = self._opened_at_ms + READY_WITHIN_MS
        else:
            due_ms = (
                self.heard_at_ms + self._silence_ms
                if self._probed_at_ms is None
                else self._probed_at_ms + PROBE_WITHIN_MS
            )
            oldest = next(iter(self._pending.values()), None)
            if oldest is not None:
                due_ms = min(due_ms, oldest.sent_at_ms + (ANSWER_WITHIN_MS if oldest.is_late else SLOW_MS))
        if due_ms < inf:
            self._timer.set(due_ms - self._clock.now_ms)
