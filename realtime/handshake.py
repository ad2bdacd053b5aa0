"""What a WebSocket handshake must bring: host, origin, subprotocol; and which credentials it carries.

Pure but for Django's host rules. Refusals are HTTP statuses, because nothing was upgraded yet; a bad token is not one
of them: a browser cannot read a refused handshake, so that is said on the open socket. Specification:
docs/reference/protocol.md#connecting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.http.request import split_domain_port, validate_host

from realtime.conf import settings
from realtime.tokens import session_key_in

SUBPROTOCOL = "seriatim.v1.json"
BEARER_ENTRY = "seriatim.bearer."
"""Begins a subprotocol entry that carries a token: how a browser sends a header. Never echoed."""

LOCAL_HOSTS = (".localhost", "127.0.0.1", "[::1]")
"""What Django allows without ALLOWED_HOSTS while DEBUG is on."""

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer the handshake with this status and plain text."""

    status: int
    text: str
    retry_after_s: int | None = None
    """For the header Retry-After."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Upgrade. `token` came with the handshake; else `cookie` is the header of this site's own page; else `auth` is
    awaited."""

    subprotocol: str | None
    token: str | None
    cookie: str | None


def check(headers: Iterable[tuple[bytes, bytes]], subprotocols: Sequence[str]) -> Refused | Accepted:
    """Judges a handshake by its headers (names in lower case, as ASGI gives them)."""
    found = {name: value.decode("latin1") for name, value in headers}
    host = found.get(b"host", "")
    if not host_allowed(host):
        return Refused(403, f"The host {host[:100]!r} is not served here. Add it to ALLOWED_HOSTS.")
    origin = found.get(b"origin")
    if origin is not None and not origin_allowed(origin, host):
        return Refused(403, f"Pages of {origin[:200]!r} may not connect. Add the origin to REALTIME_ORIGINS.")
    named = [entry for entry in subprotocols if entry]
    subprotocol = None
    if named:
        if SUBPROTOCOL not in named:
            return Refused(400, f"None of the subprotocols offered is spoken here. Spoken: {SUBPROTOCOL}")
        subprotocol = SUBPROTOCOL
    token = _token(found.get(b"authorization"), named)
    cookie = None
    if token is None and session_key_in(found.get(b"cookie", "")):
        if origin is None:
            return Refused(403, "A session cookie needs an Origin. Send one, or a token instead of the cookie.")
        if is_own_origin(origin, host):
            cookie = found[b"cookie"]
    return Accepted(subprotocol, token, cookie)


def host_allowed(host: str) -> bool:
    """Whether a `Host` header names this site, by Django's rules."""
    domain, _ = split_domain_port(host)
    allowed = django_settings.ALLOWED_HOSTS or (LOCAL_HOSTS if django_settings.DEBUG else ())
    return bool(domain) and validate_host(domain, allowed)


def origin_allowed(origin: str, host: str) -> bool:
    """Whether pages of `origin` may connect: this site's own, or those of the list."""
    return origin in settings.ORIGINS or is_own_origin(origin, host)


def is_own_origin(origin: str, host: str) -> bool:
    """Whether `origin` is the site that `host` names. The scheme may be either: a proxy may have ended TLS."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
        return False
    if "@" in parts.netloc:
        return False
    domain, host_port = split_domain_port(host.lower())
    # Django takes a dot off the end of a host, with which a browser may have been pointed here.
    own = parts.hostname.removesuffix(".") if ":" not in parts.hostname else f"[{parts.hostname}]"
    standard = DEFAULT_PORTS[parts.scheme]
    return own == domain and (standard if port is None else port) == (int(host_port) if host_port else standard)


def _token(authorization: str | None, subprotocols: Sequence[str]) -> str | None:
    """The first token found: the header, else the subprotocol entry. A bad one is not passed over for a later one."""
    if authorization is not None:
        scheme, _, credential = authorization.partition(" ")
        return credential.strip() if scheme.lower() == "bearer" else ""
    for entry in subprotocols:
        if entry.startswith(BEARER_ENTRY):
            return entry.removeprefix(BEARER_ENTRY)
    return None
