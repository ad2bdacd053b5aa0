"""The rules of namespaces, in memory (`realtime.mirror`): asked at every request.

An operator's change holds at once in the process that made it, as soon as they hear of it in all workers, and within
about a second everywhere, heard of or not. What each rule means: docs/reference/protocol.md#namespaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from django.db.models import QuerySet
from django.db.models.signals import post_delete, post_save

from realtime import elsewhere
from realtime.conf import settings
from realtime.elsewhere import after_commit
from realtime.mirror import Glance, Mirror
from realtime.models import Namespace
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, namespace_of

__all__ = ["Rules", "all_rules", "load", "mirror", "reset", "rules_for", "rules_named"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The fields of `models.Namespace`, typed and ready to use. Two are equal when they rule the same."""

    name: str
    retention_messages: int | None = None
    retention_age_s: int | None = None
    message_ttl_s: int | None = None
    window_default: int = 256
    window_max: int = 1024
    ack_ms: int = 10_000
    cursor_ms: int = 500
    key_limit: int = 1000
    max_message_bytes: int | None = None
    publish_rate: int | None = None
    publish_burst: int | None = None
    create: str = "publish"
    known_ops: frozenset[str] = frozenset()
    anonymous_ops: frozenset[str] = frozenset()
    presence: bool = True
    delta: bool = False
    overflow: str = "hold"

    @property
    def message_limit_bytes(self) -> int:
        """Largest canonical data of a message: the namespace's limit, never above the platform's."""
        if self.max_message_bytes is None:
            return settings.MAX_MESSAGE_BYTES
        return min(self.max_message_bytes, settings.MAX_MESSAGE_BYTES)

    @property
    def publish_burst_count(self) -> int | None:
        """Size of a client's token bucket; None when the rate is unlimited."""
        if self.publish_rate is None:
            return None
        return self.publish_burst or self.publish_rate


def rules_for(channel: ChannelName) -> Rules:
    """The rules of a channel's namespace; ProtocolError `not_found` when there is none. Also for the event loop."""
    rules = _current().get(namespace_of(channel))
    if rules is None:
        raise ProtocolError(
            "not_found",
            f"There is no namespace for the channel {channel}.",
            remedy="The operator creates namespaces in the admin.",
            channel=channel,
        )
    return rules


def rules_named(name: str) -> Rules | None:
    """The rules of a namespace by its own name; None when there is none."""
    return _current().get(name)


def all_rules() -> Mapping[str, Rules]:
    """All namespaces by name: one consistent reading, immutable."""
    return _current()


_COLUMNS: Final = tuple(field.name for field in fields(Rules))


def _current() -> Mapping[str, Rules]:
    return _known(mirror.current())


def _known(rules: Mapping[str, Rules] | None) -> Mapping[str, Rules]:
    if rules is None:
        raise ProtocolError(
            "unavailable",
            "The rules of namespaces are not known yet.",
            remedy="Try again shortly; in a program of your own call realtime.namespaces.load() first.",
            retry_after_ms=1000,
        )
    return rules


def _read() -> Mapping[str, Rules]:
    return MappingProxyType({row["name"]: _rules(row) for row in _rows()})


def _rows() -> QuerySet[Namespace, dict[str, Any]]:
    rows: QuerySet[Namespace, dict[str, Any]] = Namespace.objects.values(*_COLUMNS)
    return rows


def _rules(row: Mapping[str, object]) -> Rules:
    given = dict(row)
    for name in ("known_ops", "anonymous_ops"):
        value = given[name]
        given[name] = (
            frozenset(each for each in value if isinstance(each, str)) if isinstance(value, list) else frozenset()
        )
    return Rules(**given)  # type: ignore[arg-type]  # the columns are the fields, and their types the database's


mirror: Final = Mirror[Mapping[str, Rules] | None]("Namespaces", _read, None, glance=Glance(_rows))
"""All namespaces by name; None before the first reading."""


def load() -> Mapping[str, Rules]:
    """Reads all namespaces now. For threads; raises what the database raises."""
    return _known(mirror.load())


reset: Final = mirror.reset


def _on_saved(*, using: str = "", raw: bool = False, **_: object) -> None:
    mirror.stale()
    # Again on commit: until then other threads read the old rows.
    after_commit(mirror.stale, using=using or None)
    # While a fixture is loaded no other rows may be written; whoever serves meanwhile finds the rules by looking.
    if not raw:
        elsewhere.tell("namespaces", {}, using=using or None)


# Connected on import: who never imports this module has no cache to keep right.
for _signal in (post_save, post_delete):
    _signal.connect(_on_saved, sender=Namespace)
