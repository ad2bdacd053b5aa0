"""Channels that an operator has closed: nobody attaches or publishes to them until they are opened again.

A closed channel is one on which nobody has rights (`realtime.authorization` answers `forbidden`), so that attachments
end as they do when rights are taken away. Its log stays and can be read. The names are in memory of every worker,
which reads them again when it hears of a change, and every second. docs/how-to/operate.md.
"""

from __future__ import annotations

from typing import Final

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.mirror import Glance, Mirror
from realtime.models import Channel
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName

__all__ = ["close", "closed", "is_closed", "mirror", "open_again"]


def is_closed(channel: ChannelName) -> bool:
    """Safe on an event loop."""
    return channel in mirror.current()


def closed(channel: ChannelName) -> ProtocolError:
    """What is said to whoever attaches or publishes."""
    return ProtocolError(
        "forbidden",
        f"The channel {channel} is closed.",
        remedy="Try again when an operator has opened it.",
        channel=channel,
    )


def close(channel: ChannelName) -> bool:
    """Closes it on all workers, when the transaction commits; False: it was closed. `not_found` for none. Blocks."""
    return _set(channel, to_closed=True)


def open_again(channel: ChannelName) -> bool:
    """The opposite."""
    return _set(channel, to_closed=False)


def _set(channel: ChannelName, *, to_closed: bool) -> bool:
    alias = settings.DATABASE
    rows = Channel.objects.using(alias).filter(name=channel, namespace__isnull=False)
    with transaction.atomic(using=alias):
        if not rows.filter(closed__isnull=to_closed).update(closed=timezone.now() if to_closed else None):
            if not rows.exists():
                raise ProtocolError("not_found", "There is no channel of this name.", channel=channel)
            return False
        after_commit(mirror.stale, using=alias)
        elsewhere.tell("closings", {}, using=alias)
    return True


def _read() -> frozenset[str]:
    return frozenset(_rows())


def _rows() -> QuerySet[Channel, str]:
    closed = Channel.objects.using(settings.DATABASE).filter(closed__isnull=False)
    return closed.order_by().values_list("name", flat=True)


mirror: Final = Mirror("Closed channels", _read, frozenset[str](), glance=Glance(_rows))
"""The names of all of them."""
