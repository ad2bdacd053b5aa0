"""Tickets: what a browser's EventSource, which cannot set a header, puts into the address instead of a token.

A ticket is sealed (AES-GCM under a key made of SECRET_KEY), so it needs no row and says nothing to whoever finds it.
It holds the client, the part of its capability that reads the listed channels, the list, and what the token rests on:
it is refused when the token is revoked or over, and everywhere but at the events of those channels. Addresses land in
logs and histories; there a ticket is worth at most a look at these channels until the token would have ended.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings as django_settings

from realtime import tokens
from realtime.conf import settings
from realtime.delivery.capability import Capability
from realtime.protocol.codec import encode
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ClientId
from realtime.tokens import Identity, Kind, SessionMark
from realtime.transports import attaching, http
from realtime.transports.attaching import Wanted
from realtime.transports.http import Request, Send
from realtime.worker import Worker

TICKET_CHARS_MOST = 6000
"""A browser sends it at every reconnect, beside the id of the last event; servers take 16 KiB of both."""

READS = frozenset({"subscribe", "history", "presence"})
"""Operations that following a channel can need."""

EVENTS = "events"
"""The one purpose there is."""

_NONCE_BYTES = 12
_UNSEALED_MOST = 65_536


class _Content(msgspec.Struct, array_like=True):
    purpose: str
    client: str
    kind: Kind
    expires_at_s: float | None
    jti: str | None
    issued_at_s: float | None
    key_id: str | None
    kid: str | None
    session: tuple[str, str, str] | None
    capability: dict[str, list[str]] | None
    attach: list[tuple[str, list[object], dict[str, object]]]
    """Channel, its position if it has one, what is passed on."""


_decode = msgspec.json.Decoder(_Content).decode


async def serve_tickets(request: Request, send: Send, running: Worker, cors: list[http.Header]) -> None:
    """`POST /tickets`: a ticket for the events of the listed channels."""
    identity = await http.identify(request, running)
    if identity.kind == "anonymous":
        raise http.told_to(identity, ProtocolError("forbidden"))
    if identity.kind == "key":
        raise ProtocolError(
            "forbidden", "API keys get no tickets.", remedy="Get a token for the client, and a ticket with the token."
        )
    refusal = tokens.refusal_of(identity, time.time())
    if refusal is not None:
        raise refusal
    wanted = attaching.in_body(attaching.read_json(await request.body(settings.MAX_FRAME_BYTES)))
    text = issue(identity, wanted)
    expires = None if identity.expires_at_s is None else int(identity.expires_at_s * 1000)
    body = {"ticket": text, "expires": expires, "url": f"{settings.API_PATH}/events?ticket={text}"}
    await http.respond(send, 201, encode(body).encode(), headers=cors)


def issue(identity: Identity, wanted: Sequence[Wanted]) -> str:
    """A ticket with the authority of `identity`. ProtocolError `too_large` for a list too long for an address."""
    mark = identity.session
    content = _Content(
        EVENTS,
        identity.client,
        identity.kind,
        identity.expires_at_s,
        identity.jti,
        identity.issued_at_s,
        identity.key_id,
        identity.kid,
        None if mark is None else (mark.session_key, mark.user_pk, mark.auth_hash),
        _narrowed(identity.capability, wanted),
        [(each.channel, [] if each.position is attaching.ABSENT else [each.position], _dated(each)) for each in wanted],
    )
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = _ciphers()[0].encrypt(nonce, zlib.compress(msgspec.json.encode(content)), None)
    text = base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()
    if len(text) > TICKET_CHARS_MOST:
        raise ProtocolError("too_large", "The list is too long for a ticket.", remedy="Get tickets for parts of it.")
    return text


def _dated(wanted: Wanted) -> dict[str, object]:
    """Entering counts as of now: whoever comes back with the ticket repeats what was said today."""
    entering = wanted.entering
    if entering is None or entering.at is not None:
        return wanted.more
    return {**wanted.more, "enter": {**entering._asdict(), "at": time.time_ns() // 1_000_000}}


def _narrowed(capability: Capability | None, wanted: Sequence[Wanted]) -> dict[str, list[str]] | None:
    if capability is None:
        return None
    return {each.channel: sorted(capability.operations(each.channel) & READS) for each in wanted}


def open_sealed(text: str, purpose: str, now_s: float) -> tuple[Identity, list[Wanted]]:
    """Whose ticket it is, and for what. ProtocolError `unauthorized`. Whether the token was revoked is asked by the
    connection, as of every identity; a session has still to be looked up."""
    content = _unsealed(text)
    if content is None or content.purpose != purpose:
        raise ProtocolError("unauthorized", "This is no ticket of this server.", remedy="Get a new one.")
    if content.expires_at_s is not None and now_s >= content.expires_at_s + settings.TOKEN_LEEWAY_S:
        remedy = "Get a new token, and with it a ticket from `POST /tickets`."
        raise ProtocolError("unauthorized", "The ticket has ended with its token.", remedy=remedy)
    identity = Identity(
        ClientId(content.client),
        None if content.capability is None else Capability.parse(content.capability),
        content.kind,
        content.expires_at_s,
        content.jti,
        content.issued_at_s,
        content.key_id,
        None if content.session is None else SessionMark(*content.session),
        content.kid,
    )
    wanted = [
        Wanted(channel, position[0] if position else attaching.ABSENT, more)
        for channel, position, more in content.attach
    ]
    return identity, wanted


def _unsealed(text: str) -> _Content | None:
    if len(text) > TICKET_CHARS_MOST:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    for cipher in _ciphers():
        try:
            packed = cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            continue
        return _decode(zlib.decompressobj().decompress(packed, _UNSEALED_MOST))
    return None


def _ciphers() -> tuple[AESGCM, ...]:
    """The first seals; the others open what was sealed before SECRET_KEY was changed."""
    return _ciphers_of((django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS))


@lru_cache(maxsize=2)
def _ciphers_of(keys: tuple[str | bytes, ...]) -> tuple[AESGCM, ...]:
    raw = [key.encode() if isinstance(key, str) else key for key in keys]
    return tuple([AESGCM(hashlib.sha256(b"seriatim ticket 1 " + each).digest()) for each in raw])


async def identify(
    request: Request, query: Mapping[str, Sequence[str]], running: Worker
) -> tuple[Identity, list[Wanted] | None]:
    """Who asks for events, and the list of the ticket where there is one. A header goes before a ticket, a ticket
    before a cookie."""
    if "ticket" not in query or "authorization" in request.headers:
        return await http.identify(request, running), None
    if "attach" in query:
        raise ProtocolError("bad_frame", "The ticket has the list of channels.", remedy="Leave `attach` out.")
    identity, wanted = open_sealed(query["ticket"][-1], EVENTS, time.time())
    if identity.session is not None and not await http.ask(running, lambda: tokens.still_valid(identity)):
        remedy = "Log in again, and get a ticket from `POST /tickets`."
        raise ProtocolError("unauthorized", "The session has ended, and the ticket with it.", remedy=remedy)
    return identity, wanted
