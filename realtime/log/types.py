"""What goes in and out of the log: appends, their outcomes, news, states and pages. No SQL here.

`Append` is mutable on purpose: it travels from a connection through the writer's thread and back, and is settled in
place, so that a round of a thousand messages makes no second set of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage
from realtime.protocol.names import ChannelName

#: Memory and transaction size of one message beside its data: id, event, envelope, object overhead.
MESSAGE_OVERHEAD_BYTES = 256


class LogState(NamedTuple):
    """What a log has: serials `oldest` to `head` of `epoch`; an empty log has oldest = head + 1.

    A channel that was never published to has epoch None, oldest 1, head 0, last_time 0, and a `channel_id` only when
    an operator has made it.
    """

    channel_id: int | None
    epoch: str | None
    oldest: int
    head: int
    last_time: int


NEVER_USED = LogState(None, None, 1, 0, 0)

Known = tuple[int | None, str | None, int]
"""What a hub knows of a log: channel id, epoch, and the serial it has reached. A plain tuple, since a sweep makes ten
thousand of them."""


# A Struct: a frozen dataclass takes four times as long to make, once per append.
class Published(msgspec.Struct, frozen=True):
    """The outcome of an append that is committed: `serials[i]` belongs to `messages[i]`.

    `duplicates` are the indices of messages that were known already (their serial is the first one's), `conflicts`
    those among them whose data differs: the first one won.
    """

    channel: ChannelName
    epoch: str
    serials: list[int]
    duplicates: list[int]
    conflicts: list[int]


@dataclass(frozen=True, slots=True)
class News:
    """New messages of one channel, committed together: `frames` are the envelopes of serials first, first + 1, …

    A round has one per channel; one that had to be split because of a bad row may have several, in order.
    """

    channel: ChannelName
    channel_id: int
    epoch: str
    first: int
    frames: list[str]


@dataclass(slots=True, eq=False)
class Append:
    """Messages for one channel, stored all or none, in order.

    `client` is the publisher's id, "" for none; every message must have an id. `previous` makes it chained: it fails
    with `order` when that append failed, and must have been submitted after it. With `create` False a channel that
    does not exist is `not_found`. `fresh` are ids that the server has just made: they cannot be known, so nobody looks
    them up. `tag` is the caller's. `outcome` is set exactly once, by the log, before `on_round` is called with it.
    """

    channel: ChannelName
    client: str
    messages: Sequence[NewMessage]
    previous: Append | None = None
    create: bool = True
    fresh: frozenset[str] = frozenset()
    tag: object = None
    outcome: Published | ProtocolError | None = None
    size_bytes: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.size_bytes = MESSAGE_OVERHEAD_BYTES * len(self.messages) + sum([len(m.data) for m in self.messages])

    def settle(self, outcome: Published | ProtocolError) -> None:
        """Set the outcome and let go of `previous`: a chain must not keep a connection's whole past alive."""
        self.outcome = outcome
        self.previous = None


class Skipped(NamedTuple):
    """Serials `first` to `last` of an asked range, which retention took."""

    first: int
    last: int
    reason: Literal["retention"]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a channel's history; `messages` are envelopes in the asked order.

    `more` says that the asked range goes on beyond the page with messages that are retained.
    """

    epoch: str | None
    oldest: int
    head: int
    messages: list[str]
    more: bool
    skipped: Skipped | None = None
