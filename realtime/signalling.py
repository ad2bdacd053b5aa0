"""Signals on one worker: passed to those who are attached now, and never kept for those who are not.

What arrives in one turn of the loop is joined into one write per subscriber, without the subscriber's own. A crowd is
served in slices, so that acks, accepts and messages get their turns; what comes meanwhile gathers, and where it
is too much the newest of each client and event is kept. Those for one client alone go to its attachments by
themselves, found by one look at the connections for all that came in a turn. Nothing here touches positions, windows
or the log: a signal that is lost is lost. See docs/explanation/signals.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from realtime.delivery.blocks import Encoding
from realtime.delivery.signals import Signal, SignalQueue
from realtime.hub import Hub, Loop, Mode, Sink, Subscriber
from realtime.protocol.names import ChannelName

GATHERED_MOST = 1000
"""Signals of one channel that wait for their write: what a crowd of pointers sends in some tens of milliseconds."""

GATHERED_CHARS_MOST = 262_144
"""The same in characters: also what one write for a subscriber may add to its socket's buffer."""

KEPT_MOST = 64
"""Signals kept for one subscriber whose socket takes nothing: the pointers that one screen can show. Frames are shared
by all who wait, so a stalled subscriber costs a few kilobytes."""

KEPT_CHARS_MOST = 65_536
"""The same in characters: one write when the socket has drained."""

WRITES_A_TURN = 1024
"""As for messages: some milliseconds' worth."""


Attachments = Mapping[ChannelName, Subscriber]
"""Of one connection."""


def _nobody(clients: Collection[str]) -> Iterable[tuple[str, Attachments]]:
    return ()


class Signalling:
    """Passes signals on. Every method runs on the loop's thread and returns at once."""

    def __init__(
        self,
        loop: Loop,
        hub: Hub,
        drops: Callable[[], bool],
        connections_of: Callable[[Collection[str]], Iterable[tuple[str, Attachments]]] = _nobody,
    ) -> None:
        """`drops` says whether the worker has too much to do for signals; `connections_of` finds those of clients,
        each with whose it is and what it is attached to."""
        self._loop = loop
        self._hub = hub
        self._drops = drops
        self._connections_of = connections_of
        self._addressed = SignalQueue(GATHERED_MOST, GATHERED_CHARS_MOST)
        """For one client each."""
        self._addressed_dropped = 0
        """Of those that this queue dropped, how many are counted."""
        self._gathered: dict[ChannelName, SignalQueue] = {}
        self._round: _Round | None = None
        """The channel that is being served."""
        self._running = False
        self.counts: Counter[str] = Counter({"passed": 0, "written": 0, "dropped": 0})
        """Signals passed on here, deliveries of signals, and signals dropped under pressure, since the start."""

    def give(self, signal: Signal, sender: Sink | None = None) -> None:
        """Passes a signal to all who are attached to its channel here but its sender; to one client if it says so."""
        if self._drops():
            self.counts["dropped"] += 1
            return
        if signal.to:
            if not self._addressed:
                self._loop.call_soon(self._run_addressed)
            self._addressed.put(signal)
            return
        gathered = self._gathered.get(signal.channel)
        if gathered is None:
            if not self._hub.occupancy(signal.channel):
                return
            gathered = self._gathered[signal.channel] = SignalQueue(GATHERED_MOST, GATHERED_CHARS_MOST)
        gathered.put(signal, sender)
        if not self._running:
            self._running = True
            self._loop.call_soon(self._run)

    def drained(self, subscriber: Subscriber) -> None:
        """Its sink takes frames again: what was kept for it is sent."""
        kept, subscriber.signals = subscriber.signals, None
        if kept is None or subscriber.mode in (Mode.JOINING, Mode.GONE):
            return
        self.counts["dropped"] += kept.dropped
        frames = [signal.frame for signal, _ in kept.take_all()]
        self.counts["written"] += len(frames)
        subscriber.sink.write(subscriber.sink.encoding.encode(frames))

    def _run_addressed(self) -> None:
        for_client: dict[str, list[Signal]] = {}
        dropped = self._addressed.dropped
        for signal, _ in self._addressed.take_all():
            for_client.setdefault(signal.to, []).append(signal)
        self.counts["dropped"] += dropped - self._addressed_dropped
        self._addressed_dropped = dropped
        self.counts["passed"] += sum([len(signals) for signals in for_client.values()])
        for client, attachments in self._connections_of(for_client.keys()):
            frames: list[str] = []
            sink: Sink | None = None
            for signal in for_client[client]:
                subscriber = attachments.get(signal.channel)
                if subscriber is None or subscriber.mode in (Mode.JOINING, Mode.GONE):
                    continue
                sink = subscriber.sink
                if sink.congested:
                    self._put(subscriber, signal)
                else:
                    frames.append(signal.frame)
            if sink is not None and frames:
                sink.write(sink.encoding.encode(frames))
                self.counts["written"] += len(frames)

    def _run(self) -> None:
        left = WRITES_A_TURN
        while left > 0:
            if self._round is None:
                if not self._gathered:
                    self._running = False
                    return
                channel = next(iter(self._gathered))
                queue = self._gathered.pop(channel)
                self.counts["dropped"] += queue.dropped
                signals = queue.take_all()
                self.counts["passed"] += len(signals)
                self._round = _Round(signals, self._hub.subscribers(channel))
            left -= self._serve(self._round, left)
            if not self._round.subscribers:
                self._round = None
        self._loop.call_soon(self._run)

    def _serve(self, round_: _Round, most: int) -> int:
        """Writes to some of a round's subscribers; how many were looked at."""
        some = round_.subscribers[-most:]
        del round_.subscribers[-most:]
        shared: dict[Encoding, list[Callable[[object], None]]] = {}
        for subscriber in some:
            sink = subscriber.sink
            if subscriber.mode in (Mode.JOINING, Mode.GONE):
                continue
            if sink.congested:
                self._keep(round_, subscriber)
            elif sink in round_.senders:
                payload = round_.payload_without(sink)
                if payload is not None:
                    sink.write(payload)
            else:
                # Not `writer`: a heartbeat is only for whom nothing was sent to.
                shared.setdefault(sink.encoding, []).append(sink.write)
        for encoding, writers in shared.items():
            encoding.write_all(encoding.ways(writers), round_.payload(encoding))
            self.counts["written"] += len(writers) * len(round_.signals)
        return len(some)

    @classmethod
    def _keep(cls, round_: _Round, subscriber: Subscriber) -> None:
        for signal, sender in round_.signals:
            if sender is not subscriber.sink:
                cls._put(subscriber, signal)

    @staticmethod
    def _put(subscriber: Subscriber, signal: Signal) -> None:
        if subscriber.signals is None:
            subscriber.signals = SignalQueue(KEPT_MOST, KEPT_CHARS_MOST, newest_only=True)
        subscriber.signals.put(signal)


class _Round:
    """Signals of one channel on their way to those who were attached when it began."""

    def __init__(self, signals: list[tuple[Signal, object]], subscribers: list[Subscriber]) -> None:
        self.signals = signals
        self.subscribers = subscribers
        """Who is still to be served."""
        self.senders = {sender for _, sender in signals if sender is not None}
        self._pieces: dict[Encoding, list[object]] = {}
        self._payloads: dict[Encoding, object] = {}

    def payload(self, encoding: Encoding) -> object:
        """All of them, encoded once."""
        payload = self._payloads.get(encoding)
        if payload is None:
            payload = self._payloads[encoding] = encoding.join(self._encoded(encoding))
        return payload

    def payload_without(self, sender: Sink) -> object | None:
        """All but the sender's own; None where there is nothing else."""
        pieces = self._encoded(sender.encoding)
        others = [piece for piece, (_, by) in zip(pieces, self.signals, strict=True) if by is not sender]
        return sender.encoding.join(others) if others else None

    def _encoded(self, encoding: Encoding) -> list[object]:
        pieces = self._pieces.get(encoding)
        if pieces is None:
            pieces = self._pieces[encoding] = [encoding.encode([signal.frame]) for signal, _ in self.signals]
        return pieces
