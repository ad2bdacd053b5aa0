"""Endpoints for operators' programs: the list of channels, revoking tokens, disconnecting clients.

What changes anything is done by `realtime.desk`, as in the admin, and stands in the audit log under the key's name.
"""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.request import Request

from realtime import desk, live
from realtime.api import serializers
from realtime.api.parsers import integer, read_object
from realtime.api.permissions import require_admin, require_api_key
from realtime.api.schema import KEY_ONLY, described
from realtime.api.views import PlatformView, json_response
from realtime.delivery.capability import Capability
from realtime.log import reads
from realtime.protocol import codec
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import is_channel_prefix, is_client_id
from realtime.revocations import Kind
from realtime.tokens import Identity

PAGE_DEFAULT = 100
PAGE_MOST = 1000
JTI_MOST_CHARS = 256
REASON_MOST_CHARS = 200


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
            OpenApiParameter("prefix", str, description="The beginning of the names; by default all."),
            OpenApiParameter("limit", int, description="1–1000, default 100."),
            OpenApiParameter("page", str, description="`next` of the page before."),
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
            }
            for name, state in found[:limit]
        ]
        after = channels[-1]["name"] if len(found) > limit else None
        return json_response(codec.encode({"channels": channels, "next": after}))


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
        value, reason = body[kind], body.get("reason", "")
        if not isinstance(value, str) or not _fits(kind, value):
            raise ProtocolError("bad_frame", f"`{kind}` is none.", remedy="Correct it.")
        if not isinstance(reason, str) or len(reason) > REASON_MOST_CHARS:
            raise ProtocolError(
                "bad_frame", "`reason` is no short text.", remedy=f"Send at most {REASON_MOST_CHARS} characters."
            )
        connections = desk.revoke(kind, value, actor=actor_of(key), reason=reason)
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
        parameters=[
            OpenApiParameter("client", str, OpenApiParameter.PATH, description="A client id, percent-encoded whole.")
        ],
        responses={200: OpenApiResponse(serializers.DisconnectedOut, "They are closed, on all workers.")},
        auth=KEY_ONLY,
    )
    def delete(self, request: Request, client: str) -> HttpResponse:
        """Close all connections of a client, with 4403. It may connect again, unless it is blocked."""
        key = require_admin(request)
        if not is_client_id(client):
            raise ProtocolError("bad_frame", "The path names no client id.", remedy="Correct the path.")
        return json_response(codec.encode({"connections": desk.disconnect(client, actor=actor_of(key))}))
