"""Signals: what is never stored, and what is kept of them under pressure: the newest of each client and event.

Pure. One queue serves wherever signals wait: for a turn of the loop, for the channel layer, for a socket that takes
nothing. See docs/reference/protocol.md, "Signals".
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from realtime.protocol.names import ChannelName


class Signal(NamedTuple):
    """A signal on its way; `frame` is the text that clients get, `client` "" is the application itself."""

    channel: ChannelName
    client: str
    event: str
    frame: str
    to: str = ""
    """The only client that gets it; "": all who are attached."""

    @property
    def kind(self) -> tuple[ChannelName, str, str, str]:
        """Of two of a kind the newer one makes the older one worthless."""
        return self.channel, self.client, self.event, self.to


class SignalQueue:
    """Signals in order, each with whom it came from; bounded by number and by characters of their frames.

    While there is room all are kept. From when there is none until the queue is emptied, only the newest of each
    kind (channel, client, event, and to whom) is, in the place of the newest; if even those are too many, the oldest
    go. One signal always fits. `newest_only`: so from the beginning.
    """

    __slots__ = ("_items", "_next", "_pressed", "_size", "dropped", "most", "most_chars", "newest_only")

    def __init__(self, most: int, most_chars: int, *, newest_only: bool = False) -> None:
        self.most = most
        self.most_chars = most_chars
        self.newest_only = newest_only
        self.dropped = 0
        """Signals that gave way to others, since the start."""
        self._items: dict[Hashable, tuple[Signal, object]] = {}
        """By their number; under pressure by their kind."""
        self._next = 0
        self._size = 0
        self._pressed = newest_only

    def __len__(self) -> int:
        return len(self._items)

    def put(self, signal: Signal, sender: object = None) -> None:
        size = len(signal.frame)
        if not self._pressed and not self._has_room(size):
            self._press()
        if self._pressed:
            key: Hashable = signal.kind
            self._drop(key)
            while self._items and not self._has_room(size):
                self._drop(next(iter(self._items)))
        else:
            key = self._next
            self._next += 1
        self._items[key] = (signal, sender)
        self._size += size

    def take_all(self) -> list[tuple[Signal, object]]:
        """Everything, in order; the queue is empty then, and keeps all again."""
        items = list(self._items.values())
        self._items.clear()
        self._size = self._next = 0
        self._pressed = self.newest_only
        return items

    def _has_room(self, size: int) -> bool:
        return len(self._items) < self.most and self._size + size <= self.most_chars

    def _press(self) -> None:
        """Keeps the newest of each from now on."""
        self._pressed = True
        items = self._items
        self._items = {}
        for signal, sender in items.values():
            key = signal.kind
            self._drop(key)
            self._items[key] = (signal, sender)

    def _drop(self, key: Hashable) -> None:
        found = self._items.pop(key, None)
        if found is not None:
            self.dropped += 1
            self._size -= len(found[0].frame)
