"""Endpoints of `/api/v1`: publish, read, tokens. Specification: docs/reference/rest.md.

Views read the request, ask `realtime.authorization`, call the one door (`realtime.publishing`) or the log's reads, and
join the answer from finished text: stored envelopes are never parsed. They run in threads and block there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from django.http import HttpRequest, HttpResponse
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from msgspec import Raw
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from realtime import budgets, closings, presence
from realtime.api import local, serializers
from realtime.api.authentication import PlatformAuthentication
from realtime.api.errors import exception_handler, tell_rate
from realtime.api.parsers import StrictJSONParser, choice, integer, read_object
from realtime.api.permissions import identity_of, require, require_api_key, require_known
from realtime.api.schema import ANYBODY, KEY_ONLY, LIMIT, NAME, described, text, whole
from realtime.delivery.capability import OPERATIONS, Capability
from realtime.log import reads
from realtime.log.types import Page, Published
from realtime.namespaces import all_rules, rules_for
from realtime.protocol import codec
from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import NewMessage, parse_message, parse_messages
from realtime.protocol.names import ChannelName, is_client_id, is_message_id, namespace_of, parse_channel
from realtime.publishing import Batch, publish_batch, publish_batches, rate_left
from realtime.sending import send_for
from realtime.tokens import Identity, issue_token

logger = logging.getLogger("realtime.api")

MAX_MESSAGES = 1000
MAX_ITEMS = 100
PAGE_DEFAULT = 100
PAGE_MOST = 1000
TOKEN_TTL_S = 3600
TOKEN_TTL_MOST_S = 30 * 86_400

_RENDERER = JSONRenderer()
EVERYTHING = Capability.parse({"*": ["*"]})


class PlatformView(APIView):
    """What all endpoints share: credentials, strict JSON, the one shape of errors.

    Everything is named here rather than in the site's REST_FRAMEWORK, so that the app behaves alike in every project.
    """

    authentication_classes = (PlatformAuthentication,)
    permission_classes = ()
    throttle_classes = ()
    parser_classes = (StrictJSONParser,)
    renderer_classes = (JSONRenderer,)
    schema = AutoSchema()
    versioning_class = None
    metadata_class = None

    # DRF works the header Allow out for every answer; it belongs to 405, where `exception_handler` puts it.
    @property
    def default_response_headers(self) -> dict[str, str]:
        return {}

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple[Any, str]:
        """There is one representation; whatever `Accept` says, this is it."""
        return _RENDERER, "application/json"

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], HttpResponse]:
        return exception_handler


def json_response(text: str, status: int = 200) -> HttpResponse:
    """An answer of finished JSON text. Never cached: it depends on who asked, and on the moment."""
    response = HttpResponse(text, content_type="application/json", status=status)
    response.headers["Cache-Control"] = "no-store"
    return response


def channel_in(request: HttpRequest, name: str) -> ChannelName:
    """The channel of a path, which Django has decoded; `bad_channel` for anything that is none.

    A slash that came percent-encoded is part of the name and makes it a bad one; one that came as itself means a path
    that does not exist. Only a server that passes on the raw path can tell the two apart.
    """
    raw_path: bytes | None = getattr(request, "scope", {}).get("raw_path")
    if "/" in name and raw_path and b"%2f" not in raw_path.lower():
        raise ProtocolError("not_found", "There is nothing at this address.", remedy="Check the path.")
    if raw_path and "/" not in name and b"%2f" in raw_path.lower():
        raise ProtocolError("bad_channel", "A channel's name has no slash.")
    return parse_channel(name)


class MessagesView(PlatformView):
    """Publish to a channel, and read its history."""

    @described(
        "bad_frame",
        "bad_channel",
        "forbidden",
        "not_found",
        "too_large",
        "rate_limited",
        operation_id="publish",
        # One message object, without `messages`, is taken as well: `realtime.api.openapi` adds it.
        request=serializers.MessagesIn,
        parameters=[NAME],
        responses={
            201: OpenApiResponse(serializers.PublishedOut, "Committed."),
            200: OpenApiResponse(serializers.PublishedOut, "All of it was known already."),
        },
        auth=ANYBODY,
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        """Store one message, or 1–1000 all or none; 201 when committed, 200 when all were known already. The header
        `Idempotency-Key` may say the `id` of a single message."""
        identity = identity_of(request)
        if identity.kind == "anonymous":
            # Before the body is read: who may not publish anyway cannot make the server parse megabytes.
            require(identity, channel_in(request._request, name), "publish")
        body = read_object(request._request)
        messages = _messages(body, request.META.get("HTTP_IDEMPOTENCY_KEY"))
        client = _publisher(identity, body)
        channel = channel_in(request._request, name)
        published = publish_batch(identity, channel, messages, client=client)
        known = len(published.duplicates) == len(published.serials)
        response = json_response(codec.encode(_fields(published)), 200 if known else 201)
        left = rate_left(identity, rules_for(channel), channel, client)
        if left is not None:
            tell_rate(response, left.limit, left.remaining, left.reset_ms)
        return response

    @described(
        "bad_frame",
        "bad_channel",
        "forbidden",
        "not_found",
        "rate_limited",
        operation_id="history",
        parameters=[
            NAME,
            whole("after", "Exclusive serial."),
            whole("before", "Exclusive serial."),
            whole("since", "Unix milliseconds: from the first message not earlier."),
            LIMIT,
            OpenApiParameter("order", str, enum=["asc", "desc"], description="asc with after or since, else desc."),
        ],
        responses={200: OpenApiResponse(serializers.PageOut, "A page.")},
        auth=ANYBODY,
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """A page of the channel's history: at most `limit` messages and 512 KiB."""
        query = request._request.GET
        after, before, since = (integer(query, key) for key in ("after", "before", "since"))
        limit = integer(query, "limit", least=1, most=PAGE_MOST)
        order = cast("Literal['asc', 'desc'] | None", choice(query, "order", ("asc", "desc")))
        channel = channel_in(request._request, name)
        identity = identity_of(request)
        require(identity, channel, "history")
        budgets.check(identity.client, channel)
        page = reads.read_page(
            channel, after=after, before=before, since=since, order=order, limit=limit or PAGE_DEFAULT
        )
        budgets.charge(identity.client, sum([len(envelope) for envelope in page.messages]))
        return json_response(page_text(page))


class SignalsView(PlatformView):
    """Signals to those who are attached now."""

    @described(
        "bad_frame",
        "bad_channel",
        "forbidden",
        "not_found",
        "too_large",
        "rate_limited",
        operation_id="signal",
        request=serializers.SignalIn,
        parameters=[NAME],
        responses={202: OpenApiResponse(serializers.SignalOut, "On its way; nothing is stored.")},
        auth=ANYBODY,
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        """Send a signal to all who are attached, or to one client of them. Needs the operation `signal`."""
        identity = identity_of(request)
        channel = channel_in(request._request, name)
        if identity.kind == "anonymous":
            require(identity, channel, "signal")
        body = read_object(request._request)
        event, to = body.get("event"), body.get("to", "")
        for field, value in (("event", event), ("to", to)):
            if not isinstance(value, str):
                raise ProtocolError("bad_frame", f"`{field}` is no string.", remedy="Correct the body.")
        client = _publisher(identity, body)
        send_for(identity, channel, cast("str", event), body.get("data"), to=cast("str", to), client=client)
        return json_response(codec.encode({"channel": channel, "event": event}), 202)


class PublishView(PlatformView):
    """Publish to several channels."""

    @described(
        "bad_frame",
        "forbidden",
        "too_large",
        operation_id="publish_many",
        request=serializers.PublishIn,
        responses={200: OpenApiResponse(serializers.PublishOut, "What became of each item.")},
    )
    def post(self, request: Request) -> HttpResponse:
        """Store 1–100 items, each all or none, in order; each is answered as stored or refused by itself."""
        identity = require_known(request)
        body = read_object(request._request)
        items = body.get("items")
        if not isinstance(items, list) or not 0 < len(items) <= MAX_ITEMS:
            raise ProtocolError("bad_frame", f"`items` is no array of 1 to {MAX_ITEMS}.", remedy="Correct the body.")
        count = sum(len(_messages_of(item)) for item in items)
        if count > MAX_MESSAGES:
            raise ProtocolError(
                "bad_frame", f"There are {count} messages in all items.", remedy=f"Send at most {MAX_MESSAGES} at once."
            )
        default = _publisher(identity, body)
        batches = [_batch(identity, item, default) for item in items]
        # One call for all that are in order, so that a hundred items do not cost a hundred commits.
        outcomes = iter(publish_batches([batch for batch in batches if isinstance(batch, Batch)]))
        answers = [next(outcomes) if isinstance(batch, Batch) else batch for batch in batches]
        response = json_response(
            codec.encode({"items": [_fields(each) if isinstance(each, Published) else each.body() for each in answers]})
        )
        _tell_rates(
            response,
            [
                batch
                for batch, answer in zip(batches, answers, strict=True)
                # Of other refusals nothing was taken, and who may not publish learns nothing of limits.
                if isinstance(batch, Batch) and (isinstance(answer, Published) or answer.code == "rate_limited")
            ],
        )
        return response


def _tell_rates(response: HttpResponse, batches: list[Batch]) -> None:
    """The budget that is nearest to its end, of all that were taken from."""
    known = all_rules()
    places = {(batch.channel, batch.client): batch for batch in batches if namespace_of(batch.channel) in known}
    left = [
        rate_left(batch.identity, known[namespace_of(channel)], channel, client)
        for (channel, client), batch in places.items()
    ]
    tightest = min([each for each in left if each is not None], key=lambda each: each.remaining, default=None)
    if tightest is not None:
        tell_rate(response, tightest.limit, tightest.remaining, tightest.reset_ms)


class ChannelView(PlatformView):
    """One channel."""

    @described(
        "bad_channel",
        "forbidden",
        "not_found",
        operation_id="channel",
        parameters=[NAME],
        responses={200: OpenApiResponse(serializers.ChannelOut, "Its log.")},
        auth=ANYBODY,
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """What a channel's log holds, and how many are attached."""
        channel = channel_in(request._request, name)
        _require_sight(request, channel)
        return json_response(codec.encode(channel_fields(channel)))


def channel_fields(channel: ChannelName) -> dict[str, object]:
    """What is told of one channel."""
    state = reads.read_states([channel])[channel]
    return {
        "name": channel,
        "epoch": state.epoch,
        "oldest": state.oldest,
        "head": state.head,
        "occupancy": local.occupancy(channel),
        "last_time": state.last_time or None,
        **({"closed": True} if closings.is_closed(channel) else {}),
    }


def _require_sight(request: Request, channel: ChannelName) -> None:
    """Whoever could attach may look at the numbers, also of a channel that is closed, to see that it is."""
    try:
        require(identity_of(request), channel, "subscribe")
    except ProtocolError as refusal:
        if refusal.code != "forbidden" or not closings.is_closed(channel):
            raise
        require(identity_of(request), channel, "history")


class PresenceView(PlatformView):
    """The members of a channel."""

    @described(
        "bad_frame",
        "bad_channel",
        "forbidden",
        "not_found",
        "rate_limited",
        operation_id="presence",
        parameters=[
            NAME,
            LIMIT,
            text("page", "`next` of the page before.", "^[!-~]*$", 128),
        ],
        responses={200: OpenApiResponse(serializers.MembersOut, "Members in the order of their client ids.")},
        auth=ANYBODY,
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """Who is a member of a channel, on all workers, and how many are. Needs the operation `presence`."""
        query = request._request.GET
        limit = integer(query, "limit", least=1, most=PAGE_MOST) or PAGE_DEFAULT
        page = query.get("page", "")
        if page and not is_client_id(page):
            raise ProtocolError("bad_frame", "The parameter page is no `next`.", remedy="Correct the parameter.")
        channel = channel_in(request._request, name)
        identity = identity_of(request)
        require(identity, channel, "presence")
        budgets.check(identity.client, channel)
        found = presence.members(channel, page, limit + 1)
        members = [
            {
                "client": member.client,
                "connections": member.connections,
                "data": Raw(member.data.encode()),
                "since": member.since,
            }
            for member in found[:limit]
        ]
        budgets.charge(identity.client, sum([len(member.data) for member in found]))
        after = found[limit - 1].client if len(found) > limit else None
        return json_response(codec.encode({"members": members, "count": presence.count(channel), "next": after}))


class TokensView(PlatformView):
    """Tokens for clients."""

    @described(
        "bad_frame",
        "forbidden",
        "too_large",
        operation_id="issue_token",
        request=serializers.TokenIn,
        responses={201: OpenApiResponse(serializers.TokenOut, "A token.")},
        auth=KEY_ONLY,
    )
    def post(self, request: Request) -> HttpResponse:
        """Issue a token with an API key: never more than the key itself may do, never longer than it holds."""
        key = require_api_key(request)
        body = read_object(request._request)
        client = body.get("client")
        if not is_client_id(client) or not isinstance(client, str):
            raise ProtocolError(
                "bad_frame", "`client` is no client id.", remedy="Send 1 to 128 visible ASCII characters."
            )
        token, expires_at_s = issue_token(
            client,
            _capability(key, body.get("cap")),
            _ttl_s(body.get("ttl_s")),
            not_after_s=key.expires_at_s,
            key_id=key.key_id,
        )
        return json_response(codec.encode({"token": token, "expires": int(expires_at_s * 1000)}), 201)


# ---------------------------------------------------------------- reading bodies


def _messages(body: Mapping[str, object], key: str | None) -> tuple[NewMessage, ...]:
    """The messages of a body, one or many; `key` is the header Idempotency-Key."""
    if "messages" in body:
        messages = parse_messages(body["messages"], MAX_MESSAGES)
    else:
        messages = (parse_message(body),)
    if key is None:
        return messages
    if len(messages) != 1:
        raise ProtocolError(
            "bad_frame", "Idempotency-Key is the id of a single message.", remedy="Give each message an `id` instead."
        )
    (message,) = messages
    if not is_message_id(key):
        raise ProtocolError(
            "bad_frame", "Idempotency-Key is no message id.", remedy="Send 1 to 64 visible ASCII characters."
        )
    if message.id is not None and message.id != key:
        raise ProtocolError(
            "bad_frame", "Idempotency-Key and the message's `id` differ.", remedy="Send one of them, or both alike."
        )
    return (message.with_id(key),)


def _publisher(identity: Identity, body: Mapping[str, object]) -> str:
    """Who publishes: the client of the credentials; an API key may name another in the body."""
    named = body.get("client")
    if named is None or identity.kind != "key":
        return identity.client
    if not isinstance(named, str) or not is_client_id(named):
        raise ProtocolError("bad_frame", "`client` is no client id.", remedy="Send 1 to 128 visible ASCII characters.")
    return named


def _messages_of(item: object) -> list[object]:
    messages = item.get("messages") if isinstance(item, dict) else None
    return messages if isinstance(messages, list) else []


def _batch(identity: Identity, item: object, default: str) -> Batch | ProtocolError:
    """An item of `POST /publish`, or why it is none."""
    try:
        if not isinstance(item, dict):
            raise ProtocolError("bad_frame", "An item is no object.", remedy="Correct the item.")
        name = item.get("channel")
        if not isinstance(name, str):
            raise ProtocolError("bad_frame", "`channel` of an item is no string.", remedy="Correct the item.")
        messages = parse_messages(item.get("messages"), MAX_MESSAGES)
        client = _publisher(identity, item) if "client" in item else default
        return Batch(identity, parse_channel(name), messages, client)
    except ProtocolError as refusal:
        return refusal


def _fields(published: Published) -> dict[str, object]:
    return {
        "channel": published.channel,
        "epoch": published.epoch,
        "serials": published.serials,
        "duplicates": published.duplicates,
        "conflicts": published.conflicts,
    }


def page_text(page: Page) -> str:
    """The body of a page: envelopes are joined as they are stored."""
    skipped = ""
    if page.skipped is not None:
        first, last, reason = page.skipped
        skipped = f',"skipped":{{"from":{first},"to":{last},"reason":"{reason}"}}'
    epoch = "null" if page.epoch is None else f'"{page.epoch}"'
    return (
        f'{{"epoch":{epoch},"oldest":{page.oldest},"head":{page.head},"messages":[{",".join(page.messages)}]'
        f',"more":{"true" if page.more else "false"}{skipped}}}'
    )


# ---------------------------------------------------------------- tokens


def _capability(key: Identity, asked: object) -> Mapping[str, object] | None:
    """The capability of a token that this key may issue. Without one asked for, the namespaces decide, but only where
    the key covers whatever they may grant; a narrower key gives its own, without `admin`."""
    own = key.capability or Capability.parse({})
    if asked is None:
        return None if own.covers(EVERYTHING) else _without_admin(own)
    try:
        capability = Capability.parse(asked)
    except ValueError as error:
        raise ProtocolError(
            "bad_frame", f"`cap` has the wrong shape. {error}", remedy='Send {"channel pattern": ["operation", …], …}.'
        ) from None
    if not own.covers(capability):
        raise ProtocolError(
            "forbidden",
            "The capability asked for is more than the API key has itself.",
            remedy="Ask for less, or use a key with a wider capability.",
        )
    return capability.grants()


def _without_admin(capability: Capability) -> dict[str, object]:
    return {
        pattern: sorted(OPERATIONS.intersection(operations) - {"admin"})
        for pattern, operations in capability.grants().items()
    }


def _ttl_s(asked: object) -> float:
    if asked is None:
        return TOKEN_TTL_S
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 < asked <= TOKEN_TTL_MOST_S:
        raise ProtocolError(
            "bad_frame", f"`ttl_s` is no number of seconds up to {TOKEN_TTL_MOST_S}.", remedy="Correct `ttl_s`."
        )
    return asked
