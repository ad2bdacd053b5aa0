"""Who is there: tokens (JWT), API keys and session cookies, each turned into an `Identity`.

Nothing here decides what an identity may do (`realtime.authorization`) and nothing here knows a socket or a request.
`verify_token` touches no database and may run on the event loop; API keys and sessions are rows, so their functions
belong in threads. Refusals are `ProtocolError` `unauthorized` and say exactly what is wrong, never with anything
secret. The rules are those of docs/reference/protocol.md#token; docs/explanation/security.md explains them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final, Literal, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from django.conf import settings as django_settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signals import setting_changed
from django.db import IntegrityError, transaction
from django.db.models.signals import post_delete, post_save, pre_save
from django.http import parse_cookie
from django.utils.crypto import constant_time_compare
from django.utils.module_loading import import_string
from jwt import PyJWTError
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidAlgorithmError, InvalidSignatureError

from realtime import elsewhere, limits, providers, revocations, signing
from realtime.conf import settings
from realtime.delivery.capability import Capability
from realtime.elsewhere import after_commit
from realtime.mirror import read_again_if_broken
from realtime.models import ApiKey
from realtime.protocol import codec
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ClientId, is_client_id

__all__ = [
    "ALGORITHMS",
    "ANONYMOUS",
    "Identity",
    "SessionEnd",
    "SessionMark",
    "check_signing_keys",
    "client_id_of",
    "create_api_key",
    "end_session_here",
    "identity_from_cookies",
    "identity_from_session",
    "is_api_key",
    "issue_token",
    "on_session_end",
    "refresh_api_keys",
    "refusal_of",
    "revoke_api_key",
    "session_key_in",
    "session_still_valid",
    "still_valid",
    "verify_api_key",
    "verify_token",
    "verify_token_in_thread",
    "verify_token_soon",
]

logger = logging.getLogger("realtime.tokens")

ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")
MIN_SECRET_BYTES: Final = 32
# Times in claims beyond this are no Unix seconds; it also keeps every derived millisecond below 2⁵³.
MAX_TIME_S: Final = 9_000_000_000_000
# A crowd that polls comes back with its tokens again and again, and verifying one takes as long as the poll; 2 KB each.
VERIFIED_MOST: Final = 16_384
KIDS_MOST: Final = 64
API_KEY_FRESH_S: Final = 2.0
API_KEYS_MOST: Final = 10_000
LAST_USED_EVERY_S: Final = 60.0
MAX_KEY_NAME_CHARS: Final = 64
# All but `admin`: a backend's key publishes and reads; operating the platform is asked for by name.
DEFAULT_KEY_CAPABILITY: Final[Mapping[str, list[str]]] = {
    "*": ["subscribe", "publish", "history", "presence", "signal"]
}

KEY_CLAIM: Final = "key"
"""Names the API key with which a token was issued, so that its tokens can be revoked with it."""

Kind = Literal["token", "key", "session", "anonymous"]


@dataclass(frozen=True, slots=True)
class SessionMark:
    """What ties an identity to a Django session, to ask later whether that still holds. Never logged or sent."""

    session_key: str = field(repr=False)
    user_pk: str
    auth_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """A client that proved who it is. `capability` None: it may do what the namespace grants to anyone known."""

    client: ClientId
    capability: Capability | None
    kind: Kind
    expires_at_s: float | None = None
    """Unix seconds of `exp`, without leeway; None never."""
    jti: str | None = None
    issued_at_s: float | None = None
    key_id: str | None = None
    """Of the API key, for `kind` "key"; of a token, the API key with which it was issued."""
    session: SessionMark | None = None
    kid: str | None = None
    """Of the key that signed the token; of an identity provider's key, its name (`realtime.providers`)."""


ANONYMOUS: Final = Identity(ClientId("~anonymous"), None, "anonymous")


def _unauthorized(message: str, remedy: str | None = None) -> ProtocolError:
    return ProtocolError("unauthorized", message, remedy=remedy)


# ---------------------------------------------------------------- signing keys


@dataclass(frozen=True, slots=True)
class _SigningKey:
    kid: str
    algorithm: str
    verify: Any = field(repr=False)
    sign: Any = field(repr=False)


_keys: dict[str, _SigningKey] | None = None
_keys_of: object = None
"""Of which reading of the database the parsed keys are."""
_jws = PyJWS(options={"enforce_minimum_key_length": True})
_algorithms: dict[str, Algorithm] = get_default_algorithms()
# Verified tokens by their text, so that a backend that publishes a hundred times a second is verified once. What
# depends on the clock is checked at every use; a change of the keys empties it.
_verified: dict[str, tuple[Identity, float]] = {}
# What the header of a token says, by its text: an issuer writes the same one into all.
_kids: dict[str, str] = {}


def _signing_keys() -> dict[str, _SigningKey]:
    """The keys that verify, by kid: those of the database (`realtime.signing`), the one that signs first, and those of
    `REALTIME["SIGNING_KEYS"]`. Parsed once: parsing PEM costs more than verifying a signature."""
    global _keys, _keys_of
    rows, signs = signing.known()
    keys = _keys
    if keys is None or _keys_of is not rows:
        given = {**rows, **settings.SIGNING_KEYS}
        # Of those in the database only the current one signs, and it goes before the settings'.
        order = sorted(given, key=lambda kid: kid != signs)
        keys = {}
        for kid in order:
            try:
                parsed = _parse_key(kid, given[kid])
            except ImproperlyConfigured:
                if kid in settings.SIGNING_KEYS:
                    raise
                # One bad row must not keep the tokens of all other keys out.
                logger.error("The signing key %s of the database cannot be used.", kid)
                continue
            only_verifies = kid in rows and kid not in settings.SIGNING_KEYS and kid != signs
            keys[kid] = replace(parsed, sign=None) if only_verifies else parsed
        _keys, _keys_of = keys, rows
        _verified.clear()
        _kids.clear()
    return keys


def check_signing_keys() -> None:
    """Parse the settings' keys now. Raises `ImproperlyConfigured` with what to do; for the system checks at start."""
    for kid, given in settings.SIGNING_KEYS.items():
        _parse_key(kid, given)


def _parse_key(kid: object, given: object) -> _SigningKey:
    where = f"REALTIME['SIGNING_KEYS'][{kid!r}]"
    if not isinstance(kid, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", kid):
        raise ImproperlyConfigured(f"{where}: a key id is 1–64 of A–Z a–z 0–9 _ . -")
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(
            f"{where} must be a dict with `alg` and `secret`, or `public_key` and `private_key`."
        )
    algorithm = given.get("alg")
    if algorithm not in ALGORITHMS:
        raise ImproperlyConfigured(f"{where}: `alg` must be one of {', '.join(ALGORITHMS)}.")
    if algorithm == "HS256":
        secret = given.get("secret") or ""
        raw = secret.encode() if isinstance(secret, str) else bytes(secret)
        if len(raw) < MIN_SECRET_BYTES:
            raise ImproperlyConfigured(
                f"{where}: the secret of HS256 has {len(raw)} bytes; give at least {MIN_SECRET_BYTES} random ones."
            )
        parsed = _prepare(where, algorithm, raw)
        return _SigningKey(kid, algorithm, parsed, parsed)
    if given.get("secret"):
        raise ImproperlyConfigured(
            f"{where}: {algorithm} takes `public_key` and, to issue, `private_key`; no `secret`."
        )
    private = _prepare(where, algorithm, given["private_key"]) if given.get("private_key") else None
    if given.get("public_key"):
        public = _prepare(where, algorithm, given["public_key"])
    elif private is not None:
        public = private.public_key()
    else:
        raise ImproperlyConfigured(f"{where}: {algorithm} needs `public_key`, a PEM text.")
    if hasattr(public, "public_key"):
        raise ImproperlyConfigured(f"{where}: `public_key` holds a private key. Put the public one there.")
    fitting = {
        "RS256": rsa.RSAPublicKey,
        "ES256": ec.EllipticCurvePublicKey,
        "EdDSA": (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey),
    }[algorithm]
    if not isinstance(public, cast("type", fitting)):
        raise ImproperlyConfigured(f"{where}: the key is not one for {algorithm}.")
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < 2048:
        raise ImproperlyConfigured(f"{where}: an RSA key needs at least 2048 bits, this has {public.key_size}.")
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name != "secp256r1":
        raise ImproperlyConfigured(f"{where}: ES256 needs a key on the curve P-256, this is {public.curve.name}.")
    return _SigningKey(kid, algorithm, public, private)


def _prepare(where: str, algorithm: str, raw: object) -> Any:
    try:
        return _algorithms[algorithm].prepare_key(raw)
    except (PyJWTError, TypeError, ValueError) as error:
        # The library's text may quote the key; it stays out of the message.
        raise ImproperlyConfigured(f"{where}: the key cannot be read ({type(error).__name__}).") from None


# ---------------------------------------------------------------- tokens


def verify_token(text: str, now_s: float) -> Identity:
    """Verify a JWT: size, then key, signature and claims. Raises `unauthorized`. Safe on the event loop (40–130 µs).

    Also `unavailable`, for the token of an identity provider whose keys are not here: as `KeyAwaited` where it may be
    asked again as soon as they have been fetched (`verify_token_in_thread`, `verify_token_soon`).
    """
    if len(text) > settings.TOKEN_MAX_BYTES:
        raise _unauthorized(
            f"The token is longer than {settings.TOKEN_MAX_BYTES} bytes.", "Use patterns to shorten its capability."
        )
    keys = _signing_keys()
    known = _verified.get(text)
    if known is not None:
        identity, not_before_s = known
        _check_times(identity.expires_at_s, not_before_s, now_s)
        _check_revoked(identity, now_s)
        return identity
    if not text.isascii() or text.count(".") != 2:
        raise _unauthorized("This is no token: a JWT has three parts of base64url.")
    provider = _provider_of(text)
    key = _key_for(text, keys) if provider is None else _key_of(provider, text)
    claims = _claims(text, key)
    identity, not_before_s = _identity(claims, now_s, key.kid, provider)
    if len(_verified) >= VERIFIED_MOST:
        _verified.clear()
    _verified[text] = (identity, not_before_s)
    _check_revoked(identity, now_s)
    return identity


# REST has few threads; no more of them than this wait for a provider at a time.
_may_wait = threading.BoundedSemaphore(4)


def verify_token_in_thread(text: str, now_s: float) -> Identity:
    """`verify_token` that waits for a provider's keys, `JWKS_TIMEOUT_S` at most. Not for the event loop."""
    try:
        return verify_token(text, now_s)
    except providers.KeyAwaited as awaited:
        if not _may_wait.acquire(blocking=False):
            raise
        try:
            ended = threading.Event()
            awaited.provider.when_read(ended.set)
            ended.wait(settings.JWKS_TIMEOUT_S)
        finally:
            _may_wait.release()
    return verify_token(text, now_s)


async def verify_token_soon(text: str, now_s: float) -> Identity:
    """`verify_token` that awaits a provider's keys, `JWKS_TIMEOUT_S` at most, while others are served."""
    try:
        return verify_token(text, now_s)
    except providers.KeyAwaited as awaited:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # nobody waits on a loop that was closed
                loop.call_soon_threadsafe(ended.set)

        awaited.provider.when_read(tell)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.JWKS_TIMEOUT_S):
                await ended.wait()
    return verify_token(text, now_s)


def refusal_of(identity: Identity, now_s: float) -> ProtocolError | None:
    """Why an identity that was good is not any more: `unauthorized` for what was revoked, `forbidden` for who is
    blocked. Safe on the event loop."""
    if revocations.is_blocked(identity.client, now_s):
        return ProtocolError(
            "forbidden", f"The client {identity.client} is blocked.", remedy="Ask the operator of this site."
        )
    try:
        _check_revoked(identity, now_s)
    except ProtocolError as error:
        return error
    return None


def _check_lifetime(identity: Identity, now_s: float) -> None:
    most_s = limits.of(identity.client, identity.key_id).token_lifetime_s
    if most_s is None or identity.expires_at_s is None:
        return
    # Who does not say when it was issued has at least lived until now.
    lives_s = identity.expires_at_s - (now_s if identity.issued_at_s is None else identity.issued_at_s)
    if lives_s > most_s + settings.TOKEN_LEEWAY_S:
        raise _unauthorized(
            f"The token lives {lives_s:.0f} s; at most {most_s} s are allowed.", "Issue tokens that live shorter."
        )


def _check_revoked(identity: Identity, now_s: float) -> None:
    if identity.kind == "token":
        _check_lifetime(identity, now_s)
    if identity.kid is None:
        pass
    elif providers.is_foreign(identity.kid):
        if not providers.knows(identity.kid):
            raise _unauthorized("The token's issuer took back the key that signed it.", "Fetch a new token.")
    elif identity.kid not in _signing_keys():
        raise _unauthorized(f"The key {identity.kid}, which signed the token, was retired.", "Fetch a new token.")
    if identity.kind == "token" and revocations.is_revoked(
        identity.jti, identity.client, identity.key_id, identity.issued_at_s, now_s
    ):
        raise _unauthorized("The token was revoked.", "Fetch a new token.")


def _provider_of(text: str) -> providers.Provider | None:
    """The identity provider that the token says it is from. Nothing is believed yet: this only picks whose keys, whose
    audience and whose rules it has to meet."""
    if not providers.all_providers():
        return None
    part = text.split(".", 2)[1]
    try:
        claims = codec.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, ProtocolError):
        return None
    return providers.named(claims.get("iss")) if isinstance(claims, dict) else None


def _key_of(provider: providers.Provider, text: str) -> _SigningKey:
    """The provider's key that the token's `kid` names."""
    try:
        kid = _jws.get_unverified_header(text).get("kid")
    except (PyJWTError, ValueError, RecursionError):
        raise _unauthorized("This is no token: its header cannot be read.") from None
    key = provider.key(kid)
    if key is None:
        raise _unauthorized("The token's issuer has no key by its kid.", "Fetch a new token.")
    return _SigningKey(key.name, key.algorithm, key.public, None)


def _key_for(text: str, keys: Mapping[str, _SigningKey]) -> _SigningKey:
    """The key that the token's `kid` names: a lookup in a dict, so that no value can mean a path or a query."""
    header = text.partition(".")[0]
    kid = _kids.get(header)
    if kid is None:
        try:
            kid = _jws.get_unverified_header(text).get("kid", "default")
        except (PyJWTError, ValueError, RecursionError):
            raise _unauthorized("This is no token: its header cannot be read.") from None
        if kid in keys:
            if len(_kids) >= KIDS_MOST:
                _kids.clear()
            _kids[header] = kid
    if not keys:
        raise _unauthorized(
            "This server has no key to verify tokens with.", "The operator sets REALTIME['SIGNING_KEYS']."
        )
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        shown = f" {kid}" if isinstance(kid, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kid) else ""
        raise _unauthorized(f"No key is known by the token's kid{shown}.", "Sign with a key that the server knows.")
    return key


def _claims(text: str, key: _SigningKey) -> dict[str, object]:
    try:
        payload = _jws.decode(text, key.verify, algorithms=[key.algorithm])
    except InvalidSignatureError:
        raise _unauthorized(f"The token's signature is not that of key {key.kid}.") from None
    except InvalidAlgorithmError:
        raise _unauthorized(f"The token must be signed with {key.algorithm}, the algorithm of key {key.kid}.") from None
    except (PyJWTError, ValueError, TypeError, RecursionError):
        raise _unauthorized("The token cannot be read.") from None
    try:
        claims = codec.decode(payload)
    except ProtocolError:
        claims = None
    if not isinstance(claims, dict):
        raise _unauthorized("The token's claims are no JSON object.")
    return claims


def _identity(
    claims: dict[str, object], now_s: float, kid: str, provider: providers.Provider | None
) -> tuple[Identity, float]:
    """Check all claims; returns the identity and the time before which it does not hold."""
    expires_at_s = _time_claim(claims, "exp")
    if expires_at_s is None:
        raise _unauthorized("The token has no exp claim.", "Issue tokens that expire.")
    issued_at_s, not_before_s = _time_claim(claims, "iat"), _time_claim(claims, "nbf")
    _check_audience(claims, settings.TOKEN_AUDIENCE if provider is None else provider.audience)
    issuer = settings.TOKEN_ISSUER if provider is None else provider.issuer
    if issuer is not None and claims.get("iss") != issuer:
        raise _unauthorized("The token's iss claim is not the issuer that this server expects.")
    jti = claims.get("jti")
    if jti is not None and not (isinstance(jti, str) and 0 < len(jti) <= 256):
        raise _unauthorized("The token's jti claim must be a string of 1–256 characters.")
    client = claims.get("sub")
    if provider is not None and isinstance(client, str):
        client = provider.prefix + client
    if not isinstance(client, str) or not is_client_id(client):
        raise _unauthorized("The token's sub claim must be the client id: 1–128 visible ASCII characters.")
    capability = None if provider is None else provider.capability
    if "cap" in claims and (provider is None or provider.trusts_cap):
        try:
            capability = Capability.parse(claims["cap"])
        except ValueError:
            raise _unauthorized(
                "The token's cap claim has the wrong shape.", 'Give {"channel pattern": ["operation", …], …}.'
            ) from None
    if issued_at_s is not None and issued_at_s > now_s + settings.TOKEN_LEEWAY_S:
        raise _unauthorized(
            f"The token says it was issued {issued_at_s - now_s:.0f} s from now.", "Set the issuer's clock."
        )
    _check_times(expires_at_s, not_before_s, now_s)
    # Who is not us has no say in which of our API keys a token comes from.
    issued_with = claims.get(KEY_CLAIM) if provider is None else None
    key_id = issued_with if isinstance(issued_with, str) and len(issued_with) <= 32 else None
    identity = Identity(ClientId(client), capability, "token", expires_at_s, jti, issued_at_s, key_id, kid=kid)
    return identity, max(issued_at_s or 0.0, not_before_s or 0.0)


def _time_claim(claims: dict[str, object], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME_S:
        raise _unauthorized(f"The token's {name} claim must be a time in Unix seconds.")
    return float(value)


def _check_times(expires_at_s: float | None, not_before_s: float | None, now_s: float) -> None:
    if expires_at_s is not None and now_s >= expires_at_s + settings.TOKEN_LEEWAY_S:
        raise _unauthorized(f"The token expired {math.floor(now_s - expires_at_s)} s ago.", "Fetch a new token.")
    if not_before_s is not None and not_before_s > now_s + settings.TOKEN_LEEWAY_S:
        raise _unauthorized(f"The token is not valid before {not_before_s - now_s:.0f} s from now.")


def _check_audience(claims: dict[str, object], expected: str | None) -> None:
    """`aud` must be what is expected; where nothing is, the token was made for somebody else and is refused."""
    given = claims.get("aud")
    if expected is None:
        if given is not None:
            raise _unauthorized("The token names an audience, and this server expects none.")
        return
    audiences = given if isinstance(given, list) else [given]
    if expected not in audiences:
        raise _unauthorized("The token's aud claim does not name this server.")


def issue_token(
    client: str,
    capability: Mapping[str, object] | None = None,
    ttl_s: float = 3600,
    now_s: float | None = None,
    *,
    not_after_s: float | None = None,
    key_id: str | None = None,
) -> tuple[str, float]:
    """Sign a token with the first key that can. Returns its text and its `exp` in Unix seconds.

    `capability` is the shape of `cap`; None leaves the claim out, so that the namespaces decide. `not_after_s` bounds
    the lifetime, whatever was asked for, and so do limits; `key_id` is the API key that asked for it. Raises
    `bad_frame` for a bad client, capability or lifetime, and `too_large` when the token would be longer than this
    server accepts.
    """
    if not is_client_id(client):
        raise ProtocolError("bad_frame", "A client id is 1–128 visible ASCII characters.")
    if not math.isfinite(ttl_s) or ttl_s <= 0:
        raise ProtocolError("bad_frame", "The lifetime of a token must be positive.")
    if capability is not None:
        try:
            Capability.parse(capability)
        except ValueError:
            raise ProtocolError(
                "bad_frame",
                "The capability has the wrong shape.",
                remedy='Give {"channel pattern": ["operation", …], …}.',
            ) from None
    key = next((key for key in _signing_keys().values() if key.sign is not None), None)
    if key is None:
        raise ProtocolError(
            "internal",
            "This server has no key to sign tokens with.",
            remedy="The operator sets REALTIME['SIGNING_KEYS'] with a secret or a private key.",
        )
    now_s = time.time() if now_s is None else now_s
    most_s = limits.of(client, key_id).token_lifetime_s
    if most_s is not None:
        ttl_s = min(ttl_s, most_s)
    # Whole seconds, as issuers expect; upwards, so that a lifetime is never shorter than asked for.
    expires_at_s = math.ceil(now_s + ttl_s)
    if not_after_s is not None:
        expires_at_s = min(expires_at_s, math.floor(not_after_s))
    if expires_at_s > MAX_TIME_S:
        raise ProtocolError("bad_frame", "The lifetime of a token must end in this millennium.")
    claims: dict[str, object] = {
        "sub": client,
        "iat": math.floor(now_s),
        "exp": expires_at_s,
        "jti": secrets.token_urlsafe(12),
    }
    if capability is not None:
        claims["cap"] = capability
    if key_id is not None:
        claims[KEY_CLAIM] = key_id
    if settings.TOKEN_AUDIENCE is not None:
        claims["aud"] = settings.TOKEN_AUDIENCE
    if settings.TOKEN_ISSUER is not None:
        claims["iss"] = settings.TOKEN_ISSUER
    text = _jws.encode(codec.encode(claims).encode(), key.sign, key.algorithm, headers={"kid": key.kid})
    if len(text) > settings.TOKEN_MAX_BYTES:
        raise ProtocolError(
            "too_large",
            f"The token would have {len(text)} bytes; {settings.TOKEN_MAX_BYTES} are allowed.",
            remedy="Use patterns to shorten its capability.",
        )
    return text, float(expires_at_s)


# ---------------------------------------------------------------- API keys

_API_KEY = re.compile(r"ser_([A-Za-z0-9]{4,32})_([A-Za-z0-9_-]{16,128})")
_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, slots=True)
class _KnownKey:
    """An API key's row as last read; `identity` None: there is no such key."""

    read_at: float
    secret_hash: str = field(repr=False)
    identity: Identity | None
    revoked: bool


_known_keys: dict[str, _KnownKey] = {}
_used: dict[str, float] = {}
_written: dict[str, float] = {}
_keys_lock = threading.Lock()
# When a worker's reader thread last refreshed the cache: while it does, requests neither read nor write a row of a
# known key.
_refreshed_at = -math.inf


def is_api_key(text: str) -> bool:
    """Whether a bearer credential is meant as an API key. A JWT never begins like that."""
    return text.startswith("ser_")


def create_api_key(
    name: str,
    capability: Mapping[str, object] = DEFAULT_KEY_CAPABILITY,
    expires: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Create an API key; returns the row and the key's text, which exists nowhere else afterwards.

    `name` is the client id of what the key publishes. Raises `ValueError` with what is wrong.
    """
    if not is_client_id(name) or len(name) > MAX_KEY_NAME_CHARS:
        raise ValueError(f"The name of an API key is 1–{MAX_KEY_NAME_CHARS} visible ASCII characters: its client id.")
    Capability.parse(capability)
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    try:
        with transaction.atomic():
            row = ApiKey.objects.create(
                key_id=key_id, secret_hash=_hash(secret), name=name, capability=dict(capability), expires=expires
            )
    except IntegrityError:
        raise ValueError(
            f"There is an API key named {name} already. Delete it first, or choose another name."
        ) from None
    return row, f"ser_{key_id}_{secret}"


def revoke_api_key(row: ApiKey) -> None:
    """Revoke a key. Holds at once in this process, within two seconds in others."""
    ApiKey.objects.filter(pk=row.pk).update(revoked=True)
    row.revoked = True
    _forget_api_key(row.key_id)


def verify_api_key(text: str, now_s: float, fresh_s: float = API_KEY_FRESH_S) -> Identity:
    """Verify an API key; raises `unauthorized`. For threads: a key whose row was not read for `fresh_s` costs a query.

    A worker reads the rows of keys in use each second, while it can: so a larger `fresh_s` matters only while the
    database is away, when a revoked key is taken for so long.
    """
    match = _API_KEY.fullmatch(text)
    if match is None:
        raise _unauthorized("This is no API key: they look like ser_<id>_<secret>.")
    key_id, secret = match.groups()
    known = _known_keys.get(key_id)
    if known is None or time.monotonic() - known.read_at > fresh_s:
        known = _read_keys([key_id])[key_id]
    # Compared also for an unknown id, so that the time taken does not tell which ids exist.
    matches = hmac.compare_digest(_hash(secret), known.secret_hash)
    if known.identity is None or not matches:
        raise _unauthorized("This API key is not known.", "Create one with `manage.py create_api_key`.")
    if known.revoked:
        raise _unauthorized("This API key was revoked.", "Create another.")
    expires_at_s = known.identity.expires_at_s
    if expires_at_s is not None and now_s >= expires_at_s:
        raise _unauthorized(f"This API key expired {math.floor(now_s - expires_at_s)} s ago.", "Create another.")
    _used[key_id] = now_s
    if (
        time.monotonic() - _refreshed_at > 5 * API_KEY_FRESH_S
        and now_s - _written.get(key_id, 0.0) >= LAST_USED_EVERY_S
    ):
        _write_last_used(now_s)
    return known.identity


def refresh_api_keys(now_s: float) -> None:
    """Read the keys used lately again, in one query, and write when they were used, at most once a minute each.

    For a worker's reader thread, every second: then requests never touch the database for a key they know.
    """
    global _refreshed_at
    lately = [key_id for key_id, used_s in list(_used.items()) if now_s - used_s < LAST_USED_EVERY_S]
    for key_id in set(_known_keys) - set(lately):
        _known_keys.pop(key_id, None)
    if lately:
        _read_keys(lately)
        _write_last_used(now_s)
    _refreshed_at = time.monotonic()


def _read_keys(key_ids: list[str]) -> dict[str, _KnownKey]:
    read_at = time.monotonic()
    nobody = _KnownKey(read_at, "0" * 64, None, False)
    found = dict.fromkeys(key_ids, nobody)
    for row in read_again_if_broken(lambda: list(ApiKey.objects.filter(key_id__in=key_ids))):
        try:
            capability = Capability.parse(row.capability)
        except ValueError:
            capability = Capability.parse({})  # the row was edited by hand: nothing rather than everything
        identity = Identity(
            ClientId(row.name) if is_client_id(row.name) else ClientId(f"key-{row.key_id}"),
            capability,
            "key",
            row.expires.timestamp() if row.expires else None,
            key_id=row.key_id,
        )
        found[row.key_id] = _KnownKey(read_at, row.secret_hash, identity, row.revoked)
    if len(_known_keys) + len(found) > API_KEYS_MOST:
        _known_keys.clear()
    _known_keys.update(found)
    return found


def _write_last_used(now_s: float) -> None:
    with _keys_lock:
        due = {
            key_id: used_s
            for key_id, used_s in list(_used.items())
            if used_s > _written.get(key_id, 0.0) and now_s - _written.get(key_id, 0.0) >= LAST_USED_EVERY_S
        }
        _written.update(dict.fromkeys(due, now_s))
        for key_id in [key_id for key_id, used_s in list(_used.items()) if now_s - used_s > 2 * LAST_USED_EVERY_S]:
            _used.pop(key_id, None)
            _written.pop(key_id, None)
    for key_id, used_s in due.items():
        ApiKey.objects.filter(key_id=key_id).update(last_used=datetime.fromtimestamp(used_s, UTC))


def _hash(secret: str) -> str:
    """SHA-256 is enough for a secret of 256 random bits: there is nothing to guess, so nothing to slow down."""
    return hashlib.sha256(secret.encode()).hexdigest()


# ---------------------------------------------------------------- sessions


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """What ended or may have ended: one session (logged out), all of a user (password, active flag, deleted), or,
    where nothing is known, any. Other workers are told of it, so it has no session key."""

    session_hash: str | None
    """Of the key, by `hash_of_session`."""
    user_pk: str | None
    certain: bool
    """True: the session is over. False: ask `session_still_valid`."""

    def concerns(self, mark: SessionMark) -> bool:
        """Whether an identity with this mark may have ended."""
        if self.user_pk not in (None, mark.user_pk):
            return False
        return self.session_hash is None or self.session_hash == hash_of_session(mark.session_key)


_session_listeners: list[Callable[[SessionEnd], None]] = []


def hash_of_session(session_key: str) -> str:
    """Names a session to other workers. Keys are random, so nobody finds one by its hash."""
    return hashlib.sha256(b"seriatim session " + session_key.encode()).hexdigest()


def session_key_in(cookie_header: str) -> str | None:
    """The session key in a `Cookie` header; None when there is none."""
    return parse_cookie(cookie_header).get(django_settings.SESSION_COOKIE_NAME) or None


def identity_from_cookies(cookie_header: str, now_s: float) -> Identity | None:
    """`identity_from_session` of the key in a `Cookie` header."""
    session_key = session_key_in(cookie_header)
    return None if session_key is None else identity_from_session(session_key, now_s)


def identity_from_session(session_key: str, now_s: float) -> Identity | None:
    """The user of a session, or None: no such session, nobody logged in, password changed, user not active. Not for
    the event loop.

    The caller has checked `Origin` before: a cookie proves a browser, not that this site's page used it.
    """
    found = read_again_if_broken(lambda: _user_of(session_key))
    if found is None:
        return None
    user, mark, expires_at_s = found
    if expires_at_s is not None and now_s >= expires_at_s:
        return None
    client = import_string(settings.USER_CLIENT_ID)(user)
    if not isinstance(client, str) or not is_client_id(client):
        logger.error("REALTIME['USER_CLIENT_ID'] gave no client id for user %s.", user.pk)
        return None
    return Identity(ClientId(client), None, "session", expires_at_s, session=mark)


def session_still_valid(identity: Identity) -> bool:
    """Whether the session behind an identity still holds; true for identities without one. Not for the event loop."""
    if identity.session is None:
        return True
    mark = identity.session
    found = read_again_if_broken(lambda: _user_of(mark.session_key))
    return found is not None and found[1] == mark


def still_valid(identity: Identity) -> bool:
    """Whether what an identity rests on in the database still holds: its session, or its API key. Not for the event
    loop."""
    if identity.kind != "key" or identity.key_id is None:
        return session_still_valid(identity)
    known = _read_keys([identity.key_id])[identity.key_id]
    return known.identity is not None and not known.revoked


def client_id_of(user: AbstractBaseUser) -> str:
    """The client id of a user: the username where it can be one, else `~` and the primary key."""
    username = user.get_username()
    if is_client_id(username) and not username.startswith("~"):
        return username
    return f"~{user.pk}"


def _user_of(session_key: str) -> tuple[AbstractBaseUser, SessionMark, float | None] | None:
    """The checks of `django.contrib.auth.get_user`, without its cycling of the key: that would log the browser out."""
    if not (session_key.isascii() and session_key.isprintable()):
        return None
    store: SessionBase = import_module(django_settings.SESSION_ENGINE).SessionStore(session_key)
    try:
        user_pk, backend_path, auth_hash = (
            store[SESSION_KEY],
            store[BACKEND_SESSION_KEY],
            store.get(HASH_SESSION_KEY, ""),
        )
    except KeyError:
        return None
    if backend_path not in django_settings.AUTHENTICATION_BACKENDS:
        return None
    try:
        user = load_backend(backend_path).get_user(get_user_model()._meta.pk.to_python(user_pk))
    except (ValueError, TypeError, ValidationError):
        return None
    if user is None or not user.is_active:
        return None
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    if not any(constant_time_compare(auth_hash, each) for each in hashes):
        return None
    return user, SessionMark(session_key, str(user.pk), auth_hash), _session_expiry_s(store, session_key)


def _session_expiry_s(store: SessionBase, session_key: str) -> float | None:
    """When the session ends. Stores in a table know; others only know the age of a session written now."""
    model = getattr(store, "model", None)
    if model is not None:
        expires = model.objects.filter(session_key=session_key).values_list("expire_date", flat=True).first()
        if expires is not None:
            return cast("datetime", expires).timestamp()
    return store.get_expiry_date().timestamp()


def on_session_end(listener: Callable[[SessionEnd], None]) -> Callable[[], None]:
    """Call `listener` when a session ends or its user changes, here or elsewhere; returns what stops it.

    Called in the thread that noticed. Not everything is noticed (a session that another program deletes, a user whose
    row is changed without Django): a worker must also ask `session_still_valid` now and then.
    """
    _session_listeners.append(listener)

    def stop() -> None:
        if listener in _session_listeners:
            _session_listeners.remove(listener)

    return stop


def end_session_here(end: SessionEnd) -> None:
    """Tell this process's listeners: also of what ended elsewhere. Any thread."""
    for listener in list(_session_listeners):
        try:
            listener(end)
        except Exception:  # a listener's fault must not break somebody's logout
            logger.exception("A listener for the end of sessions failed.")


def _end_everywhere(end: SessionEnd, using: str | None) -> None:
    """Told to others; listeners here are told by the caller."""
    data = {"session": end.session_hash, "user": end.user_pk, "certain": end.certain}
    elsewhere.tell("session_end", data, using=using)


def _on_logged_out(*, request: Any = None, user: Any = None, **_: object) -> None:
    session = getattr(request, "session", None)
    if session is not None and session.session_key:
        end = SessionEnd(hash_of_session(session.session_key), str(user.pk) if user is not None else None, certain=True)
        end_session_here(end)
        _end_everywhere(end, None)


_ENDS_SESSIONS: Final = "_seriatim_ends_sessions"
"""Attribute of a user's instance between its `pre_save` and `post_save`."""


def _on_user_saving(
    *, sender: Any, instance: Any, using: str = "", update_fields: Any = None, raw: bool = False, **_: object
) -> None:
    """Finds out whether this save ends the user's sessions. Most do not, and every worker would have to look."""
    if raw or instance._state.adding or _only_last_login(update_fields):
        return
    before = sender._base_manager.using(using or None).filter(pk=instance.pk).first()
    setattr(instance, _ENDS_SESSIONS, before is not None and _proof_of(before) != _proof_of(instance))


def _proof_of(user: Any) -> tuple[bool, str]:
    """What sessions of the user rest on, as Django's own backend checks it."""
    return bool(user.is_active), str(user.get_session_auth_hash())


def _only_last_login(update_fields: Any) -> bool:
    """Every login saves `last_login`; that ends nothing."""
    return bool(update_fields) and set(update_fields) <= {"last_login"}


def _on_user_saved(
    *,
    instance: Any,
    created: bool = False,
    update_fields: Any = None,
    using: str = "",
    raw: bool = False,
    **_: object,
) -> None:
    # Nobody knows what a row was that is written over by an instance that was not read.
    ends = instance.__dict__.pop(_ENDS_SESSIONS, not raw)
    if not created and not _only_last_login(update_fields):
        _on_user_changed(instance, using, ends)


def _on_user_deleted(*, instance: Any, using: str = "", **_: object) -> None:
    _on_user_changed(instance, using, True)


def _on_user_changed(instance: Any, using: str, ends_sessions: bool) -> None:
    end = SessionEnd(None, str(instance.pk), certain=False)
    if _session_listeners:
        # Here every change is looked at: a project's own backend may refuse a user for other reasons.
        after_commit(lambda: end_session_here(end), using=using or None)
    if ends_sessions:
        _end_everywhere(end, using or None)


def _on_api_key_changed(*, instance: ApiKey, using: str = "", **_: object) -> None:
    _forget_api_key(instance.key_id, using)


def _forget_api_key(key_id: str, using: str = "") -> None:
    _known_keys.pop(key_id, None)
    # Again on commit: another thread may have read the old row in between.
    transaction.on_commit(lambda: _known_keys.pop(key_id, None), using=using or None)


# Connected on import: who never imports this module has no cache to keep right.
user_logged_out.connect(_on_logged_out)
pre_save.connect(_on_user_saving, sender=django_settings.AUTH_USER_MODEL)
post_save.connect(_on_user_saved, sender=django_settings.AUTH_USER_MODEL)
post_delete.connect(_on_user_deleted, sender=django_settings.AUTH_USER_MODEL)
for _signal in (post_save, post_delete):
    _signal.connect(_on_api_key_changed, sender=ApiKey)


# ---------------------------------------------------------------- resetting


def reset_caches() -> None:
    """Forget parsed keys, verified tokens and API keys (changed settings, tests)."""
    global _keys, _refreshed_at
    _keys = None
    _refreshed_at = -math.inf
    for cache in (_verified, _known_keys, _used, _written):
        cache.clear()
    revocations.mirror.reset()
    signing.mirror.reset()
    providers.reset()
    limits.mirror.reset()


def _on_setting_changed(*, setting: str, **_: object) -> None:
    if setting == "REALTIME":
        reset_caches()


setting_changed.connect(_on_setting_changed)
