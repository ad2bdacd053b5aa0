"""What the worker of this process knows, for views. The only place where the HTTP interface looks into a worker."""

from __future__ import annotations

from realtime import live, worker
from realtime.protocol.names import ChannelName


def occupancy(channel: ChannelName) -> int:
    """How many attachments of the channel the workers behind this address have; 0 without a worker in this process."""
    return live.occupancies([channel])[channel]


def count_error(code: str) -> None:
    """A request of this process was refused; counted where there is a worker to tell of it."""
    running = worker.current()
    if running is not None:
        running.counts.http_errors.add(code)


def readiness() -> dict[str, bool]:
    """What must be true before traffic may come here; nothing more without a worker in this process."""
    running = worker.current()
    if running is None:
        return {}
    return {
        "namespaces": running.ready.is_set(),
        "writer": running.writer.running,
        "not_draining": not running.draining,
        "admitting": not running.load.refusing,
    }
