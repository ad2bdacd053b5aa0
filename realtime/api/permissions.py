"""Who may call an endpoint at all. What a client may do on a channel is decided by `realtime.authorization`."""

from __future__ import annotations

from rest_framework.request import Request

from realtime.authorization import ANONYMOUS, Context, Identity, Operation, Rules, authorize
from realtime.delivery.capability import Capability
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName


def identity_of(request: Request) -> Identity:
    """Who asks; `ANONYMOUS` without credentials."""
    identity = request.auth
    return identity if isinstance(identity, Identity) else ANONYMOUS


def require_known(request: Request) -> Identity:
    """Who asks, or `unauthorized` without credentials."""
    identity = identity_of(request)
    if identity.kind == "anonymous":
        raise no_credentials()
    return identity


def require_api_key(request: Request) -> Identity:
    """The API key that asks; `forbidden` for everybody else."""
    identity = require_known(request)
    if identity.kind != "key":
        raise ProtocolError(
            "forbidden", "Only API keys may do this.", remedy="Send an API key as the bearer credential."
        )
    return identity


def require_admin(request: Request) -> Identity:
    """An API key that may operate the whole platform; `forbidden` for everybody else."""
    identity = require_api_key(request)
    if identity.capability is None or not identity.capability.covers(_ADMIN):
        raise ProtocolError(
            "forbidden",
            f"The API key {identity.client} may not operate the platform.",
            remedy='Use an API key with the capability {"*": ["admin"]}.',
        )
    return identity


def require_operator(request: Request, channel: ChannelName) -> Identity:
    """An API key that may operate the channel, whether there is one or not; `forbidden` for everybody else."""
    key = require_api_key(request)
    if key.capability is None or not key.capability.allows(channel, "admin"):
        raise ProtocolError(
            "forbidden",
            f"The API key {key.client} may not operate {channel}.",
            remedy="Use an API key whose capability has `admin` on the channel.",
            channel=channel,
        )
    return key


_ADMIN = Capability.parse({"*": ["admin"]})


def require(identity: Identity, channel: ChannelName, operation: Operation, context: Context | None = None) -> Rules:
    """`authorize`, but who came without credentials hears that they are missing (401), not that they do not suffice."""
    try:
        return authorize(identity, channel, operation, context)
    except ProtocolError as refusal:
        if identity.kind == "anonymous" and refusal.code == "forbidden":
            raise no_credentials() from None
        raise


def no_credentials() -> ProtocolError:
    return ProtocolError(
        "unauthorized",
        "The request has no credentials.",
        remedy="Send `Authorization: Bearer <token or API key>`.",
    )
