"""What an application gets: messages, receipts, pages, discontinuities. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seriatim_client.frames import HistoryFrame, MessageFrame, PublishedFrame
from seriatim_client.positions import Position


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the log. `client` is None when a backend published without one.

    `snapshot`: it is a part of the state that `from_="latest"` begins with, not of the stream.
    """

    channel: str
    epoch: str | None
    serial: int
    id: str
    time: int
    client: str | None
    event: str
    key: str | None
    data: Any
    snapshot: bool = False

    @property
    def position(self) -> Position:
        """The position of one who has processed it."""
        return Position(self.epoch, self.serial)

    @classmethod
    def of(cls, frame: MessageFrame, epoch: str | None) -> Message:
        return cls(
            frame.channel,
            epoch,
            frame.serial,
            frame.id,
            frame.time,
            frame.client,
            frame.event,
            frame.key,
            frame.data,
            frame.snapshot,
        )


@dataclass(frozen=True, slots=True)
class Published:
    """The message is stored, at this serial.

    `duplicate`: an earlier try stored it. `conflict`: it was stored before with other data, which stays.
    """

    id: str
    channel: str
    epoch: str
    serial: int
    duplicate: bool
    conflict: bool

    @classmethod
    def of(cls, answer: PublishedFrame, index: int, id: str) -> Published:
        return cls(
            id,
            answer.channel,
            answer.epoch,
            answer.serials[index],
            index in answer.duplicates,
            index in answer.conflicts,
        )


@dataclass(frozen=True, slots=True)
class SkippedRange:
    """Serials of the asked range that retention took."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of the log. `epoch` is None when the channel was never used; `more`: the asked range goes on."""

    channel: str
    epoch: str | None
    oldest: int
    head: int
    messages: tuple[Message, ...]
    more: bool
    skipped: SkippedRange | None

    @classmethod
    def of(cls, frame: HistoryFrame) -> HistoryPage:
        return cls(
            frame.channel,
            frame.epoch,
            frame.oldest,
            frame.head,
            tuple(Message.of(each, frame.epoch) for each in frame.messages),
            frame.more,
            None if frame.skipped is None else SkippedRange(*frame.skipped),
        )


@dataclass(frozen=True, slots=True)
class Discontinuity:
    """What cannot be had: the serials from `first` to `last`, or, when both are None, all that the old epoch had.

    `reason`: `retention`, `epoch`, `conflated`; `cursor`: another connection moved the cursor on; `unexplained`: the
    server moved on and did not say why.
    """

    channel: str
    first: int | None
    last: int | None
    reason: str
    before: Position | None
    position: Position


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Forget the state: `count` messages marked `snapshot` follow, all of them, then what is new."""

    channel: str
    position: Position
    count: int


@dataclass(frozen=True, slots=True)
class Load:
    """The state of the application is to be loaded: it stands at `position` or further."""

    channel: str
    position: Position
