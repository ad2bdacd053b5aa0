"""Drives a session by hand: frames and completions in, effects out, with asserts of its own.

`Driver` keeps what is running in the order it was begun, so that a test completes requests by name, not by op.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from realtime.protocol import session
from realtime.protocol.errors import ProtocolError
from realtime.protocol.session import Close, Effect, Send, Session, SessionSettings, State

E = TypeVar("E")

TIME_MS = 1_763_812_345_678


class Driver:
    """One session, its clock, and everything it said since `take` was last called."""

    def __init__(self, ready: bool = True, expires_in_s: float | None = None, **settings: Any) -> None:
        self.now = 1000.0
        self.session = Session("c_1", SessionSettings(**settings), self.now)
        self.effects: list[Effect] = []
        self.running: dict[int, Any] = {}
        if ready:
            self.did(self.session.open("token"))
            self.identify(expires_in_s=expires_in_s)
            self.take()

    def did(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, session.Attach | session.Publish | session.History | session.Presence):
                assert effect.op not in self.running
                self.running[effect.op] = effect
        self.effects += effects
        return effects

    # -- what comes in -----------------------------------------------------------------------------------------------

    def send(self, *frames: object) -> None:
        """Frames of the client: dicts, or texts as they are."""
        for frame in frames:
            text = frame if isinstance(frame, str) else json.dumps(frame)
            self.did(self.session.receive(text, self.now, TIME_MS))

    def identify(self, client: str = "ana", expires_in_s: float | None = None, ref: str | int | None = None) -> None:
        self.did(self.session.identified(client, expires_in_s, ref, self.now, TIME_MS))

    def refuse(self, ref: str | int | None = None) -> None:
        self.did(self.session.refused(ProtocolError("unauthorized"), ref))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.did(self.session.wake(self.now))

    def op_of(self, ref: object) -> int:
        return next(op for op, effect in self.running.items() if self._ref_of(effect) == ref)

    def complete(self, ref: object) -> None:
        """The running request with this ref succeeds."""
        op = self.op_of(ref)
        effect = self.running.pop(op)
        match effect:
            case session.Publish():
                answer: dict[str, object] = {"channel": effect.channel, "serials": [op]}
                self.did(self.session.published(op, answer, self.now, TIME_MS))
            case session.Attach():
                self.session.admit(effect.channel)
                frame: dict[str, object] = {"type": "attached", "channel": effect.channel}
                self.did(self.session.attached(op, frame, self.now, TIME_MS))
            case session.History():
                self.did(self.session.done(op, {"type": "history"}, self.now, TIME_MS))
            case session.Presence():
                self.did(self.session.done(op, {"type": "ok"}, self.now, TIME_MS))

    def fail(self, ref: object, code: str = "forbidden", attached: bool = False) -> None:
        """The running request with this ref is refused."""
        op = self.op_of(ref)
        del self.running[op]
        self.did(self.session.failed(op, ProtocolError(code), attached, self.now, TIME_MS))

    def attach(self, channel: str) -> None:
        """Attaches to a channel, start to end."""
        self.send({"type": "attach", "ref": "driver", "channel": channel})
        self.complete("driver")
        self.take()

    def _ref_of(self, effect: Any) -> object:
        return self.session._running[effect.op].ref

    def full(self) -> bool:
        return self.session.full

    # -- what went out -----------------------------------------------------------------------------------------------

    def take(self) -> list[Effect]:
        taken, self.effects = self.effects, []
        return taken

    def assert_begun(self, *refs: object) -> None:
        """Exactly these requests are running, begun in this order."""
        assert [self._ref_of(effect) for effect in self.running.values()] == list(refs)

    def assert_sent(self, *expected: dict[str, object]) -> None:
        """Exactly these frames went out, each with at least these fields; other effects are not looked at."""
        sent = self.sent()
        assert len(sent) == len(expected), sent
        for frame, fields in zip(sent, expected, strict=True):
            assert {name: frame.get(name) for name in fields} == fields, frame

    def assert_error(self, code: str, ref: object = None) -> None:
        self.assert_sent({"type": "error", "code": code, "ref": ref})

    def assert_silent(self) -> None:
        assert self.take() == []

    def assert_closed(self, code: int, *expected: dict[str, object]) -> None:
        """These frames went out, then the close, then nothing."""
        assert self.effects and isinstance(self.effects[-1], Close), self.effects
        close = self.effects.pop()
        assert isinstance(close, Close) and close.code == code and close.reason
        assert self.session.state is State.CLOSED
        self.assert_sent(*expected)

    def sent(self) -> list[dict[str, Any]]:
        return [effect.frame for effect in self.take() if isinstance(effect, Send)]

    def only(self, kind: type[E]) -> E:
        """The one effect of this kind."""
        found = [effect for effect in self.take() if isinstance(effect, kind)]
        assert len(found) == 1
        return found[0]


def publish(ref: object, channel: str = "chat:a", *, chained: bool = False, **more: object) -> dict[str, object]:
    return {"type": "publish", "ref": ref, "channel": channel, "messages": [{}], "chained": chained, **more}


def attach(ref: object, channel: str = "chat:a", **more: object) -> dict[str, object]:
    return {"type": "attach", "ref": ref, "channel": channel, **more}


def detach(ref: object, channel: str = "chat:a") -> dict[str, object]:
    return {"type": "detach", "ref": ref, "channel": channel}


def history(ref: object, channel: str = "chat:a") -> dict[str, object]:
    return {"type": "history", "ref": ref, "channel": channel}


def presence(ref: object, channel: str = "chat:a") -> dict[str, object]:
    return {"type": "presence", "ref": ref, "channel": channel, "action": "enter"}


def signal(ref: object, channel: str = "chat:a") -> dict[str, object]:
    return {"type": "signal", "ref": ref, "channel": channel, "event": "typing"}


def ping(ref: object) -> dict[str, object]:
    return {"type": "ping", "ref": ref}


def ack(**serials: int) -> dict[str, object]:
    return {"type": "ack", "serials": serials}


def auth(ref: object = None, token: str = "t") -> dict[str, object]:
    return {"type": "auth", "ref": ref, "token": token}


BAD = "no json"
UNKNOWN = {"type": "dance", "ref": "u"}
