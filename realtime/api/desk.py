"""Endpoints for operators' programs: channels to list, close, empty and give a new epoch, their ledgers, one message
traced, the audit log; tokens to revoke, clients to disconnect.

What changes anything is done by `realtime.desk`, as in the admin, and stands in the audit log under the key's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.request import Request

from realtime import closings, desk, live, overview
from realtime.api import serializers, views
from realtime.api.parsers import choice, integer, read_object
from realtime.api.permissions import require_admin, require_api_key, require_operator
from realtime.api.schema import KEY_ONLY, LIMIT, NAME, VISIBLE, described, text, whole
from realtime.api.views import PlatformView, channel_fields, channel_in, json_response
from realtime.delivery.capability import Capability
from realtime.log import reads
from realtime.protocol import codec
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName, is_channel_prefix, is_client_id
from realtime.revocations import Kind
from realtime.tokens import Identity

PAGE_DEFAULT = 100
PAGE_MOST = 1000
JTI_MOST_CHARS = 256
REASON_MOST_CHARS = 200
PREFIX = "^[A-Za-z0-9_.:@=-]*$"
NO_NUL = "^[^\\x00]*$"
SINCE_MOST_MS = 253_402_300_799_000
"""The end of the year 9999: what a database can compare with."""


def actor_of(key: Identity) -> str:
    """How the audit log names an API key."""
    return f"key:{key.client}"


class ChannelsView(PlatformView):
    """All channels."""

    @described(
        "bad_frame",
        "forbidden",
        operation_id="channels",
        parameters=[
            text("prefix", "The beginning of the names; by default all.", PREFIX, 200),
            LIMIT,
            text("page", "`next` of the page before.", PREFIX, 200),
        ],
        responses={200: OpenApiResponse(serializers.ChannelsOut, "Channels in the order of their names.")},
        auth=KEY_ONLY,
    )
    def get(self, request: Request) -> HttpResponse:
        """Channels by prefix. Needs an API key with `subscribe` on all names with the prefix."""
        key = require_api_key(request)
        query = request._request.GET
        prefix, page = query.get("prefix", ""), query.get("page", "")
        limit = integer(query, "limit", least=1, most=PAGE_MOST) or PAGE_DEFAULT
        for name, value in (("prefix", prefix), ("page", page)):
            if not is_channel_prefix(value):
                raise ProtocolError(
                    "bad_frame", f"The parameter {name} begins no channel's name.", remedy="Correct the parameter."
                )
        if key.capability is None or not key.capability.covers(Capability.parse({f"{prefix}*": ["subscribe"]})):
            raise ProtocolError(
                "forbidden",
                f"The API key {key.client} may not subscribe to all channels that begin so.",
                remedy="Ask for a longer prefix, or use a key with a wider capability.",
            )
        found = reads.read_list(prefix, page, limit + 1)
        occupancy = live.occupancies([name for name, _ in found[:limit]])
        channels = [
            {
                "name": name,
                "epoch": state.epoch,
                "oldest": state.oldest,
                "head": state.head,
                "occupancy": occupancy[name],
                "last_time": state.last_time or None,
                **({"closed": True} if closings.is_closed(name) else {}),
            }
            for name, state in found[:limit]
        ]
        after = channels[-1]["name"] if len(found) > limit else None
        return json_response(codec.encode({"channels": channels, "next": after}))


def _reason_in(body: Mapping[str, object]) -> str:
    reason = body.get("reason", "")
    if not isinstance(reason, str) or len(reason) > REASON_MOST_CHARS or "\0" in reason:
        raise ProtocolError(
            "bad_frame", "`reason` is no short text.", remedy=f"Send at most {REASON_MOST_CHARS} characters."
        )
    return reason


class ChannelView(views.ChannelView):
    """One channel, and whether it is closed."""

    @described(
        "bad_frame",
        "bad_channel",
        "forbidden",
        "not_found",
        operation_id="close",
        request=serializers.ClosedIn,
        parameters=[NAME],
        responses={200: OpenApiResponse(serializers.ChannelOut, "It is so, on all workers within two seconds.")},
        auth=KEY_ONLY,
    )
    def patch(self, request: Request, name: str) -> HttpResponse:
        """Close a channel, or open it again. Nobody attaches or publishes while it is closed; who is attached is told
        by `detached`, reason `forbidden`. Needs an API key with `admin` on the channel."""
        require_api_key(request)
        body = read_object(request._request)
        channel = channel_in(request._request, name)
        key = require_operator(request, channel)
        if not isinstance(body.get("closed"), bool):
            raise ProtocolError("bad_frame", "`closed` is neither true nor false.", remedy="Correct it.")
        act = desk.close if body["closed"] else desk.open_again
        act(channel, actor=actor_of(key), reason=_reason_in(body))
        return json_response(codec.encode(channel_fields(channel)))


class MessagesView(views.MessagesView):
    """Messages to publish, to read, and to take out."""

    @described(
        "bad_frame",
        "bad_channel",
        "forbidden",
        "not_found",
        operation_id="take_messages",
        parameters=[NAME, whole("upto", "The last serial to take; by default all.")],
        responses={200: OpenApiResponse(serializers.LogOut, "The log as it is now.")},
        auth=KEY_ONLY,
    )
    def delete(self, request: Request, name: str) -> HttpResponse:
        """Take messages out of the log: through a serial, or all, and then the log goes on in a new epoch. Rows are
        deleted later, a chunk at a time. Needs an API key with `admin` on the channel."""
        require_api_key(request)
        upto = integer(request._request.GET, "upto")
        channel = channel_in(request._request, name)
        key = require_operator(request, channel)
        if upto is None:
            desk.empty(channel, actor=actor_of(key))
        else:
            desk.prune(channel, upto, actor=actor_of(key))
        return json_response(codec.encode(_log_fields(channel)))


class EpochView(PlatformView):
    """The epoch of a channel's log."""

    @described(
        "bad_channel",
        "forbidden",
        "not_found",
        operation_id="new_epoch",
        request=None,
        parameters=[NAME],
        responses={200: OpenApiResponse(serializers.LogOut, "The log as it is now.")},
        auth=KEY_ONLY,
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        """Give the log a new epoch: every position is void, who is attached is told and reads from the beginning.
        Messages stay. Needs an API key with `admin` on the channel."""
        require_api_key(request)
        channel = channel_in(request._request, name)
        key = require_operator(request, channel)
        desk.new_epoch(channel, actor=actor_of(key))
        return json_response(codec.encode(_log_fields(channel)))


def _log_fields(channel: ChannelName) -> dict[str, object]:
    state = reads.read_states([channel])[channel]
    return {"epoch": state.epoch, "oldest": state.oldest, "head": state.head}


class LedgerView(PlatformView):
    """What was delivered of a channel."""

    @described(
        "bad_channel",
        "forbidden",
        operation_id="ledger",
        parameters=[NAME],
        responses={200: OpenApiResponse(serializers.BooksOut, "The sums over all attachments.")},
        auth=KEY_ONLY,
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """The loss ledger: what positions say was delivered of the channel, and what was written, by the workers behind
        this address since each began to follow it. Needs an API key with `admin` on the channel."""
        require_api_key(request)
        channel = channel_in(request._request, name)
        require_operator(request, channel)
        found = live.books(channel)
        return json_response(codec.encode({**asdict(found), "delivered": found.delivered, "balanced": found.balanced}))


class TraceView(PlatformView):
    """One message on its way."""

    @described(
        "bad_frame",
        "bad_channel",
        "forbidden",
        "not_found",
        operation_id="trace",
        parameters=[NAME, whole("serial", "The message.", least=1, required=True)],
        responses={200: OpenApiResponse(serializers.TraceOut, "Where it is.")},
        auth=KEY_ONLY,
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """One message from its publisher to those who have it: from the log, and from the live state of the workers
        behind this address. Needs an API key with `admin` on the channel."""
        require_api_key(request)
        serial = integer(request._request.GET, "serial", least=1)
        if serial is None:
            raise ProtocolError("bad_frame", "The parameter serial is missing.", remedy="Name the message by it.")
        channel = channel_in(request._request, name)
        require_operator(request, channel)
        found = overview.trace(f"{channel}#{serial}")
        return json_response(codec.encode({"message": found.message, "epoch": found.epoch, "live": asdict(found.at)}))


class AuditView(PlatformView):
    """The audit log."""

    @described(
        "bad_frame",
        "forbidden",
        operation_id="audit",
        parameters=[
            text("actor", "A whole actor: user:eve, key:backend or shell.", NO_NUL),
            OpenApiParameter("act", str, enum=sorted(desk.ACTS), description="Acts are listed in the reference."),
            text("target", "A whole target: a channel, a client, a name.", NO_NUL),
            whole("since", "Unix milliseconds: not earlier.", most=SINCE_MOST_MS),
            whole("before", "`next` of the page before."),
            LIMIT,
        ],
        responses={200: OpenApiResponse(serializers.ActsOut, "What operators did.")},
        auth=KEY_ONLY,
    )
    def get(self, request: Request) -> HttpResponse:
        """Who did what, newest first. Needs an API key with `admin` on `*`."""
        require_admin(request)
        query = request._request.GET
        limit = integer(query, "limit", least=1, most=PAGE_MOST) or PAGE_DEFAULT
        act = choice(query, "act", tuple(sorted(desk.ACTS)))
        since, before = integer(query, "since", most=SINCE_MOST_MS), integer(query, "before")
        wanted = {name: query.get(name) for name in ("actor", "target")}
        if any(value is not None and "\0" in value for value in wanted.values()):
            raise ProtocolError("bad_frame", "A parameter has a character that nothing has.", remedy="Correct it.")
        found = desk.acts(**wanted, act=act, since_ms=since, before=before, limit=limit + 1)
        rows = [
            {
                "id": row.pk,
                "at": int(row.at.timestamp() * 1000),
                "actor": row.actor,
                "act": row.act,
                "target": row.target,
                "details": row.details,
            }
            for row in found[:limit]
        ]
        return json_response(codec.encode({"acts": rows, "next": found[limit - 1].pk if len(found) > limit else None}))


class RevokeView(PlatformView):
    """Tokens that are taken back."""

    @described(
        "bad_frame",
        "forbidden",
        operation_id="revoke",
        request=serializers.RevokeIn,
        responses={200: OpenApiResponse(serializers.RevokedOut, "Revoked, on all workers within two seconds.")},
        auth=KEY_ONLY,
    )
    def post(self, request: Request) -> HttpResponse:
        """Revoke one of: a token by `jti`, all tokens of a `client` until now, all issued with an API `key`."""
        key = require_admin(request)
        body = read_object(request._request)
        given: list[Kind] = [kind for kind in ("jti", "client", "key") if kind in body]
        if len(given) != 1:
            raise ProtocolError(
                "bad_frame", "The body names no token to revoke.", remedy="Send one of `jti`, `client` and `key`."
            )
        (kind,) = given
        value = body[kind]
        if not isinstance(value, str) or not _fits(kind, value):
            raise ProtocolError("bad_frame", f"`{kind}` is none.", remedy="Correct it.")
        connections = desk.revoke(kind, value, actor=actor_of(key), reason=_reason_in(body))
        return json_response(codec.encode({"revoked": 1, "connections": connections}))


def _fits(kind: Kind, value: str) -> bool:
    if kind == "jti":
        # What the database cannot store is no jti of a token that anybody has verified.
        return 0 < len(value) <= JTI_MOST_CHARS and "\0" not in value
    if kind == "key":
        return value.isascii() and value.isalnum() and 4 <= len(value) <= 32
    return is_client_id(value)


class ConnectionsView(PlatformView):
    """The connections of a client."""

    @described(
        "bad_frame",
        "forbidden",
        operation_id="disconnect",
        parameters=[text("client", "A client id, percent-encoded whole.", VISIBLE, 128, "path")],
        responses={200: OpenApiResponse(serializers.DisconnectedOut, "They are closed, on all workers.")},
        auth=KEY_ONLY,
    )
    def delete(self, request: Request, client: str) -> HttpResponse:
        """Close all connections of a client, with 4403. It may connect again, unless it is blocked."""
        key = require_admin(request)
        if not is_client_id(client):
            raise ProtocolError("bad_frame", "The path names no client id.", remedy="Correct the path.")
        return json_response(codec.encode({"connections": desk.disconnect(client, actor=actor_of(key))}))
