"""How much of the log one client may have read: bytes of history and of snapshots, and attaches, per second and worker.

A page is served whole and paid for afterwards; whoever is in debt waits until it is paid off. So one client cannot make
the database read without end, and nobody is refused for the size of one page. What a subscriber reads while it catches
up is not counted here: its window and its socket pace that. Clients without a name share one budget. For any thread.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from realtime.conf import settings
from realtime.delivery.bucket import TokenBucket
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName

BURST_S = 10
"""Seconds' worth that may be read at once after a pause: a page that loads many channels."""

ATTACH_BYTES = 4096
"""What an attach is charged for: about the time of reading so much."""

CLIENTS_MOST = 50_000
"""Clients whose budget is remembered; the one that read longest ago is forgotten, with its debt."""

_lock = threading.Lock()
_buckets: OrderedDict[str, TokenBucket] = OrderedDict()


def check(client: str, channel: ChannelName) -> None:
    """ProtocolError `rate_limited` while the client is in debt."""
    rate = settings.READ_RATE_BYTES
    if not rate:
        return
    with _lock:
        bucket = _buckets.get(client)
        wait_ms = 0 if bucket is None else bucket.take(0, time.monotonic())
    if wait_ms:
        raise ProtocolError(
            "rate_limited",
            f"This client has read more than {rate} bytes of history a second.",
            channel=channel,
            retry_after_ms=wait_ms,
        )


def charge(client: str, size_bytes: int) -> None:
    """So much was read for the client."""
    rate = settings.READ_RATE_BYTES
    if not rate:
        return
    with _lock:
        bucket = _buckets.pop(client, None)
        if bucket is None or bucket.rate_per_s != rate:
            bucket = TokenBucket(rate, BURST_S * rate)
        _buckets[client] = bucket
        if len(_buckets) > CLIENTS_MOST:
            _buckets.popitem(last=False)
        bucket.charge(size_bytes, time.monotonic())


def reset() -> None:
    """Forgets everything (tests)."""
    with _lock:
        _buckets.clear()
