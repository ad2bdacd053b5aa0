"""What operators do, by whatever door: the admin and the HTTP interface call these functions and no others.

Each says who does it (`actor`), does it on all workers, and writes it into the audit log, in one transaction with the
act where the act is rows. Blocks; not for the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from realtime import control, live, publishing, revocations, signing, tokens, worker
from realtime.conf import settings
from realtime.log import retention
from realtime.models import Act, ApiKey, SigningKey
from realtime.protocol.names import parse_channel

__all__ = [
    "block",
    "disconnect",
    "empty",
    "generate_key",
    "lift",
    "make_key_current",
    "new_epoch",
    "prune",
    "publish",
    "record",
    "retire_key",
    "revoke",
]


def record(actor: str, act: str, target: str = "", **details: object) -> None:
    """Writes an act into the audit log. `details` is what JSON can say, without secrets."""
    Act.objects.create(actor=actor[:160], act=act, target=target[:260], details=details)


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


def new_epoch(channel: str, *, actor: str) -> str:
    """Gives the log a new epoch: clients are told that what they have may not be what is stored. Messages stay."""
    epoch = retention.new_epoch(parse_channel(channel))
    record(actor, "new epoch", channel, epoch=epoch)
    return epoch


def empty(channel: str, *, actor: str) -> str:
    """Takes all messages out of the log, which goes on in a new epoch; rows are deleted later, a chunk at a time."""
    epoch = retention.begin_anew(parse_channel(channel))
    record(actor, "empty channel", channel, epoch=epoch)
    return epoch


def prune(channel: str, upto: int, *, actor: str) -> None:
    """Takes everything through the serial out of the log; rows are deleted later, a chunk at a time."""
    state = retention.prune(parse_channel(channel), upto)
    record(actor, "prune channel", channel, upto=upto, oldest=state.oldest)
