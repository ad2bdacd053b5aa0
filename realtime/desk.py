"""What operators do, by whatever door: the admin and the HTTP interface call these functions and no others.

Each says who does it (`actor`), does it on all workers, and writes it into the audit log, in one transaction with the
act where the act is rows. Blocks; not for the event loop.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Final, TypeVar

from django.db import transaction

from realtime import closings, control, live, publishing, revocations, signing, tokens, worker
from realtime.conf import settings
from realtime.log import retention
from realtime.log.types import LogState
from realtime.models import Act, ApiKey, SigningKey
from realtime.protocol.names import ChannelName, parse_channel

T = TypeVar("T")

__all__ = [
    "ACTS",
    "SHELL",
    "acts",
    "announce",
    "block",
    "close",
    "disconnect",
    "drain",
    "empty",
    "generate_key",
    "lift",
    "make_key_current",
    "new_epoch",
    "open_again",
    "prune",
    "publish",
    "record",
    "retire_key",
    "revoke",
]


SHELL: Final = "shell"
"""Who does it from the command line: whoever may do that may do anything."""

ANNOUNCEMENT_MOST_CHARS: Final = 500
"""What fits into a few lines above a page."""

ACTS: Final[Mapping[str, str]] = {
    "announce": "everybody",
    "drain worker": "its name",
    "disconnect": "a client id",
    "block": "a client id",
    "unblock": "a client id",
    "revoke jti": "the jti of a token",
    "revoke client": "a client id",
    "revoke key": "the id of an API key",
    "restore jti": "the jti of a token",
    "restore client": "a client id",
    "restore key": "the id of an API key",
    "generate signing key": "its kid",
    "make signing key current": "its kid",
    "retire signing key": "its kid",
    "publish": "a channel",
    "make channel": "a channel",
    "close channel": "a channel",
    "open channel": "a channel",
    "new epoch": "a channel, or all",
    "empty channel": "a channel",
    "prune channel": "a channel",
    "make namespace": "its name",
    "change namespace": "its name",
    "delete namespace": "its name",
    "make limit": "its scope and name",
    "change limit": "its scope and name",
    "delete limit": "its scope and name",
    "make API key": "its name",
    "change API key": "its name",
    "delete API key": "its name",
}
"""Every act that stands in the audit log, and what its target is. docs/reference/audit.md tells of each."""


def acts(
    *,
    actor: str | None = None,
    act: str | None = None,
    target: str | None = None,
    since_ms: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Act]:
    """What operators did, newest first: by one actor, of one kind, to one target, not before a time (Unix
    milliseconds), before an entry's id. Reads `limit` rows by an index, whatever is asked for."""
    rows = Act.objects.order_by("-pk")
    given = {"actor": actor, "act": act, "target": target, "pk__lt": before}
    rows = rows.filter(**{name: value for name, value in given.items() if value is not None})
    # Times rise with the ids, so that the first that is too old is where to stop.
    since = datetime.fromtimestamp((since_ms or 0) / 1000, UTC)
    return list(takewhile(lambda row: row.at >= since, rows[:limit]))


def record(actor: str, act: str, target: str = "", **details: object) -> None:
    """Writes an act into the audit log. `details` is what JSON can say, without secrets."""
    Act.objects.create(actor=actor[:160], act=act, target=_stored(target[:260]), details=_stored(details))


def _stored(value: T) -> T:
    """Without NUL, which PostgreSQL does not store: no act must fail for what is said of it."""
    plain: Any = value
    if isinstance(plain, str):
        plain = plain.replace("\0", "")
    elif isinstance(plain, dict):
        plain = {_stored(key): _stored(each) for key, each in plain.items()}
    elif isinstance(plain, list):
        plain = [_stored(each) for each in plain]
    return plain  # type: ignore[no-any-return]  # of the kind that was given


def disconnect(client: str, *, actor: str, reason: str = "") -> int:
    """Closes all connections of a client with 4403, on all workers; how many there were behind this address."""
    found = live.count(client)
    with transaction.atomic(using=settings.DATABASE):
        record(actor, "disconnect", client, **_given(reason=reason), connections=found)
        control.broadcast("disconnect", {"client": client, "reason": reason}, using=settings.DATABASE)
        # The others hear of it; this process's own worker does not listen to itself.
        transaction.on_commit(lambda: _disconnect_here(client, reason), using=settings.DATABASE)
    return found


def _disconnect_here(client: str, reason: str) -> None:
    running = worker.current()
    if running is not None:
        running.disconnect(client, reason)


def announce(text: str, *, actor: str) -> int:
    """Has every connection to every worker told a text, as a signal; how many there are behind this address. ValueError
    for one that is empty or too long."""
    text = _stored(text.strip())
    if not text or len(text) > ANNOUNCEMENT_MOST_CHARS:
        raise ValueError(f"Write a text of at most {ANNOUNCEMENT_MOST_CHARS} characters.")
    found = sum(each.connections for each in live.workers())
    announcement_id = secrets.token_urlsafe(9)
    with transaction.atomic(using=settings.DATABASE):
        record(actor, "announce", "everybody", text=text, connections=found)
        control.broadcast("announce", {"id": announcement_id, "text": text}, using=settings.DATABASE)
        transaction.on_commit(lambda: _announce_here(announcement_id, text), using=settings.DATABASE)
    return found


def _announce_here(announcement_id: str, text: str) -> None:
    running = worker.current()
    if running is not None:
        running.announce(announcement_id, text)


def drain(worker_id: str, *, actor: str) -> live.LiveWorker:
    """Has a worker behind this address send its clients to the others and end; another is started in its place.
    ValueError where there is none, nobody would take its clients, or nobody would start it again."""
    found = {each.id: each for each in live.workers() if not each.draining}
    if worker_id not in found:
        raise ValueError("There is no such worker behind this address, or it is draining already.")
    drained = found[worker_id]
    if not drained.replaceable:
        raise ValueError(f"Nobody would start {drained.name} again. Restart its process where it was started.")
    if len(found) == 1:
        raise ValueError(f"There is no worker that takes the clients of {drained.name}.")
    with transaction.atomic(using=settings.DATABASE):
        record(actor, "drain worker", drained.name, connections=drained.connections)
        control.broadcast("drain", {"worker": worker_id}, using=settings.DATABASE)
        transaction.on_commit(lambda: _drain_here(worker_id), using=settings.DATABASE)
    return drained


def _drain_here(worker_id: str) -> None:
    running = worker.current()
    if running is not None and running.id == worker_id:
        running.give_way()


def block(client: str, *, actor: str, reason: str = "", until: datetime | None = None) -> int:
    """Shuts a client out and closes its connections with 4403; how many there were behind this address."""
    found = live.count(client)
    with transaction.atomic(using=settings.DATABASE):
        revocations.block(client, by=actor, reason=reason, until=until)
        record(actor, "block", client, **_given(reason=reason, until=until and until.isoformat()), connections=found)
    return found


def revoke(kind: revocations.Kind, value: str, *, actor: str, reason: str = "", until: datetime | None = None) -> int:
    """Takes back a token by `jti`, or the tokens of a `client` or of an API `key`, and that key itself. How many
    connections the client has behind this address, which end if they rest on such a token; 0 for the other kinds."""
    found = live.count(value) if kind == "client" else 0
    with transaction.atomic(using=settings.DATABASE):
        if kind == "key":
            for row in ApiKey.objects.filter(key_id=value, revoked=False):
                tokens.revoke_api_key(row)
        revocations.revoke(kind, value, by=actor, reason=reason, until=until)
        record(actor, f"revoke {kind}", value, **_given(reason=reason))
    return found


def lift(kind: revocations.Kind, value: str, *, actor: str) -> bool:
    """Takes a block or a revocation back; whether there was one."""
    with transaction.atomic(using=settings.DATABASE):
        found = revocations.lift(kind, value)
        if found:
            record(actor, "unblock" if kind == "block" else f"restore {kind}", value)
    return found


def generate_key(algorithm: str, *, actor: str, kid: str | None = None) -> SigningKey:
    """A new signing key: it verifies now, and signs when it is made current."""
    with transaction.atomic(using=settings.DATABASE):
        row = signing.generate(algorithm, kid)
        record(actor, "generate signing key", row.kid, algorithm=algorithm)
    return row


def make_key_current(kid: str, *, actor: str) -> None:
    """Tokens are signed with this key from now on. See `realtime.signing.make_current`."""
    with transaction.atomic(using=settings.DATABASE):
        signing.make_current(kid)
        record(actor, "make signing key current", kid)


def retire_key(kid: str, *, actor: str) -> None:
    """Every token that this key signed is refused from now on."""
    with transaction.atomic(using=settings.DATABASE):
        signing.retire(kid)
        record(actor, "retire signing key", kid)


def _given(**details: Any) -> Mapping[str, Any]:
    return {name: value for name, value in details.items() if value}


# ---------------------------------------------------------------- channels


def publish(channel: str, data: object, *, actor: str, event: str = "message") -> publishing.Receipt:
    """Publishes one message from nobody, with the operator's authority."""
    receipt = publishing.publish(channel, data, event=event)
    record(actor, "publish", channel, serial=receipt.serial, event=event)
    return receipt


def close(channel: str, *, actor: str, reason: str = "") -> bool:
    """Lets nobody attach or publish any more, and ends attachments with `detached`, reason `forbidden`, on all workers.
    The log stays and can be read. False: it was closed already."""
    with transaction.atomic(using=settings.DATABASE):
        changed = closings.close(parse_channel(channel))
        if changed:
            record(actor, "close channel", channel, **_given(reason=reason))
    return changed


def open_again(channel: str, *, actor: str, reason: str = "") -> bool:
    """Lets attach and publish again. False: it was open."""
    with transaction.atomic(using=settings.DATABASE):
        changed = closings.open_again(parse_channel(channel))
        if changed:
            record(actor, "open channel", channel, **_given(reason=reason))
    return changed


def new_epoch(channel: str, *, actor: str) -> str:
    """Gives the log a new epoch: clients are told that what they have may not be what is stored. Messages stay."""
    epoch = retention.new_epoch(ChannelName(channel))
    record(actor, "new epoch", channel, epoch=epoch)
    return epoch


def empty(channel: str, *, actor: str) -> str:
    """Takes all messages out of the log, which goes on in a new epoch; rows are deleted later, a chunk at a time."""
    epoch = retention.begin_anew(ChannelName(channel))
    record(actor, "empty channel", channel, epoch=epoch)
    return epoch


def prune(channel: str, upto: int, *, actor: str) -> LogState:
    """Takes everything through the serial out of the log; rows are deleted later, a chunk at a time. The state then."""
    state = retention.prune(ChannelName(channel), upto)
    record(actor, "prune channel", channel, upto=upto, oldest=state.oldest)
    return state
