"""How far the posts of one client have been handled, whichever worker they came to.

A client without a socket sends its frames in posts, numbered 1, 2, 3, … within an `upstream` that it named at random. A
post is handled when the one before it was: workers find that here, one narrow row for each upstream. The row is written
before the post is answered, so whoever has an answer may send the next number anywhere. All functions are for threads.
"""

from __future__ import annotations

from datetime import UTC, datetime

from realtime.conf import settings
from realtime.mirror import read_again_if_broken
from realtime.models import Upstream
from realtime.protocol.errors import ProtocolError

UPSTREAMS_MOST = 1000
"""Upstreams of one client within the time that they are kept: one for each page that it loads."""


def reached(client: str, name: str) -> int:
    """The number of the post that was handled last; 0 for an upstream that is not known. ProtocolError `limit_exceeded`
    for a client that has too many of them to begin another."""
    rows = Upstream.objects.filter(client=client)
    found = read_again_if_broken(lambda: rows.filter(name=name).values_list("seq", flat=True).first())
    if found is None and rows.count() >= UPSTREAMS_MOST:
        raise ProtocolError(
            "limit_exceeded",
            f"{client} has begun {UPSTREAMS_MOST} upstreams lately.",
            remedy="Use one upstream for as long as the page lives.",
        )
    return found or 0


def advance(client: str, name: str, seq: int, now_s: float) -> None:
    """Post `seq` was handled. Never goes back."""
    used = datetime.fromtimestamp(now_s, UTC)
    rows = Upstream.objects.filter(client=client, name=name)
    if rows.filter(seq__lt=seq).update(seq=seq, used=used) or rows.exists():
        return
    Upstream.objects.bulk_create([Upstream(client=client, name=name, seq=seq, used=used)], ignore_conflicts=True)


def forget_old(now_s: float) -> None:
    """Forgets upstreams that were not used for UPSTREAM_KEPT_S."""
    before = datetime.fromtimestamp(now_s - settings.UPSTREAM_KEPT_S, UTC)
    Upstream.objects.filter(used__lt=before).delete()
