"""The door: every publish enters here, whatever brought it (WebSocket, REST, admin, an application, a shell).

Authorise, limit, fill in ids, hand to the log (`realtime.log.intake`). Announcing follows from the commit
(`realtime.worker`) and is nobody's business here. See docs/how-to/publish-from-python.md.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from realtime import authorization, closings, limits
from realtime.delivery.blocks import size_bytes
from realtime.delivery.bucket import TokenBucket
from realtime.log import intake
from realtime.log.types import Append, Published
from realtime.namespaces import Rules, rules_for
from realtime.protocol.codec import canonical
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import DEFAULT_EVENT, NewMessage, parse_message
from realtime.protocol.names import ChannelName, is_client_id, parse_channel
from realtime.tokens import Identity

BUCKETS_MOST = 50_000
"""Publishers whose rate is remembered on a worker; the one unheard of for longest is forgotten, with a full bucket."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages for one channel, from `client`, with the authority of `identity`."""

    identity: Identity
    channel: ChannelName
    messages: Sequence[NewMessage]
    client: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a message stands in its channel's log. `duplicate`: it was stored before, under the same id.

    `pending`: it was published inside a transaction, and will be in the log if and only if that commits; until then
    it has no epoch and no serial.
    """

    channel: ChannelName
    id: str
    epoch: str | None = None
    serial: int | None = None
    duplicate: bool = False
    pending: bool = False


def publish(
    channel: str,
    data: object,
    *,
    event: str = DEFAULT_EVENT,
    id: str | None = None,
    key: str | None = None,
    client: str = "",
) -> Receipt:
    """Publishes one message from Python, with the application's own authority; returns when it is committed.

    Inside `atomic()` of the log's database it becomes part of that transaction instead: the message will be in the log
    if and only if the transaction commits, whatever dies in between, and the receipt is `pending`.

    `data` is anything JSON can say. `id` (1–64 visible ASCII) makes it idempotent per channel and client: published
    again, it stores nothing and returns the first serial. `client` is whom it is from; "" is nobody.

    Blocks for one commit; from a coroutine use `apublish`. Raises ProtocolError: `bad_channel`, `bad_frame`,
    `not_found`, `forbidden` (an operator has closed the channel), `too_large`, and `unavailable`, after which
    publishing again with the same id is safe.
    """
    append = _prepare(channel, data, event, id, key, client)
    if intake.in_transaction():
        intake.put(append)
        return Receipt(append.channel, append.messages[0].id or "", pending=True)
    return _receipt(append, _append(append))


async def apublish(
    channel: str,
    data: object,
    *,
    event: str = DEFAULT_EVENT,
    id: str | None = None,
    key: str | None = None,
    client: str = "",
) -> Receipt:
    """`publish` for coroutines."""
    append = await asyncio.to_thread(_prepare, channel, data, event, id, key, client)
    return _receipt(append, await asyncio.to_thread(_append, append))


def publish_batch(
    identity: Identity, channel: ChannelName, messages: Sequence[NewMessage], *, client: str | None = None
) -> Published:
    """Publishes with a client's authority, all or none; blocks for one commit. Not for the event loop.

    `client` is whom the messages are from, when that is not the identity's own client (API keys may say so).
    """
    publisher = identity.client if client is None else client
    rules = authorization.authorize(identity, channel, "publish", {"messages": messages, "client": publisher})
    return _append(build(identity, rules, channel, messages, client=publisher))


def publish_batches(items: Sequence[Batch]) -> list[Published | ProtocolError]:
    """Publishes several batches, each all or none, in order; blocks until all are settled. Not for the event loop.

    They are submitted before the first is waited for, so that they share rounds.
    """
    outcomes: list[Published | ProtocolError | Append] = []
    for item in items:
        try:
            context = {"messages": item.messages, "client": item.client}
            rules = authorization.authorize(item.identity, item.channel, "publish", context)
            outcomes.append(build(item.identity, rules, item.channel, item.messages, client=item.client))
        except ProtocolError as refusal:
            outcomes.append(refusal)
    intake.settle([outcome for outcome in outcomes if isinstance(outcome, Append)])
    return [intake.outcome_of(outcome) if isinstance(outcome, Append) else outcome for outcome in outcomes]


def build(
    identity: Identity,
    rules: Rules,
    channel: ChannelName,
    messages: Sequence[NewMessage],
    *,
    client: str | None = None,
    previous: Append | None = None,
    tag: object = None,
) -> Append:
    """The append of an authorised publish, ready for the writer. ProtocolError `too_large` or `rate_limited`."""
    found = limits.of(identity.client, identity.key_id, rules.name)
    of_channel = limits.of_channel(channel)
    _check_sizes(messages, rules, channel, _smaller(found.message_bytes, of_channel.message_bytes))
    publisher = identity.client if client is None else client
    if rules.publish_rate is not None or found.rates or of_channel.messages_per_s or of_channel.bytes_per_s:
        _take(rules, found, of_channel, publisher, messages, channel)
    return _with_ids(channel, publisher, messages, previous=previous, create=rules.create == "publish", tag=tag)


def _prepare(channel: str, data: object, event: str, id: str | None, key: str | None, client: str) -> Append:
    name = parse_channel(channel)
    if client and not is_client_id(client):
        raise ProtocolError("bad_frame", "`client` is no client id.", remedy="Use 1 to 128 visible ASCII characters.")
    rules = rules_for(name)
    if closings.is_closed(name):
        raise closings.closed(name)
    message = parse_message({"event": event, "id": id, "key": key, "data": None})
    message = NewMessage(message.id, message.event, message.key, canonical(data))
    _check_sizes([message], rules, name)
    return _with_ids(name, client, [message], previous=None, create=rules.create == "publish", tag=None)


def _smaller(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _check_sizes(
    messages: Sequence[NewMessage], rules: Rules, channel: ChannelName, most_bytes: int | None = None
) -> None:
    for index, message in enumerate(messages):
        check_size(message.data, f"message {index}", rules, channel, most_bytes)


def check_size(data: str, whose: str, rules: Rules, channel: ChannelName, most_bytes: int | None = None) -> None:
    """ProtocolError `too_large` where canonical `data` is over the namespace's limit, or over `most_bytes`."""
    most = rules.message_limit_bytes if most_bytes is None else min(most_bytes, rules.message_limit_bytes)
    # Characters are at most as many as bytes: the exact count is needed only near the limit.
    if len(data) * 4 > most and size_bytes(data) > most:
        raise ProtocolError(
            "too_large",
            f"The data of {whose} has {size_bytes(data)} bytes; at most {most} are allowed.",
            remedy="Send less data in one, or have the namespace's limit raised.",
            channel=channel,
        )


def _with_ids(
    channel: ChannelName,
    client: str,
    messages: Sequence[NewMessage],
    *,
    previous: Append | None,
    create: bool,
    tag: object,
) -> Append:
    """An append whose messages all have ids; those made here need no look-up."""
    fresh: list[str] = []
    complete: list[NewMessage] = []
    for message in messages:
        if message.id is None:
            fresh.append(secrets.token_urlsafe(15))
            message = message.with_id(fresh[-1])
        complete.append(message)
    return Append(channel, client, complete, previous=previous, create=create, fresh=frozenset(fresh), tag=tag)


_BucketKey = tuple[str, str, str, str]
"""Unit, scope, the name of the scope, and the publisher, "" where all share it. The scope of what all may publish to
one channel is "channel"."""

_buckets: OrderedDict[_BucketKey, TokenBucket] = OrderedDict()
_buckets_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class RateLeft:
    """What is left of the budget that is nearest to its end."""

    limit: int
    """Per second."""
    remaining: int
    reset_ms: int
    """Until it is full again."""


def rate_left(identity: Identity, rules: Rules, channel: ChannelName, client: str | None = None) -> RateLeft | None:
    """The state of the publisher's budget of messages in this channel on this worker; None without a limit."""
    publisher = identity.client if client is None else client
    found = limits.of(identity.client, identity.key_id, rules.name)
    left: RateLeft | None = None
    with _buckets_lock:
        for key, rate, burst, _ in _budgets(rules, found, limits.of_channel(channel), channel, publisher, 0, 0):
            if key[0] == "messages":
                bucket = _bucket(key, rate, burst)
                tokens = bucket.left(time.monotonic())
                reset_ms = math.ceil((burst - tokens) / rate * 1000)
                if left is None or tokens < left.remaining:
                    left = RateLeft(int(rate), max(0, int(tokens)), reset_ms)
    return left


def _budgets(
    rules: Rules,
    found: limits.Limits,
    of_channel: limits.ChannelLimits,
    channel: ChannelName,
    publisher: str,
    count: int,
    size_bytes: int,
) -> Iterator[tuple[_BucketKey, float, float, float]]:
    """Every budget that a publish is taken out of: its key, its rate and burst, and what is taken."""
    if rules.publish_rate is not None:
        burst = rules.publish_burst_count or rules.publish_rate
        yield ("messages", "rules", rules.name, publisher), rules.publish_rate, burst, count
    for rate in found.rates:
        whose = "" if rate.shared else publisher
        if rate.messages_per_s is not None:
            yield ("messages", rate.scope, rate.name, whose), rate.messages_per_s, rate.messages_per_s, count
        if rate.bytes_per_s is not None:
            yield ("bytes", rate.scope, rate.name, whose), rate.bytes_per_s, rate.bytes_per_s, size_bytes
    most = of_channel.messages_per_s
    if most is not None:
        yield ("messages", "channel", channel, ""), most, most, count
    most = of_channel.bytes_per_s
    if most is not None:
        yield ("bytes", "channel", channel, ""), most, most, size_bytes


def _bucket(key: _BucketKey, rate: float, burst: float) -> TokenBucket:
    bucket = _buckets.pop(key, None)
    if bucket is None or (bucket.rate_per_s, bucket.burst) != (rate, burst):
        bucket = TokenBucket(rate, burst)
    _buckets[key] = bucket
    if len(_buckets) > BUCKETS_MOST:
        _buckets.popitem(last=False)
    return bucket


def _take(
    rules: Rules,
    found: limits.Limits,
    of_channel: limits.ChannelLimits,
    publisher: str,
    messages: Sequence[NewMessage],
    channel: ChannelName,
) -> None:
    """Takes the messages out of all budgets on this worker, or out of none: then the answer says when all have room."""
    now = time.monotonic()
    counts_bytes = found.rates or of_channel.bytes_per_s is not None
    sizes = sum([size_bytes(message.data) for message in messages]) if counts_bytes else 0
    taken: list[tuple[TokenBucket, float]] = []
    waits: list[tuple[int, str, str, float]] = []
    with _buckets_lock:
        budgets = _budgets(rules, found, of_channel, channel, publisher, len(messages), sizes)
        for key, rate, burst, amount in budgets:
            bucket = _bucket(key, rate, burst)
            wait_ms = bucket.take(amount, now)
            if wait_ms:
                waits.append((wait_ms, key[0], key[1], rate))
            else:
                taken.append((bucket, amount))
        if not waits:
            return
        for bucket, amount in taken:
            bucket.charge(-amount, now)
    wait_ms, unit, scope, rate = max(waits)
    whose = {"channel": "All together", "key": "The clients of this API key"}.get(scope, "This client")
    raise ProtocolError(
        "rate_limited",
        f"{whose} may publish {rate:.0f} {unit} a second here.",
        channel=channel,
        retry_after_ms=wait_ms,
    )


def _append(append: Append) -> Published:
    """Stores it and waits."""
    intake.settle([append])
    outcome = intake.outcome_of(append)
    if isinstance(outcome, ProtocolError):
        raise outcome
    return outcome


def _receipt(append: Append, published: Published) -> Receipt:
    return Receipt(
        append.channel, append.messages[0].id or "", published.epoch, published.serials[0], bool(published.duplicates)
    )
